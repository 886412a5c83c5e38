"""Launches of Dynamo deployments as committed text, as :mod:`tests.engines.golden` has them of ``trtllm-serve``.

``tests/golden/dynamo/CASE/VERSION/``: the files as rendered, and ``commands.txt`` with the Slurm step of each process
in the order of their starts. ``python -m tests.engines.golden_dynamo`` writes them anew after a meant change.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from ratematch.engines import ENGINES, find_engine
from ratematch.plan.deployment import Deployment, Options
from ratematch.plan.experiment import EngineRef, Experiment
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.load import Concurrency
from ratematch.plan.placement import nodes_needed, place
from ratematch.run.script import start_line
from ratematch.slurm.srun import slurm_step
from tests.engines.golden import IN_FLIGHT, RACK, WORKLOAD, alone, ctx_only, gen_only, pair
from tests.support.invented import experiment

FOLDER = Path(__file__).parents[1] / "golden" / "dynamo"
VERSIONS = ("0.8", "0.9", "1.1", "1.6")
ONE, SEVERAL = pair("TEP4", 1, "TEP4", 1), pair("DEP2", 2, "TEP2", 3)
FILE: dict[str, Any] = {"discovery": "file"}

CASES: dict[str, tuple[Deployment, Options]] = {
    "ctx": (ctx_only("DEP4", 3), {}),
    "gen": (replace(gen_only("TEP4", 1), warmed=True), {}),
    "ifb": (alone("TEP4"), FILE),
    "e2e-1-1": (ONE, {}),
    "e2e-2-3": (SEVERAL, FILE),
    "e2e-dep16-over-4-nodes": (pair("DEP4", 1, "DEP16", 1, 3), {}),
    "two-frontends-nginx": (ONE, {"frontends": 2, "nginx": True}),
    "nats": (ONE, {"request_plane": "nats"}),
    "kv-router": (ONE, {"router_mode": "kv", "frontend_args": {"router_temperature": 0.5}}),
}
EACH = [(name, version) for name in CASES for version in VERSIONS]


def engine_of(version: str, given: Options) -> EngineRef:
    """The engine as a sweep file with these keys has it."""
    filled = ENGINES["dynamo"].read_settings(version, given)
    assert isinstance(filled, dict), filled
    backend, backend_version = filled.pop("backend"), filled.pop("backend_version")
    return EngineRef("dynamo", version, backend, backend_version, filled)


def dynamo_experiment(deployment: Deployment, given: Options, version: str = "1.6.1", **more: Any) -> Experiment:
    stage = "ifb" if deployment.agg else "ctx" if deployment.gen is None else "e2e" if deployment.ctx else "gen"
    loads = more.pop("loads", (Concurrency(IN_FLIGHT, 1024),))
    plain = experiment(stage, deployment, WORKLOAD, loads, "1.2", emulated=False)  # type: ignore[arg-type]
    return replace(plain, engine=engine_of(version, given), **more)


def launch(asked: Experiment) -> LaunchPlan:
    nodes = [f"node{index}" for index in range(nodes_needed(asked.deployment, RACK.gpus_per_node))]
    engine = find_engine(asked.engine.key)
    return engine.plan_launch(asked, place(asked.deployment, RACK, nodes, 8000), RACK, 600.0)


def render(name: str, version: str) -> dict[str, str]:
    """Text of each file of a case by name; ``commands.txt`` tells the processes in order."""
    plan = launch(dynamo_experiment(*CASES[name], version))
    parts = [f"# wave {spec.wave}\n{start_line(spec, slurm_step(spec, RACK))}" for spec in plan.processes]
    parts.append(f"# load goes to {plan.endpoint}\n")
    return {**{file.path: file.content for file in plan.files}, "commands.txt": "\n".join(parts)}


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name, version in EACH:
        folder = FOLDER / name / version
        folder.mkdir(parents=True)
        for path, content in render(name, version).items():
            (folder / path).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
