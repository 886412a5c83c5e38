"""Two analyses of one question: how the fronts of the second stand to those of the first, and what got worse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ratematch.match.compare import ENOUGH, Drawn, compare_fronts, sum_up
from ratematch.match.noise import interval
from ratematch.match.pareto import Front
from ratematch.match.points import Analysis, Comparison, Kind, Point, Speedup, WorkloadAnalysis, objectives

SHUFFLE = 5
"""Seed of the pairing of draws."""
KINDS: tuple[Kind, ...] = ("end_to_end", "rate_matched", "ifb")


@dataclass(frozen=True)
class Ratio:
    """``what`` of the second over the first. Low, high: 95 % interval, ``None`` when the noise is not known."""

    what: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class FrontChange:
    """One front of the second analysis over the same front of the first.

    ``speedups``: tok/s/GPU at equal tok/s/user, on the overlap. ``ends``: most tok/s/GPU and most tok/s/user.
    ``whole``: hypervolume and overlap area. ``regressions``: what got worse by more than was allowed, in words;
    ``within_noise``: what may have, but whose 95 % interval reaches 1.
    """

    workload: str
    kind: Kind
    before: tuple[Point, ...]
    after: tuple[Point, ...]
    speedups: tuple[Speedup, ...]
    ends: tuple[Ratio, ...]
    whole: Comparison | None
    regressions: tuple[str, ...]
    within_noise: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """``only_before``, ``only_after``: workloads that have no counterpart."""

    fronts: tuple[FrontChange, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]

    @property
    def regressions(self) -> tuple[str, ...]:
        return tuple(text for front in self.fronts for text in front.regressions)


def find_changes(before: Analysis, after: Analysis, *, max_regression: float = 0.03) -> Change:
    """Every front of both, workload by workload. ``max_regression``: share of a figure that may be lost without a
    word; what loses more counts only when its 95 % interval (where one is known) lies below 1 altogether.
    """
    first = {workload.workload: workload for workload in before.workloads}
    second = {workload.workload: workload for workload in after.workloads}
    fronts = [
        change
        for name in first
        if name in second
        for kind in KINDS
        if (change := _compare(name, kind, first[name], second[name], max_regression)) is not None
    ]
    return Change(
        tuple(fronts),
        tuple(name for name in first if name not in second),
        tuple(name for name in second if name not in first),
    )


def pair_draws(before: WorkloadAnalysis, after: WorkloadAnalysis, kind: Kind) -> list[tuple[Front, Front]]:
    """(after, before) fronts drawn independently of one another.

    Both analyses draw from the same seeds, so the draws of one are shuffled: pairs of equal draws would have their
    noise cancel in the ratio.
    """
    first, second = dict(before.drawn).get(kind, ()), dict(after.drawn).get(kind, ())
    order = np.random.default_rng(SHUFFLE).permutation(len(first))
    return [(new, first[k]) for new, k in zip(second, order, strict=False)]


def _compare(
    name: str, kind: Kind, first: WorkloadAnalysis, second: WorkloadAnalysis, allowed: float
) -> FrontChange | None:
    old, new = first.front(kind), second.front(kind)
    if not old and not new:
        return None
    drawn = pair_draws(first, second, kind)
    a, b = [objectives(point) for point in new], [objectives(point) for point in old]
    speedups = compare_fronts(kind, a, b, drawn)
    ends = _compare_ends(a, b, drawn) if a and b else []
    worse, perhaps = _judge(kind, name, speedups, ends, allowed)
    if old and not new:
        worse.append(f"{name}: the {_name(kind)} front is gone: no valid point is left")
    return FrontChange(
        name, kind, old, new, tuple(speedups), tuple(ends), sum_up(kind, a, b, drawn), tuple(worse), tuple(perhaps)
    )


def _compare_ends(a: Front, b: Front, drawn: Drawn) -> list[Ratio]:
    def most_p(front: Front) -> float:
        return max(p for _, p in front)

    def most_u(front: Front) -> float:
        return max(u for u, _ in front)

    return [_ratio("most tok/s/GPU", most_p, a, b, drawn), _ratio("most tok/s/user", most_u, a, b, drawn)]


def _ratio(what: str, of: Callable[[Front], float], a: Front, b: Front, drawn: Drawn) -> Ratio:
    values = [of(x) / of(y) for x, y in drawn if x and y]
    if not values or len(values) < ENOUGH * len(drawn):
        return Ratio(what, of(a) / of(b))
    return Ratio(what, of(a) / of(b), *interval(np.array(values)))


def _judge(
    kind: Kind, name: str, speedups: Sequence[Speedup], ends: Sequence[Ratio], allowed: float
) -> tuple[list[str], list[str]]:
    worse: list[str] = []
    perhaps: list[str] = []
    ratios = [
        Ratio(f"tok/s/GPU at {row.tok_s_user:.3g} tok/s/user", row.linear, row.linear_low, row.linear_high)
        for row in speedups
        if row.linear is not None
    ]
    if any(ratio.high is not None for ratio in ratios):
        # At the ends of the overlap too few draws still overlap for an interval; `ends` speak about these.
        ratios = [ratio for ratio in ratios if ratio.high is not None]
    lowest = min(ratios, key=lambda ratio: ratio.value, default=None)
    # A front that is lower is so at many speeds: its worst certain ratio is reported, else its worst.
    certain = [ratio for ratio in ratios if ratio.high is None or ratio.high < 1]
    reported = [min(certain, key=lambda ratio: ratio.value)] if certain else []
    if lowest is not None and lowest not in reported:
        reported.append(lowest)
    for ratio in (*reported, *ends):
        if ratio.value >= 1 - allowed:
            continue
        span = "" if ratio.low is None else f" (95 %: {ratio.low:.3f} to {ratio.high:.3f})"
        text = f"{name}: {_name(kind)} front, {ratio.what}: {ratio.value:.3f} of before{span}"
        (worse if ratio.high is None or ratio.high < 1 else perhaps).append(text)
    return worse, perhaps


def _name(kind: Kind) -> str:
    return {"end_to_end": "end-to-end", "rate_matched": "rate-matched", "ifb": "IFB", "bound": "bound"}[kind]
