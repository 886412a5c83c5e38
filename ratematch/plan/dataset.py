"""Data sets and traces: text to entries, entries to requests. Pure.

Known by their content: Mooncake-style traces (one JSON a line with ``timestamp``, ``input_length``,
``output_length``, ``hash_ids``), TensorRT-LLM's ``trtllm_custom`` (``input`` with ``messages`` and ``max_tokens``),
ShareGPT (a JSON list of ``conversations``), plain lines with ``prompt`` or ``text`` (and ``output_length`` or
``max_tokens``), and lengths alone (``isl``, ``osl``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ratematch.plan.workload import SALT, RequestSpec, Workload

HASH_BLOCK = 512
"""Prompt tokens behind one of a trace's ``hash_ids``, as Mooncake's traces were cut."""

Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Entry:
    """One request of a file. ``isl`` is ``None`` for a text that nobody has counted; ``osl`` where the file has none.

    ``hash_ids``: equal ids at the head of two prompts mean equal blocks of :data:`HASH_BLOCK` tokens.
    """

    isl: int | None = None
    osl: int | None = None
    text: str | None = None
    due_s: float | None = None
    hash_ids: tuple[int, ...] = ()
    session: str | None = None
    delay_s: float = 0.0


def parse_dataset(text: str) -> list[Entry]:
    """The entries of a file, in its order.

    Raises:
        ValueError: not one of the known formats; the message names the line.
    """
    if text.lstrip().startswith("["):
        try:
            listed = json.loads(text)
        except ValueError as problem:
            raise ValueError(f"no JSON list: {problem}") from problem
        numbered = [(number, item) for number, item in enumerate(listed, 1)]
        where = "item"
    else:
        numbered, where = [], "line"
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    numbered.append((number, json.loads(line)))
                except ValueError as problem:
                    raise ValueError(f"line {number}: no JSON: {problem}") from problem
    entries = []
    for number, item in numbered:
        try:
            entry = _read_entry(item)
        except (KeyError, TypeError, ValueError, IndexError) as problem:
            raise ValueError(f"{where} {number}: {type(problem).__name__} {problem}") from problem
        if entry is not None:
            entries.append(entry)
    if not entries:
        raise ValueError("holds no request")
    return entries


def _read_entry(item: dict[str, Any]) -> Entry | None:
    if "conversations" in item or "conversation" in item:
        return _read_sharegpt(item.get("conversations") or item.get("conversation") or [])
    if isinstance(item.get("input"), dict):
        request = item["input"]
        return Entry(text=str(request["messages"][-1]["content"]), osl=_whole(request.get("max_tokens")))
    due = item.get("timestamp")
    delay = item.get("delay")
    return Entry(
        isl=_whole(_first(item, "input_length", "isl", "prompt_tokens")),
        osl=_whole(_first(item, "output_length", "osl", "max_tokens", "completion_tokens")),
        text=_first(item, "text_input", "prompt", "text"),
        due_s=None if due is None else float(due) / 1e3,
        hash_ids=tuple(int(block) for block in item.get("hash_ids") or ()),
        session=None if item.get("session_id") is None else str(item["session_id"]),
        delay_s=0.0 if delay is None else float(delay) / 1e3,
    )


def _read_sharegpt(turns: list[dict[str, str]]) -> Entry | None:
    """The first question; the length of its answer (at four characters a token) is the output length. ``None``
    for an item without both, as ``benchmark_serving`` leaves those out."""
    if len(turns) < 2:
        return None
    return Entry(text=turns[0]["value"], osl=max(1, len(turns[1]["value"]) // 4))


def _first(item: dict[str, Any], *names: str) -> Any:
    return next((item[name] for name in names if item.get(name) is not None), None)


def _whole(value: Any) -> int | None:
    if value is None:
        return None
    number = int(value)
    if number < 0:
        raise ValueError(f"a length of {number}")
    return number


@dataclass(frozen=True)
class Picked:
    """Requests made from a file, and how many entries were too long for the workload."""

    requests: list[RequestSpec]
    too_long: int


def pick_requests(
    entries: Sequence[Entry],
    workload: Workload,
    num_requests: int,
    vocab_size: int,
    seed: int,
    first_seq: int = 0,
    encode: Encode | None = None,
) -> Picked:
    """The first ``num_requests`` requests of a file that are no longer than the workload, in its order.

    With ``encode`` (a tokenizer) texts become ids, else they are sent as text and their prompt length is left to the
    server. Lengths without content become random ids; ``hash_ids`` become equal blocks where they are equal, and an
    entry without them is salted, so that nothing is reused by accident. An entry without an output length asks for
    ``workload.osl``; where that is 1 (context servers), all do. A file that is too short gives fewer requests:
    none is sent twice.
    """
    rng = np.random.default_rng(seed)
    low = min(100, vocab_size // 2)
    blocks: dict[int, NDArray[np.int32]] = {}
    sessions: dict[str, int] = {}
    turns: dict[str, int] = {}
    picked: list[RequestSpec] = []
    too_long = 0
    start_s = next((entry.due_s for entry in entries if entry.due_s is not None), 0.0)
    for entry in entries:
        if len(picked) == num_requests:
            break
        seq = first_seq + len(picked)
        prompt, text = np.empty(0, dtype=np.int32), entry.text
        if text is not None and encode is not None:
            prompt, text = np.array(encode(text), dtype=np.int32), None
        elif text is None:
            prompt = _invent(entry, seq, rng, blocks, seed, low, vocab_size)
        osl = 1 if workload.osl == 1 else entry.osl or workload.osl
        if max(len(prompt), entry.isl or 0) > workload.isl or osl > workload.osl:
            too_long += 1
            continue
        due_s = None if entry.due_s is None else entry.due_s - start_s
        session, turn = None, 0
        if entry.session is not None:
            session = sessions.setdefault(entry.session, first_seq + len(sessions))
            turn = turns.get(entry.session, 0)
            turns[entry.session] = turn + 1
        picked.append(RequestSpec(seq, prompt, osl, text, session, turn, entry.delay_s, due_s))
    return Picked(picked, too_long)


def _invent(
    entry: Entry,
    seq: int,
    rng: np.random.Generator,
    blocks: dict[int, NDArray[np.int32]],
    seed: int,
    low: int,
    vocab_size: int,
) -> NDArray[np.int32]:
    size = entry.isl or 1
    if not entry.hash_ids:
        prompt = rng.integers(low, vocab_size, size=size, dtype=np.int32)
        for place in range(min(size, SALT)):
            prompt[place] = low + (seq // (vocab_size - low) ** place) % (vocab_size - low)
        return prompt
    parts = []
    for number in entry.hash_ids:
        if number not in blocks:
            own = np.random.default_rng([seed, number & 0xFFFFFFFF, number >> 32])
            blocks[number] = own.integers(low, vocab_size, size=HASH_BLOCK, dtype=np.int32)
        parts.append(blocks[number])
    return np.resize(np.concatenate(parts), size)
