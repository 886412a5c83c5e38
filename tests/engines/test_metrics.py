"""What an engine's servers answer on their metrics addresses, read into figures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ratematch.engines import read_metrics
from ratematch.engines.trtllm_serve.metrics import read_iterations, read_samples
from ratematch.measure.servermetrics import doubt_iterations, judge_figures
from ratematch.plan.workload import Workload


def iteration(queued: int = 0, active: int = 8, used: int = 50, hit: float = 0.0) -> dict[str, Any]:
    return {
        "iter": 1,
        "iterLatencyMS": 20.0,
        "numQueuedRequests": queued,
        "numActiveRequests": active,
        "kvCacheStats": {"usedNumBlocks": used, "maxNumBlocks": 100, "cacheHitRate": hit},
    }


def test_iterations_give_what_they_tell() -> None:
    drafts = {"specDecodingStats": {"acceptanceLength": 2.5}, "inflightBatchingStats": {"numPausedRequests": 1}}
    told = read_samples(json.dumps([iteration(queued=3) | drafts, {"iter": 2}]).encode())
    assert told is not None
    assert told[0] == {
        "queued": 3,
        "active": 8,
        "step_ms": 20.0,
        "kv_used": 50,
        "kv_max": 100,
        "cache_hit_rate": 0.0,
        "paused": 1,
        "acceptance_length": 2.5,
    }
    assert told[1] == {}


def test_both_readers_of_an_answer_agree() -> None:
    body = json.dumps([iteration(queued=3, active=7, used=49, hit=0.25)]).encode()
    (step,), (figures,) = read_iterations(body, 0), read_samples(body) or []
    assert (step.queued, step.active, step.step_ms) == (figures["queued"], figures["active"], figures["step_ms"])
    assert (step.kv_used_blocks, step.kv_max_blocks) == (figures["kv_used"], figures["kv_max"])
    assert step.cache_hit_rate == figures["cache_hit_rate"]


def test_an_answer_of_any_server_is_read_by_its_own_format() -> None:
    assert read_metrics(b" [" + json.dumps(iteration()).encode() + b"]")[0]["active"] == 8
    assert read_metrics(b"requests_total 4\n") == [{"requests_total": 4.0}]
    assert read_samples(b"requests_total 4\n") is None
    for broken in (b"[1, 2", b'[{"iterLatencyMS": 1}]'):
        with pytest.raises(ValueError):
            read_metrics(broken)


# ----------------------------------------------------------------- Prometheus, under the names of each kind of server

VLLM = """
# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 600
vllm:prefix_cache_queries_total{engine="1",model_name="m"} 400
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 150
vllm:prefix_cache_hits_total{engine="1",model_name="m"} 100
vllm:num_requests_running{engine="0",model_name="m"} 3
vllm:num_requests_running{engine="1",model_name="m"} 5
vllm:num_requests_waiting{engine="0",model_name="m"} 40
vllm:num_requests_waiting{engine="1",model_name="m"} 0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.995
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.2
vllm:num_preemptions_total{engine="0",model_name="m"} 24
"""
OLD_VLLM = """
vllm:num_requests_running{model_name="m"} 8.0
vllm:num_requests_waiting{model_name="m"} 40.0
vllm:num_requests_swapped{model_name="m"} 2.0
vllm:gpu_cache_usage_perc{model_name="m"} 0.995
vllm:gpu_prefix_cache_hit_rate{model_name="m"} 0.25
"""
SGLANG = """
sglang:num_running_reqs{engine_type="unified",tp_rank="0"} 8
sglang:num_queue_reqs{engine_type="unified",tp_rank="0"} 40
sglang:token_usage{engine_type="unified",tp_rank="0"} 0.995
sglang:num_retracted_reqs{tp_rank="0"} 1
sglang:num_retracted_requests_total{tp_rank="0"} 24
sglang:prompt_tokens_total{model_name="m"} 1000
sglang:cached_tokens_total{cache_source="device",model_name="m"} 200
sglang:cached_tokens_total{cache_source="host",model_name="m"} 50
sglang:cache_hit_rate{model_name="m"} 0.9
"""
OLD_SGLANG = """
sglang_num_running_reqs 8
sglang_num_queue_reqs 40
sglang_num_retracted_reqs 2
sglang_num_used_tokens 995
sglang_max_total_num_tokens 1000
sglang_cache_hit_rate 0.25
"""
DYNAMO_FRONTEND = """
dynamo_frontend_inflight_requests{model="m"} 8
dynamo_frontend_queued_requests{model="m"} 7
dynamo_frontend_router_queue_pending_requests{worker_type="prefill"} 40
dynamo_frontend_worker_active_decode_blocks{worker_id="1"} 996
dynamo_frontend_worker_active_decode_blocks{worker_id="2"} 994
dynamo_frontend_model_total_kv_blocks{model="m"} 1000
dynamo_frontend_cached_tokens_sum{model="m"} 250
dynamo_frontend_cached_tokens_count{model="m"} 4
dynamo_frontend_input_sequence_tokens_sum{model="m"} 1000
"""
DYNAMO_WORKER = """
dynamo_component_inflight_requests{dynamo_endpoint="generate"} 8
dynamo_work_handler_queue_depth 40
dynamo_component_kvstats_gpu_cache_usage_percent{dp_rank="0"} 99.5
dynamo_component_kvstats_gpu_prefix_cache_hit_rate{dp_rank="0"} 0.25
"""
TRTLLM = """
trtllm_num_requests_running{engine_type="trtllm",model_name="m"} 8
trtllm_num_requests_waiting{engine_type="trtllm",model_name="m"} 40
trtllm_kv_cache_utilization{engine_type="trtllm",model_name="m"} 0.995
trtllm_num_paused_requests{engine_type="trtllm",model_name="m"} 2
trtllm_prompt_tokens_total{engine_type="trtllm",model_name="m"} 1000
trtllm_prompt_cached_tokens_total{engine_type="trtllm",model_name="m"} 250
trtllm_kv_cache_hit_rate{engine_type="trtllm",model_name="m"} 0.7
"""
OLD_TRTLLM = """
trtllm:num_requests_running 8
trtllm:num_requests_waiting 40
trtllm:kv_cache_used_blocks 995
trtllm:kv_cache_max_blocks 1000
trtllm:num_paused_requests 2
trtllm:kv_cache_hit_rate 0.25
"""
ASIDE = {"preempted": "preempted 24 times", "paused": "2.0 requests were paused"}


def figures_of(text: str) -> dict[str, float]:
    """As after a load that began with nothing counted: counters are their growth."""
    (figures,) = read_metrics(text.encode())
    return figures


@pytest.mark.parametrize(
    ("text", "aside"),
    [
        (VLLM, "preempted"),
        (OLD_VLLM, "paused"),
        (SGLANG, "preempted"),
        (OLD_SGLANG, "paused"),
        (DYNAMO_FRONTEND, None),
        (DYNAMO_WORKER, None),
        (TRTLLM, "paused"),
        (OLD_TRTLLM, "paused"),
    ],
)
def test_servers_under_stress_are_noted_under_the_names_of_each(text: str, aside: str | None) -> None:
    findings = list(judge_figures("server", figures_of(text), Workload(8, 8)))
    notes = [note for severe, note in findings if not severe]
    assert any("40.0 requests waited in the server on average, 8.0 ran" in note for note in notes)
    assert any("the KV cache was full (99.5%)" in note for note in notes)
    assert aside is None or any(ASIDE[aside] in note for note in notes)
    assert [note for severe, note in findings if severe] == [
        "server: its prefix cache answered 25.0%, and no prompt shares a prefix: prefill looks faster than it is"
    ]


@pytest.mark.parametrize(
    "text", [VLLM, OLD_VLLM, SGLANG, OLD_SGLANG, DYNAMO_FRONTEND, DYNAMO_WORKER, TRTLLM, OLD_TRTLLM]
)
def test_quiet_servers_are_not_noted(text: str) -> None:
    lines = [line if line.startswith("#") else line.rpartition(" ")[0] + " 0" for line in text.strip().splitlines()]
    assert list(judge_figures("server", figures_of("\n".join(lines)), Workload(8, 8))) == []
    hits = [text for severe, text in judge_figures("s", figures_of(text), Workload(8, 8, prefix_share=0.5)) if severe]
    assert hits == [], "they were asked for"


def test_a_worker_that_passes_its_engines_samples_on_is_read_by_the_engines_names() -> None:
    figures = figures_of(DYNAMO_WORKER + "vllm:num_requests_waiting 3\nvllm:num_requests_running 5\n")
    assert (figures["queued"], figures["active"], figures["kv_used"]) == (3, 5, 0.995)


def test_requests_without_a_first_token_are_noted_when_most_wait_for_it() -> None:
    (figures,) = read_metrics(b"dynamo_frontend_inflight_requests 8\ndynamo_frontend_queued_requests 7\n")
    assert any(
        "7.0 of 8.0 requests waited for a first token" in text
        for text in doubt_iterations("f", figures, Workload(8, 8))
    )
    assert doubt_iterations("f", figures | {"awaiting": 2.0}, Workload(8, 8)) == []


def test_what_comes_through_a_kv_connector_is_noted_and_forbids_nothing() -> None:
    text = "vllm:external_prefix_cache_hits_total 90\nvllm:external_prefix_cache_queries_total 100\n"
    ((severe, note),) = judge_figures("gen", figures_of(text), Workload(8, 8))
    assert not severe and "90.0% of the prompt tokens came through its KV connector" in note


def test_hits_of_loads_before_this_one_are_none_of_its_own() -> None:
    blocks = {"cacheHitRate": 0.5, "reusedBlocks": 50, "missedBlocks": 50}
    (figures,) = read_metrics(json.dumps([{"iter": 1, "kvCacheStats": blocks}]).encode())
    assert (figures["cache_hits_total"], figures["cache_queries_total"]) == (50, 100)
    grown = figures | {"cache_hits_total": 0.0, "cache_queries_total": 40.0}
    assert list(judge_figures("s", grown, Workload(8, 8))) == []


def test_a_hit_now_and_then_is_a_note() -> None:
    ((severe, _),) = judge_figures("s", {"cache_hits_total": 5.0, "cache_queries_total": 1000.0}, Workload(8, 8))
    assert not severe


# ------------------------------------------------------------------------------------- one row a rank, or one for all


def rank_row(number: int, rank: int, queued: int | None, active: int = 4) -> dict[str, Any]:
    row = iteration(active=active, used=10 + rank) | {
        "iter": number,
        "attentionDpRank": rank,
        "inflightBatchingStats": {"numScheduledRequests": active, "numGenRequests": active, "numCtxTokens": rank},
        "specDecodingStats": {
            "numDraftTokens": 3 * active,
            "numAcceptedTokens": active,
            "numRequestsWithDraftTokens": active,
        },
        "hostStepTimeMS": 21.0,
        "prevDeviceStepTimeMS": 19.0,
    }
    del row["numQueuedRequests"]
    return row if queued is None else row | {"numQueuedRequests": queued}


def rows_of(number: int, *, others: int | None, ranks: int = 4) -> list[dict[str, Any]]:
    return [rank_row(number, rank, 12 if rank == 0 else others) for rank in range(ranks)]


@pytest.mark.parametrize("others", [0, None, 12], ids=["zero", "missing", "repeated"])
def test_rows_of_ranks_are_one_iteration_of_the_server(others: int | None) -> None:
    body = json.dumps([*rows_of(1, others=others), *rows_of(2, others=others)]).encode()
    steps, figures = read_iterations(body, 0), read_samples(body) or []
    assert [step.iter for step in steps] == [1, 2] and [step.rank for step in steps] == [None, None]
    for step, one in zip(steps, figures, strict=True):
        assert (step.active, step.scheduled, step.gen_requests, step.ctx_tokens) == (16, 16, 16, 0 + 1 + 2 + 3)
        assert (step.queued, step.step_ms, step.host_ms, step.before_device_ms) == (12, 20.0, 21.0, 19.0)
        assert (step.kv_used_blocks, step.kv_max_blocks) == (10 + 11 + 12 + 13, 400)
        assert (step.draft_tokens, step.accepted_tokens, step.drafted_requests) == (48, 16, 16)
        assert (one["active"], one["queued"], one["kv_used"]) == (16, 12, 46)
        assert one["acceptance_length"] == 2.0
    waits = judge_figures("gen-0", figures[0], Workload(64, 16))
    assert [text for _, text in waits if "waited" in text] == [
        "gen-0: 12.0 requests waited in the server on average, 16.0 ran"
    ]


def test_one_row_for_all_ranks_is_what_it_was() -> None:
    body = json.dumps([{"attentionDpRank": 0} | iteration(queued=3), {"iter": 2, "attentionDpRank": 0}]).encode()
    first, second = read_iterations(body, 0)
    assert (first.rank, first.active, first.queued, second.iter) == (0, 8, 3, 2)


def test_an_iteration_some_of_whose_ranks_are_missing_at_the_end_of_an_answer_is_left_out() -> None:
    rows = [row for number in (1, 2, 3) for row in rows_of(number, others=0)]
    assert [step.iter for step in read_iterations(json.dumps(rows[2:]).encode(), 0)] == [2, 3]
    assert [step.iter for step in read_iterations(json.dumps(rows[:-1]).encode(), 0)] == [1, 2]
    lone = read_iterations(json.dumps(rows[:1]).encode(), 0)
    assert [step.active for step in lone] == [4], "one rank alone may be all there is"


def test_ranks_may_report_in_any_order() -> None:
    rows = [row for number in (1, 2, 3) for row in rows_of(number, others=0)]
    in_order = read_iterations(json.dumps(rows).encode(), 0)
    by_rank = sorted(rows, key=lambda row: (row["attentionDpRank"], row["iter"]))
    late = [*rows[:3], *rows[4:6], rows[3], *rows[6:]]
    for order in (by_rank, late):
        assert read_iterations(json.dumps(order).encode(), 0) == in_order
    again = [*rows[:4], *rows[:4]]
    assert [step.active for step in read_iterations(json.dumps(again).encode(), 0)] == [16, 16], "started anew"


def test_hits_of_ranks_are_weighed_by_what_they_looked_for() -> None:
    rows = [
        {"iter": 1, "attentionDpRank": rank, "kvCacheStats": {"reusedBlocks": hits, "missedBlocks": missed}}
        for rank, (hits, missed) in enumerate([(30, 10), (0, 60)])
    ]
    (step,) = read_iterations(json.dumps(rows).encode(), 0)
    assert step.cache_hit_rate == 0.3
    rates = [{"iter": 1, "attentionDpRank": rank, "kvCacheStats": {"cacheHitRate": rank}} for rank in (0, 1)]
    assert read_iterations(json.dumps(rates).encode(), 0)[0].cache_hit_rate == 0.5
