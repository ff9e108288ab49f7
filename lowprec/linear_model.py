"""scikit-learn estimators on low-precision numbers.

Needs scikit-learn: ``pip install 'lowprec[learn]'``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import automatic, checks
from .automatic import Prepared
from .losses import loss_of
from .quantized import QuantizedArray
from .rounds import PENALTIES, SCHEDULES
from .runtime import effective_n_threads
from .sgd import TrainInfo, TrainResult, train
from .signature import Signature
from .sparse import SparseArray

_base = checks.need_extra("sklearn.base", "learn", "lowprec.linear_model")
_utils = checks.need_extra("sklearn.utils", "learn", "lowprec.linear_model")
_metaestimators = checks.need_extra("sklearn.utils.metaestimators", "learn", "lowprec.linear_model")
_multiclass = checks.need_extra("sklearn.utils.multiclass", "learn", "lowprec.linear_model")
_selection = checks.need_extra("sklearn.model_selection", "learn", "lowprec.linear_model")
_validation = checks.need_extra("sklearn.utils.validation", "learn", "lowprec.linear_model")

__all__ = ["LowPrecisionSGDClassifier", "LowPrecisionSGDRegressor"]

#: Names of losses here: scikit-learn's, and those of `lowprec.train` where they differ.
_CLASSIFICATION = {
    "hinge": "hinge", "log_loss": "logistic", "logistic": "logistic", "squared_hinge": "squared_hinge",
    "modified_huber": "modified_huber",
}  # fmt: skip
_REGRESSION = {
    "squared_error": "squared", "squared": "squared", "huber": "huber", "epsilon_insensitive": "epsilon_insensitive",
    "quantile": "quantile",
}  # fmt: skip
# Rows of which the loss is taken to see whether an epoch has brought anything.
_LOSS_ROWS = 4096

_PARAMETERS = """signature : str or Signature
        Formats of data (D) and model (M), such as "D8M8", "D8M16", "D16M16" or "D32fM32f"; see :doc:`/choosing`.
    loss : {LOSSES}
        {LOSS_TEXT}
    penalty : {{"l2", "l1", "elasticnet"}} or None
        What is added to the loss; applied in low precision, see "Beyond the plain loop" in the architecture.
    alpha : float or "auto"
        Its weight. "auto": one over the number of examples, which for classifiers and least squares is C = 1 of scikit-learn's
        `LinearSVC` and `LogisticRegression`.
    l1_ratio : float
        With "elasticnet": the part of L1, in [0, 1].
    fit_intercept : bool
        Whether to train an intercept.
    max_iter : int or "auto"
        Passes over the data in `fit` (`partial_fit` makes one). "auto": 8, of less than 6,250 rows so many more that there are
        50,000
        examples.
    tol : float, optional
        Stop when the training loss (of 4,096 rows), or with `early_stopping` the score of the held-out part, has not got better
        by
        this much for `n_iter_no_change` epochs. None: all epochs.
    shuffle : bool or "blocks"
        Visit the examples in a new random order in each epoch. "blocks": blocks of a mebibyte in random order, and the rows of a
        block;
        for data on disk.
    verbose : int
        1 or more: print a line after each epoch.
    epsilon : float
        {EPSILON}
    n_jobs : int, optional
        Threads. None is 1, which makes the result reproducible to the bit; -1 takes all that the process may use.
    random_state : int, RandomState or None
        Seed of the rounding and of the order. None: another one in every `fit`.
    learning_rate : {{"linear", "constant", "invscaling"}}
        How the step size goes on: to zero at the last epoch; not at all; divided by (1 + t / m)**power_t after t examples of m.
        In `partial_fit`, which knows no last epoch, "linear" is constant.
    eta0 : float or "auto"
        The first step size. "auto": 0.4 / (c (1 + ||x||^2)), where c bounds the curvature of the loss, see `lowprec.automatic`.
    power_t : float
        Of "invscaling".
    early_stopping : bool
        Hold out a part of the examples, and stop by their score (see `tol`; None is then 0).
    validation_fraction : float
        The part that is held out.
    n_iter_no_change : int
        See `tol`.
{CLASS_WEIGHT}    warm_start : bool
        `fit` goes on from where the model is.
    average : bool or int
        `coef_` is the float64 mean of the models of the second half of the run, or of those after so many examples. It takes most
        of the rounding noise out of a model of 8 bits.
    solver : {{"sgd", "svrg"}}
        "svrg" is stochastic variance-reduced gradient with bit centering: every epoch takes two more passes over the data as they
        are,
        and a few of them reach the optimum of the float64 problem. For smooth losses; L2 only.
    batch_size : int or "auto"
        Examples whose gradients are added up for one write of the model. "auto": 1, but for dense data and models of at most 8
        bits up
        to 128, since each write rounds.
    rounding : {{"stochastic", "nearest"}}
        How the model is rounded when it is written.
    random : {{"shared", "xorshift", "mt19937"}}
        Source of the random words of a stochastic rounding.
    refresh : int
        Updates that share one block of random words.
    data_scale : float, array_like, "feature", "auto" or None
        Value of one data code. "auto": see `lowprec.automatic.prepare`. None: the largest magnitude over the largest code.
        "feature":
        that of each column.
    model_scale : float, optional
        Value of one model code; by default found by the rule in `lowprec.model_range`.
    sync_every : int, optional
        Give each thread a replica of the model, merged after so many of its examples; by default they share one.
    deterministic : bool
        With several threads too the result does not depend on timing."""

_ATTRIBUTES = """n_features_in_ : int
        Features seen in training.
    feature_names_in_ : ndarray of str
        Their names, where `X` had names that are all strings.
    n_iter_ : int
        Epochs of the last call.
    t_ : int
        Examples trained on, in all calls.
    n_threads_ : int
        Threads that really ran.
    eta0_ : float
        The step size that was used.
    saturation_ : ndarray of float
        The largest part of each model's weights that was seen at the limit of its range, see `TrainResult.saturated`.
    gnps_ : float
        10**9 dataset numbers per second in the epoch loops of the last call; a number counts once for each model.
    bytes_per_example_ : float
        Size of the quantized data, for each example.
    models_ : list of QuantizedArray
        The weights in their low precision; only where `coef_` is nothing else, that is without `average` and with solver
        "sgd"."""


def _document(losses: str, loss_text: str, epsilon: str, class_weight: str = "") -> Any:
    def fill(cls: Any) -> Any:
        text = _PARAMETERS.replace("{LOSSES}", losses).replace("{LOSS_TEXT}", loss_text).replace("{EPSILON}", epsilon)
        text = text.replace("{CLASS_WEIGHT}", class_weight).replace("{{", "{").replace("}}", "}")
        cls.__doc__ = cls.__doc__.replace("[parameters]", text).replace("[attributes]", _ATTRIBUTES)
        return cls

    return fill


class _LowPrecisionSGD(_base.BaseEstimator):
    """What classifier and regressor share: validation, preparation of the data, and the run."""

    _losses: dict[str, str]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # One scale per feature is for dense data.
        tags.input_tags.sparse = self.data_scale is None or (
            self.data_scale == "auto" if isinstance(self.data_scale, str) else np.ndim(self.data_scale) == 0
        )
        return tags

    # ---- what is checked -----------------------------------------------------------------------------------

    def _validate(self, X: Any, y: Any = "no_validation", *, reset: bool, **more: Any) -> Any:
        validate = getattr(_validation, "validate_data", None)  # scikit-learn 1.6 and later
        how = {"reset": reset, "dtype": "numeric", "accept_sparse": "csr", **more}
        if validate is not None:
            return validate(self, X, y, **how)
        return self._validate_data(X, y, **how)

    def _validated(self, X: Any, y: Any, *, reset: bool, **more: Any) -> tuple[Any, np.ndarray]:
        if y is None:
            raise ValueError(f"y: {type(self).__name__} requires y to be passed, but the target y is None")
        if not isinstance(X, (QuantizedArray, SparseArray)):
            # No conversion: quantize takes what there is. Only objects and strings become numbers here.
            return self._validate(X, y, reset=reset, **more)
        if X.ndim != 2:
            raise ValueError(f"X: must be two-dimensional; got shape {X.shape}")
        y = _utils.column_or_1d(y, warn=True)
        checks.check_same_length("y", len(y), "X", len(X))
        if reset:
            self.n_features_in_ = X.shape[1]
            if hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
        self._check_width(X)
        return X, y

    def _check_width(self, X: QuantizedArray | SparseArray) -> None:
        if X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {X.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} features as input"
            )

    def _forget(self) -> None:
        for name in ("classes_", "coef_", "intercept_", "models_", "t_", "eta0_", "_coordinates", "_last", "_calls", "_seed"):
            if hasattr(self, name):
                delattr(self, name)

    def _threads(self) -> int:
        """What scikit-learn's `n_jobs` means: None is 1, -1 all, -2 all but one."""
        if self.n_jobs is None:
            return 1
        n_jobs = checks.check_int("n_jobs", self.n_jobs)
        if n_jobs == 0:
            raise checks.wrong_value("n_jobs", "must not be 0; None is 1, and -1 is all", n_jobs)
        return effective_n_threads(n_jobs if n_jobs > 0 else max(1, effective_n_threads(None) + 1 + n_jobs))

    def _draw_seed(self) -> int:
        if isinstance(self.random_state, (int, np.integer)) and not isinstance(self.random_state, bool):
            return checks.check_seed(self.random_state, "random_state")
        return int(_utils.check_random_state(self.random_state).randint(2**31 - 1))

    # ---- training ------------------------------------------------------------------------------------------

    def _run(self, X: Any, targets: np.ndarray, weight: Any, *, partial: bool, held_out: np.ndarray | None, score: Any) -> None:
        """Train on targets of shape (m,) or (m, K).

        Parameters
        ----------
        X : array, sparse array, QuantizedArray or SparseArray
        targets : ndarray
        weight : ndarray of shape (m,) or (m, K), or None
        partial : bool
            One epoch, of many to come.
        held_out : ndarray of int or None
            Rows that are not trained on.
        score : callable or None
            Of the decisions for those rows; larger is better.
        """
        name = self._losses[checks.check_choice("loss", self.loss, tuple(self._losses))]
        form = loss_of(name, *self._loss_parameters())
        signature = Signature(self.signature).require_runnable()
        calls = getattr(self, "_calls", 0)
        if isinstance(self.data_scale, str):
            checks.check_choice("data_scale", self.data_scale, ("auto", "feature"))
        prepared = automatic.prepare(
            X, signature.dataset, signature.index, self.data_scale, center=self.fit_intercept,
            like=self._coordinates if calls else None,
        )  # fmt: skip
        q, center = prepared.codes, prepared.center
        m = q.shape[0]
        checks.check_choice("solver", self.solver, ("sgd", "svrg"))
        svrg = self.solver == "svrg"
        if isinstance(self.batch_size, str):
            checks.check_choice("batch_size", self.batch_size, ("auto",))
            batch = 1 if svrg else automatic.batch_size(q, signature.model, form)
        else:
            batch = self.batch_size
        spread = float(np.std(targets)) or 1.0
        if calls:
            step = self.eta0_
        elif isinstance(self.eta0, str):
            checks.check_choice("eta0", self.eta0, ("auto",))
            step = automatic.step_size(prepared, form, batch, spread)
        else:
            step = checks.check_step(self.eta0, "eta0")
        checks.check_choice("learning_rate", self.learning_rate, SCHEDULES)
        constant = svrg or (partial and self.learning_rate == "linear")
        if isinstance(self.max_iter, str):
            checks.check_choice("max_iter", self.max_iter, ("auto",))
        epochs = 1 if partial else automatic.max_iter(m) if isinstance(self.max_iter, str) else self.max_iter
        if isinstance(self.alpha, str):
            checks.check_choice("alpha", self.alpha, ("auto",))
        alpha = 1.0 / (m * automatic.unit(form, spread)) if isinstance(self.alpha, str) else self.alpha
        penalized = self.penalty is not None and alpha != 0
        if self.penalty is not None:
            checks.check_choice("penalty", self.penalty, PENALTIES)
        if calls == 0 or not isinstance(self.random_state, (int, np.integer, type(None))):
            self._seed = self._draw_seed()
        done = self.t_ if calls else 0
        columns = targets.shape[1] if targets.ndim == 2 else 1
        average = self.average
        if not isinstance(average, (bool, np.bool_)):
            average = max(0, checks.check_int("average", average, minimum=0) - done)
        elif partial and average:
            average = 0
        watch = _Watch(self, X, q, targets, form, center, held_out, score)
        start: dict[str, Any] = {}
        if calls:
            coef, intercept, scales = self._last
            one = targets.ndim == 1
            start["init"] = coef[0] if one else coef
            if not (signature.model.is_float or svrg):
                start["model_scale"] = scales[0] if one else scales
            if self.fit_intercept:
                start["init_intercept"] = float(intercept[0]) if one else intercept
        elif self.model_scale is not None:
            start["model_scale"] = self.model_scale
        r = train(
            q, targets, signature=signature, loss=name, step_size=step, epochs=epochs, batch_size=batch,
            n_threads=self._threads(), sync_every=self.sync_every, deterministic=self.deterministic, rounding=self.rounding,
            random=self.random, refresh=self.refresh,
            # Another stream for each model and each call.
            seed=(self._seed + calls * columns) % 2**64,
            shuffle=self.shuffle, fit_intercept=self.fit_intercept,
            intercept_step=step * automatic.intercept_part(prepared) if self.fit_intercept else None,
            sample_weight=weight, schedule="constant" if constant else self.learning_rate, power=self.power_t,
            examples_before=done,
            penalty=self.penalty if penalized else None, alpha=alpha if penalized else 0.0, l1_ratio=self.l1_ratio,
            average=average, solver=self.solver, callback=watch.callback, **self._loss_options(), **start,
        )  # fmt: skip
        self._keep(r, prepared, step, done, calls)
        self.n_iter_ = max(1, -(-r.n_examples // m))
        numbers = q.nnz / m if isinstance(q, SparseArray) else q.shape[1]
        self.gnps_ = r.n_examples * numbers * columns / max(r.seconds, 1e-9) / 1e9
        self.bytes_per_example_ = q.nbytes / m

    def _loss_parameters(self) -> tuple[float, ...]:
        return ()

    def _loss_options(self) -> dict[str, float]:
        return {}

    def _keep(self, r: TrainResult, prepared: Prepared, step: float, done: int, calls: int) -> None:
        """What a run leaves, in the coordinates of the data."""
        one = isinstance(r.model, QuantizedArray)
        models = [r.model] if one else r.model
        coef, intercept = np.atleast_2d(r.coef), np.atleast_1d(np.asarray(r.intercept, np.float64))
        averaged = not (isinstance(self.average, (bool, np.bool_)) and not self.average)
        # The last iterate: where the next call begins.
        last = np.stack([np.atleast_1d(np.asarray(model, np.float64)) for model in models]) if averaged else coef
        self._last = last, np.atleast_1d(np.asarray(r.last_intercept, np.float64)), np.atleast_1d(r.model_scale)
        if averaged and calls and self._averaged_over:
            share = r.n_examples / (self._averaged_over + r.n_examples)
            before = self._average
            coef, intercept = before[0] + share * (coef - before[0]), before[1] + share * (intercept - before[1])
        self._averaged_over = (getattr(self, "_averaged_over", 0) if calls else 0) + r.n_examples
        self._average = coef, intercept
        self._coordinates = prepared.coordinates
        self.coef_ = coef.copy()
        self.intercept_ = intercept if prepared.center is None else intercept - coef @ prepared.center
        if not (averaged or self.solver == "svrg"):
            self.models_ = models
        elif hasattr(self, "models_"):
            del self.models_
        self.eta0_, self.t_, self._calls = step, done + r.n_examples, calls + 1
        self.n_threads_ = r.n_threads
        self.saturation_ = np.atleast_1d(np.asarray(r.saturated)) / self.n_features_in_

    def _scores(self, X: Any) -> np.ndarray:
        """Outputs, shape (m, K)."""
        _validation.check_is_fitted(self, "coef_")
        if isinstance(X, (QuantizedArray, SparseArray)):
            if X.ndim != 2:
                raise ValueError(f"X: must be two-dimensional; got shape {X.shape}")
            self._check_width(X)
        else:
            X = self._validate(X, reset=False)
        return automatic.decision(X, np.atleast_2d(self.coef_), self.intercept_)

    def _hold_out(self, y: np.ndarray, partial: bool, classes: bool) -> np.ndarray | None:
        """Rows to hold out for early stopping."""
        if not checks.check_bool("early_stopping", self.early_stopping):
            return None
        if partial:
            raise ValueError("early_stopping: partial_fit makes one pass and cannot stop early; use fit, or early_stopping=False")
        if self.solver == "svrg":
            raise ValueError("early_stopping: solver='svrg' has few epochs and no noise to stop for; leave early_stopping=False")
        part = checks.check_finite_scalar("validation_fraction", self.validation_fraction, positive=True)
        split = _selection.StratifiedShuffleSplit if classes else _selection.ShuffleSplit
        return next(split(test_size=part, random_state=self._draw_seed() % 2**32).split(np.zeros((len(y), 1)), y))[1]


class _Watch:
    """Looks at a run after each epoch: says how it is, and stops it when it does not get better."""

    def __init__(
        self, estimator: Any, X: Any, q: Any, targets: np.ndarray, loss: Any, center: np.ndarray | None, held_out: Any, score: Any
    ) -> None:
        self.loss, self.center, self.score = loss, center, score
        self.tol = estimator.tol
        if held_out is not None and self.tol is None:
            self.tol = 0.0
        if self.tol is not None:
            self.tol = checks.check_finite_scalar("tol", self.tol)
        self.patience = checks.check_int("n_iter_no_change", estimator.n_iter_no_change, minimum=1)
        self.verbose = checks.check_int("verbose", int(estimator.verbose), minimum=0)
        self.best, self.idle, self.rows = -math.inf, 0, q.shape[0]
        self.callback = self._look if self.verbose or self.tol is not None else None
        if self.callback is None:
            return
        self.sampled = held_out is None
        rows = np.arange(0, self.rows, max(1, self.rows // _LOSS_ROWS)) if self.sampled else np.sort(held_out)
        if isinstance(q, SparseArray):
            self.X: Any = q.take(rows) if self.sampled or isinstance(X, SparseArray) else X[rows]
        elif isinstance(X, QuantizedArray):
            self.X = np.concatenate([np.asarray(X[i : i + 1]) for i in rows])
        else:
            self.X = X[rows]
        self.targets = targets[rows]
        if center is not None and not checks.is_sparse(self.X):
            self.X = np.asarray(self.X) - center

    def _look(self, info: TrainInfo) -> bool:
        if info.position < self.rows:
            return False
        coef, intercept = np.atleast_2d(info.coef()), np.atleast_1d(info.intercept())
        outputs = automatic.decision(self.X, coef, intercept)
        if self.sampled:
            losses = self.loss.values(outputs, self.targets.reshape(len(outputs), -1))
            value, name = -float(losses.mean()), "loss"
        else:
            value, name = float(self.score(outputs)), "score of the held-out part"
        if self.verbose:
            print(
                f"epoch {info.epoch + 1}: {name} {abs(value):.6g}, {info.examples:,} examples, "
                f"{info.seconds:.2f} s, {info.gnps:.2f} giga numbers per second"
            )
        if self.tol is None:
            return False
        self.idle = 0 if value > self.best + self.tol else self.idle + 1
        self.best = max(self.best, value)
        return self.idle >= self.patience


def _has_probability(estimator: Any) -> bool:
    if estimator.loss in ("log_loss", "logistic", "modified_huber"):
        return True
    raise AttributeError(f"probability estimates are not available for loss={estimator.loss!r}; loss='log_loss' has them")


@_document(
    '{"hinge", "log_loss", "squared_hinge", "modified_huber"}',
    'A linear support vector machine ("hinge"), or logistic regression ("log_loss", also "logistic"), which gives probabilities.',
    "Unused; for scikit-learn's signature.",
    '    class_weight : dict, "balanced" or None\n'
    "        Factors of the examples' steps, by class, as in scikit-learn's `SGDClassifier`.\n",
)
class LowPrecisionSGDClassifier(_base.ClassifierMixin, _LowPrecisionSGD):
    """Linear classifier, trained by stochastic gradient descent on low-precision numbers.

    Parameters have the names that they have in scikit-learn's `SGDClassifier`. Two classes make one model, more make one for each
    class against
    the rest; the data are quantized once for all of them, and read once for all of them in every epoch. What training
    does is described at `lowprec.train`.

    Parameters
    ----------
    [parameters]

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    coef_ : ndarray of float64, shape (1, n_features) or (n_classes, n_features)
        The weights.
    intercept_ : ndarray of float64, shape (1,) or (n_classes,)
        The intercepts.
    [attributes]

    See Also
    --------
    lowprec.train : one linear model, with all options.

    Examples
    --------
    >>> from lowprec.linear_model import LowPrecisionSGDClassifier
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = LowPrecisionSGDClassifier("D8M8", random_state=0).fit(X, y)
    >>> bool(clf.score(X, y) > 0.95)
    True
    """

    _losses = _CLASSIFICATION

    def __init__(
        self, signature: str | Signature = "D8M16", *, loss: str = "hinge", penalty: str | None = "l2",
        alpha: float | str = "auto", l1_ratio: float = 0.15, fit_intercept: bool = True, max_iter: int | str = "auto",
        tol: float | None = None,
        shuffle: bool | str = True, verbose: int = 0, epsilon: float = 0.1, n_jobs: int | None = None, random_state: Any = None,
        learning_rate: str = "linear", eta0: float | str = "auto", power_t: float = 0.5, early_stopping: bool = False,
        validation_fraction: float = 0.1, n_iter_no_change: int = 5, class_weight: Any = None, warm_start: bool = False,
        average: bool | int = False, solver: str = "sgd", batch_size: int | str = "auto", rounding: str = "stochastic",
        random: str = "shared", refresh: int = 1, data_scale: Any = "auto", model_scale: float | None = None,
        sync_every: int | None = None, deterministic: bool = False,
    ) -> None:  # fmt: skip
        self.signature = signature
        self.loss = loss
        self.penalty = penalty
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.shuffle = shuffle
        self.verbose = verbose
        self.epsilon = epsilon
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.learning_rate = learning_rate
        self.eta0 = eta0
        self.power_t = power_t
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.average = average
        self.solver = solver
        self.batch_size = batch_size
        self.rounding = rounding
        self.random = random
        self.refresh = refresh
        self.data_scale = data_scale
        self.model_scale = model_scale
        self.sync_every = sync_every
        self.deterministic = deterministic

    # ---- training ------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LowPrecisionSGDClassifier:
        """Train.

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
        going_on = self.warm_start and hasattr(self, "coef_")
        X, y = self._validated(X, y, reset=not going_on)
        _multiclass.check_classification_targets(y)
        classes = np.unique(y)
        if going_on:
            self._check_known(y, self.classes_)
            classes = self.classes_
        else:
            self._check_classes(classes)
            self._forget()
        self._train(X, y, classes, sample_weight, partial=False)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> LowPrecisionSGDClassifier:
        """Make one pass over a batch of data, going on from where the model is.

        The data's scale (and center, where columns have their own) is that of the first batch. The model keeps its scale too, and
        is
        widened where later data want more.

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
        _multiclass.check_classification_targets(y)
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
        self._check_known(y, known)
        if isinstance(self.class_weight, str):
            raise ValueError("class_weight: 'balanced' needs all labels at once, which partial_fit has not; pass a dict")
        self._train(X, y, known, sample_weight, partial=True)
        return self

    @staticmethod
    def _check_classes(classes: np.ndarray) -> None:
        if len(classes) < 2:
            raise ValueError(f"y: must hold at least 2 classes; got {len(classes)} class")

    @staticmethod
    def _check_known(y: np.ndarray, known: np.ndarray) -> None:
        strange = np.setdiff1d(y, known)
        if strange.size:
            raise ValueError(f"y: every label must be among the classes {known}; got {strange[:5]}")

    def _train(self, X: Any, y: np.ndarray, classes: np.ndarray, sample_weight: Any, *, partial: bool) -> None:
        binary = len(classes) == 2
        numbers = np.searchsorted(classes, y)
        positive = numbers == 1 if binary else numbers[:, None] == np.arange(len(classes))
        targets = np.where(positive, np.int8(1), np.int8(-1))
        held_out = self._hold_out(y, partial, classes=True)
        weight = self._weights(sample_weight, numbers, y, classes, held_out)

        def accuracy(outputs: np.ndarray) -> float:
            chosen = (outputs[:, 0] > 0).astype(np.intp) if binary else outputs.argmax(axis=1)
            return float(np.mean(chosen == numbers[np.sort(held_out)]))

        self._run(X, targets, weight, partial=partial, held_out=held_out, score=accuracy)
        self.classes_ = classes

    def _weights(self, sample_weight: Any, numbers: np.ndarray, y: np.ndarray, classes: np.ndarray, held_out: Any) -> Any:
        """Examples' weights times those of their classes; of held-out rows 0."""
        weight = checks.check_sample_weight(sample_weight, len(y))
        if self.class_weight is None and held_out is None:
            return weight
        weight = np.ones(len(y), np.float32) if weight is None else weight
        if held_out is not None:
            weight[held_out] = 0.0
        if self.class_weight is None:
            return weight
        factors = _utils.compute_class_weight(self.class_weight, classes=classes, y=y).astype(np.float32)
        if len(classes) == 2:
            return weight * factors[numbers]
        # One against the rest: the one's examples have its factor, the rest have 1.
        return weight[:, None] * np.where(numbers[:, None] == np.arange(len(classes)), factors, np.float32(1.0))

    # ---- use -----------------------------------------------------------------------------------------------

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
        scores = self._scores(X)
        return scores[:, 0] if scores.shape[1] == 1 else scores

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

    @_metaestimators.available_if(_has_probability)
    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, for the losses "log_loss" and "modified_huber".

        Of several classes those of one against the rest, normalized. For "modified_huber" (Zadrozny and Elkan, 2002)
        (clip(decision, -1, 1) + 1) / 2, which may be 0 or 1.

        Parameters
        ----------
        X : array_like or sparse of shape (n_samples, n_features), QuantizedArray or SparseArray
            Examples.

        Returns
        -------
        ndarray of float64, shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        scores = self._scores(X)
        if self.loss == "modified_huber":
            p = 0.5 * (np.clip(scores, -1.0, 1.0) + 1.0)
        else:
            p = np.exp(-np.logaddexp(0.0, -scores))
        if p.shape[1] == 1:
            return np.hstack([1.0 - p, p])
        total = p.sum(axis=1, keepdims=True)
        return np.where(total > 0, p / np.where(total > 0, total, 1.0), 1.0 / p.shape[1])

    @_metaestimators.available_if(_has_probability)
    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithms of :meth:`predict_proba`.

        Parameters
        ----------
        X : array_like or sparse of shape (n_samples, n_features), QuantizedArray or SparseArray
            Examples.

        Returns
        -------
        ndarray of float64, shape (n_samples, n_classes)
            In the order of `classes_`; -inf for a probability of 0.
        """
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))


@_document(
    '{"squared_error", "huber", "epsilon_insensitive", "quantile"}',
    'Least squares ("squared_error", also "squared"), or a loss that outliers decide less about; '
    '"quantile" predicts that quantile.',
    'Of "huber" and "epsilon_insensitive", in the units of y.',
    '    quantile : float\n        Of loss "quantile", between 0 and 1.\n',
)
class LowPrecisionSGDRegressor(_base.RegressorMixin, _LowPrecisionSGD):
    """Linear regression, trained by stochastic gradient descent on low-precision numbers.

    Parameters have the names that they have in scikit-learn's `SGDRegressor`. What training does is described at `lowprec.train`.

    Parameters
    ----------
    [parameters]

    Attributes
    ----------
    coef_ : ndarray of float64, shape (n_features,)
        The weights.
    intercept_ : ndarray of float64, shape (1,)
        The intercept.
    [attributes]

    See Also
    --------
    lowprec.train : one linear model, with all options.

    Examples
    --------
    >>> from lowprec.linear_model import LowPrecisionSGDRegressor
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> reg = LowPrecisionSGDRegressor(random_state=0).fit(X, y)
    >>> bool(reg.score(X, y) > 0.5)
    True
    """

    _losses = _REGRESSION

    def __init__(
        self, signature: str | Signature = "D8M16", *, loss: str = "squared_error", penalty: str | None = "l2",
        alpha: float | str = "auto", l1_ratio: float = 0.15, fit_intercept: bool = True, max_iter: int | str = "auto",
        tol: float | None = None,
        shuffle: bool | str = True, verbose: int = 0, epsilon: float = 0.1, quantile: float = 0.5, n_jobs: int | None = None,
        random_state: Any = None, learning_rate: str = "linear", eta0: float | str = "auto", power_t: float = 0.5,
        early_stopping: bool = False, validation_fraction: float = 0.1, n_iter_no_change: int = 5, warm_start: bool = False,
        average: bool | int = False, solver: str = "sgd", batch_size: int | str = "auto", rounding: str = "stochastic",
        random: str = "shared", refresh: int = 1, data_scale: Any = "auto", model_scale: float | None = None,
        sync_every: int | None = None, deterministic: bool = False,
    ) -> None:  # fmt: skip
        self.signature = signature
        self.loss = loss
        self.penalty = penalty
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.shuffle = shuffle
        self.verbose = verbose
        self.epsilon = epsilon
        self.quantile = quantile
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.learning_rate = learning_rate
        self.eta0 = eta0
        self.power_t = power_t
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.average = average
        self.solver = solver
        self.batch_size = batch_size
        self.rounding = rounding
        self.random = random
        self.refresh = refresh
        self.data_scale = data_scale
        self.model_scale = model_scale
        self.sync_every = sync_every
        self.deterministic = deterministic

    def _loss_parameters(self) -> tuple[float, ...]:
        return self.epsilon, self.quantile

    def _loss_options(self) -> dict[str, float]:
        return {"epsilon": self.epsilon, "quantile": self.quantile}

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LowPrecisionSGDRegressor:
        """Train.

        Parameters
        ----------
        X : array_like or sparse of shape (n_samples, n_features), QuantizedArray or SparseArray
            Examples. float32, float64, float16 and integers are quantized without a full-precision copy.
        y : array_like of shape (n_samples,)
            Targets.
        sample_weight : array_like of shape (n_samples,), optional
            Factor of each example's step.

        Returns
        -------
        LowPrecisionSGDRegressor
            The estimator itself.
        """
        going_on = self.warm_start and hasattr(self, "coef_")
        X, y = self._validated(X, y, reset=not going_on, y_numeric=True)
        if not going_on:
            self._forget()
        self._train(X, y, sample_weight, partial=False)
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> LowPrecisionSGDRegressor:
        """Make one pass over a batch of data, going on from where the model is.

        The data's scale (and center, where columns have their own) is that of the first batch. The model keeps its scale too, and
        is
        widened where later data want more.

        Parameters
        ----------
        X : array_like or sparse of shape (n_samples, n_features), QuantizedArray or SparseArray
            Examples.
        y : array_like of shape (n_samples,)
            Targets.
        sample_weight : array_like of shape (n_samples,), optional
            Factor of each example's step.

        Returns
        -------
        LowPrecisionSGDRegressor
            The estimator itself.
        """
        X, y = self._validated(X, y, reset=not hasattr(self, "coef_"), y_numeric=True)
        self._train(X, y, sample_weight, partial=True)
        return self

    def _train(self, X: Any, y: np.ndarray, sample_weight: Any, *, partial: bool) -> None:
        held_out = self._hold_out(y, partial, classes=False)
        weight = checks.check_sample_weight(sample_weight, len(y))
        if held_out is not None:
            weight = np.ones(len(y), np.float32) if weight is None else weight
            weight[held_out] = 0.0

        def r2(outputs: np.ndarray) -> float:
            seen = np.asarray(y, np.float64)[np.sort(held_out)]
            spread = float(np.square(seen - seen.mean()).sum())
            return 1.0 - float(np.square(outputs[:, 0] - seen).sum()) / spread if spread > 0 else 0.0

        self._run(X, np.asarray(y), weight, partial=partial, held_out=held_out, score=r2)
        self.coef_ = self.coef_[0]

    def predict(self, X: Any) -> np.ndarray:
        """The model's output: x . w + intercept.

        Parameters
        ----------
        X : array_like or sparse of shape (n_samples, n_features), QuantizedArray or SparseArray
            Examples.

        Returns
        -------
        ndarray of float64, shape (n_samples,)
        """
        return self._scores(X)[:, 0]
