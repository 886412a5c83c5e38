"""Writes the published copy of a results folder: beside its place first, and there only when nothing is left in
it."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ratematch.analysis.details import write_published as write_details
from ratematch.analysis.rows import read_details
from ratematch.errors import UserError
from ratematch.exchange.publish.choice import choose_records
from ratematch.exchange.publish.cleaner import Cleaner
from ratematch.exchange.publish.known import Known, collect_text, collect_value
from ratematch.exchange.publish.loads import publish_load
from ratematch.exchange.publish.scan import scan
from ratematch.exchange.publish.texts import clean_yaml, cut_log, read_log
from ratematch.plan import experiment as experiments
from ratematch.store import layout
from ratematch.store.damage import Damage
from ratematch.store.files import UNREADABLE, write_json, write_text
from ratematch.store.folder import Results
from ratematch.store.published import Published, write_published
from ratematch.store.snapshot import Snapshot, StoredExperiment
from ratematch.version import __version__

SWEEP_FILES = (layout.LIMITS, layout.CONTROLLER, layout.SEARCH, layout.CHOICE, layout.IFB_CHOICE)
"""JSON files of a sweep that are published."""

LAUNCH_FILE = re.compile(r"[a-z_]+\.json")
"""JSON files of a launch, by their names; they are cleaned value by value."""


@dataclass(frozen=True)
class Wanted:
    """How a copy is to be made. ``records_kb``: room for the requests of a few loads. ``hide``: words that go
    wherever they stand, whatever they are. ``about``: what the copy says of itself."""

    records_kb: int = 512
    hide: tuple[str, ...] = ()
    about: str = ""


def publish(results: Results, output: Path, wanted: Wanted) -> tuple[Published, list[str]]:
    """Write the published copy of ``results`` to ``output``; returns what it says of itself, and files that could not
    be used.

    Raises:
        UserError: ``output`` is there already, or in the folder itself; or something that names people, machines or
            places would be left in it: nothing is written then.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output}: is there already; give a folder that is not, or is empty")
    if output.resolve().is_relative_to(results.path.resolve()):
        raise UserError(f"{output}: lies in {results.path} itself; give a folder beside it")
    stored = results.now()
    damaged = list(stored.damaged)
    aside = output.parent / f".{output.name}.{os.getpid()}.tmp"
    try:
        aside.mkdir(parents=True)
        copy = _Copy(results.path, stored, aside, wanted)
        published = copy.write(damaged)
        _refuse_leftovers(aside, copy.known, results.path)
        if output.exists():
            output.rmdir()
        aside.rename(output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return published, [damage.describe(results.path) for damage in damaged]


def _refuse_leftovers(written: Path, known: Known, source: Path) -> None:
    if not (left := scan(written, known)):
        return
    first = "; ".join(f"{leftover.file}: {leftover.kind}" for leftover in left[:5])
    more = f", and {len(left) - 5} more" if len(left) > 5 else ""
    raise UserError(
        f"{source}: nothing was published: names would be left in {first}{more}; "
        "--hide TEXT takes a word out wherever it stands"
    )


class _Copy:
    """One copy under way. ``known``: names that the source gives."""

    def __init__(self, source: Path, stored: Snapshot, folder: Path, wanted: Wanted) -> None:
        self._source, self._stored, self._folder, self._wanted = source, stored, folder, wanted
        self.known = Known()
        self._left_out: Counter[str] = Counter()
        self._collect()
        self._cleaner = Cleaner(self.known, self._paths())

    def write(self, damaged: list[Damage]) -> Published:
        """Everything that is published; files that cannot be used are in ``damaged``."""
        contents = self._name_experiments()
        for name in SWEEP_FILES:
            self._copy_json(self._source / name, self._folder / name)
        if (sweep := self._source / layout.SWEEP).is_file():
            write_text(self._folder / layout.SWEEP, clean_yaml(_read(sweep), self._cleaner))
        for pack in sorted((self._source / layout.PACKS).glob(f"*/{layout.IDLE}")):
            number = f"pack-{len(list((self._folder / layout.PACKS).glob('*'))) + 1}"
            self._copy_json(pack, self._folder / layout.PACKS / number / layout.IDLE)
        keep = choose_records(self._stored, self._wanted.records_kb * 1000)
        for part in self._stored.experiments:
            self._write_experiment(part, contents[part.experiment.id], keep)
        self._write_details(damaged)
        published = Published(
            ratematch=__version__,
            origins=tuple(sorted({part.experiment.origin for part in self._stored.experiments})),
            loads=len(self._stored.loads),
            records=tuple(sorted(self._rename(name) for name in keep)),
            left_out=dict(sorted(self._left_out.items())),
            replaced=self._cleaner.counts,
            about=self._cleaner.text(self._wanted.about),
        )
        write_published(self._folder, published)
        return published

    # -- names ----------------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        """Every name that the source gives in a place of known meaning, and those of this machine."""
        for word in self._wanted.hide:
            self.known.add(word, "hidden")
        shipped = {file.name.split(".")[0] for file in (resources.files("ratematch") / "data" / "clusters").iterdir()}
        for part in self._stored.experiments:
            if (cluster := part.experiment.cluster) not in shipped and cluster != "local":
                self.known.add(cluster, "cluster")
        for text in (f"/home/{getpass.getuser()}/", f"hostname={socket.gethostname()}", f"{Path.home()}/"):
            collect_text(self.known, text)
        for file in sorted(path for path in self._source.rglob("*") if path.is_file()):
            _collect_file(self.known, file)

    def _paths(self) -> dict[str, str]:
        """What stands for paths that the source names: of the weights, of itself, of the person who publishes it."""
        paths = {str(self._source.resolve()): "<results>", str(Path.home()): "<home>"}
        for part in self._stored.experiments:
            if part.experiment.model_path.startswith(("/", "~", ".")):
                paths[part.experiment.model_path] = "<model>"
        return paths

    def _name_experiments(self) -> dict[str, Any]:
        """The cleaned content of every ``experiment.json``, by the id that it had. What was cleaned may be part of
        the id, which is then another one, in every file."""
        contents: dict[str, Any] = {}
        names: dict[str, str] = {}
        for part in self._stored.experiments:
            content = self._cleaner.value(json.loads(_read(part.folder.path / layout.EXPERIMENT)))
            cleaned = experiments.from_json(content)
            old = part.experiment.id
            if cleaned.id in names.values():
                raise UserError(
                    f"{part.folder.path.name}: is the same as another experiment but for what names a place: it "
                    "cannot be published beside it; publish one of them"
                )
            contents[old], names[old] = content, cleaned.id
            self.known.folders[part.folder.path.name] = cleaned.folder
        self.known.ids = names
        return contents

    def _rename(self, name: str) -> str:
        """``<experiment>/<load>`` as it is called in the copy."""
        experiment, load = name.split("/")
        return f"{self.known.folders[experiment]}/{load}"

    # -- files ----------------------------------------------------------------------------------------------------

    def _copy_json(self, source: Path, target: Path) -> None:
        if not source.is_file():
            return
        try:
            content = json.loads(_read(source))
        except UNREADABLE:
            self._left_out["damaged files"] += 1
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        write_json(target, self._cleaner.value(content))

    def _write_experiment(self, part: StoredExperiment, content: Any, keep: Iterable[str]) -> None:
        source = part.folder.path
        target = self._folder / self.known.folders[source.name]
        (target / layout.LOADS).mkdir(parents=True)
        self._copy_json(source / layout.CLUSTER, target / layout.CLUSTER)
        for launch in part.folder.launch_folders():
            self._write_launch(launch, target / layout.LAUNCHES / launch.name)
        for load in part.loads:
            records = f"{source.name}/{load.folder.name}" in keep
            left = publish_load(load, target / layout.LOADS / load.folder.name, self._cleaner, records=records)
            self._left_out.update(left)
        write_json(target / layout.EXPERIMENT, content)
        if (source / layout.DONE).is_file():
            self._copy_json(source / layout.DONE, target / layout.DONE)

    def _write_launch(self, source: Path, target: Path) -> None:
        target.mkdir(parents=True)
        for file in sorted(path for path in source.iterdir() if path.is_file()):
            if file.is_symlink():  # to whatever
                self._left_out["other files of launches"] += 1
            elif LAUNCH_FILE.fullmatch(file.name):
                self._copy_json(file, target / file.name)
            elif file.suffix == ".yaml" and SERVER.fullmatch(file.stem):
                write_text(target / file.name, clean_yaml(_read(file), self._cleaner))
            elif file.suffix == ".log" and SERVER.fullmatch(file.stem):
                whole = self._cleaner.text(read_log(file))
                kept = cut_log(whole, file.stat().st_size)
                self._left_out["logs of which only both ends are there"] += kept != whole
                write_text(target / file.name, kept)
            elif file.name == layout.RUN_SCRIPT:
                write_text(target / file.name, self._cleaner.text(_read(file)))
            else:
                self._left_out["other files of launches"] += 1

    def _write_details(self, damaged: list[Damage]) -> None:
        """What files say that are not in the copy."""
        details = {self._rename(name): detail for name, detail in read_details(self._stored, damaged).items()}
        copied = Results(self._folder).now()
        loads = {f"{load.folder.parents[1].name}/{load.folder.name}": load for load in copied.loads}
        write_details(self._folder, details, loads)


def _collect_file(known: Known, file: Path) -> None:
    match file.suffix:
        case ".json":
            try:
                collect_value(known, json.loads(_read(file)))
            except UNREADABLE:
                return
        case ".yaml" | ".sh":
            collect_text(known, _read(file))
        case ".log":
            collect_text(known, read_log(file))


SERVER = re.compile(r"(?:ctx|gen|agg|orchestrator|coordinator|proxy|router|worker|server|driver)(?:[-_]\d{1,4}){0,3}")
"""What files of a server are called; one of another name may be called after anything."""


def _read(file: Path) -> str:
    return file.read_text("utf-8", "replace")


def describe(published: Published, output: Path, damaged: Sequence[str]) -> list[str]:
    """What was written, for a person."""
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    replaced = ", ".join(f"{count} x {kind}" for kind, count in published.replaced.items()) or "nothing"
    left_out = ", ".join(f"{count} {kind}" for kind, count in published.left_out.items()) or "nothing"
    return [
        f"{published.loads} loads ({', '.join(published.origins)}), {size / 1000:,.0f} kB",
        f"requests of {len(published.records)} loads: {', '.join(published.records) or 'none'}",
        f"left out: {left_out}",
        f"replaced: {replaced}",
        *(f"note: {line}" for line in damaged),
    ]
