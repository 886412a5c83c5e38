"""Answers that our own reader of HTTP does not take: aiohttp's parser has its turn."""

import sys
import zlib

import pytest

from ratematch.loadgen import Target, drive
from ratematch.loadgen.answer import read_stream
from ratematch.loadgen.head import WireError
from ratematch.loadgen.http1 import unwrap
from ratematch.plan.load import Concurrency
from ratematch.plan.workload import Workload, make_requests

from .sse_server import Reply, full_stream, serve
from .test_http1 import BODY, answer, chunked, receive

CHUNKED = b"Transfer-Encoding: chunked"


def bare(wire: bytes) -> bytes:
    """The head's lines end in bare line feeds, as a few proxies write them."""
    head, _, framed = wire.partition(b"\r\n\r\n")
    return head.replace(b"\r\n", b"\n") + b"\n\n" + framed


@pytest.mark.parametrize(
    "wire",
    [
        bare(answer(chunked(BODY, [50]), CHUNKED)),
        bare(answer(BODY, b"Content-Length: %d" % len(BODY))),
        bare(answer(chunked(zlib.compress(BODY), [50]), CHUNKED, b"Content-Encoding: deflate")),
    ],
)
def test_bare_line_feeds_are_read_by_the_library_wherever_the_reads_end(wire: bytes) -> None:
    for border in range(1, len(wire), 7):
        got = receive(wire, [border, border + 1, border + 200])
        assert got.outcomes == [None], "an answer ends once"
        assert got.head is not None and got.head.odd and got.head.keep_alive and got.head.status == 200
        assert got.head.content_type == "text/event-stream"
        plain, ends = unwrap(got.head, got.wire, got.ends)
        assert plain == BODY and len(ends) == len(got.ends) and ends[-1] == len(BODY)
        read = read_stream(plain, ends, list(range(len(ends))))
        assert (read.outcome, read.osl, len(read.chunk_ns)) == ("ok", 5, 5)


def test_an_answer_that_neither_reads_says_why_once() -> None:
    got = receive(b"SSH-2.0-OpenSSH\r\n\r\n", [4])
    assert [str(each) for each in got.outcomes] == ["no HTTP answer: it begins with b'SSH-'"]
    broken = bare(answer(b"5\r\nhello\r\nzz\r\n", CHUNKED))
    got = receive(broken, [len(broken) - 4])
    assert len(got.outcomes) == 1 and str(got.outcomes[0]).startswith("aiohttp: ")


def test_a_coding_that_nobody_reads_is_named() -> None:
    got = receive(answer(chunked(b"abc", [3]), CHUNKED, b"Content-Encoding: xyz"), [])
    assert got.outcomes == [None] and got.head is not None
    with pytest.raises(WireError, match="content coding 'xyz' is not read here"):
        unwrap(got.head, got.wire, got.ends)


def test_brotli_where_its_package_is_there() -> None:
    brotli = pytest.importorskip("brotli")
    packed = brotli.compress(BODY)
    got = receive(answer(chunked(packed, [40]), CHUNKED, b"Content-Encoding: br"), list(range(100, 900, 90)))
    assert got.outcomes == [None] and got.head is not None
    plain, ends = unwrap(got.head, got.wire, got.ends)
    assert plain == BODY and ends == sorted(ends) and ends[-1] == len(BODY)


def test_brotli_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from aiohttp import http_parser

    monkeypatch.setattr(http_parser, "HAS_BROTLI", False)
    monkeypatch.setattr(sys.modules["aiohttp.http_parser"], "HttpResponseParser", http_parser.HttpResponseParserPy)
    got = receive(answer(chunked(b"abc", [3]), CHUNKED, b"Content-Encoding: br"), [])
    assert got.head is not None
    with pytest.raises(WireError, match=r"(?i)brotli"):
        unwrap(got.head, got.wire, got.ends)


def test_records_of_a_server_with_bare_line_feeds() -> None:
    async def odd(reply: Reply) -> None:
        await reply.raw(b"HTTP/1.1 200 OK\nContent-Type: text/event-stream\nTransfer-Encoding: chunked\n\n")
        stream = full_stream(reply.body)
        await reply.chunk(stream[:100])
        await reply.chunk(stream[100:])
        if reply.number == 2:
            reply.close()
            return
        await reply.end()

    async def until_closed(reply: Reply) -> None:
        await reply.raw(b"HTTP/1.1 200 OK\nContent-Type: text/event-stream\n\n" + full_stream(reply.body))
        reply.close()

    requests = make_requests(Workload(8, 4), 4, 32000, 0)
    with serve(odd) as (url, seen):
        records = drive(Target(url, "m"), Concurrency(1, 4), requests).records
    assert [(record.outcome, record.osl, len(record.chunk_ns)) for record in records] == [("ok", 4, 4)] * 4
    assert seen.connections == 2, "kept alive but for the one that was closed before its framing ended"
    with serve(until_closed) as (url, seen):
        records = drive(Target(url, "m"), Concurrency(1, 4), requests).records
    assert [record.outcome for record in records] == ["ok"] * 4 and seen.connections == 4
