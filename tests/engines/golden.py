"""Launch files and commands of named cases, as committed text that a person can diff against their own.

``tests/golden/launch/CASE/VERSION/`` holds the YAML files as rendered, and ``commands.txt`` with the Slurm step of
each process in the order of their starts (nodes, container, environment, wrappers, argv); ``job.sbatch`` the job.
``python -m tests.engines.golden`` writes them anew after a change that was meant.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from ratematch.engines import find_engine
from ratematch.plan.cluster import Cluster, Container, Slurm
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.limits import with_limits
from ratematch.plan.load import Concurrency, Load, breakdown_loads
from ratematch.plan.parallelism import parse_mapping
from ratematch.plan.placement import nodes_needed, place
from ratematch.plan.workload import Workload
from ratematch.run.script import batch_script, start_line
from ratematch.slurm.srun import slurm_step
from tests.support.invented import experiment

FOLDER = Path(__file__).parents[1] / "golden" / "launch"
RACK = Cluster(
    "rack",
    "gb200",
    gpus_per_node=4,
    nodes=18,
    numactl=("-m", "0,1"),
    environment={"TRTLLM_ENABLE_PDL": "1", "ENROOT_ALLOW_DEV": "yes"},
    slurm=Slurm(partition="batch", account="llm", segment=18),
    container=Container("/images/trtllm.sqsh", ("/models:/models:ro", "/scratch:/scratch")),
)
WORKLOAD = Workload(8192, 1024)
IN_FLIGHT = 128
VERSIONS = ("1.2", "1.3", "main")
CANDIDATES = ("1.2", "1.3.0rc5", "1.3.0rc27", "1.4")
"""For what differs within 1.3 too."""

BACKENDS = ("DEFAULT", "UCX", "NIXL", "MOONCAKE", "MPI")
ROUTERS: dict[str, dict[str, Any]] = {
    "round_robin": {},
    "load_balancing": {},
    "kv_cache_aware": {"use_tokens": True},
    "conversation": {"match_threshold": 0.5},
}
LATER = {
    "router-conversation": ("1.3", "main"),
    **{f"transceiver-{name.lower()}": CANDIDATES for name in BACKENDS},
}
"""Cases that are not the same in all of a line, or that 1.2 does not know."""


def pair(ctx: str, x: int, gen: str, y: int, mtp: int = 0, **options: Any) -> Deployment:
    groups = [
        ServerGroup("ctx", parse_mapping(ctx), x, mtp, options=options),
        ServerGroup("gen", parse_mapping(gen), y, mtp, options=options | {"stream_interval": 20}),
    ]
    filled = {group.role: with_limits(group, WORKLOAD, IN_FLIGHT) for group in groups}
    return Deployment(ctx=filled["ctx"], gen=filled["gen"])


def alone(mapping: str, mtp: int = 0) -> Deployment:
    return Deployment(agg=with_limits(ServerGroup("agg", parse_mapping(mapping), mtp=mtp), WORKLOAD, IN_FLIGHT))


def gen_only(mapping: str, mtp: int) -> Deployment:
    return Deployment(gen=with_limits(ServerGroup("gen", parse_mapping(mapping), mtp=mtp), WORKLOAD, IN_FLIGHT))


def ctx_only(mapping: str, mtp: int) -> Deployment:
    return Deployment(ctx=with_limits(ServerGroup("ctx", parse_mapping(mapping), mtp=mtp), WORKLOAD, IN_FLIGHT))


CASES: dict[str, Deployment] = {
    "agg-tep4": alone("TEP4"),
    "agg-dep8-mtp3": alone("DEP8", 3),
    "agg-tp4pp2": alone("TP4PP2"),
    "agg-tep4cp2": alone("TEP4CP2"),
    "ctx-dep4-mtp3": ctx_only("DEP4", 3),
    "gen-tep4-mtp0": gen_only("TEP4", 0),
    "gen-dep16-over-4-nodes-mtp3": gen_only("DEP16", 3),
    "ctx2xdep4-gen1xdep8-mtp0": pair("DEP4", 2, "DEP8", 1),
    "ctx2xdep4-gen1xdep16-mtp3": pair("DEP4", 2, "DEP16", 1, 3),
    "two-servers-a-node-eplb": pair(
        "DEP2", 2, "DEP2", 2, moe_config={"load_balancer": {"num_slots": 288, "layer_updates_per_iter": 1}}
    ),
    "breakdown": pair("TEP4", 1, "TEP4", 1),
    "eagle3": pair(
        *("TEP4", 1, "TEP4", 1, 3),
        speculative_config={"decoding_type": "Eagle3", "speculative_model": "/models/eagle3-head"},
    ),
    **{
        f"transceiver-{name.lower()}": pair("TEP4", 1, "TEP4", 1, cache_transceiver_config={"backend": name})
        for name in BACKENDS
    },
    **{
        f"router-{name.replace('_', '-')}": replace(pair("TEP2", 1, "TEP2", 3, 1), router=name, router_args=arguments)
        for name, arguments in ROUTERS.items()
    },
}
EACH = [(name, version) for name in CASES for version in LATER.get(name, VERSIONS)]


def experiment_of(name: str, version: str) -> Experiment:
    deployment = CASES[name]
    stage = "ifb" if deployment.agg else "ctx" if deployment.gen is None else "e2e" if deployment.ctx else "gen"
    loads: tuple[Load, ...] = (Concurrency(IN_FLIGHT, 1024),)
    if name == "breakdown":
        loads = breakdown_loads(loads)
    return experiment(stage, deployment, WORKLOAD, loads, version, emulated=False)  # type: ignore[arg-type]


def launch(name: str, version: str) -> LaunchPlan:
    asked = experiment_of(name, version)
    nodes = [f"node{index}" for index in range(nodes_needed(asked.deployment, RACK.gpus_per_node))]
    return find_engine("trtllm-serve").plan_launch(asked, place(asked.deployment, RACK, nodes, 8000), RACK, 600.0)


def render(name: str, version: str) -> dict[str, str]:
    """Text of each file of a case by name; ``commands.txt`` tells the processes in order."""
    plan = launch(name, version)
    parts = [f"# wave {spec.wave}\n{start_line(spec, slurm_step(spec, RACK))}" for spec in plan.processes]
    parts.append(f"# load goes to {plan.endpoint}\n")
    files = {file.path: file.content for file in plan.files}
    return {**files, "commands.txt": "\n".join(parts), "job.sbatch": batch_script(experiment_of(name, version), RACK)}


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name, version in EACH:
        folder = FOLDER / name / version
        folder.mkdir(parents=True)
        for path, content in render(name, version).items():
            (folder / path).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
