"""What differs between serving stacks: one folder an engine, each behind one :class:`ratematch.engines.Engine`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from ratematch.engines import dynamo, triton, trtllm_serve, vllm
from ratematch.engines.engine import Engine as Engine
from ratematch.engines.failures import find_failure
from ratematch.engines.othernames import read_figures as read_other_figures
from ratematch.errors import CatalogError
from ratematch.measure.serverlog import Diagnosis
from ratematch.measure.servermetrics import read_prometheus
from ratematch.plan.enginefacts import EngineFacts

_REGISTRY: dict[str, Engine] = {
    **{engine.name: engine for engine in (trtllm_serve.ENGINE, vllm.ENGINE)},
    **dynamo.ENGINES,
    triton.ENGINE.name: triton.ENGINE,
}
"""By :attr:`ratematch.plan.experiment.EngineRef.key`."""

ENGINES: dict[str, EngineFacts] = {name: engine.facts for name, engine in _REGISTRY.items() if name == engine.name}
"""What a sweep file may say of each engine, by the name that it gives the engine."""


def find_engine(name: str) -> Engine:
    """The engine called ``name`` in a sweep file, or, with its backend, the one behind an ``EngineRef.key``.

    Raises:
        CatalogError: not one of ours.
    """
    if name not in _REGISTRY:
        raise CatalogError(f"unknown engine {name!r}; known: {', '.join(ENGINES)}")
    return _REGISTRY[name]


def diagnose_logs(texts: Sequence[str]) -> tuple[Diagnosis | None, str]:
    """The cause that ``texts`` show, and what its reference is a part of; whose logs they are is found out.

    Where no server's words are in them (a step that did not start), they are tried with every engine's table.
    """
    writers = [engine for engine in _REGISTRY.values() if any(engine.wrote(text) for text in texts)]
    engines = writers or list(_REGISTRY.values())
    tables = chain.from_iterable(engine.known_failures for engine in engines)
    known = find_failure(texts, tuple(dict.fromkeys(tables)))
    for engine in engines:
        if any(row.diagnosis == known for row in engine.known_failures):
            return known, engine.reference
    return known, engines[0].reference


def read_metrics(body: bytes) -> list[dict[str, float]]:
    """The figures in one answer of a metrics address of any server: a format of one of the engines, else Prometheus,
    with the figures that all servers have in common beside the samples.

    Raises:
        ValueError: the answer looks like an engine's own format and is not.
    """
    for engine in _REGISTRY.values():
        if (figures := engine.read_samples(body)) is not None:
            return figures
    (samples,) = read_prometheus(body)
    # A Dynamo worker passes its engine's samples on beside its own: the engine's come first.
    common = read_other_figures(samples)
    for engine in _REGISTRY.values():
        common |= engine.read_figures(samples)
    return [samples | common]
