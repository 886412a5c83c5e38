"""Prefill and decode servers of vLLM as one server: ``python -m ratematch.engines.vllm.proxy``.

Each request goes to one prefill server and then to one decode server, both in turn (round robin), as
:mod:`ratematch.engines.vllm.disagg_requests` says. Answers are passed on as they come, bytes for bytes, also those
that are errors. A client that leaves ends its request on the server that works on it; KV blocks that a prefill server
already holds for it are freed when their lease is over. Nothing is tried twice: what a server refuses is a failed
request.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import signal
import sys
import uuid
from collections.abc import Sequence
from typing import NoReturn

import aiohttp
import msgspec
import uvloop
from aiohttp import web
from aiohttp.client_exceptions import ClientConnectionResetError

from ratematch.engines.vllm.disagg_requests import HandoverError, decode_body, prefill_body, read_body

POLL_S = 0.2
KEEP_ALIVE_S = 2.0
"""How long an idle connection to a server is kept: less than the 5 s after which vLLM closes it, else a request now
and then meets a connection that is just being closed."""
CONNECT_S = 10.0
SHUTDOWN_S = 0.3
EMULATED = "X-Ratematch-Emulated"
"""Servers that answer with this header are no real ones, so neither are the proxy's answers."""

_PASSED_ON = ("Content-Type", "X-Request-Id", "Retry-After")


class _ServerError(Exception):
    """A server that could not be reached, or whose answer is of no use; status 502."""


class Proxy:
    """Forwards requests to ``prefill`` and then ``decode`` servers (base addresses such as ``http://host:port``)."""

    def __init__(self, prefill: Sequence[str], decode: Sequence[str]):
        self.prefill, self.decode = tuple(prefill), tuple(decode)
        self.ready = False
        self._emulated = False
        self._next_prefill, self._next_decode = itertools.cycle(self.prefill), itertools.cycle(self.decode)
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the client side."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            headers={"Accept-Encoding": "identity"},
            read_bufsize=1 << 20,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def _http(self) -> aiohttp.ClientSession:
        assert self._session is not None
        return self._session

    async def wait_ready(self, limit_s: float) -> None:
        """Until every server's ``/health`` has answered 200.

        Raises:
            TimeoutError: naming those that had not after ``limit_s`` seconds.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        missing = [*self.prefill, *self.decode]
        while missing := [url for url in missing if not await self._healthy(url)]:
            if loop.time() > deadline:
                raise TimeoutError(f"not ready after {limit_s:g} s: {', '.join(missing)}")
            await asyncio.sleep(POLL_S)
        self.ready = True

    async def _healthy(self, url: str) -> bool:
        try:
            async with self._http.get(f"{url}/health", timeout=aiohttp.ClientTimeout(total=5)) as answer:
                self._emulated |= EMULATED in answer.headers
                return answer.status == 200
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError):
            return False

    # ------------------------------------------------------------------------------------------- routes

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 28)
        app.on_response_prepare.append(self._mark)
        app.add_routes(
            [
                web.get("/health", self.health),
                web.get("/v1/models", self.ask_one),
                web.get("/version", self.ask_one),
                web.post("/v1/completions", self.forward),
                web.post("/v1/chat/completions", self.forward),
            ]
        )
        return app

    async def _mark(self, request: web.Request, response: web.StreamResponse) -> None:
        if self._emulated:
            response.headers[EMULATED] = "1"

    async def health(self, request: web.Request) -> web.Response:
        """200 once all servers have answered; those that die later show in the requests that they fail."""
        return web.Response(status=200 if self.ready else 503)

    async def ask_one(self, request: web.Request) -> web.StreamResponse:
        """What every server would answer alike, from the first decode server."""
        url = f"{self.decode[0]}{request.path}"
        try:
            async with self._http.get(url) as answer:
                return await self._relay(request, answer)
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            return _bad_gateway(_words("decode", self.decode[0], error))

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """One request, in two steps."""
        headers = {
            "Content-Type": "application/json",
            "X-Request-Id": request.headers.get("X-Request-Id") or uuid.uuid4().hex,
        }
        if "Authorization" in request.headers:
            headers["Authorization"] = request.headers["Authorization"]
        prefill, decode = next(self._next_prefill), next(self._next_decode)
        try:
            body = read_body(await request.read())
        except HandoverError as error:
            return _error(400, "BadRequestError", str(error))
        try:
            status, kept, content_type = await self._ask_prefill(prefill, request.path, prefill_body(body), headers)
            if status != 200:
                return web.Response(status=status, body=kept, headers={"Content-Type": content_type})
            try:
                decode_request = decode_body(body, kept)
            except HandoverError as error:
                raise _ServerError(f"prefill server {prefill}: {error}") from None
            return await self._ask_decode(request, decode, decode_request, headers)
        except _ServerError as error:
            _log(str(error))
            return _bad_gateway(str(error))

    async def _ask_prefill(self, url: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, str]:
        try:
            async with self._http.post(f"{url}{path}", data=body, headers=headers) as answer:
                return answer.status, await answer.read(), answer.headers.get("Content-Type", "application/json")
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise _ServerError(_words("prefill", url, error)) from None

    async def _ask_decode(
        self, request: web.Request, url: str, body: bytes, headers: dict[str, str]
    ) -> web.StreamResponse:
        try:
            answer = await self._http.post(f"{url}{request.path}", data=body, headers=headers)
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise _ServerError(_words("decode", url, error)) from None
        async with answer:
            return await self._relay(request, answer)

    async def _relay(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        """Pass an answer on. Where the server's side breaks, the client's connection is cut as well: an answer that
        is not whole must not look whole."""
        passed = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
        response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=passed)
        response.content_length = answer.content_length
        await response.prepare(request)
        try:
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
        except ClientConnectionResetError:
            pass  # the client went away
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            _log(f"{answer.url}: the answer broke off: {error or type(error).__name__}")
            if request.transport is not None:
                request.transport.abort()
        return response


def _words(role: str, url: str, error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"{role} server {url}: nobody listens there ({error.os_error.strerror or error.os_error})"
    return f"{role} server {url}: {error or type(error).__name__}"


def _error(status: int, kind: str, message: str) -> web.Response:
    """An error in the form that vLLM gives its own."""
    body = msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": status}})
    return web.Response(status=status, body=body, content_type="application/json")


def _bad_gateway(message: str) -> web.Response:
    return _error(502, "BadGatewayError", message)


def _log(text: str) -> None:
    sys.stderr.write(f"vllm proxy: {text}\n")
    sys.stderr.flush()


async def serve(proxy: Proxy, host: str, port: int, ready_timeout_s: float) -> int:
    """Serve until a stop signal; the exit status. ``/health`` answers at once, with 503 until all are ready."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        if not stopped.done():
            stopped.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await proxy.start()
    runner = web.AppRunner(
        proxy.app(), access_log=None, handle_signals=False, handler_cancellation=True, shutdown_timeout=SHUTDOWN_S
    )
    await runner.setup()
    waiting = asyncio.ensure_future(proxy.wait_ready(ready_timeout_s))
    try:
        await web.TCPSite(runner, host, port, backlog=2048).start()
        _log(f"waiting for {len(proxy.prefill)} prefill and {len(proxy.decode)} decode servers")
        await asyncio.wait((waiting, stopped), return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            waiting.result()
            _log(f"all servers are ready; serving on http://{host}:{port}")
        await stopped
        return 0
    except (TimeoutError, OSError) as error:
        _log(str(error))
        return 1
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await runner.cleanup()
        await proxy.close()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ratematch.engines.vllm.proxy",
        description="One OpenAI server in front of vLLM's prefill and decode servers.",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--prefill", action="append", required=True, metavar="URL", help="http://host:port; repeatable"
    )
    parser.add_argument(
        "--decode", action="append", required=True, metavar="URL", help="http://host:port; repeatable"
    )
    parser.add_argument(
        "--ready-timeout",
        type=float,
        default=1800.0,
        metavar="S",
        help="seconds to wait for all servers; default 1800",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command: status 0 after a stop signal, 1 when it cannot listen or a server never answers."""
    given = _arguments(argv)
    gc.freeze()  # what was loaded stays, and is not looked through while requests pass, nor at the end
    proxy = Proxy([url.rstrip("/") for url in given.prefill], [url.rstrip("/") for url in given.decode])
    sys.exit(uvloop.run(serve(proxy, given.host, given.port, given.ready_timeout)))


if __name__ == "__main__":
    main()
