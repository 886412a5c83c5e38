"""What can be measured for one workload, and the rates that are forecast or known of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rate:
    """At one load, of one instance: requests/s, s to the first token, s a token (0: ctx)."""

    req_s: float
    ttft_s: float
    tpot_s: float

    def times(self, factor: float) -> Rate:
        return Rate(self.req_s * factor, self.ttft_s / factor, self.tpot_s / factor)


@dataclass(frozen=True)
class Candidate:
    """A server that may be measured. ``forecasts``: by concurrency, ascending, uncorrected.

    ``shares``: of the requests of each whole load, those that the search sends; 1 where nothing is said.
    ``kind``: what it has in common with servers of other workloads (mapping, drafts, options); empty: nothing.
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

    def place(self, load: int) -> float:
        """Where ``load`` stands on the ladder, from -1 (smallest) to 1."""
        ladder = list(self.forecasts)
        return 2 * ladder.index(load) / (len(ladder) - 1) - 1 if len(ladder) > 1 else 0.0


Known = Mapping[str, Mapping[int, Rate]]
"""Measured rates, by candidate and concurrency."""


@dataclass(frozen=True)
class Seen:
    """The log of measured over predicted speed at one load of one server, ``at`` its place on the ladder."""

    workload: str
    family: str
    kind: str
    at: float
    log: float


@dataclass(frozen=True)
class Space:
    """What can be measured for one workload, within which limits, and what a start and a whole load cost, in hours.

    ``elsewhere``: what was seen of servers for other workloads. ``choose_at``: tok/s/user at
    which one deployment will be chosen. ``least_price``: the share of the front that a share
    of the GPU-hours of a whole grid must be expected to bring (0.1: a hundredth of the grid for a thousandth of the
    front); what brings less is not measured, whatever is left of a budget.
    """

    candidates: tuple[Candidate, ...]
    osl: float
    max_gpus: int
    start_h: float
    load_h: float
    ttft_s: float | None = None
    tpot_s: float | None = None
    workload: str = ""
    elsewhere: tuple[Seen, ...] = ()
    choose_at: tuple[float, ...] = ()
    least_price: float = 0.1
    _by_id: dict[str, Candidate] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_id", {each.id: each for each in self.candidates})

    def find(self, candidate_id: str) -> Candidate:
        return self._by_id[candidate_id]

    def hours(self, each: Candidate, loads: Collection[int], starts: int = 1) -> float:
        """GPU-hours of ``loads``, as the search sends them, on a server that is started ``starts`` times for it."""
        sent = sum(each.shares.get(load, 1.0) for load in loads)
        return (starts * self.start_h + sent * self.load_h) * each.gpus

    @property
    def grid_hours(self) -> float:
        """GPU-hours of the whole ladder of every server, with all requests."""
        return sum((self.start_h + len(each.forecasts) * self.load_h) * each.gpus for each in self.candidates)
