"""Which experiment takes GPUs of this machine next."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ratematch.campaign.jobs.local import LocalJob
from ratematch.plan.budget import minutes_on
from ratematch.plan.packs import Piece, next_to_start
from ratematch.run.reserve import held_gpus, takes_gpus
from ratematch.store.folder import ExperimentFolder


def choose_here(waiting: Sequence[ExperimentFolder], running: Sequence[LocalJob]) -> tuple[int | None, int]:
    """Which of ``waiting`` starts now beside ``running``, by the rule of :mod:`ratematch.plan.packs` with GPUs in the
    place of nodes, and how many GPUs are then left; ``None``: wait until something ends.

    Where servers take no GPUs, or another sweep has them and nothing runs here, the first goes: its process waits.
    """
    cluster = waiting[0].cluster()
    if not takes_gpus(cluster):
        return 0, 0
    of = cluster.gpus_per_node
    # Experiments that share servers have the same job, and its GPUs once.
    ours = {job.scheduler_job: job for job in running}
    free = of - max(sum(job.gpus for job in ours.values()), len(held_gpus(of)))
    if not ours and free < waiting[0].read().deployment.gpus:
        return 0, 0
    pieces = [_piece(folder) for folder in waiting]
    ends = [(job.expected_end_min, job.gpus) for job in ours.values()]
    index = next_to_start(pieces, free, ends, time.monotonic() / 60)
    return index, free - (pieces[index].nodes if index is not None else 0)


def left_alone(together: Sequence[ExperimentFolder], others: Sequence[ExperimentFolder], left: int) -> bool:
    """Would GPUs stand idle if ``together`` shared one start of servers? ``left``: GPUs that are free beside it. Then
    two starts at once are over sooner than two experiments one after the other."""
    if len(together) < 2 or left < 1:
        return False
    shared = {folder.path for folder in together}
    return not any(folder.read().deployment.gpus <= left for folder in others if folder.path not in shared)


def _piece(folder: ExperimentFolder) -> Piece:
    experiment = folder.read()
    return Piece(folder.path.name, experiment.deployment.gpus, minutes_on(folder.cluster(), experiment))
