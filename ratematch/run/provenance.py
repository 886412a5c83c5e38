"""Where figures come from: software, machine, servers. Each probe may fail alone; none may stop a run."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from ratematch.engines import Engine
from ratematch.loadgen.http import server_version
from ratematch.plan.launchplan import LaunchPlan
from ratematch.run.serverlogs import read_since
from ratematch.store.provenance import Provenance
from ratematch.version import __version__

PACKAGES = ("aiohttp", "uvloop", "msgspec", "numpy", "pyarrow", "submitit")


def collect(plan: LaunchPlan, folder: Path, engine: Engine) -> Provenance:
    """Where the figures of a launch of ``plan`` in ``folder`` come from, as far as that can be found out."""
    names = [spec.name for spec in plan.processes]
    servers = [spec for spec in plan.processes if spec.role != "service"]
    running = engine.read_running(plan, dict(zip(names, read_since(plan, folder, {}), strict=True)))
    return Provenance(
        ratematch=__version__,
        git=_git(),
        python=sys.version.split()[0],
        platform=platform.platform(),
        cpus=os.cpu_count(),
        host=socket.gethostname(),
        packages={name: _package(name) for name in PACKAGES},
        slurm_job_id=os.environ.get("SLURM_JOB_ID"),
        servers={spec.name: server_version(spec.host, spec.port) for spec in servers},
        running=running.choices,
        notes=running.notes,
    )


def _git() -> str | None:
    folder = Path(__file__).parents[1]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--tags"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        return answer.stdout.strip() or None
    return None


def _package(name: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return None
