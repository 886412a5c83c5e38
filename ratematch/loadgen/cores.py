"""Cores of this machine that a load generator has to itself while it sends, and the servers beside it do not use.

Servers are left to bind themselves as they like (an engine binds each rank to the cores near its GPU, and stops doing
so where it finds itself bound by somebody else). When they are up, each of their threads is taken off the cores of
the load generator, and keeps the others that it had; the load generator is bound to its cores until the load is over.
That needs no plugin of Slurm's and no tool in an image, only that driver and servers belong to one user, and holds
within whatever a cgroup (v1 or v2) leaves: only cores that this process may use are divided.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from ratematch.errors import UserError
from ratematch.plan.cores import CoreShare, read_share

SYSTEM = Path("/sys")
PROCESSES = Path("/proc")

NVIDIA = "0x10de"
DISPLAY = "0x03"
"""Class of a PCI device: 3D and display controllers."""

APART_ENV = "RATEMATCH_LOAD_APART"
"""What ``CoreShare.spell`` says, for senders that are started on nodes with servers."""

PASSES = 5
"""Threads that begin while others are moved have the cores of whoever began them; so often they are looked for."""


@dataclass(frozen=True)
class Core:
    """A physical core of this machine: its logical ``cpus`` that may be used, on NUMA node ``numa`` (0: no NUMA)."""

    numa: int
    cpus: frozenset[int]


@dataclass(frozen=True)
class Division:
    """``own``: logical CPUs of the load generator, ``rest``: those of servers. ``note``: why they are fewer than was
    wanted, or all are shared (``own`` is empty then)."""

    own: frozenset[int]
    rest: frozenset[int]
    note: str | None = None


def find_cores(allowed: Set[int], system: Path = SYSTEM) -> list[Core]:
    """The physical cores behind the logical CPUs ``allowed``, as the kernel lists them (``system``: its /sys)."""
    cores: dict[tuple[int, frozenset[int]], None] = {}
    numa = {
        cpu: int(folder.name[4:])
        for folder in (system / "devices/system/node").glob("node[0-9]*")
        for cpu in parse_cpus(_read(folder / "cpulist"))
    }
    for cpu in sorted(allowed):
        siblings = parse_cpus(_read(system / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))
        cores[numa.get(cpu, 0), frozenset(siblings & allowed) or frozenset({cpu})] = None
    return [Core(*core) for core in cores]


def find_gpus(system: Path = SYSTEM) -> list[int]:
    """The NUMA node of each NVIDIA GPU of this machine (-1: the kernel does not know)."""
    return [
        int(_read(device / "numa_node") or -1)
        for device in sorted((system / "bus/pci/devices").glob("*"))
        if _read(device / "vendor") == NVIDIA and _read(device / "class").startswith(DISPLAY)
    ]


def parse_cpus(text: str) -> frozenset[int]:
    """The CPUs of a list of the kernel's: ``0-3,8``."""
    found: set[int] = set()
    for low, high in re.findall(r"(\d+)(?:-(\d+))?", text):
        found |= set(range(int(low), int(high or low) + 1))
    return frozenset(found)


def format_cpus(cpus: Iterable[int]) -> str:
    """The inverse of :func:`parse_cpus`."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def divide(share: CoreShare, cores: Sequence[Core], gpus: Sequence[int], online: int) -> Division:
    """Cores for the load generator, as many as ``share`` wants and servers can spare: the last ones of the NUMA node
    with the fewest of the ``gpus`` (the last of those), then of the next. ``online``: logical CPUs of the machine."""
    every = frozenset(cpu for core in cores for cpu in core.cpus)
    count = min(share.own, len(cores) - share.kept)
    given = f" (of {online} CPUs of this machine, {len(every)} may be used)" if len(every) < online else ""
    if count < 1:
        why = f"{len(cores)} cores here, of which servers keep {share.kept}{given}"
        return Division(frozenset(), every, f"{why}: driver and load generator share the cores of the servers")
    ordered = sorted(cores, key=lambda core: (gpus.count(core.numa), -core.numa, -max(core.cpus)))
    own = frozenset(cpu for core in ordered[:count] for cpu in core.cpus)
    note = None
    if count < share.own:
        why = f"{len(cores)} cores here, of which servers keep {share.kept}{given}"
        note = f"{why}: driver and load generator have {count} to themselves, not {share.own}"
    return Division(own, every - own, note)


@contextlib.contextmanager
def keep_apart(share: CoreShare | None, mark: str) -> Iterator[tuple[str, ...]]:
    """While it lasts, this process and what it starts run on cores of their own, and servers of this machine, known
    by ``mark`` (``NAME=value``) in their environment, on the others. Yields what is to be said of it.

    Servers stay off those cores afterwards; this process may use again what it could before. ``share`` ``None``:
    nothing is done.
    """
    if share is None:
        yield ()
        return
    before = os.sched_getaffinity(0)
    division = divide(share, find_cores(before), find_gpus(), os.cpu_count() or len(before))
    notes = () if division.note is None else (division.note,)
    if not division.own:
        yield notes
        return
    if stuck := move_off(division.own, mark):
        notes = (*notes, f"{stuck} threads of servers are bound to cores of the load generator: they share them")
    _bind_self(division.own)
    try:
        yield notes
    finally:
        _bind_self(frozenset(before))


@contextlib.contextmanager
def keep_apart_as_asked() -> Iterator[tuple[str, ...]]:
    """:func:`keep_apart` as ``RATEMATCH_LOAD_APART`` says, which what is started here no longer has: its cores are
    given to it.

    Raises:
        UserError: it says nothing of the kind.
    """
    if not (asked := os.environ.pop(APART_ENV, "")):
        yield ()
        return
    try:
        share, mark = read_share(asked)
    except ValueError as error:
        raise UserError(f"{APART_ENV}={asked}: write 'OWN KEPT NAME=value', numbers of cores and a mark") from error
    with keep_apart(share, mark) as notes:
        yield notes


def move_off(own: frozenset[int], mark: str) -> int:
    """Take every thread of the processes with ``mark`` off the CPUs ``own``. Returns how many may use no other, or
    cannot be moved: those stay as they are."""
    stuck = 0
    for _ in range(PASSES):
        moved = stuck = 0
        for thread in threads_of(marked(mark)):
            try:
                if (cpus := os.sched_getaffinity(thread)) & own:
                    os.sched_setaffinity(thread, cpus - own)
                    moved += 1
            except ProcessLookupError:
                continue
            except OSError:  # none would be left, or it is somebody else's
                stuck += 1
        if not moved:
            break
    return stuck


def marked(mark: str, processes: Path = PROCESSES) -> list[int]:
    """Processes of this machine with ``mark`` in their environment, but for this one and what it was started by: a
    script that starts servers and load generator has the mark too."""
    word, found = mark.encode(), []
    own = {os.getpid(), os.getppid()}
    for folder in processes.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(folder.name) not in own and word in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def threads_of(pids: Iterable[int], processes: Path = PROCESSES) -> Iterator[int]:
    """Ids of all threads of ``pids`` that live."""
    for pid in pids:
        with contextlib.suppress(OSError):
            yield from [int(folder.name) for folder in (processes / str(pid) / "task").iterdir()]


def _bind_self(cpus: frozenset[int]) -> None:
    for thread in threads_of([os.getpid()]):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(thread, cpus)


def _read(path: Path) -> str:
    """Text of a file of the kernel's; empty where there is none."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
