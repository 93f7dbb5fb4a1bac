"""Imports of users and products: the rows stored, the versions made, and the errors for invalid files."""

from __future__ import annotations

import gzip
import json
import os
import threading
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from ecommersss_platform_tests.support.shop import execute, query
from streaming.database import connect
from streaming.errors import PlatformError
from streaming.imports import Imported, InvalidFile, import_file

pytestmark = pytest.mark.integration

USERS = "id,username,email,first_name,last_name,default_payment,created_date\n"
ROW = "7,siti,siti@example.com,Siti,Rahayu,OVO,2025-06-01T10:30:00+07:00\n"
CREATED = datetime(2025, 6, 1, 3, 30, tzinfo=UTC)


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str | bytes, name: str = "rows.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_import_users_from_csv(database: str, write) -> None:
    text = USERS + ROW + '8,"o\'neil, ""x""",x@example.org,Zoë,"Lee\nKim",,2025-06-01 09:00\n'
    assert import_file(database, "users", write("\ufeff" + text.replace("\n", "\r\n"))) == Imported(2, 0, 0)
    assert query(database, "SELECT * FROM users ORDER BY id")[0][:7] == (
        (7, "siti", "siti@example.com", "Siti", "Rahayu", "OVO", CREATED)
    )
    [(username, first, last, payment, created)] = query(
        database,
        "SELECT username, first_name, last_name, default_payment, created_date FROM users WHERE id = 8",
    )
    assert (username, first, last, payment) == ('o\'neil, "x"', "Zoë", "Lee\r\nKim", None)
    assert created == datetime(2025, 6, 1, 2, tzinfo=UTC)  # without an offset it is Jakarta time


def test_import_products_from_jsonl_with_exact_prices(database: str, write) -> None:
    lines = [
        '{"id": 1, "product_name": "Teh", "category": "Groceries", "price": 9007199254740993.07}',
        "",
        '{"category": "Toys", "price": "1,250,000", "id": 2, "product_name": "Kite", "created_date": null}',
    ]
    result = import_file(database, "products", write("\n".join(lines), "rows.jsonl"))
    assert str(result) == "2 inserted, 0 updated, 0 unchanged"
    assert query(database, "SELECT id, price FROM products ORDER BY id") == [
        (1, Decimal("9007199254740993.07")),
        (2, Decimal("1250000.00")),
    ]
    [(age,)] = query(database, "SELECT now() - created_date FROM products WHERE id = 2")
    assert timedelta() < age < timedelta(minutes=1)


def test_a_second_import_makes_versions_only_of_changed_rows(database: str, write) -> None:
    import_file(database, "users", write(USERS + ROW + ROW.replace("7,", "8,", 1)))
    changed = "id,username,email,first_name,last_name\n7,siti,new@example.com,Siti,Rahayu\n"
    text = changed + "8,siti,siti@example.com,Siti,Rahayu\n9,budi,budi@example.com,Budi,Utama\n"
    assert import_file(database, "users", write(text)) == Imported(inserted=1, updated=1, unchanged=1)
    # Columns that the file leaves out keep their values.
    assert query(database, "SELECT email, default_payment, created_date FROM users WHERE id = 7") == [
        ("new@example.com", "OVO", CREATED)
    ]
    assert query(database, "SELECT id, count(*) FROM users_history GROUP BY id ORDER BY id") == [
        (7, 2),
        (8, 1),
        (9, 1),
    ]


def test_versions_are_dated_now_unless_backdated(database: str, write) -> None:
    import_file(database, "users", write(USERS + ROW))
    [(age,)] = query(database, "SELECT now() - valid_from FROM users_history")
    assert age < timedelta(minutes=1)


def test_backdated_versions_are_dated_at_creation_within_limits(database: str, write) -> None:
    header = "id,product_name,category,price,created_date\n"
    dates = {
        1: "2019-02-03",
        2: "2025-06-01T10:30:00+07:00",
        3: "2025-06-02",
        4: "2099-01-01",
        5: "2025-06-02",
    }
    rows = "".join(f"{id_},Kite,Toys,5000,{text}\n" for id_, text in dates.items())
    execute(
        database,
        "INSERT INTO products (id, product_name, category, price, created_date) "
        "VALUES (5, 'Kite', 'Toys', 4000, '2025-06-02')",
    )
    result = import_file(
        database, "products", write(header + rows), backdate=True, not_before=date(2025, 6, 1)
    )
    assert result == Imported(inserted=4, updated=1, unchanged=0)
    dated = dict(query(database, "SELECT id, valid_from FROM products_history ORDER BY version"))
    assert dated[1] == datetime(2025, 5, 31, 17, tzinfo=UTC)  # where the first partition begins
    assert dated[2] == CREATED
    assert dated[3] == datetime(2025, 6, 1, 17, tzinfo=UTC)
    # No version is dated in the future, nor in the past if the row exists already.
    for id_ in (4, 5):
        assert abs(dated[id_] - datetime.now(UTC)) < timedelta(minutes=1)
    assert query(database, "SELECT created_date FROM products WHERE id = 1") == [
        (datetime(2019, 2, 2, 17, tzinfo=UTC),)
    ]


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("", ["line 1: the file is empty; it needs a header with id, username"]),
        ("id,username,email\n", ["line 1: the header has no first_name, last_name"]),
        (
            USERS.replace("last_name", "lastname"),
            ["line 1: unknown column 'lastname'; users have id, username"],
        ),
        (USERS.replace("last_name", "id"), ["line 1: column id occurs twice"]),
        (
            "id:username:email\n7:a:b\n",
            [
                "line 1: unknown column 'id:username:email'; users have id, username, email, first_name,"
                " last_name, default_payment, created_date, separated by commas, semicolons, tabs, |"
            ],
        ),
        (USERS + "7,siti\n", ["line 2: has 2 values, but the header has 7 columns"]),
        (USERS + ROW + "\n" + ROW, ["line 4: id 7 is already on line 2"]),
        (
            USERS + ROW.replace("7,", "2147483648,", 1),
            ["line 2: id must be an integer from 1 to 2147483647, not '2147"],
        ),
        (USERS + ROW.replace("7,", "0,", 1), ["line 2: id must be an integer from 1"]),
        (USERS + ROW.replace("7,", "1.0,", 1), ["line 2: id must be an integer"]),
        (USERS + ROW.replace("siti@", "siti_"), ["line 2: email must be an address like name@domain"]),
        (USERS + ROW.replace("Rahayu", " "), ["line 2: last_name must be non-empty text"]),
        (USERS + ROW.replace("Rahayu", ""), ["line 2: last_name is missing"]),
        (USERS + ROW.replace("Rahayu", "a\0b"), ["line 2: last_name has U+0000 at index 1"]),
        (
            USERS + ROW.replace("Rahayu", "x" * 1001),
            ["line 2: last_name must be at most 1000 characters long, not 1001"],
        ),
        (USERS + ROW.replace("2025-06-01T", "2025-06-31T"), ["line 2: created_date must be a time like"]),
        (USERS + ROW.replace("2025-06-01T", "1999-06-01T"), ["line 2: created_date must be a time like"]),
        (
            USERS + ROW.replace("Siti", '"Si\nti"') + "x,,b@example.com,B,C,,\n",
            ["line 4: id must be an integer from 1 to 2147483647, not 'x' (and 1 more on this line)"],
        ),
        ((USERS + ROW).encode().replace(b"Rahayu", b"Rah\xffyu"), ["the file is not UTF-8"]),
        (USERS + '7,"siti"x,s@example.com,S,R,,\n', ["not valid CSV: "]),
    ],
)
def test_an_invalid_csv_imports_nothing_and_names_the_lines(
    database: str, write, text, problems: list[str]
) -> None:
    with pytest.raises(InvalidFile) as caught:
        import_file(database, "users", write(text))
    assert len(caught.value.problems) == len(problems)
    for problem, expected in zip(caught.value.problems, problems, strict=True):
        assert problem.startswith(expected)
        assert problem in str(caught.value)
    assert "siti" not in str(caught.value)
    assert query(database, "SELECT count(*) FROM users") == [(0,)]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"id": 1,', "is not JSON at character "),
        ("[1]", "is JSON, but not an object"),
        ('{"id": true}', "id must be an integer from 1 to 2147483647, not 'True'"),
        ('{"id": "\\ud800"}', "id must be an integer"),
        (
            '{"id": 1, "sku": 5}',
            "unknown column 'sku'; products have id, product_name, category, price, created_date",
        ),
        ('{"product_name": "\\ud800x"}', "product_name has U+D800 at index 0"),
        *(
            (
                json.dumps({"price": price}),
                f"price must be rupiah from 0 to 9999999999999999.99, "
                f"like 125000 or 125000.50, not '{price}'",
            )
            for price in (-1, 0.001, "Rp 5", "125.000", "1,5", "1e3", "NaN", "12345678901234567", "1_000")
        ),
    ],
)
def test_an_invalid_json_line_is_explained(database: str, write, line: str, problem: str) -> None:
    good = '{"id": 5, "product_name": "Teh", "category": "Groceries", "price": 5}'
    with pytest.raises(InvalidFile) as caught:
        import_file(database, "products", write(f"{good}\n{line}\n", "rows.ndjson"))
    assert any(found.startswith(f"line 2: {problem}") for found in caught.value.problems), (
        caught.value.problems
    )
    assert query(database, "SELECT count(*) FROM products") == [(0,)]


def test_only_the_first_ten_problems_are_listed(database: str, write) -> None:
    with pytest.raises(InvalidFile, match=r"  \.\.\. and 40 more lines$") as caught:
        import_file(database, "users", write(USERS + "x,y\n" * 50))
    assert len(caught.value.problems) == 10


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz", "rows"])
def test_other_delimiters_and_gzip_are_recognised(database: str, write, delimiter: str, name: str) -> None:
    text = ("\ufeff" + USERS + ROW).replace(",", delimiter).encode()
    path = write(gzip.compress(text) if name.endswith(".gz") else text, name)
    assert import_file(database, "users", path) == Imported(1, 0, 0)
    assert query(database, "SELECT id, email FROM users") == [(7, "siti@example.com")]


def test_rows_of_delimiters_are_skipped_and_counted(database: str, write) -> None:
    result = import_file(database, "users", write(USERS + ",,,,,,\n" + ROW + ", ,,\n,,,,,,\n\n"))
    assert str(result) == "1 inserted, 0 updated, 0 unchanged, 3 empty rows skipped"


def test_the_kind_of_a_pipe_is_taken_from_its_first_character(database: str, tmp_path: Path) -> None:
    user = {"id": 7, "username": "s", "email": "s@example.com", "first_name": "S", "last_name": "R"}
    for number, text in enumerate((USERS + ROW, "\n" + json.dumps(user | {"first_name": "X"}) + "\n")):
        pipe = tmp_path / str(number)
        os.mkfifo(pipe)
        threading.Thread(target=pipe.write_text, args=[text], daemon=True).start()
        import_file(database, "users", pipe)
    assert query(database, "SELECT first_name FROM users") == [("X",)]


def test_a_json_array_is_refused_with_a_hint(database: str, write) -> None:
    with pytest.raises(PlatformError, match=r"is a JSON array.*jq -c '\.\[\]'"):
        import_file(database, "users", write('[\n  {"id": 1}\n]', "rows.json"))


def test_new_rows_of_past_days_are_counted_unless_backdated(database: str, write) -> None:
    path = write(USERS + ROW + ROW.replace("7,", "8,", 1).replace("2025-06-01T10:30:00+07:00", ""))
    assert import_file(database, "users", path).dated_late == 1
    assert import_file(database, "users", path).dated_late == 0
    execute(database, "TRUNCATE users CASCADE")
    assert import_file(database, "users", path, backdate=True).dated_late == 0


def test_unknown_entities_formats_and_files_are_refused(database: str, write, tmp_path: Path) -> None:
    with pytest.raises(
        PlatformError,
        match=r"only users, .*, verdicts can be imported, not 'orders'",
    ):
        import_file(database, "orders", write(USERS))
    with pytest.raises(PlatformError, match=r"rows\.xlsx is unknown: name it \.csv or \.jsonl"):
        import_file(database, "users", write("", "rows.xlsx"))
    with pytest.raises(PlatformError, match=r"cannot read .*gone\.csv: No such file"):
        import_file(database, "users", tmp_path / "gone.csv")


def test_a_second_import_with_backdate_repairs_the_history(database: str, write) -> None:
    path = write(USERS + ROW)
    import_file(database, "users", path)
    changed = write(USERS + ROW.replace("Siti", "Sita"), "changed.csv")
    for _ in range(2):
        result = import_file(database, "users", changed, backdate=True, not_before=date(2025, 6, 1))
    assert str(result) == "0 inserted, 0 updated, 1 unchanged", "nothing is left to repair"
    versions = query(database, "SELECT valid_from, first_name FROM users_history ORDER BY 1, version")
    assert versions[0] == (CREATED, "Siti")
    assert [name for _, name in versions] == ["Siti", "Siti", "Sita"]
    execute(database, "TRUNCATE users, users_history CASCADE")
    import_file(database, "users", path)
    assert str(import_file(database, "users", path, backdate=True)) == (
        "0 inserted, 0 updated, 1 unchanged, 1 dated back"
    )


def test_orders_are_stored_while_users_are_imported(database: str, write) -> None:
    """A running import does not block the consumer's foreign keys."""
    import_file(database, "users", write(USERS + ROW))
    execute(
        database,
        "INSERT INTO products (id, product_name, category, price, created_date) "
        "VALUES (1, 'a', 'b', 5, now())",
    )
    with closing(connect(database)) as importing, importing, importing.cursor() as cursor:
        cursor.execute("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE")  # as an import does
        execute(
            database,
            "SET LOCAL lock_timeout = '2s'; INSERT INTO orders "
            "VALUES (1, 7, 1, 1, 5, 'OVO', 'ID', false, '{}', '{}', 'v', now(), now(), 0, 0)",
        )
    assert query(database, "SELECT user_id FROM orders") == [(7,)]
