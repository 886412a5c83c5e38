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
from ratematch.measure.validity import DEFAULT_LIMITS
from ratematch.plan.load import Concurrency, Load
from ratematch.plan.parallelism import Parallelism, parse_mapping
from ratematch.version import __version__

Tool = Literal["AIPerf", "benchmark_serving", "InferenceX", "AIConfigurator"]
ForeignRole = Literal["ctx", "gen", "ifb"]
UNKNOWN = math.nan
"""A figure of a distribution that the file does not hold; ``null`` in ``measurement.json``."""


@dataclass(frozen=True)
class Servers:
    """``instances`` servers of one mapping."""

    mapping: Parallelism
    instances: int = 1

    @property
    def gpus(self) -> int:
        return self.instances * self.mapping.gpus


@dataclass(frozen=True)
class Hints:
    """What a file says of the deployment and the load; ``None`` where it does not.

    ``isl``, ``osl``: mean lengths in tokens. ``request_rate``: requests/s of an open loop. ``emulated``: only files
    that ratematch wrote say it.
    """

    model: str | None = None
    gpu: str | None = None
    engine: str | None = None
    isl: float | None = None
    osl: float | None = None
    concurrency: int | None = None
    request_rate: float | None = None
    ctx: Servers | None = None
    gen: Servers | None = None
    agg: Servers | None = None
    mtp: int | None = None
    emulated: bool | None = None


@dataclass(frozen=True)
class ForeignLoad:
    """One load of another tool. ``row``: where in the file, when it holds several.

    Either ``records`` (and ``warmup``): a request each; or ``figures`` of the whole run. ``missing``: fields that the
    tool has and this file has not, as the tool spells them. ``predicted``: of a model of the servers, measured by
    nobody.
    """

    tool: Tool
    file: str
    hints: Hints
    row: str = ""
    records: tuple[RequestRecord, ...] = ()
    warmup: tuple[RequestRecord, ...] = ()
    figures: Measurement | None = None
    missing: tuple[str, ...] = ()
    predicted: bool = False

    @property
    def where(self) -> str:
        return f"{self.file}{f': {self.row}' if self.row else ''}"


@dataclass(frozen=True)
class RunFigures:
    """Figures of a whole run as a file holds them, ramp and drain included; ``None`` where it does not.

    ``stats``: distributions by our names (``ttft_ms``, ``tpot_ms``, ``itl_ms``, ``e2el_ms``). ``req_s``, ``tok_s``:
    requests/s and output tokens/s. ``isl``, ``osl``: mean lengths in tokens.
    """

    num_requests: int | None
    num_failed: int | None
    stats: Mapping[str, Stats | None]
    req_s: float | None
    tok_s: float | None
    isl: float | None
    osl: float | None
    acceptance_length: float | None = None

    @property
    def in_flight(self) -> float | None:
        """Requests in flight by Little's law, from rate and latency; no such file holds them."""
        ttft, tpot = self.stats.get("ttft_ms"), self.stats.get("tpot_ms")
        if not self.req_s or ttft is None or not self.osl:
            return None
        decode_ms = (self.osl - 1) * tpot.mean if tpot is not None else 0.0
        return self.req_s * (ttft.mean + decode_ms) / 1000


def measure_run(figures: RunFigures, tool: Tool) -> Measurement:
    """The measurement that ``figures`` of ``tool`` make, with a warning that ramp and drain are in its rates.

    A number of requests that the file does not hold is 0 in the measurement, with a warning.
    """
    total, failed = figures.num_requests or 0, figures.num_failed or 0
    reasons = []
    if figures.num_requests is not None and not figures.num_requests - failed:
        reasons.append("no request was answered")
    elif failed > DEFAULT_LIMITS.failed * total:
        reasons.append(f"{failed} of {total} requests failed")
    warnings = [f"imported from {tool}: rates are of the whole run, ramp and drain included"]
    if figures.num_requests is None:
        warnings.append("the file does not tell how many requests there were")
    if figures.num_failed is None:
        warnings.append("the file does not tell how many requests failed")
    tpot, in_flight = figures.stats.get("tpot_ms"), figures.in_flight
    return Measurement(
        num_requests=total,
        num_ok=total - failed,
        num_failed=failed,
        window=None,
        ttft_ms=figures.stats.get("ttft_ms"),
        tpot_ms=tpot,
        itl_ms=figures.stats.get("itl_ms"),
        e2el_ms=figures.stats.get("e2el_ms"),
        send_lag_ms=None,
        tok_s_user=1000 / tpot.mean if tpot is not None and tpot.mean else None,
        tok_s=figures.tok_s,
        req_s=figures.req_s,
        tok_s_run=figures.tok_s,
        req_s_run=figures.req_s,
        isl_mean=figures.isl,
        osl_mean=figures.osl,
        in_flight=in_flight,
        little=1.0 if in_flight else None,
        valid=not reasons,
        reasons=tuple(reasons),
        warnings=tuple(warnings),
        acceptance_length=figures.acceptance_length,
    )


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


def number(content: Mapping[str, Any], key: str, where: str) -> float | None:
    """The finite number under ``key``; ``None`` when it is not there, null or not finite.

    Raises:
        UserError: it is there and no number.
    """
    value = content.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError as error:
            raise UserError(f"{where}: {key} is {content[key]!r}, not a number") from error
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where}: {key} is {value!r}, not a number")
    return float(value) if math.isfinite(value) else None


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
    """The ``keys`` that are not in ``content``, or null there."""
    return tuple(key for key in keys if content.get(key) is None)


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
