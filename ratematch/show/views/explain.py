"""Settings of servers, each with its reason: for a terminal (shared ones once), and as JSON (in full)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from ratematch.plan.setting import Explained, Setting
from ratematch.show.console import table

COLUMNS = ["key", "value", "why"]


def explained_to_json(explained: Sequence[Explained]) -> list[dict[str, Any]]:
    """One entry a kind of server: ``servers`` names it, ``settings`` hold key, value, why and given."""
    return [
        {"servers": server.label, "settings": [asdict(setting) for setting in server.settings]}
        for server in explained
    ]


def binding_to_json(binding: Explained) -> dict[str, Any]:
    """``of`` names the processes, ``settings`` hold key, value, why and given."""
    return {"of": binding.label, "settings": [asdict(setting) for setting in binding.settings]}


def print_binding(binding: Explained, console: Console) -> None:
    """A table of its own: nothing of it is in a server's files."""
    console.print(table(f"binding of {binding.label}", COLUMNS, [_row(setting) for setting in binding.settings]))


def print_explained(explained: Sequence[Explained], console: Console) -> None:
    """By role: first the settings that all its servers share, then those of each kind of server."""
    for role in dict.fromkeys(kind.label.split()[0] for kind in explained):
        kinds = [kind for kind in explained if kind.label.split()[0] == role]
        shared = [s for s in kinds[0].settings if all(s in kind.settings for kind in kinds)]
        if len(kinds) == 1:
            only = "set for every process" if role == "environment" else f"told to {kinds[0].label}"
            console.print(table(only, COLUMNS, [_row(setting) for setting in shared]))
            continue
        everyone = "set for every process" if role == "environment" else f"told to every {role} server"
        console.print(table(everyone, COLUMNS, [_row(setting) for setting in shared]))
        for kind in kinds:
            own = [_row(setting) for setting in kind.settings if setting not in shared]
            if own:
                console.print(table(f"told to {kind.label}", COLUMNS, own))


def _row(setting: Setting) -> tuple[str, str, str]:
    return setting.key, json.dumps(setting.value), setting.why
