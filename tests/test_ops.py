"""lowprec.ops: dot and axpy on quantized arrays, against the oracle."""

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

import lowprec as lp
from lowprec.formats import FORMATS, RANDOM_SOURCES

TOKENS = tuple(FORMATS)
SUFFIX = {"shared": "sr", "xorshift": "srx", "mt19937": "srb"}


def codes(rng, token, shape, model=False):
    """Codes of a format, one to an element; for data its smallest code too."""
    if token == "32f":
        return rng.standard_normal(shape).astype(np.float32)
    top = FORMATS[token].max_code
    out = rng.integers(-top if model else -top - 1, top + 1, shape)
    if not model:
        out.flat[0] = -top - 1
    return out.astype(np.int8 if token in "48" else np.int16)


def oracle_sum(D, M, x, w):
    return (reference.dot_float if "32f" in (D, M) else reference.dot_integer)(x.tolist(), w.tolist())


@pytest.mark.parametrize("M", TOKENS)
@pytest.mark.parametrize("D", TOKENS)
@pytest.mark.parametrize("n", [1, 2, 31, 33, 100])
def test_dot(rng, D, M, n):
    x, w = codes(rng, D, (5, n)), codes(rng, M, n, model=True)
    sx, sw = 0.37, 1.0 / 3.0
    q, model = lp.from_codes(x, D, sx), lp.from_codes(w, M, sw)
    expected = [float(oracle_sum(D, M, row, w)) * (sx * sw) for row in x]
    many = lp.dot(q, model)
    assert many.dtype == np.float64
    assert many.tolist() == expected
    for row, value in zip(x, expected, strict=True):
        one = lp.dot(lp.from_codes(row.copy(), D, sx), model)
        assert type(one) is float
        assert one == value
    assert lp.dot(q[2], model) == expected[2]
    assert lp.dot(q[1:4:2], model).tolist() == expected[1:4:2]


def test_dot_is_rounded_when_the_exact_sum_becomes_a_float():
    # an odd number of odd products, beyond 2**53: no float64 holds the sum
    n = 2**24 + 1
    codes = np.full(n, 2**15 - 1, np.int16)
    exact = n * (2**15 - 1) ** 2
    assert exact % 2 == 1
    assert exact > 2**53
    assert lp.dot(lp.from_codes(codes, "16", 0.1), lp.from_codes(codes, "16", 3.0)) == float(exact) * (0.1 * 3.0)


@pytest.mark.parametrize("D", TOKENS)
def test_dot_reads_rows_of_borrowed_memory(rng, D):
    if D == "4":
        packed = rng.integers(0, 256, (6, 40)).astype(np.uint8)
        view, n = packed[1:5:2, 3:20], 34
        q = lp.from_codes(view, "4", shape=(2, n))
        x = np.array([reference.unpack(row, "4", n) for row in view])
    else:
        whole = codes(rng, D, (6, 60))
        x = view = whole[1:5:2, 7:41]
        n, q = 34, lp.from_codes(view, D)
        assert np.shares_memory(q.buffer, whole)
    w = codes(rng, "8", n, model=True)
    assert lp.dot(q, lp.from_codes(w, "8")).tolist() == [float(oracle_sum(D, "8", row, w)) for row in x]


def test_dot_of_read_only_arrays(rng):
    x, w = codes(rng, "8", 50), codes(rng, "8", 50, model=True)
    x.flags.writeable = w.flags.writeable = False
    assert lp.dot(lp.from_codes(x, "8"), lp.from_codes(w, "8")) == int(x.astype(int) @ w.astype(int))


@pytest.mark.parametrize("random", [None, *RANDOM_SOURCES])
@pytest.mark.parametrize("M", TOKENS)
@pytest.mark.parametrize("D", TOKENS)
@pytest.mark.parametrize("n", [1, 2, 33, 71])
def test_axpy(rng, D, M, random, n):
    x, w = codes(rng, D, n), codes(rng, M, n, model=True)
    alpha, sx, sw, seed = -0.0123, 0.37, 1.0 / 3.0, int(rng.integers(0, 2**64, dtype=np.uint64))
    m = alpha * sx / sw
    q, model = lp.from_codes(x, D, sx), lp.from_codes(w.copy(), M, sw)
    rounding = "nearest" if random is None or M == "32f" else SUFFIX[random]
    words = None
    if rounding == "srb":
        twister = reference.Mt19937(seed, 0)
        words = [twister.next() >> (0 if D == "32f" else 16) for _ in range(n)]
    expected, _ = reference.kernel(
        "axpy", D, M, rounding, x=x.tolist(), w=w.tolist(), n=n, m=m, words=words, seed=seed
    )
    how = {"rounding": "nearest"} if random is None else {"rounding": "stochastic", "random": random}
    assert lp.axpy(alpha, q, model, seed=seed, **how) is None
    assert model.unpacked().tolist() == np.array(expected, model.unpacked().dtype).tolist()
    assert model.scale == sw
    assert q.unpacked().tolist() == x.tolist()


@pytest.mark.parametrize("random", RANDOM_SOURCES)
@pytest.mark.parametrize("D", ["8", "32f"])
def test_seeds(rng, D, random):
    x = codes(rng, D, 500)

    def run(seed):
        w = lp.from_codes(np.zeros(500, np.int16), "16")
        lp.axpy(0.3, lp.from_codes(x, D), w, random=random, seed=seed)
        return w.codes.copy()

    assert (run(0) == run(0)).all()
    assert (run(2**64 - 1) == run(2**64 - 1)).all()
    outcomes = {run(seed).tobytes() for seed in (0, 1, 2, 2**63, 2**64 - 1)}
    assert len(outcomes) == 5


def test_axpy_writes_in_place_and_nothing_else(rng):
    memory = codes(rng, "8", (4, 64), model=True)
    before = memory.copy()
    w = lp.from_codes(memory[2], "8", 0.5)
    lp.axpy(1.0, lp.from_codes(np.full(64, 3, np.int8), "8", 0.5), w, rounding="nearest")
    assert (memory[2] == np.clip(before[2].astype(int) + 3, -127, 127)).all()
    assert (np.delete(memory, 2, 0) == np.delete(before, 2, 0)).all()


def test_axpy_keeps_the_unused_nibble_zero():
    w = lp.from_codes(np.array([1, 2, 3], np.int8), "4")
    lp.axpy(7.0, lp.from_codes(np.array([1, 1, 1], np.int8), "4"), w)
    assert w.unpacked().tolist() == [7, 7, 7]
    assert w.codes[-1] == 0x07


def test_a_huge_step_saturates_and_a_zero_moves_nothing():
    x = lp.from_codes(np.array([1, 0, -1], np.int8), "8")
    for alpha in (1e300, 1e9, 300.0):
        w = lp.from_codes(np.array([5, 5, 5], np.int8), "8")
        lp.axpy(alpha, x, w)
        assert w.codes.tolist() == [127, 5, -127]
    w = lp.from_codes(np.array([5, 5, 5], np.int8), "8")
    lp.axpy(0.0, x, w)
    assert w.codes.tolist() == [5, 5, 5]


@given(
    D=st.sampled_from(TOKENS),
    M=st.sampled_from(TOKENS),
    n=st.integers(1, 80),
    sx=st.floats(1e-6, 1e6),
    sw=st.floats(1e-6, 1e6),
    seed=st.integers(0, 2**32),
)
def test_dot_after_axpy_is_what_the_model_says(D, M, n, sx, sw, seed):
    rng = np.random.default_rng(seed)
    q = lp.from_codes(codes(rng, D, n), D, sx)
    w = lp.from_codes(codes(rng, M, n, model=True), M, sw)
    lp.axpy(0.5 * sw / sx, q, w, seed=seed)
    assert lp.dot(q, w) == float(oracle_sum(D, M, q.unpacked(), w.unpacked())) * (sx * sw)


# What can go wrong is in test_errors.py, but for what needs a story:


def test_the_smallest_code_is_for_data_only():
    for token, dtype in (("4", np.int8), ("8", np.int8), ("16", np.int16)):
        smallest = -FORMATS[token].max_code - 1
        for at in (0, 1, 2):
            array = np.zeros(3, dtype)
            array[at] = smallest
            w = lp.from_codes(array, token)
            x = lp.from_codes(np.ones(3, dtype), token)
            with pytest.raises(ValueError, match=rf"must lie in .*; got {smallest}"):
                lp.dot(x, w)
            with pytest.raises(ValueError, match=rf"must lie in .*; got {smallest}"):
                lp.axpy(1.0, x, w)
            assert lp.dot(w, x) == smallest


def test_shared_memory_is_refused_and_neighbors_are_not():
    memory = np.ones((2, 32), np.int8)
    whole = lp.from_codes(memory, "8")
    lp.axpy(1.0, whole[0], whole[1], rounding="nearest")
    assert memory[0].tolist() == [1] * 32
    assert memory[1].tolist() == [2] * 32
    flat = memory.reshape(-1)
    for a, b in ((flat[:32], flat[:32]), (flat[:32], flat[1:33])):
        with pytest.raises(ValueError, match="must not share memory"):
            lp.axpy(1.0, lp.from_codes(a, "8"), lp.from_codes(b, "8"))
    assert memory[1].tolist() == [2] * 32
