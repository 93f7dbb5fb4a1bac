"""dbt's way to the DuckDB file, named in `profiles.yml`: it waits for the file as everybody does.

dbt-duckdb's own retries say nothing, and end after half a minute or sleep for minutes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import duckdb
from dbt.adapters.duckdb.credentials import DuckDBCredentials
from dbt.adapters.duckdb.plugins import BasePlugin
from dbt.adapters.events.logging import AdapterLogger
from dbt_common.exceptions import DbtRuntimeError

from ecommersss_platform.warehouse.duckdb.engine import attach, when_free
from ecommersss_platform.warehouse.errors import WarehouseError

MEGABYTES_PER_THREAD = 120
"""What DuckDB itself may hold while dbt works; beyond that it spills next to the file. The features of two
days of a million orders, built at once, do not fit into 64: it cannot spill all of what it sorts."""
MOST_THREADS = 8
"""The threads of one dbt run, on a machine with as many cores or more."""

_log = AdapterLogger("DuckDB")


class Plugin(BasePlugin):
    """A plugin that opens the file before dbt does, or attaches it for dbt."""

    _connection: duckdb.DuckDBPyConnection | None = None

    def update_connection_config(self, creds: DuckDBCredentials, config: dict[str, Any]) -> None:
        """Bound the memory, open the file, and keep it open until dbt has it open too.

        The connections of a process share the file. DuckDB's own bound is most of the machine's memory.
        """
        threads = max(2, min(os.cpu_count() or 2, MOST_THREADS))
        config |= {
            "threads": threads,
            "memory_limit": f"{MEGABYTES_PER_THREAD * threads}MB",
            "preserve_insertion_order": False,
        }
        if creds.attach:
            config["temp_directory"] = f"{creds.attach[0].path}.tmp"
            return
        path = Path(creds.path)
        try:
            self._connection = when_free(
                lambda: duckdb.connect(creds.path, config=config), path, warn=_log.warning
            )
        except WarehouseError as error:
            raise DbtRuntimeError(str(error)) from error

    def configure_connection(self, conn: duckdb.DuckDBPyConnection) -> None:
        """Attach the file if dbt has not opened it. What dbt then attaches itself exists already."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        for attachment in self.creds.attach or [] if self.creds else []:
            path = Path(attachment.path)
            try:
                when_free(lambda path=path: attach(conn, path), path, warn=_log.warning)  # type: ignore[misc]
            except WarehouseError as error:
                raise DbtRuntimeError(str(error)) from error
