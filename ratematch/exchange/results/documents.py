"""Files of other tools as text, and as the JSON values in them: one, one a line, or one after the other."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from ratematch.errors import UserError

MOST_BYTES = 2 << 30
"""A result file is far smaller than this; reading on would only fill the memory."""


def read_text(path: Path) -> str:
    """The text of ``path``.

    Raises:
        UserError: it cannot be read, is a device or larger than any result file, or is no UTF-8 text.
    """
    try:
        status = path.stat()
        if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            raise UserError(f"{path}: is a device, not a file of results")
        if status.st_size > MOST_BYTES:
            raise UserError(f"{path}: {status.st_size / 1e9:.0f} GB: no file of results is as large")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise UserError(f"{path}: is no UTF-8 text") from error
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def parse_documents(text: str, name: str) -> list[tuple[int, Any]]:
    """Every JSON value of ``text``, with the line it begins on; they follow each other with white space between.

    So files that were appended to (vLLM's ``--append-result``, SGLang's .jsonl) are read as well as single objects.

    Raises:
        UserError: not JSON, with the line.
    """
    decoder = json.JSONDecoder()
    values: list[tuple[int, Any]] = []
    at, line = _skip_space(text, 0), 1
    line += text.count("\n", 0, at)
    while at < len(text):
        try:
            value, end = decoder.raw_decode(text, at)
        except RecursionError as error:
            raise UserError(f"{name}:{line}: not valid JSON that can be read: nested too deeply") from error
        except json.JSONDecodeError as error:
            raise UserError(f"{name}:{error.lineno}: not valid JSON ({error.msg})") from error
        except ValueError as error:  # an integer of thousands of digits
            raise UserError(f"{name}:{line}: not valid JSON that can be read ({error})") from error
        values.append((line, value))
        after = _skip_space(text, end)
        line += text.count("\n", at, after)
        at = after
    return values


def parse_json(text: str, name: str) -> Any:
    """The one JSON value that ``text`` is.

    Raises:
        UserError: not one JSON value.
    """
    values = parse_documents(text, name)
    if len(values) != 1:
        raise UserError(f"{name}: not valid JSON ({'nothing in it' if not values else 'several values'})")
    return values[0][1]


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at
