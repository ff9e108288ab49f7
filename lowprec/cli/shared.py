"""What the commands share: options of measuring, the progress bar and the last line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lowprec.checks import check_finite_scalar, check_int, wrong_value
from lowprec.report import tables


def parse_sizes(text: str, name: str = "sizes", *, multiple: int = 128, maximum: int = 2**24) -> tuple[int, ...]:
    """``"2^8,2048"`` as ``(256, 2048)``; ``"2^8..2^11"`` is the first, doubled until it is the last.

    Parameters
    ----------
    text : str
    name : str
        Of the option, for errors.
    multiple : int
        What each size must be a multiple of: with 128, rows of every format start at multiples of 64 bytes.
    maximum : int

    Raises
    ------
    ValueError
        For what is no size, too large, or not such a multiple.
    """

    def size(part: str) -> int:
        base, _, exponent = part.strip().partition("^")
        try:
            n = int(base) ** int(exponent) if exponent and 0 <= int(exponent) < 64 else int(part)
        except ValueError:
            raise wrong_value(name, "must be numbers like 2^14 or 16384, with commas between", text) from None
        if check_int(name, n, minimum=multiple, maximum=maximum) % multiple:
            raise wrong_value(name, f"must be multiples of {multiple}", n)
        return n

    found: set[int] = set()
    for part in text.split(","):
        first, dots, last = part.partition("..")
        n = size(first)
        found.add(n)
        while dots and n < size(last):
            n *= 2
            found.add(n)
        if dots and n != size(last):
            raise wrong_value(name, "in A..B, B must be A times 1, 2, 4, 8 or so on", part.strip())
    return tuple(sorted(found))


def chosen(options: Any, *, seed: int, sizes: str | None, seconds: float | None, data_mib: int | None) -> Any:
    """The options of a measurement with what was said on the command line; None leaves what there is."""
    given: dict[str, Any] = {"seed": check_int("seed", seed, minimum=0, maximum=2**32 - 1)}
    if sizes is not None:
        given["sizes"] = parse_sizes(sizes)
    if seconds is not None:
        given["seconds"] = check_finite_scalar("seconds", seconds, positive=True)
    if data_mib is not None:
        given["n_bytes"] = check_int("data-mib", data_mib, minimum=16, maximum=2**16) * 2**20
    made = replace(options, **given)
    if made.n_bytes < 4 * (largest := max(made.sizes)):
        raise wrong_value(
            "data-mib",
            f"with sizes up to {tables.power(largest)} must be at least {4 * largest / 2**20:g}, for one example in float32",
            made.n_bytes // 2**20,
        )
    return made


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[str, str, float], None]]:
    """A progress bar on stderr; where that is no terminal, one line for each stage.

    Yields
    ------
    callable
        To be called with the stage, what is running, and the share of the work that is done.
    """
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = tables.console(stderr=True)
    if not console.is_terminal:
        seen: set[str] = set()

        def line(stage: str, what: str, done: float) -> None:
            if stage not in seen and done < 1:
                seen.add(stage)
                console.print(f"{stage} ...", markup=False)

        yield line
        return
    columns = (
        TextColumn("[bold]{task.fields[stage]:<34}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[what]}"),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as progress:
        task = progress.add_task("", total=1.0, stage="", what="")

        def update(stage: str, what: str, done: float) -> None:
            progress.update(task, completed=done, stage=stage, what=what)

        yield update


def say_written(console: Any, written: Sequence[Path], seconds: float) -> None:
    """The last line: how long it took, and where the files are."""
    names = ", ".join(path.name for path in written)
    console.print(f"Took {seconds:.0f} s. Written to {written[0].parent}: {names}", markup=False)
