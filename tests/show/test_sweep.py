"""The live view of a sweep: what a person sees of jobs that run, wait, fail and are done."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ratematch.campaign.state import Campaign, Item
from ratematch.inputs.find import read_sweep
from ratematch.plan.budget import estimate
from ratematch.show.terminal import Terminal, command_line
from ratematch.show.views.sweep import SweepView, experiment_table, head_lines
from ratematch.store.folder import GpuHours, Results
from ratematch.store.progress import Measuring
from tests.support.invented import GEN, LAPTOP, PAIR, experiment

MEASURING = Measuring(
    load="c4-n8",
    load_number=2,
    loads=2,
    part="load",
    total=8,
    done=5,
    failed=0,
    in_flight=4,
    tok_s=321.4,
    ttft_ms=23.4,
    time=0.0,
)


@dataclass
class Waiting:
    """A job in the queue."""

    waits_for: str | None = "job 7 pending (Resources)"
    scheduler_job: str = "7"


def as_text(*parts: Any) -> str:
    console = Console(width=140, record=True, file=io.StringIO())
    for part in parts:
        console.print(part)
    return console.export_text()


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    sweep, _ = read_sweep("quickstart")
    sweep = replace(sweep, budget=replace(sweep.budget, gpu_hours=2.0))
    results = Results(tmp_path)
    experiments = [experiment(), experiment("gen", GEN), experiment("e2e", PAIR)]
    items = [Item(results.add(each, LAPTOP), each) for each in experiments]
    items[0].state = items[1].state = "running"
    items[0].folder.write_progress(MEASURING)
    items[1].job = Waiting()  # type: ignore[assignment]
    items[2].state, items[2].error = "failed", "agg-0 ended with exit code 1\n    its log"
    campaign = Campaign(sweep, results, items, spent=GpuHours(0.5, 0.25, 1.25))
    campaign.expected = estimate(sweep, experiments)
    return campaign


def test_each_experiment_says_what_it_does_or_why_it_waits(campaign: Campaign) -> None:
    table = as_text(experiment_table(campaign, [1, 2, 2]))
    running, waiting, failed = table.splitlines()[1:4]
    assert running.startswith(">")
    for word in (campaign.items[0].experiment.label, "1/2", "321", "23", "4", "c4-n8 (2/2) load 5/8"):
        assert word in running
    assert "job 7 pending (Resources)" in waiting and waiting.startswith("~")
    assert "agg-0 ended with exit code 1" in failed and "its log" not in table


def test_the_head_says_how_far_and_what_is_spent_of_what(campaign: Campaign) -> None:
    campaign.began -= 100.0
    head = as_text(*head_lines(campaign, 3, 6))
    assert "quickstart: measuring" in head and "3/6 loads" in head
    assert "0:01:40, about 0:01:40 left" in head
    assert "1 running, 1 in the queue, 1 failed" in head
    assert "GPU-hours 1.25 of 2, 0.75 left; the plan was estimated at" in head


def test_a_plan_larger_than_its_budget_is_told_once_before_it_is_spent(campaign: Campaign) -> None:
    campaign.sweep = replace(campaign.sweep, budget=replace(campaign.sweep.budget, gpu_hours=0.001))
    console = Console(width=200, record=True, file=io.StringIO(), force_terminal=False)
    view = SweepView(console)
    view.update(campaign)
    view.update(campaign)
    printed = console.export_text()
    assert printed.count("GPU-hours and the budget is 0.001: it stops in order when they are spent") == 1


def test_the_end_sends_nobody_to_fronts_that_nothing_was_measured_for(campaign: Campaign) -> None:
    console = Console(width=200, record=True, file=io.StringIO(), force_terminal=False)
    SweepView(console).print_outcome(campaign)
    printed = console.export_text()
    assert "run the same command again" in printed and "ratematch pareto" not in printed


@pytest.mark.parametrize("name", ["a[/b]", "[y]", "a b;$(id)", "x\x1b[2J"])
def test_what_to_type_next_is_whole_and_quoted(campaign: Campaign, tmp_path: Path, name: str) -> None:
    results = Results(tmp_path / name)
    folder = results.add(experiment(), LAPTOP)
    campaign.results, campaign.items = results, [Item(folder, experiment())]
    campaign.items[0].state = "failed"
    campaign.items[0].error = "[/red] \x1b]0;t\x07 said the server"
    console = Terminal(width=400, file=io.StringIO(), force_terminal=False)
    SweepView(console).print_outcome(campaign)
    SweepView(console).update(campaign)
    campaign.num_measured = 1
    SweepView(console).print_outcome(campaign)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[/red] \\x1b]0;t said the server" in printed and "\x1b" not in printed and "\x07" not in printed
    assert f"next: {command_line('ratematch', 'pareto', results.path)}\n" in printed
