"""Measuring the catalogue, piece by piece."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from lowprec.report import peer
from lowprec.report.catalogue.journal import Journal
from lowprec.report.catalogue.plan import Options, Piece, Setup, float_of, pieces, published
from lowprec.report.files import header
from lowprec.report.rows import make_row, ratio_fields, roof_rows
from lowprec.report.tables import n_threads, power
from lowprec.report.timing import Case, Turns, take_turns
from lowprec.report.workload import Workload

__all__ = ["measure"]

_TITLES = {
    "roof": "The roof",
    "table2": "Table 2",
    "fig3": "Fig 3: sizes and threads",
    "fig4": "Fig 4: against the compiler",
    "fig5b": "Fig 5b: the rounding ladder",
    "fig5c": "Fig 5c: 4 bits",
    "fig6ab": "Fig 6a/b: prefetching",
    "fig6d": "Fig 6d: mini-batches",
    "threads": "Small models, all threads",
    "peer_sparse": "Sparse scikit-learn",
}


def measure(
    options: Options, journal: Journal, progress: Callable[[str, str, float], None] = lambda *_: None
) -> dict[str, Any]:
    """Measure what the journal does not have yet.

    Parameters
    ----------
    options : Options
        Resolved.
    journal : Journal
        Gets each piece when it is done.
    progress : callable
        Called often with the figure's name, what is running, and the share of the work that is done.

    Returns
    -------
    dict
        The results as docs/results-schema.md describes them.
    """
    begin = time.perf_counter()
    work = Workload(options.n_bytes, options.seed)
    plan = pieces(options)
    weights = [max(len(piece.setups), 1) + 3 * (piece.figure == "peer_sparse") for piece in plan]
    rows: list[dict[str, Any]] = []
    done = 0.0
    for piece, weight in zip(plan, weights, strict=True):
        found = journal.get(piece.key)
        if found is None:
            share = weight / sum(weights)

            def tell(what: str, part: float, piece: Piece = piece, done: float = done, share: float = share) -> None:
                kind = "sparse" if piece.sparse else "dense"
                size = f"{kind}, n = {power(piece.n)}: " if piece.n else ""
                progress(_TITLES[piece.figure], f"{size}{what}", done + share * part)

            found = journal.add(piece.key, _rows(piece, work, options, options.seconds * share, tell))
        rows += found
        done += weight / sum(weights)
    progress("Done", "", 1.0)
    return header("speedups --full", vars(options), time.perf_counter() - begin) | {"rows": rows}


def _rows(
    piece: Piece, work: Workload, options: Options, seconds: float, tell: Callable[[str, float], None]
) -> list[dict[str, Any]]:
    """Measure one piece."""
    tell("preparing data", 0.0)
    if piece.figure == "roof":
        return roof_rows(work)
    if piece.figure == "peer_sparse":
        return _peer_rows(piece, work, seconds, tell)
    cases = {setup: _case(piece, setup, work, options.run_seconds) for setup in piece.setups}
    turns = dict(zip(cases, _take_turns(list(cases.values()), seconds, tell), strict=True))
    return [_row(piece, setup, turns, work) for setup in piece.setups]


def _take_turns(cases: list[Case], seconds: float, tell: Callable[[str, float], None]) -> list[Turns]:
    begin = time.perf_counter()

    def tick(case: Case) -> None:
        part = min((time.perf_counter() - begin) / max(seconds, 1e-9), 1.0)
        tell(f"{case.about['engine']} {case.about['signature']}", part)

    return take_turns(cases, seconds, tick=tick)


def _case(piece: Piece, setup: Setup, work: Workload, run_seconds: float) -> Case:
    D, M = setup.formats
    more = {k: v for k, v in (("batch_size", setup.batch_size), ("sync_every", setup.sync_every)) if v not in (None, 1)}
    return work.case(
        D, M, piece.n, index=setup.index(piece.sparse), random=setup.random, engine=setup.engine, n_threads=setup.threads,
        prefetch=setup.prefetch, run_seconds=run_seconds, **more,
    )  # fmt: skip


def _quotient(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


def _row(piece: Piece, setup: Setup, turns: dict[Setup, Turns], work: Workload) -> dict[str, Any]:
    over, plain = piece.setups[setup], float_of(setup)
    gnps, threads = published(piece, setup)
    fields = {
        **ratio_fields(turns[setup], turns[over], _name(setup, over)),
        "float_ratio": ratio_fields(turns[setup], turns[plain], "")["ratio"],
        "paper_gnps": gnps,
        "paper_ratio": _quotient(gnps, published(piece, over)[0]),
        "paper_float_ratio": _quotient(gnps, published(piece, plain)[0]),
        "paper_threads": threads,
    }
    if piece.figure == "threads":
        D, M = setup.formats
        more = {} if setup.sync_every is None else {"sync_every": setup.sync_every}
        fields["loss"] = work.final_loss(D, M, piece.n, n_threads=setup.threads, **more)
    return make_row(piece.figure, turns[setup], **fields)


def _name(setup: Setup, over: Setup) -> str:
    """What a ratio is over, in a word or two: that in which the two differ."""
    if over.engine != setup.engine or over == setup:
        return over.engine if over.engine != "lowprec" else over.signature
    if over.threads != setup.threads:
        return n_threads(over.threads)
    if over.random != setup.random:
        return over.random
    if over.prefetch != setup.prefetch:
        return f"prefetch {over.prefetch}"
    if over.batch_size != setup.batch_size:
        return f"batches of {over.batch_size}"
    return over.signature


def _peer_rows(piece: Piece, work: Workload, seconds: float, tell: Callable[[str, float], None]) -> list[dict[str, Any]]:
    made = peer.sparse_contenders(work, piece.n)
    turns = _take_turns([c.case for c in made], seconds, tell)
    return [
        make_row(piece.figure, t, **ratio_fields(t, turns[0], "scikit-learn"), **c.fields())
        for c, t in zip(made, turns, strict=True)
    ]
