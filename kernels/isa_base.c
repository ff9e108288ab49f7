/* The portable table: C11 and nothing else. */
#include "body_base.h"

#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0
#error "float and double must be evaluated in their own precision (on 32-bit x86: -msse2 -mfpmath=sse)"
#endif

_Static_assert((-1 >> 1) == -1, "right shifts of negative numbers must be arithmetic");

static int always(void) { return 1; }

#define LP_ISA base
#define LP_RUNNABLE always
#define LP_BODY lp_body_base
#define LP_DRAW lp_draw_base
#define LP_BATCH_BODY lp_batch_base
#define LP_SLOPES(kind, g, t, first, factor) 0
#define LP_ROUND_STEPS(u, slope, scale, stochastic, draws) 0
#define LP_CLOSE lp_update_close
#include "batch_loop.h"
#define LP_BATCH_LOOP lp_batch_loop
#define LP_WHOLE(D, M, n) 0 /* one body is enough here: an example a call */
#define LP_REGULAR(D, M, step) 1
#include "stamp.h"
