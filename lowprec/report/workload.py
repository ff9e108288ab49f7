"""The data of the speed tables: the paper's generative model of logistic regression, and problems made of it.

The true model and every example are uniform on [-1, 1]^n; a label is +1 with probability 1 / (1 + exp(-x.w)).
Uniform numbers are the same as random bits read as fixed-point codes, so one buffer of random bytes is the
data set of every format and size: the same memory, read as rows of 4, 8, or 16-bit numbers. Floats have a
buffer of their own.

The paper does not state its step size or scales. Ours: the step is 0.5 / mean(||x||^2), half of what would
correct an example's error in one update; the model starts where one float pass over the data brings it, and
its range is 1.25 times its largest weight. So updates are as large, in units of the model, as those of a run
that learns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lowprec.formats import FORMATS
from lowprec.report.machine import baseline
from lowprec.report.timing import Case, _clock, huge_buffer

__all__ = ["Problem", "Workload"]

#: Numbers in the chunks in which labels are computed: a float32 chunk stays in the L2 cache.
_CHUNK = 2**17

#: The float pass that a model starts from sees no more numbers than this.
_WARM_UP = 2**26


@dataclass
class Problem:
    """One data set of one format and size, with labels, step, and a model to start from."""

    D: str
    n: int
    rows: np.ndarray  # uint8, a row of codes each
    scale: float
    y: np.ndarray
    step: float
    learned: np.ndarray  # float32

    def model(self, M: str) -> tuple[np.ndarray, float]:
        """The codes of the model to start from, as bytes, and their scale."""
        if M == "32f":
            return self.learned.view(np.uint8).copy(), 1.0
        fmt = FORMATS[M]
        scale = 1.25 * float(np.abs(self.learned).max()) / fmt.max_code
        codes = np.rint(self.learned / scale).astype(np.int8 if M == "4" else fmt.dtype)
        if M == "4":
            codes = (codes[0::2] & 15) | (codes[1::2] << 4)
        return codes.view(np.uint8).copy(), scale


def products(D: str, rows: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x.w of every row of codes, n even, by NumPy in float32: labels do not come from our own kernels."""
    w = w.astype(np.float32)
    if D == "4":
        # Shifting left and back extends the sign of the low nibble.
        even, odd = np.ascontiguousarray(w[0::2]), np.ascontiguousarray(w[1::2])
        codes = rows.view(np.int8)
        return (((codes << 4) >> 4).astype(np.float32) @ even) + ((codes >> 4).astype(np.float32) @ odd)
    return rows.view(FORMATS[D].dtype).astype(np.float32, copy=False) @ w


class Workload:
    """Data sets of every format and size over two buffers.

    Parameters
    ----------
    n_bytes : int
        Size of each buffer, a multiple of 4096.
    seed : int
        Of everything random.
    """

    def __init__(self, n_bytes: int, seed: int = 0) -> None:
        self.n_bytes, self.seed = n_bytes, seed
        self._buffers: dict[bool, np.ndarray] = {}
        self._problems: dict[tuple[str, int], Problem] = {}

    def buffer(self, D: str) -> np.ndarray:
        """The bytes of the data set of format `D`."""
        is_float = FORMATS[D].is_float
        if is_float not in self._buffers:
            bytes_ = huge_buffer(self.n_bytes)
            rng = np.random.default_rng([self.seed, is_float])
            if is_float:
                numbers = bytes_.view(np.float32)
                rng.random(out=numbers, dtype=np.float32)
                numbers *= 2
                numbers -= 1
            else:
                bytes_.view(np.uint64)[:] = rng.integers(0, 2**64, self.n_bytes // 8, dtype=np.uint64)
            self._buffers[is_float] = bytes_
        return self._buffers[is_float]

    def problem(self, D: str, n: int) -> Problem:
        """The data set of format `D` in rows of `n` numbers; made on first use and kept."""
        if (D, n) not in self._problems:
            self._problems[D, n] = self._make(D, n)
        return self._problems[D, n]

    def _make(self, D: str, n: int) -> Problem:
        fmt = FORMATS[D]
        row_bytes = fmt.row_bytes(n)
        m = self.n_bytes // row_bytes
        rows = self.buffer(D)[: m * row_bytes].reshape(m, row_bytes)
        scale = 1.0 if fmt.is_float else 2.0 ** (1 - fmt.bits)
        rng = np.random.default_rng([self.seed, n, fmt.bits])
        true = rng.uniform(-1, 1, n)
        z = np.empty(m, np.float32)
        many = max(_CHUNK // n, 1)
        for i in range(0, m, many):
            z[i : i + many] = products(D, rows[i : i + many], true)
        z *= scale
        chance = 0.5 * (1 + np.tanh(0.5 * z))  # the logistic function, without overflow
        y = np.where(rng.random(m, dtype=np.float32) < chance, np.float32(1), np.float32(-1))
        problem = Problem(D, n, rows, scale, y, 0.5 / (n / 3), np.zeros(n, np.float32))
        sgd = self._sgd(problem, "32f", "nearest", problem.learned.view(np.uint8), 1.0)
        sgd.run(0, min(m, max(_WARM_UP // n, 1)))
        sgd.flush()
        return problem

    def _sgd(
        self, p: Problem, M: str, random: str, model: np.ndarray, scale: float, n_threads: int = 1, **options: Any
    ) -> Any:
        from lowprec._sgd import Sgd

        m, row_bytes = p.rows.shape
        return Sgd(
            p.rows.reshape(-1),
            row_bytes,
            m,
            p.n,
            p.D,
            M,
            random,
            model,
            p.y,
            loss="logistic",
            step=p.step,
            data_scale=p.scale,
            model_scale=scale,
            seed=self.seed,
            n_threads=n_threads,
            **options,
        )

    def case(
        self,
        D: str,
        M: str,
        n: int,
        *,
        random: str = "shared",
        engine: str = "lowprec",
        n_threads: int = 1,
        run_seconds: float = 0.04,
        **options: Any,
    ) -> Case:
        """Training with one signature, to be timed.

        Parameters
        ----------
        D, M : str
            Formats of data and model.
        n : int
            Model size.
        random : {"nearest", "shared", "xorshift", "mt19937"}
            Rounding of the model's writes.
        engine : {"lowprec", "compiler"}
            Our kernels, or plain C as the compiler makes it fast.
        n_threads : int
            Workers; the compiler's loop has one.
        run_seconds : float
            About how long a run takes.
        **options
            Of the training driver: ``sync_every``, ``prefetch`` and so on.
        """
        p = self.problem(D, n)
        start, scale = p.model(M)
        model = start.copy()
        if engine == "lowprec":
            sgd = self._sgd(p, M, random, model, scale, n_threads, **options)
            settle, share, examples = sgd.flush, sgd.share, sgd.examples
        else:
            plain = baseline()
            if plain is None:
                raise RuntimeError("this CPU cannot run the plain C loops of this build")
            from lowprec import kernels

            settle, share, examples = _nothing, len(p.y), int
            sgd = plain.Baseline(
                p.rows.view(FORMATS[D].dtype),
                D,
                M,
                random,
                model.view(FORMATS[M].dtype),
                p.y,
                step=p.step,
                data_scale=p.scale,
                model_scale=scale,
                lanes=kernels._rng_blocks(self.seed, 0, 1)[0],
                mt_state=np.random.RandomState([self.seed, 0, 0, 0]).get_state()[1],
            )
        about = {
            "engine": engine,
            "signature": f"D{D}M{M}",
            "D": D,
            "M": M,
            "random": "none" if M == "32f" else random,
            "n": n,
            "n_rows": len(p.y),
            "threads": n_threads,
            **options,
        }
        run = _Run(sgd.run, settle, model, start, share, examples, n, run_seconds)
        return Case(about, run, self.buffer(D), FORMATS[D].bits, n_threads)


def _nothing() -> None:
    pass


class _Run:
    """Train on the next stretch of the data, from the same model each time: the state must not drift."""

    def __init__(self, run, settle, model, start, share: int, examples, n: int, seconds: float) -> None:
        self.run, self.settle, self.model, self.start = run, settle, model, start
        self.n_rows, self.n, self.seconds = share, n, seconds  # rows of each worker
        self.examples = examples  # of all workers, up to a position in their shares
        self.rows = 0  # of one run; found in the first
        self.at = 0

    def _time(self, rows: int) -> float:
        if self.at + rows > self.n_rows:
            self.at = 0
        self.settle()
        self.model[:] = self.start
        begin = _clock()
        self.run(self.at, self.at + rows)
        elapsed = _clock() - begin
        self.at += rows
        return elapsed

    def _calibrate(self) -> int:
        rows = min(max(2**16 // self.n, 1), self.n_rows)
        self._time(rows)  # touches pages and starts threads
        # The faster of two: a single hiccup would leave every later run far too short.
        while (elapsed := min(self._time(rows), self._time(rows))) < self.seconds / 8 and rows < self.n_rows:
            rows = min(4 * rows, self.n_rows)
        return max(1, min(self.n_rows, round(rows * self.seconds / elapsed)))

    def __call__(self) -> float:
        if not self.rows:
            self.rows = self._calibrate()
        elapsed = self._time(self.rows)
        return (self.examples(self.at) - self.examples(self.at - self.rows)) * self.n / elapsed / 1e9
