"""The results of the comparison as tables and plots."""

from __future__ import annotations

from typing import Any

from lowprec.report import plots
from lowprec.report.rows import select
from lowprec.report.tables import NONE, Table, between, duration, n_bytes, n_threads, number, power, times

__all__ = ["figures", "tables"]


def _sets(results: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["data"] for row in select(results, "race")))


def tables(results: dict[str, Any]) -> list[Table]:
    """Two tables a data set, one of kernels, and one of who is not there."""
    made = [make(results, name) for name in _sets(results) for make in (_times, _costs)]
    if select(results, "kernels"):
        made.append(_kernels(results))
    absent = select(results, "missing")
    if absent:
        table = Table("Not installed, so not compared", ["<"])
        for row in absent:
            table.add(row["note"])
        made.append(table)
    return made


def _rows(results: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [row for row in select(results, "race") if row["data"] == name]


def _times(results: dict[str, Any], name: str) -> Table:
    rows = _rows(results, name)
    first = rows[0]
    models = "one model" if first["n_models"] == 1 else f"{first['n_models']} models"
    table = Table(
        f"{name}: time to a validation loss of {first['target']:.4g}; {first['n_train']:,} x {first['n']:,}, {models}",
        ["<", "threads", "epochs", "train", "prepare", "speed", "quartiles", "training alone"],
        strong=(5,),
    )
    for row in rows:
        there = row["reached"]
        table.add(
            row["name"],
            str(row["threads"]),
            f"{row['effort']:g}" if there else "never",
            duration(row["seconds"]) if there else NONE,
            duration(row["prepare_seconds"] or None),
            times(row["ratio"]) if there else NONE,
            between(row["ratio_q1"], row["ratio_q3"]) if there else NONE,
            times(row["fit_ratio"]) if there else NONE,
        )
    table.notes += [
        f"{results['options']['sources'].get(name, '')}. The loss is {first['name']}'s, with the best of its settings.",
        "epochs: the least that reach the loss (LIBLINEAR: its tolerance). prepare: quantizing, parsing text, copying. "
        f"speed: {first['name']}'s time over this one's, both with preparing; training alone: without.",
    ]
    table.notes += [f"{row['name']}, {n_threads(row['threads'])}: {row['note']}." for row in rows if row["note"]]
    return table


def _costs(results: dict[str, Any], name: str) -> Table:
    rows = _rows(results, name)
    table = Table(
        f"{name}: what it came to, and what it cost",
        ["<", "threads", "loss", rows[0]["score_name"], "memory", "bytes", "setting", "runs"],
    )
    for row in rows:
        table.add(
            row["name"],
            str(row["threads"]),
            NONE if row["loss"] is None else f"{row['loss']:.4f}",
            NONE if row["score"] is None else f"{row['score']:.4f}",
            n_bytes(row["peak_bytes"]),
            NONE if row["bytes_per_example"] is None else f"{row['bytes_per_example']:,.0f}",
            NONE if row["setting"] is None else f"{row['setting_name']} {row['setting']}",
            str(row["runs"] or 0),
        )
    table.notes.append(
        "memory: the peak beyond the float32 data, which every process has mapped. bytes: of an example as an epoch reads it. "
        "step and C: in units of one over the mean squared norm of an example."
    )
    return table


def _kernels(results: dict[str, Any]) -> Table:
    rows = select(results, "kernels")
    table = Table(
        "Single calls from Python, one thread, 10^9 numbers a second",
        ["<", "<", "n", "lowprec", "peer", "<", "ratio", "quartiles"],
        strong=(6,),
    )
    ours = {_key(row): row for row in rows if row["engine"] == "lowprec"}
    peers = [row for row in rows if row["engine"] != "lowprec"]
    for row in peers + [row for key, row in ours.items() if key not in {_key(peer) for peer in peers}]:
        mine = ours[_key(row)]
        alone = mine is row
        table.add(
            row["op"],
            row["signature"],
            power(row["n"]),
            number(mine["gnps"]),
            NONE if alone else number(row["gnps"]),
            NONE if alone else row["name"],
            times(row["ratio"]),
            between(row["ratio_q1"], row["ratio_q3"]),
        )
    table.notes.append("ratio: the speed of lowprec over the peer's, in the same turn.")
    isas = {row["name"]: row["isa"] for row in rows if row["isa"]}
    table.notes.append("Instruction sets: " + "; ".join(f"{name}: {isa}" for name, isa in isas.items()) + ".")
    table.notes += dict.fromkeys(f"{row['name']}, int8 update: {row['note']}." for row in rows if row["note"])
    return table


def _key(row: dict[str, Any]) -> tuple:
    return row["op"], row["signature"], row["n"]


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """Loss over time, a plot for each data set."""
    made = {}
    for name in _sets(results):
        trace = [row for row in select(results, "trace") if row["data"] == name]
        stem = "".join(c if c.isalnum() else "-" for c in name)
        made[f"compare-{stem}"] = plots.race(name, trace)
    return made
