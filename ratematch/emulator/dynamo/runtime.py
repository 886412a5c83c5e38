"""A worker among those of a real Dynamo deployment: registered through its public Python runtime.

Only this module imports Dynamo. What is registered is what ``dynamo.trtllm`` and ``dynamo.vllm`` register: the model
under its served name, the stage it does, and what a prefill or decode worker needs beside itself. One more endpoint,
:data:`~ratematch.measure.emulatedmarks.EMULATED_ENDPOINT`, is where emulated workers talk to each other; that it is
listed says that a deployment is emulated.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from dynamo.llm import ModelInput, ModelRuntimeConfig, ModelType, WorkerType, register_model
from dynamo.runtime import DistributedRuntime

import ratematch
from ratematch.emulator.dynamo.backend import Card, Role
from ratematch.emulator.dynamo.place import Place
from ratematch.emulator.dynamo.worker import Worker
from ratematch.emulator.errors import TransferError
from ratematch.emulator.faults import load
from ratematch.emulator.protocol import Json
from ratematch.measure.emulatedmarks import EMULATED_ENDPOINT, EMULATED_INFO

MODEL = Path(ratematch.__file__).parent / "data" / "dynamo_model"
"""Configuration and tokenizer that every emulated model has: the frontend reads no more of one."""

PEER_S = 10.0


class Member:
    """One worker in a deployment; :meth:`run` serves until a stop signal."""

    def __init__(self, worker: Worker[Any], place: Place, failures: dict[str, str]):
        self.worker, self.place, self._failures = worker, place, failures
        self._peers: dict[str, Any] = {}

    async def run(self) -> None:
        """Load, register, serve until a stop signal.

        Raises:
            LoadFailure: the injected loading fault.
            Exception: the runtime cannot be reached, in its own words.
        """
        place, worker = self.place, self.worker
        loop = asyncio.get_running_loop()
        self.runtime = DistributedRuntime(
            loop, place.backend, place.request, event_plane=place.event, response_plane=place.response
        )
        stopped = asyncio.Event()

        def stop() -> None:
            stopped.set()
            self.runtime.shutdown()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        loading = asyncio.ensure_future(load(worker.environment, self._failures))
        waiting = asyncio.ensure_future(stopped.wait())
        await asyncio.wait((loading, waiting), return_when=asyncio.FIRST_COMPLETED)
        if stopped.is_set():
            loading.cancel()
            return
        await loading
        await self._serve()

    async def _serve(self) -> None:
        place, worker = self.place, self.worker
        endpoint = self._endpoint(place.component, place.endpoint)
        worker.backend.own_name = f"{place.component}/{endpoint.connection_id()}"
        await worker.backend.start(self._call)
        self.runtime.register_engine_route(EMULATED_INFO, self._info)
        endpoint.metrics.register_prometheus_expfmt_callback(worker.metrics)
        peers = asyncio.ensure_future(
            self._endpoint(place.component, EMULATED_ENDPOINT).serve_endpoint(self._answer_peer)
        )
        await _register(endpoint, worker.backend.card(), worker.backend.role, place.path or MODEL)
        serving = asyncio.ensure_future(endpoint.serve_endpoint(worker.generate))
        working = asyncio.ensure_future(worker.work())
        try:
            await asyncio.wait((working, serving), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            # It ends with the runtime: at a stop signal, or because the lease in etcd was lost. The real worker ends
            # with status 0 then as well.
            await serving
        finally:
            self.runtime.shutdown()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await worker.backend.close()
            await asyncio.gather(serving, peers, return_exceptions=True)

    def _endpoint(self, component: str, name: str) -> Any:
        return self.runtime.endpoint(f"{self.place.namespace}.{component}.{name}")

    async def _info(self, body: Json) -> Json:
        return self.worker.describe()

    # ------------------------------------------------------------------------------------------- other workers

    async def _answer_peer(self, message: Json, context: Any = None) -> AsyncIterator[Json]:
        yield await self.worker.backend.answer_peer(message)

    async def _call(self, name: str, message: Json) -> Json:
        """The answer of the worker ``name`` to a message.

        Raises:
            TransferError: it is not there, or does not answer.
        """
        component, _, number = name.partition("/")
        try:
            return await asyncio.wait_for(self._ask(component, int(number), message), PEER_S)
        except Exception as error:  # the runtime raises plain exceptions for whatever happens on its way
            raise TransferError(f"KV cache transfer from {name} failed: {error or type(error).__name__}") from None

    async def _ask(self, component: str, instance: int, message: Json) -> Json:
        client = self._peers.get(component)
        if client is None:
            client = self._peers[component] = await self._endpoint(component, EMULATED_ENDPOINT).client()
            await client.wait_for_instances()
        async for answer in await client.direct(message, instance):
            return dict(answer.data())
        raise TransferError("no answer")


async def _register(endpoint: Any, card: Card, role: Role, path: Path) -> None:
    """Have the frontends send requests here."""
    config = ModelRuntimeConfig()
    config.context_length = card.context_length
    config.total_kv_blocks = card.kv_blocks
    config.max_num_seqs = card.max_sequences
    config.max_num_batched_tokens = card.max_tokens
    config.data_parallel_size = card.ranks
    config.enable_local_indexer = False
    # Too long a prompt is refused by the frontend; too many tokens are the engine's to cut.
    budget = {"combined_limit": card.context_length, "reject_prompt_overflow": True, "reject_total_overflow": False}
    config.set_engine_specific("token_budget", json.dumps(budget))
    kind, needs = {
        "agg": (WorkerType.Aggregated, []),
        "prefill": (WorkerType.Prefill, [[WorkerType.Decode]]),
        "decode": (WorkerType.Decode, [[WorkerType.Prefill]]),
    }[role]
    await register_model(
        ModelInput.Tokens,
        ModelType.Empty if role == "prefill" else ModelType.Chat | ModelType.Completions,
        endpoint,
        str(path),
        card.name,
        kv_cache_block_size=card.block_size,
        runtime_config=config,
        worker_type=kind,
        needs=needs,
    )
