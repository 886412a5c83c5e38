"""A server over the borders of nodes: its step, its GPUs and its script, as launched and as rendered."""

from __future__ import annotations

import shlex
from dataclasses import replace

from ratematch.engines.trtllm_serve import ENGINE
from ratematch.plan.cluster import Cluster, to_json
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import ProcessSpec
from ratematch.plan.parallelism import parse_mapping
from ratematch.plan.placement import nodes_on, place
from ratematch.run.render import render
from ratematch.slurm.srun import slurm_step
from tests.support.invented import experiment

RACK = Cluster("rack", "gb200", gpus_per_node=4, nodes=18, packing="compact")
ODD = ServerGroup("gen", parse_mapping("TP2PP3"), 2, max_batch_size=8, max_num_tokens=64)
PAIR = Deployment(
    ctx=replace(ODD, role="ctx", mapping=parse_mapping("TP2"), instances=1, max_num_tokens=8192), gen=ODD
)


def processes(asked: Experiment) -> dict[str, ProcessSpec]:
    nodes = [f"n{index}" for index in range(nodes_on(asked.deployment, RACK))]
    plan = ENGINE.plan_launch(asked, place(asked.deployment, RACK, nodes, 8000), RACK, 60.0)
    assert ENGINE.check_launch(plan, asked) == []
    return {spec.name: spec for spec in plan.processes}


def layout(spec: ProcessSpec) -> list[str]:
    words = ("--nodes=", "--ntasks", "--distribution=", "--nodelist=")
    return [word for word in slurm_step(spec, RACK).argv if word.startswith(words)]


def own_gpus(spec: ProcessSpec, ranks: range) -> list[int]:
    """What the engine gives ranks: the visible GPU at rank % GPUs-of-a-node."""
    visible = dict(spec.env).get("CUDA_VISIBLE_DEVICES", "0,1,2,3").split(",")
    return [int(visible[rank % 4]) for rank in ranks]


def test_ranks_go_where_their_gpus_are() -> None:
    found = processes(experiment("e2e", PAIR, emulated=False))
    first, second, small = found["gen-0"], found["gen-1"], found["ctx-0"]
    assert layout(first) == [
        *("--ntasks=6", "--ntasks-per-node=4"),
        *("--distribution=arbitrary", "--nodelist=n0,n0,n0,n0,n1,n1"),
    ]
    assert layout(second) == [
        *("--ntasks=6", "--ntasks-per-node=4"),
        *("--distribution=arbitrary", "--nodelist=n1,n1,n2,n2,n2,n2"),
    ]
    assert "--distribution=block" in layout(small)
    assert own_gpus(first, range(4)) == [0, 1, 2, 3] and own_gpus(first, range(4, 6)) == [0, 1]
    assert own_gpus(second, range(2)) == [2, 3], "what the first one left on the shared node"
    assert sorted(own_gpus(second, range(2, 6))) == [0, 1, 2, 3]


def test_the_emulator_needs_a_process_a_node() -> None:
    step = slurm_step(
        processes(experiment("e2e", PAIR))["gen-1"], replace(RACK, slurm=replace(RACK.slurm, tasks="node"))
    )
    assert "--distribution=block" in step.argv and "--ntasks=2" in step.argv


def test_render_shows_the_very_step() -> None:
    (rendering,) = render(experiment("e2e", PAIR, emulated=False), RACK, allocated=True, nodes=["a", "b", "c", "d"])
    script = shlex.split(rendering.files["run.sh"], comments=True)
    assert "--distribution=arbitrary" in script and "--nodelist=b,b,c,c,c,c" in script
    assert "#SBATCH --nodes=4" in rendering.files["job.sbatch"]
    (unknown,) = render(experiment("e2e", PAIR, emulated=False), RACK, allocated=True)
    node = '"${NODES[0]}"'
    assert f"--nodelist={node},{node},{node},{node}," in unknown.files["run.sh"], "filled from the allocation"


def test_a_profile_without_the_key_is_as_it_was() -> None:
    assert "packing" not in to_json(replace(RACK, packing="whole-nodes"))
    assert to_json(RACK)["packing"] == "compact"
