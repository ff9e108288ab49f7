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
#include "stamp.h"
