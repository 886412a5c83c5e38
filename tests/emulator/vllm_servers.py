"""Emulated ``vllm serve`` servers for tests, inside the test's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from io import StringIO
from typing import Any

from aiohttp import web

from ratematch.emulator.environment import Environment
from ratematch.emulator.scheduler import Scheduler
from ratematch.emulator.steptime import ConstantStepTime
from ratematch.emulator.vllm.assembly import build
from ratematch.emulator.vllm.logs import Log
from ratematch.emulator.vllm.server import Server
from ratematch.emulator.vllm.settings import serve_settings

from ..ports import free_port

MODEL = "qwen3-30b-a3b"
QUICK = Environment(version="0.32", gpu="h200", load_s=0.0)
PREFILL = {"kv_connector": "NixlConnector", "kv_role": "kv_producer"}
DECODE = {"kv_connector": "NixlConnector", "kv_role": "kv_consumer"}
KEEP = {"do_remote_decode": True, "do_remote_prefill": False, "remote_block_ids": None, "remote_host": None}


def make_server(
    given: dict[str, Any] | None = None, environment: Environment = QUICK, step_s: float = 0.002
) -> Server:
    """A server whose every step takes ``step_s``; its log lines are in ``server.log.stream``."""
    given = {"max-model-len": 4096, "max-num-seqs": 16, "max-num-batched-tokens": 2048, **(given or {})}
    settings = serve_settings(MODEL, given, environment.version, environment.gpu)
    emulation = build(settings, environment)
    scheduler = Scheduler(emulation.scheduler.config, ConstantStepTime(step_s), environment.seed)
    side = ("127.0.0.1", free_port())
    return Server(settings, environment, replace(emulation, scheduler=scheduler), side, Log(stream=StringIO()))


@asynccontextmanager
async def serving(*servers: Server) -> AsyncIterator[list[str]]:
    """``host:port`` of each running server."""
    runners, addresses, engines = [], [], []
    try:
        for server in servers:
            runner = web.AppRunner(server.app(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
            runners.append(runner)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            addresses.append(f"127.0.0.1:{runner.addresses[0][1]}")
            await server.connector.start()
            engines.append(asyncio.ensure_future(server.engine.run()))
        yield addresses
    finally:
        for engine in engines:
            engine.cancel()
        await asyncio.gather(*engines, return_exceptions=True)
        for server in servers:
            await server.connector.close()
        for runner in runners:
            await runner.cleanup()
