"""`ecommersss export`: files for tools outside the platform."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ecommersss_platform.cli.common import read_settings
from ecommersss_platform.cli.days import (
    FromOption,
    LabelsAsOfOption,
    ToOption,
    business_today,
    days_to_do,
)

app = typer.Typer(help="Files for tools outside the platform.", no_args_is_help=True)


@app.command("training-set")
def training_set(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="the new Parquet file")],
    first: FromOption,
    last: ToOption,
    labels_as_of: LabelsAsOfOption,
) -> None:
    """Write the orders of these days with features, verdicts and labels, to train a model on.

    Features are what the stream knew when it decided, and labels what was known at the end of a day, so
    nothing that came later leaks into either.
    """
    from ecommersss_platform.days import Days
    from ecommersss_platform.dbt.resource import PlatformDbt
    from ecommersss_platform.laboratory.training_set import TrainingSet, write_training_set
    from ecommersss_platform.warehouse import make_warehouse
    from streaming.files import new_file

    settings = read_settings()
    days = Days.between(*days_to_do(first, last, None, settings))
    asked = TrainingSet.of(days, labels_as_of, business_today())
    with new_file(file) as out:
        written = write_training_set(asked, make_warehouse(settings), PlatformDbt(settings), out)
    labels = ", ".join(f"{count} {label}" for label, count in sorted(written.labels.items()))
    typer.echo(
        f"{file}: {written.rows} orders of {days}; labels at the end of {labels_as_of}: {labels or 'none'}"
    )
