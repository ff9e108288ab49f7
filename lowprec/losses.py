"""The losses of a linear model: values and curvatures, as NumPy computes them beside the training loop.

With p = x . w (plus the intercept) and the label y:

========  =============================  ==================
name      loss                           labels
========  =============================  ==================
logistic  log(1 + exp(-y p))             -1 and +1
hinge     max(0, 1 - y p)                -1 and +1
squared   (p - y)**2 / 2                 any finite numbers
========  =============================  ==================

The derivative that training steps along is computed in the compiled core (``kernels/scalar.h``), from a table
of its own, so that it has the same bits on every machine.
"""

from __future__ import annotations

import numpy as np

from .checks import LOSSES, check_loss

__all__ = ["LOSSES", "MAX_CURVATURE", "curvature", "losses", "mean_loss"]

#: Upper bound of the second derivative in p (of the hinge: of what `curvature` takes for it).
MAX_CURVATURE = {"logistic": 0.25, "hinge": 1.0, "squared": 1.0}


def losses(name: str, p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The loss of each example, in float64.

    Parameters
    ----------
    name : {"logistic", "hinge", "squared"}
    p : array_like
        Outputs of the model.
    y : array_like
        Labels: -1 or +1 for logistic and hinge.

    Returns
    -------
    ndarray of float64
        No overflow, however large p is.
    """
    check_loss(name, "name")
    p, y = np.asarray(p, np.float64), np.asarray(y, np.float64)
    if name == "logistic":
        return np.logaddexp(0.0, -y * p)
    if name == "hinge":
        return np.maximum(0.0, 1.0 - y * p)
    return 0.5 * (p - y) ** 2


def mean_loss(name: str, p: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> float:
    """The mean loss of a set of examples, weighted where weights are given.

    Parameters
    ----------
    name : {"logistic", "hinge", "squared"}
    p : array_like
        Outputs of the model.
    y : array_like
        Labels: -1 or +1 for logistic and hinge.
    weight : array_like, optional
        Weight of each example.

    Returns
    -------
    float

    Examples
    --------
    >>> from lowprec.losses import mean_loss
    >>> mean_loss("hinge", [0.5, -2.0], [1, -1])
    0.25
    """
    return float(np.average(losses(name, p, y), weights=weight))


def curvature(name: str, derivative: np.ndarray) -> np.ndarray:
    """The second derivative in p, from the first.

    For the hinge, which has none, the first derivative's magnitude: 1 for the examples that pull. It stands
    in where the rule for the model's scale wants to know how much a coordinate matters.
    """
    check_loss(name, "name")
    size = np.abs(np.asarray(derivative, np.float64))
    if name == "logistic":
        return size * (1.0 - size)
    return size if name == "hinge" else np.ones_like(size)
