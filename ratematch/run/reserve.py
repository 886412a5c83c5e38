"""GPUs and side channels of this machine, given to one launch at a time.

Two experiments of one sweep, or of two sweeps of one user, may be under way on this machine. Each takes the lowest
GPUs that nobody holds, and waits while there are too few. What is held is a locked file, ``gpu-0``, in a folder that
is this user's alone. The servers and their guard (:mod:`ratematch.run.guard`) have the file open too, so the kernel
lets the lock go when the last of them has ended, however its driver died. GPUs that other users or other programs
take are not seen here.

NIXL's side channels have the same port at every start of a server of a role, each server on a loopback address of
its own by its first GPU (127.0.0.1 for GPU 0): the port is among what vLLM's compile cache is looked up by, the
address is not, so two servers that run beside each other find what either has compiled.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from ratematch.errors import PlacementError, RunError
from ratematch.plan.cluster import Cluster
from ratematch.plan.placement import Instance, Placement
from ratematch.run.neighbours import Presence
from ratematch.run.stopping import Interrupted
from ratematch.store.filelock import try_flock
from ratematch.store.private import make_private

LOCKS = "RATEMATCH_LOCKS"
"""Names another folder for the locks: for machines whose users share one, and for tests."""

POLL_S = 0.5

SIDE_PORTS = {"ctx": 5600, "gen": 5700}
"""First side-channel port of the servers of a role; one a data-parallel rank follows."""

MOST_RANKS = 16
"""Data-parallel ranks of a server on one machine, at most: so many ports are looked at."""


@dataclass(frozen=True)
class Reserved:
    """``gpus``: of this machine, ascending. ``presence``: where what is done on them is said. ``locks``: open files;
    the GPUs are held as long as any process has them open."""

    gpus: tuple[int, ...]
    locks: tuple[int, ...] = field(compare=False, default=())
    presence: Presence | None = field(compare=False, default=None)


def takes_gpus(cluster: Cluster) -> bool:
    """Do servers of the cluster take GPUs of the machine that they run on?"""
    return not cluster.emulated


def locks_folder() -> Path:
    """Where what is held is locked."""
    given = os.environ.get(LOCKS)
    return Path(given) if given else Path(tempfile.gettempdir()) / f"ratematch-{os.geteuid()}"


@contextlib.contextmanager
def reserve(gpus: int, of: int, wait: Callable[[Sequence[int]], bool], *, beside: bool = True) -> Iterator[Reserved]:
    """Hold ``gpus`` of the ``of`` GPUs here. ``beside``: may servers start while others are measured?

    ``wait``: called with the GPUs that others hold while there are too few; returns whether to give up.

    Raises:
        PlacementError: there are not so many GPUs. Interrupted: ``wait`` gave up.
        ResultsError: the folder of the locks belongs to somebody else. RunError: it cannot be locked.
    """
    if gpus > of:
        raise PlacementError(f"{gpus} GPUs are needed, and this machine has {of}")
    folder = make_private(locks_folder())
    with contextlib.ExitStack() as held:
        while True:
            with contextlib.ExitStack() as trying:
                taken: dict[int, int] = {}
                for number in range(of):
                    if len(taken) < gpus and (lock := _hold(trying, folder / f"gpu-{number}")) is not None:
                        taken[number] = lock
                if len(taken) == gpus:
                    held.push(trying.pop_all())
                    break
            if wait([number for number in range(of) if number not in taken]):
                raise Interrupted("stopped while waiting for GPUs that other experiments hold")
        presence = Presence(folder, tuple(taken), is_held, beside=beside)
        try:
            yield Reserved(tuple(taken), tuple(taken.values()), presence)
        finally:
            with contextlib.suppress(OSError):
                presence.enter("ended", "")


def is_held(gpu: int) -> bool:
    """Does a live process of this user hold the GPU of this machine?"""
    with contextlib.ExitStack() as trying:
        path = locks_folder() / f"gpu-{gpu}"
        return path.exists() and _hold(trying, path) is None


def held_gpus(of: int) -> list[int]:
    """GPUs of this machine that experiments of this user hold now."""
    return [number for number in range(of) if is_held(number)]


def _hold(stack: contextlib.ExitStack, path: Path) -> int | None:
    """Lock ``path`` as long as ``stack`` lasts; ``None`` when somebody has it. Children inherit the lock by its file
    only, which is returned.

    Raises:
        RunError: its file system has no locks.
    """
    file: IO[str] = path.open("a+")
    try:
        attempt = try_flock(file.fileno())
    except OSError as error:
        file.close()
        raise RunError(f"{path}: cannot be locked ({error.strerror})") from error
    if attempt != "taken":
        file.close()
        if attempt == "no locks":
            raise RunError(
                f"{path.parent}: this file system has no locks, by which GPUs are given out: set {LOCKS} to a folder "
                "of this machine's own disk"
            )
        return None
    stack.callback(file.close)
    return file.fileno()


def on_reserved(placement: Placement, reserved: Reserved, is_free: Callable[[str, int], bool]) -> Placement:
    """The placement on the GPUs that are held: its k-th GPU of this machine is the k-th of them. Side channels have
    their fixed ports as long as nobody else listens there (``is_free``, of an address and a port)."""

    def moved(instance: Instance) -> Instance:
        places = tuple(replace(at, gpus=tuple(reserved.gpus[gpu] for gpu in at.gpus)) for at in instance.places)
        return replace(instance, places=places)

    instances = tuple(map(moved, placement.instances))
    channels = tuple(
        (instance.name, f"127.0.0.{1 + instance.places[0].gpus[0]}", SIDE_PORTS[instance.role])
        for instance in instances
        if instance.role in SIDE_PORTS
    )
    ports = range(MOST_RANKS)
    free = all(is_free(host, first + rank) for _, host, first in channels for rank in ports)
    return replace(placement, instances=instances, side_channels=channels if free else ())
