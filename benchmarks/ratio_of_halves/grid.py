"""The counts that matching chooses from servers alone, beside those that are best of whole deployments simulated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ratematch.match.analysis import analyze_workload, find_pairs
from ratematch.match.figures import collect_figures
from ratematch.match.matching import list_cells
from ratematch.match.pairs import put_in_service
from ratematch.match.question import Question
from ratematch.measure.measured import Measured
from ratematch.plan.load import Constraints, TtftOf
from ratematch.plan.parallelism import parse_mapping

from .cases import Case
from .halves import life_s, measure_halves, measure_whole

SPEEDS = 5
"""Speeds that are asked for, between those of a full and of an almost empty gen server, beside none at all."""
STEP, LOADS, OVERFULL = 2.0, 7, 1.25
"""Each deployment is run at up to ``LOADS`` concurrencies, each ``STEP`` times the next lower one, up to ``OVERFULL``
times the slots of its gen servers."""
APART, NEARER = 2.0, math.sqrt(2)
"""Loads of the servers alone are so far apart; and in a ladder beside it."""
HALVINGS, NEAR = 4, 1.05
"""Between two loads on either side of a TTFT limit further ones are run, so often or until they are so near."""
BUDGETS = (0.5, 0.75, 1.0)
TTFT_OF_CTX = (2.0, 8.0)
"""TTFT limits, in times of what the context server takes with one prompt alone."""
OVERRUN = 0.95
"""Above this share of what context servers sustain TTFT is whatever concurrency makes of it."""
ALIKE = 0.005
"""Deployments that differ by less are equally good: a longer run, or another seed, changes as much."""

Counts = tuple[int, int]


@dataclass(frozen=True)
class At:
    """A whole deployment at one number of requests in flight."""

    concurrency: int
    tok_s_user: float
    tok_s_gpu: float
    ttft_ms: float


@dataclass(frozen=True)
class Target:
    """One question: the budget, the least tok/s/user (0: any), the most mean TTFT (``None``: any)."""

    gpus: int
    tok_s_user: float
    ttft_ms: float | None = None


@dataclass(frozen=True)
class Answer:
    """``chosen`` by matching, with tok/s/GPU that it ``predicted`` and that the deployment ``gives``; ``best`` of the
    grid, where the best gives ``most``; of several that are equally good the one nearest to the chosen.
    ``servers``: to add to or take from the chosen, or copies of it, for the ratio of that."""

    case: Case
    target: Target
    chosen: Counts
    predicted: float
    gives: float
    best: Counts
    most: float
    servers: int

    @property
    def loss(self) -> float:
        """Share of the throughput that is lost."""
        return 1 - self.gives / self.most


@dataclass(frozen=True)
class Simulated:
    """A case in virtual time: servers ``alone``, at loads ``APART`` and ``nearer`` to each other, and every ``whole``
    deployment that is no copy of a smaller one."""

    case: Case
    alone: tuple[Measured, ...]
    whole: dict[Counts, tuple[At, ...]]
    nearer: tuple[Measured, ...] = ()

    def gpus(self, counts: Counts) -> int:
        return counts[0] * parse_mapping(self.case.ctx).gpus + counts[1] * parse_mapping(self.case.gen).gpus


def simulate_case(case: Case, *, at_once: bool = False) -> Simulated:
    """Everything of a case that answers need. ``at_once``: the slots of deployments start together, which leaves
    waves for as long as a run takes; else spread over a request's life, as requests that know nothing of others."""
    alone = measure_halves(case, APART)
    ctx, gen = parse_mapping(case.ctx), parse_mapping(case.gen)
    cells = [cell for cell in list_cells(ctx.gpus, gen.gpus, case.budget) if math.gcd(*cell) == 1]
    whole = {}
    for x, y in cells:
        concurrencies = _concurrencies(case.gen_batch * gen.dp_ranks * y, y)
        if at_once:
            rows = measure_whole(case, x, y, concurrencies)
        else:
            rows = _measure_spread(case, alone, (x, y), concurrencies)
        whole[x, y] = tuple(_at(row, x * ctx.gpus + y * gen.gpus) for row in rows if row.measurement.valid)
    return Simulated(case, tuple(alone), whole, () if at_once else tuple(measure_halves(case, NEARER)))


def _measure_spread(
    case: Case, alone: Sequence[Measured], counts: Counts, concurrencies: Sequence[int]
) -> list[Measured]:
    """A deployment whose slots start one after another, at these loads and between those around each TTFT limit."""
    x, y = counts

    def measure(loads: Sequence[int]) -> dict[int, Measured]:
        rows = measure_whole(case, x, y, loads, [life_s(alone, n / y) for n in loads])
        return dict(zip(loads, rows, strict=True))

    found = measure(concurrencies)
    for limit_ms in (times * _ttft_alone_ms(alone) for times in TTFT_OF_CTX):
        for _ in range(HALVINGS):
            late = {n: _ttft_ms(found[n]) > limit_ms for n in sorted(found)}
            around = [(low, high) for low, high in pairwise(late) if late[high] and not late[low]]
            middle = round(math.sqrt(around[-1][0] * around[-1][1])) if around else 0
            if not around or middle in around[-1] or around[-1][1] < NEAR * around[-1][0]:
                break
            found |= measure([middle])
    return [found[n] for n in sorted(found)]


def _ttft_ms(row: Measured) -> float:
    return row.measurement.ttft_ms.mean if row.measurement.ttft_ms else math.inf


def _ttft_alone_ms(alone: Sequence[Measured]) -> float:
    """TTFT of a ctx server with one prompt."""
    return next(_ttft_ms(row) for row in alone if row.experiment.stage == "ctx")


def _concurrencies(slots: int, least: int) -> list[int]:
    each = [round(OVERFULL * slots / STEP**k) for k in range(LOADS)]
    return sorted({n for n in each if n >= least} | {least})


def _at(row: Measured, gpus: int) -> At:
    m = row.measurement
    assert m.tpot_ms and m.ttft_ms and m.tok_s and isinstance(row.load.concurrency, int)  # type: ignore[union-attr]
    return At(row.load.concurrency, 1000 / m.tpot_ms.mean, m.tok_s / gpus, m.ttft_ms.mean)  # type: ignore[union-attr]


def questions(done: Simulated, ttft_of_ctx: float | None = None) -> list[Target]:
    """Budgets and speeds that the case is asked about."""
    case, gens = done.case, [row for row in done.alone if row.experiment.stage == "gen"]
    speeds = [1000 / row.measurement.tpot_ms.mean for row in gens if row.measurement.tpot_ms]
    between = np.geomspace(min(speeds), max(speeds), SPEEDS + 2)[1:-1].tolist()
    limit = None if ttft_of_ctx is None else ttft_of_ctx * _ttft_alone_ms(done.alone)
    least = done.gpus((1, 1))
    budgets = sorted({max(least, round(case.budget * share)) for share in BUDGETS})
    return [Target(gpus, speed, limit) for gpus in budgets for speed in (0.0, *between)]


def answer(done: Simulated, target: Target, ttft_of: TtftOf = "deployment", *, nearer: bool = False) -> Answer | None:
    """What matching answers, and what the grid does; ``None`` where one has no deployment that keeps the limits.
    ``ttft_of``: what matching holds its TTFT limit against. ``nearer``: it has loads nearer to each other."""
    most = {counts: read(at, target) for counts, at in done.whole.items() if done.gpus(counts) <= target.gpus}
    tpot_ms = 1000 / target.tok_s_user if target.tok_s_user else None
    workload = done.alone[-1].experiment.workload
    question = Question(target.ttft_ms, tpot_ms, max_gpus=target.gpus, draws=0, ttft_of=ttft_of)
    plans = analyze_workload(done.nearer if nearer else done.alone, workload, question).rate_matched
    highest = max(most.values())
    if not plans or not highest:
        return None
    point = max(plans, key=lambda plan: plan.tok_s_gpu)
    chosen = (point.ctx, point.gen)
    servers = {
        counts: apart(done, target.gpus, chosen, counts)
        for counts, tok_s_gpu in most.items()
        if tok_s_gpu >= highest * (1 - ALIKE)
    }
    best = min(servers, key=lambda counts: (servers[counts], -most[counts]))
    return Answer(done.case, target, chosen, point.tok_s_gpu, most[chosen], best, highest, servers[best])


def read(curve: Sequence[At], target: Target) -> float:
    """Most tok/s/GPU of a deployment within the limits, on the line between its concurrencies; 0 where there is none.
    Copies of one deployment keep the same figures, so that which of them is run does not matter."""
    limits = (target.tok_s_user, target.ttft_ms or math.inf)
    best = max((at.tok_s_gpu for at in curve if _late(at, limits) <= 0), default=0.0)
    for low, high in pairwise(curve):
        first, second = _late(low, limits), _late(high, limits)
        if first * second < 0:
            best = max(best, low.tok_s_gpu + (high.tok_s_gpu - low.tok_s_gpu) * first / (first - second))
    return best


def _late(at: At, limits: tuple[float, float]) -> float:
    """How far a deployment is over the limit that it is nearest to, as a share of it; negative within both."""
    speed, ttft_ms = limits
    return max(1 - at.tok_s_user / speed if speed else -1.0, at.ttft_ms / ttft_ms - 1)


def apart(done: Simulated, gpus: int, one: Counts, other: Counts) -> int:
    """Servers to add or take to get from one ratio to the other: the fewest over copies of both within ``gpus``,
    for k copies of a deployment have the ratio of one."""
    copies = [
        (j, k)
        for j in range(1, gpus // done.gpus(one) + 1)
        for k in range(1, gpus // done.gpus(other) + 1)
    ]  # fmt: skip
    return min(abs(j * one[0] - k * other[0]) + abs(j * one[1] - k * other[1]) for j, k in copies)


@dataclass(frozen=True)
class Ttft:
    """Mean TTFT of a whole deployment at one load, as predicted from its halves at its rate, over that simulated.
    ``ctx_load``: its rate over the most that its context servers sustain. ``one_length``: of all requests."""

    ctx_load: float
    ratio: float
    one_length: bool


def predict_ttfts(done: Simulated) -> list[Ttft]:
    """Every load of a case that leaves slots of gen free and at which context servers are not overrun: there the rate
    does not tell how many wait."""
    case, constraints = done.case, Constraints(ttft_ms=1.0, ttft_of="deployment")
    (pair,) = put_in_service(find_pairs(collect_figures(done.alone, constraints)[0], constraints), constraints)
    assert pair.in_service is not None
    slots = case.gen_batch * parse_mapping(case.gen).dp_ranks
    most, found = pair.ctx.rates.curve.max_rate, []
    for (x, y), curve in done.whole.items():
        for at in curve:
            req_s = at.tok_s_gpu * done.gpus((x, y)) / pair.gen.osl
            if at.concurrency < slots * y and req_s < OVERRUN * x * most:
                ttft_s = pair.in_service.ttft_s(np.array([req_s]), np.array([x]), np.array([y]))[0]
                found.append(Ttft(req_s / x / most, 1000 * ttft_s / at.ttft_ms, case.length_ratio == 1))
    return found
