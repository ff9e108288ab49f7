/* The other side of the "hand-written against the compiler" tables: the same training loop in plain C.
 *
 * Nothing of the product is built from these files. They make the extension lowprec.report._baseline, compiled with
 * fast-math flags of its own, and only the tables of `lowprec speedups` and the benchmarks use it. */
#ifndef LOWPREC_BASELINE_H
#define LOWPREC_BASELINE_H

#include <stddef.h>
#include <stdint.h>

/* Where the number added before rounding down comes from. The order is that of RANDOM_NAMES in _baseline.pyx. */
enum baseline_random { BASELINE_NEAREST, BASELINE_SHARED, BASELINE_XORSHIFT, BASELINE_MT19937 };

/* One training problem. A value is code * scale (scale 1 for floats). Dense rows are contiguous, n elements each; row i of sparse
 * data is elements indptr[i] to indptr[i + 1] of x and of index, the column numbers, which differ within a row. */
struct baseline_job {
    const void *x;
    const int64_t *indptr;
    const void *index;
    void *w;
    const float *y; /* -1 or +1 */
    int64_t n;
    float step;
    float data_scale;
    float model_scale;
    uint64_t lanes[8]; /* the 512-bit xorshift block that the next update uses */
    uint32_t mt[624];
    int mt_at;
};

typedef void (*baseline_epoch)(struct baseline_job *job, int64_t first, int64_t last);

/* The loop for data and model of this many bits (8, 16; 32 is float and needs both) and, for sparse data, column numbers of
 * 16 or 32 bits (0: dense; sparse integers round with shared words only). NULL if there is none. */
baseline_epoch baseline_find(int data_bits, int model_bits, enum baseline_random random, int index_bits);

/* The flags this file was compiled with and the compiler, for the tables to print. */
const char *baseline_flags(void);
const char *baseline_compiler(void);

/* Roof: reads `bytes` bytes (a multiple of 128) once, front to back, and returns their sum so that no read is left out. */
uint64_t baseline_read(const void *buffer, size_t bytes);

/* Probe of the machine's state: `rounds` times 24 independent 256-bit integer operations, all in registers. */
uint64_t baseline_vector_ops(int64_t rounds);

#endif
