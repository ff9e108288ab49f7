/* Sparse rows: their weights to a dense piece and back, and the training loop.
 *
 * Everything arithmetic is left to the dense kernels: gather the weights of the row's entries, dot, axpy, scatter them back. So the
 * bits are those of the dense contract, with j the number of the stored entry in its row. Positions are distinct within a row, which
 * makes the scatter exact, 4-bit models included: there two entries may share a byte, and are put one after the other. */
#include "sparse.h"
#include "scalar.h"

/* Eight bytes as a little-endian number. */
LP_INLINE uint64_t lp_word64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    v = __builtin_bswap64(v);
#endif
    return v;
}

/* The u-th field of a word of bytes or of 16-bit numbers, asked for in turn. Bytes by pairs, for on x86 the second byte of a register
 * needs no shift; the empty asm keeps the compiler from making every shift one of the whole word, which takes a copy. */
LP_INLINE uint32_t lp_field(int bits, int u, uint64_t *word)
{
    const uint64_t v = *word;
    if (bits == 16) {
        *word = v >> 16;
        return (uint16_t)v;
    }
    if (u % 2 == 0)
        return (uint8_t)v;
    *word = v >> 16;
    __asm__("" : "+r"(*word));
    return (uint8_t)(v >> 8);
}

LP_INLINE uint32_t lp_index_at(int I, const void *index, int64_t j)
{
    return I == 8 ? ((const uint8_t *)index)[j] : I == 16 ? ((const uint16_t *)index)[j] : ((const uint32_t *)index)[j];
}

/* Where an entry's weight is: the number of its first byte, or of its nibble. Where differences are added up it is the address that
 * is, which saves an addition each. The first difference is one more than a position: so it begins one weight before w. */
LP_INLINE uintptr_t lp_place_first(int differences, int M, const void *w)
{
    return !differences ? 0 : M == 4 ? (uintptr_t)-1 : (uintptr_t)w - (uintptr_t)(M / 8);
}

LP_INLINE uintptr_t lp_place_next(int differences, int M, uintptr_t place, uint32_t index)
{
    return (differences ? place : 0) + (M == 4 ? index : (uintptr_t)index * (uintptr_t)(M / 8));
}

LP_INLINE uint8_t *lp_place_of(int differences, int M, const void *w, uintptr_t place)
{
    return M == 4 ? (uint8_t *)w + (place >> 1) : differences ? (uint8_t *)place : (uint8_t *)w + place;
}

/* Weights as bits. */
LP_INLINE uint32_t lp_weight(int M, const uint8_t *p, uintptr_t place)
{
    return M == 4    ? *p >> (4 * (place & 1)) & 15
           : M == 8  ? *p
           : M == 16 ? *(const uint16_t *)(const void *)p
                     : *(const uint32_t *)(const void *)p;
}

LP_INLINE void lp_set_weight(int M, uint8_t *p, uintptr_t place, uint32_t v)
{
    const int shift = 4 * (int)(place & 1);
    if (M == 4)
        *p = (uint8_t)((*p & ~(15 << shift)) | v << shift);
    else if (M == 8)
        *p = (uint8_t)v;
    else if (M == 16)
        *(uint16_t *)(void *)p = (uint16_t)v;
    else
        *(uint32_t *)(void *)p = v;
}

/* Both moves are bound by the number of instructions, and by one store a cycle: so eight entries at a time, narrow numbers by words.
 * I, differences and M are compile-time constants; j is a multiple of 8, and place where entry j - 1 is. */
LP_INLINE uintptr_t lp_gather8(int I, int differences, int M, const uint8_t *index, int64_t j, uintptr_t place, const void *w,
                               uint8_t *scratch)
{
    uint64_t indexes = 0;
    uint32_t even = 0;
#pragma GCC unroll 8
    for (int u = 0; u < 8; u++) {
        if (I != 32 && u % (64 / I) == 0)
            indexes = lp_word64(index + (j + u) * (I / 8));
        place = lp_place_next(differences, M, place, I != 32 ? lp_field(I, u, &indexes) : lp_index_at(I, index, j + u));
        const uint32_t v = lp_weight(M, lp_place_of(differences, M, w, place), place);
        if (M != 4)
            lp_set_weight(M, scratch + (j + u) * (M / 8), 0, v);
        else if (u % 2 == 0)
            even = v;
        else
            scratch[(j + u) / 2] = (uint8_t)(even | v << 4);
    }
    return place;
}

LP_INLINE uintptr_t lp_scatter8(int I, int differences, int M, const uint8_t *index, int64_t j, uintptr_t place,
                                const uint8_t *scratch, void *w)
{
    const int words = M == 8 || M == 16;
    uint64_t indexes = 0, weights = 0;
#pragma GCC unroll 8
    for (int u = 0; u < 8; u++) {
        if (I != 32 && u % (64 / I) == 0)
            indexes = lp_word64(index + (j + u) * (I / 8));
        if (words && u % (64 / M) == 0)
            weights = lp_word64(scratch + (j + u) * (M / 8));
        place = lp_place_next(differences, M, place, I != 32 ? lp_field(I, u, &indexes) : lp_index_at(I, index, j + u));
        const uint32_t v = words ? lp_field(M, u, &weights) : lp_weight(M, scratch + (j + u) * M / 8, (uintptr_t)u);
        lp_set_weight(M, lp_place_of(differences, M, w, place), place, v);
    }
    return place;
}

/* Entries j .. k - 1, and the zeros behind them. */
LP_INLINE void lp_gather(int I, int differences, int M, const uint8_t *index, int64_t j, int64_t k, uintptr_t place,
                         const void *w, uint8_t *scratch)
{
    for (; j + 8 <= k; j += 8)
        place = lp_gather8(I, differences, M, index, j, place, w, scratch);
    memset(scratch + j * M / 8, 0, (8 + LP_SPARSE_GROUP) * (M == 4 ? 2 : M / 8));
    for (; j < k; j++) {
        place = lp_place_next(differences, M, place, lp_index_at(I, index, j));
        lp_set_weight(M, scratch + j * M / 8, (uintptr_t)j, lp_weight(M, lp_place_of(differences, M, w, place), place));
    }
}

LP_INLINE void lp_scatter(int I, int differences, int M, const uint8_t *index, int64_t j, int64_t k, uintptr_t place,
                          const uint8_t *scratch, void *w)
{
    for (; j + 8 <= k; j += 8)
        place = lp_scatter8(I, differences, M, index, j, place, scratch, w);
    for (; j < k; j++) {
        place = lp_place_next(differences, M, place, lp_index_at(I, index, j));
        lp_set_weight(M, lp_place_of(differences, M, w, place), place, lp_weight(M, scratch + j * M / 8, (uintptr_t)j));
    }
}

/* A row's weights back and the next row's out, LP_EXCHANGE entries at a time, so that the model is gone over once. Of the next row only
 * what does not lie beyond the entries that are back already: where the last of eight does, they have to wait, and are read again. */
#define LP_EXCHANGE 64
LP_INLINE void lp_exchange(int I, int differences, int M, const uint8_t *index, int64_t k, const uint8_t *scratch, void *w,
                           const uint8_t *index_next, int64_t k_next, uint8_t *scratch_next)
{
    uintptr_t place = lp_place_first(differences, M, w), place_next = place;
    int64_t j = 0, j_next = 0;
    while (j + LP_EXCHANGE <= k) {
        for (const int64_t end = j + LP_EXCHANGE; j < end; j += 8)
            place = lp_scatter8(I, differences, M, index, j, place, scratch, w);
        while (j_next + 8 <= k_next) {
            const uintptr_t after = lp_gather8(I, differences, M, index_next, j_next, place_next, w, scratch_next);
            if (after > place)
                break;
            place_next = after;
            j_next += 8;
        }
    }
    lp_scatter(I, differences, M, index, j, k, place, scratch, w);
    lp_gather(I, differences, M, index_next, j_next, k_next, place_next, w, scratch_next);
}

#define LP_DEF_MOVES(I, M) \
    void lp_gather_##I##_##M(const void *index, int differences, int64_t k, const void *w, void *scratch) \
    { \
        if (differences) \
            lp_gather(I, 1, LP_BITS_##M, index, 0, k, lp_place_first(1, LP_BITS_##M, w), w, scratch); \
        else \
            lp_gather(I, 0, LP_BITS_##M, index, 0, k, lp_place_first(0, LP_BITS_##M, w), w, scratch); \
    } \
    void lp_scatter_##I##_##M(const void *index, int differences, int64_t k, const void *scratch, void *w) \
    { \
        if (differences) \
            lp_scatter(I, 1, LP_BITS_##M, index, 0, k, lp_place_first(1, LP_BITS_##M, w), scratch, w); \
        else \
            lp_scatter(I, 0, LP_BITS_##M, index, 0, k, lp_place_first(0, LP_BITS_##M, w), scratch, w); \
    } \
    static void lp_exchange_##I##_##M(const void *index, int differences, int64_t k, const void *scratch, void *w, \
                                      const void *index_next, int64_t k_next, void *scratch_next) \
    { \
        if (differences) \
            lp_exchange(I, 1, LP_BITS_##M, index, k, scratch, w, index_next, k_next, scratch_next); \
        else \
            lp_exchange(I, 0, LP_BITS_##M, index, k, scratch, w, index_next, k_next, scratch_next); \
    }
LP_INDEX_MODELS(LP_DEF_MOVES)

#define LP_CASE_GATHER(I, M) \
    case I << 8 | LP_BITS_##M: \
        return lp_gather_##I##_##M;
#define LP_CASE_SCATTER(I, M) \
    case I << 8 | LP_BITS_##M: \
        return lp_scatter_##I##_##M;
#define LP_CASE_EXCHANGE(I, M) \
    case I << 8 | LP_BITS_##M: \
        return lp_exchange_##I##_##M;

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

lp_exchange_fn lp_find_exchange(int index_bits, int M)
{
    switch (index_bits << 8 | M) {
        LP_INDEX_MODELS(LP_CASE_EXCHANGE)
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
            sum += lp_index_at(I, index, j);
            rises &= lp_index_at(I, index, j) != 0;
        }
        return rises ? (int64_t)sum : -1;
    }
    for (int64_t j = 1; j < k; j++)
        rises &= lp_index_at(I, index, j - 1) < lp_index_at(I, index, j);
    return rises ? (int64_t)lp_index_at(I, index, k - 1) + 1 : -1;
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

/* The shared block is drawn as soon as it may be needed: its words then have long been stored when the axpy reads them. Nothing else
 * draws from these lanes, so the words are those of a block drawn at the last moment. */
static void draw_ahead(lp_sgd *g)
{
    if (g->sparse->rounding == LP_SR && g->refresh_left == 0) {
        lp_rng_draw(g->rng.lane);
        memcpy(g->block, g->rng.lane, 64);
        g->refresh_left = g->refresh;
    }
}

/* The random words of the next axpy, k entries. */
static void *words_of(lp_sgd *g, int64_t k)
{
    switch (g->sparse->rounding) {
    case LP_SR:
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

/* The dense kernels are fastest without a remainder, and rows of data follow each other: so they may read on into the next row, if
 * there is one, up to a whole number of groups. The weights there are zero, which leaves the sum as it is, and what an axpy makes of
 * them is not scattered. Fresh blocks for 32f data come every 16 entries: there a whole number of groups could draw one too many. */
LP_INLINE int64_t lp_whole_groups(const lp_sparse *s, const uint8_t *x, int64_t k)
{
    const int fresh = s->rounding == LP_SRX;
    const int64_t group = s->D == 4 && s->M == 4 && !fresh ? 2 * LP_SPARSE_GROUP : LP_SPARSE_GROUP;
    const int64_t whole = (k + group - 1) & -group;
    return (s->D == 32 && fresh) || s->x_end - x < lp_bytes(s->D, whole) ? k : whole;
}

/* The lines of the model that a row will touch. It pays where rows are short and the model lies beyond the caches that out-of-order
 * execution alone reaches past; see _sgd.pyx. */
LP_INLINE void lp_touch(int I, const lp_sgd *g, const uint8_t *index, int64_t k)
{
    const uint8_t *const w = (const uint8_t *)g->w;
    const int differences = g->sparse->differences, M = g->sparse->M;
    int64_t at = -1;
    for (int64_t j = 0; j < k; j++) {
        at = (differences ? at : 0) + (int64_t)lp_index_at(I, index, j);
        __builtin_prefetch(w + at * M / 8, 1, 3);
    }
}

static void touch_row(const lp_sgd *g, int64_t row)
{
    const lp_sparse *const s = g->sparse;
    const int64_t begin = s->indptr[row], k = s->indptr[row + 1] - begin;
    const uint8_t *const index = s->index + begin * (s->index_bits / 8);
    if (s->index_bits == 8)
        lp_touch(8, g, index, k);
    else if (s->index_bits == 16)
        lp_touch(16, g, index, k);
    else
        lp_touch(32, g, index, k);
}

/* One worker's share of an epoch. An update is applied at once: nothing is ever pending. */
void lp_sparse_sgd(lp_sgd *g, int64_t first, int64_t last)
{
    const lp_sparse *const s = g->sparse;
    const int integer_step = s->D != 32 && s->M != 32, stochastic = g->stochastic;
    const double step_scale = g->step_scale * 65536.0;
    void *scratch = s->scratch, *other = s->other;
    int gathered = 0; /* is the row's piece there already? */
    for (int64_t i = first; i < last; i++) {
        const int64_t row = g->order ? g->order[i] : i;
        const int64_t begin = s->indptr[row], k = s->indptr[row + 1] - begin;
        const uint8_t *const x = g->x + (s->D == 4 ? (begin + row) / 2 : begin * (s->D / 8));
        const uint8_t *const index = s->index + begin * (s->index_bits / 8);
        const int64_t whole = lp_whole_groups(s, x, k);
        draw_ahead(g);
        if (!gathered)
            s->gather(index, s->differences, k, g->w, scratch);
        gathered = 0;
        if (s->next_row && i + 1 < last)
            touch_row(g, g->order ? g->order[i + 1] : i + 1);
        lp_sum z = s->dot(x, scratch, whole);

        int finite;
        double t = lp_example_step(g, g->loss.kind, row, z.f, step_scale, &finite);
        if (__builtin_expect(!finite, 0)) { /* it may be the next row that is not */
            z = s->dot(x, scratch, k);
            t = lp_example_step(g, g->loss.kind, row, z.f, step_scale, &finite);
            if (!finite) {
                g->bad_row = row;
                return;
            }
        }
        if (t == 0.0)
            continue;
        lp_step step;
        uint64_t draw = 0;
        if (integer_step && stochastic)
            draw = g->rng.scalar = lp_xorshift64(g->rng.scalar);
        lp_make_step16(&step, t, s->D, s->M, stochastic, draw);
        if (g->intercept)
            *g->intercept += lp_example_step(g, g->loss.kind, row, z.f, g->intercept_step, &finite);
        s->axpy(&step, x, scratch, whole, words_of(g, k));
        if (s->exchange && i + 1 < last) {
            const int64_t next = g->order ? g->order[i + 1] : i + 1, at = s->indptr[next];
            s->exchange(index, s->differences, k, scratch, g->w, s->index + at * (s->index_bits / 8), s->indptr[next + 1] - at,
                        other);
            void *const now = other;
            other = scratch;
            scratch = now;
            gathered = 1;
        } else
            s->scatter(index, s->differences, k, scratch, g->w);
    }
}
