"""How fast the codecs of communication are beside a plain copy of the same numbers.

    python benchmarks/compare_codecs.py [--mib 64] [--turns 15] [--only 8]

One thread. A turn is a copy of the float32 numbers into a touched buffer, then the codec's encode, its encode with feedback, and
its decode-add, in changing order. Printed are medians: GB/s of float32 numbers that each goes through, and, as ratios within a
turn, the speed of encoding and decode-adding together as a share of copying's, without and with feedback, with quartiles.
"""

import argparse
import time

import numpy as np

from lowprec import kernels
from lowprec.communication import CODECS
from lowprec.report.timing import huge_buffer, ratios, spread


def seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=64, help="size of the float array")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--only", default="", metavar="C", help="only this codec")
    options = parser.parse_args()
    n_bytes = options.mib << 20
    v, held, out = (huge_buffer(n_bytes).view(np.float32) for _ in range(3))
    v[:] = np.random.default_rng(1).standard_normal(v.size, np.float32)
    out[:] = 0
    print(f"{options.mib} MiB of numbers, {options.turns} turns, ISA {kernels._active_isa()}, one thread\n")
    print(f"{'':8} {'GB/s: copy':>11} {'encode':>7} {'feedback':>9} {'decode-add':>11}   {'both x copy':>11} {'quartiles':>11}"
          f" {'with feedback':>14} {'quartiles':>11}")  # fmt: skip

    names = kernels.__all__
    for C in CODECS:
        for suffix in ("", "_sr"):
            if f"encode_{C}{suffix}" not in names or options.only not in ("", C):
                continue
            encode, feedback = (getattr(kernels, f"{op}_{C}{suffix}") for op in ("encode", "encode_feedback"))
            decode_add = getattr(kernels, f"decode_add_{C}")
            coded = huge_buffer(kernels.coded_bytes(C, v.size))
            coded[:] = 0
            encode(v, coded)
            runs = {
                "copy": lambda: np.copyto(out, v),
                "encode": lambda encode=encode, coded=coded: encode(v, coded),
                "feedback": lambda feedback=feedback, coded=coded: feedback(held, coded),
                "decode_add": lambda decode_add=decode_add, coded=coded: decode_add(coded, out),
            }
            times = {who: [] for who in runs}
            order = list(runs)
            for _ in range(options.turns):
                for who in order:
                    if who == "feedback":  # it works in place
                        held[:] = v
                    times[who].append(seconds(runs[who]))
                order.append(order.pop(0))
            rate = {who: spread([n_bytes / s / 1e9 for s in times[who]]).median for who in runs}
            line = f"{C + suffix:8}"
            for who, width in (("copy", 11), ("encode", 7), ("feedback", 9), ("decode_add", 11)):
                line += f" {rate[who]:{width}.1f}"
            line += "  "
            for who, width in (("encode", 11), ("feedback", 14)):
                together = [a + b for a, b in zip(times[who], times["decode_add"], strict=True)]
                share = ratios(times["copy"], together)
                line += f" {share.median:{width}.2f} {share.q1:6.2f}-{share.q3:.2f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
