"""Who waits for signals gives them back: the same process may do something else afterwards."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ecommersss_platform.alerts import monitor
from ecommersss_platform.cli.app import app
from ecommersss_platform.signals import on_signals


def test_a_signal_in_the_block_calls_the_action_and_afterwards_what_it_did_before() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    called: list[bool] = []
    with on_signals(lambda: called.append(True)):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert called == [True, True]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_the_monitor_gives_the_signals_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECOMMERSSS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(monitor, "run", lambda settings, stop: os.kill(os.getpid(), signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    assert CliRunner().invoke(app, ["alerts", "run"]).exit_code == 0
    assert signal.getsignal(signal.SIGINT) == before
