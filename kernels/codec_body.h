/* Numbers -> coded blocks, and back: the portable body. codec_stamp.h makes a table of it.
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
 * Each works on numbers j .. n - 1 of a block, so that a vector ISA can leave it the end; 32 at a time, a constant count, for the
 * compiler. */

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

/* 2-bit codes, a byte each, to four in a byte; j is a multiple of 4, the codes end with three zeros. */
LP_INLINE void lp_pack_2_portable(const int8_t *codes, int64_t j, int64_t n, uint8_t *payload)
{
    for (; j < n; j += 4) {
        const int8_t *c = codes + j;
        payload[j >> 2] = (uint8_t)((c[0] & 3) | (c[1] & 3) << 2 | (c[2] & 3) << 4 | (c[3] & 3) << 6);
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

/* sum += v code for n <= 32 numbers, of which the first goes to sum 0; returns the sum of code^2. */
LP_INLINE int32_t lp_fit_32(const float *v, const uint8_t *payload, int n, int bits, float *sum)
{
    int32_t squares = 0;
    int8_t codes[32];
    for (int k = 0; k < n; k++)
        codes[k] = (int8_t)lp_code_at(payload, k, bits);
    for (int k = 0; k < n; k++) {
        sum[k] += v[k] * (float)codes[k];
        squares += codes[k] * codes[k];
    }
    return squares;
}

/* The same for numbers j .. n - 1; j is a multiple of 32. */
LP_INLINE int64_t lp_fit_portable(const float *v, const uint8_t *payload, int64_t j, int64_t n, int bits, float *sum)
{
    int64_t squares = 0;
    for (; j <= n - 32; j += 32)
        squares += lp_fit_32(v + j, payload + j * bits / 8, 32, bits, sum);
    return squares + lp_fit_32(v + j, payload + j * bits / 8, (int)(n - j), bits, sum);
}

/* Bits of the signs of n <= 32 numbers; above += those >= 0, below += those < 0; returns how many are < 0. */
LP_INLINE int32_t lp_signs_32(const float *v, int n, uint8_t *payload, float *above, float *below)
{
    int32_t is[32] = {0}, negative = 0;
    for (int k = 0; k < n; k++) {
        const float x = v[k];
        is[k] = x < 0;
        above[k] += x < 0 ? 0.0f : x;
        below[k] += x < 0 ? x : 0.0f;
        negative += x < 0;
    }
    for (int k = 0; k < n; k += 8)
        *payload++ = (uint8_t)(is[k] | is[k + 1] << 1 | is[k + 2] << 2 | is[k + 3] << 3 | is[k + 4] << 4 | is[k + 5] << 5 |
                               is[k + 6] << 6 | is[k + 7] << 7);
    return negative;
}

/* The same for numbers j .. n - 1; j is a multiple of 32. */
LP_INLINE int64_t lp_signs_portable(const float *v, int64_t j, int64_t n, uint8_t *payload, float sum[2][32])
{
    int64_t negative = 0;
    for (; j <= n - 32; j += 32)
        negative += lp_signs_32(v + j, 32, payload + j / 8, sum[0], sum[1]);
    return negative + lp_signs_32(v + j, (int)(n - j), payload + j / 8, sum[0], sum[1]);
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

/* Puts, adds or subtracts n <= 32 decoded numbers. */
LP_INLINE void lp_decode_32(const uint8_t *payload, float level, float below, int n, float *out, int bits, int half, int op)
{
    float d[32];
    if (bits == 1) {
        const uint32_t either = lp_as_bits(level) ^ lp_as_bits(below); /* not a jump: half of them would be mispredicted */
        for (int k = 0; k < n; k++)
            d[k] = lp_as_float(lp_as_bits(level) ^ (either & (0u - (payload[k >> 3] >> (k & 7) & 1u))));
    } else if (half) {
        for (int k = 0; k < n; k++) {
            uint16_t h;
            memcpy(&h, payload + 2 * k, 2);
            d[k] = lp_from_half(h) * level;
        }
    } else {
        for (int k = 0; k < n; k++)
            d[k] = (float)lp_code_at(payload, k, bits) * level;
    }
    for (int k = 0; k < n; k++)
        out[k] = op == LP_PUT ? d[k] : op == LP_ADD ? out[k] + d[k] : out[k] - d[k];
}

/* The same for numbers j .. n - 1; j is a multiple of 32. */
LP_INLINE void lp_decode_portable(const uint8_t *payload, const uint8_t *levels, int64_t j, int64_t n, float *out, int bits,
                                  int half, int op)
{
    const float level = lp_load_level(levels, 0), below = bits == 1 ? lp_load_level(levels, 1) : 0.0f;
    for (; j <= n - 32; j += 32)
        lp_decode_32(payload + j * bits / 8, level, below, 32, out + j, bits, half, op);
    lp_decode_32(payload + j * bits / 8, level, below, (int)(n - j), out + j, bits, half, op);
}

#endif
