"""Tables that a person reads: one description, shown on a terminal (rich) and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lowprec.checks import need_extra
from lowprec.report.timing import spread

__all__ = ["Table", "bar", "console", "machine_table", "number", "power", "times", "to_markdown", "to_rich"]

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
    """A ratio, two significant digits and more: ``3.6x``; as short where something went to sleep."""
    if value is not None and 0 < value < 0.001:
        return "<0.001x"
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


def n_threads(count: int) -> str:
    """``1 thread``, ``2 threads``."""
    return "1 thread" if count == 1 else f"{count} threads"


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


def machine_table(results: dict[str, Any]) -> Table:
    """This machine, its roof, and how steady it was."""
    m, options = results["machine"], results["options"]
    table = Table("This machine", ["<", "<"])
    cores = (
        f"{m['cpus_usable']} of {m['cpus']} CPUs" if m["cpus_usable"] != m["cpus"] else f"{m['cpus']} CPUs"
    )
    table.add("CPU", f"{m['cpu']}, {cores}, governor {m['governor'] or 'not readable'}")
    table.add(
        "caches", ", ".join(f"{name} {n_bytes(size)}" for name, size in m["caches"].items()) or "not readable"
    )
    table.add(
        "kernels",
        f"{m['isa']} (built: {', '.join(m['isas_built'])}); OpenMP {'yes' if m['openmp'] else 'no'}",
    )
    table.add(
        "compiler",
        f"{m['compiler'] or 'plain C loops do not run on this CPU'} {m['baseline_flags'] or ''}".strip(),
    )
    table.add("software", f"lowprec {m['lowprec']}, numpy {m['numpy']}, Python {m['python']}, {m['os']}")
    table.add(
        "data set",
        f"{n_bytes(options['n_bytes'])} of uniform numbers, huge pages: {m['huge_pages'] or 'unknown'}",
    )
    for row in (row for row in results["rows"] if row["table"] == "roof"):
        name = "one thread" if row["threads"] == 1 else f"{row['threads']} threads"
        table.add(
            f"roof, {name}", f"{number(row['gnps'])} GB/s read ({between(row['gnps_q1'], row['gnps_q3'])})"
        )
    table.add("noise", _noise(results["rows"]))
    return table


def _noise(rows: list[dict[str, Any]]) -> str:
    """How steady the machine was, in a sentence."""
    widths = [(row["gnps_q3"] - row["gnps_q1"]) / row["gnps"] for row in rows if (row["runs"] or 0) >= 3]
    width = spread(widths).median if widths else 0.0
    state = "steady" if width < 0.1 else "disturbed: trust the ratios and the shares, not the GNPS"
    text = f"quartiles {width:.0%} of the median apart, {state}"
    probes = [row["probe_gops"] for row in rows if row["probe_gops"] is not None]
    return text + (f" (vector probe {number(min(probes))}-{number(max(probes))} Gop/s)" if probes else "")


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


def console(stderr: bool = False, widest: int = 100) -> Any:
    """A rich console, at most `widest` columns wide, and exactly that where the output is no terminal."""
    need_extra("rich", "report", "printing tables")
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, soft_wrap=False)
    made.width = min(made.width, widest) if made.is_terminal else widest
    return made
