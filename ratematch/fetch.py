"""HTTP to servers of ours: never through a proxy.

A site's ``http_proxy`` is for the outside world. Compute nodes are reached directly, and a proxy that cannot reach
them would make every server look dead.
"""

from __future__ import annotations

import urllib.request
from typing import Any

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(url: str, timeout_s: float) -> Any:
    """The answer to GET ``url``, as :func:`urllib.request.urlopen` returns and raises."""
    return _DIRECT.open(url, timeout=timeout_s)
