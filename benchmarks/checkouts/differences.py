"""Two folders of collected answers: where they differ, value by value.

A difference has a *place*, ``FILE: WHERE``: a path of keys in JSON, a line and column in CSV, a line in other text.
Differences that are meant are named in a file of ``PLACE  --  REASON`` lines, ``*`` for anything.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ABSENT = "(absent)"
LONGEST = 120
"""Characters of a value that are shown."""


@dataclass(frozen=True)
class Difference:
    """``old`` and ``new`` as they are shown."""

    file: str
    where: str
    old: str
    new: str

    @property
    def place(self) -> str:
        return f"{self.file}: {self.where}"

    def __str__(self) -> str:
        return f"{self.place}: {self.old} -> {self.new}"


@dataclass(frozen=True)
class Expected:
    """A difference that is meant: ``pattern`` of its place, and why."""

    pattern: str
    reason: str

    def covers(self, difference: Difference) -> bool:
        words = map(re.escape, self.pattern.split("*"))
        return re.fullmatch(".*".join(words), difference.place, re.DOTALL) is not None


@dataclass
class Comparison:
    """``compared``: files and values of each section (the first folder of a file's path)."""

    differences: list[Difference] = field(default_factory=list)
    compared: dict[str, tuple[int, int]] = field(default_factory=dict)

    def count(self, section: str, values: int) -> None:
        files, before = self.compared.get(section, (0, 0))
        self.compared[section] = (files + 1, before + values)


def read_expected(path: Path) -> tuple[Expected, ...]:
    """Lines of ``PLACE  --  REASON``; empty ones and those that begin with ``#`` are skipped.

    Raises:
        ValueError: a line without a reason.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        pattern, dashes, reason = line.partition(" -- ")
        if not dashes or not pattern.strip() or not reason.strip():
            raise ValueError(f"{path}:{number}: write PLACE -- REASON, such as `match/*: *.tok_s_gpu -- fixed`")
        found.append(Expected(pattern.strip(), reason.strip()))
    return tuple(found)


def compare_folders(old: Path, new: Path) -> Comparison:
    """Every file below either folder."""
    comparison = Comparison()
    names = sorted({str(path.relative_to(top)) for top in (old, new) for path in top.rglob("*") if path.is_file()})
    for name in names:
        before, after = old / name, new / name
        section = name.split("/", 1)[0]
        if not (before.exists() and after.exists()):
            comparison.count(section, 1)
            comparison.differences.append(Difference(name, "file", _present(before), _present(after)))
            continue
        values, found = compare_texts(name, before.read_bytes(), after.read_bytes())
        comparison.count(section, values)
        comparison.differences.extend(found)
    return comparison


def _present(path: Path) -> str:
    return f"{path.stat().st_size} bytes" if path.exists() else ABSENT


def compare_texts(name: str, old: bytes, new: bytes) -> tuple[int, list[Difference]]:
    """How many values were compared, and those that differ. Where all values agree and the bytes do not (order of
    keys, spacing), that is one difference."""
    try:
        before, after = old.decode("utf-8"), new.decode("utf-8")
    except UnicodeDecodeError:
        sums = [hashlib.sha256(each).hexdigest()[:12] for each in (old, new)]
        return 1, [] if old == new else [Difference(name, "bytes", *sums)]
    values, found = _compare_values(name, before, after)
    if not found and old != new:
        found = [Difference(name, "bytes", *_first_difference(before, after))]
    return values, found


def _compare_values(name: str, old: str, new: str) -> tuple[int, list[Difference]]:
    match Path(name).suffix:
        case ".json":
            try:
                before, after = json.loads(old), json.loads(new)
            except ValueError:
                return _compare_lines(name, old, new)
            values = sum(1 for _ in _leaves(before))
            return values, [] if old == new else [Difference(name, *each) for each in _walk(before, after, "")]
        case ".csv":
            return _compare_tables(name, old, new)
        case _:
            return _compare_lines(name, old, new)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list) and value:
        for each in value.values() if isinstance(value, dict) else value:
            yield from _leaves(each)
    else:
        yield value


def _walk(old: Any, new: Any, path: str) -> Iterator[tuple[str, str, str]]:
    """Paths at which two JSON values differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            at = f"{path}.{key}" if path else str(key)
            if key in old and key in new:
                yield from _walk(old[key], new[key], at)
            else:
                yield at, _show(old[key]) if key in old else ABSENT, _show(new[key]) if key in new else ABSENT
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{path}[]", f"{len(old)} items", f"{len(new)} items"
        for index, (before, after) in enumerate(zip(old, new, strict=False)):
            yield from _walk(before, after, f"{path}[{index}]")
    elif type(old) is not type(new) or old != new:
        yield path or "value", _show(old), _show(new)


def _show(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    text = text.replace("\n", "\\n")
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _compare_tables(name: str, old: str, new: str) -> tuple[int, list[Difference]]:
    """Row by row and column by column where both have the same columns and number of rows, else line by line."""
    before, after = (list(csv.reader(io.StringIO(text))) for text in (old, new))
    if not before or not after or before[0] != after[0] or len(before) != len(after):
        columns = [set(table[0]) if table else set() for table in (before, after)]
        gone, come = sorted(columns[0] - columns[1]), sorted(columns[1] - columns[0])
        if gone or come:
            shown = [", ".join(each) or "no other" for each in (gone, come)]
            return sum(map(len, before)), [Difference(name, "columns", *shown)]
        return _compare_lines(name, old, new)
    found = [
        Difference(name, f"row {number}, {column}", _show(left), _show(right))
        for number, rows in enumerate(zip(before, after, strict=True))
        for column, left, right in zip(before[0], *rows, strict=False)
        if left != right
    ]
    return sum(map(len, before)), found


def _compare_lines(name: str, old: str, new: str) -> tuple[int, list[Difference]]:
    before, after = old.splitlines(), new.splitlines()
    if old == new:
        return len(before), []
    if len(before) == len(after):
        pairs = [(k, left, right) for k, (left, right) in enumerate(zip(before, after, strict=True), 1)]
        return len(before), [Difference(name, f"line {k}", *_around(a, b)) for k, a, b in pairs if a != b]
    found = []
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for tag, low, high, first, last in matcher.get_opcodes():
        if tag != "equal":
            left, right = "\n".join(before[low:high]), "\n".join(after[first:last])
            found.append(Difference(name, f"line {low + 1}", _show(left) or ABSENT, _show(right) or ABSENT))
    return len(before), found


def _first_difference(old: str, new: str) -> tuple[str, str]:
    """Both texts from a little before the first character that differs."""
    same = next((k for k, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    begin = max(0, same - 40)
    return _show(old[begin : begin + LONGEST]), _show(new[begin : begin + LONGEST])


def _around(old: str, new: str) -> tuple[str, str]:
    """Long lines only around what differs."""
    return (old, new) if max(len(old), len(new)) <= LONGEST else _first_difference(old, new)
