"""Import users, products, shipments, disputes or verdicts from a CSV or JSONL file into PostgreSQL."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import date, datetime, time
from pathlib import Path

from streaming.business_days import EARLIEST, JAKARTA
from streaming.database import connect
from streaming.errors import PlatformError
from streaming.imports.lines import InvalidFile, read_rows
from streaming.imports.store import Imported, store_rows
from streaming.imports.tables import TABLES

__all__ = ["Imported", "InvalidFile", "import_file"]


def import_file(
    url: str, entity: str, path: Path, *, backdate: bool = False, not_before: date | None = None
) -> Imported:
    """Insert or update rows of the table `entity` from a file: all rows, or none.

    The file is UTF-8: CSV with a header (.csv, .tsv), or JSONL with an object on each line (.jsonl, .ndjson);
    either may be packed (.gz). The kind of a pipe, of `-` and of a name without an ending is taken from its
    first character. CSV may be separated by commas, semicolons, tabs or `|`. The file has the columns that
    `tables.TABLES` names. Times are RFC 3339, without an offset in Jakarta; prices may have commas between
    thousands. A row that changes nothing makes no new version.

    - users, products: a column that the file leaves out keeps its value; created_date is now for a new row.
    - shipments (key: order_id), disputes (id): a line replaces the whole row.
    - verdicts: a line is added unless it is there. Without decided_at it was decided now, unless it repeats
      the newest verdict of its order.

    New versions are dated now. With `backdate`, for loading past data, the version of a *new* row is dated at
    its event (created_date; the last step of a shipment; the opening of a dispute or its decision), and an
    existing row whose first version is later gains one there. Closed days then
    change, so materialise them again. No version is dated before the business day `not_before`: there are no
    partitions before the first.

    Raises `InvalidFile`, which lists the first 10 invalid lines, and `PlatformError` for a file that cannot
    be read or an unknown entity; nothing is imported then.
    """
    table = TABLES.get(entity)
    if table is None:
        raise PlatformError(f"only {', '.join(TABLES)} can be imported, not {entity!r}")
    rows, skipped = read_rows(path, table)
    with closing(connect(url, "ecommersss import")) as connection, connection, connection.cursor() as cursor:
        earliest = datetime.combine(not_before, time.min, JAKARTA) if not_before else EARLIEST
        imported = store_rows(cursor, table, rows, path, dated_from=earliest if backdate else None)
    return replace(imported, skipped=skipped)
