"""Rows of a JSON answer that are made while it is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

Row = TypeVar("Row")

TOGETHER = 1000
"""Rows that are written at a time."""


class Streamed(list[dict[str, Any]], Generic[Row]):
    """Rows as JSON objects, made one by one when somebody looks: a large site has hundreds of thousands."""

    def __init__(self, rows: Sequence[Row], to_json: Callable[[Row], dict[str, Any]]):
        super().__init__()
        self._rows, self._to_json = rows, to_json

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self._to_json, self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._to_json(row) for row in self._rows[index]]
        return self._to_json(self._rows[index])


def encode(content: Mapping[str, Any]) -> Iterator[str]:
    """The parts of a JSON object, indented by one; of :class:`Streamed` rows each is one line.

    Raises:
        ValueError: a number is not finite.
    """
    if not any(isinstance(value, Streamed) for value in content.values()):
        yield from json.JSONEncoder(indent=1, allow_nan=False).iterencode(content)
        return
    before = "{"
    for key, value in content.items():
        yield f"{before}\n {json.dumps(key)}: "
        if isinstance(value, Streamed):
            yield from _encode_rows(value)
        else:  # a text in JSON has no line ends of its own
            yield json.dumps(value, indent=1, allow_nan=False).replace("\n", "\n ")
        before = ","
    yield "\n}"


def _encode_rows(rows: Streamed[Any]) -> Iterator[str]:
    encode_row = json.JSONEncoder(allow_nan=False).encode
    waiting: list[str] = []
    before = "["
    for row in rows:
        waiting.append(f"{before}\n  {encode_row(row)}")
        before = ","
        if len(waiting) == TOGETHER:
            yield "".join(waiting)
            waiting.clear()
    yield "".join(waiting)
    yield "[]" if before == "[" else "\n ]"
