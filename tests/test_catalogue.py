"""``lowprec speedups --full``: the plan, the journal, stopping and going on, tables and plots."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest

pytest.importorskip("scipy")
pytest.importorskip("rich")

from lowprec.report import catalogue, machine, tables
from lowprec.report.catalogue import Journal, plan, run
from lowprec.report.catalogue.plan import FLOAT, Setup
from lowprec.report.rows import FIELDS

#: Far too short to mean anything.
TINY = replace(
    catalogue.QUICK, n_bytes=2**20, sizes=(2**8, 2**10), threads=(1, 2), peer_sizes=(2**10,), seconds=0.0, run_seconds=1e-4
)
KEY = {"options": {"seed": 1, "sizes": [256, 1024]}, "build": "b", "machine": {"cpu": "C", "caches": {"L2": 1}}}


# ---- the journal ---------------------------------------------------------------------------------------------------


def rows(*values):
    return [{"gnps": value, "paper_gnps": None} for value in values]


def written(path, *pieces):
    with Journal(path, KEY) as journal:
        for k, piece in enumerate(pieces):
            journal.add(piece, rows(k + 0.5))


def test_a_journal_keeps_what_is_added(tmp_path):
    path = tmp_path / "j"
    with Journal(path, KEY) as journal:
        assert (len(journal), journal.get("a")) == (0, None)
        kept = journal.add("a", rows(1.23456789, 2.0))
        journal.add("b", rows(float("nan")))
    with Journal(path, KEY) as journal:
        assert (len(journal), journal.notes) == (2, [])
        assert journal.get("a") == kept == rows(1.23457, 2.0)
        assert journal.get("b") == rows(None)


def test_every_cut_leaves_the_lines_before_it(tmp_path):
    path = tmp_path / "j"
    written(path, "a", "b")
    whole = path.read_bytes()
    ends = [k + 1 for k, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        with Journal(path, KEY) as journal:
            found = [piece for piece in ("a", "b") if journal.get(piece) is not None]
            assert len(found) == max(sum(end <= cut for end in ends) - 1, 0), cut
            torn = cut not in (0, *ends)
            assert len(journal.notes) == (torn and cut > ends[0]), cut
            journal.add("c", rows(9.0))
        with Journal(path, KEY) as journal:
            assert (journal.get("c"), journal.notes) == (rows(9.0), []), cut


def test_a_damaged_line_is_measured_again(tmp_path):
    path = tmp_path / "j"
    written(path, "a", "b", "c")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1] + lines[2].replace(b"1.5", b"1.6") + lines[3])
    with Journal(path, KEY) as journal:
        assert [journal.get(p) is not None for p in "abc"] == [True, False, True]
        (note,) = journal.notes
        assert "Line 3" in note
        assert "measured again" in note
        journal.add("b", rows(7.0))
    with Journal(path, KEY) as journal:
        assert journal.get("b") == rows(7.0)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"options": {"seed": 2, "sizes": [256, 1024]}}, "(options.seed was 2 and is 1)"),
        ({"options": {"seed": 1, "sizes": [256]}}, "(options.sizes was [256] and is [256, 1024])"),
        ({"build": "other"}, "(files of the package have changed since)"),
        ({"machine": {"cpu": "C", "caches": {"L2": 2}}}, "(machine.caches.L2 was 2 and is 1)"),
        ({"machine": {"cpu": "D", "caches": {"L3": 1}}}, "2 more differences"),
    ],
)
def test_a_foreign_journal_is_refused_and_left_alone(tmp_path, change, fragment):
    path = tmp_path / "j"
    with Journal(path, KEY | change) as journal:
        journal.add("a", rows(1.0))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"belongs to another measurement") as error:
        Journal(path, KEY)
    assert fragment in str(error.value)
    assert path.read_bytes() == before


def test_a_journal_in_use_is_refused(tmp_path):
    path = tmp_path / "j"
    with Journal(path, KEY) as journal:
        journal.add("a", rows(1.0))
        with pytest.raises(ValueError, match="another process is measuring"):
            Journal(path, KEY)
        journal.add("b", rows(2.0))
    with Journal(path, KEY) as journal:
        assert len(journal) == 2


@pytest.mark.parametrize("content", [b"something else\nentirely\n", b"no line at all", b"\n", b"00000000 {}\n"])
def test_what_is_no_journal_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "j"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="journal"):
        Journal(path, KEY)
    assert path.read_bytes() == content


def test_the_identity_is_that_of_options_build_and_machine(monkeypatch):
    first = catalogue.identity(asdict(TINY))
    assert first == catalogue.identity(asdict(TINY))
    assert len(first["build"]) == 64
    assert first != catalogue.identity(asdict(replace(TINY, seed=2)))
    assert json.loads(json.dumps(first["machine"])) == machine.machine_block()


# ---- the plan ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [(1,), (1, 2), (1, 2, 4, 6), (3,)])
def test_the_plan_is_complete(threads):
    pieces = plan.pieces(replace(plan.FULL, threads=threads))
    keys = [piece.key for piece in pieces]
    assert len(keys) == len(set(keys))
    for piece in pieces:
        for setup, over in piece.setups.items():
            assert over in piece.setups, (piece.key, setup)
            assert plan.float_of(setup) in piece.setups, (piece.key, setup)
            assert 1 <= setup.threads <= threads[-1]
    for figure in ("fig3", "fig6ab", "fig5c", "fig6d"):
        for sparse in (False, True) if figure in ("fig3", "fig6ab") else (False,):
            sizes = [piece.n for piece in pieces if (piece.figure, piece.sparse) == (figure, sparse)]
            assert sizes == [n for n in plan.FULL.sizes if n >= 2**10 or not sparse], figure
    assert {t for p in pieces if p.figure == "fig3" for t in (s.threads for s in p.setups)} == {1, *threads}
    for sparse in (False, True):
        (table2,) = [piece for piece in pieces if piece.figure == "table2" and piece.sparse == sparse]
        assert len(table2.setups) == 9
    assert 2**14 in [piece.n for piece in pieces if piece.figure == "fig5b"]
    assert any(piece.figure == "threads" for piece in pieces) == (threads[-1] > 1)
    assert len([piece for piece in pieces if piece.figure == "peer_sparse"]) == 3


def test_the_threads_of_this_machine():
    found = plan.Options().resolved().threads
    assert found[0] == 1 or len(found) == 1
    assert list(found) == sorted(set(found))
    assert plan.Options(threads=(3,)).resolved().threads == (3,)


@pytest.mark.parametrize(
    ("figure", "n", "sparse", "setup", "gnps", "threads"),
    [
        ("table2", 2**14, True, Setup("D16M8"), 0.172, 1),
        ("fig3", 2**20, False, Setup("D8M8"), 3.339, 1),
        ("fig3", 2**12, False, Setup("D8M8", threads=2), 4.917, 4),
        ("fig3", 2**12, False, Setup("D8M8", threads=6), 5.351, 8),
        ("fig3", 2**12, False, Setup("D8M8", threads=64), 6.508, 18),
        ("fig3", 2**10, True, Setup("D16M16", threads=64), 0.1172, 18),
        ("fig3", 2**10, True, Setup("D8M16", threads=4), 0.1004, 4),
        ("fig4", 2**10, True, Setup("D8M16", engine="compiler", threads=2), 0.1471, 18),
        ("fig4", 2**10, True, Setup("D16M16", threads=2), 0.1174, 18),
        ("fig4", 2**10, True, Setup("D16M8"), None, None),
        ("fig5b", 2**14, False, Setup("D16M16", random="nearest"), 5.719, 18),
        ("fig5b", 2**14, False, Setup(FLOAT), 3.988, 18),
        ("fig5c", 2**9, False, Setup("D4M4", engine="proxy", threads=2), 4.47, 4),
        ("fig5c", 2**9, False, Setup("D4M4", threads=2), None, None),
        ("fig5c", 2**9, False, Setup("D8M8", threads=18), 3.111, 18),
        ("fig5c", 2**9, False, Setup("D8M8", engine="proxy"), None, None),
        ("fig6ab", 2**12, False, Setup("D8M8"), 6.508, 18),
        ("fig6ab", 2**12, True, Setup(FLOAT), 0.1962, 18),
        ("fig6d", 2**8, False, Setup("D8M8", batch_size=16), 13.22, 18),
        ("fig6d", 2**8, False, Setup("D8M8"), 2.378, 18),
        ("fig6d", 300, False, Setup("D8M8"), None, None),
        ("threads", 2**8, False, Setup("D8M8"), None, None),
    ],
)
def test_the_papers_figure_beside_ours(figure, n, sparse, setup, gnps, threads):
    assert plan.published(plan.Piece(figure, n, sparse), setup) == (gnps, threads)


def test_a_piece_with_other_cases_is_another_piece(monkeypatch):
    key = {}
    for can in (False, True):
        monkeypatch.setattr(plan, "hardware_prefetch_switchable", lambda can=can: can)
        key[can] = [piece.key for piece in plan.pieces(TINY)]
    assert len(key[True]) == len(key[False])
    assert all((a == b) == ("fig6ab" not in a) for a, b in zip(key[True], key[False], strict=True))


@pytest.mark.parametrize("switchable", [False, True])
def test_the_papers_prefetch_is_the_hardwares(monkeypatch, switchable):
    monkeypatch.setattr(plan, "hardware_prefetch_switchable", lambda: switchable)
    piece = next(p for p in plan.pieces(TINY) if (p.figure, p.n) == ("fig6ab", 2**10))
    ways = {setup.prefetch for setup in piece.setups}
    assert ways == {"on", "software off", *(["all off"] if switchable else [])}
    found = {way: plan.published(piece, Setup("D8M8", prefetch=way))[0] for way in ways}
    assert found["on"] == 4.208
    assert found["all off" if switchable else "software off"] == 5.763
    assert not switchable or found["software off"] is None


# ---- stopping and going on -----------------------------------------------------------------------------------------


def test_what_is_stopped_goes_on_and_measures_nothing_twice(monkeypatch, tmp_path):
    measured, stop_at = [], [3, 7, 8]
    whole = [piece.key for piece in plan.pieces(TINY)]

    def measure_piece(piece, *_):
        if len(measured) in stop_at:
            stop_at.remove(len(measured))
            raise KeyboardInterrupt
        measured.append(piece.key)
        return [dict.fromkeys(FIELDS) | {"table": piece.figure, "gnps": float(len(measured))}]

    monkeypatch.setattr(run, "_rows", measure_piece)
    states = []
    for _ in range(3):
        with Journal(tmp_path / "j", KEY) as journal, pytest.raises(KeyboardInterrupt):
            catalogue.measure(TINY, journal)
        states.append(len(measured))
    assert states == [3, 7, 8]
    shares = []
    with Journal(tmp_path / "j", KEY) as journal:
        assert len(journal) == 8
        results = catalogue.measure(TINY, journal, lambda *state: shares.append(state[2]))
    assert measured == whole
    assert [row["gnps"] for row in results["rows"]] == [k + 1 for k in range(len(whole))]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


SCRIPT = """
import sys
from dataclasses import asdict
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_catalogue import TINY
from lowprec.report import catalogue
with catalogue.Journal(Path(sys.argv[1]), catalogue.identity(asdict(TINY))) as journal:
    catalogue.measure(TINY, journal)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The journal of a process that was killed in the middle."""
    path = tmp_path_factory.mktemp("killed") / "journal"
    script = SCRIPT.format(tests=os.path.dirname(os.path.abspath(__file__)))
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") > 5:
            break
        time.sleep(0.005)
    assert process.poll() is None, "it must not have ended by itself"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return path


@pytest.fixture(scope="module")
def results(killed):
    """The catalogue, after going on with what the killed process left; with it, the journal of before and of after."""
    key = catalogue.identity(asdict(TINY))
    with Journal(killed, key) as journal:
        before = {piece.key: journal.get(piece.key) for piece in plan.pieces(TINY) if journal.get(piece.key) is not None}
        found = catalogue.measure(TINY, journal)
    return found, before


def test_a_killed_run_goes_on_where_it_was(killed, results):
    found, before = results
    whole = plan.pieces(TINY)
    assert 5 <= len(before) < len(whole)
    # No two measurements agree to six digits everywhere: what is equal was not measured again.
    for piece in whole[: len(before)]:
        assert all(row in found["rows"] for row in before[piece.key]), piece.key
    lines = killed.read_bytes().splitlines()
    assert len(lines) == 1 + len(whole), "a line for each piece, none twice"


def test_the_catalogue_is_complete(results):
    found, _ = results
    assert all(tuple(row) == FIELDS for row in found["rows"])
    count = {}
    for row in found["rows"]:
        assert row["gnps"] > 0
        assert row["gnps_q1"] <= row["gnps"] <= row["gnps_q3"]
        key = row["table"], row["index"] is not None
        count[key] = count.get(key, 0) + 1
    assert count["table2", False] == count["table2", True] == 9
    assert count["fig3", False] == 2 * count["fig3", True] == 2 * 4 * 2
    assert count["fig5b", False] == 3 * 2 * 5
    assert count["fig6ab", False] == 2 * count["fig6ab", True]
    assert count["fig6d", False] == 2 * 2 * 6
    assert count["threads", False] == 8
    if machine.baseline() is not None:
        assert count["fig4", False] == 2 * count["fig4", True] == 2 * 2 * 9
        assert count["fig5c", False] == 2 * 2 * 5 or "avx2" not in found["machine"]["isas_runnable"]
    for row in found["rows"]:
        if row["signature"] and row["table"] not in ("peer_sparse", "roof"):
            ours = row["D"] == row["M"] == "32f" and row["engine"] == "lowprec"
            assert not ours or row["float_ratio"] == 1.0
        if row["table"] == "threads":
            assert 0.1 < row["loss"] < 0.7
        if row["table"] == "peer_sparse":
            assert 0 < row["loss"] < 0.7
    batched = [row for row in found["rows"] if row["batch_size"] == 16]
    assert {row["ratio_to"] for row in batched} == {"batches of 1"}
    assert {row["table"] for row in batched} == {"fig6d"}


def test_the_peers_on_sparse_data_learn_the_same(results):
    pytest.importorskip("sklearn")
    rows = [row for row in results[0]["rows"] if row["table"] == "peer_sparse"]
    loss = {row["signature"]: row["loss"] for row in rows if row["engine"] == "lowprec"}
    theirs = next(row["loss"] for row in rows if row["engine"] == "scikit-learn")
    assert loss["D32fi32M32f"] == pytest.approx(theirs, rel=1e-3)
    assert loss["D8i8M8"] == pytest.approx(theirs, rel=0.05)


@pytest.mark.parametrize("switched", [False, True])
def test_a_software_prefetch_is_not_passed_off_as_the_hardwares(results, switched):
    rows = [row for row in results[0]["rows"] if row["table"] in ("fig6ab", "roof")]
    if switched:
        rows += [row | {"prefetch": "all off"} for row in rows if row["prefetch"] == "on"]
    else:
        rows = [row for row in rows if row["prefetch"] != "all off"]
    made = [table for table in catalogue.tables(results[0] | {"rows": rows}) if table.title.startswith("Fig 6")]
    assert len(made) == 4
    for table in made:
        assert any("cannot be switched here" in note for note in table.notes) != switched


def test_the_catalogue_fits_a_terminal(results):
    from rich.console import Console

    made = catalogue.tables(results[0])
    titles = "\n".join(table.title for table in made)
    for part in ("Table 2, dense", "Table 2, sparse", "Fig 3", "Fig 5b", "Fig 5c", "Fig 6a", "Fig 6b", "Fig 6d", "ladder at"):
        assert part in titles
    wide = [row | {"n": row["n"] * 2**k} for k in range(12) for row in results[0]["rows"] if row["n"]]
    for table in made + catalogue.tables(results[0] | {"rows": results[0]["rows"] + wide}):
        console = Console(width=100, file=io.StringIO(), legacy_windows=False)
        console.print(tables.to_rich(table))
        text = console.file.getvalue()
        assert "…" not in text, text
        assert max(map(len, text.splitlines())) <= 100
        for row in table.rows:
            assert row is None or all(cell in tables.to_markdown(table) for cell in row)


def test_the_catalogue_has_plots(results):
    pytest.importorskip("matplotlib")
    made = catalogue.figures(results[0])
    figures = {"table2", "table2-sparse", "fig3", "fig3-sparse", "fig5b", "fig5c", "fig6ab", "fig6ab-sparse", "fig6d"}
    assert {f"speedups-full-{figure}" for figure in figures} <= set(made)
    axes = made["speedups-full-fig3"].axes
    assert len(axes) == 2
    for ax in axes:
        assert (ax.get_xscale(), ax.get_xlabel()) == ("log", "model size n")
        dashes = [line.get_linestyle() for line in ax.lines]
        assert dashes.count("-") == dashes.count("--") == 4, "ours, and the paper's beside it"
    for figure in made.values():
        out = io.BytesIO()
        figure.savefig(out, format="png")
        assert out.getvalue()[:4] == b"\x89PNG"
