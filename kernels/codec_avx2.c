/* The AVX2 table of codecs. */
#define LP_QUANTIZE lp_quantize_avx2
#include "codec_body.h"

LP_CODEC_STAMP(avx2)
