"""Where a deployment's load is sent from: the driver's own node, or tasks on several nodes of its allocation.

One process keeps its clock up to about a thousand requests in flight, and a node has room for so many of them beside
its servers (``slurm.senders`` of the profile). A load that needs more is sent by tasks of one step::

    srun --overlap --nodes=N --ntasks=<senders> python -m ratematch.loadgen.shards FOLDER

which share one schedule, begin at one instant and leave one set of records (:mod:`ratematch.loadgen.shards`). Their
instants are then as exact as the nodes' clocks agree, which the load's notes name.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ratematch.loadgen.control import LoadControl
from ratematch.loadgen.cores import APART_ENV
from ratematch.loadgen.loadresult import LoadResult
from ratematch.loadgen.shards import HEADERS_ENV, LoadJob, collect, drive_in_processes, prepare
from ratematch.run.machines import Allocation
from ratematch.slurm.allocation import srun

END_S = 10.0


@dataclass(frozen=True)
class NodeSenders:
    """Senders on the nodes of ``where``; their files, until they are put together, in ``folder``, which all see.
    ``apart``: the cores that they have to themselves and the servers that stay off them, on each node (see
    :meth:`ratematch.plan.cores.CoreShare.spell`); ``None``: they share."""

    where: Allocation
    folder: Path
    apart: str | None = None

    @property
    def per_node(self) -> int:
        """Most senders on one node."""
        return self.where.cluster.slurm.senders

    @property
    def most(self) -> int:
        return self.per_node * len(self.where.nodes)

    def drive(self, job: LoadJob, count: int, control: LoadControl) -> LoadResult:
        """Send ``job`` with ``count`` processes, from as few nodes as have room for them.

        Raises:
            UserError: a sender could not begin.
        """
        if count <= self.per_node:
            return drive_in_processes(job, count, control)
        folder = self.folder / "senders"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        prepare(folder, job, count, control.folder)
        nodes = self.where.nodes[: -(-count // self.per_node)]
        command = [sys.executable, "-m", "ratematch.loadgen.shards", str(folder.absolute())]
        with (self.folder / "senders.log").open("ab") as log:
            step = subprocess.Popen(
                [*srun(nodes, "senders", tasks=count), *command],
                env=os.environ
                | {HEADERS_ENV: json.dumps(job.target.headers)}
                | ({APART_ENV: self.apart} if self.apart else {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            # One step holds them all: they end together.
            result = collect(
                folder, job.load.label, count, lambda: range(count) if step.poll() is not None else (), control
            )
        finally:
            _end(step)
        # What they left is in the load's own records now.
        shutil.rmtree(folder, ignore_errors=True)
        return result


def _end(step: subprocess.Popen[bytes]) -> None:
    try:
        step.wait(END_S)
    except subprocess.TimeoutExpired:
        step.terminate()
        step.wait()
