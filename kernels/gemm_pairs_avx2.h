/* Half the multiplications (Winograd, "A new algorithm for inner product", IEEE Trans. Computers 17(7), 1968), for 8 x 8 bits in words and for
 * weights of 4 bits in bytes:
 *
 *   (a1 + w2) (a2 + w1)  =  a1 w1 + a2 w2  +  a1 a2  +  w2 w1
 *
 * The excess depends on the row or on the output alone: it is summed once and taken from the sum. int32 sums are right modulo 2^32 whatever is
 * added and taken away, so this is exact as deep as the sum itself is. More units add than multiply: three additions and a
 * multiplication go faster than two of each. Panels: int32, the excess of each output; then for each step two vectors of u (what a1 meets) and
 * two of v (what a2 meets).
 *
 * ---- words: 8 x 8 bits
 *   sum[i][j] += (a01 + u) (a23 + v)                                                   vpaddw, vpaddw, vpmaddwd, vpaddd
 * A step is 4 numbers of 16 outputs: u = weights 2 and 3, v = weights 0 and 1, output j at words 2 j and 2 j + 1. Prepared rows: words.
 * Packed: u and v as int8_t in the same order.
 *
 * ---- bytes: weights of 4 bits, activations of up to 4
 *   sum[i][j] += (a0123 + u) (a4567 + v)                                               vpaddb, vpaddb, vpmaddubsw, vpaddw
 * A step is 8 numbers of 16 outputs: u = weights 4 to 7 plus 7, in [0, 14], v = weights 0 to 3 less 7, in [-14, 0], output j at bytes 4 j to
 * 4 j + 3. So one factor has no sign. Rows are the codes themselves; their excess is a1 a2 - 7 a1 + 7 a2. Packed: bytes, u + 16 (v + 14).
 * Safe: with m = 2^a - 1, a product is in [-14 (m + 14), m (m + 14)] and a lane gets two of them a step: 36 steps for m = 15 (31,320), 64 for
 * less. Then it is added to the int32 sums in c. */

enum { PAIRS_ROWS = 4, PAIRS_COLUMNS = 16, PAIRS_STEP = 128, PAIRS_HEAD = 64 };

/* The sum of eight numbers. */
LP_INLINE uint32_t pairs_total(__m256i x)
{
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    sum = _mm_add_epi32(sum, _mm_srli_si128(sum, 8));
    return (uint32_t)_mm_cvtsi128_si32(sum) + (uint32_t)_mm_extract_epi32(sum, 1);
}

#define PAIRS_EACH_NUMBER_OF_ROWS \
    switch (n_rows) { \
        ROWS(1) \
        ROWS(2) \
        ROWS(3) \
        ROWS(4) \
    }

/* ---------------------------------------------------------------- words */

static void words_prepare(const uint8_t *codes, int64_t groups, void *to)
{
    uint8_t *out = to;
    int64_t k = 0;
    for (; k <= groups - 4; k += 4, codes += 16, out += 32)
        _mm256_storeu_si256((__m256i *)out, _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)codes)));
    for (; k < groups; k++, codes += 4, out += 8) {
        const int64_t words = codes[0] | codes[1] << 16 | (int64_t)codes[2] << 32 | (int64_t)codes[3] << 48;
        memcpy(out, &words, 8);
    }
}

static uint32_t words_excess(const uint8_t *row, const int64_t *offsets, int64_t segments, int64_t steps)
{
    __m256i sum = _mm256_setzero_si256();
    for (int64_t s = 0; s < segments; s++) {
        const uint8_t *a = row + offsets[s];
        int64_t k = 0;
        for (; k <= steps - 4; k += 4, a += 32) {
            const __m256i x = _mm256_loadu_si256((const __m256i *)a);
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(x, _mm256_srli_epi64(x, 32)));
        }
        for (; k < steps; k++, a += 8) {
            const __m256i x = _mm256_zextsi128_si256(_mm_loadl_epi64((const __m128i *)a));
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(x, _mm256_srli_epi64(x, 32)));
        }
    }
    return pairs_total(sum);
}

static void words_pack(const void *w, int64_t stride, int64_t n, int64_t numbers, void *out)
{
    memset(out, 0, (size_t)(numbers * 16));
    for (int64_t j = 0; j < n; j++)
        for (int64_t k = 0; k < numbers; k++)
            ((int8_t *)out)[k / 4 * 64 + (k & 2 ? 0 : 32) + 2 * j + k % 2] = ((const int8_t *)w)[j * stride + k];
}

static void words_unpack(const void *packed, int64_t steps, void *panel)
{
    const __m128i *from = packed;
    __m256i *const head = panel, *to = head + 2;
    __m256i excess[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int64_t k = 0; k < steps; k++, from += 4, to += 4)
        for (int h = 0; h < 2; h++) {
            const __m256i u = _mm256_cvtepi8_epi16(_mm_load_si128(from + h)),
                          v = _mm256_cvtepi8_epi16(_mm_load_si128(from + 2 + h));
            store(to + h, u);
            store(to + 2 + h, v);
            excess[h] = _mm256_add_epi32(excess[h], _mm256_madd_epi16(u, v));
        }
    store(head, excess[0]);
    store(head + 1, excess[1]);
}

LP_INLINE void words_row(row *r, int64_t at, const __m256i u[2], const __m256i v[2])
{
    __m256i t, q, x, y;
    __asm__(
        "vpbroadcastd %[a01], %[t]\n\t"
        "vpbroadcastd %[a23], %[q]\n\t"
        "vpaddw %[u0], %[t], %[x]\n\t"
        "vpaddw %[v0], %[q], %[y]\n\t"
        "vpaddw %[u1], %[t], %[t]\n\t"
        "vpaddw %[v1], %[q], %[q]\n\t"
        "vpmaddwd %[y], %[x], %[x]\n\t"
        "vpmaddwd %[q], %[t], %[t]\n\t"
        "vpaddd %[x], %[s0], %[s0]\n\t"
        "vpaddd %[t], %[s1], %[s1]"
        : ROW_SUMS(r), [t] "=&x"(t), [q] "=&x"(q), [x] "=&x"(x), [y] "=&x"(y)
        : [u0] "x"(u[0]), [u1] "x"(u[1]), [v0] "x"(v[0]), [v1] "x"(v[1]), [a01] "m"(*(const uint32_t *)(const void *)(r->a + at)),
          [a23] "m"(*(const uint32_t *)(const void *)(r->a + at + 4)));
}

LP_INLINE void words_tile(const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps, const void *panel,
                          int32_t *c, int n_rows)
{
    const uint8_t *w = (const uint8_t *)panel + PAIRS_HEAD;
    row r0, r1, r2, r3, r4, r5;
#define START(I) \
    r##I.s0 = _mm256_sub_epi32(load(c + I * PAIRS_COLUMNS), load(panel)); \
    r##I.s1 = _mm256_sub_epi32(load(c + I * PAIRS_COLUMNS + 8), load((const uint8_t *)panel + 32));
#define SEGMENT(I) r##I.a = rows[I] + offsets[s];
#define STEP_0(I) words_row(&r##I, at, u, v);
#define STEP_1(I) words_row(&r##I, at + 8, u, v);
#define WEIGHTS(NEXT) \
    const uint8_t *const here = w + NEXT * PAIRS_STEP; \
    const __m256i u[2] = {load(here), load(here + 32)}, v[2] = {load(here + 64), load(here + 96)};
#define FINISH(I) store(c + I * PAIRS_COLUMNS, r##I.s0), store(c + I * PAIRS_COLUMNS + 8, r##I.s1);
    EACH_ROW(START)
    for (int64_t s = 0; s < segments; s++) {
        EACH_ROW(SEGMENT)
        int64_t at = 0;
        for (; at <= 8 * steps - 16; at += 16, w += 2 * PAIRS_STEP) {
            {
                WEIGHTS(0)
                EACH_ROW(STEP_0)
            }
            {
                WEIGHTS(1)
                EACH_ROW(STEP_1)
            }
        }
        if (at < 8 * steps) {
            WEIGHTS(0)
            EACH_ROW(STEP_0)
            w += PAIRS_STEP;
        }
    }
    EACH_ROW(FINISH)
#undef START
#undef SEGMENT
#undef STEP_0
#undef STEP_1
#undef WEIGHTS
#undef FINISH
}

static void words(TILE_ARGUMENTS)
{
    (void)accumulate;
#define ROWS(N) \
    case N: \
        words_tile(rows, offsets, segments, steps, panel, c, N); \
        break;
    PAIRS_EACH_NUMBER_OF_ROWS
#undef ROWS
}

/* ---------------------------------------------------------------- bytes */

enum { FOURS_LEAST_OUTPUTS = 128, FOURS_LEAST_NUMBERS = 768 }; /* as measured beside gemm_multiply_avx2.h on Zen 4 */

/* a1 (a2 - 7) and 7 a2: int16 lanes get at most 240 a time, either way. */
static uint32_t fours_excess(const uint8_t *row, const int64_t *offsets, int64_t segments, int64_t steps)
{
    const __m256i sevens = _mm256_set1_epi64x(0x07070707F9F9F9F9), ones = _mm256_set1_epi16(1);
    __m256i sum = _mm256_setzero_si256();
    for (int64_t s = 0; s < segments; s++) {
        const uint8_t *a = row + offsets[s];
        for (int64_t k = 0; k < steps;) {
            const int64_t stop = steps - k < 512 ? steps : k + 512;
            __m256i some = _mm256_setzero_si256();
            for (; k <= stop - 4; k += 4, a += 32) {
                const __m256i x = _mm256_loadu_si256((const __m256i *)a);
                some = _mm256_add_epi16(some, _mm256_maddubs_epi16(x, _mm256_add_epi8(_mm256_srli_epi64(x, 32), sevens)));
            }
            for (; k < stop; k++, a += 8) {
                const __m256i x = _mm256_zextsi128_si256(_mm_loadl_epi64((const __m128i *)a));
                some = _mm256_add_epi16(some, _mm256_maddubs_epi16(x, _mm256_add_epi8(_mm256_srli_epi64(x, 32), sevens)));
            }
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(some, ones));
        }
    }
    return pairs_total(sum);
}

static void fours_pack(const void *w, int64_t stride, int64_t n, int64_t numbers, void *out)
{
    memset(out, 0, (size_t)(numbers * 8));
    for (int64_t j = 0; j < n; j++)
        for (int64_t k = 0; k < numbers; k++)
            ((uint8_t *)out)[k / 8 * 64 + 4 * j + k % 4] |=
                (uint8_t)(lp_gemm_code(((const int8_t *)w)[j * stride + k], 4) << (k & 4 ? 0 : 4));
}

static void fours_unpack(const void *packed, int64_t steps, void *panel)
{
    const __m256i mask = _mm256_set1_epi8(15), less = _mm256_set1_epi8(14), ones = _mm256_set1_epi16(1);
    const __m256i *from = packed;
    __m256i *const head = panel, *to = head + 2;
    __m256i excess[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int64_t k = 0; k < steps; k++, from += 2, to += 4)
        for (int h = 0; h < 2; h++) {
            const __m256i both = load(from + h), u = _mm256_and_si256(both, mask),
                          v = _mm256_sub_epi8(_mm256_and_si256(_mm256_srli_epi16(both, 4), mask), less);
            store(to + h, u);
            store(to + 2 + h, v);
            excess[h] = _mm256_add_epi32(excess[h], _mm256_madd_epi16(_mm256_maddubs_epi16(u, v), ones));
        }
    store(head, excess[0]);
    store(head + 1, excess[1]);
}

LP_INLINE void fours_row(row *r, int64_t at, const __m256i u[2], const __m256i v[2])
{
    __m256i t, q, x, y;
    __asm__("vpbroadcastd %[a1], %[t]\n\t"
            "vpbroadcastd %[a2], %[q]\n\t"
            "vpaddb %[u0], %[t], %[x]\n\t"
            "vpaddb %[v0], %[q], %[y]\n\t"
            "vpaddb %[u1], %[t], %[t]\n\t"
            "vpaddb %[v1], %[q], %[q]\n\t"
            "vpmaddubsw %[y], %[x], %[x]\n\t"
            "vpmaddubsw %[q], %[t], %[t]\n\t"
            "vpaddw %[x], %[s0], %[s0]\n\t"
            "vpaddw %[t], %[s1], %[s1]"
            : ROW_SUMS(r), [t] "=&x"(t), [q] "=&x"(q), [x] "=&x"(x), [y] "=&x"(y)
            : [u0] "x"(u[0]), [u1] "x"(u[1]), [v0] "x"(v[0]), [v1] "x"(v[1]),
              [a1] "m"(*(const uint32_t *)(const void *)(r->a + at)), [a2] "m"(*(const uint32_t *)(const void *)(r->a + at + 4)));
}

/* c += the row's sums. */
LP_INLINE void fours_flush(const row *r, int32_t *c)
{
    const __m256i ones = _mm256_set1_epi16(1);
    store(c, _mm256_add_epi32(load(c), _mm256_madd_epi16(r->s0, ones)));
    store(c + 8, _mm256_add_epi32(load(c + 8), _mm256_madd_epi16(r->s1, ones)));
}

LP_INLINE void fours_tile(const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps, const void *panel,
                          int32_t *c, int n_rows, int64_t safe)
{
    const uint8_t *w = (const uint8_t *)panel + PAIRS_HEAD;
    row r0, r1, r2, r3, r4, r5;
    int64_t left = safe;
#define LESS(I) \
    store(c + I * PAIRS_COLUMNS, _mm256_sub_epi32(load(c + I * PAIRS_COLUMNS), load(panel))); \
    store(c + I * PAIRS_COLUMNS + 8, _mm256_sub_epi32(load(c + I * PAIRS_COLUMNS + 8), load((const uint8_t *)panel + 32)));
#define START(I) r##I.s0 = r##I.s1 = _mm256_setzero_si256();
#define FLUSH(I) fours_flush(&r##I, c + I * PAIRS_COLUMNS);
#define SEGMENT(I) r##I.a = rows[I] + offsets[s];
#define STEP(I, NEXT) fours_row(&r##I, at + 8 * NEXT, u, v);
#define STEP_0(I) STEP(I, 0)
#define STEP_1(I) STEP(I, 1)
#define STEP_2(I) STEP(I, 2)
#define STEP_3(I) STEP(I, 3)
#define WEIGHTS(NEXT) \
    const uint8_t *const here = w + NEXT * PAIRS_STEP; \
    const __m256i u[2] = {load(here), load(here + 32)}, v[2] = {load(here + 64), load(here + 96)};
    EACH_ROW(LESS)
    EACH_ROW(START)
    for (int64_t s = 0; s < segments; s++) {
        EACH_ROW(SEGMENT)
        for (int64_t at = 0; at < 8 * steps;) {
            const int64_t some = steps - at / 8 < left ? steps - at / 8 : left, stop = at + 8 * some;
            left -= some;
            for (; at <= stop - 32; at += 32, w += 4 * PAIRS_STEP) {
                {
                    WEIGHTS(0)
                    EACH_ROW(STEP_0)
                }
                {
                    WEIGHTS(1)
                    EACH_ROW(STEP_1)
                }
                {
                    WEIGHTS(2)
                    EACH_ROW(STEP_2)
                }
                {
                    WEIGHTS(3)
                    EACH_ROW(STEP_3)
                }
            }
            for (; at < stop; at += 8, w += PAIRS_STEP) {
                WEIGHTS(0)
                EACH_ROW(STEP_0)
            }
            if (left == 0) {
                EACH_ROW(FLUSH)
                EACH_ROW(START)
                left = safe;
            }
        }
    }
    if (left < safe)
        EACH_ROW(FLUSH)
#undef LESS
#undef START
#undef FLUSH
#undef SEGMENT
#undef STEP
#undef STEP_0
#undef STEP_1
#undef STEP_2
#undef STEP_3
#undef WEIGHTS
}

LP_INLINE void fours(const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps, const void *panel,
                     void *c, int n_rows, int64_t safe)
{
#define ROWS(N) \
    case N: \
        fours_tile(rows, offsets, segments, steps, panel, c, N, safe); \
        break;
    PAIRS_EACH_NUMBER_OF_ROWS
#undef ROWS
}

#define FOURS_PAIR(A, SAFE) \
    static void fours_##A(TILE_ARGUMENTS) \
    { \
        (void)accumulate; \
        fours(rows, offsets, segments, steps, panel, c, n_rows, SAFE); \
    }
FOURS_PAIR(1, 64)
FOURS_PAIR(2, 64)
FOURS_PAIR(4, 36)
