"""The catalogue's rows as tables and plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lowprec.report import paper
from lowprec.report.catalogue.plan import FLOAT, LADDER_SIZE
from lowprec.report.rows import select
from lowprec.report.tables import NONE, Table, between, machine_table, n_threads, number, power, share, times
from lowprec.report.timing import geometric_mean

__all__ = ["figures", "tables"]

Row = dict[str, Any]

#: Model sizes that one table has room for.
_COLUMNS = 7

_CAPTIONS = {
    "fig3": "Fig 3: GNPS over model size",
    "fig4": "Fig 4a: hand-written against the compiler's -Ofast",
    "fig5b": "Fig 5b: the rounding ladder",
    "fig5c": "Fig 5c: 4 bits against 8, our kernels and the proxies of proposed instructions",
    "fig6ab": "Fig 6a: prefetch on and off (the paper's: the hardware's)",
    "fig6d": "Fig 6d: mini-batches",
}
_SPARSE_CAPTIONS = {
    "fig3": "Fig 3, sparse 3 %: GNPS of nonzeros over model size",
    "fig4": "Fig 4b: hand-written against the compiler's -Ofast, sparse 3 %",
    "fig6ab": "Fig 6b: prefetch on and off (the paper's: the hardware's), sparse 3 %",
}

#: What a ratio is over, where the row's words are too long for a table.
_SHORT = {"batches of 1": "B = 1", "prefetch on": "on"}


def _label(row: Row) -> str:
    """What a line of a figure is, but for signature and threads."""
    if row["engine"] != "lowprec":
        return row["engine"]
    if row["table"] == "fig5b" and row["M"] != "32f":
        return "biased" if row["random"] == "nearest" else row["random"]
    if row["table"] == "fig6ab":
        return row["prefetch"]
    if row["table"] == "fig6d":
        return f"B = {row['batch_size'] or 1}"
    if row["table"] == "threads":
        return "shared" if row["sync_every"] is None else f"merged every {row['sync_every']}"
    return ""


def _name(row: Row) -> str:
    """Signature without the index, as the paper's legends have it."""
    return f"D{row['D']}M{row['M']}"


def _is_sparse(row: Row) -> bool:
    return row["index"] is not None


# ---- tables --------------------------------------------------------------------------------------------------------


def tables(results: dict[str, Any]) -> list[Table]:
    """The results as tables to read, in the paper's order."""
    made: list[Table | None] = [machine_table(results)]
    for sparse in (False, True):
        made.append(_table2([row for row in select(results, "table2") if _is_sparse(row) == sparse]))
    for figure in _CAPTIONS:
        for sparse, captions in ((False, _CAPTIONS), (True, _SPARSE_CAPTIONS)):
            rows = [row for row in select(results, figure) if _is_sparse(row) == sparse]
            for threads in sorted({row["threads"] for row in rows}):
                made += _over_sizes(captions[figure], [row for row in rows if row["threads"] == threads])
        if figure == "fig4":
            made.append(_fig4c(select(results, "fig4")))
        if figure == "fig5b":
            made.append(_rounding(select(results, "fig5b")))
    made += [_small(select(results, "threads")), _roof_of_threads(results), _peer(select(results, "peer_sparse"))]
    shown = [table for table in made if table is not None and table.rows]
    if not any(map(_is_sparse, results["rows"])):
        shown[0].notes.append("Sparse figures need SciPy: pip install 'lowprec[learn]'.")
    return shown


def _table2(rows: Sequence[Row]) -> Table | None:
    if not rows:
        return None
    kind = "sparse 3 %" if _is_sparse(rows[0]) else "dense"
    table = Table(
        f"Table 2, {kind}: base throughput, one thread, n = {power(rows[0]['n'])}",
        ["<signature", "GNPS", "quartiles", "of roof", "paper GNPS", "x float32", "paper's x float32"],
        strong=(1, 5),
    )
    for row in rows:
        table.add(
            row["signature"],
            number(row["gnps"]),
            between(row["gnps_q1"], row["gnps_q3"]),
            share(row["share"]),
            number(row["paper_gnps"]),
            times(row["float_ratio"]),
            times(row["paper_float_ratio"]),
        )
    return table


#: Lines of a table over sizes: what stands at the left, and where it comes from.
_LINES: tuple[tuple[str, str, Callable[[float | None], str]], ...] = (
    ("GNPS", "gnps", number),
    ("paper", "paper_gnps", number),
    ("x float32", "float_ratio", times),
    ("paper", "paper_float_ratio", times),
)


def _over_sizes(caption: str, rows: Sequence[Row]) -> list[Table]:
    """A figure as tables: four lines for each of its own, and what the figure is about where that is another ratio."""
    made = []
    sizes = sorted({row["n"] for row in rows})
    lines: dict[tuple[str, str], dict[int, Row]] = {}
    for row in rows:
        lines.setdefault((_name(row), _label(row)), {})[row["n"]] = row
    for start in range(0, len(sizes), _COLUMNS):
        some = sizes[start : start + _COLUMNS]
        table = Table(f"{caption}, {n_threads(rows[0]['threads'])}", ["<signature", "<n =", *map(power, some)], strong=(1,))
        for (name, label), line in lines.items():
            shown = list(_LINES)
            to = next(iter(line.values()))["ratio_to"]
            if to != FLOAT and not _trivial(line.values()):
                shown += [(f"x {_SHORT.get(to, to)}", "ratio", times), ("paper", "paper_ratio", times)]
            if name == FLOAT:
                shown = [entry for entry in shown if "float" not in entry[1]]
            cells = [(what, [show(line[n][key]) if n in line else NONE for n in some]) for what, key, show in shown]
            cells = [(what, found) for what, found in cells if set(found) != {NONE}]
            if cells:
                table.rule()
            # The label stands below the name.
            left = [name, label] if len(cells) > 1 else [f"{name} {label}".strip()]
            for k, (what, found) in enumerate(cells):
                table.add(left[k] if k < len(left) else "", what, *found)
        threads = {row["paper_threads"] for row in rows} - {None}
        if threads:
            table.notes.append(f"Paper: {', '.join(map(n_threads, sorted(threads)))}.")
        if rows[0]["table"] == "fig6ab" and "all off" not in {row["prefetch"] for row in rows}:
            table.notes.append(
                "Ours is the software's prefetch: the hardware's cannot be switched here, and lowprec info says why. "
                "The paper's is the hardware's."
            )
        made.append(table)
    return made


def _trivial(rows: Any) -> bool:
    """Whether what a ratio is over is the case itself."""
    return all(row["ratio"] == row["ratio_q1"] == row["ratio_q3"] == 1.0 for row in rows)


def _fig4c(rows: Sequence[Row]) -> Table | None:
    """Geometric means of hand-written over compiled."""
    hand = [row for row in rows if row["engine"] == "lowprec" and row["ratio_to"] == "compiler"]
    if not hand:
        return None
    counts = sorted({row["threads"] for row in hand})
    table = Table(
        "Fig 4c: hand-written over the compiler's -Ofast, geometric mean over model sizes and threads",
        ["<signature", "<", *map(n_threads, counts), "all", "paper"],
        strong=(len(counts) + 2,),
    )
    for name in dict.fromkeys(map(_name, hand)):
        for sparse in (False, True):
            mine = [row for row in hand if _name(row) == name and _is_sparse(row) == sparse]
            if not mine:
                continue
            table.add(
                name,
                "sparse" if sparse else "dense",
                *(times(geometric_mean([row["ratio"] for row in mine if row["threads"] == t])) for t in counts),
                times(geometric_mean([row["ratio"] for row in mine])),
                times(paper.compiler_ratios(sparse).get(name)),
            )
    table.notes.append("Sparse: ours has column numbers as wide as its data; the compiler's are absolute, 16 or 32 bits.")
    return table


def _rounding(rows: Sequence[Row]) -> Table | None:
    """The rounding ladder at one size: what the shared block of random words brings, and what it costs."""
    rows = [row for row in rows if row["n"] == LADDER_SIZE and row["M"] != "32f"]
    if not rows:
        return None
    table = Table(
        f"The rounding ladder at n = {power(LADDER_SIZE)}, D16M16: speed of shared words over that of the others",
        ["<threads", "over nearest", "over xorshift", "over mt19937"],
    )

    def line(what: str, key: str, some: Sequence[Row]) -> None:
        found = {row["random"]: row[key] for row in some}
        table.add(what, *(times(1 / found[r]) if found.get(r) else NONE for r in ("nearest", "xorshift", "mt19937")))

    for threads in sorted({row["threads"] for row in rows}):
        line(f"{threads}", "ratio", [row for row in rows if row["threads"] == threads])
    line(f"paper, {paper.MANY_THREADS}", "paper_ratio", [row for row in rows if row["threads"] == rows[-1]["threads"]])
    return table


def _small(rows: Sequence[Row]) -> Table | None:
    if not rows:
        return None
    table = Table(
        f"Threads on a small model, n = {power(rows[0]['n'])}: one shared by all, and replicas that are merged",
        ["<signature", "<threads", "<model", "GNPS", "x 1 thread", "quartiles", "final loss"],
        strong=(4,),
    )
    for row in sorted(rows, key=lambda row: row["M"] == "32f"):
        one = next(
            r for r in rows if r["signature"] == row["signature"] and r["threads"] == 1 and r["sync_every"] is None
        )
        over = row["ratio"] if row["M"] != "32f" else row["gnps"] / one["gnps"]
        quartiles = between(row["ratio_q1"], row["ratio_q3"]) if row["M"] != "32f" else NONE
        first = row is one
        if first:
            table.rule()
        table.add(
            row["signature"] if first else "",
            f"{row['threads']}",
            _label(row) if row["threads"] > 1 else "",
            number(row["gnps"]),
            times(over),
            quartiles,
            f"{row['loss']:.4f}",
        )
    table.notes.append("Merged every k: after k examples of each thread. Loss: after one pass from zero.")
    return table


def _roof_of_threads(results: dict[str, Any]) -> Table | None:
    """How much of what all threads can read reaches a dense model that no quarrel slows down."""
    rows = [row for row in select(results, "fig3") if not _is_sparse(row) and row["n"] >= LADDER_SIZE]
    many = max((row["threads"] for row in rows), default=1)
    rows = [row for row in rows if row["threads"] == many]
    if many == 1:
        return None
    sizes = sorted({row["n"] for row in rows})[-_COLUMNS:]
    table = Table(
        f"Dense, {n_threads(many)}: share of what {n_threads(many)} can read", ["<signature", *map(power, sizes)]
    )
    for name in dict.fromkeys(map(_name, rows)):
        mine = {row["n"]: row for row in rows if _name(row) == name}
        table.add(name, *(share(mine[n]["share"]) if n in mine else NONE for n in sizes))
    return table


def _peer(rows: Sequence[Row]) -> Table | None:
    if not rows:
        return None
    table = Table(
        "Sparse 3 %, the loops of the epochs, against scikit-learn's SGDClassifier on the same CSR",
        ["<n", "<", "GNPS", "ratio", "quartiles", "loss", "bytes/nonzero"],
        strong=(3,),
    )
    for before, row in zip([None, *rows], rows, strict=False):
        first = before is None or before["n"] != row["n"]
        if first:
            table.rule()
        name = "scikit-learn" if row["engine"] == "scikit-learn" else f"lowprec {row['signature']}"
        table.add(
            power(row["n"]) if first else "",
            name,
            number(row["gnps"]),
            times(row["ratio"]),
            between(row["ratio_q1"], row["ratio_q3"]) if row["ratio"] != 1 else NONE,
            f"{row['loss']:.3f}",
            f"{row['bytes_per_number']:.2f}",
        )
    table.notes.append("GNPS: 10^9 nonzeros a second. Loss: of the training data after one epoch.")
    return table


# ---- plots ---------------------------------------------------------------------------------------------------------


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """The plots, by file name without its ending."""
    from lowprec.report import plots

    made = {}
    for kind in ("dense", "sparse"):
        rows = [row for row in select(results, "table2") if _is_sparse(row) == (kind == "sparse")]
        if rows:
            made[f"speedups-full-table2{'-sparse' if kind == 'sparse' else ''}"] = plots.signatures(rows, kind)
    for figure in _CAPTIONS:
        for sparse, captions in ((False, _CAPTIONS), (True, _SPARSE_CAPTIONS)):
            rows = [row for row in select(results, figure) if _is_sparse(row) == sparse]
            if rows:
                panels = {}
                for t in sorted({row["threads"] for row in rows}):
                    some = [row for row in rows if row["threads"] == t]
                    panels[n_threads(t) + _paper_threads(some)] = _lines(some)
                name = f"speedups-full-{figure}{'-sparse' if sparse else ''}"
                made[name] = plots.over_sizes(captions[figure], panels)
    return made


def _paper_threads(rows: Sequence[Row]) -> str:
    counts = sorted({row["paper_threads"] for row in rows} - {None})
    return f" (paper: {', '.join(map(str, counts))})" if counts else ""


def _lines(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The lines of one panel, with points of ours and of the paper."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row["table"] in ("fig5b", "fig5c", "fig4") and row["M"] == "32f":
            continue  # there for the ratios
        key = _name(row), _label(row)
        line = found.setdefault(key, {"name": key[0], "way": key[1], "ours": [], "paper": []})
        line["ours"].append((row["n"], row["gnps"]))
        if row["paper_gnps"] is not None:
            line["paper"].append((row["n"], row["paper_gnps"]))
    return list(found.values())
