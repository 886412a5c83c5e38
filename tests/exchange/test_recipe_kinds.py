"""Recipes as people publish them: what the engine takes is imported and planned, what cannot run is told exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ratematch.cli import main
from ratematch.engines.trtllm_serve.contract import release_line
from ratematch.errors import ClusterError, RecipeError
from ratematch.exchange.recipes.choices import Choices, version_in_tag
from ratematch.exchange.recipes.convert import Imported, import_recipes
from ratematch.inputs.find import read_cluster
from tests.exchange import invented

ROOT = Path(__file__).parents[2]
SHAPE = (1, "DEP4", 1, "DEP8", "gb300", 4)


@pytest.fixture(autouse=True)
def nothing_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("RATEMATCH_CLUSTERS", raising=False)


def write(content: dict[str, Any], name: str = "recipe.yaml") -> str:
    Path(name).write_text(invented.to_text(content), encoding="utf-8")
    return name


def pair(**changes: Any) -> dict[str, Any]:
    """A disaggregated recipe that is right, with ``section__key`` replaced."""
    return changed(invented.srt_recipe(SHAPE, *invented.usual_pair(SHAPE[1], SHAPE[3])), **changes)


def single(**changes: Any) -> dict[str, Any]:
    """An aggregated recipe of one GPU."""
    config = {"tensor_parallel_size": 1, "max_batch_size": 64, "max_num_tokens": 4096, "max_seq_len": 2304}
    recipe = {
        "name": "one",
        "model": {"path": "hf:openai/gpt-oss-120b", "container": "someone/runtime:1.1.0"},
        "resources": {"gpu_type": "b200", "gpus_per_node": 8, "agg_nodes": 1, "agg_workers": 1, "gpus_per_agg": 1},
        "backend": {"type": "trtllm", "trtllm_config": {"aggregated": config}},
        "benchmark": {"type": "sa-bench", "isl": 1024, "osl": 1024, "concurrencies": [1, 8]},
        "frontend": invented.NATIVE_FRONTEND,
    }
    return changed(recipe, **changes)


def changed(recipe: dict[str, Any], **changes: Any) -> dict[str, Any]:
    recipe = json.loads(json.dumps(recipe))
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        place = recipe
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    return recipe


def planned(imported: Imported, *more: str) -> Result:
    Path("sweep.yaml").write_text(imported.text, encoding="utf-8")
    return CliRunner().invoke(main, ["plan", "sweep.yaml", "--json", *more])


def check_planned(imported: Imported) -> dict[str, Any]:
    done = planned(imported)
    assert done.exit_code == 0, done.output
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def engine_line(imported: Imported) -> str:
    return next(line for line in imported.text.splitlines() if line.startswith("engine:"))


# -------------------------------------------------------------------------------------------- what the engine takes


@pytest.mark.parametrize("mtp", [0, 1, 3])
@pytest.mark.parametrize(("isl", "chunked"), [(1024, False), (8192, False), (8192, True)])
def test_ctx_tokens_may_equal_isl(isl: int, chunked: bool, mtp: int) -> None:
    block = {"decoding_type": "MTP", "num_nextn_predict_layers": mtp} if mtp else None
    tokens = 4096 if chunked else isl
    recipe = pair(
        benchmark__isl=isl,
        backend__trtllm_config__prefill__max_num_tokens=tokens,
        backend__trtllm_config__prefill__enable_chunked_prefill=chunked,
        backend__trtllm_config__prefill__max_seq_len=isl + 40,
        backend__trtllm_config__decode__max_seq_len=isl + 1100,
        backend__trtllm_config__prefill__speculative_config=block,
        backend__trtllm_config__decode__speculative_config=block,
    )
    imported = import_recipes([write(recipe)], Choices())
    assert imported.refused == ()
    assert check_planned(imported)["warnings"] == []


def test_a_prompt_longer_than_ctx_tokens_is_told_at_the_import() -> None:
    recipe = pair(benchmark__isl=8449, backend__trtllm_config__prefill__max_seq_len=9000)
    recipe["backend"]["trtllm_config"]["decode"]["max_seq_len"] = 9600
    imported = import_recipes([write(recipe)], Choices())
    (why,) = imported.refused
    assert why == "made-up: ctx DEP4: max_num_tokens 8448 is less than ISL 8449: raise it, or turn chunked prefill on"
    assert "max_num_tokens 8448 is less than ISL 8449" in planned(imported).output


@pytest.mark.parametrize("without", ["prefill", "decode"])
def test_drafts_on_one_side_are_a_warning(without: str) -> None:
    recipe = pair(**{f"backend__trtllm_config__{without}__speculative_config": None})
    imported = import_recipes([write(recipe)], Choices())
    assert imported.refused == ()
    assert any("warning: speculative_config.decoding_type" in note for note in imported.notes)
    assert any("speculative_config.decoding_type" in warning for warning in check_planned(imported)["warnings"])
    rendered = CliRunner().invoke(main, ["render", "sweep.yaml", "-o", "out"])
    assert rendered.exit_code == 0 and "warning: " in rendered.output


@pytest.mark.parametrize("schema", [1, 2])
def test_eplb_slots_are_what_ep_divides(schema: int) -> None:
    ctx, gen = invented.usual_pair("DEP4", "DEP48")
    gen["moe_config"] = {"backend": "WIDEEP", "load_balancer": {"num_slots": 288, "layer_updates_per_iter": 1}}
    shape = (1, "DEP4", 1, "DEP48", "gb300", 4)
    imported = import_recipes([write(invented.srt_recipe(shape, ctx, gen, schema=schema))], Choices())
    assert imported.refused == ()
    check_planned(imported)
    gen["moe_config"]["load_balancer"]["num_slots"] = 256
    with pytest.raises(RecipeError, match="ep=48 does not divide the 256 experts"):
        import_recipes([write(invented.srt_recipe(shape, ctx, gen, schema=schema))], Choices())


# ------------------------------------------------------------------------------------------------ what plan refuses


REFUSED: tuple[tuple[str, dict[str, Any], Choices, str], ...] = (
    (
        "drafts of a model without MTP layers",
        pair(model__path="Qwen/Qwen3-235B-A22B-FP8"),
        Choices(),
        "MTP needs a checkpoint with MTP layers; qwen3-235b-a22b has none",
    ),
    (
        "weights that do not fit",
        single(model__path="/weights/DeepSeek-R1-0528", resources__gpu_type="h200"),
        Choices(),
        "the weights do not fit",
    ),
    (
        "no room for one request",
        single(backend__trtllm_config__aggregated__kv_cache_config={"free_gpu_memory_fraction": 1e-5}),
        Choices(),
        "needed",
    ),
    ("longer than max_seq_len", single(benchmark__osl=2048), Choices(), "are more than max_seq_len 2304"),
    (
        "longer than the model takes",
        single(
            benchmark__isl=200_000,
            backend__trtllm_config__aggregated={"tensor_parallel_size": 1, "max_num_tokens": 250_000},
        ),
        Choices(),
        "was made for",
    ),
    (
        "a value that the version does not take",
        pair(backend__trtllm_config__decode__moe_config={"backend": "DENSEGEMM"}),
        Choices(version="1.2"),
        "'DENSEGEMM' is not valid in 1.2",
    ),
    (
        "more nodes than the profile has",
        pair(resources__decode_workers=40, resources__decode_nodes=80),
        Choices(),
        "81 nodes",
    ),
    (
        "sides that differ",
        pair(backend__trtllm_config__decode__cache_transceiver_config={"backend": "NIXL"}),
        Choices(),
        "both sides of a KV transfer must agree",
    ),
    (
        "a step shorter than the drafts",
        pair(backend__trtllm_config__decode__max_num_tokens=3),
        Choices(),
        "MTP 3 + 1 tokens a step",
    ),
)


@pytest.mark.parametrize(
    ("recipe", "choices", "why"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED]
)
def test_what_plan_refuses_the_import_says(recipe: dict[str, Any], choices: Choices, why: str) -> None:
    imported = import_recipes([write(recipe)], choices)
    assert any(why in each for each in imported.refused), imported.refused
    assert any(line.startswith("plan refuses: ") for line in imported.messages())
    assert planned(imported).exit_code == 1


def test_a_model_that_cannot_be_split_so_is_refused_with_the_reason() -> None:
    recipe = single(backend__trtllm_config__aggregated__tensor_parallel_size=3, resources__gpus_per_agg=3)
    with pytest.raises(RecipeError, match="tp=3 does not divide the 64 attention heads"):
        import_recipes([write(recipe)], Choices())


def test_the_command_says_it_and_writes_the_file() -> None:
    write(pair(model__path="Qwen/Qwen3-235B-A22B-FP8"))
    done = CliRunner().invoke(main, ["import", "recipe", "recipe.yaml", "-o", "out.yaml"])
    assert done.exit_code == 0 and Path("out.yaml").exists()
    assert "plan refuses: made-up: ctx.yaml: speculative_config: MTP needs a checkpoint" in done.stderr
    told = CliRunner().invoke(main, ["import", "recipe", "recipe.yaml", "--json"])
    (sweep,) = json.loads(told.stdout)["sweeps"]
    assert len(sweep["refused"]) == 2 and sweep["left_out"] == []


@pytest.mark.parametrize("block", [{"decoding_type": "MTP"}, {"decoding_type": "MTP", "max_draft_len": 2}])
def test_draft_lengths_are_those_of_the_engine(block: dict[str, Any]) -> None:
    recipe = pair()
    for role in ("prefill", "decode"):
        recipe["backend"]["trtllm_config"][role]["speculative_config"] = block
    imported = import_recipes([write(recipe)], Choices())
    assert imported.refused == ()
    (experiment,) = check_planned(imported)["experiments"]
    assert experiment["label"].endswith(f"mtp{block.get('max_draft_len', 1)}")


# ------------------------------------------------------------------------------------------------ sweeps of recipes


def swept(**axes: list[Any]) -> dict[str, Any]:
    recipe = single(resources__gpus_per_agg=None, sweep=axes)
    config = recipe["backend"]["trtllm_config"]["aggregated"]
    config |= {f"{long}_parallel_size": f"{{{key}}}" for key, long in NAMES.items() if key in axes}
    return recipe


NAMES = {"tp": "tensor", "pp": "pipeline", "ep": "moe_expert"}


def test_combinations_that_cannot_be_are_left_out_and_listed() -> None:
    imported = import_recipes([write(swept(tp=[1, 2, 4, 8], pp=[1, 2, 4, 8], ep=[1, 2, 4, 8]))], Choices())
    # Each worker has a node of eight GPUs, and ep divides tp.
    assert len(imported.recipes) == 10 and len(imported.left_out) == 54
    assert {recipe.gpus for recipe in imported.recipes} == {8}
    assert len(check_planned(imported)["experiments"]) == 10
    reasons = {part.combination: part.reason for part in imported.left_out}
    assert "ep=8 does not divide tp=4" in reasons["tp=4 pp=2 ep=8"]
    assert "needs tp 2 x pp 2 x cp 1 = 4" in reasons["tp=2 pp=2 ep=1"]
    assert sum(line.startswith("left out: ") for line in imported.messages()) == 54
    assert imported.text.count("#   one_tp") == 54


def test_combinations_that_the_model_or_the_memory_refuses_are_left_out() -> None:
    recipe = single(sweep={"tp": [1, 2, 4, 8]}, model__path="/weights/DeepSeek-R1", resources__gpu_type="h200")
    recipe["resources"]["gpus_per_agg"] = "{tp}"
    recipe["backend"]["trtllm_config"]["aggregated"]["tensor_parallel_size"] = "{tp}"
    imported = import_recipes([write(recipe)], Choices())
    assert [each.gpus for each in imported.recipes] == [8]
    assert [part.combination for part in imported.left_out] == ["tp=1", "tp=2", "tp=4"]
    assert all("the weights do not fit" in part.reason for part in imported.left_out)
    assert imported.refused == ()
    check_planned(imported)
    heads = changed(recipe, sweep={"tp": [3, 8]})
    imported = import_recipes([write(heads)], Choices())
    (part,) = imported.left_out
    assert "tp=3 does not divide the 128 attention heads" in part.reason


@pytest.mark.parametrize(
    ("axis", "values", "left"),
    [
        ("workers", [1, 2, 9], ["workers=9"]),
        ("isl", [1024, 2, "long"], ["isl=long"]),
        ("conc", [[1, 4], "many", [8]], ["conc=many"]),
    ],
)
def test_any_placeholder_may_be_wrong_for_one_value(axis: str, values: list[Any], left: list[str]) -> None:
    recipe = single(sweep={axis: values})
    if axis == "workers":
        recipe["resources"]["agg_workers"] = "{workers}"
        recipe["backend"]["trtllm_config"]["aggregated"]["tensor_parallel_size"] = 1
    recipe["benchmark"] |= (
        {"isl": "{isl}"} if axis == "isl" else {"concurrencies": "{conc}"} if axis == "conc" else {}
    )
    imported = import_recipes([write(recipe)], Choices())
    assert [part.combination for part in imported.left_out] == left
    check_planned(imported)


def test_when_no_combination_is_left_all_problems_are_told() -> None:
    with pytest.raises(RecipeError) as caught:
        import_recipes([write(swept(tp=[1, 2], pp=[1, 2]))], Choices())
    assert len(caught.value.problems) == 4
    with pytest.raises(RecipeError, match="stands for 1000000 combinations"):
        import_recipes([write(swept(**{name: list(range(100)) for name in ("tp", "pp", "ep")}))], Choices())
    with pytest.raises(RecipeError, match="stands for 0 combinations"):
        import_recipes([write(swept(tp=[]))], Choices())


def test_a_variant_that_somebody_wrote_is_refused_not_left_out() -> None:
    recipe = {
        "base": single(),
        "override_wide": {"resources": {"gpus_per_agg": 2}},
        "override_fine": {"name": "fine"},
    }
    with pytest.raises(RecipeError, match="each agg worker gets 2 GPUs"):
        import_recipes([write(recipe)], Choices())


# ------------------------------------------------------------------------------------------------ versions


@pytest.mark.parametrize(
    ("names", "container", "line"),
    [
        ({"tensorrt_llm": "1.3.0rc11"}, "ai-dynamo/tensorrtllm-runtime:1.1.0", "1.3.0rc11"),
        ({"dynamo": "1.1.0", "tensorrt_llm": "post-1.3.0rc11"}, "dynamo-trtllm", "1.3.0rc11"),
        ({"tensorrt-llm": "v1.2.1"}, "nvcr.io/nvidia/tensorrt-llm/release:1.3.0rc18", "1.2.1"),
        ({"TRTLLM": "1.4.0rc4"}, "x", "1.4.0rc4"),
        ({"tensorrt_llm": 1.3}, "x", "1.3"),
        ({}, "nvcr.io#nvidia/tensorrt-llm/release:1.3.0rc24", "1.3.0rc24"),
        ({"dynamo": "1.3.0"}, "/images/tensorrt-llm_1.3.0rc4.sqsh", "1.3.0rc4"),
        ({}, "trtllm-1.3", "1.3"),
        ({"tensorrt_llm": "latest"}, "trt_llm+1.3.0", "1.3.0"),
        ({"vllm": "0.24", "tensorrt_llm": "0.20"}, "dynamo-trtllm-1.3", "1.2"),
    ],
)
def test_the_version_is_the_recipes_own_then_the_images(names: dict[str, Any], container: str, line: str) -> None:
    recipe = single(identity={"frameworks": names}, model__container=container)
    imported = import_recipes([write(recipe)], Choices())
    assert f"version: '{line}'" in engine_line(imported) or f"version: {line}" in engine_line(imported)
    given = import_recipes([write(recipe)], Choices(version="main"))
    assert "version: main" in engine_line(given), "an option stands above all"


def test_a_secret_between_servers_is_not_copied() -> None:
    recipe = pair()
    for role in ("prefill", "decode"):
        recipe["backend"]["trtllm_config"][role]["internal_request_auth_key"] = "replace-with-a-shared-key"
    imported = import_recipes([write(recipe)], Choices(version="1.4.0rc4"))
    assert "replace-with" not in imported.text and "internal_request_auth_key" not in imported.text
    assert any("internal_request_auth_key is a secret and is not copied" in note for note in imported.notes)


def test_where_a_version_came_from_is_told() -> None:
    identity = {
        "frameworks": {"tensorrt_llm": "1.2.0"},
        "container": {"image": "nvidia/tensorrt-llm/release:1.3.0rc9"},
    }
    imported = import_recipes([write(single(identity=identity))], Choices())
    assert "1.2.0, identity.frameworks (recipe.yaml:" in engine_line(imported)
    assert any("1.3.0rc9: the former counts" in note for note in imported.notes)
    old = import_recipes([write(single(identity={"frameworks": {"tensorrt_llm": "0.20.0"}}))], Choices())
    assert any("0.20.0, which is none of 1.2, 1.3, 1.4" in note for note in old.notes)
    assert any("engine version 1.2 is assumed" in note for note in old.notes)


def test_an_untold_version_is_the_oldest_that_takes_the_configuration() -> None:
    recipe = pair()
    for role in ("prefill", "decode"):
        recipe["backend"]["trtllm_config"][role]["speculative_config"] = {"decoding_type": "MTP", "max_draft_len": 3}
    imported = import_recipes([write(recipe)], Choices())
    assert "version: '1.3'" in engine_line(imported)
    assert any("engine version 1.3 is assumed, the oldest that takes" in note for note in imported.notes)
    assert imported.refused == ()


@pytest.mark.parametrize(
    "image", ["x:1.3", "dynamo/trtllm-runtime:0.8.1", "trtllm", "trtllm-", "", "²", "trtllm-1.3.0" * 50]
)
def test_names_of_images_that_say_little(image: str) -> None:
    assert version_in_tag(image) in (None, release_line("1.3"))


@pytest.mark.parametrize(
    ("wheel", "line"),
    [
        ("/w/tensorrt_llm-1.2.1-cp312-cp312-linux_aarch64.whl", "1.2"),
        ("", "1.3"),
        ("/w/1.2/tensorrt_llm-1.4.0rc2.whl", "1.4.0rc2"),
    ],
)
def test_a_wheel_stands_over_the_image(wheel: str, line: str) -> None:
    config = invented.trtllm_config(*invented.usual_pair("DEP4", "DEP8"))
    config["environment"]["trtllm_wheel_path"] = wheel
    imported = import_recipes([write(config)], Choices(cluster="gb200-nvl72"))
    assert f"version: '{line}'" in engine_line(imported) or f"version: {line}" in engine_line(imported)


def test_a_model_of_another_alias_is_what_its_repository_says() -> None:
    identity = {"model": {"repo": "openai/gpt-oss-120b", "revision": "b5c9"}}
    imported = import_recipes([write(single(model__path="ours", identity=identity))], Choices())
    assert "\nmodel: gpt-oss-120b  # ours is openai/gpt-oss-120b, by identity.model.repo" in imported.text
    with pytest.raises(RecipeError, match="'ours' is no model that ratematch knows"):
        import_recipes([write(single(model__path="ours", identity={"model": {"repo": "a/b"}}))], Choices())


# ------------------------------------------------------------------------------------------------ clients


@pytest.mark.parametrize(
    ("benchmark", "concurrency"),
    [
        ({}, [48, 192]),
        ({"use_nv_sa_benchmark": True}, [48, 192]),
        ({"use_aiperf": False}, [48, 192]),
        ({"use_aiperf": True}, [16, 64]),
        ({"use_aiperf": "true"}, [16, 64]),
        ({"use_aiperf": True, "use_nv_sa_benchmark": False, "concurrency_list": "512"}, [512]),
        ({"use_aiperf": True, "use_nv_sa_benchmark": True}, [16, 64]),
    ],
)
def test_each_client_counts_concurrency_in_its_own_way(benchmark: dict[str, Any], concurrency: list[int]) -> None:
    config = invented.trtllm_config(*invented.usual_pair("DEP4", "DEP8"), **benchmark)
    imported = import_recipes([write(config)], Choices(cluster="gb200-nvl72"))
    (recipe,) = imported.recipes
    assert list(recipe.concurrency) == concurrency
    both = benchmark.get("use_aiperf") is True and benchmark.get("use_nv_sa_benchmark") is True
    assert any("both on" in note for note in imported.notes) == both
    assert recipe.osl_ratio == (0.8 if benchmark.get("use_nv_sa_benchmark") is True and not both else 1.0)


@pytest.mark.parametrize(
    ("gpus", "cluster"),
    [(["GB200"], None), (["GB200", "GB300"], "gb300-nvl72"), (["NoSuch"], "gb200-nvl72"), ([7], "gb200-nvl72")],
)
def test_a_configuration_of_performance_tests_names_model_and_gpu_beside(
    gpus: list[Any], cluster: str | None
) -> None:
    config = invented.trtllm_config(*invented.usual_pair("DEP4", "DEP8"))
    config["environment"]["model_path"] = "<model_path>"
    with pytest.raises(RecipeError, match=r"environment\.model_path .* names no model"):
        import_recipes([write(config | {"metadata": {"model_dir_name": 5}})], Choices(cluster="gb200-nvl72"))
    metadata = {"model_dir_name": "DeepSeek-R1-0528-FP4-v2", "supported_gpus": gpus, "benchmark_type": "1k1k"}
    imported = import_recipes([write(config | {"metadata": metadata})], Choices(cluster=cluster))
    assert "\nmodel: deepseek-r1  # DeepSeek-R1-0528-FP4-v2, metadata.model_dir_name" in imported.text
    assert f"\ncluster: {cluster or 'gb200-nvl72'} " in imported.text
    assert ("metadata.supported_gpus" in imported.text) == (cluster is not None)


# ------------------------------------------------------------------------------------------------ nodes and profiles


@pytest.mark.parametrize(("per_node", "workers"), [(1, 1), (1, 3), (2, 2), (4, 1)])
def test_a_recipe_may_take_a_part_of_a_node(per_node: int, workers: int) -> None:
    recipe = single(resources__gpus_per_node=per_node, resources__agg_workers=workers, resources__agg_nodes=workers)
    for choices in (Choices(), Choices(cluster="b200")):
        imported = import_recipes([write(recipe)], choices)
        assert "\ncluster: b200 " in imported.text
        assert any(f"takes {per_node} GPUs of a node, cluster b200 has 8" in note for note in imported.notes)
        check_planned(imported)


def test_servers_that_span_small_nodes_need_such_nodes() -> None:
    recipe = pair(resources__gpu_type="b200")
    with pytest.raises(RecipeError, match="no cluster profile with 4 x b200"):
        import_recipes([write(recipe)], Choices())
    with pytest.raises(RecipeError, match="gen servers of 8 GPUs span nodes there"):
        import_recipes([write(recipe)], Choices(cluster="b200"))
    with pytest.raises(RecipeError, match="the recipe has 8 GPUs a node, cluster gb200-nvl72 4"):
        import_recipes([write(single())], Choices(cluster="gb200-nvl72"))


def test_recipes_of_different_shares_of_one_node_go_together() -> None:
    files = [write(single(), "a.yaml"), write(single(name="two", resources__gpus_per_node=1), "b.yaml")]
    imported = import_recipes(files, Choices())
    assert "\ncluster: b200 " in imported.text
    files.append(write(single(name="three", resources__gpu_type="h200"), "c.yaml"))
    with pytest.raises(RecipeError, match="different nodes"):
        import_recipes(files, Choices())


@pytest.mark.parametrize("gpu", ["b300", "B300", "b300-sxm"])
def test_a_b300_recipe_finds_its_profile(gpu: str) -> None:
    imported = import_recipes([write(single(resources__gpu_type=gpu))], Choices())
    assert "\ncluster: b300 " in imported.text
    check_planned(imported)


def test_a_gpu_of_ones_own_finds_its_profile() -> None:
    Path("gpus").mkdir()
    text = (ROOT / "ratematch" / "data" / "gpus" / "b300.yaml").read_text()
    Path("gpus/x900.yaml").write_text(
        text.replace("name: b300", "name: x900").replace("aliases: [b300-sxm,", "aliases: [z,")
    )
    Path("slurm/clusters").mkdir(parents=True)
    Path("slurm/clusters/lab.yaml").write_text("name: other\ngpu: x900\ngpus_per_node: 8\nnodes: 2\n")
    imported = import_recipes([write(single(resources__gpu_type="X900"))], Choices())
    assert "\ncluster: lab " in imported.text, "profiles are named by their file, whatever name they have"
    check_planned(imported)
    with pytest.raises(RecipeError, match=r"'x800' is not known; did you mean x900\?.*gpus/x800\.yaml"):
        import_recipes([write(single(resources__gpu_type="x800"))], Choices())


PROFILE = "name: gbrack\ngpu: gb300\ngpus_per_node: 4\nnodes: 18\n"


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("rack.yaml", "rack.yaml"),
        ("rack.yaml", "./rack.yaml"),
        ("rack.yml", "rack.yml"),
        ("site/rack.profile", "site/rack.profile"),
        ("slurm/clusters/rack.yaml", "rack"),
        ("slurm/clusters/rack.yaml", "gbrack"),
    ],
)
def test_a_profile_whose_name_is_not_its_files(path: str, given: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(PROFILE)
    assert read_cluster(given).name == "gbrack"
    imported = import_recipes([write(pair())], Choices(cluster=given))
    assert f"\ncluster: {given} " in imported.text
    assert check_planned(imported)["cluster"] == "gbrack"
    assert planned(imported, "--cluster", given).exit_code == 0
    rendered = CliRunner().invoke(main, ["render", "sweep.yaml", "--cluster", given, "-o", "out"])
    assert rendered.exit_code == 0, rendered.output


def test_of_two_profiles_of_one_file_name_the_first_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, gpu in (("slurm/clusters", "h200"), ("config/ratematch/clusters", "b200")):
        Path(folder).mkdir(parents=True)
        Path(folder, "rack.yaml").write_text(PROFILE.replace("gb300", gpu).replace("node: 4", "node: 8"))
    imported = import_recipes([write(single())], Choices())
    assert "\ncluster: b200 " in imported.text, "rack stands for the one with h200"


def test_a_name_that_is_no_profile_says_what_is_near() -> None:
    with pytest.raises(ClusterError, match=r"no cluster profile 'gb300-nvl27'; did you mean gb300-nvl72\?"):
        import_recipes([write(pair())], Choices(cluster="gb300-nvl27"))
    for odd in ("x" * 300, "\0", "a/" * 200):
        with pytest.raises(ClusterError, match="there is no cluster profile"):
            import_recipes([write(pair())], Choices(cluster=odd))


def test_a_profile_with_other_gpus_is_told() -> None:
    imported = import_recipes([write(pair())], Choices(cluster="gb200-nvl72"))
    assert any("the recipe is for gb300, and cluster gb200-nvl72 has gb200" in note for note in imported.notes)


# ------------------------------------------------------------------------------------------------ odd values

ODD: tuple[Any, ...] = (
    "²",
    "٣",
    float("inf"),
    float("nan"),
    1e308,
    10**30,
    -1,
    "\ud800",
    "a" * 300,
    "",
    [],
    {},
    True,
    "\0",
)
PLACES = (
    "name",
    "model__path",
    "model__container",
    "identity__frameworks__tensorrt_llm",
    "resources__gpu_type",
    "resources__gpus_per_node",
    "resources__agg_workers",
    "resources__gpus_per_agg",
    "backend__trtllm_config__aggregated__tensor_parallel_size",
    "backend__trtllm_config__aggregated__max_num_tokens",
    "backend__trtllm_config__aggregated__kv_cache_config",
    "benchmark__isl",
    "benchmark__concurrencies",
    "benchmark__num_prompts_mult",
    "sweep",
)


@pytest.mark.parametrize("place", PLACES)
def test_an_odd_value_is_a_problem_of_its_line_or_harmless(place: str) -> None:
    for odd in ODD:
        for value in (odd, [odd]) if place == "benchmark__concurrencies" else (odd,):
            Path("recipe.yaml").write_text(invented.to_text(single(**{place: value})), encoding="utf-8")
            done = CliRunner().invoke(main, ["import", "recipe", "recipe.yaml", "-o", "out", "--force"])
            assert "unexpected" not in done.output, (place, value, done.output)
            assert done.exit_code in (0, 1)
            if done.exit_code:
                assert "recipe.yaml" in done.stderr, (place, value)
                assert all(len(line) < 2000 for line in done.stderr.splitlines())


def test_a_long_name_stops_no_other_file() -> None:
    files = [write(single(name="n" * 300), "a.yaml"), write(single(name="short"), "b.yaml")]
    Path("out").mkdir()
    done = CliRunner().invoke(main, ["import", "recipe", *files, "-o", "out"])
    assert done.exit_code == 0, done.output
    assert sorted(len(path.stem) for path in Path("out").iterdir()) == [5, 100]
    for odd in ("x" * 300 + ".yaml", "\0.yaml", "gone.yaml"):
        told = CliRunner().invoke(main, ["import", "recipe", odd])
        assert told.exit_code == 1 and "cannot be read" in told.output and "unexpected" not in told.output


# ------------------------------------------------------------------------------------------------ models, precision


@pytest.mark.parametrize(
    ("path", "said", "gpu", "line"),
    [
        (
            "hf:nvidia/Kimi-K2.5-NVFP4",
            "fp4",
            "b200",
            "{name: kimi-k2.5, path: nvidia/Kimi-K2.5-NVFP4, precision: nvfp4}",
        ),
        (
            "hf:deepseek-ai/DeepSeek-V4-Pro",
            "fp4",
            "b200",
            "{name: deepseek-v4-pro, path: deepseek-ai/DeepSeek-V4-Pro}",
        ),
        ("nvidia/GLM-5-NVFP4", "fp4", "b200", "{name: glm-5, path: nvidia/GLM-5-NVFP4}"),
        ("qwen3.5-fp4", "fp4", "b200", "qwen3.5-397b-a17b"),
        ("qwen3.5-27b-fp8", None, "b200", "{name: qwen3.5-27b, precision: fp8}"),
        ("dsr1", "fp8", "b200", "{name: deepseek-r1, precision: fp8}"),
        ("dsr1", "fp8", "h200", "deepseek-r1"),
        ("dsr1-fp8", "fp4", "b200", "{name: deepseek-r1, precision: fp8}"),
        ("dsr1", "something", "b200", "deepseek-r1"),
    ],
)
def test_models_and_precisions_of_public_recipes(path: str, said: str | None, gpu: str, line: str) -> None:
    sizes = {"tensor_parallel_size": 8, "moe_expert_parallel_size": 8, "max_batch_size": 8, "max_num_tokens": 4096}
    recipe = single(
        model__path=path,
        model__precision=said,
        resources__gpu_type=gpu,
        resources__gpus_per_agg=8,
        backend__trtllm_config__aggregated=sizes,
    )
    imported = import_recipes([write(recipe)], Choices())
    assert f"\nmodel: {line}  #" in imported.text
    assert imported.refused == ()
    conflicting = [
        note for note in imported.notes if "its checkpoint is named after" in note or "is no precision" in note
    ]
    assert bool(conflicting) == (path == "dsr1-fp8" or said == "something")


def test_recipes_of_two_precisions_are_not_one_sweep() -> None:
    first = write(single(model__path="dsr1", model__precision="fp8", resources__gpu_type="h200"))
    second = write(single(model__path="dsr1", model__precision="bf16", resources__gpu_type="h200"), "b.yaml")
    with pytest.raises(RecipeError, match="different precisions: fp8, bf16"):
        import_recipes([first, second], Choices())


def test_a_model_given_by_its_files_serves_a_recipe() -> None:
    config = ROOT / "tests" / "inputs" / "configs" / "gpt-oss-20b.json"
    imported = import_recipes([write(single(model__path="/weights/unheard-of"))], Choices(model=str(config)))
    assert f"model: {{hf: /weights/unheard-of, config: {config}}}" in imported.text
    assert imported.refused == ()


@pytest.mark.parametrize("value", ["1.49", "3.80", "2"])
def test_acceptance_that_a_recipe_forces_is_the_workloads_and_in_every_label(value: str) -> None:
    block = {"decoding_type": "MTP", "max_draft_len": 4}
    forcing = {"TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS": value}
    recipe = pair(
        model__container="someone/tensorrt-llm:1.3.0rc24",
        backend__prefill_environment={"TLLM_LOG_LEVEL": "INFO", **forcing},
        backend__decode_environment=forcing,
        backend__trtllm_config__prefill__speculative_config=block,
        backend__trtllm_config__decode__speculative_config=block,
        backend__trtllm_config__decode__max_num_tokens=80,
    )
    imported = import_recipes([write(recipe)], Choices())
    assert imported.refused == ()
    assert f"forced_acceptance: {{4: {1 + float(value)}}}" in imported.text
    assert "TLLM_SPEC_DECODE_FORCE" not in imported.text.split("deployments:")[1]
    (planned_,) = check_planned(imported)["experiments"]
    assert planned_["workload"].endswith(f"~forced4x{1 + float(value):g}")
