"""The addresses of PostgreSQL databases: the forms that people have, brought to one."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg2
from psycopg2.extensions import parse_dsn

from streaming.database import session_options

_SCHEME = re.compile(r"(jdbc:)?postgres(ql)?(\+\w+)?://", re.IGNORECASE)
_OTHER_SCHEME = re.compile(r"[a-z][a-z0-9+.:-]*://", re.IGNORECASE)
_UNKNOWN = re.compile(r'invalid (?:URI query parameter|connection option):? "(\w{1,30})"')
_LOOPBACK = frozenset({"", "localhost", "127.0.0.1", "::1"})

_FORM = (
    "write postgresql://USER@HOST:PORT/DATABASE, a password after USER and a colon,"
    " and in it %40 for @, %2F for / and %25 for %"
)


def normalised_url(address: str) -> str:
    """Return an address of a database as a URL that libpq and SQLAlchemy read alike.

    Takes the schemes postgres, postgresql, those of SQLAlchemy and JDBC, and libpq's key=value form. Raises
    `ValueError` with a sentence that repeats nothing of the address that could be a password.
    """
    url = _SCHEME.sub("postgresql://", address.strip(), count=1)
    if not url.startswith("postgresql://") and _OTHER_SCHEME.match(url):
        raise ValueError(f"this is not the address of a PostgreSQL database: {_FORM}")
    try:
        found = parse_dsn(url)
    except psycopg2.ProgrammingError as error:
        if unknown := _UNKNOWN.search(str(error)):
            raise ValueError(f"PostgreSQL has no connection parameter {unknown[1]}: remove it") from None
        raise ValueError(f"PostgreSQL does not understand this address: {_FORM}") from None
    hosts, ports = found.pop("host", ""), found.pop("port", "")
    user, password, database = (found.pop(name, "") for name in ("user", "password", "dbname"))
    # An unescaped @, / or : in a password moves a part of it into another field.
    if "@" in hosts + database or not re.fullmatch(r"(\d{1,5}(,\d{1,5})*)?", ports):
        raise ValueError(f"PostgreSQL does not understand this address: {_FORM}")
    if any(not 0 < int(port) < 65536 for port in ports.split(",") if port):
        raise ValueError("the port of a database is from 1 to 65535")
    place = ""
    if "," in hosts or hosts.startswith("/"):
        found |= {"host": hosts} | ({"port": ports} if ports else {})
    else:
        place = (f"[{hosts}]" if ":" in hosts else quote(hosts)) + (f":{ports}" if ports else "")
    if user or password:
        place = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "") + f"@{place}"
    query = urlencode(found, quote_via=quote, safe="/,")
    return f"postgresql://{place}/{quote(database, safe='')}" + (f"?{query}" if query else "")


def same_database(one: str, other: str) -> bool:
    """Return whether two normalised URLs name one database."""
    return _identity(one) == _identity(other)


def _identity(url: str) -> tuple[str, str, str]:
    found = parse_dsn(url)
    host = (found.get("hostaddr") or found.get("host", "")).lower()
    return (
        "localhost" if host in _LOOPBACK else host,
        found.get("port", "5432"),
        found.get("dbname") or found.get("user", ""),
    )


def place_of(url: str) -> str:
    """Return host, port and database of a normalised URL, for people: no user, no password."""
    found = parse_dsn(url)
    host, port = found.get("host", "localhost"), found.get("port", "5432")
    return f"{host}:{port}/{found.get('dbname', '')}"


def pinned_url(url: str) -> str:
    """Return a normalised URL with `conninfo`'s session settings, for clients that connect themselves."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    query |= {"client_encoding": "UTF8", "options": session_options(query.get("options", ""))}
    return urlunsplit(parts._replace(query=urlencode(query, quote_via=quote, safe="/,")))
