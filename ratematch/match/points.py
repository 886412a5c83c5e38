"""Rows: a measured load with its experiment, and the points drawn on fronts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ratematch.match.matching import Limit, Objective
from ratematch.plan.experiment import Origin, origin_of

Kind = Literal["bound", "rate_matched", "end_to_end", "ifb"]
"""``bound``: ideal fractional ratio, an upper limit. ``rate_matched``: whole instances, predicted from ctx and gen
measured apart. ``end_to_end`` and ``ifb``: measured."""

DrawnFronts = tuple[tuple[tuple[float, float], ...], ...]
"""The front of each bootstrap draw, as (tok/s/user, tok/s/GPU) pairs; empty when no noise is known."""


@dataclass(frozen=True, slots=True)
class Point:
    """One row of a table, one dot on a plot: a deployment at a load. Files have these names, in this order."""

    kind: Kind
    workload: str
    """Label of the workload: ``1024/64``."""
    label: str
    """Of the deployment: ``ctx2xTEP4-gen1xDEP8-mtp1``."""
    ctx: int
    """Instances; 0 in a bound, whose share of ctx is no whole number, and for IFB."""
    gen: int
    """Instances; 0 for IFB, whose one instance is in ``gpus``."""
    ctx_mapping: str | None
    """Parallelism of a ctx instance, or its name in a table of rates."""
    gen_mapping: str | None
    """The same of a gen instance, or of the aggregated server."""
    mtp: int
    """Draft tokens a step."""
    gpus: int
    """GPUs in use: ctx and gen, or aggregated."""
    concurrency: float
    """Requests in flight N in the whole deployment."""
    req_s: float
    tok_s: float
    """Output tokens/s."""
    tok_s_user: float
    """1000 / TPOT in ms."""
    tok_s_gpu: float
    """Output tok/s over the GPUs in use, or over those that another objective of the analysis counts."""
    ttft_ms: float
    """Mean."""
    tpot_ms: float
    """Mean."""
    little: float | None
    """N / (requests/s x (TTFT + (OSL - 1) x TPOT)) of a measured row; ``None`` for a planned one, whose N is computed
    by that law."""
    osl: float | None = None
    """Mean output length, tokens."""
    limit: Limit | None = None
    """Which side bounds the rate; ``None`` for measured rows."""
    ratio: str | None = None
    """Ideal ctx:gen instance ratio as a fraction: ``9/2``."""
    clamped: bool = False
    """Read at an end of a measured curve, because the demand lies outside it."""
    emulated: bool = False
    simulated: bool = False
    sources: tuple[str, ...] = ()
    """Ids of the experiments that it comes from: ctx and gen, or the one that was measured."""
    flags: tuple[str, ...] = ()
    """Assumptions and warnings, in words."""
    tok_s_gpu_low: float | None = None
    """Lower end of the 95 % interval of ``tok_s_gpu``; ``None`` as long as the noise of no rate is known."""
    tok_s_gpu_high: float | None = None
    ratio_low: float | None = None
    """Lower end of the 95 % interval of ``ratio``."""
    ratio_high: float | None = None
    nodes: int | None = None
    """Whole nodes paid for, where the size of a node is known."""
    gpus_allocated: int | None = None
    """GPUs of those nodes."""
    front_chance: float | None = None
    """Share of bootstrap draws in which the row is on the front."""

    @property
    def origin(self) -> Origin:
        return origin_of(self.emulated, self.simulated)

    @property
    def mapping(self) -> str | None:
        """Mappings of the servers in one word: ``DEP4+TEP8`` (ctx + gen), or the aggregated server's."""
        return "+".join(name for name in (self.ctx_mapping, self.gen_mapping) if name) or None


def objectives(point: Point) -> tuple[float, float]:
    """(tok/s/user, tok/s/GPU) to twelve digits: a deployment reached by two sums must not appear twice."""
    return float(f"{point.tok_s_user:.12g}"), float(f"{point.tok_s_gpu:.12g}")


@dataclass(frozen=True)
class GapPart:
    """One reason why a deployment gives less than its ideal, in tok/s/GPU (negative: it gives more)."""

    name: str
    tok_s_gpu: float


@dataclass(frozen=True)
class CalibrationRow:
    """One end-to-end run at its concurrency: measured, and predicted before and after calibration."""

    label: str
    concurrency: float
    tok_s_gpu: float
    tok_s_gpu_before: float
    tok_s_gpu_after: float
    tpot_ms: float
    tpot_before_ms: float
    tpot_after_ms: float


@dataclass(frozen=True)
class Calibration:
    """Factors on the rates of ctx and gen, fitted to ``num`` end-to-end runs (1: as fast together as apart).

    ``bunching``: share of the requests in flight that reach ctx together. ``gen_spread``: standard deviation of the
    logarithm over runs; ``ctx_spread``: over fits that leave runs out; ``None`` from too few. ``held_out``: each
    row's ``after`` is predicted from other runs.
    """

    ctx: float
    ctx_spread: float | None
    gen: float
    gen_spread: float | None
    bunching: float
    num: int
    held_out: bool
    rows: tuple[CalibrationRow, ...]


@dataclass(frozen=True)
class Gap:
    """One end-to-end point beside what rate matching predicted for the same deployment.

    ``ratio`` = measured tok/s/GPU over predicted at the same tok/s/user (1 = no gap); ``None`` where the prediction
    has no such tok/s/user. ``front`` and ``front_ratio``: the same against the whole rate-matched front.
    ``at_concurrency`` and ``tpot_at_concurrency_ms``: predicted for the same requests in flight. ``ideal``: tok/s/GPU
    at the fractional ratio of the same servers; ``parts`` add up to ``ideal`` - ``end_to_end``, residual included.
    """

    label: str
    tok_s_user: float
    end_to_end: float
    rate_matched: float | None
    ratio: float | None
    front: float | None = None
    front_ratio: float | None = None
    concurrency: float | None = None
    at_concurrency: float | None = None
    tpot_ms: float | None = None
    tpot_at_concurrency_ms: float | None = None
    ideal: float | None = None
    parts: tuple[GapPart, ...] = ()


@dataclass(frozen=True)
class Speedup:
    """tok/s/GPU of a front over the IFB front at equal tok/s/user, on the overlap only. Low, high: 95 % interval.

    ``step``: best point at that interactivity or better, what one configuration achieves under an SLO.
    ``linear``: between neighbouring front points, the convention of plots.
    """

    kind: Kind
    tok_s_user: float
    step: float | None
    linear: float | None
    step_low: float | None = None
    step_high: float | None = None
    linear_low: float | None = None
    linear_high: float | None = None


Interval = tuple[float, float]


@dataclass(frozen=True)
class EqualThroughput:
    """``ratio``: highest tok/s/user of a front that still has ``tok_s_gpu``, over that of the IFB front."""

    tok_s_gpu: float
    ratio: float
    ratio_low: float | None = None
    ratio_high: float | None = None


@dataclass(frozen=True)
class Comparison:
    """A whole front over the whole IFB front. Intervals are 95 %, ``None`` when the noise is not known.

    ``hypervolume_ratio``: areas above (0, 0), linear axes. ``area_ratio``: areas under both, linear between points,
    on the overlap of tok/s/user. ``interactivity``: at equal tok/s/GPU.
    """

    kind: Kind
    hypervolume_ratio: float | None
    hypervolume_interval: Interval | None
    area_ratio: float | None
    area_interval: Interval | None
    interactivity: tuple[EqualThroughput, ...]


@dataclass(frozen=True)
class ServingPlan:
    """One deployment that keeps the limits at ``req_s`` requests/s.

    ``ttft_ms`` and ``tpot_ms``: mean; ``*_limit_ms``: at the percentile of the limits. ``wait_ms``: mean wait in
    front of ctx. ``ctx_load`` and ``gen_load``: share of the capacity in use. ``within``: no more GPUs than allowed.
    """

    label: str
    ctx: int
    gen: int
    gpus: int
    req_s: float
    ttft_ms: float
    ttft_limit_ms: float
    wait_ms: float
    kv_transfer_ms: float | None
    tpot_ms: float
    tpot_limit_ms: float
    ctx_load: float
    gen_load: float
    concurrency: float
    tok_s_gpu: float
    within: bool
    flags: tuple[str, ...]


@dataclass(frozen=True)
class WorkloadAnalysis:
    """All that one workload's results say. Fronts hold no dominated or duplicate point, ascending tok_s_user.

    ``plans``: every feasible rate-matched row, fronts or not. ``measured``: every end-to-end and IFB row.
    ``ties``: rate-matched rows that the noise cannot tell from those on the front.
    ``calibration``: fitted to the end-to-end runs; ``calibrated``: plans and fronts are predicted with it.
    ``serving``: the smallest deployment of each pair for an open-loop request rate, where the question has one.
    ``left_out``: (experiment label, load label, reasons) of invalid measurements. ``notes``: in words.
    ``drawn``: by kind, the front as it might have been, (tok/s/user, tok/s/GPU) a bootstrap draw; empty when the
    noise of none of its rates is known.
    """

    workload: str
    origin: Origin
    bound: tuple[Point, ...]
    rate_matched: tuple[Point, ...]
    end_to_end: tuple[Point, ...]
    ifb: tuple[Point, ...]
    plans: tuple[Point, ...]
    measured: tuple[Point, ...]
    gaps: tuple[Gap, ...]
    speedups: tuple[Speedup, ...]
    left_out: tuple[tuple[str, str, tuple[str, ...]], ...]
    notes: tuple[str, ...]
    ties: tuple[Point, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    calibration: Calibration | None = None
    calibrated: bool = False
    serving: tuple[ServingPlan, ...] = ()
    drawn: tuple[tuple[Kind, DrawnFronts], ...] = ()

    def front(self, kind: Kind) -> tuple[Point, ...]:
        """The front of ``kind``, ascending tok/s/user."""
        fronts: dict[Kind, tuple[Point, ...]] = {
            "bound": self.bound,
            "rate_matched": self.rate_matched,
            "end_to_end": self.end_to_end,
            "ifb": self.ifb,
        }
        return fronts[kind]


@dataclass(frozen=True)
class Analysis:
    """Every workload of one results folder. ``objective``: which GPUs ``tok_s_gpu`` of its points is over."""

    sweep: str
    model: str
    gpu: str
    engine: str
    origin: Origin
    workloads: tuple[WorkloadAnalysis, ...]
    objective: Objective = "per_used_gpu"
