/* The AVX2 table of codecs: 32 numbers at a time, so that each of the 32 partial sums keeps its place in a register. */
#include <immintrin.h>

#include "codec_body.h"

#define GROUP 32

LP_INLINE uint32_t largest(const float *v, int64_t n)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
    __m256i most[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    uint32_t lanes[8], found = 0;
    int64_t j = 0;
    for (; j <= n - GROUP; j += GROUP)
        for (int k = 0; k < 4; k++)
            most[k] =
                _mm256_max_epu32(most[k], _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(v + j + 8 * k)), magnitude));
    most[0] = _mm256_max_epu32(_mm256_max_epu32(most[0], most[1]), _mm256_max_epu32(most[2], most[3]));
    _mm256_storeu_si256((__m256i *)lanes, most[0]);
    for (int k = 0; k < 8; k++)
        found = lanes[k] > found ? lanes[k] : found;
    return lp_largest_portable(v, j, n, found);
}

LP_INLINE void pack_2(const int8_t *codes, int64_t n, uint8_t *payload)
{
    const __m256i first_bytes = _mm256_setr_epi32(0x0C080400, -1, -1, -1, 0x0C080400, -1, -1, -1);
    int64_t j = 0;
    for (; j <= n - GROUP; j += GROUP) {
        __m256i c = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(codes + j)), _mm256_set1_epi8(3));
        c = _mm256_maddubs_epi16(c, _mm256_set1_epi16(0x0401));  /* even + 4 * odd */
        c = _mm256_madd_epi16(c, _mm256_set1_epi32(0x00100001)); /* of those, even + 16 * odd: a byte in 32 bits */
        c = _mm256_shuffle_epi8(c, first_bytes);
        const int low = _mm256_cvtsi256_si32(c), high = _mm_cvtsi128_si32(_mm256_extracti128_si256(c, 1));
        memcpy(payload + j / 4, &low, 4);
        memcpy(payload + j / 4 + 4, &high, 4);
    }
    lp_pack_2_portable(codes, j, n, payload);
}

/* Codes j + 8 k .. j + 8 k + 7, k < 4. Below 8 bits: those of one dword, each shifted to its top and back. */
LP_INLINE __m256i codes_at(const uint8_t *payload, int64_t j, int k, int bits)
{
    if (bits == 8)
        return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(payload + j + 8 * k)));
    if (bits == 16)
        return _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(payload + 2 * j + 16 * k)));
    const __m256i lane = _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    int32_t word;
    memcpy(&word, bits == 4 ? payload + j / 2 + 4 * k : payload + j / 4 + 4 * (k / 2), 4);
    const __m256i up = bits == 4      ? _mm256_slli_epi32(lane, 2)
                       : (k & 1) == 0 ? _mm256_add_epi32(_mm256_slli_epi32(lane, 1), _mm256_set1_epi32(16))
                                      : _mm256_slli_epi32(lane, 1);
    return _mm256_srai_epi32(_mm256_sllv_epi32(_mm256_set1_epi32(word), up), 32 - bits);
}

LP_INLINE int64_t fit(const float *v, const uint8_t *payload, int64_t n, int bits, float *sum)
{
    __m256 s[4], squares[4]; /* the latter exact: below 2^24 */
    float lanes[GROUP];
    int64_t j = 0, total = 0;
    for (int k = 0; k < 4; k++)
        s[k] = squares[k] = _mm256_setzero_ps();
    for (; j <= n - GROUP; j += GROUP)
        for (int k = 0; k < 4; k++) {
            const __m256 c = _mm256_cvtepi32_ps(codes_at(payload, j, k, bits));
            s[k] = _mm256_add_ps(s[k], _mm256_mul_ps(_mm256_loadu_ps(v + j + 8 * k), c));
            squares[k] = _mm256_add_ps(squares[k], _mm256_mul_ps(c, c));
        }
    for (int k = 0; k < 4; k++) {
        _mm256_storeu_ps(sum + 8 * k, s[k]);
        _mm256_storeu_ps(lanes + 8 * k, squares[k]);
    }
    for (int k = 0; k < GROUP; k++)
        total += (int64_t)lanes[k];
    return total + lp_fit_portable(v, payload, j, n, bits, sum);
}

LP_INLINE int64_t signs(const float *v, int64_t n, uint8_t *payload, float sum[2][32])
{
    __m256 above[4], below[4];
    int64_t j = 0, negative = 0;
    for (int k = 0; k < 4; k++)
        above[k] = below[k] = _mm256_setzero_ps();
    for (; j <= n - GROUP; j += GROUP) {
        uint32_t word = 0;
        for (int k = 0; k < 4; k++) {
            const __m256 x = _mm256_loadu_ps(v + j + 8 * k), is = _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LT_OQ);
            above[k] = _mm256_add_ps(above[k], _mm256_andnot_ps(is, x));
            below[k] = _mm256_add_ps(below[k], _mm256_and_ps(is, x));
            word |= (uint32_t)_mm256_movemask_ps(is) << 8 * k;
        }
        memcpy(payload + j / 8, &word, 4);
        negative += __builtin_popcount(word);
    }
    for (int k = 0; k < 4; k++) {
        _mm256_storeu_ps(sum[0] + 8 * k, above[k]);
        _mm256_storeu_ps(sum[1] + 8 * k, below[k]);
    }
    return negative + lp_signs_portable(v, j, n, payload, sum);
}

LP_INLINE void halves(const float *v, int64_t n, float inv, uint8_t *payload)
{
    const __m256 times = _mm256_set1_ps(inv);
    int64_t j = 0;
    for (; j <= n - 8; j += 8)
        _mm_storeu_si128((__m128i *)(payload + 2 * j),
                         _mm256_cvtps_ph(_mm256_mul_ps(_mm256_loadu_ps(v + j), times), _MM_FROUND_TO_NEAREST_INT));
    lp_halves_portable(v, j, n, inv, payload);
}

LP_INLINE void decode(const uint8_t *payload, const uint8_t *levels, int64_t n, float *out, int bits, int half, int op)
{
    const __m256 level = _mm256_set1_ps(lp_load_level(levels, 0));
    const __m256 below = bits == 1 ? _mm256_set1_ps(lp_load_level(levels, 1)) : level;
    const __m256i lane = _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    int64_t j = 0;
    for (; j <= n - GROUP; j += GROUP) {
        int32_t word = 0;
        if (bits == 1)
            memcpy(&word, payload + j / 8, 4);
        for (int k = 0; k < 4; k++) {
            float *const to = out + j + 8 * k;
            __m256 d;
            if (bits == 1) /* its bit at the top of each */
                d = _mm256_blendv_ps(level, below,
                                     _mm256_castsi256_ps(_mm256_sllv_epi32(
                                         _mm256_set1_epi32(word), _mm256_add_epi32(lane, _mm256_set1_epi32(24 - 8 * k)))));
            else if (half)
                d = _mm256_mul_ps(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(payload + 2 * j + 16 * k))), level);
            else
                d = _mm256_mul_ps(_mm256_cvtepi32_ps(codes_at(payload, j, k, bits)), level);
            if (op == LP_ADD)
                d = _mm256_add_ps(_mm256_loadu_ps(to), d);
            if (op == LP_SUBTRACT)
                d = _mm256_sub_ps(_mm256_loadu_ps(to), d);
            _mm256_storeu_ps(to, d);
        }
    }
    lp_decode_portable(payload, levels, j, n, out, bits, half, op);
}

#define LP_QUANTIZE lp_quantize_avx2
#define LP_LARGEST largest
#define LP_PACK_2 pack_2
#define LP_FIT fit
#define LP_SIGNS signs
#define LP_HALVES halves
#define LP_DECODE decode
#include "codec_stamp.h"
LP_CODEC_STAMP(avx2)
