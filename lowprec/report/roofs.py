"""Measuring a machine's roofs: caches, memory, the way between two cores."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from lowprec.perfmodel.roofs import LINE, Roofs
from lowprec.report.machine import baseline
from lowprec.report.timing import _clock, huge_buffer, probe

__all__ = ["APART", "FIRST_LEVEL", "Line", "between_cores", "measure_roofs", "sweep_ns"]

#: Bytes that every first-level cache holds: where the curve of reading begins.
FIRST_LEVEL = 4096

#: A cache line that takes so many times longer, or shorter, from core to core than before: the threads run elsewhere now.
APART = 2.0

#: A line is never under way so long, in nanoseconds, where each thread has a CPU; how often to wait for that, and seconds each.
_ALONE_NS, _PATIENCE, _PAUSE = 1000.0, 20, 0.5

#: Models that two workers contend for: more than a few cache lines, and within any second-level cache.
_CONTENDED = tuple(2**k for k in range(11, 17))


def sweep_ns(
    buffer: np.ndarray, n_bytes: int, seconds: float = 0.001, *, write: bool = False, n_threads: int = 1, shared: bool = False
) -> float:
    """Nanoseconds for a cache line and thread of going over `n_bytes` again and again, about `seconds` long.

    Parameters
    ----------
    buffer : array of uint8
        32-byte aligned, room for what all threads read.
    n_bytes : int
        A multiple of 128.
    seconds : float
    write : bool
        Write back what was read, changed.
    n_threads : int
    shared : bool
        All threads go over the same bytes.
    """
    from lowprec.report import _roofs

    def timed(passes: int) -> float:
        start = _clock()
        _roofs.sweep(buffer, n_bytes, passes, write=write, n_threads=n_threads, shared=shared)
        return _clock() - start

    timed(1)  # touches the pages, wakes the threads
    passes = max(2**16 // n_bytes, 1)
    while (elapsed := timed(passes)) < seconds / 4:
        passes = max(2 * passes, round(passes * min(seconds / (2 * elapsed), 16)))
    return elapsed / passes / (n_bytes / LINE) * 1e9


class Line:
    """A cache line that two threads send to and fro."""

    def __init__(self) -> None:
        self.buffer = huge_buffer(LINE)

    def ns(self, rounds: int = 400) -> float | None:
        """Nanoseconds from one core to the other now; None where there are no two threads.

        Depends on where the threads happen to run: on a machine whose cores share caches in groups, or on a virtual one, by
        a factor of four.
        """
        from lowprec.report import _roofs

        if not _roofs.ping_pong(self.buffer, 40):  # wakes the second thread
            return None
        start = _clock()
        _roofs.ping_pong(self.buffer, rounds)
        return (_clock() - start) / (2 * rounds) * 1e9


def _middle(measure: Callable[[], float], repeats: int) -> float:
    return statistics.median(measure() for _ in range(repeats))


def measure_roofs(buffer: np.ndarray, threads: int, seconds: float = 2.0) -> Roofs:
    """Measure the roofs of this machine.

    Parameters
    ----------
    buffer : array of uint8
        Page-aligned memory that no cache holds, every page touched. Its numbers change.
    threads : int
        How many "all" are.
    seconds : float
        About how long to take.

    Raises
    ------
    RuntimeError
        If this CPU cannot run the loops of this build.
    """
    if baseline() is None:
        raise RuntimeError("roofs: this CPU cannot run the plain C loops of this build")
    sizes = [2**k for k in range(FIRST_LEVEL.bit_length() - 1, (buffer.size // 2).bit_length())]
    repeats = 7
    # Streams take a fifth of the time and contention as much, the curve the rest.
    each = seconds / repeats / len(sizes)
    read = tuple((size, _middle(lambda s=size: sweep_ns(buffer, s, each / 2), repeats)) for size in sizes)
    share = buffer.size // threads // 4096 * 4096
    stream = LINE / _middle(lambda: sweep_ns(buffer, buffer.size // 128 * 128, 0.0), repeats)
    stream_all = threads * LINE / _middle(lambda: sweep_ns(buffer, share, 0.0, n_threads=threads), repeats)
    line, contended = between_cores(buffer, each * repeats * len(_CONTENDED)) if threads > 1 else (None, None)
    # Noise may make the whole slower than a part of it.
    return Roofs(read, stream, max(stream, stream_all), threads, line, contended, probe())


def between_cores(buffer: np.ndarray, seconds: float = 0.2) -> tuple[float | None, float | None]:
    """Nanoseconds of a line from core to core, and of a contended line, while the threads are closest to each other.

    Parameters
    ----------
    buffer : array of uint8
        Page-aligned, 64 KiB or more. Its numbers change.
    seconds : float
        About how long to take; longer while the threads have no CPU each of their own.

    Returns
    -------
    tuple of float
        Or of None, where there are no two threads.
    """
    line = Line()
    for _ in range(_PATIENCE):
        now = line.ns()
        if now is None:
            return None, None
        if now < _ALONE_NS:
            break
        time.sleep(_PAUSE)
    pairs, repeats = [], 7
    each = seconds / repeats / len(_CONTENDED) / 2
    for _ in range(repeats):
        for size in _CONTENDED:
            now = line.ns() or 0.0
            pairs.append((now, sweep_ns(buffer, size, each, write=True, n_threads=2, shared=True)))
    least = min(now for now, _ in pairs)
    near = [pair for pair in pairs if pair[0] <= APART * least]
    return statistics.median(now for now, _ in near), statistics.median(ns for _, ns in near)
