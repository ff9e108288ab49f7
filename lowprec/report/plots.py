"""Plots of the results. matplotlib's Figure is used as it is, without pyplot: nothing global is touched."""

from __future__ import annotations

from typing import Any

from lowprec.checks import need_extra
from lowprec.report.tables import power, times

__all__ = ["compiler", "ladder", "machines", "over_sizes", "race", "signatures", "sizes", "training", "unjoined"]

_COLORS = {"D4M4": "#b5446e", "D8M8": "#d1853a", "D16M16": "#3f8f6b", "D32fM32f": "#3b5b92"}
_MORE_COLORS = ("#8064a2", "#7a6a4f", "#4aa3b8", "#9c3d3d")
_OURS, _THEIRS, _QUIET = "#3b5b92", "#c9a227", "#8a8a8a"

#: Fig 5b's names for what the rows call random.
_RANDOM = {"mt19937": "mt19937", "xorshift": "xorshift", "shared": "shared", "nearest": "nearest (biased)"}


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    figure = need_extra("matplotlib.figure", "report", "plotting").Figure(
        figsize=(width, height), layout="constrained"
    )
    axes = figure.subplots(1, columns)
    for ax in axes if columns > 1 else [axes]:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def unjoined(signature: str) -> str:
    """A signature without the ligature that matplotlib's font makes of the f and the i in D32fi32M32f."""
    return signature.replace("fi", "f\u200ci")


def sizes(rows: list[dict[str, Any]]) -> Any:
    """Throughput over model size, each format with its roof."""
    figure, ax = _figure(7.5, 5)
    for s in dict.fromkeys(row["signature"] for row in rows):
        mine = sorted((row for row in rows if row["signature"] == s), key=lambda row: row["n"])
        n, gnps = [row["n"] for row in mine], [row["gnps"] for row in mine]
        color = _COLORS.get(s, _QUIET)
        ax.plot(n, [row["roof_gnps"] for row in mine], "--", color=color, lw=1, alpha=0.7)
        ax.fill_between(
            n,
            [row["gnps_q1"] for row in mine],
            [row["gnps_q3"] for row in mine],
            color=color,
            alpha=0.2,
            lw=0,
        )
        ax.plot(n, gnps, "o-", color=color, ms=4)
        ax.annotate(s, (n[-1], gnps[-1]), xytext=(8, 0), textcoords="offset points", va="center", color=color)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100) if ax.get_ylim()[0] <= t <= ax.get_ylim()[1]]
    ax.set_yticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.set_xticks(sorted({row["n"] for row in rows}), [power(n) for n in sorted({row["n"] for row in rows})])
    ax.set_xlim(right=max(row["n"] for row in rows) * 4)
    ax.grid(True, axis="y", alpha=0.25)
    ax.set_xlabel("model size n")
    ax.set_ylabel("GNPS (10⁹ dataset numbers a second)")
    ax.set_title(
        "Throughput over model size, one thread; dashed: the roof of each format", fontsize=11, loc="left"
    )
    return figure


def over_sizes(title: str, panels: dict[str, list[dict[str, Any]]]) -> Any:
    """A figure of the paper: throughput over model size, the paper's lines dashed.

    A signature has a colour, and a way of running it a marker.

    Parameters
    ----------
    title : str
    panels : dict of str to list of dict
        By heading, the lines: ``name`` and ``way``, and ``ours`` and ``paper`` as pairs of n and GNPS.
    """
    figure, axes = _figure(5.2 * len(panels) + 1.5, 4.4, len(panels))
    axes = list(axes) if len(panels) > 1 else [axes]
    every = [line for lines in panels.values() for line in lines]
    names, ways = (list(dict.fromkeys(line[key] for line in every)) for key in ("name", "way"))
    for ax, (heading, lines) in zip(axes, panels.items(), strict=True):
        for line in lines:
            look = {
                "color": _COLORS.get(line["name"]) or _MORE_COLORS[names.index(line["name"]) % len(_MORE_COLORS)],
                "marker": "os^vDP"[ways.index(line["way"]) % 6],
                "mfc": None if ways.index(line["way"]) == 0 else "white",
            }
            label = f"{line['name']} {line['way']}".strip()
            ax.plot(*zip(*sorted(line["ours"]), strict=True), "-", ms=5, lw=1.6, label=label, **look)
            if line["paper"]:
                ax.plot(*zip(*sorted(line["paper"]), strict=True), "--", ms=3, lw=0.9, alpha=0.7, **look)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.grid(True, axis="y", alpha=0.25)
        ax.set_xlabel("model size n")
        ax.set_title(heading, fontsize=10, loc="left")
    low, high = min(ax.get_ylim()[0] for ax in axes), max(ax.get_ylim()[1] for ax in axes)
    ticks = [t for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200) if low <= t <= high]
    for ax in axes:
        ax.set_ylim(low, high)
        ax.set_yticks(ticks, [str(t) for t in ticks])
        ax.minorticks_off()
    axes[0].set_ylabel("GNPS")
    axes[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(f"{title}; dashed: the paper", fontsize=11)
    return figure


def signatures(rows: list[dict[str, Any]], kind: str = "") -> Any:
    """Speed of every signature over float32, with the paper's ratios; `kind` says of which data, where that must be said."""
    figure, ax = _figure(7.5, 5.5)
    names = [row["signature"] for row in rows]
    at = range(len(rows))
    ax.barh(at, [row["ratio"] for row in rows], color=_OURS, height=0.62, label="this machine")
    for k, row in enumerate(rows):
        ax.text(row["ratio"], k, f" {times(row['ratio'])}", va="center", fontsize=8, color=_OURS)
    marked = [(row["paper_ratio"], k) for k, row in enumerate(rows) if row["paper_ratio"] is not None]
    ax.plot(
        [x for x, _ in marked],
        [k for _, k in marked],
        "D",
        color=_THEIRS,
        mec="white",
        ms=7,
        label="paper, Table 2",
    )
    ax.set_yticks(list(at), [unjoined(name) for name in names])
    ax.invert_yaxis()
    ax.set_xlabel("throughput over that of float32")
    ax.set_title(
        f"Speed of each signature over float32{kind and ', '}{kind}, one thread, n = {power(rows[0]['n'])}",
        fontsize=11,
        loc="left",
    )
    figure.legend(frameon=False, loc="outside lower center", ncols=2)  # within the axes it would cover a bar
    return figure


def compiler(rows: list[dict[str, Any]], flags: str) -> Any:
    """Hand-written kernels beside the compiler's, GNPS."""
    figure, ax = _figure(7.5, 4)
    names = list(dict.fromkeys(row["signature"] for row in rows))
    for k, (engine, color, label) in enumerate(
        (("compiler", _THEIRS, f"plain C, {flags}"), ("lowprec", _OURS, "lowprec"))
    ):
        mine = [next(r for r in rows if (r["signature"], r["engine"]) == (s, engine)) for s in names]
        at = [i + 0.4 * k - 0.2 for i in range(len(names))]
        ax.bar(at, [row["gnps"] for row in mine], 0.38, color=color, label=label)
        if engine == "lowprec":
            for x, row in zip(at, mine, strict=True):
                ax.text(
                    x, row["gnps"], times(row["ratio"]), ha="center", va="bottom", fontsize=9, color=color
                )
    ax.set_xticks(range(len(names)), names)
    ax.set_ylabel("GNPS")
    ax.set_title(
        f"Hand-written kernels against the compiler, n = {power(rows[0]['n'])}", fontsize=11, loc="left"
    )
    ax.legend(frameon=False)
    return figure


def ladder(rows: list[dict[str, Any]]) -> Any:
    """The rounding ladder, one panel for each signature."""
    names = list(dict.fromkeys(row["signature"] for row in rows))
    figure, axes = _figure(9, 3.8, len(names))
    for ax, s in zip(axes, names, strict=True):
        mine = [row for row in rows if row["signature"] == s]
        at = range(len(mine))
        ax.barh(
            at,
            [row["gnps"] for row in mine],
            color=[_THEIRS if r["engine"] == "compiler" else _OURS for r in mine],
        )
        for k, row in enumerate(mine):
            ax.text(row["gnps"] * 1.06, k, times(row["ratio"]), va="center", fontsize=9)
        ax.set_xscale("log")
        lowest, highest = min(row["gnps"] for row in mine), max(row["gnps"] for row in mine)
        ax.set_xlim(lowest / 3, highest * 2.5)
        ticks = [t for t in (0.01, 0.1, 1, 10, 100) if lowest / 3 <= t <= highest * 2.5]
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.set_yticks(list(at), [f"{r['engine']}, {_RANDOM[r['random']]}" for r in mine])
        ax.invert_yaxis()
        ax.set_xlabel("GNPS")
        ax.set_title(f"{s}, n = {power(mine[0]['n'])}", fontsize=11, loc="left")
    return figure


def training(rows: list[dict[str, Any]], score: str) -> Any:
    """Quality and training time of each contender."""
    figure, axes = _figure(9, 0.6 * len(rows) + 1.6, 2)
    names = [row["name"] for row in rows]
    at = range(len(rows))
    colors = [_THEIRS if row["engine"] == "scikit-learn" else _OURS for row in rows]
    for ax, key, label in ((axes[0], "score", score), (axes[1], "train_seconds", "training time, s")):
        values = [row[key] for row in rows]
        ax.barh(at, values, color=colors, height=0.6)
        for k, value in enumerate(values):
            ax.text(value, k, f" {value:.4g}", va="center", fontsize=9)
        ax.set_xlim(right=max(values) * 1.2 if max(values) > 0 else 1)
        ax.set_yticks(list(at), names if ax is axes[0] else [""] * len(rows))
        ax.invert_yaxis()
        ax.set_xlabel(label)
    first = rows[0]
    figure.suptitle(
        f"{first['n_train']:,} examples of {first['n']:,} features, {first['loss']} loss, {first['epochs']} epochs",
        fontsize=11,
    )
    return figure


def race(name: str, rows: list[dict[str, Any]]) -> Any:
    """Validation loss over the time of a whole run, preparing included; a point is a run of its own."""
    figure, ax = _figure(8.5, 4.8)
    colors = (_OURS, "#b5446e", "#3f8f6b", _THEIRS, *_MORE_COLORS)
    names = list(dict.fromkeys(row["name"] for row in rows))
    for key in dict.fromkeys((row["name"], row["threads"]) for row in rows):
        mine = sorted((row for row in rows if (row["name"], row["threads"]) == key), key=lambda row: row["effort"])
        label = f"{key[0]}, {'1 thread' if key[1] == 1 else f'{key[1]} threads'}"
        style = {"color": colors[names.index(key[0]) % len(colors)], "ls": "-" if key[1] == 1 else "--"}
        ax.plot([row["total_seconds"] for row in mine], [row["loss"] for row in mine], "o", ms=4, label=label, **style)
    target = rows[0]["target"]
    ax.axhline(target, color=_QUIET, lw=1)
    ax.annotate("the loss to reach", (0, target), xycoords=("axes fraction", "data"), xytext=(4, 3), textcoords="offset points")
    ax.set_xscale("log")
    # A run that went nowhere would squeeze all others into a line.
    ax.set_ylim(top=min(max(row["loss"] for row in rows), 2.5 * target) * 1.05)
    ax.grid(True, alpha=0.25)
    ax.set_xlabel("seconds of a whole run, preparing the data included")
    ax.set_ylabel("validation loss")
    ax.set_title(name, fontsize=11, loc="left")
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def machines(panels: dict[str, list[dict[str, Any]]]) -> Any:
    """Projected throughput over the number of machines, both logarithmic; what no communication at all would give is dotted.

    Parameters
    ----------
    panels : dict of str to list of dict
        By heading, rows of `lowprec.report.projection`. Markers are open where efficiency is below one half.
    """
    figure, axes = _figure(4.4 * len(panels) + 1.2, 4.4, len(panels))
    axes = list(axes) if len(panels) > 1 else [axes]
    colors = (_OURS, *(color for color in _COLORS.values() if color != _OURS), *_MORE_COLORS)
    names = list(dict.fromkeys(row["C"] for rows in panels.values() for row in rows))
    every = [row["gnps"] for rows in panels.values() for row in rows]
    for ax, (heading, rows) in zip(axes, panels.items(), strict=True):
        for name in dict.fromkeys(row["C"] for row in rows):
            mine = sorted((row for row in rows if row["C"] == name), key=lambda row: row["machines"])
            color = colors[names.index(name) % len(colors)]
            at, gnps = [row["machines"] for row in mine], [row["gnps"] for row in mine]
            ax.plot(at, gnps, "-", color=color, lw=1.4)
            for below, fill in ((False, color), (True, "white")):
                shown = [row for row in mine if (row["efficiency"] < 0.5) == below]
                x, y = [row["machines"] for row in shown], [row["gnps"] for row in shown]
                ax.plot(x, y, "o", ms=4.5, color=color, mfc=fill, label=None if below else f"C{name}")
        counts = sorted({row["machines"] for row in rows})
        alone = rows[0]["gnps"] / rows[0]["machines"] / rows[0]["efficiency"]
        ax.plot(counts, [alone * count for count in counts], ":", color=_QUIET, lw=1.2, label="no communication")
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks(counts[::2], [f"{count}" for count in counts[::2]])
        low, high = min(every) / 1.5, alone * counts[-1] * 1.5
        ticks = [10.0**k for k in range(-4, 9) if low <= 10.0**k <= high]
        ax.set_ylim(low, high)
        ax.set_yticks(ticks, [f"{tick:,.9g}" for tick in ticks])
        ax.minorticks_off()
        ax.grid(True, axis="y", alpha=0.25)
        ax.set_xlabel("machines")
        ax.set_title(heading, fontsize=10, loc="left")
    axes[0].set_ylabel("GNPS of all machines")
    axes[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle("Projected throughput on many machines; open: less than half of that without communication", fontsize=11)
    return figure
