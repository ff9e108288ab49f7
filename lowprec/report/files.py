"""The files that a measuring command leaves: NAME.json, NAME.csv, NAME.md and plots, and nothing else; and what heads them."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowprec.report.machine import machine_block
from lowprec.report.tables import Table, to_markdown

__all__ = ["SCHEMA", "header", "plain", "prepare_out", "to_json", "write_results", "write_whole"]

#: Number of the layout described in docs/results-schema.md.
SCHEMA = 1


def header(command: str, options: Mapping[str, Any], seconds: float = 0.0) -> dict[str, Any]:
    """What stands before the rows of every command's results: which command, when, how, and on which machine."""
    return {
        "schema": SCHEMA,
        "command": command,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": seconds,
        "options": {key: _lists(value) for key, value in options.items()},
        "machine": machine_block(),
    }


def _lists(value: Any) -> Any:
    """A value with lists for tuples, as it comes back from JSON."""
    return [_lists(item) for item in value] if isinstance(value, (tuple, list)) else value


def prepare_out(out: str | Path) -> Path:
    """Make the folder that results go to: a bad name is an error before the measuring and not after it."""
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise ValueError(f"out: must be a folder; {path} is a file")
    path.mkdir(parents=True, exist_ok=True)
    return path


def plain(value: Any) -> Any:
    """A value as JSON has it: four decimals more than a timing deserves, and no NaN."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def to_json(results: dict[str, Any]) -> str:
    """Results as JSON text, one row of the list a line."""
    head = {key: plain(value) for key, value in results.items() if key != "rows"}
    text = json.dumps(head, indent=1, ensure_ascii=False)
    rows = ",\n".join("  " + json.dumps(plain(row), ensure_ascii=False) for row in results["rows"])
    return f'{text[:-2]},\n "rows": [\n{rows}\n ]\n}}\n'


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as CSV; a field without a value is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if value is None else plain(value) for key, value in row.items()})
    return out.getvalue()


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all: what it held before may be hours of measuring."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def write_results(
    out: Path, name: str, results: dict[str, Any], tables: Sequence[Table], figures: dict[str, Any]
) -> list[Path]:
    """Write one command's results.

    Parameters
    ----------
    out : Path
        An existing folder.
    name : str
        The command, and the files' stem.
    results : dict
        With ``rows``, a list of dicts that all have the same keys.
    tables : sequence of Table
        For the Markdown file.
    figures : dict of str to matplotlib Figure
        By file name without the ending.

    Returns
    -------
    list of Path
        What was written.
    """
    machine = results["machine"]
    about = ", ".join(str(machine[key]) for key in ("cpu", "os") if machine.get(key))
    plots = "\n".join(f"![{stem}]({stem}.png)\n" for stem in figures)
    markdown = f"# lowprec {results['command']}\n\n{about}, lowprec {machine['lowprec']}.\n\n"
    markdown += "\n".join(to_markdown(table) for table in tables) + ("\n" + plots if plots else "")
    written = []
    for ending, text in (
        ("json", to_json(results)),
        ("csv", to_csv(results["rows"])),
        ("md", markdown),
    ):
        path = out / f"{name}.{ending}"
        write_whole(path, text)
        written.append(path)
    for stem, figure in figures.items():
        path = out / f"{stem}.png"
        figure.savefig(path, dpi=120)
        written.append(path)
    return written
