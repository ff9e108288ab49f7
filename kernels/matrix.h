/* The matrix, written once. Prototypes, both tables, the Python names, tests and benchmarks are read from here.
 *
 * P(D, M) is called for every format pair: LP_PAIRS_FIXED where the model is fixed point (rounding matters), LP_PAIRS_FLOAT
 * where it is float32 (rounding has no effect, so only the unsuffixed row exists). A new pair is one line here. */
#ifndef LP_MATRIX_H
#define LP_MATRIX_H

#define LP_PAIRS_FIXED(P) \
    P(4, 4) P(4, 8) P(4, 16) P(8, 4) P(8, 8) P(8, 16) P(16, 4) P(16, 8) P(16, 16) P(32f, 4) P(32f, 8) P(32f, 16)

#define LP_PAIRS_FLOAT(P) P(4, 32f) P(8, 32f) P(16, 32f) P(32f, 32f)

/* R(suffix, rounding) for the roundings of a fixed-point model. */
#define LP_ROUNDINGS(R, D, M) R(D, M, , LP_NEAREST) R(D, M, _sr, LP_SR) R(D, M, _srx, LP_SRX) R(D, M, _srb, LP_SRB)

/* P(I, D, M) for the widths of the index of sparse data ... */
#define LP_INDEXES(P, D, M) P(8, D, M) P(16, D, M) P(32, D, M)

/* ... and P(I, M) for every width with every model. */
#define LP_MODELS(P, I) P(I, 4) P(I, 8) P(I, 16) P(I, 32f)
#define LP_INDEX_MODELS(P) LP_MODELS(P, 8) LP_MODELS(P, 16) LP_MODELS(P, 32)

/* A token of the grammar as the number of its bits; 32 means float32 throughout the C code. */
#define LP_BITS_4 4
#define LP_BITS_8 8
#define LP_BITS_16 16
#define LP_BITS_32f 32

#endif
