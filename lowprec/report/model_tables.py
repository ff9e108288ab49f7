"""Tables of the performance models, and of what they predict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from lowprec import perfmodel
from lowprec.perfmodel import Calibration, RooflineModel
from lowprec.perfmodel.roofs import LINE
from lowprec.report.model import roofs_of, select
from lowprec.report.sparse_data import DENSITY
from lowprec.report.tables import NONE, Table, machine_table, n_bytes, n_threads, number, power, times
from lowprec.signature import Signature

__all__ = ["figures", "prediction_table", "tables"]


def tables(results: dict[str, Any]) -> list[Table]:
    """The results as tables to read, in order."""
    return [
        machine_table(results | {"rows": select(results["rows"], "point")}),
        _roofs_table(results),
        _score_table(results),
        _signature_table(results),
        _constant_table(results),
        _paper_table(results),
    ]


def _roofs_table(results: dict[str, Any]) -> Table:
    roofs = roofs_of(select(results["rows"], "roof"))
    table = Table("Roofs", ["<", "", "<"])
    sizes = dict(roofs.read)
    for name, whole in results["machine"]["caches"].items():
        inside = [size for size in sizes if size <= whole / 2]
        if inside:
            size = max(inside)
            table.add(f"read, {name} cache", number(LINE / sizes[size]), f"GB/s, {power(size)} bytes again and again")
    table.add("read, memory", number(roofs.stream_gbps), "GB/s, one thread")
    table.add("", number(roofs.stream_all_gbps), f"GB/s, {roofs.threads} threads together")
    if roofs.line_ns is not None:
        table.add("core to core", number(roofs.line_ns), "ns for a cache line from one to the other")
        table.add("", number(roofs.contended_ns), "ns a line and thread, two threads changing the same bytes")
    table.add("vector arithmetic", number(roofs.vector_gops), "10^9 operations a second, one thread")
    return table


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _better(results: dict[str, Any]) -> str:
    found = {r["name"]: r for r in select(results["rows"], "score") if r["half"] == "held out" and r["threads"] is None}
    eq2, roofline = found["Eq. 2, all"], found["roofline, all"]
    first, second = ("roofline", "Eq. 2") if roofline["within_25"] >= eq2["within_25"] else ("Eq. 2", "roofline")
    a, b = (found[f"{name}, all"]["within_25"] for name in (first, second))
    return f"The better model here: {first}, with {_percent(a)} of the held-out points within 25 %; {second}: {_percent(b)}."


def _score_table(results: dict[str, Any]) -> Table:
    rows = [row for row in select(results["rows"], "score") if row["half"] == "held out"]
    table = Table(
        "Predicted against measured, on the model sizes that were held out",
        ["<data", "<threads", "<model", "points", "within 25 %", "within 50 %", "typical ratio"],
        strong=(4,),
    )
    for row in sorted(rows, key=lambda row: ("dense", "sparse", "all").index(row["name"].split(", ")[1])):
        name, kind = row["name"].split(", ")
        if name == "Eq. 2":
            table.rule()
        table.add(
            kind if name == "Eq. 2" else "",
            str(row["threads"] or "all") if name == "Eq. 2" else "",
            name,
            str(row["points"]),
            _percent(row["within_25"]),
            _percent(row["within_50"]),
            times(row["typical_ratio"]),
        )
    if rows:
        table.notes.append(_better(results))
    points = select(results["rows"], "point")
    missing = results["points_missing"]
    if missing:
        table.notes.append(
            f"{missing} of {missing + len(points)} points could not be measured: the threads were placed otherwise than for the "
            "roofs, or had no CPU each of their own. --resume tries again."
        )
    table.notes.append("Both models are fitted to every other model size. Typical ratio: 1.1x is 10 % too much or too little.")
    return table


def _signature_table(results: dict[str, Any]) -> Table:
    rows = [row for row in select(results["rows"], "point") if row["half"] == "held out"]
    counts = list(dict.fromkeys(row["threads"] for row in rows))
    heads = [f"{name}, {n_threads(t)}" for t in counts for name in ("Eq. 2", "roofline")]
    table = Table("By signature: typical ratio of predicted and measured, held-out sizes", ["<signature", *heads])
    for name in dict.fromkeys(row["signature"] for row in rows):
        cells = []
        for t in counts:
            mine = [row for row in rows if (row["signature"], row["threads"]) == (name, t)]
            for key in ("eq2_gnps", "roofline_gnps"):
                logs = [abs(math.log(row[key] / row["gnps"])) for row in mine]
                cells.append(times(math.exp(statistics.fmean(logs))) if logs else NONE)
        table.add(name, *cells)
    return table


def _constant_table(results: dict[str, Any]) -> Table:
    calibration = Calibration.from_dict(results["calibration"])
    vector = calibration.roofline.roofs.vector_gops
    table = Table(
        "Constants, fitted to all points",
        ["<signature", "T1 GNPS", "number ps", "operations", "example ns", "turn ns", "contact", "reach"],
    )
    for name, c in calibration.roofline.costs.items():
        table.add(
            name,
            number(calibration.paper.base[name]),
            number(1e3 * c.number_ns),
            number(c.number_ns * vector, 2) if vector else NONE,
            number(c.example_ns),
            number(c.turn_ns),
            number(c.contact),
            n_bytes(c.reach_bytes) if c.contact else NONE,
        )
    p = calibration.paper
    table.notes.append(f"Eq. 3: p = min({p.cap:.3f}, {p.slope:.3f} ln(n/256)); the paper plots 0.95 and 0.15.")
    table.notes.append("Operations: a number's time in vector operations of the probe. See docs/performance-model.md.")
    return table


def _paper_table(results: dict[str, Any]) -> Table:
    table = Table(
        "The paper's Fig 3 and its Eq. 2, from the published series",
        ["<", "points", "within 50 %", "within 25 %", "typical ratio"],
    )
    for row in select(results["rows"], "paper score"):
        name = "cap 0.95, as plotted" if row["value"] == perfmodel.CAP else "cap 0.98, as printed"
        table.add(name, str(row["points"]), _percent(row["within_50"]), _percent(row["within_25"]), times(row["typical_ratio"]))
    table.notes.append("The paper's claim: 90 % of the points within 50 %.")
    return table


def prediction_table(
    calibration: Calibration, signature: str, sizes: Sequence[int], threads: int, density: float = DENSITY
) -> Table:
    """What both models predict.

    Raises
    ------
    ValueError
        For a signature that is not calibrated, n < 1 or threads < 1.
    """
    name = str(Signature(signature))
    sparse = Signature(signature).is_sparse
    density = density if sparse else 1.0
    model: RooflineModel = calibration.roofline
    what = f"{name}, {n_threads(threads)}" + (f", density {density:g}" if sparse else "")
    table = Table(
        f"{what}: predicted GNPS, and where the roofline model sees the nanoseconds of an example",
        ["n", "Eq. 2", "roofline", "<bound by", "example", "arithmetic", "memory", "caches", "sharing"],
        strong=(2,),
    )
    for n in sizes:
        terms = model.terms(name, n, threads, density)
        table.add(
            power(n),
            number(calibration.paper.predict(name, n, threads)),
            number(model.predict(name, n, threads, density)),
            terms.bound,
            *(number(getattr(terms, f.name)) for f in fields(terms)),
        )
    about = calibration.machine
    measured = model.roofs.threads
    table.notes.append(f"Calibrated on {about.get('cpu', 'an unknown CPU')}, lowprec {about.get('lowprec', '?')}.")
    if threads > measured:
        table.notes.append(f"More threads than the calibration has seen, {measured}: an extrapolation.")
    return table


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """The plots, by file name without its ending."""
    from lowprec.report import model_plots

    rows = results["rows"]
    points = select(rows, "point")
    return {
        "model-scatter": model_plots.scatter(points),
        "model-sizes": model_plots.sizes(points),
        "model-paper": model_plots.paper(select(rows, "paper")),
    }
