"""Where the time of GPUs went: measuring, starting servers, or nothing, also of GPUs that no experiment had.

GPUs of a machine that a sweep runs on are held from the sweep's beginning to its end, used or not. A sweep keeps when
that was in ``machine.json``; of sweeps before there was such a file, it is taken from the beginning of the first of
its launches to the end of the last, up to pauses of more than :data:`PAUSE_S`, in which the machine may have been
somebody else's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from ratematch.errors import DamagedFile
from ratematch.store import layout
from ratematch.store.files import read_value, write_json
from ratematch.store.folder import Results
from ratematch.store.snapshot import Snapshot

PAUSE_S = 60.0


@dataclass(frozen=True)
class HeldMachine:
    """A sweep had ``gpus`` GPUs of its machine from ``began`` to ``until`` (Unix times)."""

    began: float
    until: float
    gpus: int

    @property
    def gpu_s(self) -> float:
        return (self.until - self.began) * self.gpus


@dataclass(frozen=True)
class GpuTime:
    """GPU-seconds. ``held`` in all; ``measuring`` loads, ``starting`` servers; ``unused``: of GPUs that no experiment
    had; ``other``: between loads, and the driver's own start and end."""

    held: float
    measuring: float
    starting: float
    unused: float

    @property
    def other(self) -> float:
        return max(0.0, self.held - self.measuring - self.starting - self.unused)

    @property
    def share(self) -> float | None:
        """Of the time that was held, the part in which loads were measured; ``None`` before any was held."""
        return self.measuring / self.held if self.held else None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "other": self.other, "share_measuring": self.share}


def gpu_time(results: Results, stored: Snapshot) -> GpuTime:
    """Where the GPU-time of everything in ``stored`` went."""
    account = stored.account()
    measuring, starting, of_experiments = account.measuring * 3600, account.starting * 3600, account.total * 3600
    held = max(of_experiments, sum(span.gpu_s for span in _machine(results, stored)))
    packs = of_experiments - sum(part.account.total for part in stored.experiments) * 3600
    return GpuTime(held, measuring, starting, held - of_experiments + packs)


def _machine(results: Results, stored: Snapshot) -> list[HeldMachine]:
    """When the GPUs of this machine were held; nothing for experiments that ran elsewhere."""
    try:
        kept = read_machine(results.path)
        plan = results.controller_plan()
    except DamagedFile:
        return []
    if plan is None or plan.executor not in ("local", "debug"):
        return []
    spans = list(kept)
    for part in sorted(stored.experiments, key=lambda part: part.folder.path.name):
        if part.experiment.emulated or part.experiment.simulated:
            return []
    launches = sorted(
        (outcome.began, outcome.began + outcome.seconds)
        for outcome in stored.outcomes
        if not any(span.began <= outcome.began <= span.until for span in kept)
    )
    gpus = _gpus_here(stored)
    joined: list[list[float]] = []
    for began, until in launches:
        if joined and began - joined[-1][1] <= PAUSE_S:
            joined[-1][1] = max(joined[-1][1], until)
        else:
            joined.append([began, until])
    return [*spans, *(HeldMachine(began, until, gpus) for began, until in joined)]


def _gpus_here(stored: Snapshot) -> int:
    """GPUs of the machine, by the profile that experiments ran on."""
    try:
        return max((part.folder.cluster().gpus_per_node for part in stored.experiments), default=0)
    except DamagedFile:
        return 0


def read_machine(results: Path) -> Sequence[HeldMachine]:
    """When sweeps into these results had GPUs of their machine.

    Raises:
        DamagedFile: the file cannot be read.
    """
    file = results / layout.MACHINE
    return read_value(file, lambda content: msgspec.convert(content, list[HeldMachine])) if file.exists() else []


def write_machine(results: Path, spans: Sequence[HeldMachine]) -> None:
    """Raises DiskFull: no room."""
    write_json(results / layout.MACHINE, [asdict(span) for span in spans])
