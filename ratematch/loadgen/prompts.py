"""The requests of a load, from its workload: reads the files that it names, and its tokenizer if it has one.

A tokenizer is optional: random ids need none, texts of a data set can be sent as they are. Real text cut to exact
lengths needs one (``tokenizers``, in ``ratematch[text]``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ratematch.errors import UserError
from ratematch.plan.dataset import Entry, parse_dataset, pick_requests
from ratematch.plan.workload import RequestSpec, Workload, keep_making, make_requests

SHORTEST_CORPUS = 64
"""Tokens of a text below which its stretches would all be the same."""


@dataclass
class PromptSource:
    """Makes the requests of one workload; files are read once.

    ``vocab_size``: random ids are drawn below it. ``spell``, ``tokenizer_size``: ids to text, and how many there are,
    special ones left out; ``None`` without a tokenizer. ``notes``: what a reader should know, such as requests of a
    file that were too long.
    """

    workload: Workload
    vocab_size: int
    seed: int = 0
    notes: list[str] = field(default_factory=list)
    _corpus: NDArray[np.int32] | None = field(default=None, repr=False)
    _entries: list[Entry] | None = field(default=None, repr=False)
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
            self._entries = self._read_entries()

    def requests(self, number: int, first_seq: int = 0, seed: int | None = None) -> list[RequestSpec]:
        """``number`` requests (fewer where a file is too short), numbered from ``first_seq``.

        Raises:
            UserError: no entry of the file fits the workload.
        """
        seed = self.seed if seed is None else seed
        if self._entries is None:
            return make_requests(self.workload, number, self.vocab_size, seed, first_seq, self._corpus)
        picked = pick_requests(self._entries, self.workload, number, self.vocab_size, seed, first_seq, self._encode)
        if number and not picked.requests:
            limits = f"ISL {self.workload.isl} and OSL {self.workload.osl}"
            raise UserError(f"{self.workload.file}: no request fits into {limits}; raise them")
        self._note(picked.too_long, number, len(picked.requests))
        return picked.requests

    def warmup(self, number: int, first_seq: int, seed: int) -> list[RequestSpec]:
        """Requests that share nothing with the measured ones: of a file's lengths, but with random ids."""
        if self._entries is None:
            return self.requests(number, first_seq, seed)
        lengths = [entry.isl for entry in self._entries if entry.isl] or [self.workload.isl]
        typical = Workload(min(self.workload.isl, int(np.median(lengths))), min(self.workload.osl, 64))
        return make_requests(typical, number, self.vocab_size, seed, first_seq)

    def endless(self, first_seq: int = 0) -> Iterator[RequestSpec]:
        """Requests for a load that lasts for a time; those of a file end with it."""
        if self._entries is not None:
            return iter(self.requests(len(self._entries), first_seq))
        return keep_making(self.workload, self.vocab_size, self.seed, first_seq, self._corpus)

    @property
    def num_entries(self) -> int | None:
        """Requests in the workload's file; ``None`` without one."""
        return None if self._entries is None else len(self._entries)

    @property
    def timed(self) -> bool:
        """Does the workload's file say when each request is due?"""
        return self._entries is not None and all(entry.due_s is not None for entry in self._entries)

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

    def _read_entries(self) -> list[Entry]:
        try:
            return parse_dataset(_read_text(self.workload.file))
        except ValueError as problem:
            raise UserError(f"{self.workload.file}: {problem}") from problem


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


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(f"{path}: cannot be read ({problem})") from problem
