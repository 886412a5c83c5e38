"""Opens every connection between context and generation servers before anything is timed.

The first KV transfer between two ranks sets up a UCX connection, which takes far longer than the transfer. NVIDIA's
own scripts send 2 x (context ranks) x (generation ranks) short requests before an end-to-end benchmark (contract,
section 6.2), and so do we; once a start of the servers.
"""

from __future__ import annotations

import threading

from ratematch.loadgen.client import Target
from ratematch.loadgen.warming import send_before_clock
from ratematch.measure.loadrun import Warming
from ratematch.plan.deployment import Deployment
from ratematch.plan.experiment import Experiment
from ratematch.plan.workload import Workload, make_requests

ISL, OSL = 100, 10

MOST = 2048
"""Requests at most: two instances of 32 GPUs; beyond that, which ranks meet is the router's chance anyway."""

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
    """Send the requests; ``None`` when the mode of the experiment needs none."""
    if experiment.mode != "e2e":
        return None
    workload = Workload(min(ISL, experiment.workload.isl), min(OSL, experiment.workload.osl))
    requests = make_requests(workload, count_requests(experiment.deployment), vocab, seed)
    return send_before_clock(target.unstreamed(), requests, stop, LIMIT_S)
