"""A layer of convolutions as what the kernels know: a filter is a model, a patch of the image is a row of data.

The products of a patch with every filter are the layer's outputs, and the gradient of a filter is the sum over all positions of
the derivative with respect to its output there, times the patch: what backward propagation through a first layer computes,
whose own input needs no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lowprec.formats import FORMATS

__all__ = ["LAYERS", "Blas", "Compiled", "Preparing", "Problem", "Shape", "patches"]


@dataclass(frozen=True)
class Shape:
    """A convolution on square images of channels last.

    Parameters
    ----------
    size, channels : int
        Of the image.
    filters, kernel : int
        How many, and their height and width.
    stride, padding : int
    """

    size: int
    channels: int
    filters: int
    kernel: int
    stride: int = 1
    padding: int = 0

    @property
    def side(self) -> int:
        """Positions of a filter in a row of the image."""
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def positions(self) -> int:
        """Outputs of a filter."""
        return self.side**2

    @property
    def n(self) -> int:
        """Numbers of a filter, and of a patch."""
        return self.kernel**2 * self.channels

    @property
    def width(self) -> int:
        """Numbers of a row in memory: a multiple of 32, which the kernels take without a remainder. The rest are zeros."""
        return -(-self.n // 32) * 32


#: The first layers that the paper names: those of Caffe's AlexNet, LeNet, and quick network for CIFAR-10.
LAYERS = {
    "AlexNet": Shape(size=227, channels=3, filters=96, kernel=11, stride=4),
    "CIFAR-10": Shape(size=32, channels=3, filters=32, kernel=5, padding=2),
    "MNIST": Shape(size=28, channels=1, filters=20, kernel=5),
}


def patches(image: np.ndarray, shape: Shape) -> np.ndarray:
    """The patches of an image as rows.

    Parameters
    ----------
    image : ndarray of shape (size, size, channels)
        Numbers or codes.
    shape : Shape

    Returns
    -------
    ndarray of shape (positions, width)
        Row by row of the image; a patch by its rows, columns and channels, then zeros.
    """
    edge = (shape.padding, shape.padding)
    padded = np.pad(image, (edge, edge, (0, 0)))
    window = (shape.kernel, shape.kernel, shape.channels)
    every = np.lib.stride_tricks.sliding_window_view(padded, window)[:: shape.stride, :: shape.stride, 0]
    rows = np.zeros((shape.positions, shape.width), image.dtype)
    rows[:, : shape.n] = every.reshape(shape.positions, shape.n)
    return rows


def _codes(numbers: np.ndarray, fmt: str, limit: float) -> tuple[np.ndarray, float]:
    """The nearest codes, of which the largest stands for `limit`, and the value of one."""
    if FORMATS[fmt].is_float:
        return numbers.astype(np.float32), 1.0
    scale = limit / FORMATS[fmt].max_code
    return np.rint(numbers / scale).astype(FORMATS[fmt].dtype), scale


class Problem:
    """A layer, an image, and the derivatives with respect to the layer's outputs, all made up: no speed depends on what they are.

    Uniform pixels in [-1, 1]; weights from a normal distribution of deviation 0.01, as Caffe's AlexNet begins; normal
    derivatives, none of them zero. The step is that with which an image changes the weights by about a thousandth of their size.

    Parameters
    ----------
    shape : Shape
    seed : int

    Attributes
    ----------
    image, weights, derivative : ndarray of float32
        Of shapes (size, size, channels), (filters, n) and (filters, positions).
    step : float
    """

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.shape = shape
        self.image = rng.uniform(-1, 1, (shape.size, shape.size, shape.channels)).astype(np.float32)
        self.weights = (0.01 * rng.standard_normal((shape.filters, shape.n))).astype(np.float32)
        self.derivative = rng.standard_normal((shape.filters, shape.positions)).astype(np.float32)
        # Of independent terms the sum over positions has sqrt(positions) times the deviation of one; of pixels it is 1 / sqrt(3).
        self.step = 1e-3 * 0.01 / np.sqrt(shape.positions / 3)

    def image_codes(self, D: str) -> tuple[np.ndarray, float]:
        """The image, and the value of a code."""
        return _codes(self.image, D, 1.0)

    def weight_codes(self, M: str) -> tuple[np.ndarray, float]:
        """The filters as rows as long as those of `patches`, and the value of a code; half the range is left to grow in."""
        codes, scale = _codes(self.weights, M, 2.0 * float(np.abs(self.weights).max()))
        rows = np.zeros((self.shape.filters, self.shape.width), codes.dtype)
        rows[:, : self.shape.n] = codes
        return rows, scale


class Compiled:
    """The layer of a problem by compiled loops; see `lowprec.report._conv.Layer`.

    Parameters
    ----------
    problem : Problem
    D, M : {"8", "16", "32f"}
    engine : {"lowprec", "compiler"}
    together : int
        Positions that a write of a filter is for.
    seed : int
        Of the rounding.
    """

    def __init__(self, problem: Problem, D: str, M: str, engine: str, together: int = 1, seed: int = 0) -> None:
        from lowprec.report._conv import Layer

        image, data_scale = problem.image_codes(D)
        self.start, model_scale = problem.weight_codes(M)
        self.weights = self.start.copy()
        self.derivative = problem.derivative
        self.outputs = np.empty_like(problem.derivative)
        self.dot_scale, self.factor = data_scale * model_scale, -problem.step * data_scale / model_scale
        rows = patches(image, problem.shape)
        self.layer = Layer(
            rows.view(np.uint8),
            self.weights.view(np.uint8),
            D,
            M,
            problem.shape.width,
            engine=engine,
            together=together,
            seed=seed,
        )

    def forward(self) -> None:
        """All outputs."""
        self.layer.forward(self.outputs, self.dot_scale)

    def backward(self) -> None:
        """One step of SGD on the filters."""
        self.layer.backward(self.derivative, self.factor)

    def reset(self) -> None:
        """Back to the weights that it began with."""
        self.weights[:] = self.start


class Blas:
    """The same in float32 by NumPy: a product of matrices each way, the sum over all positions in one go."""

    def __init__(self, problem: Problem) -> None:
        self.rows = np.ascontiguousarray(patches(problem.image, problem.shape)[:, : problem.shape.n])
        self.start, self.step = problem.weights, np.float32(problem.step)
        self.weights = self.start.copy()
        self.derivative = problem.derivative
        self.outputs = np.empty_like(problem.derivative)
        self.gradient = np.empty_like(self.weights)

    def forward(self) -> None:
        """All outputs."""
        np.matmul(self.weights, self.rows.T, out=self.outputs)

    def backward(self) -> None:
        """One step of SGD on the filters."""
        np.matmul(self.derivative, self.rows, out=self.gradient)
        self.gradient *= self.step
        self.weights -= self.gradient

    def reset(self) -> None:
        """Back to the weights that it began with."""
        self.weights[:] = self.start


class Preparing:
    """Making patches of an image of codes: what a layer has to do once for each image beside its arithmetic."""

    def __init__(self, problem: Problem, D: str) -> None:
        self.image, _ = problem.image_codes(D)
        self.shape = problem.shape

    def patches(self) -> Any:
        """The patches of the image."""
        return patches(self.image, self.shape)

    def reset(self) -> None:
        """Nothing is left behind."""
