/* What happens to a whole model between calls and between rounds of training. */
#include "scalar.h"

/* How many codes sit at +-(2^(M-1) - 1). */
int64_t lp_at_limit(const void *w, int64_t n, int M)
{
    const int top = lp_max_code(M);
    int64_t count = 0;
    if (M == 32)
        return 0;
    if (M == 8)
        for (int64_t j = 0; j < n; j++)
            count += (((const int8_t *)w)[j] == top) | (((const int8_t *)w)[j] == -top);
    else if (M == 16)
        for (int64_t j = 0; j < n; j++)
            count += (((const int16_t *)w)[j] == top) | (((const int16_t *)w)[j] == -top);
    else
        for (int64_t j = 0; j < n; j++) {
            int32_t v = lp_get(w, M, j);
            count += (v == top) | (v == -top);
        }
    return count;
}

/* q <- round-half-even(q / 2): the model's range doubles, its values stay as near as they can. */
void lp_widen(void *w, int64_t n, int M)
{
    if (M == 32)
        return;
    for (int64_t j = 0; j < n; j++) {
        int32_t v = lp_get(w, M, j);
        int32_t half = v >> 1;
        half += (v & 1) & (half & 1);
        lp_put(w, M, j, half);
    }
}

/* q <- 2 q where every |q| stays within limit; otherwise nothing is changed, and the result is 0. */
int lp_narrow(void *w, int64_t n, int M, int limit)
{
    for (int64_t j = 0; j < n; j++) {
        const int32_t q = 2 * lp_get(w, M, j);
        if (q > limit || q < -limit)
            return 0;
    }
    for (int64_t j = 0; j < n; j++)
        lp_put(w, M, j, 2 * lp_get(w, M, j));
    return 1;
}

/* ---- L1 --------------------------------------------------------------------------------------------------------- */

/* Columns [j, j + k), k <= 32: q <- sign(q) max(|q| - t_j, 0), t_j = whole + (r_j >= 2^16 - part): theta = whole + part / 2^16 quanta,
 * rounded without bias. 16 bits are enough: |q| < 2^15, theta is clipped there. */
#define LP_DEF_SHRINK(type, name) \
    static void name(type *q, int k, int16_t whole, uint16_t edge, const uint16_t words[32]) \
    { \
        for (int l = 0; l < k; l++) { \
            const int16_t t = (int16_t)(whole + (words[l] > edge)); \
            const int16_t v = q[l], size = (int16_t)(v < 0 ? -v : v), rest = (int16_t)(size > t ? size - t : 0); \
            q[l] = (type)(v < 0 ? -rest : rest); \
        } \
    }
LP_DEF_SHRINK(int8_t, lp_shrink_8)
LP_DEF_SHRINK(int16_t, lp_shrink_16)

/* Take theta from every weight, not beyond zero: of fixed-point models in quanta, rounded without bias by the words of block (element j
 * uses word j mod 32), theta itself by draw; block NULL: to nearest. */
void lp_shrink(void *w, int64_t n, int M, double theta, uint64_t draw, const uint64_t *block)
{
    if (M == 32) {
        float *const m = (float *)w;
        const float t = (float)theta;
        for (int64_t j = 0; j < n; j++) {
            const float size = m[j] < 0.0f ? -m[j] : m[j], rest = size > t ? size - t : 0.0f;
            m[j] = m[j] < 0.0f ? -rest : rest;
        }
        return;
    }
    const double fraction = block ? (double)(draw >> 32) * 0x1p-32 : 0.5;
    const double t = theta < 32767.0 ? theta * 65536.0 + fraction : 32767.0 * 65536.0;
    const uint32_t fixed = (uint32_t)t; /* t >= 0 */
    const int16_t whole = (int16_t)(fixed >> 16);
    const uint16_t part = (uint16_t)fixed;
    uint16_t words[32];
    for (int l = 0; l < 32; l++)
        words[l] = block ? (uint16_t)lp_word16(block, l) : 0x8000;
    /* r >= 2^16 - part; no word is when part is 0 */
    const uint16_t edge = (uint16_t)(part ? 65535 - part : 65535);
    if (M == 4) {
        for (int64_t j = 0; j < n; j++) {
            const int32_t v = lp_get(w, 4, j), t4 = whole + (words[j & 31] > edge), size = v < 0 ? -v : v;
            const int32_t rest = size > t4 ? size - t4 : 0;
            lp_put(w, 4, j, v < 0 ? -rest : rest);
        }
        return;
    }
    for (int64_t j = 0; j < n; j += 32) {
        const int k = n - j < 32 ? (int)(n - j) : 32;
        if (M == 8)
            lp_shrink_8((int8_t *)w + j, k, whole, edge, words);
        else
            lp_shrink_16((int16_t *)w + j, k, whole, edge, words);
    }
}

/* ---- averaging, and the factor of a float32 model --------------------------------------------------------------- */

void lp_decay(float *w, int64_t n, double factor)
{
    const float f = (float)factor;
    for (int64_t j = 0; j < n; j++)
        w[j] *= f;
}

void lp_accumulate(const void *w, int64_t n, int M, double scale, double *sum)
{
    if (M == 8)
        for (int64_t j = 0; j < n; j++)
            sum[j] += scale * ((const int8_t *)w)[j];
    else if (M == 16)
        for (int64_t j = 0; j < n; j++)
            sum[j] += scale * ((const int16_t *)w)[j];
    else if (M == 32)
        for (int64_t j = 0; j < n; j++)
            sum[j] += scale * (double)((const float *)w)[j];
    else
        for (int64_t j = 0; j < n; j++)
            sum[j] += scale * lp_get(w, 4, j);
}
