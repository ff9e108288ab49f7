"""The simulated machine's compiled core, and SGD on what its caches hold: ``kernels/cachesim.c``, ``kernels/cachesim_sgd.c``.

Everything is checked by ``lowprec.cachesim``; this passes it on.
"""
import numpy as np

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_Import
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from contract cimport *

from lowprec import losses as _losses

cnp.import_array()
lp_tables_init()

cdef lp_capi *_capi = <lp_capi *>PyCapsule_Import("lowprec.kernels._capi", 0)

cdef extern from "cachesim.h" nogil:
    enum: LP_LINE
    enum: LP_MAX_CORES
    enum: LP_MAX_STATES
    enum: LP_MAX_CHOICES
    enum: LP_MAX_REGIONS
    enum: LP_MAX_IN_FLIGHT
    enum: LP_ABSOLUTE
    enum: LP_LOAD, LP_STORE, LP_LOAD_OWN, LP_PREFETCH, LP_PREFETCH_FIRST, LP_WAIT
    enum: LP_TAKE, LP_SEE, LP_MULTIPLY, LP_DECIDE, LP_UPDATE
    enum: LP_REMOTE_READ, LP_REMOTE_WRITE

    ctypedef struct lp_access:
        uint64_t address
        uint32_t instructions
        uint8_t kind
        uint8_t actions
        int8_t row
        uint8_t size

    ctypedef struct lp_choice:
        int32_t count
        uint8_t state[4]
        double cumulative[4]

    ctypedef struct lp_protocol:
        int32_t states
        uint8_t writable[16]
        uint8_t dirty[16]
        uint8_t written[16]
        uint8_t clean[16]
        uint8_t read_alone
        uint8_t read_shared
        uint8_t write
        lp_choice next[2][2][16]
        int32_t regions
        uint64_t first[8]
        uint64_t last[8]
        int32_t one_coin
        int32_t listed
        int (*hook)(void *data, int event, int core, int level, uint64_t line, int state) noexcept nogil
        void *with_ "with"

    ctypedef struct lp_level:
        int64_t sets
        int32_t ways
        int32_t slices
        double latency

    ctypedef struct lp_machine_config:
        int32_t cores
        lp_level level[3]
        int32_t inclusive
        double memory
        double remote
        double hidden
        double cpi
        int32_t overlap
        int32_t store_buffer
        int32_t distance

    ctypedef struct lp_counters:
        int64_t instructions, loads, stores
        int64_t load_hits, load_misses, store_hits, store_misses
        int64_t hits[3]
        int64_t misses[3]
        int64_t upgrades
        int64_t writebacks[3]
        int64_t back_invalidations
        int64_t received[2][2]
        int64_t received_region[2][2]
        int64_t kept[2]
        int64_t region_loads, stale_loads
        int64_t remote
        int64_t prefetches, late
        double stalled[4]

    ctypedef struct lp_program:
        const lp_access *accesses
        int64_t count
        int64_t at
        int64_t passes
        int64_t batch
        int64_t row
        int32_t counted
        int64_t rows
        uint64_t base
        int64_t stride

    ctypedef struct lp_machine:
        pass

    ctypedef struct lp_worker:
        const uint8_t *x
        const float *y
        lp_rng rng
        uint64_t block[8]
        int64_t refresh_left
        uint8_t *seen
        double *sums
        lp_update update
        int64_t bad_row

    ctypedef struct lp_learner:
        uint64_t first, last
        uint64_t address
        int64_t n_bytes
        uint8_t *memory
        uint8_t *copies[2]
        lp_worker *workers
        int64_t row_stride, n, batch
        int32_t D, M, rounding, stochastic
        int64_t refresh
        double dot_scale, step_scale
        lp_loss loss
        lp_dot_fn dot
        lp_axpy_fn axpy
        lp_batch_fn step

    lp_machine *lp_machine_new(const lp_machine_config *config, const lp_protocol *protocol, uint64_t seed)
    void lp_machine_free(lp_machine *m)
    lp_program *lp_machine_program(lp_machine *m, int core)
    lp_counters *lp_machine_counters(lp_machine *m, int core)
    double *lp_machine_time(lp_machine *m, int core)
    void lp_machine_learn(lp_machine *m, lp_learner *learner)
    void lp_machine_model(const lp_machine *m, uint8_t *out)
    int64_t lp_machine_run(lp_machine *m, int64_t budget)
    double lp_machine_access(lp_machine *m, int core, uint64_t address, int kind)
    int lp_machine_line(lp_machine *m, uint64_t line, uint8_t *state, uint8_t *stale, uint64_t *sharers, int *owner)
    void lp_learner_flush(lp_learner *l, int cores)

#: lp_access; lowprec.cachesim.streams says what the fields are.
ACCESS = np.dtype(
    [("address", "<u8"), ("instructions", "<u4"), ("kind", "u1"), ("actions", "u1"), ("row", "i1"), ("size", "u1")]
)
assert ACCESS.itemsize == sizeof(lp_access)

LOAD, STORE, LOAD_OWN, PREFETCH, WAIT = LP_LOAD, LP_STORE, LP_LOAD_OWN, LP_PREFETCH, LP_WAIT
PREFETCH_FIRST = LP_PREFETCH_FIRST
TAKE, SEE, MULTIPLY, DECIDE, UPDATE = LP_TAKE, LP_SEE, LP_MULTIPLY, LP_DECIDE, LP_UPDATE
ABSOLUTE = LP_ABSOLUTE
MAX_CORES, MAX_STATES, MAX_CHOICES, MAX_REGIONS = LP_MAX_CORES, LP_MAX_STATES, LP_MAX_CHOICES, LP_MAX_REGIONS
MAX_IN_FLIGHT = LP_MAX_IN_FLIGHT

_BITS = {"4": 4, "8": 8, "16": 16, "32f": 32}
_LOSS_KINDS = {"logistic": LP_LOGISTIC, "margin": LP_MARGIN, "residual": LP_RESIDUAL}
_ROUNDINGS = {"nearest": LP_NEAREST, "shared": LP_SR, "xorshift": LP_SRX}


cdef int _ask_python(void *data, int event, int core, int level, uint64_t line, int state) noexcept with gil:
    """The protocol's own decision; what it raises is kept, and raised where the run was begun."""
    cdef Simulator simulator = <Simulator>data
    try:
        return simulator._hook(event, core, level, line, state)
    except BaseException as error:
        simulator._error = error
        return -2


cdef class Simulator:
    """A machine in motion: caches, cores, programs, counters.

    Parameters
    ----------
    config : dict
        cores, inclusive, memory, remote, hidden, cpi, overlap, store_buffer, distance; levels: three of (sets, ways, slices,
        latency).
    protocol : dict
        writable, dirty, written, clean: by state; read_alone, read_shared, write: states; next: by event, region and state,
        pairs of state and cumulative probability; regions: pairs of lines; one_coin, listed; hook: callable or None.
    seed : int
    """

    cdef lp_machine *_m
    cdef readonly int cores
    cdef object _hook, _error
    cdef bint _running
    cdef list _programs
    cdef Learner _learner

    def __cinit__(self, dict config, dict protocol, uint64_t seed):
        cdef lp_machine_config c
        cdef lp_protocol p
        cdef lp_choice *choice
        memset(&p, 0, sizeof(p))
        c.cores, c.inclusive = config["cores"], config["inclusive"]
        c.memory, c.remote, c.hidden, c.cpi = config["memory"], config["remote"], config["hidden"], config["cpi"]
        c.overlap, c.store_buffer, c.distance = config["overlap"], config["store_buffer"], config["distance"]
        for k, (sets, ways, slices, latency) in enumerate(config["levels"]):
            c.level[k].sets, c.level[k].ways, c.level[k].slices, c.level[k].latency = sets, ways, slices, latency
        p.states = len(protocol["writable"])
        for k in range(p.states):
            p.writable[k], p.dirty[k] = protocol["writable"][k], protocol["dirty"][k]
            p.written[k], p.clean[k] = protocol["written"][k], protocol["clean"][k]
            for event in range(2):
                for region in range(2):
                    choice = &p.next[event][region][k]
                    pairs = protocol["next"][event][region][k]
                    choice.count = len(pairs)
                    for i, (state, cumulative) in enumerate(pairs):
                        choice.state[i], choice.cumulative[i] = state, cumulative
        p.read_alone, p.read_shared, p.write = protocol["read_alone"], protocol["read_shared"], protocol["write"]
        p.regions = len(protocol["regions"])
        for k, (first, last) in enumerate(protocol["regions"]):
            p.first[k], p.last[k] = first, last
        p.one_coin, p.listed = protocol["one_coin"], protocol["listed"]
        self._hook = protocol["hook"]
        if self._hook is not None:
            p.hook = _ask_python
            p.with_ = <void *>self
        self._m = lp_machine_new(&c, &p, seed)
        if self._m == NULL:
            raise MemoryError("machine: no memory for its caches")
        self.cores = c.cores
        self._programs = [None] * self.cores

    def __dealloc__(self):
        lp_machine_free(self._m)

    cdef int _begin(self) except -1:
        """Refuse a call out of a protocol's decision, or of another thread, that would change what a run is at."""
        if self._running:
            raise RuntimeError("machine: it is running; from within `decide`, or from another thread, it may only be looked at")
        return 0

    def program(self, int core, const lp_access[::1] accesses, int64_t passes, int64_t batch=0, int64_t rows=1, uint64_t base=0,
                int64_t stride=0, int64_t row=0):
        """What a core does next: `accesses`, `passes` times; the rows of data go on by `batch` with each."""
        self._begin()
        cdef lp_program *p = lp_machine_program(self._m, core)
        self._programs[core] = accesses
        p.accesses = &accesses[0] if accesses.shape[0] else NULL
        p.count, p.at, p.passes = accesses.shape[0], 0, passes if accesses.shape[0] else 0
        p.batch, p.row, p.rows, p.base, p.stride, p.counted = batch, row, rows, base, stride, 0

    def run(self, int64_t budget):
        """At most `budget` accesses; return how many were made: fewer where all programs are done."""
        cdef int64_t done
        self._begin()
        self._error, self._running = None, True
        with nogil:
            done = lp_machine_run(self._m, budget)
        self._running = False
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return done

    def access(self, int core, uint64_t address, int kind):
        """One access now; the cycles that the core waited."""
        self._begin()
        self._error, self._running = None, True
        cdef double cycles = lp_machine_access(self._m, core, address, kind)
        self._running = False
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return cycles

    def delay(self, int core, double cycles):
        self._begin()
        lp_machine_time(self._m, core)[0] += cycles

    def time(self, int core):
        return lp_machine_time(self._m, core)[0]

    def clear(self):
        """Set every counter to zero. Clocks go on."""
        cdef int core
        self._begin()
        for core in range(self.cores):
            memset(lp_machine_counters(self._m, core), 0, sizeof(lp_counters))

    def counters(self, int core):
        """Every counter, by name."""
        return lp_machine_counters(self._m, core)[0]

    def line(self, uint64_t line):
        """Where a line is: (states, stale) by core and level, the sharers, the owner, whether the third level has it."""
        cdef uint8_t state[2 * 64]
        cdef uint8_t stale[2 * 64]
        cdef uint64_t sharers
        cdef int owner
        cdef int there = lp_machine_line(self._m, line, state, stale, &sharers, &owner)
        return ([(state[2 * k], state[2 * k + 1]) for k in range(self.cores)],
                [(stale[2 * k] != 0, stale[2 * k + 1] != 0) for k in range(self.cores)],
                [k for k in range(self.cores) if sharers >> k & 1], owner, there != 0)

    def model(self, uint8_t[::1] out):
        """The learner's model as the machine has it: every line from where it is newest."""
        if self._learner is None or out.shape[0] != self._learner._l.n_bytes:
            raise ValueError("model: there is none of this size")
        lp_machine_model(self._m, &out[0])

    def learn(self, Learner learner):
        """Hold the numbers of a learner's model in the caches' lines."""
        self._begin()
        self._learner = learner
        lp_machine_learn(self._m, &learner._l if learner is not None else NULL)


cdef class Learner:
    """SGD of every core on what its caches hold of one model.

    Parameters
    ----------
    cores : int
    address : int
        Of the model; a multiple of 64.
    model : array of uint8
        Its codes, a multiple of 64 bytes; the model below the private caches, written in place.
    n : int
        Its numbers.
    x, row_stride : array of uint8, int
        Rows of codes.
    y : array of float32
    shares : sequence of (int, int)
        By core, its first row and how many.
    D, M, rounding, isa : str
    seed, batch, refresh : int
    dot_scale, step_scale : float
        Of data and model; of a step in quanta.
    loss : str
    """

    cdef lp_learner _l
    cdef int _cores
    cdef object _held

    def __cinit__(self, int cores, uint64_t address, uint8_t[::1] model, int64_t n, const uint8_t[::1] x, int64_t row_stride,
                  const float[::1] y, shares, str D, str M, str rounding, str isa, uint64_t seed, int64_t batch, int64_t refresh,
                  double dot_scale, double step_scale, loss):
        cdef lp_learner *it = &self._l
        cdef lp_worker *w
        cdef const lp_isa *table = _capi.isa_find(isa.encode())
        cdef int core
        cdef int R = _ROUNDINGS[rounding]
        self._cores = cores
        self._held = (model, x, y)
        it.address, it.first, it.n_bytes = address, address // LP_LINE, model.shape[0]
        it.last = it.first + <uint64_t>it.n_bytes // LP_LINE
        it.memory = &model[0]
        it.row_stride, it.n, it.batch, it.refresh = row_stride, n, batch, refresh
        it.D, it.M = _BITS[D], _BITS[M]
        it.stochastic = R != LP_NEAREST
        it.rounding = LP_NEAREST if M == "32f" else R
        it.dot_scale, it.step_scale = dot_scale, step_scale
        derivative = _losses.loss_of(loss).derivative
        it.loss.kind = _LOSS_KINDS[derivative[0]]
        it.loss.above, it.loss.high, it.loss.below, it.loss.low, it.loss.slope = derivative[1:]
        it.dot = <lp_dot_fn>_capi.find(table, LP_DOT, it.D, it.M, LP_NEAREST).fn
        it.axpy = <lp_axpy_fn>_capi.find(table, LP_AXPY, it.D, it.M, it.rounding).fn
        it.step = <lp_batch_fn>_capi.find(table, LP_BATCH, it.D, it.M, it.rounding).fn
        it.workers = <lp_worker *>calloc(cores, sizeof(lp_worker))
        it.copies[0] = <uint8_t *>calloc(cores, it.n_bytes)
        it.copies[1] = <uint8_t *>calloc(cores, it.n_bytes)
        if it.workers == NULL or it.copies[0] == NULL or it.copies[1] == NULL:
            raise MemoryError("learner: no memory for its copies of the model")
        for core in range(cores):
            w = &it.workers[core]
            first, _ = shares[core]
            w.x = &x[0] + <int64_t>first * row_stride
            w.y = &y[0] + <int64_t>first
            w.bad_row = -1
            lp_rng_seed(&w.rng, seed, core)
            w.seen = <uint8_t *>calloc(1, it.n_bytes)
            w.sums = <double *>calloc(batch, sizeof(double))
            w.update.x = <const uint8_t **>calloc(batch + 1, sizeof(uint8_t *))
            w.update.m = <float *>calloc(batch + 1, sizeof(float))
            w.update.mu = <int32_t *>calloc(batch + 1, sizeof(int32_t))
            w.update.e = <int32_t *>calloc(batch + 1, sizeof(int32_t))
            w.update.pairs = <int32_t *>calloc(batch // 2 + 1, sizeof(int32_t))
            if (w.seen == NULL or w.sums == NULL or w.update.x == NULL or w.update.m == NULL or w.update.mu == NULL
                    or w.update.e == NULL or w.update.pairs == NULL):
                raise MemoryError("learner: no memory for its copies of the model")

    def __dealloc__(self):
        cdef int core
        cdef lp_worker *w
        if self._l.workers != NULL:
            for core in range(self._cores):
                w = &self._l.workers[core]
                free(w.seen)
                free(w.sums)
                free(w.update.x)
                free(w.update.m)
                free(w.update.mu)
                free(w.update.e)
                free(w.update.pairs)
        free(self._l.workers)
        free(self._l.copies[0])
        free(self._l.copies[1])

    def flush(self):
        """Apply what the cores have decided and not yet written, core after core, to the model below the caches."""
        lp_learner_flush(&self._l, self._cores)

    def copy(self, int core, int level):
        """What a core's caches last held of the model; lines that are not there now included."""
        cdef cnp.ndarray out = np.empty(self._l.n_bytes, np.uint8)
        memcpy(cnp.PyArray_DATA(out), self._l.copies[level] + core * self._l.n_bytes, self._l.n_bytes)
        return out

    def write(self, int core, uint64_t address, const uint8_t[::1] values):
        """Put bytes into a core's first-level copy: what a store to a line that it owns does."""
        memcpy(self._l.copies[0] + core * self._l.n_bytes + (address - self._l.address), &values[0], values.shape[0])

    def bad_row(self, int core):
        return self._l.workers[core].bad_row
