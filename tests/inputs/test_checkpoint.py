"""Models from their own files: public configurations, held against what their authors publish."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratematch.engines import find_engine
from ratematch.engines.refusals import judge_launch
from ratematch.errors import CatalogError
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.inputs.checkpoint.read import read_checkpoint
from ratematch.inputs.find import read_sweep
from ratematch.plan.expansion import expand
from ratematch.plan.memory import (
    active_params,
    default_precision,
    kv_bytes_per_token,
    total_params,
    weight_bytes_per_rank,
)
from ratematch.plan.mixers import state_bytes
from ratematch.plan.modelfile import facts_of, model_from_facts, parse_model
from ratematch.plan.modelsizes import sizes_on
from ratematch.plan.parallelism import Parallelism

CONFIGS = Path(__file__).parent / "configs"
"""``config.json`` of public models on Hugging Face, without the keys that say nothing of how they are built."""

PUBLISHED = {
    # name: (total parameters in billions, KV bytes a token in 16 bits, source of the two)
    "deepseek-r1": (671, 70272, "model card; DeepSeek-V3 hardware paper, 70.272 kB"),
    "deepseek-v3.2": (671, 61 * (1152 + 132), "model card; vLLM: MLA entry and an FP8 index key with its scale"),
    "deepseek-v4-pro": (
        1600,
        31 * 8 + 30 * (256 + 33),
        "model card; one latent of 512 per 128 or 4 tokens, index key",
    ),
    "deepseek-v4-flash": (284, 20 * 8 + 21 * (256 + 33), "model card; the same"),
    "gemma-2-27b": (27.2, 46 * 2 * 16 * 128 * 2, "technical report; heads x width"),
    "gemma-4-26b-a4b": (25.8, 25 * 8192 + 5 * 4096, "model card; windows and whole layers apart"),
    "gemma-4-31b": (31.3, 50 * 16384 + 10 * 8192, "model card; windows and whole layers apart"),
    "glm-4.5-air": (106, 46 * 2 * 8 * 128 * 2, "model card; heads x width"),
    "glm-4.7": (355, 92 * 2 * 8 * 128 * 2, "model card (GLM-4.5 family); heads x width"),
    "glm-5": (744, 78 * (1152 + 132), "model card; as DeepSeek V3.2"),
    "glm-5.2": (744, 78 * 1152 + 21 * 132, "model card; 21 of 78 layers have an indexer of their own"),
    "gpt-oss-120b": (116.83, 73728, "model card, table 1; heads x width"),
    "gpt-oss-20b": (20.91, 49152, "model card, table 1; heads x width"),
    "kimi-k2": (1040, 70272, "technical report; as DeepSeek V3"),
    "kimi-k2.5": (1040, 70272, "technical report of K2; as DeepSeek V3"),
    "kimi-linear-48b-a3b": (49.1, 7 * 1152, "checkpoint on Hugging Face; 7 of 27 layers cache"),
    "lfm2-350m": (0.354484, 6 * 2 * 8 * 64 * 2, "checkpoint, 354,483,968; 6 of 16 layers cache"),
    "llama-3.1-405b": (405, 516096, "model card; DeepSeek-V3 hardware paper, 516.096 kB"),
    "llama-3.1-8b": (8.03, 131072, "checkpoint; 128 KiB"),
    "llama-3.3-nemotron-super-49b": (49.9, 49 * 4096, "checkpoint; 49 of 80 layers have attention"),
    "llama-4-maverick": (400, 196608, "model card; heads x width"),
    "llama-4-scout": (109, 196608, "model card; heads x width"),
    "mimo-v2-flash": (309, 9 * 4 * 320 * 2 + 39 * 8 * 320 * 2, "model card; keys of 192, values of 128"),
    "minimax-m1": (456, 40960, "model card; 10 of 80 layers cache"),
    "minimax-m2.5": (229, 62 * 2 * 8 * 128 * 2, "checkpoint; heads x width"),
    "mixtral-8x7b": (46.7, 131072, "model card; heads x width"),
    "nemotron-3-nano": (31.6, 6 * 2 * 2 * 128 * 2, "technical report; 6 of 52 layers cache"),
    "nemotron-3-super": (120.6, 8 * 2 * 2 * 128 * 2, "technical report; 8 of 88 layers cache"),
    "nemotron-3-ultra": (550, 12 * 2 * 2 * 128 * 2, "name; 12 layers cache"),
    "nemotron-h-56b": (56, 10 * 2 * 8 * 128 * 2, "technical report; 10 of 118 layers cache"),
    "qwen3-0.6b": (0.6, 114688, "model card; heads x width"),
    "qwen3-235b-a22b": (235, 192512, "model card; heads x width"),
    "qwen3-32b": (32.8, 262144, "model card; heads x width"),
    "qwen3-vl-30b-a3b": (31.1, 98304, "checkpoint; heads x width"),
    "qwen3.5-27b": (27.4, 16 * 4 * 512 * 2, "model card; 16 of 64 layers cache"),
    "qwen3.5-35b-a3b": (35, 10 * 2 * 512 * 2, "model card; 10 of 40 layers cache"),
    "qwen3.5-397b-a17b": (397, 15 * 2 * 512 * 2, "model card; 15 of 60 layers cache"),
}

ACTIVE = {"deepseek-r1": 37, "gpt-oss-120b": 5.7, "kimi-k2": 32, "minimax-m1": 45.9, "nemotron-3-super": 12.7,
          "qwen3-235b-a22b": 22, "llama-4-scout": 17, "qwen3.5-397b-a17b": 17, "deepseek-v4-pro": 49}  # fmt: skip
"""Billions of parameters a token meets, by the model cards; some authors leave embeddings out."""

STORED_GB = {
    "deepseek-r1": (688.6, "total_size of its index"),
    "gpt-oss-120b": (65.3, "60.8 GiB, model card"),
    "gpt-oss-20b": (13.7, "12.8 GiB, model card"),
    "kimi-k2.5": (595, "about 595 GB on Hugging Face, experts in INT4"),
}
"""Size of the checkpoint as it is published."""


def names() -> list[str]:
    return sorted(path.stem for path in CONFIGS.glob("*.json"))


def test_there_are_thirty_of_a_dozen_architectures() -> None:
    kinds = set()
    for path in CONFIGS.glob("*.json"):
        data = json.loads(path.read_text())
        kinds.add(data.get("text_config", data)["model_type"])
    assert set(names()) == set(PUBLISHED)
    assert len(PUBLISHED) >= 30
    assert len(kinds) >= 12


@pytest.mark.parametrize("name", names())
def test_public_configurations_have_their_published_sizes(name: str) -> None:
    model = read_checkpoint(CONFIGS / f"{name}.json")
    billions, kv_bytes, _ = PUBLISHED[name]
    assert total_params(model) / 1e9 == pytest.approx(billions, rel=0.03)
    assert kv_bytes_per_token(model, "bf16") == kv_bytes
    if name in ACTIVE:
        assert active_params(model) / 1e9 == pytest.approx(ACTIVE[name], rel=0.06)
    if name in STORED_GB:
        whole = weight_bytes_per_rank(model, Parallelism(), model.precision, model.mtp_layers)
        assert whole / 1e9 == pytest.approx(STORED_GB[name][0], rel=0.03)
    assert not [note for note in model.not_modelled if "understood" in note]


@pytest.mark.parametrize("gpu", ["h200", "b200"])
@pytest.mark.parametrize("name", names())
def test_each_plans_and_renders(name: str, gpu: str, tmp_path: Path) -> None:
    model = read_checkpoint(CONFIGS / f"{name}.json")
    fitting = [row for row in sizes_on(model, load_gpu(gpu), default_precision(model, load_gpu(gpu)), "fp8")
               if row.kv_tokens > 3000 and row.gpus in (1, 2, 4, 8, 16, 32)]  # fmt: skip
    (tmp_path / "s.yaml").write_text(
        f"name: s\nabout: x\nmodel: {CONFIGS / name}.json\ncluster: {gpu}\nworkloads: [{{isl: 1024, osl: 128}}]\n"
        f"ctx: {{axes: {{mapping: {fitting[0].mapping}}}, loads: {{concurrency: 1}}}}\n"
        f"gen: {{axes: {{mapping: {fitting[-1].mapping}}}, loads: {{concurrency: 1}}}}\n"
    )
    sweep, _ = read_sweep(str(tmp_path / "s.yaml"))
    expansion = expand(sweep, find_engine("trtllm-serve").kv_settings)
    assert {experiment.stage for experiment in expansion.experiments} == {"ctx", "gen"}, expansion.dropped
    for experiment in expansion.experiments:
        assert judge_launch(sweep, experiment).refusals == ()
        assert experiment.facts is not None
        assert experiment.model == name


@pytest.mark.parametrize("name", names())
def test_what_is_understood_can_be_written_down_and_read_again(name: str) -> None:
    model = read_checkpoint(CONFIGS / f"{name}.json")
    again = parse_model(json.dumps(facts_of(model, texts=True)), "m.yaml", "m.yaml")
    assert again == model
    assert facts_of(model_from_facts(facts_of(model))) == facts_of(model)


SHIPPED = ("deepseek-v3.2", "deepseek-v4-pro", "gemma-4-31b", "glm-5", "glm-5.2", "gpt-oss-20b", "kimi-k2",
           "llama-4-maverick", "mimo-v2-flash", "nemotron-3-super", "qwen3.5-397b-a17b")  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_are_those_of_the_files(name: str) -> None:
    shipped, read = load_model(name), read_checkpoint(CONFIGS / f"{name}.json")
    assert total_params(shipped) == total_params(read)
    assert kv_bytes_per_token(shipped, "fp8", shipped.mtp_layers) == kv_bytes_per_token(read, "fp8", read.mtp_layers)
    assert state_bytes(shipped) == state_bytes(read)


# ------------------------------------------------------------------------------------------------ formats


def checkpoint(
    folder: Path, name: str = "qwen3-32b", *, quant: object = None, size: float = 0, **changes: object
) -> Path:
    data = json.loads((CONFIGS / f"{name}.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(data))
    if quant is not None:
        (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": quant}))
    if size:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": size}}))
    return folder


ATTENTION = [f"model.layers.{layer}.self_attn*" for layer in range(64)]
WEIGHTS4 = {"num_bits": 4, "type": "int", "group_size": 128, "symmetric": True, "strategy": "group"}


@pytest.mark.parametrize(
    ("quant", "given", "precision", "formats", "kv"),
    [
        (None, None, "bf16", {}, ""),
        ({"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}, None, "fp8", {}, "fp8"),
        (
            {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head", *ATTENTION]},
            None,
            "nvfp4",
            {"attention": {"bf16": 1.0}},
            "fp8",
        ),
        (
            {"quant_algo": "NVFP4", "exclude_modules": ["*.self_attn.o_proj"]},
            None,
            "nvfp4",
            {"attention": {"bf16": 4 / 9, "nvfp4": 5 / 9}},
            "",
        ),
        (None, {"quant_method": "fp8", "modules_to_not_convert": ["lm_head"]}, "fp8", {}, ""),
        (None, {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}, "mxfp4",
         {"attention": {"bf16": 1.0}}, ""),
        (None, {"quant_method": "awq", "bits": 4, "group_size": 128}, "int4", {}, ""),
        (None, {"quant_method": "gptq", "bits": 4, "group_size": 32}, "int4-g32", {}, ""),
        (None, {"quant_method": "gptq", "bits": 8, "group_size": -1}, "int8", {}, ""),
        (
            None,
            {"quant_method": "compressed-tensors", "ignore": ["lm_head", "re:.*self_attn.*"],
             "config_groups": {"a": {"targets": ["Linear"], "weights": WEIGHTS4}}},
            "int4",
            {"attention": {"bf16": 1.0}},
            "",
        ),
        (
            None,
            {"quant_method": "compressed-tensors", "ignore": ["lm_head"],
             "kv_cache_scheme": {"num_bits": 8, "type": "float"},
             "config_groups": {
                 "a": {"targets": ["re:.*mlp.*"], "weights": {"num_bits": 4, "type": "float", "group_size": 16}},
                 "b": {"targets": ["re:.*self_attn.*"], "weights": {"num_bits": 8, "type": "float"}}}},
            "nvfp4",
            {"attention": {"fp8": 1.0}},
            "fp8",
        ),
        (
            {"quant_algo": "MIXED_PRECISION", "quantized_layers": {
                f"model.layers.{layer}.mlp": {"quant_algo": "NVFP4"} for layer in range(64)}},
            None,
            "nvfp4",
            {"attention": {"bf16": 1.0}},
            "",
        ),
        (None, {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4"}}, "exclude": ["lm_head"]},
         "mxfp4", {}, ""),
    ],
)  # fmt: skip
def test_formats_by_module(tmp_path: Path, quant, given, precision, formats, kv) -> None:  # type: ignore[no-untyped-def]
    changes = {} if given is None else {"quantization_config": given}
    model = read_checkpoint(checkpoint(tmp_path, quant=quant, **changes))
    assert model.precision == precision
    assert model.formats.get(precision, {}) == {part: pytest.approx(mix) for part, mix in formats.items()}
    assert model.kv_precision == kv


def test_the_index_counts_and_says_where_the_sum_differs(tmp_path: Path) -> None:
    model = read_checkpoint(checkpoint(tmp_path, size=66.0e9))
    whole = weight_bytes_per_rank(model, Parallelism(), "bf16")
    assert whole == pytest.approx(66.0e9)
    assert 4 * weight_bytes_per_rank(model, Parallelism(tp=4), "bf16") == pytest.approx(66.0e9)
    assert not any("sum up" in note for note in model.not_modelled)
    model = read_checkpoint(checkpoint(tmp_path, size=80.0e9))
    assert any("sum up to 65.5 GB, and the index says 80.0 GB" in note for note in model.not_modelled)


def test_one_file_of_weights_says_its_size_too(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, "qwen3-0.6b")
    header = json.dumps({"__metadata__": {}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 1_192_000_000)
    assert read_checkpoint(folder).weights_b == {"bf16": 1_192_000_000.0}


def test_a_family_that_is_not_known_is_read_only_where_its_size_confirms_it(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"config\.json: model_type: 'brandnew' is not known.*--yaml"):
        read_checkpoint(checkpoint(tmp_path, model_type="brandnew"))
    model = read_checkpoint(checkpoint(tmp_path, model_type="brandnew", size=65.6e9))
    assert any("'brandnew' is not known: read as a plain transformer" in note for note in model.not_modelled)
    with pytest.raises(CatalogError, match=r"sum up to 65\.5 GB, and the index says 30\.0 GB"):
        read_checkpoint(checkpoint(tmp_path, model_type="brandnew", size=30.0e9))


def test_keys_that_nobody_knows_are_named(tmp_path: Path) -> None:
    model = read_checkpoint(checkpoint(tmp_path, super_attention_rank=7))
    assert "keys that are not understood: super_attention_rank" in model.not_modelled


# ------------------------------------------------------------------------------------------------ hostile files

BOMB = {"quant_method": "compressed-tensors", "ignore": ["re:(a+)+$"],
        "config_groups": {"a": {"targets": ["Linear"], "weights": WEIGHTS4}}}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": -1}, r"num_hidden_layers: must be a whole number from 1"),
        ({"num_hidden_layers": 1e30}, r"num_hidden_layers: must be a whole number"),
        ({"num_hidden_layers": 20_000}, r"num_hidden_layers: must be a whole number from 1 to 10,000"),
        ({"hidden_size": float("inf")}, r"hidden_size: must be a whole number"),
        ({"hidden_size": True}, r"hidden_size: must be a whole number"),
        ({"hidden_size": "big"}, r"hidden_size: must be a whole number"),
        ({"hidden_size": 5120.5}, r"hidden_size: must be a whole number"),
        ({"vocab_size": None}, r"vocab_size or padded_vocab_size: is not there, and is needed"),
        ({"num_key_value_heads": 128}, r"num_key_value_heads: 128 is more than the 64 heads"),
        ({"tie_word_embeddings": "no"}, r"tie_word_embeddings: must be true or false"),
        ({"layer_types": ["sliding_attention"] * 3}, r"layer_types: has 3 entries, and there are 64 layers"),
        ({"layer_types": ["warp_attention"] * 64}, r"layer_types: 'warp_attention' is no kind of attention"),
        ({"layer_types": 7}, r"layer_types: must be a list"),
        ({"model_type": ["qwen3"]}, r"model_type: must be text"),
        ({"quantization_config": {"quant_method": "hqq"}}, r"quantization_config\.quant_method: 'hqq' is not known"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, r"quantization_config\.bits: 3 is not known"),
        ({"quantization_config": {"quant_method": "awq", "group_size": 7}},
         r"quantization_config\.group_size: 7 is not known"),
        ({"quantization_config": BOMB}, r"quantization_config\.ignore: the pattern '\(a\+\)\+\$' is too intricate"),
        ({"quantization_config": 3}, r"quantization_config: must be a map of keys"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line_with_file_and_key(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(CatalogError, match=r"config\.json: " + message) as caught:
        read_checkpoint(checkpoint(tmp_path, **changes))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"config\.json:1: is no JSON"),
        (b"[1, 2]", r"config\.json:1: must be a map of keys"),
        (b'{"a": ' * 100_000, r"config\.json.*is no JSON"),
        (b'{"hidden_size": ' + b"9" * 10_000 + b"}", r"config\.json.*"),
        (b"\xff\xfe{}", r"config\.json:1: the text is UTF-16"),
        (b'{"a": "' + b"x" * 17_000_000 + b'"}', r"config\.json: is larger than 16 MB"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CatalogError, match=message):
        read_checkpoint(tmp_path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(names()),
    key=st.sampled_from(
        sorted({key for name in names() for key in json.loads((CONFIGS / f"{name}.json").read_text())})
    ),
    value=st.sampled_from(
        [0, -1, 2, 10**9, 10**30, 1.5, float("inf"), None, True, "", "M*E-", [], [1], {}, {"a": 1}]
    ),
)
def test_any_value_of_any_key_is_a_model_or_one_line(tmp_path: Path, name: str, key: str, value: object) -> None:
    try:
        model = read_checkpoint(checkpoint(tmp_path, name, **{key: value}))  # type: ignore[arg-type]
    except CatalogError as error:
        assert "\n" not in str(error)
        assert "config.json" in str(error)
    else:
        assert sizes_on(model, load_gpu("b200"), model.precision, "fp8")


def test_a_wrong_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"index\.json: metadata\.total_size: -5 is no number of bytes"):
        read_checkpoint(checkpoint(tmp_path, size=-5))
