/* Running networks of integers, and products by themselves. Included once by each network_<isa>.c, which is compiled with the ISA's flags and
 * defines LP_NETWORK_ISA (its name), LP_GEMM_KERNELS (its table), and LP_WIDEN_CODES(from, to) and LP_NARROW_CODES(from, to): sixteen uint8 to
 * int32 and back.
 *
 * The epilogue, for a sum of output c (float32 throughout, every operation rounded, nothing fused):
 *     y = float32(sum) * scale[c] + shift[c]        (+ float32(residual) * second_scale)
 *     codes:   min(max(y, 0), limit) rounded half to even
 *     float32: y, or max(y, 0) with relu
 * Clipping to integers first and rounding then is the same as the other way around. */
#include <string.h>

#include "network.h"

#ifdef LP_OPENMP
#include <omp.h>
#endif

#define LP_INLINE static inline __attribute__((always_inline))

LP_INLINE int64_t lp_min(int64_t a, int64_t b) { return a < b ? a : b; }
LP_INLINE int64_t lp_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
LP_INLINE int64_t lp_round_up(int64_t a, int64_t b) { return lp_ceil_div(a, b) * b; }

typedef void (*lp_task_fn)(const void *context, int64_t task, int thread);

/* fn(context, k, its thread) for k in [0, tasks), by `threads` threads. */
static void lp_for_tasks(lp_task_fn fn, const void *context, int64_t tasks, int threads)
{
#ifdef LP_OPENMP
    if (threads > 1 && tasks > 1) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
        for (int64_t k = 0; k < tasks; k++)
            fn(context, k, omp_get_thread_num());
        return;
    }
#endif
    (void)threads;
    for (int64_t k = 0; k < tasks; k++)
        fn(context, k, 0);
}

/* ---- the epilogue ------------------------------------------------------------------------------------------------ */

enum { LP_NO_SECOND, LP_SECOND_CODES, LP_SECOND_FLOAT, LP_BLOCK = 16 };

/* What all outputs have in common. */
typedef struct lp_ending {
    float limit, second_scale;
    int relu;
} lp_ending;

LP_INLINE lp_ending lp_ending_of(const lp_layer *l)
{
    const lp_ending end = {l->limit, l->second_scale, l->relu};
    return end;
}

/* n < 16 bytes, without a call. */
LP_INLINE void lp_copy_few(uint8_t *to, const uint8_t *from, int64_t n)
{
    if (n & 8) {
        memcpy(to, from, 8);
        to += 8, from += 8;
    }
    if (n & 4) {
        memcpy(to, from, 4);
        to += 4, from += 4;
    }
    for (n &= 3; n > 0; n--)
        *to++ = *from++;
}

/* Sixteen numbers, as vectors: left to itself the compiler unrolls loops of sixteen before it could vectorize them. */
typedef float lp_floats __attribute__((vector_size(32)));
typedef int32_t lp_ints __attribute__((vector_size(32)));
typedef lp_floats lp_floats_anywhere __attribute__((aligned(1), may_alias)); /* not memcpy, which goes by the stack in pieces */
typedef lp_ints lp_ints_anywhere __attribute__((aligned(1), may_alias));
typedef struct lp_block {
    lp_floats half[2];
} lp_block;

LP_INLINE void lp_load(lp_block *y, const void *from)
{
    for (int h = 0; h < 2; h++)
        y->half[h] = ((const lp_floats_anywhere *)from)[h];
}

/* int32 numbers or float32, as they lie in memory. */
LP_INLINE void lp_load_sums(lp_block *y, const void *from, int floats)
{
    if (floats)
        lp_load(y, from);
    else
        for (int h = 0; h < 2; h++)
            y->half[h] = __builtin_convertvector(((const lp_ints_anywhere *)from)[h], lp_floats);
}

LP_INLINE void lp_load_tensor(lp_block *y, const uint8_t *from, int codes)
{
    if (codes) {
        int32_t numbers[LP_BLOCK];
        LP_WIDEN_CODES(from, numbers);
        lp_load_sums(y, numbers, 0);
    } else {
        lp_load(y, from);
    }
}

LP_INLINE void lp_scale_by(lp_block *y, const float *scale)
{
    lp_block by;
    lp_load(&by, scale);
    for (int h = 0; h < 2; h++)
        y->half[h] *= by.half[h];
}

LP_INLINE void lp_shift_by(lp_block *y, const lp_block *by)
{
    for (int h = 0; h < 2; h++)
        y->half[h] += by->half[h];
}

/* y -> out, codes or float32: its first n numbers, n <= LP_BLOCK. */
LP_INLINE void lp_put(lp_block *y, int64_t n, const lp_ending end, int codes, uint8_t *out)
{
    const lp_floats zero = {0};
    if (codes || end.relu)
        for (int h = 0; h < 2; h++)
            y->half[h] = (lp_floats)((lp_ints)y->half[h] & (lp_ints)(y->half[h] > zero));
    if (codes) {
        /* 2^23 + v rounds v to an integer, which is then the lowest bits. */
        int32_t numbers[LP_BLOCK];
        for (int h = 0; h < 2; h++) {
            const lp_ints below = y->half[h] < zero + end.limit;
            const lp_floats v = (lp_floats)(((lp_ints)y->half[h] & below) | ((lp_ints)(zero + end.limit) & ~below));
            ((lp_ints_anywhere *)numbers)[h] = (lp_ints)(v + 0x1p23f) & 0xFF;
        }
        if (n >= LP_BLOCK) {
            LP_NARROW_CODES(numbers, out);
        } else {
            uint8_t narrow[LP_BLOCK];
            LP_NARROW_CODES(numbers, narrow);
            lp_copy_few(out, narrow, n);
        }
    } else if (n >= LP_BLOCK) {
        for (int h = 0; h < 2; h++)
            ((lp_floats_anywhere *)out)[h] = y->half[h];
    } else {
        memcpy(out, y, (size_t)n * 4);
    }
}

/* One row of n sums. Reads whole blocks of sums, scale, shift and second, of which what is beyond n does not count. */
LP_INLINE void lp_finish_row(const void *sums, int64_t n, const float *scale, const float *shift, const lp_ending end,
                             const uint8_t *second, uint8_t *out, int float_sums, int second_kind, int codes)
{
    for (int64_t j = 0; j < n; j += LP_BLOCK) {
        lp_block y, more;
        lp_load_sums(&y, (const uint8_t *)sums + 4 * j, float_sums);
        lp_scale_by(&y, scale + j);
        lp_load(&more, shift + j);
        lp_shift_by(&y, &more);
        if (second_kind) {
            const lp_floats zero = {0};
            lp_load_tensor(&more, second + (second_kind == LP_SECOND_CODES ? j : 4 * j), second_kind == LP_SECOND_CODES);
            for (int h = 0; h < 2; h++)
                more.half[h] *= zero + end.second_scale;
            lp_shift_by(&y, &more);
        }
        lp_put(&y, n - j, end, codes, out + (codes ? j : 4 * j));
    }
}

/* ---- products ------------------------------------------------------------------------------------------------ */

typedef struct
    lp_where { /* of the pixels that rows are: image, row and pixel, as in a tensor, times the stride of the convolution */
    int64_t image, row, pixel;
} lp_where;

/* What a product does with panels and rows, and where its sums go. */
typedef struct lp_product {
    const lp_gemm_kernel *kernel;
    const uint8_t *packed, *base; /* base: of the rows, prepared */
    int64_t rows, height, width;  /* rows = images * height * width */
    lp_where from, to, beside;    /* beside: the residual */
    const int64_t *offsets;
    int64_t segments, steps;
    int64_t outputs;
    uint8_t *out;          /* of the first row, the first output */
    const uint8_t *second; /* likewise */
    const float *scale, *shift;
    lp_ending end;
    int plain, second_kind, codes; /* plain: the sums are copied */
} lp_product;

typedef struct lp_scratch {
    uint8_t *panel;
    void *sums;
    int64_t *from, *to, *beside;
    int32_t *excess, *pool; /* excess: of each row, its negative */
    uint8_t *rows;
} lp_scratch;

LP_INLINE uint8_t *lp_aligned(uint8_t *p) { return (uint8_t *)(((uintptr_t)p + 63) & ~(uintptr_t)63); }

LP_INLINE lp_scratch lp_scratch_of(uint8_t *memory)
{
    lp_scratch s;
    s.panel = lp_aligned(memory);
    s.sums = s.panel + LP_PANEL_BYTES;
    s.from = (int64_t *)((uint8_t *)s.sums + LP_SUM_BYTES);
    s.to = s.from + LP_MOST_ROWS;
    s.beside = s.to + LP_MOST_ROWS;
    s.excess = (int32_t *)(s.beside + LP_MOST_ROWS);
    s.pool = s.excess + LP_MOST_ROWS;
    s.rows = lp_aligned((uint8_t *)(s.pool + 16));
    return s;
}

/* Offsets of rows [first, first + n). */
static void lp_locate(const lp_product *p, lp_where by, int64_t first, int64_t n, int64_t *at)
{
    const int64_t line = first / p->width, image = line / p->height;
    int64_t x = first % p->width, y = line % p->height, row = image * by.image + y * by.row, here = row + x * by.pixel;
    for (int64_t i = 0; i < n; i++) {
        at[i] = here;
        here += by.pixel;
        if (++x == p->width) {
            x = 0;
            row += by.row;
            if (++y == p->height) {
                y = 0;
                row += by.image - p->height * by.row;
            }
            here = row;
        }
    }
}

#define LP_FINISH_CASE(FLOATS, SECOND, CODES) \
    case FLOATS << 4 | SECOND << 2 | CODES: \
        for (int i = 0; i < n_rows; i++) \
            lp_finish_row((const uint8_t *)sums + 4 * (int64_t)i * columns, n, p->scale + first, p->shift + first, p->end, \
                          SECOND ? p->second + s->beside[row + i] + first * (SECOND == LP_SECOND_CODES ? 1 : 4) : NULL, \
                          p->out + s->to[row + i] + first * (CODES ? 1 : 4), FLOATS, SECOND, CODES); \
        break;

/* The sums of a tile, of outputs from `first` on, to where they belong. */
static void lp_finish(const lp_product *p, const lp_scratch *s, const void *sums, int64_t row, int n_rows, int64_t first)
{
    const int64_t columns = p->kernel->columns, n = lp_min(columns, p->outputs - first);
    if (p->plain) {
        for (int i = 0; i < n_rows; i++) {
            const uint8_t *const from = (const uint8_t *)sums + 4 * (int64_t)i * columns;
            uint8_t *const to = p->out + s->to[row + i] + 4 * first;
            int64_t j = 0;
            for (; j <= n - LP_BLOCK; j += LP_BLOCK)
                for (int h = 0; h < 2; h++)
                    ((lp_ints_anywhere *)(to + 4 * j))[h] = ((const lp_ints_anywhere *)(from + 4 * j))[h];
            if (j < n)
                memcpy(to + 4 * j, from + 4 * j, (size_t)(n - j) * 4);
        }
        return;
    }
    switch ((p->kernel->activation_bits == 32) << 4 | p->second_kind << 2 | p->codes) {
        LP_FINISH_CASE(0, LP_NO_SECOND, 0)
        LP_FINISH_CASE(0, LP_NO_SECOND, 1)
        LP_FINISH_CASE(0, LP_SECOND_CODES, 0)
        LP_FINISH_CASE(0, LP_SECOND_CODES, 1)
        LP_FINISH_CASE(0, LP_SECOND_FLOAT, 0)
        LP_FINISH_CASE(0, LP_SECOND_FLOAT, 1)
        LP_FINISH_CASE(1, LP_NO_SECOND, 0)
        LP_FINISH_CASE(1, LP_NO_SECOND, 1)
        LP_FINISH_CASE(1, LP_SECOND_CODES, 0)
        LP_FINISH_CASE(1, LP_SECOND_CODES, 1)
        LP_FINISH_CASE(1, LP_SECOND_FLOAT, 0)
        LP_FINISH_CASE(1, LP_SECOND_FLOAT, 1)
    }
}

/* Panels are used in pieces that fit the first-level cache: whole segments, or equal parts of one. */
typedef struct lp_pieces {
    int64_t count, segments, parts; /* parts: of each segment, if it has several; segments: of a piece, otherwise */
} lp_pieces;

LP_INLINE int64_t lp_unpacked_step(const lp_gemm_kernel *k) { return k->panel_step ? k->panel_step : k->packed_step; }

static lp_pieces lp_pieces_of(const lp_product *p)
{
    const int64_t step = lp_unpacked_step(p->kernel), segment = p->steps * step, room = LP_PANEL_BYTES - p->kernel->panel_head;
    lp_pieces pieces = {1, p->segments, 1};
    if (p->segments * segment <= room)
        return pieces;
    if (segment <= room) {
        const int64_t most = room / segment;
        pieces.segments = lp_ceil_div(p->segments, lp_ceil_div(p->segments, most));
        pieces.count = lp_ceil_div(p->segments, pieces.segments);
    } else {
        pieces.segments = 1;
        pieces.parts = lp_ceil_div(segment, room / step * step);
        pieces.count = p->segments * pieces.parts;
    }
    return pieces;
}

/* Each row of a tile starts from its own number. */
LP_INLINE void lp_start_sums(void *sums, const int32_t *from, int n_rows, int64_t columns)
{
    const lp_ints zero = {0};
    lp_ints *to = sums;
    for (int r = 0; r < n_rows; r++)
        for (int64_t j = 0; j < columns; j += 8)
            *to++ = zero + from[r];
}

/* Rows [first, last) x panels [first_panel, last_panel). */
static void lp_multiply(const lp_product *p, int64_t first, int64_t last, int64_t first_panel, int64_t last_panel, lp_scratch s)
{
    const lp_gemm_kernel *const k = p->kernel;
    const int64_t n = last - first, panel_bytes = p->segments * p->steps * k->packed_step;
    const int64_t unit = k->unit ? k->unit : k->activation_bits == 32 ? 4 : k->group;
    const lp_pieces pieces = lp_pieces_of(p);
    lp_locate(p, p->from, first, n, s.from);
    lp_locate(p, p->to, first, n, s.to);
    if (p->second_kind)
        lp_locate(p, p->beside, first, n, s.beside);
    if (k->excess)
        for (int64_t i = 0; i < n; i++)
            s.excess[i] = (int32_t)-k->excess(p->base + s.from[i], p->offsets, p->segments, p->steps);
    for (int64_t panel = first_panel; panel < last_panel; panel++) {
        const uint8_t *packed = p->packed + panel * panel_bytes;
        for (int64_t piece = 0; piece < pieces.count; piece++) {
            int64_t segment = pieces.parts > 1 ? piece / pieces.parts : piece * pieces.segments, start = 0, steps = p->steps;
            const int64_t segments = lp_min(pieces.segments, p->segments - segment);
            if (pieces.parts > 1) {
                const int64_t part = piece % pieces.parts;
                start = p->steps * part / pieces.parts;
                steps = p->steps * (part + 1) / pieces.parts - start;
            }
            const uint8_t *from = packed + (segment * p->steps + start) * k->packed_step;
            const void *weights = from;
            if (k->panel_step) {
                k->unpack(from, segments * steps, s.panel);
                weights = s.panel;
            }
            const int last_piece = piece + 1 == pieces.count;
            for (int64_t i = 0; i < n; i += k->rows) {
                const uint8_t *rows[LP_GEMM_ROWS];
                const int n_rows = (int)lp_min(k->rows, n - i);
                uint8_t *const sums = (uint8_t *)s.sums + (pieces.count > 1 ? 4 * i * k->columns : 0);
                for (int r = 0; r < n_rows; r++)
                    rows[r] = p->base + s.from[i + r] + start * unit;
                if (last_piece) /* what lp_finish writes to comes nearer meanwhile */
                    for (int r = 0; r < n_rows; r++)
                        __builtin_prefetch(p->out + s.to[i + r] + panel * k->columns * (p->codes ? 1 : 4), 1);
                if (k->excess && piece == 0)
                    lp_start_sums(sums, s.excess + i, n_rows, k->columns);
                k->tile(rows, p->offsets + segment, segments, steps, weights, sums, n_rows, piece > 0 || k->excess);
                if (last_piece)
                    lp_finish(p, &s, sums, i, n_rows, panel * k->columns);
            }
        }
    }
}

/* Rows of one block: of a product whose rows take row_bytes of the cache. */
static int64_t lp_block_rows(const lp_product *p, int64_t row_bytes, int threads)
{
    const int64_t tile = p->kernel->rows;
    int64_t most = lp_min(LP_MOST_ROWS, LP_ROWS_BYTES / (row_bytes ? row_bytes : 1));
    if (lp_pieces_of(p).count > 1)
        most = lp_min(most, LP_SUM_BYTES / 4 / p->kernel->columns);
    most = lp_min(most / tile * tile, lp_round_up(lp_ceil_div(p->rows, threads), tile));
    return most < tile ? tile : most;
}

/* How a product is shared out: blocks of rows, and if these are too few, also groups of panels. */
typedef struct lp_tasks {
    int64_t rows, blocks, panels, parts;
} lp_tasks;

static lp_tasks lp_tasks_of(const lp_product *p, int64_t row_bytes, int threads)
{
    lp_tasks t;
    t.rows = lp_block_rows(p, row_bytes, threads);
    t.blocks = lp_ceil_div(p->rows, t.rows);
    t.panels = lp_ceil_div(p->outputs, p->kernel->columns);
    t.parts = t.blocks >= threads ? 1 : lp_min(t.panels, lp_ceil_div(threads, t.blocks));
    return t;
}

/* ---- layers ------------------------------------------------------------------------------------------------ */

typedef struct lp_place { /* where a network runs */
    uint8_t *arena;
    uint8_t *const *scratch;
    int64_t images;
    int threads;
} lp_place;

LP_INLINE lp_where lp_steps_of(const lp_tensor *t, int64_t y, int64_t x)
{
    const lp_where where = {t->image, t->row * y, t->pixel * x};
    return where;
}

typedef struct lp_prepare_job { /* the rows of a tensor, borders too, for a kernel */
    const lp_gemm_kernel *kernel;
    const uint8_t *from;
    uint8_t *to;
    int64_t groups, rows, some; /* groups of a row; rows in all, and of a task */
} lp_prepare_job;

static void lp_prepare_task(const void *context, int64_t task, int thread)
{
    const lp_prepare_job *const job = context;
    const int64_t first = task * job->some, n = lp_min(job->some, job->rows - first);
    (void)thread;
    if (n > 0)
        job->kernel->prepare(job->from + first * job->groups * job->kernel->group, n * job->groups,
                             job->to + first * job->groups * job->kernel->unit);
}

typedef struct lp_multiply_job {
    lp_product product;
    lp_tasks tasks;
    const lp_place *at;
} lp_multiply_job;

static void lp_multiply_task(const void *context, int64_t task, int thread)
{
    const lp_multiply_job *const job = context;
    const lp_tasks *const t = &job->tasks;
    const int64_t block = task / t->parts, part = task % t->parts;
    lp_multiply(&job->product, block * t->rows, lp_min((block + 1) * t->rows, job->product.rows), t->panels * part / t->parts,
                t->panels * (part + 1) / t->parts, lp_scratch_of(job->at->scratch[thread]));
}

static void lp_convolve(const lp_network *net, const lp_layer *l, const lp_place *at, void *plain)
{
    const lp_tensor *const in = &net->tensors[l->in], *const out = &net->tensors[l->out];
    const lp_tensor *const second = l->second >= 0 ? &net->tensors[l->second] : NULL;
    const lp_gemm_kernel *const k = l->kernel;
    const uint8_t *base = at->arena + in->at;
    lp_where from = lp_steps_of(in, l->stride_y, l->stride_x);
    int64_t per_group = (int64_t)l->group_channels * in->size;
    if (k->unit) {
        uint8_t *const prepared = at->arena + l->prepared;
        const int64_t rows = at->images * (in->image / in->row);
        const lp_prepare_job job = {k, at->arena + in->first, prepared, in->row / k->group, rows, lp_ceil_div(rows, at->threads)};
        lp_for_tasks(lp_prepare_task, &job, at->threads, at->threads);
        base = prepared + (in->at - in->first) / k->group * k->unit;
        from.image = from.image / k->group * k->unit;
        from.row = from.row / k->group * k->unit;
        from.pixel = from.pixel / k->group * k->unit;
        per_group = per_group / k->group * k->unit;
    }
    const int64_t padded = lp_round_up(l->outputs, LP_GEMM_COLUMNS);
    const int64_t panels = lp_ceil_div(l->outputs, k->columns);
    for (int g = 0; g < l->groups; g++) {
        lp_product p = {
            .kernel = k,
            .packed = l->packed + g * panels * l->segments * l->steps * k->packed_step,
            .base = base + g * per_group,
            .rows = at->images * out->height * out->width,
            .height = out->height,
            .width = out->width,
            .from = from,
            .to = lp_steps_of(out, 1, 1),
            .offsets = l->offsets,
            .segments = l->segments,
            .steps = l->steps,
            .outputs = l->outputs,
            .out = at->arena + out->at + (int64_t)g * l->outputs * out->size,
            .scale = l->scale + g * padded,
            .shift = l->shift + g * padded,
            .end = lp_ending_of(l),
            .codes = out->size == 1,
        };
        if (second) {
            p.beside = lp_steps_of(second, 1, 1);
            p.second = at->arena + second->at + (int64_t)g * l->outputs * second->size;
            p.second_kind = second->size == 1 ? LP_SECOND_CODES : LP_SECOND_FLOAT;
        }
        if (plain) {
            const int64_t all = (int64_t)l->groups * l->outputs * 4;
            const lp_where to = {all * out->height * out->width, all * out->width, all};
            p.to = to;
            p.out = (uint8_t *)plain + (int64_t)g * l->outputs * 4;
            p.plain = 1;
            p.second_kind = LP_NO_SECOND;
        }
        const lp_multiply_job job = {p, lp_tasks_of(&p, from.pixel * l->stride_y, at->threads), at};
        lp_for_tasks(lp_multiply_task, &job, job.tasks.blocks * job.tasks.parts, at->threads);
    }
}

/* Layers other than convolutions go by rows of pixels of one image. */

/* out = the larger of both, n bytes. */
LP_INLINE void lp_larger_bytes(uint8_t *restrict out, const uint8_t *a, int64_t n)
{
    for (int64_t j = 0; j < n; j++)
        out[j] = out[j] > a[j] ? out[j] : a[j];
}

LP_INLINE void lp_larger_floats(float *restrict out, const float *a, int64_t n)
{
    for (int64_t j = 0; j < n; j++)
        out[j] = out[j] > a[j] ? out[j] : a[j];
}

typedef uint8_t lp_codes_16 __attribute__((vector_size(16)));
typedef uint8_t lp_codes_8 __attribute__((vector_size(8)));
typedef uint8_t lp_codes_4 __attribute__((vector_size(4)));

/* The largest of neighbors in `line`, for each output pixel, a vector of `type` at a time. */
#define LP_MAX_ACROSS(type) \
    static void lp_max_across_##type(const lp_tensor *in, const lp_tensor *out, const lp_layer *l, const uint8_t *line, \
                                     uint8_t *to) \
    { \
        const int64_t pixel = in->pixel; \
        for (int64_t x = 0; x < out->width; x++, to += out->pixel) { \
            const int64_t x0 = x * l->stride_x - l->pad_x; \
            const uint8_t *const left = line + (x0 < 0 ? 0 : x0) * pixel, *const right = \
                                                                              line + \
                                                                              lp_min(x0 + l->kernel_x, in->width) * pixel; \
            for (int64_t c = 0; c < pixel; c += (int64_t)sizeof(type)) { \
                type most, next; \
                memcpy(&most, left + c, sizeof most); \
                for (const uint8_t *a = left + pixel + c; a < right; a += pixel) { \
                    memcpy(&next, a, sizeof next); \
                    const type larger = (type)(most > next); \
                    most = (most & larger) | (next & ~larger); \
                } \
                memcpy(to + c, &most, sizeof most); \
            } \
        } \
    }
LP_MAX_ACROSS(lp_codes_16)
LP_MAX_ACROSS(lp_codes_8)
LP_MAX_ACROSS(lp_codes_4)

/* First the largest of the window's rows, all along the row; then of neighbors in it. */
static void lp_max_pool_row(const lp_tensor *in, const lp_tensor *out, const lp_layer *l, const uint8_t *from, int64_t y,
                            uint8_t *to, uint8_t *line)
{
    const int64_t y0 = y * l->stride_y - l->pad_y, bytes = in->width * in->pixel;
    const int64_t top = y0 < 0 ? 0 : y0, bottom = lp_min(y0 + l->kernel_y, in->height);
    memcpy(line, from + top * in->row, (size_t)bytes);
    for (int64_t v = top + 1; v < bottom; v++) {
        if (in->size == 1)
            lp_larger_bytes(line, from + v * in->row, bytes);
        else
            lp_larger_floats((float *)line, (const float *)(from + v * in->row), bytes / 4);
    }
    if (in->size == 4) {
        for (int64_t x = 0; x < out->width; x++, to += out->pixel) {
            const int64_t x0 = x * l->stride_x - l->pad_x;
            const int64_t left = x0 < 0 ? 0 : x0, right = lp_min(x0 + l->kernel_x, in->width);
            memcpy(to, line + left * in->pixel, (size_t)in->pixel);
            for (int64_t u = left + 1; u < right; u++)
                lp_larger_floats((float *)to, (const float *)(line + u * in->pixel), in->channels);
        }
    } else if (in->pixel % 16 == 0) {
        lp_max_across_lp_codes_16(in, out, l, line, to);
    } else if (in->pixel % 8 == 0) {
        lp_max_across_lp_codes_8(in, out, l, line, to);
    } else {
        lp_max_across_lp_codes_4(in, out, l, line, to);
    }
}

static void lp_sum_pool_row(const lp_tensor *in, const lp_tensor *out, const lp_layer *l, const uint8_t *from, int64_t y,
                            uint8_t *to, int32_t *sums)
{
    const int64_t y0 = y * l->stride_y - l->pad_y, n = out->channels;
    const int64_t top = y0 < 0 ? 0 : y0, bottom = lp_min(y0 + l->kernel_y, in->height);
    const lp_ending end = lp_ending_of(l);
    for (int64_t x = 0; x < out->width; x++, to += out->pixel) {
        const int64_t x0 = x * l->stride_x - l->pad_x;
        const int64_t left = x0 < 0 ? 0 : x0, right = lp_min(x0 + l->kernel_x, in->width);
        float *const totals = (float *)sums;
        memset(sums, 0, (size_t)n * 4);
        for (int64_t v = top; v < bottom; v++)
            for (int64_t u = left; u < right; u++) {
                const uint8_t *const a = from + v * in->row + u * in->pixel;
                if (in->size == 1)
                    for (int64_t c = 0; c < n; c++)
                        sums[c] += a[c];
                else
                    for (int64_t c = 0; c < n; c++)
                        totals[c] += ((const float *)a)[c];
            }
        for (int64_t c = 0; c < n; c += LP_BLOCK) {
            lp_block y;
            lp_load_sums(&y, sums + c, in->size == 4);
            for (int h = 0; h < 2; h++)
                y.half[h] *= l->scale[0];
            lp_put(&y, n - c, end, out->size == 1, to + c * out->size);
        }
    }
}

static void lp_affine_row(const lp_tensor *in, const lp_tensor *out, const lp_layer *l, const uint8_t *from, uint8_t *to)
{
    const lp_ending end = lp_ending_of(l);
    for (int64_t x = 0; x < out->width; x++, to += out->pixel, from += in->pixel)
        for (int64_t c = 0; c < out->channels; c += LP_BLOCK) {
            lp_block y, shift;
            lp_load_tensor(&y, from + c * in->size, in->size == 1);
            lp_scale_by(&y, l->scale + c);
            lp_load(&shift, l->shift + c);
            lp_shift_by(&y, &shift);
            lp_put(&y, out->channels - c, end, out->size == 1, to + c * out->size);
        }
}

static void lp_add_row(const lp_tensor *in, const lp_tensor *second, const lp_tensor *out, const lp_layer *l, const uint8_t *from,
                       const uint8_t *other, uint8_t *to)
{
    const lp_ending end = lp_ending_of(l);
    for (int64_t x = 0; x < out->width; x++, to += out->pixel, from += in->pixel, other += second->pixel)
        for (int64_t c = 0; c < out->channels; c += LP_BLOCK) {
            lp_block a, b;
            lp_load_tensor(&a, from + c * in->size, in->size == 1);
            lp_load_tensor(&b, other + c * second->size, second->size == 1);
            for (int h = 0; h < 2; h++) {
                a.half[h] *= l->scale[0];
                b.half[h] *= l->second_scale;
            }
            lp_shift_by(&a, &b);
            lp_put(&a, out->channels - c, end, out->size == 1, to + c * out->size);
        }
}

typedef struct lp_rows_job {
    const lp_network *net;
    const lp_layer *layer;
    const lp_place *at;
    int64_t height, rows, some; /* rows in all, of one image, of a task */
} lp_rows_job;

static void lp_rows_task(const void *context, int64_t task, int thread)
{
    const lp_rows_job *const job = context;
    const lp_layer *const l = job->layer;
    const lp_tensor *const in = &job->net->tensors[l->in], *const out = &job->net->tensors[l->out];
    uint8_t *const arena = job->at->arena;
    const lp_scratch s = lp_scratch_of(job->at->scratch[thread]);
    for (int64_t r = task * job->some; r < lp_min((task + 1) * job->some, job->rows); r++) {
        const int64_t image = r / job->height, y = r % job->height;
        const uint8_t *const from = arena + in->at + image * in->image;
        uint8_t *const to = arena + out->at + image * out->image + y * out->row;
        switch (l->op) {
        case LP_MAX_POOL:
            lp_max_pool_row(in, out, l, from, y, to, (uint8_t *)s.pool);
            break;
        case LP_SUM_POOL:
            lp_sum_pool_row(in, out, l, from, y, to, s.pool);
            break;
        case LP_AFFINE:
            lp_affine_row(in, out, l, from + y * in->row, to);
            break;
        case LP_ADD: {
            const lp_tensor *const second = &job->net->tensors[l->second];
            lp_add_row(in, second, out, l, from + y * in->row, arena + second->at + image * second->image + y * second->row, to);
            break;
        }
        case LP_CONCAT:
            for (int64_t x = 0; x < in->width; x++)
                memcpy(to + x * out->pixel + (int64_t)l->offset * out->size, from + y * in->row + x * in->pixel,
                       (size_t)in->channels * (size_t)in->size);
            break;
        }
    }
}

static void lp_run_layer(const lp_network *net, const lp_layer *l, const lp_place *at, void *plain)
{
    if (l->op == LP_CONV) {
        lp_convolve(net, l, at, plain);
        return;
    }
    const int64_t height = net->tensors[l->out].height, rows = at->images * height;
    const lp_rows_job job = {net, l, at, height, rows, lp_ceil_div(rows, at->threads)};
    lp_for_tasks(lp_rows_task, &job, at->threads, at->threads);
}

/* Images of float32 from NCHW to the input's tensor. */
static void lp_take_images(const lp_tensor *t, const float *x, int64_t images, uint8_t *arena)
{
    const int64_t pixels = (int64_t)t->height * t->width;
    for (int64_t i = 0; i < images; i++, x += pixels * t->channels)
        for (int64_t y = 0; y < t->height; y++) {
            float *const to = (float *)(arena + t->at + i * t->image + y * t->row);
            for (int32_t c = 0; c < t->channels; c++) {
                const float *const from = x + c * pixels + y * t->width;
                for (int64_t u = 0; u < t->width; u++)
                    to[u * t->channels + c] = from[u];
            }
        }
}

static void lp_run_images(const lp_network *net, const float *x, int64_t images, float *y, uint8_t *arena,
                          uint8_t *const *scratch, int threads)
{
    const lp_place at = {arena, scratch, images, threads};
    const lp_tensor *const out = &net->tensors[net->output];
    lp_take_images(&net->tensors[0], x, images, arena);
    for (int32_t k = 0; k < net->n_layers; k++)
        lp_run_layer(net, &net->layers[k], &at, NULL);
    for (int64_t i = 0; i < images; i++)
        memcpy(y + i * out->channels, arena + out->at + i * out->image, (size_t)out->channels * 4);
}

typedef struct lp_run_job {
    const lp_network *net;
    const float *x;
    float *y;
    int64_t n, tasks;
    uint8_t *const *arenas, *const *scratch;
} lp_run_job;

static void lp_run_task(const void *context, int64_t task, int thread)
{
    const lp_run_job *const job = context;
    const lp_tensor *const in = &job->net->tensors[0];
    const int64_t image = (int64_t)in->height * in->width * in->channels, outputs = job->net->tensors[job->net->output].channels;
    const int64_t first = job->n * task / job->tasks, last = job->n * (task + 1) / job->tasks;
    lp_run_images(job->net, job->x + first * image, last - first, job->y + first * outputs, job->arenas[thread],
                  job->scratch + thread, 1);
}

static void lp_network_run(const lp_network *net, const float *x, int64_t n, float *y, uint8_t *const *arenas,
                           uint8_t *const *scratch, int threads)
{
    if (n < threads) { /* threads share every layer */
        const lp_tensor *const in = &net->tensors[0];
        const int64_t image = (int64_t)in->height * in->width * in->channels, outputs = net->tensors[net->output].channels;
        for (int64_t first = 0; first < n; first += net->chunk)
            lp_run_images(net, x + first * image, lp_min(net->chunk, n - first), y + first * outputs, arenas[0], scratch,
                          threads);
        return;
    }
    /* Whole images for each thread, which then wait for nobody: chunks, as many for everyone as far as possible. */
    const int64_t chunks = lp_round_up(lp_ceil_div(n, net->chunk), threads);
    const lp_run_job job = {net, x, y, n, lp_min(chunks, n), arenas, scratch};
    lp_for_tasks(lp_run_task, &job, job.tasks, threads);
}

static void lp_network_layer(const lp_network *net, int which, int64_t images, uint8_t *arena, uint8_t *scratch, void *sums)
{
    uint8_t *const all[1] = {scratch};
    const lp_place at = {arena, all, images, 1};
    lp_run_layer(net, &net->layers[which], &at, sums);
}

/* ---- a product by itself -------------------------------------------------------------------------------------- */

static int lp_any_above(const uint8_t *a, int64_t n, int most)
{
    uint8_t largest = 0;
    for (int64_t j = 0; j < n; j++)
        largest = largest > a[j] ? largest : a[j];
    return largest > most;
}

/* Rows [first, first + n) as the kernel takes them, to s.rows; the numbers that are missing of the last group are zeros. */
static void lp_prepare_rows(const lp_gemm *job, int64_t first, int64_t n, int64_t row_bytes, uint8_t *to, uint8_t *codes)
{
    const lp_gemm_kernel *const k = job->kernel;
    const int64_t groups = lp_ceil_div(job->numbers, k->group), bytes = job->numbers * (k->activation_bits == 32 ? 4 : 1);
    for (int64_t i = 0; i < n; i++, to += row_bytes) {
        const uint8_t *const row = (const uint8_t *)job->a + (first + i) * job->stride;
        if (!k->unit) {
            memcpy(to, row, (size_t)bytes);
            memset(to + bytes, 0, (size_t)(row_bytes - bytes));
        } else if (job->numbers % k->group == 0) {
            k->prepare(row, groups, to);
        } else {
            memcpy(codes, row, (size_t)bytes);
            memset(codes + bytes, 0, (size_t)(groups * k->group - bytes));
            k->prepare(codes, groups, to);
        }
    }
}

typedef struct lp_gemm_tasks {
    const lp_gemm *job;
    lp_product product;
    lp_tasks tasks;
    int64_t row_bytes;
    uint8_t *const *scratch;
    int *bad; /* set where a code is too large */
} lp_gemm_tasks;

static void lp_gemm_task(const void *context, int64_t task, int thread)
{
    const lp_gemm_tasks *const all = context;
    const lp_gemm *const job = all->job;
    const lp_tasks *const t = &all->tasks;
    const int64_t block = task / t->parts, part = task % t->parts;
    const int64_t first = block * t->rows, n = lp_min(t->rows, job->rows - first);
    const lp_scratch s = lp_scratch_of(all->scratch[thread]);
    const int bits = job->kernel->activation_bits;
    /* Here, for it brings the rows into the second-level cache. */
    for (int64_t i = 0; i < n && bits < 8; i++)
        if (lp_any_above((const uint8_t *)job->a + (first + i) * job->stride, job->numbers, (1 << bits) - 1)) {
            __atomic_store_n(all->bad, 1, __ATOMIC_RELAXED);
            return;
        }
    lp_product p = all->product;
    p.rows = p.width = n;
    p.out = (uint8_t *)job->c + first * job->outputs * 4;
    p.to.pixel = job->outputs * 4;
    if (!job->kernel->unit && job->numbers % job->kernel->group == 0) {
        p.base = (const uint8_t *)job->a + first * job->stride;
        p.from.pixel = job->stride;
    } else {
        const int64_t most = LP_GEMM_ROWS * all->row_bytes;
        lp_prepare_rows(job, first, n, all->row_bytes, s.rows, s.rows + (most > LP_ROWS_BYTES ? most : LP_ROWS_BYTES));
        p.base = s.rows;
        p.from.pixel = all->row_bytes;
    }
    lp_multiply(&p, 0, n, t->panels * part / t->parts, t->panels * (part + 1) / t->parts, s);
}

static int lp_gemm_run(const lp_gemm *job, uint8_t *const *scratch, int threads)
{
    static const int64_t at_once = 0;
    const lp_gemm_kernel *const k = job->kernel;
    int bad = 0;
    lp_gemm_tasks all = {
        .job = job,
        .product =
            {
                .kernel = k,
                .packed = job->packed,
                .rows = job->rows,
                .height = 1,
                .width = job->rows,
                .offsets = &at_once,
                .segments = 1,
                .steps = lp_ceil_div(job->numbers, k->group),
                .outputs = job->outputs,
                .plain = 1,
            },
        .row_bytes = lp_gemm_row_bytes(k, job->numbers),
        .scratch = scratch,
        .bad = &bad,
    };
    all.tasks = lp_tasks_of(&all.product, all.row_bytes, threads);
    lp_for_tasks(lp_gemm_task, &all, all.tasks.blocks * all.tasks.parts, threads);
    return bad;
}

#define LP_QUOTE(x) #x
#define LP_NAME_OF(x) LP_QUOTE(x)
#define LP_JOIN(a, b) a##b
#define LP_NETWORK_TABLE(isa) LP_JOIN(lp_network_, isa)
const lp_network_isa LP_NETWORK_TABLE(LP_NETWORK_ISA) = {
    LP_NAME_OF(LP_NETWORK_ISA), LP_GEMM_KERNELS, sizeof(LP_GEMM_KERNELS) / sizeof(lp_gemm_kernel), lp_network_run,
    lp_network_layer,           lp_gemm_run};
