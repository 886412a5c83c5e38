"""A snapshot says what the folder says, and the next one reads only what has changed."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.analysis.verify import verify
from ratematch.measure.loadrun import LoadRun
from ratematch.plan.load import Concurrency
from ratematch.store import experiment as experiments
from ratematch.store import layout, snapshot
from ratematch.store.files import read_json, write_json
from ratematch.store.folder import ExperimentFolder, Results
from ratematch.store.outcome import Outcome, to_json
from tests.support.invented import AGG, FIGURES, GEN, LAPTOP, PAIR, experiment

SAMPLE = Path(__file__).parents[2] / "results" / "sample"
C1, C2 = Concurrency(1, 8), Concurrency(2, 8)
GRAIN_S = 0.02
"""Longer than the grain of a file system's clock."""


def finish(folder: ExperimentFolder, load: Concurrency) -> None:
    folder.load_folder(load).mkdir(parents=True, exist_ok=True)
    folder.finish_load(load, LoadRun(launch="1"), FIGURES)


def check_against_folders(results: Results, taken: snapshot.Snapshot) -> None:
    assert [folder.path for folder in taken.folders] == [folder.path for folder in results.folders()]
    for stored in taken.experiments:
        folder = stored.folder
        assert stored.experiment == folder.read() and taken.experiment(stored.experiment.id) is stored
        assert list(stored.loads) == folder.loads() and stored.missing == folder.missing()
        assert list(stored.outcomes) == folder.outcomes() and stored.outcome == folder.outcome()
        assert stored.account == folder.account() and stored.done == folder.done()
    assert taken.account() == results.account() and taken.measured() == results.measured()
    assert taken == results.snapshot()


def test_the_sample_in_one_look() -> None:
    results = Results.open(SAMPLE)
    taken = results.snapshot()
    check_against_folders(results, taken)
    assert len(taken.loads) == 67 and len(taken.outcomes) == 19
    assert taken.experiment("nowhere") is None


def test_nothing_is_read_again_where_nothing_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results.open(SAMPLE)
    taken = results.snapshot()

    def read(file: Path) -> None:
        raise AssertionError(f"{file} was read again")

    monkeypatch.setattr(experiments, "read_json", read)
    monkeypatch.setattr(snapshot, "YOUNG_NS", 0)
    again = results.snapshot(taken)
    assert all(a is b for a, b in zip(again.experiments, taken.experiments, strict=True))


@pytest.mark.parametrize("seed", range(6))
def test_every_change_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(snapshot, "YOUNG_NS", 0)
    chance = random.Random(seed)
    results = Results(tmp_path)
    asked = [experiment(deployment=AGG), experiment("gen", GEN), experiment("e2e", PAIR)]

    def folder() -> ExperimentFolder:
        return results.folder_of(chance.choice(asked))

    def add() -> None:
        index = chance.randrange(len(asked))
        loads = asked[index].loads
        if results.folder_of(asked[index]).path.exists() and chance.random() < 0.5:
            loads = (*loads, Concurrency(8 * len(loads), 64))
        asked[index] = replace(asked[index], loads=loads)
        results.add(asked[index], LAPTOP)

    def launch() -> None:
        folder().new_launch()

    def end() -> None:
        last = folder().last_launch()
        if last and not (last / layout.OUTCOME).exists():
            outcome = Outcome(ok=chance.random() < 0.5, seconds=5.0, held_s=chance.random(), gpus=4)
            write_json(last / layout.OUTCOME, to_json(outcome))

    def measure() -> None:
        place = folder()
        if (last := place.last_launch()) and not (last / layout.OUTCOME).exists():
            for load in place.missing()[:1]:
                finish(place, load)  # type: ignore[arg-type]

    def mark() -> None:
        place = folder()
        if place.last_launch() and not place.missing():
            place.mark_done()

    def measure_again() -> None:
        place = folder()
        if finished := place.loads():
            place.set_aside(finished[0].load)

    def idle() -> None:
        pack = tmp_path / layout.PACKS / str(chance.randrange(2))
        pack.mkdir(parents=True, exist_ok=True)
        write_json(pack / layout.IDLE, [{"idle_gpu_s": chance.random()}])

    def in_folders(change: Callable[[], None]) -> None:
        if change in (add, idle) or all(results.folder_of(each).path.exists() for each in asked):
            change()

    taken = results.snapshot()
    for _ in range(40):
        in_folders(chance.choice([add, launch, end, measure, measure, mark, measure_again, idle]))
        taken = results.snapshot(taken)
        check_against_folders(results, taken)
        time.sleep(GRAIN_S)


def test_a_copy_is_no_second_measurement(tmp_path: Path) -> None:
    """A backup, or what a service that shares folders makes of a conflict; the sweep goes on beside it."""
    results = Results(tmp_path)
    first = results.add(experiment(stage="gen", deployment=GEN, loads=(C1, C2)), LAPTOP)
    finish(first, C1)
    before = results.snapshot()
    for name in (f"0 {first.path.name}", f"{first.path.name} (copy)", f"old-{before.experiments[0].experiment.id}"):
        shutil.copytree(first.path, tmp_path / name)
    shutil.copytree(first.load_folder(C1), first.path / layout.LOADS / f"0{C1.label}.bak")
    taken = results.snapshot(before)
    assert taken.measured() == before.measured() and taken.account() == before.account()
    assert len(taken.damaged) == 4 and all("a copy of" in damage.why for damage in taken.damaged)
    assert taken.folders[0].path == first.path and taken.loads[0].folder == first.load_folder(C1)
    assert results.snapshot(taken) == taken == results.snapshot()
    verdict = verify(results)
    assert {complaint.repair for complaint in verdict.complaints} == {"none"} and not verdict.lost
    finish(first, C2)
    assert len(results.snapshot(taken).loads) == 2
    # Where the first is gone, a copy is what is there.
    shutil.rmtree(first.path)
    shutil.rmtree(tmp_path / f"old-{before.experiments[0].experiment.id}")
    assert len(results.snapshot(taken).experiments) == 1 and len(results.now().damaged) == 1


@pytest.mark.parametrize("before", ["a", "z"])
def test_what_only_a_copy_holds_is_measured(tmp_path: Path, before: str) -> None:
    results = Results(tmp_path)
    first = results.add(experiment(stage="gen", deployment=GEN, loads=(C1, C2)), LAPTOP)
    finish(first, C1)
    other = ExperimentFolder(tmp_path / f"{before}-{first.read().id}")
    shutil.copytree(first.path, other.path)
    finish(other, C2)
    taken = results.snapshot()
    assert {load.folder for load in taken.loads} == {first.load_folder(C1), other.load_folder(C2)}
    assert [damage.file for damage in taken.damaged] == [other.load_folder(C1)]
    assert results.snapshot(taken) == taken
    assert taken.experiment(first.read().id).folder.path == first.path  # type: ignore[union-attr]
    shutil.rmtree(first.path)
    assert {load.folder for load in results.snapshot(taken).loads} == {other.load_folder(C1), other.load_folder(C2)}


def test_a_key_of_a_later_version_is_named(tmp_path: Path) -> None:
    folder = Results(tmp_path).add(experiment(stage="gen", deployment=GEN, loads=(C1,)), LAPTOP)
    file = folder.path / layout.EXPERIMENT
    write_json(file, {**read_json(file), "sharding": "rows"})
    (damage,) = Results(tmp_path).now().damaged
    assert "key 'sharding' is not known; did a later version write it?" in damage.why


def test_a_change_within_the_clocks_grain_is_seen(tmp_path: Path) -> None:
    results = Results(tmp_path)
    folder = results.add(experiment(), LAPTOP)
    taken = results.snapshot()
    launch = folder.new_launch()
    for load in folder.missing():
        finish(folder, load)  # type: ignore[arg-type]
        taken = results.snapshot(taken)
        check_against_folders(results, taken)
    write_json(launch / layout.OUTCOME, to_json(Outcome(ok=True)))
    taken = results.snapshot(taken)
    folder.mark_done()
    check_against_folders(results, results.snapshot(taken))
