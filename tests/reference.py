"""The oracle: "The arithmetic" of docs/architecture.md, as plainly as Python can say it.

The first part is the oracle: Python integers and Fractions, one element after another; numpy.float32 scalars where the contract
says float32, and Python floats where it says float64. Nothing in it is written for speed, and it shares no code with the package.

The second part (names ``sweep_*``) computes the same with NumPy arrays, for the large sweeps. test_kernels.py holds it to
the oracle on small cases.

Codes are lists of numbers or arrays (int64 or float32), one element each; ``pack`` and ``unpack`` translate to and from the
bytes that kernels see.
"""

from __future__ import annotations

import csv
import functools
import math
import struct
from fractions import Fraction

import numpy as np

TOKENS = ("4", "8", "16", "32f")
FIXED = ("4", "8", "16")
ROUNDINGS = ("nearest", "sr", "srx", "srb")
BITS = {"4": 4, "8": 8, "16": 16, "32f": 32}
DTYPES = {"4": np.uint8, "8": np.int8, "16": np.int16, "32f": np.float32}

MASK64 = 2**64 - 1


def float32_step(m):
    """float32(m), clipped to the finite numbers."""
    top = float(np.finfo(np.float32).max)
    return np.float32(min(max(float(m), -top), top))


def max_code(token):
    """The largest model code of a format."""
    return 2 ** (BITS[token] - 1) - 1


def min_code(token):
    """The smallest data code of a format (two's complement)."""
    return -(2 ** (BITS[token] - 1))


def names():
    """Every row of the matrix as (op, D, M, rounding), by the grammar alone."""
    for D in TOKENS:
        for M in TOKENS:
            yield "dot", D, M, "nearest"
            for op in ("axpy", "axpy_dot"):
                for rounding in ROUNDINGS if M != "32f" else ("nearest",):
                    yield op, D, M, rounding


def sparse_names():
    """Every row of the matrix for sparse data, as (op, D, M, rounding, index)."""
    for op, D, M, rounding in names():
        for index in ("8", "16", "32") if op != "axpy_dot" else ():
            yield f"s{op}", D, M, rounding, index


def name_of(op, D, M, rounding, index=None):
    """The row's name in the grammar."""
    return op + (f"_i{index}" if index else "") + f"_{D}_{M}" + ("" if rounding == "nearest" else "_" + rounding)


# ---- codes and bytes ----------------------------------------------------------------------------------------


def pack(codes, token):
    """Codes to the array a kernel takes. 4 bits: element 2k in the low nibble of byte k, an odd tail nibble zero."""
    if token != "4":
        return np.array(codes, dtype=DTYPES[token])
    codes = [int(c) % 16 for c in codes]
    if len(codes) % 2:
        codes.append(0)
    return np.array([codes[k] + 16 * codes[k + 1] for k in range(0, len(codes), 2)], dtype=np.uint8)


def unpack(array, token, n):
    """The first n codes of an array that a kernel takes."""
    if token == "32f":
        return [np.float32(v) for v in array[:n]]
    if token != "4":
        return [int(v) for v in array[:n]]
    nibbles = []
    for byte in array:
        nibbles += [int(byte) % 16, int(byte) // 16]
    return [v - 16 if v >= 8 else v for v in nibbles[:n]]


# ---- random streams -----------------------------------------------------------------------------------------


def splitmix64(state):
    """One step: (new state, output)."""
    state = (state + 0x9E3779B97F4A7C15) & MASK64
    z = state
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return state, z ^ (z >> 31)


def mix(z):
    """One SplitMix64 output from state z."""
    return splitmix64(z)[1]


def xorshift64(x):
    """One step of xorshift64 (13, 7, 17)."""
    x ^= (x << 13) & MASK64
    x ^= x >> 7
    x ^= (x << 17) & MASK64
    return x


class Stream:
    """Eight xorshift64 lanes and the scalar generator of one (seed, stream)."""

    def __init__(self, seed, stream):
        state = mix(seed) ^ mix(stream ^ 0xD1B54A32D192ED03)
        outputs = []
        for _ in range(9):
            state, z = splitmix64(state)
            outputs.append(z if z != 0 else 0x9E3779B97F4A7C15)
        self.lanes = outputs[:8]
        self._scalar = outputs[8]

    def block(self):
        """Draw: advance all lanes; the block is their new state."""
        self.lanes = [xorshift64(lane) for lane in self.lanes]
        return list(self.lanes)

    def scalar(self):
        """Draw one output of the scalar generator."""
        self._scalar = xorshift64(self._scalar)
        return self._scalar


def words16(block):
    """A block as 32 little-endian 16-bit words."""
    return [(lane >> (16 * k)) & 0xFFFF for lane in block for k in range(4)]


def words32(block):
    """A block as 16 little-endian 32-bit words."""
    return [(lane >> (32 * k)) & 0xFFFFFFFF for lane in block for k in range(2)]


class Mt19937:
    """MT19937 (Matsumoto and Nishimura 1998), seeded by init_by_array."""

    def __init__(self, seed, stream):
        key = [seed & 0xFFFFFFFF, seed >> 32, stream & 0xFFFFFFFF, stream >> 32]
        s = [19650218]
        for k in range(1, 624):
            s.append((1812433253 * (s[k - 1] ^ (s[k - 1] >> 30)) + k) & 0xFFFFFFFF)
        i, j = 1, 0
        for _ in range(624):
            s[i] = ((s[i] ^ ((s[i - 1] ^ (s[i - 1] >> 30)) * 1664525)) + key[j] + j) & 0xFFFFFFFF
            i, j = i + 1, (j + 1) % 4
            if i == 624:
                s[0] = s[623]
                i = 1
        for _ in range(623):
            s[i] = ((s[i] ^ ((s[i - 1] ^ (s[i - 1] >> 30)) * 1566083941)) - i) & 0xFFFFFFFF
            i += 1
            if i == 624:
                s[0] = s[623]
                i = 1
        s[0] = 0x80000000
        self.state, self.index = s, 624

    def next(self):
        """One 32-bit output."""
        s = self.state
        if self.index == 624:
            for k in range(624):
                y = (s[k] & 0x80000000) + (s[(k + 1) % 624] & 0x7FFFFFFF)
                s[k] = s[(k + 397) % 624] ^ (y >> 1) ^ (0x9908B0DF if y % 2 else 0)
            self.index = 0
        y = s[self.index]
        self.index += 1
        y ^= y >> 11
        y ^= (y << 7) & 0x9D2C5680
        y ^= (y << 15) & 0xEFC60000
        return y ^ (y >> 18)


def random_streams():
    """Rows (generator, seed, stream, index, value as hex) that pin every generator."""
    for seed in (0, 1, 2, 12345, 2**63, MASK64):
        for stream in (0, 1, 63):
            source = Stream(seed, stream)
            lanes = [lane for _ in range(3) for lane in source.block()]
            scalars = [source.scalar() for _ in range(8)]
            twister = Mt19937(seed, stream)
            outputs = [twister.next() for _ in range(8)]
            for generator, values in (("lanes", lanes), ("scalar", scalars), ("mt19937", outputs)):
                for index, value in enumerate(values):
                    yield generator, str(seed), str(stream), str(index), f"{value:#x}"


def write_random_streams(path):
    """Write the file that pins the streams, tests/data/random_streams.csv. A change to it breaks every saved result."""
    with open(path, "w", newline="") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(("generator", "seed", "stream", "index", "value"))
        out.writerows(random_streams())


# ---- codecs -------------------------------------------------------------------------------------------------

CODECS = ("1", "2", "4", "8", "16", "16f", "32f")
CODE_BITS = {"1": 1, "2": 2, "4": 4, "8": 8, "16": 16, "16f": 16, "32f": 32}
CODE_LEVELS = {"1": 2, "2": 1, "4": 1, "8": 1, "16": 1, "16f": 1, "32f": 0}


def codec_names():
    """Every row of the codecs as (op, C, rounding)."""
    for C in CODECS:
        for op in ("encode", "encode_feedback"):
            for rounding in ("nearest", "sr") if C in ("2", "4", "8", "16") else ("nearest",):
                yield op, C, rounding
        yield "decode", C, "nearest"
        yield "decode_add", C, "nearest"


def coded_bytes(C, n):
    """Bytes of a message of n numbers."""
    return -(-n * CODE_BITS[C] // 8) + 4 * CODE_LEVELS[C] * -(-n // 2048)


def partial_sums(terms):
    """32 float32 sums, term j to sum j mod 32, added up as those of dot are; float64."""
    sums = [np.float32(0)] * 32
    for j, term in enumerate(terms):
        sums[j % 32] = sums[j % 32] + term
    sums = [float(s) for s in sums]
    for s in (16, 8, 4, 2, 1):
        for l in range(s):
            sums[l] += sums[l + s]
    return sums[0]


def code_block(C, v, feedback, stream):
    """(codes, levels) of a block of float32 numbers, or None if it cannot be coded. Codes are bits, integers, or bits of halves.
    stream: where random words come from, or None: round to nearest."""
    if any(not abs(float(x)) <= 2.0**100 for x in v):
        return None
    a = max(abs(x) for x in v)
    if C == "1":
        codes = [int(x < 0) for x in v]
        levels = []
        for bit in (0, 1):
            count = codes.count(bit)
            total = partial_sums([x if code == bit else np.float32(0) for x, code in zip(v, codes, strict=True)])
            levels.append(np.float32(total / count if count else 0.0))
        return codes, levels
    if C == "16f":
        k = math.frexp(float(a))[1] - 15 if a >= 2.0**-100 else 0
        return [int.from_bytes(struct.pack("<e", float(x) / 2.0**k), "little") for x in v], [np.float32(2.0**k)]
    level = a / np.float32(max_code_of(C)) * np.float32(1 + 2**-22)
    inverse = np.float32(0)
    if level < 2.0**-100:
        level = np.float32(0)
    else:
        inverse = np.float32(1) / level
    codes = []
    for j, x in enumerate(v):
        if j % 16 == 0 and stream:
            words = words32(stream.block())
        t = x * inverse
        if not stream:
            codes.append(round(Fraction(float(t))))
            continue
        f = math.floor(float(t))
        codes.append(f + (Fraction(float(t - np.float32(f))) > Fraction(words[j % 16] >> 8, 2**24)))
    assert max(map(abs, codes)) <= max_code_of(C)
    if feedback and C in ("2", "4"):
        squares = sum(c * c for c in codes)
        total = partial_sums([x * np.float32(c) for x, c in zip(v, codes, strict=True)])
        level = np.float32(total / squares if squares else 0.0)
    return codes, [level]


def max_code_of(C):
    """The largest code of a fixed-point codec."""
    return 2 ** (CODE_BITS[C] - 1) - 1


def decode_block(C, codes, levels):
    """The numbers of a block, float32."""
    if C == "1":
        return [levels[code] for code in codes]
    if C == "16f":
        codes = [struct.unpack("<e", code.to_bytes(2, "little"))[0] for code in codes]
    return [np.float32(code) * levels[0] for code in codes]


def encode(C, v, *, feedback=False, random=False, seed=0, stream=0, source=None):
    """(message, what is left, whether all numbers are finite): bytes, float32 numbers, bool. source: a Stream to go on with."""
    v = [np.float32(x) for x in v]
    if C == "32f":
        finite = all(math.isfinite(x) for x in v)
        return b"".join(x.tobytes() for x in v), [x - x for x in v] if feedback else v, finite
    source = (source or Stream(seed, stream)) if random else None
    payload, levels, left, finite = 0, [], [], True
    for first in range(0, len(v), 2048):
        block = v[first : first + 2048]
        coded = code_block(C, block, feedback, source)
        if coded is None:
            finite = False
            coded = [0] * len(block), [np.float32(math.nan)] * CODE_LEVELS[C]
        for j, code in enumerate(coded[0], first):
            payload |= code % 2 ** CODE_BITS[C] << CODE_BITS[C] * j
        levels += coded[1]
        left += [x - d for x, d in zip(block, decode_block(C, *coded), strict=True)] if feedback else block
    message = payload.to_bytes(-(-len(v) * CODE_BITS[C] // 8), "little") + b"".join(x.tobytes() for x in levels)
    return message, left, finite


def decode(C, message, n):
    """The n numbers of a message, float32."""
    bits = CODE_BITS[C]
    end = -(-n * bits // 8)
    levels = list(np.frombuffer(message[end:], "<f4"))
    if C == "32f":
        return list(np.frombuffer(message, "<f4"))
    codes = []
    for j in range(n):
        code = int.from_bytes(message[j * bits // 8 : (j * bits + bits + 7) // 8], "little") >> j * bits % 8 & (2**bits - 1)
        codes.append(code - 2**bits if C in ("2", "4", "8", "16") and code >= 2 ** (bits - 1) else code)
    numbers = []
    for k in range(-(-n // 2048)):
        own = levels[k * CODE_LEVELS[C] : (k + 1) * CODE_LEVELS[C]]
        numbers += decode_block(C, codes[2048 * k : 2048 * (k + 1)], own)
    return numbers


# ---- the step of an axpy ------------------------------------------------------------------------------------


def step(m, M, stochastic, draw):
    """(mu, e) of a step m (float64), integer data and a fixed-point model. draw: one output of the scalar generator."""
    limit = 2 * max_code(M)
    m = max(-limit, min(limit, Fraction(m)))
    e = 0
    while not abs(m) < Fraction(2) ** (e - 1):
        e += 1
    t = float(m * Fraction(2) ** (16 - e))  # exact: a power of two times a float64 that is not too small
    if stochastic:
        h = draw >> 32
        t = t + (2 * h + 1 - 2**32) / 2**33
    mu = round(Fraction(t))  # half to even
    if abs(mu) == 2**15:
        mu, e = mu // 2, e + 1
    return mu, e


# ---- axpy and dot -------------------------------------------------------------------------------------------


def saturate(v, M):
    """Model codes lie in +-(2^(b-1) - 1)."""
    return max(-max_code(M), min(max_code(M), v))


def axpy_integer(mu, e, x, w, M, words):
    """Integer data, fixed-point model; words: a 16-bit number per element."""
    return [saturate(w[j] + (mu * 2**e * x[j] + words[j]) // 2**16, M) for j in range(len(w))]


def axpy_from_float(m, x, w, M, words):
    """32f data, fixed-point model; words: a 32-bit number per element, or None for nearest."""
    hi = np.float32(2 * max_code(M))
    out = []
    with np.errstate(all="ignore"):
        for j in range(len(w)):
            t = float32_step(m) * np.float32(x[j])
            t = hi if t > hi else t
            t = t if t > -hi else -hi  # a NaN ends here
            f = np.floor(t)
            fraction = t - f
            u = np.float32(float.fromhex("0x1.fffffep-2")) if words is None else np.float32((words[j] >> 8) / 2**24)
            out.append(saturate(w[j] + int(f) + (1 if fraction > u else 0), M))
    return out


def axpy_into_float(m, x, w):
    """Any data, 32f model: multiply, round, add, round."""
    with np.errstate(all="ignore"):
        return [np.float32(w[j]) + float32_step(m) * np.float32(x[j]) for j in range(len(w))]


def dot_integer(x, w):
    """The exact sum."""
    return sum(int(a) * int(b) for a, b in zip(x, w, strict=True))


def dot_float(x, w):
    """A pair with 32f: 32 float32 partial sums, flushed to float64 every 4096 elements, one fixed tree."""
    sums = [0.0] * 32
    partial = [np.float32(0)] * 32

    def flush():
        for lane in range(32):
            sums[lane] += float(partial[lane])
            partial[lane] = np.float32(0)

    with np.errstate(all="ignore"):
        for j in range(len(x)):
            partial[j % 32] = partial[j % 32] + np.float32(x[j]) * np.float32(w[j])
            if (j + 1) % 4096 == 0:
                flush()
    flush()
    for s in (16, 8, 4, 2, 1):
        for lane in range(s):
            sums[lane] += sums[lane + s]
    return sums[0]


def row_words(D, rounding, n, source, words):
    """The random word of every element of one axpy; None for nearest from 32f data."""
    if rounding == "srb":
        return [int(v) for v in words[:n]]
    if rounding == "nearest":
        return None if D == "32f" else [2**15] * n
    per_block, split = (16, words32) if D == "32f" else (32, words16)
    out, block = [], None
    for j in range(n):
        if block is None or (rounding == "srx" and j % per_block == 0):
            block = split(source.block())
        out.append(block[j % per_block])
    return out


def kernel(op, D, M, rounding, *, x, w, n, m=0.0, x_next=None, words=None, seed=0, stream=0):
    """One call of a kernel on lists of codes: (the new w, the sum or None)."""
    x, w = list(x[:n]), list(w[:n])
    if op == "dot":
        x_next = x
    else:
        source = Stream(seed, stream)
        if M == "32f":
            w = axpy_into_float(m, x, w)
        elif D == "32f":
            w = axpy_from_float(m, x, w, M, row_words(D, rounding, n, source, words))
        else:
            stochastic = rounding != "nearest"
            mu, e = step(m, M, stochastic, source.scalar() if stochastic else 0)
            w = axpy_integer(mu, e, x, w, M, row_words(D, rounding, n, source, words))
    if op == "axpy":
        return w, None
    return w, (dot_float if "32f" in (D, M) else dot_integer)(list(x_next[:n]), w)


def batch(D, M, rounding, *, rows, w, m, rows_next, n, words=None, seed=0, stream=0):
    """One write of w for many rows, row b with step m[b], then the products of rows_next: (the new w, the sums).

    Integer data, fixed-point model: one exact sum over the rows, then the rounding of a single axpy; a scalar for each row, in
    order. Otherwise the sum is made of float32 products, float32 additions in order.
    """
    w, rows = list(w[:n]), [list(x[:n]) for x in rows]
    source = Stream(seed, stream)
    if rows and "32f" in (D, M):
        sums = []
        with np.errstate(all="ignore"):
            for j in range(n):
                products = [float32_step(m[b]) * np.float32(rows[b][j]) for b in range(len(rows))]
                total = products[0]
                for product in products[1:]:
                    total = total + product
                sums.append(total)
        if M == "32f":
            w = axpy_into_float(1.0, sums, w)
        else:
            w = axpy_from_float(1.0, sums, w, M, row_words(D, rounding, n, source, words))
    elif rows:
        stochastic = rounding != "nearest"
        steps = [step(m[b], M, stochastic, source.scalar() if stochastic else 0) for b in range(len(rows))]
        r = row_words(D, rounding, n, source, words)
        for j in range(n):
            total = sum(mu * 2**e * rows[b][j] for b, (mu, e) in enumerate(steps))
            w[j] = saturate(w[j] + (total + r[j]) // 2**16, M)
    dot = dot_float if "32f" in (D, M) else dot_integer
    return w, [dot(list(x[:n]), w) for x in rows_next]


# ---- sparse rows --------------------------------------------------------------------------------------------


def sparse_encode(columns, codes, bits, differences):
    """The stored entries of a row: (index, codes)."""
    top, index, stored, before = 2**bits - 1, [], [], -1
    for column, code in zip(columns, codes, strict=True):
        if not differences:
            index.append(column)
        else:
            gap = column - before
            while gap > top:  # a filler
                index.append(top)
                stored.append(0 * code)
                gap -= top
            index.append(gap)
            before = column
        stored.append(code)
    return index, stored


def sparse_positions(index, differences):
    """The position of every stored entry."""
    if not differences:
        return [int(i) for i in index]
    out, at = [], -1
    for i in index:
        at += int(i)
        out.append(at)
    return out


def sparse_kernel(op, D, M, rounding, *, x, index, differences, w, **case):
    """One call of a sparse kernel: the dense one on the weights at the entries' positions. (The new w, the sum or None.)"""
    at = sparse_positions(index, differences)
    part, z = kernel(op[1:], D, M, rounding, x=x, w=[w[p] for p in at], n=len(at), **case)
    w = list(w)
    for p, v in zip(at, part, strict=True):
        w[p] = v
    return w, z


# ---- loss derivatives ---------------------------------------------------------------------------------------


@functools.cache
def logistic_table():
    """1/(1 + exp(t)) as a cubic in u = 16 t - k about every node k of [-512, 512]: Hermite between the interval's ends."""

    def exp(t):
        r, term, total = t / 64.0, 1.0, 1.0
        for k in range(1, 21):
            term = term * r / k
            total = total + term
        for _ in range(6):
            total = total * total
        return total

    table = {}
    for k in range(-512, 513):
        s, d = [], []
        for side in (-0.5, 0.5):
            value = exp((k + side) / 16.0)
            s.append(1.0 / (1.0 + value))
            d.append(-s[-1] * (value / (1.0 + value)) / 16.0)
        table[k] = (
            0.5 * (s[0] + s[1]) + 0.125 * (d[0] - d[1]),
            1.5 * (s[1] - s[0]) - 0.25 * (d[0] + d[1]),
            0.5 * (d[1] - d[0]),
            (d[0] + d[1]) - 2.0 * (s[1] - s[0]),
        )
    return table


def loss_derivative(loss, p, y, parameter=0.0):
    """d loss / d p in float64; labels of logistic and margin losses are -1 or +1. `parameter`: epsilon, or the quantile."""
    margin, residual = 1.0 - y * p, y - p
    if loss == "squared":
        return p - y
    if loss == "hinge":
        return -y if y * p < 1.0 else 0.0
    if loss == "squared_hinge":
        return -2.0 * margin * y if margin > 0.0 else 0.0
    if loss == "modified_huber":
        return -4.0 * y if margin > 2.0 else -2.0 * margin * y if margin > 0.0 else 0.0
    if loss == "huber":
        return -max(-parameter, min(parameter, residual))
    if loss == "epsilon_insensitive":
        return -1.0 if residual > parameter else 1.0 if residual < -parameter else 0.0
    if loss == "quantile":
        return -parameter if residual > 0.0 else 1.0 - parameter if residual < 0.0 else 0.0
    t16 = max(-512.0, min(512.0, 16.0 * (y * p)))
    k = round(t16)
    c, u = logistic_table()[k], t16 - k
    return -y * ((c[0] + c[1] * u) + (u * u) * (c[2] + c[3] * u))


def exact_loss_derivative(loss, p, y):
    """The same by the mathematical definition, for judging the table."""
    if loss != "logistic":
        return loss_derivative(loss, p, y)
    t = y * p
    return -y / (1.0 + math.exp(t)) if t < 0 else -y * math.exp(-t) / (1.0 + math.exp(-t))


# ---- the training loop --------------------------------------------------------------------------------------


class PlainSgd:
    """One worker of a training run, example by example: product, derivative, axpy. Nothing is fused, nothing left pending.

    X: rows of codes; random: "nearest", "shared", "xorshift" or "mt19937". One scalar is drawn per axpy of integer data into a
    fixed-point model; an example whose derivative is 0 makes no axpy.
    """

    def __init__(self, X, D, M, random, w, y, *, loss, step, data_scale, model_scale, seed=0, stream=0, refresh=1,
                 weight=None, intercept=None, intercept_step=0.0, parameter=0.0):  # fmt: skip
        self.anchor, self.parameter = None, parameter
        self.X, self.D, self.M, self.w, self.y = X, D, M, np.array(w), y
        self.random = random
        self.loss, self.step, self.data_scale, self.model_scale = loss, step, data_scale, model_scale
        self.source, self.twister, self.refresh = Stream(seed, stream), Mt19937(seed, stream), refresh
        self.calls, self.block = 0, None
        self.weight, self.intercept, self.intercept_step = weight, intercept, intercept_step

    def words(self):
        """The random words of the next axpy."""
        n = len(self.w)
        if self.random == "nearest":
            return None if self.D == "32f" else np.full(n, 2**15)
        if self.random == "mt19937":
            shift = 0 if self.D == "32f" else 16
            return np.array([self.twister.next() >> shift for _ in range(n)], np.int64)
        per_block, split = (16, words32) if self.D == "32f" else (32, words16)
        if self.random == "xorshift":
            return np.array([v for _ in range(0, n, per_block) for v in split(self.source.block())][:n], np.int64)
        if self.calls % self.refresh == 0:
            self.block = split(self.source.block())
        self.calls += 1
        return np.resize(np.array(self.block), n)

    def example(self, row):
        """One step on one row. False if its product is not finite: then nothing is changed."""
        x, y = self.X[row], float(self.y[row])
        weight = 1.0 if self.weight is None else float(self.weight[row])
        bias = 0.0 if self.intercept is None else self.intercept
        above, taken = (0.0, 0.0) if self.anchor is None else self.anchor[row]  # SVRG: a part of p, and of the slope
        p = float(sweep_dot(self.D, self.M, x, self.w)) * (self.data_scale * self.model_scale) + (bias + above)
        if not math.isfinite(p):
            return False
        slope = -loss_derivative(self.loss, p, y, self.parameter)
        factor = self.step * self.data_scale / self.model_scale * weight
        m = slope * factor - taken * factor
        if m == 0.0:  # a step of zero is no step: nothing is drawn for it
            return True
        if self.M == "32f":
            self.w = sweep_axpy(self.D, self.M, x, self.w, m=m)
        elif self.D == "32f":
            self.w = sweep_axpy(self.D, self.M, x, self.w, m=m, words=self.words())
        else:
            stochastic = self.random != "nearest"
            mu_e = step(m, self.M, stochastic, self.source.scalar() if stochastic else 0)
            self.w = sweep_axpy(self.D, self.M, x, self.w, mu_e=mu_e, words=self.words())
        if self.intercept is not None:
            factor = self.intercept_step * weight
            self.intercept = bias + (slope * factor - taken * factor)
        return True

    def epoch(self, order):
        """Visit the rows in this order; return the first bad row, or -1."""
        for row in order:
            if not self.example(row):
                return row
        return -1

    def widen(self):
        """q <- round-half-even(q / 2), model scale times 2."""
        if self.M != "32f":
            self.w = np.array([round(Fraction(int(v), 2)) for v in self.w])
        self.model_scale *= 2.0


class PlainBatchSgd:
    """One worker of a training run on mini-batches: all products of a batch, then one write of the model.

    Without a gradient format the rows are added to the model. With one they are added to zeros of that format, by random words of
    their own, and the result is added to the model.
    """

    def __init__(self, X, D, M, random, w, y, *, batch_size, gradient=None, data_limit=None, seed=0, stream=0, **options):
        self.batch_size, self.gradient = batch_size, gradient
        self.limit = options["data_scale"] * max_code(D) if D != "32f" else data_limit
        # Two generators, and what takes words from them: the model (from codes of format D or G) and the gradient numbers.
        self.model = PlainSgd(X, gradient or D, M, random, w, y, seed=seed, stream=stream, **options)
        if gradient is not None:
            self.sum = PlainSgd(X, D, gradient, random, w, y, seed=seed, stream=stream + 2**32, **options)
        self.D, self.M = D, M

    @property
    def w(self):
        """The model's codes."""
        return self.model.w

    @property
    def intercept(self):
        """The intercept."""
        return self.model.intercept

    @staticmethod
    def add(target, m, rows):
        """One write of target.w, for all rows of codes."""
        mu_e = words = None
        if "32f" not in (target.D, target.M):
            stochastic = target.random != "nearest"
            mu_e = [step(v, target.M, stochastic, target.source.scalar() if stochastic else 0) for v in m]
        if target.M != "32f":
            words = target.words()
        target.w = sweep_update(target.D, target.M, rows, target.w, m=m, mu_e=mu_e, words=words)

    def batch(self, rows):
        """One batch. -1, or the first row whose product is not finite: then nothing is changed."""
        s = self.model
        bias = 0.0 if s.intercept is None else s.intercept
        slopes = []
        for row in rows:
            p = float(sweep_dot(self.D, self.M, s.X[row], s.w)) * (s.data_scale * s.model_scale) + bias
            if not math.isfinite(p):
                return row
            slopes.append(-loss_derivative(s.loss, p, float(s.y[row])))
        weight = [1.0 if s.weight is None else float(s.weight[row]) for row in rows]
        factor = 1.0 if self.gradient else s.step * s.data_scale / s.model_scale
        m = [slope * (factor * k) for slope, k in zip(slopes, weight, strict=True)]
        taken = [k for k in range(len(rows)) if m[k] != 0.0]
        if not taken:
            return -1
        X = [s.X[rows[k]] for k in taken]
        m = [m[k] for k in taken]
        if self.gradient is None:
            self.add(s, m, X)
        else:
            self.sum.w = np.zeros_like(self.sum.w, dtype=np.float32 if self.gradient == "32f" else np.int64)
            if self.gradient == "32f":
                self.add(self.sum, m, X)
                self.add(s, [s.step * s.data_scale / s.model_scale], [self.sum.w])
            else:
                total = 0.0
                for v in m:
                    total += abs(v)
                top = max_code(self.gradient)
                to_codes = top * s.data_scale / self.limit
                self.add(self.sum, [v * (to_codes / total) for v in m], X)
                self.add(s, [total * (s.step * self.limit / top / s.model_scale)], [self.sum.w])
        if s.intercept is not None:
            shift = 0.0
            for k in taken:
                shift += slopes[k] * (s.intercept_step * weight[k])
            s.intercept = bias + shift
        return -1

    def epoch(self, order):
        """Visit the rows in this order; return the first bad row, or -1."""
        for first in range(0, len(order), self.batch_size):
            bad = self.batch(order[first : first + self.batch_size])
            if bad >= 0:
                return bad
        return -1

    def widen(self):
        """As PlainSgd's."""
        self.model.widen()


class PlainSparseSgd(PlainSgd):
    """The same on sparse rows: each a pair (index, codes) of stored entries. An example sees the weights at its positions."""

    def __init__(self, X, D, M, random, w, y, *, differences, **options):
        super().__init__(X, D, M, random, w, y, **options)
        self.rows, self.differences, self.whole = X, differences, self.w

    def example(self, row):
        index, codes = self.rows[row]
        at = sparse_positions(index, self.differences)
        self.X, self.w = {row: np.asarray(codes)}, self.whole[at]
        done = super().example(row)
        self.whole[at] = self.w
        return done

    def widen(self):
        self.w = self.whole
        super().widen()
        self.whole = self.w


# ---- between the rounds of training: "Beyond the plain loop" of the architecture ------------------------------


def shrink(w, M, theta, draw, words):
    """L1: theta is taken from every weight, not beyond zero. words: a 16-bit number per element, or None for nearest."""
    if M == "32f":
        t = np.float32(theta)
        sizes = [max(abs(v) - t, np.float32(0)) for v in w]
        return np.array([-size if v < 0 else size for v, size in zip(w, sizes, strict=True)], np.float32)
    # In 2^-16 quanta, rounded down or up by the draw, so that its mean is theta.
    whole = math.floor(theta * 2**16 + (0.5 if words is None else (draw >> 32) / 2**32))
    out = []
    for j, q in enumerate(w):
        taken = (whole + (2**15 if words is None else words[j])) // 2**16
        size = max(abs(int(q)) - taken, 0)
        out.append(size if q > 0 else -size)
    return np.array(out)


def power(x, k):
    """x^k by the bits of k, the lowest first."""
    result = 1.0
    while k:
        if k % 2:
            result *= x
        x *= x
        k //= 2
    return result


def halved(w):
    """Codes of twice the quantum: round-half-even(q / 2)."""
    return np.array([round(Fraction(int(v), 2)) for v in w])


class Visits:
    """A plain run with rounds: what is done to the whole model after `every` examples.

    run: PlainSgd or one of those below it, or something like it that has several workers with shares of one length, and gets
    positions in these. The step of a round is the schedule's at its middle.
    """

    def __init__(self, run, every, *, seed=0, schedule="constant", total=1.0, before=0.0, power=0.5, rows=1.0,
                 alpha1=0.0, alpha2=0.0, average_from=None, workers=1):  # fmt: skip
        self.run, self.every, self.workers = run, every, workers
        self.schedule, self.total, self.before, self.power, self.rows = schedule, total, before, power, rows
        self.alpha1, self.alpha2, self.average_from = alpha1, alpha2, average_from
        self.source = Stream(seed, 2**33)
        self.model = getattr(run, "model", run)
        self.step0, self.ratio = self.model.step, self.model.intercept_step / self.model.step
        self.base, self.left = self.model.model_scale, 0.0
        self.drift, self.drift_intercept = None, 0.0
        self.sum, self.sum_intercept, self.count = np.zeros(len(self.w)), 0.0, 0
        self.steps = []

    @property
    def w(self):
        """The whole model's codes."""
        return self.model.whole if hasattr(self.model, "whole") else self.model.w

    @w.setter
    def w(self, value):
        if hasattr(self.model, "whole"):
            self.model.whole = value
        else:
            self.model.w = value

    def restart(self, model_scale, step):
        """Zeros, with another quantum and step."""
        self.w, self.model.model_scale, self.base = np.zeros_like(self.w), model_scale, model_scale
        self.step0 = self.model.step = step
        self.model.intercept_step = step * self.ratio
        if self.model.intercept is not None:
            self.model.intercept = 0.0

    def step_at(self, t):
        """The step after t examples."""
        if self.schedule == "linear":
            return self.step0 * max(0.0, 1.0 - t / self.total)
        if self.schedule == "invscaling":
            return self.step0 * float(np.float32((1.0 + (self.before + t) / self.rows) ** -self.power))
        return self.step0

    def epoch(self, order, done):
        """One pass, after `done` examples."""
        for a in range(0, len(order), self.every):
            b = min(a + self.every, len(order))
            following, count = (self.workers * (end - start) for start, end in ((b, min(b + self.every, len(order))), (a, b)))
            step = self.step_at(done + 0.5 * (self.workers * a + self.workers * b))
            if step != self.model.step:
                self.model.step, self.model.intercept_step = step, step * self.ratio
            self.steps += [step] * (b - a)
            if a == 0 and self.drift is not None:
                self.drifts(step, 0.5 * count, *self.draws())
            assert self.run.epoch(order[a:b]) == -1
            self.visit(step, count, done + self.workers * b, following)

    def draws(self):
        """The random words and the scalar of a visit; none for a model that is not rounded at random."""
        if self.model.M == "32f" or self.model.random == "nearest":
            return None, 0
        return self.source.block(), self.source.scalar()

    def drifts(self, step, count, block, draw):
        """SVRG: the gradient at the anchor, for so many examples."""
        model = self.model
        words = None if block is None else np.resize(np.array(words32(block)), len(self.w))
        self.w = sweep_axpy("32f", model.M, self.drift, self.w, m=-step * count / model.model_scale, words=words)
        if model.intercept is not None:
            model.intercept -= step * self.ratio * count * self.drift_intercept

    def visit(self, step, count, done, following):
        """The end of a round of so many examples; the next one of the epoch has `following`."""
        model, M = self.model, self.model.M
        fixed = M != "32f"
        if self.alpha2:
            model.model_scale *= max(power(1.0 - step * self.alpha2, count), 1e-60)
            while model.model_scale**2 * 2.0 < self.base**2:
                if fixed:
                    self.w, model.model_scale = halved(self.w), model.model_scale * 2.0
                else:
                    self.w, model.model_scale = self.w * np.float32(model.model_scale / self.base), self.base
        draw, block = 0, None
        if self.alpha1 or self.alpha2 or self.drift is not None:
            block, draw = self.draws()
        n = len(self.w)
        if self.drift is not None:  # half of a round's part before it, half after it
            self.drifts(step, 0.5 * (count + following), block, draw)
        if self.alpha1:
            theta = step * count * self.alpha1
            if fixed and block is None:  # to nearest: what is less than a quantum waits
                theta += self.left
                self.left = math.fmod(theta, model.model_scale)
                theta -= self.left
            words = None if block is None else np.resize(np.array(words16(block)), n).tolist()
            self.w = shrink(self.w, M, theta / model.model_scale, draw, words)
        if self.average_from is not None and done > self.average_from:
            self.sum += model.model_scale * np.asarray(self.w, np.float64)
            self.sum_intercept += 0.0 if model.intercept is None else model.intercept
            self.count += 1


# ---- the same with arrays, for the sweeps -------------------------------------------------------------------


def sweep_pack(codes, token):
    """pack, for an array."""
    if token != "4":
        return np.asarray(codes).astype(DTYPES[token])
    nibbles = np.zeros(len(codes) + len(codes) % 2, dtype=np.uint8)
    nibbles[: len(codes)] = np.asarray(codes).astype(np.uint8) & 15
    return nibbles[0::2] | nibbles[1::2] << 4


def sweep_unpack(array, token, n):
    """unpack, for an array: int64 or float32."""
    if token == "32f":
        return array[:n].copy()
    if token != "4":
        return array[:n].astype(np.int64)
    nibbles = np.stack([array & 15, array >> 4], axis=1).reshape(-1)[:n].astype(np.int64)
    return (nibbles ^ 8) - 8


@functools.lru_cache(maxsize=512)
def sweep_blocks(seed, stream, n):
    """The first n blocks of a stream, uint64 (n, 8)."""
    source = Stream(seed, stream)
    blocks = np.array([source.block() for _ in range(n)], dtype=np.uint64).reshape(n, 8)
    blocks.flags.writeable = False
    return blocks


def sweep_words(D, rounding, n, seed, stream, words=None):
    """row_words, for an array: int64."""
    if rounding == "srb":
        return words[:n].astype(np.int64)
    if rounding == "nearest":
        return None if D == "32f" else np.full(n, 2**15)
    dtype, per_block = ("<u4", 16) if D == "32f" else ("<u2", 32)
    count = 1 if rounding == "sr" else -(-n // per_block)
    # in steps of powers of two, so that most lengths share one entry of the cache
    blocks = sweep_blocks(seed, stream, 1 << max(count - 1, 0).bit_length())
    return np.resize(blocks[:count].astype("<u8").view(dtype).reshape(-1).astype(np.int64), n)


def sweep_axpy(D, M, x, w, *, m=None, mu_e=None, words=None):
    """The axpy of arrays; mu_e for integer data and a fixed-point model, otherwise m."""
    with np.errstate(all="ignore"):
        if M == "32f":
            return w + float32_step(m) * x.astype(np.float32)
        if D == "32f":
            hi = np.float32(2 * max_code(M))
            t = float32_step(m) * x
            t = np.where(t > hi, hi, t)
            t = np.where(t > -hi, t, -hi)
            f = np.floor(t)
            u = np.float32(0.5) - np.float32(2**-25) if words is None else ((words >> 8) / 2**24).astype(np.float32)
            q = f.astype(np.int64) + ((t - f) > u)
        else:
            mu, e = mu_e
            q = ((mu << e) * x.astype(np.int64) + words) >> 16
        return np.clip(w.astype(np.int64) + q, -max_code(M), max_code(M))


def sweep_update(D, M, rows, w, *, m=None, mu_e=None, words=None):
    """The write of batch, of arrays."""
    if "32f" in (D, M):
        with np.errstate(all="ignore"):
            total = float32_step(m[0]) * rows[0].astype(np.float32)
            for v, x in zip(m[1:], rows[1:], strict=True):
                total = total + float32_step(v) * x.astype(np.float32)
        return sweep_axpy("32f", M, total, w, m=1.0, words=words)
    total = np.zeros(len(w), dtype=np.int64)
    for (mu, e), x in zip(mu_e, rows, strict=True):
        total += (mu << e) * x.astype(np.int64)
    return np.clip(w.astype(np.int64) + ((total + words) >> 16), -max_code(M), max_code(M))


def sweep_batch(D, M, rounding, *, rows, w, m, rows_next, n, words=None, seed=0, stream=0):
    """batch, for arrays."""
    w, rows = w[:n], [x[:n] for x in rows]
    if rows:
        mu_e = None
        if "32f" not in (D, M):
            stochastic, source = rounding != "nearest", Stream(seed, stream)
            mu_e = [step(v, M, stochastic, source.scalar() if stochastic else 0) for v in m]
        words = None if M == "32f" else sweep_words(D, rounding, n, seed, stream, words)
        w = sweep_update(D, M, rows, w, m=m, mu_e=mu_e, words=words)
    return w, [sweep_dot(D, M, x[:n], w) for x in rows_next]


def sweep_dot(D, M, x, w):
    """The dot of arrays: an int, or a float for pairs with 32f."""
    if "32f" not in (D, M):
        return int(np.dot(x.astype(np.int64), w.astype(np.int64)))
    n = len(x)
    sums = np.zeros(32)
    with np.errstate(all="ignore"):
        products = x.astype(np.float32) * w.astype(np.float32)
        # -0.0 is the neutral element, but a sum that starts at +0.0 never becomes -0.0, so +0.0 may pad
        padded = np.zeros(-(-n // 32) * 32, dtype=np.float32)
        padded[:n] = products
        groups = padded.reshape(-1, 32)
        for first in range(0, len(groups), 128):
            partial = np.zeros(32, dtype=np.float32)
            for group in groups[first : first + 128]:
                partial = partial + group
            sums = sums + partial.astype(np.float64)
        for s in (16, 8, 4, 2, 1):
            sums[:s] = sums[:s] + sums[s : 2 * s]
    return float(sums[0])


def sweep_kernel(op, D, M, rounding, *, x, w, n, m=0.0, x_next=None, words=None, seed=0, stream=0):
    """kernel, for arrays."""
    x, w = x[:n], w[:n]
    if op == "dot":
        return w, sweep_dot(D, M, x, w)
    if M == "32f":
        w = sweep_axpy(D, M, x, w, m=m)
    elif D == "32f":
        w = sweep_axpy(D, M, x, w, m=m, words=sweep_words(D, rounding, n, seed, stream, words))
    else:
        stochastic = rounding != "nearest"
        mu_e = step(m, M, stochastic, Stream(seed, stream).scalar() if stochastic else 0)
        w = sweep_axpy(D, M, x, w, mu_e=mu_e, words=sweep_words(D, rounding, n, seed, stream, words))
    return w, (None if op == "axpy" else sweep_dot(D, M, x_next[:n], w))
