"""A real ``tritonserver`` on this machine's CPU, with stand-ins for its engines: for tests of every room."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ratematch.emulator.triton.command import VARIABLE, find_installation
from ratematch.engines import find_engine
from ratematch.plan.cluster import Cluster
from ratematch.plan.experiment import Experiment
from ratematch.plan.launchplan import ProcessSpec
from ratematch.plan.placement import place
from ratematch.run import guard
from ratematch.run.probes import port_is_free, probe
from tests.ports import free_port
from tests.support.processes import wait_until

FOLDER = Path(os.environ.get(VARIABLE) or Path(__file__).parents[2] / "build" / "triton")
NODE = Cluster("laptop", "gb200", gpus_per_node=8, nodes=1, emulated=True)


def why_none() -> str | None:
    """Why no tritonserver runs here; ``None`` when one does."""
    try:
        find_installation(str(FOLDER))
        ctypes.CDLL(f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0")
    except (FileNotFoundError, OSError) as problem:
        return f"no tritonserver here (`make {FOLDER.parent.name}/{FOLDER.name}/.installed` gets it): {problem}"
    return None


needed = pytest.mark.skipif(why_none() is not None, reason=str(why_none()))
"""Of tests that start one; the reason says what is missing."""


@dataclass(frozen=True)
class Server:
    """One that is up. ``mark``: in the environment of its processes and the names of its shared memory."""

    spec: ProcessSpec
    process: subprocess.Popen[bytes]
    folder: Path
    mark: str

    @property
    def url(self) -> str:
        return f"http://{self.spec.host}:{self.spec.port}"

    @property
    def log(self) -> str:
        return (self.folder / "triton.log").read_text(errors="replace")

    def shared(self) -> list[str]:
        """Names of its shared memory."""
        return [file.name for file in Path("/dev/shm").glob(f"*{self.mark}*")]


def write_plan(experiment: Experiment, folder: Path, port: int) -> ProcessSpec:
    """The files of a start, written; its one process."""
    placement = place(experiment.deployment, NODE, ["here"], port, {"here": "127.0.0.1"})
    plan = find_engine("triton").plan_launch(experiment, placement, NODE, 60.0)
    for file in plan.files:
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.path).write_text(file.content)
    (spec,) = plan.processes
    return spec


@contextmanager
def running(experiment: Experiment, folder: Path) -> Iterator[Server]:
    """A server of ``experiment``, ready; ended on leaving, by force where it has to be."""
    first = next(port for port in iter(free_port, None) if all(port_is_free("127.0.0.1", port + k) for k in range(8)))
    spec = write_plan(experiment, folder, first)
    mark = uuid.uuid4().hex
    environment = {**os.environ, **dict(spec.env), guard.VARIABLE: mark, VARIABLE: str(FOLDER)}
    with (folder / spec.log).open("wb") as log:
        process = subprocess.Popen(
            spec.argv, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    server = Server(spec, process, folder, mark)
    try:
        wait_until(lambda: process.poll() is not None or probe(spec.ready.url) is None, "the server to be ready", 60)
        assert process.poll() is None, server.log
        yield server
    finally:
        guard.end(mark, 8.0)
        process.wait()
