"""Decisions on disk: typed when they are read, the same bytes when they are written again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ratematch.campaign import decisions
from ratematch.campaign.decisions import (
    ChosenRun,
    LoadDecision,
    LongerRun,
    ReservedHours,
    SearchRecord,
    SkippedServer,
    WaitingRun,
)
from ratematch.errors import ResultsError
from ratematch.store.files import write_json
from ratematch.store.folder import Results

SAMPLE = Path(__file__).parents[2] / "results" / "sample"

DECISION = LoadDecision(
    number=1,
    workload="1024/64",
    experiment="a1",
    label="gen-1024-64-gen1xTEP4",
    loads=(64,),
    expected_gain=0.25,
    estimated_gpu_hours=0.5,
    why="most front per GPU-hour",
    planned=(64, 128),
    price=0.1,
)
FURTHER = LoadDecision(
    2, "1024/64", "a1", "gen", (64,), 0.1, 0.1, "unsure", False, (64,), 0.1, (1,), LongerRun(320, 1)
)


def test_a_choice_of_an_earlier_version_is_read_and_written_again_as_it_was(tmp_path: Path) -> None:
    runs = decisions.read_chosen_runs(Results(SAMPLE))
    assert runs and all(run.experiment is None and run.expected_gain is None for run in runs)
    decisions.write_chosen_runs(Results(tmp_path), runs)
    assert (tmp_path / "choice.json").read_bytes() == (SAMPLE / "choice.json").read_bytes()


def test_a_search_comes_back_as_it_was_written(tmp_path: Path) -> None:
    results = Results(tmp_path)
    assert decisions.read_search(results) is None
    record = SearchRecord(
        (DECISION, FURTHER),
        (SkippedServer("", "b2", "ctx", "its job failed"),),
        ("a1",),
        None,
        {"1024/64": ReservedHours(np.float64(0.5), 0.1, ("ctx1xDEP4-gen1xTEP4",))},
        (WaitingRun("1024/64", "ctx1xDEP4-gen1xTEP4", "a server brings more"),),
    )
    decisions.write_search(results, record)
    assert decisions.read_search(results) == record
    content = json.loads((tmp_path / "search.json").read_text())
    assert content["ended"] is None
    assert "longer" not in content["decisions"][0]
    assert content["decisions"][1]["longer"] == {"num_requests": 320, "repeat": 1}


def test_without_runs_that_compete_there_are_no_keys_for_them(tmp_path: Path) -> None:
    decisions.write_search(Results(tmp_path), SearchRecord((DECISION,)))
    assert set(json.loads((tmp_path / "search.json").read_text())) == {"decisions", "skips", "up", "ended"}


def test_keys_of_a_later_version_are_left_out_and_missing_ones_are_named(tmp_path: Path) -> None:
    results = Results(tmp_path)
    run = ChosenRun("1024/64", "ctx1xDEP4-gen1xTEP4", "on the front", 80.0, 400.0, 64.0, (32, 64))
    (entry,) = decisions.runs_to_json([run])
    write_json(tmp_path / "choice.json", [entry | {"mood": "good"}])
    assert decisions.read_chosen_runs(results) == [run]
    del entry["why"]
    write_json(tmp_path / "choice.json", [entry])
    with pytest.raises(ResultsError, match=r"choice\.json: .*`why`"):
        decisions.read_chosen_runs(results)
