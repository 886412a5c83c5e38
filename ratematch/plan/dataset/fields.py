"""The names that fields have in the files of different tools, and their values, checked.

Names are those that the tools read or write: TensorRT-LLM (``trtllm-bench``, ``trtllm_custom``), vLLM and SGLang
(``bench serve``, ``bench_serving``), GuideLLM, AIPerf, Mooncake's and Qwen-Bailian's traces, OpenAI's API.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher, get_close_matches
from functools import lru_cache

Item = Mapping[str, object]
"""One object of a data set, as JSON gives it."""

TEXTS = ("prompt", "text", "text_input")
IDS = ("input_ids", "prompt_token_ids", "token_ids", "logits")
INPUT_LENGTHS = (
    "input_length",
    "isl",
    "prompt_tokens",
    "prompt_tokens_count",
    "input_tokens",
    "input_tokens_count",
    "num_input_tokens",
    "num_prompt_tokens",
    "prompt_token_count",
    "input_token_count",
    "input_len",
    "prompt_len",
    "prompt_length",
    "input_seq_len",
)
OUTPUT_LENGTHS = (
    "output_length",
    "osl",
    "max_tokens",
    "max_completion_tokens",
    "max_new_tokens",
    "max_output_tokens",
    "completion_tokens",
    "output_tokens",
    "output_tokens_count",
    "completion_tokens_count",
    "num_output_tokens",
    "output_token_count",
    "output_len",
    "expected_output_len",
    "output_seq_len",
)
SAMPLING = ("sampling_params", "parameters", "generation_config", "extra", "extra_body")
"""Objects inside an item that sampling parameters stand in: SGLang, TGI, Hugging Face, AIPerf."""

TIMES = ("timestamp", "arrival_time", "timestamp_s", "timestamp_ms", "timestamp_us", "timestamp_ns")
DELAYS = ("delay", "delay_s", "delay_ms", "delay_us", "delay_ns")
CONTENTS = ("messages", "body", "payload", "conversations", "conversation", "turns", "requests", "input")
OTHERS = ("hash_ids", "session_id", "chat_id", "parent_chat_id", "block_size", "texts")
MEDIA = ("image", "images", "audio", "audios", "video", "videos", "media_paths", "image_data", "multi_modal_data")

TEXT_LIKE = (
    "question",
    "instruction",
    "query",
    "content",
    "user_prompt",
    "input_text",
    "prompt_text",
    "request",
    "human",
)
"""Fields in which other data sets keep a prompt, each in its own way; none of them is sent."""

BESIDE_PROMPTS = ("system_prompt", "system", "system_message")

KNOWN = (*TEXTS, *IDS, *INPUT_LENGTHS, *OUTPUT_LENGTHS, *TIMES, *DELAYS, *CONTENTS, *OTHERS)

READABLE = (
    "prompt or text, input_ids, messages, body (OpenAI batch), conversations, turns, requests, or a length such as "
    "input_length"
)

_LENGTH_LIKE = re.compile(r"tok(en)?s?(_|$)|len(gth)?(_|$)|^isl|^osl|seq_len|_isl|_osl", re.IGNORECASE)
_NOT_LENGTHS = frozenset({"num_tokens", "min_tokens", "total_tokens", "cached_tokens", "tokens"})
_NEAR = 0.84

MOST_TOKENS = 100_000_000
"""A length beyond this is a mistake: no context is a tenth of it."""


def whole(name: str, value: object) -> int:
    """A number of tokens.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) < 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value in (_INF, -_INF):
        raise ValueError(f"{name} is {short(value)}, not a number of tokens")
    if value != int(value):
        raise ValueError(f"{name} is {value}, not a whole number of tokens")
    if value < 0 or value > MOST_TOKENS:
        raise ValueError(f"{name} is a length of {short(value)} tokens")
    return int(value)


_INF = math.inf


def number(name: str, value: object) -> float:
    """A time; text of digits is read too.

    Raises:
        ValueError: it is none, or negative.
    """
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) < 24:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {short(value)}, not a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}, not a finite number")
    if not 0 <= value < 1e24:
        raise ValueError(f"{name} is {short(value)}, which is no time")
    return value


def string(name: str, value: object) -> str:
    """A prompt's text.

    Raises:
        ValueError: it is none, empty, or cannot be sent as UTF-8.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} is {short(value)}, not a text")
    if not value:
        raise ValueError(f"{name} is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} holds half of a surrogate pair, which no server takes") from None
    return value


def token_ids(name: str, value: object) -> tuple[int, ...]:
    """Token ids of a prompt.

    Raises:
        ValueError: it is no list of them, or empty.
    """
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} is {short(value)}, not a list of token ids")
    for position, one in enumerate(value):
        if type(one) is not int or not 0 <= one < 2**31:
            raise ValueError(f"{name}[{position}] is {short(one)}, not a token id")
    return tuple(value)


def objects(name: str, value: object) -> Sequence[Item]:
    """A list of JSON objects, such as messages or turns.

    Raises:
        ValueError: it is none, or empty.
    """
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} is {short(value)}, not a list of objects")
    for position, one in enumerate(value):
        if not isinstance(one, dict):
            raise ValueError(f"{name}[{position}] is {short(one)}, not an object")
    return value


def given(item: Item, names: Iterable[str]) -> list[str]:
    """Those of ``names`` that have a value."""
    return [name for name in names if item.get(name) is not None]


def one_length(item: Item, names: Sequence[str], what: str) -> int | None:
    """The length that an item says, under whichever of its names.

    Raises:
        ValueError: two names say different lengths, or it is no length.
    """
    lengths = {name: whole(name, item[name]) for name in given(item, names)}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"says two {what} lengths: {said}")
    return next(iter(lengths.values()), None)


def output_length(item: Item) -> int | None:
    """Output tokens, as an item or the sampling parameters inside it say.

    Raises:
        ValueError: two different ones, or none that is a length.
    """
    said = {name: item[name] for name in given(item, OUTPUT_LENGTHS)}
    for holder in SAMPLING:
        inside = item.get(holder)
        if isinstance(inside, dict):
            said |= {f"{holder}.{name}": inside[name] for name in given(inside, OUTPUT_LENGTHS)}
    return one_length(said, tuple(said), "output")


def refuse_media(item: Item) -> None:
    """Raises ValueError: the prompt has a part that is not text."""
    if media := given(item, MEDIA):
        raise ValueError(f"{media[0]}: images, audio and video are not sent; prompts are text or token ids")


_SLIPS = (INPUT_LENGTHS, OUTPUT_LENGTHS, TIMES, DELAYS, ("hash_ids",), ("session_id",))


def refuse_near_misses(item: Item) -> None:
    """A field that is all but the name of a length or an instant, where the item has none of these, is a typo.

    Raises:
        ValueError: with the name that was meant.
    """
    for name, group, meant in _near_misses(tuple(item)):
        value = item[name]
        if given(item, group) or (group == OUTPUT_LENGTHS and output_length(item) is not None):
            continue
        numeric = isinstance(value, int | float) or (isinstance(value, str) and value.isdigit())
        wanted = {"hash_ids": isinstance(value, list), "session_id": isinstance(value, str | int)}
        if value is not None and wanted.get(meant, numeric):
            raise ValueError(f"field {name!r} is not known; did you mean {meant!r}?")


@lru_cache(maxsize=4096)
def _near_misses(names: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...], str], ...]:
    """Which of an item's fields are slips of what: lines of a file have the same fields."""
    return tuple(
        (name, group, meant)
        for name in names
        if name not in KNOWN
        for group in _SLIPS
        if (meant := nearest(name, group, _NEAR)) is not None
    )


def refuse_unread_text(item: Item) -> None:
    """Text that is likely meant to be sent, in a field that is not read.

    Raises:
        ValueError: with the field.
    """
    if given(item, (*TEXTS, "texts", *IDS)):
        if beside := [name for name in BESIDE_PROMPTS if isinstance(item.get(name), str) and item[name]]:
            raise ValueError(f"{beside[0]} beside a prompt is not sent; give both as messages")
        return
    for name, value in item.items():
        if not isinstance(value, str) or name in KNOWN:
            continue
        if name.lower() in TEXT_LIKE:
            raise ValueError(f"field {name!r} is not sent; if it is the prompt, call it prompt")
        if meant := nearest(name, TEXTS, _NEAR):
            raise ValueError(f"field {name!r} is not known; did you mean {meant!r}?")


@lru_cache(maxsize=4096)
def nearest(name: str, names: tuple[str, ...], cutoff: float) -> str | None:
    """The one of ``names`` that ``name`` is a slip of, if it is one. ``maxTokens`` is taken for ``max_tokens``."""
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).replace("-", "_").replace(" ", "_").lower()
    close = get_close_matches(plain, names, 1, cutoff)
    return close[0] if close else None


def unread_lengths(item: Item, read: Sequence[str] = KNOWN) -> list[str]:
    """Fields with numbers that look like lengths and are not read."""
    return [
        name
        for name, value in item.items()
        if name not in read
        and name not in _NOT_LENGTHS
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and _LENGTH_LIKE.search(name)
    ]


def describe_unknown(item: Item) -> str:
    """Why an item holds no prompt that is read: its fields, what was perhaps meant, and what would be read."""
    names = ", ".join(short_name(name) for name in list(item)[:12]) or "none"
    names += ", ..." if len(item) > 12 else ""
    meant = [
        f"{close!r} for {name!r}"
        for name in item
        if name not in KNOWN and (close := nearest(name, KNOWN, 0.75)) is not None
    ]
    if not meant:
        meant = [
            f"{close!r} for {name!r}"
            for name in item
            if name not in KNOWN
            for close in TEXTS
            if SequenceMatcher(None, name.lower(), close).ratio() > 0.7
        ]
    hint = f"; did you mean {' and '.join(meant[:2])}?" if meant else ""
    return f"no prompt is read from its fields ({names}){hint}; a line has {READABLE}"


def short(value: object) -> str:
    """A value as a person would see it, cut where it is long."""
    text = (
        repr(value) if not isinstance(value, dict) else f"an object of {', '.join(map(short_name, list(value)[:5]))}"
    )
    return text if len(text) <= 60 else f"{text[:57]}..."


def short_name(name: object) -> str:
    text = str(name)
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    return printable if len(printable) <= 40 else f"{printable[:37]}..."
