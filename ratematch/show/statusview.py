"""How far a sweep is, for people and as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape

from ratematch.show.console import table
from ratematch.store import ExperimentFolder, Results


def status_to_json(results: Results) -> dict[str, Any]:
    """State of every experiment and the sums over them."""
    rows = [_experiment_status(folder) for folder in results.folders()]
    states = [row["state"] for row in rows]
    return {
        "results": str(results.path),
        "emulated": any(row["emulated"] for row in rows),
        "states": {state: states.count(state) for state in sorted(set(states))},
        "loads_done": sum(row["loads_done"] for row in rows),
        "loads": sum(row["loads"] for row in rows),
        "gpu_hours": sum(row["gpu_hours"] for row in rows),
        "experiments": rows,
    }


def _experiment_status(folder: ExperimentFolder) -> dict[str, Any]:
    experiment = folder.read()
    missing = len(folder.missing())
    state = folder.state()
    outcome = folder.outcome() if state in ("failed", "interrupted") else None
    return {
        "experiment": experiment.label,
        "folder": folder.path.name,
        "stage": experiment.stage,
        "state": state,
        "loads": len(experiment.loads),
        "loads_done": len(experiment.loads) - missing,
        "gpus": experiment.deployment.gpus,
        "gpu_hours": folder.gpu_hours(),
        "emulated": experiment.emulated,
        "error": outcome["error"] if outcome else None,
        "doing": describe_progress(folder.progress()) if state == "running" else None,
    }


def describe_progress(progress: dict[str, Any] | None) -> str:
    """What a running experiment is doing, in one line."""
    if not progress:
        return "job is starting"
    if progress["phase"] == "starting":
        waiting = progress["waiting"]
        if not waiting:
            return "starting servers"
        first = waiting[0]
        return f"waiting for {', '.join(w['name'] for w in waiting)}: {first['why']} ({first['seconds']:.0f} s)"
    ttft = f", TTFT {progress['ttft_ms']:.0f} ms" if progress["ttft_ms"] is not None else ""
    return (
        f"{progress['load']} ({progress['load_number']}/{progress['loads']}) {progress['part']} "
        f"{progress['done']}/{progress['total']}, {progress['in_flight']} in flight, "
        f"{progress['tok_s']:.0f} tok/s{ttft}" + (f", {progress['failed']} failed" if progress["failed"] else "")
    )


def print_status(content: dict[str, Any], console: Console) -> None:
    rows = [
        (row["experiment"], row["state"], f"{row['loads_done']}/{row['loads']}", row["gpus"], row["gpu_hours"])
        for row in content["experiments"]
    ]
    title = content["results"] + ("  (emulated)" if content["emulated"] else "")
    console.print(table(title, ["experiment", "state", "loads", "GPUs", "GPU-hours"], rows))
    for row in content["experiments"]:
        if row["doing"]:
            console.print(f"{escape(row['experiment'])}: {escape(row['doing'])}")
        if row["error"]:
            console.print(f"{escape(row['experiment'])}: [red]{escape(row['error'].splitlines()[0])}[/]")
    states = ", ".join(f"{count} {state}" for state, count in content["states"].items())
    done = f"{content['loads_done']} of {content['loads']} loads measured"
    console.print(f"{done} ({states}); {content['gpu_hours']:.2f} GPU-hours")
