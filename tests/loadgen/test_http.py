"""Small questions to a server, and what other programs answer to them: never an exception, never much of it."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ratematch.errors import PortInUse
from ratematch.loadgen import http
from ratematch.loadgen.http import get, server_version
from ratematch.loadgen.poller import Subscription, _Reader
from ratematch.loadgen.servermetrics import MetricSamples, MetricsPoller
from ratematch.plan.launchplan import LaunchPlan, ProcessSpec, ReadyProbe
from ratematch.run.probes import check_port_free, probe
from ratematch.run.telemetry import read_emulator_times, read_perf_metrics
from ratematch.store.provenance import ServerVersion

Speak = Callable[[socket.socket], None]


@contextmanager
def program(speak: Speak, listens_first: bool = True) -> Iterator[int]:
    """A program that takes connections, and what it says; the port."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(peer,), daemon=True).start()

    def talk(peer: socket.socket) -> None:
        with peer, suppress(OSError):
            if listens_first:
                peer.recv(65536)
            speak(peer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(10)


def answer(body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(line + b"\r\n" for line in headers or (b"Content-Length: %d" % len(body),))
    return b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n" + body


def says(data: bytes) -> Speak:
    return lambda peer: peer.sendall(data)


def never_ends(begin: bytes, more: bytes) -> Speak:
    def speak(peer: socket.socket) -> None:
        peer.sendall(begin)
        while True:
            peer.sendall(more)

    return speak


ODD: dict[str, Speak] = {
    "a string": says(answer(b'"1.0"')),
    "a list": says(answer(b"[1]")),
    "a number": says(answer(b"17")),
    "null": says(answer(b"null")),
    "deep": says(answer(b"[" * 200_000)),
    "deep objects": says(answer(b'{"version":' * 100_000)),
    "a list as version": says(answer(b'{"version": [1]}')),
    "a number as version": says(answer(b'{"version": 1.2}')),
    "a long version": says(answer(b'{"version": "' + b"1" * 5000 + b'"}')),
    "escapes": says(answer(b'{"version": "\\u001b[31m1"}')),
    "a lone surrogate": says(answer(b'{"version": "\\ud800"}')),
    "a long integer": says(answer(b"9" * 5000)),
    "not UTF-8": says(answer(b'{"version": "\xff\xfe"}')),
    "nothing": says(b""),
    "another protocol": says(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "binary": says(bytes(range(256)) * 10),
    "cut short": says(answer(b"{", b"Content-Length: 100")),
    "a length that is none": says(answer(b"{}", b"Content-Length: \xb2")),
    "a long length": says(answer(b"{}", b"Content-Length: " + b"9" * 5000)),
    "a chunk size that is none": says(answer(b"zz\r\n{}\r\n0\r\n\r\n", b"Transfer-Encoding: chunked")),
    "a chunk too long": says(answer(b"ffffffffffffffff\r\n{}", b"Transfer-Encoding: chunked")),
    "packed": says(answer(gzip.compress(b"{}"), b"Content-Encoding: gzip")),
    "many headers": says(answer(b"{}", *[b"X: y"] * 5000)),
    "a long header": says(answer(b"{}", b"X: " + b"y" * 100_000)),
    "a redirection to a file": says(b"HTTP/1.1 302 F\r\nLocation: file:///etc/hostname\r\nContent-Length: 0\r\n\r\n"),
    "a redirection to nowhere": says(b"HTTP/1.1 302 F\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n"),
    "redirected to itself": says(b"HTTP/1.1 302 F\r\nLocation: /version\r\nContent-Length: 0\r\n\r\n"),
    "endless": never_ends(answer(b'"', b"X: y"), b"A" * 65536),
    "endless chunks": never_ends(answer(b"", b"Transfer-Encoding: chunked"), b"4\r\nAAAA\r\n" * 1000),
    "endless interim answers": never_ends(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "endless headers": never_ends(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000),
    "an endless line": never_ends(b"HTTP/1.1 200 OK\r\nX: ", b"y" * 65536),
}


@pytest.mark.parametrize("speak", ODD.values(), ids=ODD)
def test_a_version_that_is_none_is_unknown(speak: Speak) -> None:
    with program(speak) as port:
        tracemalloc.start()
        try:
            assert server_version("127.0.0.1", port) == ServerVersion(None, False)
            assert tracemalloc.get_traced_memory()[1] < 64 << 20
        finally:
            tracemalloc.stop()


def test_a_version_that_is_one() -> None:
    for head in ((), (b"X-Ratematch-Emulated: 1",)):
        with program(says(answer(b'{"version": "1.2.0rc3"}', b"Content-Length: 23", *head))) as port:
            assert server_version("127.0.0.1", port) == ServerVersion("1.2.0rc3", bool(head))


LISTED = {"endpoint": "generate", "component": "backend", "namespace": "dynamo"}
EMULATED = {"endpoint": "ratematch_emulated", "component": "backend", "namespace": "dynamo"}
TITLE = {"title": "NVIDIA Dynamo OpenAI Frontend", "version": "1.6.1"}

NO_VERSION = {
    "a frontend": (
        {"/health": {"instances": [LISTED]}, "/openapi.json": {"info": TITLE}, "/v1/models": {"data": []}},
        ServerVersion("1.6.1", False),
    ),
    "a frontend with emulated workers": (
        {"/health": {"instances": [LISTED, EMULATED]}, "/openapi.json": {"info": TITLE}, "/v1/models": {}},
        ServerVersion("1.6.1", True),
    ),
    "a frontend with Dynamo's mocker": (
        {"/health": {"instances": [LISTED]}, "/v1/models": {"data": [{"id": "m", "context_window": 0}]}},
        ServerVersion(None, True),
    ),
    "an engine that says its context": (
        {"/health": {"instances": [LISTED]}, "/v1/models": {"data": [{"id": "m", "context_window": 8192}]}},
        ServerVersion(None, False),
    ),
    "a worker": ({"/health": {"status": "notready", "endpoints": {}}}, ServerVersion(None, False)),
    "an emulated worker": (
        {"/health": {"status": "notready", "endpoints": {}}, "/engine/server_info": {"emulated": {"busy_s": 1}}},
        ServerVersion(None, True),
    ),
    "instances that are none": (
        {"/health": {"instances": ["generate", 7]}, "/v1/models": []},
        ServerVersion(None, False),
    ),
    "nothing at all": ({}, ServerVersion(None, False)),
}


@pytest.mark.parametrize(("routes", "known"), NO_VERSION.values(), ids=NO_VERSION)
def test_servers_without_a_version_are_known_by_what_they_list(routes: dict[str, Any], known: ServerVersion) -> None:
    class Routes(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(routes.get(self.path, {})).encode()
            # The system port of a worker that is not ready answers 503 with what it has.
            status = 404 if self.path not in routes else 503 if "status" in routes[self.path] else 200
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Routes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            assert server_version("127.0.0.1", server.server_address[1]) == known
        finally:
            server.shutdown()


def test_an_answer_that_drips_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def tick() -> float:
        clock[0] += 1.0
        return clock[0]

    monkeypatch.setattr(http, "monotonic", tick)
    for speak in (never_ends(answer(b"", b"X: y"), b"A"), never_ends(b"HTTP/1.1 200 OK\r\nX: ", b"y")):
        with program(speak) as port, pytest.raises(OSError, match=r"does not end"):
            get(f"http://127.0.0.1:{port}/", 5)


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x", "x", "http://", "http://[::1"]
)
def test_only_http_is_read(url: str, tmp_path: Path) -> None:
    with pytest.raises(OSError):
        get(url, 1)
    with MetricsPoller([url]) as poller:
        pass
    assert poller.rows == [] and len(poller.notes) == 1 and url in poller.notes[0]


def plan_at(port: int) -> LaunchPlan:
    url = f"http://127.0.0.1:{port}"
    spec = ProcessSpec(
        "gen-0", "gen", (), (), (), (), "127.0.0.1", port, "gen-0.log", ReadyProbe(f"{url}/health", 1.0)
    )
    return LaunchPlan((), (spec,), url)


@pytest.mark.parametrize(
    "name", ["another protocol", "binary", "nothing", "cut short", "endless interim answers", "deep"]
)
def test_side_requests_of_a_load_take_any_answer(name: str) -> None:
    with program(ODD[name]) as port:
        plan = plan_at(port)
        (spec,) = plan.processes
        lines, problems = read_perf_metrics(plan, "/perf_metrics")
        assert lines == [] and len(problems["gen-0"]) <= 300
        assert read_emulator_times(plan) == {}
        assert (probe(spec.ready.url, 1.0) is None) is (name == "deep")
        with pytest.raises(PortInUse, match="in use by another program"):
            check_port_free(spec)


def test_a_program_that_says_nothing_holds_a_port_too() -> None:
    with (
        program(lambda peer: None, listens_first=True) as port,
        pytest.raises(PortInUse, match=f"port {port} on 127.0.0.1"),
    ):
        check_port_free(plan_at(port).processes[0])


@pytest.mark.parametrize(
    "body",
    [b'[1,null,{"perf_metrics":5}]', b"[" * 100_000, b'[{"a":"\\ud800"}]', b"\xff"],
)
def test_timings_that_are_none(body: bytes) -> None:
    with program(says(answer(body))) as port:
        lines, problems = read_perf_metrics(plan_at(port), "/perf_metrics")
    assert not lines and problems["gen-0"].startswith("/perf_metrics: ")


@pytest.mark.parametrize(
    "wrong", [RecursionError("deep"), KeyError("x"), OverflowError(), UnicodeEncodeError("a", "b", 0, 1, "c")]
)
def test_a_reader_outlives_what_a_subscriber_cannot_read(wrong: Exception) -> None:
    def take(body: bytes, read_ns: int) -> None:
        raise wrong

    with program(says(answer(b"x"))) as port:
        subscription = Subscription(f"http://127.0.0.1:{port}/", take)
        _Reader(subscription.url, [subscription], [0.0]).read(1)
    assert subscription.failures == 1 and subscription.problem


def test_figures_that_are_none_are_left_out() -> None:
    samples = MetricSamples(lambda body: [{"a": float("nan"), "b": float("inf"), "c": 1e300, "d": 2.0}])
    samples.add("u", b"", 1)
    assert [row.values for row in samples.rows] == [{"d": 2.0}]


@pytest.mark.parametrize(
    ("body", "version"),
    [
        (b'{"name":"triton","version":"2.51.0","extensions":[]}', ServerVersion("2.51.0", False)),
        (b'{"name":"ratematch-emulated","version":"2.51.0","extensions":[]}', ServerVersion("2.51.0", True)),
        (b'{"name":"mine","version":7,"extensions":[]}', ServerVersion(None, False)),
    ],
)
def test_triton_says_what_it_is_at_an_address_of_its_own(body: bytes, version: ServerVersion) -> None:
    def speak(peer: socket.socket) -> None:
        # What came with the question has been read; whoever asks again gets the second answer.
        paths.append(b"")
        missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        peer.sendall(missing if len(paths) == 1 else answer(body))

    paths: list[bytes] = []
    with program(speak) as port:
        assert server_version("127.0.0.1", port) == version
    assert len(paths) == 2
