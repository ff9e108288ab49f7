"""What `lowprec fpga` makes: every design, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lowprec.checks import check_finite_scalar, check_int
from lowprec.fpga.design import Design
from lowprec.fpga.devices import as_device, as_speed
from lowprec.fpga.search import Memory, check_fits

__all__ = ["DEFAULT", "QUICK", "Options", "Piece", "checked_designs", "pieces", "width_designs"]


@dataclass(frozen=True)
class Options:
    """What is made.

    Parameters
    ----------
    signatures : tuple of str
        Of Fig 7f.
    device : str
    speed : int
        Speed grade.
    n : int
        Columns.
    lanes : int
        Of the designs that are compared; the search has its own.
    seeds : int
        Placements of each design, of which the fastest counts.
    bandwidth, overhead : float
        Of the data's memory: 10**9 bytes a second, and nanoseconds for a request. inf: as fast as the circuit takes them.
    batch_size : int
        Of the mini-batches.
    search : bool
        Also look for the fastest design that fits, for each signature.
    trades : bool
        Also compare stages, batches, sources of random words, and bits of the data alone.
    widths : tuple of int
        Bits of D and M whose logic is counted.
    examples : int
        That a circuit is checked over, against training in software.
    cpu : bool
        Also measure this machine's CPU.
    cpu_watts : float or None
        Its power; None: unknown, and not divided by.
    """

    signatures: tuple[str, ...] = ("D4M4", "D8M8", "D16M16", "D32M32")
    device: str = "LFE5U-85F"
    speed: int = 6
    n: int = 1024
    lanes: int = 8
    seeds: int = 1
    bandwidth: float = 3.2
    overhead: float = 50.0
    batch_size: int = 16
    search: bool = True
    trades: bool = True
    widths: tuple[int, ...] = (*range(3, 17), 24, 32)
    examples: int = 10_000
    cpu: bool = True
    cpu_watts: float | None = None

    def checked(self) -> Options:
        """The same, after a look at what a user may have chosen."""
        as_device(self.device)
        as_speed(self.speed)
        check_int("seeds", self.seeds, minimum=1, maximum=100)
        check_finite_scalar("bandwidth", self.bandwidth, positive=True) if not math.isinf(self.bandwidth) else None
        check_finite_scalar("overhead", self.overhead, nonnegative=True)
        if self.cpu_watts is not None:
            check_finite_scalar("cpu_watts", self.cpu_watts, positive=True)
        names = tuple(dict.fromkeys(str(Design(s).signature).partition("G")[0] for s in self.signatures))
        made = replace(self, signatures=names)
        for piece in pieces(made):
            check_fits(piece.design, self.device)
        return made

    @property
    def memory(self) -> Memory:
        """Where the data come from."""
        return Memory(self.bandwidth, self.overhead)


DEFAULT = Options()
QUICK = Options(
    signatures=("D8M8",), device="LFE5U-25F", search=False, trades=False, widths=(), examples=10_000, cpu=False
)  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """A design to be placed.

    Parameters
    ----------
    figure : str
        "7f": the precisions. "stages", "batch", "rounding", "data": the trades. All are of the same number of lanes but where
        stages are compared.
    design : Design
    """

    figure: str
    design: Design


def pieces(o: Options) -> Iterator[Piece]:
    """Every design that is placed for the tables, those of the search apart."""
    base = Design(o.signatures[0], o.n, o.lanes)
    for signature in o.signatures:
        yield Piece("7f", Design(signature, o.n, o.lanes))
    middle = replace(base, signature="D8M8", step=None) if "D8M8" in o.signatures else base
    yield Piece("stages", middle)
    yield Piece("stages", replace(middle, stages=2))
    if not o.trades:
        return
    yield Piece("stages", replace(middle, stages=2, lanes=2 * o.lanes))
    for stages in (3, 2):
        for batch in (1, o.batch_size):
            yield Piece("batch", replace(middle, stages=stages, batch_size=batch))
    for how in ({"rounding": "nearest"}, {"random": "shared"}, {"random": "xorshift"}):
        yield Piece("rounding", replace(middle, **how))
    if middle.M <= 16:
        for D in (4, 8, 16):
            yield Piece("data", replace(middle, signature=f"D{D}M{middle.M}", step=None))


def width_designs(o: Options) -> Iterator[tuple[int, Design, Design]]:
    """Bits, and two designs of so many that differ in their lanes: what one more lane takes is what they differ in."""
    for bits in o.widths:
        few = Design(f"D{bits}M{bits}", o.n, 8)
        yield bits, few, replace(few, lanes=16)


def checked_designs(o: Options) -> Iterator[Design]:
    """The designs that are run clock by clock, beside training in software."""
    for signature in o.signatures:
        for stages in (2, 3):
            for batch in (1, 8):
                yield Design(signature, 128, o.lanes, stages, batch)
