"""What comes back from a worker on its way through the orchestrator: refusals, and times behind a stream."""

from __future__ import annotations

import msgspec

from ratematch.emulator.protocol import DONE


class ForwardError(Exception):
    """A request could not be forwarded. ``status``: of the answer to the client; ``detail``: what it says there."""

    def __init__(self, message: str, status: int = 500, detail: str | None = None):
        super().__init__(message)
        self.status = status
        self.detail = f"Internal server error {message}" if detail is None else detail


class StreamEnd:
    """Parts a worker's stream into the answer and what follows its end. ``rest``: what has come of the latter."""

    def __init__(self) -> None:
        self.rest = b""
        self._held = b""
        self._over = False

    def take(self, data: bytes) -> bytes:
        """The part of ``data`` that belongs to the answer, with what was held back of it before: half an event may
        be the beginning of the end."""
        if self._over:
            self.rest += data
            return b""
        data = self._held + data
        self._held = b""
        at = data.find(DONE)
        if at >= 0:
            self._over = True
            self.rest = data[at + len(DONE) :]
            return data[: at + len(DONE)]
        if data.endswith(b"\n\n"):
            return data
        self._held = data[1 - len(DONE) :]
        return data[: len(data) - len(self._held)]

    def flush(self) -> bytes:
        """What was held back of an answer that broke off."""
        held, self._held = self._held, b""
        return held


def inner_message(text: str) -> str:
    """What a worker's refusal says, without what it is wrapped in."""
    try:
        body = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
    for key in ("message", "error", "detail"):
        inner = body.get(key) if isinstance(body, dict) else None
        if isinstance(inner, dict):
            inner = inner.get("message")
        if isinstance(inner, str):
            return inner
    return text
