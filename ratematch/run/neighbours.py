"""What experiments on this machine do at the same time, each on GPUs of its own.

Servers on other GPUs share processors, memory and PCIe with the ones that are measured. Whoever holds GPUs writes
what it does beside their locks (:mod:`ratematch.run.reserve`), so every load is kept with what ran beside it; and
where processors are scarce a start of servers and a measurement wait for each other.

A server takes some four cores while it is measured (two H200s, vLLM 0.24: engine 2 to 3.5, HTTP server 0.65, proxy
0.2, load generator 0.1) and about as many while it imports, loads and compiles: :data:`CORES_A_GPU`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from ratematch.plan.cluster import Cluster
from ratematch.run.stopping import Interrupted

Phase = Literal["waiting", "starting", "measuring", "ended"]

CORES_A_GPU = 8
"""Processors a GPU from which on servers may start while others are measured."""

POLL_S = 0.5
KEPT = 200
"""Lines of what was done on a GPU that are kept."""


@dataclass(frozen=True)
class Stretch:
    """``label``, an experiment, did ``phase`` on ``gpus`` of this machine from ``begin`` to ``end`` (Unix time)."""

    label: str
    gpus: tuple[int, ...]
    phase: Phase
    begin: float
    end: float


def starts_beside(cluster: Cluster, cpus: int) -> tuple[bool, str]:
    """May servers start on this machine while others are measured? With the reason."""
    gpus = cluster.gpus_per_node
    if cluster.starts != "auto":
        return cluster.starts == "beside", f"starts: {cluster.starts} of cluster profile {cluster.name}"
    enough = cpus >= CORES_A_GPU * gpus
    return enough, f"{cpus} cores for {gpus} GPUs, {'at least' if enough else 'fewer than'} {CORES_A_GPU} a GPU"


def describe_host(cluster: Cluster) -> str:
    """How many experiments run on this machine at once, and what keeps them out of each other's way."""
    beside, why = starts_beside(cluster, processors())
    turns = "servers start while others are measured" if beside else "a start and a measurement wait for each other"
    return f"as many experiments at a time as its {cluster.gpus_per_node} GPUs take; {turns} ({why})"


def processors() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


class Presence:
    """One experiment on ``gpus``, whose locks it holds, in the folder of the locks.

    ``is_held``: does a live process hold this GPU? ``beside``: may servers start while others are measured?
    """

    def __init__(self, folder: Path, gpus: Sequence[int], is_held: Callable[[int], bool], *, beside: bool = True):
        self._folder, self._gpus, self._is_held, self._beside = folder, tuple(gpus), is_held, beside
        self._file = folder / f"use-{gpus[0]}.jsonl"
        with contextlib.suppress(FileNotFoundError):
            lines = self._file.read_text(encoding="utf-8").splitlines(keepends=True)
            if len(lines) > KEPT:
                self._file.write_text("".join(lines[-KEPT // 2 :]), encoding="utf-8")

    def enter(self, phase: Phase, label: str) -> None:
        """Say what is done from now on."""
        line = {"label": label, "gpus": self._gpus, "phase": phase, "at": time.time()}
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def take_turn(
        self, phase: Literal["starting", "measuring"], label: str, wait: Callable[[Sequence[Stretch]], bool]
    ) -> None:
        """:meth:`enter`, once no experiment on other GPUs does what does not go with it. ``wait``: called with those
        that do; returns whether to give up.

        Raises:
            Interrupted: ``wait`` gave up.
        """
        if self._beside:
            self.enter(phase, label)
            return
        self.enter("waiting", label)
        other = "measuring" if phase == "starting" else "starting"
        while True:
            with _alone(self._folder / "turn"):
                against = [stretch for stretch in self.others_now() if stretch.phase == other]
                if not against:
                    self.enter(phase, label)
                    return
            if wait(against):
                raise Interrupted(f"stopped while {label} waited for others on this machine")

    def others_now(self) -> list[Stretch]:
        """What is done on other GPUs now."""
        now = time.time()
        return [each for each in self._others(now) if each.end >= now]

    def during(self, begin: float, end: float) -> tuple[str, ...]:
        """What was done on other GPUs between two Unix times, a line an experiment."""
        by_whom: dict[tuple[str, tuple[int, ...]], set[str]] = {}
        for each in self._others(end):
            if each.begin < end and each.end > begin and each.phase in ("starting", "measuring"):
                by_whom.setdefault((each.label, each.gpus), set()).add(each.phase)
        return tuple(
            f"{label} on GPU {', '.join(map(str, gpus))}: {', '.join(sorted(phases, reverse=True))}"
            for (label, gpus), phases in sorted(by_whom.items())
        )

    def _others(self, now: float) -> Iterator[Stretch]:
        for file in sorted(self._folder.glob("use-*.jsonl")):
            if file != self._file:
                yield from _read(file, self._is_held, now)


def doing_now(folder: Path, is_held: Callable[[int], bool]) -> list[Stretch]:
    """What is done on GPUs of this machine now, as their holders say."""
    now = time.time()
    files = sorted(folder.glob("use-*.jsonl"))
    return [each for file in files for each in _read(file, is_held, now) if each.end >= now]


def _read(file: Path, is_held: Callable[[int], bool], now: float) -> Iterator[Stretch]:
    """What a file says was done. The last line is still true while the GPU is held; whoever was killed left it so."""
    lines = []
    for text in file.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a line of which a killed process wrote half
            line = json.loads(text)
            lines.append((str(line["label"]), tuple(map(int, line["gpus"])), line["phase"], float(line["at"])))
    for (label, gpus, phase, begin), (_, _, _, end) in pairwise(lines):
        yield Stretch(label, gpus, phase, begin, end)
    if lines and lines[-1][2] != "ended":
        label, gpus, phase, begin = lines[-1]
        yield Stretch(label, gpus, phase, begin, now if is_held(gpus[0]) else begin)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process of this machine at a time."""
    with path.open("a") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield
