"""The roles of the operational database: what each kind of process may do there.

The owner of the tables migrates them and grants these rights. No role is a superuser, so none reaches files
or programs of the server.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sqlalchemy import Connection


class Role(StrEnum):
    """A role, with the rights of one kind of process."""

    OWNER = "ecommersss"
    """Owns the tables: migrates them, imports, and does what people ask for on the command line."""
    CONSUMER = "ecommersss_consumer"
    """Decides about orders and stores them."""
    READER = "ecommersss_reader"
    """Reads every table, for the warehouse."""
    SIMULATOR = "ecommersss_simulator"
    """Reads the market; adds users, products, prices, and what becomes of orders."""


LEAST: Final = (Role.CONSUMER, Role.READER, Role.SIMULATOR)
"""The roles that own nothing."""

_ALL = ", ".join(LEAST)
_VERSIONED = ", ".join(f"{t}, {t}_history" for t in ("users", "products", "shipments", "disputes"))

GRANTS: Final = f"""\
GRANT USAGE ON SCHEMA public TO {_ALL};
GRANT SELECT ON ecommersss_schema_version TO {_ALL};
GRANT SELECT ON ALL TABLES IN SCHEMA public TO {Role.CONSUMER}, {Role.READER};
GRANT INSERT ON orders, rule_books TO {Role.CONSUMER};
GRANT INSERT, UPDATE ON rejected_orders, topic_positions, rule_probations TO {Role.CONSUMER};
GRANT INSERT ON rule_overrides TO {Role.CONSUMER};
GRANT UPDATE ON user_lists_version TO {Role.CONSUMER};
GRANT SELECT, USAGE ON SEQUENCE order_positions TO {Role.CONSUMER};
GRANT SELECT, INSERT ON {_VERSIONED}, verdicts, marketplace_hours TO {Role.SIMULATOR};
GRANT UPDATE ON products, shipments, disputes TO {Role.SIMULATOR};
GRANT USAGE ON SEQUENCE verdicts_id_seq TO {Role.SIMULATOR};
GRANT SELECT (id, amount, created_date) ON orders TO {Role.SIMULATOR};
"""
"""The rights, granted again after each migration. So a change here comes with a migration."""

_EXIST = "SELECT count(*) FROM pg_roles WHERE rolname = ANY(:names)"
_GRANTED = "SELECT has_table_privilege(:role, 'orders', 'INSERT')"


def grant_rights(connection: Connection, *, migrated: bool) -> None:
    """Grant the roles their rights if they lack them or `migrated` says that tables may be new.

    Does nothing if the server does not have the roles: only the embedded one has them by itself.
    """
    from sqlalchemy import text

    names = [role.value for role in LEAST]
    if connection.execute(text(_EXIST), {"names": names}).scalar() != len(names):
        return
    if migrated or not connection.execute(text(_GRANTED), {"role": Role.CONSUMER.value}).scalar():
        connection.execute(text(GRANTS))


def role_statements(owner: str) -> str:
    """Return the SQL with which an administrator creates the roles of a server that is not embedded.

    `owner`: the role that owns the tables. As a member of the others it sees their sessions in statistics.
    """
    created = "".join(f"CREATE ROLE {role} LOGIN;\n" for role in LEAST)
    quoted = '"' + owner.replace('"', '""') + '"'
    return f"{created}GRANT {_ALL} TO {quoted};\n{GRANTS}"
