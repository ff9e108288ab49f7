"""The training loop's Python face: `train`.

It validates, quantizes the data once, chooses the model's scale, and drives the compiled loop in blocks. Between
two blocks Python sees Ctrl-C, calls the callback, and at fixed points looks whether the model needs more range
(see `lowprec.model_range`).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import _sgd, checks
from .formats import RANDOM_SOURCES, ROUNDINGS, Format, Rounding
from .losses import mean_loss
from .model_range import Problem, Range, check_row, model_of
from .quantized import QuantizedArray, _empty, _scale_of, dequantize, from_codes, quantize
from .runtime import binds_threads, effective_n_threads
from .signature import Signature
from .sparse import SparseArray, as_index

__all__ = ["TrainInfo", "TrainResult", "prepare_data", "train"]

# Numbers to a block: some milliseconds for the fast kernels, which hides Python, and the wait of several workers for each other.
_BLOCK = 1 << 26
# Seconds that a call of the compiled loop may take: half of what Ctrl-C is promised, since rates vary.
_CALL_SECONDS = 0.05
# Farther ahead than any cache holds there is nothing to prefetch for.
_MAX_PREFETCH = 1 << 24
# So many examples that it never happens; still a number of 64 bits.
_NEVER = 1 << 62
# Without a sync_every, deterministic workers merge after so many examples, so many numbers, and so many times the model's size:
# a merge reads and writes all of it, a sparse example a few weights.
_SYNC_EXAMPLES, _SYNC_NUMBERS, _SYNC_MODELS = 16, 1 << 14, 4
# Bytes from which on workers convert their own data.
_SHARED_CONVERSION = 1 << 22
# Where the model's range is looked at first: after so many examples, then after twice as many, and so on.
_FIRST_LOOK = 16


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
        ``info.coef()`` is a copy of the model as it stands, float64. Later, and from other threads, it works only while the
        workers rest: in the callback, and when training is over.
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


def prepare_data(
    X: Any, fmt: Format, data_scale: Any = None, *, index: Any = None, n_workers: int = 1, cpus: np.ndarray | None = None
) -> QuantizedArray | SparseArray:
    """The data as codes of format `fmt`, as `train` takes them: borrowed where nothing needs converting.

    Parameters
    ----------
    X : array_like or sparse of shape (m, n), QuantizedArray or SparseArray
        See `train`.
    fmt : Format
        The D of the signature.
    index : Index, optional
        The i of the signature.
    data_scale : float, array_like or "feature", optional
        See `train`.
    n_workers : int
        Who will read the data: each converts, and so is the first to touch, the rows of its own share.
    cpus : ndarray of int32, shape (n_workers,), optional
        Where they are pinned.

    Returns
    -------
    QuantizedArray or SparseArray
    """
    sparse = isinstance(X, SparseArray) or checks.is_sparse(X)
    if index is not None and not sparse:
        raise ValueError(f"signature: i{index} asks for sparse data; X is dense. Pass a SciPy sparse array, or leave out the i")
    if isinstance(X, (QuantizedArray, SparseArray)):
        kind = type(X).__name__
        if X.ndim != 2:
            raise ValueError(f"X: must be two-dimensional; got shape {X.shape}")
        if X.format != fmt:
            raise ValueError(f"X: the signature asks for data of format {fmt}; got a {kind} of format {X.format}")
        if index is not None and as_index(str(index)) != X.index_format:
            raise ValueError(f"X: the signature asks for an index of {index} bits; got a {kind} with {X.index_format}")
        if data_scale is not None:
            raise ValueError(f"data_scale: X is a {kind} and has its own scale; leave data_scale=None")
        return X
    if sparse:
        return _quantize_sparse(X, fmt, data_scale, index)
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
    if n_workers > 1 and a.nbytes >= _SHARED_CONVERSION:
        try:
            return _quantize_in_shares(a, fmt, data_scale, n_workers, cpus)
        except ValueError:  # as a whole, it says in which row
            pass
    return _quantize_x(a, fmt, data_scale)


def _quantize_in_shares(a: np.ndarray, fmt: Format, scale: Any, n_workers: int, cpus: np.ndarray | None) -> QuantizedArray:
    """The same codes, each worker's share converted by a thread of its own."""
    if scale is None or isinstance(scale, str):
        scale = _scale_of(a, fmt, "X", per_column=scale is not None)
    q = _empty(fmt, scale, a.shape)

    def convert(t: int) -> int:
        if cpus is not None:
            os.sched_setaffinity(0, {int(cpus[t])})  # of this thread, which ends with the conversion
        rows = slice(len(a) * t // n_workers, len(a) * (t + 1) // n_workers)
        return quantize(a[rows], fmt, scale=scale, rounding="nearest", out=q[rows]).clipped if rows.stop > rows.start else 0

    with ThreadPoolExecutor(n_workers) as pool:
        q.clipped = sum(pool.map(convert, range(n_workers)))
    return q


def _quantize_x(a: Any, fmt: Format, scale: Any, **more: Any) -> Any:
    """`quantize`, whose errors are about X."""
    try:
        return quantize(a, fmt, scale=scale, rounding="nearest", **more)
    except (TypeError, ValueError) as error:
        if str(error).startswith("a: "):  # quantize's name for what is X here
            raise type(error)(f"X: {str(error)[3:]}") from None
        raise


def _quantize_sparse(X: Any, fmt: Format, data_scale: Any, index: Any) -> SparseArray:
    if len(X.shape) != 2:
        raise ValueError(f"X: must be two-dimensional; got shape {X.shape}")
    if data_scale is None and X.dtype == fmt.dtype and (fmt.is_float or X.dtype.kind == "i"):
        data_scale = 1.0  # such data are their own codes
    elif data_scale is not None:
        if isinstance(data_scale, str) or np.ndim(data_scale):
            raise checks.wrong_value("data_scale", "sparse data have one scale for all columns, a number", data_scale)
        data_scale = checks.check_scale(data_scale, name="data_scale")
    return _quantize_x(X, fmt, data_scale, index=None if index is None else str(index))


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
    X : array_like or sparse of shape (m, n), QuantizedArray or SparseArray
        Examples in rows: float16, float32, float64, bool or integers. Converted once to the signature's D, rounded
        to nearest, without a full-precision copy. float32 arrays for D = 32f, int8 for D = 8 and int16 for D = 16
        are used in place, as codes with scale 1. Of a QuantizedArray or SparseArray nothing is converted. Of SciPy's
        sparse arrays only the nonzeros are stored, with an index of the signature's i bits, or of as many as take
        the fewest bytes; all of them lose nothing.
    y : array_like of shape (m,)
        Labels: {-1, +1} or {0, 1} for logistic and hinge, any finite numbers for squared.
    signature : Signature or str
        Formats of data (D) with their index (i, if they are sparse), of the model (M), and of a mini-batch's gradient (G: 8, 16,
        32f, or absent for an exact one). See "Mini-batch" in docs/architecture.md for what G rounds.
    loss : {"logistic", "hinge", "squared"}
        See `lowprec.losses`.
    step_size : float
        Constant, for every example. The intercept has the same step, in float64.
    epochs : int
        Passes over the data.
    batch_size : int
        Examples whose gradients, all taken at the same model, are added up (not averaged) for one write of the model. The
        signature's G is the precision of that sum; without it, the sum is exact. A batch ends with a worker's share of the
        epoch, and one that is larger than the share is the share. Sparse data are trained on example by example.
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
        or with `deterministic` 16 examples, or as many as have 16,384 numbers (of sparse data 4 * n) if these
        are more.
    pin_threads : bool
        Tie each worker to a CPU of its own (of those that this process may use) while it trains, and let the memory of converted
        data be touched first by the worker that will read it. Without effect where OpenMP's own variables (``OMP_PROC_BIND``,
        ``OMP_PLACES``) do so.
    prefetch : int, optional
        Bytes between the data that are read and the software prefetch; 0: off. None: the tuned default. No effect on results.
    data_scale : float, array_like of shape (n,) or "feature", optional
        Value of one data code. None: the largest magnitude over the largest code. "feature": that of each column.
        With one scale per feature, training works in scaled coordinates, x_j / (data_scale_j * max_code), where each
        feature reaches about 1: `step_size` and `model_scale` act there (for D = 32f the coordinates are
        x_j / data_scale_j, and "feature" takes each column's largest magnitude). `coef` is divided back.
    model_scale : float, optional
        Value of one model code. None: by the rule in `lowprec.model_range`. Either way it is doubled, and the codes halved,
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
        sync_every = min(sync_every, _NEVER)
    asked = checks.check_n_threads(n_threads)
    n_threads = effective_n_threads(n_threads)
    n_workers = asked if deterministic and asked is not None else n_threads
    pin_threads = checks.check_bool("pin_threads", pin_threads)
    if prefetch is not None:
        prefetch = checks.check_int("prefetch", prefetch, minimum=0, maximum=_MAX_PREFETCH)
    checks.check_choice("rounding", rounding, ROUNDINGS)
    checks.check_choice("random", random, tuple(RANDOM_SOURCES))
    refresh = min(checks.check_int("refresh", refresh, minimum=1), _NEVER)
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
    if not (isinstance(X, (QuantizedArray, SparseArray)) or checks.is_sparse(X)):
        X = checks.as_2d_data(X, "X")
    elif len(X.shape) != 2:
        raise ValueError(f"X: must be two-dimensional; got shape {X.shape}")
    if isinstance(X, SparseArray) or checks.is_sparse(X):
        if batch_size > 1:
            raise checks.wrong_value("batch_size", "sparse data are trained on example by example, so it must be 1", batch_size)
        if signature.gradient is not None:
            rule = "sparse data are trained on example by example, without a G term"
            raise checks.wrong_value("signature", rule, str(signature))
    m, n = X.shape
    labels = checks.check_labels(y, loss, m)
    weight = checks.check_sample_weight(sample_weight, m)
    start = None if init is None else checks.check_vector("init", init, n)
    cpus = _cpus(n_workers) if pin_threads else None
    x = prepare_data(X, D, data_scale, index=signature.index, n_workers=n_threads, cpus=cpus)
    if isinstance(x, SparseArray):
        signature = signature._with(index=x.index_format)

    # One scale for all features. Where there is one for each, w_j is trained times `stretch` instead.
    if np.ndim(x.scale) == 0:
        scale, stretch = float(x.scale), None
    else:
        scale = 1.0 if D.is_float else 1.0 / D.max_code
        stretch = x.scale / scale
        start = start if start is None else start * stretch
    problem = Problem(x, scale, labels, weight, loss, step_size, init_intercept if fit_intercept else None)
    gradient = signature.gradient
    rounds = not M.is_float or (gradient is not None and not gradient.is_float)
    source = Rounding(rounding, random).source if rounds else "nearest"

    range_ = None if M.is_float else Range(problem, m * epochs)
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
        numbers = max(problem.numbers, 1.0)
        sync_every = max(_SYNC_EXAMPLES, int(_SYNC_NUMBERS / numbers), math.ceil(_SYNC_MODELS * n / numbers))
        sync_every = -(-sync_every // batch_size) * batch_size
    # The loop has a model of its own from here on: an exception leaves nothing half done behind.
    model = model_of(np.zeros(n, np.float32) if start is None else start, M, model_scale, problem.width)
    run = problem.driver(
        model, random=source, seed=seed, refresh=refresh, n_threads=n_workers, sync_every=sync_every,
        together=deterministic, cpus=cpus, prefetch=prefetch, batch_size=batch_size,
        gradient=None if gradient is None else str(gradient),
        data_limit=_largest(x) if D.is_float and gradient is not None else None,
    )  # fmt: skip
    loop = _Loop(run, problem, model, stretch, range_, n_workers, batch_size, sync_every is not None and n_workers > 1)
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


def _largest(x: QuantizedArray | SparseArray) -> float:
    """The largest finite magnitude of float data, a block at a time; 1 where all are zero."""
    m = x.shape[0]
    rows, largest = max(1, (1 << 18) * m // max(x.codes.size, 1)), 0.0
    for i in range(0, m, rows):
        part = np.abs(x[i : min(i + rows, m)].codes)
        largest = max(largest, float(np.max(part, where=np.isfinite(part), initial=0.0)))
    return largest or 1.0


def _cpus(n_workers: int) -> np.ndarray | None:
    """A CPU for each worker, of those that this process may use; None where OpenMP has tied its threads already."""
    if not _sgd.can_pin():
        raise ValueError("pin_threads: this system cannot tie threads to CPUs (Linux can); leave pin_threads=False")
    if binds_threads(os.environ):
        return None
    return np.resize(np.array(sorted(os.sched_getaffinity(0)), np.int32), n_workers)


def _diverged(step_size: float, row: int | None = None) -> ValueError:
    where = "" if row is None else f" at row {row}"
    return checks.wrong_value("step_size", f"must be so small that training stays finite; it diverged{where}", step_size)


class _Loop:
    """Drives the compiled loop in blocks, and looks after the model's range."""

    def __init__(
        self, run: Any, problem: Problem, model: QuantizedArray, stretch: np.ndarray | None, range_: Range | None,
        n_workers: int, batch_size: int, replicas: bool,
    ) -> None:  # fmt: skip
        self.run, self.x, self.model, self.stretch, self.range = run, problem.x, model, stretch, range_
        self.numbers = problem.numbers
        self.n_workers, self.batch_size = n_workers, batch_size
        # What is looked at while replicas go on from the shared model.
        self.view = QuantizedArray(model.buffer.copy(), model.format, model.scale, model.shape) if replicas else model
        self.examples, self.seconds, self.saturated, self.widened = 0, 0.0, 0, 0
        # Positions are examples of each worker's share; calls are cut between batches.
        self.block = self._whole(int(_BLOCK / max(self.numbers, 1.0)) // n_workers)
        self.next_look = self.regular_look = _FIRST_LOOK
        # The first call finds out how fast this machine is. Calls may be cut between any two batches: the bits stay the same.
        self.at_most = min(self._whole(_FIRST_LOOK // n_workers), self.block)

    def _whole(self, position: int) -> int:
        """So many examples as whole batches, one at least."""
        return max(self.batch_size, position // self.batch_size * self.batch_size)

    @property
    def gnps(self) -> float:
        return self.examples * self.numbers / self.seconds / 1e9 if self.seconds > 0 else 0.0

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
                check_row(self.x, bad)
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
                stop = callback(info)
                if isinstance(stop, (bool, np.bool_)) and stop:  # a comparison of NumPy numbers too, but not any object
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
    x: QuantizedArray | SparseArray, y: np.ndarray, weight: np.ndarray | None, loss: str, coef: np.ndarray, intercept: float
) -> float:
    """Mean loss over all rows, a block at a time."""
    m, n = x.shape
    sparse = isinstance(x, SparseArray)
    rows = max(1, int((1 << 18) / max(x.stored / m, 1.0))) if sparse else max(1, (1 << 18) // n)
    total = mass = 0.0
    for i in range(0, m, rows):
        part = slice(i, min(i + rows, m))
        if sparse:
            piece = x[part]
            terms = piece.unpacked() * (piece.scale * coef[piece.columns()])
            rows_of_terms = np.repeat(np.arange(len(piece)), np.diff(piece.indptr))
            p = np.bincount(rows_of_terms, weights=terms, minlength=len(piece)) + intercept
        else:
            p = dequantize(x[part], np.float64) @ coef + intercept
        w = None if weight is None else weight[part].astype(np.float64)
        size = part.stop - i if w is None else float(w.sum())
        if size > 0.0:
            total += mean_loss(loss, p, y[part], w) * size
            mass += size
    return total / mass
