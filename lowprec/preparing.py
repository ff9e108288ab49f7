"""Data as `lowprec.train` takes them: quantized once, borrowed where nothing needs converting."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from . import checks
from .formats import Format
from .quantized import QuantizedArray, _empty, _scale_of, from_codes, quantize
from .sparse import SparseArray, as_index

__all__ = ["prepare_data"]

# Bytes from which on workers convert their own data.
_SHARED_CONVERSION = 1 << 22


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
