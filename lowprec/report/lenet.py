"""LeNet with 8-bit data and a model of any number of bits, simulated: training it, and its test error. Needs torch.

PyTorch computes everything in float32. What makes it D8Mx is that whatever a layer multiplies its weights with has been rounded
to 8 bits, and that weights lie on a grid of 2^x - 1 points at all times: every write rounds them to it, at random and without
bias.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lowprec.wrpn.images import Images

__all__ = ["Setting", "as_tensors", "network", "ranges", "round_data", "test_error", "train", "write"]

#: Images that are classified at once.
_TEST_BATCH = 1000


@dataclass(frozen=True)
class Setting:
    """How a network is trained: plain SGD on the cross entropy, a constant step, a new random order in each pass.

    Parameters
    ----------
    iterations : int
        Mini-batches.
    batch_size : int
    step_size : float
        Of the mean gradient of a mini-batch.
    data_bits : int
        Of a layer's inputs.
    """

    iterations: int
    batch_size: int
    step_size: float
    data_bits: int = 8


class _Round(torch.autograd.Function):
    """Rounding to nearest, whose derivative is taken to be 1."""

    @staticmethod
    def forward(ctx, numbers, largest):
        scale = numbers.abs().max().clamp_(min=1e-30) / largest
        return torch.round(numbers / scale).mul_(scale)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def round_data(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """The nearest of 2^bits - 1 numbers that lie symmetrically about zero, up to the largest of the tensor."""
    return _Round.apply(numbers, 2 ** (bits - 1) - 1)


def write(weights: torch.Tensor, change: torch.Tensor, limit: float, bits: int, generator: torch.Generator) -> None:
    """``weights += change`` in place, on the grid of a fixed-point model.

    Parameters
    ----------
    weights, change : Tensor
    limit : float
        What the largest code, 2^(bits - 1) - 1, stands for; what goes beyond is set to it.
    bits : int
    generator : torch.Generator
        One uniform number u in [0, 1) for each weight, which becomes the code floor(weight / quantum + u).
    """
    largest = 2 ** (bits - 1) - 1
    quantum = limit / largest
    u = torch.rand(weights.shape, generator=generator)
    weights.add_(change).div_(quantum).add_(u).floor_().clamp_(-largest, largest).mul_(quantum)


def network(shape: tuple[int, int, int], classes: int, generator: torch.Generator) -> nn.Sequential:
    """Caffe's LeNet: 20 and 50 filters of 5 x 5, each with max pooling, 500 hidden units, of which alone negatives are cut off.

    Weights are uniform as in Glorot and Bengio 2010, biases zero.

    Parameters
    ----------
    shape : tuple of int
        Channels, height and width of an image.
    classes : int
    generator : torch.Generator
    """
    height, width = (((side - 4) // 2 - 4) // 2 for side in shape[1:])
    made = nn.Sequential(
        nn.Conv2d(shape[0], 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(50 * height * width, 500),
        nn.ReLU(),
        nn.Linear(500, classes),
    )
    for layer in _weighted(made):
        nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
    return made.to(memory_format=torch.channels_last)


def _weighted(model: nn.Sequential) -> list[nn.Module]:
    """The layers that have weights, in order."""
    return [layer for layer in model if isinstance(layer, (nn.Conv2d, nn.Linear))]


def ranges(model: nn.Sequential) -> list[float]:
    """The largest weight of each layer."""
    return [float(layer.weight.detach().abs().max()) for layer in _weighted(model)]


def as_tensors(pixels, labels) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of bytes as numbers in [0, 1], of which 8 bits are all there is, and their labels."""
    numbers = torch.tensor(pixels, dtype=torch.float32).div_(255.0)
    return numbers.contiguous(memory_format=torch.channels_last), torch.tensor(labels)


def _outputs(model: nn.Sequential, images: torch.Tensor, data_bits: int) -> torch.Tensor:
    """The network's outputs; the images have their bits already."""
    numbers = images
    for k, layer in enumerate(model):
        if k > 0 and isinstance(layer, (nn.Conv2d, nn.Linear)):
            numbers = round_data(numbers, data_bits)
        numbers = layer(numbers)
    return numbers


def train(
    data: Images,
    setting: Setting,
    *,
    seed: int,
    bits: int | None = None,
    limits: Sequence[float] = (),
    stop: threading.Event | None = None,
) -> nn.Sequential:
    """Train from the beginning.

    Parameters
    ----------
    data : Images
    setting : Setting
    seed : int
        Of the first weights and the orders, which are the same for every number of bits, and of the rounding.
    bits : int, optional
        Of the weights; None: float32. Biases are float32, as the intercept of `lowprec.train` is float64.
    limits : sequence of float
        What the weights of each layer are kept within.
    stop : threading.Event, optional
        Once it is set, training ends.
    """
    generator, rounding = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 2**32)
    images, labels = as_tensors(data.x, data.y)
    model = network(data.shape, data.classes, generator)
    layers = _weighted(model)
    if bits is not None:
        with torch.no_grad():
            for layer, limit in zip(layers, limits, strict=True):
                write(layer.weight, torch.zeros_like(layer.weight), limit, bits, rounding)
    order, at, size = torch.randperm(len(images), generator=generator), 0, setting.batch_size
    for _ in range(setting.iterations):
        if stop is not None and stop.is_set():
            break
        if at + size > len(images):
            order, at = torch.randperm(len(images), generator=generator), 0
        batch = order[at : at + size]
        at += size
        model.zero_grad()
        cross_entropy(_outputs(model, images[batch], setting.data_bits), labels[batch]).backward()
        with torch.no_grad():
            for k, layer in enumerate(layers):
                layer.bias.sub_(layer.bias.grad, alpha=setting.step_size)
                change = layer.weight.grad.mul_(-setting.step_size)
                if bits is None:
                    layer.weight.add_(change)
                else:
                    write(layer.weight, change, limits[k], bits, rounding)
    return model


def test_error(model: nn.Sequential, data: Images, setting: Setting) -> float:
    """Share of the test images that are misclassified."""
    images, labels = as_tensors(data.test_x, data.test_y)
    wrong = 0
    with torch.no_grad():
        for part, truth in zip(images.split(_TEST_BATCH), labels.split(_TEST_BATCH), strict=True):
            wrong += int((_outputs(model, part, setting.data_bits).argmax(dim=1) != truth).sum())
    return wrong / len(labels)
