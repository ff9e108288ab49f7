"""Low-precision stochastic gradient descent for linear models.

Everyday names are here: `quantize`, `dequantize`, `QuantizedArray`, `SparseArray`, `dot`, `axpy`, `train`, `train_integer`,
`Signature`; data on disk: `write_store`, `open_store`; models on disk: `save_model`, `load_model`.
The kernels are importable from `lowprec.kernels` by name, and ``lowprec.kernels()`` lists them.
`lowprec.linear_model` has the scikit-learn estimator, `lowprec.datasets` reads data files.
"""

from typing import TYPE_CHECKING

try:
    from . import kernels as _kernels  # noqa: F401 (the first to find that LOWPREC_ISA is wrong)
except ImportError as _error:
    from .cli import end_command

    end_command(_error)
    raise

from .formats import Format
from .integer import train_integer
from .matmul import PackedWeights, gemm, pack_weights
from .model_file import LinearModel, load_model, save_model
from .ops import axpy, dot
from .quantized import QuantizedArray, dequantize, from_codes, pack, quantize
from .runtime import cpu_features, isa
from .sgd import train
from .signature import Signature
from .sparse import SparseArray
from .store import Store, open_store
from .store_writer import write_store

if TYPE_CHECKING:
    from .runtime import _CallableModule

    kernels: _CallableModule
else:
    from . import kernels

__version__ = "0.1.0"

__all__ = [
    "Format",
    "LinearModel",
    "PackedWeights",
    "QuantizedArray",
    "Signature",
    "SparseArray",
    "Store",
    "__version__",
    "axpy",
    "cpu_features",
    "dequantize",
    "dot",
    "from_codes",
    "gemm",
    "isa",
    "kernels",
    "load_model",
    "open_store",
    "pack",
    "pack_weights",
    "quantize",
    "save_model",
    "train",
    "train_integer",
    "write_store",
]
