"""Which server of a role takes the next request (contract, section 2.3)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ratematch.emulator.protocol import Json, block_hashes, tokenize
from ratematch.engines.settings import Config

HASH_VOCAB = 1 << 31


@dataclass(frozen=True)
class RoleSettings:
    """Servers of one role: ``host:port`` each, and how requests are spread over them."""

    role: str
    urls: tuple[str, ...]
    router: str
    router_args: Config


@dataclass(frozen=True)
class Routed:
    """What a router may look at: prompt ids (empty for chat), and the conversation the client names, if any."""

    prompt_ids: tuple[int, ...] = ()
    chat: bool = False
    generation_only: bool = False
    conversation: str | None = None


class Router(Protocol):
    """Chooses servers by index; ``finish`` gives back what ``choose`` took."""

    def choose(self, request: Routed) -> int: ...

    def finish(self, index: int, request: Routed) -> None: ...


@dataclass
class RoundRobin:
    """Each server in turn. ``turn``: requests so far."""

    count: int
    turn: int = 0

    def choose(self, request: Routed) -> int:
        index = self.turn % self.count
        self.turn += 1
        return index

    def finish(self, index: int, request: Routed) -> None:
        return None


@dataclass
class LoadBalancing:
    """The server with the fewest active requests, or prompt tokens with ``use_tokens``; the first of equals."""

    count: int
    use_tokens: bool = False
    _load: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._load = [0] * self.count

    def _weight(self, request: Routed) -> int:
        if not self.use_tokens:
            return 1
        if request.chat or request.generation_only:
            raise ValueError(
                "LoadBalancing router with use_tokens=True doesn't support chat or generation_only requests"
            )
        return len(request.prompt_ids)

    def choose(self, request: Routed) -> int:
        weight = self._weight(request)
        index = min(range(self.count), key=self._load.__getitem__)
        self._load[index] += weight
        return index

    def finish(self, index: int, request: Routed) -> None:
        self._load[index] -= self._weight(request)


@dataclass
class KvCacheAware:
    """Best of (share of the prompt's blocks routed there before) - active / ``max_batch_size``.

    The real router learns the blocks from ``/kv_cache_events``; here they are what was routed.
    """

    count: int
    max_batch_size: int = 64
    tokens_per_block: int = 32
    kept_blocks: int = 1 << 20
    _active: list[int] = field(default_factory=list)
    _seen: list[OrderedDict[int, None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._active = [0] * self.count
        self._seen = [OrderedDict() for _ in range(self.count)]

    def choose(self, request: Routed) -> int:
        hashes = block_hashes(request.prompt_ids, self.tokens_per_block)
        padded = max(1, -(-len(request.prompt_ids) // self.tokens_per_block))

        def score(index: int) -> float:
            matched = 0
            for key in hashes:
                if key not in self._seen[index]:
                    break
                matched += 1
            return matched / padded - self._active[index] / self.max_batch_size

        index = max(range(self.count), key=score)
        self._active[index] += 1
        seen = self._seen[index]
        for key in hashes:
            seen[key] = None
            seen.move_to_end(key)
        while len(seen) > self.kept_blocks:
            seen.popitem(last=False)
        return index

    def finish(self, index: int, request: Routed) -> None:
        self._active[index] -= 1


@dataclass
class Conversation:
    """Sticky by conversation id, else by the first block of the prompt; new ones go to the least loaded server."""

    count: int
    tokens_per_block: int = 128
    max_sessions: int = 100_000
    _active: list[int] = field(default_factory=list)
    _home: OrderedDict[Any, int] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self._active = [0] * self.count

    def choose(self, request: Routed) -> int:
        key: Any = request.conversation
        if key is None and len(request.prompt_ids) >= self.tokens_per_block:
            key = hash(request.prompt_ids[: self.tokens_per_block])
        index = self._home.get(key) if key is not None else None
        if index is None:
            index = min(range(self.count), key=self._active.__getitem__)
        if key is not None:
            self._home[key] = index
            self._home.move_to_end(key)
            if len(self._home) > self.max_sessions:
                self._home.popitem(last=False)
        self._active[index] += 1
        return index

    def finish(self, index: int, request: Routed) -> None:
        self._active[index] -= 1


def build_router(role: RoleSettings) -> Router:
    """The router a section of the file asks for."""
    count, args = len(role.urls), role.router_args
    match role.router:
        case "load_balancing":
            return LoadBalancing(count, bool(args.get("use_tokens", False)))
        case "kv_cache_aware":
            return KvCacheAware(count, int(args.get("max_batch_size", 64)), int(args.get("tokens_per_block", 32)))
        case "conversation":
            return Conversation(count, int(args.get("tokens_per_block", 128)), int(args.get("max_sessions", 100_000)))
        case _:
            return RoundRobin(count)


def read_routed(body: Json, chat: bool, headers: Mapping[str, str]) -> Routed:
    """What routers look at of a request.

    Raises:
        ValueError: a prompt the orchestrator does not take.
    """
    ids: tuple[int, ...] = ()
    if chat:
        texts = [str(message.get("content")) for message in body.get("messages") or () if isinstance(message, dict)]
        ids = tokenize(" ".join(texts), HASH_VOCAB)
    else:
        prompt = body.get("prompt")
        if isinstance(prompt, str):
            ids = tokenize(prompt, HASH_VOCAB)
        elif isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
            ids = tuple(prompt)
        else:
            raise ValueError(
                "Disaggregated server currently only supports single string prompt or list of integers in request"
            )
    params = body.get("conversation_params") or body.get("disaggregated_params") or {}
    named = params.get("conversation_id") if isinstance(params, dict) else None
    for header in ("X-Session-ID", "X-Correlation-ID", "x-session-affinity"):  # the last one since 1.4
        named = named or headers.get(header)
    return Routed(prompt_ids=ids, chat=chat, conversation=named)
