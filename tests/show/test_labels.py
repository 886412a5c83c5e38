"""Labels: the placer's geometry, and that nothing overlaps on real figures."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from ratematch.show import style
from ratematch.show.frame import renderer_of
from ratematch.show.labels import Box, Wanted, choose_points, place_labels, segments_cross
from ratematch.show.shortlabel import LONGEST, short_label

from .invented import draw, make_crowded, make_few, make_hostile, make_many, make_point

SHAPES = [make_many, make_few, make_crowded, make_hostile]


def _box(text: Annotation, figure: Figure) -> Box:
    extent = text.get_window_extent(renderer_of(figure))
    return Box(extent.x0, extent.y0, extent.x1, extent.y1)


def _labels(figure: Figure) -> list[Annotation]:
    texts = figure.axes[0].texts
    return [text for text in texts if isinstance(text, Annotation) and str(text.get_gid()).startswith("label:")]


@pytest.mark.parametrize("make", SHAPES)
def test_labels_touch_neither_each_other_nor_markers_nor_the_edge(make) -> None:
    workload, figure = make(), draw(make)
    axes, pt = figure.axes[0], figure.dpi / 72
    boxes = [_box(text, figure) for text in _labels(figure)]
    assert len(boxes) >= 4
    for one, two in itertools.combinations(boxes, 2):
        assert not one.overlaps(two)
    frame = axes.get_window_extent()
    assert all(Box(frame.x0, frame.y0, frame.x1, frame.y1).holds(box) for box in boxes)
    for kind, front in (("rate_matched", workload.rate_matched), ("end_to_end", workload.end_to_end)):
        half = style.KINDS[kind].marker_pt / 2 * pt
        for point in front:
            x, y = axes.transData.transform((point.tok_s_user, point.tok_s_gpu))
            assert not any(box.overlaps(Box(x - half, y - half, x + half, y + half)) for box in boxes)


@pytest.mark.parametrize("make", SHAPES)
def test_labels_stand_clear_of_legend_title_stamp_and_footer(make) -> None:
    figure = draw(make)
    renderer = renderer_of(figure)
    around = [figure.legends[0].get_window_extent(renderer), *(t.get_window_extent(renderer) for t in figure.texts)]
    parts = [Box(extent.x0, extent.y0, extent.x1, extent.y1) for extent in around]
    axes = figure.axes[0].get_tightbbox(renderer)
    assert axes is not None
    for one, two in itertools.combinations([*parts, Box(axes.x0, axes.y0, axes.x1, axes.y1)], 2):
        assert not one.overlaps(two)
    assert all(figure.bbox.x0 <= part.x0 and part.x1 <= figure.bbox.x1 for part in parts)


def test_each_label_stands_at_its_own_point() -> None:
    workload, figure = make_many(), draw(make_many)
    for text in _labels(figure):
        kind = str(text.get_gid()).split(":")[1]
        front = getattr(workload, kind)
        assert (text.get_text(), text.xy) in [(p.label, (p.tok_s_user, p.tok_s_gpu)) for p in front]


def test_no_front_has_more_labels_than_the_style_allows() -> None:
    figure = draw(make_many)
    for kind, look in style.KINDS.items():
        count = sum(str(text.get_gid()).startswith(f"label:{kind}:") for text in _labels(figure))
        assert count <= look.max_labels


def test_chosen_points_hold_both_ends_and_one_of_each_run() -> None:
    front = [make_point("ifb", x, 100 - x, label) for x, label in ((1, "a"), (2, "b"), (3, "b"), (4, "b"), (50, "c"))]
    chosen = choose_points(front, 8, lambda point: (point.tok_s_user, point.tok_s_gpu))
    assert [(point.label, point.tok_s_user) for point in chosen] == [("a", 1), ("c", 50), ("b", 3)]
    assert len(choose_points(front, 2, lambda point: (point.tok_s_user, point.tok_s_gpu))) == 2
    near = choose_points(front, 8, lambda point: (point.tok_s_user, point.tok_s_gpu), spacing=10)
    assert [point.label for point in near] == ["a", "c"]
    assert choose_points([], 8, lambda point: (0, 0)) == []


coordinates = st.floats(0, 600, allow_nan=False)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=8))
def test_placed_labels_never_overlap_whatever_the_points(anchors: list[tuple[float, float]]) -> None:
    wanted = [Wanted(anchor, 120.0, 12.0) for anchor in anchors]
    markers = [Box(x, y, x, y).grown(3) for x, y in anchors]
    lines = list(itertools.pairwise(sorted(anchors)))
    within = Box(0, 0, 600, 600)
    spots = place_labels(wanted, markers, lines, [], within, pt=1.0)
    placed = [spot for spot in spots if spot is not None]
    for one, two in itertools.combinations(placed, 2):
        assert not one.box.overlaps(two.box)
        if one.leader and two.leader:
            assert not segments_cross(one.leader, two.leader)
    for spot in placed:
        assert within.holds(spot.box)
        assert not any(spot.box.overlaps(marker) for marker in markers)
        assert not any(spot.box.crossed_by(line) for line in lines)
    assert place_labels(wanted, markers, lines, [], within, pt=1.0) == spots


def test_a_lone_label_stands_close_on_the_wished_side_without_a_leader() -> None:
    marker = Box(297, 297, 303, 303)
    (spot,) = place_labels([Wanted((300, 300), 50, 10, (-1, -1))], [marker], [], [], Box(0, 0, 600, 600), pt=1.0)
    assert spot is not None and spot.leader is None
    assert (spot.box.x0 + spot.box.x1) / 2 < 300 and (spot.box.y0 + spot.box.y1) / 2 < 300
    assert 3 < math.dist(spot.box.nearest((300, 300)), (300, 300)) < 9


def test_a_label_without_room_is_left_out() -> None:
    assert place_labels([Wanted((50, 50), 200, 10)], [], [], [], Box(0, 0, 100, 100), pt=1.0) == [None]


def test_only_an_insisting_label_sends_its_leader_across_a_line() -> None:
    fence = [((0.0, 56.0), (600.0, 56.0)), ((0.0, 66.0), (600.0, 66.0))]  # between the point and all free room
    floor, within = [Box(0, 0, 600, 49)], Box(0, 0, 600, 200)
    shy, bold = (Wanted((300, 50), 100, 10, insists=insists) for insists in (False, True))
    spot = place_labels([bold], floor, fence, [], within, pt=1.0)[0]
    assert spot is not None and spot.leader is not None and spot.box.y0 > 66
    assert place_labels([shy], floor, fence, [], within, pt=1.0) == [None]


def test_a_label_keeps_away_from_the_markers_of_other_points() -> None:
    stranger = Box(330, 318, 336, 324)  # right where the label would stand
    own = Box(297, 297, 303, 303)
    spots = place_labels([Wanted((300, 300), 60, 10, (1, 1))], [own, stranger], [], [], Box(0, 0, 600, 600), pt=1.0)
    assert spots[0] is not None and not spots[0].box.grown(9).overlaps(stranger)


def test_segment_through_a_box_is_seen_though_both_ends_lie_outside() -> None:
    box = Box(10, 10, 20, 20)
    assert box.crossed_by(((0, 15), (30, 15)))
    assert box.crossed_by(((12, 12), (13, 13)))
    assert not box.crossed_by(((0, 0), (30, 5)))
    assert not box.crossed_by(((0, 25), (30, 25)))


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("ctx2xTEP4-gen1xDEP8-mtp1", "ctx2xTEP4-gen1xDEP8-mtp1"),
        ("agg1xDEP4+enable_balance=True+enable_chunked_prefill=True-mtp2", "agg1xDEP4+balance+chunked_prefill-mtp2"),
        ("agg1xDEP4+enable_balance=False+enable_chunked_prefill=False-mtp0", "agg1xDEP4-mtp0"),
        ("agg1xDEP4+attention_dp.enable_balance=False-mtp0", "agg1xDEP4-mtp0"),
        (
            "ctx1xTP1+block_size=128-gen1xTP1+block_size=128-mtp0",
            "ctx1xTP1+block_size=128-gen1xTP1+block_size=128-mtp0",
        ),
    ],
)
def test_a_plot_names_options_as_short_as_it_can(label: str, shown: str) -> None:
    assert short_label(label) == shown


def test_a_label_that_is_too_long_keeps_its_ends() -> None:
    """One without spaces was cut to three dots altogether."""
    cut = short_label("ctx1xTP1+block_size=" + "9" * 80 + "-gen3xTEP16-mtp2")
    assert len(cut) == LONGEST and cut.startswith("ctx1xTP1+block_size=") and cut.endswith("-gen3xTEP16-mtp2")
