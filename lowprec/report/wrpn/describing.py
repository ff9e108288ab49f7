"""`lowprec wrpn describe`: a network after the treatment, layer by layer, beside the same network at 1x in float32."""

from __future__ import annotations

from typing import Any

from lowprec.report.files import header
from lowprec.report.tables import Table, n_bytes, number
from lowprec.report.wrpn.paper import accuracy
from lowprec.wrpn.architecture import FLOAT, Architecture, LayerCounts
from lowprec.wrpn.architectures import ARCHITECTURES, get_architecture
from lowprec.wrpn.cost import CONVENTIONS, compute_cost, first_order_speedup, fmas

__all__ = ["DESCRIBE_FIELDS", "describe", "description_tables", "list_table"]

#: Every row has these fields, in this order; docs/results-schema.md says what they mean.
DESCRIBE_FIELDS = (
    "layer",
    "op",
    "kernel",
    "stride",
    "groups",
    "input",
    "output",
    "filters",
    "then",
    "quantized",
    "weight_bits",
    "activation_bits",
    "parameters",
    "fmas",
    "weight_bytes",
    "activation_bytes",
    "fma_ratio",
    "cost",
)


# What the operations without weights are called behind a layer.
_SHORT = {
    "batch_norm": "bn", "max_pool": "max", "average_pool": "mean", "global_average_pool": "mean of all", "dropout": "drop",
}  # fmt: skip


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _pair(pair: tuple[int, int]) -> str:
    return f"{pair[0]}x{pair[1]}"


def _then(architecture: Architecture, layer: str) -> list[str]:
    """The operations without weights that follow a layer, up to a fork or the next layer."""
    then: list[str] = []
    at = layer
    while True:
        readers = [node for node in architecture.nodes if at in node.inputs]
        if len(readers) != 1 or readers[0].is_layer:
            return then
        (node,) = readers
        pool = f" {node['kernel'][0]}/{node['stride'][0]}" if node.op in ("max_pool", "average_pool") else ""
        then.append(_SHORT.get(node.op, node.op) + pool)
        at = node.name


def _row(architecture: Architecture, count: LayerCounts, before: LayerCounts) -> dict[str, Any]:
    node = architecture[count.name]
    values = (
        count.name, count.op, _pair(count.kernel) if count.op == "conv" else None,
        _pair(count.stride) if count.op == "conv" else None, node["groups"] if count.op == "conv" else None,
        _shape(count.input_shape), _shape(count.output_shape), count.filters, " ".join(_then(architecture, count.name)),
        count.name in architecture.quantized, count.weight_bits, count.activation_bits, count.parameters, count.fmas,
        count.weight_bytes, count.activation_bytes, count.fmas / before.fmas, count.cost / before.cost,
    )  # fmt: skip
    return dict(zip(DESCRIBE_FIELDS, values, strict=True))


def _stored_bytes(architecture: Architecture, counts: list[LayerCounts]) -> int:
    """Bytes of the weights, packed, and of biases and batch normalization in float32."""
    others = sum(count.biases for count in counts) + 2 * architecture.normalized_channels()
    return sum(count.weight_bytes for count in counts) + 4 * others


def describe(name: str, widen: float = 1.0, weight_bits: int = FLOAT, activation_bits: int = FLOAT) -> dict[str, Any]:
    """What a network becomes.

    Parameters
    ----------
    name : str
        One of `lowprec.wrpn.architectures.ARCHITECTURES`.
    widen : float
    weight_bits, activation_bits : int
        1 to 8, or 32 for float32.

    Returns
    -------
    dict
        The results as docs/results-schema.md describes them.
    """
    narrow = get_architecture(name)
    wide = narrow.widen(widen)
    before, after = narrow.counts(), wide.counts(weight_bits, activation_bits)
    results = header(
        "wrpn describe", {"architecture": name, "widen": widen, "weight_bits": weight_bits, "activation_bits": activation_bits}
    )
    costs = {
        convention: compute_cost(narrow, weight_bits, activation_bits, widen=widen, convention=convention)
        for convention in CONVENTIONS
        if convention != "quantized" or wide.quantized
    }
    results["summary"] = {
        "name": wide.name,
        "layers": len(after),
        "quantized": len(wide.quantized),
        "first": after[0].name,
        "last": after[-1].name,
        "parameters": wide.parameters(),
        "parameters_1x": narrow.parameters(),
        "fmas": fmas(wide),
        "fmas_1x": fmas(narrow),
        "cost": costs,
        "first_order_speedup": first_order_speedup(weight_bits, activation_bits),
        "bytes": _stored_bytes(wide, after),
        "bytes_quantized": sum(count.weight_bytes for count in after[1:-1]),
        "bytes_1x": 4 * narrow.parameters(),
        "top1_printed": accuracy(name, widen, weight_bits, activation_bits),
        "top1_printed_1x": accuracy(name, 1.0, FLOAT, FLOAT),
    }
    results["rows"] = [_row(wide, count, old) for count, old in zip(after, before, strict=True)]
    return results


def _title(options: dict[str, Any]) -> str:
    width = f"{options['widen']:g}x wide"
    words = {"weight_bits": "weights", "activation_bits": "activations"}
    bits = [f"{'float32' if options[key] == FLOAT else f'{options[key]}-bit'} {word}" for key, word in words.items()]
    return f"{options['architecture']}, {width}, {' and '.join(bits)}"


def _summary(results: dict[str, Any]) -> list[str]:
    """What an impatient reader wants to know, in sentences."""
    o, s = results["options"], results["summary"]
    narrow = o["weight_bits"] != FLOAT or o["activation_bits"] != FLOAT
    ends = f"the first, {s['first']}, and the last, {s['last']}, stay float32" if s["layers"] > 1 else "it stays float32"
    quantized = f", {s['quantized']} of them quantized ({ends})" if narrow else ""
    cost = s["cost"]
    rules = [f"{cost['uniform']:.3f} with all layers charged the same"]
    if "quantized" in cost:
        rules.append(f"{cost['quantized']:.3f} over the quantized layers alone")
    rules.append(f"{cost['float_ends']:.3f} with the first and the last in float32")
    said = [
        f"{_title(o)}: {s['layers']} layers{quantized}, {s['parameters'] / 1e6:,.2f} M parameters "
        f"({s['parameters_1x'] / 1e6:,.2f} M at 1x), {s['fmas'] / 1e6:,.1f} M FMAs an image ({s['fmas_1x'] / 1e6:,.1f} M at 1x: "
        f"{s['fmas'] / s['fmas_1x']:.3f} times).",
        f"Compute cost over float32 at 1x: {', '.join(rules)}. Bits alone would make it "
        f"{number(s['first_order_speedup'])} times as fast as float32 of the same width.",
        f"In memory: {n_bytes(s['bytes'])}, {s['bytes'] / s['bytes_1x']:.3f} of the {n_bytes(s['bytes_1x'])} of float32 at 1x. "
        f"{n_bytes(s['bytes_quantized'])} of it are weights of quantized layers, packed; the rest is float32.",
    ]
    if s["top1_printed"] is not None:
        said.append(f"Top-1 accuracy, printed in the paper: {s['top1_printed']:g} %; float32 at 1x: {s['top1_printed_1x']:g} %.")
    return said


def description_tables(results: dict[str, Any]) -> list[Table]:
    """A network as a table to read: `describe`'s results."""
    made = Table(
        _title(results["options"]),
        ["<layer", "<weights", "output", "<then", "W/A", "M params", "M FMAs", "W KiB", "A KiB", "cost"],
    )
    for row in results["rows"]:
        made.add(
            row["layer"], _weights(row), row["output"], row["then"], f"{row['weight_bits']}/{row['activation_bits']}",
            number(row["parameters"] / 1e6), number(row["fmas"] / 1e6), number(row["weight_bytes"] / 1024),
            number(row["activation_bytes"] / 1024), number(row["cost"]),
        )  # fmt: skip
    keys = ("parameters", "fmas", "weight_bytes", "activation_bytes")
    weights, fma, weight_bytes, activation_bytes = (sum(row[key] for row in results["rows"]) for key in keys)
    made.rule()
    made.add(
        "all", "", "", "", "", number(weights / 1e6), number(fma / 1e6), number(weight_bytes / 1024),
        number(activation_bytes / 1024), number(results["summary"]["cost"]["float_ends"]),
    )  # fmt: skip
    made.notes.append(
        "Weights: filters x channels read x window / stride. Output: before what is named under then, which is what follows, up "
        "to a fork. W/A: bits of the weights, and of what the layer reads. W KiB: weights, packed. A KiB: what the layer reads, "
        "of one image, packed. Cost: FMAs times bits over the same layer's at 1x in float32."
    )
    made.notes += _summary(results)
    return [made]


def _weights(row: dict[str, Any]) -> str:
    channels = int(row["input"].partition("x")[0])
    if row["op"] == "linear":
        return f"{row['filters']}x{channels}"
    stride = row["stride"].partition("x")[0]
    shown = f"{row['filters']}x{channels // row['groups']}x{row['kernel']}" + (f"/{stride}" if stride != "1" else "")
    return shown + (f", {row['groups']} groups" if row["groups"] > 1 else "")


def list_table() -> Table:
    """The architectures that there are."""
    made = Table("Architectures", ["<", "<"])
    for name, build in ARCHITECTURES.items():
        a = build()
        about = (build.__doc__ or "").partition("\n")[0]
        counted = f"{len(a.layers)} layers, {a.parameters() / 1e6:,.2f} M parameters, {fmas(a) / 1e6:,.0f} M FMAs"
        made.add(name, f"{about} {_shape(a.input_shape)}: {counted}.")
    return made
