"""NVIDIA Dynamo's frontend and runtime for tests: whether they are here, and deployments with emulated workers."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ratematch.engines.dynamo.stack import read_settings
from ratematch.plan.cluster import Cluster
from ratematch.plan.deployment import Deployment, ServerGroup, Stage
from ratematch.plan.experiment import EngineRef, Experiment
from ratematch.plan.load import Load
from ratematch.plan.parallelism import Parallelism
from ratematch.plan.workload import Workload
from tests.support.invented import LAPTOP, experiment
from tests.support.processes import processes_in

VERSION = "1.6.1"

NOT_HERE = "no Dynamo here: make dynamo installs its frontend and runtime (ai-dynamo, ai-dynamo-runtime)"
NO_SERVICES = "no etcd and NATS here: make packages installs them (etcd-server, nats-server), as root on Debian"


def is_installed() -> bool:
    """Does this Python have the frontend and the runtime?"""
    return all(importlib.util.find_spec(name) is not None for name in ("dynamo", "dynamo._core", "dynamo.frontend"))


needs_dynamo = pytest.mark.skipif(importlib.util.find_spec("dynamo") is None or not is_installed(), reason=NOT_HERE)
needs_services = pytest.mark.skipif(
    shutil.which("etcd") is None or shutil.which("nats-server") is None, reason=NO_SERVICES
)

HOSTS = ("DYN_TCP_RPC_HOST", "DYN_TCP_RESPONSE_STREAM_HOST", "DYN_EVENT_PLANE_HOST", "DYN_SYSTEM_HOST")
"""Variables that name the address at which a process of Dynamo is reached."""

EMULATED: Cluster = replace(LAPTOP, environment={"RATEMATCH_EMULATED_LOAD_S": "0"})

AGG = ServerGroup("agg", Parallelism(tp=4, ep=4), max_batch_size=32, max_num_tokens=2048)
CTX = ServerGroup("ctx", Parallelism(tp=4, ep=4), max_batch_size=8, max_num_tokens=2048)
GEN = ServerGroup("gen", Parallelism(tp=4, ep=4), max_batch_size=32, max_num_tokens=64)


def behind_dynamo(
    stage: Stage, deployment: Deployment, loads: tuple[Load, ...], osl: int = 16, **given: str
) -> Experiment:
    """An experiment on emulated workers behind the real frontend; ``given``: keys of ``engine``."""
    settings = read_settings(VERSION, {"discovery": "file", **given})
    assert isinstance(settings, dict), settings
    backend, version = str(settings.pop("backend")), str(settings.pop("backend_version"))
    engine = EngineRef("dynamo", VERSION, backend, version, settings)
    return replace(experiment(stage, deployment, Workload(64, osl), loads), engine=engine)


def commands_in(folder: Path) -> Iterator[tuple[int, str]]:
    """Ids and command lines of live processes that run in a launch folder."""
    for number in processes_in(folder):
        try:
            yield number, Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has just ended
            continue
