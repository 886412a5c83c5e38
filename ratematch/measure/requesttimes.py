"""Times of single requests as servers report them: how they are asked for, and the one record behind every source.

A disaggregated request: orchestrator -> ctx queue -> prefill -> handover -> KV transfer and gen queue -> decode.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from ratematch.measure.breakdown import Breakdown


@dataclass(frozen=True)
class AskTimes:
    """How a client asks for the times of a request with its answer. ``header``: of the request. ``fields``: names of
    what comes back: headers of an answer that is no stream, keys of the JSON in a named event of a stream
    (``event``), behind its ``[DONE]``."""

    header: tuple[str, str]
    fields: tuple[str, ...]
    event: str


@dataclass(frozen=True)
class TimesSources:
    """Where the servers of one launch hand out times request by request, the most complete first.

    ``files``: a pattern of JSONL files below the launch folder. ``ask``: with each answer. ``route``: a path to GET,
    which hands out each record once. All ``None``: nowhere, and ``why_none`` says why. ``lag_s``: how long after its
    request a line may come into a file.
    """

    files: str | None = None
    ask: AskTimes | None = None
    route: str | None = None
    why_none: str = ""
    lag_s: float = 0.0


class PhaseTimes(NamedTuple):
    """One request in one server, in seconds of the clock that all servers of a launch share; ``None``: not reported.

    ``transfer_s``: how long its KV cache took to come, which some sources tell without saying when.
    """

    arrival_s: float | None = None
    scheduled_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    transfer_s: float | None = None

    def or_else(self, other: PhaseTimes) -> PhaseTimes:
        """These times, and where one is not reported, that of ``other``."""
        return PhaseTimes(*(theirs if own is None else own for own, theirs in zip(self, other, strict=True)))


@dataclass(frozen=True)
class RequestTimes:
    """One request by its servers' clocks. ``id``: what its parts were joined by. ``arrival_s``: at the orchestrator;
    ``router_s``: how long it stayed there before it was sent on, where the arrival is not known."""

    id: str
    arrival_s: float | None
    ctx: PhaseTimes
    gen: PhaseTimes
    router_s: float | None = None

    @property
    def begin_s(self) -> float | None:
        """Its earliest instant that is known."""
        return self.ctx.arrival_s if self.arrival_s is None else self.arrival_s

    def stages(self) -> tuple[float, ...] | None:
        """(dispatch, ctx queue, prefill, KV transfer, gen queue, decode), seconds; ``None`` where a part of them is
        not known. The formulas are those of :class:`ratematch.measure.breakdown.Breakdown`."""
        ctx, gen = self.ctx, self.gen
        if ctx.arrival_s is None or ctx.scheduled_s is None or ctx.first_token_s is None:
            return None
        if gen.arrival_s is None or gen.scheduled_s is None or gen.last_token_s is None or gen.transfer_s is None:
            return None
        to_ctx = (self.router_s or 0.0) if self.arrival_s is None else ctx.arrival_s - self.arrival_s
        return (
            to_ctx + gen.arrival_s - ctx.first_token_s,
            ctx.scheduled_s - ctx.arrival_s,
            ctx.first_token_s - ctx.scheduled_s,
            gen.transfer_s,
            gen.scheduled_s - gen.arrival_s - gen.transfer_s,
            gen.last_token_s - gen.scheduled_s,
        )


def mean_stages(requests: Iterable[RequestTimes], *, skip_first: int, skip_last: int) -> Breakdown | None:
    """Mean stages of ``requests``, without those that arrived first (warm-up, ramp) and last (drain). ``None`` when
    fewer than two complete ones are left."""
    known = sorted(_complete(requests))
    kept = [stages for _, stages in known[skip_first : len(known) - skip_last]]
    if len(kept) < 2:
        return None
    return Breakdown(len(kept), *(fmean(column) for column in zip(*kept, strict=True)))


def _complete(requests: Iterable[RequestTimes]) -> Iterator[tuple[float, tuple[float, ...]]]:
    for request in requests:
        begin_s, stages = request.begin_s, request.stages()
        if begin_s is not None and stages is not None:
            yield begin_s, stages
