"""One chunk of an answer as it stands on the wire, and what it says for itself. Pure.

What is taken although it is not to the letter, because it can mean one thing only: whole numbers of tokens written as
``128.0`` or ``"128"``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ratematch.loadgen.limits import COUNT_DIGITS
from ratematch.loadgen.sse import NamedEvents
from ratematch.loadgen.tokentimes import EMPTY, FINISH, TEXT

_NO_TOKENS = frozenset(
    [
        "role",
        "name",
        "id",
        "index",
        "logprobs",
        "finish_reason",
        "stop_reason",
        "matched_stop",
        "native_finish_reason",
        "provider",
        "model",
        "object",
        "token_ids",
        "prompt_token_ids",
        "prompt_logprobs",
        "content_filter_results",
        "content_filter_offsets",
        "obfuscation",
        "annotations",
        "disaggregated_params",
        "avg_decoded_tokens_per_iter",
        "text",
        "delta",
    ]
)
"""Fields of a choice or its delta that never hold what a model wrote."""

_MOST_TOKENS = 10**COUNT_DIGITS
_MOST_PER_STEP = 1e6
_NAME = 60
_WORDS = 300
"""Characters of a server's words that are kept."""

Number = int | float | str | None


class PromptDetails(msgspec.Struct):
    cached_tokens: Number = None


class OutputDetails(msgspec.Struct):
    reasoning_tokens: Number = None


class Usage(msgspec.Struct):
    prompt_tokens: Number = None
    completion_tokens: Number = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: OutputDetails | None = None
    prompt_cache_hit_tokens: Number = None


class Delta(msgspec.Struct):
    role: Any = None
    content: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    thinking: Any = None
    tool_calls: Any = None
    function_call: Any = None
    refusal: Any = None


class Choice(msgspec.Struct):
    text: Any = None
    token_ids: Any = None
    finish_reason: str | None = None
    avg_decoded_tokens_per_iter: float | None = None
    delta: Delta | None = None
    error: Any = None


class Chunk(msgspec.Struct):
    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None
    object: Any = None
    message: Any = None
    detail: Any = None
    errors: Any = None
    msg: Any = None
    error_msg: Any = None


decode_chunk = msgspec.json.Decoder(Chunk).decode
"""A chunk from its bytes; fields that are not known are left out."""


def is_plain(chunk: Chunk) -> bool:
    """One choice with text and nothing else of note, as nearly every chunk is."""
    choices = chunk.choices
    if choices is None or chunk.usage is not None or chunk.error is not None or len(choices) != 1:
        return False
    choice = choices[0]
    if choice.finish_reason is not None or choice.token_ids is not None or choice.error is not None:
        return False
    if choice.avg_decoded_tokens_per_iter is not None:
        return False
    return bool(choice.text or (choice.delta is not None and choice.delta.content))


def shows_reasoning(choice: Choice) -> bool:
    """Does it hold reasoning that a reader sees?"""
    delta = choice.delta
    return delta is not None and bool(delta.reasoning or delta.reasoning_content or delta.thinking)


def kind_of_choice(choice: Choice) -> int:
    """What it holds, see :data:`ratematch.loadgen.tokentimes.TEXT`; 0: nothing of an answer."""
    delta = choice.delta
    if choice.token_ids or (
        delta is not None
        and (
            delta.content
            or delta.reasoning
            or delta.reasoning_content
            or delta.tool_calls
            or delta.thinking
            or delta.function_call
            or delta.refusal
        )
    ):
        return TEXT
    if choice.finish_reason is not None:
        return FINISH
    if choice.text is not None or (delta is not None and delta.content is not None and delta.role is None):
        return EMPTY
    return 0


def unknown_fields(payload: bytes) -> tuple[set[str], bool]:
    """Names of fields with text in the choices of a chunk that are not known, and whether it names a role."""
    names: set[str] = set()
    has_role = False
    for choice in msgspec.json.decode(payload)["choices"]:
        delta = choice.get("delta")
        fields = delta if isinstance(delta, dict) else choice
        has_role = has_role or bool(fields.get("role"))
        names |= {name[:_NAME] for name, value in fields.items() if name not in _NO_TOKENS and _has_text(value)}
    return names, has_role


def _has_text(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value)
    if isinstance(value, dict):
        return any(_has_text(part) for part in value.values())
    return isinstance(value, list) and any(_has_text(part) for part in value)


def whole_number(number: Number) -> int | None:
    """A count of tokens. ``128.0`` and ``"128"`` can mean 128 only.

    Raises:
        ValueError: not a whole number, a negative one, or one that nothing can count to.
    """
    if number is None or (type(number) is int and 0 <= number < _MOST_TOKENS):
        return number
    if isinstance(number, float) and number.is_integer() and 0 <= number < _MOST_TOKENS:
        return int(number)
    if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) <= COUNT_DIGITS:
        return int(number)
    raise ValueError(f"its usage counts {_shorten(number)} tokens")


def tokens_per_step(number: float) -> float:
    """The mean number of tokens that an iteration gave a request.

    Raises:
        ValueError: none that can be meant.
    """
    if 0 <= number <= _MOST_PER_STEP:
        return number
    raise ValueError(f"its avg_decoded_tokens_per_iter is {number!r}")


def _shorten(number: Number) -> str:
    if isinstance(number, int) and abs(number) >= 1 << 200:
        return "more than 10^60" if number > 0 else "fewer than -10^60"  # Python refuses to write very long ones
    return repr(number if not isinstance(number, str) else number[:60])


def reported_error(chunk: Chunk) -> str | None:
    """What a server says went wrong, in a chunk that is an error, or that is neither a part of an answer nor usage
    and has a message. An error without a word beside a part of an answer (``"error": ""``, ``{"code": 0}``) is how
    some gateways say that there is none."""
    if chunk.error is not None and not (chunk.choices and _says_nothing(chunk.error)):
        return _words(chunk.error)
    if chunk.object == "error":
        return _words(chunk.message)
    for choice in chunk.choices or ():
        if choice.error is not None and not _says_nothing(choice.error):
            return _words(choice.error)
        if choice.finish_reason == "error":
            return "finish_reason error"
    if chunk.choices is None and chunk.usage is None:
        parts = (chunk.message, chunk.detail, chunk.errors, chunk.error_msg, chunk.msg)
        what = next((part for part in parts if part), None)
        return _words(what) if what is not None else None
    return None


def error_words(names: NamedEvents) -> str:
    """What an event whose name speaks of an error says went wrong."""
    try:
        return _words(msgspec.json.decode(names.error))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return names.error.decode("utf-8", "replace")[:_WORDS] or "an error event without a word"


def _says_nothing(what: Any) -> bool:
    return not any(what.values()) if isinstance(what, dict) else not what


def _words(what: Any) -> str:
    while isinstance(what, dict):
        inner = next((what[name] for name in ("error", "message", "detail") if what.get(name)), None)
        if inner is None:
            break
        what = inner
    return str(what)[:_WORDS]
