"""A short job that looks at N nodes before money is spent on them.

Three steps in one allocation: each node by itself and with its neighbours (:mod:`ratematch.slurm.nodecheck`, on the
host), what the image has (:mod:`ratematch.slurm.imagecheck`, in the container), and one all-reduce over all GPUs by
whatever the image has for it. What nodes find lies in a folder of the results disk until it is read;
:mod:`ratematch.slurm.verdicts` decides what is good.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from ratematch.errors import RunError
from ratematch.plan.cluster import Cluster
from ratematch.plan.placement import FIRST_PORT
from ratematch.plan.secret import MASK
from ratematch.slurm import imagecheck, nodecheck
from ratematch.slurm.imagecheck import ImageReport
from ratematch.slurm.nodecheck import NodeReport
from ratematch.slurm.probe import WAIT_S, run_job
from ratematch.slurm.sbatch import Options, extra_options, prologue, refusal, site_options, spell
from ratematch.slurm.site import why_unmountable
from ratematch.slurm.srun import RUNTIME, container_options

T = TypeVar("T", NodeReport, ImageReport)

MINUTES = 20
STEP_S = 600
"""One step takes no longer: a cold image is unpacked in it."""
REDUCE_S = 300

REDUCE = (
    "if command -v all_reduce_perf >/dev/null 2>&1; then exec all_reduce_perf -b 256M -e 256M -g 1; fi; "
    'exec python3 -c "$0" allreduce "$1" "$2"'
)


@dataclass(frozen=True)
class Examined:
    """What came back of a job. ``nodes``: that it had. ``hosts``, ``images``: reports by node, of those that wrote
    one. ``image_began``: when the step in the image was sent, by this machine's clock. ``reduced``: what the
    all-reduce said, ``None`` = nothing; ``reduce_code``: how it ended, ``None`` = it was not tried. ``errors``: what
    srun printed."""

    nodes: tuple[str, ...]
    hosts: dict[str, NodeReport]
    images: dict[str, ImageReport]
    image_began: float | None
    reduced: str | None
    reduce_code: int | None
    errors: str


def examine_nodes(cluster: Cluster, nodes: int, folder: Path, wait_s: float = WAIT_S) -> Examined:
    """Send the job and read what it found. ``folder``: one that jobs must see, where results go.

    Raises:
        RunError, UserError: no node was looked at; one line says why.
    """
    if why := why_unmountable(folder, cluster):
        raise RunError(why)
    name = f"ratematch-certify-{uuid.uuid4().hex[:8]}"
    written = folder.absolute() / f".{name}"
    try:
        written.mkdir()
    except OSError as error:
        raise RunError(f"{folder} cannot be written ({error.strerror})") from None
    try:
        # What the container runtime reads is in the environment of srun; no secret is needed here.
        runtime = {key: value for key, value in cluster.environment.items() if key.startswith(RUNTIME)}
        environment = os.environ | (runtime if cluster.container else {})
        argv = job_argv(cluster, nodes, written, name)
        output, errors = run_job(argv, name, wait_s, environment)
        examined = _read(written, output, errors)
    except subprocess.TimeoutExpired:
        raise RunError(f"the job did not end within {wait_s:.0f} s") from None
    except OSError as error:
        raise RunError(f"salloc cannot be started ({error.strerror})") from None
    finally:
        shutil.rmtree(written, ignore_errors=True)
    if not examined.nodes:
        raise refusal(errors or "salloc said nothing")
    return examined


def job_argv(cluster: Cluster, nodes: int, folder: Path, name: str) -> list[str]:
    """The salloc of the job: the options of any job of this profile, around :func:`job_script`."""
    options: Options = {**site_options(cluster), "nodes": nodes, "time": MINUTES, "job-name": name}
    if cluster.slurm.exclude:
        options["exclude"] = ",".join(cluster.slurm.exclude)
    words = spell({**options, **extra_options(cluster.slurm)})
    return ["salloc", "--quiet", *words, "bash", "-c", job_script(cluster, nodes, folder)]


def job_script(cluster: Cluster, nodes: int, folder: Path) -> str:
    """What runs beside the allocation: its steps one after the other, whatever becomes of each."""
    port, check = cluster.port_base or FIRST_PORT, [sys.executable, "-I", nodecheck.__file__]
    inside = ["env", *(f"{key}={value}" for key, value in cluster.environment.items() if value != MASK)]
    text = Path(imagecheck.__file__).read_text("utf-8")
    per_node = 1 if cluster.emulated else cluster.gpus_per_node
    mpi = [f"--mpi={cluster.slurm.mpi}"] if cluster.slurm.mpi else []
    host = _step("certify-nodes", nodes, 1)
    image = [*mpi, *container_options(cluster, str(folder)), *cluster.slurm.srun, *inside]
    looked = [*_step("certify-image", nodes, 1), *image, "python3", "-c", text, "image", str(folder)]
    reduced = [*_step("certify-allreduce", nodes, per_node), *image, "bash", "-c", REDUCE, text]
    lines = [
        *prologue(cluster),
        'nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | tr "\\n" ",")',
        'nodes=${nodes%,}; echo "nodes: $nodes"',
        f'timeout {STEP_S} {shlex.join([*host, *check, "node", str(folder), str(port)])} "$nodes"',
        'echo "image: $(date +%s.%N)"',
        f"timeout {STEP_S} {shlex.join(looked)}",
    ]
    if nodes * per_node > 1:
        lines.append(f'timeout {REDUCE_S} {shlex.join(reduced)} "${{nodes%%,*}}" {port + 1}')
        lines.append('echo "reduced: $?"')
    return "\n".join([*lines, "exit 0"])


def _step(name: str, nodes: int, per_node: int) -> list[str]:
    shape = [f"--nodes={nodes}", f"--ntasks={nodes * per_node}", f"--ntasks-per-node={per_node}"]
    return ["srun", "--overlap", "--mem=0", *shape, "--cpu-bind=none", "--distribution=block", f"--job-name={name}"]


def _read(folder: Path, output: str, errors: str) -> Examined:
    listed = re.search(r"^nodes: (\S+)$", output, re.MULTILINE)
    began = re.search(r"^image: ([\d.]+)$", output, re.MULTILINE)
    hosts, images = {}, {}
    names = tuple(listed[1].split(",")) if listed else ()
    for name in names:
        if (host := _report(folder / f"{name}.json", NodeReport)) is not None:
            hosts[name] = host
        if (image := _report(folder / f"{name}.image.json", ImageReport)) is not None:
            images[name] = image
    ended = re.search(r"^reduced: (\d+)$", output, re.MULTILINE)
    code = int(ended[1]) if ended else None
    return Examined(names, hosts, images, float(began[1]) if began else None, read_reduced(output), code, errors)


def _report(path: Path, kind: type[T]) -> T | None:
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(path.read_bytes(), type=kind)
    return None


def read_reduced(output: str) -> str | None:
    """What an all-reduce says of itself: that of nccl-tests, or ours; ``None`` where none ran."""
    # Built without MPI, each of its tasks runs alone, and says so for itself: that is no figure of the network.
    if len(alone := re.findall(r"Avg bus bandwidth\s*:\s*([\d.]+)", output)) == 1:
        return f"{float(alone[0]):.2f} GB/s by all_reduce_perf"
    if match := re.search(r"^all-reduce: (.+)$", output, re.MULTILINE):
        return None if match[1] == "none" else match[1]
    return None
