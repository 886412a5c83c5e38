"""What was chosen beside what was published: regret where it was measured, and what nobody has published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.real_deployments.compare import Compared
from benchmarks.real_deployments.table import Row

from .group import Group, key_of
from .search import FAST_ENOUGH, Candidate, Search

SLACK = 0.15
"""Among published rows one is fast enough that is slower by this share, measured or simulated: so near are 90 % of
their TPOTs predicted, and a table has few rows of a workload."""
LIKE_LOAD = 1.5
"""Requests in flight differ by no more than this factor where a row says something of a deployment and load."""
PROMISING = 5


@dataclass(frozen=True)
class Answer:
    """For the tok/s/user of the row ``at``: the ``best`` that was published and is as fast, and what the search has,
    best first. ``measured``: see :func:`rows_of`."""

    at: Row
    best: Row
    candidates: tuple[Candidate, ...]
    measured: tuple[Row, ...]

    @property
    def chosen(self) -> Candidate | None:
        """From simulation alone."""
        return self.candidates[0] if self.candidates else None

    @property
    def regret(self) -> float | None:
        """Share of the best published tok/s/GPU that the deployment chosen misses, as measured; ``None``: it was not
        measured at that speed."""
        most = max((row.tok_s_gpu for row in self.measured), default=None)
        return None if most is None else 1 - most / self.best.tok_s_gpu


def answers(search: Search) -> list[Answer]:
    """One for each published row, slowest first."""
    rows = sorted(search.group.rows, key=speed)
    return [_answer(search, row) for row in rows]


def _answer(search: Search, at: Row) -> Answer:
    fast = [row for row in search.group.rows if speed(row) >= speed(at)]
    candidates = tuple(search.answers(speed(at)))
    measured = rows_of(search.group, at, candidates[0]) if candidates else ()
    return Answer(at, max(fast, key=lambda row: row.tok_s_gpu), candidates, measured)


def rows_of(group: Group, at: Row, chosen: Candidate) -> tuple[Row, ...]:
    """Rows of the deployment ``chosen``, as fast as ``at``, with about as many requests in flight: with a tenth of
    them it was measured for something else."""
    load = chosen.chosen.concurrency
    mine = (row for row in group.rows if key_of(row) == chosen.chosen.key)
    return tuple(
        row
        for row in mine
        if speed(row) >= speed(at) * FAST_ENOUGH and load / LIKE_LOAD <= row.concurrency <= load * LIKE_LOAD
    )


def speed(row: Row) -> float:
    """Measured tok/s/user."""
    return 1000 / row.tpot_ms


@dataclass(frozen=True)
class Picked:
    """Of the published deployments, for the tok/s/user of the row ``at``: the ``best`` measured, and the one that
    simulation would have ``picked`` of them."""

    at: Row
    best: Row
    picked: Row

    @property
    def regret(self) -> float:
        """Share of the best measured tok/s/GPU that the one picked misses, as measured."""
        return 1 - self.picked.tok_s_gpu / self.best.tok_s_gpu

    @property
    def slower(self) -> float:
        """Share of the tok/s/user that the one picked misses, as measured."""
        return max(0.0, 1 - speed(self.picked) / speed(self.at))


def pick_published(compared: Sequence[Compared], group: Group) -> list[Picked]:
    """For each row of a group with two and more: what simulation picks of its rows."""
    lines = {row.line for row in group.rows}
    own = [each for each in compared if each.row.line in lines and each.simulated]
    picked = []
    for each in own if len(own) > 1 else []:
        least = speed(each.row) * (1 - SLACK)
        fast = [other for other in own if other.simulated and 1000 / other.simulated.tpot_ms >= least]
        best = max((other.row for other in own if speed(other.row) >= least), key=lambda row: row.tok_s_gpu)
        if fast:
            chosen = max(fast, key=lambda other: other.simulated.tok_s_gpu if other.simulated else 0.0)
            picked.append(Picked(each.row, best, chosen.row))
    return picked


@dataclass(frozen=True)
class Promising:
    """A deployment that nobody has published, for the tok/s/user of the answer's row."""

    candidate: Candidate
    answer: Answer

    @property
    def gain(self) -> float:
        """Predicted tok/s/GPU over the best published that is as fast as was asked."""
        return self.candidate.tok_s_gpu / self.answer.best.tok_s_gpu


def promising(search: Search, answered: Sequence[Answer]) -> list[Promising]:
    """The ``PROMISING`` unpublished deployments with the largest predicted gain, of each pair of servers the best."""
    known = {key_of(row) for row in search.group.rows}
    best: dict[tuple[str, str, int], Promising] = {}
    for answer in answered:
        for candidate in answer.candidates:
            each, servers = Promising(candidate, answer), candidate.chosen.servers
            if candidate.chosen.key not in known and (servers not in best or each.gain > best[servers].gain):
                best[servers] = each
    return sorted(best.values(), key=lambda each: -each.gain)[:PROMISING]
