"""Which load to add to a measured front where it falls by a step just where a deployment is to be chosen.

A ladder of loads such as 1, 16, 64 leaves an aggregated server without a point between 49 and 129 tok/s/user: whoever
wants 60 or 100 compares with a step, or with a line that nobody measured. One load more, of the server that the line
is of, is where the choice is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ratematch.match.pareto import extract_front, find_hole, linear_at
from ratematch.measure.measured import Measured
from ratematch.plan.load import Concurrency

FALL = 0.1
"""Share of tok/s/GPU by which neighbouring points of a front may differ where one is chosen."""

CLOSE = 1.25
"""Concurrencies of one server that are no further apart than this have no load between them worth a run."""


NEAR = 0.05
"""A point whose tok/s/user is this near (a share) is the one to choose; another load would hardly say more."""


@dataclass(frozen=True)
class Refinement:
    """A load to add: of the experiment with the id ``experiment``, at ``loads`` (one, and its repeats). ``why``, in
    words."""

    experiment: str
    loads: tuple[Concurrency, ...]
    why: str


def find_refinement(rows: Sequence[Measured], at: float) -> Refinement | None:
    """The load to add to the front of ``rows``, of one stage and workload, for users who get ``at`` tok/s.

    ``None`` where the front is close enough there, has a point there, ends before, or no server has a load on either
    side of ``at``.

    Closed loops only: between two of them lies a third.
    """
    valid = [row for row in rows if _speed(row) is not None and isinstance(row.load, Concurrency)]
    front = [_objectives(row) for row in extract_front(valid, _objectives)]
    hole = find_hole(front, at, FALL)
    if hole is None:
        return None
    sides = [bracket for name in {row.experiment.id for row in valid} if (bracket := _bracket(valid, name, at))]
    # The server whose own line is the highest there is the one that would be chosen.
    best = max(
        sides,
        key=lambda pair: (linear_at([_objectives(row) for row in pair], at) or 0.0, pair[0].experiment.id),
        default=None,
    )
    if best is None or any(abs(_objectives(row)[0] - at) <= NEAR * at for row in best):
        return None
    concurrency = _between(best, at)
    if concurrency is None:
        return None
    slow, fast = best
    fall = 1 - _objectives(fast)[1] / _objectives(slow)[1]
    if fall <= FALL:
        return None
    step = f"between {hole[0]:.3g} and {hole[1]:.3g} tok/s/user the front falls by {fall:.0%}"
    why = f"{step}, and one is chosen at {at:g}"
    return Refinement(slow.experiment.id, tuple(_scaled(valid, slow, concurrency)), why)


def _objectives(row: Measured) -> tuple[float, float]:
    """tok/s/user and tok/s/GPU."""
    return _speed(row) or 0.0, (row.measurement.tok_s or 0.0) / row.experiment.deployment.gpus


def _speed(row: Measured) -> float | None:
    figures = row.measurement
    if not figures.valid or not figures.tok_s or figures.tpot_ms is None or not figures.tpot_ms.mean:
        return None
    return 1000 / figures.tpot_ms.mean


def _bracket(rows: Iterable[Measured], experiment: str, at: float) -> tuple[Measured, Measured] | None:
    """The neighbouring loads of one server on either side of ``at``: the slower one (more in flight), the faster."""
    own = [row for row in rows if row.experiment.id == experiment]
    own.sort(key=lambda row: (-_slots(row), _objectives(row)))
    for slow, fast in pairwise(own):
        if _objectives(slow)[0] < at < _objectives(fast)[0] and _slots(slow) > _slots(fast):
            return slow, fast
    return None


def _slots(row: Measured) -> int:
    assert isinstance(row.load, Concurrency)
    return row.load.concurrency


def _between(pair: tuple[Measured, Measured], at: float) -> int | None:
    """The concurrency at which the server is likely to give ``at`` tok/s/user, between those of ``pair``; ``None``
    where none is worth a run."""
    slow, fast = pair
    most, fewest = _slots(slow), _slots(fast)
    if most <= CLOSE * fewest or most - fewest < 2:
        return None
    share = (_objectives(fast)[0] - at) / (_objectives(fast)[0] - _objectives(slow)[0])
    slots = round(math.exp(math.log(fewest) + share * (math.log(most) - math.log(fewest))))
    return min(most - 1, max(fewest + 1, slots))


def _scaled(rows: Iterable[Measured], like: Measured, concurrency: int) -> Iterable[Concurrency]:
    """The loads of ``like``'s server at its concurrency, for another: as many requests a slot."""
    share = concurrency / _slots(like)
    own = (row.load for row in rows if row.experiment.id == like.experiment.id)
    for load in own:
        if isinstance(load, Concurrency) and not load.breakdown and load.concurrency == _slots(like):
            yield replace(
                load,
                concurrency=concurrency,
                num_requests=max(2 * concurrency, math.ceil(load.num_requests * share)),
                warmup=math.ceil(load.warmup * share),
            )
