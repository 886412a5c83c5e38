"""Requests and answers of vLLM's OpenAI routes, as bytes; what both engines share comes from the other protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ratematch.emulator.errors import BadRequest
from ratematch.emulator.protocol import (
    AnswerHead,
    Json,
    Request,
    StreamEncoder,
    chat_ids,
    encode,
    prompt_ids,
    text_bytes,
    typed_field,
)

PULL_KEYS = ("remote_engine_id", "remote_request_id", "remote_host", "remote_port")
"""What ``kv_transfer_params`` must have beside the block ids for a transfer to happen at all."""


@dataclass(frozen=True)
class ServeRequest(Request):
    """One request. ``return_ids``: ids are wanted beside text. ``transfer``: its ``kv_transfer_params`` as JSON."""

    return_ids: bool
    transfer: Json


def parse_request(body: Any, *, chat: bool, vocab: int) -> ServeRequest:
    """The request in a decoded JSON ``body``. Fields that vLLM does not know are ignored, as it does.

    Raises:
        BadRequest: a wrong type, or fields that do not go together.
    """
    if not isinstance(body, dict):
        raise BadRequest("1 validation error: body: Input should be a valid dictionary")
    if not chat and not body.get("prompt"):
        empty = "You must pass at least one prompt"
        raise BadRequest(
            empty if "prompt" in body else "Either prompt or prompt_embeds must be provided and non-empty."
        )
    stream = typed_field(body, "stream", bool, False)
    options = typed_field(body, "stream_options", dict, None)
    if options is not None and not stream:
        raise BadRequest("Stream options can only be defined when `stream=True`. (parameter=stream_options)")
    options = options or {}
    max_tokens = typed_field(body, "max_completion_tokens", int, None) if chat else None
    max_tokens = max_tokens or typed_field(body, "max_tokens", int, None if chat else 16)
    if max_tokens is not None and max_tokens < 1:
        raise BadRequest(
            f"max_tokens must be at least 1, got {max_tokens}. (parameter=max_tokens, value={max_tokens})"
        )
    least = typed_field(body, "min_tokens", int, 0)
    if max_tokens is not None and least > max_tokens:
        raise BadRequest(f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {least}.")
    if typed_field(body, "n", int, 1) != 1:
        raise BadRequest("the emulator answers one choice per request: n must be 1")
    ids = chat_ids(body, vocab) if chat else prompt_ids(body["prompt"], vocab)
    if (most := max(ids)) >= vocab:
        raise BadRequest(f"Token id {most} is out of vocabulary")
    return ServeRequest(
        chat=chat,
        model=typed_field(body, "model", str, None),
        prompt_ids=ids,
        max_tokens=max_tokens,
        stream=stream,
        include_usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("include_usage") and options.get("continuous_usage_stats")),
        return_ids=typed_field(body, "return_token_ids", bool, False),
        transfer=typed_field(body, "kv_transfer_params", dict, None) or {},
    )


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


def error_body(message: str, kind: str, code: int, param: str | None = None) -> Json:
    """An error in vLLM's form."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


FAILED_STREAM = (
    b'data: {"error": {"message": "Internal server error", "type": "InternalServerError", '
    b'"param": null, "code": 500}}\n\n'
)
"""Event of a stream whose request failed after the answer had begun; ``[DONE]`` follows all the same."""


class VllmStream(StreamEncoder):
    """Events as ``vllm serve`` writes them. ``fingerprint``: of the server, in the event with the usage."""

    __slots__ = ("_fingerprint", "_head", "_middle", "_prompt", "_tail")

    def __init__(self, request: ServeRequest, head: AnswerHead, fingerprint: str):
        super().__init__(request, head, with_ids=request.return_ids)
        self._prompt = request.prompt_ids
        text = b'"delta":{"content":"' if request.chat else b'"text":"'
        self._head = self._open + b',"choices":[{"index":0,' + text
        self._middle = (
            b'"},"logprobs":null,"finish_reason":' if request.chat else b'","logprobs":null,"finish_reason":'
        )
        # Where the keys stand that come after the reason: chat names the stop reason in the last event only.
        self._tail = b"" if request.chat else b',"stop_reason":null,"prompt_token_ids":'
        self._fingerprint = encode(fingerprint)

    def role(self) -> bytes:
        return (
            self._open + b',"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,'
            b'"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}\n\n'
        )

    def chunk(self, tokens: int, iterations: int, finish_reason: bytes = b"null") -> bytes:
        first, self.sent = self.sent, self.sent + tokens
        parts = [self._head, text_bytes(tokens), self._middle, finish_reason]
        if self.chat:
            parts.append(b',"stop_reason":null' if finish_reason != b"null" else b"")
        else:
            parts += [self._tail, encode(self._prompt) if self._with_ids and not first else b"null"]
        parts += [b',"token_ids":', self._ids(first, tokens), b"}]"]
        if self._usage:
            parts += [b',"usage":', encode(usage(len(self._prompt), self.sent))]
        parts.append(b"}\n\n")
        return b"".join(parts)

    def final_usage(self) -> bytes:
        total = encode(usage(len(self._prompt), self.sent))
        return (
            self._open + b',"choices":[],"usage":' + total + b',"system_fingerprint":' + self._fingerprint + b"}\n\n"
        )


def answer(request: ServeRequest, head: AnswerHead, tokens: int, fingerprint: str, transfer: Json | None) -> bytes:
    """Body of a non-streaming answer. ``transfer``: its ``kv_transfer_params``."""
    text = text_bytes(tokens).decode()
    end = {
        "logprobs": None,
        "finish_reason": "length",
        "stop_reason": None,
        "token_ids": head.ids(0, tokens) if request.return_ids else None,
    }
    choice: Json
    if request.chat:
        message = {"role": "assistant", "content": text, "refusal": None, "annotations": None, "audio": None}
        choice = {"index": 0, "message": {**message, "function_call": None, "reasoning": None}, **end}
    else:
        choice = {"index": 0, "text": text, **end, "prompt_logprobs": None, "prompt_token_ids": None}
    counts = {
        **usage(len(request.prompt_ids), tokens),
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }
    return encode(
        {
            **head.fields(request.chat, chunk=False),
            "choices": [choice],
            "service_tier": None,
            "system_fingerprint": fingerprint,
            "usage": counts,
            "kv_transfer_params": transfer,
            "ec_transfer_params": None,
            "metrics": None,
        }
    )
