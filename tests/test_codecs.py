"""The codecs: every row on every ISA equals the oracle to the last bit; what their roundings promise; `Codec`."""

from __future__ import annotations

import doctest
import functools
import math
import pickle
import re

import numpy as np
import pytest
import reference as R
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_kernels import Operand, ident

import lowprec as lp
from lowprec import kernels
from lowprec.communication import CODECS, Codec, codecs

RUNNABLE = [name for name, runnable in kernels._isas() if runnable]
ROWS = [row for isa in RUNNABLE for row in kernels._codecs(isa)]
ENCODES = [row for row in ROWS if row.op.startswith("encode")]
DECODES = [row for row in ROWS if row.op.startswith("decode")]
FIXED = ("2", "4", "8", "16")
LENGTHS = [*range(68), 2047, 2048, 2049, 4100]
TOP, LEAST, DENORMAL = 2.0**100, 2.0**-100, 2.0**-149


def every(rows):
    return pytest.mark.parametrize("row", rows, ids=ident)


def find(name, isa=None):
    return next(row for row in kernels._codecs(isa) if row.name == name)


def numbers(n, kind=None):
    """n float32 numbers; of each length another kind, the same for every row."""
    rng = np.random.default_rng([R.MASK64 >> 40, n])
    kind = n % 7 if kind is None else kind
    v = rng.standard_normal(n).astype(np.float32)
    if kind == 1:  # many zeros of both signs, and one outlier
        v *= rng.choice(np.array([0, -0.0, 1], np.float32), n)
        v[n // 2 :][:1] = 1000
    elif kind == 2:  # all that floats can be, up to the limit
        v = (rng.choice([-1, 1], n) * 2.0 ** rng.uniform(-149, 100, n)).astype(np.float32)
    elif kind == 3:  # exact multiples and halves of them
        v = (rng.integers(-14, 15, n) / 2).astype(np.float32)
    elif kind == 4:  # around the smallest level
        v = (v * LEAST).astype(np.float32)
    elif kind == 5:  # one sign
        v = -np.abs(v)
    elif kind == 6:  # as large as it may be
        v = np.clip(v * TOP, -TOP, TOP).astype(np.float32)
    return v


def same(a, b):
    """The same bits, or both NaN."""
    number = ~np.isnan(a)
    return np.array_equal(number, ~np.isnan(b)) and np.array_equal(a.view(np.uint32)[number], b.view(np.uint32)[number])


@functools.cache
def expected_encoding(C, feedback, random, raw, seed=0, stream=0):
    v = np.frombuffer(raw, np.float32)
    message, left, finite = R.encode(C, v, feedback=feedback, random=random, seed=seed, stream=stream)
    return message, np.array(left, np.float32), finite


def check_encode(row, v, offsets=(0, 0), seed=0, stream=0):
    n = len(v)
    random = row.rounding == "sr"
    message, left, finite = expected_encoding(row.C, row.op == "encode_feedback", random, v.tobytes(), seed, stream)
    place = Operand(v, offsets[0] // 4 * 4)
    out = Operand(np.zeros(R.coded_bytes(row.C, n), np.uint8), offsets[1])
    assert row(place.array, out.array, **({"seed": seed, "stream": stream} if random else {})) is finite
    case = f"{ident(row)}: n={n}, seed={seed}, stream={stream}, offsets={offsets}"
    assert out.array.tobytes() == message, case
    out.check_guards("out")
    if row.op == "encode":
        place.check_unchanged("v")
    else:
        assert same(place.array, left), case
        place.check_guards("v")


def check_decode(row, coded, n, out, offsets=(0, 0)):
    message = Operand(coded, offsets[0])
    place = Operand(out, offsets[1] // 4 * 4)
    assert row(message.array, place.array) is None
    message.check_unchanged("coded")
    place.check_guards("out")
    with np.errstate(all="ignore"):
        decoded = np.array(R.decode(row.C, coded.tobytes(), n), np.float32)
        expected = decoded if row.op == "decode" else out + decoded
    assert same(place.array, expected), f"{ident(row)}: n={n}, offsets={offsets}"


# ---- the oracle ---------------------------------------------------------------------------------------------


@every(ENCODES)
def test_encode_equals_the_oracle(row):
    for n in LENGTHS:
        check_encode(row, numbers(n), (n * 20 % 64, n * 7 % 64), seed=n, stream=n % 3)


@every([row for row in ENCODES if row.C != "32f"])
def test_blocks_that_cannot_be_coded(row):
    for bad in (math.nan, math.inf, -math.inf, np.nextafter(np.float32(TOP), np.float32(math.inf)), -3e38):
        for n, at in ((1, 0), (40, 39), (4200, 3000)):
            v = numbers(n, 0)
            v[at] = bad
            check_encode(row, v, seed=1)


@every([row for row in ENCODES if row.C == "32f"])
def test_floats_are_sent_whatever_they_are(row):
    for bad in (math.nan, math.inf, 3e38):
        v = numbers(70, 0)
        v[33] = bad
        with np.errstate(invalid="ignore"):
            check_encode(row, v)


@given(
    v=hnp.arrays(np.float32, st.integers(0, 70), elements=st.floats(width=32)),
    of=st.integers(0, len(ENCODES) - 1),
    seed=st.integers(0, R.MASK64),
)
@settings(max_examples=400)
@example(v=np.full(70, TOP, np.float32), of=0, seed=0)
@example(v=np.full(70, DENORMAL, np.float32), of=0, seed=0)
def test_encode_of_any_floats(v, of, seed):
    with np.errstate(all="ignore"):
        for row in {ENCODES[of], find(ENCODES[of].name, "base")}:
            check_encode(row, v, seed=seed)


@every(DECODES)
def test_decode_equals_the_oracle(row):
    for n in LENGTHS:
        rng = np.random.default_rng([n, int(row.C.rstrip("f"))])
        size = R.coded_bytes(row.C, n) - 4 * R.CODE_LEVELS[row.C] * -(-n // 2048)
        if row.C == "32f":
            coded = numbers(n, 2).view(np.uint8)
        else:  # any bytes: also codes and halves that no encoding makes
            levels = numbers(R.CODE_LEVELS[row.C] * -(-n // 2048), 2)
            coded = np.concatenate([rng.integers(0, 256, size, np.uint8), levels.view(np.uint8)])
        check_decode(row, coded, n, numbers(n, 0), (n * 7 % 64, n * 20 % 64))


@every(DECODES)
def test_what_cannot_be_coded_is_decoded_as_nan(row):
    n = 4100
    v = numbers(n, 0)
    v[2048] = math.nan
    coded = np.empty(R.coded_bytes(row.C, n), np.uint8)
    assert find(f"encode_{row.C}", row.isa)(v, coded) is False
    out = np.zeros(n, np.float32)
    row(coded, out)
    bad = np.arange(n) // 2048 == 1 if row.C != "32f" else np.isnan(v)
    assert np.array_equal(np.isnan(out), bad)


@every([row for row in ENCODES if row.op == "encode_feedback"])
def test_feedback_leaves_the_difference(row):
    for n, kind in ((1, 0), (2048, 1), (3000, 2), (3001, 6)):
        v = numbers(n, kind)
        left, coded, out = v.copy(), np.empty(R.coded_bytes(row.C, n), np.uint8), np.empty(n, np.float32)
        assert row(left, coded)
        find(f"decode_{row.C}", row.isa)(coded, out)
        assert same(left, v - out)


# ---- what the roundings promise -----------------------------------------------------------------------------


@pytest.mark.parametrize("C", FIXED)
def test_no_code_is_clipped(C):
    """Of every significand that the largest magnitude can have; powers of two change nothing, down to the least level."""
    most = R.max_code_of(C)
    a = np.arange(1 << 23, 1 << 24, dtype=np.int32).astype(np.float32)
    inverse = np.float32(1) / (a / np.float32(most) * np.float32(1 + 2**-22))
    assert (a * inverse).max() <= most


@pytest.mark.parametrize("C", FIXED)
def test_random_rounding_is_unbiased(C):
    """Hoeffding's inequality: the mean of K errors, each in an interval one level wide, is off by eps with probability at most
    2 exp(-2 K eps^2 / level^2); eps such that this is 1e-9 for all numbers together. A word has 24 bits, so the mean may be off
    by 2^-24 levels more; the roundings of inverse and products move a number by less than 2^-22 of the largest."""
    K, n = 4096, 64
    v = numbers(n, 0)
    top = float(np.abs(v).max())
    level = top / R.max_code_of(C)
    coded = np.empty(R.coded_bytes(C, K * n), np.uint8)
    out = np.empty(K * n, np.float32)
    assert find(f"encode_{C}_sr")(np.tile(v, K), coded, seed=5)
    find(f"decode_{C}")(coded, out)
    mean = out.reshape(K, n).mean(axis=0, dtype=np.float64)
    eps = level * (math.sqrt(math.log(2 * n / 1e-9) / (2 * K)) + 2**-24) + top * 2**-22
    assert (np.abs(mean - v) <= eps).all()
    # and it is not what rounding to nearest gives
    assert len(np.unique(out.reshape(K, n), axis=0)) > 1


@pytest.mark.parametrize("C", ["2", "4"])
@pytest.mark.parametrize("rounding", ["nearest", "sr"])
@given(
    v=hnp.arrays(np.float32, st.integers(1, 90), elements=st.floats(-TOP, TOP, width=32)),
    seed=st.integers(0, R.MASK64),
)
@settings(max_examples=150)
def test_feedback_leaves_no_more_than_there_was(C, rounding, v, seed):
    """The nearest multiple of the codes leaves at most |v|. Rounding the level moves what is left to second order only; the
    product and the difference are each off by 2^-24 of what they give, which is at most 2 |v| in length: less than 2^-21 |v| in
    all, or, where floats end, by 2^-149 a number."""
    row = find(f"encode_feedback_{C}" + ("" if rounding == "nearest" else "_sr"))
    left = v.copy()
    assert row(left, np.empty(R.coded_bytes(C, len(v)), np.uint8), **({} if rounding == "nearest" else {"seed": seed}))
    before = math.sqrt(math.fsum(float(x) ** 2 for x in v))
    after = math.sqrt(math.fsum(float(x) ** 2 for x in left))
    assert after <= before * (1 + 2**-21) + 2 * math.sqrt(len(v)) * DENORMAL


@pytest.mark.parametrize("C", CODECS)
def test_with_feedback_nothing_is_lost(C):
    """The sum of what is decoded and the residual is the sum of what was given: each round adds once and subtracts once, each off
    by at most 2^-24 of a number no larger than the largest ever seen."""
    rng = np.random.default_rng(7)
    codec, given_sum, got = Codec(C, seed=3), np.zeros(5000), np.zeros(5000)
    largest = 0.0
    for _ in range(40):
        v = rng.standard_normal(5000).astype(np.float32)
        held = v if codec.residual is None else v + codec.residual
        decoded = codec.decode(codec.encode(v), 5000)
        largest = max(largest, float(np.abs(held).max()), float(np.abs(decoded).max()), float(np.abs(codec.residual).max()))
        given_sum += v
        got += decoded
    assert np.abs(got + codec.residual - given_sum).max() <= 40 * 2 * largest * 2**-24
    if C == "32f":
        assert not codec.residual.any()


def test_random_codes_of_two_bits_need_the_fitted_level():
    """What the fit is there for: without it the residual of random 2-bit codes grows, in 60 rounds to ten times that with it."""
    rng = np.random.default_rng(8)
    fitted, plain = Codec("2", seed=1), np.zeros(2048, np.float32)
    encode, decode = find("encode_2_sr"), find("decode_2")
    coded, out = np.empty(R.coded_bytes("2", 2048), np.uint8), np.empty(2048, np.float32)
    for k in range(60):
        v = rng.standard_normal(2048).astype(np.float32)
        fitted.encode(v)
        plain += v
        assert encode(plain, coded, seed=1, stream=k)
        decode(coded, out)
        plain -= out
    assert np.linalg.norm(plain) > 4 * np.linalg.norm(fitted.residual)


# ---- the rows -----------------------------------------------------------------------------------------------


def test_the_rows_are_the_grammar():
    assert CODECS == R.CODECS
    for isa, runnable in kernels._isas():
        rows = kernels._codecs(isa)
        assert [(row.op, row.C, row.rounding) for row in rows] == [*R.codec_names()]
        for row in rows:
            assert row.name == f"{row.op}_{row.C}" + ("_sr" if row.rounding == "sr" else "")
            assert (row.isa, row.runnable, row.D, row.M, row.index) == (isa, runnable, None, None, None)
            assert pickle.loads(pickle.dumps(row)) is row
        assert lp.kernels(C="8", isa=isa) == [row for row in rows if row.C == "8"]
    for row in kernels._codecs():
        assert getattr(kernels, row.name) is row
    with pytest.raises(ValueError, match="no ISA 'mmx' is built in"):
        kernels._codecs("mmx")


@pytest.mark.parametrize("C", CODECS)
def test_bytes_of_a_message(C):
    for n in (0, 1, 2, 3, 4, 7, 8, 9, 2047, 2048, 2049, 10**6, 10**12 + 1):
        assert kernels.coded_bytes(C, n) == R.coded_bytes(C, n)
        if n:
            assert Codec(C).nbytes(n) == R.coded_bytes(C, n)
            assert Codec(C).ratio(n) == 4 * n / R.coded_bytes(C, n)


# ---- Codec --------------------------------------------------------------------------------------------------


def test_the_example_of_the_documentation():
    assert doctest.testmod(codecs).attempted >= 5
    assert doctest.testmod(codecs).failed == 0


@pytest.mark.parametrize("C", CODECS)
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("error_feedback", [True, False])
def test_codec_is_its_kernels(C, rounding, error_feedback):
    codec = Codec(C, error_feedback=error_feedback, rounding=rounding, seed=11)
    assert codec.residual is None
    random = rounding == "stochastic" and C in FIXED
    residual = np.zeros(100, np.float32)
    for k in range(3):
        v = numbers(100, k)
        raw = (v + residual if error_feedback else v).tobytes()
        message, left, _ = expected_encoding(C, error_feedback, random, raw, 11, k)
        before = v.copy()
        coded = codec.encode(v)
        assert coded.tobytes() == message
        assert np.array_equal(v, before)
        out = np.full(100, 3, np.float32)
        codec.decode_add(coded, out)
        assert np.array_equal(out, 3 + codec.decode(coded, 100))
        if error_feedback:
            residual = left
            assert same(codec.residual, left)
    assert (codec.residual is not None) is error_feedback


def test_a_vector_that_cannot_be_sent_changes_nothing():
    codec, twin = Codec(4, seed=2), Codec(lp.Format(4), seed=2)
    for one in (codec, twin):
        one.encode(numbers(50, 0))
    with pytest.raises(ValueError, match="v: every number must be finite"):
        codec.encode(np.full(50, math.inf, np.float32))
    assert codec.encode(numbers(50, 3)).tobytes() == twin.encode(numbers(50, 3)).tobytes()
    assert np.array_equal(codec.residual, twin.residual)


ERRORS = [
    ("Codec('3')", ValueError, "C: choose one of {1, 2, 4, 8, 16, 16f, 32f}; got '3'"),
    ("Codec(8.0)", TypeError, "C: expected one of {1, 2, 4, 8, 16, 16f, 32f}; got float 8.0"),
    ("Codec('8', error_feedback=1)", TypeError, "error_feedback: expected"),
    ("Codec('8', rounding='up')", ValueError, "rounding: choose one of {nearest, stochastic}; got 'up'"),
    ("Codec('8', seed=-1)", ValueError, "seed: must be an integer in [0, 2**64); got -1"),
    ("Codec('8').encode([1.0])", TypeError, "v: expected an array of float32; got list"),
    ("Codec('8').encode(v.astype(float))", TypeError, "v: expected an array of float32; got an array of float64, shape (5,)"),
    ("Codec('8').encode(v[None])", ValueError, "v: must be one-dimensional; got shape (1, 5)"),
    ("used.encode(v[:4])", ValueError, "v: must have the length of the first vector, 5; got 4"),
    ("Codec('8').nbytes(-1)", ValueError, "n: must be at least 0; got -1"),
    ("Codec('8').ratio(0)", ValueError, "n: must be at least 1; got 0"),
    ("used.decode(coded, 6)", ValueError, "decode_8: coded must have coded_bytes('8', 6) = 10 bytes, got 9"),
    ("k.encode_8(v.astype(float), coded)", TypeError,
     "encode_8: v must be a one-dimensional C-contiguous NumPy array of float32 numbers, got dtype float64"),
    ("k.encode_8(v, v)", TypeError, "out must be a one-dimensional C-contiguous NumPy array of uint8, got dtype float32"),
    ("k.encode_8(v[::2], coded)", ValueError, "v must be a one-dimensional C-contiguous NumPy array of float32 numbers"),
    ("k.encode_8(v, coded[:8])", ValueError, "encode_8: out must have coded_bytes('8', 5) = 9 bytes, got 8"),
    ("k.encode_8(v, coded, n=6)", ValueError, "encode_8: n must lie in [0, 5], the numbers of v, got 6"),
    ("k.encode_8(v, coded, seed=1)", TypeError, "unexpected keyword argument 'seed'"),
    ("k.encode_8(v, fixed)", ValueError, "encode_8: out is written in place, but it is read-only"),
    ("k.encode_feedback_8(fixed_v, coded)", ValueError, "encode_feedback_8: v is written in place, but it is read-only"),
    ("k.encode_8_sr(v, coded, seed=-1)", ValueError, "seed and stream must be integers in [0, 2^64), got seed=-1"),
    ("k.decode_add_8(coded, fixed_v)", ValueError, "decode_add_8: out is written in place, but it is read-only"),
    ("k.coded_bytes('7', 1)", ValueError, "coded_bytes: C must be one of 1, 2, 4, 8, 16, 16f, 32f, got '7'"),
    ("k.coded_bytes(8, 1)", TypeError, "coded_bytes: C must be one of 1, 2, 4, 8, 16, 16f, 32f, got 8"),
    ("k.coded_bytes('8', -1)", ValueError, "coded_bytes: n must lie in [0, 2^48), got -1"),
    ("k.encode_8_srx", AttributeError, "no kernel 'encode_8_srx'; those of encode are encode_1, encode_2, encode_2_sr"),
    ("k.decode_add_5", AttributeError, "no kernel 'decode_add_5'; those of decode_add are decode_add_1, decode_add_2"),
    ("lp.kernels('encode', D='8')", ValueError, "op: choose one of {dot, sdot, axpy, axpy_dot, saxpy}; got 'encode'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "fragment"), ERRORS, ids=[call for call, *_ in ERRORS])
def test_errors(call, error, fragment):
    v, coded = numbers(5, 0), np.zeros(9, np.uint8)
    fixed, fixed_v = coded.copy(), v.copy()
    fixed.flags.writeable = fixed_v.flags.writeable = False
    used = Codec("8")
    used.encode(v)
    names = {"Codec": Codec, "k": kernels, "lp": lp, "v": v, "coded": coded, "fixed": fixed, "fixed_v": fixed_v, "used": used}
    with pytest.raises(error, match=re.escape(fragment)):
        eval(call, names)
    assert not coded.any()
