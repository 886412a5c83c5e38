"""The rows of one GPU type, format and workload: what was published there, and what may be searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.real_deployments.setup import setup_of
from benchmarks.real_deployments.table import Row, Servers
from ratematch.plan.parallelism import parse_mapping

CTX = ("TP4", "TEP4", "TP8", "TEP8", "DEP2", "DEP4", "DEP8")
GEN = ("TP4", "TEP4", "TP8", "TEP8", "DEP4", "DEP8", "DEP16", "DEP32")
AGG = ("TP4", "TEP4", "TP8", "TEP8", "DEP4", "DEP8", "DEP16")
"""Mappings that are tried beside those of the group's own rows."""
NODE_GPUS = 8
"""Most GPUs of a server where NVLink ends with the node."""
Key = tuple[int, str, int, str, int]
"""Ctx instances and mapping, gen instances and mapping, drafts; an aggregated server has 0 and an empty mapping."""


@dataclass(frozen=True)
class Chosen:
    """A deployment with its load. ``ctx`` is empty and ``x`` is 0 for an aggregated one, ``gen`` its servers.

    ``gpus``: of all of its servers.
    """

    x: int
    ctx: str
    y: int
    gen: str
    mtp: int
    concurrency: int

    @property
    def key(self) -> Key:
        return (self.x, self.ctx, self.y, self.gen, self.mtp)

    @property
    def servers(self) -> tuple[str, str, int]:
        """Which pair it is made of, whatever the numbers."""
        return (self.ctx, self.gen, self.mtp)

    @property
    def gpus(self) -> int:
        ctx = self.x * parse_mapping(self.ctx).gpus if self.x else 0
        return ctx + self.y * parse_mapping(self.gen).gpus

    @property
    def label(self) -> str:
        parts = [f"{self.x} x {self.ctx} ctx"] if self.x else []
        drafts = f", MTP {self.mtp}" if self.mtp else ""
        return " + ".join([*parts, f"{self.y} x {self.gen} {'gen' if self.x else 'agg'}"]) + drafts


@dataclass(frozen=True)
class Group:
    """``rows``: all published, but those that may hold more than the engine."""

    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        return self.rows[0].workload

    @property
    def budget(self) -> int:
        """GPUs of the largest deployment that was published."""
        return max(row.gpus for row in self.rows)

    @property
    def drafts(self) -> tuple[int, ...]:
        """MTP settings of the rows, none included."""
        return tuple(sorted({0, *(row.mtp for row in self.rows)}))

    def mappings(self, role: str) -> tuple[str, ...]:
        """Mappings of ``ctx``, ``gen`` or ``agg`` servers to try, within the budget and an NVLink domain."""
        usual = {"ctx": CTX, "gen": GEN, "agg": AGG}[role]
        own = [key_of(row) for row in self.rows if (row.ctx is None) == (role == "agg")]
        names = dict.fromkeys([*usual, *(key[1] if role == "ctx" else key[3] for key in own)])
        most = self.budget if self.rows[0].gpu.startswith("gb") else min(self.budget, NODE_GPUS)
        return tuple(name for name in names if parse_mapping(name).gpus <= most)

    def row_of(self, chosen: Chosen, batch: int | None = None) -> Row:
        """``chosen`` as a row of this group without figures, set up by the same public scripts. ``batch``: sequence
        slots of a rank of its gen servers, ``None``: as many as its load takes."""
        alike = [row for row in self.rows if (row.ctx is None) == (chosen.x == 0)]
        base = max(alike or self.rows, key=lambda row: row.first)
        return replace(
            base,
            line=0,
            ctx=_servers(chosen.ctx, chosen.x) if chosen.x else None,
            gen=_servers(chosen.gen, chosen.y, batch),
            mtp=chosen.mtp,
            concurrency=chosen.concurrency,
            gpus=chosen.gpus,
            source="",
        )


def _servers(mapping: str, instances: int, batch: int | None = None) -> Servers:
    return Servers(mapping=mapping, instances=instances, max_batch_size=batch, max_num_tokens=None)


def key_of(row: Row) -> Key:
    """What was deployed, with experts spread or cut as its recipe has them."""
    setup = setup_of(row)
    return (row.ctx.instances if row.ctx else 0, setup.ctx_mapping, row.gen.instances, setup.gen_mapping, row.mtp)


def groups_of(rows: Sequence[Row]) -> tuple[list[Group], list[Row]]:
    """Groups by name, and the rows that are in none, for they may hold more than the engine."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        if not row.suspect:
            by_name.setdefault(row.workload, []).append(row)
    return [Group(tuple(by_name[name])) for name in sorted(by_name)], [row for row in rows if row.suspect]
