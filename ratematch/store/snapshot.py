"""A results folder as it stands at one moment, read once; a later one reads again only what has changed.

What has changed is seen by times of modification. Every file is written aside and renamed, so a change in a folder
changes the time of that folder. Two things follow from the layout:

* An experiment that is done changes only through its own folder: ``DONE`` goes away when a load is measured again,
  ``experiment.json`` when there are further loads. One look at its folder is enough. (Figures that another process
  computes anew from the records, as ``pareto --remeasure`` does, are seen when the experiment changes otherwise.)
* Loads are finished by launches. As long as every launch has ended and none was added, none was finished.

A time that was young when it was seen may hide a further change within the clock's grain, so it is not relied on.

A file that cannot be used costs what it holds: a load is left out, a launch counts as one that was killed, an
experiment whose own file is damaged is not there. A copy of an experiment or load beside the first (a backup, a
conflict of two machines that share a folder) is no second measurement, and left out. ``damaged`` says so, file by
file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Literal

from ratematch.measure.measured import Measured
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Load
from ratematch.store import layout
from ratematch.store.damage import Damage, readable
from ratematch.store.experiment import (
    ExperimentFolder,
    GpuHours,
    Launch,
    hours_of,
    killed_launch,
    read_launch,
)
from ratematch.store.files import read_value
from ratematch.store.outcome import Outcome
from ratematch.store.storedload import StoredLoad, read_stored_load
from ratematch.store.uncollected import uncollected

YOUNG_NS = 10_000_000_000
"""A time of modification younger than this is not relied on: clocks of machines that share a disk differ a little."""

State = Literal["done", "running", "failed", "interrupted", "pending"]

Version = tuple[int, int, int]
"""Of a file: time of modification (ns), size, inode. Different after every write aside and rename."""


@dataclass(frozen=True)
class StoredExperiment:
    """One experiment with all that is known of it. ``marked_done``: it has the file that says so.

    ``damaged``: files that were left out. ``unusable``: finished loads among them; nothing is measured in their
    place, so nothing is overwritten.

    ``versions``: of the files that were read, by path inside the folder. ``folder_ns`` and ``launches_ns``: when the
    folder, and the one with its launches, last changed; ``None`` where that cannot be relied on.
    """

    folder: ExperimentFolder = field(compare=False)
    experiment: Experiment
    loads: tuple[StoredLoad, ...]
    launches: tuple[Launch, ...]
    marked_done: bool
    damaged: tuple[Damage, ...] = ()
    unusable: frozenset[str] = frozenset()
    versions: Mapping[str, Version] = field(default_factory=dict, compare=False, repr=False)
    folder_ns: int | None = field(default=None, compare=False, repr=False)
    launches_ns: int | None = field(default=None, compare=False, repr=False)

    @cached_property
    def missing(self) -> tuple[Load, ...]:
        """Loads that were asked for and are not finished."""
        finished = {stored.folder.name for stored in self.loads} | self.unusable
        return tuple(load for load in self.experiment.loads if load.label not in finished)

    @property
    def done(self) -> bool:
        return self.marked_done and not self.missing

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """How every launch that ended by itself ended, the last one last."""
        return tuple(launch.outcome for launch in self.launches if launch.outcome is not None)

    @property
    def outcome(self) -> Outcome | None:
        """How the last launch ended; ``None`` while it runs, when it was killed, or when there was none."""
        return self.launches[-1].outcome if self.launches else None

    @cached_property
    def account(self) -> GpuHours:
        """Where its GPU-hours went; of a launch that runs or was killed, as far as it got."""
        return hours_of(self.launches, self.experiment.deployment.gpus)

    def state(self) -> State:
        """How far it is; asks the disk for the lock, and nothing else."""
        if self.done:
            return "done"
        if self.folder.held():
            return "running"
        if self.outcome is None:
            return "interrupted" if self.launches else "pending"
        return "interrupted" if self.outcome.interrupted else "failed"

    @property
    def is_running(self) -> bool:
        """Has its last launch not ended? It runs, or it was killed."""
        return bool(self.launches) and self.launches[-1].outcome is None


@dataclass(frozen=True)
class Snapshot:
    """What stands in the results folder ``path``. ``experiments``: in the order of their folders' names. ``damaged``:
    files that were left out, of all experiments.

    ``idle_s``: GPU-seconds of nodes in packs that had nothing to do, by file, with the file's version.
    """

    path: Path
    experiments: tuple[StoredExperiment, ...]
    damaged: tuple[Damage, ...] = ()
    idle_s: Mapping[str, tuple[Version, float]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def folders(self) -> tuple[ExperimentFolder, ...]:
        return tuple(stored.folder for stored in self.experiments)

    @cached_property
    def _by_id(self) -> dict[str, StoredExperiment]:
        return _originals(self.experiments)

    def experiment(self, id: str) -> StoredExperiment | None:
        """The experiment with this id; ``None`` when it has no folder yet."""
        return self._by_id.get(id)

    @cached_property
    def loads(self) -> tuple[StoredLoad, ...]:
        """Every finished load of every experiment."""
        return tuple(load for stored in self.experiments for load in stored.loads)

    @cached_property
    def outcomes(self) -> tuple[Outcome, ...]:
        """How every launch of every experiment ended, of those that ended by themselves."""
        return tuple(outcome for stored in self.experiments for outcome in stored.outcomes)

    def account(self) -> GpuHours:
        """Where the GPU-hours of all experiments went, and those of nodes in packs that had nothing to do."""
        idle_s = sum(seconds for _, seconds in self.idle_s.values())
        return sum((stored.account for stored in self.experiments), GpuHours(total=idle_s / 3600))

    def measured(self) -> list[Measured]:
        """Every finished load of every experiment, with its figures; not those run for a breakdown only."""
        return [
            Measured(stored.experiment, load.load, load.measurement)
            for stored in self.experiments
            for load in stored.loads
            if not load.load.breakdown
        ]


def take_snapshot(path: Path, previous: Snapshot | None = None) -> Snapshot:
    """What stands in the results folder ``path`` now; what has not changed since ``previous`` is taken from there.

    Nothing where there is no such folder yet.

    Raises:
        OSError: the folder is there and cannot be listed.
    """
    with uncollected():
        return _take(path, previous)


def _take(path: Path, previous: Snapshot | None) -> Snapshot:
    known = {stored.folder.path.name: stored for stored in previous.experiments} if previous else {}
    names = names_in(path)
    folders = [folder for folder in (path / name for name in names) if folder.is_dir()]
    experiments = []
    damaged: list[Damage] = []
    for folder in folders:
        stored = _refresh(folder, known.get(folder.name), damaged)
        if stored is not None:
            experiments.append(stored)
    experiments = _without_copies(experiments, damaged)
    damaged += [damage for stored in experiments for damage in stored.damaged]
    idle_s = _read_packs(path, previous.idle_s if previous else {}, damaged) if layout.PACKS in names else {}
    return Snapshot(path, tuple(experiments), tuple(damaged), idle_s)


def _originals(listed: Sequence[StoredExperiment]) -> dict[str, StoredExperiment]:
    """Each experiment by its id: of several folders with one, that with its name, else the first."""
    originals: dict[str, StoredExperiment] = {}
    for stored in listed:
        if stored.experiment.id not in originals or stored.folder.path.name == stored.experiment.folder:
            originals[stored.experiment.id] = stored
    return originals


def _without_copies(listed: list[StoredExperiment], damaged: list[Damage]) -> list[StoredExperiment]:
    """``listed``, with each load of an experiment once: of folders that hold the same experiment in the one with its
    name, else in the first. Those that are left out are in ``damaged``."""
    originals = _originals(listed)
    if len(originals) == len(listed):
        return listed
    kept = []
    for stored in listed:
        original = originals[stored.experiment.id]
        known = {load.load for load in original.loads}
        own = tuple(load for load in stored.loads if load.load not in known)
        if stored is original:
            kept.append(stored)
        elif own:  # what only this one holds is measured; as it depends on the other folder, it is read again
            kept.append(replace(stored, loads=own, folder_ns=None))
            damaged += [_copied(load.folder, original.folder.path) for load in stored.loads if load.load in known]
        else:
            damaged.append(_copied(stored.folder.path, original.folder.path))
    return kept


def _without_copied_loads(listed: list[StoredLoad], damaged: list[Damage]) -> list[StoredLoad]:
    """``listed``, of those that are one load only that in the folder with its name, else the first."""
    originals: dict[Load, StoredLoad] = {}
    for stored in listed:
        if stored.load not in originals or stored.folder.name == stored.load.label:
            originals[stored.load] = stored
    if len(originals) < len(listed):
        pairs = [(stored, originals[stored.load]) for stored in listed]
        damaged += [_copied(stored.folder, first.folder) for stored, first in pairs if stored is not first]
    return list(originals.values())


def _copied(folder: Path, original: Path) -> Damage:
    why = f"a copy of {original.name}, which is no second measurement; move it out of the results"
    return Damage(folder, why, copied=True)


def read_idle_s(file: Path) -> float:
    """GPU-seconds that nodes of a pack had nothing to do, by its ``idle.json``: one entry a start of the pack.

    Raises:
        DamagedFile: it cannot be read.
    """
    return read_value(file, lambda starts: sum(float(start["idle_gpu_s"]) for start in starts))


def _refresh(path: Path, old: StoredExperiment | None, damaged: list[Damage]) -> StoredExperiment | None:
    """The experiment in ``path``, ``old`` itself where nothing has changed; ``None``: there is none, or its own file
    is damaged."""
    folder_ns = _modified_ns(path)  # before anything is read: what changes meanwhile is read again next time
    if old is None or old.folder_ns is None or old.folder_ns != folder_ns:
        return _read(path, folder_ns, old, damaged)
    if old.damaged:
        return _read(path, folder_ns, old, damaged)
    if old.done or not old.launches:  # the first launch makes a folder in this one
        return old
    launches_ns = _modified_ns(f"{path}/{layout.LAUNCHES}")
    if not old.is_running and old.launches_ns is not None and old.launches_ns == launches_ns:
        return old
    return _read(path, folder_ns, old, damaged)


def _read(
    path: Path, folder_ns: int | None, old: StoredExperiment | None, lost: list[Damage]
) -> StoredExperiment | None:
    """The experiment in ``path``, read as far as ``old`` is not what stands there."""
    folder = ExperimentFolder(path)
    versions: dict[str, Version] = {}
    if (version := _version(f"{path}/{layout.EXPERIMENT}")) is None:
        return None
    versions[layout.EXPERIMENT] = version
    same = old is not None and old.versions.get(layout.EXPERIMENT) == version
    experiment = old.experiment if old is not None and same else readable(folder.read, lost)
    if experiment is None:
        return None
    damaged: list[Damage] = []
    launches_ns = _modified_ns(f"{path}/{layout.LAUNCHES}")
    launches = _read_launches(path, old, damaged) if launches_ns is not None else ()
    loads, unusable = _read_loads(path, old, versions, damaged)
    return StoredExperiment(
        folder,
        experiment,
        loads,
        launches,
        _version(f"{path}/{layout.DONE}") is not None,
        tuple(damaged),
        unusable,
        versions,
        _reliable(folder_ns),
        _reliable(launches_ns),
    )


def _read_launches(path: Path, old: StoredExperiment | None, damaged: list[Damage]) -> tuple[Launch, ...]:
    """Launches that have ended are taken from ``old``, and so are earlier ones that were killed."""
    ended = {launch.number: launch for launch in old.launches[:-1]} if old else {}
    if old is not None and old.launches and not old.is_running:
        ended[old.launches[-1].number] = old.launches[-1]
    numbers = sorted(int(name) for name in names_in(f"{path}/{layout.LAUNCHES}") if name.isascii() and name.isdigit())
    launches = []
    for number in numbers:
        if number in ended and not (old and old.damaged):
            launches.append(ended[number])
        elif (place := path / layout.LAUNCHES / str(number)).is_dir():
            launches.append(readable(partial(read_launch, place), damaged) or killed_launch(place))
    return tuple(launches)


def _read_loads(
    path: Path, old: StoredExperiment | None, versions: dict[str, Version], damaged: list[Damage]
) -> tuple[tuple[StoredLoad, ...], frozenset[str]]:
    """Every finished load, and the names of those that cannot be used; the versions of their files go into
    ``versions``."""
    known = {stored.folder.name: stored for stored in old.loads} if old else {}
    loads, unusable = [], set()
    for name in names_in(f"{path}/{layout.LOADS}"):
        place = f"{path}/{layout.LOADS}/{name}"
        read: dict[str, Version] = {}
        for file in (layout.LOADRUN, layout.MEASUREMENT):
            if (version := _version(f"{place}/{file}")) is not None:
                read[f"{name}/{file}"] = version
        if f"{name}/{layout.LOADRUN}" not in read:
            continue
        same = old is not None and name in known and all(old.versions.get(key) == read[key] for key in read)
        stored = known[name] if same else readable(partial(read_stored_load, Path(place)), damaged)
        if stored is None:
            unusable.add(name)
        else:
            loads.append(stored)
            versions |= read
    loads = _without_copied_loads(loads, damaged)
    return tuple(sorted(loads, key=lambda stored: _order(stored.load))), frozenset(unusable)


@lru_cache(maxsize=4096)
def _order(load: Load) -> str:
    """What loads are listed by; most experiments of a sweep have the same loads."""
    return repr(load)


def names_in(folder: Path | str) -> list[str]:
    """What is in ``folder``; nothing where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read_packs(
    path: Path, old: Mapping[str, tuple[Version, float]], damaged: list[Damage]
) -> dict[str, tuple[Version, float]]:
    idle_s: dict[str, tuple[Version, float]] = {}
    for name in names_in(path / layout.PACKS):
        file = path / layout.PACKS / name / layout.IDLE
        if (version := _version(file)) is None:
            continue
        seconds = (
            old[name][1] if name in old and old[name][0] == version else readable(partial(read_idle_s, file), damaged)
        )
        if seconds is not None:
            idle_s[name] = (version, seconds)
    return idle_s


def has_file(path: str) -> bool:
    """Whether a file stands at ``path``; nothing stands where nobody may look."""
    return os.path.exists(path)  # noqa: PTH110 - takes a text: thousands of files take longer to name than to look at


def _version(file: Path | str) -> Version | None:
    """Of ``file``; ``None`` when it is not there."""
    try:
        status = os.stat(file)  # noqa: PTH116 - takes the text of a path too
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _modified_ns(folder: Path | str) -> int | None:
    version = _version(folder)
    return None if version is None else version[0]


def _reliable(modified_ns: int | None) -> int | None:
    """A time of modification that is old enough that a later change would show, else ``None``."""
    return None if modified_ns is None or time.time_ns() - modified_ns < YOUNG_NS else modified_ns
