"""Several workloads in one budget: whose server comes next, and what one workload's servers show of another's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from ratematch.search.candidates import Known, Space
from ratematch.search.decide import Decision, decide, go_on
from ratematch.search.rates import see

FEW = 4.0
"""Hours left are few when they are no more than so many starts of the largest server."""

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

    ``spent``: GPU-hours, by workload. ``explain``: say of every server why it is passed over.
    """
    shares = lend(spaces, hours_left, spent)
    found = {
        label: decide(_taught(space, spaces.values(), known), known, running, shares[label], explain=explain)
        for label, space in spaces.items()
    }
    if not any(decision.choice for decision in found.values()) and hours_left is not None and len(spaces) > 1:
        # Nothing fits into what each workload has left by itself.
        found = {
            label: decide(_taught(space, spaces.values(), known), known, running, hours_left, explain=explain)
            for label, space in spaces.items()
        }
    offers = [(each.choice.urgency, label) for label, each in found.items() if each.choice is not None]
    return (max(offers)[1] if offers else None), found


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
    taught = _taught(spaces[label], spaces.values(), known)
    return go_on(taught, known, running, up, lend(spaces, hours_left, spent)[label])


def lend(spaces: Spaces, hours_left: float | None, spent: Mapping[str, float]) -> dict[str, float | None]:
    """What each workload's servers may be planned with: its :func:`share`; or all hours left when they are few, for a
    part of them would buy only small servers, and the choice is among workloads then."""
    largest = max((space.hours(each, ()) for space in spaces.values() for each in space.candidates), default=0.0)
    if hours_left is not None and hours_left <= FEW * largest:
        return dict.fromkeys(spaces, hours_left)
    return share(spaces, hours_left, spent)


def share(spaces: Spaces, hours_left: float | None, spent: Mapping[str, float]) -> dict[str, float | None]:
    """Of the hours left, what each workload may plan with: its part by the size of its grid, less what it had."""
    if hours_left is None:
        return dict.fromkeys(spaces)
    grids = {label: space.grid_hours for label, space in spaces.items()}
    budget = hours_left + sum(spent.get(label, 0.0) for label in spaces)
    owed = {
        label: max(0.0, budget * grid / (sum(grids.values()) or 1.0) - spent.get(label, 0.0))
        for label, grid in grids.items()
    }
    return {label: hours_left * each / (sum(owed.values()) or 1.0) for label, each in owed.items()}


def teach(spaces: Spaces, known: Known) -> dict[str, Space]:
    """Every space with what is known of servers for other workloads."""
    return {label: _taught(space, spaces.values(), known) for label, space in spaces.items()}


def _taught(space: Space, others: Iterable[Space], known: Known) -> Space:
    """The space with what is known of servers for other workloads."""
    own = {each.id for each in space.candidates}
    seen = [
        one
        for other in others
        if other.workload != space.workload
        for one in see(replace(other, candidates=tuple(e for e in other.candidates if e.id not in own)), known)
    ]
    return replace(space, elsewhere=tuple(seen))
