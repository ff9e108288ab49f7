/* The AVX2 table of GEMM kernels: four families, each with its formats, its tile and how long its narrow sums are safe.
 *
 * A tile's sums stay in registers while numbers go by: a step loads the panel's vectors once and goes through the rows. The instructions of
 * a row are one asm: the compiler keeps the registers, but cannot spread the rows out and spill their sums. */
#include <immintrin.h>
#include <string.h>

#include "gemm.h"
#include "gemm_stamp.h"

typedef void (*tile_fn)(const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps, const void *panel,
                        void *c, int n_rows, int accumulate);

LP_INLINE __m256i load(const void *p) { return _mm256_load_si256(p); }
LP_INLINE void store(void *p, __m256i x) { _mm256_store_si256(p, x); }

#include "gemm_bytes_avx2.h"
#include "gemm_look_up_avx2.h"
#include "gemm_words_avx2.h"

#define BYTES_8(A) {A, 8, BYTES_ROWS, 16, 4, 0, 64, 0, 0, bytes_pack_8, 0, bytes_##A##_8},
#define BYTES(A, W) {A, W, BYTES_ROWS, 16, 4, 0, 8 * W, 64, 0, bytes_pack_##W, bytes_unpack_##W, bytes_##A##_##W},
#define LOOK_UP(A, W) \
    {A, W, LOOK_UP_ROWS, 64, 4, 2, 32 * W, 64 * W, look_up_prepare_##A, look_up_pack_##W, look_up_unpack_##W, look_up_##A##_##W},

const lp_gemm_kernel lp_gemm_avx2[LP_GEMM_PAIRS] = {
    LOOK_UP(1, 1) LOOK_UP(1, 2) BYTES(1, 4) BYTES_8(1) /**/
    LOOK_UP(2, 1) LOOK_UP(2, 2) BYTES(2, 4) BYTES_8(2) /**/
    BYTES(4, 1) BYTES(4, 2) BYTES(4, 4) BYTES_8(4)     /**/
    BYTES(8, 1) BYTES(8, 2) BYTES(8, 4)                /**/
    {8, 8, WORDS_ROWS, 16, 2, 4, 32, 64, words_prepare, words_pack, words_unpack, words},
    {32, 32, FLOAT_ROWS, 16, 1, 0, 64, 0, 0, float_pack, 0, float_tile},
};
