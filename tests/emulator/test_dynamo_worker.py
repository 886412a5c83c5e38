"""Emulated workers of Dynamo without Dynamo: what they take, what they send, and how they hand KV caches over."""

from __future__ import annotations

import asyncio
import json
from array import array
from pathlib import Path
from typing import Any

import pytest

from ratematch.emulator.dynamo.arguments import parse
from ratematch.emulator.dynamo.command import main
from ratematch.emulator.dynamo.place import place_of, role_of
from ratematch.emulator.dynamo.requests import read_request
from ratematch.emulator.dynamo.with_trtllm import worker_config
from ratematch.emulator.errors import BadRequest, Refused, SettingsError
from ratematch.engines.dynamo.contract import flags
from tests.ports import free_port

from .dynamo_workers import QUICK, Request, Sender, ask, make, make_vllm, with_faults, working

PROMPT = list(range(100, 140))
ASK: dict[str, Any] = {"token_ids": PROMPT, "stop_conditions": {"max_tokens": 6, "ignore_eos": True}}
ENGINE = {
    "max_batch_size": 16,
    "max_num_tokens": 2048,
    "max_seq_len": 2048,
    "kv_cache_config": {"enable_block_reuse": False},
    "cache_transceiver_config": {"backend": "DEFAULT"},
}


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """Flags of a worker whose file is :data:`ENGINE`."""
    file = tmp_path / "engine.yaml"
    file.write_text(json.dumps(ENGINE))
    return {"model": "qwen3-30b-a3b", "extra-engine-args": str(file)}


def tokens(chunks: list[dict[str, Any]]) -> list[int]:
    return [token for chunk in chunks for token in chunk["token_ids"]]


def test_an_aggregated_worker_sends_each_token_once_and_the_usage_with_the_last(given: dict[str, Any]) -> None:
    async def go() -> list[dict[str, Any]]:
        worker = make("agg", given)
        async with working(w=worker):
            return await ask(worker, ASK)

    chunks = asyncio.run(go())
    assert len(tokens(chunks)) == 6
    assert [chunk.get("finish_reason") for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert chunks[-1]["completion_usage"]["prompt_tokens"] == 40
    assert chunks[-1]["completion_usage"]["completion_tokens"] == 6
    assert "disaggregated_params" not in chunks[-1]


def test_without_a_sender_the_chunks_are_yielded(given: dict[str, Any]) -> None:
    async def go() -> list[dict[str, Any]]:
        worker = make("agg", given)
        async with working(w=worker):
            return [chunk async for chunk in worker.generate(ASK, Request())]

    assert len(tokens(asyncio.run(go()))) == 6


def test_prefill_hands_its_cache_to_decode_which_answers_in_whole(given: dict[str, Any]) -> None:
    async def go() -> tuple[Any, Any, int, int, str]:
        prefill, decode = make("prefill", given), make("decode", {**given, "publish-metrics": True})
        async with working(p=prefill, d=decode):
            first = await ask(prefill, {**ASK, "stop_conditions": {"max_tokens": 1}})
            held = prefill.backend.num_held()
            handed = {"prefill_result": {"disaggregated_params": first[-1]["disaggregated_params"]}}
            rest = await ask(decode, {**ASK, **handed})
            await asyncio.sleep(0.05)
            return first, rest, held, prefill.backend.num_held(), decode.metrics()

    first, rest, held, left, metrics = asyncio.run(go())
    assert len(tokens(first)) == 1 and len(tokens(rest)) == 6
    assert (held, left) == (1, 0)
    assert tokens(rest)[0] == tokens(first)[0], "both halves agree on the first token"
    assert 'ratematch_emulated{version="1.6.1"} 1' in metrics
    assert "trtllm_kv_transfer_success_total" in metrics and "trtllm_e2e_request_latency_seconds_count" in metrics


def test_a_cache_is_fetched_once_and_only_from_who_holds_it(given: dict[str, Any]) -> None:
    async def go() -> list[str]:
        prefill, decode = make("prefill", given), make("decode", given)
        async with working(p=prefill, d=decode):
            first = await ask(prefill, ASK)
            params = first[-1]["disaggregated_params"]
            asked = {**ASK, "prefill_result": {"disaggregated_params": params}}
            await ask(decode, asked)
            errors = []
            with pytest.raises(RuntimeError) as again:
                await ask(decode, asked)
            errors.append(str(again.value))
            prefill.backend.own_name = "gone"
            params = (await ask(prefill, ASK))[-1]["disaggregated_params"]
            with pytest.raises(RuntimeError) as gone:
                await ask(decode, {**ASK, "prefill_result": {"disaggregated_params": params}})
            return [*errors, str(gone.value)]

    again, gone = asyncio.run(go())
    assert "is no longer held by p" in again
    assert "KV cache transfer from gone failed" in gone


def test_decode_without_a_hand_over_and_too_long_a_prompt_are_refused(given: dict[str, Any]) -> None:
    async def go() -> None:
        decode, whole = make("decode", given), make("agg", given)
        async with working(d=decode, w=whole):
            with pytest.raises(Refused, match="required for decode mode"):
                await ask(decode, ASK)
            with pytest.raises(Refused, match="must be less than max_seq_len"):
                await ask(whole, {"token_ids": [1] * 2048})
            cut = await ask(whole, {"token_ids": [1] * 2040, "stop_conditions": {"max_tokens": 100}})
            assert cut[-1]["completion_usage"]["completion_tokens"] == 8

    asyncio.run(go())


def test_a_client_that_goes_away_leaves_nothing_behind(given: dict[str, Any]) -> None:
    async def go() -> tuple[int, bool]:
        worker, context, sender = make("agg", given), Request(), Sender()
        async with working(w=worker):
            long = {**ASK, "stop_conditions": {"max_tokens": 1500}}
            running = asyncio.ensure_future(_through(worker.generate(long, context, response_sender=sender)))
            while not sender.chunks:
                await asyncio.sleep(0.001)
            context.leave()
            await running
            return worker.engine.waiting, any("finish_reason" in chunk for chunk in sender.chunks)

    assert asyncio.run(go()) == (0, False)


async def _through(chunks: Any) -> None:
    async for _ in chunks:
        pass


def test_injected_faults_hit_requests(given: dict[str, Any]) -> None:
    async def go() -> None:
        failing = make("agg", given, with_faults(http_500=1.0))
        cutting = make("agg", given, with_faults(truncate_stream=1.0))
        async with working(f=failing, c=cutting):
            with pytest.raises(RuntimeError, match="injected fault"):
                await ask(failing, ASK)
            chunks = await ask(cutting, ASK)
            assert len(tokens(chunks)) >= 3 and "finish_reason" not in chunks[-1]

    asyncio.run(go())


def test_vllm_workers_hand_over_through_their_side_channels() -> None:
    words = ["--model", "llama-3.3-70b", "--tensor-parallel-size", "4", "--max-model-len", "4096"]
    words += ["--kv-transfer-config", '{"kv_connector":"NixlConnector","kv_role":"kv_both"}']

    async def go() -> list[Any]:
        prefill = make_vllm("prefill", words, free_port())
        decode = make_vllm("decode", words, free_port())
        async with working(p=prefill, d=decode):
            first = await ask(prefill, ASK)
            params = first[-1]["disaggregated_params"]
            assert params["kv_transfer_params"]["do_remote_prefill"] is True
            rest = await ask(decode, {**ASK, "prefill_result": {"disaggregated_params": params}})
            with pytest.raises(Refused, match="no kv_transfer_params"):
                await ask(decode, ASK)
            return rest

    rest = asyncio.run(go())
    assert len(tokens(rest)) == 6


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ({}, "no token_ids"),
        ({"token_ids": []}, "empty"),
        ({"token_ids": "12"}, "no token_ids"),
        ({"token_ids": [1], "stop_conditions": {"max_tokens": 0}}, "greater than 0"),
        ({"token_ids": [1], "stop_conditions": {"max_tokens": "9"}}, "greater than 0"),
    ],
)
def test_requests_that_are_none(request_: dict[str, Any], why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        read_request(request_)


def test_token_ids_may_come_packed() -> None:
    packed = array("i", [5, 70000, 3]).tobytes()
    assert read_request({"token_ids": packed, "stop_conditions": None}).prompt_ids == (5, 70000, 3)


# ------------------------------------------------------------------------------------------- flags


RULES = flags("trtllm", "1.6")


def test_flags_are_read_as_the_real_worker_reads_them() -> None:
    words = ["--model", "m", "--tensor-parallel-size", "8", "--publish-metrics", "--no-enable-attention-dp"]
    given, others = parse("dynamo.trtllm", words, RULES, {"DYN_TRTLLM_MAX_BATCH_SIZE": "32", "DYN_NAMESPACE": "n"})
    assert given["tensor-parallel-size"] == 8 and given["publish-metrics"] is True
    assert given["enable-attention-dp"] is False and given["max-batch-size"] == 32 and given["namespace"] == "n"
    assert others == []
    typed, _ = parse("dynamo.trtllm", ["--max-batch-size", "4"], RULES, {"DYN_TRTLLM_MAX_BATCH_SIZE": "32"})
    assert typed["max-batch-size"] == 4, "what is typed wins"
    assert parse("dynamo.trtllm", ["--tp", "8"], RULES, {})[1] == ["--tp", "8"]


@pytest.mark.parametrize(
    ("words", "variables", "why"),
    [
        (["--max-batch-size", "many"], {}, "invalid int value"),
        (["--disaggregation-mode", "both"], {}, "invalid choice"),
        (["--request-plane", "http"], {}, "invalid choice"),
        ([], {"DYN_TRTLLM_MAX_BATCH_SIZE": "many"}, "invalid int value"),
        ([], {"DYN_TRTLLM_PUBLISH_METRICS": "perhaps"}, "invalid bool value"),
    ],
)
def test_values_that_no_flag_takes(words: list[str], variables: dict[str, str], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        parse("dynamo.trtllm", words, RULES, variables)


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--model", "deepseek-r1", "--tp", "8"], "Unrecognized argument: --tp"),
        (["--model", "deepseek-r1", "--disaggregation-mode", "encode"], "encode is not emulated"),
        (["--tensor-parallel-size", "8"], "--model is not given"),
        (["--model", "nobody-knows-this"], "nobody-knows-this"),
        (["dynamo.sglang", "--model", "deepseek-r1"], "dynamo.sglang is not emulated"),
        (["dynamo.vllm", "--model", "llama-3.3-70b", "--disaggregation-mode", "prefill"], "--kv-transfer-config"),
    ],
)
def test_command_lines_that_do_not_start_are_refused_in_one_line(argv: list[str], why: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert why in str(ended.value) and "Traceback" not in str(ended.value)


def test_the_file_wins_over_flags_and_the_override_over_both(given: dict[str, Any]) -> None:
    more = {"max-batch-size": 99, "override-engine-args": '{"kv_cache_config": {"tokens_per_block": 64}}'}
    settings = worker_config({**given, **more}, QUICK, {})
    assert settings.max_batch_size == 16
    assert settings.tokens_per_block == 64 and settings.block_reuse is False
    with pytest.raises(SettingsError, match="no JSON"):
        worker_config({**given, "override-engine-args": "{"}, QUICK, {})


def test_where_a_worker_registers() -> None:
    place = place_of({"namespace": "n", "discovery-backend": "file", "model": "deepseek-r1"}, {}, "prefill")
    assert (place.namespace, place.component, place.endpoint) == ("n", "prefill", "generate")
    assert (place.backend, place.request, place.path) == ("file", "tcp", None)
    place = place_of({"endpoint": "dyn://a.b.c"}, {}, "backend")
    assert (place.namespace, place.component, place.endpoint) == ("a", "b", "c")
    with pytest.raises(SettingsError, match="Invalid endpoint format"):
        place_of({"endpoint": "a.b"}, {}, "backend")


def test_what_a_worker_does_by_its_flags() -> None:
    assert role_of({}) == role_of({"disaggregation-mode": "pd"}) == "agg"
    assert role_of({"disaggregation-mode": "decode"}) == role_of({"is-decode-worker": True}) == "decode"
    assert role_of({"is-prefill-worker": True}) == "prefill"
