"""`lowprec model`: roofs, measuring with the cores as they were, going on with earlier results, showing."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest

from lowprec import runtime
from lowprec.perfmodel import Calibration, Roofs
from lowprec.report import files, machine, model, model_tables, timing
from lowprec.report import roofs as measuring
from lowprec.report.timing import Turns

SCHEMA = Path(__file__).parent.parent / "docs" / "results-schema.md"
pytestmark = pytest.mark.skipif(machine.baseline() is None, reason="this CPU cannot run the plain C loops of this build")
THREADS = runtime.effective_n_threads()


# ---- roofs ---------------------------------------------------------------------------------------------------------


def test_a_sweep_writes_every_word_of_its_own_part_once_a_pass():
    from lowprec.report import _roofs

    buffer = timing.huge_buffer(8192)
    buffer[:] = 0
    words = buffer.view(np.uint64)
    _roofs.sweep(buffer, 2048, 5, write=True)
    assert (words[:256] == 5).all()
    assert not words[256:].any()
    _roofs.sweep(buffer, 2048, 3, write=True, n_threads=3)
    assert (words[:256] == 8).all()
    assert (words[256:768] == 3).all()
    assert not words[768:].any()
    _roofs.sweep(buffer, 8192, 3)
    assert (words[:256] == 8).all(), "reading changes nothing"
    _roofs.sweep(buffer, 4096, 1, write=True, n_threads=2, shared=True)
    assert not words[768:].any(), "both stay within what they share"


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"nbytes": 100}, "multiple of 128"),
        ({"nbytes": 0}, "multiple of 128"),
        ({"n_threads": 0}, "n_threads at least 1"),
        ({"passes": -1}, "passes at least 0"),
        ({"nbytes": 8192}, "do not fit into 4096 bytes"),
        ({"nbytes": 4096, "n_threads": 2}, "do not fit into 4096 bytes"),
        ({"buffer": timing.huge_buffer(8192)[8:4104]}, "32-byte aligned"),
    ],
)
def test_a_sweep_refuses(change, fragment):
    from lowprec.report import _roofs

    given = {"buffer": timing.huge_buffer(4096), "nbytes": 128, "passes": 1, "n_threads": 1} | change
    with pytest.raises(ValueError, match=fragment):
        _roofs.sweep(given.pop("buffer"), given.pop("nbytes"), given.pop("passes"), **given)


def test_ping_pong_ends_and_says_whether_there_were_two():
    from lowprec.report import _roofs

    line = timing.huge_buffer(64)
    assert _roofs.ping_pong(line, 100) == runtime.openmp_enabled()
    with pytest.raises(ValueError, match="64-byte aligned"):
        _roofs.ping_pong(timing.huge_buffer(256)[4:100], 1)
    with pytest.raises(ValueError, match="64 bytes long"):
        _roofs.ping_pong(line[:32], 1)


def test_roofs_are_measured():
    buffer = timing.huge_buffer(2**18)
    buffer[:] = 1
    found = measuring.measure_roofs(buffer, THREADS, 0.05)
    assert [size for size, _ in found.read] == [2**k for k in range(12, 18)]
    assert found.threads == THREADS
    assert found.stream_all_gbps >= found.stream_gbps > 0
    assert (found.line_ns is None) == (found.contended_ns is None) == (THREADS == 1)
    assert model.roofs_of(model._roof_rows(found)) == found


# ---- runs with the cores apart -------------------------------------------------------------------------------------


def taken(ways, gnps):
    about = {"signature": "D8M8", "D": "8", "index": None, "M": "8", "n": 256, "threads": 2}
    return model._Taken(1.0, Turns(about, list(gnps)), list(ways))


def test_runs_are_left_out_while_the_cores_are_apart():
    row = taken([40, 160, 45, 19, 80, 81], [10, 3, 11, 99, 12, 1]).row(40.0)
    assert (row["gnps"], row["runs"], row["runs_apart"]) == (11, 3, 3)
    assert row["line_ns"] == pytest.approx((45 + 80) / 2)


def test_a_point_needs_three_runs():
    point = taken([160, 170, 150], [3, 4, 5])
    assert point.row(40.0) is None
    assert point.row(160.0)["gnps"] == 4
    assert taken([40, 41, 160, 170], [3, 4, 5, 6]).row(40.0) is None


@pytest.mark.parametrize(("ways", "reference"), [([], 40.0), ([None] * 3, 40.0), ([500, 600, 1], None)])
def test_where_the_way_is_not_known_every_run_counts(ways, reference):
    row = taken(ways, [3, 5, 4]).row(reference)
    assert (row["gnps"], row["runs"], row["runs_apart"]) == (4, 3, 0)


def test_turns_are_taken_again_until_enough_are_usable(monkeypatch):
    ways = iter([160.0] * 2 + [40.0] * 100)
    monkeypatch.setattr(measuring.Line, "ns", lambda self, rounds=400: next(ways))
    monkeypatch.setattr(timing, "probe", lambda: 1.0)

    class Work:
        def case(self, D, M, n, *, index, n_threads, run_seconds):
            about = {"signature": f"D{D}M{M}", "D": D, "index": index, "M": M, "n": n, "threads": n_threads}
            return timing.Case(about, lambda: 7.0)

    options = dataclasses.replace(model.DEFAULT, seconds=0.0)
    group = [("D8M8", 256, 1), ("D8M8", 256, 2)]
    rows, seen = model._take(Work(), group, options, 40.0, lambda what: None)
    assert [(row["threads"], row["runs"], row["runs_apart"]) for row in rows] == [(1, 6, 0), (2, 4, 2)]
    assert seen == [160.0, 160.0, 40.0, 40.0, 40.0, 40.0]
    ways = iter([160.0] * 100)
    rows, _ = model._take(Work(), group, options, 40.0, lambda what: None)
    assert [(row["threads"], row["runs"]) for row in rows] == [(1, 6)], "a point without usable runs is left out"


@pytest.mark.parametrize(
    ("ways", "line", "again"),
    [([40.0, 41.0, 160.0], 42.0, True), ([40.0, 160.0], 42.0, False), ([40.0], 150.0, False), ([], 42.0, False)],
)
def test_roofs_are_measured_again_where_most_runs_have_the_threads_closer(monkeypatch, ways, line, again):
    monkeypatch.setattr(model, "between_cores", lambda buffer: (line, 7.0))
    far = Roofs(((4096, 0.25),), 30.0, 40.0, 2, 160.0, 20.0)
    near = dataclasses.replace(far, line_ns=42.0, contended_ns=7.0)
    assert model._closer(far, ways) == (near if again else far)
    assert model._closer(near, ways) == near


@pytest.mark.skipif(THREADS == 1, reason="one thread has no way to another core")
def test_points_are_measured_again_after_the_roofs(monkeypatch):
    """The roofs are of a bad moment; after the first signature they are measured again, and with them its two threads."""
    far = Roofs(((4096, 0.25), (65536, 0.5)), 30.0, 40.0, THREADS, 160.0, 20.0)
    monkeypatch.setattr(model, "measure_roofs", lambda *args: far)
    monkeypatch.setattr(model, "between_cores", lambda buffer: (40.0, 7.0))
    asked = []

    def take(work, group, options, reference, tick):
        asked.append((sorted({(s, t) for s, _, t in group}), reference))
        rows = [
            model._row("point", signature=s, n=n, threads=t, density=1.0, gnps=5.0)
            for s, n, t in group
            if t == 1 or reference == 40.0
        ]
        return rows, [40.0] * len(group)

    monkeypatch.setattr(model, "_take", take)
    seen = []
    options = dataclasses.replace(OPTIONS, signatures=("D4M4", "D8M8"))
    results = model.measure(options, lambda *state: seen.append(state[2]))
    first, both = [("D4M4", 1), ("D4M4", THREADS)], [("D8M8", 1), ("D8M8", THREADS)]
    assert asked == [(first, 160.0), ([("D4M4", THREADS)], 40.0), (both, 40.0)]
    assert results["points_missing"] == 0
    assert model.roofs_of(rows_of(results, "roof")).line_ns == 40.0
    assert seen == sorted(seen)


# ---- a whole report, far too short to mean anything ----------------------------------------------------------------

OPTIONS = model.Options(
    n_bytes=2**20, sizes=(256, 512, 1024), signatures=("D4M4", "D8M16", "D8i8M8"), seconds=0.0, run_seconds=1e-4
)


@pytest.fixture(scope="module")
def report():
    pytest.importorskip("scipy")
    seen, saved = [], []
    with pytest.MonkeyPatch.context() as patch:  # whatever else runs here: every run counts
        patch.setattr(model, "APART", 1e9)
        results = model.measure(OPTIONS, lambda *state: seen.append(state), save=saved.append)
    assert results["points_missing"] == 0
    return results, seen, saved


def rows_of(results, table):
    return [row for row in results["rows"] if row["table"] == table]


def test_a_report_is_complete(report):
    results, seen, _ = report
    assert all(tuple(row) == model.FIELDS for row in results["rows"])
    counts = len({1, THREADS})
    points = rows_of(results, "point")
    assert len(points) == 3 * 3 * counts
    assert {row["half"] for row in points if row["n"] in (256, 1024)} == {"fitted"}
    assert {row["half"] for row in points if row["n"] == 512} == {"held out"}
    for row in points:
        assert row["gnps_q1"] <= row["gnps"] <= row["gnps_q3"]
        assert row["eq2_gnps"] > 0
        assert row["roofline_gnps"] > 0
        assert row["density"] == (0.03 if row["index"] else 1.0)
    scores = rows_of(results, "score")
    assert {row["name"] for row in scores} == {f"{m}, {k}" for m in ("Eq. 2", "roofline") for k in ("dense", "sparse", "all")}
    whole = next(r for r in scores if (r["name"], r["half"], r["threads"]) == ("roofline, all", "held out", None))
    assert whole["points"] == 3 * counts
    assert len(rows_of(results, "paper")) == 408
    assert [round(row["within_50"] * 408) for row in rows_of(results, "paper score")] == [395, 356]
    done = [state[2] for state in seen]
    assert done == sorted(done)
    assert done[-1] == 1.0


def test_a_calibration_predicts_what_its_report_says(report):
    results, _, _ = report
    calibration = Calibration.from_dict(json.loads(json.dumps(results["calibration"])), results["machine"])
    assert set(calibration.roofline.costs) == set(OPTIONS.signatures)
    table = model_tables.prediction_table(calibration, "D8i8M8", (256, 1000), THREADS)
    assert [row[0] for row in table.rows] == ["2^8", "1,000"]
    assert "density 0.03" in table.title
    more = model_tables.prediction_table(calibration, "D8M16", (256,), THREADS + 6)
    assert any("extrapolation" in note for note in more.notes)
    with pytest.raises(ValueError, match="signature: calibrated are D4M4, D8M16, D8i8M8; got D8M8"):
        model_tables.prediction_table(calibration, "D8M8", (256,), 1)


def test_an_interrupted_run_goes_on_with_what_it_has(report, monkeypatch):
    results, _, saved = report
    assert len(saved) == 2 + 3  # dense: two signatures; sparse: three sizes
    part = json.loads(files.to_json(saved[0]))
    assert {row["signature"] for row in rows_of(part, "point")} == {"D4M4"}
    again = []
    original = model._take
    monkeypatch.setattr(model, "_take", lambda work, group, *args: again.append(group) or original(work, group, *args))
    monkeypatch.setattr(model, "APART", 1e9)
    monkeypatch.setattr(model, "measure_roofs", lambda *args: pytest.fail("the roofs are known"))
    resumed = model.measure(OPTIONS, kept=part)
    assert [group[0][0] for group in again] == ["D8M16", "D8i8M8", "D8i8M8", "D8i8M8"]
    assert len(rows_of(resumed, "point")) == len(rows_of(results, "point"))
    kept = {model._key(row): row["gnps"] for row in rows_of(part, "point")}
    assert all(row["gnps"] == kept[model._key(row)] for row in rows_of(resumed, "point") if model._key(row) in kept)


def test_all_is_kept_of_a_finished_run(report, monkeypatch):
    results, _, _ = report
    monkeypatch.setattr(model, "_take", lambda *args: pytest.fail("all points are known"))
    again = model.measure(OPTIONS, kept=json.loads(files.to_json(results)))
    assert len(again["rows"]) == len(results["rows"])


@pytest.mark.parametrize(
    ("where", "key", "value", "fragment"),
    [
        ("machine", "cpu", "Another CPU", "measured with cpu Another CPU"),
        ("machine", "isa", "vax", "measured with isa vax"),
        ("machine", "lowprec", "0.0", "measured with lowprec 0.0"),
        ("options", "n_bytes", 7, "measured with n_bytes 7, and now it is 1048576; begin without --resume"),
        ("options", "seed", 9, "measured with seed 9"),
    ],
)
def test_another_machines_results_are_not_gone_on_with(report, where, key, value, fragment):
    results, _, _ = report
    kept = results | {where: results[where] | {key: value}}
    with pytest.raises(ValueError, match=f"resume: was {fragment}"):
        model.measure(OPTIONS, kept=kept)


@pytest.mark.parametrize("text", ["{", "[]", '{"command": "speedups", "schema": 1}', "\x00"])
def test_results_to_go_on_with_must_be_those_of_a_model(tmp_path, text):
    path = tmp_path / "model.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="no results of lowprec model to go on with"):
        model.read_results(path)


def test_a_report_fits_a_terminal(report):
    pytest.importorskip("rich")
    from rich.console import Console

    from lowprec.report import tables

    for table in model_tables.tables(report[0]):
        assert table.rows, table.title
        console = Console(width=100, file=io.StringIO(), legacy_windows=False)
        console.print(tables.to_rich(table))
        text = console.file.getvalue()
        assert "…" not in text, text
        assert max(map(len, text.splitlines())) <= 100


def test_a_report_has_plots(report):
    pytest.importorskip("matplotlib")
    made = model_tables.figures(report[0])
    assert set(made) == {"model-scatter", "model-sizes", "model-paper"}
    for figure in made.values():
        out = io.BytesIO()
        figure.savefig(out, format="png")
        assert out.getvalue()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"signatures": ("D5M8",)}, "D5"),
        ({"signatures": ("D8",)}, "must have D, M"),
        ({"signatures": ("D8[i8]M8",)}, "must have D, M"),
        ({"sizes": (256,)}, "two or more"),
    ],
)
def test_bad_options(change, fragment):
    with pytest.raises(ValueError, match=fragment):
        dataclasses.replace(OPTIONS, **change)


def test_a_report_with_one_thread(monkeypatch):
    monkeypatch.setattr(runtime, "effective_n_threads", lambda: 1)
    options = dataclasses.replace(OPTIONS, signatures=("D8M8",))
    results = model.measure(options)
    assert {row["threads"] for row in rows_of(results, "point")} == {1}
    calibration = Calibration.from_dict(results["calibration"])
    assert calibration.roofline.roofs.line_ns is calibration.roofline.roofs.contended_ns is None
    assert (calibration.paper.cap, calibration.paper.slope) == (0.95, 0.15)
    assert all(table.rows for table in model_tables.tables(results))


def test_one_core_has_no_way_to_another():
    alone = Roofs(((4096, 0.25),), 30.0, 30.0)
    assert model.roofs_of(json.loads(json.dumps(model._roof_rows(alone)))) == alone
    assert model.roofs_of([]) is None


@pytest.mark.skipif(not SCHEMA.exists(), reason="the documentation is not beside the tests")
def test_the_schema_names_every_field():
    text = SCHEMA.read_text()
    for field in model.FIELDS:
        assert f"`{field}`" in text, field
