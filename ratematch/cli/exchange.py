"""Verbs that read and write other tools' files."""

from __future__ import annotations

from pathlib import Path

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
    from ratematch.exchange.choices import Choices, parse_numbers, parse_workload
    from ratematch.exchange.imports import import_files, imported_to_json

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
    from ratematch.exchange.srtcluster import SiteChoices, import_cluster

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
