/* The steps of an exchange. All arithmetic is by blocks of LP_CODE_BLOCK numbers, which stay in the first-level cache:
 *
 *     give     v = (residual +) replica - base;          message = code(v);   residual = v - decode(message)
 *     reduce   v = (owner's residual +) sum_t decode;    merged = code(v);    owner's residual = v - decode(merged)
 *     take     agreed += decode(merged);                 w = nearest codes of agreed, saturated
 *     answer   chunk += decode(message);  v = chunk - told;  answer = code(v);  told += decode(answer)
 *
 * An exact codec sends the merged numbers themselves, agreed + d_0 + d_1 + ..., and they are taken as they are. */
#include "exchange.h"

#include <string.h>

#include "scalar.h"

void lp_chunk(const lp_team *team, int32_t q, int64_t *first, int64_t *last)
{
    *first = lp_part(team->exchange->columns, q, team->workers);
    *last = lp_part(team->exchange->columns, q + 1, team->workers);
}

int64_t lp_message_bytes(const lp_team *team, int32_t q)
{
    int64_t first, last;
    lp_chunk(team, q, &first, &last);
    return lp_coded_bytes(team->exchange->codec, last - first);
}

/* ---- numbers and codes -------------------------------------------------------------------------------------------- */

/* v = or += a - b, of columns [j, j + k). */
#define LP_DEF_CHANGE(type, wide, name) \
    static void name(const void *a, const void *b, int64_t j, int k, float *v, int add) \
    { \
        const type *const x = (const type *)a + j, *const y = (const type *)b + j; \
        if (add) \
            for (int l = 0; l < k; l++) \
                v[l] += (float)((wide)x[l] - (wide)y[l]); \
        else \
            for (int l = 0; l < k; l++) \
                v[l] = (float)((wide)x[l] - (wide)y[l]); \
    }
LP_DEF_CHANGE(int8_t, int32_t, lp_change_8)
LP_DEF_CHANGE(int16_t, int32_t, lp_change_16)
LP_DEF_CHANGE(float, float, lp_change_32)

static void lp_change(int M, const void *a, const void *b, int64_t j, int k, float *v, int add)
{
    if (M == 8)
        lp_change_8(a, b, j, k, v, add);
    else if (M == 16)
        lp_change_16(a, b, j, k, v, add);
    else if (M == 32)
        lp_change_32(a, b, j, k, v, add);
    else
        for (int l = 0; l < k; l++) {
            const float d = (float)(lp_get(a, 4, j + l) - lp_get(b, 4, j + l));
            v[l] = add ? v[l] + d : d;
        }
}

/* Columns [first, last) of w, first even, become the nearest codes of a (halves to even), where a is clipped
 * to what codes reach. */
static void lp_to_codes(int M, float *a, int64_t first, int64_t last, void *w)
{
    if (M == 32) {
        if (a != (float *)w)
            memcpy((float *)w + first, a + first, (size_t)(last - first) * sizeof(float));
        return;
    }
    const float top = (float)lp_max_code(M), magic = 0x1.8p23f;
    for (int64_t j = first; j < last; j++) {
        float x = a[j];
        x = x > top ? top : x;
        a[j] = x > -top ? x : -top;
    }
    if (M == 8)
        for (int64_t j = first; j < last; j++)
            ((int8_t *)w)[j] = (int8_t)(int32_t)((a[j] + magic) - magic);
    else if (M == 16)
        for (int64_t j = first; j < last; j++)
            ((int16_t *)w)[j] = (int16_t)(int32_t)((a[j] + magic) - magic);
    else
        for (int64_t j = first; j < last; j++)
            lp_put(w, 4, j, (int32_t)((a[j] + magic) - magic));
}

/* a = w, or a = w + factor a. */
static void lp_from_codes(int M, const void *w, int64_t n, float *a, int add, float factor)
{
    for (int64_t j = 0; j < n; j++) {
        const float code = M == 32 ? ((const float *)w)[j] : (float)lp_get(w, M, j);
        a[j] = add ? code + factor * a[j] : code;
    }
}

/* The agreed model of all, for who has no worker in mind. */
static float *lp_common(const lp_team *team)
{
    const lp_exchange *x = team->exchange;
    return x->synchronous ? x->agreed[team->local < 0 ? 0 : team->local] : x->owned;
}

static int lp_is_here(const lp_team *team, int32_t t) { return team->local < 0 || team->local == t; }

/* Bytes of so many numbers that begin on a byte. */
static size_t lp_size(int M, int64_t n) { return (size_t)(M == 4 ? (n + 1) / 2 : n * (M / 8)); }

static size_t lp_model_bytes(const lp_team *team) { return lp_size(team->M, team->n); }

/* ---- where blocks of a message are -------------------------------------------------------------------------------- */

static int lp_block_length(int64_t j, int64_t last) { return last - j < LP_CODE_BLOCK ? (int)(last - j) : LP_CODE_BLOCK; }

static int64_t lp_payload_at(const lp_codec *codec, int64_t j) { return j * codec->bits / 8; }

static int64_t lp_levels_at(const lp_codec *codec, int64_t length, int64_t j)
{
    return lp_payload_bytes(codec, length) + j / LP_CODE_BLOCK * codec->levels * (int64_t)sizeof(float);
}

static void lp_encode(const lp_exchange *x, float *v, int k, uint8_t *message, int64_t length, int64_t j, lp_rng *rng)
{
    const lp_codec *codec = x->codec;
    uint8_t *payload = message + lp_payload_at(codec, j), *levels = message + lp_levels_at(codec, length, j);
    if (x->feedback)
        codec->encode_feedback[x->random](v, k, payload, levels, rng->lane);
    else
        codec->encode[x->random](v, k, payload, levels, rng->lane);
}

/* out += decoded; exact numbers are the whole. */
static void lp_decode(const lp_exchange *x, const uint8_t *message, int64_t length, int64_t j, int k, float *out, int whole)
{
    const lp_codec *codec = x->codec;
    (whole ? codec->decode : codec->decode_add)(message + lp_payload_at(codec, j), message + lp_levels_at(codec, length, j), k,
                                                out);
}

/* ---- steps -------------------------------------------------------------------------------------------------------- */

void lp_exchange_begin(lp_team *team)
{
    lp_exchange *x = team->exchange;
    float *common = lp_common(team);
    if (common != team->w)
        lp_from_codes(team->M, team->w, team->exchange->columns, common, 0, 0.0f);
    if (!x->synchronous)
        lp_meet(team);
}

void lp_give(const lp_team *team, int32_t t, int32_t q, uint8_t *message)
{
    const lp_exchange *x = team->exchange;
    int64_t first, last;
    float block[LP_CODE_BLOCK];
    lp_chunk(team, q, &first, &last);
    for (int64_t j = first; j < last; j += LP_CODE_BLOCK) {
        const int k = lp_block_length(j, last);
        float *v = x->feedback ? x->residual[t] + j : block;
        lp_change(team->M, team->replicas[t], team->bases[t], j, k, v, x->feedback);
        lp_encode(x, v, k, message, last - first, j - first, &x->giving[t]);
    }
}

void lp_reduce(const lp_team *team, int32_t q, uint8_t *const *messages, int64_t at, uint8_t *merged)
{
    const lp_exchange *x = team->exchange;
    int64_t first, last;
    float block[LP_CODE_BLOCK];
    lp_chunk(team, q, &first, &last);
    for (int64_t j = first; j < last; j += LP_CODE_BLOCK) {
        const int k = lp_block_length(j, last);
        float *v = x->feedback ? x->owned + j : block;
        if (x->codec->exact)
            memcpy(v, lp_common(team) + j, (size_t)k * sizeof(float));
        else if (!x->feedback)
            memset(v, 0, (size_t)k * sizeof(float));
        for (int32_t t = 0; t < team->workers; t++)
            lp_decode(x, messages[t] + at, last - first, j - first, k, v, 0);
        lp_encode(x, v, k, merged, last - first, j - first, &x->merging[q]);
    }
}

void lp_take(const lp_team *team, int32_t q, const uint8_t *merged)
{
    const lp_exchange *x = team->exchange;
    float *agreed = lp_common(team);
    int64_t first, last;
    lp_chunk(team, q, &first, &last);
    for (int64_t j = first; j < last; j += LP_CODE_BLOCK) {
        const int k = lp_block_length(j, last);
        lp_decode(x, merged, last - first, j - first, k, agreed + j, x->codec->exact);
        lp_to_codes(team->M, agreed, j, j + k, team->w);
        if (team->local >= 0) { /* while they are in a cache: w and the replica may be larger than it */
            const int64_t at = lp_bytes(team->M, j);
            memcpy((uint8_t *)team->replicas[team->local] + at, (uint8_t *)team->w + at, lp_size(team->M, k));
        }
    }
}

void lp_refill(const lp_team *team, int32_t t) { memcpy(team->replicas[t], team->w, lp_model_bytes(team)); }

void lp_given(const lp_team *team, int32_t t) { memcpy(team->bases[t], team->replicas[t], lp_model_bytes(team)); }

void lp_answer(const lp_team *team, int32_t q, int32_t t, const uint8_t *message, uint8_t *answer)
{
    const lp_exchange *x = team->exchange;
    const float top = team->M == 32 ? 0.0f : (float)lp_max_code(team->M);
    int64_t first, last;
    float v[LP_CODE_BLOCK];
    lp_chunk(team, q, &first, &last);
    for (int64_t j = first; j < last; j += LP_CODE_BLOCK) {
        const int k = lp_block_length(j, last);
        float *chunk = x->owned + j, *told = x->told[t] + (j - x->told_from);
        lp_decode(x, message, last - first, j - first, k, chunk, 0);
        if (top > 0.0f)
            for (int l = 0; l < k; l++)
                chunk[l] = chunk[l] > top ? top : chunk[l] < -top ? -top : chunk[l];
        for (int l = 0; l < k; l++)
            v[l] = x->codec->exact ? chunk[l] : chunk[l] - told[l];
        lp_encode(x, v, k, answer, last - first, j - first, &x->merging[q]);
        lp_decode(x, answer, last - first, j - first, k, told, x->codec->exact);
        if (top > 0.0f) /* as the worker does when it learns */
            for (int l = 0; l < k; l++)
                told[l] = told[l] > top ? top : told[l] < -top ? -top : told[l];
    }
}

void lp_hear(const lp_team *team, int32_t t, int32_t q, const uint8_t *answer)
{
    const lp_exchange *x = team->exchange;
    int64_t first, last;
    if (team->local < 0)
        return; /* it is */
    lp_chunk(team, q, &first, &last);
    for (int64_t j = first; j < last; j += LP_CODE_BLOCK)
        lp_decode(x, answer, last - first, j - first, lp_block_length(j, last), x->agreed[t] + j, x->codec->exact);
}

void lp_learn(const lp_team *team, int32_t t)
{
    const lp_exchange *x = team->exchange;
    void *replica = team->replicas[t], *base = team->bases[t];
    float since[LP_CODE_BLOCK];
    for (int64_t j = 0; j < x->columns; j += LP_CODE_BLOCK) {
        const int k = lp_block_length(j, x->columns);
        lp_change(team->M, replica, base, j, k, since, 0);
        lp_to_codes(team->M, x->agreed[t], j, j + k, base);
        if (team->M == 32) {
            for (int l = 0; l < k; l++)
                ((float *)replica)[j + l] = ((float *)base)[j + l] + since[l];
        } else {
            const int32_t top = lp_max_code(team->M);
            for (int l = 0; l < k; l++) {
                const int32_t code = lp_get(base, team->M, j + l) + (int32_t)since[l];
                lp_put(replica, team->M, j + l, code > top ? top : code < -top ? -top : code);
            }
        }
    }
}

void lp_meet(lp_team *team)
{
    const lp_exchange *x = team->exchange;
    int64_t first = 0, last = x->columns;
    lp_to_codes(team->M, x->owned, 0, x->columns, team->w);
    if (team->local >= 0)
        lp_chunk(team, team->local, &first, &last);
    for (int32_t t = 0; t < team->workers; t++) {
        memcpy(x->told[t], x->owned + first, (size_t)(last - first) * sizeof(float));
        if (lp_is_here(team, t))
            memcpy(x->agreed[t], x->owned, (size_t)x->columns * sizeof(float));
    }
    team->started = 0;
}

void lp_agreed_codes(const lp_team *team, void *w)
{
    const lp_exchange *x = team->exchange;
    lp_to_codes(team->M, team->local < 0 ? x->owned : x->agreed[team->local], 0, x->columns, w);
}

void lp_carry_out(lp_team *team)
{
    float *common = lp_common(team);
    if (common != team->w)
        lp_from_codes(team->M, team->w, team->exchange->columns, common, 1,
                      -1.0f); /* w - agreed: the sign is turned back by carry_in */
}

void lp_carry_in(lp_team *team, float factor)
{
    const lp_exchange *x = team->exchange;
    float *common = lp_common(team);
    if (common != team->w)
        lp_from_codes(team->M, team->w, team->exchange->columns, common, team->M != 32, -factor);
    if (factor != 1.0f) {
        for (int32_t t = 0; x->feedback && t < team->workers; t++)
            for (int64_t j = 0; lp_is_here(team, t) && j < x->columns; j++)
                x->residual[t][j] *= factor;
        for (int64_t j = 0; x->feedback && x->synchronous && j < x->columns; j++)
            x->owned[j] *= factor;
    }
    if (!x->synchronous)
        lp_meet(team);
    team->started = 0;
}

/* ---- threads ------------------------------------------------------------------------------------------------------ */

void lp_exchange_give(const lp_team *team, int32_t thread, int32_t threads)
{
    const lp_exchange *x = team->exchange;
    for (int32_t t = thread; t < team->workers; t += threads)
        for (int32_t q = 0; q < team->workers; q++)
            lp_give(team, t, q, x->messages[t] + x->offsets[q]);
}

void lp_exchange_merge(const lp_team *team, int32_t thread, int32_t threads)
{
    const lp_exchange *x = team->exchange;
    for (int32_t q = thread; q < team->workers; q += threads) {
        lp_reduce(team, q, x->messages, x->offsets[q], x->merged + x->offsets[q]);
        lp_take(team, q, x->merged + x->offsets[q]);
    }
}

void lp_exchange_turn(const lp_team *team, int32_t t)
{
    const lp_exchange *x = team->exchange;
    for (int32_t q = 0; q < team->workers; q++)
        lp_give(team, t, q, x->messages[t] + x->offsets[q]);
    lp_given(team, t);
    for (int32_t q = 0; q < team->workers; q++)
        lp_answer(team, q, t, x->messages[t] + x->offsets[q], x->merged + x->offsets[q]);
    lp_learn(team, t);
}
