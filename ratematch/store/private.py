"""Files and folders that only their owner may read: secrets of servers, and pickled calls of jobs.

A secret that a driver needs lies in ``secrets/environment.json`` (0600 in 0700) of its experiment, from when its job
is sent until the experiment is done or given up.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from ratematch.errors import ResultsError
from ratematch.store import layout
from ratematch.store.files import disk_full_as, disk_full_message


def make_private(folder: Path) -> Path:
    """Make ``folder``, or make the one that is there ours alone (0700).

    Raises:
        ResultsError: it belongs to somebody else, or cannot be made.
    """
    try:
        with disk_full_as(disk_full_message(folder)):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and found.st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise ResultsError(f"{folder}: cannot be made ({error.strerror})") from error
    if why := why_not_private(folder):
        raise ResultsError(f"{folder} {why}; move it away and run the same command again")
    return folder


def why_not_private(path: Path) -> str | None:
    """Why others may have written to ``path``; ``None`` when only we can read and write it."""
    try:
        found = path.lstat()
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
    if stat.S_ISLNK(found.st_mode):
        return "is a link"
    if found.st_uid != os.geteuid():
        return "belongs to another user"
    if found.st_mode & 0o077:
        return f"is open to others (mode {stat.S_IMODE(found.st_mode):04o})"
    return None


def write_secrets(experiment: Path, values: Mapping[str, str]) -> None:
    """Keep ``values``, by variable, for the driver of the experiment in the folder ``experiment``.

    Raises:
        ResultsError, DiskFull: they cannot be written.
    """
    write_private(make_private(experiment / layout.SECRETS) / layout.ENVIRONMENT, json.dumps(dict(values)))


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all.

    Raises:
        ResultsError, DiskFull: it cannot be written.
    """
    aside = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        with disk_full_as(disk_full_message(aside)):
            aside.unlink(missing_ok=True)
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            aside.replace(path)
    except OSError as error:
        raise ResultsError(f"{path.parent}: cannot be written ({error.strerror})") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def read_secrets(experiment: Path) -> dict[str, str]:
    """What :func:`write_secrets` kept; empty where nothing is.

    Raises:
        ResultsError: others may have written it.
    """
    file = experiment / layout.SECRETS / layout.ENVIRONMENT
    if not os.path.lexists(file):
        return {}
    for path in (file.parent, file):
        if why := why_not_private(path):
            raise ResultsError(f"{path} {why}: it is not read; remove it and run `ratematch sweep` again")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): str(value) for name, value in content.items()}
    except (OSError, ValueError, AttributeError):
        raise ResultsError(f"{file}: cannot be read; remove it and run `ratematch sweep` again") from None


def forget_secrets(experiment: Path) -> None:
    """Remove what :func:`write_secrets` kept."""
    forget(experiment / layout.SECRETS, [layout.ENVIRONMENT])


def forget(folder: Path, names: Sequence[str]) -> None:
    """Remove the files ``names`` of a private folder, and the folder with them."""
    with contextlib.suppress(OSError):
        for name in names:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
