/* The driver of networks and products, portable. */
#include <stdint.h>

static inline void lp_widen_codes(const uint8_t *from, int32_t *to)
{
    for (int j = 0; j < 16; j++)
        to[j] = from[j];
}

static inline void lp_narrow_codes(const int32_t *from, uint8_t *to)
{
    for (int j = 0; j < 16; j++)
        to[j] = (uint8_t)from[j];
}

#define LP_NETWORK_ISA base
#define LP_GEMM_KERNELS lp_gemm_base
#define LP_WIDEN_CODES lp_widen_codes
#define LP_NARROW_CODES lp_narrow_codes
#include "network_body.h"
