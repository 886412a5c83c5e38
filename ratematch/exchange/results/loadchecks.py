"""An imported load against what is known of its deployment and its load: Little's law, draft tokens, GPUs.

Own loads are held to Little's law inside a steady window, within 5 %. Figures of other tools are of the whole run,
from the first request to the last token, and at its end slots stand empty: after the last request was sent, each for
up to the length of one request (the last is a long one), of which it has sent N / C. So a run of N requests at
concurrency C may show up to C / N fewer in flight than C, and no more than C at any time. A rate that is low so
understates a server, at latencies that are right: within that bound it is a warning.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from ratematch.exchange.results.foreign import ForeignLoad, Hints
from ratematch.measure.measurement import Measurement
from ratematch.plan.deployment import Stage

WITHIN = 0.05
"""As for loads measured here (:data:`ratematch.measure.validity.Limits.little`)."""
FEWEST_WAVES = 4
"""With fewer requests a slot than this, a run is mostly ramp and drain: nothing is allowed for them."""
TAIL = 1.5
"""How much longer than the mean the last requests may be, at most, by the 99th percentile of E2EL or TTFT."""
UNKNOWN_NUMBER = 0.20
"""Allowed below where a file does not tell its number of requests: as for ten a slot, as InferenceX sends, with the
longest tail. 86 of its public points lie within 0.84 and 1."""
ARRIVAL_NOISE = 5
"""Standard deviations by which the time of all arrivals may differ from N / rate, if their gaps are independent."""
FEWEST_ARRIVALS = 50
"""With fewer requests one long answer at the end may take as long as all the others."""
BEHIND = 0.1
"""As for loads measured here (:data:`ratematch.measure.validity.Limits.behind`)."""
OTHER_LENGTHS = 0.25
"""Mean lengths may be so far from those of the workload: clients draw them from 80 % of it to all, some from more."""
DRAFTED = 1.05
"""Tokens a step of a request above this: there were draft tokens."""


def list_contradictions(load: ForeignLoad, hints: Hints, stage: Stage | None = None) -> list[str]:
    """Where options and file contradict each other: such a load is not taken under these options. ``stage``: as it
    was given."""
    problems = []
    acceptance = load.figures.acceptance_length if load.figures else None
    if acceptance is not None and hints.mtp is not None and acceptance > hints.mtp + DRAFTED:
        problems.append(
            f"the file counts {acceptance:g} tokens a step, and --mtp {hints.mtp} allows {hints.mtp + 1} at most"
        )
    elif hints.mtp == 0 and load.drafted:
        problems.append("the file says that tokens were drafted, and --mtp 0 that none were")
    agg_gpus = load.hints.agg.gpus if load.hints.agg is not None else None
    for what, option, there, servers in (
        ("prefill GPUs", "--ctx", load.ctx_gpus, hints.ctx),
        ("decode GPUs", "--gen", load.gen_gpus, hints.gen),
        ("GPUs", "--agg", agg_gpus, hints.agg),
    ):
        if there is not None and servers is not None and servers.gpus != there:
            problems.append(f"the file has {there} {what}, and {option} {servers.gpus}")
    return problems + _list_other_kinds(load, hints, stage)


def _list_other_kinds(load: ForeignLoad, hints: Hints, stage: Stage | None) -> list[str]:
    """Servers of another kind than the file's: rates per GPU would be those of other GPUs."""
    apart = (load.ctx_gpus or 0) + (load.gen_gpus or 0)
    if load.ctx_gpus and load.gen_gpus and stage not in (None, "e2e"):
        return [f"the file has prefill and decode measured together, and --stage {stage} says one of them alone"]
    if apart and hints.agg is not None:
        return [f"the file has prefill and decode apart, on {apart} GPUs, and --agg says one kind of servers"]
    together = load.hints.agg
    if together is not None and (hints.ctx is not None or hints.gen is not None):
        option = "--ctx" if hints.ctx is not None else "--gen"
        return [f"the file has aggregated servers, on {together.gpus} GPUs, and {option} says that they are apart"]
    return []


def list_findings(figures: Measurement) -> tuple[str, ...]:
    """What a person should know of imported figures at once: why they are not valid, and warnings that not every file
    of its kind has."""
    usual = ("imported from ", "the file does not tell ", "not in the file: ")
    reasons = tuple(f"not valid: {reason}" for reason in figures.reasons)
    return reasons + tuple(warning for warning in figures.warnings if not warning.startswith(usual))


def check_load(figures: Measurement, hints: Hints) -> Measurement:
    """``figures`` of a whole run with Little's ratio, and the verdict on it; in open loop, where nobody fixed the
    requests in flight, with the verdict on their rate. With a warning where the lengths that were counted are not
    those of ``hints``."""
    figures = replace(figures, warnings=(*figures.warnings, *_other_lengths(figures, hints)))
    return _check_little(figures, hints) if hints.concurrency else _check_rate(figures, hints)


def _check_rate(figures: Measurement, hints: Hints) -> Measurement:
    """Were as many requests served as arrived, and no more? A run ends with its last answer: it takes the time of all
    arrivals, and one request. In a queue that grows latencies do, but by half of what the run takes longer."""
    number, served, asked = figures.num_ok, figures.req_s, hints.request_rate
    if not asked or not served or not number or figures.in_flight is None:
        return figures
    e2el_s = figures.e2el_ms.mean / 1000 if figures.e2el_ms is not None else figures.in_flight / served
    text = f"{asked:g} requests/s were asked for, {served:.4g} were served"
    noise = ARRIVAL_NOISE / math.sqrt(number * (hints.burstiness or 1.0))
    latest_s = number / asked * (1 + noise) + TAIL * e2el_s
    if number >= FEWEST_ARRIVALS and number / served > latest_s:
        return replace(figures, valid=False, reasons=(*figures.reasons, f"overloaded: {text}; the queue grew"))
    if number >= FEWEST_ARRIVALS and number / served < number / asked * (1 - noise):
        return replace(figures, valid=False, reasons=(*figures.reasons, f"{text}: more than can have arrived"))
    if served < (1 - BEHIND) * asked:
        note = f"{text}: the end of a short run, or a queue that grew"
        return replace(figures, warnings=(*figures.warnings, note))
    return figures


def _other_lengths(figures: Measurement, hints: Hints) -> Iterator[str]:
    for what, counted, said in (("ISL", figures.isl_mean, hints.isl), ("OSL", figures.osl_mean, hints.osl)):
        if counted and said and abs(counted / said - 1) > OTHER_LENGTHS:
            yield f"its requests have {what} {counted:.5g} on average, and the workload says {said:g}"


def _check_little(figures: Measurement, hints: Hints) -> Measurement:
    held = _in_flight(figures)
    if not hints.concurrency or not held:
        return figures
    asked = hints.concurrency
    nearest = min(held, key=lambda value: abs(value - asked))
    off = nearest / asked - 1
    figures = replace(figures, little=asked / nearest)
    text = (
        f"Little's law is off by {off:+.0%}: {nearest:.5g} requests in flight by rate and latency, {asked} asked for"
    )
    below = _allowed_below(figures, asked)
    if off > WITHIN or off < -below:
        waves = figures.num_requests / asked
        why = f" (a run of {waves:.3g} requests a slot may be {below:.0%} low)" if waves and off < 0 else ""
        return replace(figures, valid=False, reasons=(*figures.reasons, text + why))
    if off < -WITHIN:
        note = f"{text}: empty slots at the end of the run are in its rates, which are too low"
        return replace(figures, warnings=(*figures.warnings, note))
    return figures


def _allowed_below(figures: Measurement, asked: int) -> float:
    """How far below ``asked`` the requests in flight may be, as a share."""
    if not figures.num_requests:
        return UNKNOWN_NUMBER
    if figures.num_requests < FEWEST_WAVES * asked:
        return WITHIN
    return WITHIN + _tail(figures) * asked / figures.num_requests


def _tail(figures: Measurement) -> float:
    """How much longer than the mean the last requests are, by the percentiles that are known: 1 to :data:`TAIL`."""
    e2el, ttft = figures.e2el_ms, figures.ttft_ms
    tails = [1.0]
    if e2el is not None and e2el.mean:
        tails.append(e2el.p99 / e2el.mean)
    mean = e2el.mean if e2el is not None else 1000 * (figures.in_flight or 0.0) / (figures.req_s or 1.0)
    if ttft is not None and mean:
        tails.append(1 + (ttft.p99 - ttft.mean) / mean)
    return min(TAIL, max(tail for tail in tails if tail == tail))  # NaN: not known


def _in_flight(figures: Measurement) -> list[float]:
    """Requests in flight = requests/s x E2EL, in every way that the figures know it.

    Files without E2EL have TTFT + (OSL - 1) x TPOT. Where lengths differ that is rough (TPOT is a mean over
    requests); with ITL, a mean over gaps, it is exact as long as a gap is one token.
    """
    ttft, e2el, osl = figures.ttft_ms, figures.e2el_ms, figures.osl_mean
    if not figures.req_s:
        return []
    if e2el is not None and e2el.mean:
        return [figures.req_s * e2el.mean / 1000]
    if ttft is None or not osl:
        return []
    steps = [figures.tpot_ms.mean] if figures.tpot_ms is not None else []
    if figures.itl_ms is not None:
        steps.append(figures.itl_ms.mean / max(1.0, figures.acceptance_length or 1.0))
    if osl >= 1.5 and not steps:
        return []
    return [figures.req_s * (ttft.mean + (osl - 1) * step) / 1000 for step in steps or [0.0]]
