"""Emulated servers for tests: inside the test's own loop, or as real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web

from ratematch.emulator.environment import Environment, Faults
from ratematch.emulator.scheduler import Scheduler
from ratematch.emulator.steptime import ConstantStepTime
from ratematch.emulator.trtllm.assembly import build
from ratematch.emulator.trtllm.logs import Log
from ratematch.emulator.trtllm.orchestrator import Orchestrator
from ratematch.emulator.trtllm.orchestrator_settings import orchestrator_settings
from ratematch.emulator.trtllm.settings import worker_settings
from ratematch.emulator.trtllm.worker import Worker

QUICK = Environment(load_s=0.0)
BASE: dict[str, Any] = {
    "max_batch_size": 16,
    "max_num_tokens": 1024,
    "max_seq_len": 2048,
    "kv_cache_config": {"enable_block_reuse": False, "dtype": "fp8"},
    "return_perf_metrics": True,
    "perf_metrics_max_requests": 100,
    "enable_iter_perf_stats": True,
}
DISAGG = {**BASE, "cache_transceiver_config": {"backend": "DEFAULT", "max_tokens_in_buffer": 1024}}


def make_worker(
    config: dict[str, Any], environment: Environment = QUICK, step_s: float = 0.002, model: str = "qwen3-30b-a3b"
) -> Worker:
    """A worker whose every step takes ``step_s``; its log lines are in ``worker.log.stream``."""
    settings = worker_settings(model, {}, (), config, environment.version)
    emulation = build(settings, environment)
    scheduler = Scheduler(emulation.scheduler.config, ConstantStepTime(step_s), environment.seed)
    return Worker(settings, environment, replace(emulation, scheduler=scheduler), Log(stream=StringIO()))


async def _listen(app: web.Application) -> tuple[web.AppRunner, str]:
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    return runner, f"127.0.0.1:{port}"


@asynccontextmanager
async def serving(worker: Worker) -> AsyncIterator[str]:
    """``host:port`` of a running worker."""
    runner, address = await _listen(worker.app())
    engine = asyncio.ensure_future(worker.engine.run())
    try:
        yield address
    finally:
        engine.cancel()
        await asyncio.gather(engine, return_exceptions=True)
        await worker.fetch.close()
        await runner.cleanup()


@asynccontextmanager
async def orchestrating(
    ctx: list[str], gen: list[str], environment: Environment = QUICK, **extra: Any
) -> AsyncIterator[str]:
    """``host:port`` of a running orchestrator in front of workers."""
    config = {
        "context_servers": {"num_instances": len(ctx), "urls": ctx},
        "generation_servers": {"num_instances": len(gen), "urls": gen},
        "perf_metrics_max_requests": 100,
        **extra,
    }
    settings = orchestrator_settings(config, environment, start_timeout_s=5, request_timeout_s=30)
    orchestrator = Orchestrator(settings, environment, Log(stream=StringIO()))
    await orchestrator.start()
    runner, address = await _listen(orchestrator.app())
    try:
        yield address
    finally:
        await orchestrator.close()
        await runner.cleanup()


async def post(address: str, body: dict[str, Any], route: str = "/v1/completions") -> tuple[int, bytes]:
    async with aiohttp.ClientSession() as session, session.post(f"http://{address}{route}", json=body) as answer:
        return answer.status, await answer.read()


async def get(address: str, route: str) -> tuple[int, Any, Any]:
    """Status, decoded JSON (or text), headers."""
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}{route}") as answer:
        json = answer.content_type == "application/json"
        return answer.status, await (answer.json() if json else answer.text()), answer.headers


def with_faults(**faults: Any) -> Environment:
    return replace(QUICK, faults=Faults(**faults))


# ------------------------------------------------------------------------------------------------ real processes


def write_yaml(path: Path, content: Any) -> str:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


@contextmanager
def process(*args: str, module: str = "ratematch.emulator", **env: str) -> Iterator[subprocess.Popen[str]]:
    """``python -m MODULE ARGS``; killed at the end if it still runs."""
    child = subprocess.Popen(
        [sys.executable, "-m", module, *args],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
        child.communicate()


def wait_healthy(port: int, limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
                assert answer.status == 200
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
    raise AssertionError(f"nothing healthy on port {port} after {limit_s} s")


def refuses(port: int) -> bool:
    """Nobody listens on the port."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


def wait_bound(port: int, limit_s: float = 30.0) -> None:
    """Until some process has bound the port, listening or not."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                return
        time.sleep(0.02)
    raise AssertionError(f"nobody bound port {port} after {limit_s} s")
