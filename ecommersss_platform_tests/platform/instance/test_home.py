"""The first day of a home is recorded once, and a home is for its owner only."""

from __future__ import annotations

import os
import shutil
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from pydantic import SecretStr

from ecommersss_platform.cli.app import main
from ecommersss_platform.days import Days
from ecommersss_platform.instance.home import keep_private, pseudonym_key, record_first_day
from ecommersss_platform.local.accounts import Account
from ecommersss_platform.local.stack import prepare_home
from ecommersss_platform.materialize import materialize
from ecommersss_platform.settings import Settings
from streaming.business_days import business_day
from streaming.errors import PlatformError

DAY, EARLIER = date(2025, 3, 2), date(2025, 3, 1)


def test_first_day_of_a_home_is_recorded_once(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "new" / "home")
    assert record_first_day(settings, DAY) == DAY
    assert record_first_day(settings, EARLIER) == record_first_day(settings) == DAY
    assert settings.first_partition_day() == DAY
    assert [path.name for path in settings.home.iterdir()] == ["first_day"]


def test_new_home_begins_a_week_ago(tmp_path: Path) -> None:
    today = business_day(datetime.now().astimezone())
    assert record_first_day(Settings(home=tmp_path)) in (today - timedelta(days=7), today - timedelta(days=6))


def test_first_day_in_the_settings_wins_and_is_not_recorded(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, first_day=EARLIER)
    assert record_first_day(settings, DAY) == EARLIER
    assert list(tmp_path.iterdir()) == []


def test_key_of_pseudonyms_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", _env_file=None)
    key = pseudonym_key(settings)
    assert pseudonym_key(settings) == key
    assert len(key) >= 32
    assert [(path.name, mode(path)) for path in settings.home.iterdir()] == [("pseudonym_key", 0o600)]
    assert pseudonym_key(settings.model_copy(update={"pseudonym_key": SecretStr("k" * 32)})) == "k" * 32


def test_a_damaged_key_of_pseudonyms_is_not_replaced(tmp_path: Path) -> None:
    """With another key, the hashes of new days would match no old ones."""
    settings = Settings(home=tmp_path, _env_file=None)
    settings.pseudonym_key_path.write_text("SHORT\n")
    with pytest.raises(PlatformError, match="pseudonym_key holds no key of 32 or more characters") as said:
        pseudonym_key(settings)
    assert "SHORT" not in str(said.value)
    assert settings.pseudonym_key_path.read_text() == "SHORT\n"


def test_bigquery_needs_a_key_of_pseudonyms_and_the_home_makes_none(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, warehouse="bigquery", bigquery_project="shop", _env_file=None)
    with pytest.raises(PlatformError, match="ECOMMERSSS_PSEUDONYM_KEY is needed when ECOMMERSSS_WAREHOUSE"):
        pseudonym_key(settings)
    assert list(tmp_path.iterdir()) == []
    assert pseudonym_key(settings.model_copy(update={"pseudonym_key": SecretStr("k" * 32)})) == "k" * 32


def test_commands_on_bigquery_say_that_the_key_is_missing_before_they_begin(tmp_path: Path) -> None:
    today = business_day(datetime.now().astimezone())
    settings = Settings(
        home=tmp_path / "home", warehouse="bigquery", bigquery_project="p", first_day=today, _env_file=None
    )
    for command in (
        partial(materialize, settings, Days(today, today + timedelta(1))),
        partial(prepare_home, settings),
    ):
        with pytest.raises(PlatformError, match="ECOMMERSSS_PSEUDONYM_KEY is needed"):
            command()
    assert not settings.home.exists()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def made(path: Path, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("siti@example.com")
    path.chmod(mode)
    return path


@pytest.fixture
def old(tmp_path: Path) -> Settings:
    """The settings of a home as an earlier version made it."""
    settings = Settings(home=tmp_path / "home", first_day=DAY)
    (settings.orders_topic_dir / "deep").mkdir(parents=True)
    settings.logs_dir.mkdir()
    settings.home.chmod(0o755)
    return settings


def test_a_home_of_an_earlier_version_is_closed_to_other_accounts(old: Settings) -> None:
    private = [
        made(old.orders_topic_dir / "deep" / "0"),
        made(old.logs_dir / "consumer.log", 0o664),
        made(old.ground_truth_path),
        made(old.warehouse_path),
        made(old.home / "warehouse.duckdb.wal"),
    ]
    keep_private(old)
    assert {mode(path) for path in private} == {0o600}
    directories = (old.home, old.orders_topic_dir, old.orders_topic_dir / "deep", old.logs_dir)
    assert {mode(directory) for directory in directories} == {0o700}


def test_only_what_the_platform_made_is_closed(old: Settings, tmp_path: Path) -> None:
    others = [made(tmp_path / "outside"), made(tmp_path / "linked"), made(old.home / "my-notes.txt")]
    (old.logs_dir / "symbolic").symlink_to(tmp_path / "outside")
    (old.logs_dir / "hard").hardlink_to(tmp_path / "linked")
    (old.home / "ground_truth.jsonl").symlink_to(tmp_path / "outside")
    if os.geteuid() == 0:
        others.append(made(old.logs_dir / "foreign"))
        os.chown(others[-1], 65_534, 65_534)
    keep_private(old)
    assert {mode(path) for path in others} == {0o644}
    assert mode(old.home) == 0o700


def test_a_directory_that_is_no_home_is_left_alone(tmp_path: Path) -> None:
    made(tmp_path / "place" / "my-notes.txt")
    (tmp_path / "place").chmod(0o755)
    keep_private(Settings(home=tmp_path / "place"))
    assert mode(tmp_path / "place") == 0o755


def test_what_a_command_makes_is_for_its_owner_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ECOMMERSSS_HOME", str(tmp_path / "above" / "home"))
    lines = made(tmp_path / "lines.jsonl")
    before = os.umask(0o022)
    try:
        with pytest.raises(SystemExit, match="0"):
            main(["produce", "--raw", "--file", str(lines)])
        assert os.umask(0o022) == 0o022, "the umask of whoever calls it is as before"
    finally:
        os.umask(before)
    assert "published 1 lines" in capsys.readouterr().out
    home = tmp_path / "above" / "home"
    found = {path.relative_to(home): mode(path) for path in (home, *home.rglob("*"))}
    assert len(found) >= 4
    assert found == {path: 0o700 if (home / path).is_dir() else 0o600 for path in found}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_reads_nothing_and_plants_nothing_in_a_home(open_directory: Path, old: Settings) -> None:
    home = Path(shutil.move(old.home, open_directory / "earlier-home"))
    settings = Settings(home=home, first_day=DAY)
    log = made(settings.logs_dir / "consumer.log")
    nobody = Account(65_534, 65_534)
    attempts: list[list[str | Path]] = [
        ["ls", home],
        ["cat", log],
        ["ln", "-s", "/etc/passwd", home / "up.json"],
        ["ln", "-s", "/etc/passwd", settings.logs_dir / "dbt.log"],
    ]
    home.chmod(0o777)
    settings.logs_dir.chmod(0o777)
    assert nobody.succeeds(attempts.pop(0)), "the earlier home was open"
    keep_private(settings)
    assert not any(nobody.succeeds(attempt) for attempt in [["ls", home], *attempts])
