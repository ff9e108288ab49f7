"""The rows of `lowprec wrpn tables`: the paper's costs and shares of memory, counted again from the architectures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from lowprec.report.files import header
from lowprec.report.wrpn.paper import agrees, cells, published
from lowprec.wrpn.architectures import ARCHITECTURES, get_architecture
from lowprec.wrpn.cost import CONVENTIONS, compute_cost, first_order_speedup, fmas, inference_memory, training_memory

__all__ = ["ALEXNET", "BN_INCEPTION", "FIELDS", "RESNET34", "recompute"]

#: Every row has these fields, in this order; docs/results-schema.md says what they mean.
FIELDS = (
    "table",
    "network",
    "name",
    "widen",
    "weight_bits",
    "activation_bits",
    "batch",
    "value",
    "printed",
    "agrees",
    "convention",
    *CONVENTIONS,
    "top1",
    "fmas",
    "parameters",
    "fma_ratio",
    "cells",
    "why",
)

#: The networks of the tables.
ALEXNET, RESNET34, BN_INCEPTION = "alexnet", "resnet-34-preact", "bn-inception"
_ALEXNETS = [name for name in ARCHITECTURES if name.startswith("alexnet")]

# The paper's names of the networks of Fig 1. Of Inception-ResNet-v2 there is no architecture here.
_FIG1 = {"AlexNet": ALEXNET, "Inception-ResNet-v2": None, "ResNet-50": "resnet-50", "ResNet-101": "resnet-101"}
_MEMORY = {"train": ("training", training_memory), "infer": ("inference", inference_memory)}
# A bar of a plot is read to about 3 %.
_READING = 0.03


def _row(table: str, **fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = dict.fromkeys(FIELDS)
    made |= {"table": table} | fields
    unknown = set(made) - set(FIELDS)
    if unknown:
        raise KeyError(f"not fields of the results: {sorted(unknown)}")
    return made


def _costs(network: str, weight_bits: int, activation_bits: int, widen: float) -> dict[str, float]:
    return {c: compute_cost(network, weight_bits, activation_bits, widen=widen, convention=c) for c in CONVENTIONS}


def _cost_row(
    table: str, network: str, weight_bits: int, activation_bits: int, widen: float, convention: str, printed: float | None,
    decimals: int, why: str | None = None, **fields: Any,
) -> dict[str, Any]:  # fmt: skip
    costs = _costs(network, weight_bits, activation_bits, widen)
    same = None if printed is None else agrees(costs[convention], printed, decimals)
    return _row(
        table, network=network, widen=widen, weight_bits=weight_bits, activation_bits=activation_bits, value=costs[convention],
        printed=printed, agrees=same, convention=convention, why=None if same is None or same else why, **costs, **fields,
    )  # fmt: skip


def _networks() -> Iterator[dict[str, Any]]:
    for name in ARCHITECTURES:
        architecture = get_architecture(name)
        for widen in (1, 2, 3):
            wide = architecture.widen(widen)
            ratio = compute_cost(architecture, 32, 32, widen=widen)
            yield _row(
                "networks", network=name, widen=widen, fmas=fmas(wide), parameters=wide.parameters(), fma_ratio=ratio
            )  # fmt: skip


def _accuracies() -> Iterator[dict[str, Any]]:
    """Tables 1 and 2: the accuracies as printed, with the cost of the same cell, which Table 3 prints for 2x alone."""
    for table, widen, key in (("table1", 1, "table1_alexnet_1x_top1"), ("table2", 2, "table2_alexnet_2x_top1")):
        for weight_bits, activation_bits, top1 in cells(key):
            yield _cost_row(table, ALEXNET, weight_bits, activation_bits, widen, "uniform", None, 1, top1=top1)


def _table3() -> Iterator[dict[str, Any]]:
    for weight_bits, activation_bits, printed in cells("table3_alexnet_2x_compute_cost"):
        yield _cost_row("table3", ALEXNET, weight_bits, activation_bits, 2, "uniform", printed, 1)


def _alexnets() -> Iterator[dict[str, Any]]:
    """How many cells of Table 3 each AlexNet gives, by each convention."""
    printed = list(cells("table3_alexnet_2x_compute_cost"))
    for name in _ALEXNETS:
        for convention in CONVENTIONS:
            same = [agrees(compute_cost(name, w, a, widen=2, convention=convention), value, 1) for w, a, value in printed]
            ratio = compute_cost(name, 32, 32, widen=2, convention=convention)
            yield _row("alexnets", network=name, widen=2, convention=convention, fma_ratio=ratio, cells=sum(same))


def _table4() -> Iterator[dict[str, Any]]:
    printed = published()["table4_resnet34"]
    wide = [row for row in printed if row["width"] == 2]
    slope, constant = np.polyfit([(row["a"] + row["w"]) / 64 for row in wide], [row["cost"] for row in wide], 1)
    # What the first and the last layer cost at 2x in float32: float_ends less the same formula without them.
    before = get_architecture(RESNET34)
    after = before.widen(2).counts()
    ends = (after[0].fmas + after[-1].fmas) / fmas(before)
    why = (
        f"The printed costs at 2x are about {slope:.2f} (a + w) / 64 + {constant:.3f}: a part of them does not go with the bits, "
        f"as of layers that are not quantized. The first and the last layer in float32 would cost {ends:.3f}, in 8 bits "
        f"{ends / 4:.3f}, and the printed cost of 1 bit at 1x has no such part: none of the three rules gives all cells."
    )
    for row in printed:
        yield _cost_row("table4", RESNET34, row["w"], row["a"], row["width"], "uniform", row["cost"], 2, why, top1=row["top1"])


def _table5() -> Iterator[dict[str, Any]]:
    for row in published()["table5_bn_inception"]:
        bits = row["w"], row["a"]
        yield _cost_row("table5", BN_INCEPTION, *bits, row["width"], "quantized", row["cost"], 2, top1=row["top1"])


def _text() -> Iterator[dict[str, Any]]:
    """What the paper's sentences say of costs, in percent."""
    for row in published()["text"]["alexnet_2x_cost_percent"]:
        value = 100 * compute_cost(ALEXNET, row["w"], row["a"], widen=2)
        same = agrees(value, row["percent"], 0)
        why = "The paper's conclusion says it of 0.4, the cell of Table 3, which has one decimal."
        yield _row(
            "text", network=ALEXNET, name="compute cost, %", widen=2, weight_bits=row["w"], activation_bits=row["a"], value=value,
            printed=row["percent"], agrees=same, convention="uniform", why=None if same else why,
        )  # fmt: skip
    least = published()["text"]["activation_percent_of_training_from_batch_128"]
    for network in ("resnet-50", "resnet-101"):
        share = 100 * training_memory(network, 128).activation_share
        why = "The shares of Fig 1 come out; what follows from them for a batch of 128 is just below."
        yield _row(
            "text", network=network, name="activations in training, more than, %", batch=128, value=share, printed=least,
            agrees=share > least, why=None if share > least else why,
        )  # fmt: skip


def _fig3b() -> Iterator[dict[str, Any]]:
    for row in published()["fig3b_first_order_speedup"]:
        value = first_order_speedup(row["w"], row["a"])
        same = abs(value - row["speedup"]) <= _READING * value
        yield _row(
            "fig3b", name=row["name"], weight_bits=row["w"], activation_bits=row["a"], value=value, printed=row["speedup"],
            agrees=same,
        )  # fmt: skip


def _fig1() -> Iterator[dict[str, Any]]:
    for paper_name, bars in published()["fig1_activation_share_percent"].items():
        network = _FIG1[paper_name]
        for bar, printed in bars.items():
            phase, batch = bar.split("_bs")
            name, memory_of = _MEMORY[phase]
            value = same = None
            why = "There is no such architecture here."
            if network is not None:
                memory = memory_of(network, int(batch))
                value = 100 * memory.activation_share
                same = agrees(value, printed, 1)
                weights, share = memory_of(network).weights / 1e6, bars[f"{phase}_bs1"] / 100
                most = max(one.activations + one.gradients for one in map(memory_of, _ALEXNETS)) / 1e6
                needed = share / (1 - share) * weights
                why = (
                    f"{100 * share:.1f} % beside {weights:.1f} M weights would be {needed:.0f} M numbers for one image; by the "
                    f"definition no AlexNet here has more than {most:.1f} M."
                )
            yield _row(
                "fig1", network=network or paper_name, name=name, batch=int(batch), value=value, printed=printed, agrees=same,
                why=None if same else why,
            )  # fmt: skip


def recompute() -> dict[str, Any]:
    """Count everything again.

    Returns
    -------
    dict
        The results as docs/results-schema.md describes them.
    """
    begin = time.perf_counter()
    rows = [
        row for part in (_table3, _alexnets, _table4, _table5, _fig1, _fig3b, _text, _accuracies, _networks) for row in part()
    ]  # fmt: skip
    results = header("wrpn tables", {})
    results["rows"] = rows
    results["seconds"] = time.perf_counter() - begin
    return results
