"""``--set key.path=value`` laid over a sweep file."""

from __future__ import annotations

import re
from typing import Any

from ratematch.errors import Problem
from ratematch.plan.located import Located, Path, read_located
from ratematch.plan.numbers import brief, shorten


def lay_over(located: Located, override: str) -> None:
    """Lays ``key.path=value`` over the document. What is wrong with it is a problem of ``--set``, without the value,
    which may be a secret."""
    key, equals, text = override.partition("=")
    shown = f"--set {shorten(key)}"
    path: Path = tuple(_key_part(part) for part in key.strip().split("."))
    if not equals or not all(str(part).strip() for part in path):
        located.problems.append(Problem(shown, "write it as key.path=value"))
        return
    below = [whole[len(path) :] for whole in located.as_written if whole[: len(path)] == path]
    given = read_located(text, "--set", below)
    if given.problems:
        first = given.problems[0]
        what = "the value is no text to YAML" if "environment" in path else first.what
        located.problems.append(Problem(shown, f"cannot be read: {what}", first.fix))
        return
    path, why = _put(located.data, path, given.data)
    if why:
        located.problems.append(Problem(shown, why))
        return
    located.replace_marks(lambda old: None if old[: len(path)] == path else old)
    for mark, paths in given.marks.items():
        located.marks.setdefault(mark, []).extend((*path, *below) for below in paths)
    located.lines = {old: line for old, line in located.lines.items() if old[: len(path)] != path}
    located.given[path] = "--set"


def _key_part(text: str) -> str | int:
    """A key, or for a few plain digits the place in a list."""
    return int(text) if re.fullmatch("[0-9]{1,6}", text) else text


def _put(place: Any, path: Path, value: Any) -> tuple[Path, str]:
    """Sets ``value`` at ``path`` below ``place``, making maps on the way: where it stands, or why it cannot."""
    where: list[str | int] = []
    for step, part in enumerate(path):
        last = step == len(path) - 1
        if isinstance(place, list) and isinstance(part, int) and part < len(place):
            if last:
                place[part] = value
        elif isinstance(place, dict):
            part = str(part)
            if last:
                place[part] = value
            else:
                place.setdefault(part, {})
        elif last:
            return path, f"{brief(part)} cannot be set there"
        else:
            return path, f"there is no {brief(part)} to go into"
        where.append(part)
        place = place[part]
    return tuple(where), ""
