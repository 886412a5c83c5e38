"""What is asked of a table of rates, and the rows that answer: values only."""

from __future__ import annotations

from dataclasses import dataclass, field

from ratematch.match.matching import Limit, Objective
from ratematch.match.packing import Packing
from ratematch.match.points import Speedup


@dataclass(frozen=True)
class Asked:
    """The options of ``ratematch match``. ``osl``: ``None`` takes the table's. Limits in ms, judged at the table's
    own (mean) figures. ``concurrencies``: requests in flight to predict the plans shown at."""

    max_gpus: int
    osl: int | None = None
    packing: Packing | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    objective: Objective = "per_used_gpu"
    concurrencies: tuple[int, ...] = ()


@dataclass(frozen=True)
class Bound:
    """A gen row at its ideal, fractional share of the ctx configuration with most requests/s per GPU."""

    ctx_label: str
    gen_label: str
    mtp: int | None
    concurrency: float
    ratio: str
    req_s_gen: float
    req_s_ctx: float
    tpot_ms: float
    tok_s_user: float
    tok_s_gpu: float
    on_front: bool
    extra: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TablePlan:
    """One whole deployment at one demand. ``concurrency``: requests decoding in all gen instances.

    ``nodes`` is ``None`` and ``gpus_allocated`` the used GPUs when nobody said how many GPUs a node has.
    """

    ctx_label: str
    gen_label: str
    x: int
    y: int
    gpus: int
    gpus_allocated: int
    nodes: int | None
    req_s: float
    limit: Limit
    concurrency: float
    concurrency_per_gen: float
    tpot_ms: float
    tok_s_user: float
    tok_s: float
    tok_s_gpu: float
    tok_s_gpu_allocated: float
    ratio: str
    clamped: bool


@dataclass(frozen=True)
class IfbRow:
    """A measured aggregated server."""

    label: str
    mtp: int | None
    gpus: int
    concurrency: float
    tpot_ms: float
    ttft_ms: float | None
    tok_s_user: float
    tok_s: float
    tok_s_gpu: float
    extra: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ClosedLoopRow:
    """A plan's deployment with ``concurrency`` requests in flight, as a benchmark holds them.

    ``limit``: what bounds the rate, ``None`` while the deployment could do more. ``ttft_ms``: ctx as its row was
    measured, and what waits beyond the limit; KV transfer, router and uneven arrivals are not in it.
    """

    ctx_label: str
    gen_label: str
    x: int
    y: int
    gpus: int
    concurrency: int
    req_s: float
    limit: Limit | None
    concurrency_per_gen: float
    ttft_ms: float
    tpot_ms: float
    tok_s_user: float
    tok_s: float
    tok_s_gpu: float
    clamped: bool


@dataclass(frozen=True)
class Sure:
    """How sure a row of the front is, from the spread of the table's repeats.

    ``low``, ``high``: 95 % interval of what the front is ordered by. ``ratio_*``: of the ideal ctx:gen ratio.
    ``chance``: share of draws with the row on the front.
    """

    low: float
    high: float
    ratio_low: float
    ratio_high: float
    chance: float


@dataclass(frozen=True)
class TableMatch:
    """``plans``: the best of every ctx and gen pair (or all of them), best first by the objective. ``front``:
    ascending tok/s/user. ``closed_loop``: each deployment among ``plans`` at the concurrencies asked for.
    ``sure``: of each row of ``front``; empty without repeats. ``ifb_scores``: what ``ifb_front`` is ordered by."""

    osl: int
    rate_matched: tuple[Bound, ...]
    plans: tuple[TablePlan, ...]
    front: tuple[TablePlan, ...]
    ifb_front: tuple[IfbRow, ...]
    speedup: tuple[Speedup, ...]
    notes: tuple[str, ...]
    closed_loop: tuple[ClosedLoopRow, ...] = ()
    sure: tuple[Sure, ...] = ()
    ifb_scores: tuple[float, ...] = ()
