"""The command line of ``trtllm-serve`` as data, and what a given installation's own ``--help`` says about it.

Importing TensorRT-LLM prints a line with its version, so the output of every command of it begins with the version.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache

from ratematch.engines.ownyaml import read_shipped_yaml
from ratematch.engines.trtllm_serve.contract import Rule, release_line, there
from ratematch.engines.trtllm_serve.release import read_version
from ratematch.plan.cluster import Cluster
from ratematch.plan.finding import Finding

BANNER = "[TensorRT-LLM] TensorRT-LLM version: "

# A usage text names other commands' options in its prose; options stand at the beginning of a line or after a comma.
_OPTION = re.compile(r"(?:^\s+|, |/ ?)(--?[A-Za-z][\w-]*)", re.MULTILINE)


@cache
def _data() -> dict[str, dict[str, Rule]]:
    content: dict[str, dict[str, Rule]] = read_shipped_yaml(__package__, "contract-command.yaml")
    return content


def command_options(subcommand: str, version: str) -> dict[str, tuple[str, ...]]:
    """Options of a subcommand in a version, by their main spelling, with all spellings.

    Raises:
        ValueError: the version is not known.
    """
    release = read_version(version)
    return {
        flag: (flag, *rule.get("also", ()))
        for flag, rule in _data()[subcommand].items()
        if there(rule, release) is not False
    }


def config_flag(version: str) -> str:
    """The option that names the YAML file: both spellings are known to most versions, this one to all of its line."""
    return "--extra_llm_api_options" if release_line(version) == "1.2" else "--config"


def engine_command(cluster: Cluster) -> tuple[str, ...]:
    """What starts ``trtllm-serve``, or the emulator in its place."""
    own = (sys.executable, "-m", "ratematch.emulator") if cluster.emulated else ("trtllm-serve",)
    return cluster.command or own


def engine_launcher(cluster: Cluster) -> tuple[str, ...]:
    """What hands the ranks that Slurm started to a worker."""
    if cluster.launcher is not None:
        return cluster.launcher
    return (
        (sys.executable, "-m", "ratematch.emulator.llmapi_launch") if cluster.emulated else ("trtllm-llmapi-launch",)
    )


def probe_commands(command: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What to run on a node to learn what is installed there; ``command`` starts ``trtllm-serve``."""
    return {name: (*command, name, "--help") for name in ("serve", "disaggregated")}


def judge_probe(answers: Mapping[str, str]) -> list[Finding]:
    """The output of :func:`probe_commands`, compared with the contract of the version that it names."""
    banner = next((text for text in answers.values() if BANNER in text), None)
    if banner is None:
        last = " ".join(next(iter(answers.values()), "").split())[-200:]
        return [Finding("version", False, f"no command printed a version; its output: {last or 'nothing'}")]
    version = banner.partition(BANNER)[2].split()[0]
    try:
        line = release_line(version)
    except ValueError as error:
        return [Finding("version", False, str(error))]
    findings = [Finding("version", True, f"{version}: set engine.version: {_quoted(line)} in the sweep")]
    return [*findings, *(_judge(name, text, line) for name, text in answers.items())]


def _judge(subcommand: str, text: str, line: str) -> Finding:
    there = set(_OPTION.findall(text))
    known = command_options(subcommand, line)
    spelled = {spelling for spellings in known.values() for spelling in spellings}
    if lost := sorted(needed(subcommand, line) - there):
        return Finding(subcommand, False, f"--help does not name {', '.join(lost)}, which servers are started with")
    missing = sorted(flag for flag, spellings in known.items() if there.isdisjoint(spellings))
    new = sorted(there - spelled - {"--help", "-h"})
    parts = [f"{len(known) - len(missing)} of {len(known)} known options"]
    parts += [f"not there: {', '.join(missing)}"] if missing else []
    parts += [f"not known here: {', '.join(new)}"] if new else []
    return Finding(subcommand, True, "; ".join(parts))


def needed(subcommand: str, version: str) -> set[str]:
    """Options that rendered commands use."""
    return {"--host", "--port", config_flag(version)} if subcommand == "serve" else {"-c", "-t", "-r"}


def _quoted(line: str) -> str:
    return f'"{line}"' if line[0].isdigit() else line
