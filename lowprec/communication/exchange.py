"""Exchanges between ranks: the messages of docs/architecture.md, "Communication", brought from one to the other.

What is in them is the compiled core's affair (``kernels/exchange.c``), and the same between threads.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from .group import Group

__all__ = ["Asynchronous", "Synchronous"]


class _Link:
    """What both kinds share: buffers, and where each model's part lies in them.

    Parameters
    ----------
    group : Group
    runs : list of Sgd
        The models of this rank.
    intercepts : bool
        Whether they have intercepts, eight bytes each to and from rank 0.
    staleness : int
        Of asynchronous ranks: while one computes round k, its replica has all that others did up to round k - 1 - staleness; 1 at
        least, for one message is always under way.
    """

    def __init__(self, group: Group, runs: list[Any], intercepts: bool, staleness: int) -> None:
        self.staleness = staleness
        self.group, self.runs, self.intercepts = group, runs, intercepts
        self.rank, self.ranks = group.rank, range(group.size)
        self.exchanges, self.seconds, self.waiting = 0, 0.0, 0.0
        self.places: list[list[int]] = []  # [owner][model]: where in a message
        self.sizes: list[int] = []
        for q in self.ranks:
            ends = np.cumsum([run.message_bytes(q) for run in runs]).tolist()
            self.places.append([0, *ends[:-1]])
            self.sizes.append(ends[-1] + (8 * len(runs) if intercepts and q == 0 else 0))
        self.giving = [self._buffer(size) for size in self.sizes]
        self.given = [self._buffer(self.sizes[self.rank]) for _ in self.ranks]
        self.given[self.rank] = self.giving[self.rank]
        self.merged = [self._buffer(size) for size in self.sizes]
        self.sending: list[Any] = []
        for run in runs:
            run.link = self

    @staticmethod
    def _buffer(size: int) -> np.ndarray:
        # One byte at least, so that there is an address: an owner may have no columns. On a cache line.
        room = np.zeros(size + 128, np.uint8)
        at = -room.ctypes.data % 64
        return room[at : at + max(size, 1)]

    def _give(self, q: int) -> None:
        buffer = self.giving[q]
        for run, at in zip(self.runs, self.places[q], strict=True):
            run.give(q, buffer, at)
        if self.intercepts and q == 0:
            self._write_intercepts(buffer, [run.own_intercept for run in self.runs])

    def _write_intercepts(self, buffer: np.ndarray, values: list[float]) -> None:
        """At the end of a message to or from rank 0, where no address need be aligned."""
        buffer[self.sizes[0] - 8 * len(values) : self.sizes[0]] = np.array(values, "<f8").view(np.uint8)

    def _read_intercepts(self, buffer: np.ndarray) -> list[float]:
        return np.frombuffer(buffer[self.sizes[0] - 8 * len(self.runs) : self.sizes[0]].tobytes(), "<f8").tolist()

    def _message(self, buffer: np.ndarray, q: int) -> np.ndarray:
        return buffer[: self.sizes[q]]

    def _count(self, begin: float, waited: float) -> None:
        """Add up what an exchange has taken since, and waited of it."""
        self.seconds += time.perf_counter() - begin
        self.waiting += self.group.seconds - waited

    def restart(self) -> None:
        """The models have been replaced by those of a checkpoint."""

    def close(self) -> None:
        """Training is over."""

    def gather(self, arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]] | None:
        """Every rank's part of a checkpoint, on rank 0."""
        return self.group.gather(arrays, "the parts of a checkpoint", counted=False)


class Synchronous(_Link):
    """A compressed all-reduce: reduce-scatter, then all-gather, of coded chunks.

    Coding overlaps with sending: a chunk is under way while the next is coded, and an owner sends as soon as it has merged.
    """

    def exchange(self) -> None:
        """Everyone's changes, merged, into everyone's model."""
        begin, waited = time.perf_counter(), self.group.seconds
        group, rank, runs = self.group, self.rank, self.runs
        own, what = self.sizes[rank], f"the messages of exchange {self.exchanges + 1}"
        others = group.others()
        receives = [group.receive(self._message(self.given[p], rank), p, Group.GIVE) for p in others] if own else []
        merges = {q: group.receive(self._message(self.merged[q], q), q, Group.MERGED) for q in others if self.sizes[q]}
        for run in runs:
            run.ready()
        for q in self.ranks:  # in the order in which threads draw their random words
            self._give(q)
            if q != rank and self.sizes[q]:
                self.sending.append(group.send(self._message(self.giving[q], q), q, Group.GIVE))
        group.wait(receives, what)
        merged = self.merged[rank]
        for run, at in zip(runs, self.places[rank], strict=True):
            run.reduce(self.given, at, merged, at)
        if self.intercepts and rank == 0:
            self._write_intercepts(merged, self._merged_intercepts())
        if own:
            self.sending += [group.send(self._message(merged, rank), p, Group.MERGED) for p in others]
        for q in [rank, *others]:
            if q in merges:
                group.wait([merges[q]], what)
            for run, at in zip(runs, self.places[q], strict=True):
                run.take(q, self.merged[q], at)
        if self.intercepts:
            for run, value in zip(runs, self._read_intercepts(self.merged[0]), strict=True):
                run.set_intercept(value)
        for run in runs:
            run.taken()
        group.wait(self.sending, what)
        self.sending.clear()
        self.exchanges += 1
        self._count(begin, waited)

    def _merged_intercepts(self) -> list[float]:
        values = [run.intercept for run in self.runs]
        for given in self.given:
            for k, change in enumerate(self._read_intercepts(given)):
                values[k] += change
        return values


class Asynchronous(_Link):
    """Bounded staleness: chunks of the model at their owners, who answer each worker by itself."""

    def __init__(self, group: Group, runs: list[Any], intercepts: bool, staleness: int) -> None:
        super().__init__(group, runs, intercepts, staleness)
        self.answers = [self._buffer(self.sizes[self.rank]) for _ in self.ranks]  # [worker]
        self.answers[self.rank] = self.merged[self.rank]
        self.clocks = [0] * group.size  # rounds that this owner has got of each worker
        self.queue: list[tuple[int, int]] = []  # (round, worker) that wait for an answer
        self.owed = False  # answers to this worker's last round: by others
        self.answered = [0] * group.size  # rounds of each worker that were answered here
        self.met = True
        self.values = [run.intercept for run in runs]  # on rank 0: the intercepts
        self.heard: list[Any] = []
        self.asked: dict[int, Any] = {}
        self.answering: dict[int, Any] = {}
        for p in group.others():
            self._ask(p)

    def _ask(self, p: int) -> None:
        if self.sizes[self.rank]:
            self.asked[p] = self.group.receive(self._message(self.given[p], self.rank), p, Group.GIVE)

    def serve(self) -> None:
        """Take what has arrived, and answer what may be answered."""
        for p, request in list(self.asked.items()):
            if request.Test():
                del self.asked[p]
                self._got(p)
        if not self.sizes[self.rank]:
            return
        slowest = min(self.clocks)
        ready = sorted(item for item in self.queue if item[0] <= slowest + self.staleness - 1)
        for item in ready:
            self.queue.remove(item)
            self._answer(item[1])

    def _got(self, p: int) -> None:
        self.clocks[p] += 1
        self.queue.append((self.clocks[p], p))

    def _answer(self, p: int) -> None:
        rank, given, answer = self.rank, self.given[p], self.answers[p]
        if p in self.answering:  # long gone: p has given since
            self.group.wait([self.answering.pop(p)], f"rank {p} to take an answer")
        for run, at in zip(self.runs, self.places[rank], strict=True):
            run.answer(p, given, at, answer, at)
        if self.intercepts and rank == 0:
            for k, change in enumerate(self._read_intercepts(given)):
                self.values[k] += change
            self._write_intercepts(answer, self.values)
        self.answered[p] += 1
        if p != rank:
            self.answering[p] = self.group.send(self._message(answer, rank), p, Group.MERGED)
            self._ask(p)

    def exchange(self) -> None:
        """Take the answers to the round before, and give this one's changes."""
        begin, waited = time.perf_counter(), self.group.seconds
        for run in self.runs:
            run.ready()
        self._take_answers()
        group, rank = self.group, self.rank
        self.heard = [
            group.receive(self._message(self.merged[q], q), q, Group.MERGED) for q in group.others() if self.sizes[q]
        ]
        for q in self.ranks:
            self._give(q)
            if q != rank and self.sizes[q]:
                self.sending.append(group.send(self._message(self.giving[q], q), q, Group.GIVE))
        for run in self.runs:
            run.given()
            run.set_intercept(run.intercept + run.own_intercept)
        self.exchanges += 1
        self.owed, self.met = True, False
        if self.sizes[rank]:
            self._got(rank)
        self.serve()
        self._count(begin, waited)

    def restart(self) -> None:
        self.values = [run.intercept for run in self.runs]

    def close(self) -> None:
        # Nobody gives any more; and a communicator is kept as long as something may come.
        for request in self.asked.values():
            request.Cancel()
        self.group.wait(list(self.asked.values()), "receives to be cancelled")
        self.asked.clear()

    def _take_answers(self) -> None:
        if not self.owed:
            return
        group, rank, what = self.group, self.rank, f"the answers to round {self.exchanges}"
        group.wait(self.heard + self.sending, what, self.serve)
        if self.sizes[rank]:
            group.until(lambda: self.answered[rank] == self.exchanges, what, self.serve)
        self.sending.clear()
        for q in self.ranks:
            for run, at in zip(self.runs, self.places[q], strict=True):
                run.hear(q, self.merged[q], at)
        if self.intercepts:
            for run, value in zip(self.runs, self._read_intercepts(self.merged[0]), strict=True):
                run.set_intercept(value, run.own_intercept)
        for run in self.runs:
            run.learn()
        self.owed = False

    def meet(self) -> None:
        """All ranks, at the same round: to one model, the owners' chunks as they are."""
        if self.met:
            return
        begin, waited = time.perf_counter(), self.group.seconds
        group, rank = self.group, self.rank
        self._take_answers()
        if self.sizes[rank]:
            group.until(self._served_all, "the rounds of the other ranks", self.serve)
        group.wait(list(self.answering.values()), "answers to be taken")
        self.answering.clear()
        what = "the model's chunks"
        # Nobody is served from here on: who has all chunks may give already, and that is for the next round.
        mine = self._chunk(rank)
        theirs = {q: np.zeros(self._chunk(q).size, np.uint8) for q in group.others()}
        receives = [group.receive(theirs[q], q, Group.MERGED) for q in theirs]
        group.wait([*receives, *(group.send(mine, q, Group.MERGED) for q in theirs)], what)
        for q, chunk in theirs.items():
            self._set_chunk(q, chunk)
        for run, value in zip(self.runs, self.values, strict=True):
            run.meet()
            run.set_intercept(value)
        self.met = True
        self._count(begin, waited)

    def _served_all(self) -> bool:
        return min(self.clocks) >= self.exchanges and not self.queue

    def _chunk(self, q: int) -> np.ndarray:
        parts = [run.columns(q) for run in self.runs]
        numbers = np.array(self.values, "<f8").view(np.uint8) if q == 0 and self.intercepts else np.zeros(0, np.uint8)
        return np.concatenate([np.concatenate(parts).astype("<f4", copy=False).view(np.uint8), numbers])

    def _set_chunk(self, q: int, data: np.ndarray) -> None:
        at = 0
        for run in self.runs:
            columns = run.columns(q)
            columns[:] = np.frombuffer(data[at : at + columns.nbytes].tobytes(), "<f4")
            at += columns.nbytes
        if q == 0 and self.intercepts:
            self.values = np.frombuffer(data[at:].tobytes(), "<f8").tolist()
