"""Clusters whose nodes are not all alike: a profile with ``groups``, of which a sweep means one.

::

    name: rack
    groups:
      hopper: {gpu: h200, gpus_per_node: 8, nodes: 12, slurm: {sbatch: [--constraint=h200]}}
      small: {gpu: h100, gpus_per_node: 4, nodes: 30, slurm: {sbatch: [--constraint=h100]}}
    slurm: {partition: batch}

``cluster: rack:hopper`` is the profile with the keys of that group laid over its own, maps (``slurm``,
``environment``, ...) key by key, and has the name ``rack-hopper``.
"""

from __future__ import annotations

import difflib
from typing import Any

from ratematch.plan.located import Located
from ratematch.plan.numbers import brief

GROUPS = "groups"
SEPARATOR = ":"


def split_name(name: str) -> tuple[str, str | None]:
    """``rack:hopper`` is (profile, group); a name without a group has ``None``."""
    profile, separator, group = name.rpartition(SEPARATOR)
    return (profile, group) if separator and profile and group else (name, None)


def lay_over(located: Located, group: str | None) -> None:
    """Turn a profile with groups into that of ``group``, lines and marks with it; what is wrong is a problem of
    ``located``. A profile without groups stays as it is."""
    data = located.data
    if GROUPS not in data:
        if group is not None:
            located.add((), f"the profile has no groups, so there is no group {brief(group)}", "leave it out")
        return
    groups = data[GROUPS]
    if not isinstance(groups, dict) or not groups or not all(isinstance(each, dict) for each in groups.values()):
        located.add((GROUPS,), "must be a map of groups, each a map of keys", "hopper: {gpu: h200, nodes: 4}")
        return
    known = ", ".join(map(str, groups))
    if group is None:
        located.add((GROUPS,), "which group of nodes is meant?", f"write the profile's name{SEPARATOR}group: {known}")
        return
    if group not in groups:
        close = difflib.get_close_matches(group, list(map(str, groups)), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        located.add((GROUPS,), f"there is no group {brief(group)}", f"{hint}there are {known}")
        return
    for nested in (GROUPS, "name"):
        if nested in groups[group]:
            located.add((GROUPS, group, nested), f"a group has no {nested} of its own")
            return
    below = (GROUPS, group)
    own = {key: value for key, value in data.items() if key != GROUPS}
    if isinstance(own.get("name"), str):
        own["name"] = f"{own['name']}-{group}"
    located.data = _merged(own, groups[group])
    located.lines.update({path[2:]: line for path, line in located.lines.items() if path[:2] == below and path[2:]})
    located.replace_marks(lambda path: path[2:] if path[:2] == below else None if path[:1] == (GROUPS,) else path)


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(under[key], value) if isinstance(value, dict) and isinstance(under.get(key), dict) else value
        for key, value in over.items()
    }
    return {**under, **both}
