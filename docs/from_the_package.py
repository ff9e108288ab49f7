"""Pages that Sphinx makes of the package as it is installed, so that nothing is typed twice.

``lowprec-kernels`` is the kernel matrix, ``lowprec-codecs`` the kernels beside it, ``lowprec-commands`` the command line's own
help, and the page ``tables`` ends with the results that the measuring commands have left in a folder: that of the environment
variable ``LOWPREC_RESULTS``, or ``lowprec-results``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import click
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

import lowprec
from lowprec.cli.app import app as commands
from lowprec.formats import FORMATS

# Columns of the help texts: what fits beside the table of contents.
_WIDTH = 88


class Kernels(SphinxDirective):
    """The matrix of one operation: D down, M across, and in each cell the names of the kernels.

    The operation is the argument; the names of one instruction set are shown, since every set has them all.
    """

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        rows = lowprec.kernels(self.arguments[0], isa="base")
        lines = ["| D | " + " | ".join(f"M = {M}" for M in FORMATS) + " |", "|---|" + "---|" * len(FORMATS)]
        for D in FORMATS:
            cells = ["<br>".join(f"`{row.name}`" for row in rows if (row.D, row.M) == (D, M)) for M in FORMATS]
            lines.append(f"| {D} | " + " | ".join(cells) + " |")
        return _markdown(self, lines)


class Codecs(SphinxDirective):
    """The kernels of the codecs: C down, the operations across."""

    def run(self) -> list[nodes.Node]:
        rows = [row for row in lowprec.kernels(isa="base") if row.C is not None]
        ops = list(dict.fromkeys(row.op for row in rows))
        lines = ["| C | " + " | ".join(f"`{op}`" for op in ops) + " |", "|---|" + "---|" * len(ops)]
        for C in dict.fromkeys(row.C for row in rows):
            cells = ["<br>".join(f"`{row.name}`" for row in rows if (row.C, row.op) == (C, op)) for op in ops]
            lines.append(f"| {C} | " + " | ".join(cells) + " |")
        return _markdown(self, lines)


class Operations(SphinxDirective):
    """The operations, with the number of their kernels, their roundings and their instruction sets."""

    def run(self) -> list[nodes.Node]:
        lines = ["| operation | kernels | roundings | instruction sets |", "|---|---|---|---|"]
        rows = lowprec.kernels()
        for op in dict.fromkeys(row.op for row in rows):
            own = [row for row in rows if row.op == op]
            roundings, isas = (", ".join(dict.fromkeys(getattr(row, key) for row in own)) for key in ("rounding", "isa"))
            lines.append(f"| `{op}` | {len({row.name for row in own})} | {roundings} | {isas} |")
        return _markdown(self, lines)


class Commands(SphinxDirective):
    """What ``lowprec --help`` prints, and a section for each command with its own help."""

    def run(self) -> list[nodes.Node]:
        lines = _fenced(_help(commands, "lowprec"))
        for name, command in _all_commands(commands, "lowprec"):
            lines += ["", f"## {name}", "", *_fenced(_help(command, name))]
        return _markdown(self, lines)


def _all_commands(group: Any, name: str) -> list[tuple[str, Any]]:
    """The commands of a group, those of the groups in it behind them."""
    found = []
    for short, command in sorted(group.commands.items()):
        found.append((f"{name} {short}", command))
        if isinstance(command, click.Group):
            found += _all_commands(command, f"{name} {short}")
    return found


def _help(command: Any, name: str) -> str:
    settings = {**commands.context_settings, "terminal_width": _WIDTH, "max_content_width": _WIDTH}
    return command.get_help(click.Context(command, info_name=name, **settings))


def _fenced(text: str) -> list[str]:
    return ["```text", *text.split("\n"), "```"]


def _markdown(directive: SphinxDirective, lines: list[str]) -> list[nodes.Node]:
    """The nodes of lines of Markdown, in a page that is Markdown."""
    parent = nodes.container()
    directive.state.nested_parse(StringList(lines, directive.get_source_info()[0]), directive.content_offset, parent)
    return parent.children


# ---- results -----------------------------------------------------------------------------------------------


def results_folder(root: Path) -> Path:
    """Where results are looked for: LOWPREC_RESULTS, which is relative to the root, or lowprec-results there."""
    return root / (os.environ.get("LOWPREC_RESULTS") or "lowprec-results")


def results(folder: Path, pages: Path) -> str:
    """Markdown of all results in a folder, each a section.

    Parameters
    ----------
    folder : Path
        With NAME.md and plots, as `lowprec.report.files.write_results` leaves them.
    pages : Path
        The folder of the page, which the plots' names are made relative to.
    """
    found = sorted(folder.glob("*.md"), key=lambda path: (not path.stem.startswith("speedups"), path.stem))
    if not found:
        return "\nThere were no results when these pages were built.\n"
    where = os.path.relpath(folder, pages)
    parts = []
    for path in found:
        # Its title becomes a section of the page; what is below it, whatever its level was, a section of that.
        text = re.sub(r"^#+ ", "### ", path.read_text(encoding="utf-8"), flags=re.M).replace("### ", "## ", 1)
        parts.append(re.sub(r"!\[([^]]*)\]\(([^)/]+)\)", rf"![\1]({where}/\2)", text))
    return "\n" + "\n".join(parts)


def _add_results(app: Any, docname: str, source: list[str]) -> None:
    if docname == "tables":
        source[0] += results(results_folder(Path(app.srcdir).parent), Path(app.srcdir))


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("lowprec-kernels", Kernels)
    app.add_directive("lowprec-codecs", Codecs)
    app.add_directive("lowprec-operations", Operations)
    app.add_directive("lowprec-commands", Commands)
    app.connect("source-read", _add_results)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
