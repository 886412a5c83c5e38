"""Times of a request that its server sent with the answer: headers, or a named event behind ``[DONE]``. Pure.

They are kept as text; what they mean is known to the rooms of engines only.
"""

from __future__ import annotations

import re

import msgspec

from ratematch.loadgen.limits import TIMES_BYTES
from ratematch.loadgen.sse import find_named
from ratematch.measure.requesttimes import AskTimes

_DONE = b"[DONE]"
_BEFORE = re.compile(rb"(?:\A|\n\n|\r\r|\r\n\r\n)data:[ \t]*\Z")
_AFTER = re.compile(rb"[ \t]*(?:[\r\n]|\Z)")
"""Around the end of an answer in a stream whose lines end alike: an event of its own."""


def end_of_answer(body: bytes) -> int:
    """Offset behind the ``[DONE]`` of a stream: what comes later is no part of the answer. All of it without one."""
    at = body.find(_DONE)
    while at >= 0:
        end = at + len(_DONE)
        if _BEFORE.search(body, max(0, at - 16), at) and _AFTER.match(body, end):
            return end
        at = body.find(_DONE, end)
    return len(body)


def read_times(ask: AskTimes, head: bytes, body: bytes) -> str | None:
    """The fields of ``ask`` in the ``head`` of an answer or in the event of its stream, as a JSON object of text by
    name; ``None`` where there are none. Never raises.

    Fields beyond :data:`ratematch.loadgen.limits.TIMES_BYTES` in all are left out, in the order of ``ask``.
    """
    sent = _fields_of_event(ask, body[end_of_answer(body) :]) or _fields_of_head(ask, head)
    kept: dict[str, str] = {}
    left = TIMES_BYTES
    for name in ask.fields:
        value = sent.get(name.lower())
        if value is not None and len(value) <= left:
            kept[name] = value
            left -= len(value)
    return msgspec.json.encode(kept).decode() if kept else None


def _fields_of_head(ask: AskTimes, head: bytes) -> dict[str, str]:
    wanted = {name.lower().encode("latin-1") for name in ask.fields}
    fields: dict[str, str] = {}
    for line in head.split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon and (known := name.strip().lower()) in wanted:
            fields[known.decode("latin-1")] = value.strip().decode("latin-1")
    return fields


def _fields_of_event(ask: AskTimes, rest: bytes) -> dict[str, str]:
    payload = find_named(rest, ask.event.encode())
    if payload is None or len(payload) > 2 * TIMES_BYTES:
        return {}
    try:
        content = msgspec.json.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {name.lower(): value for name, value in content.items() if isinstance(value, str)}
