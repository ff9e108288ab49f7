"""How fast training on mini-batches is beside training example by example, and beside a plain read of the data.

    python -m benchmarks.compare_batch [--mib 256] [--signatures D8M8 D16M16] [--log2-n 8 14 20] [--batches 16] [--seconds 10]

One thread. Each size's cases take turns; before each run the data are read once (the roof). A run ends with its last
batch applied. Printed are medians within a turn: numbers per second, the ratio to B = 1 with quartiles, the share of the roof.
"""

import argparse

from lowprec import runtime
from lowprec.report.timing import ratios, take_turns
from lowprec.report.workload import Workload
from lowprec.signature import Signature


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=256, help="size of the data")
    parser.add_argument("--signatures", nargs="+", default=["D8M8"])
    parser.add_argument("--log2-n", nargs="+", type=int, default=[8, 14, 17, 20])
    parser.add_argument("--batches", nargs="+", type=int, default=[16])
    parser.add_argument("--random", default="shared")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each signature and size")
    options = parser.parse_args()
    work = Workload(options.mib << 20)
    print(f"{options.mib} MiB, one thread, random={options.random}, ISA {runtime.isa()}\n")
    print(f"{'signature':12} {'log2 n':>6} {'B':>4} {'GNPS':>7} {'x B=1':>6} {'quartiles':>11} {'of roof':>8} {'turns':>6}")
    for text in options.signatures:
        signature = Signature(text)
        more = {"gradient": str(signature.gradient), "data_limit": 1.0} if signature.gradient else {}
        for log2_n in options.log2_n:
            cases = [
                work.case(str(signature.dataset), str(signature.model), 2**log2_n, random=options.random, batch_size=size,
                          **(more if size > 1 else {}))
                for size in [1, *options.batches]
            ]  # fmt: skip
            turns = take_turns(cases, options.seconds)
            for size, found in zip([1, *options.batches], turns, strict=True):
                row, over = found.summary(), ratios(found.gnps, turns[0].gnps)
                print(f"{text:12} {log2_n:6} {size:4} {row['gnps']:7.2f} {over.median:6.2f} {over.q1:5.2f}-{over.q3:.2f} "
                      f"{row['share']:8.2f} {row['runs']:6}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
