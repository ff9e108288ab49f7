"""Whether an integer network and the torch network that it was exported from give the same classes; and where they do not, why.

Both compute the same real numbers, with float32 roundings in other places. So a code can differ only where the real number
that is rounded lies as close to a tie as these roundings reach. `compare` follows the torch network with a bound on them: a
sum of n products is off by at most n u / (1 - n u) times the sum of their magnitudes, u = 2^-24 (N. Higham, "Accuracy and
Stability of Numerical Algorithms", Section 3.1); every other operation adds a few u of its operands' magnitudes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from .. import checks
from .architecture import FLOAT
from .conversion import LAYERS, Step, read_graph, trace
from .exporting import export_steps
from .integer import IntegerNetwork
from .modules import quantize_activations
from .quantizers import largest_activation

torch = checks.need_extra("torch", "wrpn", "lowprec.wrpn.compare")

from torch import Tensor, fx, nn  # noqa: E402 - only after its absence would have been a sentence

__all__ = ["Comparison", "Difference", "compare"]

_U = 2.0**-24
# Roundings of one product beside those of the sum: two operands that are quotients, the product, the scale and its product, and
# the sum's own conversion from int32.
_OF_A_PRODUCT = 6
# Roundings, each relative to the largest operand, of a batch normalization or its folded form, and of an addition.
_OF_A_NORM, _OF_AN_ADDITION = 10, 4
# Images at a time.
_MANY = 256


@dataclass(frozen=True)
class Difference:
    """An image to which the two networks give different codes or classes.

    Attributes
    ----------
    image : int
        Its index.
    classes : tuple of int
        The torch network's class, and the integer network's.
    layer : str
        The first whose codes differ; the last, where no codes differ and the outputs are rounded differently.
    codes : int
        How many codes of that layer differ.
    distance : float
        How far the torch network's real number is from the tie between both codes, in codes; of the code for which this is most
        of its bound. Of the last layer: between the outputs of both classes.
    bound : float
        How far roundings may have moved that number in both networks together.
    """

    image: int
    classes: tuple[int, int]
    layer: str
    codes: int
    distance: float
    bound: float

    @property
    def at_tie(self) -> bool:
        """Whether roundings explain it."""
        return self.distance <= self.bound


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes
    ----------
    images : int
        How many were compared.
    same_classes : int
        To how many both give the same class.
    same_codes : int
        To how many both give the same codes in every layer.
    classes : ndarray of int64
        Those of the torch network.
    differences : list of Difference
        One of each image whose class differs, or with ``every_code`` of each image any of whose codes does.
    """

    images: int
    same_classes: int
    same_codes: int
    classes: np.ndarray = field(repr=False)
    differences: list[Difference]


def compare(model: nn.Module, network: IntegerNetwork, x: np.ndarray, *, every_code: bool = False) -> Comparison:
    """Run both networks on images, and find for each difference the first layer in which it shows.

    Parameters
    ----------
    model : Module
        What `network` was exported from; it runs in evaluation mode.
    network : IntegerNetwork
    x : ndarray of float32, shape (N, C, H, W)
    every_code : bool
        Look also at images whose class is the same, but not all codes.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If `network` is not what `export` makes of `model`.
    """
    graph = trace(model)
    steps = read_graph(graph)
    exported, places = export_steps(steps, network.input_shape)
    if exported != network:
        raise checks.wrong_value("network", "must be what export makes of model, to the bit", repr(network))
    followed = _Followed(graph, steps, places)
    was_training = model.training
    graph.eval()
    try:
        with torch.no_grad():
            parts = [_compare(followed, places, network, x[i : i + _MANY], i, every_code) for i in range(0, len(x), _MANY)]
    finally:
        graph.train(was_training)
    same_classes, same_codes, classes, differences = zip(*parts, strict=True)
    return Comparison(len(x), sum(same_classes), sum(same_codes), np.concatenate(classes), list(chain(*differences)))


def _compare(
    followed: _Followed, places: dict[str, str], network: IntegerNetwork, x: np.ndarray, first: int, every_code: bool
) -> tuple[int, int, np.ndarray, list[Difference]]:
    """How many images of a batch have the same class, how many the same codes, torch's classes, and the differences."""
    theirs = followed.follow(x)
    ours = network.tensors(x)
    last = network.layers[-1].name
    mine = ours[last].reshape(len(x), -1)
    classes = np.stack([theirs.argmax(axis=1), mine.argmax(axis=1)], axis=1)
    same_class = classes[:, 0] == classes[:, 1]
    wrong = {name: _as_maps(r.codes, ours[places[name]]) != ours[places[name]] for name, r in followed.rounded.items()}
    same_codes = ~np.any([w.any(axis=(1, 2, 3)) for w in wrong.values()], axis=0) if wrong else np.ones(len(x), bool)
    chosen = np.flatnonzero(~same_class | (~same_codes & every_code))
    if len(chosen):
        # The same batch again, so that every number is the same; now with its bound.
        followed.follow(x, with_bounds=True)
    differences = []
    for k in chosen:
        image, pair = first + int(k), (int(classes[k, 0]), int(classes[k, 1]))
        name = next((name for name, w in wrong.items() if w[k].any()), None)
        if name is None:
            gap = float(np.float64(theirs[k, pair[0]]) - theirs[k, pair[1]])
            bound = 2 * float(followed.bounds_of_output[k, list(pair)].sum())
            differences.append(Difference(image, pair, last, 0, gap, bound))
        else:
            layer, where = places[name], wrong[name][k]
            distance, bound = followed.rounded[name].from_tie(k, ours[layer], where)
            differences.append(Difference(image, pair, layer, int(where.sum()), distance, bound))
    return int(same_class.sum()), int(same_codes.sum()), classes[:, 0], differences


def _as_maps(a: np.ndarray, like: np.ndarray) -> np.ndarray:
    """What torch has as (N, C, H, W), or flat, in the shape of (N, H, W, C)."""
    n, height, width, channels = like.shape
    return a.reshape(n, channels, height, width).transpose(0, 2, 3, 1)


class _Rounded:
    """The real numbers of a place that rounds to codes, and how far roundings may have moved them."""

    def __init__(self, real: Tensor, bits: int, bound: Tensor | None) -> None:
        self.largest = largest_activation(bits)
        self.real = real.numpy()
        self.bound = None if bound is None else bound.numpy()
        self.codes = np.rint(quantize_activations(real, bits).numpy() * np.float32(self.largest)).astype(np.uint8)

    def from_tie(self, k: int, ours: np.ndarray, where: np.ndarray) -> tuple[float, float]:
        """Of image k the distance to the nearest number that our code stands for, and its bound: of the worst code."""
        assert self.bound is not None
        real, bound, codes = (_as_maps(a, ours)[k][where].astype(np.float64) for a in (self.real, self.bound, self.codes))
        mine = ours[k][where].astype(np.float64)
        scaled = real * self.largest
        distance = np.abs(scaled - (mine + np.where(mine < codes, 0.5, -0.5)))
        # Both networks' roundings, and those of the product with the largest code.
        allowed = 2 * bound * self.largest + 4 * _U * np.abs(scaled)
        worst = np.argmax(distance / allowed)
        return float(distance[worst]), float(allowed[worst])


class _Followed(fx.Interpreter):
    """The torch network, with what it rounds to codes, and with a bound on the error of each of its numbers.

    The bound is on the difference to what exact arithmetic gives for the same codes: behind a place that rounds it is zero. It
    holds for the integer network's roundings too, whatever is folded into what.
    """

    def __init__(self, graph: fx.GraphModule, steps: list[Step], places: Collection[str]) -> None:
        super().__init__(graph)
        self._steps, self._places = {step.node: step for step in steps}, places
        self._bounds: dict[fx.Node, Tensor] | None = None
        self.rounded: dict[str, _Rounded] = {}
        self.bounds_of_output = np.empty(0)

    def follow(self, x: np.ndarray, *, with_bounds: bool = False) -> np.ndarray:
        """What the network gives."""
        self.rounded = {}
        self._bounds = {} if with_bounds else None
        result: Tensor = self.run(torch.from_numpy(np.ascontiguousarray(x)))
        return result.reshape(len(x), -1).numpy()

    def run_node(self, n: fx.Node) -> Any:
        step = self._steps[n]
        inputs = [self.env[node] for node in step.inputs]
        bounds = None if self._bounds is None else [self._bounds[node] for node in step.inputs]
        bits = getattr(step.module, "input_bits", FLOAT)
        if step.kind == "quantized_relu":
            self._round(step.name, inputs[0], step.module.bits, bounds)
        elif step.kind in LAYERS and bits != FLOAT:
            self._round(f"{step.name}.input", inputs[0], bits, bounds)
        result = super().run_node(n)
        if bounds is not None:
            self._bounds[n] = self._bound(step, inputs, bounds, result)
        return result

    def _round(self, place: str, real: Tensor, bits: int, bounds: list[Tensor] | None) -> None:
        if place in self._places:  # otherwise another layer has rounded the same numbers
            self.rounded[place] = _Rounded(real, bits, bounds and bounds[0])

    def _bound(self, step: Step, inputs: list[Tensor], bounds: list[Tensor], result: Tensor) -> Tensor:
        kind, module = step.kind, step.module
        if kind == "output":
            self.bounds_of_output = bounds[0].reshape(len(bounds[0]), -1).numpy()
            return bounds[0]
        if kind in ("input", "quantized_relu"):
            return torch.zeros_like(result, dtype=torch.float64)
        if kind in ("relu", "dropout", "identity"):
            return bounds[0]
        if kind in LAYERS:
            return self._bound_of_sums(module, inputs[0], bounds[0])
        sizes = [x.double().abs() for x in inputs]
        if kind == "batch_norm":
            return _bound_of_norm(module, sizes[0], bounds[0])
        if kind == "add":
            return bounds[0] + bounds[1] + _OF_AN_ADDITION * _U * (sizes[0] + sizes[1])
        if kind in ("average_pool", "global_average_pool"):
            count = inputs[0][0, 0].numel() if kind == "global_average_pool" else np.prod(np.broadcast_to(module.kernel_size, 2))
            return module(bounds[0]) + _gamma(int(count)) * module(sizes[0])
        # Numbers are only chosen or moved: so are their bounds.
        if kind == "concat":
            return torch.cat(bounds, 1)
        return module(bounds[0]) if module is not None else bounds[0].flatten(1)

    def _bound_of_sums(self, layer: nn.Module, x: Tensor, bound: Tensor) -> Tensor:
        if getattr(layer, "input_bits", FLOAT) != FLOAT:
            x, bound = quantize_activations(x, layer.input_bits), torch.zeros_like(bound)
        w = (layer.quantized_weight() if hasattr(layer, "quantized_weight") else layer.weight).double().abs()
        x = x.double().abs() + bound
        added = 0.0 if layer.bias is None else layer.bias.double().abs().reshape(-1, *[1] * (w.dim() - 2))
        gamma = _gamma(w[0].numel())
        if isinstance(layer, nn.Linear):
            return nn.functional.linear(gamma * x + bound, w) + _OF_AN_ADDITION * _U * (nn.functional.linear(x, w) + added)
        sums = layer._conv_forward(gamma * x + bound, w, None)
        return sums + _OF_AN_ADDITION * _U * (layer._conv_forward(x, w, None) + added)


def _gamma(n: int) -> float:
    """n products: how far their sum may be off, over the sum of their magnitudes."""
    n += _OF_A_PRODUCT
    return n * _U / (1 - n * _U)


def _bound_of_norm(norm: nn.Module, size: Tensor, bound: Tensor) -> Tensor:
    shape = (1, -1, *[1] * (size.dim() - 2))
    factor = 1 / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = norm.running_mean.double().abs() * factor
    if norm.affine:
        factor, shift = factor * norm.weight.double().abs(), shift * norm.weight.double().abs() + norm.bias.double().abs()
    factor, shift = factor.reshape(shape), shift.reshape(shape)
    return bound * factor + _OF_A_NORM * _U * ((size + bound) * factor + shift)
