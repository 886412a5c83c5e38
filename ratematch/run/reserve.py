"""GPUs and side channels of this machine, given to one launch at a time.

Two experiments of one sweep, or of two sweeps of one user, may be under way on this machine. Each takes the lowest
GPUs that nobody holds, and waits while there are too few. What is held is a locked file, ``gpu-0``, in a folder that
is this user's alone; the kernel lets the lock go when its process dies, however it dies. GPUs that other users or
other programs take are not seen here.

NIXL's side channels have fixed ports, the same at every start of a server, as long as nobody has them: the port is
among what vLLM's compile cache is looked up by, so another one would compile all over again.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from ratematch.errors import PlacementError, RunError
from ratematch.plan.placement import Instance, Placement
from ratematch.run.launch import Interrupted
from ratematch.store.filelock import try_flock
from ratematch.store.private import make_private

LOCKS = "RATEMATCH_LOCKS"
"""Names another folder for the locks: for machines whose users share one, and for tests."""

POLL_S = 0.5

SIDE_PORTS = {"ctx": 5600, "gen": 5700}
"""First side-channel port of the servers of a role; one a data-parallel rank follows."""


@dataclass(frozen=True)
class Reserved:
    """``gpus``: of this machine, ascending. ``side_ports``: first port by role, if all needed are held."""

    gpus: tuple[int, ...]
    side_ports: dict[str, int]


def locks_folder() -> Path:
    """Where what is held is locked."""
    given = os.environ.get(LOCKS)
    return Path(given) if given else Path(tempfile.gettempdir()) / f"ratematch-{os.geteuid()}"


@contextlib.contextmanager
def reserve(
    gpus: int,
    of: int,
    side_ports: dict[str, int],
    is_free: Callable[[int], bool],
    wait: Callable[[Sequence[int]], bool],
) -> Iterator[Reserved]:
    """Hold ``gpus`` of the ``of`` GPUs here, and ``side_ports`` ports by role where they are free.

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
                taken: list[int] = []
                for number in range(of):
                    if len(taken) < gpus and _hold(trying, folder / f"gpu-{number}"):
                        taken.append(number)
                if len(taken) == gpus:
                    held.push(trying.pop_all())
                    break
            if wait([number for number in range(of) if number not in taken]):
                raise Interrupted("stopped while waiting for GPUs that other experiments hold")
        yield Reserved(tuple(taken), _hold_ports(held, folder, side_ports, is_free))


def held_gpus(of: int) -> list[int]:
    """GPUs of this machine that experiments of this user hold now."""
    folder = locks_folder()
    found = []
    for number in range(of):
        with contextlib.ExitStack() as trying:
            path = folder / f"gpu-{number}"
            if path.exists() and not _hold(trying, path):
                found.append(number)
    return found


def _hold_ports(
    held: contextlib.ExitStack, folder: Path, wanted: dict[str, int], is_free: Callable[[int], bool]
) -> dict[str, int]:
    ports = [SIDE_PORTS[role] + number for role, count in wanted.items() for number in range(count)]
    with contextlib.ExitStack() as trying:
        if all(_hold(trying, folder / f"port-{port}") and is_free(port) for port in ports):
            held.push(trying.pop_all())
            return {role: SIDE_PORTS[role] for role in wanted}
    return {}


def _hold(stack: contextlib.ExitStack, path: Path) -> bool:
    """Lock ``path`` as long as ``stack`` lasts; ``False`` when somebody has it. No child inherits the lock.

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
        return False
    stack.callback(file.close)
    return True


def on_reserved(placement: Placement, reserved: Reserved) -> Placement:
    """The placement on the GPUs that are held: its k-th GPU of this machine is the k-th of them."""
    if not reserved.gpus:
        return placement

    def moved(instance: Instance) -> Instance:
        places = tuple(replace(at, gpus=tuple(reserved.gpus[gpu] for gpu in at.gpus)) for at in instance.places)
        return replace(instance, places=places)

    return replace(
        placement, instances=tuple(map(moved, placement.instances)), side_ports=tuple(reserved.side_ports.items())
    )
