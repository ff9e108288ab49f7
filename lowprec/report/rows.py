"""The rows of `lowprec speedups`: one flat list of dicts that all have the same fields."""

from __future__ import annotations

from typing import Any

from lowprec.report.timing import Turns, ratios, read_gbps, spread
from lowprec.report.workload import Workload

__all__ = ["FIELDS", "FLOAT", "make_row", "ratio_fields", "roof_rows", "select", "split"]

#: Full precision: what every ratio to float32 is over.
FLOAT = "D32fM32f"

#: Every row has these fields, in this order; docs/results-schema.md says what they mean.
FIELDS = (
    "table",
    "engine",
    "signature",
    "D",
    "index",
    "M",
    "random",
    "n",
    "n_rows",
    "threads",
    "batch_size",
    "sync_every",
    "prefetch",
    "bytes_per_number",
    "gnps",
    "gnps_q1",
    "gnps_q3",
    "roof_gnps",
    "share",
    "share_q1",
    "share_q3",
    "ratio",
    "ratio_q1",
    "ratio_q3",
    "ratio_to",
    "float_ratio",
    "paper_gnps",
    "paper_ratio",
    "paper_float_ratio",
    "paper_threads",
    "accuracy",
    "loss",
    "prepare_seconds",
    "probe_gops",
    "runs",
)


def split(signature: str) -> tuple[str, str]:
    """D and M of a dense signature: ``("8", "16")`` of D8M16."""
    D, _, M = signature[1:].partition("M")
    return D, M


def make_row(table: str, turns: Turns | None = None, **fields: Any) -> dict[str, Any]:
    """A row of the results: what was measured, what it was measured on, and further fields."""
    made: dict[str, Any] = dict.fromkeys(FIELDS)
    made["table"] = table
    if turns is not None:
        made |= turns.about | turns.summary()
    made |= fields
    if made["bytes_per_number"] is None and made["D"] is not None:
        made["bytes_per_number"] = int(made["D"].rstrip("f")) / 8
    unknown = set(made) - set(FIELDS)
    if unknown:
        raise KeyError(f"not fields of the results: {sorted(unknown)}")
    return made


def ratio_fields(turns: Turns, other: Turns, name: str) -> dict[str, Any]:
    """The fields of a ratio to what `name` names."""
    s = ratios(turns.gnps, other.gnps)
    return {"ratio": s.median, "ratio_q1": s.q1, "ratio_q3": s.q3, "ratio_to": name}


def roof_rows(work: Workload) -> list[dict[str, Any]]:
    """The roof by itself: bytes per second of reading the data set, on one thread and on all."""
    from lowprec import runtime

    buffer, runs, made = work.buffer("8"), 7, []
    for threads in dict.fromkeys((1, runtime.effective_n_threads())):
        s = spread([read_gbps(buffer, threads) for _ in range(runs)])
        speed = {"gnps": s.median, "gnps_q1": s.q1, "gnps_q3": s.q3, "runs": runs}
        made.append(make_row("roof", engine="read", threads=threads, bytes_per_number=1.0, **speed))
    return made


def select(results: dict[str, Any], table: str) -> list[dict[str, Any]]:
    """The rows of one table."""
    return [row for row in results["rows"] if row["table"] == table]
