"""The command line: what it prints, what it leaves, and how it fails."""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from lowprec.cli import main
from lowprec.cli.shared import parse_sizes
from lowprec.prefetch import HardwarePrefetcherStatus


def run(capsys, *args):
    """Status, stdout and stderr of a command."""
    capsys.readouterr()
    status = main(list(args))
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def problem(rng):
    """A problem with a linear solution: 400 rows of 20 features, two classes."""
    X = rng.normal(size=(400, 20)).astype(np.float32)
    return X, np.where(X @ rng.normal(size=20) > 0, 3, 1)


# ---- info ----------------------------------------------------------------------------------------------------------


def test_info_is_read_by_a_person(capsys):
    status, out, err = run(capsys, "info")
    assert (status, err) == (0, "")
    for word in ("CPU", "caches", "threads", "Instruction sets", "base", "active", "D = 32f", "M = 4", "dot_8_16"):
        assert word in out
    assert max(map(len, out.splitlines())) <= 100
    assert "…" not in out


def test_info_is_read_by_a_program(capsys):
    status, out, err = run(capsys, "info", "--json")
    found = json.loads(out)
    assert (status, err) == (0, "")
    assert sum(isa["active"] for isa in found["isas"]) == 1
    assert {k["name"] for k in found["kernels"]} >= {"dot_8_8", "axpy_8_8_sr", "axpy_dot_32f_32f"}
    assert {(k["D"], k["M"]) for k in found["kernels"]} == {(d, m) for d in TOKENS for m in TOKENS}
    assert found["threads"]["default"] >= 1
    assert found["hardware_prefetchers"]["reason"]


TOKENS = ("4", "8", "16", "32f")


@pytest.mark.parametrize(
    ("enabled", "shown"),
    [
        ({0: True, 1: True}, "on; as they should"),
        ({0: False, 1: False}, "off; as they should"),
        ({0: True, 1: False}, "partly on; as they should"),
        ({0: None}, "partly on; as they should"),
        (None, "not switchable: as they should"),
    ],
)
def test_info_shows_the_hardware_prefetchers(capsys, monkeypatch, enabled, shown):
    status = HardwarePrefetcherStatus(enabled is not None, "as they should", enabled)
    monkeypatch.setattr("lowprec.prefetch.hardware_prefetcher_status", lambda: status)
    _, out, _ = run(capsys, "info")
    assert f" {shown} " in next(line for line in out.splitlines() if "hardware prefetchers" in line)


@pytest.mark.parametrize("isa", ["base"])
def test_info_says_why_an_isa_is_not_used(isa):
    env = dict(os.environ, LOWPREC_ISA=isa)
    done = subprocess.run(
        [sys.executable, "-m", "lowprec", "info", "--json"], env=env, capture_output=True, text=True, check=True
    )
    found = {entry["name"]: entry for entry in json.loads(done.stdout)["isas"]}
    assert found["base"]["active"]
    assert not found["avx2"]["active"]
    assert found["avx2"]["why"]


def console_script(folder, name="lowprec"):
    """What an installation puts on the PATH for the entry point of pyproject.toml."""
    path = folder / name
    path.write_text("import sys\nfrom lowprec.cli import main\nsys.exit(main())\n")
    return str(path)


@pytest.mark.parametrize("how", ["command", "-m", "-X -m"])
def test_a_wrong_isa_is_one_sentence(tmp_path, how):
    start = {"command": [console_script(tmp_path)], "-m": ["-m", "lowprec"], "-X -m": ["-X", "utf8", "-m", "lowprec"]}[how]
    environ = os.environ | {"LOWPREC_ISA": "nope", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, *start, "info"], env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("lowprec: error: LOWPREC_ISA=nope: no such ISA is built in; choose from base")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("how", ["script", "-m", "argument"])
def test_other_programs_get_the_exception(tmp_path, how):
    (tmp_path / "other.py").write_text("try:\n    import lowprec\nexcept ImportError as error:\n    print('caught', error)\n")
    start = {"script": ["other.py"], "-m": ["-m", "other"], "argument": ["other.py", "-m", "lowprec"]}[how]
    environ = os.environ | {"LOWPREC_ISA": "nope", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, *start], env=environ, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("caught LOWPREC_ISA=nope: no such ISA is built in")


# ---- the module, help, a missing extra -----------------------------------------------------------------------------


def test_python_m_lowprec():
    done = subprocess.run([sys.executable, "-m", "lowprec", "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("lowprec, version ")
    done = subprocess.run([sys.executable, "-m", "lowprec", "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nonsense" in done.stderr


@pytest.mark.parametrize("command", [(), ("compare",), ("experiment",), ("info",), ("model",), ("speedups",), ("train",)])
def test_help(capsys, command):
    status, out, err = run(capsys, *command, "--help")
    assert (status, err) == (0, "")
    assert out.startswith("Usage: lowprec")


def test_a_bare_command_shows_what_there_is(capsys):
    _, out, _ = run(capsys)
    assert all(command in out for command in ("experiment", "info", "speedups", "train"))


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_a_missing_extra_is_one_sentence(capsys, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    status, out, err = run(capsys, "info")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert missing in err
    assert "pip install 'lowprec[report]'" in err


def test_ctrl_c_is_not_a_traceback(capsys, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("lowprec.cli.info.collect", interrupted)
    status, out, err = run(capsys, "info")
    assert (status, out, err.strip()) == (130, "", "lowprec: interrupted")


# ---- errors --------------------------------------------------------------------------------------------------------


#: What `lowprec model` leaves of a machine that reads its cache as fast as its memory, 64 bytes in a nanosecond.
CALIBRATION = {
    "version": 1,
    "paper": {"base": {"D8M8": 2.0}, "cap": 0.95, "slope": 0.15},
    "roofs": {"read": [[4096, 1.0]], "stream_gbps": 64.0, "stream_all_gbps": 64.0, "threads": 1},
    "costs": {"D8M8": {"number_ns": 0.0, "example_ns": 60.0}},
}


@pytest.mark.parametrize(
    ("args", "fragment"),
    [
        (["train"], "FILE"),
        (["train", "there-is-no-such-file.csv"], "there-is-no-such-file.csv"),
        (["train", "sklearn:nothing"], "nothing"),
        (["train", "{data}", "--signature", "D8Q8"], "D8Q8"),
        (["train", "{data}", "--signature", "D5M8"], "5"),
        (["train", "{data}", "--signature", "G18"], "G18"),
        (["train", "{data}", "--epochs", "0"], "epochs: must be at least 1"),
        (["train", "{data}", "--epochs", "many"], "many"),
        (["train", "{data}", "--threads", "0"], "threads: must be at least 1"),
        (["train", "{data}", "--test-size", "1"], "test-size"),
        (["train", "{data}", "--step-size", "-1"], "step-size"),
        (["train", "{data}", "--step-size", "nan"], "step-size"),
        (["train", "{data}", "--seed", "-1"], "seed"),
        (["train", "{data}", "--loss", "cubic"], "cubic"),
        (["train", "{data}", "--out", "{file}"], "must be a folder"),
        (["train", "{truncated}"], "truncated.npy"),
        (["train", "{ragged}"], "ragged.csv"),
        (["speedups", "--sizes", "2^8,x"], "sizes"),
        (["speedups", "--sizes", "100"], "sizes: must lie in [128, 16777216]; got 100"),
        (["speedups", "--sizes", "200"], "multiples of 128"),
        (["speedups", "--full", "--sizes", "2^9..2^8"], "in A..B, B must be A times 1, 2, 4, 8"),
        (["speedups", "--full", "--sizes", "2^8..2^10,2^8..1152"], "got 2^8..1152"),
        (["speedups", "--full", "--sizes", "2^8..2^30"], "sizes: must lie in"),
        (["speedups", "--seconds", "-1"], "seconds"),
        (["speedups", "--data-mib", "1"], "data-mib"),
        (["speedups", "--full", "--data-mib", "16", "--sizes", "2^23"], "data-mib: with sizes up to 2^23 must be at least 32"),
        (["speedups", "--seed", "-1"], "seed"),
        (["speedups", "--out", "{file}"], "must be a folder"),
        (["speedups", "--nonsense"], "--nonsense"),
        (["model", "--sizes", "2^8,x"], "sizes"),
        (["model", "--sizes", "2^8"], "sizes: must be two or more"),
        (["model", "--signatures", "D8M8,D8Q8"], "D8Q8"),
        (["model", "--signatures", "D8M8,D5M8"], "D5"),
        (["model", "--signatures", "D8"], "signatures"),
        (["model", "--seconds", "0"], "seconds"),
        (["model", "--data-mib", "1"], "data-mib"),
        (["model", "--seed", "-1"], "seed"),
        (["model", "--out", "{file}"], "must be a folder"),
        (["model", "--resume"], "there is no lowprec-results/model.json; begin without --resume"),
        (["model", "--load", "{data}"], "--predict"),
        (["model", "--n", "2^8", "--threads", "2"], "--n, --threads: goes with --predict"),
        (["model", "--predict", "D8M8", "--sizes", "2^8"], "--sizes: is for measuring"),
        (["model", "--predict", "D8M8"], "there is no lowprec-results/model.json; lowprec model writes one"),
        (["model", "--predict", "D8M8", "--load", "missing.json"], "there is no missing.json"),
        (["model", "--predict", "D8M8", "--load", "{data}"], "not JSON"),
        (["model", "--predict", "D8M8", "--load", "{foreign}"], "holds no calibration"),
        (["model", "--predict", "D8M16", "--load", "{calibration}"], "signature: calibrated are D8M8; got D8M16"),
        (["model", "--predict", "8", "--load", "{calibration}"], "signature '8'"),
        (["model", "--predict", "D8M8", "--load", "{calibration}", "--n", "0"], "n: must"),
        (["model", "--predict", "D8M8", "--load", "{calibration}", "--n", "many"], "n: must be numbers"),
        (["model", "--predict", "D8M8", "--load", "{calibration}", "--n", "2^-3"], "n: must be numbers"),
        (["model", "--predict", "D8M8", "--load", "{calibration}", "--threads", "0"], "threads: must be at least 1"),
        (["info", "now"], "now"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, monkeypatch, tmp_path, problem, args, fragment):
    monkeypatch.chdir(tmp_path)
    X, y = problem
    np.savetxt(tmp_path / "data.csv", np.column_stack([X, y]), delimiter=",")
    np.save(tmp_path / "whole.npy", X)
    (tmp_path / "truncated.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-100])
    (tmp_path / "ragged.csv").write_text("1,2,0\n3,1\n5,6,1\n")
    (tmp_path / "file").write_text("")
    (tmp_path / "foreign.json").write_text('{"command": "speedups", "rows": []}')
    (tmp_path / "calibration.json").write_text(json.dumps({"machine": {}, "calibration": CALIBRATION}))
    names = {"data": "data.csv", "file": "file", "truncated": "truncated.npy", "ragged": "ragged.csv"}
    names |= {"foreign": "foreign.json", "calibration": "calibration.json"}
    before = sorted(os.listdir(tmp_path))
    status, out, err = run(capsys, *(arg.format(**names) for arg in args))
    assert status == 2, out + err
    message = [line for line in err.splitlines() if not line.endswith(" ...")]
    assert len(message) == 1, err
    assert message[0].startswith("lowprec: error: ")
    assert fragment in message[0]
    assert sorted(os.listdir(tmp_path)) == before, "a command that failed on its arguments leaves nothing"


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("2^8", (256,)),
        ("1024, 2^8,256", (256, 1024)),
        ("2^20", (2**20,)),
        ("384", (384,)),
        ("2^8..2^11", (256, 512, 1024, 2048)),
        ("2^8..2^9,2^12", (256, 512, 4096)),
        ("2^9 .. 512", (512,)),
    ],
)
def test_sizes(text, sizes):
    assert parse_sizes(text) == sizes


# ---- train ---------------------------------------------------------------------------------------------------------


def write(kind, folder, X, y):
    """The same data in one of the formats that can be read; returns the arguments that name it."""
    path = folder / f"data.{kind}"
    if kind == "csv":
        np.savetxt(path, np.column_stack([X, y]), delimiter=",", header=",".join(f"f{k}" for k in range(21)), comments="")
    elif kind == "npy":
        np.save(path, np.column_stack([X, y]))
    elif kind == "npz":
        np.savez(path, X=X, y=y)
    elif kind == "svm":
        lines = (f"{b} " + " ".join(f"{k + 1}:{v:.6g}" for k, v in enumerate(a)) for a, b in zip(X, y, strict=True))
        path.write_text("\n".join(lines) + "\n")
    else:
        codes = np.clip(np.round(X * 40 + 128), 0, 255).astype(np.uint8)
        path.write_bytes(struct.pack(">HBBII", 0, 8, 2, *codes.shape) + codes.tobytes())
        labels = folder / "labels.idx.gz"
        labels.write_bytes(gzip.compress(struct.pack(">HBBI", 0, 8, 1, len(y)) + y.astype(np.uint8).tobytes()))
        return [str(path), "--labels", str(labels)]
    return [str(path)]


@pytest.mark.parametrize("kind", ["csv", "npy", "npz", "svm", "idx"])
def test_training_on_a_file(capsys, monkeypatch, tmp_path, problem, kind):
    monkeypatch.chdir(tmp_path)
    args = write(kind, tmp_path, *problem)
    before = sorted(os.listdir(tmp_path))
    status, out, err = run(capsys, "train", *args, "--quick", "--epochs", "20")
    assert status == 0, err
    assert sorted(os.listdir(tmp_path)) == before, "without --out nothing is left"
    assert "a model of 20 features; 320 examples, 80 held out" in out
    assert max(map(len, out.splitlines())) <= 100
    assert "…" not in out
    for name in ("lowprec D8M8", "lowprec D32fM32f"):
        line = next(line for line in out.splitlines() if name in line)
        assert float(line.split()[2]) > 0.85, line


def test_training_leaves_its_files(capsys, tmp_path, problem):
    args = write("npz", tmp_path, *problem)
    pytest.importorskip("matplotlib")
    out = tmp_path / "results"
    status, _, err = run(capsys, "train", *args, "--quick", "--signature", "D16M16", "--loss", "hinge", "--out", str(out))
    assert status == 0, err
    assert sorted(os.listdir(out)) == ["train.csv", "train.json", "train.md", "train.png"]
    results = json.loads((out / "train.json").read_text())
    names = [row["name"] for row in results["rows"]]
    assert names[:2] == ["D16M16", "D32fM32f"]
    assert {row["loss"] for row in results["rows"]} == {"hinge"}
    by_name = {row["name"]: row for row in results["rows"]}
    assert by_name["D32fM32f"]["bytes_per_example"] == 80
    assert by_name["D16M16"]["bytes_per_example"] < 80


def test_training_on_a_quantity(capsys, tmp_path, rng):
    X = rng.normal(size=(500, 8))
    y = X @ rng.normal(size=8) + 0.1 * rng.normal(size=500) + 30
    np.savez(tmp_path / "q.npz", X=X, y=y)
    out = tmp_path / "results"
    status, text, err = run(capsys, "train", str(tmp_path / "q.npz"), "--epochs", "20", "--quick", "--out", str(out))
    assert status == 0, err
    assert "R^2" in text
    rows = json.loads((out / "train.json").read_text())["rows"]
    assert all(row["score"] > 0.9 for row in rows), rows


def test_training_is_a_function_of_the_seed(capsys, tmp_path, problem):
    args = write("npy", tmp_path, *problem)
    scores = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run(capsys, "train", *args, "--quick", "--seed", seed, "--out", str(tmp_path / name))
        rows = json.loads((tmp_path / name / "train.json").read_text())["rows"]
        scores.append([(row["score"], row["train_loss"]) for row in rows])
    assert scores[0] == scores[1]
    assert scores[0] != scores[2]


def test_training_on_data_of_scikit_learn(capsys):
    pytest.importorskip("sklearn")
    status, out, err = run(capsys, "train", "sklearn:digits", "--quick")
    assert status == 0, err
    assert "10 models" in out
    assert "scikit-learn" in out


# ---- speedups ------------------------------------------------------------------------------------------------------


def test_speedups_prints_and_leaves_its_files(capsys, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, "speedups", "--quick", "--seconds", "0.1", "--data-mib", "16", "--sizes", "2^8,2^11")
    assert status == 0, err
    assert os.listdir(tmp_path) == ["lowprec-results"]
    names = sorted(os.listdir(tmp_path / "lowprec-results"))
    assert [n for n in names if not n.endswith(".png")] == ["speedups.csv", "speedups.json", "speedups.md"]
    assert "speedups-sizes.png" in names
    for title in ("This machine", "Base throughput", "over model size", "The rounding ladder"):
        assert title in out
    assert max(map(len, out.splitlines())) <= 100
    assert "…" not in out
    results = json.loads((tmp_path / "lowprec-results" / "speedups.json").read_text())
    assert results["command"] == "speedups"
    assert {row["n"] for row in results["rows"] if row["table"] == "sizes"} == {2**8, 2**11}
    assert "Base throughput ..." in err


@pytest.fixture
def tiny_catalogue(monkeypatch, tmp_path):
    """``speedups --full --quick`` on next to no data, and a folder that it writes to."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("scipy")
    from dataclasses import replace

    from lowprec.report import catalogue

    tiny = {"n_bytes": 2**20, "sizes": (2**10,), "threads": (1,), "peer_sizes": (), "seconds": 0.0, "run_seconds": 1e-4}
    monkeypatch.setattr(catalogue, "QUICK", replace(catalogue.QUICK, **tiny))
    return tmp_path / "results"


def test_the_catalogue_prints_and_leaves_its_files(capsys, tiny_catalogue):
    status, out, err = run(capsys, "speedups", "--full", "--quick", "--out", str(tiny_catalogue))
    assert status == 0, err
    names = sorted(os.listdir(tiny_catalogue))
    assert [n for n in names if not n.endswith(".png")] == ["speedups-full.csv", "speedups-full.json", "speedups-full.md"]
    assert "speedups-full-fig3-sparse.png" in names
    for title in ("Table 2, dense", "Table 2, sparse", "Fig 3", "Fig 5b", "Fig 6d"):
        assert title in out
    assert max(map(len, out.splitlines())) <= 100
    assert "…" not in out
    results = json.loads((tiny_catalogue / "speedups-full.json").read_text())
    assert results["command"] == "speedups --full"
    assert results["options"]["threads"] == [1]
    assert {row["n"] for row in results["rows"] if row["table"] == "fig3"} == {2**10}


def test_the_catalogue_goes_on_after_ctrl_c(capsys, monkeypatch, tiny_catalogue):
    from lowprec.report.catalogue import run as measuring

    real, left = measuring._rows, [4]

    def interrupted(*args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*args)

    args = ["speedups", "--full", "--quick", "--out", str(tiny_catalogue)]
    monkeypatch.setattr(measuring, "_rows", interrupted)
    status, out, err = run(capsys, *args)
    assert (status, out) == (130, "")
    assert "4 pieces are kept; the same command goes on from there." in err
    assert os.listdir(tiny_catalogue) == ["speedups-full.journal"]

    status, out, err = run(capsys, *args, "--seed", "2")  # not the same command
    assert (status, out) == (2, "")
    assert err.startswith("lowprec: error: ")
    assert err.count("\n") == 1
    assert "belongs to another measurement" in err
    assert "options.seed was 1 and is 2" in err

    monkeypatch.setattr(measuring, "_rows", real)
    status, out, err = run(capsys, *args)
    assert status == 0
    assert "Going on after 4 pieces" in err
    assert "speedups-full.journal" not in os.listdir(tiny_catalogue)


# ---- model ---------------------------------------------------------------------------------------------------------


def test_model_predicts_from_a_file(capsys, tmp_path):
    path = tmp_path / "model.json"
    path.write_text(json.dumps({"machine": {"cpu": "A CPU", "lowprec": "0.1"}, "calibration": CALIBRATION}))
    status, out, err = run(capsys, "model", "--load", str(path), "--predict", "D8M8", "--n", "256,2^18", "--threads", "4")
    assert (status, err) == (0, "")
    assert os.listdir(tmp_path) == ["model.json"], "nothing is written"
    cells = [line.split() for line in out.splitlines() if line.strip().startswith("2^")]
    # Eq. 2: 2 GNPS at n = 256, where nothing is parallel; 2 / (0.05 + 0.95/4) from the knee on. Roofline: 4 n / (60 + 4 n/64).
    assert [(row[0], float(row[1]), float(row[2])) for row in cells] == [("2^8", 2.0, 13.5), ("2^18", 6.96, 63.8)]
    assert "Calibrated on A CPU" in out
    assert "extrapolation" in out
    assert max(map(len, out.splitlines())) <= 100


def test_model_measures_and_leaves_its_files(capsys, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lowprec.report.model.APART", 1e9)  # whatever else runs here: every run counts
    args = ["model", "--quick", "--seconds", "0.1", "--data-mib", "16", "--sizes", "2^8,2^9,2^10"]
    status, out, err = run(capsys, *args, "--signatures", "D8M8,D16M16")
    assert status == 0, err
    assert os.listdir(tmp_path) == ["lowprec-results"]
    folder = tmp_path / "lowprec-results"
    plots = ["model-paper.png", "model-scatter.png", "model-sizes.png"]
    assert sorted(os.listdir(folder)) == [*plots, "model.csv", "model.json", "model.md"]
    for title in ("This machine", "Roofs", "Predicted against measured", "Constants", "The paper's Fig 3"):
        assert title in out
    assert "96.8 %" in out
    assert "87.3 %" in out
    assert max(map(len, out.splitlines())) <= 100
    assert "…" not in out
    results = json.loads((folder / "model.json").read_text())
    assert results["command"] == "model"
    points = [row for row in results["rows"] if row["table"] == "point"]
    assert {(row["signature"], row["n"]) for row in points} == {(s, n) for s in ("D8M8", "D16M16") for n in (256, 512, 1024)}

    status, out, err = run(capsys, *args, "--signatures", "D4M4", "--resume")
    assert status == 0, err
    again = [row for row in json.loads((folder / "model.json").read_text())["rows"] if row["table"] == "point"]
    assert {row["signature"] for row in again} == {"D4M4", "D8M8", "D16M16"}
    kept = {(row["signature"], row["n"], row["threads"]): row["gnps"] for row in points}
    assert all(kept.get((r["signature"], r["n"], r["threads"]), r["gnps"]) == r["gnps"] for r in again)

    status, out, err = run(capsys, "model", "--predict", "D4M4", "--n", "2^12")
    assert (status, err) == (0, "")
    assert "D4M4, 1 thread: predicted GNPS" in out


def test_model_without_the_plain_loops_is_one_line(capsys, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("lowprec.report.machine.baseline", lambda: None)
    status, out, err = run(capsys, "model", "--out", str(tmp_path / "new"))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "the roofs cannot be measured" in err
    assert not (tmp_path / "new").exists()


def test_an_interrupted_model_says_how_to_go_on(capsys, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    from lowprec.report import model

    real, left = model._take, [1]

    def interrupted(*args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr("lowprec.report.model.APART", 1e9)
    monkeypatch.setattr(model, "_take", interrupted)
    args = ["model", "--seconds", "0.1", "--data-mib", "16", "--sizes", "2^8,2^9", "--signatures", "D8M8,D16M16"]
    args += ["--out", str(tmp_path)]
    status, out, err = run(capsys, *args)
    assert (status, out) == (130, "")
    assert "--resume goes on from there" in err
    assert os.listdir(tmp_path) == ["model.json"]
    assert {row["signature"] for row in json.loads((tmp_path / "model.json").read_text())["rows"] if row["n"]} == {"D8M8"}
    status, _, err = run(capsys, "model", "--predict", "D8M8", "--out", str(tmp_path))
    assert status == 2
    assert "holds no calibration" in err

    monkeypatch.setattr(model, "_take", real)
    status, out, err = run(capsys, *args, "--resume")
    assert status == 0, err
    assert "D16M16" in out
