"""How far predictions were from public measurements of real deployments, as data that they carry with them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ratematch.emulator.efficiency import LearntSet
from ratematch.engines.ownyaml import read_shipped_yaml

Kind = Literal["agg", "disagg"]
Figure = Literal["tok_s_gpu", "tpot_ms", "ttft_ms"]


@dataclass(frozen=True)
class Accuracy:
    """What ``rows`` public rows say. ``intervals``: by kind of deployment and figure, what measured over predicted
    lay between in a share ``covered`` of them. ``source``: where the comparison is. ``near_limit``: that of TTFT in
    the rows whose context servers compute for more than a share ``busy`` of the time."""

    rows: int
    covered: float
    source: str
    intervals: dict[Kind, dict[Figure, tuple[float, float]]]
    busy: float
    near_limit: tuple[float, float]


@dataclass(frozen=True)
class Basis:
    """What predictions stand on: learnt values of each kind of server, and how far off such predictions were.

    ``serving_s``: seconds around the steps that a request takes, with what halves of the data give.
    """

    sets: tuple[LearntSet, ...]
    serving_s: tuple[float, float, float]
    accuracy: Accuracy


@lru_cache(maxsize=1)
def public_accuracy() -> Accuracy:
    """``ratematch/data/accuracy.yaml``."""
    given = read_shipped_yaml("ratematch.data", "accuracy.yaml")
    kinds: tuple[Kind, ...] = ("agg", "disagg")
    figures: tuple[Figure, ...] = ("tok_s_gpu", "tpot_ms", "ttft_ms")
    intervals = {
        kind: {figure: (float(given[kind][figure][0]), float(given[kind][figure][1])) for figure in figures}
        for kind in kinds
    }
    full = given["near_limit"]
    near = (float(full["ttft_ms"][0]), float(full["ttft_ms"][1]))
    return Accuracy(
        int(given["rows"]), float(given["covered"]), str(given["source"]), intervals, float(full["busy"]), near
    )
