"""Every row of the matrix, on every ISA that this machine runs, against the oracle: equality, to the last bit."""

from __future__ import annotations

import itertools
import os
import pickle
import struct
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import reference as R
from hypothesis import given, settings
from hypothesis import strategies as st

from lowprec import kernels

RUNNABLE = [name for name, runnable in kernels._isas() if runnable]
ROWS = [row for isa in RUNNABLE for row in kernels._table(isa) if row.index is None]  # sparse: test_sparse_kernels.py
UPDATES = [row for row in ROWS if row.op != "dot"]
DOTS = [row for row in ROWS if row.op != "axpy"]

# The widest step of a kernel's loop is 64 elements. Beyond twice that, powers of two and their neighbors; the partial
# sums are flushed every 4096 elements.
WIDEST = 64
LENGTHS = [*range(2 * WIDEST + 2), *(2**k + d for k in range(8, 14) for d in (-1, 0, 1))]
GUARD = 128
PATTERN = 0xA5


def ident(row):
    return f"{row.name}_{row.isa}"


def every(rows):
    return pytest.mark.parametrize("row", rows, ids=ident)


# ---- placing operands, calling, comparing -------------------------------------------------------------------


class Operand:
    """An array at a byte offset from a 64-byte boundary, between guard bytes."""

    def __init__(self, array, offset):
        self.arena = np.full(array.nbytes + offset + 2 * GUARD + 64, PATTERN, dtype=np.uint8)
        address = self.arena.__array_interface__["data"][0]
        start = -address % 64 + GUARD + offset
        self.inside = slice(start, start + array.nbytes)
        self.array = self.arena[self.inside].view(array.dtype)
        self.array[:] = array
        self.before = array.tobytes()

    def check_guards(self, name):
        assert (self.arena[: self.inside.start] == PATTERN).all(), f"bytes before {name} were written"
        assert (self.arena[self.inside.stop :] == PATTERN).all(), f"bytes after {name} were written"

    def check_unchanged(self, name):
        self.check_guards(name)
        assert self.array.tobytes() == self.before, f"{name} was written"


def same_float(a, b):
    return struct.pack("<d", a) == struct.pack("<d", b) or (a != a and b != b)


def same_codes(a, b):
    if a.dtype != np.float32:
        return np.array_equal(a, b)
    return bool(((a.view(np.int32) == b.view(np.int32)) | (np.isnan(a) & np.isnan(b))).all())


def check(row, *, x, w, n=None, m=0.0, x_next=None, words=None, seed=0, stream=0, offsets=(0, 0, 0), oracle=R.sweep_kernel):
    """Call the row on codes and compare w, the sum and everything around them with the oracle."""
    n = len(x) if n is None else n
    wide = row.D == "32f"
    case = f"{ident(row)}: n={n}, m={m!r}, seed={seed}, stream={stream}, offsets={offsets}"
    align = {"4": 1, "8": 1, "16": 2, "32f": 4}
    place = {
        "x": Operand(R.sweep_pack(x, row.D), offsets[0] // align[row.D] * align[row.D]),
        "w": Operand(R.sweep_pack(w, row.M), offsets[1] // align[row.M] * align[row.M]),
    }
    arguments = [place["x"].array, place["w"].array]
    if row.op != "dot":
        arguments.insert(0, m)
    if row.op == "axpy_dot":
        place["x_next"] = Operand(R.sweep_pack(x_next, row.D), offsets[2] // align[row.D] * align[row.D])
        arguments.append(place["x_next"].array)
    if row.rounding == "srb":
        place["words"] = Operand(words.astype(np.uint32 if wide else np.uint16), offsets[2] // 4 * 4)
        arguments.append(place["words"].array)
    keywords = {"n": n}
    if row.rounding != "nearest":
        keywords |= {"seed": seed, "stream": stream}

    result = row(*arguments, **keywords)

    expected_w, expected = oracle(row.op, row.D, row.M, row.rounding, x=x, w=w, n=n, m=m, x_next=x_next, words=words, seed=seed,
                                  stream=stream)  # fmt: skip
    for name in place.keys() - {"w"}:
        place[name].check_unchanged(name)
    if row.op == "dot":
        place["w"].check_unchanged("w")
    else:
        place["w"].check_guards("w")
        got = R.sweep_unpack(place["w"].array, row.M, len(w))
        whole = np.asarray(w).copy()  # elements past n stay as they were
        whole[:n] = expected_w
        if not same_codes(got, whole):
            j = np.flatnonzero(~((got == whole) | (np.isnan(got) & np.isnan(whole))))
            raise AssertionError(f"{case}: w differs at {j[:8]} of {len(j)}: x {x[j[:8] % len(x)]}, w {w[j[:8]]}, "
                                 f"got {got[j[:8]]}, expected {whole[j[:8]]}")  # fmt: skip
        if row.M == "4" and len(w) % 2:
            assert place["w"].array[-1] >> 4 == 0, f"{case}: the odd tail nibble is not zero"
    if row.op == "axpy":
        assert result is None, case
    elif "32f" in (row.D, row.M):
        assert type(result) is float, case
        assert same_float(result, expected), f"{case}: got {result!r}, expected {expected!r}"
    else:
        assert type(result) is int, case
        assert result == expected, f"{case}: got {result}, expected {expected}"


# ---- values -------------------------------------------------------------------------------------------------

SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 1.1e-38, 0.25, -0.25, 0.5, -0.5, 1.0, -1.0, 1.5, 2.5, 126.5, -127.5, 32767.5,
           65534.0, -65535.0, 1e30, -1e30, np.inf, -np.inf, np.nan]  # fmt: skip


def data_codes(rng, D, n, kind="random"):
    """Codes of data; kinds: random, ends, min, max, least (-max), zero."""
    if D == "32f":
        constant = {"min": -3e38, "max": 3e38, "least": -1.0, "zero": 0.0}
        if kind in constant:
            return np.full(n, constant[kind], dtype=np.float32)
        if kind == "ends":
            return rng.choice(np.array(SPECIAL, dtype=np.float32), n)
        return (rng.standard_normal(n) * rng.choice([1e-3, 1, 1, 300], n)).astype(np.float32)
    lo, hi = R.min_code(D), R.max_code(D)
    constant = {"min": lo, "max": hi, "least": -hi, "zero": 0}
    if kind in constant:
        return np.full(n, constant[kind], dtype=np.int64)
    if kind == "ends":
        return rng.choice(np.array([lo, -hi, -1, 0, 1, hi]), n)
    return rng.integers(lo, hi, n, endpoint=True)


def model_codes(rng, M, n, kind="random"):
    """Codes of a model: symmetric."""
    if M == "32f":
        return data_codes(rng, M, n, kind)
    return np.maximum(data_codes(rng, M, n, kind), -R.max_code(M))


def random_words(rng, D, n, kind="random"):
    bits = 32 if D == "32f" else 16
    if kind == "ends":
        return rng.choice(np.array([0, 1, 255, 256, 2**15 - 1, 2**15, 2**bits - 256, 2**bits - 1], dtype=np.int64), n)
    return rng.integers(0, 2**bits, n)


def integer_steps(M):
    """Steps m, both signs, that reach every way a kernel may take: each size of mu, every e, each side of each boundary."""
    small = [0, 1, 2, 3, 5, 15, 64, 127, 255, 256, 257, 300, 511, 512, 513, 1000, 4095, 4096, 8191, 8192, 8193]
    small += [16384, 20000, 32766, 32767]
    steps = [mu / 2**16 for mu in small]
    steps += [2.0**-20, 2.0**-17, 1.5 * 2.0**-16, 2.5 * 2.0**-16, 5e-324]
    limit = 2 * R.max_code(M)
    for k in range(-1, limit.bit_length()):
        # just below 2^k rounds up to it: mu would be 2^15, so e grows by one
        steps += [2.0**k * (1 - 2.0**-18), 2.0**k * (1 - 2.0**-15), 2.0**k, 2.0**k * (1 + 2.0**-14), 2.0**k * 1.37]
    steps += [float(limit) - 0.5, float(limit), float(limit) + 0.5, 4.0 * limit, 1e300]
    return [sign * m for m in steps for sign in (1, -1)]


FLOAT_STEPS = [sign * m for m in (0.0, 1e-45, 2.0**-20, 1e-6, 0.1, 0.5, 1.0, 1.37, 100.0, 1e5, 3e38) for sign in (1, -1)]


def steps_of(row):
    if row.op == "dot":
        return [0.0]
    return FLOAT_STEPS if "32f" in (row.D, row.M) else integer_steps(row.M)


def draw_case(rng, row, n, x_kind="random", w_kind="random", words_kind="random"):
    """The operands of one call, at random offsets."""
    case = {
        "x": data_codes(rng, row.D, n, x_kind),
        "w": model_codes(rng, row.M, n, w_kind),
        "offsets": tuple(int(v) for v in rng.integers(0, 64, 3)),
    }
    if row.op == "axpy_dot":
        case["x_next"] = data_codes(rng, row.D, n, "ends" if x_kind == "ends" else "random")
    if row.rounding == "srb":
        case["words"] = random_words(rng, row.D, n, words_kind)
    if row.rounding != "nearest":
        case |= {"seed": int(rng.integers(0, 50)), "stream": int(rng.integers(0, 2))}
    return case


# ---- the table ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", [name for name, _ in kernels._isas()])
def test_the_table_has_no_holes(isa):
    table = kernels._table(isa)
    found = [(row.op, row.D, row.M, row.rounding, row.index) for row in table]
    assert len(found) == len(set(found))
    assert set(found) == {(*row, None) for row in R.names()} | set(R.sparse_names())
    for row in table:
        assert row.name == R.name_of(row.op, row.D, row.M, row.rounding, row.index)
        assert row.isa == isa
        assert row.runnable is dict(kernels._isas())[isa]
        assert callable(row)


def test_every_row_is_importable_by_its_name():
    codecs = [f"{op}_{C}" + ("_sr" if rounding == "sr" else "") for op, C, rounding in R.codec_names()]
    matrix = [R.name_of(*row) for row in [*R.names(), *R.sparse_names()]]
    assert sorted(kernels.__all__) == sorted([*matrix, *codecs, "coded_bytes"])
    for row in kernels._table(kernels._active_isa()):
        assert getattr(kernels, row.name) is row
        assert pickle.loads(pickle.dumps(row)) is row


def test_a_name_that_is_no_kernel():
    for name in ("dot_8_7", "axpy_8_32f_sr", "dot_8_8_sr", "axpy_dot_32f_32f_srx", "gemm_8_8", "sdot_8_8", "saxpy_i4_8_8"):
        with pytest.raises(AttributeError, match=name):
            getattr(kernels, name)


# ---- the oracle itself --------------------------------------------------------------------------------------


@pytest.mark.parametrize("matrix_row", list(R.names()), ids=lambda row: R.name_of(*row))
def test_the_sweeps_are_the_oracle(matrix_row, rng):
    op, D, M, rounding = matrix_row
    steps = FLOAT_STEPS if "32f" in (D, M) else integer_steps(M)
    for n, kind in itertools.product((0, 1, 7, 33, 70), ("random", "ends")):
        case = {
            "x": data_codes(rng, D, n, kind), "w": model_codes(rng, M, n, kind), "x_next": data_codes(rng, D, n, kind),
            "words": random_words(rng, D, n, kind), "n": n, "seed": n, "stream": 1, "m": float(rng.choice(steps)),
        }  # fmt: skip
        w, z = R.kernel(op, D, M, rounding, **case)
        sweep_w, sweep_z = R.sweep_kernel(op, D, M, rounding, **case)
        assert same_codes(np.array(w, dtype=sweep_w.dtype), sweep_w)
        assert z == sweep_z or same_float(z, sweep_z)
        assert type(z) is type(sweep_z)


def test_the_oracles_long_sums(rng):
    for n in (4095, 4096, 4097, 8225):
        x, w = data_codes(rng, "8", n), data_codes(rng, "32f", n)
        assert same_float(R.dot_float(list(x), list(w)), R.sweep_dot("8", "32f", x, w))
        x, w = data_codes(rng, "16", n), model_codes(rng, "16", n)
        assert R.dot_integer(list(x), list(w)) == R.sweep_dot("16", "16", x, w)


@pytest.mark.parametrize("token", R.TOKENS)
def test_packing(token, rng):
    for n in range(9):
        codes = data_codes(rng, token, n)
        packed = R.pack(list(codes), token)
        assert packed.tobytes() == R.sweep_pack(codes, token).tobytes()
        assert R.unpack(packed, token, n) == list(codes) == list(R.sweep_unpack(packed, token, n))
    assert R.pack([1, -8, 7], "4").tolist() == [0x81, 0x07]


# ---- every row ----------------------------------------------------------------------------------------------


@every(ROWS)
def test_against_the_plain_oracle(row, rng):
    for n, kind in itertools.product((1, 2, 35, 67, 130), ("random", "ends")):
        for m in rng.choice(steps_of(row), 3):
            check(row, m=float(m), oracle=plain, **draw_case(rng, row, n, kind, kind, kind))


def plain(op, D, M, rounding, *, x, w, x_next, words, **case):
    """R.kernel on lists."""
    x, w = x.tolist(), w.tolist()
    x_next = x_next if x_next is None else x_next.tolist()
    new_w, z = R.kernel(op, D, M, rounding, x=x, w=w, x_next=x_next, words=words, **case)
    return np.array(new_w, dtype=np.float32 if M == "32f" else np.int64), z


@every(ROWS)
def test_lengths(row, rng):
    steps = itertools.cycle(rng.permutation(steps_of(row)).tolist())
    for n in LENGTHS:
        check(row, m=next(steps), **draw_case(rng, row, n))


@every(UPDATES)
def test_steps(row, rng):
    # 131: two steps of 64 and a tail; kinds at random, so that each pair is met many times over the steps
    kinds = ("random", "random", "ends", "min", "max", "least", "zero")
    for m in steps_of(row):
        for n in (131, int(rng.integers(1, 400))):
            check(row, m=m, **draw_case(rng, row, n, *(str(kind) for kind in rng.choice(kinds, 2)), "ends"))


@every(UPDATES)
def test_saturation(row, rng):
    # full steps from one end of the model to the other: one saturation, at the end
    for m in [m for m in steps_of(row) if abs(m) >= 0.5]:
        for x_kind, w_kind in itertools.product(("min", "max", "ends"), ("least", "max")):
            check(row, m=m, **draw_case(rng, row, 70, x_kind, w_kind))


@every(ROWS)
def test_alignment(row, rng):
    case = draw_case(rng, row, 129)
    for k, m in zip(range(64), itertools.cycle(rng.permutation(steps_of(row)).tolist()), strict=False):
        check(row, m=m, **case | {"offsets": (k, (37 * k + 11) % 64, (13 * k + 5) % 64)})


@every([row for row in ROWS if "4" in (row.D, row.M)])
def test_odd_tails_and_neighbors(row, rng):
    # n within a longer array: what lies past n, the other nibble of the last byte included, is neither used nor changed
    steps = itertools.cycle(rng.permutation(steps_of(row)).tolist())
    for n, more in itertools.product((0, 1, 3, 31, 32, 33, 63, 65, 127, 129, 200), (0, 1, 2, 5)):
        check(row, n=n, m=next(steps), **draw_case(rng, row, n + more))


@every(DOTS)
def test_sums_at_the_extremes(row, rng):
    # accumulators are flushed in time: every product of one sign and of the largest size
    for n, (x_kind, w_kind) in itertools.product((4096, 8193, 20011), (("min", "least"), ("min", "max"), ("max", "max"))):
        case = draw_case(rng, row, n, x_kind, w_kind)
        if row.op == "axpy_dot":
            case["x_next"] = case["x"]
        check(row, m=0.0, **case)


@every([row for row in ROWS if row.op == "dot" and "32f" not in (row.D, row.M)])
def test_exact_beyond_32_bits(row):
    n = 2**20 + 3
    x = R.sweep_pack(np.full(n, R.min_code(row.D)), row.D)
    w = R.sweep_pack(np.full(n, -R.max_code(row.M)), row.M)
    assert row(x, w, n) == n * R.min_code(row.D) * -R.max_code(row.M)


@every([row for row in UPDATES if row.D == row.M == "8" and row.rounding in ("nearest", "sr")])
def test_every_small_step(row, rng):
    # the kernels may compare x with quotients of r and mu where |mu| <= 512: every such mu, every x, fresh words for each
    x = np.concatenate([rng.permutation(np.arange(-128, 128)) for _ in range(8)])
    w = rng.integers(-127, 128, len(x))
    for mu in range(-520, 521):
        case = {"x": x, "w": w, "m": mu / 2**16}
        if row.op == "axpy_dot":
            case["x_next"] = x[::-1].copy()
        if row.rounding == "sr":
            case["seed"] = mu + 520
        check(row, **case)


@every([row for row in UPDATES if row.D == row.M == "4" and row.rounding in ("nearest", "sr")])
def test_steps_by_table(row, rng):
    # 4-bit rows have 16 possible x, and the kernels may look them up: many steps with every x and every w, fresh words for each
    pairs = np.array(list(itertools.product(range(-8, 8), range(-7, 8)))).repeat(3, axis=0)
    for k, mu in enumerate(rng.integers(-32767, 32768, 400)):
        x, w = rng.permutation(pairs).T
        case = {"x": x, "w": w, "m": int(mu) / 2**16}
        if row.op == "axpy_dot":
            case["x_next"] = x[::-1].copy()
        if row.rounding == "sr":
            case["seed"] = k
        check(row, **case)


@settings(max_examples=500)
@given(st.data())
def test_any_call(data):
    row = data.draw(st.sampled_from(ROWS), label="row")
    n = data.draw(st.one_of(st.integers(0, 200), st.integers(0, 9000)), label="n")
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32), label="values"))
    kind = st.sampled_from(["random", "ends"])
    case = draw_case(generator, row, n, data.draw(kind), data.draw(kind), data.draw(kind))
    case["offsets"] = data.draw(st.tuples(*[st.integers(0, 63)] * 3), label="offsets")
    m = data.draw(st.one_of(st.floats(-2, 2), st.sampled_from(steps_of(row)), st.floats(-1e5, 1e5)), label="m")
    if row.rounding != "nearest":
        case["seed"] = data.draw(st.integers(0, 2**64 - 1), label="seed")
        case["stream"] = data.draw(st.integers(0, 2**64 - 1), label="stream")
    check(row, n=data.draw(st.integers(0, n), label="used"), m=m, **case)


@pytest.mark.parametrize("isa", RUNNABLE)
def test_nothing_is_touched_past_either_end(isa):
    # Guard bytes show writes. Reads: operands that begin or end at a page that cannot be read, in a process of its own.
    pytest.importorskip("resource", reason="needs POSIX memory protection")
    script = """
        import ctypes, faulthandler, mmap, sys
        import numpy as np
        import reference as R
        from lowprec import kernels

        faulthandler.enable()
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        PAGE, ROOM = mmap.PAGESIZE, 4 * mmap.PAGESIZE

        class Fenced:
            def __init__(self):
                self.memory = np.frombuffer(mmap.mmap(-1, ROOM + 2 * PAGE), dtype=np.uint8)
                start = self.memory.__array_interface__["data"][0]
                for fence in (start, start + PAGE + ROOM):
                    assert libc.mprotect(fence, PAGE, 0) == 0
                self.room = self.memory[PAGE : PAGE + ROOM]

            def at(self, token, n, end):
                size = (n + 1) // 2 if token == "4" else n * np.dtype(token).itemsize
                part = self.room[ROOM - size :] if end else self.room[:size]
                part[:] = 17
                return part.view(np.uint8 if token == "4" else token)

        x, w, x_next, words = Fenced(), Fenced(), Fenced(), Fenced()
        types = {"4": "4", "8": "i1", "16": "i2", "32f": "f4"}
        for row in [row for row in kernels._table(sys.argv[1]) if row.index is None]:
            word = "u4" if row.D == "32f" else "u2"
            for n in [*range(131), 255, 1001]:
                for end in (0, 1):
                    print(row.name, n, end, file=sys.stderr)
                    args = [x.at(types[row.D], n, end), w.at(types[row.M], n, end)]
                    if row.op == "axpy_dot":
                        args.append(x_next.at(types[row.D], n, end))
                    if row.rounding == "srb":
                        args.append(words.at(word, n, end))
                    for m in [0.001, -0.3, 3.0, 200.0] if row.op != "dot" else [None]:
                        row(*([] if m is None else [m]), *args, n=n)
        from lowprec._sgd import Sgd

        rows = 5
        labels = np.ones(rows, dtype=np.float32)
        for D, M in [(D, M) for D in types for M in types]:
            for source in ("nearest", "shared", "xorshift", "mt19937"):
                for n in (1, 31, 32, 33, 64, 96, 128, 130):
                    for end in (0, 1):
                        print(D, M, source, n, end, file=sys.stderr)
                        row = (n + 1) // 2 if D == "4" else n * np.dtype(types[D]).itemsize
                        data = (x.room[ROOM - rows * row :] if end else x.room[: rows * row])
                        data[:] = 17
                        model = w.at(types[M], n, end).view(np.uint8)
                        job = Sgd(data, row, rows, n, D, M, source, model, labels, loss="squared", step=0.01,
                                  data_scale=0.01, model_scale=0.01, isa=sys.argv[1])
                        job.run(0, rows)
                        job.flush()
        print("done")
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script), isa], capture_output=True, text=True,
                         env=os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])})  # fmt: skip
    assert run.stdout == "done\n", run.stderr[-2000:]


# ---- the Python side of a call ------------------------------------------------------------------------------


def test_operands_may_share_memory_and_be_read_only(rng):
    x = data_codes(rng, "8", 500, "random").astype(np.int8)
    x[x == -128] = -127
    frozen = x.copy()
    frozen.flags.writeable = False
    for row in DOTS:
        if row.name == "dot_8_8":
            assert row(x, x) == row(frozen, frozen) == int(np.sum(x.astype(np.int64) ** 2))
        if row.name == "axpy_dot_8_8":
            assert row(0.0, frozen, x.copy(), frozen) == int(np.sum(x.astype(np.int64) ** 2))


def test_default_length():
    w4, w8 = np.full(4, 0x11, dtype=np.uint8), np.ones(8, dtype=np.int8)
    assert kernels.dot_4_4(w4, w4) == 8
    assert kernels.dot_4_4(w4, w4, 7) == 7
    assert kernels.dot_4_8(w4, w8) == 8
    assert kernels.dot_4_8(w4, w8[:7]) == 7  # the partner knows that the last nibble does not count
    assert kernels.dot_8_4(w8[:7], w4) == 7
    assert kernels.dot_8_8(w8[:0], w8[:0]) == 0
    assert kernels.dot_32f_32f(np.zeros(0, np.float32), np.zeros(0, np.float32)) == 0.0


@every([row for row in UPDATES if row.rounding in ("sr", "srx")])
def test_a_call_is_a_function_of_its_seed(row, rng):
    codes = data_codes(rng, row.D, 300)
    m = 1.5 / float(abs(codes).max())  # moves most coordinates, saturates few
    x, w = R.sweep_pack(codes, row.D), R.sweep_pack(model_codes(rng, row.M, 300, "zero"), row.M)
    more = (x,) if row.op == "axpy_dot" else ()

    def run(**keywords):
        out = w.copy()
        row(m, x, out, *more, **keywords)
        return out.tobytes()

    assert run() == run(seed=0, stream=0) == run(seed=np.uint64(0))
    assert len({run(), run(seed=1), run(seed=2), run(stream=1), run(seed=2**64 - 1), run(seed=1, stream=1)}) == 6


I8, I16, F32, U8 = (np.zeros(64, dtype=t) for t in (np.int8, np.int16, np.float32, np.uint8))
READ_ONLY = np.zeros(64, dtype=np.int8)
READ_ONLY.flags.writeable = False
WORDS = np.zeros(64, dtype=np.uint16)

REFUSED = [
    # call, exception, fragments of its message
    (lambda k: k.dot_8_8([1, 2], I8), TypeError, ("dot_8_8", "x must be", "int8", "list")),
    (lambda k: k.dot_8_8(I8, None), TypeError, ("w must be", "NoneType")),
    (lambda k: k.dot_8_8(I16, I8), TypeError, ("x must be", "int8", "int16")),
    (lambda k: k.dot_8_16(I8, I8), TypeError, ("w must be", "int16", "int8")),
    (lambda k: k.dot_4_8(I8, I8), TypeError, ("x must be", "uint8 (packed)", "int8")),
    (lambda k: k.dot_32f_8(F32.astype(np.float64), I8), TypeError, ("x must be", "float32", "float64")),
    (lambda k: k.dot_8_16(I8, I16.astype(">i2")), TypeError, ("w must be", ">i2")),
    (lambda k: k.dot_8_8(I8.reshape(8, 8), I8), ValueError, ("x must be a one-dimensional", "(8, 8)")),
    (lambda k: k.dot_8_8(I8[::2], I8[:32]), ValueError, ("x must be", "strides", "ascontiguousarray")),
    (lambda k: k.dot_8_8(I8[::-1], I8), ValueError, ("x must be", "strides")),
    (lambda k: k.dot_16_16(np.zeros(9, np.int8)[1:].view(np.int16), I16[:4]), ValueError, ("aligned",)),
    (lambda k: k.dot_8_8(I8, I8[:-1]), ValueError, ("as many elements", "64", "63")),
    (lambda k: k.dot_4_8(U8, I8[:63]), ValueError, ("as many elements", "128", "63")),
    (lambda k: k.dot_8_8(I8, I8, 65), ValueError, ("n must lie in [0, 64]", "65")),
    (lambda k: k.dot_8_8(I8, I8, -1), ValueError, ("n must lie in [0, 64]", "-1")),
    (lambda k: k.dot_8_8(I8, I8, 1.5), TypeError, ()),
    (lambda k: k.dot_8_8(I8), TypeError, ()),
    (lambda k: k.axpy_8_8(1.0, I8, READ_ONLY), ValueError, ("axpy_8_8", "w is written in place", "read-only")),
    (lambda k: k.axpy_8_8(1.0, I8, I16), TypeError, ("w must be", "int16")),
    (lambda k: k.axpy_8_8(np.nan, I8, I8.copy()), ValueError, ("m must be finite", "nan")),
    (lambda k: k.axpy_8_8_sr(-np.inf, I8, I8.copy()), ValueError, ("m must be finite", "-inf")),
    (lambda k: k.axpy_32f_32f(np.inf, F32, F32.copy()), ValueError, ("m must be finite",)),
    (lambda k: k.axpy_8_8("one", I8, I8.copy()), TypeError, ()),
    (lambda k: k.axpy_8_8(1.0, I8, I8.copy(), seed=1), TypeError, ("seed",)),
    (lambda k: k.axpy_8_8_sr(1.0, I8, I8.copy(), seed=-1), ValueError, ("seed", "[0, 2^64)", "-1")),
    (lambda k: k.axpy_8_8_sr(1.0, I8, I8.copy(), seed=2**64), ValueError, ("seed", "[0, 2^64)", str(2**64))),
    (lambda k: k.axpy_8_8_srx(1.0, I8, I8.copy(), stream=-5), ValueError, ("stream", "-5")),
    (lambda k: k.axpy_8_8_srx(1.0, I8, I8.copy(), seed=0.5), TypeError, ("seed", "integer", "0.5")),
    (lambda k: k.axpy_8_8_srb(1.0, I8, I8.copy()), TypeError, ("words",)),
    (lambda k: k.axpy_8_8_srb(1.0, I8, I8.copy(), [0] * 64), TypeError, ("words", "uint16", "list")),
    (lambda k: k.axpy_8_8_srb(1.0, I8, I8.copy(), WORDS.astype(np.uint32)), TypeError, ("words", "uint16", "uint32")),
    (lambda k: k.axpy_32f_8_srb(1.0, F32, I8.copy(), WORDS), TypeError, ("words", "uint32", "uint16")),
    (lambda k: k.axpy_8_8_srb(1.0, I8, I8.copy(), WORDS[:63]), ValueError, ("words", "at least n = 64", "63")),
    (lambda k: k.axpy_dot_8_8(1.0, I8, I8.copy(), I8[:63]), ValueError, ("x_next", "as many elements", "63")),
    (lambda k: k.axpy_dot_8_8(1.0, I8, I8.copy(), I16), TypeError, ("x_next", "int16")),
    (lambda k: k.axpy_dot_8_8(1.0, I8, READ_ONLY, I8), ValueError, ("read-only",)),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_refused(number):
    call, exception, fragments = REFUSED[number]
    with pytest.raises(exception) as caught:
        call(kernels)
    for fragment in fragments:
        assert fragment in str(caught.value)


def test_a_refused_call_changes_nothing():
    w = np.arange(64, dtype=np.int8)
    before = w.copy()
    for m, seed in ((np.nan, 0), (1.0, -1), (1.0, 2**64)):
        with pytest.raises(ValueError, match=r"finite|seed"):
            kernels.axpy_8_8_sr(m, np.ones(64, dtype=np.int8), w, seed=seed)
    assert (w == before).all()


# ---- very long rows -----------------------------------------------------------------------------------------


def available_memory():
    try:
        with open("/proc/meminfo") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 2**62


@pytest.mark.slow
def test_a_dot_over_more_than_2_to_the_31_numbers(rng):
    if available_memory() < 2**32:
        pytest.skip("needs 4 GiB of free memory")
    n = 2**31 + 3
    size = (n + 1) // 2
    # any two nibbles in -7..7 (the model's range); x and w are the same bytes, so the sum is large: about 18.7 n
    symmetric = np.array([a | b << 4 for b in range(16) for a in range(16)], dtype=np.uint8)
    symmetric[[byte for byte in range(256) if 8 in (byte & 15, byte >> 4)]] = 0x79
    signed = (np.arange(16) ^ 8) - 8
    square = np.array([signed[byte & 15] ** 2 + signed[byte >> 4] ** 2 for byte in range(256)])
    codes = np.empty(size, dtype=np.uint8)
    expected = 0
    for first in range(0, size, 2**24):
        block = codes[first : first + 2**24]
        np.take(symmetric, rng.integers(0, 256, len(block), dtype=np.uint8), out=block)
        if first + len(block) == size:
            block[-1] &= 0x0F
        expected += int(np.bincount(block, minlength=256) @ square)
    assert expected > 2**34
    for row in ROWS:
        if row.name == "dot_4_4":
            assert row(codes, codes, n) == expected, ident(row)
            assert row(codes, codes, n - 2) == expected - int(square[codes[-1]]) - int(signed[codes[-2] >> 4]) ** 2, ident(row)
