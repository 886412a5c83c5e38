"""One deployment under one workload: the unit that becomes a job and a results folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from ratematch.plan.deployment import Deployment, ServerGroup, Stage
from ratematch.plan.load import Concurrency, Load, Rate
from ratematch.plan.mapping import Mapping
from ratematch.plan.workload import Workload


@dataclass(frozen=True)
class EngineRef:
    """Which serving stack and which of its versions; the renderer never guesses either."""

    name: str = "trtllm-serve"
    version: str = "1.2"


@dataclass(frozen=True)
class Experiment:
    """What one job does: start ``deployment``, run every load of ``loads`` against it, stop it.

    ``id`` is a hash of all that decides a figure, so neither of the loads (a longer ladder adds loads to the same
    experiment, and nothing that was measured is measured again) nor of where the weights lie.
    """

    stage: Stage
    model: str
    model_path: str
    engine: EngineRef
    gpu: str
    cluster: str
    emulated: bool
    deployment: Deployment
    workload: Workload
    loads: tuple[Load, ...]

    @property
    def id(self) -> str:
        content = asdict(self)
        del content["loads"], content["model_path"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]

    @property
    def label(self) -> str:
        workload = self.workload.label.replace("/", "-")
        return f"{self.stage}-{workload}-{self.deployment.label}"

    @property
    def folder(self) -> str:
        """Name of the results folder: readable first, unique by the id."""
        return f"{self.label}-{self.id}"


def to_json(experiment: Experiment) -> dict[str, Any]:
    """Plain JSON values, loads tagged by kind."""
    content = asdict(experiment)
    content["loads"] = [load_to_json(load) for load in experiment.loads]
    return content


def from_json(content: dict[str, Any]) -> Experiment:
    """The inverse of :func:`to_json`.

    Raises:
        KeyError, TypeError: the content is not that of an experiment.
    """
    groups = {
        role: ServerGroup(**{**group, "mapping": Mapping(**group["mapping"])})
        for role, group in content["deployment"].items()
        if role != "router" and group is not None
    }
    return Experiment(
        **{
            **content,
            "engine": EngineRef(**content["engine"]),
            "deployment": Deployment(**groups, router=content["deployment"]["router"]),
            "workload": Workload(**content["workload"]),
            "loads": tuple(load_from_json(load) for load in content["loads"]),
        }
    )


def load_to_json(load: Load) -> dict[str, Any]:
    return {"kind": "concurrency" if isinstance(load, Concurrency) else "rate", **asdict(load)}


def load_from_json(content: dict[str, Any]) -> Load:
    fields = {key: value for key, value in content.items() if key != "kind"}
    return Concurrency(**fields) if content["kind"] == "concurrency" else Rate(**fields)
