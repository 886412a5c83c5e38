"""Requests and answers of the OpenAI-style routes, as bytes.

Per stream, everything that does not change is encoded once (``StreamEncoder``); a token costs a few byte joins and no
JSON library.
"""

from __future__ import annotations

import re
import time
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import msgspec

from ratematch.emulator.errors import BadRequest

RequestKind = Literal["full", "context_only", "generation_only"]

DONE = b"data: [DONE]\n\n"

_SHARED_FIELDS = {
    "model", "n", "best_of", "use_beam_search", "temperature", "top_p", "top_k", "min_p", "top_p_min", "seed", "stop",
    "logprobs", "logit_bias", "presence_penalty", "frequency_penalty", "repetition_penalty", "length_penalty",
    "early_stopping", "stream", "stream_options", "user", "max_tokens", "min_tokens", "ignore_eos", "stop_token_ids",
    "include_stop_str_in_output", "skip_special_tokens", "spaces_between_special_tokens", "truncate_prompt_tokens",
    "detokenize", "thinking_token_budget", "prompt_ignore_length", "add_special_tokens", "return_context_logits",
    "return_generation_logits", "response_format", "lora_request", "priority", "conversation_params",
    "disaggregated_params", "echo", "prompt_logprobs", "bad", "bad_token_ids", "end_id",
}  # fmt: skip
COMPLETION_FIELDS = frozenset(_SHARED_FIELDS | {"prompt"})
CHAT_FIELDS = frozenset(
    _SHARED_FIELDS
    | {
        "messages", "prompt_token_ids", "max_completion_tokens", "top_logprobs", "tools", "tool_choice",
        "add_generation_prompt", "chat_template", "chat_template_kwargs", "reasoning_effort", "cache_salt",
        "documents", "continue_final_message", "parallel_tool_calls", "mm_processor_kwargs", "agent_hierarchy",
    }
)  # fmt: skip
DISAGG_FIELDS = frozenset(
    {
        "request_type", "first_gen_tokens", "first_gen_log_probs", "first_gen_logits", "ctx_request_id",
        "encoded_opaque_state", "draft_tokens", "disagg_request_id", "ctx_dp_rank", "ctx_info_endpoint",
        "schedule_style", "ctx_usage", "return_prompt_token_ids_b64", "resolved_thinking", "conversation_id",
        "multimodal_embedding_handles", "multimodal_hashes",
    }
)  # fmt: skip


@dataclass(frozen=True)
class GenerationRequest:
    """One request, validated. ``prompt_ids`` are the ids given, or stand-ins for the pieces of a text."""

    chat: bool
    model: str
    prompt_ids: tuple[int, ...]
    max_tokens: int | None
    stream: bool
    include_usage: bool
    continuous_usage: bool
    detokenize: bool
    kind: RequestKind
    disagg: dict[str, Any] = field(default_factory=dict)


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


def _forbid_extra(body: dict[str, Any], known: frozenset[str], where: tuple[str, ...] = ("body",)) -> None:
    extra = [name for name in body if name not in known]
    if extra:
        details = ", ".join(
            str(
                {
                    "type": "extra_forbidden",
                    "loc": (*where, name),
                    "msg": "Extra inputs are not permitted",
                    "input": body[name],
                }
            )
            for name in extra
        )
        raise BadRequest(f"{len(extra)} validation error{'s' if len(extra) > 1 else ''}: {details}")


def typed_field(body: dict[str, Any], name: str, kinds: type | tuple[type, ...], default: Any) -> Any:
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


def chat_ids(body: dict[str, Any], vocab: int) -> tuple[int, ...]:
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


def parse_request(body: Any, *, chat: bool, vocab: int) -> GenerationRequest:
    """The request in a decoded JSON ``body``.

    Raises:
        BadRequest: an unknown field or a wrong type, as the engine's own validation would.
    """
    if not isinstance(body, dict):
        raise BadRequest("1 validation error: body: Input should be a valid dictionary")
    _forbid_extra(body, CHAT_FIELDS if chat else COMPLETION_FIELDS)
    model = typed_field(body, "model", str, None)
    if model is None:
        raise BadRequest("1 validation error: model: Field required")
    if not chat and "prompt" not in body:
        raise BadRequest("1 validation error: prompt: Field required")
    stream = typed_field(body, "stream", bool, False)
    options = typed_field(body, "stream_options", dict, None)
    if options is not None and not stream:
        raise BadRequest("1 validation error: Value error, Stream options can only be defined when stream is true.")
    # With options given, usage is on unless they say otherwise.
    usage_wanted = options is not None
    options = options or {}
    _forbid_extra(options, frozenset({"include_usage", "continuous_usage_stats"}), ("body", "stream_options"))
    disagg = typed_field(body, "disaggregated_params", dict, None) or {}
    _forbid_extra(disagg, DISAGG_FIELDS, ("body", "disaggregated_params"))
    kind: RequestKind
    match disagg.get("request_type", "context_and_generation"):
        case "context_and_generation":
            kind = "full"
        case "context_only":
            kind = "context_only"
        case "generation_only":
            kind = "generation_only"
        case other:
            raise BadRequest(f"1 validation error: disaggregated_params.request_type: {other!r} is not known")
    max_tokens = typed_field(body, "max_completion_tokens" if chat else "max_tokens", int, None)
    if max_tokens is None and chat:
        max_tokens = typed_field(body, "max_tokens", int, None)
    if max_tokens is not None and max_tokens < 1:
        raise BadRequest("1 validation error: max_tokens must be greater than 0")
    typed_field(body, "ignore_eos", bool, False)
    if typed_field(body, "n", int, 1) != 1 or typed_field(body, "best_of", int, 1) != 1:
        raise BadRequest("the emulator answers one choice per request: n and best_of must be 1")
    return GenerationRequest(
        chat=chat,
        model=model,
        prompt_ids=chat_ids(body, vocab) if chat else prompt_ids(body["prompt"], vocab),
        max_tokens=max_tokens,
        stream=stream,
        include_usage=bool(options.get("include_usage", usage_wanted)),
        continuous_usage=bool(options.get("continuous_usage_stats", False)),
        detokenize=typed_field(body, "detokenize", bool, True),
        kind=kind,
        disagg=disagg,
    )


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


def usage(prompt: int, completion: int, cached: int = 0) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


class StreamEncoder:
    """Server-sent events of one stream; ``created`` is Unix time in seconds."""

    __slots__ = (
        "_head",
        "_ids",
        "_key",
        "_middle",
        "_model",
        "_open",
        "_prompt",
        "_request_id",
        "_tail",
        "_usage",
        "_vocab",
        "chat",
        "sent",
    )

    def __init__(self, request: GenerationRequest, request_id: str, model: str, key: int, vocab: int):
        kind = "chat.completion.chunk" if request.chat else "text_completion"
        created = int(time.time())
        head = encode({"id": request_id, "object": kind, "created": created, "model": model})[:-1]
        self._open = b"data: " + head
        self.chat = request.chat
        self._request_id, self._model = request_id, model
        self._ids = not request.detokenize
        self._key, self._vocab, self._prompt = key, vocab, len(request.prompt_ids)
        self._usage = request.continuous_usage
        self.sent = 0
        if request.chat:
            self._head = self._open + b',"choices":[{"index":0,"delta":{"role":null,"content":"'
            self._middle = b'"},"logprobs":null,'
        else:
            self._head = self._open + b',"choices":[{"index":0,"text":"'
            self._middle = b'","token_ids":'
        self._tail = b',"stop_reason":null,"disaggregated_params":null,"avg_decoded_tokens_per_iter":'

    def role(self) -> bytes:
        """First event of a chat stream: the role, no token."""
        return (
            self._open + b',"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,'
            b'"finish_reason":null,"stop_reason":null}],"usage":null}\n\n'
        )

    def chunk(self, tokens: int, iterations: int, finish_reason: bytes = b"null") -> bytes:
        """Event with ``tokens`` more tokens; ``iterations`` steps were decoded so far."""
        first = self.sent
        self.sent += tokens
        ids = b"null"
        if self._ids:
            ids = encode(output_ids(self._key, first, tokens, self._vocab))
        text = b"" if self._ids else text_bytes(tokens)
        parts = [self._head, text, self._middle]
        if not self.chat:
            parts += [ids, b',"logprobs":null,"context_logits":null,']
        elif self._ids:
            parts += [b'"token_ids":', ids, b","]
        parts += [b'"finish_reason":', finish_reason, self._tail]
        parts.append(b"%.4f" % (self.sent / iterations) if iterations else b"null")
        parts.append(b'}],"usage":')
        parts.append(encode(usage(self._prompt, self.sent)) if self._usage else b"null")
        parts.append(b"}\n\n")
        return b"".join(parts)

    def final_usage(self, cached: int = 0) -> bytes:
        """Event with usage and no choices, the last before ``[DONE]``."""
        return self._open + b',"choices":[],"usage":' + encode(usage(self._prompt, self.sent, cached)) + b"}\n\n"


def answer(
    request: GenerationRequest,
    request_id: str,
    model: str,
    key: int,
    vocab: int,
    tokens: int,
    iterations: int,
    *,
    finish_reason: str,
    disagg: dict[str, Any] | None = None,
    cached: int = 0,
) -> bytes:
    """Body of a non-streaming answer."""
    ids = output_ids(key, 0, tokens, vocab)
    text = output_text(tokens) if request.detokenize else ""
    choice: dict[str, Any] = {"index": 0}
    if request.chat:
        choice["message"] = {"role": "assistant", "content": text, "reasoning_content": None, "tool_calls": []}
    else:
        choice |= {"text": text, "context_logits": None}
    choice |= {
        "token_ids": None if request.detokenize else ids,
        "logprobs": None,
        "finish_reason": finish_reason,
        "stop_reason": None,
        "disaggregated_params": disagg,
        "avg_decoded_tokens_per_iter": tokens / iterations if iterations else None,
    }
    body: dict[str, Any] = {
        "id": request_id,
        "object": "chat.completion" if request.chat else "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": usage(len(request.prompt_ids), tokens, cached),
    }
    if request.kind == "context_only":
        body["prompt_token_ids"] = list(request.prompt_ids)
    return encode(body)
