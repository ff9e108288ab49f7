"""Netlists as Yosys writes them: registers moved into the block memories and multipliers that they stand next to.

Yosys leaves the output registers of block memories (DP16KD) and all registers of multipliers (MULT18X18D) unused. Reading a block
memory without its output register takes six times as long as with it, and nextpnr's timing analysis knows both. A register can be
moved where the block's own does the same: rising edge of the same clock, zero at the start, neither enable nor reset.

Nets are integers, constants are the strings "0", "1" and "x". Functions change the netlist that they are given.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

__all__ = [
    "count_cells",
    "hard_blocks",
    "move_multiplier_registers",
    "move_output_registers",
    "relax_write_modes",
    "without_sources",
]

Cell = dict[str, Any]
Module = dict[str, Any]

_FALSE, _TRUE = "0", "1"


class _Nets:
    """Who drives and who reads each net of a module, kept up to date while registers are moved."""

    def __init__(self, module: Module) -> None:
        self.cells: dict[str, Cell] = module["cells"]
        self.driver: dict[int, str] = {}
        self.readers: defaultdict[int, Counter[tuple[str, str]]] = defaultdict(Counter)
        for name in self.cells:
            self._add(name, 1)
        for name, port in module["ports"].items():
            if port["direction"] != "input":
                for net in port["bits"]:
                    self.readers[net]["", name] += 1

    def _add(self, name: str, count: int) -> None:
        cell = self.cells[name]
        for port, nets in cell["connections"].items():
            for net in nets:
                if isinstance(net, str):
                    continue
                if cell["port_directions"][port] == "input":
                    self.readers[net][name, port] += count
                elif count > 0:
                    self.driver[net] = name
                elif self.driver.get(net) == name:
                    del self.driver[net]

    def remove(self, name: str) -> None:
        self._add(name, -1)
        del self.cells[name]

    def connect(self, name: str, port: str, net: int | str, direction: str = "input") -> None:
        """Connect a port of one bit, in place of what it is connected to."""
        cell = self.cells[name]
        self._add(name, -1)
        cell["connections"][port] = [net]
        cell["port_directions"][port] = direction
        self._add(name, 1)

    def read_by(self, net: int | str) -> list[tuple[str, str]]:
        """Cell and port of each that reads a net; the cell is "" for a port of the module."""
        return [reader for reader, count in self.readers[net].items() if count > 0] if isinstance(net, int) else []

    def register_behind(self, net: int | str, clock: int) -> str | None:
        """The plain register that alone reads a net."""
        readers = self.read_by(net)
        if len(readers) == 1 and readers[0][1] == "DI" and self.is_plain(readers[0][0], clock):
            return readers[0][0]
        return None

    def register_before(self, net: int | str, clock: int) -> str | None:
        """The plain register that drives a net."""
        name = self.driver.get(net) if isinstance(net, int) else None
        return name if name is not None and self.is_plain(name, clock) else None

    def is_plain(self, name: str, clock: int) -> bool:
        """Whether a cell is a register on the rising edge of `clock`, zero at the start, without enable and reset."""
        cell = self.cells.get(name)
        if cell is None or cell["type"] != "TRELLIS_FF":
            return False
        return (
            cell["connections"]["CLK"] == [clock]
            and cell["connections"].get("LSR", [_FALSE]) == [_FALSE]
            and _parameter(cell, "LSRMUX", "LSR") == "LSR"
            and _parameter(cell, "CLKMUX", "CLK") == "CLK"
            and _parameter(cell, "CEMUX", "1") == "1"
            and _parameter(cell, "REGSET", "RESET") == "RESET"
            and _parameter(cell, "GSR", "ENABLED") == "DISABLED"
        )


def _parameter(cell: Cell, name: str, default: str) -> str:
    # Yosys marks strings that look like numbers by a space at their end.
    return str(cell["parameters"].get(name, default)).strip()


def _integer(cell: Cell, name: str) -> int:
    return int(_parameter(cell, name, "0"), 2)


def _of_type(module: Module, kind: str) -> Iterator[tuple[str, Cell]]:
    yield from [(name, cell) for name, cell in module["cells"].items() if cell["type"] == kind]


def _bits(cell: Cell, *prefixes: str) -> dict[str, int | str]:
    """Ports that are one of the prefixes and a number, with what each is connected to."""
    return {
        port: nets[0]
        for port, nets in cell["connections"].items()
        if nets and any(port.startswith(prefix) and port[len(prefix) :].isdigit() for prefix in prefixes)
    }


def _clock(cell: Cell, port: str) -> int | None:
    """The net of a clock port, if it is one whose rising edge counts."""
    (net,) = cell["connections"].get(port, [_FALSE])
    return net if isinstance(net, int) and _parameter(cell, port + "MUX", port) == port else None


def _move_outputs(nets: _Nets, name: str, ports: dict[str, int | str], clock: int) -> int:
    """Take the registers behind the outputs `ports` of a cell away, if there is one behind each that is used; how many."""
    registers = {port: nets.register_behind(net, clock) for port, net in ports.items() if nets.read_by(net)}
    if not registers or None in registers.values():
        return 0
    for port, register in registers.items():
        (net,) = nets.cells[register]["connections"]["Q"]
        nets.remove(register)
        nets.connect(name, port, net, "output")
    return len(registers)


def relax_write_modes(module: Module) -> int:
    """Let ports of block memories that do not both read and write be ordinary ones.

    Yosys makes any port of a DP16KD one that reads before it writes, which bears a quarter less clock. Where a port never writes,
    or nobody reads what it gives, all modes do the same.

    Parameters
    ----------
    module : dict
        A module of Yosys' JSON, changed in place.

    Returns
    -------
    int
        How many ports were changed.
    """
    nets = _Nets(module)
    changed = 0
    for _, cell in _of_type(module, "DP16KD"):
        for port in "AB":
            enable = "WE" + port
            never_writes = cell["connections"].get(enable) == [_FALSE] and _parameter(cell, enable + "MUX", enable) == enable
            unread = not any(nets.read_by(net) for net in _bits(cell, "DO" + port).values())
            if (never_writes or unread) and _parameter(cell, "WRITEMODE_" + port, "NORMAL") != "NORMAL":
                cell["parameters"]["WRITEMODE_" + port] = "NORMAL"
                changed += 1
    return changed


def move_output_registers(module: Module) -> int:
    """Move the registers behind block memories into them.

    A port of a DP16KD takes its registers where all outputs that are used go to a register each, and nowhere else, and the port
    is always enabled and never reset.

    Parameters
    ----------
    module : dict
        A module of Yosys' JSON, changed in place.

    Returns
    -------
    int
        How many flip-flops were moved.
    """
    nets = _Nets(module)
    moved = 0
    for name, cell in _of_type(module, "DP16KD"):
        # A memory of 36 bits is read by both ports' outputs, and by port B's clock.
        wide = _integer(cell, "DATA_WIDTH_A") == 36
        for port, outputs in (("B", ("DOA", "DOB")),) if wide else (("A", ("DOA",)), ("B", ("DOB",))):
            clock = _clock(cell, "CLK" + port)
            enable, reset, output_enable = "CE" + port, "RST" + port, "OCE" + port
            plain = (
                cell["connections"].get(enable) == [_TRUE]
                and cell["connections"].get(reset) == [_FALSE]
                and all(_parameter(cell, pin + "MUX", pin) == pin for pin in (enable, reset, output_enable))
                and _parameter(cell, "REGMODE_" + port, "NOREG") == "NOREG"
            )
            if clock is None or not plain:
                continue
            if count := _move_outputs(nets, name, _bits(cell, *outputs), clock):
                for half in "AB" if wide else port:
                    cell["parameters"]["REGMODE_" + half] = "OUTREG"
                nets.connect(name, output_enable, _TRUE)
                moved += count
    return moved


def _input_registers(nets: _Nets, name: str, ports: dict[str, int | str], clock: int) -> dict[str, str] | None:
    """The register before each input of a multiplier, constant zeros left out; None where one is missing or should stay.

    A register that others read as well is copied by this. Then its own input must come out of a register, a block or a port: what
    comes out of logic would have to reach all the copies in the same clock.
    """
    registers = {}
    for port, net in ports.items():
        if net in (_FALSE, "x"):
            continue
        register = nets.register_before(net, clock)
        if register is None:
            return None
        if any(reader != name for reader, _ in nets.read_by(net)):
            (source,) = nets.cells[register]["connections"]["DI"]
            driver = nets.driver.get(source) if isinstance(source, int) else None
            if driver is not None and not _drives_from_register(nets.cells[driver]):
                return None
        registers[port] = register
    return registers


def _drives_from_register(cell: Cell) -> bool:
    return (
        cell["type"] == "TRELLIS_FF"
        or (cell["type"] == "DP16KD" and "OUTREG" in (_parameter(cell, "REGMODE_A", ""), _parameter(cell, "REGMODE_B", "")))
        or (cell["type"] == "MULT18X18D" and _parameter(cell, "REG_OUTPUT_CLK", "NONE") != "NONE")
    )


def move_multiplier_registers(module: Module) -> dict[str, int]:
    """Move the registers before and behind multipliers into them.

    The output registers move where all product bits that are used go to a register each, and nowhere else. The input registers
    move where both factors come out of registers; a register that is read elsewhere too stays there, and is copied. nextpnr takes
    a multiplier of which one input alone has registers for one that has none, so one alone never moves.

    Parameters
    ----------
    module : dict
        A module of Yosys' JSON, changed in place. Call `move_output_registers` first: a register between a block memory and a
        multiplier is worth more in the memory.

    Returns
    -------
    dict
        ``outputs``, ``inputs``: how many multipliers have got registers there; ``flip_flops``: how many flip-flops are gone.
    """
    nets = _Nets(module)
    before = len(nets.cells)
    moved = {"outputs": 0, "inputs": 0}
    multipliers = [(name, cell) for name, cell in _of_type(module, "MULT18X18D") if not _has_registers(cell)]

    clocks: dict[str, int] = {}
    for name, cell in multipliers:
        product = _bits(cell, "P")
        behind = [nets.read_by(net)[0][0] for net in product.values() if nets.read_by(net)]
        clock = _register_clock(nets, behind)
        if clock is not None and _move_outputs(nets, name, product, clock):
            cell["parameters"]["REG_OUTPUT_CLK"] = "CLK0"
            clocks[name] = clock
            moved["outputs"] += 1

    # All that move are found first: each multiplier's copy is of the same registers.
    found: list[tuple[str, dict[str, str]]] = []
    for name, cell in multipliers:
        factors = [_bits(cell, factor) for factor in "AB"]
        before_it = [nets.driver.get(net, "") for net in (factors[0] | factors[1]).values() if isinstance(net, int)]
        clock = clocks.get(name, _register_clock(nets, before_it))
        if clock is None:
            continue
        registers = [_input_registers(nets, name, factor, clock) for factor in factors]
        if all(registers):
            clocks[name] = clock
            found.append((name, registers[0] | registers[1]))
    for name, registers in found:
        for port, register in registers.items():
            nets.connect(name, port, nets.cells[register]["connections"]["DI"][0])
        nets.cells[name]["parameters"] |= {"REG_INPUTA_CLK": "CLK0", "REG_INPUTB_CLK": "CLK0"}
        moved["inputs"] += 1
    for register in sorted({register for _, registers in found for register in registers.values()}):
        if not nets.read_by(nets.cells[register]["connections"]["Q"][0]):
            nets.remove(register)

    for name, clock in clocks.items():
        nets.cells[name]["parameters"] |= {"GSR": "DISABLED", "RESETMODE": "SYNC"}
        for port, net in (("CLK0", clock), ("CE0", _TRUE), ("RST0", _FALSE)):
            nets.connect(name, port, net)
    return moved | {"flip_flops": before - len(nets.cells)}


def _has_registers(cell: Cell) -> bool:
    return any(name.endswith("_CLK") and _parameter(cell, name, "NONE") != "NONE" for name in cell["parameters"])


def _register_clock(nets: _Nets, names: list[str]) -> int | None:
    """The clock of the first of some cells, if it is a register."""
    cell = nets.cells.get(names[0]) if names else None
    if cell is None or cell["type"] != "TRELLIS_FF":
        return None
    (clock,) = cell["connections"]["CLK"]
    return clock if isinstance(clock, int) else None


def count_cells(module: Module) -> dict[str, int]:
    """How many cells of each type a module has, by name of the type."""
    return dict(sorted(Counter(cell["type"] for cell in module["cells"].values()).items()))


def hard_blocks(module: Module) -> dict[str, int]:
    """How many blocks a module has whose clock is bounded from within.

    Returns
    -------
    dict
        ``block_ram``: block memories; ``read_before_write``: those of them with a port that reads before it writes; ``product``:
        multipliers with registers on both sides.
    """
    memories = [cell for _, cell in _of_type(module, "DP16KD")]
    multipliers = [cell for _, cell in _of_type(module, "MULT18X18D")]
    modes = [{_parameter(cell, "WRITEMODE_" + port, "NORMAL") for port in "AB"} for cell in memories]
    ends = [{_parameter(cell, f"REG_{end}_CLK", "NONE") for end in ("INPUTA", "INPUTB", "OUTPUT")} for cell in multipliers]
    return {
        "block_ram": len(memories),
        "read_before_write": sum("READBEFOREWRITE" in mode for mode in modes),
        "product": sum("NONE" not in end for end in ends),
    }


def without_sources(design: dict[str, Any], top: str) -> dict[str, Any]:
    """The netlist of one module without where its parts come from, which the router does not look at."""
    module = design["modules"][top]
    cells = {name: cell | {"attributes": {}} for name, cell in module["cells"].items()}
    return {"creator": design.get("creator", ""), "modules": {top: module | {"cells": cells, "netnames": {}}}}
