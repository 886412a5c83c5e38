"""Reads a file that a person names: a regular file of a sensible size, text in UTF-8, or one line that says why not.

Devices and pipes are never opened: ``/dev/zero`` has no end, and a pipe nobody writes to answers never.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ratematch.errors import UserError
from ratematch.plan.numbers import shorten

MOST_BYTES = 64_000_000
"""Of a file that is read whole, unless its reader says otherwise."""


def is_file(path: Path) -> bool:
    """Whether there is a file at ``path``; a name that no file system can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, in a folder that may not be read
        return False


def read_text_file(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """The text of the file at ``path``, without a byte order mark. Line ends become ``\\n``.

    Raises:
        UserError: it cannot be opened, is no regular file, is larger than ``most_bytes``, or is not UTF-8.
    """
    content = read_bytes_file(path, most_bytes)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UserError(f"{path}:1: the text is UTF-16 (save it as UTF-8)") from None
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise UserError(f"{path}:{line}: the text is not UTF-8: byte 0x{byte:02x} (save it as UTF-8)") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_bytes_file(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of the file at ``path``.

    Raises:
        UserError: as :func:`read_text_file`.
    """
    try:
        # Opened without waiting, so that a pipe in the place of a file cannot hold us.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no name of a file"
        raise UserError(f"{shorten(str(path))}: cannot be read ({why})") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise UserError(f"{shorten(str(path))}: cannot be read ({_kind(mode)}, not a file)")
    with os.fdopen(descriptor, "rb") as file:
        try:
            content = file.read(most_bytes + 1)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) > most_bytes:
        raise UserError(f"{path}: is larger than {_size(most_bytes)}, which is all that is read of such a file")
    return content


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return kinds.get(stat.S_IFMT(mode), "something else")


def _size(number: int) -> str:
    return f"{number // 1_000_000} MB" if number >= 1_000_000 else f"{number // 1000} kB"
