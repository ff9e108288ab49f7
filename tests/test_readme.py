"""The README's examples run as they stand."""

from __future__ import annotations

from pathlib import Path

import examples
import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
EXAMPLES = examples.blocks(README)

pytestmark = pytest.mark.skipif(not README.exists(), reason="the README is not beside the tests")


def test_there_are_examples():
    assert len(EXAMPLES) == 4


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_example_runs(code, tmp_path):
    if "sklearn" in code or "scipy" in code:
        pytest.importorskip("sklearn")  # scipy comes with it
    examples.run(code, tmp_path)
