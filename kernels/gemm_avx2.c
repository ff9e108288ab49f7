/* The AVX2 table of GEMM kernels: four families, each with its formats, its tile and how long its narrow sums are safe.
 *
 * A tile's sums stay in registers while numbers go by: a step loads the panel's vectors once and goes through the rows. The instructions of
 * a row are one asm: the compiler keeps the registers, but cannot spread the rows out and spill their sums. */
#include <immintrin.h>
#include <string.h>

#include "gemm.h"
#include "gemm_stamp.h"

#define TILE_ARGUMENTS \
    const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps, const void *panel, void *c, int n_rows, \
        int accumulate

/* A row of a tile: its sums, and where its numbers begin. Rows have names, r0 to r5: of an array, gcc would keep the sums in memory. */
typedef struct {
    __m256i s0, s1;
    const uint8_t *a;
} row;

#define ROW_SUMS(R) [s0] "+x"((R)->s0), [s1] "+x"((R)->s1)
#define EACH_ROW(DO) \
    { \
        DO(0) \
        if (n_rows > 1) { \
            DO(1) \
        } \
        if (n_rows > 2) { \
            DO(2) \
        } \
        if (n_rows > 3) { \
            DO(3) \
        } \
        if (n_rows > 4) { \
            DO(4) \
        } \
        if (n_rows > 5) { \
            DO(5) \
        } \
    }

LP_INLINE __m256i load(const void *p) { return _mm256_load_si256(p); }
LP_INLINE void store(void *p, __m256i x) { _mm256_store_si256(p, x); }

#include "gemm_look_up_avx2.h"
#include "gemm_multiply_avx2.h"
#include "gemm_pairs_avx2.h"

#define BYTES_8(A) {A, 8, MULTIPLY_ROWS, MULTIPLY_COLUMNS, 4, 0, 0, 0, 64, 0, 0, 0, bytes_pack_8, 0, 0, bytes_##A##_8},
#define BYTES(A, W) \
    {A, W, MULTIPLY_ROWS, MULTIPLY_COLUMNS, 4, 0, 0, 0, 8 * W, 64, 0, 0, bytes_pack_##W, bytes_unpack_##W, 0, bytes_##A##_##W},
#define FOURS(A) \
    {A, \
     4, \
     PAIRS_ROWS, \
     PAIRS_COLUMNS, \
     8, \
     FOURS_LEAST_OUTPUTS, \
     FOURS_LEAST_NUMBERS, \
     0, \
     64, \
     PAIRS_STEP, \
     PAIRS_HEAD, \
     0, \
     fours_pack, \
     fours_unpack, \
     fours_excess, \
     fours_##A},
#define LOOK_UP(A, W) \
    {A, \
     W, \
     LOOK_UP_ROWS, \
     64 / W, \
     4, \
     0, \
     0, \
     2, \
     LOOK_UP_VECTOR, \
     2 * LOOK_UP_VECTOR, \
     0, \
     look_up_prepare_##A, \
     look_up_pack_##W, \
     look_up_unpack, \
     0, \
     look_up_##A##_##W},

const lp_gemm_kernel lp_gemm_avx2[LP_GEMM_AVX2] = {
    LOOK_UP(1, 1) LOOK_UP(1, 2) FOURS(1) BYTES(1, 4) BYTES_8(1) /**/
    LOOK_UP(2, 1) LOOK_UP(2, 2) FOURS(2) BYTES(2, 4) BYTES_8(2) /**/
    BYTES(4, 1) BYTES(4, 2) FOURS(4) BYTES(4, 4) BYTES_8(4)     /**/
    BYTES(8, 1) BYTES(8, 2) BYTES(8, 4)                         /**/
    {8, 8, PAIRS_ROWS, PAIRS_COLUMNS, 4, 0, 0, 8, 64, PAIRS_STEP, PAIRS_HEAD, words_prepare, words_pack, words_unpack,
     words_excess, words},
    {32, 32, MULTIPLY_ROWS, MULTIPLY_COLUMNS, 1, 0, 0, 0, 64, 0, 0, 0, floats_pack, 0, 0, floats},
};
