"""Records as the files of AIPerf and benchmark_serving: same definitions where they agree, nothing lost."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ratematch.exchange.results.aiperf import profile_export_aiperf, profile_export_lines
from ratematch.exchange.results.benchmark_serving import benchmark_serving_result
from ratematch.exchange.results.foreign import RunInfo
from ratematch.measure import metrics
from ratematch.measure.goodput import parse_goodput
from ratematch.measure.records import RequestRecord
from ratematch.plan.load import Concurrency, Rate
from tests.support.invented import closed_loop, lengths, record

INFO = RunInfo("m", "http://h:8000", Concurrency(4, 40), wall_offset_ns=1_700_000_000_000_000_000)


def some() -> list[RequestRecord]:
    records = closed_loop(4, lengths(40, 10, 30))
    lost = RequestRecord(seq=40, intended_ns=0, sent_ns=5, end_ns=9, isl=100, osl_requested=8)
    lost.outcome, lost.error, lost.status = "http_error", "HTTP 500: out of blocks", 500
    return [*records, lost]


def test_benchmark_serving_counts_and_definitions() -> None:
    records = some()
    done = records[:40]
    content = benchmark_serving_result(records, INFO, parse_goodput("ttft<=60 tpot<=4"))
    json.dumps(content, allow_nan=False)
    seconds = (max(r.last_token_ns or 0 for r in done) - min(r.sent_ns or 0 for r in done)) / 1e9
    tokens = sum(r.osl or 0 for r in done)
    assert content["duration"] == pytest.approx(seconds)
    assert (content["completed"], content["failed"], content["num_prompts"]) == (40, 1, 41)
    assert content["output_throughput"] == pytest.approx(tokens / seconds)
    assert content["total_token_throughput"] == pytest.approx((tokens + 4000) / seconds)
    assert content["mean_tpot_ms"] == pytest.approx(metrics.tpot_ms(done).mean())
    assert content["p99.9_e2el_ms"] == pytest.approx(np.percentile(metrics.e2el_ms(done), 99.9))
    assert content["request_goodput"] == 0.0  # every TPOT is 5 ms
    assert content["errors"][40] == "HTTP 500: out of blocks"
    assert content["output_lens"][40] == 0 and len(content["itls"][0]) == len(records[0].chunk_ns) - 1


def test_benchmark_serving_itl_is_the_chunk_gap_and_ours_is_per_token() -> None:
    several = [record(k, sent_ms=k * 1000.0, osl=21, tokens_per_chunk=4) for k in range(5)]
    content = benchmark_serving_result(several, INFO, detailed=False)
    assert content["mean_itl_ms"] == pytest.approx(20.0)
    assert metrics.itl_ms(several).mean() == pytest.approx(5.0)
    assert "itls" not in content


def test_benchmark_serving_of_an_open_loop_starts_at_the_intended_instant() -> None:
    late = [record(k, sent_ms=k * 10.0, lag_ms=30.0) for k in range(5)]
    about = replace(INFO, load=Rate(100.0, 5, "gamma", burstiness=0.5))
    content = benchmark_serving_result(late, about)
    assert content["mean_ttft_ms"] == pytest.approx(80.0)
    assert (content["request_rate"], content["burstiness"], content["clock_starts"]) == (100.0, 0.5, "intended")


def test_aiperf_lines_one_a_request_with_warm_up_and_errors() -> None:
    lines = list(profile_export_lines(some(), INFO, warmup=[record(99)]))
    json.dumps(lines, allow_nan=False)
    assert [line["metadata"]["benchmark_phase"] for line in lines] == ["warmup", *["profiling"] * 41]
    first = lines[1]
    assert first["metrics"]["time_to_first_token"] == {"value": pytest.approx(50.0), "unit": "ms"}
    assert first["metrics"]["inter_token_latency"]["value"] == pytest.approx(5.0)
    assert first["metrics"]["output_token_throughput_per_user"]["value"] == pytest.approx(200.0)
    assert isinstance(first["metrics"]["output_sequence_length"]["value"], int)
    assert first["metadata"]["request_start_ns"] == INFO.wall_offset_ns
    assert lines[-1]["error"] == {"code": 500, "type": "http_error", "message": "HTTP 500: out of blocks"}
    assert lines[-1]["metrics"] == {}


def test_aiperf_summary() -> None:
    content = profile_export_aiperf(some(), INFO, parse_goodput("ttft<=1s"))
    json.dumps(content, allow_nan=False)
    assert content["request_count"]["avg"] == 40 and content["error_request_count"]["avg"] == 1
    assert content["time_to_first_token"]["p99"] == pytest.approx(50.0)
    assert content["good_request_count"]["avg"] == 40
    tokens = content["total_output_tokens"]["avg"]
    assert content["output_token_throughput"]["avg"] == pytest.approx(tokens / content["benchmark_duration"]["avg"])
    assert content["error_summary"] == [{"error_details": {"message": "HTTP 500: out of blocks"}, "count": 1}]
    assert content["emulated"] is False


def test_emulated_figures_say_so_in_every_file() -> None:
    about = replace(INFO, emulated=True)
    assert benchmark_serving_result(some(), about)["emulated"] is True
    assert profile_export_aiperf(some(), about)["emulated"] is True


def test_nothing_answered_leaves_figures_undefined() -> None:
    lost = some()[-1:]
    content = benchmark_serving_result(lost, INFO)
    assert content["mean_ttft_ms"] is None and content["output_throughput"] is None
    json.dumps([content, profile_export_aiperf(lost, INFO), *profile_export_lines(lost, INFO)], allow_nan=False)
