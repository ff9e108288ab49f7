"""The training loop: signature x model size, and the ladder of optimizations from plain C upward."""

from functools import lru_cache

import numpy as np

from . import common

NUMBERS = 1 << (28 if common.FULL else 26)  # of the data set: more than the caches hold


@lru_cache(maxsize=1)
def problem(n):
    """The paper's generative logistic problem: x and the true model uniform on [-1, 1], labels drawn from the model."""
    rng = np.random.default_rng([2017, n])
    X = rng.random((NUMBERS // n, n), dtype=np.float32) * 2 - 1
    z = X @ (rng.random(n, dtype=np.float32) * 2 - 1)
    y = np.where(rng.random(len(X)) < 1 / (1 + np.exp(-z, dtype=np.float64)), 1, -1)
    return X, y


@lru_cache(maxsize=1)
def quantized(n, fmt):
    """The same in codes."""
    import lowprec as lp

    return lp.quantize(problem(n)[0], fmt, seed=1)


class Train:
    """One epoch of `lowprec.train` on one thread, on data that is quantized beforehand."""

    param_names = ["signature", "n"]
    params = [["D4M4", "D8M8", "D8M16", "D16M16", "D32fM32f"], [2**8, 2**11, 2**14]]
    timeout = 300

    def setup(self, signature, n):
        try:
            import lowprec as lp

            s = lp.Signature(signature)
            self.train = lp.train
            X, self.y = problem(n)
            self.X = X if str(s.dataset) == "32f" else quantized(n, str(s.dataset))
        except (ImportError, AttributeError):
            raise NotImplementedError(f"{signature}: not in this version") from None
        # |x|^2 is n/3: a step of this size is a steady one for every n.
        self.options = {"signature": signature, "step_size": 1.5 / n, "n_threads": 1, "seed": 1}

    def time_epoch(self, signature, n):
        self.train(self.X, self.y, **self.options)

    def track_gnps(self, signature, n):
        """Of the epochs' own loops: what `lowprec.train` reports."""
        return float(np.median([self.train(self.X, self.y, **self.options).gnps for _ in range(7)]))

    track_gnps.unit = "GNPS"

    def track_loss(self, signature, n):
        """Mean logistic loss after one epoch; ln 2 = 0.693 is what no training gives."""
        return self.train(self.X, self.y, history=True, **self.options).history[-1]

    track_loss.unit = "nats"


class Ladder:
    """What each optimization buys, D8M8: plain C as the compiler makes it fast, SIMD, a fast generator, one draw per row."""

    param_names = ["rung", "n"]
    params = [
        ["compiler, mt19937", "compiler, xorshift", "SIMD, mt19937", "SIMD, xorshift", "SIMD, shared", "SIMD, nearest"],
        [2**8, 2**14],
    ]
    timeout = 300

    def setup(self, rung, n):
        engine, random = rung.split(", ")
        try:
            from lowprec.report.workload import Workload

            workload = Workload(NUMBERS, seed=1)
            self.case = workload.case(
                "8", "8", n, random=random, engine="compiler" if engine == "compiler" else "lowprec"
            )
        except (ImportError, AttributeError, TypeError, RuntimeError):
            raise NotImplementedError(f"{rung}: not in this version, or not on this CPU") from None

    def track_gnps(self, rung, n):
        return float(np.median([self.case.run() for _ in range(7)]))

    track_gnps.unit = "GNPS"


class Roof:
    """The speed of a plain streaming read on one thread: no kernel can take in its data set faster."""

    param_names = ["size"]
    params = [list(common.SIZES)]

    def setup(self, size):
        try:
            from lowprec.report.timing import huge_buffer, read_gbps
        except ImportError:
            raise NotImplementedError("not in this version") from None
        self.buffer = huge_buffer(common.SIZES[size])
        self.buffer[:] = np.frombuffer(np.random.default_rng(1).bytes(len(self.buffer)), np.uint8)
        self.read = read_gbps

    def track_gigabytes_per_second(self, size):
        return float(np.median([self.read(self.buffer) for _ in range(9)]))

    track_gigabytes_per_second.unit = "GB/s"
