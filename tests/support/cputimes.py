"""What each test costs in processor seconds, its processes with it: ``pytest -p tests.support.cputimes``.

Wall time says how busy a machine was, processor time what a test takes from all others. Processes that nobody waited
for, as those of Slurm's jobs, are not counted. In several processes too (``-n 5``).
"""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest

MOST_LINES = 30
KEY = "cpu_s"


def _spent_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    item.stash[_BEGAN] = _spent_s()
    return (yield)


_BEGAN = pytest.StashKey[float]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    if call.when == "teardown":
        item.user_properties.append((KEY, _spent_s() - item.stash[_BEGAN]))
    return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tests: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for report in (each for reports in terminalreporter.stats.values() for each in reports):
        if getattr(report, "when", None) == "teardown":
            seconds = dict(report.user_properties).get(KEY, 0.0)
            tests[report.nodeid] += seconds
            files[report.nodeid.partition("::")[0]] += seconds
    for title, seconds_of in (("files", files), ("tests", tests)):
        terminalreporter.section(f"processor seconds by {title}, {sum(seconds_of.values()):.0f} in all")
        for name, seconds in seconds_of.most_common(MOST_LINES):
            terminalreporter.write_line(f"{seconds:8.2f} {name}")
