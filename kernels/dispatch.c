/* Which tables are built in, and which is the best that this CPU runs. The ISA is chosen once, not the kernel each time. */
#include <string.h>

#include "codec.h"
#include "lowprec.h"

/* Slowest first. A new ISA (avx512, neon) is one line here, one isa_NAME.c and its flags in setup.py. */
const lp_isa *const lp_isas[] = {
    &lp_isa_base,
#ifdef LP_HAVE_AVX2
    &lp_isa_avx2,
#endif
    NULL,
};

const lp_isa *lp_isa_find(const char *name)
{
    for (int k = 0; lp_isas[k]; k++)
        if (strcmp(lp_isas[k]->name, name) == 0)
            return lp_isas[k];
    return NULL;
}

const lp_isa *lp_isa_best(void)
{
    const lp_isa *best = lp_isas[0];
    for (int k = 1; lp_isas[k]; k++)
        if (lp_isas[k]->runnable())
            best = lp_isas[k];
    return best;
}

const lp_kernel *lp_find(const lp_isa *isa, int op, int D, int M, int rounding)
{
    for (int k = 0; k < isa->count; k++) {
        const lp_kernel *row = &isa->kernels[k];
        if (row->op == op && row->D == D && row->M == M && row->rounding == rounding)
            return row;
    }
    return NULL;
}

const lp_codec *lp_find_codec(const lp_isa *isa, const char *name)
{
    for (int k = 0; k < LP_N_CODECS; k++)
        if (strcmp(isa->codecs[k].name, name) == 0)
            return &isa->codecs[k];
    return NULL;
}
