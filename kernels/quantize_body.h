/* float -> codes, and back.
 *
 * The arithmetic, which every ISA reproduces to the bit
 * -----------------------------------------------------
 * The numbers a are float32 or float64 (T below); inv is 1/scale, computed in float64 and rounded to T; L = 2^(b-1) - 1.
 *
 *     t = a * inv                                  one product, rounded in T
 *     nearest:     code = t rounded to an integer, halves to even
 *     stochastic:  f = floor(t);  frac = t - f, rounded in T;  code = f + (frac > u)
 *                  u = (word32 >> 8) * 2^-24
 *     code outside +-L: clipped to it, and counted
 *
 * Word32 of element j of a row is 32-bit word j mod 16 of a block of the xorshift generator (docs/architecture.md, "Random
 * words"); a fresh block per 16 elements, the partial one at the row's end included; rows in order. Rows come in groups of
 * LP_QUANTIZE_GROUP: group k starts stream stream0 + k of the seed, so that groups can be quantized apart and in any order.
 *
 * A NaN or an infinity in a is reported, not converted: the codes of its row mean nothing then.
 * A finite a whose product overflows is clipped like any other.
 *
 * Dequantize: (T)((double)code * scale).
 *
 * Nothing is read or written past n. An odd tail nibble is written as zero.
 */
#ifndef LP_QUANTIZE_BODY_H
#define LP_QUANTIZE_BODY_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "scalar.h"

#define LP_QUANTIZE_GROUP 1024
#define LP_QUANTIZE_WORDS 16 /* 32-bit words of one block */

/* One row, or a piece of one that starts at a multiple of 16 elements. inv: one T, or n of them. Adds to *clipped; returns
 * nonzero if a NaN or an infinity was met. lane: state of the generator, advanced; not looked at by nearest. past_cache: the
 * codes may be stored past the cache, which saves reading their lines first; worth it where they are too many to stay in it. */
typedef int (*lp_quantize_fn)(const void *a, int64_t n, const void *inv, uint8_t *codes, uint64_t *lane, int64_t *clipped,
                              int past_cache);

/* scale: one double, or n of them. out: T[n]. */
typedef void (*lp_dequantize_fn)(const uint8_t *codes, int64_t n, const double *scale, void *out);

/* Which function of a table serves 4, 8 and 16 bits. */
enum { LP_BITS_4, LP_BITS_8, LP_BITS_16, LP_N_BITS };

typedef struct {
    const char *name;
    lp_quantize_fn quantize[2][LP_N_BITS][2][2];  /* [float64?][bits][per column?][stochastic?] */
    lp_dequantize_fn dequantize[2][LP_N_BITS][2]; /* [float64?][bits][per column?] */
} lp_quantize_table;

extern const lp_quantize_table lp_quantize_base;
#ifdef LP_HAVE_AVX2
extern const lp_quantize_table lp_quantize_avx2;
#endif

/* The random state of an array that is quantized in several calls. */
typedef struct {
    lp_rng rng;
    uint64_t seed, stream0;
    int64_t row; /* rows begun so far */
} lp_quantize_state;

/* Best table of this machine; NULL if `wanted` (NULL: any) is not built in or cannot run here. */
const lp_quantize_table *lp_quantize_choose(const char *wanted);

void lp_quantize_start(lp_quantize_state *state, uint64_t seed, uint64_t stream0);

/* Quantize n_rows rows of n numbers; strides in bytes, that of a may have any sign. continues: the first row is not a new one
 * but goes on where the last call stopped, at a multiple of 16 elements. gapless: numbers and codes lie without gaps, there is
 * one scale, and n is a multiple of 16: many rows are then the same as one long row. Returns the index of the first row with a
 * NaN or an infinity, where it stops, or -1. */
int64_t lp_quantize_rows(lp_quantize_fn fn, lp_quantize_state *state, int stochastic, int continues, int gapless, const char *a,
                         int64_t a_stride, int64_t n_rows, int64_t n, const void *inv, uint8_t *codes, int64_t row_stride,
                         int64_t *clipped, int past_cache);

/* int8 codes -> nibbles; returns nonzero if one lay outside [-8, 7]. And back. */
int lp_pack4(const int8_t *codes, int64_t n, uint8_t *packed);
void lp_unpack4(const uint8_t *packed, int64_t n, int8_t *codes);

/* ---------------------------------------------------------------- the portable body */

/* lp_careful: up to 16 numbers to clipped codes: all that base does, and the row ends of the vector ISAs. Written so that a
 * compiler can vectorize it: no calls, no jumps. */
#define LP_CAREFUL(NAME, T, MAGIC, T_MAX, FABS) \
    LP_INLINE int NAME(const T *a, int n, const T *inv, int per_column, int limit, int stochastic, const uint32_t *words, \
                       int32_t *codes, int64_t *clipped) \
    { \
        const T hi = (T)(limit + 2); /* beyond it a code is clipped whatever u is; within int32 it cannot overflow */ \
        int over = 0, bad = 0; \
        for (int j = 0; j < n; j++) { \
            const T x = a[j]; \
            T t = x * inv[per_column ? j : 0]; \
            int32_t code; \
            t = t > hi ? hi : t; \
            t = t > -hi ? t : -hi; /* a NaN too */ \
            if (stochastic) { \
                const T u = (T)(int32_t)(words[j] >> 8) * (T)0x1p-24; \
                const int32_t towards_zero = (int32_t)t; \
                const int32_t f = towards_zero - (t < (T)towards_zero); \
                code = f + (t - (T)f > u); \
            } else { \
                code = (int32_t)((t + MAGIC) - MAGIC); /* the sum has no fraction bits left: half to even */ \
            } \
            over += (code > limit) | (code < -limit); \
            code = code > limit ? limit : code; \
            codes[j] = code < -limit ? -limit : code; \
            bad |= !(FABS(x) <= T_MAX); \
        } \
        *clipped += over; \
        return bad; \
    }
LP_CAREFUL(lp_careful_f32, float, 0x1.8p23f, FLT_MAX, fabsf)
LP_CAREFUL(lp_careful_f64, double, 0x1.8p52, DBL_MAX, fabs)
#undef LP_CAREFUL

/* n <= 16 codes to memory. */
LP_INLINE void lp_store_codes(const int32_t *c, int n, int bits, uint8_t *out)
{
    if (bits == 4) {
        int k = 0;
        for (; k < n / 2; k++)
            out[k] = (uint8_t)((c[2 * k] & 15) | (c[2 * k + 1] & 15) << 4);
        if (n & 1)
            out[k] = (uint8_t)(c[2 * k] & 15);
    } else if (bits == 8) {
        for (int j = 0; j < n; j++)
            out[j] = (uint8_t)(int8_t)c[j];
    } else {
        for (int j = 0; j < n; j++) {
            const int16_t code = (int16_t)c[j];
            memcpy(out + 2 * j, &code, 2);
        }
    }
}

/* The words of the next 16 numbers. */
LP_INLINE void lp_quantize_words(uint64_t *lane, uint32_t *words)
{
    lp_rng_draw(lane);
    for (int k = 0; k < LP_QUANTIZE_WORDS; k++)
        words[k] = lp_word32(lane, k);
}

LP_INLINE int lp_quantize_16(const void *a, int n, const void *inv, uint8_t *out, const uint32_t *words, int64_t *clipped,
                             int is64, int bits, int per_column, int stochastic)
{
    int32_t codes[LP_QUANTIZE_WORDS];
    const int limit = (1 << (bits - 1)) - 1;
    const int bad = is64 ? lp_careful_f64(a, n, inv, per_column, limit, stochastic, words, codes, clipped)
                         : lp_careful_f32(a, n, inv, per_column, limit, stochastic, words, codes, clipped);
    lp_store_codes(codes, n, bits, out);
    return bad;
}

LP_INLINE int lp_quantize_portable(const void *a, int64_t n, const void *inv, uint8_t *codes, uint64_t *lane, int64_t *clipped,
                                   int past_cache, int is64, int bits, int per_column, int stochastic)
{
    (void)past_cache;
    const int size = is64 ? 8 : 4;
    const char *from = a, *inverse = inv;
    uint32_t words[LP_QUANTIZE_WORDS] = {0};
    int bad = 0;
    for (; n > 0; n -= LP_QUANTIZE_WORDS) {
        if (stochastic)
            lp_quantize_words(lane, words);
        if (n >= LP_QUANTIZE_WORDS) /* a constant count, for the compiler */
            bad |= lp_quantize_16(from, LP_QUANTIZE_WORDS, inverse, codes, words, clipped, is64, bits, per_column, stochastic);
        else
            bad |= lp_quantize_16(from, (int)n, inverse, codes, words, clipped, is64, bits, per_column, stochastic);
        from += LP_QUANTIZE_WORDS * size;
        inverse += per_column ? LP_QUANTIZE_WORDS * size : 0;
        codes += LP_QUANTIZE_WORDS * bits / 8;
    }
    return bad;
}

LP_INLINE void lp_put_number(void *out, int64_t j, double v, int is64)
{
    if (is64)
        ((double *)out)[j] = v;
    else
        ((float *)out)[j] = (float)v;
}

LP_INLINE void lp_dequantize_portable(const uint8_t *codes, int64_t n, const double *scale, void *out, int is64, int bits,
                                      int per_column)
{
    if (bits == 4) {
        int64_t k = 0;
        for (; k < n / 2; k++) {
            const int lo = (int8_t)(uint8_t)(codes[k] << 4) >> 4, hi = (int8_t)codes[k] >> 4;
            lp_put_number(out, 2 * k, lo * scale[per_column ? 2 * k : 0], is64);
            lp_put_number(out, 2 * k + 1, hi * scale[per_column ? 2 * k + 1 : 0], is64);
        }
        if (n & 1)
            lp_put_number(out, n - 1, ((int8_t)(uint8_t)(codes[k] << 4) >> 4) * scale[per_column ? n - 1 : 0], is64);
        return;
    }
    for (int64_t j = 0; j < n; j++) {
        int code;
        if (bits == 8) {
            code = (int8_t)codes[j];
        } else {
            int16_t code16;
            memcpy(&code16, codes + 2 * j, 2);
            code = code16;
        }
        lp_put_number(out, j, code * scale[per_column ? j : 0], is64);
    }
}

/* ---------------------------------------------------------------- stamping one table
 * An ISA file defines LP_QUANTIZE_ROW and LP_DEQUANTIZE_ROW (always-inline functions with the signatures of the portable
 * ones), then says LP_QUANTIZE_STAMP(its name). */
#define LP_Q_FN(T64, BITS, COLUMN, STOCHASTIC) \
    static int q_##T64##_##BITS##_##COLUMN##_##STOCHASTIC(const void *a, int64_t n, const void *inv, uint8_t *codes, \
                                                          uint64_t *lane, int64_t *clipped, int past_cache) \
    { \
        return LP_QUANTIZE_ROW(a, n, inv, codes, lane, clipped, past_cache, T64, BITS, COLUMN, STOCHASTIC); \
    }
#define LP_D_FN(T64, BITS, COLUMN) \
    static void d_##T64##_##BITS##_##COLUMN(const uint8_t *codes, int64_t n, const double *scale, void *out) \
    { \
        LP_DEQUANTIZE_ROW(codes, n, scale, out, T64, BITS, COLUMN); \
    }
#define LP_Q_BITS(T64, BITS) \
    LP_Q_FN(T64, BITS, 0, 0) \
    LP_Q_FN(T64, BITS, 0, 1) LP_Q_FN(T64, BITS, 1, 0) LP_Q_FN(T64, BITS, 1, 1) LP_D_FN(T64, BITS, 0) LP_D_FN(T64, BITS, 1)
#define LP_Q_ROW(T64, BITS) \
    { \
        {q_##T64##_##BITS##_0_0, q_##T64##_##BITS##_0_1}, { q_##T64##_##BITS##_1_0, q_##T64##_##BITS##_1_1 } \
    }
#define LP_D_ROW(T64, BITS) {d_##T64##_##BITS##_0, d_##T64##_##BITS##_1}
#define LP_QUANTIZE_STAMP(ISA) \
    LP_Q_BITS(0, 4) \
    LP_Q_BITS(0, 8) \
    LP_Q_BITS(0, 16) \
    LP_Q_BITS(1, 4) \
    LP_Q_BITS(1, 8) \
    LP_Q_BITS(1, 16) \
    const lp_quantize_table lp_quantize_##ISA = { \
        #ISA, \
        {{LP_Q_ROW(0, 4), LP_Q_ROW(0, 8), LP_Q_ROW(0, 16)}, {LP_Q_ROW(1, 4), LP_Q_ROW(1, 8), LP_Q_ROW(1, 16)}}, \
        {{LP_D_ROW(0, 4), LP_D_ROW(0, 8), LP_D_ROW(0, 16)}, {LP_D_ROW(1, 4), LP_D_ROW(1, 8), LP_D_ROW(1, 16)}}, \
    };

#endif
