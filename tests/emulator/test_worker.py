"""The worker's HTTP answers, over a real socket inside the test's loop."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from ratematch.emulator.admission import EngineFailure
from ratematch.emulator.engine import EmulatorLag
from ratematch.emulator.scheduler import Sequence
from ratematch.emulator.sinks import CollectSink
from ratematch.engines.trtllm_serve.metrics import read_iterations

from .servers import BASE, DISAGG, QUICK, get, make_worker, post, serving, with_faults

ASK: dict[str, Any] = {"model": "m", "prompt": [1, 2, 3, 4], "max_tokens": 10, "ignore_eos": True}
STREAM: dict[str, Any] = {**ASK, "stream": True, "stream_options": {"include_usage": True}}


def ask(
    config: dict[str, Any], body: dict[str, Any], route: str = "/v1/completions", **more: Any
) -> tuple[int, bytes]:
    async def go() -> tuple[int, bytes]:
        async with serving(make_worker(config, **more)) as address:
            return await post(address, body, route)

    return asyncio.run(go())


def fetch(config: dict[str, Any], route: str) -> tuple[int, Any, Any]:
    async def go() -> tuple[int, Any, Any]:
        async with serving(make_worker(config)) as address:
            return await get(address, route)

    return asyncio.run(go())


def events(raw: bytes) -> list[Any]:
    """Decoded events; the stream must be exactly ``data: JSON`` and a blank line each, then ``[DONE]``."""
    assert raw.endswith(b"\n\n")
    lines = raw.decode().removesuffix("\n\n").split("\n\n")
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def words(chunks: list[Any]) -> list[int]:
    return [len(chunk["choices"][0]["text"].split()) for chunk in chunks if chunk["choices"]]


def test_a_stream_is_first_token_steps_last_token_usage_done() -> None:
    status, raw = ask(BASE, STREAM)
    chunks = events(raw)
    assert status == 200
    assert words(chunks) == [1] * 10
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * 9 + ["length"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 10
    assert chunks[-1]["usage"]["prompt_tokens"] == 4
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_stream_parsed_byte_by_byte_across_chunk_borders() -> None:
    async def go() -> bytes:
        async with serving(make_worker(BASE)) as address:
            host, _, port = address.partition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            body = json.dumps(STREAM).encode()
            head = f"Host: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            writer.write(b"POST /v1/completions HTTP/1.1\r\n" + head.encode() + body)
            raw = b""
            while piece := await reader.read(1):
                raw += piece
            writer.close()
            await writer.wait_closed()
            return raw

    head, _, raw = asyncio.run(go()).partition(b"\r\n\r\n")
    assert b"text/event-stream" in head and b"X-Ratematch-Emulated: 1" in head
    content = b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        length = int(size, 16)
        content += raw[:length]
        assert raw[length : length + 2] == b"\r\n"
        raw = raw[length + 2 :]
        if not length:
            break
    assert raw == b""
    assert words(events(content)) == [1] * 10


@pytest.mark.parametrize("interval", [1, 3, 20])
@pytest.mark.parametrize("mtp", [0, 2])
def test_tokens_of_all_chunks_equal_usage(interval: int, mtp: int) -> None:
    config: dict[str, Any] = {**BASE, "stream_interval": interval, "tensor_parallel_size": 8}
    if mtp:
        config["speculative_config"] = {"decoding_type": "MTP", "num_nextn_predict_layers": mtp}
    environment = replace(QUICK, forced_acceptance=1.0 if mtp else None)
    status, raw = ask(config, {**STREAM, "max_tokens": 40}, environment=environment, model="deepseek-r1")
    chunks = events(raw)
    counts = words(chunks)
    assert status == 200
    assert sum(counts) == chunks[-1]["usage"]["completion_tokens"] == 40
    assert counts[0] == 1, "the first token comes at once"
    per_step = 2 if mtp else 1
    assert all(count == interval * per_step for count in counts[2:-1])


def test_usage_in_every_chunk_and_no_usage() -> None:
    _, raw = ask(BASE, {**STREAM, "stream_options": {"continuous_usage_stats": True}})
    assert [chunk["usage"]["completion_tokens"] for chunk in events(raw)] == [*range(1, 11), 10]
    _, raw = ask(BASE, {**ASK, "stream": True})
    assert all(chunk["choices"] and chunk["usage"] is None for chunk in events(raw))


def test_one_answer_holds_all_tokens() -> None:
    status, raw = ask(BASE, ASK)
    answer = json.loads(raw)
    assert status == 200
    assert answer["id"].startswith("cmpl-") and answer["object"] == "text_completion"
    assert len(answer["choices"][0]["text"].split()) == 10
    assert answer["usage"] == {
        "prompt_tokens": 4,
        "total_tokens": 14,
        "completion_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_without_detokenize_ids_come_and_text_is_empty() -> None:
    _, raw = ask(BASE, {**STREAM, "detokenize": False})
    chunks = events(raw)[:-1]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == ""
    ids = [token for chunk in chunks for token in chunk["choices"][0]["token_ids"]]
    assert len(ids) == 10
    _, raw = ask(BASE, {**ASK, "detokenize": False})
    assert json.loads(raw)["choices"][0]["token_ids"] == ids


def test_chat_streams_role_first() -> None:
    body = {k: v for k, v in STREAM.items() if k != "prompt"} | {
        "messages": [{"role": "user", "content": "Hi there"}]
    }
    status, raw = ask(BASE, body, "/v1/chat/completions")
    chunks = events(raw)
    assert status == 200
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks if chunk["choices"])
    assert len(text.split()) == chunks[-1]["usage"]["completion_tokens"] == 10


@pytest.mark.parametrize(
    ("change", "words_in_error"),
    [
        ({"max_token": 5}, "max_token"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream is true"),
        ({"disaggregated_params": {"request_typ": "x"}}, "request_typ"),
        ({"stream": "yes"}, "stream"),
        ({"n": 2}, "one choice"),
        ({"prompt": ["a", "b"]}, "one prompt"),
    ],
)
def test_a_wrong_body_is_refused_with_an_error_string(change: dict[str, Any], words_in_error: str) -> None:
    status, raw = ask(BASE, {**ASK, **change})
    assert status == 400
    assert words_in_error in json.loads(raw)["error"]


def test_a_prompt_beyond_max_num_tokens_is_refused_unless_chunked() -> None:
    long = {**ASK, "prompt": list(range(1500))}
    status, raw = ask(BASE, long)
    message = json.loads(raw)["message"]
    assert status == 400 and json.loads(raw)["type"] == "BadRequestError"
    assert re.match(
        r"The sum of prompt length \(1500(\.0)?\), query length \(\d+\) should not exceed max_num_tokens \(1024\)",
        message,
    )
    status, _ = ask({**BASE, "enable_chunked_prefill": True}, long)
    assert status == 200


def test_max_seq_len_ends_a_sequence_early() -> None:
    status, raw = ask({**BASE, "max_seq_len": 9}, ASK)
    assert status == 200
    assert json.loads(raw)["usage"]["completion_tokens"] == 5


def test_split_requests_need_a_transceiver() -> None:
    body = {**ASK, "disaggregated_params": {"request_type": "context_only"}}
    status, raw = ask(BASE, body)
    assert status == 400
    assert "Disaggregated serving is not enabled, please check the configuration?" in json.loads(raw)["message"]


def test_a_context_only_answer_hands_over_and_holds_until_fetched() -> None:
    async def go() -> None:
        worker = make_worker(DISAGG)
        async with serving(worker) as address:
            body = {**ASK, "disaggregated_params": {"request_type": "context_only", "disagg_request_id": 1 << 41}}
            status, raw = await post(address, body)
            answer = json.loads(raw)
            params = answer["choices"][0]["disaggregated_params"]
            assert status == 200
            assert answer["choices"][0]["finish_reason"] == "not_finished"
            assert answer["prompt_token_ids"] == ASK["prompt"]
            assert params["ctx_request_id"] == 1 << 41 and len(params["first_gen_tokens"]) == 1
            assert worker.emulation.scheduler.num_held == 1
            status, _ = await post(address, {"request_id": 1 << 41, "duration_s": 0.0}, "/_emulated/fetch")
            assert status == 200
            await asyncio.sleep(0.05)
            assert worker.emulation.scheduler.num_held == 0
            status, _ = await post(address, {"request_id": 1 << 41, "duration_s": 0.0}, "/_emulated/fetch")
            assert status == 404, "it can be fetched once"

    asyncio.run(go())


def test_an_unfetched_cache_is_dropped_after_the_timeout() -> None:
    config = {**DISAGG, "cache_transceiver_config": {"backend": "UCX", "kv_transfer_timeout_ms": 50}}

    async def go() -> None:
        worker = make_worker(config)
        async with serving(worker) as address:
            await post(address, {**ASK, "disaggregated_params": {"request_type": "context_only"}})
            assert worker.emulation.scheduler.num_held == 1
            await asyncio.sleep(0.2)
            assert worker.emulation.scheduler.num_held == 0

    asyncio.run(go())


def test_metrics_are_drained_on_read() -> None:
    async def go() -> None:
        async with serving(make_worker(BASE)) as address:
            await post(address, ASK)
            _, first, _ = await get(address, "/metrics")
            assert [entry["iter"] for entry in first] == list(range(1, 11))
            assert {"iterLatencyMS", "kvCacheStats", "inflightBatchingStats"} <= set(first[0])
            _, again, _ = await get(address, "/metrics")
            assert again == []
            _, perf, _ = await get(address, "/perf_metrics")
            timing = perf[0]["perf_metrics"]["timing_metrics"]
            assert timing["arrival_time"] <= timing["first_scheduled_time"] < timing["first_token_time"]
            assert timing["first_token_time"] < timing["last_token_time"]
            assert (await get(address, "/perf_metrics"))[1] == []

    asyncio.run(go())


def test_every_answer_says_that_it_is_emulated() -> None:
    for route in ("/health", "/version", "/v1/models", "/server_info", "/health_generate", "/no_such_route"):
        status, content, headers = fetch(BASE, route)
        assert headers["X-Ratematch-Emulated"] == "1", route
        assert status == (404 if route == "/no_such_route" else 200)
        if route == "/version":
            assert content["version"].endswith("+emulated")
        if route == "/server_info":
            assert content["emulated"]["gpus"] == 1


def test_a_client_that_leaves_frees_its_slot() -> None:
    async def go() -> None:
        worker = make_worker(BASE)
        async with serving(worker) as address:
            async with aiohttp.ClientSession() as session:
                body = {**STREAM, "max_tokens": 2000}
                async with session.post(f"http://{address}/v1/completions", json=body) as answer:
                    await answer.content.readany()
                    assert worker.engine.waiting == 1
            for _ in range(100):
                if not worker.engine.waiting:
                    break
                await asyncio.sleep(0.01)
            assert worker.engine.waiting == 0
            assert worker.emulation.scheduler.num_active == 0

    asyncio.run(go())


def test_injected_faults() -> None:
    status, _ = ask(BASE, ASK, environment=with_faults(http_500=1.0))
    assert status == 500
    status, raw = ask(BASE, STREAM, environment=with_faults(truncate_stream=1.0))
    assert status == 200
    assert b"data: " in raw and b"[DONE]" not in raw and b'"completion_tokens"' not in raw


def test_a_stall_stops_the_iterations_for_a_while() -> None:
    async def go() -> None:
        worker = make_worker(BASE)
        async with serving(worker) as address:
            worker.engine.stall(0.2)
            waiting = asyncio.ensure_future(post(address, ASK))
            await asyncio.sleep(0.1)
            assert worker.emulation.scheduler.iter == 0
            assert (await waiting)[0] == 200

    asyncio.run(go())


def test_late_machines_are_not_trusted() -> None:
    assert EmulatorLag(steps=100, busy_s=10.0, behind=1, late_s=0.05).trustworthy
    assert not EmulatorLag(steps=100, busy_s=10.0, behind=1, late_s=0.5).trustworthy
    assert not EmulatorLag(steps=100, busy_s=1000.0, behind=1, lost_s=1.5).trustworthy


def test_under_attention_dp_the_log_counts_one_rank() -> None:
    config = {**BASE, "tensor_parallel_size": 2, "enable_attention_dp": True, "print_iter_log": True}

    async def go() -> str:
        worker = make_worker(config)
        async with serving(worker) as address:
            await asyncio.gather(*(post(address, {**ASK, "max_tokens": 100}) for _ in range(2)))
        return str(worker.log.stream.getvalue())  # type: ignore[attr-defined]

    scheduled = [int(n) for n in re.findall(r"num_scheduled_requests: (\d+)", asyncio.run(go()))]
    assert scheduled.count(1) >= 90 and 2 not in scheduled


def test_iteration_lines_have_the_form_of_the_version() -> None:
    async def lines(version: str) -> str:
        worker = make_worker({**BASE, "print_iter_log": True}, replace(QUICK, version=version))
        async with serving(worker) as address:
            await post(address, {**ASK, "max_tokens": 2})
        return str(worker.log.stream.getvalue())  # type: ignore[attr-defined]

    old, new = asyncio.run(lines("1.2")), asyncio.run(lines("main"))
    assert re.search(
        r"\[TRT-LLM\] \[RANK 0\] \[I\] iter = 1, global_rank = 0, rank = 0, currank_total_requests = 1/1, "
        r"host_step_time = 2ms, prev_device_step_time = N/A, timestamp = [-\d]+ [:\d]+, num_scheduled_requests: 1, "
        r"states = \{'num_ctx_requests': 1, 'num_ctx_tokens': 4, 'num_generation_tokens': 0\}\n",
        old,
    )
    assert "prev_device_step_time = 2ms" in old
    assert re.search(
        r"rank = 0, num_scheduled_requests = 1, kv_cache_util = 0\.\d{3}, currank_total_requests = 1/1, host_step",
        new,
    )


def test_the_fill_gate_waits_for_all_requests() -> None:
    async def go() -> None:
        environment = replace(QUICK, gen_only=True, fill_gate=3)
        worker = make_worker(DISAGG, environment)
        body = {**ASK, "disaggregated_params": {"request_type": "generation_only", "ctx_request_id": 1}}
        async with serving(worker) as address:
            first = [asyncio.ensure_future(post(address, body)) for _ in range(2)]
            await asyncio.sleep(0.1)
            assert worker.emulation.scheduler.iter == 0
            answers = await asyncio.gather(*first, post(address, body))
            assert [status for status, _ in answers] == [200] * 3

    asyncio.run(go())


def run_gated(gate: int, requests: int, kv_tokens: int | None = None) -> None:
    config = {**DISAGG, "kv_cache_config": {"enable_block_reuse": False, "max_tokens": kv_tokens}}
    worker = make_worker(config, replace(QUICK, gen_only=True, fill_gate=gate))

    async def go() -> None:
        for number in range(requests):
            sequence = Sequence(id=number, prompt_len=4, max_tokens=10, kind="generation_only")
            worker.engine.submit(sequence, CollectSink())
        await asyncio.wait_for(worker.engine.run(), 0.2)

    asyncio.run(go())


def test_a_gate_that_memory_keeps_shut_fails_fast() -> None:
    with pytest.raises(EngineFailure, match="Insufficient KV cache for gen-only benchmark mode"):
        run_gated(gate=4, requests=4, kv_tokens=64)


def test_a_gate_beyond_the_slots_waits_for_ever() -> None:
    with pytest.raises(asyncio.TimeoutError):
        run_gated(gate=40, requests=40)


@pytest.mark.parametrize(("version", "rows"), [("1.2", 1), ("1.3", 2), ("main", 2)])
def test_metrics_have_a_row_for_all_ranks_or_one_each(version: str, rows: int) -> None:
    config = {**BASE, "tensor_parallel_size": 2, "enable_attention_dp": True}

    async def go() -> list[dict[str, Any]]:
        worker = make_worker(config, replace(QUICK, version=version))
        async with serving(worker) as address:
            await asyncio.gather(*(post(address, {**ASK, "max_tokens": 20}) for _ in range(5)))
            return list((await get(address, "/metrics"))[1])

    told = asyncio.run(go())
    ranks = [row["attentionDpRank"] for row in told if row["iter"] == 5]
    assert ranks == list(range(rows))
    steps = {step.iter: step for step in read_iterations(json.dumps(told).encode(), 0)}
    assert max(step.active or 0 for step in steps.values()) == 5, "of the server, in either form"
    assert max(step.scheduled or 0 for step in steps.values()) == 5
    assert ("hostStepTimeMS" in told[0]) == (version != "1.2")


def test_the_log_of_1_4_counts_cached_tokens() -> None:
    async def lines(version: str) -> str:
        worker = make_worker({**BASE, "print_iter_log": True}, replace(QUICK, version=version))
        async with serving(worker) as address:
            await post(address, {**ASK, "max_tokens": 3})
        return str(worker.log.stream.getvalue())  # type: ignore[attr-defined]

    assert re.search(r"'num_generation_tokens': 1, 'cached_kv_tokens': \d+\}", asyncio.run(lines("main")))
    assert "cached_kv_tokens" not in asyncio.run(lines("1.2"))
