"""Model, cluster profile and engine version of imported recipes: from the files, unless an option decides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ratematch.engines.trtllm_serve.contract import RELEASE_LINES, release_line
from ratematch.engines.trtllm_serve.release import named_version
from ratematch.engines.trtllm_serve.worker_rules import check_worker_config
from ratematch.errors import CatalogError, ClusterError, Problem, RecipeError
from ratematch.exchange.recipes.reader import is_count
from ratematch.exchange.recipes.recipe import Recipe, version_in_image
from ratematch.inputs.catalog import find_model, known_models, load_gpu, load_model
from ratematch.inputs.find import CLUSTERS, cluster_folders, read_cluster
from ratematch.plan.cluster import Cluster
from ratematch.plan.model import Model
from ratematch.plan.precision import read_precision, split_precision

DEFAULT_VERSION = "1.2"

# What may stand in the name of a checkpoint beside the name of its model.
_SIDE_WORDS = re.compile(
    r"(nv|mx)?fp[48]|[bf]+p?16|int[48]|w4a16|awq|gptq|v\d+|\d{4}|nvidia|instruct|thinking|base|chat|it|hf|ai|deepseek|block"
)


@dataclass(frozen=True)
class Choices:
    """What options decide instead of the file; ``None`` leaves it to the file.

    ``cluster``: profile name or path. ``version``: of the engine; ``backend_version``: of TensorRT-LLM, where Dynamo
    is the engine. ``engine``: ``trtllm-serve`` leaves Dynamo away. ``workload``: ISL and OSL, and ``concurrency``,
    for recipes that name no load.
    """

    model: str | None = None
    cluster: str | None = None
    version: str | None = None
    backend_version: str | None = None
    engine: str | None = None
    workload: tuple[int, int] | None = None
    concurrency: tuple[int, ...] = ()


def parse_workload(text: str, least_osl: int = 2) -> tuple[int, int]:
    """``8192/1024`` as ISL and OSL. ``least_osl``: 1 where context servers alone may have been measured.

    Raises:
        RecipeError: not such a pair.
    """
    isl, slash, osl = text.partition("/")
    if not (slash and is_count(isl.strip()) and is_count(osl.strip()) and int(isl) >= 1 and int(osl) >= least_osl):
        raise RecipeError([Problem("--workload", f"{text!r} is no workload", "write ISL/OSL, e.g. 8192/1024")])
    return int(isl), int(osl)


def parse_numbers(text: str) -> tuple[int, ...]:
    """``1,4,16`` as numbers; empty text as none.

    Raises:
        RecipeError: something else stands between the commas.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(is_count(part) and int(part) >= 1 for part in parts):
        raise RecipeError([Problem("--concurrency", f"{text!r} is no list of numbers", "write 1,4,16")])
    return tuple(int(part) for part in parts)


@dataclass(frozen=True)
class ChosenModel:
    """``name``: ours. ``path``: of the weights, ``None``: the cluster profile knows. ``precision``: that the recipes
    name, by their checkpoint or beside it; empty where they name none. ``origin``: a comment."""

    name: str
    path: str | None
    precision: str
    origin: str


def choose_model(recipes: Sequence[Recipe], given: str | None, notes: list[str]) -> ChosenModel:
    """The one model of all recipes."""
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
    repository = recipes[0].repository or ""
    if given is not None:
        model: Model | None = load_model(given)
        why = f"--model; {_short(recipes[0], origin)}"
        named = split_precision(given)[1]
    else:
        known = known_models()
        model, named = _find(path or "", known)
        why = f"{path}, {_short(recipes[0], origin)}"
        if model is None and path:
            model, named = _find(repository, known)
            why = f"{path} is {repository}, by identity.model.repo; {_short(recipes[0], origin)}"
    if model is None:
        what = f"{path!r} is no model that ratematch knows" if path else "names no model"
        fix = f"give --model, one of {', '.join(sorted(known_models()))}, or the path of its config.json"
        raise RecipeError([Problem(origin, what, fix)])
    precision = _choose_precision(recipes, model, named or split_precision(repository)[1], notes)
    return ChosenModel(given if given and model.file else model.name, weights, precision, why)


def _choose_precision(recipes: Sequence[Recipe], model: Model, named: str, notes: list[str]) -> str:
    """The precision by the name of the checkpoint, else as the recipes say it beside."""
    said = list(dict.fromkeys(recipe.precision for recipe in recipes if recipe.precision))
    if len(said) > 1:
        shown = ", ".join(said)
        raise RecipeError(
            [Problem(recipes[0].source, f"the recipes serve different precisions: {shown}", "import them apart")]
        )
    if not said:
        return named
    try:
        beside = read_precision(said[0])
    except ValueError as error:
        notes.append(f"model.precision: {error}; what the checkpoint is named after counts")
        return named
    if said[0].lower() == "fp4" and (named or model.precision) in FP4:
        beside = named or model.precision  # which FP4 it is, the checkpoint says
    if named and named != beside:
        notes.append(
            f"the recipe says precision {said[0]}, and its checkpoint is named after {named}: the latter counts"
        )
        return named
    return beside


FP4 = ("nvfp4", "mxfp4", "int4", "int4-g32")
"""Formats of 4 bits, which recipes call fp4 alike."""


def find_model_name(path: str) -> str | None:
    """The known model behind a path of weights: its last part is a name or alias, or one with a precision or date."""
    model = _find(path, known_models())[0]
    return None if model is None else model.name


def _find(path: str, known: dict[str, Model]) -> tuple[Model | None, str]:
    """The known model behind a path, and the precision in the part of the path that names it."""
    parts = [part for part in path.replace("_", "-").lower().split("/") if part]
    aliases = [(alias, model) for model in known.values() for alias in (model.name, *model.aliases)]
    aliases.sort(key=lambda pair: -len(pair[0]))
    for part in reversed(parts):
        precision = split_precision(part)[1]
        for candidate in (part, part.removeprefix("nvidia-")):
            if (model := find_model(candidate, known)) is not None:
                return model, precision
        for alias, model in aliases:
            before, hit, after = part.partition(alias.replace("_", "-"))
            words = [word for word in re.split(r"[-.]", f"{before} {after}".replace(" ", "-")) if word]
            if hit and all(_SIDE_WORDS.fullmatch(word) for word in words):
                return model, precision or next((split_precision(f"-{word}")[1] for word in words), "")
    return None, ""


def _short(recipe: Recipe, origin: str) -> str:
    return origin.replace(recipe.source, Path(recipe.source).name)


def choose_cluster(recipes: Sequence[Recipe], given: str | None, notes: list[str]) -> tuple[str, str]:
    """A profile that has the recipes' GPUs: as many on a node, or more, where every server has a part of one.

    Returns what a sweep file names it by, and a comment.
    """
    first = recipes[0]
    kinds = {_gpu_name(recipe) for recipe in recipes}
    if len(kinds) > 1:
        shown = ", ".join(sorted(f"{recipe.gpus_per_node} x {recipe.gpu}" for recipe in recipes))
        raise RecipeError(
            [Problem(first.source, f"the recipes run on different nodes: {shown}", "import them apart")]
        )
    origin, wanted = first.origins["cluster"], kinds.pop()
    if given is not None:
        cluster = read_cluster(given)
        for recipe in recipes:
            if why := _why_other_node(recipe, cluster):
                raise RecipeError(
                    [Problem(recipe.origins["cluster"], why, "give --cluster of the same kind of node")]
                )
        if wanted is not None and wanted != cluster.gpu:
            notes.append(f"{first.name}: the recipe is for {wanted}, and cluster {cluster.name} has {cluster.gpu}")
        notes += _part_of_a_node(recipes, cluster)
        return given, f"--cluster; {_short(first, origin)}"
    if wanted is None:
        raise RecipeError([Problem(first.source, "names no GPU type", "give --cluster")])
    reference = _find_profile(recipes, wanted)
    if reference is None:
        size = max(recipe.gpus_per_node for recipe in recipes)
        what = f"there is no cluster profile with {size} x {wanted} a node"
        raise RecipeError([Problem(origin, what, f"give --cluster, or write a profile into {CLUSTERS}/")])
    notes += _part_of_a_node(recipes, read_cluster(reference))
    return reference, _short(first, origin)


def _gpu_name(recipe: Recipe) -> str | None:
    """The GPU type's own name; ``None`` when the recipe names none."""
    if recipe.gpu is None:
        return None
    try:
        return load_gpu(recipe.gpu).name
    except CatalogError as error:
        raise RecipeError([Problem(recipe.origins["cluster"], str(error), "or give --cluster")]) from error


def _find_profile(recipes: Sequence[Recipe], gpu: str) -> str | None:
    """The first profile of real nodes with such GPUs, before others one with as many on a node."""
    larger: str | None = None
    size = max(recipe.gpus_per_node for recipe in recipes)
    seen: set[str] = set()
    for path in (path for folder in cluster_folders() for path in sorted(folder.glob("*.yaml"))):
        if path.stem in seen:
            continue  # a name stands for the first file of that name
        seen.add(path.stem)
        try:
            cluster = read_cluster(str(path))
        except ClusterError:
            continue  # `doctor --cluster` says what is wrong with it
        if cluster.emulated or cluster.gpu != gpu or any(_why_other_node(recipe, cluster) for recipe in recipes):
            continue
        if cluster.gpus_per_node == size:
            return path.stem
        larger = larger or path.stem
    return larger


def _why_other_node(recipe: Recipe, cluster: Cluster) -> str:
    """Why the cluster's nodes are not those of the recipe; empty when they are, or hold each of its servers in the
    same way: a recipe that books one GPU of a node has no other kind of node."""
    here, there = recipe.gpus_per_node, cluster.gpus_per_node
    if here == there:
        return ""
    what = f"the recipe has {here} GPUs a node, cluster {cluster.name} {there}"
    if here > there:
        return what
    spread = max(recipe.servers, key=lambda servers: servers.mapping.gpus)
    if spread.mapping.gpus > here:
        return f"{what}, and its {spread.role} servers of {spread.mapping.gpus} GPUs span nodes there"
    return ""


def _part_of_a_node(recipes: Sequence[Recipe], cluster: Cluster) -> list[str]:
    return [
        f"{recipe.name}: takes {recipe.gpus_per_node} GPUs of a node, cluster {cluster.name} has "
        f"{cluster.gpus_per_node}: servers share nodes as they fit"
        for recipe in recipes
        if recipe.gpus_per_node != cluster.gpus_per_node
    ]


@dataclass(frozen=True)
class _NamedVersion:
    """A version that a recipe names, its release and line (``None``: not one that is known) and where it stands."""

    text: str
    release: str | None
    where: str

    @property
    def line(self) -> str | None:
        return None if self.release is None else release_line(self.release)


def choose_version(
    recipes: Sequence[Recipe],
    given: str | None,
    notes: list[str],
    *,
    option: str = "--engine-version",
    pinned: tuple[str, str] | None = None,
) -> tuple[str, str]:
    """TensorRT-LLM's version and a comment: as given, else as the recipes name their engine, else as the tags of
    their images say, else the default. Recipes that name several releases of a line are of that line.

    ``option``: what gives it. ``pinned``: the version that comes with the release of Dynamo, and why, which is the
    default unless another one takes more of the worker configurations."""
    if given is not None:
        try:
            return named_version(given), option
        except ValueError as error:
            raise RecipeError([Problem(option, str(error))]) from error
    identities = [_named(recipe, recipe.version, "version") for recipe in recipes if recipe.version]
    tags = [
        _named(recipe, version, "container", image)
        for recipe in recipes
        for image in recipe.images[:2]
        if (version := version_in_image(image))
    ]
    for kind, versions in (("recipes name", identities), ("images are of", tags)):
        notes += [
            f"{each.where} names TensorRT-LLM {each.text}, which is none of {', '.join(RELEASE_LINES)}"
            for each in versions
            if each.line is None
        ]
        known = {each.line: each for each in versions if each.line is not None}
        if len(known) > 1:
            notes.append(f"the {kind} different versions ({', '.join(sorted(str(line) for line in known))})")
            break
        for line, named in known.items():
            other = next((tag for tag in tags if tag.line not in (None, line)), None)
            if other is not None:
                notes.append(f"{named.where} names {named.text} and {other.where} {other.text}: the former counts")
            releases = {each.release for each in versions if each.release is not None}
            return str(named.release if len(releases) == 1 else line), named.where
    line = min(RELEASE_LINES, key=lambda line: _count_faults(recipes, line))
    if pinned and _count_faults(recipes, pinned[0]) <= _count_faults(recipes, line):
        notes.append(f"TensorRT-LLM {pinned[0]} is assumed: {pinned[1]}; {option} says another one")
        return pinned[0], f"assumed: {pinned[1]}"
    oldest = "" if line == DEFAULT_VERSION else ", the oldest that takes the worker configurations"
    what = "TensorRT-LLM" if pinned else "engine version"
    notes.append(
        f"{what} {line} is assumed{oldest}: the container's name does not tell it, and no identity does; "
        f"{option} takes {', '.join(RELEASE_LINES)}"
    )
    return line, f"assumed{oldest}"


def _count_faults(recipes: Sequence[Recipe], line: str) -> int:
    """What a release line would refuse of the recipes' worker configurations, unknown keys included."""
    return sum(len(check_worker_config(servers.config, line)) for recipe in recipes for servers in recipe.servers)


def _named(recipe: Recipe, text: str, origin: str, image: str = "") -> _NamedVersion:
    number = re.search(r"\d+\.\d+\S*|^main$", text.strip())
    try:
        release = named_version(number[0].removesuffix(".whl")) if number else None
    except ValueError:
        release = None
    stands = _short(recipe, recipe.origins[origin])
    return _NamedVersion(text, release, f"{image}, {stands}" if image else f"{text}, {stands}")


def version_in_tag(container: str) -> str | None:
    """The release line in the name of a TensorRT-LLM image, ``None`` where none that is known stands in it."""
    version = version_in_image(container)
    try:
        return release_line(version) if version else None
    except ValueError:
        return None
