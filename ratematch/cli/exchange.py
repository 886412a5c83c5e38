"""Verbs that read and write other tools' files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ratematch.cli.group import json_option, main, print_json


@main.group(name="import")
def import_() -> None:
    """Turn files of other tools into ratematch's."""


@import_.command("recipe")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Sweep file, or folder for several [default: stdout]."
)
@click.option("--into", type=click.Path(path_type=Path), help="One sweep file with all recipes as deployments.")
@click.option("--model", help="Model that the recipes serve, when their path does not tell.")
@click.option("--cluster", help="Cluster profile [default: the first with the recipe's GPUs].")
@click.option("--engine-version", help="TensorRT-LLM version [default: from the container's name, else 1.2].")
@click.option("--workload", metavar="ISL/OSL", help="For recipes that name no lengths.")
@click.option("--concurrency", default="", help="For recipes that name no load: 1,4,16.")
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
@json_option
def import_recipe(
    files: tuple[str, ...],
    output: Path | None,
    into: Path | None,
    model: str | None,
    cluster: str | None,
    engine_version: str | None,
    workload: str | None,
    concurrency: str,
    force: bool,
    as_json: bool,
) -> None:
    """Turn recipes of srt-slurm (trtllm) or TensorRT-LLM's slurm/benchmark into sweep files.

    The sweep runs the same worker configurations, key for key; what has no counterpart is listed on stderr.
    FILE:VARIANT picks from a file with overrides.

    \b
    Example:
        ratematch import recipe ctx1_gen4_tep8.yaml -o sweeps/my-recipe.yaml
        ratematch plan my-recipe
    """
    from ratematch.exchange.recipes.choices import Choices, parse_numbers, parse_workload
    from ratematch.exchange.recipes.convert import import_files, imported_to_json

    choices = Choices(
        model=model,
        cluster=cluster,
        version=engine_version,
        workload=parse_workload(workload) if workload else None,
        concurrency=parse_numbers(concurrency),
    )
    imported = import_files(files, choices, output=output, into=into, force=force)
    if as_json:
        print_json({"sweeps": [imported_to_json(each) for each in imported]})
    for each in imported:
        if as_json:
            continue
        if each.path is None:
            click.echo(each.text, nl=False)
        else:
            click.echo(str(each.path))
        for line in each.messages():
            click.echo(line, err=True)


@import_.command("results")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--into", type=click.Path(path_type=Path), help="Results folder, made when it is new.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Table of rates for `ratematch match`, instead."
)
@click.option(
    "--stage", type=click.Choice(["ctx", "gen", "ifb", "e2e"]), help="What was measured [default: by servers]."
)
@click.option("--ctx", metavar="NxMAPPING", help="Context servers, such as 2xDEP4.")
@click.option("--gen", metavar="NxMAPPING", help="Generation servers.")
@click.option("--agg", metavar="NxMAPPING", help="Aggregated servers.")
@click.option("--mtp", type=click.IntRange(0), help="Draft tokens a step, 0 for none.")
@click.option("--model", help="Instead of what the files say.")
@click.option("--gpu", help="GPU type, such as gb200.")
@click.option("--engine", metavar="NAME/VERSION", help="Such as trtllm-serve/1.2 or vllm/0.24.")
@click.option("--workload", metavar="ISL/OSL", help="Mean lengths in tokens, instead of what the files say.")
@click.option("--concurrency", type=click.IntRange(1), help="Closed loop: requests in flight.")
@click.option("--request-rate", type=click.FloatRange(0, min_open=True), help="Open loop: requests/s.")
@click.option("--real/--emulated", "real", default=None, help="Did real GPUs stand behind the figures?")
@click.option("--mix", is_flag=True, help="Into a folder with loads that another tool measured.")
@json_option
def import_results(
    files: tuple[Path, ...],
    into: Path | None,
    output: Path | None,
    stage: Any,
    real: bool | None,
    mix: bool,
    as_json: bool,
    **said: Any,
) -> None:
    """Import measurements of AIPerf, benchmark_serving (TensorRT-LLM, vLLM, sa-bench) and InferenceX.

    Into a results folder (--into), where every analysis says that they are imported; or, with AIConfigurator's CSV
    too, into a table of rates (-o). Which tool wrote a file is found out; what it does not say must be given, and is
    never guessed.

    \b
    Example:
        ratematch import results profile_export.jsonl --into results/aiperf --agg DEP8 --mtp 0 --concurrency 64 \\
            --model deepseek-r1 --gpu h200 --engine trtllm-serve/1.2 --real
        ratematch import results pareto.csv -o rates.csv && ratematch match rates.csv
    """
    from ratematch.errors import UserError
    from ratematch.exchange.recipes.choices import parse_workload
    from ratematch.exchange.results import ingest
    from ratematch.exchange.results.foreign import Hints, parse_servers
    from ratematch.show.tables import to_csv
    from ratematch.store.files import write_aside

    if (into is None) == (output is None):
        raise UserError("say where to: --into results/NAME, or -o rates.csv")
    workload = parse_workload(said["workload"]) if said["workload"] else None
    hints = Hints(
        model=said["model"],
        gpu=said["gpu"],
        engine=said["engine"],
        isl=workload[0] if workload else None,
        osl=workload[1] if workload else None,
        concurrency=said["concurrency"],
        request_rate=said["request_rate"],
        mtp=said["mtp"],
        emulated=None if real is None else not real,
        **{role: parse_servers(said[role]) for role in ("ctx", "gen", "agg") if said[role]},
    )
    if output is not None:
        rates, notes = ingest.import_rates(files, hints, None if stage == "e2e" else stage)
        write_aside(output, to_csv(*ingest.rates_to_rows(rates)).encode("utf-8"))
        if as_json:
            print_json({"table": str(output), "rows": len(rates), "notes": notes})
        else:
            click.echo(str(output))
            for note in notes:
                click.echo(f"note: {note}", err=True)
        return
    assert into is not None
    imported, skipped = ingest.import_results(files, hints, into, stage=stage, mix=mix)
    if as_json:
        rows = [
            {"source": e.source, "folder": str(e.folder), "valid": e.valid, "missing": list(e.missing)}
            for e in imported
        ]
        print_json({"imported": rows, "skipped": [{"source": s.source, "why": s.why} for s in skipped]})
    for each in () if as_json else imported:
        click.echo(f"{each.source} -> {each.folder}" + ("" if each.valid else " (not valid)"))
        if each.missing:
            click.echo(f"note: {each.source}: not in the file: {', '.join(each.missing)}", err=True)
    for left in skipped:
        click.echo(f"skipped: {left.source}: {left.why}", err=True)
    if not imported:
        raise UserError("nothing was imported: say what the files do not, with the options named above")


@main.group()
def export() -> None:
    """Write results in the formats of other tools, or as files that are ready to run."""


@export.command("results")
@click.argument("results", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["aiperf", "benchmark-serving", "inferencex", "csv"]),
    required=True,
    help="Whose files.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder, made when it is new.")
def export_results(results: Path, form: Any, output: Path) -> None:
    """Write RESULTS as AIPerf, benchmark_serving or InferenceX files, or as CSV. Emulated figures say so in each
    file.

    \b
    Example:
        ratematch export results results/sample --format aiperf -o artifacts
    """
    from ratematch.exchange.results.export import export_results as write
    from ratematch.store.folder import Results

    written, notes = write(Results.open(results), form, output)
    for path in written:
        click.echo(str(path))
    for note in notes:
        click.echo(f"note: {note}", err=True)


@export.command("deployment")
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--at", required=True, metavar="TOK/S/USER", help='What each user shall get, e.g. "50 tok/s/user".')
@click.option("--workload", metavar="ISL/OSL", help="Which one, when RESULTS have several.")
@click.option("--cluster", metavar="NAME|FILE", help="Cluster profile [default: what it was measured on].")
@click.option("--executor", type=click.Choice(["slurm", "local"]), help="[default: slurm; local where emulated]")
@click.option("--ttft-ms", type=click.FloatRange(0, min_open=True), help="TTFT limit instead of the sweep's.")
@click.option("--tpot-ms", type=click.FloatRange(0, min_open=True), help="TPOT limit instead of the sweep's.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder, made when it is new.")
@click.option("--force", is_flag=True, help="Overwrite files that say something else.")
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

    deployment.json says what is known of it, and whether it was measured or predicted.

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
    found = deployment.export_deployment(
        results,
        targets[0],
        workload=workload,
        cluster=read_cluster(cluster) if cluster else None,
        allocated=None if executor is None else executor == "slurm",
        question=Question(ttft_ms, tpot_ms),
    )
    written = deployment.write_handover(found, output, force=force)
    told = deployment.describe(found.workload, found.found, found.experiment, found.cluster)
    if as_json:
        print_json(told | {"files": [str(path) for path in written]})
        return
    about = f"{told['figures_are']} figures, {told['origin']}"
    click.echo(f"{told['deployment']} for {targets[0]:g} tok/s/user ({about})", err=True)
    for path in written:
        click.echo(str(path))


@import_.command("cluster")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Profile to write [default: stdout].")
@click.option("--gpu", help="GPU type, when the file names none.")
@click.option("--nodes", type=click.IntRange(1), help="Nodes a deployment may use.")
@click.option("--container", help="Which container of the file, or the path of an image.")
@click.option("--name", help="Name of the profile [default: the file's cluster].")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@json_option
def import_site(
    file: Path,
    output: Path | None,
    gpu: str | None,
    nodes: int | None,
    container: str | None,
    name: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Turn srt-slurm's srtslurm.yaml into a cluster profile; what has no counterpart is listed on stderr.

    \b
    Example:
        ratematch import cluster srtslurm.yaml --gpu gb200 -o slurm/clusters/rack.yaml
        ratematch doctor --cluster rack
    """
    from ratematch.errors import Problem, RecipeError
    from ratematch.exchange.recipes.srtcluster import SiteChoices, import_cluster

    found = import_cluster(file, SiteChoices(gpu=gpu, nodes=nodes, container=container, name=name))
    if output is not None:
        if output.exists() and not force:
            raise RecipeError([Problem(str(output), "is there already", "--force overwrites it")])
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(found.text, encoding="utf-8")
    if as_json:
        left = [{"where": each.where, "value": each.value, "why": each.why} for each in found.left]
        print_json({"name": found.name, "profile": found.text, "notes": list(found.notes), "left": left})
        return
    click.echo(found.text if output is None else str(output), nl=output is not None)
    for line in found.messages():
        click.echo(line, err=True)
