"""An emulated ``vllm serve`` over HTTP: shapes of answers, the KV hand-over, what it counts, what it refuses."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from typing import Any

import pytest

from ratematch.emulator.environment import Faults
from ratematch.emulator.errors import SettingsError
from ratematch.emulator.vllm.assembly import build
from ratematch.emulator.vllm.settings import serve_settings

from ..ports import free_port
from .servers import get, post
from .vllm_servers import DECODE, KEEP, MODEL, PREFILL, QUICK, make_server, serving

ASK: dict[str, Any] = {"model": MODEL, "prompt": [1, 2, 3, 4], "max_tokens": 5, "ignore_eos": True}
STREAM: dict[str, Any] = {**ASK, "stream": True, "stream_options": {"include_usage": True}}


REAL_METRICS = """
    admission_rejections cache_config_info e2e_request_latency_seconds engine_sleep_state estimated_flops_per_gpu
    estimated_read_bytes_per_gpu estimated_write_bytes_per_gpu external_prefix_cache_hits
    external_prefix_cache_queries generation_tokens inter_token_latency_seconds iteration_tokens_total
    kv_cache_usage_perc mm_cache_hits mm_cache_queries nixl_bytes_transferred nixl_num_descriptors
    nixl_num_failed_notifications nixl_num_failed_transfers nixl_num_kv_expired_reqs
    nixl_num_notifications_after_expiry nixl_post_time_seconds nixl_xfer_time_seconds num_preemptions
    num_requests_running num_requests_waiting num_requests_waiting_by_reason prefix_cache_hits
    prefix_cache_queries prompt_tokens prompt_tokens_by_source prompt_tokens_cached prompt_tokens_cached_by_source
    request_decode_time_seconds request_generation_tokens request_inference_time_seconds
    request_max_num_generation_tokens request_num_preemptions request_params_max_tokens request_params_n
    request_prefill_kv_computed_tokens request_prefill_time_seconds request_prompt_tokens
    request_queue_time_seconds request_success request_time_per_output_token_seconds time_to_first_token_seconds
"""
"""What vLLM 0.32.0 tells on a CPU, alone or with NixlConnector; without the endings of counters and histograms."""


def ask(body: dict[str, Any], route: str = "/v1/completions", **made: Any) -> tuple[int, bytes]:
    async def go() -> tuple[int, bytes]:
        async with serving(make_server(**made)) as (address,):
            return await post(address, body, route)

    return asyncio.run(go())


def events(body: bytes) -> list[Any]:
    lines = [line[6:] for line in body.decode().splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def samples(text: str) -> dict[str, float]:
    found = re.findall(r"^vllm:(\w+)\{([^}]*)\} (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, labels, value in found if "le=" not in labels}


def prompt(first: int, tokens: int) -> list[int]:
    return [(first * 7919 + index) % 150_000 for index in range(tokens)]


# ------------------------------------------------------------------------------------------- answers


def test_a_stream_gives_one_event_a_token_then_usage_and_done() -> None:
    status, body = ask(STREAM)
    got = events(body)
    assert status == 200 and len(got) == 6
    assert list(got[0]) == ["id", "object", "created", "model", "choices"], "no usage key before the end"
    assert list(got[0]["choices"][0]) == [
        *("index", "text", "logprobs", "finish_reason", "stop_reason", "prompt_token_ids", "token_ids")
    ]
    assert [event["choices"][0]["finish_reason"] for event in got[:5]] == [None] * 4 + ["length"]
    assert got[5]["choices"] == []
    assert got[5]["usage"] == {"prompt_tokens": 4, "total_tokens": 9, "completion_tokens": 5}


def test_a_chat_stream_begins_with_the_role() -> None:
    body = {"messages": [{"role": "user", "content": "good day"}], "max_tokens": 3, "stream": True}
    got = events(ask(body, "/v1/chat/completions")[1])
    deltas = [event["choices"][0]["delta"] for event in got]
    assert deltas[0] == {"role": "assistant", "content": ""} and len(deltas) == 4
    assert all(list(delta) == ["content"] for delta in deltas[1:])
    assert got[-1]["choices"][0]["stop_reason"] is None and "usage" not in got[-1]


def test_an_answer_in_one_piece() -> None:
    status, body = ask({key: value for key, value in ASK.items() if key != "model"})
    got = json.loads(body)
    assert status == 200 and got["model"] == MODEL and got["kv_transfer_params"] is None
    assert got["usage"]["completion_tokens"] == 5 and got["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"model": "other"}, 404, "The model `other` does not exist."),
        ({"max_tokens": 5000}, 400, "cannot be greater than max_model_len=4096"),
        ({"prompt": prompt(0, 4000), "max_tokens": 200}, 400, "maximum context length is 4096 tokens"),
        ({"max_tokens": "a"}, 400, "max_tokens"),
        ({"max_tokens": 1, "min_tokens": 4}, 400, "min_tokens must be less than or equal to max_tokens=1"),
        ({"stream_options": {"include_usage": True}}, 400, "Stream options can only be defined when `stream=True`"),
        ({"prompt": [5, 999_999]}, 400, "Token id 999999 is out of vocabulary"),
        ({"prompt": []}, 400, "You must pass at least one prompt"),
    ],
)
def test_refusals_have_the_engines_form(change: dict[str, Any], status: int, words: str) -> None:
    got, body = ask({**ASK, **change})
    error = json.loads(body)["error"]
    assert got == status == error["code"] and words in error["message"]


def test_fields_that_the_engine_does_not_know_are_ignored() -> None:
    assert ask({**ASK, "no_such_field": 1})[0] == 200


def test_what_a_server_says_of_itself() -> None:
    async def go() -> None:
        async with serving(make_server({"served-model-name": ["a", "b"]})) as (address,):
            assert (await get(address, "/health"))[0] == 200
            _, version, headers = await get(address, "/version")
            assert version == {"version": "0.32.0+emulated"} and headers["X-Ratematch-Emulated"] == "1"
            _, models, _ = await get(address, "/v1/models")
            assert [card["id"] for card in models["data"]] == ["a", "b"]
            assert models["data"][0]["max_model_len"] == 4096
            assert (await get(address, "/server_info"))[1]["emulated"]["gpu"] == "h200"

    asyncio.run(go())


# ------------------------------------------------------------------------------------------- hand-over


async def handed_over(prefill: str, decode: str, body: dict[str, Any]) -> tuple[int, bytes]:
    status, kept = await post(prefill, {**body, "max_tokens": 1, "kv_transfer_params": KEEP})
    assert status == 200, kept
    return await post(decode, {**body, "kv_transfer_params": json.loads(kept)["kv_transfer_params"]})


def test_prefill_keeps_the_blocks_until_decode_has_fetched_them() -> None:
    async def go() -> None:
        left, right = make_server({"kv-transfer-config": PREFILL}), make_server({"kv-transfer-config": DECODE})
        body = {**ASK, "prompt": prompt(1, 2048)}
        async with serving(left, right) as (prefill, decode):
            status, kept = await post(prefill, {**body, "max_tokens": 1, "kv_transfer_params": KEEP})
            where = json.loads(kept)["kv_transfer_params"]
            assert len(where["remote_block_ids"][0]) == 128 and where["do_remote_prefill"] is True
            assert left.engine.scheduler.num_held == 1 and left.engine.scheduler.kv_used_per_rank[0] == 128
            assert samples((await get(prefill, "/metrics"))[1])["num_requests_running"] == 0

            status, answer = await post(decode, {**body, "kv_transfer_params": where})
            assert status == 200 and json.loads(answer)["usage"]["completion_tokens"] == 5
            assert left.engine.scheduler.num_held == 0 and left.engine.scheduler.kv_used_per_rank[0] == 0

            told = samples((await get(decode, "/metrics"))[1])
            assert told["nixl_num_descriptors_sum"] == 128 * 48 * 2
            assert told["nixl_bytes_transferred_sum"] == 2048 * 48 * 2 * 4 * 128 * 2
            assert told["nixl_xfer_time_seconds_sum"] > told["nixl_post_time_seconds_sum"] > 0
            assert told["external_prefix_cache_hits_total"] == 2048
            assert told["request_queue_time_seconds_sum"] >= told["nixl_xfer_time_seconds_sum"]

    asyncio.run(go())


def test_large_blocks_are_posted_faster() -> None:
    async def go(block: int) -> dict[str, float]:
        config = {"block-size": block}
        left = make_server({**config, "kv-transfer-config": PREFILL})
        right = make_server({**config, "kv-transfer-config": DECODE})
        async with serving(left, right) as (prefill, decode):
            assert (await handed_over(prefill, decode, {**ASK, "prompt": prompt(2, 2048)}))[0] == 200
            return samples((await get(decode, "/metrics"))[1])

    fine, coarse = asyncio.run(go(16)), asyncio.run(go(128))
    assert fine["nixl_bytes_transferred_sum"] == coarse["nixl_bytes_transferred_sum"]
    assert fine["nixl_post_time_seconds_sum"] == pytest.approx(8 * coarse["nixl_post_time_seconds_sum"])


def test_a_prompt_that_decode_has_in_its_cache_is_hardly_fetched() -> None:
    async def go() -> None:
        left, right = make_server({"kv-transfer-config": PREFILL}), make_server({"kv-transfer-config": DECODE})
        body = {**ASK, "prompt": prompt(3, 1024)}
        async with serving(left, right) as (prefill, decode):
            for _ in range(2):
                assert (await handed_over(prefill, decode, body))[0] == 200
            assert samples((await get(decode, "/metrics"))[1])["nixl_num_descriptors_sum"] == (64 + 1) * 96

    asyncio.run(go())


def test_blocks_that_nobody_fetches_are_freed_after_the_lease() -> None:
    async def go() -> None:
        lease = {"kv_connector_extra_config": {"kv_lease_duration": 0.2}}
        left = make_server({"kv-transfer-config": {**PREFILL, **lease}})
        right = make_server({"kv-transfer-config": {**DECODE, **lease}})
        async with serving(left, right) as (prefill, decode):
            _, kept = await post(prefill, {**ASK, "max_tokens": 1, "kv_transfer_params": KEEP})
            while left.engine.scheduler.num_held:
                await asyncio.sleep(0.02)
            assert samples((await get(prefill, "/metrics"))[1])["nixl_num_kv_expired_reqs_total"] == 1
            assert "Releasing expired KV blocks" in left.log.stream.getvalue()  # type: ignore[attr-defined]

            # Whoever fetches them all the same is not told, but the prefill server notices.
            where = json.loads(kept)["kv_transfer_params"]
            assert (await post(decode, {**ASK, "kv_transfer_params": where}))[0] == 200
            assert samples((await get(prefill, "/metrics"))[1])["nixl_num_notifications_after_expiry_total"] == 1

    asyncio.run(go())


def test_a_transfer_that_fails_ends_the_request_with_an_error() -> None:
    async def go() -> None:
        left, right = make_server({"kv-transfer-config": PREFILL}), make_server({"kv-transfer-config": DECODE})
        async with serving(left, right) as (prefill, decode):
            _, kept = await post(prefill, {**ASK, "max_tokens": 1, "kv_transfer_params": KEEP})
            where = {**json.loads(kept)["kv_transfer_params"], "remote_port": free_port()}
            status, answer = await post(decode, {**ASK, "kv_transfer_params": where})
            assert status == 500 and json.loads(answer)["error"]["message"] == "Internal server error"
            status, stream = await post(decode, {**STREAM, "kv_transfer_params": where})
            assert status == 200 and events(stream)[-1]["error"]["code"] == 500, "an error inside a stream"
            told = samples((await get(decode, "/metrics"))[1])
            assert told["nixl_num_failed_transfers_total"] == 2
            assert "due to KV load failure" in right.log.stream.getvalue()  # type: ignore[attr-defined]

    asyncio.run(go())


def test_a_request_that_waits_at_decode_keeps_its_lease() -> None:
    async def go() -> None:
        lease = {"kv_connector_extra_config": {"kv_lease_duration": 0.6}}
        left = make_server({"kv-transfer-config": {**PREFILL, **lease}})
        right = make_server({"kv-transfer-config": {**DECODE, **lease}, "max-num-seqs": 1}, step_s=0.05)
        async with serving(left, right) as (prefill, decode):
            before = asyncio.ensure_future(post(decode, {**ASK, "max_tokens": 40}))
            await asyncio.sleep(0.1)
            assert (await handed_over(prefill, decode, ASK))[0] == 200
            assert (await before)[0] == 200

    asyncio.run(go())


@pytest.mark.parametrize(
    ("prefill_only", "decode_only", "words"),
    [
        ({"kv-cache-dtype": "fp8"}, {}, "compatibility hash mismatch: cache_dtype fp8 and auto"),
        ({"block-size": 128}, {"block-size": 16}, "Local block size 16 is not divisible by remote block size 128"),
        ({"block-size": 16}, {"block-size": 64}, None),
    ],
)
def test_caches_that_lie_otherwise_are_not_handed_over(
    prefill_only: dict[str, Any], decode_only: dict[str, Any], words: str | None
) -> None:
    async def go() -> None:
        left = make_server({"kv-transfer-config": PREFILL, **prefill_only})
        right = make_server({"kv-transfer-config": DECODE, **decode_only})
        async with serving(left, right) as (prefill, decode):
            assert (await handed_over(prefill, decode, ASK))[0] == (500 if words else 200)
            assert (words or "") in right.log.stream.getvalue()  # type: ignore[attr-defined]

    asyncio.run(go())


def test_without_a_connector_nothing_is_kept_and_nothing_is_told() -> None:
    status, body = ask({**ASK, "max_tokens": 1, "kv_transfer_params": KEEP})
    assert status == 200 and json.loads(body)["kv_transfer_params"] is None


def test_a_client_that_leaves_before_its_turn_gives_the_blocks_back() -> None:
    async def go() -> None:
        left = make_server({"kv-transfer-config": PREFILL})
        right = make_server({"kv-transfer-config": DECODE, "max-num-seqs": 1}, step_s=0.05)
        async with serving(left, right) as (prefill, decode):
            before = asyncio.ensure_future(post(decode, {**ASK, "max_tokens": 30}))
            await asyncio.sleep(0.1)
            leaving = asyncio.ensure_future(handed_over(prefill, decode, ASK))
            while not right.engine.scheduler.num_queued:
                await asyncio.sleep(0.01)
            leaving.cancel()
            while left.engine.scheduler.num_held:
                await asyncio.sleep(0.01)
            assert (await before)[0] == 200

    asyncio.run(asyncio.wait_for(go(), 20))


# ------------------------------------------------------------------------------------------- counts and faults


def test_counters_add_up_and_a_warm_prompt_hits_all_blocks_but_the_last() -> None:
    async def go() -> None:
        async with serving(make_server()) as (address,):
            for _ in range(2):
                assert (await post(address, {**ASK, "prompt": prompt(4, 256)}))[0] == 200
            told = samples((await get(address, "/metrics"))[1])
            assert told["prompt_tokens_total"] == told["prefix_cache_queries_total"] == 512
            assert told["prefix_cache_hits_total"] == 240
            assert told["generation_tokens_total"] == 10
            assert told["iteration_tokens_total_sum"] == 256 + 16 + 2 * 4
            assert told["time_to_first_token_seconds_count"] == 2
            assert 'request_success_total{engine="0"' in (text := (await get(address, "/metrics"))[1])
            assert 'finished_reason="length"} 2.0' in text and "num_gpu_blocks=" in text

    asyncio.run(go())


def test_tokens_count_while_a_request_still_runs() -> None:
    async def go() -> None:
        async with serving(make_server(step_s=0.01)) as (address,):
            asking = asyncio.ensure_future(post(address, {**ASK, "max_tokens": 2000}))
            told: dict[str, float] = {}
            while told.get("generation_tokens_total", 0.0) < 3:
                await asyncio.sleep(0.02)
                told = samples((await get(address, "/metrics"))[1])
            assert told["prompt_tokens_total"] == 4 and told["num_requests_running"] == 1
            asking.cancel()
            while samples((await get(address, "/metrics"))[1])["num_requests_running"]:
                await asyncio.sleep(0.02)
            assert samples((await get(address, "/metrics"))[1])["request_success_total"] == 0

    asyncio.run(go())


def test_every_metric_is_one_of_the_real_servers() -> None:
    async def go() -> str:
        async with serving(make_server({"kv-transfer-config": DECODE})) as (address,):
            await post(address, ASK)
            return str((await get(address, "/metrics"))[1])

    told = set(re.findall(r"^vllm:(\w+?)(?:_total|_count|_sum|_bucket)?\{", asyncio.run(go()), re.MULTILINE))
    assert told <= {*REAL_METRICS.split()} and len(told) > 30


def test_each_data_parallel_rank_counts_for_itself() -> None:
    async def go() -> None:
        server = make_server({"data-parallel-size": 2, "enable-expert-parallel": True})
        async with serving(server) as (address,):
            await asyncio.gather(*(post(address, {**ASK, "prompt": prompt(index, 64)}) for index in range(4)))
            text = (await get(address, "/metrics"))[1]
            found = re.findall(r'prompt_tokens_total\{engine="(\d)".*\} (\S+)', text)
            assert found == [("0", "128.0"), ("1", "128.0")]

    asyncio.run(go())


def test_faults_do_what_they_say() -> None:
    refused = replace(QUICK, faults=Faults(http_500=1.0))
    assert ask(ASK, environment=refused)[0] == 500
    cut = replace(QUICK, faults=Faults(truncate_stream=1.0))
    assert not ask(STREAM, environment=cut)[1].endswith(b"[DONE]\n\n")


# ------------------------------------------------------------------------------------------- settings


def test_defaults_are_those_of_the_release_line_and_the_gpu() -> None:
    told = serve_settings(MODEL, {}, "0.32", "h200")
    assert (told.max_num_seqs, told.max_num_batched_tokens) == (1024, 8192)
    assert (told.block_size, told.memory_share, told.prefix_caching, told.chunked_prefill) == (16, 0.92, True, True)
    assert serve_settings(MODEL, {}, "0.24", "h200").memory_share == 0.9
    assert serve_settings(MODEL, {}, "0.32", "b200").max_num_batched_tokens == 16384
    assert serve_settings(MODEL, {"data-parallel-size": 4}, "0.32", "h200").mapping.dp_ranks == 4


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"max-model-len": 10_000_000}, "is greater than the derived max_model_len"),
        ({"max-num-seqs": 64, "max-num-batched-tokens": 32}, "must be greater than or equal to max_num_seqs"),
        ({"enable-chunked-prefill": False, "max-num-batched-tokens": 64}, "is smaller than max_model_len"),
        ({"kv-transfer-config": {"kv_connector": "NixlConnector"}}, "Please specify kv_role"),
        ({"kv-transfer-config": {"kv_connector": "NixlConnector", "kv_role": "both"}}, "Unsupported kv_role: both"),
        ({"kv-transfer-config": {"kv_connector": "Other", "kv_role": "kv_both"}}, "'Other' is not emulated"),
        ({"speculative-config": {"method": "ngram"}}, "num_speculative_tokens must be provided"),
        ({"tensor-parallel-size": 2, "data-parallel-size": 2}, "not emulated"),
        ({"config": "all.yaml"}, "--config is not emulated"),
    ],
)
def test_settings_that_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        serve_settings(MODEL, given, "0.32", "h200")


@pytest.mark.parametrize(
    ("model", "given", "words"),
    [
        ("llama-3.3-70b", {"dtype": "bfloat16", "gpu-memory-utilization": 0.3}, "No available memory for the cache"),
        (MODEL, {"num-gpu-blocks-override": 10}, "To serve at least one request"),
    ],
)
def test_memory_that_is_too_small_ends_the_start(model: str, given: dict[str, Any], words: str) -> None:
    settings = serve_settings(model, given, "0.32", "h100")
    with pytest.raises(SettingsError, match=words):
        build(settings, replace(QUICK, gpu="h100"))
