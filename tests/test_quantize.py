"""quantize, dequantize, pack, and QuantizedArray, held to an oracle in plain Python: equality, on every instruction set."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import reference
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import lowprec as lp
from lowprec import _quantize
from lowprec.formats import FORMATS
from lowprec.quantized import QuantizedArray

ISAS = _quantize._isas()
BITS = (4, 8, 16)
TYPES = (np.float32, np.float64)
ROUNDINGS = ("nearest", "stochastic")
GUARD = 0xA5


# ---- codes, held to the oracle ---------------------------------------------------------------------------


def plain_code(t, T, bits, word):
    """The code of t, a T, before clipping; `word`: its 32-bit word, or None to round to nearest."""
    if word is None:
        return round(Fraction(float(t)))
    f = math.floor(float(t))
    frac = T(t) - T(f)
    return f + (Fraction(float(frac)) > Fraction(word >> 8, 2**24))


def plain_quantize(rows, inverse, T, bits, stochastic, seed=0, stream0=0):
    """(codes, clipped, first row with a NaN or an infinity). rows: lists of T; inverse: one T, or one for each column."""
    limit = 2 ** (bits - 1) - 1
    codes, clipped = [], 0
    stream = None
    for i, row in enumerate(rows):
        if i % 1024 == 0:
            stream = reference.Stream(seed, (stream0 + i // 1024) % 2**64)
        codes.append([])
        for j, a in enumerate(row):
            if j % 16 == 0 and stochastic:
                words = reference.words32(stream.block())
            if not math.isfinite(a):
                return codes[:-1], clipped, i
            with np.errstate(all="ignore"):
                t = T(a) * T(inverse[j] if np.ndim(inverse) else inverse)
            if math.isinf(t):
                code = limit + 1 if t > 0 else -limit - 1
            else:
                code = plain_code(t, T, bits, words[j % 16] if stochastic else None)
            clipped += not -limit <= code <= limit
            codes[-1].append(max(-limit, min(limit, code)))
    return codes, clipped, -1


def plain_bytes(codes, bits):
    """The bytes of one row."""
    return reference.pack(codes, str(bits)).tobytes() if codes else b""


def awkward(rng, shape, bits, T):
    """Numbers in units of a code: most of them in range, and what rounding could get wrong."""
    limit = 2 ** (bits - 1) - 1
    special = [0.0, -0.0, 0.5, -0.5, 1.5, -1.5, limit, -limit, limit - 0.5, 0.5 - limit, 1e-10, -1e-10, 2**-24, -(2**-24)]
    special += [limit + 0.5, -limit - 0.5, limit + 1, -limit - 1, 1e9, -1e9, 3e9, -3e9, 1e30, -1e30, 1e-40, -1e-40]
    values = rng.uniform(-limit, limit, shape)
    small = rng.random(shape) < 0.3
    values = np.where(small, rng.uniform(-2, 2, shape), values)
    # In the second half of the rows only: groups in which nothing is clipped take another path.
    chosen = (rng.random(shape) < 0.1) & (np.arange(shape[0]) >= shape[0] // 2)[:, None]
    return np.where(chosen, rng.choice(special, shape), values).astype(T)


def run_isa(isa, a, inverse, bits, stochastic, seed=0, stream0=0, *, stride, offset=0):
    """(bytes of the rows, clipped, bad row); checks that nothing beyond the rows was written."""
    n_rows, n = a.shape
    row_bytes = (n * bits + 7) // 8
    memory = np.full(offset + n_rows * stride + 200, GUARD, np.uint8)
    clipped, bad = _quantize.quantize_rows(a, memory[offset:], stride, bits, inverse, stochastic, seed, stream0, isa)
    rows = []
    untouched = memory == GUARD
    for i in range(n_rows):
        start = offset + i * stride
        rows.append(memory[start : start + row_bytes].tobytes())
        untouched[start : start + row_bytes] = True
    assert untouched.all(), f"{isa} wrote at {np.flatnonzero(~untouched)}"
    return rows, clipped, bad


def misaligned(a, elements, gap):
    """A copy of a two-dimensional array that starts `elements` past an aligned address, with `gap` elements between rows."""
    n_rows, n = a.shape
    memory = np.full(n_rows * (n + gap) + elements + 16, np.nan, a.dtype)  # NaN: reading past a row shows
    start = (-memory.ctypes.data % 64) // a.itemsize + elements
    view = memory[start : start + n_rows * (n + gap)].reshape(n_rows, n + gap)[:, :n]
    view[...] = a
    return view


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("T", TYPES)
@pytest.mark.parametrize("per_column", [False, True])
def test_codes_equal_the_oracle(rng, T, bits, rounding, per_column):
    stochastic = rounding == "stochastic"
    for n in [*range(71), 127, 128, 129]:
        scale = rng.uniform(0.25, 4.0, n if per_column else ())
        a = (awkward(rng, (4, n), bits, np.float64) * scale).astype(T)
        inverse = (1.0 / scale).astype(T) if per_column else T(1.0 / scale)
        a = misaligned(a, n % 9, n % 5)
        seed = int(rng.integers(2**63))
        codes, clipped, _ = plain_quantize(a.tolist(), inverse, T, bits, stochastic, seed, 3)
        wanted = [plain_bytes(row, bits) for row in codes]
        for isa in ISAS:
            stride = (n * bits + 7) // 8 + n % 3
            got = run_isa(isa, a, inverse, bits, stochastic, seed, 3, stride=stride, offset=n % 7)
            assert got == (wanted, clipped, -1), f"{isa}, n={n}, seed={seed}"


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("T", TYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_extremes(isa, T, bits, rounding):
    """Every special value in every lane of a vector, on both sides of the fast path."""
    info, limit = np.finfo(T), 2 ** (bits - 1) - 1
    special = [
        0.0,
        info.max,
        info.tiny,
        float(info.smallest_subnormal),
        1e-10,
        2.0**-25,
        2.0**31,
        2.0**31 - 128,
        2.0**32,
        2.0**63,
    ]
    for k in (0, 1, 2, limit - 1, limit, limit + 1, limit + 2, limit + 3, 2**15, 2**16, 2**23, 2**24):
        special += [float(np.nextafter(T(k), T(-np.inf))), k, float(np.nextafter(T(k), T(np.inf)))]
        special += [float(np.nextafter(T(k + 0.5), T(-np.inf))), k + 0.5, float(np.nextafter(T(k + 0.5), T(np.inf)))]
    special = [sign * value for value in special for sign in (1, -1)]
    a = np.zeros((len(special), 67), T)
    for i, value in enumerate(special):
        a[i, i % 67] = value
        a[i, (7 * i + 40) % 67] = value
    for inverse in (T(1), T(3), T(0.1)):
        codes, clipped, _ = plain_quantize(a.tolist(), inverse, T, bits, rounding == "stochastic", 11)
        row_bytes = (67 * bits + 7) // 8
        got = run_isa(isa, a, inverse, bits, rounding == "stochastic", 11, stride=row_bytes)
        assert got == ([plain_bytes(row, bits) for row in codes], clipped, -1)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("T", TYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_a_fraction_equal_to_its_word_is_not_rounded_up(isa, T, bits):
    """The boundary of frac > u, which random numbers never meet: numbers made from the words that they will meet."""
    seed, n = 21, 70
    stream = reference.Stream(seed, 0)
    words = [word for _ in range(5) for word in reference.words32(stream.block())][:n]
    equal = np.array([(word >> 8) * 2.0**-24 for word in words])
    rows = [np.nextafter(equal.astype(T), T(0)), equal, np.nextafter(equal.astype(T), T(1))]
    for row, ups in zip(rows, (0, 0, n), strict=True):
        a = np.array([row], T)
        codes, clipped, _ = plain_quantize(a.tolist(), T(1), T, bits, True, seed)
        assert sum(codes[0]) == ups
        stride = (n * bits + 7) // 8
        assert run_isa(isa, a, 1.0, bits, True, seed, stride=stride) == ([plain_bytes(codes[0], bits)], clipped, -1)
    if T is np.float64:  # float32 has no room for a whole part beside 24 bits of fraction
        a = np.array([equal - 3])
        codes, _, _ = plain_quantize(a.tolist(), T(1), T, bits, True, seed)
        assert codes == [[-3] * n]
        assert run_isa(isa, a, 1.0, bits, True, seed, stride=stride)[0] == [plain_bytes(codes[0], bits)]


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("T", TYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_not_finite_is_found_wherever_it_is(isa, T, bits, rounding):
    for bad in (np.nan, -np.nan, np.inf, -np.inf):
        for j in range(70):
            a = np.zeros((3, 70), T)
            a[1, j] = bad
            a[2, 0] = bad
            for inverse in (T(1), T(1e-30), np.full(70, 2, T)):
                _, _, row = run_isa(isa, a, inverse, bits, rounding == "stochastic", stride=140)
                assert row == 1, (bad, j)


@pytest.mark.parametrize("isa", ISAS)
def test_groups_of_rows_have_their_own_streams(isa, rng):
    a = awkward(rng, (2 * 1024 + 3, 5), 8, np.float32)
    codes, clipped, _ = plain_quantize(a.tolist(), np.float32(1), np.float32, 8, True, 9, 2**64 - 1)
    whole = run_isa(isa, a, np.float32(1), 8, True, 9, 2**64 - 1, stride=5)
    assert whole == ([plain_bytes(row, 8) for row in codes], clipped, -1)
    apart, total = [], 0
    for k in range(3):
        rows, part, _ = run_isa(isa, a[1024 * k : 1024 * (k + 1)], np.float32(1), 8, True, 9, (2**64 - 1 + k) % 2**64, stride=5)
        apart += rows
        total += part
    assert (apart, total, -1) == whole


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("n", [16, 48])
def test_rows_without_gaps(isa, rng, bits, rounding, n):
    """They are taken as one long row, up to the next group: the codes, and the bad row, must be what they are with gaps."""
    a = awkward(rng, (2100, n), bits, np.float32)
    apart = misaligned(a, 3, 5)
    stride = n * bits // 8
    stochastic = rounding == "stochastic"
    wanted = run_isa(isa, apart, 1.0, bits, stochastic, 6, stride=stride + 1)
    assert run_isa(isa, a, 1.0, bits, stochastic, 6, stride=stride) == wanted
    codes = np.zeros(2100 * stride, np.uint8)
    quantizer = _quantize.Quantizer(bits, stochastic, 6, 0, isa)
    for first, last in [(0, 1), (1, 1000), (1000, 1030), (1030, 2100)]:
        assert quantizer.rows(a[first:last], codes[first * stride :], stride, 1.0) == -1
    assert [row.tobytes() for row in codes.reshape(2100, stride)] == wanted[0]
    for bad in (0, 1, 1023, 1024, 1500, 2099):
        b = a.copy()
        b[bad, n - 1] = b[2099, 0] = np.nan
        assert run_isa(isa, b, 1.0, bits, stochastic, 6, stride=stride)[2] == bad


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", BITS)
def test_an_array_may_come_in_pieces(isa, bits, rng):
    a = awkward(rng, (2, 1000), bits, np.float32)
    stride = 1000 * bits // 8
    whole = run_isa(isa, a, np.float32(1), bits, True, 5, stride=stride)
    quantizer = _quantize.Quantizer(bits, True, 5, 0, isa)
    codes = np.zeros(2 * stride, np.uint8)
    for i in range(2):
        for first, last in [(0, 16), (16, 48), (48, 688), (688, 1000)]:
            piece, room = a[i : i + 1, first:last], codes[i * stride + first * bits // 8 :]
            assert quantizer.rows(piece, room, stride, 1.0, first > 0) == -1
    assert [codes[:stride].tobytes(), codes[stride:].tobytes()] == whole[0]
    assert quantizer.clipped == whole[1]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("T", TYPES)
def test_storing_past_the_cache_changes_nothing(isa, T, bits, rounding, rng):
    """At every alignment: where the stores cannot go past the cache they must not try."""
    a = awkward(rng, (4, 1000), bits, T)
    stride = 1024 * bits // 8
    results = []
    for past_cache in (False, True):
        for offset in (0, 1, 16, 32, 33):
            memory = np.full(4 * stride + 200, GUARD, np.uint8)
            start = -memory.ctypes.data % 64 + offset
            codes = memory[start : start + 4 * stride]
            quantizer = _quantize.Quantizer(bits, rounding == "stochastic", 8, 0, isa, past_cache)
            assert quantizer.rows(a, codes, stride, 1.0) == -1
            assert (memory[:start] == GUARD).all()
            assert (memory[start + 4 * stride :] == GUARD).all()
            results.append((codes.tobytes(), quantizer.clipped))
    assert len(set(results)) == 1


def test_a_large_array_is_quantized_like_its_rows(rng):
    """Large enough that the codes go past the cache, and that the array comes in pieces."""
    n = _quantize.PAST_CACHE_BYTES // 1024 + 3
    row = rng.uniform(-126, 126, n).astype(np.float32)
    a = np.broadcast_to(row, (1024, n))
    q = lp.quantize(a, "8", scale=1.0, rounding="nearest")
    assert q.nbytes >= _quantize.PAST_CACHE_BYTES
    assert (q.codes == np.rint(row).astype(np.int8)).all()


def test_the_driver_refuses_what_would_run_astray():
    a, codes = np.zeros((2, 4), np.float32), np.zeros(8, np.uint8)
    for bad in (
        lambda: _quantize.quantize_rows(a, codes[:7], 4, 8, 1.0, False),
        lambda: _quantize.quantize_rows(a, codes, 5, 8, 1.0, False),
        lambda: _quantize.quantize_rows(a, codes, 4, 8, np.ones(3, np.float32), False),
        lambda: _quantize.quantize_rows(a, codes, 4, 8, np.ones(4), False),
        lambda: _quantize.quantize_rows(a, codes, 4, 5, 1.0, False),
        lambda: _quantize.quantize_rows(a.T, codes, 4, 8, 1.0, False),
        lambda: _quantize.dequantize_rows(codes, 5, 2, 4, 8, 1.0, a),
        lambda: _quantize.dequantize_rows(codes, 4, 2, 4, 8, 1.0, a[:1]),
        lambda: _quantize.pack4_rows(np.zeros((2, 9), np.int8), codes, 5),
        lambda: _quantize.unpack4_rows(codes, 5, np.zeros((2, 9), np.int8)),
    ):
        with pytest.raises(ValueError, match=r"a:|codes:|bits:|out:|inv_scale:"):
            bad()


# ---- instruction sets ------------------------------------------------------------------------------------


def fresh_python(code, **env):
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("isa", ISAS)
def test_environment_forces_the_isa(isa):
    done = fresh_python("from lowprec import _quantize; print(_quantize._active_isa())", LOWPREC_ISA=isa)
    assert done.stdout.strip() == isa, done.stderr


def test_unknown_isa_is_an_import_error():
    done = fresh_python("from lowprec import _quantize", LOWPREC_ISA="mmx")
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: LOWPREC_ISA")
    assert "mmx" in last
    assert "base" in last
    with pytest.raises(ImportError, match=r"'mmx' is not built in or does not run on this CPU; .*: base"):
        _quantize.Quantizer(8, False, isa="mmx")


def test_the_best_isa_is_active():
    done = fresh_python("from lowprec import _quantize; print(_quantize._active_isa())", LOWPREC_ISA="")
    assert done.stdout.strip() == ISAS[-1], done.stderr


# ---- rounding --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.5, 0.3, -0.3, -1e-9, 1e-9, 2**-24, -(2**-24), 3 * 2**-26, 6.999999, -126.123456, 0.49999997])
def test_mean_over_all_words_is_exact(t):
    """Over all 2^24 random fractions the mean code is t to within 2^-24: exactly t where t is a multiple of 2^-24."""
    t = np.float32(t)
    f = np.floor(t)
    u = np.arange(2**24, dtype=np.float32) * np.float32(2**-24)
    ups = int(np.count_nonzero(t - f > u))
    exact = Fraction(float(t)) - math.floor(t)
    bias = abs(Fraction(ups, 2**24) - exact)
    assert bias == 0 if (exact * 2**24).denominator == 1 else bias < Fraction(1, 2**24)
    for count in {0, 1, max(ups - 1, 0), ups, min(ups, 2**24 - 1)}:  # the oracle agrees around the threshold
        assert plain_code(t, np.float32, 8, count << 8) == math.floor(t) + (count < ups)


@pytest.mark.parametrize("T", TYPES)
@pytest.mark.parametrize("bits", BITS)
def test_stochastic_rounding_is_unbiased(rng, bits, T):
    limit = 2 ** (bits - 1) - 1
    seed = int(rng.integers(2**63))
    for t in (2**-12, 0.25, 0.7, -0.3, limit - 0.5, -limit + 0.001):
        a = np.full((256, 4096), t, T)
        t = float(a[0, 0])
        codes = lp.quantize(a, bits, scale=1.0, seed=seed).unpacked().astype(np.int64)
        p = t - math.floor(t)
        error = math.sqrt(p * (1 - p) / a.size)
        assert abs(codes.mean() - t) <= 4 * error, f"t={t}, seed={seed}"
        assert set(np.unique(codes)) == {math.floor(t), math.floor(t) + 1}
        # No column and no row has a bias of its own: the largest of 4352 means, so 6 standard errors of each.
        for axis, count in ((0, 256), (1, 4096)):
            if p * count > 100:
                worst = abs(codes.mean(axis=axis) - t).max()
                assert worst <= 6 * math.sqrt(p * (1 - p) / count), f"t={t}, axis={axis}, seed={seed}"


def test_seeds_rows_and_groups_are_independent():
    n = 1 << 16
    a = np.full((1025, n // 64), 0.5, np.float32)
    first, second, far = (lp.quantize(a, "8", scale=1.0, seed=s).codes.astype(np.int64) for s in (0, 1, 2**63))
    half = 2 * first - 1
    bound = 4 / math.sqrt(half.size)
    for other in (second, far):
        assert abs((half * (2 * other - 1)).mean()) <= bound
    rows = half[:-1] * half[1:]
    assert abs(rows.mean()) <= 4 / math.sqrt(rows.size)
    assert abs((half[0] * half[1024]).mean()) <= 4 / math.sqrt(half.shape[1])  # the first rows of two groups
    columns = half[:, :-16] * half[:, 16:]  # successive blocks of words
    assert abs(columns.mean()) <= 4 / math.sqrt(columns.size)
    assert np.array_equal(first, lp.quantize(a, "8", scale=1.0, seed=0).codes)


# ---- types and layouts -----------------------------------------------------------------------------------

DTYPES = [np.float16, np.float32, np.float64, np.bool_]
DTYPES += [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]


def computed_in(dtype):
    narrow = np.dtype(dtype).kind in "biu" and np.dtype(dtype).itemsize <= 2
    return np.float32 if narrow or dtype in (np.float16, np.float32) else np.float64


def data(rng, dtype, shape):
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return rng.normal(0, 50, shape).astype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def layouts(a):
    """(name, the same numbers in another layout)."""
    yield "C", a
    yield "F", np.asfortranarray(a)
    wide = np.zeros((a.shape[0], 2 * a.shape[1]), a.dtype)
    wide[:, ::2] = a
    yield "every second column", wide[:, ::2]
    tall = np.zeros((3 * a.shape[0], a.shape[1]), a.dtype)
    tall[1::3] = a
    yield "every third row", tall[1::3]
    yield "rows reversed", np.ascontiguousarray(a[::-1])[::-1]
    yield "columns reversed", np.ascontiguousarray(a[:, ::-1])[:, ::-1]
    raw = np.zeros(a.nbytes + 1, np.uint8)
    raw[1:] = np.ascontiguousarray(a).reshape(-1).view(np.uint8)
    yield "unaligned", raw[1:].view(a.dtype).reshape(a.shape)
    read_only = a.copy()
    read_only.flags.writeable = False
    yield "read-only", read_only


@pytest.mark.parametrize("fmt", ["4", "8", "16", "32f"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_and_layout_gives_the_same_codes(rng, dtype, fmt):
    a = data(rng, dtype, (37, 50))
    T = computed_in(dtype)
    for scale in (None, "feature", 3.0):
        wanted = lp.quantize(a.astype(T), fmt, scale=scale, seed=4)
        for name, other in layouts(a):
            q = lp.quantize(other, fmt, scale=scale, seed=4)
            assert np.array_equal(q.scale, wanted.scale), name
            assert np.array_equal(q.codes, wanted.codes), name
            assert q.clipped == wanted.clipped, name
    if fmt != "32f":  # and they are the oracle's
        inverse = T(1 / 3.0)
        codes, clipped, _ = plain_quantize(a.astype(T).tolist(), inverse, T, int(fmt), True, 4)
        assert q.unpacked().tolist() == codes
        assert q.clipped == clipped


@pytest.mark.parametrize("shape", [(200_003,), (3, 70_001), (5000, 3), (1, 65_536), (9, 32_769)])
@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.float32])
def test_pieces_do_not_show(rng, dtype, shape, monkeypatch):
    """Shapes beyond one temporary: rows are cut, and the random words go on where they were."""
    a = data(rng, dtype, shape)
    T = computed_in(dtype)
    rows = a.astype(T).reshape((1, -1) if a.ndim == 1 else shape)
    for bits in BITS:
        stride = (shape[-1] * bits + 7) // 8
        for scale in (2.0, np.linspace(1, 2, shape[-1])):
            inverse = (1 / np.asarray(scale)).astype(T)
            wanted, clipped, _ = run_isa(ISAS[-1], rows, inverse, bits, True, 3, stride=stride)
            for piece in (1 << 24, 1 << 12):
                monkeypatch.setattr("lowprec.quantized._PIECE", piece)
                q = lp.quantize(a, bits, scale=scale, seed=3)
                codes = np.atleast_2d(q.codes)
                assert [row.tobytes() for row in codes] == wanted
                assert q.clipped == clipped


def test_codes_of_integers_come_out_exact():
    a = np.arange(-128, 128, dtype=np.int8)
    for rounding in ROUNDINGS:
        q = lp.quantize(a, "8", scale=1.0, rounding=rounding)
        assert np.array_equal(q.codes, np.maximum(a, -127))
        assert q.clipped == 1
        q = lp.quantize(a.astype(np.int64), "16", scale=1.0, rounding=rounding)
        assert np.array_equal(q.codes, a)
        assert q.clipped == 0


def test_a_memory_map_will_do(tmp_path, rng):
    a = rng.normal(size=(100, 33)).astype(np.float32)
    a.tofile(tmp_path / "a.bin")
    mapped = np.memmap(tmp_path / "a.bin", np.float32, "r", shape=a.shape)
    assert np.array_equal(lp.quantize(mapped, "8").codes, lp.quantize(a, "8").codes)
    codes = np.memmap(tmp_path / "c.bin", np.int8, "w+", shape=(10, 4))
    q = lp.from_codes(codes, "8")
    codes[3, 1] = 7
    assert q.codes[3, 1] == 7


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.float32, np.bool_])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("fmt", ["4", "8", "16", "32f"])
def test_no_copy_of_the_whole_array(dtype, order, fmt):
    a = np.zeros((1 << 12, 1 << 10), dtype, order)
    a[5, 5] = 1
    out = lp.quantize(a, fmt)
    for scale in (None, 2.0, "feature"):
        tracemalloc.start()
        lp.quantize(a, fmt, scale=scale, out=out)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3 << 19, f"{peak} bytes for an array of {a.nbytes}"


# ---- scales ----------------------------------------------------------------------------------------------


def test_scale_from_the_data():
    a = np.array([[1.0, -8.0, 0.0], [-3.0, 2.0, 0.0]], np.float32)
    assert lp.quantize(a, "8").scale == 8 / 127
    assert lp.quantize(a, "4").scale == 8 / 7
    assert lp.quantize(a, "16").scale == 8 / 32767
    assert lp.quantize(a, "32f").scale == 1.0
    assert lp.quantize(np.zeros(5), "8").scale == 1.0
    assert lp.quantize(a, "8", scale="feature").scale.tolist() == [3 / 127, 8 / 127, 1.0]
    assert lp.quantize(np.array([-128, 5], np.int8), "8").scale == 128 / 127
    assert lp.quantize(np.array([np.iinfo(np.int64).min, 5]), "8").scale == 2.0**63 / 127
    assert lp.quantize(np.array([np.iinfo(np.uint64).max], np.uint64), "8").scale == 2.0**64 / 127


def test_scales_at_the_ends_of_the_range():
    """1/scale is no normal float32 there: float64 takes over, also for float32 data."""
    tiny = np.array([3e-45, -1.4e-45, 0.0, 1.4e-45], np.float32)
    q = lp.quantize(tiny, "8", rounding="nearest")
    assert q.codes.tolist() == [127, -64, 0, 64]
    huge = np.array([3e38, -1e38, 0.0], np.float32)
    assert lp.quantize(huge, "8", rounding="nearest").codes.tolist() == [127, -42, 0]
    assert lp.quantize(huge, "8", scale=1e40, rounding="nearest").codes.tolist() == [0, 0, 0]
    denormal = np.array([1e-310, -1e-320])
    assert lp.quantize(denormal, "8", rounding="nearest").scale == sys.float_info.min
    big = np.array([1.7e308, -1.7e308])
    assert lp.quantize(big, "4", rounding="nearest").codes.tolist() == lp.pack([7, -7], "4").tolist()


# ---- the array -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", ["4", "8", "16", "32f"])
@pytest.mark.parametrize("n", [1, 2, 3, 15, 16, 60, 63, 64, 65, 127, 128, 959, 961, 1000, 1021, 2049])
def test_layout(rng, fmt, n):
    q = lp.quantize(rng.normal(size=(5, n)), fmt, scale=0.01)
    row_bytes = FORMATS[fmt].row_bytes(n)
    whole = (row_bytes + 63) // 64 * 64
    assert q.row_stride == (whole if (whole - row_bytes) * 16 <= row_bytes else row_bytes)
    assert q.buffer.ctypes.data % 64 == 0
    assert q.buffer.size == q.nbytes == 5 * q.row_stride
    padding = q.buffer.reshape(5, q.row_stride)[:, row_bytes:]
    assert not padding.any()
    if fmt == "4" and n % 2:
        assert not (q.codes[:, -1] >> 4).any()
    assert q.codes.dtype == FORMATS[fmt].dtype
    assert q.codes.shape == (5, (n + 1) // 2 if fmt == "4" else n)
    assert q.codes.base is not None
    assert q.unpacked().shape == (5, n)
    assert q.shape == (5, n)
    assert (q.ndim, q.size, len(q)) == (2, 5 * n, 5)


def test_one_dimension():
    q = lp.quantize([1.0, -2.0, 0.5], "4", scale=0.5, rounding="nearest")
    assert q.shape == (3,)
    assert q.codes.tolist() == [0xC2, 0x01]
    assert q.unpacked().tolist() == [2, -4, 1]
    assert q.row_stride == 2
    assert len(q) == 3


@pytest.mark.parametrize("fmt", ["4", "8", "16", "32f"])
def test_rows_are_views(rng, fmt):
    q = lp.quantize(rng.normal(size=(20, 33)), fmt, scale=0.1)
    whole = q.unpacked()
    for key in (0, 19, -1, -20, np.int64(7), slice(None), slice(3, 5), slice(1, None, 3), slice(-4, None), slice(2, 3)):
        part = q[key]
        assert np.array_equal(part.unpacked(), whole[key]), key
        assert np.shares_memory(part.buffer, q.buffer)
        assert part.scale == q.scale
    assert np.array_equal(q[2:18:3][1:4:2][1].unpacked(), whole[2:18:3][1:4:2][1])
    q[4].codes[...] = 1
    assert np.array_equal(q.codes[4], np.ones_like(q.codes[4]))
    assert [row.shape for row in q] == [(33,)] * 20


@pytest.mark.parametrize("fmt", ["4", "8", "16", "32f"])
@pytest.mark.parametrize("shape", [(7,), (6, 61)])
def test_pickle_and_copy(rng, fmt, shape):
    q = lp.quantize(rng.normal(size=shape), fmt, scale=0.2)
    if len(shape) == 2:
        q = q[::2]
    for other in (pickle.loads(pickle.dumps(q)), q.copy()):
        for name in ("format", "shape", "scale", "clipped"):
            assert getattr(other, name) == getattr(q, name)
        assert np.array_equal(other.codes, q.codes)
        assert not np.shares_memory(other.buffer, q.buffer)
        assert other.buffer.ctypes.data % 64 == 0


def test_numpy_sees_the_numbers():
    q = lp.from_codes(np.array([[1, -2], [3, 4]], np.int8), "8", scale=0.5)
    assert np.asarray(q).dtype == np.float32
    assert np.asarray(q).tolist() == [[0.5, -1.0], [1.5, 2.0]]
    assert np.asarray(q, np.float64).dtype == np.float64
    assert np.asarray(q, np.int32).tolist() == [[0, -1], [1, 2]]
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(q, copy=False)


def test_repr_says_what_it_is():
    text = repr(lp.from_codes(np.zeros((2, 3), np.int8), "8", 0.5))
    assert text == "QuantizedArray(shape=(2, 3), format='8', scale=0.5)"
    text = repr(lp.quantize([[1.0, 9.0]], "8", scale=[1.0, 0.01], rounding="nearest"))
    assert text == "QuantizedArray(shape=(1, 2), format='8', scale=<one for each of 2 columns>, clipped=1)"


# ---- out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", ["4", "8", "16", "32f"])
def test_out_is_filled_in_place(rng, fmt):
    a = rng.normal(size=(300, 1000)).astype(np.float32)
    wanted = lp.quantize(a, fmt, scale=0.01, seed=1)
    out = lp.quantize(a * 3, fmt, scale=0.02)
    address = out.buffer.ctypes.data
    tracemalloc.start()
    result = lp.quantize(a, fmt, scale=0.01, seed=1, out=out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result is out
    assert out.buffer.ctypes.data == address
    assert peak < (1 << 20 if fmt == "32f" else 1 << 14), peak
    assert np.array_equal(out.codes, wanted.codes)
    assert (out.scale, out.clipped) == (wanted.scale, wanted.clipped)


def test_out_may_be_borrowed(rng):
    memory = np.full((4, 10), 99, np.int8)
    out = lp.from_codes(memory[:, 2:7], "8")
    a = rng.normal(size=(4, 5))
    lp.quantize(a, "8", seed=2, out=out)
    assert np.array_equal(memory[:, 2:7], lp.quantize(a, "8", seed=2).codes)
    assert (memory[:, :2] == 99).all()
    assert (memory[:, 7:] == 99).all()


# ---- 32f -------------------------------------------------------------------------------------------------


def test_32f_rounds_once_and_clips():
    a = np.array([0.1, -1e300, 1e300, 3.5e38, 1e-50])
    q = lp.quantize(a, "32f")
    largest = np.finfo(np.float32).max
    assert q.codes.tolist() == [np.float32(0.1), -largest, largest, largest, 0.0]
    assert (q.clipped, q.scale) == (3, 1.0)
    a = np.array([[0.1, 7.0]], np.float32)
    assert np.array_equal(lp.quantize(a, "32f").codes, a)
    wanted = a * np.array([2, np.float32(1 / 3)], np.float32)
    assert np.array_equal(lp.quantize(a, "32f", scale=[0.5, 3.0]).codes, wanted)
    assert lp.quantize(np.array([3e38], np.float32), "32f", scale=0.1).clipped == 1


# ---- dequantize ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("fmt", ["4", "8", "16", "32f"])
def test_dequantize_is_one_product_rounded_once(rng, fmt, dtype, per_column):
    for shape in [(1,), (3, 1), (5, 67), (2, 40_001)]:
        q = lp.quantize(rng.normal(size=shape), fmt, scale=0.01)
        scale = rng.uniform(1e-3, 1, shape[-1]) if per_column else 0.0123
        q = lp.from_codes(q.codes, fmt, scale, shape)
        with np.errstate(over="ignore"):
            wanted = (q.unpacked().astype(np.float64) * scale).astype(dtype)
        got = lp.dequantize(q, dtype)
        assert got.dtype == dtype
        assert np.array_equal(got, wanted)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("T", TYPES)
def test_dequantize_on_every_isa(isa, bits, T, rng):
    for n in range(71):
        row_bytes = (n * bits + 7) // 8
        memory = rng.integers(0, 256, 3 + 4 * (row_bytes + 1), np.uint8)
        codes = []
        for i in range(4):
            row = memory[3 + i * (row_bytes + 1) :][:row_bytes].view(FORMATS[str(bits)].dtype)
            codes.append(reference.unpack(row, str(bits), n))
        out = np.full((4, n + 3), 77, T)
        _quantize.dequantize_rows(memory[3:], row_bytes + 1, 4, n, bits, 0.3, out[:, :n], isa)
        wanted = np.array([[T(float(c) * 0.3) for c in row] for row in codes], T).reshape(4, n)
        assert np.array_equal(out[:, :n], wanted)
        assert (out[:, n:] == 77).all()


# ---- pack and from_codes ---------------------------------------------------------------------------------


def test_pack_every_pair_of_nibbles():
    pairs = np.array([(lo, hi) for hi in range(-8, 8) for lo in range(-8, 8)])
    packed = lp.pack(pairs, "4")
    assert packed.dtype == np.uint8
    assert sorted(packed.ravel().tolist()) == list(range(256))
    assert [reference.unpack(row, "4", 2) for row in packed] == pairs.tolist()
    assert lp.from_codes(packed, "4", shape=(256, 2)).unpacked().tolist() == pairs.tolist()


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint64])
def test_pack_from_any_integer_type(rng, dtype):
    low = 0 if np.dtype(dtype).kind == "u" else -8
    for shape in [(1,), (7,), (3, 1), (4, 33), (3, 70_001)]:
        codes = rng.integers(low, 8, shape).astype(dtype)
        packed = lp.pack(codes, "4")
        wanted = [reference.pack(row.tolist(), "4").tolist() for row in np.atleast_2d(codes)]
        assert np.atleast_2d(packed).tolist() == wanted
        assert np.array_equal(lp.from_codes(packed, "4", shape=shape).unpacked(), codes.astype(np.int8))
        assert np.array_equal(lp.pack(codes[..., ::-1], "8"), codes[..., ::-1])
        assert lp.pack(codes, "16").dtype == np.int16


def test_from_codes_borrows(rng):
    base = rng.integers(-128, 128, (12, 40)).astype(np.int8)
    for view in (base, base[::2], base[3:5], base[:, 5:20], base[1::4, 7:8]):
        q = lp.from_codes(view, "8", scale=2.0)
        assert np.array_equal(q.codes, view)
        assert np.shares_memory(q.buffer, base)
        assert q.row_stride == view.strides[0]
        assert q.buffer.ctypes.data == view.ctypes.data
        assert q.buffer.size == (len(view) - 1) * view.strides[0] + view.shape[1]
    base[4, 6] = 55
    assert lp.from_codes(base[:, 5:20], "8").codes[4, 1] == 55
    wide = rng.integers(-(2**15), 2**15, (6, 10)).astype(np.int16)
    assert np.array_equal(lp.from_codes(wide[:, 3:], "16").codes, wide[:, 3:])
    floats = rng.normal(size=(3, 8)).astype(np.float32)
    assert np.shares_memory(lp.from_codes(floats, "32f").codes, floats)
    read_only = base.copy()
    read_only.flags.writeable = False
    assert not lp.from_codes(read_only, "8").buffer.flags.writeable
    windows = np.lib.stride_tricks.sliding_window_view(base[0], 7)
    assert np.array_equal(lp.from_codes(windows, "8").codes, windows)


def test_from_codes_keeps_its_memory_alive():
    q = lp.from_codes(np.arange(100, dtype=np.int8).reshape(10, 10)[:, 2:], "8")
    np.full(100, 1, np.int8)
    assert q.codes[9, 7] == 99


def test_from_codes_packs_and_converts():
    codes = np.array([[1, -8, 7], [0, 5, -1]], np.int8)
    q = lp.from_codes(codes, "4", 0.5)
    assert q.unpacked().tolist() == codes.tolist()
    assert not np.shares_memory(q.buffer, codes)
    flat = lp.pack(codes, "4").reshape(-1)
    assert lp.from_codes(flat, "4", shape=(2, 3)).unpacked().tolist() == codes.tolist()
    assert lp.from_codes(lp.pack(codes, "4"), 4, shape=(2, 3)).format == FORMATS["4"]
    assert lp.from_codes([1, -2], "16").codes.dtype == np.int16
    assert lp.from_codes([[1.5, 2]], "32f").codes.tolist() == [[1.5, 2.0]]
    assert lp.from_codes([3, -4], "4", shape=2).unpacked().tolist() == [3, -4]


# ---- errors ----------------------------------------------------------------------------------------------

A = np.zeros((2, 3), np.float32)
Q = lp.quantize(A, "8")


def _at(offset, size):
    """Memory that starts `offset` bytes past an aligned address."""
    memory = np.zeros(size + 64, np.uint8)
    return memory[-memory.ctypes.data % 64 + offset :][:size]



def with_nan(row, column, dtype=np.float32, bad=np.nan):
    a = np.zeros((5, 40), dtype)
    a[row, column] = bad
    return a


ERRORS = [
    (lambda: lp.quantize(np.zeros((0, 3)), "8"), ValueError, "a: must not be empty"),
    (lambda: lp.quantize(np.zeros((3, 0)), "8"), ValueError, "a: must not be empty"),
    (lambda: lp.quantize(1.0, "8"), ValueError, "a: must be one or two-dimensional"),
    (lambda: lp.quantize(np.zeros((2, 2, 2)), "8"), ValueError, "a: must be one or two-dimensional; got shape (2, 2, 2)"),
    (lambda: lp.quantize(np.zeros(3, complex), "8"), TypeError, "a: expected float16"),
    (lambda: lp.quantize(np.zeros(3, object), "8"), TypeError, "a: expected float16"),
    (lambda: lp.quantize(["x"], "8"), TypeError, "a: expected float16"),
    (lambda: lp.quantize(np.zeros(3, np.longdouble), "8"), TypeError, "a: expected float16"),
    (lambda: lp.quantize(with_nan(3, 7), "8"), ValueError, "a: every value must be finite; got nan in row 3, column 7"),
    (lambda: lp.quantize(with_nan(3, 7), "8", scale=1.0), ValueError, "got nan in row 3, column 7"),
    (lambda: lp.quantize(with_nan(2, 39, np.float16, np.inf), "4", scale=1.0), ValueError, "got inf in row 2, column 39"),
    (lambda: lp.quantize(with_nan(0, 0, np.float64, -np.inf), "16"), ValueError, "got -inf in row 0, column 0"),
    (lambda: lp.quantize(with_nan(4, 1).T, "16", scale=1.0), ValueError, "got nan in row 1, column 4"),
    (lambda: lp.quantize(with_nan(4, 1), "8", scale="feature"), ValueError, "got nan in row 4, column 1"),
    (lambda: lp.quantize(with_nan(1, 2), "32f"), ValueError, "got nan in row 1, column 2"),
    (lambda: lp.quantize(A, "5"), ValueError, "fmt: choose one of {4, 8, 16, 32f}; got '5'"),
    (lambda: lp.quantize(A, 8.0), TypeError, "fmt: expected a Format"),
    (lambda: lp.quantize(A, "8", scale=0), ValueError, "scale: must be finite and positive; got 0"),
    (lambda: lp.quantize(A, "8", scale=-1.0), ValueError, "scale: must be finite and positive"),
    (lambda: lp.quantize(A, "8", scale=np.nan), ValueError, "scale: must be finite and positive"),
    (lambda: lp.quantize(A, "8", scale=1e-320), ValueError, "scale: must not be so small"),
    (lambda: lp.quantize(A, "8", scale=[1.0, 2.0]), ValueError, "scale: must have one value for each of the features, 3"),
    (lambda: lp.quantize(A, "8", scale=[1.0, 0.0, 1.0]), ValueError, "scale: every value must be positive"),
    (lambda: lp.quantize(A, "8", scale="row"), ValueError, "scale: choose one of {feature}; got 'row'"),
    (lambda: lp.quantize(A[0], "8", scale="feature"), ValueError, "scale: 'feature' needs a two-dimensional array"),
    (lambda: lp.quantize(A, "8", rounding="up"), ValueError, "rounding: choose one of"),
    (lambda: lp.quantize(A, "8", seed=-1), ValueError, "seed: must be an integer in [0, 2**64)"),
    (lambda: lp.quantize(A, "8", seed=2**64), ValueError, "seed: must be an integer in [0, 2**64)"),
    (lambda: lp.quantize(A, "8", seed=1.5), TypeError, "seed: expected an integer"),
    (lambda: lp.quantize(A, "8", out=A), TypeError, "out: expected a QuantizedArray"),
    (lambda: lp.quantize(A, "16", out=Q), ValueError, "out: must have format 16 and shape (2, 3); got format 8"),
    (lambda: lp.quantize(A[0], "8", out=Q), ValueError, "out: must have format 8 and shape (3,)"),
    (
        lambda: lp.quantize(A, "8", out=lp.from_codes(np.broadcast_to(np.int8(1), (2, 3)).copy()[:, ::-1], "8")),
        ValueError,
        "codes: the codes of a row must be contiguous",
    ),
    (
        lambda: lp.quantize(np.zeros((2, 8), np.int8), "8", out=lp.from_codes(bytes_read_only(), "8")),
        ValueError,
        "out: must be writable",
    ),
    (lambda: share_memory(), ValueError, "out: must not share memory with a"),
    (lambda: overlapping(), ValueError, "out: rows of 7 bytes must not overlap"),
    (lambda: lp.dequantize(A), TypeError, "q: expected a QuantizedArray"),
    (lambda: lp.dequantize(Q, np.int8), TypeError, "dtype: expected float16, float32 or float64; got int8"),
    (lambda: lp.dequantize(Q, "nonsense"), TypeError, "dtype: expected float16"),
    (lambda: lp.pack([1, 8], "4"), ValueError, "codes: format 4 holds codes in [-8, 7]; got 8 in row 0, column 1"),
    (lambda: lp.pack([[0, 0], [-129, 0]], "8"), ValueError, "codes: format 8 holds codes in [-128, 127]; got -129 in row 1"),
    (lambda: lp.pack([0.5], "8"), TypeError, "codes: expected integer codes"),
    (lambda: lp.pack([1], "32f"), ValueError, "fmt: integer codes are packed to one of {4, 8, 16}; got 32f"),
    (lambda: lp.from_codes(np.zeros(3, np.int16), "8"), TypeError, "codes: expected an array of int8 for format 8"),
    (lambda: lp.from_codes(np.zeros(3, np.uint8), "8"), TypeError, "codes: expected an array of int8"),
    (lambda: lp.from_codes(np.zeros(3), "32f"), TypeError, "codes: expected an array of float32"),
    (lambda: lp.from_codes([0.5], "8"), TypeError, "codes: expected integer codes for format 8"),
    (lambda: lp.from_codes(np.zeros(3, np.int32), "4"), TypeError, "codes: expected packed codes of uint8, or int8 codes"),
    (lambda: lp.from_codes(np.array([9], np.int8), "4"), ValueError, "codes: format 4 holds codes in [-8, 7]; got 9"),
    (lambda: lp.from_codes([300], "8"), ValueError, "codes: format 8 holds codes in [-128, 127]; got 300"),
    (lambda: lp.from_codes(np.zeros(3, np.uint8), "4"), ValueError, "shape: packed 4-bit codes need shape"),
    (lambda: lp.from_codes(np.zeros(3, np.uint8), "4", shape=4), ValueError, "shape: codes of shape (3,) do not make (4,)"),
    (lambda: lp.from_codes(np.zeros(3, np.int8), "8", shape=4), ValueError, "shape: codes of shape (3,) do not make (4,)"),
    (lambda: lp.from_codes([1, 2], "8", shape=(3,)), ValueError, "shape: must be that of codes, (2,); got (3,)"),
    (lambda: lp.from_codes([1, 2], "8", shape=(0,)), ValueError, "shape: must not be empty"),
    (lambda: lp.from_codes([1, 2], "8", shape=(1, 1, 2)), ValueError, "shape: must be (n,) or (rows, n)"),
    (lambda: lp.from_codes([1, 2], "8", shape="2"), TypeError, "shape: expected a tuple"),
    (
        lambda: lp.from_codes(np.array([0xF1], np.uint8), "4", shape=1),
        ValueError,
        "codes: the unused high nibble at the end of an odd row must be zero; got 0xf1 in row 0",
    ),
    (lambda: lp.from_codes(np.zeros((2, 4), np.int8)[:, ::2], "8"), ValueError, "codes: the codes of a row must be contiguous"),
    (lambda: lp.from_codes(np.zeros((4, 2), np.int8)[::-1], "8"), ValueError, "codes: rows must follow each other in memory"),
    (lambda: lp.from_codes(np.zeros((4, 2), np.int8, "F"), "8"), ValueError, "codes: the codes of a row must be contiguous"),
    (lambda: lp.from_codes(np.broadcast_to(np.zeros(3, np.int8), (4, 3)), "8"), ValueError, "rows must follow each other"),
    (lambda: lp.from_codes(np.zeros(5, np.uint8)[1:].view(np.int16), "16"), ValueError, "codes: must be aligned to 2 bytes"),
    (lambda: lp.from_codes(np.zeros(3, np.int8), "8", scale=0), ValueError, "scale: must be finite and positive"),
    (lambda: Q[2], IndexError, "row 2 is out of range; there are 2 rows"),
    (lambda: Q[-3], IndexError, "row -3 is out of range"),
    (lambda: Q[::-1], ValueError, "positive step only"),
    (lambda: Q[2:], ValueError, "selects none of the 2 rows"),
    (lambda: Q[0, 1], TypeError, "QuantizedArray: index: expected an integer or a slice of rows"),
    (lambda: Q[0][0], TypeError, "a one-dimensional array has none"),
    (lambda: QuantizedArray(np.zeros(5, np.uint8), "8", 1.0, (2, 3)), ValueError, "buffer: must hold at least 6 bytes"),
    (lambda: QuantizedArray(_at(1, 30), "16", 1.0, (2, 3)), ValueError, "buffer: every row of format 16 must be aligned to 2"),
    (lambda: QuantizedArray(_at(0, 30), "16", 1.0, (2, 3), 9), ValueError, "buffer: every row of format 16 must be aligned to 2"),
    (lambda: QuantizedArray(_at(0, 40), "32f", 1.0, (2, 3), 14), ValueError, "every row of format 32f must be aligned to 4"),
    (lambda: QuantizedArray(np.zeros(6), "8", 1.0, (2, 3)), TypeError, "buffer: expected an array of uint8"),
    (lambda: QuantizedArray(np.zeros(12, np.uint8)[::2], "8", 1.0, (2, 3)), ValueError, "buffer: must be one-dimensional and"),
    (lambda: QuantizedArray(np.zeros(6, np.uint8), "8", 1.0, (2, 3), 0), ValueError, "row_stride: must be at least 1"),
]


def bytes_read_only():
    codes = np.zeros((2, 8), np.int8)
    codes.flags.writeable = False
    return codes


def share_memory():
    codes = np.zeros((2, 8), np.int8)
    return lp.quantize(codes, "8", out=lp.from_codes(codes, "8"))


def overlapping():
    windows = np.lib.stride_tricks.sliding_window_view(np.zeros(20, np.int8), 7, writeable=True)
    return lp.quantize(np.zeros((14, 7)), "8", out=lp.from_codes(windows, "8"))


@pytest.mark.parametrize(("call", "error", "fragment"), ERRORS, ids=[f"{i}-{e[2]}" for i, e in enumerate(ERRORS)])
def test_errors(call, error, fragment):
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert fragment in str(caught.value)


def test_a_bad_row_is_named_across_pieces():
    for dtype, shape, row in [(np.float16, (5000, 40), 4321), (np.float32, (3, 100_000), 2), (np.float16, (3, 200_000), 1)]:
        a = np.zeros(shape, dtype)
        a[row, -1] = np.nan
        for scale in (None, 1.0, "feature"):
            with pytest.raises(ValueError, match=f"got nan in row {row}, column {shape[1] - 1}"):
                lp.quantize(a, "8", scale=scale)


# ---- properties ------------------------------------------------------------------------------------------

arrays = hnp.arrays(
    st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int32, np.uint16]),
    hnp.array_shapes(min_dims=1, max_dims=2, max_side=40),
    elements={"allow_nan": False, "allow_infinity": False},
)


@given(a=arrays, fmt=st.sampled_from(["4", "8", "16"]), rounding=st.sampled_from(ROUNDINGS), seed=st.integers(0, 2**64 - 1))
@example(a=np.array([5e-324]), fmt="16", rounding="nearest", seed=0)
def test_a_code_is_within_a_step_of_its_number(a, fmt, rounding, seed):
    for scale in (None, "feature") if a.ndim == 2 else (None,):
        q = lp.quantize(a, fmt, scale=scale, rounding=rounding, seed=seed)
        codes = q.unpacked().astype(np.float64)
        assert abs(codes).max() <= FORMATS[fmt].max_code
        # In units of a step; the products in T may each be off by an ulp of the largest code.
        T = computed_in(a.dtype.type)
        slack = 4 * FORMATS[fmt].max_code * np.finfo(T).eps
        exact = a.astype(np.float64) / q.scale
        assert abs(codes - exact).max() <= (0.5 if rounding == "nearest" else 1.0) + slack
        rows = np.atleast_2d(a.astype(T))
        with np.errstate(over="ignore", under="ignore"):
            inverse = (1 / np.asarray(q.scale)).astype(T)
        limits = np.finfo(T)
        if (inverse >= limits.tiny).all() and (inverse <= limits.max).all():
            plain, clipped, _ = plain_quantize(rows.tolist(), inverse, T, int(fmt), rounding == "stochastic", seed)
            assert np.atleast_2d(q.unpacked()).tolist() == plain
            assert q.clipped == clipped


@given(
    codes=hnp.arrays(np.int8, hnp.array_shapes(min_dims=1, max_dims=2, max_side=80), elements=st.integers(-8, 7)),
    scale=st.floats(1e-30, 1e30),
)
def test_codes_survive_a_round_trip(codes, scale):
    for fmt in ("4", "8", "16"):
        q = lp.from_codes(lp.pack(codes, fmt), fmt, scale, codes.shape)
        assert np.array_equal(q.unpacked(), codes)
        numbers = lp.dequantize(q, np.float64)
        again = lp.quantize(numbers, fmt, scale=scale, rounding="nearest")
        assert np.array_equal(again.unpacked(), np.maximum(codes.astype(int), -FORMATS[fmt].max_code))
