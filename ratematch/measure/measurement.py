"""The figures of one load, with their verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Stats:
    """Distribution of a metric over requests; percentiles are numpy's linear ones."""

    n: int
    mean: float
    std: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    def at(self, percentile: float | str) -> float:
        """The mean (``"mean"``) or a stored percentile: 50, 90, 95, 99.

        Raises:
            KeyError: a percentile that is not stored.
        """
        name = "mean" if percentile == "mean" else f"p{percentile:g}"
        stored: dict[str, float] = asdict(self)
        return stored[name]


@dataclass(frozen=True)
class Window:
    """The part of a load that counts, on the records' clock. ``rule`` says how it was chosen, in words."""

    start_ns: int
    end_ns: int
    num_requests: int
    num_outside: int
    steady: bool
    rule: str

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True)
class Measurement:
    """Figures of one load. ``None`` where undefined, never 0.

    Unsuffixed rates are those of the steady window; ``*_run`` are over first send to last token. ``in_flight``:
    mean requests in flight in the window. ``little``: in_flight / (req_s * (TTFT + (OSL-1) * TPOT)), 1 when
    consistent. ``valid``: may this point stand on a front; ``reasons`` say why not; ``warnings`` do not forbid it.
    """

    num_requests: int
    num_ok: int
    num_failed: int
    window: Window | None
    ttft_ms: Stats | None
    tpot_ms: Stats | None
    itl_ms: Stats | None
    e2el_ms: Stats | None
    send_lag_ms: Stats | None
    tok_s_user: float | None
    tok_s: float | None
    req_s: float | None
    tok_s_run: float | None
    req_s_run: float | None
    isl_mean: float | None
    osl_mean: float | None
    in_flight: float | None
    little: float | None
    valid: bool
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def to_json(measurement: Measurement) -> dict[str, Any]:
    return asdict(measurement)


def from_json(content: dict[str, Any]) -> Measurement:
    """The inverse of :func:`to_json`.

    Raises:
        TypeError: the content is not that of a measurement.
    """
    fields = dict(content)
    for name in ("ttft_ms", "tpot_ms", "itl_ms", "e2el_ms", "send_lag_ms"):
        fields[name] = Stats(**fields[name]) if fields[name] else None
    fields["window"] = Window(**fields["window"]) if fields["window"] else None
    fields["reasons"], fields["warnings"] = tuple(fields["reasons"]), tuple(fields["warnings"])
    return Measurement(**fields)
