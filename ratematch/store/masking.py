"""Secrets of servers masked in whatever this process and its children write of them.

Servers repeat their environment in logs and answers. The values to mask are in the environment of this process, where
only its owner and its children see them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from ratematch.plan.secret import Masker

VARIABLE = "RATEMATCH_MASKED"
"""JSON list of the values that are masked."""


@contextlib.contextmanager
def masking(values: Iterable[str]) -> Iterator[None]:
    """Inside, ``values`` are masked too."""
    before = os.environ.get(VARIABLE)
    known = json.loads(before) if before else []
    if merged := sorted({*known, *values}):
        os.environ[VARIABLE] = json.dumps(merged)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before


@contextlib.contextmanager
def not_inherited() -> Iterator[None]:
    """Programs started inside do not get the values: a scheduler keeps the environment of those who send jobs."""
    before = os.environ.pop(VARIABLE, None)
    try:
        yield
    finally:
        if before is not None:
            os.environ[VARIABLE] = before


def masker() -> Masker:
    """What masks the secrets of now."""
    return _masker_of(os.environ.get(VARIABLE, ""))


@functools.lru_cache(maxsize=4)
def _masker_of(given: str) -> Masker:
    return Masker(tuple(json.loads(given))) if given else Masker()


def mask(text: str) -> str:
    """``text`` without secrets."""
    return masker().text(text)


def mask_values(content: Any) -> Any:
    """JSON values with the secrets in their texts masked; numbers stay what they are."""
    found = masker()
    return _masked(content, found) if found.values else content


def _masked(content: Any, found: Masker) -> Any:
    match content:
        case str():
            return found.text(content)
        case dict():
            return {found.text(key) if isinstance(key, str) else key: _masked(content[key], found) for key in content}
        case list() | tuple():
            return [_masked(value, found) for value in content]
        case _:
            return content
