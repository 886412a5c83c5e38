"""The end-to-end stage of a sweep: which deployments are worth their GPU-hours, as experiments to run.

After a grid everything is measured, and all of them are chosen at once. While ctx and gen servers are searched they
are chosen one by one, at the price for GPU-hours that the servers are held against too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ratematch.analysis.rows import find_layout, measured_in_detail
from ratematch.match.analysis import select_workload
from ratematch.match.choose import Choice, Key, Runs, Spending, certain, choose_end_to_end
from ratematch.match.points import Point
from ratematch.match.question import Question
from ratematch.measure.measured import Measured
from ratematch.plan.deployment import Deployment
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency, Load
from ratematch.plan.sweep import Sweep, experiment_of
from ratematch.plan.workload import Workload
from ratematch.search.candidates import Rate
from ratematch.search.price import Promised
from ratematch.simulate.forecasts import to_measurement
from ratematch.simulate.predict import Forecast
from ratematch.store.files import read_json, write_json
from ratematch.store.folder import ExperimentFolder, Results

CHOICE = "choice.json"
SEARCHING, AT_END = "while servers were searched", "when all servers were measured"


def end_to_end_experiments(sweep: Sweep, results: Results) -> list[Experiment]:
    """The deployments that matching holds worth running, at loads around the concurrency it predicts.

    What is chosen, and why, is written to ``choice.json``. Empty when nothing could be matched.
    """
    measured = measured_in_detail(results)
    left = _left_for_end_to_end(sweep, results)
    experiments: list[Experiment] = []
    told: list[dict[str, Any]] = []
    for number, workload in enumerate(sweep.workloads):
        hours = None if left is None else left / (len(sweep.workloads) - number)
        for choice in choose(sweep, measured, workload, Spending(hours)):
            if left is not None:
                left -= choice.gpu_hours
            experiments.append(_experiment(sweep, choice))
            told.append(_tell(choice, experiments[-1], AT_END))
    write_json(results.path / CHOICE, told)
    return experiments


def choose(
    sweep: Sweep,
    measured: Sequence[Measured],
    workload: Workload,
    spending: Spending | None = None,
    *,
    already: Mapping[Key, bool] | None = None,
    chance: Callable[[Point], float] = certain,
) -> list[Choice]:
    """Choices for one workload as the sweep file wants them; see :func:`choose_end_to_end`."""
    plan, cluster, limits = sweep.e2e, sweep.cluster, sweep.constraints
    assert plan is not None

    def cost(deployment: Deployment, concurrencies: Sequence[int]) -> float:
        minutes = cluster.start_minutes + len(concurrencies) * plan.loads.repeats * cluster.load_minutes
        return deployment.gpus * minutes / 60

    question = Question(limits.ttft_ms, limits.tpot_ms, limits.percentile, sweep.max_gpus)
    runs = Runs(plan.deployments, plan.around, plan.loads.concurrency, plan.choose_at, plan.router, cost)
    return choose_end_to_end(measured, workload, question, runs, spending, already=already, chance=chance)


def _spending(promised: Promised, gpu_hours: float) -> Spending:
    """What runs may cost at the price that servers are held against."""
    return Spending(gpu_hours, promised.price_per_hour, promised.whole)


def _experiment(sweep: Sweep, choice: Choice) -> Experiment:
    assert sweep.e2e is not None
    loads = tuple(load for each in choice.concurrencies for load in sweep.e2e.loads.at_concurrency(each))
    deployment = replace(choice.deployment, router_args=sweep.e2e.router_args)
    return experiment_of(sweep, "e2e", deployment, choice.workload, loads)


def _tell(choice: Choice, experiment: Experiment, when: str) -> dict[str, Any]:
    """The entry of ``choice.json``."""
    sources, ctx, gen = choice.key
    return {
        "workload": choice.workload.label,
        "deployment": choice.deployment.label,
        "experiment": experiment.id,
        "folder": experiment.folder,
        "sources": list(sources),
        "ctx": ctx,
        "gen": gen,
        "when": when,
        "why": choice.why,
        "predicted_tok_s_user": choice.predicted.tok_s_user,
        "predicted_tok_s_gpu": choice.predicted.tok_s_gpu,
        "predicted_concurrency": choice.predicted.concurrency,
        "expected_gain": choice.gain,
        "share_of_front": choice.share,
        "chance_on_front": choice.chance,
        "estimated_gpu_hours": choice.gpu_hours,
        "concurrencies": list(choice.concurrencies),
    }


def read_choices(results: Results) -> list[dict[str, Any]]:
    """The entries of ``choice.json``; empty before anything was chosen."""
    file = results.path / CHOICE
    return list(read_json(file)) if file.exists() else []


@dataclass
class EndToEnd:
    """The end-to-end runs of an adaptive sweep. ``servers``: its ctx and gen experiments, by id. ``ifb``: the
    aggregated servers that will be measured, with forecasts. ``failed``: ids of experiments that came to no end.

    A run that is decided on stays so: further ones are chosen beside it, whatever is measured later.
    """

    sweep: Sweep
    results: Results
    servers: Mapping[str, Experiment]
    ifb: Sequence[tuple[Experiment, Mapping[Load, Forecast]]]
    failed: Callable[[], Collection[str]]
    chosen: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chosen = read_choices(self.results)
        self._layouts: dict[str, str] = {}

    def worth(self, workload: Workload, promised: Promised, gpu_hours: float) -> list[Choice]:
        """The runs that would be chosen if everything turned out as promised."""
        rows = [*self._rows(), *(self._promise(each.id, load, rate) for each, load, rate in promised.rates())]
        return self._choose(rows, workload, _spending(promised, gpu_hours))

    def next(self, workload: Workload, promised: Promised, gpu_hours: float) -> Choice | None:
        """Of the runs of measured servers the one that is expected to bring most per GPU-hour, if that is worth the
        price; what it brings is discounted by the chance that servers still planned push it off the front."""
        choices = self._choose(
            self._rows(),
            workload,
            replace(_spending(promised, gpu_hours), one_at_least=False),
            chance=lambda point: promised.stays(point.tok_s_user, point.tok_s_gpu),
        )
        return max(choices, key=lambda choice: (choice.share_per_hour, choice.predicted.label), default=None)

    def take(self, choice: Choice, when: str = SEARCHING, after: int | None = None) -> Experiment:
        """Write a choice down, and make it an experiment. ``after``: number of the last decision on servers."""
        experiment = _experiment(self.sweep, choice)
        # In this order: a choice that is on record has a folder to go on in.
        self.results.add(experiment, self.sweep.cluster)
        self.chosen.append(_tell(choice, experiment, when) | ({} if after is None else {"after": after}))
        write_json(self.results.path / CHOICE, self.chosen)
        return experiment

    def unfinished(self, but: Collection[str]) -> Experiment | None:
        """A run that was decided on and is not measured, none of the ids ``but``."""
        for entry in self.chosen:
            if entry.get("experiment") not in but and (folder := self._folder(entry)) and folder.missing():
                return folder.read()
        return None

    def take_rest(self) -> list[Experiment]:
        """The runs that are worth it when all servers are measured, within what is left of the budget, after those
        that were decided on before."""
        rest = [folder.read() for entry in self.chosen if (folder := self._folder(entry))]
        measured = measured_in_detail(self.results)
        left = None
        if self.sweep.budget.gpu_hours is not None:
            left = self.sweep.budget.gpu_hours - self.results.account().total - self._promised_hours()
        for number, workload in enumerate(self.sweep.workloads):
            hours = None if left is None else max(0.0, left / (len(self.sweep.workloads) - number))
            for choice in choose(self.sweep, measured, workload, Spending(hours), already=self._already(workload)):
                if left is not None:
                    left -= choice.gpu_hours
                rest.append(self.take(choice, AT_END))
        return rest

    def spent(self, label: str) -> float:
        """Estimated GPU-hours of the runs decided on for a workload."""
        return sum(float(each["estimated_gpu_hours"]) for each in self.chosen if each["workload"] == label)

    def _choose(
        self,
        rows: Sequence[Measured],
        workload: Workload,
        spending: Spending,
        chance: Callable[[Point], float] = certain,
    ) -> list[Choice]:
        rows, already = select_workload(rows, workload), self._already(workload)
        return choose(self.sweep, rows, workload, spending, already=already, chance=chance)

    def _already(self, workload: Workload) -> dict[Key, bool]:
        found = {}
        for entry in self.chosen:
            if entry["workload"] == workload.label and "sources" in entry:
                folder = self._folder(entry)
                over = folder is None or not folder.missing() or entry["experiment"] in self.failed()
                found[tuple(entry["sources"]), int(entry["ctx"]), int(entry["gen"])] = over
        return found

    def _promised_hours(self) -> float:
        """Of runs that are decided on and not measured."""
        return sum(
            float(entry["estimated_gpu_hours"])
            for entry in self.chosen
            if (folder := self._folder(entry)) and folder.missing() and entry["experiment"] not in self.failed()
        )

    def _folder(self, entry: Mapping[str, Any]) -> ExperimentFolder | None:
        """Where a run is; ``None`` when that is not told, or was moved away."""
        if "folder" not in entry:
            return None
        folder = ExperimentFolder(self.results.path / str(entry["folder"]))
        return folder if (folder.path / "experiment.json").exists() else None

    def _rows(self) -> list[Measured]:
        """What is measured, and of aggregated servers that are not, what is forecast."""
        rows = [replace(row, layout=self._layout(row.experiment)) for row in self.results.measured()]
        known = {row.experiment.id for row in rows}
        for experiment, forecasts in self.ifb:
            if experiment.id not in known:
                rows += [Measured(experiment, load, to_measurement(each)) for load, each in forecasts.items()]
        return rows

    def _layout(self, experiment: Experiment) -> str:
        if experiment.id not in self._layouts:
            self._layouts[experiment.id] = find_layout(experiment)
        return self._layouts[experiment.id]

    def _promise(self, name: str, concurrency: int, rate: Rate) -> Measured:
        experiment = self.servers[name]
        load = next(
            each for each in experiment.loads if isinstance(each, Concurrency) and each.concurrency == concurrency
        )
        forecast = Forecast(
            concurrency=concurrency,
            req_s=rate.req_s,
            ttft_s=rate.ttft_s,
            tpot_s=rate.tpot_s,
            osl=experiment.workload.mean_osl,
        )
        return Measured(experiment, load, to_measurement(forecast), layout=self._layout(experiment))


def say_nothing_chosen(sweep: Sweep, results: Results) -> str:
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
    spent = sum(folder.gpu_hours() for folder in results.folders() if folder.read().stage != "e2e")
    return max(0.0, sweep.budget.gpu_hours - spent)
