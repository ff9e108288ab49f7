"""Print the last saved run of `make bench` beside the one before it.

    python benchmarks/compare.py .benchmarks
"""

import json
import math
import sys
from pathlib import Path

NOISE = 0.10  # see README.md: a ratio within it says nothing


def load(path):
    """{benchmark: (median seconds, quartile spread / median, numbers)} and the saved run."""
    run = json.loads(path.read_text())
    found = {}
    for b in run["benchmarks"]:
        s = b["stats"]
        found[b["name"].removeprefix("test_")] = (s["median"], s["iqr"] / s["median"], b["extra_info"].get("numbers"))
    return found, run


def machine(run):
    """What must agree for two runs to be comparable."""
    info = run["machine_info"]
    return info["cpu"].get("brand_raw", info["processor"]), info["cpu"].get("count")


def title(run):
    """The commit and time of a run."""
    commit = run["commit_info"]
    return f"{(commit.get('id') or 'no commit')[:8]}{' + changes' if commit.get('dirty') else ''}, {run['datetime'][:19]}"


def main(folder):
    saved = sorted(Path(folder).rglob("*.json"), key=lambda p: p.stat().st_mtime)
    if not saved:
        sys.exit(f"no saved run in {folder}: run `make bench` first")
    new, new_run = load(saved[-1])
    old, old_run = load(saved[-2]) if len(saved) > 1 else ({}, None)
    if old_run and machine(old_run) != machine(new_run):
        print(f"the run before was on another machine ({machine(old_run)[0]}): not compared\n")
        old, old_run = {}, None
    print(f"this run: {title(new_run)}")
    print(f"before:   {title(old_run) if old_run else 'none; the next run will be compared with this one'}\n")
    print(f"{'benchmark':32} {'GNPS':>8} {'spread':>7} {'before':>8} {'ratio':>6}")
    logs = []
    for name, (seconds, spread, numbers) in new.items():
        rate = numbers / seconds / 1e9
        line = f"{name:32} {rate:8.2f} {spread:7.1%}"
        if name in old:
            before, spread_before, numbers_before = old[name]
            ratio = rate / (numbers_before / before / 1e9)
            logs.append(math.log(ratio))
            sure = abs(math.log(ratio)) > max(math.log1p(NOISE), spread, spread_before)
            mark = "" if not sure else "  faster" if ratio > 1 else "  SLOWER"
            line += f" {numbers_before / before / 1e9:8.2f} {ratio:6.2f}{mark}"
        print(line)
    if logs:
        print(f"\ngeometric mean of {len(logs)} ratios (above 1 is faster): {math.exp(sum(logs) / len(logs)):.3f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ".benchmarks")
