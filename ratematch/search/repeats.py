"""Which of the loads that a server that is up was measured at are worth measuring for longer.

The search sends short loads. Where one decides which server or which ratio is on the front, and its interval is
wide, a wrong one may be chosen; the front that is lost by that on average (:mod:`ratematch.search.regret`) counts
like front that is missing, as far as a longer run would save it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ratematch.measure.measurement import Measurement
from ratematch.search.candidates import Candidate
from ratematch.search.price import promise
from ratematch.search.regret import Choices
from ratematch.search.speeds import NOISE_SD
from ratematch.search.view import View

TARGET_CI = 0.02
"""Half width of the 95 % interval of a load that is sure enough, where the sweep names no ``target_ci``."""
UNTOLD_CI = 2 * NOISE_SD
"""Taken for a load that was too short to tell its interval."""
MOST_RUNS = 4
"""Of one load of one server, the short one among them."""


@dataclass(frozen=True)
class Measured:
    """What is known of a load: ``interval``, the half width of the 95 % interval of its mean as a share of it
    (``None``: too short to tell), from ``runs`` of it that sent ``requests``."""

    interval: float | None
    runs: int
    requests: int


def pool(runs: Sequence[Measurement]) -> Measured:
    """What the runs of one load tell together. Their mean is taken, each alike, as matching takes it; a run that was
    too short to tell its interval is taken to be as unsure as the least sure other one."""
    widths = [_width(run) for run in runs if run.valid]
    told = [width for width in widths if width is not None]
    interval = None
    if told:
        interval = math.sqrt(sum((width or max(told)) ** 2 for width in widths)) / len(widths)
    return Measured(interval, len(runs), sum(run.num_requests for run in runs if run.valid))


def _width(run: Measurement) -> float | None:
    """Of the latency that rates go by: of gen TPOT, of ctx TTFT. In a closed loop the rate is requests in flight over
    their life, so its interval is the same; but requests that end in step come in bursts, and batches of equal time
    take those for noise (simulated ctx rates that agree to ten digits: ±22 %)."""
    return run.tpot_ci if run.tpot_ms is not None else run.ttft_ci


@dataclass(frozen=True)
class Longer:
    """Measure a load of a server again, for longer. ``gain``: share of the front that better choices bring then."""

    load: int
    gain: float
    gpu_hours: float
    price: float
    why: str


def find_longer(
    view: View,
    each: Candidate,
    measured: Mapping[int, Measured],
    requests: Mapping[int, tuple[int, int]],
    hours_left: float | None,
    targets: Mapping[int, float],
) -> Longer | None:
    """The load of ``each`` whose longer run is worth most for what is chosen; ``None`` when none is worth its hours.
    ``each`` is up, so nothing is started for it.

    ``measured``: by concurrency; ``requests``: of a longer run of each, and of the whole load that the cluster's
    profile has a time for; ``targets``: interval at which it is narrow enough. ``hours_left``: GPU-hours that it and
    everything planned must fit into (``None``: no limit).
    """
    promised = promise(view, hours_left)
    choices = Choices(view, {name: offer.loads for name, offer in promised.plan.parts.items()})
    found: list[Longer] = []
    for load, known in sorted(measured.items()):
        width = UNTOLD_CI if known.interval is None else known.interval
        enough = width <= targets[load] or known.runs >= (2 if known.interval is None else MOST_RUNS)
        if enough or load not in view.rates.known.get(each.id, {}) or load not in each.forecasts:
            continue
        more, whole = requests[load]
        gpu_hours = view.space.load_h * each.gpus * more / whole
        if hours_left is not None and gpu_hours > hours_left:
            continue
        narrower = width * math.sqrt(known.requests / (known.requests + more))
        gain = choices.regret(each, load, width) - choices.regret(each, load, narrower)
        if gain > promised.price_per_hour * gpu_hours:
            told = "is not told by so short a load" if known.interval is None else f"is ±{width:.1%}"
            why = (
                f"its interval {told}, and what is on the front depends on it; {gain:.2%} more front expected by "
                f"better choices for {gpu_hours:.3g} GPU-hours"
            )
            found.append(Longer(load, gain, gpu_hours, promised.price, why))
    return max(found, key=lambda longer: (longer.gain, -longer.load), default=None)
