"""A dialect without quotes, so that tests can state SQL as plain text."""

from __future__ import annotations

from ecommersss_platform.warehouse.dialect import Dialect

PLAIN = Dialect(
    name="plain",
    quote=str,
    business_day=lambda instant: f"BUSINESS_DAY({instant})",
    try_cast=lambda value, type_: f"TRY({value} AS {type_})",
    types={},
    text=repr,
    instant="INSTANT",
    literal_rows=lambda columns, rows: "",
    narrowed=lambda number, digits, decimals: f"{number}({digits}, {decimals})",
    present=lambda texts: f"PRESENT({', '.join(texts)})",
    distinct=lambda array: f"DISTINCT({array})",
    contains=lambda array, text: f"CONTAINS({array}, {text})",
    unnested=lambda select, array, column: f"UNNESTED({select}, {array} AS {column})",
)
