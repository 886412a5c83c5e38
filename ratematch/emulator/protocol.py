"""What the OpenAI-style routes of both engines share: fields of requests, stand-in tokens, and events as bytes.

Per stream, everything that does not change is encoded once (:class:`StreamEncoder`); a token costs a few byte joins
and no JSON library.
"""

from __future__ import annotations

import re
import time
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from ratematch.emulator.errors import BadRequest

Json = dict[str, Any]
"""A JSON object as it is sent or received."""

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Request:
    """One validated request. ``prompt_ids`` are the ids given, or stand-ins for the pieces of a text.

    ``model``: its name in the request, if it has one.
    """

    chat: bool
    model: str | None
    prompt_ids: tuple[int, ...]
    max_tokens: int | None
    stream: bool
    include_usage: bool
    continuous_usage: bool


@dataclass(frozen=True)
class AnswerHead:
    """What all parts of one answer have alike. ``model``: the name it is answered under. ``key``: what its output ids
    derive from (:func:`output_key`). ``vocab``: number of different ids."""

    request_id: str
    model: str
    key: int
    vocab: int

    def fields(self, chat: bool, *, chunk: bool) -> Json:
        """The first fields of a body, or of each event of a stream; ``created`` is Unix time in seconds."""
        kind = "text_completion" if not chat else "chat.completion.chunk" if chunk else "chat.completion"
        return {"id": self.request_id, "object": kind, "created": int(time.time()), "model": self.model}

    def ids(self, first: int, count: int) -> list[int]:
        """Ids of the output tokens ``first``.. of the answer."""
        return output_ids(self.key, first, count, self.vocab)


_PIECE = re.compile(r"\w+|[^\w\s]")


def tokenize(text: str, vocab: int) -> tuple[int, ...]:
    """Stand-in token ids, one per word or punctuation mark: without a tokenizer lengths of texts are estimates."""
    return tuple(zlib.crc32(piece.encode()) % vocab for piece in _PIECE.findall(text)) or (0,)


def block_hashes(ids: tuple[int, ...], tokens_per_block: int) -> tuple[int, ...]:
    """One hash per full block of a prompt, each chained to the blocks before it."""
    chained: list[int] = []
    previous = 0
    for end in range(tokens_per_block, len(ids) + 1, tokens_per_block):
        previous = hash((previous, ids[end - tokens_per_block : end]))
        chained.append(previous)
    return tuple(chained)


def typed_field(body: Json, name: str, kinds: type | tuple[type, ...], default: Any) -> Any:
    """The field ``name`` of a body, or ``default``.

    Raises:
        BadRequest: it is of another type.
    """
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        wanted = kinds.__name__ if isinstance(kinds, type) else " or ".join(kind.__name__ for kind in kinds)
        raise BadRequest(f"1 validation error: {name}: Input should be a valid {wanted}, got {value!r}")
    return value


def prompt_ids(prompt: Any, vocab: int) -> tuple[int, ...]:
    """Token ids of a ``prompt`` field: those given, or stand-ins.

    Raises:
        BadRequest: no prompt, or more than one.
    """
    match prompt:
        case str():
            return tokenize(prompt, vocab)
        case [int(), *_] if all(type(token) is int for token in prompt):
            return tuple(prompt)
        case [str() | list() as only]:
            return prompt_ids(only, vocab)
        case [str() | list(), *_]:
            raise BadRequest("the emulator answers one prompt per request; send one string or one list of token ids")
        case _:
            raise BadRequest("1 validation error: prompt: Input should be a valid string or list of integers")


def chat_ids(body: Json, vocab: int) -> tuple[int, ...]:
    """Token ids of a chat: those given, or stand-ins for its messages.

    Raises:
        BadRequest: no messages.
    """
    given = body.get("prompt_token_ids")
    if given:
        return prompt_ids(given, vocab)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("1 validation error: messages: Field required")
    ids: list[int] = []
    for message in messages:
        if not isinstance(message, dict) or "role" not in message:
            raise BadRequest("1 validation error: messages: every message needs a role")
        content = message.get("content") or ""
        parts = content if isinstance(content, list) else [{"text": content}]
        ids.append(zlib.crc32(str(message["role"]).encode()) % vocab)
        for part in parts:
            ids.extend(tokenize(str(part.get("text", "")) if isinstance(part, dict) else str(part), vocab))
    return tuple(ids)


_WORDS = ("lorem", "ipsum", "dolor", "sit", "amet", "elit", "sed", "magna")


@lru_cache(maxsize=1024)
def output_text(tokens: int) -> str:
    """Text of ``tokens`` stand-in tokens: one word each."""
    return "".join(f" {_WORDS[index % len(_WORDS)]}" for index in range(tokens))


@lru_cache(maxsize=1024)
def text_bytes(tokens: int) -> bytes:
    """:func:`output_text` as bytes."""
    return output_text(tokens).encode()


def output_key(prompt_ids: tuple[int, ...]) -> int:
    """Number that output ids derive from: the prompt, so that both halves of a split request agree."""
    return hash(prompt_ids[:64]) & 0xFFFF


def output_ids(key: int, first: int, count: int, vocab: int) -> list[int]:
    """Ids of output tokens ``first``.. of a request: reproducible, so a disaggregated answer equals a single one."""
    return [(key * 7919 + index * 104729) % vocab for index in range(first, first + count)]


def encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


class StreamEncoder:
    """Server-sent events of one stream: what does not change is encoded once; an engine adds its own fields.

    ``with_ids``: each event has the ids of its tokens. ``sent``: tokens in the chunks made so far.
    """

    __slots__ = ("_open", "_usage", "_with_ids", "chat", "head", "sent")

    def __init__(self, request: Request, head: AnswerHead, *, with_ids: bool):
        self.chat = request.chat
        self.head = head
        self.sent = 0
        self._usage = request.continuous_usage
        self._with_ids = with_ids
        self._open = b"data: " + encode(head.fields(request.chat, chunk=True))[:-1]

    def role(self) -> bytes:
        """First event of a chat stream: the role, no token."""
        raise NotImplementedError

    def chunk(self, tokens: int, iterations: int, finish_reason: bytes = b"null") -> bytes:
        """Event with ``tokens`` more tokens; ``iterations`` steps were decoded so far."""
        raise NotImplementedError

    def final_usage(self) -> bytes:
        """Event with usage and no choices, the last before ``[DONE]``."""
        raise NotImplementedError

    def _ids(self, first: int, tokens: int) -> bytes:
        return encode(self.head.ids(first, tokens)) if self._with_ids else b"null"
