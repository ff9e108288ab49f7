# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""The compiler's best at the training loop, the read roof and the vector probe: for tables and benchmarks."""

from libc.stdint cimport int64_t, uint64_t, uint8_t

import numpy as np

cdef extern from "baseline.h" nogil:
    cdef enum baseline_random:
        pass
    cdef struct baseline_job:
        const void *x
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
    baseline_epoch baseline_find(int data_bits, int model_bits, baseline_random random)
    const char *baseline_flags()
    const char *baseline_compiler()
    uint64_t baseline_read(const void *buffer, size_t nbytes)
    uint64_t baseline_vector_ops(int64_t rounds)

RANDOM_NAMES = ("nearest", "shared", "xorshift", "mt19937")
_BITS = {"8": 8, "16": 16, "32f": 32}
_DTYPES = {"8": np.int8, "16": np.int16, "32f": np.float32}

COMPILER = baseline_compiler().decode()
FLAGS = baseline_flags().decode()
READ_MULTIPLE = 128
PROBE_OPS_PER_ROUND = 24


cdef class Baseline:
    """The plain C training loop on borrowed arrays.

    Parameters
    ----------
    x : array of int8, int16 or float32, shape (m, n), C-contiguous
    D, M : {"8", "16", "32f"}
    random : {"nearest", "shared", "xorshift", "mt19937"}
    model : array of int8, int16 or float32, shape (n,), written in place
    y : float32 array of -1 and +1, shape (m,)
    step, data_scale, model_scale : float
    lanes : uint64 array of 8, the first xorshift block
    mt_state : uint32 array of 624, a Mersenne Twister's state before its first output
    """

    cdef baseline_job job
    cdef baseline_epoch epoch
    cdef int64_t n_rows
    cdef object _kept

    def __init__(self, x, D, M, random, model, y, *, double step, double data_scale, double model_scale,
                 lanes, mt_state):
        if D not in _BITS or M not in _BITS or random not in RANDOM_NAMES:
            raise ValueError(f"no plain C loop for D={D}, M={M}, random={random!r}")
        self.epoch = baseline_find(_BITS[D], _BITS[M], <baseline_random><int>RANDOM_NAMES.index(random))
        if self.epoch == NULL:
            raise ValueError(f"no plain C loop for D={D}, M={M}: D and M must be 8 or 16, or both 32f")
        expected = (("x", x, _DTYPES[D], 2), ("model", model, _DTYPES[M], 1), ("y", y, np.float32, 1))
        for name, array, dtype, ndim in expected:
            if array.dtype != dtype or array.ndim != ndim or not array.flags.c_contiguous:
                raise TypeError(f"{name} must be a C-contiguous {ndim}-D array of {np.dtype(dtype).name}")
        if x.shape[1] != model.shape[0] or x.shape[0] != y.shape[0]:
            raise ValueError(f"x is {x.shape}, so model needs {x.shape[1]} and y {x.shape[0]} elements, "
                             f"got {model.shape[0]} and {y.shape[0]}")
        if not model.flags.writeable:
            raise ValueError("model is written in place and must be writeable")
        self._kept = (x, model, y)
        self.n_rows = x.shape[0]
        cdef uint64_t address = x.ctypes.data
        self.job.x = <const void *>address
        address = model.ctypes.data
        self.job.w = <void *>address
        address = y.ctypes.data
        self.job.y = <const float *>address
        self.job.n = x.shape[1]
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
