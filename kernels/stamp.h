/* Stamps one complete table from LP_BODY. An ISA's unit defines LP_ISA (its name), LP_BODY (its always-inline body), LP_DRAW
 * (advance the lanes, copy them to a block), LP_BATCH_BODY (the body of mini-batches), LP_BATCH_LOOP (training on them), LP_WHOLE and
 * LP_REGULAR (when its body needs no rest) and LP_RUNNABLE (a function), then includes this file. */
#include "codec.h"
#include "matrix.h"
#include "sgd_loop.h"
#include "sparse.h"

#define LP_CAT_(a, b, c, d, e, f, g) a##b##c##d##e##f##g
#define LP_CAT(a, b, c, d, e, f, g) LP_CAT_(a, b, c, d, e, f, g)
#define LP_FN(op, D, M, suffix) LP_CAT(op, D, _, M, suffix, _, LP_ISA)
#define LP_STR_(x) #x
#define LP_STR(x) LP_STR_(x)

/* ---- functions ---- */

#define LP_DEF_DOT(D, M) \
    static lp_sum LP_FN(dot_, D, M, )(const void *x, const void *w, int64_t n) \
    { \
        return LP_BODY(1, 0, 1, LP_BITS_##D, LP_BITS_##M, LP_NEAREST, NULL, NULL, (void *)w, x, n, NULL, LP_AHEAD(x)); \
    }
#define LP_DEF_UPDATE(D, M, suffix, R) \
    static void LP_FN(axpy_, D, M, suffix)(const lp_step *s, const void *x, void *w, int64_t n, void *random) \
    { \
        LP_BODY(1, 1, 0, LP_BITS_##D, LP_BITS_##M, R, s, x, w, NULL, n, random, LP_AHEAD(x)); \
    } \
    static lp_sum LP_FN(axpy_dot_, D, M, suffix)(const lp_step *s, const void *x, void *w, const void *xn, int64_t n, \
                                                 void *random) \
    { \
        return LP_BODY(1, 1, 1, LP_BITS_##D, LP_BITS_##M, R, s, x, w, xn, n, random, LP_AHEAD(xn)); \
    } \
    static __attribute__((noinline)) lp_sum LP_FN(sgd_first_, D, M, suffix)(lp_sgd * g, const uint8_t *x) \
    { \
        return lp_sgd_first(LP_BITS_##D, LP_BITS_##M, R, g, x); \
    } \
    static void LP_FN(batch_, D, M, suffix)(const lp_update *u, const lp_products *p, void *w, int64_t j, int64_t n, \
                                            void *random) \
    { \
        LP_BATCH_BODY(LP_BITS_##D, LP_BITS_##M, R, u, p, w, j, n, random); \
    } \
    static void LP_FN(sgd_, D, M, suffix)(lp_sgd * g, int64_t first, int64_t last) \
    { \
        if (last < first && g->pending) { /* the pending update alone */ \
            void *random = lp_sgd_random(g, LP_BITS_##D, R); \
            LP_FN(axpy_, D, M, suffix)(&g->step, g->pending_x, g->w, g->n, random); \
            g->pending = 0; \
        } \
        while (first < last) { \
            const int64_t row = g->order ? g->order[first] : first; \
            const lp_sum z = LP_FN(sgd_first_, D, M, suffix)(g, g->x + row * g->row_stride); \
            first = lp_sgd_loop(LP_BITS_##D, LP_BITS_##M, R, g, z, first, last); \
        } \
    }

/* Sparse: the dense kernel on the row's weights, gathered. */
#define LP_DEF_SDOT(I, D, M) \
    static lp_sum LP_FN(sdot_i##I##_, D, M, )(const void *x, const void *index, int differences, int64_t k, const void *w, \
                                              void *scratch) \
    { \
        lp_gather_##I##_##M(index, differences, k, w, scratch); \
        return LP_FN(dot_, D, M, )(x, scratch, k); \
    }
#define LP_DEF_SAXPY(I, D, M, suffix) \
    static void LP_FN(saxpy_i##I##_, D, M, suffix)(const lp_step *s, const void *x, const void *index, int differences, \
                                                   int64_t k, void *w, void *scratch, void *random) \
    { \
        lp_gather_##I##_##M(index, differences, k, w, scratch); \
        LP_FN(axpy_, D, M, suffix)(s, x, scratch, k, random); \
        lp_scatter_##I##_##M(index, differences, k, scratch, w); \
    }
#define LP_DEF_SUPDATE(D, M, suffix, R) \
    LP_DEF_SAXPY(8, D, M, suffix) LP_DEF_SAXPY(16, D, M, suffix) LP_DEF_SAXPY(32, D, M, suffix)

#define LP_DEF_DOTS(D, M) LP_DEF_DOT(D, M) LP_INDEXES(LP_DEF_SDOT, D, M)
#define LP_DEF_UPDATES(D, M, suffix, R) LP_DEF_UPDATE(D, M, suffix, R) LP_DEF_SUPDATE(D, M, suffix, R)
#define LP_DEF_FIXED(D, M) LP_DEF_DOTS(D, M) LP_ROUNDINGS(LP_DEF_UPDATES, D, M)
#define LP_DEF_FLOAT(D, M) LP_DEF_DOTS(D, M) LP_DEF_UPDATES(D, M, , LP_NEAREST)

LP_PAIRS_FIXED(LP_DEF_FIXED)
LP_PAIRS_FLOAT(LP_DEF_FLOAT)

/* ---- the table ---- */

#define LP_ROW(op, OP, D, M, suffix, R, I) \
    {LP_STR(LP_CAT(op, D, _, M, suffix, , )), OP, LP_BITS_##D, LP_BITS_##M, R, I, (void (*)(void))LP_FN(op, D, M, suffix)},
#define LP_ROW_SDOT(I, D, M) LP_ROW(sdot_i##I##_, LP_SDOT, D, M, , LP_NEAREST, I)
#define LP_ROW_DOT(D, M) LP_ROW(dot_, LP_DOT, D, M, , LP_NEAREST, 0) LP_INDEXES(LP_ROW_SDOT, D, M)
#define LP_ROW_UPDATE(D, M, suffix, R) \
    LP_ROW(axpy_, LP_AXPY, D, M, suffix, R, 0) \
    LP_ROW(axpy_dot_, LP_AXPY_DOT, D, M, suffix, R, 0) \
    LP_ROW(sgd_, LP_SGD, D, M, suffix, R, 0) \
    LP_ROW(batch_, LP_BATCH, D, M, suffix, R, 0) \
    LP_ROW(saxpy_i8_, LP_SAXPY, D, M, suffix, R, 8) \
    LP_ROW(saxpy_i16_, LP_SAXPY, D, M, suffix, R, 16) \
    LP_ROW(saxpy_i32_, LP_SAXPY, D, M, suffix, R, 32)
#define LP_ROW_FIXED(D, M) LP_ROW_DOT(D, M) LP_ROUNDINGS(LP_ROW_UPDATE, D, M)
#define LP_ROW_FLOAT(D, M) LP_ROW_DOT(D, M) LP_ROW_UPDATE(D, M, , LP_NEAREST)

static const lp_kernel lp_rows[] = {LP_PAIRS_FIXED(LP_ROW_FIXED) LP_PAIRS_FLOAT(LP_ROW_FLOAT)};

const lp_isa LP_CAT(lp_isa_, LP_ISA, , , , , ) = {LP_STR(LP_ISA), lp_rows,       (int)(sizeof lp_rows / sizeof lp_rows[0]),
                                                  LP_RUNNABLE,    LP_BATCH_LOOP, LP_CAT(lp_codecs_, LP_ISA, , , , , )};
