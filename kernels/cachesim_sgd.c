/* SGD whose products and updates read what the caches of a simulated machine hold: the arithmetic of the training loop
 * (sgd_loop.h, batch_loop.h), by the same kernels, a line at a time. On one core it gives the training loop's bits. */
#include <string.h>

#include "cachesim.h"
#include "scalar.h"

/* The element at byte `at` of the model. */
static int64_t element(const lp_learner *l, int64_t at) { return l->M == 4 ? 2 * at : at / (l->M / 8); }

static int64_t elements(const lp_learner *l, int64_t at, int64_t n_bytes)
{
    const int64_t first = element(l, at), last = element(l, at + n_bytes);
    return (last < l->n ? last : l->n) - first;
}

static void *words(lp_learner *l, lp_worker *w)
{
    return l->rounding == LP_SR ? (void *)w->block : l->rounding == LP_SRX ? (void *)w->rng.lane : NULL;
}

/* w += the batch's steps times its rows, for the bytes [at, at + n_bytes) of the model that stand in taken. */
static void update(lp_learner *l, lp_worker *w, int64_t at, int64_t n_bytes)
{
    const int64_t n = elements(l, at, n_bytes), offset = lp_bytes(l->D, element(l, at)); /* of these elements in a row of data */
    lp_update *const u = &w->update;
    if (u->count == 0 || n <= 0)
        return;
    if (l->batch == 1) {
        const lp_step step = {.magic = LP_MAGIC + u->mu[0], .mu = u->mu[0], .e = u->e[0], .m = u->m[0]};
        l->axpy(&step, u->x[0] + offset, w->taken, n, words(l, w));
        return;
    }
    /* To the kernel, the line's first column is column 0. */
    const lp_products none = {0};
    for (int64_t k = 0; k <= u->count; k++)
        u->x[k] += offset;
    l->step(u, &none, w->taken, 0, n, words(l, w));
    for (int64_t k = 0; k <= u->count; k++)
        u->x[k] -= offset;
}

/* The batch's derivatives, and the steps of its update. */
static void decide(lp_learner *l, lp_worker *w, int64_t row)
{
    const int integer_step = l->D != 32 && l->M != 32;
    lp_update *const u = &w->update;
    u->count = 0;
    for (int64_t k = 0; k < w->multiplied; k++) {
        int finite;
        const double t =
            lp_loss_step(l->loss.kind, &l->loss, w->sums[k], l->dot_scale, 0.0, w->y[row + k], l->step_scale * 65536.0, &finite);
        if (!finite && w->bad_row < 0)
            w->bad_row = row + k;
        if (!finite || t == 0.0)
            continue;
        uint64_t draw = 0;
        if (integer_step && l->stochastic)
            draw = w->rng.scalar = lp_xorshift64(w->rng.scalar);
        lp_step step;
        lp_make_step16(&step, t, l->D, l->M, l->stochastic, draw);
        u->x[u->count] = w->x + (row + k) * l->row_stride;
        lp_update_set(u, u->count++, &step);
    }
    w->multiplied = 0;
    if (u->count == 0)
        return;
    lp_update_close(u);
    if (l->rounding == LP_SR) {
        if (w->refresh_left == 0) {
            lp_rng_draw(w->rng.lane);
            memcpy(w->block, w->rng.lane, sizeof w->block);
            w->refresh_left = l->refresh;
        }
        w->refresh_left--;
    }
}

void lp_learner_act(lp_learner *l, int core, const lp_access *a, int64_t row)
{
    lp_worker *const w = &l->workers[core];
    const int64_t at = (int64_t)(a->address - l->address);
    uint8_t *const copy = l->copies[0] + core * l->n_bytes + at;
    if (a->actions & LP_TAKE)
        memcpy(w->taken, copy, a->size);
    if (a->actions & LP_UPDATE) {
        update(l, w, at, a->size);
        memcpy(copy, w->taken, a->size);
    }
    if (a->actions & LP_SEE)
        memcpy(w->seen + at, copy, a->size);
    if (a->actions & LP_MULTIPLY) {
        w->sums[a->row] = l->dot(w->x + (row + a->row) * l->row_stride, w->seen, l->n).f;
        w->multiplied++;
    }
    if (a->actions & LP_DECIDE)
        decide(l, w, row);
}

void lp_learner_flush(lp_learner *l, int cores)
{
    for (int core = 0; core < cores; core++) {
        lp_worker *const w = &l->workers[core];
        for (int64_t at = 0; at < l->n_bytes; at += LP_LINE) {
            memcpy(w->taken, l->memory + at, LP_LINE);
            update(l, w, at, LP_LINE);
            memcpy(l->memory + at, w->taken, LP_LINE);
        }
        w->update.count = 0;
    }
}
