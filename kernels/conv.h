/* The compiler's best at the products and the updates of a convolution's filters: the two loops of the paper's Fig 1 in plain C.
 *
 * They stand in for rows of the kernel matrix in lowprec.report._conv, so a convolution by the compiler and one by our kernels
 * differ in nothing else. Like baseline.c they are compiled with fast-math flags of their own, and nothing of the product uses them. */
#ifndef LOWPREC_CONV_H
#define LOWPREC_CONV_H

#include "lowprec.h"

/* x . w in float32, in f of the result. NULL where there is no such loop: D and M of 8 or 16 bits, or both 32. */
lp_dot_fn conv_plain_dot(int D, int M);

/* w += step->m x, rounded down after a word of random (const uint64_t block[8]) was added, and kept within the model's range. */
lp_axpy_fn conv_plain_axpy(int D, int M);

#endif
