"""How far real servers lie about predictions, and what of it they share, as data learnt from public deployments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import lru_cache

from ratematch.emulator.efficiency import LearntSet
from ratematch.engines.ownyaml import read_shipped_yaml


@dataclass(frozen=True)
class Deviations:
    """Standard deviations of independent parts of the logarithm of measured over predicted speed.

    ``fixed``, ``memory``, ``compute``, ``link``: of the logarithms of factors on fixed times and on the shares of
    peaks, common to all servers of one GPU type, model and weight format. ``family``: of an effect common to one kind
    of mapping there. ``server``: of one server, whatever its load. ``load``: of one load of it.
    ``aggregated_server`` and ``aggregated_load``: the same of servers whose steps mix prompts and generation.
    """

    fixed: float
    memory: float
    compute: float
    link: float
    family: float
    server: float
    load: float
    aggregated_server: float
    aggregated_load: float


SIZES = tuple(field.name for field in fields(Deviations))


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Deviations]:
    given = read_shipped_yaml("ratematch.data", "deviations.yaml")
    return {
        state: Deviations(*(float(given[state][name]["value"]) for name in SIZES)) for state in ("learnt", "unlearnt")
    }


def deviations_for(sets: Iterable[LearntSet]) -> Deviations:
    """Of servers whose step times have the values of ``sets``: ``ratematch/data/deviations.yaml``, which tells those
    with values learnt from real deployments from those with none. Models without the attention of the model behind
    those values are of the latter: how far off predictions of them are, its deployments do not say."""
    return _shipped()["learnt" if all("memory" in each.values for each in sets) else "unlearnt"]
