"""lp.train: what is driven through it is the compiled loop bit for bit, and what it decides by itself is right."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import types

import numpy as np
import pytest

import lowprec as lp
from lowprec import kernels, loop, losses, preparing, sgd
from lowprec._sgd import Sgd, openmp_enabled
from lowprec.datasets import generative
from lowprec.formats import FORMATS

PAIRS = [(D, M) for D in FORMATS for M in FORMATS]
PROBLEM = generative(32, 4096, seed=3)


def train(X, y, **options):
    return lp.train(X, y, **({"n_threads": 1, "step_size": 0.02} | options))


def loss_of(r, X=PROBLEM.X, y=PROBLEM.y, name="logistic"):
    return losses.mean_loss(name, X.astype(np.float64) @ r.coef + r.intercept, y)


def same(a, b):
    return np.array_equal(a.model.buffer, b.model.buffer) and a.model.scale == b.model.scale and a.intercept == b.intercept


# ---- the compiled loop, whatever the blocks ----------------------------------------------------------------


@pytest.mark.parametrize("random", ["nearest", "shared", "xorshift", "mt19937"])
@pytest.mark.parametrize(("D", "M"), PAIRS)
def test_equals_the_driver_run_in_one_piece(D, M, random, monkeypatch):
    """Blocks, looks at saturation, history and callbacks change no bit."""
    X, y, _ = generative(37, 700, seed=1)
    q = lp.quantize(X, D, rounding="nearest")
    scale = 1.0 if M == "32f" else 8.0 / FORMATS[M].max_code  # wide: never widened
    expected = lp.quantize(np.zeros(37), M, scale=scale)
    run = Sgd(q.buffer, q.row_stride, 700, 37, D, M, random, expected.buffer, y.astype(np.float32), loss="logistic",
              step=0.1, data_scale=q.scale, model_scale=scale, seed=5, refresh=3, intercept=0.0, intercept_step=0.1)  # fmt: skip
    for _ in range(2):
        assert run.run(0, 700) == -1
    run.flush()
    monkeypatch.setattr(loop, "_BLOCK", 37 * 101)
    rounding = {"rounding": "nearest"} if random == "nearest" else {"random": random}
    r = train(X, y, signature=f"D{D}M{M}", step_size=0.1, epochs=2, seed=5, refresh=3, fit_intercept=True, history=True,
              model_scale=None if M == "32f" else scale, callback=lambda info: info.coef() is None, **rounding)  # fmt: skip
    assert r.widened == 0
    assert np.array_equal(r.model.codes, expected.codes)
    assert r.intercept == run.intercept
    assert np.array_equal(r.coef, lp.dequantize(r.model, np.float64))
    assert r.n_examples == 1400


def test_one_thread_is_reproducible_and_seeds_differ():
    a, b, c = (train(PROBLEM.X, PROBLEM.y, shuffle=True, seed=s, epochs=2) for s in (7, 7, 8))
    assert same(a, b)
    assert not same(a, c)


SCRIPT = """
import hashlib
import lowprec as lp
from lowprec.datasets import generative
X, y, w = generative(45, 3000, seed=2)
h = hashlib.sha256()
for s in ("D4M4", "D8M8", "D8M16", "D16M16", "D32fM8", "D32fM32f", "D16M32f"):
    for loss in ("logistic", "hinge", "squared"):
        for scale in (None, 1e-5):
            if scale is not None and s.endswith("32f"):
                continue
            r = lp.train(X, y, signature=s, loss=loss, step_size=0.01, epochs=2, n_threads=1, model_scale=scale,
                         fit_intercept=True)
            h.update(r.coef.tobytes())
            h.update(repr((r.intercept, r.model_scale, r.widened, r.saturated)).encode())
print(lp.isa(), h.hexdigest())
"""


def test_the_same_bits_on_every_isa():
    """The choice of a scale and when to widen it included."""
    found = {}
    for name, runnable in kernels._isas():
        if runnable:
            out = subprocess.run(
                [sys.executable, "-c", SCRIPT], env=os.environ | {"LOWPREC_ISA": name}, capture_output=True, text=True, check=True
            )
            ran, found[name] = out.stdout.split()
            assert ran == name
    assert len(set(found.values())) == 1, found


# ---- against plain float64 SGD -----------------------------------------------------------------------------


def plain_sgd(X, y, loss, step, order, weight=None, w=None, b=0.0, fit_intercept=False):
    w = np.zeros(X.shape[1]) if w is None else np.array(w, np.float64)
    for i in order:
        p = X[i] @ w + b
        if loss == "logistic":
            d = -y[i] / (1 + np.exp(y[i] * p))
        elif loss == "hinge":
            d = -y[i] if y[i] * p < 1 else 0.0
        else:
            d = p - y[i]
        d *= 1.0 if weight is None else weight[i]
        w -= step * d * X[i]
        b -= step * d if fit_intercept else 0.0
    return w, b


@pytest.mark.parametrize("loss", ["logistic", "squared", "hinge"])
def test_float32_follows_float64(loss, rng):
    X = rng.uniform(-1, 1, (300, 9)).astype(np.float32)
    y = rng.normal(size=300) if loss == "squared" else rng.choice([-1, 1], 300)
    weight, start = rng.uniform(0, 2, 300), rng.normal(size=9)
    seen = np.concatenate([np.random.default_rng(4).permutation(300)] * 1)
    w, b = plain_sgd(X.astype(np.float64), y.astype(np.float64), loss, 0.05, seen, weight, start, 0.3, fit_intercept=True)
    r = train(X, y, signature="D32fM32f", loss=loss, step_size=0.05, shuffle=True, seed=4, sample_weight=weight, init=start,
              fit_intercept=True, init_intercept=0.3)  # fmt: skip
    # 300 updates and a few roundings in each; a hinge example on the edge could take the other side, these do not
    bound = 300 * 4 * np.finfo(np.float32).eps * np.abs(w).max()
    assert np.abs(r.coef - w).max() < bound
    assert abs(r.intercept - b) < bound


@pytest.mark.parametrize("signature", ["D8M16", "D16M16", "D32fM16", "D16M32f"])
@pytest.mark.parametrize("loss", ["logistic", "hinge", "squared"])
def test_sixteen_bits_learn_as_well_as_float32(signature, loss):
    y = PROBLEM.y * 2.0 if loss == "squared" else PROBLEM.y
    full = train(PROBLEM.X, y, signature="D32fM32f", loss=loss, epochs=3, step_size=0.004)
    r = train(PROBLEM.X, y, signature=signature, loss=loss, epochs=3, step_size=0.004)
    assert loss_of(r, y=y, name=loss) <= 1.01 * loss_of(full, y=y, name=loss)


def test_an_intercept_is_learned(rng):
    X = rng.uniform(-1, 1, (4000, 8)).astype(np.float32)
    y = np.where(X @ np.arange(-4, 4) + 2.0 > 0, 1, -1)
    without, r = (train(X, y, signature="D8M16", epochs=3, fit_intercept=flag) for flag in (False, True))
    assert without.intercept == 0.0
    assert r.intercept > 1.0
    assert np.mean((X @ r.coef + r.intercept > 0) == (y > 0)) > 0.97


# ---- data in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "uint8", "bool", "int16", "int8"])
@pytest.mark.parametrize("layout", ["C", "F", "rows", "columns", "reversed", "read-only"])
def test_any_array_is_what_quantize_makes_of_it(dtype, layout, rng):
    a = rng.integers(0, 2, (60, 10)) if dtype == "bool" else rng.integers(0, 100, (60, 10))
    a = np.asarray(a).astype(dtype)
    y = rng.choice([0, 1], 60)
    view = {
        "C": a,
        "F": np.asfortranarray(a),
        "rows": np.repeat(a, 2, axis=0)[::2],
        "columns": np.repeat(a, 2, axis=1)[:, ::2],
        "reversed": a[::-1].copy()[::-1],
        "read-only": a.copy(),
    }[layout]
    view.flags.writeable = layout != "read-only"
    before = view.tobytes()
    r = train(view, y, signature="D8M8", step_size=1e-4, seed=1)
    scale = 1.0 if dtype == "int8" else None  # int8 is its own codes
    expected = train(lp.quantize(a, "8", scale=scale, rounding="nearest"), y, signature="D8M8", step_size=1e-4, seed=1)
    assert np.array_equal(r.coef, expected.coef)
    assert view.tobytes() == before


@pytest.mark.parametrize(("dtype", "token"), [("float32", "32f"), ("int8", "8"), ("int16", "16")])
def test_what_is_codes_already_is_borrowed(dtype, token):
    a = np.arange(60).reshape(6, 10).astype(dtype)
    for view in (a, a[::2], a[:, :7]):
        q = preparing.prepare_data(view, FORMATS[token])
        assert np.shares_memory(q.buffer, a)
        assert q.scale == 1.0
        assert np.array_equal(q.codes, view)


def test_a_quantized_array_is_not_converted():
    q = lp.quantize(PROBLEM.X, "8", rounding="nearest")
    assert preparing.prepare_data(q, FORMATS["8"]) is q
    assert same(train(q, PROBLEM.y), train(PROBLEM.X, PROBLEM.y))
    q = q[::2]
    assert same(train(q, PROBLEM.y[::2]), train(q.copy(), PROBLEM.y[::2]))


def test_lists_will_do():
    r = train([[1.0, 0.0], [0.0, 1.0]] * 50, [1, 0] * 50, signature="D8M16", step_size=0.5)
    assert r.coef[0] > 0.5
    assert r.coef[1] < -0.5


@pytest.mark.parametrize("kind", [bool, "u1", "i1", "i8", "f4", "f8"])
def test_labels_of_any_real_type(kind):
    expected = train(PROBLEM.X, PROBLEM.y)
    assert same(train(PROBLEM.X, (PROBLEM.y > 0).astype(kind)), expected)
    if kind in ("i1", "i8", "f4", "f8"):
        assert same(train(PROBLEM.X, PROBLEM.y.astype(kind)), expected)


def test_weights_of_one_change_nothing_and_zero_leaves_out():
    expected = train(PROBLEM.X, PROBLEM.y, model_scale=0.02)
    assert same(train(PROBLEM.X, PROBLEM.y, model_scale=0.02, sample_weight=np.ones(4096)), expected)
    weight = (np.arange(4096) < 1000).astype(float)
    a = train(PROBLEM.X, PROBLEM.y, model_scale=0.05, sample_weight=weight)
    b = train(PROBLEM.X[:1000], PROBLEM.y[:1000], model_scale=0.05, data_scale=np.abs(PROBLEM.X).max() / 127)
    assert np.array_equal(a.model.codes, b.model.codes)


@pytest.mark.parametrize("D", ["8", "32f"])
@pytest.mark.parametrize("given", [True, False])
def test_a_scale_for_each_feature_trains_in_scaled_coordinates(D, given, rng):
    """As if each column had been divided by its largest magnitude; coef is for the columns as they are."""
    spread = 2.0 ** rng.integers(-9, 9, 32)
    X = (PROBLEM.X * spread).astype(np.float32)
    largest = np.abs(X).max(axis=0).astype(np.float64)
    codes = 127.0 if D == "8" else 1.0
    r = train(X, PROBLEM.y, signature=f"D{D}M16", data_scale=largest / codes if given else "feature", model_scale=2e-4)
    expected = train((X / largest).astype(np.float32), PROBLEM.y, signature=f"D{D}M16", data_scale=1 / codes, model_scale=2e-4)
    # X/largest is rounded to float32 before its codes are, so a few codes may differ by one
    assert np.abs(r.coef * largest - expected.coef).max() < 0.01 * np.abs(expected.coef).max()
    assert np.array_equal(r.coef, lp.dequantize(r.model, np.float64))
    again = train(X, PROBLEM.y, signature=f"D{D}M16", data_scale=largest / codes, model_scale=r.model_scale, init=r.coef,
                  step_size=1e-300)  # fmt: skip
    assert np.abs(again.coef - r.coef).max() <= 1e-15 * np.abs(r.coef).max()


@pytest.mark.parametrize("signature", ["D4M4", "D8M8", "D8M16", "D32fM32f"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 1), (17, 3)])
def test_tiny_problems(signature, shape, rng):
    X = rng.uniform(-1, 1, shape).astype(np.float32)
    r = train(X, np.ones(shape[0]), signature=signature, epochs=3)
    assert np.isfinite(r.coef).all()
    assert r.n_examples == 3 * shape[0]


@pytest.mark.parametrize("signature", ["D4M4", "D8M8", "D16M16", "D32fM32f"])
def test_data_of_zeros_move_nothing(signature):
    r = train(np.zeros((20, 5)), np.ones(20), signature=signature)
    assert np.array_equal(r.coef, np.zeros(5))
    assert r.saturated == r.widened == 0


# ---- the model's scale --------------------------------------------------------------------------------------


@pytest.mark.parametrize("signature", ["D8M8", "D16M16", "D32fM16", "D4M8"])
@pytest.mark.parametrize("shrink", [1e-6, 0.01, 0.2])
def test_a_scale_far_too_small_is_widened(signature, shrink):
    limit = FORMATS["8" if signature.endswith("M8") else "16"].max_code
    r = train(PROBLEM.X, PROBLEM.y, signature=signature, epochs=3, model_scale=shrink / limit)
    free = train(PROBLEM.X, PROBLEM.y, signature=signature, epochs=3)
    assert r.widened == round(np.log2(r.model_scale * limit / shrink))
    assert r.widened >= 1
    assert loss_of(r) <= 1.1 * loss_of(free)


@pytest.mark.parametrize("n", [3, 40])
def test_one_weight_that_wants_out_is_enough(n, rng):
    """A single important feature among many that are not."""
    X = rng.uniform(-1, 1, (20_000, n)).astype(np.float32)
    y = rng.random(20_000) < 1 / (1 + np.exp(-6.0 * X[:, 0]))
    r = train(X, y, signature="D8M16", step_size=0.01, epochs=3, model_scale=0.1 / 32767)
    assert r.coef[0] > 5.0
    assert r.widened >= 6


@pytest.mark.parametrize("step", [2.0**-9, 2.0**-6])
def test_noise_alone_does_not_widen(step):
    """A range that nearly holds the weights is kept, although rounding noise makes some touch its ends."""
    X, y, w = generative(256, 16_384, seed=9, fmt="8")
    r = train(X, y, signature="D8M8", step_size=step, epochs=4, model_scale=0.85 * np.abs(w).max() / 127)
    assert r.widened == 0
    assert r.saturated >= 1


@pytest.mark.parametrize("step", [2.0**-9, 2.0**-7, 2.0**-5])
@pytest.mark.parametrize("n", [32, 256])
def test_the_rule_is_near_the_best_scale(n, step):
    """The documented rule, on the paper's problem: 8 bits against a sweep over scales, 16 bits against float32."""
    X, y, _ = generative(n, 16_384, seed=11)
    q = lp.quantize(X, "8", rounding="nearest")

    def final(signature, R=None):
        scale = None if R is None else R / 127
        return loss_of(train(q, y, signature=signature, step_size=step, epochs=4, model_scale=scale), X, y)

    assert final("D8M16") <= 1.005 * final("D8M32f")
    assert final("D8M8") <= 1.05 * min(final("D8M8", R) for R in (0.5, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0))


@pytest.mark.parametrize("step", [2.0**-9, 2.0**-7])
@pytest.mark.parametrize("R", [1e-5, 0.01, 0.1, 0.3, 0.5])
def test_where_one_starts_hardly_matters(R, step):
    """Widened as far as it pays, and no further."""
    X, y, _ = generative(256, 65_536, seed=11)
    q = lp.quantize(X, "8", rounding="nearest")
    for M, bar in (("8", 1.1), ("16", 1.005)):
        chosen, widened = (
            train(q, y, signature=f"D8M{M}", step_size=step, epochs=5, model_scale=scale)
            for scale in (None, R / FORMATS[M].max_code)
        )
        assert loss_of(widened, X, y) <= bar * loss_of(chosen, X, y)


@pytest.mark.parametrize("n", [2**14, 2**18])
def test_a_run_too_short_to_settle(n):
    """More weights than examples: the rule must leave room for the steps that are made, and not be fooled by noise."""
    X, y, _ = generative(n, 200, seed=2, fmt="8")
    full, r = (train(X, y, signature=s, step_size=0.1 / n) for s in ("D8M32f", "D8M16"))
    assert r.widened == r.saturated == 0
    # the same weights but for the quantum's noise, which is unbiased: their products with the truth agree
    assert np.abs(r.coef - full.coef).max() <= 100 * r.model_scale
    r = train(X, y, signature="D8M8", step_size=0.1 / n)
    assert r.widened <= 1
    assert np.mean(r.coef * full.coef) > 0.5 * np.mean(full.coef**2)


def test_init_widens_a_scale_that_cannot_hold_it():
    start = np.linspace(-3, 3, 32)
    r = train(PROBLEM.X, PROBLEM.y, signature="D8M16", init=start, model_scale=1e-5, step_size=1e-9, rounding="nearest")
    assert r.widened == 4  # 1e-5 * 32767 * 2**4 is the first above 3
    assert np.abs(r.coef - start).max() <= r.model_scale
    r = train(PROBLEM.X, PROBLEM.y, signature="D8M16", init=start, step_size=1e-9, rounding="nearest")
    assert np.abs(r.coef - start).max() <= r.model_scale


def test_the_next_look_is_never_stepped_over(monkeypatch):
    """Looks come after 16, 32, 64, ... examples and an eighth after a widening, however blocks and epochs fall."""
    looked = []

    def pays(self, model, intercept, examples):
        looked.append(examples)
        return examples in (64, 80)

    monkeypatch.setattr(sgd.Range, "pays", pays)
    monkeypatch.setattr(loop, "_BLOCK", 32 * 7)
    r = train(PROBLEM.X[:300], PROBLEM.y[:300], epochs=4, model_scale=0.05)
    assert looked == [16, 32, 64, 80, 96, 128, 256, 512, 1024]
    assert r.widened == 2
    assert r.model_scale == 0.2


# ---- what comes back ----------------------------------------------------------------------------------------


def test_history_is_the_mean_loss_after_each_epoch():
    after = []
    weight = np.linspace(0, 1, 4096, dtype=np.float32)
    r = train(PROBLEM.X, PROBLEM.y, epochs=3, history=True, sample_weight=weight,
              callback=lambda info: after.append(info.coef()) if info.position == 4096 else None)  # fmt: skip
    q = lp.quantize(PROBLEM.X, "8", rounding="nearest")
    expected = [losses.mean_loss("logistic", lp.dequantize(q, np.float64) @ w, PROBLEM.y, weight) for w in after]
    assert r.history == pytest.approx(expected, rel=1e-7)
    assert r.history[2] < r.history[0] < np.log(2)
    assert train(PROBLEM.X, PROBLEM.y).history == []


def test_the_callback_sees_progress_and_can_stop(monkeypatch):
    monkeypatch.setattr(loop, "_BLOCK", 32 * 1000)
    seen = []

    def callback(info):
        seen.append(info)
        return len(seen) == 7

    r = train(PROBLEM.X, PROBLEM.y, epochs=5, callback=callback, history=True)
    blocks = [(i.epoch, i.position) for i in seen]
    assert blocks == [(0, 1000), (0, 2000), (0, 3000), (0, 4000), (0, 4096), (1, 1000), (1, 2000)]
    assert [i.examples for i in seen] == [epoch * 4096 + at for epoch, at in blocks]
    assert r.n_examples == seen[-1].examples == 6096
    assert len(r.history) == 1  # epochs that were finished
    assert np.array_equal(seen[-1].coef(), r.coef)
    assert np.diff([info.seconds for info in seen]).min() >= 0
    assert seen[-1].gnps > 0
    assert r.gnps == pytest.approx(6096 * 32 / r.seconds / 1e9)


def test_only_true_stops():
    assert train(PROBLEM.X, PROBLEM.y, callback=lambda info: 1).n_examples == 4096
    # what a comparison of NumPy numbers gives counts as well
    assert train(PROBLEM.X, PROBLEM.y, epochs=2, callback=lambda info: np.float64(info.examples) > 0).n_examples == 4096
    assert train(PROBLEM.X, PROBLEM.y, epochs=2, callback=lambda info: np.float64(info.examples) < 0).n_examples == 8192


@pytest.mark.parametrize("more", [{}, {"deterministic": True}, {"batch_size": 8}])
def test_another_thread_is_refused_while_the_workers_run(more):
    """The model as it stands includes pending updates: applying them is not for two at once."""
    kept, got, refused = [], [], []
    ended = threading.Event()

    def watch():
        while not ended.is_set():
            if kept:
                try:
                    got.append(kept[-1].coef())
                except RuntimeError as error:
                    refused.append(str(error))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        options = {"signature": "D32fM32f", "epochs": 300, "n_threads": 2} | more
        train(PROBLEM.X, PROBLEM.y, callback=lambda info: kept.append(info) or len(refused) > 20, **options)
    finally:
        ended.set()
        watcher.join()
    assert all(np.isfinite(coef).all() for coef in got)
    assert set(refused) <= {"Sgd: the workers are running; ask between two calls, from the callback"}
    assert refused
    assert np.isfinite(kept[-1].coef()).all(), "all rest"


@pytest.mark.parametrize("options", [{"refresh": 2**70}, {"sync_every": 2**70}, {"batch_size": 2**70}])
def test_counts_beyond_64_bits(options):
    never = dict.fromkeys(options, 10 ** 6)
    assert same(train(PROBLEM.X, PROBLEM.y, **options), train(PROBLEM.X, PROBLEM.y, **never))
    assert train(PROBLEM.X, PROBLEM.y, n_threads=2, **options).n_examples == len(PROBLEM.y)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize(("D", "M"), [("8", "8"), ("16", "8"), ("32f", "16"), ("32f", "32f")])
def test_rows_may_overlap_in_memory(D, M, n_threads, rng):
    """Sliding windows over a signal, of a dtype that is used in place."""
    fmt = FORMATS[D]
    signal_ = rng.integers(-100, 100, 500).astype(fmt.dtype)
    windows = np.lib.stride_tricks.sliding_window_view(signal_, 75)
    y = np.where(windows[:, 3] > windows[:, 5], 1, -1)
    options = {"signature": f"D{D}M{M}", "step_size": 1e-6, "n_threads": n_threads}
    overlapping, apart = train(windows, y, **options), train(windows.copy(), y, **options)
    if n_threads == 1:
        assert same(overlapping, apart)
    else:
        assert np.isfinite(overlapping.coef).all()
        assert overlapping.n_examples == len(y)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("D", ["4", "8", "16"])
def test_numbers_too_large_to_square(D):
    y = np.where(np.arange(10) % 2, 1, -1)
    with pytest.raises(ValueError, match=r"X: every row's sum of squares must be finite; scale X down; got 1(\.0*1)?e\+300"):
        train(np.full((10, 3), 1e300), y, signature=f"D{D}M8")
    with pytest.raises(ValueError, match="X: every row's sum of squares must be finite"):
        train(np.full((10, 3), 1e154), y, signature=f"D{D}M8")
    large = np.full((10, 3), 1e150)
    assert np.isfinite(train(large, y, signature=f"D{D}M8", step_size=1e-300).coef).all()


def test_an_exception_of_the_callback_gets_through():
    def callback(info):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        train(PROBLEM.X, PROBLEM.y, callback=callback)


def test_the_signature_is_written_out():
    assert str(train(PROBLEM.X, PROBLEM.y, signature="D8").signature) == "D8M32f"
    assert str(train(PROBLEM.X, PROBLEM.y, signature=lp.Signature("D8[i8]M16")).signature) == "D8M16"


def test_going_on_from_a_result_goes_on():
    """With nearest rounding, one epoch and then another are two epochs, to the bit."""
    options = {"signature": "D8M16", "rounding": "nearest", "fit_intercept": True, "model_scale": 1e-4}
    a = train(PROBLEM.X, PROBLEM.y, **options)
    b = train(PROBLEM.X, PROBLEM.y, init=a.coef, init_intercept=a.intercept, **options)
    assert same(b, train(PROBLEM.X, PROBLEM.y, epochs=2, **options))


@pytest.mark.parametrize("signature", ["D32fM32f", "D8M32f"])
def test_divergence_is_an_error(signature):
    with pytest.raises(ValueError, match="step_size: must be so small that training stays finite; it diverged"):
        train(PROBLEM.X, PROBLEM.y, signature=signature, loss="squared", step_size=1e30, epochs=5)


def test_a_bad_row_is_named_wherever_it_is(rng):
    X = rng.uniform(-1, 1, (3000, 5)).astype(np.float32)
    y = np.ones(3000)
    for signature in ("D32fM8", "D32fM32f"):
        for row in (0, 1, 17, 1500, 2999):
            for value in (np.nan, np.inf, -np.inf):
                bad = X.copy()
                bad[row, 3] = value
                with pytest.raises(ValueError, match=f"X: every value must be finite; row {row} holds NaN or inf"):
                    train(bad, y, signature=signature)


@pytest.mark.parametrize(
    ("signature", "n", "m", "step", "by_hand"),
    [
        ("D8M8", 1024, 16384, 16 / 1024, 1 / 64), ("D16M16", 4096, 8192, 16 / 4096, 2.0**-12),
        ("D16M16", 16384, 4096, 64 / 16384, 2.0**-14),
    ],
)  # fmt: skip
def test_weights_that_single_steps_carry_far_have_room(signature, n, m, step, by_hand):
    """Large steps: the pilot's are smaller, and no sample's gradient tells of weights that walk against the limit."""
    X, y, _ = generative(n, m, seed=1, fmt=signature[1:].split("M")[0])
    rule, given = (train(X, y, signature=signature, step_size=step, history=True, model_scale=s) for s in (None, by_hand))
    assert rule.history[0] < 1.02 * given.history[0]


def test_a_range_that_is_no_longer_needed_is_narrowed(monkeypatch):
    """Which is exact: with steps that stay, and weights that are few codes, only the quantum gets finer."""
    X, y = PROBLEM.X, PROBLEM.y
    monkeypatch.setattr(sgd.Range, "choose", lambda self, fmt: 200.0 / fmt.max_code)
    a = train(X, y, signature="D8M8", epochs=4)
    assert a.narrowed >= 3
    assert a.model_scale == 200.0 / 127 / 2**a.narrowed
    assert np.abs(a.model.codes.astype(int)).max() > 127 // 4
    b = train(X, y, signature="D8M8", epochs=4, model_scale=200.0 / 127)
    assert (b.narrowed, b.model_scale) == (0, 200.0 / 127)  # as it was asked for
    assert loss_of(a) < loss_of(b)
    blocks = train(X, y, signature="D8M8", epochs=4, callback=lambda info: None)
    monkeypatch.setattr(loop, "_BLOCK", 37 * 11)
    assert same(train(X, y, signature="D8M8", epochs=4), a)
    assert same(blocks, a)


# ---- threads, time, Ctrl-C ----------------------------------------------------------------------------------


@pytest.mark.skipif(not openmp_enabled(), reason="built without OpenMP")
def test_several_threads_share_one_model_and_learn():
    one, two = (train(PROBLEM.X, PROBLEM.y, signature="D8M16", epochs=4, n_threads=t) for t in (1, 2))
    assert (one.n_threads, two.n_threads) == (1, 2)
    assert two.n_examples == one.n_examples
    assert loss_of(two) <= 1.05 * loss_of(one)


class SlowClock:
    """A driver that takes a fixed time for each example, by a clock of its own."""

    model_scale, intercept, share = 1.0, 0.0, 20_000

    def __init__(self, seconds):
        self.per_example, self.now, self.calls = seconds, 0.0, []

    def perf_counter(self):
        return self.now

    def run(self, first, last):
        self.calls.append(last - first)
        self.now += (last - first) * self.per_example
        return -1

    def examples(self, position):
        return position


@pytest.mark.parametrize("per_example", [1e-9, 1e-6, 1e-4, 3e-3, 0.04])
def test_no_call_of_the_compiled_loop_takes_long(per_example, monkeypatch):
    """At least every 100 ms Python looks for Ctrl-C and calls the callback, however slow a machine or format is."""
    clock = SlowClock(per_example)
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(perf_counter=clock.perf_counter))
    q = lp.from_codes(np.zeros((20_000, 8), np.int8), "8")
    problem = types.SimpleNamespace(x=q, numbers=8.0)
    model = loop.Model(clock, problem, lp.quantize(np.zeros(8), "8", scale=1.0), None, None, False, 20_000)
    monkeypatch.setattr(loop._sgd, "train_together", lambda runs, first, last, done: runs[0].run(first, last))
    told = [0.0]
    loop.Loop([model], 1, 1, one=True).epoch(0, 0.1, lambda info: told.append(clock.now))
    assert sum(clock.calls) == 20_000
    assert max(clock.calls) * per_example <= 0.1 or max(clock.calls) == 16  # the very first, which finds out
    assert np.diff(told).max() <= 0.1 or per_example * 16 > 0.1
    if per_example <= 1e-6:
        assert len(clock.calls) < 30  # a fast loop is not cut into small pieces


def test_ctrl_c_comes_through_and_nothing_of_the_callers_is_touched():
    X, y, _ = generative(1 << 14, 2000, seed=1, fmt="8")
    start = np.zeros(1 << 14)
    before = [hashlib.sha256(a.tobytes()).digest() for a in (X.buffer, y, start)]
    started = threading.Event()

    def interrupt():
        started.wait()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    blocks = []

    def callback(info):
        started.set()
        blocks.append(info.examples)
        return len(blocks) >= 5000  # so that a lost interrupt fails, instead of hanging

    # A process started in the background may ignore SIGINT: this one must not.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    # Hours of work, if it were not for the interrupt; and it must not take more than some blocks to be seen.
    try:
        with pytest.raises(KeyboardInterrupt):
            train(X, y, init=start, epochs=10**6, model_scale=0.01, callback=callback)
    finally:
        thread.join()
        signal.signal(signal.SIGINT, handler)
    assert len(blocks) < 5000
    assert [hashlib.sha256(a.tobytes()).digest() for a in (X.buffer, y, start)] == before


# ---- losses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", losses.LOSSES)
def test_losses_match_their_derivatives(name):
    """The compiled derivative is the slope of the loss; the curvature of a smooth one is the slope of that."""
    loss, y = losses.loss_of(name, epsilon=0.7, quantile=0.8), 1.0

    def derivative(p):
        return float(loss.derivatives(np.array([p]), np.array([y]))[0])

    for p in (-30.0, -3.0, -0.5, 0.25, 0.99, 1.5, 3.0, 30.0):
        h = 1e-5
        slope = float(loss.values(p + h, y) - loss.values(p - h, y)) / (2 * h)
        d = derivative(p)
        assert slope == pytest.approx(d, abs=1e-7 * (1 + p * p))
        assert loss.curvature(d) <= loss.max_curvature
        if name in ("logistic", "squared", "squared_hinge"):
            assert float(loss.curvature(d)) == pytest.approx((derivative(p + 1e-3) - derivative(p - 1e-3)) / 2e-3, abs=2e-5)


def test_losses_do_not_overflow():
    assert losses.mean_loss("logistic", [1e300, -1e300], [1, 1]) == 5e299
    assert losses.mean_loss("hinge", [0.0, 2.0, -1.0], [1, 1, 1], weight=[1, 5, 2]) == pytest.approx(5 / 8)


@pytest.mark.parametrize("signature", ["D8M8", "D16M16", "D8M4", "D16M32f"])
@pytest.mark.parametrize("random", ["shared", "xorshift", "mt19937"])
def test_zero_pads_change_no_bit(signature, random):
    # 784 columns: our own rows have zeros up to a multiple of 32, borrowed ones end where they end.
    rng = np.random.default_rng(5)
    X = rng.uniform(-1, 1, (200, 784))
    y = np.where(X @ rng.uniform(-1, 1, 784) > 0, 1, -1)
    padded = lp.quantize(X, lp.Signature(signature).dataset, rounding="nearest")
    bare = lp.from_codes(np.array(padded.codes), padded.format, padded.scale)
    assert padded.padded_width == 800
    assert bare.padded_width == 784
    a, b = (lp.train(q, y, signature=signature, step_size=1e-3, epochs=2, random=random, n_threads=1) for q in (padded, bare))
    assert (a.coef == b.coef).all()
    assert a.coef.any()
