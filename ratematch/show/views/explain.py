"""Why servers are told what they are told: for people (what servers share once), and as JSON (each in full)."""

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
    return [{"servers": each.label, "settings": [asdict(setting) for setting in each.settings]} for each in explained]


def print_explained(explained: Sequence[Explained], console: Console) -> None:
    """By role: first what all its servers are told alike, then of each kind of server what is its own."""
    for role in dict.fromkeys(each.label.split()[0] for each in explained):
        kinds = [each for each in explained if each.label.split()[0] == role]
        shared = [s for s in kinds[0].settings if all(s in each.settings for each in kinds)]
        if len(kinds) == 1:
            console.print(table(f"told to {kinds[0].label}", COLUMNS, [_row(setting) for setting in shared]))
            continue
        console.print(table(f"told to every {role} server", COLUMNS, [_row(setting) for setting in shared]))
        for each in kinds:
            own = [_row(setting) for setting in each.settings if setting not in shared]
            if own:
                console.print(table(f"told to {each.label}", COLUMNS, own))


def _row(setting: Setting) -> tuple[str, str, str]:
    return setting.key, json.dumps(setting.value), setting.why
