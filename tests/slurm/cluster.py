"""The test cluster and sweeps on it, for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ratematch.store.folder import ExperimentFolder, Results
from tests.support import faultmatrix, sites
from tests.support.processes import processes_with, wait_until

CANNOT = 77
SCRIPT = Path(__file__).parents[2] / "slurm" / "testcluster.py"

PROFILE = """\
name: four
gpu: gb200
gpus_per_node: 4
nodes: 4
emulated: true
start_minutes: 0.1
load_minutes: 0.1
"""

SWEEP = """\
name: mini
about: One instance over two nodes, four short loads.
model: deepseek-r1
cluster: four
workloads:
  - {isl: 64, osl: 16}
budget: {max_gpus: 8}
ifb:
  axes: {mapping: DEP8}
  loads: {concurrency: [1, 2, 3, 4], min_requests: 8, requests_per_slot: 4}
"""

LONG = SWEEP.replace("osl: 16", "osl: 48").replace("min_requests: 8", "min_requests: 16")
"""The same with loads that take longer than Slurm needs to find a node dead."""

LONGEST = LONG.replace("osl: 48", "osl: 64").replace("requests_per_slot: 4", "requests_per_slot: 16")
"""After the first load still longer than the half minute between two of Slurm's looks at time limits."""

ALIKE = SWEEP.replace("mapping: DEP8", "mapping: TEP4, mtp: [0, 1]").replace("max_gpus: 8", "max_gpus: 4")
"""Two deployments that ask for the same: one array."""

MIXED = SWEEP.replace("mapping: DEP8", "mapping: [TEP4, DEP8], mtp: [0, 1]")
"""Four deployments of one and of two nodes: what a pack is for."""


def container(*needed: str | Path) -> str:
    """A profile's ``container`` part: the image of ``RATEMATCH_TEST_IMAGE`` with this checkout, the Pythons of
    ``needed`` (and the installations behind them) and its other folders mounted at their own paths."""
    paths = [Path(__file__).parents[2]]
    for path in map(Path, needed):
        paths += [path.parents[1], path.resolve().parents[1]] if path.name.startswith("python") else [path]
    mounts = ", ".join(f'"{path}:{path}"' for path in dict.fromkeys(paths))
    return f"container: {{image: {os.environ['RATEMATCH_TEST_IMAGE']}, mounts: [{mounts}]}}\n"


LOOK_S = 0.2
"""Between two looks that ask Slurm, each with a process or two."""


class TestCluster:
    """``slurm/testcluster.py`` on one state folder."""

    __test__ = False

    def __init__(self, state: Path):
        self.state = state

    def verb(self, *argv: str) -> tuple[int, str]:
        command = [sys.executable, str(SCRIPT), "--state", str(self.state), *argv]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        return done.returncode, (done.stdout + done.stderr).strip()

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.state / "etc" / "slurm.conf")}

    def tell(self, *argv: str) -> str:
        """Output of one of Slurm's commands."""
        done = subprocess.run(argv, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def jobs(self) -> list[str]:
        return self.tell("squeue", "--noheader", "--array", "--format=%i").split()

    def wait_idle(self) -> None:
        """No job, and every node ready for one."""
        # A drained node would be among --states=idle.
        states = ["sinfo", "--noheader", "--Node", "--partition=main", "--format=%T"]
        idle = ["idle"] * 4
        wait_until(lambda: not self.jobs() and self.tell(*states).split() == idle, "an idle cluster", 60, LOOK_S)

    def left_over(self) -> list[str]:
        """Processes of a cluster that was stopped."""
        return [command for _, command in processes_with(f"={self.state}:")]


class Site:
    """A working directory with one sweep, and the controllers started in it."""

    def __init__(
        self, path: Path, cluster: TestCluster, test: pytest.Item, sweep: str = SWEEP, profile: str = PROFILE
    ):
        self.path, self.cluster = path, cluster
        self.test = test
        (path / "slurm" / "clusters").mkdir(parents=True)
        (path / "sweeps").mkdir()
        self.set_profile(profile)
        self.set_sweep(sweep)
        self._started = 0
        self._controllers: list[subprocess.Popen[bytes]] = []

    def set_sweep(self, text: str) -> None:
        (self.path / "sweeps" / "mini.yaml").write_text(text)

    def set_profile(self, text: str) -> None:
        (self.path / "slurm" / "clusters" / "four.yaml").write_text(text)

    def sweep(self, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        """A controller; what it says is in :meth:`said`."""
        self._started += 1
        command = [sys.executable, "-m", "ratematch", "sweep", "mini.yaml", "--executor", "slurm", *options]
        with self._log.open("wb") as log:
            controller = subprocess.Popen(
                command, cwd=self.path, stdout=log, stderr=log, env=self._environment | environment
            )
        self._controllers.append(controller)
        return controller

    def sweep_to_end(self, *options: str, **environment: str) -> int:
        """The exit code of one whose controller nobody disturbs: inside this process, as :meth:`read`."""
        self._started += 1
        code, out, err = self.read("sweep", "mini.yaml", "--executor", "slurm", *options, **environment)
        self._log.write_text(out + err)
        return code

    def end_controllers(self) -> None:
        """What a failed test left running."""
        for controller in self._controllers:
            if controller.poll() is None:
                controller.kill()
            controller.wait()

    def run(self, *argv: str, **environment: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "ratematch", *argv]
        environment = self._environment | environment
        done = subprocess.run(
            command, cwd=self.path, capture_output=True, text=True, timeout=240, env=environment, check=False
        )
        return done.returncode, done.stdout, done.stderr

    def read(self, *argv: str, **environment: str) -> tuple[int, str, str]:
        """The same of a verb that nobody interrupts, inside this process."""
        return sites.read(self.path, *argv, environment=self._environment | environment)

    def report_fault(self, fault: str, noticed_s: float, outcome: str) -> None:
        """A row of the table that is printed when all tests are over."""
        faultmatrix.add_row(self.test, fault, noticed_s, outcome)

    @property
    def _environment(self) -> dict[str, str]:
        return {**self.cluster.environment, "RATEMATCH_TEST_SITE": str(self.path)}

    @property
    def _log(self) -> Path:
        return self.path / f"controller-{self._started}.log"

    def said(self) -> str:
        return self._log.read_text()

    def folders(self) -> list[ExperimentFolder]:
        return Results(self.path / "results" / "mini").folders()

    def measured(self) -> dict[str, int]:
        """Every finished load, with the instant its clock started: the same instant, the same measurement."""
        files = (self.path / "results" / "mini").glob("*/loads/*/loadrun.json")
        return {str(file.relative_to(self.path)): json.loads(file.read_text())["wall_start_ns"] for file in files}

    def processes(self, *words: str) -> list[int]:
        """Live processes that this site's jobs started, on any node, with ``words`` in their command line."""
        found = processes_with(f"RATEMATCH_TEST_SITE={self.path}")
        own = "ratematch sweep"
        return [
            pid for pid, line in found if all(word in line for word in words) and own not in line and line.strip()
        ]

    def check_whole(self, loads: int = 4) -> None:
        """Every load that was asked for is there, and nothing of ours runs on any node."""
        assert all(folder.done() for folder in self.folders()), self.said()
        assert len(self.measured()) == loads, self.said()
        wait_until(lambda: not self.cluster.jobs() and not self.processes(), "all processes to end", 30, LOOK_S)
