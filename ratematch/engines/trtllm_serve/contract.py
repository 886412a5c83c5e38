"""The configuration files of ``trtllm-serve`` as data: keys of each release line, and checks of single values.

The keys, types, choices and defaults stand in ``contract-worker.yaml`` and ``contract-orchestrator.yaml``; rules that
span several keys are functions in :mod:`~ratematch.engines.trtllm_serve.worker_rules` and
:mod:`~ratematch.engines.trtllm_serve.orchestrator_rules`. The renderer checks before a launch, the emulator at its
start, so both refuse the same files for the same reasons. All checks are pure; each problem is one line: where, what,
and what would be right.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from typing import Any

import yaml

from ratematch.engines.settings import Config

RELEASE_LINES = ("1.2", "1.3", "main")

Rule = dict[str, Any]
"""A key's rule, or rules by key, as they stand in the YAML files of the contract."""


def release_line(version: str) -> str:
    """The release line of a version: ``1.2.1`` -> ``1.2``, ``1.3.0rc17`` -> ``1.3``, later -> ``main``.

    Raises:
        ValueError: a version older than 1.2 or not a version.
    """
    text = version.strip().removeprefix("v")
    if text == "main":
        return "main"
    major, _, rest = text.partition(".")
    minor = rest.partition(".")[0]
    if major.isdigit() and minor.isdigit():
        number = (int(major), int(minor))
        if number in ((1, 2), (1, 3)):
            return f"1.{number[1]}"
        if number > (1, 3):
            return "main"
    raise ValueError(f"TensorRT-LLM version {version!r} is not known: use {', '.join(RELEASE_LINES)}")


@cache
def load_keys(name: str) -> Rule:
    """Every key of the ``worker`` or the ``orchestrator`` file in any release line, with its rule."""
    text = resources.files(__package__).joinpath(f"contract-{name}.yaml").read_text(encoding="utf-8")
    content: Rule = yaml.safe_load(text)
    return content


def in_line(keys: Rule, line: str) -> Rule:
    """The rules that hold in one release line, differences applied. 1.3 is like main where nothing else is given."""
    rules: Rule = {}
    for name, rule in keys.items():
        only, differences = rule.get("only", RELEASE_LINES), rule.get("lines", {})
        if line in only or (line == "1.3" and "main" in only):
            like = "main" if line == "1.3" and line not in differences else line
            rules[name] = {**rule, **differences.get(like, {})}
    return rules


def _deep_in_line(keys: Rule, line: str) -> Rule:
    """Like :func:`in_line`, nested maps included."""
    return {
        name: {**rule, "keys": _deep_in_line(rule["keys"], line)} if "keys" in rule else rule
        for name, rule in in_line(keys, line).items()
    }


def worker_keys(version: str) -> Rule:
    """Worker YAML keys of a version: name -> rule (``type``, ``default``, ``choices``, ``keys``, ...).

    Raises:
        ValueError: the version is not known.
    """
    return _deep_in_line(load_keys("worker"), release_line(version))


_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "list": (list,),
    "map": (dict,),
}


def _is(value: Any, name: str) -> bool:
    if name == "any":
        return True
    if isinstance(value, bool):
        return name == "bool"
    return isinstance(value, _TYPES[name])


def _is_among(value: str, choices: Sequence[str], rule: Rule) -> bool:
    if rule.get("any_case"):
        return value.upper() in {choice.upper() for choice in choices}
    return value in choices


def doubt_map(where: str, config: Config, all_keys: Rule, line: str) -> Iterator[str]:
    """Keys and values of which it is not sure that every release of the line takes them. ``where`` is empty at the
    top."""
    for name, rule in in_line(all_keys, line).items():
        value, path = config.get(name), f"{where}.{name}" if where else name
        if line == "1.3" and rule.get("late") and name in config:
            yield f"{path}: only later releases of 1.3 have this key"
        if isinstance(value, str) and _is_among(value, rule.get("unsure", ()), rule):
            yield f"{path}: {value!r} is taken by some releases of {line} and refused by others"
        elif isinstance(value, dict) and "keys" in rule:
            yield from doubt_map(path, value, rule["keys"], line)


def check_value(where: str, value: Any, rule: Rule, line: str) -> Iterator[str]:
    """Problems of the value of the key ``where``, one line each."""
    kinds = str(rule["type"]).split("|")
    if value is None:
        if rule.get("default") is not None and not rule.get("none"):
            yield f"{where}: null is not valid; the default is {rule['default']!r}"
        return
    if not any(_is(value, kind) for kind in kinds):
        yield f"{where}: {value!r} is no {' or '.join(kinds)}"
        return
    choices = rule.get("choices")
    taken = (*choices, *rule.get("unsure", ())) if choices else ()
    if choices and isinstance(value, str) and not _is_among(value, taken, rule):
        yield f"{where}: {value!r} is not valid in {line}; choose from {', '.join(choices)}"
    items = rule.get("items")
    if items and isinstance(value, list):
        for item in value:
            if (not _is(item, items)) if isinstance(items, str) else item not in items:
                wanted = items if isinstance(items, str) else ", ".join(items)
                yield f"{where}: {item!r} in the list is not valid; each must be of {wanted}"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if "above" in rule and value <= rule["above"]:
            yield f"{where}: {value} must be greater than {rule['above']}"
        if ("min" in rule and value < rule["min"]) or ("max" in rule and value > rule["max"]):
            low, high = rule.get("min"), rule.get("max")
            bounds = f"at least {low}" if high is None else f"between {low} and {high}"
            yield f"{where}: {value} must be {bounds}"
    if isinstance(value, dict) and "keys" in rule:
        yield from check_map(where, value, rule["keys"], line)


def check_map(where: str, config: Config, all_keys: Rule, line: str) -> Iterator[str]:
    """Problems of one map. ``where`` is empty at the top level."""
    keys = in_line(all_keys, line)
    prefix = f"{where}." if where else ""
    for name, value in config.items():
        if name in keys:
            yield from check_value(f"{prefix}{name}", value, keys[name], line)
        else:
            yield f"{prefix}{name}: {_unknown(str(name), where, all_keys, line)}"


def _homes(keys: Rule, line: str, where: str = "") -> Iterator[tuple[str, str]]:
    """Every key of a release line with the place it lives at: ``("dtype", "kv_cache_config.dtype")``."""
    for name, rule in in_line(keys, line).items():
        path = f"{where}.{name}" if where else name
        yield name, path
        if "keys" in rule:
            yield from _homes(rule["keys"], line, path)


def _unknown(name: str, where: str, siblings: Rule, line: str) -> str:
    text = f"unknown key in {line}"
    if name in siblings:
        return f"{text}; it exists only in {', '.join(siblings[name]['only'])}"
    homes = list(_homes(load_keys("worker"), line))
    exact = [path for key, path in homes if key == name and path.rpartition(".")[0] != where]
    if exact:
        return f"{text}; it belongs at {' or '.join(exact)}"
    here = list(in_line(siblings, line))
    close = difflib.get_close_matches(name, here, n=1)
    if close:
        return f"{text}; did you mean {where + '.' if where else ''}{close[0]}?"
    elsewhere = dict(homes)
    close = difflib.get_close_matches(name, list(elsewhere), n=1, cutoff=0.75)
    if close:
        return f"{text}; did you mean {elsewhere[close[0]]}?"
    if where:
        return f"{text}; {where} takes {', '.join(here) or 'no keys'}"
    return f"{text}; it is no key of the YAML file of this version"
