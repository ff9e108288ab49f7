"""The command line with a C term: on threads, and on the ranks that mpiexec starts."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

import lowprec as lp
from lowprec.cli import main
from lowprec.communication import launch

ROOT = Path(__file__).resolve().parents[1]
MPIEXEC = Path(sys.executable).with_name("mpiexec")
# Few exchanges: threads that wait for each other are slow where others use the cores.
C = ["--signature", "D8M8C4s", "--sync-every", "64", "--step-size", "0.01"]
# What differs between ranks and threads, and from run to run.
OTHERS = {"train_seconds", "train_seconds_q1", "train_seconds_q3", "epoch_seconds", "gnps", "communication_seconds"}
OTHERS |= {"ranks", "threads", "bytes_sent"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two stores of 600 examples, three classes and 200 features."""
    folder = tmp_path_factory.mktemp("stores")
    for seed, name in enumerate("ab"):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(600, 200)).astype(np.float32)
        y = (X @ rng.normal(size=(200, 3))).argmax(axis=1)
        np.save(folder / f"{name}.npy", np.column_stack([X, y]))
        lp.write_store(folder / f"{name}.npy", folder / name, fmt="8")
    return folder


def command(capsys, *args):
    """Status, stdout and stderr of a command in this process."""
    capsys.readouterr()
    status = main(list(map(str, args)))
    return status, *capsys.readouterr()


def environ(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def started(folder, *parts):
    """A command line of mpiexec: each part is a number of ranks and what they run, arguments of lowprec or a script."""
    if importlib.util.find_spec("mpi4py") is None:
        pytest.skip("mpi4py is not installed")
    if not MPIEXEC.exists():
        pytest.skip("there is no mpiexec beside this Python")
    line = [str(MPIEXEC)]
    for n, *args in parts:
        run = ["-c", args[0]] if len(args) == 1 else ["-m", "lowprec", *map(str, args)]
        line += [*([":"] if len(line) > 1 else []), "-n", str(n), sys.executable, *run]
    return {"args": line, "cwd": folder, "env": environ(), "text": True}


def on_ranks(folder, *parts):
    """The same, run to its end."""
    return subprocess.run(**started(folder, *parts), capture_output=True, timeout=60)


def row(path):
    return json.loads((path / "train.json").read_text())["rows"][0]


def arrays(path):
    """What a checkpoint holds of a run, but for the time that it took."""
    with np.load(path) as f:
        found = {name: f[name] for name in f.files}
    facts = json.loads(found.pop("header").tobytes())
    del facts["seconds"], facts["arrays"]
    return facts, {name: a.tobytes() for name, a in found.items()}


# ---- what is computed ----------------------------------------------------------------------------------------------


def test_ranks_get_the_bits_of_threads(capsys, folder, tmp_path):
    args = ["train", folder / "a", *C, "--batch-size", "4", "--epochs", "2"]
    done = on_ranks(tmp_path, (3, *args, "--out", "ranks", "--checkpoint", "ranks.run"))
    assert done.returncode == 0, done.stderr
    threads = ["--threads", 3, "--out", tmp_path / "threads", "--checkpoint", tmp_path / "threads.run"]
    status, shown, err = command(capsys, *args, *threads)
    assert status == 0, err
    ours, theirs = row(tmp_path / "ranks"), row(tmp_path / "threads")
    assert {k: v for k, v in ours.items() if k not in OTHERS} == {k: v for k, v in theirs.items() if k not in OTHERS}
    assert arrays(tmp_path / "ranks.run") == arrays(tmp_path / "threads.run")
    assert [(r["ranks"], r["threads"]) for r in (ours, theirs)] == [(3, 1), (None, 3)]
    assert theirs["codec"] == "4"
    each = lp.communication.bytes_per_exchange("4", 200, 3, models=3, intercept=True)
    assert theirs["bytes_sent"] == round(theirs["exchanges"] * each)
    # Printed once, by rank 0, with what was exchanged.
    assert done.stdout.count("a: 3 models, one a class, of 200 features; 480 examples, 120 held out") == 1
    assert "3 ranks" in done.stdout
    assert "3 threads" in shown
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert done.stderr.splitlines() == ["Reading ...", "Preparing ...", "Training ...", "Evaluating ..."]


def test_another_number_of_ranks_goes_on_from_a_checkpoint(capsys, folder, monkeypatch, tmp_path):
    from lowprec.report import store_training

    args = ["train", folder / "a", *C, "--epochs", "3"]
    real, path = store_training.train, tmp_path / "run"

    def interrupted(*given, callback, **more):
        def stop(info):
            if info.epoch == 2:
                raise KeyboardInterrupt

        return real(*given, callback=stop, checkpoint_seconds=0.0, **more)

    monkeypatch.setattr(store_training, "train", interrupted)
    assert command(capsys, *args, "--threads", 2, "--checkpoint", path)[0] == 130
    monkeypatch.setattr(store_training, "train", real)
    begun, done_before = path.read_bytes(), arrays(path)[0]
    assert done_before["epoch"] == 2
    assert command(capsys, *args, "--threads", 2, "--checkpoint", tmp_path / "whole")[0] == 0
    for ranks in (2, 3):
        path.write_bytes(begun)
        done = on_ranks(tmp_path, (ranks, *args, "--checkpoint", path, "--out", "out"))
        assert done.returncode == 0, done.stderr
        facts, found = arrays(path)
        assert (facts["epoch"], facts["workers"]) == (3, ranks)
        # The rounds of the last epoch that were not done before.
        rounds = -(-480 // ranks // 64) - 2 * done_before["position"] // ranks // 64
        assert row(tmp_path / "out")["exchanges"] == rounds
        assert (found == arrays(tmp_path / "whole")[1]) == (ranks == 2)


def test_options_reach_training(capsys, folder, tmp_path):
    def loss(*more, signature="D8M8C2s"):
        args = ["--signature", signature, "--sync-every", 60, "--threads", 2, "--epochs", 1, "--out", tmp_path / "out"]
        status, _, err = command(capsys, "train", folder / "a", *args, *more)
        assert status == 0, err
        return row(tmp_path / "out")["train_loss"]

    assert loss() == loss("--error-feedback", "--timeout", 5)
    assert loss() != loss("--no-error-feedback")
    assert loss("--staleness", 3, signature="D8M8C8") > 0


def test_a_file_is_trained_on_by_threads(capsys, folder, tmp_path):
    args = ["train", folder / "a.npy", *C, "--threads", 2, "--batch-size", 2, "--no-error-feedback", "--quick", "--epochs", 1]
    status, shown, err = command(capsys, *args, "--out", tmp_path / "out")
    assert status == 0, err
    rows = json.loads((tmp_path / "out" / "train.json").read_text())["rows"]
    assert [r["codec"] for r in rows][:2] == ["4", None]
    assert [r["batch_size"] for r in rows][:2] == [2, 2]
    assert rows[0]["exchanges"] > 0
    assert sum("2 threads" in line for line in shown.splitlines() if "lowprec D" in line) == 1


@pytest.mark.parametrize(
    ("name", "args", "fragment"),
    [
        ("a.npy", ["--checkpoint", "run"], "--checkpoint: is for stores"),
        ("a", ["--no-error-feedback"], "error_feedback: has no effect without a C term"),
        ("a", [*C, "--staleness", "2"], "staleness: has no effect unless"),
        ("a", [*C, "--batch-size", "5"], "sync_every: must be a multiple of batch_size (5)"),
        ("a", [*C, "--batch-size", "0"], "batch-size: must be at least 1"),
        ("a", [*C, "--timeout", "0"], "timeout: must be finite and positive"),
        ("a", ["--signature", "D8M8C3s"], "workers send 1, 2, 4"),
    ],
)
def test_options_that_are_refused(capsys, folder, name, args, fragment):
    status, out, err = command(capsys, "train", folder / name, *args)
    assert (status, out) == (2, "")
    assert fragment in err


# ---- how ranks end -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "args", "fragment"),
    [
        ("a", [], "error: signature: needs a C term"),
        ("a.npy", C, "error: FILE: must be a store"),
        ("a", [*C, "--epochs", "0"], "error: epochs: must be at least 1; got 0"),
        ("a", [*C, "--threads", "2"], "error: n_threads: must be 1"),
        ("a", [*C, "--column", "2"], "error: No such option"),
    ],
)
def test_what_all_ranks_refuse_is_said_once(folder, name, args, fragment):
    done = on_ranks(folder, (2, "train", name, *args))
    assert (done.returncode, done.stdout) == (1, "")
    said = [line for line in done.stderr.splitlines() if line.startswith("lowprec: ")]
    assert len(said) == 1, done.stderr
    assert said[0].startswith(f"lowprec: {fragment}")


BROKEN = """
import sys
from lowprec.report import store_training
store_training.target_of = lambda *args: 1 / 0
from lowprec.cli import main
sys.exit(main(["train", "a", "--signature", "D8M8C8s"]))
"""


@pytest.mark.parametrize(
    ("other", "fragment"),
    [
        (["train", "b", *C], "error: communicator: all ranks must have the same data (X, y, sample_weight); rank 0 has"),
        (["train", "absent", *C], "rank 1: error: FILE: must be a store, which lowprec quantize makes"),
        ([BROKEN], "rank 1: error: ZeroDivisionError: division by zero"),
    ],
)
def test_a_rank_that_fails_ends_all(folder, other, fragment):
    done = on_ranks(folder, (1, "train", "a", *C), (1, *other))
    assert (done.returncode, done.stdout) == (1, "")
    said = [line for line in done.stderr.splitlines() if line.startswith("lowprec: ")]
    assert len(said) == 1, done.stderr
    assert said[0].startswith(f"lowprec: {fragment}")
    assert ("Traceback" in done.stderr) == (other == [BROKEN])


def test_ctrl_c_ends_all_ranks(folder):
    job = subprocess.Popen(
        **started(folder, (2, "train", "a", *C, "--epochs", "1000000")), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        while (line := job.stderr.readline()) != "Training ...\n":
            assert line, "it ended before it trained"
        job.send_signal(signal.SIGINT)
        out, err = job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode != 0
    assert "accuracy" not in out  # mpiexec itself says something
    assert err.count("lowprec: interrupted") == 1


# ---- who is a rank -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, None),
        ({"PMI_RANK": "2", "PMI_SIZE": "4"}, (2, 4)),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, None),
        ({"PMI_RANK": "0", "PMI_SIZE": "1", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"}, None),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMIX_RANK": "1"}, (1, 2)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8"}, (3, 8)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),
        ({"PMIX_RANK": "1"}, (1, None)),
        ({"PMI_RANK": "", "PMI_SIZE": "two"}, None),
    ],
)
def test_launchers_are_recognized(variables, found):
    assert launch.launched(variables) == found


def test_one_line_a_reason():
    assert launch._lines({0: ("error: x", False), 1: ("error: x", False)}, 2) == ["error: x"]
    assert launch._lines({1: ("error: x", False)}, 2) == ["rank 1: error: x"]
    said = {0: ("told", True), 1: ("x", False), 2: ("y", False), 3: ("x", False)}
    assert launch._lines(said, 4) == ["ranks 1, 3: x", "rank 2: y"]
    assert launch._lines({0: ("rank 0 waited", True), 1: ("rank 1 waited", True)}, 3) == ["rank 0 waited"]


def test_ranks_without_mpi4py_are_told_once(capsys, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)
    monkeypatch.setenv("PMI_SIZE", "2")
    sentence = "lowprec: error: training on several ranks needs mpi4py, which is not installed: pip install 'lowprec[mpi]'\n"
    for rank, said in (("0", sentence), ("1", "")):
        monkeypatch.setenv("PMI_RANK", rank)
        assert command(capsys, "train", folder / "a", *C) == (2, "", said)


ALONE = """
import sys
from lowprec.cli import main
status = main(["train", "a", "--signature", "D8M8C8s", "--threads", "2"])
sys.exit(status or 3 * ("mpi4py" in sys.modules))
"""


def test_alone_mpi4py_is_not_imported(folder):
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=folder, env=environ(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_launcher_of_another_mpi_is_refused(folder):
    pytest.importorskip("mpi4py")
    args = [sys.executable, "-m", "lowprec", "train", "a", *C]
    strange = environ(OMPI_COMM_WORLD_RANK="0", OMPI_COMM_WORLD_SIZE="4")
    done = subprocess.run(args, cwd=folder, env=strange, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "launcher: must be of the MPI library that mpi4py uses" in done.stderr
    assert "one that started 4 processes" in done.stderr


@pytest.mark.parametrize(
    ("versions", "shown"),
    [
        ({}, "none: pip install 'lowprec[mpi]'"),
        ({"mpi4py": "4.1.2", "mpich": "5.0.2"}, "mpi4py 4.1.2, mpich 5.0.2"),
        ({"mpi4py": "4.1.2"}, "mpi4py 4.1.2, with the library of the system"),
    ],
)
def test_info_says_what_there_is(capsys, monkeypatch, versions, shown):
    monkeypatch.setattr("lowprec.cli.info._installed", versions.get)
    _, out, _ = command(capsys, "info")
    assert f" {shown} " in next(line for line in out.splitlines() if line.startswith("  MPI"))
