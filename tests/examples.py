"""The Python blocks of Markdown pages, and how they are run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def blocks(page: Path) -> list[str]:
    """Its blocks of Python in their order; none where the page is missing."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M) if page.exists() else []


def run(code: str, folder: Path) -> str:
    """What the code prints, from a process of its own; nothing may be wrong, nor warned about, nor less accurate than 0.9."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for accuracy in re.findall(r"accuracy (\d\.\d+)", done.stdout):
        assert float(accuracy) > 0.9, done.stdout
    return done.stdout
