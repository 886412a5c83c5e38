"""Which aggregated servers an adaptive sweep measures, by what they promise."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from ratematch.campaign.ifb import IFB_SHARE, choose_ifb
from ratematch.campaign.precheck import expand_sweep
from ratematch.inputs.find import read_sweep
from ratematch.plan.budget import minutes_of
from ratematch.plan.experiment import Experiment

SWEEP = str(Path(__file__).parents[2] / "sweeps" / "deepseek-r1.yaml")


@functools.cache
def choose(gpu_hours: float | None) -> tuple[list[Experiment], float, int]:
    """The servers, their GPU-hours, and how many were asked for and left out for a reason."""
    limits = (f"budget.gpu_hours={gpu_hours}",) if gpu_hours else ()
    sweep, _ = read_sweep(SWEEP, ("search=adaptive", *limits))
    asked = [each for each in expand_sweep(sweep).experiments if each.stage == "ifb"]
    chosen, skips = choose_ifb(sweep, asked)
    assert {each.id for each in chosen} | {skip.experiment for skip in skips} == {each.id for each in asked}
    assert len(chosen) + len(skips) == len(asked)
    assert all(skip.why for skip in skips)
    return chosen, sum(minutes_of(sweep, each) * each.deployment.gpus / 60 for each in chosen), len(sweep.workloads)


@pytest.mark.parametrize("gpu_hours", [120.0, 400.0])
def test_within_a_budget_aggregated_servers_take_a_share_of_it(gpu_hours: float) -> None:
    chosen, hours, num_workloads = choose(gpu_hours)
    assert 0 < hours <= IFB_SHARE * gpu_hours
    assert len({each.workload for each in chosen}) == num_workloads
    assert all(each.loads for each in chosen)


def test_one_of_each_workload_is_measured_whatever_it_costs() -> None:
    chosen, hours, num_workloads = choose(3.0)
    assert len(chosen) == num_workloads
    assert hours > IFB_SHARE * 3


def test_more_budget_measures_more_and_no_budget_all_that_come_near_the_front() -> None:
    few, some, every = (choose(hours)[0] for hours in (60.0, 400.0, None))
    assert len(few) < len(some) < len(every)
    assert {each.id for each in few} <= {each.id for each in some} <= {each.id for each in every}
    # Without a budget at their whole ladders.
    whole = {each.id: set(each.loads) for each in every}
    assert all(set(each.loads) <= whole[each.id] for each in some)
    assert any(set(each.loads) < whole[each.id] for each in some)
