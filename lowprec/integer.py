"""`train_integer`: training in integers alone, as a circuit does it, to the bit.

The arithmetic is "The all-integer mode" of docs/architecture.md. Python chooses scales and constants (`lowprec.integer_step`) and
drives the compiled loop over batches; a float appears nowhere between a code of the data and a code of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import checks
from .formats import ROUNDINGS, Format, Rounding
from .integer_step import INTEGER_LOSSES, IntegerStep, integer_step
from .loop import Loop, Model, TrainInfo
from .losses import loss_of
from .model_range import Problem, Range, Sample, model_of
from .preparing import prepare_data
from .quantized import QuantizedArray, _scale_of
from .sgd import Order, TrainResult, _Job
from .signature import Signature
from .sparse import SparseArray

__all__ = ["IntegerResult", "train_integer"]

_RANDOM_SOURCES = ("shared", "xorshift")
# So many quanta of a product may a label be worth, as a power of two: labels and products then fit 64 bits together.
_MAX_LABEL_SHIFT = 46


@dataclass
class IntegerResult(TrainResult):
    """What `train_integer` gives back: a `TrainResult`, and the constants of the run.

    Attributes
    ----------
    step : IntegerStep
        The constants, with `model_scale` and the data's scale all that a circuit has to be told.
    data : QuantizedArray
        The data as they were trained on; `X` itself where it was one.
    saturated : int
        Weights at the limit of the model's range at the end.
    """

    step: IntegerStep | None = None
    data: QuantizedArray | None = None


def train_integer(
    X: Any,
    y: Any,
    *,
    signature: Signature | str = "D8M8",
    loss: str = "squared",
    step_size: float,
    epochs: int = 1,
    batch_size: int = 1,
    delay: int = 0,
    rounding: str = "stochastic",
    random: str = "xorshift",
    seed: int = 0,
    shuffle: bool = False,
    data_scale: float | None = None,
    model_scale: float | None = None,
    exponent: int | None = None,
    init: Any = None,
    history: bool = False,
    callback: Callable[[TrainInfo], Any] | None = None,
) -> IntegerResult:
    """Train a linear model in integers alone, on one thread; a circuit of the same design computes the same bits.

    Like `train` with ``batch_size``, but the error of an example, its product with the step size and the gradient number mu that
    comes of them are integers of G = 16 bits, all scales are powers of two, and the model's scale stays what it is at first. See
    "The all-integer mode" in docs/architecture.md for the arithmetic and for what it costs.

    Parameters
    ----------
    X : array_like of shape (m, n) or QuantizedArray
        Examples in rows, as for `train`; dense. The scale of a QuantizedArray must be a power of two.
    y : array_like of shape (m,)
        Labels: any finite numbers for the squared loss, of which each is rounded to a code of 16 bits; {-1, +1} or {0, 1} for the
        logistic loss.
    signature : Signature or str
        D and M in {4, 8, 16}; G 16 or absent, which is the same here; no i, no C.
    loss : {"squared", "logistic"}
        The logistic function is a table of 256 numbers.
    step_size : float
        A number of at most eight significant bits, such as 2**-6 or 5/1024.
    epochs : int
        Passes over the data.
    batch_size : int
        Examples whose gradients are added up for one write of the model. The last batch of an epoch may be shorter.
    delay : {0, 1}
        1: the products of a batch are taken before the batch before it is written, as by a circuit whose three stages work on
        different batches at once. A gradient is then one batch late.
    rounding : {"stochastic", "nearest"}
        How the model is rounded when it is written.
    random : {"shared", "xorshift"}
        Source of the random words of a stochastic rounding.
    seed : int
        Of the rounding and of `shuffle`, in [0, 2**64).
    shuffle : bool
        Visit the rows in a new random order in each epoch.
    data_scale : float, optional
        Value of one data code, a power of two. None: the least with which no number is clipped; integers of the signature's own
        width are their own codes, with scale 1.
    model_scale : float, optional
        Value of one model code, a power of two. None: that of the rule in `lowprec.model_range`, rounded up, and doubled where
        `init` needs it.
    exponent : int, optional
        c: an example adds mu * 2**c * x to a weight, in parts of 2**-16 of its quantum. None: the bits that M has more than D,
        which lets one example move a weight by half of the largest code.
    init : array_like of shape (n,), optional
        Weights to start from, in the coordinates of the data, rounded to nearest; by default zeros.
    history : bool
        Compute the mean training loss after each epoch, in float64.
    callback : callable, optional
        See `train`. With ``delay=1`` what it is shown includes the write that is still to come.

    Returns
    -------
    IntegerResult

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If an argument has a wrong shape or is out of range; if a scale or the step size is not one that integers can have, in
        which case the text says which is next to it.

    Examples
    --------
    >>> import numpy as np
    >>> import lowprec as lp
    >>> X = np.random.default_rng(0).uniform(-1, 1, (4000, 8)).astype(np.float32)
    >>> y = X @ np.arange(8) / 8
    >>> r = lp.train_integer(X, y, signature="D8M16", step_size=2**-5, history=True)
    >>> print(r.signature, r.step.multiplier, r.step.shift, r.history[0] < 1e-3)
    D8M16G16 1 9 True
    """
    signature = _signature(signature)
    D, M = signature.dataset, signature.model
    assert D is not None
    assert M is not None
    checks.check_choice("loss", loss, INTEGER_LOSSES)
    step_size = checks.check_step(step_size)
    epochs = checks.check_int("epochs", epochs, minimum=1)
    batch_size = checks.check_int("batch_size", batch_size, minimum=1)
    delay = checks.check_int("delay", delay, minimum=0, maximum=1)
    checks.check_choice("rounding", rounding, ROUNDINGS)
    checks.check_choice("random", random, _RANDOM_SOURCES)
    seed = checks.check_seed(seed)
    shuffle = checks.check_bool("shuffle", shuffle)
    history = checks.check_bool("history", history)
    checks.check_callback(callback)
    x = _data(X, D, data_scale)
    m, n = x.shape
    targets = checks.check_labels(y, loss, m)
    start = None if init is None else checks.check_vector("init", init, n)
    problem = Problem(x, float(x.scale), targets, None, loss_of(loss), step_size, None)
    own_scale = _model_scale(problem, M, model_scale, start, m * epochs)
    # Labels as they were given, not as float32: they are rounded once.
    given = targets if loss == "logistic" else np.asarray(y, np.float64)
    largest = float(np.abs(given).max())
    step = integer_step(D.bits, M.bits, loss, step_size, problem.scale, own_scale, largest, exponent)
    if step.label_shift > _MAX_LABEL_SHIFT:
        rule = f"labels must be at most {2.0**(_MAX_LABEL_SHIFT + 15) * problem.scale * own_scale!r} with these scales"
        raise checks.wrong_value("y", rule, largest)
    model = model_of(np.zeros(n, np.float32) if start is None else start, M, own_scale, problem.width)
    run = problem.driver(
        model,
        random=Rounding(rounding, random).source,
        seed=seed,
        batch_size=batch_size,
        integer={
            "label": step.labels(given).astype(np.int32),
            "sigmoid": step.sigmoid_table().astype(np.int32) if loss == "logistic" else None,
            "label_shift": step.label_shift,
            "multiplier": step.multiplier,
            "shift": step.shift,
            "exponent": step.exponent,
            "sigmoid_shift": step.sigmoid_shift,
            "delay": delay,
        },
    )
    # The range is never looked at. With a write pending that must stay so, the model is looked at in memory of its own.
    loop = Loop([Model(run, problem, model, None, None, delay == 1, None)], 1, batch_size, one=True)
    job = _Job(loop, None, None, Order(seed, x, shuffle), epochs, history, None)
    job.run(step_size, callback)
    result = job.result(signature, step_size, False)
    return IntegerResult(**(vars(result) | {"saturated": run.at_limit()}), step=step, data=x)


def _signature(signature: Signature | str) -> Signature:
    """The signature with its G, if the all-integer mode has it."""
    asked = Signature(signature)
    gradient = Format(16)
    for letter, term in (("D", asked.dataset), ("M", asked.model)):
        if term is None or term.is_float:
            rule = f"the all-integer mode has {letter} in {{4, 8, 16}}"
            raise checks.wrong_value("signature", rule, str(asked))
    if asked.index is not None or asked.communication is not None or asked.gradient not in (None, gradient):
        rule = "the all-integer mode has dense data, one worker and gradient numbers of 16 bits: no i, no C, G16 or no G"
        raise checks.wrong_value("signature", rule, str(asked))
    return asked.require_runnable()._with(gradient=gradient)


def _power_of_two(scale: float) -> float:
    """The least power of two that is not below a scale."""
    mantissa, exponent = math.frexp(scale)
    return math.ldexp(0.5, exponent if mantissa == 0.5 else exponent + 1)


def _data(X: Any, D: Format, data_scale: Any) -> QuantizedArray:
    """The data as codes whose scale is a power of two."""
    if isinstance(X, SparseArray):
        raise checks.wrong_type("X", "dense data", X)
    if not isinstance(X, QuantizedArray):
        X = checks.as_2d_data(X, "X")
        if data_scale is not None:
            data_scale = checks.check_power_of_two(data_scale, "data_scale")
        elif X.dtype != D.dtype or X.dtype.kind != "i":  # as in `prepare_data`: such an array is its own codes
            data_scale = _power_of_two(_scale_of(X, D, "X"))
    x = prepare_data(X, D, data_scale)
    if isinstance(X, QuantizedArray):
        if np.ndim(x.scale):
            raise ValueError(f"X: the all-integer mode has one scale for all features; got {np.size(x.scale)} of them")
        checks.check_power_of_two(x.scale, "X.scale")
    return x


def _model_scale(problem: Problem, M: Format, given: Any, start: np.ndarray | None, n_examples: int) -> float:
    """The value of a model's code: as given, or by the rule of `lowprec.model_range`, a power of two."""
    largest = 0.0 if start is None else float(np.abs(start).max())
    if given is not None:
        scale = checks.check_power_of_two(given, "model_scale")
        if largest > scale * (M.max_code + 0.5):
            rule = f"must lie within the model's range, +-{scale * M.max_code:g}, which does not grow here"
            raise checks.wrong_value("init", rule, largest)
        return scale
    scale = _power_of_two(Range(problem, Sample(problem, n_examples), n_examples).choose(M))
    while largest > scale * (M.max_code + 0.5):
        scale *= 2.0
    return scale
