"""Which points get a label, and where it stands: deterministic, without overlaps.

Geometry is in pixels of the canvas with y up, as matplotlib's display coordinates. No label covers another label, a
marker, a front's line, a leader or the edge of the axes; one that finds no such place is left out (the tables hold
every point).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from matplotlib.axes import Axes
from matplotlib.text import Annotation

from ratematch.match.points import Kind, Point
from ratematch.show import style
from ratematch.show.frame import renderer_of
from ratematch.show.shortlabel import short_label

XY = tuple[float, float]
Segment = tuple[XY, XY]

RADII_PT = (4.5, 8.0, 12.0, 17.0, 23.0, 30.0, 38.0, 48.0, 60.0)
NUM_ANGLES = 24
GAP_PT = 2.0
"""Free space kept around a label."""
LEADER_FROM_PT = 9.0
"""A label further than this from its point gets a line to it."""
COST_FAINT, COST_SIDE, COST_STRANGER, COST_CROSS = 12.0, 8.0, 16.0, 60.0
"""In points of distance: a label on a faint line, on the wrong side of its front, close to another point's marker;
a leader across a front's line."""
NUM_INSISTING = 2
"""So many labels of a front may send their leader across a line rather than be left out: its two ends."""
SPACING_PT = 15.0
"""Points of one front closer than this share one label."""
LABELLED: tuple[str, ...] = ("rate_matched", "end_to_end", "ifb")
NUM_PASSES = 3


@dataclass(frozen=True)
class Box:
    """An upright rectangle, ``x0 <= x1`` and ``y0 <= y1``."""

    x0: float
    y0: float
    x1: float
    y1: float

    def grown(self, margin: float) -> Box:
        return Box(self.x0 - margin, self.y0 - margin, self.x1 + margin, self.y1 + margin)

    def overlaps(self, other: Box) -> bool:
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1

    def holds(self, other: Box) -> bool:
        return self.x0 <= other.x0 and other.x1 <= self.x1 and self.y0 <= other.y0 and other.y1 <= self.y1

    def nearest(self, point: XY) -> XY:
        """The point of the box closest to ``point``."""
        return min(max(point[0], self.x0), self.x1), min(max(point[1], self.y0), self.y1)

    def crossed_by(self, segment: Segment) -> bool:
        """Does any part of the segment lie in the box (Liang and Barsky's clipping)?"""
        (ax, ay), (bx, by) = segment
        enter, leave = 0.0, 1.0
        for step, low, high in ((bx - ax, self.x0 - ax, self.x1 - ax), (by - ay, self.y0 - ay, self.y1 - ay)):
            if step == 0:
                if low > 0 or high < 0:
                    return False
                continue
            first, last = sorted((low / step, high / step))
            enter, leave = max(enter, first), min(leave, last)
        return enter <= leave


@dataclass(frozen=True)
class Wanted:
    """A label to place: its point, its size, the direction in which it would rather stand.

    ``insists``: its leader may cross lines where there is no other place.
    """

    anchor: XY
    width: float
    height: float
    side: XY = (1.0, 1.0)
    insists: bool = False


@dataclass(frozen=True)
class Spot:
    """Where a label stands. ``leader`` runs from the point to the label, ``None`` where it stands close enough."""

    box: Box
    leader: Segment | None
    cost: float


def place_labels(
    wanted: Sequence[Wanted],
    obstacles: Sequence[Box],
    lines: Sequence[Segment],
    faint: Sequence[Segment],
    within: Box,
    pt: float,
) -> list[Spot | None]:
    """A spot for each wanted label, or ``None``; earlier ones choose first.

    No label touches an obstacle or a line; it may touch a faint line at a cost. ``pt``:
    pixels per point. Greedy, then :data:`NUM_PASSES` rounds in which each label moves to the best spot that the
    others leave free.
    """
    choices = [_spots(label, obstacles, lines, faint, within, pt) for label in wanted]
    chosen: list[Spot | None] = [None] * len(wanted)
    for _ in range(1 + NUM_PASSES):
        for index, spots in enumerate(choices):
            others = [spot for other, spot in enumerate(chosen) if spot is not None and other != index]
            chosen[index] = next((spot for spot in spots if _free(spot, others, pt)), None)
    return chosen


def _spots(
    label: Wanted,
    obstacles: Sequence[Box],
    lines: Sequence[Segment],
    faint: Sequence[Segment],
    within: Box,
    pt: float,
) -> list[Spot]:
    """Every spot around the point that is clear of obstacles and lines, cheapest first."""
    spots = []
    norm = math.hypot(*label.side) or 1.0
    own = Box(*label.anchor, *label.anchor)
    strangers = [obstacle for obstacle in obstacles if not obstacle.holds(own)]
    for radius in RADII_PT:
        for step in range(NUM_ANGLES):
            angle = 2 * math.pi * step / NUM_ANGLES
            across, up = math.cos(angle), math.sin(angle)
            x = label.anchor[0] + across * (radius * pt + label.width / 2)
            y = label.anchor[1] + up * (radius * pt + label.height / 2)
            box = Box(x - label.width / 2, y - label.height / 2, x + label.width / 2, y + label.height / 2)
            roomy = box.grown(GAP_PT * pt)
            if not within.holds(roomy) or any(roomy.overlaps(obstacle) for obstacle in obstacles):
                continue
            if any(box.grown(pt).crossed_by(line) for line in lines):
                continue
            end = box.nearest(label.anchor)
            length_pt = math.dist(label.anchor, end) / pt
            leader = (label.anchor, end) if length_pt > LEADER_FROM_PT else None
            crossed = 0
            if leader is not None:
                crossed = _num_crossed(leader, lines, pt)
                if (crossed and not label.insists) or any(marker.crossed_by(leader) for marker in strangers):
                    continue
            close = box.grown(LEADER_FROM_PT * pt)
            cost = length_pt + COST_CROSS * crossed + COST_FAINT * sum(box.crossed_by(line) for line in faint)
            cost += COST_STRANGER * sum(close.overlaps(obstacle) for obstacle in strangers)
            cost += COST_SIDE * (1 - (across * label.side[0] + up * label.side[1]) / norm)
            spots.append(Spot(box, leader, cost))
    return sorted(spots, key=lambda spot: spot.cost)


def _num_crossed(leader: Segment, lines: Sequence[Segment], pt: float) -> int:
    """Lines that the leader crosses; those that end at its own point are only touched."""
    far = (line for line in lines if min(math.dist(leader[0], xy) for xy in line) > pt)
    return sum(segments_cross(leader, line) for line in far)


def _free(spot: Spot, others: Sequence[Spot], pt: float) -> bool:
    roomy = spot.box.grown(GAP_PT * pt)
    for other in others:
        if roomy.overlaps(other.box):
            return False
        if other.leader is not None and roomy.crossed_by(other.leader):
            return False
        if spot.leader is not None and other.box.grown(GAP_PT * pt).crossed_by(spot.leader):
            return False
        if spot.leader is not None and other.leader is not None and segments_cross(spot.leader, other.leader):
            return False
    return True


def segments_cross(one: Segment, two: Segment) -> bool:
    """Do the segments have a point in common? Parallel ones on one line count as apart."""
    (ax, ay), (bx, by) = one
    (cx, cy), (dx, dy) = two
    det = (bx - ax) * (dy - cy) - (by - ay) * (dx - cx)
    if det == 0:
        return False
    t = ((cx - ax) * (dy - cy) - (cy - ay) * (dx - cx)) / det
    u = ((cx - ax) * (by - ay) - (cy - ay) * (bx - ax)) / det
    return 0 <= t <= 1 and 0 <= u <= 1


def choose_points(
    front: Sequence[Point], limit: int, pixel: Callable[[Point], XY], spacing: float = 0.0
) -> list[Point]:
    """At most ``limit`` points of a front worth a label, the most telling first.

    Neighbours with one label share it (their middle point carries it). Both ends of the front come first, then
    whichever is farthest on the canvas from all chosen so far, so that labels spread along the front; none closer
    than ``spacing`` pixels to another.
    """
    runs = [list(run) for _, run in groupby(front, key=lambda point: point.label)]
    rest = [run[len(run) // 2] for run in runs]
    rest = rest[:1] + rest[:0:-1][:1] + rest[1:-1]
    chosen: list[Point] = []
    while rest and len(chosen) < limit:
        room = [min((math.dist(pixel(point), pixel(other)) for other in chosen), default=math.inf) for point in rest]
        farthest = 0 if len(chosen) < 2 else room.index(max(room))
        point = rest.pop(farthest)
        if room[farthest] >= spacing:
            chosen.append(point)
    return chosen


@dataclass(frozen=True)
class Labelled:
    """Points of one line with their labels. ``name``: in the artists' gids. ``look``: colour, marker, how many labels
    (none for a line that is only to be kept clear of)."""

    name: str
    look: style.KindStyle
    points: tuple[Point, ...]


def draw_labels(axes: Axes, fronts: dict[Kind, tuple[Point, ...]]) -> None:
    """Labels and leaders on chosen points of the fronts. The axes must have their final place and limits."""
    label_points(axes, [Labelled(kind, style.KINDS[kind], front) for kind, front in fronts.items()])


def label_points(axes: Axes, series: Sequence[Labelled]) -> None:
    """Labels and leaders on chosen points of every line. The axes must have their final place and limits.

    Lines with labels choose in the order of :data:`LABELLED`, others after them.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.canvas.draw()  # positions settle; what follows is measured on them
    renderer = renderer_of(figure)
    pt = figure.dpi / 72

    def pixel(point: Point) -> XY:
        x, y = axes.transData.transform((point.tok_s_user, point.tok_s_gpu))
        return float(x), float(y)

    lines: list[Segment] = []
    faint: list[Segment] = []
    markers: list[Box] = []
    for curve in series:
        look, at = curve.look, [pixel(point) for point in curve.points]
        (lines if look.marker else faint).extend(pairwise(at))
        markers += [Box(x, y, x, y).grown(look.marker_pt / 2 * pt) for x, y in at if look.marker]
    chosen = [
        (curve, point, rank < NUM_INSISTING)
        for curve in sorted(series, key=lambda curve: LABELLED.index(curve.name) if curve.name in LABELLED else 9)
        for rank, point in enumerate(choose_points(curve.points, curve.look.max_labels, pixel, SPACING_PT * pt))
    ]
    texts = [
        _draw_text(axes, curve.look, point, f"label:{curve.name}:{number}")
        for number, (curve, point, _) in enumerate(chosen)
    ]
    wanted = []
    for (curve, point, insists), text in zip(chosen, texts, strict=True):
        extent = text.get_window_extent(renderer)
        wanted.append(Wanted(pixel(point), extent.width, extent.height, curve.look.side, insists))
    frame = axes.get_window_extent(renderer)
    spots = place_labels(wanted, markers, lines, faint, Box(frame.x0, frame.y0, frame.x1, frame.y1), pt)
    for number, ((curve, point, _), text, spot) in enumerate(zip(chosen, texts, spots, strict=True)):
        if spot is None:
            text.remove()
            continue
        x, y = pixel(point)
        text.set_position(
            ((spot.box.x0 + spot.box.x1 - 2 * x) / 2 / pt, (spot.box.y0 + spot.box.y1 - 2 * y) / 2 / pt)
        )
        if spot.leader is not None:
            (x0, y0), (x1, y1) = spot.leader
            _draw_leader(axes, curve.look, point, ((x1 - x0) / pt, (y1 - y0) / pt), f"leader:{number}")


def _draw_text(axes: Axes, look: style.KindStyle, point: Point, gid: str) -> Annotation:
    return axes.annotate(
        short_label(point.label),
        xy=(point.tok_s_user, point.tok_s_gpu),
        xytext=(0, 0),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=style.LABEL_PT,
        color=look.colour,
        gid=gid,
        zorder=3.5,
        bbox={"boxstyle": "square,pad=0.08", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
    )


def _draw_leader(axes: Axes, look: style.KindStyle, point: Point, offset_pt: XY, gid: str) -> None:
    axes.annotate(
        "",
        xy=(point.tok_s_user, point.tok_s_gpu),
        xytext=offset_pt,
        textcoords="offset points",
        arrowprops={
            "arrowstyle": "-",
            "linewidth": style.LEADER_WIDTH_PT,
            "color": look.colour,
            "shrinkA": 0,
            "shrinkB": 0,
        },
        gid=gid,
        zorder=3.4,
    )
