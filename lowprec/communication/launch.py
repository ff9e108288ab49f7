"""Processes that a launcher such as ``mpiexec`` started together: how they find each other, and how they end together.

mpi4py is imported only where the launcher's environment says that there is more than one process.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from lowprec import checks

__all__ = ["Launch", "end", "launched", "world"]

# Rank and number of processes, as launchers tell them: Hydra (MPICH, Intel MPI), Open MPI, Slurm (whose batch scripts have
# SLURM_NTASKS too, and are one process).
_VARIABLES = (
    ("PMI_RANK", "PMI_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)
# PMIx tells the rank alone.
_RANK_ALONE = "PMIX_RANK"
# Of the one message that says why a rank ends, in COMM_WORLD, where `Group` sends nothing.
_TAG = 7001
# Seconds that rank 0 waits for what the other ranks have to say. They wait for it twice as long before they speak themselves.
_SECONDS = 3.0
# Seconds in which the launcher passes on what was printed: of a job that is aborted it may drop the rest.
_FORWARD = 0.2


class Launch(NamedTuple):
    """What the environment says of this process; `size` is None where it does not say how many there are."""

    rank: int
    size: int | None


def launched(environ: Mapping[str, str] = os.environ) -> Launch | None:
    """Whether a launcher started this process with others, and as which of them; None for one that is alone."""

    def number(name: str) -> int | None:
        text = environ.get(name, "")
        return int(text) if text.isascii() and text.isdigit() else None

    for names in _VARIABLES:
        rank, size = (number(name) for name in names)
        if rank is not None and size is not None:
            return Launch(rank, size) if size > 1 else None
    rank = number(_RANK_ALONE)
    return None if rank is None else Launch(rank, None)


def world() -> Any:
    """The communicator of all processes that the launcher started.

    Returns
    -------
    mpi4py.MPI.Comm or None
        ``MPI.COMM_WORLD``; None if this process is alone, and then mpi4py is not imported.

    Raises
    ------
    ImportError
        If mpi4py, or the MPI library that it needs, is not installed.
    ValueError
        If the launcher and mpi4py do not belong to the same MPI library, so that each process believes that it is alone.
    """
    found = launched()
    if found is None:
        return None
    try:
        MPI = checks.need_extra("mpi4py.MPI", "mpi", "training on several ranks")
    except RuntimeError as error:  # mpi4py found no library to load
        raise ImportError("training on several ranks needs an MPI library: pip install 'lowprec[mpi]' brings MPICH") from error
    if MPI.COMM_WORLD.Get_size() > 1:
        return MPI.COMM_WORLD
    if found.size is None:
        return None
    library = MPI.Get_library_version().split("\n")[0].strip("\0 ")
    rule = f"must be of the MPI library that mpi4py uses, {library}, for which this process is alone"
    raise checks.wrong_value("launcher", rule, f"one that started {found.size} processes")


def end(line: str, *, told: bool = False) -> None:
    """Say on stderr why a command ends. With several ranks say it once, and end all of them: then this does not return.

    Where all ranks have the same to say, rank 0 says it; otherwise each line names its rank.

    Parameters
    ----------
    line : str
        Printed after ``lowprec: ``.
    told : bool
        The reason is that another rank stopped or is lost: not worth a line where a rank has a reason of its own.
    """
    found = launched()
    communicator = None
    if found is not None:
        with contextlib.suppress(ImportError, ValueError):
            communicator = world()
    if communicator is None:
        if found is None or found.rank == 0:
            _print([line])
        return
    rank, size = communicator.Get_rank(), communicator.Get_size()
    said = {rank: (line, told)}
    if rank == 0:
        deadline = time.monotonic() + _SECONDS
        while len(said) < size and time.monotonic() < deadline:
            if communicator.iprobe(tag=_TAG):
                other, theirs = communicator.recv(tag=_TAG)
                said[other] = theirs
            else:
                time.sleep(1e-3)
        _print(_lines(said, size))
    else:
        request = communicator.isend((rank, said[rank]), 0, _TAG)
        time.sleep(2 * _SECONDS)  # rank 0 ends this process meanwhile, unless it is busy or hangs
        _print(_lines(said, size))
        del request
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    time.sleep(_FORWARD)
    communicator.Abort(1)


def _lines(said: dict[int, tuple[str, bool]], size: int) -> list[str]:
    """What is printed of the ranks' reasons: those of their own, or else the first that there is."""
    own = {rank: line for rank, (line, told) in sorted(said.items()) if not told}
    if not own:
        return [said[min(said)][0]]  # it names the rank that it waited for, or that stopped
    if len(own) == size and len(set(own.values())) == 1:
        return [own[0]]
    found = []
    for line in dict.fromkeys(own.values()):
        who = [str(rank) for rank, theirs in own.items() if theirs == line]
        found.append(f"{'rank' if len(who) == 1 else 'ranks'} {', '.join(who)}: {line}")
    return found


def _print(lines: list[str]) -> None:
    for line in lines:
        print(f"lowprec: {line}", file=sys.stderr, flush=True)
