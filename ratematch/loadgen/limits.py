"""What one answer may cost: a server that never stops, or says so, ends its own request and nothing else.

All of it is far above what servers send. A chunk of one token takes 100 to 400 bytes, with the 20 likeliest tokens
about 3 kB; an echo of the log-probabilities of a long prompt some 30 MB.
"""

from __future__ import annotations

ANSWER_BYTES = 64 << 20
"""Bytes of an answer, on the wire and again after decompression, before what its tokens add."""

TOKEN_BYTES = 8 << 10
"""Bytes that each token of ``max_tokens`` adds."""

MOST_BYTES = 1 << 30

HEAD_BYTES = 1 << 18
"""Bytes before the body: the head, and interim answers before it."""

HEADERS = 1000
INTERIM = 64
"""Interim (1xx) answers before one answer."""

COUNT_DIGITS = 15
"""Digits of a whole number read from the wire: lengths, and counts of tokens, which are added up later."""

SIDE_BYTES = 1 << 20
"""Bytes of a short answer to a question of ours: version, readiness, the emulator's own time."""

METRICS_BYTES = 32 << 20
"""Bytes of an answer with figures: TensorRT-LLM hands out the iterations since the last call at once."""

TIMINGS_BYTES = 256 << 20
"""Bytes of the timings of all requests of a load, of 1 to 2 kB each."""

TIMES_LINE_BYTES = 16 << 20
"""Bytes of one line of a file with times of requests: TensorRT-LLM lists every step of the request in it."""

TIMES_BYTES = 128 << 10
"""Bytes of the times of one request that a server sends with the answer; TensorRT-LLM leaves out those of single
steps from 80 KiB on."""

MOST_FIGURE = 1e18
"""A figure of a server from here on is none: counters of bytes stay below."""


def answer_limit(max_tokens: int) -> int:
    """Most bytes of an answer to a request for ``max_tokens``."""
    return min(MOST_BYTES, ANSWER_BYTES + TOKEN_BYTES * max(0, max_tokens))
