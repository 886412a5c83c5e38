"""Verbs about this machine and what runs on it."""

from __future__ import annotations

import sys

import click
from rich.console import Console

from ratematch.cli.group import json_option, main, print_json


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def emulate(arguments: tuple[str, ...]) -> None:
    """A stand-in for the command trtllm-serve on machines without GPUs.

    \b
    Example:
        ratematch emulate serve deepseek-r1 --port 8001 --extra_llm_api_options worker.yaml
    """
    from ratematch.emulator.command import main as emulator

    emulator(list(arguments))


@main.command()
@click.option("--cluster", help="Check this cluster profile too.")
@json_option
def doctor(cluster: str | None, as_json: bool) -> None:
    """Check this machine: versions, free disk, ports, the cluster profile.

    \b
    Example:
        ratematch doctor --cluster laptop
    """
    from ratematch.run.doctor import examine
    from ratematch.show.console import table

    found = examine(cluster)
    if as_json:
        print_json({"ok": all(check.ok for check in found), "checks": [check.__dict__ for check in found]})
    else:
        console = Console()
        console.print(
            table(
                "ratematch doctor", ["check", "", "found"], [(c.name, "ok" if c.ok else "NO", c.found) for c in found]
            )
        )
    sys.exit(0 if all(check.ok for check in found) else 1)
