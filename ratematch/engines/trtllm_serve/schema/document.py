"""The JSON that an installed package answered with, as checked values.

It comes out of an image, so nothing of it is believed: its size, depth and number of parts are bounded, references
reach its own definitions only, text with control characters is refused, and its patterns are never run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ratematch.plan.printable import UNPRINTABLE

FORMAT = 1
MOST_CHARACTERS = 8 << 20
MOST_PARTS = 200_000
MOST_DEFINITIONS = 3_000
MOST_DEPTH = 80
MOST_TEXT = 1 << 16
PROSE = ("description", "help", "title")
"""Keys whose text may have line breaks."""

JSON_TYPES = frozenset({"string", "number", "integer", "boolean", "null", "array", "object"})


@dataclass(frozen=True)
class Node:
    """What one value may be. Empty means anything.

    ``types``: JSON's names. ``choices``: the values of an ``enum`` or ``const``, ``None`` = any. ``either``: schemas
    of which one must hold, ``all_of``: of which all must. ``ref``: name of a definition. ``extra``: ``False`` = other
    keys are refused, a node = what their values are, ``None`` = not said: they are ignored.
    """

    types: frozenset[str] = frozenset()
    choices: tuple[Any, ...] | None = None
    bounds: Mapping[str, float] = field(default_factory=dict)
    keys: Mapping[str, Node] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    extra: Node | bool | None = None
    items: Node | None = None
    prefix: tuple[Node, ...] = ()
    either: tuple[Node, ...] = ()
    all_of: tuple[Node, ...] = ()
    ref: str | None = None
    name: str | None = None
    """Of the definition that this is."""
    default: Any = None
    has_default: bool = False
    deprecated: str | None = None
    """Why it should not be used, empty where no reason is given; ``None`` = it may be."""


@dataclass(frozen=True)
class ModelNotes:
    """What a schema does not say of a model. ``keys``: every key that gives a field its value, by the one in the
    schema. ``before``: fields whose value a validator of the package's own sees first. ``reads``: names in the code
    of such validators, which may be keys that are no fields."""

    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    before: frozenset[str] = frozenset()
    reads: frozenset[str] = frozenset()


NO_NOTES = ModelNotes()


@dataclass(frozen=True)
class Document:
    """``worker``: of the worker's file, ``None`` where the package's model of it could not be found;
    ``orchestrator``: of the orchestrator's, if that is known. ``definitions``: what references name.
    ``serve_reads``: keys that the command takes out of the file before the model sees it. ``options``: of each
    command. ``missing``: what could not be found, a line each."""

    version: str | None
    path: str | None
    worker: Node | None
    orchestrator: Node | None
    definitions: Mapping[str, Node]
    notes: Mapping[str, ModelNotes]
    serve_reads: frozenset[str]
    options: Mapping[str, tuple[str, ...]]
    missing: tuple[str, ...]

    spelled: dict[int, Mapping[str, str]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def spellings(self, node: Node) -> Mapping[str, str]:
        """Every key that a map of this schema may have, with the one that stands in the schema. Worked out once."""
        known = self.spelled.get(id(node))
        if known is None:
            notes = self.notes.get(node.name or "", NO_NOTES)
            known = {other: key for key in node.keys for other in notes.keys.get(key, (key,))}
            self.spelled[id(node)] = known
        return known

    @cached_property
    def worker_keys(self) -> frozenset[str]:
        """Every key of the worker's file, in any spelling."""
        return frozenset(self.spellings(self.resolve(self.worker))) if self.worker else frozenset()

    def resolve(self, node: Node) -> Node:
        """``node``, or the definition that it names (which :func:`read_document` has found to be there)."""
        while node.ref is not None:
            node = self.definitions[node.ref]
        return node


def read_document(text: str) -> Document:
    """Raises ValueError, with a reason on one line, where ``text`` is no answer of :mod:`.inside`."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it has {len(text)} characters, at most {MOST_CHARACTERS} are read")
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"it is no JSON ({' '.join(str(error).split())[:120]})") from None
    _refuse_hostile(content)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"it has no format {FORMAT}")
    models = _map(content.get("models"))
    tags = {name: _map(_map(model).get("tags")) for name, model in models.items()}
    definitions: dict[str, Node] = {}
    roots: dict[str, Node | None] = {}
    for root in ("worker", "orchestrator"):
        roots[root] = _read_root(root, content.get(root), definitions, tags)
    for key, block in _map(content.get("blocks")).items():
        roots[key] = _read_root(key, block, definitions, tags)
    for node in [*definitions.values(), *(node for node in roots.values() if node)]:
        _check_references(node, definitions)
    if len(definitions) > MOST_DEFINITIONS:
        raise ValueError(f"it has {len(definitions)} definitions, at most {MOST_DEFINITIONS} are read")
    for name in definitions:
        _refuse_circle(name, definitions)
    commands = _map(content.get("commands"))
    return Document(
        version=_text(content.get("version")),
        path=_text(content.get("path")),
        worker=_with_blocks(roots.pop("worker"), {"disagg_cluster": roots.get("disagg_cluster")}),
        orchestrator=_with_blocks(roots.pop("orchestrator"), roots),
        definitions=definitions,
        notes={name: _read_notes(_map(model)) for name, model in models.items()},
        serve_reads=frozenset(_texts(content.get("serve_reads"))),
        options={name: _texts(_map(command).get("options")) for name, command in commands.items()},
        missing=_texts(content.get("missing")),
    )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _refuse_hostile(content: Any) -> None:
    """Bounds of depth, number and length, and no control characters."""
    waiting: list[tuple[Any, int, bool]] = [(content, 0, False)]
    parts = 0
    while waiting:
        value, depth, prose = waiting.pop()
        parts += 1
        if parts > MOST_PARTS:
            raise ValueError(f"it has more than {MOST_PARTS} parts")
        if depth > MOST_DEPTH:
            raise ValueError(f"it is nested more than {MOST_DEPTH} deep")
        if isinstance(value, str):
            _refuse_text(value, prose)
        elif isinstance(value, list):
            waiting += [(item, depth + 1, prose) for item in value]
        elif isinstance(value, dict):
            for name, below in value.items():
                _refuse_text(name, False)
                waiting.append((below, depth + 1, name in PROSE))


def _refuse_text(text: str, prose: bool) -> None:
    if len(text) > MOST_TEXT:
        raise ValueError(f"a text in it has {len(text)} characters")
    if UNPRINTABLE.search(text.translate({9: None, 10: None, 13: None}) if prose else text):
        raise ValueError(f"a text in it has control characters: {text[:40]!r}")


def _map(value: Any) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{str(value)[:40]!r} stands where a map belongs")
    return value or {}


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{str(value)[:40]!r} stands where text belongs")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if value is not None and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        raise ValueError(f"{str(value)[:40]!r} stands where a list of texts belongs")
    return tuple(value or ())


def _read_notes(model: Mapping[str, Any]) -> ModelNotes:
    keys = {key: _texts(names) for key, names in _map(model.get("keys")).items()}
    return ModelNotes(keys, frozenset(_texts(model.get("before"))), frozenset(_texts(model.get("reads"))))


def _read_root(
    where: str, content: Any, definitions: dict[str, Node], tags: Mapping[str, Mapping[str, Any]]
) -> Node | None:
    """One schema; its definitions go to ``definitions``, where of two of one name the first stays."""
    if content is None:
        return None
    root = _map(content)
    for name, definition in _map(root.get("$defs")).items():
        if name not in definitions:
            definitions[name] = _read_node(definition, name, tags.get(name, {}))
    title = _text(root.get("title")) or where
    node = _read_node({key: value for key, value in root.items() if key != "$defs"}, title)
    if not (node.keys or node.ref or node.either):
        raise ValueError(f"the schema of {where} has no keys")
    return node


def _read_node(content: Any, name: str | None = None, tags: Mapping[str, Any] | None = None) -> Node:
    if content is True or content is None:
        return Node()
    schema = _map(content)
    choices = schema.get("enum")
    if choices is not None and not isinstance(choices, list):
        raise ValueError(f"enum of {name or 'a value'} is no list")
    if "const" in schema:
        choices = [schema["const"]]
    keys = {key: _read_node(below) for key, below in _map(schema.get("properties")).items()}
    for tag, value in (tags or {}).items():
        keys.setdefault(tag, Node(choices=(value,)))
    ref = _text(schema.get("$ref"))
    if ref is not None and not ref.startswith("#/$defs/"):
        raise ValueError(f"the reference {ref[:60]!r} leaves the document")
    extra = schema.get("additionalProperties")
    items = schema.get("items")
    return Node(
        types=_types(schema.get("type")),
        choices=None if choices is None else tuple(choices),
        bounds=_bounds(schema),
        keys=keys,
        required=_texts(schema.get("required")),
        extra=extra if extra is None or isinstance(extra, bool) else _read_node(extra),
        items=None if items is None or isinstance(items, bool) else _read_node(items),
        prefix=_nodes(schema.get("prefixItems")),
        either=_nodes(schema.get("anyOf")) or _nodes(schema.get("oneOf")),
        all_of=_nodes(schema.get("allOf")),
        ref=None if ref is None else ref.removeprefix("#/$defs/").replace("~1", "/").replace("~0", "~"),
        name=name,
        default=schema.get("default"),
        has_default="default" in schema,
        deprecated=_deprecated(schema),
    )


def _nodes(content: Any) -> tuple[Node, ...]:
    if content is None:
        return ()
    if not isinstance(content, list):
        raise ValueError(f"{str(content)[:40]!r} stands where a list of schemas belongs")
    return tuple(_read_node(item) for item in content)


def _types(content: Any) -> frozenset[str]:
    """JSON's types. The package writes Python's names there for its documentation (``Optional[List[int]]``), which
    say nothing that ``anyOf`` and ``enum`` beside them do not."""
    names = [content] if isinstance(content, str) else list(_texts(content))
    return frozenset(names) if names and JSON_TYPES.issuperset(names) else frozenset()


BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
SIZES = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


def _bounds(schema: Mapping[str, Any]) -> dict[str, float]:
    bounds: dict[str, float] = {}
    for name in (*BOUNDS, *SIZES):
        value = schema.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or (name == "multipleOf" and value <= 0):
            raise ValueError(f"{name} is {str(value)[:40]!r}")
        bounds[name] = value
    return bounds


def _deprecated(schema: Mapping[str, Any]) -> str | None:
    prose = " ".join(str(schema.get("description") or "").split())
    if schema.get("deprecated") is True or schema.get("status") == "deprecated":
        return prose[:160]
    return prose[:160] if prose.lower().startswith("deprecated") else None


def _below(node: Node) -> Sequence[Node]:
    further = [part for part in (node.items, node.extra) if isinstance(part, Node)]
    return [*node.keys.values(), *node.prefix, *node.either, *node.all_of, *further]


def _check_references(node: Node, definitions: Mapping[str, Node]) -> None:
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node.ref is not None and node.ref not in definitions:
            raise ValueError(f"the reference to {node.ref[:60]!r} leads nowhere")
        waiting += _below(node)


def _refuse_circle(name: str, definitions: Mapping[str, Node]) -> None:
    """A definition that leads back to itself without a key or an item between would never be resolved."""
    waiting, seen = [name], set[str]()
    while waiting:
        place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        parts = [definitions[place]]
        while parts:
            node = parts.pop()
            if node.ref == name:
                raise ValueError(f"the definition {name[:60]!r} is itself")
            if node.ref is not None:
                waiting.append(node.ref)
            parts += [*node.either, *node.all_of]


def _with_blocks(root: Node | None, blocks: Mapping[str, Node | None]) -> Node | None:
    """``root`` with its keys of these names described."""
    if root is None or root.ref is not None:
        return root
    known = {key: Node(either=(node, Node(types=frozenset({"null"})))) for key, node in blocks.items() if node}
    own = {key: node for key, node in root.keys.items() if key not in known or node.keys or node.ref}
    return replace(root, keys={**known, **own})
