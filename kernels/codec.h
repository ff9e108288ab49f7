/* Communication numbers: float32 -> coded blocks of 1 to 32 bits, and back. docs/architecture.md, "Codecs", states the arithmetic.
 *
 * n numbers are coded in blocks of LP_CODE_BLOCK, each by itself; the last may be shorter. A message is the payload of all blocks
 * without gaps, (n bits + 7) / 8 bytes, and behind it the levels of all blocks: `levels` float32 numbers each, little-endian, at any
 * address. Bits of a byte are filled from the lowest; what is left of the last byte is zero. */
#ifndef LP_CODEC_H
#define LP_CODEC_H

#include <stdint.h>

#define LP_CODE_BLOCK 2048

/* v: n numbers. payload, levels: see above. lane: the generator's eight words, advanced; not looked at where nothing is rounded at
 * random. Returns nonzero if v holds a NaN or a magnitude above 2^100; the levels of its block are NaN then, and so are all numbers
 * decoded and what is left in v. (32f: if v holds a NaN or an infinity, which is sent as it is.) */
typedef int (*lp_encode_fn)(const float *v, int64_t n, uint8_t *payload, uint8_t *levels, uint64_t *lane);
/* The same; leaves in v what is not sent: v - decoded. */
typedef int (*lp_encode_feedback_fn)(float *v, int64_t n, uint8_t *payload, uint8_t *levels, uint64_t *lane);
/* out = decoded; or out += decoded, rounded once. */
typedef void (*lp_decode_fn)(const uint8_t *payload, const uint8_t *levels, int64_t n, float *out);

typedef struct lp_codec {
    const char *name; /* "1", "2", "4", "8", "16", "16f", "32f" */
    int32_t bits;
    int32_t levels;         /* float32 numbers per block: 2, 1, or 0 */
    int32_t exact;          /* is every number sent as it is? */
    lp_encode_fn encode[2]; /* [at random?]; the same twice where a codec has no random rounding */
    lp_encode_feedback_fn encode_feedback[2];
    lp_decode_fn decode, decode_add;
} lp_codec;

enum { LP_N_CODECS = 7 };

extern const lp_codec lp_codecs_base[LP_N_CODECS];
#ifdef LP_HAVE_AVX2
extern const lp_codec lp_codecs_avx2[LP_N_CODECS];
#endif

static inline int64_t lp_payload_bytes(const lp_codec *codec, int64_t n) { return (n * codec->bits + 7) / 8; }

/* Bytes of a message of n numbers. */
static inline int64_t lp_coded_bytes(const lp_codec *codec, int64_t n)
{
    return lp_payload_bytes(codec, n) + (n + LP_CODE_BLOCK - 1) / LP_CODE_BLOCK * codec->levels * (int64_t)sizeof(float);
}

#endif
