"""How much of the prompts of a load generation servers found in their prefix cache, by their own counters.

Looked at right before and right after the load, so that what was computed before the clock is not in it.
"""

from __future__ import annotations

import time

from ratematch.engines import Engine
from ratematch.fetch import fetch
from ratematch.plan.launchplan import LaunchPlan
from ratematch.plan.servermetrics import Iteration

ANSWER_S = 10.0


class PrefixHits:
    """The counters of every generation server of ``plan`` from now on; one that does not answer tells nothing."""

    def __init__(self, plan: LaunchPlan, engine: Engine):
        self._servers = [
            (f"http://{spec.host}:{spec.port}{engine.routes.iterations}", engine.iteration_reader())
            for spec in plan.processes
            if spec.role == "gen"
        ]
        self._look()

    def rate(self) -> float | None:
        """Share of the prompt tokens since the beginning that were found; ``None`` when no server tells it."""
        told = [
            (step.cache_hit_rate, step.ctx_tokens)
            for step in self._look()
            if step.cache_hit_rate is not None and step.ctx_tokens
        ]
        total = sum(tokens for _, tokens in told)
        return sum(rate * tokens for rate, tokens in told) / total if total else None

    def _look(self) -> list[Iteration]:
        found: list[Iteration] = []
        for url, read in self._servers:
            try:
                with fetch(url, ANSWER_S) as answer:
                    found += read(answer.read(), time.monotonic_ns())
            except (OSError, ValueError):
                continue
        return found
