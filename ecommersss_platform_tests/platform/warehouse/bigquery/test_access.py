"""Access to BigQuery: credentials, and refusals as sentences that name the setting."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import google.auth
import google.auth.aws
import google.auth.compute_engine
import google.auth.exceptions
import google.auth.identity_pool
import google.auth.impersonated_credentials
import google.auth.pluggable
import google.oauth2.credentials
import google.oauth2.service_account
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.api_core import exceptions

from ecommersss_platform.warehouse import TableNotFound, WarehouseError
from ecommersss_platform.warehouse.bigquery.access import credentials, is_transient, readable_errors
from ecommersss_platform.warehouse.bigquery.config import BigQueryConfig
from ecommersss_platform.warehouse.bigquery.warehouse import BigQueryWarehouse
from ecommersss_platform_tests.support.bigquery_service import WAREHOUSE


@dataclass
class SignIn:
    """A stand-in for Google's token server."""

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
        "client_email": ME,
        "token_uri": sign_in.address,
    }
    key["private_key"] = private.decode()
    (folder / "key.json").write_text(json.dumps(key))
    return BigQueryWarehouse(BigQueryConfig("shop", "US", key_file=folder / "key.json"))


def test_good_key_is_accepted(sign_in: SignIn, tmp_path: Path) -> None:
    place = warehouse(sign_in, tmp_path)
    assert place.check_access() == {"GOOGLE_APPLICATION_CREDENTIALS": str(place.config.key_file)}
    assert sign_in.asked == 1


def test_revoked_key_is_named_and_not_quoted(sign_in: SignIn, tmp_path: Path) -> None:
    sign_in.status, sign_in.answer = 400, {"error": "invalid_grant", "error_description": "Invalid JWT"}
    with pytest.raises(WarehouseError) as caught:
        warehouse(sign_in, tmp_path).check_access()
    message = str(caught.value)
    assert message.startswith(
        f"ECOMMERSSS_BIGQUERY_KEY_FILE: Google does not accept the key in {tmp_path}/key.json: "
        "create a new one"
    )
    assert "invalid_grant" in message
    assert "PRIVATE" not in message
    assert "\n" not in message


def test_missing_default_credentials_say_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(WarehouseError, match=r"gcloud auth application-default login.*none\.json"):
        BigQueryWarehouse(BigQueryConfig("shop", "US")).check_access()


def test_emulator_needs_no_credentials() -> None:
    BigQueryWarehouse(BigQueryConfig("shop", "US", endpoint="http://127.0.0.1:1")).check_access()


def test_missing_credentials_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(**_: Any) -> Any:
        raise google.auth.exceptions.DefaultCredentialsError(
            "Your default credentials were not found.\nSee ..."
        )

    monkeypatch.setattr(google.auth, "default", none)
    with pytest.raises(WarehouseError) as failure:
        credentials(BigQueryConfig("shop", "US"))
    assert str(failure.value) == (
        "no Google credentials were found for BigQuery: run `gcloud auth application-default login`, or name "
        "a service account's key file in ECOMMERSSS_BIGQUERY_KEY_FILE"
    )


ME = "dbt@shop.iam.gserviceaccount.com"
FEDERATED = {
    "type": "external_account",
    "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/x",
    "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    "token_url": "https://sts.googleapis.com/v1/token",
    "credential_source": {"file": "/var/run/token"},
    "service_account_impersonation_url": "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/"
    f"{ME}:generateAccessToken",
}


def configured(path: Path, impersonate: str | None) -> BigQueryConfig:
    return BigQueryConfig("shop", "US", key_file=path, impersonate=impersonate)


def test_a_key_does_not_impersonate_its_own_account(sign_in: SignIn, tmp_path: Path) -> None:
    path = warehouse(sign_in, tmp_path).config.key_file
    assert path is not None
    for impersonate, kind in (
        (ME, google.oauth2.service_account.Credentials),
        ("other@shop.iam.gserviceaccount.com", google.auth.impersonated_credentials.Credentials),
    ):
        assert type(credentials(configured(path, impersonate))) is kind
    assert BigQueryWarehouse(configured(path, ME)).check_access() == {
        "GOOGLE_APPLICATION_CREDENTIALS": str(path),
        "ECOMMERSSS_BIGQUERY_IMPERSONATE": "",
    }


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ({"file": "/var/run/token"}, google.auth.identity_pool.Credentials),
        (
            {
                "environment_id": "aws1",
                "regional_cred_verification_url": "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity",
            },
            google.auth.aws.Credentials,
        ),
        ({"executable": {"command": "/bin/token"}}, google.auth.pluggable.Credentials),
    ],
)
def test_workload_identity_federation_is_accepted_as_a_key_file(
    tmp_path: Path, source: dict[str, Any], kind: type
) -> None:
    path = tmp_path / "federated.json"
    path.write_text(json.dumps(FEDERATED | {"credential_source": source}))
    found = credentials(configured(path, ME))
    assert type(found) is kind
    assert found.service_account_email == ME


def test_a_workload_that_runs_as_the_account_does_not_impersonate_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Terraform's output names the account to impersonate for people, and a workload may get the same."""
    found = google.auth.compute_engine.Credentials(universe_domain="googleapis.com")
    monkeypatch.setattr(google.auth, "default", lambda **_: (found, "shop"))
    monkeypatch.setattr(found, "refresh", lambda _: setattr(found, "_service_account_email", ME))
    assert credentials(BigQueryConfig("shop", "US", impersonate=ME)) is found
    # Nor does dbt.
    signed_in = BigQueryWarehouse(BigQueryConfig("shop", "US", impersonate=ME)).check_access()
    assert signed_in == {"ECOMMERSSS_BIGQUERY_IMPERSONATE": ""}
    other = credentials(BigQueryConfig("shop", "US", impersonate="other@shop.iam.gserviceaccount.com"))
    assert isinstance(other, google.auth.impersonated_credentials.Credentials)


def test_people_impersonate_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    person = google.oauth2.credentials.Credentials("token")
    monkeypatch.setattr(google.auth, "default", lambda **_: (person, None))
    found = credentials(BigQueryConfig("shop", "US", impersonate=ME))
    assert isinstance(found, google.auth.impersonated_credentials.Credentials)
    monkeypatch.setattr(google.auth.impersonated_credentials.Credentials, "refresh", lambda *_: None)
    assert BigQueryWarehouse(BigQueryConfig("shop", "US", impersonate=ME)).check_access() == {}


@pytest.mark.parametrize(
    "text", ["not json", '{"client_email": "s3cret"}', "[]", '{"type": "external_account"}']
)
def test_bad_key_file_is_named_and_not_quoted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key.json"
    path.write_text(text)
    with pytest.raises(WarehouseError, match="is not the JSON key of a service account") as failure:
        credentials(BigQueryConfig("shop", "US", key_file=path))
    assert str(path) in str(failure.value)
    assert "s3cret" not in str(failure.value)
    with pytest.raises(WarehouseError, match="cannot be read: No such file"):
        credentials(BigQueryConfig("shop", "US", key_file=tmp_path / "missing.json"))


def test_refused_credentials_name_the_setting() -> None:
    error = google.auth.exceptions.RefreshError("invalid_grant: account not found")
    for config, says in (
        (
            BigQueryConfig("shop", "US", key_file=Path("k.json")),
            "ECOMMERSSS_BIGQUERY_KEY_FILE: Google does",
        ),
        (BigQueryConfig("shop", "US", impersonate="a@b"), "ECOMMERSSS_BIGQUERY_IMPERSONATE: Google does"),
        (BigQueryConfig("shop", "US"), "application default credentials"),
    ):
        with pytest.raises(WarehouseError, match=says), readable_errors(config):
            raise error


def refused(kind: type[exceptions.GoogleAPICallError], reason: str, message: str) -> Any:
    return kind(f"POST https://x: {message}", errors=[{"reason": reason, "message": message}])


def test_refused_requests_are_sentences() -> None:
    for error, wanted, says in (
        (refused(exceptions.Forbidden, "accessDenied", "Access Denied"), WarehouseError, "BigQuery Job User"),
        (
            refused(exceptions.NotFound, "notFound", "Not found: Table x"),
            TableNotFound,
            "^Not found: Table x",
        ),
        (
            refused(exceptions.BadRequest, "bytesBilledLimitExceeded", "limit"),
            WarehouseError,
            "raise ECOMMERSSS_BIGQUERY_MAXIMUM_BYTES_BILLED",
        ),
    ):
        with pytest.raises(wanted, match=says), readable_errors(WAREHOUSE.config):
            raise error


def test_only_transient_failures_are_sent_again() -> None:
    conflict = "Could not serialize access to table shop:raw.orders due to concurrent update"
    assert is_transient(refused(exceptions.BadRequest, "invalidQuery", conflict))
    assert is_transient(refused(exceptions.Forbidden, "jobRateLimitExceeded", "slow down"))
    lock = "Already Exists: Table shop:raw.orders_lock at [1:1]"
    assert is_transient(refused(exceptions.BadRequest, "invalidQuery", lock))
    assert not is_transient(refused(exceptions.BadRequest, "invalidQuery", "Syntax error"))
    assert not is_transient(refused(exceptions.Forbidden, "quotaExceeded", "Quota exceeded"))
