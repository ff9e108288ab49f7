"""The DMGC grammar: parse, print, explain, and say what runs.

De Sa, Feldman, Ré and Olukotun, "Understanding and Optimizing Asynchronous Low-Precision Stochastic Gradient
Descent", ISCA 2017, sort the numbers of an SGD run into four classes: dataset numbers (D), model numbers (M),
gradient numbers (G) and communication numbers (C). A signature writes down the precision of each, in bits::

    signature     := [dataset] [index] [model] [gradient] [communication]        at least one, in this order
    dataset       := "D" number
    index         := "i" integer | "[i" integer "]"
    model         := "M" number
    gradient      := "G" number
    communication := "C" number ["s"]
    number        := integer ["f"]

``f`` behind a width means floating point, without it fixed point. Terms may be separated by spaces, as tables
write them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from . import kernels as _core
from .checks import wrong_type
from .formats import Format

__all__ = ["Communication", "Index", "Signature"]


@dataclass(frozen=True, order=True)
class Index(Format):
    """Precision of the indexes of sparse data.

    Parameters
    ----------
    bits : int
        Width of an index, or of the difference between two.
    possibly : bool
        The term is in brackets: the signature stands for the dense and for the sparse variant.
    """

    possibly: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.is_float:
            raise ValueError("Index: an index is an integer, it cannot be floating point")


@dataclass(frozen=True, order=True)
class Communication(Format):
    """Precision of the numbers that workers send to each other.

    Parameters
    ----------
    bits : int
        Width in bits.
    is_float : bool
        Floating point or fixed point.
    synchronous : bool
        Workers wait for each other (subscript ``s``).
    """

    synchronous: bool = False


# In the order in which the terms must stand. The name is that of the attribute.
_TERMS = ("dataset", "index", "model", "gradient", "communication")
_LETTERS = {"D": "dataset", "i": "index", "[": "index", "M": "model", "G": "gradient", "C": "communication"}
# Formats in which kernels/batch_loop.h holds the sum of a batch's gradients.
_GRADIENTS = ("8", "16", "32f")
# Formats in which workers send numbers (kernels/codec.h), and those of them in which a gradient is held only by being sent.
_CODECS = ("1", "2", "4", "8", "16", "16f", "32f")
_SENT = ("1", "2", "4")
_DIGITS = frozenset("0123456789")
_MAX_DIGITS = 6


class _Reader:
    """One pass over the text of a signature; positions in errors count from 0."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def fail(self, expected: str, rule: str = "") -> ValueError:
        got = repr(self.text[self.at]) if self.at < len(self.text) else "the end"
        return ValueError(
            f"signature {self.text!r}: at position {self.at} expected {expected}; got {got}"
            + (f" ({rule})" if rule else "")
        )

    def skip_spaces(self) -> None:
        while self.at < len(self.text) and self.text[self.at] == " ":
            self.at += 1

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def take(self, letter: str) -> bool:
        if self.peek() != letter:
            return False
        self.at += 1
        return True

    def width(self, of: str) -> int:
        end = self.at
        while self.text[end : end + 1] in _DIGITS:
            end += 1
        digits = self.text[self.at : end]
        if not digits:
            raise self.fail(f"the width of the {of} in bits")
        if digits[0] == "0":
            raise self.fail(f"the width of the {of} in bits", "from 1 up, without leading zeros")
        if len(digits) > _MAX_DIGITS:
            raise self.fail(f"the width of the {of} in bits", f"at most {_MAX_DIGITS} digits")
        self.at = end
        return int(digits)

    def term(self, name: str) -> Format:
        """One term, read from its letter on."""
        bracketed = self.take("[")
        if bracketed and self.peek() != "i":
            raise self.fail("'i'", "only the index term can be in brackets, as in D8[i8]M8")
        self.at += 1
        bits = self.width(f"{name} numbers")
        if name == "index":
            if self.peek() == "f":
                raise self.fail(
                    "']'" if bracketed else "the next term", "an index is an integer, it takes no f"
                )
            if bracketed and not self.take("]"):
                raise self.fail("']'")
            return Index(bits, possibly=bracketed)
        is_float = self.take("f")
        if name == "communication":
            return Communication(bits, is_float, synchronous=self.take("s"))
        return Format(bits, is_float)

    def signature(self) -> dict[str, Format | None]:
        terms: dict[str, Format | None] = dict.fromkeys(_TERMS)
        done, last = 0, ""
        self.skip_spaces()
        while self.at < len(self.text):
            letter = self.peek()
            name = _LETTERS.get(letter)
            left = [t for t in ("D", "i or [i", "M", "G", "C") if _TERMS.index(_LETTERS[t[0]]) >= done]
            allowed = _join(left, "or") if left else "the end"
            if name is None:
                rule = f"write {letter.swapcase()}" if letter in tuple("dmgcI") else ""
                raise self.fail(allowed, rule)
            if terms[name] is not None:
                raise self.fail(allowed, f"there is only one {name} term")
            if _TERMS.index(name) < done:
                raise self.fail(allowed, f"the order is D, i, M, G, C: {letter} cannot follow {last}")
            terms[name] = self.term(name)
            done, last = _TERMS.index(name) + 1, letter.replace("[", "[i]")
            self.skip_spaces()
        if done == 0:
            raise self.fail("at least one of the terms D, i, M, G, C")
        return terms


def _join(words, last="and"):
    words = list(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


@functools.total_ordering
class Signature:
    """A DMGC signature: which numbers of an SGD run are held in how many bits.

    Parameters
    ----------
    text : str or Signature
        For example ``"D8M16"``, ``"D32fi32M32f"``, ``"D8[i8]M8"``, ``"G1C1s"``. Any width parses; what runs
        is said by `runnable`. Omitted D or M: those numbers have full precision. Omitted G: the gradient is
        computed as if in full precision. Omitted C: workers communicate through shared memory alone, if at
        all. How model numbers are rounded is not part of a signature.

    Attributes
    ----------
    dataset, model, gradient : Format or None
        The D, M and G terms; None where omitted.
    index : Index or None
        The i term; ``index.possibly`` if it was in brackets.
    communication : Communication or None
        The C term, with ``communication.synchronous``.

    Notes
    -----
    Signatures are immutable and hashable. They are ordered by their terms from left to right, narrow before
    wide before omitted.

    Examples
    --------
    >>> from lowprec import Signature
    >>> s = Signature("D8M16")
    >>> str(s.dataset), str(s.model), s.gradient is None, str(s)
    ('8', '16', True, 'D8M16')
    >>> print(Signature("G1C1s").explain())
    G1C1s: dense data, synchronous workers
      D absent: dataset numbers have full precision
      M absent: model numbers have full precision
      G1: gradient numbers (intermediates of one step) are 1-bit fixed point
      C1s: workers send each other 1-bit fixed point numbers, and wait for each other
    """

    __slots__ = ("_key", "communication", "dataset", "gradient", "index", "model")

    dataset: Format | None
    index: Index | None
    model: Format | None
    gradient: Format | None
    communication: Communication | None

    def __init__(self, text: str | Signature) -> None:
        if isinstance(text, Signature):
            terms = {name: getattr(text, name) for name in _TERMS}
        elif isinstance(text, str):
            terms = _Reader(text).signature()
        else:
            raise wrong_type("signature", "a string such as 'D8M8', or a Signature", text)
        self._fill(terms)

    def _fill(self, terms: dict[str, Format | None]) -> None:
        for name in _TERMS:
            object.__setattr__(self, name, terms[name])
        object.__setattr__(self, "_key", tuple(_rank(terms[name]) for name in _TERMS))

    @classmethod
    def from_formats(
        cls,
        dataset: Format | None = None,
        model: Format | None = None,
        *,
        index: Index | None = None,
        gradient: Format | None = None,
        communication: Communication | None = None,
    ) -> Signature:
        """The signature of these formats; None omits the term."""
        terms = {"dataset": dataset, "index": index, "model": model, "gradient": gradient,
                 "communication": communication}  # fmt: skip
        for name, term in terms.items():
            kind = {"index": Index, "communication": Communication}.get(name, Format)
            if term is not None and not isinstance(term, kind):
                raise wrong_type(name, f"{kind.__name__} or None", term)
        if all(term is None for term in terms.values()):
            raise ValueError("signature: at least one of the terms D, i, M, G, C must be given")
        self = cls.__new__(cls)
        self._fill(terms)
        return self

    # ---- a value ----

    def __setattr__(self, name, value):
        raise AttributeError(f"a Signature is immutable; cannot set {name!r}")

    def __delattr__(self, name):
        raise AttributeError(f"a Signature is immutable; cannot delete {name!r}")

    def __reduce__(self):
        return Signature, (str(self),)

    def __eq__(self, other):
        return self._key == other._key if isinstance(other, Signature) else NotImplemented

    def __lt__(self, other):
        return self._key < other._key if isinstance(other, Signature) else NotImplemented

    def __hash__(self):
        return hash(self._key)

    def __str__(self) -> str:
        parts = []
        if self.dataset:
            parts.append(f"D{self.dataset}")
        if self.index:
            parts.append(f"[i{self.index}]" if self.index.possibly else f"i{self.index}")
        if self.model:
            parts.append(f"M{self.model}")
        if self.gradient:
            parts.append(f"G{self.gradient}")
        if self.communication:
            parts.append(f"C{self.communication}{'s' if self.communication.synchronous else ''}")
        return "".join(parts)

    def __repr__(self) -> str:
        return f"Signature({str(self)!r})"

    # ---- what it means ----

    @property
    def is_sparse(self) -> bool:
        """Whether the data is sparse for certain: the index term is there, and not in brackets."""
        return self.index is not None and not self.index.possibly

    @property
    def gradient_is_sent(self) -> bool:
        """Whether the gradient's format is that of the messages it is sent in, and nothing else rounds it (as in G1C1s)."""
        g, c = self.gradient, self.communication
        return g is not None and c is not None and str(g) == str(c) and str(g) in _SENT

    def variants(self) -> tuple[Signature, ...]:
        """The signatures that this one stands for: dense and sparse for a bracketed index, else itself."""
        if self.index is None or not self.index.possibly:
            return (self,)
        return tuple(self._with(index=index) for index in (None, Index(self.index.bits)))

    def _with(self, **changes: Format | None) -> Signature:
        result = Signature.__new__(Signature)
        result._fill({name: getattr(self, name) for name in _TERMS} | changes)
        return result

    def explain(self) -> str:
        """The signature in plain words: a headline, then a sentence for each term."""
        if self.index is None:
            data = "dense data"
        else:
            data = "dense or sparse data" if self.index.possibly else "sparse data"
        if self.communication is None:
            workers = "no explicit communication"
        else:
            workers = "synchronous workers" if self.communication.synchronous else "asynchronous workers"
        lines = [f"{self}: {data}, {workers}"]
        for letter, noun, term in (("D", "dataset", self.dataset), ("M", "model", self.model)):
            if term:
                lines.append(f"{letter}{term}: {noun} numbers are {term.describe()}")
            else:
                lines.append(f"{letter} absent: {noun} numbers have full precision")
            if letter == "D" and self.index:
                maybe = "if the data is sparse, its indexes" if self.index.possibly else "indexes of the data"
                written = f"[i{self.index}]" if self.index.possibly else f"i{self.index}"
                lines.append(
                    f"{written}: {maybe} (or the differences between them) are {self.index}-bit integers"
                )
        if self.gradient:
            lines.append(
                f"G{self.gradient}: gradient numbers (intermediates of one step) are "
                f"{self.gradient.describe()}"
            )
        else:
            lines.append("G absent: the gradient is computed as if in full precision")
        if self.communication:
            wait = (
                ", and wait for each other"
                if self.communication.synchronous
                else ", and do not wait for each other"
            )
            subscript = "s" if self.communication.synchronous else ""
            described = self.communication.describe()
            lines.append(
                f"C{self.communication}{subscript}: workers send each other {described} numbers{wait}"
            )
        else:
            lines.append("C absent: workers share one model in memory, nothing is sent explicitly")
        return "\n  ".join(lines)

    # ---- what runs ----

    def _concrete(self, sparse: bool = False) -> Signature:
        """One variant, the dense one unless `sparse`, with D and M written out."""
        index = self.variants()[-1 if sparse else 0].index
        dataset, model = self._stored()
        return self._with(dataset=dataset, model=model, index=index)

    def _stored(self) -> tuple[Format, Format]:
        """Formats of data and model in memory: full precision is 32-bit floating point here."""
        full = Format(32, True)
        return self.dataset or full, self.model or full

    def obstacles(self, *, sparse: bool = False) -> tuple[str, ...]:
        """Why no kernel trains with this signature, a clause for each reason; empty if one does.

        Parameters
        ----------
        sparse : bool
            Which variant a bracketed index stands for.
        """
        wanted = self._concrete(sparse)
        pairs = _pairs()
        D, M = self._stored()
        reasons = []
        if str(D) not in {d for d, _ in pairs}:
            reasons.append(f"D{D} asks for {D.describe()} dataset numbers, which no kernel reads")
        if str(M) not in {m for _, m in pairs}:
            reasons.append(f"M{M} asks for {M.describe()} model numbers, which no kernel writes")
        if not reasons and (str(D), str(M)) not in pairs:
            reasons.append(f"no kernel has D{D} together with M{M}")
        if wanted.index is not None and wanted.index.bits not in _index_widths():
            reasons.append(f"i{wanted.index} asks for {wanted.index.bits}-bit indexes, which no kernel reads")
        if wanted.gradient is not None and str(wanted.gradient) not in _GRADIENTS and not wanted.gradient_is_sent:
            reasons.append(
                f"G{wanted.gradient} asks for {wanted.gradient.describe()} gradient numbers, and kernels "
                f"hold them in {_join(_GRADIENTS, 'or')}, or exactly (no G), or as they are sent (G and C both "
                f"{_join(_SENT, 'or')})"
            )
        if wanted.communication is not None and str(wanted.communication) not in _CODECS:
            reasons.append(
                f"C{wanted.communication} asks for {wanted.communication.describe()} communication numbers, and "
                f"workers send {_join(_CODECS, 'or')}"
            )
        return tuple(reasons)

    def runnable(self) -> bool:
        """Whether the kernel matrix can train with this signature, in its dense variant if there are two."""
        return not self.obstacles()

    def require_runnable(self, *, sparse: bool = False) -> Signature:
        """The signature that runs: D and M written out, of a bracketed index one variant.

        Parameters
        ----------
        sparse : bool
            Whether the data are sparse. A bracketed index is dropped if they are not, and stays, without brackets, if they
            are. Without brackets an index stays in any case.

        Raises
        ------
        ValueError
            If there is no kernel; the text says why, and what runs.
        """
        reasons = self.obstacles(sparse=sparse)
        if not reasons:
            return self._concrete(sparse)
        models: dict[str, list[str]] = {}
        for D, M in _pairs():
            models.setdefault(D, []).append(M)
        together: dict[tuple[str, ...], list[str]] = {}
        for D, Ms in models.items():
            together.setdefault(tuple(Ms), []).append(D)
        options = " or ".join(
            f"D in {{{', '.join(Ds)}}} with M in {{{', '.join(Ms)}}}" for Ms, Ds in together.items()
        )
        widths = _index_widths()
        if widths:
            options += f", sparse data with i in {{{', '.join(map(str, widths))}}}"
        if self.communication is not None:
            options += f", workers that send numbers with C in {{{', '.join(_CODECS)}}}, with or without s"
        nearest = self._nearest(sparse)
        raise ValueError(
            f"signature {self} is valid, but has no kernel: {'; '.join(reasons)}. Runnable now: {options}"
            + (f", for example {nearest}" if nearest else "")
        )

    def _nearest(self, sparse: bool) -> Signature | None:
        """A runnable signature close to this one: the same kind of numbers, and no fewer bits."""

        def distance(pair: tuple[str, str]) -> tuple:
            total = []
            for have, want in zip(pair, self._stored(), strict=True):
                is_float, bits = have.endswith("f"), int(have.rstrip("f"))
                total.append((is_float != want.is_float, bits < want.bits, abs(bits - want.bits)))
            return tuple(sum(part) for part in zip(*total, strict=True))

        pairs, wanted = _pairs(), self._concrete(sparse).index
        if not pairs:
            return None
        D, M = min(pairs, key=distance)
        widths = _index_widths() if wanted else ()
        index = f"i{next((w for w in widths if w >= wanted.bits), widths[-1])}" if widths else ""
        return Signature(f"D{D}{index}M{M}")


def _rank(term: Format | None) -> tuple:
    """A key that sorts narrow terms first and omitted ones last, and tells any two terms apart."""
    if term is None:
        return (1,)
    marks = (getattr(term, "possibly", False), getattr(term, "synchronous", False))
    return (0, term.bits, term.is_float, *marks)


def _pairs() -> tuple[tuple[str, str], ...]:
    """(D, M) of every fused step in the table: what the training loop can run on."""
    rows = _core._table(_core._active_isa())
    return tuple(dict.fromkeys((row.D, row.M) for row in rows if row.op == "axpy_dot"))


def _index_widths() -> tuple[int, ...]:
    """Bits of an index that kernels of sparse data read, narrow first."""
    rows = _core._table(_core._active_isa())
    return tuple(sorted({int(row.index) for row in rows if row.op == "saxpy"}))
