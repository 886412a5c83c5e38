"""The configuration in AIPerf's summary: what it says of model and load. Several forms go round.

AIPerf up to 1.x: ``endpoint.model_names``, ``loadgen.concurrency``. From 2.0 on (``BenchmarkConfig``):
``models.items``, and ``phases``, a list of which those of kind ``profiling`` were measured. GenAI-Perf, whose summary
is like AIPerf's: ``model_names`` and ``perf_analyzer.stimulus``, before that ``model`` and ``concurrency`` among its
other arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ratematch.errors import UserError
from ratematch.exchange.results.fields import count, describe, number, section, text


@dataclass(frozen=True)
class Config:
    """``concurrency``: requests in flight, a limit where ``request_rate`` (requests/s) is known too. ``notes``: in
    words."""

    model: str | None
    concurrency: int | None
    request_rate: float | None
    notes: tuple[str, ...] = ()


def read_config(content: Mapping[str, Any], file: str) -> Config:
    """What ``input_config`` of a summary says; ``None`` for what it does not.

    Raises:
        UserError: a part of it is of another type.
    """
    where = f"{file}: input_config"
    config = section(content, "input_config", file)
    if "phases" in config:
        return _read_phases(config, where)
    load = section(config, "loadgen", where) or section(config, "load", where)  # the latter by ratematch
    load = load or section(section(config, "perf_analyzer", where), "stimulus", where) or _own_arguments(config)
    rate = number(load, "request_rate", where) or number(load, "req_s", where)
    return Config(_read_model(config, where), count(load, "concurrency", where) or None, rate)


def _own_arguments(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """``config`` itself, where it is the arguments of an older GenAI-Perf; else nothing."""
    return config if "formatted_model_name" in config or isinstance(config.get("endpoint"), str) else {}


def _read_model(config: Mapping[str, Any], where: str) -> str | None:
    models = config.get("models")
    if isinstance(models, Mapping):
        models = models.get("items")
    endpoint = {} if _own_arguments(config) else section(config, "endpoint", where)  # a path in those arguments
    own = config.get("model")
    names = models or endpoint.get("model_names") or config.get("model_names") or own or []
    names = [own] if isinstance(own, str) and names is own else names
    if not isinstance(names, list):
        raise UserError(f"{where}: its models are {describe(names)}, not a list")
    first = names[0] if names else None
    return text(first if isinstance(first, Mapping) else {"name": first}, "name", f"{where}: models")


def _read_phases(config: Mapping[str, Any], where: str) -> Config:
    phases = config["phases"]
    if not isinstance(phases, list) or not all(isinstance(phase, Mapping) for phase in phases):
        raise UserError(f"{where}: phases is {describe(phases)}, not a list of objects")
    measured = [phase for phase in phases if (phase.get("kind") or phase.get("name")) == "profiling"]
    if len(measured) != 1:  # whose figures are those of all together
        note = f"{len(measured)} profiling phases: the figures are of all together"
        return Config(_read_model(config, where), None, None, (note,) if measured else ())
    phase = measured[0]
    rate = number(phase, "rate", where) if isinstance(phase.get("rate"), int | float) else None
    if not rate and phase.get("type") not in (None, "concurrency"):  # a schedule, or rates one after the other
        note = f"its load is of the type {describe(phase['type'])}: a concurrency is only its limit"
        return Config(_read_model(config, where), None, None, (note,))
    notes = ("the concurrency was ramped up in the run",) if phase.get("concurrency_ramp") else ()
    return Config(_read_model(config, where), count(phase, "concurrency", where) or None, rate, notes)
