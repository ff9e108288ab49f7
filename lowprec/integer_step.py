"""The step of the all-integer mode: what turns an example's product and its label's code into mu, in integers alone.

"The all-integer mode" in docs/architecture.md has the arithmetic. What is here are its constants, computed without rounding from
the scales, which are powers of two, and from the step size; `lowprec.train_integer` and circuits take the same.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from . import checks

__all__ = ["INTEGER_LOSSES", "IntegerStep", "integer_step"]

#: The losses of the all-integer mode.
INTEGER_LOSSES = ("squared", "logistic")

# The multiplier's largest value: 8 bits.
_MAX_MULTIPLIER = 255
# Fraction bits of the sigmoid's table, and how finely it divides its argument.
_SIGMOID_BITS, _PER_UNIT = 15, 16


@dataclass(frozen=True)
class IntegerStep:
    """The constants of one run. Make them by `integer_step`.

    Attributes
    ----------
    loss : {"squared", "logistic"}
    gradient_bits : int
        G: bits of mu, and of a label's code; also the fraction bits of a step.
    label_shift : int
        s: a label's code counts 2**s quanta of a product (logistic: 15, the table's fraction bits).
    multiplier, shift : int
        eta in [1, 255] and k: mu is the error times eta, divided by 2**k and rounded down.
    exponent : int
        c: an example adds mu * 2**c * x to a weight, in parts of 2**-gradient_bits.
    sigmoid_shift : int
        h: a product divided by 2**h is the table's index; 0 for the squared loss.
    quantum_exponent : int
        log2 of a product's quantum, data_scale * model_scale.
    """

    loss: str
    gradient_bits: int
    label_shift: int
    multiplier: int
    shift: int
    exponent: int
    sigmoid_shift: int
    quantum_exponent: int = 0

    @property
    def max_mu(self) -> int:
        """The largest magnitude of mu, and of a label's code."""
        return 2 ** (self.gradient_bits - 1) - 1

    def labels(self, y: Any) -> np.ndarray:
        """The codes of labels.

        Parameters
        ----------
        y : array_like of shape (m,)
            Squared: numbers. Logistic: -1 or 0, and 1.

        Returns
        -------
        ndarray of int64
            Rounded to nearest, halves to even; logistic: 0 and 1.
        """
        y = np.asarray(y, np.float64)
        if self.loss == "logistic":
            return (y > 0).astype(np.int64)
        return np.rint(np.ldexp(y, -self.label_shift - self.quantum_exponent)).astype(np.int64)

    def sigmoid_table(self) -> np.ndarray:
        """Entry i + 128, i in [-128, 127]: 2**15 / (1 + exp(-(i + 0.5) / 16)), rounded to nearest; int64, read-only."""
        return _sigmoid_table()

    def error(self, z: Any, label: Any) -> Any:
        """The error e of examples.

        Parameters
        ----------
        z : int or ndarray of int64
            Products.
        label : int or ndarray of int64
            Codes, see `labels`.

        Returns
        -------
        int or ndarray of int64
        """
        if self.loss == "squared":
            return label * 2**self.label_shift - z
        if self.sigmoid_shift >= 0:
            index = _clip(z >> self.sigmoid_shift, -128, 127)
        else:  # eight bits to the left are the end of the table
            index = _clip(_clip(z, -128, 127) << min(-self.sigmoid_shift, 8), -128, 127)
        sigmoid = self.sigmoid_table()[index + 128]
        return label * 2**self.label_shift - (sigmoid if isinstance(index, np.ndarray) else int(sigmoid))

    def mu(self, e: Any) -> Any:
        """mu of errors: an int for an int, however large; of int64 arrays the magnitudes must be below 2**55."""
        return _clip((e * self.multiplier) >> self.shift, -self.max_mu, self.max_mu)


@functools.cache
def _sigmoid_table() -> np.ndarray:
    # Decimal numbers are the same on every machine, and no entry comes as close to a half as they are exact.
    context = Context(prec=28, rounding=ROUND_HALF_EVEN)
    table = np.empty(256, np.int64)
    for i in range(-128, 128):
        power = context.exp(Decimal(-(2 * i + 1)) / (2 * _PER_UNIT))
        table[i + 128] = int(context.divide(2**_SIGMOID_BITS, context.add(1, power)).to_integral_value(ROUND_HALF_EVEN))
    table.flags.writeable = False
    return table


def _clip(v: Any, low: int, high: int) -> Any:
    return np.clip(v, low, high) if isinstance(v, np.ndarray) else min(max(v, low), high)


def integer_step(
    D_bits: int,
    M_bits: int,
    loss: str,
    step_size: float,
    data_scale: float,
    model_scale: float,
    largest_label: float,
    exponent: int | None = None,
) -> IntegerStep:
    """The constants of a run.

    Parameters
    ----------
    D_bits, M_bits : int
        Bits of data and model, in [2, 32]. G is 16 bits, or 32 where one of them is above 16.
    loss : {"squared", "logistic"}
    step_size : float
        A number of at most eight significant bits, such as 2**-6 or 5/1024, so that eta is at most 255; and not so large that k
        would be negative.
    data_scale, model_scale : float
        Powers of two.
    largest_label : float
        The largest magnitude of a label; without effect for the logistic loss.
    exponent : int, optional
        c, in [0, G]; None: ``max(0, M_bits - D_bits)``.

    Returns
    -------
    IntegerStep

    Raises
    ------
    ValueError
        Where a scale or the step size is not possible; the text says which is next to it.
    """
    D_bits = checks.check_int("D_bits", D_bits, minimum=2, maximum=32)
    M_bits = checks.check_int("M_bits", M_bits, minimum=2, maximum=32)
    loss = checks.check_choice("loss", loss, INTEGER_LOSSES)
    step_size = checks.check_step(step_size)
    data_scale = checks.check_power_of_two(data_scale, "data_scale")
    model_scale = checks.check_power_of_two(model_scale, "model_scale")
    largest_label = checks.check_finite_scalar("largest_label", largest_label, nonnegative=True)
    if exponent is None:
        exponent = max(0, M_bits - D_bits)
    bits = 32 if max(D_bits, M_bits) > 16 else 16
    exponent = checks.check_int("exponent", exponent, minimum=0, maximum=bits)
    quantum = Fraction(data_scale) * Fraction(model_scale)
    quantum_exponent = math.frexp(data_scale)[1] + math.frexp(model_scale)[1] - 2
    unit = Fraction(2) ** (bits - exponent)  # of the multiplier, for each unit of the step size
    if loss == "squared":
        unit *= Fraction(data_scale) ** 2
        label_shift, sigmoid_shift = _label_shift(Fraction(largest_label) / quantum, 2 ** (bits - 1)), 0
    else:
        unit *= Fraction(data_scale) / Fraction(model_scale) / 2**_SIGMOID_BITS
        label_shift, sigmoid_shift = _SIGMOID_BITS, -quantum_exponent - int(math.log2(_PER_UNIT))
    multiplier, shift = _multiplier(step_size, unit)
    return IntegerStep(loss, bits, label_shift, multiplier, shift, exponent, sigmoid_shift, quantum_exponent)


def _label_shift(largest: Fraction, limit: int) -> int:
    """The least shift that brings a label of so many quanta below the limit."""
    shift = max(0, int(largest / limit).bit_length() - 1)
    while round(largest / 2**shift) >= limit:
        shift += 1
    return shift


def _multiplier(step_size: float, unit: Fraction) -> tuple[int, int]:
    """(eta, k) of a step size; unit: what it is multiplied by to be eta / 2**k."""
    value = Fraction(step_size) * unit
    if value.numerator <= _MAX_MULTIPLIER:  # floats over powers of two: the denominator is one
        return value.numerator, value.denominator.bit_length() - 1
    if value > _MAX_MULTIPLIER:
        rule = f"must be at most {float(_MAX_MULTIPLIER / unit)!r} with these scales and this exponent"
        raise checks.wrong_value("step_size", rule, step_size)
    # What the last of eight significant bits is worth.
    last = Fraction(2) ** (value.numerator.bit_length() - value.denominator.bit_length() - 7)
    below = value // last * last
    nearest = f"{float(below / unit)!r} and {float((below + last) / unit)!r}"
    rule = f"must have at most eight significant bits, as 2**-6 and 5/1024 do; the nearest are {nearest}"
    raise checks.wrong_value("step_size", rule, step_size)
