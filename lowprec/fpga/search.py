"""The fastest design that fits: a search over lanes, stages and batches, for a chip and a memory.

A design's clocks are known by counting (`Design.clocks`), its fastest clock is not: that takes place and route. So designs are
tried in the order of what they could reach at the fastest clock that the chip's blocks bear, the smaller one first where two
could reach the same, and the search ends when none that is left could be faster than the best one found. What has been placed
once is on disk, so a search that was stopped goes on where it was.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from .. import checks
from .design import STAGES, Design, as_design, memory_shape, pieces
from .devices import SPEEDS, Device, as_device, as_speed
from .synthesis import Placement, place_seeds, synthesize
from .tools import ToolError
from .verilog import to_verilog

__all__ = ["Found", "Memory", "check_fits", "demands", "gnps", "search"]

#: Lanes that a search tries. More of them fit on the largest chip, and take half an hour to route, at half the clock.
SEARCHED_LANES = (4, 8, 16, 32)


@dataclass(frozen=True)
class Memory:
    """Where the data come from.

    Parameters
    ----------
    bandwidth : float
        10**9 bytes a second; math.inf: as fast as the circuit takes them.
    overhead : float
        Nanoseconds that a request costs besides its bytes. A batch is one request, whose rows lie one after the other.
    burst : int
        Bytes that are read at once; a row begins with a burst of its own.
    """

    bandwidth: float = math.inf
    overhead: float = 0.0
    burst: int = 64

    def __post_init__(self) -> None:
        if self.bandwidth != math.inf:
            checks.check_finite_scalar("bandwidth", self.bandwidth, positive=True)
        checks.check_finite_scalar("overhead", self.overhead, nonnegative=True)
        checks.check_int("burst", self.burst, minimum=1)

    def bursts(self, design: Design) -> int:
        """Of one row."""
        return -(-design.n * design.D // (8 * self.burst))

    def seconds(self, design: Design) -> float:
        """For a batch."""
        moved = 0.0 if math.isinf(self.bandwidth) else design.batch_size * self.bursts(design) * self.burst / self.bandwidth
        return 1e-9 * (self.overhead + moved)


def gnps(design: Design, mhz: float, memory: Memory = Memory()) -> float:
    """10**9 dataset numbers a second: what the circuit takes at a clock of so many MHz, or what the memory gives if that is less.

    The next batch is loaded while one is computed on, so the longer of the two counts.
    """
    mhz = checks.check_finite_scalar("mhz", mhz, positive=True)
    return 1e-9 * design.n * design.batch_size / max(design.clocks / (1e6 * mhz), memory.seconds(design))


def _block_memories(width: int, depth: int) -> int:
    bits, rows = memory_shape(depth)
    return -(-width // bits) * -(-depth // rows)


def demands(design: Design) -> dict[str, int]:
    """Multipliers (``dsp``) and block memories (``bram``, at least) that a design needs, without synthesis."""
    d = design
    scaling = pieces(d.error_bits)
    if d.stages == 2:
        each, tiles, copies = pieces(d.D) * pieces(max(d.M, d.G)), 1, 1
    else:
        each, tiles, copies = pieces(d.D) * (pieces(d.M) + pieces(d.G)), 2, 2
    tile = _block_memories(d.lanes * d.D, 2 * d.tile)
    model = _block_memories(d.lanes * d.M, d.beats)
    table = d.loss == "logistic"
    return {"dsp": d.lanes * each + scaling, "bram": tiles * tile + copies * model + table}


def check_fits(design: Design, device: Device | str) -> None:
    """Raise unless a chip has the multipliers and block memories that a design needs.

    Raises
    ------
    ValueError
        The text says what is needed, what there is, and what could be changed.
    """
    chip, needed = as_device(device), demands(design)
    for name, there, what, remedy in (
        ("bram", chip.block_rams, "block memories", "fewer columns (n), a smaller batch, two stages, fewer bits"),
        ("dsp", chip.multipliers, "multipliers", "fewer lanes, two stages, fewer bits"),
    ):
        if needed[name] > there:
            raise ValueError(
                f"design: {design.name} needs {needed[name]} {what}, {chip.name} has {there}; possible are {remedy}, or a larger "
                "device"
            )


@dataclass(frozen=True)
class Found:
    """A design that was placed.

    Attributes
    ----------
    design : Design
    placement : Placement
        Of the best seed.
    gnps : float
        With the memory of the search.
    """

    design: Design
    placement: Placement
    gnps: float


def _candidates(design: Design, lanes: Sequence[int], stages: Sequence[int], batches: Sequence[int]) -> Iterator[Design]:
    for n_lanes, n_stages, batch in itertools.product(lanes, stages, batches):
        yield replace(design, lanes=n_lanes, stages=n_stages, batch_size=batch)


def _size(design: Design) -> float:
    """For the order among designs that could be equally fast: about its logic cells."""
    return design.lanes * (40 + 5 * (design.D + design.M)) * (1.0 if design.stages == 3 else 1.1) + 10 * design.batch_size


def search(
    design: Design,
    device: Device | str,
    memory: Memory = Memory(),
    *,
    speed: int = 6,
    seeds: Sequence[int] = (1,),
    lanes: Sequence[int] = SEARCHED_LANES,
    stages: Sequence[int] = STAGES,
    batches: Sequence[int] = (1, 4, 16),
    at_once: int = 1,
    progress: Callable[[str], None] | None = None,
) -> list[Found]:
    """Find the fastest design that fits a chip.

    Parameters
    ----------
    design : Design
        What the designs have in common; lanes, stages and batch_size are replaced.
    device : Device or str
    memory : Memory
    speed : int
        Speed grade.
    seeds : sequence of int
        Of the placer; the best one counts.
    lanes, stages, batches : sequence of int
        What is tried.
    at_once : int
        Placements at the same time.
    progress : callable, optional
        Called with a sentence when something begins.

    Returns
    -------
    list of Found
        All that were placed, the fastest first; of two that are equally fast, the smaller one.

    Raises
    ------
    ValueError
        If none fits.
    """
    chip, grade = as_device(device), SPEEDS[as_speed(speed)]
    as_design(design)
    if not len(seeds):
        raise checks.wrong_value("seeds", "must name one at least", list(seeds))
    checks.check_callback(progress, "progress")
    possible, reason = [], None
    for one in _candidates(design, lanes, stages, batches):
        try:
            check_fits(one, chip)
        except ValueError as error:
            reason = error
        else:
            possible.append(one)
    if not possible:
        raise reason or checks.wrong_value("lanes", "must name one design at least", list(lanes))
    bound = {one: gnps(one, grade.block_ram_mhz, memory) for one in possible}
    found: list[Found] = []
    failed: ToolError | None = None
    # Two that could be equally fast but for the last digits are equally fast.
    for one in sorted(possible, key=lambda d: (-round(bound[d], 6), _size(d))):
        if found and bound[one] <= max(f.gnps for f in found) * (1 + 1e-9):
            continue
        if progress is not None:
            progress(f"{one.name} on {chip.name}")
        try:
            placements = place_seeds(
                synthesize(to_verilog(one), progress=progress), chip, speed=speed, seeds=seeds, at_once=at_once
            )
        except ToolError as error:  # it has the multipliers and memories, and yet no place for all
            failed = error
            continue
        best = max(placements, key=lambda p: p.fmax_mhz)
        found.append(Found(one, best, gnps(one, best.fmax_mhz, memory)))
    if not found:
        assert failed is not None
        raise failed
    return sorted(found, key=lambda f: (-round(f.gnps, 6), f.placement.lut))
