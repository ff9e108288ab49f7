"""Single kernels: row x ISA x level of the memory."""

import numpy as np

from . import common


class Kernels:
    """One row of the matrix on one ISA. Two calls are timed, see `common.Call`."""

    param_names = ["kernel", "isa", "size"]
    params = [common.rows(), common.ISAS, list(common.SIZES)]
    timeout = 120
    version = "2"

    def setup(self, kernel, isa, size):
        self.call = common.Call(kernel, isa, common.SIZES[size])

    def time_two_calls(self, kernel, isa, size):
        self.call()

    def track_gnps(self, kernel, isa, size):
        return common.gnps(self.call)

    track_gnps.unit = "GNPS"


class CallCost:
    """What a call costs beside the work: two calls on 64 numbers, against NumPy's dot of 64 float32."""

    param_names = ["function"]
    version = "1"
    params = [["dot_8_8", "axpy_8_8_sr", "numpy.dot"]]

    def setup(self, function):
        rng = np.random.default_rng(1)
        x, w = common.codes("8", 64, rng), common.codes("8", 64, rng, model=True)
        a, b = rng.random((2, 64), dtype=np.float32)
        if function == "numpy.dot":
            self.call = lambda: (np.dot(a, b), np.dot(a, b))
            return
        with common.what_there_is():
            from lowprec import kernels

            kernel = getattr(kernels, function)
        if function.startswith("dot"):
            self.call = lambda: (kernel(x, w), kernel(x, w))
        else:
            self.call = lambda: (kernel(0.02, x, w), kernel(-0.02, x, w))

    def time_two_calls(self, function):
        self.call()

    def track_nanoseconds(self, function):
        """Nanoseconds of one call."""
        return 1e9 / (common.calls_per_second(self.call) * 2)

    track_nanoseconds.unit = "ns"
