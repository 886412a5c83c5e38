"""One measured load with all that is known of it: the row that matching starts from."""

from __future__ import annotations

from dataclasses import dataclass

from ratematch.measure.batches import Noise
from ratematch.measure.breakdown import Breakdown
from ratematch.measure.measurement import Measurement
from ratematch.plan.experiment import Experiment
from ratematch.plan.load import Load


@dataclass(frozen=True)
class Measured:
    """One load of one experiment, with its figures. ``noise``: of its rates, from batches within the run.
    ``breakdown``: where its requests' time went, by the servers' own records. ``layout``: of the KV cache of its
    servers; those of different layouts cannot hand caches over. ``decoding``: how many requests decoded at once, as
    one that decodes finds it (of warmed gen servers, where prompts come in waves). ``computed_share``: share of each
    prompt that a gen server alone computed, and would not in service."""

    experiment: Experiment
    load: Load
    measurement: Measurement
    noise: Noise | None = None
    breakdown: Breakdown | None = None
    layout: str = ""
    decoding: float | None = None
    computed_share: float = 0.0
