"""The flags of ``vllm serve``, from the contract of the emulated version, and how typed words are read.

Apart from :mod:`ratematch.emulator.vllm.command`, which starts a server: a forecast reads the same words and needs
none.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ratematch.emulator.environment import Environment
from ratematch.engines.vllm.contract import serve_flags

LATEST = "0.32"
SIDE_HOST, SIDE_PORT = "VLLM_NIXL_SIDE_CHANNEL_HOST", "VLLM_NIXL_SIDE_CHANNEL_PORT"
SIDE_DEFAULT = ("localhost", 5600)

_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def whole_number(text: str) -> int | str:
    """A whole number as vLLM reads it: ``2048``, ``32k`` (decimal), ``2K`` (binary), ``auto``."""
    if text == "auto":
        return text
    if text and text[-1] in _UNITS:
        return int(float(text[:-1]) * _UNITS[text[-1]])
    return int(text)


def json_value(text: str) -> Any:
    """JSON; ``ValueError`` when it is none, as argparse wants it."""
    return json.loads(text)


_TYPES: dict[str, Any] = {
    "int": whole_number,
    "float": float,
    "str": str,
    "json": json_value,
    "any": str,
    "list": str,
}


def parser(version: str) -> argparse.ArgumentParser:
    """The parser of ``vllm`` in a version. What was not typed is not in its result."""
    top = argparse.ArgumentParser(prog="vllm", description="vLLM, emulated on a machine without GPUs")
    top.add_argument("-v", "--version", action="version", version=f"{version}.0+emulated")
    serve = top.add_subparsers(dest="subparser", required=True).add_parser(
        "serve", argument_default=argparse.SUPPRESS, allow_abbrev=False, usage="vllm serve [model_tag] [options]"
    )
    serve.add_argument("model_tag", nargs="?", default=None)
    for name, rule in serve_flags(version).items():
        spellings = [
            f"--{name}",
            *(f"--{other}" if len(other) > 4 else f"-{other}" for other in rule.get("also", ())),
        ]
        _add(serve, name, spellings, rule)
    return top


def _add(serve: argparse.ArgumentParser, name: str, spellings: list[str], rule: Mapping[str, Any]) -> None:
    match rule["type"]:
        case "bool":
            serve.add_argument(*spellings, dest=name, action=argparse.BooleanOptionalAction)
        case "switch":
            serve.add_argument(*spellings, dest=name, action="store_true")
        case "list":
            serve.add_argument(*spellings, dest=name, nargs="+")
        case kind:
            choices = rule.get("choices")
            choices = [str(choice) for choice in choices] if choices and kind in ("str", "any") else None
            serve.add_argument(*spellings, dest=name, type=_TYPES[kind], choices=choices)


def dashed(words: Sequence[str]) -> list[str]:
    """Long flags may be written with ``_`` between their words."""
    spelled = []
    for word in words:
        flag, equals, value = word.partition("=")
        spelled.append(f"{flag.replace('_', '-')}{equals}{value}" if word.startswith("--") else word)
    return spelled


def _unchecked(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """The words without flags that this version is taken to know (``!unchecked`` in a sweep file), and their values.
    They change nothing here."""
    flags = {f"--{name.replace('_', '-')}" for name in names}
    flags |= {flag.replace("--", "--no-", 1) for flag in flags}
    kept: list[str] = []
    dropping = False
    for word in words:
        if word.startswith("-"):
            dropping = word.partition("=")[0] in flags
        if not dropping:
            kept.append(word)
    return kept


def read_words(argv: Sequence[str], environment: Environment) -> tuple[str | None, dict[str, Any]]:
    """Model and typed flags of the words after ``vllm``. SystemExit: as the real command's where they are wrong."""
    words = _unchecked(dashed(argv), environment.unchecked)
    given = vars(parser(environment.version).parse_args(words))
    del given["subparser"]
    return given.pop("model_tag"), given
