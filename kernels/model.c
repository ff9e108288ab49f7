/* What happens to a whole model between blocks of training. */
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
