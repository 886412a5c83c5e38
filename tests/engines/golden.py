"""Launch files and commands of named cases, as committed text that a person can diff against their own.

``python -m tests.engines.golden`` writes them anew after a change that was meant.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from ratematch.engines import find_engine
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.experiment import Experiment
from ratematch.plan.limits import with_limits
from ratematch.plan.mapping import parse_mapping
from ratematch.plan.placement import nodes_needed, place
from ratematch.plan.workload import Workload
from tests.invented import experiment

FOLDER = Path(__file__).parents[1] / "golden" / "launch"
RACK = Cluster("rack", "gb200", gpus_per_node=4, nodes=18, environment={"TRTLLM_ENABLE_PDL": "1"})
WORKLOAD = Workload(8192, 1024)
VERSIONS = ("1.2", "main")
BACKENDS = ("DEFAULT", "UCX", "NIXL", "MOONCAKE", "MPI")


def pair(
    ctx: str, x: int, gen: str, y: int, mtp: int = 0, backend: str | None = None, router: str = "round_robin"
) -> Deployment:
    options = {"cache_transceiver_config": {"backend": backend}} if backend else {}
    groups = [
        ServerGroup("ctx", parse_mapping(ctx), x, mtp, options=options),
        ServerGroup("gen", parse_mapping(gen), y, mtp, options=options | {"stream_interval": 20}),
    ]
    filled = {group.role: with_limits(group, WORKLOAD, 128) for group in groups}
    return Deployment(ctx=filled["ctx"], gen=filled["gen"], router=router)


def alone(mapping: str, mtp: int = 0) -> Deployment:
    return Deployment(agg=with_limits(ServerGroup("agg", parse_mapping(mapping), mtp=mtp), WORKLOAD, 128))


def gen_only(mapping: str, mtp: int) -> Deployment:
    return Deployment(gen=with_limits(ServerGroup("gen", parse_mapping(mapping), mtp=mtp), WORKLOAD, 128))


CASES: dict[str, Deployment] = {
    "agg-tep4": alone("TEP4"),
    "agg-dep8-mtp3": alone("DEP8", 3),
    "agg-tp4pp2": alone("TP4PP2"),
    "agg-tep4cp2": alone("TEP4CP2"),
    "gen-dep16-over-4-nodes-mtp3": gen_only("DEP16", 3),
    "ctx2xdep4-gen1xdep8-mtp0": pair("DEP4", 2, "DEP8", 1),
    "ctx2xdep4-gen1xdep16-mtp3": pair("DEP4", 2, "DEP16", 1, 3),
    "ctx1xtep2-gen3xtep2-mtp1-load-balancing": pair("TEP2", 1, "TEP2", 3, 1, router="load_balancing"),
    **{f"ctx1xtep4-gen1xtep4-{name.lower()}": pair("TEP4", 1, "TEP4", 1, backend=name) for name in BACKENDS},
}


def experiment_of(deployment: Deployment, version: str) -> Experiment:
    return experiment("e2e", deployment, WORKLOAD, version=version, emulated=False)


def render(deployment: Deployment, version: str) -> str:
    """Every file, then every process with its nodes, environment and command, as one text."""
    asked = experiment_of(deployment, version)
    nodes = [f"node{index}" for index in range(nodes_needed(deployment, RACK.gpus_per_node))]
    plan = find_engine("trtllm-serve").plan_launch(asked, place(deployment, RACK, nodes, 8000), RACK, 600.0)
    parts = [f"# ---- {file.path}\n{file.content}" for file in plan.files]
    for spec in plan.processes:
        env = " ".join(f"{name}={shlex.quote(value)}" for name, value in spec.env)
        head = f"# ---- {spec.name} on {' '.join(spec.nodes)}, wave {spec.wave}, unset {' '.join(spec.unset)}"
        parts.append(f"{head}\n{env} \\\n  {shlex.join(spec.argv)}\n")
    parts.append(f"# ---- load goes to {plan.endpoint}\n")
    return "\n".join(parts)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for version in VERSIONS:
        for name, deployment in CASES.items():
            (FOLDER / f"{name}.{version}.txt").write_text(render(deployment, version))


if __name__ == "__main__":
    main()
