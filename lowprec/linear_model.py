"""scikit-learn estimators on low-precision numbers.

Needs scikit-learn: ``pip install 'lowprec[learn]'``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import checks
from .losses import MAX_CURVATURE
from .quantized import QuantizedArray, dequantize
from .sgd import TrainResult, prepare_data, train
from .signature import Signature
from .sparse import SparseArray

_base = checks.need_extra("sklearn.base", "learn", "lowprec.linear_model")
_utils = checks.need_extra("sklearn.utils", "learn", "lowprec.linear_model")
_multiclass = checks.need_extra("sklearn.utils.multiclass", "learn", "lowprec.linear_model")
_validation = checks.need_extra("sklearn.utils.validation", "learn", "lowprec.linear_model")

__all__ = ["LowPrecisionSGDClassifier"]

# Of the step sizes that are stable, "auto" takes a small one: 0.1 over the mean curvature of an example's loss.
_AUTO = 0.1


class LowPrecisionSGDClassifier(_base.ClassifierMixin, _base.BaseEstimator):
    """Linear classifier, trained by stochastic gradient descent on low-precision numbers.

    Two classes make one model, more make one for each class against the rest; the data are quantized once for all
    of them. What training does is described at `lowprec.train`.

    Parameters
    ----------
    signature : str or Signature
        Formats of data (D) and model (M), such as "D8M8", "D8M16", "D16M16" or "D32fM32f".
    loss : {"logistic", "hinge"}
        Logistic regression, or a linear support vector machine.
    step_size : float or "auto"
        "auto": 0.1 / (c * mean(1 + ||x||^2)), where c bounds the curvature of the loss: 1/4 for logistic, 1 for
        hinge.
    epochs : int
        Passes over the data in `fit`; `partial_fit` makes one.
    batch_size : int
        Examples whose gradients are added up for one write of the model; 1 for sparse data.
    fit_intercept : bool
        Whether to train an intercept.
    shuffle : bool
        Visit the examples in a new random order in each epoch.
    rounding : {"stochastic", "nearest"}
        How the model is rounded when it is written.
    random : {"shared", "xorshift", "mt19937"}
        Source of the random words of a stochastic rounding.
    refresh : int
        Updates that share one block of random words.
    data_scale : float, array_like, "feature" or None
        Value of one data code.
    model_scale : float, optional
        Value of one model code; by default found by the rule in `lowprec.model_range`.
    n_threads : int, optional
        Workers. 1 makes the result reproducible; None takes what the process may use.
    sync_every : int, optional
        Give each worker a replica of the model, merged after so many of its examples; by default they share one.
    deterministic : bool
        With several workers too the result does not depend on timing.
    random_state : int, RandomState or None
        Seed of the rounding and of the order.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    coef_ : ndarray of float64, shape (1, n_features) or (n_classes, n_features)
        The weights.
    intercept_ : ndarray of float64, shape (1,) or (n_classes,)
        The intercepts.
    n_features_in_ : int
        Features seen in training.
    feature_names_in_ : ndarray of str
        Their names, where `X` had names that are all strings.
    n_iter_ : int
        Epochs of the last call.
    n_threads_ : int
        Threads that really ran.
    step_size_ : float
        The step size that was used.
    saturation_ : ndarray of int, shape (1,) or (n_classes,)
        The most weights of each model that were seen at the limit of its range, see `TrainResult.saturated`.
    gnps_ : float
        10**9 dataset numbers per second in the epoch loops of the last call.
    bytes_per_example_ : float
        Size of the quantized data, for each example.

    See Also
    --------
    lowprec.train : one linear model, with all options.

    Examples
    --------
    >>> from lowprec.linear_model import LowPrecisionSGDClassifier
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = LowPrecisionSGDClassifier("D8M8", epochs=10, n_threads=1, random_state=0).fit(X, y)
    >>> bool(clf.score(X, y) > 0.95)
    True
    """

    def __init__(
        self,
        signature: str | Signature = "D8M8",
        *,
        loss: str = "logistic",
        step_size: float | str = "auto",
        epochs: int = 10,
        batch_size: int = 1,
        fit_intercept: bool = True,
        shuffle: bool = True,
        rounding: str = "stochastic",
        random: str = "shared",
        refresh: int = 1,
        data_scale: Any = None,
        model_scale: float | None = None,
        n_threads: int | None = None,
        sync_every: int | None = None,
        deterministic: bool = False,
        random_state: Any = None,
    ) -> None:
        self.signature = signature
        self.loss = loss
        self.step_size = step_size
        self.epochs = epochs
        self.batch_size = batch_size
        self.fit_intercept = fit_intercept
        self.shuffle = shuffle
        self.rounding = rounding
        self.random = random
        self.refresh = refresh
        self.data_scale = data_scale
        self.model_scale = model_scale
        self.n_threads = n_threads
        self.sync_every = sync_every
        self.deterministic = deterministic
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # One scale per feature is for dense data.
        tags.input_tags.sparse = not isinstance(self.data_scale, str) and np.ndim(self.data_scale) == 0
        return tags

    # ---- training ----

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LowPrecisionSGDClassifier:
        """Train from scratch.

        Parameters
        ----------
        X : array_like or sparse of shape (n_samples, n_features), QuantizedArray or SparseArray
            Examples. float32, float64, float16 and integers are quantized without a full-precision copy.
        y : array_like of shape (n_samples,)
            Labels of any kind.
        sample_weight : array_like of shape (n_samples,), optional
            Factor of each example's step.

        Returns
        -------
        LowPrecisionSGDClassifier
            The estimator itself.
        """
        X, y = self._validated(X, y, reset=True)
        classes = np.unique(y)
        self._check_classes(classes)
        self._forget()
        return self._train(X, y, classes, sample_weight, checks.check_int("epochs", self.epochs, minimum=1))

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> LowPrecisionSGDClassifier:
        """Make one pass over a batch of data, going on from where the model is.

        The model keeps its scale, so one that starts from a small batch has that batch's range, and is widened where
        later data want more.

        Parameters
        ----------
        X : array_like or sparse of shape (n_samples, n_features), QuantizedArray or SparseArray
            Examples.
        y : array_like of shape (n_samples,)
            Labels, all among `classes`.
        classes : array_like of shape (n_classes,), optional
            All labels there will be; needed in the first call.
        sample_weight : array_like of shape (n_samples,), optional
            Factor of each example's step.

        Returns
        -------
        LowPrecisionSGDClassifier
            The estimator itself.
        """
        first = not hasattr(self, "classes_")
        X, y = self._validated(X, y, reset=first)
        if first:
            if classes is None:
                raise ValueError("classes: the first call of partial_fit needs all labels there will be; got None")
            known = np.unique(np.asarray(classes))
            self._check_classes(known)
            self._forget()
        else:
            known = self.classes_
            if classes is not None and not np.array_equal(np.unique(np.asarray(classes)), known):
                raise ValueError(f"classes: must be those of the first call, {known}; got {classes!r}")
        strange = np.setdiff1d(y, known)
        if strange.size:
            raise ValueError(f"y: every label must be among the classes {known}; got {strange[:5]}")
        return self._train(X, y, known, sample_weight, 1)

    def _forget(self) -> None:
        for name in ("classes_", "coef_", "intercept_", "_model_scales", "_feature_scale", "_calls"):
            if hasattr(self, name):
                delattr(self, name)

    @staticmethod
    def _check_classes(classes: np.ndarray) -> None:
        if len(classes) < 2:
            raise ValueError(f"y: must hold at least 2 classes; got {len(classes)} class")

    def _validated(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, np.ndarray]:
        if y is None:
            raise ValueError(f"y: {type(self).__name__} requires y to be passed, but the target y is None")
        if isinstance(X, (QuantizedArray, SparseArray)):
            if X.ndim != 2:
                raise ValueError(f"X: must be two-dimensional; got shape {X.shape}")
            y = _utils.column_or_1d(y, warn=True)
            checks.check_same_length("y", len(y), "X", len(X))
            if reset:
                self.n_features_in_ = X.shape[1]
                if hasattr(self, "feature_names_in_"):
                    del self.feature_names_in_
            self._check_width(X)
        else:
            # No conversion: quantize takes what there is. Only objects and strings become numbers here.
            X, y = self._validate(X, y, reset=reset)
        _multiclass.check_classification_targets(y)
        return X, y

    def _validate(self, X: Any, y: Any = "no_validation", *, reset: bool) -> Any:
        validate = getattr(_validation, "validate_data", None)  # scikit-learn 1.6 and later
        how = {"reset": reset, "dtype": "numeric", "accept_sparse": "csr"}
        if validate is not None:
            return validate(self, X, y, **how)
        return self._validate_data(X, y, **how)

    def _check_width(self, X: QuantizedArray | SparseArray) -> None:
        if X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {X.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} features as input"
            )

    def _step_size(self, q: QuantizedArray | SparseArray) -> float:
        if not isinstance(self.step_size, str):
            return checks.check_step(self.step_size)
        checks.check_choice("step_size", self.step_size, ("auto",))
        if isinstance(q, SparseArray):
            codes, count = q.unpacked().astype(np.float64), len(q)
        else:
            codes = q[:: max(1, len(q) // 1024)].unpacked().astype(np.float64)
            count = len(codes)
        # In the coordinates of training, where one scale per feature makes each reach about 1.
        scale = float(q.scale) if np.ndim(q.scale) == 0 else (1.0 if q.format.is_float else 1.0 / q.format.max_code)
        norm = float(np.square(codes).sum()) / count * scale * scale
        if not math.isfinite(norm):
            raise checks.rows_too_large("X", float(np.abs(codes).max()) * scale)
        return _AUTO / (MAX_CURVATURE[self.loss] * (1.0 + norm))

    def _train(
        self, X: Any, y: np.ndarray, classes: np.ndarray, sample_weight: Any, epochs: int
    ) -> LowPrecisionSGDClassifier:
        checks.check_choice("loss", self.loss, ("logistic", "hinge"))
        signature = Signature(self.signature).require_runnable()
        calls = getattr(self, "_calls", 0)
        # One scale per feature makes the coordinates in which the model lives: it stays that of the first batch.
        data_scale = getattr(self, "_feature_scale", self.data_scale)
        if isinstance(X, (QuantizedArray, SparseArray)):
            data_scale = None
        q = prepare_data(X, signature.dataset, data_scale, index=signature.index)
        step_size = self.step_size_ if calls else self._step_size(q)
        if calls == 0 or not isinstance(self.random_state, (int, np.integer, type(None))):
            self._seed = self._draw_seed()
        positives = classes[1:] if len(classes) == 2 else classes
        results: list[TrainResult] = []
        for k, c in enumerate(positives):
            results.append(
                train(
                    q,
                    y == c,
                    signature=signature,
                    loss=self.loss,
                    step_size=step_size,
                    epochs=epochs,
                    batch_size=self.batch_size,
                    n_threads=self.n_threads,
                    sync_every=self.sync_every,
                    deterministic=self.deterministic,
                    rounding=self.rounding,
                    random=self.random,
                    refresh=self.refresh,
                    # Another stream for each model and each call.
                    seed=(self._seed + calls * len(positives) + k) % 2**64,
                    shuffle=self.shuffle,
                    model_scale=self._model_scales[k] if calls else self.model_scale,
                    init=self.coef_[k] if calls else None,
                    fit_intercept=self.fit_intercept,
                    sample_weight=sample_weight,
                    **({"init_intercept": float(self.intercept_[k])} if calls and self.fit_intercept else {}),
                )
            )
        self.classes_ = classes
        self.coef_ = np.stack([r.coef for r in results])
        self.intercept_ = np.array([r.intercept for r in results])
        self.n_iter_ = epochs
        self.step_size_ = step_size
        self.n_threads_ = results[0].n_threads
        self.saturation_ = np.array([r.saturated for r in results])
        numbers = q.nnz / len(q) if isinstance(q, SparseArray) else q.shape[1]
        self.gnps_ = sum(r.n_examples for r in results) * numbers / max(sum(r.seconds for r in results), 1e-9) / 1e9
        self.bytes_per_example_ = q.nbytes / len(q)
        self._calls = calls + 1
        if np.ndim(q.scale):
            self._feature_scale = q.scale
        # In the coordinates of training, see `train`.
        self._model_scales = [None if signature.model.is_float else r.model_scale for r in results]
        return self

    def _draw_seed(self) -> int:
        if isinstance(self.random_state, (int, np.integer)) and not isinstance(self.random_state, bool):
            return checks.check_seed(self.random_state, "random_state")
        return int(_utils.check_random_state(self.random_state).randint(2**31 - 1))

    # ---- use ----

    def decision_function(self, X: Any) -> np.ndarray:
        """Signed distances, up to the length of the weights: x . w + intercept.

        Parameters
        ----------
        X : array_like or sparse of shape (n_samples, n_features), QuantizedArray or SparseArray
            Examples.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            For two classes positive where the second is predicted.
        """
        _validation.check_is_fitted(self, "coef_")
        if isinstance(X, (QuantizedArray, SparseArray)):
            if X.ndim != 2:
                raise ValueError(f"X: must be two-dimensional; got shape {X.shape}")
            self._check_width(X)
        else:
            X = self._validate(X, reset=False)
        scores = self._products(X) + self.intercept_
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def _products(self, X: Any) -> np.ndarray:
        if isinstance(X, SparseArray):
            X = dequantize(X, np.float64)
        if checks.is_sparse(X):
            return X @ self.coef_.T
        rows = max(1, (1 << 20) // X.shape[1])
        parts = []
        for i in range(0, X.shape[0], rows):
            part = X[i : i + rows]
            part = dequantize(part, np.float64) if isinstance(part, QuantizedArray) else part.astype(np.float64, copy=False)
            parts.append(part @ self.coef_.T)
        return np.concatenate(parts)

    def predict(self, X: Any) -> np.ndarray:
        """The class of each example: the second of two where the decision is positive, else the largest decision.

        Parameters
        ----------
        X : array_like or sparse of shape (n_samples, n_features), QuantizedArray or SparseArray
            Examples.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels.
        """
        scores = self.decision_function(X)
        chosen = (scores > 0).astype(np.intp) if scores.ndim == 1 else scores.argmax(axis=1)
        return self.classes_[chosen]
