"""Answers on the wire, made from a seed: whole ones with what must be read of them, and damaged ones.

``python -m tests.fuzz.wire --seeds 10 --inputs 100000`` tries many; ``test_wire.py`` a few. Half of the inputs are
whole answers that come in reads which end anywhere: outcome, usage and the instant of each chunk must be those by
which they were made. The other half are such answers with bytes changed, cut, doubled, and words put in that some
reader somewhere stumbled over: whatever comes of it, it is a record that can be written.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, get_args

import numpy as np

from ratematch.loadgen.client import Exchange, Target, _failure
from ratematch.loadgen.connection import Connection
from ratematch.loadgen.finish import finish_record
from ratematch.loadgen.limits import COUNT_DIGITS
from ratematch.measure.records import Outcome, RequestRecord
from ratematch.plan.workload import RequestSpec
from ratematch.store.records import write_records

SECRET = "sk-never-to-be-seen"
TARGET = Target("http://127.0.0.1:9", "m", headers=(("Authorization", f"Bearer {SECRET}"),))
LONGEST_S = 10
START_NS, READ_NS = 10**12, 1000
BATCH = 2000
OUTCOMES = get_args(Outcome)

WORDS = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"\n\n",
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"0\r\n\r\n",
        b" \t folded\r\n",
    ),
    *(
        b"%b\r\n" % size
        for size in (b"fffffffffffffff0", b"-1", b"+8", b"0x8", b"1_0", b"7fffffffffffffff", b"8;a=b")
    ),
    *(
        b"Content-Length: %b\r\n" % length
        for length in (
            b"\xb2",
            b"\xb9\xb3",
            b"-1",
            b"+4",
            b"4, 4",
            b"",
            b"1e3",
            b"9" * 20,
            b"8" * 5000,
            b"12345678901",
        )
    ),
    *(b"Transfer-Encoding: %b\r\n" % coding for coding in (b"chunked", b"gzip, chunked", b"identity", b"xchunked")),
    *(b"Content-Encoding: %b\r\n" % coding for coding in (b"gzip", b"br", b"zstd", b"deflate", b"gzip, gzip", b"x")),
    *(
        b"HTTP/1.1 %b\r\n\r\n" % status
        for status in (b"100 Continue", b"101 X", b"103 Hints", b"204 N", b"304 N", b"\xb2\xb2\xb2 X")
    ),
    b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
    b"HTTP/2 200\r\n\r\n",
    b"X-Long: " + b"y" * 9000 + b"\r\n",
    b"X: y\r\n" * 1200,
    b"Connection: close\r\n",
    *(
        b"data: %b\n\n" % text
        for text in (b"[DONE]", b"null", b"[]", b"1", b'"x"', b"[" * 3000, b'{"choices":[' * 400)
    ),
    *(
        b'data: {"choices":[],"usage":{"prompt_tokens":%b,"completion_tokens":%b}}\n\n' % pair
        for pair in (
            (b"9223372036854775808", b"8"),
            (b"8", b"9223372036854775807"),
            (b"1" + b"0" * 40, b"-3"),
            (b"1e400", b"1e17"),
            (b"1e18", b'"' + b"7" * 400 + b'"'),
            (b"3" * 5000, b"3" * 5000),
            (b'"\xc2\xb2"', b"null"),
            (b"true", b"[1]"),
        )
    ),
    *(
        b'data: {"choices":[%b]}\n\n' % choice
        for choice in (
            b'{"text":"a","avg_decoded_tokens_per_iter":1e308}',
            b'{"text":"a","avg_decoded_tokens_per_iter":-1}',
            b'{"text":"a","finish_reason":"\\ud800"}',
            b'{"text":"a","finish_reason":"\\u0000' + b"z" * 9000 + b'"}',
            b'{"token_ids":[1,[2],{"a":3}]}',
            b'{"index":99999999999999999999,"delta":{"' + b"n" * 3000 + b'":"x"}}',
            b"null",
            b"[]",
        )
    ),
    b'data: {"error":' + b"[" * 500 + b"]" * 500 + b"}\n\n",
    b'data: {"error":{"message":"\\u001b[31mbad ' + SECRET.encode() + b'"}}\n\n',
    b"event: error\ndata: " + SECRET.encode() + b"\n\n",
    b"event: error\n\n",
)
"""Of protocols and of JSON, that some reader somewhere stumbled over."""


@dataclass
class Made:
    """A whole answer. ``known``: offset in ``wire`` behind which each chunk is known; ``None`` where it is packed."""

    wire: bytes
    outcome: str
    isl: int | None
    osl: int | None
    chunks: int
    known: list[int] | None
    closes: bool


@dataclass
class Tried:
    """What became of the inputs of one seed. ``failures``: the first input of each, by what happened."""

    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)


class Wireless(Connection):
    """A connection without a socket."""

    def __init__(self) -> None:
        super().__init__(lambda connection: None)

    def _write(self, request: bytes) -> None: ...

    def _unsent(self) -> bool:
        return False

    def _abort(self) -> None: ...


class Once:
    """What the loop's future is to an exchange."""

    def __init__(self) -> None:
        self.results: list[Exception | None] = []

    def done(self) -> bool:
        return bool(self.results)

    def set_result(self, result: Exception | None) -> None:
        self.results.append(result)


def _stream(rng: random.Random) -> tuple[list[bytes], list[int], int | None, bool]:
    """Events, the offset behind each chunk's data in their sequence, tokens, and whether the end is told."""
    end = rng.choice([b"\n\n", b"\n\n", b"\r\n\r\n", b"\r\r"])
    line_end = end[: len(end) // 2]
    chat, number = rng.random() < 0.4, rng.choice([1, 2, 3, 5, 9, 30])
    events = [b": hello" + end] if rng.random() < 0.1 else []
    if chat and rng.random() < 0.5:
        events.append(b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}' + end)
    at, known = sum(map(len, events)), []
    for _ in range(number):
        text = rng.choice(["a", " word", "中文", "\U0001f600", 'x"y', "\\n"])
        choice: dict[str, Any] = {"index": 0, **({"delta": {"content": text}} if chat else {"text": text})}
        data = json.dumps({"choices": [choice]}, ensure_ascii=rng.random() < 0.5).encode()
        before = rng.choice([b"", b"", b"", b"id: 3" + line_end, b": ping" + line_end, b"retry: 9" + line_end])
        events.append(before + rng.choice([b"data: ", b"data:"]) + data + end)
        at += len(events[-1])
        known.append(at - len(end))
    counted, told = rng.random() < 0.85, rng.random() < 0.9
    if counted:
        events.append(b'data: {"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":%d}}' % number + end)
    if told:
        events.append(b"data: [DONE]" + end)
    return events, known, number if counted else None, told


def _chunked(rng: random.Random, payload: bytes, borders: Sequence[int]) -> tuple[bytes, list[tuple[int, int, int]]]:
    """The payload in chunks that end at ``borders``; and begin, end and place on the wire of each."""
    wire, places = b"", []
    for begin, end in pairwise([0, *borders]):
        size = rng.choice([b"%x", b"%X", b"%06x"]) % (end - begin)
        wire += size + rng.choice([b"", b"", b"", b";a=1", b" "]) + b"\r\n"
        places.append((begin, end, len(wire)))
        wire += payload[begin:end] + b"\r\n"
    return wire + rng.choice([b"0", b"000", b"0;x=y"]) + b"\r\n" + rng.choice(
        [b"", b"", b"T: 1\r\n"]
    ) + b"\r\n", places


def make_answer(rng: random.Random) -> Made:
    """A whole answer of any kind that servers give."""
    events, known, osl, told = _stream(rng)
    body = b"".join(events)
    headers = [b"Content-Type: text/event-stream", b"Server: x"]
    packed = rng.choice(["", "", "", "", "gzip", "members", "deflate", "raw"])
    payload = body
    if packed:
        half = rng.randrange(len(body))
        payload = {
            "gzip": lambda: gzip.compress(body, mtime=0),
            "members": lambda: gzip.compress(body[:half], mtime=0) + gzip.compress(body[half:], mtime=0),
            "deflate": lambda: zlib.compress(body),
            "raw": lambda: zlib.compress(body)[2:-4],
        }[packed]()
        headers.append(b"Content-Encoding: " + (b"gzip" if packed in ("gzip", "members") else b"deflate"))
    framing = rng.choice(["chunked", "chunked", "chunked", "length", "close"])
    places = [(0, len(payload), 0)]
    framed = payload
    if framing == "chunked":
        headers.append(rng.choice([b"Transfer-Encoding: chunked", b"transfer-encoding:  Chunked "]))
        borders = sorted({*(rng.randint(1, len(payload)) for _ in range(rng.choice([0, 1, 4, 20]))), len(payload)})
        framed, places = _chunked(rng, payload, borders)
    elif framing == "length":
        headers += [b"Content-Length: %d" % len(payload)] * rng.choice([1, 1, 1, 2])
    rng.shuffle(headers)
    before = rng.choice([b"", b"", b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 E\r\nLink: </x>\r\n\r\n"])
    wire = before + b"HTTP/1.1 200 OK\r\n" + b"".join(line + b"\r\n" for line in headers) + b"\r\n"
    head = len(wire)
    offsets = [head + place + end - first for end in known for first, last, place in places if first < end <= last]
    return Made(
        wire=wire + framed,
        outcome="ok" if told else "truncated",
        isl=4 if osl is not None else None,
        osl=osl,
        chunks=len(known),
        known=None if packed else offsets,
        closes=framing == "close",
    )


def damage(rng: random.Random, wire: bytes) -> bytes:
    """``wire`` with one to six things done to it."""
    changed = bytearray(wire)
    for _ in range(rng.choice([1, 1, 2, 3, 6])):
        near_head = rng.random() < 0.4
        at = rng.randrange((min(len(changed), 200) if near_head else len(changed)) + 1)
        match rng.randrange(8):
            case 0 | 1:
                changed[at:at] = rng.choice(WORDS)
            case 2:
                line = changed.find(b"\r\n") + 2
                changed[line:line] = rng.choice(WORDS)
            case 3:
                changed[at : at + 1] = bytes([rng.randrange(256)])
            case 4:
                del changed[at : at + rng.choice([1, 2, 9, 80])]
            case 5:
                begin = rng.randrange(len(changed) + 1)
                changed[at:at] = changed[begin : begin + rng.choice([1, 8, 60, 300])]
            case 6:
                del changed[at + rng.randrange(1000) :]
            case _:
                word = rng.choice(WORDS)
                changed[at : at + len(word)] = word
    return bytes(changed)


def make_borders(rng: random.Random, size: int) -> list[int]:
    """Where reads end."""
    if size and rng.random() < 0.15:
        return list(range(1, size + 1))
    return sorted({*(rng.randint(1, max(1, size)) for _ in range(rng.choice([0, 1, 2, 8, 25]))), size})


def receive(wire: bytes, borders: Sequence[int], broken: bool = False) -> tuple[RequestRecord, bool]:
    """The record of ``wire`` that comes in reads to ``borders``, read k at ``START_NS + k * READ_NS``; and whether
    the answer was known to be over before the connection was."""
    exchange = Exchange(RequestSpec(0, np.arange(4, dtype=np.int32), 8), START_NS, sent_ns=START_NS)
    once: Any = Once()
    exchange.answered = once
    connection = Wireless()
    connection.send(b"", exchange)
    for number, (begin, end) in enumerate(pairwise([0, *borders])):
        if connection.closed or once.done():
            break
        connection.arrived(wire[begin:end], START_NS + (number + 1) * READ_NS)
    over = once.done()
    if not over:
        connection.ended(ConnectionResetError("reset") if broken else None)
    assert len(once.results) == 1, f"an answer ends once, not {len(once.results)} times"
    exchange.failure = _failure(once.results[0], exchange)
    exchange.close(exchange.failure is None)
    exchange.first_look()
    assert exchange.first_body_ns is None or exchange.first_body_ns > START_NS
    steps = finish_record(exchange, TARGET)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            record: RequestRecord = done.value
            return record, over


def check_whole(made: Made, borders: Sequence[int]) -> RequestRecord:
    """Raises AssertionError: something else was read than was made."""
    record, over = receive(made.wire, borders)
    got = (record.outcome, record.isl_reported, record.osl, len(record.chunk_ns))
    assert got == (made.outcome, made.isl, made.osl, made.chunks), f"read {got} {record.error}"
    assert over or made.closes, "its end was not seen"
    if made.known is not None:
        reads = [next(k for k, border in enumerate(borders) if border >= offset) for offset in made.known]
        assert record.chunk_ns == [START_NS + (k + 1) * READ_NS for k in reads], "an instant is not that of its read"
    return record


def check_damaged(wire: bytes, borders: Sequence[int], broken: bool) -> RequestRecord:
    """Raises AssertionError: the record is none that may be."""
    record, _ = receive(wire, borders, broken)
    assert record.outcome in OUTCOMES, record.outcome
    assert record.error is None or (len(record.error) < 700 and SECRET not in record.error), "the error's text"
    assert "could not be read (" not in (record.error or ""), f"nobody foresaw it: {record.error}"
    for number in (record.isl_reported, record.osl, record.cached_tokens, record.later_tokens):
        assert number is None or 0 <= number < 10**COUNT_DIGITS, f"a count of {number}"
    assert len(record.finish_reason or "") <= 100 and len(record.stream_note or "") < 700
    return record


class Hang(BaseException):
    """One input took longer than it may."""


def search(seed: int, inputs: int, folder: Path) -> Tried:
    """Try ``inputs`` of a seed; half of them whole, half damaged."""
    rng, tried = random.Random(seed), Tried()
    batch: list[RequestRecord] = []

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang

    earlier = signal.signal(signal.SIGALRM, ring)
    try:
        while tried.inputs < inputs:
            made = make_answer(rng)
            for whole in (True, True, False, False):
                wire = made.wire if whole else damage(rng, made.wire)
                borders, broken = make_borders(rng, len(wire)), rng.random() < 0.3
                tried.inputs += 1
                signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
                try:
                    record = check_whole(made, borders) if whole else check_damaged(wire, borders, broken)
                    batch.append(record)
                    tried.outcomes[record.outcome] += 1
                except (Exception, Hang) as problem:
                    tried.failures.setdefault(_where(problem), repr((wire[:3000], borders[:9], broken)))
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            if len(batch) >= BATCH or tried.inputs >= inputs:
                write_records(folder / "records.parquet", batch)
                batch.clear()
    finally:
        signal.signal(signal.SIGALRM, earlier)
    return tried


def _where(problem: BaseException) -> str:
    last = traceback.extract_tb(problem.__traceback__)[-1]
    return f"{type(problem).__name__} at {Path(last.filename).name}:{last.lineno}: {str(problem)[:80]}"


def report(seed: int, tried: Tried) -> Iterator[str]:
    """A line of counts, and one for each failure."""
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    yield json.dumps({"seed": seed, "inputs": tried.inputs, **tried.outcomes, "peak_mb": peak_mb})
    for what, first in tried.failures.items():
        yield f"FAILURE {what}\n    {first}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.wire", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--inputs", type=int, default=100_000, help="of each seed")
    given = parser.parse_args()
    failed = False
    for seed in range(given.first, given.first + given.seeds):
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="ratematch-fuzz-") as folder:
            tried = search(seed, given.inputs, Path(folder))
        failed = failed or bool(tried.failures)
        sys.stdout.write("".join(f"{line}\n" for line in report(seed, tried)))
        sys.stdout.write(f"    {time.monotonic() - began:.0f} s\n")
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
