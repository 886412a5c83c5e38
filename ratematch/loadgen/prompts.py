"""The requests of a load, from its workload: reads the files that it names, and its tokenizer if it has one.

A tokenizer is optional: random ids need none, texts of a data set can be sent as they are. Real text cut to exact
lengths needs one (``tokenizers``, in ``ratematch[text]``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ratematch.errors import UserError
from ratematch.plan.dataset import (
    Dataset,
    DatasetError,
    DatasetSummary,
    Making,
    parse_dataset,
    pick_requests,
    summarise,
)
from ratematch.plan.workload import RequestSpec, Workload, keep_making, make_requests

SHORTEST_CORPUS = 64
"""Tokens of a text below which its stretches would all be the same."""


@dataclass
class PromptSource:
    """Makes the requests of one workload; files are read once.

    ``vocab_size``: random ids are drawn below it. ``spell``, ``tokenizer_size``: ids to text, and how many there are,
    special ones left out; ``None`` without a tokenizer. ``chat``: requests go to the chat API, which takes messages
    as they are. ``notes``: what a reader should know, such as requests of a file that were too long.
    """

    workload: Workload
    vocab_size: int
    seed: int = 0
    chat: bool = False
    notes: list[str] = field(default_factory=list)
    _corpus: NDArray[np.int32] | None = field(default=None, repr=False)
    _dataset: Dataset | None = field(default=None, repr=False)
    _encode: Callable[[str], list[int]] | None = field(default=None, repr=False)
    spell: Callable[[NDArray[Any]], str] | None = field(default=None, repr=False)
    tokenizer_size: int | None = None

    def __post_init__(self) -> None:
        if self.workload.tokenizer:
            tokenizer = load_tokenizer(self.workload.tokenizer)
            self._encode = lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)
            self.spell = lambda ids: str(tokenizer.decode(ids.tolist()))
            self.tokenizer_size = int(tokenizer.get_vocab_size(with_added_tokens=False))
        if self.workload.text:
            self._corpus = self._read_corpus()
        if self.workload.file:
            self._dataset = read_dataset(self.workload)

    def requests(
        self, number: int, first_seq: int = 0, seed: int | None = None, *, rung: int = 0, skip: int = 0
    ) -> list[RequestSpec]:
        """``number`` requests (fewer where a file is too short), numbered from ``first_seq``.

        ``rung``: of a ladder; another one has other prompts, also where a trace's ``hash_ids`` are equal. ``skip``:
        entries of a file that are passed over.

        Raises:
            UserError: no entry of the file fits the workload, or more prompts than this machine's memory holds.
        """
        seed = self.seed if seed is None else seed
        if self._dataset is None:
            _refuse_too_many(number, self.workload.isl)
            return make_requests(self.workload, number, self.vocab_size, seed, first_seq, self._corpus)
        making = Making(self.vocab_size, seed, self._encode, self.chat, rung, skip)
        try:
            picked = pick_requests(self._dataset, self.workload, number, making, first_seq)
        except ValueError as problem:
            raise UserError(f"{self.workload.file}: {problem}") from problem
        if number and not picked.requests:
            limits = f"ISL {self.workload.isl} and OSL {self.workload.osl}"
            raise UserError(f"{self.workload.file}: no request fits into {limits}; raise them")
        self._note(picked.too_long, number, len(picked.requests))
        return picked.requests

    def warmup(self, number: int, first_seq: int, seed: int) -> list[RequestSpec]:
        """Requests that share nothing with the measured ones: of a file's lengths, but with random ids."""
        if self._dataset is None:
            return self.requests(number, first_seq, seed)
        lengths = [length for entry in self._dataset.entries if (length := entry.rough_isl)] or [self.workload.isl]
        typical = Workload(min(self.workload.isl, int(np.median(lengths))), min(self.workload.osl, 64))
        return make_requests(typical, number, self.vocab_size, seed, first_seq)

    def endless(self, first_seq: int = 0, *, rung: int = 0, skip: int = 0) -> Iterator[RequestSpec]:
        """Requests for a load that lasts for a time; those of a file end with it."""
        if self._dataset is not None:
            return iter(self.requests(len(self._dataset.entries), first_seq, rung=rung, skip=skip))
        return keep_making(self.workload, self.vocab_size, self.seed, first_seq, self._corpus)

    @property
    def num_entries(self) -> int | None:
        """Requests in the workload's file; ``None`` without one."""
        return None if self._dataset is None else len(self._dataset.entries)

    @property
    def timed(self) -> bool:
        """Does the workload's file say when each request is due?"""
        return self._dataset is not None and self._dataset.timed

    @property
    def why_no_unit(self) -> str:
        """Why instants of the file cannot be replayed: their unit is not known. Empty where it is."""
        return "" if self._dataset is None or self._dataset.time_unit else self._dataset.why_no_unit

    @property
    def fixed(self) -> bool:
        """Are prompts the same in every run, whatever the seed?"""
        return self._dataset is not None and self._dataset.fixed

    @property
    def wants_chat(self) -> bool:
        """Does the file hold messages, which the chat API takes as they are?"""
        return self._dataset is not None and self._dataset.wants_chat

    def summary(self) -> DatasetSummary | None:
        """What the workload's file holds; ``None`` without one."""
        return None if self._dataset is None else summarise(self._dataset, self._encode)

    def entries_for(self, number: int, skip: int) -> int | None:
        """Entries of the file up to the one that gives the ``number``-th request after ``skip`` entries; ``None``
        where the file does not hold so many."""
        if self._dataset is None:
            return None
        fitting = 0
        for position, entry in enumerate(self._dataset.entries[skip:], skip + 1):
            fitting += self._dataset.fits(entry, self.workload)
            if fitting == number:
                return position
        return None

    def _note(self, too_long: int, wanted: int, made: int) -> None:
        if too_long:
            self.notes.append(
                f"{self.workload.file}: {too_long} requests are longer than asked for and were left out"
            )
        if made < wanted:
            self.notes.append(f"{self.workload.file}: holds {made} requests that fit, {wanted} were asked for")

    def _read_corpus(self) -> NDArray[np.int32]:
        if self._encode is None:
            raise UserError(f"{self.workload.text}: real text is cut by tokens; give --tokenizer too")
        ids = self._encode(_read_text(self.workload.text))
        if len(ids) < SHORTEST_CORPUS:
            raise UserError(f"{self.workload.text}: only {len(ids)} tokens; {SHORTEST_CORPUS} are needed at least")
        return np.array(ids, dtype=np.int32)


def read_dataset(workload: Workload) -> Dataset:
    """The data set of a workload that names one.

    Raises:
        UserError: it is not there, no regular file, or not read; with its line.
    """
    try:
        return parse_dataset(_read_text(workload.file), workload.time_unit or None, workload.hash_block)
    except DatasetError as problem:
        raise UserError(problem.in_file(workload.file)) from problem


def check_files(workload: Workload, replayed: bool) -> None:
    """Can the files of a workload be sent to servers that are started for it? ``replayed``: at the file's instants.

    Raises:
        UserError: one is not there or not read, has no request that fits, messages for the chat API alone, or no
            instants to replay.
    """
    if workload.text:
        _read_text(workload.text)
        if not workload.tokenizer:
            raise UserError(f"{workload.text}: real text is cut by tokens; give a tokenizer too")
    if not workload.file:
        return
    dataset = read_dataset(workload)
    if all(entry.chat is not None and entry.text is None for entry in dataset.entries):
        raise UserError(
            f"{workload.file}: messages of several speakers go to the chat API, and a sweep sends completions"
        )
    if not any(dataset.fits(entry, workload) for entry in dataset.entries):
        raise UserError(
            f"{workload.file}: no request fits into ISL {workload.isl} and OSL {workload.osl}; raise them"
        )
    if replayed and not dataset.timed:
        raise UserError(f"{workload.file}: is replayed, and not all its lines have a timestamp")
    if replayed and dataset.time_unit is None:
        raise UserError(
            f"{workload.file}: the unit of its timestamps is not known ({dataset.why_no_unit}); give the workload "
            "time_unit: s or ms"
        )


def _refuse_too_many(number: int, isl: int) -> None:
    needed, here = 4 * number * isl, _memory()
    if needed > here:
        raise UserError(
            f"{number} requests of {isl} tokens take {needed / 1e9:.0f} GB for their prompts alone, and this machine "
            f"has {here / 1e9:.0f} GB: send fewer, or give --duration, which makes them as it goes"
        )


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a folder (its ``tokenizer.json``) or of such a file.

    Raises:
        UserError: there is none, it cannot be read, or the package ``tokenizers`` is missing.
    """
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 - optional
    except ImportError as problem:
        raise UserError("a tokenizer needs the package tokenizers: pip install 'ratematch[text]'") from problem
    file = Path(path)
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.is_file():
        raise UserError(f"{file}: no tokenizer here; give a model's folder or its tokenizer.json")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as problem:  # the package raises plain Exception
        raise UserError(f"{file}: no readable tokenizer ({problem})") from problem


LARGEST_FILE = 16_000_000_000
"""Bytes beyond which a file is none that anybody means: it is read whole."""


def _read_text(path: str) -> str:
    file = Path(path)
    try:
        if file.exists() and not file.is_file():
            raise UserError(f"{path}: is no regular file")
        if file.exists() and file.stat().st_size > LARGEST_FILE:
            raise UserError(
                f"{path}: has {file.stat().st_size / 1e9:.0f} GB; {LARGEST_FILE / 1e9:.0f} are read at most"
            )
        # Line ends stay as they are: within a text of JSON they are part of it.
        with file.open(encoding="utf-8", newline="") as lines:
            return lines.read()
    except UnicodeDecodeError as problem:
        raise UserError(f"{path}: cannot be read: no UTF-8 text (packed, or Parquet?) ({problem})") from problem
    except (OSError, ValueError) as problem:
        raise UserError(f"{path}: cannot be read ({problem})") from problem
