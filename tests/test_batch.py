"""Mini-batches: the kernel rows against the oracle, the driver against a plain Python SGD, both to the last bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference as R
from hypothesis import given
from hypothesis import strategies as st
from test_kernels import FLOAT_STEPS, Operand, data_codes, integer_steps, model_codes, random_words, same_codes, same_float
from test_sgd_driver import LOSSES, RANDOMS, Problem

from lowprec import kernels
from lowprec._sgd import Sgd

RUNNABLE = [name for name, runnable in kernels._isas() if runnable]
MATRIX = [(D, M, r) for D in R.TOKENS for M in R.TOKENS for r in (R.ROUNDINGS if M != "32f" else ("nearest",))]
ROWS = [(isa, *row) for isa in RUNNABLE for row in MATRIX]
PAIRS = [(isa, D, M) for isa in RUNNABLE for D in R.TOKENS for M in R.TOKENS]
# The widest step of a kernel's loop in columns; lengths go beyond twice that, and over the edge of a call.
WIDEST = 128
ALIGN = {"4": 1, "8": 1, "16": 2, "32f": 4}


def every(rows):
    return pytest.mark.parametrize("row", rows, ids="_".join)


# ---- one call of a row --------------------------------------------------------------------------------------


def check(row, *, rows, w, m, rows_next, n, words=None, seed=0, stream=0, offsets=(), oracle=R.sweep_batch):
    """Call the row and compare w, the sums and everything around them with the oracle."""
    isa, D, M, rounding = row
    offsets = itertools.cycle(offsets or (0,))

    def place(codes, token):
        return Operand(R.sweep_pack(codes, token), next(offsets) // ALIGN[token] * ALIGN[token])

    x, x_next = [place(codes, D) for codes in rows], [place(codes, D) for codes in rows_next]
    model = place(w, M)
    random = None if words is None else Operand(words.astype(np.uint32 if D == "32f" else np.uint16), 4)
    sums = kernels._batch(isa, D, M, rounding, m, [a.array for a in x], model.array, [a.array for a in x_next], n,
                          None if random is None else random.array, seed, stream)  # fmt: skip
    case = f"{row}: n={n}, m={m}, {len(rows_next)} products"
    expected_w, expected = oracle(D, M, rounding, rows=rows, w=w, m=m, rows_next=rows_next, n=n, words=words, seed=seed,
                                  stream=stream)  # fmt: skip
    for operand in x + x_next:
        operand.check_unchanged("a row")
    model.check_guards("w")
    whole = np.asarray(w).copy()
    whole[:n] = expected_w
    assert same_codes(R.sweep_unpack(model.array, M, len(w)), whole), case
    if M == "4" and len(w) % 2:
        assert model.array[-1] >> 4 == 0, case
    assert len(sums) == len(expected), case
    for got, wanted in zip(sums, expected, strict=True):
        assert type(got) is type(wanted), case
        assert same_float(got, wanted) if type(wanted) is float else got == wanted, case


def steps_of(row):
    return FLOAT_STEPS if "32f" in row[1:3] else integer_steps(row[2])


def small_steps(row):
    """Steps as training makes them: none irregular, even in sum."""
    return [m for m in steps_of(row) if abs(m) < 0.02]


def draw_case(rng, row, n, count, count_next, *, steps=None, x_kind="random", w_kind="random", words_kind="random"):
    _, D, M, rounding = row
    case = {
        "rows": [data_codes(rng, D, n, x_kind) for _ in range(count)],
        "rows_next": [data_codes(rng, D, n, x_kind) for _ in range(count_next)],
        "w": model_codes(rng, M, n, w_kind),
        "m": rng.choice(steps or small_steps(row), count).tolist(),
        "n": n,
        "offsets": rng.integers(0, 64, 7).tolist(),
    }
    if rounding == "srb":
        case["words"] = random_words(rng, D, n, words_kind)
    if rounding != "nearest":
        case |= {"seed": int(rng.integers(0, 50)), "stream": int(rng.integers(0, 2))}
    return case


def plain(D, M, rounding, *, rows, w, rows_next, **case):
    """R.batch on lists."""
    new, sums = R.batch(D, M, rounding, rows=[x.tolist() for x in rows], w=w.tolist(),
                        rows_next=[x.tolist() for x in rows_next], **case)  # fmt: skip
    return np.array(new, dtype=np.float32 if M == "32f" else np.int64), sums


@every(ROWS)
def test_against_the_plain_oracle(row, rng):
    for (n, kind), count in itertools.product(itertools.product((1, 35, 67, 130), ("random", "ends")), (1, 2, 5)):
        kinds = dict.fromkeys(("x_kind", "w_kind", "words_kind"), kind)
        check(row, oracle=plain, **draw_case(rng, row, n, count, 2, steps=steps_of(row), **kinds))


@every(MATRIX)
def test_one_row_is_an_axpy(row, rng):
    for n in (1, 33, 130):
        case = draw_case(rng, ("base", *row), n, 1, 0, steps=steps_of(("base", *row)))
        del case["offsets"]
        w, _ = R.sweep_batch(*row, **case)
        x, m = case.pop("rows")[0], case.pop("m")[0]
        del case["rows_next"]
        assert same_codes(w, R.sweep_kernel("axpy", *row, x=x, m=m, **case)[0])


@every(ROWS)
def test_lengths(row, rng):
    for n in range(2 * WIDEST + 2):
        check(row, **draw_case(rng, row, n, n % 5, n % 7))


@every(ROWS)
def test_numbers_of_rows(row, rng):
    for count, count_next in itertools.product(range(10), range(10)):
        check(row, **draw_case(rng, row, int(rng.choice([64, 128, 131, 192])), count, count_next))
    check(row, **draw_case(rng, row, 131, 67, 67))


@every(ROWS)
def test_over_the_edge_of_a_call(row, rng):
    # a piece of the model has 4096 columns here; beside an update of 1024 go products of 2048
    for n in (4095, 4096, 4097, 4096 + 1500, 8192 + 70):
        check(row, **draw_case(rng, row, n, 3, 5))
    for n, count, count_next in ((4096 + 1100, 16, 2), (4096 + 2100, 6, 9), (8192 + 1056, 5, 16), (8192, 2, 4), (8192, 8, 1)):
        check(row, **draw_case(rng, row, n, count, count_next))


@every(ROWS)
def test_steps_of_every_size(row, rng):
    # one large step among small ones, and all of them large: sums beyond 32 bits, beyond the model's range, beyond 16-bit codes
    for m in steps_of(row):
        count = int(rng.integers(1, 10))
        case = draw_case(rng, row, int(rng.integers(1, 200)), count, 1, x_kind=str(rng.choice(["random", "ends", "min", "max"])))
        case["m"][int(rng.integers(count))] = m
        check(row, **case)
        check(row, **draw_case(rng, row, 131, 9, 3, steps=[m, -m], w_kind="ends", words_kind="ends"))


@every(ROWS)
def test_sums_at_the_edge_of_each_way(row, rng):
    # every step and every number of one sign, so that a sum is as large as its |mu| allow
    M = row[2]
    for bits in range(-16, R.BITS[M] + 2):
        for x_kind, w_kind, sign in itertools.product(("min", "max"), ("least", "max"), (1, -1)):
            for count in (2, 4, 7, 16):
                # just below, at and above a power of two of the sum of |mu|
                for nudge in (-1, 0, 1):
                    case = draw_case(rng, row, 67, count, 0, x_kind=x_kind, w_kind=w_kind, words_kind="ends")
                    first = sign * 2.0**bits / count
                    case["m"] = [first] * (count - 1) + [first + sign * nudge * 2.0**-16]
                    check(row, **case)


@every(ROWS)
def test_alignment(row, rng):
    for k in range(64):
        case = draw_case(rng, row, 193, 3, 5)
        case["offsets"] = [k, (37 * k + 11) % 64, (13 * k + 5) % 64, (7 * k + 3) % 64, 0]
        check(row, **case)


@every([row for row in ROWS if "4" in row[1:3]])
def test_neighbors_of_odd_tails(row, rng):
    for n, more in itertools.product((1, 31, 33, 65, 127, 129), (0, 1, 2, 5)):
        case = draw_case(rng, row, n + more, 3, 2)
        check(row, **case | {"n": n})


@every(ROWS)
def test_products_at_the_extremes(row, rng):
    for n, (x_kind, w_kind) in itertools.product((4096, 9000), (("min", "least"), ("min", "max"), ("max", "max"))):
        check(row, **draw_case(rng, row, n, 0, 5, x_kind=x_kind, w_kind=w_kind))


@given(st.data())
def test_any_call(data):
    row = data.draw(st.sampled_from(ROWS), label="row")
    n = data.draw(st.integers(0, 400), label="n")
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32), label="values"))
    kind = st.sampled_from(["random", "ends"])
    steps = data.draw(st.sampled_from([steps_of(row), small_steps(row)]))
    counts = data.draw(st.integers(0, 20)), data.draw(st.integers(0, 20))
    kinds = {name: data.draw(kind) for name in ("x_kind", "w_kind", "words_kind")}
    check(row, **draw_case(generator, row, n, *counts, steps=steps, **kinds))


# ---- the driver ---------------------------------------------------------------------------------------------

GRADIENTS = (None, "8", "16", "32f")


def drivers(problem, random, *, isa=None, order=None, data_limit=None, **options):
    """The driver, its model, and the plain SGD."""
    if problem.D == "32f":
        data_limit = float(np.abs(problem.X).max())
    plain = R.PlainBatchSgd(problem.X, problem.D, problem.M, random, problem.w, problem.y, loss=problem.loss, step=problem.step,
                            data_scale=problem.data_scale, model_scale=problem.model_scale, data_limit=data_limit,
                            **options)  # fmt: skip
    job, model = problem.driver(random, isa=isa, order=order, data_limit=data_limit, **options)
    return job, model, plain


def same(problem, model, plain):
    got = problem.codes(model)
    return got.tobytes() == plain.w.astype(got.dtype).tobytes()


@every(PAIRS)
def test_driver_against_plain_sgd(row, rng):
    isa, D, M = row
    for gradient, random, loss in itertools.product(GRADIENTS, RANDOMS, LOSSES):
        problem = Problem(rng, D, M, loss=loss)
        size = int(rng.choice([1 if gradient else 2, 2, 3, 5, 8, 29, 40]))
        job, model, plain = drivers(problem, random, isa=isa, batch_size=size, gradient=gradient, seed=5)
        start = model.copy()
        for _ in range(2):
            assert plain.epoch(range(problem.rows)) == -1
            assert job.run(0, problem.rows) == -1
        job.flush()
        assert same(problem, model, plain), (gradient, random, loss, size)
        assert (model != start).any()


@every(PAIRS)
def test_everything_at_once(row, rng):
    # order, weights (one of them zero) that take the steps through every size, intercept, refresh > 1, calls cut at multiples of
    # the batch's size, the order changed between epochs
    isa, D, M = row
    for k, (gradient, random) in enumerate(itertools.product(GRADIENTS, RANDOMS)):
        n, size = int(rng.choice([1, 33, 64, 96, 128, 130, 256])), int(rng.integers(2, 9))
        problem = Problem(rng, D, M, rows=40, n=n, loss=LOSSES[k % 3])
        spread = 1.0 if "32f" in (D, M) else 10.0
        weight = (2.0 ** rng.uniform(-spread, spread, problem.rows)).astype(np.float32)
        weight[3] = 0.0
        order = rng.permutation(problem.rows).astype(np.int64)
        options = {"seed": 2**64 - 1, "refresh": 3, "weight": weight, "intercept": -0.25, "intercept_step": 0.01}
        job, model, plain = drivers(problem, random, isa=isa, order=order, batch_size=size, gradient=gradient, **options)
        for _ in range(2):
            assert plain.epoch(order.tolist()) == -1
            inner = sorted((rng.integers(0, problem.rows // size + 1, 3) * size).tolist())
            for first, last in itertools.pairwise([0, *inner, problem.rows]):
                assert job.run(first, last) == -1
                if rng.random() < 0.3:
                    job.flush()
            order = rng.permutation(problem.rows).astype(np.int64)
            job.set_order(order)
        job.flush()
        job.flush()
        assert same(problem, model, plain), (gradient, random, n, size)
        assert job.intercept == plain.intercept
        assert job.intercept != -0.25


@pytest.mark.parametrize("D", R.TOKENS)
def test_the_same_bits_on_every_isa_at_length(D, rng):
    for M, gradient, random in itertools.product(R.TOKENS, GRADIENTS, ("shared", "mt19937")):
        problem = Problem(rng, D, M, rows=7, n=16384 + 4096 + 1024 + 77)
        models = []
        for isa in RUNNABLE:
            job, model, plain = drivers(problem, random, isa=isa, batch_size=3, gradient=gradient, seed=3)
            job.run(0, problem.rows)
            job.flush()
            models.append(model.tobytes())
        plain.epoch(range(problem.rows))
        assert len(set(models)) == 1
        assert same(problem, np.frombuffer(models[0], dtype=np.uint8), plain)


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize(("D", "M"), [(D, M) for D in R.TOKENS for M in R.TOKENS])
def test_batches_of_one_are_the_example_by_example_loop(D, M, isa, rng):
    for random in RANDOMS:
        problem = Problem(rng, D, M, rows=40, loss="hinge", n=77)
        options = {"seed": 3, "refresh": 2, "intercept": 0.5, "intercept_step": 0.1, "isa": isa}
        one, expected = problem.driver(random, batch_size=1, **options)
        one.run(0, 40)
        one.flush()
        # batches of 40, every one cut short to one example by the end of its call
        cut, model = problem.driver(random, batch_size=40, **options)
        for row in range(40):
            cut.run(row, row + 1)
        cut.flush()
        assert model.tobytes() == expected.tobytes()
        assert one.intercept == cut.intercept


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_widening(gradient, isa, rng):
    for M in R.FIXED:
        problem = Problem(rng, "8", M)
        job, model, plain = drivers(problem, "shared", isa=isa, batch_size=4, gradient=gradient, seed=9)
        for first, last in ((0, 8), (8, 20), (20, problem.rows)):
            plain.epoch(range(first, last))
            job.run(first, last)
            plain.widen()
            job.widen()
            assert same(problem, model, plain)


@pytest.mark.parametrize("M", R.TOKENS)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_the_first_bad_row_is_named(M, gradient, rng):
    for bad, value in itertools.product((0, 11, 28), (np.nan, np.inf)):
        problem = Problem(rng, "32f", M)
        problem.w[:] = 1
        data_limit = float(np.abs(problem.X).max())
        problem.X[bad, 7] = value
        problem.X[min(bad + 2, 28), 7] = value
        memory = np.concatenate([row.view(np.uint8) for row in problem.X])
        model = problem.driver("shared")[1]
        job = Sgd(memory, 4 * problem.n, problem.rows, problem.n, "32f", M, "shared", model, problem.y, loss="logistic",
                  step=problem.step, data_scale=1.0, model_scale=problem.model_scale, batch_size=5, gradient=gradient,
                  data_limit=data_limit)  # fmt: skip
        plain = R.PlainBatchSgd(problem.X, "32f", M, "shared", problem.w, problem.y, loss="logistic", step=problem.step,
                                data_scale=1.0, model_scale=problem.model_scale, batch_size=5, gradient=gradient,
                                data_limit=data_limit)  # fmt: skip
        assert job.run(0, problem.rows) == plain.epoch(range(problem.rows)) == bad
        job.flush()
        assert same(problem, model, plain)  # the batches before it count, its own does not


def test_a_batch_of_every_row(rng):
    problem = Problem(rng, "8", "16")
    for gradient, size in itertools.product(GRADIENTS, (29, 30, 10**15)):
        job, model, plain = drivers(problem, "shared", batch_size=size, gradient=gradient)
        job.run(0, 29)
        job.flush()
        plain.epoch(range(29))
        assert same(problem, model, plain)


@pytest.mark.parametrize("gradient", [None, "8"])
def test_a_batch_without_steps_draws_nothing(gradient, rng):
    problem = Problem(rng, "8", "8", loss="hinge", rows=24)
    weight = np.repeat([1.0, 0.0, 1.0], 8).astype(np.float32)
    job, model, plain = drivers(problem, "xorshift", batch_size=4, gradient=gradient, weight=weight)
    job.run(0, 24)
    job.flush()
    plain.epoch([*range(8), *range(16, 24)])
    assert same(problem, model, plain)


def test_the_sum_in_float64(rng):
    # what a batch adds to the model is the sum of the gradients, within a quantum and the error of the format
    problem = Problem(rng, "8", "16", rows=16, loss="squared")
    problem.step = 1e-2
    values = problem.w * problem.model_scale
    x = problem.X * problem.data_scale
    change = -problem.step * (x @ values - problem.y) @ x
    size = np.abs(problem.step * (x @ values - problem.y)).sum()
    for gradient, error in ((None, 0.0), ("32f", 0.0), ("16", size / 32767), ("8", size / 127)):
        job, model, _ = drivers(problem, "nearest", batch_size=16, gradient=gradient)
        job.run(0, 16)
        job.flush()
        moved = problem.codes(model) * problem.model_scale - values
        assert np.abs(moved - change).max() < 0.51 * (problem.model_scale + error) + 1e-6
        assert np.abs(moved).max() > 20 * problem.model_scale


@pytest.mark.parametrize("random", ["shared", "xorshift", "mt19937"])
@pytest.mark.parametrize(("D", "M", "gradient"), [("8", "8", None), ("8", "8", "8"), ("32f", "8", "8"), ("8", "32f", "8")])
def test_roundings_without_bias(D, M, gradient, random, rng):
    # one batch from the same model, many seeds: the mean change is that of exact arithmetic
    problem = Problem(rng, D, M, rows=8, n=32, loss="squared", stride_extra=0)
    problem.w[:] = 0
    problem.step = 0.02
    x = problem.X * problem.data_scale
    change = problem.step * problem.y @ x / problem.model_scale
    moved = []
    for seed in range(3000):
        job, model, _ = drivers(problem, random, batch_size=8, gradient=gradient, seed=seed)
        job.run(0, 8)
        job.flush()
        moved.append(problem.codes(model).astype(np.float64))
    moved = np.array(moved)
    error = moved.std(axis=0) / np.sqrt(len(moved))
    assert np.abs(change).max() > 20 * error.max()
    assert (np.abs(moved.mean(axis=0) - change) < 5 * error + 1e-3 * np.abs(change) + 1e-6).all()


def test_workers_share_the_model(rng):
    # every worker's part of a run takes effect: rows of three workers that move different columns
    problem = Problem(rng, "8", "16", rows=30, n=64, loss="squared")
    problem.X[:] = 0
    for k, row in enumerate(problem.X):
        row[k // 10] = 100
    problem.memory = np.concatenate([row.astype(np.int8).view(np.uint8) for row in problem.X])
    problem.stride, problem.y[:] = problem.n, 3.0
    for gradient in GRADIENTS:
        job, model = problem.driver("shared", batch_size=4, gradient=gradient, n_threads=3)
        assert job.run(0, job.share) == -1
        job.flush()
        moved = problem.codes(model) != problem.w
        assert moved[:3].all()
        assert not moved[3:].any()


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 4, "gradient": "4"}, "gradient"),
        ({"batch_size": 4, "gradient": "8", "D": "32f"}, "data_limit"),
        ({"batch_size": 4, "gradient": "16", "D": "32f", "data_limit": float("nan")}, "data_limit"),
        ({"batch_size": 4, "gradient": "16", "D": "32f", "data_limit": -1.0}, "data_limit"),
    ],
)
def test_refused(change, fragment, rng):
    problem = Problem(rng, change.pop("D", "8"), "8")
    with pytest.raises(ValueError, match=fragment):
        problem.driver("shared", **change)
