"""Names of tables."""

from __future__ import annotations

import pytest

from ecommersss_platform.contracts import ORDERS
from ecommersss_platform.warehouse.names import full_name, split_name, staging_name


def test_table_names_are_split_and_checked() -> None:
    assert split_name("gold.most_fraudulent_users") == ("gold", "most_fraudulent_users")
    assert full_name(ORDERS) == "raw.orders"
    assert staging_name(ORDERS, "8f-A1'; --") == "raw_orders_8f_a1_"
    for bad in ("orders", "a.b.c", "raw.orders; DROP", "", "raw."):
        with pytest.raises(ValueError, match=r"dataset\.table"):
            split_name(bad)
