"""Single calls beside those of libraries of kernels: products and updates beside NumKong, quantizing beside pi-quant."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from lowprec import kernels, runtime
from lowprec.report.timing import Case, huge_buffer, ratios, take_turns

__all__ = ["measure", "missing", "moved", "numkong_isa", "piquant_call"]

_LENGTHS = (2**10, 2**14, 2**18)

#: Numbers that are quantized, in rows of so many: well beyond the caches.
_QUANTIZED, _COLUMNS = 2**24, 2**12

#: Steps of so many quanta show whether an update of the model survives its rounding.
_STEP, _STEPS = 0.4, 100

#: NumKong with nothing beyond AVX2, where it would use more.
_NARROW = "NumKong, AVX2"

_INSTALL = {
    "numkong": "NumKong: there is no module numkong; pip install numkong",
    "piquant": "pi-quant: there is no module piquant; pip install --no-deps pypiquant && pip install cffi",
}


def _module(name: str) -> Any | None:
    try:
        return importlib.import_module(name)
    except Exception:  # a library for another Python fails in any way it likes
        return None


def missing() -> list[str]:
    """Who is not there, each with the command that installs it."""
    return [text for name, text in _INSTALL.items() if _module(name) is None]


def numkong_isa(numkong: Any) -> list[str]:
    """What NumKong may use here, as it names it."""
    return [name for name, there in numkong.get_capabilities().items() if there and name != "serial"]


def _with_avx2(numkong: Any, beyond: list[str], run: Callable[[], float]) -> Callable[[], float]:
    """The run with NumKong kept to AVX2, ours for now: how much of a difference is the instruction set's."""

    def limited() -> float:
        for name in beyond:
            numkong.disable_capability(name)
        try:
            return run()
        finally:
            for name in beyond:
                numkong.enable_capability(name)

    return limited


def _calls(run: Callable[[], Any], numbers: int) -> Callable[[], float]:
    """A run of some 3 ms of a short call, giving 10^9 numbers a second."""
    repeats = 0

    def many() -> float:
        nonlocal repeats
        if not repeats:
            run()
            begin = time.perf_counter()
            run()
            repeats = max(1, int(0.003 / max(time.perf_counter() - begin, 1e-7)))
        begin = time.perf_counter()
        for _ in range(repeats):
            run()
        return repeats * numbers / (time.perf_counter() - begin) / 1e9

    return many


def _pair(n: int, fmt: str, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, n])
    if fmt == "32f":
        return tuple(rng.uniform(-1, 1, (2, n)).astype(np.float32))
    return rng.integers(-127, 128, n).astype(np.int8), rng.integers(-63, 64, n).astype(np.int8)


def _dot(fmt: str, n: int, numkong: Any) -> dict[str, Callable[[], Any]]:
    x, w = _pair(n, fmt)
    kernel = getattr(kernels, f"dot_{fmt}_{fmt}")
    return {"lowprec": lambda: kernel(x, w)} | ({"NumKong": lambda: numkong.dot(x, w)} if numkong else {})


def _axpy(fmt: str, n: int, numkong: Any) -> dict[str, Callable[[], Any]]:
    """Updates by turns up and down, so that the model stays where it is."""
    x, w = _pair(n, fmt)
    v, kernel, sign, seed = w.copy(), getattr(kernels, "axpy_32f_32f" if fmt == "32f" else "axpy_8_8_sr"), [1.0, 1.0], [0]

    def ours() -> None:
        sign[0] = -sign[0]
        if fmt == "32f":
            kernel(0.01 * sign[0], x, w)
        else:
            seed[0] += 1
            kernel(0.01 * sign[0], x, w, seed=seed[0])

    def theirs() -> None:
        sign[1] = -sign[1]
        numkong.blend(x, v, alpha=0.01 * sign[1], beta=1.0, out=v)

    return {"lowprec": ours} | ({"NumKong": theirs} if numkong else {})


def moved(update: Callable[[float, np.ndarray, np.ndarray, int], Any]) -> float:
    """How many quanta `_STEPS` updates of `_STEP` quanta move an int8 model of zeros, on average; right are 40.

    Parameters
    ----------
    update : callable
        Called with the step, x, the model, and a number that is different each time.
    """
    x, w = np.ones(4096, np.int8), np.zeros(4096, np.int8)
    for k in range(_STEPS):
        update(_STEP, x, w, k)
    return float(w.mean())


def piquant_call(a: np.ndarray, out: np.ndarray, fmt: str, rounding: str, scale: float, threads: int = 1) -> Any:
    """A call of pi-quant that does what `lowprec.quantize` does, with its unsigned codes.

    Parameters
    ----------
    a : ndarray of float32
    out : ndarray of uint8
        As many bytes as `a` has numbers.
    fmt : {"8", "4"}
    rounding : {"stochastic", "nearest"}
    scale : float
    threads : int

    Returns
    -------
    callable or None
        None where pi-quant has no such format.
    """
    import piquant

    formats = {"8": (piquant.DataType.UINT8, 128), "4": (piquant.DataType.UINT4, 8)}
    if fmt not in formats or a.dtype != np.float32:
        return None
    dtype, zero_point = formats[fmt]
    mode = {"stochastic": piquant.RoundMode.STOCHASTIC, "nearest": piquant.RoundMode.NEAREST}[rounding]
    context = piquant.Context(threads)
    source, target = a.ctypes.data, out.ctypes.data

    def run() -> None:
        context.quantize_ptr(source, piquant.DataType.F32, target, dtype, a.size, scale, zero_point, mode)

    return run


def _quantize(fmt: str, rounding: str, there: bool, memory: tuple[np.ndarray, np.ndarray]) -> dict[str, Callable[[], Any]]:
    import lowprec as lp

    a, unsigned = memory
    scale = 1.0 / lp.formats.FORMATS[fmt].max_code
    out = lp.quantize(a, fmt, scale=scale)
    runs: dict[str, Callable[[], Any]] = {"lowprec": lambda: lp.quantize(a, fmt, scale=scale, rounding=rounding, out=out)}
    if there:
        runs["pi-quant"] = piquant_call(a, unsigned, fmt, rounding, scale)
    return runs


def measure(seconds: float) -> list[dict[str, Any]]:
    """The rows of the table of kernels, one thread.

    Parameters
    ----------
    seconds : float
        About how long to measure.
    """
    numkong, piquant = _module("numkong"), _module("piquant")
    isas: dict[str, str | None] = {"lowprec": runtime.isa(), "pi-quant": None}
    beyond: list[str] = []
    if numkong:
        beyond = [name for name in numkong_isa(numkong) if name != "haswell"]
        isas |= {"NumKong": "+".join(numkong_isa(numkong)), _NARROW: "haswell"}
    groups: list[tuple[dict[str, Any], dict[str, Callable[[], Any]], int]] = []
    for op, make in (("dot", _dot), ("axpy", _axpy)):
        for fmt in ("8", "32f"):
            for n in _LENGTHS:
                groups.append(({"op": op, "signature": f"D{fmt}M{fmt}", "n": n}, make(fmt, n, numkong), n))
    a = huge_buffer(4 * _QUANTIZED).view(np.float32).reshape(-1, _COLUMNS)
    a[...] = np.random.default_rng(1).uniform(-1, 1, a.shape)
    unsigned = huge_buffer(_QUANTIZED)
    unsigned[...] = 0
    for fmt in ("8", "4"):
        for rounding in ("stochastic", "nearest"):
            about = {"op": f"quantize, {rounding}", "signature": f"D{fmt}", "n": _QUANTIZED}
            groups.append((about, _quantize(fmt, rounding, piquant is not None, (a, unsigned)), _QUANTIZED))
    notes = {("axpy", "D8M8", "lowprec"): moved(lambda m, x, w, k: kernels.axpy_8_8_sr(m, x, w, seed=k))}
    if numkong:
        notes["axpy", "D8M8", "NumKong"] = moved(lambda m, x, w, k: numkong.blend(x, w, alpha=m, beta=1.0, out=w))
    rows = []
    for about, runs, numbers in groups:
        timed = {name: _calls(run, numbers) for name, run in runs.items()}
        if "NumKong" in runs and beyond:
            timed[_NARROW] = _with_avx2(numkong, beyond, _calls(runs["NumKong"], numbers))
        cases = [Case({"engine": name}, run) for name, run in timed.items()]
        found = dict(zip(timed, take_turns(cases, seconds / len(groups), min_turns=3, max_turns=51), strict=True))
        for name, turns in found.items():
            summary = turns.summary()
            row = {"table": "kernels", "name": name, "engine": name, "threads": 1, "isa": isas[name], **about}
            row |= {key: summary[key] for key in ("gnps", "gnps_q1", "gnps_q3", "runs")}
            if name != "lowprec":
                over = ratios(found["lowprec"].gnps, turns.gnps)
                row |= {"ratio": over.median, "ratio_q1": over.q1, "ratio_q3": over.q3, "ratio_to": name}
            distance = notes.get((about["op"], about["signature"], name))
            if distance is not None:
                row["note"] = f"{_STEPS} steps of {_STEP} quanta move the model by {distance:.1f}"
            rows.append(row)
    return rows
