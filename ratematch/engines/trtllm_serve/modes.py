"""What a measurement mode adds to the environment of each process (contract, section 6)."""

from __future__ import annotations

from typing import Literal

from ratematch.engines.trtllm_serve.contract import release_line
from ratematch.plan.deployment import Role
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency

NO_CONTEXT = ("TRTLLM_DISAGG_BENCHMARK_GEN_ONLY", "1")
NO_OVERLAP = ("TRTLLM_DISABLE_KV_CACHE_TRANSFER_OVERLAP", "1")

KEEPALIVE = ("TRTLLM_GPU_KEEPALIVE", "1")
"""Since 1.4: a generation server that waits for its batch keeps its GPUs busy, so that clocks stay up and nobody
takes
them for idle. Nothing is measured before the batch is full."""

FILL = "TLLM_BENCHMARK_REQ_QUEUES_SIZE"
"""Spelled TLLM_, not TRTLLM_; for generation servers only."""


def mode_env(experiment: Experiment, role: Role | Literal["orchestrator"]) -> tuple[tuple[str, str], ...]:
    """Variables of one process. ``gen_only_no_context``: the same on all. ``gen_only``: see :func:`fill_size`."""
    match experiment.mode, role:
        case "gen_only_no_context", _:
            return (NO_CONTEXT,)
        case "gen_only", "gen":
            awake = (KEEPALIVE,) if release_line(experiment.engine.version) == "1.4" else ()
            return (NO_OVERLAP, (FILL, str(fill_size(experiment))), *awake)
        case "gen_only", "ctx":
            return (NO_OVERLAP,)
        case _:
            return ()


def fill_size(experiment: Experiment) -> int:
    """Requests that each generation server waits for before its first step: concurrency / generation servers.

    Rounded down, because the router may give one server less than another and a batch that never fills waits for
    ever. One concurrency a start (:meth:`Experiment.launches`); with several in ``experiment`` the largest counts.
    """
    gen = experiment.deployment.gen
    assert gen is not None
    sizes = [load.concurrency for load in experiment.loads if isinstance(load, Concurrency)]
    return max(1, max(sizes) // gen.instances)
