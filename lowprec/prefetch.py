"""The hardware prefetchers of Intel CPUs, off or on for the length of a block.

Prefetchers guess which memory is read next. Where several threads write one small model, the guesses fetch lines of it that
another core is about to change, and cost more than they bring: De Sa et al., ISCA 2017, section 5.3. All four prefetchers are
switched together there, and so they are here. Speed depends on it; what is learned does not.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from . import checks

__all__ = ["HardwarePrefetcherStatus", "hardware_prefetcher", "hardware_prefetcher_status"]

# MSR_MISC_FEATURE_CONTROL, bits 0 to 3: L2 hardware prefetcher, L2 adjacent cache line prefetcher, DCU (first-level data cache)
# prefetcher, DCU IP prefetcher. A set bit switches one off. The other bits are not ours and stay as they are.
_MSR, _BITS = 0x1A4, 0b1111

_ROOT = Path("/")
# What ends a process without unwinding it, unless somebody catches it.
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


# ---- one CPU's register ------------------------------------------------------------------------------------


class _Register:
    """The register of one CPU, held open: putting things back must not fail for want of a file descriptor or a privilege."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "r+b", buffering=0)  # noqa: SIM115 (it stays open)
        try:
            self.found = self.value() & _BITS
        except OSError:
            self.file.close()
            raise

    def value(self) -> int:
        data = os.pread(self.file.fileno(), 8, _MSR)
        if len(data) != 8:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return int.from_bytes(data, "little")

    def put(self, bits: int) -> None:
        """Set the four bits, and see that they are set."""
        old = self.value()
        if old & _BITS == bits:
            return  # the kernel logs every write
        os.pwrite(self.file.fileno(), (old & ~_BITS | bits).to_bytes(8, "little"), _MSR)
        if self.value() & _BITS != bits:
            raise OSError(errno.EIO, "the write had no effect")


def _cpuinfo(root: Path) -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is none."""
    try:
        first, _, _ = (root / "proc/cpuinfo").read_text().partition("\n\n")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _refuse(reason: str, cause: OSError | None = None) -> NoReturn:
    raise RuntimeError(f"hardware_prefetcher: {reason}") from cause


def _refuse_register(path: Path, root: Path, error: OSError, *, opened: bool) -> NoReturn:
    """Say why a CPU's register cannot be opened, read or written."""
    if error.errno == errno.ENOENT and not any((root / "dev/cpu").glob("*/msr")):
        _refuse(f"there is no {path}; load the kernel's module for it, as root: modprobe msr", error)
    if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        _refuse(f"there is no {path}: this CPU does not exist or is offline; choose others with cpus=[...]", error)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and not opened:
        _refuse(f"{path} may not be opened for writing; run as root, or with CAP_SYS_RAWIO and write permission on it", error)
    if error.errno in (errno.EACCES, errno.EPERM):
        _refuse(
            f"the kernel refuses to write {path}; it is locked down (as with Secure Boot) or its module msr was loaded "
            f"without allow_writes=on",
            error,
        )
    what = f"register {_MSR:#x} of {path}: {error.strerror or error}"
    if "hypervisor" in _cpuinfo(root).get("flags", "").split():
        _refuse(f"{what}; this is a virtual machine that does not pass the register on: switch on its host", error)
    _refuse(f"{what}; this CPU does not have all four prefetchers, or no switch for them", error)


def _check_machine(root: Path) -> None:
    if not sys.platform.startswith("linux"):
        _refuse(f"needs Linux, for its /dev/cpu/N/msr; this is {sys.platform}")
    vendor = _cpuinfo(root).get("vendor_id")
    if vendor != "GenuineIntel":
        _refuse(
            f"only Intel's CPUs have this switch, and the vendor of this one is {vendor or 'not known'}; "
            f"the machine's firmware setup may have another"
        )


def _check_cpus(cpus: Any) -> tuple[int, ...]:
    if cpus is None:
        return tuple(sorted(os.sched_getaffinity(0)))
    if isinstance(cpus, (str, bytes)) or not isinstance(cpus, Iterable):
        raise checks.wrong_type("cpus", "CPU numbers in a list, or None for those that this process may use", cpus)
    numbers = {checks.check_int("cpus", cpu, minimum=0) for cpu in cpus}
    if not numbers:
        raise ValueError("cpus: must not be empty; pass None for the CPUs that this process may use")
    return tuple(sorted(numbers))


def _path(cpu: int, root: Path) -> Path:
    return root / f"dev/cpu/{cpu}/msr"


def _open(path: Path, root: Path) -> _Register:
    try:
        return _Register(path)
    except OSError as error:
        _refuse_register(path, root, error, opened=error.filename is None)  # a failed open names its file, a failed read does not


# ---- the blocks that are being executed --------------------------------------------------------------------


class _Block(NamedTuple):
    owner: object  # tells blocks apart that want the same
    paths: list[Path]
    bits: int


_lock = threading.RLock()  # reentrant: a signal's handler may come in between
_blocks: list[_Block] = []  # the oldest first
_touched: dict[Path, _Register] = {}  # registers that may not be as they were found


def _settle() -> None:
    """Give every register what the newest block that names it wants, or, where none does, what was found there.

    Blocks need not end in the reverse of the order in which they began: those of several threads do not.
    """
    failed = None
    for path, register in list(_touched.items()):
        wanted = next((block.bits for block in reversed(_blocks) if path in block.paths), None)
        try:
            register.put(register.found if wanted is None else wanted)
        except OSError as error:
            failed = failed or (path, error)  # the others first
            continue
        if wanted is None:
            del _touched[path]
            register.file.close()
    if not _touched:
        _exchange_handlers(_on_signal, signal.SIG_DFL)
    if failed is not None:
        path, cause = failed
        raise RuntimeError(
            f"hardware_prefetcher: {path} could not be put back ({cause.strerror or cause}); it is tried again when this process "
            f"ends, and a restart of the machine resets it"
        ) from cause


def _end(block: _Block) -> None:
    with _lock:
        if block in _blocks:
            _blocks.remove(block)
        try:
            _settle()
        except BaseException:  # Ctrl-C in the middle: the rest, then
            _settle()
            raise


@atexit.register
def _restore() -> None:
    """Put everything back, whoever still wants something else."""
    with _lock:
        _blocks.clear()
        _settle()


def _exchange_handlers(old: Any, new: Any) -> None:
    """Handle SIGTERM and SIGHUP, or no longer; not where the program has a handler of its own, and only from the main thread."""
    for number in _SIGNALS:
        if signal.getsignal(number) is old:
            with contextlib.suppress(ValueError):  # another thread; a handler that stays, with nothing to put back, does no harm
                signal.signal(number, new)


def _on_signal(number: int, frame: Any) -> None:
    try:
        _restore()
    finally:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _forget() -> None:
    """In a forked child: the blocks are the parent's, who puts things back."""
    global _lock
    _lock = threading.RLock()
    _blocks.clear()
    _touched.clear()


os.register_at_fork(after_in_child=_forget)


# ---- the switch --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def hardware_prefetcher(enabled: bool, cpus: Iterable[int] | None = None, *, _root: Path = _ROOT) -> Iterator[None]:
    """Switch the hardware prefetchers of Intel CPUs off or on for the length of a ``with`` block.

    Parameters
    ----------
    enabled : bool
        Whether the four prefetchers shall be on (all of them) or off (all of them).
    cpus : iterable of int, optional
        Numbers of logical CPUs. None: those that this process may run on.

    Raises
    ------
    RuntimeError
        Where the machine does not allow it: not Linux on an Intel CPU, the kernel's module ``msr`` not loaded, no permission (it
        takes root or CAP_SYS_RAWIO), or a virtual machine that ignores or refuses the write, which is checked by reading back.
        The sentence says which, and what to do. Nothing has been changed then.
    TypeError, ValueError
        If an argument is of the wrong kind or out of range.

    See Also
    --------
    hardware_prefetcher_status : whether it would work, without trying.

    Notes
    -----
    The switch acts on whole cores: on all that runs on them, and on the other logical CPUs of the same core.

    What was found is put back when the block ends, however it ends. Blocks may be nested, and may overlap in several threads if
    they name the same CPUs: the newest has its way. At the end of the process, and on SIGTERM and SIGHUP where the program does
    not handle these itself, whatever is still switched is put back too. A process that is killed (SIGKILL) puts nothing back;
    ``wrmsr -a 0x1a4 0`` (of msr-tools) or a restart then does.

    The register is MSR 0x1A4, bits 0 to 3, after Intel's *Disclosure of Hardware Prefetcher Control on Some Intel Processors*
    (2014), which is for Nehalem to Broadwell. The Core and Xeon CPUs that followed have kept these bits, the hybrid ones
    included. Atom cores up to Tremont and Xeon Phi have only two of the four or other bits: they are refused, as their register
    refuses the write. Further prefetchers that newer CPUs have are left alone. The Linux kernel logs writes to this register, and
    marks itself as tainted.

    Examples
    --------
    >>> import lowprec as lp
    >>> from lowprec.prefetch import hardware_prefetcher
    >>> with hardware_prefetcher(False):  # doctest: +SKIP
    ...     r = lp.train(X, y, signature="D8M8", step_size=0.01)
    """
    bits = 0 if checks.check_bool("enabled", enabled) else _BITS
    _check_machine(_root)
    paths = [_path(cpu, _root) for cpu in _check_cpus(cpus)]
    block = _Block(object(), paths, bits)
    try:
        with _lock:
            # All are read before one is written: the logical CPUs of a core share a register.
            for path in paths:
                if path not in _touched:
                    _touched[path] = _open(path, _root)
            _blocks.append(block)
            _exchange_handlers(signal.SIG_DFL, _on_signal)
            for path in paths:
                try:
                    _touched[path].put(bits)
                except OSError as error:
                    _refuse_register(path, _root, error, opened=True)
        yield
    finally:
        _end(block)


@dataclass(frozen=True)
class HardwarePrefetcherStatus:
    """What can be told about the hardware prefetchers without switching them.

    Attributes
    ----------
    switchable : bool
        Whether `hardware_prefetcher` finds everything that it needs. Whether a write takes effect is only seen by writing.
    reason : str
        Why not, and what to do; or a remark.
    enabled : dict of int to bool or None, or None
        For each CPU: True if its four prefetchers are on, False if they are off, None if some are. None as a whole where that
        cannot be read.
    """

    switchable: bool
    reason: str
    enabled: dict[int, bool | None] | None


def hardware_prefetcher_status(cpus: Iterable[int] | None = None, *, _root: Path = _ROOT) -> HardwarePrefetcherStatus:
    """Whether the hardware prefetchers can be switched here, and whether they are on.

    Parameters
    ----------
    cpus : iterable of int, optional
        Numbers of logical CPUs. None: those that this process may run on.

    Returns
    -------
    HardwarePrefetcherStatus

    Raises
    ------
    TypeError, ValueError
        If `cpus` is of the wrong kind or empty, or a number is negative. What the machine does not allow is in the status.

    Examples
    --------
    >>> from lowprec.prefetch import hardware_prefetcher_status
    >>> hardware_prefetcher_status().switchable  # doctest: +SKIP
    True
    """
    enabled: dict[int, bool | None] = {}
    try:
        _check_machine(_root)
        for cpu in _check_cpus(cpus):
            register = _open(_path(cpu, _root), _root)
            register.file.close()
            enabled[cpu] = {0: True, _BITS: False}.get(register.found)
    except RuntimeError as error:
        return HardwarePrefetcherStatus(False, str(error).removeprefix("hardware_prefetcher: "), None)
    remark = "lowprec.prefetch.hardware_prefetcher switches them"
    if "hypervisor" in _cpuinfo(_root).get("flags", "").split():
        remark += ", if this virtual machine lets it"
    return HardwarePrefetcherStatus(True, remark, enabled)
