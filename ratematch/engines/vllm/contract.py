"""The command line of ``vllm serve`` as data, what is wrong with given options, and their words.

Flags, types and choices stand in ``contract-serve.yaml``. The renderer checks before a launch, the emulator at start,
so both refuse the same options for the same reasons. All checks are pure; each problem is one line.

In a sweep file a flag is written without its dashes, words joined by ``_`` or ``-``: ``block_size: 128``,
``enable_prefix_caching: false`` (``--no-enable-prefix-caching``), ``speculative_config: {method: ngram}`` (JSON).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from ratematch.engines.ownyaml import read_shipped_yaml

KNOWN_LINES = ("0.24", "0.32")
"""Release lines whose argument definitions were read."""

RELEASE_LINES = tuple(f"0.{minor}" for minor in range(24, 33))
"""Release lines that can be rendered. Those between the known ones may have the flags of either."""

Rule = dict[str, Any]
"""A flag's rule as it stands in the YAML file of the contract."""

_HUMAN = re.compile(r"\d+(\.\d+)?[kKmMgGtT]?|auto|-1")
"""How whole numbers may be written besides: ``32k``, ``auto``."""


def release_line(version: str) -> str:
    """The release line of a version: ``0.32.1`` -> ``0.32``.

    Raises:
        ValueError: not one of :data:`RELEASE_LINES`.
    """
    match = re.match(r"v?(\d+\.\d+)(?:$|[.+a-z])", version.strip())
    if match is None or match[1] not in RELEASE_LINES:
        raise ValueError(f"vLLM version {version!r} is not known: use {RELEASE_LINES[0]} to {RELEASE_LINES[-1]}")
    return match[1]


@cache
def _load() -> dict[str, Rule]:
    content: dict[str, Rule] = read_shipped_yaml(__package__, "contract-serve.yaml")
    return content


@cache
def serve_flags(version: str) -> dict[str, Rule]:
    """Flags of a version by name without dashes, each with ``type``, ``also`` and ``choices``.

    Raises:
        ValueError: the version is not known.
    """
    line = release_line(version)
    flags: dict[str, Rule] = {}
    for name, rule in _load().items():
        if line not in KNOWN_LINES or line in rule.get("only", KNOWN_LINES):
            flags[name] = {**rule, **rule.get("lines", {}).get(line, {})}
    return flags


def flag_name(option: str) -> str:
    """The flag that an option of a sweep file means: ``max_num_seqs`` -> ``max-num-seqs``."""
    return option.removeprefix("--").replace("_", "-")


def option_name(flag: str) -> str:
    """The inverse of :func:`flag_name`, as options are written here."""
    return flag.removeprefix("--").replace("-", "_")


def check_options(options: Mapping[str, Any], version: str) -> list[str]:
    """What is wrong with ``options`` for a version; empty when the server's parser would take them.

    Raises:
        ValueError: the version is not known.
    """
    return list(_check(options, version))


def _check(options: Mapping[str, Any], version: str) -> Iterator[str]:
    flags, line = serve_flags(version), release_line(version)
    spellings = {other: name for name, rule in flags.items() for other in rule.get("also", ())}
    for option, value in options.items():
        name = flag_name(str(option))
        name = spellings.get(name, name)
        if name not in flags:
            yield f"{option}: {_unknown(name, line, flags)}"
        elif value is not None:
            yield from _check_value(str(option), value, flags[name])


def _unknown(name: str, line: str, flags: Mapping[str, Rule]) -> str:
    if name in _load():
        return f"no flag of vllm serve in {line}; it exists only in {', '.join(_load()[name]['only'])}"
    bare = name.removeprefix("no-")
    if bare != name and bare in flags:
        return f"write {option_name(bare)}: false"
    close = difflib.get_close_matches(name, list(flags), n=1, cutoff=0.7)
    hint = f"; did you mean {option_name(close[0])}?" if close else ""
    return f"no flag of vllm serve in {line}{hint}"


def _check_value(option: str, value: Any, rule: Rule) -> Iterator[str]:
    kind, choices = rule["type"], rule.get("choices")
    if not _fits(value, kind):
        yield f"{option}: {value!r} is no {_WORDS[kind]}"
    elif choices and value not in choices:
        yield f"{option}: {value!r} is not valid; choose from {', '.join(map(str, choices))}"


_WORDS = {
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "switch": "true or false",
    "str": "text",
    "list": "list",
    "json": "map or list",
    "any": "value",
}


def _fits(value: Any, kind: str) -> bool:
    match kind:
        case "int":
            whole = isinstance(value, int) and not isinstance(value, bool)
            return whole or (isinstance(value, str) and _HUMAN.fullmatch(value) is not None)
        case "float":
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case "bool" | "switch":
            return isinstance(value, bool)
        case "str":
            return isinstance(value, (str, int, float)) and not isinstance(value, bool)
        case "list":
            return isinstance(value, (list, str, int))
        case "json":
            return isinstance(value, (dict, list))
        case _:
            return True


def to_argv(options: Mapping[str, Any]) -> tuple[str, ...]:
    """``options`` as words of the command line, in order. ``None`` leaves an option out."""
    words: list[str] = []
    for option, value in options.items():
        name = flag_name(str(option))
        match value:
            case None:
                continue
            case True:
                words.append(f"--{name}")
            case False:
                words.append(f"--no-{name}")
            case dict():
                words += [f"--{name}", json.dumps(value)]
            case list() if _load().get(name, {}).get("type") == "json":
                words += [f"--{name}", json.dumps(value)]
            case list():
                words += [f"--{name}", *map(str, value)]
            case _:
                words += [f"--{name}", str(value)]
    return tuple(words)
