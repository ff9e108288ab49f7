"""What the commands share: the progress bar and the last line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lowprec.report import tables


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
