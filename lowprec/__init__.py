"""Low-precision stochastic gradient descent for linear models.

Everyday names are here: `quantize`, `dequantize`, `QuantizedArray`, `dot`, `axpy`, `train`, `Signature`.
The kernels are importable from `lowprec.kernels` by name, and ``lowprec.kernels()`` lists them.
`lowprec.linear_model` has the scikit-learn estimator, `lowprec.datasets` reads data files.
"""

import importlib

from . import kernels
from .formats import Format
from .runtime import cpu_features, isa
from .signature import Signature

__version__ = "0.1.0"
_HOMES = {
    "QuantizedArray": "quantized",
    "dequantize": "quantized",
    "from_codes": "quantized",
    "pack": "quantized",
    "quantize": "quantized",
    "axpy": "ops",
    "dot": "ops",
    "train": "sgd",
}


def __getattr__(name):
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Format", "Signature", "cpu_features", "isa", "kernels"]
