# cython: language_level=3, boundscheck=False, wraparound=False
"""A convolution's filters over the patches of an image: their products, and the writes of their gradient. Measurements only.

A filter is a model, a patch is a row of data. The derivatives with respect to the outputs come from outside, as they do in a
network, so the fused loop of ``lowprec._sgd``, which makes its own, does not fit; the rows of the kernel matrix are the same.
"""
from cpython.pycapsule cimport PyCapsule_Import
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from contract cimport *

from lowprec import kernels as _kernels

cdef extern from "conv.h" nogil:
    lp_dot_fn conv_plain_dot(int D, int M)
    lp_axpy_fn conv_plain_axpy(int D, int M)

cdef lp_capi *_capi = <lp_capi *>PyCapsule_Import("lowprec.kernels._capi", 0)

cdef object _BITS = {"8": 8, "16": 16, "32f": 32}

# Positions that all filters are taken to before the next ones, where each is a write of its own: patches stay in a near cache.
cdef enum:
    TILE = 32


cdef void close_update(lp_update *u) noexcept nogil:
    """lp_update_close without branches: the signs of a layer's steps are random, and gcc would jump on each."""
    cdef int64_t b, reach = 0
    cdef int32_t sign, e = 0
    u.x[u.count] = u.x[u.count - 1]
    u.mu[u.count] = 0
    for b in range(u.count):
        sign = u.mu[b] >> 31
        reach += <int64_t>((u.mu[b] ^ sign) - sign) << u.e[b]
        e |= u.e[b]
    for b in range((u.count + 1) // 2):
        u.pairs[b] = <int32_t>(<uint32_t>u.mu[2 * b + 1] << 16 | (<uint32_t>u.mu[2 * b] & 0xFFFF))
    u.reach, u.regular = reach, e == 0


cdef class Layer:
    """The filters of one layer over the patches of one image, on borrowed arrays.

    Parameters
    ----------
    patches : uint8 array of shape (positions, bytes of a patch), C-contiguous
        Rows of codes.
    weights : uint8 array of shape (filters, bytes of a filter), C-contiguous, written in place
        Rows of codes, n each, within the model's range.
    D, M : {"8", "16", "32f"}
        Formats; D = 32f with M = 32f alone.
    n : int
        Numbers of a patch and of a filter; pads of zeros may be counted in.
    engine : {"lowprec", "compiler"}
        Our kernels, or plain C as the compiler makes it fast.
    together : int
        Positions that one write of a filter is for: 1, an axpy for each; of our kernels also more, one sum that is rounded once.
    seed : int
        Of the stochastic rounding, a fresh block of shared random words for each write. Fixed-point models only.
    """

    cdef lp_dot_fn dot
    cdef lp_axpy_fn axpy
    cdef lp_batch_fn step
    cdef lp_update update
    cdef lp_products products
    cdef lp_rng rng
    cdef uint64_t blocks[8 * TILE]
    cdef const uint8_t *x
    cdef uint8_t *w
    cdef int64_t x_stride, w_stride, n, positions, filters, tile
    cdef int D, M, step_D, stochastic
    cdef bint together
    cdef object kept

    def __cinit__(self, const uint8_t[:, ::1] patches, uint8_t[:, ::1] weights, str D, str M, int64_t n, *,
                  str engine="lowprec", int64_t together=1, uint64_t seed=0):
        cdef const lp_isa *isa = _capi.isa_find(_kernels._active_isa().encode())
        cdef int rounding
        self.D, self.M = _BITS.get(D, 0), _BITS.get(M, 0)
        if self.D == 0 or self.M == 0 or (self.D == 32) != (self.M == 32):
            raise ValueError(f"Layer: D and M must be 8 or 16, or both 32f, got D={D}, M={M}")
        if patches.shape[0] == 0 or weights.shape[0] == 0 or not 0 < n <= LP_BLOCK:
            raise ValueError(f"Layer: patches and weights must not be empty, and n must lie in [1, {LP_BLOCK}], got {n}")
        if patches.shape[1] < n * self.D // 8 or weights.shape[1] < n * self.M // 8:
            raise ValueError(f"Layer: {n} numbers need rows of {n * self.D // 8} and {n * self.M // 8} bytes, got "
                             f"{patches.shape[1]} and {weights.shape[1]}")
        if engine not in ("lowprec", "compiler") or together < 1 or (together > 1 and engine != "lowprec"):
            raise ValueError(f"Layer: engine must be lowprec, or compiler with together=1, got {engine!r} and {together}")
        self.kept = (patches, weights)
        self.x, self.w = &patches[0, 0], &weights[0, 0]
        self.x_stride, self.w_stride = patches.shape[1], weights.shape[1]
        self.positions, self.filters = patches.shape[0], weights.shape[0]
        self.n, self.together, self.tile = n, together > 1, together if together > 1 else TILE
        self.stochastic = self.M != 32
        rounding = LP_SR if self.stochastic else LP_NEAREST
        # The compiler's loops take the step as a float.
        self.step_D = self.D if engine == "lowprec" else 32
        if engine == "lowprec":
            self.dot = <lp_dot_fn>_capi.find(isa, LP_DOT, self.D, self.M, LP_NEAREST).fn
            self.axpy = <lp_axpy_fn>_capi.find(isa, LP_AXPY, self.D, self.M, rounding).fn
            self.step = <lp_batch_fn>_capi.find(isa, LP_BATCH, self.D, self.M, rounding).fn
        else:
            self.dot = conv_plain_dot(self.D, self.M)
            self.axpy = conv_plain_axpy(self.D, self.M)
        lp_rng_seed(&self.rng, seed, 0)
        if self.together:
            self.update.x = <const uint8_t **>calloc(self.tile + 1, sizeof(uint8_t *))
            self.update.m = <float *>calloc(self.tile, sizeof(float))
            self.update.mu = <int32_t *>calloc(self.tile + 1, sizeof(int32_t))
            self.update.e = <int32_t *>calloc(self.tile, sizeof(int32_t))
            self.update.pairs = <int32_t *>calloc(self.tile // 2 + 1, sizeof(int32_t))
            self.products.x = <const uint8_t **>calloc(self.tile, sizeof(uint8_t *))
            self.products.sums = calloc(self.tile, 32 * sizeof(double))
            if (self.update.x == NULL or self.update.m == NULL or self.update.mu == NULL or self.update.e == NULL
                    or self.update.pairs == NULL or self.products.x == NULL or self.products.sums == NULL):
                raise MemoryError
            self.products.ahead = self.products.x
            self.products.n = n

    def __dealloc__(self):
        free(self.update.x)
        free(self.update.m)
        free(self.update.mu)
        free(self.update.e)
        free(self.update.pairs)
        free(self.products.x)
        free(self.products.sums)

    cdef int check(self, str name, const float[:, ::1] numbers) except -1:
        if numbers.shape[0] != self.filters or numbers.shape[1] != self.positions:
            raise ValueError(f"Layer: {name} must have shape ({self.filters}, {self.positions}), got "
                             f"({numbers.shape[0]}, {numbers.shape[1]})")
        return 0

    def forward(self, float[:, ::1] out, double scale):
        """Write the products of every filter, out[f, p] = scale * (filter f . patch p), p the position."""
        cdef int64_t first = 0, count
        self.check("out", out)
        with nogil:
            while first < self.positions:
                count = min(self.tile, self.positions - first)
                if self.together:
                    self.many_products(first, count, &out[0, 0], scale)
                else:
                    self.each_product(first, count, &out[0, 0], scale)
                first += count

    def backward(self, const float[:, ::1] derivative, double factor):
        """Add to every filter f the sum over positions p of factor * derivative[f, p] * patch p, in quanta of its codes.

        A derivative of exactly zero is no write, as in training.
        """
        cdef int64_t first = 0, count
        self.check("derivative", derivative)
        with nogil:
            while first < self.positions:
                count = min(self.tile, self.positions - first)
                if self.together:
                    self.one_write(first, count, &derivative[0, 0], factor)
                else:
                    self.each_write(first, count, &derivative[0, 0], factor)
                first += count

    cdef void each_product(self, int64_t first, int64_t count, float *out, double scale) noexcept nogil:
        cdef int64_t f, p
        for f in range(self.filters):
            for p in range(first, first + count):
                out[f * self.positions + p] = <float>(
                    scale * self.dot(self.x + p * self.x_stride, self.w + f * self.w_stride, self.n).f)

    cdef void many_products(self, int64_t first, int64_t count, float *out, double scale) noexcept nogil:
        cdef lp_update none
        cdef lp_products *t = &self.products
        cdef int floats = self.M == 32
        cdef int64_t f, k
        cdef double z
        none.count = 0
        t.count = count
        for k in range(count):
            t.x[k] = self.x + (first + k) * self.x_stride
        for f in range(self.filters):
            t.w = self.w + f * self.w_stride
            memset(t.sums, 0, count * (32 * sizeof(double) if floats else sizeof(int64_t)))
            self.step(&none, t, self.w + f * self.w_stride, 0, self.n, NULL)
            for k in range(count):
                z = lp_tree(<double *>t.sums + 32 * k) if floats else <double>(<int64_t *>t.sums)[k]
                out[f * self.positions + first + k] = <float>(scale * z)

    cdef void each_write(self, int64_t first, int64_t count, const float *derivative, double factor) noexcept nogil:
        cdef uint64_t scalar = self.rng.scalar  # here, so that the compiler keeps it in a register
        cdef int64_t f, p
        cdef double m
        cdef lp_step step
        for p in range(count if self.stochastic else 0):
            lp_rng_draw(self.rng.lane)
            memcpy(self.blocks + 8 * p, self.rng.lane, 64)
        for f in range(self.filters):
            for p in range(count):
                m = derivative[f * self.positions + first + p] * factor
                if m == 0.0:
                    continue
                if self.step_D != 32:
                    scalar = lp_xorshift64(scalar)
                lp_make_step(&step, m, self.step_D, self.M, self.stochastic, scalar)
                self.axpy(&step, self.x + (first + p) * self.x_stride, self.w + f * self.w_stride, self.n, self.blocks + 8 * p)
        self.rng.scalar = scalar

    cdef void one_write(self, int64_t first, int64_t count, const float *derivative, double factor) noexcept nogil:
        cdef uint64_t scalar = self.rng.scalar
        cdef const uint8_t *x = self.x + first * self.x_stride
        cdef const float *d
        cdef lp_update u = self.update
        cdef lp_products none
        cdef lp_step step
        cdef int64_t f, k, x_stride = self.x_stride
        cdef int D = self.step_D, M = self.M, stochastic = self.stochastic
        cdef double m
        none.count = none.n = 0
        if stochastic:
            lp_rng_draw(self.rng.lane)
        for f in range(self.filters):
            d = derivative + f * self.positions + first
            u.count = 0
            for k in range(count):
                m = d[k] * factor
                if m == 0.0:
                    continue
                if D != 32:
                    scalar = lp_xorshift64(scalar)
                lp_make_step(&step, m, D, M, stochastic, scalar)
                u.x[u.count] = x + k * x_stride
                lp_update_set(&u, u.count, &step)
                u.count += 1
            if u.count > 0:
                close_update(&u)
                self.step(&u, &none, self.w + f * self.w_stride, 0, self.n, self.rng.lane)
        self.rng.scalar = scalar
