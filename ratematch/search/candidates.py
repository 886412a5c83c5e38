"""What can be measured for one workload: servers, their forecast rates, and what measuring them costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rate:
    """Rates of one instance at one load: requests/s, seconds to the first token, seconds a token (0 for ctx)."""

    req_s: float
    ttft_s: float
    tpot_s: float

    def times(self, factor: float) -> Rate:
        """The same ``factor`` times as fast."""
        return Rate(self.req_s * factor, self.ttft_s / factor, self.tpot_s / factor)


@dataclass(frozen=True)
class Candidate:
    """A server that may be measured.

    ``forecasts``: uncorrected rates by concurrency, ascending; these concurrencies are its ladder. ``shares``: by
    concurrency, the share of the load's requests that the search sends; 1 where absent. ``kind``: mapping, drafts and
    options, equal for the same server at another workload; empty: like no other.
    """

    id: str
    label: str
    stage: str
    family: str
    gpus: int
    mtp: int
    forecasts: Mapping[int, Rate]
    kind: str = ""
    shares: Mapping[int, float] = field(default_factory=dict)

    def position(self, load: int) -> float:
        """Of ``load`` on the ladder, from -1 (smallest) to 1."""
        ladder = list(self.forecasts)
        return 2 * ladder.index(load) / (len(ladder) - 1) - 1 if len(ladder) > 1 else 0.0


Known = Mapping[str, Mapping[int, Rate]]
"""Measured rates, by candidate and concurrency."""


@dataclass(frozen=True)
class Deviation:
    """How far a forecast was off at one load of one server: the log of measured over predicted speed.

    ``position``: of the load on the ladder, from -1 to 1.
    """

    workload: str
    family: str
    kind: str
    position: float
    log_ratio: float


@dataclass(frozen=True)
class Space:
    """What can be measured for one workload, within which limits, and what it costs.

    ``start_h``, ``load_h``: hours of a start, and of a load with all its requests. ``ttft_s``, ``tpot_s``: limits.
    ``elsewhere``: deviations measured on servers for other workloads. ``family_sds``: how well the speeds of families
    are known beforehand, where forecasts are calibrated by results of one's own. ``choose_at``: tok/s/user at which
    one deployment will be chosen. ``least_price``: the share of the front that a share of the grid's GPU-hours must
    be expected to bring (0.1: a thousandth of the front for a hundredth of the grid); what brings less is not
    measured, whatever is left of a budget.
    """

    candidates: tuple[Candidate, ...]
    osl: float
    max_gpus: int
    start_h: float
    load_h: float
    ttft_s: float | None = None
    tpot_s: float | None = None
    workload: str = ""
    elsewhere: tuple[Deviation, ...] = ()
    choose_at: tuple[float, ...] = ()
    least_price: float = 0.1
    family_sds: Mapping[str, float] = field(default_factory=dict)
    _by_id: dict[str, Candidate] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_id", {server.id: server for server in self.candidates})

    def find(self, candidate_id: str) -> Candidate:
        """The candidate of this id; ``KeyError`` where there is none."""
        return self._by_id[candidate_id]

    def hours(self, server: Candidate, loads: Collection[int], starts: int = 1) -> float:
        """GPU-hours of ``loads``, with the requests that the search sends, and of ``starts`` starts of the server."""
        sent = sum(server.shares.get(load, 1.0) for load in loads)
        return (starts * self.start_h + sent * self.load_h) * server.gpus

    @property
    def grid_hours(self) -> float:
        """GPU-hours of the whole ladder of every server, with all requests."""
        return sum((self.start_h + len(server.forecasts) * self.load_h) * server.gpus for server in self.candidates)
