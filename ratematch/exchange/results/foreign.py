"""Measurements of other tools, as one neutral value each. Pure; :mod:`ratematch.exchange.results.ingest` stores them.

What a file does not say stays ``None`` and is named in ``missing``: nothing is guessed. Units are ours: ms, tokens,
requests/s; what was another unit in the file is converted and no more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ratematch.errors import UserError
from ratematch.measure.measurement import Measurement
from ratematch.measure.metrics import Since
from ratematch.measure.records import RequestRecord
from ratematch.measure.stats import Stats
from ratematch.plan.load import Concurrency, Load
from ratematch.plan.parallelism import Parallelism, parse_mapping
from ratematch.version import __version__

Tool = Literal["AIPerf", "benchmark_serving", "InferenceX", "AIConfigurator"]
ForeignRole = Literal["ctx", "gen", "ifb"]
UNKNOWN = math.nan
"""A figure of a distribution that the file does not hold; ``null`` in ``measurement.json``."""


@dataclass(frozen=True)
class Servers:
    """``instances`` servers of one mapping. ``dcp``: ways in which decode context parallelism divides the KV cache of
    the tensor-parallel ranks; it adds no GPUs."""

    mapping: Parallelism
    instances: int = 1
    dcp: int = 1

    @property
    def gpus(self) -> int:
        return self.instances * self.mapping.gpus

    @property
    def label(self) -> str:
        """Of one of them, for people: ``TP8``, ``TP8+dcp4``."""
        return "+".join(filter(None, (self.mapping.label, self.tag)))

    @property
    def tag(self) -> str:
        """What tells them from others of the same mapping, empty for nothing."""
        return f"dcp{self.dcp}" if self.dcp > 1 else ""


@dataclass(frozen=True)
class Hints:
    """What a file says of the deployment and the load; ``None`` where it does not.

    ``isl``, ``osl``: mean lengths in tokens. ``request_rate``: requests/s of an open loop, ``burstiness``: shape of
    the gamma distribution of its gaps, 1 = Poisson. ``emulated``: only files that ratematch wrote say it.
    ``precision``: of the weights, as the file calls it.
    """

    model: str | None = None
    gpu: str | None = None
    engine: str | None = None
    isl: float | None = None
    osl: float | None = None
    concurrency: int | None = None
    request_rate: float | None = None
    burstiness: float | None = None
    ctx: Servers | None = None
    gen: Servers | None = None
    agg: Servers | None = None
    mtp: int | None = None
    emulated: bool | None = None
    precision: str | None = None


@dataclass(frozen=True)
class ForeignLoad:
    """One load of another tool. ``row``: where in the file, when it holds several.

    Either ``records`` (and ``warmup``): a request each; or ``figures`` of the whole run. ``missing``: fields that the
    tool has and this file has not, as the tool spells them. ``refused``: why it cannot be read, nothing else is known
    then; other loads of the file may be fine. ``drafted``: did the servers draft tokens (``None``: not told).
    ``ctx_gpus``, ``gen_gpus``: GPUs of all context and all generation servers, where the file tells them and not
    their layout.
    """

    tool: Tool
    file: str
    hints: Hints
    row: str = ""
    records: tuple[RequestRecord, ...] = ()
    warmup: tuple[RequestRecord, ...] = ()
    figures: Measurement | None = None
    missing: tuple[str, ...] = ()
    refused: str = ""
    drafted: bool | None = None
    ctx_gpus: int | None = None
    gen_gpus: int | None = None

    @property
    def where(self) -> str:
        return f"{self.file}{f': {self.row}' if self.row else ''}"


def make_stats(values: Mapping[str, float | None], n: int) -> Stats | None:
    """A distribution from what a file holds of it, by our names (mean, p50, p99, ...); ``None`` without a mean."""
    mean = values.get("mean")
    if mean is None or not math.isfinite(mean):
        return None

    def known(name: str) -> float:
        value = values.get(name)
        return UNKNOWN if value is None else float(value)

    optional = {name: values.get(name) for name in ("p1", "p5", "p10", "p25", "p75", "p999")}
    return Stats(
        n=n,
        mean=float(mean),
        std=known("std"),
        min=known("min"),
        p50=known("p50"),
        p90=known("p90"),
        p95=known("p95"),
        p99=known("p99"),
        max=known("max"),
        **optional,
    )


def parse_servers(text: str) -> Servers:
    """Servers as typed: ``2xDEP4``, or ``DEP4`` for one.

    Raises:
        UserError: another form.
    """
    count, times, mapping = text.strip().lower().partition("x")
    if not times:
        count, mapping = "1", text
    try:
        return Servers(parse_mapping(mapping), int(count))
    except ValueError as error:
        raise UserError(f"{text!r}: write servers as 2xDEP4 (instances x mapping)") from error


def lay_over(below: Hints, above: Hints) -> Hints:
    """``below`` with everything replaced that ``above`` knows."""
    known = {name: value for name in Hints.__dataclass_fields__ if (value := getattr(above, name)) is not None}
    return replace(below, **known)


def list_missing(content: Mapping[str, Any], keys: Sequence[str]) -> tuple[str, ...]:
    """The ``keys`` that are not in ``content``, or null or no finite number there."""
    return tuple(key for key in keys if _is_absent(content.get(key)))


def _is_absent(value: object) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


@dataclass(frozen=True)
class RunInfo:
    """One load, as an exported file describes it.

    ``wall_offset_ns``: wall clock (Unix epoch) minus the records' monotonic clock, ns. ``emulated``: no GPU stood
    behind the figures; every exported file says so in a key of its own.
    """

    model: str
    url: str
    load: Load
    api: str = "completions"
    wall_offset_ns: int = 0
    emulated: bool = False

    @property
    def since(self) -> Since:
        """Where latencies start: at the send in closed loop, at the intended instant in open loop."""
        return "sent" if isinstance(self.load, Concurrency) else "intended"

    @property
    def origin(self) -> dict[str, object]:
        """Keys that no other tool writes: where the figures come from."""
        return {"source": f"ratematch {__version__}", "emulated": self.emulated, "clock_starts": self.since}
