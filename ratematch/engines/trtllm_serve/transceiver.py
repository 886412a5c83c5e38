"""Which of the two KV transceivers a worker runs: by version, backend and options, and by what its log says.

The C++ one takes every backend. The Python one (``KvCacheTransceiverV2``) takes NIXL only, refuses a null
``kv_transfer_timeout_ms`` since it is the default, and sizes its buffers itself. ``auto`` is the Python one for
models
that ask for it, else the C++ one. Sources: field lists of the releases, public pull requests 16164 and 18134.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ratematch.engines.settings import Config
from ratematch.engines.trtllm_serve.contract import defaults, load_keys
from ratematch.engines.trtllm_serve.release import Version
from ratematch.plan.setting import Setting

WHERE = "cache_transceiver_config"
BACKEND = f"{WHERE}.backend"
RUNTIME = f"{WHERE}.transceiver_runtime"
TIMEOUT = f"{WHERE}.kv_transfer_timeout_ms"

OVER_NIXL = ("DEFAULT", "NIXL")
"""Backends that the Python transceiver takes; DEFAULT is NIXL unless a variable says otherwise."""

PYTHON_LINE = "Using KvCacheTransceiverV2"
OFF_LINES = ("cache_transceiver is disabled", "kv_cache_transceiver is disabled")
UCX_LINE = "Using UCX kv-cache transceiver"
MPI_LINE = "MPI CacheTransceiver is deprecated"
_AT_INFO = re.compile(r"\[TRT-LLM\] (?:\[RANK \d+\] )?\[I\]")


def runtimes(block: Config, version: Version) -> tuple[str, ...]:
    """What ``cache_transceiver_config`` may run: ``CPP``, ``PYTHON`` or ``auto``; several where a version has
    releases
    with different defaults. Null is the C++ one in every version."""
    key = "transceiver_runtime"
    rule = load_keys("worker")[WHERE]["keys"][key]
    found = [block[key]] if key in block else defaults(rule, version)
    return tuple(dict.fromkeys("CPP" if runtime is None else str(runtime) for runtime in found))


def may_be_alike(left: str, right: str) -> bool:
    """Can two sides run the same? Each as :func:`spell_runtimes` gives it."""
    return bool({*left.split(" or ")} & {*right.split(" or ")})


def spell_runtimes(block: Config, version: Version) -> str:
    """:func:`runtimes` in one text: ``CPP``, ``CPP or auto``."""
    return " or ".join(runtimes(block, version))


def derive_runtime(block: Config, backend: str, version: Version) -> Setting:
    """The runtime that is written into the file, so that no release's default decides. ``block``: the user's
    options."""
    if backend not in OVER_NIXL:
        return Setting(RUNTIME, "CPP", f"the Python transceiver takes NIXL only, not {backend}")
    if block.get("enable_pipelined_transfer"):
        return Setting(RUNTIME, "PYTHON", "enable_pipelined_transfer needs the Python transceiver")
    known = runtimes({}, version)
    if len(known) == 1:
        return Setting(RUNTIME, known[0], f"the default of {version.text}, written out: it differs between releases")
    both = " or ".join(known)
    return Setting(
        RUNTIME, known[0], f"the default of {version.text} is by release {both}; all of them take {known[0]}"
    )


def check_transfer(config: Config, version: Version) -> Iterator[str]:
    """What the transceiver refuses when it is made."""
    block = config.get(WHERE) or {}
    backend = block.get("backend")
    if backend is None:
        return
    runs = runtimes(block, version)
    given = "transceiver_runtime" in block
    default = "" if given else f", the default of {version.text},"
    if runs == ("PYTHON",):
        if backend not in OVER_NIXL:
            what = f"PYTHON{default} takes backend NIXL only, and it is {backend}"
            yield f"{RUNTIME}: {what}: write transceiver_runtime: CPP"
        if block.get("kv_transfer_timeout_ms", 0) is None and runtimes({}, version) == ("PYTHON",):
            yield f"{TIMEOUT}: the Python transceiver takes no null; write a large number, such as 3600000"
    if block.get("enable_pipelined_transfer"):
        yield from _check_pipelined(config, block, backend)


def _check_pipelined(config: Config, block: Config, backend: str) -> Iterator[str]:
    where = f"{WHERE}.enable_pipelined_transfer"
    if block.get("transceiver_runtime") == "CPP":
        yield f"{where}: the C++ transceiver has none: write transceiver_runtime: PYTHON"
    if backend not in OVER_NIXL:
        yield f"{where}: needs backend NIXL, and it is {backend}"
    if block.get("kv_cache_bounce_size_mb"):
        yield f"{where}: needs kv_cache_bounce_size_mb: 0"
    if not config.get("enable_chunked_prefill"):
        yield f"{where}: needs enable_chunked_prefill: true"
    for key in ("pipeline_parallel_size", "context_parallel_size"):
        if config.get(key, 1) != 1:
            yield f"{where}: needs {key}: 1"


def doubt_transfer(config: Config, version: Version) -> Iterator[str]:
    """What depends on the release, or on the model, and works with one of them only."""
    block = config.get(WHERE) or {}
    backend = block.get("backend")
    runs = runtimes(block, version)
    if backend is None or runs in (("CPP",), ("PYTHON",)):
        return
    if len(runs) > 1:
        yield f"{RUNTIME}: is not given; by release {version.text} takes {' or '.join(runs)} then: write it"
    if backend not in OVER_NIXL:
        which = "releases with default PYTHON" if "PYTHON" in runs else "models that ask for the Python transceiver"
        what = f"{' or '.join(runs)} with backend {backend} fails for {which}"
        yield f"{RUNTIME}: {what}: write transceiver_runtime: CPP"
    if block.get("kv_transfer_timeout_ms", 0) is None:
        yield f"{TIMEOUT}: null makes auto the C++ transceiver without a word, with other figures"


def buffer_tokens(runtime: Any, isl: int, block_tokens: int) -> int | None:
    """``max_tokens_in_buffer``: the longest prompt in whole blocks for the C++ transceiver, whose larger transfers go
    through a buffer that NIXL cannot register; ``None``, left to the engine, for the others."""
    return -(-isl // block_tokens) * block_tokens if runtime == "CPP" else None


def read_transceiver(log: str) -> str | None:
    """The transceiver that the log of a ready server shows: ``PYTHON``, ``CPP``, ``off``; ``None`` where it does not
    tell.

    The C++ one announces itself with UCX and MPI only; with the others it is what runs where the log has lines of the
    Python one's level, and not its own.
    """
    if PYTHON_LINE in log:
        return "PYTHON"
    if any(line in log for line in OFF_LINES):
        return "off"
    return "CPP" if UCX_LINE in log or MPI_LINE in log or _AT_INFO.search(log) else None
