/* Workers, replicas and merges; the one place where OpenMP lives. What a worker does with its examples is the job's function.
 *
 * Merge: w <- sat(w + sum over workers of (replica - base)), in worker order, one saturation; base is what the replica was at its last
 * merge. The changes are added up, as they would be in one shared model, not averaged. A
 * pending update is applied first. */
#define _GNU_SOURCE
#include "driver.h"

#include <string.h>

#include "exchange.h"
#include "scalar.h"

#ifdef LP_OPENMP
#include <omp.h>
#endif
#include <sched.h>
#include <time.h>

enum {
    LP_MANY = 127,
    LP_APART = 8 /* float64 numbers from one worker's intercept to the next one's: a cache line */
};

/* ---- merging ---------------------------------------------------------------------------------------------------- */

/* Columns [j, j + k) of the merged model, from those of the model and the replicas. */
#define LP_DEF_MERGED(type, wide, name) \
    static void name(const void *w, void *const *replicas, void *const *bases, int32_t workers, int64_t j, int k, \
                     wide sum[LP_SPAN]) \
    { \
        const type *const model = (const type *)w + j; \
        for (int l = 0; l < k; l++) \
            sum[l] = model[l]; \
        for (int32_t t = 0; t < workers; t++) { \
            const type *const replica = (const type *)replicas[t] + j, *const base = (const type *)bases[t] + j; \
            for (int l = 0; l < k; l++) \
                sum[l] += (wide)((wide)replica[l] - (wide)base[l]); \
        } \
    }
LP_DEF_MERGED(int8_t, int16_t, lp_merged_8) /* no more than LP_MANY workers: 127 + 254 * 127 < 2^15 */
LP_DEF_MERGED(int8_t, int32_t, lp_merged_8_many)
LP_DEF_MERGED(int16_t, int32_t, lp_merged_16)
LP_DEF_MERGED(float, float, lp_merged_32)

static void lp_merged_4(const void *w, void *const *replicas, void *const *bases, int32_t workers, int64_t j, int k,
                        int32_t sum[LP_SPAN])
{
    for (int l = 0; l < k; l++) {
        sum[l] = lp_get(w, 4, j + l);
        for (int32_t t = 0; t < workers; t++)
            sum[l] += lp_get(replicas[t], 4, j + l) - lp_get(bases[t], 4, j + l);
    }
}

/* Columns [j, j + k) of the merged model as codes; j is a multiple of LP_SPAN, k at most that. */
static void lp_merged_codes(const void *w, void *const *replicas, void *const *bases, int32_t workers, int M, int64_t j, int k,
                            void *codes)
{
    if (M == 32) {
        lp_merged_32(w, replicas, bases, workers, j, k, (float *)codes);
        return;
    }
    const int32_t top = lp_max_code(M);
    if (M == 8 && workers <= LP_MANY) { /* SSE2 alone has no minimum and maximum of 32 bits */
        int16_t narrow[LP_SPAN];
        lp_merged_8(w, replicas, bases, workers, j, k, narrow);
        for (int l = 0; l < k; l++)
            ((int8_t *)codes)[l] = (int8_t)(narrow[l] > 127 ? 127 : narrow[l] < -127 ? -127 : narrow[l]);
        return;
    }
    int32_t sum[LP_SPAN];
    (M == 4 ? lp_merged_4 : M == 8 ? lp_merged_8_many : lp_merged_16)(w, replicas, bases, workers, j, k, sum);
    for (int l = 0; l < k; l++)
        sum[l] = sum[l] > top ? top : sum[l] < -top ? -top : sum[l];
    if (M == 8)
        for (int l = 0; l < k; l++)
            ((int8_t *)codes)[l] = (int8_t)sum[l];
    else if (M == 16)
        for (int l = 0; l < k; l++)
            ((int16_t *)codes)[l] = (int16_t)sum[l];
    else
        for (int l = 0; l < k; l++)
            lp_put(codes, 4, l, sum[l]);
}

static int64_t lp_span_bytes(int M, int k) { return M == 4 ? (k + 1) / 2 : (int64_t)k * (M / 8); }

/* Merge columns [first, last) of some workers' replicas. */
static void lp_merge_columns(const lp_team *team, void *const *replicas, void *const *bases, int32_t workers, int64_t first,
                             int64_t last)
{
    for (int64_t j = first; j < last; j += LP_SPAN) {
        const int k = last - j < LP_SPAN ? (int)(last - j) : LP_SPAN;
        const int64_t at = lp_bytes(team->M, j), bytes = lp_span_bytes(team->M, k);
        uint64_t codes[LP_SPAN / 2] = {0};
        lp_merged_codes(team->w, replicas, bases, workers, team->M, j, k, codes);
        memcpy((uint8_t *)team->w + at, codes, (size_t)bytes);
        for (int32_t t = 0; t < workers; t++) {
            memcpy((uint8_t *)replicas[t] + at, codes, (size_t)bytes);
            if (bases[t] != team->w)
                memcpy((uint8_t *)bases[t] + at, codes, (size_t)bytes);
        }
    }
}

/* The same for the intercept of workers [first, last). */
static void lp_merge_intercepts(const lp_team *team, int32_t first, int32_t last)
{
    if (!team->intercept)
        return;
    double sum = *team->intercept;
    for (int32_t t = first; t < last; t++)
        sum += team->intercepts[LP_APART * t] - team->intercept_bases[t];
    *team->intercept = sum;
    for (int32_t t = first; t < last; t++)
        team->intercepts[LP_APART * t] = team->intercept_bases[t] = sum;
}

void lp_team_snapshot(const lp_team *team, void *w, double *intercept)
{
    const int64_t n = team->n;
    if (team->intercept)
        *intercept = *team->intercept;
    if (team->exchange && !team->exchange->synchronous && team->started) {
        lp_agreed_codes(team, w);
        return;
    }
    if (team->sharing == LP_SHARED || !team->started || team->exchange) { /* exchanged: as of the last time */
        memcpy(w, team->w, (size_t)(lp_bytes(team->M, n & ~(int64_t)1) + lp_span_bytes(team->M, (int)(n & 1))));
        return;
    }
    for (int64_t j = 0; j < n; j += LP_SPAN) {
        const int k = n - j < LP_SPAN ? (int)(n - j) : LP_SPAN;
        uint64_t codes[LP_SPAN / 2] = {0};
        lp_merged_codes(team->w, team->replicas, team->bases, team->workers, team->M, j, k, codes);
        memcpy((uint8_t *)w + lp_bytes(team->M, j), codes, (size_t)lp_span_bytes(team->M, k));
    }
    for (int32_t t = 0; team->intercept && t < team->workers; t++)
        *intercept += team->intercepts[LP_APART * t] - team->intercept_bases[t];
}

/* ---- the loop --------------------------------------------------------------------------------------------------- */

void lp_team_share(const lp_team *team, int32_t t, int64_t *first, int64_t *last)
{
    *first = team->n_rows * t / team->workers;
    *last = team->n_rows * (t + 1) / team->workers;
}

/* Worker t's examples [first, last) of its own share. */
static void lp_work(const lp_team *team, int32_t t, int64_t first, int64_t last)
{
    int64_t begin, end;
    lp_team_share(team, t, &begin, &end);
    first = begin + first < end ? begin + first : end;
    last = begin + last < end ? begin + last : end;
    if (first < last)
        team->fn(&team->jobs[t], first, last);
}

static void lp_fill_replica(const lp_team *team, int32_t t)
{
    const size_t bytes = (size_t)(lp_bytes(team->M, team->n & ~(int64_t)1) + lp_span_bytes(team->M, (int)(team->n & 1)));
    memcpy(team->replicas[t], team->w, bytes);
    if (team->bases[t] != team->w)
        memcpy(team->bases[t], team->w, bytes);
    if (team->intercept)
        team->intercepts[LP_APART * t] = team->intercept_bases[t] = *team->intercept;
}

int64_t lp_part(int64_t n, int32_t part, int32_t parts)
{
    const int64_t spans = (n + LP_SPAN - 1) / LP_SPAN, j = spans * part / parts * LP_SPAN;
    return j < n ? j : n;
}

#ifdef LP_OPENMP
#define LP_BARRIER _Pragma("omp barrier")
#define LP_CRITICAL _Pragma("omp critical(lp_merge)")
#else
#define LP_BARRIER
#define LP_CRITICAL
#endif

static double lp_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Explicit communication without waiting for all: but for those that are more than `staleness` rounds behind. */
static void lp_wait_for_others(const lp_team *team, int32_t t)
{
    const lp_exchange *x = team->exchange;
    for (int32_t other = 0; other < team->workers; other++)
        while (*(volatile int64_t *)&x->clocks[LP_APART * other] < x->clocks[LP_APART * t] - x->staleness)
            sched_yield();
}

/* Where the round ends that example `first` of a share is in: the longest share's end is the end of one. */
static int64_t lp_round_end(const lp_team *team, int64_t first)
{
    const int64_t end = (first / team->sync_every + 1) * team->sync_every;
    const int64_t longest = (team->n_rows + team->workers - 1) / team->workers;
    return end < longest ? end : longest;
}

/* The replicas of a thread's workers, from the model. */
static void lp_fill_replicas(const lp_team *team, int32_t thread, int32_t threads, int alone)
{
    if (team->sharing == LP_SHARED)
        return;
    for (int32_t t = thread; t < team->workers; t += threads) {
        if (alone) {
            lp_fill_replica(team, t);
        } else {
            LP_CRITICAL /* others may be merging already */
                lp_fill_replica(team, t);
        }
    }
}

static void lp_merge_own(lp_team *team, int32_t t)
{
    lp_merge_columns(team, &team->replicas[t], &team->bases[t], 1, 0, team->n);
    lp_merge_intercepts(team, t, t + 1);
}

static void lp_count_exchange(lp_exchange *x, double begin)
{
    x->exchanges++;
    x->seconds += lp_seconds() - begin;
}

/* All workers have reached the end of a round: parts [thread of threads] of merging them together. */
static void lp_merge_together(lp_team *team, int32_t thread, int32_t threads, int alone)
{
    lp_exchange *x = team->exchange;
    const double begin = x ? lp_seconds() : 0.0;
    if (x)
        lp_exchange_give(team, thread, threads);
    if (!alone) {
        LP_BARRIER
    }
    if (x)
        lp_exchange_merge(team, thread, threads);
    else
        lp_merge_columns(team, team->replicas, team->bases, team->workers, lp_part(team->n, thread, threads),
                         lp_part(team->n, thread + 1, threads));
    if (thread == 0)
        lp_merge_intercepts(team, 0, team->workers);
    if (!alone) {
        LP_BARRIER
    }
    for (int32_t t = thread; x && t < team->workers; t += threads)
        lp_refill(team, t);
    if (x && thread == 0)
        lp_count_exchange(x, begin);
}

/* A worker has reached the end of a round by itself. */
static void lp_merge_alone(lp_team *team, int32_t t, int alone)
{
    lp_exchange *x = team->exchange;
    if (!x) {
        if (alone) {
            lp_merge_own(team, t);
        } else {
            LP_CRITICAL
            lp_merge_own(team, t);
        }
        return;
    }
    const double begin = lp_seconds();
    if (alone) {
        lp_exchange_turn(team, t);
        lp_merge_intercepts(team, t, t + 1);
    } else {
        LP_CRITICAL
        {
            lp_exchange_turn(team, t);
            lp_merge_intercepts(team, t, t + 1);
        }
    }
    x->clocks[LP_APART * t]++; /* others may read it meanwhile: one aligned word, and a late look costs a look */
    if (!alone)
        lp_wait_for_others(team, t);
    if (alone) {
        lp_count_exchange(x, begin);
    } else {
        LP_CRITICAL
        lp_count_exchange(x, begin);
    }
}

/* What thread `thread` of `threads` does; it has every threads-th worker. (One thread in a forked child; and OpenMP may give fewer
 * than were asked for.) Alone it takes no lock, which another thread may have held when the process was forked. Rounds of
 * sync_every examples: a call may end inside one, for rounds are counted from the share's start, and end with it. */
static void lp_thread(lp_team *team, int32_t thread, int32_t threads, int64_t first, int64_t last, int alone)
{
    const int32_t workers = team->workers;
    if (team->sharing == LP_SHARED) {
        for (int32_t t = thread; t < workers; t += threads)
            lp_work(team, t, first, last);
        return;
    }
    while (first < last) {
        const int64_t round = lp_round_end(team, first), end = round < last ? round : last;
        for (int32_t t = thread; t < workers; t += threads) {
            lp_work(team, t, first, end);
            if (end == round) {
                team->fn(&team->jobs[t], 0, -1);
                if (team->sharing == LP_MERGE_LOCKED)
                    lp_merge_alone(team, t, alone);
            }
        }
        if (end == round && team->sharing == LP_MERGE_TOGETHER)
            lp_merge_together(team, thread, threads, alone);
        first = end;
    }
}

#ifdef __linux__
int lp_can_pin(void) { return 1; }

static void lp_pin(const lp_team *team, int32_t thread, cpu_set_t *before)
{
    cpu_set_t one;
    CPU_ZERO(before);
    sched_getaffinity(0, sizeof *before, before);
    CPU_ZERO(&one);
    CPU_SET(team->cpus[thread], &one);
    sched_setaffinity(0, sizeof one, &one);
}
#else
int lp_can_pin(void) { return 0; }
#endif

static void lp_blocks(lp_team *const *teams, int32_t models, int32_t thread, int32_t threads, int64_t first, int64_t last,
                      int64_t block, int alone)
{
    for (int32_t k = 0; k < models; k++)
        if (!teams[k]->started)
            lp_fill_replicas(teams[k], thread, threads, alone);
    for (int64_t a = first; a < last; a += block) {
        const int64_t b = last - a < block ? last : a + block;
        for (int32_t k = 0; k < models; k++)
            lp_thread(teams[k], thread, threads, a, b, alone);
    }
}

/* Pinned for this call alone: the threads are OpenMP's, and the caller's own is among them. */
static void lp_pinned_blocks(lp_team *const *teams, int32_t models, int32_t thread, int32_t threads, int64_t first, int64_t last,
                             int64_t block, int alone)
{
#ifdef __linux__
    cpu_set_t before;
    if (teams[0]->cpus)
        lp_pin(teams[0], thread, &before);
#endif
    lp_blocks(teams, models, thread, threads, first, last, block, alone);
#ifdef __linux__
    if (teams[0]->cpus)
        sched_setaffinity(0, sizeof before, &before);
#endif
}

void lp_teams_run(lp_team *const *teams, int32_t models, int64_t first, int64_t last, int64_t block, int parallel)
{
    int32_t threads = 1;
#ifdef LP_OPENMP
    if (parallel && teams[0]->workers > 1) {
#pragma omp parallel num_threads(teams[0]->workers)
        {
            if (omp_get_thread_num() == 0)
                threads = omp_get_num_threads();
            lp_pinned_blocks(teams, models, omp_get_thread_num(), omp_get_num_threads(), first, last, block, 0);
        }
    } else
#endif
        lp_pinned_blocks(teams, models, 0, 1, first, last, block, 1);
    (void)parallel;
    for (int32_t k = 0; k < models; k++) {
        teams[k]->threads = threads;
        teams[k]->started = 1;
        if (teams[k]->sharing != LP_SHARED && last > first)
            teams[k]->dirty = lp_round_end(teams[k], last - 1) != last;
    }
}

void lp_team_run_local(lp_team *team, int64_t first, int64_t last)
{
    if (!team->started)
        lp_fill_replica(team, team->local);
    lp_work(team, team->local, first, last);
    team->started = team->threads = team->dirty = 1;
}

void lp_team_run(lp_team *team, int64_t first, int64_t last, int parallel)
{
    lp_teams_run(&team, 1, first, last, last > first ? last - first : 1, parallel);
}

void lp_team_flush(lp_team *team)
{
    for (int32_t t = 0; t < team->workers; t++)
        if (team->local < 0 || team->local == t)
            team->fn(&team->jobs[t], 0, -1);
}

void lp_team_merge(lp_team *team)
{
    lp_team_flush(team);
    if (team->sharing == LP_SHARED || !team->started || team->local >= 0)
        return;
    if (!team->exchange) {
        lp_merge_columns(team, team->replicas, team->bases, team->workers, 0, team->n);
        lp_merge_intercepts(team, 0, team->workers);
    } else {
        if (team->dirty && team->exchange->synchronous)
            lp_merge_together(team, 0, 1, 1);
        for (int32_t t = 0; team->dirty && !team->exchange->synchronous && t < team->workers; t++)
            lp_merge_alone(team, t, 1);
        if (!team->exchange->synchronous)
            lp_meet(team);
    }
    team->dirty = 0;
}
