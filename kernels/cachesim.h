/* A machine of cores with private first- and second-level caches, a shared third level that holds the directory, and a coherence
 * protocol given as tables. docs/cache.md says what is modelled and what is not; lowprec.cachesim is its face.
 *
 * Time is in cycles of a core, a double. Lines are numbered: address / 64. */
#ifndef LP_CACHESIM_H
#define LP_CACHESIM_H

#include <stdint.h>

#include "lowprec.h"

#define LP_LINE 64
#define LP_MAX_CORES 64 /* a directory entry is one word of sharers */
#define LP_MAX_STATES 16
#define LP_MAX_CHOICES 4
#define LP_MAX_REGIONS 8
#define LP_MAX_IN_FLIGHT 64
#define LP_STREAMS 16 /* that a stride prefetcher follows */
#define LP_PAGE 64    /* lines of a page, which no stream leaves */

/* What an access is. LOAD_OWN reads, and asks for the line as a store does. PREFETCH brings a line to the second level (_FIRST: the first), and nobody
 * waits for it. WAIT has no address: what comes after it needs all loads before it. */
enum { LP_LOAD, LP_STORE, LP_LOAD_OWN, LP_PREFETCH, LP_PREFETCH_FIRST, LP_WAIT };

/* What is done with the numbers of an access, where the machine holds some (lp_learner): see kernels/cachesim_sgd.c. */
enum { LP_TAKE = 1, LP_SEE = 2, LP_MULTIPLY = 4, LP_DECIDE = 8, LP_UPDATE = 16 };

#define LP_ABSOLUTE (-128)

/* One access, within one line. row: LP_ABSOLUTE: address is an address. Otherwise it is an offset into a row of data: row k of the
 * batch at hand (-1: the last one of the batch before). instructions: executed since the access before, this one included. */
typedef struct lp_access {
    uint64_t address;
    uint32_t instructions;
    uint8_t kind;
    uint8_t actions;
    int8_t row;
    uint8_t size; /* bytes */
} lp_access;

enum { LP_REMOTE_READ, LP_REMOTE_WRITE, LP_EVENTS };

/* What a state becomes: state[k] with probability cumulative[k] - cumulative[k - 1]. */
typedef struct lp_choice {
    int32_t count;
    uint8_t state[LP_MAX_CHOICES];
    double cumulative[LP_MAX_CHOICES];
} lp_choice;

/* A protocol: state 0 is "not here". */
typedef struct lp_protocol {
    int32_t states;
    uint8_t writable[LP_MAX_STATES]; /* may be written without asking */
    uint8_t dirty[LP_MAX_STATES];    /* newer than what lies below */
    uint8_t written[LP_MAX_STATES];  /* what a writable state is after a write */
    uint8_t clean[LP_MAX_STATES];    /* the state of a first-level copy that was read out of a second-level one */
    uint8_t read_alone, read_shared, write;
    lp_choice next[LP_EVENTS][2][LP_MAX_STATES]; /* by event, whether the line is in a region, and state */
    int32_t regions;
    uint64_t first[LP_MAX_REGIONS], last[LP_MAX_REGIONS]; /* lines, last not included */
    int32_t one_coin;                                     /* both levels of a core decide together */
    int32_t listed; /* a core that kept a line after a remote write stays in the directory */
    /* Or NULL: is asked first, for lines of the regions; -1: as the table says; -2: an error, stop. */
    int (*hook)(void *with, int event, int core, int level, uint64_t line, int state);
    void *with;
} lp_protocol;

typedef struct lp_level {
    int64_t sets; /* a power of two; of the third level: of a slice */
    int32_t ways;
    int32_t slices; /* 1 but of the third level */
    double latency; /* cycles that it adds to an access that comes so far */
} lp_level;

typedef struct lp_machine_config {
    int32_t cores;
    lp_level level[3];
    int32_t inclusive;    /* what leaves a level leaves those above it; 0: with one core alone */
    double memory;        /* cycles that memory adds */
    double remote;        /* that other cores' copies add, all of them at once */
    double hidden;        /* cycles of an access that the pipeline covers */
    double cpi;           /* cycles of an instruction */
    int32_t overlap;      /* 1: every load is waited for; k: k - 1 of them may be left behind, until a WAIT or another one */
    int32_t store_buffer; /* stores that may wait for their lines; 0: every store is waited for */
    int32_t distance;     /* lines that the stride prefetcher, of the second level, runs ahead; 0: there is none */
} lp_machine_config;

enum {
    LP_STALL_SECOND, /* waiting for the second level, for the third, for other cores' copies, for memory */
    LP_STALL_THIRD,
    LP_STALL_REMOTE,
    LP_STALL_MEMORY,
    LP_STALLS
};

/* What one core did. By level: first, second, third. */
typedef struct lp_counters {
    int64_t instructions, loads, stores;
    int64_t load_hits, load_misses, store_hits, store_misses; /* first level */
    int64_t hits[3], misses[3];
    int64_t
        upgrades; /* stores to a line that was there and not writable, as the second level could not allow them itself either */
    int64_t writebacks[3];
    int64_t back_invalidations;            /* lines lost because a lower level lost them */
    int64_t received[2][LP_EVENTS];        /* copies that a remote read, a remote write found, by level; outside of the regions */
    int64_t received_region[2][LP_EVENTS]; /* in them */
    int64_t kept[2];                       /* copies that stayed after a remote write, by level */
    int64_t region_loads, stale_loads;     /* loads of lines in a region; those that read a copy kept so */
    int64_t remote;                        /* requests that had to wait for other cores' copies */
    int64_t prefetches, late;              /* lines asked for ahead; accesses that had to wait for a line under way */
    double stalled[LP_STALLS];             /* cycles waited, by how far the access went */
} lp_counters;

typedef struct lp_program {
    const lp_access *accesses;
    int64_t count;
    int64_t at;      /* of the access to come */
    int64_t passes;  /* over all of them that are left, this one included; 0: done */
    int64_t batch;   /* rows that a pass goes on */
    int64_t row;     /* of this pass, the first */
    int32_t counted; /* are the instructions of the access to come, in time and counter? */
    int64_t rows;    /* after which it begins again */
    uint64_t base;   /* address of row 0 */
    int64_t stride;  /* bytes from row to row */
} lp_program;

typedef struct lp_machine lp_machine;
struct lp_learner;

lp_machine *lp_machine_new(const lp_machine_config *config, const lp_protocol *protocol, uint64_t seed); /* NULL: no memory */
void lp_machine_free(lp_machine *m);
lp_program *lp_machine_program(lp_machine *m, int core);
lp_counters *lp_machine_counters(lp_machine *m, int core);
double *lp_machine_time(lp_machine *m, int core);
void lp_machine_learn(lp_machine *m, struct lp_learner *learner);

/* The learner's model as the machine has it: every line from where it is newest. */
void lp_machine_model(const lp_machine *m, uint8_t *out);

/* Run the cores' programs, always the core that is furthest behind, until all are done or `budget` accesses were made. Returns the
 * accesses made, or -1 where a protocol's hook failed. */
int64_t lp_machine_run(lp_machine *m, int64_t budget);

/* One access outside of any program, now; the cycles it took, or -1. */
double lp_machine_access(lp_machine *m, int core, uint64_t address, int kind);

/* Where a line is. state: by core, its first-level and its second-level copy. Returns whether the third level has it. */
int lp_machine_line(lp_machine *m, uint64_t line, uint8_t *state, uint8_t *stale, uint64_t *sharers, int *owner);

/* The model as a machine's caches hold it, and who learns it (kernels/cachesim_sgd.c). */
typedef struct lp_worker {
    const uint8_t *x; /* its rows */
    const float *y;
    lp_rng rng;
    uint64_t block[8];
    int64_t refresh_left;
    uint8_t *seen;      /* the model as its products find it */
    uint8_t taken[64];  /* a line as an update has read it */
    double *sums;       /* of the batch */
    int64_t multiplied; /* rows of the batch whose products are there */
    lp_update update;   /* of the batch that was decided last: the rows of its steps that are not zero */
    int64_t bad_row;    /* the first row whose product was not finite, or -1 */
} lp_worker;

typedef struct lp_learner {
    uint64_t first, last; /* the lines of the model, last not included */
    uint64_t address;
    int64_t n_bytes;
    uint8_t *memory;    /* the model below the private levels */
    uint8_t *copies[2]; /* by level: core after core, what its cache holds of each line */
    lp_worker *workers;
    int64_t row_stride, n, batch;
    int32_t D, M, rounding, stochastic;
    int64_t refresh;
    double dot_scale, step_scale;
    lp_loss loss;
    lp_dot_fn dot;
    lp_axpy_fn axpy;
    lp_batch_fn step;
} lp_learner;

/* What an access does with numbers, after the caches have done their part. row: the first of the batch at hand, of the worker's own. */
void lp_learner_act(lp_learner *l, int core, const lp_access *a, int64_t row);

/* Apply the updates that are still pending to memory, worker after worker. */
void lp_learner_flush(lp_learner *l, int cores);

#endif
