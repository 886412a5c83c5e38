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
PROMISING = 5


@dataclass(frozen=True)
class Answer:
    """For the tok/s/user of the row ``at``: the ``best`` that was published and is as fast, and what the search has,
    best first. ``measured``: the rows of the deployment chosen that are as fast."""

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
    as_fast = speed(at) * FAST_ENOUGH
    candidates = tuple(search.answers(speed(at)))
    mine = [row for row in search.group.rows if candidates and key_of(row) == candidates[0].chosen.key]
    alike = [row for row in mine if speed(row) >= as_fast]
    return Answer(at, max(fast, key=lambda row: row.tok_s_gpu), candidates, tuple(alike))


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
