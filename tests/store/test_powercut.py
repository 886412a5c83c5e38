"""A power cut: what the disk was not told to keep is gone. No load counts whose records are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratematch.measure.loadrun import LoadRun
from ratematch.store.folder import Results
from ratematch.store.records import read_records, write_records
from tests.support.invented import FIGURES, LAPTOP, experiment, records


class Disk:
    """What a disk that keeps only what it must has kept of ``root``, as of every sync and rename.

    The worst case: a file that was not synced is empty, a name that was not synced in its folder is gone; only
    ``loadrun.json`` is always kept, because that is what makes a load count.
    """

    def __init__(self, root: Path, copies: Path):
        self.root, self.copies, self.count = root, copies, 0
        self._contents: dict[int, bytes] = {}  # by inode
        self._names: set[Path] = set()

    def sync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir():
            self._names |= set(path.iterdir())
        else:
            self._contents[path.stat().st_ino] = path.read_bytes()
        self.cut()

    def cut(self) -> None:
        """Keep, as a copy of its own, what would be there after a cut now."""
        copy = self.copies / str(self.count)
        self.count += 1
        for file in self.root.rglob("*"):
            place = copy / file.relative_to(self.root)
            parents = [parent for parent in file.parents if parent.is_relative_to(self.root) and parent != self.root]
            named = all(part in self._names for part in (file, *parents))
            if file.is_file() and (named or file.name in ("loadrun.json", "experiment.json")):
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(self._contents.get(file.stat().st_ino, b""))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    root = tmp_path / "results"
    root.mkdir()
    watched = Disk(root, tmp_path / "after")
    rename = os.replace

    def replace(source: str, target: str) -> None:
        rename(source, target)
        watched.cut()

    monkeypatch.setattr(os, "fsync", watched.sync)
    monkeypatch.setattr(os, "replace", replace)
    yield watched
    shutil.rmtree(watched.copies, ignore_errors=True)


def test_no_load_counts_whose_records_are_gone(disk: Disk) -> None:
    folder = Results(disk.root).add(experiment(), LAPTOP)
    load = folder.read().loads[0]
    place = folder.load_folder(load)
    place.mkdir(parents=True)
    write_records(place / "records.parquet", records())
    folder.finish_load(load, LoadRun(launch="1"), FIGURES)
    counted = 0
    for number in range(disk.count):
        after = disk.copies / str(number)
        if not after.is_dir():
            continue
        for stored in Results(after).now().loads:
            assert stored.measurement == FIGURES
            assert read_records(stored.folder / "records.parquet") == records()
            counted += 1
    assert counted, "the load counts in the end"
    assert disk.count > 10, "every sync and rename is one place to cut"
