"""lowprec compare: data, the processes of contenders, the race, kernels, tables, and who is not installed."""

from __future__ import annotations

import json
import math
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from lowprec.cli import main
from lowprec.report import compare, tables
from lowprec.report.compare import calls, peers, race, show, text, worker
from lowprec.report.compare.data import Data, make
from lowprec.report.compare.peers import Contender, Engine
from lowprec.report.rows import select

SCHEMA = Path(__file__).parent.parent / "docs" / "results-schema.md"
FAKE = "test_compare:Fake"


class Fake(Engine):
    """Needs no library: its loss is the better the higher setting times effort, and it may misbehave."""

    name, efforts, standard, prepares = "Fake", (1, 2, 4, 8), 4, "nothing much"
    settings, first, also = (0.25, 0.5, 1.0), 0.5, ("odd",)

    def fit(self, setting, effort, columns):
        w = np.zeros((columns, self.data.about.n))
        if setting == "odd":
            raise ValueError("diverged")
        w[:, 0] = math.log(1 + setting * effort)
        return w, np.zeros(columns)


class Slow(Fake):
    name = "Slow"

    def prepare(self, data):
        import time

        time.sleep(600)


class Broken(Fake):
    name = "Broken"

    def prepare(self, data):
        raise RuntimeError("no such\nluck")


class Killed(Fake):
    name = "Killed"

    def prepare(self, data):
        os._exit(7)


class Moody(Fake):
    name = "Moody"

    def prepare(self, data):
        super().prepare(data)
        if (data.folder / "been-here").exists():
            raise RuntimeError("not again")
        (data.folder / "been-here").touch()


class Old(Fake):
    name, install = "Old", "pip install older"

    def load(self):
        raise RuntimeError("built for\nanother NumPy")


@pytest.fixture
def on_path(monkeypatch):
    """The processes of contenders find this module."""
    here, root = Path(__file__).parent, Path(__file__).parent.parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (here, root))))


def problem(folder, *, n=4, m=400, models=1, sparse=False):
    """Rows whose first feature is their label."""
    rng = np.random.default_rng(3)
    y = rng.integers(0, max(models, 2), m + 200)
    X = rng.uniform(-1, 1, (m + 200, n)).astype(np.float32)
    X[:, 0] = np.where(y > 0, 1, -1)
    np.savez(folder / "data.npz", X=X * (rng.random(X.shape) < 0.1) if sparse else X, y=y)
    there = folder / "made"
    there.mkdir()
    return make(str(folder / "data.npz"), there, n_features=1, quick=True, seed=0), there


# ---- random Fourier features -----------------------------------------------------------------------------------------------


# ---- data ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("models", [1, 3])
def test_a_data_set_is_what_was_written(tmp_path, models):
    about, folder = problem(tmp_path, models=models)
    data = Data.open(folder)
    data.touch()
    assert (about.n_models, about.n, about.sparse, about.loss) == (models, 4, False, "logistic")
    assert data.X.shape == (about.n_train, 4)
    assert not data.X.flags.writeable
    assert data.T.shape == (about.n_train, models)
    assert data.T.flags.f_contiguous
    assert set(np.unique(data.T)) == {-1.0, 1.0}
    if models > 1:
        assert np.array_equal(data.T.sum(axis=1), np.full(about.n_train, 2.0 - models))  # one +1 a row
    assert len(data.T_val) + len(data.T_test) + about.n_train == 600
    assert data.loss(np.zeros((models, 4)), np.zeros(models), models) == pytest.approx(math.log(2), rel=1e-15)
    far = about.norm - (1 + np.einsum("ij,ij->", data.X, data.X, dtype=np.float64) / about.n_train)
    assert abs(far) <= about.n_train * 4 * 2.0**-23


def test_mostly_zeros_become_sparse_rows(tmp_path):
    pytest.importorskip("scipy")
    about, folder = problem(tmp_path, sparse=True)
    data = Data.open(folder)
    data.touch()
    assert about.sparse
    assert data.X.nnz < 0.25 * data.X.shape[0] * data.X.shape[1]
    assert 0 <= data.score(np.zeros((1, 4)), np.zeros(1)) <= 1


def test_a_quantity_is_standardized(tmp_path, rng):
    X = rng.normal(size=(500, 3))
    np.savez(tmp_path / "q.npz", X=X, y=5 + 3 * X[:, 0])
    (tmp_path / "made").mkdir()
    about = make(str(tmp_path / "q.npz"), tmp_path / "made", n_features=1, quick=False, seed=0)
    data = Data.open(tmp_path / "made")
    assert (about.classes, about.loss, about.n_models) == (None, "squared", 1)
    assert abs(data.T.astype(np.float64).mean()) < len(data.T) * 2.0**-24
    exact = np.linalg.lstsq(data.X.astype(np.float64), data.T[:, 0].astype(np.float64), rcond=None)[0]
    assert data.score(exact[None], np.zeros(1)) > 0.99


def test_generative_needs_no_folder_and_the_others_say_so(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("LOWPREC_DATA", raising=False)
    about = make("generative", tmp_path, n_features=1, quick=True, seed=1)
    assert (about.name, about.n_models) == ("generative", 1)
    assert main(["compare", "a9a", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("lowprec: error: a9a: needs the folder of data sets: set LOWPREC_DATA")


@pytest.mark.skipif("LOWPREC_DATA" not in os.environ, reason="LOWPREC_DATA does not name the folder of data sets")
@pytest.mark.parametrize(("name", "models", "sparse"), [("mnist-rff-10", 10, False), ("a9a", 1, True)])
def test_named_sets(tmp_path, name, models, sparse):
    about = make(name, tmp_path, n_features=64, quick=True, seed=0)
    data = Data.open(tmp_path)
    assert (about.n_models, about.sparse, about.n_train) == (models, sparse, 10_000)
    assert data.X.shape == (10_000, about.n)
    assert len({X.shape[1] for X in (data.X, data.X_val, data.X_test)}) == 1


# ---- text ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("largest", "decimals"), [(0.0221, 6), (1.0, 4), (37.5, 3)])
def test_text_has_five_digits_of_the_largest_number(tmp_path, rng, largest, decimals):
    X = rng.uniform(-largest, largest, (50, 11)).astype(np.float32)
    X[3, 4] = largest
    text.write_text(tmp_path / "x", X, np.arange(50))
    lines = (tmp_path / "x").read_text().splitlines()
    assert len(lines) == 50
    for i, line in enumerate(lines):
        label, pairs = line.split(" |")
        assert float(label) == i
        found = dict(pair.split(":") for pair in pairs.split())
        assert list(map(int, found)) == list(range(11))
        # Half a unit of the last digit, and float32 arithmetic on a number of at most 10^5 such units.
        worst = max(abs(float(v) - float(x)) for v, x in zip(found.values(), X[i], strict=True))
        assert worst <= (0.5 + 10**5 * 2.0**-23) * 10.0**-decimals


def test_text_of_sparse_rows_leaves_zeros_out(tmp_path):
    sparse = pytest.importorskip("scipy.sparse")
    X = sparse.csr_matrix(np.array([[0, 1.5, 0], [0, 0, 0], [-2, 0, 3]], np.float32))
    text.write_text(tmp_path / "x", X, np.array([-1, 1, 1]))
    lines = [line.split() for line in (tmp_path / "x").read_text().splitlines()]
    assert [[word.rstrip("0") for word in line] for line in lines] == [
        ["-1", "|", "1:1.5"],
        ["1", "|"],
        ["1", "|", "0:-2.", "2:3."],
    ]


# ---- the process of a contender --------------------------------------------------------------------------------------------


def tell(folder, engine=FAKE, **task):
    events = []
    worker.run({"folder": str(folder), "contender": {"engine": engine, "threads": 1, "signature": None}} | task, events.append)
    return events


def test_a_search_tries_settings_then_efforts(tmp_path):
    _, folder = problem(tmp_path)
    events = tell(folder, target=math.log(1 + math.exp(-math.log(3))) + 1e-9, seconds=60)
    kinds = [event["event"] for event in events]
    assert kinds == ["loaded", "prepared", "fit", "fit", "fit", "chosen", "fit", "fit", "done"]
    assert next(event for event in events if event["event"] == "chosen")["setting"] == 1.0  # the better one
    fits = [(event["setting"], event["effort"]) for event in events if event["event"] == "fit"]
    assert fits == [(0.5, 4), (1.0, 4), ("odd", 4), (1.0, 1), (1.0, 2)]  # margins log 2, then log 3: there
    assert events[1]["bytes_per_example"] == 16


def test_without_a_target_the_standard_effort_sets_it(tmp_path):
    _, folder = problem(tmp_path)
    events = tell(folder, target=None, seconds=60)
    assert [e["effort"] for e in events if e["event"] == "fit"] == [4, 4, 4, 1, 2]  # then 4, which is known


@pytest.mark.parametrize(("seconds", "columns"), [(1000.0, 3), (1e-9, 1)])
def test_settings_are_tried_on_all_models_if_there_is_time(tmp_path, seconds, columns):
    _, folder = problem(tmp_path, models=3)
    events = tell(folder, target=0.0, seconds=seconds)
    tuning = events[: [event["event"] for event in events].index("chosen")]
    first, *others = (event["columns"] for event in tuning if event["event"] == "fit")
    assert (first, set(others)) == (1, {columns})


@pytest.mark.parametrize(
    ("losses", "tried", "best"),
    [
        ({1: 0.5, 1.8: 0.4, 3: 0.3, 5.5: 0.35}, [1, 1.8, 3, 5.5], 3),  # up while it falls
        ({1: 0.5, 1.8: 0.6, 0.55: 0.4, 0.3: 0.45}, [1, 1.8, 0.55, 0.3], 0.55),  # else down
        ({1: 0.5, 1.8: 0.6, 0.55: 0.7}, [1, 1.8, 0.55], 1),
        ({1: math.inf, 1.8: math.inf, 0.55: 0.7, 0.3: 0.8}, [1, 1.8, 0.55, 0.3], 0.55),  # diverged
    ],
)
def test_settings_are_tried_up_or_down(losses, tried, best):
    seen = []

    def fit(setting):
        seen.append(setting)
        return {"setting": setting, "loss": losses[setting], "seconds": 0.0}

    found, count = worker._tune(Engine(), fit, 60.0)
    assert (seen, found["setting"], count) == (tried, best, len(tried))


def test_no_setting_is_tried_for_which_there_is_no_time():
    found, count = worker._tune(Engine(), lambda setting: {"setting": setting, "loss": 1.0, "seconds": 61.0}, 60.0)
    assert (found["setting"], count) == (1.0, 1)


def test_a_single_fit(tmp_path):
    about, folder = problem(tmp_path, models=3)
    events = tell(folder, setting=1.0, effort=2)
    assert [event["event"] for event in events] == ["loaded", "prepared", "fit", "done"]
    assert events[2]["columns"] == about.n_models
    assert 0 <= events[2]["score"] <= 1


def test_ours_learns_in_a_process(tmp_path):
    _, folder = problem(tmp_path, m=2000)
    data = Data.open(folder)
    for signature in peers.SIGNATURES:
        engine = Contender("lowprec", 1, signature).make()
        engine.load()
        engine.prepare(data)
        coef, intercept = engine.weights(engine.fit(0.3, 5, 1))
        assert coef.shape == (1, 4)
        assert data.score(coef, intercept) > 0.95
        assert engine.bytes_per_example() * {"D8M8": 4, "D8M16": 4}.get(signature, 1) == 16


def test_memory_is_the_peak_since_a_moment():
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not count memory as Linux does")
    n_bytes = 1 << 26
    memory = worker.Memory()
    with mmap.mmap(-1, n_bytes) as pages:  # of the system: the heap may have room for as much
        pages.write(b"1" * n_bytes)
    # Linux adds its counts of pages up in batches, of at most 64 or twice the CPUs on each CPU.
    slack = mmap.PAGESIZE * max(64, 2 * os.cpu_count()) * os.cpu_count()
    assert memory.peak() >= n_bytes - slack
    assert worker.Memory().peak() < n_bytes // 2  # a new moment: what is gone does not count


@pytest.mark.parametrize(
    ("engine", "what"),
    [("Slow", "more than 0.3 s"), ("Broken", "RuntimeError: no such luck"), ("Killed", "the process ended with status 7")],
)
def test_a_process_that_fails_says_why(tmp_path, on_path, engine, what):
    _, folder = problem(tmp_path)
    events = list(race._events(folder, Contender(f"test_compare:{engine}"), {"setting": 1.0, "effort": 1}, 0.3))
    assert (events[-1]["event"], events[-1]["text"]) == ("error", what)


# ---- the race --------------------------------------------------------------------------------------------------------------


def test_a_race_between_fakes(tmp_path, on_path):
    problem(tmp_path)
    options = race.Options.short(data=(str(tmp_path / "data.npz"),), turns=2, turn_seconds=30.0, limit=2.0, kernels=False)

    def people(about, threads):
        assert threads == (1,)
        return [Contender("test_compare:Broken"), Contender(FAKE)]  # the one that works sets the target

    results = race.measure(options, people=people)
    first, broken = select(results, "race")
    assert (first["name"], first["reached"], first["runs"], first["effort"], first["setting"]) == ("Fake", True, 2, 4, "1.0")
    assert first["ratio"] == 1.0
    assert first["fit_ratio"] == 1.0
    assert (broken["name"], broken["reached"], broken["note"]) == ("Broken", False, "RuntimeError: no such luck")
    assert broken["ratio"] is None
    assert [row["effort"] for row in select(results, "trace")] != []
    assert all(list(row) == list(compare.FIELDS) for row in results["rows"])
    shown = compare.tables(results)
    assert "never" in tables.to_markdown(shown[0])
    assert "Broken, 1 thread: RuntimeError: no such luck." in shown[0].notes
    pytest.importorskip("matplotlib")
    assert list(compare.figures(results)) == ["compare-data-npz"]


def test_a_turn_that_fails_leaves_what_the_search_found(tmp_path, on_path):
    problem(tmp_path)
    options = race.Options.short(data=(str(tmp_path / "data.npz"),), turns=1, limit=2.0, kernels=False)
    first, moody = select(race.measure(options, people=lambda *_: [Contender(FAKE), Contender("test_compare:Moody")]), "race")
    assert (moody["reached"], moody["runs"]) == (True, 1)
    assert moody["note"] == "ran in the search, and in a turn: RuntimeError: not again"
    assert moody["ratio"] == first["total_seconds"] / moody["total_seconds"]
    assert moody["ratio_q1"] is None


def test_the_target_is_rounded_up():
    assert race.rounded_up(0.123401) == pytest.approx(0.1235, rel=1e-15)
    assert (race.rounded_up(1.0), race.rounded_up(0.0)) == (1.0, 0.0)
    for loss in (0.0123456, 0.999999, 3.14159):
        assert loss <= race.rounded_up(loss) <= loss * 1.001


def test_everybody_has_a_row():
    about = make_about(n_models=10)
    names = [(c.name, c.threads) for c in peers.contenders(about, (1, 2))]
    assert len(set(names)) == len(names)
    assert {name for name, _ in names} == {
        "scikit-learn", "lowprec D8M8", "lowprec D8M16", "lowprec D32fM32f", "LIBLINEAR", "Vowpal Wabbit", "tick",
    }  # fmt: skip
    assert names[0] == ("scikit-learn", 1)  # sets the target
    assert ("scikit-learn", 2) in names
    assert ("scikit-learn", 2) not in [(c.name, c.threads) for c in peers.contenders(make_about(n_models=1), (1, 2))]


def make_about(**changes):
    fields = {"name": "x", "source": "", "n": 4, "n_train": 10, "n_models": 1, "classes": [0, 1], "loss": "logistic"}
    return peers.About(**(fields | {"norm": 2.0, "sparse": False} | changes))


# ---- who is not installed --------------------------------------------------------------------------------------------------


def test_who_is_missing_is_named_with_the_command(monkeypatch):
    def nothing(name, *_):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(calls.importlib, "import_module", nothing)
    assert peers.missing(peers.Liblinear) == "LIBLINEAR: there is no module liblinear; pip install liblinear-multicore"
    assert peers.missing(peers.Lowprec) is None
    assert calls.missing() == list(calls._INSTALL.values())
    assert all("pip install" in text for text in calls.missing())


def test_who_does_not_import_is_named_too(tmp_path, on_path):
    problem(tmp_path)
    options = race.Options.short(data=(str(tmp_path / "data.npz"),), turns=1, limit=2.0, kernels=False)
    results = race.measure(options, people=lambda *_: [Contender("test_compare:Old"), Contender(FAKE)])
    assert [row["name"] for row in select(results, "race")] == ["Fake"]
    notes = [row["note"] for row in select(results, "missing")]
    assert "Old: does not import (RuntimeError: built for another NumPy); pip install older" in notes


def test_the_command_with_nobody_there(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(race, "missing", lambda engine: f"{engine.name}: gone" if engine.module else None)
    monkeypatch.setattr(race, "contenders", lambda about, threads: [Contender("lowprec", 1, "D8M16")])
    problem(tmp_path)
    out = tmp_path / "out"
    command = ["compare", str(tmp_path / "data.npz"), "--quick", "--no-kernels", "--turns", "1", "--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "Not installed, so not compared" in printed
    assert "scikit-learn: gone" in printed
    results = json.loads((out / "compare.json").read_text())
    assert [row["note"] for row in results["rows"] if row["table"] == "missing"] == [
        f"{name}: gone" for name in ("scikit-learn", "LIBLINEAR", "Vowpal Wabbit", "tick")
    ]
    assert {path.name for path in out.iterdir()} == {"compare.json", "compare.csv", "compare.md", "compare-data-npz.png"}


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="limit: must be finite and positive; got 0"):
        race.Options(limit=0.0)
    with pytest.raises(ValueError, match=r"peers: choose one of \{scikit-learn, LIBLINEAR, Vowpal Wabbit, tick\}; got 'vw'"):
        race.Options(peers=("vw",))
    with pytest.raises(ValueError, match="turns: must be at least 1"):
        race.Options(turns=0)


# ---- kernels ---------------------------------------------------------------------------------------------------------------


class FakeNumKong:
    """As many calls as are needed, on NumPy."""

    def __init__(self):
        self.able = {"serial": True, "haswell": True, "icelake": True}
        self.seen = set()

    def get_capabilities(self):
        return dict(self.able)

    def enable_capability(self, name):
        self.able[name] = True

    def disable_capability(self, name):
        self.able[name] = False

    def dot(self, x, w):
        self.seen.add(self.able["icelake"])
        return x @ w

    def blend(self, x, w, *, alpha, beta, out):
        out[...] = np.rint(alpha * x.astype(np.float32) + beta * w)


def test_kernels_beside_a_fake(monkeypatch):
    fake = FakeNumKong()
    monkeypatch.setattr(calls, "_module", lambda name: fake if name == "numkong" else None)
    monkeypatch.setattr(calls, "_LENGTHS", (256,))
    monkeypatch.setattr(calls, "_QUANTIZED", 2**14)
    rows = calls.measure(0.0)
    assert {(row["op"], row["name"]) for row in rows} == {
        *((op, name) for op in ("dot", "axpy") for name in ("lowprec", "NumKong", "NumKong, AVX2")),
        ("quantize, stochastic", "lowprec"),
        ("quantize, nearest", "lowprec"),
    }
    assert fake.seen == {True, False}  # with AVX-512, and without
    assert fake.able["icelake"]  # as it was
    notes = {row["name"]: row["note"] for row in rows if "note" in row}
    assert notes["NumKong"].endswith("by 0.0")  # rounded to nearest, 0.4 quanta are nothing
    results = {"rows": [dict.fromkeys(compare.FIELDS) | row for row in rows], "options": {}}
    table = show._kernels(results)
    assert len(table.rows) == 2 * 2 * 2 + 4
    assert set(rows[0]) <= set(compare.FIELDS)


def test_our_update_moves_a_model_by_small_steps():
    from lowprec.kernels import axpy_8_8_sr

    far = calls.moved(lambda m, x, w, k: axpy_8_8_sr(m, x, w, seed=k))
    # 100 steps, each rounded at 32 random words for 4,096 weights: the mean of 3,200 draws of variance 0.24, times 100; 6 sigma.
    assert abs(far - 40) < 6 * math.sqrt(0.24 / (100 * 32)) * 100


# ---- documents -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SCHEMA.exists(), reason="the documents are not beside the tests")
def test_every_field_is_described():
    described = SCHEMA.read_text(encoding="utf-8").split("## Rows of `compare`")[1].split("\n## ")[0]
    assert [field for field in compare.FIELDS if f"`{field}`" not in described] == []
