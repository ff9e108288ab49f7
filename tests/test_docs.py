"""The documentation: its examples run, and the site is built without a warning and shows what the package has."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import examples
import pytest

import lowprec
from lowprec.formats import FORMATS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
TUTORIAL = examples.blocks(DOCS / "tutorial.md")

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="the documentation is not beside the tests")


def test_the_tutorial_runs(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("safetensors")
    printed = examples.run("\n".join(TUTORIAL), tmp_path)
    # What the text says of the last models: a file gives the same answers, and SVRG in 8 bits is below float32.
    assert printed.rstrip().endswith("the same answers: True")
    objective = {name: float(value) for name, value in re.findall(r"^(\S+ \S+): objective (\S+)$", printed, re.M)}
    assert objective["D8M8 svrg"] < objective["D32fM32f sgd"] < objective["D8M8 sgd"]


def test_the_page_on_networks_runs(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    printed = examples.run("\n".join(examples.blocks(DOCS / "wrpn.md")), tmp_path)
    assert "0.4897" in printed  # the compute cost of AlexNet
    assert "[[ 4 -1]]" in printed  # the product by itself


# ---- the site ----------------------------------------------------------------------------------------------

RESULTS = """# lowprec speedups

A CPU.

### A table

| signature | GNPS |
|:--|--:|
| D8M8 | 1234 |

![speedups-sizes](speedups-sizes.png)
"""
# The smallest PNG there is: one grey pixel.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c636000000002000148afa4710000000049454e44ae426082"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages, built with a folder of results."""
    if any(importlib.util.find_spec(name) is None for name in ("sphinx", "furo", "myst_parser", "sklearn", "click")):
        pytest.skip("what builds the documentation is not installed: pip install 'lowprec[docs]'")
    results, pages = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("pages")
    (results / "speedups.md").write_text(RESULTS, encoding="utf-8")
    (results / "speedups-sizes.png").write_bytes(PIXEL)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(pages / "trees"), str(DOCS), str(pages)]
    environ = {**os.environ, "LOWPREC_RESULTS": str(results)}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=pages, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return pages


def page(site: Path, name: str) -> str:
    return (site / f"{name}.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_page_is_there(site):
    for source in DOCS.rglob("*.md"):
        assert (site / source.relative_to(DOCS)).with_suffix(".html").exists(), source


@pytest.mark.slow
def test_every_kernel_stands_in_one_cell(site):
    cells = "".join(re.findall(r"<td.*?</td>", page(site, "api/kernels"), re.S))
    shown = re.findall(r">([a-z_]+_i?[0-9][a-z0-9_]*)</span>", cells)
    assert sorted(shown) == sorted(row.name for row in lowprec.kernels(isa="base"))
    table = re.search(r'id="dot".*?<table.*?</table>', page(site, "api/kernels"), re.S).group()
    assert re.findall(r"M = (\w+)", table) == list(FORMATS)


@pytest.mark.slow
def test_everyday_names_and_parameters_are_explained(site):
    reference = "".join(path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html"))
    documented = set(re.findall(r'id="lowprec\.([\w.]+)"', reference))
    assert set(lowprec.__all__) - {"__version__", "kernels", "cpu_features", "isa"} <= documented
    assert {"runtime.kernels", "runtime.isa", "runtime.cpu_features"} <= documented
    from lowprec.linear_model import LowPrecisionSGDClassifier, LowPrecisionSGDRegressor

    classes = page(site, "api/linear_model").split('id="lowprec.linear_model.LowPrecisionSGDRegressor"')
    for text, estimator in zip(classes, (LowPrecisionSGDClassifier, LowPrecisionSGDRegressor), strict=True):
        missing = [name for name in estimator().get_params() if f"<strong>{name}</strong>" not in text]
        assert not missing


@pytest.mark.slow
def test_every_command_has_its_help(site):
    from lowprec.cli.app import app

    text = page(site, "command-line")
    for name, command in app.commands.items():
        assert f"Usage: lowprec {name}" in text
        assert all(option in text for parameter in command.params for option in parameter.opts if option.startswith("--"))


@pytest.mark.slow
def test_results_are_shown_with_their_plots(site):
    text = page(site, "tables")
    assert "<h2>lowprec speedups<" in text
    assert "<h3>A table<" in text
    assert "1234" in text
    assert (site / "_images" / "speedups-sizes.png").read_bytes() == PIXEL
