import asyncio
import gc
import os
import resource
import signal
import sys
import threading
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest

from ratematch.errors import UserError
from ratematch.loadgen import LoadControl, LoadResult, Progress, Target, drive
from ratematch.loadgen.client import request_url
from ratematch.plan.load import Concurrency, Rate, due_times_s
from ratematch.plan.workload import RequestSpec, Workload, make_requests

from .sse_server import DONE, Reply, answer_normally, full_stream, serve, token, usage


def specs(number: int, isl: int = 8, osl: int = 4, first: int = 0) -> list[RequestSpec]:
    return make_requests(Workload(isl, osl), number, 32000, seed=first, first_seq=first)


def closed(
    url: str, number: int, concurrency: int = 1, *, target: dict[str, Any] | None = None, **more: Any
) -> LoadResult:
    return drive(
        Target(url, "m", **(target or {})),
        Concurrency(concurrency, number),
        specs(number),
        control=LoadControl(**more),
    )


def outcomes(result: LoadResult) -> Counter[str]:
    return Counter(record.outcome for record in result.records)


def test_closed_loop_holds_exactly_the_concurrency() -> None:
    async def slow(reply: Reply) -> None:
        await answer_normally(reply, gap_s=0.003)

    with serve(slow) as (url, seen):
        result = drive(Target(url, "m"), Concurrency(16, 64), specs(64, first=16), specs(16))
    assert seen.max_in_flight == 16 == result.health.max_in_flight
    assert outcomes(result) == {"ok": 64}
    assert [record.seq for record in result.records] == list(range(16, 80))
    assert [record.seq for record in result.warmup] == list(range(16))
    assert seen.connections == 16  # kept alive from the warm-up on
    assert result.health.at_transport
    assert result.aborted is None


def test_record_of_a_good_request() -> None:
    with serve() as (url, seen):
        result = closed(url, 3)
    for k, record in enumerate(result.records):
        assert (record.isl, record.isl_reported, record.osl_requested, record.osl) == (8, 8, 4, 4)
        assert (record.status, record.error, record.finish_reason) == (200, None, "length")
        assert len(record.chunk_ns) == 4
        assert record.sent_ns and record.first_token_ns and record.last_token_ns and record.end_ns
        instants = [record.intended_ns, record.sent_ns, *record.chunk_ns, record.end_ns]
        assert instants == sorted(instants)
        assert record.sent_ns <= seen.first_byte_ns[k] <= record.first_token_ns
        assert (record.first_token_ns, record.last_token_ns) == (record.chunk_ns[0], record.chunk_ns[-1])
    # A slot is free when its last answer has ended.
    assert [r.intended_ns for r in result.records[1:]] == [r.end_ns for r in result.records[:-1]]
    assert result.start_ns == result.records[0].intended_ns
    assert result.end_ns == result.records[-1].end_ns


def test_body_and_headers_sent() -> None:
    with serve() as (url, seen):
        closed(url, 1, target={"headers": (("Authorization", "Bearer sk-secret"),), "extra_body": {"top_k": 1}})
    prompt = specs(1)[0].prompt.tolist()
    assert seen.paths == ["/v1/completions"]
    assert seen.headers[0]["authorization"] == "Bearer sk-secret"
    assert seen.headers[0]["content-type"] == "application/json"
    assert seen.bodies == [
        {
            "model": "m",
            "prompt": prompt,
            "max_tokens": 4,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "top_k": 1,
        }
    ]


def test_extra_body_takes_a_refused_field_out() -> None:
    with serve() as (url, seen):
        closed(url, 1, target={"extra_body": {"ignore_eos": None, "max_tokens": 2}})
    assert "ignore_eos" not in seen.bodies[0]
    assert seen.bodies[0]["max_tokens"] == 2


def test_chat_sends_messages() -> None:
    with serve() as (url, seen):
        result = closed(url, 1, target={"api": "chat"})
    assert seen.paths == ["/v1/chat/completions"]
    assert seen.bodies[0]["messages"][0]["role"] == "user"
    assert "prompt" not in seen.bodies[0]
    assert outcomes(result) == {"ok": 1}


def test_two_thousand_requests_keep_two_thousand_records() -> None:
    async def every_tenth_fails(reply: Reply) -> None:
        if reply.number % 10 == 3:
            await reply.json(500, {"detail": "Internal server error"})
        else:
            await reply.head()
            await reply.chunk(full_stream(reply.body))
            await reply.end()

    with serve(every_tenth_fails) as (url, _):
        result = closed(url, 2000, 32, backlog_bytes=10_000)
    assert len(result.records) == 2000
    assert [record.seq for record in result.records] == list(range(2000))
    assert outcomes(result) == {"ok": 1800, "http_error": 200}
    failed = next(record for record in result.records if record.outcome == "http_error")
    assert (failed.status, failed.osl, failed.first_token_ns) == (500, None, None)
    assert failed.error == 'HTTP 500: {"detail": "Internal server error"}'


async def _truncated(reply: Reply) -> None:
    await reply.head()
    await reply.chunk(token() + token())
    await reply.end()


async def _closed_early(reply: Reply) -> None:
    await reply.head()
    await reply.chunk(token() + token())
    reply.close()


async def _reset(reply: Reply) -> None:
    await reply.head()
    await reply.chunk(token() + token())
    await asyncio.sleep(0.05)
    reply.reset()


async def _stalls(reply: Reply) -> None:
    await reply.head()
    await reply.chunk(token() + token())
    await asyncio.sleep(30)


async def _gives_no_answer(reply: Reply) -> None:
    await asyncio.sleep(30)


async def _is_no_http(reply: Reply) -> None:
    await reply.raw(b"SSH-2.0-OpenSSH\r\n\r\n")
    reply.close()


async def _hangs_up(reply: Reply) -> None:
    reply.close()


async def _talks_nonsense(reply: Reply) -> None:
    await reply.head()
    await reply.chunk(token() + token() + b"data: {]\n\n" + DONE)
    await reply.end()


async def _reports_in_stream(reply: Reply) -> None:
    await reply.head()
    await reply.chunk(token() + token() + b'data: {"error": {"message": "out of blocks"}}\n\n')
    await reply.end()


async def _no_content(reply: Reply) -> None:
    await reply.raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize(
    ("behaviour", "outcome", "chunks", "says"),
    [
        (_truncated, "truncated", 2, "without [DONE]"),
        (_closed_early, "truncated", 2, ""),
        (_reset, "reset", 2, ""),
        (_stalls, "timeout", 2, "stalled"),
        (_gives_no_answer, "timeout", 0, "no end after 0.4 s"),
        (_is_no_http, "bad_stream", 0, ""),
        (_hangs_up, "reset", 0, ""),
        (_talks_nonsense, "bad_stream", 2, "event 2"),
        (_reports_in_stream, "bad_stream", 2, "out of blocks"),
        (_no_content, "truncated", 0, "0 chunks"),
    ],
)
def test_each_failure_has_its_outcome(behaviour: Any, outcome: str, chunks: int, says: str) -> None:
    async def every_second(reply: Reply) -> None:
        await (behaviour(reply) if reply.number % 2 else answer_normally(reply))

    with serve(every_second) as (url, _):
        result = closed(url, 4, target={"timeout_s": 0.4, "stall_s": 0.2})
    assert [record.outcome for record in result.records] == ["ok", outcome, "ok", outcome]
    failed = result.records[1]
    assert len(failed.chunk_ns) == chunks
    assert failed.error is not None and says in failed.error
    assert failed.osl is None
    assert failed.sent_ns is not None and failed.end_ns is not None
    assert result.aborted is None


def test_full_answer_stays_ok_when_the_connection_breaks_behind_it() -> None:
    async def reset_after_done(reply: Reply) -> None:
        await reply.head()
        await reply.chunk(full_stream(reply.body))
        await asyncio.sleep(0.05)
        reply.reset()

    with serve(reset_after_done) as (url, _):
        assert outcomes(closed(url, 2)) == {"ok": 2}


def test_missing_usage_leaves_the_length_open() -> None:
    async def no_usage(reply: Reply) -> None:
        await reply.head()
        await reply.chunk(token() + token(finish="length") + DONE)
        await reply.end()

    with serve(no_usage) as (url, _):
        record = closed(url, 1).records[0]
    assert (record.outcome, record.osl, record.isl_reported, len(record.chunk_ns)) == ("ok", None, None, 2)


def test_answer_without_streaming() -> None:
    async def whole(reply: Reply) -> None:
        choice = {"text": "a b c d", "finish_reason": "length"}
        await reply.json(200, {"choices": [choice], "usage": {"prompt_tokens": 8, "completion_tokens": 4}})

    with serve(whole) as (url, _):
        record = closed(url, 1, target={"extra_body": {"stream": False, "stream_options": None}}).records[0]
    assert (record.outcome, record.osl, record.first_token_ns, record.chunk_ns) == ("ok", 4, None, [])
    assert record.last_token_ns is not None and record.last_token_ns <= (record.end_ns or 0)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_odd_borders_on_the_wire(size: int) -> None:
    async def in_pieces(reply: Reply) -> None:
        wire = full_stream(reply.body)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        body = b"".join(
            b"%x\r\n" % len(wire[k : k + 13]) + wire[k : k + 13] + b"\r\n" for k in range(0, len(wire), 13)
        )
        for k in range(0, len(head + body), size):
            await reply.raw((head + body)[k : k + size])
            if k % (7 * size) == 0:
                await asyncio.sleep(0)
        await reply.end()

    with serve(in_pieces) as (url, _):
        result = closed(url, 4, 2)
    assert outcomes(result) == {"ok": 4}
    assert all(len(record.chunk_ns) == 4 == record.osl for record in result.records)


def test_compressed_answers_and_interim_responses() -> None:
    import gzip

    async def zipped(reply: Reply) -> None:
        await reply.raw(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" if reply.number == 0 else b"")
        await reply.head(extra="Content-Encoding: gzip\r\n")
        await reply.chunk(gzip.compress(full_stream(reply.body)))
        await reply.end()

    with serve(zipped) as (url, _):
        result = closed(url, 2)
    assert [(record.outcome, record.osl, len(record.chunk_ns)) for record in result.records] == [("ok", 4, 4)] * 2


def test_on_the_standard_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[drive.__module__], "new_event_loop", asyncio.new_event_loop)
    with serve() as (url, _):
        result = closed(url, 20, 4)
    assert outcomes(result) == {"ok": 20}
    assert result.health.event_loop == "asyncio"
    assert result.health.at_transport


def test_open_loop_keeps_its_due_times_while_the_server_stalls() -> None:
    release = threading.Event()

    async def stall(reply: Reply) -> None:
        while reply.number == 5 and not release.is_set():
            # Stops the whole server, as a stalled engine does; let go when the client has fallen due behind it.
            release.wait(0.5)
            release.set()
        await answer_normally(reply)

    load = Rate(100.0, 40, "constant")
    with serve(stall) as (url, _):
        result = drive(Target(url, "m"), load, specs(40))
    due = np.array([record.intended_ns - result.start_ns for record in result.records])
    assert np.abs(due - due_times_s(load, 0) * 1e9).max() <= 1
    assert all((record.sent_ns or 0) >= record.intended_ns for record in result.records)
    assert outcomes(result) == {"ok": 40}
    # Requests due during the stall waited for its end: each 10 ms later in, 10 ms less to wait.
    ttft = np.array([(record.first_token_ns or 0) - record.intended_ns for record in result.records]) / 1e6
    assert ttft[5] >= 500
    assert all(ttft[5 + k] >= 500 - 10 * k - 5 for k in range(1, 35))


def test_same_seed_same_schedule() -> None:
    def due(seed: int) -> list[int]:
        result = drive(Target(url, "m"), Rate(2000.0, 30), specs(30), seed=seed)
        return [record.intended_ns - result.start_ns for record in result.records]

    with serve() as (url, _):
        assert due(7) == due(7) != due(8)


def test_staggered_slots() -> None:
    async def slow(reply: Reply) -> None:
        await answer_normally(reply, gap_s=0.1)

    with serve(slow) as (url, _):
        result = drive(Target(url, "m"), Concurrency(4, 4, stagger_s=0.2), specs(4))
    assert [record.intended_ns - result.start_ns for record in result.records] == [
        0,
        50_000_000,
        100_000_000,
        150_000_000,
    ]


def test_stop_cancels_what_is_in_flight_and_invents_nothing() -> None:
    stop = threading.Event()

    async def hang(reply: Reply) -> None:
        if reply.number >= 4:
            stop.set()
            await asyncio.sleep(30)
        await answer_normally(reply)

    with serve(hang) as (url, _):
        result = closed(url, 100, 4, stop=stop)
    assert outcomes(result) == {"ok": 4, "cancelled": 4}
    assert result.aborted == "stopped on request"


def test_stop_in_an_open_loop_and_in_warm_up() -> None:
    stop = threading.Event()
    stop.set()
    with serve() as (url, _):
        opened = drive(Target(url, "m"), Rate(0.5, 50), specs(50), control=LoadControl(stop))
        warm = drive(Target(url, "m"), Rate(0.5, 50), specs(50), specs(50), control=LoadControl(stop))
    assert opened.aborted == warm.aborted == "stopped on request"
    assert len(opened.records) == len(warm.warmup) == 1
    assert warm.records == []


def test_gives_up_when_the_server_is_gone() -> None:
    with serve() as (url, _):
        pass
    result = closed(url, 500, 4, give_up_after=10)
    assert result.aborted is not None and "connect errors in a row" in result.aborted
    assert 10 <= len(result.records) <= 14
    assert set(outcomes(result)) <= {"connect_error", "cancelled"}
    assert result.records[0].sent_ns is None


def test_keys_stay_out_of_records_and_reprs() -> None:
    async def echo_key(reply: Reply) -> None:
        await reply.json(401, {"error": f"bad key sk-secret-123 {reply.body['model']}"})

    target = Target("", "m", headers=(("Authorization", "Bearer sk-secret-123"),))
    assert "sk-secret" not in repr(target)
    with serve(echo_key) as (url, _):
        result = drive(Target(url, "m", headers=target.headers), Concurrency(1, 1), specs(1))
    assert "sk-secret" not in repr(result)
    assert result.records[0].error == 'HTTP 401: {"error": "bad key *** m"}'


@pytest.mark.parametrize("filler", [285, 290, 295])
def test_keys_are_not_even_shown_in_part(filler: int) -> None:
    async def echo_key(reply: Reply) -> None:
        await reply.head(500, "text/plain")
        await reply.chunk(b"x" * filler + b" sk-secret-123")
        await reply.end()

    with serve(echo_key) as (url, _):
        record = closed(url, 1, target={"headers": (("X-Api-Key", "sk-secret-123"),)}).records[0]
    assert record.error is not None and "sk-" not in record.error


def test_keys_stay_out_of_errors_inside_a_stream() -> None:
    async def echo_key(reply: Reply) -> None:
        await reply.head()
        await reply.chunk(token() + b'data: {"error": "key sk-secret-123 has no credit"}\n\n')
        await reply.end()

    with serve(echo_key) as (url, _):
        record = closed(url, 1, target={"headers": (("X-Api-Key", "sk-secret-123"),)}).records[0]
    assert record.error == "the server reports in its stream: key *** has no credit"


def test_progress_and_collector() -> None:
    seen: list[Progress] = []

    async def slow(reply: Reply) -> None:
        await answer_normally(reply, gap_s=0.05)

    def note(progress: Progress) -> None:
        seen.append(progress)
        assert gc.isenabled() == (progress.phase == "warm-up")

    with serve(slow) as (url, _):
        drive(
            Target(url, "m"),
            Concurrency(2, 4),
            specs(4),
            specs(2),
            control=LoadControl(on_progress=note, progress_s=0.05),
        )
    assert gc.isenabled()
    assert {progress.phase for progress in seen} == {"warm-up", "load"}
    last = seen[-1]
    assert (last.sent, last.done, last.failed, last.in_flight, last.tokens, last.total) == (4, 4, 0, 0, 16, 4)
    assert last.ttft_ms is not None and last.ttft_ms >= 50
    assert any(progress.in_flight == 2 for progress in seen)


def test_an_error_in_the_progress_view_is_not_lost() -> None:
    def broken(progress: Progress) -> None:
        raise ZeroDivisionError

    async def slow(reply: Reply) -> None:
        await answer_normally(reply, gap_s=0.1)

    with serve(slow) as (url, _), pytest.raises(ZeroDivisionError):
        closed(url, 50, 1, on_progress=broken, progress_s=0.01)
    assert gc.isenabled()


def test_ctrl_c_leaves_a_clean_process() -> None:
    async def hang(reply: Reply) -> None:
        if reply.number == 8:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(3600)
        await answer_normally(reply)

    gc.freeze()  # as a caller may have
    frozen = gc.get_freeze_count()
    with serve(hang) as (url, _), pytest.raises(KeyboardInterrupt):
        closed(url, 50, 1)
    assert gc.isenabled()
    assert 0 < gc.get_freeze_count() <= frozen, "what the caller froze, and nothing of the load's"


def test_file_limit_follows_the_concurrency() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, hard))
    try:
        with serve() as (url, _):
            closed(url, 1, 600)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 600
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://h:8000", "http://h:8000/v1/completions"),
        ("http://h:8000/v1/", "http://h:8000/v1/completions"),
        ("h:8000", "http://h:8000/v1/completions"),
        ("https://h/prefix", "https://h/prefix/v1/completions"),
    ],
)
def test_base_url_forms(given: str, url: str) -> None:
    assert request_url(Target(given, "m")) == url


@pytest.mark.parametrize("given", ["", "ftp://h", "http://", "http://:80", "http://user:secret@h:80"])
def test_unusable_base_url(given: str) -> None:
    with pytest.raises(UserError) as refused:
        drive(Target(given, "m"), Concurrency(1, 1), specs(1))
    assert "secret" not in str(refused.value)


def test_wall_clock_of_the_start() -> None:
    before = time.time_ns()
    with serve() as (url, _):
        result = closed(url, 1)
    assert before <= result.wall_start_ns <= time.time_ns()


def test_nothing_to_send() -> None:
    with serve() as (url, _):
        assert closed(url, 0).records == []


def test_usage_event_alone_is_no_token() -> None:
    async def empty(reply: Reply) -> None:
        await reply.head()
        await reply.chunk(usage(8, 0) + DONE)
        await reply.end()

    with serve(empty) as (url, _):
        record = closed(url, 1).records[0]
    assert (record.outcome, record.osl, record.first_token_ns) == ("ok", 0, None)
