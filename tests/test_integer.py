"""The all-integer mode: `train_integer` against a few lines of Python integers, to the last bit, and what its constants are."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import reference as R
from hypothesis import given
from hypothesis import strategies as st

import lowprec as lp
from lowprec import kernels
from lowprec._sgd import Sgd
from lowprec.integer_step import IntegerStep, integer_step

RUNNABLE = [name for name, runnable in kernels._isas() if runnable]
PAIRS = [(D, M) for D in R.FIXED for M in R.FIXED]
# How the model is rounded: train_integer's words for it, the oracle's.
ROUNDINGS = {
    "nearest": ("nearest", {"rounding": "nearest"}),
    "shared": ("sr", {"random": "shared"}),
    "xorshift": ("srx", {"random": "xorshift"}),
}


# ---- the oracle ---------------------------------------------------------------------------------------------


def sigmoid(i):
    """2**15 / (1 + exp(-(i + 0.5) / 16)) to nearest, from rational bounds of exp that no half lies between."""
    t = Fraction(2 * i + 1, 32)
    low = term = Fraction(1)
    for k in range(1, 60):
        term = term * abs(t) / k
        low += term
    high = low + term  # |t| <= 8: what is left of the series is below its last term
    bounds = {round(2**15 / (1 + (1 / e if t > 0 else e))) for e in (low, high)}
    assert len(bounds) == 1
    return bounds.pop()


SIGMOID = [sigmoid(i) for i in range(-128, 128)]


def mu_of(z, label, *, loss, s, eta, k, h):
    """mu of an example, from its product and its label's code."""
    if loss == "squared":
        e = label * 2**s - z
    else:
        i = z // 2**h if h >= 0 else z * 2**-h
        e = label * 2**15 - SIGMOID[max(-128, min(127, i)) + 128]
    return max(-(2**15 - 1), min(2**15 - 1, e * eta // 2**k))


def train(X, labels, w, M, rounding, *, c, batch_size, delay, orders, seed, **step):
    """The model after the epochs, each in its order, and how many words of random blocks were drawn by how many writes."""
    source = R.Stream(seed, 0)
    w, pending, writes = list(w), [], 0

    def write():
        nonlocal w, pending, writes
        rows = [(mu, x) for mu, x in pending if mu]
        pending = []
        if not rows:
            return
        writes += 1
        r = R.row_words("8", rounding, len(w), source, None)
        w = [R.saturate(w[j] + (sum(mu * 2**c * x[j] for mu, x in rows) + r[j]) // 2**16, M) for j in range(len(w))]

    for order in orders:
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            if not delay:
                write()
            new = [(mu_of(R.dot_integer(X[i], w), labels[i], **step), X[i]) for i in rows]
            write()
            pending = new
    write()
    return w, writes


def constants(step):
    """The oracle's names for the constants of a run."""
    return {
        "loss": step.loss, "s": step.label_shift, "eta": step.multiplier, "k": step.shift, "h": step.sigmoid_shift,
        "c": step.exponent,
    }  # fmt: skip


def problem(rng, D, m, n, loss):
    """Codes of data, and labels that a linear model explains in part."""
    top = R.max_code(D)
    X = rng.integers(-top - 1, top + 1, (m, n))
    p = X @ rng.standard_normal(n) / top / np.sqrt(n) + 0.2 * rng.standard_normal(m)
    return X, p if loss == "squared" else np.where(p > 0, 1.0, -1.0)


def coded(X, D, scale=1.0):
    """Codes as an array whose value is one quantum each."""
    return lp.from_codes(X.astype(np.int16 if D == "16" else np.int8), D, scale)


def oracle_of(r, X, y, rounding, *, batch_size=1, delay=0, orders, seed=0, init=None):
    """The model that the oracle ends with, given the constants of a run, and its number of writes."""
    w = [0] * X.shape[1] if init is None else init
    return train(X.tolist(), r.step.labels(y).tolist(), w, str(r.model.format), rounding, batch_size=batch_size, delay=delay,
                 orders=orders, seed=seed, **constants(r.step))  # fmt: skip


def codes(r):
    return r.model.unpacked().tolist()


@pytest.fixture
def isa(monkeypatch):
    """Choose the table of kernels that the next runs take."""
    return lambda name: monkeypatch.setattr(kernels, "_active_isa", lambda: name)


# ---- to the bit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("D", "M"), PAIRS)
def test_against_python_integers(D, M, isa, rng):
    # every rounding, batches that end short, both losses, late writes; scales and steps of many sizes, models at their limits
    cases = itertools.product(ROUNDINGS, (1, 2, 5, 16), (0, 1), ("squared", "logistic"))
    moved = at_limit = 0
    for k, (name, batch_size, delay, loss) in enumerate(cases):
        rounding, words = ROUNDINGS[name]
        m, n = 27, (33, 64, 70)[k % 3]
        X, y = problem(rng, D, m, n, loss)
        order, eta = list(range(m)), int(rng.choice([1, 3, 77, 255]))
        options = {
            "signature": f"D{D}M{M}", "loss": loss, "epochs": 2, "batch_size": batch_size, "delay": delay, "seed": k,
            "model_scale": 2.0 ** (int(rng.integers(0, 3)) - R.BITS[M]),
            "step_size": eta * 2.0 ** -(eta.bit_length() + int(rng.integers(2, 5))), **words,
        }  # fmt: skip
        x = coded(X, D, 2.0 ** (1 - R.BITS[D]))
        found = []
        for isa_name in RUNNABLE:
            isa(isa_name)
            r = lp.train_integer(x, y, **options)
            found.append(codes(r))
        expected, _ = oracle_of(r, X, y, rounding, batch_size=batch_size, delay=delay, orders=[order, order], seed=k)
        assert found == [expected] * len(RUNNABLE), options
        assert r.saturated == np.count_nonzero(np.abs(expected) == R.max_code(M))
        moved += np.count_nonzero(expected) > n // 3
        at_limit += r.saturated > 0
    assert moved > (40 if M != "4" else 30)  # of 48: to nearest, a step of 4 bits often leaves all as it is
    assert at_limit > 0


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize(("D", "M"), [("4", "8"), ("8", "8"), ("8", "16"), ("16", "16")])
def test_long_rows(D, M, delay, isa, rng):
    # several pieces of the model, and products beside an update
    m, n = 7, 16384 + 4096 + 1024 + 77
    X, y = problem(rng, D, m, n, "squared")
    x = coded(X, D, 2.0 ** (1 - R.BITS[D]))
    for name, (rounding, words) in ROUNDINGS.items():
        found = []
        for isa_name in RUNNABLE:
            isa(isa_name)
            r = lp.train_integer(x, y, signature=f"D{D}M{M}", batch_size=3, delay=delay, seed=5, step_size=2**-9,
                                 model_scale=2.0 ** (-1 - R.BITS[M]), **words)  # fmt: skip
            found.append(codes(r))
        expected, _ = oracle_of(r, X, y, rounding, batch_size=3, delay=delay, orders=[list(range(m))], seed=5)
        assert found == [expected] * len(RUNNABLE), name
        assert np.count_nonzero(expected) > n // 4


@given(st.data())
def test_any_constants(data):
    # labels and products of every size, against each other and against 64 bits
    D, M = data.draw(st.sampled_from(PAIRS), label="pair")
    loss = data.draw(st.sampled_from(["squared", "logistic"]), label="loss")
    data_scale, model_scale = (2.0 ** data.draw(st.integers(-40, 20)) for _ in range(2))
    exponent = data.draw(st.integers(0, 16), label="exponent")
    eta, k = data.draw(st.integers(1, 255), label="eta"), data.draw(st.integers(0, 90), label="k")
    unit = data_scale**2 if loss == "squared" else data_scale / model_scale * 2.0**-15
    largest = model_scale * data_scale * 2.0 ** data.draw(st.integers(-2, 60), label="labels")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32), label="values"))
    X, y = problem(rng, D, 6, 5, loss)
    if loss == "squared":
        y = y / np.abs(y).max() * largest
    init = rng.integers(-R.max_code(M), R.max_code(M) + 1, 5)
    batch_size, delay = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 1))
    r = lp.train_integer(coded(X, D, data_scale), y, signature=f"D{D}M{M}", loss=loss, batch_size=batch_size, delay=delay,
                         model_scale=model_scale, exponent=exponent, step_size=eta / 2.0**k / unit / 2.0 ** (16 - exponent),
                         init=init * model_scale, epochs=2)  # fmt: skip
    assert Fraction(r.step.multiplier, 2**r.step.shift) == Fraction(eta, 2**k)
    expected, _ = oracle_of(r, X, y, "srx", batch_size=batch_size, delay=delay, orders=[range(6)] * 2, init=init.tolist())
    assert codes(r) == expected


@pytest.mark.parametrize("delay", [0, 1])
def test_orders_and_a_start(delay, rng):
    X, y = problem(rng, "8", 30, 40, "squared")
    init = rng.integers(-100, 101, 40)
    seed = 2**64 - 1
    r = lp.train_integer(coded(X, "8", 2**-7), y, signature="D8M8", shuffle=True, epochs=3, batch_size=4, delay=delay, seed=seed,
                         step_size=2**-6, model_scale=2**-8, init=init / 256)  # fmt: skip
    orders = np.random.default_rng(seed)
    orders = [orders.permutation(30).tolist() for _ in range(3)]
    expected, _ = oracle_of(r, X, y, "srx", batch_size=4, delay=delay, orders=orders, seed=seed, init=init.tolist())
    assert codes(r) == expected
    assert expected != init.tolist()


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("words", [words for _, words in ROUNDINGS.values()], ids=list(ROUNDINGS))
def test_where_calls_are_cut_makes_no_difference(delay, words, monkeypatch, rng):
    # nor who looks at the model meanwhile: with late writes, the last one is still to come then
    X, y = problem(rng, "8", 31, 70, "squared")
    options = {"signature": "D8M16", "epochs": 2, "batch_size": 3, "delay": delay, "step_size": 2**-7, **words}
    whole = lp.train_integer(coded(X, "8", 2**-7), y, **options)
    monkeypatch.setattr("lowprec.loop._BLOCK", 1)  # a call for each batch
    seen = []
    cut = lp.train_integer(coded(X, "8", 2**-7), y, history=True, callback=lambda info: seen.append(info.coef()), **options)
    assert codes(cut) == codes(whole)
    assert len(seen) == 2 * 11
    assert len(cut.history) == 2
    assert np.array_equal(seen[-1], whole.coef)
    # what is seen at a point is what a run that ends there ends with
    for count in (1, 5, 13):
        stop = iter(range(1, 100))
        ended = lp.train_integer(coded(X, "8", 2**-7), y, callback=lambda _, n=count, s=stop: next(s) == n, **options)
        assert np.array_equal(ended.coef, seen[count - 1])
    if delay:
        assert codes(whole) != codes(lp.train_integer(coded(X, "8", 2**-7), y, **options | {"delay": 0}))


@pytest.mark.parametrize("delay", [0, 1])
def test_batches_that_change_nothing_draw_nothing(delay, rng):
    X, y = problem(rng, "8", 24, 33, "squared")
    y[:12] = 0.0  # as long as the model is zero, their errors are
    options = {"batch_size": 4, "step_size": 2**-6, "model_scale": 2**-9, "delay": delay}
    r = lp.train_integer(coded(X, "8", 2**-7), y, **options)
    expected, writes = oracle_of(r, X, y, "srx", batch_size=4, delay=delay, orders=[range(24)])
    assert codes(r) == expected
    assert writes == 3
    half = lp.train_integer(coded(X[12:], "8", 2**-7), y[12:], **options)
    assert half.step == r.step
    assert codes(half) == expected


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize(("D", "M"), [("4", "4"), ("8", "8"), ("16", "16"), ("16", "8")])
def test_where_nothing_is_rounded_down_it_is_train(D, M, batch_size, rng):
    # k = 0: mu is the exact product, and rounding it to nearest, or at random, leaves it what it is
    X, _ = problem(rng, D, 40, 50, "squared")
    X //= 2 ** (R.BITS[D] - 3)  # small numbers: the model stays within its range, and mu within 16 bits
    labels = rng.integers(-20, 21, 40)
    step_size = 3 * 2.0**-16  # scales of 1: eta = 3
    for rounding, (_, words) in ROUNDINGS.items():
        options = {"signature": f"D{D}M{M}", "loss": "squared", "batch_size": batch_size, "seed": 7, "epochs": 2,
                   "model_scale": 1.0, "step_size": step_size * 2 ** (5 if M == "4" else 6)} | words  # fmt: skip
        exact = lp.train_integer(coded(X, D), labels, **options)
        plain = lp.train(coded(X, D), labels, n_threads=1, **options)
        assert (exact.step.shift, exact.step.label_shift) == (0, 0)
        assert plain.widened == 0
        assert codes(exact) == codes(plain), rounding
        assert np.count_nonzero(codes(exact)) > 10 or rounding == "nearest"


# ---- the constants ------------------------------------------------------------------------------------------


def test_the_sigmoid_table():
    step = integer_step(8, 8, "logistic", 0.25, 2**-7, 2**-7, 1.0)
    assert step.sigmoid_table().tolist() == SIGMOID
    assert SIGMOID[127:129] == [16128, 16640]
    # symmetric but for halves, of which there are none
    assert [a + b for a, b in zip(SIGMOID, SIGMOID[::-1], strict=True)] == [2**15] * 256


@pytest.mark.parametrize("bits", [(8, 8), (4, 16), (16, 2), (24, 12), (8, 32)])
def test_the_constants_are_exact(bits, rng):
    D, M = bits
    F = 32 if max(bits) > 16 else 16
    for _ in range(200):
        a, b = (int(v) for v in rng.integers(-40, 10, 2))
        eta_2k = int(rng.integers(1, 256)) * 2.0 ** int(rng.integers(-90, 1))
        largest = float(rng.uniform(0, 1)) * 2.0 ** int(rng.integers(-30, 30))
        exponent = None if rng.random() < 0.5 else int(rng.integers(0, F + 1))
        c = max(0, M - D) if exponent is None else exponent
        q = Fraction(2) ** (a + b)
        step_size = eta_2k / 4.0**a / 2.0 ** (F - c)
        squared = integer_step(D, M, "squared", step_size, 2.0**a, 2.0**b, largest, exponent)
        assert squared.gradient_bits == F
        assert squared.exponent == c
        assert Fraction(squared.multiplier, 2**squared.shift) == Fraction(eta_2k)
        assert squared.multiplier % 2 or squared.shift == 0
        code = round(Fraction(largest) / (2**squared.label_shift * q))
        assert code < 2 ** (F - 1)
        assert squared.label_shift == 0 or round(Fraction(largest) / (2 ** (squared.label_shift - 1) * q)) >= 2 ** (F - 1)
        assert squared.labels([largest, -largest]).tolist() == [code, -code]
        step_size = eta_2k * 2.0 ** (b - a - F + c + 15)
        logistic = integer_step(D, M, "logistic", step_size, 2.0**a, 2.0**b, 1.0, exponent)
        assert (logistic.multiplier, logistic.shift) == (squared.multiplier, squared.shift)
        assert Fraction(2) ** logistic.sigmoid_shift == 1 / (16 * q)
        assert (logistic.label_shift, logistic.exponent) == (15, c)


def test_labels_are_rounded_half_to_even():
    step = integer_step(8, 8, "squared", 0.25, 2**-7, 2**-7, 1.0)
    assert step.labels(np.array([0.5, 1.5, 2.5, -0.5, -1.5]) * 2**-14).tolist() == [0, 2, 2, 0, -2]
    assert integer_step(8, 8, "logistic", 0.25, 2**-7, 2**-7, 1.0).labels([-1, 1, 0, True]).tolist() == [0, 1, 0, 1]


def test_errors_and_mu_by_hand():
    squared = IntegerStep("squared", 16, label_shift=3, multiplier=5, shift=2, exponent=0, sigmoid_shift=0)
    assert squared.error(10, 2) == 6
    assert [squared.mu(e) for e in (6, -6, -1, 0, 10**20, -(10**20))] == [7, -8, -2, 0, 32767, -32767]
    logistic = IntegerStep("logistic", 16, label_shift=15, multiplier=1, shift=0, exponent=0, sigmoid_shift=4)
    assert [logistic.error(z, 1) for z in (0, -1, 10**9, -(10**9))] == [16128, 16640, 11, 32757]
    to_the_left = IntegerStep("logistic", 16, label_shift=15, multiplier=1, shift=0, exponent=0, sigmoid_shift=-70)
    assert [to_the_left.error(z, 0) for z in (0, 1, -1)] == [-16640, -32757, -11]


def test_arrays_are_numbers_one_by_one(rng):
    for loss, h in (("squared", 0), ("logistic", 5), ("logistic", -3), ("logistic", -20)):
        step = IntegerStep(loss, 16, 15 if loss == "logistic" else 2, int(rng.integers(1, 256)), 6, 0, h)
        z, label = rng.integers(-(2**20), 2**20, 300), rng.integers(0, 2, 300)
        each = [step.mu(step.error(int(a), int(b))) for a, b in zip(z, label, strict=True)]
        assert all(type(mu) is int for mu in each)
        assert step.mu(step.error(z, label)).tolist() == each
        own = constants(step)
        del own["c"]
        assert each == [mu_of(int(a), int(b), **own) for a, b in zip(z, label, strict=True)]


# ---- learning -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize(("D", "M"), [(D, M) for D in R.FIXED for M in ("8", "16")])
def test_it_learns_as_well_as_a_model_of_floats(D, M, delay):
    # Above the same steps of a float32 model by no more than what rounding the model costs (the estimate at the top of
    # lowprec/model_range.py), plus what labels that are off by the floor of mu cost: least squares with labels off by up to b
    # are above the least loss by b**2 / 2 at most.
    datasets = pytest.importorskip("sklearn.datasets")
    X, y = datasets.load_diabetes(return_X_y=True)
    y = (y - y.mean()) / y.std()
    q = lp.quantize(X / np.abs(X).max(), D, scale=2.0 ** (1 - R.BITS[D]), rounding="nearest")
    options = {"loss": "squared", "step_size": 2**-4, "epochs": 20, "history": True}
    floats = lp.train(q, y, signature=f"D{D}M32f", n_threads=1, **options).history[-1]
    runs = [lp.train_integer(q, y, signature=f"D{D}M{M}", delay=delay, seed=seed, model_scale=2.0 ** (2 - R.BITS[M]), **options)
            for seed in range(8)]  # fmt: skip
    x, step = lp.dequantize(q, np.float64), runs[0].step
    pull = np.mean([np.abs(x @ r.coef - y) * np.abs(x).sum(axis=1) for r in runs])
    off = q.scale * runs[0].model_scale * 2**step.shift / step.multiplier
    excess = np.mean([r.history[-1] for r in runs]) - floats
    assert excess < runs[0].model_scale / 4 * pull + off**2 / 2
    assert all(np.array_equal(r.coef, lp.dequantize(r.model, np.float64)) for r in runs)


def test_logistic_regression(rng):
    X, y = problem(rng, "8", 2000, 20, "logistic")
    options = {"loss": "logistic", "step_size": 2**-6, "epochs": 5}
    r = lp.train_integer(coded(X, "8", 2**-7), y, signature="D8M16", history=True, **options)
    floats = lp.train(coded(X, "8", 2**-7), y, signature="D8M32f", n_threads=1, history=True, **options)
    # the table is off by a quarter of its distance of entries at most, half of 1/16, and its rounding; what gradients that are
    # off by so much cost is at most that, times how far the outputs of the two models lie apart
    off = 0.25 / 32 + 2.0**-15
    apart = np.abs(X / 128 @ (r.coef - floats.coef)).mean()
    assert r.history[-1] - floats.history[-1] < off * apart
    assert r.history[-1] < 0.7 * np.log(2)


def test_the_default_scales_are_powers_of_two(rng):
    X = rng.uniform(-3, 3, (500, 20)).astype(np.float32)
    y = X @ rng.standard_normal(20)
    for signature in ("D8M8", "D4M16", "D16M4", "D16M16"):
        r = lp.train_integer(X, y, signature=signature, step_size=2**-9, epochs=3)
        assert str(r.signature) == signature + "G16"
        assert {np.frexp(r.data.scale)[0], np.frexp(r.model_scale)[0]} == {0.5}
        assert np.abs(X).max() / r.data.scale <= r.data.format.max_code < 2 * np.abs(X).max() / r.data.scale
        assert r.data.clipped == 0
        assert r.widened == r.narrowed == 0
        assert r.model_scale == r.model.scale
    # integers of the signature's own width are their own codes
    own = lp.train_integer(np.rint(X).astype(np.int8), y, step_size=2**-9)
    assert own.data.scale == 1.0
    assert lp.train_integer(own.data, y, step_size=2**-9).data is own.data
    # a start that needs more range gets it
    assert lp.train_integer(X, y, step_size=2**-9, init=np.full(20, 100.0)).model_scale == 1.0


# ---- what is refused ----------------------------------------------------------------------------------------

X8 = np.arange(-8, 8, dtype=np.int8).reshape(8, 2)
Y8 = np.linspace(-1, 1, 8)


@pytest.mark.parametrize(
    ("change", "kind", "fragments"),
    [
        ({"signature": "D32fM8"}, ValueError, ["signature", "D in {4, 8, 16}", "D32fM8"]),
        ({"signature": "M8"}, ValueError, ["signature", "D in {4, 8, 16}"]),
        ({"signature": "D8M32f"}, ValueError, ["signature", "M in {4, 8, 16}"]),
        ({"signature": "D8M12"}, ValueError, ["M12", "no kernel"]),
        ({"signature": "D8M8G8"}, ValueError, ["signature", "G16 or no G", "D8M8G8"]),
        ({"signature": "D8i8M8"}, ValueError, ["signature", "no i"]),
        ({"signature": "D8M8C8s"}, ValueError, ["signature", "no C"]),
        ({"loss": "hinge"}, ValueError, ["loss", "squared, logistic", "hinge"]),
        ({"loss": "logistic"}, ValueError, ["y", "{-1, +1} or {0, 1}"]),
        ({"step_size": 0.1, "data_scale": 2**-4}, ValueError, ["eight significant", "0.099609375 and 0.10009765625", "got 0.1"]),
        ({"step_size": 257 / 2**20}, ValueError, [repr(256 / 2**20), repr(258 / 2**20)]),
        ({"step_size": 0.0}, ValueError, ["step_size", "positive"]),
        ({"step_size": 1.0}, ValueError, ["step_size", f"at most {255 / 2**16!r} with these scales", "got 1.0"]),
        ({"model_scale": 0.3}, ValueError, ["model_scale", "power of two", "0.25", "got 0.3"]),
        ({"model_scale": 0.4}, ValueError, ["model_scale", "power of two", "0.5"]),
        ({"model_scale": -1.0}, ValueError, ["model_scale", "positive"]),
        ({"data_scale": 3.0}, ValueError, ["data_scale", "power of two", "4.0", "got 3.0"]),
        ({"data_scale": "feature"}, (TypeError, ValueError), ["data_scale"]),
        ({"X": lp.from_codes(X8, "8", 0.3)}, ValueError, ["X.scale", "power of two", "0.25"]),
        ({"X": lp.from_codes(X8, "8", [0.5, 0.25])}, ValueError, ["X", "one scale for all features", "got 2"]),
        ({"X": lp.from_codes(X8, "8"), "data_scale": 1.0}, ValueError, ["data_scale", "has its own scale"]),
        ({"X": lp.from_codes(X8, "8"), "signature": "D16M8"}, ValueError, ["X", "format 16"]),
        ({"X": X8[0]}, ValueError, ["X", "two-dimensional"]),
        ({"exponent": 17}, ValueError, ["exponent", "[0, 16]"]),
        ({"exponent": -1}, ValueError, ["exponent", "[0, 16]"]),
        ({"delay": 2}, ValueError, ["delay", "[0, 1]"]),
        ({"delay": True}, TypeError, ["delay", "integer"]),
        ({"random": "mt19937"}, ValueError, ["random", "shared, xorshift"]),
        ({"rounding": "down"}, ValueError, ["rounding", "nearest, stochastic"]),
        ({"batch_size": 0}, ValueError, ["batch_size", "at least 1"]),
        ({"epochs": 0}, ValueError, ["epochs", "at least 1"]),
        ({"seed": -1}, ValueError, ["seed"]),
        ({"shuffle": "blocks"}, TypeError, ["shuffle", "True or False"]),
        ({"history": 1}, TypeError, ["history"]),
        ({"callback": 1}, TypeError, ["callback"]),
        ({"y": Y8[:7]}, ValueError, ["y", "8 rows", "got 7"]),
        ({"y": np.stack([Y8, Y8], axis=1)}, ValueError, ["y", "one-dimensional"]),
        ({"y": np.append(Y8[:7], np.nan)}, ValueError, ["y", "finite", "row 7"]),
        ({"y": 1e30 * Y8, "model_scale": 1.0}, ValueError, ["y", "labels must be at most", repr(2.0**61)]),
        ({"init": [300.0, 0.0], "model_scale": 1.0}, ValueError, ["init", "+-127", "got 300.0"]),
        ({"init": [1.0]}, ValueError, ["init", "2"]),
    ],
)
def test_arguments_that_are_refused(change, kind, fragments):
    arguments = {"X": X8, "y": Y8, "step_size": 2.0**-10} | change
    with pytest.raises(kind) as error:
        lp.train_integer(arguments.pop("X"), arguments.pop("y"), **arguments)
    assert all(fragment in str(error.value) for fragment in fragments), str(error.value)


def test_sparse_data_are_refused():
    sparse = pytest.importorskip("scipy.sparse")
    for X in (sparse.csr_array(X8), lp.quantize(sparse.csr_array(X8), "8")):
        with pytest.raises((TypeError, ValueError), match=r"X: .*dense"):
            lp.train_integer(X, Y8, step_size=2**-10)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"largest_label": -1.0}, "largest_label: must be finite and not negative"),
        ({"D_bits": 33}, r"D_bits: must lie in \[2, 32\]"),
        ({"M_bits": 1}, r"M_bits: must lie in \[2, 32\]"),
        ({"D_bits": 24, "exponent": 33}, r"exponent: must lie in \[0, 32\]"),
        ({"step_size": 2.0**-7 / 3}, "step_size: must have at most eight significant bits"),
        ({"data_scale": 0.75}, "data_scale: must be a power of two, so that integers are enough; the nearest is 1.0; got 0.75"),
    ],
)
def test_constants_that_are_refused(change, fragment):
    arguments = {"D_bits": 8, "M_bits": 8, "loss": "squared", "step_size": 2.0**-12, "data_scale": 1.0, "model_scale": 1.0,
                 "largest_label": 1.0}  # fmt: skip
    with pytest.raises(ValueError, match=fragment):
        integer_step(**(arguments | change))


def test_the_driver_refuses_what_it_cannot_do():
    given = {"label": np.zeros(8, np.int32), "sigmoid": None, "label_shift": 0, "multiplier": 1, "shift": 0, "exponent": 0,
             "sigmoid_shift": 0, "delay": 0}  # fmt: skip

    def driver(**change):
        more = {name: change.pop(name) for name in ("M", "n_threads", "intercept", "gradient") if name in change}
        M = more.pop("M", "8")
        return Sgd(X8.view(np.uint8).ravel(), 2, 8, 2, "8", M, "nearest", np.zeros(8, np.uint8), np.zeros(8, np.float32),
                   loss="squared", step=1.0, data_scale=1.0, model_scale=1.0, integer=given | change, **more)  # fmt: skip

    driver()
    for change in ({"M": "32f"}, {"n_threads": 2}, {"intercept": 0.0}, {"gradient": "8"}):
        with pytest.raises(ValueError, match="integer formats, one worker, and no weight, intercept and gradient"):
            driver(**change)
    for change in ({"label": np.zeros(7, np.int32)}, {"label": np.full(8, 2**15, np.int32)}, {"label_shift": 47}, {"shift": -1},
                   {"multiplier": 256}, {"multiplier": 0}, {"exponent": 17}):  # fmt: skip
        with pytest.raises(ValueError, match="must have a label in"):
            driver(**change)
    with pytest.raises(ValueError, match="256 numbers in sigmoid, got 255"):
        driver(sigmoid=np.zeros(255, np.int32))
    late, model = driver(delay=1), np.zeros(8, np.uint8)
    assert late.run(0, 8) == -1
    assert late.snapshot(model) == 0.0
