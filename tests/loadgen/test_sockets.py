"""Sockets of our own, the kernel's stamps, and what takes their place where there are none."""

import asyncio
import functools
import shutil
import socket
import ssl
import subprocess
import threading
import time
from array import array
from pathlib import Path

import pytest

from ratematch.loadgen import Target, client, drive
from ratematch.loadgen.head import Head
from ratematch.loadgen.pool import ConnectionPool
from ratematch.loadgen.sockets import KERNEL_STAMPS
from ratematch.plan.load import Concurrency
from ratematch.plan.workload import Workload, make_requests

from .sse_server import Reply, answer_normally, full_stream, serve

linux = pytest.mark.skipif(not KERNEL_STAMPS, reason="the kernel's stamps are read on Linux only")


class Listener:
    """What a connection fills."""

    def __init__(self) -> None:
        self.wire = bytearray()
        self.ends = array("q")
        self.stamps = array("q")
        self.over: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def headed(self, head: Head) -> None: ...

    def finished(self, failure: Exception | None) -> None:
        self.over.set_result(failure)


@linux
def test_the_stamp_is_when_bytes_arrived_not_when_they_were_read() -> None:
    async def ask(port: int, written: threading.Event) -> tuple[Listener, int]:
        pool = ConnectionPool("127.0.0.1", port, None, 10.0)
        connection = await pool.open()
        listener = Listener()
        connection.send(b"GET", listener)
        written.wait(10)  # the whole event loop stands still meanwhile, as it does when hundreds of requests are due
        time.sleep(0.1)
        late_ns = time.monotonic_ns()
        assert await listener.over is None
        assert pool.kernel_stamped > 0
        pool.close()
        return listener, late_ns

    written = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(3)
                # The kernel begins to stamp a moment after it was first asked to.
                time.sleep(0.05)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                written.set()
                peer.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        listener, late_ns = asyncio.run(ask(server.getsockname()[1], written))
        thread.join()
    assert bytes(listener.wire).endswith(b"ok")
    assert listener.stamps[-1] < late_ns - 90_000_000, "late to be read, but not late"


@linux
@pytest.mark.parametrize("stamped", [True, False])
def test_records_do_not_depend_on_who_stamps(stamped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 requests in flight: enough for rests between the reads where the kernel stamps."""

    async def slow(reply: Reply) -> None:
        await answer_normally(reply, gap_s=0.02)

    monkeypatch.setattr(client, "ConnectionPool", functools.partial(ConnectionPool, kernel_stamps=stamped))
    requests = make_requests(Workload(8, 6), 80, 32000, 0)
    with serve(slow) as (url, seen):
        result = drive(Target(url, "m"), Concurrency(40, 80), requests)
    assert seen.connections == 40
    assert (result.health.kernel_stamped > 0) == stamped and result.health.at_transport
    for record in result.records:
        assert (record.outcome, record.osl, len(record.chunk_ns)) == ("ok", 6, 6)
        assert record.sent_ns and record.first_token_ns and record.end_ns
        instants = [record.sent_ns, *record.chunk_ns, record.end_ns]
        assert instants == sorted(instants)
        assert record.first_token_ns - record.sent_ns >= 20_000_000 - 100_000
        assert record.end_ns - record.sent_ns >= 120_000_000 - 100_000


def test_a_request_larger_than_the_sockets_buffer() -> None:
    requests = make_requests(Workload(1_000_000, 2), 2, 32000, 0)
    with serve() as (url, seen):
        result = drive(Target(url, "m"), Concurrency(2, 2), requests)
    assert [record.outcome for record in result.records] == ["ok", "ok"]
    assert [record.isl_reported for record in result.records] == [1_000_000] * 2
    assert sorted(body["prompt"][:50] for body in seen.bodies) == sorted(
        spec.prompt[:50].tolist() for spec in requests
    )


def test_an_answer_before_the_request_was_read_ends_the_connection() -> None:
    refusal = b"HTTP/1.1 413 X\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\ntoo long"
    accepted: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            for _ in range(2):
                peer, _ = server.accept()
                accepted.append(peer)
                peer.recv(1000)
                peer.sendall(refusal)

        thread = threading.Thread(target=refuse)
        thread.start()
        requests = make_requests(Workload(2_000_000, 2), 2, 32000, 0)
        result = drive(Target(f"127.0.0.1:{server.getsockname()[1]}", "m"), Concurrency(1, 2), requests)
        thread.join()
        for peer in accepted:
            peer.close()
    assert [(record.outcome, record.error) for record in result.records] == [("http_error", "HTTP 413: too long")] * 2
    assert len(accepted) == 2


def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def in_records(reply: Reply) -> None:
        await reply.head()
        stream = full_stream(reply.body)
        for at in range(0, len(stream), 100):  # each write is a TLS record of its own
            await reply.chunk(stream[at : at + 100])
        await reply.end()

    requests = make_requests(Workload(20_000, 8), 12, 32000, 0)
    with serve(in_records, tls=context) as (url, _):
        distrusted = drive(Target(url, "m"), Concurrency(1, 1), requests[:1])
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        result = drive(Target(url, "m"), Concurrency(4, 12), requests)
    assert url.startswith("https://")
    assert [record.outcome for record in distrusted.records] == ["connect_error"]
    assert [(record.outcome, record.osl, len(record.chunk_ns)) for record in result.records] == [("ok", 8, 8)] * 12
    assert result.health.kernel_stamped == 0, "the kernel does not see which record holds a chunk"
