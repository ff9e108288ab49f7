"""The part of ``lowprec experiment communication`` that runs under mpiexec: one task of training, coding and messages.

``python -m lowprec.report.experiments.communication_worker TASK`` on every rank. TASK is a JSON file, and rank 0 leaves what was
measured in the file that it names as ``out``. `run_ranks` is how the experiment asks.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["digest", "launcher", "run_ranks"]

#: Seconds that a task may take: something hangs if it takes longer.
_LIMIT = 900.0


def launcher() -> str | None:
    """The mpiexec beside this Python, or the first on the path; None without it or without mpi4py."""
    if importlib.util.find_spec("mpi4py") is None:
        return None
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def run_ranks(ranks: int, folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Let ranks on this machine do a task.

    Parameters
    ----------
    ranks : int
    folder : Path
        For the task's file and the answer's.
    task : dict
        Lists of what to do, all of which may be missing: ``train``, arguments of `lowprec.train` with the first ``rows`` of the
        data in the files ``X`` and ``y``, all ranks together; ``alone``, the same by every rank at once on ``rows`` of its own,
        without a word to the others; ``coding``, arguments of `lowprec.report.codings.coding_rates`, by every rank at once;
        ``link``, sizes of messages.

    Returns
    -------
    dict
        By the same keys, lists of what was found.

    Raises
    ------
    RuntimeError
        If the ranks fail; with the last line that they said.
    """
    program = launcher()
    if program is None:
        raise RuntimeError("measuring with ranks needs mpi4py and mpiexec: pip install 'lowprec[mpi]'")
    asked, out = folder / "task.json", folder / "found.json"
    asked.write_text(json.dumps(task | {"out": str(out)}), encoding="utf-8")
    command = [program, "-n", str(ranks), sys.executable, "-m", __name__, str(asked)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=False)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if "Error" in line] or done.stderr.splitlines() or ["nothing"]
        raise RuntimeError(f"{ranks} ranks could not measure; they said: {said[-1]}")
    return json.loads(out.read_text(encoding="utf-8"))


def digest(found: Any) -> str:
    """A hash of the model that `lowprec.train` returned: equal where all bits of it are."""
    return hashlib.sha256(found.coef.tobytes() + np.float64(found.intercept).tobytes()).hexdigest()


# ---- on the ranks --------------------------------------------------------------------------------------------------


def _mean(comm: Any, values: tuple[float, ...]) -> list[float]:
    """The means over the ranks, on all of them."""
    return [statistics.fmean(each) for each in zip(*comm.allgather(values), strict=True)]


def _train(comm: Any, X: np.ndarray, y: np.ndarray, rows: int, arguments: dict[str, Any]) -> dict[str, Any]:
    """All ranks together."""
    import lowprec as lp

    found = lp.train(X[:rows], y[:rows], communicator=comm, **arguments)
    info = found.communication
    assert info is not None
    seconds, exchanging, waiting = _mean(comm, (found.seconds, info.seconds, info.waiting or 0.0))
    return {
        "history": found.history,
        "digest": digest(found),
        "seconds": seconds,
        "exchange_seconds": exchanging,
        "waiting_seconds": waiting,
        "exchanges": info.exchanges,
        "bytes_per_step": info.bytes_per_exchange,
        "float32_ratio": info.ratio,
    }


def _alone(comm: Any, X: np.ndarray, y: np.ndarray, rows: int, arguments: dict[str, Any]) -> float:
    """Every rank by itself, at the same time: seconds of an example."""
    import lowprec as lp

    mine = slice(comm.rank * rows, (comm.rank + 1) * rows)
    comm.Barrier()
    found = lp.train(X[mine], y[mine], n_threads=1, **arguments)
    return _mean(comm, (found.seconds / found.n_examples,))[0]


def _coding(comm: Any, arguments: dict[str, Any]) -> list[float]:
    """Every rank by itself, at the same time: numbers a second."""
    from lowprec.report.codings import coding_rates

    comm.Barrier()
    rates = coding_rates(**arguments)
    return _mean(comm, (rates.encode, rates.decode))


def main(path: str) -> None:
    """Do the task that a file describes."""
    from mpi4py import MPI

    from lowprec.report.links import message_times

    comm = MPI.COMM_WORLD
    task = json.loads(Path(path).read_text(encoding="utf-8"))
    X = y = np.zeros(0)
    if "X" in task:
        X, y = np.load(task["X"], mmap_mode="r"), np.load(task["y"])
    found = {
        "train": [_train(comm, X, y, *case) for case in task.get("train", [])],
        "alone": [_alone(comm, X, y, *case) for case in task.get("alone", [])],
        "coding": [_coding(comm, case) for case in task.get("coding", [])],
        "link": message_times(comm, task["link"])[1] if "link" in task else [],
    }
    if comm.rank == 0:
        Path(task["out"]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
