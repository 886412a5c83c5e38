"""One finished load on disk: read whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ratematch.errors import DamagedFile
from ratematch.measure import loadrun as loadruns
from ratematch.measure import measurement as measurements
from ratematch.measure.loadrun import LoadRun
from ratematch.measure.measurement import Measurement
from ratematch.measure.records import RequestRecord
from ratematch.plan.experiment import load_from_json
from ratematch.plan.load import Load
from ratematch.store import checksums, layout
from ratematch.store.files import read_bytes, read_value, value_of

if TYPE_CHECKING:  # reading Parquet takes a tenth of a second to import: who shows figures alone does without
    from ratematch.store.records import Arrivals


@dataclass(frozen=True)
class StoredLoad:
    """One finished load: its folder, the load itself, how it ran, and its figures. ``sealed``: size and SHA-256 of
    its files by name; empty for a load of an earlier version."""

    folder: Path
    load: Load
    run: LoadRun
    measurement: Measurement
    sealed: Mapping[str, tuple[int, str]] = field(default_factory=dict, compare=False, repr=False)

    def has(self, name: str) -> bool:
        """Was a file of this name kept?"""
        return name in self.sealed or (self.folder / name).exists()

    def read(self, name: str) -> bytes:
        """All of one of its files.

        Raises:
            DamagedFile: it is gone, or is not what was measured.
        """
        return read_sealed(self.folder / name, self.sealed)

    def records(self, name: str = layout.RECORDS) -> list[RequestRecord]:
        """Its requests, or those before the clock.

        Raises:
            DamagedFile: they are gone, or are not what was measured.
        """
        from ratematch.store.records import records_from_bytes  # noqa: PLC0415 - as above

        return records_from_bytes(self.folder / name, self.read(name))

    def arrivals(self) -> Arrivals:
        """When the tokens of its full answers came.

        Raises:
            DamagedFile: its records are gone, or are not what was measured.
        """
        from ratematch.store.records import arrivals_from_bytes  # noqa: PLC0415 - as above

        return arrivals_from_bytes(self.folder / layout.RECORDS, self.read(layout.RECORDS))


def read_sealed(file: Path | str, sealed: Mapping[str, tuple[int, str]]) -> bytes:
    """All of ``file``, whose size and SHA-256 stand in ``sealed`` by name.

    Raises:
        DamagedFile: it is gone, or is not what was sealed.
    """
    content = read_bytes(file)
    try:
        checksums.check_bytes(sealed, os.path.basename(file), content)  # noqa: PTH119 - a Path takes longer
    except ValueError as error:
        raise DamagedFile(Path(file), str(error)) from error
    return content


def read_run(folder: Path) -> tuple[Load, LoadRun, Mapping[str, tuple[int, str]]]:
    """What the ``loadrun.json`` in ``folder`` says: the load, how it ran, size and SHA-256 of its files.

    Raises:
        DamagedFile: it is missing, or is not what was written.
    """

    def from_json(content: Any) -> tuple[Load, LoadRun, Mapping[str, tuple[int, str]]]:
        checksums.check_own(content)
        return load_from_json(content["load"]), loadruns.from_json(content), checksums.sealed_files(content)

    return read_value(f"{folder}/{layout.LOADRUN}", from_json)


def read_stored_load(folder: Path) -> StoredLoad:
    """The finished load in ``folder``.

    A load that was measured here and whose records are gone is damaged: nobody could check its figures.

    Raises:
        DamagedFile: a file of it is missing, or is not what was written.
    """
    load, run, sealed = read_run(folder)
    try:
        checksums.check_present(sealed, folder)
    except ValueError as error:
        raise DamagedFile(folder, str(error)) from error
    if run.imported is None and not sealed and not (folder / layout.RECORDS).is_file():
        raise DamagedFile(folder, f"{layout.RECORDS} is gone")
    # Paths are texts here: thousands of files take longer to name than to read.
    file = f"{folder}/{layout.MEASUREMENT}"
    figures = value_of(file, read_sealed(file, sealed), measurements.from_json)
    return StoredLoad(folder, load, run, figures, sealed)
