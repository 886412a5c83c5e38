"""The crash of a node under a sweep on the test cluster."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from ratematch.store.folder import ExperimentFolder
from tests.slurm.cluster import TestCluster
from tests.support.processes import wait_until


@contextlib.contextmanager
def crash_of_a_node(cluster: TestCluster, folder: ExperimentFolder, index: int) -> Iterator[str]:
    """Name of a node that is lost while the experiment in ``folder`` is measured there; it is up again afterwards.

    ``index``: which node of the first server's; 0 is the driver's, and only with that one is it seen what Slurm needs
    by itself to miss a node: of the others a watchdog tells it at once.
    """
    launch = folder.last_launch()
    assert launch is not None
    placement = json.loads((launch / "placement.json").read_text())
    lost: str = placement["instances"][0]["places"][index]["node"]
    number = lost.removeprefix("node")
    code, told = cluster.verb("kill-node", number)
    assert code == 0, told
    try:
        if index > 0:
            cluster.tell("scontrol", "update", f"nodename={lost}", "state=down", "reason=watchdog")
        yield lost
    finally:
        code, told = cluster.verb("start-node", number)
        assert code == 0, told


def wait_for_second_start(folder: ExperimentFolder, seconds: float) -> None:
    """The queue is asked so seldom that a job may be under way again before its controller saw it wait."""
    wait_until(lambda: len(list(folder.path.glob("launch/*"))) > 1, "a second start", seconds)
