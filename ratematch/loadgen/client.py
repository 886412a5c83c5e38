"""One request to one record.

Bytes are stamped as they arrive, by the kernel or in the transport, before anything is parsed and before any task
wakes up (:mod:`ratematch.loadgen.connection`). A request wakes its task once, at its end, not once per token; the
bytes are decoded afterwards. HTTP is read by :mod:`ratematch.loadgen.http1`, which takes chunk borders anywhere in a
read, TLS records, trailers, interim answers and gzip; what it does not take goes to aiohttp's parser
(:mod:`ratematch.loadgen.http1_fallback`).

``sent_ns`` is taken when the request's bytes (head and body in one write) are handed to the socket, after a
connection is there. ``benchmarks/loadgen`` prints the error of all this against a server that logs its own truth.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import ssl
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from time import monotonic_ns
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec
from numpy.typing import NDArray

from ratematch.errors import UserError
from ratematch.loadgen.connection import Connection
from ratematch.loadgen.generate import generate_body, generate_path, is_generate
from ratematch.loadgen.head import Head, WireError, is_success
from ratematch.loadgen.http1 import unwrap
from ratematch.loadgen.limits import answer_limit
from ratematch.loadgen.pool import ConnectionPool
from ratematch.loadgen.sendgate import SendGate
from ratematch.measure.records import Outcome
from ratematch.measure.requesttimes import AskTimes
from ratematch.plan.requestapi import Api
from ratematch.plan.workload import RequestSpec
from ratematch.version import __version__

_COMPLETION_TOKENS = re.compile(rb'"completion_tokens" ?: ?(\d{1,9})')
_TAIL_BYTES = 1024

_PATHS: dict[Api, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}


DEFAULT_STALL_S = 300.0


@dataclass(frozen=True)
class Target:
    """A server and how to talk to it.

    ``base_url``: ``http://host:port``, with or without ``/v1``. ``headers``: sent with every request, kept out of
    records, errors and ``repr``. ``timeout_s``: longest time of one request. ``stall_s``: longest silence once an
    answer has begun (``None``: no limit; before the first byte only ``timeout_s`` holds, because waiting in the
    server's queue is no stall). Triton is held to it always, and from the sending on: where a model's process dies,
    it neither answers nor closes. ``extra_body`` is merged last into every body; a value of ``None`` takes the field
    out, for servers that refuse it. ``spell``: token ids to words for chat, from a tokenizer. ``ask``: times of each
    request are asked for, and kept.
    """

    base_url: str
    model: str
    api: Api = "completions"
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    timeout_s: float = 3600.0
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    stall_s: float | None = DEFAULT_STALL_S
    connect_timeout_s: float = 30.0
    ask: AskTimes | None = None
    spell: Callable[[NDArray[Any]], str] | None = field(default=None, repr=False, compare=False)

    @property
    def idle_s(self) -> float | None:
        """Longest silence, of Triton from the sending on."""
        return DEFAULT_STALL_S if self.stall_s is None and is_generate(self.api) else self.stall_s

    def unstreamed(self) -> Target:
        """The same, with answers that are no streams where the API has such."""
        if is_generate(self.api):
            return self
        return replace(self, extra_body={**self.extra_body, "stream": False, "stream_options": None})


def request_url(target: Target) -> str:
    """Where the requests go.

    Raises:
        UserError: the base URL is not http(s), has no host, or holds credentials (they belong into ``headers``).
    """
    base = target.base_url if "://" in target.base_url else f"http://{target.base_url}"
    scheme, _, rest = base.partition("://")
    host = rest.partition("/")[0]
    if "@" in host:
        raise UserError("base URL: holds credentials; give them as a header instead")
    if scheme not in ("http", "https") or not host or host.startswith(":") or not _is_address(base):
        raise UserError(f"base URL {target.base_url!r}: not of the form http://host:port")
    path = generate_path(target.model) if is_generate(target.api) else _PATHS[target.api]
    return base.rstrip("/").removesuffix("/v1") + path


def _is_address(url: str) -> bool:
    """Can a connection be tried? A port beyond 65535, brackets of half an IPv6 address, a name that no DNS has."""
    if any(letter.isspace() or not letter.isprintable() for letter in url) or not url.isascii():
        return False
    try:
        parts = split_address(url)
        if parts.hostname is None or parts.port == 0:
            return False
        parts.hostname.encode("idna")
    except ValueError:  # UnicodeError is one
        return False
    return True


def split_address(url: str) -> SplitResult:
    """The parts of ``url``.

    Raises:
        ValueError: what stands in brackets is no IPv6 address, which urlsplit itself takes before Python 3.11.4.
    """
    parts = urlsplit(url)
    if "[" in parts.netloc and parts.hostname is not None:
        ipaddress.IPv6Address(parts.hostname)
    return parts


def encode_body(target: Target, spec: RequestSpec) -> bytes:
    """The JSON body of one request.

    Completions send the prompt as token ids, so ISL is exact without a tokenizer. Chat has no field for ids that all
    servers know, so its one message spells the ids as words; only the server's usage tells its length in tokens.
    """
    if is_generate(target.api):
        return _encode(generate_body(target.api, spec, _words(target, spec)) | dict(target.extra_body))
    body: dict[str, Any] = {"model": target.model}
    if spec.chat is not None:
        if target.api != "chat":
            raise UserError("a request holds messages, which only the chat API takes: --api chat")
        body |= msgspec.json.decode(spec.chat)
    elif target.api == "completions":
        body["prompt"] = spec.prompt.tolist() if spec.text is None else spec.text
    else:
        body["messages"] = [{"role": "user", "content": _words(target, spec)}]
    body |= {
        "max_tokens": spec.osl,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return _encode(body | dict(target.extra_body))


def _encode(body: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode({name: value for name, value in body.items() if value is not None})


def _words(target: Target, spec: RequestSpec) -> str:
    return spec.text if spec.text is not None else (target.spell or _spell)(spec.prompt)


def _spell(prompt: NDArray[Any]) -> str:
    return " ".join(f"w{token}" for token in prompt.tolist())


@dataclass(eq=False)
class Exchange:
    """One request on the wire: raw bytes and their instants, to be read after the answer has ended.

    ``ends``, ``stamps``: bytes of ``wire`` that had come, head included, and when, one pair a read. ``first_read``:
    index of the first read that brought a part of the body. ``number``: its place in the order of sending.
    ``counted``: its API says how many tokens came, and that the answer is whole.
    """

    spec: RequestSpec
    intended_ns: int
    number: int = 0
    sent_ns: int | None = None
    head: Head | None = None
    wire: bytearray = field(default_factory=bytearray)
    ends: array[int] = field(default_factory=lambda: array("q"))
    stamps: array[int] = field(default_factory=lambda: array("q"))
    first_read: int = 0
    end_ns: int | None = None
    failure: tuple[Outcome, str] | None = None
    task: asyncio.Task[Any] | None = None
    verdict: tuple[Outcome, str] | None = None
    begun_ns: int = field(default_factory=monotonic_ns)
    answered: asyncio.Future[Exception | None] | None = None
    counted: bool = True

    @property
    def status(self) -> int | None:
        return self.head.status if self.head is not None else None

    @property
    def json(self) -> bool:
        return self.head is not None and self.head.content_type == "application/json"

    @property
    def first_body_ns(self) -> int | None:
        """When the first bytes of the body came."""
        return self.stamps[self.first_read] if self.head and self.first_read < len(self.stamps) else None

    def headed(self, head: Head) -> None:
        self.head = head
        self.first_read = len(self.ends) - (self.ends[-1] > head.size)

    def finished(self, failure: Exception | None) -> None:
        if self.answered is not None and not self.answered.done():
            self.answered.set_result(failure)

    def body(self) -> tuple[bytes, list[int]]:
        """The body without its framing, and how much of it had come with each read.

        Raises:
            WireError: compressed in a way that is not read here, or to more than an answer can have.
        """
        if self.head is None:
            return b"", [0] * len(self.ends)
        return unwrap(self.head, self.wire, self.ends, answer_limit(self.spec.osl))

    def first_look(self) -> tuple[int, bool]:
        """``(tokens, complete)`` from the last bytes alone: cheap enough for a live view, not for a record."""
        wire = self.wire
        if not self.counted:
            whole = self.status is not None and is_success(self.status) and self.failure is None
            whole = whole and wire.find(b'"error"', max(0, len(wire) - _TAIL_BYTES)) < 0
            return self.spec.osl if whole else 0, whole
        done = wire.rfind(b"[DONE]")  # an event with times of the request may come behind it
        begin = max(0, (len(wire) if done < 0 else done) - _TAIL_BYTES)
        at = wire.rfind(b'"completion_tokens"', begin)
        usage = _COMPLETION_TOKENS.match(wire, at) if at >= 0 else None
        good = self.status is not None and is_success(self.status) and self.failure is None
        complete = good and (self.json or done >= 0)
        return int(usage[1]) if usage else 0, complete

    def cut(self, outcome: Outcome, why: str) -> None:
        """End the request from outside; its record says why."""
        if self.verdict is None and self.task is not None:
            self.verdict = (outcome, why)
            self.task.cancel()

    def close(self, ended_itself: bool) -> None:
        """The exchange is over, one way or another."""
        self.answered = None
        self.end_ns = self.stamps[-1] if ended_itself and self.stamps else monotonic_ns()


def request_encoder(target: Target) -> Callable[[RequestSpec], bytes]:
    """From a request to the bytes that go over the wire, head and body.

    Raises:
        UserError: the base URL is unusable, or a header holds a line break.
    """
    head = _request_head(target).encode("latin-1")

    def encode(spec: RequestSpec) -> bytes:
        body = encode_body(target, spec)
        session = b"X-Session-ID: %d\r\n" % spec.session if spec.session is not None else b""
        return b"%b%bContent-Length: %d\r\n\r\n%b" % (head, session, len(body), body)

    return encode


def _request_head(target: Target) -> str:
    url = urlsplit(request_url(target))
    headers = {
        "Host": url.netloc,
        "User-Agent": f"ratematch/{__version__}",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
    }
    if target.ask is not None:
        headers |= dict([target.ask.header])
    headers |= dict(target.headers)
    if any(set("\r\n\0") & set(name + value) for name, value in headers.items()):
        raise UserError("a header holds a line break")
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {url.path}{'?' + url.query if url.query else ''} HTTP/1.1\r\n{lines}"


def open_pool(target: Target) -> ConnectionPool:
    """Connections to the target's host."""
    url = urlsplit(request_url(target))
    tls = ssl.create_default_context() if url.scheme == "https" else None
    return ConnectionPool(url.hostname or "", url.port or (443 if tls else 80), tls, target.connect_timeout_s)


async def exchange_bytes(pool: ConnectionPool, request: bytes, exchange: Exchange, gate: SendGate) -> None:
    """Send one request and collect its answer into ``exchange``. Raises only a cancellation nobody explained."""
    connection: Connection | None = None
    try:
        await gate.wait()
        connection = pool.take_idle() or await pool.open()
        exchange.answered = answered = asyncio.get_running_loop().create_future()
        exchange.sent_ns = monotonic_ns()
        connection.send(request, exchange, answer_limit(exchange.spec.osl))
        exchange.failure = _failure(await answered, exchange)
        if not connection.closed:
            pool.give_back(connection)
    except asyncio.CancelledError:
        if exchange.verdict is None:
            raise
        if exchange.task is not None and hasattr(exchange.task, "uncancel"):
            exchange.task.uncancel()
        if exchange.answered is None or not exchange.answered.done() or exchange.answered.cancelled():
            exchange.failure = exchange.verdict
        if connection is not None:
            connection.close()
    except (OSError, ssl.CertificateError) as problem:
        exchange.failure = ("connect_error", _describe(problem))
    except Exception as problem:  # nobody foresaw it: it costs this request
        exchange.failure = ("connect_error" if exchange.sent_ns is None else "bad_stream", _describe(problem))
        if connection is not None:
            connection.close()
    exchange.close(exchange.failure is None)


def _failure(problem: Exception | None, exchange: Exchange) -> tuple[Outcome, str] | None:
    match problem:
        case None:
            return None
        case WireError():
            return "bad_stream", str(problem)
        case EOFError() if exchange.wire:
            # A server that gives up in the middle closes; a broken connection is another matter.
            return "truncated", str(problem)
        case _:
            return "reset", _describe(problem)


def _describe(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {problem}" if str(problem) else type(problem).__name__
