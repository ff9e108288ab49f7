"""Sparse arrays of low-precision numbers: `SparseArray`.

Rows are stored one after another, as in CSR: of each nonzero its code and an index. Made by `lowprec.quantize` from any SciPy
sparse array or matrix; `lowprec.dequantize` gives CSR back. SciPy itself is needed for neither storing nor training.

**The index** of 8, 16 or 32 bits holds the column number where every column number fits, n <= 2**bits. Otherwise it holds the
difference to the column number before, which is -1 before a row's first: every difference is at least 1. A gap wider than
``2**bits - 1`` is bridged by fillers, entries with the largest difference and code 0, as many as it takes. So no width loses
anything, and within a row all positions, those of fillers included, are distinct and rise. A filler changes nothing: its
number is 0. (De Sa et al., ISCA 2017, Section 3, state both ideas, reduced index precision and differences.)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import _sparse, checks
from . import kernels as _core
from .formats import Format, as_format
from .signature import Index

__all__ = ["SparseArray"]

_INDEX_DTYPES = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16), 32: np.dtype(np.uint32)}
# An array of codes as unsigned numbers of their size, to be moved about.
_AS_BITS = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16), 4: np.dtype(np.uint32)}


def as_index(value: Any, name: str = "index") -> Index:
    """The `Index` that a width names: 8, 16 or 32, as an integer, a token or a Format."""
    options = ", ".join(map(str, _INDEX_DTYPES))
    if isinstance(value, Format):
        token = value.token
    elif isinstance(value, str) or (isinstance(value, (int, np.integer)) and not isinstance(value, bool)):
        token = str(value)
    else:
        raise checks.wrong_type(name, f"one of {{{options}}}, or None for the narrowest", value)
    if token not in map(str, _INDEX_DTYPES):
        raise ValueError(f"{name}: choose one of {{{options}}}; got {value!r}")
    return Index(int(token))


class SparseArray:
    """Codes of one format at their places in a sparse matrix, and the scale: ``number = code * scale``.

    Made by `lowprec.quantize` from SciPy's sparse arrays and matrices. Two-dimensional, or one row of shape ``(n,)``. The arrays
    are borrowed, and must not be changed such that `index` leaves the shape.

    Parameters
    ----------
    codes : ndarray
        Of the format's own type, one for each stored entry; for format 4 packed, uint8, the codes of row i from byte
        ``(indptr[i] + i) // 2`` on, an odd nibble at a row's end zero.
    index : ndarray of uint8, uint16 or uint32, shape (stored,)
        Column numbers, or differences of column numbers.
    indptr : ndarray of int64, shape (rows + 1,)
        Row i has the stored entries ``indptr[i]`` to ``indptr[i + 1] - 1``.
    fmt : Format, str or int
        Format of the codes.
    scale : float
        Value of one code.
    shape : tuple of int
        ``(rows, n)``, or ``(n,)``.
    differences : bool
        Whether `index` holds differences; see the top of this module.
    clipped : int
        How many numbers were outside the range of the codes.

    Attributes
    ----------
    codes, index, indptr : ndarray
        As above.
    format : Format
        Of the codes.
    index_format : Index
        Width of an index; ``str(index_format)`` is "8", "16" or "32".
    differences : bool
    scale : float
    shape : tuple of int
    clipped : int
        How many numbers `quantize` clipped to the largest code.

    Raises
    ------
    TypeError, ValueError
        If the parts do not fit each other: `index` must rise strictly within [0, n) in every row.

    Examples
    --------
    >>> import numpy as np
    >>> import lowprec as lp
    >>> from scipy.sparse import csr_array
    >>> q = lp.quantize(csr_array(np.array([[0.0, 0.5, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0]])), "8", rounding="nearest")
    >>> q.codes, q.index, q.indptr
    (array([  64, -127], dtype=int8), array([1, 3], dtype=uint8), array([0, 2, 2]))
    """

    __slots__ = (
        "_nnz", "clipped", "codes", "differences", "format", "index", "index_format", "indptr", "scale", "shape",
    )  # fmt: skip

    def __init__(
        self,
        codes: np.ndarray,
        index: np.ndarray,
        indptr: np.ndarray,
        fmt: Format | str | int,
        scale: float,
        shape: tuple[int, ...],
        *,
        differences: bool,
        clipped: int = 0,
    ) -> None:
        fmt = as_format(fmt, "fmt")
        shape = tuple(shape)
        rows, n = _rows_and_columns(shape)
        index = _check_array("index", index, tuple(_INDEX_DTYPES.values()))
        indptr = _check_array("indptr", indptr, (np.dtype(np.int64),))
        codes = _check_array("codes", codes, (fmt.dtype,))
        if rows < 1 or n < 1:
            raise checks.wrong_value("shape", "must not be empty", shape)
        if len(indptr) != rows + 1 or indptr[0] != 0:
            raise ValueError(f"indptr: must have {rows + 1} numbers for shape {shape}, the first of them 0; got {len(indptr)}")
        if indptr[-1] != len(index):
            raise ValueError(f"indptr: must end with the number of stored entries, {len(index)}; got {indptr[-1]}")
        stored = (len(index) + rows) // 2 if fmt.packed else len(index)
        if len(codes) != stored:
            raise ValueError(f"codes: {len(index)} entries of format {fmt} in {rows} rows take {stored}; got {len(codes)}")
        differences = checks.check_bool("differences", differences)
        bad, _ = _core._sparse_fault(indptr, index, differences, n)
        if bad >= 0:
            rule = "every difference must be at least 1" if differences else "column numbers must rise"
            raise ValueError(f"index: {rule}, and stay within [0, {n}); fails in row {bad}")
        self._set(
            codes, index, indptr, fmt, checks.check_finite_scalar("scale", scale, positive=True), shape, differences,
            checks.check_int("clipped", clipped, minimum=0),
        )  # fmt: skip

    def _set(self, codes, index, indptr, fmt, scale, shape, differences, clipped):
        self.codes, self.index, self.indptr = codes, index, indptr
        self.format, self.index_format = fmt, Index(8 * index.itemsize)
        self.scale, self.shape, self.differences, self.clipped = scale, shape, differences, clipped
        self._nnz: int | None = None

    @classmethod
    def _of_parts(cls, *parts: Any) -> SparseArray:
        """Without looking for faults."""
        self = cls.__new__(cls)
        self._set(*parts)
        return self

    @property
    def ndim(self) -> int:
        """1 or 2."""
        return len(self.shape)

    @property
    def stored(self) -> int:
        """How many entries are stored, fillers included."""
        return len(self.index)

    @property
    def nnz(self) -> int:
        """How many entries are stored, without fillers.

        An explicit zero that lies at the largest difference behind its neighbor cannot be told from a filler, and counts as one.
        """
        if self._nnz is None:
            self._nnz = self.stored - int(np.count_nonzero(self._fillers()))
        return self._nnz

    @property
    def nbytes(self) -> int:
        """Bytes of codes, index and indptr."""
        return self.codes.nbytes + self.index.nbytes + self.indptr.nbytes

    @property
    def bytes_per_nonzero(self) -> float:
        """`nbytes` over `nnz`; inf without a nonzero."""
        return self.nbytes / self.nnz if self.nnz else math.inf

    def _fillers(self) -> np.ndarray:
        if not self.differences:
            return np.zeros(self.stored, bool)
        fillers = self.index == np.iinfo(self.index.dtype).max
        at = np.flatnonzero(fillers)
        if at.size:
            fillers[at] = self.unpacked()[at] == 0
        return fillers

    def unpacked(self) -> np.ndarray:
        """The codes one to a stored entry, in a new array: int8 for 4 and 8 bits, int16, or float32."""
        if not self.format.packed:
            return self.codes.copy()
        codes = np.empty(self.stored, np.int8)
        _sparse.unpack4(self.indptr, self.codes, codes)
        return codes

    def columns(self) -> np.ndarray:
        """The column number of every stored entry, fillers included: int32, or int64 where n needs it."""
        n = _rows_and_columns(self.shape)[1]
        columns = np.empty(self.stored, np.int32 if n <= 2**31 else np.int64)
        _sparse.decode(self.indptr, self.index, self.differences, columns)
        return columns

    def row(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Codes and index of row `i`, as kernels take them: views."""
        first, last = int(self.indptr[i]), int(self.indptr[i + 1])
        if self.format.packed:
            start = (first + i) // 2
            return self.codes[start : start + (last - first + 1) // 2], self.index[first:last]
        return self.codes[first:last], self.index[first:last]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice) -> SparseArray:
        """One row, of shape ``(n,)``, or consecutive rows: a view of the same memory (of format 4 the codes may be copied).

        `clipped` is 0 in it: the count is of the whole.
        """
        if self.ndim == 1:
            raise TypeError("SparseArray: an index selects rows, and a one-dimensional array has none")
        rows, n = self.shape
        if isinstance(key, slice):
            first, last, step = key.indices(rows)
            if step != 1:
                raise ValueError(f"SparseArray: a slice takes consecutive rows; got step {step}")
            if last <= first:
                raise ValueError(f"SparseArray: the slice selects none of the {rows} rows; an array cannot be empty")
            shape: tuple[int, ...] = (last - first, n)
        else:
            try:
                first = checks.check_int("SparseArray: index", key)
            except TypeError:
                raise checks.wrong_type("SparseArray: index", "an integer or a slice of rows", key) from None
            if not -rows <= first < rows:
                raise IndexError(f"SparseArray: row {first} is out of range; there are {rows} rows")
            first %= rows
            last, shape = first + 1, (n,)
        indptr = self.indptr[first : last + 1]
        begin, end = int(indptr[0]), int(indptr[-1])
        indptr = indptr - begin
        if not self.format.packed:
            codes = self.codes[begin:end]
        else:
            codes = self.codes[(begin + first) // 2 : (end + last) // 2]
            if (begin + first) % 2:  # where a row begins depends on the rows before it, by one empty row more or less
                unpacked = np.empty(end - begin, np.int8)
                _sparse.unpack4(np.concatenate([[0], indptr]), codes, unpacked)
                codes = _pack(indptr, unpacked.view(np.uint8))
        return self._of_parts(
            codes, self.index[begin:end], indptr, self.format, self.scale, shape, self.differences, 0
        )  # fmt: skip

    def take(self, rows: np.ndarray) -> SparseArray:
        """A new array of these rows, integers in [0, len(self)), in their order."""
        if self.ndim == 1:
            raise TypeError("SparseArray: take selects rows, and a one-dimensional array has none")
        rows = np.asarray(rows)
        starts, counts = self.indptr[rows], np.diff(self.indptr)[rows]
        indptr = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(counts, out=indptr[1:])
        entries = np.arange(indptr[-1]) + np.repeat(starts - indptr[:-1], counts)
        codes = _pack(indptr, self.unpacked()[entries].view(np.uint8)) if self.format.packed else self.codes[entries]
        return self._of_parts(
            codes, self.index[entries], indptr, self.format, self.scale, (len(rows), self.shape[1]), self.differences, 0
        )  # fmt: skip

    def __reduce__(self) -> tuple:
        parts = self.codes, self.index, self.indptr, self.format.token, self.scale, self.shape, self.differences, self.clipped
        return _unpickle, parts

    def __repr__(self) -> str:
        rows, n = _rows_and_columns(self.shape)
        theirs = 8 + (rows + 1) * 4 / self.nnz if self.nnz else math.inf
        if n > 2**31 or self.nnz >= 2**31:
            theirs += theirs - 4
        how = "differences" if self.differences else "columns"
        fillers = f", fillers={self.stored - self.nnz}" if self.stored > self.nnz else ""
        clipped = f", clipped={self.clipped}" if self.clipped else ""
        return (
            f"SparseArray(shape={self.shape}, format={self.format.token!r}, index={str(self.index_format)!r} ({how}), "
            f"scale={self.scale!r}, nnz={self.nnz}{fillers}{clipped}; {self.bytes_per_nonzero:.2f} bytes a nonzero, "
            f"float32 CSR {theirs:.2f})"
        )


def _unpickle(codes, index, indptr, token, scale, shape, differences, clipped):
    return SparseArray(codes, index, indptr, token, scale, shape, differences=differences, clipped=clipped)


def _check_array(name: str, a: Any, dtypes: tuple[np.dtype, ...]) -> np.ndarray:
    """A contiguous vector of one of these types."""
    if not isinstance(a, np.ndarray) or a.dtype not in dtypes:
        raise checks.wrong_type(name, f"an array of {' or '.join(map(str, dtypes))}", a)
    if a.ndim != 1 or not a.flags.c_contiguous or not a.flags.aligned:
        raise ValueError(f"{name}: must be one-dimensional, contiguous and aligned; got shape {a.shape}, strides {a.strides}")
    return a


def _rows_and_columns(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) not in (1, 2):
        raise checks.wrong_value("shape", "must be (n,) or (rows, n)", shape)
    return (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])


def _pack(indptr: np.ndarray, codes: np.ndarray) -> np.ndarray:
    packed = np.empty((len(codes) + len(indptr) - 1) // 2, np.uint8)
    _sparse.pack4(indptr, codes, packed)
    return packed


# ---- from CSR and back -------------------------------------------------------------------------------------


class Csr:
    """A sparse matrix as checked CSR: column numbers rise in every row, data are real."""

    def __init__(self, a: Any, name: str) -> None:
        csr = a.tocsr()
        shape = tuple(int(k) for k in csr.shape)
        rows, n = _rows_and_columns(shape)
        if rows == 0 or n == 0:
            raise ValueError(f"{name}: must not be empty; got shape {shape}")
        data, columns = np.asarray(csr.data), np.asarray(csr.indices)
        checks.check_native_real(data, name)
        indptr = np.ascontiguousarray(csr.indptr, np.int64)
        if len(indptr) != rows + 1 or indptr[0] != 0 or (np.diff(indptr) < 0).any():
            raise ValueError(f"{name}: not CSR; indptr must rise from 0, {rows + 1} numbers for {rows} rows")
        stored = int(indptr[-1])
        if stored > min(len(data), len(columns)):
            raise ValueError(f"{name}: not CSR; indptr ends with {stored}, there are {min(len(data), len(columns))} entries")
        data, columns = data[:stored], columns[:stored]
        if columns.dtype.kind not in "iu":
            raise checks.wrong_type(f"{name}: column numbers", "integers", columns)
        columns = np.ascontiguousarray(columns, None if columns.dtype in (np.int32, np.int64) else np.int64)
        state, row, extra = _sparse.scan(indptr, columns, n)
        if state == _sparse.OUTSIDE:
            own = columns[indptr[row] : indptr[row + 1]]
            raise ValueError(
                f"{name}: column numbers must lie in [0, {n}); got {own[(own < 0) | (own >= n)][0]} in row {row}"
            )
        if state == _sparse.UNSORTED:
            # in a copy, and with sums that cannot overflow an integer type
            wide = data.dtype if data.dtype in (np.float32, np.float64) else np.dtype(np.float64)
            copy = type(csr)((data.astype(wide), columns.copy(), indptr.copy()), shape=csr.shape)
            copy.sum_duplicates()
            data, columns = copy.data, np.ascontiguousarray(copy.indices)
            indptr = np.ascontiguousarray(copy.indptr, np.int64)
            _, _, extra = _sparse.scan(indptr, columns, n)
        _check_finite(data, columns, indptr, name)
        self.data, self.columns, self.indptr, self.shape, self.n = data, columns, indptr, shape, n
        self.extra = dict(zip(_INDEX_DTYPES, extra, strict=True))

    def narrowest(self, code_bits: int) -> int:
        """The width of an index that stores the fewest bytes; of equals the narrower."""
        return min(_INDEX_DTYPES, key=lambda bits: (self.entries(bits) * (bits + code_bits), bits))

    def differences(self, bits: int) -> bool:
        """Whether an index of this width holds differences."""
        return self.n > 2**bits

    def entries(self, bits: int) -> int:
        """Stored entries with an index of this width."""
        return len(self.data) + (self.extra[bits] if self.differences(bits) else 0)

    def encode(self, codes: np.ndarray, fmt: Format, scale: float, index: Index | None, clipped: int) -> SparseArray:
        """The array with these codes, one of each nonzero, unpacked."""
        bits = self.narrowest(fmt.bits) if index is None else index.bits
        differences, count = self.differences(bits), self.entries(bits)
        stored, places = np.empty_like(self.indptr), np.empty(count, _INDEX_DTYPES[bits])
        raw = codes.view(_AS_BITS[codes.itemsize])
        out = np.empty(count, raw.dtype)
        _sparse.encode(self.indptr, self.columns, raw, differences, stored, places, out)
        kept = _pack(stored, out) if fmt.packed else out.view(fmt.dtype)
        return SparseArray._of_parts(kept, places, stored, fmt, scale, self.shape, differences, clipped)


def _check_finite(data: np.ndarray, columns: np.ndarray, indptr: np.ndarray, name: str) -> None:
    if data.dtype.kind != "f":
        return
    step = 1 << 16
    for start in range(0, len(data), step):
        bad = np.flatnonzero(~np.isfinite(data[start : start + step]))
        if bad.size:
            at = start + int(bad[0])
            row = int(np.searchsorted(indptr, at, side="right")) - 1
            raise ValueError(f"{name}: every value must be finite; got {data[at]} in row {row}, column {columns[at]}")


def to_csr(q: SparseArray, dtype: np.dtype) -> Any:
    """SciPy's csr_array of the numbers, without fillers."""
    scipy_sparse = checks.need_extra("scipy.sparse", "learn", "dequantize: a sparse array")
    rows, n = _rows_and_columns(q.shape)
    codes, columns, indptr = q.unpacked(), q.columns(), q.indptr
    fillers = q._fillers()
    if fillers.any():
        keep = ~fillers
        before = np.zeros(q.stored + 1, np.int64)
        np.cumsum(keep, out=before[1:])
        codes, columns, indptr = codes[keep], columns[keep], before[indptr]
    with np.errstate(over="ignore", under="ignore"):
        data = np.multiply(codes, q.scale, dtype=np.float64).astype(dtype)
    if columns.dtype == np.int32 and len(codes) < 2**31:
        indptr = indptr.astype(np.int32)
    result = scipy_sparse.csr_array((data, columns, indptr), shape=(rows, n), copy=False)
    result.has_canonical_format = True
    return result
