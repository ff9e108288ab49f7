"""What one rank does in the tests of MPI: `mpiexec -n R python ranks.py SCENARIO FOLDER`. Leaves FOLDER/rankK.json.

With a word of/K/R behind it this is rank K of R that have a launcher each, and find each other through the folder.
"""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

import lowprec as lp
from lowprec import loop

WORLD = None  # of a process that is a rank, below
KINDS = {
    "D8M8C32fs": {},
    "D32fM32fC32fs": {"batch_size": 4},
    "D8M8G32fC8s": {"batch_size": 4},
    "D8M16C4s": {"shuffle": True, "penalty": "l2", "alpha": 1e-3, "average": True},
    "D32fM32fC1s": {"error_feedback": False},
    "D8M8C1s": {"several": True, "schedule": "linear"},
    "D4M4C16s": {"rounding": "nearest"},
    "D8i8M8C2s": {"sparse": True},
    "D16M16C16fs": {},
    "G1C1s": {"batch_size": 16, "sync_every": 16},
}


def problem(m=501, n=150):
    """Data and labels, the same in every process."""
    rng = np.random.default_rng(7)
    X = rng.uniform(-1, 1, (m, n)).astype(np.float32)
    return X, (X @ rng.normal(size=(n, 3)) > 0)


def train(kind, communicator=None, **more):
    """Train as a kind says, with ranks or with threads."""
    how = {"step_size": 0.02, "epochs": 3, "seed": 5, "fit_intercept": True, "history": True, "sync_every": 12}
    how |= KINDS.get(kind, {}) | more
    X, y = problem()
    y = y if how.pop("several", False) else y[:, 0]
    if how.pop("sparse", False):
        from scipy import sparse

        X = sparse.csr_array(np.where(np.abs(X) > 0.8, X, 0))
    if communicator is not None:
        how |= {"communicator": communicator, "timeout": how.get("timeout", 30.0)}
    return lp.train(X, y, signature=kind, **how)


def shown(r):
    """A result for comparing, to the bit."""
    numbers = {"coef": r.coef, "intercept": r.intercept, "history": r.history, "widened": r.widened}
    return {name: np.asarray(value).tolist() for name, value in numbers.items()}


def counted(r):
    return vars(r.communication)


# ---- scenarios ---------------------------------------------------------------------------------------------


def equal(folder):
    return {kind: shown(train(kind, WORLD)) for kind in KINDS}


def bytes_(folder):
    X = np.random.default_rng(0).uniform(-1, 1, (40, 2**16)).astype(np.float32)
    y = X[:, 0] > 0
    found = {}
    for C in ("1s", "2s", "4s", "8s", "16s", "16fs", "32fs", "8", "1"):
        r = lp.train(X, y, signature=f"D8M32fC{C}", step_size=1e-4, communicator=WORLD, sync_every=5, timeout=30.0)
        found[C] = counted(r)
    return found


def asynchronous(folder):
    found = {}
    for kind in ("D8M8C8", "D32fM32fC1", "D8M16C4", "D8i8M8C8"):
        r = train(kind, WORLD, sync_every=8, epochs=6, staleness=3, sparse="i8" in kind)
        found[kind] = shown(r) | counted(r)
    return found


class Watched:
    """A communicator that knows what it was asked to receive."""

    def __init__(self, comm, asked):
        self.comm, self.asked = comm, asked

    def __getattr__(self, name):
        return getattr(self.comm, name)

    def Idup(self):
        comm, request = self.comm.Idup()
        return Watched(comm, self.asked), request

    def Irecv(self, *what):
        self.asked.append(self.comm.Irecv(*what))
        return self.asked[-1]


def quiet(folder):
    """Every round of the first epoch has a feature of its own, whose margin is passed at once: the second one learns nothing."""
    X = np.tile(np.repeat(np.eye(8, dtype=np.int8), 4, axis=0), (WORLD.size, 1))
    loop._BLOCK = 4 * WORLD.size * 8  # a callback after each round
    found = {}
    for C in ("8", "32f"):
        seen = []

        def callback(info, seen=seen):
            if info.epoch:
                seen.append(info.coef().tolist())

        how = {"loss": "hinge", "step_size": 2.0, "epochs": 2, "history": True, "sync_every": 4, "error_feedback": False}
        how |= {"communicator": Watched(WORLD, asked := []), "timeout": 30.0}
        r = lp.train(X, np.ones(len(X)), signature=f"D8M32fC{C}", callback=callback, **how)
        found[C] = counted(r) | {"seen": seen, "coef": r.coef.tolist(), "open": sum(not request.Test() for request in asked)}
    return found


def killed(folder):
    """Rank 1 is killed in the middle; the others must say so, and in time."""

    def callback(info):
        if WORLD.rank == 1 and info.examples > 1000:
            for pid in pids if "told" in sys.argv else []:  # as a launcher does that they have in common
                os.kill(pid, signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGKILL)

    with contextlib.suppress(ValueError):  # who was refused listens to the launcher nevertheless
        train(kind := next(a for a in sys.argv if a.startswith("D8")), WORLD, epochs=0)
    loop._BLOCK = 150 * 60  # short calls, and a callback after each
    pids = [pid for pid in WORLD.allgather(os.getpid()) if pid != os.getpid()]
    begin = time.monotonic()
    try:
        with_file = {"checkpoint": folder / "checkpoint", "checkpoint_seconds": 0.0}
        train(kind, WORLD, epochs=6, timeout=2.0, callback=callback, several=False, **with_file)
    except lp.communication.CommunicationError as error:
        return {"error": str(error), "seconds": time.monotonic() - begin}


def resumed(folder):
    r = train("D8M8C4s", WORLD, epochs=6, checkpoint=folder / "checkpoint", checkpoint_seconds=0.0)
    return shown(r) | {"n_examples": r.n_examples}


def refused(folder):
    """One rank disagrees in something: all must refuse, before the first step."""
    X, y = problem()
    y = y[:, 0]
    odd = WORLD.rank == 1
    other = y.copy()
    other[17] = not other[17]
    shorter = X[:-1], y[:-1]
    called, rounding = [], "nearest" if odd else "stochastic"
    inter = WORLD.Split(WORLD.rank > 0).Create_intercomm(0, WORLD, int(WORLD.rank == 0), 1)
    cases = {
        "data": lambda: lp.train(X, other if odd else y, **common, step_size=0.1, signature="D8M8C8s"),
        "shards": lambda: lp.train(*(shorter if odd else (X, y)), **common, step_size=0.1, signature="D8M8C8s"),
        "signature": lambda: lp.train(X, y, **common, step_size=0.1, signature="D8M8C4s" if odd else "D8M8C8s"),
        "model": lambda: lp.train(X, y, **common, step_size=0.1, signature="D8M8C8s" if odd else "D8M32fC8s"),
        "sync_every": lambda: lp.train(X, y, **common, step_size=0.1, signature="D8M8C8s", sync_every=10 if odd else None),
        "rounding": lambda: lp.train(X, y, **common, step_size=0.1, signature="D8M32fC8s", rounding=rounding),
        "step_size": lambda: lp.train(X, y, **common, step_size=0.2 if odd else 0.1, signature="D8M8C8s"),
        "error_feedback": lambda: lp.train(X, y, **common, step_size=0.1, signature="D8M8C8s", error_feedback=not odd),
        "version": lambda: lp.train(X, y, **common, step_size=0.1, signature="D8M8C8s"),
        "inter": lambda: lp.train(X, y, **common | {"communicator": inter}, step_size=0.1, signature="D8M8C8s"),
        "null": lambda: lp.train(X, y, **common | {"communicator": MPI.COMM_NULL}, step_size=0.1, signature="D8M8C8s"),
        "no C": lambda: lp.train(X, y, **common, step_size=0.1, signature="D8M8"),
        "threads": lambda: lp.train(X, y, **common, step_size=0.1, signature="D8M8C8s", n_threads=2),
    }
    common = {"communicator": WORLD, "timeout": 10.0, "callback": called.append}
    found = {}
    for name, call in cases.items():
        if name == "version" and odd:
            lp.__version__ = "0.0.1"
        try:
            call()
        except ValueError as error:
            found[name] = str(error)
        except lp.communication.CommunicationError as error:
            found[name] = "CommunicationError: " + str(error)
    return found | {"called": len(called)}


def stopped(folder):
    """An exception in one rank reaches the others as a word, not as a silence."""

    def callback(info):
        if WORLD.rank == 2 and info.examples > 600:
            raise ZeroDivisionError("in the callback")

    begin = time.monotonic()
    try:
        train("D8M8C8s", WORLD, epochs=50, callback=callback, timeout=60.0)
    except (lp.communication.CommunicationError, ZeroDivisionError) as error:
        return {"error": f"{type(error).__name__}: {error}", "seconds": time.monotonic() - begin}


def halted(folder):
    """Rank 0's callback stops all of them at one place."""
    r = train("D8M8C8s", WORLD, epochs=50, callback=lambda info: WORLD.rank == 0 and info.examples > 600)
    return shown(r) | {"n_examples": r.n_examples}


class Slow:
    """A communicator whose sends take as long as on a link of so many bytes a second."""

    def __init__(self, comm, rate):
        self.comm, self.rate, self.free = comm, rate, 0.0

    def __getattr__(self, name):
        return getattr(self.comm, name)

    def Idup(self):
        comm, request = self.comm.Idup()
        return Slow(comm, self.rate), request

    def Isend(self, data, *where):
        # The link is free again when this message is through, and the receiver gets it then.
        self.free = max(self.free, time.perf_counter()) + memoryview(data[0]).nbytes / self.rate
        while time.perf_counter() < self.free:
            time.sleep(max(0.0, self.free - time.perf_counter() - 1e-4))
        return self.comm.Isend(data, *where)


def shaped(folder):
    """1 Gbit/s, n = 2^20: whole calls' seconds for each C, in turns."""
    n, rows, epochs = 2**20, 12, 8
    X = np.random.default_rng(0).integers(-127, 128, (rows, n), dtype=np.int8)
    y = np.arange(rows) % 2
    found = {}
    for turn in range(6):
        for C in ("32fs", "8s", "1s"):
            WORLD.Barrier()
            begin = time.perf_counter()
            link = Slow(WORLD, 125e6)
            r = lp.train(X, y, signature=f"D8M32fC{C}", step_size=1e-9, epochs=epochs, communicator=link, sync_every=1)
            WORLD.Barrier()
            if turn:  # the first one touches its memory
                found.setdefault(C, []).append(time.perf_counter() - begin)
            assert r.communication.exchanges == epochs * rows // WORLD.size
    return found


def joined(rank, n, folder):
    """The communicator of n processes with launchers of their own."""
    from mpi4py import MPI

    comm, port = MPI.COMM_SELF, folder / "port"
    if rank == 0:
        (folder / "part").write_text(MPI.Open_port())
        (folder / "part").rename(port)
    else:
        while not (folder / f"turn{rank}").exists():
            time.sleep(0.01)
        comm = comm.Connect(port.read_text()).Merge(high=True)
    for k in range(comm.size, n):
        if rank == 0:
            (folder / f"turn{k}").touch()
        comm = comm.Accept(port.read_text()).Merge(high=False)
    return comm


if __name__ == "__main__":
    from mpi4py import MPI

    WORLD, scenario, folder = MPI.COMM_WORLD, sys.argv[1], Path(sys.argv[2])
    if sys.argv[-1].startswith("of"):
        WORLD = joined(*map(int, sys.argv[-1].split("/")[1:]), folder)
    result = globals()[scenario](folder)
    file = folder / f"rank{WORLD.rank}.json"
    file.with_suffix(".part").write_text(json.dumps(result))
    file.with_suffix(".part").rename(file)
