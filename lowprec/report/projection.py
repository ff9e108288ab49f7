"""From one machine to many: rows, tables and a plot of what the model of communication says of codecs and links.

Nothing is measured here: what a machine does by itself (`Work`), how fast it codes (`Coding`) and the link are given, and so are
the measurements that a check compares with. The model is `lowprec.perfmodel.communication`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lowprec.checks import check_finite_scalar, check_int, wrong_value
from lowprec.perfmodel import Coding, CommunicationModel, Link, Work
from lowprec.perfmodel.communication import exchange_bytes
from lowprec.report import plots
from lowprec.report.tables import Table, duration, n_bytes, number, times

__all__ = [
    "FIELDS",
    "LINKS",
    "MACHINES",
    "Measured",
    "bound_table",
    "check_rows",
    "check_table",
    "figure",
    "link_table",
    "models",
    "projection_rows",
    "speedup_table",
    "throughput_table",
]

#: Links that are assumed, not measured. Bandwidths are what the names say, 10^9 bits a second and direction, nothing taken off
#: for headers. Latencies are round numbers for MPI messages between two processes, switch included. Published ping-pongs
#: of Gigabit Ethernet begin at 15 to 35 microseconds, by how interrupts are held back (NW-GRID, Open MPI 1.3), and at 2 where
#: the kernel is bypassed (1.93 of Open MPI 1.8 over 40 Gbit/s Ethernet; J. Squyres, Cisco, 2014).
LINKS = {
    "1 Gbit/s Ethernet (assumed)": Link(latency=50e-6, bandwidth=1e9 / 8),
    "10 Gbit/s Ethernet (assumed)": Link(latency=20e-6, bandwidth=10e9 / 8),
    "100 Gbit/s RDMA (assumed)": Link(latency=2e-6, bandwidth=100e9 / 8),
}

#: Numbers of machines that are shown.
MACHINES = tuple(2**k for k in range(11))

#: The C term that all others are compared with.
FLOAT = "32f"

#: Every row has these fields, in this order.
FIELDS = (
    "table",
    "link",
    "latency_seconds",
    "bandwidth",
    "C",
    "asynchronous",
    "cores",
    "machines",
    "n",
    "exchange_bytes",
    "round_seconds",
    "compute_seconds",
    "coding_seconds",
    "waiting_seconds",
    "transfer_seconds",
    "bound",
    "gnps",
    "examples_per_second",
    "efficiency",
    "ratio",
    "half_at",
    "measured_seconds",
    "measured_gnps",
    "projected_over_measured",
)


@dataclass(frozen=True)
class Measured:
    """A round that was measured, with processes that really communicated.

    Parameters
    ----------
    C : str
        The codec.
    machines : int
        Processes.
    seconds : float
        Of a round.
    """

    C: str
    machines: int
    seconds: float

    def __post_init__(self) -> None:
        check_int("machines", self.machines, minimum=1)
        check_finite_scalar("seconds", self.seconds, positive=True)


def models(
    work: Work, link: Link, codings: Iterable[Coding], *, asynchronous: bool = False, cores: int | None = None
) -> dict[str, CommunicationModel]:
    """A model of each codec, by its C term; the arguments are those of `CommunicationModel`."""
    return {coding.C: CommunicationModel(work, link, coding, asynchronous, cores) for coding in codings}


def _row(table: str, link: str, model: CommunicationModel, machines: int) -> dict[str, Any]:
    terms = model.round(machines)
    return dict.fromkeys(FIELDS) | {
        "table": table,
        "link": link,
        "latency_seconds": model.link.latency,
        "bandwidth": model.link.bandwidth,
        "C": model.coding.C,
        "asynchronous": model.asynchronous,
        "cores": model.cores,
        "machines": machines,
        "n": model.work.n,
        "exchange_bytes": exchange_bytes(model.work.n, machines, model.coding.C),
        "round_seconds": terms.seconds,
        "compute_seconds": terms.compute,
        "coding_seconds": terms.coding,
        "waiting_seconds": terms.latency,
        "transfer_seconds": terms.transfer,
        "bound": terms.bound,
        "gnps": model.gnps(machines),
        "examples_per_second": model.examples_per_second(machines),
        "efficiency": model.efficiency(machines),
    }


def projection_rows(
    link: str, by_codec: Mapping[str, CommunicationModel], machines: Sequence[int] = MACHINES
) -> list[dict[str, Any]]:
    """What the model says of every codec and number of machines.

    Parameters
    ----------
    link : str
        The link's name.
    by_codec : mapping of str to CommunicationModel
        As `models` makes them. Where C32f is among them, rows have the ratio to it.
    machines : sequence of int

    Returns
    -------
    list of dict
        With the keys `FIELDS`, those of measurements None. `half_at` is the least number of machines with which efficiency
        is below one half, None if that is more than 16,384.
    """
    full = by_codec.get(FLOAT)
    rows = []
    for model in by_codec.values():
        half_at = model.first_below(0.5)
        for count in machines:
            row = _row("projection", link, model, count)
            row |= {"half_at": half_at, "ratio": None if full is None else model.speedup_over(full, count)}
            rows.append(row)
    return rows


def check_rows(link: str, by_codec: Mapping[str, CommunicationModel], measured: Iterable[Measured]) -> list[dict[str, Any]]:
    """Measured rounds beside projected ones.

    Parameters
    ----------
    link : str
        The link's name.
    by_codec : mapping of str to CommunicationModel
        Made from the same processes, one at a time: with their link, and their `cores` where they share some.
    measured : iterable of Measured

    Returns
    -------
    list of dict
        With the keys `FIELDS`.

    Raises
    ------
    ValueError
        For a codec that has no model.
    """
    rows = []
    for m in measured:
        if m.C not in by_codec:
            raise wrong_value("measured", f"models are there for C in {{{', '.join(by_codec)}}}", m.C)
        model = by_codec[m.C]
        row = _row("check", link, model, m.machines)
        row["measured_seconds"] = m.seconds
        row["measured_gnps"] = m.machines * model.work.numbers / m.seconds / 1e9
        row["projected_over_measured"] = row["round_seconds"] / m.seconds
        rows.append(row)
    return rows


# ---- to read -------------------------------------------------------------------------------------------------------


def _grid(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[int], dict[tuple[str, int], Mapping[str, Any]]]:
    """Codecs, numbers of machines, and the rows by both."""
    by = {(row["C"], row["machines"]): row for row in rows}
    return list(dict.fromkeys(row["C"] for row in rows)), sorted({row["machines"] for row in rows}), by


def _title(row: Mapping[str, Any]) -> str:
    """What rows of one link and model have in common."""
    return f"{row['link']}, n = {row['n']:,}, {'asynchronous' if row['asynchronous'] else 'synchronous'}"


def throughput_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """GNPS over machines and codecs, of one link, and where efficiency falls below one half."""
    codecs, machines, by = _grid(rows)
    table = Table(f"Projected GNPS: {_title(rows[0])}", ["machines", *(f"C{C}" for C in codecs)])
    for count in machines:
        table.add(f"{count:,}", *(number(by[C, count]["gnps"]) for C in codecs))
    table.rule()
    halves = [by[C, machines[0]]["half_at"] for C in codecs]
    table.add("below 50 % from", *("-" if half is None else f"{half:,}" for half in halves))
    table.notes.append(
        "A projection, not a measurement: every machine has data of its own, and rounds as long as one machine's. "
        "Below 50 %: the number of machines from which they do less than half of what they would without communication."
    )
    return table


def speedup_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Throughput over that with C32f, of one link."""
    codecs, machines, by = _grid(rows)
    table = Table(f"Projected speedup over C32f: {_title(rows[0])}", ["machines", *(f"C{C}" for C in codecs)])
    for count in machines:
        table.add(f"{count:,}", *(times(by[C, count]["ratio"]) for C in codecs))
    return table


def bound_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Which term of a round is largest, of one link."""
    codecs, machines, by = _grid(rows)
    table = Table(f"What bounds a round: {_title(rows[0])}", ["machines", *(f"<C{C}" for C in codecs)])
    for count in machines:
        table.add(f"{count:,}", *(by[C, count]["bound"] for C in codecs))
    table.notes.append("compute: training; coding: encoding and decoding; latency: waiting for messages; bandwidth: their bytes.")
    return table


def link_table(links: Mapping[str, Link]) -> Table:
    """Links, and what they take for messages of three sizes."""
    sizes = (2**10, 2**16, 2**20)
    table = Table("Links", ["<link", "latency", "GB/s", *(n_bytes(size) for size in sizes)])
    for name, link in links.items():
        table.add(name, duration(link.latency), number(link.bandwidth / 1e9), *(duration(link.seconds(size)) for size in sizes))
    return table


def check_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rounds measured and projected."""
    table = Table(
        f"Measured against projected: {_title(rows[0])}",
        ["<codec", "ranks", "measured", "projected", "ratio", "<bound by", "GNPS", "projected GNPS"],
        strong=(4,),
    )
    for row in rows:
        table.add(
            f"C{row['C']}",
            str(row["machines"]),
            duration(row["measured_seconds"]),
            duration(row["round_seconds"]),
            times(row["projected_over_measured"]),
            row["bound"],
            number(row["measured_gnps"]),
            number(row["gnps"]),
        )
    typical = math.exp(statistics.fmean(abs(math.log(row["projected_over_measured"])) for row in rows))
    table.notes.append(f"Ratio: projected over measured. Typically it is off by a factor of {typical:.2f}, one way or the other.")
    if rows[0]["cores"] is not None:
        table.notes.append(f"Ranks share {rows[0]['cores']} cores: if there are more, they take turns.")
    return table


def figure(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Projected throughput over the number of machines: a panel for each link, a line for each codec."""
    links = dict.fromkeys(row["link"] for row in rows)
    return plots.machines({link: [row for row in rows if row["link"] == link] for link in links})
