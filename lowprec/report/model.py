"""The performance report: what two models predict, beside what this machine does. See `measure`; `model_tables` shows it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lowprec import perfmodel
from lowprec.checks import bad_file, wrong_value
from lowprec.formats import FORMATS
from lowprec.perfmodel import Calibration, Point, Roofs, score
from lowprec.report import machine, paper
from lowprec.report.files import SCHEMA, header
from lowprec.report.roofs import APART, Line, between_cores, measure_roofs
from lowprec.report.sparse_data import DENSITY
from lowprec.report.tables import power
from lowprec.report.timing import Case, Turns, huge_buffer, spread, take_turns
from lowprec.report.workload import Workload
from lowprec.signature import Signature

__all__ = ["DEFAULT", "FIELDS", "QUICK", "Options", "measure", "paper_points", "read_results", "roofs_of", "select"]

#: Every row of the results has these fields, in this order; docs/results-schema.md says what they mean.
FIELDS = (
    "table",
    "signature",
    "D",
    "index",
    "M",
    "n",
    "density",
    "threads",
    "half",
    "gnps",
    "gnps_q1",
    "gnps_q3",
    "eq2_gnps",
    "roofline_gnps",
    "bound",
    "name",
    "value",
    "unit",
    "n_bytes",
    "points",
    "within_25",
    "within_50",
    "mean_error",
    "typical_ratio",
    "line_ns",
    "probe_gops",
    "runs",
    "runs_apart",
)

_SPARSE = ("D8i8M8", "D8i8M16", "D8i8M32f", "D16i16M8", "D16i16M16", "D16i16M32f", "D32fi32M8", "D32fi32M16", "D32fi32M32f")

#: Turns that a point needs with the threads placed as for the roofs, and how many times its time it may take for them.
_MIN_TURNS, _PATIENCE = 3, 2


@dataclass(frozen=True)
class Options:
    """How much is measured.

    Parameters
    ----------
    n_bytes : int
        Size of the data set; sparse data have an eighth as many nonzeros.
    sizes : tuple of int
        Model sizes. Every other one of a signature, from the smallest on, is fitted to, and the others are predicted.
    signatures : tuple of str
    seconds : float
        Time for measuring all signatures and sizes of the default; making the data comes on top.
    run_seconds : float
        About how long one run takes. Short: what workers do to each other changes from run to run, and many runs average it.
    seed : int
        Of data and rounding.
    """

    n_bytes: int = 128 * 2**20
    sizes: tuple[int, ...] = tuple(2**k for k in range(8, 21))
    signatures: tuple[str, ...] = (*(f"D{D}M{M}" for D in FORMATS for M in FORMATS), *_SPARSE)
    seconds: float = 130.0
    run_seconds: float = 0.008
    seed: int = 1

    def __post_init__(self) -> None:
        for name in self.signatures:
            s = Signature(name).require_runnable()
            if str(s) != name or s.gradient is not None:
                raise wrong_value("signatures", f"must have D, M and perhaps i alone, such as {Options.signatures[0]}", name)
        if len(self.sizes) < 2:
            raise wrong_value("sizes", "must be two or more: one half is fitted to, the other predicted", self.sizes)


DEFAULT = Options()
QUICK = replace(
    DEFAULT,
    n_bytes=64 * 2**20,
    sizes=tuple(2**k for k in range(8, 21, 2)),
    signatures=("D4M4", "D8M8", "D16M16", "D32fM32f", "D8i8M8", "D32fi32M32f"),
    seconds=80.0,
)


def _row(table: str, **given: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(FIELDS)
    unknown = set(given) - set(FIELDS)
    if unknown:
        raise KeyError(f"not fields of the results: {sorted(unknown)}")
    return row | {"table": table} | given


def select(rows: Iterable[dict[str, Any]], table: str) -> list[dict[str, Any]]:
    """The rows of one table."""
    return [row for row in rows if row["table"] == table]


def _key(row: dict[str, Any]) -> tuple[str, int, int]:
    return row["signature"], row["n"], row["threads"]


def _point(row: dict[str, Any]) -> Point:
    return Point(row["signature"], row["n"], row["threads"], row["gnps"], row["density"])


# ---- measuring -------------------------------------------------------------------------------------------------


class _Beside:
    """A run with several threads, and right before it the way of a cache line between two cores."""

    def __init__(self, case: Case, line: Line) -> None:
        self.run, self.line = case.run, line
        self.ns: list[float | None] = []

    def __call__(self) -> float:
        self.ns.append(self.line.ns())
        return self.run()


@dataclass
class _Taken:
    """The turns of one point."""

    density: float
    turns: Turns
    line_ns: list[float | None]

    def row(self, reference: float | None) -> dict[str, Any] | None:
        """The point as a row, or None: runs with the threads placed otherwise than for the roofs do not count."""
        near = [
            ns is None or reference is None or reference / APART <= ns <= reference * APART
            for ns in self.line_ns or [None] * len(self.turns.gnps)
        ]
        kept = [g for g, ok in zip(self.turns.gnps, near, strict=True) if ok]
        if len(kept) < _MIN_TURNS:
            return None
        ways = [ns for ns in self.line_ns if ns is not None]
        about, s = self.turns.about, spread(kept)
        return _row(
            "point",
            **{key: about[key] for key in ("signature", "D", "index", "M", "n", "threads")},
            density=self.density,
            gnps=s.median,
            gnps_q1=s.q1,
            gnps_q3=s.q3,
            line_ns=statistics.median(ways) if ways else None,
            probe_gops=spread(self.turns.probe).median if self.turns.probe else None,
            runs=len(kept),
            runs_apart=near.count(False),
        )


def _groups(options: Options, counts: Sequence[int]) -> list[list[tuple[str, int, int]]]:
    """Signatures, sizes and threads that take turns: of dense data those of one signature, of sparse data those of one size.

    Making sparse data takes longest, and those of one size alone are kept.
    """
    sparse = [s for s in options.signatures if Signature(s).is_sparse]
    dense = [s for s in options.signatures if s not in sparse]
    made = [[(s, n, t) for n in options.sizes for t in counts] for s in dense]
    return made + [[(s, n, t) for s in sparse for t in counts] for n in options.sizes if sparse]


def _take(
    work: Workload,
    group: Sequence[tuple[str, int, int]],
    options: Options,
    reference: float | None,
    tick: Callable[[str], None],
) -> tuple[list[dict[str, Any]], list[float]]:
    """Measure the points of one group; those that could not be are missing. And every way between two cores that was seen."""
    cases, beside, density = [], [], []
    line = Line()
    for name, n, t in group:
        s = Signature(name)
        index = str(s.index) if s.index else None
        tick(f"{name}, n = {power(n)}: data")
        case = work.case(str(s.dataset), str(s.model), n, index=index, n_threads=t, run_seconds=options.run_seconds)
        case.buffer = None  # no roof of its own: a run is short
        side = _Beside(case, line) if t > 1 else None
        beside.append(side)
        density.append(DENSITY if index else 1.0)
        cases.append(replace(case, run=side) if side else case)
    whole = len(DEFAULT.signatures) * len(DEFAULT.sizes) * 2
    seconds = options.seconds * len(cases) / whole
    taken = [_Taken(d, Turns(case.about), []) for d, case in zip(density, cases, strict=True)]
    for _ in range(_PATIENCE):
        found = take_turns(cases, seconds, tick=lambda c: tick(f"{c.about['signature']}, n = {power(c.about['n'])}"))
        for point, turns, side in zip(taken, found, beside, strict=True):
            point.turns.gnps += turns.gnps
            point.turns.probe += turns.probe
            point.line_ns = side.ns if side else []
        rows = [point.row(reference) for point in taken]
        if None not in rows:
            break
    ways = [ns for point in taken for ns in point.line_ns if ns is not None]
    return [row for row in rows if row is not None], ways


def read_results(path: Path) -> dict[str, Any]:
    """The results in a file of an earlier run, which may have been interrupted."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if (results["command"], results["schema"]) == ("model", SCHEMA):
            return results
    except (ValueError, KeyError, TypeError):
        pass
    raise bad_file(path, "no results of lowprec model to go on with")


def _another(key: str, then: Any, now: Any) -> ValueError:
    return ValueError(
        f"resume: was measured with {key} {then}, and now it is {now}; begin without --resume, or in another folder with --out"
    )


def _same_machine(kept: dict[str, Any], options: Options) -> None:
    """Refuse to go on with results of another machine, build or data set."""
    here = machine.machine_block()
    for key in ("cpu", "cpus_usable", "isa", "lowprec"):
        if kept["machine"].get(key) != here[key]:
            raise _another(key, kept["machine"].get(key), here[key])
    for key in ("n_bytes", "seed"):
        if kept["options"].get(key) != getattr(options, key):
            raise _another(key, kept["options"].get(key), getattr(options, key))


def measure(
    options: Options = DEFAULT,
    progress: Callable[[str, str, float], None] = lambda *_: None,
    *,
    kept: dict[str, Any] | None = None,
    save: Callable[[dict[str, Any]], None] = lambda results: None,
) -> dict[str, Any]:
    """Measure roofs and points, fit both models to one half of the points, and predict the other.

    Parameters
    ----------
    options : Options
    progress : callable
        Called often with the stage, what is running, and the share of the work that is done.
    kept : dict, optional
        Results of an earlier run, complete or not: its roofs and points are not measured again.
    save : callable
        Called with what there is so far whenever a part is done.

    Returns
    -------
    dict
        The results as docs/results-schema.md describes them.
    """
    from lowprec import runtime

    begin = time.perf_counter()
    many = runtime.effective_n_threads()
    counts = tuple(dict.fromkeys((1, many)))
    results: dict[str, Any] = {
        **header("model", vars(options)),
        "calibration": None,
        "points_missing": None,
        "rows": [],
    }
    points: dict[tuple[str, int, int], dict[str, Any]] = {}
    roofs = None
    if kept is not None:
        _same_machine(kept, options)
        roofs = roofs_of(select(kept["rows"], "roof"))
        points = {_key(row): row for row in select(kept["rows"], "point")}

    work = Workload(options.n_bytes, options.seed)
    if roofs is None:
        progress("Roofs", "caches, memory, cores", 0.0)
        roofs = measure_roofs(_scratch(options.n_bytes), many, options.seconds / 60)
    roof_rows = _roof_rows(roofs)
    groups = _groups(options, counts)
    wanted = [key for group in groups for key in group if key not in points]
    tried: set[tuple[str, int, int]] = set()
    done = 0.0

    def left() -> list[tuple[str, int, int]]:
        """The next group's points that are neither known nor were tried in vain."""
        rest = ([key for key in group if key not in points and key not in tried] for group in groups)
        return next(filter(None, rest), [])

    while group := left():
        done = max(done, min(len(tried) / len(wanted), 1.0))
        stage = "Sparse data" if Signature(group[0][0]).is_sparse else "Dense data"
        rows, ways = _take(work, group, options, roofs.line_ns, partial(_tell, progress, stage, done))
        points |= {_key(row): row for row in rows}
        tried.update(group)
        if (closer := _closer(roofs, ways)) != roofs:  # what was measured with the threads further apart is measured again
            roofs, roof_rows = closer, _roof_rows(closer)
            points = {key: row for key, row in points.items() if key[2] == 1}
            tried = {key for key in tried if key[2] == 1}
        save(results | {"seconds": time.perf_counter() - begin, "rows": roof_rows + list(points.values())})

    order = {name: k for k, name in enumerate(DEFAULT.signatures)}
    rows = sorted(points.values(), key=lambda row: (order.get(row["signature"], len(order)), row["threads"], row["n"]))
    progress("Fitting", "", 1.0)
    calibration, judged = _judge(rows, roofs, results["machine"])
    results["calibration"] = calibration.to_dict()
    results["seconds"] = time.perf_counter() - begin
    results["points_missing"] = sum(key not in points for group in groups for key in group)
    results["rows"] = roof_rows + judged + _constant_rows(calibration) + _paper_rows()
    progress("Done", "", 1.0)
    return results


def _closer(roofs: Roofs, ways: Sequence[float]) -> Roofs:
    """The roofs, with those between two cores measured again if most runs had the threads closer to each other than they."""
    near = [ns for ns in ways if roofs.line_ns is not None and ns * APART < roofs.line_ns]
    if 2 * len(near) <= len(ways):
        return roofs
    line, contended = between_cores(_scratch(2**16))
    if line is None or line * APART > (roofs.line_ns or 0.0):
        return roofs
    return replace(roofs, line_ns=line, contended_ns=contended)


def _tell(progress: Callable[[str, str, float], None], stage: str, done: float, what: str) -> None:
    progress(stage, what, done)


def _scratch(n_bytes: int) -> Any:
    """Memory to measure roofs on."""
    buffer = huge_buffer(n_bytes)
    buffer[:] = 1  # touched, or all pages would be the one of zeros
    return buffer


# ---- roofs as rows, and back -----------------------------------------------------------------------------------


def _roof_rows(roofs: Roofs) -> list[dict[str, Any]]:
    rows = [_row("roof", name="read", n_bytes=size, value=ns, unit="ns/line", threads=1) for size, ns in roofs.read]
    rows.append(_row("roof", name="stream", value=roofs.stream_gbps, unit="GB/s", threads=1))
    rows.append(_row("roof", name="stream_all", value=roofs.stream_all_gbps, unit="GB/s", threads=roofs.threads))
    rows.append(_row("roof", name="line", value=roofs.line_ns, unit="ns", threads=2))
    rows.append(_row("roof", name="contended", value=roofs.contended_ns, unit="ns/line", threads=2))
    rows.append(_row("roof", name="vector", value=roofs.vector_gops, unit="Gop/s", threads=1))
    return rows


def roofs_of(rows: Sequence[dict[str, Any]]) -> Roofs | None:
    """The roofs that rows of the table ``roof`` hold."""
    if not rows:
        return None
    one = {row["name"]: row for row in rows if row["name"] != "read"}
    return Roofs(
        tuple((row["n_bytes"], row["value"]) for row in rows if row["name"] == "read"),
        one["stream"]["value"],
        one["stream_all"]["value"],
        one["stream_all"]["threads"],
        one["line"]["value"],
        one["contended"]["value"],
        one["vector"]["value"],
    )


# ---- fitting and judging ---------------------------------------------------------------------------------------


def _judge(rows: list[dict[str, Any]], roofs: Roofs, about: dict[str, Any]) -> tuple[Calibration, list[dict[str, Any]]]:
    """Rows of points with both predictions, rows of scores, and the calibration on all points."""
    points = [_point(row) for row in rows]
    fitted, held_out = perfmodel.alternate(points)
    eq2, roofline = perfmodel.fit_paper(fitted), perfmodel.fit_roofline(fitted, roofs)
    known = set(fitted)

    def eq2_gnps(p: Point) -> float:
        return eq2.predict(p.signature, p.n, p.threads)

    def roofline_gnps(p: Point) -> float:
        return roofline.predict(p.signature, p.n, p.threads, p.density)

    made = []
    for row, p in zip(rows, points, strict=True):
        bound = roofline.terms(p.signature, p.n, p.threads, p.density).bound
        half = "fitted" if p in known else "held out"
        made.append(row | {"half": half, "eq2_gnps": eq2_gnps(p), "roofline_gnps": roofline_gnps(p), "bound": bound})
    for half, chosen in (("fitted", fitted), ("held out", held_out)):
        for threads in (*dict.fromkeys(p.threads for p in points), None):
            for kind in ("dense", "sparse", "all"):
                some = [
                    p for p in chosen
                    if threads in (None, p.threads) and kind in ("all", "sparse" if Signature(p.signature).is_sparse else "dense")
                ]  # fmt: skip
                for name, predict in (("Eq. 2", eq2_gnps), ("roofline", roofline_gnps)):
                    if some:
                        found = asdict(score(some, predict))
                        made.append(_row("score", name=f"{name}, {kind}", half=half, threads=threads, **found))
    return Calibration(perfmodel.fit_paper(points), perfmodel.fit_roofline(points, roofs), about), made


def _constant_rows(calibration: Calibration) -> list[dict[str, Any]]:
    """Every constant of the calibration, which is fitted to all points."""
    rows = [_row("constant", name=name, value=getattr(calibration.paper, name)) for name in ("cap", "slope")]
    units = {"number_ns": "ns", "example_ns": "ns", "turn_ns": "ns", "contact": None, "reach_bytes": "bytes"}
    for signature, costs in calibration.roofline.costs.items():
        rows.append(_row("constant", signature=signature, name="T1", value=calibration.paper.base[signature], unit="GNPS"))
        for name, value in asdict(costs).items():
            rows.append(_row("constant", signature=signature, name=name, value=value, unit=units[name]))
    return rows


# ---- the paper's own claim -------------------------------------------------------------------------------------


def paper_points() -> list[tuple[bool, Point]]:
    """The measured points of the paper's Fig 3, with whether the data are sparse: 408, signatures without the index's term."""
    found = []
    for sparse in (False, True):
        for threads in (4, 8, 12):
            for signature in ("D8M8", "D8M16", "D16M16", "D32fM32f"):
                line = paper.series(f"fig3_{'sparse' if sparse else 'dense'}_t{threads}", signature)
                found += [(sparse, Point(signature, n, threads, gnps)) for n, gnps in line.items()]
    return found


def _paper_rows() -> list[dict[str, Any]]:
    """Fig 3 with Eq. 2 and the T_1 of Table 2, and how many of its points that predicts, with either cap."""
    points = paper_points()
    made = []
    for cap in (perfmodel.CAP, perfmodel.PRINTED_CAP):
        models = {sparse: perfmodel.PaperModel(paper.base_throughput(sparse), cap) for sparse in (False, True)}
        guesses = {pair: models[pair[0]].predict(pair[1].signature, pair[1].n, pair[1].threads) for pair in points}
        if cap == perfmodel.CAP:
            made += [
                _row(
                    "paper", signature=p.signature, n=p.n, threads=p.threads, gnps=p.gnps, eq2_gnps=guess,
                    name="sparse" if sparse else "dense",
                )
                for (sparse, p), guess in guesses.items()
            ]  # fmt: skip
        judged = {id(p): guesses[sparse, p] for sparse, p in points}
        found = score([p for _, p in points], lambda p, judged=judged: judged[id(p)])
        made.append(_row("paper score", name=f"cap {cap}", value=cap, **asdict(found)))
    return made
