"""Lets a crowd of tasks through a few at a time, with a look at the sockets in between."""

from __future__ import annotations

import asyncio
from collections import deque


class SendGate:
    """At most ``at_once`` tasks pass :meth:`wait` per iteration of the event loop, in the order they came."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._passed = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._counting = False

    async def wait(self) -> None:
        """Return when it is the caller's turn: at once when nobody waits."""
        loop = asyncio.get_running_loop()
        if not self._counting:
            self._counting = True
            loop.call_soon(self._next_iteration)
        if self._passed < self._at_once and not self._waiting:
            self._passed += 1
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next_iteration(self) -> None:
        self._passed = 0
        while self._waiting and self._passed < self._at_once:
            turn = self._waiting.popleft()
            if not turn.done():  # a task that was cancelled no longer comes
                turn.set_result(None)
                self._passed += 1
        self._counting = bool(self._waiting) or self._passed > 0
        if self._counting:
            asyncio.get_running_loop().call_soon(self._next_iteration)
