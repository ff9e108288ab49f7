"""Linear models trained on low-precision numbers: the DMGC kernels, quantized arrays, and the training loop."""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_HOMES = {
    "Signature": "signature",
    "QuantizedArray": "quantized",
    "dequantize": "quantized",
    "from_codes": "quantized",
    "pack": "quantized",
    "quantize": "quantized",
    "axpy": "ops",
    "dot": "ops",
    "train": "sgd",
    "cpu_features": "runtime",
    "isa": "runtime",
}


def __getattr__(name):
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
