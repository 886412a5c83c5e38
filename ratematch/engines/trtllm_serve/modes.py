"""What a measurement adds to the environment of each process: by its mode (contract, section 6), and always."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from ratematch.engines.trtllm_serve.contract import release_line
from ratematch.engines.trtllm_serve.forced import forced_env
from ratematch.engines.trtllm_serve.worker_rules import fill_margin
from ratematch.plan.deployment import Role
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency
from ratematch.plan.setting import Setting

NO_CONTEXT = ("TRTLLM_DISAGG_BENCHMARK_GEN_ONLY", "1")
NO_OVERLAP = ("TRTLLM_DISABLE_KV_CACHE_TRANSFER_OVERLAP", "1")

FILL = "TLLM_BENCHMARK_REQ_QUEUES_SIZE"
"""Spelled TLLM_, not TRTLLM_; for generation servers only."""

NO_TELEMETRY = ("TRTLLM_NO_USAGE_STATS", "1")
"""Read by every process of a deployment; newer releases have an option and a key for it too, by version."""

KEEPALIVE = ("TRTLLM_GPU_KEEPALIVE", "1")
"""Since 1.4: a generation server that waits for its batch keeps its GPUs busy; nothing is measured before."""


def mode_env(experiment: Experiment, role: Role | Literal["orchestrator"]) -> tuple[tuple[str, str], ...]:
    """Variables of one process. ``gen_only_no_context``: the same on all. ``gen_only``: see :func:`fill_size`."""
    match experiment.mode, role:
        case "gen_only_no_context", _:
            return (NO_CONTEXT,)
        case "gen_only", "gen":
            fill = (FILL, str(fill_size(experiment)))
            return (NO_OVERLAP, fill, KEEPALIVE) if _keeps_alive(experiment) else (NO_OVERLAP, fill)
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


def doubt_fill(experiment: Experiment) -> Iterator[str]:
    """A gen_only batch, given by hand, that takes the last slot of every attention-DP rank."""
    gen, margin = experiment.deployment.gen, fill_margin(experiment.engine.version)
    if experiment.mode != "gen_only" or gen is None or not margin or gen.mapping.dp_ranks == 1:
        return
    slots, filled = (gen.max_batch_size or 0) * gen.mapping.dp_ranks, fill_size(experiment)
    if filled == slots:
        batch = gen.max_batch_size or 0
        yield (
            f"gen: fills max_batch_size {batch} x {gen.mapping.dp_ranks} attention-DP ranks to the last slot; some "
            f"releases of 1.3 give one rank more than its share and then wait for ever: write "
            f"max_batch_size: {batch + margin}"
        )


def quiet_env(experiment: Experiment) -> tuple[tuple[str, str], ...]:
    """Usage telemetry, on by default from 1.3 on, is off while servers are measured."""
    return () if release_line(experiment.engine.version) == "1.2" else (NO_TELEMETRY,)


def _keeps_alive(experiment: Experiment) -> bool:
    return release_line(experiment.engine.version) not in ("1.2", "1.3")


def explain_environment(experiment: Experiment) -> tuple[Setting, ...]:
    """Variables that are set for a measurement's sake, with the reason; those of the modes are the contract's own."""
    telemetry = "usage telemetry is on by default and sends from servers that are measured"
    settings = [Setting(name, value, telemetry) for name, value in quiet_env(experiment)]
    if experiment.mode == "gen_only" and _keeps_alive(experiment):
        why = "gen servers: GPUs are not idle while the batch fills, so clocks stay up and no idle job is ended"
        settings.append(Setting(*KEEPALIVE, why))
    for group in experiment.deployment.groups:
        why = f"{group.role} servers accept so many drafts, right or not: {experiment.workload.forced_acceptance}"
        settings += [Setting(name, value, why) for name, value in forced_env(experiment, group)]
    groups = experiment.deployment.groups
    return tuple(each for each in settings if not all(each.key in group.environment for group in groups))
