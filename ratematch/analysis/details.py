"""What is worked out of a load's records and kept, so that a large folder is read fast: ``derived.json``.

The file may be deleted at any time. An entry is used while all files of its load have the size and the time of
modification that they had, and this version of ratematch wrote it; nothing else is ever taken from it.

A copy of a folder that was published has the details of its loads in ``details.json``: not all of the files that they
come from are in it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import msgspec

from ratematch.measure.batches import Noise
from ratematch.measure.breakdown import Breakdown
from ratematch.store import layout
from ratematch.store.damage import Damage, readable
from ratematch.store.files import read_value, replacing, write_json
from ratematch.store.storedload import StoredLoad
from ratematch.version import __version__

SOURCES = (layout.LOADRUN, layout.MEASUREMENT, layout.RECORDS, layout.PERF_METRICS)
"""Files of a load that its details come from."""

FORM = f"{__version__} 2"
"""Of the entries; the number goes up with every change of what is worked out."""

Stamp = tuple[tuple[int, int], ...]
"""Size and time of modification (ns) of each of :data:`SOURCES`; (-1, 0) where there is none."""


class Detail(msgspec.Struct, frozen=True):
    """Noise of a load's rates, the breakdown of its requests' time, and how many requests decoded together (of
    warmed gen servers); ``None`` where not known."""

    noise: Noise | None
    breakdown: Breakdown | None
    decoding: float | None = None


class _Entry(msgspec.Struct, frozen=True):
    stamp: Stamp
    detail: Detail


class _File(msgspec.Struct):
    form: str
    entries: dict[str, _Entry]


class _Published(msgspec.Struct, frozen=True):
    """``measurement``: SHA-256 of the figures that the details belong to."""

    measurement: str
    detail: Detail


def write_published(folder: Path, details: Mapping[str, Detail], loads: Mapping[str, StoredLoad]) -> None:
    """Keep ``details`` in the published results folder ``folder``, by ``<experiment>/<load>`` of its ``loads``."""
    entries = {
        name: _Published(loads[name].sealed[layout.MEASUREMENT][1], detail)
        for name, detail in sorted(details.items())
        if name in loads
    }
    write_json(folder / layout.DETAILS, msgspec.to_builtins(entries))


def _read_published(folder: Path) -> dict[str, _Published]:
    """What :func:`write_published` kept; nothing where the folder is none that was published.

    Raises:
        DamagedFile: the file is there and is not what it should be.
    """
    file = folder / layout.DETAILS
    if not file.exists():
        return {}
    return read_value(file, lambda content: msgspec.convert(content, dict[str, _Published]))


class DetailCache:
    """Details by load. :meth:`keep` what is used, then :meth:`write`; what was not kept is gone."""

    def __init__(self, folder: Path, entries: dict[str, _Entry]):
        self._file = folder / layout.DERIVED
        self._known = entries
        self._published: dict[str, _Published] = {}
        self._kept: dict[str, _Entry] = {}

    @staticmethod
    def read(folder: Path, damaged: list[Damage]) -> DetailCache:
        """That of the results folder ``folder``; an empty one where there is none that can be used. What was
        published with the folder and cannot be used is in ``damaged``: it is known from nowhere else."""
        cache = DetailCache._read(folder)
        cache._published = readable(partial(_read_published, folder), damaged) or {}
        return cache

    @staticmethod
    def _read(folder: Path) -> DetailCache:
        try:
            content = msgspec.json.decode((folder / layout.DERIVED).read_bytes(), type=_File)
        except (OSError, ValueError, RecursionError):
            return DetailCache(folder, {})
        return DetailCache(folder, content.entries if content.form == FORM else {})

    def get(self, stored: StoredLoad) -> Detail | None:
        """The details of a load; ``None`` where they are not known, or a file of it has changed since."""
        entry = self._known.get(_name(stored))
        if entry is not None and entry.stamp == _stamp(stored):
            return entry.detail
        published = self._published.get(_name(stored))
        same = published is not None and published.measurement == stored.sealed.get(layout.MEASUREMENT, (0, ""))[1]
        return published.detail if published is not None and same else None

    def keep(self, stored: StoredLoad, detail: Detail) -> None:
        """To be written with all that was kept before."""
        entry = self._known.get(_name(stored))
        known = entry is not None and entry.detail is detail
        self._kept[_name(stored)] = entry if entry is not None and known else _Entry(_stamp(stored), detail)

    def write(self) -> None:
        """Into the folder, where it may be written; a folder that may only be read does without."""
        if self._kept == self._known:
            return
        with contextlib.suppress(OSError), replacing(self._file, sync=False) as aside:
            aside.write_bytes(msgspec.json.encode(_File(FORM, self._kept)))


def _name(stored: StoredLoad) -> str:
    return f"{stored.folder.parents[1].name}/{stored.folder.name}"


def _stamp(stored: StoredLoad) -> Stamp:
    stamp, place = [], str(stored.folder)
    for name in SOURCES:
        try:
            status = os.stat(f"{place}/{name}")  # noqa: PTH116 - without a Path a file
        except OSError:
            stamp.append((-1, 0))
        else:
            stamp.append((status.st_size, status.st_mtime_ns))
    return tuple(stamp)
