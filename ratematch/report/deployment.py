"""From a recommendation to files that are ready to run: the experiment behind a point, rendered like a sweep's
own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ratematch.analysis import analyze
from ratematch.errors import RecipeError, UserError
from ratematch.exchange.recipes.fromexperiment import recipe_of
from ratematch.exchange.recipes.srtwrite import recipe_text
from ratematch.match.points import Point, WorkloadAnalysis
from ratematch.match.question import Question
from ratematch.match.recommend import Recommendation, recommend
from ratematch.measure.measured import Measured
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency
from ratematch.plan.secret import masked
from ratematch.run import render as rendering
from ratematch.store.folder import Results

REQUESTS_PER_SLOT, FEWEST_REQUESTS = 8, 64
"""Of the load that ``run.sh`` sends to a deployment that was not measured."""
ABOUT, RECIPE = "deployment.json", "recipe.yaml"


@dataclass(frozen=True)
class Handover:
    """``experiment``: the servers, with the one load they are recommended at. ``files``: by name."""

    workload: str
    recommendation: Recommendation
    experiment: Experiment
    cluster: Cluster
    files: dict[str, str]


def hand_over(
    results: Results,
    measured: Sequence[Measured],
    workload: WorkloadAnalysis,
    at: float,
    *,
    cluster: Cluster | None = None,
    allocated: bool | None = None,
) -> Handover:
    """The files of the deployment recommended at ``at`` tok/s/user: worker YAMLs, the orchestrator's or nginx's file,
    ``run.sh`` and, on Slurm, ``job.sbatch``; the same as a recipe of srt-slurm, ``recipe.yaml``, where it has one;
    and what is known of it in ``deployment.json``.

    ``cluster``: another one than it was measured on. ``allocated``: as a Slurm job; by default on clusters with GPUs.

    Raises:
        UserError: nothing reaches ``at``, what it needs is not stored, or the engine would refuse the files.
        PlacementError: it does not fit the cluster.
    """
    recommendation = recommend(workload, at)
    if recommendation.point is None:
        fastest = f"; the fastest gives {recommendation.fastest:.3g}" if recommendation.fastest else ""
        raise UserError(f"{workload.workload}: no deployment gives {at:g} tok/s/user{fastest}")
    experiment = without_secrets(find_experiment(measured, recommendation.point))
    forced = experiment.workload.forced_acceptance
    # Whoever starts these servers wants their answers: drafts are accepted where they are right.
    experiment = replace(experiment, workload=replace(experiment.workload, forced_acceptance=""))
    where = cluster or _cluster_of(results, experiment, recommendation.point)
    slurm = not where.emulated if allocated is None else allocated
    (rendered,) = rendering.render(replace(experiment, cluster=where.name), where, allocated=slurm)
    facts = describe(workload.workload, recommendation, experiment, where)
    if forced:
        facts["forced_acceptance"] = f"figures are with drafts accepted by force, {forced}; these servers force none"
    recipe, why_none = _recipe(experiment, where)
    if why_none:
        facts["no_recipe"] = why_none
    about = json.dumps(facts, indent=1, allow_nan=False)
    files = {**rendered.files, **({RECIPE: recipe} if recipe else {}), ABOUT: about + "\n"}
    return Handover(workload.workload, recommendation, experiment, where, files)


def _recipe(experiment: Experiment, cluster: Cluster) -> tuple[str, str]:
    """The same deployment as a recipe of srt-slurm, or why it has none."""
    try:
        return recipe_text(recipe_of(experiment, cluster)), ""
    except RecipeError as error:
        return "", "; ".join(problem.what for problem in error.problems)


def without_secrets(experiment: Experiment) -> Experiment:
    """``experiment`` as it may be handed around: earlier versions stored secrets of servers with it."""
    old = experiment.deployment
    ctx, gen, agg = (
        group and replace(group, environment=masked(group.environment)) for group in (old.ctx, old.gen, old.agg)
    )
    return replace(experiment, deployment=replace(old, ctx=ctx, gen=gen, agg=agg))


def find_experiment(measured: Sequence[Measured], point: Point) -> Experiment:
    """The experiment that a point was read from, at the point's load; for a predicted one that of its servers
    together.

    Raises:
        UserError: the servers that the point was predicted from are not among ``measured``.
    """
    rows = {row.experiment.id: row.experiment for row in measured}
    missing = [source for source in point.sources if source not in rows]
    if missing or not point.sources:
        raise UserError(f"{point.label}: the experiments it comes from are not in these results")
    if point.kind != "rate_matched":
        own = [row for row in measured if row.experiment.id == point.sources[0]]
        nearest = min(own, key=lambda row: abs((row.measurement.in_flight or 0) - point.concurrency))
        return replace(rows[point.sources[0]], loads=(replace(nearest.load, repeat=0),))
    ctx, gen = (rows[source] for source in point.sources)
    assert ctx.deployment.ctx is not None and gen.deployment.gen is not None  # what a rate-matched row is made of
    servers = gen.deployment.gen
    slots = max(1, round(point.concurrency))
    load = Concurrency(slots, max(FEWEST_REQUESTS, REQUESTS_PER_SLOT * slots), warmup=max(1, slots // 4))
    return replace(
        gen,
        stage="e2e",
        deployment=Deployment(
            # The KV layout holds the MTP layers: both sides carry the same.
            ctx=replace(ctx.deployment.ctx, instances=point.ctx, mtp=servers.mtp),
            gen=replace(servers, instances=point.gen),
            service_nodes=gen.deployment.service_nodes,
        ),
        loads=(load,),
    )


def _cluster_of(results: Results, experiment: Experiment, point: Point) -> Cluster:
    """The profile of the folder that the point was measured in."""
    for stored in results.now().experiments:
        if stored.experiment.id in point.sources:
            return stored.folder.cluster()
    raise UserError(f"{experiment.label}: no cluster profile is stored; give --cluster")


def describe(
    workload: str, recommendation: Recommendation, experiment: Experiment, cluster: Cluster
) -> dict[str, Any]:
    """What is known of a deployment, as JSON values: figures, where they come from, what they were measured on."""
    point = recommendation.point
    assert point is not None
    return {
        "deployment": point.label,
        "workload": workload,
        "at_tok_s_user": recommendation.at,
        "origin": "measured"
        if recommendation.measured
        else "predicted from ctx and gen measured apart; not measured together",
        "emulated": point.emulated,
        "figures_are": experiment.origin,
        "over_ifb": recommendation.over_ifb,
        "model": experiment.model,
        "engine": experiment.stack,
        "gpu": experiment.gpu,
        "cluster": cluster.name,
        "figures": asdict(point),
    }


def write_handover(handover: Handover, output: Path, *, force: bool = False) -> list[Path]:
    """Write the files into ``output``.

    Raises:
        UserError: a file of that name says something else, and ``force`` is not given; nothing is written then.
    """
    one = rendering.Rendering(Path(), handover.experiment, handover.files)
    rendering.write([one], output, force=force)
    return [output / name for name in handover.files]


def export_deployment(
    path: Path,
    at: float,
    *,
    workload: str | None = None,
    cluster: Cluster | None = None,
    allocated: bool | None = None,
    question: Question | None = None,
) -> Handover:
    """The deployment recommended in the results folder ``path`` at ``at`` tok/s/user.

    ``workload``: a label such as ``1024/64``; the only one when left out. ``question``: options instead of the
    sweep's.

    Raises:
        UserError: see :func:`hand_over`; or there are several workloads and none, or no such one, is named.
    """
    results = Results.open(path)
    inputs = analyze.read_inputs(results, question)
    analysis = analyze.analyze_inputs(inputs)
    known = [candidate.workload for candidate in analysis.workloads]
    if workload is None and len(known) > 1:
        raise UserError(f"{path}: say which workload: --workload {' or '.join(known)}")
    for candidate in analysis.workloads:
        if workload in (None, candidate.workload):
            return hand_over(results, inputs.measured, candidate, at, cluster=cluster, allocated=allocated)
    raise UserError(f"{path}: no workload {workload!r}; there are: {', '.join(known)}")
