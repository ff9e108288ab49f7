"""Measure the milestones of the history with asv, and publish all results as pages that need no other server.

    python benchmarks/dashboard.py                       # what `make dashboard` does
    python benchmarks/dashboard.py --no-measure          # only the results that are there (`make dashboard MEASURE=no`)
    python benchmarks/dashboard.py --machine zen4-2core  # measure under the name of the results under version control

Beside asv's own pages there is a table, steps.html: what each milestone brought, and the ladder of optimizations.
"""

import argparse
import html
import itertools
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MILESTONES = HERE / "milestones.txt"
NOISE = 0.10  # see README.md: a ratio within it says nothing
MOST = 5  # changes that are listed for one milestone

# What is measured of every milestone: what an optimization could change, about a minute for each.
MEASURED = [
    r"^training\.\w+\.track_g",
    r"^training\.Train\.track_loss\(.*\b256\)",
    r"^quantizing\..*track_gnps",
    r"^kernels\.Kernels\.track_gnps\('(dot|axpy|axpy_dot)_(8_8|4_4|16_16|32f_32f)(_sr)?', 'avx2', 'L1'\)",
]

LADDER = "training.Ladder.track_gnps"
# Two threads that write one model may be half as fast in one run as in the next, as README.md shows.
UNSTEADY = {"training.Threads.track_gnps": 1.0}

# What no milestone changes: if it moves between two of them, the machine was not the same.
CONTROLS = [
    ("training.Probe.track_gops", ()),
    ("training.Roof.track_gigabytes_per_second", ("'L2'",)),
    ("training.Roof.track_gigabytes_per_second", ("'DRAM'",)),
    (LADDER, ("'compiler'",)),
]

STYLE = """
body { font: 15px/1.5 sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em }
table { border-collapse: collapse }
td, th { border-bottom: 1px solid #ccc; padding: .3em .7em; text-align: left; vertical-align: top }
td:nth-child(3) { min-width: 30em }
td.number, th.number { text-align: right; white-space: nowrap; min-width: 0 }
code { font-size: 90% } .more { color: #060 } .less { color: #a00 } .noise { color: #777 }
"""


def git(*arguments):
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def milestones():
    """[(full hash, what it brought)] of milestones.txt, in the order of the history."""
    lines = [line.strip() for line in MILESTONES.read_text().splitlines()]
    found = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    in_order = {commit: i for i, commit in enumerate(reversed(git("rev-list", "--topo-order", "HEAD").splitlines()))}
    result = []
    for short, text in found:
        commit = next((c for c in in_order if c.startswith(short)), None)
        if commit is None:
            sys.exit(f"{MILESTONES.name}: {short} is not in the history of this checkout")
        result.append((commit, text))
    return sorted(result, key=lambda item: in_order[item[0]])


def asv(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "asv", *arguments], cwd=ROOT, **options).returncode


def measure(name):
    """Measure what is missing of this machine's results. asv builds each commit in an environment of its own."""
    from asv.machine import Machine, MachineCollection

    about = Machine.get_defaults()
    name = name or about["machine"]
    kept = HERE / "results" / name / "machine.json"
    if kept.exists():
        about = {key: value for key, value in json.loads(kept.read_text()).items() if key in about}
    MachineCollection.save(name, about | {"machine": name})  # otherwise asv would ask
    hashes = "\n".join(commit for commit, _ in milestones())
    benches = [word for regex in MEASURED for word in ("--bench", regex)]
    code = asv("run", "HASHFILE:-", "--skip-existing-successful", "--machine", name, *benches, input=hashes, text=True)
    if code == 2:
        print("warning: some benchmarks failed; a later call measures them again", file=sys.stderr)
    elif code:
        sys.exit(f"asv run: exit status {code}")


def discover(conf):
    """Write what the suites contain, as they are in this working tree, where publishing looks for it."""
    from asv.benchmarks import Benchmarks
    from asv.environment import get_environments
    from asv.repo import NoRepository

    here = list(get_environments(conf, [f"existing:{sys.executable}"]))
    benchmarks = Benchmarks.discover(conf, NoRepository(), here, [None])
    benchmarks.save()
    return benchmarks


def publish(target):
    """Make the pages in a folder; every commit that has results must be in the history."""
    from asv.config import Config

    if git("rev-parse", "--is-shallow-repository") == "true":
        sys.exit("this clone lacks the history that the pages show: run `git fetch --unshallow` first")
    conf = Config.load(str(ROOT / "asv.conf.json"))
    conf.results_dir = str(ROOT / conf.results_dir)
    conf.benchmark_dir = str(ROOT / conf.benchmark_dir)
    benchmarks = discover(conf)
    if asv("publish", "--no-pull", "--html-dir", str(target)):
        sys.exit("asv publish failed")
    leave_out_empty(target)
    index = target / "index.html"
    page = bring_home(index.read_text(), target / "www")
    page = page.replace('<li id="nav-li-regressions">', '<li><a href="steps.html">Steps</a></li>\n\t<li id="nav-li-regressions">')
    index.write_text(page)
    (target / "steps.html").write_text(steps(conf, benchmarks))


def leave_out_empty(target):
    """Take the benchmarks that nothing was measured of out of asv's index: they would be empty frames."""
    index = json.loads((target / "index.json").read_text())
    summaries = {path.stem: json.loads(path.read_text()) for path in (target / "graphs" / "summary").glob("*.json")}
    measured = {name for name, points in summaries.items() if any(value is not None for _, value in points)}
    index["benchmarks"] = {name: about for name, about in index["benchmarks"].items() if name in measured}
    (target / "index.json").write_text(json.dumps(index))


def bring_home(page, www):
    """The page with the scripts and styles of other servers replaced by our copies of them."""
    www.mkdir(exist_ok=True)

    def local(tag):
        kind, name = tag[1], tag[2]
        copy = next((HERE / "www" / n for n in (name, name.replace(".min.", ".")) if (HERE / "www" / n).exists()), None)
        if copy is None:
            print(f"warning: no copy of {name} in benchmarks/www; the page loads it from the net", file=sys.stderr)
            return tag[0]
        shutil.copy(copy, www)
        return f'<script src="www/{copy.name}">' if kind == "script" else f'<link rel="stylesheet" href="www/{copy.name}">'

    return re.sub(r'<(script|link)\b[^>]*\b(?:src|href)="https://[^"]*/([^"/]+)"[^>]*>', local, page)


# ---- the table of steps ------------------------------------------------------------------------------------------------


def series(conf, benchmarks):
    """{(machine, environment): {commit: {(benchmark, parameters): value}}} of the tracked speeds."""
    from asv.results import iter_results

    found = {}
    for result in iter_results(conf.results_dir):
        of_commit = found.setdefault((result.params["machine"], result.params["python"]), {}).setdefault(result.commit_hash, {})
        for name in result.get_result_keys(benchmarks):
            b = benchmarks[name]
            if b.get("unit") not in ("GNPS", "GB/s", "Gop/s"):
                continue
            values = result.get_result_value(name, b["params"])
            for parameters, value in zip(itertools.product(*b["params"]), values, strict=True):
                if value is not None and not math.isnan(value):
                    of_commit[name, parameters] = value
    return found


def link(name, parameters, benchmarks):
    """A benchmark with its parameters, as a link to its graph."""
    names = benchmarks[name]["param_names"]
    # The axes as they are, or asv's page would take the first value of each.
    query = "&".join(f"p-{key}={value}" for key, value in zip(names, parameters, strict=True))
    label = f"{name.split('.')[1]}: {', '.join(p.strip(chr(39)) for p in parameters)}"
    return f'<a href="index.html#{html.escape(name)}?{html.escape(query)}">{html.escape(label)}</a>'


def noise(before, after):
    """How far two milestones' figures may differ without a reason in the code: at least NOISE, and as far as the controls do."""
    ratios = [after[key] / before[key] for key in CONTROLS if key in before and key in after]
    return max([NOISE, *(max(ratio, 1 / ratio) - 1 for ratio in ratios)])


def changes(before, after, benchmarks):
    """What moved by more than the noise, as list items: the largest gains, then the largest losses."""
    limit = 1 + noise(before, after)
    # A new rung of the ladder changes what the other rungs are: those before it do without, or those after it are with it.
    rungs = [{parameters[0] for name, parameters in values if name == LADDER} for values in (before, after)]
    ladder_differs = rungs[0] != rungs[1]
    ratios = []
    for key in before.keys() & after.keys() - set(CONTROLS):
        ratio = after[key] / before[key]
        beyond = limit if key[0] not in UNSTEADY else max(limit, 1 + UNSTEADY[key[0]])
        if not 1 / beyond <= ratio <= beyond and not (ladder_differs and key[0] == LADDER):
            ratios.append((ratio, key))
    ratios.sort(reverse=True)
    moved = [r for r in ratios if r[0] > 1][:MOST] + [r for r in ratios if r[0] < 1][-MOST:]
    items = [
        f'<span class="{"more" if ratio > 1 else "less"}">&times;{ratio:.2f}</span> {link(*key, benchmarks)} '
        f"({before[key]:.3g} &rarr; {after[key]:.3g} {benchmarks[key[0]]['unit']})"
        for ratio, key in moved
    ]
    new = {name.split(".")[1] for name, _ in after} - {name.split(".")[1] for name, _ in before}
    added = [f"{name.split('.')[1]}: {', '.join(p.strip(chr(39)) for p in parameters)}"
             for name, parameters in sorted(after.keys() - before.keys()) if name.split(".")[1] not in new]  # fmt: skip
    if not before:
        return "the first that is measured"
    if new or added:
        items.append(f"new: {html.escape('; '.join(sorted(new) + added))}")
    return "<br>".join(items or ["nothing"]) + f'<br><span class="noise">noise: {limit - 1:.0%}</span>'


def steps(conf, benchmarks):
    """The page: for every machine, what each milestone brought, and the ladder at each of them."""
    parts = []
    listed = milestones()
    for (machine, python), commits in sorted(series(conf, benchmarks).items()):
        about = json.loads((Path(conf.results_dir) / machine / "machine.json").read_text())
        parts.append(f"<h2>{html.escape(machine)}</h2><p>{html.escape(about['cpu'])}, {about['num_cpu']} CPUs, "
                     f"{html.escape(about['os'])}, Python {html.escape(python)}</p>")  # fmt: skip
        rows, before = [], {}
        for commit, text in listed:
            after = commits.get(commit)
            what = changes(before, after, benchmarks) if after else "not measured"
            rows.append(f"<tr><td><code>{commit[:8]}</code></td><td>{html.escape(text)}</td><td>{what}</td></tr>")
            before = after or before
        parts.append("<h3>Milestones</h3><table><tr><th>commit</th><th>what it is</th><th>what moved since the one before</th>"
                     f"</tr>{''.join(rows)}</table>")  # fmt: skip
        if LADDER in benchmarks:
            parts.append(ladder(commits, listed, benchmarks))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>lowprec: the steps</title><style>{STYLE}</style></head><body>
<h1>What each optimization bought</h1>
<p><a href="index.html">All benchmarks</a>. A change is listed where it is more than the noise: {NOISE:.0%}, or what the
controls moved by at the same time, which no milestone changes, if that was more: arithmetic in registers, the read of memory, the
plain C loop. Up to {MOST} gains
and {MOST} losses are listed. GNPS: 10<sup>9</sup> dataset numbers per second.</p>
{"".join(parts)}</body></html>
"""


def ladder(commits, listed, benchmarks):
    """A table: rungs down, milestones across, and the last milestone's ratio to the rung below."""
    rungs = benchmarks[LADDER]["params"][0]
    columns = [c for c, _ in listed if any(key[0] == LADDER for key in commits.get(c, ()))]
    if not columns:
        return ""
    head = "".join(f'<th class="number"><code>{c[:8]}</code></th>' for c in columns)
    rows, below = [], None
    for rung in rungs:
        values = [commits[c].get((LADDER, (rung,))) for c in columns]
        ratio = f"&times;{values[-1] / below:.2f}" if below and values[-1] else ""
        cells = "".join(f'<td class="number">{v:.3g}</td>' if v else '<td class="number">n/a</td>' for v in values)
        rows.append(f'<tr><td>{link(LADDER, (rung,), benchmarks)}</td>{cells}<td class="number">{ratio}</td></tr>')
        below = values[-1] or below
    return (
        "<h3>The ladder: each rung adds one optimization to those above it (GNPS)</h3>"
        f'<table><tr><th>rung</th>{head}<th class="number">to the rung before</th></tr>{"".join(rows)}</table>'
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-measure", action="store_true", help="publish the results that are there")
    parser.add_argument("--machine", help="name of the results that are measured; default: the host's")
    parser.add_argument("--html", type=Path, default=ROOT / ".asv" / "html", help="folder of the pages")
    arguments = parser.parse_args()
    if not arguments.no_measure:
        measure(arguments.machine)
    publish(arguments.html.resolve())
    print(f"pages in {arguments.html}; `{sys.executable} -m asv preview` serves those in .asv/html")


if __name__ == "__main__":
    main()
