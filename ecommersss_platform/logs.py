"""How the platform's processes log: one line an event, on standard error, instants in UTC."""

import logging
import sys
import time


def configure_logging(level: int = logging.INFO) -> None:
    """Send log records to standard error. Only for the commands: libraries never call it."""
    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # What the libraries say about doing their work is of no interest, only what goes wrong.
    logging.getLogger("alembic").setLevel(logging.WARNING)
