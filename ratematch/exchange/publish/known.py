"""Names that a results folder gives in places of known meaning, so that they go wherever else they stand."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ratematch.exchange.publish.patterns import (
    CONTEXTS,
    GENERIC_USERS,
    MACHINES,
    NAMES,
    PSEUDONYM,
    WORDS,
    Kind,
    Pattern,
    is_address,
    is_harmless,
    is_host,
)
from ratematch.plan.secret import MASK

HOST_KEYS = frozenset((
    "host", "hostname", "node", "nodes", "nodename", "node_name", "nodelist",
))  # fmt: skip
USER_KEYS = frozenset((
    "user", "username", "owner", "login",
))  # fmt: skip
ACCOUNT_KEYS = frozenset((
    "account", "partition", "reservation", "qos",
))  # fmt: skip
ENVIRONMENT_KEYS = frozenset((
    "environment", "env",
))  # fmt: skip

HOMES = re.compile(r"(?:^|[^\w.])/?(?:home|Users|users?|u|nethome)/([A-Za-z_][\w.-]*)")
"""The part of a path that is a person's name."""

SHORTEST = 2
"""Characters of a name that is looked for wherever it stands; a shorter one goes from its own place only."""

PRODUCT = frozenset((
    "ctx", "gen", "agg", "e2e", "ifb", "orchestrator", "proxy", "prefill", "decode", "vllm", "trtllm", "tensorrt",
    "llm", "sglang", "nixl", "ucx", "cuda", "nccl", "torch", "python", "ratematch", "emulator", "concurrency",
    "rate", "trace", "load", "loads", "launch", "records", "model", "models", "qwen", "llama", "deepseek", "kimi",
    "glm", "mixtral", "gb200", "gb300", "b200", "b300", "h100", "h200", "a100", "l40s", "real", "emulated",
    "simulated", "local", "slurm", "gpu", "gpus", "host", "hosts", "node", "nodes", "tp", "pp", "dp", "ep", "cp",
    "mtp", "tep", "dep", "isl", "osl", "tpot", "ttft", "kv", "ok", "done", "error", "failed", "main", "test",
    "debug", "batch", "all", "normal", "long", "short",
))  # fmt: skip
"""Words of figures and of every log: a machine or queue that is called one of these goes from its own place only."""


@dataclass
class Known:
    """Names by kind, as they were met. ``ids`` and ``folders``: what became of those of experiments."""

    names: dict[str, Kind] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, kind: Kind) -> None:
        """Keep a name, and a machine's short one with its full one."""
        name = name.strip()
        if PSEUDONYM.fullmatch(name) or name == MASK or len(name) < SHORTEST:
            return
        if name.lower() in PRODUCT | WORDS and kind != "hidden":
            return
        self.names.setdefault(name, kind)
        short = name.split(".")[0]
        if kind == "host" and short != name and is_host(short) and not short.isdigit():
            self.add(short, kind)

    @cached_property
    def pattern(self) -> re.Pattern[str] | None:
        """All of them, the longest first, as words; ``None`` where there are none. Made once: add names before."""
        if not self.names:
            return None
        longest_first = sorted(self.names, key=lambda name: (-len(name), name))
        return re.compile(
            "|".join(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])" for name in longest_first), re.IGNORECASE
        )

    @cached_property
    def lowered(self) -> dict[str, str]:
        """By the name in small letters, as it was met first."""
        lowered: dict[str, str] = {}
        for name in self.names:
            lowered.setdefault(name.lower(), name)
        return lowered


def collect_text(known: Known, text: str) -> None:
    """Names that ``text`` gives in so many words: whose home it is, on which host, as which user."""
    for match in HOMES.finditer(text):
        _add_user(known, match[1])
    for pattern in (*NAMES, *MACHINES, *CONTEXTS):
        if pattern.kind in ("host", "user"):
            _add_matches(known, pattern, text)


def _add_matches(known: Known, pattern: Pattern, text: str) -> None:
    for match in pattern.find(text):
        name = match["x"]
        if pattern.kind == "user":
            _add_user(known, name)
        elif is_host(name) and re.search(r"[\d.-]", name) and "[" not in name and "://" not in name:
            known.add(name, "host")


def _add_user(known: Known, name: str) -> None:
    name = name.rstrip(".")
    if name.lower() not in GENERIC_USERS and not re.fullmatch(r"python[\d.]*|lib|bin|etc|src", name):
        known.add(name, "user")


def collect_value(known: Known, content: Any, key: str = "") -> None:
    """Names in JSON values, by the keys that they stand at, and in their texts."""
    match content:
        case dict():
            for name, below in content.items():
                collect_text(known, str(name))
                if name in ENVIRONMENT_KEYS and isinstance(below, dict):
                    _collect_environment(known, below)
                collect_value(known, below, str(name))
        case list() | tuple():
            for below in content:
                collect_value(known, below, key)
        case str():
            if key in HOST_KEYS and is_host(content) and not is_address(content):
                known.add(content, "host")
            elif key in USER_KEYS:
                _add_user(known, content)
            elif key in ACCOUNT_KEYS:
                known.add(content, "account")
            collect_text(known, content)


def _collect_environment(known: Known, environment: dict[str, Any]) -> None:
    """Values that may be shown nowhere, of a length that cannot be met by chance."""
    for value in environment.values():
        if isinstance(value, str) and len(value) >= 4 and not is_harmless(value) and not value.startswith(("/", "~")):
            known.add(value, "value")
