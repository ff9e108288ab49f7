/* The compiler's best: see conv.h. There are no intrinsics: vectorizing these loops is the compiler's task. */
#include "conv.h"

#include <math.h>
#include <string.h>

/* The block's 32 words of 16 bits as fractions in [0, 1). */
static inline void uniforms(const uint64_t lanes[8], float u[32])
{
    uint16_t words[32];
    memcpy(words, lanes, sizeof words);
    for (int j = 0; j < 32; j++)
        u[j] = (float)words[j] * 0x1p-16f;
}

#define CONV_DOT(NAME, DATA, MODEL) \
    static lp_sum NAME(const void *data, const void *model, int64_t n) \
    { \
        const DATA *restrict x = data; \
        const MODEL *restrict w = model; \
        float dot = 0.0f; \
        for (int64_t k = 0; k < n; k++) \
            dot += (float)x[k] * (float)w[k]; \
        return (lp_sum){.f = dot}; \
    }

static inline float update(float w, float x, float m, float u, float limit)
{
    float moved = floorf(w + x * m + u);
    moved = moved > limit ? limit : moved;
    return moved < -limit ? -limit : moved;
}

/* In blocks of 32 because the block of random words has 32: k % 32 as an index would keep gcc from vectorizing. */
#define CONV_AXPY(NAME, DATA, MODEL, LIMIT) \
    static void NAME(const lp_step *step, const void *data, void *model, int64_t n, void *random) \
    { \
        const DATA *restrict x = data; \
        MODEL *restrict w = model; \
        const float m = step->m; \
        float u[32]; \
        uniforms(random, u); \
        int64_t k = 0; \
        for (; k + 32 <= n; k += 32) \
            for (int j = 0; j < 32; j++) \
                w[k + j] = (MODEL)(int)update((float)w[k + j], (float)x[k + j], m, u[j], LIMIT); \
        for (int j = 0; k + j < n; j++) \
            w[k + j] = (MODEL)(int)update((float)w[k + j], (float)x[k + j], m, u[j], LIMIT); \
    }

CONV_DOT(dot_8_8, int8_t, int8_t)
CONV_DOT(dot_8_16, int8_t, int16_t)
CONV_DOT(dot_16_8, int16_t, int8_t)
CONV_DOT(dot_16_16, int16_t, int16_t)
CONV_DOT(dot_32f_32f, float, float)
CONV_AXPY(axpy_8_8, int8_t, int8_t, 127)
CONV_AXPY(axpy_8_16, int8_t, int16_t, 32767)
CONV_AXPY(axpy_16_8, int16_t, int8_t, 127)
CONV_AXPY(axpy_16_16, int16_t, int16_t, 32767)

static void axpy_32f_32f(const lp_step *step, const void *data, void *model, int64_t n, void *random)
{
    const float *restrict x = data;
    float *restrict w = model;
    const float m = step->m;
    (void)random;
    for (int64_t k = 0; k < n; k++)
        w[k] += x[k] * m;
}

static int known(int D, int M) { return (D == 8 || D == 16) && (M == 8 || M == 16); }

lp_dot_fn conv_plain_dot(int D, int M)
{
    static const lp_dot_fn rows[2][2] = {{dot_8_8, dot_8_16}, {dot_16_8, dot_16_16}};
    if (D == 32 && M == 32)
        return dot_32f_32f;
    return known(D, M) ? rows[D == 16][M == 16] : NULL;
}

lp_axpy_fn conv_plain_axpy(int D, int M)
{
    static const lp_axpy_fn rows[2][2] = {{axpy_8_8, axpy_8_16}, {axpy_16_8, axpy_16_16}};
    if (D == 32 && M == 32)
        return axpy_32f_32f;
    return known(D, M) ? rows[D == 16][M == 16] : NULL;
}
