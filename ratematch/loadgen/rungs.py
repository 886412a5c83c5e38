"""What a folder of ``ratematch load -o`` knows of its ladder, so that the same command goes on where it stopped.

``ladder.json``: the seed, which requests and entries of a data set are used up, and which rungs were begun by which
command. It is written before a rung sends anything: no prompt that may have reached the server is sent again.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ratematch.errors import UserError
from ratematch.store.files import write_json

LADDER = "ladder.json"
MEASUREMENT = "measurement.json"

HIGHEST_DRAWN_SEED = 10**9
"""Short enough to be typed."""

ENDLESS = 10_000_000
"""Requests set aside for a load that lasts for a time; what it did not need is given back when it is over."""


@dataclass
class Ladder:
    """Where a ladder stands. ``drawn``: nobody gave the seed. ``next_seq``, ``skip``, ``rung``: number of the next
    request, entries of the data set that are used up, and rungs begun so far. ``begun``: rungs by label, each with
    what stands for the command that began it. ``keeps_state``: the folder's file is this ladder's; ``resumed``: it
    goes on with it; ``reached``: what it held of ``next_seq``, ``skip`` and ``rung``, which never go back."""

    seed: int
    drawn: bool
    folder: Path | None = None
    next_seq: int = 0
    skip: int = 0
    rung: int = 0
    begun: dict[str, str] = field(default_factory=dict)
    keeps_state: bool = True
    resumed: bool = False
    reached: tuple[int, int, int] = (0, 0, 0)

    def begin(self, label: str, command: str, after: tuple[int, int]) -> None:
        """A rung is about to be sent; ``after``: number of the next request and entries used up once it is over."""
        self.next_seq, self.skip = after
        self.rung += 1
        self.begun[label] = command
        self._write()

    def finished(self, next_seq: int) -> None:
        """The rung is over, and the next request has this number."""
        self.next_seq = next_seq
        self._write()

    def is_done(self, label: str, command: str) -> bool:
        """Did the same command measure this rung to its end?"""
        if self.folder is None or self.begun.get(label) != command:
            return False
        content = self._measured(label)
        return content.get("aborted", "") is None and isinstance(content.get("load"), dict)

    def was_given_up(self, label: str) -> bool:
        """Did this rung, which was measured, end the ladder?"""
        return str(self._measured(label).get("ended_early")).startswith("given up")

    def _measured(self, label: str) -> dict[str, Any]:
        if self.folder is None:
            return {}
        try:
            content = json.loads((self.folder / label / MEASUREMENT).read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def make_folder(self, label: str, command: str) -> Path | None:
        """A new folder for a rung; what the same command left of it, not measured to its end, is put aside.

        Raises:
            UserError: it holds an earlier run of another command, or cannot be made.
        """
        if self.folder is None:
            return None
        folder = self.folder / label
        try:
            if folder.exists():
                if self.begun.get(label) != command or self.is_done(label, command):
                    raise UserError(
                        f"{folder}: holds an earlier run; give another -o, nothing measured is overwritten"
                    )
                _put_aside(folder)
            folder.mkdir(parents=True)
        except OSError as problem:
            raise UserError(f"{folder}: cannot be written ({problem})") from problem
        return folder

    def _write(self) -> None:
        if self.folder is None or not self.keeps_state:
            return
        here = (self.next_seq, self.skip, self.rung)
        numbers = zip(("next_seq", "skip", "rung"), map(max, here, self.reached), strict=True)
        content = {"seed": self.seed, **dict(numbers), "begun": self.begun}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / LADDER, content)
        except OSError as problem:
            raise UserError(f"{self.folder}: cannot be written ({problem})") from problem


def open_ladder(folder: Path | None, seed: int | None) -> Ladder:
    """A ladder at its beginning, or where the one that ``folder`` holds stopped.

    ``seed``: as a person gave it: then requests are numbered from 0 whatever the folder holds, so that they are the
    same again. ``None``: the folder's, else a new one.

    Raises:
        UserError: the folder's ``ladder.json`` cannot be read.
    """
    held = _read(folder) if folder is not None else None
    if seed is None:
        if held is None:
            return Ladder(1 + secrets.randbelow(HIGHEST_DRAWN_SEED), True, folder)
        return held
    if held is None:
        return Ladder(seed, False, folder)
    reached = (held.next_seq, held.skip, held.rung)
    return Ladder(seed, False, folder, begun=held.begun, keeps_state=held.seed == seed, reached=reached)


def fingerprint(command: dict[str, Any]) -> str:
    """What stands for all that decides a rung's requests and whom they go to."""
    return hashlib.sha256(json.dumps(command, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _read(folder: Path) -> Ladder | None:
    file = folder / LADDER
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text())
        numbers = [int(content[name]) for name in ("seed", "next_seq", "skip", "rung")]
        begun = {str(label): str(command) for label, command in content["begun"].items()}
        if min(numbers) < 0:
            raise ValueError("a negative number")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise UserError(
            f"{file}: is damaged ({type(problem).__name__} {problem}); give --seed or another -o"
        ) from problem
    seed, next_seq, skip, rung = numbers
    return Ladder(seed, True, folder, next_seq, skip, rung, begun, resumed=True)


def _put_aside(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()
        return
    number = 1
    while (aside := folder.with_name(f"{folder.name}-partial-{number}")).exists():
        number += 1
    folder.rename(aside)
