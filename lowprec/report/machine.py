"""What this machine is: the block that stands in every result, so that no figure is without its machine."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["baseline", "caches", "huge_pages", "machine_block", "missing_flags", "usable_cpus"]

_CPU0 = Path("/sys/devices/system/cpu/cpu0")

#: What the ISAs beyond base need, in the words of /proc/cpuinfo.
ISA_FLAGS = {"avx2": ("avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "popcnt")}


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is none."""
    found: dict[str, str] = {}
    for line in (_text(Path("/proc/cpuinfo")) or "").splitlines():
        if not line.strip() and found:
            break
        key, _, value = line.partition(":")
        found[key.strip()] = value.strip()
    return found


def _bytes(size: str | None) -> int | None:
    """``"32K"`` as a number of bytes, as the kernel writes cache sizes."""
    if not size:
        return None
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    try:
        return int(size[:-1]) * units[size[-1]] if size[-1] in units else int(size)
    except ValueError:
        return None


def caches() -> dict[str, int]:
    """Sizes in bytes of the data caches that one core sees: ``{"L1d": 32768, "L2": ..., "L3": ...}``."""
    found: dict[str, int] = {}
    for index in sorted((_CPU0 / "cache").glob("index*")):
        level, kind, size = (_text(index / name) for name in ("level", "type", "size"))
        n_bytes = _bytes(size)
        if level and n_bytes and kind in ("Data", "Unified"):
            found[f"L{level}{'d' if kind == 'Data' else ''}"] = n_bytes
    return found


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def usable_cpus() -> int:
    """How many CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def huge_pages() -> str | None:
    """The kernel's mode for transparent huge pages: ``always``, ``madvise`` or ``never``; None if unknown."""
    text = _text(Path("/sys/kernel/mm/transparent_hugepage/enabled")) or ""
    chosen = [word[1:-1] for word in text.split() if word.startswith("[")]
    return chosen[0] if chosen else None


def missing_flags(isa: str) -> list[str]:
    """CPU flags that `isa` needs and this CPU lacks: why an ISA that was built in cannot run here."""
    flags = _cpuinfo().get("flags")
    return [] if flags is None else [name for name in ISA_FLAGS.get(isa, ()) if name not in flags.split()]


@functools.cache
def baseline() -> Any | None:
    """The compiled module of plain C loops, or None where this CPU lacks what they were compiled for."""
    from lowprec.report import _baseline

    flags = _cpuinfo().get("flags")
    needed = [flag[2:] for flag in _baseline.FLAGS.split() if flag.startswith("-m")]
    return _baseline if flags is None or all(name in flags.split() for name in needed) else None


def machine_block() -> dict[str, Any]:
    """Describe this machine and this software; what cannot be found out is None.

    Returns
    -------
    dict
        The fields of the machine block in docs/results-schema.md, in the order in which they are shown.
    """
    import lowprec
    from lowprec import kernels, runtime

    cpu = _cpuinfo()
    plain = baseline()
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "cpu_family": cpu.get("cpu family"),
        "cpu_model": cpu.get("model"),
        "architecture": platform.machine(),
        "cpus": os.cpu_count(),
        "cpus_usable": usable_cpus(),
        "governor": _text(_CPU0 / "cpufreq" / "scaling_governor"),
        "caches": caches(),
        "memory_bytes": _memory_bytes(),
        "huge_pages": huge_pages(),
        "isa": runtime.isa(),
        "isas_built": [name for name, _ in kernels._isas()],
        "isas_runnable": [name for name, runnable in kernels._isas() if runnable],
        "openmp": runtime.openmp_enabled(),
        "compiler": plain.COMPILER if plain else None,
        "baseline_flags": plain.FLAGS if plain else None,
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "lowprec": lowprec.__version__,
    }
