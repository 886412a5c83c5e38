"""A search asks a server that is up for longer runs: on record first, under a name of its own, until it is sure."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.campaign.decisions import read_search
from ratematch.campaign.precheck import expand_sweep
from ratematch.campaign.search import Search
from ratematch.campaign.turn import Turn
from ratematch.inputs.find import read_sweep
from ratematch.plan.experiment import load_to_json
from ratematch.plan.load import Concurrency, Load
from ratematch.store.files import read_json as read
from ratematch.store.files import write_json
from ratematch.store.folder import ExperimentFolder, Results

SAMPLE = Path(__file__).parents[2] / "results" / "sample"
SERVER = "gen1xTEP4-mtp3"


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Of a grid, ctx and gen; and the search that went on from there had one gen server up."""
    shutil.copytree(SAMPLE, tmp_path / "sample")
    results = Results.open(tmp_path / "sample")
    for folder in results.folders():
        if folder.read().stage not in ("ctx", "gen"):
            shutil.rmtree(folder.path)
    name = server(results).read().id
    write_json(
        results.path / "search.json", {"decisions": [decision(name)], "up": [name], "skips": [], "ended": None}
    )
    return results


def server(results: Results) -> ExperimentFolder:
    return next(each for each in results.folders() if each.read().label.endswith(SERVER))


def decision(name: str) -> dict[str, object]:
    return {
        "number": 1,
        "experiment": name,
        "workload": "1024/64",
        "label": SERVER,
        "loads": [64],
        "longer": {"num_requests": 320, "repeat": 0},
        "planned": [64],
        "estimated_gpu_hours": 0.0,
        "price": 0.1,
        "expected_gain": 0.1,
        "start": True,
        "why": "",
        "knew": [],
    }


def search(results: Results) -> Search:
    sweep, _ = read_sweep(
        str(SAMPLE / "sweep.yaml"), ("search=adaptive", "budget.max_gpus=64", "budget.gpu_hours=null")
    )
    # So little is lost by a choice between servers that are nearly alike that knowing better must be cheap.
    sweep = replace(sweep, cluster=replace(sweep.cluster, load_minutes=sweep.cluster.load_minutes / 50))
    asked = [each for each in expand_sweep(sweep).experiments if each.stage in ("ctx", "gen")]
    return Search(sweep, results, asked)


def go_on(results: Results) -> list[Load]:
    """What the server is asked for next, as after a kill: nothing missing of it before."""
    folder = server(results)
    turn = Turn(results.snapshot(), busy=(folder.read(),))
    experiment = search(results).decide_further(turn, folder.read().id)
    return [load for load in experiment.loads if not folder.finished(load)] if experiment else []


def concurrency(load: Load) -> int:
    assert isinstance(load, Concurrency)
    return load.concurrency


def measure(results: Results, load: Load, half_width: float) -> None:
    """As the load at the same concurrency was measured before, with an interval."""
    folder = server(results)
    before = next(each for each in folder.loads() if concurrency(each.load) == concurrency(load))
    figures = read(before.folder / "measurement.json") | {"tpot_ci": half_width}
    folder.load_folder(load).mkdir()
    shutil.copy(before.folder / "records.parquet", folder.load_folder(load))
    write_json(folder.load_folder(load) / "measurement.json", figures)
    run = read(before.folder / "loadrun.json")
    write_json(folder.load_folder(load) / "loadrun.json", run | {"load": load_to_json(load)})
    assert folder.finished(load)


def test_loads_that_the_front_depends_on_are_asked_for_again_until_they_are_sure(results: Results) -> None:
    asked: list[Load] = []
    while missing := go_on(results):
        (load,) = missing
        assert load not in asked
        asked.append(load)
        last = json.loads((results.path / "search.json").read_text())["decisions"][-1]
        assert "longer" in last and not last["start"] and "front" in last["why"]
        assert last["loads"] == [concurrency(load)]
        # Killed before it was measured, it is what comes next, and no decision is added for it.
        again = search(results).decide_next(Turn(results.snapshot()))
        assert again is not None and load in again.loads
        assert json.loads((results.path / "search.json").read_text())["decisions"][-1] == last
        measure(results, load, 0.5 if len(asked) == 1 else 0.001)
    assert asked, "nothing on this front is in doubt"
    # The first was as unsure as ever, so it came again; all others once.
    times = Counter(concurrency(load) for load in asked)
    assert 1 < times.pop(concurrency(asked[0])) <= 3
    assert set(times.values()) <= {1}
    record = read_search(results)
    assert record is not None
    assert record.up == ()
    assert len(record.decisions) == 1 + len(asked)
