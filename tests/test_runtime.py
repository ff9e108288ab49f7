"""lowprec.runtime: the matrix, the ISA in use, threads."""

import os
import re
import subprocess
import sys

import pytest
import reference

import lowprec as lp
from lowprec import _sgd, runtime
from lowprec import kernels as core


def run(code, **environ):
    """Run Python code in a fresh interpreter and return its completed process."""
    env = {k: v for k, v in os.environ.items() if k not in ("LOWPREC_ISA", "OMP_NUM_THREADS")} | environ
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)


# ---- the matrix ----


def test_the_list_is_the_whole_matrix_on_every_isa():
    matrix = [*((*row, None, None) for row in reference.names()), *((*row, None) for row in reference.sparse_names())]
    codecs = [(op, None, None, rounding, None, C) for op, C, rounding in reference.codec_names()]
    wanted = {(*row, isa) for row in matrix + codecs for isa, _ in core._isas()}
    rows = lp.kernels()
    assert {(k.op, k.D, k.M, k.rounding, k.index, k.C, k.isa) for k in rows} == wanted
    assert len(rows) == len(wanted)
    for k in rows:
        if k.C is None:
            assert k.name == reference.name_of(k.op, k.D, k.M, k.rounding, k.index)
        assert callable(k)
        assert k.runnable == dict(core._isas())[k.isa]


def test_filters():
    isa = lp.isa()
    assert [k.name for k in lp.kernels("dot", D="8", M="16", isa=isa)] == ["dot_8_16"]
    assert lp.kernels("dot", D=8, M=lp.Format(16), isa=isa) == lp.kernels("dot", D="8", M="16", isa=isa)
    assert {k.rounding for k in lp.kernels(rounding="srx")} == {"srx"}
    assert {k.isa for k in lp.kernels("dot", D="8", M="8")} == {name for name, _ in core._isas()}
    assert lp.kernels("axpy", M="32f", rounding="nearest") == lp.kernels("axpy", M="32f")
    assert lp.kernels("dot", rounding="nearest") == lp.kernels("dot")
    assert [k.name for k in lp.kernels("sdot", D="8", M="16", isa=isa, index=8)] == ["sdot_i8_8_16"]
    assert {k.op for k in lp.kernels(index="32")} == {"sdot", "saxpy"}
    assert [k.name for k in lp.kernels("decode_add", C="16f", isa=isa)] == ["decode_add_16f"]
    assert lp.kernels("encode", C=8) == lp.kernels("encode", C=lp.Format(8)) == lp.kernels("encode", C="8")


@pytest.mark.parametrize(
    ("filters", "error", "fragment"),
    [
        (
            {"op": "gemm"},
            ValueError,
            "op: choose one of {dot, sdot, axpy, axpy_dot, saxpy, encode, encode_feedback, decode, decode_add}; got 'gemm'",
        ),
        ({"C": "3"}, ValueError, "C: choose one of {1, 2, 4, 8, 16, 16f, 32f}; got '3'"),
        ({"C": "8", "op": "dot"}, ValueError, "op: choose one of {encode, encode_feedback, decode, decode_add}; got 'dot'"),
        ({"D": "6"}, ValueError, "D: choose one of {4, 8, 16, 32f}; got '6'"),
        ({"D": 32}, ValueError, "D: choose one of {4, 8, 16, 32f}; got '32'"),
        ({"D": 8.0}, TypeError, "D: expected one of {4, 8, 16, 32f}; got float 8.0"),
        ({"M": True}, TypeError, "M: expected one of"),
        ({"isa": "sse9"}, ValueError, "isa: choose one of {base"),
        ({"rounding": "up"}, ValueError, "rounding: choose one of {nearest, sr, srx, srb}"),
        ({"index": 64}, ValueError, "index: choose one of {8, 16, 32}; got '64'"),
        ({"index": "8", "op": "dot"}, ValueError, "op: choose one of {sdot, saxpy}; got 'dot'"),
        # a combination that the matrix does not have is named by the filter that leaves nothing
        ({"op": "dot", "rounding": "sr"}, ValueError, "rounding: choose one of {nearest}; got 'sr'"),
        (
            {"op": "axpy", "M": "32f", "rounding": "sr"},
            ValueError,
            "rounding: choose one of {nearest}; got 'sr'",
        ),
    ],
)
def test_bad_filters(filters, error, fragment):
    with pytest.raises(error, match=re.escape(fragment)):
        lp.kernels(**filters)


def test_the_module_of_kernels_is_also_the_function_that_lists_them():
    import lowprec.kernels
    from lowprec.kernels import dot_8_16

    assert lowprec.kernels is lp.kernels
    assert lp.kernels.dot_8_16 is dot_8_16
    assert lp.kernels("dot", D="8", M="16", isa=lp.isa()) == [dot_8_16]
    # whatever is imported first
    for first in ("import lowprec.kernels as k", "from lowprec.kernels import dot_8_8", "import lowprec"):
        done = run(f"{first}\nimport lowprec as lp\nprint(len(lp.kernels()), lp.kernels.dot_8_8.name)")
        assert done.stdout.split() == [str(len(lp.kernels())), "dot_8_8"], done.stderr


# ---- the ISA in use ----


def test_the_isa_in_use_is_the_best_that_runs():
    runnable = [name for name, runs in core._isas() if runs]
    assert run("import lowprec; print(lowprec.isa())").stdout.strip() == runnable[-1]


@pytest.mark.parametrize("isa", [name for name, runs in core._isas() if runs])
def test_a_forced_isa_is_the_one_that_the_names_carry(isa):
    done = run(
        "import lowprec as lp; print(lp.isa(), lp.kernels.axpy_8_8_sr.isa, lp.kernels.dot_4_32f.isa)",
        LOWPREC_ISA=isa,
    )
    assert done.stdout.split() == [isa] * 3, done.stderr


def test_cpu_features():
    features = lp.cpu_features()
    assert features
    assert all(isinstance(v, bool) for v in features.values())
    assert features == {name: runs for name, runs in core._isas() if name != "base"}
    features.clear()  # a copy
    assert lp.cpu_features()


# ---- threads ----

needs_openmp = pytest.mark.skipif(not _sgd.openmp_enabled(), reason="built without OpenMP")
SHOW = "from lowprec import runtime; print(runtime.effective_n_threads())"


@needs_openmp
def test_a_number_is_taken_as_it_is():
    assert [runtime.effective_n_threads(n) for n in (1, 2, 7)] == [1, 2, 7]


@needs_openmp
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_affinity_is_honored_also_when_it_changes_later():
    one = min(os.sched_getaffinity(0))
    late = f"import os; from lowprec import runtime as r; os.sched_setaffinity(0, [{one}]); print(r.effective_n_threads())"
    early = f"import os; os.sched_setaffinity(0, [{one}]); {SHOW}"
    for code in (late, early):
        done = run(code)
        assert done.stdout.strip() == "1", done.stderr


@needs_openmp
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
@pytest.mark.parametrize(
    "environ",
    [
        {"OMP_PROC_BIND": "true"},
        {"OMP_PROC_BIND": "close"},
        {"OMP_PLACES": "cores"},
        {"OMP_PROC_BIND": "false", "OMP_PLACES": "cores"},
    ],
)
def test_binding_threads_to_cpus_does_not_make_them_one(environ):
    # where OpenMP binds, it binds the first thread too, as soon as it is loaded
    assert run(SHOW, **environ).stdout == run(SHOW).stdout
    one = min(os.sched_getaffinity(0))
    assert run(f"import os; os.sched_setaffinity(0, [{one}]); {SHOW}", **environ).stdout.strip() == "1"


@needs_openmp
@pytest.mark.parametrize("n", [1, 3])
def test_omp_num_threads_is_honored_beyond_the_number_of_cpus_too(n):
    done = run(SHOW, OMP_NUM_THREADS=str(n))
    assert done.stdout.strip() == str(n), done.stderr


@needs_openmp
def test_a_surrounding_threadpool_limit_is_honored():
    code = """
import threadpoolctl
from lowprec import runtime
with threadpoolctl.threadpool_limits(1):
    print(runtime.effective_n_threads())
with threadpoolctl.threadpool_limits(2):
    print(runtime.effective_n_threads())
"""
    done = run(code, OMP_NUM_THREADS="4")
    assert done.stdout.split() == ["1", "2"], done.stderr


@needs_openmp
def test_the_runtime_is_one_that_threadpoolctl_knows():
    done = run(
        "import lowprec, threadpoolctl; print([p['user_api'] for p in threadpoolctl.threadpool_info()].count('openmp'))"
    )
    assert int(done.stdout) == 1, done.stderr


def test_the_available_cpus_are_bounded_by_a_container_quota(tmp_path, monkeypatch):
    path = tmp_path / "cpu.max"
    for text, cpus in (
        ("max 100000", None),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("", None),
        ("1 0", None),
    ):
        path.write_text(text)
        assert runtime._cgroup_quota(path) == cpus
    assert runtime._cgroup_quota(tmp_path / "absent") is None
    monkeypatch.setattr(runtime, "_cgroup_quota", lambda: 1)
    assert runtime._available_cpus() == 1
    monkeypatch.setattr(runtime, "_cgroup_quota", lambda: 10**6)
    assert runtime._available_cpus() == len(os.sched_getaffinity(0))


def test_without_openmp_there_is_one_thread(monkeypatch):
    monkeypatch.setattr(runtime._sgd, "openmp_enabled", lambda: False, raising=False)
    assert not runtime.openmp_enabled()
    assert runtime.effective_n_threads() == 1
    assert runtime.effective_n_threads(8) == 1


@needs_openmp
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_gets_one_thread_once_its_parent_had_several():
    code = """
import os
from lowprec import runtime
before = os.fork()
if before == 0:
    os._exit(runtime.effective_n_threads(3))
print(os.waitstatus_to_exitcode(os.waitpid(before, 0)[1]))
print(runtime.effective_n_threads(2))
after = os.fork()
if after == 0:
    os._exit(runtime.effective_n_threads(3))
print(os.waitstatus_to_exitcode(os.waitpid(after, 0)[1]))
print(runtime.effective_n_threads(2))
"""
    done = run(code)
    assert done.stdout.split() == ["3", "2", "1", "2"], done.stderr


@pytest.mark.parametrize(
    ("n", "error", "fragment"),
    [
        (0, ValueError, "n_threads: must be at least 1; got 0"),
        (-1, ValueError, "n_threads: must be at least 1; got -1"),
        (2**40, ValueError, "n_threads: must be at most 4096; got 1099511627776"),
        (2.0, TypeError, "n_threads: expected an integer of at least 1, or None"),
        ("all", TypeError, "n_threads: expected an integer of at least 1, or None"),
        (True, TypeError, "n_threads: expected an integer of at least 1, or None"),
    ],
)
def test_bad_n_threads(n, error, fragment):
    with pytest.raises(error, match=re.escape(fragment)):
        runtime.effective_n_threads(n)


def test_the_library_prints_nothing_and_starts_nothing_on_import():
    done = run("import lowprec, threading; assert threading.active_count() == 1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_base_import_needs_no_extra():
    done = run(
        "import sys, lowprec\n"
        "found = [m for m in ('sklearn', 'scipy', 'matplotlib', 'rich', 'click', 'pandas') if m in sys.modules]\n"
        "print(found)"
    )
    assert done.stdout.strip() == "[]", done.stderr
