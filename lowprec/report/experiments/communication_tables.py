"""``lowprec experiment communication``: its results as tables to read, and its plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lowprec.perfmodel import Link
from lowprec.report import projection
from lowprec.report.experiments import plots
from lowprec.report.experiments.common import choices
from lowprec.report.rows import FLOAT, select
from lowprec.report.tables import NONE, Table, duration, number, power, times

__all__ = ["figures", "tables"]


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:+.2f} %"


def _by_codec(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, bool, bool], dict[str, Any]]:
    """Runs of float32 data and models, example by example, by codec, synchronous, feedback."""
    plain = [row for row in rows if row["signature"].startswith(f"{FLOAT}C")]
    return {(row["codec"], row["synchronous"], row["error_feedback"]): row for row in plain}


def _loss_table(o: Mapping[str, Any], name: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Last losses of one data set: codecs by how they are used."""
    by = _by_codec(rows)
    full = by["32f", True, True]
    table = Table(
        f"{name}: training loss over that of C32fs, {full['m']:,} rows of {full['n']:,} features, {o['workers']} workers",
        ["<", "bytes an exchange", "fewer", "synchronous", "no feedback", "asynchronous", "no feedback"],
        strong=(3,),
    )
    for C in o["codecs"]:
        row = by[C, True, True]
        losses = (_percent(by[C, s, kept]["excess"]) for s in (True, False) for kept in (True, False))
        table.add(f"C{C}", f"{row['bytes_per_step']:,.0f}", times(row["float32_ratio"]), *losses)
    alone = next(row for row in rows if row["signature"] == FLOAT)
    table.notes.append(
        f"C32fs ends at {full['final_loss']:.5f}, one thread at {alone['final_loss']:.5f} ({_percent(alone['excess'])}); "
        f"{o['passes']} passes, rounds of {o['sync_every']}, step {number(full['step_size'])}, falling linearly."
    )
    return table


def _others_table(o: Mapping[str, Any], name: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Last losses of one data set: other signatures."""
    by = {row["signature"]: row for row in rows}
    table = Table(
        f"{name}: other signatures, loss over that of D32fM32fC32fs",
        ["<", "batch", "round", "bytes an exchange", "loss", "excess"],
    )
    for signature in (*o["others"], *o["batched"]):
        row = by[signature]
        shown = (row["batch_size"], row["sync_every"], f"{row['bytes_per_step']:,.0f}", f"{row['final_loss']:.5f}")
        table.add(signature, *map(str, shown), _percent(row["excess"]))
    table.notes.append("G1C1s: Seide et al., 2014; the gradient of a batch is what is sent.")
    return table


def _rounds_table(o: Mapping[str, Any], rows: Sequence[dict[str, Any]]) -> Table:
    """Last losses by codec and length of a round."""
    by = {(row["codec"], row["sync_every"]): row for row in rows}
    title = f"{rows[0]['data']}: loss over that of C32fs with rounds of {o['sync_every']}, by the examples of a round"
    table = Table(title, ["<", *(f"{every}" for every in o["rounds"])])
    for C in o["codecs"]:
        table.add(f"C{C}s", *(_percent(by[C, every]["excess"]) for every in o["rounds"]))
    table.notes.append("Feedback, synchronous, the same step for all: the workers' changes are added up, not averaged.")
    return table


def _time_table(o: Mapping[str, Any], name: str, rows: Sequence[dict[str, Any]], alone: float) -> Table:
    """Seconds of training; `alone`: those of one thread."""
    how = rows[0]["workers"]
    counts = sorted({row["ranks"] for row in rows})
    columns = [f"{count} {kind}" for count in counts for kind in ("sync.", "async.")]
    table = Table(f"{name}: seconds of {o['passes']} passes, by {how}", ["<", *columns])
    runs = {count: _by_codec([row for row in rows if row["ranks"] == count]) for count in counts}
    for C in o["codecs"]:
        each = [runs[count][C, s, True] for count in counts for s in (True, False)]
        table.add(f"C{C}", *(number(row["seconds"]) for row in each))
    table.notes.append(f"One run each, of float32 data and model; one thread alone: {number(alone)}.")
    same = [row["same_as_threads"] for row in rows if row["same_as_threads"] is not None]
    if same:
        table.notes.append(
            f"Synchronous ranks came to the model of as many threads, to the bit, in {sum(same)} of {len(same)} runs."
        )
    if how == "threads":
        table.notes.append("There is no mpi4py, or no mpiexec: these are threads, whose messages cross no wire.")
    return table


def _coding_table(results: Mapping[str, Any]) -> Table:
    """What the projection begins with."""
    (alone,), rows = select(results, "alone"), select(results, "coding")
    table = Table(f"Coding, n = {power(alone['n'])}, M8: 10^9 numbers a second of one core", ["<", "encode", "decode"])
    for row in rows:
        table.add(f"C{row['codec']}", number(row["encode"] / 1e9), number(row["decode"] / 1e9))
    gnps = alone["n"] * alone["sync_every"] / alone["seconds"] / 1e9
    table.notes.append(
        f"{alone['sync_every']} examples take {duration(alone['seconds'])} without communication, {number(gnps)} GNPS; "
        "all measured on two cores at once, or one, if there is no other or no mpi4py."
    )
    return table


def _projection_tables(results: Mapping[str, Any]) -> list[Table]:
    """Links, coding, the check, and what is projected of every link that is assumed."""
    links = {row["link"]: Link(row["latency_seconds"], row["bandwidth"]) for row in select(results, "link")}
    made = [projection.link_table(links), _coding_table(results)]
    for asynchronous in (False, True):
        rows = [row for row in select(results, "check") if row["asynchronous"] == asynchronous]
        if rows:
            made.append(projection.check_table(rows))
    if len(made) == 2:
        made[0].notes.append("There is no mpi4py, or no mpiexec: no link was measured, and no projection checked.")
    projected = [row for row in select(results, "projection") if not row["asynchronous"]]
    for link in dict.fromkeys(row["link"] for row in projected):
        rows = [row for row in projected if row["link"] == link]
        made += [projection.throughput_table(rows), projection.speedup_table(rows)]
    return made


def tables(results: dict[str, Any]) -> list[Table]:
    """The results as tables to read."""
    o, made = results["options"], []
    for name in o["data"]:
        runs = [row for row in select(results, "runs") if row["data"] == name]
        threads = [row for row in runs if row["workers"] == "threads" and row["ranks"] in (1, o["workers"])]
        made += [_loss_table(o, name, threads), _others_table(o, name, threads)]
        rounds = [row for row in select(results, "rounds") if row["data"] == name]
        if rounds:
            made.append(_rounds_table(o, rounds))
        alone = next(row["seconds"] for row in runs if row["signature"] == FLOAT)
        made.append(_time_table(o, name, _timed(runs), alone))
    made += _projection_tables(results)
    factors = ", ".join(f"{factor:g}" for factor in o["factors"])
    kinds = [
        ("data", "mnist: even digits against odd ones, pixels over 255; generated: the paper's problem, n = 256"),
        ("step size", f"of {factors} over the mean squared norm that with the lowest mean of C32fs's losses after every pass"),
        ("schedule", "the step falls linearly to 0, so that last losses are no noise"),
        ("round", f"{o['sync_every']} examples of a worker; of the rows with a G term {o['batch_size']}, a batch"),
        ("order, bias", "a new random order in every pass; an intercept in float64"),
        ("losses", f"of {o['workers']} threads, one run each: synchronous ones repeat to the bit, others do not"),
        ("projection", f"D8M8, n = {power(o['n_large'])}, rounds of {o['sync_every']} examples; weak scaling"),
    ]
    return [*made, choices(kinds, "Our choices")]


def _timed(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs whose time counts: those of ranks, or where there are none, of several threads."""
    ranks = [row for row in runs if row["workers"] == "ranks"]
    return ranks or [row for row in runs if row["ranks"] > 1]


# ---- plots ---------------------------------------------------------------------------------------------------------

#: Below this, in %, an excess is drawn at the floor: it is noise, or none.
_FLOOR = 0.01


def _ticks(lines: Mapping[str, Sequence[plots.Line]]) -> list[float]:
    """Plain numbers that reach over all points."""
    at = [x for shown in lines.values() for line in shown for x, _ in line.points]
    powers = range(math.floor(math.log10(min(at))), math.ceil(math.log10(max(at))) + 1)
    ticks = [digit * 10.0**k for k in powers for digit in (1, 3)]
    return [tick for tick in ticks if min(at) / 2 <= tick <= max(at) * 2]


def _traces(title: str, rows: Sequence[dict[str, Any]], key: str, factor: float, x: str) -> Any:
    """Loss over bytes or time: a panel for each data set and way, a line for each codec."""
    panels: dict[str, list[plots.Line]] = {}
    for row in rows:
        panels.setdefault(f"{row['data']}, {'synchronous' if row['synchronous'] else 'asynchronous'}", [])
    for heading, shown in panels.items():
        mine = [row for row in rows if heading == f"{row['data']}, {'synchronous' if row['synchronous'] else 'asynchronous'}"]
        for C in dict.fromkeys(row["codec"] for row in mine):
            shown.append(plots.Line(f"C{C}", [(factor * row[key], row["loss"]) for row in mine if row["codec"] == C]))
    y = ["training loss"] * len(panels)
    return plots.lines(title, panels, x=x, y=y, x_ticks=_ticks(panels), log_x=True, same_y=False, width=3.6)


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """The plots, by file name without its ending."""
    o = results["options"]
    runs = [row for row in select(results, "runs") if row["signature"].startswith(f"{FLOAT}C")]
    traces = [row for row in select(results, "trace") if row["signature"].startswith(f"{FLOAT}C") and row["error_feedback"]]
    threads = [row for row in traces if row["workers"] == "threads" and row["ranks"] == o["workers"]]
    timed = _timed(traces)
    # No more workers than processors, if there is such a number: they would measure how processes take turns.
    counts = sorted({row["ranks"] for row in timed})
    ranks = max([count for count in counts if count <= results["machine"]["cpus_usable"]], default=counts[0])
    panels: dict[str, list[plots.Line]] = {name: [] for name in o["data"]}
    for name, shown in panels.items():
        mine = [row for row in runs if (row["data"], row["workers"], row["ranks"]) == (name, "threads", o["workers"])]
        for synchronous in (True, False):
            for kept in (True, False):
                label = f"{'synchronous' if synchronous else 'asynchronous'}{'' if kept else ', no feedback'}"
                points = [
                    (int(row["codec"].rstrip("f")), max(100 * row["excess"], _FLOOR))
                    for row in mine
                    if (row["synchronous"], row["error_feedback"]) == (synchronous, kept) and row["codec"] != "16f"
                ]
                shown.append(plots.Line(label, points))
    bits = [bits for bits in (1, 2, 4, 8, 16, 32) if any(x == bits for shown in panels.values() for x, _ in shown[0].points)]
    projected = [row for row in select(results, "projection") if not row["asynchronous"]]
    return {
        "communication-bytes": _traces(
            f"Loss over what a worker has sent: {o['workers']} workers, with feedback",
            threads,
            "bytes",
            1e-6,
            "MB sent by a worker",
        ),
        "communication-time": _traces(
            f"Loss over time: {ranks} {timed[0]['workers']}, with feedback",
            [row for row in timed if row["ranks"] == ranks],
            "seconds",
            1.0,
            "seconds",
        ),
        "communication-feedback": plots.lines(
            f"Last loss over that of C32fs (below {_FLOOR} %: drawn there), {o['workers']} workers",
            panels,
            x="bits of C (32: float32)",
            y=["excess loss, %"] * len(panels),
            x_ticks=bits,
            log_x=True,
            log_y=True,
        ),
        "communication-machines": projection.figure(projected),
    }
