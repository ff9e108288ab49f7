"""`lowprec wrpn speed`: what it says is what was measured."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lowprec.cli import main
from lowprec.report.wrpn import speed


def test_quick(tmp_path):
    pytest.importorskip("torch", reason="pip install 'lowprec[wrpn]'")
    options = ["--quick", "--threads", "1", "--batch", "2", "--out", str(tmp_path)]
    # A process of its own, where torch has not been imported yet.
    done = subprocess.run([sys.executable, "-m", "lowprec", "wrpn", "speed", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "wrpn-speed.json").read_text())
    rows = results["rows"]
    assert {tuple(row) for row in rows} == {speed.FIELDS}
    theirs = [row for row in rows if row["engine"] != "lowprec"]
    ours = [(row["widen"], row["weight_bits"], row["activation_bits"]) for row in rows if row["engine"] == "lowprec"]
    assert ours == [tuple(cell) for cell in speed.QUICK.cells]
    assert {row["isa"] for row in theirs} == {"avx2"}
    # The fastest of torch's has ratio 1, and no other of torch's has a smaller median time.
    (one,) = (row for row in theirs if row["engine"] == row["ratio_to"])
    assert one["time_ratio"] == one["time_ratio_q1"] == one["time_ratio_q3"] == 1
    for row in rows:
        assert row["ratio_to"] == one["engine"]
        assert (row["batch"], row["threads"], row["network"]) == (2, 1, "convnet")
        assert 0 < row["microseconds_q1"] <= row["microseconds"] <= row["microseconds_q3"]
        assert row["time_ratio_q1"] <= row["time_ratio"] <= row["time_ratio_q3"]
        assert (row["weight_bytes"] is None) == (row["engine"] != "lowprec")
    shown = (tmp_path / "wrpn-speed.md").read_text()
    assert "convnet, batch 2, 1 thread" in shown
    assert one["engine"] in shown


def test_torch_was_there_before(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", object())
    with pytest.raises(RuntimeError, match="torch has been imported already"):
        speed.hold_to_avx2()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--isa", "sse"], "isa: choose one of {avx2, native}"),
        (["--batch", "0"], "batch: must be at least 1"),
        (["--batch", "x"], "batch: expected an integer"),
        (["--threads", "0"], "threads: must be at least 1"),
        (["--architecture", "vgg"], "vgg"),
    ],
)
def test_bad_input(options, text, capsys, tmp_path):
    assert main(["wrpn", "speed", "--out", str(tmp_path), *options]) != 0
    assert text in capsys.readouterr().err
