"""KV caches that a context server holds for generation servers, in real time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class CtxHolds:
    """KV caches a context server keeps for generation servers; dropped after ``timeout_s`` (``None``: never).

    ``release`` frees those of a sequence; ``expired`` is called with the request whose time was over.
    """

    def __init__(self, release: Callable[[int], None], timeout_s: float | None, expired: Callable[[int | str], None]):
        self._release = release
        self._timeout_s = timeout_s
        self._expired = expired
        self._held: dict[int | str, tuple[int, asyncio.TimerHandle | None]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, request_id: int | str, sequence_id: int) -> None:
        timer = None
        if self._timeout_s is not None:
            timer = asyncio.get_running_loop().call_later(self._timeout_s, self._expire, request_id)
        self._held[request_id] = (sequence_id, timer)

    def renew(self, request_id: int | str) -> None:
        """Its time begins again, if it is still held."""
        if request_id in self._held:
            sequence_id, timer = self._held[request_id]
            if timer is not None:
                timer.cancel()
            self.hold(request_id, sequence_id)

    def fetched(self, request_id: int | str, duration_s: float) -> bool:
        """A transfer began; blocks are free once it is over. False: nothing is held for that request."""
        entry = self._held.pop(request_id, None)
        if entry is None:
            return False
        sequence_id, timer = entry
        if timer is not None:
            timer.cancel()
        asyncio.get_running_loop().call_later(duration_s, self._release, sequence_id)
        return True

    def _expire(self, request_id: int | str) -> None:
        entry = self._held.pop(request_id, None)
        if entry is not None:
            self._expired(request_id)
            self._release(entry[0])
