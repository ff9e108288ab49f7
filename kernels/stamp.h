/* Stamps one complete table from LP_BODY. An ISA's unit defines LP_ISA (its name), LP_BODY (its always-inline body) and
 * LP_RUNNABLE (a function), then includes this file. */
#include "matrix.h"

#define LP_CAT_(a, b, c, d, e, f, g) a##b##c##d##e##f##g
#define LP_CAT(a, b, c, d, e, f, g) LP_CAT_(a, b, c, d, e, f, g)
#define LP_FN(op, D, M, suffix) LP_CAT(op, D, _, M, suffix, _, LP_ISA)
#define LP_STR_(x) #x
#define LP_STR(x) LP_STR_(x)

/* The random words of a worker's next axpy. */
LP_INLINE void *lp_sgd_random(lp_sgd *g, int D, int R)
{
    if (R == LP_SR) {
        if (g->refresh_left == 0) {
            lp_rng_draw(g->rng.lane);
            memcpy(g->block, g->rng.lane, sizeof g->block);
            g->refresh_left = g->refresh;
        }
        g->refresh_left--;
        return g->block;
    }
    if (R == LP_SRX)
        return g->rng.lane;
    if (R == LP_SRB) {
        lp_mt19937_fill(g->mt, g->words, g->n, D);
        return g->words;
    }
    return NULL;
}

/* One worker's share of an epoch: the fused update-and-product per example, the model read once. The bits do not depend on
 * where [first, last) is cut, because the update of its last example stays pending for the next call; last < first applies it. */
LP_INLINE void lp_sgd_body(int D, int M, int R, lp_sgd *g, int64_t first, int64_t last)
{
    const int integer_step = D != 32 && M != 32;
    void *const w = g->w;
    const int64_t n = g->n;
    const int loss = g->loss, stochastic = g->stochastic;
    int pending = g->pending;
    const uint8_t *x = g->pending_x;
    lp_step step = g->step;
    if (last < first && pending) {
        LP_BODY(1, 0, D, M, R, &step, x, w, NULL, n, lp_sgd_random(g, D, R));
        pending = 0;
    }
    for (int64_t i = first; i < last; i++) {
        const int64_t row = g->order ? g->order[i] : i;
        const uint8_t *xn = g->x + row * g->row_stride;
        const double y = g->y[row];
        const double scale = g->step_scale * (g->weight ? (double)g->weight[row] : 1.0);
        const double b = g->intercept ? *g->intercept : 0.0;
        lp_sum z;
        if (pending) {
            z = LP_BODY(1, 1, D, M, R, &step, x, w, xn, n, lp_sgd_random(g, D, R));
        } else
            z = LP_BODY(0, 1, D, M, R, &step, NULL, w, xn, n, NULL);
        int finite;
        const double d = lp_loss_derivative(loss, D == 32 || M == 32 ? z.f : (double)z.i, g->dot_scale, b, y, &finite);
        pending = 0;
        if (__builtin_expect(!finite, 0)) {
            if (g->bad_row < 0)
                g->bad_row = row;
            break;
        }
        if (d != 0.0) {
            uint64_t draw = 0;
            if (integer_step && stochastic)
                draw = g->rng.scalar = lp_xorshift64(g->rng.scalar);
            lp_make_step(&step, -d * scale, D, M, stochastic, draw);
            if (g->intercept)
                *g->intercept = b - g->intercept_step * d * (g->weight ? (double)g->weight[row] : 1.0);
            pending = 1;
            x = xn;
        }
    }
    g->pending = pending;
    g->pending_x = x;
    g->step = step;
}

/* ---- functions ---- */

#define LP_DEF_DOT(D, M) \
    static lp_sum LP_FN(dot_, D, M, )(const void *x, const void *w, int64_t n) \
    { \
        return LP_BODY(0, 1, LP_BITS_##D, LP_BITS_##M, LP_NEAREST, NULL, NULL, (void *)w, x, n, NULL); \
    }
#define LP_DEF_UPDATE(D, M, suffix, R) \
    static void LP_FN(axpy_, D, M, suffix)(const lp_step *s, const void *x, void *w, int64_t n, void *random) \
    { \
        LP_BODY(1, 0, LP_BITS_##D, LP_BITS_##M, R, s, x, w, NULL, n, random); \
    } \
    static lp_sum LP_FN(axpy_dot_, D, M, suffix)(const lp_step *s, const void *x, void *w, const void *xn, int64_t n, void *random) \
    { \
        return LP_BODY(1, 1, LP_BITS_##D, LP_BITS_##M, R, s, x, w, xn, n, random); \
    } \
    static void LP_FN(sgd_, D, M, suffix)(lp_sgd *job, int64_t first, int64_t last) \
    { \
        lp_sgd_body(LP_BITS_##D, LP_BITS_##M, R, job, first, last); \
    }
#define LP_DEF_FIXED(D, M) LP_DEF_DOT(D, M) LP_ROUNDINGS(LP_DEF_UPDATE, D, M)
#define LP_DEF_FLOAT(D, M) LP_DEF_DOT(D, M) LP_DEF_UPDATE(D, M, , LP_NEAREST)

LP_PAIRS_FIXED(LP_DEF_FIXED)
LP_PAIRS_FLOAT(LP_DEF_FLOAT)

/* ---- the table ---- */

#define LP_ROW(op, OP, D, M, suffix, R) \
    {LP_STR(LP_CAT(op, D, _, M, suffix, , )), OP, LP_BITS_##D, LP_BITS_##M, R, (void (*)(void))LP_FN(op, D, M, suffix)},
#define LP_ROW_UPDATE(D, M, suffix, R) \
    LP_ROW(axpy_, LP_AXPY, D, M, suffix, R) \
    LP_ROW(axpy_dot_, LP_AXPY_DOT, D, M, suffix, R) \
    LP_ROW(sgd_, LP_SGD, D, M, suffix, R)
#define LP_ROW_FIXED(D, M) LP_ROW(dot_, LP_DOT, D, M, , LP_NEAREST) LP_ROUNDINGS(LP_ROW_UPDATE, D, M)
#define LP_ROW_FLOAT(D, M) LP_ROW(dot_, LP_DOT, D, M, , LP_NEAREST) LP_ROW_UPDATE(D, M, , LP_NEAREST)

static const lp_kernel lp_rows[] = {LP_PAIRS_FIXED(LP_ROW_FIXED) LP_PAIRS_FLOAT(LP_ROW_FLOAT)};

const lp_isa LP_CAT(lp_isa_, LP_ISA, , , , , ) = {LP_STR(LP_ISA), lp_rows, (int)(sizeof lp_rows / sizeof lp_rows[0]), LP_RUNNABLE};
