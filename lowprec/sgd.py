"""The training loop's Python face: `train`.

It validates, quantizes the data once, chooses the model's scale, and drives the compiled loop in blocks. Between
two blocks Python sees Ctrl-C, calls the callback, and at fixed points looks whether the model needs more range.

**The model's scale.** A b-bit model covers +-R with R = scale * (2**(b - 1) - 1). A large R makes the quantum
coarse, a small one clips weights that want to be larger. What both cost can be estimated, from the examples'
loss derivatives g and curvatures h:

- Every unbiased rounding adds at most scale * |g x_j| * step_size to the variance of a weight, and the loss
  pulls it back at the rate 2 * step_size * H_j, H_j = E[h x_j**2]. In equilibrium the excess loss, the sum over
  j of H_j/2 times the variance, is ``scale/4 * E[|g| ||x||_1]``. Neither the step size nor H is left in it. A run
  of T examples is too short for that by the factor x / (1 + x), x = 2 * step_size * T * mean(H).
- A weight that wants to be a_j but ends at R costs about ``H_j/2 * (a_j - R)**2``; in a run so short that weights
  are still on their way, 1 / (step_size * T) takes the place of H_j. The sum of the two serves for both.

``model_scale=None`` minimizes the sum of the two. The a_j come from a pilot: up to 8,192 examples, evenly spread
over the data, trained on in float32 with a step that covers as much (step times examples) as the whole run if
that is stable; the mean of the second half of its models, times a headroom, which is larger where range costs
less. During training the scale is doubled where a sample of examples says that the clipped model would gain more by
growing than the doubled quantum costs (`_Range.pays`). That is asked after 16, 32, 64, ... examples, and again an
eighth later where the scale was doubled: fixed points, so a run is reproducible.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import _sgd, checks
from . import kernels as _core
from .formats import FORMATS, RANDOM_SOURCES, ROUNDINGS, Format, Rounding
from .losses import MAX_CURVATURE, curvature, mean_loss
from .quantized import QuantizedArray, _allocate, dequantize, from_codes, quantize
from .runtime import effective_n_threads
from .signature import Signature

__all__ = ["TrainInfo", "TrainResult", "prepare_data", "train"]

# Numbers to a block: some milliseconds for the fast kernels, which hides Python, and the wait of several workers for each other.
_BLOCK = 1 << 26
# Seconds that a call of the compiled loop may take: half of what Ctrl-C is promised, since rates vary.
_CALL_SECONDS = 0.05
# Farther ahead than any cache holds there is nothing to prefetch for.
_MAX_PREFETCH = 1 << 24
# Without a sync_every, deterministic workers merge after so many examples, and so many numbers.
_SYNC_EXAMPLES, _SYNC_NUMBERS = 16, 1 << 14
# Where the model's range is looked at first: after so many examples, then after twice as many, and so on.
_FIRST_LOOK = 16
_PILOT_ROWS, _PILOT_NUMBERS = 8192, 1 << 22
# By how much a weight may outgrow what the pilot saw, by the model's bits. The pilot is short and sees a part of
# the way; the quantum of 16 bits is so fine that range is free, that of 4 bits so coarse that none is to spare.
_HEADROOM = {4: 1.0, 8: 1.4, 16: 2.8}


# ---- what comes back ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainInfo:
    """What a callback is told after a block of examples.

    Attributes
    ----------
    epoch : int
        From 0.
    position : int
        Examples of this epoch that are done.
    examples : int
        Examples of the whole run that are done.
    seconds : float
        Spent in the epoch loops so far.
    gnps : float
        10**9 dataset numbers per second, so far.
    model_scale : float
        Value of one model code now; 1 for a 32f model.
    widened : int
        How often the model's scale was doubled so far.
    coef : callable
        ``info.coef()`` is a copy of the model as it stands, float64.
    """

    epoch: int
    position: int
    examples: int
    seconds: float
    gnps: float
    model_scale: float
    widened: int
    coef: Callable[[], np.ndarray] = field(repr=False)


@dataclass
class TrainResult:
    """A trained model.

    Attributes
    ----------
    coef : ndarray of float64, shape (n,)
        The weights: codes times scale, in the coordinates of the data as they were given.
    intercept : float
        0.0 unless ``fit_intercept``.
    model : QuantizedArray
        The weights in the format that they were trained in; ``dequantize(model, float64)`` is `coef`.
    signature : Signature
        What ran, with D and M written out.
    history : list of float
        Mean training loss after each finished epoch; empty unless ``history=True``.
    gnps : float
        10**9 dataset numbers per second, counting the epoch loops alone: not the conversion of the data, the
        choice of a scale, or history.
    seconds : float
        Time in the epoch loops.
    model_scale : float
        Value of one model code, 1.0 for a 32f model: `model.scale`, or where the data have one scale per feature, that of
        the coordinates of training. To go on training, pass it on together with `coef` as `init`.
    saturated : int
        The most weights that were seen at the limit of the model's range at once, at the points where the
        range is looked at and at the end, since the scale was last doubled. A few are normal for an 8-bit model
        and for a 4-bit one many, see `lowprec.sgd`. Always 0 for a 32f model.
    widened : int
        How often the model's scale was doubled.
    n_threads : int
        Threads that really ran, which in a forked child of a process that has trained with several is one.
    n_examples : int
        Examples that were trained on, over all epochs; less than rows times epochs if the callback stopped it.
    """

    coef: np.ndarray
    intercept: float
    model: QuantizedArray
    signature: Signature
    history: list[float]
    gnps: float
    seconds: float
    model_scale: float
    saturated: int
    widened: int
    n_threads: int
    n_examples: int


# ---- data --------------------------------------------------------------------------------------------------


def prepare_data(X: Any, fmt: Format, data_scale: Any = None) -> QuantizedArray:
    """The data as codes of format `fmt`, as `train` takes them: borrowed where nothing needs converting.

    Parameters
    ----------
    X : array_like of shape (m, n), or QuantizedArray
        See `train`.
    fmt : Format
        The D of the signature.
    data_scale : float, array_like or "feature", optional
        See `train`.

    Returns
    -------
    QuantizedArray
    """
    if isinstance(X, QuantizedArray):
        if X.ndim != 2:
            raise ValueError(f"X: must be two-dimensional; got shape {X.shape}")
        if X.format != fmt:
            raise ValueError(f"X: the signature asks for data of format {fmt}; got a QuantizedArray of format {X.format}")
        if data_scale is not None:
            raise ValueError("data_scale: X is a QuantizedArray and has its own scale; leave data_scale=None")
        return X
    a = checks.as_2d_data(X, "X")
    if data_scale is None and a.dtype == fmt.dtype and (fmt.is_float or a.dtype.kind == "i"):
        # float32 for 32f, int8 for 8, int16 for 16: such an array is its own codes, with scale 1.
        stride_ok = a.shape[0] == 1 or a.strides[0] > 0
        if stride_ok and a.flags.aligned and (a.shape[1] == 1 or a.strides[1] == a.itemsize):
            return from_codes(a, fmt)
        data_scale = 1.0
    if fmt.is_float and isinstance(data_scale, str):
        checks.check_choice("data_scale", data_scale, ("feature",))
        with np.errstate(invalid="ignore"):
            largest = np.maximum(a.max(axis=0).astype(np.float64), -a.min(axis=0).astype(np.float64))
        # A column with a NaN gets some scale: quantize finds it, and says where.
        data_scale = np.where(np.isfinite(largest) & (largest > 0), largest, 1.0)
    elif data_scale is not None and not isinstance(data_scale, str):
        data_scale = checks.check_scale(data_scale, a.shape[1], "data_scale")
    elif isinstance(data_scale, str):
        checks.check_choice("data_scale", data_scale, ("feature",))
    try:
        return quantize(a, fmt, scale=data_scale, rounding="nearest")
    except ValueError as error:
        if str(error).startswith("a: "):  # quantize's name for what is X here
            raise ValueError(f"X: {str(error)[3:]}") from None
        raise


def _rows(q: QuantizedArray, step: int, count: int, scale: float) -> QuantizedArray:
    """Rows 0, step, 2 step, ... as an array on the same memory, with one scale."""
    stride = q.row_stride * step
    n_bytes = (count - 1) * stride + q.format.row_bytes(q.shape[1])
    return QuantizedArray(q.buffer[:n_bytes], q.format, scale, (count, q.shape[1]), stride)


def _model(values: np.ndarray, fmt: Format, scale: float, width: int) -> QuantizedArray:
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
class _Problem:
    """What is trained on, in the coordinates of training."""

    x: QuantizedArray
    scale: float  # of the data, one for all features
    y: np.ndarray
    weight: np.ndarray | None
    loss: str
    step: float
    intercept: float | None

    def driver(self, model: QuantizedArray, *, random: str, every: int = 1, rows: int | None = None, step=None, **more):
        step = self.step if step is None else step
        rows = self.x.shape[0] if rows is None else rows
        part = slice(0, (rows - 1) * every + 1, every)
        # Zero pads change no bit of what is learned, and leave the kernels no remainder; but a generator that draws for
        # every number would draw for them too.
        width = self.x.padded_width if random in ("nearest", "shared") else self.x.shape[1]
        return _sgd.Sgd(
            self.x.buffer,
            self.x.row_stride * every,
            rows,
            width,
            str(self.x.format),
            str(model.format),
            random,
            model.buffer,
            np.ascontiguousarray(self.y[part]),
            loss=self.loss,
            step=step,
            data_scale=self.scale,
            model_scale=float(model.scale),
            weight=None if self.weight is None else np.ascontiguousarray(self.weight[part]),
            intercept=self.intercept,
            intercept_step=0.0 if self.intercept is None else step,
            **more,
        )


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


class _Range:
    """Estimates of what the model's quantum costs and what more range would gain, from a sample of examples.

    The model's scale decides every bit that follows, so no estimate may depend on the machine: the sample's codes,
    the model's codes and the weights of every sum are integers, small enough that the sums are exact in float64,
    in whatever order they are added up. (Not by a BLAS: its threads would get in the way of the workers.)
    """

    # Bits of a sample's codes (their squares have twice as many), of the weights of a sum, of a model; the sums over
    # 2**12 rows or 2**27 columns stay below 2**53.
    _CODE_BITS, _WEIGHT_BITS, _MODEL_BITS, _MAX_ROWS, _COLUMNS = 10, 20, 15, 1 << 12, 1 << 18

    def __init__(self, problem: _Problem, n_examples: int) -> None:
        self.problem = problem
        m, n = problem.x.shape
        # A look reads at most so many numbers, and there are about as many looks as doublings of 16 examples.
        budget = min(max(n_examples * n // 64, 1 << 13), 1 << 17)
        every, count = _spread(m, min(m, max(4 if n <= _PILOT_NUMBERS else 1, budget // n), self._MAX_ROWS))
        codes = _rows(problem.x, every, count, problem.scale).unpacked()
        self.scale = problem.scale
        if codes.dtype != np.int8:
            largest = float(np.abs(codes, dtype=np.float64).max())
            if not math.isfinite(largest):
                for row in range(count):
                    _check_row(problem.x, row * every)
            unit = largest / (2**self._CODE_BITS - 1) or 1.0
            codes = np.rint(codes / unit).astype(np.int16)
            self.scale *= unit
        # In an order of which every beginning is spread over the data too: early looks take a part of the sample.
        order = _bit_reversed(count)
        self.codes = codes[order]
        self.norms1 = np.abs(self.codes, dtype=np.int64 if n > 1 << 16 else np.int32).sum(axis=1, dtype=np.int64)
        rows = order * every
        self.y = problem.y[rows].tolist()
        self.weight = None if problem.weight is None else problem.weight[rows].astype(np.float64)
        self.norms2 = sum(np.einsum("ij,ij->i", x, x) for _, x in self._pieces(count))
        self.n_examples = n_examples
        self.reach = problem.step * n_examples

    def _pieces(self, count: int) -> Iterator[tuple[slice, np.ndarray]]:
        """The first rows of the sample as float64, some columns at a time."""
        for j in range(0, self.codes.shape[1], self._COLUMNS):
            columns = slice(j, j + self._COLUMNS)
            yield columns, self.codes[:count, columns].astype(np.float64)

    def _products(self, w: np.ndarray, count: int) -> np.ndarray:
        """Products of the first rows with a vector of integers, exact."""
        return sum(np.einsum("ij,j->i", x, w[columns].astype(np.float64)) for columns, x in self._pieces(count))

    def slopes(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and second derivative of the first rows' losses in their products p."""
        loss, count = self.problem.loss, len(p)
        g = np.array([_core._loss_derivative(loss, a, b) for a, b in zip(p.tolist(), self.y[:count], strict=True)])
        h = curvature(loss, g)
        return (g, h) if self.weight is None else (g * self.weight[:count], h * self.weight[:count])

    def noise(self, g: np.ndarray, h: np.ndarray) -> float:
        """Excess loss for each unit of the model's quantum, at the end of the run."""
        count = len(g)
        settled = 0.25 * math.fsum(np.abs(g) * self.norms1[:count]) * self.scale / count
        bend = math.fsum(h * self.norms2[:count]) * self.scale**2 / count / self.codes.shape[1]
        x = 2.0 * self.reach * bend
        return settled * (x / (1.0 + x))

    def pilot(self) -> tuple[np.ndarray, float | None]:
        """The float32 model that a short run over a part of the data leads to, and its intercept."""
        p = self.problem
        m, n = p.x.shape
        every, count = _spread(m, min(m, _PILOT_ROWS, max(8, _PILOT_NUMBERS // n)))
        rows = len(self.codes)
        squares = self.norms2 * self.scale**2
        if self.weight is not None:
            squares *= self.weight
        stable = 0.5 / max(MAX_CURVATURE[p.loss] * math.fsum(squares) / rows, 1e-300)
        step = min(p.step * self.n_examples / count, stable)
        pieces = min(32, count)
        half = pieces // 2
        for _ in range(8):
            model = _model(np.zeros(n, np.float32), FORMATS["32f"], 1.0, p.x.padded_width)
            run = p.driver(model, random="nearest", every=every, rows=count, step=step)
            total, intercept = np.zeros(n), 0.0
            for k in range(pieces):
                bad = run.run(count * k // pieces, count * (k + 1) // pieces)
                if bad >= 0:
                    break
                if k >= half:
                    run.flush()
                    total += model.codes
                    intercept += run.intercept
            if bad < 0 and np.isfinite(total).all():
                return total / (pieces - half), None if p.intercept is None else intercept / (pieces - half)
            _check_row(p.x, bad * every)
            step /= 16.0  # the data have outliers, by which the mean norm does not tell what is stable
        return np.zeros(n), p.intercept

    def choose(self, fmt: Format) -> float:
        """The model scale with the least estimated cost of noise and clipping."""
        w, intercept = self.pilot()
        largest = float(np.abs(w).max())
        if largest == 0.0:
            return 1.0 / fmt.max_code
        unit = largest / (2**self._MODEL_BITS - 1)
        count = len(self.codes)
        g, h = self.slopes(self._products(np.rint(w / unit), count) * (self.scale * unit) + (intercept or 0.0))
        # H_j, with whole weights, so that these sums are exact too
        top = float(h.max()) / 2**self._WEIGHT_BITS or 1.0
        whole_h, h = h, np.rint(h / top)
        H = np.concatenate([np.einsum("i,ij,ij->j", h, x, x) for _, x in self._pieces(count)])
        H = H * (top * self.scale**2 / count) + 1.0 / self.reach
        a = np.abs(w) * _HEADROOM[fmt.bits]
        # d cost / d R = noise / max_code - sum of H (a - R) over a > R, rising in R: bisect, on what still counts
        slope, low, high = self.noise(g, whole_h) / fmt.max_code, 0.0, largest * _HEADROOM[fmt.bits]
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
        count = min(len(self.codes), max(64, examples // 8))
        along = self._products(w, count) * (self.scale * unit)
        g, h = self.slopes(along + (intercept or 0.0))
        if not np.isfinite(g).all():
            return False  # a row with a NaN: training will find it, and name it
        outer = self._products(np.where(at_edge, np.sign(w) * limit, 0), count) * (self.scale * unit)
        gain = max(self._gain(g, h, along), self._gain(g, h, outer))
        return gain > 0.5 * self.noise(g, h) * unit

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


def _largest(q: QuantizedArray) -> float:
    """The largest finite magnitude of float data, a block at a time; 1 where all are zero."""
    m, n = q.shape
    rows, largest = max(1, (1 << 18) // n), 0.0
    for i in range(0, m, rows):
        part = np.abs(q[i : min(i + rows, m)].codes)
        largest = max(largest, float(np.max(part, where=np.isfinite(part), initial=0.0)))
    return largest or 1.0


def _check_row(q: QuantizedArray, row: int) -> None:
    """Raise if a row holds a NaN or an infinity (only float data can)."""
    if row >= 0 and q.format.is_float and not np.isfinite(q[row].codes).all():
        raise checks.not_finite_row("X", row)


# ---- training ----------------------------------------------------------------------------------------------


def train(
    X: Any,
    y: Any,
    *,
    signature: Signature | str = "D8M8",
    loss: str = "logistic",
    step_size: float,
    epochs: int = 1,
    batch_size: int = 1,
    n_threads: int | None = None,
    rounding: str = "stochastic",
    random: str = "shared",
    refresh: int = 1,
    seed: int = 0,
    shuffle: bool = False,
    history: bool = False,
    deterministic: bool = False,
    sync_every: int | None = None,
    pin_threads: bool = False,
    prefetch: int | None = None,
    data_scale: Any = None,
    model_scale: float | None = None,
    init: Any = None,
    init_intercept: float = 0.0,
    fit_intercept: bool = False,
    sample_weight: Any = None,
    callback: Callable[[TrainInfo], Any] | None = None,
) -> TrainResult:
    """Train a linear model by stochastic gradient descent on low-precision numbers.

    For each example in turn: ``w -= step_size * dloss(x . w, y) * x``, on codes.

    Parameters
    ----------
    X : array_like of shape (m, n), or QuantizedArray
        Examples in rows: float16, float32, float64, bool or integers. Converted once to the signature's D, rounded
        to nearest, without a full-precision copy. float32 arrays for D = 32f, int8 for D = 8 and int16 for D = 16
        are used in place, as codes with scale 1. Of a QuantizedArray nothing is converted.
    y : array_like of shape (m,)
        Labels: {-1, +1} or {0, 1} for logistic and hinge, any finite numbers for squared.
    signature : Signature or str
        Formats of data (D) and model (M), and of the gradient (G: 8, 16, 32f, or absent for an exact one); there is no
        kernel for other terms. See "Mini-batch" in docs/architecture.md for what G rounds.
    loss : {"logistic", "hinge", "squared"}
        See `lowprec.losses`.
    step_size : float
        Constant, for every example. The intercept has the same step, in float64.
    epochs : int
        Passes over the data.
    batch_size : int
        Examples whose gradients, all taken at the same model, are added up (not averaged) for one write of the model. The
        signature's G is the precision of that sum; without it, the sum is exact. A batch ends with a worker's share of the
        epoch, and one that is larger than the share is the share.
    n_threads : int, optional
        Workers, each with its own contiguous share of the epoch. None: what this process may use. By default they update the one
        shared model without locks. With one thread a run is reproducible to the last bit, on any machine.
    rounding : {"stochastic", "nearest"}
        How the model is rounded when it is written. No effect where M is 32f.
    random : {"shared", "xorshift", "mt19937"}
        Source of the random words of a stochastic rounding.
    refresh : int
        Updates that share one block of random words (``random="shared"``).
    seed : int
        Of the rounding and of `shuffle`, in [0, 2**64).
    shuffle : bool
        Visit the rows in a new random order in each epoch; by default as they stand.
    history : bool
        Compute the mean training loss after each epoch, which costs a pass over the data.
    deterministic : bool
        The result does not depend on timing: it is fixed by the data, the arguments and the number of workers, which is
        `n_threads` even where fewer threads can run. Workers have replicas of the model, as with `sync_every`, and all merge them
        at once, in the order of their numbers.
    sync_every : int, optional
        Give each worker a replica of the model, and merge it after so many of its examples: its changes are added to the shared
        model, the others' taken from it. A small model that all write at once bounces between the cores' caches; replicas do
        not. The price is that workers see each other's changes that much later. A multiple of `batch_size`. None: no replicas,
        or with `deterministic` 16 examples, or as many as have 16,384 numbers if these are more.
    pin_threads : bool
        Tie each worker to a CPU of its own (of those that this process may use) while it trains, and let the memory of converted
        data be touched first by the worker that will read it.
    prefetch : int, optional
        Bytes between the data that are read and the software prefetch; 0: off. None: the tuned default. No effect on results.
    data_scale : float, array_like of shape (n,) or "feature", optional
        Value of one data code. None: the largest magnitude over the largest code. "feature": that of each column.
        With one scale per feature, training works in scaled coordinates, x_j / (data_scale_j * max_code), where each
        feature reaches about 1: `step_size` and `model_scale` act there (for D = 32f the coordinates are
        x_j / data_scale_j, and "feature" takes each column's largest magnitude). `coef` is divided back.
    model_scale : float, optional
        Value of one model code. None: by the rule in `lowprec.sgd`. Either way it is doubled, and the codes halved,
        when the model saturates and more range would gain more than the coarser quantum costs.
    init : array_like of shape (n,), optional
        Weights to start from, in the coordinates of the data, rounded to nearest; by default zeros.
    init_intercept : float
        Intercept to start from, with `fit_intercept`.
    fit_intercept : bool
        Train an intercept, a float64 number beside the model.
    sample_weight : array_like of shape (m,), optional
        Factor of each example's step.
    callback : callable, optional
        Called with a `TrainInfo` after each block of examples, at least every 100 ms unless a single example takes
        longer. If it returns True, training stops there.

    Returns
    -------
    TrainResult

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If an argument has a wrong shape or is out of range; if the signature has no kernel; if `X` holds NaN or
        infinity (the row is named); or if training diverges.
    KeyboardInterrupt
        On Ctrl-C, within a second. Nothing of the caller's has been changed.

    See Also
    --------
    lowprec.linear_model.LowPrecisionSGDClassifier

    Examples
    --------
    >>> import numpy as np
    >>> import lowprec as lp
    >>> X = np.random.default_rng(0).uniform(-1, 1, (4000, 8)).astype(np.float32)
    >>> y = X[:, 0] > X[:, 1]
    >>> r = lp.train(X, y, signature="D8M8", step_size=0.1, n_threads=1)
    >>> bool(np.mean((X @ r.coef > 0) == y) > 0.95)
    True
    """
    signature = Signature(signature).require_runnable()
    if signature.is_sparse:
        raise ValueError(f"signature: {signature} asks for sparse data; X is dense")
    D, M = signature.dataset, signature.model
    checks.check_loss(loss)
    step_size = checks.check_step(step_size)
    epochs = checks.check_int("epochs", epochs, minimum=1)
    batch_size = checks.check_int("batch_size", batch_size, minimum=1)
    deterministic = checks.check_bool("deterministic", deterministic)
    if sync_every is not None:
        sync_every = checks.check_int("sync_every", sync_every, minimum=1)
        if sync_every % batch_size:
            raise checks.wrong_value("sync_every", f"must be a multiple of batch_size ({batch_size})", sync_every)
    asked = checks.check_n_threads(n_threads)
    n_threads = effective_n_threads(n_threads)
    n_workers = asked if deterministic and asked is not None else n_threads
    pin_threads = checks.check_bool("pin_threads", pin_threads)
    if prefetch is not None:
        prefetch = checks.check_int("prefetch", prefetch, minimum=0, maximum=_MAX_PREFETCH)
    checks.check_choice("rounding", rounding, ROUNDINGS)
    checks.check_choice("random", random, tuple(RANDOM_SOURCES))
    refresh = checks.check_int("refresh", refresh, minimum=1)
    seed = checks.check_seed(seed)
    shuffle = checks.check_bool("shuffle", shuffle)
    history = checks.check_bool("history", history)
    fit_intercept = checks.check_bool("fit_intercept", fit_intercept)
    init_intercept = checks.check_finite_scalar("init_intercept", init_intercept)
    if init_intercept and not fit_intercept:
        raise ValueError("init_intercept: has no effect unless fit_intercept=True; got " + repr(init_intercept))
    checks.check_callback(callback)
    if model_scale is not None:
        if M.is_float:
            raise ValueError(f"model_scale: a model of format {M} has no scale; leave model_scale=None")
        model_scale = checks.check_scale(model_scale, name="model_scale")
    if not isinstance(X, QuantizedArray):
        X = checks.as_2d_data(X, "X")
    elif X.ndim != 2:
        raise ValueError(f"X: must be two-dimensional; got shape {X.shape}")
    m, n = X.shape
    labels = checks.check_labels(y, loss, m)
    weight = checks.check_sample_weight(sample_weight, m)
    start = None if init is None else checks.check_vector("init", init, n)
    x = prepare_data(X, D, data_scale)

    # One scale for all features. Where there is one for each, w_j is trained times `stretch` instead.
    if np.ndim(x.scale) == 0:
        scale, stretch = float(x.scale), None
    else:
        scale = 1.0 if D.is_float else 1.0 / D.max_code
        stretch = x.scale / scale
        start = start if start is None else start * stretch
    problem = _Problem(x, scale, labels, weight, loss, step_size, init_intercept if fit_intercept else None)
    gradient = signature.gradient
    rounds = not M.is_float or (gradient is not None and not gradient.is_float)
    source = Rounding(rounding, random).source if rounds else "nearest"

    range_ = None if M.is_float else _Range(problem, m * epochs)
    widened = 0
    if range_ is None:
        model_scale = 1.0
    else:
        if model_scale is None:
            model_scale = range_.choose(M)
        while start is not None and float(np.abs(start).max()) > model_scale * (M.max_code + 0.5):
            model_scale *= 2.0
            widened += 1
    if deterministic and sync_every is None:
        sync_every = max(_SYNC_EXAMPLES, _SYNC_NUMBERS // n)
        sync_every = -(-sync_every // batch_size) * batch_size
    # The loop has a model of its own from here on: an exception leaves nothing half done behind.
    model = _model(np.zeros(n, np.float32) if start is None else start, M, model_scale, x.padded_width)
    run = problem.driver(
        model, random=source, seed=seed, refresh=refresh, n_threads=n_workers, sync_every=sync_every, batch_size=batch_size,
        gradient=None if gradient is None else str(gradient),
        data_limit=_largest(x) if D.is_float and gradient is not None else None,
        together=deterministic, cpus=_cpus(n_workers) if pin_threads else None, prefetch=prefetch,
    )  # fmt: skip
    loop = _Loop(run, x, model, stretch, range_, n_workers, batch_size, sync_every is not None and n_workers > 1)
    order = np.random.default_rng(seed) if shuffle else None
    trace: list[float] = []
    for epoch in range(epochs):
        if order is not None:
            run.set_order(order.permutation(m).astype(np.int64, copy=False))
        if loop.epoch(epoch, step_size, callback):
            break
        if history:
            trace.append(_training_loss(x, labels, weight, loss, *loop.state()))
    run.merge()
    coef = loop.coef()
    model.scale = loop.view.scale
    if not (np.isfinite(coef).all() and math.isfinite(run.intercept)):
        raise _diverged(step_size)
    loop.look_at_limit()
    return TrainResult(
        coef=coef,
        intercept=float(run.intercept) if fit_intercept else 0.0,
        model=model,
        signature=signature,
        history=trace,
        gnps=loop.gnps,
        seconds=loop.seconds,
        model_scale=float(run.model_scale),
        saturated=loop.saturated,
        widened=widened + loop.widened,
        n_threads=run.threads,
        n_examples=loop.examples,
    )


def _cpus(n_workers: int) -> np.ndarray:
    """A CPU for each worker, of those that this process may use."""
    if not _sgd.can_pin():
        raise ValueError("pin_threads: this system cannot tie threads to CPUs (Linux can); leave pin_threads=False")
    return np.resize(np.array(sorted(os.sched_getaffinity(0)), np.int32), n_workers)


def _diverged(step_size: float, row: int | None = None) -> ValueError:
    where = "" if row is None else f" at row {row}"
    return checks.wrong_value("step_size", f"must be so small that training stays finite; it diverged{where}", step_size)


class _Loop:
    """Drives the compiled loop in blocks, and looks after the model's range."""

    def __init__(
        self, run: Any, x: QuantizedArray, model: QuantizedArray, stretch: np.ndarray | None, range_: _Range | None,
        n_workers: int, batch_size: int, replicas: bool,
    ) -> None:  # fmt: skip
        self.run, self.x, self.model, self.stretch, self.range = run, x, model, stretch, range_
        self.n_workers, self.batch_size = n_workers, batch_size
        # What is looked at while replicas go on from the shared model.
        self.view = QuantizedArray(model.buffer.copy(), model.format, model.scale, model.shape) if replicas else model
        self.examples, self.seconds, self.saturated, self.widened = 0, 0.0, 0, 0
        # Positions are examples of each worker's share; calls are cut between batches.
        self.block = self._whole(_BLOCK // x.shape[1] // n_workers)
        self.next_look = self.regular_look = _FIRST_LOOK
        # The first call finds out how fast this machine is. Calls may be cut between any two batches: the bits stay the same.
        self.at_most = min(self._whole(_FIRST_LOOK // n_workers), self.block)

    def _whole(self, position: int) -> int:
        """So many examples as whole batches, one at least."""
        return max(self.batch_size, position // self.batch_size * self.batch_size)

    @property
    def gnps(self) -> float:
        return self.examples * self.x.shape[1] / self.seconds / 1e9 if self.seconds > 0 else 0.0

    def state(self) -> tuple[np.ndarray, float]:
        """The model as it stands, every update applied, in the coordinates of the data, and the intercept."""
        intercept = self.run.snapshot(self.view.buffer)
        self.view.scale = self.run.model_scale if self.stretch is None else self.run.model_scale / self.stretch
        return dequantize(self.view, np.float64), intercept

    def coef(self) -> np.ndarray:
        return self.state()[0]

    def epoch(self, epoch: int, step_size: float, callback: Callable[[TrainInfo], Any] | None) -> bool:
        """One pass over the data; True if the callback stopped it."""
        share, before = self.run.share, self.examples
        at = 0
        while at < share:
            block_end = min(share, (at // self.block + 1) * self.block)
            end = min(block_end, at + self.at_most)
            if self.range is not None:
                look = -(-(self.next_look - before) // self.n_workers)
                end = min(end, max(at + self.batch_size, -(-look // self.batch_size) * self.batch_size))
            begin = time.perf_counter()
            bad = self.run.run(at, end)
            took = time.perf_counter() - begin
            if bad >= 0:
                _check_row(self.x, bad)
                raise _diverged(step_size, bad)
            self.seconds += took
            self.examples = before + self.run.examples(end)
            longest = min(int((end - at) * _CALL_SECONDS / max(took, 1e-9)), 4 * self.at_most)
            self.at_most = min(self._whole(longest), self.block)
            at = end
            if self.range is not None and self.examples >= self.next_look:
                self.look()
            if callback is not None and (at == block_end or took > _CALL_SECONDS / 2):
                info = TrainInfo(
                    epoch, self.run.examples(at), self.examples, self.seconds, self.gnps, self.run.model_scale, self.widened,
                    self.coef,
                )  # fmt: skip
                if callback(info) is True:
                    return True
        return False

    def look_at_limit(self) -> None:
        if self.range is not None:
            self.saturated = max(self.saturated, self.run.at_limit())

    def look(self) -> None:
        """Widen the model's range if that pays."""
        while self.regular_look <= self.examples:
            self.regular_look *= 2
        self.next_look = self.regular_look
        self.look_at_limit()
        intercept = self.run.intercept if self.view is self.model else self.run.snapshot(self.view.buffer)
        now = QuantizedArray(self.view.buffer, self.model.format, self.run.model_scale, self.model.shape)
        if self.range.pays(now, intercept, self.examples):
            self.run.widen()
            self.widened += 1
            self.saturated = 0
            # Once may not be enough: see again how the weights stand when they have had time to move.
            self.next_look = min(self.next_look, self.examples + max(_FIRST_LOOK, self.examples // 8))


def _training_loss(
    x: QuantizedArray, y: np.ndarray, weight: np.ndarray | None, loss: str, coef: np.ndarray, intercept: float
) -> float:
    """Mean loss over all rows, a block at a time."""
    m, n = x.shape
    rows = max(1, (1 << 18) // n)
    total = mass = 0.0
    for i in range(0, m, rows):
        part = slice(i, min(i + rows, m))
        p = dequantize(x[part], np.float64) @ coef + intercept
        w = None if weight is None else weight[part].astype(np.float64)
        size = part.stop - i if w is None else float(w.sum())
        if size > 0.0:
            total += mean_loss(loss, p, y[part], w) * size
            mass += size
    return total / mass
