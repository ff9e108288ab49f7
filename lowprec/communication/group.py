"""The ranks of an MPI communicator: messages with a deadline, counted; agreement on small things."""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .. import checks

__all__ = ["CommunicationError", "Group", "ranks"]

_GIVE, _MERGED, _SMALL, _STOP = 1, 2, 3, 4
# Looks at the clock, and for a rank that has stopped, once in so many tries.
_TRIES = 64
# After so many tries, some milliseconds, a rank sleeps so many seconds between two: it waits for another's work, not for a link.
_PATIENT, _PAUSE = 4096, 50e-6
# Seconds that a rank which has lost another leaves the rest to end by themselves.
_GRACE = 1.0
_broken = False
_failed = False  # a process of this job, says the launcher


def _told_by_launcher(*_: Any) -> None:
    global _failed
    _failed = True


class CommunicationError(RuntimeError):
    """Another rank did not answer in time, or stopped."""


class _Silence(Exception):
    """How a text begins and ends that says who waited in vain."""


def _end_broken_job() -> None:  # pragma: no cover - in processes that tests only see from outside
    # Finalizing MPI would wait for the rank that is lost, and aborting for a launcher that may be gone. The launcher may end the
    # others with this process: they have been told, and say so first.
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(_GRACE)
    os._exit(1)


@contextlib.contextmanager
def ranks(communicator: Any, timeout: float) -> Iterator[Group | None]:
    """The ranks of a communicator, who are told when this one stops with an exception; None where there is no communicator."""
    if communicator is None:
        yield None
        return
    group = Group(communicator, timeout)
    try:
        yield group
    except BaseException as error:
        group.stop(error)
        raise
    group.close()


class Group:
    """The ranks of a communicator, as workers.

    No call waits for ever: each polls, yields its core between two tries, and gives up after `timeout` seconds.

    Parameters
    ----------
    communicator : mpi4py.MPI.Comm
        Duplicated, so that no message is taken for one of the caller's.
    timeout : float
        Seconds to wait for another rank.

    Attributes
    ----------
    rank, size : int
    bytes_sent : int
        By this rank, of all messages but those of gathered checkpoints.
    seconds : float
        Waiting for messages.
    """

    GIVE, MERGED = _GIVE, _MERGED

    def __init__(self, communicator: Any, timeout: float) -> None:
        if not all(hasattr(communicator, name) for name in ("Isend", "Irecv", "Iprobe", "Idup", "Get_rank")):
            raise checks.wrong_type("communicator", "a communicator of mpi4py, such as MPI.COMM_WORLD", communicator)
        from mpi4py import MPI

        if communicator == MPI.COMM_NULL or communicator.Is_inter():
            got = "COMM_NULL" if communicator == MPI.COMM_NULL else "an intercommunicator"
            raise checks.wrong_value("communicator", "must connect the processes of one group, such as MPI.COMM_WORLD", got)
        self._mpi = MPI
        self.rank, self.size, self.timeout = communicator.Get_rank(), communicator.Get_size(), timeout
        self.bytes_sent, self.seconds = 0, 0.0
        self.told = False  # about a rank that stopped
        self.comm: Any = None
        self._sources: dict[int, int] = {}  # of receives under way, by their identity
        self._before: Any = None
        self._listen()
        comm, request = communicator.Idup()
        self._wait([request], "every rank to begin training", None)
        self.comm = comm
        self._keep: list[Any] = []

    def _listen(self) -> None:
        """Hydra, MPICH's launcher, signals that a process has failed by SIGUSR1, which would end this one without a word.

        After an exception it stays so: this process has something to say before it ends.
        """
        before = signal.getsignal(signal.SIGUSR1)
        if threading.current_thread() is threading.main_thread() and before in (signal.SIG_DFL, _told_by_launcher):
            self._before = before
            signal.signal(signal.SIGUSR1, _told_by_launcher)

    # ---- messages ----

    def send(self, data: np.ndarray, to: int, tag: int) -> Any:
        """Start sending an array of uint8; it must stay as it is until the request is complete."""
        self.bytes_sent += data.nbytes
        request = self.comm.Isend([data, self._mpi.BYTE], to, tag)
        self._sources.pop(id(request), None)  # of a receive that is no more
        return request

    def receive(self, data: np.ndarray, source: int, tag: int) -> Any:
        """Start receiving into an array of uint8."""
        request = self.comm.Irecv([data, self._mpi.BYTE], source, tag)
        self._sources[id(request)] = source
        return request

    def wait(self, requests: Sequence[Any], what: str, meanwhile: Callable[[], None] | None = None) -> None:
        """Wait until all requests are complete.

        Parameters
        ----------
        requests : sequence of mpi4py.MPI.Request
        what : str
            What is waited for, for the error.
        meanwhile : callable, optional
            Called between two tries: others may be waiting for this rank.

        Raises
        ------
        CommunicationError
            After `timeout` seconds, or when another rank says that it stopped.
        """
        begin = time.perf_counter()
        self._wait(list(requests), what, meanwhile)
        self.seconds += time.perf_counter() - begin

    def until(self, done: Callable[[], bool], what: str, meanwhile: Callable[[], None]) -> None:
        """Call `meanwhile` until `done()`; see `wait`."""
        begin = time.perf_counter()
        try:
            self._poll(done, meanwhile)
        except _Silence as silence:
            raise self._lost(f"{silence.args[0]} for {what}{silence.args[1]}") from None
        self.seconds += time.perf_counter() - begin

    def _wait(self, requests: list[Any], what: str, meanwhile: Callable[[], None] | None) -> None:
        if not requests:
            return
        try:
            under_way = [id(request) for request in requests]
            self._poll(lambda: self._mpi.Request.Testall(requests), meanwhile)
            for key in under_way:
                self._sources.pop(key, None)
        except _Silence as silence:
            silent = sorted({self._sources[id(r)] for r in requests if id(r) in self._sources and not r.Test()})
            names = f" of rank{'s' * (len(silent) > 1)} {', '.join(map(str, silent))}" if silent else ""
            raise self._lost(f"{silence.args[0]} for {what}{names}{silence.args[1]}") from None

    def _poll(self, done: Callable[[], bool], meanwhile: Callable[[], None] | None) -> None:
        deadline = time.monotonic() + self.timeout
        tries = 0
        while not done():
            if meanwhile is not None:
                meanwhile()
            tries += 1
            if tries % _TRIES == 0:
                self._look_for_stop()
                if _failed:
                    raise _Silence(f"rank {self.rank} waits", ", and the launcher says that a process has failed")
                if time.monotonic() > deadline:
                    reasons = "it may have been killed, or its round may take longer than the timeout"
                    raise _Silence(f"rank {self.rank} waited {self.timeout:g} s", f", and gives up: {reasons}")
            if tries > _PATIENT:
                time.sleep(_PAUSE)
            elif tries > 8:
                os.sched_yield()  # there may be more ranks than cores

    def _lost(self, text: str) -> CommunicationError:
        global _broken
        if not _broken:
            _broken = True
            atexit.register(_end_broken_job)
        return CommunicationError(text)

    def _look_for_stop(self) -> None:
        if self.comm is None:
            return
        status = self._mpi.Status()
        if self.comm.Iprobe(self._mpi.ANY_SOURCE, _STOP, status):
            text = bytearray(status.Get_count(self._mpi.BYTE))
            self.comm.Recv([text, self._mpi.BYTE], status.Get_source(), _STOP)
            self.told = True
            raise CommunicationError(f"rank {status.Get_source()} stopped: {text.decode()}")

    def stop(self, error: BaseException) -> None:
        """Tell the others that this rank stops, and why, unless it was they who said so."""
        if self.told or self.comm is None:
            return
        self.told = True
        text = np.frombuffer(f"{type(error).__name__}: {error}"[:2000].encode(), np.uint8)
        for other in self.others():
            self._keep.append((text, self.comm.Isend([text, self._mpi.BYTE], other, _STOP)))

    def others(self) -> list[int]:
        """The other ranks, the next one first: so that not all send to one at once."""
        return [(self.rank + k) % self.size for k in range(1, self.size)]

    # ---- small things ----

    def _send_object(self, value: Any, to: int, counted: bool = True) -> list[Any]:
        data = np.frombuffer(pickle.dumps(value), np.uint8)
        length = np.array([data.nbytes], np.int64).view(np.uint8)
        before = self.bytes_sent
        requests = [self.send(length, to, _SMALL), self.send(data, to, _SMALL)]
        if not counted:
            self.bytes_sent = before
        self._keep.append((length, data))
        return requests

    def _receive_object(self, source: int, what: str, meanwhile: Callable[[], None] | None = None) -> Any:
        length = np.zeros(1, np.int64)
        self.wait([self.receive(length.view(np.uint8), source, _SMALL)], what, meanwhile)
        data = np.zeros(int(length[0]), np.uint8)
        self.wait([self.receive(data, source, _SMALL)], what, meanwhile)
        return pickle.loads(data.tobytes())

    def share(self, value: Any, what: str, meanwhile: Callable[[], None] | None = None) -> Any:
        """Rank 0's value, on every rank."""
        if self.rank:
            return self._receive_object(0, what, meanwhile)
        requests = [request for other in self.others() for request in self._send_object(value, other)]
        self.wait(requests, what, meanwhile)
        self._keep.clear()
        return value

    def gather(self, value: Any, what: str, *, counted: bool = True) -> list[Any] | None:
        """Everyone's values on rank 0, in their order; None on the others."""
        if self.rank:
            self.wait(self._send_object(value, 0, counted), what)
            self._keep.clear()
            return None
        return [value, *(self._receive_object(other, what) for other in range(1, self.size))]

    def check(self, facts: dict[str, Any]) -> None:
        """Refuse to begin unless all ranks say the same.

        Raises
        ------
        ValueError
            The same on all ranks: which of them disagrees with rank 0, in what.
        """
        found = self.gather(facts, "every rank to say what it trains")
        verdict = None
        if found is not None:
            for rank, other in enumerate(found):
                for name, value in found[0].items():
                    if verdict is None and other.get(name) != value:
                        got = f"rank 0 has {value!r}, rank {rank} {other.get(name)!r}"
                        verdict = f"communicator: all ranks must have the same {name}; {got}"
        verdict = self.share(verdict, "rank 0 to compare what the ranks train")
        if verdict is not None:
            self.told = True
            raise ValueError(verdict)

    def close(self) -> None:
        """Give the duplicated communicator back, when every message has arrived."""
        if self._before is not None:
            signal.signal(signal.SIGUSR1, self._before)
        if self.comm is not None and not _broken:
            self.comm.Free()
            self.comm = None
