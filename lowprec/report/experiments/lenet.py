"""Fig 7b: LeNet's test error by the bits of its model, with 8-bit data and unbiased rounding.

The paper's problem: LeNet on MNIST and on CIFAR-10, D8Mx for x of 3 to 16 bits by simulation, "5000 passes"; the error on MNIST
is flat from 6 bits on.

Ours, since the paper leaves it open. Caffe's LeNet: 20 and 50 filters, 500 hidden units, max pooling, one ReLU. Plain SGD
without momentum, decay of the weights or of the step: step 0.1 on the mean gradient of 64 images. Weights are codes times a
quantum at all times: each write adds the change and rounds at random, without bias. The scale of each layer is its own: the
largest code stands for the largest weight that the same layer had at the end of a run of the same seed with a float model, so
there is one float run for each seed first. Biases are float. Data are images of 8 bits, and what the other layers multiply
their weights with: rounded to the nearest of 8 bits, up to the largest number of the batch, and passed on backward as if it had
not been. Gradients are not rounded.

Beside MNIST stands Fashion-MNIST, which is not in the paper; whoever has the files of CIFAR-10 can give `Options` that name
too. Training is shorter than the paper's, even if its passes are mini-batches: 5,000 of 64 images would be 5.3 epochs.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from lowprec.checks import need_extra
from lowprec.report import paper
from lowprec.report.experiments import plots
from lowprec.report.experiments.common import choices, make_row, results
from lowprec.report.machine import usable_cpus
from lowprec.report.tables import NONE, Table

__all__ = ["FIELDS", "FULL", "QUICK", "Options", "figures", "measure", "tables"]

FIELDS = (
    "table",
    "data",
    "signature",
    "bits",
    "test_error",
    "test_error_min",
    "test_error_max",
    "paper_test_error",
    "model_ranges",
    "iterations",
    "batch_size",
    "step_size",
    "m",
    "m_test",
    "runs",
    "seconds",
)

#: The paper's names of data sets.
_THEIRS = {"mnist": "MNIST", "cifar-10": "CIFAR10"}


@dataclass(frozen=True)
class Options:
    """What is trained.

    Parameters
    ----------
    data : tuple of str
        mnist, fashion-mnist, cifar-10.
    bits : tuple of int
        Of the model, from 2 on; a float model comes beside them.
    iterations, batch_size : int
        Mini-batches, and the images of one.
    step_size : float
        Of the mean gradient.
    data_bits : int
    runs : int
        With different seeds, hence other first weights, orders and rounding.
    seed : int
        The first of them.
    """

    data: tuple[str, ...] = ("mnist", "fashion-mnist")
    bits: tuple[int, ...] = (3, 4, 5, 6, 7, 8, 10, 12, 16)
    iterations: int = 1000
    batch_size: int = 64
    step_size: float = 0.1
    data_bits: int = 8
    runs: int = 2
    seed: int = 1


FULL = Options()
QUICK = Options(data=("mnist",), bits=(3, 4, 6, 8), iterations=200, runs=1)


def _name(bits: int | None, o: Options) -> str:
    return f"D{o.data_bits}M{'32f' if bits is None else bits}"


class _Runs:
    """Training runs side by side, a thread of one core each: so a run's bits do not depend on how many cores there are."""

    def __init__(self, o: Options, progress: Callable[[str, str, float], None]) -> None:
        import torch

        self.o, self.progress = o, progress
        self.done, self.total = 0, len(o.data) * o.runs * (1 + len(o.bits))
        self.stop = threading.Event()
        self.before = torch.get_num_threads()
        self.pool = ThreadPoolExecutor(usable_cpus(), initializer=torch.set_num_threads, initargs=(1,))

    def __enter__(self) -> _Runs:
        return self

    def __exit__(self, *_: Any) -> None:
        import torch

        self.stop.set()
        self.pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self.before)

    def each(self, data: Any, cases: dict[Any, dict[str, Any]]) -> dict[Any, tuple[float, list[float], float]]:
        """The test error, the largest weight of each layer, and the seconds of every case, by its key."""
        from lowprec.report import lenet

        o = self.o
        setting = lenet.Setting(o.iterations, o.batch_size, o.step_size, o.data_bits)

        def run(case: dict[str, Any]) -> tuple[float, list[float], float]:
            begin = time.perf_counter()
            model = lenet.train(data, setting, stop=self.stop, **case)
            return lenet.test_error(model, data, setting), lenet.ranges(model), time.perf_counter() - begin

        futures = {self.pool.submit(run, case): key for key, case in cases.items()}
        found = {}
        for future in as_completed(futures):
            found[futures[future]] = future.result()
            self.done += 1
            what = _name(cases[futures[future]].get("bits"), o)
            self.progress(data.name, f"{what} is trained", min(self.done / self.total, 0.99))
        return found


def measure(options: Options, progress: Callable[[str, str, float], None] = lambda *_: None) -> dict[str, Any]:
    """Train with every number of bits.

    Parameters
    ----------
    options : Options
    progress : callable
        As of `lowprec.report.speedups.measure`.

    Returns
    -------
    dict
        The results as docs/results-schema.md describes them.
    """
    need_extra("torch", "wrpn", "training LeNet")
    from lowprec.wrpn import load_images

    begin = time.perf_counter()
    o, rows = options, []
    seeds = range(o.seed, o.seed + o.runs)
    every = [load_images(name) for name in o.data]
    with _Runs(o, progress) as runs:
        for data in every:
            progress(data.name, "beginning", runs.done / runs.total)
            found = runs.each(data, {(None, seed): {"seed": seed} for seed in seeds})
            limits = {seed: found[None, seed][1] for seed in seeds}
            narrow = {(b, seed): {"seed": seed, "bits": b, "limits": limits[seed]} for b in o.bits for seed in seeds}
            found |= runs.each(data, narrow)
            theirs = paper.series("fig7b", _THEIRS.get(data.name, ""))
            for bits in (*o.bits, None):
                errors = [found[bits, seed][0] for seed in seeds]
                rows.append(
                    make_row(
                        FIELDS,
                        table="lenet",
                        data=data.name,
                        signature=_name(bits, o),
                        bits=bits,
                        test_error=statistics.fmean(errors),
                        test_error_min=min(errors),
                        test_error_max=max(errors),
                        paper_test_error=theirs[bits] / 100 if bits in theirs else None,
                        model_ranges=None if bits is None else [limits[seed] for seed in seeds],
                        iterations=o.iterations,
                        batch_size=o.batch_size,
                        step_size=o.step_size,
                        m=len(data.x),
                        m_test=len(data.test_x),
                        runs=o.runs,
                        seconds=statistics.fmean(found[bits, seed][2] for seed in seeds),
                    )
                )
    progress("Done", "", 1.0)
    return results("lenet", options, begin, rows)


# ---- showing -------------------------------------------------------------------------------------------------------


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.2f} %"


def tables(results: dict[str, Any]) -> list[Table]:
    """The results as tables to read."""
    o, rows = results["options"], results["rows"]
    made = []
    for name in o["data"]:
        mine = [row for row in rows if row["data"] == name]
        about = f"{o['iterations']:,} mini-batches of {o['batch_size']}, {mine[0]['m']:,} images"
        table = Table(f"LeNet on {name}: test error, {about}", ["<model", "test error", "least", "most", "paper"], strong=(1,))
        for row in mine:
            least_most = (NONE, NONE) if row["runs"] == 1 else (_percent(row["test_error_min"]), _percent(row["test_error_max"]))
            bits = "float32" if row["bits"] is None else f"{row['bits']} bits"
            table.add(bits, _percent(row["test_error"]), *least_most, _percent(row["paper_test_error"]))
        what = "Fig 7b" if name in _THEIRS else "it has MNIST and CIFAR-10"
        of = "one run" if o["runs"] == 1 else f"the mean of {o['runs']} runs"
        table.notes.append(f"D{o['data_bits']}Mx, {of}. The paper: {what}.")
        made.append(table)
    chosen = choices(
        [
            ("network", "Caffe's LeNet: 20 and 50 filters of 5 x 5, 500 hidden units, max pooling, one ReLU"),
            ("training", f"plain SGD, step {o['step_size']:g}, no momentum, decay or schedule; the paper says 5000 passes"),
            ("scales", "of each layer: the largest code is the largest weight after a run of the same seed with a float model"),
            ("writes", "every write of a weight is rounded to the grid at random, without bias; biases are float32"),
            ("data", f"inputs of every layer to the nearest of {o['data_bits']} bits, up to the largest of the batch"),
            ("G", "exact: gradients are not rounded before they are added to the model"),
        ]
    )
    return [*made, chosen]


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """The plot, by file name without its ending."""
    o, rows = results["options"], results["rows"]
    panels = {}
    for name in o["data"]:
        mine = [row for row in rows if row["data"] == name and row["bits"] is not None]
        exact = next(row for row in rows if row["data"] == name and row["bits"] is None)
        theirs = [(row["bits"], 100 * row["paper_test_error"]) for row in mine if row["paper_test_error"] is not None]
        band = [(row["bits"], 100 * row["test_error_min"], 100 * row["test_error_max"]) for row in mine]
        panels[name] = [
            plots.Line("model of x bits", [(row["bits"], 100 * row["test_error"]) for row in mine], theirs, band),
            plots.Line("float32 model", [(row["bits"], 100 * exact["test_error"]) for row in mine]),
        ]
    made = plots.lines(
        f"LeNet with {o['data_bits']}-bit data: test error by the bits of the model",
        panels,
        x="bits of the model",
        y=["%"] * len(panels),
        x_ticks=o["bits"],
        log_y=True,
        same_y=False,
    )
    return {"lenet": made}
