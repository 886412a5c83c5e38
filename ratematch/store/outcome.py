"""What became of a launch: its ``outcome.json``.

A key that this version does not know is ignored; one that an earlier version did not write has its default here, and
``absent`` remembers it, so that :func:`to_json` gives back exactly what :func:`from_json` was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from ratematch.measure.jsonkeys import absent_keys, without
from ratematch.plan.plain import parts_of, plain


@dataclass(frozen=True)
class Outcome:
    """How one start of an experiment's servers ended, and what it took.

    ``error``: why it ended early, ``kind``: name of the error's type; ``interrupted``: it was stopped by
    ``signal``. ``cause``, ``remedy``, ``reference``: of the error, where known. ``measured``: loads. ``began``: Unix
    time, ``seconds``: until it ended. ``starting_s``: until the servers were ready, ``measuring_s``: of its loads,
    ``held_s``: for which ``gpus`` GPUs were held for it (``None`` as long as nobody counted them: those of the
    deployment). ``preparing_s``: of ``starting_s``, in which nodes unpacked the image and copied the weights.
    ``job``: id of the Slurm job. ``absent``: paths of keys that the file did not have.
    """

    ok: bool
    error: str | None = None
    interrupted: bool = False
    kind: str = ""
    signal: str | None = None
    cause: str | None = None
    remedy: str | None = None
    reference: str | None = None
    measured: int = 0
    seconds: float = 0.0
    began: float = 0.0
    starting_s: float = 0.0
    measuring_s: float = 0.0
    held_s: float = 0.0
    gpus: int | None = None
    job: str | None = None
    preparing_s: float = 0.0
    simulated: bool = False
    absent: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    def longer(self, seconds: float) -> Outcome:
        """The same with GPUs held for ``seconds`` more."""
        return replace(self, seconds=self.seconds + seconds, held_s=self.held_s + seconds)


KNOWN_CAUSE = ("cause", "remedy", "reference")


def to_json(outcome: Outcome) -> dict[str, Any]:
    """As ``outcome.json`` holds it: ``signal`` when it was interrupted, ``kind`` and the cause when it failed (a
    simulation has no logs to find a cause in), ``simulated`` when it was, ``preparing_s`` when nodes were."""
    return without(plain(_written(outcome)), outcome.absent)


def _written(outcome: Outcome) -> dict[str, Any]:
    """The keys of a file that lacks none, with their values as they stand in ``outcome``."""
    left_out: set[str] = {"absent"}
    if not outcome.interrupted:
        left_out |= {"signal"}
    if outcome.ok or outcome.interrupted:
        left_out |= {"kind"}
    if outcome.ok or outcome.interrupted or outcome.simulated:
        left_out |= set(KNOWN_CAUSE)
    if not outcome.simulated:
        left_out |= {"simulated"}
    if not outcome.preparing_s:
        left_out |= {"preparing_s"}
    return {key: value for key, value in (parts_of(outcome) or {}).items() if key not in left_out}


def from_json(content: Mapping[str, Any]) -> Outcome:
    """The inverse of :func:`to_json`. The GPUs of a launch without ``held_s`` count as held for its
    ``seconds``.

    Raises:
        ValueError: the content is not that of an ``outcome.json``.
    """
    known = {"held_s": content.get("seconds", 0.0), **content}
    known.pop("absent", None)
    outcome: Outcome = msgspec.convert(known, Outcome)
    absent = absent_keys(content, _written(outcome))
    return replace(outcome, absent=absent) if absent else outcome
