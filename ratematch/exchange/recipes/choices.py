"""Model, cluster profile and engine version of imported recipes: from the files, unless an option decides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ratematch.engines.trtllm_serve.contract import RELEASE_LINES, release_line
from ratematch.errors import CatalogError, ClusterError, Problem, RecipeError
from ratematch.exchange.recipes.recipe import Recipe
from ratematch.inputs.catalog import load_gpu, load_model, model_names
from ratematch.inputs.find import CLUSTERS, cluster_folders, read_cluster

DEFAULT_VERSION = "1.2"

# What may stand in the name of a checkpoint beside the name of its model.
_SIDE_WORDS = re.compile(r"(nv|mx)?fp[48]|bf16|v\d+|\d{4}|nvidia|instruct|hf|ai|deepseek")


@dataclass(frozen=True)
class Choices:
    """What options decide instead of the file; ``None`` leaves it to the file.

    ``cluster``: profile name or path. ``workload``: ISL and OSL, and ``concurrency``, for recipes that name no load.
    """

    model: str | None = None
    cluster: str | None = None
    version: str | None = None
    workload: tuple[int, int] | None = None
    concurrency: tuple[int, ...] = ()


def parse_workload(text: str) -> tuple[int, int]:
    """``8192/1024`` as ISL and OSL.

    Raises:
        RecipeError: not such a pair.
    """
    isl, slash, osl = text.partition("/")
    if not (slash and isl.strip().isdigit() and osl.strip().isdigit() and int(isl) >= 1 and int(osl) >= 2):
        raise RecipeError([Problem("--workload", f"{text!r} is no workload", "write ISL/OSL, e.g. 8192/1024")])
    return int(isl), int(osl)


def parse_numbers(text: str) -> tuple[int, ...]:
    """``1,4,16`` as numbers; empty text as none.

    Raises:
        RecipeError: something else stands between the commas.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdigit() and int(part) >= 1 for part in parts):
        raise RecipeError([Problem("--concurrency", f"{text!r} is no list of numbers", "write 1,4,16")])
    return tuple(int(part) for part in parts)


def choose_model(recipes: Sequence[Recipe], given: str | None, notes: list[str]) -> tuple[str, str | None, str]:
    """Name, path of the weights (``None``: the cluster profile knows) and comment."""
    paths = list(dict.fromkeys(recipe.model for recipe in recipes))
    if len(paths) > 1 and given is None:
        shown = ", ".join(str(path) for path in paths)
        raise RecipeError(
            [Problem(recipes[0].source, f"the recipes serve different models: {shown}", "give --model")]
        )
    path = paths[0]
    origin = recipes[0].origins["model"]
    if path is not None and path.startswith("hf:"):
        path = path.removeprefix("hf:")
    weights = path if path is not None and "/" in path and len(paths) == 1 else None
    if path is not None and weights is None:
        notes.append(f"model path {path!r} is an alias of another tool: set model_paths in the cluster profile")
    if given is not None:
        return load_model(given).name, weights, f"--model; {_short(recipes[0], origin)}"
    name = find_model_name(path or "")
    if name is None:
        what = f"{path!r} is no model that ratematch knows" if path else "names no model"
        raise RecipeError([Problem(origin, what, f"give --model, one of {', '.join(model_names())}")])
    return name, weights, f"{path}, {_short(recipes[0], origin)}"


def find_model_name(path: str) -> str | None:
    """The known model behind a path of weights: its last part is a name or alias, or one with a precision or date."""
    parts = [part for part in path.replace("_", "-").lower().split("/") if part]
    for part in reversed(parts):
        for candidate in (part, part.removeprefix("nvidia-")):
            try:
                return load_model(candidate).name
            except CatalogError:
                continue
        spellings = [(alias, name) for name in model_names() for alias in (name, *load_model(name).aliases)]
        for alias, name in sorted(spellings, key=lambda pair: -len(pair[0])):
            before, hit, after = part.partition(alias)
            words = [word for word in re.split(r"[-.]", f"{before} {after}".replace(" ", "-")) if word]
            if hit and all(_SIDE_WORDS.fullmatch(word) for word in words):
                return name
    return None


def _short(recipe: Recipe, origin: str) -> str:
    return origin.replace(recipe.source, Path(recipe.source).name)


def choose_cluster(recipes: Sequence[Recipe], given: str | None) -> tuple[str, str]:
    """A profile that has the recipes' GPUs, as many on a node."""
    sizes = {recipe.gpus_per_node for recipe in recipes}
    gpus = {recipe.gpu for recipe in recipes}
    first = recipes[0]
    if len(sizes) > 1 or len(gpus) > 1:
        shown = ", ".join(sorted(f"{recipe.gpus_per_node} x {recipe.gpu}" for recipe in recipes))
        raise RecipeError(
            [Problem(first.source, f"the recipes run on different nodes: {shown}", "import them apart")]
        )
    origin = first.origins["cluster"]
    if given is not None:
        cluster = read_cluster(given)
        if cluster.gpus_per_node != first.gpus_per_node:
            what = f"the recipe has {first.gpus_per_node} GPUs a node, cluster {cluster.name} {cluster.gpus_per_node}"
            raise RecipeError([Problem(origin, what, "give --cluster of the same kind of node")])
        return given, f"--cluster; {_short(first, origin)}"
    fix = f"give --cluster, or write a profile into {CLUSTERS}/"
    if first.gpu is None:
        raise RecipeError([Problem(first.source, "names no GPU type", "give --cluster")])
    try:
        wanted = load_gpu(first.gpu).name
    except CatalogError as error:
        raise RecipeError([Problem(origin, str(error), fix)]) from error
    for path in (path for folder in cluster_folders() for path in sorted(folder.glob("*.yaml"))):
        try:
            cluster = read_cluster(str(path))
        except ClusterError:
            continue  # `doctor --cluster` says what is wrong with it
        if not cluster.emulated and (cluster.gpu, cluster.gpus_per_node) == (wanted, first.gpus_per_node):
            return path.stem, _short(first, origin)
    what = f"there is no cluster profile with {first.gpus_per_node} x {wanted} a node"
    raise RecipeError([Problem(origin, what, fix)])


def choose_version(recipes: Sequence[Recipe], given: str | None, notes: list[str]) -> tuple[str, str]:
    """Release line of the engine, as given, as the tag of the container says, or the default."""
    if given is not None:
        try:
            return release_line(given), "--engine-version"
        except ValueError as error:
            raise RecipeError([Problem("--engine-version", str(error))]) from error
    tags = {version for recipe in recipes if (version := version_in_tag(recipe.container or ""))}
    if len(tags) == 1:
        return tags.pop(), f"{recipes[0].container}, {_short(recipes[0], recipes[0].origins['container'])}"
    if tags:
        notes.append(f"the containers are of different versions ({', '.join(sorted(tags))})")
    notes.append(
        f"engine version {DEFAULT_VERSION} is assumed, the container's name does not tell it; "
        f"--engine-version takes {', '.join(RELEASE_LINES)}"
    )
    return DEFAULT_VERSION, "assumed"


def version_in_tag(container: str) -> str | None:
    """The release line in the name of a TensorRT-LLM release image; runtimes of Dynamo carry its version."""
    match = re.search(r"tensorrt[-_]?llm[-_/+#]release[:+_-]v?(\d+\.\d+)", container.lower())
    try:
        return release_line(match[1]) if match else None
    except ValueError:
        return None
