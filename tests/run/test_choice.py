"""Which end-to-end experiments a sweep runs: from results on disk, within the GPU-hours left."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.campaign.decisions import ChosenRun, read_chosen_runs
from ratematch.campaign.endtoend import EndToEnd, describe_nothing_chosen, end_to_end_experiments
from ratematch.campaign.turn import Turn
from ratematch.inputs.find import read_sweep
from ratematch.match.choose import RunChoice
from ratematch.plan.load import Concurrency
from ratematch.plan.workload import Workload
from ratematch.search.price import Pricing, price_hours
from ratematch.search.space import make_space, read_known
from ratematch.search.view import View
from ratematch.simulate.forecasts import forecast_experiment
from ratematch.store.folder import Results

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
    assert "no deployment is within the 0.00 of" in describe_nothing_chosen(sweep, results)


def after_search(results: Results, *overrides: str) -> EndToEnd:
    sweep, _ = read_sweep(str(SAMPLE / "sweep.yaml"), overrides)
    return EndToEnd(sweep, results, {}, [])


def turn(results: Results, failed: frozenset[str] = frozenset()) -> Turn:
    return Turn(results.snapshot(), failed=failed)


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

    first = after_search(results, f"budget.gpu_hours={spent + hours}").take_rest(turn(results))
    assert first
    assert told(results) == [each.id for each in first]
    assert all(results.folder_of(each).missing() for each in first)
    # The same again, as after a kill: nothing new, and what is not measured is to be measured.
    assert after_search(results, f"budget.gpu_hours={spent + hours}").take_rest(turn(results)) == first

    more = after_search(results).take_rest(turn(results))
    assert more[: len(first)] == first
    assert len(more) > len(first)
    assert told(results) == [each.id for each in more]
    assert after_search(results).take_rest(turn(results)) == more
    # A run that came to no end is not chosen again, and nothing in its place.
    after_failure = turn(results, failed=frozenset({more[-1].id}))
    assert after_search(results).unfinished(after_failure, {each.id for each in more[:-1]}) == more[-1]
    assert after_search(results).take_rest(after_failure) == more
    assert told(results) == [each.id for each in more]


def test_a_run_is_sent_while_servers_are_searched_if_it_is_worth_the_price_and_likely_to_last(
    results: Results,
) -> None:
    (results.path / "choice.json").unlink()
    for folder in results.folders():
        if folder.read().stage != "ctx" and folder.read().stage != "gen":
            shutil.rmtree(folder.path)
    sweep, _ = read_sweep(str(SAMPLE / "sweep.yaml"))
    workload = sweep.workloads[0]
    servers = {folder.read().id: folder.read() for folder in results.folders()}
    forecasts = {name: forecast_experiment(each, sweep.cluster) for name, each in servers.items()}
    space = make_space(sweep, workload, servers.values(), forecasts)
    known = read_known(results.measured())
    runs = EndToEnd(sweep, results, servers, [])

    whole = price_hours(View(space, known, {}), 100.0)
    run = runs.find_next(turn(results), workload, whole, 100.0)
    assert run is not None
    assert run.chance > 0.9
    assert run.share_per_hour > whole.price_per_hour
    assert run.key in {each.key for each in runs.worth(turn(results), workload, whole, 100.0)}
    assert runs.find_next(turn(results), workload, replace(whole, price=1e6), 100.0) is None
    assert runs.find_next(turn(results), workload, whole, run.gpu_hours / 100) is None

    # Nothing is known of the servers that promise most: what is measured may not last.
    gens = [name for name in known if servers[name].stage == "gen"]
    best = max(gens, key=lambda name: known[name][max(known[name])].req_s / servers[name].deployment.gpus)
    fewer = {name: rates for name, rates in known.items() if name != best}
    shutil.rmtree(results.folder_of(servers[best]).path)
    doubted = price_hours(View(space, fewer, {}), 100.0)
    assert best in doubted.plan.parts
    chances = [each.chance for each in _choose_all(runs, turn(results), workload, doubted)]
    assert min(chances) < 0.9

    # A choice stays: the next run is another one.
    experiment = runs.take(run, after=7)
    assert experiment == runs.unfinished(turn(results), ())
    assert runs.unfinished(turn(results), {experiment.id}) is None
    again = EndToEnd(sweep, results, servers, [])
    assert [run.after for run in again.chosen] == [7]
    further = again.find_next(turn(results), workload, whole, 100.0)
    assert further is None or further.key != run.key


def _choose_all(runs: EndToEnd, now: Turn, workload: Workload, promised: Pricing) -> list[RunChoice]:
    found = []
    free = replace(promised, price=0.0)
    while (run := runs.find_next(now, workload, free, 100.0)) and len(found) < 4:
        found.append(run)
        sources, ctx, gen = run.key
        runs.chosen.append(
            ChosenRun(workload.label, "", "", 0.0, 0.0, 0.0, (), sources=tuple(sources), ctx=ctx, gen=gen)
        )
    runs.chosen.clear()
    return found


def test_a_choice_that_gpu_time_was_spent_on_stays_and_counts(tmp_path: Path) -> None:
    """Chosen from some of the loads, then again from all: it was two deployments where one was wanted."""
    shutil.copytree(SAMPLE, tmp_path / "sample")
    results = Results.open(tmp_path / "sample")
    sweep, _ = read_sweep(str(SAMPLE / "sweep.yaml"), ("e2e.deployments=1",))
    (first,) = end_to_end_experiments(sweep, results)
    assert end_to_end_experiments(sweep, results) == [first], "the same again from the same"
    (run,) = read_chosen_runs(results)
    for source in run.sources or ():
        stored = results.now().experiment(source)
        assert stored is not None
        if stored.experiment.stage == "gen":
            shutil.rmtree(stored.folder.path)
    assert [experiment.id for experiment in end_to_end_experiments(sweep, results)] == [first.id]
    assert [run.experiment for run in read_chosen_runs(results)] == [first.id]
    wider = replace(sweep, e2e=replace(sweep.e2e, deployments=2)) if sweep.e2e else sweep
    both = [experiment.id for experiment in end_to_end_experiments(wider, results)]
    assert first.id in both and len(both) == 2
    shutil.rmtree(results.folder_of(first).path)
    assert first.id not in [experiment.id for experiment in end_to_end_experiments(sweep, results)], (
        "nothing is spent"
    )
