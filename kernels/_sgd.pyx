"""The training loop's driver: workers, their generators, and the one place where OpenMP lives.

The work itself is the ``sgd`` row of the kernel table (see ``kernels/stamp.h``): one call per worker and block of examples.
"""
import os

import numpy as np

cimport cython
cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_Import
from cython.parallel cimport prange
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from contract cimport *

from lowprec import kernels as _kernels

cnp.import_array()

cdef extern from *:
    """
    #ifdef LP_OPENMP
    #include <omp.h>
    static int lp_openmp(void) { return 1; }
    static int lp_max_threads(void) { return omp_get_max_threads(); }
    #else
    static int lp_openmp(void) { return 0; }
    static int lp_max_threads(void) { return 1; }
    #endif
    """
    int lp_openmp() nogil
    int lp_max_threads() nogil

cdef lp_capi *_capi = <lp_capi *>PyCapsule_Import("lowprec.kernels._capi", 0)

_BITS = {"4": 4, "8": 8, "16": 16, "32f": 32}
_LOSSES = {"logistic": LP_LOGISTIC, "hinge": LP_HINGE, "squared": LP_SQUARED}
_ROUNDINGS = {"nearest": LP_NEAREST, "shared": LP_SR, "xorshift": LP_SRX, "mt19937": LP_SRB}


# The process that started OpenMP's threads. They do not exist in its forked children, and libgomp would wait for them for ever.
_team_pid = None


def openmp_enabled():
    """Whether this build has OpenMP (without it, one worker runs)."""
    return lp_openmp() != 0


def max_threads():
    """How many threads OpenMP would use by itself (1 without OpenMP)."""
    return lp_max_threads()


@cython.cdivision(True)  # in C: Cython's own division could raise, and nothing may raise inside prange
cdef int64_t _share(int64_t first, int64_t last, int k, int workers) noexcept nogil:
    """Where the k-th worker's part of a range begins."""
    return first + (last - first) * k // workers


cdef int64_t _row_bytes(int bits, int64_t n) noexcept nogil:
    return (n + 1) // 2 if bits == 4 else n * (bits // 8)


cdef class Sgd:
    """One training run: data, labels, the shared model, and one generator per worker.

    Parameters
    ----------
    x : buffer of uint8
        The rows' codes, the first row at byte 0. May be read-only.
    row_stride : int
        Bytes from row to row.
    n_rows, n_features : int
        Shape of the data. ``n_features`` may include pad codes if they are zero in every row; the model must then have room.
    D, M : str
        Formats of data and model, tokens of the grammar.
    random : {"nearest", "shared", "xorshift", "mt19937"}
        Rounding of the model's writes and its source of random words. Without effect where M is 32f.
    model : buffer of uint8, writable
        The model's codes, written in place.
    y : ndarray of float32, shape (n_rows,)
        Targets; -1 or +1 for logistic and hinge.
    loss : {"logistic", "hinge", "squared"}
    step : float
        Step size.
    data_scale, model_scale : float
        Value of one code. 1 for 32f.
    seed : int in [0, 2**64)
        Worker k draws from stream k.
    refresh : int
        Axpys that share one block of random words (random="shared").
    n_threads : int
        Workers; lock-free on the one shared model.
    order : ndarray of int64, shape (n_rows,), optional
        The epoch visits row ``order[i]`` at position i.
    weight : ndarray of float32, shape (n_rows,), optional
    intercept : float, optional
        Start of the intercept; None trains without.
    intercept_step : float
        Its own step size.
    isa : str, optional
        Default: the active one.
    """
    cdef lp_sgd *jobs
    cdef lp_sgd_fn fn
    cdef int32_t bits_x, bits_w, workers
    cdef int64_t n, n_rows
    cdef double step, data_scale, scale, bias
    cdef object keep, order_kept

    def __cinit__(self):
        self.jobs = NULL

    def __init__(self, x, int64_t row_stride, int64_t n_rows, int64_t n_features, D, M, random, model, y, *, loss, double step,
                 double data_scale, double model_scale, seed=0, int64_t refresh=1, int n_threads=1, order=None, weight=None,
                 intercept=None, double intercept_step=0.0, isa=None):
        cdef const uint8_t[::1] xs = x
        cdef uint8_t[::1] ws = model
        cdef const float[::1] ys = y
        cdef const float[::1] weights
        cdef const lp_kernel *row
        cdef lp_sgd *g
        cdef int rounding, k
        cdef uint64_t seed_word = seed
        cdef bytes isa_name = (isa or _kernels._active_isa()).encode()
        if self.jobs != NULL:
            raise RuntimeError("Sgd: already initialized")
        self.bits_x, self.bits_w = _BITS[D], _BITS[M]
        self.n, self.n_rows, self.workers = n_features, n_rows, n_threads
        self.step, self.data_scale, self.scale = step, data_scale, model_scale
        if n_rows < 1 or n_features < 1 or n_threads < 1 or refresh < 1:
            raise ValueError("Sgd: n_rows, n_features, n_threads and refresh must be at least 1, got "
                             f"{n_rows}, {n_features}, {n_threads} and {refresh}")
        if row_stride < _row_bytes(self.bits_x, n_features):
            raise ValueError(f"Sgd: row_stride must hold {n_features} numbers of format {D}, got {row_stride} bytes")
        if xs.shape[0] < (n_rows - 1) * row_stride + _row_bytes(self.bits_x, n_features):
            raise ValueError(f"Sgd: x must hold {n_rows} rows of {row_stride} bytes, got {xs.shape[0]} bytes")
        if ws.shape[0] < _row_bytes(self.bits_w, n_features):
            raise ValueError(f"Sgd: model must hold {n_features} numbers of format {M}, got {ws.shape[0]} bytes")
        if ys.shape[0] != n_rows:
            raise ValueError(f"Sgd: y must have one element per row ({n_rows}), got {ys.shape[0]}")
        if weight is not None:
            weights = weight
            if weights.shape[0] != n_rows:
                raise ValueError(f"Sgd: weight must have one element per row ({n_rows}), got {weights.shape[0]}")
        rounding = LP_NEAREST if M == "32f" else _ROUNDINGS[random]
        if _capi.isa_find(isa_name) == NULL:
            raise ValueError(f"Sgd: no ISA {isa!r} is built in")
        if not _capi.isa_find(isa_name).runnable():
            raise RuntimeError(f"Sgd: this CPU does not run ISA {isa}")
        row = _capi.find(_capi.isa_find(isa_name), LP_SGD, self.bits_x, self.bits_w, rounding)
        self.fn = <lp_sgd_fn>row.fn
        self.keep = (x, model, y, weight)
        self.bias = 0.0 if intercept is None else intercept

        self.jobs = <lp_sgd *>malloc(n_threads * sizeof(lp_sgd))
        if self.jobs == NULL:
            raise MemoryError
        memset(self.jobs, 0, n_threads * sizeof(lp_sgd))
        for k in range(n_threads):
            g = &self.jobs[k]
            g.x = &xs[0]
            g.row_stride = row_stride
            g.n = n_features
            g.w = &ws[0]
            g.y = &ys[0]
            if weight is not None:
                g.weight = &weights[0]
            if intercept is not None:
                g.intercept = &self.bias
            g.intercept_step = intercept_step
            g.loss = _LOSSES[loss]
            g.stochastic = rounding != LP_NEAREST
            g.refresh = refresh
            g.bad_row = -1
            lp_rng_seed(&g.rng, seed_word, k)
            if rounding == LP_SRB:
                g.mt = <lp_mt19937 *>malloc(sizeof(lp_mt19937))
                g.words = malloc(n_features * 4)
                if g.mt == NULL or g.words == NULL:
                    raise MemoryError
                _capi.mt_seed(g.mt, seed_word, k)
        self._set_scales()
        self.set_order(order)

    def __dealloc__(self):
        cdef int k
        if self.jobs != NULL:
            for k in range(self.workers):
                free(self.jobs[k].mt)
                free(self.jobs[k].words)
            free(self.jobs)

    cdef int _set_scales(self) except -1:
        cdef int k
        for k in range(self.workers):
            self.jobs[k].dot_scale = self.data_scale * self.scale
            self.jobs[k].step_scale = self.step * self.data_scale / self.scale
        return 0

    def set_order(self, order):
        """Visit row ``order[i]`` at position i from now on (None: row i)."""
        cdef const int64_t[::1] view
        cdef int k
        if order is not None:
            view = order
            if view.shape[0] != self.n_rows or np.min(order) < 0 or np.max(order) >= self.n_rows:
                raise ValueError(f"Sgd: order must hold {self.n_rows} row numbers")
        self.order_kept = order
        for k in range(self.workers):
            if order is None:
                self.jobs[k].order = NULL
            else:
                self.jobs[k].order = &view[0]

    def run(self, int64_t first, int64_t last):
        """Process positions [first, last) of the epoch; return -1, or the first row whose product was not finite.

        Worker k of t takes the k-th t-th of the range (in a child forked after threaded training, one worker after another).
        The update of each worker's last example stays pending; the next call continues with it, and :meth:`flush` applies it.
        """
        global _team_pid
        cdef int k, workers = self.workers
        cdef int64_t bad = -1
        if not 0 <= first <= last <= self.n_rows:
            raise ValueError(f"Sgd.run: positions must lie in [0, {self.n_rows}], got [{first}, {last})")
        if workers == 1 or (_team_pid is not None and _team_pid != os.getpid()):
            with nogil:
                for k in range(workers):
                    self.fn(&self.jobs[k], _share(first, last, k, workers), _share(first, last, k + 1, workers))
        else:
            _team_pid = os.getpid()
            for k in prange(workers, nogil=True, schedule="static", chunksize=1, num_threads=workers):
                self.fn(&self.jobs[k], _share(first, last, k, workers), _share(first, last, k + 1, workers))
        for k in range(workers):
            if self.jobs[k].bad_row >= 0 and (bad < 0 or self.jobs[k].bad_row < bad):
                bad = self.jobs[k].bad_row
            self.jobs[k].bad_row = -1
        return bad

    def flush(self):
        """Apply every pending update."""
        cdef int k
        for k in range(self.workers):
            self.fn(&self.jobs[k], 0, -1)

    def at_limit(self):
        """How many of the model's codes sit at +-(2^(b-1) - 1)."""
        return _capi.at_limit(self.jobs[0].w, self.n, self.bits_w)

    def widen(self):
        """Apply pending updates, then double the model's range: q <- round-half-even(q / 2), model_scale * 2."""
        self.flush()
        _capi.widen(self.jobs[0].w, self.n, self.bits_w)
        self.scale *= 2.0
        self._set_scales()

    @property
    def model_scale(self):
        """Value of one model code."""
        return self.scale

    @property
    def intercept(self):
        """The intercept as it stands."""
        return self.bias

    @property
    def n_threads(self):
        """Workers."""
        return self.workers
