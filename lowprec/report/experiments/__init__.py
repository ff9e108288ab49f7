"""``lowprec experiment``: the statistical results of the paper, found again here, and beside the paper's own figures.

One module an experiment. Each has ``FULL`` and ``QUICK``, the options; ``measure(options, progress)``, which returns the
results as docs/results-schema.md describes them; and ``tables`` and ``figures``, which show them. ``common`` is what they share,
``plots`` their kind of plot. Where ``KEEPS`` is true, ``measure`` takes a ``folder`` too, for what lets a stopped command go on.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["EXPERIMENTS", "load"]

#: Every experiment, and what it shows.
EXPERIMENTS = {
    "rounding": "Fig 5a: distance to the optimum after each pass, by how the model is rounded",
    "minibatch": "Fig 6e: distance to the optimum after 10 passes, by the size of a mini-batch",
    "svm": "Figs 7d, 7e: SVMs on random Fourier features of MNIST, loss and error by pass",
    "conv": "Fig 7a: convolutions, forward and backward, at several precisions",
    "lenet": "Fig 7b: LeNet's test error by the bits of its model",
    "defaults": "The estimators with nothing set, beside scikit-learn's SGD tuned, on real data",
    "precision": "What 16, 8 and 4 bits of D, M and G cost in training loss on real data",
    "wrpn": "Accuracy of a network by its bits and its width: Tables 1 and 2 of WRPN, in small",
    "communication": "What 1 to 32 bits of C cost in training loss, and save in bytes and in time",
}


def load(name: str) -> Any:
    """The module of an experiment; only then is what it needs imported."""
    return importlib.import_module(f"{__name__}.{name}")
