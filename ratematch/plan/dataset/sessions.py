"""Conversations a line: AIPerf's ``turns``, and recorded sessions (``requests``) as AgentX replays them."""

from __future__ import annotations

from dataclasses import replace

from ratematch.plan.dataset.entry import Entry, Reading
from ratematch.plan.dataset.fields import (
    OUTPUT_LENGTHS,
    TEXTS,
    Item,
    given,
    number,
    objects,
    one_length,
    refuse_media,
    short,
    short_name,
)
from ratematch.plan.dataset.lines import read_block, read_hash_ids, read_line

_CALLS = ("n", "s")
"""Kinds of a recorded session's requests that are calls of a model: plain and streamed."""


def read_turns(item: Item) -> Reading:
    """AIPerf's ``session_id`` with ``turns``. A conversation of one turn is a request of its own.

    Raises:
        ValueError: several turns, whose prompts hold what the server answered meanwhile; or one that is not read.
    """
    value = item["turns"]
    if isinstance(value, list) and any(isinstance(turn, str) for turn in value):
        raise ValueError("turns is a list of texts; give a line a prompt, or turns as objects with text")
    turns = objects("turns", value)
    if len(turns) > 1:
        raise ValueError(
            f"has {len(turns)} turns, and each after the first needs what the server answered before, which is not "
            "put into prompts; write each request's whole messages on a line of its own (messages, session_id), or "
            "let --turns invent conversations"
        )
    turn = turns[0]
    if not given(turn, (*TEXTS, "texts")):
        names = ", ".join(map(short_name, turn)) or "none"
        raise ValueError(f"turns[0] has no text (fields: {names})")
    if turn.get("role") not in (None, "user"):
        raise ValueError(f"turns[0] has the role {short(turn['role'])}: there is no turn of the user to be answered")
    try:
        inside = read_line(turn)
    except ValueError as problem:
        raise ValueError(f"turns[0]: {problem}") from problem
    return Reading("AIPerf conversations", inside.entries, inside.time_unit, left_out=inside.left_out)


def read_session(item: Item) -> Reading:
    """A recorded session: ``requests`` with ``in``, ``out`` and ``hash_ids``, each a whole prompt; ``block_size``
    tokens are behind one of its ``hash_ids``, which mean something within the session only. Times are in seconds.

    ``think_time`` passes before a request, or, where that is not there, what of ``t`` the call before it did not use
    (``api_time``).

    Raises:
        ValueError: a request that is not read, a session inside a session.
    """
    requests = objects("requests", item["requests"])
    name = item.get("session_id", item.get("id"))
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise ValueError("has requests and no session_id or id: which session is it?")
    scope = item.get("hash_id_scope", "local")
    if scope not in ("local", "global"):
        raise ValueError(f"hash_id_scope is {short(scope)}, not local or global")
    block = read_block(item)
    entries: list[Entry] = []
    before: Item | None = None
    empty = 0
    notes: dict[str, None] = {}
    for position, request in enumerate(requests):
        try:
            entry = _read_call(request, block)
            delay, overlaps = _wait(request, before)
        except ValueError as problem:
            raise ValueError(f"requests[{position}]: {problem}") from problem
        before = request
        if overlaps:
            notes[OVERLAPS] = None
        if not entry.isl or not entry.osl:
            empty += 1
            continue
        own = str(name) if scope == "local" else ""
        entries.append(replace(entry, session=str(name), scope=own, delay=delay))
    left_out = "have no input or no output token" if empty else ""
    return Reading("session traces", tuple(entries), "s", block, left_out, empty, tuple(notes))


OVERLAPS = "requests that overlapped within a session when it was recorded are sent one after another"


def _read_call(request: Item, block: int) -> Entry:
    kind = request.get("type", "n")
    if kind == "subagent" or "requests" in request:
        raise ValueError("is a session inside the session (a subagent), which is not replayed")
    if kind not in _CALLS:
        raise ValueError(f"has the type {short(kind)}, not one of {', '.join(_CALLS)}")
    refuse_media(request)
    isl = one_length(request, ("in", "input_length", "input_tokens", "isl"), "input")
    osl = one_length(request, ("out", *OUTPUT_LENGTHS), "output")
    if isl is None or osl is None:
        missing = "in (input tokens)" if isl is None else "out (output tokens)"
        raise ValueError(f"has no {missing} (fields: {', '.join(map(short_name, list(request)[:10])) or 'none'})")
    hash_ids = read_hash_ids(request)
    if not hash_ids and (request.get("hash_ids") is None or not isl < block):
        raise ValueError("has no hash_ids: what it shares with the request before it cannot be known")
    return Entry(isl, osl, hash_ids=hash_ids)


def _wait(request: Item, before: Item | None) -> tuple[float, bool]:
    """Seconds between the end of the request before and this one, and whether that one had not ended yet."""
    if request.get("delay") is not None:
        raise ValueError("has delay; the wait before a request of a session is think_time, in seconds")
    think = request.get("think_time")
    wait = None if think is None else number("think_time", think)
    if before is None:
        return 0.0, False
    if all(one is not None for one in (request.get("t"), before.get("t"), before.get("api_time"))):
        begun, ended = number("t", request["t"]), number("t", before["t"]) + number("api_time", before["api_time"])
        return (max(0.0, begun - ended) if wait is None else wait), begun < ended - 1e-3
    return wait or 0.0, False
