"""Requests and answers of the routes of ``trtllm-serve``, as bytes (contract, section 4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ratematch.emulator.errors import BadRequest
from ratematch.emulator.protocol import (
    AnswerHead,
    Json,
    Request,
    StreamEncoder,
    chat_ids,
    encode,
    output_text,
    prompt_ids,
    text_bytes,
    typed_field,
)

RequestKind = Literal["full", "context_only", "generation_only"]

_SHARED_FIELDS = {
    "model", "n", "best_of", "use_beam_search", "temperature", "top_p", "top_k", "min_p", "top_p_min", "seed", "stop",
    "logprobs", "logit_bias", "presence_penalty", "frequency_penalty", "repetition_penalty", "length_penalty",
    "early_stopping", "stream", "stream_options", "user", "max_tokens", "min_tokens", "ignore_eos", "stop_token_ids",
    "include_stop_str_in_output", "skip_special_tokens", "spaces_between_special_tokens", "truncate_prompt_tokens",
    "detokenize", "thinking_token_budget", "prompt_ignore_length", "add_special_tokens", "return_context_logits",
    "return_generation_logits", "response_format", "lora_request", "priority", "conversation_params",
    "disaggregated_params", "echo", "prompt_logprobs", "bad", "bad_token_ids", "end_id",
}  # fmt: skip
COMPLETION_FIELDS = frozenset(_SHARED_FIELDS | {"prompt", "suffix"})
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

LIFECYCLE_FIELDS = frozenset(
    {
        "logical_request_id", "prefill_artifact_id", "artifact_version", "handoff_attempt_uuid", "consumer_grant_id",
        "transfer_session_id", "generation_endpoint_name", "generation_endpoint_rank",
        "generation_endpoint_incarnation", "context_control_endpoint", "context_transceiver_lifecycle",
    }
)  # fmt: skip
"""What 1.4 takes besides, for a protocol that is off unless a variable asks for it."""


@dataclass(frozen=True)
class GenerationRequest(Request):
    """One request. ``detokenize``: text is wanted, else ids. ``disagg``: its ``disaggregated_params`` as JSON."""

    detokenize: bool
    kind: RequestKind
    disagg: Json = field(default_factory=dict)


def _forbid_extra(body: Json, known: frozenset[str], where: tuple[str, ...] = ("body",)) -> None:
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


def parse_request(body: Any, *, chat: bool, vocab: int, lifecycle: bool = False) -> GenerationRequest:
    """The request in a decoded JSON ``body``. ``lifecycle``: the version knows :data:`LIFECYCLE_FIELDS`.

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
    _forbid_extra(
        disagg, DISAGG_FIELDS | LIFECYCLE_FIELDS if lifecycle else DISAGG_FIELDS, ("body", "disaggregated_params")
    )
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


def usage(prompt: int, completion: int, cached: int = 0) -> Json:
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


class TrtllmStream(StreamEncoder):
    """Events as ``trtllm-serve`` writes them."""

    __slots__ = ("_head", "_middle", "_prompt", "_tail")

    def __init__(self, request: GenerationRequest, head: AnswerHead):
        super().__init__(request, head, with_ids=not request.detokenize)
        self._prompt = len(request.prompt_ids)
        if request.chat:
            self._head = self._open + b',"choices":[{"index":0,"delta":{"role":null,"content":"'
            self._middle = b'"},"logprobs":null,'
        else:
            self._head = self._open + b',"choices":[{"index":0,"text":"'
            self._middle = b'","token_ids":'
        self._tail = b',"stop_reason":null,"disaggregated_params":null,"avg_decoded_tokens_per_iter":'

    def role(self) -> bytes:
        return (
            self._open + b',"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,'
            b'"finish_reason":null,"stop_reason":null}],"usage":null}\n\n'
        )

    def chunk(self, tokens: int, iterations: int, finish_reason: bytes = b"null") -> bytes:
        first, self.sent = self.sent, self.sent + tokens
        ids = self._ids(first, tokens)
        parts = [self._head, b"" if self._with_ids else text_bytes(tokens), self._middle]
        if not self.chat:
            parts += [ids, b',"logprobs":null,"context_logits":null,']
        elif self._with_ids:
            parts += [b'"token_ids":', ids, b","]
        parts += [b'"finish_reason":', finish_reason, self._tail]
        parts.append(b"%.4f" % (self.sent / iterations) if iterations else b"null")
        parts.append(b'}],"usage":')
        parts.append(encode(usage(self._prompt, self.sent)) if self._usage else b"null")
        parts.append(b"}\n\n")
        return b"".join(parts)

    def final_usage(self) -> bytes:
        return self._open + b',"choices":[],"usage":' + encode(usage(self._prompt, self.sent)) + b"}\n\n"


def answer(
    request: GenerationRequest,
    head: AnswerHead,
    tokens: int,
    iterations: int,
    *,
    finish_reason: str,
    disagg: Json | None = None,
    cached: int = 0,
) -> bytes:
    """Body of a non-streaming answer. ``iterations``: steps that its ``tokens`` took. ``cached``: prompt tokens that
    the prompt cache held."""
    ids = head.ids(0, tokens)
    text = output_text(tokens) if request.detokenize else ""
    choice: Json = {"index": 0}
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
    body: Json = {
        **head.fields(request.chat, chunk=False),
        "choices": [choice],
        "usage": usage(len(request.prompt_ids), tokens, cached),
    }
    if request.kind == "context_only":
        body["prompt_token_ids"] = list(request.prompt_ids)
    return encode(body)
