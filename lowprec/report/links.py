"""Measuring the link between two processes: messages to and fro, or both ways at once."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from lowprec.checks import check_bool, check_int, need_extra, wrong_value

__all__ = ["SIZES", "message_times"]

#: Bytes of a message.
SIZES = tuple(2**k for k in range(3, 23))

#: How often a size is sent: until so many bytes have moved, within these bounds.
_BYTES, _LEAST, _MOST = 2**26, 16, 256

#: So often at the beginning, not counted: buffers are touched, connections made, cores awake.
_WARM_UP = 8

#: How long a process that has no part in it sleeps between looks.
_PAUSE = 1e-3


def message_times(
    comm: Any = None, sizes: Sequence[int] = SIZES, *, both_ways: bool = True, repeats: int | None = None
) -> tuple[list[int], list[float]]:
    """How long messages between ranks 0 and 1 take.

    To be called on all ranks; those beyond 1 wait asleep. A rank that waits for a message gives its core away between looks,
    so two ranks on one core can be measured too.

    In an exchange everyone sends while it receives. Between processes of one machine that takes up to twice as long, for they
    copy messages themselves; a network card does both at once.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, optional
        At least two ranks. Left out, all ranks there are.
    sizes : sequence of int
        Bytes of a message. The same on all ranks.
    both_ways : bool
        Both send at the same time; otherwise one answers the other, a ping-pong.
    repeats : int, optional
        How often each size is sent. Left out, 16 to 256 times, less often the larger it is.

    Returns
    -------
    sizes : list of int
    seconds : list of float
        Of one message, the median: what `lowprec.perfmodel.fit_link` takes. Of a ping-pong half a round trip. On all ranks.

    Raises
    ------
    ImportError
        Without mpi4py.
    ValueError
        If there is one rank alone, or no size.
    """
    MPI = need_extra("mpi4py.MPI", "mpi", "measuring a link")
    comm = MPI.COMM_WORLD if comm is None else comm
    if comm.size < 2:
        raise wrong_value("comm", "must have at least two ranks; start them with mpiexec -n 2", comm.size)
    if len(sizes) == 0:
        raise wrong_value("sizes", "must not be empty", sizes)
    sizes = [check_int("sizes", size, minimum=1) for size in sizes]
    if repeats is not None:
        repeats = check_int("repeats", repeats, minimum=1)
    check_bool("both_ways", both_ways)
    seconds = np.zeros(len(sizes))
    if comm.rank < 2:
        counts = [repeats or min(max(_BYTES // size, _LEAST), _MOST) for size in sizes]
        seconds[:] = _measure(comm, sizes, counts, both_ways)
    shared = comm.Ibcast(seconds, root=0)
    while not shared.Test():
        time.sleep(_PAUSE)
    return sizes, seconds.tolist()


def _measure(comm: Any, sizes: Sequence[int], counts: Sequence[int], both_ways: bool) -> list[float]:
    """The median time of a message of every size, as this one of the two ranks sees it."""
    other = 1 - comm.rank
    out, back = (np.zeros(max(sizes), dtype=np.uint8) for _ in range(2))

    def message(size: int) -> float:
        begin = time.perf_counter()
        received = comm.Irecv(back[:size], source=other)
        if both_ways or comm.rank == 0:
            _finish(comm.Isend(out[:size], dest=other))
            _finish(received)
        else:
            _finish(received)
            _finish(comm.Isend(out[:size], dest=other))
        elapsed = time.perf_counter() - begin
        return elapsed if both_ways else elapsed / 2

    for _ in range(_WARM_UP):
        for size in sizes:
            message(size)
    times: list[list[float]] = [[] for _ in sizes]
    # Sizes take turns, so that what else the machine does hits all of them.
    for turn in range(max(counts)):
        for size, count, taken in zip(sizes, counts, times, strict=True):
            if turn < count:
                taken.append(message(size))
    return [statistics.median(taken) for taken in times]


def _finish(request: Any) -> None:
    """Wait for a message, and let whoever else needs this core have it."""
    while not request.Test():
        os.sched_yield()
