"""How a context server's KV cache gets to a generation server, without GPUs.

The context server keeps the blocks of a context-only request until they are fetched. Its answer carries, in
``encoded_opaque_state``, where it listens and how many tokens there are. The generation server tells it that the
transfer has begun (one POST to an internal route) and how long it takes, and schedules the request when it is over.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec

from ratematch.emulator.transfer import KvSource, TransferError

FETCH_ROUTE = "/_emulated/fetch"


def encode_source(source: KvSource) -> str:
    """Text for ``encoded_opaque_state``."""
    return base64.b64encode(msgspec.json.encode(source)).decode()


def decode_source(text: str) -> KvSource:
    """The source in an ``encoded_opaque_state``.

    Raises:
        TransferError: not written by an emulated context server.
    """
    try:
        return msgspec.json.decode(base64.b64decode(text, validate=True), type=KvSource)
    except (ValueError, msgspec.MsgspecError):
        raise TransferError("encoded_opaque_state was not written by an emulated context server") from None


class CtxHolds:
    """KV caches a context server keeps for generation servers; dropped after ``timeout_s`` (``None``: never).

    ``release`` frees those of a sequence; ``expired`` is told the request whose time was over.
    """

    def __init__(self, release: Callable[[int], None], timeout_s: float | None, expired: Callable[[int | str], None]):
        self._release = release
        self._timeout_s = timeout_s
        self._expired = expired
        self._held: dict[int | str, tuple[int, asyncio.TimerHandle | None]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, request_id: int | str, sequence_id: int) -> None:
        timer = None
        if self._timeout_s is not None:
            timer = asyncio.get_running_loop().call_later(self._timeout_s, self._expire, request_id)
        self._held[request_id] = (sequence_id, timer)

    def renew(self, request_id: int | str) -> None:
        """Its time begins again, if it is still held."""
        if request_id in self._held:
            sequence_id, timer = self._held[request_id]
            if timer is not None:
                timer.cancel()
            self.hold(request_id, sequence_id)

    def fetched(self, request_id: int | str, duration_s: float) -> bool:
        """A transfer began; blocks are free once it is over. False: nothing is held for that request."""
        entry = self._held.pop(request_id, None)
        if entry is None:
            return False
        sequence_id, timer = entry
        if timer is not None:
            timer.cancel()
        asyncio.get_running_loop().call_later(duration_s, self._release, sequence_id)
        return True

    def _expire(self, request_id: int | str) -> None:
        entry = self._held.pop(request_id, None)
        if entry is not None:
            self._expired(request_id)
            self._release(entry[0])


class GenFetch:
    """The generation server's side of transfers."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def begin(self, source: KvSource, duration_s: float) -> None:
        """Tell the context server that a transfer of ``duration_s`` seconds begins.

        Raises:
            TransferError: it cannot be reached, or no longer holds the cache.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        body = msgspec.json.encode({"request_id": source.request_id, "duration_s": duration_s})
        try:
            async with self._session.post(f"http://{source.endpoint}{FETCH_ROUTE}", data=body) as response:
                if response.status != 200:
                    raise TransferError(
                        f"KV cache of request {source.request_id} is no longer held by {source.endpoint}"
                    )
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
            raise TransferError(f"KV cache transfer from {source.endpoint} failed: {error}") from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def disagg_answer(source: KvSource, first_token: int, given: dict[str, Any]) -> dict[str, Any]:
    """``disaggregated_params`` of a context-only answer."""
    return {
        "request_type": "context_only",
        "first_gen_tokens": [first_token],
        "first_gen_log_probs": None,
        "ctx_request_id": source.request_id,
        "encoded_opaque_state": encode_source(source),
        "draft_tokens": None,
        "disagg_request_id": given.get("disagg_request_id"),
        "ctx_dp_rank": 0,
        "ctx_info_endpoint": None,
    }
