"""What earlier jobs of a results folder took to unpack the image and to copy the weights."""

from __future__ import annotations

import statistics
import time
from functools import lru_cache
from pathlib import Path

from ratematch.errors import DamagedFile
from ratematch.plan.cluster import Cluster
from ratematch.store import layout
from ratematch.store.experiment import read_outcome

FRESH_S = 60.0
"""A folder is read so often at most: estimates of many jobs are made at once."""


def learnt_minutes(results: Path, cluster: Cluster) -> float | None:
    """The median of earlier jobs in minutes; ``None`` where there were none, or nothing is prepared there."""
    if not (cluster.unpacks_once or cluster.stage_weights):
        return None
    return _median(results.absolute(), int(time.monotonic() / FRESH_S))


@lru_cache(maxsize=8)
def _median(results: Path, moment: int) -> float | None:
    seconds = []
    for file in results.glob(f"*/{layout.LAUNCHES}/*/{layout.OUTCOME}"):
        try:
            seconds.append(read_outcome(file).preparing_s)
        except DamagedFile:
            continue
    spent = [spent for spent in seconds if spent]
    return statistics.median(spent) / 60 if spent else None
