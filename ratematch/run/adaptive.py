"""``search: adaptive``: the campaign's ctx and gen jobs, decided one by one from what is measured.

Every decision, with what it was expected to bring and what was passed over for which reason, is written to
``search.json`` before its job is sent. A sweep that is started again first finishes the decisions that stand there,
then decides on: the same results lead to the same decisions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency, Load
from ratematch.plan.sweep import Sweep
from ratematch.prediction import forecast_experiment
from ratematch.search.adaptive import Candidate, Decision, Rate, Space, decide
from ratematch.search.space import SHORT, make_space, read_known
from ratematch.simulate.predict import Forecast
from ratematch.store import Results, read_json, write_json

SEARCH = "search.json"
END_TO_END_SHARE = 0.3
"""Of the budget, kept for end-to-end runs, which are chosen by the same measure: expected front per GPU-hour."""
IFB_CLOSE = 0.25
"""An aggregated server is measured when it promises to come this near to the predicted IFB front at some load."""
WAVES = 3
"""Fewest requests of a load, in concurrencies: what the steady window needs."""


@dataclass
class Search:
    """What the adaptive search of one sweep knows. ``asked``: all ctx and gen experiments, with whole ladders."""

    sweep: Sweep
    results: Results
    asked: Sequence[Experiment]
    decisions: list[dict[str, Any]] = field(default_factory=list)
    ended: str | None = None

    def __post_init__(self) -> None:
        self._experiments = {experiment.id: experiment for experiment in self.asked}
        self._forecasts: dict[str, dict[Load, Forecast]] = {
            experiment.id: forecast_experiment(experiment, self.sweep.cluster) for experiment in self.asked
        }
        self._spaces: list[tuple[str, Space]] = [
            (workload.label, make_space(self.sweep, workload, self.asked, self._forecasts))
            for workload in self.sweep.workloads
        ]
        if before := read_search(self.results):
            self.decisions = list(before["decisions"])

    def next(self, busy: Collection[str], failed: Collection[str], hours_left: float | None) -> Experiment | None:
        """The experiment to send now, with the loads to measure; ``None`` when there is none for now.

        ``busy`` and ``failed``: ids of experiments under way, and of those that do not come to an end.
        ``hours_left``: GPU-hours that may still be promised, what is under way taken off.
        """
        for decision in self.decisions:
            name = decision["experiment"]
            if name not in self._experiments or name in busy or name in failed:
                continue
            experiment = self._with_loads(name, decision["loads"])
            if any(not self.results.folder_of(experiment).finished(load) for load in experiment.loads):
                return experiment
        return self._decide(busy, failed, hours_left)

    def _decide(self, busy: Collection[str], failed: Collection[str], hours_left: float | None) -> Experiment | None:
        rows = self.results.measured()
        known = read_known(rows)
        spoilt: dict[str, set[int]] = {}
        for row in rows:
            if not row.measurement.valid and isinstance(row.load, Concurrency):
                spoilt.setdefault(row.experiment.id, set()).add(row.load.concurrency)
        running = {
            decision["experiment"]: decision["loads"] for decision in self.decisions if decision["experiment"] in busy
        }
        found: list[tuple[str, Decision]] = []
        for label, space in self._spaces:
            usable = replace(space, candidates=tuple(_usable(space.candidates, known, spoilt, failed)))
            found.append((label, decide(usable, known, running, hours_left)))
        skips = [
            {"workload": label, "experiment": skip.candidate, "label": skip.label, "why": skip.why}
            for label, decision in found
            for skip in decision.skips
        ]
        skips += [
            {"workload": "", "experiment": name, "label": self._experiments[name].label, "why": "its job failed"}
            for name in sorted(failed)
            if name in self._experiments
        ]
        offers = [(label, decision.choice) for label, decision in found if decision.choice is not None]
        if not offers:
            self.ended = None if busy else found[0][1].why
            self._write(skips)
            return None
        label, choice = max(offers, key=lambda offer: (offer[1].gain / offer[1].gpu_hours, offer[1].label))
        done = [number for number, earlier in enumerate(self.decisions, 1) if earlier["experiment"] not in busy]
        self.decisions.append(
            {
                "number": len(self.decisions) + 1,
                "workload": label,
                "experiment": choice.candidate,
                "label": choice.label,
                "loads": list(choice.loads),
                "expected_gain": choice.gain,
                "estimated_gpu_hours": choice.gpu_hours,
                "why": choice.why,
                "knew": done,
            }
        )
        self._write(skips)
        return self._with_loads(choice.candidate, choice.loads)

    def _with_loads(self, name: str, concurrencies: Iterable[int]) -> Experiment:
        """The experiment with short loads at ``concurrencies``, beside those it was asked for before."""
        experiment = self._experiments[name]
        wanted = set(concurrencies)
        loads = [
            shorten(load)
            for load in experiment.loads
            if isinstance(load, Concurrency) and load.concurrency in wanted and load.repeat == 0
        ]
        folder = self.results.folder_of(experiment)
        before = folder.read().loads if (folder.path / "experiment.json").exists() else ()
        return replace(experiment, loads=tuple(dict.fromkeys([*before, *loads])))

    def _write(self, skips: Sequence[dict[str, Any]]) -> None:
        content = {"decisions": self.decisions, "skips": list(skips), "ended": self.ended}
        write_json(self.results.path / SEARCH, content)


def read_search(results: Results) -> dict[str, Any] | None:
    """What the adaptive search in ``results`` decided so far; ``None`` where there was none."""
    file = results.path / SEARCH
    return read_json(file) if file.exists() else None


def shorten(load: Concurrency) -> Concurrency:
    """The load with fewer requests, as the search sends it: enough to choose by."""
    return replace(load, num_requests=max(WAVES * load.concurrency, round(SHORT * load.num_requests)))


def _usable(
    candidates: Iterable[Candidate],
    known: dict[str, dict[int, Rate]],
    spoilt: dict[str, set[int]],
    failed: Collection[str],
) -> Iterable[Candidate]:
    """Without servers whose job failed, and without loads that were measured and are not valid."""
    for each in candidates:
        left = {
            load: rate
            for load, rate in each.forecasts.items()
            if load not in spoilt.get(each.id, ()) or load in known.get(each.id, ())
        }
        if each.id not in failed and left:
            yield replace(each, forecasts=left)


def choose_ifb(sweep: Sweep, experiments: Sequence[Experiment]) -> tuple[list[Experiment], list[dict[str, Any]]]:
    """Aggregated servers that promise to come near the IFB front at some load, and why the others are left out."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for experiment in experiments:
        gpus = experiment.deployment.gpus
        curves[experiment.id] = [
            (1 / each.tpot_s, each.req_s * each.osl / gpus)
            for each in forecast_experiment(experiment, sweep.cluster).values()
            if each.tpot_s
        ]
    chosen, skips = [], []
    for experiment in experiments:
        rivals = [
            point for other in experiments if other.workload == experiment.workload for point in curves[other.id]
        ]
        own = curves[experiment.id]
        nearest = max((value / max(v for u, v in rivals if u >= speed) for speed, value in own), default=1.0)
        if nearest >= 1 - IFB_CLOSE:
            chosen.append(experiment)
        else:
            why = f"promises at most {nearest:.0%} of the predicted IFB front at its tok/s/user"
            skips.append(
                {
                    "workload": experiment.workload.label,
                    "experiment": experiment.id,
                    "label": experiment.label,
                    "why": why,
                }
            )
    return chosen, skips
