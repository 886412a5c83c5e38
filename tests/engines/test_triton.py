"""Triton (legacy): ranks, GPUs, filled templates, the start script, refusals, engines on disk, metrics, logs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ratematch.engines import diagnose_logs, find_engine, read_metrics
from ratematch.engines.triton.derive import COUNT
from ratematch.engines.triton.diagnosis import OWN
from ratematch.engines.triton.metrics import IterationReader
from ratematch.engines.triton.precheck import LEGACY, check_files
from ratematch.engines.triton.render import STAND_INS
from ratematch.errors import UserError
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, ServerGroup
from ratematch.plan.experiment import EngineRef, Experiment
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.limits import with_limits
from ratematch.plan.load import Concurrency, Rate
from ratematch.plan.parallelism import parse_mapping
from ratematch.plan.placement import nodes_needed, place
from ratematch.plan.workload import Workload
from ratematch.run.script import run_script
from ratematch.slurm.srun import slurm_step
from tests.support import triton
from tests.support.processes import wait_until

TRITON = find_engine("triton")
NODE = Cluster("node", "h200", gpus_per_node=8, nodes=4, release_paths={"triton": str(STAND_INS)})
WORKLOAD = Workload(2048, 256)
LOADS = (Concurrency(16, 256, 16), Concurrency(64, 256, 16))


def group(role: Any, label: str, instances: int = 1, mtp: int = 0, **options: Any) -> ServerGroup:
    return with_limits(ServerGroup(role, parse_mapping(label), instances, mtp, options=options), WORKLOAD, 64)


def pair(ctx: str = "TP1", x: int = 1, gen: str = "TP1", y: int = 1, **more: Any) -> Deployment:
    return Deployment(ctx=group("ctx", ctx, x), gen=group("gen", gen, y), **more)


def experiment(deployment: Deployment, stage: Any = "e2e", **more: Any) -> Experiment:
    return Experiment(
        stage=stage,
        model="qwen3-8b",
        model_path="/models/Qwen3-8B",
        engine=EngineRef("triton", "1.2"),
        gpu="h200",
        cluster="node",
        emulated=False,
        deployment=deployment,
        workload=WORKLOAD,
        loads=more.pop("loads", LOADS),
        **more,
    )


def launch(planned: Experiment, cluster: Cluster = NODE) -> LaunchPlan:
    nodes = [f"node{index}" for index in range(nodes_needed(planned.deployment, cluster.gpus_per_node))]
    placement = place(planned.deployment, cluster, nodes, 8000)
    return TRITON.plan_launch(planned, placement, cluster, 60.0)


def refusals(deployment: Deployment, stage: Any = "e2e", **more: Any) -> list[str]:
    planned = experiment(deployment, stage, **more)
    return TRITON.check_launch(launch(planned), planned)


def text_of(plan: LaunchPlan, path: str) -> str:
    return next(file.content for file in plan.files if file.path == path)


def parameters(plan: LaunchPlan, model: str) -> dict[str, str]:
    text = text_of(plan, f"repository/{model}/config.pbtxt")
    return dict(re.findall(r'key: "(\w+)" value: \{ string_value: "([^"]*)" \}', text))


# ------------------------------------------------------------------------------------------------ ranks and GPUs


@pytest.mark.parametrize(
    ("deployment", "participants", "gpus", "size"),
    [
        (pair(), ("1", "2"), ("0", "1"), 3),
        (pair("TP2", 1, "TP2", 1), ("1,2", "3,4"), ("0,1", "2,3"), 5),
        (pair("TP1PP2", 1, "TP2PP2", 1), ("1,2", "3,4,5,6"), ("4,5", "0,1,2,3"), 7),
        (pair("TP2", 2, "TP2", 2), ("1,2;3,4", "5,6;7,8"), ("0,1;2,3", "4,5;6,7"), 9),
        (pair("TP1", 3, "TP4", 1), ("1;2;3", "4,5,6,7"), ("4;5;6", "0,1,2,3"), 8),
    ],
)
def test_ranks_and_gpus_of_each_engine(
    deployment: Deployment, participants: tuple[str, str], gpus: tuple[str, str], size: int
) -> None:
    planned = experiment(deployment)
    plan = launch(planned)
    assert TRITON.check_launch(plan, planned) == []
    context, generation = parameters(plan, "context"), parameters(plan, "generation")
    assert (context["participant_ids"], generation["participant_ids"]) == participants
    assert (context["gpu_device_ids"], generation["gpu_device_ids"]) == gpus
    script = text_of(plan, "start-triton.sh")
    assert script.count("-n 1 tritonserver ") == size == 1 + deployment.gpus
    for rank in range(size):
        assert f'shm-region-prefix-name="${{prefix}}{rank}_"' in script
    assert script.count("--load-model=context") == script.count("--load-model=generation") == size - 1
    assert "TRTLLM_ORCHESTRATOR=1 TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES=0" in script
    for model, group_ in (("context", deployment.ctx), ("generation", deployment.gen)):
        assert group_ is not None
        config = text_of(plan, f"repository/{model}/config.pbtxt")
        assert re.search(rf"count: {group_.instances}\b", config) and f'name: "{model}"' in config


@pytest.mark.parametrize(("stage", "role", "model"), [("ctx", "ctx", "context"), ("ifb", "agg", "tensorrt_llm")])
def test_one_engine_alone_has_no_orchestrator(stage: Any, role: Any, model: str) -> None:
    planned = experiment(Deployment(**{role: group(role, "TP2")}), stage)
    plan = launch(planned)
    assert TRITON.check_launch(plan, planned) == []
    script, (spec,) = text_of(plan, "start-triton.sh"), plan.processes
    assert script.count("-n 1 tritonserver ") == 2 and "TRTLLM_ORCHESTRATOR=1" not in script
    assert parameters(plan, model)["participant_ids"] == "${participant_ids}", "not set"
    assert dict(spec.env) == {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert spec.role == role and TRITON.request_api(planned).model == model
    assert ("repository/ensemble/config.pbtxt" in {file.path for file in plan.files}) is (stage == "ifb")


def test_gpus_are_numbered_among_those_that_are_visible() -> None:
    """A neighbour has the first GPUs: the ranks see theirs, and count from 0."""
    planned = experiment(pair("TP1", 1, "TP2", 1))
    placement = place(planned.deployment, NODE, ["node0"], 8000)
    moved = tuple(
        replace(
            instance,
            places=tuple(replace(spot, gpus=tuple(gpu + 4 for gpu in spot.gpus)) for spot in instance.places),
        )
        for instance in placement.instances
    )
    plan = TRITON.plan_launch(planned, replace(placement, instances=moved), NODE, 60.0)
    assert dict(plan.processes[0].env)["CUDA_VISIBLE_DEVICES"] == "4,5,6"
    assert (parameters(plan, "context")["gpu_device_ids"], parameters(plan, "generation")["gpu_device_ids"]) == (
        "2",
        "0,1",
    )


def test_the_process_and_its_ports() -> None:
    planned = experiment(pair("TP4", 1, "TP4", 1))
    (spec,) = launch(planned).processes
    assert (spec.name, spec.role, spec.ranks, spec.argv) == ("triton", "gen", 1, ("bash", "start-triton.sh"))
    assert spec.ready.url == "http://node0:8002/v2/health/ready"
    assert (spec.port, spec.further_ports, spec.metrics_port) == (8002, (8003, 8004), 8004)
    assert dict(spec.env) == {"TRTLLM_USE_MPI_KVCACHE": "1"}, "all GPUs of the node: no list"
    ucx = replace(
        planned.deployment, gen=replace(planned.deployment.gen, environment={"TRTLLM_USE_UCX_KVCACHE": "1"})
    )  # type: ignore[type-var]
    (spec,) = launch(replace(planned, deployment=ucx)).processes
    assert dict(spec.env) == {"TRTLLM_USE_UCX_KVCACHE": "1"}


def test_a_server_listens_on_an_address_because_it_takes_no_name() -> None:
    planned = experiment(pair())
    assert text_of(launch(planned), "start-triton.sh").count("--http-address=0.0.0.0") == 3
    placement = place(planned.deployment, NODE, ["here"], 8000, {"here": "127.0.0.1"})
    script = text_of(TRITON.plan_launch(planned, placement, NODE, 60.0), "start-triton.sh")
    assert script.count("--http-address=127.0.0.1") == script.count("--metrics-address=127.0.0.1") == 3


def test_several_nodes_are_rendered_as_one_step_and_marked_untested() -> None:
    planned = experiment(pair("TP8", 1, "TP8", 1))
    plan = launch(planned)
    assert TRITON.check_launch(plan, planned) == []
    (spec,) = plan.processes
    assert (spec.nodes, spec.ranks, spec.shares) == (("node0", "node1"), 17, (9, 8))
    words = slurm_step(spec, NODE).argv
    assert "--ntasks=17" in words and "--distribution=arbitrary" in words and "--mpi=pmix" in words
    script = text_of(plan, "start-triton.sh")
    assert "RENDERED ONLY, never run" in script and "mpirun" not in script
    assert len(re.findall(r"^  \d+\) words=", script, re.M)) == 17
    assert any("several nodes: rendered only" in doubt for doubt in TRITON.doubt_launch(plan, planned))


def test_an_emulated_server_is_one_process_on_the_first_node() -> None:
    emulated = replace(NODE, emulated=True, release_paths={})
    planned = replace(experiment(pair("TP8", 1, "TP8", 1)), emulated=True)
    plan = launch(planned, emulated)
    assert TRITON.check_launch(plan, planned) == []
    (spec,) = plan.processes
    assert (spec.nodes, spec.ranks, spec.shares) == (("node0",), 1, ())
    assert "-m ratematch.emulator.triton --model-repository=repository" in text_of(plan, "start-triton.sh")
    built = json.loads(text_of(plan, "engines/generation/config.json"))
    assert built["pretrained_config"]["mapping"]["tp_size"] == 8 and built["build_config"]["max_seq_len"] == 2304
    assert parameters(plan, "generation")["gpt_model_path"] == "engines/generation"


PARSE = """
import importlib.util, json, pathlib, sys
import tritonclient
from google.protobuf import text_format

file = pathlib.Path(tritonclient.__file__).parent / "grpc" / "model_config_pb2.py"
spec = importlib.util.spec_from_file_location("model_config_pb2", file)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
for path in map(pathlib.Path, sys.argv[1:]):
    config = text_format.Parse(path.read_text(), module.ModelConfig())
    print(json.dumps({
        "model": path.parent.name,
        "name": config.name,
        "batch": config.max_batch_size,
        "decoupled": config.model_transaction_policy.decoupled,
        "copies": [group.count for group in config.instance_group],
        "steps": [step.model_name for step in config.ensemble_scheduling.step],
        "ranks": config.parameters["participant_ids"].string_value,
        "gpus": config.parameters["gpu_device_ids"].string_value,
    }))
"""
"""Reads files with the parser and the types of Triton's own client package."""


@triton.needed
def test_rendered_configurations_are_what_tritons_own_parser_reads(tmp_path: Path) -> None:
    cases = {
        "tp": pair("TP4", 1, "TP2", 1),
        "pp": pair("TP2PP2", 1, "TP1PP4", 1),
        "two-of-each": pair("TP1PP2", 2, "TP2", 2),
        "alone": Deployment(agg=group("agg", "TP2PP2")),
    }
    for name, deployment in cases.items():
        for file in launch(experiment(deployment, "ifb" if deployment.agg else "e2e")).files:
            (tmp_path / name / file.path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file.path).write_text(file.content)
    files = sorted(tmp_path.glob("*/repository/*/config.pbtxt"))
    words = [str(triton.FOLDER / "bin" / "python3"), "-c", PARSE, *map(str, files)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    models = {
        (file.parents[2].name, file.parent.name): line
        for file, line in zip(files, map(json.loads, done.stdout.splitlines()), strict=True)
    }
    assert len(models) == 3 * 6 + 4
    for (case, model), read in models.items():
        assert read["name"] == read["model"] == model
        if case != "alone" and model in ("context", "generation", "disaggregated_serving_bls"):
            assert read["decoupled"]
        if model == "ensemble":
            step = "tensorrt_llm" if case == "alone" else "disaggregated_serving_bls"
            assert read["steps"] == ["preprocessing", step, "postprocessing"]
    ranks = {
        case: (models[case, "context"]["ranks"], models[case, "generation"]["ranks"]) for case in list(cases)[:3]
    }
    assert ranks == {"tp": ("1,2,3,4", "5,6"), "pp": ("1,2,3,4", "5,6,7,8"), "two-of-each": ("1,2;3,4", "5,6;7,8")}
    both = models["two-of-each", "context"], models["two-of-each", "generation"]
    assert [model["copies"] for model in both] == [[2], [2]]
    assert [model["gpus"] for model in both] == ["0,1;2,3", "4,5;6,7"]
    assert models["tp", "disaggregated_serving_bls"]["copies"] == [64]


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("deployment", "words"),
    [
        (pair("DEP4"), "mapping: DEP4: a TensorRT engine is rendered for TP and PP only"),
        (pair("TEP4"), "mapping: TEP4: a TensorRT engine"),
        (Deployment(ctx=group("ctx", "TP1", mtp=2), gen=group("gen", "TP1", mtp=2)), "mtp: 2: no draft layers"),
        (
            Deployment(ctx=group("ctx", "TP1", participant_ids="1"), gen=group("gen", "TP1")),
            "ctx: participant_ids: is set from the plan: it follows from where the engines are placed",
        ),
        (
            Deployment(ctx=group("ctx", "TP1", max_seq_len=2100), gen=group("gen", "TP1")),
            "ctx: max_seq_len: 2100 is less than ISL 2048 + OSL 256 = 2304",
        ),
        (
            Deployment(ctx=group("ctx", "TP1", decoding_mode=[1]), gen=group("gen", "TP1")),
            "no value of a placeholder",
        ),
        (pair(orchestrator={"decoupled_mode": False}), "orchestrator: decoupled_mode: is set from the plan"),
        (
            pair(orchestrator={COUNT: 32}),
            f"orchestrator: {COUNT}: 32 instances serve 32 requests at once, and the largest load keeps 64 in "
            "flight: 32 would wait, and throughput would be that of 32; leave it out, or write 64 or more",
        ),
        (pair(orchestrator={COUNT: "many"}), "'many' is no number of instances"),
    ],
)
def test_what_cannot_work_is_refused_with_its_reason(deployment: Deployment, words: str) -> None:
    problems = refusals(deployment)
    assert len(problems) >= 1 and any(problem.startswith(words) or words in problem for problem in problems), problems


def test_fewer_orchestrators_can_be_forced_and_more_are_fine() -> None:
    forced = pair(orchestrator={COUNT: 2}, unchecked=(COUNT,))
    assert refusals(forced) == [] == refusals(pair(orchestrator={COUNT: 100}))
    assert "count: 2 " in text_of(launch(experiment(forced)), "repository/disaggregated_serving_bls/config.pbtxt")
    planned = experiment(pair(), loads=(Rate(4.0, 100),))
    assert any("256 requests are served at once" in doubt for doubt in TRITON.doubt_launch(launch(planned), planned))


def test_many_instances_are_many_processes() -> None:
    planned = experiment(pair(), loads=(Concurrency(512, 1024),))
    doubts = TRITON.doubt_launch(launch(planned), planned)
    assert any("512 Python processes on the first node, 20 GB together" in doubt for doubt in doubts)
    few = experiment(pair())
    assert not any("Python processes" in doubt for doubt in TRITON.doubt_launch(launch(few), few))


def test_every_start_in_gen_only_has_the_instances_of_its_own_concurrency() -> None:
    starts = experiment(pair(), "gen").launches()
    counts = [
        re.findall(r"count: (\d+)", text_of(launch(part), "repository/disaggregated_serving_bls/config.pbtxt"))
        for part in starts
    ]
    assert counts == [["16"], ["64"]]


def test_one_job_has_one_environment() -> None:
    ctx, gen = group("ctx", "TP1"), group("gen", "TP1")
    differing = Deployment(ctx=replace(ctx, environment={"A": "1"}), gen=replace(gen, environment={"A": "2"}))
    assert refusals(differing) == ["environment: A: 1 of ctx and 2 of gen: one MPI job has one value"]
    both = {"TRTLLM_USE_MPI_KVCACHE": "1", "TRTLLM_USE_UCX_KVCACHE": "1"}
    (problem,) = refusals(Deployment(ctx=replace(ctx, environment=both), gen=gen))
    assert "handed over in one of these ways" in problem


def damaged(old: str, new: str, path: str = "repository/generation/config.pbtxt") -> list[str]:
    planned = experiment(pair("TP2", 2, "TP2", 2))
    plan = launch(planned)
    files = tuple(
        replace(file, content=file.content.replace(old, new)) if file.path == path else file for file in plan.files
    )
    assert files != plan.files
    return check_files(replace(plan, files=files), planned)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("5,6;7,8", "4,6;7,8", "generation: participant_ids: 4 belongs to context already"),
        ("5,6;7,8", "5,6;7,9", "9 is no rank of an engine: the world has 9 ranks, 0 to 8"),
        ("5,6;7,8", "5,0;7,8", "0 is no rank of an engine: rank 0 orchestrates"),
        ("5,6;7,8", "5,6,7,8", "2 x TP2 x PP1 needs 2 groups of 2 ranks, in a world of 9"),
        ("5,6;7,8", "five", "'five' is not of the form 1,2;3,4"),
        ("4,5;6,7", "3,5;6,7", "generation: gpu_device_ids: GPU 3 belongs to context already"),
        ("4,5;6,7", "4,5", "2 groups of 2 GPUs are needed"),
        ("count: 2", "count: 1", "generation: instance_group: count 1, and 2 copies are planned"),
    ],
)
def test_wrong_combinations_in_the_files_are_seen(old: str, new: str, words: str) -> None:
    assert any(words in problem for problem in damaged(old, new))


def test_shared_memory_is_every_ranks_and_every_starts_own() -> None:
    script = "start-triton.sh"
    assert "two servers of a node would share it" in damaged("${prefix}", "prefix", script)[0]
    assert "its start" in damaged("prefix=rm_", "prefix=rm_fixed", script)[0]
    assert "9 ranks have 8 prefixes" in damaged("${prefix}8_", "${prefix}7_", script)[0]


# ------------------------------------------------------------------------------------------- release and engines


def test_without_a_release_it_is_one_line_with_what_to_give() -> None:
    with pytest.raises(
        UserError, match=r"cluster profile node: names no release .*release_paths: \{triton: FOLDER\}"
    ):
        launch(experiment(pair()), replace(NODE, release_paths={}))
    with pytest.raises(UserError, match=r"/no/such/inflight_batcher_llm/tensorrt_llm/config.pbtxt: No such file"):
        launch(experiment(pair()), replace(NODE, release_paths={"triton": "/no/such"}))
    with pytest.raises(UserError, match="all_models is no absolute path"):
        launch(experiment(pair()), replace(NODE, release_paths={"triton": "all_models"}))


def release(folder: Path, model: str, change: Any) -> Cluster:
    """A release that differs from the stand-ins' in one template."""
    for file in STAND_INS.rglob("config.pbtxt"):
        at = folder / file.relative_to(STAND_INS)
        at.parent.mkdir(parents=True)
        at.write_text(change(file.read_text()) if at.parent.name == model else file.read_text())
    return replace(NODE, release_paths={"triton": str(folder)})


@pytest.mark.parametrize(
    ("model", "change", "words"),
    [
        ("tensorrt_llm", lambda text: text + "max_queue: ${new_number}\n", r"nothing says what \$\{new_number\} is"),
        ("tensorrt_llm", lambda text: text.replace('name: "tensorrt_llm"', ""), "has 0 times a name of its own"),
        ("tensorrt_llm", lambda text: text.replace("count: 1", ""), "has 0 times instance_group with a count"),
        ("ensemble", lambda text: text.replace('model_name: "tensorrt_llm"', ""), "0 times a step with model_name"),
    ],
)
def test_a_template_of_another_kind_is_refused(tmp_path: Path, model: str, change: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        launch(experiment(pair("TP1", 2)), release(tmp_path, model, change))


def test_placeholders_in_quotes_and_comments_may_stay_and_options_fill_them(tmp_path: Path) -> None:
    cluster = release(tmp_path, "tensorrt_llm", lambda text: text + "# data_type: ${later}\n")
    given = Deployment(
        ctx=group("ctx", "TP1", decoding_mode="top_k", kv_cache_free_gpu_mem_fraction=0.5), gen=group("gen", "TP1")
    )
    plan = launch(experiment(given), cluster)
    assert parameters(plan, "context")["decoding_mode"] == "top_k"
    assert parameters(plan, "context")["kv_cache_free_gpu_mem_fraction"] == "0.5"
    assert parameters(plan, "generation")["decoding_mode"] == "${decoding_mode}"
    with pytest.raises(UserError, match="cannot stand inside quotes"):
        launch(experiment(Deployment(ctx=group("ctx", "TP1", decoding_mode='a"b'), gen=group("gen", "TP1"))))


@pytest.mark.parametrize(
    ("deployment", "words"),
    [
        (
            Deployment(ctx=group("ctx", "TP1"), gen=group("gen", "TP1", kv_cache_free_gpu_mem_fractoin=0.5)),
            "gen: kv_cache_free_gpu_mem_fractoin: .* did you mean kv_cache_free_gpu_mem_fraction",
        ),
        (pair(orchestrator={"bls_count": 3}), "orchestrator: bls_count: the release's templates have no such"),
    ],
)
def test_an_option_that_no_template_has_is_refused_with_the_nearest(deployment: Deployment, words: str) -> None:
    with pytest.raises(UserError, match=words):
        launch(experiment(deployment))


def test_what_is_marked_unchecked_or_a_limit_is_no_placeholder_of_a_template() -> None:
    odd = replace(group("ctx", "TP1", of_tomorrow=1, max_batch_size=2), unchecked=("of_tomorrow",))
    planned = experiment(Deployment(ctx=with_limits(odd, WORKLOAD, 64), gen=group("gen", "TP1")))
    plan = launch(planned)
    assert TRITON.check_launch(plan, planned) == []
    assert "max_batch_size: 2\n" in text_of(plan, "repository/context/config.pbtxt")


def engine(folder: Path, tp: int = 1, pp: int = 1, **limits: int) -> None:
    room = {"max_batch_size": 64, "max_num_tokens": 8192, "max_seq_len": 2304, **limits}
    folder.mkdir(parents=True)
    built = {"pretrained_config": {"mapping": {"tp_size": tp, "pp_size": pp}}, "build_config": room}
    (folder / "config.json").write_text(json.dumps(built))


def test_a_missing_engine_is_refused_with_the_command_that_makes_it(tmp_path: Path) -> None:
    planned = replace(experiment(pair("TP1", 1, "TP2", 1)), model_path=str(tmp_path))
    ctx, gen = TRITON.check_inputs(planned, Path)
    folder = tmp_path / "engines" / "h200-1.2-tp1pp1-b4-t8192"
    made_by = (
        f"trtllm-build --checkpoint_dir {tmp_path}/checkpoints/tp1pp1 --output_dir {folder} --max_batch_size 4 "
        "--max_input_len 2048 --max_seq_len 2304 --max_num_tokens 8192 --gemm_plugin auto "
        "--use_paged_context_fmha enable"
    )
    assert ctx == f"ctx: there is no engine in {folder} (no config.json); on a h200 this makes it: {made_by}"
    script = text_of(launch(planned), "build-engines.sh")
    assert made_by in script and "tp2pp1" in script and "Not run by a sweep" in script
    engine(folder)
    assert TRITON.check_inputs(planned, Path) == [gen]
    assert "no mount of the container" in TRITON.check_inputs(planned, lambda path: None)[0]


@pytest.mark.parametrize(
    ("built", "words"),
    [
        ({"tp": 2}, "it was built for TP2 x PP1, and TP1 x PP1 is planned"),
        ({"pp": 4}, "it was built for TP1 x PP4, and TP1 x PP1 is planned"),
        ({"max_batch_size": 2}, "its max_batch_size is 2, and 4 is planned"),
        ({"max_seq_len": 2049}, "its max_seq_len is 2049, and 2304 is planned"),
    ],
)
def test_an_engine_that_was_built_for_something_else_is_refused(tmp_path: Path, built: Any, words: str) -> None:
    ctx = group("ctx", "TP1", engine_dir=str(tmp_path / "e"))
    engine(tmp_path / "e", **built)
    (problem,) = TRITON.check_inputs(experiment(Deployment(ctx=ctx), "ctx", loads=LOADS[:1]), Path)
    assert words in problem and "trtllm-build" in problem
    (tmp_path / "e" / "config.json").write_text("{}")
    assert "is no configuration of an engine" in TRITON.check_inputs(experiment(Deployment(ctx=ctx)), Path)[0]


def test_the_start_script_refuses_before_any_server_starts(tmp_path: Path) -> None:
    """As bash runs it: a missing release and a missing engine, each in one line with what helps; a known cause."""
    planned = replace(experiment(pair()), model_path=str(tmp_path / "model"))
    for file in launch(planned).files:
        (tmp_path / file.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.path).write_text(file.content)
    done = subprocess.run(["bash", "start-triton.sh"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "there is no engine in" in done.stderr and "trtllm-build" in done.stderr
    known = TRITON.diagnose([done.stderr])
    assert known is not None and known.name == "triton-engine-missing"
    script = (tmp_path / "start-triton.sh").read_text().replace(str(STAND_INS), str(tmp_path / "gone"))
    (tmp_path / "start-triton.sh").write_text(script)
    done = subprocess.run(["bash", "start-triton.sh"], cwd=tmp_path, capture_output=True, text=True, check=False)
    known = TRITON.diagnose([done.stderr])
    assert done.returncode == 1 and known is not None and known.name == "triton-release-missing", done.stderr


def a_mark() -> str:
    """Like the mark of a start. Each its own: at its end a script kills whatever has its mark in its command line."""
    return uuid.uuid4().hex


def startable(folder: Path, mpirun: str, mark: str) -> dict[str, str]:
    """The files of a start with engines that are there, and ``mpirun`` as given; the environment to run it in."""
    planned = replace(experiment(pair("TP2", 1, "TP1", 1)), model_path=str(folder / "model"))
    for file in launch(planned).files:
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.path).write_text(file.content)
    for problem in TRITON.check_inputs(planned, Path):
        engine(Path(problem.split(" in ")[1].split(" (")[0]))
    (folder / "mpirun").write_text(f"#!/bin/bash\n{mpirun}")
    (folder / "mpirun").chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "RATEMATCH_RUN": mark}


def test_the_start_script_runs_one_job_and_leaves_no_shared_memory(tmp_path: Path) -> None:
    """With a program of ours in place of mpirun: every rank's words arrive, and none of Slurm's variables."""
    mark = a_mark()
    left = Path("/dev/shm") / f"rm_{mark}_0_left"
    mpirun = f'printf "%s\\n" "$@" >words\nenv >environment\ntouch {left}\nexit 3\n'
    environment = startable(tmp_path, mpirun, mark) | {"SLURM_JOB_ID": "7", "PMIX_RANK": "0"}
    done = subprocess.run(
        ["bash", "start-triton.sh"], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 3 and not left.exists()
    words = (tmp_path / "words").read_text().split("\n")
    assert words.count("tritonserver") == 4 and words.count(":") == 3
    assert [word for word in words if "shm" in word] == [
        f"--backend-config=python,shm-region-prefix-name=rm_{mark}_{rank}_" for rank in range(4)
    ]
    inherited = (tmp_path / "environment").read_text()
    assert "SLURM_JOB_ID" not in inherited and "PMIX_RANK" not in inherited and "TRTLLM_ORCHESTRATOR=1" in inherited
    assert (tmp_path / "repository" / "context" / "1" / "model.py").is_symlink()
    assert (tmp_path / "repository" / "ensemble" / "1").is_dir()


def test_the_start_script_ends_the_job_when_it_is_stopped_itself(tmp_path: Path) -> None:
    """run.sh stops the script and not its children."""
    mark = a_mark()
    left = Path("/dev/shm") / f"rm_{mark}_1_left"
    mpirun = f"trap 'touch stopped; exit 5' TERM\ntouch {left} up\nwhile :; do sleep 0.05; done\n"
    environment = startable(tmp_path, mpirun, mark)
    process = subprocess.Popen(["bash", "start-triton.sh"], cwd=tmp_path, env=environment)
    try:
        wait_until((tmp_path / "up").exists, "the job to run")
        process.terminate()
        assert process.wait(60) == 5
    finally:
        process.kill()
    assert (tmp_path / "stopped").exists() and not left.exists()


def test_run_sh_copies_files_into_their_folders_and_sends_to_triton() -> None:
    planned = experiment(pair())
    script = run_script(planned, launch(planned), NODE, allocated=False)
    assert 'mkdir -p "$(dirname "$file")"; cp "$HERE/$file" "$file"' in script
    assert "MODEL=disaggregated_serving_bls" in script and script.count("--api generate-ids") == 3
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


def test_texts_go_to_the_ensemble() -> None:
    planned = replace(experiment(pair()), workload=replace(WORKLOAD, file="chats.jsonl"))
    assert (TRITON.request_api(planned).api, TRITON.request_api(planned).model) == ("generate", "ensemble")
    with_ids = replace(planned, workload=replace(WORKLOAD, file="chats.jsonl", tokenizer="tokenizer.json"))
    assert TRITON.request_api(with_ids).api == "generate-ids"


def test_every_value_is_explained_and_it_says_that_it_is_legacy() -> None:
    planned = experiment(pair(orchestrator={COUNT: 64}))
    explained = TRITON.explain_settings(planned)
    assert set(explained) == {"ctx", "gen", "orchestrator"}
    assert next(s for s in explained["orchestrator"] if s.key == COUNT).given
    assert all(setting.why for settings in explained.values() for setting in settings)
    assert LEGACY in TRITON.doubt_launch(launch(planned), planned)
    assert "LEGACY" in text_of(launch(planned), "start-triton.sh") and "legacy" in TRITON.product


# ------------------------------------------------------------------------------- versions, metrics, logs, probes


@pytest.mark.parametrize(
    ("text", "known"),
    [
        *((text, True) for text in ("1.2", "1.2.1", "v1.1.0", "1.0.0", "1.3.0rc20", "1.3.0rc5.post1")),
        *((text, False) for text in ("1.3", "1.3.0rc21", "1.3.0", "0.15", "main", "1.4")),
    ],
)
def test_versions_that_still_have_it(text: str, known: bool) -> None:
    assert TRITON.facts.has_version(text) is known


METRICS = """\
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="disaggregated_serving_bls",version="1"} 12
nv_inference_pending_request_count{model="ensemble",version="1"} 3
nv_trt_llm_request_metrics{model="context",request_type="waiting",version="1"} 1
nv_trt_llm_request_metrics{model="context",request_type="active",version="1"} 2
nv_trt_llm_request_metrics{model="generation",request_type="active",version="1"} 5
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used",model="context",version="1"} 10
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="context",version="1"} 100
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used",model="generation",version="1"} 90
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="generation",version="1"} 100
nv_trt_llm_general_metrics{general_type="iteration_counter",model="context",version="1"} %d
nv_trt_llm_general_metrics{general_type="iteration_counter",model="generation",version="1"} %d
"""


def test_metrics_under_the_common_names() -> None:
    (figures,) = read_metrics((METRICS % (1, 1)).encode())
    assert {name: figures[name] for name in ("active", "queued", "kv_used", "kv_max")} == {
        "active": 7.0,
        "queued": 13.0,
        "kv_used": 90.0,
        "kv_max": 100.0,
    }
    bare = b'nv_inference_pending_request_count{model="disaggregated_serving_bls",version="1"} 4\n'
    assert read_metrics(bare)[0]["queued"] == 4.0, "rank 0 may show no engine"
    assert "queued" not in read_metrics(b'nv_inference_pending_request_count{model="resnet"} 4\n')[0]


def test_iterations_from_one_look_to_the_next() -> None:
    read = IterationReader()
    assert read((METRICS % (10, 100)).encode(), 0) == []
    (step,) = read((METRICS % (12, 150)).encode(), 1_000_000_000)
    assert (step.iter, step.step_ms, step.active, step.queued) == (150, 20.0, 5.0, 12.0)
    assert (step.kv_used_blocks, step.kv_max_blocks) == (90.0, 100.0)
    assert read((METRICS % (12, 150)).encode(), 2_000_000_000) == []
    (step,) = read((METRICS % (14, 150)).encode(), 3_000_000_000)
    assert (step.iter, step.active) == (14, 2.0), "only context ran"
    with pytest.raises(ValueError, match="no iterations of TensorRT-LLM's backend"):
        read(b"nv_cpu_utilization 1\n", 0)


LINES = {
    "triton-stub-died": "Stub process 'generation_0_0' is not healthy.",
    "disagg-off": "[TensorRT-LLM][ERROR] Disaggregated serving is not enabled, please check the configuration?",
    "participants-missing": "Spawning of processes was disabled in orchestrator mode, but participant IDs is missing",
    "disagg-too-old": "Context-only and generation-only requests are NOT currently supported in orchestrator mode.",
    "triton-transfer-params": "AssertionError: Expected 1 context response",
    "triton-half-failed": "HTTP 400: in ensemble 'ensemble', Context model context failed with error: x",
    "triton-port": 'E1130 18:00:00.000000 7 main.cc:1 "failed: Unable to configure socket"',
    "triton-models-failed": "error: creating server: Internal - failed to load all models",
    "triton-stuck-at-end": '"failed to stop server: Internal - Exit timeout expired. Exiting immediately."',
    "triton-config": "E1130 18:00:00.000000 7 m.cc:1 Error parsing text-format inference.ModelConfig: 3:1: expected",
    "triton-not-installed": "ratematch.emulator.triton: there is no tritonserver known here: make an environment",
    "gpu-memory": "[TensorRT-LLM][ERROR] CUDA runtime error: torch.OutOfMemoryError: CUDA out of memory.",
}


@pytest.mark.parametrize(("name", "line"), LINES.items())
def test_failures_are_named(name: str, line: str) -> None:
    known = TRITON.diagnose([f"I1130 18:00:00.000000 7 server.cc:1 starting\n{line}\n"])
    assert known is not None and known.name == name


def test_every_row_is_tried_and_stands_in_the_page() -> None:
    tried = {*LINES, "triton-engine-missing", "triton-release-missing"}
    assert {row.diagnosis.name for row in OWN} == tried
    page = (Path(__file__).parents[2] / "docs" / "diagnosis.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in page for name in tried)


def test_ordinary_lines_of_a_cpu_are_no_failure_and_the_log_is_known_for_tritons() -> None:
    log = (
        'W1130 18:04:37.562595 460 pinned_memory_manager.cc:273] "Unable to allocate pinned system memory"\n'
        'I1130 18:04:43.697640 460 http_server.cc:4713] "Started HTTPService at 127.0.0.1:18602"\n'
    )
    assert TRITON.diagnose([log]) is None and TRITON.wrote(log)
    dead = log + "\nin ensemble 'ensemble', Stub process 'context_0_0' is not healthy.\n"
    known, reference = diagnose_logs([dead])
    assert known is not None and known.name == "triton-stub-died" and "Triton" in reference


def test_what_an_installation_says() -> None:
    flags = " ".join(
        f"--{flag}" for flag in ("exit-timeout-secs", "backend-config", "model-control-mode", "load-model")
    )
    answers = {
        "version": "1.2.0\n",
        "backend": "libtriton_tensorrtllm.so\ntrtllmExecutorWorker\n",
        "server": flags + " --metrics-port --http-address",
    }
    assert [finding.ok for finding in TRITON.judge_probe(answers)] == [True, True, True, True]
    legacy, version, backend, server = TRITON.judge_probe({"version": "1.3.0rc25", "backend": "", "server": ""})
    assert "deleted upstream" in str(legacy) and "no disaggregated model for Triton" in str(version)
    assert not version.ok and not backend.ok and not server.ok
    assert "says no version" in str(TRITON.judge_probe({})[1])
    assert shlex.join(TRITON.probe_commands(["tritonserver"])["server"]) == "tritonserver --help"
