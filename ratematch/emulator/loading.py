"""How the modules of an emulated server are loaded: most of what its start takes, and many are started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ratematch.store.uncollected import end_uncollected, uncollected

_CERTIFICATES = "SSL_CERT_FILE"


@contextlib.contextmanager
def quick_loading() -> Iterator[None]:
    """While modules load: no garbage collection, for they make none, and no certificates of this machine, which
    aiohttp reads when it is imported: emulated servers speak no TLS. Nor is garbage collected at the end."""
    end_uncollected()
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
