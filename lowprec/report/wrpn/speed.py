"""The rows and tables of `lowprec wrpn speed`: whole integer networks beside the float32 network in torch."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lowprec import checks
from lowprec.report import timing
from lowprec.report.files import header
from lowprec.report.tables import Table, between, number
from lowprec.report.wrpn.threads import torch_threads
from lowprec.runtime import effective_n_threads, isa
from lowprec.wrpn.architecture import Architecture
from lowprec.wrpn.architectures import as_architecture

__all__ = ["AVX2_ONLY", "FIELDS", "FULL", "QUICK", "Options", "hold_to_avx2", "measure", "speed_tables"]

#: Every row has these fields, in this order; docs/results-schema.md says what they mean.
FIELDS = (
    "table",
    "network",
    "engine",
    "widen",
    "weight_bits",
    "activation_bits",
    "batch",
    "threads",
    "isa",
    "microseconds",
    "microseconds_q1",
    "microseconds_q3",
    "time_ratio",
    "time_ratio_q1",
    "time_ratio_q3",
    "ratio_to",
    "weight_bytes",
    "probe_gops",
    "runs",
)

#: What holds torch, oneDNN, MKL, FBGEMM and OpenBLAS to AVX2. They read it when they are loaded.
AVX2_ONLY = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}


@dataclass(frozen=True)
class Options:
    """What is measured.

    Parameters
    ----------
    networks : tuple of str
    cells : tuple of (widen, weight bits, activation bits)
    batches : tuple of int
    n_threads : int or None
    seconds : float
        About how long one network takes at one batch.
    isa : {"avx2", "native"}
        What torch may use. Our kernels use AVX2 at most.
    """

    networks: tuple[str, ...] = ("convnet", "resnet-20")
    cells: tuple[tuple[float, int, int], ...] = ((1, 8, 8), (1, 4, 4), (2, 8, 8), (2, 4, 4), (2, 2, 2), (2, 1, 1))
    batches: tuple[int, ...] = (1, 64)
    n_threads: int | None = None
    seconds: float = 8.0
    isa: str = "avx2"


FULL = Options()
QUICK = Options(networks=("convnet",), cells=((1, 4, 4), (2, 4, 4)), seconds=1.5)


def hold_to_avx2() -> None:
    """Let torch have AVX2 at most, as our kernels do. It must not have been imported."""
    if "torch" in sys.modules:
        raise RuntimeError("isa: torch has been imported already, and reads what it may use only then; take native")
    os.environ |= AVX2_ONLY


def measure(options: Options, progress: Callable[[str, str, float], None] = lambda stage, what, done: None) -> dict[str, Any]:
    """Measure whole networks.

    Parameters
    ----------
    options : Options
    progress : callable
        Called with the network, what is measured next, and the share that is done.

    Returns
    -------
    dict
        The results, with ``rows``.
    """
    start = time.perf_counter()
    architectures = [as_architecture(name) for name in options.networks]
    if options.isa == "avx2":
        hold_to_avx2()
    torch = checks.need_extra("torch", "wrpn", "lowprec wrpn speed")
    threads = effective_n_threads(options.n_threads)
    rows: list[dict[str, Any]] = []
    with torch_threads(threads):
        for k, architecture in enumerate(architectures):
            progress(architecture.name, "making the networks", k / len(architectures))
            plain, ours = _networks(architecture, options)
            for j, batch in enumerate(options.batches):
                progress(architecture.name, f"batch {batch}", (k + (j + 0.2) / len(options.batches)) / len(architectures))
                rows += _rows(torch, architecture, plain, ours, batch, threads, options)
    return header("wrpn speed", asdict(options) | {"n_threads": threads}, time.perf_counter() - start) | {"rows": rows}


def _networks(architecture: Architecture, options: Options) -> tuple[Any, dict[tuple[float, int, int], Any]]:
    """The float32 network in torch at 1x, and the integer networks. Not trained: no time depends on the numbers."""
    import torch

    from lowprec.wrpn.building import build
    from lowprec.wrpn.conversion import convert
    from lowprec.wrpn.exporting import export

    def settled(model: Any) -> Any:
        """With statistics in its batch normalization, so that activations have the usual spread."""
        model.train()
        with torch.no_grad():
            model(torch.rand(4, *architecture.input_shape))
        return model.eval()

    torch.manual_seed(1)
    ours = {}
    for cell in options.cells:
        widen, weight_bits, activation_bits = cell
        converted = settled(convert(build(architecture), weight_bits, activation_bits, widen))
        ours[cell] = export(converted, architecture.input_shape)
    return settled(build(architecture)), ours


def _runner(run: Callable[[], Any], batch: int) -> Callable[[], float]:
    """Run often enough to be timed; images a second."""
    run()
    start = time.perf_counter()
    run()
    repeats = max(1, int(0.02 / (time.perf_counter() - start)))

    def timed() -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        return repeats * batch / (time.perf_counter() - start)

    return timed


def _rows(
    torch: Any, architecture: Architecture, plain: Any, ours: dict[Any, Any], batch: int, threads: int, options: Options
) -> list[dict[str, Any]]:
    x = np.random.default_rng(1).random((batch, *architecture.input_shape), np.float32)
    xt = torch.from_numpy(x)

    def inferring(model: Any, x: Any) -> Callable[[], Any]:
        def run() -> Any:
            with torch.inference_mode():
                return model(x)

        return run

    with torch.no_grad():
        frozen = torch.jit.optimize_for_inference(torch.jit.trace(plain, xt))
        last = plain.to(memory_format=torch.channels_last)
        frozen_last = torch.jit.optimize_for_inference(torch.jit.trace(last, xt))
    engines = {
        "torch": inferring(plain, xt),
        "torch, frozen": inferring(frozen, xt),
        "torch, channels last": inferring(frozen_last, xt.to(memory_format=torch.channels_last)),
    }
    about = {"network": architecture.name, "batch": batch, "threads": threads}
    cases = [
        timing.Case(about | {"engine": engine, "widen": 1, "weight_bits": 32, "activation_bits": 32, "isa": options.isa},
                    _runner(run, batch), n_threads=threads)
        for engine, run in engines.items()
    ]  # fmt: skip
    for (widen, weight_bits, activation_bits), net in ours.items():
        cell = {"engine": "lowprec", "widen": widen, "weight_bits": weight_bits, "activation_bits": activation_bits, "isa": isa()}
        cell["weight_bytes"] = sum(net.nbytes.values())
        run = _runner(lambda net=net: net(x, n_threads=threads), batch)
        cases.append(timing.Case(about | cell, run, n_threads=threads))
    turns = timing.take_turns(cases, options.seconds, min_turns=5)
    fastest = max(turns[: len(engines)], key=lambda t: timing.spread(t.gnps).median)
    rows = []
    for t in turns:
        each = timing.spread([1e6 / speed for speed in t.gnps])
        ratio = timing.ratios(fastest.gnps, t.gnps)
        made: dict[str, Any] = dict.fromkeys(FIELDS)
        made |= t.about | {"table": "networks", "runs": len(t.gnps), "ratio_to": fastest.about["engine"]}
        made |= dict(zip(("microseconds", "microseconds_q1", "microseconds_q3"), each, strict=True))
        made |= dict(zip(("time_ratio", "time_ratio_q1", "time_ratio_q3"), ratio, strict=True))
        if t.probe:
            made["probe_gops"] = timing.spread(t.probe).median
        rows.append(made)
    return rows


def speed_tables(results: dict[str, Any]) -> list[Table]:
    """The results as tables, one for each network and batch."""
    made = []
    rows = results["rows"]
    for name, batch in dict.fromkeys((row["network"], row["batch"]) for row in rows):
        chosen = [row for row in rows if (row["network"], row["batch"]) == (name, batch)]
        threads = chosen[0]["threads"]
        table = Table(
            f"{name}, batch {batch}, {threads} thread{'s' if threads > 1 else ''}: time of one image",
            ["<", "wide", "W", "A", "ISA", "us", "over float32 1x", "quartiles"],
        )
        for row in chosen:
            if row["engine"] == "lowprec" and table.rows and table.rows[-1] and table.rows[-1][0] != "lowprec":
                table.rule()
            table.add(
                row["engine"], f"{row['widen']:g}x", str(row["weight_bits"]), str(row["activation_bits"]), row["isa"],
                number(row["microseconds"]), f"{row['time_ratio']:.2f}", between(row["time_ratio_q1"], row["time_ratio_q3"]),
            )  # fmt: skip
        table.notes = [f"Ratios are to the fastest of torch's, {chosen[0]['ratio_to']}, turn by turn. Networks are not trained."]
        made.append(table)
    return made
