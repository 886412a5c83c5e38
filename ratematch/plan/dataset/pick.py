"""Requests from the entries of a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ratematch.plan.dataset.entry import SECONDS, Dataset, Entry
from ratematch.plan.dataset.summary import count_output
from ratematch.plan.workload import SALT, RequestSpec, Workload

Encode = Callable[[str], list[int]]

_PASSED_OVER = 1_000_000


@dataclass(frozen=True)
class Making:
    """How prompts are made. Random ids are drawn below ``vocab_size`` from ``seed``.

    ``encode``: a tokenizer, which turns texts into ids; without one they are sent as text, and their length is left
    to the server. ``chat``: messages are sent as they are, to the chat API. ``rung``: another rung of the same ladder
    has other blocks for the same ``hash_ids``. ``skip``: entries that are passed over.
    """

    vocab_size: int
    seed: int
    encode: Encode | None = None
    chat: bool = False
    rung: int = 0
    skip: int = 0


@dataclass(frozen=True)
class Picked:
    """Requests made from a file, how many entries were too long for the workload, and after how many entries in all
    the last one was picked."""

    requests: list[RequestSpec]
    too_long: int
    seen: int


def pick_requests(
    dataset: Dataset, workload: Workload, num_requests: int, making: Making, first_seq: int = 0
) -> Picked:
    """The first ``num_requests`` requests of a file that are no longer than the workload, in its order.

    Lengths without content become random ids; ``hash_ids`` become equal blocks where they are equal, and an entry
    without them is salted, so that nothing is reused by accident. An entry without an output length asks for
    ``workload.osl``; where that is 1 (context servers), all do. A file that is too short gives fewer requests: none
    is sent twice.

    Raises:
        ValueError: messages that only the chat API takes, for another one.
    """
    made = _Made(making, dataset, np.random.default_rng(making.seed))
    scale = SECONDS[dataset.time_unit] if dataset.time_unit else 0.0
    start = min((entry.at for entry in dataset.entries if entry.at is not None), default=0.0)
    sessions: dict[str, int] = {}
    turns: dict[str, int] = {}
    picked: list[RequestSpec] = []
    too_long = 0
    seen = making.skip
    for entry in dataset.entries[making.skip :]:
        if len(picked) == num_requests:
            break
        seen += 1
        seq = first_seq + len(picked)
        osl = 1 if workload.osl == 1 else count_output(entry, making.encode) or workload.osl
        if (entry.isl or 0) > workload.isl or osl > workload.osl:
            too_long += 1
            made.pass_over(entry)
            continue
        prompt, text, chat = made.content(entry, seq)
        if len(prompt) > workload.isl:
            too_long += 1
            continue
        due_s = None if entry.at is None or not scale else (entry.at - start) * scale
        session, turn = None, 0
        if entry.session is not None:
            session = sessions.setdefault(entry.session, first_seq + len(sessions))
            turn = turns.get(entry.session, 0)
            turns[entry.session] = turn + 1
        picked.append(RequestSpec(seq, prompt, osl, text, session, turn, entry.delay * scale, due_s, chat))
    return Picked(picked, too_long, seen)


@dataclass
class _Made:
    """Contents of prompts; blocks that were made once are kept."""

    making: Making
    dataset: Dataset
    rng: np.random.Generator
    blocks: dict[tuple[str, int], NDArray[np.int32]] = field(default_factory=dict)

    def content(self, entry: Entry, seq: int) -> tuple[NDArray[np.int32], str | None, str | None]:
        """Token ids, text, and the fields of a chat: one of them."""
        making, none = self.making, np.empty(0, dtype=np.int32)
        if entry.chat is not None and making.chat:
            return none, None, entry.chat
        if entry.ids is not None:
            return np.array(entry.ids, dtype=np.int32), None, None
        if entry.text is not None:
            if making.encode is None:
                return none, entry.text, None
            return np.array(making.encode(entry.text), dtype=np.int32), None, None
        if entry.chat is not None:
            raise ValueError("holds messages of several speakers, which only the chat API takes: --api chat")
        if not entry.hash_ids:
            return self._random(entry.isl or 0, seq), None, None
        parts = [self._block(entry.scope, number) for number in entry.hash_ids]
        hashed, isl = np.concatenate(parts)[: entry.isl], entry.isl or 0
        if len(hashed) < isl:  # a last block that is not whole has no id
            hashed = np.concatenate([hashed, self._random(isl - len(hashed), seq)])
        return hashed, None, None

    def pass_over(self, entry: Entry) -> None:
        """What follows an entry that is left out has the ids that it always had."""
        if not entry.fixed and not entry.hash_ids and (entry.isl or 0) <= _PASSED_OVER:
            self._random(entry.isl or 0, 0)

    def _random(self, size: int, seq: int) -> NDArray[np.int32]:
        low, high = self._range()
        prompt = self.rng.integers(low, high, size=size, dtype=np.int32)
        for place in range(min(size, SALT)):
            prompt[place] = low + (seq // (high - low) ** place) % (high - low)
        return prompt

    def _block(self, scope: str, number: int) -> NDArray[np.int32]:
        if (scope, number) not in self.blocks:
            low, high = self._range()
            place = [number & 0xFFFFFFFF, (number >> 32) & (2**128 - 1)]
            named = [*scope.encode(), len(scope.encode())] if scope else []
            rung = [self.making.rung] if self.making.rung else []
            own = np.random.default_rng([self.making.seed, *place, *named, *rung])
            self.blocks[scope, number] = own.integers(low, high, size=self.dataset.block, dtype=np.int32)
        return self.blocks[scope, number]

    def _range(self) -> tuple[int, int]:
        return min(100, self.making.vocab_size // 2), self.making.vocab_size
