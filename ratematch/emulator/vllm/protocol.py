"""Requests and answers of vLLM's OpenAI routes, as bytes; what both engines share comes from the other protocol."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from ratematch.emulator.errors import BadRequest
from ratematch.emulator.protocol import chat_ids, encode, output_ids, prompt_ids, text_bytes, typed_field

PULL_KEYS = ("remote_engine_id", "remote_request_id", "remote_host", "remote_port")
"""What ``kv_transfer_params`` must have beside the block ids for a transfer to happen at all."""


@dataclass(frozen=True)
class Asked:
    """One request, validated. ``prompt_ids``: the ids given, or stand-ins for the pieces of a text.

    ``transfer``: ``kv_transfer_params`` as it came.
    """

    chat: bool
    model: str | None
    prompt_ids: tuple[int, ...]
    max_tokens: int | None
    stream: bool
    include_usage: bool
    continuous_usage: bool
    return_ids: bool
    transfer: dict[str, Any]


def parse_request(body: Any, *, chat: bool, vocab: int) -> Asked:
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
    return Asked(
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


def error_body(message: str, kind: str, code: int, param: str | None = None) -> dict[str, Any]:
    """An error in vLLM's form."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


FAILED_STREAM = (
    b'data: {"error": {"message": "Internal server error", "type": "InternalServerError", '
    b'"param": null, "code": 500}}\n\n'
)
"""Event of a stream whose request failed after the answer had begun; ``[DONE]`` follows all the same."""


class StreamEncoder:
    """Server-sent events of one stream; what does not change is encoded once."""

    __slots__ = (
        "_first",
        "_head",
        "_ids",
        "_key",
        "_middle",
        "_open",
        "_prompt",
        "_tail",
        "_usage",
        "_vocab",
        "chat",
        "sent",
    )

    def __init__(self, asked: Asked, request_id: str, model: str, key: int, vocab: int, fingerprint: str):
        self.chat = asked.chat
        self.sent = 0
        self._ids, self._usage = asked.return_ids, asked.continuous_usage
        self._key, self._vocab, self._prompt = key, vocab, asked.prompt_ids
        kind = "chat.completion.chunk" if asked.chat else "text_completion"
        head = {"id": request_id, "object": kind, "created": int(time.time()), "model": model}
        self._open = b"data: " + encode(head)[:-1]
        text = b'"delta":{"content":"' if asked.chat else b'"text":"'
        self._head = self._open + b',"choices":[{"index":0,' + text
        self._middle = b'"},"logprobs":null,"finish_reason":' if asked.chat else b'","logprobs":null,"finish_reason":'
        # Where the keys stand that come after the reason: chat names the stop reason in the last event only.
        self._tail = b"" if asked.chat else b',"stop_reason":null,"prompt_token_ids":'
        self._first = encode(fingerprint)

    def role(self) -> bytes:
        """First event of a chat stream: the role, no token."""
        return (
            self._open + b',"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,'
            b'"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}\n\n'
        )

    def chunk(self, tokens: int, iterations: int, finish_reason: bytes = b"null") -> bytes:
        """Event with ``tokens`` more tokens."""
        first, self.sent = self.sent, self.sent + tokens
        parts = [self._head, text_bytes(tokens), self._middle, finish_reason]
        if self.chat:
            parts.append(b',"stop_reason":null' if finish_reason != b"null" else b"")
        else:
            parts += [self._tail, encode(self._prompt) if self._ids and not first else b"null"]
        ids = encode(output_ids(self._key, first, tokens, self._vocab)) if self._ids else b"null"
        parts += [b',"token_ids":', ids, b"}]"]
        if self._usage:
            parts += [b',"usage":', encode(usage(len(self._prompt), self.sent))]
        parts.append(b"}\n\n")
        return b"".join(parts)

    def final_usage(self, cached: int = 0) -> bytes:
        """Event with usage and no choices, the last before ``[DONE]``."""
        told = encode(usage(len(self._prompt), self.sent))
        return self._open + b',"choices":[],"usage":' + told + b',"system_fingerprint":' + self._first + b"}\n\n"


def answer(
    asked: Asked,
    request_id: str,
    model: str,
    key: int,
    vocab: int,
    tokens: int,
    fingerprint: str,
    transfer: dict[str, Any] | None,
) -> bytes:
    """Body of a non-streaming answer."""
    text = text_bytes(tokens).decode()
    end = {
        "logprobs": None,
        "finish_reason": "length",
        "stop_reason": None,
        "token_ids": output_ids(key, 0, tokens, vocab) if asked.return_ids else None,
    }
    choice: dict[str, Any]
    if asked.chat:
        message = {"role": "assistant", "content": text, "refusal": None, "annotations": None, "audio": None}
        choice = {"index": 0, "message": {**message, "function_call": None, "reasoning": None}, **end}
    else:
        choice = {"index": 0, "text": text, **end, "prompt_logprobs": None, "prompt_token_ids": None}
    told = {**usage(len(asked.prompt_ids), tokens), "prompt_tokens_details": None, "completion_tokens_details": None}
    return encode(
        {
            "id": request_id,
            "object": "chat.completion" if asked.chat else "text_completion",
            "created": int(time.time()),
            "model": model,
            "choices": [choice],
            "service_tier": None,
            "system_fingerprint": fingerprint,
            "usage": told,
            "kv_transfer_params": transfer,
            "ec_transfer_params": None,
            "metrics": None,
        }
    )
