"""Links from assets to their code."""

from __future__ import annotations

import warnings
from pathlib import Path

from dagster import AssetsDefinition, AssetSpec, asset

from ecommersss_platform.code_links import CODE_REFERENCES, REPOSITORY, code_references, with_code_links

HERE = Path(__file__)
BASE = "https://git.example.com/shop/blob/main/"


@asset
def made_here() -> None: ...


def places(assets: list[AssetsDefinition | AssetSpec]) -> list[str]:
    [one] = assets
    [spec] = one.specs if isinstance(one, AssetsDefinition) else [one]
    return [place.source for place in spec.metadata[CODE_REFERENCES].code_references]


def test_only_files_that_exist_are_named_and_nothing_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = code_references(HERE, HERE.with_name("no such file.py"))
        spec = AssetSpec("table", metadata=found)
        assert places(with_code_links([spec], None)) == [str(HERE)]
    assert code_references(HERE.with_name("no such file.py")) == {}


def test_an_asset_that_names_no_files_gets_the_function_that_makes_it() -> None:
    [place] = places(with_code_links([made_here], None))
    line = next(n for n, text in enumerate(HERE.read_text().splitlines(), 1) if text == "@asset")
    assert place == f"{HERE}:{line}"


def test_links_lead_to_the_repository_if_its_address_is_known() -> None:
    path = HERE.relative_to(REPOSITORY).as_posix()
    spec = AssetSpec("table", metadata=code_references(HERE))
    assert places(with_code_links([spec], BASE)) == [f"{BASE}{path}"]
    assert places(with_code_links([made_here], BASE.rstrip("/")))[0].startswith(f"{BASE}{path}#L")


def test_a_file_outside_the_repository_has_no_page_there(tmp_path: Path) -> None:
    generated = tmp_path / "generated.sql"
    generated.write_text("SELECT 1")
    spec = AssetSpec("table", metadata=code_references(generated))
    assert places(with_code_links([spec], BASE)) == [str(generated)]
