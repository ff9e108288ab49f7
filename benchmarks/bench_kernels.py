"""The suite behind `make bench`: about a minute, and compare.py prints the ratios to the last saved run.

    python -m pytest benchmarks/bench_kernels.py --benchmark-autosave
"""

import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks.suites import common, training

pytestmark = pytest.mark.benchmark(min_rounds=9, max_time=1.0, min_time=0.002)


def timed(benchmark, call, numbers):
    """Time a call; how many numbers it takes in goes into the saved file."""
    call()
    benchmark.extra_info["numbers"] = numbers
    benchmark(call)


@pytest.mark.parametrize("size", ["L1", "L2"])
@pytest.mark.parametrize("kernel", common.rows())
def test_kernel(benchmark, kernel, size):
    from lowprec import kernels

    call = common.Call(kernel, kernels._active_isa(), common.SIZES[size])
    timed(benchmark, call, call.numbers)


@pytest.mark.parametrize("signature", ["D4M4", "D8M8", "D16M16", "D32fM32f"])
@pytest.mark.parametrize("n", [2**8, 2**14])  # the lower one is the outer loop: data are made once for each n
def test_train(benchmark, signature, n):
    suite = training.Train()
    suite.setup(signature, n)
    timed(benchmark, lambda: suite.time_epoch(signature, n), suite.numbers)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_quantize(benchmark, dtype, rounding):
    import numpy as np

    import lowprec as lp

    a = np.random.default_rng(1).random((256, 4096)).astype(dtype)
    out = lp.quantize(a, "8", scale=1 / 127)
    timed(benchmark, lambda: lp.quantize(a, "8", scale=1 / 127, rounding=rounding, seed=1, out=out), a.size)
