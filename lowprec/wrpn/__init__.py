"""WRPN: networks of few bits made wider. See docs/wrpn.md, and Mishra et al., "WRPN: Wide Reduced-Precision Networks".

`get_architecture` gives a well-known network as a record of its nodes; `Architecture.widen` and `Architecture.counts` say what
it becomes. Nothing but NumPy is needed to import this; what needs PyTorch is looked up when it is first named, and asks for the
extra ``wrpn``.
"""

import importlib
from typing import Any

from .. import checks
from .architecture import Architecture, LayerCounts, Node, widened
from .architectures import ARCHITECTURES, get_architecture
from .cost import CONVENTIONS, Memory, compute_cost, first_order_speedup, fmas, inference_memory, training_memory
from .images import Images, load_images
from .quantizers import activation_codes, quantize_activations, quantize_weights, weight_codes, zero_fraction

#: Names whose modules are imported when one of them is first used, with the module of each.
_LATER: dict[str, str] = {
    "IntegerNetwork": "integer",
    "Layer": "layers",
    "QuantizedConv2d": "modules",
    "QuantizedLinear": "modules",
    "QuantizedReLU": "modules",
    "build": "building",
    "compare": "agreement",
    "convert": "conversion",
    "export": "exporting",
    "load_network": "training",
    "make_network": "training",
    "spread_weights": "training",
    "train_network": "training",
    "zero_fractions": "modules",
}
#: Those modules that import torch.
_NEED_TORCH = {"agreement", "building", "conversion", "exporting", "modules", "training"}

__all__ = [
    "ARCHITECTURES",
    "CONVENTIONS",
    "Architecture",
    "Images",
    "LayerCounts",
    "Memory",
    "Node",
    "activation_codes",
    "compute_cost",
    "first_order_speedup",
    "fmas",
    "get_architecture",
    "inference_memory",
    "load_images",
    "quantize_activations",
    "quantize_weights",
    "training_memory",
    "weight_codes",
    "widened",
    "zero_fraction",
    *_LATER,
]


def __getattr__(name: str) -> Any:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if module in _NEED_TORCH:
        checks.need_extra("torch", "wrpn", f"lowprec.wrpn.{name}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
