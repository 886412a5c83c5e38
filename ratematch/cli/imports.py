"""Verbs that read other tools' files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ratematch.cli.group import echo, main, print_json
from ratematch.cli.options import (
    GIVEN,
    NODES,
    PATH,
    RATE,
    REQUESTS,
    Whole,
    json_option,
)

if TYPE_CHECKING:
    from ratematch.exchange.results.foreign import Hints


@main.group(name="import")
def import_() -> None:
    """Turn files of other tools into ratematch's."""


@import_.command("recipe")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("-o", "--output", type=PATH, help="Sweep file, or folder for several [default: stdout].")
@click.option("--into", type=PATH, help="One sweep file with all recipes as deployments.")
@click.option("--model", help="Model that the recipes serve, when their path does not tell.")
@click.option("--cluster", metavar="NAME|FILE", help="Cluster profile [default: the first with its GPUs].")
@click.option("--engine", type=click.Choice(["dynamo", "trtllm-serve"]), help="[default: the recipe's]")
@click.option("--engine-version", help="Of Dynamo, or of trtllm-serve [default: as the recipe names it].")
@click.option("--backend-version", help="Of TensorRT-LLM behind Dynamo [default: named, or Dynamo's own].")
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
    engine: str | None,
    engine_version: str | None,
    backend_version: str | None,
    workload: str | None,
    concurrency: str,
    force: bool,
    as_json: bool,
) -> None:
    """Turn recipes of srt-slurm (trtllm) or TensorRT-LLM's slurm/benchmark into sweep files.

    The sweep runs the same worker configurations, key for key, behind Dynamo where the recipe has it: its frontends,
    arguments, environment, planes and release. --engine trtllm-serve starts the native servers instead. On stderr
    stand what `plan` will refuse, combinations of a sweep that were left out, notes with every change, and what has
    no counterpart. FILE:VARIANT picks from a file with overrides.

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
        backend_version=backend_version,
        engine=engine,
        workload=parse_workload(workload) if workload else None,
        concurrency=parse_numbers(concurrency),
    )
    imported = import_files(files, choices, output=output, into=into, force=force)
    if as_json:
        print_json({"sweeps": [imported_to_json(sweep) for sweep in imported]})
        return
    for sweep in imported:
        echo(sweep.text if sweep.path is None else str(sweep.path), nl=sweep.path is not None)
        for line in sweep.messages():
            echo(line, err=True)


@import_.command("results")
@click.argument("files", nargs=-1, required=True, type=GIVEN, metavar="FILE...")
@click.option("--into", type=PATH, help="Results folder, made when it is new.")
@click.option("-o", "--output", type=PATH, help="Table of rates for `ratematch match`, instead.")
@click.option(
    "--stage", type=click.Choice(["ctx", "gen", "ifb", "e2e"]), help="What was measured [default: by servers]."
)
@click.option("--ctx", metavar="NxMAPPING", help="Context servers, such as 2xDEP4.")
@click.option("--gen", metavar="NxMAPPING", help="Generation servers.")
@click.option("--agg", metavar="NxMAPPING", help="Aggregated servers.")
@click.option("--mtp", type=Whole(0, 100), help="Draft tokens a step, 0 for none.")
@click.option("--model", help="Instead of what the files say.")
@click.option("--gpu", help="GPU type, such as gb200.")
@click.option("--engine", metavar="NAME/VERSION", help="Such as trtllm-serve/1.2 or vllm/0.24.")
@click.option("--workload", metavar="ISL/OSL", help="Mean lengths in tokens, instead of what the files say.")
@click.option("--concurrency", type=REQUESTS, help="Closed loop: requests in flight.")
@click.option("--request-rate", type=RATE, help="Open loop: requests/s.")
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
    **given: Any,
) -> None:
    """Import measurements of AIPerf, benchmark_serving (TensorRT-LLM, vLLM, SGLang, sa-bench) and InferenceX.

    Into a results folder (--into), where every analysis says that they are imported; or, with AIConfigurator's CSV
    too, into a table of rates (-o). Which tool wrote a file is found out; what it does not say must be given, and is
    never guessed. Figures that contradict each other (Little's law, GPUs, zeros) are left off, with the reason.

    \b
    Example:
        ratematch import results profile_export.jsonl --into results/aiperf --agg DEP8 --mtp 0 --concurrency 64 \\
            --model deepseek-r1 --gpu h200 --engine trtllm-serve/1.2 --real
        ratematch import results pareto.csv -o rates.csv && ratematch match rates.csv
    """
    from ratematch.errors import UserError

    if (into is None) == (output is None):
        raise UserError("say where to: --into results/NAME, or -o rates.csv")
    hints = _read_hints(real, **given)
    if output is not None:
        _import_table(files, hints, stage, output, as_json)
    elif into is not None:
        _import_loads(files, hints, stage, into, mix, as_json)


def _read_hints(real: bool | None, *, workload: str | None, **given: Any) -> Hints:
    """What the options say of a deployment and a load, to stand above what the files say."""
    from ratematch.exchange.recipes.choices import parse_workload
    from ratematch.exchange.results.foreign import Hints, parse_servers

    isl, osl = parse_workload(workload, least_osl=1) if workload else (None, None)
    servers: dict[str, Any] = {
        role: parse_servers(text) for role in ("ctx", "gen", "agg") if (text := given.pop(role))
    }
    return Hints(isl=isl, osl=osl, emulated=None if real is None else not real, **servers, **given)


def _import_table(files: tuple[Path, ...], hints: Hints, stage: Any, output: Path, as_json: bool) -> None:
    from ratematch.exchange.results.rates import import_rates, rates_to_rows
    from ratematch.show.tables import to_csv
    from ratematch.store.files import write_aside

    rates, notes = import_rates(files, hints, None if stage == "e2e" else stage)
    write_aside(output, to_csv(*rates_to_rows(rates)).encode("utf-8"))
    if as_json:
        print_json({"table": str(output), "rows": len(rates), "notes": notes})
        return
    echo(str(output))
    for note in notes:
        echo(f"note: {note}", err=True)


def _import_loads(files: tuple[Path, ...], hints: Hints, stage: Any, into: Path, mix: bool, as_json: bool) -> None:
    from ratematch.errors import UserError
    from ratematch.exchange.results import ingest

    imported, skipped = ingest.import_results(files, hints, into, stage=stage, mix=mix)
    if as_json:
        rows = [
            {
                "source": load.source,
                "folder": str(load.folder),
                "valid": load.valid,
                "missing": list(load.missing),
                "findings": list(load.findings),
            }
            for load in imported
        ]
        print_json({"imported": rows, "skipped": [{"source": load.source, "why": load.why} for load in skipped]})
    for load in () if as_json else imported:
        echo(f"{load.source} -> {load.folder}" + ("" if load.valid else " (not valid)"))
        if load.missing:
            echo(f"note: {load.source}: not in the file: {', '.join(load.missing)}", err=True)
        for finding in load.findings:
            echo(f"note: {load.source}: {finding}", err=True)
    for left_out in skipped:
        echo(f"skipped: {left_out.source}: {left_out.why}", err=True)
    if not imported:
        unknown = any(load.why.startswith("not known") for load in skipped)
        say = ": say what the files do not, with the options named above" if unknown else ", for the reasons above"
        raise UserError(f"nothing was imported{say}")


@import_.command("cluster")
@click.argument("file", type=GIVEN)
@click.option("-o", "--output", type=PATH, help="Profile to write [default: stdout].")
@click.option("--gpu", help="GPU type, when the file names none.")
@click.option("--nodes", type=NODES, help="Nodes a deployment may use.")
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

    profile = import_cluster(file, SiteChoices(gpu=gpu, nodes=nodes, container=container, name=name))
    if output is not None:
        if output.exists() and not force:
            raise RecipeError([Problem(str(output), "is there already", "--force overwrites it")])
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(profile.text, encoding="utf-8")
    if as_json:
        left = [{"where": part.where, "value": part.value, "why": part.why} for part in profile.unsupported]
        print_json({"name": profile.name, "profile": profile.text, "notes": list(profile.notes), "left": left})
        return
    echo(profile.text if output is None else str(output), nl=output is not None)
    for line in profile.messages():
        echo(line, err=True)
