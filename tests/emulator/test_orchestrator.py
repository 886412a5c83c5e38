"""The orchestrator in front of real emulated workers, inside the test's loop."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from ratematch.emulator.trtllm.orchestrator_settings import orchestrator_settings
from ratematch.emulator.trtllm.routers import Conversation, KvCacheAware, LoadBalancing, RoundRobin, Routed

from .servers import DISAGG, QUICK, get, make_worker, orchestrating, post, serving
from .test_worker import ASK, STREAM, events, words


class Cluster:
    """One context and ``gens`` generation workers behind an orchestrator."""

    def __init__(self, gens: int = 1, ctx: bool = True, gen_config: dict[str, Any] | None = None, **environment: Any):
        self.environment = replace(QUICK, **environment)
        self.ctx = make_worker(DISAGG, self.environment) if ctx else None
        self.gens = [make_worker(gen_config or DISAGG, self.environment) for _ in range(gens)]
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> str:
        enter = self._stack.enter_async_context
        ctx = [await enter(serving(self.ctx))] if self.ctx else []
        gen = [await enter(serving(worker)) for worker in self.gens]
        return await enter(orchestrating(ctx, gen, self.environment))

    async def __aexit__(self, *problem: object) -> None:
        await self._stack.aclose()


def test_a_split_request_streams_as_one_server_would() -> None:
    async def go() -> None:
        cluster = Cluster()
        async with cluster as address:
            status, raw = await post(address, STREAM)
            chunks = events(raw)
            assert status == 200
            assert sum(words(chunks)) == chunks[-1]["usage"]["completion_tokens"] == 10
            assert chunks[-1]["usage"]["prompt_tokens"] == 4
            assert cluster.ctx is not None
            assert cluster.ctx.emulation.scheduler.num_completed == 1
            await asyncio.sleep(0.02)
            assert cluster.ctx.emulation.scheduler.num_held == 0, "the cache was released after the transfer"
            assert cluster.gens[0].emulation.scheduler.num_completed == 1
            _, alone = await post(address, {**ASK, "detokenize": False})
        async with serving(make_worker(DISAGG)) as single:
            _, whole = await post(single, {**ASK, "detokenize": False})
        assert json.loads(alone)["choices"][0]["token_ids"] == json.loads(whole)["choices"][0]["token_ids"]

    asyncio.run(go())


def test_one_output_token_still_hops_to_the_generation_server() -> None:
    async def go() -> None:
        cluster = Cluster()
        async with cluster as address:
            status, raw = await post(address, {**STREAM, "max_tokens": 1})
            assert status == 200
            assert words(events(raw)) == [1]
            assert cluster.gens[0].emulation.scheduler.num_completed == 1

    asyncio.run(go())


def test_chat_is_split_as_well() -> None:
    async def go() -> None:
        async with Cluster() as address:
            body = {"model": "m", "messages": [{"role": "user", "content": "a b c"}], "max_tokens": 6}
            status, raw = await post(address, body, "/v1/chat/completions")
            answer = json.loads(raw)
            assert status == 200
            assert answer["object"] == "chat.completion"
            assert answer["usage"]["prompt_tokens"] == 4 and answer["usage"]["completion_tokens"] == 6

    asyncio.run(go())


def test_generation_waits_for_the_transfer() -> None:
    async def go() -> None:
        cluster = Cluster()
        worker = cluster.gens[0]
        worker.emulation = replace(worker.emulation, transfer_s=lambda tokens: 0.1)
        async with cluster as address:
            await post(address, ASK)
            _, records, _ = await get(address, "/perf_metrics")
            timing = records[0]["gen_perf_metrics"]["perf_metrics"]["timing_metrics"]
            assert timing["kv_cache_transfer_end"] - timing["kv_cache_transfer_start"] == pytest.approx(0.1)
            assert timing["first_scheduled_time"] >= timing["kv_cache_transfer_end"]

    asyncio.run(go())


def test_gen_only_invents_the_context() -> None:
    async def go() -> None:
        cluster = Cluster(ctx=False, gen_only=True)
        async with cluster as address:
            answers = await asyncio.gather(*(post(address, STREAM) for _ in range(3)))
            for status, raw in answers:
                assert status == 200
                assert sum(words(events(raw))) == 10
            assert cluster.gens[0].emulation.scheduler.num_completed == 3

    asyncio.run(go())


def test_routes_of_the_orchestrator() -> None:
    async def go() -> None:
        async with Cluster() as address:
            assert (await get(address, "/health"))[0] == 200
            assert (await get(address, "/cluster_info"))[1]["is_ready"] is True
            assert (await get(address, "/version"))[2]["X-Ratematch-Emulated"] == "1"
            assert (await get(address, "/v1/models"))[0] == 404
            assert (await get(address, "/metrics"))[0] == 404
            await post(address, STREAM)
            text = (await get(address, "/prometheus/metrics"))[1]
            assert "ctx_completed_requests 1\n" in text and "stream_requests 1\n" in text

    asyncio.run(go())


def test_perf_records_are_joined_and_drained() -> None:
    async def go() -> None:
        async with Cluster(gens=2) as address:
            await asyncio.gather(*(post(address, ASK) for _ in range(4)))
            _, records, _ = await get(address, "/perf_metrics")
            assert len(records) == 4
            for record in records:
                ctx, gen = record["ctx_perf_metrics"], record["gen_perf_metrics"]
                assert ctx["ctx_request_id"] == gen["ctx_request_id"] >= 1 << 40
                assert record["disagg_server_arrival_time"] < record["disagg_server_first_token_time"]
                ctx_first = ctx["perf_metrics"]["timing_metrics"]["first_token_time"]
                # Clocks are aligned to within a round trip, which takes long on a busy machine.
                assert ctx_first <= gen["perf_metrics"]["timing_metrics"]["arrival_time"] + 0.1
            assert len({record["gen_server"] for record in records}) == 2, "round robin uses both"
            assert (await get(address, "/perf_metrics"))[1] == []

    asyncio.run(go())


@pytest.mark.parametrize(("version", "retries", "passed_on"), [("1.2", 1, 500), ("1.3", 0, 500), ("main", 0, 400)])
def test_a_refusal_of_a_worker_becomes_status_500_or_late_is_passed_on(
    version: str, retries: int, passed_on: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ratematch.emulator.trtllm.orchestrator.RETRY_PAUSE_S", 0.01)

    async def go() -> None:
        async with Cluster(version=version) as address:
            status, raw = await post(address, {**ASK, "prompt": list(range(1500))})
            detail = json.loads(raw)["detail"]
            assert status == passed_on
            assert "should not exceed max_num_tokens" in detail
            assert detail.startswith("Internal server error") == (passed_on == 500)
            assert ("http://" in detail) == (passed_on == 500), "late, only what the worker says"
            assert f"ctx_retry_requests {retries}\n" in (await get(address, "/prometheus/metrics"))[1]

    asyncio.run(go())


def test_a_batch_of_prompts_is_refused() -> None:
    async def go() -> None:
        async with Cluster() as address:
            status, raw = await post(address, {**ASK, "prompt": ["a", "b"]})
            assert status == 400
            assert "only supports single string prompt" in json.loads(raw)["error"]

    asyncio.run(go())


def test_a_dead_worker_is_retried_then_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratematch.emulator.trtllm.orchestrator.RETRY_PAUSE_S", 0.01)

    async def go() -> None:
        async with AsyncExitStack() as stack:
            ctx = await stack.enter_async_context(serving(make_worker(DISAGG)))
            async with AsyncExitStack() as short:
                gen = await short.enter_async_context(serving(make_worker(DISAGG)))
                address = await stack.enter_async_context(orchestrating([ctx], [gen]))
            status, raw = await post(address, ASK)
            assert status == 500
            assert json.loads(raw)["detail"].startswith("Internal server error Client error to http://" + gen)
            text = (await get(address, "/prometheus/metrics"))[1]
            assert "gen_retry_requests 1\n" in text and "gen_error_requests 1\n" in text
            assert (await get(address, "/health"))[0] == 200, "a dead worker is not seen"

    asyncio.run(go())


def test_a_cache_that_is_gone_ends_the_stream_without_done() -> None:
    async def go() -> None:
        cluster = Cluster()
        async with cluster as address:
            assert cluster.ctx is not None
            cluster.ctx.holds.hold = lambda request_id, sequence_id: None  # type: ignore[method-assign]
            status, raw = await post(address, STREAM)
            assert status == 200
            assert b"[DONE]" not in raw and b"usage" not in raw

    asyncio.run(go())


@pytest.mark.parametrize("version", ["1.2", "main"])
def test_a_client_that_leaves_is_cancelled_on_the_worker(version: str) -> None:
    async def go() -> None:
        cluster = Cluster(version=version)
        async with cluster as address:
            async with aiohttp.ClientSession() as session:
                body = {**STREAM, "max_tokens": 1900}
                async with session.post(f"http://{address}/v1/completions", json=body) as answer:
                    await answer.content.readany()
            for _ in range(100):
                if not cluster.gens[0].engine.waiting:
                    break
                await asyncio.sleep(0.01)
            assert cluster.gens[0].emulation.scheduler.num_active == 0
            text = (await get(address, "/prometheus/metrics"))[1]
            assert f"http_exceptions {int(version == 'main')}\n" in text, "late, one more 499"

    asyncio.run(go())


def test_missing_workers_time_out() -> None:
    from ratematch.emulator.trtllm.logs import Log
    from ratematch.emulator.trtllm.orchestrator import Orchestrator
    from tests.ports import free_ports

    config = {"context_servers": {"urls": [f"127.0.0.1:{free_ports(1)[0]}"]}}
    settings = orchestrator_settings(config, QUICK, start_timeout_s=0, request_timeout_s=5)
    with pytest.raises(TimeoutError, match="Timeout waiting for context and generation servers to be ready"):
        asyncio.run(Orchestrator(settings, QUICK, Log("error")).start())


# ------------------------------------------------------------------------------------------------ routers


def test_round_robin_takes_turns() -> None:
    router = RoundRobin(3)
    assert [router.choose(Routed()) for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_load_balancing_takes_the_least_loaded() -> None:
    router = LoadBalancing(2)
    assert [router.choose(Routed()) for _ in range(3)] == [0, 1, 0]
    router.finish(0, Routed())
    router.finish(0, Routed())
    assert router.choose(Routed()) == 0
    by_tokens = LoadBalancing(2, use_tokens=True)
    big, small = Routed(tuple(range(100))), Routed((1, 2))
    assert [by_tokens.choose(asked) for asked in (big, small, small)] == [0, 1, 1]
    with pytest.raises(ValueError, match="use_tokens"):
        by_tokens.choose(Routed(chat=True))


def test_kv_aware_routing_returns_to_the_same_prefix() -> None:
    router = KvCacheAware(2, max_batch_size=64, tokens_per_block=4)
    one, two = Routed(tuple(range(16))), Routed(tuple(range(100, 116)))
    homes = [router.choose(one), router.choose(two)]
    assert homes == [0, 1]
    assert router.choose(Routed((*one.prompt_ids, 1, 2, 3, 4))) == 0
    assert router.choose(Routed((*two.prompt_ids, 1, 2, 3, 4))) == 1


def test_conversations_are_sticky() -> None:
    router = Conversation(3)
    assert [router.choose(Routed(conversation=name)) for name in ("a", "b", "c", "b", "a")] == [0, 1, 2, 1, 0]
