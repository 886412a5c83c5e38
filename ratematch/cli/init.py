"""The verb for a new site: its first files."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ratematch.cli.group import echo, main, print_json
from ratematch.cli.options import json_option

if TYPE_CHECKING:
    from ratematch.setup.answers import Given, NotSaid
    from ratematch.setup.firstsite import FirstFiles

PROFILES = Path("slurm") / "clusters"


def on_terminal() -> bool:
    """Is somebody there to be asked?"""
    return sys.stdin.isatty()


def answer(given: Given, missing: NotSaid) -> Given:
    """``given`` with what a person types."""
    if missing.field == "gpus_per_node":
        return replace(given, gpus_per_node=click.prompt(missing.question, type=click.IntRange(1, 1024), err=True))
    typed: str = click.prompt(missing.question, err=True)
    return replace(given, gpu=typed) if missing.field == "gpu" else replace(given, partition=typed)


def print_next(made: FirstFiles) -> None:
    """What was written, and what to type now."""
    echo(f"{made.profile}: what this site is; read it once")
    echo(f"{made.sweep}: a first sweep")
    echo("next:")
    for words in (f"doctor --cluster {made.name}", f"plan {made.sweep}", f"sweep {made.sweep}"):
        echo(f"  ratematch {words}")


def _ask_model() -> str:
    from ratematch.inputs.catalog import model_names

    if not on_terminal():
        raise click.UsageError(f"which model? --model is one of {', '.join(model_names())}")
    return str(click.prompt("Which model (a name, or its folder)", err=True))


@main.command()
@click.option("--name", metavar="NAME", help="Of the profile.  [default: the partition's]")
@click.option("--model", metavar="NAME|PATH", help="What is served.  [asked for]")
@click.option("--weights", metavar="PATH", help="Where servers find its weights.")
@click.option("--partition", help="Slurm's.  [default: the one with GPUs]")
@click.option("--account", help="Who pays.  [default: the only one you have]")
@click.option("--gpu", metavar="TYPE", help="As in h200.  [default: what Slurm calls it]")
@click.option("--gpus-per-node", type=click.IntRange(1, 1024), help="[default: what Slurm says]")
@click.option("--nodes", type=click.IntRange(1, 100_000), help="How many one deployment may use.  [default: all]")
@click.option("--image", metavar="IMAGE", help="Container image of TensorRT-LLM, for pyxis.")
@click.option("--mount", "mounts", multiple=True, metavar="HOST:INSIDE", help="Of the container; may be repeated.")
@click.option("--mpi", metavar="FLAVOUR", help="srun --mpi.  [default: the best that srun lists]")
@click.option("--segment", type=click.IntRange(1, 100_000), help="Nodes in one NVLink domain.")
@click.option("--isl", type=click.IntRange(1, 10**7), default=1024, show_default=True, help="Prompt tokens.")
@click.option("--osl", type=click.IntRange(1, 10**7), default=1024, show_default=True, help="Answer tokens.")
@click.option("--emulated", is_flag=True, help="Servers are the emulator: to try everything without GPUs.")
@click.option("--force", is_flag=True, help="Write over files of these names.")
@json_option
def init(
    name: str | None,
    model: str | None,
    weights: str | None,
    partition: str | None,
    account: str | None,
    gpu: str | None,
    gpus_per_node: int | None,
    nodes: int | None,
    image: str | None,
    mounts: tuple[str, ...],
    mpi: str | None,
    segment: int | None,
    isl: int,
    osl: int,
    emulated: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Ask Slurm, and you, what this site is, and write a cluster profile and a first sweep.

    What Slurm says is not asked for, and every answer is an option too. Without Slurm servers run on this machine.

    \b
    Example:
        ratematch init --model qwen3-8b --weights /models/Qwen3-8B --image /images/trtllm.sqsh --mount /models:/models
    """
    from ratematch.setup.answers import Given, NotSaid
    from ratematch.setup.firstsite import set_up

    model = model or _ask_model()
    given = Given(
        name=name,
        partition=partition,
        account=account,
        gpu=gpu,
        gpus_per_node=gpus_per_node,
        nodes=nodes,
        image=image,
        mounts=mounts,
        weights=weights,
        mpi=mpi,
        segment=segment,
        emulated=emulated,
    )
    while True:
        try:
            made = set_up(given, model, isl=isl, osl=osl, folder=PROFILES, force=force)
            break
        except NotSaid as missing:
            if not on_terminal():
                raise
            given = answer(given, missing)
    if as_json:
        print_json({"profile": str(made.profile), "sweep": str(made.sweep), "cluster": made.name})
    else:
        print_next(made)
