from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratematch.measure.clienthealth import ClientHealth
from ratematch.measure.measurement import Measurement, from_json, measure_load, to_json
from ratematch.measure.records import RequestRecord
from ratematch.measure.validity import Limits
from ratematch.plan.load import Concurrency, Rate
from ratematch.plan.workload import Workload
from tests.support.invented import MS, closed_loop, contended_loop, lengths, record

WORKLOAD = Workload(100, 101, 0.8)


def measure(records: list[RequestRecord], concurrency: int, **kwargs: Limits) -> Measurement:
    return measure_load(records, Concurrency(concurrency, len(records)), WORKLOAD, **kwargs)


@settings(max_examples=25, deadline=None)
@given(
    concurrency=st.integers(1, 24),
    waves=st.integers(6, 9),
    ttft_ms=st.floats(1, 400),
    tpot_ms=st.floats(1, 30),
    burst_ms=st.floats(0, 20),
    stagger_ms=st.floats(0, 20),
    fixed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_window_recovers_the_truth_of_a_closed_loop(
    concurrency: int,
    waves: int,
    ttft_ms: float,
    tpot_ms: float,
    burst_ms: float,
    stagger_ms: float,
    fixed: bool,
    seed: int,
) -> None:
    osls = lengths(waves * concurrency + 3, 101 if fixed else 81, 101, seed)
    records = closed_loop(
        concurrency, osls, ttft_ms=ttft_ms, tpot_ms=tpot_ms, burst_ms=burst_ms, stagger_ms=stagger_ms
    )
    result = measure(records, concurrency)
    assert result.valid, result.reasons
    assert result.ttft_ms is not None
    assert result.tpot_ms is not None
    assert result.ttft_ms.mean == pytest.approx(ttft_ms, rel=1e-3)  # the burst of the first wave is not in it
    assert result.tpot_ms.mean == pytest.approx(tpot_ms, rel=1e-3)
    assert result.in_flight == pytest.approx(concurrency, rel=1e-6)
    assert result.osl_mean is not None
    assert result.req_s is not None
    assert result.tok_s is not None
    # Against the truth for the lengths that were drawn: few requests have another mean than many.
    assert result.little == pytest.approx(1, abs=1e-6 if fixed else 0.05)
    if fixed:
        true_req_s = concurrency / (ttft_ms + 100 * tpot_ms) * 1000
        assert result.req_s == pytest.approx(true_req_s, rel=1e-3)
        assert result.tok_s == pytest.approx(true_req_s * 101, rel=1e-3)


@pytest.mark.parametrize("stagger_ms", [0.0, 13.0])
def test_random_lengths_are_recovered_within_two_per_cent(stagger_ms: float) -> None:
    osls = lengths(400, 51, 101)
    result = measure_load(
        closed_loop(16, osls, ttft_ms=80, tpot_ms=5, burst_ms=10, stagger_ms=stagger_ms),
        Concurrency(16, 400),
        Workload(100, 101, 0.5),
    )
    true_req_s = 16 / (80 + 75 * 5) * 1000
    assert result.req_s == pytest.approx(true_req_s, rel=0.02)
    assert result.tok_s == pytest.approx(true_req_s * 76, rel=0.02)
    assert result.little == pytest.approx(1, abs=0.02)


def test_a_drain_that_runs_faster_does_not_raise_the_rate() -> None:
    def run(waves: int) -> Measurement:
        osls = [101] * (16 * waves)
        return measure(contended_loop(16, osls, prefill_ms=40, step_ms=5, step_ms_per_request=0.5), 16)

    short, long = run(4), run(20)
    assert short.req_s == pytest.approx(long.req_s, rel=0.01)
    assert short.tok_s == pytest.approx(long.tok_s, rel=0.01)
    assert short.little == pytest.approx(1, abs=0.01)


def test_whole_run_figures_hold_ramp_and_drain() -> None:
    result = measure(closed_loop(4, [101] * 24, burst_ms=100), 4)
    assert result.req_s is not None
    assert result.req_s_run is not None
    assert result.req_s_run < 0.95 * result.req_s
    assert result.tok_s_run == pytest.approx(result.req_s_run * 101)


def test_the_order_of_records_does_not_matter() -> None:
    records = closed_loop(4, lengths(40, 81, 101))
    assert measure(records, 4) == measure(records[::-1], 4)


def test_a_measurement_survives_json() -> None:
    for records in (closed_loop(4, lengths(40, 81, 101)), []):
        result = measure(records, 4)
        assert from_json(json.loads(json.dumps(to_json(result)))) == result


def test_windows_say_how_they_were_chosen() -> None:
    steady = measure(closed_loop(8, lengths(64, 81, 101), burst_ms=5), 8).window
    assert steady is not None
    assert steady.steady
    first_wave_over = max(r.end_ns or 0 for r in closed_loop(8, lengths(64, 81, 101), burst_ms=5)[:8])
    assert steady.start_ns == first_wave_over
    assert steady.num_requests + steady.num_outside == 64

    short = measure(closed_loop(8, lengths(16, 81, 101), stagger_ms=3), 8)
    assert short.window is not None
    assert not short.window.steady
    assert short.valid
    assert any("not steady" in text for text in short.warnings)

    one_wave = measure(closed_loop(8, lengths(12, 81, 101)), 8)
    assert not one_wave.valid
    assert "fewer than 2 x 8 requests" in one_wave.reasons[0]


def test_the_window_ends_when_a_slot_is_left_empty() -> None:
    records = closed_loop(4, lengths(40, 81, 101))
    window = measure(records, 4).window
    assert window is not None
    last_start = max(r.sent_ns or 0 for r in records)
    assert window.end_ns == min(r.end_ns for r in records if r.end_ns and r.end_ns > last_start)
    # In step, one request over: when it is sent alone, the other slots are empty at once.
    in_step = measure(closed_loop(4, [101] * 21), 4)
    assert in_step.window is not None
    assert in_step.window.end_ns == max(r.sent_ns or 0 for r in closed_loop(4, [101] * 21))
    assert in_step.in_flight == pytest.approx(4)


def test_context_runs_have_no_tpot_and_are_valid() -> None:
    records = closed_loop(4, [1] * 40, ttft_ms=200)
    result = measure_load(records, Concurrency(4, 40), Workload(100, 1))
    assert result.valid
    assert result.tpot_ms is None
    assert result.tok_s_user is None
    assert result.req_s == pytest.approx(20)
    assert result.little == pytest.approx(1)


def test_open_loop_counts_from_the_intended_instant() -> None:
    due = np.cumsum(np.random.default_rng(1).exponential(20, 400))
    records = [record(k, sent_ms=float(t) + 7, lag_ms=7, osl=11, ttft_ms=50) for k, t in enumerate(due)]
    result = measure_load(records, Rate(50.0, 400), Workload(100, 11))
    assert result.valid
    assert result.ttft_ms is not None
    assert result.ttft_ms.mean == pytest.approx(57)
    assert result.window is not None
    assert result.window.steady
    assert result.req_s == pytest.approx(1000 / np.mean(np.diff(due)), rel=0.05)


def test_an_overloaded_open_loop_is_not_valid() -> None:
    # One server that takes 30 ms a request; every 20 ms one arrives.
    records = [record(k, sent_ms=20.0 * k, ttft_ms=30.0 + 10 * k, osl=1) for k in range(300)]
    result = measure_load(records, Rate(50.0, 300, "constant"), Workload(100, 1))
    assert [text.split(":")[0] for text in result.reasons] == ["overloaded"]
    enough = [record(k, sent_ms=20.0 * k, ttft_ms=15.0, osl=1) for k in range(300)]
    assert measure_load(enough, Rate(50.0, 300, "constant"), Workload(100, 1)).valid


def failed(seq: int) -> RequestRecord:
    return RequestRecord(seq, intended_ns=0, sent_ns=0, end_ns=MS, outcome="http_error", status=500, error="boom")


def spoil(records: list[RequestRecord], num: int, **change: object) -> list[RequestRecord]:
    return [replace(r, **change) if k < num else r for k, r in enumerate(records)]  # type: ignore[arg-type]


GOOD = closed_loop(4, lengths(200, 81, 101))


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([], "no request was sent"),
        ([failed(0), failed(1)], "none of 2 requests has a full answer with usage: boom"),
        ([*GOOD, *[failed(200 + k) for k in range(5)]], "5 of 205 requests failed (http_error): boom"),
        (spoil(GOOD, 5, osl=40), "5 of 200 answers have another output length"),
        (spoil(GOOD, 1, osl=None), "1 of 200 answers have no usage"),
        (spoil(GOOD, 200, isl_reported=108), "the server counts +8.0 prompt tokens"),
        (spoil(GOOD, 200, isl=150, isl_reported=150), "prompts have 150 tokens, the workload says 100"),
        (spoil(GOOD, 200, cached_tokens=32), "32.0% of the prompt tokens came from the prefix cache"),
    ],
)
def test_what_makes_a_load_not_valid(records: list[RequestRecord], reason: str) -> None:
    result = measure(records, 4)
    assert not result.valid
    assert any(text.startswith(reason) for text in result.reasons), result.reasons


@pytest.mark.parametrize(
    ("records", "warning"),
    [
        ([*GOOD, failed(200)], "1 of 201 requests failed"),
        (spoil(GOOD, 1, osl_requested=200), "1 of 200 answers have another output length"),
        (spoil(GOOD, 200, isl_reported=101), "the server counts +1.0 prompt tokens"),
        (spoil(GOOD, 200, isl_reported=None), "the server reports no prompt length"),
        (spoil(GOOD, 1, cached_tokens=32), "0.2% of the prompt tokens"),
        (spoil(GOOD, 40, intended_ns=-50 * MS), "the client sent late"),
        (closed_loop(1, [101] * 5), "only 4 requests ended in the window"),
    ],
)
def test_what_only_warns(records: list[RequestRecord], warning: str) -> None:
    result = measure(records, 1 if len(records) == 5 else 4)
    assert result.valid, result.reasons
    assert any(text.startswith(warning) for text in result.warnings), result.warnings


HEALTHY = ClientHealth(
    cpu_share=0.3,
    loop_lag_p99_ms=1.5,
    loop_lag_max_ms=2.0,
    max_in_flight=4,
    mean_in_flight=4.0,
    late_sends=0,
    late_ms=10.0,
    send_lag_p99_ms=None,
    at_transport=True,
    event_loop="uvloop",
)


@pytest.mark.parametrize(
    ("told", "reason", "warning"),
    [
        ({}, False, False),
        ({"cpu_share": 0.97}, False, True),
        ({"cpu_share": 1.8, "processes": 2}, False, False),
        ({"cpu_share": 0.97, "late_sends": 20}, True, False),
        ({"loop_lag_p99_ms": 80.0, "cpu_share": 0.95}, True, False),
        ({"late_sends": 20}, False, False),
    ],
)
def test_a_saturated_client_is_told(told: dict[str, float], reason: bool, warning: bool) -> None:
    records = closed_loop(4, [101] * 40)
    result = measure_load(records, Concurrency(4, 40), Workload(100, 101), client=replace(HEALTHY, **told))  # type: ignore[arg-type]
    assert any("the client is saturated" in text for text in result.reasons) is reason
    assert any("the client is saturated" in text for text in result.warnings) is warning


def test_several_tokens_a_chunk_are_said() -> None:
    records = [record(k, sent_ms=k * 600.0, osl=101, tokens_per_chunk=4) for k in range(20)]
    result = measure_load(records, Concurrency(1, 20), Workload(100, 101))
    assert result.tokens_per_chunk == pytest.approx(3.9, abs=0.1)
    assert any("tokens a chunk" in text for text in result.warnings)


def test_a_prefix_that_is_meant_to_be_reused_is_no_contamination() -> None:
    records = closed_loop(4, [101] * 40)
    for each in records:
        each.cached_tokens = 50
    assert measure_load(records, Concurrency(4, 40), Workload(100, 101)).reasons
    assert not measure_load(records, Concurrency(4, 40), Workload(100, 101, prefix_share=0.5)).reasons
    more = measure_load(records, Concurrency(4, 40), Workload(100, 101, prefix_share=0.3))
    assert any("20.0% of the prompt tokens more than wanted" in text for text in more.reasons)


def test_hits_of_prompts_whose_length_only_the_server_knows_are_a_share_of_what_it_counts() -> None:
    records = [replace(each, isl=0, isl_reported=100, cached_tokens=30) for each in closed_loop(4, [101] * 40)]
    result = measure_load(records, Concurrency(4, 40), Workload(100, 101))
    assert any(text.startswith("30.0% of the prompt tokens came from the prefix cache") for text in result.reasons)


def test_prompts_that_were_warmed_may_be_found() -> None:
    records = [replace(each, cached_tokens=96) for each in closed_loop(4, [101] * 40)]
    assert measure(records, 4, limits=Limits(cached=1.0)).valid


def test_a_broken_littles_law_is_a_reason() -> None:
    # Slots that stay taken long after the last token: rate and latencies do not belong together.
    slow_end = [replace(r, end_ns=(r.end_ns or 0) + 300 * MS) for r in closed_loop(4, [101] * 40)]
    result = measure(slow_end, 4)
    assert any(text.startswith("Little's law is off by") for text in result.reasons)
    assert not any("Little" in text for text in measure(slow_end, 4, limits=Limits(little=1.0)).reasons)


def test_empty_slots_are_said() -> None:
    # 4 slots asked for and filled once, but each idles 100 ms between requests.
    records = []
    for slot in range(4):
        records += [record(slot * 20 + k, sent_ms=k * 650.0 + (0 if k else slot), osl=101) for k in range(20)]
    result = measure_load(records, Concurrency(4, 80), Workload(100, 101))
    assert any("asked for: slots stood empty" in text for text in result.warnings), result
