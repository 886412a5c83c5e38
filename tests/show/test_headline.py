"""The sentence on top of a report and of ``pareto``: read linearly, largest and smallest, and where none measured."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratematch.match.compare import compare_fronts
from ratematch.match.pareto import extract_front, find_overlap, speed_up
from ratematch.match.points import WorkloadAnalysis, objectives
from ratematch.plan.experiment import Origin
from ratematch.show import style
from ratematch.show.headline import describe_gain, find_ends
from tests.show.invented import make_few, make_many, make_point

POINTS = st.lists(st.tuples(st.floats(5, 300), st.floats(10, 5000)), min_size=1, max_size=7)


def compared(workload: WorkloadAnalysis) -> WorkloadAnalysis:
    """``workload`` with the speed-ups of its fronts."""
    ifb = [objectives(point) for point in workload.ifb]
    rows = compare_fronts("end_to_end", [objectives(point) for point in workload.end_to_end], ifb)
    rows += compare_fronts("rate_matched", [objectives(point) for point in workload.rate_matched], ifb)
    return replace(workload, speedups=tuple(rows))


def test_points_that_nobody_measured_are_no_gain() -> None:
    """Read by steps, what lies between two points that are far apart is worth no more than the slower of them."""
    ifb = tuple(make_point("ifb", x, y, "agg") for x, y in ((50, 2800), (129, 1674), (188, 181)))
    e2e = tuple(make_point("end_to_end", x, y, "d") for x, y in ((101, 2500), (157, 1150)))
    workload = compared(replace(make_many(), ifb=ifb, end_to_end=e2e, rate_matched=()))
    assert max(row.step or 0 for row in workload.speedups) > 6
    sentence = describe_gain(workload)
    gains = re.search(r"gives (\d\.\d\d) to (\d\.\d\d) times the tok/s/GPU of IFB at equal tok/s/user", sentence)
    assert gains is not None and 1 < float(gains[1]) < float(gains[2]) < 1.3, sentence
    assert "(measured end to end" in sentence and "IFB has no point between" in sentence


def test_it_names_the_largest_and_the_smallest_with_their_places() -> None:
    many = compared(make_many())
    ends = find_ends([row for row in many.speedups if row.kind == "end_to_end"])
    assert ends is not None
    sentence = describe_gain(many)
    assert f"gives {ends[0].linear:.2f} to {ends[1].linear:.2f} times" in sentence
    assert f"most at {ends[1].tok_s_user:.3g} tok/s/user" in sentence
    assert f"least at {ends[0].tok_s_user:.3g}" in sentence


def test_its_intervals_are_those_of_the_linear_reading() -> None:
    many = compared(make_many())
    rows = tuple(
        replace(row, linear_low=1.11, linear_high=3.33, step_low=0.5, step_high=9.0) for row in many.speedups
    )
    assert describe_gain(replace(many, speedups=rows)).count("(95 %: 1.11 to 3.33)") == 2


def test_it_says_when_nothing_was_measured_end_to_end_and_when_nothing_can_be_said() -> None:
    many = make_many()
    assert "predicted, not measured end to end" in describe_gain(compared(replace(many, end_to_end=())))
    assert "no valid IFB point" in describe_gain(compared(replace(many, ifb=())))
    apart = compared(replace(many, ifb=(make_point("ifb", 900, 1, "agg"),)))
    assert "do not overlap" in describe_gain(apart)


def test_one_point_of_overlap_is_one_figure() -> None:
    few = compared(make_few())
    assert re.search(r"gives \d\.\d\d times the tok/s/GPU of IFB at 46.5 tok/s/user", describe_gain(few))


def test_equal_ratios_are_one_figure_over_their_range() -> None:
    ifb = tuple(make_point("ifb", x, y, "agg") for x, y in ((50, 1000), (100, 500)))
    e2e = tuple(make_point("end_to_end", x, y, "d") for x, y in ((50, 1500), (100, 750)))
    sentence = describe_gain(compared(replace(make_many(), ifb=ifb, end_to_end=e2e)))
    assert "gives 1.50 times the tok/s/GPU of IFB between 50.0 and 100 tok/s/user" in sentence


@given(a=POINTS, b=POINTS, place=st.floats(0, 1))
def test_no_linear_ratio_lies_outside_those_of_the_table(
    a: list[tuple[float, float]], b: list[tuple[float, float]], place: float
) -> None:
    first, second = extract_front(a, lambda p: p), extract_front(b, lambda p: p)
    overlap, ends = find_overlap(first, second), find_ends(compare_fronts("end_to_end", first, second))
    assert (overlap is None) == (ends is None)
    if overlap is None or ends is None:
        return
    u = min(max(overlap[0] + place * (overlap[1] - overlap[0]), overlap[0]), overlap[1])
    linear = speed_up(first, second, u)[1]
    assert linear == pytest.approx(min(max(linear or 0, ends[0].linear or 0), ends[1].linear or 0), rel=1e-9)


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        ("real", "measured end to end"),
        ("emulated", "measured end to end, emulated"),
        ("simulated", "simulated end to end"),
    ],
)
def test_nothing_is_measured_in_virtual_time(origin: Origin, text: str) -> None:
    shown = SimpleNamespace(origin=origin)
    assert style.say_origin("measured end to end", shown) == text
    assert style.say_origin("bound: no deployment", shown).endswith("deployment" if origin == "real" else origin)
