"""Predicted over measured figures of rows: by group, ranked inside workloads, and how widely they spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from statistics import median

from ratematch.errors import RatematchError

from .simulated import Simulated, simulate
from .table import Row

FIGURES = ("tok_s_gpu", "tpot_ms", "ttft_ms")
COVERED = 0.9
FULL = 0.9
"""Context servers that compute for so much of a run are near their limit."""


@dataclass(frozen=True)
class Compared:
    """A row and what the simulation gives for it; ``error`` in place of it where it cannot be simulated."""

    row: Row
    simulated: Simulated | None
    error: str = ""

    def ratio(self, figure: str) -> float:
        """Predicted over measured; one of ``FIGURES``."""
        return float(getattr(self.simulated, figure) / getattr(self.row, figure))

    @property
    def counts(self) -> bool:
        """Whether the row is in the sums: simulated, and nothing but the engine is known to be in it."""
        return self.simulated is not None and not self.row.suspect


def compare(rows: Iterable[Row], steps: str, requests_per_slot: float, jobs: int = 1) -> list[Compared]:
    """Simulate every row, the longest first where several run at once; in the order of ``rows``."""
    ordered = sorted(rows, key=lambda row: -row.concurrency * row.osl)
    run = partial(_compared, steps=steps, requests_per_slot=requests_per_slot)
    if jobs > 1:
        with ProcessPoolExecutor(jobs) as pool:
            done = list(pool.map(run, ordered))
    else:
        done = [run(row) for row in ordered]
    return sorted(done, key=lambda each: each.row.line)


def _compared(row: Row, steps: str, requests_per_slot: float) -> Compared:
    try:
        return Compared(row, simulate(row, steps, requests_per_slot))
    except (RatematchError, ValueError) as error:
        return Compared(row, None, str(error).splitlines()[0])


@dataclass(frozen=True)
class Sum:
    """Relative errors of a group in one figure, 0.05 is 5 %."""

    median: float
    p90: float
    worst: float


def sum_up(compared: Sequence[Compared], figure: str) -> Sum:
    """Errors of ``compared``, which are not empty."""
    errors = sorted(abs(each.ratio(figure) - 1) for each in compared)
    return Sum(median(errors), errors[math.ceil(0.9 * len(errors)) - 1], errors[-1])


def groups_of(compared: Sequence[Compared]) -> dict[str, list[Compared]]:
    """Those that count, by group, all of a kind, with and without drafts, and all."""
    groups: dict[str, list[Compared]] = {}
    kinds = {"agg": "all aggregated", "disagg": "all disaggregated"}
    for each in compared:
        if each.counts:
            drafts = [f"all with MTP {each.row.mtp}", "all with MTP"] if each.row.mtp else ["all without MTP"]
            for name in (each.row.group, kinds[each.row.kind], *drafts, "all"):
                groups.setdefault(name, []).append(each)
    return dict(sorted(groups.items(), key=lambda item: (item[0].startswith("all"), item[0] == "all", item[0])))


def kendall_tau(pairs: Sequence[tuple[float, float]]) -> tuple[int, int]:
    """Pairs of (measured, predicted) in the same order less those in the other, and all pairs."""
    agree = 0
    for (first, ours), (second, other) in combinations(pairs, 2):
        agree += int(math.copysign(1, (first - second) * (ours - other))) if first != second else 0
    return agree, math.comb(len(pairs), 2)


def taus(compared: Sequence[Compared]) -> dict[str, tuple[int, int]]:
    """:func:`kendall_tau` of tok/s/GPU inside each workload with two rows or more."""
    workloads: dict[str, list[tuple[float, float]]] = {}
    for each in compared:
        if each.counts and each.simulated:
            workloads.setdefault(each.row.workload, []).append((each.row.tok_s_gpu, each.simulated.tok_s_gpu))
    return {name: kendall_tau(pairs) for name, pairs in sorted(workloads.items()) if len(pairs) > 1}


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Measured over predicted: what ``COVERED`` of further rows lie between, from the order of ``ratios``.

    Its ends are the ones that leave (1 - ``COVERED``) / 2 of n + 1 places outside (the k-th of n exceeds a further
    value with probability k / (n + 1)), the outermost where n is too small.
    """
    logs = sorted(-math.log(ratio) for ratio in ratios)
    outside = max(1, math.floor((1 - COVERED) / 2 * (len(logs) + 1)))
    return math.exp(logs[outside - 1]), math.exp(logs[-outside])


def spread(compared: Sequence[Compared]) -> dict[str, dict[str, tuple[float, float]]]:
    """By kind of deployment and figure, :func:`interval` of the rows that count."""
    kinds: dict[str, list[Compared]] = {}
    for each in compared:
        if each.counts:
            kinds.setdefault(each.row.kind, []).append(each)
    return {
        kind: {figure: interval([each.ratio(figure) for each in members]) for figure in FIGURES}
        for kind, members in kinds.items()
    }


def near_limit(compared: Sequence[Compared]) -> tuple[list[Compared], tuple[float, float]]:
    """Rows that count whose context servers are near their limit, and :func:`interval` of their TTFT."""
    full = [each for each in compared if each.counts and each.simulated and each.simulated.ctx_busy > FULL]
    return full, interval([each.ratio("ttft_ms") for each in full]) if full else (1.0, 1.0)


def coverage(
    compared: Sequence[Compared], halves: Callable[[list[Row]], list[list[Row]]]
) -> dict[str, tuple[int, int]]:
    """By figure: rows of either half of the deployments inside the other half's interval, and rows."""
    lines = [{row.line for row in half} for half in halves([each.row for each in compared if each.counts])]
    parts = [[each for each in compared if each.counts and each.row.line in half] for half in lines]
    inside = dict.fromkeys(FIGURES, (0, 0))
    for part, other in (parts, parts[::-1]):
        known = spread(other)
        for each in part:
            for figure, (low, high) in known.get(each.row.kind, {}).items():
                held, number = inside[figure]
                inside[figure] = held + (low <= 1 / each.ratio(figure) <= high), number + 1
    return inside
