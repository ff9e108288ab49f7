# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""What the product is measured against, for tables and benchmarks alone.

The compiler's best at the training loop, dense and sparse; the proxies of the paper's proposed instructions, whose results are
wrong; the read roof; and the vector probe.
"""

from libc.string cimport memset

from contract cimport *

import numpy as np

cdef extern from "baseline.h" nogil:
    cdef enum baseline_random:
        pass
    cdef struct baseline_job:
        const void *x
        const int64_t *indptr
        const void *index
        void *w
        const float *y
        int64_t n
        float step
        float data_scale
        float model_scale
        uint64_t lanes[8]
        unsigned int mt[624]
        int mt_at
    ctypedef void (*baseline_epoch)(baseline_job *job, int64_t first, int64_t last) noexcept
    baseline_epoch baseline_find(int data_bits, int model_bits, baseline_random random, int index_bits)
    const char *baseline_flags()
    const char *baseline_compiler()
    uint64_t baseline_read(const void *buffer, size_t nbytes)
    uint64_t baseline_vector_ops(int64_t rounds)

cdef extern from *:
    """
    #ifdef LP_HAVE_AVX2
    lp_sgd_fn proxy_find(int bits); /* proxy_avx2.c */
    #else
    static lp_sgd_fn proxy_find(int bits) { (void)bits; return NULL; }
    #endif
    """
    lp_sgd_fn proxy_find(int bits) nogil

RANDOM_NAMES = ("nearest", "shared", "xorshift", "mt19937")
_BITS = {"8": 8, "16": 16, "32f": 32}
_DTYPES = {"8": np.int8, "16": np.int16, "32f": np.float32}
_INDEX_DTYPES = {16: np.uint16, 32: np.uint32}

COMPILER = baseline_compiler().decode()
FLAGS = baseline_flags().decode()
READ_MULTIPLE = 128
PROBE_OPS_PER_ROUND = 24


cdef object _checked(name, array, dtype, int ndim):
    """The array, which must be what C takes it for."""
    if array.dtype != dtype or array.ndim != ndim or not array.flags.c_contiguous:
        raise TypeError(f"{name} must be a C-contiguous {ndim}-D array of {np.dtype(dtype).name}")
    return array


cdef class Baseline:
    """The plain C training loop on borrowed arrays.

    Parameters
    ----------
    x : array of int8, int16 or float32, C-contiguous
        Of shape (m, n); sparse: the nonzeros of all rows, shape (nnz,).
    D, M : {"8", "16", "32f"}
    random : {"nearest", "shared", "xorshift", "mt19937"}
        Sparse: "shared".
    model : array of int8, int16 or float32, shape (n,), written in place
    y : float32 array of -1 and +1, shape (m,)
    step, data_scale, model_scale : float
    lanes : uint64 array of 8, the first xorshift block
    mt_state : uint32 array of 624, a Mersenne Twister's state before its first output
    sparse : (int64 array of shape (m + 1,), uint16 or uint32 array of shape (nnz,)), optional
        Where each row begins, and the column of each nonzero; the columns of a row differ.
    """

    cdef baseline_job job
    cdef baseline_epoch epoch
    cdef int64_t n_rows
    cdef object _kept

    def __init__(self, x, D, M, random, model, y, *, double step, double data_scale, double model_scale,
                 lanes, mt_state, sparse=None):
        cdef int index_bits = 0
        cdef uint64_t address
        if D not in _BITS or M not in _BITS or random not in RANDOM_NAMES:
            raise ValueError(f"no plain C loop for D={D}, M={M}, random={random!r}")
        if sparse is not None:
            indptr, index = sparse
            index_bits = 8 * index.dtype.itemsize
        self.epoch = baseline_find(_BITS[D], _BITS[M], <baseline_random><int>RANDOM_NAMES.index(random), index_bits)
        if self.epoch == NULL:
            raise ValueError(f"no plain C loop for D={D}, M={M}, random={random!r}: D and M must be 8 or 16, or both 32f; "
                             "sparse, with shared random words and columns of 16 or 32 bits")
        _checked("x", x, _DTYPES[D], 1 if sparse is not None else 2)
        _checked("model", model, _DTYPES[M], 1)
        _checked("y", y, np.float32, 1)
        if sparse is not None:
            _checked("indptr", indptr, np.int64, 1)
            _checked("index", index, _INDEX_DTYPES[index_bits], 1)
            if index.shape != x.shape or indptr.shape[0] != y.shape[0] + 1:
                raise ValueError(f"x has {x.shape[0]} numbers and y {y.shape[0]}, so index needs {x.shape[0]} and indptr "
                                 f"{y.shape[0] + 1}, got {index.shape[0]} and {indptr.shape[0]}")
            if indptr[0] != 0 or indptr[len(indptr) - 1] != x.shape[0] or np.any(np.diff(indptr) < 0):
                raise ValueError(f"indptr must rise from 0 to {x.shape[0]}")
            if index.size and index.max() >= model.shape[0]:
                raise ValueError(f"index must be below {model.shape[0]}, the model's length, got {index.max()}")
            address = indptr.ctypes.data
            self.job.indptr = <const int64_t *>address
            address = index.ctypes.data
            self.job.index = <const void *>address
        elif x.shape[1] != model.shape[0] or x.shape[0] != y.shape[0]:
            raise ValueError(f"x is {x.shape}, so model needs {x.shape[1]} and y {x.shape[0]} elements, "
                             f"got {model.shape[0]} and {y.shape[0]}")
        if not model.flags.writeable:
            raise ValueError("model is written in place and must be writeable")
        self._kept = (x, model, y, sparse)
        self.n_rows = y.shape[0]
        address = x.ctypes.data
        self.job.x = <const void *>address
        address = model.ctypes.data
        self.job.w = <void *>address
        address = y.ctypes.data
        self.job.y = <const float *>address
        self.job.n = model.shape[0]
        self.job.step = step
        self.job.data_scale = data_scale
        self.job.model_scale = model_scale
        cdef int k
        for k in range(8):
            self.job.lanes[k] = lanes[k]
        for k in range(624):
            self.job.mt[k] = mt_state[k]
        self.job.mt_at = 624

    def run(self, int64_t first, int64_t last):
        """Train on rows first..last-1, in order."""
        if not 0 <= first <= last <= self.n_rows:
            raise ValueError(f"rows [{first}, {last}) are not within [0, {self.n_rows})")
        with nogil:
            self.epoch(&self.job, first, last)


cdef class Proxy:
    """The training loop with the paper's proposed instructions by proxy: the time is right, what it computes is NOT.

    Parameters
    ----------
    bits : {4, 8}
        8: dot8 and axpy8 on 8-bit data, by vpmaddwd and vpmullw. 4: 4-bit instructions, by our 8-bit kernel over half the bytes.
    x : uint8 array of shape (m, bytes of a row), C-contiguous
        A row's bytes are a multiple of 32.
    model : uint8 array of shape (bytes of a row,), written in place
    y : float32 array of -1 and +1, shape (m,)
    step, data_scale, model_scale : float
        Of an 8-bit problem over the same bytes: so the steps are as large as those of one that learns.
    seed, stream : int
        Of the generator's lanes.
    prefetch : int, optional
        As `lowprec._sgd.Sgd` has it.
    """

    cdef lp_sgd job
    cdef lp_sgd_fn fn
    cdef int64_t n_rows
    cdef object _kept

    def __init__(self, int bits, x, model, y, *, double step, double data_scale, double model_scale, uint64_t seed=0,
                 uint64_t stream=0, prefetch=None):
        cdef uint64_t address
        self.fn = proxy_find(bits)
        if self.fn == NULL:
            raise ValueError(f"no proxy for {bits} bits: choose 4 or 8, on a build with avx2")
        _checked("x", x, np.uint8, 2)
        _checked("model", model, np.uint8, 1)
        _checked("y", y, np.float32, 1)
        if x.shape[1] != model.shape[0] or x.shape[0] != y.shape[0] or x.shape[1] == 0 or x.shape[1] % 32:
            raise ValueError(f"x is {x.shape}, so model needs {x.shape[1]} bytes, a multiple of 32, and y {x.shape[0]} elements, "
                             f"got {model.shape[0]} and {y.shape[0]}")
        if not model.flags.writeable:
            raise ValueError("model is written in place and must be writeable")
        self._kept = (x, model, y)
        self.n_rows = x.shape[0]
        memset(&self.job, 0, sizeof(lp_sgd))
        address = x.ctypes.data
        self.job.x = <const uint8_t *>address
        self.job.row_stride = x.shape[1]
        self.job.n = x.shape[1] * (8 // bits)
        address = y.ctypes.data
        self.job.y = <const float *>address
        address = model.ctypes.data
        self.job.w = <void *>address
        # vpmaddwd multiplies two bytes as one number: its sums are about 2^16 times too large.
        self.job.dot_scale = data_scale * model_scale * (1.0 if bits == 4 else 2.0**-16)
        self.job.step_scale = step * data_scale / model_scale
        self.job.loss.kind = LP_LOGISTIC
        self.job.stochastic = 1
        self.job.refresh = 1
        self.job.ahead = LP_DISTANCE if prefetch is None else prefetch
        self.job.bad_row = -1
        lp_rng_seed(&self.job.rng, seed, stream)

    def run(self, int64_t first, int64_t last):
        """Go over rows first..last-1, in order."""
        if not 0 <= first <= last <= self.n_rows:
            raise ValueError(f"rows [{first}, {last}) are not within [0, {self.n_rows})")
        with nogil:
            self.fn(&self.job, first, last)


lp_tables_init()


def read(const uint8_t[::1] buffer):
    """Read a buffer once and return the sum of its 64-bit words; 32-byte aligned, a multiple of 128 bytes."""
    cdef size_t nbytes = buffer.shape[0]
    cdef const uint8_t *start
    cdef uint64_t total
    if nbytes == 0:
        return 0
    start = &buffer[0]
    if nbytes % 128 or <uint64_t>start % 32:
        raise ValueError("read: the buffer must be 32-byte aligned and a multiple of 128 bytes long")
    with nogil:
        total = baseline_read(start, nbytes)
    return total


def vector_ops(int64_t rounds):
    """Run `rounds` rounds of PROBE_OPS_PER_ROUND independent vector operations."""
    cdef uint64_t total
    with nogil:
        total = baseline_vector_ops(rounds)
    return total
