"""What the load generator costs and how far its clock is off, against a server that logs its own truth.

    python benchmarks/loadgen_cost.py

A synthetic server in a process of its own streams tokens at fixed gaps and notes, per request, when the first byte
came in and when each chunk went out (on the monotonic clock, which all processes share). Printed: what the records
say minus that, and CPU milliseconds per 1,000 tokens, with bytes stamped in the transport and, for comparison, at the
wake-up of a task (what most clients do). The server is Python too: what its own loop is late by (a fraction of a
millisecond to a few) counts against the client. Takes under 30 s. Nothing is asserted: on a busy machine the figures
are those of the machine.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import cast
from unittest import mock

import numpy as np
import uvloop

from ratematch.loadgen import LoadResult, Target, client, drive
from ratematch.plan.load import Concurrency
from ratematch.plan.workload import Workload, make_requests

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Scenario:
    name: str
    concurrency: int
    num_requests: int
    osl: int
    ttft_s: float
    tpot_s: float


SCENARIOS = (
    Scenario("64 x 20 ms", 64, 192, 64, 0.2, 0.02),
    Scenario("512 x 20 ms", 512, 1024, 64, 0.2, 0.02),
    Scenario("16 flat out", 16, 48, 1024, 0.0, 0.0),
)


def chunk(payload: bytes) -> bytes:
    data = b"data: " + payload + b"\n\n"
    return b"%x\r\n" % len(data) + data + b"\r\n"


TOKEN = chunk(
    b'{"id":"cmpl-0123456789abcdef","object":"text_completion","created":1700000000,"model":"m","choices":[{"index":0,'
    b'"text":" tok","token_ids":null,"logprobs":null,"finish_reason":null,"stop_reason":null}],"usage":null}'
)


class Stream(asyncio.Protocol):
    """One connection: reads a request, then sends its chunks at absolute instants."""

    truth: dict[str, list[int]]

    def __init__(self, ttft_s: float, tpot_s: float, truth: dict[str, list[int]]) -> None:
        self.ttft_s, self.tpot_s, self.truth = ttft_s, tpot_s, truth
        self.buffer = b""
        self.first_byte_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=0)  # uvloop: write now, not at the end of the loop's turn

    def data_received(self, data: bytes) -> None:
        if not self.buffer:
            self.first_byte_ns = time.monotonic_ns()
        self.buffer += data
        head, blank, body = self.buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r", 1)[0] or 0)
        if len(body) < length:
            return
        self.buffer = b""
        if head.startswith(b"GET"):
            truth = json.dumps(self.truth).encode()
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(truth) + truth)
            return
        asked = json.loads(body)
        self.left, self.osl = asked["max_tokens"], asked["max_tokens"]
        self.isl = len(asked["prompt"])
        # make_requests spells a request's number in the first three ids of its prompt.
        self.sent = self.truth[",".join(map(str, asked["prompt"][:3]))] = [self.first_byte_ns]
        self.transport.write(HEAD)
        self.due = self.first_byte_ns / 1e9 + self.ttft_s
        heapq.heappush(READY, (self.due, id(self), self))

    def step(self) -> bool:
        """Send what is due; was it the last?"""
        if self.transport.is_closing():
            return True
        self.sent.append(time.monotonic_ns())
        self.transport.write(TOKEN)
        self.left -= 1
        self.due += self.tpot_s
        if self.left:
            return False
        usage = b'{"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d}}' % (self.isl, self.osl)
        self.transport.write(chunk(usage) + chunk(b"[DONE]") + b"0\r\n\r\n")
        return True


READY: list[tuple[float, int, Stream]] = []
"""Streams by the instant of their next chunk."""

AT_ONCE = 16
"""Chunks written before the server looks for new requests again, so that it sees their first byte in time."""


async def serve(ttft_s: float, tpot_s: float) -> None:
    truth: dict[str, list[int]] = {}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Stream(ttft_s, tpot_s, truth), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    gc.disable()
    while True:
        now = time.monotonic()
        for _ in range(AT_ONCE):
            if not READY or READY[0][0] > now:
                break
            stream = READY[0][2]
            if stream.step():
                heapq.heappop(READY)
            else:
                heapq.heapreplace(READY, (stream.due, id(stream), stream))
        idle = not READY or READY[0][0] > now
        await asyncio.sleep(0.001 if idle else 0)


def error_table(result: LoadResult, truth: dict[str, list[int]], keys: list[str]) -> dict[str, float]:
    """Reported minus true, in ms."""
    ttft, e2e_ttft, tpot, gaps, true_gaps, way_in, way_out = [], [], [], [], [], [], []
    for record, key in zip(result.records, keys, strict=True):
        first_byte, *writes = truth[key]
        assert record.outcome == "ok" and record.sent_ns and record.first_token_ns and record.last_token_ns, record
        true_ttft = writes[0] - first_byte
        way_out.append(first_byte - record.sent_ns)
        way_in.append(record.first_token_ns - writes[0])
        ttft.append(record.first_token_ns - record.sent_ns - true_ttft)
        e2e_ttft.append(record.first_token_ns - record.intended_ns - true_ttft)
        tpot.append(((record.last_token_ns - record.first_token_ns) - (writes[-1] - writes[0])) / (len(writes) - 1))
        gaps += np.diff(record.chunk_ns).tolist()
        true_gaps += np.diff(writes).tolist()
    return {
        "ttft_mean": float(np.mean(ttft)) / 1e6,
        "ttft_p99": float(np.percentile(ttft, 99)) / 1e6,
        "way_out": float(np.mean(way_out)) / 1e6,
        "way_in": float(np.mean(way_in)) / 1e6,
        "way_in_p99": float(np.percentile(way_in, 99)) / 1e6,
        "intended_mean": float(np.mean(e2e_ttft)) / 1e6,
        "tpot_mean": float(np.mean(tpot)) / 1e6,
        "itl_p99": float(np.percentile(gaps, 99) - np.percentile(true_gaps, 99)) / 1e6,
    }


def measure(scenario: Scenario, at_transport: bool) -> dict[str, float]:
    server = subprocess.Popen(
        [sys.executable, __file__, "serve", str(scenario.ttft_s), str(scenario.tpot_s)], stdout=subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}"
        requests = make_requests(Workload(16, scenario.osl), scenario.num_requests, 32000, 0)
        warmup = make_requests(Workload(16, 2), scenario.concurrency, 32000, 1, scenario.num_requests)
        load = Concurrency(scenario.concurrency, scenario.num_requests, scenario.concurrency)
        cpu_s = time.process_time()
        with mock.patch.object(client, "can_tap", client.can_tap if at_transport else lambda connector: False):
            result = drive(Target(url, "m"), load, requests, warmup)
        cpu_s = time.process_time() - cpu_s
        truth = fetch_truth(url)
    finally:
        server.terminate()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()
    keys = [",".join(map(str, spec.prompt[:3])) for spec in requests]
    seconds = (result.end_ns - result.start_ns) / 1e9
    tokens = scenario.num_requests * scenario.osl
    return {
        **error_table(result, truth, keys),
        "cpu_load": result.health.cpu_share * seconds * 1e6 / tokens,
        "cpu_all": cpu_s * 1e6 / tokens,
        "tok_s": tokens / seconds,
        "held": result.health.mean_in_flight,
    }


def fetch_truth(url: str) -> dict[str, list[int]]:
    import urllib.request  # noqa: PLC0415 - the measured client must not be this one

    with urllib.request.urlopen(url) as answer:
        truth: dict[str, list[int]] = json.load(answer)
        return truth


COLUMNS = (
    "ttft_mean",
    "ttft_p99",
    "way_out",
    "way_in",
    "way_in_p99",
    "intended_mean",
    "tpot_mean",
    "itl_p99",
    "cpu_load",
    "cpu_all",
    "tok_s",
    "held",
)


def main() -> None:
    print("reported minus true in ms; cpu in ms per 1,000 tokens (load: sending and receiving; all: with decoding)")
    print(
        "ttft = way_out (our send to the server's reading, the server's lateness included) + way_in (write to stamp)"
    )
    print("ttft from the send; intended: from the intended instant, the clock of clients that start before the call")
    print(f"{'scenario':14}{'stamped':12}" + "".join(f"{column:>14}" for column in COLUMNS))
    for scenario in SCENARIOS:
        rows = {}
        for name, at_transport in (("transport", True), ("wake-up", False)):
            row = rows[name] = measure(scenario, at_transport)
            print(f"{scenario.name:14}{name:12}" + "".join(f"{row[column]:14.2f}" for column in COLUMNS), flush=True)
        ratio = [rows["transport"][column] / (rows["wake-up"][column] or np.nan) for column in COLUMNS]
        print(f"{'':14}{'ratio':12}" + "".join(f"{value:14.2f}" for value in ratio), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        uvloop.run(serve(float(sys.argv[2]), float(sys.argv[3])))
    else:
        main()
