"""The losses of a linear model: values, derivatives and curvatures.

With p = x . w (plus the intercept) and the label y:

====================  =========================================================  ===================
name                  loss                                                       labels
====================  =========================================================  ===================
logistic              log(1 + exp(-y p))                                         -1 and +1
hinge                 max(0, 1 - y p)                                            -1 and +1
squared_hinge         max(0, 1 - y p)**2                                         -1 and +1
modified_huber        max(0, 1 - y p)**2, or -4 y p where y p < -1               -1 and +1
squared               (p - y)**2 / 2                                             any finite numbers
huber                 (p - y)**2 / 2, or epsilon (abs(p - y) - epsilon / 2)      any finite numbers
                      where abs(p - y) > epsilon
epsilon_insensitive   max(0, abs(p - y) - epsilon)                               any finite numbers
quantile              q (y - p) where p < y, else (1 - q) (p - y)                any finite numbers
====================  =========================================================  ===================

They are the losses of these names of scikit-learn's `SGDClassifier` and `SGDRegressor`, and its `QuantileRegressor`'s. The
derivative that training steps along is computed in the compiled core (``kernels/scalar.h``): that of the logistic loss
from a table of its own, so that it has the same bits on every machine; all others are piecewise linear in
r = 1 - y p or r = y - p, so a loss is five numbers (`Derivative`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from . import kernels as _core
from .checks import LOSSES, RESIDUAL_LOSSES, check_loss

__all__ = ["LOSSES", "MARGIN_LOSSES", "MAX_CURVATURE", "Derivative", "Loss", "curvature", "loss_of", "losses", "mean_loss"]

#: Losses whose labels are -1 and +1.
MARGIN_LOSSES = tuple(name for name in LOSSES if name not in RESIDUAL_LOSSES)


class Derivative(NamedTuple):
    """A loss as the compiled core takes it: the derivative in p is -v y (kind "margin") or -v ("residual").

    v = `high` where r > `above`, `low` where r < `below`, `slope` times r between; r = 1 - y p or y - p.
    """

    kind: str
    above: float = math.inf
    high: float = 0.0
    below: float = -math.inf
    low: float = 0.0
    slope: float = 0.0


class Loss(NamedTuple):
    """A loss and its parameter.

    Attributes
    ----------
    name : str
        One of `LOSSES`.
    parameter : float
        epsilon of huber and epsilon_insensitive, q of quantile; 0 elsewhere.
    """

    name: str
    parameter: float = 0.0

    @property
    def margin(self) -> bool:
        """Whether labels are -1 and +1."""
        return self.name in MARGIN_LOSSES

    @property
    def derivative(self) -> Derivative:
        """What the training loop computes."""
        t = self.parameter
        return {
            "logistic": Derivative("logistic"),
            "hinge": Derivative("margin", above=0.0, high=1.0, below=0.0),
            "squared_hinge": Derivative("margin", below=0.0, slope=2.0),
            "modified_huber": Derivative("margin", above=2.0, high=4.0, below=0.0, slope=2.0),
            "squared": Derivative("residual", slope=1.0),
            "huber": Derivative("residual", above=t, high=t, below=-t, low=-t, slope=1.0),
            "epsilon_insensitive": Derivative("residual", above=t, high=1.0, below=-t, low=-1.0),
            "quantile": Derivative("residual", above=0.0, high=t, below=0.0, low=t - 1.0),
        }[self.name]

    @property
    def bounded_residual(self) -> bool:
        """Whether labels are numbers of any unit, and the derivative stays bounded however far off the outputs are."""
        return not self.margin and math.isfinite(self.derivative.above)

    @property
    def max_curvature(self) -> float:
        """Upper bound of the second derivative in p (of a loss with corners: of what `curvature` takes for it)."""
        if self.name == "logistic":
            return 0.25
        return max(self.derivative.slope, 1.0)

    def values(self, p: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The loss of each example, in float64; see `losses`."""
        p, y = np.asarray(p, np.float64), np.asarray(y, np.float64)
        t = self.parameter
        if self.name == "logistic":
            return np.logaddexp(0.0, -y * p)
        if self.margin:
            r = np.maximum(0.0, 1.0 - y * p)
            if self.name == "hinge":
                return r
            return np.where(r > 2.0, 4.0 * (r - 1.0), r * r) if self.name == "modified_huber" else r * r
        r = y - p
        if self.name == "squared":
            return 0.5 * r * r
        if self.name == "quantile":
            return np.where(r > 0.0, t * r, (t - 1.0) * r)
        size = np.abs(r)
        if self.name == "huber":
            return np.where(size > t, t * (size - 0.5 * t), 0.5 * r * r)
        return np.maximum(0.0, size - t)

    def derivatives(self, p: np.ndarray, y: np.ndarray) -> np.ndarray:
        """d loss / d p of each example, in float64, to the bit what the training loop computes."""
        return _core._loss_derivatives(self.derivative, np.ascontiguousarray(p, np.float64), np.ascontiguousarray(y, np.float32))

    def curvature(self, derivative: np.ndarray) -> np.ndarray:
        """The second derivative in p, from the first; see `curvature`."""
        size = np.abs(np.asarray(derivative, np.float64))
        if self.name == "logistic":
            return size * (1.0 - size)
        form = self.derivative
        if form.slope == 0.0:
            return size
        inside = size > 0.0 if form.kind == "margin" else np.ones(size.shape, bool)
        if math.isfinite(form.above):  # beyond, the loss is a line: a tenth of the curvature keeps a pull measurable
            return np.where(inside, np.where(size >= form.high, 0.1 * form.slope, form.slope), 0.0)
        return np.where(inside, form.slope, 0.0)


#: Upper bounds of the second derivatives, see `Loss.max_curvature`.
MAX_CURVATURE = {name: Loss(name).max_curvature for name in LOSSES}


def losses(name: str, p: np.ndarray, y: np.ndarray, *, epsilon: float = 0.1, quantile: float = 0.5) -> np.ndarray:
    """The loss of each example, in float64.

    Parameters
    ----------
    name : str
        One of `LOSSES`.
    p : array_like
        Outputs of the model.
    y : array_like
        Labels: -1 or +1 for the losses of `MARGIN_LOSSES`.
    epsilon : float
        Of huber and epsilon_insensitive.
    quantile : float
        Of the quantile loss, between 0 and 1.

    Returns
    -------
    ndarray of float64
        No overflow where the loss is linear, however large p is.
    """
    return loss_of(name, epsilon, quantile, "name").values(p, y)


def loss_of(name: str, epsilon: float = 0.1, quantile: float = 0.5, argument: str = "loss") -> Loss:
    """A loss by its name, with the parameter that it has."""
    check_loss(name, argument)
    return Loss(name, {"huber": epsilon, "epsilon_insensitive": epsilon, "quantile": quantile}.get(name, 0.0))


def mean_loss(name: str, p: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None, **parameters: float) -> float:
    """The mean loss of a set of examples, weighted where weights are given.

    Parameters
    ----------
    name : str
        One of `LOSSES`.
    p : array_like
        Outputs of the model.
    y : array_like
        Labels: -1 or +1 for the losses of `MARGIN_LOSSES`.
    weight : array_like, optional
        Weight of each example.
    **parameters : float
        `epsilon` and `quantile`, as for `losses`.

    Returns
    -------
    float

    Examples
    --------
    >>> from lowprec.losses import mean_loss
    >>> mean_loss("hinge", [0.5, -2.0], [1, -1])
    0.25
    """
    return float(np.average(losses(name, p, y, **parameters), weights=weight))


def curvature(name: str, derivative: np.ndarray) -> np.ndarray:
    """The second derivative in p, from the first.

    For a loss of straight pieces, which has none, the first derivative's magnitude: 1 for the examples of the hinge that pull. It
    stands in where the rule for the model's scale wants to know how much a coordinate matters.
    """
    return loss_of(name, argument="name").curvature(derivative)
