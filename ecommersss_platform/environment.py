"""The environment of the platform's processes: settings, and what an allow list takes from the shell.

A child process must not depend on who typed the command. So it inherits only what finds programs, files,
proxies and credentials; everything else that it needs comes from the settings.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from streaming.errors import PlatformError
from streaming.libpq import KEPT

if TYPE_CHECKING:
    from ecommersss_platform.settings import Settings

DAGSTER_URL_VARIABLE: Final = "ECOMMERSSS_DAGSTER_URL"
"""The variable that passes the URL of Dagster's storage to children, so that no file holds its password."""

MARK: Final = "ECOMMERSSS_SUPERVISED_BY"
"""Variable in the environment of every supervised process and its descendants: the home they belong to."""

_ALLOWED: Final = KEPT | {
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR"),
    *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"),
    *("PUBSUB_EMULATOR_HOST", MARK),
}
_ALLOWED_PREFIXES: Final = ("LC_", "GOOGLE_", "CLOUDSDK_")
_NO_SETTINGS: Final = frozenset(
    {MARK, "ECOMMERSSS_FAULT_RUNS", "ECOMMERSSS_SMOKE_BIGQUERY", "ECOMMERSSS_TEST_PYTHON"}
)
_FOREIGN_PREFIXES: Final = ("DAGSTER_", "DBT_")


def inherited(variables: Mapping[str, str]) -> dict[str, str]:
    """Return what a child process inherits of an environment: no variable of Dagster, dbt or Python."""
    return {
        name: value
        for name, value in variables.items()
        if name in _ALLOWED or name.startswith(_ALLOWED_PREFIXES)
    }


def child_environment(settings: Settings, dagster_url: str) -> dict[str, str]:
    """Return the whole environment of a process that works on this platform.

    It holds every setting and Dagster's home. It contains the passwords of the URLs: pass it to child
    processes only.
    """
    from pydantic import SecretStr

    from streaming.database.urls import pinned_url

    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    texts = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in values.items()
        if value is not None
    }
    return {
        **inherited(os.environ),
        **{f"ECOMMERSSS_{name.upper()}": text for name, text in texts.items()},
        DAGSTER_URL_VARIABLE: pinned_url(dagster_url),
        "DAGSTER_HOME": str(settings.dagster_home),
        "DO_NOT_TRACK": "1",
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    }


def drop_foreign_variables() -> None:
    """Remove Dagster's and dbt's variables from this process's environment: only settings steer a command."""
    for name in [name for name in os.environ if name.startswith(_FOREIGN_PREFIXES)]:
        del os.environ[name]


def unknown_settings(variables: Iterable[str], settings: Iterable[str]) -> str | None:
    """Return a sentence about variables that look like settings and are none, or None if all are known.

    `settings`: the names of the fields of `Settings`. Case does not matter, as when they are read.
    """
    prefix, known = "ECOMMERSSS_", [name.upper() for name in settings]
    unknown = []
    for variable in sorted({name.upper() for name in variables} - _NO_SETTINGS):
        name = variable.removeprefix(prefix)
        if variable.startswith(prefix) and name not in known:
            nearest = get_close_matches(name, known, n=1)
            unknown.append(variable + (f" (did you mean {prefix}{nearest[0]}?)" if nearest else ""))
    return f"no setting has this name, so it has no effect: {', '.join(unknown)}" if unknown else None


def check_dagster_home(variables: Mapping[str, str]) -> None:
    """Raise `PlatformError` if `dagster dev` loads the platform without its home.

    On a temporary instance, its sensors and schedules would do all work a second time, beside the platform's.
    """
    if variables.get("DAGSTER_IS_DEV_CLI") and not variables.get("DAGSTER_HOME"):
        raise PlatformError(
            "`dagster dev` needs the platform's home: copy .env.example to .env, or run"
            ' `eval "$(ecommersss env)"`, and start it again in the directory of the checkout'
        )
