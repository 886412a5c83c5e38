"""Engine options among the axes of a stage: ``options.kv_cache_config.dtype: [fp8, auto]``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

OPTION_PREFIX = "options."


def merge_options(options: dict[str, Any], axes: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with the dotted engine options among the axes laid over them."""
    merged: dict[str, Any] = _copy(options)
    for key, value in axes.items():
        if not key.startswith(OPTION_PREFIX):
            continue
        *parents, last = key.removeprefix(OPTION_PREFIX).split(".")
        place = merged
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return merged


def name_options(axes: Mapping[str, Sequence[Any]], chosen: Mapping[str, Any]) -> str:
    """The options that differ between the servers of a stage, for labels: ``block_size=128``."""
    told = [
        f"{key.rpartition('.')[2]}={value}"
        for key, value in chosen.items()
        if key.startswith(OPTION_PREFIX) and len(axes[key]) > 1
    ]
    return "+".join(re.sub(r"[^\w.=-]+", "_", each) for each in told)


def _copy(value: Any) -> Any:
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, dict) else value
