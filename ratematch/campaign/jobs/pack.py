"""The driver of a pack: several experiments of different size in one allocation, beside each other and in turn.

It gives nodes to experiments by the rule of :mod:`ratematch.plan.packs` and takes them back. Each experiment has its
own driver on its own nodes (:mod:`ratematch.campaign.jobs.step`), its own logs, and its own end: how it ended is
written for the controller (:mod:`ratematch.campaign.jobs.sent`), and its nodes go to the next.

When the pack itself must stop (time limit, preemption, scancel) it stops its members, and writes nothing about how
they ended: a job that Slurm starts again goes on with all of them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratematch.campaign.jobs.sent import Membership
from ratematch.campaign.jobs.step import StepJob
from ratematch.plan.packs import Piece, next_to_start
from ratematch.run.preparation import image_for_all
from ratematch.run.stopping import Stop, stop_on_signal
from ratematch.slurm import allocation
from ratematch.store import layout
from ratematch.store.files import read_json, read_value, write_json
from ratematch.store.folder import ExperimentFolder

POLL_S = 0.2
ACCOUNT_S = 5.0
"""How often the idle time of nodes is written, for whoever adds up GPU-hours meanwhile."""


@dataclass(frozen=True)
class PackFile:
    """What ``pack.json`` in a pack's folder holds. ``name``: that it was sent under. ``pieces``: its experiments, by
    folder, with the nodes and minutes that each is expected to take."""

    name: str
    gpus_per_node: int
    pieces: tuple[Piece, ...]

    @staticmethod
    def read(folder: Path) -> PackFile:
        """The pack that was sent from ``folder``."""
        return read_value(folder / "pack.json", PackFile.from_json)

    @staticmethod
    def from_json(content: Any) -> PackFile:
        """Raises KeyError, TypeError: not the content of a ``pack.json``."""
        pieces = (Piece(member["folder"], member["nodes"], member["minutes"]) for member in content["members"])
        return PackFile(content["name"], content["gpus_per_node"], tuple(pieces))

    def write(self, folder: Path) -> None:
        """Write it before the pack is sent."""
        members = [{"folder": piece.name, "nodes": piece.nodes, "minutes": piece.minutes} for piece in self.pieces]
        write_json(folder / "pack.json", {"name": self.name, "gpus_per_node": self.gpus_per_node, "members": members})


@dataclass(frozen=True)
class _Running:
    piece: Piece
    member: Membership
    job: StepJob


def run_pack(path: str) -> dict[str, Any]:
    """Measure every experiment of the pack in folder ``path``; returns how many ended and how many were done."""
    folder = Path(path)
    pack = PackFile.read(folder)
    members = {
        piece.name: Membership(ExperimentFolder(folder.parents[1] / piece.name), pack.name) for piece in pack.pieces
    }
    # Without those that somebody else measures by now, or that are done in an earlier start of this job.
    pieces = [
        piece for piece in pack.pieces if members[piece.name].is_current() and not members[piece.name].folder.done()
    ]
    for piece in pieces:
        members[piece.name].begin_anew()
    with stop_on_signal() as stop:
        nodes = allocation.own_nodes()
        account = _Account(folder, len(nodes), pack.gpus_per_node)
        cluster = members[pieces[0].name].folder.cluster() if pieces else None
        with image_for_all(cluster, nodes, folder, stop) as environment:
            account.spend(len(nodes))
            _run(pieces, members, nodes, stop, account, environment)
        account.write()
    done = sum(members[piece.name].folder.done() for piece in pieces)
    return {"ok": done == len(pieces), "experiments": len(pieces), "done": done, "signal": stop.signal}


def _run(
    pieces: Sequence[Piece],
    members: Mapping[str, Membership],
    nodes: Sequence[str],
    stop: Stop,
    account: _Account,
    environment: Mapping[str, str],
) -> None:
    """Run ``pieces`` on ``nodes`` until all have ended, or the pack must stop. ``environment``: of their drivers."""
    waiting, free, running = list(pieces), list(nodes), list[_Running]()
    while (waiting or running) and not stop.is_set():
        for piece in [piece for piece in waiting if members[piece.name].is_cancelled()]:
            waiting.remove(piece)
            members[piece.name].end(None)
        _start_fitting(waiting, members, free, running, environment)
        for part in list(running):
            if part.member.is_cancelled():
                part.job.cancel(wait=False)
            if not part.job.poll():
                running.remove(part)
                free.extend(part.job.nodes)
                part.member.end(part.job.code)
        account.spend(len(free))
        stop.wait(POLL_S)
    for part in running:
        part.job.cancel(wait=False)
    for part in running:
        part.job.cancel()


def _start_fitting(
    waiting: list[Piece],
    members: Mapping[str, Membership],
    free: list[str],
    running: list[_Running],
    environment: Mapping[str, str],
) -> None:
    """Move pieces from ``waiting`` to ``running`` as long as the next one fits on nodes taken from ``free``."""
    now_min = time.monotonic() / 60
    while True:
        ends = [(part.job.expected_end_min, part.piece.nodes) for part in running]
        index = next_to_start(waiting, len(free), ends, now_min)
        if index is None:
            return
        piece = waiting.pop(index)
        member, nodes = members[piece.name], free[: piece.nodes]
        del free[: piece.nodes]
        end_min = now_min + piece.minutes
        job = StepJob(
            member.folder, nodes, member.log, member.name, expected_end_min=end_min, environment=environment
        )
        running.append(_Running(piece, member, job))


class _Account:
    """GPU-time that no experiment accounts for: of nodes that have nothing to do. ``idle.json`` in the pack's folder,
    one entry for each start of the job."""

    def __init__(self, folder: Path, nodes: int, gpus_per_node: int):
        self._file = folder / layout.IDLE
        self._before = read_json(self._file) if self._file.exists() else []
        self._gpus, self._per_node = nodes * gpus_per_node, gpus_per_node
        self._idle_gpu_s = 0.0
        self._at = self._written = time.monotonic()
        self._began = time.time()

    def spend(self, idle_nodes: int) -> None:
        """Count the time since the last call for so many nodes."""
        now = time.monotonic()
        self._idle_gpu_s += (now - self._at) * idle_nodes * self._per_node
        self._at = now
        if now - self._written > ACCOUNT_S:
            self.write()

    def write(self) -> None:
        """Write what was counted so far."""
        self._written = time.monotonic()
        this_start = {"began": self._began, "seconds": time.time() - self._began, "idle_gpu_s": self._idle_gpu_s}
        write_json(self._file, [*self._before, this_start | {"gpus": self._gpus}])
