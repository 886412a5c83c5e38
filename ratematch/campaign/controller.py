"""The controller of a sweep: ctx + gen + ifb, then matching, then the end-to-end stage.

It holds no state of its own. What is done is read from the results folder, so it may be killed at any instant and
started again: finished loads are kept, running jobs are adopted, and only what is missing is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ratematch.analysis.analyze import write_limits
from ratematch.campaign.decisions import write_ifb_choice
from ratematch.campaign.endtoend import EndToEnd, end_to_end_experiments, say_nothing_chosen
from ratematch.campaign.ifb import choose_ifb
from ratematch.campaign.jobs.executor import Executor
from ratematch.campaign.jobs.job import Job
from ratematch.campaign.nodes import excluded_nodes, remember_nodes
from ratematch.campaign.precheck import expand_sweep, refuse_mixture, refuse_unlaunchable
from ratematch.campaign.search import Search, Supplier
from ratematch.errors import DiskFull, RunError, UserError
from ratematch.plan.budget import Estimate, estimate, minutes_of
from ratematch.plan.experiment import Experiment
from ratematch.plan.sweep import Sweep, expand_written_out
from ratematch.run import followup
from ratematch.run.failure import Failure, tries_left
from ratematch.simulate.forecasts import forecast_experiment
from ratematch.slurm.queue import SLOWEST_S
from ratematch.store import filelock
from ratematch.store.files import write_json, write_text
from ratematch.store.folder import ExperimentFolder, GpuHours, Results

POLL_S = 0.25
COUNT_S = 2.0
"""How often GPU-hours are added up while jobs run."""


@dataclass
class Item:
    """One experiment in the controller's eyes. ``state``: pending, running, done, failed or skipped.

    ``note``: why it waits, or what it is tried again after. ``failures``: of its jobs in this run of the controller.
    ``tried``: a job was sent for all that this sweep wants of it.
    """

    folder: ExperimentFolder
    experiment: Experiment
    state: str = "pending"
    error: str | None = None
    job: Job | None = None
    note: str | None = None
    failures: list[Failure] = field(default_factory=list)
    tried: bool = False

    @property
    def waits_for(self) -> str | None:
        """What it waits for, if anything: a retry, the scheduler, its turn."""
        return self.note or (self.job.waits_for if self.job and self.state == "running" else None)


@dataclass
class Campaign:
    """All experiments of one run of the controller, in order. ``stage``: what is being done, for a view.

    ``began``: when (monotonic clock), with ``measured_before`` loads there already. ``expected``: what the plan was
    estimated at. ``spent``: added up now and then, next at ``count_at``.
    ``quiet_until``: the scheduler did not answer, so nothing is asked of it before that instant.
    ``count_at``: when to add up GPU-hours next. ``notes``: what a person must know at the end.
    """

    sweep: Sweep
    results: Results
    items: list[Item] = field(default_factory=list)
    stage: str = "measuring"
    began: float = field(default_factory=time.monotonic)
    measured_before: int = 0
    expected: Estimate | None = None
    spent: GpuHours = field(default_factory=GpuHours)
    quiet_s: float = POLL_S
    quiet_until: float = 0.0
    count_at: float = 0.0
    notes: list[str] = field(default_factory=list)

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
    sweep: Sweep, text: str, results: Results, executor: Executor, on_update: OnUpdate, *, again: bool = False
) -> Campaign:
    """Run the whole method for ``sweep`` into ``results``; a failed experiment is an item, not an exception.

    ``again``: measure every load anew; earlier figures are moved aside, never deleted.

    Raises:
        SweepError: the engine would refuse what the sweep asks for. UserError: the scheduler would.
        RunError: another controller is running this sweep, or the scheduler does not answer.
        DiskFull, ResultsError: the results folder cannot be written.
        KeyboardInterrupt: after every job was told to stop and has.
    """
    campaign = Campaign(sweep, results)
    asked = expand_sweep(sweep).experiments
    campaign.expected = estimate(sweep, asked)
    refuse_unlaunchable(sweep, asked, here=not sweep.simulated)
    refuse_mixture(results, sweep)
    executor.refuse_unsendable(sweep.cluster, asked)
    results.path.mkdir(parents=True, exist_ok=True)
    with filelock.hold(
        results.path / "controller.lock", f"{results.path}: another `ratematch sweep` ({{}}) runs this"
    ):
        _run_stages(campaign, asked, text, executor, on_update, again)
    return campaign


def _run_stages(
    campaign: Campaign, asked: Sequence[Experiment], text: str, executor: Executor, on_update: OnUpdate, again: bool
) -> None:
    sweep, results = campaign.sweep, campaign.results
    write_text(results.path / "sweep.yaml", text)
    write_limits(results, sweep.name, sweep.constraints, sweep.max_gpus)
    expected = campaign.expected
    write_json(
        results.path / "controller.json",
        {
            "began": time.time(),
            "executor": executor.name,
            "budget_gpu_hours": sweep.budget.gpu_hours,
            "expected_gpu_hours": expected.gpu_hours if expected else None,
            "expected_minutes": expected.minutes if expected else None,
        },
    )
    runs = None
    if sweep.search == "adaptive":
        runs = _run_search(campaign, asked, executor, on_update, again)
    else:
        _run_all(campaign, asked, executor, on_update, again)
    if sweep.e2e:
        _run_end_to_end(campaign, runs, executor, on_update, again)
    campaign.stage = "finished"
    on_update(campaign)


def _run_end_to_end(
    campaign: Campaign, runs: EndToEnd | None, executor: Executor, on_update: OnUpdate, again: bool
) -> None:
    """After a grid every deployment worth it at once; after a search what ``runs`` has left to do, and what measuring
    that shows to be worth it beside."""
    sweep, results = campaign.sweep, campaign.results
    campaign.stage = "matching"
    on_update(campaign)
    chosen = end_to_end_experiments(sweep, results) if runs is None else runs.take_rest()
    if not chosen:
        campaign.notes.append(say_nothing_chosen(sweep, results))
    campaign.stage = "measuring end to end"
    seen = {item.experiment.id for item in campaign.items} if runs is not None else set()
    while fresh := [each for each in chosen if each.id not in seen]:
        _run_all(campaign, fresh, executor, on_update, again)
        seen |= {each.id for each in fresh}
        chosen = runs.take_rest() if runs is not None else []


def _run_search(
    campaign: Campaign, asked: Sequence[Experiment], executor: Executor, on_update: OnUpdate, again: bool
) -> EndToEnd | None:
    """Ctx and gen as :class:`ratematch.campaign.search.Search` decides; before them what the file spells out, after
    them the aggregated servers worth comparing with. Returns the end-to-end runs that were decided on between.
    """
    if again:
        raise UserError("search: adaptive goes on from what is measured: --again does not go with it")
    sweep, results = campaign.sweep, campaign.results
    written_out = {each.id for each in expand_written_out(sweep)}
    parts = [each for each in asked if each.stage in ("ctx", "gen")]
    ifb, left_out = choose_ifb(sweep, [each for each in asked if each.stage == "ifb" and each.id not in written_out])
    _run_all(campaign, [each for each in asked if each.id in written_out], executor, on_update, again)

    def failed() -> set[str]:
        return {item.experiment.id for item in campaign.items if item.state == "failed"}

    runs = None
    if sweep.e2e:
        forecasts = [(each, forecast_experiment(each, sweep.cluster)) for each in ifb]
        runs = EndToEnd(sweep, results, {each.id: each for each in parts}, forecasts, failed)
    search = Search(sweep, results, parts, runs if sweep.budget.gpu_hours is not None else None)
    waiting = [each for each in ifb if not results.folder_of(each).done()]
    kept = sum(minutes_of(sweep, each) * each.deployment.gpus / 60 for each in waiting)
    campaign.stage = "searching"
    _run_all(campaign, (), executor, on_update, again, Supplier(sweep, results, search, kept, failed))
    write_ifb_choice(results, [each.label for each in ifb], left_out)
    campaign.stage = "measuring IFB"
    _run_all(campaign, ifb, executor, on_update, again)
    return runs


def _run_all(
    campaign: Campaign,
    experiments: Sequence[Experiment],
    executor: Executor,
    on_update: OnUpdate,
    again: bool,
    supplier: Supplier | None = None,
) -> None:
    """Run ``experiments``; and, as long as there is room, what ``supplier`` gives, told what is under way."""
    items = []
    for experiment in experiments:
        folder = campaign.results.add(experiment, campaign.sweep.cluster)
        followup.close(folder)
        if again and not folder.held():
            for load in experiment.loads:
                folder.set_aside(load)
        items.append(Item(folder, experiment, "done" if folder.done() else "pending"))
    campaign.items.extend(items)
    campaign.measured_before += sum(len(item.experiment.loads) - len(item.folder.missing()) for item in items)
    on_update(campaign)
    waiting = [item for item in items if item.state == "pending"]
    active: list[Item] = []
    try:
        while _take_from(supplier, campaign, waiting, active, executor) or waiting or active:
            _start_some(campaign, waiting, active, executor)
            for item in [item for item in active if item.job and not item.job.poll()]:
                active.remove(item)
                if _settle(campaign, item, executor):
                    waiting.append(item)
            if supplier is not None:
                for item in active:
                    if followup.is_asking(item.folder):
                        supplier.answer(item.folder, [each.experiment for each in (*waiting, *active)])
            on_update(campaign)
            if time.monotonic() > campaign.count_at and (reason := _over_budget(campaign)) and active:
                _stop_all(active)
                for item in active:
                    item.state, item.error = "skipped", f"stopped: {reason}"
                active.clear()
            if active or waiting:
                time.sleep(POLL_S)
    except BaseException:
        # Ctrl-C, a full disk, anything: no job may go on behind the person's back.
        _stop_all([item for item in active if item.job is not None and item.job.poll()])
        raise


def _take_from(
    supplier: Supplier | None,
    campaign: Campaign,
    waiting: list[Item],
    active: Sequence[Item],
    executor: Executor,
) -> bool:
    """Let ``supplier`` fill the room that there is; true when it gave something. Its experiments may come again, with
    further loads."""
    given = False
    while supplier is not None and len(waiting) + len(active) < (executor.max_jobs or 1):
        busy = [item.experiment for item in (*waiting, *active)]
        if _over_budget(campaign) or (experiment := supplier.next(busy)) is None:
            break
        item = Item(campaign.results.add(experiment, campaign.sweep.cluster), experiment)
        supplier.sent(item.folder)
        campaign.items.append(item)
        waiting.append(item)
        given = True
    return given


def _start_some(campaign: Campaign, waiting: list[Item], active: list[Item], executor: Executor) -> None:
    """Move items from ``waiting`` to ``active`` as long as the executor starts their jobs; none while the scheduler
    does not answer, or asks us to wait."""
    while waiting and time.monotonic() >= campaign.quiet_until:
        if reason := _over_budget(campaign):
            for item in waiting:
                item.state, item.error = "skipped", f"not started: {reason}"
            waiting.clear()
            return
        exclude = list(excluded_nodes(campaign.results))
        try:
            begun = executor.start(
                [item.folder for item in waiting], [item.job for item in active if item.job], exclude
            )
        except DiskFull:
            raise
        except RunError as error:
            campaign.quiet_s = min(SLOWEST_S, 2 * campaign.quiet_s)
            campaign.quiet_until = time.monotonic() + campaign.quiet_s
            waiting[0].note = f"{error}; asked again in {campaign.quiet_s:.0f} s"
            return
        if not begun:
            return
        campaign.quiet_s = POLL_S
        of_folder = {item.folder.path: item for item in waiting}
        for folder, job in begun:
            item = of_folder[folder.path]
            waiting.remove(item)
            if isinstance(job, UserError):
                item.state, item.error = "failed", str(job)
                continue
            item.job, item.state, item.note = job, "running", None
            active.append(item)


def _settle(campaign: Campaign, item: Item, executor: Executor) -> bool:
    """Take down how the item's job ended; true when the experiment is to be tried again."""
    job = item.job
    assert job is not None
    remember_nodes(campaign.results, job.broken_nodes, item.experiment.label)
    failure = job.failure()
    if failure is None:
        item.folder.mark_done()
        item.state, item.error = "done", None
        return False
    # An adopted job may have been asked for fewer loads than this sweep wants: that is no failure of ours.
    stale = job.adopted and not item.tried and failure.kind != "cancelled"
    left = tries_left(failure, item.failures) if executor.retries else 0
    item.failures.append(failure)
    item.tried = item.tried or not job.adopted
    if stale or left:
        item.state = "pending"
        item.note = f"{failure.kind}, tried again ({left} left after it): {failure}".splitlines()[0]
        item.tried = True
        return True
    item.state, item.error = "failed", str(failure)
    return False


def _stop_all(items: Sequence[Item]) -> None:
    """Tell every job to stop, then wait for each: they stop at the same time."""
    for item in items:
        if item.job is not None:
            item.job.cancel(wait=False)
    for item in items:
        if item.job is not None:
            item.job.cancel()


def _over_budget(campaign: Campaign) -> str | None:
    """Why no more may be spent, running jobs included; ``None`` while more may be."""
    campaign.count_at = time.monotonic() + COUNT_S
    campaign.spent = campaign.results.account()
    limit, spent = campaign.sweep.budget.gpu_hours, campaign.spent.total
    if limit is None or spent < limit:
        return None
    return f"{spent:.2f} GPU-hours are spent and the budget is {limit:g}"
