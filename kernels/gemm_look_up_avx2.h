/* Look-up, summed in bytes: the pairs of one and two bits.
 *
 * The weights of four numbers of an output are an index of 4 bits, their activations choose a table of 16 bytes; vpshufb looks up 32 at once:
 *   1 bit:  p = the bits of the numbers whose weight is 1:      sum += t[p],           t[i] = the a whose bit is set in i, less all the others
 *   2 bits: p likewise, n = of those whose weight is -1:        sum += t[p] - t[n],    t[i] = the a whose bit is set in i
 * (T-MAC, arXiv:2407.00088, looks up so, with real activations.)                                 vpshufb, vpaddb
 *
 * A step is 4 numbers: two vectors of indices. 1 bit, 64 outputs: output 32 v + j + 16 h is byte 2 j + h of vector v, so that even bytes,
 * widened, come out in order, and the odd ones behind them. 2 bits, 32 outputs: p and n of output 16 v + j are bytes 2 j and 2 j + 1 of vector v.
 * Packed: the two vectors in one, the second in the high nibbles. Rows are prepared: uint16_t 16 x (the four codes, the first in the lowest
 * bits), which is where the group's table begins.
 * Safe: 1 bit: a step adds at most `most` = 4 (2^a - 1) in size, so 127 / most steps: 31 and 10; a byte begins at that bias, so that it stays
 * unsigned. 2 bits: 255 / most: 63 and 21. Then bytes are added to 16-bit sums in memory, until these may be full: then to the int32 sums in c. */

enum { LOOK_UP_ROWS = 6, LOOK_UP_VECTOR = 32 };

/* t[i] of activations x, packed as above: of weights 0 and 1, or of -1 and 1. */
#define TERM(X, BITS, I, G) (((X) >> (BITS) * (G) & ((1 << (BITS)) - 1)) * ((I) >> (G) & 1))
#define SUM(X, BITS, I) (TERM(X, BITS, I, 0) + TERM(X, BITS, I, 1) + TERM(X, BITS, I, 2) + TERM(X, BITS, I, 3))
#define SUBSET(X, BITS, I) SUM(X, BITS, I)
#define SIGNED(X, BITS, I) (2 * SUM(X, BITS, I) - SUM(X, BITS, 15))
#define FOUR(E, X, BITS, I) E(X, BITS, I), E(X, BITS, I + 1), E(X, BITS, I + 2), E(X, BITS, I + 3)
#define TABLE(E, X, BITS) FOUR(E, X, BITS, 0), FOUR(E, X, BITS, 4), FOUR(E, X, BITS, 8), FOUR(E, X, BITS, 12)
#define TABLES_4(E, X, BITS) TABLE(E, X, BITS), TABLE(E, X + 1, BITS), TABLE(E, X + 2, BITS), TABLE(E, X + 3, BITS)
#define TABLES_16(E, X, BITS) TABLES_4(E, X, BITS), TABLES_4(E, X + 4, BITS), TABLES_4(E, X + 8, BITS), TABLES_4(E, X + 12, BITS)
#define TABLES_64(E, X, BITS) \
    TABLES_16(E, X, BITS), TABLES_16(E, X + 16, BITS), TABLES_16(E, X + 32, BITS), TABLES_16(E, X + 48, BITS)
#define TABLES_256(E, BITS) TABLES_64(E, 0, BITS), TABLES_64(E, 64, BITS), TABLES_64(E, 128, BITS), TABLES_64(E, 192, BITS)
/* look_up_tables_A_W */
static const _Alignas(64) int8_t look_up_tables_1_1[16 * 16] = {TABLES_16(SIGNED, 0, 1)};
static const _Alignas(64) int8_t look_up_tables_1_2[16 * 16] = {TABLES_16(SUBSET, 0, 1)};
static const _Alignas(64) int8_t look_up_tables_2_1[256 * 16] = {TABLES_256(SIGNED, 2)};
static const _Alignas(64) int8_t look_up_tables_2_2[256 * 16] = {TABLES_256(SUBSET, 2)};

LP_INLINE void look_up_pack(const int8_t *w, int64_t stride, int64_t n, int64_t numbers, uint8_t *out, int bits)
{
    memset(out, 0, (size_t)(numbers * 8));
    for (int64_t j = 0; j < n; j++)
        for (int64_t k = 0; k < numbers; k++) {
            const int weight = w[j * stride + k];
            const int64_t byte = bits == 1 ? 2 * (j % 16) + j / 16 % 2 : 2 * (j % 16) + (weight < 0);
            const int64_t vector = bits == 1 ? j / 32 : j / 16;
            if (weight > 0 || (weight < 0 && bits == 2))
                out[k / 4 * LOOK_UP_VECTOR + byte] |= (uint8_t)(1 << (4 * vector + k % 4));
        }
}

static void look_up_unpack(const void *packed, int64_t steps, void *panel)
{
    const __m256i mask = _mm256_set1_epi8(15), *from = packed;
    __m256i *to = panel;
    for (int64_t k = 0; k < steps; k++) {
        const __m256i both = load(from + k);
        store(to + 2 * k, _mm256_and_si256(both, mask));
        store(to + 2 * k + 1, _mm256_and_si256(_mm256_srli_epi16(both, 4), mask));
    }
}

/* 16 x the codes of each group, from the lowest bit on. */
LP_INLINE void look_up_prepare(const uint8_t *codes, int64_t groups, uint16_t *out, int bits)
{
    const __m256i mask = _mm256_set1_epi8((char)((1 << bits) - 1));
    const __m256i two = _mm256_set1_epi16((short)(16 | 16 << bits << 8)), four = _mm256_set1_epi32(1 | 1 << (2 * bits) << 16);
    int64_t k = 0;
    for (; k <= groups - 16; k += 16) {
        __m256i half[2];
        for (int h = 0; h < 2; h++) {
            const __m256i a = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(codes + 4 * k + 32 * h)), mask);
            half[h] = _mm256_madd_epi16(_mm256_maddubs_epi16(a, two), four);
        }
        const __m256i all = _mm256_packus_epi32(half[0], half[1]);
        _mm256_storeu_si256((__m256i *)(out + k), _mm256_permute4x64_epi64(all, 0xD8));
    }
    for (; k < groups; k++) {
        int all = 0;
        for (int g = 0; g < 4; g++)
            all |= (codes[4 * k + g] & ((1 << bits) - 1)) << bits * g;
        out[k] = (uint16_t)(16 * all);
    }
}

LP_INLINE void look_up_row(row *r, const int8_t *tables, int64_t at, __m256i w0, __m256i w1)
{
    uint16_t begin;
    __m256i t, u;
    memcpy(&begin, r->a + at, 2);
    __asm__("vbroadcasti128 %[table], %[t]\n\t"
            "vpshufb %[w0], %[t], %[u]\n\t"
            "vpshufb %[w1], %[t], %[t]\n\t"
            "vpaddb %[u], %[s0], %[s0]\n\t"
            "vpaddb %[t], %[s1], %[s1]"
            : ROW_SUMS(r), [t] "=&x"(t), [u] "=&x"(u)
            : [w0] "x"(w0), [w1] "x"(w1), [table] "m"(*(const __m128i *)(const void *)(tables + begin)));
}

/* 16-bit sums of a vector of bytes. 1 bit: of even + 256 x odd, modulo 2^16, and of odd. 2 bits: of p - n, and nothing. */
typedef struct {
    __m256i sum, odd;
} look_up_wide;

LP_INLINE void look_up_widen(__m256i *bytes, look_up_wide *wide, int bits, int bias)
{
    if (bits == 1) {
        wide->sum = _mm256_add_epi16(wide->sum, *bytes);
        wide->odd = _mm256_add_epi16(wide->odd, _mm256_srli_epi16(*bytes, 8));
    } else {
        wide->sum = _mm256_add_epi16(wide->sum, _mm256_maddubs_epi16(*bytes, _mm256_set1_epi16((short)0xFF01)));
    }
    *bytes = _mm256_set1_epi8((char)bias);
}

LP_INLINE void look_up_put(__m256i sum, int32_t *c, int add)
{
    __m256i low = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(sum));
    __m256i high = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(sum, 1));
    if (add) {
        low = _mm256_add_epi32(low, load(c));
        high = _mm256_add_epi32(high, load(c + 8));
    }
    store(c, low);
    store(c + 8, high);
}

/* c = or += wide sums, from each of which `biases` are taken; they are zero again. */
LP_INLINE void look_up_flush(look_up_wide *wide, int32_t *c, int add, int bits, int biases)
{
    if (bits == 1) {
        const __m256i less = _mm256_set1_epi16((short)biases);
        look_up_put(_mm256_sub_epi16(_mm256_sub_epi16(wide->sum, _mm256_slli_epi16(wide->odd, 8)), less), c, add);
        look_up_put(_mm256_sub_epi16(wide->odd, less), c + 16, add);
    } else {
        look_up_put(wide->sum, c, add);
    }
    wide->sum = wide->odd = _mm256_setzero_si256();
}

LP_INLINE void look_up_tile(const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps, const uint8_t *w,
                            int32_t *c, int n_rows, int add, const int8_t *tables, int most, int bits)
{
    const int safe = bits == 1 ? 127 / most : 255 / most, bias = bits == 1 ? safe * most : 0;
    const int wide_safe = 32767 / (safe * most), columns = bits == 1 ? 64 : 32;
    look_up_wide wide[LOOK_UP_ROWS][2];
    row r0, r1, r2, r3, r4, r5;
    int64_t left = safe;
    int wide_left = wide_safe;
#define START(I) \
    wide[I][0].sum = wide[I][0].odd = wide[I][1].sum = wide[I][1].odd = _mm256_setzero_si256(); \
    r##I.s0 = r##I.s1 = _mm256_set1_epi8((char)bias);
#define SEGMENT(I) r##I.a = rows[I] + offsets[s];
#define STEP(I) look_up_row(&r##I, tables, 2 * k, w0, w1);
#define WIDEN(I) \
    look_up_widen(&r##I.s0, &wide[I][0], bits, bias); \
    look_up_widen(&r##I.s1, &wide[I][1], bits, bias);
#define FLUSH(I) \
    look_up_flush(&wide[I][0], c + I * columns, add, bits, biases); \
    look_up_flush(&wide[I][1], c + I * columns + columns / 2, add, bits, biases);
    EACH_ROW(START)
    for (int64_t s = 0; s < segments; s++) {
        EACH_ROW(SEGMENT)
        for (int64_t k = 0; k < steps;) {
            const int64_t stop = steps - k < left ? steps : k + left;
            left -= stop - k;
            for (; k < stop; k++, w += 2 * LOOK_UP_VECTOR) {
                const __m256i w0 = load(w), w1 = load(w + LOOK_UP_VECTOR);
                EACH_ROW(STEP)
            }
            if (left == 0) {
                EACH_ROW(WIDEN)
                left = safe;
                if (--wide_left == 0) {
                    const int biases = wide_safe * bias;
                    EACH_ROW(FLUSH)
                    add = 1;
                    wide_left = wide_safe;
                }
            }
        }
    }
    const int biases = (wide_safe - wide_left + 1) * bias;
    EACH_ROW(WIDEN)
    EACH_ROW(FLUSH)
#undef START
#undef SEGMENT
#undef STEP
#undef WIDEN
#undef FLUSH
}

#define ROWS(N, A, W) \
    case N: \
        look_up_tile(rows, offsets, segments, steps, panel, c, N, accumulate, look_up_tables_##A##_##W, 4 * ((1 << A) - 1), W); \
        break;
#define LOOK_UP_PAIR(A, W) \
    static void look_up_##A##_##W(TILE_ARGUMENTS) \
    { \
        switch (n_rows) { \
            ROWS(1, A, W) \
            ROWS(2, A, W) \
            ROWS(3, A, W) \
            ROWS(4, A, W) \
            ROWS(5, A, W) \
            ROWS(6, A, W) \
        } \
    }
LOOK_UP_PAIR(1, 1)
LOOK_UP_PAIR(1, 2)
LOOK_UP_PAIR(2, 1)
LOOK_UP_PAIR(2, 2)
#undef ROWS

#define LOOK_UP_CODES(A) \
    static void look_up_prepare_##A(const uint8_t *codes, int64_t groups, void *out) { look_up_prepare(codes, groups, out, A); }
#define LOOK_UP_WEIGHTS(W) \
    static void look_up_pack_##W(const void *w, int64_t stride, int64_t n, int64_t numbers, void *out) \
    { \
        look_up_pack(w, stride, n, numbers, out, W); \
    }
LOOK_UP_CODES(1)
LOOK_UP_CODES(2)
LOOK_UP_WEIGHTS(1)
LOOK_UP_WEIGHTS(2)
