"""What a given installation says about itself: ``vllm --version``, and the flags in ``vllm serve --help=all``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ratematch.engines.vllm.contract import release_line, serve_flags
from ratematch.plan.finding import Finding

# A usage text names other flags in its prose; flags stand at the beginning of a line or after a comma.
_OPTION = re.compile(r"(?:^\s+|, )--([A-Za-z][\w-]*)", re.MULTILINE)

_VERSION = re.compile(r"\b(\d+\.\d+\.\d+\S*)\s*$")

NEEDED = ("host", "port", "max-num-seqs", "max-num-batched-tokens", "max-model-len", "kv-transfer-config")
"""Flags that every rendered command may use."""


def probe_commands(command: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What to run on a node to learn what is installed there; ``command`` starts ``vllm``."""
    return {"version": (*command, "--version"), "serve": (*command, "serve", "--help=all")}


def judge_probe(answers: Mapping[str, str]) -> list[Finding]:
    """The output of :func:`probe_commands`, compared with what is known of the version that it names."""
    output = answers.get("version", "").strip()
    version = next((match[1] for line in reversed(output.splitlines()) if (match := _VERSION.search(line))), None)
    if version is None:
        last = " ".join(output.split())[-200:]
        return [Finding("version", False, f"vllm --version printed no version; its output: {last or 'nothing'}")]
    try:
        line = release_line(version)
    except ValueError as error:
        return [Finding("version", False, str(error))]
    advice = f'{version}: set engine: {{name: vllm, version: "{line}"}} in the sweep'
    return [Finding("version", True, advice), _judge_flags(answers.get("serve", ""), line)]


def _judge_flags(text: str, line: str) -> Finding:
    there = {name.removeprefix("no-") for name in _OPTION.findall(text)}
    known = serve_flags(line)
    if lost := sorted(set(NEEDED) - there):
        named = ", ".join(f"--{name}" for name in lost)
        return Finding("serve", False, f"--help=all does not name {named}, which servers are started with")
    missing = sorted(set(known) - there)
    new = sorted(there - set(known) - {"help"})
    parts = [f"{len(known) - len(missing)} of {len(known)} known flags"]
    parts += [f"not there: {', '.join(missing)}"] if missing else []
    parts += [f"not known here: {', '.join(new)}"] if new else []
    return Finding("serve", True, "; ".join(parts))
