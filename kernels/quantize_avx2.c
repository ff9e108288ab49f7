/* The AVX2 table of quantize: 32 numbers at a time.
 *
 * The fast path converts without looking at ranges: a product that does not fit in an int32, an infinity and a NaN all
 * become 0x80000000. Whether a code of the 32 left +-L is then one test of the high bits of the absolute codes, cheaper than
 * comparing the floats, and exact. A group that fails it is done again by the portable body, which clips, counts, and looks
 * for NaN. */
#include <immintrin.h>

#include "quantize_body.h"

#define GROUP 32

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

/* 8 float32 to 8 int32 codes, not clipped. */
LP_INLINE __m256i codes_f32(const float *a, __m256 inv, __m256i words, int stochastic)
{
    const __m256 t = _mm256_mul_ps(_mm256_loadu_ps(a), inv);
    if (!stochastic)
        return _mm256_cvtps_epi32(t); /* half to even, MXCSR's default */
    const __m256 u = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(words, 8)), _mm256_set1_ps(0x1p-24f));
    const __m256 f = _mm256_floor_ps(t);
    const __m256 up = _mm256_cmp_ps(_mm256_sub_ps(t, f), u, _CMP_GT_OQ);
    return _mm256_sub_epi32(_mm256_cvtps_epi32(f), _mm256_castps_si256(up));
}

/* 4 float64 to 4 int32 codes, not clipped. */
LP_INLINE __m128i codes_f64(const double *a, __m256d inv, __m128i words, int stochastic)
{
    const __m256d t = _mm256_mul_pd(_mm256_loadu_pd(a), inv);
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
                          int stochastic)
{
    if (!is64) {
        const __m256 s = per_column ? _mm256_loadu_ps((const float *)inv + j) : _mm256_castsi256_ps(one);
        return codes_f32((const float *)a + j, s, words, stochastic);
    }
    const __m256d s0 = per_column ? _mm256_loadu_pd((const double *)inv + j) : _mm256_castsi256_pd(one);
    const __m256d s1 = per_column ? _mm256_loadu_pd((const double *)inv + j + 4) : _mm256_castsi256_pd(one);
    const __m128i c0 = codes_f64((const double *)a + j, s0, _mm256_castsi256_si128(words), stochastic);
    const __m128i c1 = codes_f64((const double *)a + j + 4, s1, _mm256_extracti128_si256(words, 1), stochastic);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(c0), c1, 1);
}

/* Codes c[k] of numbers 8k .. 8k + 7 to memory; returns nonzero, and may have stored nonsense, if one lies outside +-L. */
LP_INLINE int store_group(const __m256i c[4], int bits, uint8_t *out)
{
    if (bits == 16) {
        const __m256i high = _mm256_or_si256(_mm256_or_si256(_mm256_abs_epi32(c[0]), _mm256_abs_epi32(c[1])),
                                             _mm256_or_si256(_mm256_abs_epi32(c[2]), _mm256_abs_epi32(c[3])));
        const __m256i p0 = _mm256_permute4x64_epi64(_mm256_packs_epi32(c[0], c[1]), 0xD8);
        const __m256i p1 = _mm256_permute4x64_epi64(_mm256_packs_epi32(c[2], c[3]), 0xD8);
        _mm256_storeu_si256((__m256i *)out, p0);
        _mm256_storeu_si256((__m256i *)(out + 32), p1);
        return !_mm256_testz_si256(high, _mm256_set1_epi32(~0x7FFF));
    }
    /* packs saturates, so what is outside stays outside. Its lanes leave dword 4k of each c in the low half and the rest in
     * the high half: one permutation at the end puts them in order. */
    const __m256i w0 = _mm256_packs_epi32(c[0], c[1]), w1 = _mm256_packs_epi32(c[2], c[3]);
    const __m256i high = _mm256_or_si256(_mm256_abs_epi16(w0), _mm256_abs_epi16(w1));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i b = _mm256_packs_epi16(w0, w1);
    if (bits == 8) {
        _mm256_storeu_si256((__m256i *)out, _mm256_permutevar8x32_epi32(b, order));
        return !_mm256_testz_si256(high, _mm256_set1_epi16(~0x7F));
    }
    b = _mm256_permutevar8x32_epi32(_mm256_and_si256(b, _mm256_set1_epi8(15)), order);
    b = _mm256_maddubs_epi16(b, _mm256_set1_epi16(0x1001)); /* even + 16 * odd */
    _mm_storeu_si128((__m128i *)out, _mm_packus_epi16(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1)));
    return !_mm256_testz_si256(high, _mm256_set1_epi16(~0x7));
}

/* A group with something clipped or not a number; lane: the state before it. Out of line, for it wants the registers that the
 * loop needs. */
static __attribute__((noinline)) int redo_group(const void *a, const void *inv, uint8_t *codes, uint64_t *lane, int64_t *clipped,
                                                int is64, int bits, int per_column, int stochastic)
{
    const int size = is64 ? 8 : 4, limit = lp_max_code(bits), n = LP_QUANTIZE_WORDS;
    const char *from = a;
    double copies[GROUP]; /* of the one scale, so that the loops below exist once */
    if (!per_column) {
        for (int k = 0; k < GROUP; k++)
            memcpy((char *)copies + k * size, inv, (size_t)size);
        inv = copies;
    }
    const char *inverse = inv;
    int bad = 0;
    for (int half = 0; half < 2; half++) {
        uint32_t words[LP_QUANTIZE_WORDS];
        int32_t c[LP_QUANTIZE_WORDS];
        if (stochastic)
            lp_quantize_words(lane, words);
        if (is64 && stochastic)
            bad |= lp_careful_f64((const double *)from, n, (const double *)inverse, 1, limit, 1, words, c, clipped);
        else if (is64)
            bad |= lp_careful_f64((const double *)from, n, (const double *)inverse, 1, limit, 0, words, c, clipped);
        else if (stochastic)
            bad |= lp_careful_f32((const float *)from, n, (const float *)inverse, 1, limit, 1, words, c, clipped);
        else
            bad |= lp_careful_f32((const float *)from, n, (const float *)inverse, 1, limit, 0, words, c, clipped);
        lp_store_codes(c, n, bits, codes);
        from += n * size;
        inverse += n * size;
        codes += n * bits / 8;
    }
    return bad;
}

LP_INLINE int lp_quantize_row_avx2(const void *a, int64_t n, const void *inv, uint8_t *codes, uint64_t *lane,
                                   int64_t *clipped, int is64, int bits, int per_column, int stochastic)
{
    const int size = is64 ? 8 : 4;
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
        /* The blocks of the next group are drawn here: the generator is one long chain of dependent operations, and does
         * not delay the conversion if that already has its words (measured: 12 % of the whole). */
        if (stochastic)
            third = draw(second);
        c[0] = codes_8(a, inv, one, j, first.lo, is64, per_column, stochastic);
        c[1] = codes_8(a, inv, one, j + 8, first.hi, is64, per_column, stochastic);
        if (stochastic)
            fourth = draw(third);
        c[2] = codes_8(a, inv, one, j + 16, second.lo, is64, per_column, stochastic);
        c[3] = codes_8(a, inv, one, j + 24, second.hi, is64, per_column, stochastic);
        uint8_t *out = codes + j * bits / 8;
        if (__builtin_expect(store_group(c, bits, out), 0))
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
                                    codes + j * bits / 8, lane, clipped, is64, bits, per_column, stochastic);
    return bad;
}

#define LP_QUANTIZE_ROW lp_quantize_row_avx2
#define LP_DEQUANTIZE_ROW lp_dequantize_portable
LP_QUANTIZE_STAMP(avx2)
