"""The model of many machines: bytes by enumeration, small cases by hand, limits, monotonicity, links found again."""

from __future__ import annotations

import math
from pathlib import Path

import examples
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lowprec.perfmodel import Coding, CommunicationModel, Link, Round, Work, fit_link
from lowprec.perfmodel.communication import CODECS, chunk_sizes, coded_bytes, exchange_bytes

SIZES = st.integers(1, 300_000)
MACHINES = st.integers(1, 200)
CODINGS = st.sampled_from(list(CODECS))
WORK = Work(n=8192, examples=100, numbers=819_200, seconds=1e-3)
LINK = Link(latency=1e-5, bandwidth=1e9)
PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance-model.md"


# ---- bytes ---------------------------------------------------------------------------------------------------------


def chunks(n, machines):
    """The owners' chunks, as docs/architecture.md has them, one by one."""
    s = -(-n // 64)
    return [min(64 * (s * (q + 1) // machines), n) - min(64 * (s * q // machines), n) for q in range(machines)]


def bytes_of_blocks(k, C):
    """Bytes of a vector, a block at a time: levels, and the bits of all numbers packed."""
    levels = {"1": 2, "32f": 0}.get(C, 1)
    bits = int(C.rstrip("f"))
    return sum(4 * levels for _ in range(0, k, 2048)) + math.ceil(k * bits / 8)


@pytest.mark.parametrize(
    ("k", "C", "expected"),
    [
        (0, "8", 0),
        (1, "1", 1 + 8),
        (9, "1", 2 + 8),
        (2048, "1", 256 + 8),
        (2049, "1", 257 + 16),
        (2049, "2", 513 + 8),
        (3, "4", 2 + 4),
        (4096, "8", 4096 + 8),
        (100, "16", 204),
        (100, "16f", 204),
        (100, "32f", 400),
    ],
)
def test_bytes_of_a_coded_vector_by_hand(k, C, expected):
    assert coded_bytes(k, C) == expected == bytes_of_blocks(k, C)


@given(SIZES, MACHINES)
@example(1, 1)
@example(1, 7)
@example(64 * 8, 8)
@example(64 * 9, 8)
@example(64 * 9 - 63, 8)
def test_chunks_are_those_of_the_owners(n, machines):
    enumerated = chunks(n, machines)
    assert sum(enumerated) == n
    counts = chunk_sizes(n, machines)
    assert counts == {length: enumerated.count(length) for length in set(enumerated)}


@given(SIZES, MACHINES, CODINGS)
@example(64 * 3, 40, "1")  # machine 0 owns nothing, and sends the intercept to all
@example(64 * 41, 40, "8")  # a second stripe for one owner alone
def test_bytes_of_the_busiest_machine_by_enumeration(n, machines, C):
    owned = [bytes_of_blocks(k, C) for k in chunks(n, machines)]
    sent, received = [], []
    for q in range(machines):
        others = [p for p in range(machines) if p != q]
        intercepts = 8 * len(others) if q == 0 else 8
        sent.append(sum(owned[p] for p in others) + len(others) * owned[q] + intercepts if others else 0)
        received.append(len(others) * owned[q] + sum(owned[p] for p in others) + intercepts if others else 0)
    assert exchange_bytes(n, machines, C) == max(sent) == max(received)


@given(SIZES, MACHINES, CODINGS)
def test_a_machine_sends_at_most_two_vectors_of_equal_chunks(n, machines, C):
    """However many there are: two vectors of R chunks of the largest length, less one of each; and the intercepts."""
    largest = coded_bytes(max(chunks(n, machines)), C)
    assert exchange_bytes(n, machines, C) <= 2 * (machines - 1) * largest + 8 * (machines - 1)
    # Chunks of one length: then these are the two coded vectors of the model itself.
    equal = 64 * machines * max(n // (64 * machines), 1)
    vector = sum(coded_bytes(k, C) for k in chunks(equal, machines))
    assert exchange_bytes(equal, machines, C) * machines == 2 * (machines - 1) * vector + 8 * (machines - 1) * machines


@given(SIZES, MACHINES, st.sampled_from([("2", "4"), ("4", "8"), ("8", "16"), ("16f", "32f"), ("1", "4")]))
def test_fewer_bits_are_fewer_bytes(n, machines, pair):
    fewer, more = (exchange_bytes(n, machines, C) for C in pair)
    # A chunk of a few numbers may cost its level more than the bits it saves: eight bytes for each chunk that goes out.
    assert fewer <= more + 8 * 2 * machines
    if n >= 64 * machines:
        assert fewer < more or machines == 1


# ---- rounds --------------------------------------------------------------------------------------------------------


def test_a_synchronous_round_by_hand():
    """Four machines, 8,192 numbers in 8 bits: chunks of 2,048 + 4 bytes; three others go out, and the own one three times."""
    model = CommunicationModel(WORK, LINK, Coding("8", encode=2e9, decode=4e9))
    r = model.round(4)
    assert r.compute == 1e-3
    assert r.coding == (8192 + 2048) / 2e9 + (8192 + 8192) / 4e9
    assert r.latency == 2 * 3 * 1e-5
    assert r.transfer == (6 * 2052 + 3 * 8) / 1e9  # chunks are equal: the busiest is machine 0, with three intercepts
    assert r.seconds == r.compute + r.coding + (r.latency + r.transfer)
    assert r.bound == "compute"
    assert model.examples_per_second(4) == 4 * 100 / r.seconds
    assert model.gnps(4) == 4 * 819_200 / r.seconds / 1e9
    assert model.efficiency(4) == 1e-3 / r.seconds


def test_an_asynchronous_round_by_hand():
    """An owner codes an answer to each of four machines; what is under way costs nothing as long as it is shorter."""
    coding = Coding("8", encode=2e9, decode=4e9)
    r = CommunicationModel(WORK, LINK, coding, asynchronous=True).round(4)
    assert r.coding == (8192 + 8192) / 2e9 + (8192 + 8192) / 4e9
    assert r.communication == 6e-5 + (6 * 2052 + 24) / 1e9
    assert r.seconds == r.compute + r.coding
    slow = CommunicationModel(WORK, Link(1e-3, 1e9), coding, asynchronous=True).round(4)
    assert slow.seconds == slow.communication
    assert slow.bound == "latency"


@pytest.mark.parametrize(
    ("terms", "overlapped", "bound"),
    [
        ((4, 3, 2, 1), False, "compute"),
        ((3, 4, 2, 1), False, "coding"),
        ((1, 2, 4, 3), False, "latency"),
        ((1, 2, 3, 4), False, "bandwidth"),
        ((4, 3, 5, 1), True, "compute"),  # latency is the largest term, but work the longer side
        ((5, 0, 3, 4), True, "bandwidth"),  # and the other way round
    ],
)
def test_what_a_round_is_bound_by(terms, overlapped, bound):
    assert Round(*map(float, terms), overlapped).bound == bound


@given(SIZES, CODINGS, st.booleans(), st.integers(1, 4))
def test_one_machine_does_not_communicate(n, C, asynchronous, cores):
    model = CommunicationModel(Work(n, 10, 10 * n, 0.25), LINK, Coding(C, 1e6, 1e6), asynchronous, cores)
    assert model.round(1) == Round(0.25, 0.0, 0.0, 0.0, False)
    assert model.efficiency(1) == 1
    assert model.examples_per_second(1) == 40


@given(SIZES, MACHINES, CODINGS)
def test_what_costs_nothing_takes_no_time(n, machines, C):
    work = Work(n, 10, 10 * n, 0.25)
    for asynchronous in (False, True):
        free = CommunicationModel(work, Link(0.0, math.inf), Coding(C), asynchronous)
        assert free.round(machines).seconds == 0.25
        assert free.efficiency(machines) == 1
    assert CommunicationModel(work, Link(0.5, math.inf), Coding(C)).round(machines).seconds == 0.25 + (machines - 1)
    bytes_alone = CommunicationModel(work, Link(0.0, 2.0), Coding(C)).round(machines)
    assert bytes_alone.communication == exchange_bytes(n, machines, C) / 2


POSITIVE = st.floats(1e-9, 1e9)


@given(SIZES, MACHINES, CODINGS, POSITIVE, POSITIVE, POSITIVE, POSITIVE, POSITIVE, st.floats(1, 1e3))
def test_slower_parts_never_make_a_round_shorter(n, machines, C, seconds, latency, bandwidth, encode, decode, factor):
    def t(asynchronous, seconds=seconds, latency=latency, bandwidth=bandwidth, encode=encode, decode=decode, cores=None):
        work, link, coding = Work(n, 10, 100.0, seconds), Link(latency, bandwidth), Coding(C, encode, decode)
        return CommunicationModel(work, link, coding, asynchronous, cores).round(machines).seconds

    for asynchronous in (False, True):
        base = t(asynchronous)
        assert base >= seconds
        assert t(asynchronous, seconds=seconds * factor) >= base
        assert t(asynchronous, latency=latency * factor) >= base
        assert t(asynchronous, bandwidth=bandwidth / factor) >= base
        assert t(asynchronous, encode=encode / factor) >= base
        assert t(asynchronous, decode=decode / factor) >= base
        assert t(asynchronous, cores=1) >= t(asynchronous, cores=2) >= base
        assert t(asynchronous, cores=200) >= base
    assert t(True, encode=math.inf) <= t(False, encode=math.inf), "what overlaps is no longer"


@given(st.integers(1, 10), st.integers(1, 6), CODINGS, POSITIVE, POSITIVE)
def test_more_machines_never_make_a_round_shorter_where_chunks_are_equal(blocks, doublings, C, latency, bandwidth):
    """With chunks of whole blocks. Otherwise they are of two lengths, and the longer one may become rarer."""
    machines = [2**k for k in range(doublings + 1)]
    n = 2048 * machines[-1] * blocks
    model = CommunicationModel(Work(n, 1, 1.0, 1.0), Link(latency, bandwidth), Coding(C))
    times = [model.round(R).seconds for R in machines]
    assert times == sorted(times)
    assert [model.efficiency(R) for R in machines] == sorted((model.efficiency(R) for R in machines), reverse=True)


@pytest.mark.parametrize(("machines", "cores", "factor"), [(2, 2, 1), (4, 2, 2), (3, 2, 1.5), (2, 4, 1), (4, 1, 4)])
def test_more_processes_than_cores_take_turns(machines, cores, factor):
    coding = Coding("8", 1e9, 1e9)
    apart = CommunicationModel(WORK, LINK, coding).round(machines)
    together = CommunicationModel(WORK, LINK, coding, cores=cores).round(machines)
    assert together == Round(*(factor * term for term in (apart.compute, apart.coding, apart.latency, apart.transfer)))


def test_processes_of_one_machine_move_their_messages_themselves():
    """So nothing overlaps, asynchronous or not."""
    coding = Coding("8", 1e9, 1e9)
    apart, together = (CommunicationModel(WORK, LINK, coding, asynchronous=True, cores=cores).round(2) for cores in (None, 2))
    assert together == Round(apart.compute, apart.coding, apart.latency, apart.transfer, overlapped=False)
    assert together.seconds == apart.work + apart.communication > apart.seconds


# ---- machines and epochs -------------------------------------------------------------------------------------------


def test_where_efficiency_falls_below_half():
    """Free coding and bandwidth: T = s + 2 (R - 1) alpha, below one half where 2 (R - 1) alpha > s."""
    work = Work(n=64, examples=1, numbers=64, seconds=1.0)
    model = CommunicationModel(work, Link(1 / 64, math.inf), Coding("8"))
    assert model.efficiency(33) == 0.5
    assert model.first_below() == 34
    assert model.first_below(at_most=33) is None
    assert model.first_below(1.0) == 2
    assert model.first_below(0.25) == 98


def test_speed_over_float32():
    """Where bandwidth is all that counts it is the ratio of the bytes."""
    work = Work(n=2**20, examples=1, numbers=2**20, seconds=1e-9)
    link = Link(0.0, 1.0)
    full, one = (CommunicationModel(work, link, Coding(C)) for C in ("32f", "1"))
    assert one.speedup_over(full, 1) == 1
    for R in (2, 4, 64):
        bytes_ratio = exchange_bytes(2**20, R, "32f") / exchange_bytes(2**20, R, "1")
        # The nanosecond of computing makes it smaller by less than 1e-9 / bytes.
        assert bytes_ratio * (1 - 1e-12) <= one.speedup_over(full, R) <= bytes_ratio * (1 + 1e-12)


def test_epochs_by_hand():
    """Rounds of 100 examples; 1,000 examples on four machines: two full rounds and one of 50 each."""
    model = CommunicationModel(WORK, LINK, Coding("8", 1e9, 1e9))
    full, half = model.round(4), model.round(4, 50)
    assert half == Round(full.compute / 2, full.coding, full.latency, full.transfer)
    assert model.epoch_seconds(1000, 4) == 2 * full.seconds + half.seconds
    assert model.epoch_seconds(1000, 1) == 10 * 1e-3
    assert model.epoch_seconds(4000, 4) == 10 * full.seconds, "weak scaling: as many rounds as one machine has with 1,000"
    assert model.epoch_seconds(3, 4) == model.round(4, 1).seconds, "never less than one exchange"
    assert model.epoch_seconds(2, 1) == pytest.approx(2e-5, rel=1e-15)


@given(st.integers(1, 50), MACHINES, CODINGS)
def test_of_whole_rounds_strong_scaling_has_the_efficiency_of_weak(rounds, machines, C):
    model = CommunicationModel(WORK, LINK, Coding(C, 1e9, 1e9))
    m = 100 * rounds * machines
    strong = model.epoch_seconds(m, 1) / (machines * model.epoch_seconds(m, machines))
    weak = model.epoch_seconds(100 * rounds, 1) / model.epoch_seconds(m, machines)
    # Sums and products of the same few numbers, each rounded a few times.
    assert strong == pytest.approx(weak, rel=1e-14)
    assert weak == pytest.approx(model.efficiency(machines), rel=1e-14)


# ---- links ---------------------------------------------------------------------------------------------------------

MESSAGES = np.array([2.0**k for k in range(3, 23)])


@given(st.floats(1e-7, 1e-3), st.floats(1e6, 1e11))
def test_a_link_is_found_again(latency, bandwidth):
    """A consistent system of full rank: rounding moves its solution by a few times the condition number times 2^-52."""
    seconds = np.array([Link(latency, bandwidth).seconds(b) for b in MESSAGES])
    found = fit_link(MESSAGES, seconds)
    slope = MESSAGES[-1] / bandwidth
    condition = np.linalg.cond(np.stack([1 / seconds, MESSAGES / MESSAGES[-1] / seconds], axis=1))
    bound = 8 * len(MESSAGES) * condition * 2.0**-52 * math.hypot(latency, slope)
    assert abs(found.link.latency - latency) <= bound
    assert abs(MESSAGES[-1] / found.link.bandwidth - slope) <= bound
    assert found.worst <= 2 * bound / seconds[0] + 2.0**-50


def test_relative_errors_count():
    """A long message that took a third longer says nothing of the latency: a thousand times its error is that of a short one."""
    link = Link(1e-5, 1e9)
    seconds = np.array([link.seconds(b) for b in MESSAGES])
    seconds[-1] *= 4 / 3
    found = fit_link(MESSAGES, seconds)
    assert abs(found.link.latency / 1e-5 - 1) < 0.05
    assert found.residuals[-1] < -0.15
    assert found.worst == max(abs(r) for r in found.residuals)


def test_a_negative_latency_is_none():
    """Times that grow faster than the sizes: the line through them meets 0 at a positive size."""
    found = fit_link([1000, 2000], [1.0, 3.0])
    assert found.link.latency == 0
    # Least (1000 b / 1 - 1)^2 + (2000 b / 3 - 1)^2.
    assert 1 / found.link.bandwidth == pytest.approx((1000 + 2000 / 3) / (1000**2 + (2000 / 3) ** 2), rel=1e-14)


# ---- the documentation ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(not PAGE.exists(), reason="the documentation is not beside the tests")
def test_the_example_in_the_documentation_gives_what_it_says():
    (block,) = (b for b in examples.blocks(PAGE) if "CommunicationModel" in b)
    names: dict = {}
    given, _, asked = block.rpartition("\n\n")
    exec(given, names)
    lines = asked.splitlines()
    assert len(lines) == 5
    for line in lines:
        expression, said = line.split("#")
        answers = eval(expression, names)
        answers = answers if isinstance(answers, tuple) else (answers,)
        assert [a if isinstance(a, str) else f"{a:.3g}" for a in answers] == said.strip().split(", ")


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: coded_bytes(10, "3"), ValueError, "C: choose one of {1, 2, 4, 8, 16, 16f, 32f}"),
        (lambda: coded_bytes(-1, "8"), ValueError, "numbers: must be at least 0"),
        (lambda: chunk_sizes(0, 1), ValueError, "n: must be at least 1"),
        (lambda: exchange_bytes(10, 0, "8"), ValueError, "machines: must be at least 1"),
        (lambda: Link(-1.0, 1.0), ValueError, "latency: must be finite and not negative"),
        (lambda: Link(math.inf, 1.0), ValueError, "latency: must be finite and not negative"),
        (lambda: Link(1.0, 0.0), ValueError, "bandwidth: must be finite and positive"),
        (lambda: Link(1.0, -math.inf), ValueError, "bandwidth: must be finite and positive"),
        (lambda: Coding("8", encode=0), ValueError, "encode: must be finite and positive"),
        (lambda: Coding("8", decode=math.nan), ValueError, "decode: must be finite and positive"),
        (lambda: Work(10, 0, 1.0, 1.0), ValueError, "examples: must be at least 1"),
        (lambda: Work(10, 1, 1.0, 0.0), ValueError, "seconds: must be finite and positive"),
        (lambda: CommunicationModel(WORK, 1e-5, Coding("8")), TypeError, "link: expected a Link"),
        (lambda: CommunicationModel(WORK, LINK, Coding("8"), cores=0), ValueError, "cores: must be at least 1"),
        (lambda: CommunicationModel(WORK, LINK, Coding("8")).round(2, 101), ValueError, r"examples: must lie in \[0, 100\]"),
        (lambda: CommunicationModel(WORK, LINK, Coding("8")).first_below(1.5), ValueError, r"efficiency: must lie in \(0, 1\]"),
        (lambda: fit_link([8, 8], [1.0, 2.0]), ValueError, "sizes: must have at least two different values"),
        (lambda: fit_link([8, 16], [1.0]), ValueError, "seconds: must have the length of sizes"),
        (lambda: fit_link([8, 16], [1.0, 0.0]), ValueError, "seconds: every value must be positive"),
        (lambda: fit_link([-8, 16], [1.0, 1.0]), ValueError, "sizes: no value may be negative"),
        (lambda: fit_link([8, 16], [2.0, 1.0]), ValueError, "seconds: larger messages must take longer"),
    ],
)
def test_refused(call, error, text):
    with pytest.raises(error, match=text):
        call()
