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
    servers; those of different layouts cannot hand caches over."""

    experiment: Experiment
    load: Load
    measurement: Measurement
    noise: Noise | None = None
    breakdown: Breakdown | None = None
    layout: str = ""
