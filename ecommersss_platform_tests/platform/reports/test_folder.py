"""The files of the reports: whole, private, listed in the index, and removed when they are old."""

from __future__ import annotations

import stat
from datetime import date
from pathlib import Path

import pytest

from ecommersss_platform.reports.folder import remove_old_pages, write_index, write_page
from ecommersss_platform.reports.page import day_page
from ecommersss_platform.reports.serving import page_name, pages
from ecommersss_platform_tests.support.report_rows import DAY_OF_REPORT, report_figures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "reports"


def test_pages_are_for_their_owner_only(folder: Path) -> None:
    page = write_page(folder, page_name(DAY_OF_REPORT), "text")
    index = write_index(folder)
    assert page.read_text() == "text"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(it.stat().st_mode) for it in (page, index)} == {0o600}


def test_a_page_that_cannot_be_written_leaves_the_old_one(folder: Path) -> None:
    page = write_page(folder, page_name(DAY_OF_REPORT), "old")
    with pytest.raises(UnicodeEncodeError):
        write_page(folder, page.name, "new \ud800")
    assert page.read_text() == "old"
    assert [it.name for it in folder.iterdir()] == [page.name]


def test_index_lists_the_newest_page_first_and_skips_what_is_none(folder: Path) -> None:
    for day in (date(2026, 11, 25), date(2026, 11, 24)):
        write_page(folder, page_name(day), day_page(report_figures()).replace("2026-11-25", day.isoformat()))
    write_page(folder, "2026-11-23.html", "cut off")
    write_page(folder, "notes.html", "no page")
    text = write_index(folder).read_text()
    assert text.index('href="2026-11-25.html"') < text.index('href="2026-11-24.html"')
    assert "2026-11-23" not in text
    assert "notes" not in text
    assert [day.day for day in pages(folder)] == [23, 24, 25]


def test_old_pages_are_removed_from_folder_and_index(folder: Path) -> None:
    for day in (date(2026, 11, 25), date(2025, 1, 1)):
        write_page(folder, page_name(day), day_page(report_figures()).replace("2026-11-25", day.isoformat()))
    write_index(folder)
    assert remove_old_pages(folder, date(2026, 1, 1)) == 1
    assert list(pages(folder)) == [date(2026, 11, 25)]
    assert "2025-01-01" not in (folder / "index.html").read_text()
    assert remove_old_pages(folder, date(2026, 1, 1)) == 0


def test_a_folder_that_is_not_there_has_no_pages(folder: Path) -> None:
    assert pages(folder) == {}
    assert remove_old_pages(folder, date(2026, 1, 1)) == 0
    assert not folder.exists()
