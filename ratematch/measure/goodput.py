"""Goodput: requests a second that kept every limit of a service-level objective."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ratematch.errors import UserError
from ratematch.measure import metrics
from ratematch.measure.records import RequestRecord

Metric = Literal["ttft", "ttst", "tpot", "itl", "e2el"]
METRICS: tuple[Metric, ...] = ("ttft", "ttst", "tpot", "itl", "e2el")
_TERM = re.compile(r"\s*([a-z0-9_]+)\s*(?:<=|<|:|=)\s*([0-9.]+)\s*(ms|s)?\s*")


@dataclass(frozen=True)
class Goodput:
    """Upper limits in ms, all of which a request must keep. ``itl``: the longest gap of the request, per token."""

    limits: tuple[tuple[Metric, float], ...]

    def __str__(self) -> str:
        return ",".join(f"{name}<={limit:g}" for name, limit in self.limits)


def parse_goodput(text: str) -> Goodput:
    """``ttft<=1000,tpot<=50`` to limits in ms; ``ttft:1000 tpot:50`` (benchmark_serving) and ``ttft<=1s`` too.

    Raises:
        UserError: a term that is none of these, an unknown metric, or no term at all.
    """
    limits: list[tuple[Metric, float]] = []
    for term in re.split(r"[,\s]+(?=[a-z])", text.strip().strip(",")):
        match = _TERM.fullmatch(term)
        if match is None:
            raise UserError(f"goodput {text!r}: {term!r} is not of the form ttft<=1000 (ms)")
        name = next((metric for metric in METRICS if metric == match[1].removesuffix("_ms")), None)
        if name is None:
            raise UserError(f"goodput {text!r}: unknown metric {match[1]!r}; valid: {', '.join(METRICS)}")
        try:
            limit = float(match[2])
        except ValueError:
            raise UserError(f"goodput {text!r}: {match[2]!r} is not a number") from None
        limits.append((name, limit * (1000.0 if match[3] == "s" else 1.0)))
    return Goodput(tuple(limits))


def good(records: Sequence[RequestRecord], goodput: Goodput, since: metrics.Since = "sent") -> NDArray[np.bool_]:
    """Which of ``records`` kept every limit, in their order.

    Only full answers can. A metric that is undefined for a full answer (TPOT of one token) breaks no limit, as in
    ``benchmark_serving``, where TPOT counts as 0 then.
    """
    kept = metrics.are_complete(records)
    for name, limit in goodput.limits:
        match name:
            case "ttft":
                values = metrics.ttft_ms(records, since)
            case "ttst":
                values = metrics.ttst_ms(records)
            case "tpot":
                values = metrics.tpot_ms(records)
            case "e2el":
                values = metrics.e2el_ms(records, since)
            case "itl":
                values = np.array([_longest(metrics.itl_ms([record])) for record in records], dtype=np.float64)
        kept &= ~(values > limit)
    return kept


def _longest(gaps: NDArray[np.float64]) -> float:
    return float(gaps.max()) if gaps.size else float("nan")
