/* 8 x 8 bits with half the multiplications (Winograd, "A new algorithm for inner product", IEEE Trans. Computers 17(7), 1968):
 *
 *   (a0 + w2) (a2 + w0) + (a1 + w3) (a3 + w1)  =  a0 w0 + a1 w1 + a2 w2 + a3 w3  +  (a0 a2 + a1 a3)  +  (w2 w0 + w3 w1)
 *
 * The excess depends on the row or on the output alone: it is summed once and taken from the sum. int32 sums are right modulo 2^32 whatever is
 * added and taken away, so this is exact as deep as the sum itself is (lp_gemm_depth). Bytes would not be: vpmaddubsw saturates.
 * More units add than multiply: three additions and a multiplication go faster than two of each.
 *
 * A step is 4 numbers of 16 outputs. With u = weights 2 and 3, v = weights 0 and 1, as words:
 *   sum[i][j] += (a01 + u) (a23 + v)                                                   vpaddw, vpaddw, vpmaddwd, vpaddd
 * Prepared rows: of a group, a0 and a1, a2 and a3 as words, and the excess of all groups before it (int32, modulo 2^32).
 * Panels: int32, the excess of each output; then for each step two vectors of u and two of v, output j at words 2 j and 2 j + 1. Packed: u and v
 * as int8_t in the same order. */

enum { PAIRS_ROWS = 4, PAIRS_COLUMNS = 16, PAIRS_UNIT = 12, PAIRS_STEP = 128, PAIRS_HEAD = 64 };

/* ---------------------------------------------------------------- rows */

LP_INLINE uint8_t *pairs_put(uint8_t *out, int64_t words, uint32_t excess)
{
    memcpy(out, &words, 8);
    memcpy(out + 8, &excess, 4);
    return out + PAIRS_UNIT;
}

static void pairs_prepare(const uint8_t *codes, int64_t groups, void *to)
{
    uint8_t *out = to;
    uint32_t excess = 0;
    int64_t k = 0;
    for (; k <= groups - 4; k += 4, codes += 16) {
        const __m256i a = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)codes));
        const __m256i more = _mm256_madd_epi16(a, _mm256_srli_epi64(a, 32)); /* a0 a2 + a1 a3, and zero */
        const __m128i low = _mm256_castsi256_si128(more), high = _mm256_extracti128_si256(more, 1);
        out = pairs_put(out, _mm256_extract_epi64(a, 0), excess);
        excess += (uint32_t)_mm_cvtsi128_si32(low);
        out = pairs_put(out, _mm256_extract_epi64(a, 1), excess);
        excess += (uint32_t)_mm_extract_epi32(low, 2);
        out = pairs_put(out, _mm256_extract_epi64(a, 2), excess);
        excess += (uint32_t)_mm_cvtsi128_si32(high);
        out = pairs_put(out, _mm256_extract_epi64(a, 3), excess);
        excess += (uint32_t)_mm_extract_epi32(high, 2);
    }
    for (; k < groups; k++, codes += 4) {
        out = pairs_put(out, codes[0] | codes[1] << 16 | (int64_t)codes[2] << 32 | (int64_t)codes[3] << 48, excess);
        excess += (uint32_t)(codes[0] * codes[2] + codes[1] * codes[3]);
    }
}

/* The excess of a row, all of its segments: of what is before the last group but not before the first, and of the last one. */
LP_INLINE uint32_t pairs_excess(const uint8_t *row, const int64_t *offsets, int64_t segments, int64_t steps)
{
    uint32_t sum = 0;
    for (int64_t s = 0; s < segments && steps > 0; s++) {
        const uint8_t *const first = row + offsets[s], *const last = first + (steps - 1) * PAIRS_UNIT;
        uint32_t before, to_last;
        memcpy(&before, first + 8, 4);
        memcpy(&to_last, last + 8, 4);
        sum += to_last - before + (uint32_t)(last[0] * last[4] + last[2] * last[6]);
    }
    return sum;
}

/* ---------------------------------------------------------------- panels */

static void pairs_pack(const void *w, int64_t stride, int64_t n, int64_t numbers, void *out)
{
    memset(out, 0, (size_t)(numbers * 16));
    for (int64_t j = 0; j < n; j++)
        for (int64_t k = 0; k < numbers; k++)
            ((int8_t *)out)[k / 4 * 64 + (k & 2 ? 0 : 32) + 2 * j + k % 2] = ((const int8_t *)w)[j * stride + k];
}

static void pairs_unpack(const void *packed, int64_t steps, void *panel)
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

/* ---------------------------------------------------------------- the tile */

LP_INLINE void pairs_row(row *r, int64_t at, const __m256i u[2], const __m256i v[2])
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

/* Eight sums of c, or zeros, without the excess. */
LP_INLINE __m256i pairs_begin(const int32_t *c, const int32_t *head, uint32_t excess, int add)
{
    const __m256i less = _mm256_add_epi32(load(head), _mm256_set1_epi32((int)excess));
    return _mm256_sub_epi32(add ? load(c) : _mm256_setzero_si256(), less);
}

LP_INLINE void pairs_start(row *r, const int32_t *c, const int32_t *head, uint32_t excess, int add)
{
    r->s0 = pairs_begin(c, head, excess, add);
    r->s1 = pairs_begin(c + 8, head + 8, excess, add);
}

LP_INLINE void pairs_tile(const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps, const void *panel,
                          int32_t *c, int n_rows, int add)
{
    const uint8_t *w = (const uint8_t *)panel + PAIRS_HEAD;
    row r0, r1, r2, r3, r4, r5;
#define START(I) pairs_start(&r##I, c + I * PAIRS_COLUMNS, panel, pairs_excess(rows[I], offsets, segments, steps), add);
#define SEGMENT(I) r##I.a = rows[I] + offsets[s];
#define STEP(I) pairs_row(&r##I, at, u, v);
#define FINISH(I) store(c + I * PAIRS_COLUMNS, r##I.s0), store(c + I * PAIRS_COLUMNS + 8, r##I.s1);
    EACH_ROW(START)
    for (int64_t s = 0; s < segments; s++) {
        EACH_ROW(SEGMENT)
        for (int64_t at = 0; at < steps * PAIRS_UNIT; at += PAIRS_UNIT, w += PAIRS_STEP) {
            const __m256i u[2] = {load(w), load(w + 32)}, v[2] = {load(w + 64), load(w + 96)};
            EACH_ROW(STEP)
        }
    }
    EACH_ROW(FINISH)
#undef START
#undef SEGMENT
#undef STEP
#undef FINISH
}

static void pairs(TILE_ARGUMENTS)
{
#define ROWS(N) \
    case N: \
        pairs_tile(rows, offsets, segments, steps, panel, c, N, accumulate); \
        break;
    switch (n_rows) {
        ROWS(1)
        ROWS(2)
        ROWS(3)
        ROWS(4)
    }
#undef ROWS
}
