"""Inputs of a kind, one after the other, and what became of each."""

from __future__ import annotations

import random
import re
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Generic, Literal, TypeVar

from click.testing import CliRunner

from ratematch.cli import main
from ratematch.errors import RatematchError

T = TypeVar("T")

MOST_CPU_S = 10.0
MOST_S = 120.0
"""Of one input: processor time, and time on the clock for what waits and does nothing."""

MOST_MESSAGE = 20_000
"""Characters of what is said of one input."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Hang(BaseException):
    """An input that takes longer than it may. No ``Exception``, so that nobody on the way takes it for theirs."""


class Failure(Exception):
    """An input ended otherwise than it may, and not by an exception of its own."""


@dataclass(frozen=True)
class Ending:
    """``how`` an input ended, and all that was ``printed``."""

    how: Literal["ok", "refused"]
    printed: str = ""


@dataclass(frozen=True)
class Kind(Generic[T]):
    """A kind of input. ``make``: one from a source of chance. ``run``: what the program makes of it, in a folder of
    its own; whatever it raises is a failure. ``few``: how many CI tries."""

    name: str
    make: Callable[[random.Random], T]
    run: Callable[[T, Path], Ending]
    few: int = 100


@dataclass
class Found:
    """What a search came upon. ``failures``: by what and where, the first input that did it."""

    kind: str
    seed: int
    endings: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def tried(self) -> int:
        return self.endings.total()


def search(kind: Kind[T], seed: int, folder: Path, *, inputs: int, seconds: float = float("inf")) -> Found:
    """Tries ``inputs`` of ``kind``, fewer when ``seconds`` are over. The same seed makes the same inputs."""
    rng = random.Random(f"{kind.name} {seed}")
    found, until = Found(kind.name, seed), time.monotonic() + seconds
    while found.tried < inputs and time.monotonic() < until:
        given = kind.make(rng)
        what = _try(kind, given, folder)
        if isinstance(what, Ending):
            found.endings[what.how] += 1
        else:
            found.endings["failed"] += 1
            found.failures.setdefault(what, repr(given)[:2000])
    return found


def _try(kind: Kind[T], given: T, folder: Path) -> Ending | str:
    """How one input ended, or in a line what is wrong with that."""
    try:
        with _limited(), warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            ending = kind.run(given, folder)
    except Hang:
        return f"takes more than {MOST_CPU_S:g} s"
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/ratematch/" in f.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "nowhere"
        return f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:160]}"
    if match := _CONTROL.search(ending.printed):
        return f"U+{ord(match[0]):04X} reaches the terminal"
    if len(ending.printed) > MOST_MESSAGE and ending.how == "refused":
        return f"a message of more than {MOST_MESSAGE} characters"
    return ending


@contextmanager
def _limited() -> Iterator[None]:
    def stop(_: int, __: FrameType | None) -> None:
        raise Hang

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, MOST_CPU_S), (signal.SIGALRM, signal.ITIMER_REAL, MOST_S))
    before = [(number, signal.signal(number, stop), signal.getitimer(timer)[0]) for number, timer, _ in timers]
    for _, timer, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (_, timer, _), (number, handler, left) in zip(timers, before, strict=True):
            signal.setitimer(timer, left)  # pytest's own time limit goes on
            signal.signal(number, handler)


def call(function: Callable[[], object]) -> Ending:
    """Calls the library: fine, or refused by an error of ours that says something."""
    try:
        function()
    except RatematchError as error:
        if not str(error).strip():
            raise Failure(f"{type(error).__name__} without a word") from error
        return Ending("refused", "\n".join(str(error).split("\n")))
    return Ending("ok")


def type_in(*words: str) -> Ending:
    """Types a command, in this process: fine, or an exit code with a line that is not "unexpected"."""
    result = CliRunner().invoke(main, list(words))
    unforeseen = result.exception is not None and not isinstance(result.exception, SystemExit)
    if "ratematch: unexpected" in result.stderr or unforeseen:
        again = CliRunner().invoke(main, ["--debug", *words])
        raise again.exception or Failure(f"only once: {result.stderr[:200]}")
    printed = result.stdout + result.stderr
    if result.exit_code == 0:
        return Ending("ok", printed)
    if not printed.strip():
        raise Failure(f"exit code {result.exit_code} without a word")
    return Ending("refused", printed)
