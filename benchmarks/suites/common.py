"""What the suites share: axes, real random data, and the counting.

asv measures old versions of the package with the newest suites, so this must import with any version: what a version
lacks is skipped in ``setup`` (NotImplementedError: "n/a"), and the axes are literal lists.

Every suite has a ``version``. Results that were saved under another version are not shown: change it when what is
measured changes, and only then.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from functools import lru_cache

import numpy as np

import lowprec  # noqa: F401  (not installed is an error; only what an installed version lacks is skipped)

FULL = os.environ.get("LOWPREC_BENCH_FULL") == "1"

BITS = {"4": 4, "8": 8, "16": 16, "32f": 32}
DTYPES = {"4": np.uint8, "8": np.int8, "16": np.int16, "32f": np.float32}

# The rows of the default grid: the diagonal, one mixed pair, and all roundings of the pair that most people use.
ROWS = [
    "dot_4_4", "dot_8_8", "dot_8_16", "dot_16_16", "dot_32f_32f",
    "axpy_8_8", "axpy_4_4_sr", "axpy_8_8_sr", "axpy_8_16_sr", "axpy_16_16_sr", "axpy_8_8_srx", "axpy_32f_32f",
    "axpy_dot_4_4_sr", "axpy_dot_8_8_sr", "axpy_dot_16_16_sr", "axpy_dot_32f_32f",
]  # fmt: skip
ISAS = ["base", "avx2"]
# Bytes of x and w (and x_next) together, so that a size names the same level of the memory for every format.
SIZES = {"L1": 16 << 10, "L2": 512 << 10, "DRAM": 128 << 20}


@contextlib.contextmanager
def what_there_is():
    """Turn an error that says what this version of the package lacks into NotImplementedError, asv's "n/a"; no other error."""
    try:
        yield
    except (AttributeError, ImportError, TypeError, ValueError) as error:
        text = str(error)
        lacks = isinstance(error, AttributeError | ModuleNotFoundError) or "cannot import name" in text
        if lacks or "unexpected keyword argument" in text or text.startswith("signature"):
            raise NotImplementedError(f"not in this version: {text}") from None
        raise


def rows():
    """The names of the rows to measure: the default grid, or the whole matrix of the installed version."""
    if FULL:
        try:
            from lowprec.kernels import _table

            return [k.name for k in _table("base")]
        except ImportError:
            pass
    return ROWS


def find_kernel(name, isa):
    """The kernel; NotImplementedError (which asv takes as "skip") where this version or machine has none."""
    with what_there_is():
        from lowprec.kernels import _table
    try:
        kernel = next(k for k in _table(isa) if k.name == name)
    except (ValueError, KeyError, StopIteration):
        raise NotImplementedError(f"{name} on {isa}: not in this version") from None
    if not kernel.runnable:
        raise NotImplementedError(f"{isa} does not run on this CPU")
    return kernel


def codes(token, n, rng, *, model=False):
    """n random codes of a format, packed as the kernels take them. Never zeros: pages that were never written share one page."""
    if token == "32f":
        return rng.random(n, dtype=np.float32) * 2 - 1
    if token == "4":
        packed = np.frombuffer(rng.bytes(n // 2), np.uint8).copy()
        if model:  # model codes are symmetric: -8 becomes -7
            packed[packed & 0x0F == 0x08] ^= 0x01
            packed[packed & 0xF0 == 0x80] ^= 0x10
        return packed
    a = np.frombuffer(rng.bytes(n * BITS[token] // 8), DTYPES[token]).copy()
    if model:
        np.maximum(a, -np.iinfo(a.dtype).max, out=a)
    return a


def placed(a, offset):
    """A copy of an array that begins so many bytes after the beginning of a page."""
    buffer = np.empty(a.nbytes + 8192, np.uint8)
    start = -buffer.ctypes.data % 4096 + offset
    copy = buffer[start : start + a.nbytes].view(a.dtype)
    copy[:] = a
    return copy


class Call:
    """A kernel with its operands. Calling it makes two kernel calls, `numbers` data set numbers in all.

    Two, because an in-place kernel must find about the same model each time: the second call takes the first one's step back.
    """

    def __init__(self, name, isa, n_bytes):
        kernel = find_kernel(name, isa)
        bits = BITS[kernel.D] * (2 if kernel.op == "axpy_dot" else 1) + BITS[kernel.M]
        self.n = n_bytes * 8 // bits // 128 * 128
        self.numbers = 2 * self.n
        x, x_next, w, words = operands(kernel.op, kernel.D, kernel.M, kernel.rounding, self.n)
        # The largest |x| times the step is about two quanta: ordinary work for each rounding, and no row saturates at once.
        m = 2.0 / (2 ** (BITS[kernel.D] - 1) if kernel.D != "32f" else 1.0)
        tail = () if x_next is None else (x_next,)
        if words is not None:
            tail += (words,)
        if kernel.op == "dot":
            self.pair = lambda: (kernel(x, w), kernel(x, w))
        else:
            self.pair = lambda: (kernel(m, x, w, *tail), kernel(-m, x, w, *tail))

    def __call__(self):
        self.pair()


@lru_cache(maxsize=1)
def operands(op, D, M, rounding, n):
    """x, x_next, w, words (None where the op has none); kept, for asv calls ``setup`` before every sample."""
    rng = np.random.default_rng([2017, n])
    # Each at a fixed place in its page, and each at another: where arrays come to lie should not differ from run to run.
    x, w = placed(codes(D, n, rng), 0), placed(codes(M, n, rng, model=True), 1344)
    x_next = placed(codes(D, n, rng), 2688) if op == "axpy_dot" else None
    word = np.uint32 if D == "32f" else np.uint16
    words = np.frombuffer(rng.bytes(n * word().itemsize), word) if rounding == "srb" else None
    return x, x_next, w, words


def median_rate(run, seconds=0.4, least=5):
    """Runs per second: the median of all runs in that time but the first."""
    run()
    rates = []
    begin = time.perf_counter()
    while len(rates) < least or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        run()
        rates.append(1 / (time.perf_counter() - start))
    return statistics.median(rates)


def calls_per_second(call, seconds=0.25, samples=9):
    """The median over samples."""
    call()
    start = time.perf_counter()
    call()
    once = time.perf_counter() - start
    number = max(1, round(seconds / samples / max(once, 1e-7)))
    rates = []
    for _ in range(samples):
        start = time.perf_counter()
        for _ in range(number):
            call()
        rates.append(number / (time.perf_counter() - start))
    return statistics.median(rates)


def gnps(call):
    """Giga dataset numbers per second of a call that has an attribute ``numbers``."""
    return call.numbers * calls_per_second(call) / 1e9
