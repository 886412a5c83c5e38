"""How much slower ctx and gen run together than apart, fitted to end-to-end runs already measured.

``gen``: rate over that of the gen curve at the same requests decoding, C = lambda (OSL-1) TPOT / y; the geometric
mean over runs.

``ctx`` and ``bunching`` come from the rates, each run at its own concurrency. A slower ctx lowers the limit of a
deployment; prompts that arrive in bunches (:mod:`ratematch.match.closedloop`) lower the rate below the limit and not
the limit. Both are tried on a grid, and what predicts the rates best is taken: least squares of logarithms. Few runs
say little about two numbers, so the ctx factor pays for being away from 1: a ctx server is believed to be within 10 %
of what it does alone (``CTX_BELIEVED``) and runs to repeat to 5 % (``REPEATS``), one standard deviation each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

import numpy as np

from ratematch.match.closedloop import derate, operate, settle_all
from ratematch.match.curves import Curve, latency_at
from ratematch.match.figures import Figures
from ratematch.match.gaps import PairIndex
from ratematch.match.noise import Floats
from ratematch.match.pairs import Pair
from ratematch.match.points import Calibration, CalibrationRow

TRIED = np.round(np.arange(0.6, 1.201, 0.02), 2)
"""Ctx factors tried, two per cent apart: about what rates repeat to."""

MOST_FITTED = 100
"""End-to-end rows that a fit looks at: more say nothing new of three numbers, and take minutes."""

BUNCHINGS = np.round(np.arange(0.0, 1.001, 0.05), 2)

CTX_BELIEVED = 0.1
REPEATS = 0.05

FEWEST_TO_HOLD_OUT = 3

FOLDS = 6
"""Runs are predicted from fits without them, in so many groups at most: a fit for each run would take too long."""


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


@dataclass(frozen=True)
class Fit:
    """What the numbers are: 1, 1 and 0 change nothing."""

    ctx: float
    gen: float
    bunching: float


def fit_calibration(rows: Iterable[Figures], pairs: Sequence[Pair]) -> Calibration | None:
    """The numbers that all end-to-end rows of servers measured apart agree on best; ``None`` without any.

    Each row of the table is predicted at its own concurrency, before, and after with the numbers fitted to *other*
    rows where there are enough of them (``held_out``): a fit says little about what it was fitted to.
    """
    index = PairIndex.of(pairs)
    runs = [
        Run(row, pair, row.experiment.deployment.ctx.instances, row.experiment.deployment.gen.instances)
        for row in rows
        if row.experiment.deployment.ctx is not None and row.experiment.deployment.gen is not None
        if (pair := index.find(row.experiment.deployment)) is not None
    ]
    if not runs:
        return None
    fit = _fit(runs)
    held_out = len(runs) >= FEWEST_TO_HOLD_OUT
    folds = min(FOLDS, len(runs))
    others = (
        [_fit([run for k, run in enumerate(runs) if k % folds != fold]) for fold in range(folds)]
        if held_out
        else [fit]
    )
    return Calibration(
        ctx=fit.ctx,
        ctx_spread=_spread([other.ctx for other in others]) if held_out else None,
        gen=fit.gen,
        gen_spread=_spread([run.gen_factor() for run in runs]),
        bunching=fit.bunching,
        num=len(runs),
        held_out=held_out,
        rows=tuple(_row(run, others[k % len(others)]) for k, run in enumerate(runs)),
    )


def _fit(runs: Sequence[Run]) -> Fit:
    """Fitted to at most :data:`MOST_FITTED` of ``runs``, evenly among them."""
    runs = runs[:: -(-len(runs) // MOST_FITTED)]
    gen = math.exp(fmean(math.log(run.gen_factor()) for run in runs))
    ctx, bunching = (values.ravel() for values in np.meshgrid(TRIED, BUNCHINGS, indexing="ij"))
    misfit: Floats = (REPEATS / CTX_BELIEVED * np.log(ctx)) ** 2
    for run in runs:
        rates = settle_all(run.pair, run.x, run.y, run.row.in_flight, ctx=ctx, gen=gen, bunching=bunching)
        misfit = misfit + np.log(rates / run.row.req_s) ** 2
    # Where a number changes nothing the one nearest to "no difference" is taken.
    best = np.lexsort((bunching, np.abs(np.log(ctx)), np.round(misfit, 12)))[0]
    return Fit(float(ctx[best]), gen, float(bunching[best]))


def calibrated(pair: Pair, fit: Fit) -> Pair:
    """The pair with the numbers applied."""
    return replace(derate(pair, fit.ctx, fit.gen), bunching=fit.bunching)


def _spread(factors: Sequence[float]) -> float | None:
    return stdev(math.log(factor) for factor in factors) if len(factors) > 1 else None


def _read(curve: Curve[float], load: float) -> float:
    """The curve's rate; below the first load at that load's latency, above the last the highest rate measured."""
    return load / latency_at(curve, load)


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


def apply_calibration(pairs: Iterable[Pair], calibration: Calibration) -> list[Pair]:
    """Pairs with the numbers applied, and a flag that says so."""
    flag = (
        f"calibrated: ctx x {calibration.ctx:.3f}, gen x {calibration.gen:.3f}, bunching {calibration.bunching:.2f}"
    )
    fit = Fit(calibration.ctx, calibration.gen, calibration.bunching)
    return [replace(calibrated(pair, fit), flags=(*pair.flags, flag)) for pair in pairs]
