"""Tables and plots of `lowprec fpga`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lowprec.fpga.devices import PAPER_DEVICE, as_device
from lowprec.report.experiments import plots
from lowprec.report.experiments.common import choices
from lowprec.report.tables import NONE, Table, number, times

__all__ = ["figures", "tables"]

#: The paper's GNPS a watt, averages over its designs.
_PAPER_WATT = {"FPGA": 0.339, "Xeon E7-8890": 0.143}


def _select(results: dict[str, Any], figure: str) -> list[dict[str, Any]]:
    return [row for row in results["rows"] if row["figure"] == figure]


def _memory(results: dict[str, Any]) -> str:
    o = results["options"]
    if o["bandwidth"] == float("inf"):
        return "data as fast as they are taken"
    return f"{o['bandwidth']:g} GB/s"


def _area(row: dict[str, Any]) -> list[str]:
    return [f"{row['lut']:,}", f"{row['ff']:,}", str(row["dsp"]), str(row["bram"])]


def _mhz(row: dict[str, Any]) -> str:
    if row["seeds"] == 1:
        return f"{row['fmax_mhz']:.0f}"
    return f"{row['fmax_min_mhz']:.0f}-{row['fmax_mhz']:.0f}"


def _fig7f(results: dict[str, Any]) -> list[Table]:
    rows = _select(results, "7f")
    first = rows[0]
    chip = as_device(first["device"])
    where = f"{first['device']}, grade {first['speed']}"
    made = Table(
        f"Fig 7f: {first['lanes']} lanes, {first['stages']} stages, n = {first['n']}, on an {where}",
        ["<", "GNPS", "MHz", "LUT", "FF", "DSP", "BRAM", "LUT %", "GNPS/kLUT", "GNPS/DSP", "GNPS *", "area % *"],
    )
    for row in rows:
        made.add(
            row["signature"], number(row["circuit_gnps"]), _mhz(row), *_area(row), f"{100 * row['lut'] / chip.luts:.1f}",
            number(row["gnps_per_klut"]), number(row["gnps_per_dsp"]), number(row["paper_gnps"]), number(row["paper_area"]),
        )  # fmt: skip
    made.notes.append("LUT: logic cells, those of adders and small memories included. GNPS: as fast as data are taken.")
    made.notes.append(f"*: the paper, {PAPER_DEVICE}, 48 KB model, its fastest designs.")
    by = {row["signature"]: row for row in rows}
    if "D4M4" in by and "D32M32" in by:
        few, many = by["D4M4"], by["D32M32"]
        made.notes.append(
            f"4 bits over 32: {times(few['circuit_gnps'] / many['circuit_gnps'])} the throughput, "
            f"{times(few['gnps_per_klut'] / many['gnps_per_klut'])} per logic cell, "
            f"{times(few['gnps_per_dsp'] / many['gnps_per_dsp'])} per multiplier. In the paper: "
            f"{times(few['paper_gnps'] / many['paper_gnps'])}, and "
            f"{times(few['paper_gnps'] / few['paper_area'] * many['paper_area'] / many['paper_gnps'])} per area."
        )
    return [made]


def _search(results: dict[str, Any]) -> list[Table]:
    rows = _select(results, "search")
    if not rows:
        return []
    made = Table(
        f"The fastest that fits an {rows[0]['device']}, {_memory(results)}",
        ["<", "lanes", "stages", "batch", "GNPS", "MHz", "LUT", "FF", "DSP", "BRAM", "<bound by", "GNPS *"],
    )
    seen: set[str] = set()
    for row in rows:
        if row["signature"] in seen:
            continue
        seen.add(row["signature"])
        bound = "memory" if row["gnps"] < 0.999 * row["circuit_gnps"] else "clock"
        made.add(
            row["signature"], str(row["lanes"]), str(row["stages"]), str(row["batch"]), number(row["gnps"]), _mhz(row),
            *_area(row), bound, number(row["paper_gnps"]),
        )  # fmt: skip
    made.notes.append(f"{len(rows)} designs were placed; those that could not be faster at any clock of the chip were not.")
    made.notes.append(f"*: the paper, {PAPER_DEVICE}.")
    return [made]


def _comparison(title: str, names: Sequence[str], rows: Sequence[dict[str, Any]], notes: Sequence[str]) -> list[Table]:
    """Designs that differ in one thing, over the first of them."""
    if len(rows) < 2:
        return []
    made = Table(title, ["<", "GNPS", "MHz", "LUT", "FF", "DSP", "BRAM", "GNPS/kLUT"])
    for name, row in zip(names, rows, strict=True):
        made.add(name, number(row["circuit_gnps"]), _mhz(row), *_area(row), number(row["gnps_per_klut"]))
    made.notes += notes
    return [made]


def _trades(results: dict[str, Any]) -> list[Table]:
    stages = _select(results, "stages")
    made = _comparison(
        f"Two stages or three: {stages[0]['signature']}",
        [f"{row['stages']} stages, {row['lanes']} lanes" for row in stages],
        stages,
        [
            "Three: products and update at once, each with multipliers of its own, two copies of the model and of a tile, "
            "one batch "
            "late. Two: one after the other in the same multipliers, so twice the lanes for the same throughput, and half "
            "the memory."
        ],
    )
    batch = _select(results, "batch")
    if batch:
        made += _comparison(
            f"Standard and mini-batch: {batch[0]['signature']}, {batch[0]['lanes']} lanes",
            [f"{row['stages']} stages, batch {row['batch']}" for row in batch],
            batch,
            ["A batch's sums and steps are kept beside the pipeline, and its tiles are as many times as large."],
        )
    rounding = _select(results, "rounding")
    if rounding:
        made += _comparison(
            f"Random words: {rounding[0]['signature']}, {rounding[0]['lanes']} lanes",
            [row["random"] for row in rounding],
            rounding,
            ["xorshift: a fresh word for each number. shared: a block of 512 bits for each write of the model."],
        )
    data = _select(results, "data")
    if data:
        made += _comparison(f"Bits of the data alone: {data[0]['lanes']} lanes", [row["signature"] for row in data], data, [])
    return made


def _crossover(results: dict[str, Any]) -> list[Table]:
    rows = _select(results, "crossover")
    if not rows:
        return []
    o = results["options"]
    made = Table(
        f"Mini-batch over standard: {rows[0]['signature']}, {rows[0]['lanes']} lanes, {_memory(results)}",
        [
            "bursts",
            *(name for stages in (3, 2) for name in (f"{stages} stages", f"batch {rows[0]['batch']}", "ratio")),
        ],
    )
    by = {(row["stages"], row["bursts"]): row for row in rows}
    for bursts in dict.fromkeys(row["bursts"] for row in rows):
        cells = []
        for stages in (3, 2):
            row = by[stages, bursts]
            one, many = row["standard_gnps"], row["batch_gnps"]
            cells += [number(one), number(many) if row["fits"] else "too large", times(many / one) if row["fits"] else NONE]
        made.add(str(bursts), *cells)
    for stages in (3, 2):
        wins = [b for (s, b), row in by.items() if s == stages and row["fits"] and row["batch_gnps"] > row["standard_gnps"]]
        end = f"up to {max(wins)} of these bursts" if wins else "nowhere"
        made.notes.append(f"{stages} stages: the mini-batch wins {end}; the paper: unless a row spans 100 bursts.")
    made.notes.append(
        f"From the clocks that were reached at n = {o['n']}; a burst has 64 bytes, a request (a row, or a batch) costs "
        f"{o['overhead']:g} ns besides them. Bursts: of a row. Too large: the tiles do not fit the chip."
    )
    return [made]


def _widths(results: dict[str, Any]) -> list[Table]:
    rows = _select(results, "widths")
    if not rows:
        return []
    made = Table("What one more lane takes, D and M of so many bits", ["bits", "LUT a lane", "FF a lane", "LUT a lane and bit"])
    for row in rows:
        bits = int(row["signature"][1:].partition("M")[0])
        made.add(str(bits), f"{row['lut_per_lane']:.0f}", f"{row['ff_per_lane']:.0f}", number(row["lut_per_lane"] / bits))
    made.notes.append(
        "Counted after synthesis, 16 lanes less 8. About 40 of the LUTs are the lane's random word; beyond 16 bits words and "
        "steps "
        "have 32."
    )
    return [made]


def _power(results: dict[str, Any]) -> list[Table]:
    rows = _select(results, "search") or _select(results, "7f")
    made = Table("Throughput per watt, by a stated model", ["<", "<", "GNPS", "W", "GNPS/W"])
    seen: set[str] = set()
    for row in rows:
        if row["signature"] not in seen:
            seen.add(row["signature"])
            made.add(
                row["signature"],
                f"{row['device']}, {row['lanes']} lanes",
                number(row["gnps"]),
                number(row["watts"]),
                number(row["gnps_per_watt"]),
            )
    for row in _select(results, "cpu"):
        made.add(row["signature"], "this CPU, measured", number(row["gnps"]), number(row["watts"]), number(row["gnps_per_watt"]))
    for name, value in _PAPER_WATT.items():
        made.add("", f"paper, {name}, average", NONE, NONE, number(value))
    made.notes.append(
        "Circuits: static current 77 to 212 mA; a LUT 0.6, an FF 0.25, a multiplier 12, a block memory 15 pJ a clock; DDR3 "
        "480 pJ a "
        "byte. Not measured, and uncertain by a factor of two. The CPU's power is what --cpu-watts says it is."
    )
    return [made]


def _checks(results: dict[str, Any]) -> list[Table]:
    rows = _select(results, "check")
    made = Table(
        "The circuits beside training in software: the models at the end",
        ["<", "stages", "batch", "examples", "<", "weights moved", "clocks a batch", "loss, first", "last"],
    )
    for row in rows:
        batches = row["examples"] / row["batch"]
        made.add(
            row["signature"], str(row["stages"]), str(row["batch"]), f"{row['examples']:,}",
            "equal" if row["equal"] else "DIFFERENT",
            f"{row['moved']} of {row['n']}", f"{row['clocks'] / batches:.2f} ({row['clocks_counted'] / batches:.0f})",
            number(row["first_loss"]), number(row["last_loss"]),
        )  # fmt: skip
    simulators = " and ".join(dict.fromkeys(row["simulator"] for row in rows))
    made.notes.append(
        f"Run by {simulators}; software: lowprec.train_integer, beyond 16 bits the model in Python integers. In brackets: "
        "clocks by "
        "counting."
    )
    return [made]


def tables(results: dict[str, Any]) -> list[Table]:
    """The results as tables to read."""
    made = [
        *_fig7f(results), *_search(results), *_trades(results), *_crossover(results), *_widths(results), *_power(results),
        *_checks(results),
    ]  # fmt: skip
    made.append(
        choices(
            [
                ("tools", "Yosys and nextpnr-ecp5, out of context; registers moved into block memories and multipliers"),
                ("clock", "the least of nextpnr's and what block memories and multipliers bear, which nextpnr does not look at"),
                ("step", "16 bits (32 beyond 16 bits), eta of 8 bits over a power of two; labels as wide as the step"),
                ("model", f"n = {results['options']['n']}; the paper's has 48 KB (--columns)"),
            ]
        )
    )
    return made


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """The plots, by file name without its ending."""
    made: dict[str, Any] = {}
    rows = [row for row in _select(results, "7f") if row["paper_gnps"] is not None]
    if len(rows) > 1:
        bits = [int(row["signature"][1:].partition("M")[0]) for row in rows]
        chip = as_device(rows[0]["device"])

        def line(name: str, ours: str, theirs: str, factor: float = 1.0) -> plots.Line:
            points = [(b, factor * row[ours]) for b, row in zip(bits, rows, strict=True)]
            return plots.Line(name, points, [(b, row[theirs]) for b, row in zip(bits, rows, strict=True)])

        throughput = [line(f"GNPS, {rows[0]['lanes']} lanes", "circuit_gnps", "paper_gnps")]
        best = {row["signature"]: row for row in reversed(_select(results, "search"))}  # the first of each
        if best:
            points = [(b, best[row["signature"]]["gnps"]) for b, row in zip(bits, rows, strict=True)]
            throughput.append(plots.Line(f"GNPS, fastest with {_memory(results)}", points))
        made["fpga-7f"] = plots.lines(
            f"Fig 7f on an {rows[0]['device']}; dashed: the paper, Stratix V",
            {
                "throughput": throughput,
                "area": [line("% of the chip", "lut", "paper_area", 100 / chip.luts)],
            },
            x="bits of D and M", y=["GNPS", "% of the chip's logic"], x_ticks=bits, same_y=False,
        )  # fmt: skip
    widths = _select(results, "widths")
    if widths:
        counted = [(int(row["signature"][1:].partition("M")[0]), row) for row in widths]
        made["fpga-widths"] = plots.lines(
            "What one more lane takes",
            {
                "": [
                    plots.Line(name, [(b, row[key]) for b, row in counted])
                    for name, key in (("LUT", "lut_per_lane"), ("FF", "ff_per_lane"))
                ]
            },
            x="bits of D and M", y=["cells"], x_ticks=[b for b, _ in counted if b % 4 == 0],
        )  # fmt: skip
    crossover = _select(results, "crossover")
    if crossover:
        made["fpga-batch"] = plots.lines(
            f"Mini-batch and standard: {crossover[0]['signature']}, {crossover[0]['lanes']} lanes",
            {
                f"{stages} stages": [
                    plots.Line("standard", [(r["bursts"], r["standard_gnps"]) for r in crossover if r["stages"] == stages]),
                    plots.Line(
                        f"batch {crossover[0]['batch']}",
                        [(r["bursts"], r["batch_gnps"]) for r in crossover if r["stages"] == stages and r["fits"]],
                    ),
                ]
                for stages in (3, 2)
            },
            x="bursts of a row", y=["GNPS", "GNPS"], x_ticks=[1, 4, 16, 64, 256], log_x=True,
        )  # fmt: skip
    return made
