"""Coherence protocols: tables of what a cached line becomes, which a subclass changes.

A protocol says what a core's copy of a line is after the core's own accesses and after those of others. State "I" (not here) is
always there; the others are `Protocol.states`. The directory, in the shared level, knows which cores have a copy and which of
them may write; a write by one core is told to all others that it knows of, a read to the one that may write.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lowprec.cachesim import _simulator
from lowprec.checks import check_choice, check_finite_scalar, check_int, wrong_type, wrong_value

__all__ = ["INVALID", "MESI", "MSI", "Event", "Obstinate", "Protocol", "State"]

#: The state of a line that a cache does not have.
INVALID = "I"

_EVENTS = ("remote_read", "remote_write")

#: What a line becomes: a state, or states with their probabilities.
Outcome = str | Mapping[str, float]


@dataclass(frozen=True)
class State:
    """What a core may do with its copy of a line.

    Parameters
    ----------
    name : str
        Any but "I".
    writable : bool
        The core may write to it without asking the directory.
    dirty : bool
        It is newer than the shared level; when it goes, it is written back.
    """

    name: str
    writable: bool = False
    dirty: bool = False


@dataclass(frozen=True)
class Event:
    """Another core's access that reaches a copy, as `Protocol.decide` is told of it.

    Attributes
    ----------
    kind : str
        "remote_read" or "remote_write".
    core : int
        Whose copy it is.
    level : int
        1 or 2: in which of its caches. Each is asked about for itself.
    address : int
        Of the line's first byte.
    state : str
        Of the copy, until now.
    """

    kind: str
    core: int
    level: int
    address: int
    state: str


class Protocol:
    """A protocol by its tables; this one is MESI (Papamarcos and Patel, 1984) with nothing left out.

    A subclass gives other class attributes, or sets them on itself before it calls ``super().__init__``.

    Parameters
    ----------
    region : iterable of (int, int), optional
        Address ranges [first, last) with rules of their own; whole lines of 64 bytes, at most 8 ranges.

    Attributes
    ----------
    states : tuple of State
        At most 15; "I", a line that is not here, is always one besides.
    read_alone, read_shared, write : str
        The state in which a line comes to a core that reads it when nobody else has it, when others do, and that writes it.
    written : dict of str to str
        What a writable state is after the core has written; where it is not named, `write`.
    remote_read, remote_write : dict of str to Outcome
        What a copy becomes when another core reads the line, by its state (asked of the writable or dirty ones), or writes it
        ("I" where a state is not named). An outcome is a state, or a dict of up to 4 states to probabilities that add up to 1.
    region_remote_read, region_remote_write : dict of str to Outcome
        The same for lines in the region; where a state is not named, as outside.
    coin : {"level", "core"}
        Whether each cache decides by a random number of its own, or both of a core by the same.
    directory : {"drops", "keeps"}
        Whether a core that has a copy after a remote write is forgotten by the directory (it will not be told of the next
        write), or stays listed.

    Raises
    ------
    TypeError, ValueError
        If it leaves a line in no state, or lets two cores write one; the message names the table and the state.
    """

    states: ClassVar[tuple[State, ...]] = (State("M", writable=True, dirty=True), State("E", writable=True), State("S"))
    read_alone: str = "E"
    read_shared: str = "S"
    write: str = "M"
    written: Mapping[str, str] = {}
    remote_read: Mapping[str, Outcome] = {"M": "S", "E": "S", "S": "S"}
    remote_write: Mapping[str, Outcome] = {}
    region_remote_read: Mapping[str, Outcome] = {}
    region_remote_write: Mapping[str, Outcome] = {}
    coin: str = "level"
    directory: str = "drops"

    def __init__(self, region: Iterable[tuple[int, int]] = ()) -> None:
        self.region = _check_region(region)
        self.tables()  # so that what is wrong with it is said here

    def decide(self, event: Event) -> str | None:
        """What a line becomes; None: what the tables say.

        Overridden, it is called for every remote event that finds a copy of a line of the region (of any line, where the region
        is empty): a way to protocols that remember. Slow, at some microseconds a call.

        Parameters
        ----------
        event : Event

        Returns
        -------
        str or None
            A state that may not be written, after a remote write nor be dirty.
        """
        return None

    @property
    def name(self) -> str:
        """What results call it: the class's name."""
        return type(self).__name__

    def __repr__(self) -> str:
        return f"{self.name}()"

    # ---- for the compiled core ------------------------------------------------------------------------------------

    def _number(self, name: Any, where: str) -> int:
        names = [INVALID, *(s.name for s in self.states)]
        if name not in names:
            raise wrong_value(where, f"must be a state, one of {{{', '.join(names)}}}: it leaves a line in no state", name)
        return names.index(name)

    def _outcome(self, event: str, state: State, outcome: Outcome, where: str) -> list[tuple[int, float]]:
        if outcome is not None and not isinstance(outcome, (str, Mapping)):
            raise wrong_type(where, "a state, or a dict of states to probabilities", outcome)
        given = {outcome: 1.0} if isinstance(outcome, str) else dict(outcome or {})
        if not 1 <= len(given) <= _simulator.MAX_CHOICES:
            raise wrong_value(where, f"must name 1 to {_simulator.MAX_CHOICES} states: it leaves a line in no state", outcome)
        total, pairs = 0.0, []
        for name, probability in given.items():
            number = self._number(name, where)
            p = check_finite_scalar(f"{where}: the probability of {name}", probability, nonnegative=True)
            if p == 0.0:
                continue
            if number:
                self._check_after(event, self.states[number - 1], where)
            total += p
            pairs.append((number, total))
        if abs(total - 1.0) > 1e-9:
            rule = "must have probabilities that add up to 1: with the rest it leaves a line in no state"
            raise wrong_value(where, rule, dict(given))
        return pairs

    def _check_after(self, event: str, after: State, where: str) -> None:
        if after.writable:
            raise wrong_value(where, "must not leave a line that may be written: two cores would write it", after.name)
        if event == "remote_write" and after.dirty:
            raise wrong_value(where, "must not leave a dirty line: what the other core wrote would be overwritten", after.name)

    def tables(self) -> dict[str, Any]:
        """The protocol as the compiled core takes it.

        Raises
        ------
        ValueError
            If it leaves a line in no state, or lets two cores write one.
        """
        states = tuple(self.states)
        for state in states:
            if not isinstance(state, State):
                raise wrong_type("protocol: states", "States", state)
        if not 1 <= len(states) < _simulator.MAX_STATES:
            raise wrong_value("protocol: states", f"must be 1 to {_simulator.MAX_STATES - 1}", len(states))
        names = [s.name for s in states]
        if len(set(names)) < len(names) or INVALID in names:
            raise wrong_value("protocol: states", f"must have different names, none of them {INVALID}", names)
        check_choice("protocol: coin", self.coin, ("level", "core"))
        check_choice("protocol: directory", self.directory, ("drops", "keeps"))
        made: dict[str, Any] = {
            name: self._number(getattr(self, name), f"protocol: {name}") for name in ("read_alone", "read_shared", "write")
        }
        for name, rule, right in (
            ("read_shared", "must be a state that may not be written: others have the line too", False),
            ("write", "must be a state that may be written", True),
        ):
            number = made[name]
            if number == 0 or states[number - 1].writable is not right:
                raise wrong_value(f"protocol: {name}", rule, getattr(self, name))
        if not states[made["write"] - 1].dirty:
            raise wrong_value("protocol: write", "must be a dirty state: there are write-back caches only", self.write)
        for name in ("read_alone", "read_shared"):
            if made[name] == 0 or states[made[name] - 1].dirty:
                raise wrong_value(
                    f"protocol: {name}", "must be a state of a line that is here, and not dirty", getattr(self, name)
                )
        for table in ("written", *_EVENTS, *(f"region_{event}" for event in _EVENTS)):
            if not isinstance(getattr(self, table), Mapping):
                raise wrong_type(f"protocol: {table}", "a dict of states", getattr(self, table))
            for name in getattr(self, table):
                if name not in names:
                    raise wrong_value(f"protocol: {table}", f"must name states, of {{{', '.join(names)}}}", name)
        written, clean = [0], [0]
        for number, state in enumerate(states, 1):
            after = self._number(self.written.get(state.name, self.write), f"protocol: written[{state.name!r}]")
            if state.writable and (after == 0 or not (states[after - 1].writable and states[after - 1].dirty)):
                raise wrong_value(
                    f"protocol: written[{state.name!r}]", "must be a state that is writable and dirty", self.written
                )
            written.append(after if state.writable else number)
            alike = (k for k, s in enumerate(states, 1) if s.writable == state.writable and not s.dirty)
            clean.append(number if not state.dirty else next(alike, made["read_shared"]))
        following = []
        for event in _EVENTS:
            outside = {s.name: getattr(self, event).get(s.name, INVALID if event == "remote_write" else None) for s in states}
            inside = outside | dict(getattr(self, f"region_{event}"))
            rows = []
            for prefix, table in (("", outside), ("region_", inside)):
                row: list[list[tuple[int, float]]] = [[(0, 1.0)]]
                for s in states:
                    row.append(self._outcome(event, s, table[s.name], f"protocol: {prefix}{event}[{s.name!r}]"))
                rows.append(row)
            following.append(rows)
        hook = None if type(self).decide is Protocol.decide else self._decide
        regions = self.region or ([(0, 2**63)] if hook else ())
        return made | {
            "writable": [False, *(s.writable for s in states)],
            "dirty": [False, *(s.dirty for s in states)],
            "written": written,
            "clean": clean,
            "next": following,
            "regions": [(first // 64, last // 64) for first, last in regions],
            "one_coin": self.coin == "core",
            "listed": self.directory == "keeps",
            "hook": hook,
        }

    def _decide(self, event: int, core: int, level: int, line: int, state: int) -> int:
        """`decide`, as the compiled core asks."""
        happened = Event(_EVENTS[event], core, level + 1, line * 64, self.states[state - 1].name)
        decided = self.decide(happened)
        if decided is None:
            return -1
        where = f"protocol: decide({happened})"
        number = self._number(decided, where)
        if number:
            self._check_after(happened.kind, self.states[number - 1], where)
        return number


def _check_region(region: Any) -> tuple[tuple[int, int], ...]:
    try:
        pairs = [(first, last) for first, last in region]
    except (TypeError, ValueError):
        raise wrong_type("region", "pairs of addresses, such as [(first, last)]", region) from None
    if len(pairs) > _simulator.MAX_REGIONS:
        raise wrong_value("region", f"must be at most {_simulator.MAX_REGIONS} ranges", len(pairs))
    found = []
    for first, last in pairs:
        first, last = check_int("region", first, minimum=0), check_int("region", last, minimum=0, maximum=2**63)
        if first % 64 or last % 64 or last < first:
            raise wrong_value("region", "must be whole lines: multiples of 64, the last not before the first", (first, last))
        found.append((first, last))
    return tuple(found)


class MESI(Protocol):
    """Modified, exclusive, shared, invalid: the usual protocol, and the default."""


class MSI(Protocol):
    """Modified, shared, invalid: the first write to a line that was read asks the directory, even if nobody else has it."""

    states = (State("M", writable=True, dirty=True), State("S"))
    read_alone = "S"
    remote_read: Mapping[str, Outcome] = {"M": "S", "S": "S"}


class Obstinate(MESI):
    """The obstinate cache (De Sa et al., ISCA 2017, Section 6): MESI, but a copy may stay where a write would end it.

    In the lines of a region, a copy that another core's write would invalidate stays, in state S, with probability q.

    A copy that stayed is stale: it is read until it is evicted, until an invalidation is not ignored, or until the core writes
    the line, which brings it the present one. If the shared level loses the line, cores that the directory lists lose their
    copies; one that it has dropped keeps it.

    Parameters
    ----------
    q : float
        The obstinacy, in [0, 1]. 0 is MESI.
    region : iterable of (int, int)
        Address ranges [first, last) of the model's lines; `model_region` gives that of `sgd_streams` and `train`.
    coin : {"level", "core"}
        Whether first and second level each decide for themselves, as they are classes of their own in a simulator like ZSim, or
        as one.
    directory : {"drops", "keeps"}
        Whether the directory takes a core off its list when it sends the invalidation, or leaves it there as long as the line
        stays.
    """

    def __init__(self, q: float, region: Iterable[tuple[int, int]], *, coin: str = "level", directory: str = "drops") -> None:
        q = check_finite_scalar("q", q)
        if not 0.0 <= q <= 1.0:
            raise wrong_value("q", "must lie in [0, 1]: it is a probability", q)
        self.q, self.coin, self.directory = q, coin, directory
        self.region_remote_write = {name: {"S": q, INVALID: 1.0 - q} for name in "MES"}
        super().__init__(region)

    def __repr__(self) -> str:
        return f"Obstinate(q={self.q:g})"
