"""Verbs about this machine and what runs on it."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import click

from ratematch.cli.group import echo, main, print_json, stdout_console
from ratematch.cli.options import Given, json_option


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def emulate(arguments: tuple[str, ...]) -> None:
    """A stand-in for the command trtllm-serve on machines without GPUs.

    \b
    Example:
        ratematch emulate serve deepseek-r1 --port 8001 --extra_llm_api_options worker.yaml
    """
    from ratematch.emulator.trtllm.command import main as emulator

    emulator(list(arguments))


@main.command()
@click.option("--cluster", metavar="NAME|FILE", help="Check this cluster profile too, and the Slurm it names.")
@click.option("--probe", is_flag=True, help="Also send a job of one node, and look at what it finds there.")
@click.option("--certify", is_flag=True, help="Instead: a short job that looks at each of --nodes nodes.")
@click.option("--nodes", type=click.IntRange(min=1), help="How many nodes --certify looks at.", show_default="2")
@click.option(
    "--folder",
    type=Given(exists=True, file_okay=False),
    default=".",
    help="Where results will go.",
    show_default="here",
)
@click.option(
    "--engine", metavar="NAME", default="trtllm-serve", help="Whose command is looked for.", show_default=True
)
@json_option
def doctor(
    cluster: str | None, probe: bool, certify: bool, nodes: int | None, folder: Path, engine: str, as_json: bool
) -> None:
    """Check this machine, and with --cluster what can be seen of that site from here.

    --certify looks at nodes themselves, before money is spent on them: GPUs, ECC, clocks under load, NVLink and
    IMEX domains, an all-reduce over all, KV transfer back-ends, the start of the image, disk, ports and clocks. Nodes
    found bad stay out of further jobs until --certify finds them good.

    \b
    Example:
        ratematch doctor --cluster gb200-nvl72 --probe
        ratematch doctor --cluster gb200-nvl72 --certify --nodes 18
    """
    from ratematch.campaign.doctor import examine
    from ratematch.show.console import table

    if certify and (cluster is None or probe):
        raise click.UsageError("--certify sends a job of its own to a cluster: name its profile with --cluster")
    if nodes is not None and not certify:
        raise click.UsageError("--nodes says how many nodes --certify looks at")
    if certify:
        assert cluster is not None
        _certify(cluster, nodes, folder, as_json)
    if probe and cluster is None:
        raise click.UsageError("--probe sends a job to a cluster: name its profile with --cluster")
    if probe:
        echo("the probe waits for a node of the cluster; Ctrl-C gives it up", err=True)
    checks = examine(cluster, probing=probe, folder=folder, engine=engine)
    if as_json:
        print_json({"ok": all(check.ok for check in checks), "checks": [check.__dict__ for check in checks]})
    else:
        rows = [(check.name, "ok" if check.ok else "NO", check.found) for check in checks]
        stdout_console().print(table("ratematch doctor", ["check", "", "found"], rows))
    sys.exit(0 if all(check.ok for check in checks) else 1)


def _certify(cluster: str, nodes: int | None, folder: Path, as_json: bool) -> NoReturn:
    from ratematch.campaign import doctor as checks
    from ratematch.show.console import table

    echo("the check waits for nodes of the cluster; Ctrl-C gives it up", err=True)
    found = checks.certify(cluster, nodes, folder=folder)
    if as_json:
        together = [asdict(finding) for finding in found.together]
        listed = [asdict(verdict) | {"ok": verdict.ok} for verdict in found.nodes]
        print_json({"ok": found.ok, "nodes": listed, "checks": together, "kept": found.kept and str(found.kept)})
        sys.exit(0 if found.ok else 1)
    columns = ("GPUs", "ECC", "clock", "NVLink", "image", "disk", "network")
    rows = [
        (verdict.node, "ok" if verdict.ok else "BAD", *(getattr(verdict, name.lower()) for name in columns))
        for verdict in found.nodes
    ]
    stdout_console().print(table("nodes", ["node", "", *columns], rows))
    for verdict in found.nodes:
        for problem in verdict.problems:
            echo(f"{verdict.node}: {problem}")
    rows = [(finding.name, "ok" if finding.ok else "NO", finding.found) for finding in found.together]
    stdout_console().print(table("together", ["check", "", "found"], rows))
    if found.kept:
        echo(f"bad nodes stay out of further jobs until --certify finds them good, or {found.kept} is deleted")
    sys.exit(0 if found.ok else 1)


@main.command()
@click.argument("logs", nargs=-1, required=True, type=Given(exists=True))
@json_option
def diagnose(logs: tuple[Path, ...], as_json: bool) -> None:
    """Name the cause of a failure from server LOGS (files, or folders with them), whoever started the servers.

    Warnings, errors that were got round and what only follows from something else are left out; docs/diagnosis.md has
    the causes that are known.

    \b
    Example:
        ratematch diagnose results/deepseek-r1/gen-8192-256-gen1xDEP8-mtp3-1f0c/launch/1
    """
    from ratematch.engines import diagnose_logs
    from ratematch.run.givenlogs import find_given_logs, read_given_logs

    files = find_given_logs(logs)
    texts, problems = read_given_logs(files)
    for problem in problems:
        echo(f"note: {problem}", err=True)
    known, reference = diagnose_logs(texts)
    if as_json:
        print_json(
            {"logs": [str(file) for file in files], "known": known is not None, **(asdict(known) if known else {})}
        )
    elif known:
        echo(f"cause: {known.cause}\nremedy: {known.remedy}\nknown from: {reference}, {known.reference}")
        if known.general:
            echo("this mostly follows from something that these logs do not show: look at those of other ranks")
    else:
        echo(f"no known cause in {len(texts)} logs")
    sys.exit(0 if known else 1)
