"""Rows: a measured load with its experiment, and the points drawn on fronts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ratematch.measure.measurement import Measurement
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Load

Kind = Literal["bound", "rate_matched", "end_to_end", "ifb"]
"""``bound``: ideal fractional ratio, an upper limit. ``rate_matched``: whole instances, predicted from ctx and gen
measured apart. ``end_to_end`` and ``ifb``: measured."""


@dataclass(frozen=True)
class Measured:
    """One load of one experiment, with its figures."""

    experiment: Experiment
    load: Load
    measurement: Measurement


@dataclass(frozen=True)
class Point:
    """One row of a table, one dot on a plot.

    ``tok_s_user`` = 1000 / TPOT in ms. ``tok_s_gpu``: output tok/s over all used GPUs (ctx + gen, or aggregated).
    ``concurrency``: requests in flight N of the whole deployment. ``ctx`` and ``gen``: instances (both 0 for ifb,
    whose one instance is in ``gpus``). ``ratio``: ideal ctx:gen instance ratio as a fraction, ``"9/2"``. ``limit``:
    which side bounds the rate. ``little``: N / (req_s * (TTFT + (OSL-1) * TPOT)). ``clamped``: read at an end of a
    measured curve because the demand lies outside it. ``osl``: mean output length, tokens. ``flags``: assumptions and
    warnings, in words.
    """

    kind: Kind
    workload: str
    label: str
    ctx: int
    gen: int
    ctx_mapping: str | None
    gen_mapping: str | None
    mtp: int
    gpus: int
    concurrency: float
    req_s: float
    tok_s: float
    tok_s_user: float
    tok_s_gpu: float
    ttft_ms: float
    tpot_ms: float
    little: float
    osl: float | None = None
    limit: Literal["ctx", "gen", "both"] | None = None
    ratio: str | None = None
    clamped: bool = False
    emulated: bool = False
    sources: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def mapping(self) -> str | None:
        """Mappings of the servers in one word: ``DEP4+TEP8`` (ctx + gen), or the aggregated server's."""
        return "+".join(name for name in (self.ctx_mapping, self.gen_mapping) if name) or None


@dataclass(frozen=True)
class Gap:
    """One end-to-end point beside what rate matching predicted for the same deployment.

    ``ratio`` = measured tok/s/GPU over predicted at the same tok/s/user (1 = no gap); ``None`` where the prediction
    has no such tok/s/user. ``front`` and ``front_ratio``: the same against the whole rate-matched front.
    """

    label: str
    tok_s_user: float
    end_to_end: float
    rate_matched: float | None
    ratio: float | None
    front: float | None = None
    front_ratio: float | None = None


@dataclass(frozen=True)
class Speedup:
    """tok/s/GPU of a front over the IFB front at equal tok/s/user, on the overlap only.

    ``step``: best point at that interactivity or better, what one configuration achieves under an SLO.
    ``linear``: between neighbouring front points, the convention of plots.
    """

    kind: Kind
    tok_s_user: float
    step: float | None
    linear: float | None


@dataclass(frozen=True)
class WorkloadAnalysis:
    """All that one workload's results say. Fronts hold no dominated or duplicate point, ascending tok_s_user.

    ``plans``: every feasible rate-matched row, fronts or not. ``measured``: every end-to-end and IFB row.
    ``left_out``: (experiment label, load label, reasons) of invalid measurements. ``notes``: in words.
    """

    workload: str
    emulated: bool
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


@dataclass(frozen=True)
class Analysis:
    """Every workload of one results folder."""

    sweep: str
    model: str
    gpu: str
    engine: str
    emulated: bool
    workloads: tuple[WorkloadAnalysis, ...]
