/* The portable table of codecs. */

/* Changes no result: see quantize_base.c. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-trapping-math")
#endif

#define LP_QUANTIZE lp_quantize_base
#include "codec_body.h"

LP_CODEC_STAMP(base)
