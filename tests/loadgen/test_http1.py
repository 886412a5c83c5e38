"""HTTP answers, split and framed in every way: nothing crashes, nothing is miscounted."""

import gzip
import itertools
import zlib
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratematch.loadgen.answer import read_stream
from ratematch.loadgen.connection import StreamConnection
from ratematch.loadgen.head import Head, WireError
from ratematch.loadgen.http1 import ChunkWalk, parse_head, unwrap

from .sse_server import full_stream

BODY = full_stream({"max_tokens": 5, "prompt": [1, 2]})


class Listener:
    """What a connection fills; keeps what it was told."""

    def __init__(self) -> None:
        self.wire = bytearray()
        self.ends = array("q")
        self.stamps = array("q")
        self.head: Head | None = None
        self.outcomes: list[Exception | None] = []

    def headed(self, head: Head) -> None:
        self.head = head

    def finished(self, failure: Exception | None) -> None:
        self.outcomes.append(failure)


class NoTransport:
    def set_write_buffer_limits(self, high: int) -> None: ...
    def write(self, data: bytes) -> None: ...
    def abort(self) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0


def receive(wire: bytes, borders: list[int]) -> Listener:
    connection, listener = StreamConnection(lambda gone: None), Listener()
    connection.connection_made(NoTransport())  # type: ignore[arg-type]
    connection.send(b"", listener)
    cuts = sorted({0, len(wire), *(min(border, len(wire)) for border in borders)})
    for begin, end in itertools.pairwise(cuts):
        connection.data_received(wire[begin:end])
    return listener


def chunked(body: bytes, sizes: list[int], trailers: bytes = b"", extension: bytes = b"") -> bytes:
    pieces, at, k = [], 0, 0
    while at < len(body):
        size = sizes[k % len(sizes)]
        piece = body[at : at + size]
        pieces.append(b"%X%b\r\n%b\r\n" % (len(piece), extension, piece))
        at, k = at + size, k + 1
    return b"".join(pieces) + b"0\r\n" + trailers + b"\r\n"


def answer(framed: bytes, *headers: bytes, status: bytes = b"200 OK", before: bytes = b"") -> bytes:
    lines = b"".join(line + b"\r\n" for line in (b"Content-Type: text/event-stream", *headers))
    return before + b"HTTP/1.1 " + status + b"\r\n" + lines + b"\r\n" + framed


@settings(max_examples=150)
@given(
    borders=st.lists(st.integers(1, 1500), max_size=40),
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=5),
    trailers=st.sampled_from([b"", b"X-Time: 0\r\n"]),
    extension=st.sampled_from([b"", b";name=value"]),
    interim=st.booleans(),
    packed=st.sampled_from(["", "gzip", "deflate"]),
    ending=st.sampled_from([b"\n\n", b"\r\n\r\n"]),
)
def test_split_at_any_byte_gives_the_same_answer(
    borders: list[int],
    sizes: list[int],
    trailers: bytes,
    extension: bytes,
    interim: bool,
    packed: str,
    ending: bytes,
) -> None:
    body = BODY.replace(b"\n\n", ending)
    sent = {"": body, "gzip": gzip.compress(body), "deflate": zlib.compress(body)}[packed]
    headers = [b"Transfer-Encoding: chunked", *([b"Content-Encoding: " + packed.encode()] if packed else [])]
    before = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" if interim else b""
    wire = answer(chunked(sent, sizes, trailers, extension), *headers, before=before)
    got = receive(wire, borders)
    assert got.outcomes == [None], "an answer ends once, and not before its last byte"
    assert got.head is not None and got.head.status == 200 and got.head.keep_alive
    plain, ends = unwrap(got.head, got.wire, got.ends)
    assert plain == body
    assert len(ends) == len(got.ends) and ends == sorted(ends) and ends[-1] == len(body)
    read = read_stream(plain, ends, list(range(len(ends))))
    assert (read.outcome, read.osl, len(read.chunk_ns)) == ("ok", 5, 5)


@given(st.binary(max_size=400), st.lists(st.integers(1, 400), max_size=10))
def test_no_bytes_crash_it(noise: bytes, borders: list[int]) -> None:
    for wire in (noise, answer(noise, b"Transfer-Encoding: chunked"), answer(noise, b"Content-Length: 20")):
        got = receive(wire, borders)
        assert len(got.outcomes) <= 1
        if got.head is not None:
            plain, ends = unwrap(got.head, got.wire, got.ends)
            read_stream(plain, ends, list(range(len(ends))))


@given(st.lists(st.integers(0, len(BODY)), max_size=6))
def test_each_read_is_credited_with_the_body_it_brought(borders: list[int]) -> None:
    wire = answer(chunked(BODY, [37]), b"Transfer-Encoding: chunked")
    head = parse_head(wire)
    assert head is not None
    ends = sorted({head.size + border for border in borders} | {len(wire)})
    plain, body_ends = unwrap(head, wire, ends)
    for end, body_end in zip(ends, body_ends, strict=True):
        part = unwrap(head, wire[:end], [end])[0]
        assert (len(part), plain[:body_end]) == (body_end, part)


def test_an_answer_of_known_length_and_one_that_ends_with_the_connection() -> None:
    got = receive(answer(BODY, b"Content-Length: %d" % len(BODY)), [10, 50, 300])
    assert got.outcomes == [None] and got.head is not None
    assert unwrap(got.head, got.wire, got.ends)[0] == BODY
    connection, open_ended = StreamConnection(lambda gone: None), Listener()
    connection.connection_made(NoTransport())  # type: ignore[arg-type]
    connection.send(b"", open_ended)
    connection.data_received(answer(BODY))
    assert open_ended.outcomes == []
    connection.eof_received()
    assert open_ended.outcomes == [None] and open_ended.head is not None and not open_ended.head.keep_alive


def test_a_payload_that_looks_like_the_end_is_not() -> None:
    body = b"data: 0\r\n\r\n" + BODY
    wire = answer(chunked(body, [9, 2, 400]), b"Transfer-Encoding: chunked")
    for border in range(1, len(wire)):
        got = receive(wire, [border])
        assert got.outcomes == [None] and len(got.wire) == len(wire)


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 twohundred\r\n\r\n",
        answer(b"", b"Transfer-Encoding: gzip, chunked"),
        answer(b"", b"Content-Length: many"),
    ],
)
def test_what_is_no_http_answer(wire: bytes) -> None:
    with pytest.raises(WireError):
        parse_head(wire)


def test_chunks_that_lie_about_their_size() -> None:
    head = answer(b"", b"Transfer-Encoding: chunked")
    for framed in (b"zz\r\nabc\r\n0\r\n\r\n", b"2\r\nabc\r\n0\r\n\r\n"):
        with pytest.raises(WireError):
            ChunkWalk(len(head)).ended(bytearray(head + framed))
