"""Tables and plots of `lowprec cache`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lowprec.report.cache.plan import PREFETCH_LINES, STORE_BUFFER
from lowprec.report.experiments import plots
from lowprec.report.experiments.common import choices
from lowprec.report.tables import NONE, Table, number, power, times

__all__ = ["figures", "tables", "trace_table"]


def _percent(q: float) -> str:
    return f"{100 * q:g} %"


def _ratio(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}x"


def _select(results: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return [row for row in results["rows"] if all(row[name] == value for name, value in fields.items())]


def _groups(rows: Sequence[dict[str, Any]], *names: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    made: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        made.setdefault(tuple(row[name] for name in names), []).append(row)
    return made


def _speed_table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """GNPS at q = 0, the speedups at the others; the paper's beside where it has some."""
    by = {(row["n"], row["q"]): row for row in rows}
    sizes, qs = sorted({row["n"] for row in rows}), sorted({row["q"] for row in rows})
    published = any(row["paper_gnps"] is not None for row in rows)
    others = [q for q in qs if q > 0]
    columns = ["n", "GNPS, q = 0", *(_percent(q) for q in others)]
    if published:
        columns += ["GNPS *", *(f"{_percent(q)} *" for q in others)]
    table = Table(title, columns)
    for n in sizes:
        cells = [power(n), number(by[n, 0.0]["gnps"]), *(_ratio(by[n, q]["speedup"]) for q in others)]
        if published:
            cells += [number(by[n, 0.0]["paper_gnps"]), *(_ratio(by[n, q]["paper_speedup"]) for q in others)]
        table.add(*cells)
    notes = ["Percentages: speedup at this q over q = 0."] if others else []
    if published:
        notes.append("*: the paper, Fig 6c.")
    if notes:
        table.notes.append(" ".join(notes))
    return table


def _fig6c(results: dict[str, Any]) -> list[Table]:
    made = []
    for (signature, core), rows in _groups(_select(results, figure="6c"), "signature", "core").items():
        what = f"{rows[0]['cores']} cores" if core == "in-order" else f"{rows[0]['cores']} cores that prefetch"
        table = _speed_table(f"Fig 6c, simulated: {signature}, {what}", rows)
        if core == "in-order":
            table.notes.append(
                "An in-order core waits for every line of the model. So the gain stays until the model no longer fits the first "
                "level, 32 KiB; in the paper, whose code prefetched, it fades earlier."
            )
        else:
            table.notes.append(
                f"The model is prefetched {PREFETCH_LINES} lines ahead within a pass over it; {STORE_BUFFER} stores are "
                "buffered. "
                "Fitted to D8M8: of the distances from 1 to 16, this one comes nearest to the paper's curve."
            )
        made.append(table)
    for (signature,), rows in _groups(_select(results, figure="6c-here"), "signature").items():
        table = _speed_table(f"Two cores like this machine's, simulated: {signature}", rows)
        table.notes.append("In times measured here: of an example without sharing, and of a line from core to core.")
        made.append(table)
    return made


def _two_core(results: dict[str, Any]) -> list[Table]:
    rows = _select(results, figure="two-core")
    if not rows:
        return []
    by = {(row["core"] == "real", row["value"]): row for row in rows}
    real, made = by[True, "shared"], by[False, "shared"]
    n = real["n"]
    columns = ["<", "private GNPS", "shared GNPS", "slow-down", "quartiles"]
    table = Table(f"Sharing a model between two cores, D8M8, n = {n}", columns)
    quartiles = f"{number(real['ratio_q1'])}-{number(real['ratio_q3'])}"
    for name, key, row, spread in (("this machine", True, real, quartiles), ("simulated", False, made, NONE)):
        table.add(name, number(by[key, "private"]["gnps"]), number(row["gnps"]), times(row["ratio"]), spread)
    table.notes.append(
        f"Simulated from what an example takes with private models ({number(by[True, 'private']['example_ns'])} ns) and a line "
        f"from core to core ({number(real['line_ns'])} ns), {made['overlap']} loads and {made['store_buffer']} stores under way. "
        f"Simulated over measured slow-down: {number(made['ratio'] / real['ratio'])}."
    )
    return [table]


def _sensitivity(results: dict[str, Any]) -> list[Table]:
    rows = _select(results, figure="sensitivity")
    if not rows:
        return []
    sizes = sorted({row["n"] for row in rows})
    signature = rows[0]["signature"]
    columns = ["<", "<", *(f"n = {power(n)}" for n in sizes), "GNPS, q = 0"]
    table = Table(f"What the speedup at q = 95 % depends on: {signature}", columns)
    for (variant, value), mine in _groups(rows, "variant", "value").items():
        by = {(row["n"], row["q"]): row for row in mine}
        table.add(variant, value, *(times(by[n, 0.95]["speedup"]) for n in sizes), number(by[sizes[0], 0.0]["gnps"]))
    table.notes.append(
        f"GNPS: at n = {power(sizes[0])}. Everything but what is named is as in Fig 6c, in-order; where prefetching is "
        "named, as on the core that prefetches."
    )
    return [table]


def _fig6f(results: dict[str, Any]) -> list[Table]:
    rows = _select(results, figure="6f")
    if not rows:
        return []
    by = {(row["q"], row["passes"]): row for row in rows}
    qs, passes = sorted({row["q"] for row in rows}), sorted({row["passes"] for row in rows})
    first = rows[0]
    made = Table(
        f"Fig 6f, simulated: distance to the true model, {first['signature']}, n = {power(first['n'])}, {first['cores']} cores",
        ["passes", *(f"q = {_percent(q)}" for q in qs), "paper, 0 % *", "95 % *"],
    )
    for k in passes:
        theirs = (by.get((q, k), {}).get("paper_distance") for q in (0.0, 0.95))
        cells = [NONE if value is None else f"{value:.4f}" for value in theirs]
        made.add(str(k), *(f"{by[q, k]['distance']:.4f}" for q in qs), *cells)
    last = passes[-1]
    most = qs[-1] if 0.95 not in qs else 0.95
    beside = by[most, last]["distance"] / by[0.0, last]["distance"] - 1
    stale = ", ".join(f"{_percent(q)}: {100 * by[q, last]['stale']:.0f} %" for q in qs if q > 0)
    made.notes.append(
        f"At q = {_percent(most)} the last distance is {100 * beside:+.2f} % from that at q = 0. Loads of the model that read "
        f"a stale line: {stale}."
    )
    made.notes.append("*: the paper, which states neither n nor the step size.")
    tables = [made]
    more = _groups(_select(results, figure="6f-variants", passes=last), "signature", "update", "batch_size")
    if more:
        shown = (0.0, 0.95, 1.0)
        variants = Table(
            f"Learning otherwise: distance after {last} passes, over that at q = 0 (as any load: over Fig 6f's)",
            ["<", "<update", "batch", *(f"q = {_percent(q)}" for q in shown)],
        )
        for (signature, update, size), mine in more.items():
            distance = {row["q"]: row["distance"] for row in mine}
            zero = by[0.0, last]["distance"] if update == "load" else distance[0.0]
            cells = [f"{distance[q]:.4f} ({times(distance[q] / zero)})" if q in distance else NONE for q in shown]
            variants.add(signature, "asks first" if update == "own" else "as any load", str(size), *cells)
        variants.notes.append(
            "An update that reads its line as any other load may read a stale one, and writes it back: what other cores have "
            "learned meanwhile is lost. Even at q = 0 another core may write between its load and its store. One that asks for "
            "the line first loses hardly anything, at any q."
        )
        tables.append(variants)
    return tables


def tables(results: dict[str, Any]) -> list[Table]:
    """The results as tables to read."""
    o = results["options"]
    made = [*_fig6c(results), *_two_core(results), *_sensitivity(results), *_fig6f(results)]
    fig6f = _select(results, figure="6f")
    counted = _select(results, figure="instructions")
    by = {(row["signature"], row["value"]): row["ratio"] for row in counted}
    first = o["signatures"][0]
    pairs = [
        ("machine", "18 cores of 2.5 GHz, 32 KiB, 256 KiB (12 cycles), 45 MiB in 18 slices (36): the paper's"),
        ("ways, memory, remote", "8, 8, 20 ways; 100 cycles; 16 for other cores' copies: the processor's, and ZSim's defaults"),
        ("congestion", "none, as in the paper: nothing waits for a busy link, slice or line"),
        (
            "computing",
            f"instructions of our kernels, one cycle each: {first} {by[first, 'example']:g} an example, {by[first, 'dot']:.2g} a "
            f"number of a product, {by[first, 'axpy']:.2g} of an update",
        ),
        ("algorithm", "product, then update (the paper's Fig 1); the update asks for a line before it reads it"),
        ("coin, directory", "a coin in each cache; the directory drops a sharer when it sends the invalidation"),
        ("data", "new ones in every pass, prefetched 8 KiB ahead into the second level, as our kernels do"),
    ]
    if fig6f:
        pairs += [
            ("distance", "||w - w*|| / (2 sqrt(n)), which is 1/sqrt(12) = 0.2887 at the start"),
            (
                "step size, Fig 6f",
                f"{fig6f[0]['step_size'] * fig6f[0]['n']:g}/n, with which float32 on one core ends nearest to the true model",
            ),
        ]
    made.append(choices(pairs))
    speeds = sorted(row["accesses_per_second"] for row in _select(results, figure="6c"))
    if speeds:
        each = speeds[len(speeds) // 2] / 1e6
        made[-1].notes.append(
            f"Simulated at {each:.1f} million accesses a second and core of this machine (median of Fig 6c's points)."
        )
    return made


def _lines(rows: Sequence[dict[str, Any]]) -> list[plots.Line]:
    made = []
    for (q,), mine in sorted(_groups(rows, "q").items()):
        theirs = [(row["n"], row["paper_gnps"]) for row in mine if row["paper_gnps"] is not None]
        made.append(plots.Line(f"q = {_percent(q)}", [(row["n"], row["gnps"]) for row in mine], theirs))
    return made


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """The plots, by file name without its ending."""
    made = {}
    o = results["options"]
    ticks = list(o["sizes"])[:: max(1, len(o["sizes"]) // 4)]
    for (signature,), rows in _groups(_select(results, figure="6c"), "signature").items():
        panels = {
            {"in-order": "in-order cores", "prefetch": "cores that prefetch"}[core]: _lines(mine)
            for (core,), mine in _groups(rows, "core").items()
        }
        made[f"cache-{signature}"] = plots.lines(
            f"The obstinate cache: {signature}, {rows[0]['cores']} simulated cores",
            panels, x="model size n", y=["GNPS"] * len(panels), x_ticks=ticks, log_x=True, log_y=True,
        )  # fmt: skip
    here = _select(results, figure="6c-here")
    if here:
        made["cache-here"] = plots.lines(
            f"The obstinate cache on two cores like this machine's: {here[0]['signature']}",
            {"": _lines(here)}, x="model size n", y=["GNPS"], x_ticks=ticks, log_x=True, log_y=True,
        )  # fmt: skip
    rows = _select(results, figure="6f")
    if rows:
        shown = []
        for (q,), mine in sorted(_groups(rows, "q").items()):
            theirs = [(row["passes"], row["paper_distance"]) for row in mine if row["paper_distance"] is not None]
            shown.append(plots.Line(f"q = {_percent(q)}", [(row["passes"], row["distance"]) for row in mine], theirs))
        panels = {"updates that ask for their lines first": shown}
        variants = [row for row in _select(results, figure="6f-variants", update="load") if row["batch_size"] == 1]
        if variants:
            panels["updates that read as any load"] = [
                plots.Line(f"q = {_percent(q)}", [(row["passes"], row["distance"]) for row in mine])
                for (q,), mine in sorted(_groups(variants, "q").items())
            ]
        made["cache-learning"] = plots.lines(
            f"Learning on obstinate caches: {rows[0]['signature']}, n = {power(rows[0]['n'])}, {rows[0]['cores']} cores",
            panels, x="passes", y=["distance to the true model"] * len(panels),
            x_ticks=sorted({row["passes"] for row in rows})[::2],
        )  # fmt: skip
    return made


def trace_table(machine: Any, streams: int) -> Table:
    """What the cores did with a recorded trace."""
    table = Table(
        f"{streams} {'core' if streams == 1 else 'cores'} of {machine.config.ghz:g} GHz, {machine.protocol!r}",
        ["core", "cycles", "accesses", "L1 misses", "L2 misses", "L3 misses", "remote", "upgrades", "stale loads"],
    )
    for core in range(streams):
        c = machine.counters(core)
        counts = (c.loads + c.stores, *c.misses, c.remote, c.upgrades, c.stale_loads)
        table.add(str(core), f"{machine.cycles(core):,.0f}", *(f"{count:,}" for count in counts))
    table.notes.append(
        "L1, L2, L3: first, second, third level. Upgrades: stores to a line that was there and might not be written. Remote: "
        "requests that waited for other cores. Stale loads: those that read a copy which another core's write had left."
    )
    return table
