"""Which deployments are worth running end to end, and at which concurrencies."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ratematch.match.analysis import analyze_workload, find_pairs, select_workload
from ratematch.match.feasibility import Links, add_transfer
from ratematch.match.figures import collect_figures
from ratematch.match.gain import DIFFERS, Allowance, Picked, RunCandidate, Value, floor_of, like_area, pick
from ratematch.match.pairs import Pair, deploy, put_in_service
from ratematch.match.pareto import Front, extract_front, hypervolume, step_at
from ratematch.match.points import Point, WorkloadAnalysis, objectives
from ratematch.match.question import Question
from ratematch.measure.measured import Measured
from ratematch.plan.deployment import Deployment
from ratematch.plan.workload import Workload

NEAR = 0.8
"""Neighbours below this share of the front at their tok/s/user are no candidates: twice the usual gap."""

MOST_CANDIDATES = 200
"""More deployments than this on the front, or beside it, are thinned out evenly before gains are estimated."""


@dataclass(frozen=True)
class RunChoice:
    """One deployment to run end to end.

    ``deployment``: the measured ctx and gen servers (mapping, options, batch limits), x and y of them.
    ``predicted``: the row it was chosen for. ``concurrencies``: ascending, of the whole deployment. ``gain``: what it
    is expected to add to the dominated area, over the choices before it; ``share``: the same as a share of the area
    under the whole rate-matched front, the measure that ctx and gen servers are searched by. ``gpu_hours``: its
    estimated cost. ``chance``: see :class:`ratematch.match.gain.RunCandidate`.
    """

    workload: Workload
    deployment: Deployment
    predicted: Point
    concurrencies: tuple[int, ...]
    why: str
    gain: float
    gpu_hours: float
    share: float = 0.0
    chance: float = 1.0

    @property
    def x(self) -> int:
        return self.predicted.ctx

    @property
    def y(self) -> int:
        return self.predicted.gen

    @property
    def share_per_hour(self) -> float:
        return self.share / self.gpu_hours if self.gpu_hours else math.inf

    @property
    def key(self) -> Key:
        return key_of(self.predicted)


Cost = Callable[[Deployment, Sequence[int]], float]
"""GPU-hours of running a deployment at these concurrencies."""


def count_gpu_hours(deployment: Deployment, concurrencies: Sequence[int]) -> float:
    """Where their times are not known, in units of one GPU for one load; a start takes four loads."""
    return deployment.gpus * (4 + len(concurrencies))


@dataclass(frozen=True)
class Runs:
    """How many deployments may be chosen, and how each is run end to end."""

    deployments: int
    """Most of them, those decided on before included."""
    around: Sequence[float] = (0.5, 1.0, 1.25)
    """Multiples of the predicted concurrency to run at, unless ``concurrencies`` says which."""
    concurrencies: Sequence[int] = ()
    """Of the whole deployment."""
    choose_at: Sequence[float] = ()
    """tok/s/user at which one deployment will be chosen; those that may be the best there are run there too."""
    router: str = "round_robin"
    cost: Cost = count_gpu_hours
    """What a run takes."""
    links: Links | None = None
    """What KV transfers go over and cost, where that is to tell deployments apart."""


@dataclass(frozen=True)
class Spending:
    """What chosen runs may cost, and must bring."""

    gpu_hours: float | None = None
    """Of all runs together; ``None``: any."""
    price: float = 0.0
    """Share of ``whole`` that a GPU-hour must bring."""
    whole: float | None = None
    """An area, tok/s/user x tok/s/GPU; that under the rate-matched front when it is left out."""
    one_at_least: bool = True
    """Choose the one deployment that comes best even where none is expected to add anything, IFB being better
    everywhere: that should be measured, not predicted."""


def certain(point: Point) -> float:
    """The chance that a deployment stays on the front when nothing may push it off."""
    return 1.0


def choose_end_to_end(
    measured: Sequence[Measured],
    workload: Workload,
    question: Question,
    runs: Runs,
    spending: Spending | None = None,
    *,
    already: Mapping[Key, bool] | None = None,
    chance: Callable[[Point], float] = certain,
) -> list[RunChoice]:
    """The deployments that together are expected to add most to the area above the IFB front.

    Candidates are the deployments on the rate-matched front of ``workload``, their neighbours, one instance more or
    less on a side (matching knows nothing of queues and KV transfer, so the best real ratio may be the one beside
    it), and those that may be the best where one will be chosen. See :mod:`ratematch.match.gain`. End-to-end rows
    among ``measured`` are not looked at, so that a sweep that is run again chooses as it did the first time. Empty
    when nothing can be matched or paid for. ``question``: filled in.

    ``chance``: that a deployment stays on the front when everything is measured. ``already``: runs decided on before,
    and whether they are measured (then their rows are looked at): the further ones beside them are chosen. Those that
    something measured since has pushed far off the front do not count among the deployments.
    """
    spending = spending or Spending()
    if already is None:
        measured = [row for row in measured if row.experiment.stage != "e2e"]
    if not select_workload(measured, workload) or runs.deployments < 1:
        return []
    analysis = analyze_workload(measured, workload, replace(question, draws=0), runs.links)
    if not analysis.rate_matched:
        return []
    figures, _ = collect_figures(select_workload(measured, workload), question.constraints)
    found = find_pairs(figures, question.constraints)
    if runs.links is not None:
        found, _ = add_transfer(found, runs.links.at_isl(workload.isl), question.budget_gpus, question.constraints)
    found = put_in_service(found, question.constraints)
    pairs = {(pair.ctx.source, pair.gen.source): pair for pair in found}
    field = _find_field(analysis, pairs, runs, already or {}, chance)
    area = hypervolume(field.front) if spending.whole is None else spending.whole
    value = Value(floor_of(question.constraints), tuple(runs.choose_at), like_area(field.front, runs.choose_at))

    def best(known: Front, most: int, price: float) -> list[Picked]:
        allowance = Allowance(most, spending.gpu_hours, price * area)
        return pick(field.candidates, known, value, allowance, question.constraints, under_way=field.under_way)

    ifb = [objectives(point) for point in analysis.ifb]
    known = extract_front([*ifb, *(objectives(point) for point in analysis.end_to_end)], lambda point: point)
    picked, expected = best(known, runs.deployments - field.num_before, spending.price), "of area"
    if not picked and ifb and not already and spending.one_at_least:
        picked, expected = best([], 1, 0.0), "of area without IFB, and nothing beside it"
    return [_choice(workload, one, field.place(one.candidate.point), expected, runs.router, area) for one in picked]


@dataclass(frozen=True)
class Field:
    """The deployments that compete for end-to-end runs. ``front``: of the rate-matched rows. ``on_front`` and
    ``contending``: rows they are candidates for. ``under_way``: decided on and not measured. ``num_before``: how many
    of the runs decided on before are still worth a place."""

    front: Front
    candidates: list[RunCandidate]
    under_way: list[RunCandidate]
    on_front: Sequence[Point]
    contending: Sequence[Point]
    num_before: int

    def place(self, point: Point) -> str:
        """Why a point is a candidate, in words."""
        return ON_FRONT if point in self.on_front else CONTENDS if point in self.contending else BESIDE


def _find_field(
    analysis: WorkloadAnalysis,
    pairs: Mapping[tuple[str, str], Pair],
    runs: Runs,
    already: Mapping[Key, bool],
    chance: Callable[[Point], float],
) -> Field:
    front = [objectives(point) for point in analysis.rate_matched]
    contenders = find_contenders(analysis.plans, front, runs.choose_at)
    on_front = spread_along(_one_each(analysis.rate_matched), MOST_CANDIDATES)
    near = [point for point in _neighbours(on_front, analysis.plans) if _nearness(point, front) >= NEAR]
    beside = spread_along(sorted(near, key=lambda point: (point.tok_s_user, point.label)), MOST_CANDIDATES)
    keys = {key_of(point) for point in (*on_front, *beside)}
    contending = [
        max(points, key=lambda point: point.tok_s_gpu) for key, points in contenders.items() if key not in keys
    ]
    before = find_fullest(point for point in analysis.plans if key_of(point) in already)

    def candidate(point: Point) -> RunCandidate:
        pair = pairs[point.sources[0], point.sources[1]]
        rows = [point, *contenders.get(key_of(point), ())]
        concurrencies = tuple(runs.concurrencies) or choose_concurrencies(rows, runs.around)
        cost = runs.cost(_deploy(pair, point, runs.router), concurrencies)
        return RunCandidate(point, pair, concurrencies, cost, chance(point))

    kept = {key_of(point) for point in analysis.plans if key_of(point) in before and _nearness(point, front) >= NEAR}
    return Field(
        front=front,
        candidates=[candidate(point) for point in (*on_front, *beside, *contending) if key_of(point) not in before],
        under_way=[candidate(point) for key, point in sorted(before.items()) if not already[key]],
        on_front=on_front,
        contending=contending,
        num_before=len(kept),
    )


ON_FRONT = "on the rate-matched front"
BESIDE = "beside a ratio on the rate-matched front"
CONTENDS = "may be the best where one is to be chosen"


def _deploy(pair: Pair, point: Point, router: str) -> Deployment:
    ctx, gen = deploy(pair, point.ctx, point.gen)
    return Deployment(ctx=ctx, gen=gen, router=router)


def _one_each(front: Sequence[Point]) -> list[Point]:
    """Of each deployment on the front the row with most tok/s/GPU, ascending tok/s/user."""
    return sorted(find_fullest(front).values(), key=lambda point: point.tok_s_user)


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


def _neighbours(chosen: Sequence[Point], plans: Sequence[Point]) -> list[Point]:
    """The fullest row of every planned deployment one instance away from a chosen one."""
    by_deployment = find_fullest(plans)
    taken = {key_of(point) for point in chosen}
    beside: dict[Key, Point] = {}
    for sources, x, y in sorted(taken):
        for key in ((sources, x + 1, y), (sources, x - 1, y), (sources, x, y + 1), (sources, x, y - 1)):
            if key in by_deployment and key not in taken:
                beside[key] = by_deployment[key]
    return list(beside.values())


def _nearness(point: Point, front: Sequence[tuple[float, float]]) -> float:
    """tok/s/GPU over that of the front at the same tok/s/user or better: 1 on the front."""
    return point.tok_s_gpu / (step_at(front, point.tok_s_user) or point.tok_s_gpu)


def _choice(
    workload: Workload, picked: Picked, where: str, expected: str, router: str, front_area: float
) -> RunChoice:
    candidate = picked.candidate
    return RunChoice(
        workload=workload,
        deployment=_deploy(candidate.pair, candidate.point, router),
        predicted=candidate.point,
        concurrencies=candidate.concurrencies,
        why="; ".join((f"{where}, expected to add {picked.gain:.1%} {expected}", *candidate.point.flags)),
        gain=picked.gain,
        gpu_hours=candidate.gpu_hours,
        share=picked.area / front_area if front_area else 0.0,
        chance=candidate.chance,
    )


def choose_concurrencies(points: Iterable[Point], around: Sequence[float]) -> tuple[int, ...]:
    """Whole concurrencies at the multiples ``around`` of the N predicted by each of ``points``, ascending, each once.

    N is that of Little's law for the whole deployment, so not "per gen server times servers". A multiple above 1
    shows whether the predicted limit is real: beyond it, requests only wait longer.
    """
    return tuple(sorted({max(1, round(factor * point.concurrency)) for point in points for factor in around}))


Key = tuple[tuple[str, ...], int, int]
"""Which servers were measured for a deployment (ctx, gen), and how many of each it has."""

MOST = 40
"""For one tok/s/user: more than these are never run."""


def key_of(point: Point) -> Key:
    return point.sources, point.ctx, point.gen


def find_fullest(points: Iterable[Point]) -> dict[Key, Point]:
    """Of each deployment the row with most tok/s/GPU."""
    best: dict[Key, Point] = {}
    for point in points:
        key = key_of(point)
        if key not in best or point.tok_s_gpu > best[key].tok_s_gpu:
            best[key] = point
    return best


def find_contenders(plans: Sequence[Point], front: Front, choose_at: Sequence[float]) -> dict[Key, list[Point]]:
    """By deployment, the rows of ``plans`` at the tok/s/user of ``choose_at`` for which it may turn out the best.

    A row at u is the one with most tok/s/GPU of those that are as fast. A deployment may be the best where it is
    predicted within what deployments usually differ from their prediction of the rate-matched ``front``.
    """
    contenders: dict[Key, list[Point]] = {}
    for speed in choose_at:
        best = step_at(front, speed)
        if best is None:
            continue
        rows = find_fullest(point for point in plans if point.tok_s_user >= speed)
        near = [point for point in rows.values() if point.tok_s_gpu >= (1 - DIFFERS) * best]
        for point in sorted(near, key=lambda point: (-point.tok_s_gpu, point.label))[:MOST]:
            contenders.setdefault(key_of(point), []).append(point)
    return contenders
