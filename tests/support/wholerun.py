"""What a whole run of the tests must show to count: no skip that nobody expects, and hardly a second try."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import pytest

MOST_RERUNS = 3
"""Second tries in a whole run: a race that is lost more often than that is a fault of ours."""

EXPECTED_SKIPS = {
    "needs the optional extra ratematch[kernels]": 7,
    "no vllm here": 2,
}
"""How many tests are skipped on a machine that may install what it needs, by the beginning of the reason."""

NO_CLUSTER = "testcluster: cannot run here"
"""How the reason begins where this machine cannot carry a Slurm."""


def may_install(environment: Mapping[str, str] = os.environ) -> bool:
    """Is this a run that has no excuse: continuous integration, as root?"""
    return environment.get("CI") == "true" and os.geteuid() == 0


def complaints(skips: Iterable[str], reruns: int, *, strict: bool) -> Iterator[str]:
    """What is wrong with a run, from the reason of every skip and the number of second tries.

    ``strict``: the machine may install what it needs, so that a skip is no matter of the machine.
    """
    if strict:
        found = Counter(_expected(reason) or reason for reason in skips)
        for reason, count in found.items():
            most = EXPECTED_SKIPS.get(reason, 0)
            if count > most:
                yield f"{count} tests were skipped and {most} may be: {reason}"
    if reruns > MOST_RERUNS:
        yield f"{reruns} tests needed a second try and {MOST_RERUNS} may: find the race"


def _expected(reason: str) -> str | None:
    return next((known for known in EXPECTED_SKIPS if reason.startswith(known)), None)


def skip_reasons(terminalreporter: pytest.TerminalReporter) -> list[str]:
    """The reason of every test that was skipped."""
    reports = terminalreporter.getreports("skipped")
    reasons = [report.longrepr[2] for report in reports if isinstance(report.longrepr, tuple)]
    return [reason.removeprefix("Skipped: ") for reason in reasons]


def second_tries(terminalreporter: pytest.TerminalReporter) -> list[str]:
    """Each test that was tried again, with what went wrong the first time."""
    lines = []
    for report in terminalreporter.getreports("rerun"):
        crash = getattr(report.longrepr, "reprcrash", None)
        lines.append(f"{report.nodeid}: {crash.message if crash else report.longrepr}")
    return lines


def complaints_of(config: pytest.Config) -> list[str]:
    """The complaints about the run that ``config`` belongs to; none in a worker, which sees a part of it."""
    terminalreporter = config.pluginmanager.get_plugin("terminalreporter")
    if terminalreporter is None or hasattr(config, "workerinput"):
        return []
    reruns = len(terminalreporter.getreports("rerun"))
    return list(complaints(skip_reasons(terminalreporter), reruns, strict=may_install()))
