"""Several workloads in one budget: whose server comes next, and what servers of one show about those of another."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from ratematch.search.candidates import Deviation, Known, Space
from ratematch.search.decide import Decision, decide, go_on
from ratematch.search.rates import observe_deviations

POOL_BELOW_STARTS = 4.0
"""Below this many starts of the largest server, pool the remaining hours."""

Spaces = Mapping[str, Space]
"""By workload."""
Running = Mapping[str, Collection[int]]


def decide_among(
    spaces: Spaces,
    known: Known,
    running: Running,
    hours_left: float | None,
    spent: Mapping[str, float],
    *,
    explain: bool = True,
) -> tuple[str | None, dict[str, Decision]]:
    """The workload whose choice is most urgent (``None``: none has one), and every workload's decision.

    ``spent``: GPU-hours, by workload. ``explain``: give the reason for every server that is passed over.
    """
    informed = share_deviations(spaces, known)

    def decide_within(hours: Mapping[str, float | None]) -> dict[str, Decision]:
        return {
            label: decide(space, known, running, hours[label], explain=explain) for label, space in informed.items()
        }

    decisions = decide_within(plannable_hours(spaces, hours_left, spent))
    if not any(decision.choice for decision in decisions.values()) and hours_left is not None and len(spaces) > 1:
        # Nothing fits into what each workload has left by itself.
        decisions = decide_within(dict.fromkeys(spaces, hours_left))
    choices = [(decision.choice.urgency, label) for label, decision in decisions.items() if decision.choice]
    return (max(choices)[1] if choices else None), decisions


def go_on_among(
    spaces: Spaces,
    label: str,
    known: Known,
    running: Running,
    up: str,
    hours_left: float | None,
    spent: Mapping[str, float],
) -> Decision:
    """What the server ``up``, chosen for the workload ``label``, does next."""
    informed = _with_deviations(spaces[label], spaces.values(), known)
    return go_on(informed, known, running, up, plannable_hours(spaces, hours_left, spent)[label])


def plannable_hours(spaces: Spaces, hours_left: float | None, spent: Mapping[str, float]) -> dict[str, float | None]:
    """GPU-hours that each workload's servers may be planned with: its share, see :func:`share_hours`; or all that are
    left when they are few, since a part of them would buy only small servers."""
    largest = max((space.hours(server, ()) for space in spaces.values() for server in space.candidates), default=0.0)
    if hours_left is not None and hours_left <= POOL_BELOW_STARTS * largest:
        return dict.fromkeys(spaces, hours_left)
    return share_hours(spaces, hours_left, spent)


def share_hours(spaces: Spaces, hours_left: float | None, spent: Mapping[str, float]) -> dict[str, float | None]:
    """The GPU-hours left, split by the sizes of the workloads' grids, less what each has ``spent``."""
    if hours_left is None:
        return dict.fromkeys(spaces)
    grids = {label: space.grid_hours for label, space in spaces.items()}
    budget = hours_left + sum(spent.get(label, 0.0) for label in spaces)
    owed = {
        label: max(0.0, budget * grid / (sum(grids.values()) or 1.0) - spent.get(label, 0.0))
        for label, grid in grids.items()
    }
    return {label: hours_left * hours / (sum(owed.values()) or 1.0) for label, hours in owed.items()}


def share_deviations(spaces: Spaces, known: Known) -> dict[str, Space]:
    """Every space with the deviations measured on servers for other workloads."""
    return {label: _with_deviations(space, spaces.values(), known) for label, space in spaces.items()}


def _with_deviations(space: Space, spaces: Iterable[Space], known: Known) -> Space:
    own = {server.id for server in space.candidates}
    elsewhere: list[Deviation] = []
    for other in spaces:
        if other.workload != space.workload:
            foreign = tuple(server for server in other.candidates if server.id not in own)
            elsewhere += observe_deviations(replace(other, candidates=foreign), known)
    return replace(space, elsewhere=tuple(elsewhere))
