"""LeNet with a model of any number of bits, and ``lowprec experiment lenet``."""

from __future__ import annotations

import gzip
import json
import math
import struct
import sys
import threading

import numpy as np
import pytest

pytest.importorskip("click")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from lowprec.cli import main
from lowprec.report import paper
from lowprec.report.experiments import lenet as experiment
from lowprec.report.tables import to_markdown
from lowprec.wrpn import Images

CLASSES = 10


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'lowprec[wrpn]'")


@pytest.fixture
def lenet(torch):
    from lowprec.report import lenet

    return lenet


def pictures(count, seed):
    """Images that look like MNIST to a reader: each class is a pattern, with noise."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(1).integers(0, 200, (CLASSES, 28, 28))
    y = rng.integers(0, CLASSES, count)
    return (patterns[y] + rng.integers(0, 50, (count, 28, 28))).astype(np.uint8)[:, None], y


@pytest.fixture(scope="module")
def data():
    return Images("mnist", *pictures(256, 2), *pictures(64, 3))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The same as files."""

    def idx(a):
        return b"\0\0\x08" + bytes([a.ndim]) + struct.pack(f">{a.ndim}I", *a.shape) + a.astype(np.uint8).tobytes()

    (tmp_path / "mnist").mkdir()
    for part, (x, y) in (("train", pictures(256, 2)), ("t10k", pictures(64, 3))):
        for kind, a in (("images-idx3", x[:, 0]), ("labels-idx1", y)):
            (tmp_path / "mnist" / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(a)))
    monkeypatch.setenv("LOWPREC_DATA", str(tmp_path))
    return tmp_path


TINY = {"data": ("mnist",), "bits": (3, 8), "iterations": 8, "batch_size": 16, "runs": 2}


# ---- without torch -------------------------------------------------------------------------------------------------


def test_a_missing_torch_is_one_sentence(capsys, monkeypatch, tmp_path, folder):
    monkeypatch.setitem(sys.modules, "torch", None)
    status = main(["experiment", "lenet", "--quick", "--out", str(tmp_path / "out")])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lowprec: error")]
    assert status == 2
    assert line == "lowprec: error: training LeNet needs torch, which is not installed: pip install 'lowprec[wrpn]'"
    assert not list((tmp_path / "out").iterdir())


def test_missing_data_are_one_sentence(torch, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LOWPREC_DATA", str(tmp_path))
    status = main(["experiment", "lenet", "--quick", "--out", str(tmp_path / "out")])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lowprec: error")]
    assert status == 2
    assert "must have train-images-idx3-ubyte of mnist" in line


# ---- rounding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 8, 16])
def test_a_write_is_the_formula(torch, lenet, bits):
    """A quantum that is a power of two, so that no division rounds; the sum is the only float32 operation that does."""
    largest = 2 ** (bits - 1) - 1
    quantum, seed = 2.0**-7, 5
    rng = np.random.default_rng(seed)
    codes = rng.integers(-largest, largest, (20, 30), endpoint=True)
    change = (rng.normal(0, 2, codes.shape) * quantum).astype(np.float32)
    weights = torch.tensor(codes * quantum, dtype=torch.float32)
    moved = (weights.numpy() + change) / np.float32(quantum)
    lenet.write(weights, torch.tensor(change), largest * quantum, bits, torch.Generator().manual_seed(seed))
    u = torch.rand(codes.shape, generator=torch.Generator().manual_seed(seed)).numpy()
    assert np.array_equal(weights.numpy() / quantum, np.clip(np.floor(moved + u), -largest, largest))


def test_no_change_is_no_change(torch, lenet):
    codes = torch.arange(-127, 128).float()
    weights = codes * 2.0**-5
    lenet.write(weights, torch.zeros(255), 127 * 2.0**-5, 8, torch.Generator().manual_seed(1))
    assert torch.equal(weights, codes * 2.0**-5)


@pytest.mark.parametrize("share", [0.03125, 0.4375, 0.96875])
def test_a_write_is_unbiased(torch, lenet, share):
    """The mean of n independent numbers of {0, 1} is off by more than t with probability 2 exp(-2 n t^2) (Hoeffding)."""
    n, probability = 100_000, 1e-12
    weights = torch.zeros(n)
    lenet.write(weights, torch.full((n,), share), 7.0, 4, torch.Generator().manual_seed(3))
    assert set(weights.tolist()) == {0.0, 1.0}
    assert abs(weights.double().mean().item() - share) <= math.sqrt(math.log(2 / probability) / (2 * n))


def test_data_have_their_bits(torch, lenet):
    numbers = torch.tensor([-3.0, 0.4, 0.2, 1.5], requires_grad=True)
    rounded = lenet.round_data(numbers, 3)
    assert rounded.tolist() == [-3.0, 0.0, 0.0, 2.0]  # multiples of 1, halves to even
    (rounded * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert numbers.grad.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert lenet.round_data(torch.zeros(3), 8).tolist() == [0.0, 0.0, 0.0]


# ---- training ------------------------------------------------------------------------------------------------------


def test_the_network_is_caffes(torch, lenet):
    sizes = [p.numel() for p in lenet.network((1, 28, 28), 10, torch.Generator()).parameters()]
    assert sizes == [500, 20, 25_000, 50, 400_000, 500, 5_000, 10]
    assert lenet.network((3, 32, 32), 10, torch.Generator())(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_weights_are_on_the_grid(torch, lenet, data):
    setting, limits = lenet.Setting(6, 16, 0.1), [0.5, 0.25, 0.125, 0.25]
    model = lenet.train(data, setting, seed=1, bits=3, limits=limits)
    layers = [layer for layer in model if hasattr(layer, "weight")]
    for layer, limit in zip(layers, limits, strict=True):
        assert set(layer.weight.flatten().tolist()) <= {float(np.float32(k) * np.float32(limit / 3)) for k in range(-3, 4)}
        assert layer.bias.abs().max() > 0
    assert all(0 < largest <= np.float32(limit) for largest, limit in zip(lenet.ranges(model), limits, strict=True))


def test_training_learns_and_repeats_to_the_bit(torch, lenet, data):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        setting, limits = lenet.Setting(40, 16, 0.1), [0.5, 0.25, 0.125, 0.25]
        runs = [lenet.train(data, setting, seed=seed, bits=8, limits=limits) for seed in (1, 1, 2)]
        same, other = (
            all(torch.equal(p, q) for p, q in zip(runs[0].parameters(), runs[k].parameters(), strict=True)) for k in (1, 2)
        )
        assert same
        assert not other
        # Chance is an error of 0.9; the patterns do not overlap.
        assert lenet.test_error(runs[0], data, setting) < 0.5
    finally:
        torch.set_num_threads(before)


def test_a_stopped_run_ends(torch, lenet, data):
    stop = threading.Event()
    stop.set()
    setting = lenet.Setting(10**9, 16, 0.1)
    first = lenet.train(data, lenet.Setting(0, 16, 0.1), seed=1)
    stopped = lenet.train(data, setting, seed=1, stop=stop)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), stopped.parameters(), strict=True))


# ---- the experiment ------------------------------------------------------------------------------------------------


def test_results_stand_beside_the_paper(torch, folder):
    seen = []
    o = experiment.Options(**TINY)
    before = torch.get_num_threads()
    results = experiment.measure(o, lambda *told: seen.append(told))
    assert torch.get_num_threads() == before
    rows = results["rows"]
    assert all(tuple(row) == experiment.FIELDS for row in rows)
    assert json.loads(json.dumps(results["options"])) == results["options"]
    done = [share for _, _, share in seen]
    assert done == sorted(done)
    assert done[-1] == 1.0
    assert [(row["signature"], row["bits"]) for row in rows] == [("D8M3", 3), ("D8M8", 8), ("D8M32f", None)]
    assert all(row["test_error_min"] <= row["test_error"] <= row["test_error_max"] for row in rows)
    assert all((row["m"], row["m_test"], row["runs"]) == (256, 64, 2) for row in rows)
    assert [row["paper_test_error"] for row in rows] == [11.13 / 100, 1.174 / 100, None]
    assert paper.series("fig7b", "MNIST")[3] == 11.13
    assert [len(limits) for limits in rows[0]["model_ranges"]] == [4, 4]
    text = "\n".join(to_markdown(table) for table in experiment.tables(results))
    for shown in ("11.13 %", "| 3 bits |", "| float32 |", "our choice", "the largest weight after a run"):
        assert shown in text
    assert all(figure.axes for figure in experiment.figures(results).values())
    again = experiment.measure(o)["rows"]
    assert [row["test_error"] for row in again] == [row["test_error"] for row in rows]


def test_an_interrupted_experiment_ends(torch, folder):
    """Stopped when the first of forty float runs is done."""
    before, told = torch.get_num_threads(), []

    def progress(*what):
        told.append(what)
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiment.measure(experiment.Options(**(TINY | {"runs": 40})), progress)
    assert torch.get_num_threads() == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]
    assert len(told) == 2
