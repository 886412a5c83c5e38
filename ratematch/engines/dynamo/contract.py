"""Dynamo's releases and the flags of its programs as data, what is wrong with given flags, and their words.

``lines.yaml``: release lines, what each pins and how its workers register. ``contract-*.yaml``: the flags of one
program each. Any flag that a program does not know ends it at once, so the flags are a contract of the release.

In a sweep file flags are written without their dashes, words joined by ``-`` or ``_``: ``router-temperature: 0.5``,
``router_replica_sync: true``, ``router_kv_events: false`` (``--no-router-kv-events``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal

from ratematch.engines.ownyaml import read_shipped_yaml
from ratematch.plan.deployment import Options

Program = Literal["trtllm", "vllm", "frontend"]
Rule = dict[str, Any]
"""A rule as it stands in a YAML file of the contract."""

_VERSION = re.compile(r"v?(\d+\.\d+)(?:\.\d+)?(?:[.\-+]?(?:rc|post|dev)\d*)*(?:[+_-][A-Za-z0-9][\w.+-]*)?")


@cache
def _load(name: str) -> dict[str, Rule]:
    content: dict[str, Rule] = read_shipped_yaml("ratematch.engines.dynamo", name)
    return content


RELEASE_LINES: tuple[str, ...] = tuple(_load("lines.yaml"))
"""Release lines that can be rendered, oldest first."""

GONE: dict[str, str] = {
    "disaggregation-strategy": "disaggregation-mode, which follows from the stage; it went in 0.7",
    "next-endpoint": "nothing: the frontend finds the workers; it went in 0.7",
    "tp-size": "tensor-parallel-size, from mapping",
    "tp": "tensor-parallel-size, from mapping",
    "planner": "nothing: a planner changes the number of workers and never runs during a measurement",
}
"""Flags of releases before those that are known, and what took their place."""


def release_line(version: str) -> str:
    """The release line of a version: ``1.6.1`` -> ``1.6``.

    Raises:
        ValueError: not one of :data:`RELEASE_LINES`.
    """
    match = _VERSION.fullmatch(version.strip())
    if match is None or match[1] not in RELEASE_LINES:
        raise ValueError(f"Dynamo version {version!r} is not known: use {RELEASE_LINES[0]} to {RELEASE_LINES[-1]}")
    return match[1]


def is_version(text: str) -> bool:
    """Does ``text`` name a release of a line that is known?"""
    try:
        release_line(text)
    except ValueError:
        return False
    return True


def pinned_backend(version: str, backend: str) -> str | None:
    """The version of ``backend`` that a release of Dynamo asks for; ``None``: it has no such backend."""
    line = _load("lines.yaml")[release_line(version)]
    of_release = line.get("releases", {}).get(version.strip().removeprefix("v"), {})
    pin = of_release.get(backend) or line["pins"].get(backend)
    return None if pin is None else str(pin)


def components(version: str, backend: str) -> Mapping[str, str]:
    """What workers register as: of ``prefill`` workers, and of ``decode`` (and aggregated) ones."""
    names: dict[str, str] = _load("lines.yaml")[release_line(version)]["components"][backend]
    return names


def is_since(version: str, line: str) -> bool:
    """Is ``version`` of ``line`` or of a later one?"""
    return RELEASE_LINES.index(release_line(version)) >= RELEASE_LINES.index(line)


@cache
def flags(program: Program, line: str) -> dict[str, Rule]:
    """Flags of a program in a release line, by name without dashes, each with ``type``, ``choices``, ``also``..."""
    at, known = RELEASE_LINES.index(line), {}
    for name, rule in _load(f"contract-{program}.yaml").items():
        lines = (
            rule.get("lines")
            or RELEASE_LINES[
                RELEASE_LINES.index(rule.get("since", RELEASE_LINES[0])) : RELEASE_LINES.index(
                    rule.get("until", RELEASE_LINES[-1])
                )
                + 1
            ]
        )
        if RELEASE_LINES[at] in lines:
            known[name] = {**rule, **rule.get("per_line", {}).get(line, {})}
    return known


def has_flag(program: Program, version: str, name: str) -> bool:
    """Does a program know a flag by this very spelling?"""
    known = flags(program, release_line(version))
    return name in known or any(name in (rule.get("also") or ()) for rule in known.values())


def flag_name(option: str) -> str:
    """The flag that an option of a sweep file means: ``router_mode`` -> ``router-mode``."""
    return option.removeprefix("--").replace("_", "-")


def spell_flags(program: Program, version: str, given: Options) -> dict[str, Any]:
    """``given`` by the main spelling of each flag; an old spelling that stands for two flags becomes both, and a flag
    that is not known keeps its own."""
    known = flags(program, release_line(version))
    also: dict[str, list[str]] = {}
    for name, rule in known.items():
        for other in rule.get("also") or ():
            also[other] = [name, *rule.get("also_means", ())]
    spelled: dict[str, Any] = {}
    for option, value in given.items():
        name = flag_name(str(option))
        if name not in known and name.startswith("no-") and name[3:] in {*known, *also} and isinstance(value, bool):
            name, value = name[3:], not value
        spelled |= dict.fromkeys([name] if name in known else also.get(name, [name]), value)
    return spelled


def check_flags(program: Program, version: str, given: Options) -> Iterator[tuple[str, str]]:
    """(flag as given, what is wrong with it): unknown in the release, with its successor; or a wrong value."""
    line = release_line(version)
    known = flags(program, line)
    for option, value in given.items():
        for name, meant in spell_flags(program, version, {str(option): value}).items():
            if name not in known:
                yield str(option), _unknown(program, name, line)
            elif (problem := _check_value(meant, known[name])) is not None:
                yield str(option), problem


def _unknown(program: Program, name: str, line: str) -> str:
    where = f"no flag of dynamo.{program} in {line}"
    rules = _load(f"contract-{program}.yaml")
    rule = rules.get(name) or rules.get(name.removeprefix("no-"))
    if rule is not None:
        lines = rule.get("lines") or [rule.get("since", RELEASE_LINES[0]), rule.get("until", RELEASE_LINES[-1])]
        now = f"; in its place: {rule['now']}" if rule.get("now") else ""
        return f"{where}: it is there from {lines[0]} to {lines[-1]}{now}"
    if name in GONE:
        return f"{where}; in its place: {GONE[name]}"
    if any(name in (other.get("also") or ()) for other in rules.values()):
        main = next(flag for flag, other in rules.items() if name in (other.get("also") or ()))
        return f"{where}; in its place: {main}"
    close = difflib.get_close_matches(name, list(flags(program, line)), n=1, cutoff=0.7)
    return f"{where}{f'; did you mean {close[0]}?' if close else ''}"


def _check_value(value: Any, rule: Rule) -> str | None:
    kind, choices = rule["type"], rule.get("choices")
    values = value if isinstance(value, list) and rule.get("many") else [value]
    for each in values:
        if each == "None" and rule.get("nullable"):
            continue
        if each is not None and not _fits(each, kind):
            return f"{each!r} is no {_WORDS[kind]}"
        if each is not None and choices and each not in choices:
            return f"{each!r} is not valid; choose from {', '.join(map(str, choices))}"
    return None


_WORDS = {"int": "whole number", "float": "number", "bool": "true or false", "switch": "true or false", "str": "text"}


def _fits(value: Any, kind: str) -> bool:
    match kind:
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "float":
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case "bool" | "switch":
            return isinstance(value, bool)
        case _:
            return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def to_argv(program: Program, version: str, given: Mapping[str, Any]) -> tuple[str, ...]:
    """Flags as words of the command line, in order. ``None`` leaves a flag out; so does ``false`` for one that has
    no ``--no-`` form."""
    known = flags(program, release_line(version))
    words: list[str] = []
    for name, value in given.items():
        rule = known.get(name, {"type": "str"})
        if value is None:
            continue
        if isinstance(value, bool):
            words += [f"--{name}"] if value else [f"--no-{name}"] if rule["type"] == "bool" else []
        elif isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        else:
            words += [f"--{name}", str(value)]
    return tuple(words)
