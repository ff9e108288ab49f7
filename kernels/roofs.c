/* Roofs of caches, memory and the way between cores: see roofs.h. */
#include "roofs.h"

#ifdef LP_OPENMP
#include <omp.h>
#include <sched.h>
#endif

/* gcc and clang turn this into 256-bit registers where the flags allow them, and into what there is elsewhere. */
typedef uint64_t vec __attribute__((vector_size(32)));

uint64_t roofs_read(const void *buffer, size_t bytes, int64_t passes)
{
    const vec *v = buffer;
    vec a = {0}, b = {0}, c = {0}, d = {0}; /* four accumulators, so that no addition waits for the one before it */
    for (int64_t pass = 0; pass < passes; pass++) {
        for (size_t i = 0; i < bytes / sizeof(vec); i += 4) {
            a += v[i];
            b += v[i + 1];
            c += v[i + 2];
            d += v[i + 3];
        }
        __asm__ volatile("" ::: "memory"); /* the next pass reads again */
    }
    a += b + c + d;
    return a[0] + a[1] + a[2] + a[3];
}

void roofs_update(void *buffer, size_t bytes, int64_t passes)
{
    vec *v = buffer;
    for (int64_t pass = 0; pass < passes; pass++) {
        for (size_t i = 0; i < bytes / sizeof(vec); i += 4) {
            v[i] += 1;
            v[i + 1] += 1;
            v[i + 2] += 1;
            v[i + 3] += 1;
        }
        __asm__ volatile("" ::: "memory"); /* two passes must not become one that adds 2 */
    }
}

#ifdef LP_OPENMP
/* One side: `rounds` times wait until *ball is `me`, then set it to `next`. */
static void play(int32_t *ball, int32_t me, int32_t next, int64_t rounds)
{
    for (int64_t i = 0; i < rounds; i++) {
        int spins = 0;
        while (__atomic_load_n(ball, __ATOMIC_ACQUIRE) != me)
            if (++spins == 1 << 12) { /* the other side may be waiting for this very CPU */
                spins = 0;
                sched_yield();
            }
        __atomic_store_n(ball, next, __ATOMIC_RELEASE);
    }
}

int roofs_ping_pong(int32_t *ball, int64_t rounds)
{
    int played = 0;
    *ball = 0;
#pragma omp parallel num_threads(2)
    if (omp_get_num_threads() == 2) { /* a limit of the user's may leave one, who would wait for ever */
        const int32_t me = omp_get_thread_num();
        play(ball, me, 1 - me, rounds);
        if (me == 0)
            played = 1;
    }
    return played;
}
#else
int roofs_ping_pong(int32_t *ball, int64_t rounds)
{
    (void)ball;
    (void)rounds;
    return 0;
}
#endif
