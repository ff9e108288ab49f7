"""What is asked of a circuit: `Design`, and what follows from it by counting: widths and clocks.

Words: a *lane* is the arithmetic for one column, a *beat* one number for each lane in one clock, a *tile* the beats of one
batch of rows on chip, a *pass* all beats of a tile, one after the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from .. import checks
from ..integer_step import IntegerStep, integer_step
from ..signature import Signature

__all__ = ["LANES", "LOSSES", "STAGES", "WIDTHS", "Design", "Latency"]

#: Lanes that a design can have.
LANES = (4, 8, 16, 32, 64, 128)
#: Losses that there are circuits for.
LOSSES = ("squared", "logistic")
#: Bits of D and of M.
WIDTHS = tuple(range(2, 33))
#: 2: load | products, then update. 3: load | products | update, one batch late.
STAGES = (2, 3)

_MAX_COLUMNS = 1 << 20
_MAX_BATCH = 64
# Bits of a block of random words, and of one generator's state: docs/architecture.md, "Random words".
_BLOCK, _STATE = 512, 64
# Two blocks a beat are two steps of a generator in one clock; more would be the slowest path of the circuit.
_MAX_BLOCKS = 2
_MIN_BEATS = 4
#: Bits of a factor that a multiplier of 18 bits takes without a sign.
CHUNK = 17
#: Lanes that one register reaches. More of them have copies of it, one clock later.
NEAR = 32

# Bits in a row, and rows, of the shapes that a block memory of 18 Kbit can have.
_SHAPES = ((36, 512), (18, 1024), (9, 2048), (4, 4096), (2, 8192), (1, 16384))


def as_design(value: Any) -> Design:
    """A design, or a TypeError."""
    if not isinstance(value, Design):
        raise checks.wrong_type("design", "a Design", value)
    return value


def memory_shape(depth: int) -> tuple[int, int]:
    """Bits and rows of the widest block memory with so many rows; of the deepest one, where none has."""
    return next((shape for shape in _SHAPES if shape[1] >= depth), _SHAPES[-1])


def pieces(bits: int, has_sign: bool = True) -> int:
    """Factors of up to 18 bits that one of so many bits is made of."""
    return max(1, -(-(bits - has_sign) // CHUNK))


def product_levels(a: int, b: int) -> int:
    """Clocks that it takes to add up the pieces of a product of a bits with a sign, and b bits with or without."""
    return math.ceil(math.log2(pieces(a) * pieces(b, b > 8)))


@dataclass(frozen=True)
class Latency:
    """Clocks between the address of a tile's beat and what becomes of it.

    Attributes
    ----------
    product, change_product : int
        The products with the model, and with mu, are there.
    multiplier : int
        mu is stored, counted from the address of the last beat of its row in the pass of the products.
    read : int
        mu is read, counted from the address of a beat in the pass of the update; so the other offsets.
    model_read : int
        The model's address.
    words : int
        The generators step.
    model_write : int
        The model is written.
    """

    product: int
    change_product: int
    multiplier: int
    read: int
    model_read: int
    words: int
    model_write: int


@dataclass(frozen=True)
class Design:
    """A circuit for SGD on a linear model: see "Circuits" in docs/architecture.md.

    Parameters
    ----------
    signature : Signature or str
        D and M: fixed point of 2 to 32 bits. G, if it is written, must be what the circuit has: G16, or G32 where D or M has more
        than 16 bits. With up to 16 bits in {4, 8, 16}, `lowprec.train_integer` computes the same; other widths exist here and in
        `train_codes` alone.
    n : int
        Columns of the data, which is also the length of the model.
    lanes : int
        Columns in one clock, one of `LANES`.
    stages : {2, 3}
        2: a tile is loaded while the one before is computed on, first products, then update, in the same multipliers. 3: a
        tile is loaded, another one's products are taken, a third one's update is made, all at once; the update is one batch late,
        as with ``delay=1`` of `lowprec.train_integer`.
    batch_size : int
        Rows of one write of the model.
    loss : {"squared", "logistic"}
    rounding : {"stochastic", "nearest"}
    random : {"xorshift", "shared"}
        xorshift: a fresh word for each number written. shared: a block of 32 words (16 of 32 bits) for each write of the model.
    seed : int
        Of the random words, in [0, 2**64).
    step : IntegerStep, optional
        The constants of the arithmetic. None: those of data in [-1, 1), weights in [-4, 4) and a step of 2**-7, or the next
        smaller that they allow.

    Raises
    ------
    TypeError, ValueError
        If there is no such circuit; the message says what is possible.
    """

    signature: Signature | str = "D8M8"
    n: int = 1024
    lanes: int = 8
    stages: int = 3
    batch_size: int = 1
    loss: str = "squared"
    rounding: str = "stochastic"
    random: str = "xorshift"
    seed: int = 0
    step: IntegerStep | None = field(default=None)

    def __post_init__(self) -> None:
        s = self._set("signature", Signature(self.signature))
        D, M = s.dataset, s.model
        for letter, number in (("D", D), ("M", M)):
            if number is None or number.is_float or number.bits not in WIDTHS:
                rule = f"a circuit needs {letter} in fixed point of {WIDTHS[0]} to {WIDTHS[-1]} bits, as in D8M8 or D4M16"
                raise checks.wrong_value("signature", rule, str(s))
        if s.index is not None or s.communication is not None:
            rule = "there are circuits for dense data and one model alone: no i and no C term, as in D8M8"
            raise checks.wrong_value("signature", rule, str(s))
        G = 16 if max(D.bits, M.bits) <= 16 else 32
        if s.gradient is not None and (s.gradient.is_float or s.gradient.bits != G):
            rule = f"the circuit for D{D}M{M} holds its steps in {G} bits: leave G out, or write G{G}"
            raise checks.wrong_value("signature", rule, str(s))
        self._set("signature", s._with(gradient=type(D)(G)))
        self._set("n", checks.check_int("n", self.n, minimum=1, maximum=_MAX_COLUMNS))
        for name, options in (("lanes", LANES), ("stages", STAGES)):
            if self._set(name, checks.check_int(name, getattr(self, name))) not in options:
                raise checks.wrong_value(name, f"must be one of {', '.join(map(str, options))}", getattr(self, name))
        self._set("batch_size", checks.check_int("batch_size", self.batch_size, minimum=1, maximum=_MAX_BATCH))
        checks.check_choice("loss", self.loss, LOSSES)
        checks.check_choice("rounding", self.rounding, ("stochastic", "nearest"))
        checks.check_choice("random", self.random, ("xorshift", "shared"))
        self._set("seed", checks.check_seed(self.seed))
        if self.source == "xorshift" and self.lanes * G > _MAX_BLOCKS * _BLOCK:
            most = _MAX_BLOCKS * _BLOCK // G
            rule = f"with a fresh word of {G} bits for each number there are at most {most}; or take random='shared'"
            raise checks.wrong_value("lanes", rule, self.lanes)
        step = self._set("step", self._default_step() if self.step is None else self.step)
        if not isinstance(step, IntegerStep):
            raise checks.wrong_type("step", "an IntegerStep or None", step)
        if (step.loss, step.gradient_bits) != (self.loss, G):
            rule = f"must be for the {self.loss} loss and {G} bits"
            raise checks.wrong_value("step", rule, f"{step.loss}, {step.gradient_bits} bits")

    def _set(self, name: str, value: Any) -> Any:
        object.__setattr__(self, name, value)
        return value

    def _default_step(self) -> IntegerStep:
        step_size = 2.0**-7
        while True:
            try:
                return integer_step(self.D, self.M, self.loss, step_size, 2.0 ** (1 - self.D), 2.0 ** (3 - self.M), 4.0)
            except ValueError:
                step_size /= 2.0

    def with_(self, **changes: Any) -> Design:
        """A design that differs in some points; the step's constants are chosen anew where they depend on one of them."""
        if {"signature", "loss"} & set(changes):
            changes.setdefault("step", None)
        return replace(self, **changes)

    # ---- what is computed on ----

    @property
    def D(self) -> int:
        """Bits of a data code."""
        return self.signature.dataset.bits

    @property
    def M(self) -> int:
        """Bits of a model code."""
        return self.signature.model.bits

    @property
    def G(self) -> int:
        """Bits of a step mu, of a label, of a random word, and fraction bits of an update."""
        return self.signature.gradient.bits

    @property
    def source(self) -> str:
        """nearest, or the source of the random words."""
        return "nearest" if self.rounding == "nearest" else self.random

    @property
    def name(self) -> str:
        """Short and unique enough for a file: D8M8-1024x8-3-1."""
        s = f"D{self.D}M{self.M}-{self.n}x{self.lanes}-{self.stages}-{self.batch_size}"
        parts = [] if self.loss == "squared" else [self.loss]
        return "-".join([s, *parts, *([] if self.source == "xorshift" else [self.source])])

    @property
    def columns(self) -> int:
        """`n`, filled up with zero codes to whole blocks of random words and whole beats, four beats at least."""
        unit = max(_BLOCK // 16, self.lanes)
        return max(-(-self.n // unit) * unit, _MIN_BEATS * self.lanes)

    @property
    def beats(self) -> int:
        """Of a row."""
        return self.columns // self.lanes

    @property
    def tile(self) -> int:
        """Beats of a batch."""
        return self.beats * self.batch_size

    @property
    def blocks(self) -> int:
        """Of random words that a write of the model has, where each of its numbers has a word of its own."""
        return -(-self.n * self.G // _BLOCK)

    @property
    def drawn_beats(self) -> int:
        """Beats of a row for which they are drawn: the others are pads."""
        return -(-self.blocks * _BLOCK // (self.lanes * self.G))

    # ---- widths ----

    @property
    def sum_bits(self) -> int:
        """Of a row's product with the model, with its sign."""
        return (self.n * (1 << self.D - 1) * ((1 << self.M - 1) - 1)).bit_length() + 1

    @property
    def error_bits(self) -> int:
        """Of e = label - product."""
        if self.loss == "logistic":
            return 17
        return max(self.sum_bits, self.G + self.step.label_shift) + 1

    @property
    def change_bits(self) -> int:
        """Of what is added to a weight, in quanta."""
        largest = self.batch_size * ((1 << self.G - 1) - 1) * (1 << self.D - 1) << self.step.exponent
        return ((largest >> self.G) + 1).bit_length() + 1

    # ---- clocks ----

    @property
    def spread(self) -> int:
        """Clocks that mu takes, beyond one, from where it is kept to all lanes.

        With batches it is kept in a small memory, which needs a register before the registers that go into the multipliers.
        """
        return int(self.lanes > NEAR or self.batch_size > 1)

    @property
    def latency(self) -> Latency:
        """Offsets of the pipeline, in clocks."""
        operands = 3  # memory, its output register, operands
        if self.stages == 2:  # the same multipliers for both
            product = change = operands + 1 + product_levels(self.D, max(self.M, self.G))
        else:
            product, change = (operands + 1 + product_levels(self.D, bits) for bits in (self.M, self.G))
        tree, error = math.ceil(math.log2(self.lanes)), 2 if self.loss == "squared" else 4  # index, table, difference, operand
        scaled, clipped = 1 + product_levels(self.error_bits, 8), 2
        words = change + (self.batch_size > 1) - 1
        return Latency(
            product=product, change_product=change, multiplier=product + tree + 1 + error + scaled + clipped,
            read=operands - 1 - self.spread, model_read=words - 1, words=words, model_write=words + 4,
        )  # fmt: skip

    @property
    def gap(self) -> int:
        """Two stages: clocks from the last address of the products to the first one of the update."""
        t = self.latency
        return max(t.multiplier - self.batch_size + 2 - t.read, 1)

    @property
    def rest(self) -> int:
        """Two stages: clocks from the last address of the update to the first one of the next products, if a tile waits."""
        t = self.latency
        return max(t.model_read + 1, t.model_write + 1 - (self.tile - self.batch_size), 1)

    @property
    def lag(self) -> int:
        """Three stages: clocks from the first address of the products to the first one of the update of the batch before."""
        return self.latency.multiplier - self.latency.read

    @property
    def clocks(self) -> int:
        """From batch to batch, where data come as fast as they are taken."""
        if self.stages == 2:
            return 2 * self.tile - 2 + self.gap + self.rest
        return max(self.tile, self.lag + self.latency.model_write + self.batch_size)

    @property
    def efficiency(self) -> float:
        """Numbers taken in a clock, of as many as there are lanes."""
        return self.n * self.batch_size / (self.clocks * self.lanes)

    @property
    def numbers_per_clock(self) -> float:
        """Dataset numbers that are trained on in a clock; pads do not count."""
        return self.efficiency * self.lanes

    @property
    def memory_bits(self) -> int:
        """Of all tiles and copies of the model."""
        tiles, copies = (2, 1) if self.stages == 2 else (4, 2)
        return tiles * self.tile * self.lanes * self.D + copies * self.columns * self.M
