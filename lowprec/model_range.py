"""The model's scale: how it is chosen, and when it is doubled.

A b-bit model covers +-R with R = scale * (2**(b - 1) - 1). A large R makes the quantum
coarse, a small one clips weights that want to be larger. What both cost can be estimated, from the examples'
loss derivatives g and curvatures h:

- Every unbiased rounding adds at most ``scale * |g x_j| * step_size`` to the variance of a weight, and the loss
  pulls it back at the rate 2 * step_size * H_j, H_j = E[h x_j**2]. In equilibrium the excess loss, the sum over
  j of H_j/2 times the variance, is ``scale/4 * E[|g| ||x||_1]``. Neither the step size nor H is left in it. A run
  of T examples is too short for that by the factor x / (1 + x), x = 2 * step_size * T * mean(H).
- Single examples carry a weight away from where it wants to be, by a standard deviation of
  sqrt(step_size * E[(g x_j)**2] / (2 H_j)). So much more than a weight's own size is wanted, as the length of both.
- A weight that wants to be a_j but ends at R costs about ``H_j/2 * (a_j - R)**2``; in a run so short that weights
  are still on their way, 1 / (step_size * T) takes the place of H_j. The sum of the two serves for both.

``model_scale=None`` minimizes the sum of the two. The a_j come from a pilot: up to 8,192 examples, evenly spread
over the data, trained on in float32 with a step that covers as much (step times examples) as the whole run if
that is stable; the mean of the second half of its models, times a headroom, which is larger where range costs
less. During training the scale is doubled where a sample of examples says that the clipped model would gain more by
growing than the doubled quantum costs (`Range.pays`). That is asked after 16, 32, 64, ... examples, and again an
eighth later where the scale was doubled: fixed points, so a run is reproducible. From the middle of a run on it is asked at every
eighth of it too, and a range that is less than half full is halved, which loses nothing: large first steps may have wanted more
than what they led to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from . import _sgd, checks
from .formats import FORMATS, Format
from .losses import Loss
from .quantized import QuantizedArray, _allocate, quantize
from .sparse import SparseArray

_PILOT_ROWS, _PILOT_NUMBERS = 8192, 1 << 22
# By how much a weight may outgrow what the pilot saw, by the model's bits. The pilot is short and sees a part of
# the way; the quantum of 16 bits is so fine that range is free, that of 4 bits so coarse that none is to spare.
_HEADROOM = {4: 1.0, 8: 1.4, 16: 2.8}
# Single examples' steps carry a weight to and fro; the range has room for so many standard deviations of that (not that of 4
# bits, which has none to spare). Where many weights are at the limit because they walk there, no sample's gradient tells.
_WALKS = 3.0
# A doubled quantum whose noise is so small a part of what examples pull is no price for room.
_CHEAP = 0.01


__all__ = ["Problem", "Range", "check_row", "model_of"]


def _rows(q: QuantizedArray, step: int, count: int, scale: float) -> QuantizedArray:
    """Rows 0, step, 2 step, ... as an array on the same memory, with one scale."""
    stride = q.row_stride * step
    n_bytes = (count - 1) * stride + q.format.row_bytes(q.shape[1])
    return QuantizedArray(q.buffer[:n_bytes], q.format, scale, (count, q.shape[1]), stride)


def model_of(values: np.ndarray, fmt: Format, scale: float, width: int) -> QuantizedArray:
    """A model with room for as many columns as the data's padded rows have."""
    model = QuantizedArray(_allocate(fmt.row_bytes(width)), fmt, scale, values.shape)
    return quantize(values, fmt, scale=scale, rounding="nearest", out=model)


def _spread(m: int, count: int) -> tuple[int, int]:
    """(step, count) of about `count` rows spread over m.

    The step is prime to 2, 3, 5 and 7, lest data that repeat a pattern of classes show one class only.
    """
    step = max(1, m // count)
    while math.gcd(step, 210) > 1:
        step -= 1
    return step, min(count, -(-m // step))


# ---- the model's range -------------------------------------------------------------------------------------


@dataclass
class Problem:
    """What is trained on, in the coordinates of training."""

    x: QuantizedArray | SparseArray
    scale: float  # of the data, one for all features
    y: np.ndarray
    weight: np.ndarray | None
    loss: Loss
    step: float
    intercept: float | None
    l1: float = 0.0
    l2: float = 0.0
    intercept_ratio: float = 1.0  # of the intercept's step to the weights'

    @property
    def width(self) -> int:
        """Weights that a model has room for, pads included."""
        return self.x.shape[1] if isinstance(self.x, SparseArray) else self.x.padded_width

    @property
    def numbers(self) -> float:
        """Dataset numbers of an example: n, or on the average the nonzeros of a sparse one."""
        return self.x.nnz / self.x.shape[0] if isinstance(self.x, SparseArray) else float(self.x.shape[1])

    def driver(self, model: QuantizedArray, *, random: str, every: int = 1, rows: int | None = None, step=None, **more):
        """A run of the compiled loop, on the rows 0, every, 2 every, ..."""
        step = self.step if step is None else step
        rows = self.x.shape[0] if rows is None else rows
        part = slice(0, (rows - 1) * every + 1, every)
        if isinstance(self.x, SparseArray):
            x = self.x if rows == self.x.shape[0] else self.x.take(np.arange(rows) * every)
            data, stride, n = x.codes.view(np.uint8), 0, x.shape[1]
            more["sparse"] = x.indptr, x.index, x.differences
        else:
            # Zero pads change no bit of what is learned, and leave the kernels no remainder; but a generator that draws for
            # every number would draw for them too.
            data, stride = self.x.buffer, self.x.row_stride * every
            n = self.x.padded_width if random in ("nearest", "shared") else self.x.shape[1]
        return _sgd.Sgd(
            data,
            stride,
            rows,
            n,
            str(self.x.format),
            str(model.format),
            random,
            model.buffer,
            np.ascontiguousarray(self.y[part]),
            loss=self.loss.derivative,
            step=step,
            data_scale=self.scale,
            model_scale=float(model.scale),
            weight=None if self.weight is None else np.ascontiguousarray(self.weight[part]),
            intercept=self.intercept,
            intercept_step=0.0 if self.intercept is None else step * self.intercept_ratio,
            **more,
        )


# ---- samples: integers, and sums of them that are exact ----------------------------------------------------


class _DenseSample:
    """Rows of small integers."""

    _COLUMNS = 1 << 18

    def __init__(self, codes: np.ndarray) -> None:
        self.codes = codes
        self.norms1 = np.abs(codes, dtype=np.int64 if codes.shape[1] > 1 << 16 else np.int32).sum(axis=1, dtype=np.int64)
        self.norms2 = sum(np.einsum("ij,ij->i", x, x) for _, x in self._pieces(len(codes)))

    def _pieces(self, count: int) -> Iterator[tuple[slice, np.ndarray]]:
        """The first rows as float64, some columns at a time."""
        for j in range(0, self.codes.shape[1], self._COLUMNS):
            columns = slice(j, j + self._COLUMNS)
            yield columns, self.codes[:count, columns].astype(np.float64)

    def products(self, w: np.ndarray, count: int) -> np.ndarray:
        """Products of the first rows with a vector of integers."""
        return sum(np.einsum("ij,j->i", x, w[columns].astype(np.float64)) for columns, x in self._pieces(count))

    def squares(self, h: np.ndarray) -> np.ndarray:
        """For every column the sum over rows i of h_i x_ij^2."""
        return np.concatenate([np.einsum("i,ij,ij->j", h, x, x) for _, x in self._pieces(len(self.codes))])


class _SparseSample:
    """The same for sparse rows: entry k has the number codes[k], in row rows[k] and column columns[k]."""

    def __init__(self, codes: np.ndarray, rows: np.ndarray, columns: np.ndarray, count: int, n: int) -> None:
        order = np.argsort(rows, kind="stable")
        self.codes, self.rows, self.columns = codes[order].astype(np.float64), rows[order], columns[order]
        self.n = n
        self.ends = np.cumsum(np.bincount(rows, minlength=count))  # of the rows
        self.norms1 = self._by_row(np.abs(self.codes), count).astype(np.int64)
        self.norms2 = self._by_row(np.square(self.codes), count)

    def _by_row(self, values: np.ndarray, count: int) -> np.ndarray:
        return np.bincount(self.rows[: len(values)], weights=values, minlength=count)

    def products(self, w: np.ndarray, count: int) -> np.ndarray:
        end = self.ends[count - 1]
        return self._by_row(self.codes[:end] * w[self.columns[:end]], count)

    def squares(self, h: np.ndarray) -> np.ndarray:
        return np.bincount(self.columns, weights=h[self.rows] * np.square(self.codes), minlength=self.n)


def _bit_reversed(count: int) -> np.ndarray:
    """0 .. count - 1 in the order of their reversed bits: every beginning of it is spread over the whole."""
    keys, size = np.zeros(1, np.int64), 1
    while size < count:
        keys, size = np.concatenate([2 * keys, 2 * keys + 1]), 2 * size
    return keys[keys < count]


def _sum(a: np.ndarray) -> float:
    """The sum of a vector, always in the same order; `math.fsum` alone takes long for a million numbers."""
    lanes = 1 << 10
    whole = len(a) // lanes * lanes
    return math.fsum([*a[:whole].reshape(-1, lanes).sum(axis=0), *a[whole:]])


class Sample:
    """Some examples, evenly spread over the data.

    The model's scale decides every bit that follows, so no estimate may depend on the machine: the sample's codes,
    the model's codes and the weights of every sum are integers, small enough that the sums are exact in float64,
    in whatever order they are added up. (Not by a BLAS: its threads would get in the way of the workers.)
    """

    # Bits of a sample's codes (their squares have twice as many), of the weights of a sum, of a model; the sums over
    # 2**12 rows or 2**27 columns stay below 2**53.
    _CODE_BITS, _WEIGHT_BITS, _MODEL_BITS, _MAX_ROWS = 10, 20, 15, 1 << 12
    # Numbers of dense rows that are read in order to keep their nonzeros.
    _ROOM = 1 << 24

    def __init__(self, problem: Problem, n_examples: int) -> None:
        m, self.n = problem.x.shape
        numbers = math.ceil(problem.numbers) or 1
        # A look reads at most so many numbers, and there are about as many looks as doublings of 16 examples.
        budget = min(max(n_examples * numbers // 64, 1 << 13), 1 << 20)
        every, count = _spread(m, min(m, max(4 if numbers <= _PILOT_NUMBERS else 1, budget // numbers), self._MAX_ROWS))
        sparse = isinstance(problem.x, SparseArray)
        sample = problem.x.take(np.arange(count) * every) if sparse else _rows(problem.x, every, count, problem.scale)
        codes = sample.unpacked()
        nonzeros = np.count_nonzero(codes)
        mostly_zero = not sparse and nonzeros < codes.size // 4
        if mostly_zero:  # as dense rows they would be too few to say anything
            wanted = max(count, min(budget * count // max(nonzeros, 1), self._ROOM // self.n, self._MAX_ROWS))
            every, count = _spread(m, min(m, wanted))
            codes = _rows(problem.x, every, count, problem.scale).unpacked()
        self.scale = problem.scale
        if codes.dtype != np.int8:
            largest = float(np.abs(codes, dtype=np.float64).max(initial=0.0))
            if not math.isfinite(largest):
                for row in range(count):
                    check_row(problem.x, row * every)
            unit = largest / (2**self._CODE_BITS - 1) or 1.0
            codes = np.rint(codes / unit).astype(np.int16)
            self.scale *= unit
        # In an order of which every beginning is spread over the data too: early looks take a part of the sample.
        order = _bit_reversed(count)
        self.codes: _DenseSample | _SparseSample
        if sparse or mostly_zero:
            place = np.empty(count, np.int64)
            place[order] = np.arange(count)
            if sparse:
                rows, columns = np.repeat(np.arange(count), np.diff(sample.indptr)), sample.columns()
            else:
                rows, columns = np.nonzero(codes)
                codes = codes[rows, columns]
            self.codes = _SparseSample(codes, place[rows], columns, count, self.n)
        else:
            self.codes = _DenseSample(codes[order])
        if not math.isfinite(float(self.codes.norms2.max()) * self.scale * self.scale):
            raise checks.rows_too_large("X", float(np.abs(codes).max(initial=0)) * self.scale)
        self.count = count
        self.rows = order * every

    @property
    def norms2(self) -> np.ndarray:
        """The squared lengths of the examples."""
        return self.codes.norms2 * self.scale**2


class Range:
    """Estimates of what a model's quantum costs and what more range would gain, from a sample of examples.

    Parameters
    ----------
    problem : Problem
    sample : Sample
        Of the problem's examples; several models of the same examples share one.
    n_examples : float
        How many examples the run is worth: with a step that falls, fewer than it has.
    """

    _MODEL_BITS, _WEIGHT_BITS = Sample._MODEL_BITS, Sample._WEIGHT_BITS

    def __init__(self, problem: Problem, sample: Sample, n_examples: float) -> None:
        self.problem, self.sample, self.scale, self.count = problem, sample.codes, sample.scale, sample.count
        self.y = problem.y[sample.rows]
        self.weight = None if problem.weight is None else problem.weight[sample.rows].astype(np.float64)
        self.norms2 = sample.norms2
        self.n, self.n_examples = sample.n, n_examples
        self.reach = problem.step * n_examples

    def slopes(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and second derivative of the first rows' losses in their products p."""
        loss, count = self.problem.loss, len(p)
        g = loss.derivatives(p, self.y[:count])
        h = loss.curvature(g)
        return (g, h) if self.weight is None else (g * self.weight[:count], h * self.weight[:count])

    def noise(self, g: np.ndarray, h: np.ndarray) -> float:
        """Excess loss for each unit of the model's quantum, at the end of the run."""
        count = len(g)
        settled = 0.25 * math.fsum(np.abs(g) * self.sample.norms1[:count]) * self.scale / count
        bend = math.fsum(h * self.sample.norms2[:count]) * self.scale**2 / count / self.n
        x = 2.0 * self.reach * bend
        return settled * (x / (1.0 + x))

    def walk(self, g: np.ndarray, h: np.ndarray) -> float:
        """How far, as a standard deviation, examples' single steps carry a weight from where it wants to be.

        step * E[(g x_j)**2] / (2 H_j), the mean over the weights, where the run is long enough to settle.
        """
        count = len(g)
        squares = self.sample.norms2[:count]
        spread = math.fsum(np.square(g) * squares) * self.scale**2 / count / self.n
        bend = math.fsum(h * squares) * self.scale**2 / count / self.n
        return math.sqrt(self.problem.step * spread * self.reach / (1.0 + 2.0 * self.reach * bend))

    def pilot(self) -> tuple[np.ndarray, float | None]:
        """The float32 model that a short run over a part of the data leads to, and its intercept."""
        p = self.problem
        m, n = p.x.shape
        every, count = _spread(m, min(m, _PILOT_ROWS, max(8, int(_PILOT_NUMBERS / max(p.numbers, 1.0)))))
        rows = self.count
        squares = self.norms2 if self.weight is None else self.norms2 * self.weight
        stable = 0.5 / max(p.loss.max_curvature * math.fsum(squares) / rows, 1e-300)
        if p.loss.bounded_residual:  # nothing runs away, and in what unit the labels are, the step alone says
            stable = max(stable, p.step)
        step = min(p.step * self.n_examples / count, stable)
        pieces = min(32, count)
        half = pieces // 2
        for _ in range(8):
            model = model_of(np.zeros(n, np.float32), FORMATS["32f"], 1.0, p.width)
            run = p.driver(model, random="nearest", every=every, rows=count, step=step)
            if p.l1 or p.l2:
                run.set_rounds(max(1, count // pieces), alpha1=p.l1, alpha2=min(p.l2, 0.5 / step))
            total, intercept = np.zeros(n), 0.0
            for k in range(pieces):
                bad = run.run(count * k // pieces, count * (k + 1) // pieces)
                if bad >= 0:
                    break
                if k >= half:
                    run.fold()
                    total += model.codes
                    intercept += run.intercept
            if bad < 0 and np.isfinite(total).all():
                return total / (pieces - half), None if p.intercept is None else intercept / (pieces - half)
            check_row(p.x, bad * every)
            step /= 16.0  # the data have outliers, by which the mean norm does not tell what is stable
        return np.zeros(n), p.intercept

    def choose(self, fmt: Format) -> float:
        """The model scale with the least estimated cost of noise and clipping."""
        w, intercept = self.pilot()
        largest = float(np.abs(w).max())
        if largest == 0.0:
            return 1.0 / fmt.max_code
        unit = largest / (2**self._MODEL_BITS - 1)
        count = self.count
        g, h = self.slopes(self.sample.products(np.rint(w / unit), count) * (self.scale * unit) + (intercept or 0.0))
        walk = self.walk(g, h)
        # H_j, with whole weights, so that these sums are exact too
        top = float(h.max()) / 2**self._WEIGHT_BITS or 1.0
        whole_h, h = h, np.rint(h / top)
        H = self.sample.squares(h) * (top * self.scale**2 / count) + 1.0 / self.reach
        a = np.abs(w) * _HEADROOM[fmt.bits]
        if fmt.bits > 4:
            a = np.hypot(a, _WALKS * walk)
        # d cost / d R = noise / max_code - sum of H (a - R) over a > R, rising in R: bisect, on what still counts
        slope, low, high = self.noise(g, whole_h) / fmt.max_code, 0.0, float(a.max())
        for _ in range(12):
            middle = 0.5 * (low + high)
            over = a > middle
            if _sum(H[over] * (a[over] - middle)) > slope:
                low = middle
                a, H = a[over], H[over]
            else:
                high = middle
        mantissa, exponent = math.frexp(high / fmt.max_code)
        return math.ldexp(math.ceil(mantissa * 64) / 64, exponent)

    def pays(self, model: QuantizedArray, intercept: float | None, examples: int) -> bool:
        """Whether to double the range, after so many examples.

        Two ways out are tried: all weights grow in proportion, or those in the outermost sixteenth of the range alone,
        each at most to twice the range. The second-order estimate of what the better one gains, if the sample is sure
        of its sign by two standard errors, is compared with half the noise of the doubled quantum: half, because the
        estimate is of one direction only and comes out low.

        A weight by weight estimate would see more, and does not work: the forces on single weights are far smaller
        than their sampling error long after the model as a whole is clearly clipped.
        """
        w = model.unpacked()
        limit, unit = model.format.max_code, float(model.scale)
        edge = limit - limit // 16
        at_edge = np.abs(w, dtype=np.int32) >= edge
        if not at_edge.any():
            return False
        if 2 * int(np.count_nonzero(at_edge)) > len(w):
            return True  # so far gone that the weights say nothing but signs
        count = min(self.count, max(64, examples // 8))
        along = self.sample.products(w, count) * (self.scale * unit)
        g, h = self.slopes(along + (intercept or 0.0))
        if not np.isfinite(g).all():
            return False  # a row with a NaN: training will find it, and name it
        if model.format.bits > 4 and limit * unit < _WALKS * self.walk(g, h):
            return True
        outer = self.sample.products(np.where(at_edge, np.sign(w) * limit, 0), count) * (self.scale * unit)
        gain = max(self._gain(g, h, along), self._gain(g, h, outer))
        noise = self.noise(g, h) * unit
        if 256 * int(np.count_nonzero(at_edge)) >= len(w) and noise < _CHEAP * math.fsum(np.abs(g * along)) / count:
            return True
        return gain > 0.5 * noise

    @staticmethod
    def _gain(g: np.ndarray, h: np.ndarray, along: np.ndarray) -> float:
        """The second-order gain of the best part of a move that changes the products by `along`."""
        count = len(g)
        terms = g * along
        pull = -math.fsum(terms) / count
        error = math.fsum(np.square(terms + pull)) / max(count - 1, 1) / count
        if pull <= 0.0 or pull * pull <= 4.0 * error:
            return 0.0
        bend = math.fsum(h * np.square(along)) / count
        part = 1.0 if bend <= pull else pull / bend
        return part * pull - 0.5 * part * part * bend


def check_row(q: QuantizedArray | SparseArray, row: int) -> None:
    """Raise if a row holds a NaN or an infinity (only float data can)."""
    if row >= 0 and q.format.is_float and not np.isfinite(q[row].codes).all():
        raise checks.not_finite_row("X", row)
