"""A platform's home, and `ecommersss` commands on it from another folder."""

from __future__ import annotations

import gc
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ecommersss_platform.cli.app import main
from ecommersss_platform.settings import Settings


class Output(NamedTuple):
    stdout: str
    stderr: str


class Home:
    """A platform's home, and commands run on it from the folder that holds it.

    `call` is the rule: a process of its own takes seconds to start, and is for what only it can show.
    """

    def __init__(self, path: Path, **variables: str) -> None:
        self.files = path.parent
        self.settings = Settings(home=path)
        self.variables = {"ECOMMERSSS_HOME": str(path), **variables}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command as a process."""
        others = {name: value for name, value in os.environ.items() if not name.startswith("ECOMMERSSS_")}
        return subprocess.Popen(
            [sys.executable, "-m", "ecommersss_platform.cli", *arguments],
            env={**others, **self.variables},
            cwd=self.files,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> str:
        """Run a command as a process, and return its output."""
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=400)
        assert process.returncode == 0, f"{arguments}: {output}\n{errors}"
        return output

    def call(self, *arguments: str, exit_code: int = 0) -> Output:
        """Run a command in this process. An unexpected error fails the test."""
        with (
            _process_kept(),
            pytest.MonkeyPatch.context() as patch,
            redirect_stdout(io.StringIO()) as output,
            # A file of the system: the consumer's watchdog tells faulthandler to write there.
            tempfile.TemporaryFile("w+") as file,
            redirect_stderr(file),
        ):
            for name in [name for name in os.environ if name.startswith("ECOMMERSSS_")]:
                patch.delenv(name)
            for name, value in self.variables.items():
                patch.setenv(name, value)
            patch.chdir(self.files)
            with pytest.raises(SystemExit) as end:
                main(list(arguments))
            file.seek(0)
            errors = file.read()
        assert (end.value.code or 0) == exit_code, f"{arguments}: {output.getvalue()}\n{errors}"
        return Output(output.getvalue(), errors)

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        """Return what a command prints as JSON lines."""
        return [json.loads(line) for line in self.call(*arguments, "--format", "jsonl").stdout.splitlines()]

    def file(self, name: str, *lines: str) -> str:
        """Write a file into the folder of the commands, and return its name."""
        (self.files / name).write_text("".join(f"{line}\n" for line in lines))
        return name


@contextmanager
def _process_kept() -> Iterator[None]:
    """Keep what a command sets for its whole process: where logs go, and how the interpreter is tuned."""
    root, handlers, level = logging.root, logging.root.handlers, logging.root.level
    hook, interval, thresholds = sys.excepthook, sys.getswitchinterval(), gc.get_threshold()
    root.handlers = []  # or logging would close those of pytest
    try:
        yield
    finally:
        root.handlers, root.level = handlers, level
        sys.excepthook = hook
        sys.setswitchinterval(interval)
        gc.set_threshold(*thresholds)
