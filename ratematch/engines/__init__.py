"""What differs between serving stacks: one folder an engine, each behind one :class:`ratematch.engines.Engine`."""

from __future__ import annotations

from collections.abc import Sequence

from ratematch.engines import trtllm_serve, vllm
from ratematch.engines.engine import Engine as Engine
from ratematch.errors import CatalogError
from ratematch.measure.serverlog import Diagnosis
from ratematch.measure.servermetrics import read_prometheus
from ratematch.plan.enginefacts import EngineFacts

_REGISTRY: dict[str, Engine] = {engine.name: engine for engine in (trtllm_serve.ENGINE, vllm.ENGINE)}

ENGINES: dict[str, EngineFacts] = {name: engine.facts for name, engine in _REGISTRY.items()}
"""What a sweep file may say of each engine, by the name that it gives the engine."""


def find_engine(name: str) -> Engine:
    """The engine called ``name`` in a sweep file.

    Raises:
        CatalogError: not one of ours.
    """
    if name not in _REGISTRY:
        raise CatalogError(f"unknown engine {name!r}; known: {', '.join(_REGISTRY)}")
    return _REGISTRY[name]


def diagnose_logs(texts: Sequence[str]) -> tuple[Diagnosis | None, str]:
    """The cause that ``texts`` show, and what its reference is a part of; whose logs they are is found out.

    Where no server's words are in them (a step that did not start), every engine's table is tried, and a cause goes
    before what only follows from one.
    """
    writers = [engine for engine in _REGISTRY.values() if any(engine.wrote(text) for text in texts)]
    results = [(engine.diagnose(texts), engine.reference) for engine in writers or _REGISTRY.values()]
    results.sort(key=lambda result: 2 if result[0] is None else int(result[0].general))
    return results[0]


def read_metrics(body: bytes) -> list[dict[str, float]]:
    """The figures in one answer of a metrics address of any server: a format of one of the engines, else Prometheus.

    Raises:
        ValueError: the answer looks like an engine's own format and is not.
    """
    for engine in _REGISTRY.values():
        if (figures := engine.read_samples(body)) is not None:
            return figures
    return read_prometheus(body)
