"""Fig 7a: a convolution's forward and backward propagation at several precisions, by our kernels, the compiler's loops and BLAS.

The paper's problem: the first convolution of Caffe's AlexNet, back-propagation, D16M16, D8M16 and D8M8 against plain C in
float32; for the first layers of networks for MNIST and CIFAR-10 it gives a speedup each of D16M16 and D8M8.

Ours, since the paper leaves it open: images of 227 x 227 x 3 numbers, 96 filters of 11 x 11 with a stride of 4, so 3,025
positions; the patches of an image are laid out as rows once, before anything is timed (what that takes stands in a table of its
own). Forward are the products of all patches with all filters; backward are the writes of the filters' gradients. The
derivatives with respect to the outputs are given, none of them zero; a first layer needs no gradient with respect to its input,
biases are left out. A dataset number counts once for each filter that it updates: positions x n x filters for an image,
forward, backward or both.

A filter is written either at every position, as SGD on linear models does it, with an axpy; or once for 64 positions, by the
kernel of mini-batches: one exact sum, rounded once. Rounding is unbiased, a block of shared random words serving all filters at
a position (or at 64). The compiler's loops are the paper's two, under -Ofast, in the same order. NumPy's matrix products, one
thread, show what blocking over filters gains, which neither has. One thread; cases take turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lowprec.report import machine, paper
from lowprec.report.convolution import LAYERS, Blas, Compiled, Preparing, Problem
from lowprec.report.experiments import plots
from lowprec.report.experiments.common import choices, make_row, results
from lowprec.report.rows import FLOAT, select, split
from lowprec.report.tables import NONE, Table, between, duration, number, times
from lowprec.report.timing import Case, Turns, ratios, spread, take_turns

__all__ = ["FIELDS", "FULL", "QUICK", "Options", "Pass", "figures", "measure", "tables"]

FIELDS = (
    "table",
    "layer",
    "engine",
    "signature",
    "together",
    "part",
    "gnps",
    "gnps_q1",
    "gnps_q3",
    "ratio",
    "ratio_q1",
    "ratio_q3",
    "paper_gnps",
    "paper_ratio",
    "seconds",
    "n",
    "positions",
    "filters",
    "probe_gops",
    "runs",
)


@dataclass(frozen=True)
class Options:
    """What is measured.

    Parameters
    ----------
    layers : tuple of str
        Of `LAYERS`.
    signatures : tuple of str
        D and M of 8 or 16 bits, or both of float32.
    together : int
        Positions that one write of a filter is for, where it is not one.
    seconds : float
        Time for all layers.
    run_seconds : float
        About how long one run takes.
    seed : int
        Of images, weights and derivatives, and of the rounding.
    """

    layers: tuple[str, ...] = tuple(LAYERS)
    signatures: tuple[str, ...] = (FLOAT, "D16M16", "D8M16", "D8M8")
    together: int = 64
    seconds: float = 90.0
    run_seconds: float = 0.03
    seed: int = 1


FULL = Options()
QUICK = Options(seconds=15.0, run_seconds=0.01)

#: What is timed; "both" is the time of the first two.
PARTS = ("forward", "backward")


class Pass:
    """One run of a case: a part of the work on as many images as take about so long, from the same weights each time.

    Parameters
    ----------
    loops : Compiled, Blas or Preparing
    part : str
        The name of its method.
    numbers : int
        What an image counts for.
    seconds : float
    """

    def __init__(self, loops: Any, part: str, numbers: int, seconds: float) -> None:
        self.loops, self.go, self.numbers, self.seconds = loops, getattr(loops, part), numbers, seconds
        self.images = 0  # of one run; found in the first

    def _time(self, images: int) -> float:
        self.loops.reset()
        begin = time.perf_counter()
        for _ in range(images):
            self.go()
        return time.perf_counter() - begin

    def __call__(self) -> float:
        if not self.images:
            self._time(1)  # touches pages
            self.images = max(1, round(self.seconds / min(self._time(1) for _ in range(3))))
        return self.numbers * self.images / self._time(self.images) / 1e9


def _contenders(problem: Problem, o: Options) -> dict[tuple[str, str, int], Any]:
    """All loops, by engine, signature and positions of a write; the one that speedups are over is the first."""
    made: dict[tuple[str, str, int], Any] = {}
    if machine.baseline() is not None:
        for s in o.signatures:
            made["compiler", s, 1] = Compiled(problem, *split(s), "compiler", seed=o.seed)
    for s in o.signatures:
        for together in (1, o.together):
            made["lowprec", s, together] = Compiled(problem, *split(s), "lowprec", together, seed=o.seed)
    made["numpy", FLOAT, problem.shape.positions] = Blas(problem)
    return made


def _both(turns: dict[str, list[float]]) -> list[float]:
    """The speed of both parts one after the other, turn by turn."""
    return [1 / sum(1 / speed for speed in pair) for pair in zip(*(turns[part] for part in PARTS), strict=True)]


def _rows(layer: str, problem: Problem, found: list[Turns]) -> list[dict[str, Any]]:
    """The rows of one layer."""
    shape = problem.shape
    numbers = shape.positions * shape.n * shape.filters
    speeds: dict[tuple[str, str, int], dict[str, list[float]]] = {}
    probes = [value for turns in found for value in turns.probe]
    for turns in found:
        speeds.setdefault(turns.about["key"], {})[turns.about["part"]] = turns.gnps
    for parts in speeds.values():
        if set(PARTS) <= set(parts):
            parts["both"] = _both(parts)
    base = speeds.get(("compiler", FLOAT, 1), {})
    made = []
    for (engine, signature, together), parts in speeds.items():
        for part, gnps in parts.items():
            speed, published = spread(gnps), {}
            over = ratios(gnps, base[part]) if part in base else None
            if part == "both" and engine != "numpy" and layer == "AlexNet":
                published["paper_gnps"] = paper.convolution(signature, engine == "lowprec")
            if part == "both" and engine == "lowprec":
                published["paper_ratio"] = paper.convolution_speed(layer, signature)
            made.append(
                make_row(
                    FIELDS,
                    table="patches" if part == "patches" else "conv",
                    layer=layer,
                    engine=engine,
                    signature=signature,
                    together=together or None,
                    part=part,
                    gnps=speed.median,
                    gnps_q1=speed.q1,
                    gnps_q3=speed.q3,
                    ratio=over.median if over else None,
                    ratio_q1=over.q1 if over else None,
                    ratio_q3=over.q3 if over else None,
                    seconds=numbers / speed.median / 1e9,
                    n=shape.n,
                    positions=shape.positions,
                    filters=shape.filters,
                    probe_gops=spread(probes).median if probes else None,
                    runs=len(gnps),
                    **published,
                )
            )
    return made


def measure(options: Options, progress: Callable[[str, str, float], None] = lambda *_: None) -> dict[str, Any]:
    """Time every layer.

    Parameters
    ----------
    options : Options
    progress : callable
        As of `lowprec.report.speedups.measure`.

    Returns
    -------
    dict
        The results as docs/results-schema.md describes them.
    """
    from threadpoolctl import threadpool_limits

    begin = time.perf_counter()
    o, rows = options, []
    seconds = o.seconds / len(o.layers)
    for k, layer in enumerate(o.layers):
        progress(layer, "making the problem", k / len(o.layers))
        problem = Problem(LAYERS[layer], o.seed)
        shape = problem.shape
        numbers = shape.positions * shape.n * shape.filters
        cases = [
            Case({"key": key, "part": part}, Pass(loops, part, numbers, o.run_seconds))
            for key, loops in _contenders(problem, o).items()
            for part in PARTS
        ]
        for D in dict.fromkeys(split(s)[0] for s in o.signatures):
            run = Pass(Preparing(problem, D), "patches", numbers, o.run_seconds)
            cases.append(Case({"key": ("numpy", f"D{D}", 0), "part": "patches"}, run))
        start = time.perf_counter()

        def tick(case: Case, k=k, layer=layer, start=start) -> None:
            within = min((time.perf_counter() - start) / max(seconds, 1e-9), 1.0)
            engine, signature, _ = case.about["key"]
            progress(layer, f"{engine} {signature}, {case.about['part']}", min((k + within) / len(o.layers), 0.99))

        with threadpool_limits(1):
            rows += _rows(layer, problem, take_turns(cases, seconds, tick=tick))
    progress("Done", "", 1.0)
    return results("conv", options, begin, rows)


# ---- showing -------------------------------------------------------------------------------------------------------


def _loops(row: dict[str, Any]) -> str:
    """What did it, in a few words."""
    if row["engine"] == "compiler":
        return "plain C"
    if row["engine"] == "numpy":
        return "all, by BLAS"
    return "each position" if row["together"] == 1 else f"{row['together']} together"


def _table(results: dict[str, Any], layer: str) -> Table:
    rows = [row for row in select(results, "conv") if row["layer"] == layer]
    first = rows[0]
    table = Table(
        f"{layer}: {first['filters']} filters of {first['n']} numbers, {first['positions']:,} positions",
        ["<", "<writes", "forward", "backward", "both", "x float", "quartiles", "paper GNPS", "paper"],
        strong=(5,),
    )
    by = {(row["engine"], row["signature"], row["together"], row["part"]): row for row in rows}
    before = None
    for key in dict.fromkeys(key[:3] for key in by):
        forward, backward, both = (by[*key, part] for part in (*PARTS, "both"))
        if key[0] != before:
            table.rule()
        before = key[0]
        table.add(
            both["signature"],
            _loops(both),
            *(number(row["gnps"]) for row in (forward, backward, both)),
            times(both["ratio"]),
            between(both["ratio_q1"], both["ratio_q3"]) if both["ratio"] != 1 else NONE,
            number(both["paper_gnps"]),
            times(both["paper_ratio"]),
        )
    return table


def tables(results: dict[str, Any]) -> list[Table]:
    """The results as tables to read."""
    o = results["options"]
    made = [_table(results, layer) for layer in o["layers"]]
    made[0].notes.append("GNPS: 10^9 numbers of patches a second, each counted once for every filter that it updates.")
    m = results["machine"]
    compiler = f"{m['compiler']} {m['baseline_flags']}" if m["compiler"] else "does not run on this CPU"
    made[0].notes.append(f"Plain C, which writes at each position: {compiler}. x float: over that in float32.")
    made[0].notes.append("The paper: Fig 7a; of the other layers it prints the speedups alone.")
    before = Table("Patches of an image, laid out as rows once", ["<", "<", "time", "of our fastest pass"])
    for row in select(results, "patches"):
        ours = [
            r["seconds"]
            for r in select(results, "conv")
            if (r["layer"], r["engine"], r["part"]) == (row["layer"], "lowprec", "both")
            and f"D{split(r['signature'])[0]}" == row["signature"]
        ]
        before.add(row["layer"], row["signature"], duration(row["seconds"]), f"{row['seconds'] / min(ours):.2f}")
    before.notes.append("By NumPy, in no figure above. Of: forward and backward of the fastest of that D.")
    made += [
        before,
        choices(
            [
                ("layers", "227 x 227 x 3, 96 of 11 x 11, stride 4; 32 x 32 x 3, 32 of 5 x 5, padded by 2; 28 x 28, 20 of 5 x 5"),
                ("counting", "positions x n x filters an image, forward, backward or both"),
                ("backward", "the filters' gradients alone, none of the derivatives zero; no biases"),
                ("writes", f"at each position, or one for {o['together']} positions, whose sum is exact and rounded once"),
                ("rounding", "unbiased; shared random words, fresh for every position (or write), the same for all filters"),
                ("step, scales", "an image changes a weight by a thousandth; pixels fill their range, weights half of theirs"),
                ("threads", "one"),
            ]
        ),
    ]
    return made


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """The plot, by file name without its ending."""
    o = results["options"]
    made, axes = plots.figure(4.6 * len(o["layers"]) + 1.5, 4.4, len(o["layers"]))
    for ax, layer in zip(axes, o["layers"], strict=True):
        rows = [row for row in select(results, "conv") if (row["layer"], row["part"]) == (layer, "both")]
        names = list(dict.fromkeys((row["engine"], row["together"]) for row in rows))
        for k, name in enumerate(names):
            mine = [row for row in rows if (row["engine"], row["together"]) == name]
            at = [o["signatures"].index(row["signature"]) + 0.21 * (k - 1.5) for row in mine]
            ax.bar(at, [row["gnps"] for row in mine], 0.2, color=plots.COLORS[k], label=_loops(mine[0]))
        ax.set_xticks(range(len(o["signatures"])), o["signatures"], fontsize=8)
        ax.set_title(layer, fontsize=10, loc="left")
    axes[0].set_ylabel("GNPS, forward and backward")
    axes[-1].legend(frameon=False, fontsize=8)
    made.suptitle("Convolutions: a write for each position, a write for many, and plain C", fontsize=11)
    return {"conv": made}
