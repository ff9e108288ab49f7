/* One portable body for every op, D, M and rounding. axpy, dot, D, M and R are compile-time constants wherever it is stamped,
 * so each row keeps only its own branches.
 *
 * axpy, integer D, fixed M:  w <- sat(w + floor((mu 2^e x + r) / 2^16)), one saturation, to +-(2^(M-1) - 1).
 *     |mu| <= 2^15, |x| <= 2^(D-1): the product fits 2^30, times 2^e <= 2^17 it fits int64. Rounding point: the shift by 16.
 * axpy, 32f D, fixed M:      t = m x (float32), clipped to the model's whole range; w <- sat(w + floor(t) + (frac(t) > u)).
 * axpy, 32f M:               w <- w + m x, two float32 roundings.
 * dot, integers:             exact; int64, safe to n = 2^33 (2^30 per product).
 * dot, 32f on a side:        element j into float32 partial sum j mod 32, flushed to float64 every LP_BLOCK elements.
 *
 * batch: the axpy's formulas with a sum over rows in the place of mu 2^e x or m x (float32: in order, from the first product on). */
#ifndef LP_BODY_BASE_H
#define LP_BODY_BASE_H

#include "scalar.h"

/* The random words of 32 successive elements. */
typedef struct lp_words {
    uint16_t r[32]; /* integer data */
    float u[32];    /* 32f data: 24-bit fractions */
} lp_words;

/* The largest float below 1/2: frac > it exactly where frac >= 1/2. */
#define LP_NEAREST_U 0x1.fffffep-2f

LP_INLINE float lp_fraction(uint32_t word) { return (float)(int32_t)(word >> 8) * 0x1p-24f; }

/* Words that stay the same for the whole row. */
LP_INLINE void lp_words_fixed(lp_words *t, int D, int R, const void *random)
{
    for (int l = 0; l < 32; l++) {
        if (D == 32)
            t->u[l] = R == LP_SR ? lp_fraction(lp_word32((const uint64_t *)random, l & 15)) : LP_NEAREST_U;
        else
            t->r[l] = R == LP_SR ? (uint16_t)lp_word16((const uint64_t *)random, l) : 0x8000;
    }
}

/* Words of elements j .. j + k - 1, k <= 32. */
LP_INLINE void lp_words_fresh(lp_words *t, int D, int R, void *random, int64_t j, int k)
{
    if (R == LP_SRX) {
        uint64_t *lane = (uint64_t *)random;
        for (int l = 0; l < k; l++) {
            if ((D == 32 ? l & 15 : l) == 0)
                lp_rng_draw(lane);
            if (D == 32)
                t->u[l] = lp_fraction(lp_word32(lane, l & 15));
            else
                t->r[l] = (uint16_t)lp_word16(lane, l);
        }
    } else if (D == 32) {
        for (int l = 0; l < k; l++)
            t->u[l] = lp_fraction(((const uint32_t *)random)[j + l]);
    } else {
        memcpy(t->r, (const uint16_t *)random + j, (size_t)k * 2);
    }
}

/* A fresh block: the lanes' next state. */
LP_INLINE void lp_draw_base(uint64_t lane[8], uint64_t block[8])
{
    lp_rng_draw(lane);
    memcpy(block, lane, 64);
}

LP_INLINE int32_t lp_sat(int64_t v, int bits)
{
    int32_t top = lp_max_code(bits);
    return v > top ? top : v < -top ? -top : (int32_t)v;
}

/* w_j <- sat(w_j + floor(t) + (frac(t) > u)) */
LP_INLINE void lp_add_float(int M, void *w, int64_t j, float t, float u)
{
    const float hi = 2.0f * (float)lp_max_code(M), lo = -hi;
    t = t > hi ? hi : t;
    t = t > lo ? t : lo; /* a NaN ends here too */
    int32_t f = (int32_t)t;
    f -= (float)f > t;
    lp_put(w, M, j, lp_sat((int64_t)lp_get(w, M, j) + f + (t - (float)f > u), M));
}

LP_INLINE void lp_axpy_one(int D, int M, const lp_step *s, const void *x, void *w, int64_t j, uint32_t r, float u)
{
    if (M == 32) {
        float product = s->m * lp_getf(x, D, j);
        ((float *)w)[j] = ((float *)w)[j] + product;
    } else if (D == 32) {
        lp_add_float(M, w, j, s->m * ((const float *)x)[j], u);
    } else {
        int32_t p = s->mu * lp_get(x, D, j);
        int64_t q = s->e == 0 ? (p + (int32_t)r) >> 16 : ((int64_t)p * ((int64_t)1 << s->e) + r) >> 16;
        lp_put(w, M, j, lp_sat(lp_get(w, M, j) + q, M));
    }
}

/* Elements j .. j + k - 1 of a group that starts at a multiple of 32. */
LP_INLINE void lp_group_base(int axpy, int dot, int D, int M, const lp_step *s, const void *x, void *w, const void *xn, int64_t j,
                             int k, const lp_words *t, int64_t *isum, float part[32])
{
    if (axpy)
        for (int l = 0; l < k; l++)
            lp_axpy_one(D, M, s, x, w, j + l, t->r[l], t->u[l]);
    if (dot) {
        if (D == 32 || M == 32) {
            for (int l = 0; l < k; l++) {
                float product = lp_getf(xn, D, j + l) * lp_getf(w, M, j + l);
                part[l] = part[l] + product;
            }
        } else {
            int64_t sum = 0;
            for (int l = 0; l < k; l++)
                sum += (int64_t)lp_get(xn, D, j + l) * lp_get(w, M, j + l);
            *isum += sum;
        }
    }
}

LP_INLINE lp_sum lp_body_base(int rest, int axpy, int dot, int D, int M, int R, const lp_step *s, const void *x, void *w,
                              const void *xn, int64_t n, void *random, const uint8_t *ahead)
{
    const int floats = D == 32 || M == 32;
    const int words = axpy && M != 32;
    lp_sum result = {0};
    lp_words t;
    double sum[32] = {0};
    (void)ahead; /* no portable prefetch */
    (void)rest;
    if (words && (R == LP_NEAREST || R == LP_SR))
        lp_words_fixed(&t, D, R, random);
    for (int64_t block = 0; block < n; block += LP_BLOCK) {
        int64_t end = n - block < LP_BLOCK ? n : block + LP_BLOCK;
        float part[32] = {0};
        int64_t j = block;
        for (; j + 32 <= end; j += 32) {
            if (words && (R == LP_SRX || R == LP_SRB))
                lp_words_fresh(&t, D, R, random, j, 32);
            lp_group_base(axpy, dot, D, M, s, x, w, xn, j, 32, &t, &result.i, part);
        }
        if (j < end) {
            if (words && (R == LP_SRX || R == LP_SRB))
                lp_words_fresh(&t, D, R, random, j, (int)(end - j));
            lp_group_base(axpy, dot, D, M, s, x, w, xn, j, (int)(end - j), &t, &result.i, part);
        }
        if (dot && floats)
            for (int l = 0; l < 32; l++)
                sum[l] = sum[l] + (double)part[l];
    }
    result.f = !dot ? 0.0 : floats ? lp_tree(sum) : (double)result.i;
    return result;
}

/* ---- batches: see lp_batch_fn ------------------------------------------------------------------------------------ */

/* w_j <- sat(w_j + floor((high 2^16 + low + r) / 2^16)) */
LP_INLINE void lp_add_one(int M, void *w, int64_t j, int64_t high, int64_t low, uint32_t r)
{
    lp_put(w, M, j, lp_sat(lp_get(w, M, j) + high + ((low + (int64_t)r) >> 16), M));
}

/* The update of elements j .. j + k - 1, k <= 32, l further in the rows. wide: 32 bits do not hold the sums of integers. Then the
 * halves of the products are added up apart, 2^47 / 2^16 and 2^16 each, so that int64 holds them whatever the number of rows. */
LP_INLINE void lp_update_group(int wide, int D, int M, const lp_update *u, void *w, int64_t j, int64_t l0, int k,
                               const lp_words *t)
{
    if (D == 32 || M == 32) {
        float s[32] = {0};
        for (int64_t b = 0; b < u->count; b++) {
            const float m = u->m[b];
            for (int l = 0; l < k; l++) {
                const float product = m * lp_getf(u->x[b], D, l0 + l);
                s[l] = b == 0 ? product : s[l] + product;
            }
        }
        for (int l = 0; l < k; l++) {
            if (M == 32)
                ((float *)w)[j + l] = ((float *)w)[j + l] + s[l];
            else
                lp_add_float(M, w, j + l, s[l], t->u[l]);
        }
    } else if (wide) {
        int64_t high[32] = {0}, low[32] = {0};
        for (int64_t b = 0; b < u->count; b++) {
            const int64_t factor = (int64_t)u->mu[b] * ((int64_t)1 << u->e[b]);
            for (int l = 0; l < k; l++) {
                const int64_t product = factor * lp_get(u->x[b], D, l0 + l);
                high[l] += product >> 16;
                low[l] += product & 0xFFFF;
            }
        }
        for (int l = 0; l < k; l++)
            lp_add_one(M, w, j + l, high[l], low[l], t->r[l]);
    } else {
        int32_t s[32] = {0};
        for (int64_t b = 0; b < u->count; b++) {
            const int32_t factor = u->mu[b] * (1 << u->e[b]);
            for (int l = 0; l < k; l++)
                s[l] += factor * lp_get(u->x[b], D, l0 + l);
        }
        for (int l = 0; l < k; l++)
            lp_add_one(M, w, j + l, 0, s[l], t->r[l]);
    }
}

LP_INLINE void lp_update_base(int D, int M, int R, const lp_update *u, void *w, int64_t j, int64_t n, void *random)
{
    const int words = M != 32;
    /* with r, every sum is below 2^31: reach 2^(D-1) + 2^16 <= 2^31 */
    const int wide = D != 32 && u->reach > (((int64_t)1 << 31) - 65536) >> (D - 1);
    lp_words t;
    if (words && (R == LP_NEAREST || R == LP_SR))
        lp_words_fixed(&t, D, R, random);
    for (int64_t l = 0; l < n; l += 32) {
        const int k = n - l < 32 ? (int)(n - l) : 32;
        if (words && (R == LP_SRX || R == LP_SRB))
            lp_words_fresh(&t, D, R, random, l, k);
        if (wide)
            lp_update_group(1, D, M, u, w, l, j + l, k, &t);
        else if (k == 32)
            lp_update_group(0, D, M, u, w, l, j + l, 32, &t);
        else
            lp_update_group(0, D, M, u, w, l, j + l, k, &t);
    }
}

LP_INLINE void lp_batch_base(int D, int M, int R, const lp_update *u, const lp_products *p, void *w, int64_t j, int64_t n,
                             void *random)
{
    if (u->count > 0)
        lp_update_base(D, M, R, u, w, j, n, random);
    for (int64_t b = 0; b < p->count; b++) {
        const uint8_t *x = p->x[b] + lp_bytes(D, p->j);
        int64_t sum = 0;
        for (int64_t block = 0; block < p->n; block += LP_BLOCK) {
            const int64_t end = p->n - block < LP_BLOCK ? p->n : block + LP_BLOCK;
            float part[32] = {0};
            int64_t l = block;
            for (; l + 32 <= end; l += 32)
                lp_group_base(0, 1, D, M, NULL, NULL, (void *)p->w, x, l, 32, NULL, &sum, part);
            if (l < end)
                lp_group_base(0, 1, D, M, NULL, NULL, (void *)p->w, x, l, (int)(end - l), NULL, &sum, part);
            if (D == 32 || M == 32) {
                double *sums = (double *)p->sums + 32 * b;
                for (int lane = 0; lane < 32; lane++)
                    sums[lane] = sums[lane] + (double)part[lane];
            }
        }
        if (D != 32 && M != 32)
            ((int64_t *)p->sums)[b] += sum;
    }
}

#endif
