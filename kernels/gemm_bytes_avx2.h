/* Bytes times bytes, summed in int16: all pairs but 8 x 8 and those of one and two bits.
 *
 *   sum[i][j] += a[4k] w[4k] + a[4k + 1] w[4k + 1], and the next lane a[4k + 2] w[4k + 2] + a[4k + 3] w[4k + 3]      vpmaddubsw, vpaddw
 *
 * A step is 4 numbers of 16 outputs: two vectors of int8_t, number 4 k + g of output j at place 4 j + g. Rows are the codes themselves.
 * Packed: 8 `bits` bytes, place q in byte q mod (8 bits) from bit q / (8 bits) * bits on; 8 bits: as they are.
 * Safe: a lane gets 2 (2^a - 1) most a step, so 32767 / (2 (2^a - 1) most) steps: 156 for 4 x 4, 8 for 4 x 8, 9 for 8 x 4. Then it is added to
 * the int32 sums in c. */

enum { BYTES_ROWS = 6 };

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

LP_INLINE void bytes_row(__m256i sum[2], const uint8_t *a, __m256i w0, __m256i w1)
{
    __m256i t, u;
    __asm__("vpbroadcastd %[a], %[t]\n\t"
            "vpmaddubsw %[w0], %[t], %[u]\n\t"
            "vpaddw %[u], %[s0], %[s0]\n\t"
            "vpmaddubsw %[w1], %[t], %[t]\n\t"
            "vpaddw %[t], %[s1], %[s1]"
            : [s0] "+x"(sum[0]), [s1] "+x"(sum[1]), [t] "=&x"(t), [u] "=&x"(u)
            : [w0] "x"(w0), [w1] "x"(w1), [a] "m"(*(const uint32_t *)(const void *)a));
}

/* c = or += the sums of pairs of lanes; the lanes are zero again. */
LP_INLINE void bytes_flush(__m256i sum[][2], int32_t *c, int n_rows, int add)
{
    for (int i = 0; i < n_rows; i++)
        for (int v = 0; v < 2; v++) {
            __m256i wide = _mm256_madd_epi16(sum[i][v], _mm256_set1_epi16(1));
            if (add)
                wide = _mm256_add_epi32(wide, load(c + i * 16 + v * 8));
            store(c + i * 16 + v * 8, wide);
            sum[i][v] = _mm256_setzero_si256();
        }
}

LP_INLINE void bytes_tile(const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps, const uint8_t *w,
                          int32_t *c, int n_rows, int add, int64_t safe)
{
    __m256i sum[BYTES_ROWS][2];
    const uint8_t *a[BYTES_ROWS];
    int64_t left = safe;
    for (int i = 0; i < n_rows; i++)
        sum[i][0] = sum[i][1] = _mm256_setzero_si256();
    for (int64_t s = 0; s < segments; s++) {
        for (int i = 0; i < n_rows; i++)
            a[i] = rows[i] + offsets[s];
        for (int64_t k = 0; k < steps;) {
            const int64_t stop = steps - k < left ? steps : k + left;
            left -= stop - k;
            for (; k < stop; k++, w += 64) {
                const __m256i w0 = load(w), w1 = load(w + 32);
                for (int i = 0; i < n_rows; i++)
                    bytes_row(sum[i], a[i] + 4 * k, w0, w1);
            }
            if (left == 0) {
                bytes_flush(sum, c, n_rows, add);
                add = 1;
                left = safe;
            }
        }
    }
    if (left < safe || !add)
        bytes_flush(sum, c, n_rows, add);
}

static void bytes(const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps, const void *panel, void *c,
                  int n_rows, int accumulate, int64_t safe)
{
#define ROWS(N) \
    case N: \
        bytes_tile(rows, offsets, segments, steps, panel, c, N, accumulate, safe); \
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

#define BYTES_WEIGHTS(W) \
    static void bytes_pack_##W(const void *w, int64_t stride, int64_t n, int64_t numbers, void *out) \
    { \
        bytes_pack(w, stride, n, numbers, out, W); \
    } \
    static void bytes_unpack_##W(const void *packed, int64_t steps, void *panel) { bytes_unpack(packed, steps, panel, W); }
#define BYTES_PAIR(A, W) \
    static void bytes_##A##_##W(const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps, \
                                const void *panel, void *c, int n_rows, int accumulate) \
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
