"""How a context server's KV cache gets to a generation server, without GPUs.

The context server holds the blocks of a context-only request until they are fetched. Its answer carries, in
``encoded_opaque_state``, where it listens and how many tokens there are. The generation server tells it that the
transfer has begun (one POST to an internal route) and how long it takes, and schedules the request when it is over.
"""

from __future__ import annotations

import asyncio

import aiohttp
import msgspec

from ratematch.emulator.errors import TransferError
from ratematch.emulator.protocol import Json
from ratematch.emulator.trtllm.transfer import KvSource, encode_source

FETCH_ROUTE = "/_emulated/fetch"


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


def disagg_answer(source: KvSource, first_token: int, given: Json) -> Json:
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
