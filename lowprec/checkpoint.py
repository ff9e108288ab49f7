"""Checkpoints of a training run: one file, replaced at once or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import atomic, checks
from .quantized import QuantizedArray
from .sparse import SparseArray

__all__ = ["Checkpoint", "fingerprint", "regrouped"]

_VERSION = 2
# Rows whose codes tell one data set from another; the labels count all.
_ROWS = 1024


def fingerprint(
    x: QuantizedArray | SparseArray, labels: list[np.ndarray], weights: list[np.ndarray | None], facts: dict[str, Any]
) -> str:
    """A hash of what a run depends on: its arguments, labels and weights, and a sample of the data."""
    h = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16)
    for y in labels:
        h.update(np.ascontiguousarray(y))
    for weight in {id(w): w for w in weights if w is not None}.values():
        h.update(weight)
    m = x.shape[0]
    h.update(np.asarray(x.scale, np.float64).tobytes())
    for i in range(0, m, max(1, m // _ROWS)):
        row = x[i : i + 1]
        if isinstance(row, SparseArray):
            h.update(np.ascontiguousarray(row.columns()))
        h.update(np.ascontiguousarray(row.unpacked()))
    return h.hexdigest()


def regrouped(order: np.ndarray, before: int, position: int, workers: int) -> tuple[np.ndarray, int]:
    """The rows of an epoch in an order in which other workers can go on with it.

    Parameters
    ----------
    order : ndarray of int64, shape (m,)
        As it was: worker t of `before` has positions m t / before on.
    before, position : int
        Each of so many workers has done so many examples of its share.
    workers : int
        Who goes on.

    Returns
    -------
    order : ndarray of int64, shape (m,)
    position : int
        In each new share, visited rows come before it and the others after; less than `workers` visited rows are among those.
    """
    m = len(order)
    done = np.zeros(m, bool)
    for t in range(before):
        first, last = m * t // before, m * (t + 1) // before
        done[first : min(first + position, last)] = True
    position = int(done.sum()) // workers
    # In one sequence, visited rows first, then dealt out: the head of each share from the one, the rest from the other.
    visited, rest = order[done][: position * workers], np.concatenate([order[done][position * workers :], order[~done]])
    new = np.empty_like(order)
    at = 0
    for t in range(workers):
        first, last = m * t // workers, m * (t + 1) // workers
        new[first : first + position] = visited[t * position : (t + 1) * position]
        new[first + position : last] = rest[at : at + last - first - position]
        at += last - first - position
    return new, position


class Checkpoint:
    """A file that a run can go on from.

    Parameters
    ----------
    path : str or path-like
    seconds : float
        At least so long from one to the next.
    elsewhere : bool
        Another process reads and writes it for this one.
    """

    def __init__(self, path: Any, seconds: float, *, elsewhere: bool = False) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise checks.wrong_type("checkpoint", "the path of a file", path)
        self.path, self.elsewhere = Path(path), elsewhere
        if not elsewhere and (self.path.is_dir() or not self.path.parent.is_dir()):
            raise checks.wrong_value("checkpoint", "must be a file in a folder that exists", str(path))
        self.seconds, self.last = seconds, time.monotonic()
        self.mark = ""

    def due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self.last >= self.seconds

    def write(self, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Replace the file: whoever reads it finds the old one or the new one, whenever this process is killed."""
        if self.elsewhere:
            return
        # The archive has checksums of the arrays, but none of their names.
        header = json.dumps({"version": _VERSION, "run": self.mark, "arrays": sorted(arrays), **facts}).encode()
        atomic.replace(self.path, lambda f: np.savez(f, header=np.frombuffer(header, np.uint8), **arrays))
        self.last = time.monotonic()

    def read(self) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """What was written last by this run; None where there is nothing."""
        if self.elsewhere:
            return None
        name = str(self.path)
        try:
            with open(name, "rb") as file:  # NumPy leaves files open that are no archives
                f = np.load(file, allow_pickle=False)
                arrays = {key: f[key] for key in f.files}
            facts = json.loads(arrays.pop("header").tobytes())
            version = facts["version"]
            if version == _VERSION and sorted(arrays) != facts["arrays"]:
                raise ValueError("arrays have other names")
        except FileNotFoundError:
            return None
        except Exception as error:  # NumPy and zipfile have a dozen ways to say that a file is broken
            raise checks.bad_file(name, f"is no checkpoint ({error})", expected="a file that train wrote; or remove it") from None
        if version != _VERSION:
            raise checks.bad_file(name, f"is a checkpoint of version {version}", expected=f"version {_VERSION}; or remove it")
        if facts["run"] != self.mark:
            raise checks.bad_file(
                name, "is the checkpoint of another run", expected="the same data and arguments; remove it, or name another file"
            )
        return facts, arrays
