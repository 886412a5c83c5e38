"""Lines that are one prompt each: text (vLLM's custom set, GuideLLM, AIPerf's single turn, trtllm-bench), token ids
(trtllm-bench), or lengths alone, with instants and ``hash_ids`` where they are a trace (Mooncake, Qwen-Bailian)."""

from __future__ import annotations

from dataclasses import replace

from ratematch.plan.dataset.entry import SECONDS, Entry, Format, Reading, TimeUnit
from ratematch.plan.dataset.fields import (
    DELAYS,
    IDS,
    INPUT_LENGTHS,
    TEXTS,
    TIMES,
    Item,
    describe_unknown,
    given,
    number,
    one_length,
    output_length,
    refuse_media,
    refuse_near_misses,
    refuse_unread_text,
    short,
    string,
    token_ids,
    whole,
)

BAILIAN_BLOCK = 16
"""Prompt tokens behind one of the ``hash_ids`` of Qwen-Bailian's traces, whose timestamps are in seconds."""


def read_line(item: Item) -> Reading:
    """The request of a line, by what it holds.

    Raises:
        ValueError: nothing that is read, or two things at once.
    """
    refuse_media(item)
    refuse_near_misses(item)
    texts, ids = given(item, (*TEXTS, "texts")), given(item, IDS)
    isl, osl = one_length(item, INPUT_LENGTHS, "input"), output_length(item)
    if isl is None and not texts and not ids:
        if given(item, ("hash_ids",)):
            raise ValueError("has hash_ids and no input_length: how long its prompt is cannot be known")
        raise ValueError(describe_unknown(item))
    refuse_unread_text(item)
    hash_ids = read_hash_ids(item)
    if hash_ids and (texts or ids):
        raise ValueError(f"has hash_ids beside {(texts or ids)[0]}: is the prompt given, or made from the hash_ids?")
    if len(ids) > 1 or len(texts) > 1:
        first, second = (ids if len(ids) > 1 else texts)[:2]
        raise ValueError(f"has both {first} and {second}: which of them is the prompt?")
    kind, entry = _content(item, texts, ids)
    entry = with_timing(replace(entry, isl=isl, osl=osl, hash_ids=hash_ids), item)
    if isl == 0 and not entry.fixed:
        return Reading(kind, left_out="have no prompt token")
    if osl == 0:
        return Reading(kind, left_out="have no output token")
    if kind == "Qwen-Bailian trace":
        return Reading(kind, (entry,), named_unit(item) or "s", read_block(item) or BAILIAN_BLOCK)
    return Reading(kind, (entry,), named_unit(item), read_block(item))


def _content(item: Item, texts: list[str], ids: list[str]) -> tuple[Format, Entry]:
    if ids:  # trtllm-bench takes the ids where a line has the text too
        return "trtllm-bench lines", Entry(ids=token_ids(ids[0], item[ids[0]]))
    if texts:
        name, value = texts[0], item[texts[0]]
        if name == "texts":
            value = _only_text(value)
        if isinstance(value, list):
            return "trtllm-bench lines", Entry(ids=token_ids(name, value))
        kind: Format = "trtllm-bench lines" if "task_id" in item else "prompt lines"
        return kind, Entry(text=string(name, value))
    return _lengths_kind(item), Entry()


def _only_text(value: object) -> object:
    if not isinstance(value, list) or len(value) != 1:
        raise ValueError("texts: several texts a line are a batch of prompts, which is not sent; give one a line")
    one = value[0]
    if not isinstance(one, dict):
        return one
    contents = one.get("contents")
    if not isinstance(contents, list) or len(contents) != 1:
        raise ValueError("texts: several texts a line are a batch of prompts, which is not sent; give one a line")
    return contents[0]


def _lengths_kind(item: Item) -> Format:
    if "parent_chat_id" in item or ("chat_id" in item and "hash_ids" in item):
        return "Qwen-Bailian trace"
    return "Mooncake trace" if given(item, (*TIMES, "hash_ids")) else "lengths"


def read_hash_ids(item: Item) -> tuple[int, ...]:
    """Raises ValueError: no list of whole numbers."""
    value = item.get("hash_ids")
    if value is None:
        return ()
    if not isinstance(value, list) or any(type(one) is not int or abs(one) >= 2**127 for one in value):
        raise ValueError(f"hash_ids is {short(value)}, not a list of whole numbers")
    return tuple(value)


def read_block(item: Item) -> int:
    """Tokens of a block, where an item says so itself; 0 where it does not."""
    value = item.get("block_size")
    return 0 if value is None else whole("block_size", value)


def named_unit(item: Item) -> TimeUnit | None:
    """The unit of time that the names of its fields say, such as ``timestamp_ms``.

    Raises:
        ValueError: two of them.
    """
    units = {unit for name in given(item, (*TIMES, *DELAYS)) for unit in SECONDS if name.endswith(f"_{unit}")}
    if len(units) > 1:
        raise ValueError(f"has times in {' and in '.join(sorted(units))}")
    return next(iter(units), None)


def with_timing(entry: Entry, item: Item) -> Entry:
    """``entry`` with its instant, wait and session.

    Raises:
        ValueError: an instant or a wait that is none, or both.
    """
    times, delays = given(item, TIMES), given(item, DELAYS)
    for names in (times, delays):
        if len(names) > 1:
            raise ValueError(f"has both {names[0]} and {names[1]}")
    at = number(times[0], item[times[0]]) if times else None
    delay = number(delays[0], item[delays[0]]) if delays else 0.0
    if delay and times:
        raise ValueError(f"has both {times[0]} and {delays[0]}: which of them says when it is sent?")
    session = item.get("session_id")
    if session is not None and (not isinstance(session, str | int) or isinstance(session, bool)):
        raise ValueError(f"session_id is {short(session)}, not a name")
    return replace(entry, at=at, delay=delay, session=None if session is None else str(session))
