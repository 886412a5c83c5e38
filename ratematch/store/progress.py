"""What a process that measures an experiment is doing: its ``progress.json``, for live views.

It is only a view: a file of another version, or one that cannot be read, counts as no progress.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

LOADING = "answers 503"
"""``why`` of a server that is there and not ready: newer ones listen at once and answer so until the model is up."""

REFUSED = "connection refused"
"""``why`` of a server of which nothing listens."""


@dataclass(frozen=True)
class Waiting:
    """A server that is not ready yet: ``why`` is what its probe got, ``last_line`` the end of its log."""

    name: str
    why: str
    seconds: float
    last_line: str

    @property
    def state(self) -> str:
        """What ``why`` means for the server, in words; empty where that is not known. Older servers do not listen
        before their model is up, so a refused connection alone is no death."""
        return {LOADING: "loading", REFUSED: "not up yet, or dead"}.get(self.why, "")


@dataclass(frozen=True)
class Starting:
    """Servers start. ``waiting``: those that are known not to be ready yet. ``time``: Unix time."""

    time: float
    waiting: tuple[Waiting, ...] = ()


@dataclass(frozen=True)
class Measuring:
    """A load is under way, the ``load_number``-th (from 1) of ``loads``.

    ``part``: of it, in words. ``total``, ``done``, ``failed``, ``in_flight``: requests. ``tok_s``: output tokens a
    second so far, ``ttft_ms``: median of the last answers, ``None`` before the first. ``time``: Unix time.
    """

    time: float
    load: str
    load_number: int
    loads: int
    part: str
    total: int
    done: int = 0
    failed: int = 0
    in_flight: int = 0
    tok_s: float = 0.0
    ttft_ms: float | None = None

    @property
    def is_virtual(self) -> bool:
        """Is it simulated? Then requests are not counted as they end."""
        return self.part == VIRTUAL_TIME


VIRTUAL_TIME = "virtual time"
"""``part`` of a load that is simulated."""

RunProgress = Starting | Measuring

PHASES: dict[str, type[Starting] | type[Measuring]] = {"starting": Starting, "measuring": Measuring}


def to_json(progress: RunProgress) -> dict[str, Any]:
    """As ``progress.json`` holds it."""
    phase = "starting" if isinstance(progress, Starting) else "measuring"
    return {"phase": phase, **asdict(progress)}


def from_json(content: Mapping[str, Any]) -> RunProgress | None:
    """The inverse of :func:`to_json`; ``None`` for content of another shape."""
    kind = PHASES.get(str(content.get("phase")))
    if kind is None:
        return None
    try:
        return msgspec.convert({key: value for key, value in content.items() if key != "phase"}, kind)
    except msgspec.ValidationError:
        return None
