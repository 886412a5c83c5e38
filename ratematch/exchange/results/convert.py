"""Loads of other tools as ratematch's values: an experiment, a load, figures; and what is missing for that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ratematch.errors import CatalogError
from ratematch.exchange.results.foreign import ForeignLoad, Hints, Servers
from ratematch.exchange.results.loadchecks import check_load
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.measure.measurement import Measurement, measure_load
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, Options, ServerGroup, Stage
from ratematch.plan.experiment import EngineRef, Experiment
from ratematch.plan.load import Concurrency, Load, Rate
from ratematch.plan.precision import read_precision, usual_or
from ratematch.plan.workload import Workload


def list_unknown(hints: Hints, stage: Stage | None, drafted: bool | None = None) -> list[str]:
    """What neither the file nor an option says and an import needs, each with the option that says it.

    ``drafted``: the file says that tokens were drafted, though not how many.
    """
    problems = []
    if hints.model is None:
        problems.append("model (--model)")
    if hints.gpu is None:
        problems.append("GPU (--gpu)")
    if hints.engine is None:
        problems.append("engine (--engine trtllm-serve/1.2)")
    if hints.emulated is None:
        problems.append("real or emulated servers (--real or --emulated)")
    if not hints.isl or not hints.osl:
        problems.append("lengths (--workload ISL/OSL)")
    if not hints.concurrency and not hints.request_rate:
        problems.append("load (--concurrency or --request-rate)")
    if not (hints.agg or hints.ctx or hints.gen):
        problems.append("servers (--agg, or --ctx and --gen, such as 2xDEP4)")
    elif stage in ("ctx", "gen") and not (hints.ctx if stage == "ctx" else hints.gen):
        problems.append(f"the {stage} server (--{stage})")
    elif stage == "ifb" and hints.agg is None:
        problems.append("the aggregated server (--agg)")
    elif stage == "e2e" and not (hints.ctx and hints.gen):
        problems.append("both kinds of servers (--ctx and --gen)")
    if hints.mtp is None:
        problems.append("draft tokens (--mtp; there were some)" if drafted else "draft tokens (--mtp, 0 for none)")
    return problems


def measure(load: ForeignLoad, hints: Hints) -> Measurement:
    """Figures of an imported load, with the verdict.

    Of records by the rules for ratematch's own; how late the client sent is not known. Of a whole run, held to
    Little's law as far as that can be. ``hints`` must know its concurrency or its rate.
    """
    if load.figures is not None:
        return check_load(load.figures, hints)
    workload = Workload(max(1, round(hints.isl or 1)), max(1, round(hints.osl or 1)))
    figures = measure_load(load.records, make_load(load, hints), workload)
    warnings = (f"imported from {load.tool}", *figures.warnings)
    return replace(figures, send_lag_ms=None, warnings=warnings)


def make_load(load: ForeignLoad, hints: Hints) -> Load:
    """The load as ratematch describes it; ``hints`` must know its concurrency or its rate."""
    count = len(load.records) or (load.figures.num_requests if load.figures else 0)
    if hints.concurrency is not None:
        return Concurrency(hints.concurrency, count, len(load.warmup))
    assert hints.request_rate is not None  # see list_unknown()
    if hints.burstiness in (None, 1.0):
        return Rate(hints.request_rate, count, warmup=len(load.warmup))
    return Rate(hints.request_rate, count, "gamma", len(load.warmup), burstiness=hints.burstiness)


def make_experiment(hints: Hints, stage: Stage | None) -> Experiment:
    """The experiment that the load belongs to, without loads. ``stage``: ``None`` leaves it to the servers.

    ``hints`` must be complete, see :func:`list_unknown`.
    """
    assert hints.model and hints.gpu and hints.engine and hints.isl and hints.osl  # see list_unknown()
    name, _, version = hints.engine.partition("/")
    mtp = hints.mtp or 0

    def group(role: Any, servers: Servers | None) -> ServerGroup | None:
        if servers is None:
            return None
        options: Options = {"decode-context-parallel-size": servers.dcp} if servers.dcp > 1 else {}
        return ServerGroup(role, servers.mapping, servers.instances, mtp, options=options, tag=servers.tag)

    ctx, gen, agg = group("ctx", hints.ctx), group("gen", hints.gen), group("agg", hints.agg)
    what: Stage
    if stage == "ctx" or (stage is None and ctx is not None and gen is None):
        what, deployment = "ctx", Deployment(ctx=ctx)
    elif stage == "gen" or (stage is None and gen is not None and ctx is None):
        what, deployment = "gen", Deployment(gen=gen)
    elif ctx is not None and gen is not None:
        what, deployment = "e2e", Deployment(ctx=ctx, gen=gen)
    else:
        what, deployment = "ifb", Deployment(agg=agg)
    return Experiment(
        stage=what,
        model=_canonical(load_model, hints.model),
        model_path=hints.model,
        engine=EngineRef(name, version or "unknown"),
        gpu=_canonical(load_gpu, hints.gpu),
        cluster="imported",
        emulated=bool(hints.emulated),
        deployment=deployment,
        workload=Workload(max(1, round(hints.isl)), max(1, round(hints.osl)), precision=_precision(hints)),
        loads=(),
    )


def _precision(hints: Hints) -> str:
    """The precision that a workload has: empty where it is the usual one of the model on its GPUs, or nobody says."""
    assert hints.model and hints.gpu
    try:
        model, gpu = load_model(hints.model), load_gpu(hints.gpu)
        return usual_or(model, gpu, read_precision(hints.precision, gpu) if hints.precision else "")
    except (CatalogError, ValueError):
        return (hints.precision or "").strip().lower()


def _canonical(find: Any, name: str) -> str:
    """The catalog's name of a model or GPU; one that it does not know keeps its own."""
    try:
        return str(find(name).name)
    except CatalogError:
        return name.rsplit("/", 1)[-1].lower()


def make_cluster(experiment: Experiment) -> Cluster:
    """The cluster profile that stands beside an imported experiment."""
    return Cluster(
        "imported",
        experiment.gpu,
        gpus_per_node=8,
        nodes=max(1, -(-experiment.deployment.gpus // 8)),
        emulated=experiment.emulated,
        about="Not a cluster of ours: what is here was measured by another tool.",
    )
