/* Counting instructions one by one, for the cost of computing in simulated machines (lowprec.report.instructions). */
#ifndef LP_INSTRUCTIONS_H
#define LP_INSTRUCTIONS_H

#include <stdint.h>

#define LP_MAX_RANGES 16

/* From here on every instruction of this thread is a trap, at some microseconds each; those within the ranges [first, last) of
 * addresses are counted. 0 where that cannot be done: Linux on x86-64 can. */
int lp_count_begin(const uint64_t *first, const uint64_t *last, int ranges);
int64_t lp_count_end(void);

#endif
