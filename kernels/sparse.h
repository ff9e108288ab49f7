/* The weights of a sparse row to a dense piece and back (sparse.c). */
#ifndef LP_SPARSE_H
#define LP_SPARSE_H

#include "lowprec.h"
#include "matrix.h"

#define LP_DECLARE_MOVES(I, M) \
    void lp_gather_##I##_##M(const void *index, int differences, int64_t k, const void *w, void *scratch); \
    void lp_scatter_##I##_##M(const void *index, int differences, int64_t k, const void *scratch, void *w);
LP_INDEX_MODELS(LP_DECLARE_MOVES)

#endif
