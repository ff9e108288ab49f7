"""One run of a case that is timed: a stretch of the data, on as many threads as it takes, always from the same model."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from lowprec.report.timing import _clock

__all__ = ["Run", "Team"]


class Team:
    """Loops that run at once, each on its share of the rows, as the workers of `lowprec._sgd.Sgd` do."""

    def __init__(self, loops: list[Any], n_rows: int) -> None:
        self.loops = loops
        self.starts = [n_rows * k // len(loops) for k in range(len(loops) + 1)]
        self.share = max(b - a for a, b in zip(self.starts, self.starts[1:], strict=False))
        self.pool = ThreadPoolExecutor(len(loops)) if len(loops) > 1 else None

    def examples(self, position: int) -> int:
        """How many are done when every loop has done `position` of its share."""
        return sum(min(position, b - a) for a, b in zip(self.starts, self.starts[1:], strict=False))

    def merge(self) -> None:
        """Nothing is ever pending."""

    def run(self, first: int, last: int) -> None:
        """Every loop does the examples [first, last) of its share."""

        def work(k: int) -> None:
            begin, end = self.starts[k], self.starts[k + 1]
            self.loops[k].run(min(begin + first, end), min(begin + last, end))

        if self.pool is None:
            work(0)
        else:
            list(self.pool.map(work, range(len(self.loops))))


class Run:
    """Train on the next stretch of the data, from the same model each time: the state must not drift.

    Parameters
    ----------
    team : Team or lowprec._sgd.Sgd
        What trains.
    model, start : ndarray of uint8
        The model's bytes, and what they are set to before each run.
    n : float
        Dataset numbers of an example.
    seconds : float
        About how long a run takes.
    context : callable
        Makes a context manager for the length of a run.

    Attributes
    ----------
    n_rows, rows, at : int
        A worker's examples, those of one run, and where the next one begins.
    """

    def __init__(
        self, team: Any, model: np.ndarray, start: np.ndarray, n: float, seconds: float, context=contextlib.nullcontext
    ) -> None:
        self.team, self.model, self.start, self.n, self.seconds, self.context = team, model, start, n, seconds, context
        self.n_rows = team.share
        self.rows = 0  # of one run; found in the first
        self.at = 0

    def _time(self, rows: int) -> float:
        if self.at + rows > self.n_rows:
            self.at = 0
        self.model[:] = self.start
        begin = _clock()
        self.team.run(self.at, self.at + rows)
        self.team.merge()  # the last updates too: of a large batch they are a good part
        elapsed = _clock() - begin
        self.at += rows
        return elapsed

    def _calibrate(self) -> int:
        rows = min(max(int(2**16 / self.n), 1), self.n_rows)
        self._time(rows)  # touches pages and starts threads
        # The fastest of some: a single hiccup would leave every later run far too short.
        while (elapsed := min(self._time(rows) for _ in range(3))) < self.seconds / 8 and rows < self.n_rows:
            rows = min(4 * rows, self.n_rows)
        return max(1, min(self.n_rows, round(rows * self.seconds / elapsed)))

    def __call__(self) -> float:
        with self.context():
            if not self.rows:
                self.rows = self._calibrate()
            elapsed = self._time(self.rows)
        return (self.team.examples(self.at) - self.team.examples(self.at - self.rows)) * self.n / elapsed / 1e9
