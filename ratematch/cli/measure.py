"""Verbs that plan, run and watch a sweep."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ratematch.cli.group import (
    RESULTS,
    cluster_option,
    json_option,
    main,
    print_json,
    set_option,
    stderr_console,
)


@main.command()
@click.argument("sweep")
@set_option
@cluster_option
@click.option("--explain", is_flag=True, help="Every key that servers are told, with the reason for its value.")
@click.option("--predict", is_flag=True, help="Predict ctx rates, gen curves, ratios and fronts with a model.")
@click.option(
    "--learn-from",
    type=click.Path(path_type=Path),
    help="With --predict: a results folder that corrects the model, drawn solid beside the prediction.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="With --predict: a folder for plots.")
@json_option
def plan(
    sweep: str,
    overrides: tuple[str, ...],
    cluster: str | None,
    explain: bool,
    predict: bool,
    learn_from: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Show what SWEEP would run and cost, and what it drops and why. Nothing is started.

    \b
    Example:
        ratematch plan sweeps/quickstart.yaml --set budget.max_gpus=8
        ratematch plan sweeps/deepseek-r1.yaml --predict -o predicted
    """
    from ratematch.campaign.precheck import expand_sweep, explain_settings, refuse_unlaunchable
    from ratematch.errors import UserError
    from ratematch.inputs.find import read_sweep
    from ratematch.plan.budget import estimate
    from ratematch.show.views.explain import explained_to_json, print_explained
    from ratematch.show.views.plan import plan_to_json, print_plan

    asked, _ = read_sweep(sweep, overrides, cluster)
    expansion = expand_sweep(asked)
    refuse_unlaunchable(asked, expansion.experiments, here=False)
    cost = estimate(asked, expansion.experiments)
    explained = explain_settings(expansion.experiments) if explain else ()
    if not predict and (learn_from or output):
        raise UserError("--learn-from and -o belong to --predict")
    prediction = written = None
    if predict:
        from ratematch.analysis import analyze
        from ratematch.show.plots.prediction import write_prediction_plots
        from ratematch.show.views.predict import prediction_to_json, print_prediction
        from ratematch.simulate.forecasts import predict_sweep
        from ratematch.store.folder import Results

        results = Results.open(learn_from) if learn_from else None
        prediction = predict_sweep(asked, expansion.experiments, results)
        if output:
            output.mkdir(parents=True, exist_ok=True)
            measured = analyze.analyze_results(results) if results else None
            title = f"{asked.model.name} on {asked.cluster.gpu}"
            written = write_prediction_plots(prediction, title, output, measured)
    if as_json:
        told: dict[str, Any] = {"settings": explained_to_json(explained)} if explain else {}
        told |= {"prediction": prediction_to_json(prediction)} if prediction else {}
        print_json(plan_to_json(asked, expansion, cost) | told)
    else:
        print_plan(asked, expansion, cost, Console())
        print_explained(explained, Console())
        if prediction:
            print_prediction(prediction, Console())
        for path in written or ():
            click.echo(str(path))


@main.command()
@click.argument("sweep")
@set_option
@cluster_option
@click.option("--experiment", metavar="ID", help="Only this one: its id, or a part of its folder's name.")
@click.option(
    "--executor",
    type=click.Choice(["slurm", "local"]),
    help="Steps of a Slurm job, or processes of this machine [default: by the cluster profile].",
)
@click.option("--nodes", metavar="A,B,...", default="", help="Names of the nodes, instead of placeholders.")
@click.option("--port-base", type=click.IntRange(1024, 65000), help="First port of the servers [default: 18000].")
@click.option("--results", type=click.Path(path_type=Path), help="Also the end-to-end experiments chosen in there.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for a folder of each experiment."
)
@click.option("--force", is_flag=True, help="Overwrite files that say something else.")
@json_option
def render(
    sweep: str,
    overrides: tuple[str, ...],
    cluster: str | None,
    experiment: str | None,
    executor: str | None,
    nodes: str,
    port_base: int | None,
    results: Path | None,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Write the files and commands that the jobs of SWEEP would use, and start nothing.

    Each experiment gets its YAML files, run.sh (by hand: start, load, stop) and job.sbatch around it.

    \b
    Example:
        ratematch render deepseek-r1 --experiment gen-8192-256-gen1xDEP8-mtp3 -o rendered
    """
    from ratematch.campaign.precheck import expand_sweep, refuse_unlaunchable
    from ratematch.inputs.find import read_sweep
    from ratematch.run import render as rendering
    from ratematch.store.folder import Results

    asked, _ = read_sweep(sweep, overrides, cluster)
    known = expand_sweep(asked).experiments
    refuse_unlaunchable(asked, known, here=False)
    if results is not None:
        chosen = [folder.read() for folder in Results.open(results).folders()]
        known = (*known, *(each for each in chosen if each.stage == "e2e"))
    allocated = (executor or asked.cluster.default_executor) == "slurm"
    rendered = [
        each
        for found in rendering.choose(known, experiment)
        for each in rendering.render(
            found,
            asked.cluster,
            allocated=allocated,
            nodes=[node for node in nodes.split(",") if node],
            port_base=port_base,
        )
    ]
    rendering.write(rendered, output, force=force)
    if as_json:
        folders = [{"path": str(output / each.path), "files": sorted(each.files)} for each in rendered]
        print_json({"sweep": asked.name, "cluster": asked.cluster.name, "rendered": folders})
        return
    for each in rendered:
        click.echo(str(output / each.path))
    how = "sbatch job.sbatch in a folder" if allocated else "bash run.sh in a folder"
    click.echo(f"{len(rendered)} folders for cluster profile {asked.cluster.name}; by hand: {how}", err=True)


@main.command()
@click.argument("sweep")
@set_option
@cluster_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Results folder [default: results/NAME, simulated: results/NAME-simulated].",
)
@click.option(
    "--executor",
    type=click.Choice(["local", "debug", "slurm", "allocation", "simulate"]),
    help="Where servers run [default: slurm or local, by the cluster profile]; `simulate`: nowhere, the emulator's "
    "scheduler runs in virtual time.",
)
@click.option(
    "--max-jobs",
    type=click.IntRange(1),
    help="Jobs under way at once [default: 1 here, 16 in Slurm's queue, one a processor simulated].",
)
@click.option(
    "--pack",
    "pack_nodes",
    type=click.IntRange(0),
    is_flag=False,
    flag_value=0,
    metavar="[NODES]",
    help="Put several deployments into each Slurm job, of so many nodes [default: those of budget.max_gpus].",
)
@click.option(
    "--pack-hours", type=click.FloatRange(0.1), default=4.0, show_default=True, help="Length of such a job."
)
@click.option(
    "--max-gpu-hours", type=click.FloatRange(0), help="Stop in order when so many are spent, instead of the budget's."
)
@click.option("--detach", is_flag=True, help="Run in the background; `status`, `logs` and `cancel` reach it.")
@click.option("--again", is_flag=True, help="Measure everything anew; earlier figures are moved aside.")
@json_option
def sweep(
    sweep: str,
    overrides: tuple[str, ...],
    output: Path | None,
    executor: Any,
    again: bool,
    as_json: bool,
    max_jobs: int | None,
    pack_nodes: int | None,
    pack_hours: float,
    max_gpu_hours: float | None,
    detach: bool,
    cluster: str | None,
) -> None:
    """Run the whole method for SWEEP. Run it again to resume: only what is missing is measured.

    \b
    Example:
        ratematch sweep quickstart.yaml
    """
    from ratematch.campaign.controller import run_campaign
    from ratematch.campaign.jobs.executor import Executor, choose_packing
    from ratematch.inputs.find import read_sweep
    from ratematch.show.views.sweep import SweepView, describe_default_executor, outcome_to_json
    from ratematch.store.folder import Results

    # A scheduler or a wrapper that ends the controller means the same as Ctrl-C: stop in order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    asked, text = read_sweep(sweep, overrides, cluster)
    said = None if executor else describe_default_executor(asked.cluster)
    asked = replace(asked, simulated=executor == "simulate")
    results = Results(output or RESULTS / (f"{asked.name}-simulated" if asked.simulated else asked.name))
    if detach:
        from ratematch.campaign.control import detach as start_detached

        pid = start_detached([word for word in sys.argv[1:] if word != "--detach"], results.path)
        click.echo(f"controller {pid} runs in the background, log: {results.path / 'controller.log'}")
        if said:
            click.echo(said, err=True)
        click.echo(f"next: ratematch status {results.path}, or ratematch cancel {results.path}")
        return
    if max_gpu_hours is not None:
        asked = replace(asked, budget=replace(asked.budget, gpu_hours=max_gpu_hours))
    executor = executor or asked.cluster.default_executor
    packing = choose_packing(asked, executor, pack_nodes, pack_hours)
    with SweepView(stderr_console(), said) as view:
        campaign = run_campaign(asked, text, results, Executor(executor, max_jobs, packing), view.update, again=again)
    if as_json:
        print_json(outcome_to_json(campaign))
    else:
        view.print_outcome(campaign)
    if campaign.failed:
        sys.exit(2)
    sys.exit(3 if campaign.nothing_valid else 0)


@main.command()
@click.argument("experiment", type=click.Path(exists=True, file_okay=False, path_type=Path))
def run(experiment: Path) -> None:
    """Measure what is missing of one EXPERIMENT folder, here and now: what each job of a sweep does.

    \b
    Example:
        ratematch run results/quickstart/gen-1024-64-gen1xDEP4-mtp1-6b1f2c90aa
    """
    from ratematch.errors import RunError
    from ratematch.run.experiment import measure_experiment

    outcome = measure_experiment(experiment)
    if outcome.error:
        raise RunError(outcome.error)
    click.echo(f"{experiment}: {outcome.measured} loads measured, all done")


@main.command()
@click.argument("results", type=click.Path(path_type=Path), default=RESULTS)
@json_option
def status(results: Path, as_json: bool) -> None:
    """Show how far the sweep in RESULTS is: state, loads, GPU-hours, and why something failed or waits.

    \b
    Example:
        ratematch status results/quickstart
    """
    from ratematch.campaign.control import queued
    from ratematch.campaign.decisions import read_chosen_runs, read_search, runs_to_json, search_to_json
    from ratematch.campaign.nodes import excluded_nodes
    from ratematch.show.views.search import print_choices, print_search
    from ratematch.show.views.status import print_status, status_to_json
    from ratematch.store.folder import Results

    opened = Results.open(results)
    jobs = {name: str(job) for name, job in queued(opened).items()}
    content = status_to_json(opened, jobs, excluded_nodes(opened))
    searched, choices = read_search(opened), read_chosen_runs(opened)
    if as_json:
        search = {"search": search_to_json(searched)} if searched else {}
        print_json(content | search | ({"end_to_end": runs_to_json(choices)} if choices else {}))
    else:
        print_status(content, Console())
        if searched:
            print_search(searched, choices, Console())
        else:
            print_choices(choices, Console())


@main.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.argument("experiment", required=False)
def cancel(results: Path, experiment: str | None) -> None:
    """Stop the sweep in RESULTS, or one EXPERIMENT of it, in order. The same `sweep` command resumes it.

    \b
    Example:
        ratematch cancel results/quickstart
    """
    from ratematch.campaign.control import cancel as stop
    from ratematch.store.folder import Results

    stopped = stop(Results.open(results), experiment)
    for line in stopped or ["nothing runs there"]:
        click.echo(line)


@main.command()
@click.argument("experiment")
@click.option(
    "--role", type=click.Choice(["ctx", "gen", "agg", "orchestrator", "driver"]), help="Only these servers."
)
@click.option("--index", type=click.IntRange(0), help="Only this server of the role.")
@click.option("-n", "--lines", type=click.IntRange(0), default=20, show_default=True, help="Last lines of each log.")
@click.option("-f", "--follow", "following", is_flag=True, help="Go on with new lines until the experiment ends.")
def logs(experiment: str, role: str | None, index: int | None, lines: int, following: bool) -> None:
    """Show the logs of an EXPERIMENT: its folder, or a part of its name below results/.

    \b
    Example:
        ratematch logs gen1xDEP4-mtp1 --role gen --index 0 -f
    """
    from ratematch.campaign.control import find_experiment, follow
    from ratematch.campaign.control import logs as find_logs
    from ratematch.run.launch import log_tail

    folder = find_experiment(RESULTS, experiment)
    found = find_logs(folder, role, index)
    for log in found:
        click.echo(f"==> {log.path}", err=True)
        if tail := log_tail(log.path, lines) if lines else "":
            click.echo(tail)
    if following:
        for log, line in follow(folder, found):
            click.echo(line if len(found) == 1 else f"{log.name}: {line}")
