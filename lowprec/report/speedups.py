"""The speed report: the paper's tables, measured here. See `measure` and `tables`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lowprec.formats import FORMATS
from lowprec.report import machine, paper, peer
from lowprec.report.files import header
from lowprec.report.rows import FLOAT, make_row, ratio_fields, roof_rows, select, split
from lowprec.report.tables import NONE, Table, bar, between, machine_table, number, power, share, times
from lowprec.report.timing import Case, Turns, geometric_mean, take_turns
from lowprec.report.workload import Workload

__all__ = ["DEFAULT", "QUICK", "Options", "figures", "measure", "tables"]

_SQUARE = ("D4M4", "D8M8", "D16M16", FLOAT)
_PAIRS = ("D8M8", "D8M16", "D16M8", "D16M16", FLOAT)
_WORDS = {"mt19937": "mt19937", "xorshift": "xorshift", "shared": "shared", "nearest": "none: nearest"}
_LADDER = (
    ("compiler", "mt19937"),
    ("compiler", "shared"),
    ("lowprec", "mt19937"),
    ("lowprec", "xorshift"),
    ("lowprec", "shared"),
    ("lowprec", "nearest"),
)


@dataclass(frozen=True)
class Options:
    """How much is measured.

    Parameters
    ----------
    n_bytes : int
        Size of the data set.
    sizes : tuple of int
        Model sizes of the second table.
    n : int
        Model size of the other tables.
    seconds : float
        Time for measuring; making the data and the turns that have begun come on top.
    run_seconds : float
        About how long one run takes.
    peer_sizes : tuple of int
        Model sizes at which scikit-learn is measured; empty for none.
    peer_bytes : int
        Size of the float32 array that scikit-learn trains on.
    seed : int
        Of data and rounding.
    """

    n_bytes: int = 256 * 2**20
    sizes: tuple[int, ...] = (2**8, 2**11, 2**14, 2**17, 2**20)
    n: int = 2**14
    seconds: float = 100.0
    run_seconds: float = 0.04
    peer_sizes: tuple[int, ...] = (2**8, 2**11)
    peer_bytes: int = 256 * 2**20
    seed: int = 1


DEFAULT = Options()
QUICK = replace(
    DEFAULT,
    n_bytes=64 * 2**20,
    sizes=(2**8, 2**14, 2**20),
    seconds=9.0,
    run_seconds=0.012,
    peer_bytes=32 * 2**20,
)

#: Share of the time that each table gets.
_SHARES = {"base": 0.30, "sizes": 0.28, "compiler": 0.14, "ladder": 0.14, "peer": 0.08, "threads": 0.06}


def base_order() -> list[str]:
    """All sixteen signatures: the nine of the paper's Table 2 first, fastest there first."""
    published = paper.base_throughput()
    every = [f"D{D}M{M}" for D in FORMATS for M in FORMATS]
    return sorted(published, key=lambda s: -published[s]) + [s for s in every if s not in published]


class _Measurement:
    """One run of the report: options, data, and the rows so far."""

    def __init__(self, options: Options, progress: Callable[[str, str, float], None]) -> None:
        self.options, self.progress = options, progress
        self.work = Workload(options.n_bytes, options.seed)
        self.plain = machine.baseline() is not None
        self.rows: list[dict[str, Any]] = []
        self.done = 0.0

    def turns(self, table: str, what: str, make: Sequence[Callable[[], Case]]) -> list[Turns]:
        """Make the cases of a table and let them take turns for the table's share of the time."""
        cases = []
        for build in make:
            self.progress(what, "preparing data", self.done)
            cases.append(build())
        seconds = self.options.seconds * _SHARES[table]
        begin = time.perf_counter()

        def tick(case: Case) -> None:
            about = case.about
            part = min((time.perf_counter() - begin) / max(seconds, 1e-9), 1.0) * _SHARES[table]
            self.progress(
                what, f"{about['engine']} {about['signature']}, n = {power(about['n'])}", self.done + part
            )

        result = take_turns(cases, seconds, tick=tick)
        self.done += _SHARES[table]
        return result

    def case(self, signature: str, n: int, **kwargs: Any) -> Callable[[], Case]:
        D, M = split(signature)
        return lambda: self.work.case(D, M, n, run_seconds=self.options.run_seconds, **kwargs)

    def base(self) -> None:
        order = base_order()
        published = paper.base_throughput()
        n = self.options.n
        found = dict(
            zip(order, self.turns("base", "Base throughput", [self.case(s, n) for s in order]), strict=True)
        )
        for s in order:
            gnps = published.get(s)
            self.rows.append(
                make_row(
                    "base",
                    found[s],
                    **ratio_fields(found[s], found[FLOAT], FLOAT),
                    paper_gnps=gnps,
                    paper_ratio=None if gnps is None else gnps / published[FLOAT],
                )
            )

    def sizes(self) -> None:
        keys = [(s, n) for n in self.options.sizes for s in _SQUARE]
        found = dict(
            zip(keys, self.turns("sizes", "Model sizes", [self.case(s, n) for s, n in keys]), strict=True)
        )
        for s in _SQUARE:
            for n in self.options.sizes:
                self.rows.append(make_row("sizes", found[s, n], **ratio_fields(found[s, n], found[FLOAT, n], FLOAT)))

    def compiler(self) -> None:
        if not self.plain:
            self.done += _SHARES["compiler"]
            return
        published = paper.compiler_ratios()
        keys = [(s, engine) for s in _PAIRS for engine in ("lowprec", "compiler")]
        make = [self.case(s, self.options.n, engine=engine) for s, engine in keys]
        found = dict(
            zip(keys, self.turns("compiler", "Hand-written against the compiler", make), strict=True)
        )
        for s in _PAIRS:
            hand, plain = found[s, "lowprec"], found[s, "compiler"]
            self.rows.append(
                make_row("compiler", plain, ratio=1.0, ratio_q1=1.0, ratio_q3=1.0, ratio_to="compiler")
            )
            self.rows.append(
                make_row("compiler", hand, **ratio_fields(hand, plain, "compiler"), paper_ratio=published.get(s))
            )

    def ladder(self) -> None:
        rungs = _LADDER if self.plain else [rung for rung in _LADDER if rung[0] == "lowprec"]
        signatures = ("D8M8", "D16M16")
        keys = [(s, *rung) for s in signatures for rung in rungs]
        make = [self.case(s, self.options.n, engine=engine, random=random) for s, engine, random in keys]
        found = dict(zip(keys, self.turns("ladder", "Rounding ladder", make), strict=True))
        published = {random: paper.rounding_series(random) for random in paper.ROUNDING_SERIES}
        n = self.options.n
        for s, engine, random in keys:
            gnps = published[random].get(n) if (s, engine) == ("D16M16", "lowprec") else None
            first = rungs[0]
            self.rows.append(
                make_row(
                    "ladder",
                    found[s, engine, random],
                    **ratio_fields(found[s, engine, random], found[s, *first], " ".join(first)),
                    paper_gnps=gnps,
                    paper_ratio=None if gnps is None else gnps / published["mt19937"][n],
                )
            )

    def peer(self) -> None:
        sizes = self.options.peer_sizes if peer.available() else ()
        seconds = self.options.seconds * _SHARES["peer"] / max(len(sizes), 1)
        what = "Against scikit-learn"

        def tick(case: Case) -> None:
            about = case.about
            self.progress(what, f"{about['engine']} {about['signature']}, n = {power(about['n'])}", self.done)

        for n in sizes:
            self.progress(what, "preparing data", self.done)
            made = peer.contenders(n, self.options.peer_bytes, self.options.seed)
            found = take_turns([c.case for c in made], seconds, tick=tick)
            for c, turns in zip(made, found, strict=True):
                ratio = ratio_fields(turns, found[0], "scikit-learn")
                self.rows.append(make_row("peer", turns, **ratio, **c.fields()))
            self.done += _SHARES["peer"] / len(sizes)
        if not sizes:
            self.done += _SHARES["peer"]

    def threads(self) -> None:
        from lowprec import runtime

        many = runtime.effective_n_threads()
        if many == 1:
            self.done += _SHARES["threads"]
            return
        keys = [
            (s, n, t)
            for s in ("D8M8", FLOAT)
            for n in (self.options.sizes[0], self.options.sizes[-1])
            for t in (1, many)
        ]
        make = [self.case(s, n, n_threads=t) for s, n, t in keys]
        found = dict(zip(keys, self.turns("threads", "All threads", make), strict=True))
        for s, n, t in keys:
            self.rows.append(
                make_row("threads", found[s, n, t], **ratio_fields(found[s, n, t], found[s, n, 1], "1 thread"))
            )


def measure(
    options: Options = DEFAULT, progress: Callable[[str, str, float], None] = lambda *_: None
) -> dict[str, Any]:
    """Measure everything that the tables show.

    Parameters
    ----------
    options : Options
    progress : callable
        Called often with the table's name, what is running, and the share of the work that is done.

    Returns
    -------
    dict
        The results as docs/results-schema.md describes them: ``machine``, ``options`` and the flat list
        ``rows``.
    """
    begin = time.perf_counter()
    m = _Measurement(options, progress)
    m.rows += roof_rows(m.work)
    for table in ("base", "sizes", "compiler", "ladder", "peer", "threads"):
        getattr(m, table)()
    progress("Done", "", 1.0)
    return header("speedups", vars(options), time.perf_counter() - begin) | {"rows": m.rows}


# ---- showing ---------------------------------------------------------------------------------------------------


def tables(results: dict[str, Any]) -> list[Table]:
    """The results as tables to read, in order."""
    made = [machine_table(results), _base_table(results), _sizes_table(results), _compiler_table(results)]
    made += [_ladder_table(results), _peer_table(results), _threads_table(results)]
    return [table for table in made if table is not None and table.rows]


def _base_table(results: dict[str, Any]) -> Table:
    rows = select(results, "base")
    table = Table(
        f"Base throughput of each signature: one thread, n = {power(rows[0]['n'])} (paper: Table 2)",
        ["<signature", "GNPS", "quartiles", "of roof", "<", "x float32", "paper GNPS", "paper ratio"],
        strong=(1, 5),
    )
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and before["paper_gnps"] is not None and row["paper_gnps"] is None:
            table.rule()
        table.add(
            row["signature"],
            number(row["gnps"]),
            between(row["gnps_q1"], row["gnps_q3"]),
            share(row["share"]),
            bar(row["share"], width=14),
            times(row["ratio"]),
            number(row["paper_gnps"]),
            times(row["paper_ratio"]),
        )
    table.notes.append(
        "GNPS: 10^9 dataset numbers a second. Roof: a plain read of the same bytes just before each run."
    )
    table.notes.append("The paper's Xeon E7-8890 v3 is of 2015; its ratios compare better than its GNPS.")
    return table


def _sizes_table(results: dict[str, Any]) -> Table:
    rows = select(results, "sizes")
    sizes = list(dict.fromkeys(row["n"] for row in rows))
    table = Table(
        "Throughput over model size, one thread: GNPS, share of the roof, ratio to float32",
        ["<signature", "<", *map(power, sizes)],
    )
    for s in dict.fromkeys(row["signature"] for row in rows):
        mine = {row["n"]: row for row in rows if row["signature"] == s}
        table.rule()
        table.add(s, "GNPS", *(number(mine[n]["gnps"]) for n in sizes))
        table.add("", "of roof", *(share(mine[n]["share"]) for n in sizes))
        if s != FLOAT:
            table.add("", "x float32", *(times(mine[n]["ratio"]) for n in sizes))
    return table


def _compiler_table(results: dict[str, Any]) -> Table | None:
    rows = select(results, "compiler")
    if not rows:
        return None
    table = Table(
        f"Hand-written kernels against the compiler: n = {power(rows[0]['n'])} (paper: Fig 4)",
        ["<signature", "compiler GNPS", "lowprec GNPS", "ratio", "quartiles", "<", "paper's ratio"],
        strong=(3,),
    )
    hand = {row["signature"]: row for row in rows if row["engine"] == "lowprec"}
    longest = max(row["ratio"] for row in hand.values())
    for plain in (row for row in rows if row["engine"] == "compiler"):
        ours = hand[plain["signature"]]
        table.add(
            plain["signature"],
            number(plain["gnps"]),
            number(ours["gnps"]),
            times(ours["ratio"]),
            between(ours["ratio_q1"], ours["ratio_q3"]),
            bar(ours["ratio"], longest, 14),
            times(ours["paper_ratio"]),
        )
    published = [row for row in hand.values() if row["paper_ratio"] is not None]
    here, theirs = (geometric_mean([r[key] for r in published]) for key in ("ratio", "paper_ratio"))
    table.notes.append(
        f"Geometric mean of the four: {times(here)} here, {times(theirs)} in the paper, "
        "which averages over sizes and threads."
    )
    m = results["machine"]
    table.notes.append(
        f"Compiler: {m['compiler']} {m['baseline_flags']}, the plain loop of Fig 1, same random words."
    )
    return table


def _ladder_table(results: dict[str, Any]) -> Table:
    rows = select(results, "ladder")
    table = Table(
        f"The rounding ladder: n = {power(rows[0]['n'])} (paper: Fig 5b, D16M16, 18 threads)",
        ["<signature", "<loops", "<random words", "GNPS", "ladder", "<", "x mt19937", "paper"],
        strong=(4,),
    )
    longest = max(row["ratio"] for row in rows)
    for s in dict.fromkeys(row["signature"] for row in rows):
        mine = [row for row in rows if row["signature"] == s]
        mersenne = next(row for row in mine if (row["engine"], row["random"]) == ("lowprec", "mt19937"))
        table.rule()
        for row in mine:
            table.add(
                s if row is mine[0] else "",
                row["engine"],
                _WORDS[row["random"]],
                number(row["gnps"]),
                times(row["ratio"]),
                bar(row["ratio"], longest, 12),
                times(row["gnps"] / mersenne["gnps"]) if row["engine"] == "lowprec" else "-",
                times(row["paper_ratio"]),
            )
    table.notes.append(
        "Ladder: over the first rung. mt19937 and xorshift draw a fresh word for every write of the model,"
    )
    table.notes.append("shared one block for each example; nearest draws none, and is biased.")
    return table


def _peer_table(results: dict[str, Any]) -> Table | None:
    rows = select(results, "peer")
    if not rows:
        return None
    table = Table(
        "Against scikit-learn's SGDClassifier: one epoch of logistic regression on the same float32 array",
        ["<n", "<", "GNPS", "ratio", "quartiles", "<", "accuracy", "bytes/row", "prepare s"],
        strong=(3,),
    )
    for before, row in zip([None, *rows], rows, strict=False):
        first = before is None or before["n"] != row["n"]
        if first:
            table.rule()
        name = "scikit-learn" if row["engine"] == "scikit-learn" else f"lowprec {row['signature']}"
        table.add(
            power(row["n"]) if first else "",
            name,
            number(row["gnps"]),
            times(row["ratio"]),
            between(row["ratio_q1"], row["ratio_q3"]) if row["ratio"] != 1 else NONE,
            bar(row["ratio"], max(r["ratio"] for r in rows), 8),
            f"{row['accuracy']:.3f}",
            f"{row['bytes_per_number'] * row['n']:,.0f}",
            number(row["prepare_seconds"]),
        )
    table.notes.append(
        "Whole calls of fit and lowprec.train, one thread, rows in order, the same step; accuracy on other rows. "
        "Prepare: quantizing the data and choosing the model's scale, left out."
    )
    return table


def _threads_table(results: dict[str, Any]) -> Table | None:
    rows = select(results, "threads")
    if not rows:
        return None
    many = max(row["threads"] for row in rows)
    table = Table(
        f"All {many} threads on one shared model, without locks",
        ["<signature", "n", "1 thread GNPS", f"{many} threads GNPS", "ratio", "of the roof of all threads"],
        strong=(4,),
    )
    one = {(row["signature"], row["n"]): row for row in rows if row["threads"] == 1}
    for row in rows:
        if row["threads"] == many:
            table.add(
                row["signature"],
                power(row["n"]),
                number(one[row["signature"], row["n"]]["gnps"]),
                number(row["gnps"]),
                times(row["ratio"]),
                share(row["share"]),
            )
    return table


def figures(results: dict[str, Any]) -> dict[str, Any]:
    """The plots, by file name without its ending."""
    from lowprec.report import plots

    rows = results["rows"]
    made = {
        "speedups-signatures": plots.signatures(select(results, "base")),
        "speedups-sizes": plots.sizes(select(results, "sizes")),
        "speedups-ladder": plots.ladder(select(results, "ladder")),
    }
    if any(row["table"] == "compiler" for row in rows):
        made["speedups-compiler"] = plots.compiler(
            select(results, "compiler"), results["machine"]["baseline_flags"]
        )
    return made
