"""From the experiments of a sweep and their forecasts to what can be measured for one workload."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Protocol

from ratematch.measure.measured import Measured
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency, Load
from ratematch.plan.sweep import Sweep
from ratematch.plan.workload import Workload, feeds
from ratematch.search.candidates import Candidate, Rate, Space
from ratematch.search.families import family_of

SHORT = 0.6
"""Share of a load's requests that the search sends: choosing needs fewer than reporting."""
WAVES = 3
"""Fewest requests of a load, in concurrencies: what the steady window needs."""

LONG_WAVES = 6
"""Fewest requests of a longer run, in concurrencies: four batches beside the first wave and the last."""


def shorten(load: Concurrency) -> Concurrency:
    """The load with fewer requests, as the search sends it: enough to choose by."""
    return replace(load, num_requests=max(WAVES * load.concurrency, round(SHORT * load.num_requests)))


def lengthen(load: Concurrency, measured: Collection[str] = ()) -> Concurrency:
    """The load with all its requests, as a grid sends it, or more where those are too few waves for an interval.

    Its label is none of ``measured`` and not that of the short load, so that every run has a folder of its own.
    """
    longer = replace(load, num_requests=max(LONG_WAVES * load.concurrency, load.num_requests))
    while longer.label in measured or longer.label == shorten(load).label:
        longer = replace(longer, repeat=longer.repeat + 1)
    return longer


class Forecast(Protocol):
    """Predicted figures at one load, of a whole deployment."""

    @property
    def req_s(self) -> float: ...
    @property
    def ttft_s(self) -> float: ...
    @property
    def tpot_s(self) -> float: ...


def make_space(
    sweep: Sweep,
    workload: Workload,
    experiments: Iterable[Experiment],
    forecasts: Mapping[str, Mapping[Load, Forecast]],
) -> Space:
    """The ctx and gen servers that can be measured for ``workload``. ``forecasts``: by experiment id."""
    candidates = []
    for experiment in experiments:
        same = experiment.workload == workload or (experiment.stage == "ctx" and feeds(experiment.workload, workload))
        if experiment.stage not in ("ctx", "gen") or not same or not forecasts.get(experiment.id):
            continue
        rates = {
            load.concurrency: Rate(forecast.req_s, forecast.ttft_s, forecast.tpot_s)
            for load, forecast in sorted(forecasts[experiment.id].items(), key=lambda pair: _concurrency(pair[0]))
            if isinstance(load, Concurrency)
        }
        group = experiment.deployment.groups[-1]
        candidates.append(
            Candidate(
                experiment.id,
                experiment.label,
                experiment.stage,
                family_of(experiment),
                experiment.deployment.gpus,
                group.mtp,
                rates,
                _kind(experiment),
                {load.concurrency: shorten(load).num_requests / load.num_requests for load in _closed(experiment)},
            )
        )
    constraints = sweep.constraints
    return Space(
        candidates=tuple(candidates),
        osl=workload.mean_osl,
        max_gpus=sweep.max_gpus,
        start_h=sweep.cluster.start_minutes / 60,
        load_h=sweep.cluster.load_minutes / 60,
        ttft_s=None if constraints.ttft_ms is None else constraints.ttft_ms / 1000,
        tpot_s=None if constraints.tpot_ms is None else constraints.tpot_ms / 1000,
        workload=workload.label,
        choose_at=sweep.e2e.choose_at if sweep.e2e else (),
        family_sds=dict(sweep.family_sds),
    )


def _closed(experiment: Experiment) -> Iterable[Concurrency]:
    return (load for load in experiment.loads if isinstance(load, Concurrency))


def _kind(experiment: Experiment) -> str:
    """The settings of the measured servers, equal at every workload."""
    group = experiment.deployment.groups[-1]
    settings = (group.max_batch_size, group.max_num_tokens, group.options, group.config, group.environment)
    return f"{experiment.stage} {group.mapping.label} mtp{group.mtp} {settings}"


def _concurrency(load: Load) -> int:
    return load.concurrency if isinstance(load, Concurrency) else 0


def read_known(rows: Iterable[Measured]) -> dict[str, dict[int, Rate]]:
    """Measured rates by experiment and concurrency: means over the valid closed-loop runs of a load of any length."""
    runs: dict[str, dict[int, list[Rate]]] = {}
    for row in rows:
        figures = row.measurement
        if not figures.valid or not figures.req_s or not isinstance(row.load, Concurrency):
            continue
        ttft_s = figures.ttft_ms.mean / 1000 if figures.ttft_ms else 0.0
        tpot_s = figures.tpot_ms.mean / 1000 if figures.tpot_ms else 0.0
        of_load = runs.setdefault(row.experiment.id, {}).setdefault(row.load.concurrency, [])
        of_load.append(Rate(figures.req_s, ttft_s, tpot_s))
    return {name: {load: _mean(rates) for load, rates in loads.items()} for name, loads in runs.items()}


def _mean(rates: Sequence[Rate]) -> Rate:
    """With equal weights, as matching takes the mean of repeats."""
    return Rate(
        fmean(rate.req_s for rate in rates),
        fmean(rate.ttft_s for rate in rates),
        fmean(rate.tpot_s for rate in rates),
    )
