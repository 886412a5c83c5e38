"""The texts of files of known form, one by one: to clean them, and to look at what is left in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from ratematch.exchange.publish.cleaner import EMPTIED, Cleaner

LOG_HEAD, LOG_TAIL = 2048, 4096
"""Bytes of a server's log that are kept: what it runs, and how it ended."""

MOST_LOG = 1 << 20
"""Bytes at each end of a log that are looked at."""


def clean_yaml(text: str, cleaner: Cleaner) -> str:
    """A YAML file without its comments and with pseudonyms; what is no YAML is cleaned as text."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return cleaner.text(text)
    if root is None:
        return ""
    _clean_node(root, "", cleaner, set())
    written: str = yaml.serialize(root, Dumper=yaml.SafeDumper, allow_unicode=True, width=110)
    return written


def _clean_node(node: yaml.Node, key: str, cleaner: Cleaner, seen: set[int]) -> None:
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        cleaned = cleaner.value({key: node.value})
        value = str(next(iter(cleaned.values())))
        if value != node.value:
            node.value, node.style, node.tag = value, '"', "tag:yaml.org,2002:str"
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _clean_node(item, key, cleaner, seen)
    elif isinstance(node, yaml.MappingNode):
        node.value = [(name, value) for name, value in node.value if name.value not in EMPTIED or _has_parts(value)]
        for name, value in node.value:
            word = name.value if isinstance(name, yaml.ScalarNode) else ""
            if key in ("environment", "env") and isinstance(value, yaml.ScalarNode):
                shown = cleaner.setting(word, value.value)
                if shown != value.value:
                    value.value, value.style, value.tag = shown, '"', "tag:yaml.org,2002:str"
                seen.add(id(value))
            _clean_node(value, word, cleaner, seen)
            _clean_node(name, "", cleaner, seen)


def _has_parts(node: yaml.Node) -> bool:
    """Is it an object, or a list of some, which stays whatever it is called?"""
    items = node.value if isinstance(node, yaml.SequenceNode) else [node]
    return any(isinstance(item, yaml.MappingNode) for item in items)


def read_log(file: Path) -> str:
    """Both ends of a log, as text."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= 2 * MOST_LOG:
            return stream.read().decode("utf-8", "replace")
        head = stream.read(MOST_LOG).rsplit(b"\n", 1)[0]
        stream.seek(size - MOST_LOG)
        tail = stream.read().split(b"\n", 1)[-1]
    return f"{head.decode('utf-8', 'replace')}\n{tail.decode('utf-8', 'replace')}"


def cut_log(text: str, size: int) -> str:
    """The first and the last lines of a cleaned log of ``size`` bytes, with what is left out between them."""
    if len(text) <= LOG_HEAD + LOG_TAIL + 200:
        return text
    head = text[:LOG_HEAD].rsplit("\n", 1)[0]
    tail = text[-LOG_TAIL:].split("\n", 1)[-1]
    left = max(0, size - len(head) - len(tail))
    return f"{head}\n[... some {left:,} bytes are left out in this published copy ...]\n{tail}"


def strings_of(file: Path) -> Iterator[tuple[str, str]]:
    """Every text in a file that was written, decoded, with the key that it stands at (empty: none).

    Raises:
        ValueError: a file of a kind that none is written of.
    """
    match file.suffix:
        case ".json":
            yield from _json_strings(json.loads(file.read_text("utf-8")), "")
        case ".yaml":
            yield from _yaml_strings(yaml.compose(file.read_text("utf-8"), Loader=yaml.SafeLoader), "")
            yield "", file.read_text("utf-8")
        case ".parquet":
            yield from _table_strings(pq.read_table(file))
        case ".log" | ".sh" | ".md" | "":
            yield "", file.read_text("utf-8")
        case other:
            raise ValueError(f"{file.name}: no such file is published ({other})")


def _json_strings(content: Any, key: str) -> Iterator[tuple[str, str]]:
    match content:
        case dict():
            for name, below in content.items():
                yield "", name
                yield from _json_strings(below, f"{key}.{name}")
        case list():
            for below in content:
                yield from _json_strings(below, key)
        case str():
            yield key, content


def _yaml_strings(node: yaml.Node | None, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, yaml.ScalarNode):
        yield key, node.value
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _yaml_strings(item, key)
    elif isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield from _yaml_strings(name, "")
            yield from _yaml_strings(value, f"{key}.{name.value}")


def _table_strings(table: pa.Table) -> Iterator[tuple[str, str]]:
    for name, value in (table.schema.metadata or {}).items():
        yield "", name.decode("utf-8", "replace")
        yield "", value.decode("utf-8", "replace")
    for column in table.column_names:
        yield "", column
        if pa.types.is_string(table[column].type) or pa.types.is_large_string(table[column].type):
            for value in table[column].unique().to_pylist():
                if value is not None:
                    yield f".{column}", value
