"""The training loop's driver: data, labels and generators of each worker. Workers meet in ``kernels/driver.c``.

The work itself is the ``sgd`` row of the kernel table (see ``kernels/stamp.h``), or for mini-batches its ``batch_sgd``
(``kernels/batch_loop.h``) over the ``batch`` rows: one call per worker and block of examples.
"""
import os

import numpy as np

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_Import
from libc.math cimport fmod
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from contract cimport *

from lowprec import kernels as _kernels
from lowprec import losses as _losses

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

cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size)

cdef extern from "exchange.h" nogil:
    ctypedef struct lp_exchange:
        const lp_codec *codec
        int64_t columns
        int32_t random
        int32_t feedback
        int32_t synchronous
        int32_t staleness
        float **agreed
        float **residual
        float *owned
        float **told
        int64_t told_from
        lp_rng *giving
        lp_rng *merging
        uint8_t **messages
        uint8_t *merged
        int64_t *offsets
        int64_t *clocks
        int64_t exchanges
        double seconds

    void lp_chunk(const lp_team *team, int32_t q, int64_t *first, int64_t *last)
    int64_t lp_message_bytes(const lp_team *team, int32_t q)
    void lp_exchange_begin(lp_team *team)
    void lp_give(const lp_team *team, int32_t t, int32_t q, uint8_t *message)
    void lp_reduce(const lp_team *team, int32_t q, uint8_t **messages, int64_t at, uint8_t *merged)
    void lp_take(const lp_team *team, int32_t q, const uint8_t *merged)
    void lp_given(const lp_team *team, int32_t t)
    void lp_answer(const lp_team *team, int32_t q, int32_t t, const uint8_t *message, uint8_t *answer)
    void lp_hear(const lp_team *team, int32_t t, int32_t q, const uint8_t *answer)
    void lp_learn(const lp_team *team, int32_t t)
    void lp_meet(lp_team *team)
    void lp_carry_out(lp_team *team)
    void lp_carry_in(lp_team *team, float factor)

cdef extern from "driver.h" nogil:
    enum: LP_SHARED, LP_MERGE_LOCKED, LP_MERGE_TOGETHER

    ctypedef struct lp_team:
        lp_sgd *jobs
        lp_sgd_fn fn
        int32_t workers
        int32_t sharing
        int64_t n_rows
        int64_t sync_every
        void *w
        double *intercept
        int64_t n
        int32_t M
        void **replicas
        void **bases
        double *intercepts
        double *intercept_bases
        const int32_t *cpus
        int32_t started
        int32_t threads
        int32_t dirty
        int32_t local
        lp_exchange *exchange

    void lp_teams_run(lp_team **teams, int32_t models, int64_t first, int64_t last, int64_t block, int parallel)
    void lp_team_run_local(lp_team *team, int64_t first, int64_t last)
    void lp_team_flush(lp_team *team)
    void lp_team_snapshot(const lp_team *team, void *w, double *intercept)
    void lp_team_merge(lp_team *team)
    int lp_can_pin()

cdef lp_capi *_capi = <lp_capi *>PyCapsule_Import("lowprec.kernels._capi", 0)

_BITS = {"4": 4, "8": 8, "16": 16, "32f": 32}
_GRADIENTS = {None: 0, "8": 8, "16": 16, "32f": 32}  # a number of bits, 0: exact
_LOSS_KINDS = {"logistic": LP_LOGISTIC, "margin": LP_MARGIN, "residual": LP_RESIDUAL}
_SCHEDULES = {"constant": 0, "linear": 1, "invscaling": 2}
_ROUNDINGS = {"nearest": LP_NEAREST, "shared": LP_SR, "xorshift": LP_SRX, "mt19937": LP_SRB}


# Where prefetching the next row's weights pays. Rows of 100: 0.9 times as fast at 4 MiB, 1 to 1.3 at 8, 1.3 at 16, 1.1 at 64;
# rows of 1000 and more are slower with it at any size, for they push each other's lines out of the first-level cache.
_NEXT_ROW_MODEL_BYTES, _NEXT_ROW_ENTRIES = 8 << 20, 400

# Where a row's weights go back together with the next row's coming out. 3 % of 2^17 columns, 16-bit weights: 1.3 times as fast,
# of 2^20 1.4; where the model is in the first-level cache anyway 0.8; 8-bit weights at 128 KiB 0.9, at 1 MiB 1.0.
_EXCHANGE_MODEL_BYTES, _EXCHANGE_ENTRIES = 1 << 18, 256

_BLOCK_BYTES = 1 << 17  # of rows that several models are trained on in turn: half a second-level cache
cdef int64_t _NEVER = <int64_t>1 << 62
cdef double _LEAST_DECAY = 1e-60

# The process that started OpenMP's threads. They do not exist in its forked children, and libgomp would wait for them for ever.
_team_pid = None


def openmp_enabled():
    """Whether this build has OpenMP (without it, one worker runs)."""
    return lp_openmp() != 0


def max_threads():
    """How many threads OpenMP would use by itself (1 without OpenMP)."""
    return lp_max_threads()


def can_pin():
    """Whether workers can be tied to CPUs on this system."""
    return lp_can_pin() != 0


cdef int64_t _row_bytes(int bits, int64_t n) noexcept nogil:
    return (n + 1) // 2 if bits == 4 else n * (bits // 8)


cdef void *_cache_lines(int64_t n_bytes) except NULL:
    """Memory that shares no cache line with anybody's."""
    cdef void *memory = aligned_alloc(64, (n_bytes + 63) // 64 * 64)
    if memory == NULL:
        raise MemoryError
    return memory


cdef void _free_batch(lp_batch *t) noexcept:
    if t != NULL:
        free(t.update.x)
        free(t.update.m)
        free(t.update.mu)
        free(t.update.e)
        free(t.draws)
        free(t.update.pairs)
        free(t.next.x)
        free(t.next.ahead)
        free(t.next.sums)
        free(t.slope)
        free(t.v)
        free(t.mt)
        free(t.words)
        free(t)


cdef void _set_batch_scales(lp_batch *t, double step, double data_scale, double model_scale, double data_limit) noexcept:
    """The factors of a G term: one quantum of v is worth data_limit * sum|g| / (largest code of G)."""
    cdef double top
    if t.G == 32:
        t.to_model = step * data_scale / model_scale
    elif t.G != 0:
        top = (1 << (t.G - 1)) - 1
        t.to_codes = top * data_scale / data_limit
        t.to_model = step * data_limit / top / model_scale


cdef double _power(double x, int64_t k) noexcept nogil:
    """x^k by multiplications alone: the same bits everywhere."""
    cdef double result = 1.0
    while k > 0:
        if k & 1:
            result *= x
        x *= x
        k >>= 1
    return result


cdef class Sgd:
    """One training run: data, labels, the shared model, and one generator per worker.

    Parameters
    ----------
    x : buffer of uint8
        The rows' codes, the first row at byte 0. May be read-only. With `sparse`, the codes of the stored entries.
    row_stride : int
        Bytes from row to row; not used with `sparse`.
    n_rows, n_features : int
        Shape of the data. ``n_features`` may include pad codes if they are zero in every row; the model must then have room.
    D, M : str
        Formats of data and model, tokens of the grammar.
    random : {"nearest", "shared", "xorshift", "mt19937"}
        Rounding of the model's writes and its source of random words. Without effect where M is 32f.
    model : buffer of uint8, writable
        The model's codes, written in place.
    y : ndarray of float32, shape (n_rows,)
        Targets; -1 or +1 for the logistic and margin losses.
    loss : tuple or str
        Kind and five numbers: `Derivative` of ``lowprec.losses``; or the name of a loss without a parameter.
    step : float
        Step size.
    data_scale, model_scale : float
        Value of one code. 1 for 32f.
    seed : int in [0, 2**64)
        Worker k draws from stream k.
    refresh : int
        Axpys that share one block of random words (random="shared").
    n_threads : int
        Workers. Worker t has the rows (positions of the epoch) from n_rows t / n_threads on.
    sync_every : int, optional
        None: all workers write the one shared model, without locks. Otherwise each has a replica of its own, and its changes are
        added to the shared model (from which it takes the others') after every `sync_every` of its examples.
    together : bool
        Replicas are merged at a barrier, all at once, so that timing decides nothing; by default each worker merges its own
        under a lock.
    cpus : ndarray of int32, shape (n_threads,), optional
        Tie worker t to this CPU while it runs.
    prefetch : int, optional
        Bytes between the data being read and the software prefetch; 0: off. None: the tuned default. Of sparse data the weights
        of the next row are prefetched, however many bytes are asked for; by default where rows are short and the model is large.
    order : ndarray of int64, shape (n_rows,), optional
        The epoch visits row ``order[i]`` at position i.
    weight : ndarray of float32, shape (n_rows,), optional
    intercept : float, optional
        Start of the intercept; None trains without.
    intercept_step : float
        Its own step size.
    isa : str, optional
        Default: the active one.
    batch_size : int
        Examples whose gradients are summed before the model is written once. Batches begin where a call of :meth:`run` begins
        a worker's share, so calls are to be cut at multiples of it.
    gradient : {"8", "16", "32f"}, optional
        Format in which the sum over a batch is held; rounded as the model is, by random words of its own (worker k: stream
        2**32 + k). None: exact. With one, ``random`` has an effect for a 32f model too.
    data_limit : float, optional
        The largest magnitude in the data, in their own units: what a fixed-point ``gradient`` makes its range from. Needed
        for 32f data; others know their own.
    sparse : (indptr, index, differences), optional
        x is sparse: int64 (n_rows + 1,), and uint8, uint16 or uint32; see ``lowprec.sparse``. With `differences` the
        index holds differences of positions.
    integer : dict, optional
        The all-integer mode ("The all-integer mode" in docs/architecture.md), of one worker, between integers, without weights,
        intercept and G: the fields of ``lp_integer`` by their names. ``label``: int32, shape (n_rows,); ``sigmoid``: int32, 256
        numbers, or None. `y`, `loss` and `step` have no effect then.
    exchange : dict, optional
        Workers communicate explicitly ("Communication" in docs/architecture.md), every `sync_every` examples, synchronously if
        `together`. ``codec`` names the codec; ``columns``: the model's numbers
        without pads; ``random``: are codes rounded at random; ``feedback``: is kept what they leave out;
        ``staleness``, of asynchronous workers: by how many rounds the slowest may be behind. ``local``: this process is only that
        worker, and the caller exchanges messages with the others (see `link`); None: all workers are threads.

    Attributes
    ----------
    link : object
        Of a ``local`` worker: ``exchange()`` lets all models of this process exchange with the others, ``meet()`` brings all
        workers to one model, ``gather(arrays)`` gives worker 0 a list of everyone's and the others None.
    """
    cdef lp_team team
    cdef lp_exchange talk
    cdef lp_integer integer  # the all-integer mode's step
    cdef list talk_kept
    cdef public object link
    cdef lp_sgd *jobs
    cdef lp_sparse *layouts
    cdef int32_t bits_x, bits_w, workers
    cdef int64_t n, n_rows
    cdef double step, data_scale, scale, bias, data_limit
    cdef int64_t batch_size
    cdef object keep, integer_kept, order_kept, anchor_kept, drift_kept, sum_kept
    cdef bint running
    # rounds: see set_rounds
    cdef int64_t every, average_from, row_bytes
    cdef int schedule
    cdef double step0, step_given, intercept_given, intercept_ratio, total, before, power, rows, alpha1, alpha2, base, theta_left
    cdef bint stochastic
    cdef lp_rng visits
    cdef lp_axpy_fn drift_axpy
    cdef const float *drift
    cdef double drift_intercept
    cdef double *sum
    cdef double sum_intercept
    cdef int64_t summed

    def __cinit__(self):
        self.jobs = NULL
        self.layouts = NULL
        memset(&self.team, 0, sizeof(lp_team))
        memset(&self.talk, 0, sizeof(lp_exchange))
        memset(&self.integer, 0, sizeof(lp_integer))
        self.team.local = -1
        self.every = _NEVER
        self.sum = NULL
        self.drift = NULL

    def __init__(self, x, int64_t row_stride, int64_t n_rows, int64_t n_features, D, M, random, model, y, *, loss, double step,
                 double data_scale, double model_scale, seed=0, int64_t refresh=1, int n_threads=1, order=None, weight=None,
                 intercept=None, double intercept_step=0.0, sync_every=None, bint together=False, cpus=None, prefetch=None,
                 isa=None, batch_size=1, gradient=None, data_limit=None, sparse=None, exchange=None, integer=None):
        cdef const uint8_t[::1] xs = x
        cdef uint8_t[::1] ws = model
        cdef const float[::1] ys = y
        cdef const float[::1] weights
        cdef const int32_t[::1] cpu_numbers
        cdef const lp_kernel *row
        cdef lp_sgd *g
        cdef int rounding, k
        cdef lp_loss form
        cdef int64_t longest = n_features, row_bytes
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
        row_bytes = _row_bytes(self.bits_x, n_features)
        if sparse is not None:
            longest = self._check_sparse(sparse, xs.shape[0])
        elif row_stride < 1:  # less than a row is fine: rows are only read, and may overlap (sliding windows)
            raise ValueError(f"Sgd: row_stride must be at least 1, got {row_stride}")
        elif xs.shape[0] < row_bytes or n_rows - 1 > (xs.shape[0] - row_bytes) // row_stride:  # no product that may overflow
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
        self.keep = (x, model, y, weight, cpus, sparse)
        self.bias = 0.0 if intercept is None else intercept
        if isinstance(loss, str):
            loss = _losses.Loss(loss).derivative
        form.kind = _LOSS_KINDS[loss[0]]
        form.above, form.high, form.below, form.low, form.slope = loss[1:]
        self.intercept_ratio = intercept_step / step if step != 0.0 else 0.0
        self.step_given, self.intercept_given = step, intercept_step
        self.step0, self.base, self.stochastic = step, model_scale, random != "nearest"
        self.drift_axpy = <lp_axpy_fn>_capi.find(_capi.isa_find(isa_name), LP_AXPY, 32, self.bits_w,
                                                 LP_SR if rounding != LP_NEAREST else LP_NEAREST).fn
        lp_rng_seed(&self.visits, seed_word, <uint64_t>1 << 33)
        # Rows that fit half a second-level cache, for several models to be trained on in turn.
        self.row_bytes = max(1, row_stride if sparse is None else
                             xs.shape[0] // n_rows + sparse[1].nbytes // n_rows + 1)

        self.jobs = <lp_sgd *>malloc(n_threads * sizeof(lp_sgd))
        if self.jobs == NULL:
            raise MemoryError
        memset(self.jobs, 0, n_threads * sizeof(lp_sgd))
        for k in range(n_threads):
            g = &self.jobs[k]
            if xs.shape[0] > 0:
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
            g.loss = form
            g.stochastic = rounding != LP_NEAREST
            g.refresh = refresh
            g.bad_row = -1
            g.ahead = LP_DISTANCE if prefetch is None else prefetch
            lp_rng_seed(&g.rng, seed_word, k)
            if rounding == LP_SRB:
                g.mt = <lp_mt19937 *>malloc(sizeof(lp_mt19937))
                g.words = malloc(longest * 4 + 2 * LP_SPARSE_ROOM)
                if g.mt == NULL or g.words == NULL:
                    raise MemoryError
                _capi.mt_seed(g.mt, seed_word, k)
        self.team.fn = <lp_sgd_fn>row.fn
        if batch_size < 1:
            raise ValueError(f"Sgd: batch_size must be at least 1, got {batch_size}")
        if gradient not in _GRADIENTS:
            raise ValueError(f"Sgd: gradient must be None or one of 8, 16, 32f, got {gradient!r}")
        if batch_size > 1 or gradient is not None or integer is not None:
            self.batch_size = min(batch_size, n_rows)
            self.data_limit = data_scale * (2**(self.bits_x - 1) - 1) if self.bits_x != 32 else data_limit or 0.0
            if 0 < <int>_GRADIENTS[gradient] < 32 and not 0.0 < self.data_limit < float("inf"):
                raise ValueError(f"Sgd: data_limit must be positive and finite for gradient={gradient!r}, got {data_limit}")
            self.team.fn = _capi.isa_find(isa_name).batch_sgd
            for k in range(n_threads):
                self._make_batch(&self.jobs[k], _capi.isa_find(isa_name), rounding, _ROUNDINGS[random], gradient, seed_word, k)
        if integer is not None:
            if (self.bits_x == 32 or self.bits_w == 32 or n_threads > 1 or weight is not None or intercept is not None
                    or gradient is not None):
                raise ValueError("Sgd: integer needs integer formats, one worker, and no weight, intercept and gradient")
            self._set_integer(integer)
        if sparse is not None:
            if self.team.fn == _capi.isa_find(isa_name).batch_sgd:
                raise ValueError("Sgd: sparse data are trained on example by example; leave batch_size=1 and gradient=None")
            self.team.fn = _capi.sparse_sgd
            self._set_sparse(sparse, _capi.isa_find(isa_name), rounding, longest, xs.shape[0], prefetch)
        self._set_scales()
        self.set_order(order)

        self.team.jobs = self.jobs
        self.team.workers, self.team.n_rows = n_threads, n_rows
        self.team.w, self.team.n, self.team.M = &ws[0], n_features, self.bits_w
        if intercept is not None:
            self.team.intercept = &self.bias
        if cpus is not None:
            cpu_numbers = cpus
            if cpu_numbers.shape[0] != n_threads:
                raise ValueError(f"Sgd: cpus must name one CPU per worker ({n_threads}), got {cpu_numbers.shape[0]}")
            self.team.cpus = &cpu_numbers[0]
        if exchange is not None and n_threads > 1 and exchange["local"] is not None:
            self.team.local = exchange["local"]
        if sync_every is not None and n_threads > 1:
            self._make_replicas(sync_every, together)
            if exchange is not None:
                self._make_exchange(exchange, _capi.isa_find(isa_name), seed_word)

    cdef int _make_replicas(self, int64_t sync_every, bint together) except -1:
        cdef lp_team *team = &self.team
        cdef int64_t size = _row_bytes(self.bits_w, self.n)
        cdef int k
        if sync_every < 1:
            raise ValueError(f"Sgd: sync_every must be at least 1, got {sync_every}")
        team.sharing = LP_MERGE_TOGETHER if together else LP_MERGE_LOCKED
        team.sync_every = sync_every
        team.replicas = <void **>calloc(self.workers, sizeof(void *))
        team.bases = <void **>calloc(self.workers, sizeof(void *))
        # One cache line each: workers write them all the time.
        team.intercepts = <double *>_cache_lines(self.workers * 64)
        team.intercept_bases = <double *>_cache_lines(self.workers * sizeof(double))
        if team.replicas == NULL or team.bases == NULL:
            raise MemoryError
        for k in range(self.workers):
            if team.local >= 0 and team.local != k:
                continue
            team.replicas[k] = _cache_lines(size)
            team.bases[k] = team.w if together else _cache_lines(size)
            self.jobs[k].w = team.replicas[k]
            if team.intercept != NULL:
                self.jobs[k].intercept = &team.intercepts[8 * k]
        return 0

    cdef float *_floats(self, int64_t n) except NULL:
        """So many zeros, as long as this object lives."""
        cdef cnp.ndarray a = np.zeros(max(n, 1), np.float32)
        self.talk_kept.append(a)
        return <float *>cnp.PyArray_DATA(a)

    cdef void *_room(self, int64_t size) except NULL:
        """So many bytes, as long as this object lives: zeros, on cache lines of their own."""
        cdef cnp.ndarray a = np.zeros(size // 64 * 64 + 192, np.uint8)
        self.talk_kept.append(a)
        return <void *>((<uintptr_t>cnp.PyArray_DATA(a) + 63) & ~<uintptr_t>63)

    cdef int _make_exchange(self, dict asked, const lp_isa *isa, uint64_t seed) except -1:
        cdef lp_exchange *x = &self.talk
        cdef lp_team *team = &self.team
        cdef int64_t first, last, size = 0
        cdef bytes name = asked["codec"].encode()
        cdef int k
        self.talk_kept = []
        x.codec = _capi.find_codec(isa, name)
        if x.codec == NULL:
            raise ValueError(f"Sgd: exchange: there is no codec {asked['codec']!r}")
        x.columns = asked["columns"]
        x.random, x.feedback = asked["random"], asked["feedback"] and not x.codec.exact
        x.synchronous, x.staleness = team.sharing == LP_MERGE_TOGETHER, asked["staleness"]
        team.exchange = x
        x.agreed = <float **>self._room(self.workers * sizeof(float *))
        x.residual = <float **>self._room(self.workers * sizeof(float *))
        x.told = <float **>self._room(self.workers * sizeof(float *))
        x.giving = <lp_rng *>self._room(self.workers * sizeof(lp_rng))
        x.merging = <lp_rng *>self._room(self.workers * sizeof(lp_rng))
        if not x.synchronous or x.feedback:
            x.owned = self._floats(x.columns)
        if team.local >= 0:
            lp_chunk(team, team.local, &first, &last)
            x.told_from = first
        else:
            first, last = 0, x.columns
        for k in range(self.workers):
            lp_rng_seed(&x.giving[k], seed, (<uint64_t>1 << 34) + k)
            lp_rng_seed(&x.merging[k], seed, (<uint64_t>1 << 35) + k)
            if team.local < 0 or team.local == k:
                if x.synchronous and self.bits_w == 32:
                    x.agreed[k] = <float *>team.w
                elif x.synchronous and k > 0 and team.local < 0:
                    x.agreed[k] = x.agreed[0]
                else:
                    x.agreed[k] = self._floats(x.columns)
                if x.feedback:
                    x.residual[k] = self._floats(x.columns)
            if not x.synchronous:
                x.told[k] = x.agreed[k] if team.local < 0 else self._floats(last - first)
        if team.local < 0:
            x.messages = <uint8_t **>self._room(self.workers * sizeof(uint8_t *))
            x.offsets = <int64_t *>self._room(self.workers * sizeof(int64_t))
            x.clocks = <int64_t *>self._room(self.workers * 64)
            for k in range(self.workers):
                x.offsets[k] = size
                size += (lp_message_bytes(team, k) + 63) // 64 * 64
            for k in range(self.workers):
                x.messages[k] = <uint8_t *>self._room(size)
            x.merged = <uint8_t *>self._room(size)
        lp_exchange_begin(team)
        return 0

    cdef int _make_batch(self, lp_sgd *g, const lp_isa *isa, int rounding, int source, gradient, uint64_t seed,
                         int k) except -1:
        """Give one worker what training on mini-batches needs."""
        cdef int D = self.bits_x, M = self.bits_w, G = _GRADIENTS[gradient]
        cdef int rounding_v = LP_NEAREST if G == 32 else source
        cdef int64_t size = self.batch_size
        cdef lp_batch *t = <lp_batch *>calloc(1, sizeof(lp_batch))
        g.batch = t
        if t == NULL:
            raise MemoryError
        t.size, t.D, t.M, t.G, t.rounding, t.rounding_v = size, D, M, G, rounding, rounding_v
        t.step = <lp_batch_fn>_capi.find(isa, LP_BATCH, D, M, rounding).fn
        t.update.x = <const uint8_t **>malloc((size + 1) * sizeof(uint8_t *))
        t.update.m = <float *>malloc(size * sizeof(float))
        t.update.mu = <int32_t *>malloc((size + 1) * sizeof(int32_t))
        t.update.e = <int32_t *>malloc(size * sizeof(int32_t))
        t.draws = <uint64_t *>malloc(size * sizeof(uint64_t))
        t.update.pairs = <int32_t *>malloc((size + 7) // 8 * 4 * sizeof(int32_t))
        t.next.x = <const uint8_t **>malloc((size + 1) * sizeof(uint8_t *))
        t.next.ahead = <const uint8_t **>malloc(size * sizeof(uint8_t *))
        t.next.sums = malloc(size * (32 * sizeof(double) if D == 32 or M == 32 else sizeof(int64_t)))
        t.slope = <double *>malloc(size * sizeof(double))
        if (t.update.x == NULL or t.update.m == NULL or t.update.mu == NULL or t.update.e == NULL or t.update.pairs == NULL
                or t.next.x == NULL or t.next.ahead == NULL or t.next.sums == NULL or t.slope == NULL or t.draws == NULL):
            raise MemoryError
        if G == 0:
            return 0
        t.step_v = <lp_batch_fn>_capi.find(isa, LP_BATCH, D, G, rounding_v).fn
        t.axpy = <lp_axpy_fn>_capi.find(isa, LP_AXPY, G, M, rounding).fn
        t.v = malloc(LP_BLOCK * sizeof(float))
        lp_rng_seed(&t.rng, seed, (<uint64_t>1 << 32) + k)
        if t.v == NULL:
            raise MemoryError
        if rounding_v == LP_SRB:
            t.mt = <lp_mt19937 *>malloc(sizeof(lp_mt19937))
            t.words = malloc(LP_BLOCK * sizeof(uint32_t))
            if t.mt == NULL or t.words == NULL:
                raise MemoryError
            _capi.mt_seed(t.mt, seed, (<uint64_t>1 << 32) + k)
        return 0

    cdef int _set_integer(self, dict given) except -1:
        """Tell the one worker the all-integer mode's step."""
        cdef const int32_t[::1] label = given["label"]
        cdef const int32_t[::1] sigmoid
        cdef lp_integer *s = &self.integer
        self.integer_kept = (given["label"], given["sigmoid"])
        s.label_shift, s.multiplier, s.shift = given["label_shift"], given["multiplier"], given["shift"]
        s.exponent, s.sigmoid_shift, s.delay = given["exponent"], given["sigmoid_shift"], given["delay"]
        if (label.shape[0] != self.n_rows or np.min(given["label"]) < -0x7FFF or np.max(given["label"]) > 0x7FFF
                or not 0 <= s.label_shift <= 46 or not 1 <= s.multiplier <= 255 or s.shift < 0 or not 0 <= s.exponent <= 16):
            raise ValueError("Sgd: integer must have a label in +-32767 per row, label_shift in [0, 46], multiplier in [1, 255], "
                             "shift at least 0, and exponent in [0, 16]")
        s.label = &label[0]
        if given["sigmoid"] is not None:
            sigmoid = given["sigmoid"]
            if sigmoid.shape[0] != 256:
                raise ValueError(f"Sgd: integer must have 256 numbers in sigmoid, got {sigmoid.shape[0]}")
            s.sigmoid = &sigmoid[0]
        self.jobs[0].batch.integer = s
        return 0

    cdef int64_t _check_sparse(self, sparse, int64_t n_bytes) except -1:
        """The longest row of sparse data that hold together."""
        cdef const int64_t[::1] indptr = sparse[0]
        cdef int64_t entries, needed
        index = sparse[1]
        if not isinstance(index, np.ndarray) or index.dtype not in (np.uint8, np.uint16, np.uint32):
            raise TypeError("Sgd: index must be an array of uint8, uint16 or uint32")
        if indptr.shape[0] != self.n_rows + 1 or indptr[0] != 0:
            raise ValueError(f"Sgd: indptr must have {self.n_rows + 1} numbers, the first of them 0")
        row, longest = _kernels._sparse_fault(indptr, index, sparse[2], self.n)
        if row >= 0:
            raise ValueError(f"Sgd: index must rise within [0, {self.n}) in every row; it does not in row {row}")
        entries = indptr[self.n_rows]
        needed = (entries + self.n_rows) // 2 if self.bits_x == 4 else entries * (self.bits_x // 8)
        if n_bytes < needed:
            raise ValueError(f"Sgd: x must hold {entries} entries, {needed} bytes, got {n_bytes} bytes")
        return longest

    cdef int _set_sparse(self, sparse, const lp_isa *isa, int rounding, int64_t longest, int64_t x_bytes,
                         prefetch) except -1:
        """Give every worker the layout of sparse data, and a place for a row's weights."""
        cdef const int64_t[::1] indptr = sparse[0]
        cdef cnp.ndarray index = sparse[1]
        cdef lp_sparse *s
        cdef int k, bits = 8 * index.itemsize
        cdef bint next_row = prefetch if prefetch is not None else (
            self.n * self.bits_w // 8 >= _NEXT_ROW_MODEL_BYTES
            and cnp.PyArray_DIM(index, 0) <= self.n_rows * _NEXT_ROW_ENTRIES)
        cdef bint exchange = (self.n * self.bits_w // 8 >= _EXCHANGE_MODEL_BYTES
                              and cnp.PyArray_DIM(index, 0) >= self.n_rows * _EXCHANGE_ENTRIES)
        self.layouts = <lp_sparse *>malloc(self.workers * sizeof(lp_sparse))
        if self.layouts == NULL:
            raise MemoryError
        memset(self.layouts, 0, self.workers * sizeof(lp_sparse))
        for k in range(self.workers):
            s = &self.layouts[k]
            s.indptr = &indptr[0]
            s.index = <const uint8_t *>cnp.PyArray_DATA(index)
            s.index_bits, s.differences = bits, bool(sparse[2])
            s.D, s.M, s.rounding = self.bits_x, self.bits_w, rounding
            s.next_row = next_row
            s.gather = _capi.find_gather(bits, self.bits_w)
            s.scatter = _capi.find_scatter(bits, self.bits_w)
            s.dot = <lp_dot_fn>_capi.find(isa, LP_DOT, self.bits_x, self.bits_w, LP_NEAREST).fn
            s.axpy = <lp_axpy_fn>_capi.find(isa, LP_AXPY, self.bits_x, self.bits_w, rounding).fn
            s.x_end = self.jobs[k].x + x_bytes
            s.scratch = malloc(_row_bytes(self.bits_w, longest) + LP_SPARSE_ROOM)
            if exchange:
                s.exchange = _capi.find_exchange(bits, self.bits_w)
                s.other = malloc(_row_bytes(self.bits_w, longest) + LP_SPARSE_ROOM)
            if s.scratch == NULL or (exchange and s.other == NULL):
                raise MemoryError
            self.jobs[k].sparse = s
        return 0

    def __dealloc__(self):
        cdef int k
        if self.team.replicas != NULL and self.team.bases != NULL:
            for k in range(self.workers):
                free(self.team.replicas[k])
                if self.team.bases[k] != self.team.w:
                    free(self.team.bases[k])
        free(self.team.replicas)
        free(self.team.bases)
        free(self.team.intercepts)
        free(self.team.intercept_bases)
        if self.layouts != NULL:
            for k in range(self.workers):
                free(self.layouts[k].scratch)
                free(self.layouts[k].other)
            free(self.layouts)
        if self.jobs != NULL:
            for k in range(self.workers):
                free(self.jobs[k].mt)
                free(self.jobs[k].words)
                _free_batch(self.jobs[k].batch)
            free(self.jobs)

    cdef int _set_scales(self) except -1:
        cdef int k
        for k in range(self.workers):
            self.jobs[k].dot_scale = self.data_scale * self.scale
            self.jobs[k].step_scale = self.step * self.data_scale / self.scale
            self.jobs[k].intercept_step = (self.intercept_given if self.step == self.step_given
                                           else self.step * self.intercept_ratio)
            if self.jobs[k].batch != NULL:
                _set_batch_scales(self.jobs[k].batch, self.step, self.data_scale, self.scale, self.data_limit)
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

    def set_rounds(self, int64_t every, *, schedule="constant", double total=1.0, double before=0.0, double power=0.5,
                   double rows=1.0, double alpha1=0.0, double alpha2=0.0, average_from=None):
        """From now on workers meet after every `every` examples of their share, and what is done to whole models is done then.

        Parameters
        ----------
        every : int
            Counted from the beginning of each epoch; a multiple of the batch's size and of `sync_every`.
        schedule : {"constant", "linear", "invscaling"}
            The step of a round, from t, the examples up to its middle (of the run; for invscaling after `before` others):
            step, step (1 - t / total), step / (1 + t / rows)**power.
        alpha1, alpha2 : float
            Of the penalties alpha1 |w|_1 and alpha2 |w|^2 / 2.
        average_from : int, optional
            Add the model to a sum after each round that ends later than that; see :meth:`average`.
        """
        # A round as long as an epoch ends with it, whatever batches and merges are.
        if every < 1 or every < self.n_rows and (every % max(self.batch_size, 1)
                                                 or (self.team.sync_every and every % self.team.sync_every)):
            raise ValueError(f"Sgd: every must be a multiple of batch_size and sync_every, got {every}")
        self.every, self.schedule = every, _SCHEDULES[schedule]
        self.total, self.before, self.power, self.rows = total, before, power, rows
        self.alpha1, self.alpha2 = alpha1, alpha2
        if average_from is not None:
            self.average_from, self.sum_kept = average_from, np.zeros(self.n)
            self.sum = <double *>cnp.PyArray_DATA(self.sum_kept)

    def set_anchor(self, anchor, drift, double drift_intercept=0.0):
        """SVRG: what belongs to the point that the model is a correction to.

        Parameters
        ----------
        anchor : ndarray of float64, shape (n_rows, 2)
            Added to the products; and -derivatives there, which are taken from those of the steps.
        drift : ndarray of float32, shape (n_features,)
            The gradient there: -step * k * drift is added to the model for a round of k examples, half before and half after it.
        drift_intercept : float
        """
        cdef const double[:, ::1] pairs = anchor
        cdef const float[::1] gradient = drift
        cdef int k
        if pairs.shape[0] != self.n_rows or pairs.shape[1] != 2 or gradient.shape[0] < self.n:
            raise ValueError(f"Sgd.set_anchor: anchor must have shape ({self.n_rows}, 2), drift {self.n} numbers")
        self.anchor_kept, self.drift_kept = anchor, drift
        self.drift, self.drift_intercept = &gradient[0], drift_intercept
        for k in range(self.workers):
            self.jobs[k].anchor = &pairs[0, 0]

    def restart(self, double model_scale, double step):
        """A model of zeros with another quantum, an intercept of zero, and another step; the generators go on."""
        self._idle()
        lp_team_merge(&self.team)
        memset(self.team.w, 0, _row_bytes(self.bits_w, self.n))
        self.bias = 0.0
        self.scale = self.base = model_scale
        self.step = self.step0 = step
        self.team.started = 0
        self._set_scales()

    # ---- explicit communication ----

    cdef int _merge(self) except -1:
        """Apply every pending update, and bring the replicas together."""
        if self.link is None:
            lp_team_merge(&self.team)
            return 0
        if self.team.dirty:
            self.link.exchange()
        if not self.talk.synchronous:
            self.link.meet()
        return 0

    cdef int _before_change(self) except -1:
        """Merge: something else than training is about to change the model."""
        self._merge()
        if self.team.exchange != NULL:
            lp_carry_out(&self.team)
        return 0

    cdef int _after_change(self, double factor=1.0) except -1:
        """It has, and has multiplied the codes by factor."""
        if self.team.exchange != NULL:
            lp_carry_in(&self.team, <float>factor)
        self.team.started = 0  # the replicas start again from the model
        self._set_scales()
        return 0

    @property
    def dirty(self):
        """Whether a worker has trained since the last exchange."""
        return self.team.dirty != 0

    @property
    def exchanges(self):
        """``(number, seconds)``: exchanges between threads; of asynchronous workers each one's count."""
        return self.talk.exchanges, self.talk.seconds

    def message_bytes(self, int q):
        """Bytes of a message about owner q's columns."""
        return lp_message_bytes(&self.team, q)

    def ready(self):
        """Apply the pending update: gives follow."""
        lp_team_flush(&self.team)

    def give(self, int q, uint8_t[::1] out, int64_t at):
        """This worker's change of owner q's columns, into `out` from byte `at` on. See :meth:`ready`."""
        with nogil:
            lp_give(&self.team, self.team.local, q, &out[at])

    def reduce(self, list messages, int64_t at, uint8_t[::1] merged, int64_t at_merged):
        """What every worker gave this owner, each from byte `at` of its buffer on, as one message to all."""
        cdef uint8_t[::1] view
        cdef uint8_t **given = <uint8_t **>malloc(self.workers * sizeof(uint8_t *))
        cdef int k
        if given == NULL:
            raise MemoryError
        try:
            for k in range(self.workers):
                view = messages[k]
                given[k] = &view[0]
            with nogil:
                lp_reduce(&self.team, self.team.local, given, at, &merged[at_merged])
        finally:
            free(given)

    def take(self, int q, const uint8_t[::1] merged, int64_t at):
        """The effect of what owner q sent."""
        with nogil:
            lp_take(&self.team, q, &merged[at])

    def taken(self):
        """Everything has been taken: the next round begins with the agreed model."""
        self.team.dirty = 0

    def given(self):
        """Asynchronous: the round's changes are under way."""
        lp_given(&self.team, self.team.local)
        self.team.dirty = 0

    def answer(self, int t, const uint8_t[::1] message, int64_t at, uint8_t[::1] answer, int64_t at_answer):
        """Asynchronous: add worker t's change to this owner's columns, and answer it."""
        with nogil:
            lp_answer(&self.team, self.team.local, t, &message[at], &answer[at_answer])

    def hear(self, int q, const uint8_t[::1] answer, int64_t at):
        """Asynchronous: owner q's answer; to be followed by :meth:`learn` when all are in."""
        with nogil:
            lp_hear(&self.team, self.team.local, q, &answer[at])

    def learn(self):
        """Asynchronous: go on from what was heard, and what was trained since."""
        with nogil:
            lp_learn(&self.team, self.team.local)

    def columns(self, int q):
        """Asynchronous: this worker's memory of owner q's columns; its own are the model."""
        cdef int64_t first, last
        lp_chunk(&self.team, q, &first, &last)
        return np.asarray(<float[:self.talk.columns]>self.talk.owned)[first:last]

    def meet(self):
        """Asynchronous: all columns are those of their owners now, and everyone goes on from them."""
        lp_meet(&self.team)

    @property
    def own_intercept(self):
        """That of this worker's replica: what it has changed by since it was set."""
        if self.team.intercept == NULL:
            return 0.0
        return self.team.intercepts[8 * self.team.local] - self.team.intercept_bases[self.team.local]

    def set_intercept(self, double value, double ahead=0.0):
        """The agreed intercept; the replica's is `ahead` of it."""
        if self.team.intercept != NULL:
            self.bias = self.team.intercept_bases[self.team.local] = value
            self.team.intercepts[8 * self.team.local] = value + ahead

    cdef double _step_of(self, int64_t a, int64_t b, int64_t done) noexcept:
        """The step of the round [a, b), in an epoch before which `done` examples were done."""
        cdef double t = done + 0.5 * (self._examples(a) + self._examples(b))
        if self.schedule == 1:
            return self.step0 * max(0.0, 1.0 - t / self.total)
        if self.schedule == 2:
            # as float32: no libm's last bit gets into the model
            return self.step0 * <float>((1.0 + (self.before + t) / self.rows) ** -self.power)
        return self.step0

    cdef int _enter(self, int64_t a, int64_t b, int64_t done) except -1:
        cdef double step
        if self.schedule != 0:
            step = self._step_of(a, b, done)
            if step != self.step:
                self.step = step
                self._set_scales()
        return 0

    cdef int _begin(self, int64_t b) except -1:
        """Before the first round of an epoch, which ends at b."""
        cdef bint rounds = self.bits_w != 32 and self.stochastic
        if self.drift == NULL:
            return 0
        lp_team_merge(&self.team)
        if rounds:
            lp_rng_draw(self.visits.lane)
            self.visits.scalar = lp_xorshift64(self.visits.scalar)
        self._drift(0.5 * self._examples(b), self.visits.scalar)
        self.team.started = 0
        return 0

    cdef int _drift(self, double count, uint64_t draw) except -1:
        """SVRG: the gradient at the anchor for so many examples, rounded by the block that was just drawn."""
        cdef bint rounds = self.bits_w != 32 and self.stochastic
        cdef lp_step step
        lp_make_step(&step, -self.step * count / self.scale, 32, self.bits_w, rounds, draw)
        self.drift_axpy(&step, self.drift, self.team.w, self.n, self.visits.lane if rounds else NULL)
        self.bias -= self.step * self.intercept_ratio * count * self.drift_intercept
        return 0

    cdef int _leave(self, int64_t a, int64_t b, int64_t done) except -1:
        """The visit at the end of a round."""
        cdef int64_t count = self._examples(b) - self._examples(a)
        cdef bint changes = self.alpha1 != 0.0 or self.alpha2 != 0.0 or self.drift != NULL
        cdef bint adds = self.sum != NULL and done + self._examples(b) > self.average_from
        cdef bint rounds = self.bits_w != 32 and self.stochastic
        cdef uint64_t draw = 0
        cdef double theta
        cdef void *w = self.team.w
        cdef double factor = 1.0
        if not (changes or adds):
            return 0  # what is pending has this round's step already
        if changes:
            self._before_change()
        else:
            self._merge()
        if self.alpha2 != 0.0:
            # Not below what leaves nothing of any weight: the scale must stay positive.
            self.scale *= max(_power(1.0 - self.step * self.alpha2, count), _LEAST_DECAY)
            while self.scale * self.scale * 2.0 < self.base * self.base:
                if self.bits_w == 32:
                    _capi.decay(<float *>w, self.n, self.scale / self.base)
                    factor *= self.scale / self.base
                    self.scale = self.base
                else:
                    _capi.widen(w, self.n, self.bits_w)
                    factor *= 0.5
                    self.scale *= 2.0
        if changes and rounds:
            lp_rng_draw(self.visits.lane)
            draw = self.visits.scalar = lp_xorshift64(self.visits.scalar)
        if self.drift != NULL:
            self._drift(0.5 * (count + self._examples(min(b + self.every, self.share)) - self._examples(b)), draw)
        if self.alpha1 != 0.0:
            theta = self.step * count * self.alpha1
            if self.bits_w != 32 and not rounds:  # to nearest: what is less than a quantum waits for the rest
                theta += self.theta_left
                self.theta_left = fmod(theta, self.scale)
                theta -= self.theta_left
            theta /= self.scale
            _capi.shrink(w, self.n, self.bits_w, theta, draw, self.visits.lane if rounds else NULL)
        if adds:
            _capi.accumulate(w, self.n, self.bits_w, self.scale, self.sum)
            self.sum_intercept += self.bias
            self.summed += 1
        if changes:
            self._after_change(factor)
        return 0

    def average(self):
        """``(sum, intercepts, count)``: the models of so many rounds, added up."""
        return self.sum_kept, self.sum_intercept, self.summed

    def run(self, int64_t first, int64_t last, int64_t done=0):
        """Every worker processes the examples [first, last) of its share of the epoch; `share` is the longest one's length.

        (In a child forked after threaded training, one worker after another.) Returns -1, or the first row whose product was not
        finite. The update of each worker's last example stays pending; the next call continues with it. `done`: examples of the
        epochs before.
        """
        return train_together([self], first, last, done)

    cdef int64_t _bad_row(self) noexcept:
        """The first row whose product was not finite, or -1; forgotten then."""
        cdef int64_t bad = -1
        cdef int k
        for k in range(self.workers):
            if self.jobs[k].bad_row >= 0 and (bad < 0 or self.jobs[k].bad_row < bad):
                bad = self.jobs[k].bad_row
            self.jobs[k].bad_row = -1
        return bad

    cdef int _idle(self) except -1:
        """Refuse what another Python thread asks for while the workers run: they and it would write the same state."""
        if self.running:
            raise RuntimeError("Sgd: the workers are running; ask between two calls, from the callback")
        return 0

    def flush(self):
        """Apply every pending update: to the shared model, or to each worker's replica."""
        self._idle()
        lp_team_flush(&self.team)

    def snapshot(self, out):
        """Write the model as it stands, every worker's changes included, into `out`; return its intercept.

        What is learned afterwards does not depend on it.
        """
        cdef uint8_t[::1] ws = out
        cdef double bias
        if ws.shape[0] < _row_bytes(self.bits_w, self.n):
            raise ValueError(f"Sgd.snapshot: out must hold {_row_bytes(self.bits_w, self.n)} bytes, got {ws.shape[0]}")
        self._idle()
        if self.integer.delay:
            self._look_ahead(ws)
            return 0.0
        lp_team_flush(&self.team)
        bias = self.bias
        if &ws[0] != self.team.w:
            lp_team_snapshot(&self.team, &ws[0], &bias)
        elif self.team.sharing != LP_SHARED:
            raise ValueError("Sgd.snapshot: out must not be the model itself, which the replicas' changes refer to")
        return bias

    cdef int _look_ahead(self, uint8_t[::1] out) except -1:
        """The model with its pending update, which stays pending: products that are still to be taken must not see it."""
        cdef lp_sgd *g = &self.jobs[0]
        cdef lp_rng rng = g.rng
        cdef int64_t count = g.batch.update.count, left = g.refresh_left
        cdef uint64_t block[8]
        if &out[0] == self.team.w:
            raise ValueError("Sgd.snapshot: out must not be the model itself, whose pending update is not due yet")
        memcpy(block, g.block, sizeof(block))
        memcpy(&out[0], self.team.w, _row_bytes(self.bits_w, self.n))
        g.w = &out[0]
        lp_team_flush(&self.team)
        g.w = self.team.w
        g.batch.update.count, g.refresh_left, g.rng = count, left, rng
        memcpy(g.block, block, sizeof(block))
        return 0

    def merge(self):
        """Apply every pending update and merge the replicas into the shared model."""
        self._idle()
        self._merge()

    def at_limit(self):
        """How many of the shared model's codes sit at +-(2^(b-1) - 1)."""
        return _capi.at_limit(self.team.w, self.n, self.bits_w)

    def widen(self):
        """Merge, then double the model's range: q <- round-half-even(q / 2), model_scale * 2."""
        self._idle()
        self._before_change()
        _capi.widen(self.team.w, self.n, self.bits_w)
        self.scale *= 2.0
        self.base *= 2.0
        self._after_change(0.5)

    def narrow(self, int limit):
        """Merge, then halve the model's range if no code leaves +-limit by it: q <- 2 q, model_scale / 2, which is exact.

        Returns whether it was.
        """
        cdef bint done
        self._idle()
        self._before_change()
        done = _capi.narrow(self.team.w, self.n, self.bits_w, limit)
        if done:
            self.scale *= 0.5
            self.base *= 0.5
        self._after_change(2.0 if done else 1.0)
        return done

    def fold(self):
        """Multiply a float32 model by the factor that L2 has left beside it; `model_scale` is what it was at first."""
        self._idle()
        if self.bits_w == 32 and self.scale != self.base:
            factor = self.scale / self.base
            self._before_change()
            _capi.decay(<float *>self.team.w, self.n, factor)
            self.scale = self.base
            self._after_change(factor)
        else:
            self._merge()

    def state(self):
        """All that the next call goes on from, as a dict of numbers and arrays. Replicas are merged.

        Not the data, the order, or what the constructor and the setters were told.
        """
        self._idle()
        self._merge()
        self.team.started = 0
        state = {
            "model": np.array(<uint8_t[:_row_bytes(self.bits_w, self.n)]>self.team.w),
            "numbers": np.array([self.scale, self.base, self.bias, self.step, self.theta_left, self.sum_intercept, self.summed]),
            "visits": np.frombuffer((<char *>&self.visits)[:sizeof(lp_rng)], np.uint8),
            "sum": np.zeros(0) if self.sum == NULL else self.sum_kept.copy(),
        }
        each = [self._own_state(k) for k in range(self.workers) if self.team.local < 0 or self.team.local == k]
        if self.link is not None:
            each = self.link.gather(each[0])
            if each is None:  # worker 0 has it
                return {}
        state |= {name: np.stack([own[name] for own in each]) for name in ("generators", "residual") if name in each[0]}
        if self.team.exchange != NULL:
            state["agreed"] = np.array(<float[:self.talk.columns]>self._common())
            if "owned" in each[0]:
                state["owned"] = np.concatenate([own["owned"] for own in each])
        return state

    cdef float *_common(self) noexcept:
        """The model that all workers agree on."""
        if self.talk.synchronous:
            return self.talk.agreed[max(self.team.local, 0)]
        return self.talk.owned

    cdef dict _own_state(self, int k):
        """What a worker has for itself alone."""
        cdef int64_t first, last
        own = {"generators": np.frombuffer(self._generators(k, None), np.uint8)}
        if self.team.exchange != NULL and self.talk.feedback:
            own["residual"] = np.array(<float[:self.talk.columns]>self.talk.residual[k])
            if self.talk.synchronous:
                lp_chunk(&self.team, k, &first, &last)
                own["owned"] = np.array(<float[:self.talk.columns]>self.talk.owned)[first:last]
        return own

    def restore(self, state, bint over=False):
        """Go on from what :meth:`state` gave, in a run that was made by the same arguments.

        With a C term it may have had another number of workers: what they had not sent is then shared out evenly, or applied
        where one goes on alone, unless the run is over.
        """
        cdef const uint8_t[::1] model = state["model"]
        cdef const float[::1] floats
        cdef bytes visits = state["visits"].tobytes()
        cdef int k
        cdef bint talks = self.team.exchange != NULL, talked = "agreed" in state
        self._idle()
        generators = state["generators"]
        same = len(generators) == self.workers
        # Those of messages come last.
        more = (talked - talks) * 2 * <int>sizeof(lp_rng)
        if (model.shape[0] != _row_bytes(self.bits_w, self.n) or len(visits) != sizeof(lp_rng)
                or generators.shape[1] - more != len(self._generators(0, None)) or not (same or talks or talked)
                or len(state["sum"]) != (0 if self.sum == NULL else self.n)
                or talks and talked and len(state["agreed"]) != self.talk.columns):
            raise ValueError("Sgd.restore: the state is of another run")
        memcpy(self.team.w, &model[0], model.shape[0])
        self.scale, self.base, self.bias, self.step, self.theta_left, self.sum_intercept, summed = state["numbers"].tolist()
        self.summed = int(summed)
        memcpy(&self.visits, <const char *>visits, sizeof(lp_rng))
        if self.sum != NULL:
            self.sum_kept[:] = state["sum"]
        for k in range(min(self.workers, len(generators))):
            self._generators(k, generators[k].tobytes())
        if talks and not talked:
            lp_exchange_begin(&self.team)
        elif talked and not talks and not over:
            self._apply(state["agreed"] + state["residual"].sum(axis=0) + state.get("owned", np.float32(0))
                        if "residual" in state else state["agreed"])
        elif talks:
            floats = state["agreed"]
            memcpy(self._common(), &floats[0], self.talk.columns * sizeof(float))
            if not self.talk.synchronous:
                lp_meet(&self.team)
            if self.talk.feedback:
                unsent, owed = state["residual"], state.get("owned", np.zeros(self.talk.columns, np.float32))
                if not same:
                    unsent = np.tile((unsent.sum(axis=0) + owed) / np.float32(self.workers), (self.workers, 1))
                    owed = np.zeros_like(owed)
                for k in range(self.workers):
                    if self.talk.residual[k] != NULL:
                        np.asarray(<float[:self.talk.columns]>self.talk.residual[k])[:] = unsent[k]
                if self.talk.synchronous:
                    np.asarray(<float[:self.talk.columns]>self.talk.owned)[:] = owed
        self.team.started = self.team.dirty = 0
        self._set_scales()

    cdef int _apply(self, agreed) except -1:
        """The model becomes the nearest codes of these numbers."""
        cdef float top = 0.0 if self.bits_w == 32 else (1 << (self.bits_w - 1)) - 1
        if self.bits_w == 32:
            codes = agreed
        else:
            codes = np.rint(np.clip(agreed, -top, top)).astype(np.int16 if self.bits_w == 16 else np.int8)
        if self.bits_w == 4:
            codes = np.append(codes, np.zeros(len(codes) % 2, np.int8)).view(np.uint8) & 15
            codes = codes[0::2] | codes[1::2] << 4
        codes = np.ascontiguousarray(codes).view(np.uint8)
        np.asarray(<uint8_t[:_row_bytes(self.bits_w, self.n)]>self.team.w)[:len(codes)] = codes
        return 0

    cdef bytes _generators(self, int k, bytes given):
        """A worker's generators as bytes, or from bytes."""
        cdef lp_sgd *g = &self.jobs[k]
        cdef void *places[12]
        cdef size_t sizes[12]
        cdef int count = 0, i
        cdef size_t at = 0
        places[0], sizes[0] = <void *>&g.refresh_left, sizeof(int64_t)
        places[1], sizes[1] = <void *>g.block, 64
        places[2], sizes[2] = <void *>&g.rng, sizeof(lp_rng)
        count = 3
        if g.mt != NULL:
            places[count], sizes[count] = <void *>g.mt, sizeof(lp_mt19937)
            count += 1
        if g.batch != NULL:
            places[count], sizes[count] = <void *>&g.batch.refresh_left, sizeof(int64_t)
            places[count + 1], sizes[count + 1] = <void *>g.batch.block, 64
            places[count + 2], sizes[count + 2] = <void *>&g.batch.rng, sizeof(lp_rng)
            count += 3
            if g.batch.mt != NULL:
                places[count], sizes[count] = <void *>g.batch.mt, sizeof(lp_mt19937)
                count += 1
        if self.team.exchange != NULL:
            places[count], sizes[count] = <void *>&self.talk.giving[k], sizeof(lp_rng)
            places[count + 1], sizes[count + 1] = <void *>&self.talk.merging[k], sizeof(lp_rng)
            count += 2
        found = []
        for i in range(count):
            if given is None:
                found.append((<char *>places[i])[:sizes[i]])
            elif at + sizes[i] <= <size_t>len(given):
                memcpy(places[i], <const char *>given + at, sizes[i])
            at += sizes[i]
        return b"".join(found)

    @property
    def share(self):
        """The longest worker's share of an epoch, in examples."""
        return -(-self.n_rows // self.workers)

    def examples(self, int64_t position):
        """How many examples of an epoch are done when every worker has done `position` of its own."""
        return self._examples(position)

    cdef int64_t _examples(self, int64_t position) noexcept:
        cdef int64_t longest = self.n_rows % self.workers  # so many workers have one example more
        cdef int64_t shortest = self.n_rows // self.workers
        return min(position, shortest) * (self.workers - longest) + min(position, shortest + 1) * longest

    @property
    def threads(self):
        """Threads that ran in the last call."""
        return self.team.threads

    @property
    def model_scale(self):
        """Value of one model code."""
        return self.scale

    @property
    def intercept(self):
        """The shared model's intercept."""
        return self.bias

    @property
    def n_threads(self):
        """Workers."""
        return self.workers


cdef void _run_local(lp_team **teams, int32_t models, int64_t first, int64_t last, int64_t block) noexcept nogil:
    """This process's worker: every model in turn on rows that stay in a cache."""
    cdef int64_t at = first, end
    cdef int32_t k
    while at < last:
        end = min(at + block, last) if block < last - at else last
        for k in range(models):
            lp_team_run_local(teams[k], at, end)
        at = end


def train_together(runs, int64_t first, int64_t last, int64_t done=0):
    """:meth:`Sgd.run` for several models on the same rows: what each would get alone, but the rows are read once for all of them.

    Parameters
    ----------
    runs : list of Sgd
        With as many workers, rows in the same order, and the same rounds.
    first, last, done : int
        See :meth:`Sgd.run`.
    """
    global _team_pid
    cdef Sgd lead = runs[0], run
    cdef int64_t at = first, end, round_end, block, share = lead.share, bad = -1, found
    cdef int32_t models = len(runs), k
    cdef bint parallel
    cdef lp_team **teams
    if not 0 <= first <= last <= share:
        raise ValueError(f"Sgd.run: positions must lie in [0, {share}], got [{first}, {last})")
    for run in runs:
        if run.workers != lead.workers or run.n_rows != lead.n_rows or run.every != lead.every:
            raise ValueError("train_together: every run must have as many workers and rows, and the same rounds")
        run._idle()
    parallel = lead.workers > 1 and (_team_pid is None or _team_pid == os.getpid())
    if parallel:
        _team_pid = os.getpid()
    block = _NEVER
    if models > 1:
        block = max(<int64_t>1, _BLOCK_BYTES // lead.row_bytes)
        if lead.batch_size > 1:
            block = (block + lead.batch_size - 1) // lead.batch_size * lead.batch_size
    teams = <lp_team **>malloc(models * sizeof(lp_team *))
    if teams == NULL:
        raise MemoryError
    try:
        for k in range(models):
            run = runs[k]
            teams[k] = &run.team
            run.running = True
        while at < last and bad < 0:
            round_end = min((at // lead.every + 1) * lead.every, share)
            end = min(round_end, last)
            for run in runs:
                run._enter(at // lead.every * lead.every, round_end, done)
                if at == 0:
                    run._begin(round_end)
            if lead.team.local >= 0:
                # To the next exchange alone, which is the link's.
                end = min(end, (at // lead.team.sync_every + 1) * lead.team.sync_every)
                with nogil:
                    _run_local(teams, models, at, end, block)
            else:
                with nogil:
                    lp_teams_run(teams, models, at, end, min(block, end - at), parallel)
            for run in runs:
                found = run._bad_row()
                if found >= 0 and (bad < 0 or found < bad):
                    bad = found
            if lead.team.local >= 0 and bad < 0 and (end % lead.team.sync_every == 0 or end == share):
                lead.link.exchange()
            if end == round_end and bad < 0 and lead.every != _NEVER:
                for run in runs:
                    run._leave(at // lead.every * lead.every, round_end, done)
            at = end
    finally:
        for run in runs:
            run.running = False
        free(teams)
    return bad
