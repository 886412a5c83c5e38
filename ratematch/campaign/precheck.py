"""What can be refused before anything is started: files the engine would not take, weights that are not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from ratematch.engines import find_engine
from ratematch.engines.installed import InstalledSchema
from ratematch.engines.refusals import judge_launch
from ratematch.engines.steptimes import STEPS_VARIABLE
from ratematch.errors import Problem, ResultsError, SweepError, UserError
from ratematch.loadgen.prompts import check_files
from ratematch.plan.deployment import Deployment
from ratematch.plan.expansion import Expansion, expand
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Trace
from ratematch.plan.setting import Explained
from ratematch.plan.sweep import Sweep
from ratematch.run.preparation import why_unstaged
from ratematch.slurm.site import weights_on_host, why_no_weights
from ratematch.store.folder import Results


def expand_sweep(sweep: Sweep) -> Expansion:
    """The sweep's experiments, with what its engine does with memory taken into account."""
    return expand(sweep, find_engine(sweep.engine.key).kv_settings)


def explain_settings(
    experiments: Sequence[Experiment], environment: Mapping[str, str] | None = None
) -> tuple[Explained, ...]:
    """Every setting of every kind of server and its reason; servers with the same settings and reasons stand once.

    ``environment``: of all servers, from the cluster profile, by which some are chosen.
    """
    explained: dict[str, Explained] = {}
    for experiment in experiments:
        experiment = replace(experiment, deployment=_with_environment(experiment.deployment, environment or {}))
        for role, settings in find_engine(experiment.engine.key).explain_settings(experiment).items():
            group = next((group for group in experiment.deployment.groups if group.role == role), None)
            mtp = f" mtp={group.mtp}" if group is not None and group.mtp else ""
            servers = f"{role} {group.mapping.label}{mtp}" if group is not None else role
            label = f"{servers} {experiment.workload.label}"
            explained.setdefault(f"{label} {settings}", Explained(label, settings))
    return tuple(explained.values())


def _with_environment(deployment: Deployment, environment: Mapping[str, str]) -> Deployment:
    ctx, gen, agg = (
        None if group is None else replace(group, environment={**environment, **group.environment})
        for group in (deployment.ctx, deployment.gen, deployment.agg)
    )
    return replace(deployment, ctx=ctx, gen=gen, agg=agg)


def refuse_missing_inputs(sweep: Sweep, experiments: Sequence[Experiment], *, here: bool) -> None:
    """What servers and loads need of this machine's disk.

    Raises:
        SweepError: with every problem.
    """
    if problems := _missing_inputs(sweep, experiments, here):
        raise SweepError(list(problems.values()))


def _missing_inputs(sweep: Sweep, experiments: Sequence[Experiment], here: bool) -> dict[str, Problem]:
    problems: dict[str, Problem] = {}
    if here and (why := why_no_weights(sweep.model_path, sweep.cluster)):
        fix = "give the folder of the checkpoint, or model_paths in the cluster profile"
        problems["path"] = Problem(f"{sweep.source}: model", why, fix)
    if here and sweep.cluster.check_paths and not sweep.cluster.emulated and not sweep.simulated:
        engine = find_engine(sweep.engine.name)
        for experiment in (*experiments, *_pairs_to_come(sweep, experiments)):
            for what in engine.check_inputs(experiment, partial(weights_on_host, cluster=sweep.cluster)):
                problems.setdefault(what, Problem(f"{sweep.source}: {experiment.deployment.label}", what))
    for path in () if sweep.simulated else {experiment.model_path for experiment in experiments}:
        if why := why_unstaged(path, sweep.cluster):
            problems[f"stage {path}"] = Problem(f"{sweep.source}: cluster {sweep.cluster.name}", why)
    for what in _wrong_files(experiments):
        problems.setdefault(what, Problem(f"{sweep.source}: workloads", what))
    return problems


def refuse_unlaunchable(
    sweep: Sweep, experiments: Sequence[Experiment], *, here: bool, installed: InstalledSchema | None = None
) -> list[str]:
    """Render every experiment on made-up nodes and check the files against the engine's contract.

    The end-to-end stage, which is not known before matching, is checked by pairs of what is measured for it.
    ``here``: servers will start on this machine, so a weights path can be looked for. ``installed``: what the image
    says that its servers take. Returns warnings, one line each: what is not refused and yet
    should be known.

    Raises:
        SweepError: with every different problem once, and the first experiment that has it.
    """
    warnings: dict[str, str] = {}
    if sweep.simulated and (unable := find_engine(sweep.engine.key).why_no_simulation()):
        raise SweepError([Problem(f"{sweep.source}: engine", f"{sweep.engine.name} cannot be simulated", unable)])
    problems = _missing_inputs(sweep, experiments, here)
    for experiment in (*experiments, *_pairs_to_come(sweep, experiments)):
        verdict = judge_launch(sweep, experiment, installed)
        label = f"{experiment.stage} {experiment.deployment.label}"
        for what in verdict.refusals:
            problems.setdefault(what, Problem(f"{sweep.source}: {label}", what))
        for what in verdict.doubts:
            warnings.setdefault(what, f"{label}: {what}")
    if problems:
        raise SweepError(list(problems.values()))
    return list(warnings.values())


def _wrong_files(experiments: Sequence[Experiment]) -> Iterator[str]:
    """What is wrong with the files that workloads name, which would else be found out with servers up."""
    for workload in dict.fromkeys(experiment.workload for experiment in experiments):
        loads = [load for experiment in experiments if experiment.workload == workload for load in experiment.loads]
        try:
            check_files(workload, any(isinstance(load, Trace) for load in loads))
        except UserError as problem:
            yield str(problem)


def refuse_mixture(results: Results, sweep: Sweep) -> None:
    """Simulated figures and others do not go into one folder, nor do those of two step-time models of the emulator:
    no analysis could ever use them together.

    Raises:
        ResultsError: ``results`` holds figures of the other kind.
    """
    emulated = sweep.simulated or sweep.cluster.emulated
    for stored in results.now().experiments:
        experiment = stored.experiment
        if experiment.emulated and emulated and experiment.step_times != sweep.step_times:
            raise ResultsError(
                f"{results.path}: holds figures of the step-time model {experiment.step_times}, and "
                f"{sweep.step_times} is asked for: give another folder with -o, or set "
                f"{STEPS_VARIABLE}={experiment.step_times}"
            )
        if experiment.simulated != sweep.simulated:
            there, wanted = ("simulated", "measured") if not sweep.simulated else ("measured", "simulated")
            raise ResultsError(
                f"{results.path}: holds {there} figures, and {wanted} ones are asked for: give another folder with -o"
            )


def _pairs_to_come(sweep: Sweep, experiments: Sequence[Experiment]) -> Iterator[Experiment]:
    """For each set of options of ctx and of gen, one pair: matching may put any two of one KV layout together. All
    pairs, which are refused with the reason, when there are none of one layout."""
    if sweep.e2e is None:
        return
    different: dict[str, dict[str, Experiment]] = {"ctx": {}, "gen": {}}
    for experiment in experiments:
        if experiment.stage in different and experiment.workload.isl == sweep.workloads[0].isl:
            group = experiment.deployment.groups[-1]
            different[experiment.stage].setdefault(repr((group.options, group.unchecked)), experiment)
    pairs = [
        (left.deployment.ctx, right.deployment.gen, right)
        for left in different["ctx"].values()
        for right in different["gen"].values()
    ]
    engine, version = find_engine(sweep.engine.key), sweep.engine.computing_version
    alike = [
        (ctx, gen, right)
        for ctx, gen, right in pairs
        if ctx and gen and engine.kv_layout(ctx, version) == engine.kv_layout(gen, version)
    ]
    for ctx, gen, right in alike or pairs:
        assert ctx is not None and gen is not None
        deployment = Deployment(
            ctx=replace(ctx, mtp=gen.mtp), gen=gen, router=sweep.e2e.router, router_args=sweep.e2e.router_args
        )
        yield replace(right, stage="e2e", deployment=deployment)
