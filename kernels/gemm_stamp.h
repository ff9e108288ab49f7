/* What the tables of GEMM kernels share: the list of pairs, codes of weights, panels of floats. */
#ifndef LP_GEMM_STAMP_H
#define LP_GEMM_STAMP_H

#include <stdint.h>

#define LP_INLINE static inline __attribute__((always_inline, unused))

/* All pairs of bits, in the order of a table. Float comes last. */
#define LP_GEMM_EACH_PAIR(P) \
    P(1, 1) \
    P(1, 2) P(1, 4) P(1, 8) P(2, 1) P(2, 2) P(2, 4) P(2, 8) P(4, 1) P(4, 2) P(4, 4) P(4, 8) P(8, 1) P(8, 2) P(8, 4) P(8, 8)

/* The largest code of a weight. */
LP_INLINE int lp_gemm_most(int bits) { return bits == 1 ? 1 : (1 << (bits - 1)) - 1; }

/* A weight as an unsigned number of so many bits. */
LP_INLINE int lp_gemm_code(int w, int bits) { return bits == 1 ? w > 0 : w + lp_gemm_most(bits); }

/* out[k * columns + j]; zeros for the columns that are missing. */
LP_INLINE void lp_gemm_pack_floats(const float *w, int64_t stride, int64_t n, int64_t numbers, float *out, int columns)
{
    for (int64_t k = 0; k < numbers; k++)
        for (int64_t j = 0; j < columns; j++)
            out[k * columns + j] = j < n ? w[j * stride + k] : 0.0f;
}

#endif
