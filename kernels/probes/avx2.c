/* Must compile and link with the flags of the avx2 row in setup.py before that table is built. Never run. */
#if !defined(__x86_64__)
#error "avx2 is an ISA of x86-64"
#endif
#include <immintrin.h>

int main(int argc, char **argv)
{
    (void)argv;
    __m256i a = _mm256_madd_epi16(_mm256_set1_epi16((short)argc), _mm256_set1_epi16(3));
    return _mm256_extract_epi32(a, 0) + (int)_pext_u32((unsigned)argc, 5u);
}
