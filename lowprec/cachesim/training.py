"""SGD on a simulated machine: every product and every update reads what the core's caches hold, stale or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from lowprec import checks, runtime
from lowprec.cachesim import _simulator
from lowprec.cachesim.machine import LINE, Counters, Machine, MachineConfig
from lowprec.cachesim.protocol import Protocol
from lowprec.cachesim.streams import MODEL, Instructions, sgd_streams
from lowprec.quantized import QuantizedArray, dequantize, quantize
from lowprec.signature import Signature

__all__ = ["Epoch", "SimulatedTraining", "model_region", "train"]


def model_region(signature: str | Signature, n: int) -> tuple[int, int]:
    """The addresses of the shared model of `sgd_streams` and `train`: a region of a protocol.

    Parameters
    ----------
    signature : str or Signature
        With an M term.
    n : int
        Model size, in numbers.

    Returns
    -------
    (int, int)
        The first address, and the first one after: whole lines.

    Raises
    ------
    ValueError
        For a signature without a model; for n below 1.
    """
    s = Signature(signature) if isinstance(signature, str) else signature
    if s.model is None:
        raise checks.wrong_value("signature", "must have an M term", str(s))
    n = checks.check_int("n", n, minimum=1)
    return MODEL, MODEL + -(-n * s.model.bits // (8 * LINE)) * LINE


class Epoch(NamedTuple):
    """What a callback is told.

    Attributes
    ----------
    epoch : int
        How many are done.
    coef : array of float64, shape (n,)
        The model, every line from where it is newest.
    """

    epoch: int
    coef: np.ndarray


@dataclass(frozen=True)
class SimulatedTraining:
    """What came of it.

    Attributes
    ----------
    coef : array of float64, shape (n,)
    model : QuantizedArray
        The same in codes.
    counters : Counters
        Of all cores together.
    cycles : float
        Until the last core was done.
    gnps : float
        Dataset numbers per nanosecond of simulated time.
    """

    coef: np.ndarray
    model: QuantizedArray
    counters: Counters
    cycles: float
    gnps: float


def train(
    X: QuantizedArray,
    y: Any,
    *,
    signature: str | Signature,
    step_size: float,
    model_scale: float | None = None,
    config: MachineConfig | None = None,
    protocol: Protocol | None = None,
    loss: str = "logistic",
    epochs: int = 1,
    batch_size: int = 1,
    rounding: str = "stochastic",
    random: str = "shared",
    refresh: int = 1,
    loop: str = "two-pass",
    update: str = "own",
    cost: Instructions | None = None,
    seed: int = 0,
    callback: Callable[[Epoch], None] | None = None,
) -> SimulatedTraining:
    """Train a linear model asynchronously on the cores of a simulated machine.

    The interleaving is that of the simulated cycles, the numbers are those of the caches' lines, the arithmetic is that of the
    kernels: on one core the model is that of `lowprec.train` with the same arguments and one thread, to the bit. With several,
    core k trains on rows [m k / T, m (k + 1) / T), in their order, with the k-th random stream, on one shared model; cores meet
    at the end of an epoch.

    A line of 64 bytes is read, updated and written as a whole.

    Parameters
    ----------
    X : QuantizedArray, shape (m, n)
        Dense, one scale.
    y : array, shape (m,)
        Labels, as the loss has them.
    signature : str or Signature
        Of X's format and a dense model.
    step_size : float
    model_scale : float, optional
        What a code of the model is worth; it is not adapted. None for a 32f model alone.
    config, protocol : optional
        The machine; by default the paper's, with MESI.
    loss : str
        As `lowprec.train` has it.
    epochs, batch_size, refresh, seed : int
        As `lowprec.train` has them.
    rounding : {"stochastic", "nearest"}
        Of the model, in updates.
    random : {"shared", "xorshift"}
        Where the random words of stochastic rounding come from.
    loop, update, cost : optional
        As `sgd_streams` has them.
    callback : callable, optional
        Called after each epoch with an `Epoch`.

    Returns
    -------
    SimulatedTraining

    Raises
    ------
    TypeError, ValueError
        For what is none of these; if there are fewer rows than cores; if a product is not finite.
    """
    s = Signature(signature) if isinstance(signature, str) else signature
    if not isinstance(X, QuantizedArray):
        raise checks.wrong_type("X", "a QuantizedArray (lowprec.quantize makes one)", X)
    if len(X.shape) != 2 or X.shape[0] < 1 or X.shape[1] < 1 or np.ndim(X.scale):
        raise checks.wrong_value("X", "must have two dimensions, rows and columns, and one scale", X)
    if s.index is not None or s.dataset is None or s.model is None or str(s.dataset) != str(X.format):
        raise checks.wrong_value("signature", f"must be of dense data in the format of X, {X.format}, and a model", str(s))
    loss = checks.check_loss(loss)
    m, n = X.shape
    labels = np.ascontiguousarray(checks.check_labels(y, loss, m), np.float32)
    step_size = checks.check_step(step_size)
    epochs = checks.check_int("epochs", epochs, minimum=1)
    refresh, seed = checks.check_int("refresh", refresh, minimum=1, maximum=2**62), checks.check_seed(seed)
    checks.check_choice("rounding", rounding, ("stochastic", "nearest"))
    checks.check_choice("random", random, ("shared", "xorshift"))
    callback = checks.check_callback(callback)
    M = str(s.model)
    if (model_scale is None) != (M == "32f"):
        raise checks.wrong_value("model_scale", "must be given of a fixed-point model, and of that alone", model_scale)
    scale = 1.0 if model_scale is None else checks.check_finite_scalar("model_scale", model_scale, positive=True)

    machine = Machine(config, protocol, seed)
    cores = machine.config.cores
    if m < cores:
        raise checks.wrong_value("X", f"must have a row for each of {cores} cores", f"{m} rows")
    streams = sgd_streams(s, n, cores, batch_size=batch_size, loop=loop, update=update, cost=cost)
    shares = [(m * k // cores, m * (k + 1) // cores - m * k // cores) for k in range(cores)]
    region = model_region(s, n)
    below = np.zeros(region[1] - region[0], np.uint8)
    learner = _simulator.Learner(
        cores, region[0], below, n, X.buffer, X.row_stride, labels, shares, str(s.dataset), M,
        random if rounding == "stochastic" else "nearest", runtime.isa(), seed, batch_size, refresh,
        float(X.scale) * scale, step_size * float(X.scale) / scale, loss,
    )  # fmt: skip
    simulator = machine._simulator
    simulator.learn(learner)
    left_over = {rows % batch_size for _, rows in shares} - {0}
    ends = {k: sgd_streams(s, n, cores, batch_size=k, loop=loop, update=update, cost=cost) for k in left_over}

    now = np.empty_like(below)

    def codes(memory: np.ndarray) -> QuantizedArray:
        made = quantize(np.zeros(n, np.float32), M, scale=scale)
        made.buffer[: made.format.row_bytes(n)] = memory[: made.format.row_bytes(n)]
        return made

    for epoch in range(1, epochs + 1):
        for core, (_, rows) in enumerate(shares):
            machine.feed(core, replace(streams[core], rows=rows), rows // batch_size)
        machine.run()
        for core, (_, rows) in enumerate(shares):
            if rest := rows % batch_size:
                machine.feed(core, replace(ends[rest][core], rows=rows), 1, row=rows - rest)
        machine.run()
        for core in range(cores):
            if (bad := learner.bad_row(core)) >= 0:
                raise checks.not_finite_row("X", shares[core][0] + bad)
        if callback is not None:
            simulator.model(now)
            callback(Epoch(epoch, dequantize(codes(now), np.float64)))
    simulator.model(below)
    if loop == "fused":
        learner.flush()  # the last updates, which no product follows
    cycles = max(machine.cycles(core) for core in range(cores))
    model = codes(below)
    gnps = m * n * epochs / cycles * machine.config.ghz
    return SimulatedTraining(dequantize(model, np.float64), model, machine.counters(), cycles, gnps)
