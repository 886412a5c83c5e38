"""What an orchestrator does before it serves: it waits for its workers, and makes their clocks count from its own."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import msgspec

from ratematch.emulator.trtllm.logs import Log
from ratematch.emulator.trtllm.orchestrator_settings import OrchestratorSettings

POLL_S = 0.2
"""Pause between two health polls of the workers; the real one waits about 3 s."""


async def wait_for_workers(
    http: aiohttp.ClientSession, settings: OrchestratorSettings, *, gen_only: bool, log: Log
) -> None:
    """Return when every worker is healthy; context workers are not waited for where the context is invented.

    Raises:
        TimeoutError: they did not become ready in time.
    """
    ctx = [] if gen_only else list(settings.ctx.urls)
    missing = [*ctx, *settings.gen.urls]
    log.info(f"Waiting for servers, context: {ctx}, generation: {list(settings.gen.urls)}")
    deadline = time.monotonic() + settings.start_timeout_s
    while missing:
        missing = [url for url in missing if not await _is_healthy(http, url)]
        if missing and time.monotonic() > deadline:
            raise TimeoutError("Timeout waiting for context and generation servers to be ready")
        if missing:
            await asyncio.sleep(POLL_S)
    log.info("Generation servers are ready (context servers skipped)" if gen_only else "All servers are ready")


async def _is_healthy(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(f"http://{url}/health", timeout=aiohttp.ClientTimeout(total=5)) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, OSError, asyncio.TimeoutError):
        return False


async def align_clock(http: aiohttp.ClientSession, url: str, log: Log) -> None:
    """Make a worker's timings count from this process's steady clock."""
    route = f"http://{url}/steady_clock_offset"
    try:
        sent_s = time.monotonic()
        async with http.get(route) as answer:
            theirs = msgspec.json.decode(await answer.read())
        got_s = time.monotonic()
        ahead_s = (theirs["receive_ts"] - sent_s + theirs["transmit_ts"] - got_s) / 2
        async with http.post(route, data=msgspec.json.encode({"offset": -ahead_s})):
            pass
    except (aiohttp.ClientError, OSError, asyncio.TimeoutError, msgspec.DecodeError, KeyError) as error:
        log.warning(f"Cannot align the clock of {url}: {error}")
