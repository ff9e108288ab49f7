"""The compiled side of networks of integers, and of gemm: planning, and calling what network_body.h runs. docs/architecture.md
states the arithmetic. Arguments are validated by lowprec.wrpn.layers and lowprec.gemm; here only what would make C run astray."""

# cython: boundscheck=False, wraparound=False, freethreading_compatible=True

cimport numpy as cnp
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, free

import numpy as np

from lowprec import kernels as _kernels

cnp.import_array()


cdef extern from "network.h" nogil:
    int LP_GEMM_COLUMNS, LP_CHANNELS, LP_SLACK, LP_GEMM_ROWS
    int LP_CONV, LP_MAX_POOL, LP_SUM_POOL, LP_AFFINE, LP_ADD, LP_CONCAT

    ctypedef struct lp_gemm_kernel:
        int32_t activation_bits, weight_bits, rows, columns, group, least_outputs, least_numbers, unit, packed_step, panel_step
        void (*pack)(const void *w, int64_t stride, int64_t n, int64_t numbers, void *out) noexcept nogil

    ctypedef struct lp_tensor:
        int32_t height, width, channels, size
        int64_t pixel, row, image, at, first, bytes

    ctypedef struct lp_layer:
        int32_t op, second, out, kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x, offset, relu
        int32_t source "in"
        float limit, second_scale
        const float *scale
        const float *shift
        int32_t groups, group_channels, outputs
        int64_t segments, steps, prepared
        const int64_t *offsets
        const lp_gemm_kernel *kernel
        const uint8_t *packed

    ctypedef struct lp_network:
        const lp_tensor *tensors
        const lp_layer *layers
        int32_t n_layers, output, chunk

    ctypedef struct lp_gemm:
        const lp_gemm_kernel *kernel
        const uint8_t *packed
        const void *a
        int64_t stride, rows, numbers, outputs
        void *c

    ctypedef struct lp_network_isa:
        const char *name
        const lp_gemm_kernel *kernels
        int32_t n_kernels
        void (*run)(const lp_network *, const float *, int64_t, float *, uint8_t *const *, uint8_t *const *, int) noexcept nogil
        void (*layer)(const lp_network *, int, int64_t, uint8_t *, uint8_t *, void *) noexcept nogil
        int (*gemm)(const lp_gemm *, uint8_t *const *, int) noexcept nogil

    int64_t lp_scratch_bytes(int64_t)
    int64_t lp_gemm_row_bytes(const lp_gemm_kernel *, int64_t)
    int64_t lp_gemm_scratch_bytes(const lp_gemm_kernel *, int64_t)
    const lp_network_isa lp_network_base

cdef extern from *:
    """
    #include "network.h"
    #ifdef LP_HAVE_AVX2
    #define LP_NETWORK_AVX2 &lp_network_avx2
    #else
    #define LP_NETWORK_AVX2 NULL
    #endif
    """
    const lp_network_isa *LP_NETWORK_AVX2


cdef const lp_network_isa *_isa(name) except NULL:
    """The table of an ISA: of the one in use if name is None."""
    cdef const lp_network_isa *table = NULL
    wanted = _kernels._active_isa() if name is None else name
    if wanted == "base":
        table = &lp_network_base
    elif wanted == "avx2":
        table = LP_NETWORK_AVX2
    if table == NULL:
        raise ValueError(f"isa: {wanted!r} is not built in")
    if not dict(_kernels._isas()).get(wanted, False):
        raise RuntimeError(f"isa: this CPU does not run {wanted}")
    return table


cdef const lp_gemm_kernel *_find(const lp_network_isa *isa, int activation_bits, int weight_bits, int64_t outputs,
                                 int64_t numbers, int64_t segment) except NULL:
    """The kernel for so many bits, or the next larger one; for so many outputs and numbers of a row, in segments
    of so many (0: they are filled up to whole groups)."""
    cdef int a = _width(activation_bits), w = _width(weight_bits), k
    for k in range(isa.n_kernels):
        if (isa.kernels[k].activation_bits == a and isa.kernels[k].weight_bits == w and outputs >= isa.kernels[k].least_outputs
                and numbers >= isa.kernels[k].least_numbers and segment % isa.kernels[k].group == 0):
            return &isa.kernels[k]
    raise ValueError(f"no kernel for {activation_bits} x {weight_bits} bits")


cdef int _width(int bits):
    cdef int width
    for width in (1, 2, 4, 8):
        if bits <= width:
            return width
    return 32


cdef cnp.ndarray _aligned(int64_t n):
    """n bytes of zeros, aligned to a cache line."""
    cdef cnp.ndarray memory = np.zeros(n + 64, np.uint8)
    cdef int64_t start = -<int64_t>cnp.PyArray_DATA(memory) % 64
    return memory[(start + 64) % 64:][:n]


cdef cnp.ndarray _pack(const lp_gemm_kernel *kernel, cnp.ndarray weights):
    """Panels of a (N, numbers) matrix of weights: int8, or float32. numbers is a multiple of the kernel's group."""
    cdef int64_t n = weights.shape[0], numbers = weights.shape[1], j
    cdef int64_t panel = numbers // kernel.group * kernel.packed_step, panels = (n + kernel.columns - 1) // kernel.columns
    cdef int64_t row = numbers * weights.itemsize
    cdef cnp.ndarray packed = _aligned(panels * panel + LP_SLACK)
    cdef const char *w = <const char *>cnp.PyArray_DATA(weights)
    cdef uint8_t *out = <uint8_t *>cnp.PyArray_DATA(packed)
    for j in range(panels):
        kernel.pack(w + j * kernel.columns * row, numbers, min(kernel.columns, n - j * kernel.columns),
                    numbers, out + j * panel)
    return packed


def kernels(isa=None):
    """(activation bits, weight bits, rows and columns of a tile) of every kernel of an ISA; 32 bits are float32."""
    cdef const lp_network_isa *table = _isa(isa)
    return [(table.kernels[k].activation_bits, table.kernels[k].weight_bits, table.kernels[k].rows, table.kernels[k].columns)
            for k in range(table.n_kernels)]


# ---- a product by itself -----------------------------------------------------------------------------------------------

cdef class Packed:
    """Weights, (N, K), packed for the kernel of these bits.

    Parameters
    ----------
    weights : ndarray of int8 or float32, shape (N, K), contiguous
        Codes of weight_bits; float32 with 32 bits.
    activation_bits, weight_bits : int
    isa : str, optional
    kernel : int, optional
        Which of `kernels` is to be used; by default the one for such a matrix.
    """
    cdef const lp_network_isa *isa
    cdef const lp_gemm_kernel *kernel
    cdef cnp.ndarray packed
    cdef readonly int64_t outputs, numbers

    def __cinit__(self, cnp.ndarray weights, int activation_bits, int weight_bits, isa=None, kernel=None):
        cdef int64_t more
        cdef int typenum = cnp.NPY_FLOAT32 if weight_bits == 32 else cnp.NPY_INT8
        self.isa = _isa(isa)
        if (weights.ndim != 2 or not cnp.PyArray_IS_C_CONTIGUOUS(weights)
                or cnp.PyArray_TYPE(weights) != typenum):
            raise TypeError("weights: expected a contiguous matrix of int8, or float32 with 32 bits")
        self.outputs, self.numbers = weights.shape[0], weights.shape[1]
        if kernel is None:
            self.kernel = _find(self.isa, activation_bits, weight_bits, self.outputs, self.numbers, 0)
        else:
            if kernels(isa)[kernel][:2] != (_width(activation_bits), _width(weight_bits)):
                raise ValueError(f"kernel: {kernel} is not for {activation_bits} x {weight_bits} bits")
            self.kernel = &self.isa.kernels[<int>kernel]
        more = -self.numbers % self.kernel.group
        if more:
            weights = np.pad(weights, ((0, 0), (0, more)))
        self.packed = _pack(self.kernel, weights)

    @property
    def nbytes(self):
        """Bytes of the packed weights."""
        return self.packed.nbytes - LP_SLACK

    def multiply(self, cnp.ndarray a, int n_threads=1):
        """a times the weights' transpose: int32, or float32. None if a code is too large for its bits."""
        cdef lp_gemm job
        cdef cnp.ndarray c, memory
        cdef uint8_t **scratch
        cdef int64_t each
        cdef int bad, k
        cdef bint floats = self.kernel.activation_bits == 32
        cdef int typenum = cnp.NPY_FLOAT32 if floats else cnp.NPY_UINT8
        if (a.ndim != 2 or a.shape[1] != self.numbers or not cnp.PyArray_ISALIGNED(a)
                or cnp.PyArray_TYPE(a) != typenum
                or (a.shape[0] > 0 and a.shape[1] > 1 and a.strides[1] != a.itemsize)):
            raise TypeError(f"a: expected (M, {self.numbers}) of uint8, or float32 with 32 bits, rows without gaps")
        c = np.empty((a.shape[0], self.outputs), np.float32 if floats else np.int32)
        job.kernel = self.kernel
        job.packed = <const uint8_t *>cnp.PyArray_DATA(self.packed)
        job.a = cnp.PyArray_DATA(a)
        job.stride = a.strides[0]
        job.rows, job.numbers, job.outputs = a.shape[0], self.numbers, self.outputs
        job.c = cnp.PyArray_DATA(c)
        if c.size == 0:
            return c
        if self.numbers == 0:
            c[:] = 0
            return c
        n_threads = max(1, n_threads)
        each = (lp_gemm_scratch_bytes(self.kernel, self.numbers) + 63) // 64 * 64
        memory = np.empty(each * n_threads + 64, np.uint8)
        scratch = <uint8_t **>calloc(n_threads, sizeof(uint8_t *))
        if scratch == NULL:
            raise MemoryError()
        for k in range(n_threads):
            scratch[k] = <uint8_t *>cnp.PyArray_DATA(memory) + k * each
        with nogil:
            bad = self.isa.gemm(&job, scratch, n_threads)
        free(scratch)
        return None if bad else c


# ---- networks ------------------------------------------------------------------------------------------------------------

# Images that are computed together, layer by layer: as many as fit a second-level cache, with all their tensors, but few.
ARENA_BYTES = 512 << 10
MOST_IMAGES = 16

_OPS = {"conv": LP_CONV, "max_pool": LP_MAX_POOL, "average_pool": LP_SUM_POOL, "affine": LP_AFFINE, "add": LP_ADD,
        "concat": LP_CONCAT}


cdef class Program:
    """A network, planned and packed.

    Parameters
    ----------
    layers : sequence of Layer
        As `lowprec.wrpn.layers` checks them.
    shapes : dict
        Of ``"input"`` and every layer by name: height, width, channels, bits of its codes or None (float32).
    isa : str, optional
        By default the one in use.
    """
    cdef const lp_network_isa *isa
    cdef lp_network net
    cdef lp_tensor *tensors
    cdef lp_layer *layers
    cdef list names, kept, places
    cdef dict numbers, code_bits
    cdef int64_t arena_bytes, scratch_bytes

    def __cinit__(self, layers, shapes, isa=None):
        self.isa = _isa(isa)
        self.kept = []
        self.places = []
        layers = list(layers)
        self.names = ["input"]
        self.numbers = {"input": 0}
        self.code_bits = {name: shape[3] for name, shape in shapes.items()}
        # A concat of several inputs is as many layers that write into one tensor.
        steps = []
        for layer in layers:
            self.numbers[layer.name] = len(self.names)
            self.names.append(layer.name)
            if layer.op == "concat":
                offset = 0
                for name in layer.inputs:
                    steps.append((layer, (name,), offset))
                    offset += shapes[name][2]
            else:
                steps.append((layer, layer.inputs, 0))
        self.tensors = <lp_tensor *>calloc(len(self.names), sizeof(lp_tensor))
        self.layers = <lp_layer *>calloc(len(steps), sizeof(lp_layer))
        if self.tensors == NULL or self.layers == NULL:
            raise MemoryError()
        borders = {name: (0, 0) for name in self.names}
        for layer in layers:
            if layer.op == "conv":
                y, x = borders[layer.inputs[0]]
                borders[layer.inputs[0]] = max(y, layer.padding[0]), max(x, layer.padding[1])
        for name in self.names:
            self._make_tensor(&self.tensors[self.numbers[name]], shapes[name], borders[name])
        for k, (layer, inputs, offset) in enumerate(steps):
            self._make_layer(&self.layers[k], layer, inputs, offset)
        self._lay_out(len(steps), borders)

    def __dealloc__(self):
        free(self.tensors)
        free(self.layers)

    cdef void _make_tensor(self, lp_tensor *t, shape, border):
        height, width, channels, bits = shape
        t.height, t.width, t.channels = height, width, channels
        t.size = 4 if bits is None else 1
        t.pixel = 4 * channels if bits is None else -(-channels // LP_CHANNELS) * LP_CHANNELS
        t.row = t.pixel * (width + 2 * border[1])
        t.image = t.row * (height + 2 * border[0])

    cdef int _make_layer(self, lp_layer *step, layer, inputs, int offset) except -1:
        cdef lp_tensor *out
        step.op = _OPS[layer.op]
        step.source = self.numbers[inputs[0]]
        step.second = self.numbers[inputs[1]] if len(inputs) > 1 else -1
        step.out = self.numbers[layer.name]
        out = &self.tensors[step.out]
        step.kernel_y, step.kernel_x = layer.window
        step.stride_y, step.stride_x = layer.stride
        step.pad_y, step.pad_x = layer.padding
        step.offset = offset
        step.relu = layer.relu
        step.limit = 0 if layer.bits is None else 2**layer.bits - 1
        step.groups = 1
        if layer.op == "conv":
            self._make_conv(step, layer)
            step.second_scale = layer.residual_scale or 0
        elif layer.op == "add":
            step.scale = self._floats(layer.scale[:1], 1, out.channels)
            step.second_scale = layer.scale[1]
        elif layer.scale is not None:
            step.scale = self._floats(layer.scale, 1, out.channels)
            if layer.shift is not None:
                step.shift = self._floats(layer.shift, 1, out.channels)
        return 0

    cdef const float *_floats(self, values, int groups, int64_t least) except NULL:
        """Kept, each group rounded up to whole panels with zeros; and more behind: blocks may begin in the last."""
        each = len(values) // groups
        room = -(-max(each, least // groups) // LP_GEMM_COLUMNS) * LP_GEMM_COLUMNS
        kept = np.zeros(groups * room + LP_GEMM_COLUMNS, np.float32)
        kept[:groups * room].reshape(groups, room)[:, :each] = np.reshape(values, (groups, each))
        self.kept.append(kept)
        return <const float *>cnp.PyArray_DATA(kept)

    cdef int _make_conv(self, lp_layer *step, layer) except -1:
        cdef lp_tensor *source = &self.tensors[step.source]
        cdef cnp.ndarray packed
        weights, groups, bits = layer.weights, layer.groups, layer.weight_bits
        codes = bits is not None
        if groups > 1 and codes and weights.shape[3] % LP_CHANNELS:
            # Groups that begin in the middle of a word: as one, with weights of zero, which one bit does not have.
            weights, groups, bits = _without_groups(weights, groups), 1, max(bits, 2)
        outputs, height, width, channels = weights.shape
        room = -(-channels // LP_CHANNELS) * LP_CHANNELS if codes else channels
        step.kernel = _find(self.isa, self.code_bits[layer.inputs[0]] if codes else 32, bits if codes else 32, outputs // groups,
                            height * width * room, width * room if groups == 1 else room)
        if room != channels:
            # What they meet is zero; 1 is a weight of every width.
            weights = np.pad(weights, ((0, 0), (0, 0), (0, 0), (0, room - channels)), constant_values=1)
        # A row of the kernel is one run of numbers, unless other groups are in between.
        step.segments = height if groups == 1 else height * width
        step.steps = (width * room if groups == 1 else room) // step.kernel.group
        step.groups, step.group_channels, step.outputs = groups, channels if groups > 1 else source.channels, outputs // groups
        weights = np.ascontiguousarray(weights).reshape(groups, outputs // groups, -1)
        all_packed = [_pack(step.kernel, w) for w in weights]
        packed = all_packed[0] if groups == 1 else _aligned(sum(p.nbytes - LP_SLACK for p in all_packed) + LP_SLACK)
        if groups > 1:
            packed[:packed.nbytes - LP_SLACK] = np.concatenate([p[:p.nbytes - LP_SLACK] for p in all_packed])
        self.kept.append(packed)
        step.packed = <const uint8_t *>cnp.PyArray_DATA(packed)
        step.scale = self._floats(layer.scale, groups, 0)
        step.shift = self._floats(layer.shift, groups, 0)
        # Where segments begin, in bytes of the prepared tensor.
        prepared = <int>(step.kernel.unit or 1), <int>(step.kernel.group if step.kernel.unit else 1)
        starts = [(y - step.pad_y) * source.row + (x - step.pad_x) * source.pixel
                  for y in range(height) for x in range(1 if groups == 1 else width)]
        offsets = np.array([start * prepared[0] // prepared[1] for start in starts], np.int64)
        self.kept.append(offsets)
        step.offsets = <const int64_t *>cnp.PyArray_DATA(offsets)
        return 0

    cdef int _lay_out(self, int steps, borders) except -1:
        """Places of all tensors, and how many images at a time."""
        cdef int64_t image = 0, most = 0, at
        cdef lp_tensor *t
        cdef lp_layer *step
        cdef int k
        for k in range(len(self.names)):
            t = &self.tensors[k]
            image += t.image
            most = max(most, t.row, 4 * t.channels)
        for k in range(steps):
            step = &self.layers[k]
            if step.op == LP_CONV and step.kernel.unit:
                image += self.tensors[step.source].image // step.kernel.group * step.kernel.unit
        self.net.chunk = max(1, min(MOST_IMAGES, ARENA_BYTES // image))
        at = 0
        for k in range(len(self.names)):
            t = &self.tensors[k]
            t.first = at
            t.at = at + borders[self.names[k]][0] * t.row + borders[self.names[k]][1] * t.pixel
            t.bytes = t.image * self.net.chunk
            at += (t.bytes + LP_SLACK + 63) // 64 * 64
        for k in range(steps):
            step = &self.layers[k]
            if step.op == LP_CONV and step.kernel.unit:
                step.prepared = at
                at += (self.tensors[step.source].bytes // step.kernel.group * step.kernel.unit + LP_SLACK + 63) // 64 * 64
        self.arena_bytes = at + LP_SLACK
        self.scratch_bytes = (lp_scratch_bytes(most) + 63) // 64 * 64
        self.net.tensors, self.net.layers, self.net.n_layers = self.tensors, self.layers, steps
        self.net.output = len(self.names) - 1
        return 0

    # ---- running -----------------------------------------------------------------------------------------------------

    @property
    def chunk(self):
        """Images that are computed together."""
        return self.net.chunk

    @property
    def arena_nbytes(self):
        """Bytes of the tensors of a chunk."""
        return self.arena_bytes

    def _take_place(self, int n_threads):
        """Arenas and scratch memory for so many threads, which nobody else uses."""
        try:
            place = self.places.pop()  # this, and append, are whole: no lock, which a fork could leave locked
        except IndexError:
            place = [], []
        while len(place[0]) < n_threads:
            place[0].append(_aligned(self.arena_bytes))
            place[1].append(_aligned(self.scratch_bytes))
        return place

    def run(self, cnp.ndarray x, int n_threads=1):
        """The network's output, (N, channels) of float32, for x: (N, C, H, W) of float32."""
        cdef lp_tensor *source = &self.tensors[0]
        cdef cnp.ndarray y, memory
        cdef uint8_t **arenas
        cdef uint8_t **scratch
        cdef int64_t n
        cdef int k
        if (x.ndim != 4 or cnp.PyArray_TYPE(x) != cnp.NPY_FLOAT32 or not cnp.PyArray_IS_C_CONTIGUOUS(x)
                or not cnp.PyArray_ISALIGNED(x) or x.shape[1] != source.channels or x.shape[2] != source.height
                or x.shape[3] != source.width):
            raise TypeError(f"x: expected contiguous float32 of shape (N, {source.channels}, {source.height}, {source.width})")
        n = x.shape[0]
        y = np.empty((n, self.tensors[self.net.output].channels), np.float32)
        if n == 0:
            return y
        n_threads = max(1, n_threads)
        place = self._take_place(n_threads)
        arenas = <uint8_t **>calloc(2 * n_threads, sizeof(uint8_t *))
        if arenas == NULL:
            raise MemoryError()
        scratch = arenas + n_threads
        for k in range(n_threads):
            memory = place[0][k]
            arenas[k] = <uint8_t *>cnp.PyArray_DATA(memory)
            memory = place[1][k]
            scratch[k] = <uint8_t *>cnp.PyArray_DATA(memory)
        with nogil:
            self.isa.run(&self.net, <const float *>cnp.PyArray_DATA(x), n, <float *>cnp.PyArray_DATA(y), arenas, scratch,
                         n_threads)
        free(arenas)
        self.places.append(place)
        return y

    def _view(self, place, name):
        """A tensor of the first arena, (chunk, height, width, channels), without its border."""
        cdef lp_tensor *t = &self.tensors[self.numbers[name]]
        return np.ndarray((self.net.chunk, t.height, t.width, t.channels), np.float32 if t.size == 4 else np.uint8,
                          place[0][0], t.at, (t.image, t.row, t.pixel, t.size))

    def run_all(self, x):
        """What every layer gives, by name, (N, height, width, channels), for x: (N, C, H, W) of float32."""
        cdef cnp.ndarray arena, scratch
        cdef int k
        place = self._take_place(1)
        arena, scratch = place[0][0], place[1][0]
        found = {name: [] for name in self.names[1:]}
        for first in range(0, len(x), self.net.chunk):
            part = x[first:first + self.net.chunk]
            self._view(place, "input")[:len(part)] = part.transpose(0, 2, 3, 1)
            for k in range(self.net.n_layers):
                self.isa.layer(&self.net, k, len(part), <uint8_t *>cnp.PyArray_DATA(arena),
                               <uint8_t *>cnp.PyArray_DATA(scratch), NULL)
            for name, arrays in found.items():
                arrays.append(self._view(place, name)[:len(part)].copy())
        self.places.append(place)
        return {name: np.concatenate(arrays) for name, arrays in found.items()}

    def run_layer(self, name, inputs):
        """One layer on given inputs, each (N, height, width, channels) of uint8 or float32.

        Returns the sums of a convolution (int32 or float32; of other layers None), and what the layer gives.
        """
        cdef int which, k
        cdef lp_layer *step
        cdef cnp.ndarray sums = None, arena, scratch
        cdef lp_tensor *t
        steps = [k for k in range(self.net.n_layers) if self.layers[k].out == self.numbers[name]]
        t = &self.tensors[self.numbers[name]]
        place = self._take_place(1)
        arena, scratch = place[0][0], place[1][0]
        n = len(inputs[0])
        outputs, all_sums = [], []
        names = [self.names[self.layers[k].source] for k in steps]
        if len(steps) == 1 and self.layers[steps[0]].second >= 0:
            names.append(self.names[self.layers[steps[0]].second])
        for first in range(0, n, self.net.chunk):
            count = min(self.net.chunk, n - first)
            for k in range(len(names)):
                self._view(place, names[k])[:count] = inputs[k][first:first + count]
            for which in steps:
                step = &self.layers[which]
                if step.op == LP_CONV:
                    dtype = np.float32 if self.tensors[step.source].size == 4 else np.int32
                    sums = np.empty((count, t.height, t.width, t.channels), dtype)
                    self.isa.layer(&self.net, which, count, <uint8_t *>cnp.PyArray_DATA(arena),
                                   <uint8_t *>cnp.PyArray_DATA(scratch), cnp.PyArray_DATA(sums))
                    all_sums.append(sums)
                self.isa.layer(&self.net, which, count, <uint8_t *>cnp.PyArray_DATA(arena),
                               <uint8_t *>cnp.PyArray_DATA(scratch), NULL)
            outputs.append(self._view(place, name)[:count].copy())
        self.places.append(place)
        return np.concatenate(all_sums) if all_sums else None, np.concatenate(outputs)


def _without_groups(weights, groups):
    """Weights of one group that do the same: zeros between the groups."""
    outputs, height, width, channels = weights.shape
    each = outputs // groups
    whole = np.zeros((outputs, height, width, channels * groups), weights.dtype)
    for g in range(groups):
        whole[g * each:(g + 1) * each, :, :, g * channels:(g + 1) * channels] = weights[g * each:(g + 1) * each]
    return whole
