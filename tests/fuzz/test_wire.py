"""A few hostile answers of each seed; and over real sockets, where a bad one must not touch the streams beside it.

``FUZZ_SEEDS``, ``FUZZ_CASES`` (inputs of each seed) make it longer than in CI; so does ``make fuzz-wire``.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import random
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from ratematch.loadgen import Target, drive
from ratematch.loadgen.limits import ANSWER_BYTES, HEAD_BYTES, INTERIM
from ratematch.measure.records import RequestRecord
from ratematch.plan.load import Concurrency
from ratematch.plan.workload import RequestSpec
from tests.fuzz.guided import TARGETS
from tests.fuzz.wire import damage, make_answer, receive, search
from tests.loadgen.sse_server import Reply, full_stream, serve, token

SEEDS = range(int(os.environ.get("FUZZ_SEEDS", "1")))
CASES = int(os.environ.get("FUZZ_CASES", "4000"))
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
STREAM = full_stream({"max_tokens": 8, "prompt": [1, 2, 3, 4]})


@pytest.mark.parametrize("seed", SEEDS)
def test_whole_answers_are_read_right_and_damaged_ones_are_records(seed: int, tmp_path: Path) -> None:
    tried = search(seed, CASES, tmp_path)
    assert not tried.failures
    assert tried.inputs >= CASES and {"ok", "truncated", "bad_stream"} <= tried.outcomes.keys()


def answered(*lines: bytes, body: bytes = STREAM) -> RequestRecord:
    wire = HEAD + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body
    return receive(wire, [len(wire)])[0]


def failed(*lines: bytes, body: bytes = STREAM) -> str:
    record = answered(*lines, body=body)
    assert record.outcome == "bad_stream" and record.error is not None and not record.chunk_ns
    assert "unforeseen" not in record.error and len(record.error) < 200
    return record.error


@pytest.mark.parametrize(
    "length",
    [
        b"\xb2",
        b"\xb9\xb3",
        b"-1",
        b"+4",
        b"",
        b"1e3",
        b"0x8",
        b"8_0",
        b"9" * 16,
        b"9" * 5000,
        b"4, 5",
        b"\xef\xbc\x91",
    ],
)
def test_a_length_that_is_none(length: bytes) -> None:
    assert "content length" in failed(b"Content-Length: " + length) or b"," in length


def test_lengths_that_contradict_each_other_and_some_that_do_not() -> None:
    right = b"Content-Length: %d" % len(STREAM)
    assert "two content lengths, 4 and" in failed(b"Content-Length: 4", right)
    for lines in ((right, right), (b"Content-Length: " + b"0" * 5000 + b"%d" % len(STREAM),), (right + b" ",)):
        assert answered(*lines).outcome == "ok"
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(STREAM), STREAM)
    assert answered(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=chunks).outcome == "ok", "RFC 9112, 6.3"


@pytest.mark.parametrize(
    "size", [b"ffffffffffffffff", b"-1", b"+8", b"0x8", b"1_0", b"7" * 3000, b"80000000", b"\xb2"]
)
def test_a_chunk_size_that_is_none(size: bytes) -> None:
    wire = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + size + b"\r\n" + STREAM + b"\r\n0\r\n\r\n"
    record, over = receive(wire, [len(wire)])
    assert record.outcome == "bad_stream" and over and "chunk" in (record.error or "").lower()


def test_what_an_answer_may_cost() -> None:
    assert "headers; at most" in failed(*[b"X: y"] * 2000)
    assert f"within {HEAD_BYTES} bytes" in failed(b"X: " + b"y" * HEAD_BYTES)
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    whole = HEAD + b"Content-Length: %d\r\n\r\n" % len(STREAM) + STREAM
    for count, outcome in ((INTERIM, "ok"), (INTERIM + 1, "bad_stream"), (9000, "bad_stream")):
        wire = interim * count + whole
        assert receive(wire, [100, len(wire)])[0].outcome == outcome
    assert "bytes by its head" in failed(b"Content-Length: 10000000000")
    wire = HEAD + b"\r\n" + token() * (2 * ANSWER_BYTES // len(token()))
    record, over = receive(wire, [*range(0, len(wire), 1 << 20)][1:])
    assert (record.outcome, over, record.chunk_ns) == ("bad_stream", True, []) and "bytes" in (record.error or "")


def bomb(wbits: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    return b"".join([packer.compress(bytes(1 << 20)) for _ in range(80)]) + packer.flush()


def test_a_bomb_is_no_more_than_its_own_request() -> None:
    for wbits, coding in ((31, b"gzip"), (15, b"deflate"), (-15, b"deflate")):
        packed = bomb(wbits)
        lines = (b"Content-Encoding: " + coding, b"Content-Length: %d" % len(packed))
        assert "unpacks to more than" in failed(*lines, body=packed)


def test_a_bomb_that_the_library_unpacks() -> None:
    brotli = pytest.importorskip("brotli")
    assert "more than" in failed(b"Content-Encoding: br", body=brotli.compress(bytes(60 << 20), quality=1))


def test_a_connection_with_bytes_behind_an_answer_is_used_no_more() -> None:
    async def behave(reply: Reply) -> None:
        chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(STREAM), STREAM)
        lengths = b"Content-Length: %d\r\n\r\n%b" % (len(STREAM), STREAM)
        framed = b"Transfer-Encoding: chunked\r\n\r\n" + chunks if reply.number % 2 else lengths
        await reply.raw(HEAD + framed + b"HTTP/1.1 500 stale")

    specs = [RequestSpec(seq, np.arange(4, dtype=np.int32), 8) for seq in range(10)]
    with serve(behave) as (url, seen):
        records = drive(Target(url, "m"), Concurrency(1, 10, 0), specs).records
    assert {record.outcome for record in records} == {"ok"} and seen.connections == 10


def test_gzip_of_several_members_is_one_body() -> None:
    for borders in ([9], [1, 2, 3], list(range(0, len(STREAM), 5)), []):
        members = [gzip.compress(STREAM[a:b]) for a, b in zip([0, *borders], [*borders, len(STREAM)], strict=True)]
        assert answered(b"Content-Encoding: gzip", body=b"".join(members)).outcome == "ok"
    after = gzip.compress(STREAM) + b"more"
    assert "compress" in failed(b"Content-Encoding: gzip", body=after)
    assert "after the end" in failed(b"Content-Encoding: deflate", body=zlib.compress(STREAM) * 2)


COUNTS = [
    "9223372036854775808",
    "9223372036854775807",
    "1" + "0" * 40,
    "-1",
    "1e18",
    "1e400",
    '"' + "7" * 30 + '"',
    "2.5",
]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("field", ["prompt_tokens", "completion_tokens", "prompt_cache_hit_tokens"])
def test_a_count_that_none_can_be(count: str, field: str) -> None:
    usage = f'data: {{"choices":[],"usage":{{"{field}":{count}}}}}\n\n'.encode()
    record = answered(body=token() + usage + b"data: [DONE]\n\n")
    assert record.outcome == "bad_stream" and (record.osl or 0) < 1 << 62


@pytest.mark.parametrize("seed", SEEDS)
def test_bad_answers_hurt_no_stream_beside_them(seed: int) -> None:
    """Half of the answers damaged, all on real sockets, 24 at once: every whole one is read as it was made."""
    rng = random.Random(seed)
    count = max(120, min(CASES // 20, 5000))
    made = [make_answer(rng) for _ in range(count)]
    bad = {seq: damage(rng, made[seq].wire) for seq in range(count) if rng.random() < 0.5}
    bad[5] = HEAD + b"Content-Length: \xb2\r\n\r\n" + STREAM
    bad[6] = HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + STREAM
    # A server that closes after an answer that looks whole would hurt the next request by itself.
    left_open = {seq for seq, wire in bad.items() if receive(wire, [len(wire)])[1]}

    async def behave(reply: Reply) -> None:
        seq = reply.body["prompt"][0]
        wire = bad.get(seq, made[seq].wire)
        border = rng.randrange(len(wire) + 1)
        await reply.raw(wire[:border])
        await asyncio.sleep(0)
        await reply.raw(wire[border:])
        if seq not in left_open and (seq in bad or made[seq].closes):
            reply.close()

    specs = [RequestSpec(seq, np.array([seq, 1, 2, 3], dtype=np.int32), 8) for seq in range(count)]
    with serve(behave) as (url, _):
        result = drive(Target(url, "m", timeout_s=20, stall_s=10), Concurrency(24, count, 0), specs)
    assert len(result.records) == count and result.aborted is None
    hurt = [
        (record.seq, record.outcome, record.error)
        for record, answer in zip(result.records, made, strict=True)
        if record.seq not in bad
        and (record.outcome, record.osl, len(record.chunk_ns)) != (answer.outcome, answer.osl, answer.chunks)
    ]
    assert hurt == []
    assert result.records[5].outcome == result.records[6].outcome == "bad_stream"


def test_what_nobody_foresaw_in_one_connection_costs_that_request(monkeypatch: pytest.MonkeyPatch) -> None:
    from ratematch.loadgen import connection

    original = connection.parse_head

    def break_one(wire: bytearray) -> object:
        if b"X-Break" in wire:
            raise KeyError("unforeseen")
        return original(wire)

    monkeypatch.setattr(connection, "parse_head", break_one)

    async def behave(reply: Reply) -> None:
        await reply.head(extra="X-Break: 1\r\n" if reply.body["prompt"][0] == 20 else "")
        for k in range(20):
            await asyncio.sleep(0.01)
            await reply.chunk(token(finish="length" if k == 19 else None))
        await reply.chunk(b"data: [DONE]\n\n")
        await reply.end()

    specs = [RequestSpec(seq, np.array([seq, 1], dtype=np.int32), 20) for seq in range(60)]
    with serve(behave) as (url, _):
        records = drive(Target(url, "m", timeout_s=20, stall_s=10), Concurrency(40, 60, 0), specs).records
    assert [record.seq for record in records if record.outcome != "ok"] == [20]
    assert "KeyError" in (records[20].error or "") and records[20].outcome == "bad_stream"


@pytest.mark.parametrize("target", TARGETS)
def test_the_coverage_guided_targets_say_when_their_package_is_missing(target: str) -> None:
    command = [sys.executable, "-m", "tests.fuzz.guided", target, "-runs=50"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "atheris is not installed" in done.stderr:
        assert done.returncode == 2 and "pip install atheris" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
