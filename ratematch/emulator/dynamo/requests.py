"""What Dynamo's frontend asks a worker to do, and what a worker answers: a mapping for each, as its runtime carries
them.

A request has its prompt as token ids, whatever the client sent; the decode worker's has besides what the prefill
worker answered. Each chunk of an answer has the ids of the new tokens, the last one a reason and the usage too.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ratematch.emulator.errors import BadRequest
from ratematch.emulator.protocol import Json, output_ids

HANDED_OVER = "disaggregated_params"
"""Where the prefill worker's last chunk says how its KV cache is fetched."""


@dataclass(frozen=True)
class WorkerRequest:
    """One request. ``max_tokens``: ``None`` leaves it to the engine. ``handed_over``: what the prefill worker said of
    its KV cache, as it said it; empty where no other worker saw the request."""

    prompt_ids: tuple[int, ...]
    max_tokens: int | None
    handed_over: Json


def read_request(given: Mapping[str, Any]) -> WorkerRequest:
    """The request in what the runtime hands over.

    Raises:
        BadRequest: it has no prompt as token ids, or a length that is none.
    """
    ids = given.get("token_ids")
    if isinstance(ids, bytes | bytearray | memoryview):
        ids = array("i", bytes(ids))  # a runtime may pack them, four bytes each
    elif not isinstance(ids, list):
        raise BadRequest("the request has no token_ids")
    if not len(ids):
        raise BadRequest("the prompt is empty")
    most = (given.get("stop_conditions") or {}).get("max_tokens")
    if most is not None and (not isinstance(most, int) or most < 1):
        raise BadRequest(f"max_tokens must be greater than 0, not {most!r}")
    result = given.get("prefill_result") or {}
    return WorkerRequest(tuple(ids), most, result.get(HANDED_OVER) or {})


class ChunkSink:
    """Sends the tokens of one sequence as chunks, from the engine's pass over a finished step.

    A chunk is due with the first token, at every ``interval``-th iteration and with the last token. ``send`` must not
    block. ``key`` and ``vocab``: what the ids of the tokens derive from. ``last``: called for the fields that only
    the last chunk has. ``truncate_after``: the answer just ends once so many tokens were sent (fault injection).
    """

    def __init__(
        self,
        send: Callable[[Json], None],
        ids: tuple[int, int],
        last: Callable[[int], Json],
        *,
        interval: int,
        done: Any,
        truncate_after: int | None = None,
    ):
        self.done = done
        self.iterations = 0
        self.tokens = 0
        self.error: str | None = None
        self._send, self._last = send, last
        self._key, self._vocab = ids
        self._interval = interval
        self._pending = 0
        self._truncate_after = truncate_after

    def push(self, tokens: int, finished: bool, at_s: float) -> None:
        if self.done.done():
            return
        self.iterations += 1
        self._pending += tokens
        if not (finished or self.tokens == 0 or self.iterations % self._interval == 0):
            return
        chunk: Json = {"token_ids": output_ids(self._key, self.tokens, self._pending, self._vocab), "index": 0}
        self.tokens += self._pending
        self._pending = 0
        cut = self._truncate_after is not None and self.tokens >= self._truncate_after
        if finished and not cut:
            chunk |= self._last(self.tokens)
        self._send(chunk)
        if finished or cut:
            self.done.set_result(None)

    def fail(self, message: str) -> None:
        self.error = message
        if not self.done.done():
            self.done.set_result(None)


def last_chunk(prompt: int, tokens: int, cached: int) -> Json:
    """Fields of the last chunk: why it ends, and how many tokens there were."""
    return {
        "finish_reason": "length",
        "completion_usage": {
            "prompt_tokens": prompt,
            "completion_tokens": tokens,
            "total_tokens": prompt + tokens,
            "prompt_tokens_details": {"cached_tokens": cached},
        },
    }
