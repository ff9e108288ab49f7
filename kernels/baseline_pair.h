/* Every loop of one pair of formats. Included once for each pair by baseline.c, with DATA, MODEL and MODEL_MAX as in baseline_loop.h
 * and PAIR, the beginning of the functions' names. Sparse loops round with shared words alone: that is what the paper compares. */

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)

#define RANDOM BASELINE_NEAREST
#define LOOP PASTE(PAIR, _nearest)
#include "baseline_loop.h"

#if MODEL_MAX
#define RANDOM BASELINE_XORSHIFT
#define LOOP PASTE(PAIR, _xorshift)
#include "baseline_loop.h"

#define RANDOM BASELINE_MT19937
#define LOOP PASTE(PAIR, _mt19937)
#include "baseline_loop.h"

#define RANDOM BASELINE_SHARED
#define LOOP PASTE(PAIR, _shared)
#include "baseline_loop.h"
#endif

#define RANDOM BASELINE_SHARED
#define LOOP PASTE(PAIR, _i16)
#define INDEX uint16_t
#include "baseline_loop.h"

#define RANDOM BASELINE_SHARED
#define LOOP PASTE(PAIR, _i32)
#define INDEX uint32_t
#include "baseline_loop.h"

#undef PASTE
#undef PASTE_
#undef PAIR
