"""Dispatch: the forced ISA really runs, an unknown one fails, and nothing is chosen that the CPU cannot run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import reference as R

from lowprec import kernels

BUILT_IN = [name for name, _ in kernels._isas()]
RUNNABLE = [name for name, runnable in kernels._isas() if runnable]


def python(code, **environment):
    """Run code in a fresh interpreter; environment variables of value None are unset."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    for name, value in environment.items():
        env.pop(name, None)
        if value is not None:
            env[name] = value
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)


def test_the_order_is_slowest_first_and_base_always_runs():
    assert kernels._isas()[0] == ("base", True)
    assert len(set(BUILT_IN)) == len(BUILT_IN)
    assert kernels._cpu_features() == {name: runnable for name, runnable in kernels._isas() if name != "base"}


def test_the_best_runnable_isa_is_the_default():
    run = python("import lowprec.kernels as k; print(k._active_isa())", LOWPREC_ISA=None)
    assert run.stdout.split() == [RUNNABLE[-1]], run.stderr
    run = python("import lowprec.kernels as k; print(k._active_isa())", LOWPREC_ISA="")
    assert run.stdout.split() == [RUNNABLE[-1]], run.stderr


@pytest.mark.parametrize("isa", RUNNABLE)
def test_a_forced_isa_is_used_everywhere(isa):
    code = """
import lowprec as lp, lowprec.kernels as k
from lowprec.kernels import axpy_8_8_sr, dot_8_16
print(k._active_isa(), lp.isa(), dot_8_16.isa, axpy_8_8_sr.isa, *{row.isa for row in k._table()})
print(*(name for name, _ in k._isas()))
"""
    run = python(code, LOWPREC_ISA=isa)
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.splitlines()
    assert set(first.split()) == {isa}
    assert second.split() == BUILT_IN  # the other tables stay reachable


@pytest.mark.parametrize("name", ["avx1024", "AVX2", "base ", "all"])
def test_an_unknown_isa_is_refused_at_import(name):
    run = python("import lowprec.kernels", LOWPREC_ISA=name)
    assert run.returncode != 0
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: LOWPREC_ISA=")
    assert name.strip() in last
    assert all(isa in last for isa in BUILT_IN)


@pytest.mark.parametrize("isa", [name for name in BUILT_IN if name not in RUNNABLE] or [None])
def test_an_isa_that_this_cpu_lacks_is_refused(isa):
    if isa is None:
        pytest.skip("this CPU runs every ISA that is built in")
    run = python("import lowprec.kernels", LOWPREC_ISA=isa)
    assert run.returncode != 0
    assert "this CPU does not run it" in run.stderr
    with pytest.raises(RuntimeError, match="does not run"):
        kernels._table(isa)[0](np.zeros(2, dtype=np.uint8), np.zeros(2, dtype=np.uint8))


def test_no_table_of_that_name():
    with pytest.raises(ValueError, match="base"):
        kernels._table("mmx")


def disassembled():
    """{function: its instructions} of the compiled kernels."""
    tool = shutil.which("objdump")
    if tool is None:
        pytest.skip("needs objdump (binutils)")
    text = subprocess.run([tool, "-d", "--no-show-raw-insn", kernels.__file__], capture_output=True, text=True, check=True).stdout
    functions, name = {}, None
    for line in text.splitlines():
        start = re.match(r"[0-9a-f]+ <([\w.]+)>:", line)
        if start:
            name = start[1].partition(".")[0]
            functions.setdefault(name, [])
        elif name:
            functions[name].append(line)
    return functions


@pytest.mark.skipif("avx2" not in BUILT_IN, reason="this build has no AVX2 table")
def test_each_row_is_the_code_of_its_isa():
    # A row that is called base and runs AVX2 code (or the reverse) would pass every test of its results on this machine.
    functions = disassembled()
    rows = [R.name_of(*row) for row in R.names()]
    if f"{rows[0]}_base" not in functions:
        pytest.skip("the symbols are stripped")
    for row in rows:
        base, avx2 = "\n".join(functions[f"{row}_base"]), "\n".join(functions[f"{row}_avx2"])
        assert "%ymm" not in base, row
        assert not re.search(r"\tv\w+ ", base), row  # not one VEX instruction
        assert "%ymm" in avx2, row
        assert "vfm" not in avx2, row  # a fused multiply-add would round once where base rounds twice
        assert "vfnm" not in avx2, row
