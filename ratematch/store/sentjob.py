"""The job that was sent to a scheduler for an experiment: its ``job.json``.

A key that this version does not know is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import msgspec


@dataclass(frozen=True)
class SentJob:
    """``name``: unique for every submission. ``id``: as the queue writes it, ``None`` until the scheduler has given
    one. ``sent``: Unix time. ``task``: number in an array. ``pack``: name of the pack's folder, of a member.
    ``executor``: which kind of scheduler."""

    name: str
    id: str | None
    sent: float
    task: int | None = None
    pack: str | None = None
    executor: str = "slurm"


def to_json(job: SentJob) -> dict[str, Any]:
    """As ``job.json`` holds it."""
    return asdict(job)


def from_json(content: Mapping[str, Any]) -> SentJob:
    """Raises ValueError when the content is not that of a ``job.json``."""
    return msgspec.convert(dict(content), SentJob)
