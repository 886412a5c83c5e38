"""Emulated workers of Dynamo for tests that need no Dynamo: what its runtime would do is done by the tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from ratematch.emulator.dynamo import with_trtllm, with_vllm
from ratematch.emulator.dynamo.backend import Role
from ratematch.emulator.dynamo.worker import Worker
from ratematch.emulator.environment import Environment, Faults
from ratematch.emulator.errors import TransferError
from ratematch.emulator.protocol import Json
from ratematch.emulator.steptime import ConstantStepTime

QUICK = Environment(version="1.3.0rc29", load_s=0.0)
VLLM = Environment(version="0.32", load_s=0.0)


class Request:
    """The runtime's view of one request; :meth:`leave` is its client going away."""

    def __init__(self, number: str = "r-1"):
        self._number = number
        self._gone: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def id(self) -> str:
        return self._number

    def async_killed_or_stopped(self) -> asyncio.Future[bool]:
        return self._gone

    def leave(self) -> None:
        self._gone.set_result(True)


class Sender:
    """Where a worker sends its chunks."""

    def __init__(self) -> None:
        self.chunks: list[Json] = []
        self.closed = False

    def send(self, chunk: Json) -> None:
        self.chunks.append(chunk)

    def close(self) -> None:
        self.closed = True


def make(role: Role, flags: Mapping[str, Any], environment: Environment = QUICK) -> Worker[Any]:
    """A worker with TensorRT-LLM inside, whose every step takes a millisecond."""
    made = with_trtllm.make(role, flags, (), environment, {})
    made.backend.scheduler._step_time = ConstantStepTime(0.001)
    return Worker(made.backend, environment, "1.6.1", made.warn)


def make_vllm(role: Role, words: list[str], side_port: int) -> Worker[Any]:
    """A worker with vLLM inside."""
    variables = {"VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1", "VLLM_NIXL_SIDE_CHANNEL_PORT": str(side_port)}
    made = with_vllm.make(role, {}, words, VLLM, variables)
    made.backend.scheduler._step_time = ConstantStepTime(0.001)
    return Worker(made.backend, VLLM, "1.6.1", made.warn)


@asynccontextmanager
async def working(**workers: Worker[Any]) -> AsyncIterator[None]:
    """Workers that run and can call each other by name."""

    async def call(name: str, message: Json) -> Json:
        if name not in workers:
            raise TransferError(f"KV cache transfer from {name} failed: nobody there")
        return await workers[name].backend.answer_peer(message)

    for name, worker in workers.items():
        worker.backend.own_name = name
        await worker.backend.start(call)
    tasks = [asyncio.ensure_future(worker.work()) for worker in workers.values()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for worker in workers.values():
            await worker.backend.close()


async def ask(worker: Worker[Any], request: Json, context: Request | None = None) -> list[Json]:
    """The chunks that a worker sends to the network for a request."""
    sender = Sender()
    async for chunk in worker.generate(request, context or Request(), response_sender=sender):
        raise AssertionError(f"sent and yielded: {chunk}")
    assert sender.closed
    return sender.chunks


def with_faults(**faults: Any) -> Environment:
    return replace(QUICK, faults=Faults(**faults))
