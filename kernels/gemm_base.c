/* The portable table of GEMM kernels: one layout and one tile for all pairs of bits, plain loops, rows as they are.
 *
 * A step is 4 numbers of 8 outputs. Packed: its 32 weights, number by number, each as the unsigned code w + (2^(bits-1) - 1), 1 bit: w > 0, bits of a
 * byte filled from the lowest. Unpacked: int16_t, in the same order. */
#include <math.h>
#include <string.h>

#include "gemm.h"
#include "gemm_stamp.h"

enum { ROWS = 4, COLUMNS = 8, GROUP = 4, STEP = GROUP * COLUMNS };

LP_INLINE void pack(const int8_t *w, int64_t stride, int64_t n, int64_t numbers, uint8_t *out, int bits)
{
    const int64_t bytes = numbers * COLUMNS * bits / 8;
    memset(out, 0, (size_t)bytes);
    for (int64_t j = 0; j < n; j++)
        for (int64_t k = 0; k < numbers; k++) {
            const int64_t bit = (k * COLUMNS + j) * bits;
            out[bit / 8] |= (uint8_t)(lp_gemm_code(w[j * stride + k], bits) << bit % 8);
        }
}

LP_INLINE void unpack(const uint8_t *packed, int64_t steps, int16_t *panel, int bits)
{
    const int mask = (1 << bits) - 1;
    for (int64_t k = 0; k < steps * STEP; k++) {
        const int code = packed[k * bits / 8] >> k * bits % 8 & mask;
        panel[k] = (int16_t)(bits == 1 ? 2 * code - 1 : code - lp_gemm_most(bits));
    }
}

/* Sums of int32 from the first product on: safe as deep as gemm.h says. */
static void tile(const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps, const void *panel, void *c,
                 int n_rows, int accumulate)
{
    for (int i = 0; i < n_rows; i++) {
        int32_t *const to = (int32_t *)c + i * COLUMNS;
        const int16_t *w = panel;
        int32_t sum[COLUMNS] = {0};
        if (accumulate)
            memcpy(sum, to, sizeof sum);
        for (int64_t s = 0; s < segments; s++) {
            const uint8_t *const a = rows[i] + offsets[s];
            for (int64_t k = 0; k < steps * GROUP; k++, w += COLUMNS)
                for (int j = 0; j < COLUMNS; j++)
                    sum[j] += (int16_t)a[k] * w[j];
        }
        memcpy(to, sum, sizeof sum);
    }
}

/* ---------------------------------------------------------------- float32: a step is one number, rounded once by fmaf as by an FMA */

static void pack_float(const void *w, int64_t stride, int64_t n, int64_t numbers, void *out)
{
    lp_gemm_pack_floats(w, stride, n, numbers, out, COLUMNS);
}

static void tile_float(const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps, const void *panel,
                       void *c, int n_rows, int accumulate)
{
    for (int i = 0; i < n_rows; i++) {
        float *const to = (float *)c + i * COLUMNS;
        const float *w = panel;
        float sum[COLUMNS] = {0};
        if (accumulate)
            memcpy(sum, to, sizeof sum);
        for (int64_t s = 0; s < segments; s++) {
            const float *const a = (const float *)(const void *)(rows[i] + offsets[s]);
            for (int64_t k = 0; k < steps; k++, w += COLUMNS)
                for (int j = 0; j < COLUMNS; j++)
                    sum[j] = fmaf(a[k], w[j], sum[j]);
        }
        memcpy(to, sum, sizeof sum);
    }
}

/* ---------------------------------------------------------------- the table */

#define WEIGHTS(W) \
    static void pack_##W(const void *w, int64_t stride, int64_t n, int64_t numbers, void *out) \
    { \
        pack(w, stride, n, numbers, out, W); \
    } \
    static void unpack_##W(const void *packed, int64_t steps, void *panel) { unpack(packed, steps, panel, W); }
WEIGHTS(1)
WEIGHTS(2)
WEIGHTS(4)
WEIGHTS(8)

#define PAIR(A, W) \
    {A, W, ROWS, COLUMNS, GROUP, 0, 0, 0, STEP * W / 8, STEP * (int)sizeof(int16_t), 0, 0, pack_##W, unpack_##W, 0, tile},
const lp_gemm_kernel lp_gemm_base[LP_GEMM_PAIRS] = {
    LP_GEMM_EACH_PAIR(PAIR) /**/
    {32, 32, ROWS, COLUMNS, 1, 0, 0, 0, COLUMNS * (int)sizeof(float), 0, 0, 0, pack_float, 0, 0, tile_float},
};
