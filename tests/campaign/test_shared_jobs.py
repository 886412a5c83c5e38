"""Jobs on this machine whose servers measure several experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ratematch.campaign.jobs import here
from ratematch.campaign.jobs.here import choose_here
from ratematch.campaign.jobs.local import LocalJob
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment
from ratematch.plan.workload import Workload
from ratematch.store.folder import ExperimentFolder, Results
from ratematch.store.outcome import Outcome
from tests.support.invented import experiment, group

MACHINE = Cluster("local", "h200", gpus_per_node=2, nodes=1, start_minutes=2, load_minutes=1)


class Process:
    """Of submitit, as far as it is asked."""

    def __init__(self) -> None:
        self.ended = False

    def done(self) -> bool:
        return self.ended

    def result(self) -> Any:
        raise RuntimeError("killed")


def folders(path: Path, *gpus: int) -> list[ExperimentFolder]:
    """An experiment for each number of GPUs."""
    asked = [
        experiment("ifb", Deployment(agg=group("agg", f"TP{each}")), Workload(64, 8 + k), emulated=False)
        for k, each in enumerate(gpus)
    ]
    return [Results(path).add(each, MACHINE) for each in asked]


def finish(folder: ExperimentFolder) -> None:
    for load in folder.read().loads:
        folder.load_folder(load).mkdir(parents=True)
        (folder.load_folder(load) / "loadrun.json").write_text("{}")
    folder.mark_done()


def test_each_experiment_is_over_when_its_loads_are_measured(tmp_path: Path) -> None:
    process: Any = Process()
    together = folders(tmp_path, 1, 1)
    host, guest = (LocalJob(folder, process, together) for folder in together)
    assert host.poll() and guest.poll() and host.scheduler_job == guest.scheduler_job
    assert host.waits_for is None and guest.waits_for == f"the servers of {together[0].path.name}, which it shares"
    finish(together[0])
    assert not host.poll() and guest.poll() and host.failure() is None
    with together[1].lock():
        assert guest.waits_for is None


def test_a_guest_that_was_never_begun_has_not_failed(tmp_path: Path) -> None:
    process: Any = Process()
    together = folders(tmp_path, 1, 1)
    host, guest = (LocalJob(folder, process, together) for folder in together)
    together[0].write_outcome(together[0].new_launch(), Outcome(ok=False, error="no memory", kind="ServerDied"))
    process.ended = True
    assert not guest.poll() and not host.adopted
    first, second = host.failure(), guest.failure()
    assert first and (first.kind, first.message) == ("server died", "no memory")
    # As one of a job that was taken over, which the controller starts again by itself.
    assert guest.adopted and second and second.kind == "not started"
    assert second.message.endswith("which it was to share, ended before its turn")


def test_gpus_are_filled_by_the_rule_of_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process: Any = Process()
    held: list[int] = []
    monkeypatch.setattr(here, "held_gpus", lambda of: held)
    large, small, other = folders(tmp_path, 2, 1, 1)
    assert choose_here([large, small], []) == (0, 0)
    running = [LocalJob(other, process)]
    assert choose_here([small, large], running) == (0, 0)
    assert choose_here([large, small], running) == (None, 1), "it would hold up the large one"
    running[0].expected_end_min += 1
    assert choose_here([large, small], running) == (1, 0)
    held[:] = [0, 1]
    assert choose_here([small], running) == (None, 0), "another sweep has the other one"
    assert choose_here([large], []) == (0, 0), "nothing runs here: its process waits and says so"
