"""A simulated machine: its description, and the machine itself, which is fed accesses and counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lowprec.cachesim import _simulator
from lowprec.cachesim.protocol import INVALID, MESI, Protocol
from lowprec.checks import (
    check_bool,
    check_callback,
    check_choice,
    check_finite_scalar,
    check_int,
    check_seed,
    wrong_type,
    wrong_value,
)

if TYPE_CHECKING:
    from lowprec.cachesim.streams import Stream

__all__ = ["LINE", "Core", "Counters", "Level", "LineState", "Machine", "MachineConfig"]

#: Bytes of a cache line.
LINE = 64

_KINDS = {
    "load": _simulator.LOAD,
    "store": _simulator.STORE,
    "load_own": _simulator.LOAD_OWN,
    "prefetch": _simulator.PREFETCH,
    "prefetch_first": _simulator.PREFETCH_FIRST,
}

#: Accesses between two looks at the caller's callback, and at Ctrl-C: some tenths of a second.
_SLICE = 2**21


@dataclass(frozen=True)
class Level:
    """One level of the caches: set-associative, least recently used, write-back, write-allocate.

    Parameters
    ----------
    size : int
        Bytes, all slices together: a power of two of sets in each slice.
    ways : int
        Lines of a set, 1 to 65,536.
    latency : float
        Cycles that it adds to an access that comes so far.
    slices : int
        Parts among which lines go around, one by one; more than one in the shared level alone.
    """

    size: int
    ways: int
    latency: float
    slices: int = 1

    def __post_init__(self) -> None:
        check_int("size", self.size, minimum=LINE, maximum=2**60)
        check_int("ways", self.ways, minimum=1, maximum=2**16)
        check_int("slices", self.slices, minimum=1, maximum=2**16)
        check_finite_scalar("latency", self.latency, nonnegative=True)
        sets, rest = divmod(self.size, self.ways * self.slices * LINE)
        if rest or sets < 1 or sets & (sets - 1):
            raise wrong_value(
                "size",
                f"must be {self.slices} slices x a power of two of sets x {self.ways} ways x {LINE} bytes",
                f"{self.size:,} bytes, which is {self.size / (self.ways * self.slices * LINE):g} sets a slice",
            )

    @property
    def sets(self) -> int:
        """Sets of a slice."""
        return self.size // (self.ways * self.slices * LINE)


@dataclass(frozen=True)
class Core:
    """An in-order core.

    Parameters
    ----------
    cpi : float
        Cycles of an instruction whose data are in the first level.
    overlap : int
        How many loads may be waited for at once: with 1 each is waited for, with k the core goes on until it has k that are not
        there yet, or until an access that needs them (a "wait"). At most 64.
    store_buffer : int
        How many stores may wait for their lines while the core goes on; 0: the core waits for each. At most 64.
    prefetch_distance : int
        Lines that the stride prefetcher runs ahead of what a core asks its second level for, into that level, within 4-KiB
        pages; 0: there is none. At most 64.
    hidden : float
        Cycles of an access that the pipeline covers: with the latency of the first level, as here, hits in it cost nothing.
    """

    cpi: float = 1.0
    overlap: int = 1
    store_buffer: int = 0
    prefetch_distance: int = 0
    hidden: float = 4.0

    def __post_init__(self) -> None:
        check_finite_scalar("cpi", self.cpi, nonnegative=True)
        check_int("overlap", self.overlap, minimum=1, maximum=_simulator.MAX_IN_FLIGHT)
        check_int("store_buffer", self.store_buffer, minimum=0, maximum=_simulator.MAX_IN_FLIGHT)
        check_int("prefetch_distance", self.prefetch_distance, minimum=0, maximum=64)
        check_finite_scalar("hidden", self.hidden, nonnegative=True)


@dataclass(frozen=True)
class MachineConfig:
    """A machine. The defaults are the one of De Sa et al. (ISCA 2017): a Xeon E7-8890 v3 as ZSim would have it.

    Sizes, latencies of the levels and the clock are the paper's; it does not state ways, memory and remote latency, which are
    those of the processor and of ZSim's defaults (Sanchez and Kozyrakis, ISCA 2013).

    Parameters
    ----------
    cores : int
        At most 64, which the directory has room for.
    first, second : Level
        Private to each core, of one slice. No level is smaller than the one above it.
    third : Level
        Shared. Its lines have the directory's entries.
    memory : float
        Cycles that memory adds.
    remote : float
        Cycles that it adds to have other cores' copies written back or invalidated, all of them at once.
    ghz : float
        10^9 cycles a second: for those who turn cycles into time. The simulation itself has cycles alone.
    core : Core
        What every core is like.
    inclusive : bool
        A line that leaves the shared level, or a second level, leaves the levels above it. Without, as many simulators of one
        core have it, there is no directory to rely on: for one core alone.
    """

    cores: int = 18
    first: Level = Level(32 * 2**10, 8, 4.0)
    second: Level = Level(256 * 2**10, 8, 12.0)
    third: Level = Level(45 * 2**20, 20, 36.0, slices=18)
    memory: float = 100.0
    remote: float = 16.0
    ghz: float = 2.5
    core: Core = field(default_factory=Core)
    inclusive: bool = True

    def __post_init__(self) -> None:
        if check_int("cores", self.cores, minimum=1) > _simulator.MAX_CORES:
            rule = f"must be at most {_simulator.MAX_CORES}: a directory entry has no room for more sharers"
            raise wrong_value("cores", rule, self.cores)
        for name in ("first", "second", "third"):
            if not isinstance(level := getattr(self, name), Level):
                raise wrong_type(name, "a Level", level)
        if not isinstance(self.core, Core):
            raise wrong_type("core", "a Core", self.core)
        for name in ("first", "second"):
            if getattr(self, name).slices != 1:
                raise wrong_value(name, "must have one slice: it is private to a core", getattr(self, name).slices)
        for above, below in (("first", "second"), ("second", "third")):
            sizes = getattr(self, above).size, getattr(self, below).size
            if sizes[1] < sizes[0]:
                raise wrong_value(below, f"must not be smaller than the level above it, of {sizes[0]:,} bytes", f"{sizes[1]:,}")
        check_finite_scalar("memory", self.memory, nonnegative=True)
        check_finite_scalar("remote", self.remote, nonnegative=True)
        check_finite_scalar("ghz", self.ghz, positive=True)
        if not check_bool("inclusive", self.inclusive) and self.cores > 1:
            rule = "must be true of more than one core: the shared level holds the directory"
            raise wrong_value("inclusive", rule, self.inclusive)


@dataclass(frozen=True)
class Counters:
    """What one core did, or several together.

    Attributes
    ----------
    instructions, loads, stores : int
    load_hits, load_misses, store_hits, store_misses : int
        Of the first level. A store to a line that is there but may not be written is a miss, and an upgrade.
    hits, misses : tuple of int, length 3
        By level: first, second, third; of the lower ones, what the level above asked for.
    upgrades : int
        Accesses that needed leave to write a line that was there.
    writebacks : tuple of int, length 3
        By the level that wrote back.
    back_invalidations : int
        Lines lost because a level below lost them.
    received, received_region : tuple of (int, int), length 2
        By level (first, second): copies that another core's reads found, and that its writes found. Outside of the protocol's
        region, and in it.
    kept : tuple of int, length 2
        By level, copies that stayed after another core's write.
    region_loads, stale_loads : int
        Loads of lines in the region, those that ask for their line included; loads that read a copy kept so.
    remote : int
        Requests that waited for other cores' copies.
    prefetches, late : int
        Lines asked for ahead; accesses that had to wait for a line under way.
    stalled : tuple of float, length 4
        Cycles that the core waited, by how far the access went: second level, third, other cores, memory. What waited for a line
        under way went no farther than where it found that.
    """

    instructions: int
    loads: int
    stores: int
    load_hits: int
    load_misses: int
    store_hits: int
    store_misses: int
    hits: tuple[int, int, int]
    misses: tuple[int, int, int]
    upgrades: int
    writebacks: tuple[int, int, int]
    back_invalidations: int
    received: tuple[tuple[int, int], tuple[int, int]]
    received_region: tuple[tuple[int, int], tuple[int, int]]
    kept: tuple[int, int]
    region_loads: int
    stale_loads: int
    remote: int
    prefetches: int
    late: int
    stalled: tuple[float, float, float, float]

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Counters:
        """From what the compiled core counts."""
        return cls(**{name: _tuples(value) for name, value in raw.items()})

    def __add__(self, other: Counters) -> Counters:
        return Counters(**{name: _sum(value, getattr(other, name)) for name, value in vars(self).items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value


def _sum(a: Any, b: Any) -> Any:
    return tuple(_sum(x, y) for x, y in zip(a, b, strict=True)) if isinstance(a, tuple) else a + b


@dataclass(frozen=True)
class LineState:
    """Where a line is.

    Attributes
    ----------
    states : tuple of (str, str)
        By core, of its first- and second-level copy; "I" where there is none. What is written in the first level is clean in the
        second until it is written back.
    stale : tuple of (bool, bool)
        By core, whether that copy stayed after another core's write.
    sharers : tuple of int
        The cores that the directory lists.
    owner : int or None
        The core that is asked when another reads: it may write the line, or has it dirty.
    shared : bool
        Whether the shared level has it.
    """

    states: tuple[tuple[str, str], ...]
    stale: tuple[tuple[bool, bool], ...]
    sharers: tuple[int, ...]
    owner: int | None
    shared: bool


class Machine:
    """A machine in motion.

    Parameters
    ----------
    config : MachineConfig, optional
        The paper's machine by default.
    protocol : Protocol, optional
        MESI by default.
    seed : int
        Of the protocol's random numbers, in [0, 2**64).

    Attributes
    ----------
    config : MachineConfig
    protocol : Protocol

    Examples
    --------
    >>> from lowprec.cachesim import Machine, MachineConfig
    >>> machine = Machine(MachineConfig(cores=2))
    >>> machine.access(0, 0x1000, "store"), machine.access(1, 0x1000, "load")
    (148.0, 64.0)
    >>> machine.line(0x1000).states
    (('S', 'S'), ('S', 'S'))
    """

    def __init__(self, config: MachineConfig | None = None, protocol: Protocol | None = None, seed: int = 0) -> None:
        self.config = MachineConfig() if config is None else config
        if not isinstance(self.config, MachineConfig):
            raise wrong_type("config", "a MachineConfig", config)
        self.protocol = MESI() if protocol is None else protocol
        if not isinstance(self.protocol, Protocol):
            raise wrong_type("protocol", "a Protocol", protocol)
        c = self.config
        levels = [(level.sets, level.ways, level.slices, level.latency) for level in (c.first, c.second, c.third)]
        core = {"hidden": c.core.hidden, "cpi": c.core.cpi, "overlap": c.core.overlap, "store_buffer": c.core.store_buffer}
        machine = {"cores": c.cores, "inclusive": c.inclusive, "memory": c.memory, "remote": c.remote}
        self._simulator = _simulator.Simulator(
            machine | core | {"distance": c.core.prefetch_distance, "levels": levels}, self.protocol.tables(), check_seed(seed)
        )
        self._since = [0.0] * c.cores

    def _core(self, core: Any) -> int:
        return check_int("core", core, minimum=0, maximum=self.config.cores - 1)

    def feed(self, core: int, stream: Stream, passes: int = 1, *, row: int = 0) -> None:
        """Give a core its accesses; what it had not done yet of others is dropped.

        Parameters
        ----------
        core : int
            0 to cores - 1.
        stream : Stream
        passes : int
            How many times over it, each on the next rows of data where the stream has such.
        row : int
            The row of data to begin at, below ``stream.rows``.

        Raises
        ------
        TypeError, ValueError
            For what is none of these.
        """
        from lowprec.cachesim.streams import Stream

        core, passes = self._core(core), check_int("passes", passes, minimum=0, maximum=2**62)
        if not isinstance(stream, Stream):
            raise wrong_type("stream", "a Stream", stream)
        accesses, rows = stream.checked(), stream.rows
        row = check_int("row", row, minimum=0, maximum=rows - 1)
        self._simulator.program(core, accesses, passes, stream.batch, rows, stream.base, stream.stride, row)

    def delay(self, core: int, cycles: float) -> None:
        """Let a core do nothing for some cycles: cores that all begin at once with the same work stay in step.

        Parameters
        ----------
        core : int
        cycles : float
        """
        self._simulator.delay(self._core(core), check_finite_scalar("cycles", cycles, nonnegative=True))

    def run(self, callback: Callable[[int], None] | None = None) -> int:
        """Run until every core is done; always the core goes on that is furthest behind.

        Parameters
        ----------
        callback : callable, optional
            Told the number of accesses so far, every two million.

        Returns
        -------
        int
            Accesses made, prefetches and waits included.

        Raises
        ------
        ValueError
            If the protocol's `decide` says what it may not; what it raises itself comes out as it is.
        """
        check_callback(callback)
        done = 0
        while made := self._simulator.run(_SLICE):
            done += made
            if callback is not None:
                callback(done)
        return done

    def access(self, core: int, address: int, kind: str = "load") -> float:
        """One access now, outside of any stream.

        Parameters
        ----------
        core : int
        address : int
            In [0, 2**63); of the line that has it.
        kind : {"load", "store", "load_own", "prefetch", "prefetch_first"}
            "load_own" asks for leave to write the line as it reads it, as an update does; "prefetch" brings the line into the
            second level, "prefetch_first" into the first as well.

        Returns
        -------
        float
            Cycles until the access was done; 0 for a prefetch, which nobody waits for.
        """
        kind = check_choice("kind", kind, tuple(_KINDS))
        return self._simulator.access(self._core(core), check_int("address", address, minimum=0, maximum=2**63 - 1), _KINDS[kind])

    def line(self, address: int) -> LineState:
        """Where the line of an address is.

        Parameters
        ----------
        address : int
            In [0, 2**63).

        Returns
        -------
        LineState
        """
        names = (INVALID, *(s.name for s in self.protocol.states))
        line = check_int("address", address, minimum=0, maximum=2**63 - 1) // LINE
        states, stale, sharers, owner, shared = self._simulator.line(line)
        named = tuple((names[a], names[b]) for a, b in states)
        return LineState(named, tuple(stale), tuple(sharers), None if owner < 0 else owner, shared)

    def cycles(self, core: int) -> float:
        """A core's time since the machine was made, or since `clear`.

        Parameters
        ----------
        core : int

        Returns
        -------
        float
            Cycles, those in which it waited included.
        """
        return self._simulator.time(self._core(core)) - self._since[core]

    def counters(self, core: int | None = None) -> Counters:
        """What a core did since the machine was made, or since `clear`.

        Parameters
        ----------
        core : int, optional
            None: all cores together.

        Returns
        -------
        Counters
        """
        if core is not None:
            return Counters.of(self._simulator.counters(self._core(core)))
        total = self.counters(0)
        for k in range(1, self.config.cores):
            total += self.counters(k)
        return total

    def clear(self) -> None:
        """Begin to count and to measure time anew; caches stay as they are."""
        self._simulator.clear()
        self._since = [self._simulator.time(k) for k in range(self.config.cores)]

    def __repr__(self) -> str:
        return f"Machine(cores={self.config.cores}, protocol={self.protocol!r})"
