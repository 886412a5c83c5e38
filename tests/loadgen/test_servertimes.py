"""Times that a server sends with an answer: an event behind ``[DONE]`` is no token, and ``[DONE]`` not the end."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratematch.loadgen import Target
from ratematch.loadgen.answer import read_stream
from ratematch.loadgen.client import Exchange, request_encoder
from ratematch.loadgen.connection import Connection
from ratematch.loadgen.finish import finish_record
from ratematch.loadgen.limits import TIMES_BYTES
from ratematch.loadgen.servertimes import end_of_answer, read_times
from ratematch.loadgen.shards import LoadJob, prepare, read_job
from ratematch.measure.records import RequestRecord
from ratematch.measure.requesttimes import AskTimes
from ratematch.plan.load import Concurrency
from ratematch.plan.workload import RequestSpec, Workload
from ratematch.store.records import read_records, write_records

from .sse_server import DONE, token, usage

ASK = AskTimes(("X-return-times", "1"), ("Server-Timing", "X-Times", "X-Steps"), "engine.times")
TIMES = {"Server-Timing": "server_queue;dur=1.25", "X-Times": "server-start;ts=12.5", "X-Other": "no", "X-Steps": 7}
STREAM = token() + token() + usage(4, 2) + DONE
EVENT = b"event: engine.times\ndata: " + json.dumps(TIMES).encode() + b"\n\n"
KEPT = {"Server-Timing": "server_queue;dur=1.25", "X-Times": "server-start;ts=12.5"}


class NoSocket(Connection):
    sent = b""

    def _write(self, request: bytes) -> None:
        self.sent = request

    def _unsent(self) -> bool:
        return False

    def _abort(self) -> None: ...


def exchange_of(reads: list[bytes], head: str = "") -> Exchange:
    """What is on the wire when a chunked answer came in ``reads``."""
    exchange = Exchange(RequestSpec(0, np.zeros(4, dtype=np.int32), 2), 0, sent_ns=0)
    connection = NoSocket(lambda gone: None)
    connection.send(b"", exchange)
    connection.arrived(f"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n{head}\r\n".encode(), 1)
    for number, data in enumerate(reads, 2):
        connection.arrived(b"%x\r\n%b\r\n" % (len(data), data), number)
    connection.arrived(b"0\r\n\r\n", 90)
    exchange.close(True)
    return exchange


def record_of(exchange: Exchange, ask: AskTimes | None = ASK) -> RequestRecord:
    steps = finish_record(exchange, Target("http://127.0.0.1:1", "m", ask=ask))
    while True:
        try:
            next(steps)
        except StopIteration as done:
            record: RequestRecord = done.value
            return record


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_an_event_behind_the_end_is_kept_and_is_no_token(line_end: bytes) -> None:
    reads = [part.replace(b"\n", line_end) for part in (token(), token() + usage(4, 2), DONE, EVENT)]
    record = record_of(exchange_of(reads))
    assert (record.outcome, record.osl, list(record.chunk_ns)) == ("ok", 2, [2, 3])
    assert record.last_token_ns == 3 and record.end_ns == 90
    assert json.loads(record.times or "") == KEPT
    assert record.stream_note is None
    assert record_of(exchange_of(reads), ask=None).times is None


@given(st.data())
def test_reads_may_end_anywhere(data: st.DataObject) -> None:
    body = STREAM + EVENT
    cuts = sorted(data.draw(st.sets(st.integers(1, len(body) - 1), max_size=6)))
    reads = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    record = record_of(exchange_of(reads))
    assert (record.outcome, len(record.chunk_ns), json.loads(record.times or "")) == ("ok", 2, KEPT)


def test_headers_of_an_answer_that_is_no_stream() -> None:
    whole = json.dumps({"choices": [{"text": "ab"}], "usage": {"prompt_tokens": 4, "completion_tokens": 2}}).encode()
    head = (
        "Content-Type: application/json\r\nserver-timing: server_queue;dur=1.25\r\nX-TIMES: server-start;ts=12.5\r\n"
    )
    assert json.loads(record_of(exchange_of([whole], head)).times or "") == KEPT
    assert record_of(exchange_of([whole])).times is None


@pytest.mark.parametrize(
    "event",
    [
        EVENT[: len(EVENT) // 2],
        b"event: engine.times\ndata: not json\n\n",
        b"event: engine.times\ndata: [1]\n\n",
        b'event: engine.times\ndata: {"Server-Timing": null}\n\n',
        b"event: other\ndata: " + json.dumps(TIMES).encode() + b"\n\n",
        b"data: " + json.dumps(TIMES).encode() + b"\n\n",
        b"event: engine.times\n\n",
        b"event: error\ndata: too late\n\n",
        b"event: engine.times\ndata: " + b"[" * 100_000 + b"\n\n",
    ],
    ids=["cut", "no json", "a list", "null", "another", "no name", "no data", "an error", "deep"],
)
def test_what_cannot_be_read_costs_the_times_only(event: bytes) -> None:
    record = record_of(exchange_of([STREAM, event]))
    assert (record.outcome, record.osl, record.times) == ("ok", 2, None)


def test_an_event_without_the_end_of_the_answer_is_no_end() -> None:
    record = record_of(exchange_of([STREAM.removesuffix(DONE), EVENT]))
    assert record.outcome == "truncated" and len(record.chunk_ns) == 2
    assert record_of(exchange_of([STREAM.removesuffix(DONE), EVENT, DONE])).outcome == "ok"


def test_long_times_are_bounded_field_by_field() -> None:
    fields = {"Server-Timing": "s" * 100, "X-Times": "t" * TIMES_BYTES, "X-Steps": "u" * 100}
    event = b"event: engine.times\ndata: " + json.dumps(fields).encode() + b"\n\n"
    assert json.loads(read_times(ASK, b"", DONE + event) or "") == {"Server-Timing": "s" * 100, "X-Steps": "u" * 100}
    endless = json.dumps({"Server-Timing": "x" * 3 * TIMES_BYTES}).encode()
    assert read_times(ASK, b"", DONE + b"event: engine.times\ndata: " + endless + b"\n\n") is None


def test_a_long_event_does_not_hide_the_answer_from_the_live_view() -> None:
    steps = b'event: engine.times\ndata: {"X-Steps": "' + b"s" * 5000 + b'"}\n\n'
    assert exchange_of([STREAM, steps]).first_look() == (2, True)
    assert exchange_of([STREAM]).first_look() == (2, True)
    assert exchange_of([token()]).first_look() == (0, False)


@pytest.mark.parametrize(
    ("body", "end"),
    [
        (DONE, 12),
        (b"data:[DONE]", 11),
        (token(" data: [DONE] ") + DONE, len(token(" data: [DONE] ")) + 12),
        (b"data: a\ndata: [DONE]\n\n", 22),
        (b"data: [DONE]x\n\n", 15),
        (token(), len(token())),
    ],
)
def test_where_an_answer_ends(body: bytes, end: int) -> None:
    assert end_of_answer(body) == end


def test_named_events_behind_the_end_do_not_matter() -> None:
    answer = read_stream(STREAM + b"event: error\ndata: x\n\n", [10_000], [5])
    assert (answer.outcome, answer.osl) == ("ok", 2)


def test_times_are_asked_for_by_a_header_only_where_they_are_wanted() -> None:
    target = Target("http://127.0.0.1:1", "m")
    spec = RequestSpec(0, np.zeros(4, dtype=np.int32), 2)
    assert b"X-return-times" not in request_encoder(target)(spec)
    asking = request_encoder(replace(target, ask=ASK))(spec)
    assert re.search(rb"\r\nX-return-times: 1\r\n", asking)


def test_senders_in_processes_of_their_own_ask_too(tmp_path: Path) -> None:
    for ask in (None, ASK):
        folder = tmp_path / str(ask is None)
        folder.mkdir()
        target = Target("http://127.0.0.1:1", "m", ask=ask)
        prepare(folder, LoadJob(target, Concurrency(1, 1), Workload(4, 2), 100, 0), 2)
        assert read_job(folder)[0].target.ask == ask


def test_times_are_kept_with_the_records(tmp_path: Path) -> None:
    records = [RequestRecord(0, 1, times='{"X-Times": "a"}'), RequestRecord(1, 2)]
    write_records(tmp_path / "records.parquet", records)
    assert [record.times for record in read_records(tmp_path / "records.parquet")] == ['{"X-Times": "a"}', None]
