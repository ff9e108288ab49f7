"""The oracle of networks of integers: every layer of `lowprec.wrpn.layers` in plain NumPy, with the arithmetic of docs/wrpn.md.

Sums of codes are exact. Sums of float32 numbers are made in float64, where their products are exact, and rounded to float32 in
the end; `float_bound` says how far a sum in float32 may be from the exact one, in whatever order.
"""

from __future__ import annotations

import numpy as np

from lowprec.wrpn.layers import INPUT

U = 2.0**-24  # the unit roundoff of float32


def windows(x, layer, fill=0):
    """(N, H, W, C) -> (N, oh, ow, kh, kw, C): what each output looks at. `fill` is beyond the edge."""
    (kh, kw), (sy, sx), (py, px) = layer.window, layer.stride, layer.padding
    sizes, after = [], []
    for size, k, s, p in zip(x.shape[1:3], (kh, kw), (sy, sx), (py, px), strict=True):
        room = size + 2 * p - k
        count = room // s + 1
        # a window that begins within the image or the padding before it counts, though it ends beyond the padding behind
        while layer.ceil_mode and (count - 1) * s < room and count * s < size + p:
            count += 1
        sizes.append(count)
        after.append(max(0, (count - 1) * s + k - size - p))
    padded = np.pad(x, ((0, 0), (py, after[0]), (px, after[1]), (0, 0)), constant_values=fill)
    rows = np.arange(sizes[0])[:, None] * sy + np.arange(kh)
    columns = np.arange(sizes[1])[:, None] * sx + np.arange(kw)
    return padded[:, rows[:, None, :, None], columns[None, :, None, :], :]


def sums(layer, x):
    """What a conv or an average_pool adds up: int32 of codes, float32 of float32."""
    seen = windows(x, layer).astype(np.float64)
    n, oh, ow, _, _, c = seen.shape
    if layer.op == "average_pool":
        total = seen.sum(axis=(3, 4))
    else:
        w = layer.weights.astype(np.float64)
        parts = []
        for g in range(layer.groups):
            inputs = slice(g * c // layer.groups, (g + 1) * c // layer.groups)
            outputs = slice(g * len(w) // layer.groups, (g + 1) * len(w) // layer.groups)
            parts.append(seen[..., inputs].reshape(n * oh * ow, -1) @ w[outputs].reshape(len(w) // layer.groups, -1).T)
        total = np.concatenate(parts, axis=1).reshape(n, oh, ow, len(w))
    return total.astype(np.int32 if x.dtype == np.uint8 else np.float32)


def float_bound(layer, x):
    """How far a sum in float32 may be from the exact one, in any order: n u / (1 - n u) times the sum of magnitudes."""
    n = layer.depth if layer.op == "conv" else int(np.prod(layer.window))
    seen = windows(np.abs(x), layer).astype(np.float64)
    if layer.op == "average_pool":
        magnitudes = seen.sum(axis=(3, 4))
    else:
        assert layer.groups == 1
        magnitudes = np.einsum("nyxijc,oijc->nyxo", seen, np.abs(layer.weights).astype(np.float64), optimize=True)
    return n * U / (1 - n * U) * magnitudes


def finish(layer, y):
    """y, float32, as the layer gives it."""
    assert y.dtype == np.float32
    if layer.bits is None:
        return np.maximum(y, np.float32(0)) if layer.relu else y
    return np.minimum(np.maximum(np.rint(y), 0), 2**layer.bits - 1).astype(np.uint8)


def run_layer(layer, *inputs):
    """(what it adds up, or None; what it gives) for inputs (N, H, W, C)."""
    x = inputs[0]
    f = np.float32
    if layer.op == "max_pool":
        return None, windows(x, layer, 0 if x.dtype == np.uint8 else -np.inf).max(axis=(3, 4))
    if layer.op == "concat":
        return None, np.concatenate(inputs, axis=3)
    if layer.op == "affine":
        return None, finish(layer, x.astype(f) * layer.scale + layer.shift)
    if layer.op == "add":
        return None, finish(layer, x.astype(f) * layer.scale[0] + inputs[1].astype(f) * layer.scale[1])
    total = sums(layer, x)
    if layer.op == "average_pool":
        return total, finish(layer, total.astype(f) * layer.scale[0])
    y = total.astype(f) * layer.scale + layer.shift
    if len(inputs) == 2:
        y = y + inputs[1].astype(f) * f(layer.residual_scale)
    return total, finish(layer, y)


def tensors(layers, x):
    """Everything that the layers give for images (N, C, H, W), by name, each (N, H, W, C)."""
    found = {INPUT: np.ascontiguousarray(x.transpose(0, 2, 3, 1))}
    for layer in layers:
        found[layer.name] = run_layer(layer, *(found[name] for name in layer.inputs))[1]
    return found


class Program:
    """What `lowprec._network.Program` does, in NumPy."""

    def __init__(self, layers, shapes, isa=None):
        self.layers = list(layers)

    def run(self, x, n_threads=1):
        return tensors(self.layers, x)[self.layers[-1].name].reshape(len(x), -1)

    def run_all(self, x):
        found = tensors(self.layers, x)
        del found[INPUT]
        return found

    def run_layer(self, name, inputs):
        (layer,) = (layer for layer in self.layers if layer.name == name)
        total, result = run_layer(layer, *inputs)
        return total if layer.op == "conv" else None, result
