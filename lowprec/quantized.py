"""Arrays of low-precision numbers: `QuantizedArray`, and how to make one.

A number is an integer code times a scale. `quantize` makes codes from numbers, `from_codes` takes codes
that exist, `dequantize` gives numbers back.

**The arithmetic**, the same to the last bit on every instruction set. ``L = 2**(bits - 1) - 1``, and T is
the type that is computed in: float32 for float32, float16, bool, and integers of up to 16 bits; float64 for
float64 and wider integers (and for all of them in the rare case that 1/scale is not a normal float32).
Then::

    t = T(a) * T(1 / scale)    # 1 / scale in float64, then rounded to T; the product rounded in T
    nearest:     code = t rounded to an integer, halves to even
    stochastic:  f = floor(t);  code = f + ((t - f) > u)    # t - f rounded in T
                 u = (word >> 8) * 2**-24
    clip to [-L, L], and count what was outside

Element j of a row takes 32-bit word ``j % 16`` of a 512-bit block of the xorshift generator; a fresh block
per 16 elements of the row, the partial one at its end included; rows in order. Rows come in groups of 1024:
group k draws from stream k of the seed, so what a row draws depends on its place alone, and a large array
can be quantized in parts. Rounded stochastically, a code's mean is t to within 2**-24.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import _quantize, checks
from .formats import FORMATS, ROUNDINGS, Format, as_format
from .signature import Index
from .sparse import Csr, SparseArray, as_index, to_csr

__all__ = ["QuantizedArray", "dequantize", "from_codes", "pack", "quantize"]

_ALIGNMENT = 64
# Bytes of a converted piece: half of a small L2 cache, so that the conversion is read back from there.
_TEMPORARY = 1 << 18
# Numbers quantized at a time where nothing is converted: between two pieces Python sees Ctrl-C.
_PIECE = 1 << 24
_SMALLEST_SCALE = sys.float_info.min  # 1/scale stays finite

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_FLOAT32_NORMAL = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_NARROW = frozenset(np.dtype(t) for t in ("f4", "f2", "?", "i1", "u1", "i2", "u2"))


# ---- memory ----------------------------------------------------------------------------------------------


def _padded(row_bytes: int) -> int:
    """The stride of a row that we allocate: whole cache lines, if that costs at most 1/16."""
    whole = -(-row_bytes // _ALIGNMENT) * _ALIGNMENT
    return whole if (whole - row_bytes) * 16 <= row_bytes else row_bytes


def _allocate(n_bytes: int) -> np.ndarray:
    """Zeros, aligned to a cache line."""
    memory = np.zeros(n_bytes + _ALIGNMENT - 1, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + n_bytes]


def _rows_and_columns(shape: tuple[int, ...]) -> tuple[int, int]:
    return (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])


def _as_rows(a: np.ndarray) -> np.ndarray:
    """A two-dimensional view."""
    return a[np.newaxis] if a.ndim == 1 else a


def _rows_contiguous(a: np.ndarray) -> bool:
    return a.shape[1] <= 1 or a.strides[1] == a.itemsize


def _borrowed_bytes(rows: np.ndarray, stride: int) -> np.ndarray:
    """The memory of a two-dimensional array with contiguous rows, from its first byte to its last."""
    n_bytes = (rows.shape[0] - 1) * stride + rows.shape[1] * rows.itemsize
    first = rows[0].view(np.uint8)
    return np.lib.stride_tricks.as_strided(first, (n_bytes,), (1,), writeable=rows.flags.writeable)


# ---- the array -------------------------------------------------------------------------------------------


class QuantizedArray:
    """Codes of one format, and the scale that makes numbers of them: ``number = code * scale``.

    Made by `quantize` and `from_codes`. One- or two-dimensional; a one-dimensional array is one row.

    Every row starts on a byte. Two 4-bit codes share a byte, the even element in its low nibble; the odd
    nibble at a row's end is zero. Memory that we allocate is aligned to 64 bytes, and its rows are padded
    with zeros to 64 bytes where that costs at most 1/16 of a row. Memory that is borrowed keeps its row
    stride.

    Parameters
    ----------
    buffer : ndarray of uint8
        The memory, one-dimensional and contiguous, from the first row's first byte on. Not copied.
    fmt : Format, str or int
        Format of the codes.
    scale : float or ndarray of float64
        One scale, or one per column.
    shape : tuple of int
        ``(n,)`` or ``(rows, n)``.
    row_stride : int, optional
        Bytes from one row's start to the next one's; by default rows follow each other without a gap.
    clipped : int
        How many numbers were outside the range of the codes.

    Attributes
    ----------
    buffer : ndarray of uint8
        The memory.
    format : Format
    scale : float or ndarray of float64
    shape : tuple of int
    row_stride : int
    clipped : int
        How many numbers `quantize` clipped to the largest code.

    Examples
    --------
    >>> import lowprec as lp
    >>> q = lp.quantize([[0.5, -1.0, 0.26], [0.0, 0.25, 1.0]], "8", scale=1 / 64, rounding="nearest")
    >>> q.codes
    array([[ 32, -64,  17],
           [  0,  16,  64]], dtype=int8)
    >>> q[1].codes
    array([ 0, 16, 64], dtype=int8)
    """

    __slots__ = ("_zero_padded", "buffer", "clipped", "format", "row_stride", "scale", "shape")

    def __init__(
        self,
        buffer: np.ndarray,
        fmt: Format | str | int,
        scale: float | np.ndarray,
        shape: tuple[int, ...],
        row_stride: int | None = None,
        clipped: int = 0,
    ) -> None:
        if not isinstance(buffer, np.ndarray) or buffer.dtype != np.uint8:
            raise checks.wrong_type("buffer", "an array of uint8", buffer)
        if buffer.ndim != 1 or not buffer.flags.c_contiguous:
            raise ValueError(
                f"buffer: must be one-dimensional and contiguous; got shape {buffer.shape}, strides {buffer.strides}"
            )
        self.format = as_format(fmt)
        self.shape = _check_shape(shape)
        n_rows, n = _rows_and_columns(self.shape)
        row_bytes = self.format.row_bytes(n)
        self.row_stride = row_bytes if row_stride is None else checks.check_int("row_stride", row_stride, minimum=1)
        needed = (n_rows - 1) * self.row_stride + row_bytes
        if buffer.size < needed:
            raise ValueError(f"buffer: must hold at least {needed} bytes for shape {self.shape}; got {buffer.size}")
        size = self.format.dtype.itemsize
        if size > 1:  # kernels read elements where C allows it
            starts = buffer.__array_interface__["data"][0] | (self.row_stride if n_rows > 1 else 0)
            if starts % size:
                raise ValueError(f"buffer: every row of format {self.format} must be aligned to {size} bytes; pass a copy")
        self.buffer = buffer
        self.scale = checks.check_scale(scale, n)
        self.clipped = checks.check_int("clipped", clipped, minimum=0)
        self._zero_padded = False

    @property
    def padded_width(self) -> int:
        """Columns that may be read as codes: `shape`'s, and zeros up to a multiple of 32 (4 bits: 64) if every row has room.

        Kernels have no remainder to deal with then. Only memory that we allocated is known to be padded with zeros.
        """
        n_rows, n = _rows_and_columns(self.shape)
        group = 64 if self.format.bits == 4 else 32
        width = -(-n // group) * group
        row_bytes = self.format.row_bytes(width)
        room = row_bytes <= self.row_stride and (n_rows - 1) * self.row_stride + row_bytes <= self.buffer.size
        return width if self._zero_padded and room else n

    @property
    def ndim(self) -> int:
        """1 or 2."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the codes, those between rows included."""
        return self.buffer.nbytes

    @property
    def codes(self) -> np.ndarray:
        """The codes: a view without the padding.

        int8, int16 or float32 of the array's own shape; for 4 bits the packed bytes, uint8 with ``ceil(n /
        2)`` to a row.
        """
        n_rows, n = _rows_and_columns(self.shape)
        dtype = self.format.dtype
        width = self.format.row_bytes(n) // dtype.itemsize
        view = np.ndarray((n_rows, width), dtype, buffer=self.buffer, strides=(self.row_stride, dtype.itemsize))
        return view[0] if self.ndim == 1 else view

    def unpacked(self) -> np.ndarray:
        """The codes one to an element, in a new array of this shape: int8 for 4 and 8 bits, int16, or float32."""
        if self.format.bits != 4:
            return np.array(self.codes, order="C")
        codes = np.empty(_rows_and_columns(self.shape), np.int8)
        _quantize.unpack4_rows(self.buffer, self.row_stride, codes)
        return codes.reshape(self.shape)

    def copy(self) -> QuantizedArray:
        """A copy in memory of its own, aligned and padded."""
        result = _empty(self.format, self.scale, self.shape, self.clipped)
        result.codes[...] = self.codes
        return result

    def __getitem__(self, key: int | slice) -> QuantizedArray:
        """One row, or a slice of rows: a view of the same memory.

        `clipped` is 0 in it: the count is of the whole.
        """
        if self.ndim == 1:
            raise TypeError(
                "QuantizedArray: an index selects rows, and a one-dimensional array has none; index .codes or .unpacked()"
            )
        n_rows, n = self.shape
        stride, row_bytes = self.row_stride, self.format.row_bytes(n)
        if isinstance(key, slice):
            first, last, step = key.indices(n_rows)
            count = len(range(first, last, step))
            if step < 0:
                raise ValueError(f"QuantizedArray: rows can be sliced with a positive step only; got step {step}")
            if count == 0:
                raise ValueError(f"QuantizedArray: the slice selects none of the {n_rows} rows; an array cannot be empty")
            shape, stride = (count, n), stride * step
        else:
            try:
                first = checks.check_int("QuantizedArray: index", key)
            except TypeError:
                raise checks.wrong_type("QuantizedArray: index", "an integer or a slice of rows", key) from None
            if not -n_rows <= first < n_rows:
                raise IndexError(f"QuantizedArray: row {first} is out of range; there are {n_rows} rows")
            first %= n_rows
            count, shape = 1, (n,)
        start = first * self.row_stride
        last = self.row_stride if self._zero_padded else row_bytes
        memory = self.buffer[start : start + (count - 1) * stride + last]
        result = QuantizedArray(memory, self.format, self.scale, shape, stride if count > 1 else last)
        result._zero_padded = self._zero_padded
        return result

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The numbers: `dequantize` to float32, or to `dtype`."""
        if copy is False:
            raise ValueError("QuantizedArray: numbers cannot be had without a copy; .codes is a view of the codes")
        dtype = np.dtype(np.float32 if dtype is None else dtype)
        if dtype in _DEQUANTIZED:
            return dequantize(self, dtype)
        return dequantize(self, np.float64).astype(dtype)

    def __reduce__(self) -> tuple:
        return _unpickle, (
            np.ascontiguousarray(self.codes),
            self.format.token,
            self.scale,
            self.shape,
            self.clipped,
        )

    def __repr__(self) -> str:
        scale = f"{self.scale!r}" if np.ndim(self.scale) == 0 else f"<one for each of {np.size(self.scale)} columns>"
        clipped = f", clipped={self.clipped}" if self.clipped else ""
        return f"QuantizedArray(shape={self.shape}, format={self.format.token!r}, scale={scale}{clipped})"


def _check_shape(shape: Any, name: str = "shape") -> tuple[int, ...]:
    if isinstance(shape, (int, np.integer)):
        shape = (shape,)
    if not isinstance(shape, (tuple, list)):
        raise checks.wrong_type(name, "a tuple (n,) or (rows, n)", shape)
    shape = tuple(checks.check_int(name, k) for k in shape)
    if len(shape) not in (1, 2):
        raise checks.wrong_value(name, "must be (n,) or (rows, n)", shape)
    if min(shape) < 1:
        raise checks.wrong_value(name, "must not be empty", shape)
    return shape


def _empty(fmt: Format, scale: float | np.ndarray, shape: tuple[int, ...], clipped: int = 0) -> QuantizedArray:
    """An array of zero codes in memory of its own."""
    n_rows, n = _rows_and_columns(shape)
    row_stride = _padded(fmt.row_bytes(n))
    result = QuantizedArray(_allocate(n_rows * row_stride), fmt, scale, shape, row_stride, clipped)
    result._zero_padded = True
    return result


def _unpickle(codes: np.ndarray, token: str, scale: Any, shape: tuple[int, ...], clipped: int) -> QuantizedArray:
    result = _empty(FORMATS[token], scale, shape, clipped)
    result.codes[...] = codes
    return result


# ---- walking over an array in pieces ---------------------------------------------------------------------


def _pieces(shape: tuple[int, int], limit: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of pieces of at most `limit` numbers, in the order of the rows: whole rows, or parts.

    `limit` is a multiple of 16, so that a part of a row begins where a block of random words does.
    """
    n_rows, n = shape
    if n <= limit:
        step = limit // n
        for i in range(0, n_rows, step):
            yield slice(i, min(i + step, n_rows)), slice(0, n)
    else:
        for i in range(n_rows):
            for j in range(0, n, limit):
                yield slice(i, i + 1), slice(j, min(j + limit, n))


def _converted(a: np.ndarray, dtype: np.dtype) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """The pieces of a two-dimensional array as `dtype` with contiguous rows: views where it is so, otherwise
    through one small temporary."""
    if a.dtype == dtype and a.flags.aligned and _rows_contiguous(a):
        for rows, columns in _pieces(a.shape, _PIECE):
            yield rows, columns, a[rows, columns]
        return
    limit = _TEMPORARY // dtype.itemsize
    memory = np.empty(min(limit, a.size), dtype)
    for rows, columns in _pieces(a.shape, limit):
        source = a[rows, columns]
        piece = memory[: source.size].reshape(source.shape)
        np.copyto(piece, source)
        yield rows, columns, piece


def _not_finite(a: np.ndarray, row: int, name: str) -> ValueError:
    """The exception for a NaN or an infinity in a row of a two-dimensional array."""
    for start in range(0, a.shape[1], _PIECE):
        bad = np.flatnonzero(~np.isfinite(a[row, start : start + _PIECE]))
        if bad.size:
            column = start + int(bad[0])
            return ValueError(f"{name}: every value must be finite; got {a[row, column]} in row {row}, column {column}")
    return ValueError(f"{name}: every value must be finite; row {row} changed while it was read")


def _first_bad_row(a: np.ndarray) -> int:
    for rows, columns in _pieces(a.shape, _TEMPORARY):
        bad = np.flatnonzero(~np.isfinite(a[rows, columns]).all(axis=1))
        if bad.size:
            return rows.start + int(bad[0])
    return 0


def _largest(a: np.ndarray, per_column: bool) -> float | np.ndarray:
    """The largest magnitude in float64, of the whole or of each column.

    By pieces: the second pass, for the minimum, finds them in the cache.
    """
    axis = 0 if per_column else None
    if not per_column and a.flags.f_contiguous:
        a = a.T  # the order does not matter: walk through memory as it lies
    shape = (a.shape[1],) if per_column else ()
    high, low = np.full(shape, -np.inf), np.full(shape, np.inf)
    for rows, columns in _pieces(a.shape, _TEMPORARY // a.itemsize):
        piece = a[rows, columns]
        part = columns if per_column else ()
        high[part] = np.maximum(high[part], piece.max(axis=axis).astype(np.float64))
        low[part] = np.minimum(low[part], piece.min(axis=axis).astype(np.float64))
    largest = np.maximum(high, -low)
    return largest if per_column else float(largest)


def _scale_of(a: np.ndarray, fmt: Format, name: str, per_column: bool = False) -> float | np.ndarray:
    """The scale with which the largest magnitude gets the largest code; 1.0 where all is zero."""
    if fmt.is_float:
        return np.ones(a.shape[1]) if per_column else 1.0
    largest = np.asarray(_largest(a, per_column))
    if not np.isfinite(largest).all():
        raise _not_finite(a, _first_bad_row(a), name)
    scale = _scale_for(largest, fmt)
    return scale if per_column else float(scale)


def _scale_for(largest: np.ndarray, fmt: Format) -> np.ndarray:
    """The scale of data with these largest magnitudes, one or one for each column."""
    return np.where(largest > 0, np.maximum(largest / fmt.max_code, _SMALLEST_SCALE), 1.0)


# ---- quantize --------------------------------------------------------------------------------------------


def quantize(
    a: Any,
    fmt: Format | str | int,
    *,
    scale: float | np.ndarray | str | None = None,
    rounding: str = "stochastic",
    seed: int = 0,
    out: QuantizedArray | None = None,
    index: Index | str | int | None = None,
) -> QuantizedArray | SparseArray:
    """Turn numbers into codes.

    Parameters
    ----------
    a : array_like, or SciPy sparse array or matrix
        One- or two-dimensional, of any layout: float16, float32, float64, bool, or integers. It is never
        copied as a whole: what is not float32 or float64 with contiguous rows goes through a temporary of
        256 KiB. A memory-mapped file will do. Sparse: anything with ``tocsr()``; where a row's column
        numbers do not rise, they are sorted and duplicates summed in a copy.
    fmt : {"4", "8", "16", "32f"} or Format
        Format of the codes. With "32f" the codes are float32 numbers, rounded once to nearest, and
        `rounding` has no effect.
    scale : float, array_like, "feature" or None
        The value of one code step: a positive number, or one for each column. None: the largest magnitude
        divided by the largest code, so that everything fits (1/scale being rounded, the largest itself may
        now and then be counted as clipped; its code is right all the same). "feature": the same for each
        column of a two-dimensional array. Where all is zero, and always with "32f", that scale is 1.
    rounding : {"stochastic", "nearest"}
        Up or down at random, so that the mean is right; or to nearest, halves to even.
    seed : int
        Of the stochastic rounding, in [0, 2**64). Different seeds give independent streams.
    out : QuantizedArray, optional
        To be filled, of this format and shape; nothing is allocated then. Its scale and count of clipped
        numbers are set as well. If an exception is raised its codes are unspecified. Not for sparse data.
    index : {"8", "16", "32"} or Index, optional
        Sparse data: bits of an index; no width loses anything. None: that which stores the fewest bytes.

    Returns
    -------
    QuantizedArray or SparseArray
        `out`, or a new array; a `lowprec.SparseArray` of sparse data.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If `a` is empty, has another number of dimensions, or holds NaN or infinity (the first such row is
        named); if a sparse `a` has a column number outside its shape; or if another argument is out of its range.

    See Also
    --------
    dequantize, from_codes

    Notes
    -----
    The arithmetic, to the bit, is at the top of this module. Codes lie in +-(2**(bits - 1) - 1); what falls
    outside is clipped and counted in ``.clipped``. The stored entries of a sparse array are quantized as if
    they were one row, in the order of CSR.

    Examples
    --------
    >>> import lowprec as lp
    >>> q = lp.quantize([0.5, -1.0, 0.25], "8", rounding="nearest")
    >>> q.codes, q.scale
    (array([  64, -127,   32], dtype=int8), 0.007874015748031496)
    >>> lp.quantize([0.3] * 8, "8", scale=1.0, seed=1).codes.dtype
    dtype('int8')
    """
    if checks.is_sparse(a):
        return _quantize_sparse(a, as_format(fmt, "fmt"), scale, rounding, seed, out, index)
    if index is not None:
        raise ValueError(f"index: only sparse data have one; got {index!r} for dense data")
    a = checks.as_data(a, "a")
    fmt = as_format(fmt, "fmt")
    stochastic = checks.check_choice("rounding", rounding, ROUNDINGS) == "stochastic"
    seed = checks.check_seed(seed)
    if out is not None:
        _check_out(out, fmt, a)
    rows = _as_rows(a)
    if scale is None:
        scale = _scale_of(rows, fmt, "a")
    elif isinstance(scale, str):
        checks.check_choice("scale", scale, ("feature",))
        if a.ndim != 2:
            raise ValueError(f"scale: 'feature' needs a two-dimensional array, one scale to a column; got shape {a.shape}")
        scale = _scale_of(rows, fmt, "a", per_column=True)
    elif type(scale) is not float or not _SMALLEST_SCALE <= scale < math.inf:
        # What is left out by the condition is plainly right, and the check would be a fifth of a small call.
        scale = checks.check_scale(scale, rows.shape[1])
    result = _empty(fmt, scale, a.shape) if out is None else out
    fill = _fill_floats if fmt.is_float else _fill_codes
    clipped = fill(rows, result, scale, stochastic, seed)
    result.scale, result.clipped = scale, clipped
    return result


def _quantize_sparse(
    a: Any, fmt: Format, scale: Any, rounding: str, seed: int, out: Any, index: Any
) -> SparseArray:
    if out is not None:
        raise ValueError("out: sparse data always make a new array; leave out=None")
    if not (scale is None or np.ndim(scale) == 0) or isinstance(scale, str):
        raise ValueError(f"scale: sparse data have one scale for all columns; got {scale!r}")
    if index is not None:
        index = as_index(index)
    csr = Csr(a, "a")
    values = csr.data if len(csr.data) else np.zeros(1, np.float32)
    q = quantize(values, fmt, scale=scale, rounding=rounding, seed=seed)
    return csr.encode(q.unpacked()[: len(csr.data)], fmt, float(q.scale), index, q.clipped)


def _check_out(out: Any, fmt: Format, a: np.ndarray) -> None:
    if not isinstance(out, QuantizedArray):
        raise checks.wrong_type("out", "a QuantizedArray", out)
    if out.format != fmt or out.shape != a.shape:
        raise ValueError(f"out: must have format {fmt} and shape {a.shape}; got format {out.format} and shape {out.shape}")
    if not out.buffer.flags.writeable:
        raise ValueError("out: must be writable; got a read-only array")
    n_rows, n = _rows_and_columns(out.shape)
    if n_rows > 1 and out.row_stride < fmt.row_bytes(n):
        raise ValueError(f"out: rows of {fmt.row_bytes(n)} bytes must not overlap; got row_stride {out.row_stride}")
    if np.may_share_memory(a, out.buffer):
        raise ValueError("out: must not share memory with a, which is read while out is written")


def _inverse(a: np.ndarray, scale: float | np.ndarray) -> tuple[float | np.ndarray, np.dtype]:
    """1/scale, and the type T that is computed in."""
    inverse = 1.0 / scale
    if a.dtype in _NARROW:
        lowest, highest = (inverse, inverse) if isinstance(inverse, float) else (inverse.min(), inverse.max())
        if lowest >= _FLOAT32_NORMAL[0] and highest <= _FLOAT32_NORMAL[1]:
            return inverse, _FLOAT32
    return inverse, _FLOAT64


def _fill_codes(a: np.ndarray, out: QuantizedArray, scale: float | np.ndarray, stochastic: bool, seed: int) -> int:
    """Codes of `a` into `out`; return how many were clipped."""
    bits, stride = out.format.bits, out.row_stride
    inv, dtype = _inverse(a, scale)
    per_column = isinstance(inv, np.ndarray)
    if per_column:
        inv = inv.astype(dtype, copy=False)
    past_cache = out.nbytes >= _quantize.PAST_CACHE_BYTES
    quantizer = _quantize.Quantizer(bits, stochastic, seed, past_cache=past_cache)
    for rows, columns, piece in _converted(a, dtype):
        start = rows.start * stride + columns.start * bits // 8
        bad = quantizer.rows(piece, out.buffer[start:], stride, inv[columns] if per_column else inv, columns.start > 0)
        if bad >= 0:
            raise _not_finite(a, rows.start + bad, "a")
    return quantizer.clipped


def _fill_floats(a: np.ndarray, out: QuantizedArray, scale: float | np.ndarray, stochastic: bool, seed: int) -> int:
    """float32 "codes" of `a`: one product in T, rounded to float32."""
    inverse, dtype = _inverse(a, scale)
    inv = np.asarray(inverse, dtype)
    codes, clipped = _as_rows(out.codes), 0
    limit = np.finfo(np.float32).max
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for rows, columns in _pieces(a.shape, _TEMPORARY // dtype.itemsize):
            piece = np.multiply(a[rows, columns], inv[columns] if inv.ndim else inv, dtype=dtype)
            finite = np.isfinite(piece.astype(np.float32, copy=False))
            if not finite.all():
                bad = np.flatnonzero(~np.isfinite(a[rows, columns]).all(axis=1))
                if bad.size:
                    raise _not_finite(a, rows.start + int(bad[0]), "a")
                clipped += finite.size - int(np.count_nonzero(finite))
                piece = piece.clip(-limit, limit)
            codes[rows, columns] = piece
    return clipped


# ---- back to numbers -------------------------------------------------------------------------------------

_DEQUANTIZED = tuple(np.dtype(t) for t in (np.float16, np.float32, np.float64))


def dequantize(q: QuantizedArray | SparseArray, dtype: Any = np.float32) -> Any:
    """The numbers that an array of codes stands for: ``code * scale``.

    Parameters
    ----------
    q : QuantizedArray or SparseArray
        The codes.
    dtype : {float32, float64, float16}
        Type of the result. The product is computed in float64 and rounded to it once.

    Returns
    -------
    ndarray or scipy.sparse.csr_array
        A new array of the shape of `q`. Of a SparseArray CSR, two-dimensional, without fillers; this needs SciPy.

    Examples
    --------
    >>> import lowprec as lp
    >>> lp.dequantize(lp.from_codes([2, -3], "4", scale=0.5)).tolist()
    [1.0, -1.5]
    """
    if not isinstance(q, (QuantizedArray, SparseArray)):
        raise checks.wrong_type("q", "a QuantizedArray or a SparseArray", q)
    try:
        dtype = np.dtype(dtype)
    except TypeError:
        raise checks.wrong_type("dtype", "float16, float32 or float64", dtype) from None
    if dtype not in _DEQUANTIZED:
        raise TypeError(f"dtype: expected float16, float32 or float64; got {dtype}")
    if isinstance(q, SparseArray):
        return to_csr(q, dtype)
    n_rows, n = _rows_and_columns(q.shape)
    result = np.empty((n_rows, n), dtype)
    if q.format.is_float:
        with np.errstate(over="ignore", under="ignore"):
            np.multiply(_as_rows(q.codes), q.scale, out=result, dtype=np.float64, casting="same_kind")
    elif dtype != np.float16:
        _quantize.dequantize_rows(q.buffer, q.row_stride, n_rows, n, q.format.bits, q.scale, result)
    else:
        per_column = np.ndim(q.scale) == 1
        with np.errstate(over="ignore", under="ignore"):
            for rows, columns in _pieces((n_rows, n), _TEMPORARY // 8):
                piece = np.empty((rows.stop - rows.start, columns.stop - columns.start))
                start = rows.start * q.row_stride + columns.start * q.format.bits // 8
                scale = q.scale[columns] if per_column else q.scale
                _quantize.dequantize_rows(q.buffer[start:], q.row_stride, *piece.shape, q.format.bits, scale, piece)
                result[rows, columns] = piece
    return result.reshape(q.shape)


# ---- codes that exist already ----------------------------------------------------------------------------


def _code_limits(fmt: Format) -> tuple[int, int]:
    return -fmt.max_code - 1, fmt.max_code


def _integer_codes(codes: Any, name: str = "codes") -> np.ndarray:
    """Integer codes as an array, one- or two-dimensional."""
    array = checks.as_data(codes, name)
    if array.dtype.kind not in "iu":
        raise checks.wrong_type(name, "integer codes", array)
    return array


def pack(codes: Any, fmt: Format | str | int) -> np.ndarray:
    """Integer codes as the array that stores them.

    Parameters
    ----------
    codes : array_like of int
        One- or two-dimensional, of any integer type, within the two's complement range of the format.
    fmt : {"4", "8", "16"} or Format
        The format.

    Returns
    -------
    ndarray
        A new C-contiguous array: for "4" uint8, two codes to a byte, the even element in the low nibble, a
        last odd nibble zero; for
        "8" int8; for "16" int16.

    Examples
    --------
    >>> import lowprec as lp
    >>> lp.pack([1, -1, 7], "4")
    array([241,   7], dtype=uint8)
    """
    fmt = as_format(fmt, "fmt")
    if fmt.is_float:
        raise ValueError(f"fmt: integer codes are packed to one of {{4, 8, 16}}; got {fmt}")
    array = _integer_codes(codes)
    rows = _as_rows(array)
    packed = np.empty((rows.shape[0], fmt.row_bytes(rows.shape[1]) // fmt.dtype.itemsize), fmt.dtype)
    _pack_into(rows, fmt, packed.reshape(-1).view(np.uint8), packed.strides[0])
    return packed.reshape(packed.shape[1:] if array.ndim == 1 else packed.shape)


def _pack_into(rows: np.ndarray, fmt: Format, buffer: np.ndarray, stride: int) -> None:
    """Check the range of integer codes, and store them."""
    low, high = _code_limits(fmt)
    storage = np.dtype(np.int8) if fmt.bits == 4 else fmt.dtype
    for part, columns in _pieces(rows.shape, _TEMPORARY):
        piece = rows[part, columns]
        if int(piece.min()) < low or int(piece.max()) > high:
            row, column = np.argwhere((piece < low) | (piece > high))[0]
            raise ValueError(
                f"codes: format {fmt} holds codes in [{low}, {high}]; got {piece[row, column]} in row "
                f"{part.start + row}, column {columns.start + column}"
            )
        piece = np.ascontiguousarray(piece, storage)
        start = part.start * stride + columns.start * fmt.bits // 8
        if fmt.bits == 4:
            _quantize.pack4_rows(piece, buffer[start:], stride)
        else:
            np.ndarray(piece.shape, storage, buffer=buffer, offset=start, strides=(stride, storage.itemsize))[...] = piece


def from_codes(
    codes: Any,
    fmt: Format | str | int,
    scale: float | np.ndarray = 1.0,
    shape: tuple[int, ...] | int | None = None,
) -> QuantizedArray:
    """An array of codes that exist already, in place where that is possible.

    Parameters
    ----------
    codes : array_like
        An array of the format's own type (int8, int16, float32; for "4" packed uint8, with `shape`) is
        borrowed: nothing is copied, and writing to one changes the other. Its rows must be contiguous, at
        any positive stride; it may be read-only. For "4" also an array of int8 codes, which are packed into
        new memory. A list of numbers is converted. Codes may use the whole two's complement range. They are
        not looked at, so float32 "codes" may even be NaN; of packed codes only the unused nibble at the end
        of an odd row is, which must be zero.
    fmt : {"4", "8", "16", "32f"} or Format
        The format.
    scale : float or array_like
        One positive number, or one for each column.
    shape : tuple of int, optional
        ``(n,)`` or ``(rows, n)``. Needed for packed codes, whose bytes do not say whether n is odd.

    Returns
    -------
    QuantizedArray

    Examples
    --------
    >>> import numpy as np
    >>> import lowprec as lp
    >>> x = np.array([[1, -128], [3, 4]], np.int8)
    >>> q = lp.from_codes(x, "8", scale=0.5)
    >>> x[0, 0] = 9
    >>> q.codes[0, 0]
    np.int8(9)
    >>> lp.from_codes(np.array([0xF1, 0x07], np.uint8), "4", shape=(3,)).unpacked()
    array([ 1, -1,  7], dtype=int8)
    """
    fmt = as_format(fmt, "fmt")
    is_array = isinstance(codes, np.ndarray)
    array = checks.as_data(codes, "codes")
    if shape is not None:
        shape = _check_shape(shape)
    if is_array and array.dtype == fmt.dtype:
        return _borrow(array, fmt, scale, array.shape if shape is None and fmt.bits != 4 else shape)

    if fmt.is_float:
        if is_array:
            raise checks.wrong_type("codes", "an array of float32 for format 32f", array)
        array = array.astype(np.float32)
    elif array.dtype.kind not in "iu":
        raise checks.wrong_type("codes", f"integer codes for format {fmt}", array)
    elif is_array and not (fmt.bits == 4 and array.dtype == np.int8):
        expected = "packed codes of uint8, or int8 codes," if fmt.bits == 4 else f"an array of {fmt.dtype}"
        raise checks.wrong_type("codes", f"{expected} for format {fmt} (lowprec.pack converts integers)", array)
    if shape is not None and shape != array.shape:
        raise ValueError(f"shape: must be that of codes, {array.shape}; got {shape}")
    rows = _as_rows(array)
    result = _empty(fmt, checks.check_scale(scale, rows.shape[1]), array.shape)
    if fmt.is_float:
        result.codes[...] = array
    else:
        _pack_into(rows, fmt, result.buffer, result.row_stride)
    return result


def _borrow(codes: np.ndarray, fmt: Format, scale: Any, shape: tuple[int, ...] | None) -> QuantizedArray:
    """A `QuantizedArray` on the memory of an array of the format's type."""
    if shape is None:
        raise ValueError("shape: packed 4-bit codes need shape=(n,) or (rows, n): their bytes do not say whether n is odd")
    rows = _as_rows(codes)
    n_rows, n = _rows_and_columns(shape)
    stored = (n_rows, fmt.row_bytes(n) // codes.itemsize)
    if codes.ndim == 1 and len(shape) == 2 and codes.size == math.prod(stored) and _rows_contiguous(rows):
        rows = rows.reshape(stored)
    if rows.shape != stored:
        raise ValueError(
            f"shape: codes of shape {codes.shape} do not make {shape}; format {fmt} needs {stored[1]} "
            f"{codes.dtype} to a row of {n}, {stored[0]} rows"
        )
    if not _rows_contiguous(rows):
        raise ValueError(
            f"codes: the codes of a row must be contiguous; got strides {codes.strides}; pass numpy.ascontiguousarray(codes)"
        )
    if not rows.flags.aligned:
        raise ValueError(f"codes: must be aligned to {codes.itemsize} bytes; pass a copy")
    stride = rows.strides[0] if n_rows > 1 else fmt.row_bytes(n)
    if stride <= 0:
        raise ValueError(
            f"codes: rows must follow each other in memory; got a row stride of {stride}; pass numpy.ascontiguousarray(codes)"
        )
    if fmt.bits == 4 and n % 2 and (rows[:, -1] > 15).any():
        row = int(np.flatnonzero(rows[:, -1] > 15)[0])
        raise ValueError(
            f"codes: the unused high nibble at the end of an odd row must be zero; got {rows[row, -1]:#04x} in row {row}"
        )
    return QuantizedArray(_borrowed_bytes(rows, stride), fmt, scale, shape, stride)
