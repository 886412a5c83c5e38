"""Which deployment a report recommends, and how honestly."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratematch.match.pareto import linear_at
from ratematch.match.points import WorkloadAnalysis
from ratematch.match.recommend import recommend, recommend_all
from tests.show.invented import make_few, make_many, make_point

MANY = make_many()


def test_the_measured_deployment_with_most_throughput_at_that_speed_or_faster_wins() -> None:
    found = recommend(MANY, 50)
    reached = [point for point in (*MANY.end_to_end, *MANY.ifb) if point.tok_s_user >= 50]
    assert found.point == max(reached, key=lambda point: point.tok_s_gpu)
    assert found.measured
    ifb = linear_at([(point.tok_s_user, point.tok_s_gpu) for point in MANY.ifb], 50)
    assert ifb is not None and found.over_ifb == pytest.approx(found.point.tok_s_gpu / ifb)
    assert found.hole == (32, 61), "the IFB points around it, between which nobody measured"


def test_a_prediction_is_recommended_only_where_nothing_is_measured_and_says_so() -> None:
    alone = replace(MANY, end_to_end=(), ifb=())
    found = recommend(alone, 50)
    assert found.point is not None and found.point.kind == "rate_matched" and not found.measured
    assert found.over_ifb is None and found.promising is None


def test_a_better_prediction_stands_beside_the_measured_one() -> None:
    few = make_few()
    found = recommend(few, 20)
    assert found.point is not None and found.point.kind == "end_to_end"
    assert found.promising is not None and found.promising.label == few.rate_matched[0].label


def test_aggregated_serving_is_recommended_where_it_wins() -> None:
    best = make_point("ifb", 60, 5000, "agg1xDEP8-mtp0")
    found = recommend(replace(MANY, ifb=(best,)), 50)
    assert found.point == best and found.over_ifb is None and found.beaten
    assert not recommend(replace(MANY, ifb=(best,), end_to_end=()), 50).beaten


def test_a_measured_point_within_noise_of_the_target_reaches_it() -> None:
    """Aggregated serving at 49.46 tok/s/user was passed over for 50, and the next of its points is far away."""
    ifb = (make_point("ifb", 49.46, 2818, "agg"), make_point("ifb", 129, 1674, "agg"))
    slow = make_point("end_to_end", 101, 2577, "d")
    found = recommend(replace(MANY, ifb=ifb, end_to_end=(slow,), rate_matched=()), 50)
    assert found.point == ifb[0] and found.beaten
    assert recommend(replace(MANY, ifb=ifb, end_to_end=(slow,), rate_matched=()), 55).point == slow
    wide = replace(ifb[0], tok_s_user=48, tok_s_gpu_low=2680.0, tok_s_gpu_high=2960.0)
    assert recommend(replace(MANY, ifb=(wide,), end_to_end=(slow,), rate_matched=()), 50).point == wide
    sure = replace(wide, tok_s_gpu_low=2817.0, tok_s_gpu_high=2819.0)
    assert recommend(replace(MANY, ifb=(sure,), end_to_end=(slow,), rate_matched=()), 50).point == slow
    predicted = make_point("rate_matched", 49.9, 3000, "p")
    assert recommend(replace(MANY, ifb=(), end_to_end=(), rate_matched=(predicted,)), 50).point is None


def test_what_lies_between_two_runs_of_one_deployment_is_named_and_beats_a_step() -> None:
    """At 115 tok/s/user two runs of the pair have 2,200 on the line between them; IFB has 1,674 at 129."""
    pair = (make_point("end_to_end", 103, 2500, "pair"), make_point("end_to_end", 157, 1152, "pair"))
    ifb = (make_point("ifb", 49.5, 2818, "agg"), make_point("ifb", 129, 1674, "agg"))
    measured = replace(MANY, ifb=ifb, end_to_end=pair, rate_matched=())
    found = recommend(measured, 115)
    assert found.point == ifb[1] and not found.beaten
    assert found.between is not None and (found.between.slow, found.between.fast) == pair
    assert found.between.tok_s_gpu == pytest.approx(2500 - 1348 * 12 / 54)
    aggregated = recommend(measured, 55)
    assert aggregated.point == pair[0] and aggregated.between is not None and aggregated.between.slow == ifb[0]
    assert recommend(measured, 100).between is None  # the measured one is the better one all the same
    other = replace(measured, end_to_end=(pair[0], replace(pair[1], label="another")))
    alike = recommend(other, 115)  # two deployments have no line between them; two loads of the IFB server do
    assert alike.beaten and alike.between is not None and alike.between.slow == ifb[0]
    alone = replace(measured, end_to_end=(), ifb=(ifb[0],))
    assert recommend(alone, 60).point is None and recommend(alone, 60).between is None


def test_out_of_reach_says_what_the_fastest_gives() -> None:
    found = recommend(MANY, 500)
    assert found.point is None and found.fastest == max(p.tok_s_user for p in (*MANY.rate_matched, *MANY.ifb))
    empty: WorkloadAnalysis = replace(MANY, rate_matched=(), end_to_end=(), ifb=())
    assert recommend(empty, 20).fastest is None


@given(st.lists(st.floats(1, 400), min_size=1, max_size=5))
def test_more_speed_never_gives_more_throughput(targets: list[float]) -> None:
    found = recommend_all(replace(MANY, rate_matched=()), targets)
    rates = [each.point.tok_s_gpu for each in found if each.point is not None]
    assert rates == sorted(rates, reverse=True)
    assert all(each.point is None or each.point.tok_s_user >= 0.95 * each.at for each in found)
