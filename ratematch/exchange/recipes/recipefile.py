"""One recipe file -> its recipes: which tool's it is, its variants, and the combinations that contradict
themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ratematch.errors import Problem, RecipeError, UserError
from ratematch.exchange.recipes.recipe import Recipe
from ratematch.exchange.recipes.srtslurm import is_srt_recipe, read_srt_recipe
from ratematch.exchange.recipes.trtllm_slurm import is_trtllm_config, read_trtllm_config
from ratematch.exchange.recipes.variants import Variant, expand_variants
from ratematch.inputs.textfile import read_text_file
from ratematch.plan.located import Located, read_located
from ratematch.plan.located import Path as YamlPath


@dataclass(frozen=True)
class LeftOut:
    """A combination of a recipe's ``sweep`` that cannot run. ``name``: of the recipe it would have been."""

    name: str
    combination: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.combination}): {self.reason}"


@dataclass(frozen=True)
class RecipeFile:
    """The recipes of one file, and the combinations of its ``sweep`` that are none."""

    recipes: tuple[Recipe, ...]
    left_out: tuple[LeftOut, ...] = ()


def read_recipe_file(given: str, *, native: bool = False) -> RecipeFile:
    """Every recipe of one file; ``FILE:SELECTOR`` picks variants of an srt-slurm file with overrides.

    A combination of a ``sweep`` that contradicts itself leaves out itself alone, as long as another one does not.
    ``native``: with ``trtllm-serve`` and its orchestrator, also where the recipe has Dynamo.

    Raises:
        RecipeError: with every problem of the file.
    """
    path, selector = _split_selector(given)
    try:
        text = read_text_file(path)
    except UserError as error:
        reason = str(error).rpartition(": ")[2]
        raise RecipeError([Problem(given, reason)]) from error
    located = read_located(text, str(path))
    if located.problems:
        raise RecipeError(located.problems)
    _refuse_other_keys(located, text)
    if is_srt_recipe(located.data):
        read = _read_variants(expand_variants(located, selector), located, native=native)
    elif is_trtllm_config(located.data):
        recipe = read_trtllm_config(located)
        read = RecipeFile(() if recipe is None else (recipe,))
    else:
        what = "is neither an srt-slurm recipe nor a TensorRT-LLM slurm/benchmark config"
        fix = "the one has resources and backend or roles, the other hardware and worker_config"
        raise RecipeError([Problem(f"{path}:1", what, fix)])
    if located.problems:
        raise RecipeError(list(dict.fromkeys(located.problems)))
    return read


def _split_selector(given: str) -> tuple[Path, str]:
    path = Path(given)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):
        is_file = True  # reading it says why it is none
    if not is_file and ":" in given:
        head, _, selector = given.rpartition(":")
        return Path(head), selector
    return path, ""


def _read_variants(variants: list[Variant], whole: Located, *, native: bool) -> RecipeFile:
    """Problems of combinations go to ``whole`` only when no combination is left."""
    recipes: list[Recipe] = []
    left_out: list[LeftOut] = []
    impossible: list[Problem] = []
    for variant in variants:
        recipe = read_srt_recipe(variant.located, native=native)
        problems = list(dict.fromkeys(variant.located.problems))
        if not variant.combination:
            whole.problems.extend(problem for problem in problems if problem not in whole.problems)
        elif problems or recipe is None:
            reason = "; ".join(str(problem) for problem in problems)
            left_out.append(LeftOut(str(variant.located.data.get("name", "recipe")), variant.combination, reason))
            impossible += problems
            continue
        if recipe is not None:
            recipes.append(replace(recipe, combination=variant.combination))
    if not recipes:
        whole.problems.extend(impossible)
    return RecipeFile(tuple(recipes), tuple(left_out))


def _refuse_other_keys(located: Located, text: str) -> None:
    """Keys that are numbers or truth values would come back as text, which the engine may read differently."""
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]  # yaml raises more than its own errors for odd scalars
        raise RecipeError([Problem(f"{located.source}:1", f"cannot be read: {reason}")]) from error
    _find_other_keys(located, data, ())


def _find_other_keys(located: Located, value: Any, path: YamlPath) -> None:
    if isinstance(value, list):
        for index, item in enumerate(value):
            _find_other_keys(located, item, (*path, index))
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                located.add((*path, str(key)), f"the key {key!r} is no text", "keep such a map in a file of its own")
            _find_other_keys(located, item, (*path, str(key)))
