"""The one record type: what happened to one request. Everything later is computed from these.

On disk: ``records.parquet`` (zstd), one row a request, warm-up in ``warmup.parquet`` beside it. Never filtered on
write: a failed request is a row with an outcome and an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["ok", "http_error", "connect_error", "timeout", "reset", "truncated", "bad_stream", "cancelled"]
"""How a request ended.

``ok``: full answer, with usage. ``http_error``: status other than 200. ``connect_error``: no connection.
``timeout``: the client's own limit. ``reset``: the connection broke. ``truncated``: the stream ended without
``[DONE]``. ``bad_stream``: bytes that are not the protocol. ``cancelled``: the load was stopped.
"""


@dataclass(slots=True)
class RequestRecord:
    """One request. Instants are integer nanoseconds of one monotonic clock; ``None`` = did not happen.

    ``intended_ns``: when the schedule wanted it sent (closed loop: when a slot was free). ``sent_ns``: when its
    bytes went to the socket. ``first_token_ns``: arrival of the first chunk that carries tokens. ``last_token_ns``:
    arrival of the last such chunk. ``chunk_ns``: arrival of every token-carrying chunk. ``isl``: prompt tokens sent.
    ``isl_reported`` and ``osl``: the server's usage (``None`` without usage). ``osl_requested``: max_tokens.
    ``decoded_per_iter``: tokens per iteration of this request as the server counts them (``None``: unknown).
    ``session``, ``turn``: which conversation, and which of its requests, from 0; ``None`` for single requests.
    ``isl`` is 0 for a text that was sent without being counted.
    """

    seq: int
    intended_ns: int
    sent_ns: int | None = None
    first_token_ns: int | None = None
    last_token_ns: int | None = None
    end_ns: int | None = None
    chunk_ns: list[int] = field(default_factory=list)
    isl: int = 0
    isl_reported: int | None = None
    osl_requested: int = 0
    osl: int | None = None
    cached_tokens: int | None = None
    finish_reason: str | None = None
    outcome: Outcome = "ok"
    status: int | None = None
    error: str | None = None
    decoded_per_iter: float | None = None
    session: int | None = None
    turn: int | None = None
