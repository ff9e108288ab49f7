"""Measuring the link between two processes: messages to and fro."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from lowprec.checks import check_int, need_extra, wrong_value

__all__ = ["SIZES", "ping_pong"]

#: Bytes of a message.
SIZES = tuple(2**k for k in range(3, 23))

#: Round trips of a size: as many as move so many bytes, within these bounds.
_BYTES, _LEAST, _MOST = 2**26, 16, 256

#: Round trips at the beginning, not counted: buffers are touched, connections made, cores awake.
_WARM_UP = 8

#: How long a process that has no part in it sleeps between looks.
_PAUSE = 1e-3


def ping_pong(comm: Any = None, sizes: Sequence[int] = SIZES, round_trips: int | None = None) -> tuple[list[int], list[float]]:
    """How long messages between ranks 0 and 1 take.

    To be called on all ranks; those beyond 1 wait asleep. A rank that waits for a message gives its core away between looks,
    so two ranks on one core can be measured too.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, optional
        At least two ranks. Left out, all ranks there are.
    sizes : sequence of int
        Bytes of a message. The same on all ranks.
    round_trips : int, optional
        Of each size. Left out, 16 to 256, fewer the larger it is.

    Returns
    -------
    sizes : list of int
    seconds : list of float
        Of one message, half the median round trip: what `lowprec.perfmodel.fit_link` takes. On all ranks.

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
    if round_trips is not None:
        round_trips = check_int("round_trips", round_trips, minimum=1)
    seconds = np.zeros(len(sizes))
    if comm.rank < 2:
        counts = [round_trips or min(max(_BYTES // size, _LEAST), _MOST) for size in sizes]
        seconds[:] = _measure(comm, sizes, counts)
    shared = comm.Ibcast(seconds, root=0)
    while not shared.Test():
        time.sleep(_PAUSE)
    return sizes, seconds.tolist()


def _measure(comm: Any, sizes: Sequence[int], counts: Sequence[int]) -> list[float]:
    """Half the median round trip of every size, as this one of the two ranks sees it."""
    other = 1 - comm.rank
    out, back = (np.zeros(max(sizes), dtype=np.uint8) for _ in range(2))

    def round_trip(size: int) -> float:
        begin = time.perf_counter()
        answer = comm.Irecv(back[:size], source=other)
        if comm.rank == 0:
            _finish(comm.Isend(out[:size], dest=other))
            _finish(answer)
        else:
            _finish(answer)
            _finish(comm.Isend(out[:size], dest=other))
        return time.perf_counter() - begin

    for _ in range(_WARM_UP):
        for size in sizes:
            round_trip(size)
    times: list[list[float]] = [[] for _ in sizes]
    # Sizes take turns, so that what else the machine does hits all of them.
    for turn in range(max(counts)):
        for size, count, taken in zip(sizes, counts, times, strict=True):
            if turn < count:
                taken.append(round_trip(size))
    return [statistics.median(taken) / 2 for taken in times]


def _finish(request: Any) -> None:
    """Wait for a message, and let whoever else needs this core have it."""
    while not request.Test():
        os.sched_yield()
