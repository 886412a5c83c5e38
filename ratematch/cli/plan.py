"""Verbs that show a sweep before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ratematch.cli.group import echo, main, print_json, stdout_console
from ratematch.cli.options import (
    GIVEN,
    PATH,
    RATE,
    TOKENS,
    Number,
    Whole,
    calibration_option,
    cluster_option,
    force_option,
    json_option,
    percentile_option,
    set_option,
    tpot_option,
    ttft_option,
)

if TYPE_CHECKING:
    from ratematch.plan.experiment import Experiment
    from ratematch.plan.load import Percentile
    from ratematch.plan.sweep import Sweep
    from ratematch.simulate.calibration import Calibration
    from ratematch.simulate.forecasts import Prediction


def forecast(
    sweep: Sweep,
    experiments: Sequence[Experiment],
    learn_from: Path | None,
    calibration: Calibration | None,
    output: Path | None,
) -> tuple[Prediction, Sequence[Path]]:
    """What the model predicts, corrected by the results in ``learn_from`` or by ``calibration``, and the plots
    written to ``output``."""
    from ratematch.analysis import analyze
    from ratematch.show.plots.prediction import write_prediction_plots
    from ratematch.simulate.forecasts import predict_sweep
    from ratematch.store.folder import Results

    results = Results.open(learn_from) if learn_from else None
    prediction = predict_sweep(sweep, experiments, results, calibration)
    if output is None:
        return prediction, ()
    output.mkdir(parents=True, exist_ok=True)
    measured = analyze.analyze_results(results) if results else None
    title = f"{sweep.model.name} on {sweep.cluster.gpu}"
    return prediction, write_prediction_plots(prediction, title, output, measured)


def _check_options(predict: bool, learn_from: Path | None, calibration: Path | None, output: Path | None) -> None:
    from ratematch.errors import UserError

    if not predict and (learn_from or calibration or output):
        raise UserError("--learn-from, --calibration and -o belong to --predict")
    if learn_from and calibration:
        raise UserError("--learn-from and --calibration both correct the model: give one of them")


@main.command()
@click.argument("sweep")
@set_option
@cluster_option
@click.option("--explain", is_flag=True, help="Every key that servers are told, with the reason for its value.")
@click.option("--predict", is_flag=True, help="Predict ctx rates, gen curves, ratios and fronts with a model.")
@click.option(
    "--learn-from",
    type=GIVEN,
    help="With --predict: a results folder that corrects the model, drawn solid beside the prediction.",
)
@calibration_option
@click.option("-o", "--output", type=PATH, help="With --predict: a folder for plots.")
@json_option
def plan(
    sweep: str,
    overrides: tuple[str, ...],
    cluster: str | None,
    explain: bool,
    predict: bool,
    learn_from: Path | None,
    calibration: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Show what SWEEP would run and cost, and what it drops and why. Nothing is started.

    \b
    Example:
        ratematch plan sweeps/quickstart.yaml --set budget.max_gpus=8
        ratematch plan sweeps/deepseek-r1.yaml --predict -o predicted
    """
    from ratematch.campaign.contract import known_contract
    from ratematch.campaign.precheck import expand_sweep, explain_settings, refuse_unlaunchable
    from ratematch.inputs.find import read_sweep
    from ratematch.plan.budget import estimate
    from ratematch.show.views.explain import binding_to_json, explained_to_json, print_binding, print_explained
    from ratematch.show.views.plan import plan_to_json, print_plan
    from ratematch.show.views.predict import prediction_to_json, print_prediction
    from ratematch.simulate.calibrationfile import calibrated_sweep
    from ratematch.slurm.binding import explain_binding

    _check_options(predict, learn_from, calibration, output)
    parsed, _ = read_sweep(sweep, overrides, cluster)
    parsed, corrected = calibrated_sweep(parsed, calibration) if calibration else (parsed, None)
    expansion = expand_sweep(parsed)
    contract = known_contract(parsed)
    refused = refuse_unlaunchable(parsed, expansion.experiments, here=False, installed=contract.installed)
    warnings = [*contract.notes, *refused]
    cost = estimate(parsed, expansion.experiments)
    explained = explain_settings(expansion.experiments, parsed.cluster.environment) if explain else ()
    binding = explain_binding(parsed.cluster) if explain else None
    prediction: Prediction | None = None
    written: Sequence[Path] = ()
    if predict:
        prediction, written = forecast(parsed, expansion.experiments, learn_from, corrected, output)
    if as_json:
        more: dict[str, Any] = {"settings": explained_to_json(explained)} if explain else {}
        more |= {"binding": binding_to_json(binding)} if binding else {}
        more |= {"prediction": prediction_to_json(prediction)} if prediction else {}
        print_json(plan_to_json(parsed, expansion, cost) | {"warnings": warnings, "contract": contract.words} | more)
    else:
        print_plan(parsed, expansion, cost, stdout_console())
        echo(f"checked by: {contract.words}")
        for warning in warnings:
            echo(f"warning: {warning}", err=True)
        print_explained(explained, stdout_console())
        if binding:
            print_binding(binding, stdout_console())
        if prediction:
            print_prediction(prediction, stdout_console(), explain)
        for path in written:
            echo(str(path))


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
@click.option("--port-base", type=Whole(1024, 65000), help="First port of the servers [default: 18000].")
@click.option("--results", type=GIVEN, help="Also the end-to-end experiments chosen in there.")
@click.option("-o", "--output", type=PATH, required=True, help="Folder for a folder of each experiment.")
@force_option
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
    from ratematch.campaign.contract import known_contract
    from ratematch.campaign.precheck import expand_sweep, refuse_unlaunchable
    from ratematch.inputs.find import read_sweep
    from ratematch.run import render as rendering
    from ratematch.store.folder import Results

    parsed, _ = read_sweep(sweep, overrides, cluster)
    known = expand_sweep(parsed).experiments
    contract = known_contract(parsed)
    refused = refuse_unlaunchable(parsed, known, here=False, installed=contract.installed)
    for warning in (*contract.notes, *refused):
        click.echo(f"warning: {warning}", err=True)
    if results is not None:
        chosen = [stored.experiment for stored in Results.open(results).now().experiments]
        known = (*known, *(item for item in chosen if item.stage == "e2e"))
    allocated = (executor or parsed.cluster.default_executor) == "slurm"
    rendered = [
        item
        for selected in rendering.choose(known, experiment)
        for item in rendering.render(
            selected,
            parsed.cluster,
            allocated=allocated,
            nodes=[node for node in nodes.split(",") if node],
            port_base=port_base,
            installed=contract.installed,
        )
    ]
    rendering.write(rendered, output, force=force)
    if as_json:
        folders = [{"path": str(output / item.path), "files": sorted(item.files)} for item in rendered]
        about = {"sweep": parsed.name, "cluster": parsed.cluster.name, "contract": contract.words}
        print_json(about | {"rendered": folders})
        return
    for item in rendered:
        echo(str(output / item.path))
    how = "sbatch job.sbatch in a folder" if allocated else "bash run.sh in a folder"
    echo(f"{len(rendered)} folders for cluster profile {parsed.cluster.name}; by hand: {how}", err=True)
    echo(f"checked by: {contract.words}", err=True)


@main.command()
@click.argument("sweep")
@set_option
@cluster_option
@click.option("--request-rate", type=RATE, required=True, help="Requests/s to serve, Poisson arrivals.")
@click.option("--isl", type=TOKENS, help="Prompt tokens, instead of the sweep's workloads; with --osl.")
@click.option("--osl", type=TOKENS, help="Output tokens, instead of the sweep's workloads; with --isl.")
@click.option(
    "--at",
    type=Number(0, 1e6, open=True),
    metavar="TOK/S/USER",
    help="Least tok/s/user: a TPOT limit of 1000 / this.",
)
@ttft_option
@tpot_option
@percentile_option
@calibration_option
@json_option
def size(
    sweep: str,
    overrides: tuple[str, ...],
    cluster: str | None,
    request_rate: float,
    isl: int | None,
    osl: int | None,
    at: float | None,
    ttft_ms: float | None,
    tpot_ms: float | None,
    percentile: Percentile | None,
    calibration: Path | None,
    as_json: bool,
) -> None:
    """Predict how many GPUs serve a request rate within limits: which of SWEEP's servers, how many, how sure.

    Nothing is started. The smallest deployment is also run in virtual time at that rate, and grows until it keeps
    the limits there.

    \b
    Example:
        ratematch size deepseek-r1 --isl 8192 --osl 1024 --request-rate 30 --at 50 --ttft-ms 2000 --percentile 99
    """
    from dataclasses import replace

    from ratematch.campaign.precheck import expand_sweep
    from ratematch.errors import UserError
    from ratematch.inputs.find import read_sweep
    from ratematch.match.question import Question
    from ratematch.show.views.size import print_size, size_to_json
    from ratematch.simulate.calibrationfile import calibrated_sweep
    from ratematch.simulate.sizing import size_sweep

    if at is not None and tpot_ms is not None:
        raise UserError("--at and --tpot-ms both limit TPOT: give one of them")
    if (isl is None) != (osl is None):
        raise UserError("--isl and --osl make a workload together: give both")
    if isl is not None:
        overrides = (*overrides, f"workloads=[{{isl: {isl}, osl: {osl}}}]")
    parsed, _ = read_sweep(sweep, overrides, cluster)
    parsed, corrected = calibrated_sweep(parsed, calibration) if calibration else (parsed, None)
    limits = parsed.constraints
    asked = Question(ttft_ms, 1000 / at if at else tpot_ms, percentile, request_rate=request_rate, draws=0)
    question = asked.filled_in(Question(limits.ttft_ms, limits.tpot_ms, limits.percentile))
    parsed = replace(parsed, constraints=question.constraints)
    sizing = size_sweep(parsed, expand_sweep(parsed).experiments, question, corrected)
    if as_json:
        print_json(size_to_json(sizing, parsed))
    else:
        print_size(sizing, parsed, stdout_console())
