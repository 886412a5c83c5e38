"""What worker and orchestrator servers share: sockets, start and stop like the real HTTP server's, answer headers."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import uvloop
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from ratematch.emulator.protocol import encode
from ratematch.engines.trtllm_serve.release import one_release
from ratematch.version import __version__

HEADER = "X-Ratematch-Emulated"
STATE_HEADER = "x-trtllm-server-state"

SHUTDOWN_S = 0.3
"""How long running answers may go on after a stop signal."""


class ServerLog(Protocol):
    """Where the HTTP server writes its own lines."""

    def uvicorn(self, text: str) -> None: ...


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet, so clients are refused while a model loads.

    Raises:
        RuntimeError: the address is taken or not ours, in the engine's words.
    """
    try:
        address = socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM)
        family = socket.AF_INET if any(entry[0] == socket.AF_INET for entry in address) else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            try:
                sock.bind((host, port))
            except OSError:
                # Connections of a server that just stopped may linger on the port. With this option the second try
                # passes them by, yet still fails if another socket is bound without it.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((host, port))
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise RuntimeError(f"Failed to bind socket to {host}:{port}: {error}") from None
    sock.setblocking(False)
    return sock


def json_answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=encode(value), status=status, content_type="application/json", headers=headers)


def version_text(version: str) -> str:
    """What ``/version`` answers for an emulated version."""
    return f"{one_release(version).partition('+')[0]}+emulated"


def new_app() -> web.Application:
    """An application whose every answer says that it is emulated."""
    app = web.Application(client_max_size=1 << 28)

    async def mark(request: web.Request, response: web.StreamResponse) -> None:
        response.headers[HEADER] = "1"
        response.headers["Server"] = f"ratematch-emulator/{__version__}"

    app.on_response_prepare.append(mark)
    return app


@dataclass(frozen=True)
class Life:
    """Of a server: it loads (``prepare``), then runs ``during`` until it is stopped. ``early``: it listens while it
    loads, and answers that it is starting. Connections without requests are closed after ``keep_alive_s``."""

    keep_alive_s: float
    prepare: Callable[[], Awaitable[None]]
    during: Callable[[], Awaitable[None]]
    early: bool = False


async def serve(app: web.Application, sock: socket.socket, log: ServerLog, life: Life) -> int:
    """Load, listen, run until a stop signal; the signal's number is returned.

    ``life.during`` is cancelled at the stop; if it ends by itself with an error, that error is raised here.
    """
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()

    def stop(number: int) -> None:
        if not stopped.done():
            stopped.set_result(number)

    for kind in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(kind, stop, kind)
    runner: web.AppRunner | None = None
    tasks: list[asyncio.Future[Any]] = []
    starting = {"now": life.early}
    if life.early:
        app.middlewares.append(_refuse_while(starting))
    try:
        if life.early:
            runner = _make_runner(app, life.keep_alive_s)
            await _listen(runner, sock)
        loading = asyncio.ensure_future(life.prepare())
        tasks.append(loading)
        await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            return stopped.result()
        await loading
        gc.collect()
        gc.freeze()  # what loading made stays; without it each full collection would pause the steps
        starting["now"] = False
        if runner is None:
            runner = _make_runner(app, life.keep_alive_s)
            await _listen(runner, sock)
        host, port = sock.getsockname()[:2]
        log.uvicorn("Application startup complete.")
        log.uvicorn(f"Uvicorn running on http://{host}:{port} (Press CTRL+C to quit)")
        working = asyncio.ensure_future(life.during())
        tasks.append(working)
        await asyncio.wait((working, stopped), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        number = await stopped
        log.uvicorn("Shutting down")
        return number
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if runner is not None:
            await runner.cleanup()
            log.uvicorn("Application shutdown complete.")
        sock.close()


def _make_runner(app: web.Application, keep_alive_s: float) -> web.AppRunner:
    return web.AppRunner(
        app,
        handle_signals=False,
        access_log=None,
        keepalive_timeout=keep_alive_s,
        handler_cancellation=True,
        shutdown_timeout=SHUTDOWN_S,
    )


def _refuse_while(starting: Mapping[str, bool]) -> Middleware:
    """Every route answers 503 while the server is starting."""

    @web.middleware
    async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not starting["now"]:
            return await handler(request)
        return web.Response(status=503, headers={STATE_HEADER: "starting", "Retry-After": "1"})

    return refuse


async def _listen(runner: web.AppRunner, sock: socket.socket) -> None:
    """Answer requests on a bound socket."""
    await runner.setup()
    # Connections inherit it: those that linger after the end do not keep the next server off the port.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    host, port = sock.getsockname()[:2]
    try:
        await web.SockSite(runner, sock, backlog=2048).start()
    except OSError as error:
        raise RuntimeError(f"Failed to bind socket to {host}:{port}: {error}") from None


def run_blocking(server: Coroutine[Any, Any, int]) -> int:
    """Run a server on a loop of its own to its end."""
    loop = uvloop.new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        return int(loop.run_until_complete(server))
    finally:
        asyncio.set_event_loop(None)
        loop.close()
