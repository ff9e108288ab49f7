"""Fig 5a: does it matter to what is learned how the model is rounded, and where the random words come from?

The paper's problem: logistic regression on data of its generative model, dense, n = 16K, and by the spacing of its points
m = 65,536 examples and 10 passes; D16M16, 18 threads, the mean of 5 runs. Here beside it D8M8, where rounding is coarse enough to
tell.

Ours, since the paper leaves it open: the step size is for each signature the one of `Options.factors` (over n) with which
the last pass ends nearest to the true model, once for rounding to nearest and once, with shared random words, for all that is
unbiased; data codes cover [-1, 1], the range of the data, and model codes 1.25 times that of the true model; the model starts at
zero; examples come in the same order in every pass; one thread, so that a run can be repeated to the bit. Runs differ in the seed
of the rounding alone.

The steps that were tried make a second table: where a step is so small that no update reaches half a quantum, rounding to nearest
learns nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowprec.report import paper
from lowprec.report.experiments import plots
from lowprec.report.experiments.common import Distances, Steps, best_step, choices, distances, make_row, results
from lowprec.report.rows import select
from lowprec.report.tables import NONE, Table, power

__all__ = ["FIELDS", "FULL", "QUICK", "Options", "figures", "measure", "tables"]

#: Ways to round that each have a step size of their own.
TRIED = ("nearest", "shared")

#: Ways to round, as `lowprec.train` takes them.
ROUNDINGS = ("nearest", "mt19937", "xorshift", "shared")

FIELDS = (
    "table",
    "signature",
    "rounding",
    "passes",
    "distance",
    "distance_min",
    "distance_max",
    "cosine",
    "paper_distance",
    "step_size",
    "n",
    "m",
    "runs",
    "widened",
)


@dataclass(frozen=True)
class Options:
    """What is trained.

    Parameters
    ----------
    n, m : int
        Model size and examples.
    passes : int
    runs : int
        With different seeds of the rounding; rounding to nearest has none, and runs once.
    signatures : tuple of str
    factors : tuple of float
        Step sizes to choose from, times n.
    limit : float
        What the codes of the model cover.
    seed : int
        Of the data, and of the first run.
    """

    n: int = 2**14
    m: int = 2**16
    passes: int = 10
    runs: int = 5
    signatures: tuple[str, ...] = ("D16M16", "D8M8")
    factors: tuple[float, ...] = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
    limit: float = 1.25
    seed: int = 1


FULL = Options()
QUICK = Options(n=2**11, m=2**13, runs=1)


def _options_of(rounding: str) -> dict[str, str]:
    return {"rounding": "nearest"} if rounding == "nearest" else {"random": rounding}


def measure(options: Options, progress: Any = lambda *_: None) -> dict[str, Any]:
    """Train with every signature and rounding.

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
    import lowprec as lp
    from lowprec.datasets import generative

    begin = time.perf_counter()
    o = options
    trials = len(TRIED) * len(o.factors)
    step = Steps(progress, len(o.signatures) * (1 + trials + 1 + 3 * o.runs))
    rows: list[dict[str, Any]] = []
    for signature in o.signatures:
        step(signature, "making the data")
        data = generative(o.n, o.m, o.seed, fmt=str(lp.Signature(signature).dataset))
        common = {"limit": o.limit, "passes": o.passes, "tell": step.within}

        factors = {}
        for rounding in TRIED:
            tried = {}
            for factor in o.factors:
                step(signature, f"{rounding}, step {factor:g}/n")
                more = _options_of(rounding)
                tried[factor] = distances(data, signature, step_factor=factor, seed=o.seed, **common, **more)
                rows.append(_row(o, "steps", signature, rounding, factor, [tried[factor]], o.passes))
            factors[rounding] = best_step(tried)
        for rounding in ROUNDINGS:
            factor = factors["nearest" if rounding == "nearest" else "shared"]
            runs = []
            for k in range(1 if rounding == "nearest" else o.runs):
                step(signature, f"{rounding}, run {k + 1}")
                more = _options_of(rounding)
                runs.append(distances(data, signature, step_factor=factor, seed=o.seed + k, **common, **more))
            rows += [_row(o, "rounding", signature, rounding, factor, runs, k) for k in range(o.passes + 1)]
        del data  # before the next signature's are made: they are as large
    progress("Done", "", 1.0)
    return results("rounding", options, begin, rows)


def _row(
    o: Options, table: str, signature: str, rounding: str, factor: float, runs: list[Distances], k: int
) -> dict[str, Any]:
    """What runs with one way of rounding are after k passes."""
    values = [run.distance[k] for run in runs]
    published = paper.distance_series(rounding) if (table, signature) == ("rounding", "D16M16") else {}
    return make_row(
        FIELDS,
        table=table,
        signature=signature,
        rounding=rounding,
        passes=k,
        distance=float(np.mean(values)),
        distance_min=min(values),
        distance_max=max(values),
        cosine=float(np.mean([run.cosine[k] for run in runs])),
        paper_distance=published.get(k),
        step_size=factor / o.n,
        n=o.n,
        m=o.m,
        runs=len(runs),
        widened=max(run.widened for run in runs),
    )


def _of(results: dict[str, Any], table: str, signature: str, rounding: str) -> list[dict[str, Any]]:
    return [row for row in select(results, table) if (row["signature"], row["rounding"]) == (signature, rounding)]


def _steps_table(results: dict[str, Any]) -> Table:
    """What became of every step that was tried."""
    o = results["options"]
    kinds = [(signature, rounding) for signature in o["signatures"] for rounding in TRIED]
    by = {kind: _of(results, "steps", *kind) for kind in kinds}
    title = f"Every step that was tried: distance after {o['passes']} passes"
    table = Table(title, ["step x n", *(f"{signature} {rounding}" for signature, rounding in kinds)])
    for k, factor in enumerate(o["factors"]):
        table.add(f"{factor:g}", *(f"{by[kind][k]['distance']:.4f}" for kind in kinds))
    table.notes.append("Where the distance is that of w = 0, no update reaches half a quantum: rounding to nearest loses all.")
    return table


def tables(results: dict[str, Any]) -> list[Table]:
    """The results as tables to read."""
    o = results["options"]
    made = []
    for signature in o["signatures"]:
        mine = {r: _of(results, "rounding", signature, r) for r in ROUNDINGS}
        published = [r for r in ROUNDINGS if any(row["paper_distance"] is not None for row in mine[r])]
        table = Table(
            f"{signature}: distance to the true model, n = {power(o['n'])}, m = {power(o['m'])}",
            ["<after pass", *("nearest" if r == "nearest" else r for r in ROUNDINGS), *(f"{r} *" for r in published)],
        )
        for k in range(o["passes"] + 1):
            ours = (f"{mine[r][k]['distance']:.4f}" for r in ROUNDINGS)
            theirs = (mine[r][k]["paper_distance"] for r in published)
            table.add(str(k), *ours, *(NONE if value is None else f"{value:.4f}" for value in theirs))
        table.rule()
        last = {r: mine[r][-1] for r in ROUNDINGS}
        blank = [""] * len(published)
        spread = (NONE if row["runs"] == 1 else f"{row['distance_max'] - row['distance_min']:.1g}" for row in last.values())
        table.add("runs apart by", *spread, *blank)
        table.add("cosine to w*", *(f"{row['cosine']:.3f}" for row in last.values()), *blank)
        table.add("step x n", *(f"{row['step_size'] * o['n']:g}" for row in last.values()), *blank)
        if not published:
            table.notes.append("The paper has no such curve.")
        else:
            smaller = "; its problem is larger, n = 2^14, m = 2^16" if (o["n"], o["m"]) != (FULL.n, FULL.m) else ""
            table.notes.append(f"*: the paper, Fig 5a{smaller}. It has no curve of rounding to nearest.")
        made.append(table)
    made.append(_steps_table(results))
    made.append(
        choices(
            [
                ("distance", "||w - w*|| / (2 sqrt(n)): 1/sqrt(12) at the start, where the paper's curves begin"),
                ("examples, passes", f"{o['m']:,} and {o['passes']}; the paper's are told by the spacing of its points"),
                ("step size", "of those in the table above, the one that ends nearest; one for nearest, one for the others"),
                ("scales", f"data codes cover [-1, 1], model codes [-{o['limit']:g}, {o['limit']:g}]"),
                ("start, order", "w = 0; the same order in every pass"),
                ("threads", "one (paper: 18); runs differ in the seed of the rounding alone"),
            ]
        )
    )
    return made


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """The plots, by file name without its ending."""
    o = results["options"]
    panels = {}
    for signature in o["signatures"]:
        panels[signature] = [
            plots.Line(
                rounding,
                [(row["passes"], row["distance"]) for row in mine],
                [(row["passes"], row["paper_distance"]) for row in mine if row["paper_distance"] is not None],
                [(row["passes"], row["distance_min"], row["distance_max"]) for row in mine],
            )
            for rounding in ROUNDINGS
            for mine in [_of(results, "rounding", signature, rounding)]
        ]
    made = plots.lines(
        f"Rounding and what is learned: n = {power(o['n'])}, {o['m']:,} examples",
        panels,
        x="passes",
        y=["distance to the true model"] * len(panels),
        x_ticks=range(0, o["passes"] + 1, 2),
        log_y=True,
    )
    steps = plots.lines(
        f"The step size and rounding to nearest, after {o['passes']} passes",
        {
            signature: [
                plots.Line(rounding, [(row["step_size"] * o["n"], row["distance"]) for row in mine])
                for rounding in TRIED
                for mine in [_of(results, "steps", signature, rounding)]
            ]
            for signature in o["signatures"]
        },
        x="step size times n",
        y=["distance to the true model"] * len(panels),
        x_ticks=o["factors"],
        log_x=True,
        log_y=True,
    )
    return {"rounding": made, "rounding-steps": steps}
