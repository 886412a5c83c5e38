"""Real MPI, wired by PMIx: where the ranks of servers over several nodes are, seen by themselves.

Run where ``RATEMATCH_TEST_MPI`` names a Python with mpi4py (``.ci/extra``); needs libpmix-dev and openmpi-bin. In
containers too where ``RATEMATCH_TEST_IMAGE`` names an image with libopenmpi3 and libpmix2
(:mod:`tests.slurm.test_containers_on_slurm`).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from ratematch.inputs.find import read_cluster
from ratematch.plan.cluster import Cluster
from ratematch.run import render
from ratematch.store.folder import ExperimentFolder
from tests.run.test_site import stand_in
from tests.slurm.cluster import PROFILE, SWEEP, Site, TestCluster, container
from tests.support.scripts import starts

pytestmark = [pytest.mark.slow, pytest.mark.slurm]

LAUNCHER = """\
import json, os, pathlib, subprocess, sys, time
from mpi4py import MPI
world = MPI.COMM_WORLD
assert world.Get_size() == int(os.environ["SLURM_NTASKS"]), (world.Get_size(), os.environ["SLURM_NTASKS"])
total = world.allreduce(world.Get_rank())
local = world.Split_type(MPI.COMM_TYPE_SHARED).Get_rank()
mine = [os.environ["SLURMD_NODENAME"], int(os.environ["SLURM_LOCALID"]), os.environ.get("CUDA_VISIBLE_DEVICES")]
ranks = world.allgather([*mine, local, total, [*os.stat("/")[1:3]]])
if world.Get_rank() == 0:
    array = "{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}" if "SLURM_ARRAY_JOB_ID" in os.environ else "{SLURM_JOB_ID}"
    name = (array + "-{SLURM_STEP_ID}.json").format(**os.environ)
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

WHERE = ["on the nodes", *(["in containers"] if os.environ.get("RATEMATCH_TEST_IMAGE") else [])]


@pytest.mark.parametrize("where", WHERE)
def test_every_rank_is_where_engines_expect_it_and_steps_are_as_rendered(
    site: Site, cluster: TestCluster, where: str
) -> None:
    """Rank r on the r // 4-th node of its server, as its local rank r % 4, with the GPUs of the plan in sight."""
    (site.path / "ranks").mkdir()
    (site.path / "launcher.py").write_text(LAUNCHER)
    python = os.environ["RATEMATCH_TEST_MPI"]
    profile = PROFILE + f"launcher: {json.dumps([python, str(site.path / 'launcher.py')])}\n"
    profile += "slurm: {partition: main, mpi: pmix, tasks: gpu}\n"
    if where == "in containers":
        package = Path(__file__).parents[2]
        profile += f"command: [{sys.executable}, -m, ratematch.emulator]\nenvironment: {{PYTHONPATH: {package}}}\n"
        profile += container(sys.executable, python, site.path)
    site.set_profile(profile)
    site.set_sweep(WIDE)
    log = site.path / "steps.jsonl"
    (site.path / "bin").mkdir()
    record = f"import json, sys; print(json.dumps(sys.argv[1:]), file=open({str(log)!r}, 'a'))"
    stand_in(site.path / "bin", "srun", f'{sys.executable} -c "{record}" "$@"\nexec {shutil.which("srun")} "$@"')
    controller = site.sweep(PATH=f"{site.path / 'bin'}:{os.environ['PATH']}")
    assert controller.wait(400) in (0, 3), site.said()  # 3: so few requests are no steady load on a busy machine
    site.check_whole(3)
    started = [json.loads(line) for line in log.read_text().splitlines()]
    widths = sorted(check_ranks(site, folder, started) for folder in site.folders())
    assert widths == [(8, 2), (8, 2), (16, 4)]


def check_ranks(site: Site, folder: ExperimentFolder, started: list[list[str]]) -> tuple[int, int]:
    """What the ranks of its server said of themselves, and how its step was started. Returns their number and that of
    their nodes."""
    launch = folder.path / "launch" / "1"
    (instance,) = json.loads((launch / "placement.json").read_text())["instances"]
    nodes = [place["node"] for place in instance["places"]]
    job = folder.job()
    assert job is not None
    (file,) = (site.path / "ranks").glob(f"{job.id}-*.json")
    ranks = json.loads(file.read_text())
    gpus = [",".join(map(str, place["gpus"])) for place in instance["places"]]
    roots = [root for *_, root in ranks]
    total = sum(range(len(ranks)))
    assert [said[:-1] for said in ranks] == [
        [nodes[rank // 4], rank % 4, gpus[rank // 4], rank % 4, total] for rank in range(len(ranks))
    ]
    here = Path("/").stat()
    contained = read_profile(site).container is not None
    assert contained == ([here.st_ino, here.st_dev] not in roots), "an image's root folder, or this machine's"
    check_step(site, folder, nodes, instance["port"], started)
    return len(ranks), len(nodes)


def check_step(site: Site, folder: ExperimentFolder, nodes: list[str], port: int, started: list[list[str]]) -> None:
    """``render`` shows the step that was started, but for the mark of the start."""
    (shown,) = render.render(folder.read(), read_profile(site), allocated=True, nodes=nodes, port_base=port)
    ((_, rendered),) = starts(shown.files["run.sh"]).items()
    launch = str((folder.path / "launch" / "1").absolute())
    steps = [[word.replace(launch, "$WORK") for word in step] for step in started]
    unmarked = [[word for word in step if not word.startswith("RATEMATCH_RUN=")] for step in steps]
    assert rendered[0] == "srun" and unmarked.count(rendered[1:]) == 1, (rendered, unmarked)


def read_profile(site: Site) -> Cluster:
    return read_cluster(str(site.path / "slurm" / "clusters" / "four.yaml"))
