/* Caches, directory, protocol and cores: see cachesim.h, and docs/cache.md for the rules in words. */
#define _DEFAULT_SOURCE
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "cachesim.h"
#include "scalar.h"

#define NOT_HERE 0
#define NOBODY (-1)

/* Set-associative, least recently used. Tags are line + 1, 0 where a way is empty. */
typedef struct {
    uint64_t *tag;
    uint64_t *used;
    uint8_t *state;
    uint8_t *stale;
    double *ready;  /* when the line is there; accesses before that wait */
    int64_t *below; /* second level: the way of the third level that had the line when it came */
    int64_t sets;
    int32_t ways, slices;
    uint64_t clock;
} cache;

/* The third level's ways have a directory entry each. */
typedef struct {
    uint64_t sharers;
    int32_t owner; /* the core that may write, or NOBODY */
    uint8_t dirty; /* newer than memory */
} entry;

typedef struct {
    uint64_t page, line;
    int64_t stride, sent; /* how many lines ahead of `line` have been asked for */
    uint64_t used;
    int32_t sure;
} stream;

/* An access that nobody has waited for yet: when it is done, and how far it went. */
typedef struct {
    double until;
    int how_far;
} waiting;

typedef struct {
    double time;
    /* Cycles waited for accesses that were waited for. An access takes effect at once, and so does what follows it, up to the next
     * one that has to wait: then these cycles are added to the time. So nobody comes between a load and the store that follows it,
     * as nobody would between the line's arrival and that store. */
    double debt;
    waiting in_flight[LP_MAX_IN_FLIGHT], storing[LP_MAX_IN_FLIGHT];
    int32_t n_in_flight, n_storing;
    cache level[2];
    stream streams[LP_STREAMS];
    lp_program program;
    lp_counters counters;
} core_t;

struct lp_machine {
    lp_machine_config config;
    lp_protocol protocol;
    cache third;
    entry *directory;
    core_t *cores;
    uint64_t random;
    lp_learner *learner;
    int failed;
    int how_far;            /* what the access at hand had to wait for */
    int turn[LP_MAX_CORES]; /* the cores in the order in which they come where their times are the same */
};

/* ---- caches ------------------------------------------------------------------------------------------------------ */

/* Zeros, in huge pages where the system gives some: the third level's arrays are read all over. */
static void *zeros(size_t bytes)
{
    const size_t huge = (size_t)1 << 21;
    if (bytes < 2 * huge)
        return calloc(bytes, 1);
    bytes = (bytes + huge - 1) / huge * huge;
    void *const p = aligned_alloc(huge, bytes);
#ifdef MADV_HUGEPAGE
    if (p)
        madvise(p, bytes, MADV_HUGEPAGE);
#endif
    return p ? memset(p, 0, bytes) : NULL;
}

/* The third level has a directory instead of the rest. */
static int cache_new(cache *c, const lp_level *level, int private)
{
    const size_t ways = (size_t)level->sets * level->ways * level->slices;
    c->sets = level->sets;
    c->ways = level->ways;
    c->slices = level->slices;
    c->clock = 0;
    c->tag = zeros(ways * sizeof *c->tag);
    c->used = zeros(ways * sizeof *c->used);
    if (!private)
        return c->tag && c->used;
    c->state = zeros(ways);
    c->stale = zeros(ways);
    c->ready = zeros(ways * sizeof *c->ready);
    c->below = zeros(ways * sizeof *c->below);
    return c->tag && c->used && c->state && c->stale && c->ready && c->below;
}

static void cache_free(cache *c)
{
    free(c->tag);
    free(c->used);
    free(c->state);
    free(c->stale);
    free(c->ready);
    free(c->below);
}

static inline int64_t first_way(const cache *c, uint64_t line)
{
    if (c->slices == 1)
        return (int64_t)(line & (uint64_t)(c->sets - 1)) * c->ways;
    const uint64_t row = line / (uint64_t)c->slices;
    const int64_t slice = (int64_t)(line - row * (uint64_t)c->slices);
    return (slice * c->sets + (int64_t)(row & (uint64_t)(c->sets - 1))) * c->ways;
}

/* The way of a set that holds a line, or -1. */
static inline int64_t find_in(const cache *c, int64_t at, uint64_t line)
{
    const uint64_t *const tag = c->tag + at;
    for (int32_t k = 0; k < c->ways; k++)
        if (tag[k] == line + 1)
            return at + k;
    return -1;
}

static inline int64_t find(const cache *c, uint64_t line) { return find_in(c, first_way(c, line), line); }

static inline void touch(cache *c, int64_t way) { c->used[way] = ++c->clock; }

/* The way of a set that a line would take: an empty one, never used, or the one used longest ago. */
static inline int64_t victim_in(const cache *c, int64_t at)
{
    const uint64_t *const used = c->used + at;
    uint64_t least = used[0];
    int32_t best = 0;
    for (int32_t k = 1; k < c->ways; k++) {
        best = used[k] < least ? k : best;
        least = used[k] < least ? used[k] : least;
    }
    return at + best;
}

static inline int64_t victim(const cache *c, uint64_t line) { return victim_in(c, first_way(c, line)); }

static inline void put(cache *c, int64_t way, uint64_t line)
{
    c->tag[way] = line + 1;
    touch(c, way);
}

static inline void drop(cache *c, int64_t way)
{
    c->tag[way] = 0;
    c->used[way] = 0;
    c->state[way] = NOT_HERE;
    c->stale[way] = 0;
}

/* ---- the numbers in the lines, where there are some --------------------------------------------------------------- */

static inline int holds(const lp_machine *m, uint64_t line)
{
    return m->learner && line >= m->learner->first && line < m->learner->last;
}

/* Level 0, 1: a core's copy. 2: memory, which stands for the third level too: what is there is the same to every reader. */
static inline uint8_t *numbers(const lp_machine *m, int core, int level, uint64_t line)
{
    const lp_learner *const l = m->learner;
    uint8_t *const at = level == 2 ? l->memory : l->copies[level] + core * l->n_bytes;
    return at + (line - l->first) * LP_LINE;
}

static inline void move(lp_machine *m, int core, int from, int to, uint64_t line)
{
    if (holds(m, line))
        memcpy(numbers(m, core, to, line), numbers(m, core, from, line), LP_LINE);
}

/* ---- the protocol ------------------------------------------------------------------------------------------------- */

static inline int in_region(const lp_protocol *p, uint64_t line)
{
    for (int32_t k = 0; k < p->regions; k++)
        if (line >= p->first[k] && line < p->last[k])
            return 1;
    return 0;
}

static double coin(lp_machine *m)
{
    m->random = lp_xorshift64(m->random);
    return (double)(m->random >> 11) * 0x1p-53;
}

static int next_state(lp_machine *m, int event, int core, int level, uint64_t line, int state, int region, double *tossed)
{
    const lp_protocol *const p = &m->protocol;
    if (region && p->hook) {
        const int asked = p->hook(p->with, event, core, level, line, state);
        if (asked >= 0)
            return asked;
        if (asked == -2) {
            m->failed = 1;
            return NOT_HERE;
        }
    }
    const lp_choice *const c = &p->next[event][region][state];
    if (c->count == 1)
        return c->state[0];
    if (*tossed < 0 || !p->one_coin)
        *tossed = coin(m);
    for (int32_t k = 0; k < c->count - 1; k++)
        if (*tossed < c->cumulative[k])
            return c->state[k];
    return c->state[c->count - 1];
}

/* Another core reads or writes a line of which this one has, or may have, copies. What is newer than the third level goes there
 * first. Returns whether a copy stays. *dirty: whether it is still newer. */
static int remote_event(lp_machine *m, int event, int core, uint64_t line, entry *e, int *dirty)
{
    core_t *const c = &m->cores[core];
    const lp_protocol *const p = &m->protocol;
    const int region = in_region(p, line);
    const int64_t way[2] = {find(&c->level[0], line), find(&c->level[1], line)};
    double tossed = -1.0;
    int stays = 0, was_dirty = 0;
    if (way[0] >= 0 && p->dirty[c->level[0].state[way[0]]]) {
        move(m, core, 0, way[1] >= 0 ? 1 : 2, line);
        if (way[1] >= 0)
            c->level[1].state[way[1]] = c->level[0].state[way[0]];
        c->counters.writebacks[0]++;
        was_dirty = 1;
    }
    if (way[1] >= 0 && p->dirty[c->level[1].state[way[1]]]) {
        move(m, core, 1, 2, line);
        was_dirty = 1;
    }
    *dirty = 0;
    for (int level = 0; level < 2; level++) {
        if (way[level] < 0)
            continue;
        cache *const k = &c->level[level];
        const int state = next_state(m, event, core, level, line, k->state[way[level]], region, &tossed);
        (region ? c->counters.received_region : c->counters.received)[level][event]++;
        if (state == NOT_HERE) {
            drop(k, way[level]);
            continue;
        }
        k->state[way[level]] = (uint8_t)state;
        stays = 1;
        *dirty |= p->dirty[state];
        if (event == LP_REMOTE_WRITE) {
            k->stale[way[level]] = 1;
            c->counters.kept[level]++;
        }
    }
    /* A first level has nothing newer than the second that the second could not take back: what it kept so goes too. */
    if (stays && *dirty && (way[1] < 0 || c->level[1].state[way[1]] == NOT_HERE)) {
        drop(&c->level[0], way[0]);
        c->counters.back_invalidations++;
        *dirty = stays = 0;
    }
    if (was_dirty && !*dirty) {
        e->dirty = 1;
        c->counters.writebacks[1]++;
    }
    return stays;
}

/* ---- the third level and its directory ------------------------------------------------------------------------------ */

static void lose_above(lp_machine *m, int core, uint64_t line, entry *e)
{
    core_t *const c = &m->cores[core];
    for (int level = 0; level < 2; level++) {
        const int64_t way = find(&c->level[level], line);
        if (way < 0)
            continue;
        if (m->protocol.dirty[c->level[level].state[way]]) {
            const int below = level == 0 && find(&c->level[1], line) >= 0 ? 1 : 2;
            move(m, core, level, below, line);
            c->counters.writebacks[level]++;
            if (below == 1)
                c->level[1].state[find(&c->level[1], line)] = c->level[0].state[way];
            else
                e->dirty = 1;
        }
        drop(&c->level[level], way);
        c->counters.back_invalidations++;
    }
}

/* A way of the third level for a line, which comes from memory; what was there goes. */
static int64_t third_new(lp_machine *m, int core, uint64_t line)
{
    cache *const c = &m->third;
    const int64_t way = victim(c, line);
    entry *const e = &m->directory[way];
    if (c->tag[way] && m->config.inclusive)
        for (uint64_t sharers = e->sharers; sharers; sharers &= sharers - 1)
            lose_above(m, __builtin_ctzll(sharers), c->tag[way] - 1, e);
    if (c->tag[way] && e->dirty)
        m->cores[core].counters.writebacks[2]++;
    put(c, way, line);
    *e = (entry){.owner = NOBODY};
    return way;
}

/* The third level's way of a line that a second level holds in way b, or -1. Of an inclusive third level it is still the one that the line
 * came from: only copies that stayed after a write may have outlived it there. */
static inline int64_t way_below(const lp_machine *m, int core, int64_t b, uint64_t line)
{
    const cache *const second = &m->cores[core].level[1];
    const int64_t way = second->below[b];
    if (m->config.inclusive && !second->stale[b])
        return way;
    return m->third.tag[way] == line + 1 ? way : find(&m->third, line);
}

/* A line for a core's second level, of which it has a copy in way b (or -1); returns the cycles from there on, *state the state it comes
 * in, *below the third level's way. */
static double ask(lp_machine *m, int core, uint64_t line, int write, int64_t b, int *state, int64_t *below)
{
    const lp_protocol *const p = &m->protocol;
    core_t *const c = &m->cores[core];
    double cycles = m->config.level[2].latency;
    int64_t way = b >= 0 ? way_below(m, core, b, line) : find(&m->third, line);
    m->how_far = LP_STALL_THIRD;
    if (way < 0) {
        c->counters.misses[2]++;
        cycles += m->config.memory;
        m->how_far = LP_STALL_MEMORY;
        way = third_new(m, core, line);
    } else {
        c->counters.hits[2]++;
        touch(&m->third, way);
    }
    *below = way;
    entry *const e = &m->directory[way];
    const uint64_t me = (uint64_t)1 << core;
    int dirty;
    if (write) {
        uint64_t stay = 0;
        if (e->sharers & ~me) {
            cycles += m->config.remote;
            c->counters.remote++;
            if (m->how_far == LP_STALL_THIRD)
                m->how_far = LP_STALL_REMOTE;
        }
        for (uint64_t others = e->sharers & ~me; others; others &= others - 1) {
            const int other = __builtin_ctzll(others);
            if (remote_event(m, LP_REMOTE_WRITE, other, line, e, &dirty) && p->listed)
                stay |= (uint64_t)1 << other;
        }
        e->sharers = me | stay;
        e->owner = core;
        *state = p->write;
        return cycles;
    }
    if (e->owner != NOBODY && e->owner != core) {
        const int owner = e->owner;
        cycles += m->config.remote;
        c->counters.remote++;
        if (m->how_far == LP_STALL_THIRD)
            m->how_far = LP_STALL_REMOTE;
        if (!remote_event(m, LP_REMOTE_READ, owner, line, e, &dirty))
            e->sharers &= ~((uint64_t)1 << owner);
        if (!dirty)
            e->owner = NOBODY;
    }
    const int alone = (e->sharers & ~me) == 0;
    *state = alone ? p->read_alone : p->read_shared;
    if (alone)
        e->owner = p->writable[*state] ? core : NOBODY;
    e->sharers |= me;
    return cycles;
}

/* ---- the private levels ------------------------------------------------------------------------------------------------ */

static int64_t second_new(lp_machine *m, int core, uint64_t line);

/* A dirty line of the first level goes to the second. Where that lacks it (which an inclusive second level does not), it is fetched
 * there first, as a store would. */
static void first_to_second(lp_machine *m, int core, uint64_t line, int state)
{
    core_t *const c = &m->cores[core];
    cache *const second = &c->level[1];
    int64_t way = find(second, line);
    if (way < 0) {
        int asked;
        int64_t below;
        c->counters.misses[1]++;
        ask(m, core, line, 1, -1, &asked, &below);
        way = second_new(m, core, line);
        second->below[way] = below;
        second->ready[way] = 0.0;
    } else
        touch(second, way);
    second->state[way] = (uint8_t)state;
    second->stale[way] = 0;
    move(m, core, 0, 1, line);
    c->counters.writebacks[0]++;
}

/* A dirty line of the second level goes to the third; returns its way there. */
static int64_t second_to_third(lp_machine *m, int core, int64_t way, uint64_t line)
{
    if (way < 0) {
        m->cores[core].counters.misses[2]++;
        way = third_new(m, core, line);
    } else
        touch(&m->third, way);
    m->directory[way].dirty = 1;
    move(m, core, 1, 2, line);
    m->cores[core].counters.writebacks[1]++;
    return way;
}

/* A way of the second level for a line; what was there goes, and the directory is told. */
static int64_t second_new(lp_machine *m, int core, uint64_t line)
{
    core_t *const c = &m->cores[core];
    cache *const k = &c->level[1];
    const int64_t way = victim(k, line);
    if (k->tag[way]) {
        const uint64_t old = k->tag[way] - 1;
        int state = k->state[way];
        if (m->config.inclusive) {
            const int64_t above = find(&c->level[0], old);
            if (above >= 0) {
                if (m->protocol.dirty[c->level[0].state[above]]) {
                    state = c->level[0].state[above];
                    move(m, core, 0, 1, old);
                    c->counters.writebacks[0]++;
                }
                drop(&c->level[0], above);
                c->counters.back_invalidations++;
            }
        }
        /* The way is emptied before anything that follows can touch the set. */
        int64_t there = way_below(m, core, way, old);
        drop(k, way);
        if (m->protocol.dirty[state])
            there = second_to_third(m, core, there, old);
        if (there >= 0) {
            m->directory[there].sharers &= ~((uint64_t)1 << core);
            if (m->directory[there].owner == core)
                m->directory[there].owner = NOBODY;
        }
    }
    put(k, way, line);
    return way;
}

static int64_t first_new(lp_machine *m, int core, uint64_t line)
{
    cache *const k = &m->cores[core].level[0];
    const int64_t way = victim(k, line);
    if (k->tag[way]) {
        const uint64_t old = k->tag[way] - 1;
        const int state = k->state[way];
        drop(k, way);
        if (m->protocol.dirty[state])
            first_to_second(m, core, old, state);
    }
    put(k, way, line);
    return way;
}

/* Bring a line to the first or second level; who comes for it before it is there waits. */
static void prefetch(lp_machine *m, int core, uint64_t line, double now, int level)
{
    core_t *const c = &m->cores[core];
    cache *const first = &c->level[0], *const second = &c->level[1];
    if (find(first, line) >= 0)
        return;
    int64_t b = find(second, line);
    if (b < 0) {
        int state;
        int64_t below;
        const int how_far = m->how_far;
        const double cycles = ask(m, core, line, 0, -1, &state, &below);
        b = second_new(m, core, line);
        second->below[b] = below;
        second->state[b] = (uint8_t)state;
        second->ready[b] = now + m->config.level[1].latency + cycles;
        move(m, core, 2, 1, line);
        c->counters.prefetches++;
        m->how_far = how_far;
    }
    if (level == 0) {
        const double soonest = now + m->config.level[1].latency, there = second->ready[b];
        const int state = m->protocol.clean[second->state[b]], stale = second->stale[b];
        const int64_t a = first_new(m, core, line); /* what it puts into the second level may take the place of the line there */
        first->state[a] = (uint8_t)state;
        first->stale[a] = (uint8_t)stale;
        first->ready[a] = soonest > there ? soonest : there;
        move(m, core, 1, 0, line);
    }
}

/* An access to the second level, by a program: does it lead on a stream? Then the lines up to `distance` ahead are asked for. */
static void follow(lp_machine *m, int core, uint64_t line, double now)
{
    core_t *const c = &m->cores[core];
    stream *s = NULL, *oldest = &c->streams[0];
    for (int k = 0; k < LP_STREAMS && !s; k++) {
        if (c->streams[k].used && c->streams[k].page == line / LP_PAGE)
            s = &c->streams[k];
        if (c->streams[k].used < oldest->used)
            oldest = &c->streams[k];
    }
    if (!s) {
        *oldest = (stream){.page = line / LP_PAGE, .line = line, .used = ++c->level[1].clock};
        return;
    }
    s->used = ++c->level[1].clock;
    const int64_t stride = (int64_t)(line - s->line);
    if (stride == 0)
        return;
    s->line = line;
    if (stride != s->stride) {
        s->stride = stride;
        s->sure = 0;
        s->sent = 0;
        return;
    }
    s->sure = 1;
    s->sent = s->sent > 0 ? s->sent - 1 : 0;
    const int64_t steps = m->config.distance / (stride < 0 ? -stride : stride);
    while (s->sent < steps) {
        const uint64_t ahead = line + (uint64_t)(stride * (s->sent + 1));
        if (ahead / LP_PAGE != s->page)
            break;
        prefetch(m, core, ahead, now, 1);
        s->sent++;
    }
}

/* The cycles until an access is done, beyond those that the pipeline covers. */
static double reach(lp_machine *m, int core, uint64_t line, int kind, double now)
{
    core_t *const c = &m->cores[core];
    const lp_protocol *const p = &m->protocol;
    cache *const first = &c->level[0], *const second = &c->level[1];
    const int write = kind == LP_STORE || kind == LP_LOAD_OWN;
    const int region = p->regions && in_region(p, line);
    int64_t a = find(first, line);
    if (kind != LP_STORE) {
        c->counters.loads++;
        c->counters.region_loads += region;
    } else
        c->counters.stores++;
    if (a >= 0 && (!write || p->writable[first->state[a]])) {
        if (kind == LP_STORE) {
            c->counters.store_hits++;
            first->state[a] = p->written[first->state[a]];
        } else {
            c->counters.load_hits++;
            c->counters.stale_loads += first->stale[a];
        }
        c->counters.hits[0]++;
        touch(first, a);
        m->how_far = LP_STALL_SECOND;
        const double seen = m->config.level[0].latency - m->config.hidden, until = first->ready[a] - now;
        c->counters.late += until > 0.0;
        return until > seen ? until : seen;
    }
    if (kind == LP_STORE)
        c->counters.store_misses++;
    else
        c->counters.load_misses++;
    c->counters.misses[0]++;
    double cycles = m->config.level[0].latency + m->config.level[1].latency - m->config.hidden;
    cycles = cycles > 0 ? cycles : 0;
    m->how_far = LP_STALL_SECOND;
    int64_t b = find(second, line);
    if (b >= 0 && (!write || p->writable[second->state[b]])) {
        c->counters.hits[1]++;
        touch(second, b);
        if (second->ready[b] - now > cycles) {
            cycles = second->ready[b] - now;
            c->counters.late++;
        }
    } else {
        int state;
        int64_t below;
        if (a >= 0 || b >= 0)
            c->counters.upgrades++;
        c->counters.misses[1]++;
        cycles += ask(m, core, line, write, b, &state, &below);
        if (b < 0)
            b = second_new(m, core, line);
        else
            touch(second, b);
        /* Written in the first level only, so far: clean here, where the protocol has a state for that. */
        second->state[b] = write && p->writable[p->clean[state]] ? p->clean[state] : (uint8_t)state;
        second->stale[b] = 0;
        second->below[b] = below;
        second->ready[b] = now + cycles;
        move(m, core, 2, 1, line);
    }
    if (a < 0)
        a = first_new(m, core, line);
    else
        touch(first, a);
    b = find(second, line);
    first->state[a] = kind == LP_STORE ? p->written[p->write] : p->clean[b >= 0 ? second->state[b] : p->read_alone];
    first->stale[a] = b >= 0 ? second->stale[b] : 0;
    first->ready[a] = now + cycles;
    if (kind != LP_STORE)
        c->counters.stale_loads += first->stale[a];
    move(m, core, 1, 0, line);
    if (m->config.distance)
        follow(m, core, line, now);
    return cycles;
}

/* ---- cores -------------------------------------------------------------------------------------------------------------- */

/* Take out what is done at `now`. */
static void retire(waiting *queue, int32_t *count, double now)
{
    int32_t left = 0;
    for (int32_t k = 0; k < *count; k++)
        if (queue[k].until > now)
            queue[left++] = queue[k];
    *count = left;
}

static waiting earliest(const waiting *queue, int32_t count)
{
    waiting least = queue[0];
    for (int32_t k = 1; k < count; k++)
        if (queue[k].until < least.until)
            least = queue[k];
    return least;
}

static void pay(core_t *c)
{
    c->time += c->debt;
    c->debt = 0.0;
}

/* Wait until no more than `most` are left. What is owed passes first: these accesses were under way meanwhile. */
static void wait_for(core_t *c, waiting *queue, int32_t *count, int32_t most)
{
    retire(queue, count, c->time + c->debt);
    if (*count > most)
        pay(c);
    while (*count > most) {
        const waiting next = earliest(queue, *count);
        c->counters.stalled[next.how_far] += next.until - c->time;
        c->time = next.until;
        retire(queue, count, c->time);
    }
}

/* Can it be done without waiting? */
static inline int at_hand(const lp_machine *m, const core_t *c, uint64_t line, int kind)
{
    const int64_t a = find(&c->level[0], line);
    return a >= 0 && (kind == LP_LOAD || m->protocol.writable[c->level[0].state[a]]) && c->level[0].ready[a] <= c->time + c->debt;
}

/* Returns 0 where the core has to let others go first. */
static int one_access(lp_machine *m, int core, uint64_t address, int kind)
{
    core_t *const c = &m->cores[core];
    const uint64_t line = address / LP_LINE;
    if (kind == LP_WAIT) {
        if (c->n_in_flight)
            pay(c);
        wait_for(c, c->in_flight, &c->n_in_flight, 0);
        return 1;
    }
    if (kind == LP_PREFETCH || kind == LP_PREFETCH_FIRST) {
        prefetch(m, core, line, c->time + c->debt, kind == LP_PREFETCH);
        return 1;
    }
    if (c->debt > 0.0 && !at_hand(m, c, line, kind)) {
        pay(c);
        return 0;
    }
    const double cycles = reach(m, core, line, kind, c->time + c->debt);
    if (cycles <= 0.0)
        return 1;
    if (kind == LP_STORE && m->config.store_buffer > 0) {
        wait_for(c, c->storing, &c->n_storing, m->config.store_buffer - 1);
        c->storing[c->n_storing++] = (waiting){c->time + c->debt + cycles, m->how_far};
    } else if (kind != LP_STORE && m->config.overlap > 1) {
        c->in_flight[c->n_in_flight++] = (waiting){c->time + c->debt + cycles, m->how_far};
        wait_for(c, c->in_flight, &c->n_in_flight, m->config.overlap - 1);
    } else {
        c->debt += cycles;
        c->counters.stalled[m->how_far] += cycles;
    }
    return 1;
}

/* The sets that the access to come will be looked up in: other cores come first, and meanwhile this machine can bring them. */
static inline void bring(const lp_machine *m, const core_t *c, uint64_t line)
{
    const cache *const first = &c->level[0], *const second = &c->level[1], *const third = &m->third;
    const int64_t a = first_way(first, line), b = first_way(second, line);
    __builtin_prefetch(&first->tag[a]);
    __builtin_prefetch(&second->tag[b]);
    __builtin_prefetch(&second->used[b]);
    __builtin_prefetch(&second->below[b]);
    __builtin_prefetch(&second->ready[b]);
    __builtin_prefetch(&second->state[b]);
    const int64_t set = first_way(third, line);
    for (int32_t k = 0; k < third->ways; k += 8) {
        __builtin_prefetch(&third->tag[set + k]);
        __builtin_prefetch(&third->used[set + k]);
    }
}

static inline uint64_t address_of(const lp_program *p, const lp_access *a)
{
    if (a->row == LP_ABSOLUTE)
        return a->address;
    const int64_t row = a->row >= 0 ? p->row + a->row : p->row ? p->row - 1 : p->rows - 1;
    return a->address + p->base + (uint64_t)(row * p->stride);
}

/* What a core computes, and waits for, before its next access: then its time is that of the access, and says whose turn it is. */
static void compute(lp_machine *m, core_t *c)
{
    lp_program *const p = &c->program;
    if (p->counted || p->passes <= 0)
        return;
    const lp_access *const a = &p->accesses[p->at];
    c->counters.instructions += a->instructions;
    c->time += a->instructions * m->config.cpi;
    p->counted = 1;
    if (a->kind == LP_WAIT)
        return;
    const uint64_t line = address_of(p, a) / LP_LINE;
    if (a->kind == LP_PREFETCH || a->kind == LP_PREFETCH_FIRST)
        bring(m, c, line);
    else if (!at_hand(m, c, line, a->kind)) { /* it may be lost until then, but not come to hand */
        pay(c);
        bring(m, c, line);
    }
}

/* Returns 0 where the core has to let others go first. */
static int next_access(lp_machine *m, int core)
{
    core_t *const c = &m->cores[core];
    lp_program *const p = &c->program;
    const lp_access *const a = &p->accesses[p->at];
    if (!one_access(m, core, address_of(p, a), a->kind))
        return 0;
    if (a->actions && m->learner)
        lp_learner_act(m->learner, core, a, p->row);
    if (++p->at == p->count) {
        p->at = 0;
        p->row += p->batch;
        if (p->row + p->batch > p->rows)
            p->row = 0;
        if (--p->passes == 0)
            pay(c);
    }
    p->counted = 0;
    compute(m, c);
    return 1;
}

int64_t lp_machine_run(lp_machine *m, int64_t budget)
{
    /* Cores with something to do, those furthest behind first. */
    struct {
        double time;
        int core;
    } queue[LP_MAX_CORES];
    int n = 0;
    int64_t done = 0;
    m->failed = 0;
    for (int i = 0; i < m->config.cores; i++) {
        const int core = m->turn[i];
        if (m->cores[core].program.passes > 0) {
            compute(m, &m->cores[core]);
            int k = n++;
            for (; k > 0 && queue[k - 1].time > m->cores[core].time; k--)
                queue[k] = queue[k - 1];
            queue[k].time = m->cores[core].time;
            queue[k].core = core;
        }
    }
    while (n && done < budget) {
        const int core = queue[0].core;
        core_t *const c = &m->cores[core];
        do {
            done += next_access(m, core);
        } while (c->program.passes > 0 && (n == 1 || c->time <= queue[1].time) && done < budget && !m->failed);
        if (m->failed)
            return -1;
        if (c->program.passes > 0 && (n == 1 || c->time <= queue[1].time))
            break; /* it would have gone on */
        n -= c->program.passes <= 0;
        /* The others move up; this one goes where it belongs. */
        int k = 0;
        for (; k + 1 < n + (c->program.passes <= 0) && (c->program.passes <= 0 || queue[k + 1].time <= c->time); k++)
            queue[k] = queue[k + 1];
        if (c->program.passes > 0) {
            queue[k].time = c->time;
            queue[k].core = core;
        }
    }
    /* The next call begins with the same order: a run in pieces is the same run. */
    uint64_t waiting_cores = 0;
    for (int k = 0; k < n; k++) {
        m->turn[k] = queue[k].core;
        waiting_cores |= (uint64_t)1 << queue[k].core;
    }
    for (int core = 0, k = n; core < m->config.cores; core++)
        if (!(waiting_cores >> core & 1))
            m->turn[k++] = core;
    return done;
}

double lp_machine_access(lp_machine *m, int core, uint64_t address, int kind)
{
    core_t *const c = &m->cores[core];
    const double before = c->time;
    m->failed = 0;
    while (!one_access(m, core, address, kind))
        ;
    pay(c);
    return m->failed ? -1.0 : c->time - before;
}

int lp_machine_line(lp_machine *m, uint64_t line, uint8_t *state, uint8_t *stale, uint64_t *sharers, int *owner)
{
    for (int core = 0; core < m->config.cores; core++)
        for (int level = 0; level < 2; level++) {
            const cache *const c = &m->cores[core].level[level];
            const int64_t way = find(c, line);
            state[2 * core + level] = way < 0 ? NOT_HERE : c->state[way];
            stale[2 * core + level] = way < 0 ? 0 : c->stale[way];
        }
    const int64_t way = find(&m->third, line);
    *sharers = way < 0 ? 0 : m->directory[way].sharers;
    *owner = way < 0 ? NOBODY : m->directory[way].owner;
    return way >= 0;
}

void lp_machine_model(const lp_machine *m, uint8_t *out)
{
    const lp_learner *const l = m->learner;
    memcpy(out, l->memory, (size_t)l->n_bytes);
    for (uint64_t line = l->first; line < l->last; line++)
        for (int core = 0; core < m->config.cores; core++)
            for (int level = 1; level >= 0; level--) {
                const cache *const c = &m->cores[core].level[level];
                const int64_t way = find(c, line);
                if (way >= 0 && m->protocol.dirty[c->state[way]])
                    memcpy(out + (line - l->first) * LP_LINE, numbers(m, core, level, line), LP_LINE);
            }
}

/* ---- making one ------------------------------------------------------------------------------------------------------------ */

lp_machine *lp_machine_new(const lp_machine_config *config, const lp_protocol *protocol, uint64_t seed)
{
    lp_machine *const m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    lp_rng rng;
    lp_rng_seed(&rng, seed, 0);
    m->config = *config;
    m->protocol = *protocol;
    m->random = rng.scalar;
    for (int core = 0; core < config->cores; core++)
        m->turn[core] = core;
    m->directory = zeros((size_t)config->level[2].sets * config->level[2].ways * config->level[2].slices * sizeof *m->directory);
    m->cores = calloc((size_t)config->cores, sizeof *m->cores);
    int whole = m->directory && m->cores && cache_new(&m->third, &config->level[2], 0);
    for (int k = 0; whole && k < config->cores; k++)
        whole = cache_new(&m->cores[k].level[0], &config->level[0], 1) && cache_new(&m->cores[k].level[1], &config->level[1], 1);
    if (!whole) {
        lp_machine_free(m);
        return NULL;
    }
    return m;
}

void lp_machine_free(lp_machine *m)
{
    if (!m)
        return;
    for (int k = 0; m->cores && k < m->config.cores; k++) {
        cache_free(&m->cores[k].level[0]);
        cache_free(&m->cores[k].level[1]);
    }
    cache_free(&m->third);
    free(m->cores);
    free(m->directory);
    free(m);
}

lp_program *lp_machine_program(lp_machine *m, int core) { return &m->cores[core].program; }
lp_counters *lp_machine_counters(lp_machine *m, int core) { return &m->cores[core].counters; }
double *lp_machine_time(lp_machine *m, int core) { return &m->cores[core].time; }
void lp_machine_learn(lp_machine *m, lp_learner *learner) { m->learner = learner; }
