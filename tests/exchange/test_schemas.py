"""JSON schemas take what is read and refuse what is not, and are the ones that are published."""

from __future__ import annotations

import contextlib
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from ratematch.analysis.analyze import analyze_results
from ratematch.cli import main
from ratematch.errors import UserError
from ratematch.exchange.schemas import SCHEMAS
from ratematch.exchange.schemas.writtenfiles import descriptions
from ratematch.inputs.clusterfile import parse_cluster
from ratematch.inputs.gpufile import parse_gpu
from ratematch.plan.located import read_located
from ratematch.plan.modelfile import parse_model
from ratematch.show.tables import analysis_to_json
from ratematch.store.folder import Results
from tests.fuzz.kinds import clusters, sweeps
from tests.support.sweeptext import parse as parse_sweep

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "docs" / "schemas"
DATA = ROOT / "ratematch" / "data"

WRITTEN = {
    "sweep": [*ROOT.glob("sweeps/*.yaml"), *ROOT.glob("benchmarks/**/*.yaml")],
    "cluster": [*ROOT.glob("slurm/clusters/*.yaml")],
    "gpu": [*DATA.glob("gpus/*.yaml")],
    "model": [*DATA.glob("models/*.yaml")],
}
SAMPLE, GOLDEN = ROOT / "results" / "sample", ROOT / "tests" / "golden" / "results_v1"
RESULTS = [name for name in SCHEMAS if name not in WRITTEN and name != "analysis"]


@cache
def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(SCHEMAS[name].content())


class Marked(yaml.SafeLoader):
    """Takes the tags of sweep files for what they stand before."""


def _untagged(loader: Marked, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return loader.construct_object(yaml.ScalarNode("tag:yaml.org,2002:str", getattr(node, "value", "")))


Marked.add_multi_constructor("!", _untagged)


def read(path: Path) -> Any:
    return yaml.load(path.read_text("utf-8"), Marked)  # noqa: S506


def faults(name: str, content: Any) -> list[str]:
    return [f"{error.json_path}: {error.message[:200]}" for error in validator(name).iter_errors(content)]


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_is_a_schema_and_the_published_one(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name].content())
    published = (PUBLISHED / SCHEMAS[name].file).read_text("utf-8")
    assert published == SCHEMAS[name].text(), "ratematch schema -o docs/schemas --force"


def test_no_other_schema_is_published() -> None:
    assert {file.name for file in PUBLISHED.iterdir()} == {schema.file for schema in SCHEMAS.values()}


@pytest.mark.parametrize("name", WRITTEN)
def test_every_file_that_comes_along_is_valid(name: str) -> None:
    assert WRITTEN[name]
    assert {path: wrong for path in WRITTEN[name] if (wrong := faults(name, read(path)))} == {}


@pytest.mark.parametrize("name", RESULTS)
def test_every_file_of_the_results_that_come_along_is_valid(name: str) -> None:
    files = [*SAMPLE.rglob(f"{name}.json"), *GOLDEN.rglob(f"{name}.json")]
    files = [file for file in files if "partial-" not in file.parent.name]  # of attempts that did not finish
    assert len(files) > 1
    assert {path: wrong for path in files if (wrong := faults(name, json.loads(path.read_text())))} == {}


def test_the_analysis_of_the_results_that_come_along_is_valid() -> None:
    content = json.loads(json.dumps(analysis_to_json(analyze_results(Results(SAMPLE)))))
    assert faults("analysis", content) == []
    (workload,) = list(content["workloads"].values())[:1]
    workload["ifb"][0]["tok_s_gpu"] = "many"
    del workload["gaps"]
    assert len(faults("analysis", content)) == 2


SWEEP = """
name: s
model: qwen3-8b
cluster: rack
workloads: [{isl: 1024, osl: 64}]
ctx: {axes: {mapping: TP1}, loads: {concurrency: 4}}
gen: {axes: {mapping: TP1}, loads: {concurrency: 4}}
ifb: {axes: {mapping: TP1}, loads: {concurrency: 4}}
"""
ABSENT = "ABSENT"
STAGE = "{axes: {mapping: TP1}, loads: {concurrency: 4}}"

RIGHT = {
    "sweep": [
        f"gen: ABSENT\ndecode: {STAGE}",
        "ctx: {axes: {mapping: [TP1, TP2], mtp: 0, options.max_seq_len: [1, 2]}, loads: {concurrency: [1, 2]}}",
        "ifb: {axes: {tp: 1, ep: tp, attention_dp: [true, false]}, loads: {req_s: 2.5, ramp_to: 4}}",
        "e2e: {router: {type: kv_cache_aware, args: {use_tokens: true}}, choose_at: 20}",
        "e2e: {router: round_robin, loads: {around: 1}}",
        "gen: {mode: null, axes: {mapping: TP1}, loads: {concurrency: 4}, only: [{tp: [1, 2]}]}",
        "workloads: [{isl: 8, osl: 8, isl_spread: 'normal:4,1'}]",
        "model: {name: qwen3-8b, precision: [fp8, bf16], path: {fp8: /a, bf16: /b}}",
        "model: {name: own, layers: 4, hidden: 64, vocab: 100, heads: 4, kv_heads: 4, head_dim: 16, ffn: 64, "
        "max_seq_len: 4096, precision: fp8, path: /models/own}",
        "deployments: [{agg: {mapping: TP1, options: {max_batch_size: 8}}, loads: {concurrency: 1}}]",
    ],
    "cluster": [
        "slurm: {mpi: null, gpus: gres, time: {factor: 3}}",
        "container: {image: /a.sqsh}",
        "stall_minutes: null",
    ],
    "gpu": ["memory_b: 8e11", "flops: {bf16: 1.0e+15, nvfp4: '4e15'}\nprecision: bf16", "nvlink_domain: 72"],
    "model": [
        "moe: {experts: 8, top_k: 2, ffn: 64}",
        "mtp_layers: 1\nmtp_acceptance: [0.8]",
        "attention_precision: {nvfp4: bf16}",
        "kv_precision: fp8\nformats: {nvfp4: {mixers: {fp8: 1.0}}}",
        "mixers: [{kind: mamba2, layers: 2, heads: 8, head_dim: 64, state: 128, groups: 8, conv: 4}]",
    ],
}
"""Changes to a right file after which it is still right."""

WRONG = {
    "sweep": [
        "colour: red",
        "model: 5",
        "model: {name: a, weight: b}",
        "model: {name: own, layers: 4, hidden: 64}",
        "workloads: []",
        "workloads: [{isl: 0, osl: 8}]",
        "workloads: [{isl: 8}]",
        "ctx: {axes: {}, loads: {concurrency: 1}}",
        "ctx: {axes: {mappings: TP1}, loads: {concurrency: 1}}",
        "ctx: {axes: {tp: 0}, loads: {concurrency: 1}}",
        "ctx: {axes: {attention_dp: 1}, loads: {concurrency: 1}}",
        "prefill: {axes: {mapping: TP1}}",
        "gen: {axes: {mapping: TP1}, loads: {concurrency: []}}",
        "gen: {mode: fast, axes: {mapping: TP1}, loads: {concurrency: 1}}",
        "e2e: {router: fastest}",
        "search: random",
        "constraints: {percentile: 42}",
        "seed: 1.5",
    ],
    "cluster": [
        "nodes: 0",
        "nodes: many",
        "gpus_per_node: all",
        "slurm: {partitions: batch}",
        "slurm: {gpus: some}",
        "container: {mounts: []}",
        "packing: tight",
        "emulated: 1",
        "command: []",
    ],
    "gpu": [
        "flops: {fp8: 1.0e+15}\nprecision: fp8",
        "precision: fp7",
        "memory_b: much",
        "memory_b: 5",
        "flops: {bf16: 0}",
        "nvlink: 8",
        "nvlink_domain: 0",
    ],
    "model": [
        "layers: many",
        "moe: {experts: 8}",
        "head: 5",
        "mtp_acceptance: 0.8",
        "precision: fp7",
        "mlp_matrices: 4",
    ],
}
"""Changes to a right file after which it is not."""

BASES = {
    "sweep": SWEEP,
    "cluster": "name: c\ngpu: h200\ngpus_per_node: 8\nnodes: 2\n",
    "gpu": (DATA / "gpus" / "h200.yaml").read_text("utf-8"),
    "model": (DATA / "models" / "qwen3-8b.yaml").read_text("utf-8"),
}


def changed(name: str, change: str) -> str:
    """The right file of a kind with the keys of ``change`` in place of its own."""
    content = yaml.safe_load(BASES[name]) | yaml.safe_load(change)
    return yaml.safe_dump({key: value for key, value in content.items() if value != ABSENT})


PARSERS = {
    "sweep": parse_sweep,
    "cluster": lambda text: parse_cluster(text, "c.yaml"),
    "gpu": lambda text: parse_gpu(text, "g.yaml"),
    "model": lambda text: parse_model(text, "m.yaml"),
}
"""What ratematch itself makes of a file."""


@pytest.mark.parametrize(("name", "change"), [(name, change) for name in RIGHT for change in RIGHT[name]])
def test_what_is_read_is_valid(name: str, change: str) -> None:
    text = changed(name, change)
    assert faults(name, yaml.safe_load(text)) == []
    PARSERS[name](text)


@pytest.mark.parametrize(("name", "change"), [(name, change) for name in WRONG for change in WRONG[name]])
def test_what_is_refused_is_not_valid(name: str, change: str) -> None:
    text = changed(name, change)
    assert faults(name, yaml.safe_load(text)) != []
    with pytest.raises(UserError):
        PARSERS[name](text)


IN_GROUPS = """
name: rack
container: {mounts: [/models:/models]}
slurm: {partition: batch}
groups:
  hopper: {gpu: h200, gpus_per_node: 8, nodes: 12, container: {image: /a.sqsh}}
  small: {gpu: h100, gpus_per_node: 4, nodes: 3, container: null, slurm: {sbatch: [--constraint=h100]}}
"""


def test_a_profile_with_groups_is_valid_and_its_groups_are_checked() -> None:
    assert faults("cluster", yaml.safe_load(IN_GROUPS)) == []
    for group in ("hopper", "small"):
        assert parse_cluster(IN_GROUPS, "c.yaml", group=group).name == f"rack-{group}"
    for right, wrong in (("nodes: 3", "nodes: 0"), ("gpu: h100", "name: h100"), ("gpu: h200", "cpu: h200")):
        assert faults("cluster", yaml.safe_load(IN_GROUPS.replace(right, wrong))) != []
    assert faults("cluster", {**yaml.safe_load(IN_GROUPS), "groups": {}}) != []


SPOILT = {"sweep": (sweeps, sweeps.parse), "cluster": (clusters, PARSERS["cluster"])}
"""Right files with lines changed at random, most of them into wrong ones; and who reads them."""


@pytest.mark.parametrize("name", SPOILT)
def test_whatever_is_read_of_spoilt_files_is_valid(name: str) -> None:
    kind, reader = SPOILT[name]
    chance = random.Random(18)
    taken = 0
    for _ in range(80):
        text = kind.make(chance)
        with contextlib.suppress(UserError):
            reader(text)
            assert faults(name, read_located(text, name).data) == [], text
            taken += 1
    assert taken > 5


WRONG_RESULTS = [
    ("measurement", {"valid": "yes"}),
    ("measurement", {"ttft_ms": {"mean": 1}}),
    ("loadrun", {"load": {"kind": "concurrency", "num_requests": 4}}),
    ("loadrun", {"load": {"kind": "wave", "concurrency": 4, "num_requests": 4}}),
    ("loadrun", {"files": {"records.parquet": ["5", "ab"]}}),
    ("experiment", {"stage": "warm"}),
    ("experiment", {"loads": [{"kind": "rate", "num_requests": 4}]}),
    ("outcome", {"ok": None}),
    ("provenance", {"servers": []}),
    ("limits", {"max_gpus": "all"}),
]


@pytest.mark.parametrize(("name", "change"), WRONG_RESULTS)
def test_results_that_hold_something_else_are_not_valid(name: str, change: dict[str, Any]) -> None:
    content = json.loads(sorted(SAMPLE.rglob(f"{name}.json"))[0].read_text("utf-8"))
    assert faults(name, content) == [] and faults(name, content | {"of a later version": 1}) == []
    assert faults(name, content | change) != []


def test_every_key_says_what_it_is() -> None:
    silent = [
        f"{name}: {kind}.{key}"
        for name in descriptions()
        for kind, part in {"": SCHEMAS[name].content(), **SCHEMAS[name].content().get("$defs", {})}.items()
        for key, value in part["properties"].items()
        if "description" not in value
    ]
    assert silent == []


def test_the_verb_prints_lists_and_writes_them(tmp_path: Path) -> None:
    printed = CliRunner().invoke(main, ["schema", "sweep"])
    assert json.loads(printed.output) == SCHEMAS["sweep"].content()
    listed = CliRunner().invoke(main, ["schema"])
    assert all(name in listed.output for name in SCHEMAS)
    assert CliRunner().invoke(main, ["schema", "-o", str(tmp_path)]).exit_code == 0
    assert {file.name for file in tmp_path.iterdir()} == {schema.file for schema in SCHEMAS.values()}
    (tmp_path / "gpu.schema.json").write_text("mine")
    assert CliRunner().invoke(main, ["schema", "-o", str(tmp_path), "gpu"]).exit_code == 1
    assert (tmp_path / "gpu.schema.json").read_text() == "mine"
    for wrong in (["schema", "sweeps"], ["schema", "sweep", "gpu"]):
        refused = CliRunner().invoke(main, wrong)
        assert refused.exit_code == 1 and "Error" in refused.output
