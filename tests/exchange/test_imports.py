"""Recipes of other tools come back from an imported sweep, key for key; what has no place is listed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratematch.campaign.precheck import refuse_unlaunchable
from ratematch.cli import main
from ratematch.engines import ENGINES, find_engine
from ratematch.errors import RecipeError
from ratematch.exchange.recipes.choices import Choices, find_model_name, version_in_tag
from ratematch.exchange.recipes.convert import import_files, import_recipes
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.inputs.find import read_cluster
from ratematch.plan.cluster import Cluster
from ratematch.plan.expansion import expand
from ratematch.plan.experiment import Experiment, from_json, to_json
from ratematch.plan.load import Concurrency
from ratematch.plan.placement import nodes_needed, place
from ratematch.plan.sweep import Sweep
from ratematch.plan.sweepfile import parse_sweep
from tests.exchange import invented
from tests.support.examples import examples

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(ROOT)  # cluster profiles are looked for below the current folder
    yield


def write(folder: Path, content: dict[str, Any] | str, name: str = "recipe.yaml") -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else invented.to_text(content), encoding="utf-8")
    return str(path)


def read(text: str) -> tuple[Sweep, list[Experiment]]:
    def large(name: str) -> Cluster:
        return replace(read_cluster(name), nodes=64)

    sweep = parse_sweep(text, "s.yaml", find_model=load_model, find_cluster=large, find_gpu=load_gpu, engines=ENGINES)
    experiments = expand(sweep, find_engine("trtllm-serve").kv_settings).experiments
    # The way through a job's folder on disk changes nothing.
    return sweep, [from_json(json.loads(json.dumps(to_json(each)))) for each in experiments]


def rendered(sweep: Sweep, experiment: Experiment) -> tuple[dict[str, Any], dict[str, list[Any]], list[str]]:
    """Worker files by role, processes by role, and what the contract refuses."""
    engine = find_engine("trtllm-serve")
    nodes = nodes_needed(experiment.deployment, sweep.cluster.gpus_per_node)
    placement = place(experiment.deployment, sweep.cluster, [f"n{i}" for i in range(nodes)], 8000)
    plan = engine.plan_launch(experiment, placement, sweep.cluster, 1.0)
    files = {file.path.removesuffix(".yaml"): yaml.safe_load(file.content) for file in plan.files}
    processes: dict[str, list[Any]] = {}
    for process in plan.processes:
        processes.setdefault(process.role, []).append(process)
    sizes = {each.name: sum(len(place.gpus) for place in each.places) for each in placement.instances}
    assert all(
        sizes[p.name] == experiment_gpus(experiment, p.role)
        for ps in processes.values()
        for p in ps
        if p.name in sizes
    )
    return files, processes, engine.check_launch(plan, experiment)


def experiment_gpus(experiment: Experiment, role: str) -> int:
    return next(group.mapping.gpus for group in experiment.deployment.groups if group.role == role)


def same(one: Any, other: Any) -> bool:
    """Equal with types: 1, 1.0 and true differ."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def check_round_trip(path: str, shape: tuple[int, str, int, str, str, int], ctx: Any, gen: Any) -> list[str]:
    imported = import_recipes([path], Choices())
    sweep, (experiment,) = read(imported.text)
    files, processes, refused = rendered(sweep, experiment)
    assert same(files["ctx"], ctx)
    assert same(files["gen"], gen)
    assert (len(processes["ctx"]), len(processes["gen"])) == (shape[0], shape[2])
    assert experiment_gpus(experiment, "ctx") == ctx["tensor_parallel_size"]
    assert experiment_gpus(experiment, "gen") == gen["tensor_parallel_size"]
    for process in processes["ctx"]:
        assert invented.ENVIRONMENT.items() <= dict(process.env).items()
    for process in processes["gen"]:
        assert (invented.ENVIRONMENT | {"TLLM_LOG_LEVEL": "DEBUG"}).items() <= dict(process.env).items()
    assert [load.concurrency for load in experiment.loads if isinstance(load, Concurrency)] == [4, 192, 666]
    assert [load.num_requests for load in experiment.loads] == [40, 1920, 6660]
    assert experiment.workload.label == "1024/1024~0.8"
    assert sweep.cluster.gpus_per_node == shape[5]
    assert load_gpu(sweep.cluster.gpu).name == shape[4]
    return refused


# ------------------------------------------------------------------------------------------------ all keys and shapes


@pytest.mark.parametrize("schema", [1, 2])
@pytest.mark.parametrize("shape", invented.SHAPES, ids=lambda s: f"{s[0]}x{s[1]}-{s[2]}x{s[3]}-{s[4]}")
def test_every_shape_comes_back(shape: Any, schema: int, tmp_path: Path) -> None:
    ctx, gen = invented.worker(shape[1], 0), invented.worker(shape[3], 0)
    check_round_trip(write(tmp_path, invented.srt_recipe(shape, ctx, gen, schema=schema)), shape, ctx, gen)


@pytest.mark.parametrize("shape", invented.SHAPES, ids=lambda s: f"{s[0]}x{s[1]}-{s[2]}x{s[3]}-{s[4]}")
def test_usual_recipes_of_every_shape_may_be_launched(shape: Any, tmp_path: Path) -> None:
    recipe = invented.srt_recipe(shape, *invented.usual_pair(shape[1], shape[3]))
    sweep, experiments = read(import_recipes([write(tmp_path, recipe)], Choices()).text)
    refuse_unlaunchable(sweep, experiments, here=False)


@pytest.mark.parametrize("turn", range(16))
def test_every_value_of_every_key_comes_back_and_is_accepted(turn: int, tmp_path: Path) -> None:
    shape = invented.SHAPES[0]
    # Both sides of a KV transfer agree in these; the other values differ.
    shared = {key: invented.WORKER_VALUES[key][turn % len(invented.WORKER_VALUES[key])] for key in invented.AGREEING}
    ctx, gen = invented.worker(shape[1], turn), invented.worker(shape[3], turn + 1, **shared)
    refused = check_round_trip(write(tmp_path, invented.srt_recipe(shape, ctx, gen)), shape, ctx, gen)
    assert refused == []


@settings(max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_mixture_of_keys_comes_back(data: st.DataObject, tmp_path: Path) -> None:
    shape = data.draw(st.sampled_from(invented.SHAPES))
    configs = []
    for label in (shape[1], shape[3]):
        chosen = data.draw(
            st.fixed_dictionaries(
                {}, optional={key: st.sampled_from(values) for key, values in invented.WORKER_VALUES.items()}
            )
        )
        configs.append({**invented.parallelism(label), **chosen})
    recipe = invented.srt_recipe(shape, *configs, schema=data.draw(st.sampled_from([1, 2])))
    check_round_trip(write(tmp_path, recipe), shape, *configs)


def test_aggregated_recipe_without_a_load_takes_it_from_options(tmp_path: Path) -> None:
    config = {
        "tensor_parallel_size": 1,
        "moe_expert_parallel_size": 1,
        "max_batch_size": 16,
        "max_num_tokens": 8320,
        "max_seq_len": 9344,
        "gpus_per_node": 4,
    }
    recipe = {
        "name": "agg",
        "model": {"path": "hf:openai/gpt-oss-120b", "container": "x"},
        "resources": {"gpu_type": "gb200", "gpus_per_node": 4, "agg_nodes": 1, "agg_workers": 1, "gpus_per_agg": 1},
        "environment": {"PYTHONUNBUFFERED": "1"},
        "backend": {
            "type": "trtllm",
            "aggregated_environment": {"DYN_HEALTH_CHECK_ENABLED": "false"},
            "trtllm_config": {"aggregated": config},
        },
        "benchmark": {"type": "manual"},
        "frontend": invented.NATIVE_FRONTEND,
    }
    path = write(tmp_path, recipe)
    with pytest.raises(RecipeError, match="--workload"):
        import_recipes([path], Choices())
    imported = import_recipes([path], Choices(workload=(8192, 1024), concurrency=(1, 8)))
    sweep, (experiment,) = read(imported.text)
    files, processes, refused = rendered(sweep, experiment)
    assert same(files["agg"], config)
    assert refused == []
    assert experiment.stage == "ifb"
    assert sweep.model_path == "openai/gpt-oss-120b"
    assert {"PYTHONUNBUFFERED": "1", "DYN_HEALTH_CHECK_ENABLED": "false"}.items() <= dict(
        processes["agg"][0].env
    ).items()
    assert experiment.workload.label == "8192/1024"


# ------------------------------------------------------------------------------------------------ TensorRT-LLM's own


def test_trtllm_benchmark_config_comes_back(tmp_path: Path) -> None:
    ctx, gen = invented.worker("DEP4", 0), invented.worker("DEP8", 1)
    path = write(tmp_path, invented.trtllm_config(ctx, gen), "config.yaml")
    imported = import_recipes([path], Choices(cluster="gb200-nvl72"))
    sweep, (experiment,) = read(imported.text)
    files, processes, _ = rendered(sweep, experiment)
    assert same(files["ctx"], ctx)
    assert same(files["gen"], gen)
    assert (len(processes["ctx"]), len(processes["gen"])) == (2, 3)
    # Its clients multiply the listed concurrency by the generation servers.
    assert [load.concurrency for load in experiment.loads if isinstance(load, Concurrency)] == [48, 192]
    assert [load.num_requests for load in experiment.loads] == [240, 960]
    assert experiment.workload.label == "1024/1024"
    assert sweep.engine.version == "1.3.0rc17"
    environment = dict(processes["gen"][0].env)
    assert (environment["UCX_TLS"], environment["NOTE"]) == ("rc,tcp", "two words")
    left = {each.where.rpartition(": ")[2] for each in imported.unsupported}
    assert {"benchmark.benchmark_ratio", "slurm", "environment.container_image"} <= left


def test_sa_client_draws_lengths_from_a_range(tmp_path: Path) -> None:
    ctx, gen = invented.worker("DEP4", 0), invented.worker("DEP8", 0)
    config = invented.trtllm_config(ctx, gen, use_nv_sa_benchmark=True, mode="gen_only")
    imported = import_recipes([write(tmp_path, config)], Choices(cluster="gb200-nvl72"))
    _, (experiment,) = read(imported.text)
    assert experiment.workload.osl_ratio == 0.8
    assert any(each.where.endswith("benchmark.mode") for each in imported.unsupported)


def test_trtllm_config_names_no_gpu(tmp_path: Path) -> None:
    path = write(tmp_path, invented.trtllm_config(invented.worker("DEP4", 0), invented.worker("DEP8", 0)))
    with pytest.raises(RecipeError, match="--cluster"):
        import_recipes([path], Choices())


# ------------------------------------------------------------------------------------------------ nothing is dropped


def leaves(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else key)
    else:
        yield path


def test_every_unknown_key_of_a_recipe_is_listed(tmp_path: Path) -> None:
    shape = invented.SHAPES[0]
    recipe = invented.srt_recipe(shape, invented.worker(shape[1], 0), invented.worker(shape[3], 0))
    strange = {
        "sbatch_directives": {"qos": "high"},
        "health_check": {"max_attempts": 360, "interval_seconds": 10},
        "frontend": {"type": "dynamo", "args": {"router-mode": "kv"}},
        "profiling": {"type": "nsys", "prefill": {"start_step": 1}},
        "something_new": [1, 2],
        "empty": {},
    }
    recipe |= strange
    recipe["benchmark"] |= {"use_chat_template": True, "req_rate": 4}
    recipe["backend"] |= {"numa_memory_bind": True, "decode_extra_args": ["--tool_parser", "glm47"]}
    recipe["resources"]["spread_workers"] = True
    left = import_recipes([write(tmp_path, recipe)], Choices(engine="trtllm-serve")).unsupported
    listed = {key for each in left for key in leaves(each.value, each.where.rpartition(": ")[2])}
    assert set(leaves(strange)) <= listed
    assert {
        "benchmark.use_chat_template",
        "benchmark.req_rate",
        "backend.numa_memory_bind",
        "backend.decode_extra_args",
        "resources.spread_workers",
        "model.container",
    } <= listed
    assert not any("trtllm_config" in key or "isl" in key for key in listed)


def test_unknown_worker_key_is_kept_and_told(tmp_path: Path) -> None:
    shape = invented.SHAPES[0]
    ctx, gen = invented.worker(shape[1], 0), invented.worker(shape[3], 0, brand_new={"deep": [1]})
    gen["kv_cache_config"] = {**gen["kv_cache_config"], "use_kv_cache_manager_v3": True}
    gen |= {"number": 5, "digits": "5", "list": [1, "a"], "empty": {}, "nothing": None, "text": "a: b # c"}
    imported = import_recipes([write(tmp_path, invented.srt_recipe(shape, ctx, gen))], Choices())
    sweep, (experiment,) = read(imported.text)
    files, _, refused = rendered(sweep, experiment)
    assert same(files["gen"], gen)
    assert refused == []
    notes = "\n".join(imported.notes)
    assert "brand_new is not known in trtllm-serve 1.2" in notes
    assert "kv_cache_config.use_kv_cache_manager_v3 is not known" in notes


def test_variables_that_the_profile_adds_are_told(tmp_path: Path) -> None:
    shape = invented.SHAPES[0]
    recipe = invented.srt_recipe(shape, invented.worker(shape[1], 0), invented.worker(shape[3], 0))
    recipe["backend"]["prefill_environment"] = {"A": 1}
    notes = "\n".join(import_recipes([write(tmp_path, recipe)], Choices()).notes)
    assert "cluster gb200-nvl72 add to the environment" in notes
    assert "TRTLLM_ENABLE_PDL=1" in notes


def test_secrets_of_a_recipe_are_not_copied(tmp_path: Path) -> None:
    shape = invented.SHAPES[0]
    recipe = invented.srt_recipe(shape, invented.worker(shape[1], 0), invented.worker(shape[3], 0))
    recipe["backend"]["prefill_environment"] = {"HF_TOKEN": "hf_canary4711", "TRTLLM_DEEP_EP_TOKEN_LIMIT": "9999"}
    imported = import_recipes([write(tmp_path, recipe)], Choices())
    assert "hf_canary4711" not in repr(imported)
    assert "HF_TOKEN: '***'" in imported.text and "TRTLLM_DEEP_EP_TOKEN_LIMIT: '9999'" in imported.text
    assert "values of secrets are not copied, set them where the sweep is started: HF_TOKEN" in "\n".join(
        imported.notes
    )


def test_orchestrator_keys_go_to_the_orchestrator(tmp_path: Path) -> None:
    shape = invented.SHAPES[0]
    recipe = invented.srt_recipe(shape, invented.worker(shape[1], 0), invented.worker(shape[3], 0))
    recipe["frontend"] = {
        "type": "trtllm_serve",
        "enable_multiple_frontends": False,
        "ctx_router": {"type": "load_balancing", "use_tokens": True},
        "server_config_extra": {"max_retries": 3, "context_servers": {"stream_interval": 20}},
    }
    imported = import_recipes([write(tmp_path, recipe)], Choices())
    sweep, (experiment,) = read(imported.text)
    files, _, refused = rendered(sweep, experiment)
    assert files["orchestrator"]["context_servers"]["router"] == {"type": "load_balancing", "use_tokens": True}
    assert files["orchestrator"]["context_servers"]["num_instances"] == 1
    assert files["orchestrator"]["context_servers"]["stream_interval"] == 20
    assert files["orchestrator"]["max_retries"] == 3
    assert "frontend" not in " ".join(each.where for each in imported.unsupported)
    plain = replace(experiment, deployment=replace(experiment.deployment, orchestrator={}))
    assert plain.id != experiment.id
    old = to_json(plain)
    del old["deployment"]["orchestrator"]  # an experiment stored before the key existed
    assert from_json(old).id == plain.id
    assert refused == []


# ------------------------------------------------------------------------------------------------ contradictions


def broken(**changes: Any) -> dict[str, Any]:
    shape = invented.SHAPES[0]
    recipe = invented.srt_recipe(shape, invented.worker(shape[1], 0), invented.worker(shape[3], 0))
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        place = recipe
        for parent in parents:
            place = place[parent]
        place[last] = value
    return recipe


@pytest.mark.parametrize(
    ("changes", "key", "right"),
    [
        ({"resources__gpus_per_decode": 4}, "gpus_per_decode", "write gpus_per_decode: 8"),
        ({"resources__decode_nodes": 7}, "decode_nodes", "write decode_nodes: 8"),
        ({"resources__decode_workers": "many"}, "decode_workers", "whole number"),
        ({"resources__decode_workers": None}, "decode_workers", "is missing"),
        ({"backend__trtllm_config__decode__moe_expert_parallel_size": 3}, "moe_expert_parallel_size", "valid ep are"),
        ({"backend__type": "sglang"}, "type", "only trtllm"),
        ({"backend__prefill_environment": {"ENROOT_ALLOW_DEV": True}}, "ENROOT_ALLOW_DEV", "quotes"),
        ({"benchmark__concurrencies": "4xlots"}, "concurrencies", "1x4x16"),
        ({"resources__gpu_type": "tpu"}, "gpu_type", "not known"),
        ({"resources__gpus_per_node": 16}, "gpu_type", "no cluster profile with 16 x gb200"),
        ({"benchmark__num_prompts_mult": -1}, "num_prompts_mult", "above 0"),
        ({"model__path": "/weights/Nobody-7B-NVFP4"}, "path", "--model"),
        ({"model__path": "/weights/DeepSeek-R1-Distill-Llama-70B"}, "path", "--model"),
    ],
)
def test_contradictions_name_file_line_and_what_would_be_right(
    changes: dict[str, Any], key: str, right: str, tmp_path: Path
) -> None:
    path = write(tmp_path, broken(**changes))
    with pytest.raises(RecipeError) as caught:
        import_recipes([path], Choices())
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    numbers = {number for number, line in enumerate(lines, 1) if line.strip().startswith(f"{key}:")}
    text = str(caught.value)
    assert right in text
    assert any(f"recipe.yaml:{number}" in text for number in numbers), text


def test_tp_that_fills_no_whole_nodes_is_refused(tmp_path: Path) -> None:
    recipe = broken(
        resources__gpus_per_decode=6,
        resources__decode_nodes=6,
        backend__trtllm_config__decode__tensor_parallel_size=6,
        backend__trtllm_config__decode__moe_expert_parallel_size=6,
    )
    with pytest.raises(RecipeError, match="does not fill whole nodes of 4"):
        import_recipes([write(tmp_path, recipe)], Choices())


@pytest.mark.parametrize("text", ["", "a: [", "a: 1\n", "- 1\n"])
def test_files_that_are_no_recipes(text: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.yaml:1"):
        import_recipes([write(tmp_path, text)], Choices())


def test_number_keys_are_not_turned_into_text_in_silence(tmp_path: Path) -> None:
    shape = invented.SHAPES[0]
    gen = invented.worker(shape[3], 0, moe_config={"load_balancer": {"initial_global_assignments": {3: [0, 1]}}})
    with pytest.raises(RecipeError, match="initial_global_assignments"):
        import_recipes([write(tmp_path, invented.srt_recipe(shape, invented.worker(shape[1], 0), gen))], Choices())


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, (*path, key))


@settings(max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_spoilt_recipe_ends_in_a_message_or_a_sweep(data: st.DataObject, tmp_path: Path) -> None:
    worker = [invented.worker("DEP4", 0), invented.worker("TEP8", 0)]
    content = data.draw(
        st.sampled_from(
            [
                invented.srt_recipe(invented.SHAPES[0], *worker),
                invented.srt_recipe(invented.SHAPES[0], *worker, schema=2),
                invented.trtllm_config(*worker),
                overrides(override_a={"benchmark": {"isl": 2048}}),
            ]
        )
    )
    content = json.loads(json.dumps(content))
    *parents, last = data.draw(st.sampled_from(list(paths(content))))
    place = content
    for parent in parents:
        place = place[parent]
    place[last] = data.draw(st.sampled_from([None, 0, -1, 3, 2.5, "x", "", True, [], [1, "a", None], {}, {"a": {}}]))
    try:
        imported = import_recipes([write(tmp_path, content)], Choices(cluster="gb200-nvl72"))
    except RecipeError as error:
        assert "recipe.yaml" in str(error)
    else:
        read(imported.text)


# ------------------------------------------------------------------------------------------------ several at once


def overrides(**variants: Any) -> dict[str, Any]:
    shape = invented.SHAPES[0]
    return {
        "base": invented.srt_recipe(shape, invented.worker(shape[1], 0), invented.worker(shape[3], 0)),
        **variants,
    }


def test_overrides_and_zips_become_deployments(tmp_path: Path) -> None:
    content = overrides(
        override_small={
            "resources": {"decode_workers": 2, "decode_nodes": 4},
            "backend": {"trtllm_config": {"decode": {"allreduce_strategy": None, "max_batch_size": 5}}},
        },
        zip_override_ladder={
            "name": ["one", "two"],
            "benchmark": {"concurrencies": [[1, 2], [3]], "isl": [1024], "osl": [256, 512]},
        },
    )
    path = write(tmp_path, content)
    imported = import_recipes([path], Choices())
    sweep, experiments = read(imported.text)
    assert [recipe.name for recipe in imported.recipes] == ["made-up_small", "one", "two"]
    assert [each.deployment.gen.instances for each in experiments if each.deployment.gen] == [2, 4, 4]
    assert [each.workload.osl for each in experiments] == [1024, 256, 512]
    assert [[getattr(load, "concurrency", None) for load in each.loads] for each in experiments[1:]] == [[1, 2], [3]]
    files, _, _ = rendered(sweep, experiments[0])
    assert files["gen"]["max_batch_size"] == 5
    assert "allreduce_strategy" not in files["gen"], "null in an override takes a key away"
    assert files["ctx"]["cuda_graph_config"] is None, "null in the base stays"
    one = import_recipes([f"{path}:zip_override_ladder[1]"], Choices())
    assert [recipe.name for recipe in one.recipes] == ["two"]
    assert [recipe.name for recipe in import_recipes([f"{path}:base"], Choices()).recipes] == ["made-up"]
    with pytest.raises(RecipeError, match="there are base, override_small"):
        import_recipes([f"{path}:override_large"], Choices())


def test_zipped_lists_of_different_lengths_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, overrides(zip_override_x={"benchmark": {"isl": [1, 2], "osl": [2, 3, 4]}}))
    with pytest.raises(RecipeError, match="different lengths"):
        import_recipes([path], Choices())


def test_problem_in_an_override_is_told_at_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, overrides(override_bad={"resources": {"gpus_per_decode": 2}}))
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    (_, number) = [number for number, line in enumerate(lines, 1) if "gpus_per_decode" in line]
    with pytest.raises(RecipeError, match=f"recipe.yaml:{number}: resources.gpus_per_decode"):
        import_recipes([path], Choices())


def test_sweep_placeholders_are_multiplied_with_their_types(tmp_path: Path) -> None:
    recipe = broken(
        sweep={"fraction": [0.6, 0.8], "conc": [8, 16]},
        benchmark__concurrencies=["{conc}"],
        backend__trtllm_config__decode__kv_cache_config={"free_gpu_memory_fraction": "{fraction}", "dtype": "fp8"},
    )
    _, experiments = read(import_recipes([write(tmp_path, recipe)], Choices()).text)
    # Two deployments: the concurrencies of one deployment are one ladder.
    assert [[getattr(load, "concurrency", None) for load in each.loads] for each in experiments] == [[8, 16], [8, 16]]
    assert [
        each.deployment.gen.config["kv_cache_config"]["free_gpu_memory_fraction"]
        for each in experiments
        if each.deployment.gen and each.deployment.gen.config
    ] == [0.6, 0.8]


def test_into_writes_one_file_and_output_folder_one_each(tmp_path: Path) -> None:
    first = write(tmp_path, broken(name="first"), "a.yaml")
    second = write(tmp_path, broken(name="second", benchmark__isl=8192), "b.yaml")
    (whole,) = import_files([first, second], Choices(), into=tmp_path / "all.yaml")
    sweep, experiments = read((tmp_path / "all.yaml").read_text(encoding="utf-8"))
    assert sweep.name == "all" == whole.name
    assert [each.workload.isl for each in experiments] == [1024, 8192]
    assert [each.path for each in import_files([first, second], Choices(), output=tmp_path / "out")] == [
        tmp_path / "out" / "first.yaml",
        tmp_path / "out" / "second.yaml",
    ]
    with pytest.raises(RecipeError, match="is there already"):
        import_files([first], Choices(), into=tmp_path / "all.yaml")
    with pytest.raises(RecipeError, match="folder"):
        import_files([first, second], Choices())


# ------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("dsr1-fp8", "deepseek-r1"),
        ("/lustre/models/DeepSeek-R1-0528-FP4-v2", "deepseek-r1"),
        ("/lustre/models/nvidia_DeepSeek-R1-0528-NVFP4", "deepseek-r1"),
        ("Qwen/Qwen3-235B-A22B-FP8", "qwen3-235b-a22b"),
        ("/models/DeepSeek-R1-Distill-Llama-70B", None),
        ("/models/GLM-5-NVFP4", "glm-5"),
        ("/models/Nobody-7B-NVFP4", None),
        ("", None),
    ],
)
def test_model_behind_a_path(path: str, name: str | None) -> None:
    assert find_model_name(path) == name


@pytest.mark.parametrize(
    ("container", "version"),
    [
        ("nvcr.io/nvidia/tensorrt-llm/release:1.2.0rc6", "1.2"),
        ("/images/nvidia+tensorrt-llm+release+1.3.0rc17.sqsh", "1.3"),
        ("nvcr.io/nvidia/tensorrt-llm/release:1.0.0", None),
        ("nvcr.io#nvidia/ai-dynamo/tensorrtllm-runtime:0.8.1", None),
        ("dynamo-trtllm", None),
    ],
)
def test_version_behind_a_container(container: str, version: str | None) -> None:
    assert version_in_tag(container) == version


# ------------------------------------------------------------------------------------------------ command line


def test_command_prints_the_sweep_and_tells_the_rest_apart(tmp_path: Path) -> None:
    path = write(tmp_path, broken(health_check={"max_attempts": 3}))
    done = CliRunner().invoke(main, ["import", "recipe", path])
    assert done.exit_code == 0, done.output
    assert read(done.stdout)[0].name == "made-up"
    assert "1x DEP4 + 4x TEP8, MTP 3" in done.stdout
    assert str(tmp_path) not in done.stdout, "where the recipe lay tells others nothing"
    assert "no counterpart:" in done.stderr and "health_check: {max_attempts: 3}" in done.stderr


def test_command_with_json_lists_what_is_left(tmp_path: Path) -> None:
    path = write(tmp_path, broken(health_check={"max_attempts": 3}))
    done = CliRunner().invoke(main, ["import", "recipe", path, "--json", "-o", str(tmp_path / "s.yaml")])
    (sweep,) = json.loads(done.stdout)["sweeps"]
    assert {"max_attempts": 3} in [left["value"] for left in sweep["left"]]
    assert sweep["path"] == str(tmp_path / "s.yaml")
    assert sweep["deployments"][0]["shape"] == "1x DEP4 + 4x TEP8, MTP 3"
    planned = CliRunner().invoke(main, ["plan", str(tmp_path / "s.yaml"), "--json"])
    assert planned.exit_code == 0, planned.output


def test_command_ends_with_one_line_a_problem(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["import", "recipe", write(tmp_path, broken(resources__gpus_per_decode=4))])
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "gpus_per_decode" in done.stderr
