"""What an estimator chooses where its user has not: scales of the data, step sizes, batches, epochs.

None of this is the paper's, which says nothing of step sizes, scales or units. Each rule says below what it is good for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import checks
from .formats import Format
from .losses import Loss
from .preparing import prepare_data
from .quantized import QuantizedArray, _empty, dequantize, quantize
from .sparse import SparseArray

__all__ = ["Prepared", "batch_size", "intercept_part", "max_iter", "prepare", "step_size"]

# Columns whose largest magnitudes differ by more than this factor (the largest of all over the median) get scales of their own.
_UNEVEN = 4.0
# A step of this part of 1 / (c (1 + ||x||^2)), c the loss's largest curvature, moves a product by that part of what is stable.
# With
# eight epochs and a step that falls to zero it was within its noise of the best on a9a, ijcnn1, Reuters, news20, MNIST,
# Fashion-MNIST; 0.1 falls short on the wide ones, 1 on the small ones.
_STEP = 0.4
# Epochs, and examples in all that a small data set should be visited for.
_EPOCHS, _EXAMPLES = 8, 50_000
# The rounding of a write costs as much whether it writes one example's step or the sum of many. So models of 8 bits and fewer are
# written once in up to so many examples; but so many writes there are in an epoch, and the rows of a batch stay in a cache.
_BATCH, _STEEP_BATCH, _WRITES, _CACHE = 128, 32, 64, 1 << 20
# Rows and numbers that are looked at.
_ROWS, _NUMBERS = 2048, 1 << 20
# Scales between the one that clips nothing and 1/128 of it, in steps of sqrt(2).
_SCALES = 2.0 ** (-0.5 * np.arange(15))


@dataclass(frozen=True)
class Coordinates:
    """Where a model's weights live.

    Attributes
    ----------
    scale : ndarray of float64, shape (n,), or None
        Values of one data code, where each column has its own.
    center : ndarray of float64, shape (n,), or None
        What was taken from every row.
    """

    scale: np.ndarray | None
    center: np.ndarray | None


@dataclass
class Prepared:
    """Data as codes, and where the features' zero was put.

    Attributes
    ----------
    codes : QuantizedArray or SparseArray
    center : ndarray of float64, shape (n,), or None
        What was taken from every row.
    """

    codes: QuantizedArray | SparseArray
    center: np.ndarray | None = None

    @property
    def coordinates(self) -> Coordinates:
        return Coordinates(self.codes.scale if np.ndim(self.codes.scale) else None, self.center)


def prepare(
    X: Any, fmt: Format, index: Any = None, data_scale: Any = "auto", *, center: bool = True, like: Coordinates | None = None
) -> Prepared:
    """Quantize data for a linear model, by the rules for ``data_scale="auto"`` or as told.

    - Dense data whose columns have about the same range: one scale, that of the largest magnitude.
    - Dense data whose columns have not (tables: years beside incomes): each column is centered, if the model has an intercept to
      take that up, and gets a scale of its own. SGD on such data as they are would hardly move.
    - Sparse data: one scale. Sparse data that take no less memory than dense ones are made dense.
    - Where a few numbers are far larger than the rest (word counts, skewed columns), the scale that clips nothing would round the
      rest to zero. Of the scales in between, that with the least absolute error on a sample is taken.

    Parameters
    ----------
    X : array or sparse array of shape (m, n), QuantizedArray or SparseArray
    fmt : Format
    index : Index, optional
    data_scale : "auto", or what `lowprec.train` takes
    center : bool
        Whether columns may be centered.
    like : Coordinates, optional
        Those of earlier data of the same model, to be kept.

    Returns
    -------
    Prepared
    """
    if isinstance(X, (QuantizedArray, SparseArray)):
        return Prepared(prepare_data(X, fmt, index=index))
    automatic = isinstance(data_scale, str) and data_scale == "auto"
    sparse = checks.is_sparse(X)
    if like is not None and like.scale is not None:
        return _in_columns(X, fmt, like.scale, like.center)
    if not automatic:
        return Prepared(prepare_data(X, fmt, data_scale, index=index))
    if like is not None and not sparse:
        return Prepared(prepare_data(X, fmt))
    if sparse:
        dense = X.nnz * (fmt.bits + 8) >= X.shape[0] * X.shape[1] * fmt.bits
        if index is not None or not dense:
            own_codes = X.dtype == fmt.dtype and X.dtype.kind == "i"
            return Prepared(prepare_data(X, fmt, None if fmt.is_float or own_codes else _sparse_scale(X, fmt), index=index))
        return _in_columns(X, fmt, _sparse_scale(X, fmt), None)
    X = checks.as_2d_data(X, "X")
    sample = X[:: max(1, len(X) // max(1, min(_ROWS, _NUMBERS // X.shape[1])))].astype(np.float64)
    largest = np.abs(sample).max(axis=0, initial=0.0)
    largest = largest[np.isfinite(largest) & (largest > 0)]
    if largest.size == 0 or largest.max() <= _UNEVEN * np.median(largest):
        return Prepared(prepare_data(X, fmt))
    mean, reach = _columns(X, center)
    sample -= 0.0 if mean is None else mean
    return _in_columns(X, fmt, _least_error(sample, reach, fmt), mean)


def _columns(X: np.ndarray, center: bool) -> tuple[np.ndarray | None, np.ndarray]:
    """Means of the columns (or None), and the largest distance from them (or from 0)."""
    m, n = X.shape
    total, low, high = np.zeros(n), np.full(n, np.inf), np.full(n, -np.inf)
    for rows in _blocks(m, n):
        part = X[rows].astype(np.float64)
        with np.errstate(invalid="ignore"):  # of a NaN quantize tells, and where
            total += part.sum(axis=0)
            low, high = np.minimum(low, part.min(axis=0)), np.maximum(high, part.max(axis=0))
    mean = np.where(np.isfinite(total), total / m, 0.0) if center else np.zeros(n)
    reach = np.maximum(high - mean, mean - low)
    return (mean if center else None), np.where(np.isfinite(reach) & (reach > 0), reach, 1.0)


def _blocks(m: int, n: int) -> list[slice]:
    rows = max(1, (1 << 18) // n)
    return [slice(i, min(i + rows, m)) for i in range(0, m, rows)]


def _least_error(sample: np.ndarray, reach: np.ndarray, fmt: Format) -> np.ndarray:
    """For each column the scale with the least error on the sample."""
    if fmt.is_float:
        return reach
    finite = np.where(np.isfinite(sample), sample, 0.0)
    errors = []
    for part in _SCALES:
        scale = reach * (part / fmt.max_code)
        errors.append(np.abs(finite - np.clip(np.rint(finite / scale), -fmt.max_code, fmt.max_code) * scale).sum(axis=0))
    return reach * _SCALES[np.argmin(errors, axis=0)] / fmt.max_code


def _sparse_scale(X: Any, fmt: Format) -> float | None:
    """The scale with the least error on a sample of the nonzeros; whole numbers that fit are their own codes."""
    data = X.data
    largest = float(np.abs(data).max(initial=0.0))
    if fmt.is_float or not math.isfinite(largest) or largest == 0.0:
        return 1.0 if fmt.is_float else None
    sample = data[:: max(1, len(data) // _NUMBERS)].astype(np.float64)
    scales = largest * _SCALES / fmt.max_code
    if np.array_equal(sample, np.rint(sample)):
        scales = np.append(scales, 1.0)
    codes = [np.clip(np.rint(sample / s), -fmt.max_code, fmt.max_code) for s in scales]
    return float(scales[np.argmin([float(np.abs(sample - c * s).sum()) for c, s in zip(codes, scales, strict=True)])])


def _in_columns(X: Any, fmt: Format, scale: Any, center: np.ndarray | None) -> Prepared:
    """Dense codes, a block of rows at a time."""
    m, n = X.shape
    q = _empty(fmt, scale, (m, n))
    for rows in _blocks(m, n):
        part = X[rows].toarray() if checks.is_sparse(X) else X[rows]
        part = part if center is None else part - center
        try:
            q.clipped += quantize(part, fmt, scale=scale, rounding="nearest", out=q[rows]).clipped
        except ValueError as error:
            if not np.isfinite(part).all():
                bad = rows.start + int(np.flatnonzero(~np.isfinite(part).all(axis=1))[0])
                raise checks.not_finite_row("X", bad) from None
            raise error
    return Prepared(q, center)


# ---- steps, batches, epochs --------------------------------------------------------------------------------


def _norms2(q: QuantizedArray | SparseArray) -> np.ndarray:
    """Squared lengths of a sample of the rows, in the coordinates of training."""
    m = q.shape[0]
    numbers = q.stored / m if isinstance(q, SparseArray) else q.shape[1]
    count = max(1, min(m, _ROWS, int(_NUMBERS / max(numbers, 1.0))))
    rows = np.arange(count) * (m // count)
    if isinstance(q, SparseArray):
        part = q.take(rows)
        squares = np.square(part.unpacked().astype(np.float64))
        norms = np.bincount(np.repeat(np.arange(count), np.diff(part.indptr)), weights=squares, minlength=count)
    else:
        part = q[:: m // count][:count]
        norms = np.square(part.unpacked().astype(np.float64)).sum(axis=1)
    scale = float(q.scale) if np.ndim(q.scale) == 0 else (1.0 if q.format.is_float else 1.0 / q.format.max_code)
    with np.errstate(over="ignore"):
        norms = norms * scale * scale
    if not np.isfinite(norms).all():
        raise checks.rows_too_large("X", float(np.abs(part.unpacked().astype(np.float64)).max()) * scale)
    return norms


def _bounded(loss: Loss) -> bool:
    """Whether the derivative is bounded, and not much larger than near the optimum."""
    return loss.bounded_residual or loss.name in ("logistic", "hinge")


def step_size(data: Prepared, loss: Loss, batch: int, spread: float = 1.0) -> float:
    """``0.4 / (c (1 + ||x||^2))``: c bounds the loss's curvature. The 1 is the intercept's, and left out where columns are
    centered.

    Where the derivative is bounded, a row that is longer than others moves the model no more than in proportion to its length:
    ||x||^2 is the median over rows. Elsewhere such rows decide what is stable: the mean, and the sum over a batch counts as one
    step.
    A loss of residuals whose derivative is bounded moves the model by so much a step whatever the unit of the labels: their
    spread is a factor.
    """
    norms = _norms2(data.codes)
    one = 1.0 if data.center is None else 0.0
    if not _bounded(loss):
        return min(_STEP, 1.0 / batch) / (loss.max_curvature * max(one + float(norms.mean()), 1e-12))
    step = _STEP / (loss.max_curvature * max(one + float(np.median(norms)), 1e-12))
    return step * unit(loss, spread)


def unit(loss: Loss, spread: float) -> float:
    """How much larger steps must be, and penalties smaller, for labels of this spread.

    Squared errors have the right derivatives in any unit. A derivative that is bounded moves the model by so much a step,
    whatever
    the labels' unit.
    """
    form = loss.derivative
    if not loss.bounded_residual:
        return 1.0
    return spread if form.slope == 0.0 else max(1.0, spread / max(form.high, 1e-3 * spread))


def intercept_part(data: Prepared) -> float:
    """The intercept's step over the weights': on sparse data half the density, for a weight moves so much more rarely."""
    q = data.codes
    if isinstance(q, SparseArray):
        return 0.5 * q.nnz / (q.shape[0] * q.shape[1])
    return 1.0 if data.center is None else min(1.0, float(_norms2(q).mean()))


def batch_size(q: QuantizedArray | SparseArray, model: Format, loss: Loss) -> int:
    """1, but for dense data and a model of at most 8 bits up to 128, or 32 where the sum over a batch must stay stable."""
    if isinstance(q, SparseArray) or model.bits > 8:
        return 1
    return max(1, min(_BATCH if _bounded(loss) else _STEEP_BATCH, q.shape[0] // _WRITES, _CACHE // q.row_stride))


def max_iter(n_rows: int) -> int:
    """8 epochs, of less than 6,250 rows so many more that there are 50,000 examples."""
    return max(_EPOCHS, math.ceil(_EXAMPLES / n_rows))


def decision(X: Any, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    """X @ coef.T + intercept in float64, without a copy of all X: shape (m, K)."""
    if isinstance(X, SparseArray):
        X = dequantize(X, np.float64)
    if checks.is_sparse(X):
        return X @ coef.T + intercept
    parts = []
    for rows in _blocks(*X.shape):
        part = X[rows]
        part = dequantize(part, np.float64) if isinstance(part, QuantizedArray) else part.astype(np.float64, copy=False)
        parts.append(part @ coef.T)
    return np.concatenate(parts) + intercept
