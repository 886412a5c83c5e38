"""Of which loads a published copy has the requests themselves."""

from __future__ import annotations

from ratematch.plan.deployment import Stage
from ratematch.store import layout
from ratematch.store.snapshot import Snapshot

STAGES: tuple[Stage, ...] = ("e2e", "ifb", "gen", "ctx")
"""In turn: each stage has a load with its requests before one has two."""


def choose_records(stored: Snapshot, room: int) -> set[str]:
    """``<experiment>/<load>`` of valid loads whose ``records.parquet`` have at most ``room`` bytes together: of every
    stage in turn the smallest that is left, so that there are some of each."""
    waiting: dict[str, list[tuple[int, str]]] = {stage: [] for stage in STAGES}
    for part in stored.experiments:
        for load in part.loads:
            if load.has(layout.RECORDS) and load.measurement.valid:
                size = (load.folder / layout.RECORDS).stat().st_size
                waiting[part.experiment.stage].append((size, f"{part.folder.path.name}/{load.folder.name}"))
    chosen: set[str] = set()
    for queue in waiting.values():
        queue.sort()
    while any(waiting.values()):
        for queue in waiting.values():
            if queue:
                size, name = queue.pop(0)
                if size <= room:
                    chosen.add(name)
                    room -= size
    return chosen
