"""A machine's caches in plain Python, one access after another: what lowprec.cachesim must count and hold, without its time.

Written from the rules in words. Private first and second levels; a shared third one whose lines each know who has a copy and who
may write; MESI. Every level is a list of sets, every set a dict in the order of use, the line used longest ago first.

- A first-level copy answers a load in any state, a store (or a load that asks for its line as one does) where it may be written:
  in state M or E. Else the second level is asked, which answers by the same rule, and else the directory.
- The directory brings the line from memory if it is not there. A writer gets it alone: everybody else listed loses it. A reader
  makes the one who may write (if any) write back and go to S; it gets E if nobody else is listed, and S otherwise.
- What a core has written is M in its first level; its second level has the line in E until it is written back there.
- A dirty line that is lost goes to the level below; if that lacks the line, it is fetched there as for a store.
- Inclusive: what a second level loses, its first level loses, and what the third level loses, everybody loses. The directory is
  told of every line that a second level loses.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

LINE = 64
WRITABLE = ("M", "E")


class Sets:
    """One cache: what it has of each line, least recently used first."""

    def __init__(self, sets: int, ways: int, slices: int = 1) -> None:
        self.sets, self.ways, self.slices = sets, ways, slices
        self.content = [[{} for _ in range(sets)] for _ in range(slices)]

    def set_of(self, line: int) -> dict:
        return self.content[line % self.slices][line // self.slices % self.sets]

    def get(self, line: int):
        return self.set_of(line).get(line)

    def use(self, line: int) -> None:
        """It is now the one used last."""
        here = self.set_of(line)
        here[line] = here.pop(line)

    def leaves(self, line: int) -> int | None:
        """The line that has to go so that this one can come."""
        here = self.set_of(line)
        return next(iter(here)) if len(here) == self.ways else None

    def remove(self, line: int):
        return self.set_of(line).pop(line)

    def put(self, line: int, value) -> None:
        assert self.leaves(line) is None or line in self.set_of(line)
        self.set_of(line)[line] = value


@dataclass
class Shared:
    """A line of the third level."""

    sharers: set = field(default_factory=set)
    owner: int | None = None
    dirty: bool = False


class Machine:
    """The machine.

    Parameters
    ----------
    cores : int
    first, second : (sets, ways)
    third : (sets, ways, slices)
    inclusive : bool
    stores_use : bool
        Whether a store that finds its line counts as a use of it. It does; False is what pycachesim does.
    """

    def __init__(self, cores: int, first, second, third, inclusive: bool = True, stores_use: bool = True) -> None:
        self.first = [Sets(*first) for _ in range(cores)]
        self.second = [Sets(*second) for _ in range(cores)]
        self.third = Sets(*third)
        self.inclusive, self.stores_use = inclusive, stores_use
        self.counts = [Counter() for _ in range(cores)]

    # ---- from the core downwards ----------------------------------------------------------------------------

    def access(self, core: int, address: int, kind: str = "load") -> None:
        line, first, second, count = address // LINE, self.first[core], self.second[core], self.counts[core]
        if kind == "prefetch":
            if first.get(line) is None and second.get(line) is None:
                count["prefetches"] += 1
                self.into_second(core, line, self.ask(core, line, writes=False))
            return
        writes = kind != "load"
        name = "store" if kind == "store" else "load"
        count[name + "s"] += 1
        if self.answers(first, line, writes):
            count[name + "_hits"] += 1
            count["hits 1"] += 1
            if kind == "store":
                first.put(line, "M")
            if kind != "store" or self.stores_use:
                first.use(line)
            return
        count[name + "_misses"] += 1
        count["misses 1"] += 1
        if self.answers(second, line, writes):
            count["hits 2"] += 1
            second.use(line)
        else:
            count["upgrades"] += first.get(line) is not None or second.get(line) is not None
            count["misses 2"] += 1
            state = self.ask(core, line, writes)
            self.into_second(core, line, state)
        if first.get(line) is None:
            self.room_in_first(core, line)
        below = second.get(line)
        first.put(line, "M" if kind == "store" else "E" if below in WRITABLE else "S")
        first.use(line)

    @staticmethod
    def answers(cache: Sets, line: int, writes: bool) -> bool:
        state = cache.get(line)
        return state in WRITABLE if writes else state is not None

    def into_second(self, core: int, line: int, state: str) -> None:
        second = self.second[core]
        if second.get(line) is None:
            self.room_in_second(core, line)
        second.put(line, state)
        second.use(line)

    def room_in_first(self, core: int, line: int) -> None:
        first, second = self.first[core], self.second[core]
        old = first.leaves(line)
        if old is None or first.remove(old) != "M":
            return
        self.counts[core]["writebacks 1"] += 1
        if second.get(old) is None:
            self.counts[core]["misses 2"] += 1
            self.ask(core, old, writes=True)
            self.into_second(core, old, "M")
            return
        second.put(old, "M")
        if self.stores_use:
            second.use(old)

    def room_in_second(self, core: int, line: int) -> None:
        first, second, count = self.first[core], self.second[core], self.counts[core]
        old = second.leaves(line)
        if old is None:
            return
        dirty = second.remove(old) == "M"
        if self.inclusive and first.get(old) is not None:
            count["back_invalidations"] += 1
            if first.remove(old) == "M":
                count["writebacks 1"] += 1
                dirty = True
        if dirty:
            count["writebacks 2"] += 1
            if self.third.get(old) is None:
                count["misses 3"] += 1
                self.room_in_third(core, old)
                self.third.put(old, Shared())
            elif self.stores_use:
                self.third.use(old)
            self.third.get(old).dirty = True
        shared = self.third.get(old)
        if shared is not None:
            shared.sharers.discard(core)
            if shared.owner == core:
                shared.owner = None

    # ---- the shared level and its directory -----------------------------------------------------------------

    def ask(self, core: int, line: int, writes: bool) -> str:
        """The state in which the line comes to the core's second level."""
        count = self.counts[core]
        if self.third.get(line) is None:
            count["misses 3"] += 1
            self.room_in_third(core, line)
            self.third.put(line, Shared())
        else:
            count["hits 3"] += 1
        self.third.use(line)
        shared = self.third.get(line)
        others = shared.sharers - {core}
        if writes:
            count["remote"] += bool(others)
            for other in others:
                self.write_back(other, line, shared)
                self.take(other, line)
            shared.sharers, shared.owner = {core}, core
            return "E"
        if shared.owner not in (None, core):
            count["remote"] += 1
            self.write_back(shared.owner, line, shared)
            for cache in (self.first[shared.owner], self.second[shared.owner]):
                if cache.get(line) is not None:
                    cache.put(line, "S")
            shared.owner = None
        shared.sharers.add(core)
        if others:
            return "S"
        shared.owner = core
        return "E"

    def write_back(self, core: int, line: int, shared: Shared) -> None:
        """What a core has that is newer goes to the third level; its copies stay."""
        newer = [cache.get(line) == "M" for cache in (self.first[core], self.second[core])]
        self.counts[core]["writebacks 1"] += newer[0]
        if any(newer):
            self.counts[core]["writebacks 2"] += 1
            shared.dirty = True

    def take(self, core: int, line: int) -> int:
        """A core's copies go; how many there were."""
        had = [cache for cache in (self.first[core], self.second[core]) if cache.get(line) is not None]
        for cache in had:
            cache.remove(line)
        return len(had)

    def room_in_third(self, core: int, line: int) -> None:
        old = self.third.leaves(line)
        if old is None:
            return
        shared = self.third.get(old)
        if self.inclusive:
            for sharer in shared.sharers:
                self.write_back(sharer, old, shared)
                self.counts[sharer]["back_invalidations"] += self.take(sharer, old)
        self.counts[core]["writebacks 3"] += shared.dirty
        self.third.remove(old)

    # ---- to be compared -------------------------------------------------------------------------------------

    def line(self, line: int):
        """(states by core, sharers, owner, whether the third level has it), as lowprec.cachesim.Machine.line has them."""
        shared = self.third.get(line)
        states = tuple((f.get(line) or "I", s.get(line) or "I") for f, s in zip(self.first, self.second, strict=True))
        if shared is None:
            return states, (), None, False
        return states, tuple(sorted(shared.sharers)), shared.owner, True
