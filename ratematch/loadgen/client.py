"""One request to one record.

Timestamps are taken in the transport's ``data_received``, before aiohttp parses anything and before any task wakes
up (:class:`_TapHandler`). aiohttp's own parser still does the HTTP: the tap only notes how long the parsed body
was after each read, so chunk borders, TLS records, compression and 1xx answers are aiohttp's business, and a request
wakes its task twice (headers, end), not once per token. The body stays in aiohttp's stream until the end: reading
from it makes aiohttp parse again, once per piece. The tap needs four private names of aiohttp (the connector's
protocol factory, the handler's payload, the stream's buffer, the writer's protocol); where one is missing,
requests are read with ``iter_any`` and stamped at wake-up, and ``ClientHealth.at_transport`` says so.
``benchmarks/loadgen_cost.py`` prints the error of both against a server that logs its own truth. On two cores shared
by client and server, 512 streams at 20 ms per token: chunk written to chunk stamped 0.4 ms on average (wake-up: 0.9
to 2.0), TTFT from the send too long by 0.6 to 1.2 ms (p99 2.2 to 4.4), two runs each.

``sent_ns`` is taken when the request's bytes are handed to the socket, after a connection is there. With uvloop the
write buffer's high mark is set to 0, so that ``write`` reaches the kernel at once instead of at the end of the loop
iteration.
"""

from __future__ import annotations

import asyncio
import functools
import re
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import Any, Literal

import aiohttp
import msgspec
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from numpy.typing import NDArray
from yarl import URL

from ratematch import __version__
from ratematch.errors import UserError
from ratematch.loadgen.turnstile import Turnstile
from ratematch.measure.records import Outcome
from ratematch.plan.workload import RequestSpec

_COMPLETION_TOKENS = re.compile(rb'"completion_tokens" ?: ?(\d{1,9})')
_TAIL_BYTES = 1024
_STREAM_BYTES = 1 << 30
"""Answers stay in their streams until they end; below this size a stream never stops its socket."""

_PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}


@dataclass(frozen=True)
class Target:
    """A server and how to talk to it.

    ``base_url``: ``http://host:port``, with or without ``/v1``. ``headers``: sent with every request, kept out of
    records, errors and ``repr``. ``timeout_s``: longest time of one request. ``stall_s``: longest silence once an
    answer has begun (``None``: no limit; before the first byte only ``timeout_s`` holds, because waiting in the
    server's queue is no stall). ``extra_body`` is merged last into every body; a value of ``None`` takes the field
    out, for servers that refuse it. ``spell``: token ids to words for chat, from a tokenizer.
    """

    base_url: str
    model: str
    api: Literal["completions", "chat"] = "completions"
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    timeout_s: float = 3600.0
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    stall_s: float | None = 300.0
    connect_timeout_s: float = 30.0
    spell: Callable[[NDArray[Any]], str] | None = field(default=None, repr=False, compare=False)


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
    if scheme not in ("http", "https") or not host or host.startswith(":"):
        raise UserError(f"base URL {target.base_url!r}: not of the form http://host:port")
    return base.rstrip("/").removesuffix("/v1") + _PATHS[target.api]


def encode_body(target: Target, spec: RequestSpec) -> bytes:
    """The JSON body of one request.

    Completions send the prompt as token ids, so ISL is exact without a tokenizer. Chat has no field for ids that all
    servers know, so its one message spells the ids as words; only the server's usage tells its length in tokens.
    """
    body: dict[str, Any] = {"model": target.model}
    if target.api == "completions":
        body["prompt"] = spec.prompt.tolist() if spec.text is None else spec.text
    else:
        words = spec.text if spec.text is not None else (target.spell or _spell)(spec.prompt)
        body["messages"] = [{"role": "user", "content": words}]
    body |= {
        "max_tokens": spec.osl,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body |= target.extra_body
    return msgspec.json.encode({name: value for name, value in body.items() if value is not None})


def _spell(prompt: NDArray[Any]) -> str:
    return " ".join(f"w{token}" for token in prompt.tolist())


@dataclass(eq=False)
class Exchange:
    """One request on the wire: raw bytes and their instants, to be read after the answer has ended."""

    spec: RequestSpec
    intended_ns: int
    sent_ns: int | None = None
    status: int | None = None
    json: bool = False
    body: bytes = b""
    ends: array[int] = field(default_factory=lambda: array("q"))
    stamps: array[int] = field(default_factory=lambda: array("q"))
    last_ns: int | None = None
    end_ns: int | None = None
    failure: tuple[Outcome, str] | None = None
    task: asyncio.Task[Any] | None = None
    verdict: tuple[Outcome, str] | None = None
    tapped: bool = False
    lost: Exception | None = None
    begun_ns: int = field(default_factory=monotonic_ns)
    content: aiohttp.StreamReader | None = None
    _previous: object = None

    def first_look(self) -> tuple[int, bool]:
        """``(tokens, complete)`` from the end of the body alone: cheap enough for a live view, not for a record."""
        tail = self.body[-_TAIL_BYTES:]
        found = _COMPLETION_TOKENS.findall(tail)
        complete = self.status == 200 and self.failure is None and (self.json or b"[DONE]" in tail)
        return int(found[-1]) if found else 0, complete

    def cut(self, outcome: Outcome, why: str) -> None:
        """End the request from outside; its record says why."""
        if self.verdict is None and self.task is not None:
            self.verdict = (outcome, why)
            self.task.cancel()

    def begin(self, protocol: object) -> None:
        """The request's bytes go out over ``protocol`` now."""
        if isinstance(protocol, _TapHandler):
            self.tapped = True
            self._previous = protocol._payload
            protocol.exchange = self
        self.sent_ns = monotonic_ns()

    def mark(self, content: aiohttp.StreamReader | None, now: int) -> None:
        """Bytes arrived at ``now``; ``content`` is the body they may have gone into."""
        if self.end_ns is not None:
            return
        self.last_ns = now
        if content is not None and content is not self._previous and content.total_bytes:
            self.content = content
            self._mark(content.total_bytes, now)

    def _mark(self, end: int, now: int) -> None:
        if end > (self.ends[-1] if self.ends else 0):
            self.ends.append(end)
            self.stamps.append(now)

    async def read(self, content: aiohttp.StreamReader) -> None:
        """Wait for the end of the body."""
        if self.tapped:
            await content.wait_eof()
            return
        pieces: list[bytes] = []
        size = 0
        try:
            async for piece in content.iter_any():
                pieces.append(piece)
                size += len(piece)
                self.last_ns = monotonic_ns()
                self._mark(size, self.last_ns)
        finally:
            self.body = b"".join(pieces)

    def close(self, ended_itself: bool) -> None:
        """The exchange is over, one way or another."""
        if self.content is not None:
            self.body = b"".join(self.content._buffer)
            self.content = None
        self._previous = None
        self.end_ns = self.last_ns if ended_itself and self.last_ns is not None else monotonic_ns()


class _Body(aiohttp.payload.Payload):
    """A body encoded before the clock started, which says when it goes to the socket."""

    def __init__(self, body: bytes, exchange: Exchange) -> None:
        super().__init__(body, content_type="application/json")
        self._size = len(body)
        self._body = body
        self._exchange = exchange

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._body.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        self._exchange.begin(getattr(writer, "protocol", None))
        await writer.write(self._body)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        await self.write(writer)


class _TapHandler(ResponseHandler):
    """aiohttp's client protocol with a clock at its mouth."""

    exchange: Exchange | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if isinstance(transport, asyncio.WriteTransport) or hasattr(transport, "set_write_buffer_limits"):
            transport.set_write_buffer_limits(high=0)

    def data_received(self, data: bytes) -> None:
        now = monotonic_ns()
        super().data_received(data)
        if data and self.exchange is not None:  # aiohttp calls itself without data to go on parsing
            self.exchange.mark(self._payload, now)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.exchange is not None and isinstance(exc, Exception):
            self.exchange.lost = exc
        super().connection_lost(exc)


def open_session(target: Target) -> aiohttp.ClientSession:
    """A session without limits of its own, over tapped connections where this aiohttp allows it."""
    # 4 s: uvicorn drops idle connections after 5 s, and a request on a half-closed one is lost.
    connector = aiohttp.TCPConnector(limit=0, limit_per_host=0, ttl_dns_cache=None, keepalive_timeout=4.0)
    if can_tap(connector):
        factory: functools.partial[Any] = functools.partial(_TapHandler, loop=asyncio.get_running_loop())
        connector._factory = factory
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=dict(target.headers) | {"Accept-Encoding": "identity", "User-Agent": f"ratematch/{__version__}"},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=target.connect_timeout_s),
        read_bufsize=_STREAM_BYTES,
    )


def can_tap(connector: aiohttp.BaseConnector) -> bool:
    """Does this aiohttp have the names the tap stands on?"""
    stream = aiohttp.StreamReader(ResponseHandler(loop := asyncio.get_running_loop()), 1, loop=loop)
    names = ((connector, "_factory"), (aiohttp.http.StreamWriter, "protocol"), (stream, "_buffer"))
    return all(hasattr(owner, name) for owner, name in names)


async def exchange_bytes(
    session: aiohttp.ClientSession, url: URL, body: bytes, exchange: Exchange, turnstile: Turnstile
) -> None:
    """Send one request and collect its answer into ``exchange``. Raises only a cancellation nobody explained."""
    response: aiohttp.ClientResponse | None = None
    try:
        await turnstile.turn()
        headers = {"X-Session-ID": str(exchange.spec.session)} if exchange.spec.session is not None else None
        async with session.post(url, data=_Body(body, exchange), headers=headers, allow_redirects=False) as response:
            exchange.status = response.status
            exchange.json = response.content_type == "application/json"
            await exchange.read(response.content)
    except asyncio.CancelledError:
        if exchange.verdict is None:
            raise
        if exchange.task is not None and hasattr(exchange.task, "uncancel"):
            exchange.task.uncancel()
        if response is None or not response.content.is_eof():
            exchange.failure = exchange.verdict
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as problem:
        exchange.failure = ("connect_error", _say(problem))
    except aiohttp.ClientResponseError as problem:
        exchange.failure = ("bad_stream", f"no HTTP answer: {problem.message or problem.status}")
    except aiohttp.ClientPayloadError as problem:
        # The body is not whole. A server that gives up in the middle closes; a broken connection is another matter.
        exchange.failure = ("reset" if isinstance(exchange.lost, OSError) else "truncated", _say(problem))
    except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as problem:
        # Sent: the connection broke under the request. Not sent: there was none to break.
        exchange.failure = ("reset" if exchange.sent_ns is not None else "connect_error", _say(problem))
    except (ValueError, RuntimeError) as problem:
        exchange.failure = ("bad_stream", _say(problem))
    exchange.close(exchange.failure is None)


def _say(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {problem}" if str(problem) else type(problem).__name__
