"""float32 to codes: what it costs to bring data in."""

import numpy as np

from . import common


class Quantize:
    """`lowprec.quantize` of a float32 array into a given 8-bit one, which has been touched before."""

    param_names = ["how", "size"]
    params = [
        ["nearest", "stochastic", "stochastic, scale per column"],
        ["2 MiB", "64 MiB"],  # of floats: within the second-level cache, or past every cache
    ]
    version = "1"

    def setup(self, how, size):
        with common.what_there_is():
            from lowprec import quantize
        self.a = common.codes("32f", int(size.split()[0]) << 18, np.random.default_rng(1)).reshape(-1, 1 << 12)
        scale = np.linspace(1, 2, self.a.shape[1]) / 127 if "column" in how else 1 / 127
        options = {"scale": scale, "rounding": how.split(",")[0], "seed": 1}
        out = quantize(self.a, "8", **options)
        self.run = lambda: quantize(self.a, "8", out=out, **options)

    def time_quantize(self, how, size):
        self.run()

    def track_gnps(self, how, size):
        return common.median_rate(self.run) * self.a.size / 1e9

    track_gnps.unit = "GNPS"
