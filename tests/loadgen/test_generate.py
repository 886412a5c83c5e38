"""Triton's ``generate_stream``: what its answers say, and what ends a request that nobody ends."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratematch.errors import UserError
from ratematch.loadgen import LoadControl, Target, drive
from ratematch.loadgen.answer import Answer
from ratematch.loadgen.client import encode_body, request_url
from ratematch.loadgen.generate import read_generate_steps
from ratematch.loadgen.options import LoadOptions
from ratematch.plan.load import Concurrency
from ratematch.plan.requestapi import Api
from ratematch.plan.workload import RequestSpec, Workload, make_requests

from .sse_server import Reply, serve


def event(**content: object) -> bytes:
    return b"data: " + json.dumps({"model_name": "m", "model_version": "1", **content}).encode() + b"\n\n"


def word(text: str = " w", **more: object) -> bytes:
    return event(text_output=text, sequence_id=0, **more)


def read(*events: bytes, osl: int) -> Answer:
    """Every event in a read of its own, at 10, 20, 30 ... ns."""
    ends = [sum(map(len, events[: k + 1])) for k in range(len(events))]
    steps = read_generate_steps(b"".join(events), ends, [10 * (k + 1) for k in range(len(events))], osl)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            answer: Answer = done.value
            return answer


def test_one_token_a_response_and_as_many_as_were_requested() -> None:
    answer = read(word(), word(""), word(), osl=3)
    assert (answer.outcome, answer.error, answer.osl, answer.chunk_ns) == ("ok", None, 3, [10, 20, 30])
    assert answer.later_tokens == 2 and answer.isl is None and answer.finish_reason is None


def test_the_servers_own_count_comes_before_all_others() -> None:
    drafts = [word(num_output_tokens=count, num_input_tokens=7) for count in (1, 3, 2)]
    answer = read(*drafts, osl=6)
    assert (answer.outcome, answer.osl, answer.isl, answer.later_tokens) == ("ok", 6, 7, 5)
    lists = read(event(output_ids=[4, 5, 6], num_output_tokens=[3], num_input_tokens=[9]), osl=3)
    assert (lists.outcome, lists.osl, lists.isl, lists.later_tokens) == ("ok", 3, 9, 0)


def test_ids_are_counted_where_the_server_counts_nothing() -> None:
    answer = read(event(output_ids=[0, 1], sequence_length=2), event(output_ids=2), event(output_ids=[3]), osl=4)
    assert (answer.outcome, answer.osl, answer.chunk_ns) == ("ok", 4, [10, 20, 30])


def test_an_end_too_early_is_a_cut_though_nothing_else_shows_it() -> None:
    answer = read(word(), word(), osl=300)
    assert answer.outcome == "truncated" and answer.osl == 2
    assert answer.error is not None and answer.error.startswith("the stream ended after 2 of 300 tokens")
    assert read(osl=1).outcome == "truncated"
    assert read(word(), word()[:-9], osl=2).outcome == "truncated", "cut inside a response"


def test_a_token_too_many_is_no_success_either() -> None:
    answer = read(word(), word(), osl=1)
    assert answer.outcome == "bad_stream" and "2 tokens came, and 1 were asked for" in (answer.error or "")


@pytest.mark.parametrize("before", [0, 2])
def test_an_error_field_is_a_failure_whatever_came_before(before: int) -> None:
    answer = read(*[word()] * before, event(error="in ensemble 'ensemble', it failed"), osl=before or 1)
    assert answer.outcome == "bad_stream"
    where = f"after {before} of {before} tokens" if before else "before the first token"
    assert answer.error == f"the server reports {where}: in ensemble 'ensemble', it failed"
    assert answer.chunk_ns == [10, 20][:before]


def test_an_error_in_one_object_with_http_200_is_a_failure() -> None:
    body = b'{"error":"generate expects model to produce exactly 1 response, use generate stream"}'
    assert "exactly 1 response" in (read(body, osl=4).error or "")
    whole = read(b'{"text_output":"a b c d","model_name":"m"}', osl=1)
    assert whole.outcome == "bad_stream" and "decoupled" in (whole.error or "")


@pytest.mark.parametrize(
    "content", ['{"num_output_tokens": -1}', '{"num_output_tokens": 1.5}', '{"output_ids": [[1, 2]]}', "[1]", "hello"]
)
def test_what_is_no_response_is_said(content: str) -> None:
    answer = read(word(), b"data: " + content.encode() + b"\n\n", word(), osl=3)
    assert answer.outcome == "bad_stream" and (answer.error or "").startswith("response 2 is none of generate_stream")


def test_an_empty_last_response_is_no_token() -> None:
    assert read(word(), event(triton_final_response=True), osl=1).outcome == "ok"


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4), st.integers(1, 5))
def test_no_bytes_raise(body: bytes, cuts: list[int], osl: int) -> None:
    ends = [*sorted(min(cut, len(body)) for cut in cuts), len(body)]
    for _ in read_generate_steps(body, ends, list(range(len(ends))), osl):
        pass


# -------------------------------------------------------------------------------------------------- requests


SPEC = RequestSpec(0, np.array([5, 6, 7], np.int32), 9)


def body(api: Api, spec: RequestSpec = SPEC, **extra: Any) -> dict[str, Any]:
    content: dict[str, Any] = msgspec.json.decode(encode_body(Target("h:1", "model", api, extra_body=extra), spec))
    return content


def test_bodies_have_no_field_of_openai() -> None:
    counts = {"return_num_input_tokens": True, "return_num_output_tokens": True}
    ids = {"input_ids": [5, 6, 7], "input_lengths": 3, "request_output_len": 9, "min_tokens": 9, "streaming": True}
    assert body("generate-ids") == ids | counts
    text = {"text_input": "w5 w6 w7", "max_tokens": 9, "min_tokens": 9, "stream": True}
    assert body("generate") == text | counts
    assert body("generate", RequestSpec(0, SPEC.prompt, 9, text="Hello"))["text_input"] == "Hello"
    assert body("generate-ids", end_id=-1, min_tokens=None) == {k: v for k, v in ids.items() if k != "min_tokens"} | {
        **counts,
        "end_id": -1,
    }


def test_the_model_is_in_the_path() -> None:
    assert request_url(Target("h:8000", "ensemble", "generate")) == "http://h:8000/v2/models/ensemble/generate_stream"
    with pytest.raises(UserError, match="the name of a model in the server's repository"):
        request_url(Target("h:8000", "/models/llama", "generate"))


def test_what_the_api_has_no_field_for_is_refused() -> None:
    with pytest.raises(UserError, match="--api chat"):
        body("generate", RequestSpec(0, SPEC.prompt, 9, chat='{"messages": []}'))
    with pytest.raises(UserError, match="--api generate"):
        body("generate-ids", RequestSpec(0, SPEC.prompt, 9, text="Hello"))
    with pytest.raises(UserError, match="has streams only"):
        LoadOptions("h:1", "m", api="generate", stream=False).target()


def test_requests_without_a_stream_are_those_of_openai_only() -> None:
    assert Target("h", "m").unstreamed().extra_body == {"stream": False, "stream_options": None}
    assert Target("h", "m", "generate-ids").unstreamed().extra_body == {}


# ------------------------------------------------------------------------------------- a server that hangs


async def never(reply: Reply) -> None:
    await asyncio.sleep(30)


async def two_tokens_and_nothing(reply: Reply) -> None:
    await reply.head()
    await reply.chunk(word() + word())
    await asyncio.sleep(30)


async def whole(reply: Reply) -> None:
    await reply.head()
    await reply.chunk(word() * 4)
    await reply.end()


REQUESTS = make_requests(Workload(8, 4), 2, 32000, 0)


@pytest.mark.parametrize(("behaviour", "reads"), [(never, 0), (two_tokens_and_nothing, 1)])
def test_silence_ends_a_request_before_its_first_byte_too(behaviour: Any, reads: int) -> None:
    """A stub of Triton's that died neither answers nor closes: without a limit the load would never end."""
    with serve(behaviour) as (url, _):
        target = Target(url, "m", "generate", stall_s=0.3)
        result = drive(target, Concurrency(2, 2), REQUESTS, control=LoadControl())
    assert [record.outcome for record in result.records] == ["timeout", "timeout"]
    assert all("stalled: no bytes for 0.3 s" in str(record.error) for record in result.records)
    assert all(len(record.chunk_ns) == (2 if reads else 0) for record in result.records)


def test_the_limit_is_always_on() -> None:
    assert Target("h", "m", "generate", stall_s=None).idle_s == 300.0
    assert Target("h", "m", stall_s=None).idle_s is None


def test_a_whole_load_through_the_live_view() -> None:
    progress = []
    with serve(whole) as (url, seen):
        control = LoadControl(on_progress=progress.append)
        result = drive(Target(url, "m", "generate-ids"), Concurrency(1, 2), REQUESTS, control=control)
    assert [(record.outcome, record.osl) for record in result.records] == [("ok", 4), ("ok", 4)]
    assert (progress[-1].done, progress[-1].failed, progress[-1].tokens) == (2, 0, 8)
    assert set(seen.paths) == {"/v2/models/m/generate_stream"}


# ------------------------------------------------------------------------------------- the OpenAI frontend


async def openai_frontend(reply: Reply) -> None:
    """As Triton's frontend streams a chat: finish_reason is always stop, usage comes in a chunk of its own."""
    head = {"id": "cmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "tensorrt_llm"}
    choice = {"index": 0, "logprobs": None, "finish_reason": None}
    await reply.head()
    for delta in ({"role": "assistant", "content": ""}, *({"content": " w"} for _ in range(4))):
        await reply.chunk(
            b"data: " + json.dumps({**head, "choices": [{**choice, "delta": delta}]}).encode() + b"\n\n"
        )
    last = {**head, "choices": [{**choice, "delta": {"content": ""}, "finish_reason": "stop"}]}
    usage = {**head, "choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 4, "total_tokens": 12}}
    for content in (last, usage):
        await reply.chunk(b"data: " + json.dumps(content).encode() + b"\n\n")
    await reply.chunk(b"data: [DONE]\n\n")
    await reply.end()


def test_tritons_openai_frontend_is_measured_as_any_other_chat_server() -> None:
    with serve(openai_frontend) as (url, seen):
        target = Target(url, "tensorrt_llm", "chat", extra_body={"ignore_eos": None})
        result = drive(target, Concurrency(1, 2), REQUESTS)
    assert [(record.outcome, record.osl, record.isl_reported) for record in result.records] == [("ok", 4, 8)] * 2
    assert all(record.finish_reason == "stop" and len(record.chunk_ns) == 4 for record in result.records)
    assert "ignore_eos" not in seen.bodies[0]
