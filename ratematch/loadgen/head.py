"""The head of an HTTP answer, and what is wrong with one."""

from __future__ import annotations

from dataclasses import dataclass


class WireError(ValueError):
    """Bytes that are not HTTP/1.1, or not of a kind that is read here."""


class OverLimit(WireError):
    """An answer larger than any that can be meant (:mod:`ratematch.loadgen.limits`); no other reader is tried."""


@dataclass(frozen=True)
class Head:
    """Status line and headers. ``size``: bytes up to the body, interim answers before it included. ``length``: bytes
    of the body, ``None`` when it is chunked or ends with the connection. ``odd``: left to aiohttp's parser."""

    status: int
    size: int
    chunked: bool
    length: int | None
    encoding: str
    content_type: str
    keep_alive: bool
    odd: bool = False


_NO_CONTENT = (204, 205)


def is_success(status: int) -> bool:
    """Does an answer with this status hold what was asked for? Any 2xx that has a body: gateways answer with 201."""
    return 200 <= status < 300 and status not in _NO_CONTENT
