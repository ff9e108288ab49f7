"""Rounding is without bias, exactly where it can be counted and statistically where it cannot; nearest is nearest."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import reference as R
from hypothesis import given
from hypothesis import strategies as st

from lowprec import kernels, losses

RUNNABLE = [name for name, runnable in kernels._isas() if runnable]
ALL_WORDS = np.arange(2**16, dtype=np.uint16)


def rows(op, rounding):
    return [
        row for isa in RUNNABLE for row in kernels._table(isa)
        if (row.op, row.rounding) == (op, rounding) and row.M != "32f"
    ]  # fmt: skip


def every(rows):
    return pytest.mark.parametrize("row", rows, ids=lambda row: f"{row.name}_{row.isa}")


# ---- the step -----------------------------------------------------------------------------------------------


def check_step(m, M, draw):
    for D in R.FIXED:
        for stochastic in (False, True):
            mu, e = kernels._make_step(m, D, M, stochastic, draw)
            assert (mu, e) == R.step(m, M, stochastic, draw), (m, D, M, stochastic, draw)
            assert abs(mu) < 2**15
            clipped = max(-2 * R.max_code(M), min(2 * R.max_code(M), Fraction(m)))
            # half a unit of mu, and one more where the dither moves it
            assert abs(Fraction(mu) * 2**e / 2**16 - clipped) <= Fraction(2**e, 2**16) * (1 if stochastic else Fraction(1, 2))


@pytest.mark.parametrize("M", R.FIXED)
def test_the_step_at_every_boundary(M):
    edges = [2.0**k for k in range(-30, 19)] + [float(2 * R.max_code(M)), 0.0, 5e-324, 1e-310, 1e300, math.ldexp(32767.5, -16)]
    for m in edges:
        for near in (m, math.nextafter(m, math.inf), math.nextafter(m, 0.0), m * (1 - 2.0**-17), m * (1 - 2.0**-18), m * 1.2345):
            for draw in (0, 2**32 - 1, 2**63, 2**64 - 1, 2**63 - 1, 0x0123456789ABCDEF):
                check_step(near, M, draw)
                check_step(-near, M, draw)


@given(st.floats(-1e5, 1e5), st.sampled_from(R.FIXED), st.integers(0, 2**64 - 1))
def test_the_step_anywhere(m, M, draw):
    check_step(m, M, draw)


@pytest.mark.parametrize("m", [2.0**-20, -(2.0**-20), 0.3 * 2.0**-16, 2.5 * 2.0**-16, -0.123456789, 0.4999, 1.7, -100.1])
def test_the_step_is_unbiased(m):
    # the mean over an even grid of draws; the contract's dither takes the middle of each of its 2^32 cells
    draws = (np.arange(2**12, dtype=np.uint64) << np.uint64(52)) + np.uint64(2**51)
    values = []
    for draw in draws.tolist():
        mu, e = kernels._make_step(m, "8", "8", True, draw)
        values.append(Fraction(mu) * 2**e / 2**16)
    quantum = Fraction(2) ** (R.step(m, "8", False, 0)[1] - 16)
    assert abs(sum(values) / len(values) - Fraction(m)) <= quantum / 2**12


# ---- exactly ------------------------------------------------------------------------------------------------


@every([row for row in rows("axpy", "srb") if row.D != "32f"])
def test_over_all_words_the_sum_is_exact(row, rng):
    """Sum over r of floor((mu 2^e x + r) / 2^16) = mu 2^e x, through the kernel."""
    top = R.max_code(row.M)
    mus = [0, 1, 2, 255, 256, 257, 511, 512, 513, 4096, 8191, 8192, 8193, 16383, 16384, 32766, 32767]
    mus += rng.integers(1, 2**15, 8).tolist()
    steps = [sign * mu / 2**16 for mu in mus for sign in (1, -1)]
    steps += [sign * mu * 2**e / 2**16 for e in range(1, 18) for mu in (16384, 21845, 32767) for sign in (1, -1)]
    lo, hi = R.min_code(row.D), R.max_code(row.D)
    xs = [lo, -hi, -1, 0, 1, hi, *rng.integers(lo, hi, 2).tolist()]
    tested = 0
    for m in steps:
        for x in xs:
            if abs(m * x) + 1 > top:  # it would saturate
                continue
            data = R.sweep_pack(np.full(2**16, x), row.D)
            w = R.sweep_pack(np.zeros(2**16), row.M)
            row(m, data, w, ALL_WORDS, seed=7)
            moved = R.sweep_unpack(w, row.M, 2**16)
            assert int(moved.sum()) == Fraction(m) * 2**16 * x, (m, x)
            assert moved.max() - moved.min() <= 1
            tested += 1
    assert tested >= 60


@every([row for row in rows("axpy", "srb") if row.D == "32f"])
def test_over_all_fractions_the_count_is_exact(row):
    # 32f data draw 24-bit fractions: every 2^8-th of them; the words' low 8 bits do not count
    words = np.arange(2**16, dtype=np.uint32) << np.uint32(16) | np.uint32(0xFF)
    for t in (0.0, 2.0**-30, 2.0**-16, 0.3, 0.5, 0.999, 1.0, 1.75, -0.25, -(2.0**-20), -1.0, -2.3):
        x = np.full(2**16, t, dtype=np.float32)
        w = R.sweep_pack(np.zeros(2**16), row.M)
        row(1.0, x, w, words, seed=0)
        moved = R.sweep_unpack(w, row.M, 2**16)
        exact = Fraction(float(np.float32(t)))
        floor = exact.numerator // exact.denominator
        # up exactly where the fraction is above u = k 2^-16: ceil(fraction 2^16) of the u (in float32: 1 - 2^-20 is exact)
        ups = -((-(exact - floor) * 2**16) // 1)
        assert int((moved == floor + 1).sum()) == ups, t
        assert int((moved == floor).sum()) == 2**16 - ups, t


@every(rows("axpy", "nearest"))
def test_nearest_is_nearest(row, rng):
    n = 512
    for m in (0.25, -0.25, 0.5, -0.5, 0.375, 0.125, 1.0):
        x = rng.integers(-6, 7, n)
        data = x.astype(np.float32) if row.D == "32f" else R.sweep_pack(x, row.D)
        w = R.sweep_pack(np.zeros(n), row.M)
        row(m, data, w)
        expected = np.floor(m * x + 0.5)  # a tie goes up
        assert np.array_equal(R.sweep_unpack(w, row.M, n), expected.astype(np.int64)), m


# ---- statistically ------------------------------------------------------------------------------------------

COORDINATES = 4096


def steps(row):
    # One word moves 128 (256) coordinates of a shared row, so that rare moves are too few for a standard error to mean anything.
    return [2.0**-20, 2.0**-12, 2.0**-3] if row.rounding == "srx" else [2.0**-6, 2.0**-3]


@pytest.mark.parametrize(
    ("row", "step"),
    [
        pytest.param(row, step, id=f"{row.name}_{row.isa}-2^{math.log2(step):.0f}")
        for row in rows("axpy", "srx") + rows("axpy", "sr") if row.M != "4" for step in steps(row)
    ],
)  # fmt: skip
@pytest.mark.parametrize("x", [1, -7])
def test_the_mean_moves_by_the_step(row, step, x):
    """Mean over 4,096 coordinates and many seeds, mu's own rounding included, within 4 standard errors.

    A call moves each coordinate by floor((mu x + r) / 2^16), whose expectation is p = mu x / 2^16 and whose variance is that of
    a coin. mu itself takes one of two values. With `_sr`, coordinates that are 32 (16 for 32f data) apart share a word.
    """
    calls = 8000 if step < 2.0**-16 else 1000
    period = 16 if row.D == "32f" else 32
    groups, size = (COORDINATES, 1) if row.rounding == "srx" else (period, COORDINATES // period)
    data = R.sweep_pack(np.full(COORDINATES, x), row.D)
    w = np.zeros(COORDINATES, dtype=R.DTYPES[row.M])
    total = 0
    for seed in range(calls):
        w[:] = 0
        row(step, data, w, seed=seed)
        total += int(w.sum(dtype=np.int64))

    mean = step * x
    if row.D == "32f":
        outcomes = [(1.0, mean)]
    else:
        t = step * 2**16
        low = math.floor(t)
        outcomes = [(1 - (t - low), low * x / 2**16), (t - low, (low + 1) * x / 2**16)]
    spread = 0.0
    for probability, p in outcomes:
        coin = (p - math.floor(p)) * (1 - (p - math.floor(p)))
        spread += probability * (groups * size**2 * coin + (COORDINATES * (p - mean)) ** 2)
    standard_error = math.sqrt(spread / calls)
    assert standard_error < 0.25 * COORDINATES * abs(mean)  # so that a row that drops small steps fails
    assert abs(total / calls - COORDINATES * mean) <= 4 * standard_error


# ---- loss derivatives ---------------------------------------------------------------------------------------


def derivative(loss, p, y, parameter=0.0):
    """What the training loop computes."""
    return float(losses.Loss(loss, parameter).derivatives(np.array([p]), np.array([y]))[0])


def test_the_logistic_derivative_is_near_the_exact_one():
    p = np.linspace(-31.9, 31.9, 20001)
    for y in (-1.0, 1.0):
        found = losses.Loss("logistic").derivatives(p, np.full(len(p), y))
        exact = [R.exact_loss_derivative("logistic", float(a), y) for a in p]
        assert np.abs(found - exact).max() < 1e-8
    for p in (32.0, 33.0, 1e6, 1e300):
        assert abs(derivative("logistic", p, 1.0)) < 1e-8
        assert abs(derivative("logistic", p, -1.0) - 1.0) < 1e-8


LABELS = {True: st.sampled_from([-1.0, 1.0]), False: st.floats(-100, 100, width=32)}


@pytest.mark.parametrize("loss", losses.LOSSES)
@given(data=st.data())
def test_loss_derivatives_to_the_bit(loss, data):
    p, y = data.draw(st.floats(-100, 100)), data.draw(LABELS[loss in losses.MARGIN_LOSSES])
    parameter = losses.loss_of(loss, data.draw(st.floats(0, 3)), data.draw(st.floats(0.01, 0.99))).parameter
    assert derivative(loss, p, y, parameter) == R.loss_derivative(loss, p, y, parameter)


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_loss_derivatives_at_their_corners(loss):
    for p in (-1.0, 1.0, 0.0, -0.0, 0.75, 1.25, -0.75, 1 / 32, -1 / 32, 3 / 32, 32.0, -32.0, 31.96875, 5e-324):
        for y in (-1.0, 1.0):
            for parameter in (0.0, 0.25, 0.5):
                assert derivative(loss, p, y, parameter) == R.loss_derivative(loss, p, y, parameter), (p, y, parameter)


def test_some_derivatives():
    assert derivative("hinge", 1.0, 1.0) == 0.0  # the margin itself is no loss
    assert derivative("hinge", math.nextafter(1.0, 0.0), 1.0) == -1.0
    assert derivative("logistic", 0.0, 1.0) == pytest.approx(-0.5, abs=1e-8)
    assert derivative("squared", 3.0, 1.25) == 1.75
    assert derivative("squared_hinge", 0.5, 1.0) == -1.0
    assert derivative("modified_huber", -1.0, 1.0) == -4.0
    assert derivative("modified_huber", -5.0, 1.0) == -4.0
    assert derivative("huber", 3.0, 1.0, 0.5) == 0.5
    assert derivative("epsilon_insensitive", 1.5, 1.0, 0.5) == 0.0
    assert derivative("quantile", 0.0, 1.0, 0.9) == -0.9
    assert derivative("quantile", 2.0, 1.0, 0.9) == pytest.approx(0.1)
