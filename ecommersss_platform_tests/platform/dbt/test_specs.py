"""The specs of dbt's models and tests, beside those that dagster-dbt makes of the same manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from dagster import AssetKey, AssetsDefinition, DailyPartitionsDefinition, MetadataValue

from ecommersss_platform.code_links import CODE_REFERENCES
from ecommersss_platform.dbt.project import MANIFEST
from ecommersss_platform.dbt.specs import DOCS, asset_key, model_specs
from ecommersss_platform.dbt.specs import test_specs as check_specs
from ecommersss_platform.dbt.staged import read_manifest

DAYS = DailyPartitionsDefinition("2026-01-01")


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return read_manifest(MANIFEST)


@pytest.fixture(scope="module")
def upstream(manifest: dict[str, Any]) -> AssetsDefinition:
    from dagster_dbt import DagsterDbtTranslator, dbt_assets

    class Translator(DagsterDbtTranslator):
        """Names assets as the platform does: [dataset, table]."""

        def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> AssetKey:
            return asset_key(dbt_resource_props)

    @dbt_assets(manifest=manifest, dagster_dbt_translator=Translator())
    def upstream(context): ...

    return upstream


def test_models_are_the_assets_of_dagster_dbt(manifest: dict[str, Any], upstream: AssetsDefinition) -> None:
    specs = {spec.key: spec for spec in model_specs(manifest, DAYS)}
    theirs = upstream.specs_by_key
    assert specs.keys() == theirs.keys()
    for key, spec in specs.items():
        other = theirs[key]
        for name in ("description", "group_name", "owners", "kinds", "code_version", "skippable"):
            assert getattr(spec, name) == getattr(other, name), (key, name)
        assert {dep.asset_key for dep in spec.deps} == {dep.asset_key for dep in other.deps}, key
        for name in spec.metadata.keys() - {CODE_REFERENCES}:
            value = spec.metadata[name]
            assert other.metadata[name] == getattr(value, "schema", value), (key, name)


def test_models_link_to_their_sql_and_published_ones_to_what_they_publish_first(
    manifest: dict[str, Any],
) -> None:
    for spec in model_specs(manifest, DAYS):
        files = [place.label for place in spec.metadata[CODE_REFERENCES].code_references]
        staged = [f"{spec.key.path[-1]}_staged.sql"] if spec.partitions_def else []
        assert files == [*staged, f"{spec.key.path[-1]}.sql"]


def test_models_name_their_page_of_the_documentation_if_it_is_built(manifest: dict[str, Any]) -> None:
    for spec in model_specs(manifest, DAYS, docs="/files/dbt/page.html"):
        page = f"/files/dbt/page.html#!/model/model.ecommersss.{spec.key.path[-1]}"
        assert spec.metadata[DOCS] == MetadataValue.url(page)
    assert [spec.key for spec in model_specs(manifest, DAYS) if DOCS in spec.metadata] == []


def test_tests_are_the_checks_of_dagster_dbt(manifest: dict[str, Any], upstream: AssetsDefinition) -> None:
    specs = {spec.key: spec for spec in check_specs(manifest)}
    theirs = {spec.key: spec for spec in upstream.check_specs}
    assert specs.keys() == theirs.keys()
    for key, spec in specs.items():
        other = theirs[key]
        assert spec.blocking == other.blocking, key
        theirs_too = {dep.asset_key for dep in other.additional_deps}
        assert {dep.asset_key for dep in spec.additional_deps} == theirs_too, key
