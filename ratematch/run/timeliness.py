"""Did the emulator keep up? Its own account of how late its steps ended, before and after a load."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from ratematch.fetch import fetch
from ratematch.plan.launchplan import LaunchPlan

Account = dict[str, dict[str, float]]

FIELDS = ("busy_s", "late_s", "lost_s")


def read_account(plan: LaunchPlan) -> Account:
    """Per worker of the emulator: planned busy seconds, seconds late, seconds given up."""
    account: Account = {}
    for spec in plan.processes:
        if spec.role == "orchestrator":
            continue
        with (
            contextlib.suppress(OSError, ValueError, KeyError, TypeError),
            fetch(f"http://{spec.host}:{spec.port}/server_info", 5) as answer,
        ):
            told: dict[str, Any] = json.load(answer)["emulated"]
            account[spec.name] = {name: float(told[name]) for name in FIELDS}
    return account


def spent_between(before: Account, after: Account) -> Account:
    """What each server did in between."""
    return {
        name: {field: after[name][field] - before[name][field] for field in FIELDS}
        for name in before
        if name in after
    }
