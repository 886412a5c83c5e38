"""What travels from a context to a generation server, and whether the two agree on its form."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from ratematch.emulator.errors import TransferError
from ratematch.emulator.trtllm.logs import Log
from ratematch.engines.settings import Config
from ratematch.engines.trtllm_serve import transceiver
from ratematch.engines.trtllm_serve.agreement import differences
from ratematch.engines.trtllm_serve.release import one_release, read_version

TRANSFER_LATENCY_S = 1e-3
"""Fixed part of one KV transfer: the handshake between the two executors."""


@dataclass(frozen=True)
class KvSource:
    """Where the KV cache of one request lies. ``endpoint``: ``host:port`` of the context server.

    ``layout``: how the bytes lie and travel (:func:`ratematch.engines.trtllm_serve.agreement.hand_over`).
    """

    endpoint: str
    request_id: int
    tokens: int
    layout: dict[str, str | int | None] = field(default_factory=dict)


def check_layout(source: KvSource, own: Mapping[str, str | int | None]) -> None:
    """The two sides must agree; nothing negotiates (contract, sections 3.4 and 3.6).

    Raises:
        TransferError: naming every key that differs.
    """
    differing = [
        f"{key}: ctx has {source.layout[key]} and gen has {own.get(key)}" for key in differences(source.layout, own)
    ]
    if differing:
        raise TransferError(
            f"KV cache transfer of request {source.request_id} failed: the two sides do not agree: "
            + "; ".join(differing)
        )


def announce(config: Config, version: str, log: Log) -> None:
    """What a worker logs when it makes its transceiver. ``auto`` is the C++ one here: no emulated model asks for the
    other."""
    block = config.get(transceiver.WHERE) or {}
    backend = block.get("backend")
    if backend is None:
        log.info(transceiver.OFF_LINES[0])
        return
    if backend == "MPI":
        log.warning(f"{transceiver.MPI_LINE}, UCX or NIXL is recommended")
    if backend == "UCX":
        log.info(f"{transceiver.UCX_LINE}.")
    if transceiver.runtimes(block, read_version(one_release(version)))[-1] == "PYTHON":
        log.info(transceiver.PYTHON_LINE)


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
