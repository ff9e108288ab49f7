"""What this build and this machine can do: the kernel matrix, the instruction set in use, threads."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Mapping
from pathlib import Path

from . import _sgd, checks
from . import kernels as _core
from .formats import Format

__all__ = ["cpu_features", "effective_n_threads", "isa", "kernels", "openmp_enabled"]


def isa() -> str:
    """Name of the instruction set in use: the best that runs here, or the one that ``LOWPREC_ISA`` names."""
    return _core._active_isa()


def cpu_features() -> dict[str, bool]:
    """The instruction sets that dispatch knows beyond the portable one, and whether this CPU runs each."""
    return dict(_core._cpu_features())


def kernels(
    op: str | None = None,
    D: Format | str | int | None = None,
    M: Format | str | int | None = None,
    *,
    rounding: str | None = None,
    isa: str | None = None,
    index: Format | str | int | None = None,
    C: Format | str | int | None = None,
) -> list:
    """Rows of the kernel matrix.

    Parameters
    ----------
    op : {"dot", "axpy", "axpy_dot", "sdot", "saxpy", "encode", "encode_feedback", "decode", "decode_add"}, optional
        Only this operation; "sdot" and "saxpy" are those of sparse data, the last four those of codecs.
    D, M : Format, str or int, optional
        Only this format of data, of model.
    rounding : {"nearest", "sr", "srx", "srb"}, optional
        Only this rounding.
    isa : str, optional
        Only this instruction set; by default all that are built in, those that this machine cannot run
        included.
    index : {"8", "16", "32"}, optional
        Only kernels of sparse data with an index of so many bits.
    C : {"1", "2", "4", "8", "16", "16f", "32f"}, optional
        Only kernels of this codec.

    Returns
    -------
    list of Kernel
        Callables with the attributes ``name``, ``op``, ``D``, ``M``, ``rounding``, ``isa``, ``index``, ``C`` and ``runnable``;
        those that a kernel does not have are None.

    Examples
    --------
    >>> import lowprec as lp
    >>> [k.name for k in lp.kernels("axpy", D="8", M="8", isa=lp.isa())]
    ['axpy_8_8', 'axpy_8_8_sr', 'axpy_8_8_srx', 'axpy_8_8_srb']
    """
    names = [name for name, _ in _core._isas()]
    rows = [row for name in names for row in _core._table(name) + _core._codecs(name)]
    # Every filter is checked against the table, so that a misspelled one is an error and not an empty list.
    filters = {"index": index, "C": C, "D": D, "M": M, "op": op, "rounding": rounding, "isa": isa}
    for field, value in filters.items():
        if value is None:
            continue
        if isinstance(value, (Format, int)) and not isinstance(value, bool) and field in ("D", "M", "index", "C"):
            value = str(value)
        options = dict.fromkeys(getattr(row, field) for row in rows)
        checks.check_choice(field, value, tuple(option for option in options if option is not None))
        rows = [row for row in rows if getattr(row, field) == value]
    return rows


class _CallableModule(types.ModuleType):
    """The type of ``lowprec.kernels``.

    ``lowprec.kernels`` is a module (``from lowprec.kernels import dot_8_8``) and ``lowprec.kernels()`` lists
    its rows. One attribute cannot hold both a module and a function, and importing the module sets that
    attribute, so the module is made callable.
    """

    def __call__(
        self,
        op: str | None = None,
        D: Format | str | int | None = None,
        M: Format | str | int | None = None,
        *,
        rounding: str | None = None,
        isa: str | None = None,
        index: Format | str | int | None = None,
        C: Format | str | int | None = None,
    ) -> list:
        return kernels(op, D, M, rounding=rounding, isa=isa, index=index, C=C)


_CallableModule.__call__.__doc__ = kernels.__doc__
sys.modules[_core.__name__].__class__ = _CallableModule


# ---- threads -----------------------------------------------------------------------------------------------


# The process that may have started OpenMP workers. They do not live on in a forked child, where GNU OpenMP
# would wait for them for ever.
_team_pid: int | None = None


def openmp_enabled() -> bool:
    """Whether the training loop was built with OpenMP; without it every run has one thread."""
    return bool(_sgd.openmp_enabled())


def _available_cpus(bound: bool = False) -> int:
    """CPUs that this process may use: its affinity, and the quota of its control group, rounded up.

    Where the OpenMP runtime has bound this thread to a CPU of its own (`bound`), the affinity says nothing of the process.
    """
    try:
        count = len(os.sched_getaffinity(0)) if not bound else os.cpu_count() or 1
    except (AttributeError, OSError):
        count = os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, count if quota is None else min(count, quota))


def binds_threads(environ: Mapping[str, str]) -> bool:
    """Whether OpenMP binds threads to CPUs, the first one as soon as the runtime is loaded."""
    bind = environ.get("OMP_PROC_BIND", "").strip().lower()
    return bind != "false" and any((bind, environ.get("OMP_PLACES"), environ.get("GOMP_CPU_AFFINITY")))


def _cgroup_quota(path: str | os.PathLike = "/sys/fs/cgroup/cpu.max") -> int | None:
    """CPUs that a container's quota (cgroup v2) comes to, at least 1; None without one."""
    try:
        quota, period = Path(path).read_text().split()
        return max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max": not limited
        return None


def effective_n_threads(n_threads: int | None = None, *, environ: Mapping[str, str] = os.environ) -> int:
    """How many threads a run with this `n_threads` gets.

    Parameters
    ----------
    n_threads : int, optional
        At least 1: exactly so many. None: as many as this process may use, which is

        - what the OpenMP runtime would use, so that ``OMP_NUM_THREADS`` and a surrounding
          ``threadpoolctl.threadpool_limits`` are honored;
        - and, unless ``OMP_NUM_THREADS`` is set, no more than the CPUs of the process's affinity and of its
          control group.
    environ : mapping
        Where to look for ``OMP_NUM_THREADS``.

    Returns
    -------
    int
        Always 1 where the package was built without OpenMP (see `openmp_enabled`), and in a forked child of a
        process that has been given more than 1 before.
    """
    global _team_pid
    n_threads = checks.check_n_threads(n_threads)
    if not openmp_enabled():
        return 1
    if n_threads is None:
        # Asked of the runtime and not of threadpoolctl: it has the variable as it was when it was loaded, and
        # any limit set since.
        n_threads = max(1, _sgd.max_threads())
        if not environ.get("OMP_NUM_THREADS"):
            n_threads = min(n_threads, _available_cpus(binds_threads(environ)))
    if n_threads > 1:
        if _team_pid not in (None, os.getpid()):
            return 1
        _team_pid = os.getpid()
    return n_threads
