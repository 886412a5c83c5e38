"""What one answer said: token arrivals, usage, end. Pure: bytes and instants in, values out.

Tokens are counted from ``usage`` only, never from chunks: a chunk may hold several tokens (``stream_interval``,
speculative decoding) or none that can be shown yet (incomplete UTF-8).

A chunk *carries tokens* when its ``choices`` are not empty and one of them has

* completions: a ``text`` (also an empty one), ``token_ids`` or a ``finish_reason``;
* chat: content, reasoning or tool calls, ``token_ids``, a ``finish_reason``, or an empty content without a role.
  The role-only first chunk carries none.

The first such chunk is the first token. TensorRT-LLM's ``benchmark_serving`` takes the first chunk with ``choices``,
which is the same for completions and earlier by the role-only chunk for chat.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ratematch.loadgen.sse import split_events
from ratematch.measure.records import Outcome

_EVENTS_PER_STEP = 256


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Delta(msgspec.Struct):
    role: Any = None
    content: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    tool_calls: Any = None


class _Choice(msgspec.Struct):
    text: Any = None
    token_ids: Any = None
    finish_reason: str | None = None
    avg_decoded_tokens_per_iter: float | None = None
    delta: _Delta | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    object: Any = None
    message: Any = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


@dataclass
class Answer:
    """What was read from the body of one answer. Instants are those of the reads the bytes came in."""

    outcome: Outcome = "ok"
    error: str | None = None
    chunk_ns: list[int] = field(default_factory=list)
    isl: int | None = None
    osl: int | None = None
    cached_tokens: int | None = None
    finish_reason: str | None = None
    decoded_per_iter: float | None = None


def read_stream(body: bytes, ends: Sequence[int], stamps: Sequence[int]) -> Answer:
    """The :class:`Answer` of a streamed body. Bytes to ``ends[i]`` had come by ``stamps[i]`` (ns). Never raises."""
    steps = read_stream_steps(body, ends, stamps)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            answer: Answer = done.value
            return answer


def read_stream_steps(body: bytes, ends: Sequence[int], stamps: Sequence[int]) -> Generator[None, None, Answer]:
    """:func:`read_stream` in small steps, so that an event loop can serve its sockets in between."""
    answer = Answer()
    read, done = 0, False
    for number, (payload, end) in enumerate(split_events(body)):
        if number % _EVENTS_PER_STEP == _EVENTS_PER_STEP - 1:
            yield
        if payload == b"[DONE]":
            done = True
            break
        try:
            chunk = _decode_chunk(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
            if end == len(body):
                break  # the stream was cut inside this event
            answer.outcome, answer.error = "bad_stream", f"event {number} is no completion chunk: {problem}"
            return answer
        if chunk.usage is not None:
            _take_usage(answer, chunk.usage)
        if chunk.error is not None or chunk.object == "error":
            what = chunk.error if chunk.error is not None else chunk.message
            answer.outcome, answer.error = "bad_stream", f"the server reports in its stream: {_words(what)}"
            return answer
        choices = chunk.choices
        if choices:
            carries = False
            for choice in choices:
                if choice.finish_reason is not None or choice.avg_decoded_tokens_per_iter is not None:
                    _take_end(answer, choice)
                carries = carries or choice.text is not None or _carries_tokens(choice)
            if carries:
                while ends[read] < end:
                    read += 1
                answer.chunk_ns.append(stamps[read])
    if not done:
        answer.outcome = "truncated"
        answer.error = f"the stream ended without [DONE] after {len(answer.chunk_ns)} chunks"
    return answer


def read_whole(body: bytes) -> Answer:
    """The :class:`Answer` of a body that is one JSON object (``stream`` off): no token arrivals. Never raises."""
    answer = Answer()
    try:
        chunk = _decode_chunk(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        answer.outcome, answer.error = "bad_stream", f"the answer is no completion object: {problem}"
        return answer
    if chunk.usage is not None:
        _take_usage(answer, chunk.usage)
    if chunk.error is not None or chunk.object == "error":
        what = chunk.error if chunk.error is not None else chunk.message
        answer.outcome, answer.error = "bad_stream", f"the server reports: {_words(what)}"
    elif not chunk.choices:
        answer.outcome, answer.error = "bad_stream", "the answer has no choices"
    else:
        _take_end(answer, chunk.choices[-1])
    return answer


def _carries_tokens(choice: _Choice) -> bool:
    if choice.text is not None or choice.finish_reason is not None or choice.token_ids:
        return True
    delta = choice.delta
    if delta is None:
        return False
    if delta.content or delta.reasoning or delta.reasoning_content or delta.tool_calls:
        return True
    return delta.content is not None and delta.role is None


def _take_end(answer: Answer, choice: _Choice) -> None:
    if choice.finish_reason is not None:
        answer.finish_reason = choice.finish_reason
    if choice.avg_decoded_tokens_per_iter is not None:
        answer.decoded_per_iter = choice.avg_decoded_tokens_per_iter  # a running mean: the last one counts


def _take_usage(answer: Answer, usage: _Usage) -> None:
    # continuous_usage_stats sends one per chunk: the last one counts.
    answer.isl, answer.osl = usage.prompt_tokens, usage.completion_tokens
    if usage.prompt_tokens_details is not None:
        answer.cached_tokens = usage.prompt_tokens_details.cached_tokens


def _words(what: Any) -> str:
    if isinstance(what, dict) and "message" in what:
        what = what["message"]
    return str(what)[:300]
