/* The portable table of codecs. */

/* Changes no result: see quantize_base.c. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-trapping-math")
#endif

#include "codec_body.h"

#define LP_QUANTIZE lp_quantize_base
#define LP_LARGEST(v, n) lp_largest_portable(v, 0, n, 0)
#define LP_PACK_2(codes, n, payload) lp_pack_2_portable(codes, 0, n, payload)
#define LP_FIT(v, payload, n, bits, sum) lp_fit_portable(v, payload, 0, n, bits, sum)
#define LP_SIGNS(v, n, payload, sum) lp_signs_portable(v, 0, n, payload, sum)
#define LP_HALVES(v, n, inv, payload) lp_halves_portable(v, 0, n, inv, payload)
#define LP_DECODE(payload, levels, n, out, bits, half, op) lp_decode_portable(payload, levels, 0, n, out, bits, half, op)
#include "codec_stamp.h"
LP_CODEC_STAMP(base)
