"""The figures of the benchmark `seconds`: how they are derived and shown."""

from __future__ import annotations

from typing import Any

from benchmarks import before, daily_run, features, seconds
from benchmarks.stack import Run
from benchmarks.stream import Sample
from benchmarks.summary import ROWS


def run(requested: float, launch: float, raw: float, dbt: float, rest: float) -> Run:
    started = requested + launch
    steps = {"raw__orders": (started, started + raw), "dbt_models": (started + raw, started + raw + dbt)}
    return Run("an id", requested, started, started + raw + dbt + rest, steps)


def test_the_stretches_of_a_run_add_up_to_its_time() -> None:
    quick, usual, slow = run(100, 2, 1, 3, 0.5), run(200, 3, 1, 4, 0.5), run(300, 9, 2, 5, 1)
    assert usual.seconds == 8.5
    parts = seconds.split([slow, usual, quick])
    assert list(parts.values()) == [3, 1, 4, 0.5]
    assert sum(seconds.split([usual]).values()) == usual.seconds


def test_ratios_compare_medians() -> None:
    ratios = seconds.ratios(
        {
            seconds.PLATFORM: [4, 5, 60],
            seconds.STOCK: [15, 14, 16],
            seconds.STOCK_IN_PROCESS: [10, 10, 10],
            seconds.BARE: [5, 1, 9],
            seconds.FLOOR: [2, 2, 2],
        }
    )
    assert list(ratios.values()) == [3.0, 2.0, 1.0, 2.5]


def test_growth_counts_what_a_run_adds() -> None:
    before = {"event_logs": (100, 50_000), "daemon_heartbeats": (5, 8_000)}
    after = {"event_logs": (700, 650_000), "daemon_heartbeats": (5, 8_000)}
    assert seconds.growth(before, after, runs=2) == {
        "event_logs (rows)": 300.0,
        "all tables, with indexes (kB)": 300,
    }


def test_figures_are_shown_as_tables_a_plot_and_lines_of_the_readme() -> None:
    size = seconds.Size(2_000, loaded=7, rounds=2, at_once=7, at_once_rounds=1, month=30, idle_seconds=600)
    others: dict[str, list[float]] = {way: [12.0, 18.0] for way in seconds.WAYS[1:]}
    several = seconds.Several(run(0, 3, 2, 6, 1), [run(0, 3, 1, 4.5, 0.5)], run(0, 3, 2, 9, 1))
    added = seconds.growth({"event_logs": (0, 0)}, {"event_logs": (600, 2_000_000)}, runs=2)
    ours = [run(0, 3, 1, 3.5, 0.5), run(0, 2, 1, 3.5, 0.5)]
    found: dict[str, Any] = seconds.results(size, ours, others, several, added)
    found["idle"] = {
        "minutes": 10.0,
        "runs that ended": 2,
        "CPU (% of one core)": 14.5,
        "CPU by part (% of one core)": {"daemon": 9.5, "webserver": 5.0},
    }
    shown = seconds.files({"when": "2026-01-01", "machine": "here", "python": "3", "results": found})
    assert "| platform | 7.5 | 7.0 | 8.0 | 2 |" in shown["seconds.md"]
    assert "| stock dagster-dbt's time / the platform's | 2.0 |" in shown["seconds.md"]
    assert "| a run a day for 30 days / one run | 15.0 |" in shown["seconds.md"]
    assert "| of this: daemon | 9.5 |" in shown["seconds.md"]
    assert shown["seconds.svg"].count("<rect") == 1 + 5 + 4 + 2
    lines = ROWS["seconds"](found)
    assert lines[0][1] == "7.5 s"
    assert lines[0][2].startswith("2.0 times as fast as stock dagster-dbt, 0.5 times the time of")
    assert lines[2] == ("7 days in one run", "9.0 s", "1.2 times one day")
    assert lines[4][1:] == ("300 events", "1000 kB in all tables")


def test_the_consumer_is_compared_with_its_earlier_state_within_rounds() -> None:
    def drained(seconds: float, cpu: float) -> Sample:
        return Sample(seconds, 1_000, cpu, 50.0, {})

    calm = {"now": drained(2, 1), "before": drained(1, 1)}
    busy = {"now": drained(20, 1.1), "before": drained(20, 1)}
    quick = {"now": drained(0.8, 0.9), "before": drained(1, 1)}
    found = before.compared([calm, busy, quick])
    assert found["orders/s"] == {
        "now": 500.0,
        "before": 1000.0,
        "now / before": 1.0,
        "least and most": [0.5, 1.25],
    }
    assert found["CPU per order (microseconds)"]["now / before"] == 1.0
    [(what, figure, beside)] = ROWS["before"](found | {"earlier state": "abc"})
    assert "commit abc" in what
    assert figure == "1.0 (0.5 to 1.25 in 3 rounds)"
    assert beside == "processor time per order: 1.0"


def test_days_of_features_are_compared_within_rounds() -> None:
    day, tenth, hot, shuffled = features.shapes(1_000_000, 40_000)
    built = {
        day: [features.Built(seconds, 12.0, 300.0 + seconds) for seconds in (10, 20, 30)],
        tenth: [features.Built(seconds, 2.0, 200.0) for seconds in (1, 4, 3)],
        hot: [features.Built(seconds, 13.0, 300.0) for seconds in (11, 20, 36)],
        shuffled: [features.Built(seconds, 15.0, 400.0) for seconds in (20, 30, 30)],
    }
    found = features.results(built)
    assert list(found["ratios"].values()) == [10.0, 1.1, 1.5]
    assert list(found["ratios, least and most"].values()) == [[5.0, 10.0], [1.0, 1.2], [1.0, 2.0]]
    shown = features.files({"when": "2026-01-01", "machine": "here", "python": "3", "results": found})
    assert "| 1,000,000 orders | 20 | 10 | 30 | 12.0 | 330 | 3 |" in shown["features.md"]
    assert "| 1,000,000 orders / 100,000 orders | 10.0 | 5.0 | 10.0 |" in shown["features.md"]
    [(what, figure, _)] = ROWS["features"](found)
    assert "1,000,000" in what
    assert figure == "20 s (10 to 30 s), 330 MB"


def test_the_parts_of_a_run_are_shares_of_the_same_run() -> None:
    def measured(
        seconds: float, features: float, parity: float, report: float, again: float
    ) -> dict[str, float]:
        steps = {"parity": (10.0, 10.0 + parity), "reports__fraud_report": (20.0, 20.0 + report)}
        built = [
            {"unique_id": "model.ecommersss.order_features", "execution_time": 1.0},
            {"unique_id": "model.ecommersss.order_features_staged", "execution_time": features - 1.0},
            {"unique_id": "model.ecommersss.fact_orders", "execution_time": 9.0},
        ]
        found = daily_run.parts(Run("an id", 0.0, 5.0, 5.0 + seconds, steps), built)
        return {**found, daily_run.AGAIN: again}

    runs = [measured(20, 2, 1, 2, 0.5), measured(100, 40, 2, 3, 1), measured(10, 3, 0.4, 1, 0.1)]
    found = daily_run.row(10_000, runs)
    assert (found["run (s)"], list(found["parts (s)"].values())) == (20, [3, 1, 2, 0.5])
    assert list(found["shares (%)"].values()) == [30, 4, 10, 1]
    report = {"when": "2026-01-01", "machine": "here", "python": "3"}
    shown = daily_run.files({**report, "results": {"load average before": 0.1, "runs": [found]}})
    line = "| 10,000 orders | 20.0 | 3.0 | 30.0 | 1.0 | 4.0 | 2.0 | 10.0 | 0.5 | 1.0 | 3 |"
    assert line in shown["daily_run.md"]
    [(what, figure, _)] = ROWS["daily_run"]({"runs": [found]})
    assert "10,000 orders" in what
    assert figure == "features 30.0 %, parity 4.0 %, report 10.0 %, parity again, in the report 1.0 %"
