"""How much slower ctx and gen run together than apart, fitted to end-to-end runs already measured, pair by pair.

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

from ratematch.match.closedloop import Loaded, derate, held_up_by_others, operate, settle_all
from ratematch.match.curves import Curve, latency_at
from ratematch.match.figures import Figures
from ratematch.match.gaps import PairIndex
from ratematch.match.matching import Gen
from ratematch.match.noise import Floats
from ratematch.match.options import CtxOption, GenOption
from ratematch.match.pairs import Pair
from ratematch.match.points import Calibration, CalibrationRow, PairFactors

TRIED = np.round(np.arange(0.6, 1.201, 0.02), 2)
"""Ctx factors tried, two per cent apart: about what rates repeat to."""

MOST_FITTED = 100
"""End-to-end rows that a fit looks at: more say nothing new of three numbers, and take minutes."""

BUNCHINGS = np.round(np.arange(0.0, 1.001, 0.05), 2)

CTX_BELIEVED = 0.1
REPEATS = 0.05

FEWEST_TO_HOLD_OUT = 3

AGREE = 0.1
"""Factors of pairs that lie further apart say nothing of a pair that was not run."""

AT_ONCE = 64
"""Runs settled at once: memory, not results."""

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
        """Tokens/s of an instance over what its curve gives where as many decode, in the time that posting leaves."""
        decoding = self.row.req_s * self.tokens * self.row.tpot_ms / 1000 / self.y
        gen = held_up_by_others(self.pair, self.x, self.y, self.row.in_flight).gen
        return self.row.req_s * self.tokens / self.y / (_read(gen.curve, decoding) * self._left(gen))

    def _left(self, gen: Gen[float]) -> float:
        return max(0.05, 1 - self.row.req_s / self.y * gen.extra_s)


@dataclass(frozen=True)
class Fit:
    """What the numbers are: 1, 1 and 0 change nothing."""

    ctx: float
    gen: float
    bunching: float


def fit_calibration(rows: Iterable[Figures], pairs: Sequence[Pair]) -> Calibration | None:
    """What end-to-end rows of servers measured apart say of each pair, and of all together; ``None`` without any.

    Each row of the table is predicted at its own concurrency, before, and after with the numbers fitted to *other*
    rows of its pair where there are enough of them (``held_out``): a fit says little about what it was fitted to.
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
    by_pair: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        by_pair.setdefault(_sources(run.pair), []).append(run)
    fitted = [_fit_pair(sources, own) for sources, own in by_pair.items()]
    whole, _ = _fit_pair(("", ""), runs) if len(fitted) > 1 else fitted[0]
    after = {id(run): fit for own, (_, fits) in zip(by_pair.values(), fitted, strict=True) for run, fit in fits}
    factors = tuple(pair for pair, _ in fitted)
    return Calibration(
        ctx=whole.ctx,
        ctx_spread=whole.ctx_spread,
        gen=whole.gen,
        gen_spread=whole.gen_spread,
        bunching=whole.bunching,
        num=len(runs),
        held_out=all(pair.held_out for pair in factors),
        rows=tuple(_row(run, after[id(run)]) for run in runs),
        pairs=factors,
        agree=_apart([pair.ctx for pair in factors]) <= AGREE and _apart([pair.gen for pair in factors]) <= AGREE,
        piece_us=count_piece_us(run.row for run in runs),
    )


def count_piece_us(rows: Iterable[Figures]) -> float | None:
    """What posting one piece of a KV transfer took by the servers' counters, mean over all pieces, microseconds."""
    counted = [
        (row.breakdown.kv_post_s, row.breakdown.kv_descriptors)
        for row in rows
        if row.breakdown is not None and row.breakdown.kv_post_s and row.breakdown.kv_descriptors
    ]
    return sum(s for s, _ in counted) / sum(pieces for _, pieces in counted) * 1e6 if counted else None


def _sources(pair: Pair) -> tuple[str, str]:
    return pair.ctx.source, pair.gen.source


def _apart(factors: Sequence[float]) -> float:
    return max(factors) / min(factors) - 1


def _fit_pair(sources: tuple[str, str], runs: Sequence[Run]) -> tuple[PairFactors, list[tuple[Run, Fit]]]:
    """The numbers that ``runs`` agree on best, and for each run those by which it is predicted."""
    held_out = len(runs) >= FEWEST_TO_HOLD_OUT
    folds = min(FOLDS, len(runs)) if held_out else 0
    gen = [run.gen_factor() for run in runs]
    numbers = range(len(runs))
    groups = [list(numbers), *([k for k in numbers if k % folds != fold] for fold in range(folds))]
    fit, *others = _fit_groups(runs, gen, groups)
    others = others or [fit]
    factors = PairFactors(
        label=f"{_name(runs[0].pair.ctx)} + {_name(runs[0].pair.gen)}",
        sources=sources,
        ctx=fit.ctx,
        ctx_spread=_spread([other.ctx for other in others]) if held_out else None,
        gen=fit.gen,
        gen_spread=_spread(gen),
        bunching=fit.bunching,
        num=len(runs),
        held_out=held_out,
    )
    return factors, [(run, others[k % len(others)]) for k, run in enumerate(runs)]


def _name(option: CtxOption | GenOption) -> str:
    tag = option.group.tag if option.group is not None else ""
    return f"{option.label}+{tag}" if tag else option.label


def _fit_groups(runs: Sequence[Run], gen: Sequence[float], groups: Sequence[Sequence[int]]) -> list[Fit]:
    """The fit to each of ``groups`` of ``runs``, by their numbers; ``gen``: the gen factor of each run.

    A group is fitted to at most :data:`MOST_FITTED` of its runs, evenly among them.
    """
    groups = [group[:: -(-len(group) // MOST_FITTED)] for group in groups]
    means = [math.exp(fmean(math.log(gen[k]) for k in group)) for group in groups]
    misfits = [np.repeat(((REPEATS / CTX_BELIEVED * np.log(TRIED)) ** 2)[:, None], BUNCHINGS.size, 1) for _ in groups]
    wanted = [(number, k) for number, group in enumerate(groups) for k in group]
    of_pair: dict[int, list[tuple[int, int]]] = {}
    for number, k in wanted:
        of_pair.setdefault(id(runs[k].pair), []).append((number, k))
    for own in of_pair.values():
        for first in range(0, len(own), AT_ONCE):
            part = own[first : first + AT_ONCE]
            for (number, _), misfit in zip(part, _misfits(runs, means, part), strict=True):
                misfits[number] += misfit
    return [_best(misfit, mean) for misfit, mean in zip(misfits, means, strict=True)]


def _misfits(runs: Sequence[Run], means: Sequence[float], part: Sequence[tuple[int, int]]) -> Floats:
    """Squared logarithms of predicted over measured rates, (runs, ctx factors, bunchings), of runs of one pair.
    ``part``: the number of each one's gen factor among ``means``, and its own."""
    own = [runs[k] for _, k in part]
    loaded = Loaded(
        x=np.array([float(run.x) for run in own]),
        y=np.array([float(run.y) for run in own]),
        concurrency=np.array([run.row.in_flight for run in own]),
        gen=np.array([means[number] for number, _ in part]),
    )
    rates = settle_all(own[0].pair, loaded, ctx=TRIED, bunching=BUNCHINGS)
    return np.asarray(np.log(rates / np.array([run.row.req_s for run in own])[:, None, None]) ** 2)


def _best(misfit: Floats, gen: float) -> Fit:
    """The best of the grid; where a number changes nothing the one nearest to "no difference"."""
    ctx, bunching = (values.ravel() for values in np.meshgrid(TRIED, BUNCHINGS, indexing="ij"))
    best = np.lexsort((bunching, np.abs(np.log(ctx)), np.round(misfit.ravel(), 12)))[0]
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
        pair=_sources(run.pair),
    )


def apply_calibration(pairs: Iterable[Pair], calibration: Calibration) -> list[Pair]:
    """Pairs with their own numbers applied, and a flag that says so.

    A pair that no run is of takes those of all runs where the measured pairs agree, and none where they do not.
    """
    known = {factors.sources: factors for factors in calibration.pairs}
    applied = []
    for pair in pairs:
        own = known.get(_sources(pair))
        if own is None and not calibration.agree:
            flag = "not calibrated: no run is of this pair, and those of others differ too much"
            applied.append(replace(pair, flags=(*pair.flags, flag)))
            continue
        taken = own or calibration
        flag = f"calibrated: ctx x {taken.ctx:.3f}, gen x {taken.gen:.3f}, bunching {taken.bunching:.2f}"
        flag += "" if own else ", of other pairs"
        fit = Fit(taken.ctx, taken.gen, taken.bunching)
        applied.append(replace(calibrated(pair, fit), flags=(*pair.flags, flag)))
    return applied
