"""The networks of the paper, and small ones, by name. Shapes and names of nodes follow the sources that the builders name.

Where a source pools before its ReLU, the ReLU stands first here: the result is the same, and what is pooled are then codes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import checks
from .architecture import INPUT, Architecture, Node

__all__ = ["ARCHITECTURES", "as_architecture", "get_architecture"]

_IMAGENET = (3, 224, 224)
_CLASSES = 1000


class _Graph:
    """Nodes in the making; each call adds one that reads the one before it, and returns its name."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.at = INPUT

    def add(self, name: str, op: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(Node(name, op, inputs or self.at, **attributes))
        self.at = name
        return name

    def conv(self, name: str, channels: int, kernel: int, stride: int = 1, padding: int | None = None, **attributes: Any) -> str:
        """A convolution; without a padding the map keeps its size at stride 1."""
        padding = kernel // 2 if padding is None else padding
        return self.add(name, "conv", channels=channels, kernel=kernel, stride=stride, padding=padding, **attributes)

    def made(self, name: str, input_shape: tuple[int, int, int] = _IMAGENET) -> Architecture:
        return Architecture(name, input_shape, tuple(self.nodes))


def alexnet() -> Architecture:
    """AlexNet of tensorpack's DoReFa example without its two groups: batch normalization, 224 x 224, a first window of 12.

    tensorpack is the framework of the paper, and of the AlexNets here this one gives every compute cost of its Table 3.
    """
    return _dorefa("alexnet", 1)


def alexnet_dorefa() -> Architecture:
    """AlexNet of tensorpack's DoReFa example (examples/DoReFa-Net/alexnet-dorefa.py), three convolutions in two groups."""
    return _dorefa("alexnet-dorefa", 2)


def _dorefa(name: str, groups: int) -> Architecture:
    g = _Graph()
    g.conv("conv0", 96, 12, stride=4, padding=0)
    g.add("relu0", "relu")
    for i, channels, kernel, in_groups in ((1, 256, 5, groups), (2, 384, 3, 1), (3, 384, 3, groups), (4, 256, 3, groups)):
        g.conv(f"conv{i}", channels, kernel, groups=in_groups)
        g.add(f"bn{i}", "batch_norm")
        g.add(f"relu{i}", "relu")
        if i == 1:
            g.add("pool1", "max_pool", kernel=3, stride=2, ceil=True)
        elif i == 2:
            g.add("pool2", "max_pool", kernel=3, stride=2, padding=1)
        elif i == 4:
            g.add("pool4", "max_pool", kernel=3, stride=2)
    g.add("flatten", "flatten")
    for i in (0, 1):
        g.add(f"fc{i}", "linear", features=4096, bias=i == 0)
        g.add(f"bnfc{i}", "batch_norm")
        g.add(f"relufc{i}", "relu")
    g.add("fct", "linear", features=_CLASSES)
    return g.made(name)


def alexnet_grouped() -> Architecture:
    """AlexNet of Krizhevsky et al. 2012 as Caffe has it: 227 x 227, three convolutions in two groups.

    The response normalization after the first two convolutions is left out: it has no weights, and the paper replaces it.
    """
    return _alexnet_227("alexnet-grouped", 2)


def alexnet_ungrouped() -> Architecture:
    """AlexNet of Krizhevsky et al. 2012 without groups."""
    return _alexnet_227("alexnet-ungrouped", 1)


def _alexnet_227(name: str, groups: int) -> Architecture:
    g = _Graph()
    layers = ((1, 96, 11, 1), (2, 256, 5, groups), (3, 384, 3, 1), (4, 384, 3, groups), (5, 256, 3, groups))
    for i, channels, kernel, in_groups in layers:
        stride, padding = (4, 0) if i == 1 else (1, None)
        g.conv(f"conv{i}", channels, kernel, stride=stride, padding=padding, groups=in_groups, bias=True)
        g.add(f"relu{i}", "relu")
        if i in (1, 2, 5):
            g.add(f"pool{i}", "max_pool", kernel=3, stride=2)
    g.add("flatten", "flatten")
    for i in (6, 7):
        g.add(f"fc{i}", "linear", features=4096)
        g.add(f"relu{i}", "relu")
        g.add(f"drop{i}", "dropout", p=0.5)
    g.add("fc8", "linear", features=_CLASSES)
    return g.made(name, (3, 227, 227))


def alexnet_torchvision() -> Architecture:
    """AlexNet of torchvision, in one column (Krizhevsky 2014): the names of its weights are torchvision's."""
    g = _Graph()
    at = 0
    for i, (channels, kernel) in enumerate(((64, 11), (192, 5), (384, 3), (256, 3), (256, 3))):
        stride, padding = (4, 2) if i == 0 else (1, None)
        g.conv(f"features.{at}", channels, kernel, stride=stride, padding=padding, bias=True)
        g.add(f"features.{at + 1}", "relu")
        at += 2
        if i in (0, 1, 4):
            g.add(f"features.{at}", "max_pool", kernel=3, stride=2)
            at += 1
    g.add("flatten", "flatten")
    for at in (0, 3):
        g.add(f"classifier.{at}", "dropout", p=0.5)
        g.add(f"classifier.{at + 1}", "linear", features=4096)
        g.add(f"classifier.{at + 2}", "relu")
    g.add("classifier.6", "linear", features=_CLASSES)
    return g.made("alexnet-torchvision")


def _stem(g: _Graph) -> None:
    g.conv("conv1", 64, 7, stride=2)
    g.add("bn1", "batch_norm")
    g.add("relu", "relu")
    g.add("maxpool", "max_pool", kernel=3, stride=2, padding=1)


def _head(g: _Graph, classes: int = _CLASSES) -> None:
    g.add("avgpool", "global_average_pool")
    g.add("fc", "linear", features=classes)


def _stages(g: _Graph, block: Callable[..., None], depths: tuple[int, ...], channels: int, expansion: int = 1) -> None:
    """Stages of residual blocks: each but the first halves the map and doubles the channels."""
    wide = channels
    for stage, depth in enumerate(depths):
        for i in range(depth):
            stride = 2 if stage > 0 and i == 0 else 1
            out = expansion * channels * 2**stage
            block(g, f"layer{stage + 1}.{i}", channels * 2**stage, stride, shortcut=stride != 1 or out != wide)
            wide = out


def _shortcut(g: _Graph, name: str, source: str, channels: int, stride: int) -> str:
    g.at = source
    g.conv(f"{name}.downsample.0", channels, 1, stride=stride)
    return g.add(f"{name}.downsample.1", "batch_norm")


def _basic_block(g: _Graph, name: str, channels: int, stride: int, shortcut: bool) -> None:
    source = g.at
    g.conv(f"{name}.conv1", channels, 3, stride=stride)
    g.add(f"{name}.bn1", "batch_norm")
    g.add(f"{name}.relu1", "relu")
    g.conv(f"{name}.conv2", channels, 3)
    result = g.add(f"{name}.bn2", "batch_norm")
    if shortcut:
        source = _shortcut(g, name, source, channels, stride)
    g.add(f"{name}.add", "add", result, source)
    g.add(f"{name}.relu2", "relu")


def _bottleneck(g: _Graph, name: str, channels: int, stride: int, shortcut: bool) -> None:
    source = g.at
    for i, (wide, kernel, step) in enumerate(((channels, 1, 1), (channels, 3, stride), (4 * channels, 1, 1)), 1):
        g.conv(f"{name}.conv{i}", wide, kernel, stride=step)
        result = g.add(f"{name}.bn{i}", "batch_norm")
        if i < 3:
            g.add(f"{name}.relu{i}", "relu")
    if shortcut:
        source = _shortcut(g, name, source, 4 * channels, stride)
    g.add(f"{name}.add", "add", result, source)
    g.add(f"{name}.relu3", "relu")


def _resnet(name: str, block: Callable[..., None], depths: tuple[int, ...], expansion: int) -> Architecture:
    g = _Graph()
    _stem(g)
    _stages(g, block, depths, 64, expansion)
    _head(g)
    return g.made(name)


def resnet18() -> Architecture:
    """ResNet-18 (He et al. 2016) as torchvision has it, 1 x 1 shortcuts; the names of its weights are torchvision's."""
    return _resnet("resnet-18", _basic_block, (2, 2, 2, 2), 1)


def resnet34() -> Architecture:
    """ResNet-34 as torchvision has it, 1 x 1 shortcuts; the names of its weights are torchvision's."""
    return _resnet("resnet-34", _basic_block, (3, 4, 6, 3), 1)


def resnet50() -> Architecture:
    """ResNet-50 as torchvision has it (the stride in the 3 x 3 convolution); the names of its weights are torchvision's."""
    return _resnet("resnet-50", _bottleneck, (3, 4, 6, 3), 4)


def resnet101() -> Architecture:
    """ResNet-101 as torchvision has it; the names of its weights are torchvision's."""
    return _resnet("resnet-101", _bottleneck, (3, 4, 23, 3), 4)


def resnet34_preact() -> Architecture:
    """Pre-activation ResNet-34 as tensorpack has it (examples/ResNet): the paper's variant.

    The first block of a stage has no normalization of its own, because every stage, and the first convolution, ends with one.
    """
    g = _Graph()
    _stem(g)
    for stage, depth in enumerate((3, 4, 6, 3)):
        channels = 64 * 2**stage
        for i in range(depth):
            name = f"layer{stage + 1}.{i}"
            stride = 2 if stage > 0 and i == 0 else 1
            source = g.at
            if i > 0:
                g.add(f"{name}.bn1", "batch_norm")
                g.add(f"{name}.relu1", "relu")
            g.conv(f"{name}.conv1", channels, 3, stride=stride)
            g.add(f"{name}.bn2", "batch_norm")
            g.add(f"{name}.relu2", "relu")
            result = g.conv(f"{name}.conv2", channels, 3)
            if stride != 1:
                g.at = source
                source = g.conv(f"{name}.shortcut", channels, 1, stride=stride)
            g.add(f"{name}.add", "add", result, source)
        g.add(f"layer{stage + 1}.bn", "batch_norm")
        g.add(f"layer{stage + 1}.relu", "relu")
    _head(g)
    return g.made("resnet-34-preact")


# Filters: 1x1; 3x3 reduced, 3x3; double 3x3 reduced, double 3x3; projection of the pool; kind of pool. 0: there is none.
_INCEPTION = {
    "3a": (64, 64, 64, 64, 96, 32, "average_pool"),
    "3b": (64, 64, 96, 64, 96, 64, "average_pool"),
    "3c": (0, 128, 160, 64, 96, 0, "max_pool"),
    "4a": (224, 64, 96, 96, 128, 128, "average_pool"),
    "4b": (192, 96, 128, 96, 128, 128, "average_pool"),
    "4c": (160, 128, 160, 128, 160, 128, "average_pool"),
    "4d": (96, 128, 192, 160, 192, 128, "average_pool"),
    "4e": (0, 128, 192, 192, 256, 0, "max_pool"),
    "5a": (352, 192, 320, 160, 224, 128, "average_pool"),
    "5b": (352, 192, 320, 192, 224, 128, "max_pool"),
}


def bn_inception() -> Architecture:
    """BN-Inception (Ioffe, Szegedy 2015) as tensorpack has it (examples/Inception/inception-bn.py), without side outputs.

    Its averages count their padding, as Caffe's do; tensorpack's leave it out.
    """
    g = _Graph()

    def conv(name: str, channels: int, kernel: int, stride: int = 1) -> str:
        # The convolution has a name of its own, so that its normalization can have one too.
        g.conv(f"{name}.conv", channels, kernel, stride=stride)
        g.add(f"{name}.bn", "batch_norm")
        return g.add(f"{name}.relu", "relu")

    conv("conv0", 64, 7, 2)
    g.add("pool0", "max_pool", kernel=3, stride=2, ceil=True)
    conv("conv1", 64, 1)
    conv("conv2", 192, 3)
    g.add("pool2", "max_pool", kernel=3, stride=2, ceil=True)
    for block, (one, reduced3, three, reduced33, double, pool_channels, pool) in _INCEPTION.items():
        name, source, stride = f"incep{block}", g.at, 1 if one else 2
        branches = []
        if one:
            branches.append(conv(f"{name}.conv1x1", one, 1))
        g.at = source
        conv(f"{name}.conv3x3r", reduced3, 1)
        branches.append(conv(f"{name}.conv3x3", three, 3, stride))
        g.at = source
        conv(f"{name}.conv233r", reduced33, 1)
        conv(f"{name}.conv233a", double, 3)
        branches.append(conv(f"{name}.conv233b", double, 3, stride))
        g.at = source
        if stride == 2:
            g.add(f"{name}.pool", pool, kernel=3, stride=2, ceil=True)
        else:
            g.add(f"{name}.pool", pool, kernel=3, stride=1, padding=1)
        branches.append(conv(f"{name}.poolproj", pool_channels, 1) if pool_channels else g.at)
        g.add(f"{name}.concat", "concat", *branches)
    g.add("gap", "global_average_pool")
    g.add("linear", "linear", features=_CLASSES)
    return g.made("bn-inception")


def lenet() -> Architecture:
    """LeNet as Caffe has it, 28 x 28, with a ReLU after each convolution: quantized activations are never negative."""
    g = _Graph()
    for i, channels in ((1, 20), (2, 50)):
        g.conv(f"conv{i}", channels, 5, padding=0, bias=True)
        g.add(f"relu_conv{i}", "relu")
        g.add(f"pool{i}", "max_pool", kernel=2)
    g.add("flatten", "flatten")
    g.add("ip1", "linear", features=500)
    g.add("relu1", "relu")
    g.add("ip2", "linear", features=10)
    return g.made("lenet", (1, 28, 28))


def resnet20() -> Architecture:
    """ResNet-20 for CIFAR-10 (He et al. 2016, Section 4.2), 32 x 32, with 1 x 1 shortcuts ("option B")."""
    g = _Graph()
    g.conv("conv1", 16, 3)
    g.add("bn1", "batch_norm")
    g.add("relu", "relu")
    _stages(g, _basic_block, (3, 3, 3), 16)
    _head(g, 10)
    return g.made("resnet-20", (3, 32, 32))


def convnet() -> Architecture:
    """A small network for images of 28 x 28, with batch normalization: four convolutions of 3 x 3 and one linear layer."""
    g = _Graph()
    for i, channels in enumerate((16, 16, 32, 32)):
        g.conv(f"conv{i}", channels, 3)
        g.add(f"bn{i}", "batch_norm")
        g.add(f"relu{i}", "relu")
        if i < 2:
            g.add(f"pool{i}", "max_pool", kernel=2)
    g.add("flatten", "flatten")
    g.add("fc", "linear", features=10)
    return g.made("convnet", (1, 28, 28))


#: Builders of the networks, by name.
ARCHITECTURES: dict[str, Callable[[], Architecture]] = {
    "alexnet": alexnet,
    "alexnet-dorefa": alexnet_dorefa,
    "alexnet-grouped": alexnet_grouped,
    "alexnet-ungrouped": alexnet_ungrouped,
    "alexnet-torchvision": alexnet_torchvision,
    "resnet-18": resnet18,
    "resnet-34": resnet34,
    "resnet-50": resnet50,
    "resnet-101": resnet101,
    "resnet-34-preact": resnet34_preact,
    "bn-inception": bn_inception,
    "lenet": lenet,
    "resnet-20": resnet20,
    "convnet": convnet,
}


def get_architecture(name: str) -> Architecture:
    """A well-known network by its name.

    Parameters
    ----------
    name : str
        One of `lowprec.wrpn.architectures.ARCHITECTURES`.
    """
    return ARCHITECTURES[checks.check_choice("architecture", name, ARCHITECTURES)]()


def as_architecture(value: Any, name: str = "architecture") -> Architecture:
    """An architecture, from itself or its name."""
    if isinstance(value, Architecture):
        return value
    return ARCHITECTURES[checks.check_choice(name, value, ARCHITECTURES)]()
