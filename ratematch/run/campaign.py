"""The controller of a sweep: ctx + gen + ifb, then matching, then the end-to-end stage.

It holds no state of its own. What is done is read from the results folder, so it may be killed at any instant and
started again: finished loads are kept, running jobs are adopted, and only what is missing is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ratematch.match.choose import choose_end_to_end
from ratematch.plan.experiment import Experiment
from ratematch.plan.sweep import Sweep, experiment_of
from ratematch.readout import write_limits
from ratematch.run.jobs import ExecutorName, Job, submit
from ratematch.run.precheck import expand_sweep, refuse_unlaunchable
from ratematch.store import ExperimentFolder, Results, write_json, write_text

POLL_S = 0.25


@dataclass
class Item:
    """One experiment in the controller's eyes. ``state``: pending, running, done, failed or skipped."""

    folder: ExperimentFolder
    experiment: Experiment
    state: str = "pending"
    error: str | None = None
    job: Job | None = None


@dataclass
class Campaign:
    """All experiments of one run of the controller, in order. ``stage``: what is being done, for a view."""

    sweep: Sweep
    results: Results
    items: list[Item] = field(default_factory=list)
    stage: str = "measuring"

    @property
    def failed(self) -> list[Item]:
        return [item for item in self.items if item.state in ("failed", "skipped")]

    @property
    def invalid(self) -> tuple[int, int]:
        """Measured loads of this campaign that may not stand on a front, of how many."""
        loads = [stored for item in self.items for stored in item.folder.loads()]
        return sum(not stored.measurement.valid for stored in loads), len(loads)

    @property
    def nothing_valid(self) -> bool:
        invalid, measured = self.invalid
        return invalid == measured


OnUpdate = Callable[[Campaign], None]


def run_campaign(
    sweep: Sweep, text: str, results: Results, executor: ExecutorName, on_update: OnUpdate, *, again: bool = False
) -> Campaign:
    """Run the whole method for ``sweep`` into ``results``; a failed experiment is an item, not an exception.

    ``again``: measure every load anew; earlier figures are moved aside, never deleted.

    Raises:
        SweepError: the engine would refuse what the sweep asks for.
        DiskFull, ResultsError: the results folder cannot be written.
        KeyboardInterrupt: after every job was told to stop and has.
    """
    campaign = Campaign(sweep, results)
    asked = expand_sweep(sweep).experiments
    refuse_unlaunchable(sweep, asked, here=True)
    results.path.mkdir(parents=True, exist_ok=True)
    write_text(results.path / "sweep.yaml", text)
    write_limits(results, sweep.name, sweep.constraints, sweep.max_gpus)
    _run_all(campaign, asked, executor, on_update, again)
    if sweep.e2e:
        campaign.stage = "matching"
        on_update(campaign)
        chosen = end_to_end_experiments(sweep, results)
        campaign.stage = "measuring end to end"
        _run_all(campaign, chosen, executor, on_update, again)
    campaign.stage = "finished"
    on_update(campaign)
    return campaign


def end_to_end_experiments(sweep: Sweep, results: Results) -> list[Experiment]:
    """The deployments that matching holds worth running, at loads around the concurrency it predicts.

    What is chosen, and why, is written to ``choice.json``. Empty when nothing could be matched.
    """
    plan = sweep.e2e
    assert plan is not None
    measured = results.measured()
    experiments: list[Experiment] = []
    told: list[dict[str, Any]] = []
    for workload in sweep.workloads:
        choices = choose_end_to_end(
            measured,
            workload,
            constraints=sweep.constraints,
            max_gpus=sweep.max_gpus,
            deployments=plan.deployments,
            around=plan.around,
            router=plan.router,
        )
        for choice in choices:
            concurrencies = plan.loads.concurrency or choice.concurrencies
            loads = tuple(load for number in concurrencies for load in plan.loads.at_concurrency(number))
            experiments.append(experiment_of(sweep, "e2e", choice.deployment, workload, loads))
            told.append(
                {
                    "workload": workload.label,
                    "deployment": choice.deployment.label,
                    "why": choice.why,
                    "predicted_tok_s_user": choice.predicted.tok_s_user,
                    "predicted_tok_s_gpu": choice.predicted.tok_s_gpu,
                    "predicted_concurrency": choice.predicted.concurrency,
                    "concurrencies": list(concurrencies),
                }
            )
    write_json(results.path / "choice.json", told)
    return experiments


def _run_all(
    campaign: Campaign, experiments: Sequence[Experiment], executor: ExecutorName, on_update: OnUpdate, again: bool
) -> None:
    items = []
    for experiment in experiments:
        folder = campaign.results.add(experiment, campaign.sweep.cluster)
        if again and not folder.held():
            for load in experiment.loads:
                folder.set_aside(load)
        items.append(Item(folder, experiment, "done" if folder.done() else "pending"))
    campaign.items.extend(items)
    on_update(campaign)
    try:
        for item in items:
            if item.state == "pending":
                _run_one(campaign, item, executor, on_update)
    except BaseException:
        # Ctrl-C, a full disk, anything: no job may go on behind the person's back.
        for item in items:
            if item.job is not None and item.job.running():
                item.job.cancel()
        raise


def _run_one(campaign: Campaign, item: Item, executor: ExecutorName, on_update: OnUpdate) -> None:
    if reason := _over_budget(campaign, item):
        item.state, item.error = "skipped", reason
        return
    # An adopted job may have been asked for fewer loads than this sweep wants: look again when it has ended.
    for _ in range(2):
        item.job = submit(item.folder, executor)
        item.state = "running"
        while item.job.running():
            on_update(campaign)
            time.sleep(POLL_S)
        item.error = item.job.error()
        if not item.job.adopted or item.error is None:
            break
    if item.error is None:
        item.folder.mark_done()
    item.state = "failed" if item.error else "done"
    on_update(campaign)


def _over_budget(campaign: Campaign, item: Item) -> str | None:
    limit = campaign.sweep.budget.gpu_hours
    if limit is None:
        return None
    spent = sum(folder.gpu_hours() for folder in campaign.results.folders())
    if spent < limit:
        return None
    return f"not started: {spent:.2f} GPU-hours are spent and the budget is {limit:g}"
