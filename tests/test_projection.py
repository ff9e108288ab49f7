"""From one machine to many: rows, tables and the plot of given numbers; and the time of messages between two processes."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lowprec.perfmodel import Coding, Link, Work
from lowprec.perfmodel.communication import exchange_bytes
from lowprec.report import links, projection, tables
from lowprec.report.projection import FIELDS, LINKS, MACHINES, Measured

WORK = Work(n=2**16, examples=64, numbers=2**22, seconds=1e-3)
SLOW = Link(5e-5, 1.25e8)
CODINGS = [Coding("1", 1e9, 2e9), Coding("8", 1e9, 2e9), Coding("32f", 4e9, 4e9)]
MODELS = projection.models(WORK, SLOW, CODINGS)


# ---- rows ----------------------------------------------------------------------------------------------------------


def test_rows_are_the_models_answers():
    rows = projection.projection_rows("a link", MODELS)
    assert [(row["C"], row["machines"]) for row in rows] == [(C, R) for C in ("1", "8", "32f") for R in MACHINES]
    assert all(tuple(row) == FIELDS for row in rows)
    for row in rows:
        model, R = MODELS[row["C"]], row["machines"]
        r = model.round(R)
        assert (row["link"], row["latency_seconds"], row["bandwidth"], row["n"]) == ("a link", 5e-5, 1.25e8, 2**16)
        assert row["exchange_bytes"] == exchange_bytes(2**16, R, row["C"])
        assert row["round_seconds"] == r.seconds
        assert (row["compute_seconds"], row["coding_seconds"]) == (r.compute, r.coding)
        assert (row["waiting_seconds"], row["transfer_seconds"], row["bound"]) == (r.latency, r.transfer, r.bound)
        assert (row["gnps"], row["efficiency"], row["half_at"]) == (model.gnps(R), model.efficiency(R), model.first_below())
        assert row["ratio"] == model.speedup_over(MODELS["32f"], R)
        assert row["measured_seconds"] is None
    assert all(row["ratio"] == 1 for row in rows if row["C"] == "32f" or row["machines"] == 1)


def test_without_float32_there_is_no_ratio():
    rows = projection.projection_rows("a link", projection.models(WORK, SLOW, CODINGS[:1]), [1, 2])
    assert [row["ratio"] for row in rows] == [None, None]
    assert tables.times(None) in projection.speedup_table(rows).rows[0]


def test_a_model_for_each_codec_has_what_was_given():
    made = projection.models(WORK, SLOW, CODINGS, asynchronous=True, cores=2)
    assert list(made) == ["1", "8", "32f"]
    assert all((m.work, m.link, m.asynchronous, m.cores) == (WORK, SLOW, True, 2) for m in made.values())
    assert [m.coding for m in made.values()] == CODINGS


def test_a_check_has_both_times():
    shared = projection.models(WORK, SLOW, CODINGS, cores=2)
    seconds = {R: shared["8"].round(R).seconds for R in (2, 4)}
    rows = projection.check_rows("here", shared, [Measured("8", 2, seconds[2]), Measured("8", 4, 2 * seconds[4])])
    assert [row["projected_over_measured"] for row in rows] == [1, 0.5]
    assert [row["measured_gnps"] for row in rows] == [2 * 2**22 / seconds[2] / 1e9, 4 * 2**22 / (2 * seconds[4]) / 1e9]
    assert [row["gnps"] for row in rows] == [shared["8"].gnps(R) for R in (2, 4)]
    shown = projection.check_table(rows)
    assert [cells[:2] + cells[4:5] for cells in shown.rows] == [["C8", "2", "1.00x"], ["C8", "4", "0.500x"]]
    assert f"a factor of {math.sqrt(2):.2f}," in shown.notes[0]
    assert "Ranks share 2 cores" in shown.notes[1]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: projection.check_rows("here", MODELS, [Measured("4", 2, 1.0)]), "measured: .* in {1, 8, 32f}; got 4"),
        (lambda: Measured("8", 0, 1.0), "machines: must be at least 1"),
        (lambda: Measured("8", 2, 0.0), "seconds: must be finite and positive"),
    ],
)
def test_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()


# ---- shown ---------------------------------------------------------------------------------------------------------


def test_tables():
    rows = projection.projection_rows("a link", MODELS, [1, 4, 1024])
    throughput = projection.throughput_table(rows)
    assert throughput.columns == ["machines", "C1", "C8", "C32f"]
    assert [cells[0] for cells in throughput.rows if cells] == ["1", "4", "1,024", "below 50 % from"]
    assert throughput.rows[0][1:] == ["4.19"] * 3, "one machine: 2^22 numbers in a millisecond, whatever the codec"
    assert throughput.rows[-1][1:] == [f"{MODELS[C].first_below():,}" for C in ("1", "8", "32f")]
    assert "a link, n = 65,536, synchronous" in throughput.title
    assert projection.speedup_table(rows).rows[0] == ["1", "1.00x", "1.00x", "1.00x"]
    assert projection.bound_table(rows).rows[1] == ["4"] + [MODELS[C].round(4).bound for C in ("1", "8", "32f")]
    never = projection.models(WORK, Link(0.0, math.inf), [Coding("8")])
    assert projection.throughput_table(projection.projection_rows("free", never, [2])).rows[-1] == ["below 50 % from", "-"]
    assert projection.link_table({"a link": SLOW}).rows == [["a link", "50.0 us", "0.125", "58.2 us", "574 us", "8.44 ms"]]


def test_presets_are_called_assumed():
    assert all("(assumed)" in name for name in LINKS)
    # The Gbit/s of the name, in bytes.
    assert [link.bandwidth * 8 / 1e9 for link in LINKS.values()] == [float(name.split()[0]) for name in LINKS]


def test_the_plot_has_a_line_for_each_codec_and_opens_what_is_below_half():
    pytest.importorskip("matplotlib")
    rows = []
    for name, link in LINKS.items():
        rows += projection.projection_rows(name, projection.models(WORK, link, CODINGS))
    axes = projection.figure(rows).axes
    assert [ax.get_title(loc="left") for ax in axes] == list(LINKS)
    for ax, name in zip(axes, LINKS, strict=True):
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        *drawn, ideal = ax.lines
        for C, (line, above, below) in zip(("1", "8", "32f"), zip(*[iter(drawn)] * 3, strict=True), strict=True):
            mine = [row for row in rows if (row["link"], row["C"]) == (name, C)]
            assert list(line.get_ydata()) == [row["gnps"] for row in mine]
            assert list(above.get_xdata()) == [row["machines"] for row in mine if row["efficiency"] >= 0.5]
            assert list(below.get_xdata()) == [row["machines"] for row in mine if row["efficiency"] < 0.5]
            assert below.get_markerfacecolor() == "white"
        # Of one machine the efficiency is 1: the line without communication begins where all others do.
        assert ideal.get_ydata()[0] == rows[0]["gnps"]
        assert ideal.get_ydata()[-1] == rows[0]["gnps"] * 1024
    assert len(projection.figure(rows[: len(MACHINES)]).axes) == 1


# ---- links ---------------------------------------------------------------------------------------------------------


class Clock:
    """Two ranks' messages as rank 0 sees them, on a clock that only they move: until b bytes have come it takes 2 (3 + b) s, once
    in four times a hundred more."""

    rank = 0

    def __init__(self):
        self.now, self.trips = 0.0, []

    def Irecv(self, buffer, source):
        assert source == 1
        return SimpleNamespace(Test=self.received)

    def received(self):
        self.now += 2 * (3 + self.size) + 100 * (len(self.trips) % 4 == 0)
        self.trips.append(self.size)
        return True

    def Isend(self, buffer, dest):
        assert dest == 1
        self.size = buffer.nbytes
        return SimpleNamespace(Test=lambda: True)


@pytest.mark.parametrize("both_ways", [False, True])
def test_a_message_takes_the_median_and_half_a_round_trip(monkeypatch, both_ways):
    comm = Clock()
    monkeypatch.setattr(links.time, "perf_counter", lambda: comm.now)
    share = 2 if both_ways else 1
    assert links._measure(comm, [8, 64, 1000], [9, 9, 4], both_ways) == [share * (3 + size) for size in (8, 64, 1000)]
    counted = comm.trips[3 * links._WARM_UP :]
    assert [counted.count(size) for size in (8, 64, 1000)] == [9, 9, 4]
    assert counted[:6] == [8, 64, 1000] * 2, "sizes take turns"


def test_without_mpi4py_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)
    with pytest.raises(ImportError, match=r"measuring a link needs mpi4py, which is not installed: pip install 'lowprec\[mpi\]'"):
        links.message_times()


SCRIPT = """
import json, sys
from mpi4py import MPI
from lowprec.report.links import message_times

refused = []
for comm, sizes in ((MPI.COMM_SELF, [8]), (None, []), (None, [0])):
    try:
        message_times(comm, sizes)
    except ValueError as error:
        refused.append(str(error))
sizes, seconds = message_times(None, [8, 4096, 1 << 20], repeats=5)
answered = message_times(None, [8], both_ways=False, repeats=5)[1]
every = MPI.COMM_WORLD.gather((sizes, seconds + answered, refused), root=0)
if MPI.COMM_WORLD.rank == 0:
    print(json.dumps(every))
"""


@pytest.mark.parametrize("ranks", [2, 3])
def test_two_processes_time_their_messages_and_all_ranks_know(ranks, tmp_path):
    mpiexec = Path(sys.executable).with_name("mpiexec")
    if importlib.util.find_spec("mpi4py") is None:
        pytest.skip("mpi4py is not installed")
    if not mpiexec.exists():
        pytest.skip("there is no mpiexec beside this Python")
    script = tmp_path / "measure.py"
    script.write_text(SCRIPT, encoding="utf-8")
    command = [str(mpiexec), "-n", str(ranks), sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    every = json.loads(done.stdout)
    assert len(every) == ranks
    sizes, seconds, refused = every[0]
    assert every == [every[0]] * ranks
    assert sizes == [8, 4096, 2**20]
    assert len(seconds) == 4
    assert all(t > 0 for t in seconds)
    assert [text.split(":")[0] for text in refused] == ["comm", "sizes", "sizes"]
    assert "start them with mpiexec" in refused[0]
