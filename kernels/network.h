/* Networks of integers: the C contract between _network.pyx, which plans, and network_body.h, which runs. docs/architecture.md,
 * "Networks of integers", states the arithmetic.
 *
 * A tensor is NHWC with a border of zeros, so that a convolution reads its padding like everything else. Codes have their channels
 * rounded up to a multiple of LP_CHANNELS; what is beyond the last channel is zero. */
#ifndef LP_NETWORK_H
#define LP_NETWORK_H

#include <stdint.h>

#include "gemm.h"

enum { LP_CHANNELS = 4, LP_SLACK = 64 /* bytes behind the last tensor of an arena, which may be read */ };

/* A tensor of one image; bytes. */
typedef struct lp_tensor {
    int32_t height, width, channels; /* without border; channels: as the network has them */
    int32_t size;                    /* bytes of a number: 1: codes; 4: float32 */
    int64_t pixel, row, image;       /* from one pixel, row, image to the next */
    int64_t at;           /* in the arena: pixel (0, 0), channel 0, of image 0; tensors of an arena are for `chunk` images */
    int64_t first, bytes; /* in the arena: the border's first byte; all of the tensor, images and borders */
} lp_tensor;

enum lp_layer_op { LP_CONV, LP_MAX_POOL, LP_SUM_POOL, LP_AFFINE, LP_ADD, LP_CONCAT };

/* One layer. Arrays of scale and shift are as long as the outputs, rounded up to LP_GEMM_COLUMNS in every group. */
typedef struct lp_layer {
    int32_t op;
    int32_t in, second, out; /* tensors; second: the residual of a convolution, or the other summand; -1: none */
    int32_t kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x;
    int32_t offset; /* of LP_CONCAT: the first channel of `out` */
    int32_t relu;   /* of a float32 output */
    float limit;    /* of codes as output: the largest one; 0: the output is float32 */
    const float *scale, *shift;
    float second_scale;
    /* LP_CONV */
    int32_t groups, group_channels; /* input channels of one group, in memory */
    int32_t outputs;                /* of one group */
    int64_t segments, steps;        /* of a row, see gemm.h */
    const int64_t *offsets;         /* of the segments, in bytes of the prepared tensor */
    const lp_gemm_kernel *kernel;
    const uint8_t *packed; /* [groups][panels][steps in all][packed_step] */
    int64_t prepared;      /* in the arena: where the prepared tensor goes, as `first` */
} lp_layer;

/* A network, planned for `chunk` images at a time. Tensor 0 is the input. */
typedef struct lp_network {
    const lp_tensor *tensors;
    const lp_layer *layers;
    int32_t n_layers, output; /* the last tensor, float32 of 1 x 1 pixels */
    int32_t chunk;
    int64_t arena_bytes, scratch_bytes;
} lp_network;

/* A product by itself: C (M x N) = A (M x K) W^T. */
typedef struct lp_gemm {
    const lp_gemm_kernel *kernel;
    const uint8_t *packed;
    const void *a; /* uint8 codes, or float32; rows `stride` bytes apart */
    int64_t stride, rows, numbers, outputs;
    void *c; /* int32 or float32, rows of `outputs` */
} lp_gemm;

typedef struct lp_network_isa {
    const char *name;
    const lp_gemm_kernel *kernels;
    int32_t n_kernels;
    /* x: n images of float32, NCHW; y: n rows of float32. arenas: one for each thread, zeros at first (borders are never written);
     * scratch: likewise. Threads beyond the number of images share the work of a layer. */
    void (*run)(const lp_network *net, const float *x, int64_t n, float *y, uint8_t *const *arenas, uint8_t *const *scratch,
                int threads);
    /* One layer, whose inputs lie in the arena, on up to `chunk` images. sums: if not NULL, the sums of a convolution before anything is done with
     * them (int32, or float32), [images * rows][outputs], instead of its output. */
    void (*layer)(const lp_network *net, int which, int64_t images, uint8_t *arena, uint8_t *scratch, void *sums);
    /* Returns nonzero, and leaves anything in C, if a code of A is above the largest of its bits. scratch: lp_gemm_scratch bytes for each thread. */
    int (*gemm)(const lp_gemm *job, uint8_t *const *scratch, int threads);
} lp_network_isa;

extern const lp_network_isa lp_network_base;
#ifdef LP_HAVE_AVX2
extern const lp_network_isa lp_network_avx2;
#endif

enum {
    LP_PANEL_BYTES = 20 << 10, /* of an unpacked panel, or a piece of one: it stays in a first-level cache of 32 KiB */
    LP_ROWS_BYTES = 256 << 10, /* of the rows that meet one panel after another: they stay in a second-level cache of 512 KiB */
    LP_SUM_BYTES = 64 << 10,   /* of the sums of a block of rows with a panel that is used in pieces */
    LP_MOST_ROWS = 960
};

/* Bytes of scratch of one thread: a panel, sums, offsets of rows (source, destination, residual), their excess, a row of a pool: `pool` bytes. */
static inline int64_t lp_scratch_bytes(int64_t pool)
{
    return LP_PANEL_BYTES + LP_SUM_BYTES + LP_MOST_ROWS * (3 * 8 + 4) + pool + 4 * 64;
}

/* Of a product by itself, also the prepared rows of a block. */
static inline int64_t lp_gemm_row_bytes(const lp_gemm_kernel *kernel, int64_t numbers)
{
    const int64_t unit = kernel->unit ? kernel->unit : kernel->activation_bits == 32 ? 4 : kernel->group;
    return (numbers + kernel->group - 1) / kernel->group * unit;
}

static inline int64_t lp_gemm_scratch_bytes(const lp_gemm_kernel *kernel, int64_t numbers)
{
    const int64_t most = LP_GEMM_ROWS * lp_gemm_row_bytes(kernel, numbers);
    return lp_scratch_bytes(0) + (most > LP_ROWS_BYTES ? most : LP_ROWS_BYTES) + numbers + 3 * 64;
}

#endif
