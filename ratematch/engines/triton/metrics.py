"""Rank 0's ``/metrics`` (Prometheus, on a port of its own) under the names that all engines share.

======================  ==========================================================================================
common name             Triton
======================  ==========================================================================================
active                  ``nv_trt_llm_request_metrics{request_type="active"}``, of all engines
queued                  the same ``"waiting"``, and what waits before the orchestrator:
                        ``nv_inference_pending_request_count`` of its model
kv_used, kv_max         ``nv_trt_llm_kv_cache_block_metrics`` ``"used"``, ``"max"``; of the fullest engine
iter                    ``nv_trt_llm_general_metrics{general_type="iteration_counter"}``
KV transfer             growth of ``nv_trt_llm_disaggregated_serving_metrics`` ``"kv_cache_transfer_ms"`` /
                        ``"request_count"``
======================  ==========================================================================================

It is not documented whether rank 0 shows the engines' figures in orchestrator mode; else there are none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ratematch.engines.triton.ranks import ORCHESTRATOR
from ratematch.measure.servermetrics import Iteration, Routes, Samples, parse_prometheus

ROUTES = Routes(iterations="/metrics", prometheus="/metrics")

FIGURES = {
    "nv_trt_llm_request_metrics": "request_type",
    "nv_trt_llm_kv_cache_block_metrics": "kv_cache_block_type",
    "nv_trt_llm_general_metrics": "general_type",
    "nv_trt_llm_disaggregated_serving_metrics": "disaggregated_serving_type",
}
"""The label that tells the figures of a family apart."""

PENDING = "nv_inference_pending_request_count"

_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def by_model(samples: Samples) -> dict[str, dict[str, float]]:
    """Model to its engine's figures: ``active``, ``waiting``, ``used``, ``max_blocks``, ``iteration_counter``."""
    models: dict[str, dict[str, float]] = {}
    for name, value in samples.items():
        family, _, labels = name.partition("{")
        if family not in FIGURES:
            continue
        given = dict(_LABEL.findall(labels))
        kind = given.get(FIGURES[family]) or next(
            (text for label, text in given.items() if label not in ("model", "version")), ""
        )
        kind = f"{kind}_blocks" if family.endswith("block_metrics") and kind == "max" else kind
        models.setdefault(given.get("model", ""), {})[kind] = value
    return models


def waiting_outside(samples: Samples) -> float:
    """Requests that wait for an instance of the orchestrator."""
    return sum(
        value
        for name, value in samples.items()
        if name.startswith(PENDING) and dict(_LABEL.findall(name)).get("model") == ORCHESTRATOR
    )


def read_figures(samples: Samples) -> dict[str, float]:
    """The figures that all servers have in common, in the samples of a Triton server."""
    models = by_model(samples)
    outside = any(name.startswith(PENDING) for name in samples)
    if not models:
        return {"queued": waiting_outside(samples)} if outside and _orchestrates(samples) else {}
    figures = {
        "active": sum(own.get("active", 0.0) for own in models.values()),
        "queued": sum(own.get("waiting", 0.0) for own in models.values()) + waiting_outside(samples),
    }
    fullest = _fullest(models)
    if fullest is not None:
        figures["kv_used"], figures["kv_max"] = fullest
    return figures


def _orchestrates(samples: Samples) -> bool:
    return any(name.startswith(PENDING) and f'model="{ORCHESTRATOR}"' in name for name in samples)


def _fullest(models: Mapping[str, Mapping[str, float]]) -> tuple[float, float] | None:
    pairs = [(own["used"], own["max_blocks"]) for own in models.values() if own.get("max_blocks") and "used" in own]
    return max(pairs, key=lambda pair: pair[0] / pair[1], default=None)


class IterationReader:
    """Iterations between one answer of a server and the next, of all its engines together."""

    def __init__(self) -> None:
        self._before: dict[str, dict[str, float]] = {}
        self._before_ns = 0

    def __call__(self, body: bytes, now_ns: int) -> list[Iteration]:
        """One entry where an engine has run an iteration since the last answer; figures are those of the engine that
        generates, which is the one that ran most.

        Raises:
            ValueError: no metrics of TensorRT-LLM's backend.
        """
        samples = parse_prometheus(body.decode("utf-8", "replace"))
        now = by_model(samples)
        if not any("iteration_counter" in own for own in now.values()):
            raise ValueError("no iterations of TensorRT-LLM's backend")
        before, before_ns = self._before, self._before_ns
        self._before, self._before_ns = now, now_ns
        ran = {
            model: own["iteration_counter"] - before[model].get("iteration_counter", 0.0)
            for model, own in now.items()
            if model in before and "iteration_counter" in own
        }
        if not ran or max(ran.values()) <= 0:
            return []
        model = max(ran, key=lambda name: ran[name])
        own, earlier = now[model], before[model]
        busy = own.get("active", 0.0) > 0 and earlier.get("active", 0.0) > 0
        fullest = _fullest(now)
        return [
            Iteration(
                iter=int(own["iteration_counter"]),
                step_ms=(now_ns - before_ns) / 1e6 / ran[model] if busy else None,
                active=own.get("active"),
                queued=own.get("waiting", 0.0) + waiting_outside(samples),
                kv_used_blocks=None if fullest is None else fullest[0],
                kv_max_blocks=None if fullest is None else fullest[1],
            )
        ]
