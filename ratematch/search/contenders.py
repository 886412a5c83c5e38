"""Which of the loads that a server that is up was measured at are worth measuring for longer.

The search sends short loads. Where one decides which server or which ratio is on the front, and its interval is wide,
the front is in doubt by as much; what a longer run takes off that doubt counts like front that is missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ratematch.match.pareto import extract_front
from ratematch.measure.measurement import Measurement
from ratematch.search.fronts import Floats, Side, empty_front
from ratematch.search.outlook import NOISE_SD
from ratematch.search.promise import View
from ratematch.search.promised import promise
from ratematch.search.servers import Candidate

TARGET_CI = 0.02
"""Half width of the 95 % interval of a load that is sure enough, where the sweep names no ``target_ci``."""
UNTOLD_CI = 2 * NOISE_SD
"""Taken for a load that was too short to tell its interval."""
MOST_RUNS = 4
"""Of one load of one server, the short one among them."""

Deployed = tuple[str, int, int, int]
"""A deployment on the front: gen server, GPUs of its ctx server, instances of ctx and of gen."""


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
    """Measure a load of a server again, for longer. ``gain``: share of the front that is no longer in doubt then."""

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
    """The load of ``each`` whose longer run takes most doubt off the front per GPU-hour; ``None`` when none is worth
    its hours. ``each`` is up, so nothing is started for it.

    ``measured``: by concurrency; ``requests``: of a longer run of each, and of the whole load that the cluster's
    profile has a time for; ``targets``: interval at which it is narrow enough. ``hours_left``: GPU-hours that it and
    everything planned must fit into (``None``: no limit).
    """
    promised = promise(view, hours_left)
    planned = {name: offer.loads for name, offer in promised.plan.parts.items()}
    found: list[Longer] = []
    for load, known in sorted(measured.items()):
        width = UNTOLD_CI if known.interval is None else known.interval
        enough = width <= targets[load] or known.runs >= (2 if known.interval is None else MOST_RUNS)
        if enough or load not in view.known.get(each.id, {}) or load not in each.forecasts:
            continue
        more, whole = requests[load]
        gpu_hours = view.space.load_h * each.gpus * more / whole
        if hours_left is not None and gpu_hours > hours_left:
            continue
        doubt, changed = _doubt(view, each, load, width, planned)
        gain = doubt * (1 - math.sqrt(known.requests / (known.requests + more)))
        if changed and gain > promised.price_per_hour * gpu_hours:
            told = "is not told by so short a load" if known.interval is None else f"is ±{width:.1%}"
            why = (
                f"its interval {told}, and what is on the front depends on it; {gain:.2%} of the front less in doubt "
                f"expected for {gpu_hours:.3g} GPU-hours"
            )
            found.append(Longer(load, gain, gpu_hours, promised.price, why))
    return max(found, key=lambda longer: (longer.gain, -longer.load), default=None)


def _doubt(
    view: View, each: Candidate, load: int, width: float, planned: Mapping[str, frozenset[int]]
) -> tuple[float, bool]:
    """By how much the front may be off as rates at ``load`` may be, and whether other deployments are on it then."""
    rate = view.known[each.id][load]
    ends = [view.assuming(each, load, rate.times(factor)) for factor in (1 - width, 1 + width)]
    low, high = (view.value(_front(end, planned)) for end in ends)
    return max(0.0, high - low) / 2, leaders(ends[0], planned) != leaders(ends[1], planned)


def _loads(view: View, each: Candidate, planned: Mapping[str, frozenset[int]]) -> frozenset[int]:
    return view.taken(each) | planned.get(each.id, frozenset())


def _front(view: View, planned: Mapping[str, frozenset[int]]) -> Floats:
    front = empty_front()
    for each in view.gens:
        front = np.maximum(front, view.front(each, _loads(view, each, planned)))
    return front


def leaders(view: View, planned: Mapping[str, frozenset[int]]) -> frozenset[Deployed]:
    """The deployments on the front of everything measured, under way and planned, each at one of its loads."""
    points: list[tuple[float, float, Deployed]] = []
    for each in view.gens:
        side = view.gen_side(each, _loads(view, each, planned))
        for feeder in view.feeders(each.mtp) if side.req_s.size else ():
            for speed, req_s in zip(side.tok_s_user, side.req_s, strict=True):
                tok_s_gpu, x, y = _best_ratio(feeder, each.gpus, float(req_s), view.space.osl, view.space.max_gpus)
                points.append((float(speed), tok_s_gpu, (each.id, feeder.gpus, x, y)))
    front = extract_front(points, lambda point: point[:2], lambda point: point[2])
    return frozenset(name for _, tok_s_gpu, name in front if tok_s_gpu > 0)


def _best_ratio(ctx: Side, gpus: int, req_s: float, osl: float, max_gpus: int) -> tuple[float, int, int]:
    """tok/s/GPU of the best ratio, and its instances of ctx and gen; zeros where none fits."""
    y = np.arange(1, max_gpus // gpus + 1)
    room = (max_gpus - y * gpus) // ctx.gpus
    y, room = y[room >= 1], room[room >= 1]
    if not y.size:
        return 0.0, 0, 0
    x = np.maximum(1, np.minimum(np.ceil(y * req_s / ctx.req_s[0] - 1e-9).astype(int), room))
    tok_s_gpu = np.minimum(x * ctx.req_s[0], y * req_s) * osl / (x * ctx.gpus + y * gpus)
    best = int(tok_s_gpu.argmax())
    return float(tok_s_gpu[best]), int(x[best]), int(y[best])
