"""The training driver against a plain Python SGD built from the oracle, bit for bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference as R
from hypothesis import given
from hypothesis import strategies as st

import lowprec as lp
from lowprec import kernels
from lowprec._sgd import Sgd, max_threads, openmp_enabled
from lowprec.formats import FORMATS

RUNNABLE = [name for name, runnable in kernels._isas() if runnable]
RANDOMS = ("nearest", "shared", "xorshift", "mt19937")
LOSSES = ("logistic", "hinge", "squared")
KINDS = [(D, M, random) for D in R.TOKENS for M in R.TOKENS for random in (RANDOMS if M != "32f" else ("nearest",))]


def as_bytes(codes, token):
    """Packed codes as a fresh array of bytes."""
    return np.frombuffer(R.sweep_pack(codes, token).tobytes(), dtype=np.uint8).copy()


class Problem:
    """A small random problem whose steps move the model by quanta, and some of it into saturation."""

    def __init__(self, rng, D, M, rows=29, n=41, stride_extra=3, loss="logistic"):
        self.D, self.M, self.rows, self.n, self.loss = D, M, rows, n, loss
        if D == "32f":
            self.X = rng.standard_normal((rows, n)).astype(np.float32)
            self.data_scale = 1.0
        else:
            self.X = rng.integers(R.min_code(D), R.max_code(D), (rows, n), endpoint=True)
            self.data_scale = 1.0 / R.max_code(D)
        if M == "32f":
            self.w = (0.3 * rng.standard_normal(n)).astype(np.float32)
            self.model_scale = 1.0
        else:
            self.w = rng.integers(-R.max_code(M), R.max_code(M), n, endpoint=True) // 3
            self.model_scale = 1.5 / R.max_code(M)
        self.y = (rng.standard_normal(rows) if loss == "squared" else rng.choice([-1.0, 1.0], rows)).astype(np.float32)
        self.step = 0.5 if M == "4" else 0.05
        self.size = max(R.sweep_pack(row, D).nbytes for row in self.X)
        self.stride = self.size + (stride_extra if D in ("4", "8") else 4 * stride_extra)
        self.memory = np.full(rows * self.stride, 0xEE, dtype=np.uint8)
        for k, row in enumerate(self.X):
            self.memory[k * self.stride : k * self.stride + self.size] = as_bytes(row, D)
        self.memory.flags.writeable = False

    def plain(self, random, **options):
        return R.PlainSgd(self.X, self.D, self.M, random, self.w, self.y, loss=self.loss, step=self.step,
                          data_scale=self.data_scale, model_scale=self.model_scale, **options)  # fmt: skip

    def driver(self, random, **options):
        model = as_bytes(self.w, self.M)
        job = Sgd(self.memory, self.stride, self.rows, self.n, self.D, self.M, random, model, self.y, loss=self.loss,
                  step=self.step, data_scale=self.data_scale, model_scale=self.model_scale, **options)  # fmt: skip
        return job, model

    def codes(self, model):
        return R.sweep_unpack(model if self.M == "4" else model.view(R.DTYPES[self.M]), self.M, self.n)


def same(problem, model, plain):
    """Whether the driver's model is the plain one, to the bit."""
    got = problem.codes(model)
    return got.tobytes() == plain.w.astype(got.dtype).tobytes()


def cuts(rng, rows):
    """A random way to cut range(rows) into calls, empty ones included."""
    inner = sorted(rng.integers(0, rows + 1, int(rng.integers(0, 5))).tolist())
    return list(itertools.pairwise([0, *inner, rows]))


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize(("D", "M", "random"), KINDS)
def test_against_plain_sgd(D, M, random, isa, rng):
    for loss in LOSSES:
        problem = Problem(rng, D, M, loss=loss)
        plain = problem.plain(random, seed=5)
        job, model = problem.driver(random, seed=5, isa=isa)
        start = model.copy()
        for _ in range(2):
            assert plain.epoch(range(problem.rows)) == -1
            assert job.run(0, problem.rows) == -1
        job.flush()
        assert same(problem, model, plain), (loss, problem.codes(model), plain.w)
        assert (model != start).any()


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize(("D", "M", "random"), KINDS)
def test_everything_at_once(D, M, random, isa, rng):
    # order, weights (one of them zero), intercept, refresh > 1, calls cut anywhere, the order changed between epochs. The weights
    # take the steps through every size, because kernels take different ways by it; so they do by what n leaves over.
    for k, n in enumerate([1, 33, 64, 96, 128, 130, 256]):
        loss = LOSSES[k % 3]
        problem = Problem(rng, D, M, rows=40, n=n, loss=loss)
        spread = 1.0 if "32f" in (D, M) else 10.0
        weight = (2.0 ** rng.uniform(-spread, spread, problem.rows)).astype(np.float32)
        weight[3] = 0.0
        options = {"seed": 2**64 - 1, "refresh": 3, "weight": weight, "intercept": -0.25, "intercept_step": 0.01}
        plain = problem.plain(random, **options)
        order = rng.permutation(problem.rows).astype(np.int64)
        job, model = problem.driver(random, order=order, isa=isa, **options)
        for _ in range(2):
            assert plain.epoch(order.tolist()) == -1
            for first, last in cuts(rng, problem.rows):
                assert job.run(first, last) == -1
            order = rng.permutation(problem.rows).astype(np.int64)
            job.set_order(order)
        job.flush()
        assert same(problem, model, plain), (loss, n)
        assert job.intercept == plain.intercept
        assert job.intercept != -0.25


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize(("D", "M"), [(D, M) for D in R.FIXED for M in R.FIXED])
def test_every_size_of_step(D, M, isa, rng):
    # one row after another with a step of known size: m = weight, from 2^-18 quanta to beyond the model's whole range
    for n, random in itertools.product((64, 70), RANDOMS):
        problem = Problem(rng, D, M, rows=80, n=n, loss="hinge")
        problem.model_scale, problem.step, problem.data_scale = 1e-9, 1e-9, 1.0  # every margin is small: every row makes a step
        problem.w[:] = 0
        top = R.BITS[M] + 1
        weight = (2.0 ** np.linspace(-18, top, problem.rows)).astype(np.float32)[rng.permutation(problem.rows)]
        plain = problem.plain(random, weight=weight)
        job, model = problem.driver(random, weight=weight, isa=isa)
        for row in range(problem.rows):
            mu, e = R.step(float(weight[row]), M, False, 0)
            plain.epoch([row])
            assert job.run(row, row + 1) == -1
            job.flush()
            assert same(problem, model, plain), (n, random, row, mu, e)


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize(("D", "M", "random"), KINDS)
def test_nothing_else_is_written(D, M, random, isa, rng):
    for n in (63, 64, 96):
        problem = Problem(rng, D, M, n=n)
        data = problem.memory.copy()
        size = as_bytes(problem.w, M).size
        arena = np.full(size + 256, 0xA5, dtype=np.uint8)
        arena[128 : 128 + size] = as_bytes(problem.w, M)
        y = problem.y.copy()
        job = Sgd(data, problem.stride, problem.rows, n, D, M, random, arena[128 : 128 + size], y, loss="logistic", step=0.5,
                  data_scale=problem.data_scale, model_scale=problem.model_scale, n_threads=2, isa=isa)  # fmt: skip
        job.run(0, job.share)
        job.flush()
        assert (arena[:128] == 0xA5).all()
        assert (arena[128 + size :] == 0xA5).all()
        assert (data == problem.memory).all()
        assert (y == problem.y).all()


@pytest.mark.parametrize("random", RANDOMS)
@pytest.mark.parametrize("refresh", [1, 2, 7, 1000])
def test_refresh(random, refresh, rng):
    problem = Problem(rng, "8", "8", loss="hinge")  # examples without a step do not count as calls
    plain = problem.plain(random, refresh=refresh)
    job, model = problem.driver(random, refresh=refresh)
    plain.epoch(range(problem.rows))
    for first, last in cuts(rng, problem.rows):
        job.run(first, last)
    job.flush()
    assert same(problem, model, plain)


def test_hinge_skips_examples(rng):
    problem = Problem(rng, "8", "16", rows=40, loss="hinge")
    plain = problem.plain("shared")
    taken = []
    for row in range(problem.rows):
        before = plain.w.copy()
        plain.example(row)
        taken.append(bool((plain.w != before).any()))
    assert 5 < sum(taken) < 40  # the data meet both cases


@given(st.data())
def test_any_split_gives_the_same_bits(data):
    D, M, random = data.draw(st.sampled_from(KINDS))
    seed = data.draw(st.integers(0, 2**64 - 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    shape = {"rows": data.draw(st.integers(1, 40)), "n": data.draw(st.integers(1, 140))}
    problem = Problem(rng, D, M, loss=data.draw(st.sampled_from(LOSSES)), **shape)
    refresh = data.draw(st.integers(1, 9))
    whole, expected = problem.driver(random, seed=seed, refresh=refresh, isa="base")
    whole.run(0, problem.rows)
    whole.flush()
    parts, model = problem.driver(random, seed=seed, refresh=refresh, isa=data.draw(st.sampled_from(RUNNABLE)))
    points = sorted(data.draw(st.lists(st.integers(0, problem.rows), max_size=6)))
    for first, last in itertools.pairwise([0, *points, problem.rows]):
        parts.run(first, last)
        if data.draw(st.booleans()):
            parts.flush()  # early is as good as late
    parts.flush()
    parts.flush()  # and once is enough
    assert model.tobytes() == expected.tobytes()


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("M", R.FIXED)
def test_widening(M, isa, rng):
    problem = Problem(rng, "8", M)
    plain = problem.plain("shared", seed=9)
    job, model = problem.driver("shared", seed=9, isa=isa)
    for first, last in ((0, 10), (10, 20), (20, problem.rows)):
        plain.epoch(range(first, last))
        job.run(first, last)
        plain.widen()
        job.widen()  # flushes first
        assert job.model_scale == plain.model_scale
        assert same(problem, model, plain)
    assert job.model_scale == 8 * problem.model_scale


@pytest.mark.parametrize("M", R.FIXED)
def test_widening_halves_every_code_to_even(M):
    codes = np.arange(-R.max_code(M), R.max_code(M) + 1)
    problem = Problem(np.random.default_rng(0), "8", M, n=len(codes))
    problem.w = codes
    job, model = problem.driver("nearest")
    assert job.at_limit() == 2
    job.widen()
    assert problem.codes(model).tolist() == np.round(codes / 2).astype(int).tolist()  # numpy rounds half to even
    assert job.at_limit() == 0


def test_a_float_model_has_no_limit(rng):
    problem = Problem(rng, "8", "32f")
    problem.w[:] = 127.0
    job, model = problem.driver("nearest")
    before = model.copy()
    assert job.at_limit() == 0
    job.widen()
    assert (model == before).all()


def test_at_limit_counts_both_ends(rng):
    for M in R.FIXED:
        problem = Problem(rng, "8", M, n=101)
        problem.w[:] = rng.choice([0, 1, R.max_code(M) - 1, R.max_code(M), -R.max_code(M), 1 - R.max_code(M)], 101)
        job, _ = problem.driver("nearest")
        assert job.at_limit() == int((abs(problem.w) == R.max_code(M)).sum())


@pytest.mark.parametrize("M", R.TOKENS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_bad_row_is_named(M, value, rng):
    problem = Problem(rng, "32f", M)
    problem.w[7] = 1  # so that an infinite feature makes an infinite product
    for bad in (0, 11, problem.rows - 1):
        data = problem.X.copy()
        data[bad:, 7] = value
        rows = np.frombuffer(data.tobytes(), dtype=np.uint8)
        model = as_bytes(problem.w, M)
        job = Sgd(rows, data.strides[0], problem.rows, problem.n, "32f", M, "nearest", model, problem.y, loss="squared", step=0.0,
                  data_scale=1.0, model_scale=1.0)  # fmt: skip
        assert job.run(0, bad) == -1
        assert job.run(bad, problem.rows) == bad
        order = np.arange(problem.rows)[::-1].astype(np.int64).copy()
        job.set_order(order)
        assert job.run(0, 1) == problem.rows - 1  # the row's number, not its position


@pytest.mark.parametrize("isa", RUNNABLE)
def test_pad_codes_change_nothing(isa, rng):
    # drivers may be told n including pad codes that are zero, so that kernels have no tail
    for D, M, random in (("8", "8", "shared"), ("4", "4", "shared"), ("4", "16", "xorshift"), ("16", "8", "nearest")):
        problem = Problem(rng, D, M, n=50, stride_extra=0)
        plain = problem.plain(random, seed=1)
        plain.epoch(range(problem.rows))
        padded = Problem(rng, D, M, n=64, stride_extra=0)
        padded.X[:, :50], padded.X[:, 50:] = problem.X, 0
        padded.w[:50], padded.w[50:] = problem.w, 0
        padded.memory = np.concatenate([as_bytes(row, D) for row in padded.X])
        padded.y = problem.y
        job, model = padded.driver(random, seed=1, isa=isa)
        job.run(0, padded.rows)
        job.flush()
        assert padded.codes(model)[:50].tolist() == plain.w.tolist()
        assert not padded.codes(model)[50:].any()


@pytest.mark.parametrize("D", R.TOKENS)
def test_the_same_bits_on_every_isa_at_length(D, rng):
    for M in R.TOKENS:
        problem = Problem(rng, D, M, rows=7, n=4096 + 77)
        models = []
        for isa in RUNNABLE:
            job, model = problem.driver("shared", seed=3, isa=isa)
            job.run(0, problem.rows)
            job.flush()
            models.append(model.tobytes())
        plain = problem.plain("shared", seed=3)
        plain.epoch(range(problem.rows))
        assert len(set(models)) == 1
        assert same(problem, np.frombuffer(models[0], dtype=np.uint8), plain)


def test_threads_is_a_number_of_workers(rng):
    assert isinstance(openmp_enabled(), bool)
    assert max_threads() >= 1
    problem = Problem(rng, "8", "8", rows=64)
    job, _ = problem.driver("shared", n_threads=3)
    assert job.n_threads == 3
    assert job.share == 22  # 21, 21 and 22 rows
    assert [job.examples(k) for k in (0, 1, 21, 22)] == [0, 3, 63, 64]
    assert job.run(0, 22) == -1
    assert 1 <= job.threads <= 3
    job.flush()


def test_borrowed_buffers_are_kept_alive(rng):
    problem = Problem(rng, "8", "8", rows=50)
    plain = problem.plain("shared")
    plain.epoch(range(50))
    model = as_bytes(problem.w, "8")
    job = Sgd(problem.memory.copy(), problem.stride, 50, problem.n, "8", "8", "shared", model, problem.y.copy(), loss="logistic",
              step=problem.step, data_scale=problem.data_scale, model_scale=problem.model_scale,
              order=np.arange(50, dtype=np.int64), weight=np.ones(50, dtype=np.float32))  # fmt: skip
    clutter = [np.full(50 * problem.stride, 0xFF, dtype=np.uint8) for _ in range(20)]
    job.run(0, 50)
    job.flush()
    assert same(problem, model, plain)
    del clutter


def refused():
    """(changed argument, exception, fragment)."""
    return [
        ({"n_rows": 0}, ValueError, "n_rows"),
        ({"n_features": 0}, ValueError, "n_features"),
        ({"n_threads": 0}, ValueError, "n_threads"),
        ({"refresh": 0}, ValueError, "refresh"),
        ({"row_stride": 0}, ValueError, "row_stride"),
        ({"row_stride": 2**62, "n_rows": 5}, ValueError, "x must hold"),  # 4 * 2^62 is 0 in 64 bits
        ({"row_stride": 2**62 + 8, "n_rows": 3}, ValueError, "x must hold"),
        ({"n_rows": 30}, ValueError, "x must hold"),
        ({"y": np.zeros(28, dtype=np.float32)}, ValueError, "y must have"),
        ({"weight": np.zeros(28, dtype=np.float32)}, ValueError, "weight must have"),
        ({"order": np.zeros(28, dtype=np.int64)}, ValueError, "order must hold"),
        ({"order": np.full(29, 29, dtype=np.int64)}, ValueError, "order must hold"),
        ({"order": np.full(29, -1, dtype=np.int64)}, ValueError, "order must hold"),
        ({"model": np.zeros(40, dtype=np.uint8)}, ValueError, "model must hold"),
        ({"isa": "mmx"}, ValueError, "mmx"),
    ]


@pytest.mark.parametrize("number", range(len(refused())))
def test_refused(number, rng):
    change, exception, fragment = refused()[number]
    problem = Problem(rng, "8", "8")
    arguments = {
        "x": problem.memory, "row_stride": problem.stride, "n_rows": 29, "n_features": 41, "D": "8", "M": "8",
        "random": "shared", "model": np.zeros(41, dtype=np.uint8), "y": problem.y, "loss": "logistic", "step": 0.1,
        "data_scale": 1.0, "model_scale": 1.0,
    }  # fmt: skip
    with pytest.raises(exception, match=fragment):
        Sgd(**arguments | change)


@pytest.mark.parametrize(("first", "last"), [(-1, 3), (3, 2), (0, 30), (30, 30)])
def test_positions_out_of_range(first, last, rng):
    problem = Problem(rng, "8", "8")
    job, model = problem.driver("shared")
    before = model.copy()
    with pytest.raises(ValueError, match="positions"):
        job.run(first, last)
    job.flush()
    assert (model == before).all()


def test_a_read_only_model_is_refused(rng):
    problem = Problem(rng, "8", "8")
    model = np.zeros(41, dtype=np.uint8)
    model.flags.writeable = False
    with pytest.raises((ValueError, BufferError), match="read-only"):
        Sgd(problem.memory, problem.stride, 29, 41, "8", "8", "shared", model, problem.y, loss="logistic", step=0.1,
            data_scale=1.0, model_scale=1.0)  # fmt: skip


@pytest.mark.parametrize("M", ["4", "8", "16"])
@pytest.mark.parametrize("n", [1, 2, 31, 64, 101])
def test_narrowing_doubles_codes_or_does_nothing(M, n, rng):
    limit = FORMATS[M].max_code
    for largest in (0, limit // 2, limit // 2 + 1, limit):
        codes = rng.integers(-largest, largest + 1, n)
        codes[rng.integers(n)] = largest
        q = lp.quantize(codes.astype(np.float64), M, scale=1.0, rounding="nearest")
        x = lp.quantize(np.ones((1, n)), "8", scale=1.0, rounding="nearest")
        run = Sgd(x.buffer, x.row_stride, 1, n, "8", M, "nearest", q.buffer, np.ones(1, np.float32), loss="squared", step=0.0,
                  data_scale=1.0, model_scale=0.5)  # fmt: skip
        narrowed = run.narrow(limit)
        assert narrowed == (2 * largest <= limit)
        assert np.array_equal(q.unpacked(), codes * (2 if narrowed else 1))
        assert run.model_scale == (0.25 if narrowed else 0.5)
