"""Disks that the platform writes to and that are nearly full."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from ecommersss_platform.alerts.look import Look
from ecommersss_platform.alerts.problem import Problem

GIB = 2**30
FEWEST_BYTES = 1 * GIB
FEWEST_SHARE, ENOUGH_BYTES = 0.05, 20 * GIB
"""A disk is nearly full below 1 GiB, and below 5 % unless that is 20 GiB or more."""


def nearly_full(total: int, free: int) -> bool:
    """Return whether a disk is nearly full. `total` and `free` are in bytes."""
    return free < FEWEST_BYTES or (free < FEWEST_SHARE * total and free < ENOUGH_BYTES)


def full_disks(look: Look) -> Iterator[Problem]:
    """Yield a problem for each nearly full disk that holds the home, PostgreSQL or the warehouse."""
    settings = look.settings
    seen: set[int] = set()
    for name, path in (
        ("home", settings.home),
        ("PostgreSQL", settings.postgres_dir),
        ("warehouse", settings.warehouse_path),
    ):
        place = existing(path)
        if (device := place.stat().st_dev) in seen:
            continue
        seen.add(device)
        disk = shutil.disk_usage(place)
        if nearly_full(disk.total, disk.free):
            yield Problem(
                "disk_nearly_full",
                name,
                f"the disk of {place} has {disk.free / GIB:.1f} of {disk.total / GIB:.1f} GiB free: remove"
                " what is not needed, shorten the retention (docs/operate.md), or enlarge the disk",
            )


def existing(path: Path) -> Path:
    """Return the path, resolved, or the nearest folder above it that exists."""
    path = path.resolve()
    return next(place for place in (path, *path.parents) if place.exists())
