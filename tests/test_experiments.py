"""``lowprec experiment``: properties of what is found, on problems far too small to mean anything else."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import math
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("click")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from lowprec.cli import main
from lowprec.datasets import generative
from lowprec.report import experiments, paper
from lowprec.report.experiments import common, defaults, minibatch, precision, rounding, svm
from lowprec.report.experiments.common import Distances, Steps, data_file, model_scale
from lowprec.report.tables import to_markdown

SCHEMA = Path(__file__).parent.parent / "docs" / "results-schema.md"


def shown(module, results):
    """Everything that is printed, and the plots drawn."""
    figures = module.figures(results)
    assert all(figure.axes for figure in figures.values())
    return "\n".join(to_markdown(table) for table in module.tables(results))


def check(module, results, seen):
    """What holds of every experiment's results."""
    assert all(tuple(row) == module.FIELDS for row in results["rows"])
    assert json.loads(json.dumps(results["options"])) == results["options"]
    done = [share for _, _, share in seen]
    assert done == sorted(done)
    assert done[-1] == 1.0


def run(capsys, *args):
    """Status, stdout and stderr of a command."""
    capsys.readouterr()
    status = main(list(args))
    out, err = capsys.readouterr()
    return status, out, err


# ---- the command ---------------------------------------------------------------------------------------------------


def test_every_experiment_is_whole():
    for name in experiments.EXPERIMENTS:
        module = experiments.load(name)
        assert isinstance(module.FULL, module.Options)
        assert isinstance(module.QUICK, module.Options)
        assert callable(module.measure)


@pytest.mark.parametrize("args", [(), ("--list",), ("svm", "--list")])
def test_the_list(capsys, args):
    status, out, err = run(capsys, "experiment", *args)
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")] == list(experiments.EXPERIMENTS)
    assert max(map(len, out.splitlines())) <= 100


def test_a_wrong_name_is_one_sentence(capsys):
    status, out, err = run(capsys, "experiment", "nonsense")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert all(name in err for name in experiments.EXPERIMENTS)


@pytest.mark.parametrize("name", ["svm", "precision"])
@pytest.mark.parametrize("folder", [None, "empty"])
def test_missing_data_are_one_sentence(capsys, monkeypatch, tmp_path, name, folder):
    monkeypatch.delenv("LOWPREC_DATA", raising=False)
    if folder is not None:
        monkeypatch.setenv("LOWPREC_DATA", str(tmp_path))
    status, _, err = run(capsys, "experiment", name, "--quick", "--out", str(tmp_path / "out"))
    (line,) = [line for line in err.splitlines() if line.startswith("lowprec: error")]
    assert status == 2
    file = {"svm": "mnist/train-images-idx3-ubyte.gz", "precision": "svmlight/a9a.bz2"}[name]
    assert line.startswith("lowprec: error: LOWPREC_DATA: must name ")
    assert file in line
    assert line.endswith("got nothing" if folder is None else f"got {tmp_path}")
    assert not list((tmp_path / "out").iterdir())


TINY = rounding.Options(n=256, m=512, passes=2, runs=2, factors=(1.0, 32.0))


def test_the_command_leaves_its_files(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(rounding, "QUICK", TINY)
    status, out, _ = run(capsys, "experiment", "rounding", "--quick", "--seed", "5", "--out", str(tmp_path))
    assert status == 0
    names = {f"rounding.{ending}" for ending in ("json", "csv", "md", "png")}
    assert {path.name for path in tmp_path.iterdir()} == names | {"rounding-steps.png"}
    found = json.loads((tmp_path / "rounding.json").read_text())
    assert (found["command"], found["options"]["seed"], found["options"]["n"]) == ("experiment rounding", 5, 256)
    with open(tmp_path / "rounding.csv") as f:
        assert len(list(csv.DictReader(f))) == len(found["rows"])
    assert max(map(len, out.splitlines())) <= 100
    assert "our choice" in out
    assert "our choice" in (tmp_path / "rounding.md").read_text()


def test_an_interrupted_command_leaves_nothing(capsys, monkeypatch, tmp_path):
    calls = []

    def distances(*args, **kwargs):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return found

    found = Distances(np.ones(3))
    for _ in range(TINY.passes):
        found.add(np.ones(3))
    monkeypatch.setattr(rounding, "QUICK", TINY)
    monkeypatch.setattr(rounding, "distances", distances)
    status, _, err = run(capsys, "experiment", "rounding", "--quick", "--out", str(tmp_path))
    assert (status, len(calls)) == (130, 5)
    assert err.endswith("lowprec: interrupted\n")
    assert not list(tmp_path.iterdir())


# ---- what they share -----------------------------------------------------------------------------------------------


def test_distance_and_cosine():
    w = np.array([3.0, -4.0, 0.0, 0.0])
    found = Distances(w)
    found.add(w)
    found.add(2 * w)
    found.add(np.array([0.0, 0.0, 1.0, 0.0]))
    assert found.distance == [5 / 4, 0.0, 5 / 4, math.sqrt(26) / 4]
    assert found.cosine == [0.0, 1.0, 1.0, 0.0]


def test_a_models_scale_covers_its_range():
    assert [model_scale(M, 2.0) for M in ("32f", "4", "8", "16")] == [None, 2 / 7, 2 / 127, 2 / 32767]


def test_steps_tell_what_is_done():
    seen = []
    step = Steps(lambda *told: seen.append(told), 4.0)
    step("a", "b", 3.0)
    step.within(0.5)
    step("c", "d")
    step.within(1.0)
    assert seen == [("a", "b", 0.0), ("a", "b", 0.375), ("c", "d", 0.75), ("c", "d", 0.99)]


def test_unknown_fields_are_refused():
    with pytest.raises(KeyError, match="wrong"):
        common.make_row(("right",), wrong=1)


@pytest.mark.skipif(not SCHEMA.exists(), reason="the documentation is not beside the tests")
def test_the_schema_names_every_field():
    text = SCHEMA.read_text()
    for name in experiments.EXPERIMENTS:
        assert f"`experiment {name}`" in text
        part = text.partition(f"## Rows of `experiment {name}`")[2].partition("\n## ")[0]
        for field in experiments.load(name).FIELDS:
            assert f"`{field}`" in part, (name, field)


# ---- rounding ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rounded():
    seen = []
    options = rounding.Options(n=256, m=2048, passes=3, runs=2, factors=(1.0, 16.0))
    return rounding.measure(options, lambda *told: seen.append(told)), seen, options


def test_rounding_is_complete(rounded):
    results, seen, o = rounded
    check(rounding, results, seen)
    curves = [row for row in results["rows"] if row["table"] == "rounding"]
    assert len(curves) == len(o.signatures) * 4 * (o.passes + 1)
    assert len(results["rows"]) - len(curves) == len(o.signatures) * 2 * len(o.factors)
    for row in results["rows"]:
        assert row["distance_min"] <= row["distance"] <= row["distance_max"]
        assert row["runs"] == (1 if row["rounding"] == "nearest" or row["table"] == "steps" else 2)


def test_the_start_is_the_length_of_the_true_model(rounded):
    results, _, o = rounded
    w = generative(o.n, 1, o.seed).w
    start = float(np.linalg.norm(-w)) / (2 * math.sqrt(o.n))
    starts = {row["distance"] for row in results["rows"] if row["passes"] == 0}
    assert starts == {start}


def test_distance_falls_and_unbiased_rounding_agrees(rounded):
    """Two unbiased ways differ by rounding noise alone: for each of T writes a deviation of at most half a quantum."""
    results, _, o = rounded
    last = {
        row["rounding"]: row
        for row in results["rows"]
        if (row["table"], row["signature"], row["passes"]) == ("rounding", "D16M16", o.passes)
    }
    start = next(row["distance"] for row in results["rows"] if row["passes"] == 0)
    assert all(row["distance"] < start for row in last.values())
    assert all(row["cosine"] > 0.5 for row in last.values())
    noise = 1.25 / 32767 / 2 * math.sqrt(o.m * o.passes)
    for name in ("mt19937", "xorshift"):
        assert abs(last[name]["distance"] - last["shared"]["distance"]) < 2 * noise


def test_updates_below_half_a_quantum_are_lost_to_nearest(rounded):
    """With step 1/n an update is at most 1/256, half a quantum of D8M8 1.25/254."""
    results, _, o = rounded
    small = {
        (row["signature"], row["rounding"]): row
        for row in results["rows"]
        if row["table"] == "steps" and row["step_size"] == 1.0 / o.n
    }
    start = next(row["distance"] for row in results["rows"] if row["passes"] == 0)
    assert (small["D8M8", "nearest"]["distance"], small["D8M8", "nearest"]["cosine"]) == (start, 0.0)
    assert small["D8M8", "shared"]["distance"] < start
    assert small["D16M16", "nearest"]["distance"] < start


def test_rounding_repeats_to_the_bit(rounded):
    results, _, o = rounded
    assert rounding.measure(o)["rows"] == results["rows"]


def test_rounding_stands_beside_the_paper(rounded):
    results, _, _ = rounded
    theirs = {
        (row["rounding"], row["passes"]): row["paper_distance"] for row in results["rows"] if row["paper_distance"] is not None
    }
    assert theirs["shared", 1] == paper.series("fig5a", "XORSHIFT+sharing")[1] == 0.1669
    assert not any(name == "nearest" for name, _ in theirs)
    assert all(row["paper_distance"] is None for row in results["rows"] if row["signature"] == "D8M8")
    text = shown(rounding, results)
    assert "0.1669" in text
    assert "its problem is larger" in text


# ---- mini-batches --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batches():
    seen = []
    options = minibatch.Options(
        n=256, m=2048, passes=2, batch_sizes=(1, 8), factors=(8.0, 16.0), updates_signatures=("D16M16",), updates_sizes=(1, 4)
    )
    return minibatch.measure(options, lambda *told: seen.append(told)), seen, options


def test_minibatches_are_complete(batches):
    results, seen, o = batches
    check(minibatch, results, seen)
    by = {(row["counted"], row["signature"], row["batch_size"]): row for row in results["rows"]}
    assert len(by) == len(results["rows"]) == 4 * 2 + 2
    steps = {counted: {row["step_size"] for key, row in by.items() if key[0] == counted} for counted in ("examples", "updates")}
    assert steps["updates"] == {step / 2 for step in steps["examples"]}
    assert by["updates", "D16M16", 4]["passes"] == 4 * o.passes
    start = float(np.linalg.norm(generative(o.n, 1, o.seed).w)) / (2 * math.sqrt(o.n))
    assert all(row["distance"] < start for row in results["rows"])


def test_float32_and_16_bits_are_close(batches):
    """Steps that do not expand add up the noise of T writes, deviations of half a quantum at most, and that of the data."""
    results, _, o = batches
    at = {row["signature"]: row for row in results["rows"] if (row["counted"], row["batch_size"]) == ("examples", 1)}
    T = o.m * o.passes
    bound = 1.25 / 32767 / 2 * math.sqrt(T) + at["D16M16"]["step_size"] * T / 65534
    assert 0 < abs(at["D32fM32f"]["distance"] - at["D16M16"]["distance"]) < bound


def test_minibatches_stand_beside_the_paper(batches):
    results, _, _ = batches
    row = next(row for row in results["rows"] if (row["signature"], row["batch_size"]) == ("D8M16", 8))
    assert row["paper_distance"] == paper.series("fig6e", "D8M16")[8] == 0.1119
    text = shown(minibatch, results)
    assert "0.1119" in text
    assert "Whether the paper counts so, it does not say." in text


# ---- the kernel SVM ------------------------------------------------------------------------------------------------


def idx(a):
    """An array of bytes as an idx file."""
    return b"\0\0\x08" + bytes([a.ndim]) + struct.pack(f">{a.ndim}I", *a.shape) + a.astype(np.uint8).tobytes()


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """Images that look like MNIST to a reader: each class is a pattern, with noise."""
    rng = np.random.default_rng(1)
    patterns = rng.integers(0, 200, (10, 6, 6))
    (tmp_path / "mnist").mkdir()
    for part, count in (("train", 200), ("t10k", 60)):
        y = rng.integers(0, 10, count)
        X = patterns[y] + rng.integers(0, 20, (count, 6, 6))
        for kind, a in (("images-idx3", X), ("labels-idx1", y)):
            (tmp_path / "mnist" / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(a)))
    monkeypatch.setenv("LOWPREC_DATA", str(tmp_path))


def test_svm(digits):
    seen = []
    o = svm.Options(n_features=96, passes=3, gamma=1.0, limit=1.0)
    results = svm.measure(o, lambda *told: seen.append(told))
    check(svm, results, seen)
    curves = [row for row in results["rows"] if row["table"] == "svm"]
    assert [(row["signature"], row["passes"]) for row in curves] == [(s, k) for s in o.signatures for k in (1, 2, 3)]
    # The hinge loss of w = 0 is 1 for every image and model.
    assert all(0 <= row["train_loss"] < 10 * 200 for row in curves)
    assert all(0 <= row["test_error"] < 0.5 for row in curves)
    speeds = {row["signature"]: row for row in results["rows"] if row["table"] == "speed"}
    assert speeds["D32fM32f"]["ratio"] == 1.0
    assert {s: row["paper_ratio"] for s, row in speeds.items()} == {
        "D32fM32f": None, "D16M16": 3.3, "D8M16": None, "D8M8": 5.9
    }  # fmt: skip
    assert curves[-1]["paper_test_error"] == paper.series("fig7e", "D8M8")[3] == 0.0446
    text = shown(svm, results)
    for published in ("4.46 %", "9,018", "5.90x", "3.30x"):
        assert published in text
    again = svm.measure(replace(o, signatures=("D8M8",)))
    losses = [row["train_loss"] for row in curves if row["signature"] == "D8M8"]
    assert [row["train_loss"] for row in again["rows"] if row["table"] == "svm"] == losses


# ---- precision -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [2.0**-9, 1.0, 2.0**14])
@pytest.mark.parametrize("best", [2.0**-3, 2.0**4, 2.0**5])
def test_search_finds_the_best_power_of_two(start, best):
    calls = []

    def loss(step):
        calls.append(step)
        return abs(math.log2(step / best))

    found, tried = precision.search(loss, start)
    assert found == best
    assert tried == {step: abs(math.log2(step / best)) for step in calls}
    assert len(calls) == len(tried), "no step is tried twice"


def test_search_stays_away_from_steps_that_diverge():
    """From 4, which diverges, the way down is open."""
    assert precision.search(lambda step: math.inf if step > 1 else -step, 4.0)[0] == 1.0


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Two data sets in the places of a9a and of Reuters."""
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(1)
    w = rng.normal(size=12)
    (tmp_path / "svmlight").mkdir()
    for name, count in (("a9a.bz2", 400), ("a9a.t.bz2", 100), ("reuters_moneyfx.trn.bz2", 400), ("reuters_moneyfx.tst.bz2", 100)):
        X = np.where(rng.random((count, 12)) < 0.4, rng.normal(size=(count, 12)).round(3), 0)
        if ".t" in name:
            X[:, 11] = 0  # as a9a's, a test file may lack the last column
        lines = [
            f"{1 if x @ w > 0 else -1} " + " ".join(f"{j + 1}:{x[j]:g}" for j in np.flatnonzero(x)) for x in X
        ]
        (tmp_path / "svmlight" / name).write_bytes(bz2.compress("\n".join(lines).encode() + b"\n"))
    monkeypatch.setenv("LOWPREC_DATA", str(tmp_path))


def test_precision(files):
    seen = []
    o = precision.Options(
        data=("a9a", "reuters_moneyfx"), D=("32f", "16", "8"), M=("32f", "16", "4"), G=("8",), passes=3, ranges=(0.0, 1.0), runs=2
    )
    results = precision.measure(o, lambda *told: seen.append(told))
    check(precision, results, seen)
    by = {(row["data"], row["D"], row["M"], row["G"]): row for row in results["rows"]}
    assert len(by) == len(results["rows"]) == 2 * 9 * 2
    for row in results["rows"]:
        if row["data"] == "reuters_moneyfx" and row["G"]:
            assert row["reason"] == "sparse data are trained on example by example, without a G term"
            assert row["train_loss"] is None
            continue
        assert row["reason"] is None
        assert row["train_loss_min"] <= row["train_loss"] <= row["train_loss_max"]
        assert 0 < row["train_loss"] < math.log(2)  # the loss of w = 0
        assert row["excess"] == row["train_loss"] / by[row["data"], "32f", "32f", None]["train_loss"] - 1.0
        assert row["runs"] == 2
    for name in o.data:
        assert by[name, "32f", "32f", None]["excess"] == 0.0
    # 16 bits lose less than 4 do; of separable data with few passes the last iterate is too noisy to tell.
    assert by["a9a", "16", "16", None]["train_loss"] < by["a9a", "16", "4", None]["train_loss"]
    assert by["reuters_moneyfx", "8", "32f", None]["earlier_loss"] == paper.earlier_losses("Reuters")["D8"] == 0.5709
    assert by["a9a", "8", "32f", None]["earlier_loss"] is None
    text = shown(precision, results)
    assert "n/a, sparse data are trained on example by example" in text
    assert "their Reuters" in text
    assert "0.5709" in text
    assert "is not their Reuters (8K x 18K)" in text


def test_a_file_that_is_there_is_found(files):
    assert data_file("svmlight", "a9a.bz2").exists()


@pytest.mark.skipif("LOWPREC_DATA" not in os.environ, reason="LOWPREC_DATA names no folder of data sets")
def test_covertype_fills_its_range():
    data = precision.DATA["covtype"](1)
    assert (data.X.shape, data.X_test.shape) == ((16_000, 54), (4_000, 54))
    low, high = data.X.min(axis=0), data.X.max(axis=0)
    constant = low == high
    assert (low == -1).all()
    assert (high[~constant] == 1).all()
    assert not constant[:10].any()
    assert set(np.unique(data.y)) == {-1, 1}


# ---- defaults ------------------------------------------------------------------------------------------------------


def test_defaults(files, monkeypatch):
    """On a data set in the place of a9a that is easy for all, with few of scikit-learn's settings."""
    monkeypatch.setattr(defaults, "grid", lambda name, grid=defaults.grid: grid(name)[::16])
    seen = []
    results = defaults.measure(defaults.Options(data=("a9a",), runs=2), lambda *told: seen.append(told))
    check(defaults, results, seen)
    peer, *ours = results["rows"]
    assert (peer["engine"], peer["measure"], peer["runs"], peer["classes"]) == ("scikit-learn", "accuracy", 1, 2)
    assert peer["setting"] in defaults.grid("a9a")
    assert [(row["signature"], row["average"], row["accepted"]) for row in ours] == list(defaults.BARS)
    for row in ours:
        assert row["score_min"] <= row["score"] <= row["score_max"]
        assert row["points_below"] == peer["score"] - row["score"]
        assert row["score"] > 80
    text = shown(defaults, results)
    assert "scikit-learn, tuned" in text
    assert "D8M8, averaged" in text


def test_a_rare_class_is_judged_by_average_precision(rng):
    rare = (rng.random(1000) < 0.1).astype(int)
    assert defaults.measure_of("a9a", rare) == "average precision"
    assert defaults.measure_of("a9a", np.arange(1000) % 2) == "accuracy"
    assert defaults.measure_of("news20", np.arange(1000) % 20) == "accuracy"
    assert defaults.measure_of("cal_housing", rng.random(1000)) == "R2"
