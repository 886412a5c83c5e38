"""The command lines of Dynamo's workers, flag for flag, from the contract of the emulated version.

Every flag may be given by an environment variable instead; what is typed wins.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ratematch.emulator.errors import SettingsError

Rule = Mapping[str, Any]
"""What the contract has of one flag: ``type``, ``choices``, ``also``, ``env``, ``many``."""

_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{self.prog}: error: {message}")


def _boolean(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError(text)
    return text.lower() in _TRUE


_TYPES: Mapping[str, Any] = {"int": int, "float": float, "bool": _boolean, "switch": _boolean}


def parse(
    module: str, argv: Sequence[str], rules: Mapping[str, Rule], variables: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """The flags that are given, by name without dashes, and the words that are none of them.

    Raises:
        SettingsError: a value that a flag does not take, in the words of the real command.
    """
    parser = _Parser(prog=module, argument_default=argparse.SUPPRESS, allow_abbrev=False, add_help=False)
    for name, rule in rules.items():
        spellings = [f"--{spelling}" for spelling in (name, *rule.get("also", ()))]
        match rule["type"]:
            case "bool":
                parser.add_argument(*spellings, dest=name, action=argparse.BooleanOptionalAction)
            case "switch":
                parser.add_argument(*spellings, dest=name, action="store_true")
            case kind:
                parser.add_argument(
                    *spellings,
                    dest=name,
                    type=_TYPES.get(kind, str),
                    choices=[str(choice) for choice in rule["choices"]] if "choices" in rule else None,
                    nargs="+" if rule.get("many") else None,
                )
    typed, others = parser.parse_known_args(list(argv))
    return {**_from_environment(rules, variables), **vars(typed)}, others


def _from_environment(rules: Mapping[str, Rule], variables: Mapping[str, str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, rule in rules.items():
        text = variables.get(rule.get("env", ""), "")
        if not text:
            continue
        try:
            value = _TYPES.get(rule["type"], str)(text)
        except ValueError:
            raise SettingsError(f"{rule['env']}={text}: invalid {rule['type']} value") from None
        given[name] = text.split() if rule.get("many") else value
    return given
