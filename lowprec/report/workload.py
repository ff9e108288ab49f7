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

import contextlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lowprec.formats import FORMATS
from lowprec.quantized import _allocate
from lowprec.report.machine import baseline
from lowprec.report.runs import Run, Team
from lowprec.report.sparse_data import DENSITY, SparseData
from lowprec.report.timing import Case, huge_buffer

__all__ = ["PREFETCH", "Problem", "Workload"]

#: What may be prefetched: everything; not by our own instructions; and not by the hardware either.
PREFETCH = ("on", "software off", "all off")

#: Sparse data are as many numbers as this share of the bytes of a dense data set: float32 with 32-bit columns then fills it.
_SPARSE_SHARE = 8

#: Examples of the pass that a final loss is after, and of the loss.
_PASS, _SEEN = 2**17, 2**14

#: Numbers in the chunks in which labels are computed: a float32 chunk stays in the L2 cache.
_CHUNK = 2**17

#: The float pass that a model starts from sees no more numbers than this.
_WARM_UP = 2**26


@dataclass
class Problem:
    """One data set of one format and size, with labels, step, and a model to start from."""

    D: str
    n: int
    rows: Any  # uint8, a row of codes each; or a SparseArray
    scale: float
    y: np.ndarray
    step: float
    learned: np.ndarray  # float32
    index: str | None = None  # width of the column numbers of sparse data

    @property
    def numbers(self) -> float:
        """Dataset numbers of an example, on average; of sparse data, nonzeros."""
        return self.n if self.index is None else self.rows.nnz / len(self.y)

    @property
    def signature(self) -> str:
        """Of the data alone."""
        return f"D{self.D}" if self.index is None else f"D{self.D}i{self.index}"

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
        self._sparse: SparseData | None = None
        self._sparse_problems: dict[tuple[str, str], Problem] = {}

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

    def sparse_data(self, n: int) -> SparseData:
        """The sparse matrix of `n` columns; only that of the last n is kept."""
        if self._sparse is None or self._sparse.n != n:
            self._sparse, self._sparse_problems = None, {}  # make room first
            self._sparse = SparseData(n, self.n_bytes // _SPARSE_SHARE, self.seed)
        return self._sparse

    def sparse_problem(self, D: str, index: str, n: int) -> Problem:
        """The sparse data set in format `D` with column numbers of `index` bits."""
        data = self.sparse_data(n)
        if (D, index) not in self._sparse_problems:
            q = data.array(D, index)
            step = 0.5 / (DENSITY * n / 3)
            self._sparse_problems[D, index] = self._learn(
                Problem(D, n, q, q.scale, data.y, step, np.zeros(n, np.float32), index)
            )
        return self._sparse_problems[D, index]

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
        return self._learn(Problem(D, n, rows, scale, y, 0.5 / (n / 3), np.zeros(n, np.float32)))

    def _learn(self, p: Problem) -> Problem:
        """Bring the model to where one pass in float brings it."""
        sgd = self._sgd(p, "32f", "nearest", p.learned.view(np.uint8), 1.0)
        sgd.run(0, min(len(p.y), max(int(_WARM_UP / p.numbers), 1)))
        sgd.flush()
        return p

    def _sgd(
        self, p: Problem, M: str, random: str, model: np.ndarray, scale: float, n_threads: int = 1, **options: Any
    ) -> Any:
        from lowprec._sgd import Sgd

        if p.index is None:
            codes, row_bytes = p.rows.reshape(-1), p.rows.shape[1]
        else:
            codes, row_bytes = p.rows.codes.view(np.uint8), 0
            options["sparse"] = (p.rows.indptr, p.rows.index, p.rows.differences)
        return Sgd(
            codes,
            row_bytes,
            len(p.y),
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

    def _compiled(self, p: Problem, M: str, random: str, model: np.ndarray, scale: float, n_threads: int) -> Team:
        """Plain C as the compiler makes it fast: one loop for each thread, all on one model."""
        from lowprec import kernels

        plain = baseline()
        if plain is None:
            raise RuntimeError("this CPU cannot run the plain C loops of this build")
        options: dict[str, Any] = {"step": p.step, "data_scale": p.scale, "model_scale": scale}
        if p.index is None:
            x = p.rows.view(FORMATS[p.D].dtype)
        else:
            x, options["sparse"], options["data_scale"] = self.sparse_data(p.n).plain(p.D)
        loops = [
            plain.Baseline(
                x,
                p.D,
                M,
                random,
                model.view(FORMATS[M].dtype),
                p.y,
                lanes=kernels._rng_blocks(self.seed, k, 1)[0],
                mt_state=np.random.RandomState([self.seed, k, 0, 0]).get_state()[1],
                **options,
            )
            for k in range(n_threads)
        ]
        return Team(loops, len(p.y))

    def _proxies(self, bits: int, p: Problem, model: np.ndarray, scale: float, n_threads: int) -> Team:
        """The paper's proposed instructions by proxy, on an 8-bit problem: right times, wrong results."""
        plain = baseline()
        if plain is None:
            raise RuntimeError("this CPU cannot run the proxies of this build")
        options = {"step": p.step, "data_scale": p.scale, "model_scale": scale, "seed": self.seed}
        loops = [plain.Proxy(bits, p.rows, model, p.y, stream=k, **options) for k in range(n_threads)]
        return Team(loops, len(p.y))

    def final_loss(self, D: str, M: str, n: int, *, n_threads: int = 1, **options: Any) -> float:
        """Mean loss, on the first examples of dense data, of what one pass over some more learns from zero.

        Parameters
        ----------
        D, M : str
            Formats of data and model.
        n : int
            Model size.
        n_threads : int
            Workers.
        **options
            Of the training driver.
        """
        whole = self.problem(D, n)
        p = replace(whole, rows=whole.rows[:_PASS], y=whole.y[:_PASS])
        start, scale = p.model(M)
        model = _allocate(start.nbytes)
        model[:] = 0
        sgd = self._sgd(p, M, "shared", model, scale, n_threads, **options)
        sgd.run(0, sgd.share)
        sgd.merge()
        w = model.view(FORMATS[M].dtype).astype(np.float64) * scale
        z = products(D, p.rows[:_SEEN], w) * p.scale
        return float(np.logaddexp(0, -p.y[:_SEEN] * z).mean())

    def case(
        self,
        D: str,
        M: str,
        n: int,
        *,
        index: str | None = None,
        random: str = "shared",
        engine: str = "lowprec",
        n_threads: int = 1,
        prefetch: str = "on",
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
        index : {"8", "16", "32"}, optional
            Sparse data, with column numbers of so many bits; plain C has them absolute and as wide as that takes.
        random : {"nearest", "shared", "xorshift", "mt19937"}
            Rounding of the model's writes.
        engine : {"lowprec", "compiler", "proxy"}
            Our kernels, plain C as the compiler makes it fast, or the paper's proposed instructions by proxy (D4M4 and D8M8).
        n_threads : int
            Workers.
        prefetch : {"on", "software off", "all off"}
            "all off" switches the hardware's off around each run.
        run_seconds : float
            About how long a run takes.
        **options
            Of the training driver: ``sync_every``, ``batch_size`` and so on.
        """
        if engine == "proxy":
            # Half as many bytes of 8 bits are as many numbers of 4.
            p = self.problem("8", n * int(D) // 8)
            start, scale = p.model("8")
        else:
            p = self.problem(D, n) if index is None else self.sparse_problem(D, index, n)
            start, scale = p.model(M)
        model = _allocate(start.nbytes)  # on a cache line, as lp.train's is
        model[:] = start
        data, bits, buffer = p.signature, float(FORMATS[D].bits), self.buffer(D)
        if index is not None:
            bits, buffer = 8 * p.rows.bytes_per_nonzero, p.rows.codes
        if engine == "lowprec":
            distance = None if prefetch == "on" else 0
            team = self._sgd(p, M, random, model, scale, n_threads, prefetch=distance, **options)
        elif engine == "compiler":
            team = self._compiled(p, M, random, model, scale, n_threads)
            if index is not None:
                buffer, (_, columns), _ = self.sparse_data(n).plain(D)
                index = str(8 * columns.itemsize)
                data, bits = f"D{D}i{index}", 8.0 * (buffer.itemsize + columns.itemsize)
        else:
            data, team = f"D{D}", self._proxies(int(D), p, model, scale, n_threads)
        about = {
            "engine": engine,
            "signature": f"{data}M{M}",
            "D": D,
            "index": index,
            "M": M,
            "random": "none" if M == "32f" else random,
            "n": n,
            "n_rows": len(p.y),
            "threads": n_threads,
            "prefetch": prefetch if engine == "lowprec" else None,
            "bytes_per_number": bits / 8,
            **options,
        }
        numbers = n if p.index is None else p.numbers
        context = _hardware_prefetch_off if prefetch == "all off" else contextlib.nullcontext
        run = Run(team, model, start, numbers, run_seconds, context)
        return Case(about, run, buffer.view(np.uint8)[: buffer.nbytes // 4096 * 4096], bits, n_threads)


def _hardware_prefetch_off() -> Any:
    from lowprec.prefetch import hardware_prefetcher

    return hardware_prefetcher(False)
