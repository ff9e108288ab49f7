"""Training by the ranks of an MPI communicator: the same bits as threads, and what happens when something goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ranks as worker
import reference as R

mpi4py = pytest.importorskip("mpi4py", reason="needs mpi4py and an MPI: pip install 'lowprec[mpi]'")
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
pytestmark = pytest.mark.skipif(MPIEXEC is None, reason="needs mpiexec: pip install 'lowprec[mpi]'")
HERE = Path(__file__).parent


def command(scenario, n, folder, *words):
    for k in range(n):
        (folder / f"rank{k}.json").unlink(missing_ok=True)
    return ["-n", str(n), sys.executable, str(HERE / "ranks.py"), scenario, str(folder), *words]


def left(n, folder):
    """What each rank left; None for one that did not come to an end."""
    files = [folder / f"rank{k}.json" for k in range(n)]
    return [json.loads(f.read_text()) if f.exists() else None for f in files]


def ranks(scenario, n, folder, *words):
    """Run a scenario of ranks.py on n ranks; what each left."""
    called = [MPIEXEC, *command(scenario, n, folder, *words)]
    done = subprocess.run(called, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr + done.stdout
    return left(n, folder)


def survivors(scenario, n, folder, *words):
    """The same where one rank is killed. Each has a launcher of its own, that does nothing to the others; all must end."""
    _, _, *one = command(scenario, n, folder, *words)
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    started = [subprocess.Popen([MPIEXEC, "-n", "1", *one, f"of/{k}/{n}"], start_new_session=True, **quiet) for k in range(n)]
    try:
        for launcher in started:
            launcher.wait(30)
    finally:
        for launcher in started:
            if launcher.poll() is None:
                os.killpg(launcher.pid, signal.SIGKILL)
                launcher.wait()
    return left(n, folder)


def in_threads(kind, n, **more):
    return worker.shown(worker.train(kind, n_threads=n, **more))


@pytest.mark.parametrize("n", [1, 2, 4])
def test_ranks_and_threads_give_the_same_bits(n, tmp_path):
    found = ranks("equal", n, tmp_path)
    for kind, result in found[0].items():
        expected = in_threads(kind, n)
        for other in found:
            losses = [other[kind].pop("history"), expected.get("history")]
            # A loss is added up by every rank for some rows.
            assert np.allclose(*losses, rtol=1e-12, atol=0)
            assert {**other[kind], "history": None} == {**expected, "history": None}, kind
        assert np.any(np.array(result["coef"]) != 0)


def test_one_rank_is_one_worker_alone(tmp_path):
    """Who has nobody to talk to sends nothing, in any number of bits."""
    assert ranks("equal", 1, tmp_path)[0]["D8M8C32fs"]["coef"] == in_threads("D8M8", 1)["coef"]


def test_bytes_on_the_wire(tmp_path):
    for n in (2, 4):
        found = ranks("bytes_", n, tmp_path)
        vector = 2**16
        small = 4096  # what is agreed upon before and between the exchanges
        for C, bits in (*((f"{C}s", bits) for C, bits in R.CODE_BITS.items()), ("8", 8), ("1", 1)):
            infos = [f[C] for f in found]
            exchanges = infos[0]["exchanges"]
            assert exchanges == 40 // n // 5
            exact = 2 * (n - 1) / n * sum(R.coded_bytes(C.rstrip("s"), vector // n) for _ in range(n))
            assert infos[0]["bytes_per_exchange"] == exact
            sent = sum(info["bytes_sent"] for info in infos) / n
            meeting = 0 if C.endswith("s") else (n - 1) / n * 4 * vector  # asynchronous ranks meet at the end, in float32
            assert exchanges * exact + meeting <= sent <= exchanges * exact + meeting + small
            # Within 5 % of bits / 32, levels included.
            baseline = found[0]["32fs"]["bytes_per_exchange"]
            assert bits / 32 <= exact / baseline <= 1.05 * bits / 32


def test_asynchronous_ranks_learn_and_agree(tmp_path):
    found = ranks("asynchronous", 3, tmp_path)
    for kind, result in found[0].items():
        assert result["history"][-1] < np.log(2) - 0.15, kind  # what they begin with
        assert all(other[kind]["coef"] == result["coef"] for other in found), kind
        assert all(other[kind]["intercept"] == result["intercept"] for other in found)
        assert result["exchanges"] == 6 * -(-167 // 8)


def test_an_answer_is_heard_once(tmp_path):
    """After a meeting ranks go on from its model, not from what they had heard before."""
    for found in ranks("quiet", 2, tmp_path):
        for C, result in found.items():
            assert min(result["coef"]) >= 2.0
            assert result["seen"] == [result["coef"]] * 8, C
            assert 0.0 < result["waiting"] <= result["seconds"]
            assert result["open"] == 0  # or every call would leave a communicator behind, of which there are some thousand


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("kind", ["D8M8C4s", "D8M8C4"])
def test_a_killed_rank(kind, told, tmp_path):
    """Every other rank ends with a clear error within the timeout (of 2 seconds), or when the launcher says so."""
    found = survivors("killed", 3, tmp_path, kind, *(["told"] if told else []))
    assert found[1] is None
    for result in (found[0], found[2]):
        assert result["seconds"] < 2.0 + 3.0
        # Who loses it first tells the other.
        assert result["error"].startswith(("rank 0 wait", "rank 2 wait", "rank 0 stopped: CommunicationError: rank 0 wait",
                                           "rank 2 stopped: CommunicationError: rank 2 wait"))  # fmt: skip
        end = "gives up: it may have been killed, or its round may take longer than the timeout"
        assert result["error"].endswith("and the launcher says that a process has failed" if told else end)
    if kind.endswith("s"):
        last = (tmp_path / "checkpoint").read_bytes()
        for n in (2, 4):
            (tmp_path / "checkpoint").write_bytes(last)
            on = ranks("resumed", n, tmp_path)
            assert all(other == on[0] for other in on)
            (tmp_path / "checkpoint").write_bytes(last)
            more = {"epochs": 6, "checkpoint": tmp_path / "checkpoint", "checkpoint_seconds": 0.0}
            assert in_threads(kind, n, **more)["coef"] == on[0]["coef"]
            assert abs(on[0]["n_examples"] - 6 * 501) < n


def test_mismatched_ranks_are_refused(tmp_path):
    for rank, found in enumerate(ranks("refused", 3, tmp_path)):
        assert found.pop("called") == 0  # before the first step
        same = "communicator: all ranks must have the same"
        expected = {
            "data": f"{same} data (X, y, sample_weight); rank 0 has ",
            "shards": f"{same} shape of X; rank 0 has [501, 150], rank 1 [500, 150]",
            "signature": f"{same} signature; rank 0 has 'D8M8C8s', rank 1 'D8M8C4s'",
            "model": f"{same} signature; rank 0 has 'D8M32fC8s', rank 1 'D8M8C8s'",
            "sync_every": f"{same} sync_every; rank 0 has None, rank 1 10",
            "rounding": f"{same} rounding; rank 0 has 'stochastic', rank 1 'nearest'",
            "step_size": f"{same} step_size; rank 0 has 0.1, rank 1 0.2",
            "error_feedback": f"{same} error_feedback; rank 0 has True, rank 1 False",
            "version": f"{same} version of lowprec; rank 0 has ",
            "inter": "communicator: must connect the processes of one group, such as MPI.COMM_WORLD; got an intercommunicator",
            "null": "communicator: must connect the processes of one group, such as MPI.COMM_WORLD; got COMM_NULL",
            "no C": "signature: needs a C term where workers are ranks of a communicator",
            "threads": "n_threads: must be 1 or None with a communicator",
        }
        assert found.keys() == expected.keys(), rank
        for name, text in expected.items():
            assert found[name].startswith(text), (rank, name, found[name])


def test_an_exception_in_one_rank_is_told_to_the_others(tmp_path):
    found = ranks("stopped", 3, tmp_path)
    assert found[2]["error"] == "ZeroDivisionError: in the callback"
    for other in found[:2]:
        assert other["error"] == "CommunicationError: rank 2 stopped: ZeroDivisionError: in the callback"
        assert other["seconds"] < 30


def test_rank_0_stops_all(tmp_path):
    found = ranks("halted", 2, tmp_path)
    assert found[0] == found[1]
    assert 600 < found[0]["n_examples"] < 50 * 501


@pytest.mark.alone
@pytest.mark.slow
def test_a_slow_link_is_fast_with_few_bits(tmp_path):
    """1 Gbit/s, n = 2^20, two ranks: end to end, 8 bits at least 3 times, 1 bit at least 8 times as fast as float32."""
    found = ranks("shaped", 2, tmp_path)
    turns = {C: [max(both) for both in zip(*(result[C] for result in found), strict=True)] for C in ("32fs", "8s", "1s")}
    # The best of each: what else the machine does only adds.
    seconds = {C: min(times) for C, times in turns.items()}
    print({C: f"{s:.3f} s, {seconds['32fs'] / s:.1f}x" for C, s in seconds.items()})
    assert seconds["32fs"] >= 3 * seconds["8s"]
    assert seconds["32fs"] >= 8 * seconds["1s"]
