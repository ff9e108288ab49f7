"""Models on disk: `save_model`, `load_model`, `LinearModel`.

A file is safetensors, so that what reads safetensors reads it; nothing in it is executed when it is read. Needs the package of
that name: ``pip install 'lowprec[models]'``. The layout is in docs/architecture.md, "Model files".
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import atomic, checks
from .formats import FORMATS
from .quantized import QuantizedArray, dequantize, from_codes
from .sgd import TrainResult
from .signature import Signature
from .sparse import SparseArray

__all__ = ["LinearModel", "load_model", "save_model"]

_VERSION = 1
#: The one entry of a file's metadata: JSON.
_KEY = "lowprec"
# Numbers that are dequantized at a time.
_PIECE = 1 << 20


@dataclass(frozen=True)
class LinearModel:
    """A model from a file. Needs neither scikit-learn nor what the model was trained with.

    Attributes
    ----------
    coef : ndarray of float64, shape (n,) or (K, n)
        The weights, of one model or of several in rows.
    intercept : float or ndarray of float64, shape (K,)
    classes : ndarray or None
        Labels; None for a regression, or where nobody said.
    models : list of QuantizedArray
        The weights as they were trained, to the bit; empty where they were not saved. `coef` differs from them where iterates
        were averaged, and with ``solver="svrg"``.
    signature : Signature or None
    loss : str or None
    feature_names : list of str or None
    about : dict
        Everything in the file's header.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import lowprec as lp
    >>> X = np.random.default_rng(0).uniform(-1, 1, (4000, 8)).astype(np.float32)
    >>> y = X[:, 0] > X[:, 1]
    >>> r = lp.train(X, y, signature="D8M8", step_size=0.1, n_threads=1)
    >>> path = tempfile.mkdtemp() + "/model.safetensors"
    >>> lp.save_model(path, r, classes=["no", "yes"])
    >>> model = lp.load_model(path)
    >>> bool(np.mean((model.predict(X) == "yes") == y) > 0.95)
    True
    """

    coef: np.ndarray
    intercept: float | np.ndarray
    classes: np.ndarray | None
    models: list[QuantizedArray]
    signature: Signature | None
    loss: str | None
    feature_names: list[str] | None
    about: dict[str, Any]

    def decision_function(self, X: Any) -> np.ndarray:
        """x . w + intercept of each row, in float64.

        Parameters
        ----------
        X : array_like or sparse of shape (m, n), QuantizedArray or SparseArray

        Returns
        -------
        ndarray of shape (m,), or (m, K) of several models
        """
        if isinstance(X, SparseArray):
            X = dequantize(X, np.float64)
        elif not (isinstance(X, QuantizedArray) or checks.is_sparse(X)):
            X = checks.as_2d_data(X, "X")
        n = self.coef.shape[-1]
        if len(X.shape) != 2 or X.shape[1] != n:
            raise checks.wrong_value("X", f"must have {n} columns, one for each weight", f"shape {tuple(X.shape)}")
        scores = self._products(X, n) + self.intercept
        return scores[:, 0] if scores.ndim == 2 and scores.shape[1] == 1 else scores

    def _products(self, X: Any, n: int) -> np.ndarray:
        if checks.is_sparse(X):
            return X @ self.coef.T
        rows, parts = max(1, _PIECE // n), []
        for i in range(0, X.shape[0], rows):
            part = X[i : i + rows]
            part = dequantize(part, np.float64) if isinstance(part, QuantizedArray) else part.astype(np.float64, copy=False)
            parts.append(part @ self.coef.T)
        return np.concatenate(parts)

    def predict(self, X: Any) -> np.ndarray:
        """The class of each row, as the classifier gives it; where there are no classes, the decision itself.

        Parameters
        ----------
        X : array_like or sparse of shape (m, n), QuantizedArray or SparseArray

        Returns
        -------
        ndarray of shape (m,) or, of several models without classes, (m, K)
        """
        scores = self.decision_function(X)
        if self.classes is None:
            return scores
        return self.classes[(scores > 0).astype(np.intp) if scores.ndim == 1 else scores.argmax(axis=1)]


def save_model(
    path: str | os.PathLike[str],
    model: Any,
    *,
    loss: str | None = None,
    classes: Any = None,
    feature_names: Sequence[str] | None = None,
) -> None:
    """Write a trained model to a file, which is replaced at once or not at all.

    Parameters
    ----------
    path : str or path-like
        Usually ``NAME.safetensors``.
    model : TrainResult, LinearModel, or a fitted estimator
        Of an estimator `coef_` and `intercept_` are saved, and where it has them `classes_`, `feature_names_in_`, `signature`,
        `loss` and `models_` (the weights as they were trained).
    loss : str, optional
        Of a TrainResult, which does not know: its name goes into the file.
    classes : array_like, optional
        Labels, numbers or strings: two for one model, K for K models.
    feature_names : sequence of str, optional
        One for each weight.

    Raises
    ------
    TypeError
        If `model` is none of these.
    ValueError
        If the parts do not fit each other.
    ImportError
        If safetensors is not installed.
    """
    numpy_files = checks.need_extra("safetensors.numpy", "models", "save_model")
    about, coef, intercept, arrays = _parts(model)
    for name, value in (("loss", loss), ("classes", classes), ("feature_names", feature_names)):
        if value is not None:
            about[name] = value
    single = coef.ndim == 1
    count, n = (1, len(coef)) if single else coef.shape
    if loss is not None:
        checks.check_loss(loss)
    labels = about["classes"]
    if labels is not None:
        labels = np.asarray(labels)
        expected = (2,) if count == 1 else (count,)
        if labels.shape != expected or labels.dtype.kind not in "biufUO":
            raise checks.wrong_value("classes", f"must be {expected[0]} numbers or strings", labels.tolist())
        about["classes"] = {"dtype": "object" if labels.dtype == object else labels.dtype.str, "values": labels.tolist()}
    if about["feature_names"] is not None:
        about["feature_names"] = [str(name) for name in about["feature_names"]]
        checks.check_same_length("feature_names", len(about["feature_names"]), "the weights", n)
    tensors = {"intercept": np.atleast_1d(np.asarray(intercept, np.float64))}
    about["models"] = []
    for k, q in enumerate(arrays):
        tensors[f"codes.{k}"] = np.ascontiguousarray(q.codes)
        tensors[f"scale.{k}"] = np.atleast_1d(np.asarray(q.scale, np.float64))
        about["models"].append({"format": str(q.format), "shape": list(q.shape), "one_scale": np.ndim(q.scale) == 0})
    found = [dequantize(q, np.float64) for q in arrays]
    if not (arrays and np.array_equal(np.stack(found).view(np.int64), np.atleast_2d(coef).view(np.int64))):
        tensors["coef"] = coef
    text = json.dumps(_header(about, single))
    content = numpy_files.save(tensors, {_KEY: text})
    atomic.replace(Path(path), lambda f: f.write(content))


def _header(about: dict[str, Any], single: bool) -> dict[str, Any]:
    from . import __version__

    signature = about["signature"]
    return about | {
        "version": _VERSION, "lowprec": __version__, "single": single, "signature": None if signature is None else str(signature),
    }  # fmt: skip


def _parts(model: Any) -> tuple[dict[str, Any], np.ndarray, Any, list[QuantizedArray]]:
    """Header, weights, intercepts and the trained arrays of whatever holds a model."""
    if isinstance(model, (TrainResult, LinearModel)):
        about = {name: getattr(model, name, None) for name in ("signature", "loss", "classes", "feature_names")}
        arrays = model.models if isinstance(model, LinearModel) else model.model
        coef, intercept = model.coef, model.intercept
    elif hasattr(model, "coef_") and hasattr(model, "intercept_"):
        names = {"signature": "signature", "loss": "loss", "classes": "classes_", "feature_names": "feature_names_in_"}
        about = {name: getattr(model, attribute, None) for name, attribute in names.items()}
        arrays = getattr(model, "models_", [])
        coef, intercept = model.coef_, model.intercept_
    else:
        raise checks.wrong_type("model", "a TrainResult, a LinearModel or a fitted estimator with coef_ and intercept_", model)
    coef = np.array(coef, np.float64, order="C")
    arrays = [arrays] if isinstance(arrays, QuantizedArray) else list(arrays)
    if coef.ndim not in (1, 2):
        raise checks.wrong_value("model", "must have weights of shape (n,) or (K, n)", f"shape {coef.shape}")
    count, n = np.atleast_2d(coef).shape
    if np.size(intercept) not in (1, count):
        raise checks.wrong_value("model", f"must have one intercept for each of its {count} models", f"{np.size(intercept)}")
    if arrays and (len(arrays) != count or any(q.shape != (n,) for q in arrays)):
        raise checks.wrong_value("model", f"must have {count} arrays of {n} weights", f"shapes {[q.shape for q in arrays]}")
    return about, coef, intercept, arrays


def load_model(path: str | os.PathLike[str]) -> LinearModel:
    """Read a model that `save_model` wrote.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    LinearModel
        With the bits that were saved.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is cut short, is no model of lowprec, or was written by a newer version.
    ImportError
        If safetensors is not installed.
    """
    safetensors = checks.need_extra("safetensors", "models", "load_model")
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise FileNotFoundError(f"{name}: no such file; expected one that save_model wrote")
    expected = "a file that save_model wrote"
    try:
        with safetensors.safe_open(name, framework="numpy") as f:
            tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 - it is no mapping
            text = (f.metadata() or {})[_KEY]
        about = json.loads(text)
        version = about["version"]
    except KeyError:
        raise checks.bad_file(name, "is safetensors, but holds no model of lowprec", expected=expected) from None
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise checks.bad_file(name, f"is cut short, or no model ({error})", expected=expected) from None
    if version != _VERSION:
        hint = f"version {_VERSION}; update lowprec, or save the model with this one"
        raise checks.bad_file(name, f"is a model of version {version!r}", expected=hint)
    try:
        return _model(about, tensors)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise checks.bad_file(name, f"its parts do not fit each other ({error})", expected=expected) from None


def _model(about: dict[str, Any], tensors: dict[str, np.ndarray]) -> LinearModel:
    models = []
    for k, one in enumerate(about["models"]):
        scale = tensors[f"scale.{k}"]
        scale = float(scale[0]) if one["one_scale"] else scale
        models.append(from_codes(tensors[f"codes.{k}"], FORMATS[one["format"]], scale, tuple(one["shape"])))
    coef = tensors["coef"] if "coef" in tensors else np.stack([dequantize(q, np.float64) for q in models])
    intercept: Any = tensors["intercept"]
    if about["single"]:
        coef, intercept = coef.reshape(-1), float(intercept[0])
    classes = about["classes"]
    if classes is not None:
        classes = np.array(classes["values"], np.dtype(classes["dtype"]))
    signature = None if about["signature"] is None else Signature(about["signature"])
    return LinearModel(coef, intercept, classes, models, signature, about["loss"], about["feature_names"], about)
