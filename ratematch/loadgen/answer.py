"""What one answer said: token arrivals, usage, end. Pure: bytes and instants in, values out.

Tokens are counted from ``usage`` only, never from chunks: a chunk may hold several tokens (``stream_interval``,
speculative decoding) or none that can be shown yet (incomplete UTF-8).

A chunk *may carry tokens* when its ``choices`` are not empty and one of them has

* completions: a ``text`` (also an empty one), ``token_ids`` or a ``finish_reason``;
* chat: content, reasoning, tool or function calls, a refusal, ``token_ids``, a ``finish_reason``, or an empty content
  without a role. The role-only first chunk carries none.

It may too when the usage in it counts more tokens than before. Which of these carried the first and the last token is
decided at the end, by :mod:`ratematch.loadgen.tokentimes`. TensorRT-LLM's ``benchmark_serving`` takes the first chunk
with ``choices``, which is the same for completions and earlier by the role-only chunk for chat.

Keep-alives that were put into ``data`` (``data: : ping``) are taken for what they stand for.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import msgspec

from ratematch.loadgen.chunk import (
    Choice,
    Chunk,
    Usage,
    decode_chunk,
    error_words,
    is_plain,
    kind_of_choice,
    reported_error,
    shows_reasoning,
    tokens_per_step,
    unknown_fields,
    whole_number,
)
from ratematch.loadgen.servertimes import end_of_answer
from ratematch.loadgen.sse import read_names, split_events
from ratematch.loadgen.tokentimes import TEXT, Chunks, time_tokens
from ratematch.measure.records import CONTRADICTS, UNKNOWN_FIELDS, Outcome

_EVENTS_PER_STEP = 256

_KEEP_ALIVE = re.compile(rb":.*|null|\[?(?:ping|keep-?alive|heartbeat|processing)\]?", re.IGNORECASE | re.DOTALL)
"""Data of events that stand for a comment line."""

_MOST_FIELDS = 3
_REASON = 100
"""Characters of a finish reason that are kept."""


@dataclass
class Answer:
    """What was read from the body of one answer. Instants are those of the reads the bytes came in.

    ``chunk_ns`` and the four last: see the fields of :class:`ratematch.measure.records.RequestRecord`.
    """

    outcome: Outcome = "ok"
    error: str | None = None
    chunk_ns: list[int] = field(default_factory=list)
    isl: int | None = None
    osl: int | None = None
    cached_tokens: int | None = None
    finish_reason: str | None = None
    decoded_per_iter: float | None = None
    later_tokens: int | None = None
    other_first_ns: int | None = None
    other_last_ns: int | None = None
    stream_note: str | None = None


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
    stream = _Stream(body)
    chunks, answer = stream.chunks, stream.answer
    error_end = len(body) + 1 if stream.names.error_end is None else stream.names.error_end
    read, done = 0, False
    for number, (payload, end) in enumerate(split_events(body)):
        if number % _EVENTS_PER_STEP == _EVENTS_PER_STEP - 1:
            yield
        if end >= error_end:
            break
        if payload == b"[DONE]":
            done = True
            break
        try:
            chunk = decode_chunk(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as refusal:
            if end in stream.names.named or _KEEP_ALIVE.fullmatch(payload):
                continue
            if end == len(body):
                break  # the stream was cut inside this event
            return stream.fail(f"event {number} is no completion chunk: {refusal}")
        while ends[read] < end:
            read += 1
        if is_plain(chunk):
            chunks.stamps.append(stamps[read])
            chunks.kinds.append(TEXT)
        elif (problem := stream.take(chunk, payload, end, stamps[read])) is not None:
            return stream.fail(problem)
    if not done and stream.names.error_end is not None:
        return stream.fail(f"the server reports in its stream: {error_words(stream.names)}")
    if not done:
        answer.outcome = "truncated"
        answer.error = f"the stream ended without [DONE] after {len(chunks.stamps)} chunks"
    stream.finish()
    return answer


class _Stream:
    """A body while it is read: what is known of its events, and what they gave so far."""

    def __init__(self, body: bytes) -> None:
        # What is named behind the answer's end is no part of it, and may be long.
        self.answer, self.chunks, self.names = Answer(), Chunks(), read_names(body[: end_of_answer(body)])
        self._last_alone = self._in_chunks = False

    def take(self, chunk: Chunk, payload: bytes, end: int, stamp: int) -> str | None:
        """Keep what an event says, known since ``stamp``; what is wrong with it, in words."""
        answer, chunks, choices = self.answer, self.chunks, chunk.choices
        if chunk.usage is not None and (problem := _take_usage(answer, chunks, chunk.usage)):
            return problem
        counted = chunk.usage is not None and answer.osl is not None
        if choices:
            try:
                kind = _kind_of(answer, choices)
            except ValueError as number:
                return str(number)
            chunks.reasoned = chunks.reasoned or any(shows_reasoning(choice) for choice in choices)
            if kind or (counted and _has_grown(answer, chunks)):
                chunks.stamps.append(stamp)
                chunks.kinds.append(kind)
                if choices[0].token_ids or chunks.ids:
                    _take_ids(chunks, choices)
            elif end not in self.names.named:
                try:
                    _note_unknown(chunks, payload, stamp)
                except (msgspec.MsgspecError, RecursionError) as refusal:  # in fields that were passed over before
                    return f"a chunk that is no JSON: {refusal}"
        if counted:
            chunks.counts.append((len(chunks.stamps), answer.osl or 0))
            self._last_alone = not choices
            self._in_chunks = self._in_chunks or bool(choices)
        if end in self.names.named:
            return None
        what = reported_error(chunk)
        return None if what is None else f"the server reports in its stream: {what}"

    def fail(self, error: str) -> Answer:
        answer = self.answer
        answer.outcome, answer.error, answer.chunk_ns = "bad_stream", error, self.chunks.stamps
        return answer

    def finish(self) -> None:
        """Decide when tokens came; the body has been read."""
        if self._last_alone and (self._in_chunks or len(self.chunks.counts) == 1):
            self.chunks.counts.pop()  # the total, not a count on the way
        _take_times(self.answer, self.chunks)


def _take_times(answer: Answer, chunks: Chunks) -> None:
    times = time_tokens(chunks, answer.osl)
    answer.chunk_ns, answer.later_tokens = times.stamps, times.later
    answer.other_first_ns, answer.other_last_ns = times.other_first_ns, times.other_last_ns
    if times.contradiction is not None:
        answer.stream_note = f"{CONTRADICTS}: {times.contradiction}"
    if chunks.unknown_ns is not None and answer.osl != 0:
        names = ", ".join(sorted(chunks.unknown)[:_MOST_FIELDS])
        answer.stream_note = f"{UNKNOWN_FIELDS}: {names}"
        first_ns, last_ns = chunks.unknown_ns
        instants = [*answer.chunk_ns, first_ns, last_ns]
        answer.other_first_ns, answer.other_last_ns = min(instants), max(instants)


def read_whole(body: bytes) -> Answer:
    """The :class:`Answer` of a body that is one JSON object (``stream`` off): no token arrivals. Never raises."""
    answer = Answer()
    try:
        chunk = decode_chunk(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as refusal:
        answer.outcome, answer.error = "bad_stream", f"the answer is no completion object: {refusal}"
        return answer
    if chunk.usage is not None and (problem := _take_usage(answer, Chunks(), chunk.usage)):
        answer.outcome, answer.error = "bad_stream", problem
    elif what := reported_error(chunk):
        answer.outcome, answer.error = "bad_stream", f"the server reports: {what}"
    elif not chunk.choices:
        answer.outcome, answer.error = "bad_stream", "the answer has no choices"
    else:
        try:
            _take_end(answer, chunk.choices[-1])
        except ValueError as number:
            answer.outcome, answer.error = "bad_stream", str(number)
    return answer


def _kind_of(answer: Answer, choices: Sequence[Choice]) -> int:
    """What a chunk holds, see :mod:`ratematch.loadgen.tokentimes`; 0: nothing of an answer."""
    kind = 0
    for choice in choices:
        if choice.finish_reason is not None or choice.avg_decoded_tokens_per_iter is not None:
            _take_end(answer, choice)
        kind = max(kind, TEXT if choice.text else kind_of_choice(choice))
    return kind


def _has_grown(answer: Answer, chunks: Chunks) -> bool:
    return (answer.osl or 0) > (chunks.counts[-1][1] if chunks.counts else 0)


def _take_ids(chunks: Chunks, choices: Sequence[Choice]) -> None:
    chunks.ids += [0] * (len(chunks.stamps) - 1 - len(chunks.ids))
    chunks.ids.append(sum(len(choice.token_ids) for choice in choices if isinstance(choice.token_ids, list)))


def _note_unknown(chunks: Chunks, payload: bytes, stamp: int) -> None:
    """Keep the names of fields with text that are not known, and when they came, of a chunk that holds no other."""
    fields, has_role = unknown_fields(payload)
    # The first chunk with the role describes the answer; servers that name the role in every chunk exist too.
    if has_role and not chunks.begun:
        chunks.begun = True
    elif fields:
        chunks.unknown |= fields
        chunks.unknown_ns = (chunks.unknown_ns or (stamp, stamp))[0], stamp


def _take_end(answer: Answer, choice: Choice) -> None:
    if choice.finish_reason is not None:
        answer.finish_reason = choice.finish_reason[:_REASON]
    if choice.avg_decoded_tokens_per_iter is not None:
        # A running mean: the last one counts.
        answer.decoded_per_iter = tokens_per_step(choice.avg_decoded_tokens_per_iter)


def _take_usage(answer: Answer, chunks: Chunks, usage: Usage) -> str | None:
    """Keep what usage counts; continuous_usage_stats sends one per chunk: the last one counts. What is wrong with it,
    in words."""
    prompt, output = usage.prompt_tokens_details, usage.completion_tokens_details
    try:
        answer.isl, answer.osl = whole_number(usage.prompt_tokens), whole_number(usage.completion_tokens)
        cached = prompt.cached_tokens if prompt is not None else None
        cached = usage.prompt_cache_hit_tokens if cached is None else cached
        if cached is not None:
            answer.cached_tokens = whole_number(cached)
        if output is not None:
            chunks.hidden = whole_number(output.reasoning_tokens) or 0
    except ValueError as problem:
        return str(problem)
    return None
