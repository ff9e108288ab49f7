/* Sparse rows: their weights to a dense piece and back, and the training loop.
 *
 * Everything arithmetic is left to the dense kernels: gather the weights of the row's entries, dot, axpy, scatter them back. So the
 * bits are those of the dense contract, with j the number of the stored entry in its row. Positions are distinct within a row, which
 * makes the scatter exact, 4-bit models included: there two entries may share a byte, and are put one after the other. */
#include "sparse.h"
#include "scalar.h"

/* The position of every entry in turn: f(j, position). I and differences are compile-time constants. */
LP_INLINE int64_t lp_index_at(int I, const void *index, int64_t j)
{
    return I == 8 ? ((const uint8_t *)index)[j] : I == 16 ? ((const uint16_t *)index)[j] : (int64_t)((const uint32_t *)index)[j];
}

LP_INLINE void lp_move_one(int M, const void *from, int64_t i, void *to, int64_t j)
{
    if (M == 32)
        ((float *)to)[j] = ((const float *)from)[i];
    else
        lp_put(to, M, j, lp_get(from, M, i));
}

LP_INLINE void lp_gather(int I, int differences, int M, const void *index, int64_t k, const void *w, void *scratch)
{
    int64_t at = -1;
    for (int64_t j = 0; j < k; j++) {
        at = differences ? at + lp_index_at(I, index, j) : lp_index_at(I, index, j);
        lp_move_one(M, w, at, scratch, j);
    }
}

LP_INLINE void lp_scatter(int I, int differences, int M, const void *index, int64_t k, const void *scratch, void *w)
{
    int64_t at = -1;
    for (int64_t j = 0; j < k; j++) {
        at = differences ? at + lp_index_at(I, index, j) : lp_index_at(I, index, j);
        lp_move_one(M, scratch, j, w, at);
    }
}

#define LP_DEF_MOVES(I, M) \
    void lp_gather_##I##_##M(const void *index, int differences, int64_t k, const void *w, void *scratch) \
    { \
        if (differences) \
            lp_gather(I, 1, LP_BITS_##M, index, k, w, scratch); \
        else \
            lp_gather(I, 0, LP_BITS_##M, index, k, w, scratch); \
    } \
    void lp_scatter_##I##_##M(const void *index, int differences, int64_t k, const void *scratch, void *w) \
    { \
        if (differences) \
            lp_scatter(I, 1, LP_BITS_##M, index, k, scratch, w); \
        else \
            lp_scatter(I, 0, LP_BITS_##M, index, k, scratch, w); \
    }
LP_INDEX_MODELS(LP_DEF_MOVES)

#define LP_CASE_GATHER(I, M) \
    case I << 8 | LP_BITS_##M: \
        return lp_gather_##I##_##M;
#define LP_CASE_SCATTER(I, M) \
    case I << 8 | LP_BITS_##M: \
        return lp_scatter_##I##_##M;

lp_gather_fn lp_find_gather(int index_bits, int M)
{
    switch (index_bits << 8 | M) {
        LP_INDEX_MODELS(LP_CASE_GATHER)
    }
    return NULL;
}

lp_scatter_fn lp_find_scatter(int index_bits, int M)
{
    switch (index_bits << 8 | M) {
        LP_INDEX_MODELS(LP_CASE_SCATTER)
    }
    return NULL;
}

/* ---- checking an index ---- */

LP_INLINE int64_t lp_end(int I, int differences, const void *index, int64_t k)
{
    uint64_t sum = 0;
    int rises = 1;
    if (k == 0)
        return 0;
    if (differences) {
        for (int64_t j = 0; j < k; j++) {
            sum += (uint64_t)lp_index_at(I, index, j);
            rises &= lp_index_at(I, index, j) != 0;
        }
        return rises ? (int64_t)sum : -1;
    }
    for (int64_t j = 1; j < k; j++)
        rises &= lp_index_at(I, index, j - 1) < lp_index_at(I, index, j);
    return rises ? lp_index_at(I, index, k - 1) + 1 : -1;
}

/* How many weights a row of k entries needs, one more than its last position; -1 where its positions do not rise. */
int64_t lp_sparse_end(const void *index, int index_bits, int differences, int64_t k)
{
    if (differences)
        return index_bits == 8 ? lp_end(8, 1, index, k) : index_bits == 16 ? lp_end(16, 1, index, k) : lp_end(32, 1, index, k);
    return index_bits == 8 ? lp_end(8, 0, index, k) : index_bits == 16 ? lp_end(16, 0, index, k) : lp_end(32, 0, index, k);
}

/* The first row whose entries are not within the arrays, or whose positions do not rise within [0, n); -1 if there is none, and
 * then *longest is the most entries of a row. */
int64_t lp_sparse_fault(const int64_t *indptr, int64_t rows, int64_t entries, const void *index, int index_bits, int differences,
                        int64_t n, int64_t *longest)
{
    const uint8_t *bytes = (const uint8_t *)index;
    *longest = 0;
    for (int64_t i = 0; i < rows; i++) {
        const int64_t k = indptr[i + 1] - indptr[i];
        if (indptr[i] < 0 || k < 0 || indptr[i + 1] > entries)
            return i;
        const int64_t end = lp_sparse_end(bytes + indptr[i] * (index_bits / 8), index_bits, differences, k);
        if (end < 0 || end > n)
            return i;
        *longest = k > *longest ? k : *longest;
    }
    return -1;
}

/* ---- training ---- */

/* The random words of the next axpy, k entries. */
static void *words_of(lp_sgd *g, int64_t k)
{
    switch (g->sparse->rounding) {
    case LP_SR:
        if (g->refresh_left == 0) {
            lp_rng_draw(g->rng.lane);
            memcpy(g->block, g->rng.lane, 64);
            g->refresh_left = g->refresh;
        }
        g->refresh_left--;
        return g->block;
    case LP_SRX:
        return g->rng.lane;
    case LP_SRB:
        lp_mt19937_fill(g->mt, g->words, k, g->sparse->D);
        return g->words;
    }
    return NULL;
}

/* One worker's share of an epoch. An update is applied at once: nothing is ever pending. */
void lp_sparse_sgd(lp_sgd *g, int64_t first, int64_t last)
{
    const lp_sparse *const s = g->sparse;
    const int integer_step = s->D != 32 && s->M != 32, stochastic = g->stochastic;
    const double step_scale = g->step_scale * 65536.0;
    for (int64_t i = first; i < last; i++) {
        const int64_t row = g->order ? g->order[i] : i;
        const int64_t begin = s->indptr[row], k = s->indptr[row + 1] - begin;
        const uint8_t *const x = g->x + (s->D == 4 ? (begin + row) / 2 : begin * (s->D / 8));
        const uint8_t *const index = s->index + begin * (s->index_bits / 8);
        s->gather(index, s->differences, k, g->w, s->scratch);
        const lp_sum z = s->dot(x, s->scratch, k);

        const double y = g->y[row], weight = g->weight ? (double)g->weight[row] : 1.0;
        const double b = g->intercept ? *g->intercept : 0.0;
        int finite;
        const double t = lp_loss_step(g->loss, z.f, g->dot_scale, b, y, step_scale * weight, &finite);
        if (!finite) {
            g->bad_row = row;
            return;
        }
        if (t == 0.0)
            continue;
        lp_step step;
        uint64_t draw = 0;
        if (integer_step && stochastic)
            draw = g->rng.scalar = lp_xorshift64(g->rng.scalar);
        lp_make_step16(&step, t, s->D, s->M, stochastic, draw);
        if (g->intercept)
            *g->intercept = b + lp_loss_step(g->loss, z.f, g->dot_scale, b, y, g->intercept_step * weight, &finite);
        s->axpy(&step, x, s->scratch, k, words_of(g, k));
        s->scatter(index, s->differences, k, s->scratch, g->w);
    }
}
