"""The schema that an installed package is asked for, and files checked by it. The script that asks runs as a process
of its own, with a package tree of ``tests/engines/packages`` in place of TensorRT-LLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ratematch.engines import find_engine
from ratematch.engines.installed import InstalledSchema
from ratematch.engines.trtllm_serve.schema import answer, inside
from ratematch.engines.trtllm_serve.schema.answer import describe_schema, document_of, read_answer, schema_command
from ratematch.engines.trtllm_serve.schema.check import Checker, TooComplex
from ratematch.engines.trtllm_serve.schema.document import read_document
from ratematch.engines.trtllm_serve.schema.files import Judgement, judge_orchestrator, judge_worker

PACKAGES = Path(__file__).parent / "packages"
NEWEST = find_engine("trtllm-serve").facts.versions[-1]
"""The newest release line of the shipped contract."""

LAUNCH = Path(__file__).parents[1] / "golden" / "launch"


def output_of(folder: Path, limit_s: str = "60") -> str:
    """What the command that asks prints where the package in ``folder`` is installed."""
    argv = [*schema_command((sys.executable,))[:-1], limit_s]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def v1_2() -> InstalledSchema:
    return read_answer(output_of(PACKAGES / "v1_2"), "image of 1.2")


@pytest.fixture(scope="module")
def v1_4() -> InstalledSchema:
    return read_answer(output_of(PACKAGES / "v1_4"), "image of 1.4")


def package(folder: Path, **modules: str) -> Path:
    """A package tree with these modules of ``tensorrt_llm``, dots written as two underscores."""
    (folder / "tensorrt_llm").mkdir(parents=True)
    for name, text in {"__init__": '__version__ = "1.3.0rc9"\n', **modules}.items():
        place = folder.joinpath("tensorrt_llm", *name.split("____"))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.with_name(f"{place.name}.py").write_text(text)
    return folder


ARGS = """
from pydantic import BaseModel, ConfigDict
class TorchLlmArgs(BaseModel):
    model_config = ConfigDict(extra="forbid")
    max_batch_size: int = 8
"""


# --------------------------------------------------------------------------------------------------------- asking


def test_the_package_says_its_version_its_commands_and_every_model(v1_4: InstalledSchema) -> None:
    document = document_of(v1_4)
    assert (v1_4.version, document.path) == ("1.4.0rc4", str(PACKAGES / "v1_4" / "tensorrt_llm"))
    assert {"KvCacheConfig", "CacheTransceiverConfig", "MTPDecodingConfig", "MoeConfig"} <= set(document.definitions)
    assert {"--host", "--port", "--config", "--extra_llm_api_options"} <= set(document.options["serve"])
    assert document.options["disaggregated"][0] == "--config_file" and document.missing == ()
    runtime = document.definitions["CacheTransceiverConfig"].keys["transceiver_runtime"]
    assert runtime.default == "PYTHON" and runtime.has_default
    assert "37 keys of the worker's file" in describe_schema(v1_4)
    assert document.orchestrator is not None and "schedule_style" in document.orchestrator.keys


def test_what_a_package_prints_while_it_is_imported_is_not_taken_for_its_schema(v1_4: InstalledSchema) -> None:
    assert '"9.9"' not in v1_4.text  # its __init__ prints a line like ours
    assert v1_4.text == json.dumps(json.loads(v1_4.text), sort_keys=True, separators=(",", ":"))


@pytest.mark.parametrize(
    ("modules", "why"),
    [
        ({"llmapi__llm_args": "raise ImportError('libcuda.so.1: no such file')"}, "libcuda.so.1: no such file"),
        ({"__init__": "raise RuntimeError('no\\nGPU')"}, "tensorrt_llm: RuntimeError: no GPU"),
        ({"__init__": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"}, "ended the process by signal 11"),
        ({"__init__": "import os\nos._exit(3)"}, "it wrote nothing"),
        ({"llmapi__llm_args": "class TorchLlmArgs: pass"}, "TorchLlmArgs"),
        ({"llmapi__other": ""}, "TorchLlmArgs is in none of"),
    ],
)
def test_a_broken_package_is_one_line(tmp_path: Path, modules: dict[str, str], why: str) -> None:
    written = {
        name.replace("__", "____") if not name.startswith("__") else name: text for name, text in modules.items()
    }
    with pytest.raises(ValueError, match="it has no schema of the worker's file: ") as refused:
        read_answer(output_of(package(tmp_path, **written)), "x")
    assert why in str(refused.value) and "\n" not in str(refused.value)


def test_a_package_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    body = "import pathlib, subprocess\nchild = subprocess.Popen(['sleep', '600'])\n"
    body += f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\nchild.wait()\n"
    with pytest.raises(ValueError, match="importing it took longer than 1 s"):
        read_answer(output_of(package(tmp_path / "tree", __init__=body), "1"), "x")
    status = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_package_without_pydantic_says_so(tmp_path: Path) -> None:
    package(tmp_path, llmapi____llm_args=ARGS)
    (tmp_path / "pydantic.py").write_text("raise ImportError('none here')\n")
    with pytest.raises(ValueError, match="pydantic: ImportError: none here"):
        read_answer(output_of(tmp_path), "x")


def test_a_schema_without_end_is_refused(tmp_path: Path) -> None:
    body = ARGS + f'    huge: int = 1\n    """x"""\nTorchLlmArgs.__doc__ = "x" * {inside.MOST_BYTES}\n'
    body += "TorchLlmArgs.model_rebuild(force=True)\n"
    with pytest.raises(ValueError, match="its schema has more than 4 MiB"):
        read_answer(output_of(package(tmp_path, llmapi____llm_args=body)), "x")


def test_a_class_that_moved_is_found_where_it_is_defined(tmp_path: Path) -> None:
    installed = read_answer(output_of(package(tmp_path, _torch____config____arguments=ARGS)), "x")
    assert judge_worker({"max_batch_size": 4}, NEWEST, installed).refusals == ()
    missing = " ".join(document_of(installed).missing)
    assert "extract_disagg_cfg is in none of" in missing and "serve is in none of" in missing


def test_a_field_that_pydantic_cannot_describe_costs_its_own_check_only(tmp_path: Path) -> None:
    body = ARGS + (
        "    when: 'Odd | None' = None\n"
        "class Odd:\n"
        "    @classmethod\n"
        "    def __get_pydantic_core_schema__(cls, source, handler):\n"
        "        from pydantic_core import core_schema\n"
        "        return core_schema.any_schema()\n"
        "    @classmethod\n"
        "    def __get_pydantic_json_schema__(cls, schema, handler):\n"
        "        raise RuntimeError('no schema')\n"
        "TorchLlmArgs.model_rebuild()\n"
    )
    installed = read_answer(output_of(package(tmp_path, llmapi____llm_args=body)), "x")
    judged = judge_worker({"when": 1, "max_batch_size": "x", "max_batch": 1}, NEWEST, installed).refusals
    assert [problem.partition(":")[0] for problem in judged] == ["max_batch_size", "max_batch"]


def test_no_gpu_is_seen_by_what_is_imported(tmp_path: Path) -> None:
    init = "import os\n__version__ = 'sees ' + repr(os.environ['CUDA_VISIBLE_DEVICES'])\n"
    installed = read_answer(output_of(package(tmp_path, __init__=init, llmapi____llm_args=ARGS)), "x")
    assert installed.version == "sees ''"


def test_the_python_of_the_command_is_the_one_that_asks(tmp_path: Path) -> None:
    """Its first line names it, as pip writes commands; an image's own ``python3`` may have no TensorRT-LLM."""
    own = tmp_path / "own python"
    program = tmp_path / "trtllm-serve"
    program.write_text(f"#!{tmp_path}/python-of-the-image -s\n")
    program.chmod(0o755)
    interpreter = tmp_path / "python-of-the-image"
    interpreter.write_text(f'#!/bin/bash\necho "$1" >"{own}"\n')
    interpreter.chmod(0o755)
    subprocess.run(schema_command((str(program), "serve")), check=True, capture_output=True)
    assert own.read_text() == "-s\n"
    assert schema_command(("numactl", "-m", "0", "/opt/bin/trtllm-serve"))[4] == "/opt/bin/trtllm-serve"


def test_the_script_needs_nothing_of_ratematch() -> None:
    text = Path(inside.__file__).read_text()
    assert "ratematch." not in text.replace("ratematch.engines", "") or "import ratematch" not in text
    assert len(text) < 64_000, "it travels as an argument"
    assert find_engine("vllm").schema_command(("vllm",)) is None


# -------------------------------------------------------------------------------------------------------- checking


@pytest.mark.parametrize(("layout", "line"), [("v1_2", "1.2"), ("v1_4", NEWEST)])
def test_every_golden_launch_file_of_its_line_passes(layout: str, line: str, request: pytest.FixtureRequest) -> None:
    installed: InstalledSchema = request.getfixturevalue(layout)
    files = sorted(LAUNCH.glob(f"*/{line}/*.yaml"))
    assert len(files) > 20
    for file in files:
        judge = judge_orchestrator if file.stem == "orchestrator" else judge_worker
        assert judge(yaml.safe_load(file.read_text()), line, installed).refusals == (), file


ONLY_1_4: dict[str, Any] = {
    "prefill_cuda_graph_backend": "piecewise",
    "internal_request_auth_key": "secret",
    "hf_revision": "abc",
    "cache_transceiver_config": {"backend": "NIXL", "kv_cache_bounce_size_mb": 64},
    "attention_dp_config": {"enable_kv_cache_aware_routing": True, "kv_cache_routing_load_balance_weight": 2},
    "scheduler_config": {"use_python_scheduler": True},
    "kv_cache_config": {"pool_ratio": [0.5, 1]},
    "speculative_config": {"decoding_type": "MTP", "max_draft_len": 3, "use_rejection_sampling": True},
}


def test_keys_of_one_layout_only(v1_2: InstalledSchema, v1_4: InstalledSchema) -> None:
    assert judge_worker(ONLY_1_4, NEWEST, v1_4).refusals == ()
    refused = judge_worker(ONLY_1_4, "1.2", v1_2).refusals
    assert [problem.partition(":")[0] for problem in refused] == [
        "prefill_cuda_graph_backend",
        "internal_request_auth_key",
        "hf_revision",
        "cache_transceiver_config.kv_cache_bounce_size_mb",
        "attention_dp_config.enable_kv_cache_aware_routing",
        "attention_dp_config.kv_cache_routing_load_balance_weight",
        "scheduler_config.use_python_scheduler",
        "kv_cache_config.pool_ratio",
        "speculative_config.use_rejection_sampling",
    ]
    old = {"speculative_config": {"decoding_type": "MTP", "num_nextn_predict_layers": 3, "relaxed_topk": 2}}
    assert judge_worker(old, "1.2", v1_2).refusals == ()
    (gone,) = judge_worker(old, NEWEST, v1_4).refusals
    assert gone.startswith("speculative_config.relaxed_topk: unknown key in 1.4.0rc4")


@pytest.mark.parametrize(
    ("layout", "config", "said"),
    [
        (
            "v1_4",
            {"attention_dp_config": {"kv_cache_aware_routing": True}},
            "mean attention_dp_config.enable_kv_",
        ),
        ("v1_4", {"transceiver_runtime": "CPP"}, "it belongs at cache_transceiver_config.transceiver_runtime"),
        (
            "v1_4",
            {"moe_config": {"backend": "WIDEEP"}},
            "'WIDEEP' is not valid in 1.4.0rc4; choose from AUTO",
        ),
        ("v1_2", {"moe_config": {"backend": "TRTLM"}}, "did you mean TRTLLM?"),
        ("v1_2", {"speculative_config": {"decoding_type": "Medusa"}}, "choose from Eagle3, MTP, NGram"),
        ("v1_4", {"speculative_config": {"decoding_type": "Medusa"}}, "choose from MTP, Eagle3, NGram"),
        (
            "v1_2",
            {"speculative_config": {"decoding_type": "MTP", "max_matching_ngram_size": 3}},
            "max_matching_ngram_size: unknown key in 1.2.1 here; it belongs to NGramDecodingConfig",
        ),
        ("v1_4", {"tensor_parallel_size": "8"}, "'8' is no whole number; write 8 without quotes"),
        (
            "v1_4",
            {"tensor_parallel_size": None},
            "tensor_parallel_size: null is not valid here; it is a whole number",
        ),
        ("v1_4", {"enable_attention_dp": 1}, "enable_attention_dp: 1 is no true or false"),
        ("v1_4", {"max_batch_size": True}, "max_batch_size: True is no whole number or null"),
        ("v1_4", {"kv_cache_config": {"free_gpu_memory_fraction": 1.5}}, "1.5 must be at least 0 and at most 1"),
        ("v1_4", {"kv_cache_config": {"iteration_stats_interval": 0}}, "0 must be greater than 0"),
        ("v1_4", {"kv_cache_config": [1]}, "kv_cache_config: [1] is no map"),
        ("v1_4", {"kv_cache_config": {"pool_ratio": [1, "x"]}}, "kv_cache_config.pool_ratio.1: 'x' is no number"),
        (
            "v1_4",
            {"disagg_cluster": {"cluster_uri": "u", "inactive_interval_sec": 3}},
            "mean disagg_cluster.inactive",
        ),
        ("v1_4", {"disagg_cluster": {"cluster_name": "n"}}, "disagg_cluster: cluster_uri is required in 1.4.0rc4"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_key(
    layout: str, config: dict[str, Any], said: str, request: pytest.FixtureRequest
) -> None:
    installed: InstalledSchema = request.getfixturevalue(layout)
    (problem,) = judge_worker(config, "1.2" if layout == "v1_2" else NEWEST, installed).refusals
    assert said in problem and "\n" not in problem
    assert problem.startswith(next(iter(config)))


def test_other_names_of_a_key_are_taken(v1_2: InstalledSchema, v1_4: InstalledSchema) -> None:
    for installed, line in ((v1_2, "1.2"), (v1_4, NEWEST)):
        for name in ("speculative_model", "speculative_model_dir"):
            config = {"speculative_config": {"decoding_type": "Eagle3", "max_draft_len": 3, name: "/models/head"}}
            assert judge_worker(config, line, installed).refusals == ()
    assert judge_worker({"_mpi_session": None}, NEWEST, v1_4).refusals == ()
    (own,) = judge_worker({"mpi_session": None}, NEWEST, v1_4).refusals  # its alias alone is taken
    assert "did you mean _mpi_session?" in own


def test_a_value_that_the_package_converts_itself_is_not_refused(v1_4: InstalledSchema) -> None:
    """``cp_type`` has numbers in the schema, and a validator takes their names; a discriminator may be left out where
    a validator puts it in; arguments that are gone are dropped by one."""
    config = {
        "cp_config": {"cp_type": "helix"},
        "cuda_graph_config": {"enable_padding": True},
        "env_overrides": {"TRTLLM_ENABLE_PDL": 1},
        "load_format": "dummy",
        "sampler_type": "TRTLLMSampler",
        "speculative_config": {"decoding_type": "MTP", "num_nextn_predict_layers": 3},
    }
    assert judge_worker(config, NEWEST, v1_4).refusals == ()
    (wrong,) = judge_worker({"cuda_graph_config": {"enable_pading": True}}, NEWEST, v1_4).refusals
    assert "did you mean cuda_graph_config.enable_padding?" in wrong


def test_extra_keys_go_by_what_the_model_says(v1_4: InstalledSchema) -> None:
    config = {"telemetry_config": {"anything": 1}, "quant_config": {"anything": 1}}
    judged = judge_worker(config, NEWEST, v1_4)
    assert judged.refusals == ()
    assert any(
        doubt.startswith("quant_config.anything: unknown key in 1.4.0rc4, which ignores it")
        for doubt in judged.doubts
    )
    assert not any(doubt.startswith("telemetry_config.anything: unknown") for doubt in judged.doubts)


def test_deprecated_keys_are_a_warning(v1_2: InstalledSchema, v1_4: InstalledSchema) -> None:
    config = {"cache_transceiver_config": {"agent_bounce_buffer_enable": True}, "perf_metrics_max_requests": 3}
    judged = judge_worker(config, NEWEST, v1_4)
    assert judged.refusals == ()
    assert "perf_metrics_max_requests: is deprecated in 1.4.0rc4" in judged.doubts
    assert any(
        doubt.startswith("cache_transceiver_config.agent_bounce_buffer_enable: is depr") for doubt in judged.doubts
    )
    assert "perf_metrics_max_requests" not in str(judge_worker({"perf_metrics_max_requests": 3}, "1.2", v1_2))


def test_the_shipped_contract_only_warns_where_a_schema_is_known(v1_4: InstalledSchema) -> None:
    judged = judge_worker({"_mpi_session": None}, NEWEST, v1_4)
    (doubt,) = judged.doubts
    assert judged.refusals == () and doubt.startswith("_mpi_session: the image takes it; the contract shipped for ")
    assert "says: unknown key" in doubt


def test_rules_between_keys_stay(v1_4: InstalledSchema) -> None:
    config = {"tensor_parallel_size": 4, "moe_expert_parallel_size": 3, "cuda_graph_config": {"batch_sizes": []}}
    problems = judge_worker(config, NEWEST, v1_4).refusals
    assert problems[0].startswith("moe_expert_parallel_size: 3 does not divide tensor_parallel_size 4")
    assert problems[1].startswith("cuda_graph_config.batch_sizes: must hold at least one size")


def test_another_backend_is_checked_by_the_shipped_contract(v1_2: InstalledSchema) -> None:
    judged = judge_worker({"backend": "tensorrt", "max_batch_sise": 3}, "1.2", v1_2)
    assert "did you mean max_batch_size?" in judged.refusals[0] and "for tensorrt" in judged.doubts[0]


def test_the_orchestrators_own_keys(v1_2: InstalledSchema, v1_4: InstalledSchema) -> None:
    config: dict[str, Any] = {
        "hostname": "n",
        "port": 8333,
        "internal_request_auth_key": "k",
        "schedule_style": "context_first",
        "context_servers": {"num_instances": 1, "urls": ["a:1"], "kv_cache_config": {"dtype": "fp8"}},
        "generation_servers": {"num_instances": 1, "urls": ["b:1"]},
    }
    assert judge_orchestrator(config, NEWEST, v1_4).refusals == ()
    old = judge_orchestrator(config, "1.2", v1_2)
    assert old.refusals == () and any(
        "internal_request_auth_key: is no key of 1.2.1" in doubt for doubt in old.doubts
    )
    wrong = {**config, "schedule_style": "ctx_first", "port": "8333", "otlp_config": {"endpoint": "x"}}
    refused = judge_orchestrator(wrong, NEWEST, v1_4).refusals
    assert [problem.partition(":")[0] for problem in refused] == ["port", "schedule_style", "otlp_config.endpoint"]
    twice = {**config, "generation_servers": {"num_instances": 2, "urls": ["b:1"]}}
    (rule,) = judge_orchestrator(twice, NEWEST, v1_4).refusals
    assert "should be equal to the number of instances" in rule
    section = {**config, "generation_servers": {"num_instances": 1, "urls": ["b:1"], "tensor_paralel_size": 3}}
    doubts = judge_orchestrator(section, NEWEST, v1_4).doubts
    assert any(doubt.startswith("generation_servers.tensor_paralel_size: is no key of 1.4.0rc4") for doubt in doubts)


def test_an_orchestrators_file_that_is_a_model_of_its_own(tmp_path: Path) -> None:
    """As newer releases may have it: then keys of servers are refused at its top, and so are keys of nobody."""
    body = (
        "from pydantic import BaseModel, ConfigDict\n"
        "class Section(BaseModel):\n"
        "    model_config = ConfigDict(extra='allow')\n"
        "    num_instances: int = 1\n"
        "    urls: list[str] | None = None\n"
        "class DisaggServerConfig(BaseModel):\n"
        "    model_config = ConfigDict(extra='forbid')\n"
        "    hostname: str = 'localhost'\n"
        "    port: int = 8000\n"
        "    context_servers: Section | None = None\n"
        "    generation_servers: Section | None = None\n"
    )
    tree = package(tmp_path, llmapi____llm_args=ARGS, serve____disagg_config=body)
    installed = read_answer(output_of(tree), "x")
    config = {"hostname": "n", "generation_servers": {"num_instances": 1, "urls": ["b:1"], "max_batch_size": 3}}
    assert judge_orchestrator(config, NEWEST, installed).refusals == ()
    wrong = {**config, "max_batch_size": 3, "hostnam": "n", "generation_servers": {"urls": "b:1"}}
    refused = judge_orchestrator(wrong, NEWEST, installed).refusals
    assert [line.partition(":")[0] for line in refused] == ["generation_servers.urls", "max_batch_size", "hostnam"]
    assert "did you mean hostname?" in refused[2]


def test_references_as_older_pydantic_writes_them_are_followed() -> None:
    text = document(
        properties={"kv": {"allOf": [{"$ref": "#/$defs/Kv"}], "default": {}}},
        **{
            "$defs": {"Kv": {"type": "object", "additionalProperties": False, "properties": {"size": {"maximum": 9}}}}
        },
    )
    installed = InstalledSchema(text, "x", "1.4.0")
    assert judge_worker({"kv": {"size": 9}}, NEWEST, installed).refusals == ()
    found = judge_worker({"kv": {"size": 10, "sise": 1}, "size": 3}, NEWEST, installed)
    assert found.refusals == (
        "kv.size: 10 must be at most 9",
        "kv.sise: unknown key in 1.4.0; did you mean kv.size?",
    )
    assert any(
        doubt.startswith("size: unknown key in 1.4.0, which ignores it; it belongs at kv.size")
        for doubt in found.doubts
    )


# -------------------------------------------------------------------------------------------------- untrusted input


def document(**worker: Any) -> str:
    return json.dumps({"format": 1, "worker": {"type": "object", **worker}})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "it is no JSON"),
        ("[" * 5000 + "]" * 5000, "deep"),
        ("[1]", "it has no format 1"),
        ('{"format": 2}', "it has no format 1"),
        (document(properties={"a": {"$ref": "https://example.com/x.json"}}), "leaves the document"),
        (document(properties={"a": {"$ref": "#/$defs/Gone"}}), "leads nowhere"),
        (document(properties={"a": {}}, **{"$defs": {"A": {"$ref": "#/$defs/A"}}}), "is itself"),
        (
            document(
                properties={"a": {}},
                **{"$defs": {"A": {"anyOf": [{"$ref": "#/$defs/B"}]}, "B": {"allOf": [{"$ref": "#/$defs/A"}]}}},
            ),
            "is itself",
        ),
        (document(properties={"a\x1b[31m": {}}), "control characters"),
        (document(properties={"a": {"enum": ["\u202e"]}}), "control characters"),
        (document(properties={"a": {"description": "\x07"}}), "control characters"),
        (document(properties={"a": {"enum": 3}}), "enum of a value is no list"),
        (document(properties={"a": {"minimum": "many"}}), "minimum is"),
        (document(properties={"a": {"multipleOf": 0}}), "multipleOf is"),
        (document(properties={"a": {"maximum": float("inf")}}), "it is no JSON"),
        (document(properties=[1]), "stands where a map belongs"),
        (document(), "has no keys"),
        (document(properties={"a": {"enum": ["x" * 70_000]}}), "has 70000 characters"),
        # Megabytes, written when their turn comes: each process that shares the tests reads this list.
        (lambda: document(properties={str(index): {"anyOf": [{}] * 40} for index in range(6_000)}), "more than"),
        (document(properties={"a": {}}, **{"$defs": {str(index): {} for index in range(4_000)}}), "4000 definitions"),
        ("1" * 5_000, "it is no JSON"),
    ],
)
def test_what_no_package_says_is_refused_on_one_line(text: str | Callable[[], str], why: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        read_document(text if isinstance(text, str) else text())
    assert why in str(refused.value) and "\n" not in str(refused.value) and len(str(refused.value)) < 300


def test_patterns_of_an_image_are_never_run() -> None:
    installed = InstalledSchema(document(properties={"model": {"type": "string", "pattern": "(a+)+$"}}), "x", "1.4.0")
    assert judge_worker({"model": "a" * 5000 + "b"}, NEWEST, installed).refusals == ()


def test_a_schema_that_takes_for_ever_is_given_up() -> None:
    either = {
        "anyOf": [{"type": "object", "properties": {"x": {"$ref": "#/$defs/A"}}, "title": str(n)} for n in range(9)]
    }
    known = read_document(document(properties={"a": {"$ref": "#/$defs/A"}}, **{"$defs": {"A": either}}))
    value: dict[str, Any] = {}
    for _ in range(30):
        value = {"x": value}
    assert known.worker is not None
    with pytest.raises(TooComplex, match="too large to be checked"):
        Checker(known, "1.4").check({"a": value}, known.worker)
    installed = InstalledSchema(
        document(properties={"a": {"$ref": "#/$defs/A"}}, **{"$defs": {"A": either}}), "x", "1.4"
    )
    assert any("too large to be checked" in doubt for doubt in judge_worker({"a": value}, NEWEST, installed).doubts)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
    max_leaves=12,
)
KEYWORDS = (
    *("type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "items", "properties", "additionalProperties"),
    *("required", "minimum", "maxLength", "prefixItems", "default", "deprecated", "description", "title", "$defs"),
)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(KEYWORDS), JSON, max_size=6), JSON)
def test_any_schema_is_read_or_refused_and_any_value_judged(schema: dict[str, Any], value: Any) -> None:
    text = json.dumps({"format": 1, "worker": {"properties": {"a": schema}}, "models": {}})
    try:
        known = read_document(text)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    assert known.worker is not None
    for remark in Checker(known, "1.4").check({"a": value}, known.worker):
        assert "\n" not in str(remark)


@settings(max_examples=30)
@given(JSON)
def test_any_value_is_judged_by_a_real_schema(value: Any) -> None:
    text = json.dumps({"format": 1, "version": "1.4.0rc4", "worker": {
        "properties": {"a": {"anyOf": [{"$ref": "#/$defs/M"}, {"type": "null"}]}, "b": {"enum": [1, "x", None]}},
        "$defs": {"M": {"type": "object", "additionalProperties": False, "properties": {"k": {"type": "integer"}}}},
    }})  # fmt: skip
    installed = InstalledSchema(text, "x", "1.4.0rc4")
    judged = judge_worker({"a": value, "b": value}, NEWEST, installed)
    assert isinstance(judged, Judgement) and not any("\n" in line for line in (*judged.refusals, *judged.doubts))


def test_output_without_a_schema_is_one_line() -> None:
    for output in ("", "bash: python3: command not found\n", "x" * 10**6):
        with pytest.raises(ValueError, match="it printed no schema") as refused:
            read_answer(output, "x")
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 300
    with pytest.raises(ValueError, match="at most"):
        read_answer(inside.MARK + "x" * (answer.MOST_CHARACTERS + 1), "x")
