/* 8 x 8 bits, and float32: products that no narrower sum holds. */

/* ---------------------------------------------------------------- 8 x 8: words, summed in int32
 *   sum[i][j] += a[2k] w[2k] + a[2k + 1] w[2k + 1]                                                                    vpmaddwd, vpaddd
 *
 * A step is 2 numbers of 16 outputs: two vectors of int16_t, number 2 k + g of output j at place 2 j + g. Rows are prepared: uint16_t. Packed:
 * int8_t at the same places. Safe: as deep as an int32 sum is (lp_gemm_depth); vpmaddwd is exact, as vpmaddubsw would not be: it saturates. */

enum { WORDS_ROWS = 6, FLOAT_ROWS = 6 };

static void words_prepare(const uint8_t *codes, int64_t groups, void *out)
{
    uint16_t *const to = out;
    for (int64_t k = 0; k < 2 * groups; k++)
        to[k] = codes[k];
}

static void words_pack(const void *w, int64_t stride, int64_t n, int64_t numbers, void *out)
{
    int8_t *const to = out;
    memset(out, 0, (size_t)(numbers * 16));
    for (int64_t j = 0; j < n; j++)
        for (int64_t k = 0; k < numbers; k++)
            to[k / 2 * 32 + 2 * j + k % 2] = ((const int8_t *)w)[j * stride + k];
}

static void words_unpack(const void *packed, int64_t steps, void *panel)
{
    const __m128i *from = packed;
    __m256i *to = panel;
    for (int64_t k = 0; k < 2 * steps; k++)
        store(to + k, _mm256_cvtepi8_epi16(_mm_load_si128(from + k)));
}

LP_INLINE void words_row(__m256i sum[2], const uint8_t *a, __m256i w0, __m256i w1)
{
    __m256i t, u;
    __asm__("vpbroadcastd %[a], %[t]\n\t"
            "vpmaddwd %[w0], %[t], %[u]\n\t"
            "vpaddd %[u], %[s0], %[s0]\n\t"
            "vpmaddwd %[w1], %[t], %[t]\n\t"
            "vpaddd %[t], %[s1], %[s1]"
            : [s0] "+x"(sum[0]), [s1] "+x"(sum[1]), [t] "=&x"(t), [u] "=&x"(u)
            : [w0] "x"(w0), [w1] "x"(w1), [a] "m"(*(const uint32_t *)(const void *)a));
}

LP_INLINE void words_tile(const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps, const uint8_t *w,
                          int32_t *c, int n_rows, int accumulate)
{
    __m256i sum[WORDS_ROWS][2];
    const uint8_t *a[WORDS_ROWS];
    for (int i = 0; i < n_rows; i++)
        for (int v = 0; v < 2; v++)
            sum[i][v] = accumulate ? load(c + i * 16 + v * 8) : _mm256_setzero_si256();
    for (int64_t s = 0; s < segments; s++) {
        for (int i = 0; i < n_rows; i++)
            a[i] = rows[i] + offsets[s];
        for (int64_t k = 0; k < steps; k++, w += 64) {
            const __m256i w0 = load(w), w1 = load(w + 32);
            for (int i = 0; i < n_rows; i++)
                words_row(sum[i], a[i] + 4 * k, w0, w1);
        }
    }
    for (int i = 0; i < n_rows; i++)
        for (int v = 0; v < 2; v++)
            store(c + i * 16 + v * 8, sum[i][v]);
}

static void words(const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps, const void *panel, void *c,
                  int n_rows, int accumulate)
{
#define ROWS(N) \
    case N: \
        words_tile(rows, offsets, segments, steps, panel, c, N, accumulate); \
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

/* ---------------------------------------------------------------- float32
 *   sum[i][j] = fma(a[k], w[k], sum[i][j]), k rising: the same bits as the portable tile's fmaf
 *
 * A step is one number of 16 outputs. The only place where the product fuses a multiplication and an addition: it says so itself. */

static void float_pack(const void *w, int64_t stride, int64_t n, int64_t numbers, void *out)
{
    lp_gemm_pack_floats(w, stride, n, numbers, out, 16);
}

LP_INLINE void float_row(__m256 sum[2], const uint8_t *a, __m256 w0, __m256 w1)
{
    __m256 t;
    __asm__("vbroadcastss %[a], %[t]\n\t"
            "vfmadd231ps %[w0], %[t], %[s0]\n\t"
            "vfmadd231ps %[w1], %[t], %[s1]"
            : [s0] "+x"(sum[0]), [s1] "+x"(sum[1]), [t] "=&x"(t)
            : [w0] "x"(w0), [w1] "x"(w1), [a] "m"(*(const float *)(const void *)a));
}

LP_INLINE void float_rows(const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps, const float *w,
                          float *c, int n_rows, int accumulate)
{
    __m256 sum[FLOAT_ROWS][2];
    const uint8_t *a[FLOAT_ROWS];
    for (int i = 0; i < n_rows; i++)
        for (int v = 0; v < 2; v++)
            sum[i][v] = accumulate ? _mm256_load_ps(c + i * 16 + v * 8) : _mm256_setzero_ps();
    for (int64_t s = 0; s < segments; s++) {
        for (int i = 0; i < n_rows; i++)
            a[i] = rows[i] + offsets[s];
        for (int64_t k = 0; k < steps; k++, w += 16) {
            const __m256 w0 = _mm256_load_ps(w), w1 = _mm256_load_ps(w + 8);
            for (int i = 0; i < n_rows; i++)
                float_row(sum[i], a[i] + 4 * k, w0, w1);
        }
    }
    for (int i = 0; i < n_rows; i++)
        for (int v = 0; v < 2; v++)
            _mm256_store_ps(c + i * 16 + v * 8, sum[i][v]);
}

static void float_tile(const uint8_t *const *rows, const int64_t *offsets, int64_t segments, int64_t steps, const void *panel,
                       void *c, int n_rows, int accumulate)
{
#define ROWS(N) \
    case N: \
        float_rows(rows, offsets, segments, steps, panel, c, N, accumulate); \
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
