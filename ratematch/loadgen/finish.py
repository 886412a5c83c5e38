"""From an exchange of bytes to the record of a request."""

from __future__ import annotations

from array import array
from collections.abc import Generator

from ratematch.loadgen.answer import Answer, read_stream_steps, read_whole
from ratematch.loadgen.client import Exchange, Target
from ratematch.loadgen.generate import is_generate, read_generate_steps
from ratematch.loadgen.head import WireError, is_success
from ratematch.loadgen.servertimes import read_times
from ratematch.loadgen.sse import is_stream
from ratematch.measure.records import RequestRecord
from ratematch.store.masking import mask

_BODY_SHOWN = 300
"""Characters of an error answer kept in a record."""

_BODY_READ = 1 << 16
"""Bytes of an error answer that are looked at for them."""

_SECRET_MIN = 4
"""Shorter header values (``1``, ``no``) are no secrets, and replacing them would garble every message."""


def finish_record(exchange: Exchange, target: Target) -> Generator[None, None, RequestRecord]:
    """The record of ``exchange``, made in small steps. Frees the raw bytes it held.

    Whatever an answer holds costs its own record only: what nobody foresaw is a ``bad_stream`` too.
    """
    record = RequestRecord(
        seq=exchange.spec.seq,
        intended_ns=exchange.intended_ns,
        sent_ns=exchange.sent_ns,
        end_ns=exchange.end_ns,
        isl=exchange.spec.isl,
        osl_requested=exchange.spec.osl,
        status=exchange.status,
        session=exchange.spec.session,
        turn=exchange.spec.turn if exchange.spec.session is not None else None,
    )
    try:
        yield from _read_answer(record, exchange, target)
    except Exception as problem:
        record.outcome, record.chunk_ns = "bad_stream", []
        record.first_token_ns = record.last_token_ns = None
        record.error = redact(
            f"its answer could not be read ({type(problem).__name__}: {problem})"[:_BODY_SHOWN], target
        )
    exchange.wire, exchange.ends, exchange.stamps, exchange.task = bytearray(), array("q"), array("q"), None
    return record


def _read_answer(record: RequestRecord, exchange: Exchange, target: Target) -> Generator[None, None, None]:
    """Fill ``record`` with what the answer says, and how the request ended."""
    try:
        body, ends = exchange.body()
    except WireError as problem:
        body, ends = b"", []
        exchange.failure = ("bad_stream", str(problem))
    if exchange.status is not None and not is_success(exchange.status):
        record.outcome = "http_error"
        record.error = f"HTTP {exchange.status}: {redact(_beginning(body), target)[:_BODY_SHOWN]}"
    elif is_generate(target.api):
        answer = yield from read_generate_steps(body, ends, exchange.stamps, exchange.spec.osl)
        _take(record, answer)
        _take_span(record)
    elif _is_whole(exchange, body):
        _take(record, read_whole(body))
        record.last_token_ns = exchange.stamps[-1] if exchange.stamps and record.outcome == "ok" else None
    else:
        answer = yield from read_stream_steps(body, ends, exchange.stamps)
        _take(record, answer)
        _take_span(record)
    if target.ask is not None and exchange.head is not None:
        times = read_times(target.ask, bytes(exchange.wire[: exchange.head.size]), body)
        record.times = None if times is None else mask(times)
    if exchange.failure is not None and record.outcome not in ("ok", "http_error"):
        # A full answer with [DONE] stays one, whatever happens to the connection behind it.
        record.outcome, record.error = exchange.failure
    if record.error is not None:
        record.error = redact(record.error, target)


def _beginning(body: bytes) -> str:
    """An error answer on one line, as far as it may be shown: never half a word, which could be half a secret."""
    words = body[:_BODY_READ].decode("utf-8", "replace").split()
    if len(body) > _BODY_READ and words and len(words[-1]) < _BODY_READ // 2:
        words.pop()
    return " ".join(words)


def _is_whole(exchange: Exchange, body: bytes) -> bool:
    """Is the answer one JSON value? Its first bytes say so: gateways label event streams ``application/json`` too,
    and servers that do not stream label one value ``text/event-stream``."""
    stream = is_stream(body)
    return exchange.json if stream is None else not stream


def redact(text: str, target: Target) -> str:
    """``text`` without the values of the target's headers, the secret behind ``Bearer``, and secrets of servers."""
    for _, value in target.headers:
        for secret in (value, value.rpartition(" ")[2]):
            if len(secret) >= _SECRET_MIN:
                text = text.replace(secret, "***")
    return mask(text)


def _take_span(record: RequestRecord) -> None:
    if record.chunk_ns:
        record.first_token_ns, record.last_token_ns = record.chunk_ns[0], record.chunk_ns[-1]


def _take(record: RequestRecord, answer: Answer) -> None:
    record.outcome, record.error = answer.outcome, answer.error
    record.chunk_ns = answer.chunk_ns
    record.isl_reported, record.osl, record.cached_tokens = answer.isl, answer.osl, answer.cached_tokens
    record.finish_reason = None if answer.finish_reason is None else mask(answer.finish_reason)
    record.decoded_per_iter = answer.decoded_per_iter
    record.later_tokens, record.stream_note = answer.later_tokens, answer.stream_note
    record.other_first_ns, record.other_last_ns = answer.other_first_ns, answer.other_last_ns
