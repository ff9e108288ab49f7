/* Makes one table of codecs. An ISA's file defines LP_QUANTIZE (its table of quantize), LP_LARGEST, LP_PACK_2, LP_FIT, LP_SIGNS,
 * LP_HALVES and LP_DECODE (always-inline functions as those of codec_body.h, from number 0 on), includes this file, and says
 * LP_CODEC_STAMP(its name). */
#include "codec_body.h"

LP_INLINE double lp_sum_32(const float sum[32])
{
    double wide[32];
    for (int k = 0; k < 32; k++)
        wide[k] = sum[k];
    return lp_tree(wide);
}

/* s of a. */
LP_INLINE float lp_code_level(float a, int bits)
{
    const float s = a / (float)lp_max_code(bits) * (1.0f + 0x1p-22f);
    return s < 0x1p-100f ? 0.0f : s;
}

LP_INLINE int lp_encode_block(float *v, int64_t n, uint8_t *payload, uint8_t *levels, uint64_t *lane, int bits, int half,
                              int stochastic, int feedback)
{
    const uint32_t most = LP_LARGEST(v, n);
    if (__builtin_expect(most > LP_CODE_MOST, 0)) {
        memset(payload, 0, (size_t)((n * bits + 7) / 8));
        for (int k = 0; k < (bits == 1 ? 2 : 1); k++)
            lp_store_level(levels, k, lp_as_float(LP_CODE_NAN));
        for (int64_t j = 0; feedback && j < n; j++)
            v[j] = lp_as_float(LP_CODE_NAN);
        return 1;
    }
    if (bits == 1) {
        float sum[2][32] = {{0}};
        const int64_t below = LP_SIGNS(v, n, payload, sum);
        lp_store_level(levels, 0, below < n ? (float)(lp_sum_32(sum[0]) / (double)(n - below)) : 0.0f);
        lp_store_level(levels, 1, below ? (float)(lp_sum_32(sum[1]) / (double)below) : 0.0f);
    } else if (half) {
        const uint32_t level = most < LP_CODE_LEAST ? 127u << 23 : (most & LP_FLOAT_INF) - (14u << 23);
        LP_HALVES(v, n, lp_as_float((254u << 23) - level), payload); /* 1 / 2^k is 2^-k */
        lp_store_level(levels, 0, lp_as_float(level));
    } else {
        float level = lp_code_level(lp_as_float(most), bits);
        const float inv = level > 0 ? 1.0f / level : 0.0f;
        int8_t codes[LP_CODE_BLOCK + 3]; /* of 2 bits: those of 8, for they lie in +-1 */
        int64_t clipped = 0;             /* none */
        const int as = bits == 4 ? LP_BITS_4 : bits == 16 ? LP_BITS_16 : LP_BITS_8;
        const lp_quantize_fn quantize = LP_QUANTIZE.quantize[0][as][0][stochastic];
        quantize(v, n, &inv, bits == 2 ? (uint8_t *)codes : payload, lane, &clipped, 0);
        if (bits == 2) {
            memset(codes + n, 0, 3);
            LP_PACK_2(codes, n, payload);
        }
        if (feedback && bits < 8) {
            float sum[32] = {0};
            const int64_t squares = LP_FIT(v, payload, n, bits, sum);
            level = squares ? (float)(lp_sum_32(sum) / (double)squares) : 0.0f;
        }
        lp_store_level(levels, 0, level);
    }
    if (feedback)
        LP_DECODE(payload, levels, n, v, bits, half, LP_SUBTRACT);
    return 0;
}

LP_INLINE int lp_encode_blocks(float *v, int64_t n, uint8_t *payload, uint8_t *levels, uint64_t *lane, int bits, int half,
                               int stochastic, int feedback)
{
    int bad = 0;
    for (; n > 0; n -= LP_CODE_BLOCK) {
        bad |= lp_encode_block(v, n < LP_CODE_BLOCK ? n : LP_CODE_BLOCK, payload, levels, lane, bits, half, stochastic, feedback);
        v += LP_CODE_BLOCK;
        payload += LP_CODE_BLOCK * bits / 8;
        levels += bits == 1 ? 8 : 4;
    }
    return bad;
}

LP_INLINE void lp_decode_blocks(const uint8_t *payload, const uint8_t *levels, int64_t n, float *out, int bits, int half, int op)
{
    for (; n > 0; n -= LP_CODE_BLOCK) {
        LP_DECODE(payload, levels, (n < LP_CODE_BLOCK ? n : LP_CODE_BLOCK), out, bits, half, op);
        out += LP_CODE_BLOCK;
        payload += LP_CODE_BLOCK * bits / 8;
        levels += bits == 1 ? 8 : 4;
    }
}

/* ---------------------------------------------------------------- 32f */

LP_INLINE int lp_encode_floats(float *v, int64_t n, uint8_t *payload, int feedback)
{
    int32_t bad = 0; /* as wide as the numbers, for the compiler */
    for (int64_t j = 0; j < n; j++) {
        const float x = v[j];
        bad |= (lp_as_bits(x) & LP_FLOAT_INF) == LP_FLOAT_INF;
        lp_store_level(payload + 4 * j, 0, x);
        if (feedback)
            v[j] = x - x;
    }
    return bad;
}

static int lp_encode_32f(const float *v, int64_t n, uint8_t *payload, uint8_t *levels, uint64_t *lane)
{
    (void)levels;
    (void)lane;
    return lp_encode_floats((float *)(uintptr_t)v, n, payload, 0);
}

static int lp_encode_feedback_32f(float *v, int64_t n, uint8_t *payload, uint8_t *levels, uint64_t *lane)
{
    (void)levels;
    (void)lane;
    return lp_encode_floats(v, n, payload, 1);
}

static void lp_decode_32f(const uint8_t *payload, const uint8_t *levels, int64_t n, float *out)
{
    (void)levels;
    if (n)
        memcpy(out, payload, (size_t)n * 4);
}

static void lp_decode_add_32f(const uint8_t *payload, const uint8_t *levels, int64_t n, float *out)
{
    (void)levels;
    for (int64_t j = 0; j < n; j++)
        out[j] += lp_load_level(payload + 4 * j, 0);
}

/* ---------------------------------------------------------------- stamping one table
 * LP_CODEC_STAMP(name of the ISA). */
#define LP_ENCODE_FN(NAME, BITS, HALF, STOCHASTIC) \
    static int encode_##NAME##_##STOCHASTIC(const float *v, int64_t n, uint8_t *payload, uint8_t *levels, uint64_t *lane) \
    { \
        return lp_encode_blocks((float *)(uintptr_t)v, n, payload, levels, lane, BITS, HALF, STOCHASTIC, 0); \
    } \
    static int encode_feedback_##NAME##_##STOCHASTIC(float *v, int64_t n, uint8_t *payload, uint8_t *levels, uint64_t *lane) \
    { \
        return lp_encode_blocks(v, n, payload, levels, lane, BITS, HALF, STOCHASTIC, 1); \
    }
#define LP_DECODE_FN(NAME, BITS, HALF) \
    static void decode_##NAME(const uint8_t *payload, const uint8_t *levels, int64_t n, float *out) \
    { \
        lp_decode_blocks(payload, levels, n, out, BITS, HALF, LP_PUT); \
    } \
    static void decode_add_##NAME(const uint8_t *payload, const uint8_t *levels, int64_t n, float *out) \
    { \
        lp_decode_blocks(payload, levels, n, out, BITS, HALF, LP_ADD); \
    }
#define LP_CODEC_PLAIN(NAME, BITS, HALF) LP_ENCODE_FN(NAME, BITS, HALF, 0) LP_DECODE_FN(NAME, BITS, HALF)
#define LP_CODEC_RANDOM(BITS) LP_ENCODE_FN(BITS, BITS, 0, 1) LP_CODEC_PLAIN(BITS, BITS, 0)
#define LP_CODEC_ROW(NAME, BITS, LEVELS, RANDOM) \
    {#NAME, \
     BITS, \
     LEVELS, \
     0, \
     {encode_##NAME##_0, encode_##NAME##_##RANDOM}, \
     {encode_feedback_##NAME##_0, encode_feedback_##NAME##_##RANDOM}, \
     decode_##NAME, \
     decode_add_##NAME}
#define LP_CODEC_STAMP(ISA) \
    LP_CODEC_PLAIN(1, 1, 0) \
    LP_CODEC_RANDOM(2) \
    LP_CODEC_RANDOM(4) \
    LP_CODEC_RANDOM(8) \
    LP_CODEC_RANDOM(16) \
    LP_CODEC_PLAIN(16f, 16, 1) \
    const lp_codec lp_codecs_##ISA[LP_N_CODECS] = { \
        LP_CODEC_ROW(1, 1, 2, 0), \
        LP_CODEC_ROW(2, 2, 1, 1), \
        LP_CODEC_ROW(4, 4, 1, 1), \
        LP_CODEC_ROW(8, 8, 1, 1), \
        LP_CODEC_ROW(16, 16, 1, 1), \
        LP_CODEC_ROW(16f, 16, 1, 0), \
        {"32f", \
         32, \
         0, \
         1, \
         {lp_encode_32f, lp_encode_32f}, \
         {lp_encode_feedback_32f, lp_encode_feedback_32f}, \
         lp_decode_32f, \
         lp_decode_add_32f}, \
    };
