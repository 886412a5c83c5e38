"""The KV hand-over of vLLM's NIXL connector, without GPUs: leases and the side channel between two servers.

A prefill server keeps the blocks of a request for the time of a lease. A decode server that has such a request in
its queue renews the lease with heartbeats, and says when a transfer begins; what NIXL's agents tell each other is one
POST here, to the same address: ``VLLM_NIXL_SIDE_CHANNEL_HOST`` and ``_PORT``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from ratematch.emulator.errors import TransferError
from ratematch.emulator.kvholds import CtxHolds
from ratematch.emulator.protocol import Json
from ratematch.emulator.serving import bind, json_answer
from ratematch.emulator.vllm.protocol import PULL_KEYS

FETCH_ROUTE = "/_emulated/fetch"
LEASE_ROUTE = "/_emulated/lease"
HEARTBEATS_PER_LEASE = 6
BLOCK = "block_size"
"""Part of a layout that need not be equal: a block of the decode server may hold several of the prefill server."""
ANSWER_S = 10.0

Agreed = Mapping[str, str | int]
"""What both sides of a transfer must have alike, by name."""


@dataclass(frozen=True)
class Remote:
    """Where the KV blocks of a request lie: the side channel of a prefill server, and the request's name there."""

    endpoint: str
    host: str
    request_id: str


def read_remote(transfer: Mapping[str, Any]) -> Remote | None:
    """The remote blocks that ``kv_transfer_params`` name; ``None`` when something is missing, as then none are
    fetched."""
    if not transfer.get("remote_block_ids") or any(transfer.get(key) is None for key in PULL_KEYS):
        return None
    host, port = str(transfer["remote_host"]), transfer["remote_port"]
    return Remote(f"{host}:{port}", host, str(transfer["remote_request_id"]))


class SideChannel:
    """The address at which a server's peers reach it. ``layout``: how its KV blocks lie, as its peers must know them.

    ``stale`` is called with a request whose blocks are fetched although they are no longer held.
    """

    def __init__(self, host: str, port: int, holds: CtxHolds, layout: Agreed, stale: Callable[[str], None]):
        self.host, self.port = host, port
        self._holds, self._layout, self._stale = holds, layout, stale
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            RuntimeError: the address is taken or not ours.
        """
        app = web.Application(client_max_size=1 << 24)
        app.add_routes([web.post(FETCH_ROUTE, self._fetch), web.post(LEASE_ROUTE, self._lease)])
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.SockSite(self._runner, bind(self.host, self.port), backlog=2048).start()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _fetch(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read())
        if why := _mismatch(self._layout, body["layout"]):
            return json_answer({"error": why}, 409)
        if not self._holds.fetched(body["request_id"], float(body["duration_s"])):
            # Memory is read whoever owns it by now: the decode server cannot know that the lease was over.
            self._stale(body["request_id"])
        return json_answer({})

    async def _lease(self, request: web.Request) -> web.Response:
        for request_id in msgspec.json.decode(await request.read()):
            self._holds.renew(request_id)
        return json_answer({})


def _mismatch(prefill: Mapping[str, Any], decode: Mapping[str, Any]) -> str | None:
    """Why KV blocks that lie like ``prefill`` are of no use to a server of ``decode``; ``None`` when they are."""
    if differing := [key for key, value in prefill.items() if key != BLOCK and decode.get(key) != value]:
        differences = ", ".join(f"{key} {prefill[key]} and {decode.get(key)}" for key in differing)
        return f"NIXL compatibility hash mismatch: {differences}"
    if decode[BLOCK] % prefill[BLOCK]:
        return (
            f"Local block size {decode[BLOCK]} is not divisible by remote block size {prefill[BLOCK]} or vice versa."
        )
    return None


class Puller:
    """A decode server's side: heartbeats for what waits, and word of what is fetched."""

    def __init__(self, lease_s: float, layout: Agreed, warn: Callable[[str], None]):
        self._period_s = lease_s / HEARTBEATS_PER_LEASE
        self._layout, self._warn = layout, warn
        self._waiting: set[Remote] = set()
        self._session: aiohttp.ClientSession | None = None
        self._beating: asyncio.Task[None] | None = None

    def expect(self, remote: Remote) -> None:
        """A request waits for its turn: keep its blocks alive."""
        self._waiting.add(remote)
        if self._beating is None:
            self._beating = asyncio.ensure_future(self._beat())

    def forget(self, remote: Remote) -> bool:
        """It waits no more; ``False`` when it did not."""
        waited = remote in self._waiting
        self._waiting.discard(remote)
        return waited

    async def fetch(self, remote: Remote, duration_s: float) -> None:
        """Tell the prefill server that its blocks are fetched for ``duration_s`` seconds from now, and free then.

        Raises:
            TransferError: it cannot be reached, or keeps its KV cache otherwise.
        """
        body = {"request_id": remote.request_id, "duration_s": duration_s, "layout": self._layout}
        status, answer = await self._post(remote.endpoint, FETCH_ROUTE, body)
        if status != 200:
            raise TransferError(answer.get("error", f"status {status}"))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            by_endpoint: dict[str, list[str]] = {}
            for remote in self._waiting:
                by_endpoint.setdefault(remote.endpoint, []).append(remote.request_id)
            for endpoint, ids in by_endpoint.items():
                try:
                    await self._post(endpoint, LEASE_ROUTE, ids)
                except TransferError as error:
                    self._warn(f"heartbeat to {endpoint} failed: {error}")

    async def _post(self, endpoint: str, route: str, body: Any) -> tuple[int, Json]:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=ANSWER_S)
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)
        try:
            async with self._session.post(f"http://{endpoint}{route}", data=msgspec.json.encode(body)) as response:
                return response.status, msgspec.json.decode(await response.read())
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError, msgspec.DecodeError) as error:
            raise TransferError(f"{endpoint}: {error or type(error).__name__}") from None

    async def close(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
