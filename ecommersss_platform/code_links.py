"""Links from assets to their code: to the files on this machine, or to the repository's pages for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dagster import (
    AssetsDefinition,
    AssetSpec,
    CodeReferencesMetadataValue,
    LocalFileCodeReference,
    UrlCodeReference,
)
from dagster._utils.warnings import disable_dagster_warnings  # they say that code references are in beta

REPOSITORY = Path(__file__).resolve().parents[1]
CODE_REFERENCES = "dagster/code_references"
"""Dagster's metadata for the places of an asset's code."""


def code_references(*files: Path, line: int | None = None) -> dict[str, Any]:
    """Return the metadata that names these files, without those that do not exist; empty if none does.

    `line`: the line of the code in each of them.
    """
    with disable_dagster_warnings():
        places = [
            LocalFileCodeReference(file_path=str(file), line_number=line, label=file.name)
            for file in files
            if file.is_file()
        ]
    return _metadata(places) if places else {}


def with_code_links(
    assets: Iterable[AssetsDefinition | AssetSpec], base_url: str | None
) -> list[AssetsDefinition | AssetSpec]:
    """Return the assets with links to their code. One that names no files gets the function that makes it.

    `base_url`: the address of the repository's root in its web view; None: links to the files here.
    """
    return [
        _linked(asset, {}, base_url) if isinstance(asset, AssetSpec) else _with_links(asset, base_url)
        for asset in assets
    ]


def _with_links(assets: AssetsDefinition, base_url: str | None) -> AssetsDefinition:
    code = assets.op.compute_fn.decorated_fn.__code__  # type: ignore[union-attr]
    own = code_references(Path(code.co_filename), line=code.co_firstlineno)
    return assets.map_asset_specs(lambda spec: _linked(spec, own, base_url))


def _linked(spec: AssetSpec, own: dict[str, Any], base_url: str | None) -> AssetSpec:
    references = spec.metadata.get(CODE_REFERENCES) or own.get(CODE_REFERENCES)
    if not isinstance(references, CodeReferencesMetadataValue):
        return spec
    places = references.code_references
    if base_url is not None:
        places = [_in_repository(place, base_url) for place in places]
    return spec.merge_attributes(metadata=_metadata(places))


def _in_repository(
    place: LocalFileCodeReference | UrlCodeReference, base_url: str
) -> LocalFileCodeReference | UrlCodeReference:
    """Return the page of a file of this repository; another place unchanged."""
    if isinstance(place, UrlCodeReference) or not Path(place.file_path).is_relative_to(REPOSITORY):
        return place
    path = Path(place.file_path).relative_to(REPOSITORY).as_posix()
    line = f"#L{place.line_number}" if place.line_number else ""
    with disable_dagster_warnings():
        return UrlCodeReference(url=f"{base_url.rstrip('/')}/{path}{line}", label=place.label)


def _metadata(places: Sequence[LocalFileCodeReference | UrlCodeReference]) -> dict[str, Any]:
    with disable_dagster_warnings():
        return {CODE_REFERENCES: CodeReferencesMetadataValue(code_references=list(places))}
