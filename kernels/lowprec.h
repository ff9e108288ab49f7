/* The C contract of the kernels. docs/architecture.md has the same in words; tests/reference.py in Python integers.
 *
 * Kernels own nothing: they read and write the caller's buffers, nothing past element n - 1, never allocate, never fail.
 * Buffers need no alignment beyond that of their element type. */
#ifndef LOWPREC_H
#define LOWPREC_H

#include <stddef.h>
#include <stdint.h>

enum lp_op { LP_DOT, LP_AXPY, LP_AXPY_DOT, LP_SGD, LP_BATCH, LP_SDOT, LP_SAXPY };
enum lp_rounding { LP_NEAREST, LP_SR, LP_SRX, LP_SRB };
enum lp_loss_kind { LP_LOGISTIC, LP_MARGIN, LP_RESIDUAL };

/* A loss, by its derivative in p = x . w + b. LP_LOGISTIC needs no numbers. The others are piecewise linear in r = 1 - y p (LP_MARGIN,
 * labels -1 and +1) or r = y - p (LP_RESIDUAL): v = high where r > above, low where r < below, slope * r between; the derivative is
 * -v y or -v. */
typedef struct lp_loss {
    int32_t kind; /* enum lp_loss_kind */
    double above, high, below, low, slope;
} lp_loss;

/* Elements between two flushes of the partial sums. For float32 it is part of the arithmetic; for integers it is short enough for
 * every accumulator: 4096 * 2^7 * 2^7 < 2^31 (8 x 8), and per 32-bit lane 128 * 2 * 2^7 * 2^15 = 2^30 (8 x 16). */
#define LP_BLOCK 4096
#define LP_COLUMNS 16384 /* of a batch at a time: the hardware's prefetcher needs runs that long */
#define LP_ABREAST 2     /* rows whose products are taken side by side, where the rows are long */

/* Bytes between the row being read and the software prefetch, unless a caller says otherwise. Measured at 2^11 <= n <= 2^20 on Zen 4:
 * 8 KiB ahead into the second-level cache gives 0.7..0.9 of the streaming roof, 1 KiB into the first 0.35..0.5. */
#define LP_DISTANCE 8192

/* One axpy's step. Integer data and fixed-point model: w += floor((mu * 2^e * x + r) / 2^16). Otherwise w += m * x.
 * magic is mu + 1.5 * 2^52 as a double: its low 32 bits are mu, which lets SIMD code take mu without leaving the vector unit. */
typedef struct lp_step {
    double magic;
    int32_t mu;
    int32_t e;
    float m;
} lp_step;

/* The sum of a dot. i: exact, where both formats are integers. f: the same as a double (integers), or the sum itself (32f). */
typedef struct lp_sum {
    int64_t i;
    double f;
} lp_sum;

/* Eight xorshift64 lanes (one 512-bit block of random words) and the scalar generator that rounds mu. */
typedef struct lp_rng {
    uint64_t lane[8];
    uint64_t scalar;
} lp_rng;

typedef struct lp_mt19937 {
    uint32_t state[624];
    int index;
} lp_mt19937;

/* One worker of a training run: everything that is decided per run or per example, and the update that is still pending. */
typedef struct lp_sgd {
    const uint8_t *x;     /* rows of codes, row i at x + i * row_stride */
    int64_t row_stride;   /* bytes */
    int64_t ahead;        /* bytes between the row being read and the software prefetch; 0: off */
    int64_t n;            /* numbers per row (pad codes included where they are known to be zero) */
    const int64_t *order; /* permutation of the rows, or NULL */
    const float *y;       /* labels or targets by row */
    const float *weight;  /* sample weights by row, or NULL */
    void *w;              /* the model's codes, shared by all workers */
    double *intercept;    /* shared by all workers, or NULL */
    double intercept_step;
    double dot_scale;  /* scale_x * scale_w */
    double step_scale; /* step size * scale_x / scale_w */
    lp_loss loss;
    const double *anchor; /* or NULL: two numbers a row, added to its p, and taken from its -derivative (SVRG) */
    int32_t stochastic;   /* is mu rounded stochastically? */
    int64_t refresh;      /* axpys per shared block */
    int64_t refresh_left;
    uint64_t block[8]; /* the shared block */
    lp_rng rng;
    lp_mt19937 *mt; /* mt19937: the generator, and room for a row of words */
    void *words;
    int32_t pending; /* is an update still to be applied? */
    lp_step step;
    const uint8_t *pending_x; /* its row */
    int64_t bad_row;          /* the first row whose product was not finite, or -1 */
    struct lp_batch *batch;   /* mini-batches, or NULL: an update for each example */
    struct lp_sparse *sparse; /* the layout of sparse data, or NULL: rows of n numbers */
} lp_sgd;

/* The rows that one update of a batch adds to the model, and the step of each. */
typedef struct lp_update {
    const uint8_t **x; /* the rows' first bytes, count + 1 of them: the last is there twice, for who reads two at a time */
    float *m;          /* the steps where a format is 32f */
    int32_t *mu, *e;   /* elsewhere; count + 1 of mu, a zero follows */
    int32_t *pairs;    /* mu of row 2 k in the low half, of row 2 k + 1 (0 where there is none) in the high one */
    int64_t count;
    int64_t reach;   /* sum of |mu| 2^e: no sum over the rows is larger than reach 2^(D-1) */
    int32_t regular; /* is every e 0? */
} lp_update;

/* The rows whose products with the model a batch takes. */
typedef struct lp_products {
    const uint8_t **x;     /* the rows' first bytes */
    const uint8_t **ahead; /* what to prefetch meanwhile, from column j on */
    int64_t count;
    const void *w; /* from column j on, n columns, as few as of an update */
    int64_t j, n;
    void *sums; /* added to: int64_t for each row; double[32] where a format is 32f, the sums that lp_tree reduces */
} lp_products;

/* random: LP_NEAREST: NULL. LP_SR: const uint64_t block[8]. LP_SRX: uint64_t lane[8], advanced. LP_SRB: one word per
 * element, const uint16_t * for integer data, const uint32_t * for 32f data. */
typedef lp_sum (*lp_dot_fn)(const void *x, const void *w, int64_t n);
typedef void (*lp_axpy_fn)(const lp_step *step, const void *x, void *w, int64_t n, void *random);
typedef lp_sum (*lp_axpy_dot_fn)(const lp_step *step, const void *x, void *w, const void *x_next, int64_t n, void *random);
typedef void (*lp_sgd_fn)(lp_sgd *job, int64_t first, int64_t last); /* positions [first, last) of the epoch */
/* k stored entries, weights by way of scratch (room for k, and not part of w). */
typedef lp_sum (*lp_sdot_fn)(const void *x, const void *index, int differences, int64_t k, const void *w, void *scratch);
typedef void (*lp_saxpy_fn)(const lp_step *step, const void *x, const void *index, int differences, int64_t k, void *w,
                            void *scratch, void *random);
typedef void (*lp_gather_fn)(const void *index, int differences, int64_t k, const void *w, void *scratch);
typedef void (*lp_scatter_fn)(const void *index, int differences, int64_t k, const void *scratch, void *w);
/* The one row's scatter and the next one's gather: what they give one after the other. */
typedef void (*lp_exchange_fn)(const void *index, int differences, int64_t k, const void *scratch, void *w,
                               const void *index_next, int64_t k_next, void *scratch_next);

/* A gathered row is filled up with zeros to a multiple of so many weights, of twice as many for 4 bits; a scratch has so many bytes
 * more than the weights of its longest row take. */
#define LP_SPARSE_GROUP 32
#define LP_SPARSE_ROOM 192

/* Sparse data: row i has entries indptr[i] .. indptr[i + 1] - 1. An entry is a code of g->x (4-bit codes of row i begin at byte
 * (indptr[i] + i) / 2, so that every row starts on a byte) and an index: its position, or, with differences, its distance from the
 * position before, which is -1 before the first. Positions rise strictly within a row. */
typedef struct lp_sparse {
    const int64_t *indptr;
    const uint8_t *index;
    int32_t index_bits;
    int32_t differences;
    int32_t D, M, rounding;
    int32_t next_row;      /* are the next row's weights prefetched? */
    const uint8_t *x_end;  /* data may be read up to here */
    void *scratch, *other; /* this worker's: the weights of the longest row, and LP_SPARSE_ROOM bytes */
    lp_gather_fn gather;
    lp_scatter_fn scatter;
    lp_exchange_fn exchange; /* or NULL, where other is too */
    lp_dot_fn dot;
    lp_axpy_fn axpy;
} lp_sparse;

/* One write of columns [j, j + n) of w, n <= LP_COLUMNS, j a multiple of LP_BLOCK, for all rows of u; and the products of p's rows
 * with other columns. w and LP_SRB's words begin at column j, the rows at column 0. */
typedef void (*lp_batch_fn)(const lp_update *u, const lp_products *p, void *w, int64_t j, int64_t n, void *random);

/* The step of the all-integer mode: integers made of exact products and label codes. See docs/architecture.md. */
typedef struct lp_integer {
    const int32_t *label;    /* codes by row; of the logistic loss 0 and 1 */
    const int32_t *sigmoid;  /* its table, 256 numbers for -128 .. 127; NULL: the squared loss */
    int32_t label_shift;     /* the error is label 2^label_shift - z, or - sigmoid[z / 2^sigmoid_shift] */
    int32_t multiplier;      /* mu is error multiplier / 2^shift */
    int32_t shift, exponent; /* exponent: the e of every step */
    int32_t sigmoid_shift;   /* negative: to the left */
    int32_t delay;           /* are a batch's products taken before the write of the batch before it? */
} lp_integer;

/* What a worker that trains on mini-batches has besides its lp_sgd. */
typedef struct lp_batch {
    int64_t size; /* examples of a batch */
    int32_t D, M, rounding;
    int32_t G, rounding_v; /* bits and rounding of the gradient numbers; 0: they are exact */
    lp_batch_fn step;      /* D x M */
    lp_update update;      /* the batch that is still to be applied: its rows, if count > 0 */
    lp_products next;
    double *slope;             /* their derivatives times what makes steps of them */
    uint64_t *draws;           /* of the scalar generator, one for each step */
    const lp_integer *integer; /* the all-integer mode, or NULL; without G, between integers */
    /* the rest for G alone: the batch's sum is written to v by step_v (D x G), v added to the model by axpy (G x M) */
    lp_batch_fn step_v;
    lp_axpy_fn axpy;
    lp_step axpy_step;
    void *v;                   /* room for LP_BLOCK numbers */
    double to_codes, to_model; /* see _set_scales in _sgd.pyx */
    int64_t refresh_left;      /* random words of v */
    uint64_t block[8];
    lp_rng rng;
    lp_mt19937 *mt;
    void *words;
} lp_batch;

typedef struct lp_kernel {
    const char *name;                  /* "axpy_8_16_sr" */
    uint8_t op, D, M, rounding, index; /* index: bits of an index, 0 where data are dense */
    void (*fn)(void);                  /* cast to the type of its op */
} lp_kernel;

/* An ISA is one complete table: the same rows in the same order on each. */
typedef struct lp_isa {
    const char *name;
    const lp_kernel *kernels;
    int count;
    int (*runnable)(void);
    lp_sgd_fn batch_sgd;           /* training on mini-batches: batch_loop.h */
    const struct lp_codec *codecs; /* LP_N_CODECS of them: codec.h */
} lp_isa;

extern const lp_isa lp_isa_base;
#ifdef LP_HAVE_AVX2
extern const lp_isa lp_isa_avx2;
#endif

/* dispatch.c */
extern const lp_isa *const lp_isas[]; /* built in, slowest first, NULL at the end */
const lp_isa *lp_isa_find(const char *name);
const lp_isa *lp_isa_best(void);
const lp_kernel *lp_find(const lp_isa *isa, int op, int D, int M, int rounding);
const struct lp_codec *lp_find_codec(const lp_isa *isa, const char *name); /* NULL if there is none */

/* What lowprec._sgd gets of lowprec.kernels, through a capsule: so that the tables are linked once. */
typedef struct lp_capi {
    const lp_isa *(*isa_find)(const char *name);
    const lp_kernel *(*find)(const lp_isa *isa, int op, int D, int M, int rounding);
    void (*mt_seed)(lp_mt19937 *mt, uint64_t seed, uint64_t stream);
    int64_t (*at_limit)(const void *w, int64_t n, int M);
    void (*widen)(void *w, int64_t n, int M);
    int (*narrow)(void *w, int64_t n, int M, int limit);
    void (*shrink)(void *w, int64_t n, int M, double theta, uint64_t draw, const uint64_t *block);
    void (*decay)(float *w, int64_t n, double factor);
    void (*accumulate)(const void *w, int64_t n, int M, double scale, double *sum);
    void (*sparse_sgd)(lp_sgd *job, int64_t first, int64_t last);
    lp_gather_fn (*find_gather)(int index_bits, int M);
    lp_scatter_fn (*find_scatter)(int index_bits, int M);
    lp_exchange_fn (*find_exchange)(int index_bits, int M);
    const struct lp_codec *(*find_codec)(const lp_isa *isa, const char *name);
} lp_capi;

/* random.c */
void lp_mt19937_seed(lp_mt19937 *mt, uint64_t seed, uint64_t stream);
void lp_mt19937_fill(lp_mt19937 *mt, void *words, int64_t n, int D);

/* tables.c */
extern double lp_logistic_table[][4];
extern float lp_reciprocal[2049];
void lp_tables_init(void);

/* sparse.c */
lp_gather_fn lp_find_gather(int index_bits, int M);
lp_scatter_fn lp_find_scatter(int index_bits, int M);
lp_exchange_fn lp_find_exchange(int index_bits, int M);
int64_t lp_sparse_end(const void *index, int index_bits, int differences, int64_t k);
int64_t lp_sparse_fault(const int64_t *indptr, int64_t rows, int64_t entries, const void *index, int index_bits, int differences,
                        int64_t n, int64_t *longest);
void lp_sparse_sgd(lp_sgd *g, int64_t first, int64_t last);

/* model.c */
int64_t lp_at_limit(const void *w, int64_t n, int M);
void lp_widen(void *w, int64_t n, int M);
int lp_narrow(void *w, int64_t n, int M, int limit);
void lp_shrink(void *w, int64_t n, int M, double theta, uint64_t draw, const uint64_t *block);
void lp_decay(float *w, int64_t n, double factor);
void lp_accumulate(const void *w, int64_t n, int M, double scale, double *sum);

#endif
