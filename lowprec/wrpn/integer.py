"""`IntegerNetwork`: a network of a few bits, run on packed integers. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import checks
from .._network import Program
from ..runtime import effective_n_threads
from . import network_file
from .layers import INPUT, Layer, Tensor, infer
from .quantizers import largest_activation

__all__ = ["IntegerNetwork"]


class IntegerNetwork:
    """A network whose layers compute with codes of a few bits, from `export` or from a file.

    Sums of codes are exact: the same on every machine and for any number of threads. docs/wrpn.md, "Integer networks", states the
    arithmetic.

    Parameters
    ----------
    layers : sequence of Layer
        In an order in which each comes after what it reads; the last gives one float32 number for each class.
    input_shape : (C, H, W)
        Of an image.
    about : dict, optional
        What is to be kept with it, as JSON has it: for example the classes.

    Attributes
    ----------
    layers : tuple of Layer
    input_shape : tuple of int
    about : dict
    shapes : dict
        What each layer gives for one image: a `Tensor` (height, width, channels, bits), by name; ``"input"`` is the first.
    nbytes : dict
        Bytes that each layer takes in a file, by name.

    Raises
    ------
    ValueError
        If the layers do not fit each other.

    Examples
    --------
    >>> import numpy as np
    >>> from lowprec.wrpn.layers import Layer
    >>> one, zero = np.float32([1]), np.float32([0])
    >>> codes = Layer(name="codes", op="affine", inputs=("input",), bits=4, scale=15 * one, shift=zero)
    >>> w = np.int8([[[[1], [-1]]]])
    >>> sums = Layer(name="sum", op="conv", inputs=("codes",), weights=w, weight_bits=2, scale=one / 15, shift=zero)
    >>> net = IntegerNetwork([codes, sums], (1, 1, 2))
    >>> net(np.float32([[[[1, 0.2]]]])).tolist()
    [[0.8000000715255737]]
    >>> net.pre_activations("sum", np.uint8([[[[9], [3]]]])).tolist()
    [[[[6]]]]
    """

    def __init__(self, layers: Sequence[Layer], input_shape: Sequence[int], about: dict[str, Any] | None = None) -> None:
        self.layers = tuple(layers)
        self.shapes = infer(self.layers, input_shape)
        height, width, channels, _ = self.shapes[INPUT]
        self.input_shape = (channels, height, width)
        self.about = dict(about or {})
        self._program = Program(self.layers, self.shapes)

    # ---- running -------------------------------------------------------------------------------------------

    def __call__(self, x: np.ndarray, n_threads: int | None = None) -> np.ndarray:
        """What the last layer gives.

        Parameters
        ----------
        x : ndarray of float32, shape (N, C, H, W)
            Images, as the network was trained on them.
        n_threads : int, optional
            By default as many as this process may use.

        Returns
        -------
        ndarray of float32, shape (N, classes)

        Raises
        ------
        TypeError
            If `x` is not float32.
        ValueError
            If its shape is not that of images of this network, or if a number of it is not finite.
        """
        threads = effective_n_threads(checks.check_n_threads(n_threads))
        return self._program.run(self._images(x), threads)

    def predict(self, x: np.ndarray, n_threads: int | None = None) -> np.ndarray:
        """The class of each image: the first of the largest numbers.

        Parameters
        ----------
        x : ndarray of float32, shape (N, C, H, W)
        n_threads : int, optional

        Returns
        -------
        ndarray of int64, shape (N,)
        """
        return self(x, n_threads).argmax(axis=1)

    def _images(self, x: Any) -> np.ndarray:
        x = checks.as_array(x, "x")
        if x.dtype != np.float32:
            raise checks.wrong_type("x", "an array of float32 in this machine's byte order", x)
        if x.ndim != 4 or x.shape[1:] != self.input_shape or not len(x):
            shape = ", ".join(map(str, self.input_shape))
            raise checks.wrong_value("x", f"must have shape (N, {shape}), N at least 1", f"shape {x.shape}")
        if not np.isfinite(x).all():
            raise checks.wrong_value("x", "every value must be finite", f"{x[~np.isfinite(x)][0]}")
        return np.require(x, requirements=("C", "ALIGNED"))

    # ---- looking inside ------------------------------------------------------------------------------------

    def tensors(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """What every layer gives.

        Parameters
        ----------
        x : ndarray of float32, shape (N, C, H, W)

        Returns
        -------
        dict
            By name: uint8 codes or float32, shape (N, height, width, channels); ``"input"`` is `x` in that order.
        """
        x = self._images(x)
        return {INPUT: np.ascontiguousarray(x.transpose(0, 2, 3, 1)), **self._program.run_all(x)}

    def pre_activations(self, name: str, codes: np.ndarray) -> np.ndarray:
        """The sums of one convolution, before scale, shift and residual.

        Parameters
        ----------
        name : str
            Of a conv.
        codes : ndarray of uint8, shape (N, height, width, channels)
            What it is fed. Of a layer that reads float32: float32.

        Returns
        -------
        ndarray of int32, shape (N, height, width, channels)
            Exact. Of a layer that reads float32: float32.
        """
        name = checks.check_choice("name", name, [layer.name for layer in self.layers if layer.op == "conv"])
        layer = next(layer for layer in self.layers if layer.name == name)
        given = [self._fed(layer, codes)]
        # A residual is no part of the sums, unless it is what the layer reads.
        given += [
            given[0] if other == layer.inputs[0] else np.zeros((len(codes), *self.shapes[other][:3]), _dtype(self.shapes[other]))
            for other in layer.inputs[1:]
        ]
        return self._program.run_layer(name, given)[0]

    def _fed(self, layer: Layer, a: Any) -> np.ndarray:
        tensor = self.shapes[layer.inputs[0]]
        dtype = _dtype(tensor)
        if not isinstance(a, np.ndarray) or a.dtype != dtype:
            raise checks.wrong_type("codes", f"an array of {dtype}, which layer {layer.name!r} reads", a)
        if a.ndim != 4 or a.shape[1:] != tensor[:3] or not len(a):
            shape = ", ".join(map(str, tensor[:3]))
            raise checks.wrong_value("codes", f"must have shape (N, {shape}), N at least 1", f"shape {a.shape}")
        if tensor.bits is not None and a.max() > largest_activation(tensor.bits):
            rule = f"must lie in [0, {largest_activation(tensor.bits)}], of {tensor.bits} bits"
            raise checks.wrong_value("codes", rule, int(a.max()))
        return np.ascontiguousarray(a)

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes that each layer takes in a file, by name."""
        return {layer.name: layer.nbytes for layer in self.layers}

    def summary(self) -> str:
        """The layers as a table: what each reads and gives, its bits, and its bytes in a file."""
        rows = [("layer", "op", "reads", "gives", "bits", "weights", "bits", "bytes")]
        for layer in self.layers:
            shape, w = self.shapes[layer.name], layer.weights
            gives = (f"{shape.channels} x {shape.height} x {shape.width}", _bits(layer.bits))
            weights = ("", "") if w is None else (" x ".join(map(str, w.shape)), _bits(layer.weight_bits))
            rows.append((layer.name, layer.op, " ".join(layer.inputs), *gives, *weights, str(layer.nbytes or "")))
        rows.append(("sum", "", "", "", "", "", "", str(sum(self.nbytes.values()))))
        widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)

    def __repr__(self) -> str:
        return f"IntegerNetwork({len(self.layers)} layers, input_shape={self.input_shape}, {sum(self.nbytes.values())} bytes)"

    def __eq__(self, other: object) -> bool:
        """Whether all layers are the same, numbers to the bit."""
        if not isinstance(other, IntegerNetwork):
            return NotImplemented
        return (self.layers, self.input_shape) == (other.layers, other.input_shape)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return IntegerNetwork, (self.layers, self.input_shape, self.about)

    # ---- files ---------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a file, which is replaced at once or not at all: safetensors, weights packed at their true bits.

        Parameters
        ----------
        path : str or path-like
            Usually ``NAME.safetensors``.

        Raises
        ------
        ImportError
            If safetensors is not installed.
        """
        network_file.save(path, self.layers, self.input_shape, self.about)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> IntegerNetwork:
        """Read a network that `save` wrote. Nothing in the file is executed.

        Parameters
        ----------
        path : str or path-like

        Returns
        -------
        IntegerNetwork
            With the bits that were saved.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is cut short, changed, no network of lowprec, or was written by a newer version.
        ImportError
            If safetensors is not installed.
        """
        layers, input_shape, about = network_file.load(path)
        try:
            return cls(layers, input_shape, about)
        except (ValueError, TypeError) as error:
            raise checks.bad_file(os.fspath(path), f"its layers do not fit each other ({error})") from None


def _dtype(tensor: Tensor) -> np.dtype:
    return np.dtype(np.float32 if tensor.bits is None else np.uint8)


def _bits(bits: int | None) -> str:
    return "float32" if bits is None else str(bits)
