"""What was understood of a data set, for a person to check before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ratematch.plan.dataset.entry import SECONDS, Dataset, Entry, Format, TimeUnit

_IDS_A_PIECE, _LETTERS_A_PIECE = 16, 64
"""How finely shared beginnings are found in token ids and in texts."""

MOST_PIECES = 1_000_000
"""Pieces after which no further prompt is looked at for what it shares: a second's work."""


@dataclass(frozen=True)
class LengthSpan:
    """Least, mean and greatest of some lengths, and of how many."""

    least: int
    mean: float
    most: int
    number: int

    def __str__(self) -> str:
        return f"{self.least}/{self.mean:.4g}/{self.most}"


@dataclass(frozen=True)
class DatasetSummary:
    """``isl``, ``osl``: tokens, of the requests that say so or were counted (``None``: none does). ``characters``: of
    the prompts that nobody counted. ``shared``: share of prompt tokens (or characters) that an earlier prompt of the
    file began with, up to there: what a prefix cache that never forgets finds
    (looked for in the first :data:`MOST_PIECES` pieces). ``duration_s``: from the first instant to the last;
    ``None`` without instants, or where their unit is not known. ``fixed``: prompts are the same in every
    run."""

    format: Format
    prompts: int
    isl: LengthSpan | None
    osl: LengthSpan | None
    characters: LengthSpan | None
    shared: float
    duration_s: float | None
    time_unit: TimeUnit | None
    block: int
    sessions: int
    fixed: bool
    notes: tuple[str, ...] = ()


def summary_to_json(summary: DatasetSummary) -> dict[str, object]:
    """Plain values."""
    spans = {name: getattr(summary, name) for name in ("isl", "osl", "characters")}
    return {
        "format": summary.format,
        "prompts": summary.prompts,
        **{
            name: {"min": span.least, "mean": span.mean, "max": span.most, "prompts": span.number} if span else None
            for name, span in spans.items()
        },
        "shared_prefix_share": summary.shared,
        "duration_s": summary.duration_s,
        "time_unit": summary.time_unit,
        "block_tokens": summary.block or None,
        "sessions": summary.sessions,
        "same_prompts_each_run": summary.fixed,
        "notes": list(summary.notes),
    }


def summarise(dataset: Dataset, encode: Callable[[str], list[int]] | None = None) -> DatasetSummary:
    """What ``dataset`` holds. ``encode``: a tokenizer, which counts its texts."""
    entries = dataset.entries
    counted = [length for entry in entries if (length := count_input(entry, encode)) is not None]
    outputs = [length for entry in entries if (length := count_output(entry, encode)) is not None]
    letters = [count_letters(entry) for entry in entries if count_input(entry, None) is None]
    instants = [entry.at for entry in entries if entry.at is not None]
    unit = dataset.time_unit
    duration_s = (max(instants) - min(instants)) * SECONDS[unit] if instants and unit else None
    notes = dataset.notes
    if instants and unit is None:
        notes = (*notes, f"the unit of its timestamps is not known: {dataset.why_no_unit}")
    return DatasetSummary(
        format=dataset.format,
        prompts=len(entries),
        isl=_span(counted),
        osl=_span(outputs),
        characters=None if encode else _span(letters),
        shared=_shared_share(dataset),
        duration_s=duration_s,
        time_unit=unit if instants or any(entry.delay for entry in entries) else None,
        block=dataset.block,
        sessions=len({entry.session for entry in entries if entry.session is not None}),
        fixed=dataset.fixed,
        notes=notes,
    )


def count_input(entry: Entry, encode: Callable[[str], list[int]] | None) -> int | None:
    """Prompt tokens, as the file says or the tokenizer counts; ``None`` where neither does."""
    if entry.ids is not None:
        return len(entry.ids)
    if encode is not None and entry.text is not None:
        return len(encode(entry.text))
    return entry.isl


def count_letters(entry: Entry) -> int:
    """Characters of a prompt's text, of all its messages together."""
    if entry.text is not None:
        return len(entry.text)
    return sum(len(said) for message in json.loads(entry.chat or "{}")["messages"] for said in _texts(message))


def count_output(entry: Entry, encode: Callable[[str], list[int]] | None) -> int | None:
    """Output tokens, as the file says, or counted in the recorded answer."""
    if entry.answer is not None and encode is not None:
        return max(1, len(encode(entry.answer)))
    return entry.osl


def _span(lengths: Sequence[int]) -> LengthSpan | None:
    if not lengths:
        return None
    return LengthSpan(min(lengths), sum(lengths) / len(lengths), max(lengths), len(lengths))


def _shared_share(dataset: Dataset) -> float:
    known: set[int] = set()
    shared = total = pieces = 0
    for entry in dataset.entries:
        if pieces > MOST_PIECES:
            break
        chain, still, size = 0, True, 0
        for piece, length in _pieces(entry, dataset.block):
            chain = hash((chain, piece))
            still = still and chain in known
            known.add(chain)
            shared += length if still else 0
            size += length
            pieces += 1
        total += size
    return shared / total if total else 0.0


def _pieces(entry: Entry, block: int) -> Iterator[tuple[object, int]]:
    """A prompt in pieces, each with its length, from the beginning."""
    if entry.hash_ids:
        left = entry.isl or 0
        for number in entry.hash_ids:
            yield (entry.scope, number), min(block, left)
            left -= min(block, left)
    elif entry.ids is not None:
        for begin in range(0, len(entry.ids), _IDS_A_PIECE):
            piece = entry.ids[begin : begin + _IDS_A_PIECE]
            yield piece, len(piece)
    elif entry.chat is not None or entry.text is not None:
        text = entry.text if entry.text is not None else _spoken(entry.chat or "")
        for begin in range(0, len(text), _LETTERS_A_PIECE):
            letters = text[begin : begin + _LETTERS_A_PIECE]
            yield letters, len(letters)
    elif entry.isl:
        yield object(), entry.isl


def _spoken(chat: str) -> str:
    return "".join(f"{message['role']}\n{''.join(_texts(message))}\n" for message in json.loads(chat)["messages"])


def _texts(message: dict[str, object]) -> list[str]:
    """What a message says, in its parts."""
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    return [str(part["text"]) for part in content] if isinstance(content, list) else []
