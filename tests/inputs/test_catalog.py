"""Model and GPU data: found by any of their names, complete, and plausible."""

import shutil
from pathlib import Path

import pytest

from ratematch.errors import CatalogError
from ratematch.inputs import catalog
from ratematch.inputs.catalog import gpu_names, load_gpu, load_model, model_names
from ratematch.plan.memory import FORMAT_BYTES, total_params


def test_the_promised_models_and_gpus_are_there():
    assert {"deepseek-r1", "qwen3-235b-a22b", "qwen3-30b-a3b", "llama-3.3-70b", "gpt-oss-120b"} <= set(model_names())
    assert {"h100", "h200", "b200", "gb200", "gb300", "b300", "gh200", "rtx-pro-6000", "mi355x"} <= set(gpu_names())


@pytest.mark.parametrize(
    "name", ["deepseek-r1", "DeepSeek-R1-0528", "deepseek-ai/DeepSeek-R1", "nvidia/DeepSeek-R1-0528-FP4"]
)
def test_models_go_by_several_names(name):
    assert load_model(name).name == "deepseek-r1"


@pytest.mark.parametrize("name", ["GB200", "gb200-nvl72"])
def test_gpus_go_by_several_names(name):
    assert load_gpu(name).name == "gb200"


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises(CatalogError, match=r"'deepsek-r1' is not known; did you mean deepseek-r1\?.*qwen3-235b-a22b"):
        load_model("deepsek-r1")
    with pytest.raises(
        CatalogError, match=r"'a100' is not known; did you mean h100.*b200, b300, gb200.*another one is a file"
    ):
        load_gpu("a100")


def test_no_two_entries_share_a_name():
    for names, load in ((model_names(), load_model), (gpu_names(), load_gpu)):
        spellings = [spelling for name in names for spelling in (name, *load(name).aliases)]
        assert len(spellings) == len(set(spellings))
        assert all(spelling == spelling.lower() for spelling in spellings)


def test_entries_lie_in_files_of_their_names():
    """One that is named so is read alone."""
    data = Path(catalog.__file__).parents[1] / "data"
    for folder, names in (("models", model_names()), ("gpus", gpu_names())):
        assert sorted(file.stem for file in (data / folder).glob("*.yaml")) == names


def test_an_own_entry_by_the_name_of_a_shipped_one_is_taken(tmp_path, monkeypatch):
    shipped = Path(catalog.__file__).parents[1] / "data"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load_model("qwen3-32b").file == load_gpu("h200").file == ""
    for folder, name in (("models", "qwen3-32b"), ("gpus", "h200")):
        (tmp_path / folder).mkdir()
        shutil.copy(shipped / folder / f"{name}.yaml", tmp_path / folder / "mine.yaml")
    assert Path(load_model("qwen3-32b").file).name == Path(load_gpu("h200").file).name == "mine.yaml"
    assert load_model("qwen3-8b").file == load_gpu("h100").file == ""


@pytest.mark.parametrize("name", model_names())
def test_every_model_is_sound(name):
    model = load_model(name)
    assert model.source
    assert model.about
    assert total_params(model) > 1e9
    assert model.heads % model.kv_heads == 0
    assert all(0 < rate < 1 for rate in model.mtp_acceptance)
    assert model.mtp_layers or not model.mtp_acceptance  # how many drafts are accepted is published for few
    assert {*model.attention_precision, *model.attention_precision.values()} <= set(FORMAT_BYTES)
    if model.moe:
        assert model.moe.top_k < model.moe.experts
        assert model.moe.dense_layers < model.layers


@pytest.mark.parametrize("name", gpu_names())
def test_every_gpu_is_sound(name):
    gpu = load_gpu(name)
    assert gpu.source
    assert 80e9 <= gpu.memory_b < 400e9
    assert gpu.flops["bf16"] < gpu.flops["fp8"]
    assert gpu.precision in gpu.flops
    assert set(gpu.flops) <= set(FORMAT_BYTES)
    assert gpu.network_b_s < gpu.nvlink_b_s < gpu.memory_b_s
