"""Timing on a machine that is not quiet: interleaved runs, ratios of neighbors, medians and quartiles.

A shared machine changes its speed from second to second, by more than the differences that matter. So nothing
is timed on its own. Cases take turns; right before each run the same memory is read once (the *roof*), and a
case's share of the roof is the median of such pairs. A ratio of two cases is the median of their ratios
within a turn.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from lowprec.report.machine import baseline

__all__ = ["Case", "Spread", "Turns", "huge_buffer", "probe", "ratios", "read_gbps", "spread", "take_turns"]

_clock = time.perf_counter

_HUGE_PAGE = 2 * 2**20


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    q1: float
    q3: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of one or more numbers."""
    if len(values) == 0:
        raise ValueError("spread: needs at least one value")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, q1, q3)


def ratios(a: Sequence[float], b: Sequence[float]) -> Spread:
    """Spread of a[i] / b[i]: how much faster a was than b in the same turn."""
    if len(a) != len(b):
        raise ValueError(f"ratios: needs as many values of one as of the other; got {len(a)} and {len(b)}")
    return spread([x / y for x, y in zip(a, b, strict=True)])


def geometric_mean(values: Sequence[float]) -> float:
    """The mean that suits ratios."""
    return math.exp(statistics.fmean(math.log(v) for v in values))


def huge_buffer(n_bytes: int) -> np.ndarray:
    """A page-aligned uint8 array, in huge pages where there are any: page walks would blur the figures."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.frombuffer(mmap.mmap(-1, n_bytes), dtype=np.uint8)
    # Private, for Python's default is shared memory, which has a huge page setting of its own, usually off; and from a
    # multiple of the page size, which older kernels do not see to.
    pages = mmap.mmap(-1, n_bytes + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel built without them
        pages.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(pages, dtype=np.uint8)
    start = -whole.ctypes.data % _HUGE_PAGE
    return whole[start : start + n_bytes]


def _read(buffer: np.ndarray) -> None:
    plain = baseline()
    if plain is not None:
        plain.read(buffer)
    else:
        np.bitwise_xor.reduce(buffer.view(np.uint64))


def read_gbps(buffer: np.ndarray, n_threads: int = 1) -> float:
    """Read a buffer once, front to back, and return the speed in 10^9 bytes per second.

    Parameters
    ----------
    buffer : array of uint8
        32-byte aligned.
    n_threads : int
        Each thread reads a share of its own.
    """
    if n_threads == 1:
        start = _clock()
        _read(buffer)
        return buffer.size / (_clock() - start) / 1e9
    share = buffer.size // n_threads // 4096 * 4096
    parts = [buffer[k * share : (k + 1) * share] for k in range(n_threads)]
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(len, parts))  # the threads exist before the clock starts
        start = _clock()
        list(pool.map(_read, parts))
        return share * n_threads / (_clock() - start) / 1e9


def probe(rounds: int = 400_000) -> float | None:
    """Speed of vector arithmetic in registers, 10^9 operations a second: it falls if others use the core."""
    plain = baseline()
    if plain is None:
        return None
    start = _clock()
    plain.vector_ops(rounds)
    return rounds * plain.PROBE_OPS_PER_ROUND / (_clock() - start) / 1e9


@dataclass
class Case:
    """One thing to be timed.

    Parameters
    ----------
    about : dict
        What it is: the fields that go into its row of the results.
    run : callable
        Does one run and returns its speed in GNPS.
    buffer : array of uint8, optional
        The memory that a run reads: its roof is the speed of reading that.
    bits : float
        Bits of one dataset number, which turn bytes of roof into numbers of roof.
    n_threads : int
        Threads that a run uses, and that its roof may use.
    """

    about: dict[str, Any]
    run: Callable[[], float]
    buffer: np.ndarray | None = None
    bits: float = 8
    n_threads: int = 1


@dataclass
class Turns:
    """What a case reached, turn by turn."""

    about: dict[str, Any]
    gnps: list[float] = field(default_factory=list)
    roof: list[float] = field(default_factory=list)
    probe: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """The measured fields of a row of the results."""
        speed = spread(self.gnps)
        row = {"gnps": speed.median, "gnps_q1": speed.q1, "gnps_q3": speed.q3, "runs": len(self.gnps)}
        if self.roof:
            share = ratios(self.gnps, self.roof)
            row |= {"roof_gnps": spread(self.roof).median, "share": share.median}
            row |= {"share_q1": share.q1, "share_q3": share.q3}
        if self.probe:
            row["probe_gops"] = spread(self.probe).median
        return row


def take_turns(
    cases: Sequence[Case],
    seconds: float,
    *,
    min_turns: int = 3,
    max_turns: int = 101,
    tick: Callable[[Case], None] = lambda case: None,
    clock: Callable[[], float] = _clock,
) -> list[Turns]:
    """Run every case once a turn, turn after turn, until the time is used up.

    Parameters
    ----------
    cases : sequence of Case
        In the order in which they take their turns.
    seconds : float
        About how long to go on. A turn that has begun is finished.
    min_turns, max_turns : int
        Turns that are taken however long they last, and never exceeded.
    tick : callable
        Called before each run with its case.
    clock : callable
        For tests.

    Returns
    -------
    list of Turns
        In the order of `cases`, all with the same number of turns.
    """
    results = [Turns(case.about) for case in cases]
    begin = clock()
    for turn in range(max_turns):
        if turn >= min_turns:
            elapsed = clock() - begin
            if elapsed + elapsed / turn > seconds:  # the next turn would not fit
                break
        for case, result in zip(cases, results, strict=True):
            tick(case)
            disturbed = probe()
            if disturbed is not None:
                result.probe.append(disturbed)
            if case.buffer is not None:
                result.roof.append(read_gbps(case.buffer, case.n_threads) * 8 / case.bits)
            result.gnps.append(case.run())
    return results
