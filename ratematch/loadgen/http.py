"""HTTP to servers of ours: never through a proxy.

A site's ``http_proxy`` is for the outside world. Compute nodes are reached directly, and a proxy that cannot reach
them would make every server look dead.
"""

from __future__ import annotations

import contextlib
import json
import urllib.request
from typing import Any

from ratematch.store.provenance import ServerVersion

EMULATED_HEADER = "X-Ratematch-Emulated"
"""In every answer of the emulator."""

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(url: str, timeout_s: float) -> Any:
    """The answer to GET ``url``, as :func:`urllib.request.urlopen` returns and raises."""
    return _DIRECT.open(url, timeout=timeout_s)


def server_version(host: str, port: int) -> ServerVersion:
    """What GET ``/version`` answers; a server that does not answer is of no known version."""
    emulated = False
    with (
        contextlib.suppress(OSError, ValueError),
        fetch(f"http://{host}:{port}/version", 5) as answer,
    ):
        emulated = answer.headers.get(EMULATED_HEADER) is not None
        return ServerVersion(json.load(answer).get("version"), emulated)
    return ServerVersion(None, emulated)
