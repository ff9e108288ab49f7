/* The AVX2 bodies: the same formulas, Q-formats and rounding points as body_base.h, 32 or 64 elements at a time.
 *
 * lp_int_avx2     any integer pair: both operands as 16-bit lanes.
 * lp_8_8_avx2     8 x 8 in bytes; three ways to the same bits, chosen by the step (see there).
 * lp_4_4_avx2     4 x 4 in packed nibbles, by table.
 * lp_float_avx2   pairs with 32f.
 * A step too large for 16-bit lanes (e > 0 for 16-bit data, > 8 for 8, > 12 for 4: one write crosses half the model's range)
 * takes the portable body. So do the last n mod 32 elements. */
#ifndef LP_BODY_AVX2_H
#define LP_BODY_AVX2_H

#include <immintrin.h>

#include "body_base.h"
#include "matrix.h"

typedef struct lp_i16x32 {
    __m256i lo, hi; /* elements 0..15 and 16..31 */
} lp_i16x32;

typedef struct lp_f32x32 {
    __m256 v[4]; /* elements 8 k .. 8 k + 7 */
} lp_f32x32;

/* Into the second-level cache: the row is read from there, and again in the next pass, while the model owns the first. */
#define LP_PREFETCH(p) _mm_prefetch((const char *)(p), _MM_HINT_T1)

#define LP_LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define LP_STORE(p, v) _mm256_storeu_si256((__m256i *)(p), v)

/* ---- codes to and from 16-bit lanes ------------------------------------------------------------------------------ */

LP_INLINE lp_i16x32 lp_load16(int bits, const void *p, int64_t j)
{
    const uint8_t *b = (const uint8_t *)p + lp_bytes(bits, j);
    lp_i16x32 v;
    if (bits == 16) {
        v.lo = LP_LOAD(b);
        v.hi = LP_LOAD(b + 32);
    } else if (bits == 8) {
        v.lo = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)b));
        v.hi = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(b + 16)));
    } else {
        const __m128i nibble = _mm_set1_epi8(15);
        const __m128i extend = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
        __m128i packed = _mm_loadu_si128((const __m128i *)b);
        __m128i even = _mm_shuffle_epi8(extend, _mm_and_si128(packed, nibble));
        __m128i odd = _mm_shuffle_epi8(extend, _mm_and_si128(_mm_srli_epi16(packed, 4), nibble));
        v.lo = _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(even, odd));
        v.hi = _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(even, odd));
    }
    return v;
}

LP_INLINE void lp_store16(int bits, void *p, int64_t j, lp_i16x32 v)
{
    uint8_t *b = (uint8_t *)p + lp_bytes(bits, j);
    if (bits == 16) {
        LP_STORE(b, v.lo);
        LP_STORE(b + 32, v.hi);
        return;
    }
    __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(v.lo, v.hi), 0xD8);
    if (bits == 8) {
        LP_STORE(b, bytes);
    } else {
        __m256i pairs = _mm256_maddubs_epi16(_mm256_and_si256(bytes, _mm256_set1_epi8(15)), _mm256_set1_epi16(0x1001));
        __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi16(pairs, pairs), 0x08);
        _mm_storeu_si128((__m128i *)b, _mm256_castsi256_si128(packed));
    }
}

/* ---- random words ------------------------------------------------------------------------------------------------ */

/* One step of four xorshift64 lanes. */
LP_INLINE __m256i lp_xorshift64x4(__m256i x)
{
    x = _mm256_xor_si256(x, _mm256_slli_epi64(x, 13));
    x = _mm256_xor_si256(x, _mm256_srli_epi64(x, 7));
    return _mm256_xor_si256(x, _mm256_slli_epi64(x, 17));
}

/* Stored as it will be loaded, 32 bytes at a time: a load that spans two narrower stores waits until both have retired, and with
 * them everything before, which would put the generator on the critical path from example to example. */
LP_INLINE void lp_draw_avx2(uint64_t lane[8], uint64_t block[8])
{
    for (int k = 0; k < 8; k += 4) {
        __m256i next = lp_xorshift64x4(LP_LOAD(lane + k));
        LP_STORE(lane + k, next);
        LP_STORE(block + k, next);
    }
}

/* 32 random 16-bit words, in element order: fixed ones before the loop ... */
LP_INLINE lp_i16x32 lp_random16(int R, const void *random)
{
    lp_i16x32 r;
    r.lo = r.hi = _mm256_set1_epi16((short)0x8000);
    if (R == LP_SR || R == LP_SRX) { /* for LP_SRX: the lanes themselves, to be advanced */
        r.lo = LP_LOAD(random);
        r.hi = LP_LOAD((const uint8_t *)random + 32);
    }
    return r;
}

/* ... and, where they are fresh, those of elements j .. j + 31. */
LP_INLINE void lp_advance16(int R, const void *random, int64_t j, lp_i16x32 *r)
{
    if (R == LP_SRX) {
        r->lo = lp_xorshift64x4(r->lo);
        r->hi = lp_xorshift64x4(r->hi);
    } else if (R == LP_SRB) {
        r->lo = LP_LOAD((const uint16_t *)random + j);
        r->hi = LP_LOAD((const uint16_t *)random + j + 16);
    }
}

/* The rare cases go through the portable body, out of line and once per format pair (the step by value, so that the caller's
 * can stay in registers): steps too large for 16-bit lanes ... */
static __attribute__((noinline, unused)) lp_sum lp_slow(int axpy, int dot, int D, int M, int R, lp_step step, const void *x,
                                                        void *w, const void *xn, int64_t n, void *random, const uint8_t *ahead)
{
    const lp_step *const s = &step;
    switch (D << 8 | M) {
#define LP_SLOW_CASE(D, M) \
    case LP_BITS_##D << 8 | LP_BITS_##M: \
        return lp_body_base(1, axpy, dot, LP_BITS_##D, LP_BITS_##M, R, s, x, w, xn, n, random, ahead);
        LP_PAIRS_FIXED(LP_SLOW_CASE)
    }
    return (lp_sum){0};
}

/* ... and the last k <= 32 elements, from j; returns the integer sum, adds the float products to part. */
static __attribute__((noinline, unused)) int64_t lp_tail(int axpy, int dot, int D, int M, int R, lp_step step, const void *x,
                                                         void *w, const void *xn, int64_t j, int k, void *random, float *part)
{
    const lp_step *const s = &step;
    lp_words t;
    int64_t sum = 0;
    if (axpy && M != 32) {
        if (R == LP_NEAREST || R == LP_SR)
            lp_words_fixed(&t, D, R, random);
        else
            lp_words_fresh(&t, D, R, random, j, k);
    }
    switch (D << 8 | M) {
#define LP_TAIL_CASE(D, M) \
    case LP_BITS_##D << 8 | LP_BITS_##M: \
        lp_group_base(axpy, dot, LP_BITS_##D, LP_BITS_##M, s, x, w, xn, j, k, &t, &sum, part); \
        break;
        LP_PAIRS_FIXED(LP_TAIL_CASE)
        LP_PAIRS_FLOAT(LP_TAIL_CASE)
    }
    return sum;
}

/* ---- horizontal sums --------------------------------------------------------------------------------------------- */

/* In every lane of the result. */
LP_INLINE __m128i lp_hsum32(__m256i v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1));
    return s;
}

LP_INLINE int64_t lp_hsum64(__m256i v)
{
    __m128i s = _mm_add_epi64(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    return _mm_cvtsi128_si64(s) + _mm_extract_epi64(s, 1);
}

/* Eight int32 lanes, summed in int64. */
LP_INLINE int64_t lp_hsum32_wide(__m256i v)
{
    return lp_hsum64(_mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(v)),
                                      _mm256_cvtepi32_epi64(_mm256_extracti128_si256(v, 1))));
}

/* Eight uint32 lanes, summed in int64. */
LP_INLINE int64_t lp_hsum32_unsigned(__m256i v)
{
    return lp_hsum64(_mm256_add_epi64(_mm256_cvtepu32_epi64(_mm256_castsi256_si128(v)),
                                      _mm256_cvtepu32_epi64(_mm256_extracti128_si256(v, 1))));
}

/* ---- any integer pair -------------------------------------------------------------------------------------------- */

/* floor((mu x + r) / 2^16) in 16-bit lanes: the high half of the product, plus the carry out of its low half plus r.
 * not_r is (~r) ^ 0x8000, for a signed compare: carry where low half > 65535 - r. */
LP_INLINE __m256i lp_scaled16(__m256i mu, __m256i x, __m256i not_r)
{
    __m256i high = _mm256_mulhi_epi16(mu, x);
    __m256i low = _mm256_xor_si256(_mm256_mullo_epi16(mu, x), _mm256_set1_epi16((short)0x8000));
    return _mm256_sub_epi16(high, _mm256_cmpgt_epi16(low, not_r));
}

/* w + q, saturated once. For M = 16 the 16-bit add saturates at -2^15, one below the model's range. */
LP_INLINE __m256i lp_apply16(int M, __m256i w, __m256i q)
{
    const __m256i top = _mm256_set1_epi16((short)lp_max_code(M)), bottom = _mm256_set1_epi16((short)-lp_max_code(M));
    w = _mm256_max_epi16(_mm256_adds_epi16(w, q), bottom);
    return M == 16 ? w : _mm256_min_epi16(w, top);
}

typedef struct lp_int_state {
    __m256i mu, low, high;
    __m128i e;
    lp_i16x32 r, not_r;
} lp_int_state;

LP_INLINE void lp_complement(lp_int_state *t)
{
    t->not_r.lo = _mm256_xor_si256(t->r.lo, _mm256_set1_epi16(0x7FFF));
    t->not_r.hi = _mm256_xor_si256(t->r.hi, _mm256_set1_epi16(0x7FFF));
}

LP_INLINE void lp_int_group(int axpy, int dot, int D, int M, int R, lp_int_state *t, const void *x, void *w, const void *xn,
                            int64_t j, const void *random)
{
    lp_i16x32 v = lp_load16(M, w, j);
    if (axpy) {
        lp_i16x32 a = lp_load16(D, x, j);
        if (R == LP_SRX || R == LP_SRB) {
            lp_advance16(R, random, j, &t->r);
            lp_complement(t);
        }
        if (D != 16) {
            a.lo = _mm256_sll_epi16(a.lo, t->e);
            a.hi = _mm256_sll_epi16(a.hi, t->e);
        }
        v.lo = lp_apply16(M, v.lo, lp_scaled16(t->mu, a.lo, t->not_r.lo));
        v.hi = lp_apply16(M, v.hi, lp_scaled16(t->mu, a.hi, t->not_r.hi));
        lp_store16(M, w, j, v);
    }
    if (dot) {
        lp_i16x32 b = lp_load16(D, xn, j);
        __m256i p = _mm256_madd_epi16(b.lo, v.lo), q = _mm256_madd_epi16(b.hi, v.hi);
        t->low = _mm256_add_epi32(t->low, _mm256_add_epi32(p, q));
        if (D == 16 && M == 16)
            t->high = _mm256_add_epi32(t->high, _mm256_add_epi32(_mm256_srai_epi32(p, 16), _mm256_srai_epi32(q, 16)));
    }
}

/* mu 2^e x = mu (x << e), and x << e fits 16 bits wherever this body is called: |q| <= 2^14. Sums: each 32-bit lane gets at
 * most 256 products of two in a block; 8 x 16 bits: 256 * 2 * 2^7 * 32767 < 2^31. 16 x 16: a pair is below 2^31 (the model is
 * symmetric); the lane's sum mod 2^32 and the sum of the high halves are kept apart and joined at the end of the block. */
LP_INLINE lp_sum lp_int_avx2(int rest, int axpy, int dot, int D, int M, int R, const lp_step *s, const void *x, void *w,
                             const void *xn, int64_t n, void *random, const uint8_t *ahead)
{
    const __m256i zero = _mm256_setzero_si256();
    lp_sum result = {0};
    lp_int_state t = {zero, zero, zero, _mm_setzero_si128(), {zero, zero}, {zero, zero}};
    if (axpy) {
        t.mu = _mm256_broadcastw_epi16(_mm_castpd_si128(_mm_set_sd(s->magic)));
        t.e = _mm_cvtsi32_si128(s->e);
        t.r = lp_random16(R, random);
        lp_complement(&t);
    }
    int64_t j = 0;
    while (j + 32 <= n) {
        const int64_t end = n - j < LP_BLOCK ? n : j + LP_BLOCK;
        t.low = t.high = zero;
        for (; j + 64 <= end; j += 64) {
            LP_PREFETCH(ahead + lp_bytes(D, j));
            if (D == 16)
                LP_PREFETCH(ahead + lp_bytes(D, j) + 64);
            lp_int_group(axpy, dot, D, M, R, &t, x, w, xn, j, random);
            lp_int_group(axpy, dot, D, M, R, &t, x, w, xn, j + 32, random);
        }
        if (j + 32 <= end) {
            lp_int_group(axpy, dot, D, M, R, &t, x, w, xn, j, random);
            j += 32;
        }
        if (dot && D == 16 && M == 16) {
            __m256i rest = _mm256_sub_epi32(t.low, _mm256_slli_epi32(t.high, 16));
            result.i += lp_hsum32_wide(t.high) * 65536 + lp_hsum32_unsigned(rest);
        } else if (dot)
            result.i += lp_hsum32_wide(t.low);
    }
    if (axpy && R == LP_SRX) {
        LP_STORE(random, t.r.lo);
        LP_STORE((uint8_t *)random + 32, t.r.hi);
    }
    if (rest && j < n)
        result.i += lp_tail(axpy, dot, D, M, R, axpy ? *s : (lp_step){0}, x, w, xn, j, (int)(n - j), random, NULL);
    result.f = (double)result.i;
    return result;
}

/* ---- 8 x 8 ------------------------------------------------------------------------------------------------------- */

/* The words of a block in the order in which a row of bytes is unpacked: 0..7 | 16..23 and 8..15 | 24..31. */
LP_INLINE lp_i16x32 lp_unpacked_order(lp_i16x32 r)
{
    lp_i16x32 t;
    t.lo = _mm256_permute2x128_si256(r.lo, r.hi, 0x20);
    t.hi = _mm256_permute2x128_si256(r.lo, r.hi, 0x31);
    return t;
}

/* |mu| <= 512: q = floor((mu x + r) / 2^16) is -1, 0 or 1, and for mu > 0 it is
 *     1 exactly where x > A, A = floor((65535 - r) / mu),     -1 exactly where x < -B, B = floor(r / mu).
 * |mu| <= 1024: q is up to 2 in size, and 65536 on both numerators gives the thresholds of the second step.
 * For mu < 0, q(mu, r, x) = q(-mu, r, -x), and -x = ~x + 1: compare y = ~x with all thresholds moved by one.
 * So an element costs two or four compares instead of four multiplications. The quotients: (k + 1/2) / |mu| is at least 2^-11 from
 * every integer and its float32 error is below 2^-15 where the quotient is below 256; larger ones saturate: never reached. */
typedef struct lp_thresholds {
    __m256i flip;               /* y = x ^ flip */
    __m256i above[2], below[2]; /* q is at least 1, 2 where y > above; at most -1, -2 where y < below */
} lp_thresholds;

/* steps: 1 for |mu| <= 512, 2 for |mu| <= 1024. */
LP_INLINE lp_thresholds lp_thresholds8(int steps, double magic, lp_i16x32 r)
{
    const __m256 inverse = _mm256_broadcast_ss((const float *)lp_entry(&lp_reciprocal[1024], magic, 2));
    const __m256i mu16 = _mm256_broadcastw_epi16(_mm_castpd_si128(_mm_set_sd(magic)));
    const __m256i zero = _mm256_setzero_si256();
    const lp_i16x32 t = lp_unpacked_order(r);
    __m256i quarter[4] = {_mm256_unpacklo_epi16(t.lo, zero), _mm256_unpackhi_epi16(t.lo, zero), _mm256_unpacklo_epi16(t.hi, zero),
                          _mm256_unpackhi_epi16(t.hi, zero)};
    lp_thresholds h;
    h.flip = _mm256_srai_epi16(mu16, 15);
    for (int step = 0; step < steps; step++) {
        const __m256 shift = _mm256_set1_ps(0.5f + 65536.0f * (float)step),
                     total = _mm256_set1_ps(65536.0f * (float)(2 * step + 1));
        __m256i a[4], b[4];
        for (int k = 0; k < 4; k++) {
            __m256 half = _mm256_add_ps(_mm256_cvtepi32_ps(quarter[k]), shift); /* r + 1/2, + 65536 for the second step */
            b[k] = _mm256_cvttps_epi32(_mm256_mul_ps(half, inverse));
            a[k] = _mm256_cvttps_epi32(_mm256_mul_ps(_mm256_sub_ps(total, half), inverse));
        }
        __m256i a0 = _mm256_add_epi16(_mm256_packs_epi32(a[0], a[1]), h.flip),
                a1 = _mm256_add_epi16(_mm256_packs_epi32(a[2], a[3]), h.flip);
        __m256i b0 = _mm256_sub_epi16(h.flip, _mm256_packs_epi32(b[0], b[1])),
                b1 = _mm256_sub_epi16(h.flip, _mm256_packs_epi32(b[2], b[3]));
        h.above[step] = _mm256_packs_epi16(a0, a1);
        h.below[step] = _mm256_packs_epi16(b0, b1);
    }
    return h;
}

/* 32 exact products, summed in pairs of pairs to eight int32: |x| is unsigned (128 included), its sign goes to w; a pair is
 * at most 2 * 128 * 127 = 32,512, so vpmaddubsw never saturates. */
LP_INLINE __m256i lp_products8(__m256i x, __m256i w)
{
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(w, x));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

/* The thresholds' steps are the numbers of their ways. */
enum { LP_WAY_NONE, LP_WAY_ONE_STEP, LP_WAY_TWO_STEPS, LP_WAY_MULTIPLY };

typedef struct lp_8_8_state {
    lp_thresholds h;
    lp_i16x32 r, first, second; /* random words; (a0, r0) and (a1, r1) in the order of unpacked bytes */
    __m256i a0, a1, complement; /* |mu| = 256 a1 + a0; all ones where mu < 0 */
    __m256i sign, sum;
} lp_8_8_state;

LP_INLINE void lp_8_8_factors(lp_8_8_state *t)
{
    lp_i16x32 r = lp_unpacked_order(t->r);
    r.lo = _mm256_xor_si256(r.lo, t->complement);
    r.hi = _mm256_xor_si256(r.hi, t->complement);
    const __m256i high_byte = _mm256_set1_epi16((short)0xFF00);
    t->first.lo = _mm256_or_si256(_mm256_slli_epi16(r.lo, 8), t->a0);
    t->first.hi = _mm256_or_si256(_mm256_slli_epi16(r.hi, 8), t->a0);
    t->second.lo = _mm256_or_si256(_mm256_and_si256(r.lo, high_byte), t->a1);
    t->second.hi = _mm256_or_si256(_mm256_and_si256(r.hi, high_byte), t->a1);
}

LP_INLINE void lp_8_8_group(int way, int dot, int R, lp_8_8_state *t, const int8_t *x, int8_t *w, const int8_t *xn, int64_t j,
                            const void *random)
{
    const __m256i bottom = _mm256_set1_epi8(-127), one = _mm256_set1_epi8(1);
    __m256i v = LP_LOAD(w + j);
    if (way == LP_WAY_ONE_STEP || way == LP_WAY_TWO_STEPS) {
        __m256i y = _mm256_xor_si256(LP_LOAD(x + j), t->h.flip);
        for (int step = 0; step < way; step++) { /* only one of the two directions acts on an element: saturating twice is once */
            v = _mm256_subs_epi8(v, _mm256_cmpgt_epi8(y, t->h.above[step]));
            v = _mm256_adds_epi8(v, _mm256_cmpgt_epi8(t->h.below[step], y));
        }
        v = _mm256_max_epi8(v, bottom);
        LP_STORE(w + j, v);
    } else if (way == LP_WAY_MULTIPLY) {
        if (R == LP_SRX || R == LP_SRB) {
            lp_advance16(R, random, j, &t->r);
            lp_8_8_factors(t);
        }
        __m256i a = LP_LOAD(x + j), lo = _mm256_unpacklo_epi8(a, one), hi = _mm256_unpackhi_epi8(a, one);
        __m256i q0 = _mm256_srai_epi16(_mm256_maddubs_epi16(t->first.lo, lo), 8);
        __m256i q1 = _mm256_srai_epi16(_mm256_maddubs_epi16(t->first.hi, hi), 8);
        q0 = _mm256_srai_epi16(_mm256_add_epi16(q0, _mm256_maddubs_epi16(t->second.lo, lo)), 8);
        q1 = _mm256_srai_epi16(_mm256_add_epi16(q1, _mm256_maddubs_epi16(t->second.hi, hi)), 8);
        __m256i q = _mm256_packs_epi16(q0, q1);
        v = _mm256_max_epi8(_mm256_adds_epi8(v, _mm256_sign_epi8(q, t->sign)), bottom);
        LP_STORE(w + j, v);
    }
    if (dot)
        t->sum = _mm256_add_epi32(t->sum, lp_products8(LP_LOAD(xn + j), v));
}

/* |mu| <= 2^15 and e = 0, so |q| <= 64. LP_WAY_MULTIPLY: with a = |mu| = 256 a1 + a0 and r = 256 r1 + r0,
 *     floor((a x + r) / 2^16) = floor((a1 x + r1 + floor((a0 x + r0) / 2^8)) / 2^8),
 * each inner sum one vpmaddubsw of (a_i, r_i) with (x, 1), below 2^15 in size. For mu < 0:
 *     floor((mu x + r) / 2^16) = -floor((a x + (65535 - r)) / 2^16). */
LP_INLINE lp_sum lp_8_8_way(int rest, int way, int axpy, int dot, int R, const lp_step *s, const int8_t *x, int8_t *w,
                            const int8_t *xn, int64_t n, void *random, const uint8_t *ahead)
{
    lp_sum result = {0};
    lp_8_8_state t;
    if (way != LP_WAY_NONE)
        t.r = lp_random16(R, random);
    if (way == LP_WAY_ONE_STEP || way == LP_WAY_TWO_STEPS)
        t.h = lp_thresholds8(way, s->magic, t.r);
    if (way == LP_WAY_MULTIPLY) {
        const __m256i mu = _mm256_broadcastw_epi16(_mm_castpd_si128(_mm_set_sd(s->magic))), a = _mm256_abs_epi16(mu);
        t.a0 = _mm256_and_si256(a, _mm256_set1_epi16(255));
        t.a1 = _mm256_srli_epi16(a, 8);
        t.complement = _mm256_srai_epi16(mu, 15);
        t.sign = _mm256_or_si256(t.complement, _mm256_set1_epi8(1));
        lp_8_8_factors(&t);
    }
    int64_t j = 0;
    while (j + 32 <= n) {
        const int64_t end = n - j < LP_BLOCK ? n : j + LP_BLOCK;
        t.sum = _mm256_setzero_si256();
        for (; j + 64 <= end; j += 64) {
            LP_PREFETCH(ahead + j);
            lp_8_8_group(way, dot, R, &t, x, w, xn, j, random);
            lp_8_8_group(way, dot, R, &t, x, w, xn, j + 32, random);
        }
        if (j + 32 <= end) {
            lp_8_8_group(way, dot, R, &t, x, w, xn, j, random);
            j += 32;
        }
        if (dot) {
            const __m128i sum = lp_hsum32(t.sum);
            result.i += _mm_cvtsi128_si32(sum);
            result.f += _mm_cvtsd_f64(_mm_cvtepi32_pd(sum)); /* exact: below 2^47; without a detour through the integer unit */
        }
    }
    if (way != LP_WAY_NONE && R == LP_SRX) {
        LP_STORE(random, t.r.lo);
        LP_STORE((uint8_t *)random + 32, t.r.hi);
    }
    if (rest && j < n) {
        const int64_t tail = lp_tail(axpy, dot, 8, 8, R, axpy ? *s : (lp_step){0}, x, w, xn, j, (int)(n - j), random, NULL);
        result.i += tail;
        result.f += (double)tail;
    }
    return result;
}

LP_INLINE lp_sum lp_8_8_avx2(int rest, int axpy, int dot, int R, const lp_step *s, const void *x, void *w, const void *xn,
                             int64_t n, void *random, const uint8_t *ahead)
{
    const int8_t *a = (const int8_t *)x, *b = (const int8_t *)xn;
    if (!axpy)
        return lp_8_8_way(rest, LP_WAY_NONE, 0, dot, R, s, a, (int8_t *)w, b, n, random, ahead);
    if (rest && s->e > 0)
        return lp_int_avx2(rest, axpy, dot, 8, 8, R, s, x, w, xn, n, random, ahead);
    if ((R == LP_NEAREST || R == LP_SR) && s->mu >= -1024 && s->mu <= 1024) {
        if (s->mu >= -512 && s->mu <= 512)
            return lp_8_8_way(rest, LP_WAY_ONE_STEP, 1, dot, R, s, a, (int8_t *)w, b, n, random, ahead);
        return lp_8_8_way(rest, LP_WAY_TWO_STEPS, 1, dot, R, s, a, (int8_t *)w, b, n, random, ahead);
    }
    return lp_8_8_way(rest, LP_WAY_MULTIPLY, 1, dot, R, s, a, (int8_t *)w, b, n, random, ahead);
}

/* ---- 4 x 4 ------------------------------------------------------------------------------------------------------- */

/* A row has 16 possible x and 32 random words. With p = mu x = 2^16 hi + lo, q = hi + [lo > 65535 - r], and only the order of lo
 * among the 16 matters: value[x] = 16 hi + #{x' : lo(x') < lo(x)}, rank_j = #{x' : lo(x') > 65535 - r_j}, both counts below 16,
 * and floor((value[x] + rank_j) / 16) = q exactly. The model is kept in the high nibble of a byte (16 w), so the saturating
 * byte add, a mask and a max finish the update. |mu| <= 2^15, e = 0: hi in [-4, 4], sums within [-64, 94]. */
typedef struct lp_table4 {
    __m256i value, rank_even, rank_odd;
} lp_table4;

LP_INLINE lp_table4 lp_table4_make(int32_t mu, lp_i16x32 r)
{
    const __m256i sign = _mm256_set1_epi16((short)0x8000), zero = _mm256_setzero_si256(), low_word = _mm256_set1_epi32(0xFFFF);
    const __m256i x = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
    const __m256i mus = _mm256_set1_epi16((short)mu);
    /* |mu| = 2^15 cannot come here, so mu is an int16 and the high half below is right */
    const __m256i high = _mm256_mulhi_epi16(mus, x), low = _mm256_xor_si256(_mm256_mullo_epi16(mus, x), sign);
    const __m256i not_lo = _mm256_xor_si256(r.lo, _mm256_set1_epi16(0x7FFF)),
                  not_hi = _mm256_xor_si256(r.hi, _mm256_set1_epi16(0x7FFF));
    __m256i order = zero, rank_lo = zero, rank_hi = zero;
    int16_t lows[16];
    LP_STORE(lows, low);
    for (int k = 0; k < 16; k++) {
        const __m256i b = _mm256_set1_epi16(lows[k]);
        order = _mm256_sub_epi16(order, _mm256_cmpgt_epi16(low, b));
        rank_lo = _mm256_sub_epi16(rank_lo, _mm256_cmpgt_epi16(b, not_lo));
        rank_hi = _mm256_sub_epi16(rank_hi, _mm256_cmpgt_epi16(b, not_hi));
    }
    lp_table4 t;
    /* bytes 0..15 in both lanes */
    __m256i value = _mm256_add_epi16(_mm256_slli_epi16(high, 4), order);
    t.value = _mm256_permute4x64_epi64(_mm256_packs_epi16(value, value), 0x88);
    /* even and odd elements apart, 16 of each, the same in both lanes (64 elements are two blocks of words) */
    __m256i even = _mm256_packus_epi32(_mm256_and_si256(rank_lo, low_word), _mm256_and_si256(rank_hi, low_word));
    __m256i odd = _mm256_packus_epi32(_mm256_srli_epi32(rank_lo, 16), _mm256_srli_epi32(rank_hi, 16));
    even = _mm256_permute4x64_epi64(even, 0xD8);
    odd = _mm256_permute4x64_epi64(odd, 0xD8);
    t.rank_even = _mm256_permute4x64_epi64(_mm256_packus_epi16(even, even), 0x88);
    t.rank_odd = _mm256_permute4x64_epi64(_mm256_packus_epi16(odd, odd), 0x88);
    return t;
}

typedef struct lp_4_4_state {
    lp_table4 t;
    __m256i even, odd; /* 16-bit partial sums of the even and the odd elements */
} lp_4_4_state;

LP_INLINE void lp_4_4_group(int axpy, int dot, lp_4_4_state *t, const uint8_t *x, uint8_t *w, const uint8_t *xn)
{
    const __m256i low_nibble = _mm256_set1_epi8(15), high_nibble = _mm256_set1_epi8((char)0xF0), bottom = _mm256_set1_epi8(-112);
    const __m256i magnitude = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 7, 6, 5, 4, 3, 2, 1));
    const __m256i v = LP_LOAD(w);
    __m256i even = _mm256_and_si256(_mm256_slli_epi16(v, 4), high_nibble), odd = _mm256_and_si256(v, high_nibble);
    if (axpy) {
        const __m256i a = LP_LOAD(x);
        const __m256i xe = _mm256_and_si256(a, low_nibble), xo = _mm256_and_si256(_mm256_srli_epi16(a, 4), low_nibble);
        even = _mm256_adds_epi8(even, _mm256_add_epi8(_mm256_shuffle_epi8(t->t.value, xe), t->t.rank_even));
        odd = _mm256_adds_epi8(odd, _mm256_add_epi8(_mm256_shuffle_epi8(t->t.value, xo), t->t.rank_odd));
        even = _mm256_max_epi8(_mm256_and_si256(even, high_nibble), bottom);
        odd = _mm256_max_epi8(_mm256_and_si256(odd, high_nibble), bottom);
        LP_STORE(w, _mm256_or_si256(odd, _mm256_srli_epi16(even, 4)));
    }
    if (dot) {
        const __m256i b = LP_LOAD(xn);
        const __m256i be = _mm256_shuffle_epi8(magnitude, _mm256_and_si256(b, low_nibble));
        const __m256i bo = _mm256_shuffle_epi8(magnitude, _mm256_and_si256(_mm256_srli_epi16(b, 4), low_nibble));
        /* the sign of a byte is that of its high nibble; where that nibble is zero, so is the magnitude */
        t->even = _mm256_add_epi16(t->even, _mm256_maddubs_epi16(be, _mm256_sign_epi8(even, _mm256_slli_epi16(b, 4))));
        t->odd = _mm256_add_epi16(t->odd, _mm256_maddubs_epi16(bo, _mm256_sign_epi8(odd, b)));
    }
}

/* Dot: |x| by table, its sign put on 16 w; a vpmaddubsw pair is at most 2 * 8 * 112 = 1,792, and 16 of them (1,024 elements)
 * stay below 2^15; then int32 lanes. The sum is 16 times too large until the end. */
LP_INLINE lp_sum lp_4_4_avx2(int rest, int axpy, int dot, int R, const lp_step *s, const void *xv, void *wv, const void *xnv,
                             int64_t n, void *random, const uint8_t *ahead)
{
    const uint8_t *x = (const uint8_t *)xv, *xn = (const uint8_t *)xnv;
    uint8_t *w = (uint8_t *)wv;
    const __m256i one = _mm256_set1_epi16(1);
    lp_4_4_state t;
    lp_sum result = {0};
    if (axpy)
        t.t = lp_table4_make(s->mu, lp_random16(R, random));
    int64_t j = 0;
    while (j + 64 <= n) {
        const int64_t end = n - j < 1024 ? n : j + 1024;
        t.even = t.odd = _mm256_setzero_si256();
        for (; j + 128 <= end; j += 128) {
            LP_PREFETCH(ahead + j / 2);
            lp_4_4_group(axpy, dot, &t, x + j / 2, w + j / 2, xn + j / 2);
            lp_4_4_group(axpy, dot, &t, x + j / 2 + 32, w + j / 2 + 32, xn + j / 2 + 32);
        }
        if (j + 64 <= end) {
            lp_4_4_group(axpy, dot, &t, x + j / 2, w + j / 2, xn + j / 2);
            j += 64;
        }
        if (dot)
            result.i +=
                _mm_cvtsi128_si32(lp_hsum32(_mm256_add_epi32(_mm256_madd_epi16(t.even, one), _mm256_madd_epi16(t.odd, one))));
    }
    result.i /= 16;
    for (; rest && j < n; j += 32)
        result.i +=
            lp_tail(axpy, dot, 4, 4, R, axpy ? *s : (lp_step){0}, xv, wv, xnv, j, n - j < 32 ? (int)(n - j) : 32, random, NULL);
    result.f = (double)result.i;
    return result;
}

/* ---- pairs with 32f ---------------------------------------------------------------------------------------------- */

typedef struct lp_i32x32 {
    __m256i v[4];
} lp_i32x32;

LP_INLINE lp_i32x32 lp_load32(int bits, const void *p, int64_t j)
{
    const uint8_t *b = (const uint8_t *)p + lp_bytes(bits, j);
    lp_i32x32 v;
    if (bits == 4) {
        lp_i16x32 h = lp_load16(4, p, j);
        v.v[0] = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(h.lo));
        v.v[1] = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(h.lo, 1));
        v.v[2] = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(h.hi));
        v.v[3] = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(h.hi, 1));
        return v;
    }
    for (int k = 0; k < 4; k++)
        v.v[k] = bits == 8 ? _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(b + 8 * k)))
                           : _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(b + 16 * k)));
    return v;
}

LP_INLINE void lp_store32(int bits, void *p, int64_t j, lp_i32x32 v)
{
    lp_i16x32 h;
    h.lo = _mm256_permute4x64_epi64(_mm256_packs_epi32(v.v[0], v.v[1]), 0xD8);
    h.hi = _mm256_permute4x64_epi64(_mm256_packs_epi32(v.v[2], v.v[3]), 0xD8);
    lp_store16(bits, p, j, h);
}

/* Codes plus t, rounded up where its fraction is above u, saturated. */
LP_INLINE __m256i lp_add_float8(int M, __m256i w, __m256 t, __m256 u)
{
    const __m256 hi = _mm256_set1_ps(2.0f * (float)lp_max_code(M)), lo = _mm256_sub_ps(_mm256_setzero_ps(), hi);
    const __m256i top = _mm256_set1_epi32(lp_max_code(M)), bottom = _mm256_sub_epi32(_mm256_setzero_si256(), top);
    t = _mm256_max_ps(_mm256_min_ps(hi, t), lo); /* operand order: a NaN becomes lo */
    const __m256 f = _mm256_floor_ps(t);
    const __m256 up = _mm256_cmp_ps(_mm256_sub_ps(t, f), u, _CMP_GT_OQ);
    const __m256i q = _mm256_add_epi32(w, _mm256_sub_epi32(_mm256_cvttps_epi32(f), _mm256_castps_si256(up)));
    return _mm256_max_epi32(_mm256_min_epi32(q, top), bottom);
}

LP_INLINE lp_f32x32 lp_to_float(lp_i32x32 a)
{
    lp_f32x32 f;
    for (int k = 0; k < 4; k++)
        f.v[k] = _mm256_cvtepi32_ps(a.v[k]);
    return f;
}

LP_INLINE lp_f32x32 lp_loadf(int bits, const void *p, int64_t j)
{
    lp_f32x32 f;
    if (bits != 32)
        return lp_to_float(lp_load32(bits, p, j));
    for (int k = 0; k < 4; k++)
        f.v[k] = _mm256_loadu_ps((const float *)p + j + 8 * k);
    return f;
}

LP_INLINE __m256 lp_fraction8(__m256i words)
{
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(words, 8)), _mm256_set1_ps(0x1p-24f));
}

/* Fractions that stay the same for the whole row; for LP_SRX the lanes, to be advanced. */
LP_INLINE lp_i16x32 lp_fractions_fixed(int R, const void *random, __m256 u[4])
{
    lp_i16x32 lanes = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    u[0] = u[1] = u[2] = u[3] = _mm256_set1_ps(LP_NEAREST_U);
    if (R == LP_SR || R == LP_SRX)
        lanes = lp_random16(R, random);
    if (R == LP_SR) {
        u[0] = u[2] = lp_fraction8(lanes.lo);
        u[1] = u[3] = lp_fraction8(lanes.hi);
    }
    return lanes;
}

/* The fractions of elements j .. j + 31: two blocks of 16 words. */
LP_INLINE void lp_fractions(int R, void *random, int64_t j, lp_i16x32 *lanes, __m256 u[4])
{
    if (R == LP_SRX) {
        for (int k = 0; k < 4; k += 2) {
            lanes->lo = lp_xorshift64x4(lanes->lo);
            lanes->hi = lp_xorshift64x4(lanes->hi);
            u[k] = lp_fraction8(lanes->lo);
            u[k + 1] = lp_fraction8(lanes->hi);
        }
    } else if (R == LP_SRB)
        for (int k = 0; k < 4; k++)
            u[k] = lp_fraction8(LP_LOAD((const uint32_t *)random + j + 8 * k));
}

LP_INLINE lp_sum lp_float_avx2(int rest, int axpy, int dot, int D, int M, int R, const lp_step *s, const void *x, void *w,
                               const void *xn, int64_t n, void *random, const uint8_t *ahead)
{
    const int fixed = M != 32;
    lp_sum result = {0};
    double sum[32] = {0};
    __m256 m = _mm256_setzero_ps(), u[4] = {m, m, m, m};
    lp_i16x32 lanes = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    if (axpy) {
        m = _mm256_set1_ps(s->m);
        if (fixed)
            lanes = lp_fractions_fixed(R, random, u);
    }
    int64_t j = 0;
    /* A float32 model beyond the first-level cache: update a chunk, then take its product, and prefetch the next row only in the
     * second half, where it is the one stream from further away. Fused within 32 elements, the three streams together keep the
     * miss buffers full and the prefetches waiting: 0.4 of the roof at n = 2^14 instead of 0.7. */
    const int64_t chunk = axpy && dot && D == 32 && !fixed && n > LP_BLOCK ? 512 : 32;
    do {
        const int64_t block_end = n - j < LP_BLOCK ? n : j + LP_BLOCK;
        __m256 part[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
        while (j + chunk <= block_end && chunk > 32) {
            for (int64_t i = j; i < j + chunk; i += 8) {
                const __m256 t = _mm256_mul_ps(m, _mm256_loadu_ps((const float *)x + i));
                _mm256_storeu_ps((float *)w + i, _mm256_add_ps(_mm256_loadu_ps((const float *)w + i), t));
            }
            for (const int64_t stop = j + chunk; j < stop; j += 32) {
                LP_PREFETCH(ahead + 4 * j);
                LP_PREFETCH(ahead + 4 * j + 64);
                for (int k = 0; k < 4; k++) {
                    const __m256 v = _mm256_loadu_ps((const float *)w + j + 8 * k);
                    part[k] = _mm256_add_ps(part[k], _mm256_mul_ps(_mm256_loadu_ps((const float *)xn + j + 8 * k), v));
                }
            }
        }
        for (; j + 32 <= block_end; j += 32) {
            lp_f32x32 v;
            LP_PREFETCH(ahead + lp_bytes(D, j));
            if (D == 32)
                LP_PREFETCH(ahead + lp_bytes(D, j) + 64);
            if (fixed) {
                lp_i32x32 c = lp_load32(M, w, j);
                if (axpy) {
                    if (R == LP_SRX || R == LP_SRB)
                        lp_fractions(R, random, j, &lanes, u);
                    for (int k = 0; k < 4; k++)
                        c.v[k] = lp_add_float8(M, c.v[k], _mm256_mul_ps(m, _mm256_loadu_ps((const float *)x + j + 8 * k)), u[k]);
                    lp_store32(M, w, j, c);
                }
                v = lp_to_float(c);
            } else {
                v = lp_loadf(32, w, j);
                if (axpy) {
                    lp_f32x32 a = lp_loadf(D, x, j);
                    for (int k = 0; k < 4; k++) {
                        v.v[k] = _mm256_add_ps(v.v[k], _mm256_mul_ps(m, a.v[k]));
                        _mm256_storeu_ps((float *)w + j + 8 * k, v.v[k]);
                    }
                }
            }
            if (dot) {
                lp_f32x32 b = lp_loadf(D, xn, j);
                for (int k = 0; k < 4; k++)
                    part[k] = _mm256_add_ps(part[k], _mm256_mul_ps(b.v[k], v.v[k]));
            }
        }
        if (block_end == n && axpy && fixed && R == LP_SRX) {
            LP_STORE(random, lanes.lo);
            LP_STORE((uint8_t *)random + 32, lanes.hi);
        }
        float lanes32[32];
        if (dot || j < block_end)
            for (int k = 0; k < 4; k++)
                _mm256_storeu_ps(lanes32 + 8 * k, part[k]);
        if (rest && j < block_end) {
            lp_tail(axpy, dot, D, M, R, axpy ? *s : (lp_step){0}, x, w, xn, j, (int)(block_end - j), random, lanes32);
            j = block_end;
        }
        if (dot)
            for (int l = 0; l < 32; l++)
                sum[l] = sum[l] + (double)lanes32[l];
    } while (j < n);
    result.f = dot ? lp_tree(sum) : 0.0;
    return result;
}

/* ---- batches ----------------------------------------------------------------------------------------------------- */

/* Columns up to which an update keeps all its sums in registers while it goes over the rows; beyond, each row is read in a run. */
#define LP_SHORT 1024

/* Bytes of its own row that an update prefetches ahead. */
#define LP_UPDATE_AHEAD 2048

/* What the main road does not take, out of line: the update of k columns from column l of w on, l0 of the rows. */
static __attribute__((noinline, unused)) void lp_update_slow(int D, int M, int R, const lp_update *u, void *w, int64_t l0,
                                                             int64_t n, void *random)
{
    switch (D << 8 | M) {
#define LP_UPDATE_CASE(D, M) \
    case LP_BITS_##D << 8 | LP_BITS_##M: \
        lp_update_base(LP_BITS_##D, LP_BITS_##M, R, u, w, l0, n, random); \
        break;
        LP_PAIRS_FIXED(LP_UPDATE_CASE)
        LP_PAIRS_FLOAT(LP_UPDATE_CASE)
    }
}

/* The words r of 32 columns as the first terms of four sums of eight. high8: in the order of unpacked bytes, times 2^8. */
LP_INLINE void lp_first_terms(int high8, lp_i16x32 r, __m256i s[4])
{
    const __m256i zero = _mm256_setzero_si256();
    const lp_i16x32 t = high8 ? lp_unpacked_order(r) : r;
    s[0] = _mm256_unpacklo_epi16(t.lo, zero);
    s[1] = _mm256_unpackhi_epi16(t.lo, zero);
    s[2] = _mm256_unpacklo_epi16(t.hi, zero);
    s[3] = _mm256_unpackhi_epi16(t.hi, zero);
    for (int k = 0; high8 && k < 4; k++)
        s[k] = _mm256_slli_epi32(s[k], 8);
}

/* Two rows of 32 numbers: s += mu_0 x_0 + mu_1 x_1. high8: bytes are interleaved and come to lie in the high halves of 16 bits,
 * which spares extending their sign. */
LP_INLINE void lp_add_pair(int high8, int D, __m256i mu, const uint8_t *x0, const uint8_t *x1, int64_t l, __m256i s[4])
{
    if (high8) {
        const __m256i a = LP_LOAD(x0 + l), b = LP_LOAD(x1 + l), zero = _mm256_setzero_si256();
        const __m256i lo = _mm256_unpacklo_epi8(a, b), hi = _mm256_unpackhi_epi8(a, b);
        s[0] = _mm256_add_epi32(s[0], _mm256_madd_epi16(_mm256_unpacklo_epi8(zero, lo), mu));
        s[1] = _mm256_add_epi32(s[1], _mm256_madd_epi16(_mm256_unpackhi_epi8(zero, lo), mu));
        s[2] = _mm256_add_epi32(s[2], _mm256_madd_epi16(_mm256_unpacklo_epi8(zero, hi), mu));
        s[3] = _mm256_add_epi32(s[3], _mm256_madd_epi16(_mm256_unpackhi_epi8(zero, hi), mu));
    } else {
        const lp_i16x32 a = lp_load16(D, x0, l), b = lp_load16(D, x1, l);
        s[0] = _mm256_add_epi32(s[0], _mm256_madd_epi16(_mm256_unpacklo_epi16(a.lo, b.lo), mu));
        s[1] = _mm256_add_epi32(s[1], _mm256_madd_epi16(_mm256_unpackhi_epi16(a.lo, b.lo), mu));
        s[2] = _mm256_add_epi32(s[2], _mm256_madd_epi16(_mm256_unpacklo_epi16(a.hi, b.hi), mu));
        s[3] = _mm256_add_epi32(s[3], _mm256_madd_epi16(_mm256_unpackhi_epi16(a.hi, b.hi), mu));
    }
}

/* w += floor(s / 2^16), or s / 2^24, of 32 columns. s is below 2^31, so that 16 bits hold what is added, or 8. */
LP_INLINE void lp_add_sums(int high8, int M, void *w, int64_t l, const __m256i s[4])
{
    const int shift = high8 ? 24 : 16;
    const __m256i a = _mm256_packs_epi32(_mm256_srai_epi32(s[0], shift), _mm256_srai_epi32(s[1], shift));
    const __m256i b = _mm256_packs_epi32(_mm256_srai_epi32(s[2], shift), _mm256_srai_epi32(s[3], shift));
    if (high8 && M == 8) {
        int8_t *const v = (int8_t *)w + l;
        LP_STORE(v, _mm256_max_epi8(_mm256_adds_epi8(LP_LOAD(v), _mm256_packs_epi16(a, b)), _mm256_set1_epi8(-127)));
        return;
    }
    lp_i16x32 v = lp_load16(M, w, l);
    v.lo = lp_apply16(M, v.lo, high8 ? _mm256_permute2x128_si256(a, b, 0x20) : a);
    v.hi = lp_apply16(M, v.hi, high8 ? _mm256_permute2x128_si256(a, b, 0x31) : b);
    lp_store16(M, w, l, v);
}

/* The last columns of a row, from the l-th on. */
LP_INLINE int64_t lp_products_tail(int D, int M, const uint8_t *x, const void *w, int64_t l, int64_t n, float *part)
{
    return l < n ? lp_tail(0, 1, D, M, LP_NEAREST, (lp_step){0}, NULL, (void *)w, x, l, (int)(n - l), NULL, part) : 0;
}

/* What `rows` rows of integers need at once: their pieces, what to prefetch meanwhile, and 32-bit sums (see lp_int_avx2). */
typedef struct lp_products_state {
    const uint8_t *x[4], *ahead[4];
    __m256i low[4], high[4];
} lp_products_state;

/* The products of rows b .. b + rows - 1 from column l of the piece on. */
LP_INLINE void lp_products_begin(int rows, int D, lp_products_state *t, const lp_products *p, int64_t b, int64_t l)
{
    for (int k = 0; k < rows; k++) {
        t->x[k] = p->x[b + k] + lp_bytes(D, p->j + l);
        t->ahead[k] = p->ahead[b + k] + lp_bytes(D, l);
        t->low[k] = t->high[k] = _mm256_setzero_si256();
    }
}

/* 8-bit data and a model of at most 8 bits: data in the high halves of 16 bits, which spares extending their sign. The sums are then
 * 2^8 times as large: 2^8 2^7 (2^7 - 1) is the largest product, and a lane gets 2^9 of them, less than 2^31. */
LP_INLINE int lp_high8(int D, int M) { return D == 8 && M <= 8; }

LP_INLINE void lp_products_group(int rows, int D, int M, lp_products_state *t, const void *w, int64_t l)
{
    const __m256i zero = _mm256_setzero_si256();
    lp_i16x32 v;
    if (lp_high8(D, M) && M == 8) {
        const __m256i bytes = LP_LOAD((const int8_t *)w + l);
        v.lo = _mm256_srai_epi16(_mm256_unpacklo_epi8(zero, bytes), 8);
        v.hi = _mm256_srai_epi16(_mm256_unpackhi_epi8(zero, bytes), 8);
    } else {
        v = lp_load16(M, w, l);
        if (lp_high8(D, M))
            v = lp_unpacked_order(v);
    }
    for (int k = 0; k < rows; k++) {
        lp_i16x32 a;
        if (lp_high8(D, M)) {
            const __m256i bytes = LP_LOAD(t->x[k] + l);
            a.lo = _mm256_unpacklo_epi8(zero, bytes);
            a.hi = _mm256_unpackhi_epi8(zero, bytes);
        } else
            a = lp_load16(D, t->x[k], l);
        const __m256i p = _mm256_madd_epi16(a.lo, v.lo), q = _mm256_madd_epi16(a.hi, v.hi);
        t->low[k] = _mm256_add_epi32(t->low[k], _mm256_add_epi32(p, q));
        if (D == 16 && M == 16)
            t->high[k] = _mm256_add_epi32(t->high[k], _mm256_add_epi32(_mm256_srai_epi32(p, 16), _mm256_srai_epi32(q, 16)));
    }
}

/* The sums of at most LP_BLOCK columns, to where they belong. */
LP_INLINE void lp_products_end(int rows, int D, int M, lp_products_state *t, const lp_products *p, int64_t b)
{
    int64_t *const sums = (int64_t *)p->sums + b;
    for (int k = 0; lp_high8(D, M) && k < rows; k++)
        t->low[k] = _mm256_srai_epi32(t->low[k], 8);
    if (rows == 4 && D + M <= 20) { /* 2^12 columns: a row's sum is at most 2^(12 + D - 1 + M - 1) */
        const __m256i s = _mm256_hadd_epi32(_mm256_hadd_epi32(t->low[0], t->low[1]), _mm256_hadd_epi32(t->low[2], t->low[3]));
        const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
        LP_STORE(sums, _mm256_add_epi64(LP_LOAD(sums), _mm256_cvtepi32_epi64(four)));
    } else
        for (int k = 0; k < rows; k++) {
            if (D == 16 && M == 16) {
                const __m256i rest = _mm256_sub_epi32(t->low[k], _mm256_slli_epi32(t->high[k], 16));
                sums[k] += lp_hsum32_wide(t->high[k]) * 65536 + lp_hsum32_unsigned(rest);
            } else
                sums[k] += lp_hsum32_wide(t->low[k]);
        }
}

/* `rows` rows at once, so that w is loaded, and widened, once for them; n <= LP_BLOCK columns from column l0 of the piece on. */
LP_INLINE void lp_products_int(int rows, int D, int M, const lp_products *p, int64_t b, int64_t l0, int64_t n)
{
    const uint8_t *const w = (const uint8_t *)p->w + lp_bytes(M, l0);
    lp_products_state t;
    lp_products_begin(rows, D, &t, p, b, l0);
    int64_t l = 0;
    for (; l + 64 <= n; l += 64) {
        for (int k = 0; k < rows; k++) {
            LP_PREFETCH(t.ahead[k] + lp_bytes(D, l));
            if (D == 16)
                LP_PREFETCH(t.ahead[k] + lp_bytes(D, l) + 64);
        }
        lp_products_group(rows, D, M, &t, w, l);
        lp_products_group(rows, D, M, &t, w, l + 32);
    }
    if (l + 32 <= n) {
        lp_products_group(rows, D, M, &t, w, l);
        l += 32;
    }
    lp_products_end(rows, D, M, &t, p, b);
    for (int k = 0; l < n && k < rows; k++)
        ((int64_t *)p->sums)[b + k] += lp_products_tail(D, M, t.x[k], w, l, n, NULL);
}

/* Columns of the sums that wait in the first-level cache while rows go by, and of the products that are as many numbers as four rows of
 * those: at most LP_BLOCK, for the products' own sums. */
#define LP_SUMS 1024
#define LP_PART (4 * LP_SUMS / LP_ABREAST)

/* 2 pairs rows of 32 columns. */
LP_INLINE void lp_update_32(int pairs, int high8, int D, int M, const uint8_t *const x[4], const __m256i mu[2], int64_t i,
                            const __m256i *from, __m256i *sums, void *w)
{
    __m256i s[4];
    for (int k = 0; k < 4; k++)
        s[k] = LP_LOAD(from + k);
    for (int k = 0; k < pairs; k++)
        lp_add_pair(high8, D, mu[k], x[2 * k], x[2 * k + 1], i, s);
    if (w)
        lp_add_sums(high8, M, w, i, s);
    else
        for (int k = 0; k < 4; k++)
            LP_STORE(sums + i / 8 + k, s[k]);
}

/* LP_ABREAST rows of 128 / LP_ABREAST columns. */
LP_INLINE void lp_products_quarter(int D, int M, lp_products_state *t, const void *w, int64_t l)
{
    for (int k = 0; k < 128 / LP_ABREAST; k += 64) {
        for (int row = 0; row < LP_ABREAST; row++) {
            LP_PREFETCH(t->ahead[row] + lp_bytes(D, l + k));
            if (D == 16)
                LP_PREFETCH(t->ahead[row] + lp_bytes(D, l + k) + 64);
        }
        lp_products_group(LP_ABREAST, D, M, t, w, l + k);
        lp_products_group(LP_ABREAST, D, M, t, w, l + k + 32);
    }
}

/* 2 pairs rows, from the b-th on, of n columns: the sums come from `from`, `step` vectors for each 32 columns, and go to `sums`, or,
 * those of the last rows, into the model. No more than four rows at once: rows whose distance is a power of two share one set of a
 * cache. With p, n is LP_SUMS, and meanwhile rows pb .. of p are multiplied from column pl of their piece on, as many numbers: those
 * come from memory, the update's from a cache, and neither has to wait for the other. */
LP_INLINE void lp_update_rows(int pairs, int high8, int D, int M, const lp_update *u, int64_t b, const __m256i *from,
                              int64_t step, __m256i *sums, void *w, int64_t j, int64_t l, int64_t n, const lp_products *p,
                              int64_t pb, int64_t pl)
{
    const int last = b + 2 * pairs >= u->count;
    const uint8_t *x[4];
    __m256i mu[2];
    lp_products_state t;
    for (int k = 0; k < 2 * pairs; k++)
        x[k] = u->x[b + k] + lp_bytes(D, j + l);
    for (int k = 0; k < pairs; k++)
        mu[k] = _mm256_set1_epi32(u->pairs[(b >> 1) + k]);
    if (p)
        lp_products_begin(LP_ABREAST, D, &t, p, pb, pl);
    const uint8_t *const model = p ? (const uint8_t *)p->w + lp_bytes(M, pl) : NULL;
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
        for (int k = 0; k < 2 * pairs; k++) {
            LP_PREFETCH(x[k] + lp_bytes(D, i) + LP_UPDATE_AHEAD);
            if (D == 16)
                LP_PREFETCH(x[k] + lp_bytes(D, i) + LP_UPDATE_AHEAD + 64);
        }
        lp_update_32(pairs, high8, D, M, x, mu, i, from, sums, last ? (uint8_t *)w + lp_bytes(M, l) : NULL);
        if (p)
            lp_products_quarter(D, M, &t, model, 4 / LP_ABREAST * i);
        lp_update_32(pairs, high8, D, M, x, mu, i + 32, from + step, sums, last ? (uint8_t *)w + lp_bytes(M, l) : NULL);
        if (p)
            lp_products_quarter(D, M, &t, model, 4 / LP_ABREAST * (i + 32));
        from += 2 * step;
    }
    if (i < n)
        lp_update_32(pairs, high8, D, M, x, mu, i, from, sums, last ? (uint8_t *)w + lp_bytes(M, l) : NULL);
    if (p)
        lp_products_end(LP_ABREAST, D, M, &t, p, pb);
}

/* All rows of 32 groups columns from column l of w on, j + l of the rows. */
LP_INLINE void lp_update_columns(int groups, int high8, int D, int M, int R, const lp_update *u, void *w, int64_t j, int64_t l,
                                 lp_i16x32 *r, const __m256i first[4], const void *random)
{
    __m256i s[2][4];
    for (int k = 0; k < groups; k++) {
        if (R == LP_SRX || R == LP_SRB) {
            lp_advance16(R, random, l + 32 * k, r);
            lp_first_terms(high8, *r, s[k]);
        } else
            for (int i = 0; i < 4; i++)
                s[k][i] = first[i];
    }
    for (int64_t b = 0; b < u->count; b += 2) {
        const __m256i mu = _mm256_set1_epi32(u->pairs[b >> 1]);
        const uint8_t *const x0 = u->x[b], *const x1 = u->x[b + 1];
        for (int k = 0; k < groups; k++)
            lp_add_pair(high8, D, mu, x0, x1, j + l + 32 * k, s[k]);
    }
    for (int k = 0; k < groups; k++)
        lp_add_sums(high8, M, w, l + 32 * k, s[k]);
}

/* Integer data, fixed-point model, no e, sums within 32 bits. Returns how many parts of the products were done meanwhile: LP_ABREAST
 * rows after another, LP_PART columns each. */
LP_INLINE int64_t lp_update_int(int high8, int D, int M, int R, const lp_update *u, const lp_products *p, void *w, int64_t j,
                                int64_t n, void *random)
{
    lp_i16x32 r = lp_random16(R, random);
    __m256i first[4], sums[LP_SUMS / 8];
    lp_first_terms(high8, r, first);
    const int64_t whole = n & ~31, across = p->n % LP_PART ? 0 : p->n / LP_PART, parts = across * (p->count / LP_ABREAST);
    int64_t done = 0, row = 0, column = 0, l = 0;
    for (; n <= LP_SHORT && l + 64 <= whole; l += 64)
        lp_update_columns(2, high8, D, M, R, u, w, j, l, &r, first, random);
    for (; n <= LP_SHORT && l < whole; l += 32)
        lp_update_columns(1, high8, D, M, R, u, w, j, l, &r, first, random);
    for (; l < whole; l += LP_SUMS) {
        const int64_t k = whole - l < LP_SUMS ? whole - l : LP_SUMS;
        const __m256i *from = first;
        int64_t step = 0;
        if (R == LP_SRX || R == LP_SRB) {
            for (int64_t i = 0; i < k; i += 32) {
                lp_advance16(R, random, l + i, &r);
                lp_first_terms(high8, r, sums + i / 8);
            }
            from = sums;
            step = 4;
        }
        int64_t b = 0;
        for (; b + 2 < u->count; b += 4) {
            if (k == LP_SUMS && done < parts) {
                lp_update_rows(2, high8, D, M, u, b, from, step, sums, w, j, l, LP_SUMS, p, row, column);
                done++;
                if ((column += LP_PART) == p->n) {
                    column = 0;
                    row += LP_ABREAST;
                }
            } else
                lp_update_rows(2, high8, D, M, u, b, from, step, sums, w, j, l, k, NULL, 0, 0);
            from = sums;
            step = 4;
        }
        if (b < u->count)
            lp_update_rows(1, high8, D, M, u, b, from, step, sums, w, j, l, k, NULL, 0, 0);
    }
    if (R == LP_SRX) {
        LP_STORE(random, r.lo);
        LP_STORE((uint8_t *)random + 32, r.hi);
    }
    if (whole < n)
        lp_update_slow(D, M, R, u, (uint8_t *)w + lp_bytes(M, whole), j + whole, n - whole,
                       R == LP_SRB ? (void *)((uint16_t *)random + whole) : random);
    return done;
}

/* A 32f on a side: float32 products, added in order. */
LP_INLINE void lp_update_float(int D, int M, int R, const lp_update *u, void *w, int64_t j, int64_t n, void *random)
{
    __m256 fractions[4];
    lp_i16x32 lanes = lp_fractions_fixed(M == 32 ? LP_NEAREST : R, random, fractions);
    int64_t l = 0;
    for (; l + 32 <= n; l += 32) {
        lp_f32x32 s = lp_loadf(D, u->x[0], j + l);
        const __m256 m0 = _mm256_set1_ps(u->m[0]);
        for (int k = 0; k < 4; k++)
            s.v[k] = _mm256_mul_ps(m0, s.v[k]);
        for (int64_t b = 1; b < u->count; b++) {
            const __m256 m = _mm256_set1_ps(u->m[b]);
            const lp_f32x32 a = lp_loadf(D, u->x[b], j + l);
            LP_PREFETCH(u->x[b] + lp_bytes(D, j + l) + LP_UPDATE_AHEAD);
            if (D == 32)
                LP_PREFETCH(u->x[b] + lp_bytes(D, j + l) + LP_UPDATE_AHEAD + 64);
            for (int k = 0; k < 4; k++)
                s.v[k] = _mm256_add_ps(s.v[k], _mm256_mul_ps(m, a.v[k]));
        }
        if (M == 32) {
            float *const v = (float *)w + l;
            for (int k = 0; k < 4; k++)
                _mm256_storeu_ps(v + 8 * k, _mm256_add_ps(_mm256_loadu_ps(v + 8 * k), s.v[k]));
        } else {
            lp_i32x32 v = lp_load32(M, w, l);
            lp_fractions(R, random, l, &lanes, fractions);
            for (int k = 0; k < 4; k++)
                v.v[k] = lp_add_float8(M, v.v[k], s.v[k], fractions[k]);
            lp_store32(M, w, l, v);
        }
    }
    if (M != 32 && R == LP_SRX) {
        LP_STORE(random, lanes.lo);
        LP_STORE((uint8_t *)random + 32, lanes.hi);
    }
    if (l < n)
        lp_update_slow(D, M, R, u, (uint8_t *)w + lp_bytes(M, l), j + l, n - l,
                       R == LP_SRB ? (void *)((uint32_t *)random + l) : random);
}

/* The same for pairs with 32f. */
LP_INLINE void lp_products_float(int rows, int D, int M, const lp_products *p, int64_t b, int64_t l0, int64_t n)
{
    const uint8_t *const w = (const uint8_t *)p->w + lp_bytes(M, l0);
    const uint8_t *x[2], *ahead[2];
    lp_f32x32 part[2];
    for (int k = 0; k < rows; k++) {
        x[k] = p->x[b + k] + lp_bytes(D, p->j + l0);
        ahead[k] = p->ahead[b + k] + lp_bytes(D, l0);
        for (int i = 0; i < 4; i++)
            part[k].v[i] = _mm256_setzero_ps();
    }
    int64_t l = 0;
    for (; l + 32 <= n; l += 32) {
        const lp_f32x32 v = lp_loadf(M, w, l);
        for (int k = 0; k < rows; k++) {
            const lp_f32x32 a = lp_loadf(D, x[k], l);
            LP_PREFETCH(ahead[k] + lp_bytes(D, l));
            if (D == 32)
                LP_PREFETCH(ahead[k] + lp_bytes(D, l) + 64);
            for (int i = 0; i < 4; i++)
                part[k].v[i] = _mm256_add_ps(part[k].v[i], _mm256_mul_ps(a.v[i], v.v[i]));
        }
    }
    for (int k = 0; k < rows; k++) {
        double *const sums = (double *)p->sums + 32 * (b + k);
        float lanes[32];
        for (int i = 0; i < 4; i++)
            _mm256_storeu_ps(lanes + 8 * i, part[k].v[i]);
        lp_products_tail(D, M, x[k], w, l, n, lanes);
        for (int i = 0; i < 32; i++)
            sums[i] = sums[i] + (double)lanes[i];
    }
}

LP_INLINE void lp_batch_avx2(int D, int M, int R, const lp_update *u, const lp_products *p, void *w, int64_t j, int64_t n,
                             void *random)
{
    const int floats = D == 32 || M == 32, rows = p->n > LP_SHORT ? 1 : floats ? 2 : 4;
    int64_t done = 0;
    if (u->count > 0) {
        if (floats)
            lp_update_float(D, M, R, u, w, j, n, random);
        else if (!u->regular || u->reach > (((int64_t)1 << 31) - 65536) >> (D - 1)) /* or 32 bits do not hold the sums with r */
            lp_update_slow(D, M, R, u, w, j, n, random);
        else if (D == 8 && u->reach <= (1 << 16) - 512) /* 2^8 times as much is within 32 bits too */
            done = lp_update_int(1, D, M, R, u, p, w, j, n, random);
        else
            done = lp_update_int(0, D, M, R, u, p, w, j, n, random);
    }
    int64_t b = 0, l = 0;
    if (done > 0) {
        const int64_t across = p->n / LP_PART, column = done % across * LP_PART;
        b = done / across * LP_ABREAST;
        for (int k = 0; column > 0 && k < LP_ABREAST; k++, b++)
            for (l = column; l < p->n; l += LP_BLOCK)
                lp_products_int(1, D, M, p, b, l, p->n - l < LP_BLOCK ? p->n - l : LP_BLOCK);
        l = 0;
    }
    for (; rows > 1 && b + rows <= p->count; b += rows) /* n <= LP_SHORT, so that there is one block */
        if (floats)
            lp_products_float(2, D, M, p, b, 0, p->n);
        else
            lp_products_int(4, D, M, p, b, 0, p->n);
    for (; b < p->count; b++) {
        for (; l < p->n; l += LP_BLOCK) {
            const int64_t k = p->n - l < LP_BLOCK ? p->n - l : LP_BLOCK;
            if (floats)
                lp_products_float(1, D, M, p, b, l, k);
            else
                lp_products_int(1, D, M, p, b, l, k);
        }
        l = 0;
    }
}

/* (double)v, rounded once: 2^52 + the low 32 bits, and 2^84 + the high ones, are exact. */
LP_INLINE __m256d lp_int64_to_double(__m256i v)
{
    const __m256i low = _mm256_blend_epi32(_mm256_set1_epi64x(0x4330000000000000), v, 0x55);
    const __m256i high = _mm256_xor_si256(_mm256_srli_epi64(v, 32), _mm256_set1_epi64x(0x4530000080000000));
    const __m256d offset = _mm256_castsi256_pd(_mm256_set1_epi64x(0x4530000080100000)); /* 2^84 + 2^63 + 2^52 */
    return _mm256_add_pd(_mm256_sub_pd(_mm256_castsi256_pd(high), offset), _mm256_castsi256_pd(low));
}

/* Four rows of float32 numbers: labels or weights. */
LP_INLINE __m256d lp_floats_of_rows(const float *v, const int64_t *order, int64_t i)
{
    if (!order)
        return _mm256_cvtps_pd(_mm_loadu_ps(v + i));
    return _mm256_setr_pd(v[order[i]], v[order[i + 1]], v[order[i + 2]], v[order[i + 3]]);
}

/* lp_logistic of four numbers, operation for operation. */
LP_INLINE __m256d lp_logistic4(__m256d t16)
{
    const __m256d limit = _mm256_set1_pd(16.0 * LP_LOGISTIC_RANGE), magic = _mm256_set1_pd(LP_MAGIC);
    t16 = _mm256_max_pd(_mm256_min_pd(t16, limit), _mm256_sub_pd(_mm256_setzero_pd(), limit));
    const __m256d node = _mm256_add_pd(t16, magic);
    double nodes[4];
    __m256d c[4];
    _mm256_storeu_pd(nodes, node);
    for (int k = 0; k < 4; k++)
        c[k] = _mm256_loadu_pd((const double *)lp_entry(lp_logistic_table[16 * LP_LOGISTIC_RANGE], nodes[k], 5));
    const __m256d a = _mm256_unpacklo_pd(c[0], c[1]), b = _mm256_unpackhi_pd(c[0], c[1]);
    const __m256d d = _mm256_unpacklo_pd(c[2], c[3]), e = _mm256_unpackhi_pd(c[2], c[3]);
    const __m256d c0 = _mm256_permute2f128_pd(a, d, 0x20), c1 = _mm256_permute2f128_pd(b, e, 0x20);
    const __m256d c2 = _mm256_permute2f128_pd(a, d, 0x31), c3 = _mm256_permute2f128_pd(b, e, 0x31);
    const __m256d u = _mm256_sub_pd(t16, _mm256_sub_pd(node, magic));
    return _mm256_add_pd(_mm256_add_pd(c0, _mm256_mul_pd(c1, u)),
                         _mm256_mul_pd(_mm256_mul_pd(u, u), _mm256_add_pd(c2, _mm256_mul_pd(c3, u))));
}

/* lp_loss_step for four examples at a time, operation for operation: integers' products, no intercept. Returns how many: it stops where a
 * product is not finite, and does none with an intercept or anchors. */
LP_INLINE int64_t lp_slopes_avx2(int kind, const lp_sgd *g, lp_batch *t, int64_t first, double factor)
{
    const __m256d sixteen = _mm256_set1_pd(16.0), zero = _mm256_setzero_pd(), scale = _mm256_set1_pd(g->dot_scale);
    const lp_loss *const l = &g->loss;
    int64_t i = 0;
    for (; !g->intercept && !g->anchor && i + 4 <= t->next.count; i += 4) {
        const __m256d z = lp_int64_to_double(LP_LOAD((const int64_t *)t->next.sums + i));
        const __m256d y = lp_floats_of_rows(g->y, g->order, first + i);
        __m256d k = _mm256_set1_pd(factor), slope;
        if (g->weight)
            k = _mm256_mul_pd(k, lp_floats_of_rows(g->weight, g->order, first + i));
        const __m256d s = kind == LP_RESIDUAL ? scale : _mm256_mul_pd(sixteen, _mm256_mul_pd(scale, y));
        const __m256d p = _mm256_add_pd(_mm256_mul_pd(z, s), zero); /* + the intercept: it is not -0 */
        if (_mm256_movemask_pd(_mm256_cmp_pd(_mm256_sub_pd(p, p), zero, _CMP_EQ_OQ)) != 15)
            break;
        if (kind == LP_LOGISTIC) {
            slope = _mm256_mul_pd(lp_logistic4(p), _mm256_mul_pd(y, k));
        } else {
            const __m256d r = kind == LP_RESIDUAL ? _mm256_sub_pd(y, p)
                                                  : _mm256_sub_pd(_mm256_set1_pd(1.0), _mm256_mul_pd(_mm256_set1_pd(0.0625), p));
            __m256d v = _mm256_mul_pd(_mm256_set1_pd(l->slope), r);
            v = _mm256_blendv_pd(v, _mm256_set1_pd(l->low), _mm256_cmp_pd(r, _mm256_set1_pd(l->below), _CMP_LT_OQ));
            v = _mm256_blendv_pd(v, _mm256_set1_pd(l->high), _mm256_cmp_pd(r, _mm256_set1_pd(l->above), _CMP_GT_OQ));
            slope = _mm256_mul_pd(v, kind == LP_RESIDUAL ? k : _mm256_mul_pd(y, k));
        }
        _mm256_storeu_pd(t->slope + i, slope);
    }
    return i;
}

/* lp_make_step16 for four steps at a time, e = 0. Returns how many: it stops where a step is too large for that. */
LP_INLINE int64_t lp_round_steps_avx2(lp_update *u, const double *slope, double scale, int stochastic, const uint64_t *draws)
{
    const __m256d limit = _mm256_set1_pd(32768.0), magic = _mm256_set1_pd(LP_MAGIC), sign = _mm256_set1_pd(-0.0);
    const __m128i edge = _mm_set1_epi32(32768);
    const __m256i even = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
    int64_t b = 0;
    for (; b + 4 <= u->count; b += 4) {
        __m256d t = _mm256_mul_pd(_mm256_loadu_pd(slope + b), _mm256_set1_pd(scale));
        if (_mm256_movemask_pd(_mm256_cmp_pd(_mm256_andnot_pd(sign, t), limit, _CMP_LT_OQ)) != 15)
            break;
        if (stochastic) { /* 2 h + 1 below 2^33, as the low bits of 2^52 + 2 h + 1 */
            const __m256i odd = _mm256_or_si256(_mm256_slli_epi64(_mm256_srli_epi64(LP_LOAD(draws + b), 32), 1),
                                                _mm256_set1_epi64x(0x4330000000000001));
            const __m256d v = _mm256_sub_pd(_mm256_castsi256_pd(odd), _mm256_set1_pd(0x1p52 + 4294967296.0));
            t = _mm256_add_pd(t, _mm256_mul_pd(v, _mm256_set1_pd(0x1p-33)));
        }
        const __m256i bits = _mm256_castpd_si256(_mm256_add_pd(t, magic));
        const __m128i mu = _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(bits, even));
        if (_mm_movemask_epi8(_mm_cmpeq_epi32(_mm_abs_epi32(mu), edge)))
            break;
        _mm_storeu_si128((__m128i *)(u->mu + b), mu);
        _mm_storeu_si128((__m128i *)(u->e + b), _mm_setzero_si128());
    }
    return b;
}

/* lp_update_close, eight steps at a time. pairs has room for a multiple of eight. */
LP_INLINE void lp_update_close_avx2(lp_update *u)
{
    const int64_t count = u->count;
    __m256i reach = _mm256_setzero_si256(), e = reach;
    int64_t b = 0;
    for (; b + 8 <= count; b += 8) {
        const __m256i mu = LP_LOAD(u->mu + b);
        e = _mm256_or_si256(e, LP_LOAD(u->e + b));
        reach = _mm256_add_epi64(reach, _mm256_cvtepu32_epi64(_mm256_castsi256_si128(_mm256_abs_epi32(mu))));
        reach = _mm256_add_epi64(reach, _mm256_cvtepu32_epi64(_mm256_extracti128_si256(_mm256_abs_epi32(mu), 1)));
        _mm_storeu_si128((__m128i *)(u->pairs + b / 2),
                         _mm_packs_epi32(_mm256_castsi256_si128(mu), _mm256_extracti128_si256(mu, 1)));
    }
    if (!_mm256_testz_si256(e, e)) { /* rare */
        lp_update_close(u);
        return;
    }
    lp_update_close_from(u, b, lp_hsum64(reach));
}

/* Whether a row of n numbers leaves no remainder, and a step keeps to the main road: then the body makes no call, and the
 * training loop around it stays in registers. */
LP_INLINE int lp_whole_avx2(int D, int M, int64_t n) { return n % (D == 4 && M == 4 ? 64 : 32) == 0; }
LP_INLINE int lp_regular_avx2(int D, int M, const lp_step *s)
{
    return D == 32 || M == 32 || s->e <= (D == 16 || D == M ? 0 : D == 8 ? 8 : 12);
}

/* rest: whether n may leave a remainder, and the step may be too large for the main road. */
LP_INLINE lp_sum lp_body_avx2(int rest, int axpy, int dot, int D, int M, int R, const lp_step *s, const void *x, void *w,
                              const void *xn, int64_t n, void *random, const uint8_t *ahead)
{
    if (D == 32 || M == 32)
        return lp_float_avx2(rest, axpy, dot, D, M, R, s, x, w, xn, n, random, ahead);
    if (rest && axpy && s->e > (D == 16 ? 0 : D == 8 ? 8 : 12))
        return lp_slow(axpy, dot, D, M, R, *s, x, w, xn, n, random, ahead);
    if (D == 8 && M == 8)
        return lp_8_8_avx2(rest, axpy, dot, R, s, x, w, xn, n, random, ahead);
    if (D == 4 && M == 4 && (!axpy || ((!rest || s->e == 0) && (R == LP_NEAREST || R == LP_SR))))
        return lp_4_4_avx2(rest, axpy, dot, R, s, x, w, xn, n, random, ahead);
    return lp_int_avx2(rest, axpy, dot, D, M, R, s, x, w, xn, n, random, ahead);
}

#endif
