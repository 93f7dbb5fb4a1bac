"""What people see of the brake: `rules overrides`, `rules list`, `rules books list` and `status`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ecommersss_platform.cli import app as cli
from ecommersss_platform.cli.status import print_status
from ecommersss_platform.settings import Settings
from ecommersss_platform.status import _operational, gather
from ecommersss_platform_tests.support.shop import open_shop, order
from streaming.consumer import Consumer
from streaming.errors import PlatformError
from streaming.orders import encode
from streaming.rules import RuleFile
from streaming.topics.jsonl import JsonlTopic

pytestmark = pytest.mark.integration

BOOK = """\
rules:
  - {name: all, description: d, mode: active, expected_share: [0, 0.1], when: quantity > 0}
  - {name: rare, description: d, mode: review, expected_share: [0, 0.1], when: quantity > 5}
  - {name: plain, description: d, mode: active, when: quantity > 7}
"""


class Platform:
    """A home with a rule book whose rule `all` was pulled after 200 orders."""

    def __init__(self, url: str, home: Path) -> None:
        self.rules = home / "rules.yml"
        self.rules.write_text(BOOK)
        topic, flagged = JsonlTopic(home / "orders"), JsonlTopic(home / "flagged")
        topic.publish([encode(order(n, quantity=6 if n <= 4 else 1)) for n in range(1, 301)])
        Consumer(url, topic, flagged, RuleFile(self.rules)).run(once=True)

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(cli.app, list(arguments))

    def json(self, *arguments: str) -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(self.run(*arguments, "--format", "json").output)
        return found


@pytest.fixture
def platform(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Platform:
    open_shop(database)
    platform = Platform(database, tmp_path)
    monkeypatch.setenv("ECOMMERSSS_DATABASE_URL", database)
    monkeypatch.setenv("ECOMMERSSS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ECOMMERSSS_RULES", str(platform.rules))
    return platform


def test_rules_list_shows_the_modes_that_decide_and_the_probations(platform: Platform) -> None:
    columns = ("name", "mode", "mode_in_file", "probation_orders", "probation_held")
    assert [tuple(row[name] for name in columns) for row in platform.json("rules", "list")] == [
        ("all", "shadow", "active", None, None),
        ("rare", "review", "review", 300, 4),
        ("plain", "active", "active", None, None),
    ]
    alone = platform.json("rules", "list", "--book", str(platform.rules))
    assert [(row["mode"], "mode_in_file" in row) for row in alone] == [
        ("active", False),
        ("review", False),
        ("active", False),
    ]


def test_the_current_book_is_the_one_with_the_overrides(platform: Platform) -> None:
    books = platform.json("rules", "books", "list")
    assert [(book["active"], book["shadow"], book["orders"], book["current"]) for book in books] == [
        (2, 0, 200, False),
        (1, 1, 100, True),
    ]
    shown = platform.run("rules", "books", "show", str(books[1]["version"])).output
    assert shown.startswith("# rule all is in shadow instead of active since")
    explained = platform.run("rules", "explain", "250", "--format", "json").output
    found = json.loads(explained)
    assert (found["status"], found["shadow_reasons"], found["agrees"]) == ("genuine", ["all"], True)


def test_a_promotion_and_another_sample_are_changes_of_a_book(platform: Platform) -> None:
    kept = str(platform.json("rules", "books", "list")[0]["version"])
    by = "expected_share: [0, 0.25], promoted_by: Sari"
    platform.rules.write_text(
        BOOK.replace("expected_share: [0, 0.1]", by, 1).replace("rules", "sample: 0.01\nrules")
    )
    shown = platform.run("rules", "books", "diff", kept).output
    assert shown.endswith(
        "changed all\n    expected_share\n      - 0.0 to 0.1\n      + 0.0 to 0.25\n"
        "    promoted_by\n      - (none)\n      + Sari\n"
        "changed sample\n      - 0\n      + 0.01\n"
    )
    found = json.loads(platform.run("rules", "books", "diff", kept, "--format", "json").output)
    assert found["sample"] == {"before": 0, "after": 0.01}
    assert found["changes"][0]["after"]["expected_share"] == [0.0, 0.25]


def test_overrides_are_listed_and_lifted(platform: Platform) -> None:
    [row] = platform.json("rules", "overrides", "list")
    assert {name: value for name, value in row.items() if name != "pulled_at"} == {
        "rule": "all",
        "mode": "active",
        "held": 200,
        "orders": 200,
        "expected_at_most": 0.1,
        "effect": "in shadow",
    }
    for mode, effect in (
        ("name: renamed", "none: the rule book has no such rule"),
        ("name: all", "in shadow"),
    ):
        platform.rules.write_text(BOOK.replace("name: all", mode))
        assert platform.json("rules", "overrides", "list")[0]["effect"] == effect
    platform.rules.write_text(BOOK.replace("mode: active", "mode: 'off'", 1))
    assert (
        platform.json("rules", "overrides", "list")[0]["effect"] == "none: the rule book has it in mode off"
    )
    platform.rules.write_text("rules: [")
    assert "unknown: the rule book" in platform.run("rules", "overrides", "list").output

    refused = platform.run("rules", "overrides", "lift", "all", "--reason", " ")
    assert isinstance(refused.exception, PlatformError)
    lifted = platform.run("rules", "overrides", "lift", "all", "--reason", "a sale", "--by", "Sari")
    assert lifted.output == "the rule all is in the mode of the rule book again; its probation begins again\n"
    assert platform.run("rules", "overrides", "list").output == "The brake holds no rule back.\n"
    assert platform.json("rules", "overrides", "list") == []
    [row] = platform.json("rules", "overrides", "list", "--all")
    assert (row["effect"], row["by"], row["because"]) == ("lifted", "Sari", "a sale")


def test_status_shows_the_rules_that_are_held_back(
    platform: Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings()
    assert [row["rule"] for row in _operational(settings)["overrides"]] == ["all"]
    report = gather(settings, patience=20)
    print_status(report)
    shown = capsys.readouterr().out
    assert "rules that the brake holds back (`ecommersss rules overrides list`)" in shown
