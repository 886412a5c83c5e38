"""Verbs that write files for other tools, and files that are ready to run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ratematch.cli.group import echo, main, print_json
from ratematch.cli.options import (
    Whole,
    cluster_option,
    folder_option,
    force_option,
    json_option,
    results_argument,
    set_option,
    tpot_option,
    ttft_option,
)

if TYPE_CHECKING:
    from ratematch.store.folder import Results


@main.group()
def export() -> None:
    """Write results in the formats of other tools, or as files that are ready to run."""


@export.command("results")
@results_argument
@click.option(
    "--format",
    "form",
    type=click.Choice(["aiperf", "benchmark-serving", "inferencex", "csv"]),
    help="Whose files.",
)
@click.option("--publish", is_flag=True, help="A small copy of RESULTS that may be shown to anybody, instead.")
@click.option(
    "--records-kb", type=Whole(0, 1_000_000), default=512, show_default=True, help="Room for requests in it."
)
@click.option("--hide", multiple=True, metavar="TEXT", help="A word that goes wherever it stands; several times.")
@click.option("--about", default="", metavar="TEXT", help="What the copy says of itself.")
@folder_option
def export_results(
    results: Path, form: Any, publish: bool, records_kb: int, hide: tuple[str, ...], about: str, output: Path
) -> None:
    """Write RESULTS as AIPerf, benchmark_serving or InferenceX files, or as CSV; or a copy to hand around.

    Emulated figures say so in each file. With --publish names of people, machines, accounts and places become
    pseudonyms, logs are cut to both ends, and requests are those of a few loads; nothing is written when anything of
    it would be left. All verbs read the copy as they read RESULTS.

    \b
    Example:
        ratematch export results results/sample --format aiperf -o artifacts
        ratematch export results results/sample --publish -o results/to-show
    """
    from ratematch.errors import UserError
    from ratematch.exchange.results.export import export_results as write
    from ratematch.store.folder import Results

    if publish == (form is not None):
        raise UserError("give either --format, for another tool, or --publish, for a copy to hand around")
    if publish:
        _publish(Results.open(results), output, records_kb, hide, about)
        return
    written, notes = write(Results.open(results), form, output)
    for path in written:
        echo(str(path))
    for note in notes:
        echo(f"note: {note}", err=True)


def _publish(results: Results, output: Path, records_kb: int, hide: tuple[str, ...], about: str) -> None:
    from ratematch.exchange.publish.folder import Wanted, describe, publish

    published, damaged = publish(results, output, Wanted(records_kb, hide, about))
    echo(str(output))
    for line in describe(published, output, damaged):
        echo(line, err=True)


@export.command("deployment")
@results_argument
@click.option("--at", required=True, metavar="TOK/S/USER", help='What each user shall get, e.g. "50 tok/s/user".')
@click.option("--workload", metavar="ISL/OSL", help="Which one, when RESULTS have several.")
@click.option("--cluster", metavar="NAME|FILE", help="Cluster profile [default: what it was measured on].")
@click.option("--executor", type=click.Choice(["slurm", "local"]), help="[default: slurm; local where emulated]")
@ttft_option
@tpot_option
@folder_option
@force_option
@json_option
def export_deployment(
    results: Path,
    at: str,
    workload: str | None,
    cluster: str | None,
    executor: str | None,
    ttft_ms: float | None,
    tpot_ms: float | None,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Write the deployment that RESULTS recommend, ready to run: worker and orchestrator YAML, run.sh, job.sbatch.

    deployment.json says what is known of it, and whether it was measured or predicted. Where srt-slurm can start the
    same servers, frontends and load, they are in recipe.yaml too.

    \b
    Example:
        ratematch export deployment results/sample --at "50 tok/s/user" --cluster gb200-nvl72 -o deploy
    """
    from ratematch.errors import UserError
    from ratematch.inputs.find import read_cluster
    from ratematch.match.question import Question
    from ratematch.report import collect, deployment

    targets = collect.parse_targets(at)
    if len(targets) != 1:
        raise UserError(f"--at {at}: one speed, for one deployment")
    files = deployment.export_deployment(
        results,
        targets[0],
        workload=workload,
        cluster=read_cluster(cluster) if cluster else None,
        allocated=None if executor is None else executor == "slurm",
        question=Question(ttft_ms, tpot_ms),
    )
    written = deployment.write_handover(files, output, force=force)
    facts = deployment.describe(files.workload, files.recommendation, files.experiment, files.cluster)
    if as_json:
        print_json(facts | {"files": [str(path) for path in written]})
        return
    about = f"{facts['figures_are']} figures, {facts['origin']}"
    echo(f"{facts['deployment']} for {targets[0]:g} tok/s/user ({about})", err=True)
    for path in written:
        echo(str(path))


@export.command("recipe")
@click.argument("sweep")
@set_option
@cluster_option
@click.option("--experiment", metavar="ID", help="Only this one: its id, or a part of its folder's name.")
@click.option("--schema", type=click.Choice(["1", "2"]), default="2", show_default=True, help="Layout of srt-slurm.")
@folder_option
@force_option
@json_option
def export_recipe(
    sweep: str,
    overrides: tuple[str, ...],
    cluster: str | None,
    experiment: str | None,
    schema: str,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Write the whole deployments of SWEEP as recipes of srt-slurm: servers, Dynamo's frontends or the orchestrator,
    environment, infrastructure and load. Imported again, they are the same.

    \b
    Example:
        ratematch export recipe my-recipe -o recipes
        srtctl apply -f recipes/my-recipe.yaml
    """
    from ratematch.campaign.precheck import expand_sweep
    from ratematch.exchange.recipes.fromexperiment import export_recipes
    from ratematch.inputs.find import read_sweep
    from ratematch.run.render import choose
    from ratematch.store.files import write_new

    parsed, _ = read_sweep(sweep, overrides, cluster)
    chosen = choose(expand_sweep(parsed).experiments, experiment)
    exported = export_recipes(parsed.name, chosen, parsed.cluster, 1 if schema == "1" else 2)
    files = {output / name: text for name, text in exported.files.items()}
    write_new(files, force=force)
    if as_json:
        paths = [str(path) for path in files]
        print_json({"files": paths, "notes": list(exported.notes), "left_out": list(exported.left_out)})
        return
    for path in files:
        echo(str(path))
    for line in (*(f"note: {note}" for note in exported.notes), *(f"left out: {why}" for why in exported.left_out)):
        echo(line, err=True)
