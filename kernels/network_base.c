/* The driver of networks and products, portable. */
#define LP_NETWORK_ISA base
#define LP_GEMM_KERNELS lp_gemm_base
#include "network_body.h"
