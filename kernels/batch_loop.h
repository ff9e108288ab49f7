/* Training on mini-batches: w <- w - step * (sum of the batch's gradients), one write of the model for each batch. Every derivative
 * of a batch is taken at the same model and intercept. A G term rounds the sum before the model is touched.
 *
 * One pass over the model does the update of batch k and the products of batch k + 1, LP_COLUMNS at a time: so the model is read
 * and written once for each batch, and its piece stays in a near cache while the rows go by.
 *
 * Included by each isa_NAME.c: between two passes lies the scalar work on as many examples as a batch has, and with short rows
 * that is a good part of the time. LP_SLOPES and LP_ROUND_STEPS may do the first of them in vectors; they return how many.
 * LP_CLOSE is lp_update_close. */
#ifndef LP_BATCH_LOOP_H
#define LP_BATCH_LOOP_H

/* Columns of v at a time: v, the model's piece and what goes by share the first-level cache. */
#define LP_PIECE_V 1024

/* The random words of one write; for mt19937 the room for them, which `words` fills piece by piece. */
static void *lp_begin(int R, int64_t refresh, int64_t *left, uint64_t block[8], lp_rng *rng, void *words)
{
    if (R == LP_SR && (*left)-- == 0) {
        lp_rng_draw(rng->lane);
        memcpy(block, rng->lane, 64);
        *left = refresh - 1;
    }
    return R == LP_SR ? (void *)block : R == LP_SRX ? (void *)rng->lane : R == LP_SRB ? words : NULL;
}

/* The pending update of columns [j, j + n) through v. */
static void lp_update_v(lp_sgd *g, lp_batch *t, uint8_t *w, int64_t j, int64_t n, void *random, void *random_v)
{
    const lp_products none = {0};
    for (int64_t l = 0; l < n; l += LP_PIECE_V) {
        const int64_t k = n - l < LP_PIECE_V ? n - l : LP_PIECE_V;
        memset(t->v, 0, (size_t)lp_bytes(t->G, k + (k & 1)));
        if (t->rounding_v == LP_SRB)
            lp_mt19937_fill(t->mt, t->words, k, t->D);
        t->step_v(&t->update, &none, t->v, j + l, k, random_v);
        if (t->rounding == LP_SRB)
            lp_mt19937_fill(g->mt, g->words, k, t->G);
        t->axpy(&t->axpy_step, t->v, w + lp_bytes(t->M, l), k, random);
    }
}

/* Where the rows at `count` positions from the first-th on begin. */
LP_INLINE void lp_find_rows(const lp_sgd *g, int64_t first, int64_t count, const uint8_t **x)
{
    const uint8_t *const start = g->x + first * g->row_stride;
    const int64_t stride = g->row_stride;
    for (int64_t i = 0; g->order && i < count; i++)
        x[i] = g->x + g->order[first + i] * stride;
    for (int64_t i = 0; !g->order && i < count; i++)
        x[i] = start + i * stride;
}

/* What to prefetch while the products from column j on are taken. Long rows are read in runs, and the hardware needs a while to find
 * out about a new one: the run that comes next. Of rows that are one run, what lies g->ahead bytes further. */
static void lp_look_ahead(lp_sgd *g, lp_batch *t, int64_t first, int64_t last, int64_t j)
{
    lp_products *const p = &t->next;
    const int64_t offset = lp_bytes(t->D, j);
    if (g->n <= LP_COLUMNS) {
        const int64_t further = (g->ahead + g->row_stride - 1) / g->row_stride, left = last - first - further;
        const int64_t there = left < 0 ? 0 : left < p->count ? left : p->count;
        lp_find_rows(g, first + further, there, p->ahead);
        for (int64_t b = there; b < p->count; b++)
            p->ahead[b] = p->x[b];
        return;
    }
    const int64_t next = j + LP_COLUMNS < g->n ? lp_bytes(t->D, j + LP_COLUMNS) : offset;
    for (int64_t b = 0; b < p->count; b++)
        p->ahead[b] = b + LP_ABREAST < p->count ? p->x[b + LP_ABREAST] + offset : p->x[(b + LP_ABREAST) % p->count] + next;
}

/* Do the steps of the rows of a batch take a number each of the scalar generator? */
LP_INLINE int lp_steps_draw(const lp_batch *t)
{
    const int F = t->G ? t->G : t->M; /* what the rows are added to */
    return !t->integer && t->D != 32 && F != 32 && (t->G ? t->rounding_v : t->rounding) != LP_NEAREST;
}

/* The pending update, if there is one, and the products of the next batch's rows: those with a piece of the model while the next
 * piece is updated. */
static void lp_pass(lp_sgd *g, lp_batch *t, int64_t first, int64_t last)
{
    const lp_update none = {0};
    lp_products *const p = &t->next;
    const int64_t rows = p->count, pieces = (g->n + LP_COLUMNS - 1) / LP_COLUMNS;
    const int update = t->update.count > 0, direct = update && !t->G;
    void *random = NULL, *random_v = NULL;
    if (update) {
        random = lp_begin(t->rounding, g->refresh, &g->refresh_left, g->block, &g->rng, g->words);
        if (t->G)
            random_v = lp_begin(t->rounding_v, g->refresh, &t->refresh_left, t->block, &t->rng, t->words);
    }
    p->count = p->n = 0;
    int64_t drawn = lp_steps_draw(t) ? 0 : rows;
    uint64_t draw = (t->G ? t->rng : g->rng).scalar;
    for (int64_t k = 0; k <= pieces; k++) {
        /* One number waits for the other: some at a time, so that what follows is done meanwhile. What is not used is not taken. */
        for (; drawn < rows * (k + 1) / (pieces + 1); drawn++)
            t->draws[drawn] = draw = lp_xorshift64(draw);
        const int64_t j = k == pieces ? g->n : k * LP_COLUMNS;
        const int64_t n = g->n - j < LP_COLUMNS ? g->n - j : LP_COLUMNS;
        uint8_t *const w = (uint8_t *)g->w + lp_bytes(t->M, j);
        if (update && t->G)
            lp_update_v(g, t, w, j, n, random, random_v);
        if (direct && t->rounding == LP_SRB)
            lp_mt19937_fill(g->mt, g->words, n, t->D);
        t->step(direct && n > 0 ? &t->update : &none, p, w, j, n, direct ? random : NULL);
        p->count = rows;
        if (k < pieces) {
            p->w = w;
            p->j = j;
            p->n = n;
            lp_look_ahead(g, t, first, last, j);
        }
    }
    t->update.count = 0;
}

/* The derivatives of the examples from position first on, times factor and weight, and what they add to the intercept. Returns 0 where a
 * product is not finite, which is noted. */
LP_INLINE int lp_slopes(int kind, int floats, lp_sgd *g, lp_batch *t, int64_t first, double factor, double *shift)
{
    const int64_t count = t->next.count;
    int finite;
    for (int64_t i = floats ? 0 : LP_SLOPES(kind, g, t, first, factor); i < count; i++) {
        const int64_t row = g->order ? g->order[first + i] : first + i;
        const double z = floats ? lp_tree((double *)t->next.sums + 32 * i) : (double)((int64_t *)t->next.sums)[i];
        t->slope[i] = lp_example_step(g, kind, row, z, factor, &finite);
        if (!finite) {
            g->bad_row = row;
            return 0;
        }
        if (g->intercept && t->slope[i] != 0.0)
            *shift += lp_example_step(g, kind, row, z, g->intercept_step, &finite);
    }
    return 1;
}

/* The rows whose slope is not zero become those of the update. */
static void lp_take_rows(lp_batch *t)
{
    double *const slope = t->slope;
    const int64_t all = t->next.count;
    int64_t count = 0;
    for (int64_t i = 0; i < all; i++)
        count += slope[i] != 0.0;
    if (count == all) {
        const uint8_t **const x = t->update.x;
        t->update.x = t->next.x;
        t->next.x = x;
    } else {
        int64_t k = 0;
        for (int64_t i = 0; i < all; i++)
            if (slope[i] != 0.0) {
                t->update.x[k] = t->next.x[i];
                slope[k++] = slope[i];
            }
    }
    t->update.count = count;
}

/* From the products of the examples from position first on to the update that is now pending; to none where one of them is not finite. */
static void lp_steps(lp_sgd *g, lp_batch *t, int64_t first)
{
    lp_update *const u = &t->update;
    lp_rng *const rng = t->G ? &t->rng : &g->rng;
    const int D = t->D, F = t->G ? t->G : t->M;
    const int stochastic = (t->G ? t->rounding_v : t->rounding) != LP_NEAREST, integers = D != 32 && F != 32;
    const double factor = t->G ? 1.0 : g->step_scale * 65536.0;
    double shift = 0.0, total = 0.0, scale = 1.0;
    int finite;
    if (D == 32 || t->M == 32)
        finite = lp_slopes(g->loss.kind, 1, g, t, first, factor, &shift);
    else if (g->loss.kind == LP_LOGISTIC)
        finite = lp_slopes(LP_LOGISTIC, 0, g, t, first, factor, &shift);
    else
        finite = lp_slopes(g->loss.kind, 0, g, t, first, factor, &shift);
    if (!finite)
        return;
    lp_take_rows(t);
    if (u->count == 0)
        return;
    if (t->G) {
        for (int64_t b = 0; b < u->count; b++)
            total += t->slope[b] < 0.0 ? -t->slope[b] : t->slope[b];
        scale = t->G == 32 ? 65536.0 : t->to_codes * 65536.0 / total;
    }
    if (stochastic && integers)
        rng->scalar = t->draws[u->count - 1];
    for (int64_t b = integers ? LP_ROUND_STEPS(u, t->slope, scale, stochastic, t->draws) : 0; b < u->count; b++) {
        lp_step step;
        lp_make_step16(&step, t->slope[b] * scale, D, F, stochastic, integers && stochastic ? t->draws[b] : 0);
        lp_update_set(u, b, &step);
    }
    LP_CLOSE(u);
    if (t->G) {
        const int rounds = t->rounding != LP_NEAREST;
        uint64_t draw = 0;
        if (rounds && t->G != 32)
            draw = g->rng.scalar = lp_xorshift64(g->rng.scalar);
        lp_make_step(&t->axpy_step, t->G == 32 ? t->to_model : total * t->to_model, t->G, t->M, rounds, draw);
    }
    if (g->intercept)
        *g->intercept = *g->intercept + shift;
}

/* The same in the all-integer mode. */
static void lp_integer_steps(lp_sgd *g, lp_batch *t, int64_t first)
{
    lp_update *const u = &t->update;
    const lp_integer *const integer = t->integer;
    const int32_t e = integer->exponent;
    for (int64_t i = 0; i < t->next.count; i++) {
        const int64_t row = g->order ? g->order[first + i] : first + i;
        t->slope[i] = lp_integer_mu(integer, ((int64_t *)t->next.sums)[i], integer->label[row]);
    }
    lp_take_rows(t);
    for (int64_t b = 0; b < u->count; b++) {
        const int32_t mu = (int32_t)t->slope[b], size = mu < 0 ? -mu : mu;
        const int small = size <= 32767 >> e; /* then the same number without an e, with which the bodies are faster */
        u->mu[b] = small ? mu * (1 << e) : mu;
        u->e[b] = small ? 0 : e;
    }
    if (u->count > 0)
        LP_CLOSE(u);
}

/* lp_pass in two: the products first, so that they do not see the pending update. */
static void lp_late_pass(lp_sgd *g, lp_batch *t, int64_t first, int64_t last)
{
    const int64_t rows = t->next.count, pending = t->update.count;
    t->update.count = 0;
    lp_pass(g, t, first, last);
    t->update.count = pending;
    t->next.count = 0;
    if (pending > 0)
        lp_pass(g, t, first, last);
    t->next.count = rows;
}

/* One worker's share of an epoch, as the rows `sgd` do it. The batches begin at first, so a caller that cuts an epoch into calls
 * cuts it at multiples of the batch's size; the last batch of a call may be shorter. */
static void lp_batch_loop(lp_sgd *g, int64_t first, int64_t last)
{
    lp_batch *const t = g->batch;
    const size_t width = t->D == 32 || t->M == 32 ? 32 * sizeof(double) : sizeof(int64_t);
    t->next.count = 0;
    if (last < first && t->update.count > 0)
        lp_pass(g, t, first, last);
    for (; first < last; first += t->next.count) {
        t->next.count = last - first < t->size ? last - first : t->size;
        lp_find_rows(g, first, t->next.count, t->next.x);
        memset(t->next.sums, 0, (size_t)t->next.count * width);
        if (t->integer && t->integer->delay)
            lp_late_pass(g, t, first, last);
        else
            lp_pass(g, t, first, last);
        if (t->integer)
            lp_integer_steps(g, t, first);
        else
            lp_steps(g, t, first);
        if (g->bad_row >= 0)
            return;
    }
}

#endif
