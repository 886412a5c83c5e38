"""A deployment that is up, a load that was sent to it, and what its servers reported of that load."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ratematch.engines import Engine
from ratematch.loadgen.client import Target
from ratematch.loadgen.gpu import GpuSampler
from ratematch.loadgen.loadresult import LoadResult
from ratematch.loadgen.servermetrics import MetricSamples
from ratematch.measure.loadrun import EmulatorTime, LoadRun, WarmedPrompts, Warming
from ratematch.measure.requesttimes import TimesSources
from ratematch.plan.cores import CoreShare
from ratematch.plan.experiment import Experiment
from ratematch.run.iterations import Iterations
from ratematch.run.launch import Servers
from ratematch.run.neighbours import Presence
from ratematch.run.requesttimes import Marks as TimesMarks
from ratematch.run.senders import NodeSenders
from ratematch.run.serverlogs import Marks
from ratematch.run.telemetry import Telemetry
from ratematch.run.watch import Watched
from ratematch.store.folder import ExperimentFolder


@dataclass(frozen=True)
class Live:
    """A deployment that is up. ``connections``: what came of opening its connections, if that was done. ``senders``:
    on the nodes of its allocation, if it is in one. ``presence``: what others do on this machine, where GPUs are
    given out by lock. ``cores``: how those of a node are divided while a load runs."""

    folder: ExperimentFolder
    launch: Path
    servers: Servers
    engine: Engine
    experiment: Experiment
    telemetry: Telemetry
    stop: threading.Event
    stall_s: float | None
    connections: Warming | None = None
    senders: NodeSenders | None = None
    presence: Presence | None = None
    cores: CoreShare | None = None

    @property
    def target(self) -> Target:
        body, ask = self.engine.extra_body(self.experiment), self.times.ask
        given = self.engine.request_api(self.experiment)
        model = given.model or self.experiment.model_path
        return Target(self.servers.plan.endpoint, model, given.api, extra_body=body, ask=ask)

    @property
    def times(self) -> TimesSources:
        return self.engine.request_times(self.experiment)


@dataclass(frozen=True)
class Sent:
    """A load that was sent, and what was read of servers and GPUs meanwhile.

    ``marks``: where the servers' logs stood before it, and ``times`` their files with times of requests; ``before``:
    the emulated servers' own time then. ``warmed``: the prompts that were put into prefix caches.
    """

    result: LoadResult
    watched: Watched
    marks: Marks
    times: TimesMarks
    before: Mapping[str, EmulatorTime]
    gpus: GpuSampler
    warmed: WarmedPrompts | None


@dataclass(frozen=True)
class Reported:
    """What servers reported of a load that is over: ``rows``: their iterations, ``samples``: Prometheus, ``perf``:
    timings request by request."""

    run: LoadRun
    rows: Iterations
    samples: MetricSamples
    perf: Sequence[bytes]
