"""The end-to-end stage of a sweep: which deployments are worth their GPU-hours, as experiments to run.

After a grid everything is measured, and all of them are chosen at once. While ctx and gen servers are searched they
are chosen one by one, at the price for GPU-hours that the servers are held against too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from ratematch.analysis.rows import find_layout, find_links, measured_in_detail
from ratematch.campaign.decisions import ChosenRun, read_chosen_runs, write_chosen_runs
from ratematch.campaign.turn import Turn
from ratematch.match.analysis import select_workload
from ratematch.match.choose import Key, RunChoice, Runs, Spending, certain, choose_end_to_end
from ratematch.match.points import Point
from ratematch.match.question import Question
from ratematch.measure.measured import Measured
from ratematch.plan.deployment import Deployment
from ratematch.plan.expansion import experiment_of, with_breakdown
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency, Load
from ratematch.plan.sweep import Sweep
from ratematch.plan.workload import Workload
from ratematch.search.candidates import Rate
from ratematch.search.price import Pricing
from ratematch.simulate.forecasts import to_measurement
from ratematch.simulate.steadystate import Forecast
from ratematch.store.folder import Results
from ratematch.store.snapshot import Snapshot

SEARCHING, AT_END = "while servers were searched", "when all servers were measured"


def end_to_end_experiments(sweep: Sweep, results: Results) -> list[Experiment]:
    """The deployments that matching holds worth running, at loads around the concurrency it predicts.

    What is chosen, and why, is written to ``choice.json``. Empty when nothing could be matched. A deployment that was
    chosen by an earlier run of the sweep and started stays chosen and counts among those that the sweep wants.
    """
    stored, earlier = results.now(), read_chosen_runs(results)
    measured = measured_in_detail(stored, [])  # a load that cannot be used chooses nothing
    left = _left_for_end_to_end(sweep, results)
    taken: list[tuple[ChosenRun, Experiment]] = []
    for number, workload in enumerate(sweep.workloads):
        hours = None if left is None else left / (len(sweep.workloads) - number)
        choices = choose(sweep, measured, workload, Spending(hours))
        experiments = [_experiment(sweep, choice) for choice in choices]
        fresh = [(_chosen_run(c, e, AT_END), e) for c, e in zip(choices, experiments, strict=True)]
        chosen = _beside_earlier(
            sweep, stored, [run for run in earlier if run.workload == workload.label], fresh, hours
        )
        if left is not None:
            left -= sum(run.estimated_gpu_hours or 0.0 for run, _ in chosen)
        taken += chosen
    # What sweeps of other workloads chose in this folder stays on record.
    own = {workload.label for workload in sweep.workloads}
    write_chosen_runs(results, [*(run for run, _ in taken), *(run for run in earlier if run.workload not in own)])
    return [experiment for _, experiment in taken]


def _beside_earlier(
    sweep: Sweep,
    stored: Snapshot,
    earlier: Sequence[ChosenRun],
    fresh: Sequence[tuple[ChosenRun, Experiment]],
    gpu_hours: float | None,
) -> list[tuple[ChosenRun, Experiment]]:
    """Runs of one workload: those of ``earlier`` that GPU time was spent on, then ``fresh`` ones, the best first: as
    many as the sweep wants, within ``gpu_hours``."""
    assert sweep.e2e is not None
    started = {part.experiment.id: part.experiment for part in stored.experiments if part.launches}
    kept = [(run, started[run.experiment]) for run in earlier if run.experiment in started]
    now = {experiment.id: (run, experiment) for run, experiment in fresh}
    # What is chosen again has the loads that the sweep asks for now.
    wanted = {experiment.id: now.get(experiment.id, (run, experiment)) for run, experiment in kept} | now
    chosen: list[tuple[ChosenRun, Experiment]] = []
    left = math.inf if gpu_hours is None else gpu_hours
    for run, experiment in wanted.values():
        if len(chosen) < sweep.e2e.deployments and (run.estimated_gpu_hours or 0.0) <= left:
            left -= run.estimated_gpu_hours or 0.0
            chosen.append((run, experiment))
    order = [experiment.id for _, experiment in (*fresh, *kept)]
    return sorted(chosen, key=lambda one: order.index(one[1].id))


def choose(
    sweep: Sweep,
    measured: Sequence[Measured],
    workload: Workload,
    spending: Spending,
    *,
    already: Mapping[Key, bool] | None = None,
    chance: Callable[[Point], float] = certain,
) -> list[RunChoice]:
    """Choices for one workload as the sweep file wants them; see :func:`choose_end_to_end`."""
    plan, cluster, limits = sweep.e2e, sweep.cluster, sweep.constraints
    assert plan is not None

    def cost(deployment: Deployment, concurrencies: Sequence[int]) -> float:
        minutes = cluster.start_minutes + len(concurrencies) * plan.loads.repeats * cluster.load_minutes
        if plan.breakdown and sweep.needs_breakdown(deployment):
            minutes += cluster.start_minutes + len(concurrencies) * cluster.load_minutes
        return deployment.gpus * minutes / 60

    question = Question.of(limits, sweep.max_gpus)
    links = find_links(measured) if measured else None
    if links is not None and links.costs is None:
        links = None  # nothing is known that tells deployments apart
    runs = Runs(plan.deployments, plan.around, plan.loads.concurrency, plan.choose_at, plan.router, cost, links)
    return choose_end_to_end(measured, workload, question, runs, spending, already=already, chance=chance)


def _spending(pricing: Pricing, gpu_hours: float) -> Spending:
    """What runs may cost at the price that servers are held against."""
    return Spending(gpu_hours, pricing.price_per_hour, pricing.reachable_area)


def _experiment(sweep: Sweep, choice: RunChoice) -> Experiment:
    assert sweep.e2e is not None
    loads = tuple(
        load for concurrency in choice.concurrencies for load in sweep.e2e.loads.at_concurrency(concurrency)
    )
    deployment = replace(choice.deployment, router_args=sweep.e2e.router_args)
    if sweep.e2e.breakdown:
        loads = with_breakdown(sweep, deployment, loads)
    return experiment_of(sweep, "e2e", deployment, choice.workload, loads)


def _chosen_run(choice: RunChoice, experiment: Experiment, when: str, after: int | None = None) -> ChosenRun:
    sources, ctx, gen = choice.key
    return ChosenRun(
        workload=choice.workload.label,
        deployment=choice.deployment.label,
        experiment=experiment.id,
        folder=experiment.folder,
        sources=tuple(sources),
        ctx=ctx,
        gen=gen,
        when=when,
        why=choice.why,
        predicted_tok_s_user=choice.predicted.tok_s_user,
        predicted_tok_s_gpu=choice.predicted.tok_s_gpu,
        predicted_concurrency=choice.predicted.concurrency,
        expected_gain=choice.gain,
        share_of_front=choice.share,
        chance_on_front=choice.chance,
        estimated_gpu_hours=choice.gpu_hours,
        concurrencies=tuple(choice.concurrencies),
        after=after,
    )


class EndToEnd:
    """The end-to-end runs of an adaptive sweep: those decided on (``chosen``, as on disk), and which are worth it.

    A run that is decided on stays so: further ones are chosen beside it, whatever is measured later. :meth:`take` and
    :meth:`take_rest` write what they decide.
    """

    def __init__(
        self,
        sweep: Sweep,
        results: Results,
        servers: Mapping[str, Experiment],
        ifb: Sequence[tuple[Experiment, Mapping[Load, Forecast]]],
    ):
        """Goes on from the ``choice.json`` in ``results``, if there is one.

        ``servers``: the sweep's ctx and gen experiments, by id. ``ifb``: the aggregated servers that will be
        measured, with forecasts.
        """
        self.sweep = sweep
        self.results = results
        self.chosen = read_chosen_runs(results)
        self._servers = servers
        self._ifb = ifb
        self._taken: dict[str, Experiment] = {}
        self._layouts: dict[str, str] = {}

    def worth(self, turn: Turn, workload: Workload, pricing: Pricing, gpu_hours: float) -> list[RunChoice]:
        """The runs that would be chosen if everything turned out as forecast."""
        expected = [self._promise(server.id, load, rate) for server, load, rate in pricing.expected_rates()]
        return self._choose(turn, [*self._rows(turn), *expected], workload, _spending(pricing, gpu_hours))

    def find_next(self, turn: Turn, workload: Workload, pricing: Pricing, gpu_hours: float) -> RunChoice | None:
        """Of the runs of measured servers the one that is expected to bring most per GPU-hour, if that is worth the
        price; what it brings is discounted by the chance that servers still planned push it off the front."""
        choices = self._choose(
            turn,
            self._rows(turn),
            workload,
            replace(_spending(pricing, gpu_hours), one_at_least=False),
            chance=lambda point: pricing.chance_on_front(point.tok_s_user, point.tok_s_gpu),
        )
        return max(choices, key=lambda choice: (choice.share_per_hour, choice.predicted.label), default=None)

    def take(self, choice: RunChoice, when: str = SEARCHING, after: int | None = None) -> Experiment:
        """Write a choice, and make it an experiment. ``after``: number of the last decision on servers."""
        experiment = _experiment(self.sweep, choice)
        # In this order: a choice that is on record has a folder to go on in.
        self.results.add(experiment, self.sweep.cluster)
        self._taken[experiment.id] = experiment
        self.chosen.append(_chosen_run(choice, experiment, when, after))
        write_chosen_runs(self.results, self.chosen)
        return experiment

    def unfinished(self, turn: Turn, but: Collection[str]) -> Experiment | None:
        """A run that was decided on and is not measured, none of the ids ``but``."""
        for run in self.chosen:
            experiment = self._experiment_of(turn, run) if run.experiment not in but else None
            if experiment is not None and turn.missing(experiment):
                return experiment
        return None

    def take_rest(self, turn: Turn) -> list[Experiment]:
        """The runs that are worth it when all servers are measured, within what is left of the budget, after those
        that were decided on before."""
        rest = [experiment for run in self.chosen if (experiment := self._experiment_of(turn, run))]
        measured = measured_in_detail(self.results.now(), [])
        left = None
        if self.sweep.budget.gpu_hours is not None:
            left = self.sweep.budget.gpu_hours - turn.gpu_hours - self._promised_hours(turn)
        for number, workload in enumerate(self.sweep.workloads):
            hours = None if left is None else max(0.0, left / (len(self.sweep.workloads) - number))
            already = self._already(turn, workload)
            for choice in choose(self.sweep, measured, workload, Spending(hours), already=already):
                if left is not None:
                    left -= choice.gpu_hours
                rest.append(self.take(choice, AT_END))
        return rest

    def spent(self, label: str) -> float:
        """Estimated GPU-hours of the runs decided on for a workload."""
        return sum(run.estimated_gpu_hours or 0.0 for run in self.chosen if run.workload == label)

    def _choose(
        self,
        turn: Turn,
        rows: Sequence[Measured],
        workload: Workload,
        spending: Spending,
        chance: Callable[[Point], float] = certain,
    ) -> list[RunChoice]:
        rows, already = select_workload(rows, workload), self._already(turn, workload)
        return choose(self.sweep, rows, workload, spending, already=already, chance=chance)

    def _already(self, turn: Turn, workload: Workload) -> dict[Key, bool]:
        """The runs of a workload that are decided on, and whether each is over: measured, failed or moved away."""
        already: dict[Key, bool] = {}
        for run in self.chosen:
            if run.workload == workload.label and run.sources and run.ctx is not None and run.gen is not None:
                already[run.sources, run.ctx, run.gen] = not self._is_to_come(turn, run)
        return already

    def _promised_hours(self, turn: Turn) -> float:
        """GPU-hours of runs that are decided on and not measured."""
        return sum(run.estimated_gpu_hours or 0.0 for run in self.chosen if self._is_to_come(turn, run))

    def _is_to_come(self, turn: Turn, run: ChosenRun) -> bool:
        experiment = self._experiment_of(turn, run)
        return experiment is not None and bool(turn.missing(experiment)) and run.experiment not in turn.failed

    def _experiment_of(self, turn: Turn, run: ChosenRun) -> Experiment | None:
        """What runs it; ``None`` when that is not known, or its folder was moved away."""
        if run.experiment is None:
            return None
        # One that was taken a moment ago is younger than the snapshot.
        return turn.experiment(run.experiment) or self._taken.get(run.experiment)

    def _rows(self, turn: Turn) -> list[Measured]:
        """What is measured, and of aggregated servers that are not, what is forecast."""
        rows = [replace(row, layout=self._layout(row.experiment)) for row in turn.rows()]
        known = {row.experiment.id for row in rows}
        for experiment, forecasts in self._ifb:
            if experiment.id not in known:
                rows += [Measured(experiment, load, to_measurement(forecast)) for load, forecast in forecasts.items()]
        return rows

    def _layout(self, experiment: Experiment) -> str:
        if experiment.id not in self._layouts:
            self._layouts[experiment.id] = find_layout(experiment)
        return self._layouts[experiment.id]

    def _promise(self, name: str, concurrency: int, rate: Rate) -> Measured:
        experiment = self._servers[name]
        load = next(
            load for load in experiment.loads if isinstance(load, Concurrency) and load.concurrency == concurrency
        )
        forecast = Forecast(
            concurrency=concurrency,
            req_s=rate.req_s,
            ttft_s=rate.ttft_s,
            tpot_s=rate.tpot_s,
            osl=experiment.workload.mean_osl,
        )
        return Measured(experiment, load, to_measurement(forecast), layout=self._layout(experiment))


def describe_nothing_chosen(sweep: Sweep, results: Results) -> str:
    """Why nothing is run end to end, for a person."""
    left = _left_for_end_to_end(sweep, results)
    if left is None:
        return "nothing is run end to end: no valid ctx and gen measurements match"
    return (
        "nothing is run end to end: no valid ctx and gen measurements match, or no deployment is within the "
        f"{left:.2f} of {sweep.budget.gpu_hours:g} GPU-hours that are left"
    )


def _left_for_end_to_end(sweep: Sweep, results: Results) -> float | None:
    """GPU-hours of the budget that the other stages left; what end-to-end runs have spent is not taken off, so that a
    sweep that is resumed chooses as it did before."""
    if sweep.budget.gpu_hours is None:
        return None
    spent = sum(stored.account.total for stored in results.now().experiments if stored.experiment.stage != "e2e")
    return max(0.0, sweep.budget.gpu_hours - spent)
