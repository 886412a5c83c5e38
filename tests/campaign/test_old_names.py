"""Jobs that were queued before the rooms moved are pickles of functions by their old names: for one release."""

from __future__ import annotations

import importlib
import pickle

import pytest

from ratematch.campaign.jobs import member, pack
from ratematch.run import experiment


@pytest.mark.parametrize(
    ("module", "name", "function"),
    [
        ("ratematch.run.experiment", "run_experiment", experiment.run_experiment),
        ("ratematch.run.pack", "run_pack", pack.run_pack),
    ],
)
def test_what_queued_jobs_call_is_still_found_by_its_old_name(module: str, name: str, function: object) -> None:
    # As pickle writes a function: the name of its module, and its own.
    assert pickle.loads(f"c{module}\n{name}\n.".encode()) is function


def test_steps_of_a_pack_that_is_still_running_start_their_drivers_by_the_old_name() -> None:
    assert importlib.import_module("ratematch.run.member").main is member.main
