"""How far a sweep is, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from ratematch.analysis.names import name_alike
from ratematch.show.console import table
from ratematch.show.terminal import command_line
from ratematch.store.damage import Damage, readable
from ratematch.store.folder import Results, StoredLoad
from ratematch.store.gputime import gpu_time
from ratematch.store.progress import Measuring, RunProgress, Starting, Waiting
from ratematch.store.snapshot import StoredExperiment

LOG_LINE = 100
"""Characters of a server's log line in a line of progress."""


def status_to_json(
    results: Results,
    queued: Mapping[str, str] | None = None,
    left_out: Mapping[str, str] | None = None,
    also_damaged: Sequence[Damage] = (),
    on_this_machine: Sequence[str] = (),
) -> dict[str, Any]:
    """State of every experiment and the sums over them.

    ``queued``: what the scheduler says of an experiment's job, by folder name. ``left_out``: nodes that jobs are kept
    off, and why. ``also_damaged``: files of the folder that the caller could not use.
    ``on_this_machine``: what its GPUs are doing, a line each.
    """
    stored = results.now()
    damaged = [*also_damaged, *stored.damaged]
    named = name_alike([part.experiment for part in stored.experiments])
    rows = [
        {"experiment": experiment.label}
        | _experiment_status(part, (queued or {}).get(part.folder.path.name), damaged)
        for part, experiment in zip(stored.experiments, named, strict=True)
    ]
    spent = stored.account()
    budget = _budget(results, damaged)
    states = [row["state"] for row in rows]
    return {
        "results": str(results.path),
        "emulated": any(row["emulated"] for row in rows),
        "simulated": any(row["simulated"] for row in rows),
        "states": {state: states.count(state) for state in sorted(set(states))},
        "loads_done": sum(row["loads_done"] for row in rows),
        "loads": sum(row["loads"] for row in rows),
        "gpu_hours": spent.total,
        "gpu_hours_of": {"starting": spent.starting, "measuring": spent.measuring, "idle": spent.idle},
        "gpu_hours_preparing": spent.preparing,
        "overhead": spent.overhead,
        "gpu_seconds": gpu_time(results, stored).to_json(),
        "budget_gpu_hours": budget,
        "nodes_left_out": dict(left_out or {}),
        "damaged": [damage.describe(results.path) for damage in damaged],
        "on_this_machine": list(on_this_machine),
        "experiments": rows,
    }


def _budget(results: Results, damaged: list[Damage]) -> float | None:
    """GPU-hours that the sweep may spend; ``None``: as many as it takes, or not known."""
    plan = readable(results.controller_plan, damaged)
    return plan.budget_gpu_hours if plan else None


def _experiment_status(stored: StoredExperiment, queued: str | None, damaged: list[Damage]) -> dict[str, Any]:
    experiment, folder = stored.experiment, stored.folder
    missing = len(stored.missing)
    state: str = stored.state()
    if queued and state != "running":
        state = "queued"
    outcome = stored.outcome if state in ("failed", "interrupted") else None
    progress = readable(folder.progress, damaged) if state == "running" else None
    return {
        "folder": folder.path.name,
        "stage": experiment.stage,
        "mode": experiment.mode,
        "state": state,
        "loads": len(experiment.loads),
        "loads_done": len(experiment.loads) - missing,
        "gpus": experiment.deployment.gpus,
        "gpu_hours": stored.account.total,
        "share_measuring": stored.account.measuring / stored.account.total if stored.account.total else None,
        "emulated": experiment.emulated,
        "simulated": experiment.simulated,
        "error": outcome.error if outcome else None,
        "cause": outcome.cause if outcome else None,
        "remedy": outcome.remedy if outcome else None,
        "measured": [_load_status(load) for load in stored.loads],
        "job": queued,
        "doing": describe_progress(progress) if state == "running" else queued,
    }


def _load_status(stored: StoredLoad) -> dict[str, Any]:
    """One finished load: the client's tok/s beside the servers' own, and why its requests failed, if some did."""
    figures = stored.measurement
    return {
        "load": stored.load.label,
        "valid": figures.valid,
        "tok_s": figures.tok_s,
        "tok_s_log": figures.tok_s_log,
        "acceptance_length": figures.acceptance_length,
        "failed": figures.num_failed,
        "cause": stored.run.cause,
        "remedy": stored.run.remedy,
    } | ({"beside": list(stored.run.beside)} if stored.run.beside else {})


def describe_progress(progress: RunProgress | None) -> str:
    """What a running experiment is doing, in one line."""
    if progress is None:
        return "job is starting"
    if isinstance(progress, Starting):
        waiting = progress.waiting
        if not waiting:
            return "starting servers"
        return "waiting for " + "; ".join(_describe_waiting(waiting))
    if progress.is_virtual:
        return f"{progress.load} ({progress.load_number}/{progress.loads}) in virtual time"
    ttft = f", TTFT {progress.ttft_ms:.0f} ms" if progress.ttft_ms is not None else ""
    failed = f", {progress.failed} failed" if progress.failed else ""
    return f"{describe_load(progress)}, {progress.in_flight} in flight, {progress.tok_s:.0f} tok/s{ttft}{failed}"


def _describe_waiting(waiting: Sequence[Waiting]) -> Iterator[str]:
    """Servers whose probes got the same, together: names, what it means, how long the first has been starting, and
    the last line of its log, under its name where there are several."""
    for why in dict.fromkeys(server.why for server in waiting):
        alike = [server for server in waiting if server.why == why]
        names = ", ".join(server.name for server in alike)
        first = alike[0]
        line = " ".join(first.last_line.split())
        line = line if len(line) <= LOG_LINE else f"{line[:LOG_LINE]}..."
        whose = f"{first.name} logs" if len(waiting) > 1 else "it logs"
        means = f"{first.state}, {why}" if first.state else why
        yield f"{names}: {means} ({first.seconds:.0f} s)" + (f", {whose}: {line}" if line else "")


def describe_load(progress: Measuring) -> str:
    """Which load is under way, and how far."""
    return (
        f"{progress.load} ({progress.load_number}/{progress.loads}) {progress.part} {progress.done}/{progress.total}"
    )


def print_status(content: dict[str, Any], console: Console) -> None:
    rows = [
        (
            row["experiment"],
            row["state"],
            f"{row['loads_done']}/{row['loads']}",
            row["gpus"],
            row["gpu_hours"],
            "-" if row["share_measuring"] is None else f"{row['share_measuring']:.0%}",
        )
        for row in content["experiments"]
    ]
    title = content["results"] + (
        "  (simulated)" if content["simulated"] else "  (emulated)" if content["emulated"] else ""
    )
    for line in content["damaged"]:
        console.print(Text(line, "red"), soft_wrap=True)
    if content["damaged"]:
        verify = command_line("ratematch", "verify", content["results"])
        console.print(Text(f"`{verify}` says what to measure again"), soft_wrap=True)
    console.print(table(title, ["experiment", "state", "loads", "GPUs", "GPU-hours", "measuring"], rows))
    for row in content["experiments"]:
        if row["doing"]:
            console.print(Text(f"{row['experiment']}: {row['doing']}"))
        if row["error"]:
            error = (row["error"].splitlines() or [""])[0]
            console.print(Text.assemble(f"{row['experiment']}: ", (error, "red")))
        _print_cause(row, row["experiment"], console)
        for load in row["measured"]:
            _print_cause(load, f"{row['experiment']} {load['load']}: {load['failed']} requests failed", console)
    states = ", ".join(f"{count} {state}" for state, count in content["states"].items())
    done = f"{content['loads_done']} of {content['loads']} loads measured"
    spent = content["gpu_hours_of"]
    for node, why in content["nodes_left_out"].items():
        console.print(Text(f"{node} is left out: {why}"), soft_wrap=True)
    of = f" of {content['budget_gpu_hours']:g}" if content["budget_gpu_hours"] is not None else ""
    # Of GPUs that experiments had; what else was held, and stood idle, is in the next line.
    words = {"starting": "starting", "measuring": "measuring", "idle": "neither"}
    parts = ", ".join(f"{words[name]} {hours:.2f}" for name, hours in spent.items())
    hours = f"{content['gpu_hours']:.2f}{of} GPU-hours of experiments"
    console.print(Text(f"{done} ({states}); {hours} ({parts})"))
    if prepared := content["gpu_hours_preparing"]:
        what = "of starting went into unpacking the image and copying weights to the nodes"
        console.print(Text(f"{prepared:.2f} GPU-hours {what}, once a job"))
    if line := _describe_gpu_time(content["gpu_seconds"]):
        console.print(Text(line))
    if line := _describe_neighbours(content["experiments"]):
        console.print(Text(line), soft_wrap=True)
    for line in content["on_this_machine"]:
        console.print(Text(line))


def _describe_gpu_time(spent: dict[str, Any]) -> str | None:
    """Which part of the GPU-time that was held loads were measured in, and where the rest went."""
    held = spent["held"]
    if not held:
        return None
    words = {
        "starting": "starting servers",
        "unused": "on GPUs that nothing ran on",
        "other": "between loads and at the ends",
    }
    rest = ", ".join(f"{spent[key] / held:.0%} {text}" for key, text in words.items())
    measuring = f"measuring {spent['measuring']:,.0f} of {held:,.0f} GPU-seconds held"
    return f"{measuring}: {spent['share_measuring']:.0%} ({rest})"


def _describe_neighbours(rows: Sequence[dict[str, Any]]) -> str | None:
    """How many loads shared their machine with others, on other GPUs; ``None`` where none did."""
    loads = [load.get("beside", []) for row in rows for load in row["measured"]]
    shared = [beside for beside in loads if beside]
    starts = sum(any("starting" in line for line in beside) for beside in shared)
    if not shared:
        return None
    return (
        f"{len(shared)} of {len(loads)} loads were measured beside other experiments on other GPUs of the same "
        f"machine, {starts} of them while servers started there (`beside` in loadrun.json)"
    )


def _print_cause(row: dict[str, Any], where: str, console: Console) -> None:
    if row["cause"]:
        console.print(Text(f"{where}: cause: {row['cause']}"))
        console.print(Text(f"{where}: remedy: {row['remedy']}"))
