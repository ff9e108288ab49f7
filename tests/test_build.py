"""The build: the portable units are plain C11, and the source distribution is complete.

`make sdist-check` runs the whole test suite on an installed source distribution; here a part of it runs, on a build without SIMD.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "kernels"

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="the sources are not beside the tests")

# Headers that only an x86 compiler has.
X86_HEADERS = ("immintrin", "x86intrin", "emmintrin", "xmmintrin", "cpuid")


def compiler():
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if shutil.which(command[0]) is None:
        command = ["cc"]
    if shutil.which(command[0]) is None:
        pytest.skip("no C compiler")
    return command[:1]


def portable_units():
    """Every hand-written C file that is compiled without flags for an ISA; the benchmarks' baseline is another matter."""
    isas = [path.stem for path in (KERNELS / "probes").glob("*.c")]
    return sorted(
        path for path in KERNELS.glob("*.c") if path.stem.rpartition("_")[2] not in isas and not path.stem.startswith("baseline")
    )


@pytest.fixture
def no_x86(tmp_path):
    """A C11 compiler that knows no x86: it has neither the headers nor the flags."""
    headers = tmp_path / "no-x86"
    headers.mkdir()
    for name in X86_HEADERS:
        (headers / f"{name}.h").write_text(f'#error "{name}.h: no such header on this machine"\n')
    script = tmp_path / "cc-no-x86"
    script.write_text(
        textwrap.dedent(f"""\
            #!/bin/sh
            for flag in "$@"; do
                case $flag in
                    -march=x86*|-march=native|-mtune=*|-mavx*|-msse*|-mfma|-mbmi*|-mf16c|-mpopcnt|-mlzcnt|-mmovbe)
                        echo "error: unrecognized command-line option $flag" >&2
                        exit 1 ;;
                esac
            done
            exec {shlex.join(compiler())} -I{shlex.quote(str(headers))} "$@"
        """)
    )
    script.chmod(0o755)
    return str(script)


def run(command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{shlex.join(str(c) for c in command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_the_portable_units_exist():
    names = {path.name for path in portable_units()}
    assert {"isa_base.c", "quantize_base.c", "dispatch.c", "random.c"} <= names
    assert not any("avx2" in name for name in names)


@pytest.mark.parametrize("unit", [path.name for path in portable_units()] or ["none"])
def test_the_portable_units_name_no_x86(unit):
    text = run([*compiler(), "-std=c11", "-E", f"-I{KERNELS}", KERNELS / unit])
    for word in ("mmintrin.h", "cpuid.h", "x86intrin.h", "__builtin_ia32", "__builtin_cpu_supports", "__m256", "__m128"):
        assert word not in text, word


def test_base_builds_and_runs_without_x86(no_x86, tmp_path):
    # The portable units alone, linked with a program that calls a row of each kind.
    (tmp_path / "main.c").write_text(
        textwrap.dedent("""\
            #include <stdio.h>
            #include <string.h>
            #include "lowprec.h"

            int main(void)
            {
                const lp_isa *isa = lp_isa_best();
                if (strcmp(isa->name, "base") != 0 || lp_isas[1] != NULL)
                    return 1;
                signed char x[3] = {1, -128, 3}, w[3] = {127, -127, 2};
                lp_sum z = ((lp_dot_fn)lp_find(isa, LP_DOT, 8, 8, LP_NEAREST)->fn)(x, w, 3);
                if (z.i != 127 + 128 * 127 + 6)
                    return 2;
                lp_step step = {.mu = 1 << 14, .e = 1}; /* m = 1/2 */
                ((lp_axpy_fn)lp_find(isa, LP_AXPY, 8, 8, LP_NEAREST)->fn)(&step, x, w, 3, NULL);
                if (w[0] != 127 || w[1] != -127 || w[2] != 4)
                    return 3;
                for (int k = 0; k < isa->count; k++)
                    puts(isa->kernels[k].name);
                return 0;
            }
        """)
    )
    flags = ["-std=c11", "-O0", "-pedantic-errors", "-Wall", "-Wextra", "-Werror", f"-I{KERNELS}"]
    run([no_x86, *flags, *portable_units(), tmp_path / "main.c", "-lm", "-o", tmp_path / "base"])
    rows = run([tmp_path / "base"]).split()
    assert len(rows) == len(set(rows)) > 120
    assert {"dot_8_16", "axpy_4_4_sr", "axpy_dot_32f_32f"} <= set(rows)


def sources():
    """The files of the working tree that are under version control or could be; in an unpacked distribution, all."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    git = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if git.returncode == 0 and git.stdout:
        names = git.stdout.splitlines()
    else:
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*")]
    skipped = ("build/", "dist/", ".venv", "results/")
    return [name for name in names if (ROOT / name).is_file() and not name.startswith(skipped) and "__pycache__" not in name]


@pytest.mark.slow
def test_the_sdist_builds_elsewhere_without_x86(no_x86, tmp_path):
    pytest.importorskip("Cython", reason="building needs Cython")
    pytest.importorskip("setuptools", reason="building needs setuptools")
    tree, dist = tmp_path / "tree", tmp_path / "dist"
    names = [name for name in sources() if not name.endswith((".so", ".pyc"))]
    for name in names:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    dist.mkdir()
    run([sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_sdist({str(dist)!r})"], cwd=tree)
    (archive,) = dist.iterdir()
    with tarfile.open(archive) as tar:
        tar.extractall(dist, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (unpacked,) = (path for path in dist.iterdir() if path.is_dir())

    # nothing that a builder, a tester or a reader needs is missing; nothing built has slipped in
    folders = ("kernels", "lowprec", "tests", "benchmarks", "docs")
    files = ("LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "asv.conf.json", "pyproject.toml", "setup.py")
    needed = {name for name in names if name.partition("/")[0] in folders or name in files}
    packed = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert sorted(needed - packed) == []
    assert not [name for name in packed if name.endswith((".so", ".o", ".pyc"))]

    # it builds outside the clone with a compiler that knows no x86 (which must be noticed, not assumed), and works
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LOWPREC_", "PYTEST_"))}
    environment |= {"CC": no_x86, "PYTHONPATH": str(unpacked)}
    run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=unpacked, env=environment)
    script = "import lowprec, lowprec.kernels as k; print(lowprec.__file__, k._isas())"
    printed = run([sys.executable, "-c", script], cwd=tmp_path, env=environment)
    assert printed.strip() == f"{unpacked}/lowprec/__init__.py (('base', True),)"
    part = "test_random or test_dispatch or against_plain_sgd or no_holes or lengths"
    run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", "-k", part], cwd=unpacked, env=environment)
