"""Two sweeps at once on one machine with two GPUs: no two servers on one GPU, however one of their drivers ends."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from ratematch.campaign.precheck import expand_sweep
from ratematch.inputs.find import read_sweep
from ratematch.run.reserve import LOCKS, held_gpus, reserve
from ratematch.store.folder import Results
from tests.support.processes import wait_until
from tests.support.sites import alive, ratematch, read

pytestmark = pytest.mark.slow

STAND_IN = Path(__file__).parents[1] / "support" / "standin.py"

CLUSTER = """\
name: bench
gpu: h200
gpus_per_node: 2
nodes: 1
check_paths: false
command: [{python}, -I, {script}]
environment: {{STAND_IN: {folder}}}
"""

SWEEP = """\
name: {name}
about: Aggregated servers alone, each for two lengths of output.
model: qwen3-8b
cluster: bench
engine: {{name: vllm, version: "0.24"}}
workloads:
  - {{isl: 64, osl: 8}}
  - {{isl: 64, osl: 16}}
budget: {{max_gpus: 2}}
ifb:
  axes: {{mapping: {mapping}}}
  loads: {{concurrency: [1, 2], min_requests: 8, requests_per_slot: 4}}
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with the profile of a machine with two GPUs, and two sweeps."""
    folder = tmp_path / "stand-in"
    for name in ("slurm/clusters", "sweeps", "stand-in"):
        (tmp_path / name).mkdir(parents=True)
    profile = CLUSTER.format(python=sys.executable, script=STAND_IN, folder=folder)
    (tmp_path / "slurm" / "clusters" / "bench.yaml").write_text(profile)
    for name, mapping in (("one", "TP1"), ("two", "[TP1, TP2]")):
        (tmp_path / "sweeps" / f"{name}.yaml").write_text(SWEEP.format(name=name, mapping=mapping))
    return tmp_path


def test_a_gpu_is_let_go_once_the_servers_of_a_killed_driver_are_gone(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks = str(site / "locks")
    monkeypatch.setenv(LOCKS, locks)
    monkeypatch.chdir(site)
    sweep, _ = read_sweep("one.yaml")
    folder = Results(site / "results").add(expand_sweep(sweep).experiments[0], sweep.cluster)
    driver = ratematch(site, "run", str(folder.path), **{LOCKS: locks})
    wait_until(lambda: (site / "stand-in" / "gpu-0").exists(), "a server to start")
    assert held_gpus(2) == [0]
    driver.send_signal(signal.SIGKILL)
    driver.communicate()

    def wait(held: Sequence[int]) -> bool:
        time.sleep(0.05)
        return False

    with reserve(2, 2, wait) as reserved:
        assert reserved.gpus == (0, 1)
        assert not (site / "stand-in" / "gpu-0").exists(), "its server had it until then"
    assert alive(site) == []


def test_two_sweeps_never_share_a_gpu(site: Path) -> None:
    environment = {LOCKS: str(site / "locks")}
    one = ratematch(site, "sweep", "one.yaml", "--executor", "local", "--max-jobs", "1", **environment)
    two = ratematch(site, "sweep", "two.yaml", "--executor", "local", **environment)
    _, err_one = one.communicate(timeout=240)
    _, err_two = two.communicate(timeout=240)
    assert (one.returncode, two.returncode) == (0, 0), err_one + err_two
    assert "a start and a measurement wait for each other" in err_two or "servers start while" in err_two
    assert not list((site / "stand-in").glob("clash-*")), (site / "stand-in" / "log").read_text()
    assert not list((site / "stand-in").glob("gpu-*")) and alive(site) == []

    first, second = Results(site / "results" / "one"), Results(site / "results" / "two")
    assert all(folder.done() for results in (first, second) for folder in results.folders())
    assert len(first.folders()) == 2 and len(second.folders()) == 4
    outcomes = first.now().outcomes
    assert sorted(outcome.starting_s > 0 for outcome in outcomes) == [False, True], "one start serves both lengths"
    (guest,) = [path.parent for path in first.path.glob("*/launch/1/servers.json")]
    told = json.loads((guest / "provenance.json").read_text())
    assert told["notes"][-1].startswith("measured on the servers that were started for ifb-64-16-")
    code, _, _ = read(site, "logs", str(guest.parents[1]))
    assert code == 0, "the logs of servers that it shared"
    code, out, _ = read(site, "status", "results/one", "--json")
    spent = json.loads(out)["gpu_seconds"]
    assert code == 0 and 0 < spent["measuring"] < spent["held"] and spent["unused"] > 0.4 * spent["held"]
