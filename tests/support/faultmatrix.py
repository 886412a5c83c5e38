"""The table of faults on a real Slurm: each test adds its rows, and they are printed together at the end.

A row travels in the report of its test, so it does not matter which process ran it.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

PROPERTY = "fault"


def add_row(node: pytest.Item, fault: str, seconds: float, outcome: str) -> None:
    """``seconds``: until the controller told of it."""
    node.user_properties.append((PROPERTY, (fault, seconds, outcome)))


def rows(reports: Iterable[pytest.TestReport]) -> list[tuple[str, float, str]]:
    """The rows of all tests that passed, by name of the fault."""
    return sorted(
        (fault, seconds, outcome)
        for report in reports
        for name, (fault, seconds, outcome) in ((n, v) for n, v in report.user_properties if n == PROPERTY)
    )


def write(terminalreporter: pytest.TerminalReporter) -> None:
    """The table, if there is one."""
    if not (found := rows(terminalreporter.getreports("passed"))):
        return
    terminalreporter.section("faults on a real Slurm")
    width = max(len(fault) for fault, _, _ in found)
    terminalreporter.write_line(f"{'fault':<{width}} {'noticed after':>13}  outcome")
    for fault, seconds, outcome in found:
        terminalreporter.write_line(f"{fault:<{width}} {seconds:>11.1f} s  {outcome}")
