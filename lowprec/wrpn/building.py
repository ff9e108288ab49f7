"""Networks in PyTorch from their architectures."""

from __future__ import annotations

import operator

from .. import checks
from .architecture import INPUT, Architecture, Node
from .architectures import as_architecture

torch = checks.need_extra("torch", "wrpn", "lowprec.wrpn.build")

from torch import fx, nn  # noqa: E402 - only after its absence would have been a sentence

__all__ = ["build"]


def build(architecture: Architecture | str) -> fx.GraphModule:
    """The network of an architecture, its weights drawn as PyTorch draws them.

    Parameters
    ----------
    architecture : Architecture or str
        Or the name of a well-known one.

    Returns
    -------
    torch.fx.GraphModule
        A Module that takes a float32 tensor of shape (batch, channels, height, width). Its submodules have the names of the nodes.
        ``torch.manual_seed`` before the call makes the weights reproducible.

    Examples
    --------
    >>> import torch  # doctest: +SKIP
    >>> from lowprec.wrpn import build, get_architecture  # doctest: +SKIP
    >>> build(get_architecture("convnet").widen(2))(torch.zeros(1, 1, 28, 28)).shape  # doctest: +SKIP
    torch.Size([1, 10])
    """
    architecture = as_architecture(architecture)
    shapes = architecture.shapes()
    root, graph = nn.Module(), fx.Graph()
    made = {INPUT: graph.placeholder(INPUT)}
    for node in architecture.nodes:
        inputs = tuple(made[name] for name in node.inputs)
        name = node.name.replace(".", "_")
        if node.op == "add":
            made[node.name] = graph.create_node("call_function", operator.add, inputs, name=name)
        elif node.op == "concat":
            made[node.name] = graph.create_node("call_function", torch.cat, (list(inputs), 1), name=name)
        else:
            _put(root, node.name, _module(node, shapes[node.inputs[0]]))
            made[node.name] = graph.create_node("call_module", node.name, inputs, name=name)
    graph.output(made[architecture.nodes[-1].name])
    return fx.GraphModule(root, graph, architecture.name)


def _put(root: nn.Module, name: str, module: nn.Module) -> None:
    """Add a module under a name with dots."""
    *outer, last = name.split(".")
    for part in outer:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    root.add_module(last, module)


def _module(node: Node, source: tuple[int, ...]) -> nn.Module:
    """The module of a node that reads something of this shape."""
    if node.op == "conv":
        return nn.Conv2d(
            source[0], node["channels"], node["kernel"], node["stride"], node["padding"], groups=node["groups"], bias=node["bias"]
        )
    if node.op == "linear":
        return nn.Linear(source[0], node["features"], node["bias"])
    if node.op == "batch_norm":
        return nn.BatchNorm2d(source[0]) if len(source) == 3 else nn.BatchNorm1d(source[0])
    if node.op == "relu":
        return nn.ReLU()
    if node.op == "max_pool":
        return nn.MaxPool2d(node["kernel"], node["stride"], node["padding"], ceil_mode=node["ceil"])
    if node.op == "average_pool":
        return nn.AvgPool2d(node["kernel"], node["stride"], node["padding"])
    if node.op == "global_average_pool":
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    if node.op == "flatten":
        return nn.Flatten()
    return nn.Dropout(node["p"])
