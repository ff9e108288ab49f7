"""How fast products of few bits are beside torch's int8 products and float32 BLAS.

    python -m benchmarks.compare_gemm [--size 1024 1024 1024] [--pairs 4x4 8x8 2x2 1x1] [--isa avx2] [--seconds 20]

One thread, one process. The cases take turns, in changing order; ratios are within a turn, and printed are medians with
quartiles. torch's int8 is the engine (fbgemm, x86, onednn) with the best median, BLAS the better of torch's and NumPy's. With
--isa avx2, the default, libraries are held to AVX2, which is what our kernels use; with native they use what they like.
torch is optional: pip install torch
"""

import argparse
import os
import sys
import time
import warnings
from dataclasses import dataclass

import numpy as np

from lowprec import _network
from lowprec.report.timing import ratios, spread
from lowprec.report.wrpn.speed import AVX2_ONLY

ENGINES = ("fbgemm", "x86", "onednn")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
PAIRS = ("4x4", "8x8", "2x2", "1x1", "2x4", "4x2", "4x8", "8x4", "32x32")


@dataclass
class Measured:
    """Seconds of each turn, by case: "4x4" and so on; "int8 fbgemm" and so on; "float32 numpy", "float32 torch"."""

    shape: tuple
    seconds: dict

    def gmacs(self, case):
        """10^9 multiplications and additions per second."""
        m, n, k = self.shape
        return spread([m * n * k / s / 1e9 for s in self.seconds[case]])

    def best(self, kind):
        """The fastest case whose name begins so, or None."""
        cases = [case for case in self.seconds if case.startswith(kind)]
        return max(cases, key=lambda case: self.gmacs(case).median, default=None)

    def ratio(self, case, to):
        return ratios(self.seconds[to], self.seconds[case])


def our_cases(m, n, k, pairs, rng):
    for pair in pairs:
        a_bits, w_bits = (int(bits) for bits in pair.split("x"))
        if a_bits == 32:
            a, w = rng.standard_normal((m, k), np.float32), rng.standard_normal((n, k), np.float32)
        else:
            most = max(1, 2 ** (w_bits - 1) - 1)
            a = rng.integers(0, 2**a_bits, (m, k)).astype(np.uint8)
            w = (rng.integers(-most, most + 1, (n, k)) if w_bits > 1 else rng.choice([-1, 1], (n, k))).astype(np.int8)
        packed = _network.Packed(w, a_bits, w_bits)
        yield pair, lambda a=a, packed=packed: packed.multiply(a)


def torch_cases(m, n, k, rng):
    """torch's int8 products and its float32 one; none, and a sentence, where torch is missing."""
    try:
        import torch
    except ImportError:
        print("torch: not installed, left out (pip install torch)")
        return
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    x, w = (torch.from_numpy(rng.random(shape, np.float32) - 0.5) for shape in ((m, k), (n, k)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these tensors are to go; nothing takes their place in its CPU engines yet
        codes = torch.quantize_per_tensor(x, 1 / 255, 128, torch.quint8)
        weights = torch.quantize_per_tensor(w, 1 / 127, 0, torch.qint8)
    for engine in ENGINES:
        if engine in torch.backends.quantized.supported_engines:
            torch.backends.quantized.engine = engine
            packed = torch.ops.quantized.linear_prepack(weights, None)

            def product(engine=engine, packed=packed):
                torch.backends.quantized.engine = engine
                torch.ops.quantized.linear(codes, packed, 1.0, 0)

            yield f"int8 {engine}", product
    yield "float32 torch", lambda: torch.mm(x, w.T)


def measure(shape, pairs=PAIRS, seconds=20.0):
    """Let all cases take turns for about so many seconds."""
    rng = np.random.default_rng(1)
    m, n, k = shape
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    cases = dict(our_cases(m, n, k, pairs, rng)) | {"float32 numpy": lambda: a @ b} | dict(torch_cases(m, n, k, rng))
    times = {case: [] for case in cases}
    order = list(cases)
    for run in cases.values():
        run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[order[0]]) < 3:
        for case in order:
            start = time.perf_counter()
            cases[case]()
            times[case].append(time.perf_counter() - start)
        order.append(order.pop(0))
    return Measured(shape, times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", nargs=3, type=int, default=(1024, 1024, 1024), metavar=("M", "N", "K"))
    parser.add_argument("--pairs", nargs="+", default=PAIRS, metavar="AxW", help="bits of activations and of weights")
    parser.add_argument("--isa", choices=("avx2", "native"), default="avx2", help="what the other libraries may use")
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    wanted = ONE_THREAD | (AVX2_ONLY if options.isa == "avx2" else {})
    if any(os.environ.get(name) != value for name, value in wanted.items()):  # they are read when the libraries are loaded
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.compare_gemm", *sys.argv[1:]], os.environ | wanted)

    m, n, k = options.size
    print(f"M {m}, N {n}, K {k}, one thread, other libraries: {options.isa}")
    found = measure((m, n, k), options.pairs, options.seconds)
    int8, blas = found.best("int8"), found.best("float32")
    print(f"{len(found.seconds[blas])} turns; the best int8: {int8}; the best float32: {blas}\n")
    print(f"{'':15} {'GMAC/s':>8} {'best':>7} {'x int8':>7} {'quartiles':>11} {'x float32':>10} {'quartiles':>11}")
    for case in found.seconds:
        rate = found.gmacs(case)
        fastest = m * n * k / min(found.seconds[case]) / 1e9
        line = f"{case:15} {rate.median:8.1f} {fastest:7.1f}"
        for to, width in ((int8, 7), (blas, 10)):
            over = found.ratio(case, to) if to else None
            line += f" {over.median:{width}.2f} {over.q1:6.2f}-{over.q3:.2f}" if over else " " * (width + 13)
        print(line, flush=True)


if __name__ == "__main__":
    main()
