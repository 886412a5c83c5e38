"""The controller of a sweep: ctx + gen + ifb, then matching, then the end-to-end stage.

What is done is read from the results folder, so the controller may be killed at any instant and started again:
finished loads are kept, running jobs are adopted, and only what is missing is measured. In memory it has only what is
under way. It works in turns: it polls its jobs, and when something has changed it takes one snapshot of the results
folder, by which everything in this turn is decided.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ratematch.campaign import contract, secrets
from ratematch.campaign.decisions import IfbChoice, read_ifb_choice, write_ifb_choice
from ratematch.campaign.endtoend import EndToEnd, describe_nothing_chosen, end_to_end_experiments
from ratematch.campaign.ifb import choose_ifb, keep_left_out
from ratematch.campaign.jobs.executor import Executor
from ratematch.campaign.machine import holding_machine
from ratematch.campaign.nodes import excluded_nodes, remember_nodes
from ratematch.campaign.precheck import expand_sweep, refuse_mixture
from ratematch.campaign.refine import Refining
from ratematch.campaign.search import Search
from ratematch.campaign.state import Campaign, Item, OnUpdate
from ratematch.campaign.turn import Turn
from ratematch.errors import DiskFull, RunError, UserError
from ratematch.plan.budget import estimate, minutes_of
from ratematch.plan.deployment import Stage
from ratematch.plan.expansion import expand_written_out
from ratematch.plan.experiment import Experiment
from ratematch.plan.maskedyaml import mask_yaml
from ratematch.plan.sweep import Sweep
from ratematch.run import followup
from ratematch.run.failure import tries_left
from ratematch.simulate.forecasts import forecast_experiment
from ratematch.slurm.queue import SLOWEST_S
from ratematch.store import filelock, layout
from ratematch.store.folder import Results
from ratematch.store.masking import mask
from ratematch.store.preparing import learnt_minutes
from ratematch.store.snapshot import Snapshot
from ratematch.store.sweeprun import ControllerPlan, SweepLimits

POLL_S = 0.25
"""Pause between two turns."""
SNAPSHOT_S = 2.0
"""A snapshot is taken so often while no job changes: GPU-hours are spent all the same."""


def run_campaign(
    sweep: Sweep, text: str, results: Results, executor: Executor, on_update: OnUpdate, *, again: bool = False
) -> Campaign:
    """Run the whole method for ``sweep`` into ``results``; a failed experiment is an item, not an exception.

    ``text``: the sweep file, kept with the results. ``on_update``: called whenever something may have changed.
    ``again``: measure every load anew; earlier figures are moved aside, never deleted.

    Raises:
        SweepError: the engine would refuse what the sweep asks for. UserError: the scheduler would.
        RunError: another controller is running this sweep, or the scheduler does not answer.
        DiskFull, ResultsError: the results folder cannot be written.
        KeyboardInterrupt: after every job was asked to stop and has.
    """
    requested = expand_sweep(sweep).experiments
    values = {} if executor.name == "simulate" else secrets.find_values(sweep)
    prepared = contract.prepare(sweep, requested)
    refuse_mixture(results, sweep)
    executor.refuse_unsendable(sweep.cluster, requested, results.path)
    results.path.mkdir(parents=True, exist_ok=True)
    lock = results.path / layout.CONTROLLER_LOCK
    with (
        filelock.hold(lock, f"{results.path}: another `ratematch sweep` ({{}}) runs this"),
        secrets.handing_over(sweep, values, results) as handed,
        holding_machine(results, sweep.cluster, executor.name),
    ):
        controller = Controller(sweep, results, executor, on_update, again=again, handed=handed)
        contract.settle(controller.campaign, prepared, executor, on_update)
        return controller.run(requested, text)


class Controller:
    """Runs one sweep. Only one at a time may work in a results folder (:func:`run_campaign` sees to it).

    ``campaign``: what a view shows. Beside it: items that wait for a job (``_waiting``) and that have one
    (``_active``), the last snapshot of the results folder, whether something that decisions rest on has changed since
    (``_outdated``), until when a scheduler is left alone that does not answer, secrets for jobs (``_handed``)."""

    def __init__(
        self,
        sweep: Sweep,
        results: Results,
        executor: Executor,
        on_update: OnUpdate,
        *,
        again: bool = False,
        handed: secrets.Handed | None = None,
    ):
        self.campaign, self._handed = Campaign(sweep, results), handed or secrets.Handed({})
        self._sweep = sweep
        self._results = results
        self._executor = executor
        self._on_update = on_update
        self._again = again
        self._waiting: list[Item] = []
        self._active: list[Item] = []
        self._snapshot: Snapshot | None = None
        self._snapshot_due = 0.0
        self._outdated = True
        self._quiet_s = POLL_S
        self._quiet_until = 0.0

    def run(self, requested: Sequence[Experiment], text: str) -> Campaign:
        """Measure the ``requested`` experiments, or those that a search decides on, then the end-to-end runs."""
        learnt_min = learnt_minutes(self._results.path, self._sweep.cluster)
        self.campaign.expected = estimate(self._sweep, requested, learnt_min)
        self._write_plan(text)
        runs = None
        if self._sweep.search == "adaptive":
            runs = self._run_search(requested)
        else:
            self._measure(requested, self._refining("ifb"))
        if self._sweep.e2e:
            self._run_end_to_end(runs)
        self._take_snapshot()
        self.campaign.count_loads(self._turn())
        self._enter("finished")
        return self.campaign

    # -- stages -------------------------------------------------------------------------------------------------

    def _write_plan(self, text: str) -> None:
        """Write what is run, and what it is expected to take."""
        sweep, expected = self._sweep, self.campaign.expected
        limits = SweepLimits.of(sweep.name, sweep.constraints, sweep.max_gpus)
        self._results.write_sweep(mask(mask_yaml(text)), limits)
        self._results.write_controller_plan(
            ControllerPlan(
                began=time.time(),
                executor=self._executor.name,
                budget_gpu_hours=sweep.budget.gpu_hours,
                expected_gpu_hours=expected.gpu_hours if expected else None,
                expected_minutes=expected.minutes if expected else None,
            )
        )

    def _run_search(self, requested: Sequence[Experiment]) -> EndToEnd | None:
        """First the deployments written out in the file, then ctx and gen as the search decides, then the aggregated
        servers worth comparing with. Returns the end-to-end runs that were decided on meanwhile.
        """
        if self._again:
            raise UserError("search: adaptive goes on from what is measured: --again does not go with it")
        sweep, results = self._sweep, self._results
        written_out = {experiment.id for experiment in expand_written_out(sweep)}
        servers = [experiment for experiment in requested if experiment.stage in ("ctx", "gen")]
        aggregated = [
            experiment for experiment in requested if experiment.stage == "ifb" and experiment.id not in written_out
        ]
        hours = sweep.budget.gpu_hours
        ifb, left_out = keep_left_out(read_ifb_choice(results), hours, *choose_ifb(sweep, aggregated))
        labels = tuple(experiment.label for experiment in ifb)
        self._measure([experiment for experiment in requested if experiment.id in written_out])

        runs = None
        if sweep.e2e:
            forecasts = [
                (experiment, forecast_experiment(experiment, sweep.cluster, sweep.step_times)) for experiment in ifb
            ]
            runs = EndToEnd(sweep, results, {server.id: server for server in servers}, forecasts)
        to_come = [experiment for experiment in ifb if not results.folder_of(experiment).done()]
        to_keep = sum(minutes_of(sweep, experiment) * experiment.deployment.gpus / 60 for experiment in to_come)
        competing = runs if hours is not None else None
        self._enter("searching")
        self._measure((), Search(sweep, results, servers, competing, to_keep))
        write_ifb_choice(results, IfbChoice(labels, tuple(left_out), hours))
        self._enter("measuring IFB")
        self._measure(ifb, self._refining("ifb"))
        return runs

    def _run_end_to_end(self, runs: EndToEnd | None) -> None:
        """After a grid every deployment worth it at once; after a search what ``runs`` has left to do, and what
        measuring that shows to be worth it beside."""
        self._enter("matching")
        if runs is None and (unsettled := self.campaign.unsettled()):
            self.campaign.notes.append(
                f"nothing is run end to end: {unsettled} not fully measured, and what is missing may change the "
                "choice; the same command goes on"
            )
            return
        chosen = end_to_end_experiments(self._sweep, self._results) if runs is None else self._rest_of(runs)
        if not chosen:
            self.campaign.notes.append(describe_nothing_chosen(self._sweep, self._results))
        self._enter("measuring end to end")
        seen = {item.experiment.id for item in self.campaign.items} if runs is not None else set()
        while fresh := [experiment for experiment in chosen if experiment.id not in seen]:
            self._measure(fresh, self._refining("e2e"))
            seen |= {experiment.id for experiment in fresh}
            chosen = self._rest_of(runs) if runs is not None else []

    def _rest_of(self, runs: EndToEnd) -> list[Experiment]:
        """Decide on the runs that are worth it now, beside those decided on before."""
        self._take_snapshot()
        return runs.take_rest(self._turn())

    def _refining(self, stage: Stage) -> Refining | None:
        """What adds loads to a stage; ``None`` where the sweep names no speed to choose at."""
        e2e = self._sweep.e2e
        return (
            Refining(self._sweep, stage, self.campaign.notes.append) if e2e and e2e.refine and e2e.choose_at else None
        )

    def _enter(self, stage: str) -> None:
        self.campaign.stage = stage
        self._on_update(self.campaign)

    # -- turns --------------------------------------------------------------------------------------------------

    def _measure(self, experiments: Sequence[Experiment], search: Search | Refining | None = None) -> None:
        """Run ``experiments``; and, as long as there is room, what ``search`` decides on. Until nothing is left."""
        self._add_items(experiments, search)
        self.campaign.warn(self._executor.warnings(self._sweep.cluster, experiments))
        self._on_update(self.campaign)
        if not self._waiting and search is None:
            return
        self._outdated = True
        try:
            while True:
                self._take_turn(search)
                if not (self._waiting or self._active or self._outdated):
                    return
                time.sleep(POLL_S)
        except BaseException:
            # Ctrl-C, a full disk, anything: no job may go on behind the person's back.
            self._stop([item for item in self._active if item.job is not None and item.job.poll()])
            raise

    def _take_turn(self, search: Search | Refining | None) -> None:
        """Poll jobs; when something has changed, look at the results and decide. Start what may start."""
        ended = [item for item in self._active if item.job is not None and not item.job.poll()]
        asking = []
        if search is not None:
            asking = [item for item in self._active if item not in ended and followup.is_asking(item.folder)]
        if ended or asking or self._outdated or time.monotonic() >= self._snapshot_due:
            # After the polls: what they say is measured is in the snapshot.
            self._take_snapshot()
            for item in ended:
                self._settle(item)
            if ended:
                self._on_update(self.campaign)  # before what is tried again runs
            if search is not None:
                self._answer(search, asking)
            if (reason := self._over_budget() or self.campaign.shared_failure()) is not None:
                self._skip_rest(reason)
            elif search is not None:
                self._decide(search)
        self._start_waiting()
        self._on_update(self.campaign)

    def _add_items(self, experiments: Sequence[Experiment], search: Search | Refining | None) -> None:
        """Make their folders, and items of them; those that are not done wait for a job."""
        for experiment in experiments:
            folder = self._results.add(experiment, self._sweep.cluster)
            followup.close(folder)
            if self._again and not folder.held():
                for load in experiment.loads:
                    folder.set_aside(load)
            item = Item(folder, experiment, "done" if folder.done() else "pending")
            item.loads_left = len(folder.missing())
            self.campaign.items.append(item)
            self.campaign.measured_before += len(experiment.loads) - item.loads_left
            if item.state == "pending":
                self._waiting.append(item)
                if search is not None and (further := search.num_further(experiment)):
                    followup.open_for_more(folder, further)

    def _take_snapshot(self) -> None:
        """Read the results folder; what is spent and what is left of every item follows from it."""
        self._snapshot = self._results.snapshot(self._snapshot)
        self._snapshot_due = time.monotonic() + SNAPSHOT_S
        self._outdated = False
        self.campaign.spent = self._snapshot.account()
        turn = self._turn()
        for item in self.campaign.items:
            if item.state in ("pending", "running"):
                item.loads_left = len(turn.missing(item.experiment))

    def _turn(self) -> Turn:
        """What is decided by now."""
        assert self._snapshot is not None
        busy = tuple(item.experiment for item in (*self._waiting, *self._active))
        failed = frozenset(item.experiment.id for item in self.campaign.items if item.state == "failed")
        return Turn(self._snapshot, busy, failed)

    def _settle(self, item: Item) -> None:
        """Take down how the item's job ended; an experiment that is worth another try waits for a job again."""
        job = item.job
        assert job is not None
        self._active.remove(item)
        self._handed.ended(item.folder.path)
        remember_nodes(self._results, job.broken_nodes, item.experiment.label)
        failure = job.failure()
        if failure is None:
            item.folder.mark_done()
            item.state, item.error, item.loads_left = "done", None, 0
            return
        # An adopted job may have been sent for fewer loads than this sweep wants: that is no failure of ours.
        stale = job.adopted and not item.tried and failure.kind != "cancelled"
        left = tries_left(failure, item.failures) if self._executor.retries else 0
        item.failures.append(failure)
        item.tried = item.tried or not job.adopted
        if stale or left:
            item.state = "pending"
            item.note = f"{failure.kind}, tried again ({left} left after it): {failure}".splitlines()[0]
            item.tried = True
            self._waiting.append(item)
        else:
            item.state, item.error = "failed", str(failure)

    def _answer(self, search: Search | Refining, asking: Sequence[Item]) -> None:
        """Give each of the servers that wait for a further load one, or let it end."""
        for item in asking:
            experiment = search.decide_further(self._turn(), item.experiment.id)
            if experiment is None:
                followup.close(item.folder)
            else:
                self._results.add(experiment, self._sweep.cluster)
                item.experiment = experiment
                item.loads_left += 1

    def _decide(self, search: Search | Refining) -> None:
        """Fill the room that there is with what ``search`` decides on. An experiment may come again, with further
        loads."""
        while len(self._waiting) + len(self._active) < (self._executor.max_jobs or 1):
            turn = self._turn()
            experiment = search.decide_next(turn)
            if experiment is None:
                return
            item = Item(self._results.add(experiment, self._sweep.cluster), experiment)
            item.loads_left = len(turn.missing(experiment))
            if further := search.num_further(experiment):
                followup.open_for_more(item.folder, further)
            self.campaign.items.append(item)
            self._waiting.append(item)

    def _start_waiting(self) -> None:
        """Start jobs as long as the executor takes them; none while the scheduler does not answer."""
        while self._waiting and time.monotonic() >= self._quiet_until:
            exclude = list(excluded_nodes(self._results, self._sweep.cluster.name))
            self._handed.hand(item.folder.path for item in self._waiting)
            try:
                started = self._executor.start(
                    [item.folder for item in self._waiting], [item.job for item in self._active if item.job], exclude
                )
            except DiskFull:
                raise
            except RunError as error:
                self._quiet_s = min(SLOWEST_S, 2 * self._quiet_s)
                self._quiet_until = time.monotonic() + self._quiet_s
                self._waiting[0].note = f"{error}; asked again in {self._quiet_s:.0f} s"
                return
            if not started:
                return
            self._quiet_s = POLL_S
            items = {item.folder.path: item for item in self._waiting}
            for folder, job in started:
                item = items[folder.path]
                self._waiting.remove(item)
                if isinstance(job, UserError):
                    item.state, item.error = "failed", str(job)
                    self._outdated = True
                else:
                    item.job, item.state, item.note = job, "running", None
                    self._active.append(item)

    # -- ends ---------------------------------------------------------------------------------------------------

    def _over_budget(self) -> str | None:
        """Why no more may be spent, as of the last snapshot; ``None`` while more may be."""
        limit, spent = self._sweep.budget.gpu_hours, self.campaign.spent.total
        if limit is None or spent < limit:
            return None
        return f"{spent:.2f} GPU-hours are spent and the budget is {limit:g}"

    def _skip_rest(self, reason: str) -> None:
        """Stop what runs, and start nothing of what waits."""
        self._stop(self._active)
        for item in self._active:
            item.state, item.error = "skipped", f"stopped: {reason}"
        for item in self._waiting:
            item.state, item.error = "skipped", f"not started: {reason}"
        self._active.clear()
        self._waiting.clear()

    def _stop(self, items: Sequence[Item]) -> None:
        """Ask every job to stop, then wait for each: they stop at the same time."""
        jobs = [item.job for item in items if item.job is not None]
        for wait in (False, True):
            for job in jobs:
                job.cancel(wait=wait)
