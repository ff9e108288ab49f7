"""The chips that a circuit can be placed on, with what they have, and the chip of the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lowprec.checks import check_choice, wrong_value

__all__ = ["DEVICES", "PACKAGE", "PAPER_DEVICE", "SPEEDS", "Device", "SpeedGrade", "as_device", "as_speed"]


@dataclass(frozen=True)
class SpeedGrade:
    """The clock that the hard blocks of a speed grade bear, which the router's timing analysis does not look at.

    Figures of the timing database of Project Trellis (ECP5/timing/speed_*/cells.json), which nextpnr carries.

    Attributes
    ----------
    block_ram_mhz : float
        Half a period is the least width of a pulse of DP16KD's clock.
    read_before_write_mhz : float
        The same for a port that reads before it writes (WRITEMODE "READBEFOREWRITE").
    product_mhz : float
        One period from the input registers of a MULT18X18D to its output registers. The database has no such path; taken for it
        is the time from the clock to the product without output registers, and a setup time.
    """

    block_ram_mhz: float
    read_before_write_mhz: float
    product_mhz: float

    @classmethod
    def of(cls, pulse_ps: int, read_before_write_pulse_ps: int, product_ps: int) -> SpeedGrade:
        """From picoseconds: the two least pulses, and the product."""
        return cls(1e6 / (2 * pulse_ps), 1e6 / (2 * read_before_write_pulse_ps), 1e6 / product_ps)


#: Speed grades of the ECP5 family, slowest first.
SPEEDS = {
    6: SpeedGrade.of(2359, 3235, 3864 + 84),
    7: SpeedGrade.of(1967, 2581, 3455 + 63),
    8: SpeedGrade.of(1842, 2335, 3045 + 42),
}


@dataclass(frozen=True)
class Device:
    """A chip of Lattice's ECP5 family.

    Attributes
    ----------
    name : str
        The part.
    option : str
        What nextpnr calls it.
    luts, flip_flops : int
        Look-up tables with four inputs, and flip-flops.
    multipliers : int
        Multipliers of 18 x 18 bits (MULT18X18D).
    block_rams : int
        Block memories of 18 Kbit (DP16KD).
    """

    name: str
    option: str
    luts: int
    flip_flops: int
    multipliers: int
    block_rams: int


#: A package in which all of them come. Its pins are not used.
PACKAGE = "CABGA381"

# LFE5U-12F is not here: nextpnr takes it for the LFE5U-25F, whose die it is.
#: The chips, smallest first. The figures are those that nextpnr reports as available.
DEVICES = {
    device.name: device
    for device in (
        Device("LFE5U-25F", "25k", 24_288, 24_288, 28, 56),
        Device("LFE5U-45F", "45k", 43_848, 43_848, 72, 108),
        Device("LFE5U-85F", "85k", 83_640, 83_640, 156, 208),
    )
}

#: The chip of the paper's Section 8. No open tool places circuits on it.
PAPER_DEVICE = "Altera Stratix V GS 5SGSD8"


def as_device(value: Any, name: str = "device") -> Device:
    """A device, from itself or its name."""
    return value if isinstance(value, Device) else DEVICES[check_choice(name, value, DEVICES)]


def as_speed(value: Any, name: str = "speed") -> int:
    """A speed grade of the family."""
    if isinstance(value, bool) or value not in SPEEDS:
        raise wrong_value(name, f"must be a speed grade, one of {', '.join(map(str, SPEEDS))}", value)
    return int(value)
