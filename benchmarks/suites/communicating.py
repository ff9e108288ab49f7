"""Codecs: what it costs to say a model's change in fewer bits, and to hear it."""

import numpy as np

from . import common


class Codecs:
    """Encoding float32 numbers, and adding what is decoded to others; with feedback to what was left of them."""

    param_names = ["codec", "how", "size"]
    params = [
        ["1", "2_sr", "4_sr", "8_sr", "16_sr", "16f"],
        ["encode", "encode_feedback"],
        ["256 KiB", "64 MiB"],  # of floats: within the second-level cache, or past every cache
    ]
    version = "1"

    def setup(self, codec, how, size):
        with common.what_there_is():
            from lowprec import kernels

            encode = getattr(kernels, f"{how}_{codec}")
            decode_add = getattr(kernels, f"decode_add_{codec.removesuffix('_sr')}")
            coded_bytes = kernels.coded_bytes
        number, unit = size.split()
        self.v = common.codes("32f", int(number) << {"KiB": 8, "MiB": 18}[unit], np.random.default_rng(1))
        out = np.ones_like(self.v)
        coded = np.ones(coded_bytes(codec.removesuffix("_sr"), self.v.size), np.uint8)

        def run():
            encode(self.v, coded)
            decode_add(coded, out if how == "encode" else self.v)  # with feedback: v is as it was, or nearly

        self.run = run

    def time_encode_and_decode_add(self, codec, how, size):
        self.run()

    def track_gnps(self, codec, how, size):
        return common.median_rate(self.run) * self.v.size / 1e9

    track_gnps.unit = "GNPS"
