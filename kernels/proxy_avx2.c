/* The paper's proposed instructions, by its proxy method (De Sa et al., ISCA 2017, section 6): each is replaced by an existing
 * instruction that is assumed to take as long. THE RESULTS ARE WRONG, the run time is right, for control flow does not depend on
 * data. So these rows are for timing alone: they are linked into lowprec.report._baseline and into nothing else, and no table that
 * a program can look kernels up in has them.
 *
 * D8M8: dot8 (signed 8 x 8 bits, sums of four as 32 bits) by vpmaddwd, axpy8 (8 x 8 bits plus random bits, cut to 8) by vpmullw.
 * D4M4: 4-bit instructions by those for 8 bits on half the data: our own 8 x 8 kernel over the n/2 bytes of a row.
 * Everything around them, from the loop over examples to prefetch, is that of the product: sgd_loop.h. */
#include "body_avx2.h"

/* Update and product alternate in chunks, as for float32 models in body_avx2.h: a loop as short as both together runs so far ahead
 * that its reads of the old row crowd out the prefetch of the new one, and is half as fast as our own where rows are in the
 * second-level cache (Zen 4, 2^14 <= n <= 2^18; chunks of 128 to 4096 numbers tried). */
#define PROXY_CHUNK 256

/* One instruction of the product and one of its sum, two of the update, for 32 numbers. */
LP_INLINE lp_sum proxy_8_8(int axpy, int dot, const lp_step *s, const int8_t *x, int8_t *w, const int8_t *xn, int64_t n,
                           const uint8_t *ahead)
{
    const __m256i scale = axpy ? _mm256_broadcastw_epi16(_mm_castpd_si128(_mm_set_sd(s->magic))) : _mm256_setzero_si256();
    __m256i sum = _mm256_setzero_si256();
    lp_sum result = {0};
    for (int64_t start = 0; start < n; start += PROXY_CHUNK) {
        const int64_t end = n - start < PROXY_CHUNK ? n : start + PROXY_CHUNK;
        if (axpy)
            for (int64_t j = start; j < end; j += 32)
                LP_STORE(w + j, _mm256_adds_epi8(LP_LOAD(w + j), _mm256_mullo_epi16(LP_LOAD(x + j), scale)));
        if (dot)
            for (int64_t j = start; j < end; j += 32) {
                if (j % 64 == 0)
                    LP_PREFETCH(ahead + j);
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(LP_LOAD(xn + j), LP_LOAD(w + j)));
            }
    }
    result.f = _mm_cvtsd_f64(_mm_cvtepi32_pd(lp_hsum32(sum)));
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

#define LP_BODY proxy_body
#define LP_DRAW lp_draw_avx2
#define LP_WHOLE proxy_whole
#define LP_REGULAR lp_regular_avx2
#include "sgd_loop.h"

LP_INLINE void proxy_sgd(int bits, lp_sgd *g, int64_t first, int64_t last)
{
    while (first < last) {
        const int64_t row = g->order ? g->order[first] : first;
        const lp_sum z = lp_sgd_first(bits, bits, LP_SR, g, g->x + row * g->row_stride);
        first = lp_sgd_loop(bits, bits, LP_SR, g, z, first, last);
    }
}

static void proxy_sgd_4_4(lp_sgd *g, int64_t first, int64_t last) { proxy_sgd(4, g, first, last); }
static void proxy_sgd_8_8(lp_sgd *g, int64_t first, int64_t last) { proxy_sgd(8, g, first, last); }

lp_sgd_fn proxy_find(int bits) { return bits == 4 ? proxy_sgd_4_4 : bits == 8 ? proxy_sgd_8_8 : NULL; }
