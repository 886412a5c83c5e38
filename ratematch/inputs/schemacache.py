"""What images said that their servers take, kept for the user: ``$XDG_CACHE_HOME/ratematch/schemas``, else below
``~/.cache``; files 0600 in folders 0700. What is damaged, or not ours alone, is left aside with a line that says so.

A schema is kept under what it was asked of: an image file by path, size and time of its last change; an image of a
registry by its name; without a container the package beside the command, by path and version.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ratematch.engines import Engine
from ratematch.engines.installed import InstalledSchema
from ratematch.errors import ResultsError
from ratematch.plan.cluster import Cluster
from ratematch.store.cachefolder import cache_folder as cache_folder
from ratematch.store.files import UNREADABLE
from ratematch.store.private import make_private, why_not_private

MOST_BYTES = 16 << 20
MOST_FILES = 100
"""The oldest go first."""


@dataclass(frozen=True)
class Image:
    """What a schema is asked of. ``words``: for people; ``identity``: changes when its content does, as far as that
    is seen from here."""

    words: str
    identity: str

    @property
    def file_name(self) -> str:
        return hashlib.sha256(self.identity.encode()).hexdigest()[:32] + ".json"


def identify(cluster: Cluster, engine: Engine) -> Image | None:
    """What the servers of ``cluster`` run in; ``None`` where they are emulated: no package stands behind them."""
    if cluster.emulated:
        return None
    command = " ".join(engine.command(cluster))
    if cluster.container is None:
        return _package(cluster, engine, command)
    image = cluster.container.image
    if (file := cluster.container.file) is None:
        return Image(f"image {image}", f"registry {image} {engine.name} {command}")
    path = Path(file)
    try:
        seen = path.resolve().stat()
    except OSError:  # only the nodes see it
        return Image(f"image {path.name}", f"file {path} of cluster {cluster.name} {engine.name} {command}")
    return Image(
        f"image {path.name}", f"file {path.resolve()} {seen.st_size} {seen.st_mtime_ns} {engine.name} {command}"
    )


def _package(cluster: Cluster, engine: Engine, command: str) -> Image:
    """The package that the command on PATH belongs to, where this machine sees it, else the command."""
    program = shutil.which(engine.command(cluster)[0])
    if program is not None:
        prefix = Path(program).resolve().parent.parent
        for distribution in sorted(prefix.glob("lib/python3*/site-packages/tensorrt_llm-*.dist-info")):
            version = distribution.name.removeprefix("tensorrt_llm-").removesuffix(".dist-info")
            where = distribution.parent
            return Image(f"package {version} in {where}", f"package {where} {version} {engine.name} {command}")
    return Image(
        f"command {command} of cluster {cluster.name}", f"command {command} of cluster {cluster.name} {engine.name}"
    )


def read_schema(image: Image, complain: Callable[[str], None]) -> InstalledSchema | None:
    """What is kept of ``image``; ``None`` where nothing is, or nothing that can be used, which ``complain`` gets."""
    folder = cache_folder()
    if folder is None or not os.path.lexists(file := folder / image.file_name):
        return None
    for path in (folder, file):
        if why := why_not_private(path):
            complain(f"{path} {why}: it is not read")
            return None
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ValueError(f"has more than {MOST_BYTES >> 20} MiB")
        content = json.loads(file.read_bytes())
        schema = InstalledSchema(content["schema"], image.words, content["version"])
        if content["identity"] != image.identity or content["sha256"] != schema.digest:
            raise ValueError("is not what was written there")
    except UNREADABLE as error:
        complain(f"{file}: cannot be used ({' '.join(str(error).split())[:120]}); it is left aside")
        return None
    return schema


def write_schema(image: Image, schema: InstalledSchema, complain: Callable[[str], None]) -> None:
    """Keep what ``image`` said; where that cannot be done, it is said to ``complain``."""
    if (folder := cache_folder()) is None:
        complain("there is no home to keep the schema in")
        return
    content = {
        "image": image.words,
        "identity": image.identity,
        "version": schema.version,
        "sha256": schema.digest,
        "schema": schema.text,
    }
    aside = folder / f".{image.file_name}.{os.getpid()}.tmp"
    try:
        make_private(folder.parent)
        make_private(folder)
        aside.unlink(missing_ok=True)
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file)
        aside.replace(folder / image.file_name)
        _remove_oldest(folder)
    except (OSError, ResultsError) as error:
        complain(f"the schema cannot be kept: {error}")
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def _remove_oldest(folder: Path) -> None:
    files = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    for file in files[:-MOST_FILES]:
        file.unlink(missing_ok=True)
