"""How far runs of one and the same build differ: what no comparison of two commits can tell from a change.

    python benchmarks/noise.py [--runs 5]

Every run is a process of its own, as with asv, and the benchmarks take turns, so that a minute in which the machine is slow
does not fall on one of them alone. What is printed, run by run, is also kept in .asv/noise.json, and later calls on the same
build add to it: the table is of all runs so far (--forget starts again). The spread between runs an hour apart is what counts.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOG = HERE.parent / ".asv" / "noise.json"

# What stands for each kind: in registers and the first-level cache, streaming, on two threads, bound by the generator.
BENCHMARKS = [
    ("training", "Ladder", ["compiler"]),
    ("training", "Ladder", ["fused step"]),
    ("training", "Train", ["D8M8", 2**8]),
    ("training", "Train", ["D8M8", 2**14]),
    ("training", "Train", ["D16M16", 2**14]),
    ("training", "Train", ["D32fM32f", 2**14]),
    ("training", "Threads", ["2, one model", 2**8]),
    ("training", "Threads", ["2, one model", 2**14]),
    ("kernels", "Kernels", ["axpy_dot_8_8_sr", "avx2", "L1"]),
    ("quantizing", "Quantize", ["stochastic", "64 MiB"]),
]


def once(module, name, parameters):
    """One figure, in this process."""
    sys.path.insert(0, str(HERE))
    suite = getattr(__import__(f"suites.{module}", fromlist=[name]), name)()
    suite.setup(*parameters)
    return suite.track_gnps(*parameters)


def build():
    """What tells one build from another: the compiled modules' contents."""
    import lowprec

    modules = sorted(Path(lowprec.__file__).parent.rglob("*.so"))
    return hashlib.sha256(b"".join(m.read_bytes() for m in modules)).hexdigest()[:12]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each benchmark; default %(default)s")
    parser.add_argument("--forget", action="store_true", help="leave out earlier calls' runs")
    parser.add_argument("--once", type=int, help=argparse.SUPPRESS)  # the number of a benchmark: print its figure
    arguments = parser.parse_args()
    if arguments.once is not None:
        print(once(*BENCHMARKS[arguments.once]))
        return
    kept = json.loads(LOG.read_text()) if LOG.exists() and not arguments.forget else {}
    figures = kept.setdefault(build(), [[] for _ in BENCHMARKS])
    for _ in range(arguments.runs):
        for i, runs in enumerate(figures):
            done = subprocess.run([sys.executable, __file__, "--once", str(i)], capture_output=True, text=True)
            if "NotImplementedError" in done.stderr:
                continue  # not on this CPU
            done.check_returncode()
            runs.append(float(done.stdout))
    LOG.parent.mkdir(exist_ok=True)
    LOG.write_text(json.dumps(kept))

    print(f"{'benchmark':44} {'runs':>4} {'median GNPS':>11} {'quartiles':>14} {'extremes':>14}")
    for (_, name, parameters), runs in zip(BENCHMARKS, figures, strict=True):
        if len(runs) < 2:
            continue
        median = statistics.median(runs)
        q1, _, q3 = statistics.quantiles(runs, n=4, method="inclusive")
        label = f"{name}: {', '.join(map(str, parameters))}"
        between = [f"{a / median - 1:+.1%} {b / median - 1:+.1%}" for a, b in ((q1, q3), (min(runs), max(runs)))]
        print(f"{label:44} {len(runs):4} {median:11.2f} {between[0]:>14} {between[1]:>14}")


if __name__ == "__main__":
    main()
