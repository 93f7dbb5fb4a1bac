"""The environment variables of PostgreSQL's client library, which no connection of ours may depend on."""

from __future__ import annotations

import os
from typing import Final

KEPT: Final = frozenset({"PGPASSWORD", "PGPASSFILE"})
"""Credentials may come from the environment, so that no password needs to be in a URL."""


def drop_libpq_variables() -> None:
    """Remove libpq's variables from this process's environment, and so from that of its children.

    libpq reads any of them (PGSSLMODE, PGSERVICE, PGHOSTADDR...) where a URL is silent, and more with each
    version. Everything but the credentials belongs in the URL.
    """
    for name in [name for name in os.environ if name.startswith("PG") and name not in KEPT]:
        del os.environ[name]
