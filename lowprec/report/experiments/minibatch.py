"""Fig 6e: what mini-batches cost in what is learned, at several precisions.

The paper's problem: logistic regression on data of its generative model, n = 4K, distance to the optimum after 10 passes for
batches of 1 to 64 examples, whose gradients are added up, not averaged.

Ours, since the paper leaves it open: m = 65,536 examples, as for Fig 5a; one step size for all batches and precisions, the one of
`Options.factors` (over n) with which float32 without batches ends nearest to the true model; data codes cover [-1, 1] and model
codes 1.25 times that; the model starts at zero; the same order in every pass; one thread. Batches beyond the paper's 64 show
that their size hardly matters in this problem: vectors of n independent numbers are nearly orthogonal, so the gradients of a
batch do not disturb each other as long as there are far fewer of them than features.

The paper's curves rise from B = 8 on. Such curves are found where passes are counted in updates and not in examples: as many
writes of the model for every B, so that B = 64 sees 64 times as many examples, and the model, whose data can all but be
separated, outgrows the true one. That is measured too (`counted` "updates"), with half the step, which comes nearest to the
paper's curves, and with a model of four times the range, which such growth needs. Whether the paper counted so, it does not say.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from lowprec.report import paper
from lowprec.report.experiments import plots
from lowprec.report.experiments.common import Steps, best_step, choices, distances, make_row, results
from lowprec.report.rows import FLOAT
from lowprec.report.tables import NONE, Table, power

__all__ = ["FIELDS", "FULL", "QUICK", "Options", "figures", "measure", "tables"]

FIELDS = (
    "table",
    "signature",
    "counted",
    "batch_size",
    "distance",
    "cosine",
    "paper_distance",
    "step_size",
    "passes",
    "n",
    "m",
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
    signatures : tuple of str
    batch_sizes : tuple of int
    factors : tuple of float
        Step sizes to choose from, times n.
    updates_signatures, updates_sizes : tuple
        What is trained on with passes counted in updates.
    limit, updates_limit : float
        What the codes of the model cover; where updates are counted the model grows large.
    seed : int
        Of the data and of the rounding.
    """

    n: int = 2**12
    m: int = 2**16
    passes: int = 10
    signatures: tuple[str, ...] = (FLOAT, "D16M16", "D8M16", "D8M8")
    batch_sizes: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 20, 26, 32, 40, 52, 64, 128, 256, 512, 1024, 2048, 4096)
    factors: tuple[float, ...] = (4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
    updates_signatures: tuple[str, ...] = ("D16M16", "D8M16")
    updates_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    limit: float = 1.25
    updates_limit: float = 5.0
    seed: int = 1


FULL = Options()
QUICK = Options(n=2**10, m=2**14, batch_sizes=(1, 2, 4, 8, 16, 32, 64, 256, 1024))


def measure(options: Options, progress: Any = lambda *_: None) -> dict[str, Any]:
    """Train with every signature and size of a batch.

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
    formats = {s: str(lp.Signature(s).dataset) for s in o.signatures}
    total = len(o.factors) + 1 + len(set(formats.values())) + len(o.signatures) * len(o.batch_sizes)
    step = Steps(progress, total + len(o.updates_signatures) * sum(o.updates_sizes))
    common = {"seed": o.seed, "tell": step.within}

    step("Step size", "making the data")
    data = generative(o.n, o.m, o.seed, fmt="32f")

    tried = {}
    for factor in o.factors:
        step("Step size", f"{FLOAT}, {factor:g}/n")
        tried[factor] = distances(data, FLOAT, step_factor=factor, limit=o.limit, passes=o.passes, **common)
    best, held = best_step(tried), "32f"
    rows: list[dict[str, Any]] = []
    for signature in o.signatures:
        published = paper.series("fig6e", signature)
        if formats[signature] != held:
            step(signature, "making the data")
            del data  # before the next are made
            held = formats[signature]
            data = generative(o.n, o.m, o.seed, fmt=held)
        cases = [("examples", size, o.passes, best, o.limit) for size in o.batch_sizes]
        if signature in o.updates_signatures:
            cases += [("updates", size, o.passes * size, best / 2, o.updates_limit) for size in o.updates_sizes]
        for counted, size, passes, factor, limit in cases:
            step(signature, f"B = {size}, {passes} passes", passes / o.passes)
            found = distances(
                data, signature, step_factor=factor, limit=limit, passes=passes, batch_size=size, **common
            )
            rows.append(
                make_row(
                    FIELDS,
                    table="minibatch",
                    signature=signature,
                    counted=counted,
                    batch_size=size,
                    distance=found.distance[-1],
                    cosine=found.cosine[-1],
                    paper_distance=published.get(size),
                    step_size=factor / o.n,
                    passes=passes,
                    n=o.n,
                    m=o.m,
                    widened=found.widened,
                )
            )
    progress("Done", "", 1.0)
    return results("minibatch", options, begin, rows)


_HEADINGS = {"examples": "{} passes over the examples", "updates": "as many updates as {} passes one by one have"}


def _table(results: dict[str, Any], counted: str) -> Table:
    """Distances by B and signature, the paper's beside them."""
    o = results["options"]
    rows = [row for row in results["rows"] if row["counted"] == counted]
    by = {(row["signature"], row["batch_size"]): row for row in rows}
    signatures, sizes = (list(dict.fromkeys(row[key] for row in rows)) for key in ("signature", "batch_size"))
    published = [s for s in signatures if any(by[s, b]["paper_distance"] is not None for b in sizes)]
    table = Table(
        f"Distance to the true model after {_HEADINGS[counted].format(o['passes'])}, n = {power(o['n'])}, m = {power(o['m'])}",
        ["B", *signatures, *(f"{s} *" for s in published)],
    )
    for size in sizes:
        theirs = (by[s, size]["paper_distance"] for s in published)
        table.add(
            f"{size:,}",
            *(f"{by[s, size]['distance']:.4f}" for s in signatures),
            *(NONE if value is None else f"{value:.4f}" for value in theirs),
        )
    smaller = "; its problem is larger, n = 2^12" if o["n"] != FULL.n else ""
    table.notes.append(f"Step {rows[0]['step_size'] * o['n']:g}/n. *: the paper, Fig 6e{smaller}. It has no curve of D8M8.")
    return table


def tables(results: dict[str, Any]) -> list[Table]:
    """The results as tables to read."""
    o = results["options"]
    made = [_table(results, "examples")]
    made[0].notes.append(
        "Gradients of independent features are nearly orthogonal: a batch hardly matters while it is much smaller than n."
    )
    if o["updates_signatures"]:
        made.append(_table(results, "updates"))
        made[1].notes.append("B examples an update: B = 64 sees 64 times as many. Whether the paper counts so, it does not say.")
    best = next(row["step_size"] for row in results["rows"]) * o["n"]
    chosen = choices(
        [
            ("distance", "||w - w*|| / (2 sqrt(n)), which is 1/sqrt(12) = 0.2887 at the start"),
            ("examples", f"{o['m']:,}"),
            (
                "step size",
                f"{best:g}/n, of {', '.join(f'{f:g}' for f in o['factors'])} over n float32's best without batches; half of that "
                "where updates are counted, which comes nearest to the paper's curves",
            ),
            ("scales", f"data codes cover [-1, 1], model codes +-{o['limit']:g}; +-{o['updates_limit']:g} with updates counted"),
            ("start, order, threads", "w = 0; the same order in every pass; one thread"),
            ("G", "exact: the sum of a batch's gradients is not rounded before it is added to the model"),
        ]
    )
    return [*made, chosen]


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """The plot, by file name without its ending."""
    rows, o = results["rows"], results["options"]
    panels: dict[str, list[plots.Line]] = {}
    for row in rows:
        heading = _HEADINGS[row["counted"]].format(o["passes"])
        shown = panels.setdefault(heading[0].upper() + heading[1:], [])
        if row["signature"] not in [line.name for line in shown]:
            mine = [r for r in rows if (r["signature"], r["counted"]) == (row["signature"], row["counted"])]
            ours = [(r["batch_size"], r["distance"]) for r in mine]
            theirs = [(r["batch_size"], r["paper_distance"]) for r in mine if r["paper_distance"] is not None]
            shown.append(plots.Line(row["signature"], ours, theirs))
    made = plots.lines(
        f"Mini-batches and what is learned: n = {power(o['n'])}",
        panels,
        x="examples to a batch",
        y=["distance to the true model"] * len(panels),
        x_ticks=[b for b in o["batch_sizes"] if b & (b - 1) == 0][::2],
        log_x=True,
        log_y=True,
    )
    return {"minibatch": made}
