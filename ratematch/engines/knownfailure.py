"""A row of a table of known failures: what a log says, what that means, what to do, and how much it counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ratematch.measure.serverlog import Diagnosis

Rank = Literal["root", "request", "suspect", "general", "end"]
"""``root``: a cause. ``request``: the server refused or lost a request and goes on. ``suspect``: stands in logs of
healthy servers too. ``general``: follows from something else. ``end``: the end itself, without a word of why."""


@dataclass(frozen=True)
class KnownFailure:
    """Lines that match ``pattern`` and what they mean.

    ``quiet``: its line is often no more than a warning or a note, and counts at any level. ``ordinary``: the same
    line ends the log of a server that is stopped when its work is done.
    """

    pattern: str
    diagnosis: Diagnosis
    rank: Rank = "root"
    quiet: bool = False
    ordinary: bool = False


def row(name: str, reference: str, pattern: str, cause: str, remedy: str, *, rank: Rank = "root") -> KnownFailure:
    """A row. ``name`` never changes; ``reference`` says where the line is known from."""
    return KnownFailure(pattern, Diagnosis(cause, remedy, reference, name, rank in ("general", "end")), rank)


def quiet(failure: KnownFailure) -> KnownFailure:
    """``failure``, counting where its line is a warning or a note too."""
    return replace(failure, quiet=True)


def ordinary(failure: KnownFailure) -> KnownFailure:
    """``failure``, counting only in the log of a server that never was ready."""
    return replace(failure, ordinary=True)
