/* The paper's proposed instructions, by its proxy method (De Sa et al., ISCA 2017, section 6): each is replaced by an existing
 * instruction that is assumed to take as long. THE RESULTS ARE WRONG, the run time is right, for control flow does not depend on
 * data. So these rows are for timing alone: they are linked into lowprec.report._baseline and into nothing else, and no table that
 * a program can look kernels up in has them.
 *
 * D8M8: dot8 (signed 8 x 8 bits, sums of four as 32 bits) by vpmaddwd, axpy8 (8 x 8 bits plus random bits, cut to 8) by vpmullw.
 * D4M4: 4-bit instructions by those for 8 bits on half the data: our own 8 x 8 kernel over the n/2 bytes of a row.
 * Everything around them, from the loop over examples to prefetch, is that of the product: stamp.h. */
#include "body_avx2.h"

#undef LP_PAIRS_FIXED
#define LP_PAIRS_FIXED(P) P(4, 4) P(8, 8)
#undef LP_PAIRS_FLOAT
#define LP_PAIRS_FLOAT(P)
#undef LP_ROUNDINGS
#define LP_ROUNDINGS(R, D, M) R(D, M, _sr, LP_SR)

/* 32 numbers: one instruction of the product and one of its sum, two of the update. */
LP_INLINE __m256i proxy_group(int axpy, int dot, __m256i scale, __m256i sum, const int8_t *x, int8_t *w, const int8_t *xn,
                              int64_t j)
{
    __m256i v = LP_LOAD(w + j);
    if (axpy) {
        v = _mm256_adds_epi8(v, _mm256_mullo_epi16(LP_LOAD(x + j), scale));
        LP_STORE(w + j, v);
    }
    return dot ? _mm256_add_epi32(sum, _mm256_madd_epi16(LP_LOAD(xn + j), v)) : sum;
}

LP_INLINE lp_sum proxy_8_8(int axpy, int dot, const lp_step *s, const int8_t *x, int8_t *w, const int8_t *xn, int64_t n,
                           const uint8_t *ahead)
{
    const __m256i scale = axpy ? _mm256_broadcastw_epi16(_mm_castpd_si128(_mm_set_sd(s->magic))) : _mm256_setzero_si256();
    lp_sum result = {0};
    int64_t j = 0;
    while (j + 32 <= n) {
        const int64_t end = n - j < LP_BLOCK ? n : j + LP_BLOCK;
        __m256i sum = _mm256_setzero_si256();
        for (; j + 64 <= end; j += 64) {
            LP_PREFETCH(ahead + j);
            sum = proxy_group(axpy, dot, scale, sum, x, w, xn, j);
            sum = proxy_group(axpy, dot, scale, sum, x, w, xn, j + 32);
        }
        if (j + 32 <= end) {
            sum = proxy_group(axpy, dot, scale, sum, x, w, xn, j);
            j += 32;
        }
        if (dot)
            result.f += _mm_cvtsd_f64(_mm_cvtepi32_pd(lp_hsum32(sum)));
    }
    return result;
}

LP_INLINE lp_sum proxy_body(int rest, int axpy, int dot, int D, int M, int R, const lp_step *s, const void *x, void *w,
                            const void *xn, int64_t n, void *random, const uint8_t *ahead)
{
    (void)M;
    if (D == 4)
        return lp_8_8_avx2(rest, axpy, dot, R, s, x, w, xn, n / 2, random, ahead);
    return proxy_8_8(axpy, dot, s, x, w, xn, n, ahead);
}

LP_INLINE int proxy_whole(int D, int M, int64_t n)
{
    (void)M;
    return n % (D == 4 ? 64 : 32) == 0;
}

static int never(void) { return 0; } /* as an ISA it runs nowhere */

#define LP_ISA proxy
#define LP_RUNNABLE never
#define LP_BODY proxy_body
#define LP_BATCH_BODY lp_batch_base /* never called */
#define LP_DRAW lp_draw_avx2
#define LP_BATCH_BODY lp_batch_base
#define LP_WHOLE proxy_whole
#define LP_REGULAR lp_regular_avx2
#include "stamp.h"

lp_sgd_fn proxy_find(int bits)
{
    for (int k = 0; k < lp_isa_proxy.count; k++)
        if (lp_rows[k].op == LP_SGD && lp_rows[k].D == bits)
            return (lp_sgd_fn)lp_rows[k].fn;
    return NULL;
}
