"""Which MPI rank and which GPUs each engine of a deployment has. Pure.

One ``tritonserver`` process a rank, all in one MPI world. With several engines (a pair, or copies of one) rank 0
orchestrates and holds none: world size = sum of TP x PP over all engines + 1. A single engine needs no orchestrator:
its ranks are the world, and rank 0 answers too (leader mode).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ratematch.plan.deployment import Role
from ratematch.plan.placement import Placement

MODELS: dict[Role, str] = {"ctx": "context", "gen": "generation", "agg": "tensorrt_llm"}
"""The model in the repository that is the engine of a role."""

ORCHESTRATOR = "disaggregated_serving_bls"
"""The model that hands a request to ``context`` and then to ``generation``."""


@dataclass(frozen=True)
class Place:
    """One copy of an engine: its ranks in order, the node of each, and its GPU's number there."""

    role: Role
    ranks: tuple[int, ...]
    nodes: tuple[str, ...]
    gpus: tuple[int, ...]

    @property
    def ranked(self) -> Iterator[tuple[int, str]]:
        """Each rank with its node."""
        return zip(self.ranks, self.nodes, strict=True)


@dataclass(frozen=True)
class World:
    """The ranks of one start. ``orchestrated``: rank 0 holds no engine. ``per_node``: GPUs of a node."""

    places: tuple[Place, ...]
    orchestrated: bool
    first_node: str
    per_node: int

    @property
    def size(self) -> int:
        return sum(len(place.ranks) for place in self.places) + self.orchestrated

    def of(self, role: Role) -> list[Place]:
        return [place for place in self.places if place.role == role]

    def participants(self, role: Role) -> str:
        """``participant_ids``: ``1,2;3,4`` for two copies of two ranks; empty where there is no orchestrator."""
        return ";".join(",".join(map(str, place.ranks)) for place in self.of(role)) if self.orchestrated else ""

    def gpu_groups(self, role: Role) -> str:
        """``gpu_device_ids``, in the order of ``participant_ids``: numbers among the GPUs that are visible."""
        visible = self.visible
        number = {gpu: index for index, gpu in enumerate(visible)} if visible else {}
        groups = ([number.get(gpu, gpu) for gpu in place.gpus] for place in self.of(role))
        return ";".join(",".join(map(str, group)) for group in groups)

    @property
    def nodes(self) -> tuple[str, ...]:
        """The node of every rank, in order."""
        first = (self.first_node,) if self.orchestrated else ()
        return (*first, *(node for place in self.places for node in place.nodes))

    @property
    def shares(self) -> dict[str, int]:
        """Ranks on each node, in the order of their first one."""
        return dict(Counter(self.nodes))

    @property
    def visible(self) -> tuple[int, ...]:
        """The GPUs of a single node that any rank has, where these are not all of it; else empty."""
        used = sorted({gpu for place in self.places for gpu in place.gpus})
        return tuple(used) if len(self.shares) == 1 and len(used) < self.per_node else ()


def world_of(placement: Placement, per_node: int) -> World:
    """The ranks of a placement: ctx before gen, copy by copy. ``per_node``: GPUs of a node."""
    orchestrated = len(placement.instances) > 1
    places, following = [], int(orchestrated)
    for instance in placement.instances:
        spots = [(place.node, gpu) for place in instance.places for gpu in place.gpus]
        ranks = tuple(range(following, following + len(spots)))
        following += len(spots)
        nodes, gpus = zip(*spots, strict=True)
        places.append(Place(instance.role, ranks, nodes, gpus))
    return World(tuple(places), orchestrated, placement.instances[0].nodes[0], per_node)


def parse_groups(text: str) -> list[list[int]]:
    """``1,2;3,4`` as numbers.

    Raises:
        ValueError: not of that form.
    """
    if not text:
        return []
    return [[int(number) for number in group.split(",")] for group in text.split(";")]


def check_groups(name: str, by_model: dict[str, str], size: int) -> Iterator[str]:
    """What is wrong with ``participant_ids`` of models in a world of ``size`` ranks, each with its arithmetic."""
    owner: dict[int, str] = {}
    for model, text in by_model.items():
        try:
            groups = parse_groups(text)
        except ValueError:
            yield f"{model}: {name}: {text!r} is not of the form 1,2;3,4"
            continue
        for number in (number for group in groups for number in group):
            if number in owner:
                yield f"{model}: {name}: {number} belongs to {owner[number]} already"
            elif not 1 <= number < size:
                why = "rank 0 orchestrates" if number == 0 else f"the world has {size} ranks, 0 to {size - 1}"
                yield f"{model}: {name}: {number} is no rank of an engine: {why}"
            owner.setdefault(number, model)
