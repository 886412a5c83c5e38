"""Sweep files: known ones, spoilt."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

from ratematch.engines import ENGINES
from ratematch.errors import RatematchError
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.inputs.find import read_cluster
from ratematch.plan.cluster import Cluster
from ratematch.plan.sweep import Sweep
from ratematch.plan.sweepfile import parse_sweep
from tests.fuzz.chance import YAML_VALUES, spoil_lines
from tests.fuzz.search import Ending, Failure, Kind, call, type_in

SMALL = """\
name: q
about: x
model: deepseek-r1
cluster: laptop
workloads: [{isl: 256, osl: 16, isl_spread: "normal:64,10"}]
constraints: {ttft_ms: 1000, percentile: mean}
budget: {max_gpus: 16, gpu_hours: 5}
ctx: {axes: {mapping: [DEP4]}, loads: {concurrency: [1]}}
gen: {axes: {mapping: [TEP4], mtp: [0, 1]}, loads: {concurrency: [1, 2], repeats: 2}}
e2e: {deployments: 1, loads: {around: [0.5, 1.0]}, choose_at: [20]}
"""
WRITTEN_OUT = """\
name: d
about: x
model: {name: deepseek-r1, path: /models/x}
cluster: laptop
engine: {name: trtllm-serve, version: "1.2"}
workloads: [{isl: 256, osl: 16}]
deployments:
  - ctx: {mapping: DEP4, instances: 1, options: {kv_cache_config: {free_gpu_memory_fraction: 0.5}}}
    gen: {mapping: TEP4, mtp: 1, environment: {A: b}}
    loads: {concurrency: [1, 2]}
    router: {type: round_robin, args: {}}
    orchestrator: {context_servers: {router: {type: round_robin}}}
    workload: {isl: 128, osl: 8, think_s: 1.5, turns: 2}
  - agg: {mapping: TP4, config: {max_batch_size: 4}}
    loads: {req_s: [1.0], arrival: gamma, burstiness: 0.5, seconds: 5, max_in_flight: 3}
"""
GRID = """\
name: g
about: |
  two
  lines
model: qwen3-8b
cluster: laptop
engine: {name: vllm, version: "0.24"}
workloads:
  - isl: 256
    osl: 16
    prefix_share: 0.5
ifb:
  axes:
    tp: [1, 2]
    options.block_size: [16, 32]
  exclude: [{tp: 2}]
  options: {}
  environment:
    A: "1"
  loads:
    concurrency: [1, 4]
    requests_per_slot: 3
search: adaptive
seed: 7
"""
TEXTS = (SMALL, WRITTEN_OUT, GRID)
KEYS = (
    *(
        "name",
        "about",
        "model",
        "cluster",
        "engine",
        "version",
        "path",
        "workloads",
        "isl",
        "osl",
        "osl_ratio",
        "isl_spread",
    ),
    *(
        "prefix_share",
        "prefix_groups",
        "turns",
        "think_s",
        "file",
        "text",
        "tokenizer",
        "constraints",
        "ttft_ms",
        "tpot_ms",
    ),
    *(
        "percentile",
        "budget",
        "max_gpus",
        "gpu_hours",
        "ctx",
        "gen",
        "ifb",
        "prefill",
        "decode",
        "agg",
        "e2e",
        "axes",
        "mapping",
    ),
    *(
        "tp",
        "ep",
        "pp",
        "cp",
        "attention_dp",
        "mtp",
        "max_batch_size",
        "max_num_tokens",
        "options",
        "options.a",
        "options.a.b",
    ),
    *(
        "options.kv_cache_config.free_gpu_memory_fraction",
        "options.",
        "options..x",
        "environment",
        "exclude",
        "only",
        "loads",
    ),
    *("concurrency", "duration_s", "req_s", "arrival", "seconds", "burstiness", "ramp_to", "max_in_flight", "replay"),
    *(
        "num_requests",
        "target_ci",
        "requests_per_slot",
        "min_requests",
        "warmup_per_slot",
        "repeats",
        "stagger_s",
        "around",
    ),
    *(
        "deployments",
        "choose_at",
        "router",
        "mode",
        "supply",
        "instances",
        "seed",
        "search",
        "config",
        "orchestrator",
    ),
    *("workload", "<<", "1", "~", "[1]", "é", "'a b'", "{}", "? x", "²", "", "=", "!unchecked x", "&k a"),
)


@cache
def _read_cluster(name: str) -> Cluster | RatematchError:
    try:
        return read_cluster(name)
    except RatematchError as error:
        return error


def find_cluster(name: str) -> Cluster:
    """A cluster profile, read once."""
    cluster = _read_cluster(name)
    if isinstance(cluster, RatematchError):
        raise cluster
    return cluster


def parse(text: str, *overrides: str) -> Sweep:
    return parse_sweep(
        text,
        "s.yaml",
        find_model=load_model,
        find_gpu=load_gpu,
        find_cluster=find_cluster,
        engines=ENGINES,
        overrides=overrides,
    )


def run(text: str, folder: Path) -> Ending:
    """Every problem has a place in the file; what has none can be planned."""
    # A profile that the sweep names has lines of its own.
    ending = with_places(call(lambda: parse(text)), "s.yaml:", "passwd:1:")
    if ending.how == "refused":
        return ending
    (folder / "s.yaml").write_text(text, encoding="utf-8")
    return type_in("plan", str(folder / "s.yaml"))


def with_places(ending: Ending, *places: str) -> Ending:
    for line in ending.printed.split("\n") if ending.how == "refused" else ():
        if not line.startswith(places):
            raise Failure(f"no file and line: {line[:200]}")
    return ending


def make(rng: random.Random) -> str:
    return spoil_lines(rng, rng.choice(TEXTS), KEYS, YAML_VALUES)


KIND = Kind("sweeps", make, run, few=120)
