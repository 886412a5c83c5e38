"""Real MPI, wired by PMIx: where the ranks of servers over several nodes are, seen by themselves.

Run where ``RATEMATCH_TEST_MPI`` names a Python with mpi4py (``.ci/extra``); needs libpmix-dev and openmpi-bin.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.slurm.cluster import PROFILE, SWEEP, Site, TestCluster

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

LAUNCHER = """\
import json, os, pathlib, subprocess, sys, time
from mpi4py import MPI
world = MPI.COMM_WORLD
assert world.Get_size() == int(os.environ["SLURM_NTASKS"]), (world.Get_size(), os.environ["SLURM_NTASKS"])
mine = [os.environ["SLURMD_NODENAME"], int(os.environ["SLURM_LOCALID"]), os.environ.get("CUDA_VISIBLE_DEVICES")]
ranks = world.allgather(mine)
if world.Get_rank() == 0:
    name = "{SLURM_JOB_ID}-{SLURM_STEP_ID}.json".format(**os.environ)
    pathlib.Path(os.environ["RATEMATCH_TEST_SITE"], "ranks", name).write_text(json.dumps(ranks))
    sys.exit(subprocess.run(sys.argv[1:]).returncode)
while True:
    time.sleep(60)
"""

WIDE = (
    SWEEP.replace("mapping: DEP8", "mapping: [DEP8, TP4PP2, TEP16]")
    .replace("max_gpus: 8", "max_gpus: 16")
    .replace("[1, 2, 3, 4]", "[1]")
)


def test_every_rank_is_on_the_node_and_the_gpu_that_engines_expect(site: Site, cluster: TestCluster) -> None:
    """Rank r on the r // 4-th node of its server, as its local rank r % 4, with all GPUs of the node in sight."""
    (site.path / "ranks").mkdir()
    (site.path / "launcher.py").write_text(LAUNCHER)
    command = json.dumps([os.environ["RATEMATCH_TEST_MPI"], str(site.path / "launcher.py")])
    site.set_profile(PROFILE + f"launcher: {command}\nslurm: {{partition: main, mpi: pmix, tasks: gpu}}\n")
    site.set_sweep(WIDE)
    controller = site.sweep()
    assert controller.wait(300) in (0, 3), site.said()  # 3: so few requests are no steady load on a busy machine
    site.check_whole(3)
    widths = []
    for file in (site.path / "ranks").iterdir():
        ranks = json.loads(file.read_text())
        nodes = list(dict.fromkeys(node for node, _, _ in ranks))
        widths.append((len(ranks), len(nodes)))
        assert ranks == [[nodes[rank // 4], rank % 4, "0,1,2,3"] for rank in range(len(ranks))], file.name
    assert sorted(widths) == [(8, 2), (8, 2), (16, 4)]
    placements = [
        json.loads(path.read_text()) for path in Path(site.path).glob("results/mini/*/launch/1/placement.json")
    ]
    assert sorted(len(item["instances"][0]["places"]) for item in placements) == [2, 2, 4]
