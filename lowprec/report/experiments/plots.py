"""Plots of the experiments: lines over passes, over the size of a batch, over bits; the paper's dashed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lowprec.checks import need_extra

__all__ = ["COLORS", "QUIET", "Line", "figure", "lines"]

COLORS = ("#3b5b92", "#d1853a", "#3f8f6b", "#b5446e", "#8064a2", "#7a6a4f", "#4aa3b8")
QUIET = "#8a8a8a"


class Line:
    """One line of a panel.

    Parameters
    ----------
    name : str
        Lines of one name have one colour in all panels.
    points : sequence of (x, y)
    paper : sequence of (x, y)
        The paper's line, if it has one.
    band : sequence of (x, low, high)
        Between the runs.
    """

    def __init__(
        self,
        name: str,
        points: Sequence[tuple[float, float]],
        paper: Sequence[tuple[float, float]] = (),
        band: Sequence[tuple[float, float, float]] = (),
    ) -> None:
        self.name, self.points, self.paper, self.band = name, sorted(points), sorted(paper), sorted(band)


def figure(width: float, height: float, columns: int, **more: Any) -> tuple[Any, list[Any]]:
    """A figure with panels side by side, and the panels."""
    made = need_extra("matplotlib.figure", "report", "plotting").Figure(figsize=(width, height), layout="constrained")
    axes = list(made.subplots(1, columns, squeeze=False, **more).flat)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, axis="y", alpha=0.25)
    return made, axes


def lines(
    title: str,
    panels: dict[str, list[Line]],
    *,
    x: str,
    y: Sequence[str],
    x_ticks: Sequence[float],
    log_x: bool = False,
    log_y: bool = False,
    same_y: bool = True,
    width: float = 4.6,
) -> Any:
    """Panels of lines.

    Parameters
    ----------
    title : str
    panels : dict of str to list of Line
        By heading.
    x : str
        What all x axes are.
    y : sequence of str
        What each y axis is.
    x_ticks : sequence of float
    log_x, log_y : bool
    same_y : bool
        Whether all panels have one y axis.
    width : float
        Of a panel, in inches.
    """
    made, axes = figure(width * len(panels) + 1.9, 4.4, len(panels), sharey=same_y)
    every = [line for shown in panels.values() for line in shown]
    names = list(dict.fromkeys(line.name for line in every))
    handles: dict[str, Any] = {}
    for ax, label, (heading, shown) in zip(axes, y, panels.items(), strict=True):
        for line in shown:
            k = names.index(line.name)
            color = COLORS[k % len(COLORS)]
            if line.paper:
                ax.plot(*zip(*line.paper, strict=True), "--", color=color, lw=1.1, alpha=0.8)
                handles.setdefault("", ax.plot([], [], "--", color=QUIET, lw=1.1)[0])
            if line.band:
                at, low, high = zip(*line.band, strict=True)
                ax.fill_between(at, low, high, color=color, alpha=0.2, lw=0)
            # Lines may lie on each other: markers of different sizes, the first the largest, show all of them.
            size = 3.5 + 1.8 * (len(names) - 1 - k)
            look = {"marker": "os^vDP"[k % 6], "ms": min(size, 9.0), "mfc": "none" if k < len(names) - 1 else color}
            handles[line.name] = ax.plot(*zip(*line.points, strict=True), "-", color=color, lw=1.4, **look)[0]
        ax.set_title(heading, fontsize=10, loc="left")
        ax.set_xlabel(x)
        if log_x:
            ax.set_xscale("log", base=2)
        ax.set_xticks(list(x_ticks), [f"{tick:g}" for tick in x_ticks])
        ax.minorticks_off()
        if log_y:
            _logarithmic(ax)
        if not same_y or ax is axes[0]:
            ax.set_ylabel(label)
    order = [name for name in names if name in handles]
    labels = {"": "the paper"}
    made.legend(
        [handles[name] for name in order + [""] * ("" in handles)],
        order + [labels[""]] * ("" in handles),
        frameon=False,
        fontsize=9,
        loc="outside right center",
    )
    made.suptitle(title, fontsize=11)
    return made


def _logarithmic(ax: Any) -> None:
    """A logarithmic y axis with plain numbers."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    digits = (1, 2, 3, 4, 5, 7) if high < 10 * low else (1,) if high > 1000 * low else (1, 2, 5)
    ticks = [digit * 10.0**power for power in range(-6, 7) for digit in digits if low <= digit * 10.0**power <= high]
    ax.set_yticks(ticks, [f"{tick:,.6g}" for tick in ticks])
    ax.minorticks_off()
