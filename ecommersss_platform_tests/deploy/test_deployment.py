"""The image and the compose files, read without a Docker daemon: valid, closed to outsiders, no secrets."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from ecommersss_platform.dbt.project import artifacts_dir
from ecommersss_platform.settings import Settings
from ecommersss_platform_tests.support.commands import check_command
from ecommersss_platform_tests.support.project import PROJECT

DEPLOY = PROJECT / "deploy"
COMPOSE = PROJECT / "docker-compose.yml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
OURS = sorted(set(SERVICES) - {"postgres"})
ON_BIGQUERY: dict[str, Any] = yaml.safe_load((DEPLOY / "bigquery.yml").read_text())
CODE_ON_BIGQUERY = ON_BIGQUERY["services"]["code"]
SETTINGS = {f"ECOMMERSSS_{field.upper()}" for field in Settings.model_fields}
POSTGRES_VARIABLES = {"POSTGRES_PASSWORD", "POSTGRES_INITDB_ARGS", "PGPASSWORD"}

# ---- the compose files ----


def test_compose_publishes_ports_on_loopback_only() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"postgres": ["127.0.0.1:5433:5432"], "webserver": ["127.0.0.1:3000:3000"]}


@pytest.mark.parametrize("name", OURS)
def test_compose_locks_a_service_down(name: str) -> None:
    service = SERVICES[name]
    assert service["build"] == "."
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "network_mode", "pid", "user", "devices"} & set(service)


def test_compose_gives_every_service_a_health_check_and_limits() -> None:
    """`migrate` ends when it is done, so nothing checks it."""
    for name, service in SERVICES.items():
        assert ("test" in service["healthcheck"]) == (name != "migrate"), name
        assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"]), name
        assert service["logging"]["options"]["max-size"], name


def test_compose_holds_no_secret() -> None:
    for name, service in SERVICES.items():
        for variable, value in service["environment"].items():
            if re.search(r"PASSWORD|SECRET|TOKEN|KEY", variable):
                # Required: a default would be forgotten.
                # Optional is only what is random if nobody chooses it.
                chosen = r"\$\{(POSTGRES_PASSWORD:\?[^}]+|ECOMMERSSS_(UI_TOKEN|PSEUDONYM_KEY):-)\}"
                assert re.fullmatch(chosen, value), (name, variable)
            assert not re.search(r"://[^/@]*:[^/@]*@", value), f"{name}: a password in {variable}"


def test_compose_passes_only_variables_that_something_reads() -> None:
    for name, service in SERVICES.items():
        assert set(service["environment"]) <= SETTINGS | POSTGRES_VARIABLES, name


def test_compose_never_starts_the_embedded_server() -> None:
    for name in OURS:
        assert {"ECOMMERSSS_DATABASE_URL", "ECOMMERSSS_DAGSTER_URL"} <= set(SERVICES[name]["environment"])


def test_compose_runs_modules_and_commands_that_exist() -> None:
    text = COMPOSE.read_text() + (PROJECT / "Dockerfile").read_text()
    modules = set(re.findall(r"\b(?:streaming|ecommersss_platform)(?:\.\w+)+", text))
    assert {module for module in modules if find_spec(module) is None} == set()
    assert "ecommersss_platform.definitions" in modules
    for workspace in set(re.findall(r'"--workspace", "([^"]+)"', text)):
        assert (PROJECT / workspace).is_file()
    commands = [service["command"] for service in SERVICES.values() if "command" in service]
    ours = [command[1:] for command in commands if command[0] == "ecommersss"]
    assert {"produce", "consume"} <= {command[0] for command in ours}
    for command in ours:
        check_command(command)


def _substitute(value: str, given: dict[str, str]) -> str:
    """Fill in variables as compose does. Raises KeyError for a required variable that is not given."""

    def read(found: re.Match[str]) -> str:
        name, default = found["name"], found["default"]
        if found["how"] == ":+":
            return default if given.get(name) else ""
        return given.get(name, default) if found["how"] == ":-" else given[name]

    return re.sub(r"\$\{(?P<name>\w+)(?P<how>:[-+?])(?P<default>[^}]*)\}", read, value)


def _settings(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], **given: str) -> Settings:
    """Return the settings of a container with this environment."""
    for name in [name for name in os.environ if name.startswith("ECOMMERSSS_")]:
        monkeypatch.delenv(name)
    values = {"ECOMMERSSS_FIRST_DAY": "2025-01-01", "POSTGRES_PASSWORD": "x"} | given
    for name, value in environment.items():
        monkeypatch.setenv(name, _substitute(value, values))
    return Settings(_env_file=None)  # type: ignore[call-arg]


def test_compose_settings_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings(monkeypatch, SERVICES["code"]["environment"])
    assert settings.database_url.get_secret_value() == "postgresql://ecommersss@postgres:5432/ecommersss"
    assert settings.dagster_url.get_secret_value() == "postgresql://ecommersss@postgres:5432/dagster"
    assert str(settings.first_partition_day()) == "2025-01-01"


def test_compose_settings_on_bigquery_are_valid_and_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    of_bigquery = {name for name in SETTINGS if name.startswith("ECOMMERSSS_BIGQUERY_")}
    given = set(CODE_ON_BIGQUERY["environment"])
    assert of_bigquery - given == {"ECOMMERSSS_BIGQUERY_ENDPOINT"}, "for emulators only"
    settings = _settings(
        monkeypatch,
        SERVICES["code"]["environment"] | CODE_ON_BIGQUERY["environment"],
        ECOMMERSSS_BIGQUERY_PROJECT="shop",
        ECOMMERSSS_PSEUDONYM_KEY="k" * 32,
    )
    assert (settings.warehouse, settings.bigquery_project) == ("bigquery", "shop")
    assert settings.bigquery_location == Settings.model_fields["bigquery_location"].default
    for name in ("billing_project", "key_file", "impersonate", "maximum_bytes_billed", "daily_bytes"):
        assert getattr(settings, f"bigquery_{name}") is None, name


def test_keys_reach_the_code_location_only() -> None:
    """Only its container executes runs."""
    other = ON_BIGQUERY["services"].keys() - {"code"}
    assert {name: list(ON_BIGQUERY["services"][name]["environment"]) for name in other} == {
        "alerts": ["ECOMMERSSS_BIGQUERY_DAILY_BYTES"]
    }
    hashing = {name for name in OURS if "ECOMMERSSS_PSEUDONYM_KEY" in SERVICES[name]["environment"]}
    assert hashing == {"code"}
    required = CODE_ON_BIGQUERY["environment"]["ECOMMERSSS_PSEUDONYM_KEY"]
    assert required.startswith("${ECOMMERSSS_PSEUDONYM_KEY:?")
    assert CODE_ON_BIGQUERY["secrets"] == list(ON_BIGQUERY["secrets"]) == ["bigquery"]


@pytest.mark.parametrize(
    ("given", "mounted", "setting"), [("k.json", "k.json", True), ("", "/dev/null", False)]
)
def test_the_key_of_bigquery_is_optional(
    given: str, mounted: str, setting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Terraform, the machine's own service account or a federated one may do without a key."""
    values = {"ECOMMERSSS_BIGQUERY_KEY_FILE": given} if given else {}
    assert _substitute(ON_BIGQUERY["secrets"]["bigquery"]["file"], values) == mounted
    settings = _settings(
        monkeypatch,
        SERVICES["code"]["environment"] | CODE_ON_BIGQUERY["environment"],
        ECOMMERSSS_BIGQUERY_PROJECT="shop",
        ECOMMERSSS_PSEUDONYM_KEY="k" * 32,
        **values,
    )
    assert settings.bigquery_key_file == (Path("/run/secrets/bigquery") if setting else None)


def test_bigquery_image_holds_the_manifest_for_bigquery() -> None:
    """The other services keep the common image, which holds DuckDB's manifest."""
    assert CODE_ON_BIGQUERY["image"] != SERVICES["code"]["image"]
    arguments = CODE_ON_BIGQUERY["build"]["args"]
    assert arguments == {name: CODE_ON_BIGQUERY["environment"][name] for name in arguments}
    steps = [(i.name, i.value) for i in STAGES[-1]]
    parsed = steps.index(("RUN", "python -m ecommersss_platform.dbt"))
    declared = {value.partition("=")[0] for name, value in steps[:parsed] if name == "ARG"}
    assert declared == arguments.keys()
    assert ("ARG", f"ECOMMERSSS_WAREHOUSE={Settings.model_fields['warehouse'].default}") in steps


# ---- docker compose itself ----


def _compose_client() -> list[str] | None:
    """Return the command of docker compose, version 2 or later, or None. It reads files without a daemon."""
    for client in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(client[0]):
            version = subprocess.run([*client, "version", "--short"], capture_output=True, text=True)
            if version.returncode == 0 and version.stdout.lstrip("v").startswith(("2.", "3.", "4.", "5.")):
                return client
    return None


def _compose_config(values: str, directory: Path, *overrides: Path) -> subprocess.CompletedProcess[str]:
    client = _compose_client()
    if client is None:
        pytest.skip("docker compose (version 2 or later) is not installed")
    (directory / "env").write_text(values)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ECOMMERSSS_", "POSTGRES_"))}
    files = [part for path in (COMPOSE, *overrides) for part in ("--file", path)]
    return subprocess.run(
        [
            *(*client, "--project-directory", PROJECT, *files),
            *("--env-file", directory / "env", "config", "--quiet"),
        ],
        capture_output=True,
        text=True,
        env=environment,
        cwd=directory,
    )


REQUIRED = "POSTGRES_PASSWORD=x\nECOMMERSSS_FIRST_DAY=2025-01-01\n"


def test_docker_compose_accepts_the_file(tmp_path: Path) -> None:
    result = _compose_config(REQUIRED, tmp_path)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("missing", ["ECOMMERSSS_FIRST_DAY", "POSTGRES_PASSWORD"])
def test_docker_compose_refuses_to_start_without_a_required_value(missing: str, tmp_path: Path) -> None:
    given = "".join(line for line in REQUIRED.splitlines(keepends=True) if not line.startswith(missing))
    result = _compose_config(given, tmp_path)
    assert f"required variable {missing} is missing a value: set " in result.stderr


def test_docker_compose_accepts_both_google_overrides_together(tmp_path: Path) -> None:
    overrides = (DEPLOY / "pubsub.yml", DEPLOY / "bigquery.yml")
    result = _compose_config(REQUIRED, tmp_path, *overrides)
    assert "required variable ECOMMERSSS_" in result.stderr
    key = tmp_path / "key.json"
    key.write_text("{}")
    values = f"ECOMMERSSS_PUBSUB_PROJECT=shop\nGOOGLE_APPLICATION_CREDENTIALS={key}\n"
    values += f"ECOMMERSSS_PSEUDONYM_KEY={'k' * 32}\n"
    values += f"ECOMMERSSS_BIGQUERY_PROJECT=shop\nECOMMERSSS_BIGQUERY_KEY_FILE={key}\n"
    result = _compose_config(REQUIRED + values, tmp_path, *overrides)
    assert (result.returncode, result.stderr) == (0, "")


# ---- the image ----


@dataclass(frozen=True)
class Instruction:
    name: str
    value: str

    @property
    def words(self) -> list[str]:
        return self.value.split()


def _stages() -> list[list[Instruction]]:
    """Return the Dockerfile's instructions, one list a stage."""
    text = re.sub(r"^\s*#.*\n", "", (PROJECT / "Dockerfile").read_text(), flags=re.MULTILINE)
    text = re.sub(r"\\\n\s*", " ", text)
    stages: list[list[Instruction]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, value = line.partition(" ")
        if name == "FROM":
            stages.append([])
        stages[-1].append(Instruction(name, value.strip()))
    return stages


STAGES = _stages()
ALL = [instruction for stage in STAGES for instruction in stage]


def test_image_is_based_on_a_supported_python() -> None:
    [base] = {stage[0].words[0] for stage in STAGES}  # the environment is copied between stages: same paths
    version = re.fullmatch(r"python:(\d+\.\d+)(?:\.\d+)?-slim-\w+", base)
    assert version, base
    wanted = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert SpecifierSet(wanted).contains(version.group(1) + ".0")


def test_image_runs_as_an_ordinary_user() -> None:
    user, _, group = [i.value for i in STAGES[-1] if i.name == "USER"][-1].partition(":")
    assert int(user) >= 1000
    assert int(group) >= 1000
    assert any(f"--uid {user} " in i.value for i in STAGES[-1] if i.name == "RUN" and "useradd" in i.value)


def test_image_holds_no_secret_and_checks_its_health() -> None:
    names = re.findall(r"(\w+)=", " ".join(i.value for i in ALL if i.name in ("ENV", "ARG")))
    assert not [name for name in names if re.search(r"PASSWORD|SECRET|TOKEN|KEY|CREDENTIAL", name)]
    assert any(i.name == "HEALTHCHECK" for i in STAGES[-1])


def _is_ignored(path: str) -> bool:
    """Return whether .dockerignore keeps a path out of the build: the last pattern that matches decides."""
    ignored = False
    for line in (PROJECT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        keep, pattern = line.startswith("!"), line.lstrip("!").removeprefix("**/")
        parts = Path(path).parts
        candidates = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
        if "**/" in line:
            candidates += list(parts)
        if any(
            fnmatch.fnmatchcase(candidate, pattern) and candidate.count("/") <= pattern.count("/")
            for candidate in candidates
        ):
            ignored = not keep
    return ignored


def test_image_build_gets_the_files_it_copies() -> None:
    copies = [i for i in ALL if i.name == "COPY" and "--from=build" not in i.words]
    sources = [source for instruction in copies for source in instruction.words[:-1]]
    assert {"streaming", "ecommersss_platform", "dbt_project", "deploy/workspace.yaml"} <= set(sources)
    for source in sources:
        assert (PROJECT / source).exists(), source
        assert not _is_ignored(source), f"{source} is kept out by .dockerignore"


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".git/config",
        ".ecommersss/postgres/password",
        ".venv/bin/python",
        "dbt_project/target/manifest.json",
        "streaming/__pycache__/orders.cpython-311.pyc",
        "deploy/.env",
    ],
)
def test_image_build_gets_no_state_or_secret(path: str) -> None:
    assert _is_ignored(path)


def test_image_packages_are_installed_with_hashes_checked() -> None:
    installs = [
        command for i in ALL if i.name == "RUN" for command in re.findall(r"pip install[^&|;]*", i.value)
    ]
    third_party, own = installs
    assert third_party == "pip install --require-hashes --no-deps --requirement requirements/base.txt"
    assert "--no-deps --no-build-isolation --editable ." in own


def test_image_parses_dbt_after_the_last_file_and_before_it_gives_up_root() -> None:
    steps = [i.value if i.name == "RUN" else i.name for i in STAGES[-1]]
    parsed = steps.index("python -m ecommersss_platform.dbt")
    assert "COPY" not in steps[parsed:], "the manifest must be newer than the files it is made from"
    assert steps.index("USER") > parsed, "the platform's user cannot write to the project"


def test_image_writes_to_the_volume_only() -> None:
    environment = dict(re.findall(r"(\w+)=(\S+)", " ".join(i.value for i in STAGES[-1] if i.name == "ENV")))
    settings = Settings(home=Path(environment["ECOMMERSSS_HOME"]))
    assert environment["DAGSTER_HOME"] == str(settings.dagster_home)
    for place in (settings.dagster_home, artifacts_dir(settings)):
        assert settings.home in place.parents
    volume = f"home:{settings.home}"
    assert all(volume in SERVICES[name]["volumes"] for name in OURS)
    # /tmp is memory: rows on their way to BigQuery wait on the volume.
    assert CODE_ON_BIGQUERY["environment"]["TMPDIR"] == str(settings.home)


# ---- Dagster and PostgreSQL in containers ----


def test_workspaces_name_the_code_location() -> None:
    [containers] = yaml.safe_load((DEPLOY / "workspace.yaml").read_text())["load_from"]
    server = containers["grpc_server"]
    assert server["host"] == "code"
    assert f"--port {server['port']}" in SERVICES["code"]["command"][-1]
    [local] = yaml.safe_load((PROJECT / "workspace.yaml").read_text())["load_from"]
    assert local["python_module"]["module_name"] == "ecommersss_platform.definitions"
    assert local["python_module"].get("location_name", server["location_name"]) == server["location_name"]
    # Dagster's own commands prefer this block, and one name means one state of sensors and schedules.
    tool = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]
    assert tool["dagster"]["module_name"] == local["python_module"]["module_name"]
    assert tool["dagster"]["code_location_name"] == server["location_name"]
    assert tool["dg"]["project"]["code_location_name"] == server["location_name"]


def test_database_script_creates_both_databases_for_an_ordinary_role() -> None:
    script = (DEPLOY / "postgres" / "10-databases.sql").read_text()
    for url in ("ECOMMERSSS_DATABASE_URL", "ECOMMERSSS_DAGSTER_URL"):
        found = re.fullmatch(r"postgresql://(\w+)@postgres:5432/(\w+)", SERVICES["code"]["environment"][url])
        assert found
        role, database = found.groups()
        assert f"CREATE DATABASE {database} OWNER {role};" in script
        assert f"CREATE ROLE {role} LOGIN PASSWORD :'password';" in script
    assert "SUPERUSER" not in script
