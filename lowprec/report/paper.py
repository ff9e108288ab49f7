"""The figures of De Sa et al., ISCA 2017 (doi 10.1145/3079856.3080248), that the tables show beside this machine's.

``paper.json`` has every table and series; those of the figures were read off the printed vector graphics, to about 0.5 %. It has
the losses that the authors' paper of NIPS 2015 prints too.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from importlib import resources
from typing import Any

__all__ = [
    "FIG3_THREADS",
    "MANY_THREADS",
    "ROUNDING_SERIES",
    "base_throughput",
    "compiler_ratios",
    "convolution",
    "convolution_speed",
    "distance_series",
    "earlier_losses",
    "nearest_threads",
    "published",
    "rounding_series",
    "series",
    "svm_speed",
    "thread_series",
]

#: Threads of the paper's Fig 3, and of those figures that have one number of threads.
FIG3_THREADS = (4, 8, 12, 18)
MANY_THREADS = 18

#: Fig 5b's names for the sources of random words.
ROUNDING_SERIES = {"nearest": "biased", "shared": "XORSHIFT+sharing", "xorshift": "XORSHIFT", "mt19937": "mt19937"}


@functools.cache
def published() -> dict[str, Any]:
    """Everything, as the file has it."""
    return json.loads(resources.files("lowprec.report").joinpath("paper.json").read_text(encoding="utf-8"))


def _kind(sparse: bool) -> str:
    return "sparse" if sparse else "dense"


def base_throughput(sparse: bool = False) -> dict[str, float]:
    """Table 2: GNPS of one thread, by signature (without the index's term)."""
    return {s: entry[_kind(sparse)] for s, entry in published()["table2_T1_gnps"].items()}


def compiler_ratios(sparse: bool = False) -> dict[str, float]:
    """Fig 4c: hand-written over the compiler's, a geometric mean over model sizes and threads, by signature."""
    return {s: entry[_kind(sparse)] for s, entry in published()["fig4c_speedup_over_gcc_ofast"].items()}


def series(figure: str, name: str) -> dict[int, float]:
    """A line of a figure: its values by model size, or by passes or batch size; empty where the figure has no such line."""
    return {int(x): value for x, value in published()["figures"][figure]["series"].get(name, ())}


def thread_series(signature: str, threads: int, sparse: bool = False) -> dict[int, float]:
    """GNPS by n with one of `FIG3_THREADS`; the lines of 18 threads stand in Figs 6a and 6b, of D8M16 in Figs 4a and 4b."""
    if threads != MANY_THREADS:
        return series(f"fig3_{_kind(sparse)}_t{threads}", signature)
    part = "b" if sparse else "a"
    return series(f"fig6{part}", f"{signature} pf") or series(f"fig4{part}", f"{signature} hand")


def rounding_series(random: str) -> dict[int, float]:
    """Fig 5b: GNPS by n of D16M16 with one source of random words."""
    return series("fig5b", ROUNDING_SERIES[random])


def distance_series(random: str) -> dict[int, float]:
    """Fig 5a: distance to the optimum by passes, of D16M16 with one source of random words; it has no line of the biased one."""
    return series("fig5a", ROUNDING_SERIES[random])


def svm_speed(signature: str) -> float | None:
    """Section 7: how many times as fast as with float32 the kernel SVM was trained."""
    return published()["svm_speedup_over_float"].get(signature)


def convolution(signature: str, optimized: bool) -> float | None:
    """Fig 7a: GNPS of AlexNet's first convolution, by optimized loops or by gcc's."""
    found = published()["figures"]["fig7a"]["series"].get(signature, {})
    return found.get("optimized" if optimized else "gcc", None if optimized else found.get("baseline_gcc"))


def convolution_speed(layer: str, signature: str) -> float | None:
    """Fig 7a and Section 7: how many times as fast as with float32 by gcc a first convolution is, by optimized loops."""
    if layer != "AlexNet":
        return published()["conv_speedup_mnist_cifar10"].get(signature)
    ours, base = convolution(signature, True), convolution("D32fM32f", False)
    return None if ours is None or base is None else ours / base


def earlier_losses(data: str) -> dict[str, Any]:
    """NIPS 2015: a data set's size, and its training loss by the format of the data ("D32f", "D16", "D8")."""
    return published()["nips2015"]["training_loss"][data]


def nearest_threads(threads: int, choices: Iterable[int] = FIG3_THREADS) -> int:
    """The paper's number of threads to compare `threads` with: the least that is as large, else the largest."""
    ordered = sorted(choices)
    return next((t for t in ordered if t >= threads), ordered[-1])
