"""Earlier low-precision SGD systems and their signatures: Table 1 of De Sa et al., ISCA 2017, as data."""

from __future__ import annotations

from dataclasses import dataclass

from .signature import Signature

__all__ = ["TABLE", "PriorWork", "classify"]


@dataclass(frozen=True)
class PriorWork:
    """One row of the table.

    Parameters
    ----------
    paper : str
        Authors, and the year where the row needs it.
    signature : Signature
        How the ISCA 2017 paper classifies the system.
    note : str
        What the signature leaves unsaid.
    """

    paper: str
    signature: Signature
    note: str

    def explain(self) -> str:
        """The row in plain words, with the signature term by term."""
        return f"{self.paper} ({self.note})\n{self.signature.explain()}"


TABLE: tuple[PriorWork, ...] = (
    PriorWork(
        "Savich and Moussa",
        Signature("G18"),
        "18-bit fixed-point arithmetic for the intermediates; data and model keep full precision",
    ),
    PriorWork(
        "Seide et al.",
        Signature("G1C1s"),
        "1-bit SGD: gradients are quantized to one bit and exchanged synchronously; the quantization error "
        "is carried over to the next step and counts as model state in full precision",
    ),
    PriorWork(
        "Courbariaux et al.",
        Signature("G10"),
        "10-bit multipliers with accumulators in full precision",
    ),
    PriorWork(
        "Gupta et al.",
        Signature("D8M16"),
        "fixed-point data and weights, written with stochastic rounding",
    ),
    PriorWork(
        "De Sa et al. 2015",
        Signature("D8M8"),
        "8-bit Buckwild!: lock-free SGD on fixed-point data and model",
    ),
)


def classify(signature: Signature | str) -> tuple[PriorWork, ...]:
    """The earlier systems of which `signature`, or a variant that it stands for, is the signature.

    Parameters
    ----------
    signature : Signature or str
        What to look up. A bracketed index stands for its dense and its sparse variant.

    Returns
    -------
    tuple of PriorWork
        In the order of the table; empty if the table has no such system.

    Examples
    --------
    >>> from lowprec.prior_work import classify
    >>> [row.paper for row in classify("D8[i8]M8")]
    ['De Sa et al. 2015']
    """
    variants = Signature(signature).variants()
    return tuple(row for row in TABLE if row.signature in variants)
