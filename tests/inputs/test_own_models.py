"""Models of people: files, folders, keys in the sweep; and the precision of a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ratematch.engines import find_engine
from ratematch.errors import CatalogError, SweepError
from ratematch.inputs.catalog import known_models, load_model, model_of
from ratematch.inputs.find import read_sweep
from ratematch.plan.expansion import expand
from ratematch.plan.experiment import Experiment, from_json, to_json
from ratematch.plan.memory import default_precision, kv_bytes_per_token, total_params
from ratematch.plan.modelfile import facts_of
from ratematch.plan.sweep import Sweep
from tests.inputs.test_checkpoint import CONFIGS

SHAPE = "layers: 4, hidden: 512, vocab: 1000, heads: 8, kv_heads: 2, head_dim: 64, ffn: 1024, max_seq_len: 8192"

SWEEP = """\
name: s
model: {model}
about: x
cluster: {cluster}
workloads: [{{isl: 1024, osl: 64}}]
ctx: {{axes: {{mapping: DEP8{axis}}}, loads: {{concurrency: [1, 4]}}}}
gen: {{axes: {{mapping: DEP8{axis}}}, loads: {{concurrency: [1, 8]}}}}
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("RATEMATCH_MODELS", raising=False)


def sweep_of(model: str, cluster: str = "b200", axis: str = "") -> Sweep:
    Path("s.yaml").write_text(SWEEP.format(model=model, cluster=cluster, axis=axis))
    return read_sweep("s.yaml")[0]


def experiments_of(sweep: Sweep) -> tuple[Experiment, ...]:
    return expand(sweep, find_engine("trtllm-serve").kv_settings).experiments


# ------------------------------------------------------------------------------------------------ files and folders


@pytest.mark.parametrize("place", ["models", "config/ratematch/models", "elsewhere"])
def test_model_files_are_found_by_name(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(place)
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(f"{{name: Mine-7B, aliases: [m7], {SHAPE}}}")
    (folder / "Foreign").mkdir()
    (folder / "Foreign" / "config.json").write_text((CONFIGS / "gpt-oss-20b.json").read_text())
    monkeypatch.setenv("RATEMATCH_MODELS", "elsewhere")
    for name in ("mine-7b", "m7", "mine", "org/Mine-7B"):
        assert load_model(name).name == "mine-7b"
    assert load_model("foreign").moe is not None
    assert {"mine-7b", "foreign", "deepseek-r1"} <= set(known_models())


def test_a_model_file_says_every_mistake_with_its_line() -> None:
    Path("bad.yaml").write_text("name: x\nlayers: 0\nhiden: 5\nmixers: [{kind: warp, layers: 1}]\n")
    with pytest.raises(CatalogError) as caught:
        load_model("./bad.yaml")
    for part in ("bad.yaml:2: layers", "bad.yaml:3: hiden: unknown key", "bad.yaml:4: mixers[0].kind", "'vocab'"):
        assert part in str(caught.value)


def test_a_broken_file_beside_is_said_when_a_name_is_not_found() -> None:
    Path("models").mkdir()
    Path("models/bad.yaml").write_text("name: x\n")
    assert load_model("deepseek-r1").layers == 61
    with pytest.raises(CatalogError, match=r"'nobody' is not known; left out: models/bad\.yaml.*models/NAME\.yaml"):
        load_model("nobody")


@pytest.mark.parametrize(
    ("model", "name", "path"),
    [
        ("deepseek-r1", "deepseek-r1", "deepseek-r1"),
        ("{name: deepseek-r1, path: /weights/r1}", "deepseek-r1", "/weights/r1"),
        ("/lustre/models/DeepSeek-R1-0528", "deepseek-r1", "/lustre/models/DeepSeek-R1-0528"),
        ("ckpt/Own-Model", "own-model", "own-model"),
        ("./ckpt/Own-Model", "own-model", "./ckpt/Own-Model"),
        ("{path: ckpt/Own-Model}", "own-model", "ckpt/Own-Model"),
        ("{name: pet, path: ckpt/Own-Model}", "pet", "ckpt/Own-Model"),
        ("{hf: org/Own, config: ckpt/Own-Model/config.json}", "own", "org/Own"),
        ("{hf: Qwen/Qwen3-30B-A3B}", "qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B"),
        ("{name: hand, " + SHAPE + ", moe: {experts: 64, top_k: 2, ffn: 512}}", "hand", "hand"),
        ("{name: hand, path: /w, " + SHAPE + ", moe: {experts: 64, top_k: 2, ffn: 512}}", "hand", "/w"),
    ],
)
def test_how_a_sweep_names_its_model(model: str, name: str, path: str) -> None:
    folder = Path("ckpt/Own-Model")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text((CONFIGS / "mixtral-8x7b.json").read_text())
    sweep = sweep_of(model)
    assert (sweep.model.name, sweep.model_path) == (name, path)


CHECKPOINT = {"bf16": None, "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]}}


@pytest.mark.parametrize(
    ("model", "lies", "cluster", "precision"),
    [
        ("{name: qwen3-32b, path: ./ckpt}", "bf16", "h200", "bf16"),  # usually FP8 there
        ("{name: qwen3-32b, path: ./ckpt}", "fp8", "h200", "fp8"),
        ("{name: qwen3-32b, path: ./ckpt/config.json}", "bf16", "h200", "bf16"),
        ("{name: qwen3-32b, path: ./ckpt}", "bf16", "b200", "bf16"),  # usually NVFP4 there
        ("{name: qwen3-8b, path: ./ckpt}", "fp8", "h200", "fp8"),  # published in bf16
        ("{name: qwen3-32b-fp8, path: ./ckpt}", "bf16", "h200", "fp8"),  # as the name says
        ("{name: qwen3-32b, path: ./ckpt, precision: fp8}", "bf16", "h200", "fp8"),  # as the file says
        ("{name: qwen3-32b, path: {bf16: ./ckpt}, precision: bf16}", "fp8", "h200", "bf16"),
        ("{name: qwen3-32b, path: /elsewhere/Qwen3-32B}", "bf16", "h200", "fp8"),
        ("{name: qwen3-32b, path: ./broken}", "bf16", "h200", "fp8"),
    ],
)
def test_a_known_model_has_the_format_of_the_checkpoint_that_lies_here(
    model: str, lies: str, cluster: str, precision: str
) -> None:
    content = json.loads((CONFIGS / "qwen3-32b.json").read_text())
    content.pop("quantization_config", None)
    quantised = {"quantization_config": CHECKPOINT[lies]} if CHECKPOINT[lies] else {}
    for folder, text in (("ckpt", json.dumps(content | quantised)), ("broken", "{")):
        Path(folder).mkdir()
        Path(folder, "config.json").write_text(text)
    axes = "{mapping: DEP8"
    Path("s.yaml").write_text(SWEEP.replace(axes, "{mapping: TP1").format(model=model, cluster=cluster, axis=""))
    sweep = read_sweep("s.yaml")[0]
    (workload,) = sweep.workloads
    assert default_precision(sweep.model_under(workload.precision), sweep.gpu) == precision


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nobody", "model: model 'nobody' is not known"),
        ("/models/Nobody", "model: there is no checkpoint or model file at /models/Nobody"),
        ("{path: /models/Nobody}", "model.path: there is no checkpoint"),
        ("{hf: org/Nobody}", "beside hf: config: PATH"),
        ("{precision: fp8}", "names no model"),
        ("{nam: deepseek-r1}", "unknown key 'nam'"),
        ("{name: hand, layers: 4}", "required key 'hidden' is missing"),
        ("{name: hand, layer: 3, " + SHAPE + "}", "unknown key 'layer'"),
        ("{name: deepseek-r1, precision: fp7}", "'fp7' is no precision"),
        ("{name: deepseek-r1, path: /one, precision: [fp8, nvfp4]}", "is one checkpoint, and each of"),
    ],
)
def test_what_is_refused_of_a_model_in_one_line(model: str, message: str) -> None:
    with pytest.raises(SweepError) as caught:
        sweep_of(model)
    assert message in str(caught.value)
    assert "s.yaml:2" in str(caught.value)


# ------------------------------------------------------------------------------------------------ experiments


def test_a_shipped_model_leaves_experiments_as_they_were() -> None:
    for model in ("deepseek-r1", "{name: deepseek-r1, precision: nvfp4}", "{name: deepseek-r1, precision: fp4}"):
        ctx, gen = experiments_of(sweep_of(model))
        assert (ctx.facts, ctx.workload.precision) == (None, "")
        assert {"facts", "precision"} & {*to_json(ctx), *to_json(ctx)["workload"]} == set()
        assert (ctx.id, gen.id) == tuple(each.id for each in experiments_of(sweep_of("deepseek-r1")))


def test_an_own_model_travels_with_its_experiments(tmp_path: Path) -> None:
    sweep = sweep_of(f"{CONFIGS}/qwen3.5-397b-a17b.json")
    experiment = experiments_of(sweep)[0]
    again = from_json(json.loads(json.dumps(to_json(experiment))))
    assert again.id == experiment.id
    assert facts_of(model_of(again)) == facts_of(sweep.model)
    other = experiments_of(sweep_of(f"{CONFIGS}/qwen3.5-35b-a3b.json"))[0]
    assert other.id != experiment.id


def test_precisions_are_an_axis_and_never_share_an_id() -> None:
    both = sweep_of("{name: deepseek-r1, precision: [fp8, nvfp4], path: {fp8: /f8, nvfp4: /f4}}")
    experiments = experiments_of(both)
    assert both.precisions == ("fp8", "")
    assert {(each.workload.precision, each.model_path) for each in experiments} == {("fp8", "/f8"), ("", "/f4")}
    assert len({each.id for each in experiments}) == len(experiments) == 4
    assert {each.workload.label for each in experiments} == {"1024/1~fp8", "1024/1", "1024/64~fp8", "1024/64"}
    by_axis = experiments_of(sweep_of("deepseek-r1", axis=", precision: [fp8, nvfp4]"))
    assert {each.id for each in by_axis} == {each.id for each in experiments}
    assert {model_of(each).chosen_precision for each in by_axis} == {"", "fp8"}


@pytest.mark.parametrize(
    ("name", "cluster", "precision"),
    [
        ("deepseek-r1-0528-fp4", "b200", ""),  # what it has there anyway
        ("deepseek-r1-fp8", "b200", "fp8"),
        ("nvidia/Qwen3-235B-A22B-FP4", "b200", ""),
        ("qwen3-235b-a22b-fp8", "h200", ""),
        ("qwen3-235b-a22b-bf16", "h200", "bf16"),
        ("nvidia/Kimi-K2.5-NVFP4", "b200", "nvfp4"),
        ("kimi-k2.5", "b200", ""),
    ],
)
def test_the_end_of_a_name_is_a_precision(name: str, cluster: str, precision: str) -> None:
    assert sweep_of(name, cluster).precisions == (precision,)


def test_a_precision_changes_what_fits() -> None:
    whole = {}
    for precision in ("bf16", "fp8", "nvfp4"):
        sweep = sweep_of(f"{{name: deepseek-r1, precision: {precision}}}")
        expansion = expand(sweep, find_engine("trtllm-serve").kv_settings)
        whole[precision] = len(expansion.experiments)
    assert whole == {"bf16": 0, "fp8": 2, "nvfp4": 2}


# ------------------------------------------------------------------------------------------------ by hand


def test_keys_by_hand_count_as_those_of_a_file() -> None:
    read = load_model(str(CONFIGS / "nemotron-3-super.json"))
    Path("models").mkdir()
    Path("models/again.yaml").write_text(json.dumps({**facts_of(read), "name": "again"}))
    again = load_model("again")
    assert total_params(again) == total_params(read)
    assert kv_bytes_per_token(again, "fp8") == kv_bytes_per_token(read, "fp8")


def test_a_folder_here_is_named_as_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    with pytest.raises(CatalogError, match=r"'mine' is not known; the one that lies here is \./mine"):
        load_model("mine")
