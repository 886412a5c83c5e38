"""A quarter of a minute of killing; ``make kill MINUTES=60`` for an hour of it. See :mod:`tests.run.killing`."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.run.killing import harass

SECONDS = 60 * float(os.environ.get("KILL_MINUTES", "0.25"))


@pytest.mark.slow
@pytest.mark.timeout(300 + 2 * SECONDS)
def test_no_kill_costs_a_finished_load(tmp_path: Path) -> None:
    seed = int(os.environ.get("KILL_SEED", "0")) or time.time_ns() % 10**6
    outcome = harass(tmp_path, seed, SECONDS)
    assert outcome.problems == [], f"KILL_SEED={seed}"
    assert sum(outcome.kills.values()) >= 1 and outcome.campaigns >= 1
