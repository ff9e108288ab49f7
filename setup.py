"""Build of the compiled core. Everything that is not a compiled module is in pyproject.toml.

setuptools gives one set of flags to a whole extension, but every ISA's table of kernels needs its own. So ``build_ext``
below compiles the hand-written C file by file, each with its flags, and hands the objects to the linker; the Cython
module itself goes the ordinary way.

Environment (all optional, read at build time):

LOWPREC_BUILD_ISAS   ISAs to build, separated by spaces; default: every one that the compiler knows. "base" is always built.
LOWPREC_WERROR=1     warnings of Cython and of the hand-written C are errors.
LOWPREC_SANITIZE     for example "address,undefined": build with these sanitizers (see ``make sanitize``).
"""

import glob
import os
import tempfile
from dataclasses import dataclass, field

import numpy
from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

os.chdir(os.path.dirname(os.path.abspath(__file__)))  # the paths below are relative, and so are those in messages

KERNELS = "kernels"
SANITIZE = os.environ.get("LOWPREC_SANITIZE", "")
WERROR = os.environ.get("LOWPREC_WERROR") == "1"
BUILD = "build/sanitize" if SANITIZE else "build/werror" if WERROR else "build"  # so that one does not make the other stale
HEADERS = sorted(glob.glob(f"{KERNELS}/*.h") + glob.glob(f"{KERNELS}/*.px[di]"))

# No -ffast-math and no -march=native in the product: the same source must give the same bits on every machine.
# -ffp-contract=off: or the units whose ISA has FMA would fuse a*x + w and disagree with the others.
# -g0: Python's own flags may ask for debug information, which is most of the size and of the time.
PORTABLE = ["-O3", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden"]
HAND_WRITTEN = ["-std=c11", *PORTABLE, "-Wall", "-Wextra"]

# One row per ISA beyond "base": alternatives of flags. The first that builds kernels/probes/<isa>.c is taken; if none does,
# this compiler cannot build the ISA and it is left out. kernels/<stem>_<isa>.c is compiled with them, and LP_HAVE_<ISA>
# defined. A further ISA (avx512: -march=x86-64-v4; neon) is one row here, its probe and its isa_<name>.c.
ISAS = {
    "avx2": [["-march=x86-64-v3"], ["-mavx2", "-mbmi", "-mbmi2", "-mf16c", "-mfma", "-mlzcnt", "-mmovbe", "-mpopcnt"]],
}

# The "compiler's best" that the speedup tables compare with; only benchmarks use it. -Ofast is for compiling alone: given
# to the linker it would pull in crtfastmath.o, which sets flush-to-zero for the whole process.
BASELINE = ["-std=c11", "-Ofast", "-g0", "-Wall", "-Wextra"]
BASELINE_X86 = ["-mavx2", "-mfma"]


@dataclass
class Module:
    """A compiled module: one .pyx, C files, and C files that exist for some ISAs (kernels/<stem>_<isa>.c)."""

    name: str
    pyx: str
    c_files: list = field(default_factory=list)
    per_isa: list = field(default_factory=list)
    baseline: list = field(default_factory=list)  # built with the BASELINE flags
    openmp: bool = False  # built with OpenMP where the compiler has it; LP_OPENMP is then defined


MODULES = [
    Module(
        "lowprec.kernels",
        "kernels.pyx",
        ["dispatch.c", "tables.c", "model.c", "random.c", "sparse.c"],
        per_isa=["isa", "codec", "quantize"],
    ),
    Module("lowprec._sgd", "_sgd.pyx", ["driver.c", "exchange.c"], openmp=True),
    Module("lowprec._quantize", "_quantize.pyx", per_isa=["quantize"]),
    Module("lowprec._sparse", "_sparse.pyx"),
    Module("lowprec._network", "_network.pyx", per_isa=["gemm", "network"], openmp=True),
    Module("lowprec.cachesim._simulator", "_cachesim.pyx", ["cachesim.c", "cachesim_sgd.c", "tables.c"]),
    Module(
        "lowprec.report._baseline",
        "_baseline.pyx",
        ["random.c", "sparse.c", "tables.c"],
        per_isa=["proxy"],
        baseline=["baseline.c"],
    ),
    Module("lowprec.report._roofs", "_roofs.pyx", baseline=["roofs.c"], openmp=True),
    Module("lowprec.report._instructions", "_instructions.pyx", ["instructions.c"]),
    Module("lowprec.report._conv", "_conv.pyx", baseline=["conv_plain.c"]),
]


class BuildKernels(build_ext):
    """build_ext that gives each hand-written C file its own flags."""

    def build_extensions(self):
        self.isas = self._isas()
        self.openmp = self._first_that_builds("openmp", [["-fopenmp"]])
        self.sanitize = [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g", "-O1"] if SANITIZE else []
        self.werror = ["-Werror"] if WERROR else []
        super().build_extensions()

    def build_extension(self, ext):
        module = next(m for m in MODULES if m.name == ext.name)
        ext.define_macros += [(f"LP_HAVE_{isa.upper()}", "1") for isa in self.isas if isa != "base"]
        ext.extra_compile_args += PORTABLE + self.sanitize
        ext.extra_link_args += self.sanitize[:1]
        openmp = self.openmp if module.openmp and self.openmp else []
        if openmp:
            ext.define_macros.append(("LP_OPENMP", "1"))
            ext.extra_compile_args += openmp
            ext.extra_link_args += openmp

        machine = BASELINE_X86 if "avx2" in self.isas else []
        c_files = {f"{KERNELS}/{name}": HAND_WRITTEN for name in module.c_files}
        c_files |= {f"{KERNELS}/{name}": BASELINE + machine for name in module.baseline}
        for stem in module.per_isa:
            each = {f"{KERNELS}/{stem}_{isa}.c": HAND_WRITTEN + flags for isa, flags in self.isas.items()}
            c_files |= {path: flags for path, flags in each.items() if os.path.exists(path)}
        c_files = {path: flags + openmp + self.sanitize + self.werror for path, flags in c_files.items()}

        ext.depends = [*HEADERS, *c_files, "setup.py", self._settings(ext, c_files)]
        if self._up_to_date(ext):
            return
        own_dir = os.path.join(self.build_temp, ext.name)
        for path, flags in c_files.items():
            ext.extra_objects += self.compiler.compile(
                [path], output_dir=own_dir, macros=ext.define_macros, include_dirs=ext.include_dirs, extra_postargs=flags
            )
        super().build_extension(ext)

    def _up_to_date(self, ext):
        target = self.get_ext_fullpath(ext.name)
        newest = max(os.path.getmtime(path) for path in [*ext.sources, *ext.depends])
        return not self.force and os.path.exists(target) and os.path.getmtime(target) > newest

    def _isas(self):
        """Return {isa: flags} of the ISAs that are wanted and that the compiler can build."""
        wanted = os.environ.get("LOWPREC_BUILD_ISAS", " ".join(ISAS)).split()
        unknown = sorted(set(wanted) - {"base", *ISAS})
        if unknown:
            raise SystemExit(f"LOWPREC_BUILD_ISAS: unknown ISA {' '.join(unknown)}; choose from base {' '.join(ISAS)}")
        found = {isa: self._first_that_builds(isa, ISAS[isa]) for isa in ISAS if isa in wanted}
        return {"base": []} | {isa: flags for isa, flags in found.items() if flags is not None}

    def _first_that_builds(self, probe, alternatives):
        """Return the first set of flags with which kernels/probes/<probe>.c compiles and links, or None."""
        for flags in alternatives:
            with tempfile.TemporaryDirectory(prefix="lowprec-probe-") as work:
                try:
                    objects = self.compiler.compile([f"{KERNELS}/probes/{probe}.c"], work, extra_postargs=flags)
                    self.compiler.link_executable(objects, "probe", work, extra_postargs=flags)
                except (CompileError, LinkError):
                    continue
                return flags
        print(f"lowprec: this compiler cannot build {probe}; it is left out")
        return None

    def _settings(self, ext, c_files):
        """Keep what a module is built with in a file that is rewritten only when it changes: then the module is rebuilt."""
        path = os.path.join(BUILD, f"settings-{ext.name}.txt")
        text = repr([self.compiler.compiler_so, ext.define_macros, ext.extra_compile_args, c_files])
        os.makedirs(BUILD, exist_ok=True)
        with open(path, "a+") as f:
            f.seek(0)
            if f.read() != text:
                f.truncate(0)
                f.write(text)
        return path


Options.warning_errors = WERROR
extensions = [
    Extension(
        m.name,
        [f"{KERNELS}/{m.pyx}"],
        include_dirs=[KERNELS, numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        libraries=["m"],
    )
    for m in MODULES
]
setup(
    ext_modules=cythonize(
        extensions, build_dir=f"{BUILD}/cython", include_path=[KERNELS], compiler_directives={"language_level": 3}
    ),
    cmdclass={"build_ext": BuildKernels},
)
