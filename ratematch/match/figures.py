"""Measured loads to figures: repeats averaged, what cannot be used set apart with the reasons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ratematch.match.points import Measured
from ratematch.measure.measurement import Measurement
from ratematch.plan.constraints import Constraints
from ratematch.plan.deployment import Stage
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Load

LeftOut = tuple[str, str, tuple[str, ...]]


@dataclass(frozen=True)
class Figures:
    """One operating point of one experiment, the mean over its repeats, of the whole deployment.

    ``tpot_ms`` is 0 when OSL is 1 (no token is decoded). ``ttft_limit_ms`` and ``tpot_limit_ms``: at the percentile
    that constraints are judged at. ``little``: from the averaged figures.
    """

    experiment: Experiment
    load: Load
    in_flight: float
    req_s: float
    tok_s: float
    ttft_ms: float
    tpot_ms: float
    ttft_limit_ms: float
    tpot_limit_ms: float
    osl: float
    repeats: int
    warnings: tuple[str, ...]

    @property
    def latency_s(self) -> float:
        return (self.ttft_ms + (self.osl - 1) * self.tpot_ms) / 1000

    @property
    def little(self) -> float:
        return self.in_flight / (self.req_s * self.latency_s)


def collect_figures(measured: Iterable[Measured], constraints: Constraints) -> tuple[list[Figures], list[LeftOut]]:
    """Figures of every valid load, repeats of the same operating point averaged; and (experiment, load, why not)."""
    groups: dict[tuple[str, Load], list[Figures]] = {}
    left_out: list[LeftOut] = []
    for row in measured:
        reasons = row.measurement.reasons if not row.measurement.valid else _missing(row)
        figures = None if reasons or not row.measurement.valid else _read(row, constraints)
        if figures is None:
            left_out.append((row.experiment.label, row.load.label, reasons or ("not valid",)))
            continue
        groups.setdefault((row.experiment.id, _operating_point(row.load)), []).append(figures)
    return [_average(group) for group in groups.values()], left_out


def _operating_point(load: Load) -> Load:
    """What makes two loads repeats of one another: the pressure, not how long it was kept up."""
    return replace(load, num_requests=0, warmup=0, repeat=0)


def _missing(row: Measured) -> tuple[str, ...]:
    m = row.measurement
    needed: dict[str, object] = {"requests/s": m.req_s, "tok/s": m.tok_s, "TTFT": m.ttft_ms, "OSL": m.osl_mean}
    needed["requests in flight"] = m.in_flight
    if row.experiment.stage != "ctx":
        needed["TPOT"] = m.tpot_ms
    names = [name for name, value in needed.items() if not value]
    return (f"no {', '.join(names)} measured",) if names else ()


def _read(row: Measured, constraints: Constraints) -> Figures:
    m: Measurement = row.measurement
    assert m.ttft_ms and m.in_flight and m.req_s and m.tok_s and m.osl_mean  # _missing() saw to it
    return Figures(
        experiment=row.experiment,
        load=row.load,
        in_flight=m.in_flight,
        req_s=m.req_s,
        tok_s=m.tok_s,
        ttft_ms=m.ttft_ms.mean,
        tpot_ms=m.tpot_ms.mean if m.tpot_ms else 0.0,
        ttft_limit_ms=m.ttft_ms.at(constraints.percentile),
        tpot_limit_ms=m.tpot_ms.at(constraints.percentile) if m.tpot_ms else 0.0,
        osl=m.osl_mean,
        repeats=1,
        warnings=m.warnings,
    )


def _average(group: Sequence[Figures]) -> Figures:
    def mean(name: str) -> float:
        values: list[float] = [getattr(figures, name) for figures in group]
        return sum(values) / len(values)

    return replace(
        group[0],
        in_flight=mean("in_flight"),
        req_s=mean("req_s"),
        tok_s=mean("tok_s"),
        ttft_ms=mean("ttft_ms"),
        tpot_ms=mean("tpot_ms"),
        ttft_limit_ms=mean("ttft_limit_ms"),
        tpot_limit_ms=mean("tpot_limit_ms"),
        osl=mean("osl"),
        repeats=len(group),
        warnings=tuple(dict.fromkeys(text for figures in group for text in figures.warnings)),
    )


def select_stage(figures: Iterable[Figures], stage: Stage) -> list[Figures]:
    return [row for row in figures if row.experiment.stage == stage]
