/* The worker of the paper's Fig 1 for one pair of formats and one random source. Included by baseline_pair.h with
 *   LOOP      the function's name
 *   DATA      element type of x          MODEL      element type of w
 *   MODEL_MAX largest model code, or 0 if the model is float and nothing is rounded
 *   RANDOM    one of the BASELINE_... values
 *   INDEX     sparse: element type of the column numbers, which are absolute; undefined: dense
 * There are no intrinsics: vectorizing these loops is the compiler's task, and what it makes of them is the yardstick. */

#define UPDATE PASTE(LOOP, _update)
#define AXPY PASTE(LOOP, _axpy)

/* The model's element that belongs to the k-th number of a row. */
#ifdef INDEX
#define WEIGHT(k) w[column[k]]
#define COLUMNS const INDEX *restrict column,
#define PASS_COLUMNS column,
#else
#define WEIGHT(k) w[k]
#define COLUMNS
#define PASS_COLUMNS
#endif

/* w + scale * x, rounded down after u was added and kept within the model's range. */
static inline MODEL UPDATE(MODEL w, DATA x, float scale, float u)
{
#if MODEL_MAX
    float moved = floorf((float)w + (float)x * scale + u);
    moved = moved > MODEL_MAX ? MODEL_MAX : moved;
    moved = moved < -MODEL_MAX ? -MODEL_MAX : moved;
    return (MODEL)(int)moved;
#else
    (void)u;
    return w + x * scale;
#endif
}

/* restrict tells the compiler what the program knows: x, w, the columns and the random words never overlap. */
static inline void AXPY(const DATA *restrict x, COLUMNS MODEL *restrict w, int64_t n, float scale,
                        struct baseline_job *restrict job)
{
#if !MODEL_MAX || RANDOM == BASELINE_NEAREST
    (void)job;
    for (int64_t k = 0; k < n; k++)
        WEIGHT(k) = UPDATE(WEIGHT(k), x[k], scale, 0.5f);
#elif RANDOM == BASELINE_MT19937
    for (int64_t k = 0; k < n; k++)
        WEIGHT(k) = UPDATE(WEIGHT(k), x[k], scale, (float)(mt19937(job) >> 16) * 0x1p-16f);
#else
    /* In blocks of 32 because the block of random words has 32: k % 32 as an index would keep gcc from vectorizing. */
    float u[32];
    uniforms(job->lanes, u);
    int64_t k = 0;
    for (; k + 32 <= n; k += 32) {
        for (int j = 0; j < 32; j++)
            WEIGHT(k + j) = UPDATE(WEIGHT(k + j), x[k + j], scale, u[j]);
#if RANDOM == BASELINE_XORSHIFT
        xorshift(job->lanes);
        uniforms(job->lanes, u);
#endif
    }
    for (int j = 0; k + j < n; j++)
        WEIGHT(k + j) = UPDATE(WEIGHT(k + j), x[k + j], scale, u[j]);
    xorshift(job->lanes);
#endif
}

static void LOOP(struct baseline_job *job, int64_t first, int64_t last)
{
    MODEL *w = job->w;
    for (int64_t i = first; i < last; i++) {
#ifdef INDEX
        const int64_t n = job->indptr[i + 1] - job->indptr[i];
        const DATA *x = (const DATA *)job->x + job->indptr[i];
        const INDEX *column = (const INDEX *)job->index + job->indptr[i];
#else
        const int64_t n = job->n;
        const DATA *x = (const DATA *)job->x + i * n;
#endif
        const float y = job->y[i];

        float dot = 0.0f;
        for (int64_t k = 0; k < n; k++)
            dot += (float)x[k] * (float)WEIGHT(k);
        dot *= job->data_scale * job->model_scale;

        const float scale_a = job->step * y / (1.0f + expf(y * dot));
        /* in model quanta for each unit of x */
        AXPY(x, PASS_COLUMNS w, n, scale_a * job->data_scale / job->model_scale, job);
    }
}

#undef PASS_COLUMNS
#undef COLUMNS
#undef WEIGHT
#undef AXPY
#undef UPDATE
#undef LOOP
#undef RANDOM
#undef INDEX
