"""What a data set says of one request, and of all of them: values, before any prompt is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ratematch.plan.workload import Workload

TimeUnit = Literal["s", "ms", "us", "ns"]

SECONDS: dict[TimeUnit, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Seconds in one unit of time."""

Format = Literal[
    "prompt lines",
    "trtllm-bench lines",
    "OpenAI messages",
    "OpenAI batch",
    "trtllm_custom",
    "ShareGPT",
    "AIPerf conversations",
    "session traces",
    "Mooncake trace",
    "Qwen-Bailian trace",
    "lengths",
]


@dataclass(frozen=True)
class Entry:
    """One request of a file. What it is made from is one of ``text``, ``ids``, ``chat`` and ``isl``.

    ``isl``, ``osl``: tokens; ``None`` where the file does not say. ``ids``: token ids of the prompt. ``chat``: the
    fields of a chat request's body that make up its prompt (``messages``, and ``tools`` where there are any), as
    JSON. ``at``: when it is due, on the file's own clock. ``hash_ids``: equal ids at the head of two prompts mean
    equal blocks of :attr:`Dataset.block` tokens; those of different ``scope`` are never equal. ``session``: the
    conversation that it belongs to; ``delay``, on the file's clock, passes between the end of the turn before and
    this one. ``answer``: what was answered when the data were recorded, where nothing else says how long it is.
    """

    isl: int | None = None
    osl: int | None = None
    text: str | None = None
    ids: tuple[int, ...] | None = None
    chat: str | None = None
    at: float | None = None
    hash_ids: tuple[int, ...] = ()
    scope: str = ""
    session: str | None = None
    delay: float = 0.0
    answer: str | None = field(default=None, compare=False, repr=False)

    @property
    def rough_isl(self) -> int:
        """Prompt tokens, at four characters a token where nobody counted them: how long a warm-up's prompt may be."""
        if self.ids is not None:
            return len(self.ids)
        return self.isl or len(self.text or self.chat or "") // 4

    @property
    def fixed(self) -> bool:
        """Is its prompt the same in every run? Those that are made from lengths are not."""
        return self.text is not None or self.ids is not None or self.chat is not None


@dataclass(frozen=True)
class Reading:
    """What one object of a file gives: its requests, and what it says of the whole file.

    ``time_unit``: where names or format say it. ``block``: tokens of one of ``hash_ids``, likewise (0: not said).
    ``left_out``: why requests of it are left out, where that is right, and how many are. ``notes``: what a reader
    should know.
    """

    format: Format
    entries: tuple[Entry, ...] = ()
    time_unit: TimeUnit | None = None
    block: int = 0
    left_out: str = ""
    num_left_out: int = 1
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A file, read.

    ``time_unit``: of ``at`` and ``delay``; ``None`` where it cannot be known, ``why_no_unit`` says why. ``block``:
    tokens of one of ``hash_ids``; 0 without any. ``notes``: what a reader should know.
    """

    format: Format
    entries: Sequence[Entry]
    time_unit: TimeUnit | None = None
    why_no_unit: str = ""
    block: int = 0
    notes: tuple[str, ...] = ()

    @property
    def timed(self) -> bool:
        """Does it say when each request is due, or that it follows one of its session that does?"""
        begun: set[str] = set()
        for entry in self.entries:
            if entry.at is None and (entry.session is None or entry.session not in begun):
                return False
            if entry.session is not None:
                begun.add(entry.session)
        return True

    @staticmethod
    def fits(entry: Entry, workload: Workload) -> bool:
        """Is it no longer than the workload, as far as the file says?"""
        isl = entry.isl if entry.ids is None else len(entry.ids)
        return (isl or 0) <= workload.isl and (workload.osl == 1 or (entry.osl or 0) <= workload.osl)

    @property
    def fixed(self) -> bool:
        """Are its prompts the same in every run?"""
        return any(entry.fixed for entry in self.entries)

    @property
    def wants_chat(self) -> bool:
        """Does it hold messages that belong to the chat API: those of its own format, or of several speakers?"""
        own = self.format in ("OpenAI messages", "OpenAI batch")
        return any(entry.chat is not None and (own or entry.text is None) for entry in self.entries)


class DatasetError(ValueError):
    """A data set that is not read. ``line``: where, 0 = nowhere in particular."""

    def __init__(self, what: str, line: int = 0, where: str = "line"):
        self.what, self.line, self.where = what, line, where
        super().__init__(f"{where} {line}: {what}" if line else what)

    def in_file(self, path: str) -> str:
        """The message with the file's name: ``trace.jsonl:3: ...``, or ``trace.json: item 3: ...``."""
        if not self.line:
            return f"{path}: {self.what}"
        return f"{path}:{self.line}: {self.what}" if self.where == "line" else f"{path}: {self}"
