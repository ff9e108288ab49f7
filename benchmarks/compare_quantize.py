"""How fast `lowprec.quantize` is beside a plain copy of the same array, and beside pi-quant.

    python benchmarks/compare_quantize.py [--mib 256] [--turns 15] [--only float32]

One thread, scale given, `out=` given. A turn is a run of the case, a copy of the same array into a touched buffer,
and pi-quant's run of the same case where it has it, in changing order; printed are the medians of the ratios
within a turn, with quartiles: above 1 is faster than the copy, or than pi-quant.
pi-quant is a peer, not a dependency; it installs without torch:

    pip install --no-deps pypiquant && pip install cffi
"""

import argparse
import time

import numpy as np

import lowprec as lp
from lowprec import _quantize
from lowprec.report.compare.calls import piquant_call
from lowprec.report.timing import huge_buffer, ratios, spread

#: type of the input, format, rounding, one scale or one for each column
CASES = [
    (dtype, fmt, rounding, per_column)
    for dtype, per_column in ((np.float32, False), (np.float32, True), (np.float64, False))
    for fmt in ("8", "4", "16")
    for rounding in ("stochastic", "nearest")
]
COLUMNS = 1 << 12


def seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=256, help="size of the float array")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases with this text in their name")
    options = parser.parse_args()
    try:
        import piquant

        print(f"pi-quant {piquant.__version__}")
    except ImportError:
        piquant = None
        print("pi-quant: not installed, left out (see the top of this file)")
    print(f"{options.mib} MiB of numbers, {options.turns} turns, ISA {_quantize._active_isa()}, one thread\n")
    print(f"{'case':36} {'G numbers/s':>12} {'x copy':>7} {'quartiles':>12} {'x pi-quant':>11} {'quartiles':>12}")

    rng = np.random.default_rng(1)
    n_bytes = options.mib << 20
    for dtype, fmt, rounding, per_column in CASES:
        name = f"{np.dtype(dtype).name} -> {fmt} {rounding}{', per column' if per_column else ''}"
        if options.only not in name:
            continue
        a = huge_buffer(n_bytes).view(dtype).reshape(-1, COLUMNS)
        a[...] = rng.standard_normal(a.shape, np.float32)
        copied = huge_buffer(n_bytes).view(dtype).reshape(a.shape)
        copied[...] = 0
        scale = float(np.abs(a).max()) / lp.formats.FORMATS[fmt].max_code
        scales = np.linspace(scale, 2 * scale, COLUMNS) if per_column else scale
        out = lp.quantize(a, fmt, scale=scales)

        def ours(a=a, fmt=fmt, scales=scales, rounding=rounding, out=out):
            lp.quantize(a, fmt, scale=scales, rounding=rounding, out=out)

        def copy(a=a, copied=copied):
            np.copyto(copied, a)

        theirs, unsigned = None, None
        if piquant and not per_column:
            unsigned = huge_buffer(a.size)
            unsigned[...] = 0
            theirs = piquant_call(a, unsigned, fmt, rounding, scale)
        runs = {"copy": copy, "ours": ours} | ({"theirs": theirs} if theirs else {})
        times = {who: [] for who in runs}
        order = list(runs)
        for _ in range(options.turns):
            for who in order:
                times[who].append(seconds(runs[who]))
            order.append(order.pop(0))  # what ran before matters by a few percent
        rate = spread([a.size / s / 1e9 for s in times["ours"]])
        over_copy = ratios(times["copy"], times["ours"])
        line = f"{name:36} {rate.median:12.2f} {over_copy.median:7.2f} {over_copy.q1:6.2f}-{over_copy.q3:.2f}"
        if theirs:
            over_theirs = ratios(times["theirs"], times["ours"])
            line += f" {over_theirs.median:11.2f} {over_theirs.q1:7.2f}-{over_theirs.q3:.2f}"
        print(line, flush=True)
        del a, copied, out, unsigned, theirs, ours, copy, runs


if __name__ == "__main__":
    main()
