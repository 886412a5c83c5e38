"""The driver of a pack: several experiments of different size in one allocation, beside each other and in turn.

It gives nodes to experiments by the rule of :mod:`ratematch.plan.packs` and takes them back; each experiment has its
own driver on its own nodes (:mod:`ratematch.campaign.jobs.step`), its own logs, and its own end: one that fails is
told to the controller (:mod:`ratematch.campaign.jobs.sent`) and its nodes go to the next.

When the pack itself must stop (time limit, preemption, scancel) it tells its members to, and says nothing of them: a
job that Slurm starts again goes on with all of them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratematch.campaign.jobs.sent import Membership
from ratematch.campaign.jobs.step import StepJob
from ratematch.plan.packs import Piece, next_to_start
from ratematch.run.stopping import Stop, stop_on_signal
from ratematch.slurm import allocation
from ratematch.store.files import read_json, write_json
from ratematch.store.folder import ExperimentFolder

POLL_S = 0.2
ACCOUNT_S = 5.0
"""How often the idle time of nodes is written down, for whoever adds up GPU-hours meanwhile."""


@dataclass(frozen=True)
class _Running:
    piece: Piece
    member: Membership
    job: StepJob


def run_pack(path: str) -> dict[str, Any]:
    """Measure every experiment of the pack in folder ``path``; returns how many ended and how many were done."""
    folder = Path(path)
    told = read_json(folder / "pack.json")
    members = {
        member["folder"]: Membership(ExperimentFolder(folder.parents[1] / member["folder"]), told["name"])
        for member in told["members"]
    }
    pieces = [Piece(member["folder"], member["nodes"], member["minutes"]) for member in told["members"]]
    # Somebody else's by now, or done in an earlier start of this job.
    pieces = [piece for piece in pieces if members[piece.name].is_current() and not members[piece.name].folder.done()]
    for piece in pieces:
        members[piece.name].begin_anew()
    with stop_on_signal() as stop:
        nodes = list(allocation.own_nodes())
        account = _Account(folder, len(nodes), told["gpus_per_node"])
        _run(pieces, members, nodes, stop, account)
        account.write()
    done = sum(members[piece.name].folder.done() for piece in pieces)
    return {"ok": done == len(pieces), "experiments": len(pieces), "done": done, "signal": stop.signal}


def _run(
    waiting: list[Piece], members: dict[str, Membership], free: list[str], stop: Stop, account: _Account
) -> None:
    running: list[_Running] = []
    while (waiting or running) and not stop.is_set():
        now = time.monotonic() / 60
        for piece in [piece for piece in waiting if members[piece.name].is_cancelled()]:
            waiting.remove(piece)
            members[piece.name].end(None)
        while True:
            ends = [(each.job.until, each.piece.nodes) for each in running]
            index = next_to_start(waiting, len(free), ends, now)
            if index is None:
                break
            piece = waiting.pop(index)
            member, nodes = members[piece.name], free[: piece.nodes]
            del free[: piece.nodes]
            job = StepJob(member.folder, nodes, member.log, member.name, until=now + piece.minutes)
            running.append(_Running(piece, member, job))
        for each in list(running):
            if each.member.is_cancelled():
                each.job.cancel(wait=False)
            if not each.job.running():
                running.remove(each)
                free.extend(each.job.nodes)
                each.member.end(each.job.code)
        account.spend(len(free))
        stop.wait(POLL_S)
    for each in running:
        each.job.cancel(wait=False)
    for each in running:
        each.job.cancel()


class _Account:
    """GPU-time that no experiment accounts for: of nodes that have nothing to do. ``idle.json`` in the pack's folder,
    one entry for each start of the job."""

    def __init__(self, folder: Path, nodes: int, gpus_per_node: int):
        self._file = folder / "idle.json"
        self._before = read_json(self._file) if self._file.exists() else []
        self._gpus, self._per_node = nodes * gpus_per_node, gpus_per_node
        self._idle_gpu_s = 0.0
        self._at = self._written = time.monotonic()
        self._began = time.time()

    def spend(self, idle_nodes: int) -> None:
        now = time.monotonic()
        self._idle_gpu_s += (now - self._at) * idle_nodes * self._per_node
        self._at = now
        if now - self._written > ACCOUNT_S:
            self.write()

    def write(self) -> None:
        self._written = time.monotonic()
        now = {"began": self._began, "seconds": time.time() - self._began, "idle_gpu_s": self._idle_gpu_s}
        write_json(self._file, [*self._before, now | {"gpus": self._gpus}])
