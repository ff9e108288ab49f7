/* Products of small integers: the C contract of the GEMM kernels. docs/architecture.md, "Networks of integers", states the arithmetic.
 *
 * C = A W^T. A: rows of unsigned activation codes, in [0, 2^a - 1]. W: rows of signed weight codes, one row an output: 1 bit: -1 or 1;
 * more: symmetric, +-(2^(w-1) - 1). Sums are exact int32, for rows of up to (2^31 - 1) / ((2^a - 1) (2^(w-1) - 1))
 * numbers, which callers check: 66,311 for 8 x 8 bits. One kernel for each pair of bits in
 * {1, 2, 4, 8}^2, and one for float32 x float32, in one table for each ISA; the table has no holes. Where a pair has several, the first that
 * takes so many outputs and numbers, and segments of whole groups, is meant.
 *
 * A kernel works on tiles of `rows` x `columns` sums. The numbers of a row come in groups, one a step:
 *   codes (bytes, as networks hold them)  --prepare-->  a `unit` of bytes for each group            cheap, done on the fly
 *   weights (int8)  --pack, once-->  panels of `columns` outputs, bits packed  --unpack-->  a panel as the tile wants it, in the L1 cache
 *   tile: prepared rows x unpacked panel -> sums
 * A row need not lie in one piece: it is `segments` runs of `steps` groups, run s at rows[i] + offsets[s]. So a convolution is the product
 * itself on the padded image (implicit im2col): a row of the kernel is a run. */
#ifndef LP_GEMM_H
#define LP_GEMM_H

#include <stdint.h>

enum {
    LP_GEMM_ROWS = 16,
    LP_GEMM_COLUMNS = 64,
    LP_GEMM_PAIRS = 17,
    LP_GEMM_AVX2 = 20
}; /* the largest tile; 16 pairs and float; these and what AVX2 has twice */

typedef struct lp_gemm_kernel {
    int32_t activation_bits, weight_bits; /* 1, 2, 4, 8; 32 for both: float32 */
    int32_t rows, columns;                /* of a tile: MR <= LP_GEMM_ROWS, NR <= LP_GEMM_COLUMNS */
    int32_t group;                        /* numbers of a row that a step takes: 1, 4 or 8 */
    int32_t least_outputs, least_numbers; /* of a row; with fewer it does not pay */
    int32_t unit;                         /* bytes of a prepared group; 0: rows are used as they are (group bytes, or a float) */
    int32_t packed_step,
        panel_step;     /* bytes of one step of a panel, packed and unpacked; the latter 0: the packed panel is used */
    int32_t panel_head; /* bytes before the first step of an unpacked panel */
    /* groups * group codes -> groups * unit bytes. NULL where unit is 0. */
    void (*prepare)(const uint8_t *codes, int64_t groups, void *out);
    /* One panel: n <= columns outputs of `numbers` weights (a multiple of group), w[j * stride + k]: int8_t, or float. What is missing of the
     * columns counts as zero, or as anything (its sums are not used). out: numbers / group * packed_step bytes. */
    void (*pack)(const void *w, int64_t stride, int64_t n, int64_t numbers, void *out);
    /* `steps` steps of a packed panel, which the tile takes all together. packed is aligned to the lesser of packed_step and 64 bytes; panel to 64, and it has room
     * for panel_head + steps * panel_step bytes. NULL where panel_step is 0. */
    void (*unpack)(const void *packed, int64_t steps, void *panel);
    /* What a (prepared) row adds to all of its sums, all segments and steps, modulo 2^32: the tile must find its negative in c and accumulate.
     * NULL: nothing. */
    uint32_t (*excess)(const uint8_t *row, const int64_t *offsets, int64_t segments, int64_t steps);
    /* c[i * columns + j] = (or +=, if accumulate) the sum over all segments and steps, i < n_rows, all j. int32_t, or float. c is aligned to 64
     * bytes. Reads nothing beyond the segments of the n_rows rows. */
    void (*tile)(const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps, const void *panel, void *c,
                 int n_rows, int accumulate);
} lp_gemm_kernel;

/* In the order of activation bits, then of weight bits; float32 last. */
extern const lp_gemm_kernel lp_gemm_base[LP_GEMM_PAIRS];
#ifdef LP_HAVE_AVX2
extern const lp_gemm_kernel lp_gemm_avx2[LP_GEMM_AVX2];
#endif

#endif
