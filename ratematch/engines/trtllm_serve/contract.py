"""The configuration files of ``trtllm-serve`` as data: keys of each release, and checks of single values.

The keys, types, choices and defaults stand in ``contract-worker.yaml`` and ``contract-orchestrator.yaml``, with the
releases in which each came and went; rules that span several keys are functions in
:mod:`~ratematch.engines.trtllm_serve.worker_rules` and :mod:`~ratematch.engines.trtllm_serve.orchestrator_rules`. The
renderer checks before a launch, the emulator at its start, so both refuse the same files for the same reasons. All
checks are pure; each problem is one line: where, what, and what would be right.

Where it is not known which release brought a change, both the old and the new are taken, and :func:`doubt_map` says
so.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import cache
from typing import Any

from ratematch.engines.ownyaml import read_shipped_yaml
from ratematch.engines.settings import Config
from ratematch.engines.trtllm_serve.release import LINES, Version, held, read_border, read_version

RELEASE_LINES = LINES

Rule = dict[str, Any]
"""A key's rule, or rules by key, as they stand in the YAML files of the contract."""

MEANT = {
    "kv_cache_routing": "enable_kv_cache_aware_routing",
    "kv_cache_routing_load_weight": "kv_cache_routing_load_balance_weight",
    "postproc_tokenizer_dir": "postprocess_tokenizer_dir",
}
"""Names that no release has and people write, with the key that they mean."""


def release_line(version: str) -> str:
    """The release line of a version: ``1.2.1`` -> ``1.2``, ``1.3.0rc17`` -> ``1.3``, ``main`` and later -> ``1.4``.

    Raises:
        ValueError: a version older than 1.2 or not a version.
    """
    return read_version(version).line


@cache
def load_keys(name: str) -> Rule:
    """Every key of the ``worker`` or the ``orchestrator`` file in any release, with its rule."""
    content: Rule = read_shipped_yaml(__package__, f"contract-{name}.yaml")
    return content


@cache
def orchestrator_keys(place: str) -> Rule:
    """Every key at a ``place`` of the orchestrator file: ``top``, ``section`` (of servers). Worker keys may stand in
    both."""
    own = load_keys("orchestrator")
    if place == "section":
        return {**load_keys("worker"), **own["server_section"]["keys"]}
    return {**load_keys("worker"), **{name: own[name] for name in own if name not in ("server_section", "routers")}}


def there(rule: Rule, version: Version) -> bool | None:
    """Does ``version`` have the key? ``None``: not known, or some of its releases only."""
    return held(version, rule.get("since"), rule.get("until"))


_RESOLVED: dict[tuple[int, str], tuple[Rule, Rule]] = {}
"""What :func:`in_version` found, by the identity of the keys, which are kept with it, and the version."""


def in_version(keys: Rule, version: Version) -> Rule:
    """The rules that may hold in a version, differences applied: those that surely hold there.

    ``keys`` as :func:`load_keys` or :func:`orchestrator_keys` gives them, or part of it; neither they nor the answer
    may be changed.
    """
    known = _RESOLVED.get((id(keys), version.text))
    if known is None:
        known = _RESOLVED[id(keys), version.text] = (keys, _resolve(keys, version))
    return known[1]


def _resolve(keys: Rule, version: Version) -> Rule:
    rules: Rule = {}
    for name, rule in keys.items():
        if there(rule, version) is False:
            continue
        merged = dict(rule)
        for change in rule.get("changes", ()):
            if there(change, version):
                merged |= {part: value for part, value in change.items() if part not in ("since", "until")}
        rules[name] = merged
    return rules


def defaults(rule: Rule, version: Version) -> list[Any]:
    """What the engine may assume for a key that is not given: one value where it is known, the older first."""
    found = [rule.get("default")]
    for change in rule.get("changes", ()):
        holds = there(change, version)
        if "default" in change and holds is not False:
            found = [change["default"]] if holds else [*found, change["default"]]
    return found


def worker_keys(version: str) -> Rule:
    """Worker YAML keys of a version: name -> rule (``type``, ``default``, ``choices``, ``keys``, ...).

    Raises:
        ValueError: the version is not known.
    """
    return _deep(load_keys("worker"), read_version(version))


def _deep(keys: Rule, version: Version) -> Rule:
    """Like :func:`in_version`, nested maps included."""
    return {
        name: {**rule, "keys": _deep(rule["keys"], version)} if "keys" in rule else rule
        for name, rule in in_version(keys, version).items()
    }


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


def _choice(value: Any, rule: Rule, part: str = "choices") -> str | None:
    """The choice that a value stands for; ``None`` when it is none of them."""
    choices = rule.get(part, ())
    for choice in () if isinstance(choices, str) else choices:
        same = str(value).upper() == choice.upper() if rule.get("any_case") else value == choice
        if same:
            return str(choice)
    return None


def has_choice(rule: Rule, choice: str, version: Version) -> bool | None:
    """Does ``version`` take this one of the rule's choices? ``None``: not known, or some of its releases only."""
    return there(_bounds(rule, choice), version)


def _bounds(rule: Rule, choice: str) -> Rule:
    """Where one of the rule's choices came and went."""
    return {"since": rule.get("came", {}).get(choice), "until": rule.get("gone", {}).get(choice)}


def doubt_map(where: str, config: Config, all_keys: Rule, version: Version) -> Iterator[str]:
    """Keys and values of which it is not sure that every release of ``version`` takes them. ``where`` is empty at the
    top."""
    for name, rule in in_version(all_keys, version).items():
        if name not in config:
            continue
        value, path = config[name], f"{where}.{name}" if where else name
        if there(rule, version) is None:
            yield f"{path}: {_history(rule, where)}; whether {version.text} has it is not known"
        for each in value if isinstance(value, list) else [value]:
            choice = _choice(each, rule, "items" if isinstance(value, list) else "choices")
            if choice is not None and has_choice(rule, choice, version) is None:
                what = f"{path}: {each!r} {_history(_bounds(rule, choice))}"
                yield f"{what}; whether {version.text} takes it is not known"
        if isinstance(value, dict) and "keys" in rule:
            yield from doubt_map(path, value, rule["keys"], version)


def _history(rule: Rule, where: str = "") -> str:
    """Where a key or value came and went, and what it is called else."""
    prefix = f"{where}." if where else ""
    parts = []
    if rule.get("since"):
        was = f" (before: {prefix}{rule['was']})" if rule.get("was") else ""
        parts.append(f"came {read_border(rule['since'])}{was}")
    if rule.get("until"):
        border = read_border(rule["until"])
        parts.append(f"was renamed {border}: {prefix}{rule['now']}" if rule.get("now") else f"went {border}")
    return " and ".join(parts)


def check_value(where: str, value: Any, rule: Rule, version: Version) -> Iterator[str]:
    """Problems of the value of the key ``where``, one line each."""
    kinds = str(rule["type"]).split("|")
    if value is None:
        assumed = defaults(rule, version)
        if None not in assumed and not rule.get("none"):
            yield f"{where}: null is not valid; the default is {assumed[-1]!r}"
        return
    if not any(_is(value, kind) for kind in kinds):
        yield f"{where}: {value!r} is no {' or '.join(kinds)}"
        return
    yield from _check_choice(where, value, rule, version)
    if isinstance(value, list) and "items" in rule:
        yield from _check_items(where, value, rule, version)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if "above" in rule and value <= rule["above"]:
            yield f"{where}: {value} must be greater than {rule['above']}"
        if ("min" in rule and value < rule["min"]) or ("max" in rule and value > rule["max"]):
            low, high = rule.get("min"), rule.get("max")
            bounds = f"at least {low}" if high is None else f"between {low} and {high}"
            yield f"{where}: {value} must be {bounds}"
    if isinstance(value, dict) and "keys" in rule:
        yield from check_map(where, value, rule["keys"], version)


def _check_choice(where: str, value: Any, rule: Rule, version: Version) -> Iterator[str]:
    choices = rule.get("choices")
    if not choices or not isinstance(value, str):
        return
    choice = _choice(value, rule)
    if choice is not None and has_choice(rule, choice, version) is not False:
        return
    valid = ", ".join(each for each in choices if has_choice(rule, each, version))
    history = f" ({_history(_bounds(rule, choice))})" if choice is not None else ""
    yield f"{where}: {value!r} is not valid in {version.text}{history}; choose from {valid}"


def _check_items(where: str, value: list[Any], rule: Rule, version: Version) -> Iterator[str]:
    """``items``: what each must be, a type or one of a list."""
    items = rule["items"]
    for item in value:
        if isinstance(items, str):
            fits, wanted = _is(item, items), items
        else:
            fits = item in items and has_choice(rule, item, version) is not False
            wanted = ", ".join(each for each in items if has_choice(rule, each, version))
        if not fits:
            yield f"{where}: {item!r} in the list is not valid; each must be of {wanted}"


def check_map(where: str, config: Config, all_keys: Rule, version: Version) -> Iterator[str]:
    """Problems of one map. ``where`` is empty at the top level."""
    keys = in_version(all_keys, version)
    prefix = f"{where}." if where else ""
    for name, value in config.items():
        if name in keys:
            yield from check_value(f"{prefix}{name}", value, keys[name], version)
            if (now := keys[name].get("now")) in config:
                yield f"{prefix}{name}: {now} is the same under its later name; give the one that the release has"
        else:
            yield f"{prefix}{name}: {_unknown(str(name), where, all_keys, version)}"


def _homes(keys: Rule, version: Version, where: str = "") -> Iterator[tuple[str, str]]:
    """Every key of a version with the place it lives at: ``("dtype", "kv_cache_config.dtype")``."""
    for name, rule in in_version(keys, version).items():
        path = f"{where}.{name}" if where else name
        yield name, path
        if "keys" in rule:
            yield from _homes(rule["keys"], version, path)


def _unknown(name: str, where: str, siblings: Rule, version: Version) -> str:
    text, prefix = f"unknown key in {version.text}", f"{where}." if where else ""
    here = list(in_version(siblings, version))
    if name in siblings:
        rule = siblings[name]
        came = held(version, rule.get("since")) is False
        if not came and rule.get("now"):
            return f"{text}; renamed {read_border(rule['until'])}: {prefix}{rule['now']}"
        if came and rule.get("was") in here:
            return f"{text}; it is {prefix}{rule['was']} there, and was renamed {read_border(rule['since'])}"
        return f"{text}; it {_history({'since': rule['since']} if came else {'until': rule['until']})}"
    homes = list(_homes(load_keys("worker"), version))
    exact = [path for key, path in homes if key == name and path.rpartition(".")[0] != where]
    if exact:
        return f"{text}; it belongs at {' or '.join(exact)}"
    meant = MEANT.get(name)
    if meant in siblings and meant not in here:
        since = {key: siblings[meant][key] for key in ("since", "until") if key in siblings[meant]}
        return f"{text}; {prefix}{meant}, which it means, {_history(since)}"
    close = [meant] if meant in here else difflib.get_close_matches(name, here, n=1)
    if close:
        return f"{text}; did you mean {prefix}{close[0]}?"
    elsewhere = dict(homes)
    close = difflib.get_close_matches(name, list(elsewhere), n=1, cutoff=0.75)
    if close:
        return f"{text}; did you mean {elsewhere[close[0]]}?"
    if where:
        return f"{text}; {where} takes {', '.join(here) or 'no keys'}"
    return f"{text}; it is no key of the YAML file of this version"
