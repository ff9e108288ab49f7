"""dot and axpy on quantized arrays: validate, find the kernel, call it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import checks
from . import kernels as _core
from .formats import RANDOM_SOURCES, ROUNDINGS, Format, Rounding
from .quantized import QuantizedArray
from .sparse import SparseArray

__all__ = ["axpy", "dot"]


def _quantized(name: str, value: Any, ndims: tuple[int, ...], *, sparse: bool = False) -> Any:
    if not isinstance(value, QuantizedArray) and not (sparse and isinstance(value, SparseArray)):
        kinds = "a QuantizedArray or SparseArray" if sparse else "a QuantizedArray"
        raise checks.wrong_type(name, f"{kinds} (made by lowprec.quantize or lowprec.from_codes)", value)
    if len(value.shape) not in ndims:
        words = " or ".join({1: "one", 2: "two"}[d] for d in ndims)
        raise ValueError(f"{name}: must be {words}-dimensional; got shape {value.shape}")
    return value


def _scalar_scale(name: str, q: QuantizedArray | SparseArray) -> float:
    if np.ndim(q.scale) != 0:
        raise ValueError(
            f"{name}: the array must have a single scale; got one for each of {np.size(q.scale)} features. "
            "Codes of different scales cannot be added up as integers: quantize with a single scale, "
            "or train, which works in scaled coordinates"
        )
    return float(q.scale)


def _same_length(op: str, q: QuantizedArray | SparseArray, w: QuantizedArray) -> int:
    n = q.shape[-1]
    if n != w.shape[0]:
        raise ValueError(
            f"{op}: q and w must have as many features; got {n} in q of shape {q.shape} and {w.shape[0]} in w"
        )
    return n


def _kernel(op: str, q: QuantizedArray | SparseArray, M: Format, rounding: Rounding | None = None):
    suffix = rounding.suffix_for(M) if rounding is not None else ""
    name = f"s{op}_i{q.index_format}" if isinstance(q, SparseArray) else op
    try:
        return getattr(_core, f"{name}_{q.format}_{M}{suffix}")
    except AttributeError:
        raise checks.no_kernel(op, q.format, M, suffix.lstrip("_") or None) from None


def _row(q: QuantizedArray, i: int, n: int) -> np.ndarray:
    """The codes of row `i` as a kernel takes them: a view, packed where the format packs."""
    start = i * q.row_stride
    return q.buffer[start : start + q.format.row_bytes(n)].view(q.format.dtype)


def _model(op: str, w: QuantizedArray, n: int) -> np.ndarray:
    """The codes of a model. Data may use the smallest two's complement code, a model may not: kernels negate it."""
    codes = _row(w, 0, n)
    if w.format.is_float:
        return codes
    if w.format.packed:
        smallest = bool((((codes & 0x0F) == 0x08) | ((codes & 0xF0) == 0x80)).any())
    else:
        smallest = int(codes.min()) < -w.format.max_code
    if smallest:
        limit = w.format.max_code
        raise ValueError(f"{op}: w: codes of a model must lie in [-{limit}, {limit}]; got {-limit - 1}")
    return codes


def dot(q: QuantizedArray, w: QuantizedArray) -> float | np.ndarray:
    """Inner product of quantized data with a quantized model.

    Fixed-point pairs give the exact integer sum of the codes, times the two scales. Pairs with 32f are added
    up in a fixed order, so the result has the same bits on every instruction set.

    Parameters
    ----------
    q : QuantizedArray or SparseArray
        Data: one row, or a two-dimensional array of rows.
    w : QuantizedArray
        Model: one-dimensional, as long as a row of `q`, codes in +-(2**(bits - 1) - 1).

    Returns
    -------
    float or ndarray of float64
        ``float64(sum) * (q.scale * w.scale)``: a number, or one for each row of a two-dimensional `q`.

    Raises
    ------
    ValueError
        If the lengths differ, an array has a scale for each feature, `w` holds the smallest code, or a sum that
        involves floating point is not finite.

    Examples
    --------
    >>> import lowprec as lp
    >>> q = lp.from_codes([1, -2, 3], "8", 0.5)
    >>> w = lp.from_codes([10, 20, 30], "16", 0.25)
    >>> lp.dot(q, w)
    7.5
    """
    q = _quantized("dot: q", q, (1, 2), sparse=True)
    w = _quantized("dot: w", w, (1,))
    n = _same_length("dot", q, w)
    scale = _scalar_scale("dot: q", q) * _scalar_scale("dot: w", w)
    kernel = _kernel("dot", q, w.format)
    model = _model("dot", w, n)
    n_rows = 1 if len(q.shape) == 1 else q.shape[0]
    if isinstance(q, SparseArray):
        products = (kernel(*q.row(i), model, q.differences) for i in range(n_rows))
    else:
        products = (kernel(_row(q, i, n), model, n) for i in range(n_rows))
    sums = np.fromiter(products, np.float64, n_rows)
    if q.format.is_float or w.format.is_float:
        bad = np.flatnonzero(~np.isfinite(sums))
        if bad.size:
            raise checks.not_finite_row("dot: q and w", int(bad[0]))
    sums *= scale
    return sums if len(q.shape) == 2 else float(sums[0])


def axpy(
    alpha: float,
    q: QuantizedArray,
    w: QuantizedArray,
    *,
    rounding: str = "stochastic",
    random: str = "shared",
    seed: int = 0,
) -> None:
    """Add a multiple of quantized data to a quantized model, in place: ``w += alpha * q``.

    Each model number is rounded and saturated once, as it is written.

    Parameters
    ----------
    alpha : float
        The multiple; finite.
    q : QuantizedArray or SparseArray
        Data: one-dimensional. Of a sparse row only the stored entries are written, and entry j takes the random word
        of element j.
    w : QuantizedArray
        Model, of the same length; changed in place. It must be writable and must not share memory with `q`.
    rounding : {"stochastic", "nearest"}
        Unbiased or nearest. A 32f model is never rounded to codes, there this has no effect.
    random : {"shared", "xorshift", "mt19937"}
        Source of the random words of the stochastic rounding: one block for the whole array, or fresh for
        every write from either generator.
    seed : int
        In [0, 2**64). The same seed draws the same words; different seeds give independent streams.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If `alpha` is not finite or overflows in units of the model, lengths differ, `w` is read-only, holds the
        smallest code, or shares memory with `q`, 32f data is not finite, or an array has a scale for each feature.

    Examples
    --------
    >>> import lowprec as lp
    >>> q, w = lp.from_codes([1, -2, 3], "8", 0.5), lp.from_codes([0, 0, 0], "8", 0.25)
    >>> lp.axpy(1.0, q, w, rounding="nearest")
    >>> lp.dequantize(w).tolist()
    [0.5, -1.0, 1.5]
    """
    alpha = checks.check_finite_scalar("axpy: alpha", alpha)
    q = _quantized("axpy: q", q, (1,), sparse=True)
    w = _quantized("axpy: w", w, (1,))
    how = Rounding(
        checks.check_choice("axpy: rounding", rounding, ROUNDINGS),
        checks.check_choice("axpy: random", random, tuple(RANDOM_SOURCES)),
    )
    seed = checks.check_seed(seed, "axpy: seed")
    n = _same_length("axpy", q, w)
    m = alpha * _scalar_scale("axpy: q", q) / _scalar_scale("axpy: w", w)
    # A kernel clips a large step to the model's range, but an infinite one times a zero in the data is NaN.
    # Where float32 numbers are multiplied the step is a float32.
    narrow = q.format.is_float or w.format.is_float
    if not math.isfinite(m) or (narrow and abs(m) > float(np.finfo(np.float32).max)):
        raise checks.wrong_value("axpy: alpha", "alpha * q.scale / w.scale must be finite", m)
    kernel = _kernel("axpy", q, w.format, how)
    model = _model("axpy", w, n)
    checks.check_model_array("axpy: w", model)
    if isinstance(q, SparseArray):
        data, index = q.row(0)
        operands: tuple[Any, ...] = (data, index, model)
        count, options = len(index), {"differences": q.differences}
    else:
        data = _row(q, 0, n)
        operands, count, options = (data, model), n, {"n": n}
    if q.format.is_float and not np.isfinite(data).all():
        # a fixed-point model has no NaN: it would turn up as the smallest code, without a trace
        raise checks.wrong_value("axpy: q", "every value must be finite", str(data[~np.isfinite(data)][0]))
    if np.may_share_memory(data, model):
        raise ValueError("axpy: q and w must not share memory, w is changed while q is read; pass a copy")

    if kernel.rounding == "nearest":
        kernel(m, *operands, **options)
    elif kernel.rounding == "srb":
        words = _core._mt_words(seed, 0, count)
        if not q.format.is_float:
            words = (words >> np.uint32(16)).astype(np.uint16)
        kernel(m, *operands, words, seed=seed, **options)
    else:
        kernel(m, *operands, seed=seed, **options)
