"""What all tests share: lanes, a second try for tests on a real Slurm, and what a run must show to count."""

from __future__ import annotations

import gc
import os
import signal
from typing import Any

import pytest
from hypothesis import settings

from tests.support import faultmatrix, wholerun

# A property holds or not; how long an example takes says only how busy the machine is.
# The same examples in every run: one that fails must not depend on luck. RANDOM_EXAMPLES=1 looks for others.
settings.register_profile("no deadline", deadline=None, derandomize=not os.environ.get("RANDOM_EXAMPLES"))
settings.load_profile("no deadline")

# A shell that starts a run in the background has all of it ignore Ctrl-C: tests of Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Some ten thousand objects a second come while tests are collected, and most stay: to look through them for garbage
# again and again took a third of the time of compiling and of collecting. pytest_collection_finish begins it again.
gc.disable()

REAL_TIME = ("emulator", "loadgen", "run", "slurm")
"""Rooms whose tests look at a clock, beside all that are slow."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """How several processes share the tests, whatever ``--dist`` says."""
    from tests.support.scheduler import Lanes

    return Lanes(config, log)


BUSY = "client is saturated|Little's law is off|cannot keep up"
"""What a load is refused for where the machine is busy with other things."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on a real Slurm get a second try: when Slurm misses a node is Slurm's doing. So do tests whose loads were
    refused because this machine was too busy to measure: that refusal is right, and says nothing of the code.

    Slow tests come first, so that quick ones fill the gaps at the end of a run in several processes.
    """
    for item in items:
        if item.get_closest_marker("slurm"):
            item.add_marker(pytest.mark.flaky(reruns=1))
        else:
            item.add_marker(pytest.mark.flaky(reruns=1, only_rerun=[BUSY]))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """What is there before the first test stays: each load has garbage collected before its clock starts, and with
    every test module and all that they import to look through that would take longer than the load."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Beside others, tests that only compute step back for those that look at a clock; as root, for the way back is
    not open to anybody else."""
    if os.environ.get("PYTEST_XDIST_WORKER") and os.geteuid() == 0:
        in_time = item.get_closest_marker("slow") or item.nodeid.startswith(tuple(f"tests/{r}/" for r in REAL_TIME))
        os.setpriority(os.PRIO_PROCESS, 0, 0 if in_time else 10)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run that left out what it should not, or that needed luck, has failed."""
    if exitstatus == pytest.ExitCode.OK and wholerun.complaints_of(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if told := [
        reason for reason in wholerun.skip_reasons(terminalreporter) if reason.startswith(wholerun.NO_CLUSTER)
    ]:
        terminalreporter.section("NO SLURM TESTS ON THIS MACHINE", sep="!")
        terminalreporter.write_line(told[0])
    faultmatrix.write(terminalreporter)
    if tries := wholerun.second_tries(terminalreporter):
        terminalreporter.section("second tries")
        for line in tries:
            terminalreporter.write_line(line)
    if complaints := wholerun.complaints_of(config):
        terminalreporter.section("THIS RUN DOES NOT COUNT", sep="!")
        for line in complaints:
            terminalreporter.write_line(line)
