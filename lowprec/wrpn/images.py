"""Images to train on: MNIST and Fashion-MNIST (idx files), CIFAR-10 (its binary files)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import checks
from ..datasets import load

__all__ = ["DATA_SETS", "VARIABLE", "Images", "as_floats", "load_images"]

#: Environment variable that names the folder of the data sets.
VARIABLE = "LOWPREC_DATA"
#: Names of the data sets, and of the folders in which their files may be.
DATA_SETS = {
    "mnist": ("mnist", "MNIST/raw"),
    "fashion-mnist": ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw"),
    "cifar-10": ("cifar-10", "cifar_10", "cifar10", "cifar-10-batches-bin"),
}

_CLASSES = 10
# An image of CIFAR-10: its label, then 32 x 32 bytes of each of the three colours.
_CIFAR_SHAPE = (3, 32, 32)
_CIFAR_BYTES = 1 + 3 * 32 * 32


@dataclass(frozen=True)
class Images:
    """Images and their labels, to train on and to test on.

    Attributes
    ----------
    name : str
        Of the data set.
    x, test_x : ndarray of uint8, shape (m, channels, height, width)
    y, test_y : ndarray of int64, shape (m,)
        Labels, from 0 on.
    classes : int
        How many labels there are.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    classes: int = _CLASSES

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return self.x.shape[1:]


def as_floats(x: np.ndarray) -> np.ndarray:
    """Pixels as the networks take them: divided by 255, float32."""
    return x.astype(np.float32) / np.float32(255)


def load_images(name: str, folder: str | os.PathLike[str] | None = None) -> Images:
    """Read a data set of images.

    Parameters
    ----------
    name : str
        mnist, fashion-mnist or cifar-10.
    folder : path-like, optional
        Where its files are, or a folder of that name in it; by default the folder that the environment variable LOWPREC_DATA
        names. MNIST and Fashion-MNIST are idx files under their usual names (``train-images-idx3-ubyte``, ...), also as .gz;
        CIFAR-10 is its binary version (``data_batch_1.bin`` to ``data_batch_5.bin``, ``test_batch.bin``).

    Returns
    -------
    Images

    Raises
    ------
    ValueError
        If no folder is named or the files are not in it, or one is cut short or malformed; the message names it.
    """
    checks.check_choice("data", name, DATA_SETS)
    place = _place(name, folder)
    if name == "cifar-10":
        parts = [_cifar(place / f"data_batch_{k}.bin") for k in range(1, 6)]
        x, y = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
        test_x, test_y = _cifar(place / "test_batch.bin")
    else:
        x, y = _idx(place, "train")
        test_x, test_y = _idx(place, "t10k")
    return Images(name, x, y, test_x, test_y)


def _first_file(name: str) -> str:
    return "data_batch_1.bin" if name == "cifar-10" else "train-images-idx3-ubyte"


def _place(name: str, folder: str | os.PathLike[str] | None) -> Path:
    """The folder with the files themselves."""
    if folder is None:
        folder = os.environ.get(VARIABLE)
        if not folder:
            raise checks.wrong_value(VARIABLE, f"must name the folder of the data sets, or folder the one of {name}", "nothing")
    given, file = Path(folder), _first_file(name)
    places = [given, *(given / inside for inside in DATA_SETS[name])]
    for place in places:
        if _there(place, file) is not None:
            return place
    raise checks.wrong_value("folder", f"must have {file} of {name}, in itself or in {places[1].name}", str(folder))


def _there(place: Path, file: str) -> Path | None:
    """The file, or the same one compressed."""
    return next((path for path in (place / file, place / f"{file}.gz") if path.is_file()), None)


def _idx(place: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = (_there(place, f"{part}-{what}-ubyte") for what in ("images-idx3", "labels-idx1"))
    for path, what in ((images, "images-idx3"), (labels, "labels-idx1")):
        if path is None:
            raise checks.wrong_value("folder", f"must have {part}-{what}-ubyte, plain or as .gz", str(place))
    x, y = load(images, labels=labels)
    if x.dtype != np.uint8 or x.shape[1] != 28 * 28:
        raise checks.bad_file(images, f"rows of {x.shape[1]} numbers of {x.dtype}", expected="images of 28 x 28 bytes")
    _check_labels(labels, y, len(x))
    return np.ascontiguousarray(x).reshape(-1, 1, 28, 28), y.astype(np.int64)


def _cifar(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if not path.is_file():
        raise checks.wrong_value("folder", f"must have {path.name} of CIFAR-10's binary version", str(path.parent))
    content = np.fromfile(path, np.uint8)
    if content.size == 0 or content.size % _CIFAR_BYTES:
        raise checks.bad_file(path, f"{content.size} bytes", expected=f"a multiple of {_CIFAR_BYTES}: labels and 3 x 32 x 32 bytes")
    rows = content.reshape(-1, _CIFAR_BYTES)
    y = rows[:, 0].astype(np.int64)
    _check_labels(path, y, len(rows))
    return np.ascontiguousarray(rows[:, 1:]).reshape(-1, *_CIFAR_SHAPE), y


def _check_labels(path: Path | None, y: np.ndarray, count: int) -> None:
    if len(y) != count:
        raise checks.bad_file(path, f"{len(y)} labels", expected=f"{count}, one for each image")
    wrong = np.flatnonzero((y < 0) | (y >= _CLASSES))
    if wrong.size:
        raise checks.bad_file(path, f"label {y[wrong[0]]} at index {wrong[0]}", expected=f"0 to {_CLASSES - 1}")
