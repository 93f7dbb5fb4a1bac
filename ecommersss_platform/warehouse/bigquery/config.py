"""Which BigQuery, and as whom: the connection settings, job labels, links to the console.

Imports no Google library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ecommersss_platform.settings import Settings

TABLE_LABELS = {"managed_by": "ecommersss"}

_LABEL_LENGTH = 63


@dataclass(frozen=True)
class BigQueryConfig:
    """How to reach the datasets of a Google Cloud project."""

    project: str
    location: str
    billing_project: str | None = None
    """The project that runs and pays for jobs; None: `project`."""
    key_file: Path | None = None
    """A service account's key; None: the application default credentials."""
    impersonate: str | None = None
    """A service account to act as; None: no impersonation."""
    maximum_bytes_billed: int | None = None
    """BigQuery refuses a query that would scan more, before it costs anything."""
    endpoint: str | None = None
    """The address of an emulator. No credentials are read or sent then."""

    @classmethod
    def of(cls, settings: Settings) -> BigQueryConfig:
        assert settings.bigquery_project is not None  # validated by Settings
        return cls(
            project=settings.bigquery_project,
            location=settings.bigquery_location,
            billing_project=settings.bigquery_billing_project,
            key_file=settings.bigquery_key_file and settings.bigquery_key_file.expanduser(),
            impersonate=settings.bigquery_impersonate,
            maximum_bytes_billed=settings.bigquery_maximum_bytes_billed,
            endpoint=settings.bigquery_endpoint,
        )

    @property
    def job_project(self) -> str:
        return self.billing_project or self.project


def label(value: str) -> str:
    """Return a valid label value: at most 63 lower-case letters, digits, dashes and underscores."""
    return re.sub(r"[^a-z0-9_-]", "_", value.lower())[:_LABEL_LENGTH]


def console_url(project: str, location: str, job_id: str) -> str:
    return (
        f"https://console.cloud.google.com/bigquery?project={project}"
        f"&j=bq:{location}:{job_id}&page=queryresults"
    )
