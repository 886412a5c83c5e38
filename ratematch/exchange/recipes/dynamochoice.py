"""Dynamo's release for imported recipes: as they name it, unless an option decides; an assumption is said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ratematch.engines.dynamo.contract import (
    RELEASE_LINES,
    check_flags,
    is_version,
    pinned_backend,
    release_line,
)
from ratematch.engines.trtllm_serve.release import is_version as is_trtllm
from ratematch.engines.trtllm_serve.worker_rules import check_worker_config
from ratematch.errors import Problem, RecipeError
from ratematch.exchange.recipes.dynamostack import DynamoStack, NamedRelease
from ratematch.exchange.recipes.recipe import Recipe


def choose_release(recipes: Sequence[Recipe], given: str | None, notes: list[str]) -> tuple[str, str]:
    """Dynamo's release and a comment: as given, else as the recipes name it, else the oldest line that takes their
    arguments. Recipes that name several releases of a line are of that line."""
    if given is not None:
        return _given(given)
    named = [first for recipe in recipes if (first := _first(recipe, notes)) is not None]
    lines = list(dict.fromkeys(release_line(each.text) for each in named))
    if len(lines) > 1:
        where = recipes[0].source
        raise RecipeError(
            [
                Problem(
                    where,
                    f"the recipes run Dynamo {' and '.join(lines)}",
                    "give --engine-version, or import them apart",
                )
            ]
        )
    if named:
        releases = {each.text for each in named}
        return (named[0].text if len(releases) == 1 else lines[0]), named[0].origin
    line = min(RELEASE_LINES, key=lambda line: sum(_count_faults(recipe, line) for recipe in recipes))
    oldest = "" if line == RELEASE_LINES[0] else ", the oldest that takes the arguments"
    notes.append(
        f"Dynamo {line} is assumed{oldest}: neither the container's name nor an identity tells a release that is "
        f"known; --engine-version takes {RELEASE_LINES[0]} to {RELEASE_LINES[-1]}"
    )
    return line, f"assumed{oldest}"


def _given(text: str) -> tuple[str, str]:
    if is_version(text) and "rc" not in text:  # Dynamo's releases have no candidates; TensorRT-LLM's have
        return text, "--engine-version"
    fix = f"use a release of {RELEASE_LINES[0]} to {RELEASE_LINES[-1]}"
    if is_trtllm(text):
        fix = f"TensorRT-LLM's is --backend-version {text}; without Dynamo: --engine trtllm-serve"
    raise RecipeError([Problem("--engine-version", f"Dynamo {text!r} is not known", fix)])


def _first(recipe: Recipe, notes: list[str]) -> NamedRelease | None:
    """The first release that is of a known line; what is said beside it is a note."""
    stack = recipe.dynamo
    assert stack is not None
    source = Path(recipe.source).name
    short = [NamedRelease(each.text, each.origin.replace(recipe.source, source)) for each in stack.releases]
    notes += [
        f"{each.origin} names Dynamo {each.text}, which is none of {', '.join(RELEASE_LINES)}"
        for each in short
        if not is_version(each.text)
    ]
    known = [each for each in short if is_version(each.text)]
    other = next((each for each in known if release_line(each.text) != release_line(known[0].text)), None)
    if other is not None:
        notes.append(f"{known[0].origin} names {known[0].text} and {other.origin} {other.text}: the former counts")
    return known[0] if known else None


def _count_faults(recipe: Recipe, line: str) -> int:
    """What a release line would refuse: arguments of its programs, and keys for the engine that it comes with."""
    stack = recipe.dynamo or DynamoStack()
    engine = pinned_backend(line, "trtllm")
    faults = len(list(check_flags("frontend", line, stack.frontend_args)))
    faults += len(list(check_flags("trtllm", line, stack.worker_args)))
    if engine is None:
        return faults
    return faults + sum(len(check_worker_config(servers.config, engine)) for servers in recipe.servers)


def pinned_version(release: str) -> tuple[str, str] | None:
    """The TensorRT-LLM that a release of Dynamo comes with, and why."""
    version = pinned_backend(release, "trtllm")
    return None if version is None else (version, f"it comes with Dynamo {release}")
