/* Single steps by the processor's trap flag: after each instruction the kernel sends SIGTRAP, whose handler counts. No counters of the
 * hardware, which virtual machines lack, no other process, no privilege. */
#define _GNU_SOURCE
#include "instructions.h"

#if defined(__linux__) && defined(__x86_64__)
#include <signal.h>
#include <ucontext.h>

static uint64_t range_first[LP_MAX_RANGES], range_last[LP_MAX_RANGES];
static int n_ranges;
static volatile int64_t counted;
static struct sigaction before;

static void stepped(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)info;
    const uint64_t at = (uint64_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP]; /* of the instruction to come */
    for (int k = 0; k < n_ranges; k++)
        if (at >= range_first[k] && at < range_last[k]) {
            counted++;
            return;
        }
}

int lp_count_begin(const uint64_t *first, const uint64_t *last, int ranges)
{
    struct sigaction now = {.sa_sigaction = stepped, .sa_flags = SA_SIGINFO};
    sigemptyset(&now.sa_mask);
    for (n_ranges = 0; n_ranges < ranges; n_ranges++) {
        range_first[n_ranges] = first[n_ranges];
        range_last[n_ranges] = last[n_ranges];
    }
    counted = 0;
    if (sigaction(SIGTRAP, &now, &before))
        return 0;
    /* Below the red zone, which compiled code may use. */
    __asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; orq $0x100, (%%rsp); popfq; lea 128(%%rsp), %%rsp" ::: "cc", "memory");
    return 1;
}

int64_t lp_count_end(void)
{
    __asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; andq $~0x100, (%%rsp); popfq; lea 128(%%rsp), %%rsp" ::: "cc", "memory");
    sigaction(SIGTRAP, &before, 0);
    return counted;
}
#else
int lp_count_begin(const uint64_t *first, const uint64_t *last, int ranges)
{
    (void)first;
    (void)last;
    (void)ranges;
    return 0;
}

int64_t lp_count_end(void) { return 0; }
#endif
