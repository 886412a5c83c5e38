"""How the modules of an emulated server are loaded: most of what its start takes, and many are started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ratematch.store.uncollected import uncollected

_CERTIFICATES = "SSL_CERT_FILE"


@contextlib.contextmanager
def quick_loading() -> Iterator[None]:
    """While modules load: no garbage collection, for they make none, and no certificates of this machine, which
    aiohttp reads when it is imported. Emulated servers speak no TLS."""
    before = os.environ.get(_CERTIFICATES)
    os.environ[_CERTIFICATES] = os.devnull
    try:
        with uncollected():
            yield
    finally:
        if before is None:
            del os.environ[_CERTIFICATES]
        else:
            os.environ[_CERTIFICATES] = before
