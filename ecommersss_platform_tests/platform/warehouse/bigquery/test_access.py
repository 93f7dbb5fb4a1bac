"""Whether BigQuery lets us in, asked before dbt is started: a refusal is one sentence, with the setting."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ecommersss_platform.warehouse import WarehouseError
from ecommersss_platform.warehouse.bigquery.config import BigQueryConfig
from ecommersss_platform.warehouse.bigquery.warehouse import BigQueryWarehouse


@dataclass
class SignIn:
    """Stands in for Google's token server."""

    address: str = ""
    status: int = 200
    answer: dict[str, object] = field(
        default_factory=lambda: {"access_token": "t0ken", "expires_in": 3600, "token_type": "Bearer"}
    )
    asked: int = 0


@pytest.fixture
def sign_in() -> Iterator[SignIn]:
    place = SignIn()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            place.asked += 1
            body = json.dumps(place.answer).encode()
            self.send_response(place.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place.address = f"http://127.0.0.1:{server.server_port}/token"
        yield place
        server.shutdown()


def warehouse(sign_in: SignIn, folder: Path) -> BigQueryWarehouse:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key = {
        "type": "service_account",
        "project_id": "shop",
        "private_key_id": "1",
        "client_email": "dbt@shop.iam.gserviceaccount.com",
        "token_uri": sign_in.address,
    }
    key["private_key"] = private.decode()
    (folder / "key.json").write_text(json.dumps(key))
    return BigQueryWarehouse(BigQueryConfig("shop", "US", key_file=folder / "key.json"))


def test_a_good_key_is_let_in(sign_in: SignIn, tmp_path: Path) -> None:
    warehouse(sign_in, tmp_path).check_access()
    assert sign_in.asked == 1


def test_a_key_that_was_revoked_is_named_and_not_quoted(sign_in: SignIn, tmp_path: Path) -> None:
    sign_in.status, sign_in.answer = 400, {"error": "invalid_grant", "error_description": "Invalid JWT"}
    with pytest.raises(WarehouseError) as caught:
        warehouse(sign_in, tmp_path).check_access()
    told = str(caught.value)
    assert told.startswith(
        f"ECOMMERSSS_BIGQUERY_KEY_FILE: Google does not accept the key in {tmp_path}/key.json: "
        "create a new one"
    )
    assert "invalid_grant" in told
    assert "PRIVATE" not in told
    assert "\n" not in told


def test_missing_default_credentials_say_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(WarehouseError, match=r"gcloud auth application-default login.*none\.json"):
        BigQueryWarehouse(BigQueryConfig("shop", "US")).check_access()


def test_an_emulator_asks_nobody() -> None:
    BigQueryWarehouse(BigQueryConfig("shop", "US", endpoint="http://127.0.0.1:1")).check_access()
