"""What a server does with ``kv_transfer_params``: hold its blocks for another server, or fetch those of another."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from ratematch.emulator.engine import Engine
from ratematch.emulator.errors import TransferError
from ratematch.emulator.kvholds import CtxHolds
from ratematch.emulator.protocol import Json
from ratematch.emulator.scheduler import Sequence
from ratematch.emulator.vllm.logs import Log
from ratematch.emulator.vllm.metrics import Metrics, Transfer
from ratematch.emulator.vllm.nixl import BLOCK, Agreed, Puller, Remote, SideChannel, read_remote
from ratematch.emulator.vllm.settings import ServeSettings
from ratematch.emulator.vllm.transfer import Layout, is_local


class Connector:
    """The NIXL connector of one server; without ``--kv-transfer-config`` it hands nothing over.

    ``side``: host and port of its side channel. ``engine_id``: its name to others.
    """

    def __init__(
        self,
        settings: ServeSettings,
        layout: Layout,
        engine: Engine,
        metrics: Metrics,
        side: tuple[str, int],
        log: Log,
    ):
        self.engine_id = str(uuid.uuid4())
        self._settings, self._layout, self._engine = settings, layout, engine
        self._metrics, self._log = metrics, log
        lease_s = settings.transfer.lease_s if settings.transfer else None
        agreed: Agreed = {"model": settings.model.name, "cache_dtype": settings.kv_dtype, BLOCK: settings.block_size}
        self.holds = CtxHolds(engine.release, lease_s, self._expired)
        self._channel = SideChannel(*side, self.holds, agreed, self._stale) if settings.transfer else None
        self._puller = Puller(lease_s or 0.0, agreed, log.warning)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen on the side channel.

        Raises:
            RuntimeError: the address is taken or not ours.
        """
        if self._channel is not None:
            await self._channel.start()

    async def close(self) -> None:
        """Let go of what reaches other servers."""
        await self._puller.close()
        if self._channel is not None:
            await self._channel.close()

    # ------------------------------------------------------------------------------------------- requests

    def read(self, given: Mapping[str, Any]) -> tuple[bool, Remote | None]:
        """Must the KV cache of a request be held for another server, and from where must it be fetched?"""
        if not given:
            return False, None
        if self._channel is None:
            self._log.core(
                "Got kv_transfer_params, but no KVConnector found. Disabling KVTransfer for this request.", "WARNING"
            )
            return False, None
        if not given.get("do_remote_prefill"):
            return bool(given.get("do_remote_decode")), None
        remote = read_remote(given)
        if remote is None:
            self._log.core(
                f"Got invalid KVTransferParams: {given}. This request will not utilize KVTransfer", "WARNING"
            )
        return False, remote

    # ------------------------------------------------------------------------------------------- prefill's side

    def hold(self, request_id: str, sequence: Sequence) -> Json | None:
        """Hold the blocks of a finished prompt; the parameters for the decode server. ``None`` for other requests."""
        if sequence.kind != "context_only" or self._channel is None:
            return None
        name = f"{request_id}-0-{uuid.uuid4().hex[:8]}"
        self.holds.hold(name, sequence.id)
        blocks = -(-sequence.prompt_len // self._settings.block_size)
        mapping = self._settings.mapping
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": [list(range(1, blocks + 1))],
            "remote_engine_id": self.engine_id,
            "remote_request_id": name,
            "remote_host": self._channel.host,
            "remote_port": self._channel.port,
            "tp_size": 1 if mapping.attention_dp else mapping.tp,
            "dcp_size": 1,
            "pp_size": mapping.pp,
            "remote_num_tokens": sequence.prompt_len,
            "remote_blocks_expiry_time": None,
            "transfer_mode": "pull",
        }

    def _expired(self, request_id: int | str) -> None:
        self._metrics.failed("nixl_num_kv_expired_reqs")
        self._log.warning(
            f"Releasing expired KV blocks for request {request_id} which were retrieved by 0 remote worker(s) before "
            "lease expired."
        )

    def _stale(self, request_id: str) -> None:
        self._metrics.failed("nixl_num_notifications_after_expiry")
        self._log.error(
            f"Potentially invalid KV blocks for unrecognized request {request_id} were retrieved by a decode worker. "
            "They may have expired."
        )

    # ------------------------------------------------------------------------------------------- decode's side

    def expect(self, remote: Remote, sequence: Sequence) -> Callable[[], None]:
        """Keep the blocks of a request alive until its turn; what to call then."""
        sequence.pull = self._layout.pull(self._settings.gpu, is_local(remote.host))
        self._puller.expect(remote)
        return lambda: self._later(self._pull(remote, sequence))

    def give_back(self, remote: Remote) -> None:
        """The request has ended: if its turn had not come, its blocks are wanted no more."""
        if self._puller.forget(remote):
            self._later(self._notify(remote))

    async def _pull(self, remote: Remote, sequence: Sequence) -> None:
        pull, layout = sequence.pull, self._layout
        assert pull is not None and sequence.admitted_s is not None
        self._puller.forget(remote)
        seconds, blocks = sequence.ready_s - sequence.admitted_s, sequence.pulled
        try:
            await self._puller.fetch(remote, seconds)
        except TransferError as error:
            self._fail(remote, sequence, str(error))
            return
        self._metrics.transferred(
            sequence,
            Transfer(seconds, blocks * pull.post_block_s, blocks * layout.block_b, blocks * layout.descriptors),
        )

    def _fail(self, remote: Remote, sequence: Sequence, why: str) -> None:
        self._metrics.failed("nixl_num_failed_transfers", sequence.rank)
        self._log.error(f"NIXL transfer failure: {why} | request {remote.request_id} at {remote.endpoint}")
        self._log.core(
            f"Failing 1 request(s) due to KV load failure (failure_policy=fail, {sequence.prompt_len} tokens "
            f"affected). Request IDs: {{'{remote.request_id}'}}",
            "ERROR",
        )
        self._engine.fail(sequence.id, why)

    async def _notify(self, remote: Remote) -> None:
        try:
            await self._puller.fetch(remote, 0.0)
        except TransferError as error:
            self._log.warning(f"NIXL transfer failure: {error} | notification of {remote.request_id}")

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
