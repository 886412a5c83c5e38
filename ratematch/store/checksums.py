"""Checksums of a finished load: what its ``loadrun.json`` says of the files beside it, and of itself.

``loadrun.json`` is written last, after every other file of the load is on the disk. Its key ``files`` holds the size
and the SHA-256 of each of them, its key ``sha256`` that of its own content. So a load whose records were lost or
changed after it counted is seen, and so is a figure in which one bit flipped. Loads of earlier versions have neither.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ratematch.store import layout
from ratematch.store.files import sync_file, sync_folder
from ratematch.store.masking import mask_values

FILES, OWN = "files", "sha256"
"""Keys of ``loadrun.json``."""


def seal(folder: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """``content`` of a ``loadrun.json`` with the checksums of all other files in ``folder``, which are on the disk
    when this returns.

    Raises:
        OSError: a file cannot be read, or the disk does not take it.
    """
    files = {}
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.name != layout.LOADRUN and not file.name.startswith("."):
            sync_file(file)
            files[file.name] = [file.stat().st_size, digest_file(file)]
    for place in (folder, *folder.parents[:3]):  # loads, experiment, results: names of new folders
        sync_folder(place)
    sealed = mask_values({**content, FILES: files})  # as it will be written
    return {**sealed, OWN: _digest(sealed)}


def check_own(content: Mapping[str, Any]) -> None:
    """Raises ValueError when ``content`` of a ``loadrun.json`` is not what was sealed; one without a seal passes."""
    if OWN in content and content[OWN] != _digest({key: value for key, value in content.items() if key != OWN}):
        raise ValueError("its content does not have its own checksum")


def sealed_files(content: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 by file name, from the content of a ``loadrun.json``; empty for one of an earlier version."""
    return {
        sys.intern(str(name)): (int(size), str(digest)) for name, (size, digest) in content.get(FILES, {}).items()
    }


def check_present(sealed: Mapping[str, tuple[int, str]], folder: Path) -> None:
    """Raises ValueError when a file of ``sealed`` is gone from ``folder`` or has another size. Reads no file."""
    place = os.fspath(folder)
    for name, (size, _) in sealed.items():
        try:
            now = os.stat(f"{place}/{name}").st_size  # noqa: PTH116 - without a Path a file
        except OSError as error:
            raise ValueError(f"{name} is gone") from error
        if now != size:
            raise ValueError(f"{name} has {now} bytes, {size} were written")


def check_bytes(sealed: Mapping[str, tuple[int, str]], name: str, content: bytes) -> None:
    """Raises ValueError when ``content``, all of the file ``name``, is not what was sealed."""
    known = sealed.get(name)
    if known is not None and known[1] != hashlib.sha256(content).hexdigest():
        raise ValueError("it was changed after the load was measured (another SHA-256)")


def digest_file(file: Path) -> str:
    """SHA-256 of the file's bytes."""
    with file.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(content, order="sorted", enc_hook=float)).hexdigest()
