"""Packing deployments into allocations, on invented racks: 18 nodes of 4 GPUs, 13 of 8."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratematch.plan.packs import Pack, Piece, next_to_start, pack, play


def pieces_of(*shapes: tuple[int, float]) -> list[Piece]:
    return [Piece(f"p{number}", nodes, minutes) for number, (nodes, minutes) in enumerate(shapes)]


@st.composite
def racks(draw: st.DrawFn) -> tuple[int, list[Piece]]:
    """A rack and deployments that fit it."""
    nodes = draw(st.sampled_from([1, 2, 4, 13, 18]))
    shapes = st.tuples(st.integers(1, nodes), st.integers(1, 90).map(float))
    return nodes, pieces_of(*draw(st.lists(shapes, min_size=1, max_size=14)))


def busy(pack: Pack) -> float:
    return sum(slot.piece.nodes * slot.piece.minutes for slot in pack.slots)


def check_apart(pack: Pack) -> None:
    """No node has two deployments at once, and none is outside the pack."""
    for number, slot in enumerate(pack.slots):
        assert len(slot.nodes) == len(set(slot.nodes)) == slot.piece.nodes
        assert set(slot.nodes) <= set(range(pack.nodes))
        for other in pack.slots[number + 1 :]:
            together = slot.start < other.end and other.start < slot.end
            assert not (together and set(slot.nodes) & set(other.nodes))


@given(racks(), st.floats(10, 300))
def test_every_deployment_is_in_one_pack_alone_on_its_nodes_and_within_the_time(
    rack: tuple[int, list[Piece]], minutes: float
) -> None:
    nodes, pieces = rack
    packs = pack(pieces, nodes, minutes)
    assert sorted(slot.piece.name for pack in packs for slot in pack.slots) == sorted(p.name for p in pieces)
    for each in packs:
        check_apart(each)
        assert each.nodes <= nodes
        assert each.minutes <= minutes or len(each.slots) == 1, "longer only where one alone is"
        assert 0 <= each.idle < 1
        widest_at_once = max(
            sum(o.piece.nodes for o in each.slots if o.start <= slot.start < o.end) for slot in each.slots
        )
        assert each.nodes <= widest_at_once + max(slot.piece.nodes for slot in each.slots), "no nodes for nothing"


@given(racks())
def test_a_pack_is_never_slower_than_one_after_another_nor_faster_than_the_nodes_allow(
    rack: tuple[int, list[Piece]],
) -> None:
    nodes, pieces = rack
    played = play(pieces, nodes)
    check_apart(played)
    assert played.minutes <= sum(piece.minutes for piece in pieces) + 1e-6
    assert played.minutes >= max(busy(played) / nodes, max(piece.minutes for piece in pieces)) - 1e-6


@given(racks())
def test_who_overtakes_holds_nobody_up(rack: tuple[int, list[Piece]]) -> None:
    """The first in the queue starts no later than if nobody behind it could overtake."""
    nodes, pieces = rack
    starts = {slot.piece.name: slot.start for slot in play(pieces, nodes).slots}
    second = pieces[: next((i for i, _ in enumerate(pieces) if starts[pieces[i].name] > 0), 0) + 1]
    alone = {slot.piece.name: slot.start for slot in play(second, nodes).slots}
    assert starts[second[-1].name] <= alone[second[-1].name] + 1e-9


def test_a_gb200_rack() -> None:
    """18 nodes of 4: DEP32 for an hour, then DEP16 and DEP8 beside and after it, all in the hour."""
    (only,) = pack(pieces_of((8, 60), (4, 60), (4, 30), (4, 30), (2, 60)), 18, 60)
    assert only.minutes == 60 and only.nodes == 18 and only.idle == pytest.approx(0)


def test_an_h100_rack_in_which_not_all_fits_at_once() -> None:
    """13 nodes of 8: two instances of six nodes leave one for the small one; the third waits or goes elsewhere."""
    shapes = pieces_of((6, 40), (6, 40), (6, 40), (1, 40))
    (long,) = pack(shapes, 13, 80)
    assert long.minutes == 80 and long.nodes == 12, "the small one runs beside the third: 12 nodes do"
    assert [len(each.slots) for each in pack(shapes, 13, 40)] == [3, 1]


def test_a_small_one_overtakes_only_where_that_holds_nobody_up() -> None:
    wide, short, long = Piece("wide", 4, 10), Piece("short", 1, 5), Piece("long", 1, 50)
    running: Sequence[tuple[float, int]] = [(20.0, 3)]
    assert next_to_start([wide, long, short], 1, running, now=12.0) == 2, "over before the wide one can start"
    assert next_to_start([wide, long], 1, running, now=12.0) is None
    assert next_to_start([Piece("wide", 3, 10), long], 1, running, now=12.0) == 1, "on a node that it does not need"
    assert next_to_start([], 4, (), now=0.0) is None


def test_too_wide_for_any_pack() -> None:
    with pytest.raises(ValueError, match="p0 needs 5 nodes, and a pack has 4"):
        pack(pieces_of((5, 1)), 4, 60)
