"""Networks as records: nodes that know their operation and inputs, shapes, counts, the same network wider. No weights, no torch.

Shapes leave the batch out: (channels, height, width) of a map, (features,) of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import checks

__all__ = ["FLOAT", "INPUT", "OPS", "Architecture", "LayerCounts", "Node", "check_bits", "packed_bytes", "widened"]

#: What a node names that reads the network's input.
INPUT = "input"
#: Bits that mean float32, not quantized.
FLOAT = 32

_REQUIRED = object()
# Attributes of each operation with their defaults.
_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "conv": {"channels": _REQUIRED, "kernel": _REQUIRED, "stride": 1, "padding": 0, "groups": 1, "bias": False},
    "linear": {"features": _REQUIRED, "bias": True},
    "batch_norm": {},
    "relu": {},
    "max_pool": {"kernel": _REQUIRED, "stride": None, "padding": 0, "ceil": False},
    "average_pool": {"kernel": _REQUIRED, "stride": None, "padding": 0},
    "global_average_pool": {},
    "add": {},
    "concat": {},
    "flatten": {},
    "dropout": {"p": 0.5},
}
#: Operations that a node can have.
OPS = tuple(_ATTRIBUTES)
#: Operations with weights.
_LAYERS = ("conv", "linear")
# Operations that have to have a map as their input.
_OF_MAPS = ("conv", "max_pool", "average_pool", "global_average_pool")


def check_bits(name: str, value: Any) -> int:
    """A number of bits: 1 to 8, or 32 for float32."""
    bits = checks.check_int(name, value)
    if not (1 <= bits <= 8 or bits == FLOAT):
        raise checks.wrong_value(name, f"must lie in [1, 8], or be {FLOAT} for float32", bits)
    return bits


def widened(channels: int, factor: float) -> int:
    """Channels of a layer made wider: ``round(channels * factor)``, halves to even, and at least 1."""
    return max(1, round(channels * factor))


def packed_bytes(elements: int, bits: int) -> int:
    """Bytes of so many numbers with nothing between them."""
    return -(-elements * bits // 8)


@dataclass(frozen=True, init=False)
class Node:
    """One operation of a network.

    Parameters
    ----------
    name : str
        Words of letters, digits and underscores with dots between them. A dot stands for a module inside another.
    op : str
        conv, linear, batch_norm, relu, max_pool, average_pool, global_average_pool, add, concat, flatten or dropout.
    inputs : str or sequence of str
        The nodes that it reads, or "input".
    **attributes
        conv: channels, kernel, stride=1, padding=0, groups=1, bias=False. linear: features, bias=True. max_pool: kernel,
        stride=kernel, padding=0, ceil=False, as torch means them; average_pool: the same without ceil, and padding counts as
        zeros. dropout: p=0.5. kernel, stride and padding are one number or (y, x), and are held as (y, x).
        ``node["kernel"]`` reads one.

    Raises
    ------
    TypeError, ValueError
        For an operation or attribute that there is not, one that is missing, or a value that it cannot have.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: dict[str, Any]

    def __init__(self, name: str, op: str, inputs: str | Iterable[str], **attributes: Any) -> None:
        if not isinstance(name, str):
            raise checks.wrong_type("name", "the name of a node", name)
        if not all(word.isascii() and word.replace("_", "a").isalnum() for word in name.split(".")):
            raise checks.wrong_value("name", "must be words of letters, digits and _, with dots between them", name)
        if name == INPUT:
            raise checks.wrong_value("name", "must not be the name of the network's input", name)
        checks.check_choice(f"op of {name}", op, OPS)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "op", op)
        object.__setattr__(self, "inputs", (inputs,) if isinstance(inputs, str) else tuple(inputs))
        if len(self.inputs) != 1 and op not in ("add", "concat"):
            raise checks.wrong_value(f"inputs of {name}", f"{op} reads one node", f"{len(self.inputs)} of them")
        if (op == "add" and len(self.inputs) != 2) or (op == "concat" and len(self.inputs) < 2):
            rule = "add reads two nodes" if op == "add" else "concat reads two nodes or more"
            raise checks.wrong_value(f"inputs of {name}", rule, f"{len(self.inputs)} of them")
        object.__setattr__(self, "attributes", self._checked(attributes))

    def __getitem__(self, attribute: str) -> Any:
        return self.attributes[attribute]

    @property
    def is_layer(self) -> bool:
        """Whether it has weights to quantize: conv and linear."""
        return self.op in _LAYERS

    def replaced(self, **attributes: Any) -> Node:
        """The node with other attributes."""
        return Node(self.name, self.op, self.inputs, **{**self.attributes, **attributes})

    def _checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        known = _ATTRIBUTES[self.op]
        for attribute in given:
            if attribute not in known:
                possible = f"{self.op} has {', '.join(known) or 'none'}"
                raise checks.wrong_value(f"attributes of {self.name}", possible, attribute)
        values = {**known, **given}
        missing = [attribute for attribute, value in values.items() if value is _REQUIRED]
        if missing:
            rule = f"{self.op} needs {' and '.join(missing)}"
            raise checks.wrong_value(f"attributes of {self.name}", rule, ", ".join(given) or "none")
        if values.get("stride", 1) is None:
            values["stride"] = values["kernel"]
        checked = {}
        for attribute, value in values.items():
            label = f"{attribute} of {self.name}"
            if attribute in ("kernel", "stride", "padding"):
                pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
                if len(pair) != 2:
                    raise checks.wrong_value(label, "must be one number or (y, x)", value)
                value = tuple(checks.check_int(label, v, minimum=0 if attribute == "padding" else 1) for v in pair)
            elif attribute in ("channels", "features", "groups"):
                value = checks.check_int(label, value, minimum=1)
            elif attribute in ("bias", "ceil"):
                value = checks.check_bool(label, value)
            else:
                value = checks.check_finite_scalar(label, value, nonnegative=True)
                if value > 1:
                    raise checks.wrong_value(label, "must lie in [0, 1]", value)
            checked[attribute] = value
        return checked


@dataclass(frozen=True)
class LayerCounts:
    """What one conv or linear takes.

    Attributes
    ----------
    name : str
    op : str
    input_shape, output_shape : tuple of int
    filters : int
        Channels, or features, of the output.
    kernel, stride : tuple of int
        (y, x); (1, 1) of linear.
    weight_bits, activation_bits : int
        Of its weights, and of what it reads. 32: float32.
    weights, biases : int
        Numbers it has.
    parameters : int
        Both together.
    fmas : int
        Multiplications with an addition each, for one image.
    weight_bytes : int
        Of its weights, packed.
    activation_bytes : int
        Of what it reads, for one image, packed.
    cost : int
        The paper's compute cost: FMAs times the sum of both bits.
    """

    name: str
    op: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    filters: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    weight_bits: int
    activation_bits: int
    weights: int
    biases: int
    fmas: int

    @property
    def parameters(self) -> int:
        return self.weights + self.biases

    @property
    def weight_bytes(self) -> int:
        return packed_bytes(self.weights, self.weight_bits)

    @property
    def activation_bytes(self) -> int:
        return packed_bytes(math.prod(self.input_shape), self.activation_bits)

    @property
    def cost(self) -> int:
        return self.fmas * (self.weight_bits + self.activation_bits)


@dataclass(frozen=True)
class Architecture:
    """A network as a graph of nodes, in the order in which they run; the last node is its output.

    Parameters
    ----------
    name : str
    input_shape : tuple of int
        (channels, height, width) of one image.
    nodes : sequence of Node
        Each reads nodes before it, or "input".

    Raises
    ------
    TypeError, ValueError
        For a name that stands twice, an input that there is not, or shapes that do not fit; the message names the node.
    """

    name: str
    input_shape: tuple[int, ...]
    nodes: tuple[Node, ...]
    _shapes: dict[str, tuple[int, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise checks.wrong_type("name", "the name of an architecture", self.name)
        try:
            shape = tuple(self.input_shape)
        except TypeError:
            raise checks.wrong_type("input_shape", "(channels, height, width)", self.input_shape) from None
        if len(shape) != 3:
            raise checks.wrong_value("input_shape", "must be (channels, height, width)", self.input_shape)
        shape = tuple(checks.check_int("input_shape", n, minimum=1) for n in shape)
        nodes = tuple(self.nodes)
        for node in nodes:
            if not isinstance(node, Node):
                raise checks.wrong_type("nodes", "Nodes", node)
        if not nodes or not any(node.is_layer for node in nodes):
            raise checks.wrong_value("nodes", "there must be a conv or linear", ", ".join(node.name for node in nodes) or "none")
        shapes = {INPUT: shape}
        for node in nodes:
            if node.name in shapes:
                raise checks.wrong_value("nodes", "every name must stand once", node.name)
            for source in node.inputs:
                if source not in shapes:
                    raise checks.wrong_value(f"inputs of {node.name}", f"must be {INPUT} or nodes before it", source)
            shapes[node.name] = _output_shape(node, [shapes[source] for source in node.inputs])
        for name in shapes:
            if any(other.startswith(name + ".") for other in shapes):
                raise checks.wrong_value("nodes", "a name with a dot must not begin with the name of another node", name)
        object.__setattr__(self, "input_shape", shape)
        object.__setattr__(self, "nodes", nodes)
        object.__setattr__(self, "_shapes", shapes)

    def __getitem__(self, name: str) -> Node:
        """The node of that name."""
        checks.check_choice("name", name, [node.name for node in self.nodes])
        return next(node for node in self.nodes if node.name == name)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every node's output, and of "input", without the batch."""
        return dict(self._shapes)

    @property
    def layers(self) -> tuple[Node, ...]:
        """The nodes with weights, conv and linear, in the order in which they run. The first and the last are not quantized."""
        return tuple(node for node in self.nodes if node.is_layer)

    @property
    def quantized(self) -> tuple[str, ...]:
        """Names of the layers that are quantized: all but the first and the last."""
        return tuple(node.name for node in self.layers[1:-1])

    def parameters(self) -> int:
        """Numbers that training learns: weights, biases, and two for each channel of a batch normalization."""
        return sum(count.parameters for count in self.counts()) + 2 * self.normalized_channels()

    def normalized_channels(self) -> int:
        """Channels of all batch normalizations together."""
        return sum(self._shapes[node.name][0] for node in self.nodes if node.op == "batch_norm")

    def widen(self, factor: float) -> Architecture:
        """The network with ``round(channels * factor)`` channels in every conv, and features in every linear, but the last layer.

        Depth, kernels and input stay.

        Parameters
        ----------
        factor : float
            More than 0; 2 is the paper's "2x wide", 1.3 its "1.3x wide".

        Raises
        ------
        ValueError
            If grouped channels are no multiple of their groups any more; the message names the layer.
        """
        factor = checks.check_finite_scalar("widen", factor, positive=True)
        if factor == 1:
            return self
        last = self.layers[-1].name
        nodes = []
        for node in self.nodes:
            if node.is_layer and node.name != last:
                size = "channels" if node.op == "conv" else "features"
                node = node.replaced(**{size: widened(node[size], factor)})
            nodes.append(node)
        return Architecture(f"{self.name}-{factor:g}x", self.input_shape, tuple(nodes))

    def counts(self, weight_bits: int = FLOAT, activation_bits: int = FLOAT) -> list[LayerCounts]:
        """What each conv and linear takes, in the order in which they run.

        Parameters
        ----------
        weight_bits, activation_bits : int
            1 to 8, or 32 for float32. The first and the last layer keep 32.
        """
        weight_bits, activation_bits = check_bits("weight_bits", weight_bits), check_bits("activation_bits", activation_bits)
        quantized = set(self.quantized)
        counts = []
        for node in self.layers:
            source, result = self._shapes[node.inputs[0]], self._shapes[node.name]
            is_conv = node.op == "conv"
            kernel, stride = (node["kernel"], node["stride"]) if is_conv else ((1, 1), (1, 1))
            weights = result[0] * math.prod(kernel) * source[0] // (node["groups"] if is_conv else 1)
            narrow = node.name in quantized
            counts.append(
                LayerCounts(
                    name=node.name, op=node.op, input_shape=source, output_shape=result, filters=result[0], kernel=kernel,
                    stride=stride, weight_bits=weight_bits if narrow else FLOAT,
                    activation_bits=activation_bits if narrow else FLOAT, weights=weights,
                    biases=result[0] if node["bias"] else 0, fmas=weights * math.prod(result[1:]),
                )
            )  # fmt: skip
        return counts


def _output_shape(node: Node, sources: list[tuple[int, ...]]) -> tuple[int, ...]:
    shape = sources[0]
    if node.op in _OF_MAPS and len(shape) != 3:
        raise checks.wrong_value(f"input of {node.name}", f"{node.op} reads a map of (channels, height, width)", f"shape {shape}")
    if node.op == "conv":
        groups = node["groups"]
        for what, channels in (("reads", shape[0]), ("has", node["channels"])):
            if channels % groups:
                rule = f"{node.name} works in {groups} groups, so the channels it {what} must be a multiple of {groups}"
                raise checks.wrong_value("channels", rule, channels)
        return node["channels"], *_window(node, shape)
    if node.op in ("max_pool", "average_pool"):
        return shape[0], *_window(node, shape)
    if node.op == "linear":
        if len(shape) != 1:
            raise checks.wrong_value(f"input of {node.name}", "linear reads a vector; flatten before it", f"shape {shape}")
        return (node["features"],)
    if node.op == "global_average_pool":
        return (shape[0],)
    if node.op == "flatten":
        return (math.prod(shape),)
    if node.op == "add":
        if sources[1] != shape:
            raise checks.wrong_value(f"inputs of {node.name}", "add reads two of one shape", f"{shape} and {sources[1]}")
    elif node.op == "concat":
        if any(other[1:] != shape[1:] for other in sources):
            shown = ", ".join(map(str, sources))
            raise checks.wrong_value(f"inputs of {node.name}", "concat reads maps of one height and width", shown)
        return sum(other[0] for other in sources), *shape[1:]
    return shape


def _window(node: Node, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Height and width of what a window moves over a map."""
    result = []
    for size, kernel, stride, padding in zip(shape[1:], node["kernel"], node["stride"], node["padding"], strict=True):
        room = size + 2 * padding - kernel
        if room < 0:
            rule = f"its window of {kernel} must fit {size} and a padding of {padding} on either side"
            raise checks.wrong_value(f"kernel of {node.name}", rule, kernel)
        if node.op == "conv" or not node.attributes.get("ceil"):
            result.append(room // stride + 1)
            continue
        # As in torch: a window that hangs over the end is taken if it begins inside the map or its left padding.
        n = -(-room // stride) + 1
        result.append(n - 1 if (n - 1) * stride >= size + padding else n)
    return tuple(result)
