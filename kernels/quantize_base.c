/* The portable table of quantize, and what is the same on every ISA: the walk over rows, the choice of a table, nibbles. */

/* Changes no result, only whether a compiler may compute what a jump would have skipped: without it GCC does not vectorize
 * the portable body, and that is twice as slow. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-trapping-math")
#endif

#include "quantize_body.h"

#define LP_QUANTIZE_ROW lp_quantize_portable
#define LP_DEQUANTIZE_ROW lp_dequantize_portable
LP_QUANTIZE_STAMP(base)

const lp_quantize_table *lp_quantize_choose(const char *wanted)
{
#ifdef LP_HAVE_AVX2
    /* That file is compiled for x86-64-v3; these are the parts of it that a CPU may lack. */
    if (!wanted || strcmp(wanted, "avx2") == 0) {
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
            __builtin_cpu_supports("bmi2"))
            return &lp_quantize_avx2;
    }
#endif
    return !wanted || strcmp(wanted, "base") == 0 ? &lp_quantize_base : NULL;
}

void lp_quantize_start(lp_quantize_state *state, uint64_t seed, uint64_t stream0)
{
    memset(state, 0, sizeof *state);
    state->seed = seed;
    state->stream0 = stream0;
}

int64_t lp_quantize_rows(lp_quantize_fn fn, lp_quantize_state *state, int stochastic, int continues, int gapless, const char *a,
                         int64_t a_stride, int64_t n_rows, int64_t n, const void *inv, uint8_t *codes, int64_t row_stride,
                         int64_t *clipped, int past_cache)
{
    int64_t bad_row = -1;
    for (int64_t i = 0; i < n_rows && bad_row < 0;) {
        if (i > 0 || !continues) {
            if (stochastic && state->row % LP_QUANTIZE_GROUP == 0)
                lp_rng_seed(&state->rng, state->seed, state->stream0 + (uint64_t)(state->row / LP_QUANTIZE_GROUP));
            state->row++;
        }
        int64_t rows = 1;
        if (gapless) { /* up to the next group of rows; nothing is drawn between two rows */
            rows = LP_QUANTIZE_GROUP - (state->row - 1) % LP_QUANTIZE_GROUP;
            rows = rows < n_rows - i ? rows : n_rows - i;
            state->row += rows - 1;
        }
        const char *from = a + i * a_stride;
        uint8_t *to = codes + i * row_stride;
        if (fn(from, rows * n, inv, to, state->rng.lane, clipped, past_cache)) {
            int64_t ignored = 0;
            bad_row = i;
            while (bad_row < i + rows - 1 && !fn(a + bad_row * a_stride, n, inv, to, state->rng.lane, &ignored, 0))
                bad_row++;
        }
        i += rows;
    }
    if (past_cache) /* stores past the cache are not ordered with others until here */
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return bad_row;
}

int lp_pack4(const int8_t *codes, int64_t n, uint8_t *packed)
{
    int outside = 0;
    for (int64_t k = 0; k < n / 2; k++) {
        const int lo = codes[2 * k], hi = codes[2 * k + 1];
        outside |= ((lo + 8) | (hi + 8)) & ~15;
        packed[k] = (uint8_t)((lo & 15) | (hi & 15) << 4);
    }
    if (n & 1) {
        const int lo = codes[n - 1];
        outside |= (lo + 8) & ~15;
        packed[n / 2] = (uint8_t)(lo & 15);
    }
    return outside;
}

void lp_unpack4(const uint8_t *packed, int64_t n, int8_t *codes)
{
    for (int64_t k = 0; k < n / 2; k++) {
        codes[2 * k] = (int8_t)((packed[k] & 15) ^ 8) - 8;
        codes[2 * k + 1] = (int8_t)((packed[k] >> 4) ^ 8) - 8;
    }
    if (n & 1)
        codes[n - 1] = (int8_t)((packed[n / 2] & 15) ^ 8) - 8;
}
