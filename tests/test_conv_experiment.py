"""Convolutions on the kernels of the matrix: the driver against the oracle, and ``lowprec experiment conv``."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import reference

pytest.importorskip("matplotlib")

from lowprec import kernels
from lowprec.report import _conv, machine, paper
from lowprec.report.convolution import LAYERS, Blas, Compiled, Problem, Shape, patches
from lowprec.report.experiments import conv
from lowprec.report.experiments.conv import Pass
from lowprec.report.tables import to_markdown

PAIRS = [(D, M) for D in ("8", "16") for M in ("8", "16")] + [("32f", "32f")]
#: Positions that the driver takes all filters to before the next ones.
TILE = 32
U = 2.0**-24  # half a unit in the last place of float32

plain_loops = pytest.mark.skipif(machine.baseline() is None, reason="this CPU cannot run the plain C loops of this build")


def gamma(k, u=U):
    """The relative error of a sum whose terms go through k roundings (Higham 2002, Lemma 3.1)."""
    return k * u / (1 - k * u)


def codes(rng, fmt, shape):
    if fmt == "32f":
        return rng.uniform(-1, 1, shape).astype(np.float32)
    top = reference.max_code(fmt)
    return rng.integers(-top, top, shape, endpoint=True).astype(reference.DTYPES[fmt])


# ---- patches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [Shape(9, 3, 2, 3, stride=2), Shape(6, 1, 2, 5, padding=2), Shape(7, 2, 1, 4)])
def test_a_patch_is_what_a_filter_sees(rng, shape):
    image = rng.integers(-100, 100, (shape.size, shape.size, shape.channels)).astype(np.int8)
    found = patches(image, shape)
    assert found.shape == (shape.positions, shape.width)
    assert found.dtype == np.int8
    assert shape.width % 32 == 0
    for row in range(shape.side):
        for column in range(shape.side):
            patch = list(found[row * shape.side + column])
            for dy in range(shape.kernel):
                for dx in range(shape.kernel):
                    y, x = row * shape.stride + dy - shape.padding, column * shape.stride + dx - shape.padding
                    inside = 0 <= y < shape.size and 0 <= x < shape.size
                    expected = image[y, x] if inside else np.zeros(shape.channels)
                    for c in range(shape.channels):
                        assert patch.pop(0) == expected[c]
            assert not any(patch)


def test_the_layers_are_the_papers():
    found = {name: (shape.side, shape.n, shape.filters) for name, shape in LAYERS.items()}
    assert found == {"AlexNet": (55, 363, 96), "CIFAR-10": (32, 75, 32), "MNIST": (24, 25, 20)}


# ---- the driver against the oracle ---------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [1, 3, 64])
@pytest.mark.parametrize(("D", "M"), PAIRS)
@pytest.mark.parametrize("n", [5, 70])
def test_products_are_those_of_the_kernels(rng, D, M, together, n):
    positions, filters, scale = 40, 3, 0.37
    x, w = codes(rng, D, (positions, n)), codes(rng, M, (filters, n))
    out = np.zeros((filters, positions), np.float32)
    _conv.Layer(x.view(np.uint8), w.view(np.uint8), D, M, n, together=together).forward(out, scale)
    dot = getattr(kernels, f"dot_{D}_{M}")
    expected = [[np.float32(scale * dot(x[p], w[f])) for p in range(positions)] for f in range(filters)]
    assert np.array_equal(out, np.array(expected))


def written(D, M, x, w, m, together, seed):
    """What the writes come to by docs/architecture.md, a block of random words for all filters at a position or a tile."""
    stream, w = reference.Stream(seed, 0), [list(row) for row in w]
    n, positions = len(x[0]), len(x)
    size = together if together > 1 else TILE
    for first in range(0, positions, size):
        tile = range(first, min(first + size, positions))
        blocks = [stream.block() for _ in (tile if together == 1 else tile[:1])] if M != "32f" else []
        words = [[reference.words16(block)[j % 32] for j in range(n)] for block in blocks]
        for f in range(len(w)):
            moving = [p for p in tile if m[f][p] != 0]
            if M == "32f":
                groups = [moving] if together > 1 else [[p] for p in moving]
                for group in groups:
                    rows, steps = [list(x[p]) for p in group], [m[f][p] for p in group]
                    if rows:
                        w[f], _ = reference.batch(D, M, "nearest", rows=rows, w=w[f], m=steps, rows_next=[], n=n)
                continue
            steps = {p: reference.step(m[f][p], M, True, stream.scalar()) for p in moving}
            if together == 1:
                for p in moving:
                    w[f] = reference.axpy_integer(*steps[p], [int(v) for v in x[p]], w[f], M, words[p - first])
            elif moving:
                totals = [sum(mu * 2**e * int(x[p][j]) for p, (mu, e) in steps.items()) for j in range(n)]
                w[f] = [reference.saturate(w[f][j] + (totals[j] + words[0][j]) // 2**16, M) for j in range(n)]
    return w


@pytest.mark.parametrize("together", [1, 3, 32])
@pytest.mark.parametrize(("D", "M"), PAIRS)
@pytest.mark.parametrize("size", ["small", "large"])
def test_writes_are_those_of_the_oracle(rng, D, M, together, size):
    """Small steps, some of them zero, and large ones, which the kernels take another road for."""
    positions, filters, n, seed = 37, 2, 40, 11
    x = codes(rng, D, (positions, n))
    w = (codes(rng, M, (filters, n)) * (1 if M == "32f" else 0.5)).astype(reference.DTYPES[M])
    derivative = rng.standard_normal((filters, positions)).astype(np.float32)
    derivative[rng.random(derivative.shape) < 0.2] = 0.0
    derivative[1, 3:6] = 0.0  # a tile of three without any
    # In quanta for a unit of x: small enough for a sum in 32 bits, and beyond half a quantum.
    factor = -0.013 / (1 if D == "8" else 256) if size == "small" else 1.7
    m = [[float(d) * factor for d in row] for row in derivative]
    expected = written(D, M, x, [[v if M == "32f" else int(v) for v in row] for row in w], m, together, seed)
    before = w.copy()
    layer = _conv.Layer(x.view(np.uint8), w.view(np.uint8), D, M, n, together=together, seed=seed)
    layer.backward(derivative, factor)
    assert not np.array_equal(w, before)
    assert np.array_equal(w, np.array(expected, w.dtype))


def test_the_random_words_go_on(rng):
    """Two calls are not the same draws twice."""
    x, start = codes(rng, "8", (8, 32)), np.zeros((1, 32), np.int8)
    moves, w = [], start.copy()
    layer = _conv.Layer(x.view(np.uint8), w.view(np.uint8), "8", "8", 32)
    for _ in range(2):
        w[:] = start
        layer.backward(np.full((1, 8), 0.5, np.float32), 0.01)
        moves.append(w.copy())
    assert not np.array_equal(*moves)


@plain_loops
@pytest.mark.parametrize(("D", "M"), PAIRS)
def test_the_compilers_loops_are_the_formula(rng, D, M):
    """With few small numbers and a step that is a power of two, float32 is exact whatever the order."""
    positions, filters, n, seed = 3, 2, 70, 5
    x = rng.integers(-7, 7, (positions, n)).astype(reference.DTYPES[D])
    w = rng.integers(-60, 60, (filters, n)).astype(reference.DTYPES[M])
    before, out = w.astype(np.float64), np.zeros((filters, positions), np.float32)
    layer = _conv.Layer(x.view(np.uint8), w.view(np.uint8), D, M, n, engine="compiler", seed=seed)
    layer.forward(out, 0.5)
    assert np.array_equal(out, 0.5 * (before @ x.T.astype(np.float64)))
    layer.backward(np.ones((filters, positions), np.float32), 0.25)
    stream = reference.Stream(seed, 0)
    for p in range(positions):
        moved = before + 0.25 * x[p]
        if M != "32f":
            words = np.resize(reference.words16(stream.block()), n)
            moved = np.floor(moved + words / 2**16)
        before = moved
    assert np.array_equal(w, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"D": "4"}, "must be 8 or 16, or both 32f"),
        ({"M": "32f"}, "must be 8 or 16, or both 32f"),
        ({"n": 0}, "n must lie in"),
        ({"n": 5000}, "n must lie in"),
        ({"n": 33}, "33 numbers need rows of 33 and 33 bytes"),
        ({"patches": np.zeros((0, 32), np.uint8)}, "must not be empty"),
        ({"engine": "magic"}, "engine must be"),
        ({"engine": "compiler", "together": 2}, "together=1"),
        ({"together": 0}, "engine must be"),
    ],
)
def test_what_the_driver_refuses(change, message):
    given = {"patches": np.zeros((4, 32), np.uint8), "weights": np.zeros((2, 32), np.uint8), "D": "8", "M": "8", "n": 32} | change
    with pytest.raises(ValueError, match=message):
        _conv.Layer(**given)


def test_outputs_and_derivatives_must_fit():
    layer = _conv.Layer(np.zeros((4, 32), np.uint8), np.zeros((2, 32), np.uint8), "8", "8", 32)
    with pytest.raises(ValueError, match=r"out must have shape \(2, 4\)"):
        layer.forward(np.zeros((4, 2), np.float32), 1.0)
    with pytest.raises(ValueError, match=r"derivative must have shape \(2, 4\)"):
        layer.backward(np.zeros((2, 3), np.float32), 1.0)


# ---- convolutions --------------------------------------------------------------------------------------------------

SMALL = Shape(size=13, channels=3, filters=4, kernel=5, stride=2, padding=1)


def convolution(problem):
    """Outputs, written weights, and both with all terms made positive: float64, position by position."""
    s = problem.shape
    image = np.pad(problem.image.astype(np.float64), ((s.padding,) * 2, (s.padding,) * 2, (0, 0)))
    w = problem.weights.astype(np.float64).reshape(s.filters, s.kernel, s.kernel, s.channels)
    d = problem.derivative.astype(np.float64).reshape(s.filters, s.side, s.side)
    outputs, sizes = np.zeros((2, s.filters, s.side, s.side))
    change, reach = np.zeros((2, *w.shape))
    for y in range(s.side):
        for x in range(s.side):
            top, left = y * s.stride, x * s.stride
            patch = image[top : top + s.kernel, left : left + s.kernel]
            for f in range(s.filters):
                outputs[f, y, x], sizes[f, y, x] = np.sum(w[f] * patch), np.sum(abs(w[f] * patch))
                change[f] -= problem.step * d[f, y, x] * patch
                reach[f] += abs(problem.step * d[f, y, x] * patch)
    flat = (s.filters, -1)
    return outputs.reshape(flat), (w + change).reshape(flat), sizes.reshape(flat), (abs(w) + reach).reshape(flat)


def float_loops(problem):
    made = {"each": Compiled(problem, "32f", "32f", "lowprec"), "many": Compiled(problem, "32f", "32f", "lowprec", 16)}
    if machine.baseline() is not None:
        made["compiler"] = Compiled(problem, "32f", "32f", "compiler")
    return made | {"blas": Blas(problem)}


@pytest.mark.parametrize("seed", [0, 1])
def test_float32_is_the_convolution(seed):
    """A product goes through its own rounding and at most n additions; the output is rounded once more. A write: the step, the
    product, and one addition for every position."""
    problem = Problem(SMALL, seed)
    outputs, weights, sizes, reach = convolution(problem)
    for name, loops in float_loops(problem).items():
        loops.forward()
        assert np.all(abs(loops.outputs - outputs) <= gamma(SMALL.n + 2) * sizes), name
        loops.backward()
        assert np.all(abs(loops.weights[:, : SMALL.n] - weights) <= gamma(SMALL.positions + 4) * reach), name
        assert not loops.weights[:, SMALL.n :].any()
        loops.reset()
        assert np.array_equal(loops.weights[:, : SMALL.n], problem.weights)


def test_the_gradient_is_that_of_torch():
    """Autograd in float64 and the plain sums of this test, whose terms go through as many roundings."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'lowprec[wrpn]'")
    problem, s = Problem(SMALL), SMALL
    outputs, weights, sizes, reach = convolution(problem)
    image = torch.tensor(problem.image, dtype=torch.float64).permute(2, 0, 1)[None]
    w = torch.tensor(problem.weights, dtype=torch.float64).reshape(s.filters, s.kernel, s.kernel, s.channels)
    w = w.permute(0, 3, 1, 2).clone().requires_grad_()
    z = torch.nn.functional.conv2d(image, w, stride=s.stride, padding=s.padding)
    z.backward(torch.tensor(problem.derivative, dtype=torch.float64).reshape(z.shape))
    moved = (w - problem.step * w.grad).detach().permute(0, 2, 3, 1).reshape(s.filters, -1).numpy()
    assert np.all(abs(z.detach().numpy().reshape(outputs.shape) - outputs) <= 2 * gamma(s.n + 1, 2.0**-53) * sizes)
    assert np.all(abs(moved - weights) <= 2 * gamma(s.positions + 4, 2.0**-53) * reach)


@pytest.mark.parametrize(("D", "M"), PAIRS[:-1])
@pytest.mark.parametrize("together", [1, 16])
def test_codes_are_near_the_convolution(D, M, together):
    """Data and weights are half a code off at most; a write rounds by less than a quantum, and its step by less than 2^-16."""
    problem, s = Problem(SMALL), SMALL
    outputs, weights, sizes, _ = convolution(problem)
    loops = Compiled(problem, D, M, "lowprec", together)
    (_, sx), (_, sw) = problem.image_codes(D), problem.weight_codes(M)
    x, w = abs(patches(problem.image, s)[:, : s.n]).astype(np.float64), abs(problem.weights).astype(np.float64)
    # Codes are the nearest to float32 quotients: a little more than half a code.
    half = 0.5 + reference.max_code(max(D, M, key=int)) * U * 4
    loops.forward()
    off = half * (sx * w.sum(axis=1)[:, None] + sw * x.sum(axis=1)[None] + half * s.n * sx * sw)
    assert np.all(abs(loops.outputs - outputs) <= off + U * (sizes + off))
    loops.backward()
    found = loops.weights[:, : s.n] * sw
    writes = s.positions if together == 1 else math.ceil(s.positions / together)
    d = abs(problem.derivative).sum(axis=1)[:, None].astype(np.float64)
    steps = s.positions * reference.max_code(D) * 2.0**-16 * sw
    assert np.all(abs(found - weights) <= sw * (half + writes) + steps + problem.step * d * half * sx)
    assert not loops.weights[:, s.n :].any()


# ---- the experiment ------------------------------------------------------------------------------------------------


def test_a_pass_counts_what_it_does(monkeypatch):
    """Four images of a thousand numbers in a run, each a clock's tick of a quarter of a second."""
    now = iter(range(1000))
    done = []

    class Loops:
        def reset(self):
            done.append("reset")

        def forward(self):
            done.append("forward")

    monkeypatch.setattr(conv.time, "perf_counter", lambda: next(now) / 4)
    run = Pass(Loops(), "forward", 1000, 1.0)
    assert run() == 1000 * 4 / 0.25 / 1e9
    assert run.images == 4
    assert done == ["reset", "forward"] * 4 + ["reset"] + ["forward"] * 4


@pytest.fixture(scope="module")
def measured():
    seen = []
    o = conv.Options(layers=("MNIST", "CIFAR-10"), signatures=("D32fM32f", "D8M16", "D8M8"), seconds=0.0, run_seconds=1e-4)
    return conv.measure(o, lambda *told: seen.append(told)), seen, o


def test_results_are_complete(measured):
    results, seen, o = measured
    assert all(tuple(row) == conv.FIELDS for row in results["rows"])
    assert json.loads(json.dumps(results["options"])) == results["options"]
    done = [share for _, _, share in seen]
    assert done == sorted(done)
    assert done[-1] == 1.0
    rows = [row for row in results["rows"] if row["table"] == "conv"]
    engines = ["lowprec", "numpy"] if machine.baseline() is None else ["compiler", "lowprec", "numpy"]
    for layer in o.layers:
        mine = [row for row in rows if row["layer"] == layer]
        assert list(dict.fromkeys(row["engine"] for row in mine)) == engines
        by = {(row["engine"], row["signature"], row["together"], row["part"]): row for row in mine}
        ours = {key[1:3] for key in by if key[0] == "lowprec"}
        assert ours == {(s, together) for s in o.signatures for together in (1, 64)}
        for key in {key[:3] for key in by}:
            forward, backward, both = (by[*key, part] for part in ("forward", "backward", "both"))
            assert both["seconds"] == both["n"] * both["positions"] * both["filters"] / both["gnps"] / 1e9
            assert all(row["gnps_q1"] <= row["gnps"] <= row["gnps_q3"] for row in (forward, backward, both))
    prepared = [(row["layer"], row["signature"]) for row in results["rows"] if row["table"] == "patches"]
    assert prepared == [(layer, D) for layer in o.layers for D in ("D32f", "D8")]


@plain_loops
def test_speedups_are_over_float32_in_c(measured):
    results, _, _ = measured
    rows = [row for row in results["rows"] if row["table"] == "conv"]
    base = [row for row in rows if (row["engine"], row["signature"]) == ("compiler", "D32fM32f")]
    assert [row["ratio"] for row in base] == [1.0] * len(base)
    assert all(row["ratio_q1"] <= row["ratio"] <= row["ratio_q3"] for row in rows)


def test_both_is_one_after_the_other():
    assert conv._both({"forward": [2.0, 3.0], "backward": [2.0, 6.0]}) == [1.0, 1 / (1 / 3 + 1 / 6)]


def test_the_papers_figures():
    speeds = [paper.convolution_speed("AlexNet", s) for s in ("D16M16", "D8M16", "D8M8")]
    assert [round(v, 2) for v in speeds] == [2.46, 3.85, 4.04]
    assert [paper.convolution_speed("MNIST", s) for s in ("D16M16", "D8M16", "D8M8")] == [2.0, None, 3.0]
    assert paper.convolution("D32fM32f", optimized=False) == 0.465
    assert paper.convolution("D32fM32f", optimized=True) is None
    assert paper.convolution("D8M8", optimized=False) == 0.619


def test_the_tables_and_the_plot(measured):
    results, _, _ = measured
    text = "\n".join(to_markdown(table) for table in conv.tables(results))
    assert "20 filters of 25 numbers, 576 positions" in text
    assert "| D8M8 | 64 together |" in text
    assert "3.00x" in text
    assert "our choice" in text
    assert all(figure.axes for figure in conv.figures(results).values())
