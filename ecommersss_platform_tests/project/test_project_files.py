"""The files around the code: settings, requirements, scripts, licence; and what must be in no file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from ecommersss_platform.dbt import dictionary
from ecommersss_platform.dbt.project import ensure_manifest
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.support.project import PROJECT, make_targets, tracked_files

TESTS = PROJECT / "ecommersss_platform_tests"
TOML = tomllib.loads((PROJECT / "pyproject.toml").read_text())
PYPROJECT = TOML["project"]
OPTIONS = TOML["tool"]["pytest"]["ini_options"]

# ---- settings ----


def _variable(field: str) -> str:
    return f"ECOMMERSSS_{field.upper()}"


def test_env_example_lists_every_setting_with_its_meaning_and_default() -> None:
    text = (PROJECT / ".env.example").read_text()
    platform, _, compose = text.partition("# ---- docker compose")
    expected = [
        f"# {field.description}\n# {_variable(name)}={'' if field.default is None else field.default}\n"
        for name, field in Settings.model_fields.items()
    ]
    missing = [lines for lines in expected if lines not in platform]
    assert not missing, "add to .env.example:\n\n" + "\n".join(missing)
    named = re.findall(r"^#? ?(ECOMMERSSS_\w+)=", platform, re.MULTILINE)
    assert named == [_variable(name) for name in Settings.model_fields], "in the order of Settings"
    assert "POSTGRES_PASSWORD=\n" in compose, "and no password in it"


def test_env_example_copied_as_it_is_changes_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ECOMMERSSS_")]:
        monkeypatch.delenv(name)
    assert Settings(_env_file=PROJECT / ".env.example") == Settings(_env_file=None)  # type: ignore[call-arg]


# ---- the dbt project ----


def test_page_of_analytics_has_every_definition_and_table() -> None:
    manifest = json.loads(ensure_manifest().read_bytes())
    text = dictionary.PAGE.read_text()
    made = dictionary.page(text, manifest)
    assert made == text, "run `python -m ecommersss_platform.dbt.dictionary`"
    described = [m for m in manifest["macros"].values() if m["original_file_path"] == dictionary.DEFINITIONS]
    assert described
    assert [macro["name"] for macro in described if not macro["description"].strip().endswith(".")] == []
    variables = yaml.safe_load((PROJECT / "dbt_project" / "dbt_project.yml").read_text())["vars"]
    for macro in described:
        for name, value in re.findall(r"`(\w+)` \((\w+)\)", macro["description"]):
            assert str(variables[name]) == value, macro["name"]


# ---- requirements ----

Pins = dict[str, tuple[Version, Marker | None, int]]


def _pins(name: str) -> Pins:
    """Pinned packages of a requirements file: version, marker, number of hashes."""
    text = (PROJECT / "requirements" / name).read_text().replace("\\\n", " ")
    pins: Pins = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        requirement_text, *hashes = line.split("--hash=")
        requirement = Requirement(requirement_text.strip())
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", value) for value in hashes), line
        pins[canonicalize_name(requirement.name)] = (
            Version(specifier.version),
            requirement.marker,
            len(hashes),
        )
    return pins


@pytest.mark.parametrize("name", ["base.txt", "dev.txt"])
def test_every_pinned_requirement_has_a_hash(name: str) -> None:
    pins = _pins(name)
    assert len(pins) > 50
    assert [package for package, (_, _, hashes) in pins.items() if hashes == 0] == []


def test_set_up_installs_the_pinned_versions_and_looks_for_no_others() -> None:
    """Releases to come must change nothing. Where a package is pinned with an extra and wanted without it,
    older pips would otherwise take the newest, and refuse it because it has no hash."""
    for name in ("base.txt", "dev.txt"):
        requirements = (PROJECT / "requirements" / name).read_text()
        assert re.findall(r"^[\w.-]+\[", requirements, re.MULTILINE) == []
    install = next(
        line for line in (PROJECT / "Makefile").read_text().splitlines() if "-r requirements" in line
    )
    assert "--require-hashes --no-deps" in install


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("base.txt", PYPROJECT["dependencies"]),
        ("dev.txt", [*PYPROJECT["dependencies"], *PYPROJECT["optional-dependencies"]["dev"]]),
    ],
)
def test_pinned_requirements_satisfy_pyproject(file: str, wanted: list[str]) -> None:
    pins = _pins(file)
    for requirement in map(Requirement, wanted):
        version, _, _ = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), (
            f"requirements/{file} has {requirement.name} {version},"
            f" pyproject.toml wants {requirement.specifier}: run make lock"
        )


def test_development_uses_the_versions_that_the_image_gets() -> None:
    base, dev = _pins("base.txt"), _pins("dev.txt")
    assert {name: dev[name][0] for name in base} == {name: version for name, (version, _, _) in base.items()}


def test_this_environment_has_the_pinned_versions() -> None:
    from importlib.metadata import PackageNotFoundError, version

    def installed(name: str) -> Version | None:
        try:
            return Version(version(name))
        except PackageNotFoundError:
            return None

    wanted = {
        name: pin for name, (pin, marker, _) in _pins("dev.txt").items() if not marker or marker.evaluate()
    }
    other = {name: (str(installed(name)), str(pin)) for name, pin in wanted.items() if installed(name) != pin}
    assert other == {}, "installed and pinned differ: run make setup"


# ---- licence and versions ----


def test_licence_is_the_whole_apache_2() -> None:
    assert PYPROJECT["license"] == "Apache-2.0"
    licence = (PROJECT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in licence
    assert len(re.findall(r"^   [1-9]\. ", licence, re.MULTILINE)) == 9
    assert "END OF TERMS AND CONDITIONS" in licence


def test_changelog_has_the_version_or_unreleased_changes() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] in ("Unreleased", PYPROJECT["version"])


# ---- scripts, make, hooks ----


def _shell_scripts() -> list[Path]:
    return [
        path
        for path in tracked_files()
        if path.suffix == ".sh" or re.match(r"#!.*\b(ba)?sh\b", path.read_text(errors="replace"))
    ]


def test_shell_scripts_parse_and_are_strict() -> None:
    scripts = _shell_scripts()
    assert PROJECT / ".ci" / "run" in scripts
    for script in scripts:
        checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
        assert "set -euo pipefail" in script.read_text(), script
        assert os.access(script, os.X_OK), f"{script} is not executable"


def test_make_help_describes_every_target() -> None:
    helped = subprocess.run(["make", "help"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make (\S+)  +\S", helped, re.MULTILINE)) == make_targets()
    assert {"setup", "dev", "demo", "check", "test", "faults", "lint", "format", "bench"} <= make_targets()


def _planned(target: str) -> str:
    return subprocess.run(
        ["make", "--dry-run", target], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("target", ["check", "test"])
def test_make_lints_before_it_tests_and_checks_types_beside(target: str) -> None:
    planned = _planned(target)
    patterns = (r"ruff check", r"ruff format .*--check", r"bin/mypy", r"-m pytest")
    places = [match.start() for match in (re.search(pattern, planned) for pattern in patterns) if match]
    assert len(places) == len(patterns), planned
    assert places == sorted(places)


def test_every_test_runs_in_ci_or_in_make_faults() -> None:
    """What `make test` leaves out by default is exactly what `make faults` adds."""
    assert "-m 'not long'" in OPTIONS["addopts"]
    [test] = re.findall(r"-m pytest .*", _planned("test"))
    assert " -m " not in test.removeprefix("-m pytest")
    assert '-m "faults or long"' in _planned("faults")
    assert (PROJECT / ".ci" / "run").read_text().endswith("make test </dev/null\n")


def test_hooks_use_installed_tools_only() -> None:
    config = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    for hook in config["repos"][0]["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/"), hook["id"]


def test_pre_commit_accepts_its_configuration() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-config", PROJECT / ".pre-commit-config.yaml"],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


# ---- what must be in no file ----

# Written so that this file does not hold what it looks for.
FORBIDDEN = {
    "a private key": r"BEGIN [A-Z ]*PRIVATE[ ]KEY",
    "a service account key": r"\"private[_]key\"\s*:",
    "an AWS key": r"\bAKIA[0-9A-Z]{16}\b",
    "a Google key": r"\bAIza[0-9A-Za-z_-]{35}\b",
    "a GitHub token": r"\bgh[pousr]_[0-9A-Za-z]{36}\b",
    "a Slack token": r"\bxox[abprs]-[0-9A-Za-z-]{10,}",
    "a password in a URL": r"postgres(?:ql)?(?:\+\w+)?://[\w.-]+:(?!password@|\{|\$|%)[^@\s/'\"]+@",
    "a package registry's host": r"pypi[.]org|pythonhosted[.]org|registry[.]npmjs|debian[.]org|golang[.]org",
    "a path of one machine": r"(?<![\w.~}-])/(?:work|root|tmp/w)/|/(?:home|Users)/[a-z]+/|\.pyenv\b",
}


# Tests make passwords up, to see them hidden.
MADE_UP_IN_TESTS = {"a password in a URL"}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = [
        f"{path.relative_to(PROJECT)}:{number}: {line.strip()[:120]}"
        for path in tracked_files()
        if path != Path(__file__) and not (what in MADE_UP_IN_TESTS and TESTS in path.parents)
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, f"{what}:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("a private key", "-----BEGIN RSA PRIVATE" + " KEY-----"),
        ("a password in a URL", "postgresql://me:" + "hunter2@db/x"),
        ("a package registry's host", "https://pypi" + ".org/simple"),
        ("a path of one machine", "see /work" + "/main/x"),
    ],
)
def test_the_scan_finds_what_it_looks_for(what: str, line: str) -> None:
    assert re.search(FORBIDDEN[what], line)


# What makes a server listen to more than its own machine.
LISTENING = re.compile(
    r"0[.]0[.]0[.]0"
    r"|INADDR_ANY"
    r"|listen_addresses\s*=\s*'?\\?'?[*]"
    r"|\.bind\(\(\s*(?P<q>['\"])(?P=q)"
    r"|\[::\]"
)
# Inside the compose network, whose ports test_deployment.py holds to loopback.
MAY_LISTEN = {"Dockerfile", "docker-compose.yml"}


def test_nothing_listens_beyond_loopback() -> None:
    found = [
        f"{path.relative_to(PROJECT)}:{number}: {line.strip()[:120]}"
        for path in tracked_files()
        if path != Path(__file__) and path.name not in MAY_LISTEN and path.suffix != ".md"
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if LISTENING.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "--host 0.0.0" + ".0",
        "listen_addresses = '" + "*'",
        'server.bind(("' + '", 80))',
        "--listen=[:" + ":]:80",
    ],
)
def test_the_listening_scan_finds_what_it_looks_for(line: str) -> None:
    assert LISTENING.search(line)
