"""Which servers stand together, and how each of them is configured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ratematch.plan.parallelism import Parallelism

Role = Literal["ctx", "gen", "agg"]
Stage = Literal["ctx", "gen", "ifb", "e2e"]
STAGES: tuple[Stage, ...] = ("ctx", "gen", "ifb", "e2e")

Options = dict[str, Any]
"""Options of a serving stack by name, as its own files have them: plain YAML values, nested."""


@dataclass(frozen=True)
class ServerGroup:
    """``instances`` servers of one role, mapping and set of engine options.

    ``mtp``: draft tokens per step (0 = off). ``max_batch_size`` and ``max_num_tokens`` are per attention-DP rank,
    as TensorRT-LLM counts them; ``None`` lets the engine renderer derive them from workload and load.
    ``options`` go to the engine verbatim, over its derived defaults (a nested dict of plain YAML values).
    ``config``: the engine's whole configuration as given, to which nothing is added (a recipe somebody else wrote).
    ``environment``: set for these servers only. ``unchecked``: dotted paths of options marked ``!unchecked`` in the
    sweep file, which are passed on though the contract of the version may not know them. ``tag``: option axes that
    distinguish servers of one sweep, for labels only.
    """

    role: Role
    mapping: Parallelism
    instances: int = 1
    mtp: int = 0
    max_batch_size: int | None = None
    max_num_tokens: int | None = None
    options: Options = field(default_factory=dict)
    config: Options | None = None
    environment: dict[str, str] = field(default_factory=dict)
    unchecked: tuple[str, ...] = ()
    tag: str = field(default="", compare=False)

    @property
    def gpus(self) -> int:
        """GPUs of the whole group."""
        return self.instances * self.mapping.gpus


@dataclass(frozen=True)
class Deployment:
    """Servers that answer together.

    ``ctx`` and ``gen`` together need an orchestrator; ``gen`` alone is measured behind one that invents the context
    (:data:`ratematch.plan.experiment.Mode`) or, ``warmed``, directly with prompts whose KV cache it holds already;
    ``ctx`` alone and ``agg`` answer directly.
    ``router``: how the orchestrator spreads requests over the servers of a role, with its ``router_args``.
    ``orchestrator``: keys laid over its configuration, verbatim. ``unchecked``: as in :class:`ServerGroup`, of these.
    ``service_nodes``: 1 where what is no server and no frontend has a node of its own.
    """

    ctx: ServerGroup | None = None
    gen: ServerGroup | None = None
    agg: ServerGroup | None = None
    router: str = "round_robin"
    orchestrator: Options = field(default_factory=dict)
    router_args: Options = field(default_factory=dict)
    unchecked: tuple[str, ...] = ()
    warmed: bool = False
    service_nodes: int = 0

    @property
    def groups(self) -> tuple[ServerGroup, ...]:
        return tuple(group for group in (self.ctx, self.gen, self.agg) if group is not None)

    @property
    def gpus(self) -> int:
        return sum(group.gpus for group in self.groups)

    @property
    def mtp(self) -> int:
        return max(group.mtp for group in self.groups)

    @property
    def needs_orchestrator(self) -> bool:
        return self.gen is not None and not (self.warmed and self.ctx is None)

    @property
    def label(self) -> str:
        """For people: ``ctx2xTEP4-gen1xDEP8-mtp1``, ``gen1xTP1+block_size=128-mtp0``."""
        return self._spell({group.role: f"+{group.tag}" for group in self.groups if group.tag})

    @property
    def short_label(self) -> str:
        """Servers without what tells them apart otherwise."""
        return self._spell({})

    def _spell(self, tags: dict[Role, str]) -> str:
        parts = [f"{g.role}{g.instances}x{g.mapping.label}{tags.get(g.role, '')}" for g in self.groups]
        return "-".join([*parts, f"mtp{self.mtp}"])
