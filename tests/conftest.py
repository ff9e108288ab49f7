"""Shared by all tests: reproducible random numbers, and failures that print their seed."""

from __future__ import annotations

import os
import zlib

import hypothesis
import numpy as np
import pytest

SEED = int(os.environ.get("LOWPREC_TEST_SEED", "2017"))

# Several machines and builds share one core of a busy box: no deadlines. The blob reproduces a failure exactly.
hypothesis.settings.register_profile("lowprec", deadline=None, print_blob=True, max_examples=200, derandomize=SEED == 2017)
hypothesis.settings.load_profile("lowprec")


def pytest_report_header(config):
    return f"lowprec tests: LOWPREC_TEST_SEED={SEED}"


def pytest_collection_modifyitems(config, items):
    """Where tests run side by side, leave out those that compare times: `make test` runs them afterwards, one by one."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        alone = [item for item in items if item.get_closest_marker("alone")]
        config.hook.pytest_deselected(items=alone)
        items[:] = [item for item in items if item not in alone]


@pytest.fixture
def rng(request):
    """A generator of its own for every test: of the session's seed and the test's name."""
    own = zlib.crc32(request.node.nodeid.encode())
    request.node.user_properties.append(("seed", f"LOWPREC_TEST_SEED={SEED}; numpy.random.default_rng([{SEED}, {own}])"))
    return np.random.default_rng([SEED, own])


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for key, value in item.user_properties:
            if key == "seed":
                report.sections.append(("random numbers", value))
