"""The numeric kernels: one importable callable per row of the matrix.

A name is ``op_D_M[_rounding]``: op in ``dot``, ``axpy``, ``axpy_dot``; D and M (the formats of the data and of the model)
in ``4``, ``8``, ``16``, ``32f``; rounding none (nearest), ``_sr`` (stochastic, one shared block of random words), ``_srx``
(xorshift, fresh for every write), ``_srb`` (the caller's random words). With M = 32f only the unsuffixed row exists.
Sparse data: ``sdot_iI_D_M`` and ``saxpy_iI_D_M[_rounding]``, I in ``8``, ``16``, ``32``: the width of an index.
Codecs of what workers send each other: ``encode_C[_sr]``, ``encode_feedback_C[_sr]``, ``decode_C``, ``decode_add_C``, C in ``1``,
``2``, ``4``, ``8``, ``16``, ``16f``, ``32f``; :func:`coded_bytes` says how long a message is.

Kernels take one-dimensional C-contiguous NumPy arrays of codes: packed uint8 for format 4 (two codes a byte, the even element
in the low nibble), int8, int16, float32; an index is uint8, uint16 or uint32. They check dtype, length and contiguity, of an
index also that it rises within the model, and nothing else: model codes must lie in +-(2^(b-1) - 1). For values and scales use
:func:`lowprec.dot` and :func:`lowprec.axpy`.
"""
import os

import numpy as np

cimport numpy as cnp
from cpython.number cimport PyNumber_Index
from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport isfinite
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from contract cimport *

cnp.import_array()
lp_tables_init()

cdef object _TOKENS = {4: "4", 8: "8", 16: "16", 32: "32f"}
cdef object _ROUNDINGS = {LP_NEAREST: "nearest", LP_SR: "sr", LP_SRX: "srx", LP_SRB: "srb"}
cdef object _OPS = {LP_DOT: "dot", LP_AXPY: "axpy", LP_AXPY_DOT: "axpy_dot", LP_SGD: "sgd", LP_SDOT: "sdot", LP_SAXPY: "saxpy"}
cdef object _DTYPES = {4: "uint8 (packed)", 8: "int8", 16: "int16", 32: "float32"}
cdef object _INDEX_DTYPES = {8: "uint8", 16: "uint16", 32: "uint32"}


cdef int _typenum(int bits) noexcept:
    if bits == 4:
        return cnp.NPY_UINT8
    if bits == 8:
        return cnp.NPY_INT8
    if bits == 16:
        return cnp.NPY_INT16
    return cnp.NPY_FLOAT32


cdef object _refuse(str kernel, str name, object a, object dtype, bint writable):
    """Compose the error for an operand that a kernel cannot take (only ever called to raise)."""
    what = " codes" if dtype in _DTYPES.values() else ""
    rule = f"{kernel}: {name} must be a one-dimensional C-contiguous NumPy array of {dtype}{what}"
    if not isinstance(a, np.ndarray):
        raise TypeError(f"{rule}, got {type(a).__name__}")
    if a.dtype != np.dtype(dtype.split()[0]) or not a.dtype.isnative:
        raise TypeError(f"{rule}, got dtype {a.dtype}")
    if a.ndim != 1:
        raise ValueError(f"{rule}, got shape {a.shape}")
    if not a.flags.c_contiguous:
        raise ValueError(f"{rule}, got one with strides {a.strides}; use numpy.ascontiguousarray")
    if not a.flags.aligned:
        raise ValueError(f"{rule}, got one that is not aligned to its element size")
    if writable and not a.flags.writeable:
        raise ValueError(f"{kernel}: {name} is written in place, but it is read-only")
    raise AssertionError("operand refused without a reason")  # pragma: no cover


cdef class Kernel:
    """One row of the kernel matrix.

    Attributes
    ----------
    name : str
        The row's name, for example ``axpy_8_16_sr``.
    op, D, M, rounding, isa : str
        Its coordinates: operation, data format, model format, rounding suffix or ``"nearest"``, instruction set.
    index : str or None
        Sparse data: bits of an index. None for dense data.
    C : str or None
        Codecs: what is sent. They have no D, M and index; other kernels no C.
    runnable : bool
        Whether this CPU can run it. Calling one that is not runnable raises :class:`RuntimeError`.
    """
    cdef const lp_kernel *row
    cdef readonly str name, op, D, M, rounding, isa, index, C
    cdef readonly bint runnable

    def __init__(self):
        raise TypeError("kernels are rows of a fixed table; import one by its name from lowprec.kernels")

    def __repr__(self):
        return f"<lowprec kernel {self.name}, ISA {self.isa}>"

    def __reduce__(self):
        return _by_name, (self.name, self.isa)

    cdef inline void *operand(self, object a, str name, int bits, bint writable, int64_t *length) except NULL:
        """The array's address; its number of elements goes to *length (twice the bytes for format 4)."""
        cdef cnp.ndarray array
        if not cnp.PyArray_Check(a):
            _refuse(self.name, name, a, _DTYPES[bits], writable)
        array = a
        if (cnp.PyArray_NDIM(array) != 1 or cnp.PyArray_TYPE(array) != _typenum(bits)
                or not cnp.PyArray_ISCARRAY_RO(array) or (writable and not cnp.PyArray_ISWRITEABLE(array))):
            _refuse(self.name, name, a, _DTYPES[bits], writable)
        length[0] = cnp.PyArray_DIM(array, 0)
        if bits == 4:
            length[0] *= 2
        return cnp.PyArray_DATA(array)

    cdef void *positions(self, object index, int differences, int64_t nx, int64_t nw, int64_t *count) except NULL:
        """The index's address and number of entries; that these fit the data, and their positions the model."""
        cdef cnp.ndarray array
        cdef int typenum = (cnp.NPY_UINT8 if self.row.index == 8 else cnp.NPY_UINT16 if self.row.index == 16
                            else cnp.NPY_UINT32)
        cdef int64_t end
        if not cnp.PyArray_Check(index):
            _refuse(self.name, "index", index, _INDEX_DTYPES[self.row.index], False)
        array = index
        if cnp.PyArray_NDIM(array) != 1 or cnp.PyArray_TYPE(array) != typenum or not cnp.PyArray_ISCARRAY_RO(array):
            _refuse(self.name, "index", index, _INDEX_DTYPES[self.row.index], False)
        count[0] = cnp.PyArray_DIM(array, 0)
        if nx != (count[0] + count[0] % 2 if self.row.D == 4 else count[0]):
            raise ValueError(f"{self.name}: x and index must have as many elements, got {nx} and {count[0]}")
        end = lp_sparse_end(cnp.PyArray_DATA(array), self.row.index, differences, count[0])
        if end < 0:
            rule = "every difference must be at least 1" if differences else "positions must rise"
            raise ValueError(f"{self.name}: index: {rule}, got one that does not")
        if end > nw:
            raise ValueError(f"{self.name}: index: positions must be below the length of w, {nw}, got {end - 1}")
        return cnp.PyArray_DATA(array)

    cdef void *scratch(self, int64_t count) except NULL:
        """Room for the weights of so many entries; to be freed."""
        cdef void *room = malloc(count * self.row.M // 8 + LP_SPARSE_ROOM)
        if room == NULL:
            raise MemoryError
        return room

    cdef inline int64_t count(self, object n, int64_t nx, int64_t nw) except -1:
        """How many elements to work on."""
        cdef int64_t length
        if n is None:
            # A packed operand cannot tell whether its last nibble counts; an unpacked partner can.
            length = nx
            if nx != nw:
                if self.row.D == 4 and self.row.M != 4 and nx == nw + 1:
                    length = nw
                elif not (self.row.M == 4 and self.row.D != 4 and nw == nx + 1):
                    raise ValueError(f"{self.name}: x and w must have as many elements, got {nx} and {nw}")
        else:
            length = PyNumber_Index(n)
            if length < 0 or length > nx or length > nw:
                raise ValueError(f"{self.name}: n must lie in [0, {min(nx, nw)}], the elements of x and w, got {length}")
        if length >= (<int64_t>1 << 33):
            raise ValueError(f"{self.name}: n must be below 2^33, got {length}")
        return length

    cdef inline int check_runnable(self) except -1:
        if not self.runnable:
            raise RuntimeError(f"{self.name}: this CPU does not run ISA {self.isa}; runnable here: {_runnable_names()}")
        return 0

    cdef int make_step(self, lp_step *step, object m, lp_rng *rng, object seed, object stream) except -1:
        cdef double value = m
        cdef uint64_t draw = 0
        cdef bint stochastic = self.row.rounding != LP_NEAREST
        if not isfinite(value):
            raise ValueError(f"{self.name}: m must be finite, got {value}")
        if stochastic:
            _seed(rng, seed, stream)
            if self.row.D != 32:
                rng.scalar = lp_xorshift64(rng.scalar)
                draw = rng.scalar
            if self.row.rounding == LP_SR:
                lp_rng_draw(rng.lane)
        lp_make_step(step, value, self.row.D, self.row.M, stochastic, draw)
        return 0

    cdef void *words(self, object words, int64_t n) except NULL:
        cdef cnp.ndarray array
        cdef int typenum = cnp.NPY_UINT32 if self.row.D == 32 else cnp.NPY_UINT16
        dtype = "uint32" if self.row.D == 32 else "uint16"
        if not cnp.PyArray_Check(words):
            raise TypeError(f"{self.name}: words must be a NumPy array of {dtype}, got {type(words).__name__}")
        array = words
        if cnp.PyArray_TYPE(array) != typenum:
            raise TypeError(f"{self.name}: words must have dtype {dtype}, got {words.dtype}")
        if cnp.PyArray_NDIM(array) != 1 or not cnp.PyArray_ISCARRAY_RO(array) or cnp.PyArray_DIM(array, 0) < n:
            raise ValueError(f"{self.name}: words must be one-dimensional, C-contiguous and of at least n = {n} elements, "
                             f"got shape {words.shape}")
        return cnp.PyArray_DATA(array)


cdef int _seed(lp_rng *rng, object seed, object stream) except -1:
    cdef uint64_t s, t
    try:
        s = PyNumber_Index(seed)
        t = PyNumber_Index(stream)
    except (OverflowError, TypeError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"seed and stream must be integers in [0, 2^64), got seed={seed!r}, stream={stream!r}") from None
    lp_rng_seed(rng, s, t)
    return 0


cdef class DotKernel(Kernel):
    """``dot_D_M(x, w, n=None)``: the sum of x_j w_j over codes; an exact int, or a float for pairs with 32f."""
    cdef lp_dot_fn fn

    def __call__(self, x, w, n=None):
        cdef int64_t nx, nw, count
        cdef lp_sum result
        cdef void *px = self.operand(x, "x", self.row.D, False, &nx)
        cdef void *pw = self.operand(w, "w", self.row.M, False, &nw)
        cdef lp_dot_fn fn = self.fn
        if n is None and nx == nw:
            count = nx
        else:
            count = self.count(n, nx, nw)
        if not self.runnable:
            self.check_runnable()
        if count < 8192:  # releasing the GIL would cost more than the work
            result = fn(px, pw, count)
        else:
            with nogil:
                result = fn(px, pw, count)
        if self.row.D == 32 or self.row.M == 32:
            return result.f
        return result.i


cdef class AxpyKernel(Kernel):
    """``axpy_D_M[_sr|_srx](m, x, w, n=None, seed=0, stream=0)``, ``axpy_D_M_srb(m, x, w, words, n=None, seed=0, stream=0)``:
    w += m x in place, m in model quanta per unit of x code."""
    cdef lp_axpy_fn fn

    def __call__(self, m, x, w, *args, **kwargs):
        if self.row.rounding == LP_SRB:
            return self._apply_words(m, x, w, *args, **kwargs)
        if self.row.rounding == LP_NEAREST:
            return self._apply_nearest(m, x, w, *args, **kwargs)
        return self._apply(m, x, w, *args, **kwargs)

    def _apply_nearest(self, m, x, w, n=None):
        self._apply(m, x, w, n)

    def _apply_words(self, m, x, w, words, n=None, seed=0, stream=0):
        self._apply(m, x, w, n, seed, stream, words)

    def _apply(self, m, x, w, n=None, seed=0, stream=0, words=None):
        cdef int64_t nx, nw, count
        cdef lp_step step
        cdef lp_rng rng
        cdef void *px = self.operand(x, "x", self.row.D, False, &nx)
        cdef void *pw = self.operand(w, "w", self.row.M, True, &nw)
        cdef void *random = rng.lane
        count = self.count(n, nx, nw)
        self.check_runnable()
        self.make_step(&step, m, &rng, seed, stream)
        if self.row.rounding == LP_SRB:
            random = self.words(words, count)
        if count < 8192:
            self.fn(&step, px, pw, count, random)
        else:
            with nogil:
                self.fn(&step, px, pw, count, random)


cdef class AxpyDotKernel(Kernel):
    """``axpy_dot_D_M[...](m, x, w, x_next, n=None, ...)``: the axpy, then the dot of the new w with x_next, in one pass."""
    cdef lp_axpy_dot_fn fn

    def __call__(self, m, x, w, x_next, *args, **kwargs):
        if self.row.rounding == LP_SRB:
            return self._apply_words(m, x, w, x_next, *args, **kwargs)
        if self.row.rounding == LP_NEAREST:
            return self._apply_nearest(m, x, w, x_next, *args, **kwargs)
        return self._apply(m, x, w, x_next, *args, **kwargs)

    def _apply_nearest(self, m, x, w, x_next, n=None):
        return self._apply(m, x, w, x_next, n)

    def _apply_words(self, m, x, w, x_next, words, n=None, seed=0, stream=0):
        return self._apply(m, x, w, x_next, n, seed, stream, words)

    def _apply(self, m, x, w, x_next, n=None, seed=0, stream=0, words=None):
        cdef int64_t nx, nn, nw, count
        cdef lp_step step
        cdef lp_rng rng
        cdef lp_sum result
        cdef void *px = self.operand(x, "x", self.row.D, False, &nx)
        cdef void *pn = self.operand(x_next, "x_next", self.row.D, False, &nn)
        cdef void *pw = self.operand(w, "w", self.row.M, True, &nw)
        cdef void *random = rng.lane
        if nx != nn:
            raise ValueError(f"{self.name}: x and x_next must have as many elements, got {nx} and {nn}")
        count = self.count(n, nx, nw)
        self.check_runnable()
        self.make_step(&step, m, &rng, seed, stream)
        if self.row.rounding == LP_SRB:
            random = self.words(words, count)
        if count < 8192:
            result = self.fn(&step, px, pw, pn, count, random)
        else:
            with nogil:
                result = self.fn(&step, px, pw, pn, count, random)
        if self.row.D == 32 or self.row.M == 32:
            return result.f
        return result.i


cdef class SdotKernel(Kernel):
    """``sdot_iI_D_M(x, index, w, differences=False)``: the sum of x_j w[p_j] over the entries of a sparse row.

    p_j is index_j, or with `differences` the sum of the index up to j, less one; it must rise and stay within w.
    """
    cdef lp_sdot_fn fn

    def __call__(self, x, index, w, bint differences=False):
        cdef int64_t nx, nw, count
        cdef lp_sum result
        cdef void *px = self.operand(x, "x", self.row.D, False, &nx)
        cdef void *pw = self.operand(w, "w", self.row.M, False, &nw)
        cdef void *pi = self.positions(index, differences, nx, nw, &count)
        cdef void *room
        self.check_runnable()
        room = self.scratch(count)
        if count < 8192:
            result = self.fn(px, pi, differences, count, pw, room)
        else:
            with nogil:
                result = self.fn(px, pi, differences, count, pw, room)
        free(room)
        if self.row.D == 32 or self.row.M == 32:
            return result.f
        return result.i


cdef class SaxpyKernel(Kernel):
    """``saxpy_iI_D_M(m, x, index, w, differences=False)``; ``_sr`` and ``_srx`` take ``seed=0, stream=0`` too, ``_srb`` also
    ``words``, behind w: w[p_j] += m x_j in place. Entry j takes the random word of element j of a dense row."""
    cdef lp_saxpy_fn fn

    def __call__(self, m, x, index, w, *args, **kwargs):
        if self.row.rounding == LP_SRB:
            return self._apply_words(m, x, index, w, *args, **kwargs)
        if self.row.rounding == LP_NEAREST:
            return self._apply_nearest(m, x, index, w, *args, **kwargs)
        return self._apply(m, x, index, w, *args, **kwargs)

    def _apply_nearest(self, m, x, index, w, differences=False):
        self._apply(m, x, index, w, differences)

    def _apply_words(self, m, x, index, w, words, differences=False, seed=0, stream=0):
        self._apply(m, x, index, w, differences, seed, stream, words)

    def _apply(self, m, x, index, w, bint differences=False, seed=0, stream=0, words=None):
        cdef int64_t nx, nw, count
        cdef lp_step step
        cdef lp_rng rng
        cdef void *px = self.operand(x, "x", self.row.D, False, &nx)
        cdef void *pw = self.operand(w, "w", self.row.M, True, &nw)
        cdef void *pi = self.positions(index, differences, nx, nw, &count)
        cdef void *random = rng.lane
        cdef void *room
        self.check_runnable()
        self.make_step(&step, m, &rng, seed, stream)
        if self.row.rounding == LP_SRB:
            random = self.words(words, count)
        room = self.scratch(count)
        if count < 8192:
            self.fn(&step, px, pi, differences, count, pw, room, random)
        else:
            with nogil:
                self.fn(&step, px, pi, differences, count, pw, room, random)
        free(room)


include "codecs.pxi"


# ---- the tables ----

cdef const lp_isa *_active
cdef dict _tables = {}
cdef dict _codec_tables = {}


cdef object _record(const lp_isa *isa, const lp_kernel *row):
    cdef Kernel kernel
    cdef DotKernel dot
    cdef AxpyKernel axpy
    cdef AxpyDotKernel axpy_dot
    cdef SdotKernel sdot
    cdef SaxpyKernel saxpy
    if row.op == LP_DOT:
        dot = DotKernel.__new__(DotKernel)
        dot.fn = <lp_dot_fn>row.fn
        kernel = dot
    elif row.op == LP_AXPY:
        axpy = AxpyKernel.__new__(AxpyKernel)
        axpy.fn = <lp_axpy_fn>row.fn
        kernel = axpy
    elif row.op == LP_SDOT:
        sdot = SdotKernel.__new__(SdotKernel)
        sdot.fn = <lp_sdot_fn>row.fn
        kernel = sdot
    elif row.op == LP_SAXPY:
        saxpy = SaxpyKernel.__new__(SaxpyKernel)
        saxpy.fn = <lp_saxpy_fn>row.fn
        kernel = saxpy
    else:
        axpy_dot = AxpyDotKernel.__new__(AxpyDotKernel)
        axpy_dot.fn = <lp_axpy_dot_fn>row.fn
        kernel = axpy_dot
    kernel.row = row
    kernel.name = row.name.decode()
    kernel.op = _OPS[row.op]
    kernel.D = _TOKENS[row.D]
    kernel.M = _TOKENS[row.M]
    kernel.rounding = _ROUNDINGS[row.rounding]
    kernel.index = str(row.index) if row.index else None
    kernel.isa = isa.name.decode()
    kernel.runnable = isa.runnable() != 0
    return kernel


def _isas():
    """``(name, runnable)`` of every instruction set built in, slowest first."""
    cdef int k = 0
    found = []
    while lp_isas[k] != NULL:
        found.append((lp_isas[k].name.decode(), lp_isas[k].runnable() != 0))
        k += 1
    return tuple(found)


cdef str _runnable_names():
    return ", ".join(name for name, runnable in _isas() if runnable)


def _active_isa():
    """The instruction set whose kernels carry the plain names."""
    return _active.name.decode()


def _table(isa=None):
    """All importable kernels of one instruction set (default: the active one), in the order of the matrix."""
    name = _active_isa() if isa is None else isa
    if name not in _tables:
        raise ValueError(f"no ISA {name!r} is built in; choose from {', '.join(_tables)}")
    return _tables[name]


def _by_name(name, isa):
    for kernel in _table(isa) + _codecs(isa):
        if kernel.name == name:
            return kernel
    raise KeyError(name)


cdef int _choose() except -1:
    global _active
    forced = os.environ.get("LOWPREC_ISA", "")
    if not forced:
        _active = lp_isa_best()
        return 0
    _active = lp_isa_find(forced.encode())
    if _active == NULL:
        raise ImportError(f"LOWPREC_ISA={forced}: no such ISA is built in; choose from {', '.join(n for n, _ in _isas())}")
    if not _active.runnable():
        raise ImportError(f"LOWPREC_ISA={forced}: this CPU does not run it; runnable here: {_runnable_names()}")
    return 0


cdef int _build() except -1:
    cdef int k = 0, j
    while lp_isas[k] != NULL:
        _tables[lp_isas[k].name.decode()] = tuple(
            _record(lp_isas[k], &lp_isas[k].kernels[j])
            for j in range(lp_isas[k].count) if lp_isas[k].kernels[j].op not in (LP_SGD, LP_BATCH))
        _codec_tables[lp_isas[k].name.decode()] = _codec_rows(lp_isas[k])
        k += 1
    return 0


_choose()
_build()
for _kernel in _table() + _codecs():
    globals()[_kernel.name] = _kernel
__all__ = [*(_kernel.name for _kernel in _table() + _codecs()), "coded_bytes"]
del _kernel


def __getattr__(name):
    ops = [op for op in ("encode_feedback", "encode", "decode_add", "decode") if name.startswith(op + "_")]
    if ops:
        rows = [k.name for k in _codecs() if k.op == ops[0]]
        raise AttributeError(f"no kernel {name!r}; those of {ops[0]} are {', '.join(rows)}")
    ops = [op for op in ("axpy_dot", "axpy", "dot", "saxpy", "sdot") if name.startswith(op + "_")]
    if ops:
        rows = [k.name for k in _table() if k.op == ops[0]]
        close = [row for row in rows if row.split("_")[:-1] == name.split("_")[:-1] or row.startswith(name.rsplit("_", 1)[0])]
        of = "op_iI_D_M[_sr|_srx|_srb] with I in 8, 16, 32," if ops[0].startswith("s") else "op_D_M[_sr|_srx|_srb] with"
        raise AttributeError(f"no kernel {name!r}; names are {of} D and M in 4, 8, 16, 32f (no suffix "
                             f"where M is 32f), for example {', '.join((close or rows)[:4])}")
    raise AttributeError(f"module 'lowprec.kernels' has no attribute {name!r}")


def _cpu_features():
    """What dispatch looks at, as a dict of name to bool."""
    return {name: runnable for name, runnable in _isas() if name != "base"}


# ---- for the tests: the primitives that cannot be seen through a kernel ----

def _rng_blocks(seed, stream, int n):
    """The first n 512-bit blocks of a stream, uint64 (n, 8)."""
    cdef lp_rng rng
    cdef int i, k
    _seed(&rng, seed, stream)
    out = np.empty((n, 8), dtype=np.uint64)
    cdef uint64_t[:, ::1] view = out
    for i in range(n):
        lp_rng_draw(rng.lane)
        for k in range(8):
            view[i, k] = rng.lane[k]
    return out


def _rng_scalars(seed, stream, int n):
    """The first n outputs of a stream's scalar generator, uint64 (n,)."""
    cdef lp_rng rng
    cdef int i
    _seed(&rng, seed, stream)
    out = np.empty(n, dtype=np.uint64)
    cdef uint64_t[::1] view = out
    for i in range(n):
        rng.scalar = lp_xorshift64(rng.scalar)
        view[i] = rng.scalar
    return out


def _mt_words(uint64_t seed, uint64_t stream, int64_t n):
    """The first n outputs of the mt19937 of a stream, uint32 (n,)."""
    cdef lp_mt19937 mt
    lp_mt19937_seed(&mt, seed, stream)
    out = np.empty(n, dtype=np.uint32)
    cdef uint32_t[::1] view = out
    if n:
        lp_mt19937_fill(&mt, &view[0], n, 32)
    return out


def _make_step(double m, D, M, bint stochastic, uint64_t word):
    """``(mu, e)`` of a step m between integer formats."""
    cdef lp_step step
    bits = {token: b for b, token in _TOKENS.items()}
    lp_make_step(&step, m, bits[D], bits[M], stochastic, word)
    return step.mu, step.e


_KINDS = {"logistic": LP_LOGISTIC, "margin": LP_MARGIN, "residual": LP_RESIDUAL}


def _loss_derivatives(derivative, const double[::1] p, const float[::1] y):
    """d loss / d p of each example, as the training loop computes it; `derivative` as in ``lowprec.losses``."""
    cdef lp_loss loss
    cdef int finite
    cdef Py_ssize_t i, m = p.shape[0]
    if y.shape[0] != m:
        raise ValueError(f"_loss_derivatives: p and y must have the same length, got {m} and {y.shape[0]}")
    loss.kind = _KINDS[derivative[0]]
    loss.above, loss.high, loss.below, loss.low, loss.slope = derivative[1:]
    out = np.empty(m)
    cdef double[::1] view = out
    cdef double *values
    cdef const double *points
    cdef const float *labels
    if m:
        values, points, labels = &view[0], &p[0], &y[0]
        with nogil:
            for i in range(m):
                values[i] = -lp_loss_step(loss.kind, &loss, points[i], 1.0, 0.0, labels[i], 1.0, &finite)
    return out


def _batch(isa, D, M, rounding, m, rows, w, rows_next, int64_t n, words=None, seed=0, stream=0):
    """One call of the row ``batch_D_M[_r]`` for each 4096 columns: steps ``m`` of ``rows`` into ``w``, then the products of
    ``rows_next`` with the new ``w``, as a list. Rows, w and words are NumPy arrays as the other kernels take them."""
    cdef lp_update u
    cdef lp_products p
    cdef lp_rng rng
    cdef lp_step step
    cdef uint64_t draw = 0
    cdef int64_t j, b
    cdef void *random = rng.lane
    bits = {token: k for k, token in _TOKENS.items()}
    cdef int d = bits[D], c = bits[M]
    cdef int R = {name: k for k, name in _ROUNDINGS.items()}[rounding]
    cdef const lp_isa *table = lp_isa_find(isa.encode())
    if not table.runnable():
        raise RuntimeError(f"this CPU does not run ISA {isa}")
    cdef const lp_kernel *row = lp_find(table, LP_BATCH, d, c, R)
    cdef int64_t count = len(rows), count_next = len(rows_next)
    cdef uint64_t[::1] addresses = np.zeros(count + 1 + count_next, dtype=np.uint64)
    cdef float[::1] floats_m = np.zeros(count + 1, dtype=np.float32)
    cdef int32_t[:, ::1] codes = np.zeros((3, count + 1), dtype=np.int32)
    cdef bint floats = d == 32 or c == 32
    sums = np.zeros((count_next + 1) * (32 if floats else 1), dtype=np.float64 if floats else np.int64)
    cdef uint64_t at = w.ctypes.data, fresh = 0 if words is None else words.ctypes.data
    u.x = <const uint8_t **>&addresses[0]
    u.m = &floats_m[0]
    u.mu, u.e, u.pairs = &codes[0, 0], &codes[1, 0], &codes[2, 0]
    u.count = count
    p.x = u.x + count + 1
    p.ahead = p.x
    p.count = count_next
    p.sums = <void *><uint64_t>sums.ctypes.data
    _seed(&rng, seed, stream)
    for b in range(count):
        if R != LP_NEAREST and not floats:
            draw = rng.scalar = lp_xorshift64(rng.scalar)
        u.x[b] = <const uint8_t *><uint64_t>rows[b].ctypes.data
        lp_make_step(&step, m[b], d, c, R != LP_NEAREST, draw)
        lp_update_set(&u, b, &step)
    if count:
        lp_update_close(&u)
    if R == LP_SR:
        lp_rng_draw(rng.lane)
    for b in range(count_next):
        p.x[b] = <const uint8_t *><uint64_t>rows_next[b].ctypes.data
    p.count = p.n = 0
    for j in range(0, n + LP_BLOCK, LP_BLOCK):  # as the driver: the products of a piece beside the update of the next one
        if R == LP_SRB:
            random = <void *><uint64_t>(fresh + min(j, n) * (4 if d == 32 else 2))
        u.count = count if j < n else 0
        (<lp_batch_fn>row.fn)(&u, &p, <void *><uint64_t>(at + j * c // 8), j, min(n - j, LP_BLOCK), random)
        p.count = count_next
        p.w, p.j, p.n = <const void *><uint64_t>(at + j * c // 8), j, min(n - j, LP_BLOCK)
    if not floats:
        return sums[:count_next].tolist()
    return [lp_tree(<double *><void *><uint64_t>lane.ctypes.data) for lane in sums[: 32 * count_next].reshape(-1, 32)]


# ---- for sparse arrays ----

def _sparse_fault(const int64_t[::1] indptr, cnp.ndarray index, bint differences, int64_t n):
    """``(row, longest)``: the first row that is not within the index, or whose positions do not rise within [0, n); if there is
    none -1, and the most entries of a row."""
    cdef int64_t longest = 0, row, rows = indptr.shape[0] - 1
    cdef int size = cnp.PyArray_ITEMSIZE(index)
    cdef const int64_t *begin
    if index.dtype.kind != "u" or size > 4 or index.ndim != 1 or not cnp.PyArray_ISCARRAY_RO(index):
        raise TypeError("index: expected a contiguous one-dimensional array of uint8, uint16 or uint32")
    if rows < 1:
        raise ValueError("indptr: must not be empty")
    begin = &indptr[0]
    with nogil:
        row = lp_sparse_fault(begin, rows, cnp.PyArray_DIM(index, 0), cnp.PyArray_DATA(index), 8 * size, differences, n,
                              &longest)
    return row, longest


# ---- for _sgd: the tables, without linking the C code twice ----

cdef lp_capi _functions
_functions.isa_find = lp_isa_find
_functions.find = lp_find
_functions.mt_seed = lp_mt19937_seed
_functions.at_limit = lp_at_limit
_functions.widen = lp_widen
_functions.narrow = lp_narrow
_functions.shrink = lp_shrink
_functions.decay = lp_decay
_functions.accumulate = lp_accumulate
_functions.sparse_sgd = lp_sparse_sgd
_functions.find_gather = lp_find_gather
_functions.find_scatter = lp_find_scatter
_functions.find_exchange = lp_find_exchange
_functions.find_codec = lp_find_codec
_capi = PyCapsule_New(&_functions, "lowprec.kernels._capi", NULL)
