"""A sweep as text, and what the planner makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ratematch.engines import ENGINES
from ratematch.errors import ClusterError, Problem
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.plan.capacity import KvSettings
from ratematch.plan.cluster import Cluster
from ratematch.plan.enginefacts import EngineFacts
from ratematch.plan.expansion import Expansion, expand
from ratematch.plan.sweep import Sweep
from ratematch.plan.sweepfile import parse_sweep

RACK = Cluster("rack", "gb200", gpus_per_node=4, nodes=18, emulated=True)

GOOD = """\
name: demo
about: shows something
model: deepseek-r1
cluster: rack
workloads:
  - {isl: 1024, osl: 64}
ctx:
  axes: {mapping: DEP4}
  loads: {concurrency: [1, 4]}
gen:
  axes: {mapping: [TEP4, DEP8], mtp: [0, 1]}
  loads: {concurrency: [1, 64]}
"""


def find_cluster(name: str) -> Cluster:
    if name != "rack":
        raise ClusterError([Problem(name, f"there is no cluster profile {name!r}", "known: rack")])
    return RACK


TWO_VERSIONS = {"trtllm-serve": replace(ENGINES["trtllm-serve"], versions=("1.2", "main"))}


def parse(text: str, *overrides: str, engines: Mapping[str, EngineFacts] = TWO_VERSIONS) -> Sweep:
    return parse_sweep(
        text,
        "demo.yaml",
        find_model=load_model,
        find_cluster=find_cluster,
        find_gpu=load_gpu,
        engines=engines,
        overrides=overrides,
    )


def expanded(sweep: Sweep) -> Expansion:
    return expand(sweep, lambda group: KvSettings(0.9, "fp8"))
