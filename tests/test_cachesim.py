"""The cache simulator: held to pycachesim on one core, to a plain model on several, to what coherent memory is, and in cycles."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import cache_oracle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowprec.cachesim import (
    ACCESS,
    INVALID,
    MESI,
    MSI,
    Core,
    Counters,
    Event,
    Instructions,
    Level,
    Machine,
    MachineConfig,
    Obstinate,
    Protocol,
    State,
    Stream,
    _simulator,
    as_stream,
    sgd_streams,
)

LINE = 64

#: Sets and ways by level, and slices of the third: every one of them has to evict, even with few lines.
TINY = ((1, 2), (1, 3), (2, 2, 1))
SMALL = ((2, 2), (4, 2), (4, 4, 1))
SLICED = ((2, 1), (2, 2), (1, 2, 3))
#: Room for everything.
ROOMY = ((4, 8), (8, 8), (64, 8, 1))
#: Lines leave the first level early, and the others late.
EARLY = ((1, 1), (4, 2), (8, 4, 1))


def level(geometry, latency):
    sets, ways, slices = (*geometry, 1)[:3]
    return Level(sets * ways * slices * LINE, ways, latency, slices)


def machine(cores=1, geometry=ROOMY, protocol=None, *, seed=0, core=None, inclusive=True):
    levels = [level(g, latency) for g, latency in zip(geometry, (4.0, 12.0, 36.0), strict=True)]
    return Machine(MachineConfig(cores, *levels, core=core or Core(), inclusive=inclusive), protocol, seed)


def counts(counters: Counters) -> dict[str, int]:
    """A core's counters under the oracle's names."""
    names = "loads stores load_hits load_misses store_hits store_misses upgrades back_invalidations remote prefetches"
    made = {name: getattr(counters, name) for name in names.split()}
    for name in ("hits", "misses", "writebacks"):
        made |= {f"{name} {k}": value for k, value in enumerate(getattr(counters, name), 1)}
    return made


def whole(counted) -> dict[str, int]:
    """The oracle's, with those that never came up."""
    return dict.fromkeys(counts(machine().counters()), 0) | dict(counted)


def line_of(m, line):
    found = m.line(line * LINE)
    return found.states, found.sharers, found.owner, found.shared


def mixed_stream(addresses, stores):
    stream = as_stream("load", addresses)
    stream.accesses["kind"] = np.where(stores, _simulator.STORE, _simulator.LOAD)
    return stream


# ---- one core, and pycachesim ---------------------------------------------------------------------------------------


def pycachesim(geometry, addresses, stores):
    """Loads and stores; its statistics by level, first to third."""
    cs = pytest.importorskip("cachesim")
    third, second, first = None, None, None
    third = cs.Cache("L3", *geometry[2][:2], LINE, "LRU", True, True)
    second = cs.Cache("L2", *geometry[1], LINE, "LRU", True, True, load_from=third, store_to=third)
    first = cs.Cache("L1", *geometry[0], LINE, "LRU", True, True, load_from=second, store_to=second)
    memory = cs.MainMemory()
    memory.load_to(third)
    memory.store_from(third)
    simulator = cs.CacheSimulator(first, memory)
    pairs = zip(addresses.tolist(), stores.tolist(), strict=True)
    simulator.loadstore([(None, (a,)) if store else ((a,), None) for a, store in pairs], length=1)
    return [{name: stats[f"{name}_count"] for name in ("HIT", "MISS", "EVICT")} for stats in list(simulator.stats())[:3]]


def as_pycachesim(counted) -> list[dict[str, int]]:
    """In its words: of stores it counts those alone that miss (as loads that do), and as evictions those that write back."""
    first = {"HIT": counted["load_hits"], "MISS": counted["misses 1"], "EVICT": counted["writebacks 1"]}
    return [
        first,
        *({"HIT": counted[f"hits {k}"], "MISS": counted[f"misses {k}"], "EVICT": counted[f"writebacks {k}"]} for k in (2, 3)),
    ]


def alone(geometry, addresses, stores, *, inclusive):
    m = machine(1, geometry, inclusive=inclusive)
    m.feed(0, mixed_stream(addresses, stores))
    m.run()
    return counts(m.counters())


def oracle_alone(geometry, addresses, stores, **options):
    o = cache_oracle.Machine(1, *geometry, **options)
    for address, store in zip(addresses.tolist(), stores.tolist(), strict=True):
        o.access(0, address, "store" if store else "load")
    return whole(o.counts[0])


#: Every level evicts with some thousand lines, and finds some of what it is asked for.
ONE_CORE = ((16, 2), (32, 4), (128, 4, 1))


def every_level_evicts(counted):
    return all(counted[f"hits {k}"] > 1000 and counted[f"misses {k}"] > 1000 for k in (1, 2, 3))


@pytest.mark.parametrize("ways", [(2, 4, 4), (3, 5, 5), (1, 2, 1)])
def test_a_million_random_loads_hit_and_miss_as_in_pycachesim(rng, ways):
    geometry = tuple((sets, w) for (sets, *_), w in zip(ONE_CORE, ways, strict=True))
    addresses = rng.integers(0, 800 * LINE, 10**6)
    loads = np.zeros(10**6, bool)
    counted = alone(geometry, addresses, loads, inclusive=False)
    assert every_level_evicts(counted)
    assert as_pycachesim(counted) == pycachesim(geometry, addresses, loads)


@pytest.mark.parametrize(
    ("stride", "span", "store_every"),
    [
        (8, 1 << 20, 0), (8, 1 << 20, 1), (24, 1 << 17, 0), (64, 1 << 16, 2), (64, 1 << 23, 1), (192, 40_000, 0),
        (4096, 1 << 23, 0), (-72, 1 << 17, 0),
    ],
)  # fmt: skip
def test_a_million_strided_accesses_hit_and_miss_as_in_pycachesim(stride, span, store_every):
    """With stores where these come to their lines in the order in which the lines came: see below."""
    at = np.arange(10**6)
    addresses = at * stride % span
    stores = at % store_every == store_every - 1 if store_every else np.zeros(10**6, bool)
    counted = alone(ONE_CORE, addresses, stores, inclusive=False)
    assert as_pycachesim(counted) == pycachesim(ONE_CORE, addresses, stores)


@pytest.mark.parametrize("ways", [(2, 4, 4), (3, 2, 5)])
def test_random_loads_and_stores_with_one_way_below_as_in_pycachesim(rng, ways):
    """The order of use is the first level's alone, and there each store follows a load of the same address."""
    geometry = ((16, ways[0]), (64, 1), (256, 1))
    loaded = rng.integers(0, 800 * LINE, 500_000)
    addresses, stores = np.repeat(loaded, 2), np.tile([False, True], 500_000)
    stores &= np.repeat(rng.random(500_000) < 0.3, 2)
    counted = alone(geometry, addresses, stores, inclusive=False)
    assert every_level_evicts(counted)
    assert as_pycachesim(counted) == pycachesim(geometry, addresses, stores)


def traced(rng, trace):
    at = np.arange(100_000)
    if trace == "random":
        return rng.integers(0, 800 * LINE, at.size), rng.random(at.size) < 0.3
    stride, span, store_every = trace
    return at * stride % span, at % store_every == store_every - 1


@pytest.mark.parametrize("trace", ["random", (24, 1 << 17, 3), (192, 40_000, 5), (4096, 1 << 23, 2), (-72, 1 << 17, 4)])
def test_loads_and_stores_as_in_pycachesim_but_for_what_is_a_use(rng, trace):
    """pycachesim leaves a line where it is in the order of use when a store finds it. The oracle can do so too, and equals it
    then; as it is meant, it equals the machine."""
    addresses, stores = traced(rng, trace)
    without = oracle_alone(ONE_CORE, addresses, stores, inclusive=False, stores_use=False)
    assert as_pycachesim(without) == pycachesim(ONE_CORE, addresses, stores)
    counted = alone(ONE_CORE, addresses, stores, inclusive=False)
    assert counted == oracle_alone(ONE_CORE, addresses, stores, inclusive=False)
    assert counted["writebacks 1"] > 1000
    assert counted != without


def test_inclusive_or_not_is_the_same_while_nothing_is_lost_from_below():
    """A stream: what a lower level loses has left the upper ones long since."""
    addresses = np.arange(10**6) * 16 % (800 * LINE)
    loads = np.zeros(10**6, bool)
    counted = alone(ONE_CORE, addresses, loads, inclusive=True)
    assert counted["back_invalidations"] == 0
    assert counted == alone(ONE_CORE, addresses, loads, inclusive=False)
    assert as_pycachesim(counted) == pycachesim(ONE_CORE, addresses, loads)


@pytest.mark.parametrize("geometry", [ONE_CORE, ((4, 4), (8, 4), (4, 4, 3)), SLICED])
def test_what_is_lost_from_below_is_lost(rng, geometry):
    addresses, stores = rng.integers(0, 800 * LINE, 60_000), rng.random(60_000) < 0.3
    addresses[rng.random(60_000) < 0.5] %= 8 * LINE
    counted = alone(geometry, addresses, stores, inclusive=True)
    assert counted["back_invalidations"] > 100
    assert counted == oracle_alone(geometry, addresses, stores)


# ---- several cores, and the plain model -----------------------------------------------------------------------------

KINDS = ("load", "store", "load_own", "prefetch")


def traces(cores, lines, kinds=KINDS, size=120):
    """Lists of (core, kind, line)."""
    return st.lists(st.tuples(st.integers(0, cores - 1), st.sampled_from(kinds), st.integers(0, lines - 1)), max_size=size)


@pytest.mark.parametrize(("geometry", "cores"), [(TINY, 2), (TINY, 4), (SMALL, 3), (SLICED, 3), (EARLY, 3), (ROOMY, 6)])
@given(data=st.data())
@settings(max_examples=150)
def test_every_line_is_where_the_plain_model_has_it(geometry, cores, data):
    lines = 14
    m, o = machine(cores, geometry), cache_oracle.Machine(cores, *geometry)
    for core, kind, line in data.draw(traces(cores, lines)):
        m.access(core, line * LINE + 8, kind)
        o.access(core, line * LINE + 8, kind)
        assert line_of(m, line) == o.line(line)
    assert [line_of(m, line) for line in range(lines)] == [o.line(line) for line in range(lines)]
    assert [counts(m.counters(core)) for core in range(cores)] == [whole(c) for c in o.counts]


@pytest.mark.parametrize(("geometry", "cores", "lines"), [(TINY, 3, 12), (SMALL, 4, 40), (SLICED, 5, 16), (ROOMY, 64, 300)])
def test_a_long_trace_counts_as_the_plain_model(rng, geometry, cores, lines):
    m, o = machine(cores, geometry), cache_oracle.Machine(cores, *geometry)
    n = 20_000
    for core, kind, line in zip(rng.integers(0, cores, n), rng.choice(KINDS, n), rng.integers(0, lines, n), strict=True):
        m.access(int(core), int(line) * LINE, str(kind))
        o.access(int(core), int(line) * LINE, str(kind))
    assert [line_of(m, line) for line in range(lines)] == [o.line(line) for line in range(lines)]
    found = [counts(m.counters(core)) for core in range(cores)]
    assert found == [whole(c) for c in o.counts]
    total = counts(m.counters())
    assert total == {name: sum(c[name] for c in found) for name in total}
    assert min(total["remote"], total["upgrades"], total["writebacks 2"]) > 100


# ---- what a coherent memory is --------------------------------------------------------------------------------------


class MOESI(Protocol):
    """A line that was written is read by others from its owner, who writes it back only when it goes."""

    states = (State("M", writable=True, dirty=True), State("O", dirty=True), State("E", writable=True), State("S"))
    remote_read: ClassVar = {"M": "O", "O": "O", "E": "S", "S": "S"}


class SplitMOESI(MOESI):
    """Each level decides for itself: a first level may keep what its second level drops."""

    remote_read: ClassVar = {"M": {"O": 0.5, INVALID: 0.5}, "O": {"O": 0.5, INVALID: 0.5}, "E": "S", "S": "S"}


PROTOCOLS = (MESI, MSI, MOESI, SplitMOESI)


def writers(m, line):
    """The cores with a copy that they may write."""
    writable = {s.name for s in m.protocol.states if s.writable}
    return [core for core, states in enumerate(m.line(line * LINE).states) if writable & set(states)]


def check_coherent(m, line):
    found = m.line(line * LINE)
    has = [core for core, states in enumerate(found.states) if set(states) != {INVALID}]
    dirty = {s.name for s in m.protocol.states if s.dirty}
    newer = [core for core, states in enumerate(found.states) if dirty & set(states)]
    assert len(writers(m, line)) <= 1
    assert not writers(m, line) or (has == writers(m, line) and found.owner == has[0])
    assert not newer or newer == [found.owner]
    assert found.owner is None or found.owner in found.sharers
    assert set(has) == set(found.sharers)
    assert not has or found.shared
    assert all(second != INVALID for first, second in found.states if first != INVALID)
    assert not any(stale for core in found.stale for stale in core)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("geometry", [TINY, SMALL, SLICED, EARLY])
@given(data=st.data())
@settings(max_examples=60)
def test_one_writer_and_nobody_beside_it(protocol, geometry, data):
    cores, lines = data.draw(st.integers(2, 6)), 10
    m = machine(cores, geometry, protocol())
    for core, kind, line in data.draw(traces(cores, lines, size=80)):
        m.access(core, line * LINE, kind)
        for k in range(lines):
            check_coherent(m, k)


class Values:
    """A number in every line, put there by stores; a line is as long as 8 of them."""

    def __init__(self, m, lines):
        self.m, self.lines = m, lines
        cores = m.config.cores
        self.first = 1000  # line
        self.learner = _simulator.Learner(
            cores, self.first * LINE, np.zeros(lines * LINE, np.uint8), lines * 16, np.zeros(LINE, np.uint8), LINE,
            np.ones(1, np.float32), [(0, 1)] * cores, "8", "32f", "nearest", "base", 0, 1, 1, 1.0, 1.0, "logistic",
        )  # fmt: skip
        m._simulator.learn(self.learner)
        self.current, self.writes = [0] * lines, 0

    def access(self, core, kind, line):
        """What a load sees; a store writes a number that was never there before."""
        self.m.access(core, (self.first + line) * LINE, kind)
        if kind == "store":
            self.writes += 1
            self.current[line] = self.writes
            self.learner.write(core, (self.first + line) * LINE, np.full(8, self.writes, np.uint64).view(np.uint8))
            return self.writes
        values = self.learner.copy(core, 0).view(np.uint64).reshape(-1, 8)[line]
        assert (values == values[0]).all()
        return int(values[0])

    def newest(self):
        out = np.zeros(self.lines * LINE, np.uint8)
        self.m._simulator.model(out)
        return out.view(np.uint64)[::8].tolist()

    def region(self, lines):
        return [(self.first * LINE, (self.first + lines) * LINE)]


@pytest.mark.parametrize(("geometry", "lines"), [(TINY, 10), (SMALL, 10), (SLICED, 10), (EARLY, 3)])
@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(data=st.data())
@settings(max_examples=80)
def test_every_load_sees_what_was_written_last(protocol, geometry, lines, data):
    cores = data.draw(st.integers(2, 5))
    values = Values(machine(cores, geometry, protocol()), lines)
    for core, kind, line in data.draw(traces(cores, lines, ("load", "store", "load_own"))):
        assert values.access(core, kind, line) == values.current[line]
    assert values.newest() == values.current


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("geometry", "lines"), [(TINY, 24), (SMALL, 24), (SLICED, 24), (EARLY, 6), (ROOMY, 24)])
def test_every_load_of_a_long_trace_sees_what_was_written_last(rng, protocol, geometry, lines):
    values = Values(machine(6, geometry, protocol()), lines)
    kinds = rng.choice(("load", "load", "load", "store", "load_own"), 8000)
    for core, kind, line in zip(rng.integers(0, 6, 8000), kinds, rng.integers(0, lines, 8000), strict=True):
        assert values.access(int(core), str(kind), int(line)) == values.current[line]
    assert values.newest() == values.current


def test_an_owned_line_that_leaves_the_first_level_is_still_owned():
    m = machine(2, EARLY, MOESI())
    m.access(0, 0, "store")
    m.access(1, 0)
    assert m.line(0).states == (("O", "O"), ("S", "S"))
    m.access(0, LINE)
    assert m.line(0).states == (("I", "O"), ("S", "S"))
    m.access(0, 0, "store")
    assert m.line(0).states[1] == ("I", "I")


# ---- and what an obstinate one is -----------------------------------------------------------------------------------


@pytest.mark.parametrize("coin", ["level", "core"])
@pytest.mark.parametrize("directory", ["drops", "keeps"])
@pytest.mark.parametrize("geometry", [TINY, SMALL, EARLY])
@given(data=st.data())
@settings(max_examples=60)
def test_what_is_read_is_the_present_number_or_the_one_this_core_had(coin, directory, geometry, data):
    cores, lines, inside = data.draw(st.integers(2, 5)), 10, 6
    q = data.draw(st.sampled_from([0.3, 0.9, 1.0]))
    plain = machine(cores, geometry)
    region = Values(plain, lines).region(inside)
    m = machine(cores, geometry, Obstinate(q, region, coin=coin, directory=directory), seed=data.draw(st.integers(0, 99)))
    values, had = Values(m, lines), {}
    for core, kind, line in data.draw(traces(cores, lines, ("load", "store", "load_own"))):
        seen = values.access(core, kind, line)
        if kind == "load" and line < inside:
            assert seen in (values.current[line], had.get((core, line), values.current[line]))
        else:
            assert seen == values.current[line]
        had[core, line] = seen
        for k in range(lines):
            at = values.first + k
            assert len(writers(m, at)) <= 1
            found = m.line(at * LINE)
            for states, stale in zip(found.states, found.stale, strict=True):
                assert all(state == "S" and k < inside for state, is_stale in zip(states, stale, strict=True) if is_stale)
            if k >= inside:
                check_coherent(m, at)
    assert values.newest() == values.current


def within(count, n, p):
    """Is a binomial count within 6 standard deviations, which it misses about twice in 10^9 times?"""
    return abs(count - n * p) <= 6 * math.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("q", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("directory", ["drops", "keeps"])
@pytest.mark.parametrize("coin", ["level", "core"])
def test_copies_stay_as_often_as_they_should(coin, directory, q):
    """Core 1 has the line in both levels, core 0 writes it: each copy of core 1 stays with probability q, both with q * q where
    each level decides for itself. Of two independent coins, both fall with the product; of one, both or none."""
    n = 12_000
    m = machine(2, ROOMY, Obstinate(q, [(0, LINE)], coin=coin, directory=directory), seed=3)
    first = second = both = 0
    for _ in range(n):
        m.access(1, 0, "store")
        m.access(0, 0, "store")
        found = m.line(0)
        stays = [state != INVALID for state in found.states[1]]
        assert found.states[1] == tuple("S" if s else INVALID for s in stays)
        assert found.stale[1] == tuple(stays)
        assert found.sharers == ((0, 1) if any(stays) and directory == "keeps" else (0,))
        first, second, both = first + stays[0], second + stays[1], both + all(stays)
    assert m.counters(1).kept == (first, second)
    assert m.counters(1).received_region == ((0, n), (0, n))
    assert within(first, n, q)
    assert within(second, n, q)
    if coin == "core":
        assert first == second == both
    else:
        assert within(both, n, q * q)


def random_accesses(m, rng, n=6000, lines=40):
    kinds = rng.choice(("load", "store", "load_own", "prefetch"), n)
    cores = rng.integers(0, m.config.cores, n)
    return [
        m.access(int(c), int(line) * LINE, str(k)) for c, line, k in zip(cores, rng.integers(0, lines, n), kinds, strict=True)
    ]


def all_counters(m):
    return [m.counters(core) for core in range(m.config.cores)]


@pytest.mark.parametrize("directory", ["drops", "keeps"])
@pytest.mark.parametrize("geometry", [TINY, SMALL, ROOMY])
def test_obstinacy_0_is_mesi(geometry, directory):
    region = [(0, 20 * LINE)]
    made = [machine(4, geometry, protocol) for protocol in (MESI(), MESI(region), Obstinate(0.0, region, directory=directory))]
    cycles = [random_accesses(m, np.random.default_rng(5)) for m in made]
    assert cycles[0] == cycles[1] == cycles[2]
    plain, by_region, obstinate = map(all_counters, made)
    assert by_region == obstinate
    assert sum(c.received_region[0][1] for c in obstinate) > 50
    for a, b in zip(plain, obstinate, strict=True):
        together = tuple(
            tuple(x + y for x, y in zip(*both, strict=True)) for both in zip(b.received, b.received_region, strict=True)
        )
        assert replace(b, received=together, received_region=((0, 0), (0, 0)), region_loads=0) == a
    assert all(line_of(made[0], line) == line_of(made[2], line) for line in range(40))


def test_outside_of_the_region_nothing_changes():
    made = [machine(4, SMALL, protocol) for protocol in (MESI(), Obstinate(1.0, [(100 * LINE, 200 * LINE)]))]
    cycles = [random_accesses(m, np.random.default_rng(5)) for m in made]
    assert cycles[0] == cycles[1]
    assert all_counters(made[0]) == all_counters(made[1])


def test_obstinacy_1_never_drops_by_invalidation():
    m = machine(4, ROOMY, Obstinate(1.0, [(0, 20 * LINE)]))
    random_accesses(m, np.random.default_rng(5))
    total = m.counters()
    assert total.kept == tuple(received[1] for received in total.received_region)
    assert min(total.kept) > 100
    assert total.stale_loads > 100


def test_stale_loads_are_those_that_read_a_copy_that_stayed():
    m = machine(2, ROOMY, Obstinate(1.0, [(0, LINE)]))
    m.access(1, 0)
    m.access(0, 0, "store")
    m.access(1, 0)
    m.access(1, 8)
    assert (m.counters(1).region_loads, m.counters(1).stale_loads) == (3, 2)
    assert m.access(1, 0, "store") == 64.0  # it has to be asked for, and core 0 to write back
    m.access(1, 0)
    assert (m.counters(1).region_loads, m.counters(1).stale_loads) == (4, 2)
    assert m.counters(0).kept == (1, 1)


@pytest.mark.parametrize("directory", ["drops", "keeps"])
def test_what_leaves_the_shared_level_leaves_all_that_the_directory_lists(directory):
    """A core that it has dropped keeps its old copy: nobody knows of it."""
    m = machine(2, ((2, 2), (2, 4), (1, 8)), Obstinate(1.0, [(0, LINE)], directory=directory))
    m.access(1, 0)
    m.access(0, 0, "store")
    for line in range(1, 9):
        m.access(0, line * LINE)
    assert not m.line(0).shared
    assert m.line(0).states == (("I", "I"), ("S", "S") if directory == "drops" else ("I", "I"))


# ---- protocols of one's own -----------------------------------------------------------------------------------------


class Recorder(MESI):
    def __init__(self, region=(), answer=None):
        self.events, self.answer = [], answer
        super().__init__(region)

    def decide(self, event):
        self.events.append(event)
        return self.answer(event) if self.answer else None


def test_decide_is_asked_of_every_copy_that_another_core_meets():
    recorder = Recorder()
    m = machine(3, ROOMY, recorder)
    m.access(0, 70, "store")
    assert recorder.events == []
    m.access(1, 64)
    assert recorder.events == [Event("remote_read", 0, level, 64, "M") for level in (1, 2)]
    recorder.events.clear()
    m.access(2, 64, "store")
    assert recorder.events == [Event("remote_write", core, level, 64, "S") for core in (0, 1) for level in (1, 2)]
    assert m.line(64).states == (("I", "I"), ("I", "I"), ("M", "E"))


def test_decide_is_asked_of_the_region_alone():
    recorder = Recorder([(64, 128)])
    m = machine(2, ROOMY, recorder)
    for line in range(3):
        m.access(0, line * LINE)
        m.access(1, line * LINE, "store")
    assert {event.address for event in recorder.events} == {64}


@pytest.mark.parametrize("geometry", [TINY, SMALL])
def test_decide_can_be_the_obstinate_cache(geometry):
    region = [(0, 20 * LINE)]
    made = [machine(4, geometry, protocol) for protocol in (
        Obstinate(1.0, region), Recorder(region, lambda event: "S" if event.kind == "remote_write" else None))]  # fmt: skip
    for m in made:
        random_accesses(m, np.random.default_rng(7))
    assert all_counters(made[0]) == all_counters(made[1])
    assert [m.line(line * LINE) for m in made[:1] for line in range(40)] == [made[1].line(line * LINE) for line in range(40)]


def test_states_that_decide_returns_are_taken():
    m = machine(2, ROOMY, Recorder(answer=lambda event: "S" if event.level == 2 else "I"))
    m.access(0, 0, "store")
    m.access(1, 0)
    assert m.line(0).states == (("I", "S"), ("S", "S"))


@pytest.mark.parametrize("way", ["access", "run"])
@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (lambda event: {}[event.level], KeyError, "1|2"),
        (lambda event: 5, ValueError, r"decide\(.*must be a state, one of \{I, M, E, S\}.*got 5"),
        (lambda event: "X", ValueError, r"must be a state.*got X"),
        (lambda event: "E", ValueError, "must not leave a line that may be written: two cores would write it; got E"),
    ],
)
def test_what_decide_raises_comes_out_and_the_machine_goes_on(way, answer, error, text):
    recorder = Recorder(answer=answer)
    m = machine(2, ROOMY, recorder)
    m.access(0, 0, "store")
    m.feed(1, as_stream("load", [0, 64]))
    with pytest.raises(error, match=text):
        m.access(1, 0) if way == "access" else m.run()
    recorder.answer = None
    m.run()
    m.access(0, 0, "store")
    assert m.line(0).states == (("M", "E"), ("I", "I"))
    assert m.line(64).states == (("I", "I"), ("E", "E"))


def test_a_dirty_copy_may_not_stay_after_a_write():
    class Wrong(MOESI):
        def decide(self, event):
            return "O"

    m = machine(2, ROOMY, Wrong())
    m.access(0, 0, "store")
    m.access(1, 0)
    with pytest.raises(ValueError, match="must not leave a dirty line"):
        m.access(1, 0, "store")


def test_probabilities_outside_of_the_region_count_too():
    class Half(MESI):
        remote_write: ClassVar = {state: {"S": 0.25, "I": 0.75} for state in "MES"}

    m, n = machine(2, ROOMY, Half()), 10_000
    for _ in range(n):
        m.access(1, 0, "store")
        m.access(0, 0, "store")
    assert m.counters(1).received == ((0, n), (0, n))
    assert all(within(kept, n, 0.25) for kept in m.counters(1).kept)


S_, M_ = State("S"), State("M", writable=True, dirty=True)

WRONG_PROTOCOLS = [
    ({"remote_read": {"M": "S", "E": "X", "S": "S"}}, r"remote_read\['E'\]: must be a state, one of {I, M, E, S}.*got X"),
    ({"remote_read": {"M": "M", "E": "S", "S": "S"}}, r"remote_read\['M'\]: must not leave a line that may be written: two"),
    ({"remote_read": {"M": "S", "E": "E", "S": "S"}}, r"remote_read\['E'\]: must not leave a line that may be written"),
    ({"remote_write": {"S": "M"}}, r"remote_write\['S'\]: must not leave a line that may be written"),
    ({"remote_write": {"S": {"S": 0.5, "I": 0.4}}}, r"remote_write\['S'\]: must have probabilities that add up to 1.*got"),
    ({"remote_write": {"S": {"S": 0.5, "I": 0.6}}}, "must have probabilities that add up to 1"),
    ({"remote_write": {"S": {"S": 1.5, "I": -0.5}}}, r"the probability of I: must be .*-0\.5"),
    ({"remote_write": {"S": {"S": math.nan, "I": 1.0}}}, "the probability of S: must be finite"),
    ({"remote_write": {"S": {}}}, r"remote_write\['S'\]: must name 1 to 4 states"),
    ({"remote_write": {"X": "S"}}, r"remote_write: must name states, of {M, E, S}; got X"),
    ({"region_remote_write": {"X": "S"}}, "region_remote_write: must name states"),
    ({"region_remote_write": {"S": {"S": 0.5}}}, r"region_remote_write\['S'\]: must have probabilities that add up to 1"),
    ({"region_remote_read": {"M": "E"}}, r"region_remote_read\['M'\]: must not leave a line that may be written"),
    ({"read_alone": "X"}, "read_alone: must be a state, one of"),
    ({"read_alone": "M"}, "read_alone: must be a state of a line that is here, and not dirty; got M"),
    ({"read_alone": "I"}, "read_alone: must be a state of a line that is here"),
    ({"read_shared": "E"}, "read_shared: must be a state that may not be written: others have the line too; got E"),
    ({"read_shared": "I"}, "read_shared: must be a state"),
    ({"write": "S"}, "write: must be a state that may be written; got S"),
    ({"write": "E"}, "write: must be a dirty state"),
    ({"written": {"E": "S"}}, r"written\['E'\]: must be a state that is writable and dirty"),
    ({"written": {"X": "M"}}, "written: must name states"),
    ({"coin": "two"}, "coin: .*level, core"),
    ({"directory": "forgets"}, "directory: .*drops, keeps"),
    ({"states": ()}, "states: must be 1 to 15; got 0"),
    ({"states": (M_, S_, S_)}, "states: must have different names"),
    ({"states": (M_, S_, State("I"))}, "states: must have different names, none of them I"),
    ({"states": (M_, S_, State("E", writable=True), *(State(f"S{k}") for k in range(13)))}, "states: must be 1 to 15; got 16"),
    (
        {"states": (M_, State("O", dirty=True), State("E", writable=True), S_),
         "remote_read": {"M": "O", "O": "O", "E": "S", "S": "S"}, "remote_write": {"M": "O"}},
        r"remote_write\['M'\]: must not leave a dirty line",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("tables", "text"), WRONG_PROTOCOLS)
def test_a_protocol_that_is_none_is_refused_when_it_is_made(tables, text):
    with pytest.raises(ValueError, match=text):
        type("Wrong", (Protocol,), tables)()


@pytest.mark.parametrize("state", ["M", "E"])
def test_a_state_that_a_remote_read_leaves_in_no_state_is_refused(state):
    tables = {name: after for name, after in MESI.remote_read.items() if name != state}
    with pytest.raises(ValueError, match=rf"remote_read\['{state}'\]: .*leaves a line in no state"):
        type("Wrong", (Protocol,), {"remote_read": tables})()


# ---- time -----------------------------------------------------------------------------------------------------------


def programmed(kinds, lines, instructions, **core):
    """One core's accesses; the machine afterwards. instructions: of each access, or one for all."""
    m = machine(1, ((1, 2), (64, 4), (64, 8)), core=Core(**core))
    codes = {"load": _simulator.LOAD, "store": _simulator.STORE, "prefetch": _simulator.PREFETCH,
             "prefetch_first": _simulator.PREFETCH_FIRST, "wait": _simulator.WAIT}  # fmt: skip
    stream = as_stream("load", np.array(lines) * LINE)
    stream.accesses["kind"] = [codes[kind] for kind in kinds]
    stream.accesses["instructions"] = instructions
    m.feed(0, stream)
    m.run()
    return m


def test_cycles_of_single_accesses():
    m = machine(4, ((1, 2), (1, 4), (1, 8)))
    assert m.access(0, 0) == 148.0  # 12 to the second level, 36 more to the third, 100 more to memory
    assert m.access(0, 0) == 0.0
    assert m.access(0, 0, "store") == 0.0  # it came in state E
    assert m.access(1, 0) == 64.0  # third level, and 16 for core 0 to write back
    assert m.access(2, 0) == 48.0  # nobody has to write back
    assert m.access(0, 0, "store") == 64.0  # it is there, but others have to lose it
    assert m.access(1, 0, "load_own") == 64.0
    assert m.access(1, 0, "store") == 0.0
    m.access(1, 64)
    m.access(1, 128)
    assert m.access(1, 0) == 12.0  # it has left the first level
    for line in range(3, 7):
        m.access(1, line * LINE)
    assert m.access(1, 0) == 48.0  # and the second
    assert m.cycles(3) == 0.0
    assert m.cycles(2) == 48.0
    assert m.counters(2).stalled == (0.0, 48.0, 0.0, 0.0)
    assert m.counters(0).stalled == (0.0, 0.0, 64.0, 148.0)


def test_cycles_of_a_write_to_a_line_that_nobody_else_has():
    mesi, msi = machine(2), machine(2, protocol=MSI())
    for m in (mesi, msi):
        m.access(0, 0)
    assert (mesi.access(0, 0, "store"), msi.access(0, 0, "store")) == (0.0, 48.0)
    assert (mesi.counters(0).upgrades, msi.counters(0).upgrades) == (0, 1)
    assert (mesi.counters(0).remote, msi.counters(0).remote) == (0, 0)


def test_cycles_of_instructions():
    m = programmed(["load"] * 3, [0, 0, 0], 10, cpi=0.5)
    assert m.cycles(0) == 3 * 10 * 0.5 + 148
    assert m.counters(0).instructions == 30


def test_the_pipeline_covers_some_cycles():
    assert programmed(["load"], [0], 0, hidden=0.0).cycles(0) == 152.0
    assert programmed(["load"], [0], 0, hidden=10.0).cycles(0) == 142.0


def test_a_first_level_hit_costs_what_the_pipeline_does_not_cover():
    assert programmed(["load", "load"], [0, 0], 0, hidden=1.0).cycles(0) == 151.0 + 3.0


@pytest.mark.parametrize(
    ("overlap", "cycles"),
    [
        (1, 10 + 148 + 10 + 148 + 10),
        # The second is asked for at 20. There are two now, so one has to come, which it does at 158; at 168 the other is there.
        (2, 168),
        # Nobody waits before the wait, at 30, for the second, at 168.
        (3, 168),
    ],
)
def test_loads_overlap(overlap, cycles):
    m = programmed(["load", "load", "wait"], [0, 1, 0], 10, overlap=overlap)
    assert m.cycles(0) == cycles
    assert sum(m.counters(0).stalled) == cycles - 30


def test_a_third_load_waits_for_the_first_two_of_two_that_overlap():
    # At 10 and 20, which are there at 158 and 168; after 158 comes the third, at 168, there at 316.
    m = programmed(["load", "load", "load", "wait"], [0, 1, 2, 0], 10, overlap=2)
    assert m.cycles(0) == 316


def test_a_wait_is_counted_for_the_access_that_it_is_for():
    m = machine(1, ((1, 1), (8, 4), (8, 8)), core=Core(overlap=4))
    for lines in ([1, 2, 0], [3, 1, 0]):  # line 1 is in the second level then, and line 3 nowhere
        m.clear()
        stream = as_stream("load", np.array(lines) * LINE, instructions=0)
        stream.accesses["kind"][2] = _simulator.WAIT
        m.feed(0, stream)
        m.run()
    assert m.cycles(0) == 148.0
    assert m.counters(0).stalled == (12.0, 0.0, 0.0, 136.0)


@pytest.mark.parametrize(
    ("room", "cycles"),
    [
        (0, 10 + 148 + 10 + 148),
        (1, 158),  # the second waits for the first, and nobody for the second
        (2, 20),
    ],
)
def test_stores_wait_beside_the_core(room, cycles):
    assert programmed(["store", "store"], [0, 1], 10, store_buffer=room).cycles(0) == cycles


@pytest.mark.parametrize(
    ("kind", "instructions", "cycles", "late"),
    [
        ("prefetch", 200, 201 + 12, 0),  # asked for at 1, there at 149
        ("prefetch", 49, 149, 1),
        ("prefetch", 140, 141 + 12, 0),  # there before the core could see that it is not
        ("prefetch_first", 200, 201, 0),
        pytest.param("prefetch_first", 49, 149, 1),
    ],
)
def test_prefetches_come_in_time_or_late(kind, instructions, cycles, late):
    m = programmed([kind, "load"], [0, 0], [1, instructions])
    assert m.cycles(0) == cycles
    assert (m.counters(0).prefetches, m.counters(0).late) == (1, late)


def test_nobody_waits_for_a_prefetch_of_what_is_there():
    m = programmed(["load", "prefetch", "prefetch_first"], [0, 0, 0], 0)
    assert m.cycles(0) == 148
    assert m.counters(0).prefetches == 0


@pytest.mark.parametrize(
    ("lines", "distance", "ahead"),
    [
        ([0, 1], 4, []),  # a third access of the same stride makes it one
        ([0, 1, 2], 4, [3, 4, 5, 6]),
        ([0, 1, 3], 4, []),
        ([0, 1, 2], 0, []),
        ([0, 3, 6], 7, [9, 12]),  # as many lines ahead
        ([0, 5, 10], 4, []),
        ([12, 11, 10], 2, [9, 8]),
        ([2, 1, 0], 4, []),
        ([60, 61, 62], 4, [63]),  # not beyond the page
        ([62, 63, 64], 4, []),
        ([0, 1, 2, 3, 4], 2, [3, 4, 5, 6]),
        ([0, 100, 1, 101, 2], 2, [3, 4]),  # streams of two pages do not disturb each other
    ],
)
def test_the_stride_prefetcher_runs_ahead_within_a_page(lines, distance, ahead):
    m = programmed(["load"] * len(lines), lines, 1, prefetch_distance=distance)
    assert m.counters(0).prefetches == len(ahead)
    there = {line for line in range(128) if m.line(line * LINE).states[0][1] != INVALID}
    assert there == {*lines, *ahead}


# ---- running --------------------------------------------------------------------------------------------------------


def fed(seed=0, protocol=None, n=30_000):
    m = machine(4, SMALL, protocol or Obstinate(0.5, [(0, 64 * LINE)]), seed=seed)
    rng = np.random.default_rng(1)
    for core in range(4):
        m.feed(core, mixed_stream(rng.integers(0, 64 * LINE, n), rng.random(n) < 0.3), passes=2)
    return m


def results(m):
    return all_counters(m), [m.cycles(core) for core in range(m.config.cores)]


def test_the_same_seed_gives_the_same_run_and_another_one_other_coins():
    runs = [fed(seed) for seed in (0, 0, 1)]
    for m in runs:
        m.run()
    assert results(runs[0]) == results(runs[1])
    assert runs[0].counters().kept != runs[2].counters().kept
    plain = [fed(seed, MESI()) for seed in (0, 1)]
    for m in plain:
        m.run()
    assert results(plain[0]) == results(plain[1])


def test_passes_and_instructions_are_all_done():
    m = fed()
    m.run()
    total = m.counters()
    assert total.loads + total.stores == total.instructions == 4 * 2 * 30_000
    assert m.run() == 0


def test_run_returns_the_accesses_made():
    assert fed().run() == 4 * 2 * 30_000


def test_a_run_in_slices_is_the_same_run():
    """The callback is told every two million accesses, and at the end what run returns."""
    told, whole_run = [], [fed(n=400_000) for _ in range(2)]
    for m in whole_run:
        returned = m.run(told.append if m is whole_run[1] else None)
    assert results(whole_run[0]) == results(whole_run[1])
    assert len(told) > 1
    assert told[0] == 2**21
    assert told == sorted(set(told))
    assert told[-1] == returned


@pytest.mark.parametrize("budget", [1, 7])
def test_cores_at_the_same_time_come_in_the_same_order_after_a_pause(rng, budget):
    def run(pieces):
        m = machine(4, SMALL, Obstinate(0.5, [(0, 2**20)]))
        for core, stream in enumerate(streams):
            m.feed(core, stream, passes=3)
        while m._simulator.run(pieces):
            pass
        return results(m)

    streams = [as_stream(rng.choice(KINDS, 200).tolist(), rng.integers(0, 12, 200) * LINE) for _ in range(4)]
    assert run(budget) == run(2**40)


@pytest.mark.parametrize("kinds", [("load_own", "store"), ("store", "load")])
def test_what_is_under_way_is_waited_for_once(kinds):
    """Hits whose 4 cycles nothing covers take no longer in a queue than one by one, and a pause between changes nothing."""
    core = Core(overlap=1, store_buffer=1, hidden=0.0)
    stream, cycles = as_stream(list(kinds) * 50, [0] * 100), []
    for parts in (1, 2):
        m = machine(1, core=core)
        m.access(0, 0, "store")
        m.clear()
        for _ in range(parts):
            m.feed(0, stream, passes=2 // parts)
            m.run()
        cycles.append(m.cycles(0))
        assert m.counters().hits == (200, 0, 0)
        assert sum(m.counters().stalled) + m.counters().instructions == m.cycles(0)
    assert cycles[0] == cycles[1] <= 200 * (1 + 4)


def test_a_machine_is_not_changed_while_it_runs():
    class Meddling(MESI):
        meddle = None

        def decide(self, event):
            return self.meddle()

    stream = as_stream("store", [0] * 3)
    for change in ("feed", "access", "clear", "delay", "run"):
        protocol = Meddling()
        m = machine(2, protocol=protocol)
        arguments = {"feed": (0, stream), "access": (0, 0), "delay": (0, 1.0)}.get(change, ())
        protocol.meddle = lambda m=m, change=change, arguments=arguments: getattr(m, change)(*arguments)
        m.feed(0, stream)
        m.feed(1, stream)
        with pytest.raises(RuntimeError, match="machine: it is running"):
            m.run()
        protocol.meddle = lambda m=m: m.line(0) and m.counters() and None
        m.run()
        assert m.counters().stores == 6


def test_accesses_may_be_read_only_and_apart_in_memory():
    accesses = np.repeat(as_stream("load", [0, 64]).accesses, 2)[::2]
    accesses.flags.writeable = False
    m = machine(1)
    m.feed(0, Stream(accesses))
    assert m.run() == 2


def test_what_the_callback_raises_stops_the_run():
    m = fed(n=400_000)

    def stop(done):
        raise RuntimeError(f"{done} is enough")

    with pytest.raises(RuntimeError, match="2097152 is enough"):
        m.run(stop)
    assert m.run() > 0
    assert m.counters().instructions == 4 * 2 * 400_000


@pytest.mark.parametrize(("instructions", "first"), [(100, 1), (200, 0)])
def test_the_core_furthest_behind_goes_on(instructions, first):
    """Core 0 comes to the line that both want at 148, when it has waited for another; core 1 after so many instructions."""
    m = machine(2)
    m.feed(0, as_stream("store", [4096, 0], instructions=0))
    second = as_stream("store", [8192, 0])
    second.accesses["instructions"] = [instructions, 0]
    second.accesses["kind"][0] = _simulator.PREFETCH
    m.feed(1, second)
    m.run()
    assert m.counters(first).received[0] == (0, 1)
    assert m.counters(1 - first).received[0] == (0, 0)


def test_clear_counts_anew_and_leaves_the_caches():
    m = machine(2)
    m.access(0, 0)
    m.clear()
    assert (m.cycles(0), m.counters(0).loads) == (0.0, 0)
    assert m.access(0, 0) == 0.0
    assert m.counters(0).load_hits == 1


def test_feeding_again_drops_what_was_left():
    m = machine(1)
    m.feed(0, as_stream("load", [0, 64]), passes=5)
    m.feed(0, as_stream("store", [128]))
    m.run()
    assert (m.counters(0).loads, m.counters(0).stores) == (0, 1)


def test_rows_go_on_with_every_pass_and_begin_again():
    stream = as_stream("load", [0, 8])
    stream.accesses["row"] = [0, -1]
    stream = replace(stream, batch=1, rows=3, base=10 * LINE, stride=LINE)
    m = machine(1)
    m.feed(0, stream, passes=1, row=1)
    m.run()
    assert [m.line((10 + k) * LINE).shared for k in range(3)] == [True, True, False]
    m.feed(0, stream, passes=2, row=2)
    m.run()
    assert m.counters(0).misses[0] == 3  # row 2; its predecessor, row 0, which is row 2's successor, and the last row were there
    assert all(m.line((10 + k) * LINE).shared for k in range(3))


# ---- bad input ------------------------------------------------------------------------------------------------------

BAD = [
    (lambda: Obstinate(-0.1, []), ValueError, r"q: must lie in \[0, 1\]: it is a probability; got -0.1"),
    (lambda: Obstinate(1.5, []), ValueError, r"q: must lie in \[0, 1\]"),
    (lambda: Obstinate(math.nan, []), ValueError, "q: must be finite"),
    (lambda: Obstinate("1", []), TypeError, "q: expected"),
    (lambda: Obstinate(0.5, 64), TypeError, "region: expected pairs of addresses"),
    (lambda: Obstinate(0.5, [(0, 64, 128)]), TypeError, "region: expected pairs of addresses"),
    (lambda: Obstinate(0.5, [(0, 100)]), ValueError, "region: must be whole lines"),
    (lambda: Obstinate(0.5, [(8, 64)]), ValueError, "region: must be whole lines"),
    (lambda: Obstinate(0.5, [(128, 64)]), ValueError, "region: must be whole lines.*the last not before the first"),
    (lambda: Obstinate(0.5, [(-64, 64)]), ValueError, "region: "),
    (lambda: Obstinate(0.5, [(0, 64)] * 9), ValueError, "region: must be at most 8 ranges; got 9"),
    (lambda: Obstinate(0.5, [], coin="both"), ValueError, "coin: .*level, core"),
    (lambda: Obstinate(0.5, [], directory="x"), ValueError, "directory: .*drops, keeps"),
    (
        lambda: Level(3 * 64 * 8, 8, 1.0),
        ValueError,
        "size: must be 1 slices x a power of two of sets x 8 ways x 64 bytes; got 1,536",
    ),
    (lambda: Level(1000, 2, 1.0), ValueError, "size: must be"),
    (lambda: Level(45 * 2**20, 20, 36.0, slices=16), ValueError, r"size: must be 16 slices.*2304 sets a slice"),
    (lambda: Level(32, 1, 1.0), ValueError, "size: "),
    (lambda: Level(2**80, 1, 1.0), ValueError, "size: must lie in"),
    (lambda: Level(64, 0, 1.0), ValueError, "ways: "),
    (lambda: Level(64, 1, -1.0), ValueError, "latency: "),
    (lambda: Level(64, 1, math.inf), ValueError, "latency: must be finite"),
    (lambda: Level(64, 1, 1.0, slices=0), ValueError, "slices: "),
    (lambda: MachineConfig(65), ValueError, "cores: must be at most 64: a directory entry has no room for more sharers; got 65"),
    (lambda: MachineConfig(np.int64(65)), ValueError, "cores: must be at most 64"),
    (lambda: MachineConfig(0), ValueError, "cores: "),
    (lambda: MachineConfig(True), TypeError, "cores: "),
    (
        lambda: MachineConfig(first=Level(128, 1, 1.0, slices=2)),
        ValueError,
        "first: must have one slice: it is private to a core",
    ),
    (lambda: MachineConfig(second=Level(2**19, 8, 1.0, slices=2)), ValueError, "second: must have one slice"),
    (lambda: MachineConfig(second=Level(16 * 2**10, 8, 1.0)), ValueError, "second: must not be smaller than .*, of 32,768"),
    (lambda: MachineConfig(third=Level(2**17, 8, 1.0)), ValueError, "third: must not be smaller than .*, of 262,144"),
    (lambda: MachineConfig(first=32), TypeError, "first: expected a Level"),
    (lambda: MachineConfig(core=1.0), TypeError, "core: expected a Core"),
    (lambda: MachineConfig(2, inclusive=False), ValueError, "inclusive: must be true of more than one core"),
    (lambda: MachineConfig(1, inclusive=0), TypeError, "inclusive: "),
    (lambda: MachineConfig(memory=-1.0), ValueError, "memory: "),
    (lambda: MachineConfig(remote=math.nan), ValueError, "remote: "),
    (lambda: MachineConfig(ghz=0.0), ValueError, "ghz: "),
    (lambda: Core(cpi=-1.0), ValueError, "cpi: "),
    (lambda: Core(overlap=0), ValueError, "overlap: "),
    (lambda: Core(overlap=65), ValueError, "overlap: "),
    (lambda: Core(store_buffer=-1), ValueError, "store_buffer: "),
    (lambda: Core(store_buffer=65), ValueError, "store_buffer: "),
    (lambda: Core(prefetch_distance=65), ValueError, "prefetch_distance: "),
    (lambda: Core(hidden=math.inf), ValueError, "hidden: "),
    (lambda: Machine(18), TypeError, "config: expected a MachineConfig; got int 18"),
    (lambda: Machine(protocol="MESI"), TypeError, "protocol: expected a Protocol"),
    (lambda: Machine(protocol=MESI), TypeError, "protocol: expected a Protocol"),
    (lambda: machine(seed=-1), ValueError, "seed: "),
    (lambda: machine(seed=0.5), TypeError, "seed: "),
    (lambda: machine(2).feed(2, as_stream("load", [0])), ValueError, "core: .*got 2"),
    (lambda: machine(2).feed(-1, as_stream("load", [0])), ValueError, "core: "),
    (lambda: machine(2).feed(0, np.zeros(3)), TypeError, "stream: expected a Stream"),
    (lambda: machine(2).feed(0, Stream(np.zeros(3))), TypeError, "stream: accesses: expected a one-dimensional array of ACCESS"),
    (lambda: machine(2).feed(0, Stream(np.full(2, 200, "u1").astype(ACCESS))), ValueError, "stream: accesses: .*; got 200"),
    (lambda: machine(2).feed(0, Stream(np.zeros(1, ACCESS), rows=0)), ValueError, "stream: rows: .*got 0"),
    (lambda: machine(2).feed(0, Stream(np.zeros(1, ACCESS), rows=2, stride=2**62)), ValueError, "stream: stride: "),
    (lambda: sgd_streams("D8M8", 64, 1, cost=1.0), TypeError, "cost: expected Instructions; got float 1.0"),
    (lambda: Instructions(1.0, math.nan, 1.0, 1.0), ValueError, "cost: dot: must be finite"),
    (lambda: sgd_streams("D8M8", 64, 1, cost=Instructions(1e10, 1.0, 1.0, 1.0)), ValueError, r"cost: must be fewer than 2\*\*32"),
    (lambda: machine(2).feed(0, as_stream("load", [0]), -1), ValueError, "passes: "),
    (lambda: machine(2).feed(0, as_stream("load", [0]), row=1), ValueError, "row: "),
    (lambda: machine(2).access(2, 0), ValueError, "core: "),
    (lambda: machine(2).access(0, 2**63), ValueError, "address: "),
    (lambda: machine(2).access(0, -1), ValueError, "address: "),
    (lambda: machine(2).access(0, 0, "read"), ValueError, "kind: .*load, store, load_own, prefetch, prefetch_first.*got .read"),
    (lambda: machine(2).line(-1), ValueError, "address: "),
    (lambda: machine(2).counters(2), ValueError, "core: "),
    (lambda: machine(2).cycles(2), ValueError, "core: "),
    (lambda: as_stream("load", [[0]]), ValueError, "addresses: must be a one-dimensional array of integers; got int64 of shape"),
    (lambda: as_stream("load", [0.5]), ValueError, "addresses: must be a one-dimensional array of integers; got float64"),
    (lambda: as_stream("load", [-1]), ValueError, r"addresses: must lie in \[0, 2\*\*63\)"),
    (lambda: as_stream("load", np.array([2**63], np.uint64)), ValueError, r"addresses: must lie in \[0, 2\*\*63\)"),
    (lambda: as_stream("read", [0]), ValueError, "kinds: .*got .read"),
    (lambda: as_stream(3, [0]), TypeError, "kinds: expected a kind of access, or a sequence of them; got int 3"),
    (lambda: Stream([1, 2]), TypeError, "accesses: expected a one-dimensional array of ACCESS .*got list"),
    (lambda: Stream(np.zeros(2)), TypeError, "accesses: expected .*got an array of float64"),
    (lambda: machine(1).run(3), TypeError, "callback: expected a callable or None; got int 3"),
    (lambda: type("P", (MESI,), {"states": ("M", "S")})(), TypeError, "protocol: states: expected States; got str 'M'"),
    (lambda: type("P", (MESI,), {"remote_read": "S"})(), TypeError, "protocol: remote_read: expected a dict of states; got str"),
    (
        lambda: type("P", (MESI,), {"remote_write": {"S": 3}})(),
        TypeError,
        r"remote_write\['S'\]: expected a state, or a dict .*got int 3",
    ),
    (lambda: MESI((0, 64)), TypeError, r"region: expected pairs of addresses, such as \[\(first, last\)\]; got tuple"),
    (lambda: as_stream(["load", "store"], [0]), ValueError, "kinds: must be one, or one for each of the 1 addresses; got 2"),
    (lambda: as_stream("load", [0], instructions=-1), ValueError, "instructions: "),
    (lambda: as_stream("load", [0], instructions=2**32), ValueError, "instructions: "),
]


@pytest.mark.parametrize(("call", "error", "text"), BAD)
def test_bad_input_is_refused_with_a_reason(call, error, text):
    with pytest.raises(error, match=text) as caught:
        call()
    assert type(caught.value) is error
