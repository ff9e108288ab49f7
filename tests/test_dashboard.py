"""The published asv pages, seen by a browser: graphs that have lines, a table of steps, and nothing from other servers.

Needs asv, Chromium, and the history in git; where one is missing the tests are skipped, or fail if LOWPREC_TEST_DASHBOARD=1 (as
in .ci/run). The screenshots are left in build/.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import importlib.util
import json
import os
import re
import select
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
SECONDS = 60  # for anything that a page does; it takes one or two

# The rungs of the ladder that the results under version control have figures of, in enough commits for a line.
RUNGS = ["compiler", "SIMD", "fast PRNG", "shared randomness", "fused step", "prefetch", "packing", "mini-batch"]

pytestmark = pytest.mark.slow


def missing(what):
    if os.environ.get("LOWPREC_TEST_DASHBOARD") == "1":
        pytest.fail(f"LOWPREC_TEST_DASHBOARD=1, but {what}")
    pytest.skip(what)


class Chromium:
    """A page of a headless Chromium, driven through the DevTools protocol on two pipes (--remote-debugging-pipe)."""

    def __init__(self, executable, profile):
        (child_in, self.out), (self.into, child_out) = os.pipe(), os.pipe()

        def use_as_3_and_4():
            spare = os.dup(child_out)  # child_in's number may be 4, child_out's 3
            os.dup2(child_in, 3)
            os.dup2(spare, 4)

        self.process = subprocess.Popen(
            [
                executable, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
                f"--user-data-dir={profile}", "--window-size=1400,900", "--remote-debugging-pipe",
            ],
            close_fds=False, preexec_fn=use_as_3_and_4, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(child_in)
        os.close(child_out)
        self.number, self.rest, self.session = 0, b"", None
        self.requests, self.errors = [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Send a command and return its result; what the page reports meanwhile is kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        os.write(self.out, json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0")
        while True:
            message = self._receive()
            if message.get("id") == self.number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(message["params"]["exceptionDetails"])

    def _receive(self):
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.into], [], [], SECONDS)
            data = os.read(self.into, 1 << 20) if ready else b""
            assert data, f"Chromium said nothing for {SECONDS} s" if not ready else "Chromium has ended"
            self.rest += data
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def evaluate(self, expression):
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def wait_for(self, expression):
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + SECONDS
        while not self.evaluate(expression):
            assert time.monotonic() < end, f"not true within {SECONDS} s: {expression}; errors of the page: {self.errors}"
            time.sleep(0.1)

    def go(self, url):
        self.call("Page.navigate", url="about:blank")  # a new address that differs after # alone would not be loaded
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def screenshot(self, path):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self):
        with contextlib.suppress(AssertionError, OSError):
            self.session = None
            self.call("Browser.close")
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.out)
        os.close(self.into)


@pytest.fixture(scope="module")
def dashboard():
    """benchmarks/dashboard.py as a module."""
    if importlib.util.find_spec("asv") is None:
        missing("asv is not installed (pip install '.[bench]')")
    inside = subprocess.run(["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, capture_output=True, text=True)
    if not (ROOT / ".git").exists() or inside.returncode:
        missing("this is not a git checkout: the pages show the history")
    if inside.stdout.strip() == "true":
        missing("this clone is shallow: the pages show the history")
    spec = importlib.util.spec_from_file_location("dashboard", ROOT / "benchmarks" / "dashboard.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(dashboard, tmp_path_factory):
    """The address of the pages, published from the results under version control."""
    pages = tmp_path_factory.mktemp("asv") / "html"
    command = [sys.executable, str(ROOT / "benchmarks" / "dashboard.py"), "--no-measure", "--html", str(pages)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Couldn't find" not in done.stdout + done.stderr, "results of a commit that is not in this history"

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(pages))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        missing("no Chromium is installed (on Debian: apt install chromium)")
    browser = Chromium(executable, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


# For every series of the plot: how many of its points have a value, and how many pixels of the canvas have its color, which at
# the edges of a line is half transparent.
SEEN = """(() => {
  const plot = $('#main-graph').data('plot'), canvas = plot.getCanvas();
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const count = color => {
    const rgb = color.match(/\\d+/g).map(Number);
    let n = 0;
    for (let i = 0; i < data.length; i += 4)
      n += data[i + 3] >= 64 && rgb.every((c, k) => Math.abs(c - data[i + k]) <= 4);
    return n;
  };
  return plot.getData().map(s => ({label: s.label, lines: s.lines.show, pixels: count(s.color),
                                   points: s.data.filter(p => p[1] !== null && isFinite(p[1])).length}));
})()"""


def test_a_benchmarks_page_shows_lines(site, chromium):
    chromium.go(f"{site}/index.html#training.Ladder.track_gnps")
    chromium.wait_for("window.$ && $('#main-graph').data('plot') && $('#main-graph').data('plot').getData().length > 0")
    shown = chromium.evaluate(SEEN)
    width = chromium.evaluate("$('#main-graph').data('plot').width()")
    chromium.screenshot(BUILD / "dashboard.png")
    drawn = [s for s in shown if s["points"] >= 3]  # a rung that came late has fewer
    assert len(drawn) >= len(RUNGS), shown
    for line in drawn:
        # The circles of ten points are 300 pixels; a line across the frame, of which others may hide a part, is a thousand.
        assert line["lines"]
        assert line["pixels"] > width / 2, f"no line is drawn: {line}"
    assert not chromium.errors
    outside = [url for url in chromium.requests if not url.startswith((site, "about:", "data:"))]
    assert chromium.requests
    assert not outside, "the pages need other servers"


def test_the_grid_shows_every_suite(site, chromium):
    chromium.go(f"{site}/index.html")
    chromium.wait_for("window.$ && $('#summarygrid-display .benchmark-container').length > 0")
    text = chromium.evaluate("document.body.innerText")
    chromium.screenshot(BUILD / "dashboard-grid.png")
    for suite in ("Ladder", "Train", "Threads", "Quantize", "Kernels"):
        assert f"{suite}.track_gnps" in text


def test_the_steps_are_listed(site, chromium, dashboard):
    chromium.go(f"{site}/steps.html")
    text = chromium.evaluate("document.body.innerText")
    chromium.screenshot(BUILD / "dashboard-steps.png")
    for commit, what in dashboard.milestones():
        assert commit[:8] in text
        assert what in text
    for rung in RUNGS:
        assert re.search(rf"^Ladder: {rung}\t.*\d\.\d", text, re.M), f"no figure for {rung}"
    assert chromium.evaluate("[...document.links].filter(a => a.href.includes('p-rung')).length") >= 8
    # The links select one line on asv's page.
    chromium.go(chromium.evaluate("[...document.links].find(a => a.href.includes('p-rung')).href"))
    chromium.wait_for("window.$ && $('#main-graph').data('plot') && $('#main-graph').data('plot').getData().length === 1")
