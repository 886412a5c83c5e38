from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratematch.measure import metrics
from ratematch.measure.records import RequestRecord
from ratematch.measure.stats import describe
from tests.support.invented import record


def test_metrics_of_one_request_are_those_of_benchmark_serving() -> None:
    one = [record(ttft_ms=50, tpot_ms=5, osl=11, tail_ms=3)]
    assert metrics.ttft_ms(one) == pytest.approx([50])
    assert metrics.e2el_ms(one) == pytest.approx([100])
    # (latency - TTFT) / (output_len - 1)
    assert metrics.tpot_ms(one) == pytest.approx((metrics.e2el_ms(one) - metrics.ttft_ms(one)) / 10)
    assert metrics.tpot_ms(one) == pytest.approx([5])
    assert metrics.chunk_gap_ms(one) == pytest.approx([5] * 10)
    assert metrics.itl_ms(one) == pytest.approx([5] * 10)
    assert metrics.tok_s_user(5.0) == pytest.approx(200)


def test_chunks_of_several_tokens_do_not_change_tpot_and_itl() -> None:
    many = [record(tpot_ms=5, osl=13, tokens_per_chunk=4)]
    assert metrics.tpot_ms(many) == pytest.approx([5])
    assert metrics.chunk_gap_ms(many) == pytest.approx([20] * 3)
    assert metrics.itl_ms(many) == pytest.approx([5] * 3)


def test_open_loop_latency_counts_from_the_intended_instant() -> None:
    late = [record(sent_ms=100, lag_ms=30, ttft_ms=50)]
    assert metrics.ttft_ms(late) == pytest.approx([50])
    assert metrics.ttft_ms(late, "intended") == pytest.approx([80])
    assert metrics.e2el_ms(late, "intended") - metrics.e2el_ms(late) == pytest.approx([30])
    assert metrics.send_lag_ms(late) == pytest.approx([30])


def test_what_did_not_happen_is_undefined_and_not_zero() -> None:
    never = [RequestRecord(0, intended_ns=5, outcome="connect_error")]
    for function in (metrics.ttft_ms, metrics.e2el_ms, metrics.tpot_ms, metrics.send_lag_ms, metrics.output_tokens):
        assert np.isnan(function(never)).all()
    assert np.isnan(metrics.ttft_ms(never, "intended")).all()
    assert metrics.itl_ms(never).size == metrics.chunk_gap_ms(never).size == 0
    assert np.isnan(metrics.tpot_ms([record(osl=1)])).all()
    assert metrics.itl_ms([record(osl=1)]).size == 0
    assert metrics.tok_s_user(None) is None
    assert metrics.littles_ratio(4.0, None, 50, 5, 11) is None
    assert metrics.littles_ratio(4.0, 2.0, 50, None, 11) is None
    assert metrics.mean_in_flight(np.array([0.0]), np.array([1.0]), 5, 5) is None
    assert describe(np.array([np.nan])) is None


@pytest.mark.parametrize(
    "change",
    [{"outcome": "truncated"}, {"osl": None}, {"first_token_ns": None}, {"end_ns": None}, {"sent_ns": None}],
)
def test_only_full_answers_with_usage_count(change: dict[str, object]) -> None:
    assert metrics.is_complete(record())
    assert not metrics.is_complete(replace(record(), **change))  # type: ignore[arg-type]


def test_the_record_has_the_fields_that_the_metrics_read() -> None:
    assert {field.name for field in fields(RequestRecord)} >= {
        "intended_ns",
        "sent_ns",
        "first_token_ns",
        "last_token_ns",
        "end_ns",
        "chunk_ns",
        "isl",
        "isl_reported",
        "osl_requested",
        "osl",
        "cached_tokens",
        "outcome",
        "error",
    }


def test_littles_ratio_by_hand() -> None:
    # 2 requests/s of 50 ms + 10 x 5 ms: 0.2 in flight.
    assert metrics.littles_ratio(0.2, 2.0, 50, 5, 11) == pytest.approx(1)
    assert metrics.littles_ratio(0.1, 2.0, 50, None, 1) == pytest.approx(1)


def test_shares_and_in_flight_by_hand() -> None:
    starts, ends = np.array([0.0, 1e9, 5e9, 2e9]), np.array([2e9, 3e9, 6e9, 2e9])
    assert metrics.shares_inside(starts, ends, ends - starts, 1e9, 3e9) == pytest.approx([0.5, 1, 0, 1])
    assert metrics.mean_in_flight(starts, ends, 1e9, 3e9) == pytest.approx(1.5)


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 500)), min_size=1, max_size=30), st.integers(0, 900))
def test_shares_keep_littles_law_in_any_window(lives: list[tuple[int, int]], begin: int) -> None:
    starts = np.array([start * 1e6 for start, _ in lives])
    life = np.array([length * 1e6 for _, length in lives])
    window = (begin * 1e6, (begin + 137) * 1e6)
    shares = metrics.shares_inside(starts, starts + life, life, *window)
    in_flight = metrics.mean_in_flight(starts, starts + life, *window)
    assert in_flight is not None
    assert (shares * life).sum() == pytest.approx(in_flight * 137e6)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_stats_are_numpys(values: list[float]) -> None:
    stats = describe(np.array([*values, math.nan]))
    assert stats is not None
    assert stats.n == len(values)
    assert stats.at("mean") == pytest.approx(np.mean(values))
    for percentile in (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9):
        assert stats.at(percentile) == pytest.approx(np.percentile(values, percentile))
    with pytest.raises(KeyError):
        stats.at(80)
