"""The compiled side of quantize, dequantize and pack: one thin driver per C signature, no policy. The arithmetic is stated
in quantize_body.h; arguments are validated by lowprec.quantized, here only what would make the C code run astray."""

# cython: boundscheck=False, wraparound=False, freethreading_compatible=True

import os

cimport numpy as cnp
from libc.stdint cimport int8_t, int64_t, uint8_t, uint64_t

cnp.import_array()


cdef extern from "quantize_body.h" nogil:
    ctypedef int (*lp_quantize_fn)(const void *, int64_t, const void *, uint8_t *, uint64_t *, int64_t *, int)
    ctypedef void (*lp_dequantize_fn)(const uint8_t *, int64_t, const double *, void *)

    ctypedef struct lp_quantize_table:
        const char *name
        lp_quantize_fn quantize[2][3][2][2]
        lp_dequantize_fn dequantize[2][3][2]

    ctypedef struct lp_quantize_state:
        pass

    int LP_QUANTIZE_GROUP
    const lp_quantize_table *lp_quantize_choose(const char *)
    void lp_quantize_start(lp_quantize_state *, uint64_t, uint64_t)
    int64_t lp_quantize_rows(lp_quantize_fn, lp_quantize_state *, int, int, int, const char *, int64_t, int64_t, int64_t,
                             const void *, uint8_t *, int64_t, int64_t *, int)
    int lp_pack4(const int8_t *, int64_t, uint8_t *)
    void lp_unpack4(const uint8_t *, int64_t, int8_t *)


GROUP_ROWS = LP_QUANTIZE_GROUP

# Codes of at least so many bytes are stored past the cache: with the numbers they come from they would hardly stay in it. That
# saves reading every line of theirs first, 5 to 20 % of the whole; smaller results are better left where their reader finds them.
PAST_CACHE_BYTES = 1 << 21

cdef const lp_quantize_table *_table = NULL


cdef const lp_quantize_table *_choose(str wanted) except NULL:
    cdef bytes name
    cdef const lp_quantize_table *table
    if wanted:
        name = wanted.encode()
        table = lp_quantize_choose(name)
    else:
        table = lp_quantize_choose(NULL)
    if table == NULL:
        raise ImportError(f"LOWPREC_ISA: {wanted!r} is not built in or does not run on this CPU; built in and runnable: "
                          f"{', '.join(_isas())}")
    return table


def _isas():
    """Names of the tables that this machine can run, best last."""
    return tuple(name for name in ("base", "avx2") if lp_quantize_choose(name.encode()) != NULL)


_table = _choose(os.environ.get("LOWPREC_ISA"))


def _active_isa():
    """Name of the table in use."""
    return _table.name.decode()


cdef int _bits_index(int bits) except -1:
    if bits == 4:
        return 0
    if bits == 8:
        return 1
    if bits == 16:
        return 2
    raise ValueError(f"bits: choose one of 4, 8, 16; got {bits}")


cdef int64_t _room(cnp.ndarray codes, int64_t n_rows, int64_t row_stride, int64_t row_bytes, bint writable) except -1:
    """Check that the flat uint8 array `codes` holds these rows."""
    if codes.ndim != 1 or cnp.PyArray_TYPE(codes) != cnp.NPY_UINT8 or not cnp.PyArray_IS_C_CONTIGUOUS(codes):
        raise TypeError("codes: expected a contiguous one-dimensional array of uint8")
    if writable and not cnp.PyArray_ISWRITEABLE(codes):
        raise ValueError("codes: must be writable; got a read-only array")
    if n_rows > 0 and (row_stride < 0 or (n_rows - 1) * row_stride + row_bytes > codes.shape[0]):
        raise ValueError(f"codes: {n_rows} rows of {row_bytes} bytes at a stride of {row_stride} do not fit into "
                         f"{codes.shape[0]} bytes")
    return 0


cdef void *_per_column(object value, int64_t n, int typenum, str name) except NULL:
    """The data of an array of `n` numbers of a type, one per column."""
    cdef cnp.ndarray a = value
    if a.ndim != 1 or a.shape[0] != n or cnp.PyArray_TYPE(a) != typenum or not cnp.PyArray_IS_C_CONTIGUOUS(a):
        raise ValueError(f"{name}: expected {n} contiguous numbers of the type of the data; got {a.dtype} of shape {value.shape}")
    return cnp.PyArray_DATA(a)


cdef class Quantizer:
    """Quantizes the rows of one array, in as many calls as it pleases the caller.

    Parameters
    ----------
    bits : int
        4, 8 or 16.
    stochastic : bool
        Stochastic rounding; otherwise to nearest, halves to even.
    seed, stream0 : int
        Rows 1024*k .. 1024*k + 1023 draw their random words from stream ``stream0 + k`` of `seed`.
    isa : str, optional
        Name of the table to use instead of the active one.
    past_cache : bool
        Store the codes past the cache; see PAST_CACHE_BYTES.

    Attributes
    ----------
    clipped : int
        Numbers clipped so far.
    """

    cdef lp_quantize_state state
    cdef const lp_quantize_table *table
    cdef int bits
    cdef bint stochastic
    cdef bint past_cache
    cdef readonly int64_t clipped

    def __cinit__(self, int bits, bint stochastic, uint64_t seed=0, uint64_t stream0=0, isa=None,
                  bint past_cache=False):
        _bits_index(bits)
        self.bits = bits
        self.past_cache = past_cache
        self.stochastic = stochastic
        self.clipped = 0
        self.table = _table if isa is None else _choose(isa)
        lp_quantize_start(&self.state, seed, stream0)

    def rows(self, cnp.ndarray a, cnp.ndarray codes, int64_t row_stride, inv_scale, bint continues=False):
        """Quantize the next rows; return the index in `a` of the first with a NaN or an infinity, where it stops, or -1.

        Parameters
        ----------
        a : ndarray of float32 or float64, 2-D
            Each row contiguous, any row stride.
        codes : ndarray of uint8, 1-D
            Written: row i at byte i * row_stride.
        row_stride : int
            In bytes.
        inv_scale : float or ndarray
            1/scale, or that of each column as an array of a's type.
        continues : bool
            The first row of `a` goes on where the last one of the call before stopped, after a multiple of 16 numbers.
        """
        cdef int typenum = cnp.PyArray_TYPE(a)
        if typenum != cnp.NPY_FLOAT32 and typenum != cnp.NPY_FLOAT64:
            raise TypeError(f"a: expected float32 or float64; got {a.dtype}")
        if a.ndim != 2 or not cnp.PyArray_ISBEHAVED_RO(a):
            raise ValueError("a: expected a two-dimensional, aligned array in this machine's byte order")
        cdef int64_t n_rows = a.shape[0], n = a.shape[1], stride = a.strides[0], bad
        if n > 1 and a.strides[1] != cnp.PyArray_ITEMSIZE(a):
            raise ValueError("a: the numbers of a row must be contiguous")
        _room(codes, n_rows, row_stride, (n * self.bits + 7) // 8, True)
        cdef float inv32
        cdef double inv64
        cdef const void *inv
        cdef bint per_column = isinstance(inv_scale, cnp.ndarray), is64 = typenum == cnp.NPY_FLOAT64
        if per_column:
            inv = _per_column(inv_scale, n, typenum, "inv_scale")
        elif is64:
            inv64 = inv_scale
            inv = &inv64
        else:
            inv32 = inv_scale
            inv = &inv32
        cdef lp_quantize_fn fn = self.table.quantize[is64][_bits_index(self.bits)][per_column][self.stochastic]
        cdef bint gapless = (not per_column and n % 16 == 0 and stride == n * cnp.PyArray_ITEMSIZE(a)
                             and 8 * row_stride == n * self.bits)
        cdef const char *data = <const char *>cnp.PyArray_DATA(a)
        cdef uint8_t *out = <uint8_t *>cnp.PyArray_DATA(codes)
        with nogil:
            bad = lp_quantize_rows(fn, &self.state, self.stochastic, continues, gapless, data, stride, n_rows, n, inv,
                                   out, row_stride, &self.clipped, self.past_cache)
        return bad


def quantize_rows(a, codes, row_stride, bits, inv_scale, stochastic, seed=0, stream0=0, isa=None):
    """Quantize the rows of `a` into `codes` in one call; see `Quantizer`.

    Returns
    -------
    clipped : int
    bad_row : int
        The first row with a NaN or an infinity, or -1.
    """
    quantizer = Quantizer(bits, stochastic, seed, stream0, isa, codes.nbytes >= PAST_CACHE_BYTES)
    bad_row = quantizer.rows(a, codes, row_stride, inv_scale)
    return quantizer.clipped, bad_row


def dequantize_rows(cnp.ndarray codes, int64_t row_stride, int64_t n_rows, int64_t n, int bits, scale, cnp.ndarray out, isa=None):
    """Write ``code * scale`` to `out`: float32 or float64, two-dimensional, each row contiguous.

    Parameters
    ----------
    codes : ndarray of uint8, 1-D
        Row i at byte ``i * row_stride``.
    row_stride, n_rows, n, bits : int
        The layout of `codes`.
    scale : float or ndarray of float64
        One scale, or one per column.
    out : ndarray
        Written.
    isa : str, optional
        Name of the table to use instead of the active one.
    """
    cdef const lp_quantize_table *table = _table if isa is None else _choose(isa)
    cdef int typenum = cnp.PyArray_TYPE(out)
    if typenum != cnp.NPY_FLOAT32 and typenum != cnp.NPY_FLOAT64:
        raise TypeError(f"out: expected float32 or float64; got {out.dtype}")
    if out.ndim != 2 or out.shape[0] != n_rows or out.shape[1] != n or not cnp.PyArray_ISBEHAVED(out):
        raise ValueError(f"out: expected a writable aligned array of shape {(n_rows, n)}")
    if n > 1 and out.strides[1] != cnp.PyArray_ITEMSIZE(out):
        raise ValueError("out: the numbers of a row must be contiguous")
    _room(codes, n_rows, row_stride, (n * bits + 7) // 8, False)
    cdef double scale64
    cdef const double *scales
    cdef bint per_column = isinstance(scale, cnp.ndarray), is64 = typenum == cnp.NPY_FLOAT64
    if per_column:
        scales = <const double *>_per_column(scale, n, cnp.NPY_FLOAT64, "scale")
    else:
        scale64 = scale
        scales = &scale64
    cdef lp_dequantize_fn fn = table.dequantize[is64][_bits_index(bits)][per_column]
    cdef const uint8_t *data = <const uint8_t *>cnp.PyArray_DATA(codes)
    cdef char *to = <char *>cnp.PyArray_DATA(out)
    cdef int64_t stride = out.strides[0], i
    with nogil:
        for i in range(n_rows):
            fn(data + i * row_stride, n, scales, to + i * stride)


def pack4_rows(cnp.ndarray codes, cnp.ndarray packed, int64_t row_stride):
    """Pack the rows of an int8 array into nibbles; return the first row with a code outside [-8, 7], or -1."""
    if codes.ndim != 2 or cnp.PyArray_TYPE(codes) != cnp.NPY_INT8 or (codes.shape[1] > 1 and codes.strides[1] != 1):
        raise TypeError("codes: expected a two-dimensional array of int8 with contiguous rows")
    cdef int64_t n_rows = codes.shape[0], n = codes.shape[1], stride = codes.strides[0], i, bad = -1
    _room(packed, n_rows, row_stride, (n + 1) // 2, True)
    cdef const char *data = <const char *>cnp.PyArray_DATA(codes)
    cdef uint8_t *to = <uint8_t *>cnp.PyArray_DATA(packed)
    with nogil:
        for i in range(n_rows):
            if lp_pack4(<const int8_t *>(data + i * stride), n, to + i * row_stride):
                bad = i
                break
    return bad


def unpack4_rows(cnp.ndarray packed, int64_t row_stride, cnp.ndarray codes):
    """The opposite of `pack4_rows`: nibbles to a C-contiguous int8 array."""
    if codes.ndim != 2 or cnp.PyArray_TYPE(codes) != cnp.NPY_INT8 or not cnp.PyArray_ISCARRAY(codes):
        raise TypeError("codes: expected a writable two-dimensional C-contiguous array of int8")
    cdef int64_t n_rows = codes.shape[0], n = codes.shape[1], i
    _room(packed, n_rows, row_stride, (n + 1) // 2, False)
    cdef const uint8_t *data = <const uint8_t *>cnp.PyArray_DATA(packed)
    cdef int8_t *to = <int8_t *>cnp.PyArray_DATA(codes)
    with nogil:
        for i in range(n_rows):
            lp_unpack4(data + i * row_stride, n, to + i * n)
