"""Measuring and showing: statistics, turns, data, the plain C loops, tables, files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from lowprec import kernels
from lowprec._sgd import Sgd
from lowprec.report import files, machine, paper, speedups, tables, timing, training
from lowprec.report.rows import FIELDS
from lowprec.report.tables import Table
from lowprec.report.timing import Case, geometric_mean, ratios, spread, take_turns
from lowprec.report.workload import Workload, products

SCHEMA = Path(__file__).parent.parent / "docs" / "results-schema.md"


# ---- statistics ----------------------------------------------------------------------------------------------------


def test_spread_is_median_and_quartiles():
    assert spread([5.0]) == (5.0, 5.0, 5.0)
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == (3.0, 2.0, 4.0)
    with pytest.raises(ValueError, match="at least one"):
        spread([])


def test_ratios_are_of_the_same_turn():
    # The machine gets ten times faster half-way: the ratio within a turn does not see it, a ratio of medians would.
    slow, fast = [1.0, 1.0, 10.0, 10.0], [2.0, 2.0, 20.0, 20.0]
    assert ratios(fast, slow) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="as many"):
        ratios([1.0], [1.0, 2.0])


def test_geometric_mean():
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0, rel=1e-12)


# ---- turns ---------------------------------------------------------------------------------------------------------


class FakeMachine:
    """A clock that moves one second for each run, and a log of the runs."""

    def __init__(self, monkeypatch):
        self.now, self.log = 0.0, []
        monkeypatch.setattr(timing, "probe", lambda: 7.0)
        monkeypatch.setattr(timing, "read_gbps", lambda buffer, n_threads: 20.0)

    def case(self, name, gnps, **kwargs):
        def run():
            self.now += 1.0
            self.log.append(name)
            return gnps

        return Case({"engine": name}, run, **kwargs)


def test_cases_take_turns_until_the_next_turn_would_not_fit(monkeypatch):
    m = FakeMachine(monkeypatch)
    found = take_turns([m.case("a", 1.0), m.case("b", 2.0)], seconds=11.0, clock=lambda: m.now)
    assert m.log == ["a", "b"] * 5  # a sixth turn would end after 12 s
    assert [len(turns.gnps) for turns in found] == [5, 5]


@pytest.mark.parametrize(("seconds", "turns"), [(0.0, 3), (1e9, 8)])
def test_there_are_bounds_on_turns(monkeypatch, seconds, turns):
    m = FakeMachine(monkeypatch)
    found = take_turns([m.case("a", 1.0)], seconds, min_turns=3, max_turns=8, clock=lambda: m.now)
    assert len(found[0].gnps) == turns


def test_share_is_of_the_roof_of_the_same_width(monkeypatch):
    m = FakeMachine(monkeypatch)
    case = m.case("a", 5.0, buffer=np.zeros(128, np.uint8), bits=16)
    row = take_turns([case], 0.0, clock=lambda: m.now)[0].summary()
    assert row["roof_gnps"] == 10.0  # 20 GB/s of two-byte numbers
    assert row["share"] == 0.5
    assert (row["probe_gops"], row["runs"]) == (7.0, 3)


# ---- the roof and the probe ----------------------------------------------------------------------------------------

plain = machine.baseline()
needs_plain = pytest.mark.skipif(plain is None, reason="this CPU cannot run the plain C loops of this build")


@needs_plain
def test_read_reads_everything(rng):
    buffer = timing.huge_buffer(8192)
    buffer[:] = rng.integers(0, 256, buffer.size, dtype=np.uint8)
    assert plain.read(buffer) == int(buffer.view(np.uint64).sum(dtype=np.uint64))
    assert plain.read(buffer[:0]) == 0
    for bad in (buffer[1:129], buffer[:100]):
        with pytest.raises(ValueError, match="aligned"):
            plain.read(bad)


def test_speeds_are_positive():
    buffer = timing.huge_buffer(2**20)
    assert timing.read_gbps(buffer) > 0
    assert timing.read_gbps(buffer, 2) > 0
    assert plain is None or timing.probe(1000) > 0


@needs_plain
def test_fast_math_stays_in_its_extension():
    # Linked with -Ofast, the extension would set flush-to-zero for the whole process, and this product would be 0.
    assert np.float32(1e-38) * np.float32(1e-3) > 0


# ---- the plain C loops ---------------------------------------------------------------------------------------------

PAIRS = [(D, M) for D in ("8", "16") for M in ("8", "16")]
DTYPES = {"8": np.int8, "16": np.int16, "32f": np.float32}
MAX = {"8": 127, "16": 32767}


def seeded(seed=3):
    return {
        "lanes": kernels._rng_blocks(seed, 0, 1)[0],
        "mt_state": np.random.RandomState([seed, 1, 2, 3]).get_state()[1],
    }


def words_of(random, n, seed=3):
    """The 16-bit words that the first example's update uses, as fractions."""
    if random == "nearest":
        return np.full(n, 0.5)
    if random == "mt19937":
        state = np.random.RandomState([seed, 1, 2, 3])
        return (state.randint(0, 2**32, n, dtype=np.uint64) >> 16) / 2**16
    blocks = kernels._rng_blocks(seed, 0, n // 32 + 1).view(np.uint16).reshape(-1, 32)
    return np.resize(blocks[0] if random == "shared" else blocks.ravel(), n) / 2**16


@needs_plain
@pytest.mark.parametrize("random", ["nearest", "shared", "xorshift", "mt19937"])
@pytest.mark.parametrize(("D", "M"), PAIRS)
@pytest.mark.parametrize("n", [1, 31, 32, 100, 256])
def test_one_update_is_the_formula(rng, D, M, random, n):
    x = rng.integers(-MAX[D], MAX[D], (1, n), dtype=DTYPES[D], endpoint=True)
    w = rng.integers(-MAX[M], MAX[M], n, dtype=DTYPES[M], endpoint=True)
    before = w.astype(np.float64)
    xs, ws, step = 1 / MAX[D], 1 / MAX[M], 0.3
    loop = plain.Baseline(
        x, D, M, random, w, np.array([-1], np.float32), step=step, data_scale=xs, model_scale=ws, **seeded()
    )
    loop.run(0, 1)
    dot = float(x[0].astype(np.float64) @ before) * xs * ws
    scale = -step / (1 + np.exp(-dot)) * xs / ws
    exact = before + x[0] * scale + words_of(random, n)
    expected = np.clip(np.floor(exact), -MAX[M], MAX[M])
    # float32 has 24 bits: where the sum is that close to an integer, rounding down may go either way.
    near = np.abs(exact - np.round(exact)) < 2.0**-18 * (MAX[M] + np.abs(x[0] * scale)) + 1e-4
    assert np.array_equal(w[~near], expected[~near].astype(DTYPES[M]))
    assert np.abs(w[near] - expected[near]).max(initial=0) <= 1
    assert near.mean() < 0.9 or n < 31


@needs_plain
def test_the_model_saturates():
    x, w = np.full((1, 40), 127, np.int8), np.full(40, 100, np.int8)
    w[::2] = -100
    common = {"data_scale": 1.0, "model_scale": 1e-3, **seeded()}
    plain.Baseline(x, "8", "8", "shared", w, np.array([1], np.float32), step=1e6, **common).run(0, 1)
    assert (w == 127).all()
    plain.Baseline(x, "8", "8", "shared", w, np.array([-1], np.float32), step=1e6, **common).run(0, 1)
    assert (w == -127).all()


def mean_loss(work, D, n, w):
    p = work.problem(D, n)
    z = products(D, p.rows, w) * p.scale
    return float(np.logaddexp(0, -p.y * z).mean())


def train_once(work, D, M, n, random, engine, seed):
    """Mean loss after one pass from zero."""
    p = work.problem(D, n)
    ours = engine == "lowprec"
    scale = 1.0 if M == "32f" else 2.0 * float(np.abs(p.learned).max()) / MAX[M]
    w = np.zeros(n, DTYPES[M])
    common = {"step": p.step, "data_scale": p.scale, "model_scale": scale}
    if ours:
        sgd = Sgd(
            p.rows.reshape(-1), p.rows.shape[1], len(p.y), n, D, M, random, w.view(np.uint8), p.y,
            loss="logistic", seed=seed, **common,
        )  # fmt: skip
        sgd.run(0, len(p.y))
        sgd.flush()
    else:
        sgd = plain.Baseline(p.rows.view(DTYPES[D]), D, M, random, w, p.y, **common, **seeded(seed))
        sgd.run(0, len(p.y))
    return mean_loss(work, D, n, w.astype(np.float64) * scale)


@pytest.fixture(scope="module")
def work():
    return Workload(2**20, seed=5)


@needs_plain
@pytest.mark.parametrize(
    ("D", "M", "random"),
    [(D, M, r) for D, M in PAIRS for r in ("shared", "xorshift", "mt19937")] + [("32f", "32f", "nearest")],
)
def test_the_compilers_loop_learns_as_ours_does(work, D, M, random):
    n, seeds = 256, range(11, 19)
    theirs = [train_once(work, D, M, n, random, "compiler", s) for s in seeds]
    ours = [train_once(work, D, M, n, random, "lowprec", s) for s in seeds]
    start = np.log(2)
    assert max(theirs) < 0.8 * start, "it has to learn"
    error = np.sqrt((np.var(theirs, ddof=1) + np.var(ours, ddof=1)) / len(seeds))
    # Where nothing is random (float), both do the same but for the order of the additions.
    assert abs(np.mean(theirs) - np.mean(ours)) < 5 * error + 1e-4 * start


@needs_plain
@pytest.mark.parametrize(
    ("change", "error", "fragment"),
    [
        ({"D": "4"}, ValueError, "no plain C loop for D=4"),
        ({"D": "32f"}, ValueError, "both 32f"),
        ({"random": "dice"}, ValueError, "dice"),
        ({"x": np.zeros((3, 8), np.int16)}, TypeError, "x must be .* int8"),
        ({"model": np.zeros(9, np.int8)}, ValueError, "model needs 8"),
        ({"y": np.zeros(2, np.float32)}, ValueError, "y 3 elements"),
    ],
)
def test_the_compilers_loop_refuses(change, error, fragment):
    given = {
        "x": np.zeros((3, 8), np.int8), "D": "8", "M": "8", "random": "shared", "model": np.zeros(8, np.int8),
        "y": np.zeros(3, np.float32),
    } | change  # fmt: skip
    with pytest.raises(error, match=fragment):
        plain.Baseline(*given.values(), step=1.0, data_scale=1.0, model_scale=1.0, **seeded())


@needs_plain
def test_the_compilers_loop_stays_within_its_rows():
    loop = plain.Baseline(
        np.zeros((3, 8), np.int8), "8", "8", "shared", np.zeros(8, np.int8), np.zeros(3, np.float32),
        step=1.0, data_scale=1.0, model_scale=1.0, **seeded(),
    )  # fmt: skip
    for first, last in ((-1, 2), (0, 4), (2, 1)):
        with pytest.raises(ValueError, match="not within"):
            loop.run(first, last)


# ---- the data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("D", ["4", "8", "16", "32f"])
def test_products_are_those_of_the_codes(work, rng, D):
    n = 128
    rows = work.problem(D, n).rows[:5]
    if D == "4":
        codes = np.stack([rows & 15, rows >> 4], axis=-1).reshape(5, n).astype(int)
        codes[codes > 7] -= 16
    else:
        codes = rows.view(DTYPES[D]).astype(float)
    w = rng.integers(-8, 8, n).astype(float)  # small integers: float32 sums of the integer formats are exact
    expected = codes @ w
    bound = 0 if D in ("4", "8") else n * 2.0**-24 * float(np.abs(codes * w).sum(axis=1).max())
    assert np.abs(products(D, rows, w) - expected).max() <= bound


@pytest.mark.parametrize("D", ["4", "8", "16", "32f"])
def test_labels_follow_the_model_and_the_start_has_learned(work, D):
    p = work.problem(D, 256)
    assert set(np.unique(p.y)) == {-1.0, 1.0}
    assert abs(p.y.mean()) < 5 / np.sqrt(len(p.y))
    assert mean_loss(work, D, 256, p.learned.astype(np.float64)) < 0.8 * np.log(2)
    for M, limit in (("4", 7), ("8", 127), ("16", 32767)):
        codes, scale = p.model(M)
        if M == "4":
            values = np.stack([codes & 15, codes >> 4], axis=-1).ravel().astype(int)
            values[values > 7] -= 16
        else:
            values = codes.view(DTYPES[M]).astype(int)
        assert np.abs(values).max() == round(limit / 1.25)
        # Half a quantum, and the float32 division by the scale.
        assert np.abs(values * scale - p.learned).max() <= 0.5 * scale + 2.0**-23 * np.abs(p.learned).max()


def test_a_run_starts_from_the_same_model_and_goes_on_with_the_data(work):
    run = work.case("8", "8", 256, run_seconds=1e-4).run
    assert run() > 0
    assert 1 <= run.rows <= run.n_rows
    run.rows, run.at = run.n_rows // 3, 0  # as if it had been found so: three runs fit, the fourth starts over
    places = []
    for _ in range(4):
        run()
        places.append(run.at)
    assert places == [run.rows, 2 * run.rows, 3 * run.rows, run.rows]
    after = run.model.copy()
    assert not np.array_equal(after, run.start), "a run must train"
    run.at = 0
    run()
    assert not np.array_equal(run.model, run.start)


def test_a_workload_is_a_function_of_its_seed():
    a, b, c = (Workload(2**16, seed=s).problem("8", 128) for s in (1, 1, 2))
    assert np.array_equal(a.rows, b.rows)
    assert np.array_equal(a.y, b.y)
    assert np.array_equal(a.learned, b.learned)
    assert not np.array_equal(a.rows, c.rows)


# ---- numbers and tables --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0"), (0.00123, "0.001"), (0.0001, "0.0001"), (0.936, "0.936"), (3.339, "3.34"), (12.34, "12.3"),
     (123.4, "123"), (1234.5, "1,234"), (-2.5, "-2.50")],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert tables.number(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (3.567, "3.57x"), (0.25, "0.250x"), (42.4, "42x"), (3e-5, "<0.001x")])
def test_ratios_are_short(value, text):
    assert tables.times(value) == text


@pytest.mark.parametrize(("n", "text"), [(256, "2^8"), (1, "2^0"), (1000, "1,000"), (0, "0")])
def test_powers_of_two_look_like_it(n, text):
    assert tables.power(n) == text


@pytest.mark.parametrize(("value", "text"), [(512, "512 B"), (32 * 2**10, "32 KiB"), (3 * 2**29, "1.5 GiB"), (None, "-")])
def test_sizes_have_units(value, text):
    assert tables.n_bytes(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (2.5, "2.50 s"), (0.096, "96.0 ms"), (4e-4, "400 us"), (5e-8, "50 ns")]
)
def test_durations_have_units(value, text):
    assert tables.duration(value) == text


def test_bars():
    assert tables.bar(0.5, 1.0, 4) == "██"
    assert tables.bar(2.0, 1.0, 4) == "████"
    assert tables.bar(1 / 32, 1.0, 4) == "▏"
    assert tables.bar(None) == tables.bar(0.0) == ""


def test_a_table_in_markdown():
    table = Table("T", ["<name", "x"], notes=["n."])
    table.add("a|b", "1")
    table.rule()
    table.add("c", "2")
    lines = tables.to_markdown(table).splitlines()
    assert lines[:6] == ["### T", "", "| name | x |", "|:--|--:|", "| a\\|b | 1 |", "| c | 2 |"]
    assert lines[-1] == "n."
    with pytest.raises(ValueError, match="2 cells, got 1"):
        table.add("a")


# ---- files ---------------------------------------------------------------------------------------------------------


def test_exactly_these_files_are_written(tmp_path):
    matplotlib = pytest.importorskip("matplotlib.figure")
    rows = [{"a": 1.23456789, "b": None, "c": "x"}, {"a": float("nan"), "b": 2, "c": "y, z"}]
    results = {"schema": 1, "command": "demo", "machine": {"cpu": "C", "os": "O", "lowprec": "V"}, "rows": rows}
    table = Table("T", ["<name"], rows=[["cell"]])
    files.write_results(tmp_path, "demo", results, [table], {"demo-plot": matplotlib.Figure()})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["demo-plot.png", "demo.csv", "demo.json", "demo.md"]
    read = json.loads((tmp_path / "demo.json").read_text())
    assert read["rows"] == [{"a": 1.23457, "b": None, "c": "x"}, {"a": None, "b": 2, "c": "y, z"}]
    assert read["machine"] == results["machine"]
    table_rows = list(csv.DictReader(io.StringIO((tmp_path / "demo.csv").read_text())))
    assert table_rows == [{"a": "1.23457", "b": "", "c": "x"}, {"a": "", "b": "2", "c": "y, z"}]
    assert "### T" in (tmp_path / "demo.md").read_text()
    assert (tmp_path / "demo-plot.png").read_bytes()[:4] == b"\x89PNG"


def test_results_do_not_go_into_a_file(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(ValueError, match="must be a folder"):
        files.prepare_out(tmp_path / "f")
    assert files.prepare_out(tmp_path / "a" / "b").is_dir()


# ---- the machine, the paper, the schema ----------------------------------------------------------------------------


def test_the_machine_block_is_plain_data():
    block = machine.machine_block()
    assert json.loads(json.dumps(block)) == block
    assert block["isa"] in block["isas_runnable"]
    assert 1 <= block["cpus_usable"] <= block["cpus"]


def test_the_papers_figures():
    assert len(paper.base_throughput()) == len(paper.base_throughput(sparse=True)) == 9
    assert (paper.base_throughput()["D8M8"], paper.base_throughput(sparse=True)["D8M8"]) == (3.339, 0.166)
    assert paper.compiler_ratios() == {"D16M16": 5.43, "D8M16": 6.08, "D16M8": 7.97, "D8M8": 9.72}
    assert paper.compiler_ratios(sparse=True)["D8M8"] == 1.4
    assert paper.rounding_series("nearest")[2**14] == 5.719
    assert paper.series("fig6a", "D8M8 nopf")[2**12] == 11.35
    assert paper.series("fig6a", "no such line") == {}


@pytest.mark.parametrize(("threads", "nearest"), [(1, 4), (2, 4), (4, 4), (6, 8), (12, 12), (16, 18), (64, 18)])
def test_the_papers_threads(threads, nearest):
    assert paper.nearest_threads(threads) == nearest


def test_every_pair_is_measured_the_published_ones_first():
    order = speedups.base_order()
    assert len(order) == len(set(order)) == 16
    assert set(order[:9]) == set(paper.base_throughput())


@pytest.mark.skipif(not SCHEMA.exists(), reason="the documentation is not beside the tests")
def test_the_schema_names_every_field():
    text = SCHEMA.read_text()
    for field in (*FIELDS, *training.FIELDS, *machine.machine_block()):
        assert f"`{field}`" in text, field


# ---- a whole report, far too short to mean anything ----------------------------------------------------------------


@pytest.fixture(scope="module")
def small_report():
    pytest.importorskip("rich")
    seen = []
    options = speedups.Options(
        n_bytes=2**20, sizes=(128, 256), n=256, seconds=0.0, run_seconds=1e-4, peer_sizes=(128,), peer_bytes=2**18
    )
    return speedups.measure(options, lambda *state: seen.append(state)), seen


def test_a_report_is_complete(small_report):
    results, seen = small_report
    rows = results["rows"]
    assert all(tuple(row) == FIELDS for row in rows)
    count = {t: sum(row["table"] == t for row in rows) for t in {row["table"] for row in rows}}
    assert count["base"] == 16
    assert count["sizes"] == 8
    if plain is not None:
        assert (count["compiler"], count["ladder"]) == (10, 12)
    for row in rows:
        assert row["gnps"] > 0
        assert row["gnps_q1"] <= row["gnps"] <= row["gnps_q3"]
        if row["share"] is not None:
            assert row["share_q1"] <= row["share"] <= row["share_q3"]
    for row in rows:
        if row["table"] == "base" and row["signature"] == "D32fM32f":
            assert row["ratio"] == 1.0
    done = [state[2] for state in seen]
    assert done == sorted(done)
    assert done[-1] == 1.0


def test_a_report_fits_a_terminal(small_report):
    from rich.console import Console

    results, _ = small_report
    made = speedups.tables(results)
    assert len(made) >= 5
    for table in made:
        console = Console(width=100, file=io.StringIO(), legacy_windows=False)
        console.print(tables.to_rich(table))
        text = console.file.getvalue()
        assert "…" not in text, text
        assert max(map(len, text.splitlines())) <= 100
        for row in table.rows:
            assert row is None or all(cell in tables.to_markdown(table) for cell in row)


def test_a_report_has_plots(small_report):
    pytest.importorskip("matplotlib")
    figures = speedups.figures(small_report[0])
    assert {"speedups-signatures", "speedups-sizes", "speedups-ladder"} <= set(figures)
    for figure in figures.values():
        out = io.BytesIO()
        figure.savefig(out, format="png")
        assert out.getvalue()[:4] == b"\x89PNG"


# ---- preparing data for training -----------------------------------------------------------------------------------


def test_a_split_keeps_the_classes_proportions(rng):
    X, y = rng.normal(size=(100, 3)), np.repeat([0, 1], [80, 20])
    p = training.prepare(X, y, training.Options(test_size=0.25))
    assert (len(p.y), len(p.y_test)) == (75, 25)
    assert int(p.y_test.sum()) == 5
    assert p.loss == "logistic"
    assert [set(t) for t in p.targets()] == [{-1.0, 1.0}]
    rows = np.concatenate([p.X, p.X_test])
    assert len(np.unique(rows, axis=0)) == 100, "no row is lost or in both parts"


def test_features_are_scaled_as_the_training_rows_have_it(rng):
    X = rng.normal(5, 3, (200, 4))
    X[:, 2] = 7.0  # constant: must not divide by zero
    y = np.tile([0, 1], 100)
    p = training.prepare(X, y, training.Options(scaling="standard"))
    assert np.abs(p.X.mean(axis=0)).max() < 1e-5
    assert p.X.std(axis=0) == pytest.approx([1, 1, 0, 1], abs=1e-5)
    p = training.prepare(X, y, training.Options(scaling="maxabs"))
    assert np.abs(p.X).max(axis=0) == pytest.approx([1, 1, 1, 1], rel=1e-6)
    p = training.prepare(X, y, training.Options(scaling="none"))
    assert float(p.X[0, 2]) == 7.0
    assert training.prepare(X, y, training.Options()).scaling == "standard"
    X[X < 8] = 0
    assert training.prepare(X, y, training.Options()).scaling == "maxabs"


def test_kinds_of_target(rng):
    X = rng.normal(size=(60, 2))
    many = training.prepare(X, np.tile(["a", "b", "c"], 20), training.Options())
    assert (len(many.targets()), many.score_name) == (3, "accuracy")
    outputs = np.array([many.y_test == c for c in many.classes], dtype=float)
    assert many.score(outputs) == 1.0
    quantity = training.prepare(X, rng.normal(10, 2, 60), training.Options())
    assert (quantity.loss, quantity.score_name, quantity.classes) == ("squared", "R^2", None)
    assert quantity.score(quantity._standard(quantity.y_test)[None]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("y", "options", "fragment"),
    [
        (np.zeros(30), {}, "at least two distinct values"),
        (np.arange(29), {}, "one label for each of the 30 rows"),
        (np.linspace(0, 1, 30), {"loss": "hinge"}, "must be squared"),
        (np.arange(30) % 2, {"test_size": 0.001}, "leave rows"),
        (np.arange(30) % 2, {"test_size": 1.5}, "between 0 and 1"),
        (np.arange(30) % 2, {"epochs": 0}, "at least 1"),
        (np.arange(30) % 2, {"step_size": -1.0}, "positive"),
        (np.arange(30) % 2, {"loss": "log"}, "choose one of"),
    ],
)
def test_bad_data_for_training(y, options, fragment):
    with pytest.raises(ValueError, match=fragment):
        training.prepare(np.zeros((30, 2)), y, training.Options(**options))


def test_nan_is_named_by_its_row_in_the_file():
    X = np.zeros((30, 2))
    X[17, 1] = np.nan
    with pytest.raises(ValueError, match="row 17"):
        training.prepare(X, np.arange(30) % 2, training.Options(test_size=0.04))


def test_the_default_step_is_bounded():
    X = np.zeros((100, 2), np.float32)
    X[0, 0] = 30.0  # one long row: mean(q) is 10, max(q) 901
    assert training.default_step(X, "squared") == pytest.approx(1 / 901)
    assert training.default_step(X, "logistic") == pytest.approx(0.2 / 10)
    assert training.default_step(np.ones((5, 3), np.float32), "hinge") == pytest.approx(0.1 / 4)
