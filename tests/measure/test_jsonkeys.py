"""Keys that a stored object lacks: the same whether it is compared with values or with what they are written as."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from ratematch.measure.jsonkeys import absent_keys, without
from ratematch.plan.plain import parts_of, plain


@dataclass(frozen=True)
class Inner:
    a: int = 1
    b: tuple[int, ...] = (1, 2)
    c: dict[str, Any] = field(default_factory=lambda: {"x": 1, "y": None})


@dataclass(frozen=True)
class Outer:
    one: Inner = Inner()
    two: Inner | None = None
    named: dict[str, Inner] = field(default_factory=lambda: {"gen.0": Inner(), "": Inner()})
    text: str = ""


def _cut(content: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """``content`` without some of its keys, at any depth; some objects are something else."""
    kept = {key: value for key, value in content.items() if rng.random() < 0.8}
    for key, value in kept.items():
        if isinstance(value, dict):
            kept[key] = rng.choice([_cut(value, rng), _cut(value, rng), {}, None, 5])
    return kept


def test_a_dataclass_stands_for_the_object_that_it_is_written_as() -> None:
    rng = random.Random(5)
    complete = Outer(two=Inner())
    parts = parts_of(complete)
    assert parts is not None
    for _ in range(300):
        stored = _cut(plain(complete), rng)
        assert absent_keys(stored, parts) == absent_keys(stored, plain(complete))


def test_what_is_absent_at_any_depth_is_what_leaves_the_stored_object() -> None:
    complete = plain(Outer())
    stored = {"one": {"a": 1, "c": {}}, "named": {"gen.0": {}}, "two": None}
    assert without(complete, absent_keys(stored, complete)) == {
        "one": {"a": 1, "c": {}},
        "named": {"gen.0": {}},
        "two": None,
    }


def test_equal_sets_of_absent_keys_are_one_object() -> None:
    assert absent_keys({}, {"a": 1}) is absent_keys({}, {"a": 2})
