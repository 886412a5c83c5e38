"""The one record type: what happened to one request. Everything later is computed from these.

On disk: ``records.parquet`` (zstd), one row a request, warm-up in ``warmup.parquet`` beside it. Never filtered on
write: a failed request is a row with an outcome and an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["ok", "http_error", "connect_error", "timeout", "reset", "truncated", "bad_stream", "cancelled"]
"""How a request ended.

``ok``: full answer, with usage. ``http_error``: status that is no success (2xx with a body). ``connect_error``: no
connection. ``timeout``: the client's own limit. ``reset``: the connection broke. ``truncated``: the stream ended
without ``[DONE]``. ``bad_stream``: bytes that are not the protocol. ``cancelled``: the load was stopped.
"""

UNKNOWN_FIELDS = "chunks with unknown fields only"
"""How a :attr:`RequestRecord.stream_note` begins that names fields of chunks which may be tokens."""

CONTRADICTS = "usage in its chunks contradicts itself"
"""How one begins that says in which way a running count cannot be right."""


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

    What of a stream is known beyond its instants, or not known; all ``None`` for a plain stream, for answers that
    were not streamed, and in files from before it was kept. ``later_tokens``: tokens that came after everything that
    arrived with the first one, where the stream tells. ``other_first_ns``, ``other_last_ns``: instants of the first
    and the last token if chunks that may carry tokens, or not, are read the other way. ``stream_note``: what
    contradicts itself in the stream, or is not known of it, in words.

    ``times``: of the request in its servers, as they sent them with the answer (a JSON object of text by name), where
    they were asked for.
    """

    seq: int
    intended_ns: int
    sent_ns: int | None = None
    first_token_ns: int | None = None
    last_token_ns: int | None = None
    end_ns: int | None = None
    chunk_ns: Sequence[int] = field(default_factory=list)
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
    later_tokens: int | None = None
    other_first_ns: int | None = None
    other_last_ns: int | None = None
    stream_note: str | None = None
    times: str | None = None
