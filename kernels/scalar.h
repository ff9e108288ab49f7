/* Scalar primitives, the same on every ISA: random streams, the step of an axpy, loss derivatives, one code of a buffer.
 * Everything is static inline: each ISA's unit compiles its own copy with its own flags, and the linker cannot mix them. */
#ifndef LP_SCALAR_H
#define LP_SCALAR_H

#include <float.h>
#include <string.h>

#include "lowprec.h"

#define LP_INLINE static inline __attribute__((always_inline, unused))

/* ---- random streams --------------------------------------------------------------------------------------------- */

/* SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): advances the state, returns one output. */
LP_INLINE uint64_t lp_splitmix64(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Marsaglia's xorshift64 (J. Stat. Softw. 8(14), 2003), triple (13, 7, 17). */
LP_INLINE uint64_t lp_xorshift64(uint64_t x)
{
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x;
}

LP_INLINE void lp_rng_seed(lp_rng *rng, uint64_t seed, uint64_t stream)
{
    uint64_t from_seed = seed, from_stream = stream ^ 0xD1B54A32D192ED03u;
    uint64_t state = lp_splitmix64(&from_seed) ^ lp_splitmix64(&from_stream);
    for (int k = 0; k < 9; k++) {
        uint64_t z = lp_splitmix64(&state);
        if (z == 0)
            z = 0x9E3779B97F4A7C15u; /* xorshift would stay at zero for ever */
        if (k < 8)
            rng->lane[k] = z;
        else
            rng->scalar = z;
    }
}

/* Advance all lanes; the block is the new state. */
LP_INLINE void lp_rng_draw(uint64_t lane[8])
{
    for (int k = 0; k < 8; k++)
        lane[k] = lp_xorshift64(lane[k]);
}

/* The words of a block in the order of a little-endian machine, on any machine. */
LP_INLINE uint32_t lp_word16(const uint64_t block[8], int k) { return (uint32_t)(block[k >> 2] >> (16 * (k & 3))) & 0xFFFFu; }
LP_INLINE uint32_t lp_word32(const uint64_t block[8], int k) { return (uint32_t)(block[k >> 1] >> (32 * (k & 1))); }

/* ---- the step of an axpy ---------------------------------------------------------------------------------------- */

#define LP_MAGIC 6755399441055744.0 /* 1.5 * 2^52: adding it rounds |t| < 2^51 half to even, into the low bits */

/* The entry of a table, of 2^shift bytes an entry, at a rounded number: magic = LP_MAGIC + k, whose bits are those of LP_MAGIC plus
 * k. The constant part of the address folds into the base, so that only a shift stands between rounding and loading. */
LP_INLINE const void *lp_entry(const void *origin, double magic, int shift)
{
    uint64_t bits;
    memcpy(&bits, &magic, 8);
    return (const void *)(uintptr_t)((uint64_t)(uintptr_t)origin - (0x4338000000000000u << shift) + (bits << shift));
}

LP_INLINE int lp_max_code(int bits) { return (1 << (bits - 1)) - 1; }

/* m -> (mu, e): see "Step of an axpy" in docs/architecture.md. The argument is t = 2^16 m: the training loop has it at hand, and
 * every operation saved here is on the critical path from example to example. draw: one output of the scalar generator. */
LP_INLINE void lp_make_step16(lp_step *s, double t, int D, int M, int stochastic, uint64_t draw)
{
    if (D == 32 || M == 32) {
        const double m = t * 0x1p-16; /* kept finite: infinity times a zero x would be a NaN */
        s->m = m > FLT_MAX ? FLT_MAX : m < -FLT_MAX ? -FLT_MAX : (float)m;
        s->mu = 0;
        s->e = 0;
        return;
    }
    double v = stochastic ? ((double)(int64_t)(2 * (draw >> 32) + 1) - 4294967296.0) * 0x1p-33 : 0.0;
    int e = 0;
    if (__builtin_expect(!(t < 32768.0 && t > -32768.0), 0)) {
        double limit = 2.0 * lp_max_code(M) * 65536.0;
        t = t > limit ? limit : t < -limit ? -limit : t == t ? t : 0.0; /* callers refuse a NaN; here it must only end */
        while (!(t < 32768.0 && t > -32768.0)) {
            t *= 0.5;
            e++;
        }
    }
    double magic = (t + v) + LP_MAGIC;
    uint64_t bits;
    memcpy(&bits, &magic, 8);
    int32_t mu = (int32_t)(uint32_t)bits;
    if (__builtin_expect(mu == 32768 || mu == -32768, 0)) { /* rounded up to the next power of two: exact one e further */
        mu /= 2;
        e++;
        magic = LP_MAGIC + mu;
    }
    s->magic = magic;
    s->mu = mu;
    s->e = e;
    s->m = 0.0f;
}

LP_INLINE void lp_make_step(lp_step *s, double m, int D, int M, int stochastic, uint64_t draw)
{
    lp_make_step16(s, m * 65536.0, D, M, stochastic, draw);
}

/* ---- sums of products of pairs with 32f ------------------------------------------------------------------------- */

/* The fixed reduction tree of the 32 float64 sums. */
LP_INLINE double lp_tree(double sum[32])
{
    for (int s = 16; s > 0; s >>= 1)
        for (int l = 0; l < s; l++)
            sum[l] = sum[l] + sum[l + s];
    return sum[0];
}

/* ---- the steps of a batch ---------------------------------------------------------------------------------------- */

LP_INLINE void lp_update_set(lp_update *u, int64_t b, const lp_step *step)
{
    u->m[b] = step->m;
    u->mu[b] = step->mu;
    u->e[b] = step->e;
}

/* After x, the steps and count > 0: what follows from them. An even number of them is done: their reach, and every e 0. */
LP_INLINE void lp_update_close_from(lp_update *u, int64_t done, int64_t reach)
{
    const int64_t count = u->count;
    int32_t e = 0;
    u->x[count] = u->x[count - 1];
    u->mu[count] = 0;
    for (int64_t b = done; b < count; b += 2)
        u->pairs[b >> 1] = (int32_t)((uint32_t)u->mu[b + 1] << 16 | ((uint32_t)u->mu[b] & 0xFFFF));
    for (int64_t b = done; b < count; b++) {
        reach += (int64_t)(u->mu[b] < 0 ? -u->mu[b] : u->mu[b]) << u->e[b];
        e |= u->e[b];
    }
    u->reach = reach;
    u->regular = e == 0;
}

LP_INLINE void lp_update_close(lp_update *u) { lp_update_close_from(u, 0, 0); }

/* ---- loss derivatives ------------------------------------------------------------------------------------------- */

#define LP_LOGISTIC_RANGE 32 /* the table covers t in [-32, 32], 16 cubics to the unit */
#define LP_LOGISTIC_NODES (2 * 16 * LP_LOGISTIC_RANGE + 1)

/* 1 / (1 + exp(t)) from t16 = 16 t: the cubic about the nearest node, |error| < 1e-8. No libm: its exp differs by CPU. */
LP_INLINE double lp_logistic(double t16)
{
    const double limit = 16.0 * LP_LOGISTIC_RANGE;
    t16 = t16 < limit ? t16 : limit;
    t16 = t16 > -limit ? t16 : -limit;
    double node = t16 + LP_MAGIC;
    const double *c = (const double *)lp_entry(lp_logistic_table[16 * LP_LOGISTIC_RANGE], node, 5);
    double u = t16 - (node - LP_MAGIC);
    return (c[0] + c[1] * u) + (u * u) * (c[2] + c[3] * u);
}

/* -k d loss / d p at p = sum * scale + b; kind is loss->kind. Labels of the logistic and of margin losses are -1 or +1: multiplying by y
 * is exact, and so is multiplying by 16, which is why both may leave the critical path. *finite: whether p is. */
LP_INLINE double lp_loss_step(int kind, const lp_loss *loss, double sum, double scale, double b, double y, double k, int *finite)
{
    const double s = kind == LP_RESIDUAL ? scale : 16.0 * (scale * y), c = kind == LP_RESIDUAL ? b : 16.0 * (b * y);
    const double t = sum * s + c; /* 16 y p, or p */
    *finite = t - t == 0.0;
    if (kind == LP_LOGISTIC)
        return lp_logistic(t) * (y * k);
    const double r = kind == LP_RESIDUAL ? y - t : 1.0 - 0.0625 * t;
    const double v = r > loss->above ? loss->high : r < loss->below ? loss->low : loss->slope * r;
    return v * (kind == LP_RESIDUAL ? k : y * k);
}

/* -k d loss / d p of the example in a row, from the sum of its product; k is without the row's weight. */
LP_INLINE double lp_example_step(const lp_sgd *g, int kind, int64_t row, double sum, double k, int *finite)
{
    const double y = g->y[row], factor = g->weight ? k * (double)g->weight[row] : k;
    const double *const anchor = g->anchor;
    double b = g->intercept ? *g->intercept : 0.0;
    if (__builtin_expect(anchor != NULL, 0))
        b += anchor[2 * row];
    const double step = lp_loss_step(kind, &g->loss, sum, g->dot_scale, b, y, factor, finite);
    return __builtin_expect(anchor != NULL, 0) ? step - anchor[2 * row + 1] * factor : step;
}

/* ---- the step of the all-integer mode --------------------------------------------------------------------------- */

/* mu of an example from its product, |z| < 2^62, and |label| 2^label_shift < 2^62; every division by a power of two rounds down. */
LP_INLINE int32_t lp_integer_mu(const lp_integer *s, int64_t z, int32_t label)
{
    int64_t error = (int64_t)label * ((int64_t)1 << s->label_shift);
    if (s->sigmoid) {
        const int32_t h = s->sigmoid_shift;
        if (h >= 0)
            z >>= h < 63 ? h : 63;
        z = z > 127 ? 127 : z < -128 ? -128 : z;
        if (h < 0) {
            z *= 1 << (h > -8 ? -h : 8);
            z = z > 127 ? 127 : z < -128 ? -128 : z;
        }
        error -= s->sigmoid[z + 128];
    } else
        error -= z;
    /* The product may take 71 bits: high 2^16 + low. */
    const int64_t part = (error & 0xFFFF) * s->multiplier, low = part & 0xFFFF, limit = (int64_t)1 << 31;
    int64_t high = (error >> 16) * s->multiplier + (part >> 16), mu;
    if (s->shift >= 16)
        mu = high >> (s->shift < 79 ? s->shift - 16 : 63);
    else {
        high = high > limit ? limit : high < -limit ? -limit : high; /* far beyond mu's range */
        mu = (high * 65536 + low) >> s->shift;
    }
    return (int32_t)(mu > 32767 ? 32767 : mu < -32767 ? -32767 : mu);
}

/* ---- one code of a buffer --------------------------------------------------------------------------------------- */

LP_INLINE int32_t lp_get(const void *p, int bits, int64_t j)
{
    if (bits == 4)
        return (int32_t)(((((const uint8_t *)p)[j >> 1] >> (4 * (j & 1))) & 15) ^ 8) - 8;
    if (bits == 8)
        return ((const int8_t *)p)[j];
    return ((const int16_t *)p)[j];
}

LP_INLINE void lp_put(void *p, int bits, int64_t j, int32_t v)
{
    if (bits == 4) {
        uint8_t *b = (uint8_t *)p + (j >> 1);
        *b = (uint8_t)((j & 1) ? (*b & 0x0F) | (v & 15) << 4 : (*b & 0xF0) | (v & 15));
    } else if (bits == 8)
        ((int8_t *)p)[j] = (int8_t)v;
    else
        ((int16_t *)p)[j] = (int16_t)v;
}

LP_INLINE float lp_getf(const void *p, int bits, int64_t j)
{
    return bits == 32 ? ((const float *)p)[j] : (float)lp_get(p, bits, j);
}

/* Byte offset of element j, for j even. */
LP_INLINE int64_t lp_bytes(int bits, int64_t j) { return bits == 4 ? j >> 1 : j * (bits >> 3); }

#endif
