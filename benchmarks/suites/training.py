"""The training loop: signatures, the ladder of optimizations, threads, mini-batches, sparse data, prefetch."""

import os
from functools import lru_cache

import numpy as np

from . import common

NUMBERS = 1 << (28 if common.FULL else 26)  # of a dense data set: more than the caches hold
NONZEROS = NUMBERS >> 3  # of a sparse one


@lru_cache(maxsize=1)
def problem(n):
    """The paper's generative logistic problem: x and the true model uniform on [-1, 1], labels drawn from the model."""
    rng = np.random.default_rng([2017, n])
    X = common.codes("32f", NUMBERS // n * n, rng).reshape(-1, n)
    return X, labels(X @ common.codes("32f", n, rng), rng)


def labels(z, rng):
    """-1 and +1, the latter with probability 1 / (1 + exp(-z))."""
    return np.where(rng.random(len(z)) < 0.5 * (1 + np.tanh(0.5 * z.astype(np.float64))), 1, -1)


@lru_cache(maxsize=1)
def quantized(n, fmt):
    """The same data in codes."""
    import lowprec as lp

    return lp.quantize(problem(n)[0], fmt, seed=1)


class _Epochs:
    """One epoch of `lowprec.train` on data that is in codes beforehand. A suite's ``setup`` calls `prepare`."""

    timeout = 300
    version = "1"

    def prepare(self, signature, n, *, n_threads=1, **options):
        with common.what_there_is():
            import lowprec as lp

            fmt = str(lp.Signature(signature).dataset)
            X, y = problem(n)
            X = X if fmt == "32f" else quantized(n, fmt)
        # |x|^2 is n/3: a step of this size is a steady one for every n.
        self.prepare_with(X, y, len(y) * n, signature=signature, step_size=1.5 / n, n_threads=n_threads, **options)

    def prepare_with(self, X, y, numbers, **options):
        """Keep what an epoch needs, and run one, lest a version that cannot do it be measured at all."""
        if options.get("n_threads", 1) > (os.cpu_count() or 1):
            raise NotImplementedError("fewer CPUs than threads")
        self.X, self.y, self.numbers, self.options = X, y, numbers, {"seed": 1, **options}
        with common.what_there_is():
            from lowprec import train

            self.train = train
            self.epoch()

    def epoch(self, **options):
        return self.train(self.X, self.y, **self.options, **options)

    def time_epoch(self, *parameters):
        self.epoch()

    def track_gnps(self, *parameters):
        """Of the epochs' own loops: neither the choice of a scale nor the start of a run is in it."""
        return self.numbers / 1e9 / float(np.median([self.epoch().seconds for _ in range(9)]))

    track_gnps.unit = "GNPS"

    def track_loss(self, *parameters):
        """Mean logistic loss after one epoch; ln 2 = 0.693 is what no training gives."""
        return self.epoch(history=True).history[-1]

    track_loss.unit = "nats"


class Train(_Epochs):
    """Signature and model size, on one thread. Rows of 784 (28 x 28 pixels) are no multiple of a vector."""

    param_names = ["signature", "n"]
    params = [["D4M4", "D8M8", "D8M16", "D16M16", "D32fM32f"], [2**8, 784, 2**14]]

    def setup(self, signature, n):
        self.prepare(signature, n)


class Threads(_Epochs):
    """D8M8 on two threads, and how they share the model."""

    param_names = ["workers", "n"]
    params = [["1", "2, one model", "2, sync_every 64", "2, deterministic"], [2**8, 2**14]]

    def setup(self, workers, n):
        count, _, how = workers.partition(", ")
        options = {"deterministic": True} if how == "deterministic" else {}
        if how.startswith("sync_every"):
            options["sync_every"] = int(how.split()[1])
        self.prepare("D8M8", n, n_threads=int(count), **options)


class MiniBatch(_Epochs):
    """Examples to a write of the model; n = 2^14. The step is for the sum of a batch, so it is divided by the batch's size."""

    param_names = ["signature", "batch_size"]
    params = [["D8M8", "D8M8G8", "D32fM32f"], [1, 16, 64]]

    def setup(self, signature, batch_size):
        more = {"batch_size": batch_size} if batch_size > 1 else {}
        if more:
            with common.what_there_is():
                from lowprec.kernels import _batch  # noqa: F401  an early version takes the argument, and trains without batches
        self.prepare(signature, 2**14, **more)
        self.options["step_size"] /= batch_size


class Prefetch(_Epochs):
    """D8M8: bytes between the data being read and the software prefetch; 0 is none, "default" what `train` does by itself."""

    param_names = ["distance", "n"]
    params = [["0", "1024", "8192", "default"], [2**8, 2**14]]

    def setup(self, distance, n):
        more = {} if distance == "default" else {"prefetch": int(distance)}
        self.prepare("D8M8", n, **more)


@lru_cache(maxsize=1)
def sparse_problem(n, density=0.03):
    """Every number is a nonzero with this probability, uniform on [-1, 1]; labels as for dense data."""
    from scipy.sparse import csr_array

    rng = np.random.default_rng([2017, n, 3])
    rows = max(1, round(NONZEROS / density / n))
    at = np.cumsum(rng.geometric(density, NONZEROS)) - 1  # positions in all rows, one after the other
    at = at[at < rows * n]
    indptr = np.searchsorted(at, np.arange(rows + 1) * n)
    X = csr_array((common.codes("32f", len(at), rng), at % n, indptr), shape=(rows, n))
    return X, labels(X @ common.codes("32f", n, rng), rng)


class Sparse(_Epochs):
    """Sparse data, 3 % nonzeros, one thread; a dataset number is a nonzero. i8: differences of column numbers in 8 bits."""

    param_names = ["signature", "n"]
    params = [["D8i8M8", "D8i16M8", "D8i32M8", "D32fi32M32f"], [2**14, 2**20]]

    def setup(self, signature, n):
        X, y = sparse_problem(n)
        with common.what_there_is():
            import lowprec as lp

            s = lp.Signature(signature)
            codes = lp.quantize(X, str(s.dataset), index=str(s.index))
        self.prepare_with(codes, y, X.nnz, signature=signature, step_size=1.5 / (0.03 * n), n_threads=1)


# What each rung adds to the options of the rungs before it.
LADDER = {
    "compiler": {"engine": "compiler", "bits": "8", "random": "mt19937"},
    "SIMD": {"engine": "kernels", "passes": 2, "prefetch": 0},
    "fast PRNG": {"random": "xorshift"},
    "shared randomness": {"random": "shared"},
    "fused step": {"passes": 1},
    "prefetch": {"prefetch": None},
    "packing": {"bits": "4"},
    "mini-batch": {"batch_size": 16},
}


class Ladder:
    """What each optimization buys, one on top of the other: a logistic epoch with n = 2^16, D8M8 and at last D4M4, one thread.

    - compiler: plain C, as fast as the compiler makes it (-Ofast, AVX2); the Mersenne Twister rounds every write.
    - SIMD: our kernels; each example is one pass for its product and one for its update.
    - fast PRNG: xorshift instead of the Mersenne Twister, still one draw for every write.
    - shared randomness: one block of 512 random bits for each example.
    - fused step: an example's update and the next one's product in one pass.
    - prefetch: of the data, by software.
    - packing: 4-bit numbers, two to a byte.
    - mini-batch: one write of the model for 16 examples, which pays with short rows and with the largest models, not here.

    What a version cannot leave out (prefetch without a switch for it) or has not yet is left as that version has it in the rungs
    above; a rung itself is n/a where the version lacks what it is about.
    """

    param_names = ["rung"]
    params = [list(LADDER)]
    timeout = 300
    version = "1"
    n = 1 << 16  # so long that Python's two calls for each example of two passes are a few percent

    def setup(self, rung):
        options = {}
        for name, adds in LADDER.items():
            options |= adds
            if name == rung:
                break
        engine, passes, bits = options.pop("engine"), options.pop("passes", 1), options.pop("bits")
        with common.what_there_is():
            self.prepare(bits)
            start = self.compiler if engine == "compiler" else self.kernels
            sgd = start(bits, required=adds, **options)
        m, model, learned = len(self.y), self.model, self.model.copy()

        def run():
            model[:] = learned  # the state must not drift
            if engine == "compiler" or passes == 1:
                sgd.run(0, m)
            else:
                for i in range(m):
                    sgd.run(i, i + 1)
                    sgd.flush()

        self.run = run

    def prepare(self, bits):
        """Data, labels, and a model that one pass in float32 has brought near, in codes with a quarter to spare."""
        rng = np.random.default_rng([2017, self.n])
        m, b = NUMBERS // self.n, int(bits)
        self.x = common.codes(bits, m * self.n, rng).view(np.uint8).reshape(m, -1)
        self.data_scale = 2.0 ** (1 - b)
        true = common.codes("32f", self.n, rng)
        self.y = labels(np.concatenate([unpacked(row, bits) @ true for row in self.x[:, None]]) * self.data_scale, rng)
        self.y = self.y.astype(np.float32)
        w = np.zeros(self.n, np.float32)
        self.model_scale, self.model = 1.0, w.view(np.uint8)
        sgd = self.kernels(bits, M="32f", random="nearest")
        sgd.run(0, m)
        sgd.flush()
        largest = 2 ** (b - 1) - 1
        self.model_scale = 1.25 * float(np.abs(w).max()) / largest
        codes = np.rint(w / self.model_scale).astype(np.int8)
        self.model = (codes if bits == "8" else (codes[::2] & 15) | (codes[1::2] << 4)).view(np.uint8)

    def kernels(self, bits, M=None, required=None, **options):
        from lowprec._sgd import Sgd

        while True:
            try:
                return Sgd(
                    self.x.reshape(-1), self.x.shape[1], len(self.y), self.n, bits, M or bits, options["random"], self.model,
                    self.y, loss="logistic", step=1.5 / self.n, data_scale=self.data_scale, model_scale=self.model_scale,
                    seed=1, **{name: value for name, value in options.items() if name != "random"},
                )  # fmt: skip
            except TypeError as error:
                unknown = next((o for o in options if f"unexpected keyword argument '{o}'" in str(error)), None)
                if unknown is None or (required or {}).get(unknown, 0) != 0:
                    raise
                del options[unknown]  # this version cannot leave it out, or has not yet what a rung above added

    def compiler(self, bits, required, random):
        from lowprec import kernels
        from lowprec.report import _baseline

        return _baseline.Baseline(
            self.x.view(np.int8), bits, bits, random, self.model.view(np.int8), self.y, step=1.5 / self.n,
            data_scale=self.data_scale, model_scale=self.model_scale, lanes=kernels._rng_blocks(1, 0, 1)[0],
            mt_state=np.random.RandomState([1, 0, 0, 0]).get_state()[1],
        )  # fmt: skip

    def time_epoch(self, rung):
        self.run()

    def track_gnps(self, rung):
        return common.median_rate(self.run) * len(self.y) * self.n / 1e9

    track_gnps.unit = "GNPS"


def unpacked(packed, bits):
    """Codes of rows of bytes as float32."""
    codes = packed.view(np.int8)
    if bits == "4":  # shifting left and back extends the sign of the low nibble
        codes = np.stack([(codes << 4) >> 4, codes >> 4], axis=-1).reshape(len(codes), -1)
    return codes.astype(np.float32)


class Roof:
    """The speed of a plain streaming read on one thread: no kernel can take in its data set faster."""

    param_names = ["size"]
    params = [["L2", "DRAM"]]  # a read of the first-level cache's size would time the clock
    version = "1"

    def setup(self, size):
        with common.what_there_is():
            from lowprec.report.timing import huge_buffer, read_gbps
        self.buffer = huge_buffer(common.SIZES[size])
        self.buffer[:] = np.frombuffer(np.random.default_rng(1).bytes(len(self.buffer)), np.uint8)
        self.read = read_gbps

    def track_gigabytes_per_second(self, size):
        return float(np.median([self.read(self.buffer) for _ in range(25)]))

    track_gigabytes_per_second.unit = "GB/s"


class Probe:
    """Vector arithmetic in registers, which neither code nor memory changes: it falls where others use the same core."""

    version = "1"

    def setup(self):
        with common.what_there_is():
            from lowprec.report import _baseline

        self.baseline = _baseline

    def track_gops(self):
        rounds = 400_000
        return rounds * self.baseline.PROBE_OPS_PER_ROUND / 1e9 * common.median_rate(lambda: self.baseline.vector_ops(rounds))

    track_gops.unit = "Gop/s"
