/* The compiler's best: see baseline.h. */
#include "baseline.h"

#include <math.h>
#include <string.h>

/* ---- random numbers: the same generators, word for word, as the kernels of the product ---- */

static inline void xorshift(uint64_t lanes[8])
{
    for (int l = 0; l < 8; l++) {
        uint64_t s = lanes[l];
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        lanes[l] = s;
    }
}

/* The block's 32 words of 16 bits as fractions in [0, 1). memcpy gives them in the order of the bytes in memory, which is
 * the order the kernels use on every little-endian machine. */
static inline void uniforms(const uint64_t lanes[8], float u[32])
{
    uint16_t words[32];
    memcpy(words, lanes, sizeof words);
    for (int j = 0; j < 32; j++)
        u[j] = (float)words[j] * 0x1p-16f;
}

/* The classic Mersenne Twister (Matsumoto and Nishimura 1998), one 32-bit output a call. */
static void mt19937_refill(struct baseline_job *job)
{
    uint32_t *s = job->mt;
    for (int k = 0; k < 624; k++) {
        const uint32_t t = (s[k] & 0x80000000u) | (s[k < 623 ? k + 1 : 0] & 0x7fffffffu);
        s[k] = s[k < 227 ? k + 397 : k - 227] ^ (t >> 1) ^ ((t & 1u) ? 0x9908b0dfu : 0u);
    }
    job->mt_at = 0;
}

static inline uint32_t mt19937(struct baseline_job *job)
{
    if (job->mt_at == 624)
        mt19937_refill(job);
    uint32_t t = job->mt[job->mt_at++];
    t ^= t >> 11;
    t ^= (t << 7) & 0x9d2c5680u;
    t ^= (t << 15) & 0xefc60000u;
    return t ^ (t >> 18);
}

/* ---- the loops: every integer pair of 8 and 16 bits, and float ---- */

/* The preprocessor compares RANDOM, so it needs numbers where C needs the enum. */
#define BASELINE_NEAREST 0
#define BASELINE_SHARED 1
#define BASELINE_XORSHIFT 2
#define BASELINE_MT19937 3

#define DATA int8_t
#define MODEL int8_t
#define MODEL_MAX 127
#define PAIR loop_8_8
#include "baseline_pair.h"
#undef DATA

#define DATA int16_t
#define PAIR loop_16_8
#include "baseline_pair.h"
#undef MODEL
#undef MODEL_MAX

#define MODEL int16_t
#define MODEL_MAX 32767
#define PAIR loop_16_16
#include "baseline_pair.h"
#undef DATA

#define DATA int8_t
#define PAIR loop_8_16
#include "baseline_pair.h"
#undef DATA
#undef MODEL
#undef MODEL_MAX

#define DATA float
#define MODEL float
#define MODEL_MAX 0
#define PAIR loop_32f_32f
#include "baseline_pair.h"

baseline_epoch baseline_find(int data_bits, int model_bits, enum baseline_random random, int index_bits)
{
    static const baseline_epoch dense[2][2][4] = {
        {{loop_8_8_nearest, loop_8_8_shared, loop_8_8_xorshift, loop_8_8_mt19937},
         {loop_8_16_nearest, loop_8_16_shared, loop_8_16_xorshift, loop_8_16_mt19937}},
        {{loop_16_8_nearest, loop_16_8_shared, loop_16_8_xorshift, loop_16_8_mt19937},
         {loop_16_16_nearest, loop_16_16_shared, loop_16_16_xorshift, loop_16_16_mt19937}},
    };
    static const baseline_epoch sparse[2][2][2] = {
        {{loop_8_8_i16, loop_8_8_i32}, {loop_8_16_i16, loop_8_16_i32}},
        {{loop_16_8_i16, loop_16_8_i32}, {loop_16_16_i16, loop_16_16_i32}},
    };
    const int is_float = data_bits == 32 && model_bits == 32;
    if (!is_float && ((data_bits != 8 && data_bits != 16) || (model_bits != 8 && model_bits != 16)))
        return NULL;
    if (index_bits == 0)
        return is_float ? loop_32f_32f_nearest : dense[data_bits == 16][model_bits == 16][random];
    if ((index_bits != 16 && index_bits != 32) || (!is_float && random != BASELINE_SHARED))
        return NULL;
    if (is_float)
        return index_bits == 16 ? loop_32f_32f_i16 : loop_32f_32f_i32;
    return sparse[data_bits == 16][model_bits == 16][index_bits == 32];
}

/* ---- the roof and the probe ---- */

/* gcc and clang turn this into 256-bit registers where the flags allow them, and into what there is elsewhere. */
typedef uint64_t vec __attribute__((vector_size(32)));
typedef uint16_t vec16 __attribute__((vector_size(32)));

uint64_t baseline_read(const void *buffer, size_t bytes)
{
    const vec *v = buffer;
    vec a = {0}, b = {0}, c = {0}, d = {0}; /* four accumulators, so that no addition waits for the one before it */
    for (size_t i = 0; i < bytes / sizeof(vec); i += 4) {
        a += v[i];
        b += v[i + 1];
        c += v[i + 2];
        d += v[i + 3];
    }
    a += b + c + d;
    return a[0] + a[1] + a[2] + a[3];
}

uint64_t baseline_vector_ops(int64_t rounds)
{
    vec16 x[12];
    vec16 factor = {0}, term = {0};
    factor += 0x6255;
    term += 0x3619;
    for (int k = 0; k < 12; k++)
        x[k] = term + (uint16_t)k;
    for (int64_t i = 0; i < rounds; i++)
        for (int k = 0; k < 12; k++)
            x[k] = x[k] * factor + term;
    for (int k = 1; k < 12; k++)
        x[0] ^= x[k];
    vec sum;
    memcpy(&sum, &x[0], sizeof sum);
    return sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
}

/* ---- what was compiled how ---- */

/* Read from what the compiler defines and not handed in by the build, so that it cannot disagree with what was done. */
const char *baseline_flags(void)
{
    return ""
#if defined(__FAST_MATH__) && defined(__OPTIMIZE__)
           "-Ofast"
#elif defined(__OPTIMIZE__)
           "-O (no fast math)"
#else
           "-O0"
#endif
#ifdef __AVX2__
           " -mavx2"
#endif
#ifdef __FMA__
           " -mfma"
#endif
#ifdef __AVX512F__
           " -mavx512f"
#endif
        ;
}

const char *baseline_compiler(void)
{
#if defined(__clang__)
    return __VERSION__;
#elif defined(__GNUC__)
    return "gcc " __VERSION__;
#else
    return "unknown compiler";
#endif
}
