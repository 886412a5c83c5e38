"""Which deployments are worth running end to end, and at which concurrencies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ratematch.match.analysis import analyze_workload, find_pairs, select_workload
from ratematch.match.figures import collect_figures
from ratematch.match.pareto import step_at
from ratematch.match.points import Measured, Point
from ratematch.match.predict import Pair, deploy
from ratematch.plan.constraints import Constraints
from ratematch.plan.deployment import Deployment
from ratematch.plan.workload import Workload


@dataclass(frozen=True)
class Choice:
    """One deployment to run end to end.

    ``deployment``: the measured ctx and gen servers (mapping, options, batch limits), x and y of them.
    ``predicted``: the row it was chosen for. ``concurrencies``: ascending, of the whole deployment.
    """

    workload: Workload
    deployment: Deployment
    predicted: Point
    concurrencies: tuple[int, ...]
    why: str

    @property
    def x(self) -> int:
        return self.predicted.ctx

    @property
    def y(self) -> int:
        return self.predicted.gen


Key = tuple[tuple[str, ...], int, int]


def choose_end_to_end(
    measured: Sequence[Measured],
    workload: Workload,
    *,
    constraints: Constraints,
    max_gpus: int,
    deployments: int,
    around: Sequence[float] = (0.5, 1.0, 1.25),
    router: str = "round_robin",
) -> list[Choice]:
    """Up to ``deployments`` deployments spread along the rate-matched front of ``workload``, best guesses first.

    First the front's own deployments, spread evenly in log(tok/s/user) from end to end. What is left of the budget
    goes to neighbours of these, one instance more or less on a side, nearest to the front first: the ratio ignores
    KV transfer and queueing, so the best real ratio may be the one beside it. Empty when nothing can be matched.

    ``around``: multiples of the predicted concurrency to run at.
    """
    if not select_workload(measured, workload):
        return []
    analysis = analyze_workload(measured, workload, constraints=constraints, max_gpus=max_gpus)
    if not analysis.rate_matched or deployments < 1:
        return []
    by_deployment: dict[Key, list[Point]] = {}
    for point in analysis.plans:
        by_deployment.setdefault(_key(point), []).append(point)
    chosen = [
        (point, "on the rate-matched front") for point in spread_along(_one_each(analysis.rate_matched), deployments)
    ]
    taken = {_key(point) for point, _ in chosen}
    front = [(point.tok_s_user, point.tok_s_gpu) for point in analysis.rate_matched]
    beside = sorted(_neighbours(taken, by_deployment), key=lambda point: (-_nearness(point, front), point.label))
    chosen += [(point, "beside the solved ratio") for point in beside[: deployments - len(chosen)]]

    figures, _ = collect_figures(select_workload(measured, workload), constraints)
    pairs = {(pair.ctx.source, pair.gen.source): pair for pair in find_pairs(figures, constraints)}
    return [_choice(workload, pairs, point, why, around, router) for point, why in chosen]


def _key(point: Point) -> Key:
    return point.sources, point.ctx, point.gen


def _one_each(front: Sequence[Point]) -> list[Point]:
    """Of each deployment on the front the row with most tok/s/GPU, ascending tok/s/user."""
    best: dict[Key, Point] = {}
    for point in front:
        if _key(point) not in best or point.tok_s_gpu > best[_key(point)].tok_s_gpu:
            best[_key(point)] = point
    return sorted(best.values(), key=lambda point: point.tok_s_user)


def spread_along(front: Sequence[Point], num: int) -> list[Point]:
    """``num`` rows of a front (ascending tok/s/user): both ends, and those nearest to even steps of log(tok/s/user).

    One row alone is the middle of the front.
    """
    if num >= len(front):
        return list(front)
    low, high = math.log(front[0].tok_s_user), math.log(front[-1].tok_s_user)
    left = list(front)
    chosen = []
    for k in range(num):
        goal = low + (high - low) * (k / (num - 1) if num > 1 else 0.5)
        nearest = min(left, key=lambda point: abs(math.log(point.tok_s_user) - goal))
        left.remove(nearest)
        chosen.append(nearest)
    return sorted(chosen, key=lambda point: point.tok_s_user)


def _neighbours(taken: Iterable[Key], by_deployment: dict[Key, list[Point]]) -> list[Point]:
    """The fullest row of every planned deployment one instance away from a chosen one."""
    taken = set(taken)
    found: dict[Key, Point] = {}
    for sources, x, y in taken:
        for key in ((sources, x + 1, y), (sources, x - 1, y), (sources, x, y + 1), (sources, x, y - 1)):
            if key in by_deployment and key not in taken:
                found[key] = max(by_deployment[key], key=lambda point: point.tok_s_gpu)
    return list(found.values())


def _nearness(point: Point, front: Sequence[tuple[float, float]]) -> float:
    """tok/s/GPU over that of the front at the same tok/s/user or better: 1 on the front."""
    return point.tok_s_gpu / (step_at(front, point.tok_s_user) or point.tok_s_gpu)


def _choice(
    workload: Workload,
    pairs: dict[tuple[str, str], Pair],
    point: Point,
    why: str,
    around: Sequence[float],
    router: str,
) -> Choice:
    ctx_source, gen_source = point.sources
    ctx, gen = deploy(pairs[ctx_source, gen_source], point.ctx, point.gen)
    return Choice(
        workload=workload,
        deployment=Deployment(ctx=ctx, gen=gen, router=router),
        predicted=point,
        concurrencies=choose_concurrencies(point, around),
        why="; ".join((why, *point.flags)),
    )


def choose_concurrencies(point: Point, around: Iterable[float]) -> tuple[int, ...]:
    """Whole concurrencies at the multiples ``around`` of the N that ``point`` predicts, ascending, each once.

    N is that of Little's law for the whole deployment, so not "per gen server times servers". A multiple above 1
    shows whether the predicted limit is real: beyond it, requests only wait longer.
    """
    return tuple(sorted({max(1, round(factor * point.concurrency)) for factor in around}))
