"""How fast this machine codes: the steps of an exchange, timed without anybody to exchange with."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from lowprec.checks import check_choice, check_int
from lowprec.formats import FORMATS
from lowprec.perfmodel import Coding
from lowprec.perfmodel.communication import CODECS, chunk_sizes

__all__ = ["coding_rates"]

#: A worker and one other, whose messages are copies of its own.
_WORKERS = 2

#: Exchanges that are not counted: memory is touched for the first time.
_WARM_UP = 2

#: Bytes from one example to the next: they overlap, for how fast the loop trains does not matter here.
_STRIDE = 64


class _Nobody:
    """In the place of a link to other workers: every step of an exchange, timed, and no message sent."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self.times: list[tuple[float, float, float]] = []
        self.given, self.merged = ([np.zeros(run.message_bytes(q), np.uint8) for q in range(_WORKERS)] for _ in range(2))

    def exchange(self) -> None:
        """Give, merge and take; the other owner's merged chunk is what it was given."""
        run = self.run
        run.ready()
        begin = time.perf_counter()
        for q, message in enumerate(self.given):
            run.give(q, message, 0)
        given = time.perf_counter()
        run.reduce([self.given[0]] * _WORKERS, 0, self.merged[0], 0)
        merged = time.perf_counter()
        self.merged[1][:] = self.given[1]
        copied = time.perf_counter()
        for q, message in enumerate(self.merged):
            run.take(q, message, 0)
        run.taken()
        self.times.append((given - begin, merged - given, time.perf_counter() - copied))


def coding_rates(C: str, n: int, *, M: str = "32f", exchanges: int = 8, seed: int = 0) -> Coding:
    """How fast one core codes, with feedback, random codes, and all else that an exchange does with a number.

    The loop of `lowprec.train` trains on an example, then exchanges with nobody, and so on. To give one's changes is to encode;
    decoding is what it takes to merge, without the encoding of what was merged, and to take what was merged.

    Parameters
    ----------
    C : {"1", "2", "4", "8", "16", "16f", "32f"}
    n : int
        Model size, at least 128: a chunk for each of two owners.
    M : {"4", "8", "16", "32f"}
        Format of the model.
    exchanges : int
        How many are timed. Of each step the median counts.
    seed : int

    Returns
    -------
    Coding
    """
    from lowprec._sgd import Sgd

    C, M = check_choice("C", C, CODECS), check_choice("M", M, FORMATS)
    n, exchanges = check_int("n", n, minimum=128), check_int("exchanges", exchanges, minimum=1)
    rounds = exchanges + _WARM_UP
    rows = _WORKERS * rounds
    x = np.random.default_rng(seed).integers(-127, 128, n + rows * _STRIDE, dtype=np.int8)
    run = Sgd(
        x.view(np.uint8),
        _STRIDE,
        rows,
        n,
        "8",
        M,
        "shared",
        np.zeros(FORMATS[M].row_bytes(n), np.uint8),
        np.ones(rows, np.float32),
        loss="logistic",
        step=0.1,
        data_scale=1.0 / 127,
        model_scale=1.0 if M == "32f" else 1.0 / FORMATS[M].max_code,
        seed=seed,
        n_threads=_WORKERS,
        sync_every=1,
        together=True,
        exchange={"codec": C, "columns": n, "random": True, "feedback": True, "staleness": 1, "local": 0},
    )
    run.link = nobody = _Nobody(run)
    run.run(0, rounds)
    give, merge, take = (statistics.median(step) for step in zip(*nobody.times[_WARM_UP:], strict=True))
    chunk = max(chunk_sizes(n, _WORKERS))
    encode = n / give
    # A merge that seems faster than its encoding alone was measured in a better moment than that.
    decode = (n + _WORKERS * chunk) / (take + max(merge - chunk / encode, 0.0))
    return Coding(C, encode, decode)
