/* The classic generator of the paper's ladder: MT19937, Matsumoto and Nishimura, ACM TOMACS 8(1), 1998. */
#include "lowprec.h"

static void seed_one(lp_mt19937 *mt, uint32_t seed)
{
    mt->state[0] = seed;
    for (uint32_t k = 1; k < 624; k++)
        mt->state[k] = 1812433253u * (mt->state[k - 1] ^ (mt->state[k - 1] >> 30)) + k;
    mt->index = 624;
}

/* init_by_array with the key [seed lo, seed hi, stream lo, stream hi]. */
void lp_mt19937_seed(lp_mt19937 *mt, uint64_t seed, uint64_t stream)
{
    const uint32_t key[4] = {(uint32_t)seed, (uint32_t)(seed >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)};
    uint32_t *s = mt->state;
    uint32_t i = 1, j = 0;
    seed_one(mt, 19650218u);
    for (int k = 0; k < 624; k++) {
        s[i] = (s[i] ^ ((s[i - 1] ^ (s[i - 1] >> 30)) * 1664525u)) + key[j] + j;
        if (++i == 624) {
            s[0] = s[623];
            i = 1;
        }
        j = (j + 1) & 3;
    }
    for (int k = 0; k < 623; k++) {
        s[i] = (s[i] ^ ((s[i - 1] ^ (s[i - 1] >> 30)) * 1566083941u)) - i;
        if (++i == 624) {
            s[0] = s[623];
            i = 1;
        }
    }
    s[0] = 0x80000000u;
}

static uint32_t twist(uint32_t high, uint32_t low, uint32_t far)
{
    uint32_t y = (high & 0x80000000u) | (low & 0x7FFFFFFFu);
    return far ^ (y >> 1) ^ ((0u - (y & 1)) & 0x9908B0DFu);
}

static void refill(uint32_t *s)
{
    for (int k = 0; k < 227; k++)
        s[k] = twist(s[k], s[k + 1], s[k + 397]);
    for (int k = 227; k < 623; k++)
        s[k] = twist(s[k], s[k + 1], s[k - 227]);
    s[623] = twist(s[623], s[0], s[396]);
}

static uint32_t temper(uint32_t y)
{
    y ^= y >> 11;
    y ^= (y << 7) & 0x9D2C5680u;
    y ^= (y << 15) & 0xEFC60000u;
    return y ^ (y >> 18);
}

/* One 32-bit output per write: all of it for 32f data, its upper 16 bits otherwise. By runs of the state, so that the compiler
 * can vectorize the tempering. */
void lp_mt19937_fill(lp_mt19937 *mt, void *words, int64_t n, int D)
{
    for (int64_t j = 0; j < n;) {
        if (mt->index >= 624) {
            refill(mt->state);
            mt->index = 0;
        }
        const uint32_t *s = mt->state + mt->index;
        const int64_t run = n - j < 624 - mt->index ? n - j : 624 - mt->index;
        uint32_t *w32 = (uint32_t *)words + j;
        uint16_t *w16 = (uint16_t *)words + j;
        if (D == 32)
            for (int64_t k = 0; k < run; k++)
                w32[k] = temper(s[k]);
        else
            for (int64_t k = 0; k < run; k++)
                w16[k] = (uint16_t)(temper(s[k]) >> 16);
        mt->index += (int)run;
        j += run;
    }
}
