"""Which deployment a report recommends, and how honestly."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratematch.match.points import WorkloadAnalysis
from ratematch.match.recommend import recommend, recommend_all
from tests.show.invented import make_few, make_many, make_point

MANY = make_many()


def test_the_measured_deployment_with_most_throughput_at_that_speed_or_faster_wins() -> None:
    found = recommend(MANY, 50)
    reached = [point for point in (*MANY.end_to_end, *MANY.ifb) if point.tok_s_user >= 50]
    assert found.point == max(reached, key=lambda point: point.tok_s_gpu)
    assert found.measured
    ifb = max(point.tok_s_gpu for point in MANY.ifb if point.tok_s_user >= 50)
    assert found.over_ifb == pytest.approx(found.point.tok_s_gpu / ifb)


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
    assert all(each.point is None or each.point.tok_s_user >= each.at for each in found)
