"""Is a results folder what was measured? Every file that is read later, by its checksum, or else by its figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ratematch.errors import DamagedFile
from ratematch.measure.measurement import Measurement
from ratematch.measure.serverside import measure_run
from ratematch.store import checksums, layout
from ratematch.store.damage import Damage, readable
from ratematch.store.folder import Results
from ratematch.store.snapshot import StoredExperiment
from ratematch.store.storedload import StoredLoad

Repair = Literal["measure", "compute", "none"]
"""What brings the figures back: measuring the load again, computing them from its records, or nothing, where only
something beside the figures is lost."""

CLOSE = 1e-6
"""Relative difference up to which two figures are one: sums of floats in another order."""


@dataclass(frozen=True)
class Complaint:
    """One thing that is wrong. ``file``: below the results folder; ``load``: the folder of the load that it costs,
    ``None`` where it costs none."""

    file: str
    why: str
    repair: Repair
    load: str | None = None


@dataclass(frozen=True)
class Verification:
    """What was checked, and what is wrong. ``sealed``: loads with checksums, as this version writes them;
    ``missing``: loads that were asked for and are not measured yet."""

    experiments: int
    loads: int
    sealed: int
    missing: int
    complaints: tuple[Complaint, ...]

    @property
    def lost(self) -> tuple[str, ...]:
        """Folders of the loads that must be measured again, each once."""
        return tuple(dict.fromkeys(c.load for c in self.complaints if c.load and c.repair == "measure"))


def verify(results: Results, readers: Sequence[Callable[[], object]] = ()) -> Verification:
    """Read everything in ``results``; of loads without checksums, compute the figures anew.

    ``readers``: further readers of files of the sweep, each of which raises DamagedFile where its file is damaged.
    """
    stored = results.now()
    beside: list[Damage] = []
    for read in (results.limits, results.controller_plan, *readers):
        readable(read, beside)
    complaints = [_complain(results.path, damage) for damage in (*stored.damaged, *beside)]
    for experiment in stored.experiments:
        complaints += _check_experiment(results.path, experiment)
    return Verification(
        experiments=len(stored.experiments),
        loads=len(stored.loads) + sum(len(part.unusable) for part in stored.experiments),
        sealed=sum(bool(load.sealed) for load in stored.loads),
        missing=sum(len(part.missing) for part in stored.experiments),
        complaints=tuple(complaints),
    )


def set_lost_aside(results: Results, verification: Verification) -> list[str]:
    """Move every load that must be measured again to ``replaced``, so that the sweep measures it; returns which.

    Nothing is deleted: what is left of it stays readable there.
    """
    moved = []
    for stored in results.now().experiments:
        for place in stored.folder.finished_folders():
            if (name := _name(results.path, place)) in verification.lost:
                stored.folder.set_folder_aside(place)
                moved.append(name)
    return moved


def _complain(root: Path, damage: Damage) -> Complaint:
    """Which load a damaged file costs, and what brings its figures back."""
    place = damage.file if damage.file.is_dir() else damage.file.parent
    if damage.copied or place.parent.name != layout.LOADS:
        return Complaint(_name(root, damage.file), damage.why, "none")
    repairable = damage.file.name == layout.MEASUREMENT and (place / layout.RECORDS).is_file()
    return Complaint(_name(root, damage.file), damage.why, "compute" if repairable else "measure", _name(root, place))


def _check_experiment(root: Path, stored: StoredExperiment) -> Iterator[Complaint]:
    beside: list[Damage] = []
    reads = (stored.folder.cluster, stored.folder.job, stored.folder.schema)
    for read in (*reads, partial(stored.folder.provenances, beside)):
        readable(read, beside)
    for damage in beside:
        yield Complaint(_name(root, damage.file), damage.why, "none")
    for load in stored.loads:
        yield from _check_load(root, stored, load)


def _check_load(root: Path, stored: StoredExperiment, load: StoredLoad) -> Iterator[Complaint]:
    """Checksums of every sealed file; where there are none, the figures against those that the records give."""
    name = _name(root, load.folder)
    for file, (_, digest) in load.sealed.items():
        if checksums.digest_file(load.folder / file) != digest:
            repair: Repair = "measure" if file == layout.RECORDS else "none"
            yield Complaint(f"{name}/{file}", "it was changed after the load was measured", repair, name)
            return
    if load.run.imported or (load.sealed and layout.RECORDS not in load.sealed):  # of a copy without them
        return
    try:
        records = load.records()
    except DamagedFile as error:
        yield Complaint(_name(root, error.file), error.why, "measure", name)
        return
    if load.sealed:  # its figures are those that were measured; another version may define them otherwise
        return
    anew = measure_run(records, load.load, stored.experiment, load.run)
    if difference := find_difference(load.measurement, anew):
        yield Complaint(f"{name}/{layout.MEASUREMENT}", difference, "compute", name)


COMPARED = ("num_requests", "num_ok", "tok_s", "req_s", "tok_s_run", "req_s_run", "isl_mean", "osl_mean")
MEANS = ("ttft_ms", "tpot_ms", "e2el_ms")


def find_difference(kept: Measurement, anew: Measurement) -> str | None:
    """The first figure that two measurements of one load do not share, in words; ``None`` when they agree."""
    first, second = asdict(kept), asdict(anew)
    for name in (*COMPARED, *MEANS):
        stored, computed = _figure(first[name]), _figure(second[name])
        if stored is None or computed is None:
            continue
        if not math.isclose(stored, computed, rel_tol=CLOSE, abs_tol=CLOSE):
            return f"{name} is {stored:.6g}, the records give {computed:.6g}"
    return None


def _figure(value: float | dict[str, float] | None) -> float | None:
    """A figure, or the mean of a distribution."""
    return value["mean"] if isinstance(value, dict) else value


def _name(root: Path, path: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
