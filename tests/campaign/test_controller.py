"""What the controller makes of jobs that end, fail, are refused or cost too much: without a process or a server."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.campaign import controller as controllers
from ratematch.campaign.controller import Controller
from ratematch.campaign.jobs.executor import Executor
from ratematch.campaign.jobs.job import Started
from ratematch.campaign.state import Campaign, Item
from ratematch.errors import RunError, UserError
from ratematch.inputs.find import read_sweep
from ratematch.plan.experiment import Experiment, load_to_json
from ratematch.plan.load import Load
from ratematch.plan.sweep import Sweep
from ratematch.run.failure import Failure
from ratematch.store.files import read_json, write_json
from ratematch.store.folder import ExperimentFolder, Results
from ratematch.store.snapshot import Snapshot
from tests.support.invented import AGG, experiment

SAMPLE = Path(__file__).parents[2] / "results" / "sample"


def finish(folder: ExperimentFolder, load: Load, gpu_hours: float = 0.0) -> None:
    """As a driver leaves a load, in a launch that took so many GPU-hours."""
    measured = next(each for sample in Results(SAMPLE).folders() for each in sample.loads())
    at = folder.load_folder(load)
    at.mkdir(parents=True)
    shutil.copy(measured.folder / "records.parquet", at)
    write_json(at / "measurement.json", read_json(measured.folder / "measurement.json"))
    write_json(at / "loadrun.json", read_json(measured.folder / "loadrun.json") | {"load": load_to_json(load)})
    outcome = {"ok": True, "error": None, "interrupted": False, "measured": 1, "seconds": 1.0, "began": 0.0}
    write_json(folder.new_launch() / "outcome.json", outcome | {"held_s": 3600.0 * gpu_hours, "gpus": 1})


class FakeJob:
    """Ends at its ``polls``-th poll, by measuring what is missing or with ``ending``."""

    adopted = False
    waits_for = None
    broken_nodes: Mapping[str, str] = {}

    def __init__(
        self, folder: ExperimentFolder, ending: Failure | None, gpu_hours: float, polls: int, log: list[str]
    ):
        self.folder = folder
        self.scheduler_job = str(folder.path)
        self._ending, self._gpu_hours, self._polls, self._log = ending, gpu_hours, polls, log
        self.ended = False

    def poll(self) -> bool:
        self._polls -= 1
        if self._polls <= 0 and not self.ended:
            self.ended = True
            for load in self.folder.missing() if self._ending is None else ():
                finish(self.folder, load, self._gpu_hours)
        return not self.ended

    def failure(self) -> Failure | None:
        return self._ending

    def cancel(self, *, wait: bool = True) -> None:
        self._log.append(f"{'wait' if wait else 'stop'} {self.folder.path.name}")
        self.ended = True


class FakeExecutor(Executor):
    """Gives one job at a time, in order; ``endings``: of the jobs in the order they are started, ``None`` = done."""

    def __init__(self, *endings: Failure | UserError | RunError | None, gpu_hours: float = 0.0, polls: int = 1):
        super().__init__("local", max_jobs=8)
        self.retries = True
        self.endings = list(endings)
        self.gpu_hours, self.polls = gpu_hours, polls
        self.log: list[str] = []

    def start(
        self, waiting: Sequence[ExperimentFolder], active: Sequence[object], exclude: Sequence[str] = ()
    ) -> Started:
        if len(active) >= self.max_jobs:
            return []
        ending = self.endings.pop(0) if self.endings else None
        if isinstance(ending, RunError):
            raise ending
        if isinstance(ending, UserError):
            return [(waiting[0], ending)]
        return [(waiting[0], FakeJob(waiting[0], ending, self.gpu_hours, self.polls, self.log))]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controllers, "POLL_S", 0.001)


def sweep(gpu_hours: float | None = None) -> Sweep:
    asked, _ = read_sweep("quickstart")
    return replace(asked, e2e=None, search="grid", budget=replace(asked.budget, gpu_hours=gpu_hours))


TWO = [experiment(), experiment(deployment=replace(AGG, unchecked=("other",)))]


def run(
    at: Path,
    executor: FakeExecutor,
    asked: Sequence[Experiment] = TWO,
    gpu_hours: float | None = None,
    on_update: Callable[[Campaign], None] = lambda campaign: None,
) -> Campaign:
    return Controller(sweep(gpu_hours), Results(at), executor, on_update).run(asked, "the sweep file")


def states(campaign: Campaign) -> list[str]:
    return [item.state for item in campaign.items]


def test_what_is_measured_is_counted_and_done(tmp_path: Path) -> None:
    campaign = run(tmp_path, FakeExecutor(gpu_hours=0.25))
    assert states(campaign) == ["done", "done"] and campaign.stage == "finished"
    loads = sum(len(each.loads) for each in TWO)
    assert campaign.num_measured == loads and campaign.spent.total == pytest.approx(0.25 * loads)
    assert all(item.folder.done() and item.loads_left == 0 for item in campaign.items)
    # A second run finds all of it.
    again = run(tmp_path, FakeExecutor(RunError("nothing may be started")))
    assert states(again) == ["done", "done"] and again.measured_before == loads
    assert again.spent.total == campaign.spent.total


def test_a_failure_is_tried_again_as_often_as_its_class_is_and_the_rest_goes_on(tmp_path: Path) -> None:
    lost = Failure("node failure", "a node failed")
    notes: list[str] = []

    def note(campaign: Campaign) -> None:
        notes.extend(item.note for item in campaign.items if item.note)

    campaign = run(tmp_path, FakeExecutor(lost, Failure("refused", "too large")), on_update=note)
    assert states(campaign) == ["done", "failed"]
    assert campaign.items[0].failures == [lost] and campaign.items[1].error == "too large"
    assert any("node failure, tried again (3 left after it): a node failed" in text for text in notes)


NOT_THERE = Failure("server died", "gen-0 ended: the image (or the node) has no TensorRT-LLM commands; remedy: ...")


@pytest.mark.parametrize("cause", [NOT_THERE, Failure("not installed", "there is no command 'numactl' here")])
def test_a_cause_that_all_share_stops_the_sweep_at_once(tmp_path: Path, cause: Failure) -> None:
    many = [experiment(deployment=replace(AGG, unchecked=(str(number),))) for number in range(9)]
    executor = FakeExecutor(*[cause] * 9)
    executor.max_jobs = 1
    campaign = run(tmp_path, executor, many)
    assert states(campaign) == ["failed"] + ["skipped"] * 8, "not tried again, and nothing else is started"
    reason = campaign.items[1].error
    assert reason is not None and cause.message in reason and many[0].label in reason


def test_a_cause_of_the_site_stops_nothing_once_a_server_was_measured(tmp_path: Path) -> None:
    many = [experiment(deployment=replace(AGG, unchecked=(str(number),))) for number in range(3)]
    executor = FakeExecutor(None, NOT_THERE, None)
    executor.max_jobs = 1
    assert states(run(tmp_path, executor, many)) == ["done", "failed", "done"]


def test_an_experiment_that_the_scheduler_refuses_fails_alone(tmp_path: Path) -> None:
    campaign = run(tmp_path, FakeExecutor(UserError("no such partition")))
    assert states(campaign) == ["failed", "done"]
    assert campaign.items[0].error == "no such partition"


def test_a_scheduler_that_does_not_answer_is_left_alone_for_a_while(tmp_path: Path) -> None:
    waits: list[str | None] = []

    def keep(campaign: Campaign) -> None:
        waits.append(campaign.items[0].waits_for)

    campaign = run(tmp_path, FakeExecutor(RunError("Slurm does not answer")), on_update=keep)
    assert states(campaign) == ["done", "done"]
    assert any(text is not None and text.startswith("Slurm does not answer; asked again in") for text in waits)


def test_when_the_budget_is_spent_what_runs_is_stopped_together_and_what_waits_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controllers, "SNAPSHOT_S", 0.0)
    third = experiment(deployment=replace(AGG, unchecked=("third",)))
    executor = FakeExecutor(polls=1000)
    executor.max_jobs = 2

    def spend(campaign: Campaign) -> None:
        if states(campaign) == ["running", "running", "pending"] and not campaign.items[0].folder.outcomes():
            finish(campaign.items[0].folder, TWO[0].loads[0], gpu_hours=5.0)

    campaign = run(tmp_path, executor, [*TWO, third], gpu_hours=4.0, on_update=spend)
    why = "5.00 GPU-hours are spent and the budget is 4"
    assert states(campaign) == ["skipped"] * 3
    assert [item.error for item in campaign.items] == [f"stopped: {why}", f"stopped: {why}", f"not started: {why}"]
    assert [line.split()[0] for line in executor.log] == ["stop", "stop", "wait", "wait"]
    assert campaign.num_measured == 1


def test_whatever_ends_the_controller_no_job_goes_on(tmp_path: Path) -> None:
    executor = FakeExecutor(polls=1000)

    def interrupt(campaign: Campaign) -> None:
        if states(campaign) == ["running", "running"]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, executor, on_update=interrupt)
    assert [line.split()[0] for line in executor.log] == ["stop", "stop", "wait", "wait"]


def test_the_results_folder_is_read_when_something_has_changed_and_not_in_every_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns, snapshots = 0, 0

    def count(campaign: Campaign) -> None:
        nonlocal turns
        turns += 1

    whole = Results.snapshot

    def counted(results: Results, previous: Snapshot | None = None) -> Snapshot:
        nonlocal snapshots
        snapshots += 1
        return whole(results, previous)

    monkeypatch.setattr(Results, "snapshot", counted)
    run(tmp_path, FakeExecutor(polls=100), on_update=count)
    assert turns > 50
    assert snapshots <= 6


def test_items_are_told_apart_by_identity(tmp_path: Path) -> None:
    folder = Results(tmp_path).add(TWO[0], sweep().cluster)
    first, second = Item(folder, TWO[0]), Item(folder, TWO[0])
    items = [first, second]
    items.remove(second)
    assert items[0] is first
