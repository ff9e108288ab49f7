"""SGD on a simulated machine: one core's is that of `lowprec.train`, to the bit; several cores' learns, and can be repeated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import lowprec as lp
from lowprec import checks
from lowprec.cachesim import Core, Epoch, Instructions, Level, MachineConfig, Obstinate, model_region, sgd_streams, train

COST = Instructions(example=100.0, dot=0.5, axpy=0.5, fused=1.0)
LINE = 64


def config(cores, first=(2, 2), second=(4, 4), third=(64, 8)):
    levels = [
        Level(sets * ways * LINE, ways, latency)
        for (sets, ways), latency in zip((first, second, third), (4.0, 12.0, 36.0), strict=True)
    ]
    return MachineConfig(cores, *levels)


def problem(rng, D, m=300, n=100, loss="logistic"):
    """Rows in the format D, and labels of a model that is there to be found; signs, or numbers."""
    X = rng.uniform(-1, 1, (m, n)).astype(np.float32)
    product = X @ rng.normal(size=n).astype(np.float32) / np.sqrt(n)
    y = product if loss in checks.RESIDUAL_LOSSES else np.where(product > 0, 1, -1)
    return lp.quantize(X, D), y


def both(X, y, *, signature, cores_config=None, cost=COST, loop="two-pass", update="own", **options):
    """On one core of a simulated machine, and on one thread."""
    simulated = train(X, y, signature=signature, config=cores_config or config(1), cost=cost, loop=loop, update=update, **options)
    real = lp.train(X, y, signature=signature, n_threads=1, **options)
    assert real.widened == 0
    return simulated, real


def codes(result):
    """The bytes of its model, without what the row is padded with."""
    (n,) = result.model.shape
    return result.model.buffer[: result.model.format.row_bytes(n)].tobytes()


def assert_same(simulated, real):
    assert codes(simulated) == codes(real)
    assert np.array_equal(simulated.coef, real.coef)
    assert simulated.coef.any()


def scale_of(M):
    """So wide that no weight is clipped, and nothing widened."""
    return {"4": 0.5, "8": 1 / 16, "16": 1 / 4096, "32f": None}[M]


# ---- one core ------------------------------------------------------------------------------------------------------

PAIRS = [(D, M) for D in ("4", "8", "16", "32f") for M in ("4", "8", "16", "32f")]


@pytest.mark.parametrize(("D", "M"), PAIRS)
@pytest.mark.parametrize("loop", ["two-pass", "fused"])
@pytest.mark.parametrize("n", [1, 63, 400])
def test_one_core_learns_what_one_thread_learns(rng, D, M, loop, n):
    X, y = problem(rng, D, n=n)
    assert_same(*both(X, y, signature=f"D{D}M{M}", loop=loop, step_size=0.02 if M == "4" else 0.25, model_scale=scale_of(M)))


@pytest.mark.parametrize("signature", ["D8M8", "D4M4", "D16M16", "D8M16", "D32fM32f", "D32fM8", "D8M32f"])
@pytest.mark.parametrize("batch_size", [2, 7, 64, 100])
def test_batches_of_one_core_are_those_of_one_thread(rng, signature, batch_size):
    """300 rows are no multiple of 7, 64: the last batch is short."""
    D, M = signature[1:].split("M")
    X, y = problem(rng, D, n=257)
    options = {"step_size": 0.05, "model_scale": scale_of(M), "epochs": 2}
    assert_same(*both(X, y, signature=signature, batch_size=batch_size, **options))


@pytest.mark.parametrize("signature", ["D8M8", "D4M16", "D16M4", "D32fM32f"])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("random", ["shared", "xorshift"])
@pytest.mark.parametrize("loop", ["two-pass", "fused"])
def test_roundings_of_one_core_are_those_of_one_thread(rng, signature, rounding, random, loop):
    D, M = signature[1:].split("M")
    X, y = problem(rng, D, n=190)
    options = {"step_size": 0.8 if M == "4" else 0.3, "model_scale": scale_of(M), "epochs": 3, "seed": 5}
    assert_same(*both(X, y, signature=signature, rounding=rounding, random=random, loop=loop, **options))


@pytest.mark.parametrize(
    "loss",
    ["logistic", "hinge", "squared_hinge", "modified_huber", "squared", "huber", "epsilon_insensitive", "quantile"],
)
@pytest.mark.parametrize("loop", ["two-pass", "fused"])
@pytest.mark.parametrize("update", ["own", "load"])
def test_losses_of_one_core_are_those_of_one_thread(rng, loss, loop, update):
    X, y = problem(rng, "8", n=130, loss=loss)
    assert_same(*both(X, y, signature="D8M8", loss=loss, loop=loop, update=update, step_size=0.02, model_scale=1 / 32, epochs=2))


@pytest.mark.parametrize("refresh", [2, 5])
@pytest.mark.parametrize("options", [{"loop": "two-pass"}, {"loop": "fused"}, {"batch_size": 9}])
def test_random_words_serve_as_long_as_on_one_thread(rng, refresh, options):
    X, y = problem(rng, "8", n=130)
    found = both(X, y, signature="D8M8", refresh=refresh, step_size=0.25, model_scale=1 / 16, epochs=2, **options)
    assert_same(*found)
    assert codes(found[0]) != codes(train(
        X, y, signature="D8M8", config=config(1), cost=COST, step_size=0.25, model_scale=1 / 16, epochs=2, **options
    ))  # fmt: skip


@pytest.mark.parametrize("signature", ["D8M8", "D4M4"])
@pytest.mark.parametrize("protocol", [None, "obstinate"])
def test_neither_small_caches_nor_obstinacy_change_what_one_core_learns(rng, signature, protocol):
    D, M = signature[1:].split("M")
    X, y = problem(rng, D, n=400)
    made = Obstinate(1.0, [model_region(signature, 400)]) if protocol else None
    small = config(1, (1, 1), (1, 2), (1, 3))
    options = {"step_size": 0.25, "model_scale": scale_of(M), "epochs": 2}
    simulated = train(X, y, signature=signature, config=small, cost=COST, protocol=made, **options)
    assert simulated.counters.writebacks[2] > 100
    assert_same(simulated, lp.train(X, y, signature=signature, n_threads=1, **options))


def test_cycles_and_numbers_are_those_of_the_counters(rng):
    """One core, whose data and model are as slow as its misses: all cycles are instructions and waits."""
    X, y = problem(rng, "8", n=130)
    simulated = train(X, y, signature="D8M8", config=config(1), cost=COST, step_size=0.25, model_scale=1 / 16, epochs=2)
    counters = simulated.counters
    assert simulated.cycles == counters.instructions + sum(counters.stalled)
    assert simulated.gnps == 300 * 130 * 2 / simulated.cycles * 2.5
    one_pass = sgd_streams("D8M8", 130, 1, cost=COST)[0].accesses["instructions"].sum()
    assert counters.instructions == 2 * 300 * one_pass


# ---- several -----------------------------------------------------------------------------------------------------------


def mean_loss(X, y, coef):
    return float(np.mean(np.log1p(np.exp(-y * (lp.dequantize(X) @ coef)))))


@pytest.mark.parametrize("cores", [2, 5])
@pytest.mark.parametrize("q", [None, 0.5, 0.95])
@pytest.mark.parametrize("options", [{}, {"loop": "fused"}, {"update": "load"}, {"batch_size": 8}])
def test_several_cores_learn(rng, cores, q, options):
    """Every epoch is better than a model of zeros, whose loss is log 2."""
    X, y = problem(rng, "8", m=403, n=100)
    protocol = None if q is None else Obstinate(q, [model_region("D8M8", 100)])
    losses = []
    train(
        X, y, signature="D8M8", config=config(cores), protocol=protocol, cost=COST, step_size=0.05, model_scale=1 / 16, epochs=4,
        callback=lambda told: losses.append(mean_loss(X, y, told.coef)), **options,
    )  # fmt: skip
    assert len(losses) == 4
    assert max(losses) < np.log(2)


@pytest.mark.parametrize("options", [{}, {"loop": "fused"}, {"batch_size": 8}])
def test_the_same_seed_gives_the_same_model_and_cycles(rng, options):
    X, y = problem(rng, "8", n=100)

    def run(seed):
        protocol = Obstinate(0.5, [model_region("D8M8", 100)])
        made = train(
            X,
            y,
            signature="D8M8",
            config=config(3),
            protocol=protocol,
            cost=COST,
            step_size=0.1,
            model_scale=1 / 16,
            seed=seed,
            **options,
        )
        return codes(made), made.cycles, made.counters

    assert run(1) == run(1)
    assert run(1)[0] != run(2)[0]


def test_cores_that_never_meet_learn_their_columns_as_they_would_alone(rng):
    """Each core's rows have columns of their own, a line apart, so nobody's product or update is another's: with rounding to
    nearest the model is the sum of what each would learn on its own rows. Instructions take no time here: where a store comes
    later than the load before it, another core may come between, and what that one wrote would be lost."""
    cores, each, m = 3, 64, 40
    rows = rng.uniform(-1, 1, (cores * m, each)).astype(np.float32)
    X = np.zeros((cores * m, cores * each), np.float32)
    for k in range(cores):
        X[k * m : (k + 1) * m, k * each : (k + 1) * each] = rows[k * m : (k + 1) * m]
    y = np.where(rows[:, 0] > 0, 1, -1)
    X = lp.quantize(X, "8")
    options = {"signature": "D8M8", "step_size": 0.25, "model_scale": 1 / 16, "rounding": "nearest", "cost": COST}
    together = train(X, y, config=replace(config(cores), core=Core(cpi=0.0)), epochs=2, **options)
    alone = [
        train(X[k * m : (k + 1) * m], y[k * m : (k + 1) * m], config=config(1), epochs=2, **options).coef for k in range(cores)
    ]
    assert together.coef.any()
    assert np.array_equal(together.coef, sum(alone))


def test_the_callback_is_told_the_model_after_each_epoch(rng):
    X, y = problem(rng, "8", n=100)
    told = []
    options = {"signature": "D8M8", "config": config(1), "step_size": 0.25, "model_scale": 1 / 16, "cost": COST}
    made = train(X, y, epochs=3, callback=told.append, **options)
    assert all(isinstance(t, Epoch) for t in told)
    assert [t.epoch for t in told] == [1, 2, 3]
    assert np.array_equal(told[-1].coef, made.coef)
    for t in told[:2]:
        assert np.array_equal(t.coef, train(X, y, epochs=t.epoch, **options).coef)


def test_what_the_callback_raises_comes_out(rng):
    X, y = problem(rng, "8")

    def stop(told):
        raise KeyError(told.epoch)

    with pytest.raises(KeyError, match="1"):
        train(X, y, signature="D8M8", config=config(1), step_size=0.25, model_scale=1 / 16, cost=COST, callback=stop)


# ---- what is refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(("cores", "row"), [(1, 0), (1, 299), (3, 150), (3, 299)])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_a_row_that_is_not_finite_is_named(rng, bad, cores, row, batch_size):
    X, y = problem(rng, "32f", n=20)
    values = lp.dequantize(X).astype(np.float32)
    values[row, 3] = bad
    with pytest.raises(ValueError, match=rf"^X: every value must be finite; row {row} holds NaN or inf"):
        train(
            lp.from_codes(values, "32f"),
            y,
            signature="D32fM32f",
            config=config(cores),
            step_size=0.1,
            cost=COST,
            batch_size=batch_size,
        )


def test_a_model_region_is_whole_lines_where_the_streams_have_the_model():
    for signature, n, lines in (
        ("D8M8", 64, 1),
        ("D8M8", 65, 2),
        ("D4M4", 128, 1),
        ("D4M4", 129, 2),
        ("D8M16", 33, 2),
        ("D8M32f", 16, 1),
    ):
        region = model_region(signature, n)
        assert region[1] - region[0] == lines * LINE
        assert region[0] % LINE == 0
        assert all(stream.region == region for stream in sgd_streams(signature, n, 2, cost=COST))


BAD = [
    ({"X": np.zeros((4, 4))}, TypeError, r"X: expected a QuantizedArray \(lowprec.quantize makes one\)"),
    ({"X": lp.quantize(np.ones(4, np.float32), "8")}, ValueError, "X: must have two dimensions"),
    ({"X": lp.from_codes(np.ones((4, 2), np.int8), "8", np.array([1.0, 2.0]))}, ValueError, "X: .*one scale"),
    ({"signature": "D16M8"}, ValueError, "signature: must be of dense data in the format of X, 8, and a model; got D16M8"),
    ({"signature": "D8i8M8"}, ValueError, "signature: must be of dense data"),
    ({"signature": "D8"}, ValueError, "signature: must be of dense data"),
    ({"signature": "D8M7"}, ValueError, "M"),
    ({"y": np.ones(3)}, ValueError, "y: "),
    ({"y": np.full(4, 2.0)}, ValueError, "y: "),
    ({"loss": "log"}, ValueError, "loss: "),
    ({"step_size": 0.0}, ValueError, "step_size: "),
    ({"step_size": np.nan}, ValueError, "step_size: "),
    ({"model_scale": None}, ValueError, "model_scale: must be given of a fixed-point model, and of that alone; got None"),
    ({"signature": "D8M32f"}, ValueError, "model_scale: must be given of a fixed-point model, and of that alone; got 0.0625"),
    ({"model_scale": -1.0}, ValueError, "model_scale: "),
    ({"epochs": 0}, ValueError, "epochs: "),
    ({"batch_size": 0}, ValueError, "batch_size: "),
    ({"batch_size": 101}, ValueError, "batch_size: "),
    ({"batch_size": 2, "loop": "fused"}, ValueError, "batch_size: must be 1 with sparse data, and with loop='fused'"),
    ({"refresh": 0}, ValueError, "refresh: "),
    ({"seed": -1}, ValueError, "seed: "),
    ({"rounding": "up"}, ValueError, "rounding: "),
    ({"random": "dice"}, ValueError, "random: "),
    ({"loop": "three-pass"}, ValueError, "loop: "),
    ({"update": "steal"}, ValueError, "update: "),
    ({"callback": 3}, TypeError, "callback"),
    ({"config": 3}, TypeError, "config: expected a MachineConfig"),
    ({"protocol": "MESI"}, TypeError, "protocol: expected a Protocol"),
    ({"config": config(5)}, ValueError, "X: must have a row for each of 5 cores; got 4 rows"),
    ({"signature": "D8M4", "cost": None}, ValueError, "signature: its instructions were not counted .in Python, `cost` says"),
]


@pytest.mark.parametrize(("wrong", "error", "text"), BAD)
def test_bad_input_is_refused_with_a_reason(wrong, error, text):
    right = {
        "X": lp.quantize(np.ones((4, 3), np.float32), "8"), "y": np.array([1, -1, 1, -1]), "signature": "D8M8", "step_size": 0.1,
        "model_scale": 1 / 16, "config": config(2), "cost": COST,
    }  # fmt: skip
    train(**right)
    with pytest.raises(error, match=text) as caught:
        train(**(right | wrong))
    assert type(caught.value) is error


@pytest.mark.parametrize(("args", "text"), [(("D8", 4), "signature: must have an M term; got D8"), (("D8M8", 0), "n: ")])
def test_no_model_has_no_region(args, text):
    with pytest.raises(ValueError, match=text):
        model_region(*args)
