/* The training loop of one worker, around an always-inline body: what it needs of its unit is LP_BODY, LP_DRAW, LP_WHOLE and
 * LP_REGULAR, see stamp.h. */
#define LP_AHEAD(x) ((const uint8_t *)(x) + LP_DISTANCE)

/* The random words of a worker's next axpy. */
LP_INLINE void *lp_sgd_random(lp_sgd *g, int D, int R)
{
    if (R == LP_SR) {
        if (g->refresh_left == 0) {
            LP_DRAW(g->rng.lane, g->block);
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

/* The product of the example at row, and with it the update that is still pending. */
LP_INLINE lp_sum lp_sgd_first(int D, int M, int R, lp_sgd *g, const uint8_t *x)
{
    if (!g->pending)
        return LP_BODY(1, 0, 1, D, M, R, &g->step, NULL, g->w, x, g->n, NULL, LP_AHEAD(x));
    void *random = lp_sgd_random(g, D, R);
    g->pending = 0;
    return LP_BODY(1, 1, 1, D, M, R, &g->step, g->pending_x, g->w, x, g->n, random, LP_AHEAD(x));
}

/* One worker's share of an epoch, from the product z of the example at position i: derivative, step, then the fused
 * update-and-product with the next example, the model read once. The last update stays pending, for the next call: the bits
 * do not depend on where an epoch is cut. Stops before last where the body's main road does not lead on (a remainder, an
 * irregular step); without calls inside, the loop stays in registers. Returns the position to go on from. */
LP_INLINE int64_t lp_sgd_loop(int D, int M, int R, lp_sgd *g, lp_sum z, int64_t i, int64_t last)
{
    const int integer_step = D != 32 && M != 32;
    const int64_t n = g->n, distance = g->ahead;
    const int64_t rows_ahead = (distance + g->row_stride - 1) / g->row_stride;
    const int kind = g->loss.kind, stochastic = g->stochastic, whole = LP_WHOLE(D, M, n);
    const double step_scale = g->step_scale * 65536.0;
    void *const w = g->w;
    int64_t row = g->order ? g->order[i] : i;
    for (;;) {
        const uint8_t *const x = g->x + row * g->row_stride;
        int finite;
        const double t = lp_example_step(g, kind, row, z.f, step_scale, &finite);
        if (__builtin_expect(!finite, 0)) {
            g->bad_row = row;
            return last;
        }
        lp_step step = {0};
        if (t != 0.0) {
            uint64_t draw = 0;
            if (integer_step && stochastic)
                draw = g->rng.scalar = lp_xorshift64(g->rng.scalar);
            lp_make_step16(&step, t, D, M, stochastic, draw);
            if (g->intercept)
                *g->intercept += lp_example_step(g, kind, row, z.f, g->intercept_step, &finite);
        }
        if (++i == last || !whole || __builtin_expect(!LP_REGULAR(D, M, &step), 0)) {
            g->pending = t != 0.0;
            g->pending_x = x;
            g->step = step;
            return i;
        }
        row = g->order ? g->order[i] : i;
        const uint8_t *const xn = g->x + row * g->row_stride;
        const uint8_t *ahead = xn + distance;
        if (g->order && distance) /* the same column of a later row */
            ahead = g->x + g->order[i + rows_ahead < last ? i + rows_ahead : i] * g->row_stride;
        if (t != 0.0)
            z = LP_BODY(0, 1, 1, D, M, R, &step, x, w, xn, n, lp_sgd_random(g, D, R), ahead);
        else
            z = LP_BODY(0, 0, 1, D, M, R, &step, NULL, w, xn, n, NULL, ahead);
    }
}
