"""Which measured loads of a server that is up are worth measuring again, for longer.

The search sends short loads. Where the rate of one decides which server or which ratio is on the front, and its
interval is wide, the wrong one may be chosen. The front that is lost by that on average
(:mod:`ratematch.search.regret`), less what is still lost after a longer run, is what the longer run is worth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ratematch.measure.measurement import Measurement
from ratematch.search.candidates import Candidate
from ratematch.search.price import price_hours
from ratematch.search.regret import Choices
from ratematch.search.speeds import NOISE_SD
from ratematch.search.view import View

TARGET_CI = 0.02
"""Half width of the 95 % interval, as a share, that is narrow enough where the sweep names no ``target_ci``."""
UNKNOWN_CI = 2 * NOISE_SD
"""Half width assumed for a load that was too short to have an interval."""
MAX_RUNS = 4
"""Most runs of one load of one server, the short one among them."""


@dataclass(frozen=True)
class KnownLoad:
    """How well the rate at a load is known.

    ``interval``: half width of the 95 % interval of its mean, as a share of it (``None``: too short to have one).
    ``runs``: of the load; ``requests``: of its valid runs together.
    """

    interval: float | None
    runs: int
    requests: int

    @property
    def width(self) -> float:
        """The interval, or what is assumed for it."""
        return UNKNOWN_CI if self.interval is None else self.interval


def pool(runs: Sequence[Measurement]) -> KnownLoad:
    """How well the runs of one load together are known. Their mean is taken with equal weights, as in matching; a run
    that was too short to have an interval gets the widest one of the others."""
    widths = [_width(run) for run in runs if run.valid]
    known = [width for width in widths if width is not None]
    interval = None
    if known:
        interval = math.sqrt(sum((width or max(known)) ** 2 for width in widths)) / len(widths)
    return KnownLoad(interval, len(runs), sum(run.num_requests for run in runs if run.valid))


def _width(run: Measurement) -> float | None:
    """The interval of the latency that sets the rate: TPOT of gen, TTFT of ctx.

    In a closed loop the rate is the number of requests in flight over their latency, so both have the same relative
    interval. That of tok/s is not used: requests that end in step come in bursts, which batches of equal time take
    for noise (±22 % for simulated ctx rates that agree to ten digits).
    """
    return run.tpot_ci if run.tpot_ms is not None else run.ttft_ci


@dataclass(frozen=True)
class LongerRunOffer:
    """A load that is worth measuring again, for longer. ``gain``: share of the front that better choices bring."""

    load: int
    gain: float
    gpu_hours: float
    price: float
    why: str


def find_longer_run(
    view: View,
    server: Candidate,
    measured: Mapping[int, KnownLoad],
    requests: Mapping[int, tuple[int, int]],
    hours_left: float | None,
    targets: Mapping[int, float],
) -> LongerRunOffer | None:
    """The load of ``server`` whose longer run is worth most; ``None`` when none is worth its hours. ``server`` is up,
    so nothing is started for it.

    ``measured``: by concurrency. ``requests``: of a longer run of each, and of the whole load that the cluster
    profile has a time for. ``targets``: half width of the interval that is narrow enough. ``hours_left``: GPU-hours
    that it and everything planned must fit into (``None``: no limit).
    """
    pricing = price_hours(view, hours_left)
    choices = Choices(view, {name: offer.loads for name, offer in pricing.plan.parts.items()})
    offers: list[LongerRunOffer] = []
    for load, known in sorted(measured.items()):
        if _is_enough(known, targets[load]) or load not in view.rates.known.get(server.id, {}):
            continue
        if load not in server.forecasts:
            continue
        more, whole = requests[load]
        gpu_hours = view.space.load_h * server.gpus * more / whole
        if hours_left is not None and gpu_hours > hours_left:
            continue
        width = known.width
        narrower = width * math.sqrt(known.requests / (known.requests + more))
        gain = choices.regret(server, load, width) - choices.regret(server, load, narrower)
        if gain > pricing.price_per_hour * gpu_hours:
            interval = "is not told by so short a load" if known.interval is None else f"is ±{width:.1%}"
            why = (
                f"its interval {interval}, and what is on the front depends on it; {gain:.2%} more front expected by "
                f"better choices for {gpu_hours:.3g} GPU-hours"
            )
            offers.append(LongerRunOffer(load, gain, gpu_hours, pricing.price, why))
    return max(offers, key=lambda offer: (offer.gain, -offer.load), default=None)


def _is_enough(known: KnownLoad, target: float) -> bool:
    """A load that was too short to have an interval is measured for longer once."""
    return known.width <= target or known.runs >= (2 if known.interval is None else MAX_RUNS)
