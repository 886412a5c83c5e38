"""From the bytes of an answer to a record: which status, and which labels, an answer may have."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ratematch.loadgen.client import Exchange, Target
from ratematch.loadgen.connection import Connection
from ratematch.loadgen.finish import finish_record
from ratematch.measure.records import RequestRecord
from ratematch.plan.workload import RequestSpec

CHUNKS = [{"choices": [{"index": 0, "text": "a", "finish_reason": None}]}] * 3
USAGE = {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 3}}
STREAM = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in [*CHUNKS, USAGE]) + "data: [DONE]\n\n"
WHOLE = json.dumps({"choices": [{"text": "abc"}], "usage": {"prompt_tokens": 4, "completion_tokens": 3}})


class NoSocket(Connection):
    def _write(self, request: bytes) -> None: ...

    def _unsent(self) -> bool:
        return False

    def _abort(self) -> None: ...


def receive(body: str, status: int = 200, kind: str = "text/event-stream") -> RequestRecord:
    """The record of an answer that came in one read."""
    exchange = Exchange(RequestSpec(0, np.zeros(4, dtype=np.int32), 3), 0, sent_ns=0)
    connection = NoSocket(lambda gone: None)
    connection.send(b"", exchange)
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.arrived(head.encode() + body.encode(), 7)
    exchange.close(True)
    steps = finish_record(exchange, Target("http://127.0.0.1:1", "m"))
    while True:
        try:
            next(steps)
        except StopIteration as done:
            record: RequestRecord = done.value
            return record


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json", "text/plain", "application/octet-stream"])
def test_a_stream_is_read_whatever_it_is_labelled(kind: str) -> None:
    record = receive(STREAM, kind=kind)
    assert (record.outcome, record.osl, record.first_token_ns) == ("ok", 3, 7)
    assert receive(": hello\n\n" + STREAM, kind=kind).outcome == "ok"
    assert receive("event: message\n" + STREAM, kind=kind).outcome == "ok"


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
def test_one_value_is_read_whatever_it_is_labelled(kind: str) -> None:
    record = receive(WHOLE, kind=kind)
    assert (record.outcome, record.osl, record.first_token_ns) == ("ok", 3, None)
    failed = receive('{"error": {"message": "engine died"}}', kind=kind)
    assert (failed.outcome, failed.error) == ("bad_stream", "the server reports: engine died")


@pytest.mark.parametrize("status", [200, 201, 202, 203, 206])
def test_a_success_with_a_body_is_an_answer(status: int) -> None:
    record = receive(STREAM, status)
    assert (record.outcome, record.status, record.osl) == ("ok", status, 3)


@pytest.mark.parametrize("status", [204, 307, 404, 429, 500])
def test_every_other_status_is_an_error(status: int) -> None:
    assert receive("" if status == 204 else STREAM, status).outcome == "http_error"
