"""Products of few bits, and whole integer networks on them."""

import numpy as np

from . import common


def _weights(shape, bits, rng):
    most = max(1, 2 ** (bits - 1) - 1)
    codes = rng.integers(-most, most + 1, shape).astype(np.int8)
    return np.where(codes == 0, 1, codes).astype(np.int8) if bits == 1 else codes


class Gemm:
    """`lowprec.gemm` of square matrices, one thread, activation bits x weight bits."""

    param_names = ["bits", "size"]
    params = [["1 x 1", "2 x 1", "2 x 2", "4 x 2", "4 x 4", "8 x 4", "4 x 8", "8 x 8"], [256, 1024]]
    version = "1"

    def setup(self, bits, size):
        with common.what_there_is():
            from lowprec import gemm, pack_weights
        a_bits, w_bits = (int(b) for b in bits.split(" x "))
        rng = np.random.default_rng(1)
        a = rng.integers(0, 2**a_bits, (size, size)).astype(np.uint8)
        packed = pack_weights(_weights((size, size), w_bits, rng), bits=w_bits)
        self.run = lambda: gemm(a, packed, bits=a_bits)
        self.run()  # packs

    def time_gemm(self, bits, size):
        self.run()

    def track_gmacs(self, bits, size):
        return common.median_rate(self.run) * size**3 / 1e9

    track_gmacs.unit = "GMAC/s"


class Network:
    """A convolutional network for 28 x 28 images, float32 at both ends, weights and activations of so many bits: images a second."""

    param_names = ["bits", "wide", "batch"]
    params = [[1, 2, 4, 8], [1, 2], [1, 64]]
    version = "1"

    def setup(self, bits, wide, batch):
        with common.what_there_is():
            from lowprec.wrpn.integer import IntegerNetwork
            from lowprec.wrpn.layers import Layer
        rng = np.random.default_rng(1)
        channels = [c * wide for c in (16, 16, 32, 32)]

        def conv(name, source, inputs, outputs, weight_bits, bits, size=3):
            shape = (outputs, size, size, inputs)
            weights = _weights(shape, weight_bits, rng) if weight_bits else rng.standard_normal(shape, np.float32)
            scale = np.full(outputs, 1 / np.sqrt(size * size * inputs), np.float32)
            padding = (size // 2, size // 2) if size == 3 else (0, 0)
            return Layer(name=name, op="conv", inputs=(source,), weights=weights, weight_bits=weight_bits, bits=bits,
                         scale=scale, shift=np.ones(outputs, np.float32), padding=padding)  # fmt: skip

        def pool(name, source):
            return Layer(name=name, op="max_pool", inputs=(source,), bits=bits, kernel=(2, 2), stride=(2, 2))

        layers = [
            conv("conv0", "input", 1, channels[0], None, bits),
            pool("pool0", "conv0"),
            conv("conv1", "pool0", channels[0], channels[1], bits, bits),
            pool("pool1", "conv1"),
            conv("conv2", "pool1", channels[1], channels[2], bits, bits),
            conv("conv3", "conv2", channels[2], channels[3], bits, None),
            conv("fc", "conv3", channels[3], 10, None, None, 7),
        ]
        net = IntegerNetwork(layers, (1, 28, 28))
        x = rng.random((batch, 1, 28, 28), np.float32)
        self.run = lambda: net(x, n_threads=1)

    def time_network(self, bits, wide, batch):
        self.run()

    def track_images(self, bits, wide, batch):
        return common.median_rate(self.run) * batch

    track_images.unit = "images/s"
