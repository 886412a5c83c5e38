"""Where the time of GPUs went, those that nothing ran on included."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from ratematch.plan.cluster import Cluster
from ratematch.plan.workload import Workload
from ratematch.show.views.status import print_status, status_to_json
from ratematch.store.folder import Results
from ratematch.store.gputime import HeldMachine, gpu_time, write_machine
from ratematch.store.outcome import Outcome
from ratematch.store.sweeprun import ControllerPlan
from tests.support.invented import AGG, experiment

CLUSTER = Cluster("local", "h200", gpus_per_node=8, nodes=1)


def results_with(path: Path, executor: str, *began: float) -> Results:
    """An experiment of 4 GPUs for each of ``began``: 100 s of start, 50 s of loads, 150 s held."""
    results = Results(path)
    for number, at in enumerate(began):
        asked = experiment("ifb", AGG, Workload(64, 8 + number), emulated=False)
        folder = results.add(asked, CLUSTER)
        outcome = Outcome(ok=True, seconds=150.0, began=at, starting_s=100.0, measuring_s=50.0, held_s=150.0, gpus=4)
        folder.write_outcome(folder.new_launch(), outcome)
    results.write_controller_plan(ControllerPlan(began[0], executor))
    return results


def test_gpus_of_the_machine_that_no_experiment_had_are_unused(tmp_path: Path) -> None:
    results = results_with(tmp_path, "local", 1000.0, 1160.0)
    write_machine(tmp_path, [HeldMachine(1000.0, 1320.0, 8)])
    spent = gpu_time(results, results.now())
    assert (spent.held, spent.measuring, spent.starting) == (320 * 8, 2 * 50 * 4, 2 * 100 * 4)
    assert spent.unused == 320 * 8 - 2 * 150 * 4 and spent.other == 0
    assert spent.share == pytest.approx(400 / 2560)
    content = status_to_json(results)
    assert content["gpu_seconds"]["share_measuring"] == spent.share
    assert [row["share_measuring"] for row in content["experiments"]] == pytest.approx([1 / 3, 1 / 3])


def test_of_sweeps_that_kept_no_account_launches_say_it_up_to_a_long_pause(tmp_path: Path) -> None:
    results = results_with(tmp_path, "local", 1000.0, 1160.0, 9000.0)
    spent = gpu_time(results, results.now())
    assert spent.held == pytest.approx((310 + 150) * 8)


def test_what_nodes_got_before_servers_started_is_a_part_of_the_start(tmp_path: Path) -> None:
    results = results_with(tmp_path, "slurm", 1000.0)
    (folder,) = results.folders()
    outcome = Outcome(ok=True, seconds=150.0, began=5000.0, starting_s=90.0, preparing_s=36.0, held_s=150.0, gpus=4)
    folder.write_outcome(folder.new_launch(), outcome)
    assert folder.outcomes()[-1].preparing_s == 36.0
    content = status_to_json(results)
    assert content["gpu_hours_of"]["starting"] == pytest.approx((100 + 90) * 4 / 3600)
    assert content["gpu_hours_preparing"] == pytest.approx(36 * 4 / 3600)
    console = Console(file=io.StringIO(), width=200)
    print_status(content, console)
    assert "0.04 GPU-hours of starting went into unpacking the image and copying weights" in console.file.getvalue()


def test_nodes_that_a_scheduler_gives_are_held_for_launches_alone(tmp_path: Path) -> None:
    results = results_with(tmp_path, "slurm", 1000.0, 5000.0)
    spent = gpu_time(results, results.now())
    assert spent.held == pytest.approx(2 * 150 * 4) and spent.unused == pytest.approx(0.0)
