"""The quantizers of WRPN with gradients, and the layers that use them, in PyTorch.

Forward, they give the numbers of `lowprec.wrpn.quantizers` to the bit. Backward, the gradient of rounding is the identity
(straight through) inside the clipped range, its ends included, and zero outside. Of one-bit weights the mean of \\|w\\| counts
as a constant: the gradient of ``sign(w) * mean`` is ``mean`` where \\|w\\| <= 1, and zero elsewhere. Layers hold float32
weights, which the optimizer changes, and quantize them anew in every forward pass.
"""

from __future__ import annotations

from typing import Any

from .. import checks
from .architecture import FLOAT, check_bits
from .quantizers import largest_activation, largest_weight, weight_scale, zero_fraction

torch = checks.need_extra("torch", "wrpn", "lowprec.wrpn's networks in PyTorch")

from torch import Tensor, nn  # noqa: E402 - only after its absence would have been a sentence

__all__ = [
    "QuantizedConv2d",
    "QuantizedLinear",
    "QuantizedReLU",
    "quantize_activations",
    "quantize_weights",
    "zero_fractions",
]


class _RoundWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, bits: int) -> Tensor:
        largest, clipped = largest_weight(bits), w.clamp(-1.0, 1.0)
        ctx.save_for_backward(clipped == w)
        return clipped.mul_(largest).round_().div_(largest)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None


class _SignWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor) -> Tensor:
        # The same function as everywhere else, so that no other order of summation gives another last bit.
        scale = torch.from_numpy(weight_scale(w.detach().cpu().numpy())).to(w).reshape(-1, *[1] * (w.dim() - 1))
        ctx.save_for_backward(w, scale)
        return torch.where(w >= 0, scale, -scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        w, scale = ctx.saved_tensors
        return gradient * scale * (w.abs() <= 1.0)


class _RoundActivations(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, bits: int) -> Tensor:
        largest, clipped = largest_activation(bits), a.clamp(0.0, 1.0)
        ctx.save_for_backward(clipped == a)
        return clipped.mul_(largest).round_().div_(largest)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None


def quantize_weights(w: Tensor, bits: int) -> Tensor:
    """`lowprec.wrpn.quantize_weights` with a gradient.

    Parameters
    ----------
    w : Tensor of float32, shape (channels, ...)
        More than one bit passes NaN on; with one bit it is an error.
    bits : int
        In [1, 8], or 32: `w` itself.

    Returns
    -------
    Tensor of float32, the shape of `w`
    """
    if bits == FLOAT:
        return w
    return _SignWeights.apply(w) if bits == 1 else _RoundWeights.apply(w, bits)


def quantize_activations(a: Tensor, bits: int) -> Tensor:
    """`lowprec.wrpn.quantize_activations` with a gradient.

    Parameters
    ----------
    a : Tensor of float32
        NaN is passed on.
    bits : int
        In [1, 8].

    Returns
    -------
    Tensor of float32, the shape of `a`
    """
    return _RoundActivations.apply(a, bits)


class QuantizedReLU(nn.Module):
    """Clips to [0, 1] and rounds to 2^bits levels: what a ReLU before a quantized layer becomes.

    Parameters
    ----------
    bits : int
        In [1, 8].
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = checks.check_int("bits", bits, minimum=1, maximum=8)

    def forward(self, a: Tensor) -> Tensor:
        return quantize_activations(a, self.bits)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class _Quantized:
    """What the quantized layers share.

    Attributes
    ----------
    weight_bits : int
        Of the weights, in [1, 8], or 32 for float32.
    input_bits : int
        The input is rounded to so many bits here; 32: it is taken as it comes, which is right where it has been rounded before.
    """

    weight_bits: int
    input_bits: int
    weight: nn.Parameter

    def _set_bits(self, weight_bits: int, input_bits: int) -> None:
        self.weight_bits = check_bits("weight_bits", weight_bits)
        self.input_bits = check_bits("input_bits", input_bits)

    def quantized_weight(self) -> Tensor:
        """The weights as the forward pass uses them."""
        return quantize_weights(self.weight, self.weight_bits)

    def _quantized_input(self, x: Tensor) -> Tensor:
        return x if self.input_bits == FLOAT else quantize_activations(x, self.input_bits)

    def _bits_repr(self) -> str:
        rounds = "" if self.input_bits == FLOAT else f", input_bits={self.input_bits}"
        return f", weight_bits={self.weight_bits}{rounds}"


class QuantizedConv2d(_Quantized, nn.Conv2d):
    """A convolution with quantized weights.

    Parameters
    ----------
    *args, **kwargs
        Of `torch.nn.Conv2d`.
    weight_bits : int
        In [1, 8], or 32 for float32.
    input_bits : int
        In [1, 8] to round the input too, or 32 to take it as it comes.
    """

    def __init__(self, *args: Any, weight_bits: int, input_bits: int = FLOAT, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._set_bits(weight_bits, input_bits)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(self._quantized_input(x), self.quantized_weight(), self.bias)

    def extra_repr(self) -> str:
        return super().extra_repr() + self._bits_repr()


class QuantizedLinear(_Quantized, nn.Linear):
    """A linear layer with quantized weights.

    Parameters
    ----------
    *args, **kwargs
        Of `torch.nn.Linear`.
    weight_bits : int
        In [1, 8], or 32 for float32.
    input_bits : int
        In [1, 8] to round the input too, or 32 to take it as it comes.
    """

    def __init__(self, *args: Any, weight_bits: int, input_bits: int = FLOAT, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._set_bits(weight_bits, input_bits)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self._quantized_input(x), self.quantized_weight(), self.bias)

    def extra_repr(self) -> str:
        return super().extra_repr() + self._bits_repr()


def zero_fractions(model: nn.Module) -> dict[str, float]:
    """The share of weights that round to zero, of each quantized layer.

    Parameters
    ----------
    model : Module

    Returns
    -------
    dict of str to float
        By the layer's name, in the order of the model.
    """
    return {
        name: zero_fraction(layer.weight.detach().cpu().numpy(), layer.weight_bits)
        for name, layer in model.named_modules()
        if isinstance(layer, _Quantized)
    }
