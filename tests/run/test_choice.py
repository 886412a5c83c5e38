"""Which end-to-end experiments a sweep runs: from results on disk, within the GPU-hours left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ratematch.inputs import read_sweep
from ratematch.plan.load import Concurrency
from ratematch.run.endtoend import EndToEnd, end_to_end_experiments, say_nothing_chosen
from ratematch.store import Results

SAMPLE = Path(__file__).parents[2] / "results" / "sample"


@pytest.fixture
def results(tmp_path: Path) -> Results:
    shutil.copytree(SAMPLE, tmp_path / "sample")
    return Results.open(tmp_path / "sample")


def choose(results: Results, *overrides: str):  # type: ignore[no-untyped-def]
    sweep, _ = read_sweep(str(SAMPLE / "sweep.yaml"), overrides)
    return sweep, end_to_end_experiments(sweep, results)


def test_the_choice_is_written_down_and_made_again_after_its_runs(results: Results) -> None:
    sweep, chosen = choose(results)
    told = json.loads((results.path / "choice.json").read_text())
    assert sweep.e2e is not None
    assert 0 < len(chosen) <= sweep.e2e.deployments
    assert [entry["deployment"] for entry in told] == [each.deployment.label for each in chosen]
    assert all(entry["expected_gain"] > 0 for entry in told)
    for entry, each in zip(told, chosen, strict=True):
        minutes = sweep.cluster.start_minutes + len(each.loads) * sweep.cluster.load_minutes
        assert entry["estimated_gpu_hours"] == pytest.approx(each.deployment.gpus * minutes / 60)
        assert [load.concurrency for load in each.loads if isinstance(load, Concurrency)] == entry["concurrencies"]
        # Loads lie around the N of Little's law for the whole deployment.
        around = [number / entry["predicted_concurrency"] for number in entry["concurrencies"]]
        assert around == pytest.approx(list(sweep.e2e.around), abs=0.5 / entry["predicted_concurrency"] + 1e-9)
    # End-to-end runs are among the results already, and change nothing.
    assert any(folder.read().stage == "e2e" for folder in results.folders())
    assert choose(results)[1] == chosen


def test_what_the_other_stages_leave_of_the_budget_is_kept(results: Results) -> None:
    spent = sum(folder.gpu_hours() for folder in results.folders() if folder.read().stage != "e2e")
    _, free = choose(results)
    costs = [entry["estimated_gpu_hours"] for entry in json.loads((results.path / "choice.json").read_text())]
    left = min(costs) * 1.5
    _, chosen = choose(results, f"budget.gpu_hours={spent + left}")
    costs = [entry["estimated_gpu_hours"] for entry in json.loads((results.path / "choice.json").read_text())]
    assert 0 < sum(costs) <= left
    assert len(chosen) < len(free)
    sweep, none = choose(results, f"budget.gpu_hours={max(spent, 1e-6)}")
    assert none == []
    assert "no deployment is within the 0.00 of" in say_nothing_chosen(sweep, results)


def after_search(results: Results, *overrides: str, failed: tuple[str, ...] = ()) -> EndToEnd:
    sweep, _ = read_sweep(str(SAMPLE / "sweep.yaml"), overrides)
    return EndToEnd(sweep, results, {}, [], lambda: failed)


def told(results: Results) -> list[str]:
    return [entry["experiment"] for entry in json.loads((results.path / "choice.json").read_text())]


def test_a_search_with_more_budget_chooses_further_runs_and_loses_none(results: Results) -> None:
    (results.path / "choice.json").unlink()
    for folder in results.folders():
        if folder.read().stage == "e2e":
            shutil.rmtree(folder.path)
    spent = results.account().total
    choose(results)
    costs = [entry["estimated_gpu_hours"] for entry in json.loads((results.path / "choice.json").read_text())]
    hours = min(costs) * 1.5
    (results.path / "choice.json").unlink()

    first = after_search(results, f"budget.gpu_hours={spent + hours}").take_rest()
    assert first
    assert told(results) == [each.id for each in first]
    assert all(results.folder_of(each).missing() for each in first)
    # The same again, as after a kill: nothing new, and what is not measured is to be measured.
    assert after_search(results, f"budget.gpu_hours={spent + hours}").take_rest() == first

    more = after_search(results).take_rest()
    assert more[: len(first)] == first
    assert len(more) > len(first)
    assert told(results) == [each.id for each in more]
    assert after_search(results).take_rest() == more
    # A run that came to no end is not chosen again, and nothing in its place.
    assert after_search(results, failed=(more[-1].id,)).unfinished({each.id for each in more[:-1]}) == more[-1]
    assert told(results) == [each.id for each in more]
