"""Recipe files -> sweep files: format, model, cluster, engine version, and a check that nothing was changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ratematch.engines.trtllm_serve.agreement import expert_slots
from ratematch.engines.trtllm_serve.contract import RELEASE_LINES, worker_keys
from ratematch.errors import Problem, RecipeError, SweepError
from ratematch.exchange.recipes.choices import Choices, ChosenModel, choose_cluster, choose_model, choose_version
from ratematch.exchange.recipes.dynamochoice import choose_release, pinned_version
from ratematch.exchange.recipes.dynamofit import fit_recipe
from ratematch.exchange.recipes.reader import Unsupported
from ratematch.exchange.recipes.recipe import Recipe, unknown_keys, without_keys_of_a_start
from ratematch.exchange.recipes.recipefile import LeftOut, read_recipe_file
from ratematch.exchange.recipes.roundtrip import RoundTrip, check_roundtrip
from ratematch.exchange.recipes.sweeptext import Target, list_left_out, sweep_name, sweep_text, workload_of
from ratematch.inputs.catalog import load_gpu, load_model
from ratematch.inputs.find import read_cluster
from ratematch.plan.precision import usual_or
from ratematch.plan.rules import check_mapping

NATIVE, DYNAMO = "trtllm-serve", "dynamo"


@dataclass(frozen=True)
class Imported:
    """One sweep file. ``path``: where it was written, ``None`` when it was not. ``notes``: what a reader should know
    besides ``unsupported``, the parts of the recipes that have no counterpart. ``refused``: what ``ratematch plan``
    refuses of the file, and why. ``left_out``: combinations of a recipe's ``sweep`` that are not in it."""

    name: str
    text: str
    recipes: tuple[Recipe, ...]
    notes: tuple[str, ...]
    path: Path | None = None
    refused: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    @property
    def unsupported(self) -> tuple[Unsupported, ...]:
        return tuple(part for recipe in self.recipes for part in recipe.unsupported)

    def messages(self) -> list[str]:
        """For people: what is not or cannot be run first, then notes, then what has no counterpart, one line each."""
        return [
            *(f"plan refuses: {why}" for why in self.refused),
            *(f"left out: {part}" for part in self.left_out),
            *(f"note: {note}" for note in self.notes),
            *(f"no counterpart: {part}" for part in self.unsupported),
        ]


def import_recipes(files: Sequence[str], choices: Choices, name: str | None = None) -> Imported:
    """One sweep file that holds every recipe of ``files`` as a deployment. ``name``: of the sweep.

    Combinations of a recipe's ``sweep`` that cannot run are left out, as long as another one can; a recipe that
    stands for itself is written out even where ``ratematch plan`` will refuse it, and ``refused`` says so.

    Raises:
        RecipeError: a file cannot be imported, the files do not belong together, or the result would not give them
            back. CatalogError, ClusterError: a name in ``choices`` is not known.
    """
    read = [read_recipe_file(file, native=choices.engine == NATIVE) for file in files]
    left_out = [part for one in read for part in one.left_out]
    recipes = merge_ladders(
        [without_keys_of_a_start(_with_load(recipe, choices)) for one in read for recipe in one.recipes]
    )
    target, notes = _choose_target(recipes, choices)
    recipes = [fit_recipe(recipe, target.version) for recipe in recipes]
    named = sweep_name(name or recipes[0].name)
    recipes, impossible = _drop_impossible(recipes, target)
    left_out += impossible
    target = _with_workloads(target, recipes)
    text, proof = _prove(named, recipes, target)
    refused = [recipe for recipe, why in zip(recipes, proof.refusals, strict=False) if why and recipe.combination]
    if refused and len(refused) < len(recipes):
        reasons = dict(zip((recipe.name for recipe in recipes), proof.refusals, strict=False))
        left_out += [LeftOut(each.name, each.combination, "; ".join(reasons[each.name])) for each in refused]
        recipes = [recipe for recipe in recipes if recipe not in refused]
        target = _with_workloads(target, recipes)
        text, proof = _prove(named, recipes, target)
    notes = [
        *(f"{recipe.name}: {note}" for recipe in recipes for note in recipe.notes),
        *notes,
        *_unknown_keys(recipes, target),
        *_unbalanced(recipes),
        *proof.notes,
    ]
    return Imported(
        named,
        text + list_left_out(str(part) for part in left_out),
        tuple(recipes),
        tuple(dict.fromkeys(notes)),
        refused=tuple(
            f"{recipe.name}: {why}"
            for recipe, reasons in zip(recipes, proof.refusals, strict=False)
            for why in dict.fromkeys(reasons)
        ),
        left_out=tuple(left_out),
    )


def _choose_target(recipes: Sequence[Recipe], choices: Choices) -> tuple[Target, list[str]]:
    """What the sweep file says beside the recipes, and what a reader should know of that."""
    notes: list[str] = []
    chosen = choose_model(recipes, choices.model, notes)
    cluster, cluster_origin = choose_cluster(recipes, choices.cluster, notes)
    version, version_origin, backend = _choose_versions(recipes, choices, notes)
    target = Target(
        model=chosen.name,
        model_path=chosen.path,
        model_origin=chosen.origin,
        cluster=cluster,
        cluster_origin=cluster_origin,
        version=version,
        version_origin=version_origin,
        workloads=(),
        precision=_unusual(chosen, cluster),
        backend_version=backend[0],
        backend_origin=backend[1],
    )
    return target, notes


def _choose_versions(
    recipes: Sequence[Recipe], choices: Choices, notes: list[str]
) -> tuple[str, str, tuple[str, str]]:
    """The engine's version and a comment, and with Dynamo those of TensorRT-LLM behind it."""
    behind = [recipe for recipe in recipes if recipe.dynamo is not None]
    if not behind:
        refused = choices.backend_version and ("--backend-version", "--engine-version says TensorRT-LLM's here")
        if choices.engine == DYNAMO:
            refused = ("--engine dynamo", "leave it out: the recipe says nothing of how Dynamo would be run")
        if refused:
            raise RecipeError([Problem(refused[0], "the servers are trtllm-serve without Dynamo", refused[1])])
        return *choose_version(recipes, choices.version, notes), ("", "")
    if len(behind) < len(recipes):
        what = "some of the recipes have Dynamo in front, and some have not"
        raise RecipeError([Problem(recipes[0].source, what, "import them apart, or all with --engine trtllm-serve")])
    release, origin = choose_release(recipes, choices.version, notes)
    backend = choose_version(
        recipes, choices.backend_version, notes, option="--backend-version", pinned=pinned_version(release)
    )
    return release, origin, backend


def _unusual(chosen: ChosenModel, cluster: str) -> str:
    """The precision of the recipes, empty where the model has it on these GPUs anyway."""
    if not chosen.precision:
        return ""
    model, gpu = load_model(chosen.name), load_gpu(read_cluster(cluster).gpu_source)
    return usual_or(model, gpu, chosen.precision)


def _with_workloads(target: Target, recipes: Sequence[Recipe]) -> Target:
    return replace(target, workloads=tuple(dict.fromkeys(workload_of(recipe) for recipe in recipes)))


def _drop_impossible(recipes: Sequence[Recipe], target: Target) -> tuple[list[Recipe], list[LeftOut]]:
    """The recipes without combinations of a ``sweep`` that the model cannot be split into; all of them where none
    would be left."""
    model, cluster = load_model(target.model), read_cluster(target.cluster)
    nodes = max(cluster.nodes, *(recipe.nodes for recipe in recipes))
    possible: list[Recipe] = []
    left_out: list[LeftOut] = []
    for recipe in recipes:
        reasons = [
            f"{servers.role}: {impossible.reason}"
            for servers in recipe.servers
            for impossible in check_mapping(
                servers.mapping if model.moe else replace(servers.mapping, ep=1),
                model,
                replace(cluster, nodes=nodes),
                partial(expert_slots, servers.config),
            )
        ]
        if reasons and recipe.combination:
            left_out.append(LeftOut(recipe.name, recipe.combination, "; ".join(reasons)))
        else:
            possible.append(recipe)
    return (possible, left_out) if possible else (list(recipes), [])


def _prove(name: str, recipes: Sequence[Recipe], target: Target) -> tuple[str, RoundTrip]:
    """The sweep file, and what it becomes when it is read, expanded and rendered.

    Raises:
        RecipeError: it is no sweep file, or does not give the recipes back.
    """
    text = sweep_text(name, recipes, target)
    where = ", ".join(dict.fromkeys(recipe.source for recipe in recipes))
    try:
        proof = check_roundtrip(
            text, f"{name}.yaml", recipes, find_model=load_model, find_cluster=read_cluster, find_gpu=load_gpu
        )
    except SweepError as error:
        raise RecipeError(
            [Problem(where, f"cannot run: {problem.what}", problem.fix) for problem in error.problems]
        ) from error
    if proof.differences:
        raise RecipeError(
            [Problem(where, f"would not be given back: {difference}") for difference in proof.differences]
        )
    return text, proof


def _unbalanced(recipes: Sequence[Recipe]) -> list[str]:
    return [
        f"{recipe.name}: nothing balances between aggregated servers; only the first gets the load"
        for recipe in recipes
        if recipe.dynamo is None
        and any(servers.role == "agg" and servers.instances > 1 for servers in recipe.servers)
    ]


def import_files(
    files: Sequence[str],
    choices: Choices,
    *,
    output: Path | None = None,
    into: Path | None = None,
    force: bool = False,
) -> list[Imported]:
    """One sweep file per recipe file, or with ``into`` one for all, written to ``output`` (a folder for several).

    Raises:
        RecipeError: as :func:`import_recipes`, with the problems of every file; nothing is written then. Or there is
            no place to write to, or something lies there.
    """
    if into is not None and output is not None:
        raise RecipeError([Problem("--into", "names the one file to write, and -o is given too", "keep one of them")])
    if into is not None:
        placed: list[tuple[Path | None, Imported]] = [(into, import_recipes(files, choices, into.stem))]
    else:
        placed = _import_each(files, choices, output)
    _refuse_overwriting([path for path, _ in placed if path is not None], force)
    for path, imported in placed:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(imported.text, encoding="utf-8")
    return [replace(imported, path=path) for path, imported in placed]


def _import_each(files: Sequence[str], choices: Choices, output: Path | None) -> list[tuple[Path | None, Imported]]:
    """A sweep file for each recipe file, with the path it belongs at."""
    if len(files) > 1 and (output is None or output.suffix in (".yaml", ".yml")):
        what = f"{len(files)} files become {len(files)} sweep files"
        raise RecipeError([Problem("-o", what, "give a folder with -o, or one file with --into")])
    placed: list[tuple[Path | None, Imported]] = []
    problems: list[Problem] = []
    for file in files:
        try:
            imported = import_recipes([file], choices)
        except RecipeError as error:
            problems += error.problems
            continue
        folder = output is not None and (len(files) > 1 or output.is_dir())
        placed.append((output / f"{imported.name}.yaml" if output is not None and folder else output, imported))
    if problems:
        raise RecipeError(problems)
    return placed


def _refuse_overwriting(paths: Sequence[Path], force: bool) -> None:
    existing = [path for path in paths if path.exists() and not force]
    twice = [path for path in dict.fromkeys(paths) if paths.count(path) > 1]
    if existing or twice:
        raise RecipeError(
            [Problem(str(path), "is there already", "--force overwrites it") for path in existing]
            + [Problem(str(path), "would be written twice", "import them apart or --into one file") for path in twice]
        )


def imported_to_json(imported: Imported) -> dict[str, Any]:
    """Plain JSON values. ``sweep`` holds the text when it was not written to a file."""
    return {
        "name": imported.name,
        "path": None if imported.path is None else str(imported.path),
        "sweep": imported.text if imported.path is None else None,
        "deployments": [
            {"recipe": recipe.name, "source": recipe.source, "shape": recipe.shape} for recipe in imported.recipes
        ],
        "notes": list(imported.notes),
        "refused": list(imported.refused),
        "left_out": [
            {"recipe": part.name, "combination": part.combination, "why": part.reason} for part in imported.left_out
        ],
        "left": [{"where": part.where, "value": part.value, "why": part.why} for part in imported.unsupported],
    }


def merge_ladders(recipes: Sequence[Recipe]) -> list[Recipe]:
    """Recipes that differ only in concurrency become one with all of them: they are one deployment, started once."""
    merged: dict[str, Recipe] = {}
    for recipe in recipes:
        key = repr(
            (
                [(s.role, s.instances, s.mapping, s.config, s.environment) for s in recipe.servers],
                (recipe.isl, recipe.osl, recipe.osl_ratio, recipe.requests_per_slot, recipe.warmup_per_slot),
                recipe.orchestrator,
                (recipe.model, recipe.precision, (recipe.gpu or "").lower()),
                recipe.dynamo and replace(recipe.dynamo, origins={}, releases=()),
            )
        )
        same = merged.get(key)
        if same is None:
            merged[key] = recipe
            continue
        both = f"{same.origins['concurrency']}; {recipe.origins['concurrency']}"
        merged[key] = replace(
            same,
            concurrency=tuple(sorted({*same.concurrency, *recipe.concurrency})),
            origins={**same.origins, "concurrency": both},
            unsupported=(*same.unsupported, *recipe.unsupported),
            notes=(*same.notes, f"is the same deployment as {recipe.name}: their concurrencies are one ladder"),
        )
    return list(merged.values())


def _with_load(recipe: Recipe, choices: Choices) -> Recipe:
    """``recipe`` with the load of ``choices`` where the file names none."""
    problems: list[Problem] = []
    changes: dict[str, Any] = {}
    origins = dict(recipe.origins)
    if recipe.isl is None or recipe.osl is None:
        if choices.workload:
            changes["isl"], changes["osl"] = choices.workload
            origins["workload"] = "--workload"
        else:
            problems.append(Problem(recipe.source, f"{recipe.name} names no ISL and OSL", "give --workload ISL/OSL"))
    if not recipe.concurrency:
        if choices.concurrency:
            changes["concurrency"] = choices.concurrency
            origins["concurrency"] = "--concurrency"
        else:
            problems.append(
                Problem(recipe.source, f"{recipe.name} names no concurrency", "give --concurrency 1,4,16")
            )
    if problems:
        raise RecipeError(problems)
    return replace(recipe, origins=origins, **changes)


def _unknown_keys(recipes: Sequence[Recipe], target: Target) -> list[str]:
    """Worker keys that the version is not known to have, where they stand, and the versions that do have them."""
    notes: list[str] = []
    version = target.trtllm
    product, option = (
        ("TensorRT-LLM", "--backend-version") if target.backend_version else ("trtllm-serve", "--engine-version")
    )
    for recipe in recipes:
        for servers in recipe.servers:
            for key in unknown_keys(servers.config, worker_keys(version)):
                others = [
                    line for line in RELEASE_LINES if key not in unknown_keys(servers.config, worker_keys(line))
                ]
                known = f"known in {', '.join(others)}: {option}" if others else "known in no version"
                notes.append(
                    f"{servers.origin}: {key} is not known in {product} {version} ({known}); passed on !unchecked"
                )
    return notes
