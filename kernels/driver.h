/* The team of workers that trains one model: where they meet, and what they share. OpenMP lives in driver.c alone. */
#ifndef LP_DRIVER_H
#define LP_DRIVER_H

#include "lowprec.h"

/* How the workers share the model: one model written by all without locks (Hogwild!), or a replica each, merged after every
 * sync_every examples: by whoever gets there, under a lock, or by all at once, at a barrier, in which case timing decides nothing. */
enum lp_sharing { LP_SHARED, LP_MERGE_LOCKED, LP_MERGE_TOGETHER };

enum { LP_SPAN = 64 }; /* columns merged at once: whole cache lines, or for 4 bits half of one */

struct lp_exchange;

typedef struct lp_team {
    lp_sgd *jobs; /* one per worker */
    lp_sgd_fn fn;
    int32_t workers;
    int32_t sharing;    /* enum lp_sharing */
    int64_t n_rows;     /* positions of an epoch; worker t has [n_rows t / workers, n_rows (t + 1) / workers) */
    int64_t sync_every; /* examples of a worker between merges; replicas alone */
    void *w;            /* the model */
    double *intercept;  /* its intercept, or NULL */
    int64_t n;
    int32_t M;
    void **replicas;    /* replicas alone: each worker's model ... */
    void **bases;       /* ... and what it was at its last merge (LP_MERGE_TOGETHER: w itself) */
    double *intercepts; /* a cache line each */
    double *intercept_bases;
    const int32_t *cpus; /* pinned: worker t's CPU, or NULL */
    int32_t started; /* have the replicas been filled? By their own workers: memory belongs to the node that touches it first */
    int32_t threads; /* threads that ran the last call */
    int32_t dirty;   /* replicas: has a worker trained since the last merge? */
    int32_t local;   /* the one worker of this process, whose merges are the caller's; or -1: all are */
    struct lp_exchange *exchange; /* explicit communication instead of merges, or NULL */
} lp_team;

/* Worker t's positions of the epoch: [*first, *last). */
void lp_team_share(const lp_team *team, int32_t t, int64_t *first, int64_t *last);

/* The first column of the part-th of parts, in whole spans. */
int64_t lp_part(int64_t n, int32_t part, int32_t parts);

/* Every worker processes the examples [first, last) of its own share. parallel = 0: one after another, with the same result
 * where timing decides nothing. */
void lp_team_run(lp_team *team, int64_t first, int64_t last, int parallel);

/* The same for several models (teams with as many workers and rows): by blocks of so many examples of a worker, each block for one
 * model after the other, while its data are in a cache. Each model gets the bits that it would get alone. */
void lp_teams_run(lp_team *const *teams, int32_t models, int64_t first, int64_t last, int64_t block, int parallel);

/* The local worker alone, within a round. */
void lp_team_run_local(lp_team *team, int64_t first, int64_t last);

/* Apply every pending update. */
void lp_team_flush(lp_team *team);

/* The model as it stands, every replica's changes included, and its intercept (if there is one), without changing anything. */
void lp_team_snapshot(const lp_team *team, void *w, double *intercept);

/* Flush, then merge all replicas. */
void lp_team_merge(lp_team *team);

int lp_can_pin(void);

#endif
