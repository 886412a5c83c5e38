"""Minutes and GPU-hours of a sweep before it starts, with the assumptions they rest on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Stage
from ratematch.plan.experiment import Experiment
from ratematch.plan.placement import nodes_on
from ratematch.plan.sweep import Sweep

CONTENDERS = 2
"""Deployments that are counted as run at each tok/s/user that one will be chosen at."""

UNPACK_MINUTES = 2.0
COPY_MINUTES = 10.0
"""To unpack an image and to copy the weights to a node's own disk, where no earlier job has shown it and the profile
does not say (``prepare_minutes``): 150,000 files on a busy disk, and 600 GB at 1 GB/s."""


@dataclass(frozen=True)
class StageEstimate:
    """What one stage will take. ``nodes`` and ``gpus``: of its largest deployment. ``minutes``: one job at a time."""

    stage: Stage
    experiments: int
    loads: int
    nodes: int
    gpus: int
    minutes: float
    gpu_hours: float


@dataclass(frozen=True)
class Estimate:
    """All stages, and in words what was assumed."""

    stages: tuple[StageEstimate, ...]
    assumptions: tuple[str, ...]

    @property
    def minutes(self) -> float:
        return sum(stage.minutes for stage in self.stages)

    @property
    def gpu_hours(self) -> float:
        return sum(stage.gpu_hours for stage in self.stages)


def estimate(sweep: Sweep, experiments: Sequence[Experiment], learnt_min: float | None = None) -> Estimate:
    """Cost of ``experiments`` and of the end-to-end stage, which is not known yet and taken at its largest.

    Minutes of an experiment = starts of the servers (one; in gen_only one a concurrency) + loads x minutes per load;
    GPU-hours count the GPUs of the deployment, context servers that only supply included, for all of that time (they
    are allocated while weights load). What nodes get before that counts once a job; ``learnt_min``: as earlier jobs
    took it.
    """
    if learnt_min is not None:
        sweep = replace(sweep, cluster=replace(sweep.cluster, prepare_minutes=learnt_min))
    cluster = sweep.cluster
    rows = [
        _stage(sweep, stage, [experiment for experiment in experiments if experiment.stage == stage])
        for stage in dict.fromkeys(experiment.stage for experiment in experiments)
    ]
    assumptions = [
        f"{cluster.start_minutes:g} min to start a deployment and {cluster.load_minutes:g} min per load "
        f"(start_minutes, load_minutes of cluster {cluster.name})",
        *_describe_preparation(cluster, learnt_min is not None),
        "one job at a time",
    ]
    if sweep.e2e:
        count = sweep.e2e.deployments * len(sweep.workloads)
        around = sweep.e2e.loads.concurrency or sweep.e2e.around
        contenders = CONTENDERS * len(sweep.e2e.choose_at) * len(sweep.workloads)
        loads = (count + contenders) * len(around) * sweep.e2e.loads.repeats
        starts = count
        if sweep.e2e.breakdown and sweep.may_need_breakdown:
            starts, loads = 2 * count, loads + (count + contenders) * len(around)
            assumptions.append("end-to-end deployments are started a second time, for the breakdown of their time")
        minutes = starts * cluster.start_minutes + loads * cluster.load_minutes + count * prepare_minutes(cluster)
        gpus = sweep.max_gpus
        nodes = -(-gpus // cluster.gpus_per_node)
        rows.append(StageEstimate("e2e", count, loads, nodes, gpus, minutes, minutes * gpus / 60))
        assumptions.append(
            f"end-to-end deployments are chosen after matching; each is counted with {gpus} GPUs, the most allowed"
        )
    return Estimate(tuple(rows), tuple(assumptions))


def minutes_of(sweep: Sweep, experiment: Experiment) -> float:
    return minutes_on(sweep.cluster, experiment)


def minutes_on(cluster: Cluster, experiment: Experiment) -> float:
    """Of one job: what its nodes get first, a start for each launch, and its loads."""
    servers = len(experiment.launches()) * cluster.start_minutes + len(experiment.loads) * cluster.load_minutes
    return prepare_minutes(cluster) + servers


def prepare_minutes(cluster: Cluster) -> float:
    """Until servers can be started on the nodes of a job: the image is unpacked beside the copying of the weights."""
    parts = [UNPACK_MINUTES] * cluster.unpacks_once + [COPY_MINUTES] * (cluster.stage_weights is not None)
    return 0.0 if not parts else max(parts) if cluster.prepare_minutes is None else cluster.prepare_minutes


def _describe_preparation(cluster: Cluster, learnt: bool) -> Iterator[str]:
    what = ["to unpack the image"] * cluster.unpacks_once
    what += ["to copy the weights"] * (cluster.stage_weights is not None)
    if what:
        source = "median of earlier jobs here" if learnt else f"prepare_minutes of cluster {cluster.name}"
        yield f"{prepare_minutes(cluster):.3g} min once a job {' and '.join(what)} ({source})"


def _stage(sweep: Sweep, stage: Stage, experiments: Sequence[Experiment]) -> StageEstimate:
    minutes = [minutes_of(sweep, experiment) for experiment in experiments]
    return StageEstimate(
        stage=stage,
        experiments=len(experiments),
        loads=sum(len(experiment.loads) for experiment in experiments),
        nodes=max(nodes_on(experiment.deployment, sweep.cluster) for experiment in experiments),
        gpus=max(experiment.deployment.gpus for experiment in experiments),
        minutes=sum(minutes),
        gpu_hours=sum(
            experiment.deployment.gpus * spent / 60 for experiment, spent in zip(experiments, minutes, strict=True)
        ),
    )
