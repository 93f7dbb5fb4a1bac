"""Credentials for BigQuery, and Google's errors as one sentence each, without any part of a secret."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import google.auth
import google.auth.aws
import google.auth.compute_engine
import google.auth.credentials
import google.auth.exceptions
import google.auth.identity_pool
import google.auth.impersonated_credentials
import google.auth.pluggable
import google.auth.transport.requests
import google.oauth2.service_account
import requests.exceptions
from google.api_core import exceptions

from ecommersss_platform.warehouse.bigquery.config import BigQueryConfig
from ecommersss_platform.warehouse.errors import TableNotFound, WarehouseBusy, WarehouseError
from streaming.errors import first_line

SCOPES = ("https://www.googleapis.com/auth/bigquery", "https://www.googleapis.com/auth/cloud-platform")

UNCLEAR = (
    ConnectionError,
    requests.exceptions.ConnectionError,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.Timeout,
    exceptions.InternalServerError,
    exceptions.BadGateway,
    exceptions.ServiceUnavailable,
    exceptions.GatewayTimeout,
    exceptions.TooManyRequests,
)
"""Errors that leave open whether the request was carried out."""

_TRANSIENT_REASONS = {
    "backendError",
    "internalError",
    "jobBackendError",
    "jobInternalError",
    "jobRateLimitExceeded",
    "rateLimitExceeded",
}
_TRANSIENT_WORDS = (
    "could not serialize access",
    "concurrent update",
    "too many dml statements outstanding",
    "transaction is aborted due to concurrent",
    # Two first publications create their lock at once: CREATE TABLE IF NOT EXISTS may lose too.
    "already exists: table",
)


def credentials(config: BigQueryConfig) -> google.auth.credentials.Credentials:
    """Return the platform's credentials. Raises WarehouseError."""
    if config.endpoint:
        return google.auth.credentials.AnonymousCredentials()
    if config.key_file:
        found = _key_file_credentials(config.key_file)
    else:
        try:
            found, _ = google.auth.default(scopes=SCOPES)
        except google.auth.exceptions.DefaultCredentialsError as error:
            raise WarehouseError(
                "no Google credentials were found for BigQuery: run `gcloud auth application-default login`, "
                "or name a service account's key file in ECOMMERSSS_BIGQUERY_KEY_FILE" + _missing_file(error)
            ) from None
    # An account may not impersonate itself unless it was given that right.
    if config.impersonate is None or _account(config, found) == config.impersonate:
        return found
    return google.auth.impersonated_credentials.Credentials(
        source_credentials=found, target_principal=config.impersonate, target_scopes=list(SCOPES)
    )


def _account(config: BigQueryConfig, found: google.auth.credentials.Credentials) -> str | None:
    """Return the e-mail of the service account that the credentials are of; None: of no service account."""
    if isinstance(found, google.auth.compute_engine.Credentials):
        with readable_errors(config):  # the machine's metadata server knows it
            found.refresh(google.auth.transport.requests.Request())
    email: str | None = getattr(found, "service_account_email", None)
    return email


def check_credentials(config: BigQueryConfig) -> dict[str, str]:
    """Check that Google accepts the credentials. Raises WarehouseError.

    Return the environment variables by which dbt finds the same ones, besides the settings.
    """
    found = credentials(config)
    if not found.valid:
        with readable_errors(config):
            found.refresh(google.auth.transport.requests.Request())
    variables = {}
    if config.key_file:
        variables["GOOGLE_APPLICATION_CREDENTIALS"] = str(config.key_file.absolute())
    if config.impersonate and not isinstance(found, google.auth.impersonated_credentials.Credentials):
        variables["ECOMMERSSS_BIGQUERY_IMPERSONATE"] = ""
    return variables


def _missing_file(error: google.auth.exceptions.DefaultCredentialsError) -> str:
    message = str(error)
    return f" ({message})" if message.startswith("File ") and "was not found" in message else ""


def _key_file_credentials(path: Path) -> google.auth.credentials.Credentials:
    setting = f"ECOMMERSSS_BIGQUERY_KEY_FILE: {path}"
    try:
        info = json.loads(path.read_text("utf-8"))
        if info.get("type") == "external_account":
            return _federated_credentials(info)
        return google.oauth2.service_account.Credentials.from_service_account_info(info, scopes=SCOPES)
    except OSError as error:
        raise WarehouseError(f"{setting} cannot be read: {error.strerror}") from None
    # The texts of these errors may quote the file.
    except (ValueError, TypeError, AttributeError, KeyError, google.auth.exceptions.GoogleAuthError):
        raise WarehouseError(
            f"{setting} is not the JSON key of a service account, nor a configuration of workload identity "
            "federation: create one with `gcloud iam service-accounts keys create`, or leave the setting out "
            "to use application default credentials"
        ) from None


def _federated_credentials(info: Mapping[str, Any]) -> google.auth.credentials.Credentials:
    """Return the credentials of a workload outside Google Cloud, by where it gets its own token."""
    source = info["credential_source"]
    module: Any = google.auth.identity_pool
    if "environment_id" in source:
        module = google.auth.aws
    elif "executable" in source:
        module = google.auth.pluggable
    found: google.auth.credentials.Credentials = module.Credentials.from_info(info, scopes=SCOPES)
    return found


@contextmanager
def readable_errors(config: BigQueryConfig) -> Iterator[None]:
    """Raise a WarehouseError of one sentence in place of what Google's libraries raise."""
    try:
        yield
    except google.auth.exceptions.RefreshError as error:
        raise WarehouseError(_refused_credentials(config, error)) from error
    except google.auth.exceptions.TransportError as error:
        raise WarehouseError(f"Google's sign-in could not be reached: {first_line(error)}") from error
    except exceptions.Unauthorized as error:
        raise WarehouseError(_refused_credentials(config, error)) from error
    except exceptions.NotFound as error:
        raise TableNotFound(
            f"{reason_text(error)}; if that is a table or a dataset, materialise it first (location "
            f"{config.location}, project {config.project})"
        ) from error
    except (*UNCLEAR, exceptions.RetryError) as error:
        raise WarehouseBusy(f"BigQuery could not be reached: {first_line(error)}; run again") from error
    except exceptions.GoogleAPICallError as error:
        if is_transient(error):
            raise WarehouseBusy(f"BigQuery is busy: {reason_text(error)}; run again") from error
        raise WarehouseError(_refused_request(config, error)) from error


def _refused_credentials(config: BigQueryConfig, error: Exception) -> str:
    if config.impersonate:
        what = (
            f"ECOMMERSSS_BIGQUERY_IMPERSONATE: Google does not let us act as {config.impersonate}: "
            "the account must exist, and the caller needs the role Service Account Token Creator on it"
        )
    elif config.key_file:
        what = (
            f"ECOMMERSSS_BIGQUERY_KEY_FILE: Google does not accept the key in {config.key_file}: "
            "create a new one"
        )
    else:
        what = (
            "Google does not accept the application default credentials: run "
            "`gcloud auth application-default login` again"
        )
    return f"{what} ({first_line(error)})"


def _refused_request(config: BigQueryConfig, error: exceptions.GoogleAPICallError) -> str:
    message = reason_text(error)
    codes = reasons(error)
    if "billingNotEnabled" in codes or "billing has not been enabled" in message.lower():
        return (
            f"the project {config.job_project} has no billing (a BigQuery sandbox), so it refuses the "
            "statements that publish days, and deletes tables after 60 days; link a billing account to it "
            "and run again"
        )
    if "bytesBilledLimitExceeded" in codes:
        return f"{message}; ask for fewer days or columns, or raise ECOMMERSSS_BIGQUERY_MAXIMUM_BYTES_BILLED"
    if isinstance(error, exceptions.Forbidden) and "accessDenied" in codes:
        return (
            f"{message}; the account needs the role BigQuery Job User on the project "
            f"{config.job_project} and BigQuery Data Editor on the datasets of {config.project}; "
            "a role that was granted minutes ago may need some more"
        )
    return f"BigQuery refused: {message}"


def reason_text(error: exceptions.GoogleAPICallError) -> str:
    """Return the service's message, without the request's URL around it."""
    for one in error.errors or ():
        if isinstance(one, Mapping) and one.get("message"):
            return first_line(one["message"])
    return first_line(error.message or error)


def reasons(error: exceptions.GoogleAPICallError) -> set[str]:
    """Return the service's reason codes, such as accessDenied."""
    return {one.get("reason", "") for one in error.errors or () if isinstance(one, Mapping)}


def is_transient(error: exceptions.GoogleAPICallError) -> bool:
    """Return whether a failed job changed nothing and may be sent again.

    It lost against another statement on the same table, or met a temporary limit.
    """
    if reasons(error) & _TRANSIENT_REASONS:
        return True
    message = reason_text(error).lower()
    return any(words in message for words in _TRANSIENT_WORDS)
