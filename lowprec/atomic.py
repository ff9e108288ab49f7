"""Files that are replaced at once or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["replace", "sync_folder"]


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; names are not part of the files that they name."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(path: Path, write: Callable[[Any], Any]) -> None:
    """Replace a file: whoever reads it finds the old one or the new one, whenever this process is killed.

    Parameters
    ----------
    path : Path
        Beside it, ``path.new`` is written.
    write : callable
        Called with a binary file to write the content to. If it raises, or the disk is full, the old file stays.
    """
    new = path.with_name(path.name + ".new")
    try:
        with open(new, "wb") as f:
            write(f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
