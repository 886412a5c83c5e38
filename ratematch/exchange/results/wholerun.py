"""Figures of a whole run, as a file holds them, to a measurement; and whether they can belong together.

A file of figures has no requests that could be counted again. What can be checked is whether its figures contradict
each other: percentiles in order, tokens = rate x duration, no more answers than requests, no 0 where a client had
nothing to measure. What contradicts itself is not valid; what is only roughly equal is a warning. Whether they agree
with the load and the servers is checked where these are known (:mod:`ratematch.exchange.results.loadchecks`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from ratematch.exchange.results.foreign import Tool
from ratematch.measure.measurement import Measurement
from ratematch.measure.stats import Stats
from ratematch.measure.validity import DEFAULT_LIMITS

ORDER = ("min", "p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99", "p999", "max")
APART = 0.05
"""Figures that say the same thing twice may differ by this share: clients take durations at different instants."""
ROUGHLY = 0.10
"""E2EL and TTFT + (OSL - 1) x TPOT, all means: where lengths vary, the mean of the product is not the product of the
means, so more than this apart is worth a word and no fault."""
UNLIKE = 2.0
"""Beyond this factor no mixture of lengths explains it: long answers would have to be twice as slow a token as short
ones, or twice as fast."""
STEP = 1e-6
"""Percentiles are compared with this relative tolerance, for rounding."""
NAMES = {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "itl_ms": "ITL", "e2el_ms": "E2EL"}


@dataclass(frozen=True)
class RunFigures:
    """Figures of a whole run as a file holds them, ramp and drain included; ``None`` where it does not.

    ``stats``: distributions by our names (``ttft_ms``, ``tpot_ms``, ``itl_ms``, ``e2el_ms``). ``req_s``, ``tok_s``:
    requests/s and output tokens/s. ``isl``, ``osl``: mean lengths in tokens. ``seconds``: duration. ``tokens``:
    output tokens of all answers. ``contradictions``, ``notes``: found by the reader of the format.
    """

    num_requests: int | None
    num_failed: int | None
    stats: Mapping[str, Stats | None]
    req_s: float | None
    tok_s: float | None
    isl: float | None
    osl: float | None
    acceptance_length: float | None = None
    seconds: float | None = None
    tokens: float | None = None
    contradictions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def in_flight(self) -> float | None:
        """Requests in flight by Little's law, from rate and latency; no such file holds them."""
        ttft, tpot = self.stats.get("ttft_ms"), self.stats.get("tpot_ms")
        if not self.req_s or ttft is None or not self.osl:
            return None
        decode_ms = (self.osl - 1) * tpot.mean if tpot is not None else 0.0
        return self.req_s * (ttft.mean + decode_ms) / 1000


def measure_run(figures: RunFigures, tool: Tool) -> Measurement:
    """The measurement that ``figures`` of ``tool`` make, with a warning that ramp and drain are in its rates.

    A number of requests that the file does not hold is 0 in the measurement, with a warning. ``little`` is not known
    before the load is.
    """
    total, failed = figures.num_requests or 0, figures.num_failed or 0
    reasons = [text for severe, text in _contradictions(figures) if severe]
    warnings = [f"imported from {tool}: rates are of the whole run, ramp and drain included"]
    if figures.num_requests is None:
        warnings.append("the file does not tell how many requests there were")
    if figures.num_failed is None:
        warnings.append("the file does not tell how many requests failed")
    warnings += [text for severe, text in _contradictions(figures) if not severe]
    stats = {name: _without_placeholders(stats, name, figures.osl) for name, stats in figures.stats.items()}
    tpot = stats.get("tpot_ms")
    return Measurement(
        num_requests=total,
        num_ok=max(0, total - failed),
        num_failed=max(0, failed),
        window=None,
        ttft_ms=stats.get("ttft_ms"),
        tpot_ms=tpot,
        itl_ms=stats.get("itl_ms"),
        e2el_ms=stats.get("e2el_ms"),
        send_lag_ms=None,
        tok_s_user=1000 / tpot.mean if tpot is not None and tpot.mean else None,
        tok_s=figures.tok_s,
        req_s=figures.req_s,
        tok_s_run=figures.tok_s,
        req_s_run=figures.req_s,
        isl_mean=figures.isl,
        osl_mean=figures.osl,
        in_flight=figures.in_flight,
        little=None,
        valid=not reasons,
        reasons=tuple(reasons),
        warnings=tuple(warnings),
        acceptance_length=figures.acceptance_length,
    )


def _without_placeholders(stats: Stats | None, name: str, osl: float | None) -> Stats | None:
    """A distribution, or ``None`` where 0 stands for "nothing to measure": TPOT and ITL of one-token answers, and
    gaps half of which are 0 (several tokens came in one read)."""
    if stats is None or name not in ("tpot_ms", "itl_ms") or (stats.mean and stats.p50 != 0):
        return stats
    return None if name == "itl_ms" or _one_token(osl) else stats


def _one_token(osl: float | None) -> bool:
    return osl is not None and osl < 1.5


def _contradictions(figures: RunFigures) -> Iterator[tuple[bool, str]]:
    """(severe, text) of everything that cannot be, or hardly can be, in the figures of one run."""
    yield from ((True, text) for text in figures.contradictions)
    yield from ((False, text) for text in figures.notes)
    total, failed = figures.num_requests, figures.num_failed or 0
    if total is not None and failed < 0:
        yield True, f"{total - failed} answers to {total} requests: more answers than requests"
    elif total is not None and total <= failed:
        yield True, "no request was answered"
    elif total and failed > DEFAULT_LIMITS.failed * total:
        yield True, f"{failed} of {total} requests failed"
    for name, stats in figures.stats.items():
        if stats is not None:
            yield from _judge_zeros(name, stats, figures.osl)
            if (text := _out_of_order(stats)) is not None:
                yield True, f"{NAMES[name]}: {text}: percentiles are out of order"
    yield from _judge_totals(figures)
    yield from _judge_latencies(figures)


def _judge_zeros(name: str, stats: Stats, osl: float | None) -> Iterator[tuple[bool, str]]:
    """Zeros that benchmark clients write for a request whose tokens they did not see."""
    if name in ("tpot_ms", "itl_ms") and _one_token(osl):
        return  # nothing is decoded after the first token: 0 says just that
    label = NAMES[name]
    if not stats.mean:
        yield True, f"{label} is 0: the placeholder of a client that saw no token arrive"
    elif stats.p50 == 0 and name == "itl_ms":
        yield False, f"half of all ITL are 0 (mean {stats.mean:g} ms), several tokens a read: ITL is left out"
    elif stats.p50 == 0:
        yield True, f"the median of {label} is 0 and its mean {stats.mean:g} ms: half of it are placeholders"
    elif stats.min == 0 and name == "ttft_ms":
        yield False, "a TTFT of 0 is among the requests: its client saw no first token"


def _out_of_order(stats: Stats) -> str | None:
    """The first two known percentiles that fall, or a mean that is outside the extremes."""
    known = [(name, value) for name in ORDER if (value := getattr(stats, name)) is not None and value == value]
    for (below, low), (above, high) in pairwise(known):
        if low > high * (1 + STEP):
            return f"{below} is {low:g} and {above} is {high:g} ms"
    for name, ends in (("min", stats.min), ("max", stats.max)):
        beyond = ends - stats.mean if name == "min" else stats.mean - ends
        if beyond > STEP * stats.mean:  # false for NaN: not known
            return f"{name} is {ends:g} and the mean {stats.mean:g} ms"
    return None


def _judge_totals(figures: RunFigures) -> Iterator[tuple[bool, str]]:
    """Rates x duration against what was counted."""
    seconds, answered = figures.seconds, (figures.num_requests or 0) - (figures.num_failed or 0)
    if answered > 0 and (figures.tokens == 0 or figures.tok_s == 0):
        yield True, f"0 output tokens in {answered} answers"
        return
    if answered > 0 and seconds == 0:
        yield True, f"{answered} answers in 0 s"
    for what, rate, counted in (
        ("requests/s", figures.req_s, answered if figures.num_requests is not None else None),
        ("output tokens/s", figures.tok_s, figures.tokens),
    ):
        if rate is not None and seconds and counted and abs(rate * seconds / counted - 1) > APART:
            yield True, f"{rate:g} {what} x {seconds:g} s are {rate * seconds:.6g}, and {counted:g} were counted"
    if not seconds and figures.req_s and figures.tok_s and figures.osl:
        made = figures.tok_s / figures.req_s
        if abs(made / figures.osl - 1) > APART:
            yield True, f"output tokens/s over requests/s are {made:.5g} tokens a request, and OSL is {figures.osl:g}"


def _judge_latencies(figures: RunFigures) -> Iterator[tuple[bool, str]]:
    """TTFT and TPOT against E2EL, all means."""
    ttft, tpot, e2el = (figures.stats.get(name) for name in ("ttft_ms", "tpot_ms", "e2el_ms"))
    if ttft is None or e2el is None or not e2el.mean:
        return
    if ttft.mean > e2el.mean * (1 + APART):
        yield True, f"TTFT is {ttft.mean:g} ms and E2EL {e2el.mean:g} ms: the first token came after the last"
        return
    if tpot is None or not figures.osl or not ttft.mean:
        return
    made = ttft.mean + (figures.osl - 1) * tpot.mean
    text = f"TTFT + (OSL - 1) x TPOT is {made:.5g} ms, and E2EL {e2el.mean:.5g} ms"
    if not 1 / UNLIKE <= made / e2el.mean <= UNLIKE:
        yield True, f"{text}: they are not of one run"
    elif abs(made / e2el.mean - 1) > ROUGHLY:
        yield False, f"{text}: means of unlike lengths, or tokens that came in lumps"
