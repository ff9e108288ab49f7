# One to one with lowprec.h and codec.h (and the few primitives of scalar.h that Python sees).
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "codec.h" nogil:
    enum: LP_CODE_BLOCK
    enum: LP_N_CODECS

    ctypedef int (*lp_encode_fn)(const float *v, int64_t n, uint8_t *payload, uint8_t *levels, uint64_t *lane) noexcept nogil
    ctypedef int (*lp_encode_feedback_fn)(float *v, int64_t n, uint8_t *payload, uint8_t *levels,
                                          uint64_t *lane) noexcept nogil
    ctypedef void (*lp_decode_fn)(const uint8_t *payload, const uint8_t *levels, int64_t n, float *out) noexcept nogil

    ctypedef struct lp_codec:
        const char *name
        int32_t bits
        int32_t levels
        int32_t exact
        lp_encode_fn encode[2]
        lp_encode_feedback_fn encode_feedback[2]
        lp_decode_fn decode
        lp_decode_fn decode_add

    int64_t lp_payload_bytes(const lp_codec *codec, int64_t n)
    int64_t lp_coded_bytes(const lp_codec *codec, int64_t n)

cdef extern from "lowprec.h" nogil:
    enum: LP_DOT, LP_AXPY, LP_AXPY_DOT, LP_SGD, LP_BATCH, LP_SDOT, LP_SAXPY
    enum: LP_BLOCK
    enum: LP_COLUMNS
    enum: LP_NEAREST, LP_SR, LP_SRX, LP_SRB
    enum: LP_LOGISTIC, LP_MARGIN, LP_RESIDUAL

    ctypedef struct lp_loss:
        int32_t kind
        double above
        double high
        double below
        double low
        double slope
    enum: LP_DISTANCE

    ctypedef struct lp_step:
        double magic
        int32_t mu
        int32_t e
        float m

    ctypedef struct lp_sum:
        int64_t i
        double f

    ctypedef struct lp_rng:
        uint64_t lane[8]
        uint64_t scalar

    ctypedef struct lp_mt19937:
        uint32_t state[624]
        int index

    ctypedef struct lp_batch
    ctypedef struct lp_sparse

    ctypedef struct lp_sgd:
        const uint8_t *x
        int64_t row_stride
        int64_t ahead
        int64_t n
        const int64_t *order
        const float *y
        const float *weight
        void *w
        double *intercept
        double intercept_step
        double dot_scale
        double step_scale
        lp_loss loss
        const double *anchor
        int32_t stochastic
        int64_t refresh
        int64_t refresh_left
        uint64_t block[8]
        lp_rng rng
        lp_mt19937 *mt
        void *words
        int32_t pending
        lp_step step
        const uint8_t *pending_x
        int64_t bad_row
        lp_batch *batch
        lp_sparse *sparse

    ctypedef struct lp_update:
        const uint8_t **x
        float *m
        int32_t *mu
        int32_t *e
        int32_t *pairs
        int64_t count
        int64_t reach
        int32_t regular

    ctypedef struct lp_products:
        const uint8_t **x
        const uint8_t **ahead
        int64_t count
        const void *w
        int64_t j
        int64_t n
        void *sums

    ctypedef lp_sum (*lp_dot_fn)(const void *x, const void *w, int64_t n) noexcept nogil
    ctypedef void (*lp_axpy_fn)(const lp_step *step, const void *x, void *w, int64_t n, void *random) noexcept nogil
    ctypedef lp_sum (*lp_axpy_dot_fn)(const lp_step *step, const void *x, void *w, const void *x_next, int64_t n,
                                      void *random) noexcept nogil
    ctypedef void (*lp_sgd_fn)(lp_sgd *job, int64_t first, int64_t last) noexcept nogil
    ctypedef void (*lp_batch_fn)(const lp_update *u, const lp_products *p, void *w, int64_t j, int64_t n,
                                 void *random) noexcept nogil

    ctypedef struct lp_integer:
        const int32_t *label
        const int32_t *sigmoid
        int32_t label_shift
        int32_t multiplier
        int32_t shift
        int32_t exponent
        int32_t sigmoid_shift
        int32_t delay

    ctypedef struct lp_batch:
        int64_t size
        int32_t D
        int32_t M
        int32_t rounding
        int32_t G
        int32_t rounding_v
        lp_batch_fn step
        lp_update update
        lp_products next
        double *slope
        uint64_t *draws
        const lp_integer *integer
        lp_batch_fn step_v
        lp_axpy_fn axpy
        void *v
        int64_t refresh_left
        uint64_t block[8]
        double to_codes
        double to_model
        lp_rng rng
        lp_mt19937 *mt
        void *words

    ctypedef lp_sum (*lp_sdot_fn)(const void *x, const void *index, int differences, int64_t k, const void *w,
                                  void *scratch) noexcept nogil
    ctypedef void (*lp_saxpy_fn)(const lp_step *step, const void *x, const void *index, int differences, int64_t k, void *w,
                                 void *scratch, void *random) noexcept nogil
    ctypedef void (*lp_gather_fn)(const void *index, int differences, int64_t k, const void *w, void *scratch) noexcept nogil
    ctypedef void (*lp_scatter_fn)(const void *index, int differences, int64_t k, const void *scratch, void *w) noexcept nogil
    ctypedef void (*lp_exchange_fn)(const void *index, int differences, int64_t k, const void *scratch, void *w,
                                    const void *index_next, int64_t k_next, void *scratch_next) noexcept nogil

    enum: LP_SPARSE_GROUP, LP_SPARSE_ROOM

    ctypedef struct lp_sparse:
        const int64_t *indptr
        const uint8_t *index
        int32_t index_bits
        int32_t differences
        int32_t D
        int32_t M
        int32_t rounding
        int32_t next_row
        const uint8_t *x_end
        void *scratch
        void *other
        lp_gather_fn gather
        lp_scatter_fn scatter
        lp_exchange_fn exchange
        lp_dot_fn dot
        lp_axpy_fn axpy

    ctypedef struct lp_kernel:
        const char *name
        uint8_t op
        uint8_t D
        uint8_t M
        uint8_t rounding
        uint8_t index
        void (*fn)() noexcept nogil

    ctypedef struct lp_isa:
        const char *name
        const lp_kernel *kernels
        int count
        int (*runnable)() noexcept nogil
        lp_sgd_fn batch_sgd
        const lp_codec *codecs

    ctypedef struct lp_capi:
        const lp_isa *(*isa_find)(const char *name) noexcept nogil
        const lp_kernel *(*find)(const lp_isa *isa, int op, int D, int M, int rounding) noexcept nogil
        void (*mt_seed)(lp_mt19937 *mt, uint64_t seed, uint64_t stream) noexcept nogil
        int64_t (*at_limit)(const void *w, int64_t n, int M) noexcept nogil
        void (*widen)(void *w, int64_t n, int M) noexcept nogil
        int (*narrow)(void *w, int64_t n, int M, int limit) noexcept nogil
        void (*shrink)(void *w, int64_t n, int M, double theta, uint64_t draw, const uint64_t *block) noexcept nogil
        void (*decay)(float *w, int64_t n, double factor) noexcept nogil
        void (*accumulate)(const void *w, int64_t n, int M, double scale, double *sum) noexcept nogil
        void (*sparse_sgd)(lp_sgd *job, int64_t first, int64_t last) noexcept nogil
        lp_gather_fn (*find_gather)(int index_bits, int M) noexcept nogil
        lp_scatter_fn (*find_scatter)(int index_bits, int M) noexcept nogil
        lp_exchange_fn (*find_exchange)(int index_bits, int M) noexcept nogil
        const lp_codec *(*find_codec)(const lp_isa *isa, const char *name) noexcept nogil

    const lp_isa *lp_isas[]
    const lp_isa *lp_isa_find(const char *name)
    const lp_isa *lp_isa_best()
    const lp_kernel *lp_find(const lp_isa *isa, int op, int D, int M, int rounding)
    const lp_codec *lp_find_codec(const lp_isa *isa, const char *name)

    void lp_mt19937_seed(lp_mt19937 *mt, uint64_t seed, uint64_t stream)
    void lp_mt19937_fill(lp_mt19937 *mt, void *words, int64_t n, int D)
    void lp_tables_init()
    int64_t lp_at_limit(const void *w, int64_t n, int M)
    void lp_widen(void *w, int64_t n, int M)
    int lp_narrow(void *w, int64_t n, int M, int limit)
    void lp_shrink(void *w, int64_t n, int M, double theta, uint64_t draw, const uint64_t *block)
    void lp_decay(float *w, int64_t n, double factor)
    void lp_accumulate(const void *w, int64_t n, int M, double scale, double *sum)
    lp_gather_fn lp_find_gather(int index_bits, int M)
    lp_scatter_fn lp_find_scatter(int index_bits, int M)
    lp_exchange_fn lp_find_exchange(int index_bits, int M)
    int64_t lp_sparse_end(const void *index, int index_bits, int differences, int64_t k)
    int64_t lp_sparse_fault(const int64_t *indptr, int64_t rows, int64_t entries, const void *index, int index_bits,
                            int differences, int64_t n, int64_t *longest)
    void lp_sparse_sgd(lp_sgd *g, int64_t first, int64_t last)

cdef extern from "scalar.h" nogil:
    void lp_rng_seed(lp_rng *rng, uint64_t seed, uint64_t stream)
    void lp_rng_draw(uint64_t *lane)
    uint64_t lp_xorshift64(uint64_t x)
    double lp_tree(double *sums)
    void lp_update_set(lp_update *u, int64_t b, const lp_step *step)
    void lp_update_close(lp_update *u)
    void lp_make_step(lp_step *s, double m, int D, int M, int stochastic, uint64_t draw)
    double lp_loss_step(int kind, const lp_loss *loss, double sum, double scale, double b, double y, double k, int *finite)
    int lp_max_code(int bits)
