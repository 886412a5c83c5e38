"""``generate_stream`` of Triton Inference Server: bodies of requests, and what its answers say. Pure.

A stream is one JSON object a response and nothing else: no ``[DONE]``, no usage, no finish reason, and it ends in the
same way whether all went well or the server was stopped. So an answer counts as whole when as many tokens came as
were requested and no response has the field ``error``, whatever the HTTP status. Tokens are counted, in this order,

* by ``num_output_tokens`` (``return_num_output_tokens`` asks for it): of each response, so the sum counts;
* by the ids in ``output_ids``;
* else one a response, as the server has it in streaming mode.

Upstream names no way to say "ignore EOS": ``min_tokens`` equal to the output length stands for it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import msgspec

from ratematch.errors import UserError
from ratematch.loadgen.answer import Answer
from ratematch.loadgen.chunk import Number, whole_number
from ratematch.loadgen.sse import split_events
from ratematch.loadgen.tokentimes import EMPTY, TEXT, Chunks, time_tokens
from ratematch.plan.requestapi import Api
from ratematch.plan.workload import RequestSpec

_EVENTS_PER_STEP = 256
_WORDS = 300


class _Response(msgspec.Struct):
    error: Any = None
    text_output: Any = None
    output_ids: Any = None
    num_output_tokens: Number | list[Number] = None
    num_input_tokens: Number | list[Number] = None


_decode = msgspec.json.Decoder(_Response).decode


def is_generate(api: Api) -> bool:
    """Is it an API of Triton's own?"""
    return api in ("generate", "generate-ids")


def generate_path(model: str) -> str:
    """Where requests to a model go.

    Raises:
        UserError: no name of a model.
    """
    if not model or not all(letter.isalnum() or letter in "_-." for letter in model):
        raise UserError(f"--model {model!r}: for this API the name of a model in the server's repository")
    return f"/v2/models/{model}/generate_stream"


def generate_body(api: Api, spec: RequestSpec, words: str) -> dict[str, Any]:
    """The fields of a request. ``words``: the text of a prompt that goes to an ensemble.

    Raises:
        UserError: messages, which this API has no field for; a text where token ids are sent.
    """
    if spec.chat is not None:
        raise UserError("a request holds messages, which only the chat API takes: --api chat")
    counts = {"return_num_input_tokens": True, "return_num_output_tokens": True}
    if api == "generate":
        text = {"text_input": words, "max_tokens": spec.osl, "min_tokens": spec.osl, "stream": True}
        return {**text, **counts}
    if spec.text is not None:
        raise UserError("a request holds a text, and --api generate-ids sends token ids: --api generate")
    # Flat lists and bare numbers: the server itself puts the dimension of the batch around them.
    return {
        "input_ids": spec.prompt.tolist(),
        "input_lengths": spec.isl,
        "request_output_len": spec.osl,
        "min_tokens": spec.osl,
        "streaming": True,
        **counts,
    }


def read_generate_steps(
    body: bytes, ends: Sequence[int], stamps: Sequence[int], osl: int
) -> Generator[None, None, Answer]:
    """The :class:`Answer` of a body, in small steps. Bytes to ``ends[i]`` had come by ``stamps[i]`` (ns); ``osl``:
    tokens asked for. Never raises."""
    answer, chunks = Answer(), Chunks()
    read = count = events = 0
    plain = body.lstrip()[:1] == b"{"  # an error that is no stream
    for payload, end in [(body.strip(), len(body))] if plain else split_events(body):
        events += 1
        if events % _EVENTS_PER_STEP == 0:
            yield
        try:
            response = _decode(payload)
            tokens = _tokens(response)
            answer.isl = _first_number(response.num_input_tokens) if answer.isl is None else answer.isl
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as problem:
            if end == len(body) and not plain:
                break  # the stream was cut inside this response
            return _failed(answer, chunks, f"response {events} is none of generate_stream: {problem}")
        if response.error is not None:
            where = f"after {count} of {osl} tokens" if count else "before the first token"
            return _failed(answer, chunks, f"the server reports {where}: {str(response.error)[:_WORDS]}")
        while read < len(ends) - 1 and ends[read] < end:
            read += 1
        if not tokens and response.text_output is None:
            continue  # a last response that only says that it is the last
        count += tokens
        chunks.stamps.append(stamps[read])
        chunks.kinds.append(TEXT if tokens else EMPTY)
        chunks.counts.append((len(chunks.stamps), count))
    if plain:
        return _failed(answer, chunks, "one answer in place of a stream: is the model decoupled?")
    answer.osl = count
    _take_times(answer, chunks)
    if count < osl:
        answer.outcome = "truncated"
        sign = "a server that stops cuts it so, without another sign"
        answer.error = f"the stream ended after {count} of {osl} tokens; {sign}"
    elif count > osl:
        answer.outcome = "bad_stream"
        answer.error = f"{count} tokens came, and {osl} were asked for: is the first token sent twice?"
    return answer


def _take_times(answer: Answer, chunks: Chunks) -> None:
    times = time_tokens(chunks, answer.osl)
    answer.chunk_ns, answer.later_tokens = times.stamps, times.later
    answer.other_first_ns, answer.other_last_ns = times.other_first_ns, times.other_last_ns


def _failed(answer: Answer, chunks: Chunks, error: str) -> Answer:
    answer.outcome, answer.error, answer.chunk_ns = "bad_stream", error, chunks.stamps
    return answer


def _tokens(response: _Response) -> int:
    """Tokens of one response.

    Raises:
        ValueError: a count that nothing can have.
    """
    counted = _first_number(response.num_output_tokens)
    if counted is not None:
        return counted
    ids = response.output_ids
    if isinstance(ids, list):
        if not all(isinstance(token, int) for token in ids):
            raise ValueError("its output_ids are no list of ids")
        return len(ids)
    if isinstance(ids, int):  # a tensor with one element stands there bare
        return 1
    return int(response.text_output is not None)


def _first_number(value: Number | list[Number]) -> int | None:
    return whole_number(value[0] if isinstance(value, list) and value else None if isinstance(value, list) else value)
