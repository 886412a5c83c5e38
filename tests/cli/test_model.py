"""``ratematch model show``: by name, by path, as JSON and as a model file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ratematch.inputs.catalog import load_model
from ratematch.plan.modelfile import facts_of
from tests.cli.test_cli import call
from tests.inputs.test_checkpoint import CONFIGS


def test_it_says_what_was_understood() -> None:
    shown = call("model", "show", f"{CONFIGS}/qwen3.5-397b-a17b.json").stdout
    for part in (
        "396.8 B parameters, 17.35 B active",
        "gated_delta, state 64 x 128 x 128",
        "512 experts of 1024, 10 a token",
        "KV cache a token: 30,720 B in bf16, 15,360 B in fp8",
        "state a sequence: 192.1 MB",
        "h200 (151 GB), weights bf16",
        "not modelled: images and sound",
    ):
        assert part in shown


def test_memory_of_each_mapping_with_replicated_heads() -> None:
    shown = json.loads(call("model", "show", "qwen3-235b-a22b", "--gpu", "h200", "--json").stdout)
    (memory,) = shown["memory"]
    rows = {row["mapping"]: row for row in memory["mappings"]}
    whole = shown["kv_bytes_per_token"]["fp8"]
    assert whole == 96256
    assert rows["TP4"]["kv_bytes_per_token"] == whole / 4
    assert rows["TP8"]["kv_bytes_per_token"] == whole / 4  # four KV heads: stored twice
    assert rows["DEP8"]["kv_bytes_per_token"] == whole
    assert all(row["weights_b"] < 151.4e9 for row in rows.values())
    assert memory["computes"] is True


def test_a_gpu_that_does_not_compute_in_its_format_is_said() -> None:
    shown = call("model", "show", "deepseek-r1", "--precision", "nvfp4", "--gpu", "h200").stdout
    assert "h200: does not compute in nvfp4" in shown


def test_keys_come_back_as_a_model_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    Path("models/mine.yaml").write_text(call("model", "show", "deepseek-v4-pro", "--yaml").stdout)
    assert facts_of(load_model("mine")) == facts_of(load_model("models/mine.yaml"))
    assert load_model("mine").file


def test_mistakes_are_one_line() -> None:
    wrong = call("model", "show", "/no/such/model")
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert wrong.stderr.startswith("ratematch: there is no checkpoint or model file at /no/such/model")
    wrong = call("model", "show", "qwen3-8b", "--precision", "fp9")
    assert wrong.exit_code == 1
    assert "--precision: 'fp9' is no precision" in wrong.stderr
