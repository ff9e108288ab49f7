/* The AVX2 table (x86-64-v3). Pairs without a body of their own are the portable one, compiled with this unit's flags. */
#include <cpuid.h>

#include "body_avx2.h"

static int has_avx2(void)
{
    unsigned a, b, c = 0, d;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C); /* not every compiler's builtin knows it */
}

#define LP_ISA avx2
#define LP_RUNNABLE has_avx2
#define LP_BODY lp_body_avx2
#define LP_DRAW lp_draw_avx2
#define LP_BATCH_BODY lp_batch_avx2
#define LP_SLOPES lp_slopes_avx2
#define LP_ROUND_STEPS lp_round_steps_avx2
#define LP_CLOSE lp_update_close_avx2
#include "batch_loop.h"
#define LP_BATCH_LOOP lp_batch_loop
#define LP_WHOLE lp_whole_avx2
#define LP_REGULAR lp_regular_avx2
#include "stamp.h"
