/* The AVX2 table of quantize: 32 numbers at a time.
 *
 * The fast path converts without looking at ranges: a product that does not fit in an int32, an infinity and a NaN all
 * become 0x80000000. Whether a code of the 32 left +-L is then one test of the high bits of the absolute codes, cheaper than
 * comparing the floats, and exact. A group that fails it is done again with everything watched. */
#include <immintrin.h>

#include "quantize_body.h"

#define GROUP 32
#define PREFETCH 2048 /* bytes */

/* The state of the generator is the block itself: words 0-7 and 8-15. */
typedef struct {
    __m256i lo, hi;
} block;

LP_INLINE __m256i xorshift64(__m256i x)
{
    x = _mm256_xor_si256(x, _mm256_slli_epi64(x, 13));
    x = _mm256_xor_si256(x, _mm256_srli_epi64(x, 7));
    return _mm256_xor_si256(x, _mm256_slli_epi64(x, 17));
}

LP_INLINE block draw(block b)
{
    b.lo = xorshift64(b.lo);
    b.hi = xorshift64(b.hi);
    return b;
}

/* What is seen of the numbers when they are watched. */
typedef struct {
    int clipped;
    int bad; /* a NaN or an infinity */
} seen;

/* 8 float32 to 8 int32 codes. limit: 0, or the products are clamped to just outside +-limit, so that their codes fit an int32
 * and stay outside, and *s learns of NaN and infinity. */
LP_INLINE __m256i codes_f32(const float *a, __m256 inv, __m256i words, int stochastic, int limit, seen *s)
{
    const __m256 x = _mm256_loadu_ps(a);
    __m256 t = _mm256_mul_ps(x, inv);
    if (limit) {
        const __m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
        s->bad |= _mm256_movemask_ps(_mm256_cmp_ps(size, _mm256_set1_ps(FLT_MAX), _CMP_NLE_UQ));
        t = _mm256_min_ps(t, _mm256_set1_ps((float)(limit + 2))); /* of a NaN the second */
        t = _mm256_max_ps(t, _mm256_set1_ps((float)(-limit - 2)));
    }
    if (!stochastic)
        return _mm256_cvtps_epi32(t); /* half to even, MXCSR's default */
    const __m256 u = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(words, 8)), _mm256_set1_ps(0x1p-24f));
    const __m256 f = _mm256_floor_ps(t);
    const __m256 up = _mm256_cmp_ps(_mm256_sub_ps(t, f), u, _CMP_GT_OQ);
    return _mm256_sub_epi32(_mm256_cvtps_epi32(f), _mm256_castps_si256(up));
}

/* 4 float64 to 4 int32 codes; the same. */
LP_INLINE __m128i codes_f64(const double *a, __m256d inv, __m128i words, int stochastic, int limit, seen *s)
{
    const __m256d x = _mm256_loadu_pd(a);
    __m256d t = _mm256_mul_pd(x, inv);
    if (limit) {
        const __m256d size = _mm256_andnot_pd(_mm256_set1_pd(-0.0), x);
        s->bad |= _mm256_movemask_pd(_mm256_cmp_pd(size, _mm256_set1_pd(DBL_MAX), _CMP_NLE_UQ));
        t = _mm256_min_pd(t, _mm256_set1_pd(limit + 2));
        t = _mm256_max_pd(t, _mm256_set1_pd(-limit - 2));
    }
    if (!stochastic)
        return _mm256_cvtpd_epi32(t);
    const __m256d u = _mm256_mul_pd(_mm256_cvtepi32_pd(_mm_srli_epi32(words, 8)), _mm256_set1_pd(0x1p-24));
    const __m256d f = _mm256_floor_pd(t);
    const __m256d up = _mm256_cmp_pd(_mm256_sub_pd(t, f), u, _CMP_GT_OQ);
    /* The one is added as a double: the mask has 64-bit lanes. f + 1 is exact, or far outside int32. */
    return _mm256_cvtpd_epi32(_mm256_add_pd(f, _mm256_and_pd(up, _mm256_set1_pd(1.0))));
}

/* Numbers j .. j + 7 of the row. one: the common inverse scale, as floats or as doubles; unused if there is one per column. */
LP_INLINE __m256i codes_8(const void *a, const void *inv, __m256i one, int64_t j, __m256i words, int is64, int per_column,
                          int stochastic, int limit, seen *s)
{
    if (!is64) {
        const __m256 s0 = per_column ? _mm256_loadu_ps((const float *)inv + j) : _mm256_castsi256_ps(one);
        return codes_f32((const float *)a + j, s0, words, stochastic, limit, s);
    }
    const __m256d s0 = per_column ? _mm256_loadu_pd((const double *)inv + j) : _mm256_castsi256_pd(one);
    const __m256d s1 = per_column ? _mm256_loadu_pd((const double *)inv + j + 4) : _mm256_castsi256_pd(one);
    const __m128i c0 = codes_f64((const double *)a + j, s0, _mm256_castsi256_si128(words), stochastic, limit, s);
    const __m128i c1 = codes_f64((const double *)a + j + 4, s1, _mm256_extracti128_si256(words, 1), stochastic, limit, s);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(c0), c1, 1);
}

LP_INLINE void store(uint8_t *out, __m256i v, int past_cache)
{
    if (past_cache)
        _mm256_stream_si256((__m256i *)out, v);
    else
        _mm256_storeu_si256((__m256i *)out, v);
}

/* Codes c[k] of numbers 8k .. 8k + 7 to memory; returns nonzero, and may have stored nonsense, if one lies outside +-L. */
LP_INLINE int store_group(const __m256i c[4], int bits, uint8_t *out, int past_cache)
{
    if (bits == 16) {
        const __m256i high = _mm256_or_si256(_mm256_or_si256(_mm256_abs_epi32(c[0]), _mm256_abs_epi32(c[1])),
                                             _mm256_or_si256(_mm256_abs_epi32(c[2]), _mm256_abs_epi32(c[3])));
        const __m256i p0 = _mm256_permute4x64_epi64(_mm256_packs_epi32(c[0], c[1]), 0xD8);
        const __m256i p1 = _mm256_permute4x64_epi64(_mm256_packs_epi32(c[2], c[3]), 0xD8);
        store(out, p0, past_cache);
        store(out + 32, p1, past_cache);
        return !_mm256_testz_si256(high, _mm256_set1_epi32(~0x7FFF));
    }
    /* packs saturates, so what is outside stays outside. Its lanes leave dword 4k of each c in the low half and the rest in
     * the high half: one permutation at the end puts them in order. */
    const __m256i w0 = _mm256_packs_epi32(c[0], c[1]), w1 = _mm256_packs_epi32(c[2], c[3]);
    const __m256i high = _mm256_or_si256(_mm256_abs_epi16(w0), _mm256_abs_epi16(w1));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i b = _mm256_packs_epi16(w0, w1);
    if (bits == 8) {
        store(out, _mm256_permutevar8x32_epi32(b, order), past_cache);
        return !_mm256_testz_si256(high, _mm256_set1_epi16(~0x7F));
    }
    b = _mm256_permutevar8x32_epi32(_mm256_and_si256(b, _mm256_set1_epi8(15)), order);
    b = _mm256_maddubs_epi16(b, _mm256_set1_epi16(0x1001)); /* even + 16 * odd */
    const __m128i packed = _mm_packus_epi16(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    if (past_cache)
        _mm_stream_si128((__m128i *)out, packed);
    else
        _mm_storeu_si128((__m128i *)out, packed);
    return !_mm256_testz_si256(high, _mm256_set1_epi16(~0x7));
}

/* A group with something clipped or not a number; lane: the state before it, which stays. */
LP_INLINE int watched_group(const void *a, const void *inv, uint8_t *codes, const uint64_t *lane, int64_t *clipped, int is64,
                            int bits, int per_column, int stochastic)
{
    const int limit = lp_max_code(bits);
    const __m256i high = _mm256_set1_epi32(limit), low = _mm256_set1_epi32(-limit);
    __m256i one = high, c[4], words[4] = {high, high, high, high};
    if (!per_column)
        one = is64 ? _mm256_castpd_si256(_mm256_set1_pd(*(const double *)inv))
                   : _mm256_castps_si256(_mm256_set1_ps(*(const float *)inv));
    if (stochastic) {
        block b = {_mm256_loadu_si256((const __m256i *)lane), _mm256_loadu_si256((const __m256i *)(lane + 4))};
        b = draw(b);
        words[0] = b.lo;
        words[1] = b.hi;
        b = draw(b);
        words[2] = b.lo;
        words[3] = b.hi;
    }
    seen s = {0, 0};
    for (int k = 0; k < 4; k++) {
        c[k] = codes_8(a, inv, one, 8 * k, words[k], is64, per_column, stochastic, limit, &s);
        const __m256i outside = _mm256_or_si256(_mm256_cmpgt_epi32(c[k], high), _mm256_cmpgt_epi32(low, c[k]));
        s.clipped += __builtin_popcount((unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(outside)));
        c[k] = _mm256_max_epi32(_mm256_min_epi32(c[k], high), low);
    }
    store_group(c, bits, codes, 0);
    *clipped += s.clipped;
    return s.bad;
}

/* Out of line, for it wants the registers that the loop needs; and once for all formats and scales. */
static __attribute__((noinline)) int redo_group(const void *a, const void *inv, uint8_t *codes, const uint64_t *lane,
                                                int64_t *clipped, int is64, int bits, int per_column, int stochastic)
{
    if (is64)
        return stochastic ? watched_group(a, inv, codes, lane, clipped, 1, bits, per_column, 1)
                          : watched_group(a, inv, codes, lane, clipped, 1, bits, per_column, 0);
    return stochastic ? watched_group(a, inv, codes, lane, clipped, 0, bits, per_column, 1)
                      : watched_group(a, inv, codes, lane, clipped, 0, bits, per_column, 0);
}

LP_INLINE int lp_quantize_row_avx2(const void *a, int64_t n, const void *inv, uint8_t *codes, uint64_t *lane, int64_t *clipped,
                                   int past_cache, int is64, int bits, int per_column, int stochastic)
{
    const int size = is64 ? 8 : 4;
    past_cache = past_cache && (uintptr_t)codes % 32 == 0; /* what a streaming store needs */
    __m256i one = _mm256_setzero_si256();
    if (!per_column)
        one = is64 ? _mm256_castpd_si256(_mm256_set1_pd(*(const double *)inv))
                   : _mm256_castps_si256(_mm256_set1_ps(*(const float *)inv));
    int bad = 0;
    int64_t j = 0;
    block first = {one, one}, second = {one, one}, third = {one, one}, fourth = {one, one};
    if (stochastic && n >= GROUP) {
        first.lo = _mm256_loadu_si256((const __m256i *)lane);
        first.hi = _mm256_loadu_si256((const __m256i *)(lane + 4));
        first = draw(first);
        second = draw(first);
    }
    for (; j <= n - GROUP; j += GROUP) {
        __m256i c[4];
        /* Beside the scales, which take turns in the cache with them, the hardware fetches the numbers too late; alone it
         * needs no help, and prefetching costs up to a tenth. */
        if (per_column) {
            for (int line = 0; line < GROUP * size; line += 64)
                _mm_prefetch((const char *)a + j * size + PREFETCH + line, _MM_HINT_T0);
        }
        /* The blocks of the next group are drawn here: the generator is one long chain of dependent operations, and does
         * not delay the conversion if that already has its words (measured: 12 % of the whole). */
        if (stochastic)
            third = draw(second);
        c[0] = codes_8(a, inv, one, j, first.lo, is64, per_column, stochastic, 0, NULL);
        c[1] = codes_8(a, inv, one, j + 8, first.hi, is64, per_column, stochastic, 0, NULL);
        if (stochastic)
            fourth = draw(third);
        c[2] = codes_8(a, inv, one, j + 16, second.lo, is64, per_column, stochastic, 0, NULL);
        c[3] = codes_8(a, inv, one, j + 24, second.hi, is64, per_column, stochastic, 0, NULL);
        uint8_t *out = codes + j * bits / 8;
        if (__builtin_expect(store_group(c, bits, out, past_cache), 0))
            bad |= redo_group((const char *)a + j * size, (const char *)inv + (per_column ? j * size : 0), out, lane, clipped,
                              is64, bits, per_column, stochastic);
        if (stochastic) {
            _mm256_storeu_si256((__m256i *)lane, second.lo);
            _mm256_storeu_si256((__m256i *)(lane + 4), second.hi);
            first = third;
            second = fourth;
        }
    }
    if (j < n)
        bad |= lp_quantize_portable((const char *)a + j * size, n - j, (const char *)inv + (per_column ? j * size : 0),
                                    codes + j * bits / 8, lane, clipped, past_cache, is64, bits, per_column, stochastic);
    return bad;
}

#define LP_QUANTIZE_ROW lp_quantize_row_avx2
#define LP_DEQUANTIZE_ROW lp_dequantize_portable
LP_QUANTIZE_STAMP(avx2)
