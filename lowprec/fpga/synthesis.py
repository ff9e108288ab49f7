"""From Verilog to figures: synthesis, place and route, and what they say of area and clock.

A circuit is placed out of context: its ports are not pins, so that its size is not bounded by a package. The clock is that of the
paths between its registers; paths from and to ports do not count, so a circuit should have registers at its ports.

What is finished is kept on disk, by a hash of everything that it depends on, and never done again.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowprec import atomic
from lowprec.checks import check_bool, check_callback, check_int, wrong_type, wrong_value
from lowprec.fpga import netlist, tools
from lowprec.fpga.devices import PACKAGE, SPEEDS, Device, SpeedGrade, as_device, as_speed

__all__ = ["CriticalPath", "Netlist", "Placement", "essence", "place_and_route", "place_seeds", "scales_with_lanes", "synthesize"]

# Measured on circuits of eight lanes: -dff loses 5 to 13 % of the clock and -noccu2 half of it; -nowidelut saves up to 3 % of the
# look-up tables and changes the clock by no more than another seed does.
_SCRIPT = "read_verilog {source}; synth_ecp5 -top {top} -json {netlist}"
# The target of the clock is not among the options: from 12 to 500 MHz it changes nothing in what is placed.
_PLACE = ("--package", PACKAGE, "--out-of-context", "--timing-allow-fail")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Netlist:
    """A synthesized circuit.

    Attributes
    ----------
    path : Path
        The netlist, Yosys' JSON, compressed.
    key : str
        Hash of its text.
    cells : dict
        How many cells of each type there are, before placing.
    moved : dict
        ``memory``: flip-flops that went into block memories; ``outputs``, ``inputs``: multipliers that have got registers behind
        and before them; ``flip_flops``: flip-flops that are gone with these.
    blocks : dict
        Blocks whose clock is bounded: `netlist.hard_blocks`.
    seconds : float
        Time that synthesis took when it was done.
    """

    path: Path
    key: str
    cells: dict[str, int]
    moved: dict[str, int]
    blocks: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class CriticalPath:
    """The slowest path between two registers.

    Attributes
    ----------
    source, sink : str
        Cell and port where it begins and ends.
    logic_ns, routing_ns : float
        Time in cells, clock to output and setup included, and on wires.
    cells : int
        Cells that it goes through between the two.
    """

    source: str
    sink: str
    logic_ns: float
    routing_ns: float
    cells: int


@dataclass(frozen=True)
class Placement:
    """What a circuit takes of a chip, and how fast it runs there.

    Attributes
    ----------
    device : str
    speed, seed : int
    lut : int
        Look-up tables (TRELLIS_COMB), those of adders and small memories included.
    ff : int
        Flip-flops, without those in block memories and multipliers.
    dsp : int
        Multipliers of 18 x 18 bits.
    bram : int
        Block memories of 18 Kbit.
    ramw : int
        Slices that write small memories made of look-up tables (four tables' worth each).
    fmax_mhz : float
        The fastest clock: the least of `paths_mhz` and what the hard blocks bear.
    paths_mhz : float
        The fastest clock by the paths between registers, which is what nextpnr reports.
    limit : str
        What bounds the clock: "paths", "block memory" or "multiplier".
    critical_path : CriticalPath
    seconds : float
        Time that place and route took when it was done.
    """

    device: str
    speed: int
    seed: int
    lut: int
    ff: int
    dsp: int
    bram: int
    ramw: int
    fmax_mhz: float
    paths_mhz: float
    limit: str
    critical_path: CriticalPath
    seconds: float

    def share(self) -> dict[str, float]:
        """The fraction of the chip that is used of each: ``lut``, ``ff``, ``dsp``, ``bram``."""
        chip = as_device(self.device)
        return {
            "lut": self.lut / chip.luts,
            "ff": self.ff / chip.flip_flops,
            "dsp": self.dsp / chip.multipliers,
            "bram": self.bram / chip.block_rams,
        }


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _folder() -> Path:
    folder = tools.cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _kept(path: Path) -> dict[str, Any] | None:
    """A finished record, or None."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def _keep(path: Path, record: dict[str, Any]) -> None:
    atomic.replace(path, lambda f: f.write(json.dumps(record, indent=1).encode()))


# ---- synthesis -------------------------------------------------------------------------------------------------------------


def synthesize(
    verilog: str,
    *,
    top: str = "sgd",
    output_registers: bool = True,
    multiplier_registers: bool = True,
    progress: Progress | None = None,
) -> Netlist:
    """Make a netlist of cells of the ECP5 family.

    Parameters
    ----------
    verilog : str
        The circuit.
    top : str
        Its outermost module.
    output_registers : bool
        Move registers behind block memories into them: `netlist.move_output_registers`.
    multiplier_registers : bool
        Move registers before and behind multipliers into them: `netlist.move_multiplier_registers`.
    progress : callable, optional
        Called with a sentence when the tool begins.

    Returns
    -------
    Netlist

    Raises
    ------
    ImportError
        If the extra ``fpga`` is not installed.
    ToolError
        If Yosys refuses the text.
    """
    if not isinstance(verilog, str):
        raise wrong_type("verilog", "the text of a circuit", verilog)
    if not isinstance(top, str) or not top.isidentifier():
        raise wrong_value("top", "must be the name of a module", top)
    check_bool("output_registers", output_registers)
    check_bool("multiplier_registers", multiplier_registers)
    check_callback(progress, "progress")
    passes = Path(netlist.__file__).read_text()  # what they do is part of what the result depends on
    key = _key(verilog, top, tools.version("yosys"), _SCRIPT, passes, str(output_registers), str(multiplier_registers))
    folder = _folder()
    text, record = folder / f"{key}.netlist.json.gz", folder / f"{key}.netlist.json"
    found = _kept(record) if text.exists() else None
    if found is None:
        found = _synthesize(verilog, top, output_registers, multiplier_registers, text, progress)
        _keep(record, found)
    return Netlist(path=text, **found)


def _synthesize(
    verilog: str, top: str, output_registers: bool, multiplier_registers: bool, path: Path, progress: Progress | None
) -> dict[str, Any]:
    log = path.with_name(path.name.partition(".")[0] + ".yosys.log")
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        work = Path(name)
        (work / "source.v").write_text(verilog)
        script = _SCRIPT.format(source="source.v", top=top, netlist="netlist.json")
        (seconds,) = tools.run([tools.Task("yosys", ("-p", script), "synthesis", work, log)], progress=progress)
        design = netlist.without_sources(json.loads((work / "netlist.json").read_bytes()), top)
    log.unlink()
    module = design["modules"][top]
    netlist.relax_write_modes(module)
    moved = {"memory": netlist.move_output_registers(module) if output_registers else 0}
    moved |= netlist.move_multiplier_registers(module) if multiplier_registers else {"outputs": 0, "inputs": 0, "flip_flops": 0}
    text = json.dumps(design).encode()
    atomic.replace(path, lambda f: f.write(gzip.compress(text, compresslevel=3, mtime=0)))
    return {
        "key": hashlib.sha256(text).hexdigest()[:32],
        "cells": netlist.count_cells(module),
        "moved": moved,
        "blocks": netlist.hard_blocks(module),
        "seconds": seconds,
    }


# ---- place and route -------------------------------------------------------------------------------------------------------


def place_and_route(
    circuit: Netlist, device: Device | str = "LFE5U-25F", *, speed: int = 6, seed: int = 1, progress: Progress | None = None
) -> Placement:
    """Place a circuit on a chip.

    Parameters
    ----------
    circuit : Netlist
        From `synthesize`.
    device : Device or str
        One of `devices.DEVICES`.
    speed : int
        Speed grade: 6, 7 or 8, the fastest.
    seed : int
        Of the placer's random numbers. Clocks of different seeds differ by some percent.
    progress : callable, optional
        Called with a sentence when the tool begins.

    Returns
    -------
    Placement

    Raises
    ------
    ImportError
        If the extra ``fpga`` is not installed.
    ToolError
        If the circuit does not fit, or cannot be routed.
    """
    return place_seeds(circuit, device, speed=speed, seeds=[seed], progress=progress)[0]


def place_seeds(
    circuit: Netlist,
    device: Device | str = "LFE5U-25F",
    *,
    speed: int = 6,
    seeds: Sequence[int],
    at_once: int = 2,
    progress: Progress | None = None,
) -> list[Placement]:
    """Place a circuit with each of some seeds.

    Parameters
    ----------
    circuit, device, speed, progress
        As for `place_and_route`.
    seeds : sequence of int
        Of the placer. Those that are finished are kept, whatever becomes of the others.
    at_once : int
        How many run at the same time, each on one CPU; one takes some hundred megabytes.

    Returns
    -------
    list of Placement
        In the order of `seeds`.
    """
    if not isinstance(circuit, Netlist):
        raise wrong_type("circuit", "a Netlist", circuit)
    chip, grade = as_device(device), as_speed(speed)
    # nextpnr reads its seed as an int
    seeds = [check_int("seeds", seed, minimum=0, maximum=2**31 - 1) for seed in seeds]
    check_int("at_once", at_once, minimum=1)
    check_callback(progress, "progress")
    version = tools.version("nextpnr-ecp5")
    folder = _folder()
    options = (f"--{chip.option}", "--speed", str(grade), *_PLACE)
    records = {seed: folder / f"{_key(circuit.key, version, *options, str(seed))}.placement.json" for seed in seeds}
    missing = [seed for seed, path in records.items() if _kept(path) is None]
    if missing:
        _place(circuit, chip, options, {seed: records[seed] for seed in missing}, at_once, progress)
    return [_placement(_kept(records[seed]), circuit, chip, grade, seed) for seed in seeds]


def _place(
    circuit: Netlist, chip: Device, options: tuple[str, ...], records: dict[int, Path], at_once: int, progress: Progress | None
) -> None:
    """Place with each seed of `records`, and keep what comes of it there."""
    with tempfile.TemporaryDirectory(dir=tools.cache_folder()) as name:
        work = Path(name)
        (work / "netlist.json").write_bytes(gzip.decompress(circuit.path.read_bytes()))
        seeds = {}
        for seed, record in records.items():
            arguments = (*options, "--json", "netlist.json", "--report", f"{seed}.json", "--seed", str(seed))
            stage = f"place and route on {chip.name} with seed {seed}"
            seeds[tools.Task("nextpnr-ecp5", arguments, stage, work, record.with_suffix(".log"))] = seed

        def finished(task: tools.Task, seconds: float) -> None:
            report = json.loads((work / f"{seeds[task]}.json").read_bytes())
            _keep(records[seeds[task]], essence(report) | {"seconds": seconds})
            task.log.unlink()

        tools.run(list(seeds), at_once=at_once, progress=progress, finished=finished)


def essence(report: dict[str, Any]) -> dict[str, Any]:
    """What counts of a report of nextpnr: clocks, cells by type, and the slowest path between registers.

    Raises
    ------
    ValueError
        If there is not one clock alone.
    """
    clocks = report["fmax"]
    if len(clocks) != 1:
        raise wrong_value("circuit", "must have one clock, with paths between its registers", f"{len(clocks)} such clocks")
    ((clock, fmax),) = clocks.items()
    edge = f"posedge {clock}"
    (steps,) = (path["path"] for path in report["critical_paths"] if (path["from"], path["to"]) == (edge, edge))
    wires = [step["delay"] for step in steps if step["type"] == "routing"]
    source, sink = steps[0]["from"], steps[-1]["to"]
    return {
        "paths_mhz": fmax["achieved"],
        "cells": {name: entry["used"] for name, entry in report["utilization"].items() if entry["used"]},
        "critical_path": {
            "source": f"{source['cell']}.{source['port']}",
            "sink": f"{sink['cell']}.{sink['port']}",
            "logic_ns": sum(step["delay"] for step in steps) - sum(wires),
            "routing_ns": sum(wires),
            "cells": sum(step["type"] == "logic" for step in steps),
        },
    }


def _bounds(blocks: Mapping[str, int], grade: SpeedGrade) -> dict[str, float]:
    """The clocks that the hard blocks of a circuit bear, in MHz."""
    bounds = {}
    if blocks["block_ram"]:
        bounds["block memory"] = grade.read_before_write_mhz if blocks["read_before_write"] else grade.block_ram_mhz
    if blocks["product"]:
        bounds["multiplier"] = grade.product_mhz
    return bounds


def _placement(record: dict[str, Any], circuit: Netlist, chip: Device, speed: int, seed: int) -> Placement:
    cells = record["cells"]
    bounds = {"paths": record["paths_mhz"]} | _bounds(circuit.blocks, SPEEDS[speed])
    limit = min(bounds, key=bounds.__getitem__)
    return Placement(
        device=chip.name,
        speed=speed,
        seed=seed,
        lut=cells.get("TRELLIS_COMB", 0),
        ff=cells.get("TRELLIS_FF", 0),
        dsp=cells.get("MULT18X18D", 0),
        bram=cells.get("DP16KD", 0),
        ramw=cells.get("TRELLIS_RAMW", 0),
        fmax_mhz=bounds[limit],
        paths_mhz=record["paths_mhz"],
        limit=limit,
        critical_path=CriticalPath(**record["critical_path"]),
        seconds=record["seconds"],
    )


def scales_with_lanes(placements: Mapping[int, Placement]) -> None:
    """Check that nothing was optimized away: look-up tables, flip-flops and multipliers grow with the lanes.

    Parameters
    ----------
    placements : mapping of int to Placement
        The same circuit with two or more numbers of lanes, by these.

    Raises
    ------
    ValueError
        If one of the three does not grow. Multipliers may be absent from all: narrow products are made of look-up tables.
    """
    if len(placements) < 2:
        raise wrong_value("placements", "must be of two numbers of lanes at least", list(placements))
    rows = sorted(placements.items())
    for name, what in (("lut", "look-up tables"), ("ff", "flip-flops"), ("dsp", "multipliers")):
        counts = [getattr(placement, name) for _, placement in rows]
        if name == "dsp" and not any(counts):
            continue
        for (few, _), (many, _), less, more in zip(rows, rows[1:], counts, counts[1:], strict=False):
            if more <= less:
                raise ValueError(
                    f"placements: {what} must grow with the lanes, or something was optimized away; "
                    f"got {less} with {few} lanes and {more} with {many}"
                )
