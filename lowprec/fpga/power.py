"""A stated model of power. Nothing here is measured.

P = static + clock * (energy of each cell's clock, times how many there are) + bytes a second * energy of a byte of memory

The static part is a supply current of the core of 77, 116 and 212 mA for the three chips, at 1.1 V. The energies are round
figures for 40 nm logic of which one signal in eight changes in a clock, wires included; they may be off by a factor of two
either way, which matters for what is compared with a CPU and not for what is compared among circuits.
"""

from __future__ import annotations

from dataclasses import dataclass

from .devices import as_device
from .synthesis import Placement

__all__ = ["POWER", "PowerModel"]

_VOLTS = 1.1
_AMPERES = {"LFE5U-25F": 0.077, "LFE5U-45F": 0.116, "LFE5U-85F": 0.212}


@dataclass(frozen=True)
class PowerModel:
    """Energies, in picojoules.

    Parameters
    ----------
    lut, ff, dsp, bram : float
        Of one look-up table, flip-flop, multiplier, and block memory, in a clock.
    byte : float
        Of a byte read from the data's memory: 60 pJ a bit, as DDR3 takes.
    """

    lut: float = 0.6
    ff: float = 0.25
    dsp: float = 12.0
    bram: float = 15.0
    byte: float = 480.0

    def watts(self, placement: Placement, mhz: float, bytes_per_second: float) -> float:
        """Power of a circuit and of the memory that feeds it.

        Parameters
        ----------
        placement : Placement
        mhz : float
            Its clock.
        bytes_per_second : float
            Of data.
        """
        p = placement
        each = self.lut * p.lut + self.ff * p.ff + self.dsp * p.dsp + self.bram * p.bram
        static = _VOLTS * _AMPERES[as_device(p.device).name]
        return static + 1e-12 * (each * 1e6 * mhz + self.byte * bytes_per_second)


#: The figures that tables use.
POWER = PowerModel()
