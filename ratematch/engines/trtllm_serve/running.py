"""What ready servers run, by their logs, where the engine may choose otherwise than their files say."""

from __future__ import annotations

from collections.abc import Mapping

from ratematch.engines.trtllm_serve.precheck import read_config
from ratematch.engines.trtllm_serve.transceiver import RUNTIME, WHERE, read_transceiver
from ratematch.measure.serverlog import Running
from ratematch.plan.launchplan import LaunchPlan


def read_running(plan: LaunchPlan, logs: Mapping[str, str]) -> Running:
    """The KV transceiver of each context and generation server, and whether it is the one that its file names.

    ``auto`` and a runtime that is not written leave the choice to the engine, so nothing is said against it.
    """
    files = {file.path: file.content for file in plan.files}
    choices: dict[str, dict[str, str]] = {}
    notes: list[str] = []
    for spec in plan.processes:
        if spec.role not in ("ctx", "gen") or (runs := read_transceiver(logs.get(spec.name, ""))) is None:
            continue
        choices[spec.name] = {RUNTIME: runs}
        block = read_config(files[f"{spec.role}.yaml"]).get(WHERE) or {}
        written = block.get("transceiver_runtime")
        if written in ("CPP", "PYTHON") and runs != written:
            notes.append(f"{spec.name}: its log shows KV transceiver {runs}, and {spec.role}.yaml says {written}")
    both = {runs[RUNTIME] for runs in choices.values()}
    if len(both) > 1:
        each = ", ".join(f"{name} {runs[RUNTIME]}" for name, runs in choices.items())
        notes.append(f"servers of one deployment run different KV transceivers: {each}")
    return Running(choices, tuple(notes))
