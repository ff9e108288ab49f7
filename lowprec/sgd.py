"""The training loop's Python face: `train`.

It validates, quantizes the data once, chooses the model's scale, and drives the compiled loop in blocks. Between
two blocks Python sees Ctrl-C, calls the callback, and at fixed points looks whether the model needs more range
(see `lowprec.model_range`).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _sgd, checks
from .checkpoint import Checkpoint, fingerprint, regrouped
from .communication.accounting import CommunicationInfo, bytes_per_exchange
from .communication.exchange import Asynchronous, Synchronous
from .communication.group import Group, ranks
from .formats import RANDOM_SOURCES, ROUNDINGS, Rounding
from .loop import Loop, Model, TrainInfo, diverged, training_loss
from .losses import loss_of
from .model_range import Problem, Range, Sample, model_of
from .preparing import prepare_data
from .quantized import QuantizedArray
from .rounds import NEVER, PENALTIES, SCHEDULES, Rounds
from .runtime import binds_threads, effective_n_threads
from .signature import Signature
from .sparse import SparseArray
from .svrg import Svrg, round_length

__all__ = ["TrainInfo", "TrainResult", "prepare_data", "train"]

# Farther ahead than any cache holds there is nothing to prefetch for.
_MAX_PREFETCH = 1 << 24
# Without a sync_every, deterministic workers merge after so many examples, so many numbers, and so many times the model's size:
# a merge reads and writes all of it, a sparse example a few weights.
_SYNC_EXAMPLES, _SYNC_NUMBERS, _SYNC_MODELS = 16, 1 << 14, 4
# Bytes of data whose rows are shuffled among themselves by shuffle="blocks".
_SHUFFLED_BYTES = 1 << 20

# ---- what comes back ---------------------------------------------------------------------------------------


@dataclass
class TrainResult:
    """A trained model, or several.

    Of several models (`y` of shape (m, K)) `coef` has shape (K, n), `intercept` and each entry of `history` shape (K,), `model`
    is a list, and `model_scale`, `saturated` and `widened` are tuples.

    Attributes
    ----------
    coef : ndarray of float64, shape (n,) or (K, n)
        The weights: codes times scale, in the coordinates of the data as they were given. With ``average`` the mean of the
        iterates, with ``solver="svrg"`` the anchor.
    intercept : float or ndarray of float64, shape (K,)
        0.0 unless ``fit_intercept``.
    model : QuantizedArray or list of QuantizedArray
        The last iterate in the format that it was trained in; without averaging and SVRG ``dequantize(model, float64)`` is
        `coef`. With SVRG it is the correction to the anchor, which at the end is zero.
    signature : Signature
        What ran, with D and M written out.
    history : list of float or of ndarray
        Mean training loss, without the penalty, of the last iterate after each finished epoch; empty unless ``history=True``.
        With SVRG that at the anchor, for the data as they were given, not for their codes.
    gnps : float
        10**9 dataset numbers per second, counting the epoch loops alone: not the conversion of the data, the
        choice of a scale, history, or SVRG's exact gradients. A number counts once for each model.
    seconds : float
        Time in the epoch loops.
    model_scale : float or tuple of float
        Value of one model code, 1.0 for a 32f model: `model.scale`, or where the data have one scale per feature, that of
        the coordinates of training. To go on training, pass it on together with `coef` as `init` (not with SVRG, whose
        corrections begin anew).
    saturated : int or tuple of int
        The most weights that were seen at the limit of the model's range at once, at the points where the
        range is looked at and at the end, since the scale was last doubled. A few are normal for an 8-bit model
        and for a 4-bit one many, see `lowprec.model_range`. Always 0 for a 32f model.
    widened : int or tuple of int
        How often the model's scale was doubled.
    narrowed : int or tuple of int
        How often it was halved: from the middle of a run on, where no weight is clipped by that, unless `model_scale` was given.
    n_threads : int
        Threads that really ran, which in a forked child of a process that has trained with several is one.
    n_examples : int
        Examples that were trained on, over all epochs; less than rows times epochs if the callback stopped it.
    last_intercept : float
        That of `model`, where `intercept` is a mean.
    communication : CommunicationInfo or None
        Bytes and time of a signature's C term; None without one, and where a worker was alone.
    """

    coef: np.ndarray
    intercept: float
    model: QuantizedArray
    signature: Signature
    history: list[float]
    gnps: float
    seconds: float
    model_scale: float
    saturated: int
    widened: int
    narrowed: int
    n_threads: int
    n_examples: int
    last_intercept: float
    communication: CommunicationInfo | None = None


# ---- training ----------------------------------------------------------------------------------------------


def train(
    X: Any,
    y: Any,
    *,
    signature: Signature | str = "D8M8",
    loss: str = "logistic",
    step_size: float,
    epochs: int = 1,
    batch_size: int = 1,
    n_threads: int | None = None,
    rounding: str = "stochastic",
    random: str = "shared",
    refresh: int = 1,
    seed: int = 0,
    shuffle: bool | str = False,
    history: bool = False,
    deterministic: bool = False,
    sync_every: int | None = None,
    pin_threads: bool = False,
    prefetch: int | None = None,
    data_scale: Any = None,
    model_scale: Any = None,
    init: Any = None,
    init_intercept: Any = 0.0,
    fit_intercept: bool = False,
    intercept_step: float | None = None,
    sample_weight: Any = None,
    epsilon: float = 0.1,
    quantile: float = 0.5,
    schedule: str = "constant",
    power: float = 0.5,
    examples_before: int = 0,
    penalty: str | None = None,
    alpha: float = 0.0,
    l1_ratio: float = 0.15,
    average: bool | int = False,
    solver: str = "sgd",
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 30.0,
    communicator: Any = None,
    error_feedback: bool = True,
    staleness: int | None = None,
    timeout: float = 120.0,
    callback: Callable[[TrainInfo], Any] | None = None,
) -> TrainResult:
    """Train a linear model, or several, by stochastic gradient descent on low-precision numbers.

    For each example in turn: ``w -= step_size * dloss(x . w, y) * x``, on codes. What a penalty, a schedule or an average does
    to a whole model is done between *rounds* of some hundred examples; see "Beyond the plain loop" in docs/architecture.md.

    Parameters
    ----------
    X : array_like or sparse of shape (m, n), QuantizedArray or SparseArray
        Examples in rows: float16, float32, float64, bool or integers. Converted once to the signature's D, rounded
        to nearest, without a full-precision copy. float32 arrays for D = 32f, int8 for D = 8 and int16 for D = 16
        are used in place, as codes with scale 1. Of a QuantizedArray or SparseArray nothing is converted. Of SciPy's
        sparse arrays only the nonzeros are stored, with an index of the signature's i bits, or of as many as take
        the fewest bytes; all of them lose nothing.
    y : array_like of shape (m,) or (m, K)
        Labels: {-1, +1} or {0, 1} for logistic, hinge, squared_hinge and modified_huber, any finite numbers for the other
        losses. With K columns, two at least, K models are trained at once, while the data are read once: to the bit those that
        K calls with the columns and ``seed``, ``seed + 1``, ... give (modulo 2**64; with `shuffle`, all in the order that
        `seed` draws).
    signature : Signature or str
        Formats of data (D) with their index (i, if they are sparse), of the model (M), and of a mini-batch's gradient (G: 8, 16,
        32f, or absent for an exact one). See "Mini-batch" in docs/architecture.md for what G rounds. With a C term workers have
        replicas of the model and send each other what they have changed, in 1, 2, 4, 8, 16, 16f or 32f bits: together (``C8s``)
        or each by itself (``C8``); see "Communication" there. Workers are `n_threads` threads, or the ranks of a `communicator`.
    loss : {"logistic", "hinge", "squared_hinge", "modified_huber", "squared", "huber", "epsilon_insensitive", "quantile"}
        See `lowprec.losses`.
    step_size : float
        For every example, times the factor of `schedule`. The intercept has the same step, in float64.
    epochs : int
        Passes over the data.
    batch_size : int
        Examples whose gradients, all taken at the same model, are added up (not averaged) for one write of the model. The
        signature's G is the precision of that sum; without it, the sum is exact. A batch ends with a worker's share of the
        epoch, and one that is larger than the share is the share. Sparse data are trained on example by example.
    n_threads : int, optional
        Workers, each with its own contiguous share of the epoch. None: what this process may use. By default they update the one
        shared model without locks. With one thread a run is reproducible to the last bit, on any machine (with SVRG, whose exact
        gradients NumPy adds up, on any one machine).
    rounding : {"stochastic", "nearest"}
        How the model is rounded when it is written. No effect where M is 32f.
    random : {"shared", "xorshift", "mt19937"}
        Source of the random words of a stochastic rounding.
    refresh : int
        Updates that share one block of random words (``random="shared"``).
    seed : int
        Of the rounding and of `shuffle`, in [0, 2**64).
    shuffle : bool or "blocks"
        Visit the rows in a new random order in each epoch; by default as they stand. "blocks": blocks of neighboring rows, of 1
        MiB together, in random order, and the rows of each in random order among themselves. For data larger than the caches,
        whose rows would otherwise come from memory one by one.
    history : bool
        Compute the mean training loss after each epoch, which costs a pass over the data (with SVRG none, it is known).
    deterministic : bool
        The result does not depend on timing: it is fixed by the data, the arguments and the number of workers, which is
        `n_threads` even where fewer threads can run. Workers have replicas of the model, as with `sync_every`, and all merge them
        at once, in the order of their numbers.
    sync_every : int, optional
        Give each worker a replica of the model, and merge it after so many of its examples: its changes are added to the shared
        model, the others' taken from it. A small model that all write at once bounces between the cores' caches; replicas do
        not. The price is that workers see each other's changes that much later. A multiple of `batch_size`. None: no replicas,
        or with `deterministic` and with a C term 16 examples, or as many as have 16,384 numbers (of sparse data 4 * n) if these
        are more; but no more than what keeps the sum of all workers' changes from overshooting, by the largest curvature of a
        sample of the data, and the smaller the more workers there are; in whole batches, of which it is one where the gradient
        is what is sent (``G1C1s``).
    pin_threads : bool
        Tie each worker to a CPU of its own (of those that this process may use) while it trains, and let the memory of converted
        data be touched first by the worker that will read it. Without effect where OpenMP's own variables (``OMP_PROC_BIND``,
        ``OMP_PLACES``) do so.
    prefetch : int, optional
        Bytes between the data that are read and the software prefetch; 0: off. None: the tuned default. No effect on results.
    data_scale : float, array_like of shape (n,) or "feature", optional
        Value of one data code. None: the largest magnitude over the largest code. "feature": that of each column.
        With one scale per feature, training works in scaled coordinates, x_j / (data_scale_j * max_code), where each
        feature reaches about 1: `step_size` and `model_scale` act there (for D = 32f the coordinates are
        x_j / data_scale_j, and "feature" takes each column's largest magnitude). `coef` is divided back.
    model_scale : float or array_like of shape (K,), optional
        Value of one model code, for all models or each. None: by the rule in `lowprec.model_range`. Either way it is doubled,
        and the codes halved, when the model saturates and more range would gain more than the coarser quantum costs. If it was
        not given, it is halved late in the run where no weight is clipped by that.
    init : array_like of shape (n,) or (K, n), optional
        Weights to start from, in the coordinates of the data, rounded to nearest; by default zeros.
    init_intercept : float or array_like of shape (K,)
        Intercept to start from, with `fit_intercept`; for all models or each.
    fit_intercept : bool
        Train an intercept, a float64 number beside the model. It has no penalty.
    intercept_step : float, optional
        Its step size, where that is not `step_size`; the schedule applies to it too. On sparse data the intercept moves with
        every example and a weight with few, so a small part of `step_size` (scikit-learn takes 0.01) serves better.
    sample_weight : array_like of shape (m,) or (m, K), optional
        Factor of each example's step; of several models, for all or for each.
    epsilon : float
        Of the huber and epsilon_insensitive losses: the residual from which the one is linear, up to which the other is zero.
    quantile : float
        Of the quantile loss, between 0 and 1.
    schedule : {"constant", "linear", "invscaling"}
        Factor of `step_size` in a round, t examples into the run at its middle: 1; ``1 - t / (m * epochs)``; or
        ``(1 + (examples_before + t) / m) ** -power``.
    power : float
        Of invscaling.
    examples_before : int
        Of invscaling: examples of earlier calls, so that a run in several calls has the steps of one.
    penalty : {None, "l2", "l1", "elasticnet"}
        What is minimized is the mean of ``sample_weight * loss`` plus ``alpha / 2 * sum(w**2)``, ``alpha * sum(abs(w))``, or
        both, `l1_ratio` times the latter and ``1 - l1_ratio`` times the former; w in the coordinates of training (see
        `data_scale`). L2 shrinks a fixed-point model's scale, without rounding anything; L1 takes its cumulative threshold from
        the codes after each round, so weights become exactly zero.
    alpha : float
        Strength of the penalty; ``step_size * alpha`` must be below 1 for L2.
    l1_ratio : float
        Part of L1 in "elasticnet", in [0, 1].
    average : bool or int
        Return the mean of the models at the ends of the rounds, in float64, for `coef` and `intercept`: of those in the second
        half of the run, or of those after so many examples (0: all).
    solver : {"sgd", "svrg"}
        "svrg": stochastic variance-reduced gradient with bit centering (De Sa et al., "High-accuracy low-precision training",
        2018). Each epoch begins with the exact gradient at an anchor in float64, computed from `X` as it was given; trained is
        a correction to the anchor, whose quantum gets smaller from epoch to epoch. So few bits reach the optimum of full
        precision, at twice the work. An epoch that makes the result worse is undone, and the step halved. Has L2 alone of the
        penalties, a constant step, no averaging, and chooses its own `model_scale`. Workers meet after few examples where the
        data are steep, so several threads gain little on short rows.
    checkpoint : str or path-like, optional
        A file to write the run to, and to go on from where it holds an unfinished run of the same data and arguments. A run
        with one thread, or `deterministic`, ends with the bits of one that was not interrupted. A finished run's file gives its
        result. With a C term the file does not depend on what the workers are, and another number of them can go on from it. Of
        several ranks the first reads and writes it for all, so only that one must see it.
    checkpoint_seconds : float
        At least so long from one checkpoint to the next.
    communicator : mpi4py.MPI.Comm, optional
        Its ranks are the workers, one each; all call `train` with the same data and arguments, and get the same result. Each
        trains on its own share of the rows, so of a store (`lowprec.open_store`) that all can open it reads little else. A
        synchronous run gives the model of as many threads, to the bit.
    error_feedback : bool
        With a C term: what coding leaves out is sent with the next message, not lost.
    staleness : int, optional
        With an asynchronous C term: a worker begins a round (of `sync_every` examples) only when it has what the others did up
        to `staleness` rounds before the last one. None: 2.
    timeout : float
        Seconds that a rank waits for another before it gives up with a `lowprec.communication.CommunicationError`; more than the
        longest round takes.
    callback : callable, optional
        Called with a `TrainInfo` after each block of examples, at least every 100 ms unless a single example takes
        longer. If it returns True, training stops there; of several ranks, if that of rank 0 does.

    Returns
    -------
    TrainResult

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If an argument has a wrong shape or is out of range; if the signature has no kernel; if `X` holds NaN or
        infinity (the row is named); or if training diverges.
    CommunicationError
        If another rank of the communicator does not answer in time, or stopped.
    KeyboardInterrupt
        On Ctrl-C, within a second. Nothing of the caller's has been changed.

    See Also
    --------
    lowprec.linear_model.LowPrecisionSGDClassifier

    Examples
    --------
    >>> import numpy as np
    >>> import lowprec as lp
    >>> X = np.random.default_rng(0).uniform(-1, 1, (4000, 8)).astype(np.float32)
    >>> y = X[:, 0] > X[:, 1]
    >>> r = lp.train(X, y, signature="D8M8", step_size=0.1, n_threads=1)
    >>> bool(np.mean((X @ r.coef > 0) == y) > 0.95)
    True
    """
    with ranks(communicator, checks.check_finite_scalar("timeout", timeout, positive=True)) as group:
        signature = Signature(signature).require_runnable()
        D, M = signature.dataset, signature.model
        form = loss_of(
            loss, checks.check_finite_scalar("epsilon", epsilon, nonnegative=True),
            checks.check_finite_scalar("quantile", quantile, positive=True),
        )  # fmt: skip
        if loss == "huber" and form.parameter == 0.0:
            raise checks.wrong_value("epsilon", "must be positive for the huber loss, which is flat without it", epsilon)
        if quantile >= 1.0:
            raise checks.wrong_value("quantile", "must lie between 0 and 1", quantile)
        step_size = checks.check_step(step_size)
        epochs = checks.check_int("epochs", epochs, minimum=1)
        batch_size = checks.check_int("batch_size", batch_size, minimum=1)
        deterministic = checks.check_bool("deterministic", deterministic)
        if sync_every is not None:
            sync_every = checks.check_int("sync_every", sync_every, minimum=1)
            if sync_every % batch_size:
                raise checks.wrong_value("sync_every", f"must be a multiple of batch_size ({batch_size})", sync_every)
            sync_every = min(sync_every, NEVER)
        asked = checks.check_n_threads(n_threads)
        pin_threads = checks.check_bool("pin_threads", pin_threads)
        talk = _talk(signature, group, asked, pin_threads, deterministic, solver, error_feedback, staleness)
        n_threads = 1 if group is not None else effective_n_threads(n_threads)
        n_workers = asked if (deterministic or talk is not None) and asked is not None else n_threads
        if group is not None:
            n_workers = group.size
        # Synchronous workers meet at a barrier, as deterministic ones do: timing decides nothing.
        deterministic = deterministic or (talk is not None and talk["synchronous"])
        if prefetch is not None:
            prefetch = checks.check_int("prefetch", prefetch, minimum=0, maximum=_MAX_PREFETCH)
        checks.check_choice("rounding", rounding, ROUNDINGS)
        checks.check_choice("random", random, tuple(RANDOM_SOURCES))
        refresh = min(checks.check_int("refresh", refresh, minimum=1), NEVER)
        seed = checks.check_seed(seed)
        if shuffle != "blocks":
            if isinstance(shuffle, str):
                raise checks.wrong_value("shuffle", 'must be True, False or "blocks"', shuffle)
            shuffle = checks.check_bool("shuffle", shuffle)
        history = checks.check_bool("history", history)
        fit_intercept = checks.check_bool("fit_intercept", fit_intercept)
        if intercept_step is not None:
            if not fit_intercept:
                raise ValueError(f"intercept_step: has no effect unless fit_intercept=True; got {intercept_step!r}")
            intercept_step = checks.check_finite_scalar("intercept_step", intercept_step, nonnegative=True)
        checks.check_callback(callback)
        checks.check_choice("solver", solver, ("sgd", "svrg"))
        checkpoint_seconds = checks.check_finite_scalar("checkpoint_seconds", checkpoint_seconds, nonnegative=True)
        if not (isinstance(X, (QuantizedArray, SparseArray)) or checks.is_sparse(X)):
            X = checks.as_2d_data(X, "X")
        elif len(X.shape) != 2:
            raise ValueError(f"X: must be two-dimensional; got shape {X.shape}")
        if isinstance(X, SparseArray) or checks.is_sparse(X):
            if batch_size > 1:
                rule = "sparse data are trained on example by example, so it must be 1"
                raise checks.wrong_value("batch_size", rule, batch_size)
            if signature.gradient is not None:
                rule = "sparse data are trained on example by example, without a G term"
                raise checks.wrong_value("signature", rule, str(signature))
        m, n = X.shape
        rounds = _rounds(schedule, power, examples_before, penalty, alpha, l1_ratio, average, m * epochs)
        if rounds.l2 * step_size >= 1.0:
            raise checks.wrong_value("alpha", f"times step_size must be below 1 for L2; step_size is {step_size:g}", alpha)
        if solver == "svrg":
            _check_svrg(rounds, schedule, model_scale)
        ys = _columns(y, loss, m)
        one = ys is None
        labels = [checks.check_labels(y, loss, m)] if ys is None else ys
        count = len(labels)
        weights = _weights(sample_weight, m, count, one)
        start = None if init is None else _rows_of("init", init, n, None if one else count)
        biases = [
            checks.check_finite_scalar("init_intercept", b) for b in _each("init_intercept", init_intercept, one, count)
        ]
        if any(biases) and not fit_intercept:
            raise ValueError("init_intercept: has no effect unless fit_intercept=True; got " + repr(init_intercept))
        scales = None
        if model_scale is not None:
            if M.is_float:
                raise ValueError(f"model_scale: a model of format {M} has no scale; leave model_scale=None")
            scales = [checks.check_scale(scale, name="model_scale") for scale in _each("model_scale", model_scale, one, count)]
        cpus = _cpus(n_workers) if pin_threads else None
        x = prepare_data(X, D, data_scale, index=signature.index, n_workers=n_threads, cpus=cpus)
        if isinstance(x, SparseArray):
            signature = signature._with(index=x.index_format)

        # One scale for all features. Where there is one for each, w_j is trained times `stretch` instead.
        if np.ndim(x.scale) == 0:
            scale, stretch = float(x.scale), None
        else:
            scale = 1.0 if D.is_float else 1.0 / D.max_code
            stretch = x.scale / scale
        svrg = solver == "svrg"
        # What is trained is a correction to the anchor, which begins at nothing.
        origin = None if start is None or svrg else [w if stretch is None else w * stretch for w in start]
        problems = [
            Problem(
                x, scale, labels[k], weights[k], form, step_size, (0.0 if svrg else biases[k]) if fit_intercept else None,
                rounds.l1, rounds.l2, 1.0 if intercept_step is None else intercept_step / step_size,
            )
            for k in range(count)
        ]  # fmt: skip
        numbers = problems[0].numbers
        gradient = None if signature.gradient_is_sent else signature.gradient
        rounding_matters = not M.is_float or (gradient is not None and not gradient.is_float)
        source = Rounding(rounding, random).source if rounding_matters else "nearest"

        facts: dict[str, Any] = {}
        if checkpoint is not None or group is not None:
            facts = {
                "shape": [m, n], "signature": str(signature), "loss": list(form), "step_size": step_size,
                "epochs": epochs, "batch_size": batch_size, "source": source, "refresh": refresh, "seed": seed,
                "shuffle": shuffle,
                "sync_every": sync_every, "deterministic": deterministic, "n_workers": n_workers if talk is None else None,
                "fit_intercept": fit_intercept, "intercept_step": intercept_step,
                "model_scale": scales, "init": None if start is None else [w.tolist() for w in start], "biases": biases,
                "rounds": list(vars(rounds).values()), "solver": solver, "history": history,
                "error_feedback": bool(error_feedback), "staleness": None if talk is None else talk["staleness"],
            }  # fmt: skip
            if talk is not None:  # messages are rounded where the model is not
                facts["rounding"] = rounding
            if group is not None:  # before anything is shared: from here on all ranks ask for the same things in turn
                group.check(_comparable(facts | {"checkpoint": checkpoint is not None}, fingerprint(x, labels, weights, {})))

        worth = m * epochs * rounds.mean_step(m, m * epochs)
        sample = None if M.is_float else Sample(problems[0], m * epochs)
        ranges = [None if sample is None else Range(problem, sample, worth) for problem in problems]
        at_most = round_length(problems[0], n_workers) if svrg else None
        if (deterministic or talk is not None) and sync_every is None:
            per_example = max(numbers, 1.0)
            sync_every = max(_SYNC_EXAMPLES, int(_SYNC_NUMBERS / per_example), math.ceil(_SYNC_MODELS * n / per_example))
            if at_most is not None:
                sync_every = min(sync_every, at_most)
            elif n_workers > 1:
                # A power of two, lest the last bits of NumPy's sums decide.
                sync_every = min(sync_every, 1 << round_length(problems[0], n_workers).bit_length() - 1)
            sync_every = min(-(-sync_every // batch_size) * batch_size, NEVER)
            if signature.gradient_is_sent:
                sync_every = batch_size
        if talk is None:
            facts["sync_every"] = sync_every  # with a C term as it was asked for, since other workers may go on
        if signature.gradient_is_sent and sync_every != batch_size:
            sent = f"G{signature.gradient}C{signature.gradient}"
            rule = f"must be batch_size ({batch_size}) where the gradient itself is what is sent ({sent})"
            raise checks.wrong_value("sync_every", rule, sync_every)
        if group is not None:  # the choice rests on sums of floats, too
            sync_every = group.share(sync_every, "rank 0 to choose sync_every")
        replicas = sync_every is not None and n_workers > 1
        unit = sync_every if replicas and sync_every is not None else batch_size
        every = rounds.every(numbers, n, step_size, unit=unit, workers=n_workers, at_most=at_most)
        # The loop has models of its own from here on: an exception leaves nothing half done behind.
        models: list[Model] = []
        data_limit = _largest(x) if D.is_float and gradient is not None else None
        for k, (problem, range_) in enumerate(zip(problems, ranges, strict=True)):
            own_scale, widened = 1.0, 0
            if range_ is not None:
                own_scale = range_.choose(M) if scales is None else scales[k]
                if group is not None:  # ranks of other machines may add up their floats in another order
                    own_scale = group.share(own_scale, "rank 0 to choose the model's scale")
                while origin is not None and float(np.abs(origin[k]).max()) > own_scale * (M.max_code + 0.5):
                    own_scale *= 2.0
                    widened += 1
            model = model_of(np.zeros(n, np.float32) if origin is None else origin[k], M, own_scale, problem.width)
            run = problem.driver(
                model, random=source, seed=(seed + k) % 2**64, refresh=refresh, n_threads=n_workers, sync_every=sync_every,
                together=deterministic, cpus=cpus, prefetch=prefetch, batch_size=batch_size,
                gradient=None if gradient is None else str(gradient), data_limit=data_limit,
                exchange=None if talk is None else talk | {"columns": n, "random": rounding == "stochastic"},
            )  # fmt: skip
            if svrg or not rounds.none:
                rounds.apply(run, every, rows=m, examples=m * epochs)
            models.append(Model(run, problem, model, stretch, None if svrg else range_, replicas, None if scales else m * epochs))
            models[-1].widened = widened
        file = None
        if checkpoint is not None:
            file = Checkpoint(checkpoint, checkpoint_seconds, elsewhere=group is not None and group.rank > 0)
            file.mark = fingerprint(x, labels, weights, facts)
        # The model can be looked at where replicas have just merged: so long are the pieces that looks and checkpoints count by.
        loop = Loop(models, n_workers, batch_size, one=one, meet=unit, group=group)
        outer = Svrg(X, models, start, biases, rounds.l2) if svrg else None
        link = None
        if group is not None and replicas:
            kind = Synchronous if talk["synchronous"] else Asynchronous
            link = kind(group, loop.runs, fit_intercept, talk["staleness"])
        job = _Job(loop, outer, file, Order(seed, x, shuffle), epochs, history, link)
        job.run(step_size, callback)
        result = job.result(signature, step_size, fit_intercept)
        if link is not None:
            link.close()
        if replicas and talk is not None:
            result.communication = _account(talk, group, link, loop.runs, n, n_workers, fit_intercept, unit)
        return result


# ---- explicit communication --------------------------------------------------------------------------------

_STALENESS = 2


def _talk(
    signature: Signature, group: Group | None, asked: int | None, pinned: bool, deterministic: bool, solver: str,
    error_feedback: Any, staleness: Any,
) -> dict[str, Any] | None:  # fmt: skip
    """How workers communicate explicitly; None: they do not."""
    error_feedback = checks.check_bool("error_feedback", error_feedback)
    if staleness is not None:
        staleness = checks.check_int("staleness", staleness, minimum=1, maximum=1 << 30)
    c = signature.communication
    if c is None:
        if group is not None:
            rule = "needs a C term where workers are ranks of a communicator, which send each other numbers"
            raise checks.wrong_value("signature", f"{rule}; for example {signature}C8s", str(signature))
        if not error_feedback:
            raise checks.wrong_value("error_feedback", "has no effect without a C term in the signature", error_feedback)
    if staleness is not None and (c is None or c.synchronous):
        rule = "has no effect unless the signature has an asynchronous C term (without s)"
        raise checks.wrong_value("staleness", rule, staleness)
    if c is None:
        return None
    if solver == "svrg":
        raise checks.wrong_value("signature", "must have no C term with solver='svrg'", str(signature))
    if deterministic and not c.synchronous:
        rule = f"cannot be had of workers that do not wait for each other; write C{c}s"
        raise checks.wrong_value("deterministic", rule, deterministic)
    if group is not None and asked is not None and asked > 1:
        raise checks.wrong_value("n_threads", "must be 1 or None with a communicator: each rank is one worker, start more", asked)
    if group is not None and pinned:
        raise ValueError("pin_threads: of several ranks the launcher ties processes to CPUs (mpiexec -bind-to core)")
    return {
        "codec": str(c), "synchronous": c.synchronous, "feedback": error_feedback, "staleness": staleness or _STALENESS,
        "local": None if group is None else group.rank,
    }  # fmt: skip


def _comparable(facts: dict[str, Any], data: str) -> dict[str, Any]:
    """What ranks must agree on, by the names of arguments."""
    from . import __version__

    shown = {"version of lowprec": __version__, "signature": facts["signature"], "shape of X": facts["shape"]}
    shown["data (X, y, sample_weight)"] = data
    for name in facts.keys() - {"signature", "shape", "n_workers"}:
        text = repr(facts[name])
        shown[name] = facts[name] if len(text) < 200 else hashlib.sha256(text.encode()).hexdigest()
    return shown


def _account(
    talk: dict[str, Any], group: Group | None, link: Any, runs: list[Any], n: int, workers: int, intercept: bool, sync_every: int
) -> CommunicationInfo:
    """What the run's communication cost."""
    each = bytes_per_exchange(talk["codec"], n, workers, models=len(runs), intercept=intercept)
    full = bytes_per_exchange("32f", n, workers, models=len(runs), intercept=intercept)
    if link is not None and group is not None:
        exchanges, seconds, sent, waiting = link.exchanges, link.seconds, group.bytes_sent, link.waiting
    else:
        exchanges, seconds = runs[0].exchanges
        seconds = sum(run.exchanges[1] for run in runs)
        if not talk["synchronous"]:
            exchanges, seconds = exchanges // workers, seconds / workers
        sent, waiting = round(exchanges * each), None
    return CommunicationInfo(
        talk["codec"], talk["synchronous"], talk["feedback"], workers, None if group is None else group.rank, sync_every,
        exchanges, each,
        sent, full * exchanges, full / each, seconds, waiting,
    )  # fmt: skip


class _Job:
    """The epochs of a run, from the beginning or from a checkpoint."""

    def __init__(
        self, loop: Loop, svrg: Svrg | None, file: Checkpoint | None, order: Order, epochs: int, history: bool, link: Any
    ) -> None:
        self.loop, self.svrg, self.file, self.order, self.epochs, self.history = loop, svrg, file, order, epochs, history
        self.link, self.group = link, loop.group
        self.trace: list[Any] = []
        self.epoch, self.position, self.before = 0, 0, 0
        if file is not None:
            loop.save, loop.due = self._save, file.due

    def run(self, step_size: float, callback: Callable[[TrainInfo], Any] | None) -> None:
        loop, stopped = self.loop, False
        self._resume()
        while self.epoch < self.epochs:
            self.order.set(loop.runs, self.epoch)
            if self.svrg is not None:
                losses = self.svrg.begin()
                if self.history and self.epoch > 0:
                    self.trace.append(loop._each(losses))
            stopped = loop.epoch(self.epoch, step_size, callback, self.position, self.before)
            if self.svrg is not None:
                self.svrg.end()
            self.epoch, self.position, self.before = self.epoch + 1, 0, loop.examples
            if stopped:
                break
            if self.history and self.svrg is None:
                self.trace.append(loop._each([self._loss(model) for model in loop.models]))
            if self.file is not None and loop.agreed(self.epoch == self.epochs or self.file.due()):
                self._save()
        if self.svrg is not None:
            losses = self.svrg.begin(worse=0.0)  # the last anchors, or the best
            if self.history and not stopped:
                self.trace.append(loop._each(losses))

    def _loss(self, model: Model) -> float:
        p = model.problem
        if self.link is not None:
            model.run.merge()  # asynchronous ranks meet
        return training_loss(p.x, p.y, p.weight, p.loss, *model.state(), self.group)

    # ---- checkpoints ----

    def _save(self, position: int = 0) -> None:
        assert self.file is not None
        if position and self.svrg is not None:
            return
        loop = self.loop
        self.position = position
        facts = {
            "epoch": self.epoch, "position": self.position, "before": self.before, "examples": loop.examples,
            "seconds": loop.seconds, "trace": self.trace,
            "workers": loop.n_workers,
            "models": [[m.saturated, m.widened, m.narrowed, m.next_regular, m.regular_look, m.next_late] for m in loop.models],
        }  # fmt: skip
        arrays = {f"{k}.{name}": a for k, run in enumerate(loop.runs) for name, a in run.state().items()}
        if self.svrg is not None:
            arrays |= {f"svrg.{name}": a for name, a in self.svrg.state().items()}
        self.file.write(facts, arrays)

    def _resume(self) -> None:
        found = None if self.file is None else self.file.read()
        if self.group is not None and self.file is not None:
            found = self.group.share(found, "the checkpoint")
        if found is None:
            return
        facts, arrays = found
        loop = self.loop
        self.epoch, self.position, self.before = facts["epoch"], facts["position"], facts["before"]
        loop.examples, loop.seconds, self.trace = facts["examples"], facts["seconds"], facts["trace"]
        for k, (model, numbers) in enumerate(zip(loop.models, facts["models"], strict=True)):
            model.saturated, model.widened, model.narrowed = numbers[:3]
            model.next_regular, model.regular_look, model.next_late = numbers[3:]
            prefix = f"{k}."
            state = {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}
            model.run.restore(state, over=self.epoch == self.epochs)
        if self.svrg is not None:
            self.svrg.restore({name[5:]: a for name, a in arrays.items() if name.startswith("svrg.")})
        if self.link is not None:
            self.link.restart()
        if facts["workers"] != loop.n_workers and self.position:
            self.position = self.order.regroup(self.epoch, facts["workers"], self.position, loop.n_workers)

    # ---- the end ----

    def result(self, signature: Signature, step_size: float, fit_intercept: bool) -> TrainResult:
        loop = self.loop
        coefs, intercepts, last = [], [], []
        for k, model in enumerate(loop.models):
            model.finish()
            weights, intercept = model.state()
            if self.svrg is not None:
                weights, intercept = self.svrg.coefs[k], self.svrg.intercepts[k]
            mean = model.mean()
            last.append(float(intercept) if fit_intercept else 0.0)
            coefs.append(weights if mean is None else mean[0])
            intercepts.append(float(intercept if mean is None else mean[1]) if fit_intercept else 0.0)
            if not (np.isfinite(coefs[-1]).all() and math.isfinite(intercepts[-1]) and math.isfinite(model.run.intercept)):
                raise diverged(step_size)
        each = loop._each
        return TrainResult(
            coef=coefs[0] if loop.one else np.stack(coefs),
            intercept=intercepts[0] if loop.one else np.array(intercepts),
            model=loop.models[0].model if loop.one else [model.model for model in loop.models],
            signature=signature,
            history=[np.array(row) if isinstance(row, (list, tuple)) else row for row in self.trace],
            gnps=loop.gnps,
            seconds=loop.seconds,
            model_scale=each([float(run.model_scale) for run in loop.runs]),
            saturated=each([model.saturated for model in loop.models]),
            widened=each([model.widened for model in loop.models]),
            narrowed=each([model.narrowed for model in loop.models]),
            n_threads=loop.runs[0].threads,
            n_examples=loop.examples,
            last_intercept=last[0] if loop.one else np.array(last),
        )


# ---- arguments ---------------------------------------------------------------------------------------------


def _columns(y: Any, loss: str, m: int) -> list[np.ndarray] | None:
    """The labels of several models, or None where `y` is one-dimensional."""
    a = checks.as_array(y, "y")
    if a.ndim != 2 or a.shape[1] == 1 or (len(a) == 1 and m > 1):
        return None  # of one column, `check_labels` says what to do
    if a.shape[0] != m or a.shape[1] == 0:
        raise ValueError(f"y: must have {m} rows, and a column for each model; got shape {a.shape}")
    return [checks.check_labels(np.ascontiguousarray(a[:, k]), loss, m, f"y[:, {k}]") for k in range(a.shape[1])]


def _weights(value: Any, m: int, count: int, one: bool) -> list[np.ndarray | None]:
    """The examples' weights for each model: those of all, or a column each."""
    if one or np.ndim(value) != 2:
        return [checks.check_sample_weight(value, m)] * count
    if np.shape(value)[1] != count:
        raise ValueError(f"sample_weight: must have a column for each of the {count} models; got shape {np.shape(value)}")
    a = np.asarray(value)
    return [checks.check_sample_weight(a[:, k], m, f"sample_weight[:, {k}]") for k in range(count)]


def _each(name: str, value: Any, one: bool, count: int) -> list[Any]:
    """A number for each model; one number is for all."""
    if one or np.ndim(value) == 0:
        return [value] * count
    values = list(value)
    if len(values) != count:
        raise ValueError(f"{name}: must be one number, or one for each of the {count} models; got {len(values)}")
    return values


def _rows_of(name: str, value: Any, n: int, count: int | None) -> list[np.ndarray]:
    """A finite vector for each model."""
    if count is None:
        return [checks.check_vector(name, value, n)]
    a = checks.as_array(value, name)
    if a.ndim != 2 or len(a) != count:
        raise ValueError(f"{name}: must have a row for each of the {count} models; got shape {a.shape}")
    return [checks.check_vector(f"{name}[{k}]", row, n) for k, row in enumerate(a)]


def _check_svrg(rounds: Rounds, schedule: str, model_scale: Any) -> None:
    if rounds.l1:
        raise ValueError("penalty: solver='svrg' has L2 alone, for it adds up corrections; use solver='sgd' for L1")
    if rounds.average_from is not None:
        raise ValueError("average: has no effect with solver='svrg', which needs no averaging; leave average=False")
    if schedule != "constant":
        raise checks.wrong_value("schedule", "must be constant with solver='svrg', whose noise vanishes by itself", schedule)
    if model_scale is not None:
        raise ValueError("model_scale: solver='svrg' chooses that of its corrections; leave model_scale=None")


def _rounds(
    schedule: str, power: float, before: int, penalty: str | None, alpha: float, l1_ratio: float, average: bool | int,
    n_examples: int,
) -> Rounds:  # fmt: skip
    """What happens between rounds, from the arguments of `train`."""
    checks.check_choice("schedule", schedule, SCHEDULES)
    power = checks.check_finite_scalar("power", power, nonnegative=True)
    before = checks.check_int("examples_before", before, minimum=0, maximum=NEVER)
    alpha = checks.check_finite_scalar("alpha", alpha, nonnegative=True)
    l1_ratio = checks.check_finite_scalar("l1_ratio", l1_ratio, nonnegative=True)
    if l1_ratio > 1.0:
        raise checks.wrong_value("l1_ratio", "must lie in [0, 1]", l1_ratio)
    if penalty is not None:
        checks.check_choice("penalty", penalty, PENALTIES)
    elif alpha:
        raise checks.wrong_value("alpha", f"has no effect without a penalty; choose one of {{{', '.join(PENALTIES)}}}", alpha)
    part = {None: 0.0, "l1": 1.0, "l2": 0.0, "elasticnet": l1_ratio}[penalty]
    if isinstance(average, (bool, np.bool_)):
        start = n_examples // 2 if average else None
    else:
        start = min(checks.check_int("average", average, minimum=0), NEVER)
    return Rounds(schedule, power, before, alpha * part, alpha * (1.0 - part), start)


class Order:
    """The order of the rows in each epoch; the same numbers for the same seed, whichever epoch is asked for first.

    Parameters
    ----------
    seed : int
    x : QuantizedArray or SparseArray
    how : bool or "blocks"
    """

    def __init__(self, seed: int, x: QuantizedArray | SparseArray, how: bool | str) -> None:
        self.rng, self.how, self.drawn = np.random.default_rng(seed), how, 0
        self.rest: np.ndarray | None = None  # of an epoch that other workers began
        self.again = False
        self.m = x.shape[0]
        self.rows = max(1, min(self.m, _SHUFFLED_BYTES * self.m // max(x.nbytes, 1)))

    def _draw(self) -> np.ndarray:
        self.drawn += 1
        if self.how is True:
            return self.rng.permutation(self.m).astype(np.int64, copy=False)
        blocks = -(-self.m // self.rows)
        starts = self.rng.permutation(blocks).astype(np.int64) * self.rows
        rows = self.rng.permuted(np.tile(np.arange(self.rows, dtype=np.int64), (blocks, 1)), axis=1)
        rows += starts[:, None]
        order = rows.ravel()
        return order[order < self.m]

    def set(self, runs: list[Any], epoch: int) -> None:
        """Tell the runs the order of an epoch."""
        if self.rest is not None:
            order, self.rest, self.again = self.rest, None, True
        elif self.how is False:
            if not self.again:
                return
            order, self.again = None, False
        else:
            order = self._of(epoch)
        for run in runs:
            run.set_order(order)

    def _of(self, epoch: int) -> np.ndarray:
        while self.drawn < epoch:
            self._draw()
        return self._draw()

    def regroup(self, epoch: int, before: int, position: int, workers: int) -> int:
        """Go on with an epoch of which each of `before` workers has done `position` examples of its share, with other workers.

        Returns the position of their shares: what was visited comes before it. (Where it does not divide, up to
        ``workers - 1`` rows are visited again.)
        """
        order = np.arange(self.m, dtype=np.int64) if self.how is False else self._of(epoch)
        self.rest, position = regrouped(order, before, position, workers)
        return position


def _largest(x: QuantizedArray | SparseArray) -> float:
    """The largest finite magnitude of float data, a block at a time; 1 where all are zero."""
    m = x.shape[0]
    rows, largest = max(1, (1 << 18) * m // max(x.codes.size, 1)), 0.0
    for i in range(0, m, rows):
        part = np.abs(x[i : min(i + rows, m)].codes)
        largest = max(largest, float(np.max(part, where=np.isfinite(part), initial=0.0)))
    return largest or 1.0


def _cpus(n_workers: int) -> np.ndarray | None:
    """A CPU for each worker, of those that this process may use; None where OpenMP has tied its threads already."""
    if not _sgd.can_pin():
        raise ValueError("pin_threads: this system cannot tie threads to CPUs (Linux can); leave pin_threads=False")
    if binds_threads(os.environ):
        return None
    return np.resize(np.array(sorted(os.sched_getaffinity(0)), np.int32), n_workers)
