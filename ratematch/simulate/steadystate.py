"""Forecast of a load from the mean step of its steady state: a formula, in under a millisecond.

The step-time model is the emulator's; everything around it is approximated. Of prompts that are sent together the
first starts a step alone; sequences are spread evenly over ranks and are in the middle of their output on average.
``docs/search.md`` says how far that is from the simulation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from ratematch.emulator.efficiency import LearntSet
from ratematch.emulator.scheduler import Scheduler
from ratematch.emulator.steptime import RankLoad, StepBatch, StepTime
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Concurrency
from ratematch.plan.workload import Workload
from ratematch.simulate.delays import Delays


class Inside(Protocol):
    """What a forecast looks at."""

    @property
    def scheduler(self) -> Scheduler: ...

    @property
    def step_time(self) -> StepTime: ...

    @property
    def learnt(self) -> LearntSet: ...


@dataclass(frozen=True)
class Forecast:
    """Predicted figures of a whole deployment of one kind of server at one concurrency. ``tpot_s`` is 0 for ctx."""

    concurrency: int
    req_s: float
    ttft_s: float
    tpot_s: float
    osl: float


def forecast(inside: Inside, experiment: Experiment, load: Concurrency) -> Forecast:
    """Figures of ``load`` against servers of ``experiment``, which are all of one role (ctx, gen or aggregated)."""
    group = experiment.deployment.groups[-1]
    in_flight = load.concurrency / group.instances
    model = _Steady(inside, experiment.workload)
    match group.role:
        case "ctx":
            req_s, ttft_s, tpot_s = model.prefill(in_flight)
        case "gen":
            req_s, ttft_s, tpot_s = model.generate(in_flight)
        case _:
            req_s, ttft_s, tpot_s = model.mix(in_flight)
    osl = 1.0 if group.role == "ctx" else experiment.workload.mean_osl
    return Forecast(load.concurrency, req_s * group.instances, ttft_s, tpot_s, osl)


class _Steady:
    """One server in its steady state. Rates are of one instance, requests/s."""

    def __init__(self, inside: Inside, workload: Workload):
        self._step_time = inside.step_time
        self._config = config = inside.scheduler.config
        self._isl = workload.mean_isl or float(workload.isl)
        self._osl = workload.mean_osl
        self._ranks = config.mapping.dp_ranks
        self._query = 1 + config.mtp
        accepted, length = 1.0, 1.0
        for rate in config.acceptance[: config.mtp]:
            accepted *= rate
            length += accepted
        self._tokens = 1 + config.forced_acceptance if config.forced_acceptance is not None else length
        delays = Delays()
        self._http_s = 2 * delays.hop_s + delays.request_s + self._isl * delays.token_s + delays.serving_s
        fits = int(config.token_budget // self._isl) if self._isl <= config.token_budget else 0
        self._prompts = self._ranks * max(1, fits)
        held = -(-(self._isl + self._osl) // config.tokens_per_block)
        self._most = self._ranks * max(1, min(config.slots, int(config.kv_blocks // held)))

    def _seconds(self, prompts: float, decoding: float) -> float:
        """Of a step with these numbers of prompts and decoding sequences, dealt out to the ranks one by one."""
        kv = self._isl + self._osl / 2
        loads = []
        for rank in range(self._ranks):
            ctx = _share(prompts, self._ranks, rank)
            gen = _share(decoding, self._ranks, rank)
            ctx_tokens = ctx * self._isl
            loads.append(RankLoad(ctx, ctx_tokens, ctx_tokens * (self._isl + 1) / 2, gen, self._query, gen * kv, ctx))
        return self._step_time.seconds(StepBatch(tuple(loads)), self._config.overlap)

    def _groups(self, waiting: float, most: float) -> tuple[float, float]:
        """Prompts of two consecutive steps in a closed loop: the first starts alone, the others wait for its end."""
        first = min(most, max(1.0, waiting - 1))
        return first, min(most, max(0.0, waiting - first))

    def prefill(self, in_flight: float) -> tuple[float, float, float]:
        first, second = self._groups(in_flight, self._prompts)
        cycle_s = self._seconds(first, 0) + (self._seconds(second, 0) if second > 0 else 0.0)
        if in_flight <= 1:
            cycle_s += self._http_s
        req_s = (first + second) / cycle_s
        return req_s, in_flight / req_s, 0.0

    def generate(self, in_flight: float) -> tuple[float, float, float]:
        decoding = min(in_flight, float(self._most))
        step_s = self._seconds(0, decoding)
        tpot_s = step_s / self._tokens
        busy_s = step_s + self._http_s + (self._osl - 1) * tpot_s
        req_s = decoding / busy_s
        return req_s, in_flight / req_s - (self._osl - 1) * tpot_s, tpot_s

    def mix(self, in_flight: float) -> tuple[float, float, float]:
        """In-flight batching: the prompts of the other requests lengthen some of the iterations of one request."""
        held = min(in_flight, float(self._most))
        config = self._config
        room = config.token_budget - held / self._ranks * self._query
        most = self._ranks * max(1.0, room // self._isl)
        size = min(most, max(1.0, held / 2))
        decode_s = self._seconds(0, held)
        mixed_s = self._seconds(size, max(0.0, held - size))
        iterations = max(1.0, (self._osl - 1) / self._tokens)
        steps_with_prompts = max(0.0, held / size - 1)
        slower = min(iterations, steps_with_prompts)
        decoding_s = (iterations - slower) * decode_s + slower * mixed_s
        # More prompt steps than iterations: the request waits for those beyond its own iterations.
        waited_s = max(0.0, steps_with_prompts - iterations) * mixed_s
        first_s = mixed_s + decode_s / 2 + waited_s + self._http_s
        req_s = held / (first_s + decoding_s)
        tpot_s = decoding_s / max(1.0, self._osl - 1)
        return req_s, in_flight / req_s - (self._osl - 1) * tpot_s, tpot_s


def _share(total: float, ranks: int, rank: int) -> float:
    """Sequences of rank ``rank`` if ``total`` are dealt out in turn; a fraction goes to the next rank in turn."""
    whole = math.floor(total)
    share = whole // ranks + (rank < whole % ranks)
    return share + (total - whole if rank == whole % ranks else 0.0)
