"""``wrpn.json``: the printed numbers of Mishra et al., WRPN (arXiv 1709.01134), which the tables show beside those counted."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from fractions import Fraction
from importlib import resources
from typing import Any

__all__ = ["accuracy", "agrees", "cells", "published"]

# The tables that print accuracies of a network: those that are a matrix, by width, and those that are a list.
_MATRICES = {"alexnet": {1.0: "table1_alexnet_1x_top1", 2.0: "table2_alexnet_2x_top1"}}
_LISTS = {"resnet-34": "table4_resnet34", "resnet-34-preact": "table4_resnet34", "bn-inception": "table5_bn_inception"}


@functools.cache
def published() -> dict[str, Any]:
    """Everything, as the file has it."""
    return json.loads(resources.files("lowprec.report").joinpath("wrpn.json").read_text(encoding="utf-8"))


def cells(table: str) -> Iterator[tuple[int, int, float]]:
    """Weight bits, activation bits and the number in that cell, of a table that is a matrix."""
    for weight_bits, row in published()[table].items():
        for activation_bits, value in row.items():
            yield int(weight_bits), int(activation_bits), value


def agrees(value: float, printed: float, decimals: int) -> bool:
    """Whether a value may have been printed so with that many decimals; a tie may have been rounded either way."""
    return abs(Fraction(value) - Fraction(str(printed))) <= Fraction(1, 2 * 10**decimals)


def accuracy(network: str, widen: float, weight_bits: int, activation_bits: int) -> float | None:
    """The printed top-1 accuracy in percent of one of the architectures, by its name; None where none is printed."""
    if network in _MATRICES:
        table = published().get(_MATRICES[network].get(widen, ""), {})
        return table.get(str(weight_bits), {}).get(str(activation_bits))
    for row in published()[_LISTS[network]] if network in _LISTS else ():
        if (row["width"], row["w"], row["a"]) == (widen, weight_bits, activation_bits):
            return row["top1"]
    return None
