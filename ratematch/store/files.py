"""Files that are whole or not there: written aside, synced and renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ratematch.errors import NO_ROOM, DamagedFile, DiskFull, UserError
from ratematch.store.masking import mask_values


@contextlib.contextmanager
def disk_full_as(message: str) -> Iterator[None]:
    """Raises DiskFull with ``message`` in place of an OSError that says there is no room."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFull(message) from error
        raise


SMALLEST_WRITE = 1 << 16
"""Bytes without which a server cannot write its log."""


def is_full(path: Path) -> bool:
    """Has the file system of ``path`` no room left for anything?"""
    try:
        room = os.statvfs(path)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < SMALLEST_WRITE or (room.f_files > 0 and room.f_favail == 0)


DISK_FULL = "the disk is full"


def disk_full_message(path: Path) -> str:
    return f"{path}: {DISK_FULL}; free some space and run the same command again (nothing measured so far is lost)"


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Gives a path to write to, whose file takes the place of ``path`` when the block has ended without an error.

    A reader sees the old file or the whole new one, never a part; after an error no partial file stays behind, and
    what the system says is said of ``path``. ``sync``: wait until the disk has it; off for files that need not
    outlive the machine.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield aside
        if sync:
            sync_file(aside)
        aside.replace(path)
        if sync:
            sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(aside)):
            error.filename = str(path)
        raise


_ASIDE = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d{1,9})\.tmp")


def remove_half_written(paths: Iterable[Path]) -> None:
    """Remove those of ``paths`` that :func:`replacing` wrote in a process which is gone, killed in the middle of it.

    For files that only processes of this machine write, one at a time: another machine's process looks gone too.
    """
    for path in paths:
        written = _ASIDE.fullmatch(path.name)
        if written is not None and not _is_alive(int(written["pid"])):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True


def sync_file(path: Path) -> None:
    """Wait until the disk has what is in ``path``."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in ``folder``: without this a power cut can take back a rename."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # a folder that may be written and not read: nothing more can be done
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF):  # file systems without it
            raise
    finally:
        os.close(handle)


def plain_text(text: str) -> str:
    """``text`` as a cell of a table that a spreadsheet shows and does not run.

    Excel, LibreOffice and Sheets take a cell that begins with = + - @ (or a tab or line break, and then one of these)
    for a formula, which may start programs; names of models come from files of other people. An apostrophe before it
    makes it text. A number, and a dash alone, stay as they are.
    """
    if not text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) or text == "-":
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def write_aside(path: Path, content: bytes) -> Path:
    """Write ``content`` to ``path``, whose folder is made where it is missing, as :func:`replacing` does.

    Raises:
        OSError: the folder cannot be written, or has no space.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as aside:
        aside.write_bytes(content)
    return path


def write_new(files: Mapping[Path, str], *, force: bool = False) -> None:
    """Write texts that a person asked for.

    Raises:
        UserError: a file of that name says something else, and ``force`` is not given; nothing is written then. Or
            one cannot be written.
    """
    for path, text in files.items():
        if not force and path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
            raise UserError(f"{path} is there already and says something else; take another folder, or --force")
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def write_text(path: Path, text: str, *, sync: bool = True) -> None:
    """Write ``text`` to ``path`` as :func:`replacing` does.

    Raises:
        DiskFull: no space; the old file, if any, is untouched.
    """
    with disk_full_as(disk_full_message(path)), replacing(path, sync=sync) as aside:
        aside.write_text(text, encoding="utf-8")


def to_text(content: Any) -> str:
    """JSON as it is written here: one spelling for one content, secrets masked."""
    return json.dumps(mask_values(content), indent=1, sort_keys=True, allow_nan=False) + "\n"


def write_json(path: Path, content: Any) -> None:
    write_text(path, to_text(content))


def write_lines(path: Path, contents: Iterable[Any]) -> None:
    """One JSON value a line, written aside and renamed.

    Raises:
        DiskFull: no space; the old file, if any, is untouched.
    """
    with (
        disk_full_as(disk_full_message(path)),
        replacing(path) as aside,
        aside.open("w", encoding="utf-8", newline="") as file,
    ):
        for content in contents:
            file.write(json.dumps(mask_values(content), allow_nan=False) + "\n")


UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What reading a file of any content may raise: missing, cut, of another type, nested without end."""

Value = TypeVar("Value")


def read_json(path: Path) -> Any:
    """Raises DamagedFile when the file cannot be read or is not JSON. NaN and Infinity are not JSON."""
    return read_value(path, lambda content: content)


def read_value(file: Path | str, from_json: Callable[[Any], Value]) -> Value:
    """The value that ``from_json`` makes of a JSON file.

    Raises:
        DamagedFile: the file cannot be read, is not JSON, or its content is of another shape (``from_json`` raised
            one of :data:`UNREADABLE`).
    """
    return value_of(file, read_bytes(file), from_json)


def value_of(file: Path | str, content: bytes, from_json: Callable[[Any], Value]) -> Value:
    """:func:`read_value` of ``content``, all of ``file``, where that was read before.

    Raises:
        DamagedFile: as :func:`read_value`.
    """
    try:
        decoded = msgspec.json.decode(content)
    except UNREADABLE as error:
        raise DamagedFile(Path(file), f"not valid JSON ({describe_damage(error)})") from error
    try:
        return from_json(decoded)
    except UNREADABLE as error:
        raise DamagedFile(Path(file), f"not what this version writes there ({describe_damage(error)})") from error


def read_bytes(file: Path | str) -> bytes:
    """Raises DamagedFile when there is no such file, or it cannot be read."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)  # a file object takes longer than what is in most files
        try:
            parts = [os.read(handle, READ_AT_ONCE)]
            while parts[-1]:
                parts.append(os.read(handle, READ_AT_ONCE))
        finally:
            os.close(handle)
    except OSError as error:
        raise DamagedFile(Path(file), (error.strerror or str(error)).lower()) from error
    return b"".join(parts)


READ_AT_ONCE = 1 << 18
"""Bytes."""


_UNKNOWN_KEY = re.compile(r"unexpected keyword argument ('.{1,60}')")


def describe_damage(error: BaseException) -> str:
    """One short line for an exception of :data:`UNREADABLE`."""
    if isinstance(error, KeyError):
        return f"no value for {error}"
    if isinstance(error, RecursionError):
        return "nested too deep"
    if isinstance(error, TypeError) and (key := _UNKNOWN_KEY.search(str(error))):
        return f"key {key[1]} is not known; did a later version write it?"
    text = " ".join(str(error).split())
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}..."


LONGEST_REASON = 200


RESERVED = ".reserved"
"""Holds room on the disk for the records of a load under way."""


@contextlib.contextmanager
def reserve(folder: Path, size: int, spare: int = 0) -> Iterator[None]:
    """Hold ``size`` bytes of the disk in ``folder``; given back on leaving, for the file they were held for.

    ``spare``: bytes that must be there too when this begins, for what is written meanwhile.

    Taken before a load is sent, so that GPU time is not spent on figures that could not be written.

    Raises:
        DiskFull: there is not that much room.
    """
    path = folder / RESERVED
    try:
        with disk_full_as(disk_full_message(folder)):
            folder.mkdir(parents=True, exist_ok=True)
            _allocate(path, size + spare)
            os.truncate(path, size)
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _allocate(path: Path, size: int) -> None:
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # file systems without fallocate
                raise
