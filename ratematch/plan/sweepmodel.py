"""The ``model`` of a sweep: a name, a path, keys written by hand, and the precisions it is to be measured in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ratematch.errors import CatalogError
from ratematch.plan.cluster import Cluster
from ratematch.plan.located import Located
from ratematch.plan.memory import default_precision
from ratematch.plan.model import Gpu, Model
from ratematch.plan.modelfile import SHAPE, model_at
from ratematch.plan.precision import PRECISION_AXIS, axis_precisions, read_precision, usual_or, with_precision
from ratematch.plan.sweepschema import ModelIn, SweepIn
from ratematch.plan.workload import Workload

OWN_KEYS = ("path", "precision", "hf", "config")
"""Keys of ``model`` that say nothing of how it is built."""


@dataclass(frozen=True)
class ByHand:
    """Keys of a model that stand in the sweep itself."""

    keys: Mapping[str, object]


def take_by_hand(located: Located) -> ByHand | None:
    """Takes the keys of a model out of ``model:`` where they are written there; its name stays."""
    given = located.data.get("model")
    if not isinstance(given, dict) or not any(key in given for key in SHAPE):
        return None
    keys = {key: value for key, value in given.items() if key not in OWN_KEYS}
    located.data["model"] = {key: value for key, value in given.items() if key in ("name", *OWN_KEYS)}
    return ByHand(keys)


def find_sweep_model(
    located: Located, given: object, by_hand: ByHand | None, find_model: Callable[[str], Model]
) -> Model | None:
    """The model that ``given``, the value at ``model``, means; ``None``, with problems noted, when there is none."""
    if by_hand is not None:
        return model_at(located, by_hand.keys, ("model",), located.source)
    keys = given if isinstance(given, dict) else {"name": given}
    texts = {key: value for key, value in keys.items() if isinstance(value, str)}
    path = keys.get("path")
    if isinstance(path, dict):
        texts.setdefault("path", next((value for value in path.values() if isinstance(value, str)), ""))
    place = ("model",) if not isinstance(given, dict) else ("model", _named_by(texts))
    try:
        if name := texts.get("name"):
            model = _by_name(name, texts.get("path", ""), find_model)
            return model if isinstance(path, dict) else _in_its_format(model, texts.get("path", ""), find_model)
        if hub := texts.get("hf"):
            return _of_hub(hub, texts.get("config", ""), find_model)
        if texts.get("path"):
            return find_model(texts["path"])
    except CatalogError as error:
        located.add(place, str(error))
        return None
    if isinstance(given, (dict, str)):
        located.add(("model",), "names no model", "give name, path, hf, or its keys")
    return None


def _named_by(texts: Mapping[str, str]) -> str:
    return next((key for key in ("name", "hf", "path") if texts.get(key)), "name")


def _by_name(name: str, path: str, find_model: Callable[[str], Model]) -> Model:
    """A model by its name, or, where that is not known, by the checkpoint that is named beside it."""
    try:
        return find_model(name)
    except CatalogError:
        if not path:
            raise
        return replace(find_model(path), name=name.lower())


def _in_its_format(model: Model, path: str, find_model: Callable[[str], Model]) -> Model:
    """``model`` in the weight format of the checkpoint at ``path``, where that lies here and can be read: engines
    load what it is, whatever deployments of the model normally use. A precision in the name or beside it stands."""
    if not path or model.chosen_precision:
        return model
    try:
        lying = find_model(path)
    except CatalogError:  # of a kind that nothing here knows: its name is all that is needed
        return model
    # What is found by the end of the path alone lies elsewhere, and says nothing of this one.
    return with_precision(model, lying.precision) if lying.file.endswith(".json") else model


def _of_hub(hub: str, config: str, find_model: Callable[[str], Model]) -> Model:
    """A model of the Hugging Face hub: its keys are those of ``config``, a file that somebody fetched."""
    if config:
        return replace(find_model(config), name=hub.rsplit("/", 1)[-1].lower())
    try:
        return find_model(hub)
    except CatalogError as error:
        raise CatalogError(f"{error}; or beside hf: config: PATH of its config.json (nothing is fetched)") from None


# ------------------------------------------------------------------------------------------------ precision


def read_precisions(located: Located, parsed: SweepIn, model: Model, gpu: Gpu) -> tuple[str, ...]:
    """The precisions that the sweep is to be measured in, each as a workload has it: empty for the usual one."""
    given = None if isinstance(parsed.model, str) else parsed.model.precision
    listed = given if isinstance(given, list) else [given] if given else []
    found = [_read(located, ("model", "precision"), text, model, gpu) for text in listed]
    of_stages: list[list[str] | None] = []
    for stage in ("ctx", "gen", "ifb"):
        plan = getattr(parsed, stage)
        if plan is not None and PRECISION_AXIS in plan.axes:
            of_stages.append(axis_precisions(plan.axes[PRECISION_AXIS], model, gpu))
        elif plan is not None:
            of_stages.append(None)
    named = [name for names in of_stages if names for name in names]
    if named and not found and all(names is not None for names in of_stages):
        return tuple(dict.fromkeys(named))
    usual = [usual_or(model, gpu, "")] if not found else [name for name in found if name is not None]
    return tuple(dict.fromkeys([*usual, *named]))


def _read(located: Located, place: tuple[str, ...], text: object, model: Model, gpu: Gpu) -> str | None:
    try:
        return usual_or(model, gpu, read_precision(str(text), gpu))
    except ValueError as error:
        located.add(place, str(error))
        return None


# ------------------------------------------------------------------------------------------------ paths


def model_paths(
    located: Located, parsed: SweepIn, model: Model, gpu: Gpu, cluster: Cluster, names: Sequence[str]
) -> dict[str, str]:
    """Where the weights of each precision lie: the file's path, else the cluster's, else the bare name."""
    given = None if isinstance(parsed.model, str) else parsed.model
    paths: dict[str, str] = {}
    if len(names) > 1 and given is not None and isinstance(given.path, str) and not cluster.emulated:
        shown = ", ".join(name or default_precision(model, gpu) for name in names)
        fix = f"give path: {{{names[-1] or default_precision(model, gpu)}: PATH, ...}}"
        located.add(("model", "path"), f"is one checkpoint, and each of {shown} has its own", fix)
    for name in names:
        path = _own_path(given, name or default_precision(model, gpu))
        path = path or _clusters_path(cluster, model, name, len(names))
        paths[name] = path or _bare(parsed, model) + (f"-{name}" if name and len(names) > 1 else "")
    return paths


def _own_path(given: ModelIn | None, precision: str) -> str:
    if given is None or given.path is None:
        return ""
    if isinstance(given.path, dict):
        return given.path.get(precision, "")
    return given.path


def _clusters_path(cluster: Cluster, model: Model, name: str, count: int) -> str:
    if name and (path := cluster.model_paths.get(f"{model.name}-{name}")):
        return path
    return cluster.model_paths.get(model.name, "") if count == 1 or not name else ""


def _bare(parsed: SweepIn, model: Model) -> str:
    """What an engine is given where no path is known: what stands in the file as a path or the hub's name."""
    if isinstance(parsed.model, str):
        return parsed.model if parsed.model.startswith(("/", "./", "../", "~")) else model.name
    return parsed.model.hf or model.name


def with_precisions(workloads: Sequence[Workload], names: Sequence[str]) -> tuple[Workload, ...]:
    """Each workload of the file under each precision."""
    return tuple(replace(workload, precision=name) if name else workload for name in names for workload in workloads)
