/* The same, compiled for AVX2. */
#define LP_NETWORK_ISA avx2
#define LP_GEMM_KERNELS lp_gemm_avx2
#include "network_body.h"
