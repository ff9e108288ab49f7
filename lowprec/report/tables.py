"""Tables that a person reads: one description, shown on a terminal (rich) and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lowprec.checks import need_extra

__all__ = ["Table", "bar", "console", "number", "power", "times", "to_markdown", "to_rich"]

NONE = "-"


@dataclass
class Table:
    """A table as text.

    Parameters
    ----------
    title : str
    columns : sequence of str
        Headers. One that begins with ``<`` is left-aligned; all others are right-aligned.
    rows : list of list of str
        Cells; None draws a line across.
    notes : list of str
        Sentences below it.
    """

    title: str
    columns: Sequence[str]
    rows: list[list[str] | None] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    strong: Sequence[int] = ()  # columns that the eye should find first

    def add(self, *cells: str) -> None:
        """Append a row."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{self.title}: a row needs {len(self.columns)} cells, got {len(cells)}")
        self.rows.append(list(cells))

    def rule(self) -> None:
        """Append a line across."""
        if self.rows and self.rows[-1] is not None:
            self.rows.append(None)


def number(value: float | None, digits: int = 3) -> str:
    """A number to `digits` significant digits without an exponent, or a dash."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    magnitude = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    if magnitude == 0:
        return f"{value:.2g}" if abs(value) < 10**-digits else f"{value:.{digits}f}"
    return f"{value:,.{max(digits - magnitude, 0)}f}"


def times(value: float | None) -> str:
    """A ratio, two significant digits and more: ``3.6x``."""
    return NONE if value is None else f"{number(value, 2 if value >= 10 else 3)}x"


def between(q1: float | None, q3: float | None) -> str:
    """Two quartiles."""
    return NONE if q1 is None or q3 is None else f"{number(q1)}-{number(q3)}"


def share(value: float | None) -> str:
    """A share of a whole."""
    return NONE if value is None else f"{value:.2f}"


def bar(value: float | None, full: float = 1.0, width: int = 16) -> str:
    """A bar of block characters, `width` cells long at `full`."""
    if value is None or full <= 0:
        return ""
    eighths = round(min(max(value / full, 0.0), 1.0) * width * 8)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def power(n: int) -> str:
    """``2^14`` for a power of two, else the number."""
    return f"2^{n.bit_length() - 1}" if n > 0 and n & (n - 1) == 0 else f"{n:,}"


def duration(seconds: float | None) -> str:
    """A time with its unit: ``96 ms``."""
    if seconds is None:
        return NONE
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 0.9995:
            return f"{number(seconds * factor)} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def n_bytes(value: float | None) -> str:
    """A size in binary units: ``32 KiB``."""
    if value is None:
        return NONE
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} GiB"


def to_markdown(table: Table) -> str:
    """The table as Markdown, notes below."""
    lines = [f"### {table.title}", ""]
    lines.append("| " + " | ".join(c.lstrip("<") for c in table.columns) + " |")
    lines.append("|" + "|".join(":--" if c.startswith("<") else "--:" for c in table.columns) + "|")
    for row in table.rows:
        if row is not None:
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    for note in table.notes:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def to_rich(table: Table) -> Any:
    """The table as something that a rich console prints."""
    need_extra("rich", "report", "printing tables")
    from rich import box
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table as RichTable
    from rich.text import Text

    headed = any(name.lstrip("<") for name in table.columns)
    shown = RichTable(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        padding=(0, 1),
        header_style="dim",
        show_header=headed,
    )
    for k, name in enumerate(table.columns):
        shown.add_column(
            Text(name.lstrip("<")),
            justify="left" if name.startswith("<") else "right",
            no_wrap=headed or k < len(table.columns) - 1,
            style="bold cyan" if k in table.strong else "",
        )
    for row in table.rows:
        if row is None:
            shown.add_section()
        else:
            shown.add_row(*(Text(cell) for cell in row))
    parts = [Text(table.title, style="bold"), Padding(shown, (0, 0, 0, 2), expand=False)]
    parts += [Padding(Text(note, style="dim"), (0, 0, 0, 2), expand=False) for note in table.notes]
    return Group(*parts, Text(""))


def console(stderr: bool = False) -> Any:
    """A rich console, at most 100 columns wide, and exactly that where the output is no terminal."""
    need_extra("rich", "report", "printing tables")
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, soft_wrap=False)
    made.width = min(made.width, 100) if made.is_terminal else 100
    return made
