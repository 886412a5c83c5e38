"""The two requests that one request becomes between a prefill and a decode server of vLLM. Pure.

The prefill server computes the prompt, answers with one token that nobody uses, and keeps the KV blocks; its answer
says where they lie. The decode server is sent what the client sent and that, pulls the blocks, computes the prompt's
last token itself and generates every token of the answer (NIXL connector of vLLM 0.24 to 0.32, request and answer
field ``kv_transfer_params``).
"""

from __future__ import annotations

import msgspec

Body = dict[str, msgspec.Raw]

_ONE, _FALSE = msgspec.Raw(b"1"), msgspec.Raw(b"false")
_KEEP_FOR_DECODE = msgspec.Raw(
    b'{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,'
    b'"remote_host":null,"remote_port":null}'
)
_NOT_FOR_PREFILL = ("stream_options", "min_tokens", "max_completion_tokens")
"""Fields that vLLM refuses beside ``stream: false`` or one token, or that would win over ``max_tokens``."""


class HandoverError(ValueError):
    """A body or an answer that cannot be handed over; the message is for the client."""


class _PrefillAnswer(msgspec.Struct):
    kv_transfer_params: msgspec.Raw = msgspec.Raw(b"null")


def read_body(raw: bytes) -> Body:
    """The fields of a request, each still as the bytes that came: prompts of many tokens are not parsed.

    Raises:
        HandoverError: no JSON object.
    """
    try:
        return msgspec.json.decode(raw, type=Body)
    except msgspec.DecodeError as error:
        raise HandoverError(f"the body is no JSON object: {error}") from None


def prefill_body(body: Body) -> bytes:
    """The prefill server's request: one token in one piece, and its KV blocks kept."""
    request = {name: value for name, value in body.items() if name not in _NOT_FOR_PREFILL}
    request |= {"max_tokens": _ONE, "stream": _FALSE, "kv_transfer_params": _KEEP_FOR_DECODE}
    return msgspec.json.encode(request)


def decode_body(body: Body, prefill_answer: bytes) -> bytes:
    """The decode server's request: the client's, and where the KV blocks lie.

    Raises:
        HandoverError: the prefill server's answer does not say where.
    """
    try:
        where = msgspec.json.decode(prefill_answer, type=_PrefillAnswer).kv_transfer_params
    except msgspec.DecodeError as error:
        raise HandoverError(f"its answer is no JSON object: {error}") from None
    if bytes(where) == b"null":
        raise HandoverError("its answer has no kv_transfer_params: was it started with --kv-transfer-config?")
    return msgspec.json.encode({**body, "kv_transfer_params": where})
