"""Kernels and training loop of sparse data against the oracle, to the last bit: every width of index, on every ISA."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import reference as R
from hypothesis import given
from hypothesis import strategies as st

from lowprec import kernels
from lowprec._sgd import Sgd

RUNNABLE = [name for name, runnable in kernels._isas() if runnable]
ROWS = [row for isa in RUNNABLE for row in kernels._table(isa) if row.index is not None]
DTYPES = {"8": np.uint8, "16": np.uint16, "32": np.uint32}
RANDOMS = ("nearest", "shared", "xorshift", "mt19937")
LOSSES = ("logistic", "hinge", "squared")
KINDS = [(D, M, random) for D in R.TOKENS for M in R.TOKENS for random in (RANDOMS if M != "32f" else ("nearest",))]
LAYOUTS = [(bits, differences) for bits in ("8", "16", "32") for differences in (False, True)]


def every(rows):
    return pytest.mark.parametrize("row", rows, ids=lambda row: f"{row.name}_{row.isa}")


def codes(rng, token, n, model=False):
    if token == "32f":
        return (rng.standard_normal(n) * rng.choice([1e-3, 1, 1, 30], n)).astype(np.float32)
    low, high = -R.max_code(token) if model else R.min_code(token), R.max_code(token)
    return rng.choice([low, -1, 0, 1, high], n) if n % 3 == 1 else rng.integers(low, high, n, endpoint=True)


def entries(rng, bits, differences, k, n=None):
    """An index of k entries, and how many weights it needs."""
    if k == 0:
        return [], n or 5
    if differences:
        top = min(2 ** int(bits) - 1, 700)
        index = rng.choice([1, 2, top - 1, top], k) if k % 2 else rng.integers(1, top, k, endpoint=True)
        return index.tolist(), int(index.sum()) + int(rng.integers(0, 3))
    n = n or min(2 ** int(bits), 3 * k + 2)
    return np.sort(rng.choice(n, k, replace=False)).tolist(), n


def place(array, offset):
    """The array at an odd address, as far as its type allows, between guards; and a function that looks at these."""
    offset -= offset % array.itemsize
    arena = np.full(array.nbytes + 256, 0xA5, np.uint8)
    inside = slice(128 + offset, 128 + offset + array.nbytes)
    arena[inside] = np.frombuffer(array.tobytes(), np.uint8)

    def intact():
        return (arena[: inside.start] == 0xA5).all() and (arena[inside.stop :] == 0xA5).all()

    return arena[inside].view(array.dtype), intact


def same(a, b):
    return np.asarray(a, dtype=np.float64).tobytes() == np.asarray(b, dtype=np.float64).tobytes()


# ---- the kernels --------------------------------------------------------------------------------------------


@every(ROWS)
def test_against_the_oracle(row, rng):
    steps = [0.02, -1.37, 300.0, 0.3] if row.M != "32f" else [0.02, -1.5]
    # around the widths in which kernels and moves go: remainders of every size, and rows of several pieces
    for k, differences in itertools.product([*range(0, 19), 31, 32, 33, 63, 64, 65, 130], (False, True)):
        index, n = entries(rng, row.index, differences, k)
        x, w = codes(rng, row.D, k), codes(rng, row.M, n, model=True)
        case = {"m": float(rng.choice(steps))} if row.op == "saxpy" else {}
        if row.rounding != "nearest":
            case |= {"seed": k, "stream": 3}
        words = rng.integers(0, 2**16, k)
        expected_w, z = R.sparse_kernel(row.op, row.D, row.M, row.rounding, x=x.tolist() if row.D != "32f" else list(x),
                                        index=index, differences=differences, w=list(w), words=words, **case)  # fmt: skip
        data, data_intact = place(R.sweep_pack(x, row.D), 1)
        places, index_intact = place(np.array(index, DTYPES[row.index]), 2)
        model, model_intact = place(R.sweep_pack(w, row.M), 3)
        before = data.tobytes(), places.tobytes(), model.tobytes()
        arguments = [case.pop("m")] if row.op == "saxpy" else []
        arguments += [data, places, model]
        if row.rounding == "srb":
            arguments.append(words.astype(np.uint32 if row.D == "32f" else np.uint16))
        result = row(*arguments, differences=differences, **case)
        assert result == z or same(result, z), (k, differences)
        assert type(result) is type(z)
        assert same(R.sweep_unpack(model, row.M, n), expected_w), (k, differences)
        assert data_intact()
        assert index_intact()
        assert model_intact()
        assert (data.tobytes(), places.tobytes()) == before[:2]
        assert row.op == "saxpy" or model.tobytes() == before[2]


@every([row for row in ROWS if row.op == "saxpy" and row.D == row.M and row.rounding in ("nearest", "sr")])
def test_weights_elsewhere_stay(row, rng):
    n = 5000 if row.index != "8" else 256
    index = np.sort(rng.choice(n, 100, replace=False))
    w = codes(rng, row.M, n, model=True)
    model = R.sweep_pack(w, row.M)
    row(0.5, R.sweep_pack(codes(rng, row.D, 100), row.D), index.astype(DTYPES[row.index]), model)
    others = np.setdiff1d(np.arange(n), index)
    assert same(R.sweep_unpack(model, row.M, n)[others], w[others])


def test_every_row_is_importable_and_can_be_pickled():
    for row in kernels._table():
        if row.index is not None:
            assert getattr(kernels, row.name) is row
            assert pickle.loads(pickle.dumps(row)) is row


@pytest.mark.parametrize(
    ("index", "differences", "error", "fragment"),
    [
        (np.array([1, 3, 9], np.uint16), False, ValueError, "positions must be below the length of w, 8, got 9"),
        (np.array([2, 2, 6], np.uint16), True, ValueError, "positions must be below the length of w, 8, got 9"),
        (np.array([1, 3, 3], np.uint16), False, ValueError, "positions must rise"),
        (np.array([3, 1, 2], np.uint16), False, ValueError, "positions must rise"),
        (np.array([1, 0, 3], np.uint16), True, ValueError, "every difference must be at least 1"),
        (np.array([0, 1, 3], np.uint16), True, ValueError, "every difference must be at least 1"),
        (np.array([1, 3], np.uint16), False, ValueError, "x and index must have as many elements, got 3 and 2"),
        (np.array([1, 3, 5], np.int16), False, TypeError, "array of uint16, got dtype int16"),
        (np.array([1, 3, 5], np.uint8), False, TypeError, "array of uint16, got dtype uint8"),
        (np.array([[1, 3, 5]], np.uint16), False, ValueError, r"got shape \(1, 3\)"),
        (np.arange(6, dtype=np.uint16)[::2], False, ValueError, "strides"),
        ([1, 3, 5], False, TypeError, "got list"),
    ],
)
def test_refused(index, differences, error, fragment):
    x, w = np.ones(3, np.int8), np.zeros(8, np.int8)
    for call in (lambda: kernels.sdot_i16_8_8(x, index, w, differences),
                 lambda: kernels.saxpy_i16_8_8(1.0, x, index, w, differences)):  # fmt: skip
        with pytest.raises(error, match=fragment):
            call()
    assert not w.any()


def test_refused_operands_and_steps():
    x, index, w = np.ones(3, np.int8), np.arange(3, dtype=np.uint8), np.zeros(8, np.int8)
    with pytest.raises(TypeError, match=r"x must be .* int8"):
        kernels.sdot_i8_8_8(x.astype(np.int16), index, w)
    with pytest.raises(ValueError, match="m must be finite"):
        kernels.saxpy_i8_8_8(np.nan, x, index, w)
    with pytest.raises(ValueError, match="words must be"):
        kernels.saxpy_i8_8_8_srb(1.0, x, index, w, np.zeros(2, np.uint16))
    w.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        kernels.saxpy_i8_8_8(1.0, x, index, w)
    assert kernels.sdot_i8_8_8(x, index, w) == 0


# ---- the training loop --------------------------------------------------------------------------------------


class Problem:
    """Random sparse rows, some of them empty, the last one long, and steps that move the model by quanta."""

    def __init__(self, rng, D, M, bits, differences, loss="logistic", rows=30, n=None, longest=70):
        n = n or (1500 if differences else 250)  # 1500: gaps that 8 bits do not hold, so that there are fillers
        self.D, self.M, self.bits, self.differences, self.loss, self.n = D, M, bits, differences, loss, n
        self.rows = []
        for size in [0, 1, 2, *rng.integers(0, longest, rows - 4), 150]:
            columns = np.sort(rng.choice(n, size, replace=False)).tolist()
            row = codes(rng, D, size) if D != "32f" else rng.standard_normal(size).astype(np.float32)
            columns, row = R.sparse_encode(columns, list(row), int(bits), differences)
            self.rows.append((columns, np.array(row, np.float32 if D == "32f" else np.int64)))
        sizes = [len(row) for _, row in self.rows]
        self.y = (rng.standard_normal(rows) if loss == "squared" else rng.choice([-1.0, 1.0], rows)).astype(np.float32)
        self.data_scale = 1.0 if D == "32f" else 1.0 / R.max_code(D)
        self.model_scale = 1.0 if M == "32f" else 1.5 / R.max_code(M)
        self.w = codes(rng, M, n, model=True)
        self.w = (0.1 * self.w).astype(np.float32) if M == "32f" else self.w // 3
        self.step = 0.5 if M == "4" else 0.05
        if loss == "squared" and M == "32f":
            self.step = 0.002  # a longer one diverges on rows of this size
        indptr = np.cumsum([0, *sizes])
        memory = np.zeros(0, np.uint8)
        for i, (_, row) in enumerate(self.rows):
            packed = np.frombuffer(R.sweep_pack(row, D).tobytes(), np.uint8)
            start = (indptr[i] + i) // 2 if D == "4" else len(memory)
            memory = np.concatenate([memory, np.zeros(start - len(memory), np.uint8), packed])
        self.x = np.concatenate([memory, np.zeros((indptr[-1] + rows) // 2 - len(memory), np.uint8)]) if D == "4" else memory
        index = np.array([i for columns, _ in self.rows for i in columns], DTYPES[bits])
        self.sparse = indptr.astype(np.int64), index, differences
        self.x.flags.writeable = self.sparse[0].flags.writeable = index.flags.writeable = False

    def plain(self, random, **options):
        return R.PlainSparseSgd(self.rows, self.D, self.M, random, self.w, self.y, differences=self.differences, loss=self.loss,
                                step=self.step, data_scale=self.data_scale, model_scale=self.model_scale, **options)  # fmt: skip

    def driver(self, random, **options):
        model = np.frombuffer(R.sweep_pack(self.w, self.M).tobytes(), np.uint8).copy()
        job = Sgd(self.x, 0, len(self.rows), self.n, self.D, self.M, random, model, self.y, loss=self.loss, step=self.step,
                  data_scale=self.data_scale, model_scale=self.model_scale, sparse=self.sparse, **options)  # fmt: skip
        return job, model

    def same(self, model, plain):
        got = R.sweep_unpack(model if self.M == "4" else model.view(R.DTYPES[self.M]), self.M, self.n)
        return got.tobytes() == plain.whole.astype(got.dtype).tobytes()


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize(("D", "M", "random"), KINDS)
def test_against_plain_sgd(D, M, random, isa, rng):
    for (bits, differences), loss in zip(LAYOUTS, itertools.cycle(LOSSES), strict=False):
        problem = Problem(rng, D, M, bits, differences, loss)
        plain = problem.plain(random, seed=5)
        job, model = problem.driver(random, seed=5, isa=isa)
        start = model.copy()
        for _ in range(2):
            assert plain.epoch(range(30)) == -1
            assert job.run(0, 30) == -1
        assert problem.same(model, plain), (bits, differences, loss)  # nothing is pending
        assert (model != start).any()


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize(("D", "M", "random"), KINDS)
def test_everything_at_once(D, M, random, isa, rng):
    for k, (bits, differences) in enumerate(LAYOUTS):
        problem = Problem(rng, D, M, bits, differences, LOSSES[k % 3])
        spread = 1.0 if "32f" in (D, M) else 10.0
        weight = (2.0 ** rng.uniform(-spread, spread, 30)).astype(np.float32)
        weight[3] = 0.0
        options = {"seed": 2**64 - 1, "refresh": 3, "weight": weight, "intercept": -0.25, "intercept_step": 0.01}
        plain = problem.plain(random, **options)
        order = rng.permutation(30).astype(np.int64)
        job, model = problem.driver(random, order=order, isa=isa, **options)
        for _ in range(2):
            assert plain.epoch(order.tolist()) == -1
            cuts = sorted(rng.integers(0, 31, 3).tolist())
            for first, last in itertools.pairwise([0, *cuts, 30]):
                assert job.run(first, last) == -1
                job.flush()
            order = rng.permutation(30).astype(np.int64)
            job.set_order(order)
        assert problem.same(model, plain), (bits, differences)
        assert job.intercept == plain.intercept != -0.25
        job.widen()
        plain.widen()
        assert problem.same(model, plain)


def test_prefetch_changes_nothing(rng):
    for (bits, differences), M in itertools.product(LAYOUTS, R.TOKENS):
        problem = Problem(rng, "8", M, bits, differences)
        order = rng.permutation(30).astype(np.int64)
        expected = problem.driver("shared", order=order, prefetch=0)
        prefetched = problem.driver("shared", order=order, prefetch=4096)
        for job, _ in (expected, prefetched):
            job.run(0, 30)
        assert expected[1].tobytes() == prefetched[1].tobytes()


@given(st.data())
def test_any_split_gives_the_same_bits(data):
    D, M, random = data.draw(st.sampled_from(KINDS))
    bits, differences = data.draw(st.sampled_from(LAYOUTS))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    problem = Problem(rng, D, M, bits, differences, data.draw(st.sampled_from(LOSSES)))
    options = {"seed": data.draw(st.integers(0, 2**64 - 1)), "refresh": data.draw(st.integers(1, 9))}
    whole, expected = problem.driver(random, isa="base", **options)
    whole.run(0, 30)
    parts, model = problem.driver(random, isa=data.draw(st.sampled_from(RUNNABLE)), **options)
    points = sorted(data.draw(st.lists(st.integers(0, 30), max_size=6)))
    for first, last in itertools.pairwise([0, *points, 30]):
        parts.run(first, last)
    assert model.tobytes() == expected.tobytes()


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize(("bits", "differences"), [layout for layout in LAYOUTS if layout != ("8", False)])
def test_a_row_goes_back_while_the_next_comes_out(bits, differences, isa, rng):
    # the driver does so where rows are long and the model is large; short rows and empty ones are among them
    for k, M in enumerate(R.TOKENS):
        D, n = R.TOKENS[k - 1], 2**18 * 8 // R.BITS[M]
        if n > 2 ** int(bits) and not differences:
            continue
        problem = Problem(rng, D, M, bits, differences, n=n, longest=1400)
        assert len(problem.sparse[1]) > 30 * 256
        order = rng.permutation(30).astype(np.int64)
        order[7] = order[6]  # the same row twice in turn
        random = "nearest" if M == "32f" else RANDOMS[k % len(RANDOMS)]
        plain = problem.plain(random, seed=3)
        job, model = problem.driver(random, seed=3, isa=isa, order=order)
        for _ in range(2):
            assert plain.epoch(order.tolist()) == -1
            job.run(0, 11)
            job.run(11, 30)
        assert problem.same(model, plain), (D, M)


@pytest.mark.parametrize("isa", RUNNABLE)
def test_long_rows(isa, rng):
    # beyond a block of the float sums, and a model beyond 16 bits of position
    for D, M, (bits, differences) in [("8", "8", ("8", True)), ("32f", "32f", ("32", False)), ("8", "16", ("16", True)),
                                      ("4", "4", ("16", True)), ("32f", "8", ("8", True))]:  # fmt: skip
        problem = Problem(rng, D, M, bits, differences, n=70_000)
        plain = problem.plain("shared")
        job, model = problem.driver("shared", isa=isa)
        plain.epoch(range(30))
        job.run(0, 30)
        assert problem.same(model, plain)
    n, k = 70_000, 9_000
    for D, M in (("8", "8"), ("32f", "32f"), ("32f", "8"), ("8", "32f")):
        columns = np.sort(rng.choice(n, k, replace=False)).tolist()
        index, row = R.sparse_encode(columns, codes(rng, D, k).tolist(), 8, True)
        x = np.array(row, np.float32 if D == "32f" else np.int64)
        w = codes(rng, M, n, model=True)
        z = R.sweep_dot(D, M, x, np.asarray(w)[R.sparse_positions(index, True)])
        row = next(row for row in kernels._table(isa) if row.name == f"sdot_i8_{D}_{M}")
        assert same(row(R.sweep_pack(x, D), np.array(index, np.uint8), R.sweep_pack(w, M), True), z)


@pytest.mark.parametrize("M", R.TOKENS)
def test_the_first_bad_row_is_named(M, rng):
    problem = Problem(rng, "32f", M, "16", False, "squared")
    problem.w[:] = 1
    x = problem.x.view(np.float32).copy()
    bad = next(i for i in range(10, 30) if len(problem.rows[i][0]))
    x[problem.sparse[0][bad]] = np.nan
    problem.x = x.view(np.uint8)
    job, _ = problem.driver("nearest")
    assert job.run(0, bad) == -1
    assert job.run(bad, 30) == bad


@pytest.mark.parametrize("random", RANDOMS)
def test_several_workers_leave_everything_else_alone(random, rng):
    for D, M in (("8", "8"), ("4", "4"), ("32f", "32f")):
        problem = Problem(rng, D, M, "16", True)
        job, model = problem.driver(random if M != "32f" else "nearest", n_threads=3)
        start = model.copy()
        for _ in range(3):
            assert job.run(0, job.share) == -1
        job.flush()
        assert (model != start).any()


def refused():
    """(sparse, x, fragment)."""
    indptr, index = np.array([0, 1, 3], np.int64), np.array([2, 0, 4], np.uint8)
    x = np.zeros(3, np.uint8)
    return [
        ((indptr[:2], index, False), x, "indptr must have 3 numbers"),
        ((indptr + 1, index, False), x, "indptr must have 3 numbers, the first of them 0"),
        ((np.array([0, 4, 3]), index, False), x, "row 0"),
        ((np.array([0, 2, 1]), index, False), x, "row 0|row 1"),
        ((np.array([0, 1, 4]), index, False), x, "row 1"),
        ((indptr, np.array([0, 4, 2], np.uint8), False), x, r"index must rise within \[0, 5\) in every row; .* in row 1"),
        ((indptr, index + np.uint8(1), False), x, "row 1"),
        ((indptr, index, True), x, "row 1"),
        ((indptr, index, False), x[:2], "x must hold 3 entries, 3 bytes, got 2"),
        ((indptr, index.astype(np.int16), False), x, "index must be an array of uint8, uint16 or uint32"),
    ]


@pytest.mark.parametrize("number", range(len(refused())))
def test_refused_layouts(number):
    sparse, x, fragment = refused()[number]
    with pytest.raises((ValueError, TypeError), match=fragment):
        Sgd(x, 0, 2, 5, "8", "8", "shared", np.zeros(5, np.uint8), np.ones(2, np.float32), loss="logistic", step=0.1,
            data_scale=1.0, model_scale=1.0, sparse=sparse)  # fmt: skip


def test_only_empty_rows(rng):
    sparse = np.zeros(4, np.int64), np.zeros(0, np.uint8), True
    for M in R.TOKENS:
        model = np.zeros(20, np.uint8)
        job = Sgd(np.zeros(0, np.uint8), 0, 3, 5, "8", M, "shared", model, np.ones(3, np.float32), loss="logistic", step=0.1,
                  data_scale=1.0, model_scale=1.0, sparse=sparse, intercept=0.0, intercept_step=0.5)  # fmt: skip
        assert job.run(0, 3) == -1
        assert not model.any()
        assert job.intercept > 0.5


@pytest.mark.skipif(sys.platform != "linux", reason="mprotect by ctypes")
@pytest.mark.parametrize("isa", RUNNABLE)
def test_nothing_is_read_or_written_beyond_the_operands(isa):
    script = """
        import ctypes, mmap, sys
        import numpy as np
        from lowprec import kernels
        from lowprec._sgd import Sgd

        PAGE, ROOM = mmap.PAGESIZE, 8 * mmap.PAGESIZE
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

        class Fenced:
            def __init__(self):
                self.memory = np.frombuffer(mmap.mmap(-1, ROOM + 2 * PAGE), dtype=np.uint8)
                start = self.memory.__array_interface__["data"][0]
                for fence in (start, start + PAGE + ROOM):
                    assert libc.mprotect(fence, PAGE, 0) == 0
                self.room = self.memory[PAGE : PAGE + ROOM]

            def at(self, array, end):
                part = self.room[ROOM - array.nbytes :] if end else self.room[: array.nbytes]
                part[:] = np.frombuffer(array.tobytes(), np.uint8)
                return part.view(array.dtype)

        TYPES = {"4": "u1", "8": "i1", "16": "i2", "32f": "f4"}
        SIZES = [*range(70), 127, 128, 129, 255]

        def zeros(token, n):
            return np.zeros((n + 1) // 2 if token == "4" else n, TYPES[token])

        x, w, at, words = Fenced(), Fenced(), Fenced(), Fenced()
        for row in kernels._table(sys.argv[1]):
            if row.index is None:
                continue
            for k in SIZES:
                for end, differences in ((0, True), (1, False), (1, True)):
                    index = np.arange(k) + 1 if not differences else np.ones(k)
                    args = [x.at(zeros(row.D, k), end), at.at(index.astype(f"u{int(row.index) // 8}"), end),
                            w.at(zeros(row.M, k + (not differences)), end)]
                    if row.rounding == "srb":
                        args.append(words.at(np.zeros(k, "u4" if row.D == "32f" else "u2"), end))
                    row(*([0.3] if row.op == "saxpy" else []), *args, differences=differences)
        for D, M in [(D, M) for D in TYPES for M in TYPES]:
            for bits in (8, 16, 32):
                for random in ("nearest", "shared", "mt19937"):
                    for k in (1, 2, 7, 8, 9, 16, 17, 63, 64, 65, 120):
                        for end in (0, 1):
                            indptr = np.array([0, 0, k, k, 2 * k, 2 * k])
                            index = np.ones(2 * k, f"u{bits // 8}")
                            model = w.at(zeros(M, k).view(np.uint8), end)
                            data = x.at(zeros(D, 2 * k + 4 if D == "4" else 2 * k).view(np.uint8), end)
                            job = Sgd(data, 0, 5, k, D, M, random, model, np.ones(5, np.float32), loss="squared", step=0.5,
                                      data_scale=1.0, model_scale=1.0, sparse=(indptr, at.at(index, end), True),
                                      isa=sys.argv[1])
                            job.run(0, 5)
        print("done")
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script), isa], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.strip() == "done"
