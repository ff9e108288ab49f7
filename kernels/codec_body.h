/* Numbers -> coded blocks, and back: the portable body, the walk over blocks, and the stamp of a table.
 *
 * The arithmetic, which every ISA reproduces to the bit
 * -----------------------------------------------------
 * A block is LP_CODE_BLOCK numbers v (float32), a the largest magnitude; L = 2^(bits-1) - 1.
 *
 *     2, 4, 8, 16:   s = a / L * (1 + 2^-22), 0 if below 2^-100;  inv = 1 / s (0 if s is)   each operation rounded in float32
 *                    code = that of quantize (quantize_body.h) for v and inv; decoded = s * code
 *                    with feedback, 2 and 4 bits: s is then replaced by sum v code / sum code^2, 0 if the latter is
 *     1:             bit = v < 0; levels = the means of the numbers >= 0 and < 0; decoded = levels[bit]
 *     16f:           s = 2^k, a / s in [2^14, 2^15), 1 if a is below 2^-100; half = v / s, halves to even; decoded = half * s
 *     32f:           as it is
 *     feedback:      v -= decoded
 *
 * No code is clipped: with u = 2^-24, |v| inv <= L (1 + u) / ((1 - u)^2 (1 + 4 u)) < L, and so is what it is rounded to at most L.
 *
 * Sums: v code, v >= 0, v < 0: 32 float32 partial sums, number j of the block to sum j mod 32, then lp_tree.
 *
 * A block with a NaN or a magnitude above 2^100 is reported: its payload is zeros, its levels are NaN, nothing is drawn for it. (32f
 * reports NaN and infinities, and sends them.) So neither sums nor products can overflow. */
#ifndef LP_CODEC_BODY_H
#define LP_CODEC_BODY_H

#include "codec.h"
#include "quantize_body.h"

#define LP_CODE_NAN 0x7FC00000u
#define LP_CODE_MOST 0x71800000u  /* 2^100 */
#define LP_CODE_LEAST 0x0D800000u /* 2^-100 */
#define LP_FLOAT_INF 0x7F800000u

/* What decoding does with a number. */
enum { LP_PUT, LP_ADD, LP_SUBTRACT };

LP_INLINE float lp_as_float(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

LP_INLINE uint32_t lp_as_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

LP_INLINE float lp_load_level(const uint8_t *levels, int k)
{
    float f;
    memcpy(&f, levels + 4 * k, 4);
    return f;
}

LP_INLINE void lp_store_level(uint8_t *levels, int k, float f) { memcpy(levels + 4 * k, &f, 4); }

/* ---------------------------------------------------------------- the portable body
 * Each works on numbers j .. n - 1 of a block, so that a vector ISA can leave it the end. */

/* The largest magnitude, as its bits: they are ordered as the magnitudes are, and a NaN is larger than all. */
LP_INLINE uint32_t lp_largest_portable(const float *v, int64_t j, int64_t n, uint32_t largest)
{
    int32_t most = (int32_t)largest;
    for (; j < n; j++) {
        const int32_t bits = (int32_t)(lp_as_bits(v[j]) & 0x7FFFFFFFu);
        most = bits > most ? bits : most;
    }
    return (uint32_t)most;
}

/* 2-bit codes, as quantize makes those of 4 to 16 bits. */
LP_INLINE void lp_code_2_portable(const float *v, int64_t n, float inv, uint8_t *payload, uint64_t *lane, int stochastic)
{
    uint32_t words[LP_QUANTIZE_WORDS] = {0};
    int64_t clipped = 0;
    for (int64_t j = 0; j < n; j += LP_QUANTIZE_WORDS) {
        int32_t codes[LP_QUANTIZE_WORDS] = {0};
        if (stochastic)
            lp_quantize_words(lane, words);
        lp_careful_f32(v + j, n - j < LP_QUANTIZE_WORDS ? (int)(n - j) : LP_QUANTIZE_WORDS, &inv, 0, 1, stochastic, words, codes,
                       &clipped);
        for (int64_t k = 0; k < LP_QUANTIZE_WORDS && j + k < n; k += 4)
            *payload++ = (uint8_t)((codes[k] & 3) | (codes[k + 1] & 3) << 2 | (codes[k + 2] & 3) << 4 | (codes[k + 3] & 3) << 6);
    }
}

/* Code j of a payload. */
LP_INLINE int32_t lp_code_at(const uint8_t *payload, int64_t j, int bits)
{
    if (bits == 2)
        return (int8_t)(uint8_t)(payload[j >> 2] >> 2 * (j & 3) << 6) >> 6;
    if (bits == 4)
        return (int8_t)(uint8_t)(payload[j >> 1] >> 4 * (j & 1) << 4) >> 4;
    if (bits == 8)
        return (int8_t)payload[j];
    int16_t code;
    memcpy(&code, payload + 2 * j, 2);
    return code;
}

/* sum += v code; returns the sum of code^2. */
LP_INLINE int64_t lp_fit_portable(const float *v, const uint8_t *payload, int64_t j, int64_t n, int bits, float *sum)
{
    int64_t squares = 0;
    for (; j < n; j++) {
        const int32_t code = lp_code_at(payload, j, bits);
        sum[j & 31] += v[j] * (float)code;
        squares += code * code;
    }
    return squares;
}

/* Bits of the numbers' signs; sum[0] += those >= 0, sum[1] += those < 0; returns how many are < 0. */
LP_INLINE int64_t lp_signs_portable(const float *v, int64_t j, int64_t n, uint8_t *payload, float sum[2][32])
{
    int64_t negative = 0;
    for (; j < n; j += 8) { /* j is a multiple of 8 */
        unsigned byte = 0;
        for (int64_t k = j; k < n && k < j + 8; k++) {
            const int below = v[k] < 0;
            byte |= (unsigned)below << (k - j);
            sum[0][k & 31] += below ? 0.0f : v[k];
            sum[1][k & 31] += below ? v[k] : 0.0f;
            negative += below;
        }
        payload[j >> 3] = (uint8_t)byte;
    }
    return negative;
}

/* |x| <= 2^15 to an IEEE half, halves to even. */
LP_INLINE uint16_t lp_to_half(float x)
{
    const uint32_t bits = lp_as_bits(x), size = bits & 0x7FFFFFFFu;
    /* In 0.5 + x a unit in the last place is the least half, 2^-24. */
    const uint32_t small = lp_as_bits(lp_as_float(size) + 0.5f) - 0x3F000000u;
    const uint32_t large = (size + 0xFFFu + (size >> 13 & 1) - (112u << 23)) >> 13;
    return (uint16_t)((size < 113u << 23 ? small : large) | bits >> 31 << 15);
}

LP_INLINE float lp_from_half(uint16_t half)
{
    const uint32_t size = (uint32_t)(half & 0x7FFF) << 13, sign = (uint32_t)(half >> 15) << 31;
    const uint32_t finite = lp_as_bits(lp_as_float(size) * 0x1p112f);
    return lp_as_float((size < 31u << 23 ? finite : size | LP_FLOAT_INF) | sign);
}

LP_INLINE void lp_halves_portable(const float *v, int64_t j, int64_t n, float inv, uint8_t *payload)
{
    for (; j < n; j++) {
        const uint16_t half = lp_to_half(v[j] * inv);
        memcpy(payload + 2 * j, &half, 2);
    }
}

/* Puts, adds or subtracts the decoded numbers. */
LP_INLINE void lp_decode_portable(const uint8_t *payload, const uint8_t *levels, int64_t j, int64_t n, float *out, int bits,
                                  int half, int op)
{
    const float level = lp_load_level(levels, 0), below = bits == 1 ? lp_load_level(levels, 1) : 0.0f;
    for (; j < n; j++) {
        float d;
        if (bits == 1) {
            d = payload[j >> 3] >> (j & 7) & 1 ? below : level;
        } else if (half) {
            uint16_t h;
            memcpy(&h, payload + 2 * j, 2);
            d = lp_from_half(h) * level;
        } else {
            d = (float)lp_code_at(payload, j, bits) * level;
        }
        out[j] = op == LP_PUT ? d : op == LP_ADD ? out[j] + d : out[j] - d;
    }
}

/* ---------------------------------------------------------------- a block
 * What follows is written with these, which an ISA's file defines before it includes this one, or takes as they are: */
#ifndef LP_LARGEST
#define LP_LARGEST(v, n) lp_largest_portable(v, 0, n, 0)
#define LP_CODE_2 lp_code_2_portable
#define LP_FIT(v, payload, n, bits, sum) lp_fit_portable(v, payload, 0, n, bits, sum)
#define LP_SIGNS(v, n, payload, sum) lp_signs_portable(v, 0, n, payload, sum)
#define LP_HALVES(v, n, inv, payload) lp_halves_portable(v, 0, n, inv, payload)
#define LP_DECODE(payload, levels, n, out, bits, half, op) lp_decode_portable(payload, levels, 0, n, out, bits, half, op)
#endif

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
    const uint32_t largest = LP_LARGEST(v, n);
    if (__builtin_expect(largest > LP_CODE_MOST, 0)) {
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
        const uint32_t level = largest < LP_CODE_LEAST ? 127u << 23 : (largest & LP_FLOAT_INF) - (14u << 23);
        LP_HALVES(v, n, lp_as_float((254u << 23) - level), payload); /* 1 / 2^k is 2^-k */
        lp_store_level(levels, 0, lp_as_float(level));
    } else {
        float level = lp_code_level(lp_as_float(largest), bits);
        const float inv = level > 0 ? 1.0f / level : 0.0f;
        int64_t clipped = 0;
        if (bits == 2)
            LP_CODE_2(v, n, inv, payload, lane, stochastic);
        else
            LP_QUANTIZE.quantize[0][bits == 4   ? LP_BITS_4
                                    : bits == 8 ? LP_BITS_8
                                                : LP_BITS_16][0][stochastic](v, n, &inv, payload, lane, &clipped, 0);
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

LP_INLINE int lp_not_finite(const float *v, int64_t n)
{
    int bad = 0;
    for (int64_t j = 0; j < n; j++)
        bad |= (lp_as_bits(v[j]) & LP_FLOAT_INF) == LP_FLOAT_INF;
    return bad;
}

static int lp_encode_32f(const float *v, int64_t n, uint8_t *payload, uint8_t *levels, uint64_t *lane)
{
    (void)levels;
    (void)lane;
    if (n)
        memcpy(payload, v, (size_t)n * 4);
    return lp_not_finite(v, n);
}

static int lp_encode_feedback_32f(float *v, int64_t n, uint8_t *payload, uint8_t *levels, uint64_t *lane)
{
    const int bad = lp_encode_32f(v, n, payload, levels, lane);
    for (int64_t j = 0; j < n; j++)
        v[j] = v[j] - v[j];
    return bad;
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
 * An ISA's file defines LP_QUANTIZE, the table of quantize that it uses, and says LP_CODEC_STAMP(its name) at the end. */
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

#endif
