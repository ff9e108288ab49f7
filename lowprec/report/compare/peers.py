"""Those who are compared, each as a user would call it; they run in processes of their own, see `worker`.

A contender has a *setting* (its step size, learning rate or C, of which a few are tried) and an *effort* (epochs, passes, or a
stopping tolerance, of which the least is sought that reaches the target). Settings are in units of one over the mean squared norm
of an example where that matters, so that the same few suit every data set.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lowprec.report.compare.data import About, Data
from lowprec.report.compare.text import write_text

__all__ = ["ENGINES", "Contender", "Engine", "absence", "cleared", "contenders", "engine_of", "missing"]

_EPOCHS = (1, 2, 3, 4, 5, 6, 7, 10, 14, 20)


class Engine:
    """What contenders of one library share.

    Attributes
    ----------
    name, module, install : str
        The library, what is imported of it, and what a shell is told to install it.
    settings : sequence of float
        A ladder, of which steps are tried from `first` on, up or down while the loss falls.
    first : float
    also : sequence
        Settings off the ladder that are tried too.
    efforts : sequence of float
        The least first.
    standard : float
        The effort at which settings are compared.
    setting_name, effort_name : str
        What they are.
    prepares : str
        What `prepare` does, in a word or two; empty if nothing.
    """

    name, module, install = "", "", ""
    settings: Sequence[Any] = (0.01, 0.018, 0.03, 0.055, 0.1, 0.18, 0.3, 0.55, 1.0, 1.8, 3.0, 5.5, 10.0, 18.0, 30.0)
    first: Any = 1.0
    also: Sequence[Any] = ()
    efforts: Sequence[float] = _EPOCHS
    standard: float = 5
    setting_name, effort_name, prepares = "step", "epochs", ""

    def __init__(self, threads: int = 1, **options: Any) -> None:
        self.threads, self.options = threads, options

    def stage(self, data: Data) -> None:
        """Write what must lie on disk for it, once a data set and untimed."""

    def load(self) -> None:
        """Import what it needs, before anything is timed or weighed."""
        if self.module:
            importlib.import_module(self.module)

    def prepare(self, data: Data) -> None:
        """Bring the data into its own form."""
        self.data = data

    def fit(self, setting: Any, effort: float, columns: int) -> Any:
        """Train the first `columns` models from nothing."""
        raise NotImplementedError

    def weights(self, fitted: Any) -> tuple[np.ndarray, np.ndarray]:
        """Weights, shape (columns, n), and intercepts of what `fit` has returned."""
        return fitted

    def tuned_on(self, about: About) -> int:
        """How many of the models it is tuned on where trying settings on all would take too long."""
        return 1

    def bytes_per_example(self) -> float:
        """Of the training data as each epoch reads them."""
        X = self.data.X
        return (X.data.nbytes + X.indices.nbytes if self.data.about.sparse else X.nbytes) / X.shape[0]


class Lowprec(Engine):
    """`lowprec.train`, the step falling linearly to zero; on several threads with replicas, merged every 64 examples."""

    name, prepares = "lowprec", "quantize"

    def load(self) -> None:
        import lowprec.sgd  # noqa: F401

    def prepare(self, data: Data) -> None:
        from lowprec import Signature
        from lowprec.sgd import prepare_data

        self.data = data
        self.X = prepare_data(data.X, Signature(self.options["signature"]).dataset, n_workers=self.threads)

    def fit(self, setting: float, effort: float, columns: int) -> Any:
        import lowprec as lp

        about = self.data.about
        T = self.data.T
        r = lp.train(
            self.X,
            T[:, 0] if columns == 1 else T[:, :columns],
            signature=self.options["signature"],
            loss=about.loss,
            step_size=setting / about.norm,
            schedule="linear",
            epochs=int(effort),
            n_threads=self.threads,
            sync_every=64 if self.threads > 1 else None,
            fit_intercept=True,
        )
        return np.atleast_2d(r.coef), np.atleast_1d(r.intercept)

    def bytes_per_example(self) -> float:
        return self.X.nbytes / self.X.shape[0]


class ScikitLearn(Engine):
    """SGDClassifier, of a quantity SGDRegressor, on float32; a constant step, or its default schedule."""

    name, module, install = "scikit-learn", "sklearn.linear_model", "pip install scikit-learn"
    also = ("optimal",)

    def fit(self, setting: Any, effort: float, columns: int) -> Any:
        from sklearn.linear_model import SGDClassifier, SGDRegressor

        data, about = self.data, self.data.about
        schedule: dict[str, Any] = {"learning_rate": "optimal"}
        if setting != "optimal":
            schedule = {"learning_rate": "constant", "eta0": setting / about.norm, "penalty": None}
        common = {"max_iter": int(effort), "tol": None, "shuffle": False, "random_state": 0, **schedule}
        if about.classes is None:
            if setting == "optimal":
                common["learning_rate"] = "invscaling"
            return SGDRegressor(loss="squared_error", **common).fit(data.X, data.T[:, 0])
        y = (data.T[:, 0] > 0).astype(int) if columns == 1 else data.classes()
        return SGDClassifier(loss="log_loss", n_jobs=self.threads if columns > 1 else None, **common).fit(data.X, y)

    def weights(self, fitted: Any) -> tuple[np.ndarray, np.ndarray]:
        return np.atleast_2d(fitted.coef_), np.atleast_1d(fitted.intercept_)


class Liblinear(Engine):
    """LIBLINEAR multicore: L2-regularized logistic regression in the primal, of a quantity least squares; both run on threads."""

    name, module, install = "LIBLINEAR", "liblinear.liblinearutil", "pip install liblinear-multicore"
    settings = (0.01, 0.1, 1.0, 10.0, 100.0)
    efforts = (0.1, 0.01, 0.001, 0.0001)
    standard = 0.01
    setting_name, effort_name, prepares = "C", "tolerance", "its own nodes"

    def prepare(self, data: Data) -> None:
        from liblinear.liblinearutil import problem
        from scipy.sparse import csr_matrix

        self.data = data
        y = data.classes().astype(np.float64) if data.about.classes is not None else data.T[:, 0].astype(np.float64)
        self.problem = problem(y, csr_matrix(data.X), bias=1)

    def fit(self, setting: float, effort: float, columns: int) -> Any:
        from liblinear.liblinearutil import parameter, train

        about = self.data.about
        y = self.data.classes() if about.classes is not None else self.data.T[:, 0]
        if columns < about.n_models:
            y = self.data.T[:, 0] > 0
        np.ctypeslib.as_array(self.problem.y, (about.n_train,))[:] = y
        solver = "-s 0" if about.classes is not None else "-s 11 -p 0"
        options = f"{solver} -c {setting / about.norm:.9g} -e {effort:g} -m {self.threads} -B 1 -q"
        return train(self.problem, parameter(options))

    def weights(self, fitted: Any) -> tuple[np.ndarray, np.ndarray]:
        n, labels = self.data.about.n, fitted.get_labels()
        decisions = [fitted.get_decfun(k) for k in range(len(labels) if len(labels) > 2 else 1)]
        coef, intercept = np.array([w[:n] for w, _ in decisions]), np.array([b for _, b in decisions])
        if self.data.about.classes is None:
            return coef, intercept
        if len(decisions) == 1:  # of the label that it saw first
            sign = 1 if labels[0] == 1 else -1
            return sign * coef, sign * intercept
        order = np.argsort(labels)
        return coef[order], intercept[order]

    def bytes_per_example(self) -> float:
        return self.problem.x_space.nbytes / self.data.about.n_train


class VowpalWabbit(Engine):
    """Vowpal Wabbit with its own update rule, from a cache that it makes of a text file; a second thread of its own parses."""

    name, module, install = "Vowpal Wabbit", "vowpalwabbit", "pip install vowpalwabbit"
    settings = (0.02, 0.1, 0.5, 2.0, 10.0)
    first = 0.5
    setting_name, effort_name, prepares = "learning rate", "passes", "parse text"

    _CONSTANT = 11650396  # the number that it gives the constant feature

    def stage(self, data: Data) -> None:
        y = data.T[:, 0] if data.about.n_models == 1 else data.classes() + 1
        write_text(data.folder / "examples.vw", data.X, y)

    def _workspace(self, arguments: str) -> Any:
        from vowpalwabbit import Workspace

        about = self.data.about
        loss = "logistic" if about.loss == "logistic" else "squared"
        oaa = f"--oaa {about.n_models}" if about.n_models > 1 else ""
        bits = max(22, (about.n * self._stride).bit_length() + 1)
        common = f"--loss_function {loss} {oaa} -b {bits} --cache_file {self.cache} --holdout_off --no_stdin --quiet"
        return Workspace(f"{common} {arguments}")

    @property
    def _stride(self) -> int:
        return 1 << (self.data.about.n_models - 1).bit_length()

    def prepare(self, data: Data) -> None:
        self.data = data
        self.cache = data.folder / f"examples.{os.getpid()}.cache"
        self._workspace(f"-d {data.folder / 'examples.vw'} -k -t").finish()

    def fit(self, setting: float, effort: float, columns: int) -> Any:
        return self._workspace(f"--passes {int(effort)} -l {setting:g}")

    def weights(self, fitted: Any) -> tuple[np.ndarray, np.ndarray]:
        n, models = self.data.about.n, range(self.data.about.n_models)
        coef = np.array([[fitted.get_weight(j * self._stride + k) for j in range(n)] for k in models])
        intercept = np.array([fitted.get_weight(self._CONSTANT * self._stride + k) for k in models])
        fitted.finish()
        return coef, intercept

    def tuned_on(self, about: About) -> int:
        return about.n_models  # its file holds all classes

    def bytes_per_example(self) -> float:
        return self.cache.stat().st_size / self.data.about.n_train


class Tick(Engine):
    """tick's SVRG on float32, asynchronous on several threads; each model by itself."""

    name, module, install = "tick", "tick.linear_model", "pip install tick numpydoc six"
    prepares = "copy"

    def prepare(self, data: Data) -> None:
        self.data = data
        # It takes no memory that cannot be written.
        self.X = data.X.copy() if data.about.sparse else np.array(data.X)

    def fit(self, setting: float, effort: float, columns: int) -> Any:
        from tick.linear_model import ModelLinReg, ModelLogReg
        from tick.prox import ProxZero
        from tick.solver import SVRG

        about, found = self.data.about, []
        kind = ModelLinReg if about.loss == "squared" else ModelLogReg
        options = {"max_iter": int(effort), "tol": 0.0, "seed": 1, "verbose": False, "record_every": 1 << 30}
        for k in range(columns):
            model = kind(fit_intercept=True).fit(self.X, np.array(self.data.T[:, k]))
            solver = SVRG(step=setting / about.norm, n_threads=self.threads, **options).set_model(model).set_prox(ProxZero())
            found.append(solver.solve(np.zeros(about.n + 1, np.float32)))
        weights = np.array(found)
        return weights[:, :-1], weights[:, -1]


#: By name, in the order of the tables; the first that is installed sets the target.
ENGINES: dict[str, type[Engine]] = {e.name: e for e in (ScikitLearn, Lowprec, Liblinear, VowpalWabbit, Tick)}

SIGNATURES = ("D32fM32f", "D8M16", "D8M8")


@dataclass(frozen=True)
class Contender:
    """One row of the table: an engine with its options.

    Attributes
    ----------
    engine : str
        A key of `ENGINES`, or ``module:class``.
    threads : int
    signature : str or None
        Of ours.
    """

    engine: str
    threads: int = 1
    signature: str | None = None

    @property
    def name(self) -> str:
        """As the tables have it."""
        return f"{self.engine.rpartition(':')[2]} {self.signature or ''}".strip()

    def make(self) -> Engine:
        """What runs."""
        options = {} if self.signature is None else {"signature": self.signature}
        return engine_of(self.engine)(threads=self.threads, **options)


def engine_of(name: str) -> type[Engine]:
    """The class of a contender's engine."""
    if ":" in name:
        module, _, attribute = name.partition(":")
        return getattr(importlib.import_module(module), attribute)
    return ENGINES[name]


def contenders(about: About, threads: Sequence[int]) -> list[Contender]:
    """Everybody, on one thread and on all where they can use them; on many classes scikit-learn can."""
    made = []
    for engine in ENGINES:
        for t in threads:
            if engine == "Vowpal Wabbit" and t > 1:
                continue
            if engine == "scikit-learn" and t > 1 and about.n_models == 1:
                continue
            signatures = SIGNATURES if engine == "lowprec" else (None,)
            made += [Contender(engine, t, s) for s in signatures]
    return made


def missing(engine: type[Engine]) -> str | None:
    """That an engine is not installed, with the command that installs it; None if it is.

    It is looked for, not imported: some libraries take Ctrl-C for themselves. Whether it imports, its own process will see.
    """
    package = engine.module.partition(".")[0]
    if not package or importlib.util.find_spec(package) is not None:
        return None
    return absence(engine, f"there is no module {package}")


def absence(engine: type[Engine], why: str) -> str:
    """The sentence about an engine that is not there."""
    return f"{engine.name}: {why}; {engine.install}"


def cleared(folder: Path) -> None:
    """Remove the caches that contenders have left beside the data."""
    for path in folder.glob("examples.*.cache"):
        path.unlink(missing_ok=True)
