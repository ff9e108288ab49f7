"""Circuits as Verilog."""

from __future__ import annotations

from ..checks import need_extra
from .design import Design

__all__ = ["to_verilog"]


def to_verilog(design: Design) -> str:
    """The Verilog of a circuit, module ``sgd``."""
    verilog = need_extra("amaranth.back.verilog", "fpga", "writing a circuit")
    from .circuit import Sgd

    circuit = Sgd(design)
    return verilog.convert(circuit, name="sgd", ports=circuit.ports, emit_src=False)
