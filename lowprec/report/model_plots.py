"""Plots of the performance models."""

from __future__ import annotations

import math
from typing import Any

from lowprec.checks import need_extra
from lowprec.report.plots import unjoined
from lowprec.report.tables import n_threads, power

__all__ = ["paper", "scatter", "sizes"]

_MODELS = {"eq2_gnps": ("Eq. 2", "#c9a227"), "roofline_gnps": ("roofline", "#3b5b92")}
_COLORS = ("#d1853a", "#b5446e", "#3f8f6b", "#3b5b92")
_QUIET = "#8a8a8a"
_TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def _figure(width: float, height: float, rows: int, columns: int) -> tuple[Any, list[Any]]:
    figure = need_extra("matplotlib.figure", "report", "plotting").Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _logarithmic(ax: Any, values: list[float], axis: str) -> None:
    """A logarithmic axis with plain numbers."""
    low, high = min(values) / 1.15, max(values) * 1.15
    ticks = [t for t in _TICKS if low <= t <= high]
    getattr(ax, f"set_{axis}scale")("log")
    getattr(ax, f"set_{axis}lim")(low, high)
    getattr(ax, f"set_{axis}ticks")(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()


def _label(figure: Any) -> None:
    """The axes that all panels have."""
    figure.supxlabel("model size n", fontsize=10)
    figure.supylabel("GNPS", fontsize=10)


def scatter(rows: list[dict[str, Any]]) -> Any:
    """Measured against predicted, a panel for each model, with bands of 25 and 50 %."""
    figure, axes = _figure(10, 5.2, 1, 2)
    held_out = [row for row in rows if row["half"] == "held out"] or rows
    counts = sorted({row["threads"] for row in held_out})
    values = [row[key] for row in held_out for key in ("gnps", *_MODELS)]
    ends = [min(values) / 1.15, max(values) * 1.15]
    for ax, (key, (name, _)) in zip(axes, _MODELS.items(), strict=True):
        for width, alpha in ((0.5, 0.10), (0.25, 0.16)):
            band = ([e * (1 + sign * width) for e in ends] for sign in (-1, 1))
            ax.fill_between(ends, *band, color=_QUIET, alpha=alpha, lw=0)
        ax.plot(ends, ends, color=_QUIET, lw=1)
        for sparse, marker in ((False, "o"), (True, "^")):
            for t, color in zip(counts, _COLORS, strict=False):
                mine = [row for row in held_out if row["threads"] == t and (row["index"] is not None) == sparse]
                label = f"{'sparse' if sparse else 'dense'}, {n_threads(t)}"
                if mine:
                    ax.plot([r["gnps"] for r in mine], [r[key] for r in mine], marker, color=color, ms=4, alpha=0.75, label=label)
        _logarithmic(ax, values, "x")
        _logarithmic(ax, values, "y")
        ax.set_aspect("equal")
        ax.set_xlabel("measured GNPS")
        ax.set_ylabel("predicted GNPS")
        ax.set_title(name, fontsize=11, loc="left")
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle("Predicted against measured, held-out model sizes; bands of 25 and 50 %", fontsize=11)
    return figure


def sizes(rows: list[dict[str, Any]]) -> Any:
    """Throughput over model size with both models, a panel for each signature."""
    names = list(dict.fromkeys(row["signature"] for row in rows))
    columns = min(4, len(names))
    lines = math.ceil(len(names) / columns)
    figure, axes = _figure(3.3 * columns, 2.6 * lines + 0.6, lines, columns)
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    for ax, name in zip(axes, names, strict=False):
        mine = [row for row in rows if row["signature"] == name]
        for t, marker in zip(sorted({row["threads"] for row in mine}), "os^v", strict=False):
            line = sorted((row for row in mine if row["threads"] == t), key=lambda row: row["n"])
            n = [row["n"] for row in line]
            for key, (_, color) in _MODELS.items():
                ax.plot(n, [row[key] for row in line], "-" if t == 1 else "--", color=color, lw=1.3)
            ax.plot(n, [row["gnps"] for row in line], marker, color="black", ms=3, mfc="black" if t == 1 else "white")
        ax.set_xscale("log", base=2)
        ticks = sorted({row["n"] for row in mine})[:: max(len({row["n"] for row in mine}) // 4, 1)]
        ax.set_xticks(ticks, [power(n) for n in ticks], fontsize=7)
        _logarithmic(ax, [row[key] for row in mine for key in ("gnps", *_MODELS)], "y")
        ax.set_title(unjoined(name), fontsize=9, loc="left")
    _label(figure)
    figure.suptitle(
        "GNPS over model size; points: measured, filled with one thread; lines: Eq. 2 (yellow), roofline (blue)", fontsize=11
    )
    return figure


def paper(rows: list[dict[str, Any]]) -> Any:
    """The paper's Fig 3: its measured points, and the lines of Eq. 2."""
    figure, axes = _figure(11, 6, 2, 3)
    panels = [(kind, t) for kind in ("dense", "sparse") for t in (4, 8, 12)]
    for ax, (kind, t) in zip(axes, panels, strict=True):
        mine = [row for row in rows if (row["name"], row["threads"]) == (kind, t)]
        for name, color in zip(dict.fromkeys(row["signature"] for row in mine), _COLORS, strict=False):
            line = sorted((row for row in mine if row["signature"] == name), key=lambda row: row["n"])
            n = [row["n"] for row in line]
            ax.plot(n, [row["gnps"] for row in line], "o", color=color, ms=3.5, label=name)
            ax.plot(n, [row["eq2_gnps"] for row in line], "-", color=color, lw=1)
        ax.set_xscale("log", base=2)
        _logarithmic(ax, [row[key] for row in mine for key in ("gnps", "eq2_gnps")], "y")
        ax.set_title(f"{kind}, {t} threads", fontsize=10, loc="left")
    axes[0].legend(frameon=False, fontsize=8)
    _label(figure)
    figure.suptitle("The paper's Fig 3: measured on its Xeon (points), and its Eq. 2 with cap 0.95 (lines)", fontsize=11)
    return figure
