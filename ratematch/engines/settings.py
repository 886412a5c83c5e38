"""What engines share in putting a server's configuration together: derived settings, and the user's over them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ratematch.plan.deployment import ServerGroup
from ratematch.plan.setting import Setting

Config = dict[str, Any]
"""A configuration as it stands in a file or on a command line: keys are the engine's own, maps may be nested."""


def fold(settings: Iterable[Setting]) -> Config:
    """Dotted keys -> nested maps, in order."""
    config: Config = {}
    for setting in settings:
        *path, last = setting.key.split(".")
        place = config
        for part in path:
            place = place.setdefault(part, {})
        place[last] = setting.value
    return config


def lay_over(config: Config, options: Config) -> Config:
    """``config`` with ``options`` over it: maps are merged key by key, anything else is replaced."""
    merged = dict(config)
    for key, value in options.items():
        below = merged.get(key)
        merged[key] = lay_over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def leaves(config: Config, where: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of everything that is no map (or an empty one)."""
    for key, value in config.items():
        path = f"{where}.{key}" if where else str(key)
        if isinstance(value, dict) and value:
            yield from leaves(value, path)
        else:
            yield path, value


def explain_group(group: ServerGroup, options: Config, derived: Sequence[Setting]) -> tuple[Setting, ...]:
    """Every configured key of a server of ``group``: its value, and the rule or the override it comes from.

    ``options``: the group's own, as the engine spells them. Of a configuration given as a whole nothing is derived.
    """
    if group.config is not None:
        return tuple(
            Setting(key, value, "given: the configuration is taken as a whole", given=True)
            for key, value in leaves(group.config)
        )
    own = dict(leaves(options))
    kept, seen = [], set()
    for setting in derived:
        replaced = next((key for key in own if _covers(key, setting.key) or _covers(setting.key, key)), None)
        if replaced is None or setting.given:
            kept.append(setting)
        elif replaced == setting.key:
            seen.add(replaced)
            instead = f"given in the sweep file; derived: {setting.value} ({setting.why})"
            kept.append(Setting(replaced, own[replaced], instead, given=True))
    covered = {setting.key for setting in kept} | seen
    rest = [
        Setting(key, value, "given in the sweep file", given=True) for key, value in own.items() if key not in covered
    ]
    return (*kept, *rest)


def _covers(key: str, other: str) -> bool:
    return other == key or other.startswith(f"{key}.")


def merge_env(*layers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """One value a variable: later layers win."""
    return tuple({name: value for layer in layers for name, value in layer}.items())


def without(config: Config, paths: Iterable[str]) -> Config:
    """``config`` without the keys at dotted ``paths``."""
    for path in paths:
        name, _, below = path.partition(".")
        if name not in config:
            continue
        rest = {key: value for key, value in config.items() if key != name}
        if below and isinstance(config[name], dict):
            rest[name] = without(config[name], (below,))
        config = rest
    return config
