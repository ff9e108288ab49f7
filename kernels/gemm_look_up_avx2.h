/* Look-up, summed in bytes: the pairs of one and two bits.
 *
 * The weights of four numbers of an output are an index of 4 bits, their activations choose a table of 16 bytes:
 *   2 bits: p = the bits of the numbers whose weight is 1, n = of those where it is -1:  sum += t[p] - t[n],  t[i] = sum of the a whose bit is set
 *   1 bit:  p alone:                                                                     sum += t[p],         t[i] = the same, less all the others
 * vpshufb looks up 32 outputs at once (Mula's way; T-MAC, arXiv:2407.00088, has the activations choose the table, too).
 *
 * A step is 4 numbers of 64 outputs: two vectors of indices, of p and then two of n. Output 32 v + j + 16 h is at byte 2 j + h of
 * vector v, j < 16, h < 2: so even bytes, widened, come out in order, and the odd ones behind them. Packed: two vectors in one, the second in the
 * high nibbles. Rows are prepared: uint16_t 16 x (the four codes, the first in the lowest bits): where the group's table begins.
 * Safe: a step adds at most `range` = 4 (2^a - 1) in size, so 127 / range steps: 31 and 10. The bytes begin at that bias, so that they stay
 * unsigned; then they are added to 16-bit sums in memory, 32767 / bias times; then to the int32 sums in c. */

enum { LOOK_UP_ROWS = 4 };

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
    memset(out, 0, (size_t)(numbers * 8 * bits));
    for (int64_t j = 0; j < n; j++)
        for (int64_t k = 0; k < numbers; k++) {
            const int64_t place = 2 * (j % 16) + j / 16 % 2;
            const int weight = w[j * stride + k];
            if (weight)
                out[(k / 4 * bits + (weight < 0 && bits == 2)) * 32 + place] |=
                    (uint8_t)((bits == 2 || weight > 0) << (j / 32 * 4 + k % 4));
        }
}

LP_INLINE void look_up_unpack(const uint8_t *packed, int64_t steps, uint8_t *panel, int bits)
{
    for (int64_t k = 0; k < steps * bits; k++, packed += 32, panel += 64) {
        const __m256i both = load(packed), mask = _mm256_set1_epi8(15);
        store(panel, _mm256_and_si256(both, mask));
        store(panel + 32, _mm256_and_si256(_mm256_srli_epi16(both, 4), mask));
    }
}

LP_INLINE void look_up_prepare(const uint8_t *codes, int64_t groups, uint16_t *out, int bits)
{
    for (int64_t k = 0; k < groups; k++, codes += 4) {
        int all = 0;
        for (int g = 0; g < 4; g++)
            all |= (codes[g] & ((1 << bits) - 1)) << bits * g;
        out[k] = (uint16_t)(16 * all);
    }
}

LP_INLINE void look_up_row_1(__m256i sum[2], const int8_t *table, const __m256i w[2])
{
    __m256i t, u;
    __asm__("vbroadcasti128 %[table], %[t]\n\t"
            "vpshufb %[p0], %[t], %[u]\n\t"
            "vpaddb %[u], %[s0], %[s0]\n\t"
            "vpshufb %[p1], %[t], %[t]\n\t"
            "vpaddb %[t], %[s1], %[s1]"
            : [s0] "+x"(sum[0]), [s1] "+x"(sum[1]), [t] "=&x"(t), [u] "=&x"(u)
            : [p0] "x"(w[0]), [p1] "x"(w[1]), [table] "m"(*(const __m128i *)(const void *)table));
}

LP_INLINE void look_up_row_2(__m256i sum[2], const int8_t *table, const __m256i w[4])
{
    __m256i t, u;
    __asm__("vbroadcasti128 %[table], %[t]\n\t"
            "vpshufb %[p0], %[t], %[u]\n\t"
            "vpaddb %[u], %[s0], %[s0]\n\t"
            "vpshufb %[p1], %[t], %[u]\n\t"
            "vpaddb %[u], %[s1], %[s1]\n\t"
            "vpshufb %[n0], %[t], %[u]\n\t"
            "vpsubb %[u], %[s0], %[s0]\n\t"
            "vpshufb %[n1], %[t], %[t]\n\t"
            "vpsubb %[t], %[s1], %[s1]"
            : [s0] "+x"(sum[0]), [s1] "+x"(sum[1]), [t] "=&x"(t), [u] "=&x"(u)
            : [p0] "x"(w[0]), [p1] "x"(w[1]), [n0] "x"(w[2]), [n1] "x"(w[3]), [table] "m"(*(const __m128i *)(const void *)table));
}

/* 16-bit sums of bytes: of even + 256 x odd, modulo 2^16, and of odd. */
typedef struct {
    __m256i all, odd;
} look_up_wide;

LP_INLINE void look_up_widen(__m256i sum[][2], look_up_wide wide[][2], int n_rows, int bias)
{
    for (int i = 0; i < n_rows; i++)
        for (int v = 0; v < 2; v++) {
            wide[i][v].all = _mm256_add_epi16(wide[i][v].all, sum[i][v]);
            wide[i][v].odd = _mm256_add_epi16(wide[i][v].odd, _mm256_srli_epi16(sum[i][v], 8));
            sum[i][v] = _mm256_set1_epi8((char)bias);
        }
}

LP_INLINE void look_up_16(__m256i sum, int32_t *c, int add)
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

/* c = or += the wide sums, from each of which `biases` are taken; they are zero again. */
LP_INLINE void look_up_flush(look_up_wide wide[][2], int32_t *c, int n_rows, int add, int biases)
{
    const __m256i less = _mm256_set1_epi16((short)biases);
    for (int i = 0; i < n_rows; i++)
        for (int v = 0; v < 2; v++) {
            const __m256i odd = wide[i][v].odd, even = _mm256_sub_epi16(wide[i][v].all, _mm256_slli_epi16(odd, 8));
            look_up_16(_mm256_sub_epi16(even, less), c + i * 64 + v * 32, add);
            look_up_16(_mm256_sub_epi16(odd, less), c + i * 64 + v * 32 + 16, add);
            wide[i][v].all = wide[i][v].odd = _mm256_setzero_si256();
        }
}

LP_INLINE void look_up_tile(const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps,
                            const uint8_t *panel, int32_t *c, int n_rows, int add, const int8_t *tables, int range, int planes)
{
    const int64_t safe = 127 / range;
    const int bias = (int)safe * range, wide_safe = 32767 / bias;
    __m256i sum[LOOK_UP_ROWS][2];
    look_up_wide wide[LOOK_UP_ROWS][2];
    const uint8_t *a[LOOK_UP_ROWS];
    int64_t left = safe;
    int wide_left = wide_safe;
    for (int i = 0; i < n_rows; i++)
        for (int v = 0; v < 2; v++) {
            wide[i][v].all = wide[i][v].odd = _mm256_setzero_si256();
            sum[i][v] = _mm256_set1_epi8((char)bias);
        }
    for (int64_t s = 0; s < segments; s++) {
        for (int i = 0; i < n_rows; i++)
            a[i] = rows[i] + offsets[s];
        for (int64_t k = 0; k < steps;) {
            const int64_t stop = steps - k < left ? steps : k + left;
            left -= stop - k;
            for (; k < stop; k++, panel += 64 * planes) {
                __m256i w[4];
                for (int v = 0; v < 2 * planes; v++)
                    w[v] = load(panel + 32 * v);
                for (int i = 0; i < n_rows; i++) {
                    uint16_t begin;
                    memcpy(&begin, a[i] + 2 * k, 2);
                    if (planes == 1)
                        look_up_row_1(sum[i], tables + begin, w);
                    else
                        look_up_row_2(sum[i], tables + begin, w);
                }
            }
            if (left == 0) {
                look_up_widen(sum, wide, n_rows, bias);
                left = safe;
                if (--wide_left == 0) {
                    look_up_flush(wide, c, n_rows, add, wide_safe * bias);
                    add = 1;
                    wide_left = wide_safe;
                }
            }
        }
    }
    look_up_widen(sum, wide, n_rows, bias);
    look_up_flush(wide, c, n_rows, add, (wide_safe - wide_left + 1) * bias);
}

#define ROWS(N, PLANES) \
    case N: \
        look_up_tile(rows, offsets, segments, steps, panel, c, N, accumulate, tables, range, PLANES); \
        break;
#define LOOK_UP_WEIGHTS(W) \
    static void look_up_pack_##W(const void *w, int64_t stride, int64_t n, int64_t numbers, void *out) \
    { \
        look_up_pack(w, stride, n, numbers, out, W); \
    } \
    static void look_up_unpack_##W(const void *packed, int64_t steps, void *panel) { look_up_unpack(packed, steps, panel, W); } \
    static void look_up_##W(const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps, \
                            const void *panel, void *c, int n_rows, int accumulate, const int8_t *tables, int range) \
    { \
        switch (n_rows) { \
            ROWS(1, W) \
            ROWS(2, W) \
            ROWS(3, W) \
            ROWS(4, W) \
        } \
    }
LOOK_UP_WEIGHTS(1)
LOOK_UP_WEIGHTS(2)
#undef ROWS

#define LOOK_UP_CODES(A) \
    static void look_up_prepare_##A(const uint8_t *codes, int64_t groups, void *out) { look_up_prepare(codes, groups, out, A); }
LOOK_UP_CODES(1)
LOOK_UP_CODES(2)

#define LOOK_UP_PAIR(A, W) \
    static void look_up_##A##_##W(const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps, \
                                  const void *panel, void *c, int n_rows, int accumulate) \
    { \
        look_up_##W(rows, offsets, segments, steps, panel, c, n_rows, accumulate, look_up_tables_##A##_##W, 4 * ((1 << A) - 1)); \
    }
LOOK_UP_PAIR(1, 1)
LOOK_UP_PAIR(1, 2)
LOOK_UP_PAIR(2, 1)
LOOK_UP_PAIR(2, 2)
