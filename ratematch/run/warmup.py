"""Opens every connection between context and generation servers before anything is timed.

The first KV transfer between two ranks sets up a UCX connection, which takes far longer than the transfer. NVIDIA's
own scripts send 2 x (context ranks) x (generation ranks) short requests before an end-to-end benchmark (contract,
section 6.2), and so do we; once a start of the servers.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from ratematch.loadgen.client import Target
from ratematch.loadgen.drive import drive
from ratematch.loadgen.loadresult import Progress
from ratematch.measure.loadrun import Warming
from ratematch.plan.deployment import Deployment
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency
from ratematch.plan.workload import Workload, make_requests

ISL, OSL = 100, 10

MOST = 2048
"""Requests at most: two instances of 32 GPUs; beyond that, which ranks meet is the router's chance anyway."""

AT_ONCE = 16

LIMIT_S = 300.0
"""After this the rest is given up and counted as failed."""


def count_requests(deployment: Deployment) -> int:
    """2 x context GPUs x generation GPUs, :data:`MOST` at most; 0 without both roles."""
    if deployment.ctx is None or deployment.gen is None:
        return 0
    return min(MOST, 2 * deployment.ctx.gpus * deployment.gen.gpus)


def warm_connections(
    target: Target, experiment: Experiment, vocab: int, seed: int, stop: threading.Event
) -> Warming | None:
    """Send the requests; what became of them, or ``None`` when the mode of the experiment needs none.

    Failures are told, not raised: the load that follows shows whether they matter.
    """
    if experiment.mode != "e2e":
        return None
    count = count_requests(experiment.deployment)
    workload = Workload(min(ISL, experiment.workload.isl), min(OSL, experiment.workload.osl))
    requests = make_requests(workload, count, vocab, seed)
    plain = {**target.extra_body, "stream": False, "stream_options": None}
    began = time.monotonic()
    short = replace(target, extra_body=plain)
    halt = threading.Event()

    def look(progress: Progress) -> None:
        if stop.is_set() or time.monotonic() - began > LIMIT_S:
            halt.set()

    load = Concurrency(min(AT_ONCE, count), count)
    result = drive(short, load, requests, stop=halt, on_progress=look)
    failed = [record for record in result.records if record.outcome != "ok"]
    return Warming(
        requests=count,
        failed=len(failed) + count - len(result.records),
        seconds=time.monotonic() - began,
        errors=tuple(sorted({record.error or record.outcome for record in failed})[:3]),
    )
