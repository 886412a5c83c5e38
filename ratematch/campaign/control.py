"""What a person does to a sweep from another terminal: detach it, cancel it, see its jobs wait, read its logs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ratematch.campaign.jobs.sent import Submission
from ratematch.errors import CatalogError, ResultsError, RunError
from ratematch.run.neighbours import doing_now
from ratematch.run.reserve import held_gpus, is_held, locks_folder, takes_gpus
from ratematch.slurm.queue import Queue, QueuedJob, ask_slurm
from ratematch.store import filelock, layout
from ratematch.store.folder import ExperimentFolder, Results
from ratematch.store.sharedservers import servers_of

EARLY_S = 3.0
"""A detached controller that is to fail at once does so within this time."""


def start_detached(argv: Sequence[str], results: Path) -> int:
    """Start ``ratematch ARGV`` as a process of its own that outlives the terminal and writes to ``controller.log``.

    Returns:
        Its process id.

    Raises:
        RunError: it ended at once; with what it wrote.
    """
    results.mkdir(parents=True, exist_ok=True)
    log = results / "controller.log"
    with log.open("ab") as output:
        begin = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "ratematch", *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    with contextlib.suppress(subprocess.TimeoutExpired):
        if process.wait(EARLY_S):
            text = log.read_bytes()[begin:].decode(errors="replace").strip()
            raise RunError(f"the detached controller ended at once: {text.removeprefix('ratematch: ')}")
    return process.pid


def queued_jobs(results: Results) -> dict[str, QueuedJob]:
    """Slurm's line for each experiment that has a job there now, by folder name; one query for all of them."""
    submissions = {}
    for folder in results.folders():
        submission = Submission.read(folder)
        if submission is None or folder.done():
            continue
        member = submission.membership(folder)
        if member is None or member.ending() is None:
            submissions[folder.path.name] = submission
    jobs = list(((Queue().refresh() if submissions else None) or {}).values())
    lines = {folder: submission.find_in(jobs) for folder, submission in submissions.items()}
    return {folder: line for folder, line in lines.items() if line is not None}


def describe_gpus(results: Results) -> list[str]:
    """While a sweep with GPUs of this machine runs: who holds which of them and does what, a line a GPU."""
    if not any(folder.held() for folder in results.folders()):
        return []
    try:
        clusters = [folder.cluster() for folder in results.folders()]
    except ResultsError:
        return []
    of = max((cluster.gpus_per_node for cluster in clusters if takes_gpus(cluster)), default=0)
    held = held_gpus(of)
    if not held:
        return []
    doing = {gpu: each for each in doing_now(locks_folder(), is_held) for gpu in each.gpus}
    return [
        f"GPU {gpu} of this machine: "
        + (f"{doing[gpu].label}, {doing[gpu].phase}" if gpu in doing else "held" if gpu in held else "free")
        for gpu in range(of)
    ]


def cancel_sweep(results: Results, experiment: str | None) -> list[str]:
    """Stop a whole sweep, or one experiment of it, in order; a line for all that was stopped or asked to, with how
    far each experiment is.

    Raises:
        CatalogError: no such experiment.
    """
    folders = results.folders() if experiment is None else [find_experiment(results.path, experiment)]
    held = [folder for folder in folders if folder.held()]
    controller = _stop_controller(results) if experiment is None else None
    # A controller stops its jobs on this machine before it ends.
    stopped = [f"{_how_far(folder)}: stopped with its controller" for folder in held if not folder.held()]
    jobs = queued_jobs(results)
    for folder in folders:
        job, submission = jobs.get(folder.path.name), Submission.read(folder)
        if job is not None and submission is not None:
            member = submission.membership(folder)
            if member is None or member.cancel():
                ask_slurm(["scancel", job.id])
            stopped.append(f"{_how_far(folder)}: job {job.id}")
        elif folder.held() and (pid := folder.holder()) is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGTERM)
                stopped.append(f"{_how_far(folder)}: process {pid} was asked to stop")
    return [*([controller] if controller else []), *stopped]


def _how_far(folder: ExperimentFolder) -> str:
    """The folder's name with how many of its loads are measured."""
    loads = folder.read().loads
    return f"{folder.path.name} ({sum(map(folder.finished, loads))} of {len(loads)} loads measured)"


def _stop_controller(results: Results) -> str | None:
    """The controller goes first: it would send again what is cancelled under it."""
    lock = results.path / layout.CONTROLLER_LOCK
    holder = filelock.read_holder(lock)
    if holder is None or not filelock.is_held(lock):
        return None
    if holder.host != socket.gethostname():
        return f"not the controller, which runs elsewhere ({holder}): end it there"
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(holder.pid, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while filelock.is_held(lock) and time.monotonic() < deadline:
        time.sleep(0.1)
    if filelock.is_held(lock):
        return f"controller ({holder}): it has been asked to stop and still runs"
    return f"controller ({holder}): stopped"


def find_experiment(results: Path, name: str) -> ExperimentFolder:
    """An experiment by its folder, or by a part of the folder's name below ``results`` that only it has.

    Raises:
        CatalogError: none, or several.
    """
    if (Path(name) / layout.EXPERIMENT).exists():
        return ExperimentFolder(Path(name))
    paths = [file.parent for file in sorted(results.glob(f"**/{layout.EXPERIMENT}")) if name in file.parent.name]
    if len(paths) == 1:
        return ExperimentFolder(paths[0])
    if not paths:
        raise CatalogError(f"{name}: no experiment below {results} has that in its name")
    raise CatalogError(f"{name}: several experiments: {', '.join(path.name for path in paths)}")


@dataclass(frozen=True)
class LogFile:
    """One log of an experiment. ``name``: ``driver`` or the server's."""

    name: str
    path: Path


def find_logs(folder: ExperimentFolder, role: str | None = None, index: int | None = None) -> list[LogFile]:
    """Logs of the last launch and of its driver, or those of one role, or of one server.

    Raises:
        ResultsError: there are none.
    """
    launch = folder.last_launch()
    logs = [LogFile(path.stem, path) for path in sorted(servers_of(launch).glob("*.log"))] if launch else []
    submission = Submission.read(folder)
    drivers = {*folder.path.glob("job/**/*_log.out")}
    if submission is not None:
        drivers |= {*submission.logs(folder).glob(f"{submission.id}_*_log.out")}
    logs += [LogFile("driver", path) for path in sorted(drivers, key=_age)[-1:]]
    if role is not None:
        wanted = role if index is None or role in ("driver", "orchestrator") else f"{role}-{index}"
        logs = [log for log in logs if log.name == wanted or log.name.rpartition("-")[0] == wanted]
    if not logs:
        raise ResultsError(f"{folder.path}: there is no such log (yet); `ratematch status` says how far it is")
    return logs


def _age(path: Path) -> float:
    return path.stat().st_mtime


def follow_logs(folder: ExperimentFolder, files: Sequence[LogFile]) -> Iterator[tuple[LogFile, str]]:
    """New lines as they come, until no process measures there any more."""
    offsets = {log.path: log.path.stat().st_size for log in files}
    last = False
    while True:
        for log in files:
            with log.path.open("rb") as file:
                file.seek(offsets[log.path])
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            offsets[log.path] += len(whole)
            for line in whole.decode(errors="replace").splitlines():
                yield log, line
        if last:
            return
        last = not folder.held()
        time.sleep(0.3)
