"""What commands wrote, as it is compared: without anything that differs from run to run, and fit for a line of text.

- The working directory, the checkout, the interpreter: ``<site>``, ``<checkout>``, ``<python>``.
- Instants and durations of the wall clock in results (:data:`CLOCKS`): ``<clock>``. Of ``progress.json``, which says
  what was going on last, only the keys are kept.
- Parquet files become JSON: columns with their types, number of rows, a digest of each column and of the file.
- Pictures become a digest each. Of ``report.html`` the data and the tables are kept as JSON, and the page without
  them and without its pictures.
"""

from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

CLOCKS = {
    "controller.json": ("began",),
    "outcome.json": ("began", "seconds"),
    "loadrun.json": ("wall_s", "wall_start_ns"),
    "search.json": ("began", "seconds"),
}
"""Keys of the wall clock, by file of a results folder. Everything else there is virtual time."""

PICTURES = (".png", ".svg")
DRAWN = 8
"""Requests of a load whose lengths are shown for its seed."""


def normalise(name: str, content: bytes, names: dict[str, str]) -> list[tuple[str, bytes]]:
    """The file ``name`` as it is compared: one or several files. ``names``: what to write instead of which path."""
    path = Path(name)
    if path.suffix == ".parquet":
        return [(f"{name}.json", describe_parquet(content))]
    for old in sorted(names, key=len, reverse=True):
        content = content.replace(old.encode(), names[old].encode())
    if path.suffix in PICTURES:
        return [(f"pictures/{name}.sha256", hashlib.sha256(content).hexdigest().encode())]
    if path.suffix == ".html":
        return _take_apart(name, content.decode("utf-8"))
    if path.name == "progress.json":
        return [(name, to_json(sorted(json.loads(content))))]
    for key in CLOCKS.get(path.name, ()):
        content = re.sub(rb'("%s": )[0-9.e+]+(?=[,\n}])' % key.encode(), rb'\1"<clock>"', content)
    return [(name, content)]


def to_json(content: Any) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def describe_parquet(content: bytes) -> bytes:
    """Columns with types, and a digest of each column's values."""
    table = pq.read_table(pa.BufferReader(content))
    digests = {
        name: hashlib.sha256(repr(column.to_pylist()).encode()).hexdigest()[:16]
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return to_json(
        {
            "columns": {each.name: str(each.type) for each in table.schema},
            "rows": table.num_rows,
            "values": digests,
            "first": {name: column[:3].to_pylist() for name, column in zip(digests, table.columns, strict=True)},
            "bytes": hashlib.sha256(content).hexdigest()[:16],
        }
    )


def describe_format(path: Path) -> bytes:
    """Keys and types of JSON, columns of parquet; of other files that they are there."""
    match path.suffix:
        case ".json":
            return to_json(_shape(json.loads(path.read_text(encoding="utf-8"))))
        case ".parquet":
            return to_json({each.name: str(each.type) for each in pq.read_schema(path)})
        case _:
            return to_json("a file")


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shape(each) for key, each in value.items()}
    if isinstance(value, list):
        shapes = [_shape(each) for each in value]
        return [each for k, each in enumerate(shapes) if each not in shapes[:k]]
    return type(value).__name__


class _Tables(HTMLParser):
    """Text of every cell of every table, and of scripts that hold JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.data: list[Any] = []
        self._cell = self._script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        elif tag in ("td", "th") and self.tables and self.tables[-1]:
            self.tables[-1][-1].append("")
            self._cell = True
        self._script = tag == "script" and ("type", "application/json") in attrs

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")
        self._script = False

    def handle_data(self, data: str) -> None:
        if self._script:
            self.data.append(json.loads(data))
        elif self._cell:
            self.tables[-1][-1][-1] += data.strip()


def _take_apart(name: str, page: str) -> list[tuple[str, bytes]]:
    parser = _Tables()
    parser.feed(page)
    bare = re.sub(r"data:image/[a-z+]+;base64,[A-Za-z0-9+/=]+", "<picture>", page)
    bare = re.sub(r'(<script type="application/json"[^>]*>)[^<]*', r"\1<data>", bare)
    return [
        (f"{name}.data.json", to_json(parser.data)),
        (f"{name}.tables.json", to_json(parser.tables)),
        (f"pages/{name}", bare.encode()),
    ]


def summarise(top: Path) -> dict[str, bytes]:
    """The ids of every plan, and what each seed of a simulated load drew first: small, and in places of their own."""
    found: dict[str, bytes] = {}
    for path in sorted(top.glob("plan/*.json")):
        experiments = json.loads(path.read_bytes() or b"{}").get("experiments", [])
        found[f"ids/{path.name}"] = to_json([f"{each['label']} {each['id']}" for each in experiments])
    for folder in sorted(path for path in top.glob("simulate/*") if path.is_dir()):
        drawn = {
            str(file.parent.relative_to(folder)): _drawn(pq.read_table(file))
            for file in sorted(folder.glob("*/loads/*/records.parquet"))
        }
        found[f"seeds/{folder.name}.json"] = to_json(drawn)
    return found


def _drawn(records: pa.Table) -> Any:
    column = "osl_requested"
    return records[column][:DRAWN].to_pylist() if column in records.column_names else f"no column {column}"
