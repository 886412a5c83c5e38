"""What stands for HTTP and for the work of hosts in virtual time."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from ratematch.emulator.environment import parse_duration
from ratematch.engines.ownyaml import read_shipped_yaml

SERVING_VARIABLE = "RATEMATCH_SIMULATED_SERVING"


class ServingTime(NamedTuple):
    """Seconds that a request takes around the engine's steps; ``low`` and ``high``: what halves of the data give."""

    value: float
    low: float
    high: float
    source: str


@lru_cache(maxsize=1)
def learnt_serving_time() -> ServingTime:
    """What measured deployments say: ``ratematch/data/serving.yaml``."""
    given = read_shipped_yaml("ratematch.data", "serving.yaml")
    low, high = map(float, given["serving_s"]["between"])
    return ServingTime(float(given["serving_s"]["value"]), low, high, " ".join(given["source"].split()))


def _serving_s() -> float:
    """Learnt, unless the environment says otherwise: ``0s`` for servers that only stand in for real ones."""
    given = os.environ.get(SERVING_VARIABLE)
    return learnt_serving_time().value if given is None else parse_duration(given)


@dataclass(frozen=True)
class Delays:
    """What replaces HTTP and hosts. ``hop_s``: one way between two processes. ``request_s`` and ``token_s``: what a
    request, and each token of its prompt, takes a server or the orchestrator to read, one request after another.
    ``serving_s``: what else a request takes before its first token, each for itself: tokenizing, the way through the
    processes of a server, launching a step without CUDA graphs.

    That requests are read one after another matters more than how long it takes: of several sent together the first
    starts a step alone, and the others wait for its end. The defaults of the first three are near what the emulator
    takes on an unloaded machine; ``serving_s`` is learnt from real deployments.

    Raises:
        ValueError: ``RATEMATCH_SIMULATED_SERVING`` is no duration.
    """

    hop_s: float = 0.3e-3
    request_s: float = 0.3e-3
    token_s: float = 0.1e-6
    serving_s: float = field(default_factory=_serving_s)
