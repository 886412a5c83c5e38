"""How much slower ctx and gen run together than apart, fitted to end-to-end runs already measured.

Three numbers. ``gen``: rate over that of the gen curve at the same requests decoding, C = lambda (OSL-1) TPOT / y;
the geometric mean over runs. ``ctx``: the same for the prompts in a ctx server, and ``handover_s``: what a request
spends before its first token outside of ctx and queue (orchestrator, KV transfer, admission to gen).

With the servers' own timings (a breakdown) both are read off. From the client's side only their sum is seen, TTFT;
what tells them apart is that a slower ctx lowers the limit of a deployment and a longer handover does not. Both are
tried on a grid, and those that predict the rates best (least squares of logarithms, each run at its own concurrency)
are taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from ratematch.match.closedloop import derate, operate
from ratematch.match.curves import Curve
from ratematch.match.figures import Figures
from ratematch.match.gaps import find_pair
from ratematch.match.points import Calibration, CalibrationRow
from ratematch.match.predict import Pair

TRIED = tuple(float(value) for value in np.linspace(0.6, 1.2, 31))
"""Ctx factors tried, two per cent apart: about what rates repeat to."""

HANDOVERS = 16
"""Handover times tried, from none to the shortest mean TTFT measured."""

ENOUGH_TO_LEAVE_ONE_OUT = 3


@dataclass(frozen=True)
class Run:
    """An end-to-end row with the servers it is made of, measured apart."""

    row: Figures
    pair: Pair
    x: int
    y: int

    @property
    def tokens(self) -> float:
        return self.pair.gen.rates.tokens_per_request

    def gen_factor(self) -> float:
        decoding = self.row.req_s * self.tokens * self.row.tpot_ms / 1000 / self.y
        return self.row.req_s * self.tokens / self.y / _read(self.pair.gen.rates.curve, decoding)

    def ctx_factor(self, in_ctx_s: float) -> float:
        """Rate over that of the curve with the prompts that spend ``in_ctx_s`` in a ctx server."""
        rate = self.row.req_s / self.x
        return rate / _read(self.pair.ctx.rates.curve, rate * in_ctx_s)


@dataclass(frozen=True)
class Fit:
    """What the factors are, and their spread over runs (standard deviation of logarithms; of handover: seconds)."""

    ctx: float
    gen: float
    handover_s: float


def fit_calibration(rows: Iterable[Figures], pairs: Sequence[Pair]) -> Calibration | None:
    """The factors that all end-to-end rows of servers measured apart agree on best; ``None`` without any.

    Each row of the table is predicted at its own concurrency, before, and after with the factors fitted to the
    *other* rows where there are enough of them (``held_out``): a fit says little about what it was fitted to.
    """
    runs = [
        Run(row, pair, row.experiment.deployment.ctx.instances, row.experiment.deployment.gen.instances)
        for row in rows
        if row.experiment.deployment.ctx is not None and row.experiment.deployment.gen is not None
        if (pair := find_pair(pairs, row.experiment.deployment)) is not None
    ]
    if not runs:
        return None
    grid = None if all(run.row.breakdown is not None for run in runs) else _try_all(runs)
    everyone = list(range(len(runs)))
    fit = _fit(runs, everyone, grid)
    held_out = len(runs) >= ENOUGH_TO_LEAVE_ONE_OUT
    others = [_fit(runs, [k for k in everyone if k != out], grid) if held_out else fit for out in everyone]
    return Calibration(
        ctx=fit.ctx,
        ctx_spread=_spread([each.ctx for each in others]) if held_out else None,
        gen=fit.gen,
        gen_spread=_spread([run.gen_factor() for run in runs]),
        handover_ms=fit.handover_s * 1000,
        num=len(runs),
        ctx_alone=all(run.row.breakdown is not None for run in runs),
        held_out=held_out,
        rows=tuple(_row(run, other) for run, other in zip(runs, others, strict=True)),
    )


@dataclass(frozen=True)
class _Grid:
    """``errors[i, j, k]``: log of predicted over measured rate of run k at ctx factor i and handover j."""

    handovers_s: tuple[float, ...]
    errors: NDArray[np.float64]


def _try_all(runs: Sequence[Run]) -> _Grid:
    gen = math.exp(fmean(math.log(run.gen_factor()) for run in runs))
    longest = min(run.row.ttft_ms for run in runs) / 1000
    handovers = tuple(float(value) for value in np.linspace(0.0, longest, HANDOVERS))
    errors = [
        [
            [
                math.log(operate(calibrated(run.pair, fit), run.x, run.y, run.row.in_flight).req_s / run.row.req_s)
                for run in runs
            ]
            for fit in (Fit(ctx, gen, handover) for handover in handovers)
        ]
        for ctx in TRIED
    ]
    return _Grid(handovers, np.array(errors))


def _fit(runs: Sequence[Run], which: Sequence[int], grid: _Grid | None) -> Fit:
    """The three numbers from the runs ``which``."""
    chosen = [runs[k] for k in which]
    gen = math.exp(fmean(math.log(run.gen_factor()) for run in chosen))
    if grid is None:
        told = [(run, run.row.breakdown) for run in chosen if run.row.breakdown is not None]
        ctx = math.exp(fmean(math.log(run.ctx_factor(b.ctx_queue_s + b.prefill_s)) for run, b in told))
        handover_s = fmean(run.row.ttft_ms / 1000 - b.ctx_queue_s - b.prefill_s for run, b in told)
        return Fit(ctx, gen, max(0.0, handover_s))
    misfit = np.round((grid.errors[:, :, list(which)] ** 2).sum(axis=2), 12)
    # Where a number changes nothing the one nearest to "no difference" is taken.
    best = min(
        ((i, j) for i in range(misfit.shape[0]) for j in range(misfit.shape[1])),
        key=lambda at: (misfit[at], abs(math.log(TRIED[at[0]])), at[1]),
    )
    return Fit(TRIED[best[0]], gen, grid.handovers_s[best[1]])


def calibrated(pair: Pair, fit: Fit) -> Pair:
    """The pair with the factors applied."""
    return replace(derate(pair, fit.ctx, fit.gen), handover_s=fit.handover_s, fitted=True)


def _spread(factors: Sequence[float]) -> float | None:
    return stdev(math.log(factor) for factor in factors) if len(factors) > 1 else None


def _read(curve: Curve[float], load: float) -> float:
    """The curve's rate; below the first load at that load's latency, above the last the highest rate measured."""
    if load < curve.loads[0]:
        return load * curve.rates[0] / curve.loads[0]
    return float(np.interp(load, curve.loads, curve.rates))


def _row(run: Run, fit: Fit) -> CalibrationRow:
    row, gpus = run.row, run.row.experiment.deployment.gpus
    before = operate(run.pair, run.x, run.y, row.in_flight)
    after = operate(calibrated(run.pair, fit), run.x, run.y, row.in_flight)
    return CalibrationRow(
        label=row.experiment.deployment.label,
        concurrency=row.in_flight,
        tok_s_gpu=row.tok_s / gpus,
        tok_s_gpu_before=before.req_s * row.osl / gpus,
        tok_s_gpu_after=after.req_s * row.osl / gpus,
        tpot_ms=row.tpot_ms,
        tpot_before_ms=before.tpot_s * 1000,
        tpot_after_ms=after.tpot_s * 1000,
    )


def apply_calibration(pairs: Iterable[Pair], found: Calibration) -> list[Pair]:
    """Pairs with the factors applied, and a flag that says so."""
    flag = f"calibrated: ctx x {found.ctx:.3f}, gen x {found.gen:.3f}, handover {found.handover_ms:.3g} ms"
    fit = Fit(found.ctx, found.gen, found.handover_ms / 1000)
    return [replace(calibrated(pair, fit), flags=(*pair.flags, flag)) for pair in pairs]
