"""The circuit, in Amaranth: `Sgd`, elaborated from a `Design`.

The formula, in integers, for batches of B rows (see "The all-integer mode" in docs/architecture.md)::

    z_b  = sum_j x_bj w_j                                   D x M bits; Design.sum_bits hold every sum, so it is exact
    mu_b = clip((((y_b << s) - z_b) * eta) >> k)            Design.error_bits, then 8 more; G bits; rounds down
    w_j <- sat(w_j + ((sum_b mu_b 2^c x_bj + r_j) >> G))    the only other rounding; Design.change_bits; one saturation, to M bits

Everything that is wider than one clock allows is cut by registers; `Design.latency` says where. Data registers have no reset, so
that they can go into the output registers of block memories and multipliers.
"""

from __future__ import annotations

import itertools
from typing import Any

from amaranth.hdl import Cat, Const, Elaboratable, Module, Mux, Signal, signed, unsigned
from amaranth.lib.memory import Memory

from .design import CHUNK, NEAR, Design, memory_shape, pieces, product_levels
from .random_words import lane_states

__all__ = ["Sgd"]

# Read and written at once at one address: the schedule excludes it, and says so to the synthesis, which would add logic for it.
_BLOCK = {"ram_style": "block", "no_rw_check": 1}
_DISTRIBUTED = {"ram_style": "distributed", "no_rw_check": 1}


def _data(shape: Any, name: str, **how: Any) -> Signal:
    return Signal(shape, name=name, reset_less=True, **how)


def _bits(largest: int) -> int:
    return max(largest.bit_length(), 1)


def _parts(value: Any) -> list[tuple[int, Any]]:
    """A factor in pieces that a multiplier of 18 bits takes, with the place of each: the last one has the sign."""
    count = pieces(len(value), value.shape().signed)
    made = [(CHUNK * k, value[CHUNK * k : CHUNK * (k + 1)]) for k in range(count - 1)]
    rest = value[CHUNK * (count - 1) :]
    return [*made, (CHUNK * (count - 1), rest.as_signed() if value.shape().signed else rest)]


def _product(m: Module, name: str, a: Any, b: Any) -> Any:
    """The product of two registers, one clock later; of wide ones as many clocks more as `product_levels` says."""
    parts = []
    for at, one in _parts(a):
        for far, other in _parts(b):
            product = one * other
            part = _data(product.shape(), f"{name}_{at + far}_{at}")
            m.d.sync += part.eq(product)
            parts.append((at + far, part))
    if len(parts) == 4:  # the first and the last stand side by side
        parts = [parts[0], parts[3], parts[1], parts[2]]
    level = 0
    while len(parts) > 1:
        pairs = []
        for k in range(0, len(parts), 2):
            some = parts[k : k + 2]
            at = min(where for where, _ in some)
            total = sum(part << where - at for where, part in some)
            bits = max(where + len(part) for where, part in some) - at + (len(some) - 1)
            register = _data(signed(min(bits, len(a) + len(b) - at)), f"{name}_sum_{level}_{k}")
            (low, first), (high, last) = some[0], some[-1]
            if len(some) == 2 and high - low >= len(first) and not first.shape().signed:
                total = Cat(first, Const(0, high - low - len(first)), last)
            m.d.sync += register.eq(total)
            pairs.append((at, register))
        level, parts = level + 1, pairs
    return parts[0][1]


def _clipped(m: Module, name: str, value: Any, bits: int, *, registered: bool = False) -> Any:
    """A signed value clipped to +-(2^(bits-1)-1), for a few gates more than one a bit: comparing would take chains of carries.

    `registered`: a clock later, with registers between finding out whether it is beyond, and clipping it.
    """
    value = Cat(value, value[-1].replicate(max(bits + 1 - len(value), 0)))
    below, sign, beyond = value[: bits - 1], value[-1], value[bits - 1 : -1]
    high, low, least = (_data(1, f"{name}_{what}") for what in ("high", "low", "least"))
    domain = m.d.sync if registered else m.d.comb
    domain += [high.eq(~sign & beyond.any()), low.eq(sign & ~beyond.all()), least.eq(sign & ~below.any())]
    if registered:
        kept = _data(bits, f"{name}_kept")
        m.d.sync += kept.eq(Cat(below, sign))
        below, sign = kept[:-1], kept[-1]
    # -2^(bits-1) itself becomes its neighbour by the last bit.
    last = below[0] | high | low | least
    return Cat(last, (bit & ~low | high for bit in below[1:]), sign).as_signed()


class _Delayed:
    """A signal, and the same some clocks later."""

    def __init__(self, m: Module, signal: Signal, *, reset: bool = False) -> None:
        self.m, self.reset, self.taps = m, reset, [signal]

    def at(self, clocks: int) -> Signal:
        while len(self.taps) <= clocks:
            last = self.taps[-1]
            late = Signal(last.shape(), name=f"{self.taps[0].name}_{len(self.taps)}", reset_less=not self.reset)
            self.m.d.sync += late.eq(last)
            self.taps.append(late)
        return self.taps[clocks]


class _Pass(Elaboratable):
    """The addresses of a tile, column by column, and within a column row by row; the rows lie one after the other."""

    def __init__(self, design: Design) -> None:
        self.J, self.B = design.beats, design.batch_size
        self.start = Signal()
        self.base = Signal(range(2 * design.tile))
        self.valid = Signal()
        self.beat = _data(range(self.J), "beat")
        self.row = _data(range(self.B), "row")
        self.address = _data(range(2 * design.tile), "address")
        self.first_beat = _data(1, "first_beat")
        self.last_beat = _data(1, "last_beat")

    @property
    def last_row(self) -> Any:
        return self.row == self.B - 1 if self.B > 1 else Const(1)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        column = _data(range(2 * self.J * self.B), "column")
        before_last = _data(1, "before_last")
        with m.If(self.start):
            m.d.sync += [
                self.valid.eq(1), self.beat.eq(0), self.row.eq(0), self.address.eq(self.base), column.eq(self.base),
                self.first_beat.eq(1), self.last_beat.eq(0), before_last.eq(self.J == 2),
            ]  # fmt: skip
        with m.Elif(self.valid):
            with m.If(self.last_row):
                m.d.sync += [
                    self.row.eq(0), self.beat.eq(self.beat + 1), column.eq(column + 1), self.address.eq(column + 1),
                    self.first_beat.eq(0), self.last_beat.eq(before_last), before_last.eq(self.beat == self.J - 3),
                ]  # fmt: skip
                with m.If(self.last_beat):
                    m.d.sync += self.valid.eq(0)
            with m.Else():
                m.d.sync += [self.row.eq(self.row + 1), self.address.eq(self.address + self.J)]
        return m


class _Words(Elaboratable):
    """Random words for each lane: the generators of docs/architecture.md, "Random words".

    The state of all generators is a ring of registers, `parts` beats around. `step` asks for the words of a further beat; they
    are there one clock later. With shared words only those of the first round of a write are drawn.
    """

    def __init__(self, design: Design) -> None:
        self.design = design
        self.step = Signal()
        self.fresh = Signal()
        self.last = Signal()  # xorshift, two blocks a beat: only the first one is drawn
        self.words = Signal(design.lanes * design.G)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        design, bits = self.design, self.words.shape().width
        if design.source == "nearest":
            m.d.comb += self.words.eq(Cat(Const(1 << design.G - 1, design.G) for _ in range(design.lanes)))
            return m
        states = lane_states(design.seed)
        wide = min(bits, 512)
        parts, at_once = 512 // wide, wide // 64
        ring = []
        for part in range(parts):  # the last one is drawn next
            own = states[(parts - 1 - part) * at_once :][:at_once]
            ring.append(Signal(wide, name=f"ring_{part}", init=sum(s << 64 * k for k, s in enumerate(own))))
        draw = self.fresh if design.source == "shared" else Const(1)
        block, new = ring[-1], []
        for _ in range(bits // wide if design.source == "xorshift" else 1):
            drawn = Cat(self._drawn(block[64 * k : 64 * k + 64]) for k in range(at_once))
            block = Signal(wide, name=f"block_{len(new)}")
            m.d.comb += block.eq(Mux(draw, drawn, ring[-1]))
            new.append(block)
        following = new[-1]
        if len(new) > 1 and design.blocks % len(new):
            following = Mux(self.last, new[0], following)
        with m.If(self.step):
            m.d.sync += [ring[0].eq(following), *(after.eq(before) for before, after in itertools.pairwise(ring))]
        if len(new) > 1:
            earlier = Signal((len(new) - 1) * wide)
            with m.If(self.step):
                m.d.sync += earlier.eq(Cat(new[:-1]))
            m.d.comb += self.words.eq(Cat(earlier, ring[0]))
        else:
            m.d.comb += self.words.eq(Cat(ring[0] for _ in range(bits // wide)))
        return m

    @staticmethod
    def _drawn(x: Any) -> Any:
        """Marsaglia's xorshift64 (J. Stat. Softw. 8(14), 2003), triple (13, 7, 17)."""
        x = x ^ Cat(Const(0, 13), x[:-13])
        x = x ^ x[7:]
        return x ^ Cat(Const(0, 17), x[:-17])


class Sgd(Elaboratable):
    """The whole circuit; `lowprec.fpga.verilog.ports` says what its ports are.

    Parameters
    ----------
    design : Design
    """

    def __init__(self, design: Design) -> None:
        self.design = design
        d = design
        self.step = Signal(8)
        self.x_valid = Signal()
        self.x_ready = Signal(init=1)
        self.x_data = Signal(d.lanes * d.D)
        self.x_label = Signal(signed(d.G))
        self.flush = Signal()
        self.idle = Signal(init=1)
        self.model_address = Signal(range(d.beats))
        self.model_write = Signal()
        self.model_data_in = Signal(d.lanes * d.M)
        self.model_data_out = Signal(d.lanes * d.M)

    @property
    def ports(self) -> list[Signal]:
        """All but the clock and the reset."""
        return [
            self.step, self.x_valid, self.x_ready, self.x_data, self.x_label, self.flush, self.idle, self.model_address,
            self.model_write, self.model_data_in, self.model_data_out,
        ]  # fmt: skip

    # ---- memories ----

    def _memory(self, m: Module, name: str, width: int, depth: int, write: tuple, address: Any) -> Signal:
        """A block memory with its output register: what is at the address is there two clocks later."""
        data = _data(width, f"{name}_data")
        enable, where, what = write
        # Side by side, never one below the other: choosing between two would stand between the memory and its register.
        bits = memory_shape(depth)[0]
        for k in range(0, width, bits):
            part = slice(k, min(k + bits, width))
            memory = Memory(shape=unsigned(part.stop - k), depth=depth, init=[], attrs=_BLOCK)
            m.submodules[f"{name}_{k}"] = memory
            into, out = memory.write_port(), memory.read_port()
            m.d.comb += [into.en.eq(enable), into.addr.eq(where), into.data.eq(what[part]), out.addr.eq(address)]
            m.d.sync += data[part].eq(out.data)
        return data

    def _table(self, m: Module, name: str, width: int, depth: int, write: tuple, address: Any) -> Any:
        """A small memory that is read at once; of depth 1 a register."""
        enable, where, what = write
        if depth == 1:
            only = _data(width, name)
            with m.If(enable):
                m.d.sync += only.eq(what)
            return only
        memory = Memory(shape=unsigned(width), depth=depth, init=[], attrs=_DISTRIBUTED)
        m.submodules[name] = memory
        into, out = memory.write_port(), memory.read_port(domain="comb")
        m.d.comb += [into.en.eq(enable), into.addr.eq(where), into.data.eq(what), out.addr.eq(address)]
        return out.data

    # ---- the whole ----

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        d = self.design
        # Host and circuit share the model's ports; the host's come through registers, lest they be the slowest way.
        self.host_address = _data(range(d.beats), "host_address")
        self.host_write = Signal()
        self.host_data = _data(d.lanes * d.M, "host_data")
        m.d.sync += [
            self.host_address.eq(self.model_address), self.host_write.eq(self.model_write & self.idle),
            self.host_data.eq(self.model_data_in),
        ]  # fmt: skip
        self._load(m)
        self._control(m)
        if d.stages == 2:
            self._two_stages(m)
        else:
            self._three_stages(m)
        return m

    def _load(self, m: Module) -> None:
        """The first stage: beats into the tile that is free, labels beside it."""
        d = self.design
        tile, B = d.tile, d.batch_size
        # Labels are wanted after their tile is free again, so there is room for those of four.
        self.filled, self.released = Signal(), Signal()
        occupied = Signal(2)
        into = Signal(2)
        address = Signal(range(2 * tile))
        beat, row = Signal(range(d.beats)), Signal(range(B))
        take = self.take = Signal()
        m.d.comb += take.eq(self.x_ready & self.x_valid)
        last_beat = beat == d.beats - 1
        last = last_beat & (row == B - 1) if B > 1 else last_beat
        with m.If(take):
            m.d.sync += [address.eq(Mux(address == 2 * tile - 1, 0, address + 1)), beat.eq(Mux(last_beat, 0, beat + 1))]
            if B > 1:
                with m.If(last_beat):
                    m.d.sync += row.eq(Mux(row == B - 1, 0, row + 1))
            with m.If(last):
                m.d.sync += into.eq(into + 1)
        m.d.comb += self.filled.eq(take & last)
        left = Signal(2)
        m.d.comb += left.eq(occupied + self.filled - self.released)
        m.d.sync += [occupied.eq(left), self.x_ready.eq(left != 2)]
        # What is written reaches the memory a clock later.
        self.load = Signal()
        self.load_address, self.load_data = _data(range(2 * tile), "load_address"), _data(d.lanes * d.D, "load_data")
        self.label_write = Signal()
        self.label_slot, self.label = _data(2 + len(row), "label_slot"), _data(d.G, "label")
        m.d.sync += [
            self.load.eq(take), self.load_address.eq(address), self.load_data.eq(self.x_data),
            self.label_write.eq(take & (beat == 0)), self.label_slot.eq(Cat(row, into)),
            self.label.eq(self.x_label),
        ]  # fmt: skip
        # Tiles whose last beat is in the memory and which no pass has taken yet.
        seen = _Delayed(m, self.filled, reset=True).at(2)
        waiting, still = Signal(2), Signal(2)
        self.waiting = Signal()
        self.taken = Signal()
        m.d.comb += still.eq(waiting + seen - self.taken)
        m.d.sync += [waiting.eq(still), self.waiting.eq(still != 0)]
        self.empty = Signal(init=1)
        m.d.sync += self.empty.eq((occupied == 0) & (beat == 0) & (row == 0) & ~self.load & ~take)

    def _control(self, m: Module) -> None:
        """What both kinds of circuit have: two passes, mu, and when weights are written."""
        d = self.design
        self.products, self.update = _Pass(d), _Pass(d)
        m.submodules.products, m.submodules.update = self.products, self.update
        tiles = Signal(2, name="tiles_taken")
        self.labels_of = Signal(2)
        with m.If(self.taken):
            m.d.sync += [tiles.eq(tiles + 1), self.labels_of.eq(tiles)]
        self.base = Mux(tiles[0], d.tile, 0)
        # A row's mu, made by _errors, which takes products, of which the circuit of two stages makes some with mu.
        self.mu, self.mu_row, self.mu_done = Signal(signed(d.G)), Signal(range(d.batch_size)), Signal()
        # The weights of a beat are written after its last row.
        last_row = Signal(name="update_last_row")
        m.d.comb += last_row.eq(self.update.valid & self.update.last_row)
        self.writes, self.beats = _Delayed(m, last_row, reset=True), _Delayed(m, self.update.beat)

    def _timer(self, m: Module, name: str, largest: int) -> tuple[Signal, Signal]:
        left = Signal(range(largest + 1), name=name)
        over = Signal(init=1, name=f"{name}_over")
        with m.If(left != 0):
            m.d.sync += [left.eq(left - 1), over.eq(left == 1)]
        return left, over

    def _release(self, m: Module, reading: _Pass) -> None:
        """A tile is free again a few clocks before its last beat is read: the loader needs more to overtake the reading."""
        d = self.design
        early = 6 if d.beats >= 16 else 3
        left = Signal(range(d.tile + 1), name="until_release")
        with m.If(reading.start):
            m.d.sync += left.eq(d.tile - early)
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        m.d.comb += self.released.eq(left == 1)

    def _two_stages(self, m: Module) -> None:
        d, t = self.design, self.design.latency
        tile, update = d.tile, self.update
        left, over = self._timer(m, "until_next", tile + max(d.gap, d.rest))
        updating = Signal()  # is the next pass, or the one that runs, an update?
        start_products, start_update = Signal(), Signal()
        m.d.comb += [
            start_products.eq(over & ~updating & self.waiting), start_update.eq(over & updating), self.taken.eq(start_products),
            self.products.start.eq(start_products), self.products.base.eq(self.base), update.start.eq(start_update),
        ]  # fmt: skip
        base = _data(range(2 * tile), "update_base")
        m.d.comb += update.base.eq(base)
        with m.If(start_products):
            m.d.sync += [left.eq(tile - 2 + d.gap), over.eq(0), updating.eq(1), base.eq(self.base)]
        with m.Elif(start_update):
            m.d.sync += [left.eq(tile - 2 + d.rest), over.eq(0), updating.eq(0)]
        self._release(m, update)
        rest, drained = self._timer(m, "until_drained", tile + t.model_write + 4)
        with m.If(start_update):
            m.d.sync += [rest.eq(tile + t.model_write + 4), drained.eq(0)]
        m.d.sync += self.idle.eq(over & ~updating & drained & self.empty & ~self.waiting & ~self.take)

        address = Mux(update.valid, update.address, self.products.address)
        loading = self.load, self.load_address, self.load_data
        x = self._memory(m, "tiles", d.lanes * d.D, 2 * tile, loading, address)
        model_address = Mux(self.products.valid, self.products.beat, self.beats.at(t.model_read))
        model_address = Mux(self.idle, self.host_address, model_address)
        self._new_weights(m)
        w = self._memory(m, "model", d.lanes * d.M, d.beats, self.model_writing, model_address)
        m.d.comb += self.model_data_out.eq(w)
        # One multiplier a lane: its second operand is the weight, or mu.
        mu = self._multipliers(m)
        updating_now = _Delayed(m, update.valid, reset=True).at(t.read + d.spread)
        wide = max(d.M, d.G)
        products = []
        for lane in range(d.lanes):
            a, b = _data(signed(d.D), f"x_{lane}"), _data(signed(wide), f"factor_{lane}")
            m.d.sync += [
                a.eq(x[lane * d.D :][: d.D].as_signed()),
                b.eq(Mux(updating_now, mu[lane // NEAR], w[lane * d.M :][: d.M].as_signed())),
            ]
            products.append(_product(m, f"product_{lane}", a, b))
        self._errors(m, [p[: d.D + d.M].as_signed() for p in products])
        self._changes(m, [p[: d.D + d.G].as_signed() for p in products])
        self._saturate(m, w)

    def _three_stages(self, m: Module) -> None:
        d, t = self.design, self.design.latency
        tile, update = d.tile, self.update
        left, over = self._timer(m, "until_next", d.clocks)
        pending = Signal()  # is there a batch whose update has not begun?
        start, with_update, more = Signal(), Signal(), self.waiting
        m.d.comb += [
            start.eq(over & (more | (self.flush & pending & self.empty))), self.taken.eq(start & more),
            with_update.eq(start & pending), self.products.start.eq(self.taken), self.products.base.eq(self.base),
        ]  # fmt: skip
        with m.If(start):
            m.d.sync += [left.eq(d.clocks - 1), over.eq(0), pending.eq(more)]
        self._release(m, self.products)
        rest, drained = self._timer(m, "until_drained", d.clocks + d.lag + t.model_write + 4)
        with m.If(start):
            m.d.sync += [rest.eq(d.clocks + d.lag + t.model_write + 4), drained.eq(0)]
        m.d.sync += self.idle.eq(drained & self.empty & ~self.waiting & ~pending & ~self.take)
        late = _Delayed(m, with_update, reset=True).at(d.lag)
        # The copy of a tile is in the order of the passes.
        copy_half, update_half = Signal(), Signal()
        with m.If(self.taken):
            m.d.sync += copy_half.eq(~copy_half)
        m.d.comb += [update.start.eq(late), update.base.eq(0)]
        with m.If(late):
            m.d.sync += update_half.eq(~update_half)

        loading = self.load, self.load_address, self.load_data
        x = self._memory(m, "tiles", d.lanes * d.D, 2 * tile, loading, self.products.address)
        counted = _data(range(2 * tile), "copy_address")
        valid = _Delayed(m, self.products.valid, reset=True)
        half = _Delayed(m, copy_half).at(1)
        first = _Delayed(m, self.products.start, reset=True).at(2)
        with m.If(first):
            m.d.sync += counted.eq(Mux(half, 0, tile))
        with m.Else():
            m.d.sync += counted.eq(counted + 1)
        reading = _data(range(2 * tile), "update_address")
        with m.If(late):
            m.d.sync += reading.eq(Mux(update_half, tile, 0))
        with m.Else():
            m.d.sync += reading.eq(reading + 1)
        x_late = self._memory(m, "copies", d.lanes * d.D, 2 * tile, (valid.at(2), counted, x), reading)
        self._new_weights(m)
        w = self._memory(m, "model", d.lanes * d.M, d.beats, self.model_writing, self.products.beat)
        reading = Mux(self.idle, self.host_address, self.beats.at(t.model_read))
        w_late = self._memory(m, "model_copy", d.lanes * d.M, d.beats, self.model_writing, reading)
        m.d.comb += self.model_data_out.eq(w_late)
        weights = [w[lane * d.M :][: d.M].as_signed() for lane in range(d.lanes)]
        self._errors(m, self._products(m, "product", x, weights, d.M))
        mu = self._multipliers(m)
        self._changes(m, self._products(m, "change", x_late, [mu[lane // NEAR] for lane in range(d.lanes)], d.G))
        self._saturate(m, w_late)

    # ---- products and the error ----

    def _products(self, m: Module, name: str, x: Signal, factors: list, factor_width: int) -> list[Signal]:
        """Operands, then products, one for each lane."""
        result, width = [], self.design.D
        for lane, factor in enumerate(factors):
            a, b = _data(signed(width), f"{name}_x_{lane}"), _data(signed(factor_width), f"{name}_factor_{lane}")
            m.d.sync += [a.eq(x[lane * width :][:width].as_signed()), b.eq(factor)]
            result.append(_product(m, f"{name}_{lane}", a, b))
        return result

    def _errors(self, m: Module, products: list) -> None:
        """Sums of products, the error, and the multiplier mu of each row."""
        d, t = self.design, self.design.latency
        B, step = d.batch_size, d.step
        clocks, level = t.product, products
        while len(level) > 1:  # a tree of adders, a register after each
            pairs = []
            for k in range(0, len(level), 2):
                total = _data(signed(min(len(level[k]) + 1, d.sum_bits)), f"sum_{clocks}_{k}")
                m.d.sync += total.eq(level[k] + level[k + 1])
                pairs.append(total)
            clocks, level = clocks + 1, pairs
        p = self.products
        valid, first = _Delayed(m, p.valid, reset=True), _Delayed(m, p.first_beat)
        row, labels_of = _Delayed(m, p.row), _Delayed(m, self.labels_of)
        z = _data(signed(d.sum_bits), "z")
        new = Signal(signed(d.sum_bits))
        m.d.sync += z.eq(new)
        if B == 1:
            before = z
        else:
            held = self._table(m, "sums", d.sum_bits, B, (valid.at(clocks), row.at(clocks), new), row.at(clocks - 1))
            before = _data(signed(d.sum_bits), "sum_before")
            m.d.sync += before.eq(held)
        m.d.comb += new.eq(Mux(first.at(clocks), 0, before) + level[0])
        clocks += 1
        done = Signal()
        m.d.comb += done.eq(p.valid & p.last_beat)
        done_at = _Delayed(m, done, reset=True)
        if step.loss == "logistic":
            z = self._logistic(m, z)
            clocks += 2
        slot = Cat(row.at(clocks - 1), labels_of.at(clocks - 1))
        label = _data(signed(d.G), "label_now")
        written = self.label_write, self.label_slot, self.label
        m.d.sync += label.eq(self._table(m, "labels", d.G, 1 << len(slot), written, slot).as_signed())
        e = _data(signed(d.error_bits), "error")
        difference = (label << step.label_shift) - z
        # Of the product zero the logistic function is not zero, so a row that only fills up a batch says so by its label.
        m.d.sync += e.eq(difference if step.loss == "squared" else Mux(label[-1], 0, difference))
        operand = _data(e.shape(), "error_operand")
        m.d.sync += operand.eq(e)
        clocks += 2
        # Two registers: the second one is copied into the multipliers.
        eta, eta_in = _data(8, "eta"), _data(8, "eta_in")
        m.d.sync += [eta_in.eq(self.step), eta.eq(eta_in)]
        scaled = _product(m, "scaled", operand, eta)
        clocks += 1 + product_levels(len(e), 8)
        mu = _data(signed(d.G), "mu_clipped")
        m.d.sync += mu.eq(_clipped(m, "mu", scaled >> step.shift, d.G, registered=True))
        clocks += 2
        assert clocks == t.multiplier, (clocks, t)
        m.d.comb += [self.mu.eq(mu), self.mu_row.eq(row.at(clocks)), self.mu_done.eq(done_at.at(clocks))]

    def _logistic(self, m: Module, z: Signal) -> Signal:
        """S[clip(z >> h, -128, 127)], two clocks later."""
        step = self.design.step
        shifted = z >> step.sigmoid_shift if step.sigmoid_shift >= 0 else z << -step.sigmoid_shift
        index = _data(8, "sigmoid_index")  # 0 is -128
        m.d.sync += index.eq(Mux(shifted > 127, 255, Mux(shifted < -128, 0, shifted + 128)))
        table = Memory(shape=unsigned(15), depth=256, init=[int(s) for s in step.sigmoid_table()])
        m.submodules.sigmoid = table
        out = table.read_port()
        m.d.comb += out.addr.eq(index)
        return out.data

    def _multipliers(self, m: Module) -> list:
        """mu of the row that is updated, for each `NEAR` lanes; and whether a batch has any that is not zero."""
        d, B = self.design, self.design.batch_size
        row = _Delayed(m, self.update.row).at(d.latency.read) if B > 1 else 0
        mu = self._table(m, "multipliers", d.G, B, (self.mu_done, self.mu_row, self.mu), row).as_signed()
        self.moves = Signal()
        with m.If(self.mu_done):
            some = self.mu != 0
            m.d.sync += self.moves.eq(some if B == 1 else some | (self.moves & (self.mu_row != 0)))
        if not d.spread:
            return [mu]
        copies = []
        for k in range(-(-d.lanes // NEAR)):  # equal registers would be merged again, but for their initial values
            copies.append(_data(signed(d.G), f"mu_near_{k}", init=k))
            m.d.sync += copies[-1].eq(mu)
        return copies

    # ---- the update ----

    def _changes(self, m: Module, products: list) -> None:
        """(sum_b mu_b 2^c x_bj + r_j) >> G for each lane."""
        d, t = self.design, self.design.latency
        B, update, writing = d.batch_size, self.update, self.writes.at(t.words)
        if B > 1:
            first_row = Signal(name="update_first_row")
            m.d.comb += first_row.eq(update.row == 0)
            first = _Delayed(m, first_row).at(t.change_product)
            sums = []
            for lane, product in enumerate(products):
                total = _data(signed(len(product) + _bits(B - 1)), f"batch_{lane}")
                m.d.sync += total.eq(Mux(first, 0, total) + product)
                sums.append(total)
            products = sums
        words = m.submodules.words = _Words(d)
        first_beat = _Delayed(m, update.first_beat).at(t.words)
        # Of a batch that moves nothing no word is drawn. What the next batch is comes to be known before this one's update ends.
        held = Signal()
        moves = Mux(first_beat, self.moves, held)
        with m.If(writing):
            m.d.sync += held.eq(moves)
        if d.source == "xorshift" and d.drawn_beats * d.lanes * d.G != d.blocks * 512:
            last = Signal(name="update_last_drawn")
            m.d.comb += [last.eq(update.beat == d.drawn_beats - 1), words.last.eq(_Delayed(m, last).at(t.words))]
        if d.source == "xorshift" and d.drawn_beats < d.beats:  # nothing is drawn for pads
            drawn = Signal(name="update_drawn")
            m.d.comb += drawn.eq(update.beat < d.drawn_beats)
            moves = moves & _Delayed(m, drawn).at(t.words)
        m.d.comb += words.step.eq(writing & moves)
        if d.source == "shared":
            parts = 512 // min(512, d.lanes * d.G)
            if parts == 1:
                m.d.comb += words.fresh.eq(first_beat)
            else:
                early = Signal(name="update_early")
                m.d.comb += early.eq(update.beat < parts)
                m.d.comb += words.fresh.eq(_Delayed(m, early).at(t.words))
        self.changes = []
        for lane, product in enumerate(products):
            word = words.words[lane * d.G :][: d.G]
            change = _data(signed(d.change_bits), f"change_{lane}")
            m.d.sync += change.eq(((product << d.step.exponent) + word) >> d.G)
            self.changes.append(change)

    def _new_weights(self, m: Module) -> None:
        """Where new weights, or the host's, are written."""
        d, t = self.design, self.design.latency
        self.weights = Signal(d.lanes * d.M)
        mine, place = self.writes.at(t.model_write - 1), self.beats.at(t.model_write - 1)
        enable, address = Signal(name="model_enable"), _data(range(d.beats), "model_place")
        m.d.sync += [enable.eq(mine | self.host_write), address.eq(Mux(self.host_write, self.host_address, place))]
        self.model_writing = (enable, address, self.weights)

    def _saturate(self, m: Module, w: Signal) -> None:
        d = self.design
        for lane, change in enumerate(self.changes):
            total = _data(signed(max(d.M, len(change)) + 1), f"total_{lane}")
            new = _data(signed(d.M), f"new_{lane}")
            old = _data(signed(d.M), f"old_{lane}")
            m.d.sync += [
                old.eq(w[lane * d.M :][: d.M].as_signed()),
                total.eq(old + change),
                new.eq(Mux(self.host_write, self.host_data[lane * d.M :][: d.M], _clipped(m, f"total_{lane}", total, d.M))),
            ]
            m.d.comb += self.weights[lane * d.M :][: d.M].eq(new)
