"""A float network made wide and of few bits: `convert`; and what `torch.fx` finds in a network, for whoever reads one.

The rules, of which the paper gives the first two: the first and the last layer stay in full precision, weights and inputs both;
all other convolutions and linear layers have quantized weights and read quantized activations. A ReLU whose output gets to such
a layer, if need be through what only selects or moves numbers, becomes the quantizer. A layer whose input is still not on the
grid, such as one that reads an average, rounds it by itself.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from .. import checks
from .architecture import FLOAT, check_bits, widened
from .modules import QuantizedConv2d, QuantizedLinear, QuantizedReLU

torch = checks.need_extra("torch", "wrpn", "lowprec.wrpn.convert")

from torch import fx, nn  # noqa: E402 - only after its absence would have been a sentence

__all__ = ["LAYERS", "PASSING", "Step", "convert", "inner_layers", "read_graph", "trace"]

# Modules and functions, and what they are here; the first class that fits counts.
_MODULES: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.Conv2d, "conv"),
    (nn.Linear, "linear"),
    (nn.BatchNorm1d, "batch_norm"),
    (nn.BatchNorm2d, "batch_norm"),
    (nn.ReLU, "relu"),
    (QuantizedReLU, "quantized_relu"),
    (nn.MaxPool2d, "max_pool"),
    (nn.AvgPool2d, "average_pool"),
    (nn.AdaptiveAvgPool2d, "global_average_pool"),
    (nn.Flatten, "flatten"),
    (nn.Dropout, "dropout"),
    (nn.Identity, "identity"),
)
_FUNCTIONS: dict[Any, str] = {
    nn.functional.relu: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    operator.add: "add",
    operator.iadd: "add",
    torch.add: "add",
    torch.cat: "concat",
    torch.concat: "concat",
    torch.flatten: "flatten",
}
# Functions that `trace` makes into the modules that do the same.
_POOLS = {
    nn.functional.max_pool2d: nn.MaxPool2d,
    nn.functional.avg_pool2d: nn.AvgPool2d,
    nn.functional.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
}
_QUANTIZED = (QuantizedConv2d, QuantizedLinear, QuantizedReLU)
# What changes its first input. (Not +=, which torch.fx takes for a +.)
_IN_PLACE = (torch.relu_, "relu_", "add_")
_METHODS = {"relu": "relu", "relu_": "relu", "add": "add", "add_": "add", "flatten": "flatten"}
_SUPPORTED = "Conv2d, Linear, BatchNorm, ReLU, +, cat, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d(1), flatten, Dropout and Identity"

#: Kinds that have weights to quantize.
LAYERS = ("conv", "linear")
#: Kinds after which numbers that were on a grid still are: they only select numbers, or move them.
PASSING = ("max_pool", "concat", "flatten", "dropout", "identity")


class Step(NamedTuple):
    """One node of a traced network.

    Attributes
    ----------
    node : torch.fx.Node
    kind : str
        input, conv, linear, batch_norm, relu, quantized_relu, max_pool, average_pool, global_average_pool, add, concat, flatten,
        dropout, identity or output.
    module : Module or None
        What it calls, if that is a module.
    inputs : list of torch.fx.Node
        What it reads, in order.
    """

    node: fx.Node
    kind: str
    module: nn.Module | None
    inputs: list[fx.Node]

    @property
    def name(self) -> str:
        """The module's name where it calls one, the node's otherwise."""
        return str(self.node.target) if self.node.op == "call_module" else self.node.name


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _QUANTIZED) or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> fx.GraphModule:
    """A network as a graph, on the same modules; pooling that is a function becomes a module.

    Raises
    ------
    TypeError
        If `model` is no Module.
    ValueError
        If its forward method does something that depends on the numbers, so that it is no graph.
    """
    if not isinstance(model, nn.Module):
        raise checks.wrong_type("model", "a torch.nn.Module", model)
    try:
        graph = _Tracer().trace(model)
    except (fx.proxy.TraceError, TypeError, AttributeError) as error:
        problem = " ".join(str(error).split())
        raise checks.wrong_value("model", "must be a graph that torch.fx can trace", problem) from None
    traced = fx.GraphModule(model, graph, type(model).__name__)
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _POOLS:
            given = dict(node.normalized_arguments(traced, normalize_to_only_use_kwargs=True).kwargs)
            source = given.pop("input")
            if not given.get("stride", True):  # the function's default, an empty list, means the kernel's size
                del given["stride"]
            name = _free_name(traced, node.name)
            traced.add_submodule(name, _POOLS[node.target](**given))
            _put_in_place(traced.graph, node, name, source)
    traced.recompile()
    return traced


def _put_in_place(graph: fx.Graph, node: fx.Node, name: str, source: fx.Node) -> None:
    """Call a module instead of what a node does."""
    with graph.inserting_after(node):
        new = graph.call_module(name, (source,))
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def _free_name(graph: fx.GraphModule, name: str) -> str:
    """The name, with a number if there is a module that has it."""
    free, k = name, 1
    while hasattr(graph, free):
        k += 1
        free = f"{name}_{k}"
    return free


def read_graph(graph: fx.GraphModule) -> list[Step]:
    """What the nodes of a traced network are, in the order in which they run.

    Raises
    ------
    ValueError
        For what is not supported; the message names the layer.
    """
    steps, seen, changed = [], set(), {}
    for node in graph.graph.nodes:
        step = _step(graph, node)
        for source in step.inputs:
            if source in changed:
                rule = f"must not change in place what {step.name} reads later"
                raise checks.wrong_value(f"layer {changed[source]}", rule, source.name)
        if step.inputs and _is_in_place(step):
            changed[step.inputs[0]] = step.name
        if step.kind in (*LAYERS, "batch_norm"):
            if node.target in seen:
                raise checks.wrong_value(f"layer {node.target}", "has weights, so it must be called once", "a second call")
            seen.add(node.target)
        steps.append(step)
    if sum(step.kind == "input" for step in steps) != 1:
        raise checks.wrong_value("model", "must have one input", f"{sum(step.kind == 'input' for step in steps)}")
    return steps


def _is_in_place(step: Step) -> bool:
    if step.module is not None:
        return bool(getattr(step.module, "inplace", False))
    node = step.node
    return node.target in _IN_PLACE or (step.kind == "relu" and (True in node.args or node.kwargs.get("inplace", False)))


def _step(graph: fx.GraphModule, node: fx.Node) -> Step:
    module = None
    if node.op in ("placeholder", "output"):
        kind = "input" if node.op == "placeholder" else "output"
    elif node.op == "call_module":
        module = graph.get_submodule(str(node.target))
        kind = next((kind for type_, kind in _MODULES if isinstance(module, type_)), None)
    elif node.op == "call_function":
        kind = _FUNCTIONS.get(node.target)
    elif node.op == "call_method":
        kind = _METHODS.get(str(node.target))
    else:
        kind = None
    if kind is None:
        raise _unsupported(node, module)
    inputs = list(node.all_input_nodes)
    if kind == "add":
        # x + x reads one node twice.
        inputs = [arg for arg in node.args if isinstance(arg, fx.Node)]
        if len(inputs) != 2 or node.kwargs:
            raise _unsupported(node, module, "of two results of layers, and nothing else")
    elif kind == "concat":
        inputs = list(node.args[0] if node.args else node.kwargs["tensors"])
        if (node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)) != 1:
            raise _unsupported(node, module, "along the channels, dim=1")
    elif kind == "flatten":
        given = (module.start_dim, module.end_dim) if module is not None else (*node.args[1:], *node.kwargs.values())
        if given not in ((1,), (1, -1)):
            raise _unsupported(node, module, "of all but the batch, start_dim=1")
    elif kind == "global_average_pool" and module.output_size not in (1, (1, 1)):
        raise _unsupported(node, module, "to a single number a channel")
    elif kind == "output" and (len(inputs) != 1 or node.args[0] is not inputs[0]):
        raise checks.wrong_value("model", "must have one output", f"{len(inputs)}")
    return Step(node, kind, module, inputs)


def _unsupported(node: fx.Node, module: nn.Module | None, rule: str | None = None) -> ValueError:
    what = type(module).__name__ if module is not None else getattr(node.target, "__name__", str(node.target))
    name = node.target if node.op == "call_module" else node.name
    if rule is not None:
        return ValueError(f"layer {name} ({what}): is supported only {rule}")
    return ValueError(f"layer {name} ({what}): is not supported; networks are made of {_SUPPORTED}")


def inner_layers(steps: list[Step], keep: Collection[str] | None = None) -> list[Step]:
    """The layers that are quantized.

    Parameters
    ----------
    steps : list of Step
    keep : collection of str, optional
        Names of the layers that stay in full precision; None: the first and the last that run.
    """
    layers = [step for step in steps if step.kind in LAYERS]
    names = [step.name for step in layers]
    if keep is None:
        return layers[1:-1]
    if isinstance(keep, str):
        raise checks.wrong_type("keep", "a collection of names of layers", keep)
    for name in keep:
        checks.check_choice("keep", name, names)
    return [step for step in layers if step.name not in set(keep)]


def convert(
    model: nn.Module, weight_bits: int, activation_bits: int, widen: float = 1, *, keep: Collection[str] | None = None
) -> fx.GraphModule:
    """A network with weights and activations of few bits, and wider layers.

    Parameters
    ----------
    model : Module
        Of Conv2d, Linear, BatchNorm1d and 2d, ReLU, MaxPool2d, AvgPool2d and AdaptiveAvgPool2d(1) (these four also as functions),
        additions, cat, flatten, Dropout and Identity. It is left as it is.
    weight_bits, activation_bits : int
        In [1, 8], or 32 for float32.
    widen : float
        Every convolution and linear layer but the last gets ``round(widen * channels)`` channels, halves to even. Unless it is
        1, all weights are drawn anew, as PyTorch draws them. With 1 they are copied. Either way weights that are small on the
        range [-1, 1] round to zero, of 2 bits nearly all that PyTorch draws: see `lowprec.wrpn.zero_fractions`, and
        `lowprec.wrpn.spread_weights`, which can be called on what comes out.
    keep : collection of str, optional
        Names of the layers that keep float32 weights and inputs. By default the first and the last that run.

    Returns
    -------
    torch.fx.GraphModule
        The layers that are not kept are `QuantizedConv2d` and `QuantizedLinear`, under their old names. A ReLU whose output
        gets to one of them (through max pooling, cat, flatten, Dropout or Identity if need be) is a `QuantizedReLU`; a layer
        whose input is not on the grid otherwise, because it reads the network's input, an average or a sum, rounds it by itself
        (``input_bits``).

    Raises
    ------
    TypeError
        If `model` is no Module.
    ValueError
        For bits or a width out of range, for a name in `keep` that no layer has, for a network that is quantized already, or
        for a layer that is not supported: the message names it.

    Examples
    --------
    >>> from lowprec.wrpn import build, convert
    >>> convert(build("convnet"), 2, 4, widen=2).conv1
    QuantizedConv2d(16, 32, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False, weight_bits=2)
    """
    weight_bits, activation_bits = check_bits("weight_bits", weight_bits), check_bits("activation_bits", activation_bits)
    widen = checks.check_finite_scalar("widen", widen, positive=True)
    graph = copy.deepcopy(trace(model))
    steps = read_graph(graph)
    for step in steps:
        if isinstance(step.module, _QUANTIZED):
            raise checks.wrong_value("model", "must be a float network", f"{step.name}, which is quantized already")
        if step.kind in LAYERS and not isinstance(step.module.weight, nn.Parameter):
            raise _unsupported(step.node, step.module, "if its weight is a parameter, without a parametrization")
    if not any(step.kind in LAYERS for step in steps):
        raise checks.wrong_value("model", "must have a convolution or a linear layer", type(model).__name__)
    inner = inner_layers(steps, keep)
    if widen != 1:
        _widen(graph, steps, widen)
    _quantize(graph, steps, {step.node for step in inner}, weight_bits, activation_bits)
    graph.graph.lint()
    graph.recompile()
    graph.train(model.training)
    return graph


# ---- bits --------------------------------------------------------------------------------------------------


def _quantize(graph: fx.GraphModule, steps: list[Step], inner: set[fx.Node], weight_bits: int, activation_bits: int) -> None:
    """Put the quantizers in."""
    kinds = {step.node: step.kind for step in steps}
    if activation_bits != FLOAT:
        for step in [s for s in steps if s.kind == "relu" and any(user in inner for user in _readers(s.node, kinds))]:
            # One module may be called in several places, and in some of them stay as it is.
            own = step.module is not None and sum(node.target == step.name for node in graph.graph.nodes) == 1
            name = step.name if own else _free_name(graph, step.node.name)
            graph.add_submodule(name, QuantizedReLU(activation_bits))
            _put_in_place(graph.graph, step.node, name, step.inputs[0])
    on_grid: set[fx.Node] = set()
    for step in read_graph(graph):
        if step.kind == "quantized_relu" or (step.kind in PASSING and on_grid.issuperset(step.inputs)):
            on_grid.add(step.node)
        if step.node in inner:
            input_bits = FLOAT if step.inputs[0] in on_grid else activation_bits
            if (weight_bits, input_bits) != (FLOAT, FLOAT):
                _replace(graph, step, _quantized_layer(step.module, weight_bits, input_bits))
    graph.delete_all_unused_submodules()


def _readers(node: fx.Node, kinds: dict[fx.Node, str]) -> Iterator[fx.Node]:
    """What reads the numbers of a node, also after they were only selected or moved."""
    for user in node.users:
        yield user
        if kinds[user] in PASSING:
            yield from _readers(user, kinds)


def _replace(graph: fx.GraphModule, step: Step, module: nn.Module) -> None:
    """Another module under the same name."""
    outer, _, last = step.name.rpartition(".")
    setattr(graph.get_submodule(outer), last, module)


def _quantized_layer(layer: nn.Module, weight_bits: int, input_bits: int) -> nn.Module:
    """The layer with quantized weights, on the same parameters."""
    bits = {"weight_bits": weight_bits, "input_bits": input_bits}
    new = _like(layer, layer.weight.shape[0], layer.weight.shape[1], device="meta", **bits)
    new.weight, new.bias = layer.weight, layer.bias
    return new


def _like(layer: nn.Module, outputs: int, inputs: int, *, device: Any = None, **bits: int) -> nn.Module:
    """A new layer of the same kind with other channels; `inputs` are the channels that one filter sees."""
    device = layer.weight.device if device is None else device
    given = {"bias": layer.bias is not None, "device": device, "dtype": layer.weight.dtype, **bits}
    if isinstance(layer, nn.Linear):
        return (QuantizedLinear if bits else nn.Linear)(inputs, outputs, **given)
    return (QuantizedConv2d if bits else nn.Conv2d)(
        inputs * layer.groups, outputs, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups,
        padding_mode=layer.padding_mode, **given,
    )  # fmt: skip


# ---- width -------------------------------------------------------------------------------------------------


def _widen(graph: fx.GraphModule, steps: list[Step], factor: float) -> None:
    """Layers with more channels, and weights drawn anew."""
    last = [step for step in steps if step.kind in LAYERS][-1].node
    # Channels of each node's result before and after; of a flattened map each channel counts as often as the map has points.
    channels: dict[fx.Node, tuple[int, int]] = {}
    for step in steps:
        before = [channels[node] for node in step.inputs if node in channels]
        if step.kind in LAYERS:
            # The network's input has as many channels as its first layer reads.
            old, new = before[0] if before else (_channels_read(step.module),) * 2
            channels[step.node] = _widen_layer(graph, step, old, new, factor if step.node is not last else 1.0)
        elif step.kind == "batch_norm":
            old, new = before[0] if before else (step.module.num_features,) * 2
            _replace(graph, step, _like_norm(step, step.module.num_features // old * new))
            channels[step.node] = old, new
        elif step.kind in ("add", "concat") and len(before) < len(step.inputs):
            raise checks.wrong_value(f"layer {step.name}", "must not read the network's input in a network made wider", step.kind)
        elif step.kind == "concat":
            channels[step.node] = sum(old for old, _ in before), sum(new for _, new in before)
        elif before:
            if any(pair != before[0] for pair in before):
                shown = " and ".join(str(new) for _, new in before)
                raise checks.wrong_value(f"layer {step.name}", "must add results of as many channels", shown)
            channels[step.node] = before[0]


def _channels_read(layer: nn.Module) -> int:
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def _widen_layer(graph: fx.GraphModule, step: Step, old: int, new: int, factor: float) -> tuple[int, int]:
    layer, read = step.module, _channels_read(step.module)
    if read % old:
        raise checks.wrong_value(f"layer {step.name}", f"must read a multiple of the {old} channels before it", read)
    inputs, had = read // old * new, layer.weight.shape[0]
    outputs = widened(had, factor)
    groups = getattr(layer, "groups", 1)
    if inputs % groups or outputs % groups:
        rule = f"with a width of {factor:g} must have a multiple of its {groups} groups as channels"
        raise checks.wrong_value(f"layer {step.name}", rule, f"{inputs} to {outputs}")
    _replace(graph, step, _like(layer, outputs, inputs // groups))
    return had, outputs


def _like_norm(step: Step, features: int) -> nn.Module:
    """A new batch normalization of other features."""
    norm = step.module
    kind = nn.BatchNorm2d if isinstance(norm, nn.BatchNorm2d) else nn.BatchNorm1d
    place = norm.weight if norm.affine else norm.running_mean
    given = {} if place is None else {"device": place.device, "dtype": place.dtype}
    return kind(features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, **given)
