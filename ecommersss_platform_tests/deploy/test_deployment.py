"""The image, the compose file and Dagster's files in containers, as far as that goes without a daemon."""

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
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())

# ---- the compose file ----

COMPOSE: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(set(SERVICES) - {"postgres"})
# What the services may be told besides our settings, and who reads it.
OTHER_VARIABLES = {"POSTGRES_PASSWORD", "POSTGRES_INITDB_ARGS", "PGPASSWORD"}


def test_compose_has_the_platforms_services() -> None:
    assert set(SERVICES) == {"postgres", "migrate", "code", "webserver", "daemon", "producer", "consumer"}


@pytest.mark.parametrize("name", OURS)
def test_a_service_runs_our_image_locked_down(name: str) -> None:
    service = SERVICES[name]
    assert service["build"] == "."
    assert service["init"] is True
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "home:/var/lib/ecommersss" in service["volumes"]
    assert not {"privileged", "network_mode", "pid", "user", "devices"} & set(service)


def test_postgres_is_pinned_to_a_major_version() -> None:
    assert re.fullmatch(r"postgres:\d+(\.\d+)?(-\w+)?", SERVICES["postgres"]["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_limited_and_has_time_to_stop(name: str) -> None:
    service = SERVICES[name]
    assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"])
    assert service["restart"] in ({"on-failure:5"} if name == "migrate" else {"unless-stopped"})
    assert service["logging"]["options"]["max-size"]
    if name != "migrate":
        assert service["stop_grace_period"]


def test_published_ports_are_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"postgres": ["127.0.0.1:5433:5432"], "webserver": ["127.0.0.1:3000:3000"]}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_told_only_what_something_reads(name: str) -> None:
    settings = {f"ECOMMERSSS_{field.upper()}" for field in Settings.model_fields}
    assert set(SERVICES[name]["environment"]) <= settings | OTHER_VARIABLES


def test_the_embedded_server_never_starts_in_a_container() -> None:
    for name in OURS:
        assert {"ECOMMERSSS_DATABASE_URL", "ECOMMERSSS_DAGSTER_URL"} <= set(SERVICES[name]["environment"])


def test_the_services_settings_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ECOMMERSSS_")]:
        monkeypatch.delenv(name)
    for name, value in SERVICES["code"]["environment"].items():
        value = re.sub(r"\$\{ECOMMERSSS_FIRST_DAY:\?[^}]*\}", "2025-01-01", value)
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value))
    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    assert settings.database_url == "postgresql://ecommersss@postgres:5432/ecommersss"
    assert settings.dagster_url == "postgresql://ecommersss@postgres:5432/dagster"
    assert str(settings.first_partition_day()) == "2025-01-01"


def test_no_secret_is_written_in_the_compose_file() -> None:
    for name, service in SERVICES.items():
        for variable, value in service["environment"].items():
            if re.search(r"PASSWORD|SECRET|TOKEN|KEY", variable):
                # Required, without a default to forget.
                assert re.fullmatch(r"\$\{POSTGRES_PASSWORD:\?[^}]+\}", value), (name, variable)
            assert not re.search(r"://[^/@]*:[^/@]*@", value), f"{name}: a password in {variable}"


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "migrate"])
def test_every_lasting_service_has_a_health_check(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] == "CMD", "no shell in between"
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)


def test_services_wait_for_what_they_need() -> None:
    waits = {
        name: {needed: how["condition"] for needed, how in service.get("depends_on", {}).items()}
        for name, service in SERVICES.items()
    }
    migrated = {"migrate": "service_completed_successfully"}
    assert waits == {
        "postgres": {},
        "migrate": {"postgres": "service_healthy"},
        "code": migrated,
        "producer": migrated,
        "consumer": migrated,
        "webserver": {"code": "service_healthy"},
        "daemon": {"code": "service_healthy"},
    }


def test_volumes_are_declared_and_mounted_files_exist() -> None:
    for service in SERVICES.values():
        for volume in service["volumes"]:
            source, _, target = volume.partition(":")
            assert target.startswith("/")
            if source.startswith("."):
                assert (PROJECT / source).is_dir()
            else:
                assert source in COMPOSE["volumes"]


def test_health_checks_and_commands_name_modules_and_files_that_exist() -> None:
    text = (PROJECT / "docker-compose.yml").read_text() + (PROJECT / "Dockerfile").read_text()
    modules = set(re.findall(r"\b(?:streaming|ecommersss_platform)(?:\.\w+)+", text))
    assert {module.rpartition(".")[2] for module in modules} == {"definitions", "health", "dbt", "prepare"}
    for module in modules:
        assert find_spec(module) is not None, module
    for workspace in set(re.findall(r'"--workspace", "([^"]+)"', text)):
        assert (PROJECT / workspace).is_file()


def test_commands_are_commands_of_ours() -> None:
    checked = 0
    for service in SERVICES.values():
        command = service.get("command", [])
        if command[:1] == ["ecommersss"]:
            check_command(command[1:])
            checked += 1
    assert checked == 2


def _compose_client() -> list[str] | None:
    """A docker compose that runs here, or None. Reading a file needs the client only, no daemon."""
    for client in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(client[0]):
            version = subprocess.run([*client, "version", "--short"], capture_output=True, text=True)
            if version.returncode == 0 and version.stdout.lstrip("v").startswith(("2.", "3.", "4.", "5.")):
                return client
    return None


def _compose_config(values: str, tmp_path: Path, *overrides: Path) -> subprocess.CompletedProcess[str]:
    client = _compose_client()
    if client is None:
        pytest.skip("no docker compose (version 2 or later) on this machine")
    (tmp_path / "env").write_text(values)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ECOMMERSSS_", "POSTGRES_"))}
    files = [part for path in (PROJECT / "docker-compose.yml", *overrides) for part in ("--file", path)]
    return subprocess.run(
        [
            *(*client, "--project-directory", PROJECT, *files),
            *("--env-file", tmp_path / "env", "config", "--quiet"),
        ],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )


def test_docker_compose_accepts_the_file(tmp_path: Path) -> None:
    result = _compose_config("POSTGRES_PASSWORD=x\nECOMMERSSS_FIRST_DAY=2025-01-01\n", tmp_path)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ("POSTGRES_PASSWORD=x\n", "ECOMMERSSS_FIRST_DAY"),
        ("ECOMMERSSS_FIRST_DAY=2025-01-01\n", "POSTGRES_PASSWORD"),
    ],
)
def test_docker_compose_refuses_to_start_without_its_two_values(
    given: str, missing: str, tmp_path: Path
) -> None:
    result = _compose_config(given, tmp_path)
    assert f"required variable {missing} is missing a value: set " in result.stderr


# ---- on BigQuery ----

ON_BIGQUERY: dict[str, Any] = yaml.safe_load((DEPLOY / "bigquery.yml").read_text())
CODE = ON_BIGQUERY["services"]["code"]


def _substituted(value: str, **given: str) -> str:
    """A value as compose reads it, with these variables set. Raises KeyError for one that is required."""

    def read(found: re.Match[str]) -> str:
        name, default = found["name"], found["default"]
        return given.get(name, default) if found["how"] == ":-" else given[name]

    return re.sub(r"\$\{(?P<name>\w+)(?P<how>:[-?])(?P<default>[^}]*)\}", read, value)


def test_the_key_of_bigquery_reaches_nobody_but_the_code_location() -> None:
    """Only its container runs runs."""
    assert ON_BIGQUERY["services"].keys() == {"code"}
    assert CODE["secrets"] == list(ON_BIGQUERY["secrets"]) == ["bigquery"]
    assert CODE["environment"]["ECOMMERSSS_BIGQUERY_KEY_FILE"] == "/run/secrets/bigquery"
    key = ON_BIGQUERY["secrets"]["bigquery"]["file"]
    assert _substituted(key, ECOMMERSSS_BIGQUERY_KEY_FILE="keys/platform.json") == "keys/platform.json"
    with pytest.raises(KeyError, match="ECOMMERSSS_BIGQUERY_KEY_FILE"):
        _substituted(key)


def test_the_code_location_is_told_every_setting_of_bigquery(monkeypatch: pytest.MonkeyPatch) -> None:
    of_bigquery = {f"ECOMMERSSS_{f.upper()}" for f in Settings.model_fields if f.startswith("bigquery_")}
    told = CODE["environment"].keys() - {"ECOMMERSSS_WAREHOUSE", "TMPDIR"}
    assert of_bigquery - told == {"ECOMMERSSS_BIGQUERY_ENDPOINT"}, "of emulators"
    assert told < of_bigquery
    for name in [name for name in os.environ if name.startswith("ECOMMERSSS_")]:
        monkeypatch.delenv(name)
    given = {"ECOMMERSSS_BIGQUERY_PROJECT": "shop", "ECOMMERSSS_FIRST_DAY": "2025-01-01"}
    merged = SERVICES["code"]["environment"] | CODE["environment"]
    for name in merged.keys() - {"PGPASSWORD"}:
        monkeypatch.setenv(name, _substituted(merged[name], **given))
    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    assert (settings.warehouse, settings.bigquery_project) == ("bigquery", "shop")
    assert settings.bigquery_location == Settings.model_fields["bigquery_location"].default
    assert settings.bigquery_key_file == Path("/run/secrets/bigquery")
    assert settings.bigquery_billing_project is None
    assert settings.bigquery_impersonate is None
    assert settings.bigquery_maximum_bytes_billed is None


def test_the_image_for_bigquery_has_the_manifest_for_bigquery() -> None:
    """The other services keep the common image, which has DuckDB's."""
    assert CODE["image"] != SERVICES["code"]["image"]
    assert CODE["build"]["context"] == SERVICES["code"]["build"] == "."
    arguments = CODE["build"]["args"]
    assert arguments == {name: CODE["environment"][name] for name in arguments}
    assert arguments["ECOMMERSSS_WAREHOUSE"] == "bigquery"
    steps = [(i.name, i.value) for i in STAGES[-1]]
    made = steps.index(("RUN", "python -m ecommersss_platform.dbt"))
    declared = {value.partition("=")[0] for name, value in steps[:made] if name == "ARG"}
    assert declared == arguments.keys()
    assert ("ARG", f"ECOMMERSSS_WAREHOUSE={Settings.model_fields['warehouse'].default}") in steps


def test_rows_on_their_way_to_bigquery_wait_on_the_volume() -> None:
    assert "/tmp" in SERVICES["code"]["tmpfs"]
    assert f"home:{CODE['environment']['TMPDIR']}" in SERVICES["code"]["volumes"]


def test_docker_compose_accepts_the_files_for_google_together(tmp_path: Path) -> None:
    values = "POSTGRES_PASSWORD=x\nECOMMERSSS_FIRST_DAY=2025-01-01\n"
    overrides = (DEPLOY / "pubsub.yml", DEPLOY / "bigquery.yml")
    result = _compose_config(values, tmp_path, *overrides)
    assert "required variable ECOMMERSSS_" in result.stderr
    (tmp_path / "key.json").write_text("{}")
    values += f"ECOMMERSSS_PUBSUB_PROJECT=shop\nGOOGLE_APPLICATION_CREDENTIALS={tmp_path}/key.json\n"
    values += f"ECOMMERSSS_BIGQUERY_PROJECT=shop\nECOMMERSSS_BIGQUERY_KEY_FILE={tmp_path}/key.json\n"
    result = _compose_config(values, tmp_path, *overrides)
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
    """The Dockerfile's instructions, by stage."""
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


def test_base_images_are_pinned_to_a_python_that_the_project_supports() -> None:
    names = {stage[0].words[2] for stage in STAGES if len(stage[0].words) == 3}
    bases = [stage[0].words[0] for stage in STAGES if stage[0].words[0] not in names]
    assert bases
    assert len(set(bases)) == 1, "the environment is copied between stages: same base, same paths"
    version = re.fullmatch(r"python:(\d+\.\d+)(?:\.\d+)?-slim-\w+", bases[0])
    assert version, bases[0]
    assert SpecifierSet(PYPROJECT["project"]["requires-python"]).contains(version.group(1) + ".0")


def test_the_image_runs_as_an_ordinary_user() -> None:
    users = [instruction.value for instruction in STAGES[-1] if instruction.name == "USER"]
    assert users
    user, _, group = users[-1].partition(":")
    assert int(user) >= 1000
    assert int(group) >= 1000
    created = next(i.value for i in STAGES[-1] if i.name == "RUN" and "useradd" in i.value)
    assert f"--uid {user} " in created


def _ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out of the build: the last pattern that matches decides."""
    verdict = False
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
            verdict = not keep
    return verdict


def test_copied_files_exist_and_reach_the_build() -> None:
    stages = {stage[0].words[2] for stage in STAGES if len(stage[0].words) == 3}
    copied = set()
    for instruction in ALL:
        if instruction.name != "COPY":
            continue
        flags = [word for word in instruction.words if word.startswith("--")]
        *sources, _ = [word for word in instruction.words if not word.startswith("--")]
        if flags:
            assert flags[0].removeprefix("--from=") in stages
            continue
        for source in sources:
            assert (PROJECT / source).exists(), source
            assert not _ignored(source), f"{source} is kept out by .dockerignore"
            copied.add(source)
    assert {
        "pyproject.toml",
        "streaming",
        "ecommersss_platform",
        "dbt_project",
        "deploy/workspace.yaml",
    } <= copied
    assert not [i for i in ALL if i.name == "ADD"]


def test_state_and_secrets_stay_out_of_the_build() -> None:
    for path in (
        ".env",
        ".git/config",
        ".ecommersss/postgres/password",
        ".venv/bin/python",
        "dbt_project/target/manifest.json",
        "streaming/__pycache__/orders.cpython-311.pyc",
        "deploy/.env",
    ):
        assert _ignored(path), path
    assert not _ignored("dbt_project/dbt_project.yml")


def test_packages_are_installed_with_hashes_checked() -> None:
    installs = [
        command for i in ALL if i.name == "RUN" for command in re.findall(r"pip install[^&|;]*", i.value)
    ]
    third_party = [command for command in installs if "--require-hashes" in command]
    assert third_party == ["pip install --require-hashes --no-deps --requirement requirements/base.txt"]
    assert (PROJECT / "requirements" / "base.txt").is_file()
    own = [command for command in installs if command not in third_party]
    assert all("--no-deps" in command and "--no-build-isolation" in command for command in own)


def test_the_manifest_is_made_when_the_image_is() -> None:
    names = [i.value if i.name == "RUN" else i.name for i in STAGES[-1]]
    made = names.index("python -m ecommersss_platform.dbt")
    assert "COPY" not in names[made:], "after every file it is made from"
    assert names.index("USER") > made, "by root: the platform's user cannot write to the project"


def test_the_image_holds_no_secret_and_checks_its_health() -> None:
    names = re.findall(r"(\w+)=", " ".join(i.value for i in ALL if i.name in ("ENV", "ARG")))
    assert not [name for name in names if re.search(r"PASSWORD|SECRET|TOKEN|KEY|CREDENTIAL", name)]
    assert any(i.name == "HEALTHCHECK" for i in STAGES[-1])


def _environment() -> dict[str, str]:
    """The final image's environment variables."""
    pairs = " ".join(i.value for i in STAGES[-1] if i.name == "ENV")
    return dict(re.findall(r"(\w+)=(\S+)", pairs))


def test_the_image_writes_only_to_the_volume() -> None:
    home = _environment()["ECOMMERSSS_HOME"]
    assert all(f"home:{home}" in SERVICES[name]["volumes"] for name in OURS)
    settings = Settings(home=Path(home))
    assert all(Path(home) in place.parents for place in (settings.dagster_home, artifacts_dir(settings)))


# ---- Dagster in containers ----


def test_dagster_home_of_the_image_is_the_platforms() -> None:
    """The instance file there is the embedded platform's: one for both deployments."""
    environment = _environment()
    assert environment["DAGSTER_HOME"] == str(
        Settings(home=Path(environment["ECOMMERSSS_HOME"])).dagster_home
    )


def test_workspaces_name_the_code_location() -> None:
    (containers,) = yaml.safe_load((DEPLOY / "workspace.yaml").read_text())["load_from"]
    server = containers["grpc_server"]
    assert server["host"] == "code"
    assert SERVICES["code"]["expose"] == [str(server["port"])]
    assert f"--port {server['port']}" in SERVICES["code"]["command"][-1]
    (local,) = yaml.safe_load((PROJECT / "workspace.yaml").read_text())["load_from"]
    assert local["python_module"]["module_name"] == "ecommersss_platform.definitions"
    assert local["python_module"].get("location_name", server["location_name"]) == server["location_name"]


def test_the_database_script_makes_the_two_databases_for_an_ordinary_role() -> None:
    script = (DEPLOY / "postgres" / "10-databases.sql").read_text()
    for url in ("ECOMMERSSS_DATABASE_URL", "ECOMMERSSS_DAGSTER_URL"):
        role, database = re.fullmatch(
            r"postgresql://(\w+)@postgres:5432/(\w+)", SERVICES["code"]["environment"][url]
        ).groups()  # type: ignore[union-attr]
        assert f"CREATE DATABASE {database} OWNER {role};" in script
        assert re.search(rf"CREATE ROLE {role} LOGIN PASSWORD :'password';", script)
    assert "SUPERUSER" not in script
