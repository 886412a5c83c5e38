"""Several deployments in one allocation: which goes where, and when.

Nodes are the unit. Two deployments never share one, so each has its GPUs, its ports, its network card and its host
memory to itself and is measured as if it were alone.

Starts follow one rule, :func:`next_to_start`, here where packs are planned with estimates and in
:mod:`ratematch.campaign.jobs.pack` where they run: the first that waits goes first, and a later one may overtake it
only where that cannot hold it up (EASY backfill). A plan is the rule played through with the estimates, so a time
limit that was derived from it stays right as long as the estimates are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """A deployment to be measured: whole ``nodes`` for about ``minutes``."""

    name: str
    nodes: int
    minutes: float


@dataclass(frozen=True)
class Slot:
    """When a piece starts, in minutes from the beginning of its pack, and which of the pack's nodes it has."""

    piece: Piece
    start: float
    nodes: tuple[int, ...]

    @property
    def end(self) -> float:
        return self.start + self.piece.minutes


@dataclass(frozen=True)
class Pack:
    """One allocation and what runs in it, in the order of the starts."""

    nodes: int
    slots: tuple[Slot, ...]

    @property
    def minutes(self) -> float:
        return max(slot.end for slot in self.slots)

    @property
    def idle(self) -> float:
        """Share of its node-minutes in which a node has nothing to do."""
        used = sum(slot.piece.nodes * slot.piece.minutes for slot in self.slots)
        return 1 - used / (self.nodes * self.minutes) if self.minutes else 0.0


def next_to_start(
    waiting: Sequence[Piece], free: int, running: Sequence[tuple[float, int]], now: float
) -> int | None:
    """Which of ``waiting`` starts now on ``free`` nodes; ``None``: wait until something ends.

    ``running``: when each of the others is expected to end, and how many nodes it then gives back.
    """
    if not waiting:
        return None
    first = waiting[0]
    if first.nodes <= free:
        return 0
    until, spare, available = float("inf"), free, free
    for end, nodes in sorted(running):
        available += nodes
        if available >= first.nodes:
            until, spare = max(end, now), available - first.nodes
            break
    for index, piece in enumerate(waiting):
        if piece.nodes <= free and (piece.nodes <= spare or now + piece.minutes <= until):
            return index
    return None


def play(pieces: Sequence[Piece], nodes: int) -> Pack:
    """What :func:`next_to_start` makes of ``pieces`` on ``nodes`` nodes when every estimate is right.

    Raises:
        ValueError: a piece needs more nodes than there are.
    """
    if too_wide := [piece for piece in pieces if piece.nodes > nodes]:
        raise ValueError(f"{too_wide[0].name} needs {too_wide[0].nodes} nodes, and a pack has {nodes}")
    waiting, free, now = list(pieces), list(range(nodes)), 0.0
    running: list[Slot] = []
    slots: list[Slot] = []
    while waiting:
        ends = [(slot.end, len(slot.nodes)) for slot in running]
        index = next_to_start(waiting, len(free), ends, now)
        if index is None:
            now = min(slot.end for slot in running)
            for slot in [slot for slot in running if slot.end <= now]:
                running.remove(slot)
                free = sorted((*free, *slot.nodes))
            continue
        piece = waiting.pop(index)
        slot = Slot(piece, now, tuple(free[: piece.nodes]))
        del free[: piece.nodes]
        running.append(slot)
        slots.append(slot)
    return Pack(nodes, tuple(slots))


def pack(pieces: Sequence[Piece], nodes: int, minutes: float) -> tuple[Pack, ...]:
    """Packs of at most ``nodes`` nodes and about ``minutes`` each that hold every piece once.

    First fit, the widest and then the longest first: what is left for the holes is small. A piece that alone takes
    longer than ``minutes`` is a pack of its own. No pack is wider than what runs in it at once.

    Raises:
        ValueError: a piece needs more nodes than a pack may have.
    """
    chosen: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda piece: (-piece.nodes, -piece.minutes, piece.name)):
        for together in chosen:
            if play([*together, piece], nodes).minutes <= minutes:
                together.append(piece)
                break
        else:
            chosen.append([piece])
    return tuple(_narrowed(play(together, nodes)) for together in chosen)


def _narrowed(wide: Pack) -> Pack:
    """The same pack on as few nodes as run it no slower."""
    pieces = [slot.piece for slot in wide.slots]
    widest = max(piece.nodes for piece in pieces)
    for nodes in range(widest, wide.nodes):
        narrow = play(pieces, nodes)
        if narrow.minutes <= wide.minutes:
            return narrow
    return wide
