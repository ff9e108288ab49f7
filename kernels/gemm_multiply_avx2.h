/* Multiply and add: bytes and floats. One tile serves both; they differ in a row's instructions and in how sums leave it.
 *
 * ---- bytes x bytes, summed in int16: all pairs but 8 x 8 and those of one and two bits
 *   sum[i][j] += a[4k] w[4k] + a[4k + 1] w[4k + 1], and the next lane a[4k + 2] w[4k + 2] + a[4k + 3] w[4k + 3]      vpmaddubsw, vpaddw
 * A step is 4 numbers of 16 outputs: two vectors of int8_t, number 4 k + g of output j at place 4 j + g. Rows are the codes themselves.
 * Packed: 8 `bits` bytes, place q in byte q mod (8 bits) from bit q / (8 bits) * bits on; 8 bits: as they are.
 * Safe: a lane gets 2 (2^a - 1) most a step, so 32767 / (2 (2^a - 1) most) steps: 156 for 4 x 4, 8 for 4 x 8, 9 for 8 x 4. Then it is added to
 * the int32 sums in c.
 *
 * ---- float32 x float32
 *   sum[i][j] = fma(a[k], w[k], sum[i][j]), k rising: the same bits as the portable tile's fmaf                       vfmadd231ps
 * A step is one number of 16 outputs. Rows are the numbers themselves. */

enum { MULTIPLY_ROWS = 6, MULTIPLY_COLUMNS = 16 };
typedef enum { BYTES, FLOATS } multiply_kind;

/* ---------------------------------------------------------------- panels */

LP_INLINE void bytes_pack(const int8_t *w, int64_t stride, int64_t n, int64_t numbers, uint8_t *out, int bits)
{
    memset(out, 0, (size_t)(numbers * 2 * bits));
    for (int64_t j = 0; j < n; j++)
        for (int64_t k = 0; k < numbers; k++) {
            uint8_t *const step = out + k / 4 * 8 * bits;
            const int64_t place = 4 * j + k % 4;
            if (bits == 8)
                step[place] = (uint8_t)w[j * stride + k];
            else
                step[place % (8 * bits)] |= (uint8_t)(lp_gemm_code(w[j * stride + k], bits) << place / (8 * bits) * bits);
        }
}

LP_INLINE void bytes_unpack(const uint8_t *packed, int64_t steps, uint8_t *panel, int bits)
{
    const __m256i mask = _mm256_set1_epi8((char)((1 << bits) - 1)), most = _mm256_set1_epi8((char)lp_gemm_most(bits));
    for (int64_t k = 0; k < steps; k++, packed += 8 * bits, panel += 64) {
        __m256i low, high;
        if (bits == 4) {
            low = load(packed);
            high = _mm256_srli_epi16(low, 4);
        } else if (bits == 2) {
            const __m256i all = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)packed));
            low = _mm256_srlv_epi64(all, _mm256_setr_epi64x(0, 0, 2, 2));
            high = _mm256_srlv_epi64(all, _mm256_setr_epi64x(4, 4, 6, 6));
        } else {
            const __m256i all = _mm256_broadcastq_epi64(_mm_loadl_epi64((const __m128i *)packed));
            low = _mm256_srlv_epi64(all, _mm256_setr_epi64x(0, 1, 2, 3));
            high = _mm256_srlv_epi64(all, _mm256_setr_epi64x(4, 5, 6, 7));
        }
        low = _mm256_sub_epi8(_mm256_and_si256(low, mask), most);
        high = _mm256_sub_epi8(_mm256_and_si256(high, mask), most);
        store(panel, bits == 1 ? _mm256_or_si256(low, _mm256_set1_epi8(1)) : low);
        store(panel + 32, bits == 1 ? _mm256_or_si256(high, _mm256_set1_epi8(1)) : high);
    }
}

static void floats_pack(const void *w, int64_t stride, int64_t n, int64_t numbers, void *out)
{
    lp_gemm_pack_floats(w, stride, n, numbers, out, MULTIPLY_COLUMNS);
}

/* ---------------------------------------------------------------- the tile */

/* The 4 bytes at a, times two vectors of weights, to the row's sums. */
LP_INLINE void multiply_row(row *r, int64_t at, __m256i w0, __m256i w1, multiply_kind kind)
{
    __m256i t, u;
    if (kind == BYTES)
        __asm__("vpbroadcastd %[a], %[t]\n\t"
                "vpmaddubsw %[w0], %[t], %[u]\n\t"
                "vpmaddubsw %[w1], %[t], %[t]\n\t"
                "vpaddw %[u], %[s0], %[s0]\n\t"
                "vpaddw %[t], %[s1], %[s1]"
                : ROW_SUMS(r), [t] "=&x"(t), [u] "=&x"(u)
                : [w0] "x"(w0), [w1] "x"(w1), [a] "m"(*(const uint32_t *)(const void *)(r->a + at)));
    else
        __asm__("vbroadcastss %[a], %[t]\n\t"
                "vfmadd231ps %[w0], %[t], %[s0]\n\t"
                "vfmadd231ps %[w1], %[t], %[s1]"
                : ROW_SUMS(r), [t] "=&x"(t)
                : [w0] "x"(w0), [w1] "x"(w1), [a] "m"(*(const float *)(const void *)(r->a + at)));
}

LP_INLINE void multiply_start(row *r, const int32_t *c, int add, multiply_kind kind)
{
    const int from_c = kind == FLOATS && add;
    r->s0 = from_c ? load(c) : _mm256_setzero_si256();
    r->s1 = from_c ? load(c + 8) : _mm256_setzero_si256();
}

/* c = or += the row's sums. */
LP_INLINE void multiply_flush(row *r, int32_t *c, int add, multiply_kind kind)
{
    __m256i s0 = r->s0, s1 = r->s1;
    if (kind == BYTES) {
        s0 = _mm256_madd_epi16(s0, _mm256_set1_epi16(1));
        s1 = _mm256_madd_epi16(s1, _mm256_set1_epi16(1));
    }
    if (kind != FLOATS && add) {
        s0 = _mm256_add_epi32(s0, load(c));
        s1 = _mm256_add_epi32(s1, load(c + 8));
    }
    store(c, s0);
    store(c + 8, s1);
}

LP_INLINE void multiply_tile(const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps,
                             const uint8_t *w, int32_t *c, int n_rows, int add, int64_t safe, multiply_kind kind)
{
    row r0, r1, r2, r3, r4, r5;
    int64_t left = safe;
#define START(I) multiply_start(&r##I, c + I * MULTIPLY_COLUMNS, add, kind);
#define FLUSH(I) multiply_flush(&r##I, c + I * MULTIPLY_COLUMNS, add, kind);
#define SEGMENT(I) r##I.a = rows[I] + offsets[s];
#define STEP(I) multiply_row(&r##I, 4 * k, w0, w1, kind);
    EACH_ROW(START)
    for (int64_t s = 0; s < segments; s++) {
        EACH_ROW(SEGMENT)
        for (int64_t k = 0; k < steps;) {
            const int64_t stop = steps - k < left ? steps : k + left;
            left -= stop - k;
            for (; k < stop; k++, w += 64) {
                const __m256i w0 = load(w), w1 = load(w + 32);
                EACH_ROW(STEP)
            }
            if (left == 0) {
                EACH_ROW(FLUSH)
                EACH_ROW(START)
                add = 1;
                left = safe;
            }
        }
    }
    if (left < safe || !add)
        EACH_ROW(FLUSH)
#undef START
#undef FLUSH
#undef SEGMENT
#undef STEP
}

LP_INLINE void multiply(const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps, const void *panel,
                        void *c, int n_rows, int accumulate, int64_t safe, multiply_kind kind)
{
#define ROWS(N) \
    case N: \
        multiply_tile(rows, offsets, segments, steps, panel, c, N, accumulate, safe, kind); \
        break;
    switch (n_rows) {
        ROWS(1)
        ROWS(2)
        ROWS(3)
        ROWS(4)
        ROWS(5)
        ROWS(6)
    }
#undef ROWS
}

static void bytes(const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps, const void *panel, void *c,
                  int n_rows, int accumulate, int64_t safe)
{
    multiply(rows, offsets, segments, steps, panel, c, n_rows, accumulate, safe, BYTES);
}

static void floats(TILE_ARGUMENTS) { multiply(rows, offsets, segments, steps, panel, c, n_rows, accumulate, INT64_MAX, FLOATS); }

#define BYTES_WEIGHTS(W) \
    static void bytes_pack_##W(const void *w, int64_t stride, int64_t n, int64_t numbers, void *out) \
    { \
        bytes_pack(w, stride, n, numbers, out, W); \
    } \
    static void bytes_unpack_##W(const void *packed, int64_t steps, void *panel) { bytes_unpack(packed, steps, panel, W); }
#define BYTES_PAIR(A, W) \
    static void bytes_##A##_##W(TILE_ARGUMENTS) \
    { \
        bytes(rows, offsets, segments, steps, panel, c, n_rows, accumulate, 32767 / (2 * ((1 << A) - 1) * lp_gemm_most(W))); \
    }
BYTES_WEIGHTS(1)
BYTES_WEIGHTS(2)
BYTES_WEIGHTS(4)
static void bytes_pack_8(const void *w, int64_t stride, int64_t n, int64_t numbers, void *out)
{
    bytes_pack(w, stride, n, numbers, out, 8);
}
BYTES_PAIR(1, 4)
BYTES_PAIR(1, 8)
BYTES_PAIR(2, 4)
BYTES_PAIR(2, 8)
BYTES_PAIR(4, 1)
BYTES_PAIR(4, 2)
BYTES_PAIR(4, 4)
BYTES_PAIR(4, 8)
BYTES_PAIR(8, 1)
BYTES_PAIR(8, 2)
BYTES_PAIR(8, 4)
