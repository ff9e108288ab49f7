/* The driver of networks and products, compiled for AVX2. */
#include <immintrin.h>
#include <stdint.h>

static inline void lp_widen_codes(const uint8_t *from, int32_t *to)
{
    const __m128i codes = _mm_loadu_si128((const __m128i *)from);
    _mm256_storeu_si256((__m256i *)to, _mm256_cvtepu8_epi32(codes));
    _mm256_storeu_si256((__m256i *)(to + 8), _mm256_cvtepu8_epi32(_mm_srli_si128(codes, 8)));
}

static inline void lp_narrow_codes(const int32_t *from, uint8_t *to)
{
    const __m256i a = _mm256_loadu_si256((const __m256i *)from), b = _mm256_loadu_si256((const __m256i *)(from + 8));
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xD8);
    _mm_storeu_si128((__m128i *)to, _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

#define LP_NETWORK_ISA avx2
#define LP_GEMM_KERNELS lp_gemm_avx2
#define LP_WIDEN_CODES lp_widen_codes
#define LP_NARROW_CODES lp_narrow_codes
#include "network_body.h"
