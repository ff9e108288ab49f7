"""Training networks of few bits: a plain loop, checkpoints, and going on from one.

Adam with a cosine schedule, on float32 weights that the layers quantize anew in every step. A run is a function of its recipe
and its options: each epoch's order and dropout come from the seed and the number of the epoch, so that a run that was stopped
after an epoch ends, on one thread, in the bits of one that was not.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import atomic, checks
from .architecture import FLOAT, check_bits
from .architectures import ARCHITECTURES, get_architecture
from .images import Images

torch = checks.need_extra("torch", "wrpn", "lowprec.wrpn's training")

from torch import nn  # noqa: E402 - only after its absence would have been a sentence

from .building import build  # noqa: E402
from .conversion import convert, inner_layers, read_graph, trace  # noqa: E402
from .modules import zero_fractions  # noqa: E402

__all__ = [
    "Epoch",
    "Options",
    "Recipe",
    "accuracy",
    "load_network",
    "make_network",
    "predictions",
    "spread_weights",
    "train_network",
]

_VERSION = 1
#: The one entry of a file's metadata: JSON.
_KEY = "lowprec.wrpn"
_EXPECTED = "a checkpoint of lowprec wrpn train"
# Images at a time where nothing is learned.
_MANY = 1000


@dataclass(frozen=True)
class Recipe:
    """What network is trained.

    Parameters
    ----------
    architecture : str
        The name of a well-known one.
    weight_bits, activation_bits : int
        In [1, 8], or 32 for float32.
    widen : float
        How many times as many channels.

    Raises
    ------
    TypeError, ValueError
        For a name that there is not, or bits or a width out of range.
    """

    architecture: str = "convnet"
    weight_bits: int = FLOAT
    activation_bits: int = FLOAT
    widen: float = 1.0

    def __post_init__(self) -> None:
        checks.check_choice("architecture", self.architecture, ARCHITECTURES)
        check_bits("weight_bits", self.weight_bits)
        check_bits("activation_bits", self.activation_bits)
        object.__setattr__(self, "widen", checks.check_finite_scalar("widen", self.widen, positive=True))


@dataclass(frozen=True)
class Options:
    """How it is trained.

    Parameters
    ----------
    epochs : int
        Passes over the training images.
    batch_size : int
    learning_rate : float
        Of the first step; it falls to zero along half a cosine.
    weight_decay : float
        Of the layers that stay in full precision (AdamW). Of the others there is none: it would pull weights to where they round
        to zero.
    seed : int
        In [0, 2**32). Of the first weights, the orders, and dropout.
    """

    epochs: int = 6
    batch_size: int = 64
    learning_rate: float = 0.01
    weight_decay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        checks.check_int("epochs", self.epochs, minimum=1)
        checks.check_int("batch_size", self.batch_size, minimum=2)
        checks.check_finite_scalar("learning_rate", self.learning_rate, positive=True)
        checks.check_finite_scalar("weight_decay", self.weight_decay, nonnegative=True)
        checks.check_int("seed", self.seed, minimum=0, maximum=2**32 - 1)


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch.

    Attributes
    ----------
    epoch : int
        From 1 on.
    loss : float
        Mean cross entropy of its batches, each before its step.
    accuracy : float
        Share of the test images whose class is right.
    zeros : dict of str to float
        Of each quantized layer, the share of weights that round to zero.
    """

    epoch: int
    loss: float
    accuracy: float
    zeros: dict[str, float]


# ---- networks ----------------------------------------------------------------------------------------------


def make_network(recipe: Recipe, seed: int = 0) -> nn.Module:
    """The network of a recipe, with its first weights.

    They are PyTorch's own, and those of `spread_weights` where weights are quantized. Networks of one architecture, width and
    seed whose weights are quantized begin alike, with whatever bits.

    Parameters
    ----------
    recipe : Recipe
    seed : int

    Returns
    -------
    torch.fx.GraphModule
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(get_architecture(recipe.architecture).widen(recipe.widen))
        if recipe.weight_bits != FLOAT:
            spread_weights(network)
    return convert(network, recipe.weight_bits, recipe.activation_bits)


def spread_weights(model: nn.Module) -> None:
    """Draw the weights of the layers between the first and the last uniformly from [-1, 1], where a batch normalization follows.

    The quantizers' range is fixed. Weights as PyTorch draws them are small on it, and nearly all of them round to zero; these use
    every level. The normalization takes the scale out again, so a float network computes with them what it would with smaller
    ones. Layers without it keep their weights.

    Parameters
    ----------
    model : Module
        A float network, or what `convert` made. Changed in place, with PyTorch's own generator.
    """
    steps = read_graph(trace(model))
    before = {step.inputs[0] for step in steps if step.kind == "batch_norm"}
    for step in inner_layers(steps):
        if step.node in before:
            nn.init.uniform_(step.module.weight, -1.0, 1.0)


def _tensor(x: np.ndarray) -> torch.Tensor:
    """Pixels as a network takes them, in the memory order in which PyTorch's convolutions are fastest."""
    return torch.tensor(x, dtype=torch.float32).div_(255.0).contiguous(memory_format=torch.channels_last)


def predictions(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """The class of each image.

    Parameters
    ----------
    model : Module
    x : ndarray of uint8, shape (m, channels, height, width)

    Returns
    -------
    ndarray of int64, shape (m,)
    """
    was_training = model.training
    model.eval()
    with torch.no_grad():
        parts = [model(_tensor(x[i : i + _MANY])).argmax(dim=1).numpy() for i in range(0, len(x), _MANY)]
    model.train(was_training)
    return np.concatenate(parts)


def accuracy(model: nn.Module, x: np.ndarray, y: np.ndarray) -> float:
    """The share of images whose class is right."""
    return float(np.mean(predictions(model, x) == y))


# ---- the loop ----------------------------------------------------------------------------------------------


def train_network(
    recipe: Recipe,
    images: Images,
    options: Options | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[nn.Module, list[Epoch]]:
    """Train a network.

    Parameters
    ----------
    recipe : Recipe
    images : Images
    options : Options, optional
    checkpoint : path-like, optional
        Written after every epoch. If it is there already, training goes on from it; recipe, options and data must be the same.
    progress : callable
        Told the share that is done.

    Returns
    -------
    model : Module
    history : list of Epoch

    Raises
    ------
    ValueError
        If the images do not fit the network, the loss is no longer finite, or the checkpoint is of another run or damaged.
    """
    options = Options() if options is None else options
    shape = get_architecture(recipe.architecture).input_shape
    if images.shape != shape:
        raise checks.wrong_value("images", f"must have the shape that {recipe.architecture} takes, {shape}", images.shape)
    if len(images.x) < 2:
        raise checks.wrong_value("images", "must be at least 2 to train on", len(images.x))
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise checks.wrong_value("checkpoint", "must be a file in a folder that exists", str(path))
    model = make_network(recipe, options.seed).to(memory_format=torch.channels_last)
    optimizer = _optimizer(model, options)
    data = [images.name, len(images.x), zlib.crc32(images.y, zlib.crc32(np.ascontiguousarray(images.x)))]
    about = {"recipe": asdict(recipe), "options": asdict(options), "data": data}
    history: list[Epoch] = []
    if path is not None and path.exists():
        history = _resume(path, about, model, optimizer)
    while len(history) < options.epochs:
        history.append(_epoch(model, optimizer, images, options, len(history), progress))
        if path is not None:
            _write(path, about, model, optimizer, history)
    progress(1.0)
    return model, history


def _optimizer(model: nn.Module, options: Options) -> torch.optim.Optimizer:
    inner = [step.module.weight for step in inner_layers(read_graph(trace(model)))]
    free = {id(p) for p in inner}
    groups = [{"params": [p for p in model.parameters() if id(p) not in free]}, {"params": inner, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True)


def _epoch(
    model: nn.Module, optimizer: Any, images: Images, options: Options, epoch: int, progress: Callable[[float], None]
) -> Epoch:
    m, size = len(images.x), options.batch_size
    order = np.random.default_rng([options.seed, epoch]).permutation(m)
    starts = [i for i in range(0, m, size) if m - i > 1]  # a batch normalization needs two images
    total, steps = 0.0, options.epochs * len(starts)
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2**32 * (epoch + 1) + options.seed)
        for k, i in enumerate(starts, epoch * len(starts)):
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * 0.5 * (1.0 + math.cos(math.pi * k / steps))
            part = order[i : i + size]
            loss = nn.functional.cross_entropy(model(_tensor(images.x[part])), torch.from_numpy(images.y[part]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            if not math.isfinite(total):
                rule = f"the loss must stay finite; in epoch {epoch + 1} it did not: a smaller learning_rate may help"
                raise checks.wrong_value("learning_rate", rule, options.learning_rate)
            progress((k + 1) / steps)
    return Epoch(epoch + 1, total / len(starts), accuracy(model, images.test_x, images.test_y), zero_fractions(model))


# ---- checkpoints -------------------------------------------------------------------------------------------


def _write(path: Path, about: dict[str, Any], model: nn.Module, optimizer: Any, history: list[Epoch]) -> None:
    """The run's state as safetensors, replaced at once or not at all."""
    save = checks.need_extra("safetensors.torch", "wrpn", "a checkpoint").save
    from .. import __version__

    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for k, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{k}.{name}": value for name, value in state.items()}
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    known = {"version": _VERSION, "lowprec": __version__, "checksum": _checksum(tensors)}
    header = about | known | {"history": [asdict(epoch) for epoch in history]}
    content = save(tensors, {_KEY: json.dumps(header)})
    atomic.replace(path, lambda f: f.write(content))


def _checksum(tensors: dict[str, torch.Tensor]) -> int:
    """Of names and numbers; safetensors has none of its own."""
    checksum = 0
    for name in sorted(tensors):
        checksum = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy(), zlib.crc32(name.encode(), checksum))
    return checksum


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Header and tensors of a checkpoint."""
    safetensors = checks.need_extra("safetensors", "wrpn", "a checkpoint")
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise FileNotFoundError(f"{name}: no such file; expected {_EXPECTED}")
    try:
        with safetensors.safe_open(name, framework="pt") as f:
            tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 - it is no mapping
            header = json.loads((f.metadata() or {})[_KEY])
        version = header["version"]
    except KeyError:
        raise checks.bad_file(name, "is safetensors, but no checkpoint", expected=_EXPECTED) from None
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise checks.bad_file(name, f"is cut short, or no checkpoint ({error})", expected=_EXPECTED) from None
    if version != _VERSION:
        raise checks.bad_file(name, f"is a checkpoint of version {version!r}", expected=f"version {_VERSION}; update lowprec")
    if header.get("checksum") != _checksum(tensors):
        raise checks.bad_file(name, "is damaged: its numbers are not those that were written", expected=_EXPECTED)
    return header, tensors


def _fill(name: str, model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Put a checkpoint's weights into a network."""
    state = model.state_dict()
    given = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    if given.keys() != state.keys() or any(given[k].shape != v.shape or given[k].dtype != v.dtype for k, v in state.items()):
        raise checks.bad_file(name, "its weights do not fit the network that it names", expected=_EXPECTED)
    model.load_state_dict(given)


def _resume(path: Path, about: dict[str, Any], model: nn.Module, optimizer: Any) -> list[Epoch]:
    header, tensors = _read(path)
    name = str(path)
    for key, mine in about.items():
        if header.get(key) != mine:
            raise checks.wrong_value("checkpoint", f"{name} is of another run; {key} here: {mine}", str(header.get(key)))
    _fill(name, model, tensors)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            k, _, what = key.removeprefix("optimizer.").partition(".")
            state.setdefault(int(k) if k.isdecimal() else -1, {})[what] = value
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    expected = {k: {"step": (), "exp_avg": p.shape, "exp_avg_sq": p.shape} for k, p in enumerate(parameters)}
    if {k: {what: tuple(value.shape) for what, value in one.items()} for k, one in state.items()} != expected:
        raise checks.bad_file(name, "holds no state of the optimizer that fits", expected=_EXPECTED)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return [Epoch(**epoch) for epoch in header["history"]]


def load_network(path: str | os.PathLike[str]) -> tuple[nn.Module, Recipe]:
    """The network of a checkpoint.

    Parameters
    ----------
    path : path-like
        What `train_network` wrote.

    Returns
    -------
    model : Module
        For use, ``model.eval()`` that is.
    recipe : Recipe

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is cut short, or no checkpoint.
    """
    header, tensors = _read(path)
    name = os.fspath(path)
    try:
        recipe = Recipe(**header["recipe"])
    except (KeyError, TypeError, ValueError) as error:
        raise checks.bad_file(name, f"names no network that there is ({error})", expected=_EXPECTED) from None
    model = make_network(recipe)
    _fill(name, model, tensors)
    return model.eval(), recipe
