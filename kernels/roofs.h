/* What the caches, the memory and the way between the cores can do: loops that do nothing else. For `lowprec model` alone; they
 * make the extension lowprec.report._roofs, compiled with the flags of the compiler's best (baseline.h). */
#ifndef LOWPREC_ROOFS_H
#define LOWPREC_ROOFS_H

#include <stddef.h>
#include <stdint.h>

/* Reads `bytes` bytes (a multiple of 128, 32-byte aligned) `passes` times, front to back, and returns their sum so that no read is
 * left out. */
uint64_t roofs_read(const void *buffer, size_t bytes, int64_t passes);

/* The same, but every vector is written back changed, as a model is. Threads may do so on one buffer at once: what it then holds is
 * unspecified, the traffic is what counts. */
void roofs_update(void *buffer, size_t bytes, int64_t passes);

/* Two OpenMP threads send a cache line to and fro, `rounds` times. 0 if there are no two threads. */
int roofs_ping_pong(int32_t *ball, int64_t rounds);

#endif
