/* Training on mini-batches: w <- w - step * (sum of the batch's gradients), one write of the model for each batch. Every derivative
 * of a batch is taken at the same model and intercept. A G term rounds the sum before the model is touched.
 *
 * One pass over the model does the update of batch k and the products of batch k + 1, LP_BLOCK columns at a time: so the
 * model is read and written once for each batch, and its piece stays in the first-level cache while the rows go by. */
#include "scalar.h"

/* Columns of v at a time: v, the model's piece and what goes by share the first-level cache. */
#define LP_PIECE_V 1024

/* One more row for the next update. */
void lp_update_add(lp_update *u, const uint8_t *x, const lp_step *step)
{
    const int64_t b = u->count++;
    if (b == 0) {
        u->reach = 0;
        u->e = 0;
    }
    u->x[b] = u->x[b + 1] = x;
    u->steps[b] = *step;
    if (b & 1)
        u->pairs[b >> 1] |= (int32_t)((uint32_t)step->mu << 16);
    else
        u->pairs[b >> 1] = step->mu & 0xFFFF;
    u->reach += (int64_t)(step->mu < 0 ? -step->mu : step->mu) << step->e;
    u->e = step->e > u->e ? step->e : u->e;
}

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

/* The pending update, if there is one, and the products of the next batch's rows. */
static void lp_pass(lp_sgd *g, lp_batch *t)
{
    const lp_update none = {0};
    const int update = t->update.count > 0;
    void *random = NULL, *random_v = NULL;
    if (update) {
        random = lp_begin(t->rounding, g->refresh, &g->refresh_left, g->block, &g->rng, g->words);
        if (t->G)
            random_v = lp_begin(t->rounding_v, g->refresh, &t->refresh_left, t->block, &t->rng, t->words);
    }
    for (int64_t j = 0; j < g->n; j += LP_BLOCK) {
        const int64_t n = g->n - j < LP_BLOCK ? g->n - j : LP_BLOCK;
        uint8_t *const w = (uint8_t *)g->w + lp_bytes(t->M, j);
        const int direct = update && !t->G;
        if (direct && t->rounding == LP_SRB)
            lp_mt19937_fill(g->mt, g->words, n, t->D);
        if (update && t->G)
            lp_update_v(g, t, w, j, n, random, random_v);
        t->step(direct ? &t->update : &none, &t->next, w, j, n, direct ? random : NULL);
    }
    t->update.count = 0;
}

/* From the products of the examples at positions first .. first + count - 1 to the update that is now pending: none where one of
 * them is not finite, which is noted. */
static void lp_steps(lp_sgd *g, lp_batch *t, int64_t first)
{
    const int floats = t->D == 32 || t->M == 32;
    const double b = g->intercept ? *g->intercept : 0.0;
    const double factor = t->G ? 1.0 : g->step_scale * 65536.0;
    double shift = 0.0, total = 0.0;
    int finite;
    for (int64_t i = 0; i < t->next.count; i++) {
        const int64_t row = g->order ? g->order[first + i] : first + i;
        const double z = floats ? lp_tree((double *)t->next.sums + 32 * i) : (double)((int64_t *)t->next.sums)[i];
        const double y = g->y[row], weight = g->weight ? (double)g->weight[row] : 1.0;
        const double s = lp_loss_step(g->loss, z, g->dot_scale, b, y, factor * weight, &finite);
        if (!finite) {
            g->bad_row = row;
            return;
        }
        t->slope[i] = s;
        total += s < 0.0 ? -s : s;
        if (g->intercept && s != 0.0)
            shift += lp_loss_step(g->loss, z, g->dot_scale, b, y, g->intercept_step * weight, &finite);
    }
    lp_rng *const rng = t->G ? &t->rng : &g->rng;
    const int F = t->G ? t->G : t->M; /* what the rows are added to */
    const int stochastic = (t->G ? t->rounding_v : t->rounding) != LP_NEAREST;
    const double to_codes = t->G == 0 ? 1.0 : t->G == 32 ? 65536.0 : t->to_codes * 65536.0 / total;
    for (int64_t i = 0; i < t->next.count; i++) {
        if (t->slope[i] == 0.0)
            continue;
        lp_step step;
        uint64_t draw = 0;
        if (stochastic && t->D != 32 && F != 32)
            draw = rng->scalar = lp_xorshift64(rng->scalar);
        lp_make_step16(&step, t->slope[i] * to_codes, t->D, F, stochastic, draw);
        lp_update_add(&t->update, t->next.x[i], &step);
    }
    if (t->update.count > 0 && t->G) {
        uint64_t draw = 0;
        if (t->rounding != LP_NEAREST && t->G != 32)
            draw = g->rng.scalar = lp_xorshift64(g->rng.scalar);
        lp_make_step(&t->axpy_step, t->G == 32 ? t->to_model : total * t->to_model, t->G, t->M, t->rounding != LP_NEAREST, draw);
    }
    if (t->update.count > 0 && g->intercept)
        *g->intercept = b + shift;
}

/* One worker's share of an epoch, as the rows `sgd` do it. The batches begin at first, so a caller that cuts an epoch into calls
 * cuts it at multiples of the batch's size; the last batch of a call may be shorter. */
void lp_batch_sgd(lp_sgd *g, int64_t first, int64_t last)
{
    lp_batch *const t = g->batch;
    const size_t width = t->D == 32 || t->M == 32 ? 32 * sizeof(double) : sizeof(int64_t);
    t->next.count = 0;
    if (last < first && t->update.count > 0)
        lp_pass(g, t);
    for (; first < last; first += t->next.count) {
        t->next.count = last - first < t->size ? last - first : t->size;
        for (int64_t i = 0; i < t->next.count; i++)
            t->next.x[i] = g->x + (g->order ? g->order[first + i] : first + i) * g->row_stride;
        memset(t->next.sums, 0, (size_t)t->next.count * width);
        lp_pass(g, t);
        lp_steps(g, t, first);
        if (g->bad_row >= 0)
            return;
    }
}
