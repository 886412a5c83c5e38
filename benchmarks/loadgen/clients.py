"""The load generators that are compared: how each is installed, called and read.

Peers run near their defaults, told only what the scenario is, where the server is, to use the server's token counts
and to leave telemetry out. What each reports is taken from its own result files, request by request.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from truth import ISL, Scenario

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reported:
    """What a client says: one element a request (``gaps_ms``: a gap between chunks), ``None`` where it does not."""

    ttft_ms: Floats
    tpot_ms: Floats
    gaps_ms: Floats | None
    tok_s: float
    ttft_intended_ms: Floats | None = None
    decode_cpu_s: float = 0.0


Command = Callable[[Path, Scenario, str, Path, Path], list[str]]
"""(python's folder, scenario, url, tokenizer, working folder) -> argv."""


@dataclass(frozen=True)
class Client:
    """``requirement``: what pip installs, empty for ours. ``python``: oldest that it takes.
    ``exits``: codes with which it leaves figures."""

    name: str
    requirement: str
    command: Command
    read: Callable[[Path, Scenario], Reported]
    python: tuple[int, int] = (3, 10)
    environment: dict[str, str] = field(default_factory=dict)
    exits: tuple[int, ...] = (0,)


def _ratematch(bin: Path, scenario: Scenario, url: str, tokenizer: Path, at: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "ratematch", "load", url, "--model", "m"),
        *("--concurrency", str(scenario.concurrency), "--num-requests", str(scenario.num_requests)),
        *("--isl", str(ISL), "--osl", str(scenario.osl), "-o", str(at / "out")),
    ]


def _read_ratematch(at: Path, scenario: Scenario) -> Reported:
    folder = next(file.parent for file in (at / "out").glob("*/records.parquet"))
    rows = [row for row in pq.read_table(folder / "records.parquet").to_pylist() if row["outcome"] == "ok"]
    column = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in ("sent_ns", "intended_ns")}
    first = np.array([row["first_token_ns"] for row in rows], dtype=np.float64)
    last = np.array([row["last_token_ns"] for row in rows], dtype=np.float64)
    measured = json.loads((folder / "measurement.json").read_text())
    return Reported(
        ttft_ms=(first - column["sent_ns"]) / 1e6,
        ttft_intended_ms=(first - column["intended_ns"]) / 1e6,
        tpot_ms=(last - first) / (np.array([row["osl"] for row in rows]) - 1) / 1e6,
        gaps_ms=np.concatenate([np.diff(row["chunk_ns"]) for row in rows]) / 1e6,
        tok_s=measured["tok_s_run"],
        decode_cpu_s=measured["client"]["decode_cpu_s"],
    )


def _aiperf(bin: Path, scenario: Scenario, url: str, tokenizer: Path, at: Path) -> list[str]:
    return [
        *(str(bin / "aiperf"), "profile", "-m", "m", "--endpoint-type", "completions", "--streaming", "--url", url),
        *("--tokenizer", str(tokenizer), "--concurrency", str(scenario.concurrency)),
        *("--request-count", str(scenario.num_requests), "--isl", str(ISL), "--osl", str(scenario.osl)),
        *("--extra-inputs", "ignore_eos:true", "--num-dataset-entries", "64", "--ui-type", "simple"),
        *("--use-server-token-count", "--no-gpu-telemetry", "--no-server-metrics"),
    ]


def _read_aiperf(at: Path, scenario: Scenario) -> Reported:
    file = next(at.glob("artifacts/**/profile_export.jsonl"))
    rows = [row["metrics"] for row in map(json.loads, file.read_text().splitlines()) if not row.get("error")]
    summary = json.loads(file.with_name("profile_export_aiperf.json").read_text())
    gaps = [row["inter_chunk_latency"]["value"] for row in rows if "inter_chunk_latency" in row]
    return Reported(
        ttft_ms=np.array([row["time_to_first_token"]["value"] for row in rows]),
        tpot_ms=np.array([row["inter_token_latency"]["value"] for row in rows if "inter_token_latency" in row]),
        gaps_ms=np.concatenate(gaps) if gaps else None,
        tok_s=summary["output_token_throughput"]["avg"],
    )


INFERENCE_PERF = """
load: {{type: concurrent, stages: [{{concurrency_level: {concurrency}, num_requests: {number}}}],
  num_workers: 2, worker_max_concurrency: 4096}}
api: {{type: completion, streaming: true}}
server: {{type: vllm, model_name: m, base_url: "{url}", ignore_eos: true}}
tokenizer: {{pretrained_model_name_or_path: {tokenizer}}}
data:
  type: random
  input_distribution: {{min: {isl}, max: {isl}, mean: {isl}, std_dev: 0, total_count: {number}}}
  output_distribution: {{min: {osl}, max: {osl}, mean: {osl}, std_dev: 0, total_count: {number}}}
report: {{request_lifecycle: {{summary: true, per_stage: true, per_request: true}}}}
storage: {{local_storage: {{path: out}}}}
"""


def _inference_perf(bin: Path, scenario: Scenario, url: str, tokenizer: Path, at: Path) -> list[str]:
    text = INFERENCE_PERF.format(
        concurrency=scenario.concurrency,
        number=scenario.num_requests,
        url=url,
        tokenizer=tokenizer,
        isl=ISL,
        osl=scenario.osl,
    )
    (at / "config.yml").write_text(text)
    return [str(bin / "inference-perf"), "-c", "config.yml"]


def _read_inference_perf(at: Path, scenario: Scenario) -> Reported:
    rows = json.loads((at / "out" / "per_request_lifecycle_metrics.json").read_text())
    rows = [row for row in rows if not row["error"]]
    # It counts the tokens of each chunk's text again, and so repeats instants: each chunk's is taken once.
    times = [sorted(set(row["info"]["response_metrics"]["output_token_times"])) for row in rows]
    starts = np.array([row["start_time"] for row in rows])
    first, last = np.array([each[0] for each in times]), np.array([each[-1] for each in times])
    seconds = max(row["end_time"] for row in rows) - starts.min()
    return Reported(
        ttft_ms=(first - starts) * 1e3,
        tpot_ms=(last - first) / (scenario.osl - 1) * 1e3,
        gaps_ms=np.concatenate([np.diff(each) for each in times]) * 1e3,
        tok_s=len(rows) * scenario.osl / seconds,
    )


def _evalscope(bin: Path, scenario: Scenario, url: str, tokenizer: Path, at: Path) -> list[str]:
    return [
        *(str(bin / "evalscope"), "perf", "--model", "m", "--url", f"{url}/v1/completions", "--api", "openai"),
        *("--tokenizer-path", str(tokenizer), "--dataset", "random"),
        *("--min-prompt-length", str(ISL), "--max-prompt-length", str(ISL)),
        *("--min-tokens", str(scenario.osl), "--max-tokens", str(scenario.osl)),
        *("--parallel", str(scenario.concurrency), "--number", str(scenario.num_requests)),
        *("--stream", "--no-test-connection"),
    ]


def _read_evalscope(at: Path, scenario: Scenario) -> Reported:
    file = next(at.glob("outputs/**/benchmark_data.db"))
    with sqlite3.connect(file) as data:
        rows = data.execute(
            "select first_chunk_latency, time_per_output_token, inter_token_latencies from result where success = 1"
        ).fetchall()
    summary = json.loads(file.with_name("benchmark_summary.json").read_text())
    return Reported(
        ttft_ms=np.array([row[0] for row in rows]) * 1e3,
        tpot_ms=np.array([row[1] for row in rows]) * 1e3,
        gaps_ms=np.concatenate([json.loads(row[2]) for row in rows]) * 1e3,
        tok_s=summary["Output Throughput (tok/s)"],
    )


def _guidellm(bin: Path, scenario: Scenario, url: str, tokenizer: Path, at: Path) -> list[str]:
    return [
        *(str(bin / "guidellm"), "run"),
        *("--backend", f"kind=openai_http,target={url},model=m,request_format=/v1/completions"),
        *("--profile", f"kind=concurrent,streams={scenario.concurrency}"),
        *("--constraint", f"kind=max_requests,count={scenario.num_requests}"),
        *("--data", f"kind=synthetic_text,prompt_tokens={ISL},output_tokens={scenario.osl}"),
        *("--tokenizer", f"kind=huggingface_auto,model={tokenizer}"),
        *("--output", "kind=json,path=out.json", "--disable-console-interactive"),
    ]


def _read_guidellm(at: Path, scenario: Scenario) -> Reported:
    ran = json.loads((at / "out.json").read_text())["benchmarks"][0]
    rows = ran["requests"]["successful"]
    seconds = max(r["request_end_time"] for r in rows) - min(r["request_start_time"] for r in rows)
    return Reported(
        ttft_ms=np.array([row["time_to_first_token_ms"] for row in rows], dtype=np.float64),
        tpot_ms=np.array([row["inter_token_latency_ms"] for row in rows], dtype=np.float64),
        gaps_ms=None,
        tok_s=len(rows) * scenario.osl / seconds,
    )


OFFLINE = {"HF_HUB_OFFLINE": "1"}
CLIENTS = (
    Client("ratematch", "", _ratematch, _read_ratematch, exits=(0, 3)),  # 3: measured, and judged not valid
    Client("AIPerf", "aiperf==0.13.0", _aiperf, _read_aiperf),
    Client("inference-perf", "inference-perf==0.7.0", _inference_perf, _read_inference_perf, (3, 12), OFFLINE),
    Client("EvalScope", "evalscope[perf]==1.14.1", _evalscope, _read_evalscope, environment=OFFLINE),
    Client("GuideLLM", "guidellm==0.8.1", _guidellm, _read_guidellm, environment=OFFLINE),
)


def install(client: Client, folder: Path) -> Path | str:
    """The folder of its commands, in an environment of its own; or, in words, why it cannot be installed."""
    if not client.requirement:
        return Path(sys.executable).parent
    home = folder / client.name.lower()
    if (home / "installed").exists():
        return home / "bin"
    python = _find_python(client.python)
    if python is None:
        return f"needs Python {client.python[0]}.{client.python[1]} or later, and there is none here"
    try:
        subprocess.run([python, "-m", "venv", "--clear", str(home)], check=True, capture_output=True, text=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-q", client.requirement]
        subprocess.run(pip, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as problem:
        lines = (problem.stderr or problem.stdout or str(problem)).strip().splitlines()
        return lines[-1] if lines else str(problem)
    (home / "installed").touch()
    return home / "bin"


def _find_python(oldest: tuple[int, int]) -> str | None:
    """A Python that starts and is new enough: this one, one on the path, one of pyenv's."""
    named = [sys.executable, *(shutil.which(f"python3.{minor}") or "" for minor in range(oldest[1], 14))]
    kept = sorted(str(each) for each in Path.home().glob(".pyenv/versions/3.*/bin/python3"))
    ask = f"import sys; sys.exit(not ({oldest!r} <= sys.version_info[:2] < (3, 14)))"
    for python in (*named, *kept):
        if python and subprocess.run([python, "-c", ask], capture_output=True, check=False).returncode == 0:
            return python
    return None
