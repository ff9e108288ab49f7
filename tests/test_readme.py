"""The README's examples run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.S | re.M) if README.exists() else []

pytestmark = pytest.mark.skipif(not README.exists(), reason="the README is not beside the tests")


def run(code, cwd):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=cwd)


def test_there_are_examples():
    assert len(EXAMPLES) == 4


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_example_runs(code, tmp_path):
    if "sklearn" in code or "scipy" in code:
        pytest.importorskip("sklearn")  # scipy comes with it
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no warning either
    for accuracy in re.findall(r"accuracy (\d\.\d+)", done.stdout):
        assert float(accuracy) > 0.9, done.stdout
