"""lowprec.prefetch on a tree of files that stands for /proc and /dev: what is switched, what is put back, what is said."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

import lowprec
from lowprec import prefetch
from lowprec.prefetch import hardware_prefetcher, hardware_prefetcher_status

MSR = 0x1A4
# every CPU's bits are different, and bits that are not ours are set
FOUND = {0: 0xFFFF_0000_0000_0020, 1: 0x20 | 0b0101, 2: 0b1111, 3: 0}


class Machine:
    """The files that a machine with an Intel CPU has."""

    def __init__(self, root, found=FOUND, vendor="GenuineIntel", flags="fpu msr avx2"):
        self.root = root
        (root / "proc").mkdir()
        processor = f"vendor_id\t: {vendor}\ncpu family\t: 6\nflags\t\t: {flags}\n\n"
        (root / "proc/cpuinfo").write_text(processor * len(found))
        for cpu, value in found.items():
            self.path(cpu).parent.mkdir(parents=True)
            self.path(cpu).write_bytes(b"\xaa" * MSR + value.to_bytes(8, "little") + b"\xaa" * 8)

    def path(self, cpu):
        return self.root / f"dev/cpu/{cpu}/msr"

    def values(self):
        """Each CPU's register; that the bytes around it are as they were is checked here."""
        found = {}
        for name in sorted(os.listdir(self.root / "dev/cpu")):
            data = self.path(name).read_bytes()
            assert data[:MSR] == b"\xaa" * MSR
            assert data[MSR + 8 :] == b"\xaa" * 8
            found[int(name)] = int.from_bytes(data[MSR : MSR + 8], "little")
        return found

    def switch(self, enabled, cpus=tuple(FOUND)):
        return hardware_prefetcher(enabled, cpus, _root=self.root)

    def status(self, cpus=tuple(FOUND)):
        return hardware_prefetcher_status(cpus, _root=self.root)


def all_off(cpus=tuple(FOUND)):
    return {cpu: value | 0b1111 if cpu in cpus else value for cpu, value in FOUND.items()}


def all_on():
    return {cpu: value & ~0b1111 for cpu, value in FOUND.items()}


@pytest.fixture
def machine(tmp_path):
    yield Machine(tmp_path)
    assert not prefetch._blocks
    assert not prefetch._touched
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# ---- switching -----------------------------------------------------------------------------------------------------


def test_off_and_on_and_back(machine):
    with machine.switch(False):
        assert machine.values() == all_off()
    assert machine.values() == FOUND
    with machine.switch(True):
        assert machine.values() == all_on()
    assert machine.values() == FOUND


def test_only_the_cpus_that_are_named(machine):
    with machine.switch(False, cpus=[3, 1, 3]):
        assert machine.values() == all_off([1, 3])
    assert machine.values() == FOUND


def test_the_cpus_of_this_process_by_default(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2} if pid == 0 else None)
    with machine.switch(False, cpus=None):
        assert machine.values() == all_off([0, 2])
    assert machine.values() == FOUND
    assert list(machine.status(cpus=None).enabled) == [0, 2]


def test_logical_cpus_of_one_core_share_a_register(tmp_path):
    machine = Machine(tmp_path, {0: 0b0010, 1: 0})
    machine.path(1).unlink()
    os.link(machine.path(0), machine.path(1))
    with machine.switch(False, cpus=[0, 1]):
        assert machine.values() == {0: 0b1111, 1: 0b1111}
    assert machine.values() == {0: 0b0010, 1: 0b0010}


def test_other_bits_that_change_meanwhile_are_kept(machine):
    with machine.switch(False):
        data = bytearray(machine.path(3).read_bytes())
        data[MSR] |= 0x40
        machine.path(3).write_bytes(data)
    assert machine.values() == FOUND | {3: 0x40}


def test_nested(machine):
    with machine.switch(False):
        with machine.switch(True, cpus=[1]):
            assert machine.values() == all_off([0, 2, 3]) | {1: FOUND[1] & ~0b1111}
            with machine.switch(False):
                assert machine.values() == all_off()
            assert machine.values() == all_off([0, 2, 3]) | {1: FOUND[1] & ~0b1111}
        assert machine.values() == all_off()
    assert machine.values() == FOUND


def test_blocks_may_end_in_any_order(machine):
    first, second = machine.switch(False), machine.switch(True)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert machine.values() == all_on()
    second.__exit__(None, None, None)
    assert machine.values() == FOUND


def test_blocks_in_several_threads(machine):
    gate, errors = threading.Barrier(4), []

    def work(k):
        try:
            gate.wait()
            for i in range(50):
                with machine.switch(bool((i + k) % 2)):
                    assert {value & 0b1111 for value in machine.values().values()} <= {0, 0b1111}
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert machine.values() == FOUND


def test_what_is_already_so_is_not_written(machine, monkeypatch):
    written = []
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: written.append(at) or pwrite(fd, data, at))
    with machine.switch(False, cpus=[2]):
        pass
    assert written == []
    with machine.switch(True, cpus=[2, 3]):
        pass
    assert written == [MSR, MSR]


def test_as_a_decorator(machine):
    @machine.switch(False)
    def run():
        return machine.values()

    assert run() == all_off()
    assert machine.values() == FOUND
    assert run() == all_off()


# ---- putting back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_in_the_block(machine, error):
    with pytest.raises(error), machine.switch(False):
        raise error("in the block")
    assert machine.values() == FOUND


class Refusing:
    """os.pwrite that fails on one CPU: always, or from the k-th time on."""

    def __init__(self, monkeypatch, machine, cpu, error, first=0):
        self.calls, self.real = 0, os.pwrite
        inode = machine.path(cpu).stat().st_ino

        def pwrite(fd, data, at):
            if os.fstat(fd).st_ino == inode:
                self.calls += 1
                if self.calls > first and error is not None:
                    raise OSError(error, os.strerror(error)) if isinstance(error, int) else error
                if self.calls > first:
                    return 8  # a write that does nothing
            return self.real(fd, data, at)

        monkeypatch.setattr(os, "pwrite", pwrite)


@pytest.mark.parametrize("cpu", [0, 1, 3])
@pytest.mark.parametrize(
    ("error", "fragment"),
    [
        (errno.EIO, "Input/output error; this CPU does not have all four prefetchers, or no switch for them"),
        (errno.EPERM, "the kernel refuses to write"),
        (None, "the write had no effect; this CPU does not have"),
    ],
)
def test_a_cpu_that_refuses_the_write(machine, monkeypatch, cpu, error, fragment):
    Refusing(monkeypatch, machine, cpu, error)
    with pytest.raises(RuntimeError, match=re.escape(fragment)) as caught, machine.switch(False):
        pytest.fail("the block ran")
    assert str(machine.path(cpu)) in str(caught.value)
    assert machine.values() == FOUND


def test_a_virtual_machine_is_named(tmp_path, monkeypatch):
    machine = Machine(tmp_path, flags="fpu hypervisor avx2")
    Refusing(monkeypatch, machine, 1, None)
    with pytest.raises(RuntimeError, match="this is a virtual machine that does not pass the register on"), machine.switch(False):
        pytest.fail("the block ran")
    assert machine.values() == FOUND


def test_a_cpu_that_cannot_be_put_back(machine, monkeypatch):
    with monkeypatch.context() as patch:
        Refusing(patch, machine, 1, errno.EIO, first=1)
        with pytest.raises(RuntimeError, match="could not be put back") as caught, machine.switch(False):
            pass
        assert str(machine.path(1)) in str(caught.value)
        assert machine.values() == FOUND | {1: all_off()[1]}, "the other CPUs are put back"
    # whoever is next puts it back, with what was found at first; at the latest the end of the process
    with machine.switch(True, cpus=[0]):
        assert machine.values()[1] == all_off()[1]
    assert machine.values() == FOUND


def test_the_exception_in_the_block_is_not_lost(machine, monkeypatch):
    with monkeypatch.context() as patch:
        Refusing(patch, machine, 1, errno.EIO, first=1)
        with pytest.raises(RuntimeError, match="could not be put back") as caught, machine.switch(False):
            raise ZeroDivisionError
    error, seen = caught.value, []
    while error is not None:
        seen.append(type(error))
        error = error.__context__
    assert ZeroDivisionError in seen
    prefetch._restore()
    assert machine.values() == FOUND


def test_ctrl_c_at_any_line(machine):
    """An interrupt before every line that is executed in turn: all is put back, at once or at the end of the process."""
    source, late, lines = prefetch.__file__, 0, 0

    def run(at):
        count = 0

        def trace(frame, event, arg):
            nonlocal count
            if frame.f_code.co_filename != source:
                return None
            if event == "line":
                count += 1
                if count == at:
                    sys.settrace(None)
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            with machine.switch(False), machine.switch(True, cpus=[1]):
                pass
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False

    while run(lines + 1):
        lines += 1
        late += machine.values() != FOUND
        prefetch._restore()
        for number in prefetch._SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        assert machine.values() == FOUND, f"interrupted at line {lines}"
    assert machine.values() == FOUND
    assert lines > 100
    # Python has no place for the cleaning up itself to be safe from a signal: a few lines of it are left
    assert late <= 0.1 * lines, (late, lines)


def in_a_process(machine, code, **more):
    script = f"""
        import os, signal, sys, time
        from pathlib import Path
        from lowprec.prefetch import hardware_prefetcher
        root = Path({str(machine.root)!r})
        def switch():
            return hardware_prefetcher(False, [0, 1, 2, 3], _root=root)
    """
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script) + textwrap.dedent(code)],
        capture_output=True, text=True, timeout=120, env=environ, **more,
    )  # fmt: skip


STATE = "print((root / 'dev/cpu/3/msr').read_bytes()[0x1A4], flush=True)"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_that_end_the_process(machine, name):
    done = in_a_process(
        machine,
        f"""
        with switch():
            {STATE}
            os.kill(os.getpid(), signal.{name})
            time.sleep(60)
        """,
    )
    assert (done.returncode, done.stdout) == (-getattr(signal, name), "15\n"), done.stderr
    assert machine.values() == FOUND


def test_a_signal_that_the_program_handles_is_the_programs(machine):
    done = in_a_process(
        machine,
        f"""
        def mine(number, frame):
            print("mine", flush=True)
        signal.signal(signal.SIGTERM, mine)
        with switch():
            os.kill(os.getpid(), signal.SIGTERM)
            {STATE}
        assert signal.getsignal(signal.SIGTERM) is mine
        with switch():
            signal.signal(signal.SIGHUP, mine)
        assert signal.getsignal(signal.SIGHUP) is mine
        """,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["mine", "15"]), done.stderr
    assert machine.values() == FOUND


def test_the_end_of_the_process(machine):
    done = in_a_process(machine, f"block = switch(); block.__enter__(); {STATE}")
    assert (done.returncode, done.stdout) == (0, "15\n"), done.stderr
    assert machine.values() == FOUND


def test_a_forked_child_leaves_the_parents_block_alone(machine):
    done = in_a_process(
        machine,
        f"""
        with switch():
            child = os.fork()
            if child == 0:
                sys.exit(0)  # through the with and atexit
            assert os.waitpid(child, 0)[1] == 0
            {STATE}
            child = os.fork()
            if child == 0:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
            {STATE}
        {STATE}
        """,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["15", "15", "0"]), done.stderr
    assert machine.values() == FOUND


# ---- what is said where it cannot be done --------------------------------------------------------------------------


def refused(machine, **more):
    """The sentence, which the status gives too."""
    with pytest.raises(RuntimeError) as caught, machine.switch(False, **more):
        pytest.fail("the block ran")
    text = str(caught.value)
    assert text.startswith("hardware_prefetcher: ")
    assert "\n" not in text
    status = machine.status(**more)
    assert (status.switchable, status.enabled) == (False, None)
    assert text == f"hardware_prefetcher: {status.reason}"
    return text


@pytest.mark.parametrize("vendor", ["AuthenticAMD", "HygonGenuine"])
def test_another_vendor(tmp_path, vendor):
    assert f"the vendor of this one is {vendor};" in refused(Machine(tmp_path, vendor=vendor))


def test_no_vendor(tmp_path):
    machine = Machine(tmp_path)
    (tmp_path / "proc/cpuinfo").write_text("Processor : some other architecture\n")
    assert "the vendor of this one is not known;" in refused(machine)
    (tmp_path / "proc/cpuinfo").unlink()
    assert "the vendor of this one is not known;" in refused(machine)


def test_another_system(machine, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "needs Linux, for its /dev/cpu/N/msr; this is darwin" in refused(machine)


def test_no_module(machine):
    for cpu in FOUND:
        machine.path(cpu).unlink()
    assert f"there is no {machine.path(0)}; load the kernel's module for it, as root: modprobe msr" in refused(machine)
    for cpu in FOUND:
        machine.path(cpu).parent.rmdir()
    (machine.root / "dev/cpu").rmdir()
    assert "modprobe msr" in refused(machine)
    (machine.root / "dev/cpu").mkdir()


def test_no_such_cpu(machine):
    assert f"there is no {machine.path(7)}: this CPU does not exist or is offline; choose others" in refused(machine, cpus=[0, 7])
    assert machine.values() == FOUND


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_no_permission(machine, monkeypatch, number):
    def refuse(path, *args, **kwargs):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(prefetch, "open", refuse, raising=False)
    assert f"{machine.path(0)} may not be opened for writing; run as root, or with CAP_SYS_RAWIO" in refused(machine)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everything")
def test_no_permission_for_real(machine):
    machine.path(0).chmod(0o400)
    assert "may not be opened for writing" in refused(machine)


def test_a_register_that_cannot_be_read(machine):
    machine.path(1).write_bytes(b"short")
    assert f"register 0x1a4 of {machine.path(1)}: Input/output error; this CPU does not have" in refused(machine)
    assert machine.path(0).read_bytes()[MSR] == FOUND[0] & 0xFF
    machine.path(1).write_bytes(b"\xaa" * (MSR + 16))


@pytest.mark.parametrize(
    ("arguments", "error", "fragment"),
    [
        ((1,), TypeError, "enabled: expected True or False; got int 1"),
        ((False, 3), TypeError, "cpus: expected CPU numbers in a list"),
        ((False, "0-3"), TypeError, "cpus: expected CPU numbers in a list"),
        ((False, [0.0]), TypeError, "cpus: expected an integer; got float 0.0"),
        ((False, [-1]), ValueError, "cpus: must be at least 0; got -1"),
        ((False, []), ValueError, "cpus: must not be empty"),
    ],
)
def test_bad_arguments(machine, arguments, error, fragment):
    with pytest.raises(error, match=re.escape(fragment)), hardware_prefetcher(*arguments, _root=machine.root):
        pytest.fail("the block ran")
    assert machine.values() == FOUND


# ---- the status ----------------------------------------------------------------------------------------------------


def test_status(machine):
    status = machine.status()
    assert status.switchable
    assert "virtual machine" not in status.reason
    assert status.enabled == {0: True, 1: None, 2: False, 3: True}
    with machine.switch(False):
        assert set(machine.status().enabled.values()) == {False}
    assert machine.values() == FOUND


def test_status_of_a_virtual_machine(tmp_path):
    status = Machine(tmp_path, flags="fpu hypervisor").status()
    assert status.switchable
    assert "virtual machine" in status.reason


def test_status_of_this_machine():
    status = hardware_prefetcher_status()
    assert status.switchable == (status.enabled is not None)
    assert status.reason
    if status.enabled is not None:
        assert set(status.enabled) == os.sched_getaffinity(0)


def test_it_is_no_everyday_name():
    assert "prefetch" not in lowprec.__all__
    assert Path(prefetch.__file__).parent == Path(lowprec.__file__).parent
