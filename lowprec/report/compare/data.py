"""The data sets of the comparison: made or read once, written down, and mapped into memory by every contender."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lowprec import datasets
from lowprec.checks import bad_file, need_extra, wrong_value
from lowprec.features import random_fourier_features
from lowprec.report import training

__all__ = ["NAMED", "NEEDS_FOLDER", "About", "Data", "make"]

#: Data sets that have a name; anything else is a file.
NAMED = ("generative", "mnist-rff-2", "mnist-rff-10", "a9a", "ijcnn1", "reuters")
NEEDS_FOLDER = NAMED[1:]

#: Below this share of nonzeros every contender gets sparse rows (CSR), as its users would.
SPARSE_BELOW = 0.25

_SVMLIGHT = {
    "a9a": ("a9a.bz2", "a9a.t.bz2"),
    "ijcnn1": ("ijcnn1.trn.bz2", "ijcnn1.tst.bz2"),
    "reuters": ("reuters_moneyfx.trn.bz2", "reuters_moneyfx.tst.bz2"),
}
_GENERATIVE = {False: (2**10, 2**17), True: (2**9, 2**14)}  # features and examples, in full and quick


@dataclass(frozen=True)
class About:
    """What a data set is.

    Attributes
    ----------
    name, source : str
        Its name, and in a few words where it is from.
    n, n_train, n_models : int
        Features, training rows, and models: one for two classes or a quantity, else one for each class against the rest.
    classes : list or None
        None: the target is a quantity.
    loss : {"logistic", "squared"}
    norm : float
        Mean squared norm of a training row and its constant feature.
    sparse : bool
    """

    name: str
    source: str
    n: int
    n_train: int
    n_models: int
    classes: list[Any] | None
    loss: str
    norm: float
    sparse: bool


@dataclass
class Data:
    """A data set in a folder.

    Attributes
    ----------
    about : About
    folder : Path
    X, X_val, X_test : ndarray of float32 or csr_matrix
        Mapped into memory, read-only.
    T, T_val, T_test : ndarray of float32, shape (rows, models)
        What each model learns: -1 and +1, or the standardized quantity. Columns are contiguous.
    """

    about: About
    folder: Path
    X: Any
    T: np.ndarray
    X_val: Any
    T_val: np.ndarray
    X_test: Any
    T_test: np.ndarray

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Data:
        """The data set that `make` has left in a folder."""
        path = Path(folder)
        about = About(**json.loads((path / "about.json").read_text()))
        parts = {}
        for suffix in ("", "_val", "_test"):
            parts["X" + suffix] = _open(path, "X" + suffix, about)
            parts["T" + suffix] = np.load(path / f"T{suffix}.npy")
        return cls(about, path, **parts)

    def touch(self) -> None:
        """Read the training rows once, so that no contender pays for bringing them from a disk."""
        for part in (self.X.data, self.X.indices, self.X.indptr) if self.about.sparse else (self.X,):
            flat = part.reshape(-1)
            for i in range(0, len(flat), 1 << 22):
                flat[i : i + (1 << 22)].max()

    def classes(self) -> np.ndarray:
        """The training rows' class as a number from 0; of two classes 1 is the positive one."""
        return self.T.argmax(axis=1) if self.about.n_models > 1 else (self.T[:, 0] > 0).astype(int)

    def score(self, coef: np.ndarray, intercept: np.ndarray) -> float:
        """Accuracy on the test rows, or R^2 of a quantity."""
        outputs = _outputs(self.X_test, coef, intercept)
        if self.about.classes is None:
            return float(1 - np.mean((outputs - self.T_test) ** 2) / max(float(self.T_test.var()), 1e-30))
        if self.about.n_models == 1:
            return float(np.mean((outputs > 0) == (self.T_test > 0)))
        return float(np.mean(outputs.argmax(axis=1) == self.T_test.argmax(axis=1)))

    def loss(self, coef: np.ndarray, intercept: np.ndarray, columns: int) -> float:
        """Mean loss on the validation rows, over the first models."""
        from lowprec.losses import mean_loss

        outputs = _outputs(self.X_val, coef, intercept)
        return float(np.mean([mean_loss(self.about.loss, outputs[:, k], self.T_val[:, k]) for k in range(columns)]))


def _outputs(X: Any, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    return np.asarray(X @ np.asarray(coef, np.float32).T, np.float64) + intercept


def _open(folder: Path, name: str, about: About) -> Any:
    if not about.sparse:
        return np.load(folder / f"{name}.npy", mmap_mode="r")
    from scipy.sparse import csr_matrix

    parts = [np.load(folder / f"{name}.{part}.npy", mmap_mode="r") for part in ("data", "indices", "indptr")]
    return csr_matrix(tuple(parts), shape=(len(parts[2]) - 1, about.n), copy=False)


def make(name: str, folder: Path, *, n_features: int, quick: bool, seed: int) -> About:
    """Make or read a data set and leave it in a folder.

    Parameters
    ----------
    name : str
        One of `NAMED`, or a file that `lowprec.datasets.load` reads.
    folder : Path
        An existing one, empty.
    n_features : int
        Random Fourier features of the MNIST sets.
    quick : bool
        At most 10,000 training rows, and of MNIST at most 512 features.
    seed : int
        Of whatever is drawn.
    """
    if name == "generative":
        n, m = _GENERATIVE[quick]
        held = m // 4
        g = datasets.generative(n, m + 2 * held, seed)
        T = g.y.astype(np.float32)[:, None]
        cuts = [slice(0, m), slice(m, m + held), slice(m + held, None)]
        parts = [(g.X[cut], T[cut]) for cut in cuts]
        return _write(folder, name, "the paper's generative model of logistic regression", [-1, 1], "logistic", parts)
    if name in NEEDS_FOLDER:
        root = _root(name)
        if name.startswith("mnist"):
            return _mnist(root, folder, name, min(n_features, 512) if quick else n_features, quick, seed)
        return _svmlight(root, folder, name, quick, seed)
    X, y = datasets.load(name)
    if quick:
        X, y = X[:10_000], y[:10_000]
    p = training.prepare(X, y, training.Options(test_size=0.3, seed=seed))
    classes = None if p.classes is None else p.classes.tolist()
    mean, deviation = (float(p.y.mean()), float(p.y.std()) or 1.0) if classes is None else (0.0, 1.0)

    def targets(y: np.ndarray) -> np.ndarray:
        return ((y - mean) / deviation).astype(np.float32)[:, None] if classes is None else _columns(y, p.classes)

    half = len(p.y_test) // 2
    parts = [(p.X, targets(p.y))]
    parts += [(p.X_test[cut], targets(p.y_test[cut])) for cut in (slice(0, half), slice(half, None))]
    return _write(folder, Path(name).name, f"features scaled: {p.scaling}", classes, p.loss, parts)


def _root(name: str) -> Path:
    root = os.environ.get("LOWPREC_DATA")
    if not root:
        rule = "needs the folder of data sets: set LOWPREC_DATA to it (docs/compare.md says what lies there)"
        raise wrong_value(name, rule, "no LOWPREC_DATA; generative needs none")
    return Path(root)


def _columns(y: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """-1 and +1 of each class against the rest; of two classes one column, +1 for the second."""
    positives = classes[1:] if len(classes) == 2 else classes
    return np.asfortranarray(np.where(y[:, None] == positives[None, :], np.float32(1), np.float32(-1)))


def _mnist(root: Path, folder: Path, name: str, n_features: int, quick: bool, seed: int) -> About:
    pixels, digits = {}, {}
    for part, file in (("train", "train-images-idx3-ubyte.gz"), ("test", "t10k-images-idx3-ubyte.gz")):
        pixels[part], digits[part] = datasets.load(root / "mnist" / file)
    m = 10_000 if quick else len(pixels["train"])
    order = np.random.default_rng(seed).permutation(len(pixels["train"]))[:m]
    two = name.endswith("-2")
    classes = np.arange(2 if two else 10)
    raw = [(pixels["train"][order], digits["train"][order])]
    raw += [(pixels["test"][cut], digits["test"][cut]) for cut in (slice(0, None, 2), slice(1, None, 2))]
    # scikit-learn's rule for gamma: one over the number of features times their variance.
    scale = 1 / 255
    gamma = 1 / (pixels["train"].shape[1] * float(pixels["train"][::10].std()) ** 2 * scale**2)
    parts = []
    for suffix, (X, y) in zip(("", "_val", "_test"), raw, strict=True):
        Z = np.lib.format.open_memmap(folder / f"X{suffix}.npy", "w+", np.float32, (len(X), n_features))
        random_fourier_features(X * np.float32(scale), n_features, gamma=gamma, seed=seed, out=Z)
        parts.append((Z, _columns(y % 2 if two else y, classes)))
    source = f"{n_features} random Fourier features of MNIST, " + ("odd or even" if two else "ten digits")
    return _write(folder, name, source, classes.tolist(), "logistic", parts)


def _svmlight(root: Path, folder: Path, name: str, quick: bool, seed: int) -> About:
    need_extra("scipy.sparse", "learn", "sparse data")
    (X, y), (B, t) = (datasets.load(root / "svmlight" / file, sparse=True) for file in _SVMLIGHT[name])
    n = max(X.shape[1], B.shape[1])
    X.resize(X.shape[0], n)
    B.resize(B.shape[0], n)
    rng = np.random.default_rng(seed)
    order, held = rng.permutation(len(y))[: 10_000 if quick else None], rng.permutation(len(t))
    classes = np.unique(y)
    half = len(held) // 2
    parts = [(X[order], _columns(y[order], classes))]
    parts += [(B[rows], _columns(t[rows], classes)) for rows in (held[:half], held[half:])]
    return _write(folder, name, "as the LIBSVM collection has it", classes.tolist(), "logistic", parts)


def _write(folder: Path, name: str, source: str, classes: list | None, loss: str, parts: list[tuple[Any, np.ndarray]]) -> About:
    """Write training, validation and test rows: sparse where most numbers are zero."""
    X, T = parts[0]
    if min(len(t) for _, t in parts) == 0:
        raise bad_file(name, "too few rows to hold some out")
    dense = not hasattr(X, "tocsr")
    density = (np.count_nonzero(X[:10_000]) / X[:10_000].size) if dense else X.nnz / (X.shape[0] * X.shape[1])
    sparse = bool(density < SPARSE_BELOW)
    for suffix, (A, t) in zip(("", "_val", "_test"), parts, strict=True):
        np.save(folder / f"T{suffix}.npy", np.asfortranarray(t))
        if sparse:
            from scipy.sparse import csr_matrix

            A = csr_matrix(A)
            A.sort_indices()
            for part in ("data", "indices", "indptr"):
                np.save(folder / f"X{suffix}.{part}.npy", getattr(A, part))
        elif isinstance(A, np.memmap):
            A.flush()
        else:
            np.save(folder / f"X{suffix}.npy", np.ascontiguousarray(A.toarray() if hasattr(A, "tocsr") else A, np.float32))
    some = X[:10_000]
    squares = some.multiply(some).sum() if not dense else float(np.einsum("ij,ij->", some, some, dtype=np.float64))
    norm = 1.0 + float(squares) / some.shape[0]
    about = About(name, source, X.shape[1], X.shape[0], T.shape[1], classes, loss, norm, sparse)
    (folder / "about.json").write_text(json.dumps(asdict(about)))
    return about
