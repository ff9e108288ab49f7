"""Tables and plots of `lowprec wrpn tables`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lowprec.report.experiments import plots
from lowprec.report.rows import select
from lowprec.report.tables import NONE, Table, number
from lowprec.report.wrpn.run import ALEXNET

__all__ = ["figures", "tables"]

#: Marks a number that does not come out as printed.
DIFFERS = "≠"

_OVER = {"uniform": ", with all layers charged the same", "quantized": ", over the quantized layers alone"}
_PAPER = {
    "table1": "Table 1, AlexNet 1x",
    "table2": "Table 2, AlexNet 2x wide",
    "table3": "Table 3, AlexNet 2x wide",
    "table4": "Table 4, ResNet-34",
    "table5": "Table 5, BN-Inception",
    "fig1": "Fig 1",
    "fig3b": "Fig 3b",
    "text": "text",
}


def _beside(row: dict[str, Any], printed: str, value: str) -> str:
    """A number, or where it is not the printed one, both."""
    return value if row["agrees"] is not False else f"{value} {DIFFERS} {printed}"


def _matrix(title: str, rows: Sequence[dict[str, Any]], cell: Callable[[dict[str, Any]], str], notes: Sequence[str]) -> Table:
    """Weight bits down, activation bits across."""
    by = {(row["weight_bits"], row["activation_bits"]): row for row in rows}
    across = list(dict.fromkeys(a for _, a in by))
    made = Table(title, ["<", *(f"{a} A" for a in across)])
    for weight_bits in dict.fromkeys(w for w, _ in by):
        cells = [by.get((weight_bits, a)) for a in across]
        made.add(f"{weight_bits} W", *(NONE if row is None else cell(row) for row in cells))
    made.notes += notes
    return made


def _table3(results: dict[str, Any]) -> Table:
    rows = select(results, "table3")
    same, ratio = sum(row["agrees"] for row in rows), rows[0]["uniform"]
    return _matrix(
        "Table 3: compute cost of AlexNet 2x wide, over float32 at 1x; in brackets as printed",
        rows,
        lambda row: f"{row['value']:.3f} ({row['printed']:.1f}{' ' + DIFFERS if not row['agrees'] else ''})",
        [f"{same} of {len(rows)} cells come out as printed{_OVER['uniform']}: {ratio:.3f} times the FMAs, times (a + w) / 64."],
    )


def _alexnets(results: dict[str, Any]) -> Table:
    rows = select(results, "alexnets")
    total = len(select(results, "table3"))
    made = Table(
        f"Which AlexNet: cells of Table 3 that come out, of {total}",
        ["<", "FMAs 1x, M", "2x over 1x", "all layers", "quantized alone", "ends in float"],
    )
    fma = {row["network"]: row["fmas"] for row in select(results, "networks") if row["widen"] == 1}
    for name in dict.fromkeys(row["network"] for row in rows):
        by = {row["convention"]: row for row in rows if row["network"] == name}
        counted = [str(by[convention]["cells"]) for convention in ("uniform", "quantized", "float_ends")]
        made.add(name, f"{fma[name] / 1e6:,.1f}", f"{by['uniform']['fma_ratio']:.3f}", *counted)
    made.notes.append(
        f"The paper does not say which AlexNet it has. That it is {ALEXNET}, tensorpack's DoReFa example without its two groups, "
        "is a finding of these counts; tensorpack is the framework of the paper."
    )
    return made


def _costs(results: dict[str, Any], table: str, title: str) -> Table:
    made = Table(title, ["wide", "A", "W", "top-1, printed", "cost, printed", "all layers", "quantized alone", "ends in float"])
    rows = select(results, table)
    for row in rows:
        cells = []
        for convention in ("uniform", "quantized", "float_ends"):
            mark = f" {DIFFERS}" if convention == row["convention"] and not row["agrees"] else ""
            cells.append(f"{row[convention]:.3f}{mark}")
        bits = str(row["activation_bits"]), str(row["weight_bits"])
        made.add(f"{row['widen']}x", *bits, f"{row['top1']:.2f}", f"{row['printed']:.2f}", *cells)
    same = sum(row["agrees"] for row in rows)
    made.notes.append(f"{same} of {len(rows)} cells come out as printed{_OVER[rows[0]['convention']]}.")
    return made


def _fig1(results: dict[str, Any]) -> Table:
    rows = select(results, "fig1")
    bars = list(dict.fromkeys((row["name"], row["batch"]) for row in rows))
    made = Table("Fig 1: share of activations in memory, %, by batch", ["<", *(f"{name} {batch}" for name, batch in bars)])
    for network in dict.fromkeys(row["network"] for row in rows):
        cells = []
        for row in (row for row in rows if row["network"] == network):
            printed = f"{row['printed']:.1f}"
            cells.append(f"({printed})" if row["value"] is None else _beside(row, printed, f"{row['value']:.1f}"))
        made.add(network, *cells)
    counted = [row for row in rows if row["value"] is not None]
    made.notes.append(
        f"{sum(row['agrees'] for row in counted)} of {len(counted)} shares come out as printed; in brackets: printed, not "
        "counted here. Training: what the layers read, the largest gradient of a layer's output, and the weights. Inference: the "
        "largest map read, the largest written, and the weights."
    )
    return made


def _fig3b(results: dict[str, Any]) -> Table:
    made = Table("Fig 3b: first-order speedup, 64 / (a + w)", ["<", "A bits", "W bits", "counted", "read off the figure"])
    for row in select(results, "fig3b"):
        bits = str(row["activation_bits"]), str(row["weight_bits"])
        printed = number(row["printed"])
        made.add(row["name"], *bits, _beside(row, printed, number(row["value"])), printed)
    return made


def _accuracy(results: dict[str, Any], table: str) -> Table:
    title = f"{_PAPER[table]}: top-1 accuracy as printed, %; in brackets the cost over float32 at 1x, counted"
    return _matrix(title, select(results, table), lambda row: f"{row['top1']:.1f} ({row['value']:.2f})", [])


def _networks(results: dict[str, Any]) -> Table:
    rows = select(results, "networks")
    made = Table(
        "The networks, counted",
        ["<", "parameters, M", "at 2x, M", "FMAs, M", "FMAs 2x / 1x", "FMAs 3x / 1x"],
    )
    for name in dict.fromkeys(row["network"] for row in rows):
        by = {row["widen"]: row for row in rows if row["network"] == name}
        made.add(
            name, f"{by[1]['parameters'] / 1e6:,.3f}", f"{by[2]['parameters'] / 1e6:,.3f}", f"{by[1]['fmas'] / 1e6:,.1f}",
            f"{by[2]['fma_ratio']:.3f}", f"{by[3]['fma_ratio']:.3f}",
        )  # fmt: skip
    made.notes.append("FMAs are of one image. The image and the classes stay, so the first and the last layer only double at 2x.")
    return made


def _cell(row: dict[str, Any]) -> str:
    """Which number of a table a row is."""
    if row["table"] == "fig1":
        return f"{row['network']}, {row['name']}, batch {row['batch']}"
    if row["table"] == "text":
        bits = "" if row["batch"] else f", {row['widen']}x, A {row['activation_bits']}, W {row['weight_bits']}"
        return f"{row['network']}{bits}, {row['name']}"
    return f"{row['widen']}x, A {row['activation_bits']}, W {row['weight_bits']}"


def _differences(results: dict[str, Any]) -> Table:
    made = Table("What does not come out as printed", ["<", "<", "printed", "counted"])
    for why in dict.fromkeys(row["why"] for row in results["rows"] if row["why"]):
        rows = [row for row in results["rows"] if row["why"] == why]
        for row in rows:
            made.add(_PAPER[row["table"]], _cell(row), f"{row['printed']:g}", number(row["value"]))
        made.rule()
        tables = " and ".join(dict.fromkeys(_PAPER[row["table"]] for row in rows))
        networks = ", ".join(dict.fromkeys(row["network"] for row in rows))
        made.notes.append(f"{tables}, {networks}: {why}")
    if made.rows and made.rows[-1] is None:
        made.rows.pop()
    return made


def tables(results: dict[str, Any]) -> list[Table]:
    """The results as tables to read."""
    return [
        _table3(results),
        _alexnets(results),
        _costs(results, "table4", "Table 4: compute cost of ResNet-34, over float32 at 1x"),
        _costs(results, "table5", "Table 5: compute cost of BN-Inception, over float32 at 1x"),
        _fig1(results),
        _fig3b(results),
        _accuracy(results, "table1"),
        _accuracy(results, "table2"),
        _networks(results),
        _differences(results),
    ]


# ---- plots -------------------------------------------------------------------------------------------------


def _memory_plot(results: dict[str, Any]) -> Any:
    rows = select(results, "fig1")
    names = list(dict.fromkeys(row["network"] for row in rows))
    phases = list(dict.fromkeys(row["name"] for row in rows))
    made, axes = plots.figure(9.5, 4.2, len(phases), sharey=True)
    for ax, phase in zip(axes, phases, strict=True):
        ticks = []
        for k, name in enumerate(names):
            for j, batch in enumerate((1, 32)):
                (row,) = (r for r in rows if (r["network"], r["name"], r["batch"]) == (name, phase, batch))
                at = 2.6 * k + j
                ticks.append((at, f"{batch}"))
                bars = ((-0.2, row["value"], plots.COLORS[0], "counted"), (0.2, row["printed"], plots.QUIET, "the paper"))
                for shift, value, color, label in bars:
                    if value is not None:
                        ax.bar(at + shift, value, width=0.38, color=color, label=label if (k, j) == (0, 0) else None)
            where = {"transform": ax.get_xaxis_transform(), "ha": "center", "va": "top", "fontsize": 8}
            ax.text(2.6 * k + 0.5, -0.08, name.replace("n-R", "n-\nR"), **where)
        ax.set_xticks(*zip(*ticks, strict=True), fontsize=8)
        ax.set_ylim(0, 100)
        ax.set_title(f"{phase}; below: batch", fontsize=10, loc="left")
    axes[0].set_ylabel("activations, % of memory")
    made.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=9, loc="outside right center")
    made.suptitle("Fig 1: activations and weights in memory", fontsize=11)
    return made


def _accuracy_plot(results: dict[str, Any]) -> Any:
    panels = {"AlexNet": ("table1", "table2"), "ResNet-34": ("table4",), "BN-Inception": ("table5",)}
    made, axes = plots.figure(13, 4.6, len(panels))
    for ax, (heading, names) in zip(axes, panels.items(), strict=True):
        rows = [row for name in names for row in select(results, name)]
        for row in rows:
            color = plots.COLORS[row["widen"] - 1]
            at = row["value"] if row["printed"] is None else row["printed"]
            ax.plot(at, row["top1"], "o", ms=4.5, color=color)
            label = f"{row['activation_bits']}/{row['weight_bits']}"
            below = row["weight_bits"] < row["activation_bits"]
            where = {"xytext": (3, -7 if below else 3), "textcoords": "offset points", "fontsize": 6.5}
            ax.annotate(label, (at, row["top1"]), color=color, **where)
        (full,) = (row["top1"] for row in rows if (row["widen"], row["weight_bits"], row["activation_bits"]) == (1, 32, 32))
        ax.axhline(full, color=plots.QUIET, lw=1, ls=":")
        ax.set_xscale("log")
        ticks = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 4]
        low, high = ax.get_xlim()
        ticks = [tick for tick in ticks if low / 1.2 <= tick <= high * 1.2]
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.set_xlabel("compute cost over float32 at 1x")
        ax.set_title(heading, fontsize=10, loc="left")
    axes[0].set_ylabel("top-1 accuracy as printed, %")
    handles = [axes[0].plot([], [], "o", color=plots.COLORS[k])[0] for k in range(3)]
    made.legend(handles, ["1x", "2x wide", "3x wide"], frameon=False, fontsize=9, loc="outside right center")
    title = (
        "Accuracy over cost, as printed (AlexNet's costs counted); labels: bits of activations / weights; dotted: float32 at 1x"
    )
    made.suptitle(title, fontsize=11)
    return made


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """The plots, by file name without its ending."""
    return {"wrpn-memory": _memory_plot(results), "wrpn-accuracy": _accuracy_plot(results)}
